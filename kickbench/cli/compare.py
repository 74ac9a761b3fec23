# SPDX-License-Identifier: Apache-2.0
"""``kickbench compare``: prints runs side by side on the terminal.

The sentences come from :mod:`kickbench.report.words.comparison`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kickbench.cli.terminal import BAD, DIM, GOOD, Line, print_lines
from kickbench.errors import EXIT_REGRESSION, ResultsError, UsageError
from kickbench.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kickbench.compare.metrics import Estimate
    from kickbench.compare.runs import Comparison, Judged, Loss
    from kickbench.report.words.comparison import Row, Table

_MAX_MIN_EFFECT = 1000.0

LONGEST_NAME = 24
"""Longer names of runs make the columns too wide."""

_FEW_ROWS = 24
"""Up to this many figures are all shown without --all. A run of one or two cases has as many."""

_FEW_CASES = 6
"""How many of the cases that only one run has are named without --all."""

_STYLES = {"good": GOOD, "bad": BAD, "none": ""}


Every = Annotated[bool, typer.Option("--all", help="Also show the figures without a difference.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")]
FailOnRegression = Annotated[
    bool,
    typer.Option(
        "--fail-on-regression",
        help="Exit with 1 if a figure is slower, or if a race-free protocol newly lost kicks.",
    ),
]


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]BASE [NAME=]RUN...",
            help="Folders of runs, or folders with runs below them. Of several runs in a folder, "
            "the newest is taken. Each further run is compared with the first. NAME is a name for "
            "the run. Without it, the runs are called base and other.",
        ),
    ],
    every: Every = False,
    as_json: AsJson = False,
    fail_on_regression: FailOnRegression = False,
    min_effect: Annotated[
        float | None,
        typer.Option(
            "--min-effect",
            metavar="PERCENT",
            help="Call a level slower or faster only if it differs by more than this. The default "
            "is 5 for exits, and 10 for kicks and pauses.",
        ),
    ] = None,
) -> None:
    """Compare runs: what got faster or slower.

    It also shows what else changed from run to run, such as the kernel. For example:
    kickbench compare results/before results/after --fail-on-regression
    """
    from kickbench.compare import runs as comparing
    from kickbench.results.discover import find_run
    from kickbench.results.schema import dump_json
    from kickbench.summary.data import RunData

    if len(runs) < 2:
        raise UsageError("compare needs two runs or more; name them: kickbench compare BASE RUN")
    least = None if min_effect is None else as_part(min_effect)
    given = [_named(run) for run in runs]
    names = _names([name for name, _ in given])
    base, *others = [RunData.load(find_run(path)) for _, path in given]
    found = [
        comparing.compare(base.summary, other.summary, min_effect=least, names=pair)
        for other, pair in zip(others, names, strict=True)
    ]
    if as_json:
        told = {
            "schema": 1,
            "regression": any(comparison.regressions for comparison in found),
            "comparisons": [document(comparison) for comparison in found],
        }
        typer.echo(dump_json(told, ensure_ascii=True), nl=False)
    else:
        for comparison, other in zip(found, others, strict=True):
            if comparison is not found[0]:
                print_lines([("", "", "")])
            print_lines(lines(comparison, base.reader.path, other.reader.path, every))
    if fail_on_regression:
        fail_if_slower(found)


def as_part(min_effect: float) -> float:
    """The percentage of ``--min-effect`` as a part of the base's level."""
    if not 0 <= min_effect <= _MAX_MIN_EFFECT:
        raise UsageError(f"--min-effect must be between 0 and {_MAX_MIN_EFFECT:g} per cent")
    return min_effect / 100


def fail_if_slower(found: Sequence[Comparison]) -> None:
    """``--fail-on-regression``. Raises ResultsError if there is none because none can be found."""
    if any(comparison.regressions for comparison in found):
        raise typer.Exit(EXIT_REGRESSION)
    for comparison in found:
        if not comparison.comparable:
            raise ResultsError(
                f"{comparison.other['run_id']} is not comparable with the base, so a regression "
                "cannot be found; compare runs of one host and scenario"
            )


# --- names -------------------------------------------------------------------------------------


def _named(run: str) -> tuple[str | None, Path]:
    """The name and the path of "NAME=PATH"; a path that exists is one, whatever it contains."""
    name, _, path = run.partition("=")
    if not name or not path or "/" in name or os.path.lexists(run):
        return None, Path(run)
    if len(name) > LONGEST_NAME or not name.isprintable():
        limit = f"at most {LONGEST_NAME} printable characters"
        raise UsageError(f"{printable(run)}: a run's name, before the =, must have {limit}")
    return name, Path(path)


