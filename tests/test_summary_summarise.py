# SPDX-License-Identifier: Apache-2.0
"""summary.json: its numbers against numbers worked out by hand, and null where there is none."""

from __future__ import annotations

import json

import hand_made
import numpy as np
import pytest
import synthetic_run
from hand_made import case_of, contrast, store
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.results.reader import RunReader
from kickbench.results.tables import QUANTILES
from kickbench.scenario.kinds import precise_metrics
from kickbench.stats.contrasts import paired_contrast, running_interval
from kickbench.summary.exits import histogram_quantiles, read_rounds
from kickbench.summary.summarise import CONTROL_CONFIDENCE, describe, summarise, write_summary

METHODS = ("sigmask", "immediate_exit")
SIGMASK, BASELINE, CONTROL = range(3)


def blocks_of(rows):
    """Blocks from (round, entry, vcpu, exits, timed_cycles) and, by name, anything else."""
    blocks = np.zeros(len(rows), synthetic_run.BLOCKS)
    for name in QUANTILES:
        blocks[name] = np.nan
    for i, (round_, entry, vcpu, exits, cycles, *other) in enumerate(rows):
        blocks[i]["round"], blocks[i]["entry"], blocks[i]["vcpu"] = round_, entry, vcpu
        blocks[i]["exits"] = blocks[i]["timed_exits"] = exits
        blocks[i]["timed_cycles"] = blocks[i]["elapsed_cycles"] = cycles
        blocks[i]["max_cycles"] = cycles
        blocks[i]["cpu_ns"] = cycles
        for name, value in (other[0] if other else {}).items():
            blocks[i][name] = value
    return blocks


def write_run(path, workers, *, histograms=(), hz=(1e9,), **case):
    """A run of one case from hand-made blocks, one array per process; 1 cycle is 1 ns at 1e9."""
    bins = np.array(list(histograms), synthetic_run.HISTOGRAMS)
    arrays = [{"blocks": blocks, "exit_histograms": bins} for blocks in workers]
    return hand_made.write_run(path, synthetic_run.case(**case), arrays, hz=hz)


# --- quiet exits ---------------------------------------------------------------------------------


def quiet_rows(rounds, diff, *, exits=10_000, mean=1000, control=0):
    """Blocks whose p20 is 500 cycles with the baseline, and so much more with sigmask; every
    other quantile likewise, by its own level."""
    for round_ in range(rounds):
        for entry, more in ((SIGMASK, diff), (BASELINE, 0), (CONTROL, control)):
            wobble = round_ % 5
            levels = {
                name: 500 + wobble + 100 * (level - 0.2) + (more(level) if callable(more) else more)
                for name, level in QUANTILES.items()
            }
            cycles = exits * (mean + 7 * wobble)
            yield round_, entry, 0, exits, cycles, levels


def test_a_quiet_exit_is_a_low_quantile_of_each_block(tmp_path):
    blocks = blocks_of(list(quiet_rows(40, 120)))
    case = case_of(write_run(tmp_path, [blocks, blocks], hz=(2e9,)))
    found = contrast(case, "quiet_ns_per_exit")
    assert found["diff"] == pytest.approx(60)
    assert found["rounds"] == 80
    quiet = case["methods"]["immediate_exit"]["ns_per_exit"]["quiet"]
    assert quiet == pytest.approx(251, abs=1.5)
    assert case["methods"]["immediate_exit"]["estimates"]["quiet_ns_per_exit"]["value"] == quiet
    # The mean is told as well, and is another figure.
    assert contrast(case)["diff"] == pytest.approx(0)


def test_the_floor_is_that_of_the_process_that_was_disturbed_least(tmp_path):
    rows = list(quiet_rows(40, 120))
    slower = [(*row[:5], {name: 2 * ns for name, ns in row[5].items()}) for row in rows]
    case = case_of(write_run(tmp_path, [blocks_of(slower), blocks_of(rows)], hz=(2e9,)))
    times = case["methods"]["immediate_exit"]["ns_per_exit"]
    assert times["floor"] == pytest.approx(250)
    assert times["quiet"] > 300


