# SPDX-License-Identifier: Apache-2.0
"""Lists the figures of a summary that have an interval, for the comparison of runs.

:data:`METRICS` is the table of all metrics that are judged. A summary can be foreign, or of another
version. A figure that is missing or makes no sense is left out, and nothing is raised. Nothing here
compares, and the only words are the metrics' titles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kickbench.results.schema import dig
from kickbench.stats.independent import Estimate
from kickbench.stats.proportions import clopper_pearson

Summary = Mapping[str, Any]
Unit = Literal["ns", "1/s", "share", "instructions"]
Better = Literal["lower", "higher"]

__all__ = ["METRICS", "OBSERVED", "Estimate", "Metric", "Point", "control_ok", "points"]

STEADY = 0.95
"""A count is judged if this share of the samples has it. Another run of the same kernel then has it
too. If two paths are about as frequent, either may be ahead."""

OBSERVED = "observed"
"""The kind of a VM that was observed. Its method is the protocol that was found to be in use, so
two observations of a VM can have different ones, and other values of the same figures."""

LARGEST = 1e200
"""Squares of larger numbers overflow. No figure of a run is that large."""


@dataclass(frozen=True)
class Metric:
    """One metric that is judged.

    ``value`` and ``ci95`` are the paths of both in a method's part of the summary. A metric without
    ``ci95`` has differences only, which are a share of the ``value``. A proportion has instead
    ``fault``, the name of a fault in the case's findings, and ``of``, the keys whose sum is the
    number of times that it could have happened. Without a finding, ``sums`` are the keys whose sum
    is how often it did; both are below ``part``. What ``must_not`` happen has no protocol that may
    do it. An exact count has ``count``, the name of what was
    counted. ``set_by_rate`` says that in a case with an exit rate the figure is that rate, and
    shows nothing of the method. ``floor`` is the path of what the figure is where nothing disturbs
    it, if it has one. ``min_effect`` is the part of a level by which two runs of one kernel may
    well differ; docs/compare.md has the measurements. ``since`` is the first schema of runs with
    the present meaning of the metric.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    unit: Unit = "ns"
    better: Better = "lower"
    value: tuple[str, ...] = ()
    ci95: tuple[str, ...] = ()
    fault: str | None = None
    of: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    must_not: bool = False
    count: str | None = None
    set_by_rate: bool = False
    floor: tuple[str, ...] = ()
    min_effect: float = 0.05
    since: int = 1

    def changed_between(self, one: int, other: int) -> bool:
        """Whether the metric means different things in runs of these two schemas."""
        return (one < self.since) is not (other < self.since)


def _estimated(
    name: str,
    title: str,
    kind: str,
    unit: Unit = "ns",
    better: Better = "lower",
    set_by_rate: bool = False,
    floor: tuple[str, ...] = (),
) -> Metric:
    """A level that is estimated from the rounds."""
    value, ci95 = ("estimates", name, "value"), ("estimates", name, "ci95")
    return Metric(
        name, title, (kind,), unit, better, value, ci95, set_by_rate=set_by_rate, floor=floor
    )


def _quantile(
    name: str, title: str, kinds: tuple[str, ...], figure: str, level: str, since: int = 1
) -> Metric:
    """A quantile of events that are timed one by one."""
    value, ci95 = (f"{figure}_ns", level), (f"{figure}_ci95", level)
    return Metric(name, title, kinds, value=value, ci95=ci95, min_effect=0.1, since=since)


def _counted(name: str, title: str, kind: str, count: str, since: int = 1) -> Metric:
    """An exact count of instructions."""
    return Metric(name, title, (kind,), "instructions", count=count, since=since)


