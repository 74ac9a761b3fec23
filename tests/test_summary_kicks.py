# SPDX-License-Identifier: Apache-2.0
"""Kicks, pauses and races in the summary: numbers worked out by hand, and what is never hidden."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyperf
import pytest
import synthetic_run
from hand_made import case_of, contrast, set_column, store, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from kickbench.errors import MeasurementError, ResultsError
from kickbench.results.reader import RunReader
from kickbench.results.tables import TABLES, from_worker
from kickbench.results.writer import RunWriter
from kickbench.scenario.kinds import KINDS, MAX_KICKERS
from kickbench.stats.contrasts import paired_contrast, running_interval
from kickbench.summary.events import (
    CHUNK_KICKS,
    MAX_GROUPS,
    _groups,
    latency_differences,
    named_intervals,
)
from kickbench.summary.kicks import (
    LATENCY_QUANTILES,
    Kicks,
    find_contending,
    find_overlapping,
    index_volleys,
    read_kicks,
)
from kickbench.summary.pauses import read_pauses
from kickbench.summary.pyperf import export, read_round_medians, write_pyperf
from kickbench.summary.summarise import describe, summarise

SIGMASK, BASELINE, CONTROL = range(3)


def fields(array):
    """The names and types of a structured array's fields."""
    return [(name, array.dtype[name]) for name in array.dtype.names]


def rows_of(name, rows):
    """A table's array from dicts; what a row does not mention is 0, but a kick has met."""
    array = np.zeros(len(rows), synthetic_run.DTYPES[name])
    if any("returned_cycles" in row for row in rows):  # a run of an earlier version has -1
        array = array.astype([(n, "i8" if n == "returned_cycles" else t) for n, t in fields(array)])
    if name == "kicks":
        array["met"] = True
    for i, row in enumerate(rows):
        for column, value in row.items():
            array[i][column] = value
    return array


def kick(round_, entry, latency, send=0, delivery=0, returned=0, resumed=0, **other):
    times = {"send": send, "delivery": delivery, "returned": returned, "resumed": resumed}
    return {
        "round": round_,
        "entry": entry,
        "latency_cycles": latency,
        **{f"{name}_cycles": cycles for name, cycles in times.items()},
        **other,
    }


# --- kick latency by hand ----------------------------------------------------------------------


def test_phases_of_the_few_kicks_that_a_handler_saw_are_not_those_of_all(tmp_path):
    """Most are taken by a look at the flag; the handler saw the slow ones."""
    rows = [kick(0, SIGMASK, 100) for _ in range(8)]
    rows += [kick(0, SIGMASK, 90_000, delivery=80_000, returned=85_000) for _ in range(2)]
    worker = {"kicks": rows_of("kicks", [*rows, kick(0, BASELINE, 100)])}
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), [worker]))
    phases = case["methods"]["sigmask"]["phases_ns"]
    assert phases["send"] is not None
    assert phases["delivery"] is None
    assert phases["return"] is None


def test_of_a_run_before_the_return_was_stored_it_is_the_latency(tmp_path):
    """There a latency ended when KVM_RUN returned."""
    rows = [kick(0, SIGMASK, 4000, delivery=3000, returned=-1), kick(0, BASELINE, 100)]
    case = case_of(
        write_run(tmp_path, synthetic_run.kick_case(), [{"kicks": rows_of("kicks", rows)}])
    )
    phases = case["methods"]["sigmask"]["phases_ns"]
    assert (phases["return"]["p50"], phases["know"]["p50"]) == (1000.0, 0.0)
    assert phases["returned"]["p50"] == 4000.0
    assert phases["resumed"] is None


def test_latency_figures_by_hand(tmp_path):
    kicks = rows_of(
        "kicks",
        [
            # The clock has 2 cycles per ns.
            kick(0, SIGMASK, 2000, 400, 1600, 1800, 2400),
            kick(0, SIGMASK, 4000, 600, 2400, 3400, 4800),
            kick(1, SIGMASK, 6000, 800, 3600, 5000, 7000, signals=3),
            kick(1, SIGMASK, 9000, send_cycles=900, met=False),
            kick(1, SIGMASK, 40_000_000, send_cycles=900, lost=True),
            kick(1, SIGMASK, 50_000_000, send_cycles=900, met=False, lost=True),
            kick(0, BASELINE, 100),
            kick(0, CONTROL, 90_000_000),
        ],
    )
    blocks = rows_of(
        "kick_blocks",
        [
            {"entry": SIGMASK, "sent": 4, "met": 3, "lost": 1, "spurious": 5},
            {"entry": SIGMASK, "position": 2, "sent": 2, "met": 1, "lost": 1, "spurious": 2},
            {"entry": BASELINE, "position": 1, "sent": 1, "met": 1},
        ],
    )
    reader = write_run(
        tmp_path,
        synthetic_run.kick_case(),
        [{"kicks": kicks, "kick_blocks": blocks}],
        hz=(2e9,),
        claims={"sigmask": True},
    )
    case = case_of(reader)
    sigmask = case["methods"]["sigmask"]
    assert sigmask["latency_ns"] == {
        "p50": 2000.0,
        "p90": 3000.0,
        "p99": 3000.0,
        "p999": 3000.0,
        "max": 3000.0,
    }
    assert sigmask["phases_ns"] == {
        "send": {"p50": 300.0, "p99": 400.0},
        "delivery": {"p50": 1200.0, "p99": 1800.0},
        "return": {"p50": 500.0, "p99": 700.0},
        "returned": {"p50": 1700.0, "p99": 2500.0},
        "know": {"p50": 300.0, "p99": 500.0},
        "resumed": {"p50": 2400.0, "p99": 3500.0},
    }
    assert sigmask["resent"] == 1
    assert set(sigmask["latency_ci95"]) == {"p50", "p90", "p99", "p999"}
    counts = {name: sigmask[name] for name in ("n", "unmet", "lost", "spurious", "sent")}
    assert counts == {"n": 3, "unmet": 1, "lost": 2, "spurious": 7, "sent": 6}
    assert sigmask["n"] + sigmask["unmet"] + sigmask["lost"] == sigmask["sent"]
    assert sigmask["race_free_claim"] is True
    # The control's kicks are not the baseline's.
    baseline = case["methods"]["immediate_exit"]
    assert (baseline["n"], baseline["latency_ns"]["max"]) == (1, 50.0)
    assert baseline["race_free_claim"] is None
    assert baseline["phases_ns"]["delivery"] is None
    assert baseline["phases_ns"]["return"] is None
    assert (case["state"], case["kickers"], case["transport"]) == ("guest", 1, "tgkill")
    assert case["timeout_ns"] == synthetic_run.TIMEOUT_NS
    assert case["findings"] == [
        {"method": "sigmask", "what": "lost", "count": 2, "of": 6, "race_free_claim": True},
        {"method": "sigmask", "what": "spurious", "count": 7, "of": 6, "race_free_claim": True},
    ]