def test_vcpus_that_exited_count_alike_in_a_quiet_exit(tmp_path):
    names = dict.fromkeys(QUANTILES, np.nan)
    rows = []
    for round_ in range(3):
        rows += [
            (round_, SIGMASK, 0, 10, 5000, dict.fromkeys(QUANTILES, 400.0)),
            (round_, SIGMASK, 1, 90, 5000, dict.fromkeys(QUANTILES, 600.0)),
            (round_, BASELINE, 0, 10, 5000, dict.fromkeys(QUANTILES, 300.0)),
            (round_, BASELINE, 1, 0, 5000, names),
        ]
    reader = write_run(tmp_path, [blocks_of(rows)], vcpus=2)
    rounds = read_rounds(reader, reader.cases[0].id)
    assert rounds.quiet_ns_per_exit[:, SIGMASK].tolist() == [500.0] * 3
    assert rounds.quiet_ns_per_exit[:, BASELINE].tolist() == [300.0] * 3


def test_the_control_judges_both_figures(tmp_path):
    blocks = blocks_of(list(quiet_rows(40, 120, control=lambda level: 30 * (level == 0.2))))
    case = case_of(write_run(tmp_path, [blocks, blocks]))
    assert case["control"]["metric"] == "quiet_ns_per_exit"
    assert case["control"]["ok"] is False
    assert case["control"]["mean"]["metric"] == "ns_per_exit"
    assert case["control"]["mean"]["ok"] is True


def test_quantiles_that_only_some_have_are_no_error(tmp_path):
    """A stranger's table may have them of the methods and not of the control."""
    blocks = blocks_of(list(quiet_rows(40, 120)))
    for name in QUANTILES:
        blocks[name][blocks["entry"] == CONTROL] = np.nan
    case = case_of(write_run(tmp_path, [blocks, blocks]))
    assert contrast(case, "quiet_ns_per_exit")["diff"] == pytest.approx(120)
    assert (case["control"]["diff"], case["control"]["ok"]) == (None, None)
    assert case["control"]["mean"]["ok"] is True


def test_a_run_without_quantiles_has_no_quiet_exit(tmp_path):
    blocks = blocks_of(list(quiet_rows(10, 100)))
    for name in QUANTILES:
        blocks[name] = np.nan
    case = case_of(write_run(tmp_path, [blocks]))
    assert {one["metric"] for one in case["contrasts"]} == {"ns_per_exit", "cpu_ns_per_exit"}
    times = case["methods"]["sigmask"]["ns_per_exit"]
    assert (times["quiet"], times["floor"]) == (None, None)
    assert case["control"]["metric"] == "ns_per_exit"
    assert "mean" not in case["control"]
    assert case["shift"] == []


def test_the_shift_function_has_the_difference_at_each_quantile(tmp_path):
    blocks = blocks_of(list(quiet_rows(40, lambda level: 100 + 400 * level**8)))
    case = case_of(write_run(tmp_path, [blocks, blocks]))
    (shift,) = case["shift"]
    assert (shift["method"], shift["baseline"]) == ("sigmask", "immediate_exit")
    assert [point["level"] for point in shift["points"]] == list(QUANTILES.values())
    for point in shift["points"]:
        assert point["diff"] == pytest.approx(100 + 400 * point["level"] ** 8, abs=0.01)
        assert point["ci95"][0] <= point["diff"] <= point["ci95"][1]


@pytest.mark.parametrize(("exits", "last"), [(4999, 0.99), (5000, 0.999), (50, 0.9), (9, None)])
def test_a_quantile_needs_exits_beyond_it(tmp_path, exits, last):
    blocks = blocks_of(list(quiet_rows(20, 100, exits=exits)))
    case = case_of(write_run(tmp_path, [blocks]))
    levels = [point["level"] for one in case["shift"] for point in one["points"]]
    assert (max(levels) if levels else None) == last


# --- by hand -----------------------------------------------------------------------------------


