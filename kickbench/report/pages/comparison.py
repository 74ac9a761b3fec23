# SPDX-License-Identifier: Apache-2.0
"""Writes the page that compares runs of one scenario: what differs from the base, by figure.

:mod:`kickbench.compare.runs` judges, and :mod:`kickbench.report.words.comparison` has the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from kickbench.compare.identity import Change
from kickbench.compare.runs import Comparison, compare, default_names
from kickbench.errors import ResultsError
from kickbench.report.figures.comparison import draw_differences
from kickbench.report.figures.svg import inline
from kickbench.report.pages import index
from kickbench.report.pages.html import TABLES, Head, Rows, file_stem, render
from kickbench.report.words import comparison as compared
from kickbench.report.words.environment import fact
from kickbench.report.words.names import emulation
from kickbench.report.words.verdict import Verdict, verdict
from kickbench.results.files import replace_file
from kickbench.results.schema import one_line
from kickbench.summary.data import RunData

_TEXTS = 3
"""The last column of a table that has words; the others have numbers with their intervals."""


@dataclass(frozen=True)
class TableOnPage:
    """The figures of a kind: those that differ, and those in which no difference was seen."""

    kind: str
    title: str
    heads: list[Head]
    notable: Rows
    unseen: Rows


@dataclass(frozen=True)
class Barred:
    """Why some figures are not comparable.

    ``mark`` is beside the word of each of them; it is "" if all share one reason.
    """

    mark: str
    count: int
    reason: str


@dataclass(frozen=True)
class PairOnPage:
    """The base and another run. ``caveats`` lack those that all pairs share."""

    names: tuple[str, str]
    headline: tuple[compared.Sentence, ...]
    changes: tuple[Change, ...]
    barred: tuple[Barred, ...]
    tables: list[TableOnPage]
    plots: list[tuple[str, Markup]]
    left_out: tuple[str, ...]
    caveats: list[str]


@dataclass(frozen=True)
class RunOnPage:
    """One of the runs: its own report, and the verdict in it."""

    name: str
    file: str
    address: str
    run_id: str
    created_utc: str
    host: str
    kernel: str
    badges: list[index.Badge]
    verdict: Verdict


def compare_all(runs: Sequence[RunData]) -> list[Comparison]:
    """Compares each other run with the first. Raises ResultsError, in one line, if that fails."""
    base, *others = runs
    try:
        return [
            compare(base.summary, other.summary, names=names)
            for other, names in zip(others, default_names(len(others)), strict=True)
        ]
    except ResultsError as error:
        advice = "to report each alone, name one run at a time"
        raise ResultsError(one_line(f"{error}; {advice}")) from None


def write(
    runs: Sequence[RunData], comparisons: Sequence[Comparison], pages: Sequence[str], folder: Path
) -> Path:
    """Write the comparison's page into a folder that has the ``pages`` of the runs.

    Raises MeasurementError if it cannot be written.
    """
    ids = [data.reader.run_id for data in runs]
    path = folder / f"{file_stem(runs[0].reader.scenario_name, 'compare', *ids)}.html"
    replace_file(path, page(runs, comparisons, pages).encode("utf-8", "replace"))
    index.update(folder)
    return path


def page(runs: Sequence[RunData], comparisons: Sequence[Comparison], pages: Sequence[str]) -> str:
    """The whole HTML document; ``pages`` are the file names of the runs' own reports."""
    base = runs[0]
    caveats = [compared.caveats(comparison) for comparison in comparisons]
    shared = [one for one in caveats[0] if all(one in some for some in caveats)]
    if len(comparisons) == 1:
        shared = []
    pairs = [_pair(comparison, number, shared) for number, comparison in enumerate(comparisons)]
    names = [pairs[0].names[0], *(pair.names[1] for pair in pairs)]
    marks = _badges(comparisons)
    on_page = [
        RunOnPage(
            name=name,
            file=address,
            address=f"./{quote(address)}",
            run_id=data.reader.run_id,
            created_utc=data.summary["created_utc"],
            host=fact(data.reader.environment, "hostname"),
            kernel=fact(data.reader.environment, "kernel.release"),
            badges=index.badges_of(data, said),
            verdict=said,
        )
        for data, name, address in zip(runs, names, pages, strict=True)
        for said in [verdict(data.summary, data.oversubscribed)]
    ]
    answer = " ".join(pair.headline[0].text for pair in pairs)
    by = dict.fromkeys(filter(None, (emulation(data.summary) for data in runs)))
    return render(
        "comparison.html.j2",
        scripts=[TABLES],
        entry=index.entry_of_comparison(runs, answer, marks).meta(),
        scenario=base.summary["scenario"],
        emulated=" and ".join(by),
        badges=marks,
        pairs=pairs,
        shared=shared,
        runs=on_page,
    )


