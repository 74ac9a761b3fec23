# SPDX-License-Identifier: Apache-2.0
"""The HTML report: one file that needs nothing else, says what the summary says, trusts nobody."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_observed
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import KickbenchError, MeasurementError, ResultsError, UsageError
from kickbench.numbers import whole
from kickbench.report.figures.exits import _ecdf_plot
from kickbench.report.figures.plots import (
    METHOD_STYLES,
    PART_STYLE,
    STYLES,
    WAY_STYLES,
    Plot,
    log_ticks,
    new_plot,
    tick_time,
)
from kickbench.report.figures.svg import inline, standalone
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages import toml
from kickbench.report.pages.run import drawn, file_name, page, write
from kickbench.report.words import tables
from kickbench.report.words.verdict import verdict
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario
from kickbench.scenario.shipped import shipped
from kickbench.summary.data import MOST, Distribution, RunData
from kickbench.summary.summarise import write_summary

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{ {{7*7}} &amp; 漢"


class Page(HTMLParser):
    """The elements, ids and text of a document; fails when a tag is not closed properly."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return RunData.load(synthetic_run.build(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def html(data: RunData) -> str:
    return page(data)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """A run that has something for each figure."""
    cases = [*synthetic_run.sweep(), *synthetic_run.rate_sweep()[:2], *synthetic_run.kick_sweep()]
    cases.append(synthetic_run.kick_case(kickers=2, id="kick-guest-2vcpu-2kicker-local"))
    cases += [synthetic_run.nested_case(), synthetic_run.handover_case()]
    cases.append(synthetic_run.lifecycle_case(methods=["sigmask", "immediate_exit"]))
    controlled = ("sigmask", "sigmask_same", "immediate_exit")
    cases.append(synthetic_run.case(1, rate=5000.0, methods=controlled))
    run = synthetic_run.build(tmp_path_factory.mktemp("runs"), cases=cases, paced=True)
    return RunData.load(run)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """A VM that was observed. Such a run has nothing else, and what is not in the run above."""
    return RunData.load(synthetic_observed.build(tmp_path_factory.mktemp("observed")))


def emulated(folder: Path) -> RunData:
    cases = [*(synthetic_run.case(n) for n in (1, 2)), *synthetic_run.kick_sweep()]
    return RunData.load(synthetic_run.build(folder, cases=cases, emulated=True))


def edit_manifest(run: Path, **changes: Any) -> Path:
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run


# --- the page ----------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_every_id_is_there_once(html: str) -> None:
    tags = Page(html).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0
    for _, attrs in tags:
        targets = re.findall(r"url\(#([^)]*)\)", " ".join(v or "" for v in attrs.values()))
        targets += [
            target.removeprefix("#")
            for target in (attrs.get("href") or "", f"#{attrs.get('data-copy') or ''}")
            if target.startswith("#")
        ]
        targets += (attrs.get("aria-labelledby") or "").split()
        assert {target for target in targets if target} <= set(ids)


def test_the_page_loads_nothing(html: str) -> None:
    parsed = Page(html)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert parsed.count("link") == parsed.count("img") == parsed.count("iframe") == 0
    for _, attrs in parsed.tags:
        assert "src" not in attrs
        link = attrs.get("href") or "#"
        assert link.startswith("#") or (link.startswith("data:text/") and "download" in attrs)
        assert not [name for name in attrs if name.startswith("on")]


