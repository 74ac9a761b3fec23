# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind nested: every iteration is counted once, in the right place."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
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
from kickbench.scenario.kinds import ITERATIONS
from kickbench.summary.data import RunData
from kickbench.summary.nested import AT_ONCE, MIN_SPUN, Nested, read_nested, turn_ns
from kickbench.summary.pyperf import write_pyperf
from kickbench.summary.summarise import summarise, write_summary

WAYS = synthetic_run.NESTED_WAYS
GHZ = 1e9  # a cycle is a nanosecond


def build(folder: Path, **nested: Any) -> RunReader:
    run = synthetic_run.build(
        folder, cases=[synthetic_run.nested_case()], shift_ns=700.0, nested=nested
    )
    return RunReader(run)


def summary_of(folder: Path, rows: np.ndarray, *, processes: int = 1) -> Any:
    """The summary of a case whose every process returned these rows."""
    workers = [{"nested": rows}] * processes
    return case_of(write_run(folder, synthetic_run.nested_case(), workers, rounds=2, hz=(GHZ,)))


def rows_of(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    rows = np.zeros(len(records), synthetic_run.NESTED)
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            row[name] = value
    return rows


# --- counting ----------------------------------------------------------------------------------

RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "round": st.integers(0, 3),
            "entry": st.integers(0, len(WAYS)),
            "cycles": st.integers(0, 10**7),
            "exit_reason": st.sampled_from([1, 18, 48, 0x60]),
            "expected": st.booleans(),
            "injected": st.booleans(),
            "delivered": st.integers(0, 3),
            "work": st.integers(0, 10**6),
            "latency_cycles": st.integers(0, 10**5),
        }
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(records=RECORDS)
def test_every_iteration_is_counted_where_it_belongs(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    case = summary_of(tmp_path_factory.mktemp("run"), rows_of(records))
    for index, way in enumerate(WAYS):
        figures = case["methods"][way]
        mine = [record for record in records if record["entry"] == index]
        good = [record for record in mine if record["expected"]]
        assert figures["n"] == len(good)
        assert sum(figures["unexpected"].values()) == len(mine) - len(good)
        for reason, count in figures["unexpected"].items():
            assert count == sum(not r["expected"] and r["exit_reason"] == int(reason) for r in mine)
        assert figures["injected"] == sum(r["injected"] for r in good)
        assert figures["lost"] == sum(r["injected"] and not r["delivered"] for r in good)
        assert figures["doubled"] == sum(r["delivered"] > r["injected"] for r in good)
        most = max((r["work"] for r in good), default=None)
        assert figures["work"]["max"] == most
        if good:
            mean = sum(r["cycles"] for r in good) / len(good)
            assert figures["round_trip_ns"]["mean"] == pytest.approx(mean)
        limit = case["nested"]["at_once_turns"]
        if limit is None or not ITERATIONS[way].at_once:
            assert (figures["late"], figures["judged"]) == (None, 0)
        else:
            assert figures["judged"] == len(good)
            assert figures["late"] == sum(r["work"] > limit for r in good)


@settings(max_examples=40)
@given(records=RECORDS)
def test_the_findings_have_the_controls_as_the_baselines(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    case = summary_of(tmp_path_factory.mktemp("run"), rows_of(records))
    found = {(f["method"], f["what"]): f for f in case["findings"]}
    assert len(found) == len(case["findings"])
    good = [r for r in records if r["expected"]]
    plain = [r for r in good if r["entry"] in (0, len(WAYS))]
    lost = sum(r["injected"] and not r["delivered"] for r in plain)
    assert found.get(("plain", "lost"), {}).get("count", 0) == lost
    for finding in found.values():
        assert 0 < finding["count"] <= finding["of"]
        assert finding["race_free_claim"] is None


def test_a_sound_run_has_no_findings(tmp_path: Path) -> None:
    case = summarise(build(tmp_path))["cases"][0]
    assert case["findings"] == []
    assert case["nested"]["vendor"] == "vmx"
    assert case["nested"]["nested_paging"] is True


def test_lost_and_doubled_are_shares_of_the_injections(tmp_path: Path) -> None:
    case = summarise(build(tmp_path, lost=0.02, doubled=0.01))["cases"][0]
    figures = case["methods"]["pending"]
    assert 0.01 < figures["lost"] / figures["injected"] < 0.03
    assert 0.005 < figures["doubled"] / figures["injected"] < 0.02
    assert {f["what"] for f in case["findings"]} == {"lost", "doubled"}


# --- being at once -----------------------------------------------------------------------------


def test_a_turn_takes_what_it_takes(tmp_path: Path) -> None:
    case = summarise(build(tmp_path))["cases"][0]["nested"]
    assert case["turn_ns"] == pytest.approx(synthetic_run.TURN_NS, rel=0.01)
    a_tenth = AT_ONCE * synthetic_run.ROUND_TRIP_NS / synthetic_run.TURN_NS
    assert case["at_once_turns"] == pytest.approx(a_tenth, rel=0.01)


def test_an_l0_that_keeps_the_event_is_late_nearly_always(tmp_path: Path) -> None:
    case = summarise(build(tmp_path, kept=True))["cases"][0]
    for way in ("pending", "pending_no_injection"):
        figures = case["methods"][way]
        assert figures["late"] > 0.99 * figures["judged"] > 0
        assert (way, "late") in {(f["method"], f["what"]) for f in case["findings"]}
    assert case["methods"]["asynchronous"]["late"] is None  # there work is what it is for


def test_late_begins_beyond_a_tenth_of_the_median_plain_round_trip(tmp_path: Path) -> None:
    good = {"expected": True}
    rows = [{"entry": 0, "cycles": 1000, **good}]
    # A turn of one cycle, so that 100 turns are a tenth of the floor.
    rows += [{"entry": 3, "cycles": 1000 + n, "work": n, **good} for n in range(5000, 5020)]
    rows += [{"entry": e, "cycles": 1, "work": n, **good} for e in (1, 2) for n in (99, 100, 101)]
    case = summary_of(tmp_path, rows_of(rows))
    assert case["nested"] == {
        "vendor": "vmx",
        "nested_paging": True,
        "kicks": 0,
        "entries": {"iterations": 32, "all": 230, "at_once": 31},
        "turn_ns": 1.0,
        "at_once_turns": 100,
    }
    assert [case["methods"][way]["late"] for way in WAYS] == [None, 1, 1, None]


def nested(cycles: Sequence[float], work: Sequence[int], entry: Sequence[int]) -> Nested:
    n = len(cycles)
    return Nested(
        round_process=np.zeros(1, np.int64),
        row=np.zeros(n, np.intp),
        entry=np.array(entry, np.int64),
        expected=np.ones(n, np.bool_),
        injected=np.zeros(n, np.bool_),
        exit_reason=np.ones(n, np.int64),
        delivered=np.zeros(n, np.int64),
        work=np.array(work, np.int64),
        round_trip_ns=np.array(cycles, np.float64),
        latency_ns=np.zeros(n),
    )


@given(
    floor=st.integers(100, 10_000),
    turn=st.floats(0.25, 50),
    turns=st.lists(st.integers(100_000, 10**7), min_size=MIN_SPUN, max_size=40),
)
def test_the_length_of_a_turn_is_found_whatever_the_floor(
    floor: int, turn: float, turns: list[int]
) -> None:
    cycles = [floor, floor, *(floor + turn * n for n in turns)]
    data = nested(cycles, [0, 0, *turns], [0, 0, *(3 for _ in turns)])
    assert turn_ns(data, 0, 3) == pytest.approx(turn)


def test_without_enough_work_nothing_is_judged() -> None:
    few = nested([100.0] + [5000.0] * (MIN_SPUN - 1), [0] + [9] * (MIN_SPUN - 1), [0] + [3] * 9)
    assert turn_ns(few, 0, 3) is None
    assert turn_ns(nested([], [], []), 0, 3) is None
    none = nested([100.0] + [5000.0] * 20, [0] * 21, [0] + [3] * 20)
    assert turn_ns(none, 0, 3) is None


# --- comparing ---------------------------------------------------------------------------------


def test_the_contrasts_are_those_that_mean_something(tmp_path: Path) -> None:
    case = summarise(build(tmp_path))["cases"][0]
    found = {(c["method"], c["baseline"], c["metric"]): c for c in case["contrasts"]}
    assert set(found) == {
        ("pending", "plain", "round_trip_p50_ns"),
        ("pending_no_injection", "plain", "round_trip_p50_ns"),
        ("pending", "pending_no_injection", "injection_p50_ns"),
    }
    for (method, baseline, _), expected in zip(found, (840.0, 700.0, 140.0), strict=True):
        contrast = next(
            c for c in case["contrasts"] if (c["method"], c["baseline"]) == (method, baseline)
        )
        low, high = contrast["ci95"]
        assert low < contrast["diff"] < high
        assert contrast["diff"] == pytest.approx(expected, abs=5)
    assert case["control"]["metric"] == "round_trip_p50_ns"
    assert case["control"]["ok"] is True
    assert case["methods"]["asynchronous"]["estimates"]["round_trip_p50_ns"]["value"] is None
    assert case["methods"]["asynchronous"]["latency_ns"]["p50"] > 0
    assert case["methods"]["plain"]["latency_ns"]["p50"] is None


def test_what_ended_unexpectedly_is_in_no_time(tmp_path: Path) -> None:
    rows = rows_of(
        [
            {"round": r, "entry": e, "cycles": c, "expected": x, "exit_reason": 18}
            for r in range(2)
            for e in range(len(WAYS) + 1)
            for c, x in ((1000, True), (10**6, False))
        ]
    )
    figures = summary_of(tmp_path, rows)["methods"]["plain"]
    assert figures["round_trip_ns"] == dict.fromkeys(("p50", "p90", "p99", "max", "mean"), 1000.0)
    assert figures["unexpected"] == {"18": 2}


# --- files -------------------------------------------------------------------------------------


def test_a_round_is_a_value_for_pyperf(tmp_path: Path) -> None:
    reader = build(tmp_path)
    path = write_pyperf(reader.path)
    assert path is not None
    suite = pyperf.BenchmarkSuite.load(str(path))
    names = [f"nested-local/{way}/round_trip" for way in WAYS[:3]]
    assert suite.get_benchmark_names() == names
    mean = suite.get_benchmark(names[0]).mean()
    assert mean == pytest.approx(synthetic_run.ROUND_TRIP_NS / 1e9, rel=0.01)


def test_the_summary_alone_says_the_same(tmp_path: Path) -> None:
    reader = build(tmp_path, kept=True, lost=0.01, unexpected=0.01)
    write_summary(reader.path)
    whole = RunData.load(reader.path).summary["cases"]
    shutil.rmtree(reader.path / "cases")
    alone = RunData.load(reader.path)
    assert alone.without_tables == {"nested-local"}
    for key, value in whole[0].items():
        if key not in ("clocks", "iterations"):
            assert alone.summary["cases"][0][key] == value, key


ODD = [
    (("nested", "vendor"), "arm", "nested.vendor"),
    (("nested", "at_once_turns"), -1, "nested.at_once_turns"),
    (("methods", "pending", "late"), 10**6, "late"),
    (("methods", "pending", "late"), None, "late"),
    (("methods", "pending", "lost"), 10**6, "more than there were"),
    (("methods", "pending", "doubled"), 1, "doubled"),
    (("methods", "pending", "work", "p50"), None, "some of the figures are null"),
    (("methods", "pending", "work", "mean"), 1e9, "mean is above"),
    (("methods", "plain", "unexpected"), {"\x1b[2J": 1}, "unexpected"),
    (("contrasts", 2, "baseline"), "plain", "the baseline is another"),
    (("contrasts", 2, "method"), "asynchronous", "one is there twice or of what is not there"),
    (("findings",), [], "late of pending"),
]


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    reader = build(tmp_path_factory.mktemp("stripped"), kept=True)
    document = write_summary(reader.path)
    shutil.rmtree(reader.path / "cases")
    return reader.path, document


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


def test_every_iteration_is_read(tmp_path: Path) -> None:
    reader = build(tmp_path)
    data = read_nested(reader, "nested-local")
    assert len(data.entry) == reader.count_rows("nested-local", "nested")
    assert data.expected.all()
    assert data.lost.sum() == data.doubled.sum() == 0
