# SPDX-License-Identifier: Apache-2.0
"""The nightly decision: what wakes someone, what does not, and that it never falls over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from kickbench.nightly import noise
from kickbench.nightly.decide import decide
from kickbench.nightly.evidence import adjust, combine
from kickbench.nightly.judgement import Decision, Judgement, Verdict
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend

SETTINGS = Settings()


def nights(n: int) -> Nights:
    return Nights(tuple(f"run{i}" for i in range(n)), ("2026-01-01T02:00:00Z",) * n, ({},) * n)


def trend(
    value: ArrayLike,
    *,
    error: float = 0.001,
    name: str = "case",
    better: Literal["lower", "higher"] = "lower",
    baseline: str | None = None,
    reference: float | None = None,
    load: ArrayLike | None = None,
    biased: ArrayLike | None = None,
) -> Trend:
    values = np.asarray(value, np.float64)
    every = np.ones(len(values), np.bool_)
    half = np.where(np.isfinite(values), error * np.abs(values), np.nan)
    return Trend(
        Key(name, "sigmask", baseline, "ns_per_exit"),
        better,
        np.arange(len(values)),
        values,
        values - half,
        values + half,
        np.full(len(values), 10),
        None if reference is None else np.full(len(values), reference),
        every,
        0,
        load=None if load is None else np.broadcast_to(load, values.shape).astype(np.float64),
        biased=None if biased is None else np.broadcast_to(biased, values.shape).astype(np.bool_),
    )


def noisy(seed: int, n: int = 70, metrics: int = 1, sd: float = 0.002) -> NDArray[np.float64]:
    """(metrics, nights) around 8,000."""
    return 8000 * (1 + sd * np.random.default_rng(seed).standard_normal((metrics, n)))


def judge(*trends: Trend, using: Settings = SETTINGS) -> Decision:
    return decide(trends, nights(max(int(t.night[-1]) for t in trends) + 1), using)


def verdict(value: ArrayLike, using: Settings = SETTINGS) -> Verdict:
    return judge(trend(value), using=using).judgements[0].verdict


# --- what is found -----------------------------------------------------------------------------


def test_a_step_is_found_on_its_second_night_with_its_size_and_begin() -> None:
    value = noisy(1)[0]
    value[-2:] *= 1.05
    decision = judge(trend(value))
    found = decision.judgements[0]
    assert decision.alarm
    assert found.verdict == "regression"
    assert found.low < 0.05 * 8000 < found.high
    assert found.relative == pytest.approx(0.05, abs=0.01)
    assert (found.since, found.nights) == (68, (68, 69))
    assert found.baseline == pytest.approx(8000, rel=0.002)
    assert found.q <= SETTINGS.false_discovery_rate


def test_one_night_alone_is_a_suspect_and_no_alarm() -> None:
    value = noisy(1)[0]
    value[-1] *= 1.5
    decision = judge(trend(value))
    assert not decision.alarm
    (suspect,) = decision.suspects
    assert suspect.key.case == "case"
    # It is told by how much tonight is off, not what two nights agree on, which is nothing.
    assert suspect.nights == (len(value) - 1,)
    assert suspect.relative == pytest.approx(value[-1] / np.median(value[:-1]) - 1, rel=0.2)
    assert "single night" in decision.judgements[0].reason


def test_a_second_run_in_the_same_night_confirms_a_suspect() -> None:
    value = noisy(1, n=71)[0]
    value[-2:] *= 1.05
    assert judge(trend(value[:-1])).suspects
    assert judge(trend(value)).alarm


def test_a_window_of_one_night_alarms_at_once() -> None:
    value = noisy(1)[0]
    value[-1] *= 1.5
    assert verdict(value, replace(SETTINGS, window=1)) == "regression"


def test_outliers_in_the_baseline_neither_blind_nor_wake() -> None:
    value = noisy(2)[0]
    value[[5, 20, 33, 51]] *= 1.4
    assert verdict(value) == "no change"
    value[-3:] *= 1.05
    assert verdict(value) == "regression"


def test_outliers_of_two_kinds_on_two_nights_do_not_add_up() -> None:
    value = noisy(3, metrics=20)
    value[:, -2] *= 1.2  # the whole host was off
    value[3, -1] *= 1.2  # and one metric on the next night
    decision = judge(*(trend(row, name=str(i)) for i, row in enumerate(value)))
    assert not decision.alarm


def test_an_improvement_is_told_and_is_no_alarm() -> None:
    value = noisy(4)[0]
    value[-2:] *= 0.95
    decision = judge(trend(value))
    assert decision.judgements[0].verdict == "improvement"
    assert decision.judgements[0].effect < 0
    assert not decision.alarm


def test_a_slow_drift_is_found_though_the_baseline_creeps_with_it() -> None:
    value = noisy(5, n=400)[0]
    value[100:] *= 1 + 0.0001 * np.arange(300)
    found = judge(trend(value)).judgements[0]
    assert found.verdict == "regression"
    assert found.drift
    assert "first ones" in found.reason


def test_a_change_below_the_minimal_effect_is_none() -> None:
    value = noisy(6, sd=0.0002)[0]
    value[-3:] *= 1.01
    assert verdict(value) == "regression"
    assert verdict(value, replace(SETTINGS, min_effect={"ns_per_exit": 0.02})) == "no change"


def test_a_difference_is_a_share_of_its_reference_with_a_minimal_effect_of_its_own() -> None:
    value = 150 + np.random.default_rng(7).standard_normal(70)
    value[-3:] += 30
    paired = trend(value, baseline="immediate_exit", reference=8000.0)
    found = judge(paired).judgements[0]
    assert found.verdict == "regression"
    assert found.relative == pytest.approx(30 / 8000, rel=0.1)
    own = replace(SETTINGS, min_effect={"ns_per_exit difference": 0.01})
    assert judge(paired, using=own).judgements[0].verdict == "no change"
    other = replace(SETTINGS, min_effect={"ns_per_exit": 0.01, "ns_per_exit difference": 0.001})
    assert judge(paired, using=other).judgements[0].verdict == "regression"


def test_a_night_with_a_wide_interval_is_less_telling() -> None:
    value = noisy(8)[0]
    value[-3:] *= 1.02
    sure = trend(value)
    half = np.abs(value) * 0.001
    half[-3:] = value[-3:] * 0.1
    unsure = replace(sure, low=value - half, high=value + half)
    assert judge(sure).judgements[0].verdict == "regression"
    assert judge(unsure).judgements[0].verdict == "no change"


def test_lost_kicks_are_always_an_alarm() -> None:
    decision = decide([], nights(1), SETTINGS, lost=["sigmask lost 2 kicks of 1,000"])
    assert decision.alarm
    assert decision.lost == ("sigmask lost 2 kicks of 1,000",)


# --- exact figures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"), [(1, "regression"), (0, "no change"), (-1, "improvement")]
)
def test_one_instruction_is_found_on_its_first_night(change: int, expected: str) -> None:
    value = np.full(10, 2430.0)
    value[-1] += change
    found = judge(trend(value, error=0)).judgements[0]
    assert (found.verdict, found.effect) == (expected, change)
    assert found.p == (change == 0)


def test_an_exact_figure_needs_no_long_history_but_some() -> None:
    assert verdict_exact([2430]) == "too little history"
    assert verdict_exact([2430, 2431]) == "too little history"
    assert verdict_exact([2430, 2430, 2431]) == "regression"


def test_an_exact_improvement_is_the_next_nights_measure() -> None:
    assert verdict_exact([2430] * 20 + [2400, 2400]) == "no change"
    assert verdict_exact([2430] * 20 + [2400, 2400, 2401]) == "regression"


def test_a_figure_that_wavers_is_not_exact_though_its_intervals_are_points() -> None:
    assert verdict_exact([2430, 2431] * 20 + [2432]) == "no change"


def verdict_exact(value: Sequence[float]) -> Verdict:
    return judge(trend(np.array(value, np.float64), error=0)).judgements[0].verdict


# --- which nights count ------------------------------------------------------------------------


def test_the_first_night_decides_nothing_and_says_so() -> None:
    found = judge(trend([8000.0])).judgements[0]
    assert found.verdict == "too little history"
    assert found.reason == (
        "a new metric: 0 of the 7 nights that a baseline needs, besides the 2 that are judged "
        "together; 8 more nights to go"
    )
    assert not judge(trend([8000.0])).alarm


def test_it_decides_as_soon_as_there_is_a_baseline() -> None:
    value = noisy(9, n=SETTINGS.min_nights + 2, sd=0.0005)[0]
    value[-2:] *= 1.2
    assert verdict(value[:-1]) == "too little history"
    assert verdict(value) == "regression"


def test_a_metric_without_a_value_tonight_is_not_measured() -> None:
    value = noisy(10)[0]
    value[-1] = np.nan
    assert verdict(value) == "not measured"
    gone = replace(trend(value[:-1]), night=np.arange(69))
    assert decide([gone], nights(70), SETTINGS).judgements[0].verdict == "not measured"


def test_a_lasting_regression_keeps_alarming_since_its_first_night_until_accepted() -> None:
    value = noisy(11, n=160, sd=0.003)[0]
    value[70:] *= 1.03
    found = replay(value, 66)
    assert {j.verdict for j in found[:4]} == {"no change"}
    assert {j.verdict for j in found[7:]} == {"regression"}
    assert {j.since for j in found if j.verdict == "regression"} == {70}
    assert not any(j.drift for j in found)
    accepted = replace(trend(value), accepted_from=70)
    assert judge(accepted).judgements[0].verdict == "no change"


def replay(value: NDArray[np.float64], first: int) -> list[Judgement]:
    """The judgements from night ``first`` on, as the job makes them: an alarm is remembered."""
    usable = np.ones(len(value), np.bool_)
    found = []
    for tonight in range(first, len(value)):
        t = replace(trend(value[: tonight + 1]), usable=usable[: tonight + 1])
        found.append(judge(t).judgements[0])
        usable[tonight] = found[-1].verdict != "regression"
    return found


@pytest.mark.parametrize("lasting", [2, 3, 5, 12])
def test_there_is_no_alarm_on_a_night_that_is_normal_again(lasting: int) -> None:
    value = noisy(16, n=90)[0]
    value[70 : 70 + lasting] *= 1.05
    found = replay(value, 70)
    alarmed = [j.verdict == "regression" for j in found]
    assert alarmed == [False] + [True] * (lasting - 1) + [False] * (20 - lasting)
    assert "back to where it was" in found[lasting].reason


def test_a_second_step_on_an_open_one_is_one_regression_since_the_first() -> None:
    value = noisy(17, n=100)[0]
    value[70:80] *= 1.03
    value[80:] *= 1.10
    found = replay(value, 71)
    assert {(j.verdict, j.since, j.drift) for j in found} == {("regression", 70, False)}
    assert found[-1].relative == pytest.approx(0.1, abs=0.01)


def test_a_new_step_after_normal_nights_begins_with_itself() -> None:
    value = noisy(18, n=80)[0]
    value[70:73] *= 1.05
    value[76:] *= 1.05
    assert [j.since for j in replay(value, 70) if j.verdict == "regression"] == [70] * 2 + [76] * 4


@pytest.mark.parametrize(("per_night", "sd"), [(0.00015, 0.001), (0.0005, 0.002)])
def test_what_creeps_is_told_as_such_and_since_no_later_than_its_first_alarm(
    per_night: float, sd: float
) -> None:
    value = noisy(19, n=140, sd=sd)[0]
    value[20:] *= 1 + per_night * np.arange(120)
    found = replay(value, 40)
    alarmed = [40 + i for i, j in enumerate(found) if j.verdict == "regression"]
    assert len(alarmed) > 50
    for night in alarmed:
        since = found[night - 40].since
        assert since is not None
        assert 20 < since <= alarmed[0]
    # On the first of them the long window may not be sure yet.
    assert all(found[night - 40].drift for night in alarmed[5:])


@pytest.mark.parametrize("lasting", [10, 20, 40])
def test_an_improvement_that_stays_is_the_new_measure(lasting: int) -> None:
    back = 70 + lasting
    value = noisy(20, n=back + 8)[0]
    value[70:back] *= 0.95
    found = replay(value, 70)
    assert {j.verdict for j in found[1:6]} == {"improvement"}
    assert {j.verdict for j in found[10 : lasting + 1]} <= {"no change"}
    assert {(j.verdict, j.since) for j in found[lasting + 1 :]} == {("regression", back)}
    assert found[-1].baseline == pytest.approx(7600, rel=0.003)


def test_a_short_improvement_is_not_the_new_measure() -> None:
    value = noisy(21, n=90)[0]
    value[70:75] *= 0.95
    assert not any(j.verdict == "regression" for j in replay(value, 70))


def test_noise_never_makes_the_measure_stricter() -> None:
    random = np.random.default_rng(22)
    value = 8000 * (1 + 0.003 * random.standard_t(4, (40, 300)))
    decision = judge(*(trend(row, name=str(i)) for i, row in enumerate(value)))
    assert {j.baseline_nights for j in decision.judgements} == {SETTINGS.baseline_nights}


def test_nights_between_alarms_do_not_become_the_normal() -> None:
    value = noisy(15, n=131)[0]
    value[70:] *= 1.03
    usable = np.ones(131, np.bool_)
    usable[71::3] = False
    found = judge(replace(trend(value), usable=usable)).judgements[0]
    assert found.verdict == "regression"
    assert not found.drift  # the latest nights tell it, not only the first ones
    assert found.baseline == pytest.approx(8000, rel=0.002)


def test_right_after_accepting_the_scatter_is_that_of_the_normal_before() -> None:
    value = noisy(12, n=80)[0]
    value[70:] *= 1.03
    value[78:] *= 1.05
    found = judge(replace(trend(value), accepted_from=70)).judgements[0]
    assert found.verdict == "regression"
    assert found.since == 78
    early = judge(replace(trend(value[:75]), accepted_from=70)).judgements[0]
    assert (early.verdict, early.baseline_nights) == ("no change", 3)
    short = judge(replace(trend(value[:73]), accepted_from=70)).judgements[0]
    assert short.verdict == "too little history"
    assert short.reason == (
        "the new normal that was accepted began 2 nights ago: 1 of the 3 nights that a baseline "
        "needs, besides the 2 that are judged together; 2 more nights to go"
    )


def test_a_pinned_run_is_the_baseline() -> None:
    value = noisy(13, n=200)[0]
    value[50:] *= 1.05
    pinned = replace(SETTINGS, pinned="run40")
    assert verdict(value) == "regression"  # against the first nights
    assert judge(replace(trend(value), accepted_from=60)).judgements[0].verdict == "no change"
    found = judge(trend(value), using=pinned).judgements[0]
    assert (found.verdict, found.baseline_nights) == ("regression", 1)
    assert found.baseline == value[40]


def test_a_pinned_run_that_is_not_there_is_said() -> None:
    found = judge(trend(noisy(1)[0]), using=replace(SETTINGS, pinned="gone")).judgements[0]
    assert found.verdict == "too little history"
    assert "gone" in found.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0},
        {"window": 4},
        {"min_nights": 4},
        {"min_nights": 100},
        {"false_discovery_rate": 0.0},
        {"default_min_effect": -0.1},
        {"min_effect": {"ns_per_exit": float("nan")}},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"window|min_nights|rate|effect"):
        Settings(**wrong)  # type: ignore[arg-type]


# --- properties --------------------------------------------------------------------------------

steps = st.sampled_from([0.0, 0.004, 0.01, 0.05, -0.02])
few = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1)


def numbers(found: Judgement) -> NDArray[np.float64]:
    return np.array([found.effect, found.low, found.high, found.p, found.q, found.tau])


@few
@given(seeds, steps, st.sampled_from([1e-6, 0.125, 1024.0, 1e9]))
def test_the_unit_does_not_matter(seed: int, step: float, unit: float) -> None:
    value = noisy(seed)[0]
    value[-3:] *= 1 + step
    one, other = (judge(trend(v)).judgements[0] for v in (value, value * unit))
    assert one.verdict == other.verdict
    scale = np.array([unit, unit, unit, 1, 1, unit])
    np.testing.assert_allclose(numbers(one) * scale, numbers(other), rtol=1e-6, atol=1e-9 * unit)


@few
@given(seeds, steps)
def test_better_higher_is_the_mirror_image(seed: int, step: float) -> None:
    value = noisy(seed)[0]
    value[-3:] *= 1 + step
    lower, higher = trend(value), trend(16000 - value, better="higher")
    half = np.full(len(value), 8.0)
    one, other = (
        judge(replace(t, low=t.value - half, high=t.value + half), using=absolute).judgements[0]
        for t in (lower, higher)
    )
    assert one.verdict == other.verdict
    assert one.effect == pytest.approx(-other.effect)
    assert (one.low, one.p) == (pytest.approx(-other.high), pytest.approx(other.p))


absolute = Settings(default_min_effect=0.0)


@few
@given(seeds, st.permutations(range(6)))
def test_the_order_of_metrics_does_not_matter(seed: int, order: Sequence[int]) -> None:
    value = noisy(seed, metrics=6)
    value[2, -3:] *= 1.02
    trends = [trend(row, name=str(i)) for i, row in enumerate(value)]
    straight = judge(*trends).judgements
    mixed = judge(*(trends[i] for i in order)).judgements
    assert [straight[i].key for i in order] == [j.key for j in mixed]
    for i, found in zip(order, mixed, strict=True):
        np.testing.assert_allclose(numbers(straight[i]), numbers(found), rtol=1e-9)


@few
@given(seeds, st.sampled_from([12, 30, 60]))
def test_more_nights_of_a_step_make_it_no_less_certain(seed: int, n: int) -> None:
    value = noisy(seed, n=n + 3, sd=0.001)[0]
    value[n:] = 8000 * 1.03  # so that the nights differ in their number only
    alarmed = [verdict(value[: n + k]) == "regression" for k in (1, 2, 3)]
    assert alarmed == sorted(alarmed)


odd = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from([0.0, 8000.0, np.nan, np.inf, 1e-300, 1e300, -8000.0]),
)


@given(
    st.lists(st.tuples(odd, odd, odd), min_size=1, max_size=25),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 25),
)
def test_odd_numbers_never_crash(
    rows: list[tuple[float, float, float]], window: int, paired: bool, accepted: int
) -> None:
    array = np.array(rows, np.float64)
    t = replace(
        trend(array[:, 0], baseline="x" if paired else None),
        low=array[:, 1],
        high=array[:, 2],
        processes=np.arange(len(rows)) % 4,
        reference=array[:, 1] if paired else None,
        usable=np.arange(len(rows)) % 5 != 3,
        accepted_from=accepted,
    )
    found = decide([t, t], nights(len(rows)), replace(SETTINGS, window=window))
    for judgement in found.judgements:
        assert judgement.reason
        assert np.isnan(judgement.p) or 0 <= judgement.p <= 1


@few
@given(st.floats(1, 1e6), st.integers(10, 40))
def test_values_that_never_differ_are_no_change(value: float, n: int) -> None:
    for error in (0.0, 0.001):
        assert judge(trend(np.full(n, value), error=error)).judgements[0].verdict == "no change"


# --- the statistics ----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, noise.LONG])
@pytest.mark.parametrize("df", [3.0, 30.0])
def test_the_tail_is_what_drawn_nights_do(k: int, df: float) -> None:
    random = np.random.default_rng(k)
    n = 14
    nights_of = random.standard_t(df, (60_000, n + k))
    level, scale = noise.fit(nights_of[:, :n])
    x = (noise.order(nights_of[:, n:]) - level) / scale
    grid, log_p = noise.tail(k, n, n, True, df)
    for p in (0.2, 0.02, 0.002):
        beyond = (x > np.interp(-np.log(p), -log_p, grid)).mean()
        assert beyond == pytest.approx(p, rel=0.12 if p > 0.01 else 0.35)


def test_the_tails_of_a_host_are_told_from_its_metrics_and_outliers_do_not_count() -> None:
    random = np.random.default_rng(3)

    def told(values: NDArray[np.float64]) -> float:
        level, scale = noise.fit(values)
        return float(noise.tails(((values - level[:, None]) / scale[:, None])[None])[0])

    normal, heavy = random.standard_normal((200, 60)), random.standard_t(3, (200, 60))
    assert told(normal) >= 8
    assert told(heavy) <= 4
    normal[random.random(normal.shape) < 0.01] += 50
    assert told(normal) >= 6


@given(st.lists(st.integers(-1000, 1000), min_size=5, max_size=30), st.floats(0.01, 100))
def test_the_fit_moves_with_its_values(values: list[int], factor: float) -> None:
    array = np.array([values], np.float64)
    (level, scale), (moved, wider) = noise.fit(array), noise.fit(array * factor + 7)
    np.testing.assert_allclose(moved, level * factor + 7, rtol=1e-6, atol=1e-6 * factor)
    np.testing.assert_allclose(wider, scale * factor, rtol=1e-5, atol=1e-6 * factor)


def test_windows_that_could_not_be_tried_cost_nothing() -> None:
    p = combine({2: np.array([0.01, np.nan]), 3: np.array([np.nan, np.nan])})
    np.testing.assert_allclose(p, [0.01, np.nan])
    assert combine({2: np.array([0.01]), 3: np.array([0.5])})[0] > 0.01


def test_adjusting_regards_all_metrics_that_were_judged() -> None:
    np.testing.assert_allclose(adjust(np.array([0.01, np.nan, 0.5])), [0.02, np.nan, 0.5])


def test_a_small_simulation_keeps_its_promises() -> None:
    """Wide margins and a fixed seed; benchmarks/bench_nightly.py has the real one."""
    random = np.random.default_rng(14)
    false = found = 0
    total = 40
    for _ in range(total):
        value = 8000 * (1 + 0.002 * random.standard_t(5, (30, 66)))
        value[:, random.integers(0, 66, 2)] *= 1.1  # the host was off on two nights
        false += judge(*(trend(row, name=str(i)) for i, row in enumerate(value))).alarm
        value[0, -3:] *= 1.02
        decision = judge(*(trend(row, name=str(i)) for i, row in enumerate(value)))
        found += decision.judgements[0].verdict == "regression"
    assert false <= 2
    assert found >= 0.8 * total


# --- nights on which the host was busy ---------------------------------------------------------


def with_last(n: int, *last: float, usual: float = 0.005) -> NDArray[np.float64]:
    """Loads of n nights, the last ones as given."""
    return np.array([usual] * (n - len(last)) + list(last))


def slower_at_the_end(by: float, count: int, n: int = 70) -> NDArray[np.float64]:
    value = noisy(3, n)[0]
    value[n - count :] *= 1 + by
    return value


def test_a_busy_night_is_no_witness_and_says_why() -> None:
    found = judge(trend(slower_at_the_end(0.5, 3), load=with_last(70, 0.3, 0.4, 0.37)))
    (judgement,) = found.judgements
    assert not found.alarm
    assert judgement.verdict == "no witness"
    assert judgement.reason == "the host was busy (others used 37 % of its CPUs)"
    assert not judgement.suspect


def test_the_same_nights_are_an_alarm_when_the_host_was_quiet() -> None:
    assert judge(trend(slower_at_the_end(0.5, 3), load=0.005)).alarm
    assert judge(trend(slower_at_the_end(0.5, 3), load=np.nan)).alarm  # nights of old runs


def test_busy_nights_are_no_baseline() -> None:
    """Else they would be half of it, and a change of 5 % within what nights differ by."""
    value, load = slower_at_the_end(0.05, 3), with_last(70)
    value[10:60:2] *= 1.5
    load[10:60:2] = 0.5
    (judgement,) = judge(trend(value, load=load)).judgements
    assert judgement.verdict == "regression"
    assert judgement.baseline_nights < 45
    assert judgement.relative == pytest.approx(0.05, abs=0.01)


def test_an_alarm_waits_for_the_next_quiet_nights() -> None:
    """Slower for good since five nights ago, three of which were busy."""
    value, load = slower_at_the_end(0.05, 5), with_last(70, 0.005, 0.4, 0.5, 0.4, 0.005)
    for night, expected in ((65, "no change"), (66, "no witness"), (68, "no witness")):
        until = slice(night + 1)
        assert judge(trend(value[until], load=load[until])).judgements[0].verdict == expected
    (judgement,) = judge(trend(value, load=load)).judgements
    assert (judgement.verdict, judgement.since, judgement.nights) == ("regression", 65, (65, 69))


def test_an_alarm_stays_open_over_a_busy_night() -> None:
    past = trend(slower_at_the_end(0.05, 4), load=with_last(70, 0.4))
    past.usable[67:69] = False  # alarms of the nights before
    (judgement,) = judge(past).judgements
    assert (judgement.verdict, judgement.open) == ("no witness", True)


def test_what_is_usual_on_a_host_is_quiet_up_to_a_tenth() -> None:
    assert judge(trend(slower_at_the_end(0.05, 3), load=0.06)).alarm
    assert not judge(trend(slower_at_the_end(0.05, 3), load=with_last(70, *[0.06] * 3))).alarm
    assert not judge(trend(slower_at_the_end(0.05, 3), load=0.12)).alarm


def test_a_case_whose_control_failed_is_no_witness() -> None:
    biased = np.arange(70) >= 67
    found = judge(trend(slower_at_the_end(0.05, 3), load=0.0, biased=biased))
    (judgement,) = found.judgements
    assert not found.alarm
    assert judgement.reason == "the A/A control found that the baseline differs from itself"


def test_a_host_that_is_never_quiet_raises_suspicion_and_no_alarm() -> None:
    found = judge(trend(slower_at_the_end(0.5, 3), load=0.4))
    (judgement,) = found.judgements
    assert not found.alarm
    assert (judgement.verdict, judgement.suspect) == ("no witness", True)
    assert judgement.relative == pytest.approx(0.5, abs=0.02)
    # Slower than nights that were quieter is nothing odd.
    load = with_last(70, 0.6, 0.6, 0.6, usual=0.4)
    assert not judge(trend(slower_at_the_end(0.5, 3), load=load)).judgements[0].suspect


@given(st.lists(st.floats(0, 1) | st.just(np.nan), min_size=1, max_size=90), st.data())
def test_only_like_nights_are_compared(loads: list[float], data: st.DataObject) -> None:
    tonight = data.draw(st.integers(0, len(loads) - 1))
    some = trend(np.ones(len(loads)), load=loads)
    like, disturbed = some.like(tonight), some.disturbed(tonight)
    if not disturbed[tonight]:
        assert like[tonight]
        assert not (like & disturbed).any()
        assert not (some.load > 0.1)[like].any() if some.load is not None else True
    elif like.any():
        assert like[tonight]
        assert disturbed[max(0, tonight - 13) : tonight + 1].all()
        assert not (like & ~disturbed).any()