def test_the_page_runs_its_own_script_and_no_other(html: str) -> None:
    assert html.count("<script") == 1
    code = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    (policy,) = [
        attrs["content"]
        for _, attrs in Page(html).tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_what_needs_javascript_is_hidden_without_it(html: str) -> None:
    buttons = [attrs for tag, attrs in Page(html).tags if tag == "button"]
    assert {attrs["class"] for attrs in buttons} == {"copy", "scale"}
    assert all("hidden" in attrs for attrs in buttons if attrs["class"] == "copy")
    groups = [attrs for _, attrs in Page(html).tags if attrs.get("class") == "scales"]
    assert groups
    assert all("hidden" in attrs for attrs in groups)
    # Each of the buttons is in one of these.
    inside = re.findall(r'(?s)<div class="scales".*?</div>', html)
    assert sum(part.count('class="scale"') for part in inside) == html.count('class="scale"') > 0


def test_tables_are_sorted_by_numbers_not_by_their_texts(data: RunData, html: str) -> None:
    tags = Page(html).tags
    cells = [attrs["data-sort"] for tag, attrs in tags if tag == "td" and "data-sort" in attrs]
    mean = data.finished[0]["methods"]["sigmask"]["ns_per_exit"]["mean"]
    assert repr(mean) in cells
    # As JavaScript writes it; full speed is more than any rate.
    assert "Infinity" in cells
    assert all(re.fullmatch(r"-?[0-9][0-9.e+-]*|Infinity", cell or "") for cell in cells)
    heads = [attrs for tag, attrs in tags if tag == "th" and "data-column" in attrs]
    assert {attrs.get("data-sort") for attrs in heads} == {None, "number"}


def test_every_cell_has_its_column(html: str) -> None:
    for table in re.findall(r'<table class="cases">.*?</table>', html, re.DOTALL):
        head, body = table.split("<tbody>")
        numbers = sorted(int(n) for n in re.findall(r'data-column="([0-9]+)"', head))
        assert numbers == list(range(len(numbers)))
        for row in body.split("<tr")[1:]:
            assert row.count("<td") == len(numbers)
        first = head.split("<tr>")[1]
        spans = sum(int(n) for n in re.findall(r'colspan="([0-9]+)"', first))
        assert spans + first.count("data-column") == len(numbers)


def test_the_page_is_small_and_the_same_every_time(data: RunData, html: str) -> None:
    assert len(html.encode()) < 3_000_000
    assert page(data) == html


def test_a_run_of_many_placements_stays_small(tmp_path: Path) -> None:
    cases = [
        synthetic_run.case(n, placement=place)
        | {"exit_rate_hz": None, "id": f"{n}-{i}", "placement": {**place, "name": f"p{i}"}}
        for i in range(20)
        for place in synthetic_run.PLACEMENTS[:1]
        for n in (1, 2)
    ]
    run = synthetic_run.build(tmp_path, cases=cases, rounds=4)
    assert len(page(RunData.load(run)).encode()) < 3_000_000


def test_the_page_says_the_verdict_word_for_word(data: RunData, html: str) -> None:
    text = Page(html).text
    for line in verdict(data.summary).lines:
        assert line in text


def test_numbers_stay_with_their_units_and_intervals_together(data: RunData) -> None:
    html = page(with_noise(data))
    assert re.search(r"\d\N{NO-BREAK SPACE}ns more per quiet exit", html)
    assert "(95\N{NO-BREAK SPACE}% CI " in html
    interval = r"\(\d+\.\d+\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}\d+"
    assert re.search(r">\+\d+\.\d+ <span class=\"ci\">" + interval, html)
    assert r"\xa0" not in html


def test_the_control_of_a_case_is_shown_once_for_each_figure(data: RunData) -> None:
    rows = tables.rows_of(data.finished)
    columns = tables.TABLES["exits"].parts[0].columns
    differences = [column for column in columns if column.group.startswith("method - baseline")]
    assert [column.name for column in differences] == ["quiet", "mean"]
    for column in differences:
        shown = [row for row in rows if column.cell(row).startswith("A/A ok: ")]
        assert [row.case["id"] for row in shown] == [case["id"] for case in data.finished]
        assert {row.method for row in shown} == {"immediate_exit"}


def test_the_page_has_the_numbers_of_the_summary_file(data: RunData, html: str) -> None:
    summary = write_summary(data.reader.path)
    text = Page(html).text
    for case in summary["cases"]:
        for figures in case["methods"].values():
            assert whole(figures["exits_per_second"]) in text
            assert whole(figures["n"]) in text


def test_the_page_has_every_case_the_host_and_how_to_repeat_it(data: RunData, html: str) -> None:
    text = Page(html).text
    assert "this host has no node 1" in text
    assert "exits-pm_timer-8vcpu-20000hz-remote_siglock" in text
    assert "6.12.0-test" in text
    assert "Imaginary CPU 3000" in text
    assert "kickbench run synthetic.toml" in text
    assert data.reader.run_id in text


def test_the_environment_has_what_a_reader_asks_first(html: str) -> None:
    text = Page(html).text
    for fact in (
        "Kernel command line ro quiet mitigations=auto",
        "Microcode 0x1",
        "Governor performance",
        "Clock source tsc",
        "Libraries numpy 2.0.0",
        "Mitigations spectre_v2: Mitigation: Enhanced IBRS not affected by the other 1",
        "NUMA nodes node 0: CPUs 0-7 node 1: CPUs 8-15",
        "Clock of the stamps tsc, 2,500 MHz, a stamp costs 10.0 ns",
    ):
        assert fact in text


def with_doctor(folder: Path, findings: object) -> str:
    environment = {**synthetic_run.ENVIRONMENT, "doctor": findings}
    cases = [synthetic_run.case(1)]
    run = synthetic_run.build(folder, cases=cases, rounds=4, environment=environment)
    return Page(page(RunData.load(run))).text


def test_the_doctors_warnings_are_in_the_report(tmp_path: Path, html: str) -> None:
    warning = {"id": "steal", "title": "Steal time", "status": "warn", "detail": "0.8 % since boot"}
    fine = {"id": "kvm", "title": "/dev/kvm", "status": "ok", "detail": "usable", "advice": None}
    text = with_doctor(tmp_path / "some", [warning | {"advice": "use bare metal"}, fine])
    assert "Steal time (warn): 0.8 % since boot use bare metal" in text
    assert "the doctor warned of 1 thing on this host" in text
    assert "/dev/kvm" not in text
    assert "found nothing to warn of" in with_doctor(tmp_path / "none", [])
    assert "doctor" not in Page(html).text  # of a run from before it was asked


@pytest.mark.parametrize("odd", [1, "x", {}, None, [1, None, {}, {"status": [{}], "title": 5}]])
def test_findings_of_another_shape_are_no_error(tmp_path: Path, odd: object) -> None:
    assert with_doctor(tmp_path, odd)


def test_what_can_be_scrolled_can_be_reached_with_the_keyboard(html: str) -> None:
    for tag, attrs in Page(html).tags:
        if attrs.get("class") == "scroll" or tag == "pre":
            assert attrs.get("tabindex") == "0"
            assert attrs.get("aria-label") or attrs.get("aria-labelledby")


# --- whose run it is ---------------------------------------------------------------------------


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": f"_{HOSTILE}"}
    cases = [
        synthetic_run.case(n, placement=place, program=HOSTILE, id=f"case-{n}") for n in (1, 2)
    ]
    skipped = synthetic_run.case(2, rate=5.0, placement=place, id="skipped")
    environment = {"hostname": HOSTILE, HOSTILE: {"a\x00\x1b]0;x\x07": ["\u202e" + HOSTILE]}}
    run = synthetic_run.build(
        tmp_path,
        cases=[*cases, skipped],
        scenario_name=HOSTILE,
        host=HOSTILE,
        environment=environment,
    )
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cases"][-1]["reason"] = HOSTILE
    manifest["scenario"]["description"] = HOSTILE
    manifest |= {"command": ["kickbench", HOSTILE], "emulated": True, "emulated_by": HOSTILE}
    edit_manifest(run, **manifest)
    path, data = write(run, tmp_path / "out")
    html = path.read_text()
    parsed = Page(html)
    assert parsed.count("script") == 1
    assert parsed.count("img") == 0
    assert parsed.text.count(HOSTILE) > 10
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", html)
    assert path.parent == tmp_path / "out"
    assert re.fullmatch(r"[A-Za-z0-9._+-]+\.html", file_name(data))


def test_long_values_and_deep_nesting_are_bounded(tmp_path: Path) -> None:
    deep: Any = "end"
    for _ in range(60):
        deep = {"x": deep}
    environment = {"deep": deep, "long": "y" * 100_000, "many": {str(i): i for i in range(5000)}}
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(1)], environment=environment)
    assert len(page(RunData.load(run))) < 1_000_000


