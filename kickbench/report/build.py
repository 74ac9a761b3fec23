# SPDX-License-Identifier: Apache-2.0
"""One run as one HTML file that needs nothing else: words, figures, tables, environment.

The page is ``template.html.j2``, filled with what the other modules of this package return. It may
describe a stranger's run: every text is escaped, control characters are shown as such, and lengths
are bounded. The same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import kickbench
from kickbench.errors import UsageError
from kickbench.report import tables, toml, words
from kickbench.report.data import RunData
from kickbench.report.figures import FIGURES
from kickbench.report.names import emulation, nanoseconds
from kickbench.report.numbers import NOTHING, listed, significant
from kickbench.report.svg import inline
from kickbench.results.schema import one_line, safe_name
from kickbench.results.store import replace_file
from kickbench.scenario.text import printable, shorten

LONGEST_TEXT = 2000
"""Characters of one value that a page shows."""
MOST_FACTS = 1000
"""Facts of the environment that a page shows."""
_MOST_DEPTH = 6
_UNITS = r"%|[nµm]?s|emulated|[kMG]Hz|v?CPUs?|cases?"
_BEFORE_UNIT = re.compile(rf"(?<=[0-9]) (?=(?:{_UNITS})(?!\w))")
_TOGETHER = re.compile(r"\(-?[0-9][0-9.,]* to -?[0-9][0-9.,]*(?=[,)])|few rounds(?=\))")

# What a reader asks first, by the path in the environment; the rest is folded away.
KEY_FACTS = (
    ("Host", "hostname"),
    ("Kernel", "kernel.release"),
    ("Kernel command line", "kernel.cmdline"),
    ("CPU", "cpu.model"),
    ("Microcode", "cpu.microcode"),
    ("CPUs online", "cpu.online"),
    ("SMT", "cpu.smt"),
    ("Governor", "frequency.governors"),
    ("Turbo", "frequency.turbo"),
    ("Hypervisor", "virtualization.hypervisor"),
    ("Clock source", "clocksource.current"),
    ("kickbench", "software.kickbench"),
)


@dataclass(frozen=True)
class FigureOnPage:
    """A figure that has data: its entry in the table and its plots as (title, finding, SVG)."""

    name: str
    title: str
    guide: str
    plots: list[tuple[str, str, Markup]]


@dataclass(frozen=True)
class TableOnPage:
    """The table of a kind: what it shows in words, its columns with name and unit, its rows."""

    kind: str
    title: str
    said: list[str]
    guide: str
    programs: str
    columns: list[tuple[tables.Column, str, str]]
    rows: list[tables.Row]
    oversubscribed: bool


def write(run: Path | str, folder: Path | str) -> tuple[Path, RunData]:
    """Write the report of a run folder into ``folder`` and return the file and the run.

    The folder is made when it is not there; the file appears at once or not at all. Raises
    ResultsError when the run cannot be read, UsageError when the folder cannot be made,
    MeasurementError when the file cannot be written.
    """
    data = RunData.load(run)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "is a file" if folder.exists() else f"cannot be made: {error.strerror}"
        raise UsageError(one_line(f"{folder}: {what}; choose another folder with -o")) from None
    path = folder / file_name(data)
    replace_file(path, page(data).encode("utf-8", "replace"))
    return path, data


def file_name(data: RunData) -> str:
    """ "<scenario>-<run id>.html", safe whatever the scenario is called."""
    scenario = safe_name(data.reader.scenario_name, default="scenario")
    return f"{scenario}-{data.reader.run_id}.html"


def page(data: RunData) -> str:
    """The whole HTML document of a run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kickbench.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["units"] = _units
    summary = data.summary
    manifest = data.reader.manifest
    return environment.get_template("template.html.j2").render(
        summary=summary,
        verdict=words.verdict(summary, data.oversubscribed),
        emulated=emulation(summary),
        figures=list(_figures(data)),
        tables=list(_tables(data)),
        oversubscribed=data.oversubscribed,
        notes=words.notes(summary),
        left_out=words.left_out(summary),
        key_facts=list(_key_facts(data)),
        facts=_groups(data.reader.environment),
        command=shlex.join(manifest["command"]),
        description=manifest["scenario"].get("description"),
        scenario=toml.dump(manifest["scenario"]).splitlines(),
        scenario_file=safe_name(data.reader.scenario_name, default="scenario") + ".toml",
        version=kickbench.__version__,
    )