def _share(
    name: str, title: str, kinds: tuple[str, ...], fault: str, of: tuple[str, ...], since: int = 1
) -> Metric:
    """The share of what may meet with a fault that did."""
    return Metric(name, title, kinds, "share", fault=fault, of=of, sums=(fault,), since=since)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _estimated(
            "quiet_ns_per_exit", "time per quiet exit", "exits", floor=("ns_per_exit", "floor")
        ),
        _estimated("ns_per_exit", "time per exit", "exits"),
        _estimated("cpu_ns_per_exit", "CPU time per exit", "exits", set_by_rate=True),
        _estimated("exits_per_second", "exits per second", "exits", "1/s", "higher", True),
        Metric(
            "vm_exits_per_second",
            "exits per second of the VM",
            (OBSERVED,),
            "1/s",
            value=("estimates", "exits_per_second", "value"),
            ci95=("estimates", "exits_per_second", "ci95"),
        ),
        _quantile("latency_p50_ns", "kick latency p50", ("kick", OBSERVED), "latency", "p50", 2),
        _quantile("latency_p99_ns", "kick latency p99", ("kick", OBSERVED), "latency", "p99", 2),
        _quantile("pause_last_ns", "pause all p50", ("pause_all", OBSERVED), "last", "p50", 2),
        _counted("instructions_per_exit", "instructions per exit", "exits", "exit"),
        _counted("instructions_per_kick", "instructions per kick", "kick", "kick", since=2),
        _counted("instructions_per_send", "instructions to send a kick", "kick", "send"),
        _share("lost", "kicks lost", ("kick", "race", "lifecycle"), "lost", ("sent",), since=2),
        _share("killed", "VMMs killed by a kick", ("lifecycle",), "killed", ("sent",)),
        _share("poisoned", "VMs poisoned by a kick", ("lifecycle",), "poisoned", ("sent",)),
        _share("rescued", "pauses rescued", ("pause_all",), "rescued", ("n", "rescued"), since=2),
        Metric(
            "accesses",
            "accesses not done once",
            ("exits", "kick", "pause_all", "race"),
            "share",
            fault="accesses",
            of=("accesses", "never"),
            sums=("twice", "never"),
            part=("accesses",),
            must_not=True,
        ),
        _estimated("round_trip_p50_ns", "round trip to L2 p50", "nested"),
        # Only a difference: its levels are those of round_trip_p50_ns.
        Metric(
            "injection_p50_ns",
            "round trip to L2 p50",
            ("nested",),
            value=("estimates", "round_trip_p50_ns", "value"),
        ),
        _quantile("event_latency_p50_ns", "event latency p50", ("nested",), "latency", "p50"),
        _share("late", "events late for L1", ("nested",), "late", ("judged",)),
        _share("injections_lost", "injections lost", ("nested",), "lost", ("injected",)),
        _estimated("handover_ns", "hand-over of a cache line", "handover"),
        _share("injections_doubled", "injections doubled", ("nested",), "doubled", ("injected",)),
    )
}


@dataclass(frozen=True)
class Point:
    """One figure of a summary with its interval.

    Without a ``baseline`` it is the level of a method. With one it is the run's own paired
    difference, method - baseline. ``reference`` is then the baseline's level, of which it is a
    share; None if it is not known. A proportion is ``count`` of ``of``, and ``race_free`` says that
    its method claims that it does not happen, or that no method may; all three are None for other
    figures. ``waiting`` is the time for which the
    vCPU threads were ready but had to wait for a CPU, as a part of their CPU time; None if it is
    not known. ``floor`` is that of a level, where the metric has one and the summary knows it.
    """

    case: str
    kind: str
    method: str
    baseline: str | None
    metric: str
    estimate: Estimate
    reference: float | None
    race_free: bool | None = None
    count: int | None = None
    of: int | None = None
    waiting: float | None = None
    floor: float | None = None

    @property
    def key(self) -> tuple[str, str, str | None, str]:
        """The key by which the points of two runs are the same figure."""
        method = "" if self.kind == OBSERVED else self.method
        return self.case, method, self.baseline, self.metric


def control_ok(case: Summary) -> bool | None:
    """Whether the A/A control of a case is good.

    False if one of its figures is not, None if that of the headline cannot tell.
    """
    found = [dig(case, "control", "ok"), dig(case, "control", "mean", "ok")]
    if False in found:
        return False
    return found[0] if isinstance(found[0], bool) else None


def points(summary: Summary) -> list[Point]:
    """Every figure of the summary's finished cases that has a value and an interval, once.

    Exits at a set rate have only the times per exit. The vCPU spins until the next exit is due, so
    its CPU time and its exits per second are the rate.
    """
    found: dict[tuple[str, str, str | None, str], Point] = {}
    for case in _items(summary, "cases"):
        if dig(case, "status") == "ok":
            paced = dig(case, "exit_rate_hz") is not None
            for point in (*_levels(case), *_paired(case)):
                if not (paced and METRICS[point.metric].set_by_rate):
                    found.setdefault(point.key, point)
    return list(found.values())


