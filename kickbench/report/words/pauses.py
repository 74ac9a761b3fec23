# SPDX-License-Identifier: Apache-2.0
"""Describes what changes a pause: its order, and whether a vCPU ran since the pause before.

The latency of pauses itself is in :mod:`kickbench.report.words.kicks`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kickbench.numbers import listed, significant, whole
from kickbench.report.words.names import Summary, crowded, duration, finished, label

_ALIKE = (
    "program",
    "irqchip",
    "vcpus",
    "placement_spec",
    "transport",
    "pause_gap_us",
    "foreign_signals_hz",
    "siglock_threads",
    "siglock_hz",
)


_AFTER = {
    "clock": "telling the guest's clock (KVM_KVMCLOCK_CTRL) takes",
    "state": "reading the vCPUs' state takes",
}
"""What may follow a pause, in its order."""


def answer_orders(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """How much longer a pause takes whose vCPUs are kicked one by one.

    It is of the pauses with the most vCPUs that had CPUs for them.
    """
    cases = finished(summary, "pause_all")
    pairs = [
        (serial, parallel)
        for serial in cases
        for parallel in cases
        if (serial["order"], parallel["order"]) == ("serial", "parallel")
        and all(serial[key] == parallel[key] for key in _ALIKE)
    ]
    if not pairs:
        return []
    serial, parallel = max(pairs, key=lambda pair: _importance(pair[0], oversubscribed))
    shown = []
    for method in serial["methods"]:
        long, short = (
            case["methods"].get(method, {}).get("last_ns", {}).get("p50")
            for case in (serial, parallel)
        )
        if long and short:
            shown.append(
                f"{duration(summary, long)} instead of {duration(summary, short)} with {method} "
                f"({significant(long / short, 2)} times)"
            )
    if not shown:
        return []
    where = label(summary, {**parallel, "order": None}, of_kind=False)
    where += crowded(parallel, oversubscribed)
    return [f"Kicked one at a time, all vCPUs are paused after {listed(shown)}, p50 ({where})."]


def _importance(case: Summary, oversubscribed: Collection[str]) -> tuple[bool, int, bool]:
    return case["id"] not in oversubscribed, int(case["vcpus"]), case["pause_gap_us"] > 0


def answer_back_to_back(summary: Summary) -> list[str]:
    """How many pauses found a vCPU that had not run since the pause before, by the gap."""
    cases = [case for case in finished(summary, "pause_all") if case["pause_gap_us"] == 0]
    counts = _not_run(cases)
    if not counts:
        return []
    shown = []
    for method, (found, pauses) in counts.items():
        share = significant(100 * found / pauses, 2)
        shown.append(f"{whole(found)} of {whole(pauses)} ({share} %) with {method}")
    what = "a pause found a vCPU whose guest had not run since the pause before"
    return [f"Back to back, {what}: {listed(shown)}."]


def answer_after(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """What follows a pause, and the share of the kicks in the whole.

    It is of the pauses with the most vCPUs that had CPUs for them.
    """
    cases = [case for case in finished(summary, "pause_all") if case["after"]]
    if not cases:
        return []
    case = max(cases, key=lambda case: _importance(case, oversubscribed))
    figures = case["methods"][case["baseline"]]
    after = figures.get("after_ns") or {}
    shown = [
        f"{words} {duration(summary, after[name]['p50'])}"
        for name, words in _AFTER.items()
        if after.get(name)
    ]
    if not shown:
        return []
    share = f"{100 * after['pause_share']:.0f} %"
    where = f"{case['baseline']}, p50, {label(summary, case, of_kind=False)}"
    pause = duration(summary, figures["last_ns"]["p50"])
    whole_of_it = f"the kicks are {share} of the whole"
    return [f"After a pause of {pause}, {listed(shown)} ({where}): {whole_of_it}."]


def _not_run(cases: Sequence[Summary]) -> dict[str, tuple[int, int]]:
    """By method, the pauses that found such a vCPU, and all pauses."""
    counts: dict[str, tuple[int, int]] = {}
    for case in cases:
        for method, figures in case["methods"].items():
            pauses = figures["n"] + figures["rescued"]
            if pauses and (not_run := figures.get("not_run")):
                found, of = counts.get(method, (0, 0))
                counts[method] = (found + not_run["pauses"], of + pauses)
    return counts
