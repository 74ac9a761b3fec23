# SPDX-License-Identifier: Apache-2.0
"""Runs without tables, half-written and hostile ones: ``show`` and ``report`` say one clear line.

What is wrong with single documents and tables is in test_results_reader; here is the command as a
user has it, and summary.json where it is all that is left of a run.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_observed
import synthetic_run
from command import kickbench
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import EXIT_MEASUREMENT, EXIT_OK, EXIT_USAGE, ResultsError
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages.run import page
from kickbench.report.words.verdict import notes
from kickbench.results.schema import dump_json
from kickbench.results.tables import Table, tables_of
from kickbench.summary.data import RunData
from kickbench.summary.summarise import write_summary

EXITS = synthetic_run.case(2)
CASES = [
    EXITS,
    synthetic_run.case(2, id="kicked", kick_rate_hz=1000.0),
    synthetic_run.kick_case("guest"),
    synthetic_run.pause_case(2),
    synthetic_run.race_case(50_000.0),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a case of every kind, and its summary.json."""
    run = synthetic_run.build(tmp_path_factory.mktemp("results"), cases=CASES, rounds=8)
    write_summary(run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture(scope="module")
def stripped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is attached to a mail: manifest.json and summary.json."""
    folder = tmp_path_factory.mktemp("stripped")
    for name in ("manifest.json", "summary.json"):
        shutil.copy(whole / name, folder)
    return folder


@pytest.fixture(scope="module")
def folders(stripped: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of a run of scenarios, and of a VM that was observed."""
    run = synthetic_observed.build(tmp_path_factory.mktemp("observed"), vcpus=3, lost=1)
    write_summary(run)
    shutil.rmtree(run / "cases")
    return {"stripped": stripped, "observed": run}


def refused(code: int, fragment: str, *arguments: object, **options: Any) -> None:
    """The command ends with the code, and with one line that has the fragment."""
    done = kickbench(*arguments, **options)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("kickbench: ")
    assert fragment in line


def edit(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))


# --- without tables ----------------------------------------------------------------------------


def test_a_summary_says_what_its_tables_said(whole: Path, stripped: Path) -> None:
    with_tables, without = RunData.load(whole), RunData.load(stripped)
    assert json.loads(dump_json(without.summary)) == json.loads(dump_json(with_tables.summary))
    assert with_tables.without_tables == set()
    assert without.without_tables == {case["id"] for case in CASES}


def test_show_and_report_take_a_run_without_tables(stripped: Path, tmp_path: Path) -> None:
    shown = kickbench("show", stripped)
    assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
    assert "the tables of 5 of 5 cases are missing" in shown.stdout
    done = kickbench("report", stripped, "-o", tmp_path)
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    text = Path(done.stdout.strip()).read_text()
    assert "the tables of 5" in text
    assert "figures that need tables are left out" in text
    summary = json.loads((stripped / "summary.json").read_bytes())
    assert json.loads(kickbench("show", stripped, "--json").stdout) == summary


def test_a_run_with_its_tables_says_nothing_of_tables(whole: Path) -> None:
    assert "tables" not in kickbench("show", whole).stdout


def test_only_figures_that_need_tables_are_left_out(whole: Path, stripped: Path) -> None:
    def drawn(path: Path) -> set[str]:
        return {figure.name for figure in FIGURES if figure.draw(RunData.load(path))}

    assert drawn(stripped) < drawn(whole)
    assert {"cost", "kick-latency"} <= drawn(stripped)
    assert "ecdf" in drawn(whole) - drawn(stripped)


def test_tables_deleted_one_by_one_are_as_good_as_a_missing_folder(run: Path) -> None:
    for table in run.rglob("*.parquet"):
        table.unlink()
    assert len(RunData.load(run).without_tables) == len(CASES)


def test_an_observed_vm_is_shown_without_its_tables(tmp_path: Path) -> None:
    run = synthetic_observed.build(tmp_path, vcpus=3)
    write_summary(run)
    with_tables = RunData.load(run)
    shutil.rmtree(run / "cases")
    without = RunData.load(run)
    assert json.loads(dump_json(without.summary)) == json.loads(dump_json(with_tables.summary))
    drawn = {figure.name for figure in FIGURES if figure.draw(without)}
    assert drawn == {"observed-ways"}
    assert "Its vCPUs" in page(without)