def test_method_figures_by_hand(tmp_path):
    rows = [
        # Two vCPUs, one round; the clock has 2 cycles per ns.
        (0, SIGMASK, 0, 100, 40_000, {"max_cycles": 900, "cpu_ns": 19_000, "steal_ns": 5}),
        (0, SIGMASK, 1, 300, 80_000, {"max_cycles": 700, "cpu_ns": 39_000, "migrations": 2}),
        (0, BASELINE, 0, 200, 40_000, {"max_cycles": 500}),
        (0, BASELINE, 1, 200, 40_000, {"max_cycles": 600}),
        (0, CONTROL, 0, 1, 10_000_000, {"max_cycles": 10_000_000}),
    ]
    case = case_of(write_run(tmp_path, [blocks_of(rows)], hz=(2e9,)))
    sigmask = case["methods"]["sigmask"]
    assert sigmask["n"] == 400
    assert sigmask["ns_per_exit"]["mean"] == 120_000 / 2 / 400
    assert sigmask["ns_per_exit"]["max"] == 450.0
    # 400 exits while the longer window was open: 40 µs.
    assert sigmask["exits_per_second"] == pytest.approx(400 / 40e-6)
    assert sigmask["cpu_ns_per_exit"] == 58_000 / 400
    assert sigmask["disturbances"] == {
        "involuntary_switches": 0,
        "migrations": 2,
        "steal_ns": 5,
        "run_delay_ns": 0,
        "rescues": 0,
    }
    # The control's blocks are not the baseline's.
    assert case["methods"]["immediate_exit"]["n"] == 400
    assert case["methods"]["immediate_exit"]["ns_per_exit"]["mean"] == 100.0
    assert case["methods"]["immediate_exit"]["ns_per_exit"]["max"] == 300.0


def test_estimates_are_of_per_round_values_and_processes(tmp_path):
    # Two vCPUs a block, of which the second came late: the block is as long as the longer window.
    def worker(ns):
        return blocks_of(
            [
                (round_, SIGMASK, vcpu, 10, 10 * ns, {"elapsed_cycles": 10_000 - 9_000 * vcpu})
                for round_ in range(3)
                for vcpu in range(2)
            ]
        )

    # Paced: the guest's own round trips, and not all time of the window, are its times.
    summary = summarise(write_run(tmp_path, [worker(100), worker(300)], exit_rate_hz=1000.0))
    case = summary["cases"][0]
    estimates = case["methods"]["sigmask"]["estimates"]
    assert case["processes"] == 2
    # Student's t with 1 degree of freedom: 12.7 standard errors of 100 ns.
    half = 12.706 * 100
    assert estimates["ns_per_exit"]["value"] == pytest.approx(200)
    assert estimates["ns_per_exit"]["ci95"] == pytest.approx([200 - half, 200 + half], rel=1e-4)
    assert estimates["exits_per_second"]["value"] == pytest.approx(20 / 10_000e-9)
    assert estimates["exits_per_second"]["ci95"] == pytest.approx([2e6, 2e6])
    nothing = {"value": None, "ci95": None}
    assert case["methods"]["immediate_exit"]["estimates"] == dict.fromkeys(
        ("ns_per_exit", "cpu_ns_per_exit", "exits_per_second"), nothing
    )


def test_contrasts_are_of_per_round_ratios_of_sums(tmp_path):
    rng = np.random.default_rng(0)
    workers, expected, control = [], [], []
    for _ in range(2):
        rows, differences, controls = [], [], []
        for round_ in range(9):
            sums = np.zeros((3, 2))
            for entry in (SIGMASK, BASELINE, CONTROL, CONTROL, BASELINE, SIGMASK):
                for vcpu in range(2):
                    exits, cycles = rng.integers(1, 50), rng.integers(1000, 9000)
                    rows.append((round_, entry, vcpu, exits, cycles))
                    sums[entry] += cycles, exits
            ns = sums[:, 0] / sums[:, 1]
            differences.append(ns[SIGMASK] - ns[BASELINE])
            controls.append(ns[CONTROL] - ns[BASELINE])
        rng.shuffle(rows)  # the order of rows on the disk must not matter
        workers.append(blocks_of(rows))
        expected.append(differences)
        control.append(controls)
    case = case_of(write_run(tmp_path, workers))
    interval = paired_contrast(expected)
    for metric in ("ns_per_exit", "cpu_ns_per_exit"):  # the same numbers, by construction
        found = contrast(case, metric)
        assert found["baseline"] == "immediate_exit"
        assert found["diff"] == pytest.approx(interval.estimate)
        assert found["ci95"] == pytest.approx([interval.low, interval.high])
        assert (found["rounds"], found["rounds_without_exits"]) == (18, 0)
    interval = running_interval(control)
    assert case["control"]["diff"] == pytest.approx(interval.estimate)
    assert case["control"]["ci95"] == pytest.approx([interval.low, interval.high])
    judged = running_interval(control, confidence=CONTROL_CONFIDENCE)  # a family of one
    assert case["control"]["ci_family"] == pytest.approx([judged.low, judged.high])


