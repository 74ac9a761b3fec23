# SPDX-License-Identifier: Apache-2.0
"""Writes one run as one HTML file that needs nothing else: words, figures, tables, environment.

The page is the template ``run.html.j2``. :mod:`kickbench.report.words` and
:mod:`kickbench.report.figures` fill it, and :mod:`~kickbench.report.pages.html` makes foreign text
safe. The same run gives the same bytes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from kickbench.numbers import listed
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.svg import inline
from kickbench.report.figures.table import FIGURES, Figure
from kickbench.report.pages import assets, downloads, index, toml
from kickbench.report.pages.explanation import explanation_of
from kickbench.report.pages.html import FLAMES, TABLES, Head, Rows, file_stem, render
from kickbench.report.words import environment, tables, verdict
from kickbench.report.words.names import emulation
from kickbench.results.files import make_folder, replace_file
from kickbench.results.schema import safe_name
from kickbench.scenario.kinds import NO_GUEST
from kickbench.summary.data import RunData

LARGEST_SCENARIO = 100_000
"""A page shows a scenario of at most this number of characters. The manifest has all."""

# Options of a run that change what it measures.
_OPTIONS = ("--quick", "--strict")


@dataclass(frozen=True)
class PlotOnPage:
    """A plot as SVG. ``other`` is the same plot on the second of the two ``scales``."""

    finding: str
    svg: Markup
    other: Markup | None
    scales: tuple[str, str] | None


@dataclass(frozen=True)
class FigureOnPage:
    """A figure that has data."""

    name: str
    title: str
    guide: str
    plots: list[PlotOnPage]


@dataclass(frozen=True)
class TableOnPage:
    """One table: its name (for ids), its title, its columns by head, and its rows.

    A row's flag says that it is the first of its case.
    """

    name: str
    title: str
    heads: list[Head]
    rows: Rows


@dataclass(frozen=True)
class KindOnPage:
    """A kind of measurement: its sentences, how to read its tables, and the tables."""

    kind: str
    title: str
    said: list[str]
    guide: str
    programs: str
    oversubscribed: bool
    tables: list[TableOnPage]


@dataclass(frozen=True)
class Download:
    """A file in the page, and what it is. ``link`` is None if the file is too large."""

    name: str
    what: str
    link: Markup | None


def write(
    run: Path | str, folder: Path | str, *, with_assets: bool = False
) -> tuple[Path, RunData]:
    """Write the report of a run folder into ``folder`` and return the file and the run.

    Raises ResultsError if the run cannot be read, and the errors of :func:`write_report`.
    """
    data = RunData.load(run)
    return write_report(data, Path(folder), with_assets=with_assets), data


def write_report(data: RunData, folder: Path, *, with_assets: bool = False) -> Path:
    """Write the report of a run into ``folder`` and return the file.

    The folder is made if it is missing. Each file appears at once or not at all, and the folder's
    index lists the report. ``with_assets`` also writes the figures and tables as files. Raises
    UsageError if the folder cannot be made, MeasurementError if a file cannot be written.
    """
    make_folder(folder, "choose another folder with -o")
    path = folder / file_name(data)
    figures = list(drawn(data))
    files: Sequence[str] = ()
    if with_assets:
        files = assets.write(folder / f"{path.stem}-assets", data, figures)
    replace_file(path, page(data, figures, files, folder).encode("utf-8", "replace"))
    index.update(folder)
    return path


def file_name(data: RunData) -> str:
    """The name "<scenario>-<run id>.html", safe for any name of a scenario."""
    return f"{file_stem(data.reader.scenario_name, data.reader.run_id)}.html"


def drawn(data: RunData) -> Iterator[tuple[Figure, list[Plot]]]:
    """The figures that the run has data for, each with its plots."""
    for figure in FIGURES:
        if plots := figure.draw(data):
            yield figure, plots


def page(
    data: RunData,
    figures: Iterable[tuple[Figure, list[Plot]]] | None = None,
    files: Sequence[str] = (),
    folder: Path | None = None,
) -> str:
    """The whole HTML document of a run.

    ``figures`` are the result of :func:`drawn`, if the caller has it already. ``files`` are the
    relative addresses of files beside the page. ``folder`` is where the page will be, if it is to
    have links to the folder of the run. Raises ResultsError if the run's explanation is damaged.
    """
    summary = data.summary
    manifest = data.reader.manifest
    explanation = explanation_of(data.reader.path, folder)
    said = verdict.verdict(summary, data.oversubscribed)
    scenario = toml.dump(manifest["scenario"])
    scenario_file = safe_name(data.reader.scenario_name, default="scenario") + ".toml"
    return render(
        "run.html.j2",
        scripts=[TABLES, FLAMES] if explanation else [TABLES],
        explanation=explanation,
        entry=index.entry_of_run(data, said).meta(),
        summary=summary,
        verdict=said,
        badges=index.badges_of(data, said),
        emulated=emulation(summary),
        figures=list(_figures(data, drawn(data) if figures is None else figures)),
        kinds=list(_kinds(data)),
        notes=verdict.notes(summary, data.without_tables),
        left_out=verdict.left_out(summary),
        origin=list(_origin(data)),
        key_facts=list(environment.key_facts(data)),
        facts=environment.groups(data.reader.environment),
        warnings=environment.warnings(data.reader.environment),
        command=shlex.join(manifest["command"]),
        observed=all(case["kind"] == "observed" for case in summary["cases"]),
        again=shlex.join(["kickbench", "run", scenario_file, *_options(manifest["command"])]),
        protocols=_protocols(manifest["environment"]),
        description=manifest["scenario"].get("description"),
        scenario=escape(scenario) if len(scenario) <= LARGEST_SCENARIO else None,
        scenario_file=scenario_file,
        downloads=list(_downloads(data)),
        scenario_download=_download(
            scenario_file, "the exact scenario", scenario.encode("utf-8", "replace"), "text/plain"
        ),
        files=files,
    )


# --- parts of it -------------------------------------------------------------------------------


def _figures(data: RunData, figures: Iterable[tuple[Figure, list[Plot]]]) -> Iterator[FigureOnPage]:
    by = emulation(data.summary)
    for figure, plots in figures:
        title = ": ".join(filter(None, [by, figure.title]))
        shown = [_plot(plot, f"{figure.name}-{number}") for number, plot in enumerate(plots)]
        yield FigureOnPage(figure.name, title, figure.guide, shown)


def _plot(plot: Plot, name: str) -> PlotOnPage:
    # Drawings of our own, in which foreign text is escaped.
    main = Markup(inline(plot, name))  # noqa: S704
    if plot.alternative is None or plot.scales is None:
        return PlotOnPage(plot.finding, main, None, None)
    other = Markup(inline(plot, f"{name}-other", alternative=True))  # noqa: S704
    return PlotOnPage(plot.finding, main, other, plot.scales)


def _kinds(data: RunData) -> Iterator[KindOnPage]:
    summary = data.summary
    for kind in verdict.kinds_of(summary):
        cases = [case for case in data.finished if case["kind"] == kind]
        rows = tables.rows_of(cases)
        table = tables.TABLES[kind]
        programs = {str(case["program"]) for case in cases if case["program"]} - {NO_GUEST}
        yield KindOnPage(
            kind=kind,
            title=table.title,
            said=verdict.details(summary, kind, data.oversubscribed),
            guide=table.guide,
            programs=listed(sorted(programs)),
            oversubscribed=any(case["id"] in data.oversubscribed for case in cases),
            tables=[
                _table(data, f"{kind}-{number}", part.title, [*table.keys, *part.columns], rows)
                for number, part in enumerate(table.parts)
                if tables.columns_of(part.columns, rows)
            ]
            + [
                # The keys tell which case a row is of, and are not needed if there is one.
                _table(
                    data,
                    f"{kind}-{listing.name}",
                    listing.title,
                    [*(replace(key, always=False) for key in table.keys), *listing.columns],
                    items,
                )
                for listing in table.listings
                if (items := listing.rows_of(cases))
            ],
        )


def _table(
    data: RunData,
    name: str,
    title: str,
    columns: Sequence[tables.Column],
    rows: Sequence[tables.Row],
) -> TableOnPage:
    shown = tables.columns_of(columns, rows)
    heads: list[Head] = []
    number = 0
    for group, some in tables.heads(shown):
        numbered: list[tuple[int | None, str, str, bool]] = [
            (
                number + i,
                tables.words(column.name, data.summary),
                tables.words(column.unit, data.summary),
                column.value is not None,
            )
            for i, column in enumerate(some)
        ]
        heads.append((tables.words(group, data.summary), numbered))
        number += len(some)
    cells = [
        (
            i == 0 or rows[i - 1].case["id"] != row.case["id"],
            [_cell(data, column, row) for column in shown],
        )
        for i, row in enumerate(rows)
    ]
    return TableOnPage(name, title, heads, cells)


def _cell(data: RunData, column: tables.Column, row: tables.Row) -> tuple[str, str | None, str]:
    text = column.cell(row)
    if column.name == "vCPUs" and row.case["id"] in data.oversubscribed:
        text += " *"
    look = "name" if column.value is None else "number"
    if column.bad is not None and column.bad(row):
        look += " bad"
    value = None if column.value is None else column.value(row)
    return text, None if value is None else _for_script(value), look


def _for_script(value: float) -> str:
    """A number as JavaScript reads it."""
    return str(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _origin(data: RunData) -> Iterator[tuple[str, str]]:
    """The facts that identify the run, for one line."""
    yield "run", data.reader.run_id
    for name, path in (("host", "hostname"), ("kernel", "kernel.release"), ("CPU", "cpu.model")):
        if known := environment.fact(data.reader.environment, path):
            yield name, known


def _options(command: Sequence[str]) -> list[str]:
    return [option for option in _OPTIONS if option in command]


def _protocols(known: dict[str, Any]) -> list[str]:
    """The C files of the user's own protocols, which a repetition of the run needs."""
    found = known.get("protocols")
    return [str(path) for path in found] if isinstance(found, dict) else []


def _downloads(data: RunData) -> Iterator[Download]:
    for kind in verdict.kinds_of(data.summary):
        name = f"{Path(file_name(data)).stem}-{kind}.csv"
        content = downloads.csv_of(data, kind)
        yield _download(name, tables.TABLES[kind].title, content, "text/csv")
        for listing in tables.TABLES[kind].listings:
            name = f"{Path(file_name(data)).stem}-{kind}-{listing.name}.csv"
            content = downloads.csv_of_listing(data, kind, listing)
            if content:
                yield _download(name, listing.title, content, "text/csv")


def _download(name: str, what: str, content: bytes, media_type: str) -> Download:
    link = downloads.data_link(content, media_type)
    return Download(name, what, None if link is None else escape(link))