OBSERVED_LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "more ways than a summary has": (
        lambda c: c["exits"]["ways"].extend(200 * c["exits"]["ways"]),
        "ways",
    ),
    "a share of 200 %": (lambda c: c["exits"]["ways"][0].update(share=2.0), "share"),
    "a name of two lines": (lambda c: c.update(vmm="a\nb"), "vmm"),
    "another protocol": (lambda c: c["protocol"].update(id="sigmask"), "protocol"),
    "pauses without times": (lambda c: c["kicks"].update(pauses=0), "pause_ns"),
    "events lost by no kind": (lambda c: c.update(lost_events=7), "lost_events"),
    "an unknown state": (lambda c: c["kicks"]["by_state"].update(asleep={}), "by_state"),
    "a CPU that no host has": (lambda c: c["vcpus_seen"][0].update(cpus=[2**40]), "cpus"),
    "a negative rate": (lambda c: c["exits"].update(per_second=-1.0), "per_second"),
    "a cost outside its interval": (lambda c: c["overhead"].update(share=9.0), "ci95"),
    "a latency outside its interval": (
        lambda c: c["methods"]["immediate_exit"]["latency_ci95"].update(p50=[0.0, 1.0]),
        "latency_ci95",
    ),
}


@pytest.mark.parametrize("lie", OBSERVED_LIES)
def test_a_tampered_observation_is_refused(tmp_path: Path, lie: str) -> None:
    run = synthetic_observed.build(tmp_path)
    write_summary(run)
    shutil.rmtree(run / "cases")
    change, fragment = OBSERVED_LIES[lie]
    edit(run / "summary.json", lambda summary: change(summary["cases"][0]))
    with pytest.raises(ResultsError, match=fragment) as refusal:
        RunData.load(run)
    assert "is damaged" in str(refusal.value)


def test_where_a_case_has_its_tables_they_win(run: Path) -> None:
    def lie(summary: Any) -> None:
        for case in summary["cases"]:
            case["warnings"] = ["the summary speaks"]

    edit(run / "summary.json", lie)
    assert not any(case["warnings"] for case in RunData.load(run).summary["cases"])
    shutil.rmtree(run / "cases" / EXITS["id"])
    data = RunData.load(run)
    assert data.without_tables == {EXITS["id"]}
    said = {case["id"]: case["warnings"] for case in data.summary["cases"]}
    assert said.pop(EXITS["id"]) == ["the summary speaks"]
    assert not any(said.values())
    assert any(note.text.startswith("the tables of 1 of 5 cases") for note in _notes(data))


def test_what_the_manifest_says_is_not_the_summarys_to_say(stripped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stripped, tmp_path / "run"))

    def lie(summary: Any) -> None:
        summary |= {"complete": False, "emulated": True, "scenario": "another", "more": 1}
        summary["cases"][0] |= {"vcpus": 64, "placement": "moon", "title": "lies", "more": 1}

    edit(folder / "summary.json", lie)
    assert RunData.load(folder).summary == RunData.load(stripped).summary


def test_tables_half_gone_are_damage(run: Path) -> None:
    (run / "cases" / EXITS["id"] / "blocks.parquet").unlink()
    refused(EXIT_USAGE, "blocks.parquet: is missing", "show", run)