def random_rounds(rng, processes, rounds, kicks):
    """Kicks in random order on the disk, and per process the latencies by (round, entry)."""
    workers, latencies = [], []
    for _ in range(processes):
        values = rng.integers(1000, 9000, (rounds, 3, kicks))
        rows = [kick(r, e, value) for (r, e, _), value in np.ndenumerate(values)]
        rng.shuffle(rows)
        workers.append({"kicks": rows_of("kicks", rows)})
        latencies.append(values)
    return workers, latencies


def median_unbiased(values, p):
    return np.quantile(values, p, axis=-1, method="median_unbiased")


def test_contrasts_of_the_median_are_of_rounds(tmp_path):
    workers, latencies = random_rounds(np.random.default_rng(0), 2, 9, 11)
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), workers))
    medians = [median_unbiased(values, 0.5) for values in latencies]
    interval = paired_contrast([m[:, SIGMASK] - m[:, BASELINE] for m in medians])
    found = contrast(case, "latency_p50_ns")
    assert found["diff"] == pytest.approx(interval.estimate)
    assert found["ci95"] == pytest.approx([interval.low, interval.high])
    assert (found["rounds"], found["chunks"], found["rounds_left_out"]) == (18, 18, 0)
    interval = running_interval([m[:, CONTROL] - m[:, BASELINE] for m in medians])
    assert case["control"]["metric"] == "latency_p50_ns"
    assert case["control"]["diff"] == pytest.approx(interval.estimate)
    assert case["control"]["ci95"] == pytest.approx([interval.low, interval.high])
    # 18 rounds of noise as large as the values cannot vouch for anything.
    assert interval.low <= 0 <= interval.high
    assert case["control"]["ok"] is None
    # 99 kicks a process and method are not enough for two chunks of 200.
    found = contrast(case, "latency_p99_ns")
    assert (found["diff"], found["ci95"], found["chunks"]) == (None, None, 0)
    assert found["rounds_left_out"] == 18


def test_contrasts_of_the_p99_are_of_chunks_of_rounds(tmp_path):
    workers, latencies = random_rounds(np.random.default_rng(1), 2, 19, 40)
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), workers))
    expected = []
    for values in latencies:
        # 5 rounds of 40 kicks have 200; the last chunk takes the 4 that are left.
        ends = [(0, 5), (5, 10), (10, 19)]
        p99 = [
            [median_unbiased(values[a:b, e].ravel(), 0.99) for e in (SIGMASK, BASELINE)]
            for a, b in ends
        ]
        expected.append(np.array([a - b for a, b in p99]))
    interval = paired_contrast(expected)
    found = contrast(case, "latency_p99_ns")
    assert found["diff"] == pytest.approx(interval.estimate)
    assert found["ci95"] == pytest.approx([interval.low, interval.high])
    assert (found["rounds"], found["chunks"], found["rounds_left_out"]) == (38, 6, 0)


def test_kicks_that_do_not_count_are_in_no_contrast(tmp_path):
    workers, _ = random_rounds(np.random.default_rng(2), 1, 30, 20)
    clean = case_of(write_run(tmp_path / "clean", synthetic_run.kick_case(), workers))
    bad = [kick(r, SIGMASK, 4_000_000_000, lost=True) for r in range(30)]
    bad += [kick(r, SIGMASK, 1, met=False) for r in range(30)]
    workers[0]["kicks"] = np.concatenate([workers[0]["kicks"], rows_of("kicks", bad)])
    case = case_of(write_run(tmp_path / "bad", synthetic_run.kick_case(), workers))
    assert case["contrasts"] == clean["contrasts"]
    assert case["control"] == clean["control"]
    for name in ("latency_ns", "latency_ci95", "n"):
        assert case["methods"]["sigmask"][name] == clean["methods"]["sigmask"][name]
    assert case["methods"]["sigmask"]["unmet"] == 30


def test_every_process_is_measured_by_its_own_clock(tmp_path):
    workers, _ = random_rounds(np.random.default_rng(3), 1, 6, 12)
    fast = workers[0]["kicks"].copy()
    fast["latency_cycles"] *= 3
    reader = write_run(
        tmp_path, synthetic_run.kick_case(), [workers[0], {"kicks": fast}], hz=(1e9, 3e9)
    )
    medians = read_round_medians(reader, reader.cases[0].id)
    assert medians.process.tolist() == [0] * 6 + [1] * 6
    assert medians.median_ns[:6] == pytest.approx(medians.median_ns[6:], nan_ok=True)
    assert (medians.count[:, :-1] == 12).all()
    assert (medians.count[:, -1] == 0).all()  # there is no placebo


def test_a_method_whose_kicks_are_all_lost_has_nulls_and_a_finding(tmp_path):
    rows = [kick(r, e, 500, lost=e == SIGMASK) for r in range(30) for e in range(3)] * 12
    blocks = [{"round": r, "entry": SIGMASK, "sent": 12, "lost": 12} for r in range(30)]
    worker = {"kicks": rows_of("kicks", rows), "kick_blocks": rows_of("kick_blocks", blocks)}
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), [worker]))
    sigmask = case["methods"]["sigmask"]
    assert set(sigmask["latency_ns"].values()) == {None}
    assert set(sigmask["latency_ci95"].values()) == {None}
    assert set(sigmask["phases_ns"]["send"].values()) == {None}
    assert (sigmask["n"], sigmask["lost"]) == (0, 360)
    assert contrast(case, "latency_p50_ns")["ci95"] is None
    assert case["relative_half_width"] is None
    assert case["control"]["diff"] == 0.0
    assert [(f["method"], f["what"], f["count"], f["of"]) for f in case["findings"]] == [
        ("sigmask", "lost", 360, 360)
    ]