def test_every_process_is_measured_by_its_own_clock(tmp_path):
    rows = [(r, entry, 0, 10, 1000 + 100 * r) for r in range(4) for entry in range(3)]
    fast = np.concatenate([blocks_of(rows)])
    for name in ("timed_cycles", "elapsed_cycles", "max_cycles"):
        fast[name] *= 3
    reader = write_run(tmp_path, [blocks_of(rows), fast], hz=(1e9, 3e9))
    rounds = read_rounds(reader, reader.cases[0].id)
    assert rounds.process.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert rounds.ns_per_exit[:4] == pytest.approx(rounds.ns_per_exit[4:], nan_ok=True)
    assert not np.isnan(rounds.ns_per_exit[:, :-1]).any()  # there is no placebo
    assert case_of(reader)["methods"]["sigmask"]["ns_per_exit"]["mean"] == pytest.approx(115.0)


def test_at_full_speed_a_time_per_exit_has_the_time_after_the_last_exit(tmp_path):
    rows = [(r, entry, 0, 10, 1000) for r in range(6) for entry in (BASELINE, CONTROL)]
    rows += [(r, SIGMASK, 0, 5, 500, {"elapsed_cycles": 2000}) for r in range(6)]
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    assert case["methods"]["sigmask"]["ns_per_exit"]["mean"] == 400.0
    assert contrast(case)["diff"] == 300.0
    assert case["control"]["diff"] == 0.0


def test_a_guest_that_stood_still_is_a_finding_and_short_stalls_are_none(tmp_path):
    stalled = {SIGMASK: 51, BASELINE: 40, CONTROL: 40}
    rows = [
        (r, entry, 0, 10, 1000, {"stalled_cycles": stalled[entry]})
        for r in range(6)
        for entry in range(3)
    ]
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    (finding,) = case["findings"]
    assert (finding["method"], finding["what"]) == ("sigmask", "stood_still")
    assert (finding["count"], finding["of"]) == (6 * 51, 6 * 1000)
    assert case["methods"]["sigmask"]["stalled"] == pytest.approx(0.051)
    assert case["methods"]["immediate_exit"]["stalled"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("rate_hz", "skew", "share"), [(None, 30, 0.2), (None, -1, None), (1000.0, 30, None)]
)
def test_skew_is_the_last_vcpus_share_of_a_block(tmp_path, rate_hz, skew, share):
    rows = [
        # Blocks of 100 cycles: the last vCPU begins 30 late in one half of them, 10 in the other.
        *((r, SIGMASK, 0, 1, 90, {"skew_cycles": 10}) for r in range(3)),
        *((r, SIGMASK, 1, 1, 70, {"skew_cycles": skew}) for r in range(3)),
        *((r, BASELINE, 0, 1, 90, {"skew_cycles": 10, "position": 1}) for r in range(3)),
    ]
    case = case_of(write_run(tmp_path, [blocks_of(rows)], exit_rate_hz=rate_hz, vcpus=2))
    assert case["start_skew"] == (None if share is None else pytest.approx(share))


def test_rounds_without_exits_are_left_out_and_counted(tmp_path):
    rows = [(r, entry, 0, 10, 1000) for r in range(6) for entry in range(3)]
    rows += [(6, SIGMASK, 0, 0, 0), (6, BASELINE, 0, 10, 1000), (6, CONTROL, 0, 10, 1000)]
    rows += [(7, BASELINE, 0, 10, 1000), (7, CONTROL, 0, 0, 0)]  # sigmask's blocks are missing
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    assert (contrast(case)["rounds"], contrast(case)["rounds_without_exits"]) == (6, 2)
    assert contrast(case)["diff"] == 0.0
    assert (case["control"]["rounds"], case["control"]["rounds_without_exits"]) == (7, 1)