def test_neither_tables_nor_a_summary(stripped: Path, tmp_path: Path) -> None:
    shutil.copy(stripped / "manifest.json", tmp_path)
    refused(EXIT_USAGE, "summary.json: is missing, and so are the tables", "show", tmp_path)
    refused(EXIT_USAGE, "summary.json: is missing", "report", tmp_path, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stripped_run_is_not_continued(stripped: Path) -> None:
    # Its finished cases would be lost for good.
    done = kickbench("run", "--resume", stripped)
    assert done.returncode != EXIT_OK
    assert not (stripped / "cases").exists()


def _notes(data: RunData) -> list[Any]:
    return notes(data.summary, data.without_tables)


# --- a stranger's summary ----------------------------------------------------------------------


def case_of(summary: Any, kind: str) -> Any:
    return next(case for case in summary["cases"] if case["kind"] == kind)


def set_in(kind: str, *path: Any, value: Any) -> Callable[[Any], None]:
    def change(summary: Any) -> None:
        node = case_of(summary, kind)
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def drop_in(kind: str, *path: Any) -> Callable[[Any], None]:
    def change(summary: Any) -> None:
        node = case_of(summary, kind)
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


SIGMASK = ("methods", "sigmask")
FINDING = {"method": "sigmask", "what": "lost", "count": 1, "of": 2, "race_free_claim": True}
UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]  # a page takes a second, and so a failure


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda s: s.update(schema=3), "newer kickbench (schema 3); upgrade"),
        (lambda s: s.pop("schema"), "no schema version"),
        (lambda s: s.update(run_id="another"), "not of this run"),
        (lambda s: s.update(cases=7), "not a list"),
        (lambda s: s.update(cases=[None]), "not a list"),
        (lambda s: s["cases"].pop(), "does not have the case race-"),
        (lambda s: s["cases"].append(s["cases"][0]), "once and finished"),
        (set_in("kick", "status", value="failed"), "once and finished"),
        (set_in("kick", "kind", value="race"), "not those of the manifest"),
        (set_in("kick", *SIGMASK, "n", value="9"), "methods.sigmask.n: "),
        (set_in("kick", *SIGMASK, "n", value=-1), "methods.sigmask.n: "),
        (set_in("kick", *SIGMASK, "n", value=True), "methods.sigmask.n: "),
        (set_in("kick", *SIGMASK, "n", value=10**400), "methods.sigmask.n: "),
        (set_in("kick", *SIGMASK, "latency_ns", "p50", value=1e300), "p50: "),
        (set_in("kick", *SIGMASK, "latency_ns", "p50", value=10**400), "p50: "),
        (set_in("kick", *SIGMASK, "latency_ns", "p50", value=1e17), "above"),
        (set_in("kick", *SIGMASK, "latency_ns", "p50", value=None), "null"),
        (set_in("kick", *SIGMASK, "latency_ci95", "p50", value=[2, 1]), "above"),
        (set_in("kick", *SIGMASK, "latency_ci95", "p50", value=[1] * 3), "p50"),
        (set_in("kick", *SIGMASK, "lost", value=10**9), "more than were sent"),
        (set_in("kick", *SIGMASK, "race_free_claim", value="yes"), "race_free_claim"),
        (drop_in("kick", *SIGMASK), "not those of the manifest"),
        (drop_in("kick", *SIGMASK, "latency_ns", "p99"), "p99: "),
        (drop_in("kick", "findings"), "findings: "),
        (set_in("kick", "methods", "\x1b[31m", value={}), "is damaged"),
        (set_in("kick", "contrasts", 0, "method", value="exitfd"), "contrasts"),
        (set_in("kick", "contrasts", 0, "method", value="immediate_exit"), "contrasts"),
        (set_in("kick", "contrasts", 0, "baseline", value="sigmask"), "contrasts"),
        (set_in("kick", "contrasts", 0, "metric", value="ns_per_exit"), "contrasts"),
        (set_in("kick", "contrasts", 0, "diff", value=1e9), "within its interval"),
        (set_in("kick", "contrasts", 0, "ci95", value=[9, -9]), "above"),
        (set_in("kick", "contrasts", value=[{}] * 10_000), "contrasts: "),
        (lambda s: case_of(s, "kick")["control"].update(ok=False, ci_family=[-1e9, 1e9]),
         "not what its interval says"),
        (set_in("kick", "control", "metric", value="per_se"), "no such metric"),
        (set_in("exits", "control", "mean", "metric", value="per_se"), "no such metric"),
        (set_in("exits", "shift", 0, "points", value=[]), "points"),
        (set_in("kick", "warnings", value=["x"] * 10_000), "warnings: "),
        (set_in("kick", "warnings", value=[7]), "warnings.0: "),
        (set_in("kick", "stopped_by", value="me"), "stopped_by: "),
        (set_in("exits", *SIGMASK, "disturbances", value=None), "disturbances: "),
        (set_in("exits", *SIGMASK, "kicks", value=None), "kicks: "),
        (set_in("exits", *SIGMASK, "ns_per_exit", "p90", value=1.0), "above"),
        (set_in("pause_all", *SIGMASK, "first_ns", value=dict.fromkeys(
            ("p50", "p90", "p99", "max"))), "some of the times are null"),
        (set_in("race", *SIGMASK, "lost_upper95", value=1.5), "lost_upper95: "),
        (set_in("race", *SIGMASK, "landed", value=2**53), "more than were sent"),
        (set_in("race", "findings", 0, "method", value="exitfd"), "no such method"),
        (set_in("race", "findings", 0, "what", value="stolen"), "findings.0.what: "),
        (set_in("race", "findings", 0, "count", value=2**53), "more than there were"),
        (set_in("race", "findings", 0, "count", value=0), "findings.0.count: "),
        (set_in("race", "findings", 0, "count", value=1), "findings: "),
        (set_in("race", "findings", 0, "of", value=2**53), "findings: "),
        (set_in("race", "findings", 0, "race_free_claim", value=True), "findings: "),
        (set_in("race", "findings", value=[]), "findings: "),
        (lambda s: case_of(s, "race")["findings"].append(case_of(s, "race")["findings"][0]),
         "findings: "),
        (set_in("race", *SIGMASK, "lost", value=500), "lost_upper95"),
        (set_in("kick", "findings", value=[FINDING]), "findings: "),
        (set_in("kick", "findings", value=[FINDING | {"method": "immediate_exit"}]), "findings: "),
        (set_in("kick", *SIGMASK, "spurious", value=5), "findings: "),
        (set_in("kick", "methods", "immediate_exit", "spurious", value=5), "findings: "),
        (set_in("pause_all", "findings", value=[FINDING | {"what": "lost"}]), "findings: "),
        (set_in("pause_all", *SIGMASK, "rescued", value=3), "findings: "),
        (set_in("exits", "findings", value=[FINDING]), "findings: "),
        (set_in("exits", "processes", value=0), "processes: "),
        (set_in("exits", *SIGMASK, "estimates", "ns_per_exit",
                value={"value": 5.0, "ci95": [2000.0, 2001.0]}), "estimates.ns_per_exit: "),
        (set_in("exits", *SIGMASK, "estimates", "ns_per_exit",
                value={"value": -5.0, "ci95": [-6.0, -4.0]}), "estimates.ns_per_exit.value: "),
        (set_in("exits", *SIGMASK, "estimates", "ns_per_exit",
                value={"value": None, "ci95": [2.0, 4.0]}), "estimates.ns_per_exit: "),
        (set_in("exits", *SIGMASK, "ns_per_exit", "mean", value=2e18), "mean"),
        (set_in("kick", *SIGMASK, "latency_ci95", "p50", value=[1.0, 2.0]), "latency_ci95"),
        (set_in("kick", *SIGMASK, "latency_ci95", "p50", value=[-5.0, 1e17]), "latency_ci95"),
        (set_in("pause_all", *SIGMASK, "last_ci95", "p50", value=[1.0, 2.0]), "last_ci95"),
        (set_in("race", *SIGMASK, "lost_ci95", value=[0.5, 0.6]), "lost_ci95"),
        (set_in("race", *SIGMASK, "lost_ci95", value=None), "lost_ci95"),
        (set_in("race", *SIGMASK, "lost_upper95", value=None), "lost_upper95"),
        (set_in("race", "methods", "flag_signal", "lost_upper95", value=0.0), "lost_upper95"),
        (set_in("race", *SIGMASK, "spurious_ci95", value=[0.5, 0.6]), "spurious_ci95"),
    ],
)  # fmt: skip
def test_a_tampered_summary_is_refused(
    stripped: Path, tmp_path: Path, change: Callable[[Any], object], fragment: str
) -> None:
    shutil.copy(stripped / "manifest.json", tmp_path)
    summary = json.loads((stripped / "summary.json").read_bytes())
    change(summary)
    sys.set_int_max_str_digits(0)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    sys.set_int_max_str_digits(4300)
    with pytest.raises(ResultsError) as caught:
        RunData.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'summary.json'}: ")
    assert fragment in message
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": NaN}', '{"schema": 1e999}', "[" * 100_000, '"\\ud800"']
)
def test_a_summary_that_is_not_json(stripped: Path, tmp_path: Path, text: str) -> None:
    shutil.copy(stripped / "manifest.json", tmp_path)
    (tmp_path / "summary.json").write_text(text)
    refused(EXIT_USAGE, "summary.json: is damaged", "show", tmp_path)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53, 1e18, -1e18, 1e-300, 0.5, "sigmask", "\x00\u202e", [], {}]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
)  # fmt: skip


