# SPDX-License-Identifier: Apache-2.0
"""What docs/promises.md promises of files: old ones are read, and newer ones refused in a line.

``data`` has files as earlier versions of kickbench wrote them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_run
import typer
from command import kickbench_captured
from typer.testing import CliRunner

import kickbench
from kickbench import errors
from kickbench.cli import app
from kickbench.engine import protocols
from kickbench.errors import EXIT_USAGE, ResultsError, UsageError
from kickbench.fleet import tables
from kickbench.fleet.compact import compact
from kickbench.fleet.files import Files
from kickbench.fleet.query import ask
from kickbench.fleet.run import begun
from kickbench.fleet.store import add_run
from kickbench.nightly import config as nightly
from kickbench.nightly.history import History
from kickbench.nightly.night import COLUMNS
from kickbench.report.pages import index
from kickbench.results.explanation import load_explanation
from kickbench.results.reader import RunReader
from kickbench.results.tables import TABLES
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand
from kickbench.summary.data import RunData

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
FIRST = DATA / "first"
"""What people wrote for the first version that could read it."""


# --- runs ----------------------------------------------------------------------------------------


RUNS = {
    "run_first": 8,
    "schema_1": 49,
    "schema_2": 26,
    "run_kinds": 20,
    "run_nested": 13,
    "run_observed": 1,
}
"""Runs with the number of their figures. The first is of the first version of all. ``run_kinds``
and ``run_nested`` have the other kinds, and ``run_observed`` is of a VM that ran already."""


def test_there_is_a_run_of_every_kind() -> None:
    records = [record for name in RUNS for record in RunReader(DATA / name).cases]
    kinds = {record.parameters["kind"] for record in records if record.status == "ok"}
    assert kinds == {kind for table in TABLES.values() for kind in table.kinds}


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a JSON document."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def as_written(folder: Path) -> set[float]:
    return set(numbers(json.loads((folder / "summary.json").read_text())))


def missing(run: kickbench.Run, written: set[float]) -> list[str]:
    """The figures of a run whose values its summary.json has not.

    The last digits depend on the CPU: numpy adds in the order of its widest instructions.
    """
    figures = run.figures()
    near = np.isclose(figures.value.to_numpy()[:, None], [*written], rtol=1e-12, atol=0)
    return sorted({*figures.metric[~near.any(axis=1)]})


REPLACED = {"aimed"}
"""Columns that were left out with schema 2, because others say what they were for."""


@pytest.mark.parametrize("name", RUNS)
def test_every_column_of_a_run_reads_as_it_was_written(name: str) -> None:
    reader = RunReader(DATA / name)
    paths = sorted((DATA / name).glob("cases/*/*.parquet"))
    assert paths
    for path in paths:
        written = pq.ParquetFile(path).read()
        read = reader.table(path.parent.name, path.stem)
        assert {*written.column_names} - {*read.column_names} <= REPLACED
        for column in TABLES[path.stem].columns:
            if column.name in written.column_names:
                wanted = written.column(column.name).to_pylist()
                metadata = written.field(column.name).metadata
                assert metadata[b"unit"].decode() == column.unit
            else:
                assert column.later
                wanted = [column.absent.as_py()] * written.num_rows
            assert repr(read.column(column.name).to_pylist()) == repr(wanted)  # NaN is not NaN


@pytest.mark.parametrize("name", RUNS)
def test_the_figures_of_a_run_are_those_that_were_written(name: str) -> None:
    run = kickbench.read(DATA / name)
    assert len(run.figures()) == RUNS[name]
    # How the first runs estimated these has changed. docs/promises.md says so.
    estimates = (
        ["cpu_ns_per_exit", "exits_per_second", "ns_per_exit"] if name == "run_first" else []
    )
    assert missing(run, as_written(DATA / name)) == estimates


@pytest.mark.parametrize("name", RUNS)
def test_so_are_those_of_a_run_without_its_tables(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(
        DATA / name, tmp_path / name, ignore=shutil.ignore_patterns("cases", "pyperf.json")
    )
    run = kickbench.read(folder)
    assert missing(run, as_written(folder)) == []
    assert not run.figures().empty
    done = CliRunner().invoke(app, ["show", str(folder)])
    assert (done.exit_code, done.exception) == (0, None)


def test_an_explanation_of_before_there_were_shared_lines_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / "run_first", tmp_path / "run")
    shutil.copy(DATA / "explanation_first.json", folder / "explain.json")
    found = load_explanation(folder)
    assert found is not None
    assert {name: one.instructions for name, one in found.methods.items()} == {
        "immediate_exit": 2518,
        "sigmask": 2656,
    }
    assert found.kicks["halted"]["immediate_exit"].instructions == 6916


def test_the_index_lists_a_report_of_the_first_version(tmp_path: Path) -> None:
    """Its head is all that is read. The file here has no more."""
    shutil.copy(FIRST / "report.html", tmp_path / "old.html")
    index.update(tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "./old.html" in page
    assert "No difference between methods has an interval: too few rounds had exits." in page


# --- the history of the nights -------------------------------------------------------------------


def test_the_first_nights_and_what_was_said_of_them_are_read() -> None:
    history = History(DATA / "history_first")
    (partition,) = history.partitions()
    nights = history.read(partition)
    assert [(night.run_id, night.run_schema) for night in nights] == [
        ("20261130T170903Z-vm-1b629108", 1),
        ("20261130T171021Z-vm-e950aea6", 1),
    ]
    for night, name in zip(nights, partition.runs, strict=True):
        written = pq.ParquetFile(partition.path / name).read()
        assert night.table.column("floor").null_count == written.num_rows
        assert {*written.column_names} <= {column for column, _, _ in COLUMNS}
        for column in ("case", "method", "baseline", "metric", "value", "ci95_low", "ci95_high"):
            assert night.table.column(column).to_pylist() == written.column(column).to_pylist()
    assert [(event.what, event.run_id[:16], event.reason) for event in history.events()] == [
        ("verdict", "20261130T170903Z", ""),
        ("verdict", "20261130T171021Z", ""),
        ("accept", "20261130T170903Z", "a new kernel"),
        ("forget", "20261130T171021Z", "a backup ran"),
    ]
    assert history.problems == []


# --- what people write ---------------------------------------------------------------------------

SCENARIOS = {"quick": 2, "exit_throughput": 8, "numa_siglock": 16, "smp_windows_like": 16}
"""The first scenarios, with the number of their cases."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_first_scenarios_still_say_the_same(name: str) -> None:
    assert len(expand(load(FIRST / f"{name}.toml"))) == SCENARIOS[name]