def test_a_guest_that_never_exits_has_nulls(tmp_path):
    rows = [(r, entry, 0, 0, 0, {"elapsed_cycles": 5}) for r in range(6) for entry in range(3)]
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    method = case["methods"]["sigmask"]
    assert method["n"] == 0
    assert method["exits_per_second"] == 0.0
    assert set(method["ns_per_exit"].values()) == {None}
    assert method["cpu_ns_per_exit"] is None
    assert (contrast(case)["diff"], contrast(case)["ci95"]) == (None, None)
    assert contrast(case)["rounds_without_exits"] == 6
    control = case["control"]
    assert (control["diff"], control["ci95"], control["ok"]) == (None, None, None)
    assert case["relative_half_width"] is None
    assert case["precision_reached"] is None


@pytest.mark.parametrize("rows", [[], [(0, e, 0, 10, 1000) for e in range(3)]])
def test_no_round_or_one_has_no_interval(tmp_path, rows):
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    assert contrast(case)["ci95"] is None
    assert case["control"]["ok"] is None


def test_unknown_disturbances_are_null_not_minus_one(tmp_path):
    unknown = {"cpu_ns": -1, "steal_ns": -1, "run_delay_ns": -1, "migrations": -1}
    rows = [(r, e, 0, 10, 1000 + r, unknown) for r in range(4) for e in range(3)]
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    method = case["methods"]["sigmask"]
    assert method["cpu_ns_per_exit"] is None
    assert method["disturbances"]["steal_ns"] is None
    assert method["disturbances"]["involuntary_switches"] == 0
    assert contrast(case, "cpu_ns_per_exit")["ci95"] is None
    assert contrast(case, "ns_per_exit")["ci95"] is not None


def test_quantiles_come_from_the_histogram_and_the_maximum_from_the_blocks(tmp_path):
    rows = [(r, e, 0, 100, 10_000, {"max_cycles": 205}) for r in range(2) for e in range(3)]
    histograms = [
        (BASELINE, 100, 200, 180),
        (BASELINE, 200, 300, 20),
        (SIGMASK, 50, 51, 1),
        (CONTROL, 4000, 5000, 10**6),
    ]
    case = case_of(write_run(tmp_path, [blocks_of(rows)], histograms=histograms))
    ns = case["methods"]["immediate_exit"]["ns_per_exit"]
    assert ns["p50"] == pytest.approx(100 + 100 * 100 / 180)
    assert ns["p90"] == pytest.approx(200.0)
    assert ns["p99"] == ns["max"] == 205.0  # the bin reaches to 300, but no exit did
    assert case["methods"]["sigmask"]["ns_per_exit"]["p50"] == pytest.approx(50.5)


# --- on realistic data -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return synthetic_run.build(tmp_path_factory.mktemp("results"))


def test_a_known_shift_is_found(sweep):
    cases = summarise(RunReader(sweep))["cases"]
    finished = [case for case in cases if case["status"] == "ok"]
    assert len(finished) == 8
    for case in finished:
        truth = synthetic_run.siglock_ns(
            {"vcpus": case["vcpus"], "placement": {"name": case["placement"]}}
        )
        low, high = contrast(case)["ci95"]
        assert low < high
        assert contrast(case)["diff"] == pytest.approx(truth, rel=0.01)
        assert low - (high - low) < truth < high + (high - low)
        assert case["control"]["ok"] is True
        assert case["control"]["ci_family"][0] < case["control"]["ci95"][0]
        assert case["control"]["ci_family"][1] > case["control"]["ci95"][1]
        half = (high - low) / 2
        mean = case["methods"]["immediate_exit"]["ns_per_exit"]["mean"]
        assert case["relative_half_width"] == pytest.approx(half / mean)
        assert case["precision_reached"] is (half / mean <= 0.001)
        ns = case["methods"]["sigmask"]["ns_per_exit"]
        assert ns["p50"] < ns["p90"] < ns["p99"] <= ns["max"]
        assert ns["p50"] == pytest.approx(ns["mean"], rel=0.05)


@pytest.mark.parametrize("of", ["quiet", "mean", "both"])
def test_the_precision_is_that_of_the_figures_asked_for(tmp_path, of):
    cases = [synthetic_run.case(2, precision=1e-6, precision_of=of)]
    case = case_of(RunReader(synthetic_run.build(tmp_path, cases=cases)))
    metrics = {"quiet": "quiet_ns_per_exit", "mean": "ns_per_exit"}
    wanted = list(metrics.values()) if of == "both" else [metrics[of]]
    assert case["precision_of"] == case["precision_missed"] == wanted
    levels = case["methods"]["immediate_exit"]["ns_per_exit"]
    halves = []
    for metric in wanted:
        low, high = contrast(case, metric)["ci95"]
        level = levels["quiet" if metric.startswith("quiet") else "mean"]
        halves.append((high - low) / 2 / level)
    assert case["relative_half_width"] == pytest.approx(max(halves))