def containers(node: Any) -> Iterator[Any]:
    """Every object and list of a JSON document that is not empty."""
    if isinstance(node, dict | list) and node:
        yield node
        for value in node.values() if isinstance(node, dict) else node:
            yield from containers(value)


def mutate(data: st.DataObject, summary: Any) -> None:
    """Deletes, replaces or scales something in the document."""
    for _ in range(data.draw(st.integers(1, 2))):
        found = [node for case in summary["cases"] for node in containers(case)]
        if not found:
            return
        node = data.draw(st.sampled_from(found))
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        how = data.draw(st.sampled_from(["replace", "delete", "scale"]))
        if how == "delete":
            del node[key]
        elif how == "scale" and isinstance(node[key], int | float):
            node[key] *= data.draw(st.sampled_from([0, -1, 2, 1000, 0.5]))
        else:
            node[key] = data.draw(ODD)


@settings(max_examples=300, deadline=None, phases=UNSHRUNK)
@given(data=st.data(), of=st.sampled_from(["stripped", "observed"]))
def test_whatever_a_summary_says_it_is_shown_or_refused(
    folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    of: str,
) -> None:
    stripped = folders[of]
    folder = tmp_path_factory.mktemp("mutant")
    shutil.copy(stripped / "manifest.json", folder)
    summary = json.loads((stripped / "summary.json").read_bytes())
    mutate(data, summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    result = CliRunner().invoke(app, ["show", str(folder)])
    if result.exception is None:
        assert result.exit_code == EXIT_OK
        assert result.stdout
    else:
        assert isinstance(result.exception, ResultsError)
        assert str(result.exception).isprintable()


@settings(max_examples=25, deadline=None, phases=UNSHRUNK)
@given(data=st.data(), of=st.sampled_from(["stripped", "observed"]))
def test_whatever_is_accepted_makes_a_page(
    folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    of: str,
) -> None:
    """Every number is replaced by an odd one, where the document is still accepted with it."""
    stripped = folders[of]
    folder = tmp_path_factory.mktemp("mutant")
    shutil.copy(stripped / "manifest.json", folder)
    accepted = json.loads((stripped / "summary.json").read_bytes())
    found = None
    for _ in range(8):
        changed = copy.deepcopy(accepted)
        mutate(data, changed)
        (folder / "summary.json").write_text(json.dumps(changed))
        try:
            found = RunData.load(folder)
        except ResultsError:
            continue
        accepted = changed
    if found is not None:
        assert "</html>" in page(found)


def strange_columns(table: Table, rng: np.random.Generator, strange: float) -> dict[str, Any]:
    """Numbers that the table's types allow, of which this share is far from usual."""
    n = int(rng.integers(0, 20))
    found: dict[str, Any] = {}
    for column in table.columns:
        if column.name == "vcpu" or pa.types.is_boolean(column.type):
            found[column.name] = rng.integers(0, 2, n).astype(bool).astype(int)
        else:
            most = min(2 ** (column.type.bit_width - 1) - 1, 2**53)
            usual, odd = rng.integers(0, 4, n), rng.integers(column.minimum, most, n)
            found[column.name] = np.where(rng.random(n) < strange, odd, usual)
    for small, large in table.at_most:
        found[large] = np.maximum(found[small], found[large])
    return found


@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
@given(
    seed=st.integers(0, 2**32),
    table=st.sampled_from(tables_of("observed")),
    strange=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_whatever_the_tables_of_an_observation_say_there_is_a_page(
    tmp_path_factory: pytest.TempPathFactory, seed: int, table: Table, strange: float
) -> None:
    columns = strange_columns(table, np.random.default_rng(seed), strange)
    folder = tmp_path_factory.mktemp("strange")
    run = synthetic_observed.build(folder, tables={table.name: columns})
    assert "</html>" in page(RunData.load(run))


def test_an_observation_has_the_vcpus_of_its_case(tmp_path: Path) -> None:
    run = synthetic_observed.build(tmp_path)
    (document,) = run.glob("cases/*/case.json")
    edit(document, lambda case: case["observed"]["vcpus"].pop())
    refused(EXIT_USAGE, "not as many as the case has", "show", run)


# --- half-written ------------------------------------------------------------------------------


def test_a_killed_run_is_reported_as_partial(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "results", cases=CASES[:1], rounds=4, finish=False)
    edit(run / "manifest.json", lambda m: m["cases"].append(_pending()))
    half = run / "cases" / ".exits-8.tmp-0123abcd"  # as it is while a case is being written
    half.mkdir()
    (half / "blocks.parquet").write_bytes(b"PAR1")
    shown = kickbench("show", run)
    assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
    assert shown.stdout.startswith("Partial: the run is not complete, 1 of 2 cases")
    done = kickbench("report", run, "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    assert "Partial: the run is not complete" in Path(done.stdout.strip()).read_text()


def _pending() -> dict[str, Any]:
    case = synthetic_run.case(8)
    return {"id": case["id"], "status": "pending", "reason": None, "case": case}


def test_complete_with_pending_cases_is_partial(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "results", cases=CASES[:2], rounds=8)

    def lie(manifest: Any) -> None:
        manifest["cases"][1]["status"] = "pending"

    shutil.rmtree(run / "cases" / CASES[1]["id"])
    edit(run / "manifest.json", lie)
    assert json.loads((run / "manifest.json").read_bytes())["complete"]
    assert RunData.load(run).summary["complete"] is False
    refused(EXIT_USAGE, "has no finished run", "show", tmp_path / "results")


@pytest.mark.parametrize("key", ["scenario", "environment"])
@pytest.mark.parametrize("levels", [150, 700])
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}], ids=["list", "object"])
def test_deep_nesting_is_refused(
    run: Path, key: str, levels: int, wrap: Callable[[Any], Any]
) -> None:
    deep: Any = 1
    for _ in range(levels):
        deep = wrap(deep)
    edit(run / "manifest.json", lambda manifest: manifest[key].update(deep=deep))
    with pytest.raises(ResultsError, match=r"manifest\.json: is damaged, .*nested"):
        RunData.load(run)