@pytest.mark.parametrize("rows", [[], [kick(0, e, 700) for e in range(3)]])
def test_no_kick_or_one_has_no_interval(tmp_path, rows):
    worker = {"kicks": rows_of("kicks", rows)}
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), [worker]))
    assert set(case["methods"]["sigmask"]["latency_ci95"].values()) == {None}
    assert contrast(case, "latency_p50_ns")["ci95"] is None
    assert case["control"]["ok"] is None
    assert case["timeout_ns"] == synthetic_run.TIMEOUT_NS


def test_a_latency_of_zero_is_a_number_but_not_for_pyperf(tmp_path):
    rows = [kick(r, e, 0) for r in range(30) for e in range(3)] * 12
    worker = {"kicks": rows_of("kicks", rows)}
    reader = write_run(tmp_path, synthetic_run.kick_case(), [worker])
    case = case_of(reader)
    assert set(case["methods"]["sigmask"]["latency_ns"].values()) == {0.0}
    assert case["methods"]["sigmask"]["latency_ci95"]["p50"] == pytest.approx([0.0, 0.0])
    assert contrast(case, "latency_p50_ns")["ci95"] == [0.0, 0.0]
    assert case["relative_half_width"] is None  # relative to nothing
    assert export(reader) is None


def test_a_kick_that_the_control_lost_is_not_hidden(tmp_path):
    blocks = [
        {"entry": BASELINE, "sent": 100},
        {"entry": CONTROL, "position": 1, "sent": 100, "lost": 1},
    ]
    worker = {"kick_blocks": rows_of("kick_blocks", blocks)}
    case = case_of(write_run(tmp_path, synthetic_run.kick_case(), [worker]))
    assert case["methods"]["immediate_exit"]["lost"] == 0
    assert case["findings"] == [
        {
            "method": "immediate_exit",
            "what": "lost",
            "count": 1,
            "of": 200,
            "race_free_claim": True,
        }
    ]


# --- slow kicks --------------------------------------------------------------------------------


def slow_of(tmp_path, **slow):
    case = synthetic_run.kick_case("guest", 1, methods=["sigmask", "immediate_exit"])
    run = synthetic_run.build(tmp_path / f"{len(slow)}", cases=[case], of_kicks={"slow": slow})
    return summarise(RunReader(run))["cases"][0]["methods"]


def test_a_second_mode_of_the_latency_is_told_apart(tmp_path):
    found = slow_of(tmp_path, sigmask=0.01)
    slow = found["sigmask"]["slow"]
    assert slow["own"]
    assert 0.005 < slow["n"] / found["sigmask"]["n"] < 0.02
    assert 10e6 < slow["ns"]["p10"] <= slow["ns"]["p50"] <= slow["ns"]["p90"] < 16e6
    assert found["immediate_exit"]["slow"] == {
        "n": 0,
        "ns": {"p10": None, "p50": None, "p90": None},
        "own": False,
    }


def test_what_delays_all_methods_alike_is_no_method_s_own(tmp_path):
    """A busy host takes the CPU away for milliseconds, whoever is measured."""
    for shares in ({"sigmask": 0.01, "immediate_exit": 0.01}, {}):
        found = slow_of(tmp_path, **shares)
        assert not any(figures["slow"]["own"] for figures in found.values())


def test_most_kicks_may_be_the_slow_ones(tmp_path):
    assert slow_of(tmp_path, sigmask=0.9)["sigmask"]["slow"]["own"]


