# SPDX-License-Identifier: Apache-2.0
"""A run from Python: frames and Arrow tables say what is stored, in units that names show."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hand_made
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import synthetic_observed
import synthetic_run
from any_rows import OF_WORKERS, arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kickbench
from kickbench.errors import ResultsError, UsageError
from kickbench.results.reader import RunReader
from kickbench.results.tables import ROLES, TABLES, tables_of_case
from kickbench.summary.summarise import write_summary

STORED = Path(__file__).parent / "data"
CASES = [
    synthetic_run.case(2, kick_rate_hz=1000.0, siglock_threads=1, siglock_hz=1e4),
    synthetic_run.kick_case(),
    synthetic_run.pause_case(4),
    synthetic_run.race_case(),
    synthetic_run.nested_case(),
    synthetic_run.handover_case(),
    synthetic_run.lifecycle_case(),
]
WITH = {table.name: case for case in CASES for table in tables_of_case(case)}
"""By table, a case that has it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> kickbench.Run:
    folder = tmp_path_factory.mktemp("runs")
    cases = [synthetic_run.case(2), synthetic_run.case(4), synthetic_run.kick_case()]
    return kickbench.read(synthetic_run.build(folder, cases=cases, rounds=12))


# --- frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_WORKERS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_frame_says_what_is_stored(name: str, data: st.DataObject) -> None:
    hz = data.draw(st.lists(st.floats(1e6, 1e10), min_size=2, max_size=2))
    parts = data.draw(st.lists(arrays(name), min_size=1, max_size=2))
    parameters = {**WITH[name], "vcpus": 2**15}
    n_entries = len(synthetic_run.entries_of(parameters))
    for part in parts:
        part["entry"] %= n_entries
        for small, large in TABLES[name].at_most:
            part[small] = np.minimum(part[small], part[large])
        for column in TABLES[name].columns:
            if column.name in part.dtype.names:
                kind = part.dtype[column.name].kind
                if kind == "f" or (kind == "i" and column.minimum == -1):
                    part[column.name][::2] = np.nan if kind == "f" else -1  # unknown
    with tempfile.TemporaryDirectory() as folder:
        reader = hand_made.write_run(
            Path(folder), parameters, [{name: part} for part in parts], hz=hz
        )
        stored, run = reader.table(parameters["id"], name), kickbench.read(reader.path)
        frame, arrow = run.frame(name), run.arrow(name)
    assert frame["case"].eq(parameters["id"]).all()
    ns_per_cycle = np.array([1e9 / rate for rate in hz])[stored["process"].to_numpy()]
    for column in TABLES[name].columns:
        named, values = column.name, stored[column.name].to_pylist()
        known: list[Any] = [None if v != v or (v == column.minimum == -1) else v for v in values]
        if column.unit == "cycles":
            named = column.name.removesuffix("cycles") + "ns"
            known = [
                None if v is None else pytest.approx(v * scale, rel=1e-12)
                for v, scale in zip(known, ns_per_cycle, strict=True)
            ]
        assert arrow[named].to_pylist() == known
        assert [None if pd.isna(v) else v for v in frame[named].tolist()] == known


@pytest.mark.parametrize("name", TABLES)
def test_a_frame_has_the_same_columns_and_types_if_no_case_has_rows(
    name: str, run: kickbench.Run, tmp_path: Path
) -> None:
    empty = run.frame(name)
    if name in {table.name for case in run.cases.values() for table in tables_of_case(case)}:
        empty = empty.head(0)
    full = _with_rows(name, tmp_path)
    assert list(empty.columns) == list(full.columns)
    for column in full.columns:
        both = (empty[column].dtype, full[column].dtype)
        assert both[0] == both[1] or all(isinstance(d, pd.CategoricalDtype) for d in both)


def _with_rows(name: str, folder: Path) -> pd.DataFrame:
    if name in WITH:
        parameters = WITH[name]
        made = synthetic_run.build(folder, cases=[parameters], rounds=4)
    else:
        made = synthetic_observed.build(folder)
    frame = kickbench.read(made).frame(name)
    assert len(frame)
    return frame