@pytest.mark.parametrize("name", [name for name in RUNS if name != "run_observed"])
def test_the_scenario_of_a_run_still_has_its_cases(name: str) -> None:
    """Cases are compared by their ids, from run to run and from night to night."""
    manifest = RunReader(DATA / name).manifest
    scenario = Scenario.from_dict(manifest["scenario"])
    assert [case.id for case in expand(scenario)] == [case["id"] for case in manifest["cases"]]


def test_the_first_file_of_a_nightly_job_still_says_the_same() -> None:
    job = nightly.load(FIRST / "nightly.toml")
    assert [scenario.name for scenario in job.scenarios] == ["smp_windows_like", "pause_all"]
    assert (job.settings.baseline_nights, job.settings.window) == (60, 3)


def test_the_first_protocol_still_compiles(tmp_path: Path) -> None:
    library = protocols.build(FIRST / "my_protocol.c", tmp_path)
    protocols.load(library, "my_protocol")


# --- a newer kickbench ---------------------------------------------------------------------------


def newer(path: Path) -> str:
    """Make the file one of a later schema. Returns what is to be said of it."""
    document = json.loads(path.read_text())
    document = dict.fromkeys(document, "in another shape") | {"schema": 9}
    path.write_text(json.dumps(document))
    return f"{path}: was written by a newer kickbench (schema 9); upgrade kickbench"


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("manifest.json", ("show",)),
        ("manifest.json", ("run", "--resume")),
        ("summary.json", ("show",)),
        ("explain.json", ("report", "-o", "reports")),
    ],
)
def test_a_newer_file_of_a_run_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(DATA / "run_first", tmp_path / "run")
    shutil.copy(DATA / "explanation_first.json", run / "explain.json")
    if file == "summary.json":
        shutil.rmtree(run / "cases")
    said = newer(run / file)
    done = kickbench_captured(*command, run)
    assert (done.returncode, done.stderr) == (EXIT_USAGE, f"kickbench: {said}\n")