# --- intervals of quantiles --------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([1, 7, 10_000]),
)
def test_intervals_hold_their_estimate(seed, processes, rounds, kicks, distinct):
    """Whatever the shape of the data, also a handful of different values."""
    rng = np.random.default_rng(seed)
    round_process = np.repeat(np.arange(processes), rounds)
    row = rng.integers(0, processes * rounds, processes * rounds * kicks)
    values = rng.gamma(2.0, 500.0, len(row)) // (10_000 / distinct) * (10_000 / distinct)
    found = named_intervals(values, row, round_process, LATENCY_QUANTILES)
    exact = np.quantile(values, list(LATENCY_QUANTILES.values()), method="inverted_cdf")
    for (name, p), value in zip(LATENCY_QUANTILES.items(), exact, strict=True):
        beyond = len(values) * min(p, 1 - p) >= 10 - 1e-9
        assert (found[name] is not None) is (beyond and len(np.unique(row)) > 1)
        if found[name] is not None:
            low, high = found[name]
            assert 0 <= low <= value + 1e-9
            assert value <= high + 1e-9


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_groups_are_consecutive_rounds_of_one_process(sizes):
    round_process = np.repeat(np.arange(len(sizes)) * 3, sizes)
    groups = _groups(round_process)
    assert (groups >> 32 == round_process).all()
    assert (np.diff(groups) >= 0).all()
    assert len(np.unique(groups)) <= MAX_GROUPS
    for process, size in enumerate(sizes):
        of_process = np.unique(groups[round_process == 3 * process])
        assert len(of_process) == min(size, MAX_GROUPS // len(sizes))


# --- a known truth -----------------------------------------------------------------------------


def kicks_of(parameters, seed, **arguments):
    """The kicks of a synthetic case as read_kicks() has them, without the disk."""
    parts = [
        synthetic_run.kick_arrays(parameters, process, seed=seed, **arguments)["kicks"]
        for process in range(parameters["processes"])
    ]
    rounds = [part["round"].astype(np.int64) for part in parts]
    sizes = [r.max() + 1 for r in rounds]
    starts = np.cumsum([0, *sizes[:-1]])
    array = np.concatenate(parts)
    return Kicks(
        round_process=np.repeat(np.arange(len(parts)), sizes),
        row=np.concatenate([r + start for r, start in zip(rounds, starts, strict=True)]),
        entry=array["entry"].astype(np.int64),
        met=array["met"],
        lost=array["lost"],
        contending=array["met"],
        overlapping=np.zeros(len(array), np.bool_),
        send_ns=np.zeros(len(array)),
        delivery_ns=np.zeros(len(array)),
        returned_ns=np.zeros(len(array)),
        resumed_ns=np.zeros(len(array)),
        signals=np.ones(len(array), np.int64),
        latency_ns=array["latency_cycles"] / synthetic_run.HZ * 1e9,
    )


def test_the_intervals_cover_a_known_shift():
    """Nominal 95 %; 300 repetitions have a standard error of 1.3 %."""
    parameters, shift = synthetic_run.kick_case(), 300.0
    probabilities = {"latency_p50_ns": 0.5, "latency_p99_ns": 0.99}
    covered = dict.fromkeys(probabilities, 0)
    estimates = {metric: [] for metric in probabilities}
    for seed in range(300):
        kicks = kicks_of(parameters, seed, shift_ns=shift)
        for metric, p in probabilities.items():
            differences, _ = latency_differences(
                kicks, kicks.latency_ns, SIGMASK, BASELINE, p, CHUNK_KICKS[metric]
            )
            interval = paired_contrast(differences)
            covered[metric] += interval.low <= shift <= interval.high
            estimates[metric].append(interval.estimate)
    for metric, hits in covered.items():
        assert 0.92 <= hits / 300 <= 0.98, metric
        error = np.std(estimates[metric]) / 300**0.5
        assert np.mean(estimates[metric]) == pytest.approx(shift, abs=3 * error)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    methods = ["flag_signal", "sigmask", "immediate_exit"]
    cases = [{**case, "methods": methods} for case in synthetic_run.kick_sweep()]
    return synthetic_run.build(tmp_path_factory.mktemp("results"), cases=cases, shift_ns=600.0)


def test_a_summary_of_every_kind(sweep):
    reader = RunReader(sweep)
    summary = summarise(reader)
    json.dumps(summary, allow_nan=False)
    cases = summary["cases"]
    kinds = [case["kind"] for case in cases]
    assert kinds == ["kick"] * 4 + ["pause_all"] * 2 + ["race"] * 2 + ["exits"]
    for case in cases[:4]:
        baseline = case["methods"]["immediate_exit"]
        latency, intervals = baseline["latency_ns"], baseline["latency_ci95"]
        truth = synthetic_run.KICK_NS[case["state"]]
        assert latency["p50"] == pytest.approx(truth, rel=0.03)
        assert latency["p50"] < latency["p90"] < latency["p99"] < latency["p999"] < latency["max"]
        assert intervals["p50"][0] < latency["p50"] < intervals["p50"][1]
        assert intervals["p999"] is None  # some 2,800 kicks: 3 beyond it
        assert case["methods"]["sigmask"]["phases_ns"]["delivery"] is None
        assert case["methods"]["sigmask"]["lost"] == 0
        assert case["methods"]["flag_signal"]["lost"] > 0
        for metric in ("latency_p50_ns", "latency_p99_ns"):
            low, high = contrast(case, metric)["ci95"]
            assert low - (high - low) < 600.0 < high + (high - low)
        assert {f["method"] for f in case["findings"]} == {"flag_signal"}
        assert case["relative_half_width"] is not None
    for case in cases[4:6]:
        last = case["methods"]["immediate_exit"]["last_ns"]
        assert last["p50"] == pytest.approx(5000 + 2000 * case["vcpus"], rel=0.02)
        assert contrast(case, "pause_last_ns")["diff"] == pytest.approx(600.0, rel=0.5)
        assert case["control"]["metric"] == "pause_last_ns"
    controls = [case["control"] for case in cases if case["kind"] != "race"]
    for control in controls:  # a family of seven
        assert control["ci_family"][0] < control["ci95"][0]
        assert control["ci95"][1] < control["ci_family"][1]
        around_0 = control["ci_family"][0] <= 0 <= control["ci_family"][1]
        assert control["ok"] in ((True, None) if around_0 else (False,))
    for case in cases[6:8]:
        assert case["contrasts"] == []
        assert (case["control"]["diff"], case["control"]["ok"]) == (None, None)
    share = [case["methods"]["flag_signal"]["lost_ci95"] for case in cases[6:8]]
    assert share[0][0] < 0.002 < share[0][1]
    assert share[1][0] < 0.98 < share[1][1]
    assert summarise(reader) == summary


def test_a_biased_control_is_not_ok(tmp_path):
    for parameters in (synthetic_run.kick_case(), synthetic_run.pause_case()):
        run = synthetic_run.build(
            tmp_path, cases=[parameters], shift_ns=0.0, control_shift_ns=2000.0
        )
        assert case_of(RunReader(run))["control"]["ok"] is False


# --- pauses ------------------------------------------------------------------------------------


def pause(round_, entry, last, **other):
    return {"round": round_, "entry": entry, "last_cycles": last, **other}


@pytest.mark.parametrize(
    ("pauses", "rescued", "rank"),
    [(2994, 0, None), (2995, 0, 2995), (5000, 0, 4999), (4999, 1, 4999), (4990, 10, None)],
)
def test_a_time_out_holds_for_all_but_one_pause_in_1000(tmp_path, pauses, rescued, rank):
    rows = [pause(0, BASELINE, last) for last in range(1, pauses + 1)]
    rows += [pause(0, BASELINE, 1, rescues=1)] * rescued
    worker = {"pauses": rows_of("pauses", rows)}
    reader = write_run(tmp_path, synthetic_run.pause_case(), [worker], hz=(1e9,))
    assert case_of(reader)["methods"]["immediate_exit"]["timeout_ns"] == rank


def test_pause_figures_by_hand(tmp_path):
    rows = [
        pause(0, SIGMASK, 400, first_cycles=100, median_cycles=200, send_cycles=50),
        pause(0, SIGMASK, 600, first_cycles=120, median_cycles=220, send_cycles=70),
        pause(1, SIGMASK, 1000, first_cycles=140, median_cycles=240, send_cycles=90),
        pause(1, SIGMASK, 10**9, first_cycles=1, median_cycles=1, send_cycles=1, rescues=3),
        pause(0, BASELINE, 300),
        pause(1, BASELINE, 500),
        pause(0, CONTROL, 310, rescues=1),
        pause(1, CONTROL, 520),
    ]
    worker = {"pauses": rows_of("pauses", rows)}
    reader = write_run(tmp_path, synthetic_run.pause_case(), [worker], hz=(2e9,))
    case = case_of(reader)
    sigmask = case["methods"]["sigmask"]
    assert sigmask["last_ns"] == {"p50": 300.0, "p90": 500.0, "p99": 500.0, "max": 500.0}
    assert sigmask["first_ns"]["p50"] == 60.0
    assert sigmask["median_ns"]["max"] == 120.0
    assert sigmask["send_ns"]["p99"] == 45.0
    assert (sigmask["n"], sigmask["rescued"], sigmask["rescues"]) == (3, 1, 3)
    assert sigmask["last_ci95"] == {"p50": None, "p90": None, "p99": None}  # three pauses
    found = contrast(case, "pause_last_ns")
    interval = paired_contrast([np.array([250.0 - 150.0, 500.0 - 250.0])])
    assert found["diff"] == pytest.approx(interval.estimate)
    assert found["ci95"] == pytest.approx([interval.low, interval.high])
    assert (found["rounds"], found["chunks"]) == (2, 2)
    # The control's only pause of round 0 was rescued: its two rounds are one chunk, and a single
    # difference has no spread.
    assert case["control"]["ok"] is None
    assert case["findings"] == [
        {"method": "sigmask", "what": "rescued", "count": 1, "of": 4, "race_free_claim": True},
        {
            "method": "immediate_exit",
            "what": "rescued",
            "count": 1,
            "of": 4,
            "race_free_claim": True,
        },
    ]
    assert read_pauses(reader, case["id"]).last_ns.max() == 5e8  # the reader hides none


# --- races -------------------------------------------------------------------------------------


def test_a_race_has_the_latencies_of_kicks_that_were_sent_again_apart(tmp_path):
    case = synthetic_run.race_case(processes=2)
    document = synthetic_run.case_document(case)
    for process in document["processes"]:
        process["latencies"] = {"sigmask": {"one": {"160": 90}, "more": {"320": 10}}}
    with synthetic_run.RunWriter.create(
        tmp_path,
        "latencies",
        scenario={"name": "latencies"},
        cases=[case],
        environment=synthetic_run.ENVIRONMENT,
        command=["kickbench"],
    ) as writer:
        writer.write_case(case["id"], document, synthetic_run.case_tables(case))
        writer.finish()
    found = case_of(RunReader(writer.path))
    figures = found["methods"]["sigmask"]
    short, long = 2**10.03125, 2**20.03125
    assert figures["latency_ns"] == pytest.approx(
        {"p50": short, "p90": short, "p99": long, "p999": long}
    )
    assert figures["resent_ns"]["p50"] == pytest.approx(long)
    assert "latency_ns" not in found["methods"]["immediate_exit"]


def test_race_figures_by_hand(tmp_path):
    parameters = synthetic_run.race_case(50_000.0, methods=["sigmask", "immediate_exit"])
    rows = [
        {"entry": SIGMASK, "sent": 300, "landed": 200, "lost": 2, "rescues": 3},
        {"entry": SIGMASK, "round": 1, "sent": 700, "landed": 500, "lost": 8, "spurious": 1},
        {"entry": BASELINE, "sent": 600, "landed": 600, "latency_max_cycles": 80},
        {"entry": CONTROL, "sent": 400, "landed": 300, "latency_max_cycles": 90},
    ]
    for i, row in enumerate(rows):
        row["timeout_cycles"] = 4000 + i
    rows[2]["timeout_cycles"] = 200_000  # of the first round
    worker = {"races": rows_of("races", rows)}
    case = case_of(write_run(tmp_path, parameters, [worker], hz=(2e9,), claims={"sigmask": None}))
    sigmask = case["methods"]["sigmask"]
    counts = {name: sigmask[name] for name in ("sent", "landed", "lost", "spurious", "rescues")}
    assert counts == {"sent": 1000, "landed": 700, "lost": 10, "spurious": 1, "rescues": 3}
    # By definition: at the bound, so few (or so many) are just as improbable as the level says.
    # Of those that could have been lost: the others tell nothing.
    low, high = sigmask["lost_ci95"]
    assert binom.sf(9, 700, low) == pytest.approx(0.025)
    assert binom.cdf(10, 700, high) == pytest.approx(0.025)
    assert binom.cdf(10, 700, sigmask["lost_upper95"]) == pytest.approx(0.05)
    low, high = sigmask["spurious_ci95"]
    assert binom.sf(0, 1000, low) == pytest.approx(0.025)
    assert binom.cdf(1, 1000, high) == pytest.approx(0.025)
    assert sigmask["latency_max_ns"] is None
    # The control is the baseline: its kicks count.
    baseline = case["methods"]["immediate_exit"]
    assert (baseline["sent"], baseline["lost"]) == (1000, 0)
    assert baseline["lost_upper95"] == pytest.approx(1 - 0.05 ** (1 / 900))
    assert baseline["lost_ci95"] == pytest.approx([0.0, 1 - 0.025 ** (1 / 900)])
    assert baseline["latency_max_ns"] == 45.0
    assert (case["window_ns"], case["timeout_ns"]) == (50_000.0, 2000.5)
    assert case["first_timeout_ns"] == 100_000.0
    assert case["contrasts"] == []
    assert case["control"]["diff"] is None
    assert case["control"]["ok"] is None
    assert [(f["method"], f["what"], f["count"]) for f in case["findings"]] == [
        ("sigmask", "lost", 10),
        ("sigmask", "spurious", 1),
    ]


def test_more_spurious_exits_than_kicks_are_no_proportion(tmp_path):
    rows = [{"entry": SIGMASK, "sent": 10, "landed": 5, "spurious": 11}]
    parameters = synthetic_run.race_case(methods=["sigmask", "immediate_exit"])
    case = case_of(write_run(tmp_path, parameters, [{"races": rows_of("races", rows)}]))
    assert case["methods"]["sigmask"]["spurious"] == 11
    assert case["methods"]["sigmask"]["spurious_ci95"] is None
    assert case["methods"]["sigmask"]["lost_upper95"] == pytest.approx(1 - 0.05**0.2)
    # Nothing was sent with the baseline: nothing is known.
    baseline = case["methods"]["immediate_exit"]
    assert (baseline["sent"], baseline["lost_upper95"], baseline["lost_ci95"]) == (0, None, None)


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        (synthetic_run.race_case(), {"lost": {"sigmask": 0.001}}),
        (synthetic_run.race_case(), {"spurious": {"immediate_exit": 0.001}}),
        (synthetic_run.kick_case(), {"lost": {"sigmask": 0.01}}),
        (synthetic_run.pause_case(), {"rescued": {"sigmask": 0.05}}),
    ],
)
def test_a_method_that_breaks_its_claim_is_easy_to_find(tmp_path, parameters, arguments):
    tables = synthetic_run.case_tables(parameters, shift_ns=0.0, **arguments)
    document = synthetic_run.case_document(parameters, hz=synthetic_run.HZ)
    findings = case_of(store(tmp_path, parameters, document, tables))["findings"]
    broken = [f for f in findings if f["race_free_claim"] is True]
    (method,) = next(iter(arguments.values()))
    assert [f["method"] for f in broken] == [method]
    assert 0 < broken[0]["count"] < broken[0]["of"]


