# SPDX-License-Identifier: Apache-2.0
"""Describes where in the distribution of exits a difference lies: the shift function, in words.

A cost that every exit pays is the same at each quantile. Contention grows towards the tail. The
figure is in :mod:`kickbench.report.figures.shift`.
"""

from __future__ import annotations

from kickbench.report.words.differences import amount, differ, interval, is_seen
from kickbench.report.words.names import Summary, nanoseconds
from kickbench.stats.quiet import QUIET_LEVELS

NOTABLE = 0.1
"""A change by less than this part of a difference is not reported, however surely it is seen."""


def percentile(level: float) -> str:
    """E.g. "p99.9" for 0.999."""
    return f"p{100 * level:.6g}"


def shift_points(case: Summary, method: str, baseline: str) -> list[Summary]:
    """The differences of two methods by rising quantile, each with its ``level``."""
    return [
        {**point, "rounds": 2**31}
        for one in case.get("shift", ())
        if (one["method"], one["baseline"]) == (method, baseline)
        for point in one["points"]
    ]


def answer_shift(summary: Summary, case: Summary, method: str) -> list[str]:
    """Whether a difference that was seen grows towards the tail; none if that is not known."""
    points = shift_points(case, method, case["baseline"])
    quiet = [point for point in points if point["level"] in QUIET_LEVELS]
    if not quiet or not is_seen(first := quiet[len(quiet) // 2]):
        return []
    unit, last = nanoseconds(summary), points[-1]
    if last in quiet:
        return []
    pair = f"{method} - {case['baseline']}"
    ends = f"{amount(first, unit)} at {percentile(first['level'])}"
    far = f"{amount(last, unit)} {interval(last)} at {percentile(last['level'])}"
    much = abs(last["diff"] - first["diff"]) > NOTABLE * abs(first["diff"])
    step = differ(first, last) if much else 0
    if step == 0:
        return [f"{pair} was not seen to change towards the tail: {ends}, {far}."]
    return [f"{pair} {'grows' if step > 0 else 'falls'} towards the tail: {ends}, {far}."]