def test_a_race_of_more_kicks_than_any_has_a_figure(run: Path) -> None:
    (table,) = run.glob("cases/race-*/races.parquet")
    races = pq.read_table(table)
    for sent in (2**44, 2**53):
        at = races.column_names.index("sent")
        field = races.schema.field(at)
        column = pa.array([sent] * len(races), field.type)
        pq.write_table(races.set_column(at, field, column), table)
        assert {figure.name for figure in FIGURES if figure.draw(RunData.load(run))} >= {"race"}


def test_a_truncated_table_is_named(run: Path) -> None:
    table = run / "cases" / EXITS["id"] / "blocks.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    for command in (["show"], ["report", "-o", run.parent / "out"]):
        refused(EXIT_USAGE, f"{table}: is damaged or truncated", *command, run)
    assert not (run.parent / "out").exists()


def test_no_case_finished(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "results", cases=[synthetic_run.case(8, rate=20000.0)])
    shown = kickbench("show", run)
    assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
    assert shown.stdout.startswith("No case finished")
    done = kickbench("report", run, "-o", tmp_path / "out")
    assert done.returncode == EXIT_OK
    (line,) = done.stderr.splitlines()
    assert line.endswith("no case finished; the report says why")
    assert "this host has no node 1" in Path(done.stdout.strip()).read_text()