def _levels(case: Summary) -> Iterator[Point]:
    case_id, kind = _text(case, "id"), _text(case, "kind")
    methods = dig(case, "methods")
    if case_id is None or kind is None or not isinstance(methods, Mapping):
        return
    for method, figures in methods.items():
        for metric in METRICS.values():
            if kind not in metric.kinds or not isinstance(method, str):
                continue
            if metric.fault is None:
                estimate = (
                    _estimate(
                        dig(figures, *metric.value),
                        dig(figures, *metric.ci95),
                        _processes(case),
                    )
                    if metric.count is None
                    else _exact(dig(figures, "counts", metric.count))
                )
                if estimate is not None:
                    yield Point(
                        case_id,
                        kind,
                        method,
                        None,
                        metric.name,
                        estimate,
                        None,
                        waiting=_waiting(figures),
                        floor=_number(dig(figures, *metric.floor)) if metric.floor else None,
                    )
                continue
            count, of = _faults(case, method, figures, metric)
            if of > 0:
                share = clopper_pearson(count, of)
                estimate = Estimate(share.estimate, share.low, share.high, 0)
                claim = dig(figures, "race_free_claim")
                yield Point(
                    case_id,
                    kind,
                    method,
                    None,
                    metric.name,
                    estimate,
                    None,
                    race_free=metric.must_not or (claim if isinstance(claim, bool) else None),
                    count=count,
                    of=of,
                )


def _exact(count: object) -> Estimate | None:
    """An exact count: nearly all samples have it, and the clock counts each instruction.

    None if it is not exact. Summaries without a step come from such a clock.
    """
    if isinstance(count, Mapping) and _count(count.get("step", 1)) != 1:
        return None
    share, value = _number(dig(count, "share")), _number(dig(count, "instructions"))
    if value is None or share is None or share < STEADY:
        return None
    return Estimate(value, value, value, 0)


def _paired(case: Summary) -> Iterator[Point]:
    case_id, kind = _text(case, "id"), _text(case, "kind")
    for contrast in _items(case, "contrasts"):
        method, baseline = _text(contrast, "method"), _text(contrast, "baseline")
        metric = METRICS.get(_text(contrast, "metric") or "")
        estimate = _estimate(dig(contrast, "diff"), dig(contrast, "ci95"), _processes(case))
        if case_id is None or kind is None or method is None or baseline is None:
            continue
        if metric is None or estimate is None:
            continue
        reference = _number(dig(case, "methods", baseline, *metric.value))
        yield Point(case_id, kind, method, baseline, metric.name, estimate, reference)


def _faults(case: Summary, method: str, figures: object, metric: Metric) -> tuple[int, int]:
    """How often the fault happened, and of how many; 0 of 0 if it is not known.

    A finding also counts the faults of the control, as the baseline's.
    """
    for finding in _items(case, "findings"):
        if (dig(finding, "method"), dig(finding, "what")) == (method, metric.fault):
            counts = [_count(dig(finding, "count")), _count(dig(finding, "of"))]
            break
    else:
        counts = [_sum(dig(figures, *metric.part), keys) for keys in (metric.sums, metric.of)]
    count, of = counts
    return (0, 0) if count is None or of is None or count > of else (count, of)


def _sum(figures: object, keys: tuple[str, ...]) -> int | None:
    parts = [_count(dig(figures, key)) for key in keys]
    return None if None in parts else sum(part or 0 for part in parts)


def _waiting(figures: object) -> float | None:
    delay_ns = _number(dig(figures, "disturbances", "run_delay_ns"))
    exits, cpu_ns = _number(dig(figures, "n")), _number(dig(figures, "cpu_ns_per_exit"))
    if delay_ns is None or not exits or not cpu_ns:
        return None
    return abs(delay_ns / exits / cpu_ns)


# --- values that can be foreign ----------------------------------------------------------------


def _items(value: object, key: str) -> list[Summary]:
    found = dig(value, key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _text(value: object, key: str) -> str | None:
    found = dig(value, key)
    return found if isinstance(found, str) else None


def _number(value: object) -> float | None:
    """A finite number that can be squared."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -LARGEST < value < LARGEST else None


def _count(value: object) -> int | None:
    """A count; at most what a float64 holds exactly."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= 2**53 else None


def _processes(case: Summary) -> int:
    """How many processes are behind the case's intervals; 1 if it is not known."""
    return _count(dig(case, "processes")) or 1


def _estimate(value: object, ci95: object, processes: int) -> Estimate | None:
    number = _number(value)
    if number is None or not isinstance(ci95, (list, tuple)) or len(ci95) != 2:
        return None
    low, high = _number(ci95[0]), _number(ci95[1])
    if low is None or high is None or low > high:
        return None
    return Estimate(number, min(low, number), max(high, number), processes)