# --- exits while kicked ------------------------------------------------------------------------


def test_exits_with_kicks_keep_everything_and_count_the_kicks(tmp_path):
    """The same exits with and without the table of kicks: the same figures."""
    plain = synthetic_run.case(2)
    kicked = {**plain, "kick_rate_hz": 1000.0}
    cases = [
        case_of(RunReader(synthetic_run.build(tmp_path, cases=[c], rounds=10)))
        for c in (plain, kicked)
    ]
    assert cases[1]["contrasts"] == cases[0]["contrasts"]
    assert cases[1]["control"] == cases[0]["control"]
    assert cases[1]["kick_rate_hz"] == 1000.0
    for method, figures in cases[1]["methods"].items():
        kicks = figures.pop("kicks")
        assert figures == cases[0]["methods"][method]
        assert kicks.keys() == {
            *("sent", "met", "lost", "spurious"),
            *("per_second", "race_free_claim"),
        }
        assert kicks["per_second"] == pytest.approx(2000.0, rel=0.05)  # of two vCPUs
        assert kicks["lost"] is None  # nobody looks for them there


# --- titles, claims and files of protocols -----------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "title"),
    [
        (synthetic_run.kick_case("guest", 1), "spin, 1 vCPU, local, kicked in the guest"),
        (
            synthetic_run.kick_case("halted", kickers=4, transport="timer"),
            "hlt, 2 vCPUs, local, kicked while halted, 4 kickers, by timer",
        ),
        (
            synthetic_run.kick_case("dreaming"),
            "pm_timer, 2 vCPUs, local, kicked in the state dreaming",
        ),
        (synthetic_run.pause_case(), "pm_timer, 16 vCPUs, local, pause all"),
        (synthetic_run.race_case(), "spin, 2 vCPUs, local, race, natural window"),
        (
            synthetic_run.race_case(50_000.0, transport="pidfd"),
            "spin, 2 vCPUs, local, race, window 50,000 ns, by pidfd",
        ),
        (
            synthetic_run.case(2, rate=5000.0, kick_rate_hz=1000.0),
            "pm_timer, 2 vCPUs, local, 5,000 exits/s per vCPU, periodic, 1,000 kicks/s per vCPU",
        ),
    ],
)
def test_titles(parameters, title):
    assert describe(parameters) == title