def test_an_emulated_run_says_so_everywhere(tmp_path: Path) -> None:
    data = emulated(tmp_path)
    html = page(data)
    text = Page(html).text
    assert "<title>Emulated (QEMU TCG): " in html
    assert "no figure of this run is a time on hardware" in text
    for figure, plots in drawn(data):
        assert f"Emulated (QEMU TCG): {figure.title}" in text
        for plot in plots:
            assert plot.title.startswith("Emulated (QEMU TCG): ")
            assert plot.title.split(":")[0] in inline(plot, "x")
    for heading in re.findall(r"<h[1-4][^>]*>([^<]*)<", html.split('id="disturbances"')[0]):
        assert heading.startswith("Emulated (QEMU TCG): ")
    assert " ns " not in text.replace("emulated ns", "")


def test_an_unfinished_run_is_reported_as_partial(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, finish=False)
    assert "Partial: the run is not complete, 8 of 9 cases" in Page(page(RunData.load(run))).text


def test_a_run_cut_off_in_the_middle_is_reported(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, finish=False)
    manifest = json.loads((run / "manifest.json").read_text())
    for entry in manifest["cases"][3:]:
        shutil.rmtree(run / "cases" / entry["id"], ignore_errors=True)
        entry |= {"status": "pending", "reason": None}
    edit_manifest(run, **manifest)
    text = Page(page(RunData.load(run))).text
    assert "3 of 9 cases finished" in text
    assert "6 not run yet" in text