def _safe(value: Any) -> Any:
    """What a stranger wrote, fit to be shown: bounded, with control characters made visible."""
    if isinstance(value, Markup):
        return value
    return printable(shorten(str(value), LONGEST_TEXT))


def _units(text: str) -> Markup:
    """Our own words, safe, with no line break before a number's unit nor within an interval."""
    text = _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", _safe(text))
    text = _TOGETHER.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    return escape(text)


def _figures(data: RunData) -> Iterator[FigureOnPage]:
    by = emulation(data.summary)
    for figure in FIGURES:
        plots = [
            (plot.title, plot.finding, Markup(inline(plot, f"{figure.name}-{index}")))  # noqa: S704
            for index, plot in enumerate(figure.draw(data))
        ]
        if plots:
            title = ": ".join(filter(None, [by, figure.title]))
            yield FigureOnPage(figure.name, title, figure.guide, plots)


def _tables(data: RunData) -> Iterator[TableOnPage]:
    summary = data.summary
    for kind in words.kinds_of(summary):
        cases = [case for case in data.finished if case["kind"] == kind]
        rows = tables.rows_of(cases)
        yield TableOnPage(
            kind=kind,
            title=tables.TABLES[kind].title,
            said=words.details(summary, kind, data.oversubscribed),
            guide=tables.TABLES[kind].guide,
            programs=listed(sorted({str(case["program"]) for case in cases})),
            columns=[
                (column, tables.words(column.name, summary), tables.words(column.unit, summary))
                for column in tables.columns_of(kind, rows)
            ],
            rows=rows,
            oversubscribed=any(case["id"] in data.oversubscribed for case in cases),
        )


# --- environment -------------------------------------------------------------------------------


def _key_facts(data: RunData) -> Iterator[tuple[str, str]]:
    for name, path in KEY_FACTS:
        value: Any = data.reader.environment
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in (None, "", [], {}):
            yield name, _text(value)
    nodes = data.reader.environment.get("nodes")
    if isinstance(nodes, Mapping) and nodes:
        cpus = (n.get("cpus") if isinstance(n, Mapping) else n for n in nodes.values())
        text = "; ".join(
            f"node {name}: CPUs {_text(some)}" for name, some in zip(nodes, cpus, strict=True)
        )
        yield "NUMA nodes", text
    if clocks := _clocks(data):
        yield "Clock of the stamps", clocks


def _clocks(data: RunData) -> str:
    """The clocks of all processes: kind, rate, and what a stamp costs, at least and at most."""
    stamps: dict[tuple[str, str], list[float]] = {}
    for record in data.reader.cases:
        for process in (record.document or {}).get("processes", ()):
            clock = process["clock"]
            key = (str(clock["kind"]), f"{significant(clock['hz'] / 1e6)} MHz")
            costs = stamps.setdefault(key, [])
            if clock.get("stamp_cycles") is not None:
                costs.append(clock["stamp_cycles"] / clock["hz"] * 1e9)
    said = []
    for (kind, rate), costs in stamps.items():
        text = f"{kind}, {rate}"
        if costs:
            ends = dict.fromkeys(significant(cost, 3) for cost in (min(costs), max(costs)))
            text += f", a stamp costs {' to '.join(ends)} {nanoseconds(data.summary)}"
        said.append(text)
    return "; ".join(said)


def _groups(environment: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything known of the host: by group, a list of (name, value); bounded."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for number, (path, value) in enumerate(_flat(environment)):
        if number == MOST_FACTS:
            groups["more"] = [("not shown", f"there are more than {MOST_FACTS} facts")]
            break
        group = path[0] if len(path) > 1 else "host"
        groups.setdefault(group, []).append((".".join(path[1:] or path), value))
    return list(groups.items())


def _flat(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value and len(path) < _MOST_DEPTH:
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    elif path:
        yield path, _text(value)


def _text(value: object) -> str:
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
