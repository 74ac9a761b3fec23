# SPDX-License-Identifier: Apache-2.0
"""What changed in a fleet, for whom, and what those hosts have in common."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from fleet_panels import MODELS, World
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from kickbench.fleet.judge.found import Found
from kickbench.fleet.judge.judge import judge
from kickbench.fleet.judge.panel import FACTS, Panel
from kickbench.fleet.judge.robust import median, quartiles, trimmed
from kickbench.fleet.judge.steps import BEFORE, rolling_median

numbers = st.floats(-1e3, 1e3, width=32) | st.just(float("nan"))


def told(world: World) -> Found:
    return judge(world.panel(), "a store")


def names(world: World, places: np.ndarray) -> set[str]:
    return {world.panel().hosts[place].name for place in places}


# --- estimates ----------------------------------------------------------------------------------


samples = arrays.arrays(np.float64, st.integers(3, 40), elements=st.floats(-1e3, 1e3))


@given(samples, samples)
def test_trimmed_means_and_their_errors_are_those_of_yuens_test(
    one: np.ndarray, other: np.ndarray
) -> None:
    a, b = (trimmed(np.append(values, np.nan)) for values in (one, other))
    assert a.value == pytest.approx(stats.trim_mean(one, 0.2), abs=1e-9)
    error = np.hypot(a.error, b.error)
    assume(error > 1e-6)
    with warnings.catch_warnings(action="ignore"):  # of samples that are all the same
        expected = stats.ttest_ind(one, other, equal_var=False, trim=0.2).statistic
    assert (a.value - b.value) / error == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_too_few_hosts_have_no_mean() -> None:
    found = trimmed(np.array([[1.0, 2.0, np.nan], [np.nan] * 3]))
    assert np.isnan([found.value, found.error, found.df]).all()


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=numbers))
def test_medians_and_quartiles_are_of_what_is_known(values: np.ndarray) -> None:
    frame = pd.DataFrame(values)
    for axis in (0, 1):
        np.testing.assert_allclose(median(values, axis), frame.median(axis=axis), rtol=1e-5)
        low, middle, high = quartiles(values, axis)
        known = np.isfinite(values).any(axis)
        assert (low <= middle)[known].all()
        assert (middle <= high)[known].all()
        assert np.isnan(middle[~known]).all()


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 60)), elements=numbers)
)
@settings(deadline=None)
def test_a_rolling_median_is_that_of_pandas(values: np.ndarray) -> None:
    expected = pd.DataFrame(values.T).rolling(BEFORE, min_periods=5).median().to_numpy().T
    np.testing.assert_allclose(rolling_median(values, BEFORE), expected, rtol=1e-4, atol=1e-4)


# --- findings -----------------------------------------------------------------------------------


def test_those_that_got_dearer_and_those_that_did_not_are_told_apart() -> None:
    world = World()
    everyone = world.of(0, 1)
    world.move(everyone[:40], 50, "kernel", "6.12.9")
    world.step(np.intersect1d(everyone[:40], world.of(0)), 50, 0.02)
    found = told(world)
    (finding,) = found.findings
    assert found.regressed
    assert finding.verdict == "regression"
    assert finding.cohort.moved == ("kernel", "6.12.9")
    assert finding.cohort.where == {"cpu_model": MODELS[0]}
    assert finding.cohort.before == ("a kernel",)
    assert {*finding.cohort.hosts} == names(world, np.intersect1d(everyone[:40], world.of(0)))
    assert finding.cohort.first_day == "2026-09-20"
    assert len(finding.effects) == 8
    assert all(effect.low < 0.02 < effect.high for effect in finding.effects[2:])
    (other,) = finding.others
    assert (other.cohort.where, other.verdict) == ({"cpu_model": MODELS[1]}, "unchanged")
    assert "% dearer on the 20 hosts with CPU EPYC 9004 that moved" in finding.words
    assert f"Hosts with CPU {MODELS[1]} did not change." in finding.words


def test_a_kernel_that_reaches_hosts_in_waves_is_one_finding() -> None:
    world = World()
    hosts = world.of(0, 1)[:45]
    days = np.random.default_rng(1).integers(25, 50, 45)
    world.move(hosts, days, "kernel", "6.12.9")
    world.step(hosts, days, 0.01)
    (finding,) = told(world).findings
    assert (finding.cohort.where, len(finding.cohort.hosts)) == ({}, 45)
    assert finding.cohort.first_day == "2026-08-26"
    assert finding.cohort.last_day == "2026-09-19"
    assert all(effect.low < 0.01 < effect.high for effect in finding.effects[2:])


def test_moves_of_the_same_hosts_on_the_same_day_are_not_told_apart() -> None:
    world = World()
    for fact in ("kernel", "microcode"):
        world.move(world.of(0), 45, fact, "new")
    world.step(world.of(0), 45, -0.02, [0, 1])
    found = told(world)
    (finding,) = found.findings
    assert (finding.verdict, found.regressed) == ("improvement", False)
    assert finding.cohort.moved == ("kernel", "new")
    assert finding.cohort.also == (("microcode", "new"),)
    assert {effect.figure for effect in finding.effects} == {0, 1}
    assert "cheaper" in finding.words


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("apart", [2, 5, 9])
@pytest.mark.parametrize("dearer", ["6.12.8", "6.12.9"])
def test_a_kernel_is_not_blamed_for_another_one_of_these_weeks(
    dearer: str, apart: int, seed: int
) -> None:
    world = World(seed=seed)
    hosts = world.of(0)
    day = 30 + np.arange(len(hosts)) % 4
    for kernel, at in (("6.12.8", day), ("6.12.9", day + apart)):
        world.move(hosts, at, "kernel", kernel)
        if kernel == dearer:
            world.step(hosts, at, 0.02)
    (finding,) = told(world).findings
    assert finding.cohort.moved == ("kernel", dearer)
    assert set(finding.cohort.hosts) == names(world, hosts)


def test_two_changes_are_two_findings_the_worst_first() -> None:
    world = World(hosts=90)
    world.move(world.of(0), 40, "kernel", "6.12.9")
    world.step(world.of(0), 40, -0.01)
    world.move(world.of(1)[:30], 50, "microcode", "0x2")
    world.step(world.of(1)[:30], 50, 0.01)
    found = told(world)
    assert [finding.cohort.moved for finding in found.findings] == [
        ("microcode", "0x2"),
        ("kernel", "6.12.9"),
    ]
    assert found.answer[0] == found.findings[0].words


def test_a_change_that_nothing_explains_is_told_of_its_hosts_and_day() -> None:
    world = World()
    world.step(world.of(1), 48, 0.02)
    (finding,) = told(world).findings
    assert finding.cohort.moved is None
    assert finding.cohort.where == {"cpu_model": MODELS[1]}
    assert finding.cohort.first_day == "2026-09-18"
    assert [other.verdict for other in finding.others] == ["unchanged"]


def test_what_went_by_itself_is_no_regression() -> None:
    world = World()
    world.step(world.of(1), 30, 0.02, end=40)
    found = told(world)
    assert {finding.verdict for finding in found.findings} == {"gone"}
    assert not found.regressed
    assert "It went away by itself." in found.findings[0].words


@pytest.mark.parametrize("nights", [2, 3, 5, 6, 7, 13, 14, 27, 28])
def test_what_stayed_did_not_go(nights: int) -> None:
    world = World()
    world.move(world.of(0), 60 - nights, "kernel", "6.12.9")
    world.step(world.of(0), 60 - nights, 0.03)
    first = told(world).findings[0]
    assert (first.verdict, first.cohort.moved) == ("regression", ("kernel", "6.12.9"))


def test_a_difference_that_grew_because_its_baseline_got_cheaper_only_moved() -> None:
    world = World()
    world.value[0] *= 1.1
    world.move(world.of(0, 1)[:40], 50, "kernel", "6.12.9")
    world.step(world.of(0, 1)[:40], 50, -0.02, [1])
    place = world.difference(0)
    found = told(world)
    (finding,) = found.findings
    assert (finding.verdict, found.regressed) == ("moved", False)
    assert {effect.figure for effect in finding.effects} == {1, place}
    assert finding.shifted is not None
    assert finding.shifted.figure == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_large_change_lets_no_other_pass(seed: int) -> None:
    world = World(seed=seed)
    world.move(world.of(0), 32, "kernel", "6.12.9")
    world.step(world.of(0), 32, 0.03)
    (finding,) = told(world).findings
    assert finding.cohort.moved == ("kernel", "6.12.9")


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_told_of_hosts_that_did_not_change(seed: int) -> None:
    world = World(seed=seed)
    world.move(world.of(0, 1)[:30], 40, "kernel", "6.12.9")
    found = told(world)
    assert found.findings == ()
    assert found.contrasts == ()
    assert "No group of hosts got dearer" in found.answer[0]


def test_hosts_that_are_disturbed_together_now_and_then_are_no_finding() -> None:
    world = World(days=100)
    rack = world.of(0, 1)[:20]
    for day in range(10, 98, 9):
        world.step(rack, day, 0.01, end=day + 3)
    world.move(rack, 91, "kernel", "6.12.9")
    assert not told(world).regressed


@pytest.mark.parametrize("seed", [1, 2])
def test_a_slow_drift_that_all_hosts_share_is_no_finding(seed: int) -> None:
    world = World(hosts=200, days=120, figures=4, seed=seed)
    drift = np.cumsum(np.random.default_rng(seed).normal(0, 5e-4, 120))
    world.value *= np.exp(drift).astype(np.float32)
    assert told(world).findings == ()


@pytest.mark.parametrize("nights", [20, 40, 60])
def test_a_change_of_a_move_that_goes_away_later_is_one_change(nights: int) -> None:
    world = World(hosts=40, days=120, figures=6)
    world.move(world.of(0), 35, "kernel", "new")
    world.step(world.of(0), 35, 0.02, end=35 + nights)
    (finding,) = told(world).findings
    days = world.panel().days
    assert finding.verdict == "gone"
    assert finding.cohort.moved == ("kernel", "new")
    assert (finding.cohort.first_day, finding.cohort.last_day) == (days[35], days[34 + nights])
    assert len(finding.effects) == 6


def test_another_change_of_hosts_that_moved_is_a_change_of_its_own() -> None:
    world = World(hosts=40, days=120, figures=6)
    world.move(world.of(0), 35, "kernel", "new")
    world.step(world.of(0), 35, 0.02)
    world.step(world.of(0), 75, -0.05)
    assert len(told(world).findings) == 2


# --- hosts --------------------------------------------------------------------------------------


def test_one_day_is_not_told_as_one_without_a_change() -> None:
    found = told(World(hosts=1, days=1, noise=0))
    assert found.answer == (
        "One day cannot tell what changed: the store has 1 host on 1 August 2026 only.",
    )
    assert not found.regressed
    assert "No group of hosts got dearer" in told(World(days=2)).answer[0]


def test_odd_hosts_are_told_by_what_is_odd() -> None:
    world = World()
    random = np.random.default_rng(3)
    world.step(np.array([4]), 0, 0.2)
    world.value[:, 7] *= random.normal(1, 0.05, (8, 60))
    world.step(np.array([11]), 45, 0.05)
    found = {one.host: one for one in told(world).odd}
    assert {host: one.oddity for host, one in found.items()} == {
        "host004": "level",
        "host007": "scatter",
        "host011": "step",
    }
    assert found["host004"].relative == pytest.approx(0.2, abs=0.05)
    assert found["host011"].since in ("2026-09-14", "2026-09-15", "2026-09-16")
    assert found["host004"].like["cpu_model"] == MODELS[0]
    assert all(host in one.words for host, one in found.items())


def test_a_host_that_moved_a_week_before_it_changed_alone_changed_on_its_day() -> None:
    world = World(days=80)
    world.move(np.arange(60), 36, "kernel", "new")
    world.step(np.array([11]), 46, 0.05)
    (one,) = told(world).odd
    days = world.panel().days
    assert (one.host, one.oddity, one.since) == ("host011", "step", days[46])


def test_a_fleet_like_itself_has_no_odd_hosts() -> None:
    assert [told(World(seed=seed)).odd for seed in range(4)] == [()] * 4


# --- side by side -------------------------------------------------------------------------------


def test_kernels_of_a_cpu_are_set_side_by_side() -> None:
    world = World()
    world.move(world.of(0)[:12], 0, "kernel", "6.6")
    world.step(world.of(0)[:12], 0, 0.03, [2])
    found = told(world)
    (contrast,) = found.contrasts
    assert (contrast.like, contrast.fact) == ({"cpu_model": MODELS[0]}, "kernel")
    assert contrast.values == ("a kernel", "6.6")
    assert contrast.hosts == (18, 12)
    (effect,) = contrast.effects
    assert effect.low < 0.03 < effect.high
    assert "dearer under kernel 6.6 than under a kernel" in contrast.words


def test_exact_counts_of_one_host_each_are_enough() -> None:
    world = World(hosts=2, days=3, models=["one"], noise=0.0)
    world.value[:] = 2510
    world.value[:, 1] = 2520
    world.move(np.array([1]), 0, "kernel", "6.6")
    (contrast,) = told(world).contrasts
    assert contrast.effects[0].relative == pytest.approx(10 / 2510, rel=1e-4)
    assert contrast.effects[0].low == contrast.effects[0].high == contrast.effects[0].relative


# --- anything -----------------------------------------------------------------------------------


def test_a_host_is_followed_over_time_with_its_own_changes_and_moves() -> None:
    world = World(hosts=20, days=60, figures=8)
    world.step(np.array([3]), 30, 0.05, figures=[5])
    world.move(np.array([3]), 30, "kernel", "new")
    world.move(np.array([3]), 40, "microcode", "newer")
    found = told(world)
    assert len(found.tracks) == 20
    (track,) = [one for one in found.tracks if one.host == "host003"]
    days = world.panel().days
    assert track.figures[0] == 5
    assert track.moves == ((days[30], "kernel", "new"), (days[40], "microcode", "newer"))
    ((figure, day, share),) = track.changes
    assert (figure, day) == (5, days[30])
    assert share == pytest.approx(0.05, abs=0.01)
    assert np.nanmedian(track.value[0, 30:]) - np.nanmedian(track.value[0, :30]) == pytest.approx(
        0.05, abs=0.01
    )


@given(
    hosts=st.integers(0, 12),
    days=st.integers(1, 50),
    figures=st.integers(0, 3),
    value=st.sampled_from([0.0, 1.0, -5.0, 1e30, float("nan")]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_panel_is_judged(
    hosts: int, days: int, figures: int, value: float, data: st.DataObject
) -> None:
    panel = World(hosts, days, figures).panel()
    shape = (hosts, days)
    codes = st.integers(-1, 1).map(np.int32)
    facts = {
        fact: data.draw(arrays.arrays(np.int32, shape, elements=codes)) for fact in ("kernel",)
    }
    some = data.draw(arrays.arrays(np.bool_, shape))
    panel.value[:, some] = value
    panel = Panel(
        *(panel.days, panel.hosts, panel.figures, panel.value, panel.half),
        facts={**{fact: np.zeros(shape, np.int32) for fact in FACTS}, **facts},
        names=dict.fromkeys(FACTS, ("one", "other")),
    )
    found = judge(panel, "a store")
    if not panel.hosts:
        assert found.findings == ()
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["schema"] == 1
    assert found.answer
