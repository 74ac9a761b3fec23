# SPDX-License-Identifier: Apache-2.0
"""Many cases on one host: what they have in common, and what a case shows without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.nightly.common import MIN_CASES, floors, groups
from kickbench.nightly.decide import decide
from kickbench.nightly.envelope import ENVELOPE
from kickbench.nightly.judgement import Decision
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend

CASES, NIGHTS = 30, 80


def host(seed: int, cases: int = CASES, *, slow: bool = True) -> NDArray[np.float64]:
    """(cases, nights): 0.2 % of noise, and nights on which the whole host is up to 30 % slower.

    The last eight nights are good ones.
    """
    random = np.random.default_rng(seed)
    night = np.where(random.random(NIGHTS) < 0.3, random.uniform(1, 1.3, NIGHTS), 1.0)
    night[-8:] = 1.0
    level = random.uniform(2000, 9000, (cases, 1))
    noise = 1 + 0.002 * random.standard_normal((cases, NIGHTS))
    return np.asarray(level * (night if slow else 1.0) * noise)


def trends(values: NDArray[np.float64], metric: str = "ns_per_exit") -> list[Trend]:
    found = []
    for i, value in enumerate(values):
        n = len(value)
        half = 0.001 * value
        found.append(
            Trend(
                Key(f"case{i}", "sigmask", None, metric),
                "lower",
                np.arange(n),
                value,
                value - half,
                value + half,
                np.full(n, 10),
                None,
                np.ones(n, np.bool_),
                0,
            )
        )
    return found


def judge(some: list[Trend], using: Settings | None = None) -> Decision:
    n = int(max(trend.night[-1] for trend in some)) + 1
    nights = Nights(tuple(f"run{i}" for i in range(n)), ("2026-01-01T02:00:00Z",) * n, ({},) * n)
    return decide(some, nights, using or Settings())


def called(decision: Decision, verdict: str = "regression") -> list[int]:
    return [i for i, j in enumerate(decision.judgements) if j.verdict == verdict]


# --- a case by itself --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_slow_nights_of_the_host_are_no_alarm(seed: int) -> None:
    values = host(seed)
    values[:, -3:] *= 1.25
    assert not judge(trends(values)).alarm


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_far_smaller_than_what_nights_differ_by(seed: int) -> None:
    values = host(seed)
    values[3, -3:] *= 1.02
    values[:, -2] *= 1.1  # the host was slow on one of these nights
    decision = judge(trends(values))
    assert called(decision) == [3]
    found = decision.judgements[3]
    assert found.relative == pytest.approx(0.02, abs=0.005)
    assert (found.since, found.common) == (NIGHTS - 3, False)


@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("step", [0.02, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_many_cases_does_not_hide(share: float, step: float, seed: int) -> None:
    values, hit = host(seed), int(share * CASES)
    values[:hit, -3:] *= 1 + step
    assert called(judge(trends(values))) == list(range(hit))


def test_a_step_down_of_a_third_is_an_improvement_of_these() -> None:
    values, hit = host(4), CASES // 3
    values[:hit, -3:] *= 0.97
    decision = judge(trends(values))
    assert not decision.alarm
    assert called(decision, "improvement") == list(range(hit))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.2, 5), min_size=NIGHTS, max_size=NIGHTS))
def test_no_speed_of_the_host_is_seen_in_a_case(factors: list[float]) -> None:
    values = host(5, 12, slow=False)
    (calm,), (moved,) = (
        groups(trends(some), NIGHTS - 1) for some in (values, values * np.array(factors))
    )
    for one, other in zip(calm.relative, moved.relative, strict=True):
        ratio = other.value / one.value
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.002)
    # All that nights have in common is in the factor.
    ratio = moved.common.value / calm.common.value / np.array(factors)
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.002)


def test_a_night_on_which_the_cases_disagree_is_no_evidence() -> None:
    values = host(6)
    values[:, -1] *= np.random.default_rng(0).uniform(1, 1.5, CASES)
    values[0, -4:] *= 1.02
    decision = judge(trends(values))
    assert not decision.alarm
    assert {j.verdict for j in decision.judgements} == {"no witness"}
    assert "disagree" in decision.judgements[0].reason
    # The nights beside it are, and it is not one of them.
    later = np.column_stack([values, host(6)[:, -1] * np.where(np.arange(CASES) == 0, 1.02, 1)])
    decision = judge(trends(later))
    assert called(decision) == [0]
    assert NIGHTS - 1 not in decision.judgements[0].nights


# --- all cases ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.02, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_all_cases_is_found_when_no_night_is_as_fast_as_before(
    step: float, seed: int
) -> None:
    values = host(seed)
    values[:, -ENVELOPE:] *= 1 + step
    assert not judge(trends(values[:, :-1])).alarm
    decision = judge(trends(values))
    assert called(decision) == list(range(CASES))
    for found in decision.judgements:
        assert found.common
        assert found.relative == pytest.approx(step, rel=0.3)
        assert found.low < found.effect < found.high
        assert found.since == NIGHTS - ENVELOPE
        assert found.reason.startswith(f"all cases are slower by {100 * found.relative:.1f}")
        assert found.reason.endswith(" %: the kernel, the host or its speed changed")


def test_a_slow_streak_with_one_good_night_is_no_step() -> None:
    values = host(1)
    values[:, -6:] *= 1.3
    values[:, -3] /= 1.3
    assert not judge(trends(values)).alarm


def test_a_case_of_its_own_is_told_beside_what_all_have() -> None:
    values = host(2)
    values[:, -ENVELOPE:] *= 1.05
    values[7, -ENVELOPE:] *= 1.04
    found = judge(trends(values)).judgements
    assert [j.common for j in found] == [i != 7 for i in range(CASES)]
    assert found[7].relative == pytest.approx(0.04, abs=0.01)


def test_all_cases_may_get_faster() -> None:
    values = host(3)
    values[:, -ENVELOPE:] *= 0.95
    decision = judge(trends(values))
    assert not decision.alarm
    assert called(decision, "improvement") == list(range(CASES))
    assert "all cases are faster by" in decision.judgements[0].reason


def test_what_is_better_when_higher_is_slower_when_lower() -> None:
    values = host(3, slow=False)
    values[:, -ENVELOPE:] *= 0.95
    decision = judge([replace(trend, better="higher") for trend in trends(values)])
    assert called(decision) == list(range(CASES))
    assert decision.judgements[0].relative == pytest.approx(-0.05, abs=0.01)
    assert "all cases are slower by" in decision.judgements[0].reason


def test_an_alarm_of_all_cases_lasts_until_it_is_accepted() -> None:
    values = host(7)
    values[:, -30:] *= 1.05
    some = trends(values)
    for trend in some:
        trend.usable[-27:-1] = False  # the alarms of the nights before
    assert judge(some).alarm
    accepted = [replace(trend, accepted_from=NIGHTS - 30) for trend in trends(values)]
    assert not judge(accepted).alarm


# --- where there is no common factor -----------------------------------------------------------


@pytest.mark.parametrize("cases", [1, MIN_CASES - 1])
def test_few_cases_are_judged_as_they_are(cases: int) -> None:
    values = host(8, cases, slow=False)
    values[:, -2:] *= 1.05
    decision = judge(trends(values))
    assert called(decision) == list(range(cases))
    assert not any(j.common for j in decision.judgements)


def test_differences_and_exact_counts_are_judged_as_they_are() -> None:
    values = host(9, slow=False)
    values[:, -2:] *= 1.05
    paired = [
        replace(t, key=t.key._replace(baseline="immediate_exit"), reference=t.value)
        for t in trends(values)
    ]
    assert groups(paired, NIGHTS - 1) == []
    assert called(judge(paired)) == list(range(CASES))
    exact = np.full((CASES, 10), 1000.0)
    exact[:, -1] += 1
    counts = [replace(t, low=t.value, high=t.value) for t in trends(exact)]
    assert groups(counts, 9) == []
    assert called(judge(counts)) == list(range(CASES))


def test_each_method_and_metric_has_a_factor_of_its_own() -> None:
    values = host(10, slow=False)
    other = [replace(t, key=t.key._replace(method="immediate_exit")) for t in trends(values)]
    values = values * np.where(np.arange(NIGHTS) < NIGHTS - ENVELOPE, 1, 1.05)
    decision = judge([*trends(values), *other, *trends(host(11), "cpu_ns_per_exit")])
    assert called(decision) == list(range(CASES))


# --- floors ------------------------------------------------------------------------------------


def test_the_floor_is_judged_and_not_the_level() -> None:
    floor = host(12)
    floor[2, -3:] *= 1.02
    level = floor * np.random.default_rng(0).uniform(1, 2, floor.shape)
    some = [replace(t, floor=row) for t, row in zip(trends(level), floor, strict=True)]
    assert called(judge(some)) == [2]
    assert called(judge(trends(level))) == []


def test_nights_without_a_floor_have_their_level_in_its_place() -> None:
    level = host(13)
    level[2, -3:] *= 1.02
    floor = 0.8 * level
    for known in (1, 2, 20):
        floor[:, :-known] = np.nan
        some = [replace(t, floor=row) for t, row in zip(trends(level), floor, strict=True)]
        np.testing.assert_allclose(floors(some[0]).value, 0.8 * level[0])
        assert called(judge(some)) == [2]


# --- what the job could meet -------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 0.5))
def test_odd_histories_never_crash(seed: int, nights: int, missing: float) -> None:
    random = np.random.default_rng(seed)
    values = random.choice([1e-300, 1.0, 2.0, 1e200], (CASES, nights))
    values[random.random(values.shape) < missing] = np.nan
    some = []
    for t in trends(values):
        kept = np.isfinite(t.value)
        kept[-1] = True
        some.append(
            replace(
                t,
                night=t.night[kept],
                value=t.value[kept],
                low=t.low[kept],
                high=t.high[kept],
                processes=t.processes[kept],
                usable=t.usable[kept],
                floor=random.choice([np.nan, 0.0, 1.0], kept.sum()),
            )
        )
    assert len(judge(some).judgements) == CASES


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_values_that_never_differ_are_no_change(better: str) -> None:
    same = [replace(t, better=better) for t in trends(np.full((CASES, 40), 5.0))]
    assert {j.verdict for j in judge(same).judgements} == {"no change"}
