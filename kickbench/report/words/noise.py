# SPDX-License-Identifier: Apache-2.0
"""Describes noise: what it costs each method against the same case without it, and what there was.

The cases follow each other, so their difference is not paired. The differences between methods are
paired in each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from kickbench.compare.runs import PARAMETERS
from kickbench.numbers import listed, measured, plural, significant, whole
from kickbench.report.words.differences import amount, interval, is_seen, magnitude
from kickbench.report.words.names import (
    Summary,
    crowded,
    finished,
    label,
    nanoseconds,
    noise_name,
)
from kickbench.scenario.kinds import NOISE
from kickbench.stats.independent import Estimate, difference

_MOST_PAIRS = 4
"""Pairs of cases that have a sentence; the table has all."""

_LEVELS: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = {
    "exits": (
        (
            "a quiet exit",
            ("estimates", "quiet_ns_per_exit", "value"),
            ("estimates", "quiet_ns_per_exit", "ci95"),
        ),
        (
            "an exit on average",
            ("estimates", "ns_per_exit", "value"),
            ("estimates", "ns_per_exit", "ci95"),
        ),
    ),
    "kick": (
        ("a kick at p50", ("latency_ns", "p50"), ("latency_ci95", "p50")),
        ("a kick at p99", ("latency_ns", "p99"), ("latency_ci95", "p99")),
    ),
    "pause_all": (
        ("a pause at p50", ("last_ns", "p50"), ("last_ci95", "p50")),
        ("a pause at p99", ("last_ns", "p99"), ("last_ci95", "p99")),
    ),
}
"""By kind, what noise may make longer: its name, and where its value and its interval are."""

_ALIKE = [key for key in PARAMETERS if key not in NOISE]
"""What the case without noise must have in common with the one with it."""


def answer_noise(summary: Summary, kind: str, oversubscribed: Collection[str]) -> list[str]:
    """What noise costs in the cases of a kind, and how much of it there was; nothing without it."""
    noisy = [case for case in finished(summary, kind) if noise_name(case)]
    pairs = [(case, silent) for case in noisy if (silent := _without(summary, case)) is not None]
    answers = [_compared(summary, *pair, oversubscribed) for pair in pairs[:_MOST_PAIRS]]
    if len(pairs) > _MOST_PAIRS:
        answers.append(f"The table has {len(pairs) - _MOST_PAIRS} more cases with noise.")
    return answers + _delivered(noisy) + _taken(noisy)


def _without(summary: Summary, case: Summary) -> Summary | None:
    """The finished case that differs from this one only in having no noise."""
    return next(
        (
            one
            for one in finished(summary, case["kind"])
            if not noise_name(one) and all(one.get(key) == case.get(key) for key in _ALIKE)
        ),
        None,
    )


def _compared(
    summary: Summary, noisy: Summary, silent: Summary, oversubscribed: Collection[str]
) -> str:
    quiet = {**silent, **dict.fromkeys(NOISE)}
    where = label(summary, quiet).removesuffix(", no noise") + crowded(noisy, oversubscribed)
    if noisy["kind"] == "race":
        clauses = [_lost(noisy, silent)]
    else:
        clauses = [
            clause
            for level in _LEVELS[noisy["kind"]]
            if (clause := _level(nanoseconds(summary), level, noisy, silent))
        ]
    what = "; ".join(clauses) or "nothing can be compared"
    return f"With {noise_name(noisy)}, against none ({where}): {what}."


def _lost(noisy: Summary, silent: Summary) -> str:
    """E.g. "flag_signal lost 3 of 4,000 kicks instead of 196 of 199"."""
    shown, less = [], False
    for method, figures in noisy["methods"].items():
        before = silent["methods"].get(method, {"lost": 0, "sent": 0})
        if figures["lost"] or before["lost"]:
            shown.append(
                f"{method} lost {whole(figures['lost'])} of {plural(figures['sent'], 'kick')} "
                f"instead of {whole(before['lost'])} of {whole(before['sent'])}"
            )
            less = less or figures["lost"] * before["sent"] < before["lost"] * figures["sent"]
    if not shown:
        return "no kick was lost with it or without it"
    hidden = " (a foreign signal ends KVM_RUN too, so a kick that would be lost is late)"
    return listed(shown) + (hidden if less and noisy["foreign_signals_hz"] else "")


def _level(
    unit: str,
    level: tuple[str, tuple[str, ...], tuple[str, ...]],
    noisy: Summary,
    silent: Summary,
) -> str:
    """E.g. "an exit on average takes 93 ns more (80 to 106) with sigmask"; "" without intervals."""
    name, *paths = level
    changed, unseen = [], []
    for method in noisy["methods"]:
        estimates = [_estimate(case, method, *paths) for case in (noisy, silent)]
        if estimates[0] is None or estimates[1] is None:
            continue
        step = difference(estimates[0], estimates[1])
        found: Summary = {"diff": step.value, "ci95": [step.low, step.high], "rounds": 2**31}
        if is_seen(found):
            word, size = magnitude(found)
            changed.append(f"{amount(size, unit)} {word} {interval(size)} with {method}")
        else:
            _, low, high = measured(found["diff"], found["ci95"])
            unseen.append(f"{method} (95 % CI {low} to {high} {unit})")
    parts = [f"{name} takes {listed(changed)}"] if changed else []
    if unseen:
        begin = "no difference seen" if changed else f"no difference of {name} seen"
        parts.append(f"{begin} for {listed(unseen)}")
    return ", ".join(parts)


def _estimate(
    case: Summary, method: str, value: Sequence[str], ends: Sequence[str]
) -> Estimate | None:
    def at(path: Sequence[str]) -> Any:
        found: Any = case["methods"].get(method)
        for key in path:
            found = None if found is None else found.get(key)
        return found

    if at(value) is None or at(ends) is None:
        return None
    low, high = at(ends)
    return Estimate(at(value), low, high, case.get("processes", 0))


def _total(cases: Sequence[Summary], name: str) -> int:
    return sum(
        figures.get("noise", {}).get(name, 0)
        for case in cases
        for figures in case["methods"].values()
    )


def _delivered(noisy: Sequence[Summary]) -> list[str]:
    """A foreign signal that ends KVM_RUN is a spurious exit, and every protocol must bear it."""
    cases = [case for case in noisy if case["foreign_signals_hz"]]
    if not cases:
        return []
    taken, spurious = _total(cases, "foreign_taken"), _total(cases, "spurious")
    if not taken:
        return ["No foreign signal was delivered, so nothing is known of their cost."]
    said = (
        f"Foreign signals delivered: {whole(taken)}. A foreign signal is no kick: KVM_RUN returned "
        f"{plural(spurious, 'time')} with none pending."
    )
    return [said]


def _taken(noisy: Sequence[Summary]) -> list[str]:
    cases = [case for case in noisy if case["siglock_threads"]]
    if not cases:
        return []
    seconds = sum(
        figures.get("noise", {}).get("seconds", 0) * case["siglock_threads"]
        for case in cases
        for figures in case["methods"].values()
    )
    taken = _total(cases, "siglock_taken")
    rate = f", {significant(taken / seconds, 3)} times a second each" if seconds else ""
    return [f"The siglock threads took siglock {plural(taken, 'time')}{rate}."]
