# SPDX-License-Identifier: Apache-2.0
"""What a kick costs, all in: from exits at full speed with kicks, and the same without.

At full speed a guest does nothing but exit, so that whatever a kick takes of a vCPU's time is
missing from its exits: the signal and its handler, the entry that a stale signal or byte spoils,
what the protocol does then. The exits' own cost is taken out with the case that has no kicks.
Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kickbench.results.figures import (
    Floats,
    Ints,
    bounds,
    by_process,
    contrast_interval,
    number,
)
from kickbench.stats.independent import Estimate, difference

METRIC = "ns_per_kick"

Times = tuple[Ints, Floats]
"""The process of each round, and ns per exit (rounds x methods; NaN: the round had no exit)."""

_ALIKE = (
    "program", "irqchip", "vcpus", "exit_rate_hz", "arrival", "placement_spec", "baseline"
)  # fmt: skip


def pair_with_quiet(
    cases: Sequence[Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The cases with figures at full speed that have kicks, each with the one that differs in the
    kicks only, and has none. Those without such a partner are left out.

    A paced guest is left out, too: a kick that meets it between two exits takes no time of theirs.
    """
    done = [
        case
        for case in cases
        if case["kind"] == "exits" and case["methods"] and case["exit_rate_hz"] is None
    ]
    return [
        (kicked, quiet)
        for kicked in done
        for quiet in done
        if kicked["kick_rate_hz"] is not None
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
    x (e - q). The two methods are subtracted round by round in each case, weighted with their x;
    the cases are independent, and so are the two intervals that the result's is made of. A pair
    of which one got no kicks has no contrast.
    """
    names = list(kicked["methods"])
    weight = {name: _exits_per_kick(kicked["methods"][name]) for name in names}
    found = []
    for method, baseline in pairs:
        weights = (weight[method], weight[baseline])
        if all(weights):
            columns = (names.index(method), names.index(baseline))
            one = _contrast(_weighted(columns, weights), with_kicks, without)
            found.append({"method": method, "baseline": baseline, "metric": METRIC, **one})
    return found


def _exits_per_kick(figures: Mapping[str, Any]) -> float:
    sent = (figures.get("kicks") or {}).get("sent") or 0
    return float(figures["n"] / sent) if sent else 0.0


def _weighted(
    columns: tuple[int, int], weights: tuple[float, float]
) -> Callable[[Times], list[Floats]]:
    def differences(times: Times) -> list[Floats]:
        process, ns = times
        method, baseline = (ns[:, at] * weight for at, weight in zip(columns, weights, strict=True))
        return by_process(process, method - baseline)

    return differences


def _contrast(
    differences: Callable[[Times], list[Floats]], with_kicks: Times, without: Times
) -> dict[str, Any]:
    parts = [differences(with_kicks), differences(without)]
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
