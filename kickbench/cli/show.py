# SPDX-License-Identifier: Apache-2.0
"""``kickbench show``: a run on the terminal, the answer first. What it says is report.words'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kickbench.report.data import RunData
    from kickbench.report.words import Summary

Line = tuple[str, str, str]
"""One paragraph: its text, its style (of rich), and the indentation of its further lines."""

GOOD, BAD, DIM = "green", "bold red", "dim"


def show(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="[RUN]", help="A run's folder, or one with runs below it: the newest is shown."
        ),
    ] = Path("results"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the run's summary.json instead.")
    ] = False,
) -> None:
    """Say what a run found: the answer first, then every case, then what disturbed it."""
    from kickbench.report.data import RunData
    from kickbench.results.discover import find_run
    from kickbench.results.schema import dump_json

    data = RunData.load(find_run(run))
    if as_json:
        typer.echo(dump_json(data.summary), nl=False)
    else:
        _print(_lines(data))


def _lines(data: RunData) -> Iterator[Line]:
    from kickbench.report.words import STATUS_WORDS, left_out, notes, verdict

    summary = data.summary
    said = verdict(summary, data.oversubscribed)
    if said.alarms:
        yield said.lines[0], BAD, ""
    yield said.answer, "bold", ""
    yield from ((text, "", "") for text in said.more)
    yield from _cases(data)
    found = notes(summary)
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


def _cases(data: RunData) -> Iterator[Line]:
    from kickbench.report.tables import control, difference
    from kickbench.report.words import contrasts, label, nanoseconds

    summary, unit = data.summary, nanoseconds(data.summary)
    tables = [_table(data, case) for case in data.finished]
    widths = [max(map(len, column)) for column in zip(*(r for t in tables for r in t), strict=True)]
    for case, table in zip(data.finished, tables, strict=True):
        yield "", "", ""
        crowded = ", more vCPUs than CPUs" if case["id"] in data.oversubscribed else ""
        yield f"{label(summary, case)}{crowded}", "bold", ""
        for row in table:
            numbers = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            text = "  ".join((f"  {row[0]:<{widths[0]}}", *numbers))
            yield text, DIM if row is table[0] else "", ""
        for method, contrast in contrasts(case).items():
            text = f"  {method} - {contrast['baseline']}: {difference(contrast)} {unit} (95 % CI)"
            yield text, "", "    "
        ok = case["control"]["ok"]
        yield f"  A/A control {control(case)}", "" if ok is None else GOOD if ok else BAD, "    "


def _table(data: RunData, case: Summary) -> list[tuple[str, ...]]:
    """A case's figures as rows of words, under their heads."""
    from kickbench.report.numbers import significant, whole
    from kickbench.report.words import nanoseconds, seconds

    times = ("mean", "p50", "p90", "p99", "max")
    rows: list[tuple[str, ...]] = [
        (f"{nanoseconds(data.summary)} per exit", f"exits/{seconds(data.summary)}", *times)
    ]
    for method, figures in case["methods"].items():
        numbers = (significant(figures["ns_per_exit"][name]) for name in times)
        rows.append((method, whole(figures["exits_per_second"]), *numbers))
    return rows


def _print(lines: Iterator[Line]) -> None:
    """Colour and wrapped lines for a terminal; as it is, a paragraph a line, for anything else."""
    import sys

    from kickbench.scenario.text import printable

    if not sys.stdout.isatty():
        for text, _, _ in lines:
            typer.echo(printable(text))
        return
    import textwrap

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for text, style, indent in lines:
        wrapped = textwrap.fill(
            printable(text),
            width=max(console.width, 40),
            subsequent_indent=indent,
            replace_whitespace=False,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
        console.print(Text(wrapped, style=style), soft_wrap=True)
