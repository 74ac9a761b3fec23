# SPDX-License-Identifier: Apache-2.0
"""A run in the formats of other tools, read by those tools' own parsers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kcidb_io
import pytest
import synthetic_run
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import JUnitXml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tap.parser import Parser
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.compare.metrics import points
from kickbench.export.formats import FORMATS
from kickbench.export.results import Case, Figure, Results, results
from kickbench.summary.data import RunData

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
number = st.floats(-1e12, 1e12)
figures = st.builds(
    Figure,
    *(text, text, text, st.none() | text, st.sampled_from(["ns_per_exit", "lost"]), text),
    *(
        st.sampled_from(["ns", "1/s", "share", "instructions"]),
        st.sampled_from(["lower", "higher"]),
    ),
    *(number, number, number, st.booleans()),
)
one_metric = figures.map(
    lambda one: dataclasses.replace(one, unit="share" if one.metric == "lost" else "ns")
)
cases = st.builds(
    Case,
    *(text, text, st.sampled_from(["pass", "fail", "skip", "error"]), text, st.floats(0, 1e6)),
    st.lists(one_metric, max_size=3).map(tuple),
)
anything = st.builds(
    Results,
    *(text, text, st.just("2026-03-01T12:00:00Z")),
    st.fixed_dictionaries({"hostname": text, "kernel": st.fixed_dictionaries({"release": text})}),
    st.lists(cases, max_size=3, unique_by=lambda case: case.id).map(tuple),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exits, a case that was skipped, and a race that a race-free protocol lost."""
    race = synthetic_run.race_case()
    return synthetic_run.build(
        tmp_path_factory.mktemp("results"), cases=[*synthetic_run.sweep(), race]
    )


@pytest.fixture(scope="module")
def exported(run: Path) -> Results:
    return results(RunData.load(run))


def export(name: str, of: Results) -> str:
    return FORMATS[name].write(of)


def test_every_figure_and_case_is_there(run: Path, exported: Results) -> None:
    summary = RunData.load(run).summary
    assert [case.id for case in exported.cases] == [case["id"] for case in summary["cases"]]
    assert {(f.case, f.method, f.baseline, f.metric, f.value) for f in exported.figures} == {
        (p.case, p.method, p.baseline, p.metric, p.estimate.value) for p in points(summary)
    }
    assert {case.outcome for case in exported.cases} == {"pass", "skip"}


def test_a_lost_kick_of_a_race_free_protocol_is_a_failure() -> None:
    lost = Figure("c", "race", "sigmask", None, "lost", "", "share", "lower", 0.1, 0.0, 0.2, True)
    case = Case("c", "race", "fail", "kicks lost: sigmask", 1.0, (lost,))
    found = Results("r", "s", "2026-03-01T12:00:00Z", {}, (case,))
    assert "not ok 1 - c" in export("tap", found)
    assert JUnitXml.fromstring(export("junit", found).encode()).failures == 1
    assert "TEST_CASE_ID=c RESULT=fail" in export("lava", found)
    tests = json.loads(export("kcidb", found))["tests"]
    assert [test["status"] for test in tests] == ["FAIL", "FAIL"]


# --- each format by its own parser --------------------------------------------------------------


def read_kcidb(written: str, of: Results) -> list[float]:
    report = json.loads(written)
    assert kcidb_io.schema.V5_3.is_valid_exactly(report)
    kcidb_io.schema.V5_3.validate_exactly(report)
    tests = report["tests"]
    assert len({test["id"] for test in tests}) == len(tests)
    return [test["number"]["value"] for test in tests if "number" in test]


def read_openmetrics(written: str, of: Results) -> list[float]:
    families = [*text_string_to_metric_families(written)]
    states = [s for f in families if f.type == "stateset" for s in f.samples if s.value == 1]
    assert len(states) == len(of.cases)
    return [
        sample.value * {"seconds": 1e9}.get(family.unit, 1.0)
        for family in families
        if family.type == "gauge" and "_ci95_" not in family.name
        for sample in family.samples
    ]