def test_a_newer_plan_of_boots_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    said = newer(tmp_path / "state.json")
    done = kickbench_captured("ab", "status", tmp_path)
    assert (done.returncode, done.stderr) == (EXIT_USAGE, f"kickbench: {said}\n")


def test_a_newer_event_of_a_history_is_left_out_with_a_line(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / "history_first", tmp_path / "history")
    said = newer(min(folder.glob("_events/*")))
    history = History(folder)
    assert len(history.events()) == 3
    assert history.problems == [f"{said}; left out"]


def test_a_newer_night_of_a_history_is_left_out_with_a_line(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / "history_first", tmp_path / "history")
    path = min(folder.rglob("*.parquet"))
    table = pq.ParquetFile(path).read()
    document = json.loads(table.schema.metadata[b"kickbench.night"])
    newest = json.dumps({**document, "schema": 9, "cases": "in another shape"})
    pq.write_table(table.replace_schema_metadata({b"kickbench.night": newest}), path)
    history = History(folder)
    (partition,) = history.partitions()
    assert [night.run_id for night in history.read(partition)] == ["20261130T171021Z-vm-e950aea6"]
    said = "was written by a newer kickbench (schema 9); upgrade kickbench; left out"
    assert history.problems == [f"{path}: {said}"]


# --- names and numbers ---------------------------------------------------------------------------


def rows(page: str, heading: str) -> dict[str, str]:
    """The first two columns of a table of docs/promises.md, by the first."""
    text = page.partition(f"| {heading} |")[2].partition("\n\n")[0]
    cells = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return {row[0].strip().strip("`"): row[1].strip() for row in cells}


PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def test_the_exit_codes_are_these() -> None:
    codes = {name: code for name, code in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0,
        "EXIT_REGRESSION": 1,
        "EXIT_USAGE": 2,
        "EXIT_HOST": 3,
        "EXIT_MEASUREMENT": 4,
        "EXIT_INTERRUPTED": 130,
    }
    assert [int(code) for code in rows(PAGE, "code")] == list(codes.values())


OURS = {"KICKBENCH_LAB", "KICKBENCH_MACHINE"}
"""What kickbench says to itself, or to the shell in a machine of the lab."""


def test_the_page_and_the_manual_have_every_variable_of_the_environment() -> None:
    modules = (ROOT / "kickbench").rglob("*.py")
    found = {
        name
        for module in modules
        for name in re.findall(r"\"(KICKBENCH_[A-Z_]+)\"", module.read_text(encoding="utf-8"))
    }
    assert found - OURS == set(rows(PAGE, "variable"))
    manual = (ROOT / "packaging/man/kickbench.1").read_text(encoding="utf-8")
    assert found - OURS == set(re.findall(r"^\\fB(KICKBENCH_\w+)\\fP$", manual, re.MULTILINE))


def options(command: Any, name: str = "") -> Iterator[str]:
    """Each command with each of its options and arguments: "run --quick"."""
    for one in command.params:
        yield from (f"{name} {option}".strip() for option in one.opts)
    for inner, sub in getattr(command, "commands", {}).items():
        yield from options(sub, f"{name} {inner}".strip())


def test_every_command_has_the_options_that_it_had() -> None:
    promised = (DATA / "options.txt").read_text().splitlines()
    assert {*promised} - {*options(typer.main.get_command(app))} == set()