def test_a_frame_has_all_cases_that_have_the_table_or_one(run: kickbench.Run) -> None:
    first, second, kick = run.cases
    assert set(run.blocks()["case"]) == {first, second}
    assert list(run.blocks()["case"].cat.categories) == [first, second, kick]
    assert set(run.blocks(second)["case"]) == {second}
    assert set(run.kicks()["method"]) == set(run.cases[kick]["methods"])
    pd.testing.assert_frame_equal(run.frame("exit_samples"), run.exits())


def test_cycles_that_are_instructions_stay_what_they_are(tmp_path: Path) -> None:
    folder = synthetic_run.build(
        tmp_path, cases=[synthetic_run.case(2)], rounds=8, emulated=True, count_step=1
    )
    run = kickbench.read(folder)
    stored = RunReader(folder).table(next(iter(run.cases)), "exit_samples")
    assert run.exits()["instructions"].tolist() == stored["cycles"].to_pylist()
    assert "elapsed_instructions" in run.blocks()
    assert not [name for name in run.blocks() if name.endswith("cycles")]


def test_no_two_columns_get_the_same_name() -> None:
    for table in TABLES.values():
        names = [column.name.replace("cycles", "ns") for column in table.columns]
        assert len(set(names)) == len(names)
        assert "case" not in names
        assert "process" in names or not any(c.unit == "cycles" for c in table.columns)


def test_fields_of_arrow_have_units_and_words(run: kickbench.Run) -> None:
    table = run.arrow("kicks")
    assert table.schema.field("latency_ns").metadata[b"unit"] == b"ns"
    assert all(field.metadata[b"doc"] for field in list(table.schema)[1:])
    assert pa.types.is_dictionary(table.schema.field("method").type)


def test_an_observed_vm_has_its_frames(tmp_path: Path) -> None:
    run = kickbench.read(synthetic_observed.build(tmp_path))
    for what in ("blocks", "kicks", "times", "turns", "ways"):
        assert len(run.observed(what))
    assert list(run.observed()) == list(run.frame("observed_kicks"))
    assert run.observed()["latency_ns"].dtype == pd.Int64Dtype()


# --- the run itself ----------------------------------------------------------------------------


def test_a_run_says_what_its_folder_says(run: kickbench.Run) -> None:
    reader = RunReader(run.path)
    assert run.id == reader.run_id == run.summary["run_id"]
    assert run.scenario == reader.manifest["scenario"]
    assert run.environment == synthetic_run.ENVIRONMENT
    assert list(run.cases) == [record.id for record in reader.cases]
    assert repr(run) == f"<kickbench.Run {run.id}: 3 of 3 cases finished>"


@pytest.mark.parametrize("schema", [1, 2])
def test_a_stored_run_of_each_schema_is_read(schema: int) -> None:
    run = kickbench.read(STORED / f"schema_{schema}")
    assert run.summary["run_schema"] == schema
    for case in run.cases.values():
        for table in tables_of_case(case):
            assert len(run.frame(table.name, case["id"]))
    assert set(run.figures()["case"]) == set(run.cases)


def test_the_newest_run_below_a_folder_is_read(run: kickbench.Run) -> None:
    assert kickbench.read(str(run.path.parent.parent)).path == run.path


def test_every_figure_has_a_row_with_its_interval(run: kickbench.Run) -> None:
    figures = run.figures()
    assert (figures["low"] <= figures["value"]).all()
    assert (figures["value"] <= figures["high"]).all()
    case = run.cases[next(iter(run.cases))]
    (row,) = figures[
        (figures["case"] == case["id"])
        & (figures["metric"] == "ns_per_exit")
        & (figures["baseline"] == "immediate_exit")
    ].itertuples()
    (contrast,) = [c for c in case["contrasts"] if c["metric"] == "ns_per_exit"]
    assert (row.value, [row.low, row.high]) == (contrast["diff"], contrast["ci95"])
    assert (row.unit, row.method) == ("ns", "sigmask")
    lost = figures[figures["metric"] == "lost"]
    assert (lost["value"] == lost["count"] / lost["of"]).all()


