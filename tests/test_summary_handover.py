# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind handover: each pair's time, and the medians that a simulation needs."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyperf
import pytest
import synthetic_run
from hand_made import case_of, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.errors import ResultsError
from kickbench.results.reader import RunReader
from kickbench.summary.data import RunData
from kickbench.summary.handover import GROUPS, read_handovers
from kickbench.summary.pyperf import write_pyperf
from kickbench.summary.summarise import summarise, write_summary

CASE = synthetic_run.handover_case()
NS = synthetic_run.HANDOVER_NS


def build(folder: Path, **arguments: Any) -> RunReader:
    more = {"control_shift_ns": arguments.pop("control_shift_ns", 0.0)}
    return RunReader(
        synthetic_run.build(folder, cases=[CASE], handover=arguments, rounds=20, **more)
    )


def rows_of(*records: dict[str, Any]) -> np.ndarray:
    rows = np.zeros(len(records), synthetic_run.HANDOVER_ROWS)
    rows["handovers"], rows["distance"] = 1000, 10
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            row[name] = value
    rows["elapsed_cycles"] = 2 * rows["quiet_cycles"] * rows["handovers"]
    return rows


def pair(a: int, b: int, cycles: float, **other: Any) -> dict[str, Any]:
    return {"first_cpu": a, "second_cpu": b, "quiet_cycles": cycles, **other}