# --- the store of a fleet ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Files:
    """A store of two runs, from before fleets had a measurement of their own."""
    return Files(str(shutil.copytree(DATA / "store_first", tmp_path / "store")))


OLD_ROWS = [
    ("host-0", "20261130T171143Z-vm-eb4fe163", None, 7554.41454693856),
    ("host-1", "20261130T171155Z-vm-0cbd85b2", None, 7427.723061505429),
]
SQL = """
SELECT host, run_id, fleet, value FROM runs JOIN metrics USING (host, run_id)
WHERE method = 'immediate_exit' AND metric = 'cpu_ns_per_exit' AND host LIKE 'host-%' ORDER BY host
"""


@pytest.mark.parametrize("new", ["z", "0"])
def test_an_old_store_is_read_beside_new_runs(store: Files, tmp_path: Path, new: str) -> None:
    """Whichever of them comes first."""
    assert ask(store, SQL, pytest.fail).rows == OLD_ROWS
    folder = synthetic_run.build(tmp_path, cases=[synthetic_run.case(vcpus=1)])
    add_run(store, RunData.load(folder), host=new, fleet="f")
    for _ in range(2):
        assert ask(store, SQL, pytest.fail).rows == OLD_ROWS
        assert ask(store, "SELECT host FROM runs WHERE fleet = 'f'", pytest.fail).rows == [(new,)]
        compact(store, pytest.fail)


def test_a_store_has_the_columns_that_it_had() -> None:
    for table, columns in tables.COLUMNS.items():
        for path in (DATA / "store_first" / table).rglob("*.parquet"):
            written = pq.ParquetFile(path).schema_arrow
            there = pa.schema([(name, kind) for name, kind, _ in columns if name in written.names])
            assert there.equals(written)


def test_a_store_says_its_schema(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    add_run(files, RunData.load(synthetic_run.build(tmp_path)))
    assert json.loads(files.read("store.json")) == {"schema": 1}


def test_a_newer_store_is_neither_read_nor_written(store: Files, tmp_path: Path) -> None:
    store.write("store.json", b'{"schema": 2, "new": true}')
    before = store.list("", "")
    said = r"store.json: was written by a newer kickbench \(schema 2\); upgrade kickbench"
    data = RunData.load(synthetic_run.build(tmp_path))
    for use in (
        lambda: ask(store, SQL, pytest.fail),
        lambda: add_run(store, data),
        lambda: compact(store, pytest.fail),
        lambda: begun(store, "fleet"),
    ):
        with pytest.raises(ResultsError, match=said):
            use()
    assert store.list("", "") == before
    done = CliRunner().invoke(app, ["fleet", "query", store.url, SQL])
    assert isinstance(done.exception, ResultsError)


def test_a_fleet_of_an_earlier_order_is_not_resumed(store: Files) -> None:
    old = {"fleet": "f", "name": "n", "scenario": "", "options": [], "store": "s"}
    store.write("fleets/f.json", json.dumps(old).encode())
    with pytest.raises(UsageError, match="was begun by an earlier kickbench; start a new one"):
        begun(store, "f")


@pytest.mark.parametrize(
    "kept", [b'{"fleet": ', b"[]", b'{"scenarios": {}}', b'{"scenarios": [1], "options": []}']
)
def test_a_fleet_of_a_damaged_order_is_refused_in_a_line(store: Files, kept: bytes) -> None:
    store.write("fleets/f.json", kept)
    with pytest.raises(ResultsError, match=r"fleets/f\.json: is damaged") as caught:
        begun(store, "f")
    assert "\n" not in str(caught.value)


def test_a_fleet_of_a_later_order_is_resumed(store: Files) -> None:
    """Of the same schema: what it has more may be left out."""
    kept = {"fleet": "f", "scenarios": {"n": ""}, "options": ["--quick"], "store": "s", "new": 1}
    store.write("fleets/f.json", json.dumps(kept).encode())
    order, _ = begun(store, "f")
    assert (order.scenarios, order.options) == ({"n": ""}, ("--quick",))