def test_vcpus_that_wait_for_cpus_are_judged_by_their_quiet_exits():
    assert precise_metrics({"precision_of": "both"}, crowded=True) == ("quiet_ns_per_exit",)
    assert precise_metrics({"precision_of": "mean"}, crowded=True) == ("ns_per_exit",)
    assert precise_metrics({}, crowded=False) == ("ns_per_exit",)


@pytest.mark.parametrize(("precision", "reached"), [(1e-6, False), (0.5, True)])
def test_precision_is_reached_or_not(tmp_path, precision, reached):
    cases = [synthetic_run.case(2, precision=precision)]
    case = case_of(RunReader(synthetic_run.build(tmp_path, cases=cases)))
    assert case["precision"] == precision
    assert case["precision_reached"] is reached


def test_the_summary_keeps_its_contract(sweep):
    summary = summarise(RunReader(sweep))
    assert {"schema", "run_id", "scenario", "emulated", "environment", "cases"} <= summary.keys()
    for case in summary["cases"]:
        assert {
            *("id", "kind", "status", "reason", "vcpus", "placement", "exit_rate_hz"),
            *("methods", "contrasts", "control", "title", "program", "irqchip", "arrival"),
            *("placement_spec", "stopped_by", "precision_reached", "warnings"),
        } <= case.keys()
        assert {"diff", "ci95", "ok", "ci_family"} <= case["control"].keys()
        for method in case["methods"].values():
            assert {"exits_per_second", "ns_per_exit", "n", "cpu_ns_per_exit"} <= method.keys()
            assert method["ns_per_exit"].keys() == {
                *("quiet", "floor", "p50", "p90", "p99", "max", "mean")
            }
        for item in case["contrasts"]:
            assert {"method", "baseline", "metric", "diff", "ci95", "rounds"} <= item.keys()
    skipped = summary["cases"][-1]
    assert skipped["status"] == "skipped"
    assert skipped["reason"] == "this host has no node 1"
    assert skipped["exit_rate_hz"] == 20000.0
    assert (skipped["methods"], skipped["contrasts"]) == ({}, [])


def test_the_summary_is_written_and_always_the_same(sweep):
    first = write_summary(sweep)
    text = (sweep / "summary.json").read_bytes()
    assert json.loads(text) == first
    write_summary(sweep)
    assert (sweep / "summary.json").read_bytes() == text


def test_a_biased_control_is_not_ok(tmp_path):
    run = synthetic_run.build(
        tmp_path, cases=[synthetic_run.case(2)], control_shift_ns=5.0, shift_ns=0.0
    )
    case = case_of(RunReader(run))
    assert case["control"]["ok"] is False
    assert case["control"]["diff"] == pytest.approx(5.0, abs=1.0)


def test_a_biased_placebo_is_not_ok_and_the_control_is(tmp_path):
    biased = synthetic_run.case(2, placebo=True, placebo_shift_ns=5.0)
    case = case_of(RunReader(synthetic_run.build(tmp_path, cases=[biased], shift_ns=0.0)))
    assert (case["placebo"]["ok"], case["control"]["ok"]) == (False, True)
    assert case["placebo"]["metric"] == "quiet_ns_per_exit"
    assert (case["placebo"]["mean"]["ok"], case["control"]["mean"]["ok"]) == (False, True)
    assert case["placebo"]["diff"] == pytest.approx(5.0, abs=1.0)
    assert case["placebo"].keys() == case["control"].keys()


def test_a_run_without_placebo_has_nulls(tmp_path):
    case = case_of(RunReader(synthetic_run.build(tmp_path, cases=[synthetic_run.case(2)])))
    assert set(case["placebo"].values()) == {None, 0}