def test_a_run_of_one_vcpu_has_no_scaling_figure(tmp_path: Path) -> None:
    html = page(RunData.load(synthetic_run.build(tmp_path, cases=[synthetic_run.case(1)])))
    assert 'id="figure-cost"' in html
    assert 'id="figure-throughput"' not in html


# --- figures -----------------------------------------------------------------------------------


def test_every_figure_has_its_own_name_and_says_what_it_shows(
    every: RunData, observed: RunData
) -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        plots = [*figure.draw(every), *figure.draw(observed)]
        assert plots
        for plot in plots:
            assert re.search(r"\d", plot.finding)
            tags = Page(inline(plot, "plot")).tags
            assert tags[0][1]["role"] == "img"
            assert tags[0][1]["aria-labelledby"] == "plot-title plot-desc"


def test_every_axis_has_a_unit(every: RunData, observed: RunData) -> None:
    for figure in FIGURES:
        for plot in (*figure.draw(every), *figure.draw(observed)):
            (axes,) = plot.canvas.axes
            for label in (axes.get_xlabel(), axes.get_ylabel()):
                assert re.search(r"\[.+\]|vCPUs|kickers|per second|state|moment|window|way", label)


def test_a_method_has_one_colour_in_all_figures(every: RunData) -> None:
    for figure in FIGURES:
        known = "pending" if figure.name.startswith("nested-") else "sigmask"
        for plot in figure.draw(every):
            one = "sigmask_same" if plot.title.startswith("sigmask_same") else known
            colour = PART_STYLE[0] if figure.name == "prediction" else STYLES[one][0]
            assert colour in inline(plot, "x")
    assert len({colour for colour, _ in METHOD_STYLES.values()}) == len(METHOD_STYLES)
    assert len({colour for colour, _ in WAY_STYLES.values()}) == len(WAY_STYLES)


def test_the_cost_figure_draws_the_differences_of_the_summary(data: RunData) -> None:
    (plot,) = FIGURES[0].draw(data)
    drawn = [list(line.get_ydata()) for line in plot.canvas.axes[0].lines]
    for placement in ("local", "remote_siglock"):
        cases = [c for c in data.finished if c["placement"] == placement]
        assert [case["contrasts"][0]["diff"] for case in cases] in drawn


