# SPDX-License-Identifier: Apache-2.0
"""``kickbench show``: prints a run on the terminal, the answer first.

The sentences come from :mod:`kickbench.report.words`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench.cli.terminal import BAD, DIM, GOOD, Line, print_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kickbench.report.words.names import Summary
    from kickbench.report.words.tables import Column, Table
    from kickbench.summary.data import RunData


MOST_LISTED = 10
"""Rows of a case's listing; the report has all."""


def show(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, or one with runs below it. Of several runs, the newest is "
            "shown.",
        ),
    ] = Path("results"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the run's summary.json instead.")
    ] = False,
) -> None:
    """Show what a run found, the answer first.

    After the answer come all cases, and then what disturbed the run.
    """
    from kickbench.results.discover import find_run
    from kickbench.results.schema import dump_json
    from kickbench.summary.data import RunData

    data = RunData.load(find_run(run))
    if as_json:
        typer.echo(dump_json(data.summary, ensure_ascii=True), nl=False)
    else:
        print_lines(_lines(data))


def _lines(data: RunData) -> Iterator[Line]:
    from kickbench.report.words.verdict import STATUS_WORDS, left_out, notes, verdict

    summary = data.summary
    said = verdict(summary, data.oversubscribed)
    if said.alarms:
        yield said.lines[0], BAD, ""
    yield said.answer, "bold", ""
    yield from ((text, "", "") for text in said.more)
    yield from _cases(data, said.lines)
    found = notes(summary, data.without_tables)
    if found:
        yield "", "", ""
        yield "What disturbed or limits it:", "bold", ""
    for note in found:
        yield f"- {note.text}" + (f": {note.advice}" if note.advice else ""), "", "  "
    for status in STATUS_WORDS.values():
        groups = [group for group in left_out(summary) if group.status == status]
        if groups:
            yield "", "", ""
            yield f"{status[0].upper()}{status[1:]}:", "bold", ""
        for group in groups:
            reason = f"{group.reason}: " if group.reason else ""
            yield f"- {reason}{', '.join(group.cases)}", "", "  "
    yield "", "", ""
    yield f"Run: {data.reader.path}", DIM, ""


def _cases(data: RunData, said: Collection[str]) -> Iterator[Line]:
    """The cases by kind. Above them are the sentences about the kind that are not in ``said``."""
    from kickbench.report.words.tables import TABLES
    from kickbench.report.words.verdict import details, kinds_of

    kinds = kinds_of(data.summary)
    for kind in kinds:
        if len(kinds) > 1:
            yield "", "", ""
            yield f"--- {TABLES[kind].title} ---", "bold", ""
            more = details(data.summary, kind, data.oversubscribed)
            yield from ((text, "", "") for text in more if text not in said)
        yield from _cases_of(data, kind)


def _cases_of(data: RunData, kind: str) -> Iterator[Line]:
    """The cases of a kind: each with its tables, its differences and its controls."""
    from kickbench.numbers import plural
    from kickbench.report.words.differences import CONTROLS, contrasts, hidden, parts, why_hidden
    from kickbench.report.words.names import crowded, finished, label, nanoseconds
    from kickbench.report.words.tables import TABLES, control, difference

    summary, unit = data.summary, nanoseconds(data.summary)
    table = TABLES[kind]
    cases = finished(summary, kind)
    tables = [_tables(case, table, summary) for case in cases]
    widths = _widths(tables)
    for case, some in zip(cases, tables, strict=True):
        yield "", "", ""
        yield label(summary, case) + crowded(case, data.oversubscribed), "bold", ""
        for rows, (first, *others) in zip(some, widths, strict=True):
            for row in rows:
                cells = zip(row[1:], others, strict=True)
                numbers = (f"{cell:>{width}}" for cell, width in cells)
                text = "  ".join((f"  {row[0]:<{first}}", *numbers))
                yield text, DIM if row is rows[0] else "", ""
        for listing in table.listings:
            if listing.terminal and (more := len(listing.items(case)) - MOST_LISTED) > 0:
                yield f"  {plural(more, 'row')} more: see kickbench report", DIM, ""
        for metric, at in table.metrics:
            for method, contrast in contrasts(case, metric).items():
                how = f"{method} - {contrast['baseline']}{at}"
                yield f"  {how}: {difference(contrast)} {unit} (95 % CI)", "", "    "
            for contrast in parts(case, metric):
                how = f"{contrast['method']} - {contrast['baseline']}{at}"
                yield f"  {how}: {difference(contrast)} {unit} (95 % CI)", "", "    "
            for method, contrast in hidden(case, metric).items():
                why = why_hidden(case, contrast)
                yield f"  {method} - {contrast['baseline']}{at}: {why}", "", "    "
        if table.metrics:
            for role, name in CONTROLS.items():
                ok = case.get(role, {}).get("ok")
                style = "" if ok is None else GOOD if ok else BAD
                if (said := control(case, role)) != "none" or role == "control":
                    yield f"  {name} {said}", style, "    "


def _tables(case: Summary, table: Table, summary: Summary) -> list[list[tuple[str, ...]]]:
    """A case's tables as rows of words, each under its heads."""
    from kickbench.report.words.tables import Row, words

    found = []
    for head, columns in table.terminal:
        rows = [(words(head, summary), *(words(column.name, summary) for column in columns))]
        for method in case["methods"]:
            row = Row(case, method)
            rows.append((method, *(column.cell(row) for column in columns)))
        found.append(rows)
    for listing in table.listings:
        if listing.terminal:
            heads = tuple(_head(column, summary) for column in listing.terminal)
            shown = listing.rows_of([case])[:MOST_LISTED]
            found.append([heads, *(tuple(c.cell(row) for c in listing.terminal) for row in shown)])
    return found


def _head(column: Column, summary: Summary) -> str:
    from kickbench.report.words.tables import words

    name, unit = words(column.name, summary), words(column.unit, summary)
    return f"{name} [{unit}]" if unit else name


def _widths(tables: list[list[list[tuple[str, ...]]]]) -> list[list[int]]:
    """The widths of the columns of each table, the same for all cases; the first for all tables."""
    alike = [[row for rows in of_cases for row in rows] for of_cases in zip(*tables, strict=True)]
    widths = [[max(map(len, column)) for column in zip(*rows, strict=True)] for rows in alike]
    first = max((some[0] for some in widths), default=0)
    return [[first, *some[1:]] for some in widths]