def test_controls_and_placebos_are_one_family(tmp_path):
    def widening(control):
        (low, high), (low95, high95) = control["ci_family"], control["ci95"]
        return (high - low) / (high95 - low95)

    def of_run(name, **other):
        cases = [synthetic_run.case(2, **other), synthetic_run.kick_case(**other)]
        run = synthetic_run.build(tmp_path / name, cases=cases, shift_ns=0.0)
        return summarise(RunReader(run))["cases"]

    two = widening(of_run("two")[0]["control"])
    for case in of_run("four", placebo=True):
        for role in ("control", "placebo"):
            assert widening(case[role]) > 1.03 * two > 1.03


def test_the_control_is_judged_over_the_family(tmp_path):
    """A control just outside its own 95 % interval is no alarm among many cases."""
    cases = [synthetic_run.case(n) for n in range(1, 13)]
    run = synthetic_run.build(tmp_path, cases=cases, rounds=30, shift_ns=0.0)
    controls = [case["control"] for case in summarise(RunReader(run))["cases"]]
    for control in controls:
        low, high = control["ci_family"]
        assert low < control["ci95"][0]
        assert control["ci95"][1] < high
        assert control["ok"] is (low <= 0 <= high)


@pytest.mark.parametrize(
    ("noise_ns", "shift_ns", "ok"),
    [
        (50, 0, True),  # the level is 100,000 ns, and the control ten times as noisy as the rest
        (1000, 0, None),
        (1000, 5000, True),  # as much noise, but what was seen is larger
        (2000, 5000, None),
    ],
)
def test_a_control_that_could_not_find_what_it_vouches_for_does_not_judge(
    tmp_path, noise_ns, shift_ns, ok
):
    rng = np.random.default_rng(5)
    rows = [
        (r, entry, 0, 10, 10 * round(100_000 + shift_ns * (entry == SIGMASK) + noise_ns * draw))
        for r in range(60)
        for entry, draw in enumerate(rng.normal(size=3) * [1, 1, 10])
    ]
    case = case_of(write_run(tmp_path, [blocks_of(rows)]))
    low, high = case["control"]["ci_family"]
    assert low < 0 < high
    assert case["control"]["ok"] is ok


def test_two_rounds_judge_nothing_but_a_bias_is_one_however_wide(tmp_path):
    rows = [(r, e, 0, 10, 10_000 + 700 * r * e) for r in range(2) for e in range(3)]
    assert case_of(write_run(tmp_path, [blocks_of(rows)]))["control"]["ok"] is None
    biased = [(r, e, 0, 10, 10_000 * (1 + e) + 3 * r * e) for r in range(9) for e in range(3)]
    assert case_of(write_run(tmp_path / "b", [blocks_of(biased)]))["control"]["ok"] is False


def test_warnings_are_collected_once(tmp_path):
    parameters = synthetic_run.case(2, processes=2)
    document = synthetic_run.case_document(parameters)
    document["processes"][0]["warnings"] = ["TSC unstable", "more vCPUs than CPUs"]
    document["processes"][1]["warnings"] = ["TSC unstable"]
    tables = synthetic_run.case_tables(parameters, shift_ns=0.0, rounds=4)
    case = case_of(store(tmp_path, parameters, document, tables))
    assert case["warnings"] == ["TSC unstable", "more vCPUs than CPUs"]


def run_with_loads(path, *loads):
    """A run of one case whose processes saw these loads."""
    parameters = synthetic_run.case(processes=len(loads))
    document = synthetic_run.case_document(parameters)
    tables = synthetic_run.case_tables(parameters, shift_ns=0.0)
    for process, load in zip(document["processes"], loads, strict=True):
        del process["load"]
        if load is not None:
            process["load"] = load
    return store(path, parameters, document, tables)


def test_load_is_told_in_shares_over_all_processes(tmp_path):
    busy = {"waited_seconds": 4.0, "stolen_cpu_seconds": 2.0, "stalled_some_seconds": 3.0}
    loads = synthetic_run.load(0.1), synthetic_run.load(0.5, seconds=8.0, **busy)
    case = case_of(run_with_loads(tmp_path, *loads))
    assert case["load"] == {
        "seconds": 12.0,
        "others_share": pytest.approx((0.8 + 4.0) / 24),  # of 2 CPUs
        "stolen_share": pytest.approx(2 / 24),
        "waited_share": pytest.approx(4 / 12),
        "stalled_share": pytest.approx(3.25 / 12),
    }


