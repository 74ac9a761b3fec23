# SPDX-License-Identifier: Apache-2.0
"""What counted instructions say in words: the difference to a baseline, function by function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kickbench.results.explanation import Event, Explanation

MOST = 25
"""How many functions a table names."""


@dataclass(frozen=True)
class Row:
    """A line of a table: what is counted, with the baseline and with the method."""

    name: str
    before: int
    after: int

    @property
    def change(self) -> str:
        """The difference, in words."""
        return f"{self.after - self.before:+,}" if self.after != self.before else "0"


@dataclass(frozen=True)
class Totals:
    """A table of instructions: a row for each event, a column for each method.

    A count is that of most events. The share of the events that have it is in brackets.
    """

    methods: list[str]
    rows: list[tuple[str, list[str]]]


def events(found: Explanation) -> Iterator[tuple[str, Mapping[str, Event]]]:
    """All events but exits: what each is called, and its counts by method or iteration."""
    for state, counts in found.kicks.items():
        yield f"a kick, {state}", counts
    for program, counts in found.pauses.items():
        yield f"a pause, {program}", counts
    if found.round_trips:
        yield "a nested round trip", found.round_trips


def totals(found: Explanation) -> list[Totals]:
    """What kicks and pauses take by method, and round trips by iteration; [] if nothing of it."""
    tables: dict[bool, list[tuple[str, Mapping[str, Event]]]] = {}
    for name, counts in events(found):
        tables.setdefault(counts is found.round_trips, []).append((name, counts))
    return [_totals(rows) for rows in tables.values() if any(counts for _, counts in rows)]


def _totals(events: Sequence[tuple[str, Mapping[str, Event]]]) -> Totals:
    methods = list(dict.fromkeys(method for _, counts in events for method in counts))
    rows = [(name, [_cell(counts.get(method)) for method in methods]) for name, counts in events]
    return Totals(methods, rows)


def _cell(event: Event | None) -> str:
    if event is None:
        return "-"
    return f"{event.instructions:,}" + ("" if event.share is None else f" ({event.share:.0%})")


def answer(found: Explanation) -> Iterator[str]:
    """How many instructions an exit takes with each method."""
    baseline = found.methods[found.baseline]
    yield f"With {found.baseline}, an exit takes {baseline.instructions:,} instructions."
    for name, one in found.methods.items():
        if name != found.baseline:
            difference = more(one.instructions - baseline.instructions)
            yield f"With {name} it takes {one.instructions:,}: {difference}."


def more(difference: int) -> str:
    """E.g. "138 more"."""
    if not difference:
        return "as many"
    return f"{abs(difference):,} {'more' if difference > 0 else 'less'}"


def difference_rows(own: Mapping[str, int], other: Mapping[str, int]) -> list[Row]:
    """The functions that differ, most first, as many as MOST, and lines for the others and for all.

    ``own`` and ``other`` are the instructions of each function: the method's and the baseline's.
    """
    names = {**own, **other}
    counts = {name: (other.get(name, 0), own.get(name, 0)) for name in names}
    differ = sorted(
        (name for name, (before, after) in counts.items() if before != after),
        key=lambda name: (-abs(counts[name][1] - counts[name][0]), name),
    )
    alike = [name for name, (before, after) in counts.items() if before == after]
    rows = [Row(name, *counts[name]) for name in differ[:MOST]]
    for label, others in (("that differ less", differ[MOST:]), ("that do not differ", alike)):
        if others:
            before, after = (sum(counts[name][i] for name in others) for i in (0, 1))
            rows.append(Row(f"({len(others)} functions {label})", before, after))
    rows.append(Row("all", sum(other.values()), sum(own.values())))
    return rows
