# SPDX-License-Identifier: Apache-2.0
"""What the shared lines say in words, and in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from kickbench.lab.explain.shared import Shared, SharedLine, threads
from kickbench.report.words.sharing import Table, matrix

MOST = 8
"""How many lines of a method a table names."""
_FUNCTIONS = 3
"""How many functions of a line it names."""


def tables(found: Sequence[Shared]) -> Iterator[Table]:
    """The lines of an exit and where they lie, then those of a kick."""
    exits = [one for one in found if one.job.case.state is None]
    kicks = [one for one in found if one.job.case.state is not None]
    if exits:
        near = [one for one in exits if one.job == exits[0].job]
        yield Table(
            "Cache lines that two vCPUs share in each exit",
            ("method", "line", "writes", "reads", "functions"),
            [row for one in near for row in _rows(one.method, one.lines)],
        )
        yield from _places(exits)
    for state, group in groupby(kicks, key=lambda one: one.job.case.state):
        yield from _of_kicks(str(state), list(group))


def matrices(found: Sequence[Shared]) -> Iterator[Table]:
    """Lines against threads, for each method that has any: see :func:`sharing.matrix`."""
    for one in _most_threads(found):
        if one.lines:
            lines = [(line.what, line.threads) for line in one.lines]
            yield matrix(one.method, one.job.case.state, lines)


def _most_threads(found: Sequence[Shared]) -> Iterator[Shared]:
    """Of each method and kind, the first job with the most threads."""
    chosen: dict[tuple[str | None, str], Shared] = {}
    for one in found:
        key = (one.job.case.state, one.method)
        if key not in chosen or len(threads(one.job)) > len(threads(chosen[key].job)):
            chosen[key] = one
    yield from chosen.values()


def text(found: Sequence[Shared]) -> Iterator[str]:
    """All tables as lines of text."""
    for table in tables(found):
        yield ""
        yield from table.text()


def changes(after: Shared, before: Shared) -> Iterator[str]:
    """The lines that only one of two kernels has.

    Several lines can have one name, for example two pages. Of these the last ones are named.
    """
    for title, one, other in (("new", after, before), ("gone", before, after)):
        known = Counter(line.what for line in other.lines)
        for line in one.lines:
            if known[line.what] > 0:
                known[line.what] -= 1
                continue
            functions = ", ".join(line.functions[:_FUNCTIONS])
            yield (
                f"{title}: {line.what}, with {line.writes:g} writes and {line.reads:g} reads of an "
                f"exit, by {functions}"
            )


def _rows(method: str, lines: Sequence[SharedLine]) -> Iterator[tuple[str, ...]]:
    name = method
    if not lines:
        yield name, "none", "", "", ""
    for line in lines[:MOST]:
        functions = ", ".join(line.functions[:_FUNCTIONS])
        yield name, line.what, f"{line.writes:g}", f"{line.reads:g}", functions
        name = ""
    if len(lines) > MOST:
        yield "", f"({len(lines) - MOST} more)", "", "", ""


def _places(exits: Sequence[Shared]) -> Iterator[Table]:
    """On which node each line lies, by the creator's node and the vCPUs'."""
    placements = list(dict.fromkeys((one.creator_node, one.vcpu_node) for one in exits))
    found: dict[tuple[str, str], dict[tuple[int, int], set[str]]] = {}
    for one in exits:
        for line in one.lines:
            node = "unknown" if line.node is None else f"node {line.node}"
            row = found.setdefault((one.method, line.what), {})
            # Several lines can have one name.
            row.setdefault((one.creator_node, one.vcpu_node), set()).add(node)
    if found:
        yield Table(
            "The node that these lines are on, by the node of the process's creator",
            ("method", "line", *(f"creator {a}, vCPUs {b}" for a, b in placements)),
            [
                (*key, *(", ".join(sorted(row.get(at, {"not shared"}))) for at in placements))
                for key, row in sorted(found.items())
            ],
        )


def _of_kicks(state: str, kicks: Sequence[Shared]) -> Iterator[Table]:
    by_method = sorted(kicks, key=lambda one: one.method)
    yield Table(
        f"Cache lines that threads share in a kick of a {state} vCPU",
        ("method", "kickers", "lines", "writes", "reads", "lines between kickers"),
        [
            (
                one.method,
                str(len(one.job.kickers)),
                str(len(one.lines)),
                f"{sum(line.writes for line in one.lines):.0f}",
                f"{sum(line.reads for line in one.lines):.0f}",
                str(len(one.between_kickers())),
            )
            for one in by_method
        ],
    )
    most = max(len(one.job.kickers) for one in kicks)
    between = {
        one.method: one.between_kickers() for one in by_method if len(one.job.kickers) == most
    }
    common = set.intersection(*({line.what for line in lines} for lines in between.values()))
    others = f", besides those of all methods: {', '.join(sorted(common))}" if common else ""
    yield Table(
        f"Cache lines that {most} kickers share with each other{others}",
        ("method", "line", "writes", "reads", "functions"),
        [
            row
            for method, lines in between.items()
            for row in _rows(method, [line for line in lines if line.what not in common])
        ],
    )