def test_a_protocol_file_appears_by_its_name(tmp_path):
    path = "/elsewhere/my_protocol.c"
    parameters = synthetic_run.kick_case(methods=[path, "immediate_exit"])
    workers, _ = random_rounds(np.random.default_rng(4), 1, 6, 12)
    reader = write_run(tmp_path, parameters, workers, claims={path: True})
    case = case_of(reader)
    assert list(case["methods"]) == ["my_protocol", "immediate_exit"]
    assert case["methods"]["my_protocol"]["race_free_claim"] is True
    assert contrast(case, "latency_p50_ns", "my_protocol")["rounds"] == 6
    names = export(reader).get_benchmark_names()
    assert names[0] == f"{case['id']}/my_protocol/latency"


def test_a_protocol_file_with_the_name_of_another_method_is_refused(tmp_path):
    parameters = synthetic_run.kick_case(methods=["/a/sigmask.c", "sigmask", "immediate_exit"])
    with pytest.raises(ResultsError, match="a method is there twice"):
        write_run(tmp_path, parameters, [{}])


# --- pyperf ------------------------------------------------------------------------------------


def test_pyperf_has_latencies_and_pauses_but_no_races(sweep):
    reader = RunReader(sweep)
    suite = pyperf.BenchmarkSuite.load(str(write_pyperf(sweep)))
    suffixes = {"kick": "/latency", "pause_all": "/pause", "exits": ""}
    assert suite.get_benchmark_names() == [
        f"{record.id}/{method}{suffixes[record.parameters['kind']]}"
        for record in reader.cases
        if record.parameters["kind"] in suffixes
        for method in record.parameters["methods"]
    ]
    for record, name in ((reader.cases[0], "latency"), (reader.cases[4], "pause")):
        medians = read_round_medians(reader, record.id)
        for index, method in enumerate(record.parameters["methods"]):
            benchmark = suite.get_benchmark(f"{record.id}/{method}/{name}")
            for process, run in enumerate(benchmark.get_runs()):
                wanted = medians.median_ns[medians.process == process, index] / 1e9
                assert np.array(run.values) == pytest.approx(wanted)
            assert benchmark.get_metadata()["kickbench_kind"] == record.parameters["kind"]
    assert "kickbench_exit_rate_hz" not in suite.get_benchmarks()[0].get_metadata()


