# SPDX-License-Identifier: Apache-2.0
"""What a kick costs, all in, from exits with kicks and without: known costs come out again."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import synthetic_run
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.report.words.exits import kicks_costs
from kickbench.report.words.verdict import verdict
from kickbench.results.reader import RunReader
from kickbench.summary.data import RunData
from kickbench.summary.per_kick import contrasts_per_kick, pair_with_quiet
from kickbench.summary.summarise import summarise, write_summary

METHODS = ("sigmask", "sigmask_same", "immediate_exit")
QUIET = synthetic_run.case(2, methods=METHODS, id="quiet")
KICKED = synthetic_run.case(2, methods=METHODS, id="kicked", kick_rate_hz=1000.0)
COSTS = {"sigmask": 9000.0, "sigmask_same": 6500.0, "immediate_exit": 5000.0}


def per_kick(summary: dict[str, Any], case_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    (case,) = (case for case in summary["cases"] if case["id"] == case_id)
    return {
        (one["method"], one["baseline"]): one
        for one in case["contrasts"]
        if one["metric"] == "ns_per_kick"
    }


def run(path: Path, *cases: dict[str, Any], **arguments: Any) -> Path:
    return synthetic_run.build(path, cases=cases, kick_cost_ns=COSTS, exits=5000, **arguments)


def test_the_cost_of_a_kick_comes_out_whatever_the_exits_cost(tmp_path):
    """The exits differ by 52 ns, 12.5 exits to a kick and vCPU; the kicks by 4000 and 2500 ns."""
    for exits_cost in (0.0, 500.0):
        path = run(tmp_path / str(exits_cost), QUIET, KICKED, shift_ns=exits_cost, paced=True)
        found = per_kick(summarise(RunReader(path)), "kicked")
        for pair, wanted in (
            (("sigmask", "immediate_exit"), 4000.0),
            (("sigmask_same", "immediate_exit"), 1500.0),
            (("sigmask", "sigmask_same"), 2500.0),
        ):
            assert found[pair]["diff"] == pytest.approx(wanted, rel=0.05)
            low, high = found[pair]["ci95"]
            assert low - 0.02 * wanted <= wanted <= high + 0.02 * wanted
        assert found.keys() == {
            ("sigmask", "immediate_exit"),
            ("sigmask_same", "immediate_exit"),
            ("sigmask", "sigmask_same"),
        }


def rounds_of(
    rng: np.random.Generator,
    exit_ns: tuple[float, float],
    kick_ns: tuple[float, float],
    per_exit: float,
    noise: float,
) -> tuple[Any, Any, Any]:
    """Processes x rounds of two methods that get kicks or none: process, ns per exit, kicks."""
    n_processes, n_rounds, exits = 5, 40, 4000
    process = np.repeat(np.arange(n_processes), n_rounds)
    drift = rng.normal(0, 10 * noise, (len(process), 1))
    of_process = rng.normal(0, noise, (n_processes, 2))[process]
    kicks = rng.poisson(per_exit * exits, (len(process), 2))
    ns = np.array(exit_ns) + drift + of_process + rng.normal(0, noise, (len(process), 2))
    return process, ns + kicks * np.array(kick_ns) / exits, kicks


@settings(max_examples=15, deadline=None)
@given(
    exit_ns=st.tuples(st.floats(500, 5000), st.floats(500, 5000)),
    kick_ns=st.tuples(st.floats(0, 50_000), st.floats(0, 50_000)),
    per_exit=st.floats(1e-3, 0.05),
    noise=st.floats(0.1, 10),
    seed=st.integers(0, 2**32),
)
def test_a_known_cost_per_kick_is_within_its_interval(exit_ns, kick_ns, per_exit, noise, seed):
    """In 14 of 20 repetitions at least; an interval of 95 % fails that once in 30,000 times."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(20):
        process, ns, kicks = rounds_of(rng, exit_ns, kick_ns, per_exit, noise)
        sent = kicks.sum(axis=0)
        case = {
            "methods": {
                name: {"n": 4000 * len(process), "kicks": {"sent": int(count)}}
                for name, count in zip("ab", sent, strict=True)
            }
        }
        quiet = rounds_of(rng, exit_ns, (0.0, 0.0), 0.0, noise)[:2]
        (found,) = contrasts_per_kick(case, [("a", "b")], (process, ns), quiet)
        low, high = found["ci95"]
        hits += low <= kick_ns[0] - kick_ns[1] <= high
    assert hits >= 14