def read_junit(written: str, of: Results) -> list[float]:
    (suite,) = JUnitXml.fromstring(written.encode())
    assert suite.tests == len(of.cases)
    assert suite.skipped == sum(case.outcome == "skip" for case in of.cases)
    assert suite.errors == sum(case.outcome == "error" for case in of.cases)
    # The parser has no name for what newer readers know.
    values = suite._elem.findall("testcase/properties/property")
    return [float(value.get("value").split()[0]) for value in values]


def read_tap(written: str, of: Results) -> list[float]:
    lines = [*Parser().parse(io.StringIO(written))]
    tests = [line for line in lines if line.category == "test"]
    assert [line.number for line in tests] == [*range(1, len(of.cases) + 1)]
    assert sum(line.skip for line in tests) == sum(case.outcome == "skip" for case in of.cases)
    found = []
    for block in re.findall(r"^  ---\n(.*?)^  \.\.\.$", written, re.DOTALL | re.MULTILINE):
        found += [one["value"] for one in (yaml.safe_load(block).get("figures") or {}).values()]
    return found


def read_lava(written: str, of: Results) -> list[float]:
    # The pattern of lava_dispatcher/actions/test.py, and how it splits the parameters.
    found = []
    for line in written.splitlines():
        signal = re.fullmatch(r"<LAVA_SIGNAL_(\S+) ([^>]+)>", line)
        assert signal is not None, line
        given = dict(word.split("=", 1) for word in signal[2].split())
        assert given["RESULT"] in ("pass", "fail", "skip", "unknown")
        found += [float(given["MEASUREMENT"])] if "MEASUREMENT" in given else []
    return found


def read_csv(written: str, of: Results) -> list[float]:
    return [float(row["value"]) for row in csv.DictReader(io.StringIO(written, newline=""))]


def read_bencher(written: str, of: Results) -> list[float]:
    found = json.loads(written)
    measures = [measure for measures in found.values() for measure in measures.values()]
    assert all({*measure} == {"value", "lower_value", "upper_value"} for measure in measures)
    return [measure["value"] for measure in measures]


def read_github_benchmark(written: str, of: Results) -> list[float]:
    found = json.loads(written)
    assert all({*one} == {"name", "unit", "value", "range", "extra"} for one in found)
    assert all(type(one["name"]) is type(one["unit"]) is str for one in found)
    return [one["value"] for one in found]


READERS: dict[str, Callable[[str, Results], list[float]]] = {
    "bencher": read_bencher,
    "csv": read_csv,
    "github-benchmark": read_github_benchmark,
    "junit": read_junit,
    "kcidb": read_kcidb,
    "lava": read_lava,
    "openmetrics": read_openmetrics,
    "tap": read_tap,
}


def test_every_format_has_a_reader() -> None:
    assert READERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", READERS)
def test_a_run_is_read_with_all_its_figures(name: str, exported: Results) -> None:
    values = READERS[name](export(name, exported), exported)
    expected = [
        figure.value
        for figure in exported.figures
        if figure.better == "lower" or name != "github-benchmark"
    ]
    assert sorted(values) == pytest.approx(sorted(expected), rel=1e-6)


@pytest.mark.parametrize("name", READERS)
@given(of=anything)
@settings(max_examples=25)
def test_any_run_is_read(name: str, of: Results) -> None:
    READERS[name](export(name, of), of)


# --- the command --------------------------------------------------------------------------------


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_command_prints_or_writes(run: Path, tmp_path: Path, exported: Results) -> None:
    assert call(run, "--format", "tap").stdout == export("tap", exported)
    file = tmp_path / "run.csv"
    assert call(run, "-o", file).exit_code == 0
    assert file.read_bytes().decode() == export("csv", exported)


def test_an_unknown_format_is_a_line(run: Path) -> None:
    found = CliRunner().invoke(app, ["export", str(run), "--format", "xls"])
    assert "'xls' is none of bencher, csv, " in str(found.exception)