def test_a_run_without_figures_has_the_columns(tmp_path: Path) -> None:
    case = synthetic_run.case(2, rate=1000.0)  # skipped
    run = kickbench.read(synthetic_run.build(tmp_path, cases=[case]).parent.parent)
    assert not len(run.figures())
    assert not len(run.blocks())
    assert run.cases[case["id"]]["status"] == "skipped"
    with pytest.raises(UsageError, match="no tables, because it is skipped"):
        run.blocks(case["id"])


# --- histograms --------------------------------------------------------------------------------


def test_a_histogram_has_every_timed_exit_of_the_method(run: kickbench.Run) -> None:
    case = next(iter(run.cases))
    edges, counts = run.histogram(case, "sigmask")
    assert len(edges) == len(counts) + 1
    assert (np.diff(edges) > 0).all()
    table = run.frame("exit_histograms", case)
    own = table[(table["method"] == "sigmask") & ~table[list(ROLES)].any(axis=1)]
    assert counts.sum() == own["count"].sum()
    assert edges[[0, -1]] == pytest.approx([own["low_ns"].min(), own["high_ns"].max()])
    middle = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
    median = run.cases[case]["methods"]["sigmask"]["ns_per_exit"]["p50"]
    assert edges[middle] <= median <= edges[middle + 1]


def test_bins_of_a_histogram_that_are_not_stored_are_empty(tmp_path: Path) -> None:
    rows = np.zeros(3, synthetic_run.HISTOGRAMS)
    rows["low_cycles"], rows["high_cycles"] = [10, 40, 20], [20, 50, 30]
    rows["count"] = [1, 2, 3]
    run = _histograms(tmp_path, rows)
    edges, counts = run.histogram("unit", "sigmask")
    assert edges.tolist() == [10, 20, 30, 40, 50]
    assert counts.tolist() == [1, 3, 0, 2]
    assert not run.histogram("unit", "immediate_exit").counts.size


def test_a_histogram_whose_bins_overlap_is_refused(tmp_path: Path) -> None:
    rows = np.zeros(2, synthetic_run.HISTOGRAMS)
    rows["low_cycles"], rows["high_cycles"], rows["count"] = [10, 15], [20, 25], 1
    with pytest.raises(ResultsError, match="overlap"):
        _histograms(tmp_path, rows).histogram("unit", "sigmask")


def _histograms(folder: Path, rows: Any) -> kickbench.Run:
    case = synthetic_run.case(2, id="unit")
    return kickbench.read(hand_made.write_run(folder, case, [{"exit_histograms": rows}]).path)


# --- what is wrong is said ---------------------------------------------------------------------


def test_what_is_not_there_is_an_error_in_a_line(run: kickbench.Run) -> None:
    case = next(iter(run.cases))
    with pytest.raises(UsageError, match='no table kiks; did you mean "kicks"'):
        run.frame("kiks")
    with pytest.raises(UsageError, match=f'no case {case}x; did you mean "{case}"'):
        run.blocks(case + "x")
    with pytest.raises(UsageError, match="of the kind exits, which has no kicks"):
        run.kicks(case)
    with pytest.raises(UsageError, match="no method sigmsk; did you mean"):
        run.histogram(case, "sigmsk")
    with pytest.raises(ResultsError, match="does not exist"):
        kickbench.read(run.path / "nothing")


def test_a_case_without_its_tables_has_its_summary_and_no_frames(tmp_path: Path) -> None:
    folder = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2)], rounds=8)
    write_summary(folder)
    for file in folder.rglob("*.parquet"):
        file.unlink()
    run = kickbench.read(folder)
    assert len(run.figures())
    with pytest.raises(ResultsError, match="copy the whole folder"):
        run.blocks()