def test_a_host_that_got_slower_between_the_cases_makes_no_difference():
    """Two methods alike, kicked 116 and 123 times by chance, and exits 2,600 ns longer without."""
    rng = np.random.default_rng(5)
    process, ns, _ = rounds_of(rng, (15_000, 15_000), (0, 0), 0.0, 5.0)
    sent, n = (116, 123), 210_000
    case = {
        "methods": {
            name: {"n": n, "kicks": {"sent": count}} for name, count in zip("ab", sent, strict=True)
        }
    }
    (found,) = contrasts_per_kick(case, [("a", "b")], (process, ns), (process, ns + 2600))
    assert abs(found["diff"]) < 1


def test_a_case_that_got_few_of_its_kicks_tells_nothing(tmp_path):
    """A kicker without a CPU of its own sends 75 of 2,000 kicks a second."""
    cases = summarise(RunReader(run(tmp_path, QUIET, KICKED, rounds=4, paced=True)))["cases"]
    assert len(pair_with_quiet(cases)) == 1
    (kicked,) = (case for case in cases if case["id"] == "kicked")
    kicked["methods"]["sigmask"]["kicks"]["per_second"] = 75.0
    assert not pair_with_quiet(cases)


def test_the_doubt_of_the_case_without_kicks_is_in_the_interval():
    rng = np.random.default_rng(3)
    process, ns, kicks = rounds_of(rng, (1000, 1000), (5000, 5000), 0.01, 0.1)
    figures = {"n": 4000 * len(process), "kicks": {"sent": int(kicks[:, 0].sum())}}
    case = {"methods": {"a": figures, "b": figures}}
    widths = []
    for noise in (0.1, 30.0):
        quiet = rounds_of(rng, (1000, 1000), (0, 0), 0.0, noise)[:2]
        (found,) = contrasts_per_kick(case, [("a", "b")], (process, ns), quiet)
        widths.append(found["ci95"][1] - found["ci95"][0])
    assert widths[1] > 10 * widths[0]


@pytest.mark.parametrize(
    "other",
    [
        {"vcpus": 4},
        {"program": "pio"},
        {"placement": synthetic_run.PLACEMENTS[1]},
        {"methods": ["sigmask", "immediate_exit"]},
        {"kick_rate_hz": 500.0},
    ],
)
def test_without_a_case_that_differs_in_the_kicks_only_nothing_is_said(tmp_path, other):
    summary = summarise(RunReader(run(tmp_path, {**QUIET, **other}, KICKED, rounds=4)))
    assert not per_kick(summary, "kicked")


def test_a_paced_guest_has_no_cost_per_kick(tmp_path):
    """A kick that finds it between two exits takes no time of theirs."""
    cases = [{**one, "exit_rate_hz": 20000.0} for one in (QUIET, KICKED)]
    summary = summarise(RunReader(run(tmp_path, *cases, rounds=4, paced=True)))
    assert not pair_with_quiet(summary["cases"])
    assert not per_kick(summary, "kicked")


def test_a_method_that_got_no_kick_has_no_cost_per_kick():
    figures = {"n": 100, "kicks": {"sent": 10}}
    case = {"methods": {"a": {"n": 100, "kicks": {"sent": 0}}, "b": figures}}
    times = (np.zeros(3, np.int64), np.full((3, 2), 1000.0))
    assert contrasts_per_kick(case, [("a", "b")], times, times) == []


def test_the_verdict_tells_it_with_its_interval_and_the_summary_stays_readable(tmp_path):
    kick = synthetic_run.kick_case(methods=["sigmask", "immediate_exit"])
    path = run(tmp_path, QUIET, KICKED, kick)
    summary = write_summary(path)
    (one, *_) = kicks_costs(summary, ())
    assert one.startswith("sigmask costs ")
    assert " ns more per whole kick than immediate_exit (95 % CI " in one
    assert one in verdict(summary).lines
    rmtree(path / "cases")
    assert per_kick(RunData.load(path).summary, "kicked") == per_kick(summary, "kicked")