# --- what the store refuses --------------------------------------------------------------------


def test_exits_with_kicks_need_the_table_of_them(tmp_path):
    parameters = synthetic_run.case(2, kick_rate_hz=1000.0)
    tables = synthetic_run.case_tables(parameters, shift_ns=0.0, rounds=2)
    counts = tables.pop("kick_blocks")
    with RunWriter.create(
        tmp_path, "unit", scenario={}, cases=[parameters], environment={}
    ) as writer:
        document = synthetic_run.case_document(parameters)
        with pytest.raises(ValueError, match="kick_blocks"):
            writer.write_case(parameters["id"], document, tables)
        writer.write_case(parameters["id"], document, {**tables, "kick_blocks": counts})
    (writer.path / "cases" / parameters["id"] / "kick_blocks.parquet").unlink()
    with pytest.raises(ResultsError, match=r"kick_blocks\.parquet.*is missing"):
        RunReader(writer.path)


# --- kickers that contend ----------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(
        st.integers(0, 1),  # block
        st.integers(0, 1),  # vCPU
        st.integers(-1, 2),  # volley
        st.integers(0, 20),  # begin
        st.integers(1, 8),  # length
        st.integers(-1, 2),  # CPU
        st.booleans(),  # met
    ),
    max_size=30,
)


@given(CALLS)
def test_calls_of_a_volley_overlap_when_their_times_do(calls):
    block, vcpu, number, begin, length, cpu, met = (
        np.array(column, np.int64) for column in (zip(*calls, strict=True) if calls else [()] * 7)
    )
    volley = index_volleys(block, np.zeros(len(calls)), vcpu, number)
    overlapping = find_overlapping(volley, cpu, begin, length)
    contending = find_contending(volley, met.astype(np.bool_))
    for i, one in enumerate(calls):
        mates = [
            other
            for j, other in enumerate(calls)
            if j != i and other[:3] == one[:3] and one[2] >= 0
        ]
        assert overlapping[i] == any(
            max(one[3], other[3]) < min(one[3] + one[4], other[3] + other[4])
            and -1 < one[5] != other[5] > -1
            for other in mates
        )
        assert contending[i] == (one[6] or any(mate[6] for mate in mates))


@given(CALLS)
def test_volleys_are_numbered_as_their_kicks_are_ordered(calls):
    block, vcpu, volley = (np.array([call[i] for call in calls], np.int64) for i in range(3))
    place = block[::-1] % 2
    alone = np.where(volley < 0, np.arange(len(calls)), -1)
    keys = np.column_stack([block, place, vcpu, volley, alone])
    expected = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    small = [place.astype(np.uint8), vcpu.astype(np.uint16), volley.astype(np.int32)]
    assert index_volleys(block, *small).tolist() == expected.tolist()


def test_the_first_and_the_last_of_as_many_calls_as_there_can_be_overlap():
    n = MAX_KICKERS
    begin, length = np.arange(n), np.ones(n, np.int64)
    length[0] = n
    cpu = np.zeros(n, np.int64)
    cpu[-1] = 1  # all others are on one CPU, where calls do not contend
    found = find_overlapping(np.zeros(n, np.intp), cpu, begin, length)
    assert np.flatnonzero(found).tolist() == [0, n - 1]


def test_a_table_that_is_one_volley_takes_no_more_steps_than_there_are_kickers(monkeypatch):
    n, steps, flatnonzero = 50_000, [], np.flatnonzero

    def counted(values):
        steps.append(len(values))
        assert len(steps) <= MAX_KICKERS
        return flatnonzero(values)

    monkeypatch.setattr(np, "flatnonzero", counted)
    calls = np.arange(n)
    found = find_overlapping(np.zeros(n, np.intp), calls % 2, calls, np.full(n, n))
    assert found.all()
    assert steps


def test_a_kick_that_another_kicker_was_faster_than_counts_as_sent_but_not_as_met(tmp_path):
    parameters = synthetic_run.kick_case(kickers=3, processes=1)
    rows = []
    for number in range(4):
        for entry in range(3):
            place = {"round": number, "position": entry, "entry": entry, "volley": 0}
            calls = [
                {"at_cycles": 100, "send_cycles": 50, "latency_cycles": 70},
                {"at_cycles": 120, "send_cycles": 80, "latency_cycles": 0, "met": False},
                {"at_cycles": 300, "send_cycles": 20, "latency_cycles": 0, "met": False},
                # The vCPU was elsewhere: another volley, which met nothing.
                {"at_cycles": 900, "send_cycles": 5000, "met": False, "volley": 1},
            ]
            rows += [{**place, "kicker": k % 3, "cpu": k, **call} for k, call in enumerate(calls)]
    blocks = [
        {"round": r, "position": e, "entry": e, "sent": 4, "met": 1}
        for r in range(4)
        for e in range(3)
    ]
    worker = {"kicks": rows_of("kicks", rows), "kick_blocks": rows_of("kick_blocks", blocks)}
    reader = write_run(tmp_path, parameters, [worker])
    (case,) = summarise(reader)["cases"]
    for figures in case["methods"].values():
        assert figures["n"] == 4
        assert figures["sends"] == {"n": 12, "overlapping": pytest.approx(2 / 3)}
        assert figures["send_ns"] == {"p50": 50.0, "p99": 80.0, "max": 80.0}
        assert figures["estimates"]["send_mean_ns"]["value"] == pytest.approx(50.0)
        assert figures["phases_ns"]["send"]["p50"] == 50.0
    metrics = {c["metric"]: c for c in case["contrasts"]}
    assert metrics["send_mean_ns"]["diff"] == 0
    assert metrics["send_mean_ns"]["rounds"] == 4