def test_each_pair_has_its_place_and_its_time(tmp_path: Path) -> None:
    case = summarise(build(tmp_path, cpus=8, nodes=2, siblings=True))["cases"][0]
    pairs = case["handover"]["pairs"]
    assert [tuple(one["cpus"]) for one in pairs] == [
        (a, b) for a in range(8) for b in range(a + 1, 8)
    ]
    for one in pairs:
        same = one["nodes"][0] == one["nodes"][1]
        group = "siblings" if one["siblings"] else "same_node" if same else "other_node"
        assert one["distance"] == (10 if same else 21)
        assert one["nodes"] == [cpu // 4 for cpu in one["cpus"]]
        assert one["value"] == pytest.approx(NS[group], rel=0.05)
        assert one["ci95"][0] <= one["value"] <= one["ci95"][1]
    medians = case["handover"]["medians"]
    assert {group: medians[group]["pairs"] for group in GROUPS} == {
        "siblings": 4,
        "same_node": 8,
        "other_node": 16,
    }
    for group in GROUPS:
        assert medians[group]["value"] == pytest.approx(NS[group], rel=0.05)
        assert medians[group]["ci95"][0] <= NS[group] <= medians[group]["ci95"][1]
    assert [one["cpu"] for one in case["handover"]["alone"]] == list(range(8))
    assert case["title"] == "local, pairs of CPUs"


def test_the_way_alone_is_the_baseline_s_contrast_and_the_control_judges(tmp_path: Path) -> None:
    case = summarise(build(tmp_path, nodes=1))["cases"][0]
    (found,) = case["contrasts"]
    assert (found["method"], found["baseline"], found["metric"]) == (
        "alone",
        "handover",
        "handover_ns",
    )
    assert found["diff"] == pytest.approx(synthetic_run.ALONE_NS - NS["same_node"], rel=0.05)
    assert case["control"]["ok"] is True
    assert case["placebo"]["metric"] is None
    wrong = summarise(build(tmp_path / "wrong", nodes=1, control_shift_ns=20.0))["cases"][0]
    assert wrong["control"]["ok"] is False


def test_both_blocks_of_a_pair_are_one_value_of_its_round(tmp_path: Path) -> None:
    nodes = {"first_node": 0, "second_node": 1, "distance": 32}
    turned = {"first_node": 1, "second_node": 0, "distance": 32}
    rows = rows_of(
        *(
            pair(*cpus, cycles, round=number, **where)
            for number in range(4)
            for cpus, cycles, where in (((3, 7), 100.0, nodes), ((7, 3), 140.0, turned))
        )
    )
    case = case_of(write_run(tmp_path, CASE, [{"handovers": rows}]))
    (found,) = case["handover"]["pairs"]
    assert found["cpus"] == [3, 7]
    assert found["nodes"] == [0, 1]
    assert found["distance"] == 32
    assert found["value"] == 120.0
    assert case["handover"]["medians"]["other_node"]["value"] == 120.0
    assert case["methods"]["handover"]["ns_per_handover"] == {"quiet": 120.0, "mean": 240.0}
    assert case["methods"]["handover"]["n"] == 8000


def test_processes_that_differ_are_seen(tmp_path: Path) -> None:
    """A hypervisor can move a virtual CPU to another core between two processes."""
    workers = [
        {"handovers": rows_of(*(pair(0, 1, cycles, round=number) for number in range(3)))}
        for cycles in (32.0, 149.0, 40.0)
    ]
    (found,) = case_of(write_run(tmp_path, CASE, workers))["handover"]["pairs"]
    assert found["by_process"] == [32.0, 149.0]
    assert found["ci95"][0] < 32.0
    assert found["ci95"][1] > 149.0


def test_a_node_that_is_not_known_is_null(tmp_path: Path) -> None:
    unknown = {"first_node": -1, "second_node": -1, "distance": -1}
    rows = rows_of(*(pair(0, 1, 50.0, round=number, **unknown) for number in range(3)))
    (found,) = case_of(write_run(tmp_path, CASE, [{"handovers": rows}]))["handover"]["pairs"]
    assert (found["nodes"], found["distance"]) == ([None, None], None)


def test_a_case_without_a_block_has_nulls(tmp_path: Path) -> None:
    case = case_of(write_run(tmp_path, CASE, [{}]))
    nothing = {"value": None, "ci95": None, "by_process": None}
    assert case["handover"]["pairs"] == case["handover"]["alone"] == []
    assert case["handover"]["medians"]["same_node"] == {"pairs": 0, **nothing}
    assert case["methods"]["handover"]["ns_per_handover"] == {"quiet": None, "mean": None}


BLOCKS = st.lists(
    st.tuples(
        st.integers(0, 3),  # round
        st.integers(0, 2),  # entry
        st.integers(0, 3),
        st.integers(0, 3),
        st.floats(1, 1e6),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(blocks=BLOCKS)
def test_every_block_is_in_the_mean_of_its_seat_and_round(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[int, int, int, int, float]]
) -> None:
    rows = rows_of(
        *(pair(a, b, cycles, round=number, entry=entry) for number, entry, a, b, cycles in blocks)
    )
    reader = write_run(tmp_path_factory.mktemp("run"), CASE, [{"handovers": rows}])
    case_of(reader)  # sound JSON, whatever is missing
    data = read_handovers(reader, CASE["id"])
    rounds = sorted({number for number, *_ in blocks})
    for entry, seats in enumerate(data.seats):
        for column, cpus in enumerate(seats.cpus.tolist()):
            for place, number in enumerate(rounds):
                mine = [
                    cycles
                    for one, of, a, b, cycles in blocks
                    if (one, of, sorted((a, b))) == (number, entry, cpus)
                ]
                value = seats.ns[place, column]
                assert np.isnan(value) if not mine else value == pytest.approx(np.mean(mine))


# --- for others ---------------------------------------------------------------------------------


def test_pyperf_has_the_median_of_each_round(tmp_path: Path) -> None:
    reader = build(tmp_path)
    write_pyperf(reader.path)
    suite = pyperf.BenchmarkSuite.load(str(reader.path / "pyperf.json"))
    assert suite.get_benchmark_names() == [f"{CASE['id']}/handover", f"{CASE['id']}/alone"]
    found = suite.get_benchmark(f"{CASE['id']}/alone")
    assert found.mean() == pytest.approx(synthetic_run.ALONE_NS / 1e9, rel=0.05)


ODD: list[tuple[tuple[Any, ...], Any, str]] = [
    (("handover",), None, "handover"),
    (("handover", "pairs", 0, "cpus"), [0], "handover.pairs.0.cpus"),
    (("handover", "pairs", 0, "cpus"), [0, -1], "handover.pairs.0.cpus"),
    (("handover", "pairs", 0, "nodes"), ["x", 1], "handover.pairs.0.nodes"),
    (("handover", "pairs", 0, "value"), -1.0, "handover.pairs.0.value"),
    (("handover", "pairs", 0, "value"), 1e9, "not within ci95"),
    (("handover", "pairs", 0, "by_process"), [2.0, 1.0], "lower end is above"),
    (("handover", "pairs", 0, "cpus"), [1, 1], "one CPU twice"),
    (("handover", "medians", "same_node"), None, "handover.medians.same_node"),
    (("methods", "alone", "n"), -1, "methods.alone.n"),
    (("contrasts", 0, "metric"), "ns_per_exit", "of what is not there"),
]


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    reader = build(tmp_path_factory.mktemp("stripped"))
    document = write_summary(reader.path)
    shutil.rmtree(reader.path / "cases")
    return reader.path, document


def test_a_run_without_tables_has_all_of_it(stripped: tuple[Path, dict[str, Any]]) -> None:
    run, document = stripped
    (run / "summary.json").write_text(json.dumps(document))
    (case,) = RunData.load(run).summary["cases"]
    assert case["handover"] == document["cases"][0]["handover"]


@pytest.mark.parametrize(("path", "value", "message"), ODD)
def test_an_odd_summary_without_tables_is_refused(
    stripped: tuple[Path, dict[str, Any]], path: tuple[Any, ...], value: Any, message: str
) -> None:
    run, document = stripped
    changed = copy.deepcopy(document)
    place: Any = changed["cases"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (run / "summary.json").write_text(json.dumps(changed))
    with pytest.raises(ResultsError, match=message):
        RunData.load(run)