def test_load_that_one_process_does_not_know_is_unknown(tmp_path):
    loads = synthetic_run.load(), synthetic_run.load(others_cpu_seconds=None)
    assert case_of(run_with_loads(tmp_path, *loads))["load"]["others_share"] is None
    old = case_of(run_with_loads(tmp_path / "old", None, None))
    assert old["load"] is None


def test_three_methods_have_two_contrasts_each(tmp_path):
    methods = ["flag_signal", "sigmask", "immediate_exit"]
    run = synthetic_run.build(
        tmp_path, cases=[synthetic_run.case(2, methods=methods)], shift_ns=20.0, rounds=10
    )
    case = case_of(RunReader(run))
    pairs = [(item["method"], item["metric"]) for item in case["contrasts"]]
    assert pairs == [
        (method, metric)
        for method in ("flag_signal", "sigmask")
        for metric in ("quiet_ns_per_exit", "ns_per_exit", "cpu_ns_per_exit")
    ]


@pytest.mark.parametrize(
    ("vcpus", "rate", "title"),
    [
        (1, None, "pm_timer, 1 vCPU, local, full speed"),
        (8, 20000.0, "pm_timer, 8 vCPUs, local, 20,000 exits/s per vCPU, periodic"),
        (2, 0.5, "pm_timer, 2 vCPUs, local, 0.5 exits/s per vCPU, periodic"),
    ],
)
def test_titles(vcpus, rate, title):
    assert describe(synthetic_run.case(vcpus, rate=rate)) == title


# --- quantiles of histograms -------------------------------------------------------------------

BIN = st.tuples(st.integers(0, 10_000), st.integers(1, 1000), st.integers(1, 10_000))


@settings(deadline=None)
@given(st.lists(BIN, min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_a_quantile_splits_the_counts(bins, level):
    """Also where bins overlap, as those of processes with different clocks do."""
    low, width, count = np.array(bins, float).T
    (value,) = histogram_quantiles(low, low + width, count, [level])
    below = (count * np.clip((value - low) / width, 0, 1)).sum()
    assert below == pytest.approx(level * count.sum(), rel=1e-6, abs=1e-6 * count.sum())


def test_quantiles_of_many_values_match_numpy():
    values = np.random.default_rng(3).gamma(3, 700, 200_000)
    counts, edges = np.histogram(values, np.geomspace(1, 1e6, 2000))
    used = counts > 0
    found = histogram_quantiles(
        edges[:-1][used], edges[1:][used], counts[used].astype(float), [0.5, 0.9, 0.99]
    )
    assert found == pytest.approx(np.quantile(values, [0.5, 0.9, 0.99]), rel=0.002)


def test_quantiles_of_nothing_are_not_a_number():
    nothing = np.empty(0)
    assert np.isnan(histogram_quantiles(nothing, nothing, nothing, [0.5, 0.9])).all()


# --- a protocol and its control ----------------------------------------------------------------

THREE = ("sigmask", "sigmask_same", "immediate_exit")


def test_each_part_of_what_sigmask_costs_has_its_contrast(tmp_path):
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2, methods=THREE)], shift_ns=90.0)
    case = case_of(RunReader(run))
    found = {
        (c["method"], c["baseline"]): c for c in case["contrasts"] if c["metric"] == "ns_per_exit"
    }
    assert set(found) == {
        ("sigmask", "immediate_exit"),
        ("sigmask_same", "immediate_exit"),
        ("sigmask", "sigmask_same"),
    }
    metrics = {"quiet_ns_per_exit", "ns_per_exit", "cpu_ns_per_exit"}
    assert {c["metric"] for c in case["contrasts"]} == metrics
    whole, rest, lock = (found[pair]["diff"] for pair in found)
    assert lock == pytest.approx(60.0, abs=15.0)
    assert whole == pytest.approx(rest + lock, abs=0.5)


def test_the_control_as_baseline_makes_no_contrast_twice(tmp_path):
    parameters = synthetic_run.case(2, methods=THREE, baseline="sigmask_same")
    case = case_of(RunReader(synthetic_run.build(tmp_path, cases=[parameters])))
    pairs = [(c["method"], c["metric"]) for c in case["contrasts"]]
    assert len(pairs) == len(set(pairs)) == 6