def test_the_difference_of_two_send_costs_is_paired_and_found(tmp_path):
    case = synthetic_run.kick_case(kickers=3)
    run = synthetic_run.build(tmp_path, cases=[case], of_kicks={"send_growth": {"sigmask": 0.1}})
    (found,) = summarise(RunReader(run))["cases"]
    call = 0.2 * synthetic_run.KICK_NS[case["state"]]
    for one in found["contrasts"]:
        if one["metric"].startswith("send_"):
            assert one["diff"] == pytest.approx(2 * 0.1 * call, rel=0.02)
            assert one["ci95"][0] > 0


def test_runs_before_there_were_volleys_have_their_send_cost(tmp_path):
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.kick_case()], rounds=4)
    new = summarise(RunReader(run))["cases"][0]["methods"]
    (path,) = run.rglob("kicks.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["volley", "cpu"]), path)
    reader = RunReader(run)
    assert set(reader.table(reader.cases[0].id, "kicks")["volley"].to_pylist()) == {-1}
    assert summarise(reader)["cases"][0]["methods"] == new


@pytest.mark.parametrize("dtype", ["?", "u1", "i8"])
def test_truth_values_of_a_worker_are_0_and_1(dtype):
    array = np.zeros(3, synthetic_run.KICKS)
    array = array.astype([(n, dtype if n == "met" else t) for n, t in fields(array)])
    array["met"] = [0, 1, 0]
    entries = synthetic_run.entries_of(synthetic_run.kick_case())
    table = from_worker("kicks", array, entries=entries, process=0)
    assert table["met"].to_pylist() == [False, True, False]
    if dtype != "?":
        array["met"][1] = 2
        with pytest.raises(MeasurementError, match="bad met: not 0 or 1"):
            from_worker("kicks", array, entries=entries, process=0)


@pytest.fixture
def run(tmp_path):
    cases = [synthetic_run.kick_case(), synthetic_run.pause_case(), synthetic_run.race_case()]
    return synthetic_run.build(tmp_path, cases=cases, rounds=4)


def refuse(run, *fragments):
    with pytest.raises(ResultsError) as caught:
        summarise(RunReader(run))
    assert str(caught.value).isprintable()
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "fragment"),
    [
        ("kicks", set_column("met", lambda t: t["met"].cast("uint8")), "not bool"),
        ("kicks", set_column("lost", lambda t: pa.array([None] * len(t), "bool")), "empty cells"),
        ("kicks", lambda t: t.drop_columns(["lost"]), "no column lost"),
        ("kicks", set_column("latency_cycles", lambda t: t["at_cycles"]), "not uint32"),
        (
            "kick_blocks",
            set_column("spurious", lambda t: pa.array([-1] * len(t))),
            "spurious goes from -1",
        ),
        ("kick_blocks", set_column("lost", lambda t: pc.add(t["sent"], 1)), "lost exceeds sent"),
        ("kick_blocks", set_column("met", lambda t: pc.add(t["sent"], 1)), "met exceeds sent"),
        ("pauses", set_column("last_cycles", lambda t: pc.negate(t["last_cycles"])), "goes from -"),
        ("pauses", set_column("rescues", lambda t: t["rescues"].cast("int64")), "not int32"),
        ("races", set_column("lost", lambda t: pc.add(t["sent"], 1)), "lost exceeds sent"),
        ("races", set_column("landed", lambda t: pa.array([2**60] * len(t))), "landed goes from"),
        (
            "races",
            set_column("process", lambda t: pa.array([9] * len(t), "int16")),
            "unknown process 9",
        ),
        (
            "races",
            set_column("method", lambda t: pa.array(["x\n"] * len(t)).dictionary_encode()),
            "unknown method",
        ),
    ],
)
def test_tampered_tables(run, name, change, fragment):
    (path,) = run.glob(f"cases/*/{name}.parquet")
    pq.write_table(change(pq.read_table(io.BytesIO(path.read_bytes()))), path)
    refuse(run, f"{name}.parquet", fragment)


def set_case(**values):
    return lambda document: document["case"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        set_case(transport="\x1b[31m"),
        set_case(transport=None),
        set_case(state=3),
        set_case(kickers=0),
        set_case(kickers=2.5),
        set_case(kick_rate_hz=0),
        set_case(kick_rate_hz="many"),
        set_case(window_ns=-1.0),
        set_case(kicks=0),
        set_case(kicks=1e6),
        lambda d: d.update(claims=["sigmask"]),
        lambda d: d.update(claims={"sigmask": "yes"}),
        lambda d: d.update(claims={"a\nb": True}),
        lambda d: d["processes"][0].update(lost_timeout_ns=-1),
        lambda d: d["processes"][0].update(lost_timeout_ns="1 s"),
    ],
)
def test_tampered_cases(run, change):
    path = next(run.glob("cases/kick-*/case.json"))
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    refuse(run, "case.json", "is damaged")


def test_what_older_folders_do_not_have_is_not_asked_for(run):
    path = next(run.glob("cases/kick-*/case.json"))
    document = json.loads(path.read_bytes())
    for name in ("transport", "kickers", "kick_rate_hz", "window_ns", "kicks"):
        del document["case"][name]
    del document["claims"]
    for process in document["processes"]:
        del process["lost_timeout_ns"]
    path.write_text(json.dumps(document))
    case = case_of(RunReader(run))
    assert (case["transport"], case["kickers"], case["timeout_ns"]) == ("tgkill", 1, None)
    assert case["methods"]["sigmask"]["race_free_claim"] is None


@pytest.mark.parametrize("name", ["kicks", "kick_blocks", "pauses", "races"])
def test_truncated_tables(run, name):
    (path,) = run.glob(f"cases/*/{name}.parquet")
    data = path.read_bytes()
    for size in {0, 4, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:size])
        refuse(run, f"{name}.parquet", "damaged")


def test_every_table_is_of_a_kind():
    kinds = {kind for table in TABLES.values() for kind in table.kinds}
    assert kinds == {*KINDS, "observed"}


def test_every_kick_is_read(run):
    reader = RunReader(run)
    kicks = read_kicks(reader, reader.cases[0].id)
    assert len(kicks.entry) == reader.count_rows(reader.cases[0].id, "kicks")
    assert (kicks.latency_ns[kicks.timed] < synthetic_run.TIMEOUT_NS).all()
