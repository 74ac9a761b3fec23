# SPDX-License-Identifier: Apache-2.0
"""A summary as points: every figure that has an interval, and nothing that makes no sense."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.compare.metrics import METRICS, Point, points
from kickbench.results.reader import RunReader
from kickbench.stats.proportions import clopper_pearson
from kickbench.summary.summarise import summarise


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [
        synthetic_run.case(2),
        synthetic_run.kick_case("guest"),
        synthetic_run.pause_case(2),
        synthetic_run.race_case(50_000.0),
        synthetic_run.nested_case(),
        synthetic_run.handover_case(),
    ]
    path = synthetic_run.build(tmp_path_factory.mktemp("results"), cases=cases)
    return summarise(RunReader(path))


def of(summary: Any, **wanted: Any) -> list[Point]:
    return [p for p in points(summary) if all(getattr(p, k) == v for k, v in wanted.items())]


def test_every_kind_has_its_metrics(summary: dict[str, Any]) -> None:
    found: dict[str, set[tuple[str, bool]]] = {}
    for point in points(summary):
        found.setdefault(point.kind, set()).add((point.metric, point.baseline is not None))
    times = ("quiet_ns_per_exit", "ns_per_exit", "cpu_ns_per_exit")
    both = {(metric, paired) for metric in times for paired in (False, True)}
    assert found["exits"] == both | {("exits_per_second", False)}
    kick = {("latency_p50_ns", False), ("latency_p99_ns", False), ("lost", False)}
    assert found["kick"] >= kick | {("latency_p50_ns", True)}
    pause = {("pause_last_ns", False), ("pause_last_ns", True), ("rescued", False)}
    assert found["pause_all"] == pause
    assert found["race"] == {("lost", False)}
    shares = {("late", False), ("injections_lost", False), ("injections_doubled", False)}
    times = {("round_trip_p50_ns", False), ("round_trip_p50_ns", True), ("injection_p50_ns", True)}
    assert found["nested"] == shares | times | {("event_latency_p50_ns", False)}
    assert found["handover"] == {("handover_ns", False), ("handover_ns", True)}


def test_an_injections_cost_is_seen_against_the_round_trip_without(summary: dict[str, Any]) -> None:
    (point,) = of(summary, kind="nested", metric="injection_p50_ns")
    assert (point.method, point.baseline) == ("pending", "pending_no_injection")
    (level,) = of(summary, metric="round_trip_p50_ns", method="pending_no_injection", baseline=None)
    assert point.reference == level.estimate.value


def test_points_are_the_numbers_of_the_summary(summary: dict[str, Any]) -> None:
    case = summary["cases"][0]
    (level,) = of(summary, kind="exits", method="sigmask", baseline=None, metric="ns_per_exit")
    said = case["methods"]["sigmask"]["estimates"]["ns_per_exit"]
    assert (level.estimate.value, [level.estimate.low, level.estimate.high]) == (
        said["value"],
        said["ci95"],
    )
    assert level.estimate.processes == case["processes"] == 3
    (paired,) = of(summary, kind="exits", baseline="immediate_exit", metric="ns_per_exit")
    (contrast,) = (one for one in case["contrasts"] if one["metric"] == "ns_per_exit")
    assert paired.estimate.value == contrast["diff"]
    baseline = case["methods"]["immediate_exit"]["estimates"]["ns_per_exit"]["value"]
    assert paired.reference == baseline
    (kick,) = of(summary, kind="kick", method="sigmask", baseline=None, metric="latency_p50_ns")
    figures = summary["cases"][1]["methods"]["sigmask"]
    assert kick.estimate.value == figures["latency_ns"]["p50"]
    assert [kick.estimate.low, kick.estimate.high] == figures["latency_ci95"]["p50"]


def test_estimates_of_a_level_hold_the_level_that_was_put_in(summary: dict[str, Any]) -> None:
    (level,) = of(
        summary, kind="exits", method="immediate_exit", baseline=None, metric="ns_per_exit"
    )
    assert level.estimate.low < level.estimate.value < level.estimate.high
    assert level.estimate.value == pytest.approx(synthetic_run.BASE_NS, rel=0.02)
    (rate,) = of(
        summary, kind="exits", method="immediate_exit", baseline=None, metric="exits_per_second"
    )
    figures = summary["cases"][0]["methods"]["immediate_exit"]
    assert rate.estimate.value == pytest.approx(figures["exits_per_second"], rel=0.01)


def test_lost_kicks_are_an_exact_proportion(summary: dict[str, Any]) -> None:
    (race,) = of(summary, kind="race", method="flag_signal")
    figures = summary["cases"][3]["methods"]["flag_signal"]
    assert race.count == figures["lost"] > 0
    assert race.of == figures["sent"]
    assert race.race_free is False
    expected = clopper_pearson(race.count, race.of)
    assert (race.estimate.low, race.estimate.high) == (expected.low, expected.high)
    assert race.estimate.processes == 0
    (none,) = of(summary, kind="race", method="immediate_exit")
    assert (none.count, none.estimate.low, none.race_free) == (0, 0.0, True)


def counted(summary: dict[str, Any], twice: int = 0, never: int = 0) -> dict[str, Any]:
    """The same, whose exits were counted by the guest, too."""
    changed = copy.deepcopy(summary)
    counts = {"accesses": 10**6, "twice": twice, "never": never}
    changed["cases"][0]["methods"]["sigmask"]["accesses"] = counts
    return changed


def test_accesses_that_were_not_done_once_are_a_proportion(summary: dict[str, Any]) -> None:
    assert of(summary, metric="accesses") == []
    (point,) = of(counted(summary, twice=2, never=1), metric="accesses")
    assert (point.method, point.count, point.of) == ("sigmask", 3, 10**6 + 1)
    assert point.race_free is True  # no method may do that, whatever it claims


def test_what_a_guest_gets_done_whose_exits_stay_in_the_kernel_is_compared(
    summary: dict[str, Any],
) -> None:
    changed = copy.deepcopy(summary)
    changed["cases"][0] |= {"program": "cpuid", "timed_by": "guest", "kick_rate_hz": 100.0}
    found = of(changed, kind="exits", method="sigmask", baseline=None)
    assert {point.metric for point in found} == {
        *("quiet_ns_per_exit", "ns_per_exit", "cpu_ns_per_exit", "exits_per_second")
    }


def test_a_kick_that_the_control_lost_counts(summary: dict[str, Any]) -> None:
    changed = copy.deepcopy(summary)
    case = changed["cases"][1]
    case["findings"] = [{"method": "immediate_exit", "what": "lost", "count": 2, "of": 5000}]
    (point,) = of(changed, kind="kick", method="immediate_exit", metric="lost")
    assert (point.count, point.of) == (2, 5000)


def test_waiting_is_a_part_of_the_cpu_time(summary: dict[str, Any]) -> None:
    changed = copy.deepcopy(summary)
    figures = changed["cases"][0]["methods"]["sigmask"]
    figures["disturbances"]["run_delay_ns"] = figures["n"] * figures["cpu_ns_per_exit"] / 4
    levels = of(changed, kind="exits", method="sigmask", baseline=None)
    assert [point.waiting for point in levels] == pytest.approx([0.25] * 4)
    assert {point.waiting for point in of(changed, kind="kick")} == {None}


def test_the_level_of_a_quiet_exit_has_its_floor(summary: dict[str, Any]) -> None:
    changed = copy.deepcopy(summary)
    changed["cases"][0]["methods"]["sigmask"]["ns_per_exit"]["floor"] = 1234.5
    levels = of(changed, kind="exits", method="sigmask", baseline=None)
    floors = {point.metric: point.floor for point in levels if point.floor is not None}
    assert floors == {"quiet_ns_per_exit": 1234.5}


def test_at_a_set_rate_what_is_the_rate_is_no_figure(summary: dict[str, Any]) -> None:
    changed = copy.deepcopy(summary)
    assert {point.metric for point in of(changed, kind="exits")} > {"ns_per_exit"}
    changed["cases"][0]["exit_rate_hz"] = 20000.0
    found = of(changed, kind="exits")
    assert {point.metric for point in found} == {"quiet_ns_per_exit", "ns_per_exit"}
    assert {point.baseline for point in found} == {None, "immediate_exit"}


@pytest.mark.parametrize("status", ["skipped", "failed", "pending"])
def test_only_finished_cases_have_points(summary: dict[str, Any], status: str) -> None:
    changed = copy.deepcopy(summary)
    for case in changed["cases"]:
        case["status"] = status
    assert points(changed) == []


@pytest.mark.parametrize(
    "ci95", [None, [], [1.0], [1.0, 2.0, 3.0], [None, 2.0], [3.0, 2.0], ["1", "2"], [1.0, math.inf]]
)
def test_a_value_without_a_sound_interval_is_no_point(summary: dict[str, Any], ci95: Any) -> None:
    changed = copy.deepcopy(summary)
    changed["cases"][0]["methods"]["sigmask"]["estimates"]["ns_per_exit"]["ci95"] = ci95
    assert of(changed, kind="exits", method="sigmask", baseline=None, metric="ns_per_exit") == []


def test_every_metric_says_where_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        ways = (metric.value, metric.fault and metric.of, metric.count)
        assert sum(map(bool, ways)) == 1
        assert metric.value or not metric.ci95
        assert metric.kinds


@pytest.mark.parametrize(
    ("count", "judged"),
    [
        ({"instructions": 2521, "share": 0.998}, [2521.0]),
        ({"instructions": 2521, "share": 0.998, "step": 1}, [2521.0]),
        ({"instructions": 2521, "share": 0.998, "step": 5}, []),
        ({"instructions": 2521, "share": 0.998, "step": None}, []),
        ({"instructions": 2521, "share": 0.6}, []),
        ({"instructions": "2521", "share": 1.0}, []),
        ({"instructions": 2521}, []),
        (None, []),
    ],
)
def test_a_count_is_judged_where_nearly_all_samples_have_it(
    summary: dict[str, Any], count: Any, judged: list[float]
) -> None:
    changed = copy.deepcopy(summary)
    changed["cases"][0]["methods"]["sigmask"]["counts"] = {"exit": count}
    found = of(changed, kind="exits", metric="instructions_per_exit")
    assert [point.estimate.value for point in found] == judged
    assert all(point.estimate.low == point.estimate.high for point in found)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
odd = st.recursive(scalars, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(), s))


@st.composite
def broken(draw: st.DrawFn, value: Any) -> Any:
    """The value with some of what is in it replaced by anything."""
    if draw(st.integers(0, 12)) == 0:
        return draw(odd)
    if isinstance(value, dict):
        return {key: draw(broken(item)) for key, item in value.items()}
    if isinstance(value, list):
        return [draw(broken(item)) for item in value]
    return value


@given(st.data())
def test_no_summary_is_odd_enough_to_break_it(summary: dict[str, Any], data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(summary["cases"]))
    found = points({"cases": [data.draw(broken(case))]})
    assert len({point.key for point in found}) == len(found)
    for point in found:
        numbers = (point.estimate.low, point.estimate.value, point.estimate.high)
        assert all(map(math.isfinite, numbers))
        assert sorted(numbers) == list(numbers)


@given(odd)
def test_anything_at_all_may_be_a_summary(summary: Any) -> None:
    assert points(summary if isinstance(summary, dict) else {"cases": [summary]}) == []