# --- not a run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "report"])
def test_not_a_results_folder(tmp_path: Path, command: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refused(EXIT_USAGE, "is not a results folder", command, tmp_path)
    refused(EXIT_USAGE, "does not exist", command, tmp_path / "absent")
    refused(EXIT_USAGE, "(it is a file)", command, tmp_path / "notes.txt")


@pytest.mark.parametrize("command", ["show", "report"])
def test_a_newer_schema(run: Path, command: str) -> None:
    edit(run / "manifest.json", lambda manifest: manifest.update(schema=3))
    refused(EXIT_USAGE, "newer kickbench (schema 3); upgrade", command, run)


# --- where the report goes ---------------------------------------------------------------------


def test_a_file_in_the_way_of_the_output_folder(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused(EXIT_USAGE, "is a file; choose another", "report", whole, "-o", tmp_path / "out")
    refused(EXIT_USAGE, "choose another folder", "report", whole, "-o", tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 3000, ""])
def test_a_name_that_no_folder_can_have(whole: Path, name: str) -> None:
    done = kickbench("report", whole, "-o", name)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000


def test_a_long_path_is_not_echoed_whole(tmp_path: Path) -> None:
    for command in ("show", "report"):
        done = kickbench(command, f"{tmp_path}/{'z' * 10_000}/end")
        assert done.returncode == EXIT_USAGE
        assert len(done.stderr) < 1000
        assert done.stderr.startswith(f"kickbench: {tmp_path}")
        assert "/end: " in done.stderr


def test_two_folders_of_one_run_are_refused(whole: Path, run: Path, tmp_path: Path) -> None:
    edit(run / "manifest.json", lambda manifest: manifest["environment"].update(hostname="lie"))
    refused(EXIT_USAGE, str(run), "report", whole, run, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_folder_by_two_names_is_one_run(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    done = kickbench("report", whole, tmp_path / "link", "-o", tmp_path / "out")
    assert done.returncode == EXIT_OK
    assert len(list((tmp_path / "out").glob("synthetic-*.html"))) == 1


def test_a_folder_that_can_be_made_nowhere(whole: Path) -> None:
    refused(EXIT_USAGE, "choose another folder with -o", "report", whole, "-o", "/proc/reports")


def test_a_read_only_output_folder(whole: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/self/task")  # root may write anywhere else
    else:
        folder = tmp_path / "out"
        folder.mkdir(mode=0o500)
    for options in ([], ["--assets"]):
        refused(
            EXIT_MEASUREMENT, f"cannot write to {folder}", "report", whole, "-o", folder, *options
        )


def test_a_full_disk_leaves_the_old_report(whole: Path, tmp_path: Path) -> None:
    done = kickbench("report", whole, "-o", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    assert before[Path(done.stdout.strip())]

    def fill() -> None:  # no file may become larger than this: the page is
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))

    refused(
        EXIT_MEASUREMENT, "the disk is full", "report", whole, "-o", tmp_path, preexec_fn=fill
    )  # fmt: skip
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_matplotlibrc_in_a_strangers_folder_is_not_obeyed(run: Path, tmp_path: Path) -> None:
    calm, theirs = tmp_path / "calm", tmp_path / "theirs"
    assert kickbench("report", run, "-o", calm).returncode == EXIT_OK
    settings_of_theirs = "text.usetex: True\naxes.linewidth: 5\nlines.linewidth: 9\n"
    (run / "matplotlibrc").write_text(settings_of_theirs)
    assert kickbench("report", ".", "-o", theirs, cwd=run).returncode == EXIT_OK
    (first,) = calm.glob("synthetic*.html")
    assert (theirs / first.name).read_bytes() == first.read_bytes()
