# SPDX-License-Identifier: Apache-2.0
"""The cost of a whole kick, from exits at full speed with kicks, and the same without.

At full speed a guest does nothing but exit. So all time that a kick takes of a vCPU is missing from
its exits: the signal and its handler, the entry that a stale signal or byte ends, and what the
protocol does then. The case without kicks removes the cost of the exits themselves. Nothing here
reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kickbench.scenario.kinds import NOISE
from kickbench.stats.independent import Estimate, difference
from kickbench.summary.shared import (
    Floats,
    Ints,
    bounds,
    by_process,
    contrast_interval,
    number,
)

METRIC = "ns_per_kick"

REACHED = 0.9
"""The share of the kicks asked for that must have been sent at least. The noise of the exits
between two kicks is multiplied by their number, and hides the cost of rare kicks."""

TWO_SIDED_95 = 1.96

Times = tuple[Ints, Floats]
"""The process of each round, and ns per exit (rounds x methods; NaN: the round had no exit)."""

_ALIKE = (
    "program", "irqchip", "vcpus", "exit_rate_hz", "arrival", "placement_spec", "baseline", *NOISE
)  # fmt: skip


def pair_with_quiet(
    cases: Sequence[Mapping[str, Any]], timed_by: str = "host"
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The cases at full speed with kicks, each with the case that differs only in having none.

    Cases without such a partner or without figures are left out. So are paced guests, because a
    kick between two exits takes no time of the exits. So are cases that got far fewer kicks than
    they asked for (:data:`REACHED`).

    Exits that stay in the kernel are ``timed_by`` the "guest", and are paired apart. Their times
    do not contain the kicks, whatever the number of these.
    """
    done = [
        case
        for case in cases
        if case["kind"] == "exits"
        and case["methods"]
        and case["exit_rate_hz"] is None
        and case.get("timed_by", "host") == timed_by
    ]
    return [
        (kicked, quiet)
        for kicked in done
        for quiet in done
        if kicked["kick_rate_hz"] is not None
        and (timed_by == "guest" or _got_its_kicks(kicked))
        and quiet["kick_rate_hz"] is None
        and all(kicked[key] == quiet[key] for key in _ALIKE)
        and list(kicked["methods"]) == list(quiet["methods"])
    ]


def contrasts_per_kick(
    kicked: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]],
    with_kicks: Times,
    without: Times,
) -> list[dict[str, Any]]:
    """By how much the methods of each pair differ per kick, in ns, as contrasts of ``kicked``.

    With e and q the ns per exit with and without kicks, and x the exits per kick, a kick costs
    x (e - q). The two methods are subtracted round by round in each case, and x is that of both
    together. The reason is that the level of a host differs from case to case by far more than a
    kick costs, and two x that differ by chance would multiply that difference. The interval
    contains the chance by which the methods got more or fewer kicks. A pair has no contrast if one
    of the two got no kicks.
    """
    names = list(kicked["methods"])
    found = []
    for method, baseline in pairs:
        sent = [_sent(kicked["methods"][name]) for name in (method, baseline)]
        if not all(sent):
            continue
        exits = sum(kicked["methods"][name]["n"] for name in (method, baseline))
        per_kick = exits / sum(sent)
        columns = (names.index(method), names.index(baseline))
        one = _contrast(columns, per_kick, with_kicks, without)
        if one["ci95"] is not None:
            chance = TWO_SIDED_95 * _of_chance(columns, sent, per_kick, with_kicks, without)
            low, high = (one["diff"] - end for end in one["ci95"])
            one["ci95"] = [
                one["diff"] - math.hypot(low, chance),
                one["diff"] + math.hypot(high, chance),
            ]
        found.append({"method": method, "baseline": baseline, "metric": METRIC, **one})
    return found


def _sent(figures: Mapping[str, Any]) -> int:
    return (figures.get("kicks") or {}).get("sent") or 0


def _got_its_kicks(case: Mapping[str, Any]) -> bool:
    asked = case["kick_rate_hz"] * case["vcpus"]
    return all(
        (figures["kicks"]["per_second"] or 0.0) >= REACHED * asked
        for figures in case["methods"].values()
    )


def _of_chance(
    columns: tuple[int, int],
    sent: Sequence[int],
    per_kick: float,
    with_kicks: Times,
    without: Times,
) -> float:
    """The standard error of a method's kicks, which come as a Poisson process, in ns per kick."""
    levels = [np.nanmean(times[1][:, list(columns)], axis=0) for times in (with_kicks, without)]
    costs = np.maximum(per_kick * (levels[0] - levels[1]), 0.0)
    return float(np.sqrt((costs**2 / np.asarray(sent)).sum()))


def _differences(columns: tuple[int, int], per_kick: float, times: Times) -> list[Floats]:
    process, ns = times
    return by_process(process, per_kick * (ns[:, columns[0]] - ns[:, columns[1]]))


def _contrast(
    columns: tuple[int, int], per_kick: float, with_kicks: Times, without: Times
) -> dict[str, Any]:
    parts = [_differences(columns, per_kick, times) for times in (with_kicks, without)]
    used = sum(len(rounds) for rounds in parts[0])
    estimates = []
    for part in parts:
        interval = contrast_interval(part)
        ends = bounds(interval)
        if interval is not None and ends is not None:
            low, high = ends
            estimates.append(Estimate(interval.estimate, low, high, interval.n_processes))
    step = difference(*estimates) if len(estimates) == len(parts) else None
    return {
        "diff": None if step is None else number(step.value),
        "ci95": None if step is None else [step.low, step.high],
        "rounds": used,
        "rounds_without_exits": len(with_kicks[0]) - used,
    }