def _names(given: Sequence[str | None]) -> list[tuple[str, str]]:
    """What to call the base and each of the others, all different."""
    from kickbench.compare.runs import default_names

    defaults = default_names(len(given) - 1)
    names = [
        name or default
        for name, default in zip(given, [defaults[0][0], *(o for _, o in defaults)], strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two runs are called {name}: give each another name, NAME=RUN")
    return [(names[0], name) for name in names[1:]]


# --- on the terminal ---------------------------------------------------------------------------


def lines(comparison: Comparison, base: Path, other: Path, every: bool) -> Iterator[Line]:
    """What is printed of a comparison. ``base`` and ``other`` are where the two are."""
    from kickbench.report.words import comparison as words

    first, second = words.names(comparison)
    for name, run, path in zip((first, second), words.who(comparison), (base, other), strict=True):
        yield f"{name}: {run}, {path}", DIM, "  "
    yield "", "", ""
    answer, *more = words.headline(comparison)
    yield answer.text, _STYLES[answer.severity] or "bold", ""
    yield from ((sentence.text, _STYLES[sentence.severity], "") for sentence in more)
    if comparison.changes:
        yield "", "", ""
        yield "What changed around it:", "bold", ""
    for change in comparison.changes:
        blocks = " (so that times are not comparable)" if change.blocks else ""
        yield f"- {change.title}: {change.before} -> {change.after}{blocks}", "", "  "
    tables = words.tables(comparison)
    every = every or sum(len(table.rows) for table in tables) <= _FEW_ROWS
    for table in tables:
        yield from _table(table, (first, second), every)
    if left_out := words.left_out(comparison, None if every else _FEW_CASES):
        yield "", "", ""
        yield "Not in both:", "bold", ""
        yield from ((f"- {line}", "", "  ") for line in left_out)
    if caveats := words.caveats(comparison):
        yield "", "", ""
        yield "Before you believe it:", "bold", ""
        yield from ((f"- {line}", "", "  ") for line in caveats)


def _table(table: Table, names: tuple[str, str], every: bool) -> Iterator[Line]:
    """The rows under their case and method; what is not shown is counted."""
    from kickbench.report.words.comparison import DIFFERENCE

    shown = [row for row in table.rows if every or _differs(row)]
    yield "", "", ""
    yield f"--- {table.title} ---", "bold", ""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in shown:
        groups.setdefault((row.case, row.method), []).append(row)
    heads = ("", *names, DIFFERENCE)
    cells = [heads, *(_cells(row) for row in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, ((case, method), rows) in enumerate(groups.items()):
        yield f"{case}: {method}", "", ""
        if number == 0:
            yield _aligned(heads, widths), DIM, ""
        for row in rows:
            text = f"{_aligned(_cells(row), widths)}  {row.verdict}"
            yield text, _STYLES[row.severity], "      "
    hidden = [row for row in table.rows if row not in shown]
    for verdict in dict.fromkeys(row.verdict for row in hidden):
        count = sum(row.verdict == verdict for row in hidden)
        yield (
            f"{count} {'figure' if count == 1 else 'figures'}: {verdict} (--all shows them)",
            DIM,
            "",
        )


def _differs(row: Row) -> bool:
    return row.notable and row.verdict == row.word


def _cells(row: Row) -> tuple[str, ...]:
    """A row for 80 columns: the runs' own intervals are in the report and in the JSON."""
    base, other = (text.partition(" (")[0] for text in (row.base, row.other))
    return (row.metric, base, other, row.difference)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    numbers = (f"{cell:>{width}}" for cell, width in others)
    return "  ".join((f"  {first[0]:<{first[1]}}", *numbers))


# --- for programs ------------------------------------------------------------------------------


def document(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON; docs/compare.md has its keys."""
    import dataclasses

    return {
        "base": {"name": comparison.names[0], **_run(comparison.base)},
        "other": {"name": comparison.names[1], **_run(comparison.other)},
        "regression": bool(comparison.regressions),
        "figures_judged": len(comparison.comparable),
        "environment": [dataclasses.asdict(change) for change in comparison.changes],
        "figures": [_figure(judged) for judged in comparison.judged],
        "losses": [_loss(loss) for loss in comparison.losses],
        "not_in_both": [dataclasses.asdict(item) for item in comparison.unmatched],
        "doubts": [dataclasses.asdict(doubt) for doubt in comparison.doubts],
    }


def _run(summary: Any) -> dict[str, Any]:
    keys = ("run_id", "scenario", "created_utc", "complete", "emulated", "emulated_by")
    return {key: summary[key] for key in keys}


def _figure(judged: Judged) -> dict[str, Any]:
    from kickbench.compare.metrics import METRICS
    from kickbench.report.words.comparison import word

    point = judged.base
    return {
        "case": point.case,
        "kind": point.kind,
        "method": point.method,
        "baseline": point.baseline,
        "metric": point.metric,
        "unit": METRICS[point.metric].unit,
        "better": METRICS[point.metric].better,
        "base": _estimate(point.estimate),
        "other": _estimate(judged.other.estimate),
        "diff": judged.difference.value,
        "ci95": [judged.difference.low, judged.difference.high],
        "ci_family": [judged.corrected.low, judged.corrected.high],
        "relative": judged.effect,
        "min_effect": judged.least_effect,
        "verdict": word(judged),
        "differs_in": list(judged.differs_in),
        "alarm": judged.alarm,
    }


def _loss(loss: Loss) -> dict[str, Any]:
    case, method, _, metric = loss.point.key
    sides = {
        side: None if point is None else {"count": point.count, "of": point.of}
        for side, point in (("base", loss.base), ("other", loss.other))
    }
    return {"case": case, "method": method, "metric": metric, **sides}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "ci95": [estimate.low, estimate.high],
        "processes": estimate.processes,
    }