def with_noise(data: RunData) -> RunData:
    """As if the cases of 8 vCPUs had had too few CPUs, and so huge differences and intervals."""
    summary = copy.deepcopy(data.summary)
    crowded = [case for case in summary["cases"] if case["vcpus"] == 8 and case["methods"]]
    for case in crowded:
        case["contrasts"][0] |= {"diff": 40_000.0, "ci95": [-1e6, 1e6]}
        case["control"] |= {"ci95": [-2e6, 2e6]}
    return replace(data, summary=summary, oversubscribed=frozenset(case["id"] for case in crowded))


def test_cases_short_of_cpus_do_not_stretch_the_cost_figure(data: RunData) -> None:
    (plot,) = FIGURES[0].draw(with_noise(data))
    low, high = plot.canvas.axes[0].get_ylim()
    assert -100 < low < 0 < high < 400
    assert (
        "The axis ends where the cases with enough CPUs do; 8 vCPUs reach beyond it."
        in plot.finding
    )
    arrows = [line for line in plot.canvas.axes[0].lines if line.get_marker() == "^"]
    assert {tuple(np.atleast_1d(line.get_ydata())) for line in arrows} == {(high,)}
    (plain,) = FIGURES[0].draw(data)
    assert "The axis ends" not in plain.finding


def test_numbers_at_the_axis_of_cost_have_their_thousands_apart(data: RunData) -> None:
    every = frozenset(case["id"] for case in data.finished)
    (plot,) = FIGURES[0].draw(replace(with_noise(data), oversubscribed=every))
    assert ">1,000,000<" in inline(plot, "x")


def drawn_ecdf(data: RunData, share: float) -> Plot:
    """The distribution of two methods 1.5 % apart, where a share of the exits took 4 ms."""
    levels = np.unique(np.concatenate([np.linspace(0, 0.999, 1000), [0.9999, MOST]]))
    bulk = 1000 * (0.97 + 0.06 * levels)
    found = {
        method: Distribution(levels, np.where(levels > 1 - share, 4e6, bulk * factor), 10**6)
        for method, factor in (("sigmask", 1.015), ("immediate_exit", 1.0))
    }
    return _ecdf_plot(data, data.finished[0], found)


@pytest.mark.parametrize("share", [0.0001, 0.004, 0.03])
def test_a_preemption_does_not_stretch_the_distribution(data: RunData, share: float) -> None:
    plot = drawn_ecdf(data, share)
    low, high = plot.canvas.axes[0].get_xlim()
    assert low > 900
    assert high < 1200
    # 1.5 % are a good part of the axis.
    assert np.log(1.015) > 0.1 * np.log(high / low)
    assert "Beyond the axis are " in plot.finding
    assert " % of sigmask and " in plot.finding


@pytest.mark.parametrize(
    ("low", "high"),
    [(1000, 1000), (980, 1030), (7000, 9500), (500, 5000), (500, 4e6), (1e6, 1.3e6), (0, 1e9)],
)
def test_ticks_have_room(low: float, high: float) -> None:
    _, axes = new_plot("x")
    for which, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        log_ticks(axes, [low, high], which, tick_time)
        ends = axes.get_xlim() if which == "x" else axes.get_ylim()
        ticks = [tick for tick in axis.get_majorticklocs() if ends[0] <= tick <= ends[1]]
        assert 2 <= len(ticks) <= 9
        if which == "x":
            assert sum(len(tick_time(tick)) + 2 for tick in ticks) <= 48