def _badges(comparisons: Sequence[Comparison]) -> list[index.Badge]:
    marks: list[index.Badge] = [("plain", "Comparison")]
    emulated = [c for c in comparisons if c.base["emulated"] or c.other["emulated"]]
    if emulated:
        marks.append(("doubt", "Emulated"))
    worse = sum(len(comparison.regressions) for comparison in comparisons)
    maybe = [judged for one in comparisons for judged in one.of("maybe worse")]
    lost = any(comparison.losses for comparison in comparisons)
    if worse:
        marks.append(("bad", f"{worse} worse"))
    if maybe:
        said = {compared.word(judged) for judged in maybe}
        marks.append(("doubt", f"{len(maybe)} {said.pop() if len(said) == 1 else 'maybe worse'}"))
    if lost:
        marks.append(("doubt", "Kicks lost by a race-free protocol"))
    if not (worse or maybe or lost) and any(comparison.comparable for comparison in comparisons):
        marks.append(("good", "Nothing clearly worse"))
    if not all(comparison.comparable for comparison in comparisons):
        marks.append(("doubt", "Not comparable"))
    return marks


def _pair(comparison: Comparison, number: int, shared: Sequence[str]) -> PairOnPage:
    tables = compared.tables(comparison)
    barred = _barred(tables)
    plots = [
        # A drawing of our own, in which foreign text is escaped.
        (plot.finding, Markup(inline(plot, f"differences-{number}-{i}")))  # noqa: S704
        for i, plot in enumerate(draw_differences(comparison))
    ]
    return PairOnPage(
        names=compared.names(comparison),
        headline=compared.headline(comparison),
        changes=compared.changes(comparison),
        barred=tuple(barred.values()),
        tables=[_table(comparison, table, barred) for table in tables],
        plots=plots,
        left_out=compared.left_out(comparison),
        caveats=[one for one in compared.caveats(comparison) if one not in shared],
    )


def _barred(tables: Sequence[compared.Table]) -> dict[str, Barred]:
    """Why figures are not comparable, by the word of the row. The page shows each reason once."""
    counts = Counter(row.word for table in tables for row in table.rows if row.word != row.verdict)
    found = {}
    for number, (word, count) in enumerate(counts.items(), 1):
        reason = word.partition(": ")[2]
        found[word] = Barred(f" [{number}]" if len(counts) > 1 else "", count, reason)
    return found


def _table(comparison: Comparison, table: compared.Table, barred: dict[str, Barred]) -> TableOnPage:
    # The verdict comes first, so that it is seen without scrolling. Rows are in the order of their
    # importance. A reader can sort by the columns of words only.
    *heads, word = compared.heads(comparison)
    columns: list[tuple[int | None, str, str, bool]] = [
        (number if number <= _TEXTS else None, head, "", number > _TEXTS)
        for number, head in enumerate([word, *heads])
    ]
    rows: dict[bool, Rows] = {True: [], False: []}
    for row in table.rows:
        look = {"bad": "name bad", "good": "name good"}.get(row.severity, "name")
        mark = barred[row.word].mark if row.word in barred else ""
        cells: list[tuple[str, str | None, str]] = [(row.verdict + mark, None, look)]
        cells += [(text, None, "name") for text in (row.case, row.method, row.metric)]
        cells += [(text, None, "number") for text in (row.base, row.other, row.difference)]
        rows[row.notable].append((True, cells))
    return TableOnPage(table.kind, table.title, [("", columns)], rows[True], rows[False])