def test_a_plot_is_the_same_file_every_time(data: RunData) -> None:
    first, second = (standalone(FIGURES[0].draw(data)[0], "name") for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


def test_text_in_a_plot_stays_text(data: RunData) -> None:
    assert ">remote_siglock<" in inline(FIGURES[0].draw(data)[0], "x")


def test_a_distribution_rises_and_ends_where_exits_end(data: RunData) -> None:
    case = data.finished[0]
    found = data.distributions(case["id"])
    assert list(found) == list(case["methods"])
    for method, distribution in found.items():
        times = case["methods"][method]["ns_per_exit"]
        assert (distribution.ns[1:] >= distribution.ns[:-1]).all()
        assert distribution.ns[-1] <= times["max"]
        assert distribution.probability[-1] <= min(MOST, 1 - 1 / distribution.exits)
        (middle,) = distribution.ns[abs(distribution.probability - 0.5) < 1e-9]
        assert middle == pytest.approx(times["p50"])


# --- the scenario as a file --------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_reported_scenario_can_be_run_again(name: str) -> None:
    scenario = load(shipped()[name])
    again = tomllib.loads(toml.dump(scenario.to_dict()))
    assert Scenario.from_dict(again) == scenario


_KEYS = st.text(st.characters(exclude_categories=["Cs"]))
_PLAIN = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _KEYS
)
_JSON = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(_KEYS, _JSON, max_size=4))
def test_any_scenario_survives_as_toml(data: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dump(data)) == data


# --- the command -------------------------------------------------------------------------------


def run_cli(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_only_the_paths(data: RunData, tmp_path: Path) -> None:
    result = run_cli("report", data.reader.path, data.reader.path.parent, "-o", tmp_path / "a/b")
    assert result.exit_code == 0
    (first,) = result.stdout.splitlines()
    assert first == str(tmp_path / "a/b" / f"synthetic-{data.reader.run_id}.html")
    assert "the same run as" in result.stderr
    assert Path(first).read_text().startswith("<!DOCTYPE html>")
    names = sorted(path.name for path in (tmp_path / "a/b").iterdir())
    assert names == ["index.html", Path(first).name]


def in_a_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "kickbench", *map(str, arguments)]
    kept = {key: value for key, value in os.environ.items() if key != "MPLCONFIGDIR"}
    return subprocess.run(command, capture_output=True, env=kept | environment, check=False)


def test_nothing_is_said_of_a_home_that_cannot_be_written(data: RunData, tmp_path: Path) -> None:
    result = in_a_process("report", data.reader.path, "-o", tmp_path, HOME="/proc/nohome")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(list(tmp_path.glob("*.html"))) == 2


def test_paths_that_are_not_utf8_are_read_and_written(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/res\xff"))
    run = synthetic_run.build(odd, cases=[synthetic_run.case(1)], rounds=4)
    result = in_a_process("report", run, "-o", odd / "out")
    assert (result.returncode, result.stderr) == (0, b"")
    assert Path(os.fsdecode(result.stdout.rstrip(b"\n"))).is_file()
    shown = in_a_process("show", odd)
    assert shown.returncode == 0
    assert b"res\\udcff" in shown.stdout
    shutil.rmtree(run / "cases")
    for command in ("show", "report"):
        result = in_a_process(command, run)
        assert result.returncode == 2
        assert b"is missing" in result.stderr


def test_no_finished_case_is_a_report_and_a_warning(tmp_path: Path) -> None:
    cases = [synthetic_run.case(2, rate=5.0)]
    run = synthetic_run.build(tmp_path / "results", cases=cases)
    result = run_cli("report", run, "-o", tmp_path)
    assert result.exit_code == 0
    assert "no case finished" in result.stderr
    text = Page(Path(result.stdout.strip()).read_text()).text
    assert "No case finished, so there is no answer." in text
    assert "this host has no node 1" in text


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        error = run_cli("report", path, "-o", tmp_path / "out").exception
        assert isinstance(error, ResultsError)
        assert error.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(data: RunData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, kind in (
        (tmp_path / "file", UsageError),
        (tmp_path / "file" / "below", UsageError),
        (Path("/proc/self/fdinfo"), MeasurementError),
    ):
        with pytest.raises(kind) as caught:
            write(data.reader.path, folder)
        assert isinstance(caught.value, KickbenchError)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
