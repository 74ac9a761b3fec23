# SPDX-License-Identifier: Apache-2.0
"""Describes hand-overs: what a cache line takes from one CPU to another, by where the CPUs are.

An entry of the table of kinds in :mod:`kickbench.report.words.verdict`.
"""

from __future__ import annotations

from collections.abc import Collection

from kickbench.numbers import measured, plural, significant
from kickbench.report.words.names import Summary, finished, nanoseconds

GROUPS = {
    "same_node": "between cores of one node",
    "other_node": "between cores of different nodes",
    "siblings": "between two threads of a core",
}
"""The groups of pairs in a sentence, the most common first."""

APART = 1.5
"""A sentence tells of pairs whose slowest process took more than this times their fastest one."""


def answer_handover(summary: Summary, _: Collection[str]) -> list[str]:
    """What a hand-over takes in each group of pairs, its extremes, and the loop without one."""
    answers = []
    for case in finished(summary, "handover"):
        where = f" ({case['placement']})" if len(finished(summary, "handover")) > 1 else ""
        said = [_group(summary, case, group) for group in GROUPS if _measured(case, group)]
        if not said:
            answers.append(f"No pair of CPUs has a hand-over time, so there is no answer{where}.")
            continue
        answers.append(f"Handing a cache line from one CPU to another takes {said[0]}{where}.")
        answers += [f"It takes {text}{where}." for text in said[1:]]
        answers += _extremes(summary, case) + _apart(summary, case) + _alone(summary, case)
    return answers


def pair_name(pair: Summary) -> str:
    """E.g. "CPUs 0 and 5"."""
    return f"CPUs {pair['cpus'][0]} and {pair['cpus'][1]}"


def time_of(summary: Summary, level: Summary) -> str:
    """E.g. "31.9 ns (95 % CI 31.8 to 32.0)"; without an interval only the time."""
    unit = nanoseconds(summary)
    if level["ci95"] is None:
        return f"{significant(level['value'])} {unit}"
    value, low, high = measured(level["value"], level["ci95"])
    return f"{value} {unit} (95 % CI {low} to {high})"


def timed_pairs(case: Summary) -> list[Summary]:
    """The pairs of a case that have a time, the fastest first."""
    pairs = [pair for pair in case["handover"]["pairs"] if pair["value"] is not None]
    return sorted(pairs, key=lambda pair: float(pair["value"]))


def _measured(case: Summary, group: str) -> bool:
    return case["handover"]["medians"][group]["value"] is not None


def _group(summary: Summary, case: Summary, group: str) -> str:
    found = case["handover"]["medians"][group]
    of = f", the median of {plural(found['pairs'], 'pair')}" if found["pairs"] > 1 else ""
    return f"{time_of(summary, found)} {GROUPS[group]}{of}"


def _extremes(summary: Summary, case: Summary) -> list[str]:
    pairs = timed_pairs(case)
    if len(pairs) < 2:
        return []
    ends = (pairs[0], pairs[-1])
    fastest, slowest = (f"{pair_name(pair)} with {time_of(summary, pair)}" for pair in ends)
    return [f"The fastest pair is {fastest}, and the slowest {slowest}."]


def _apart(summary: Summary, case: Summary) -> list[str]:
    """The pairs that one process found elsewhere than another: their CPUs moved."""
    pairs = timed_pairs(case)
    moved = [pair for pair in pairs if _spread(pair) > APART]
    if not moved:
        return []
    most = max(moved, key=_spread)
    low, high = (significant(ns, 3) for ns in most["by_process"])
    how_many = "" if len(pairs) == 1 else f" ({len(moved)} of {plural(len(pairs), 'pair')} differ)"
    least = f"{pair_name(most)} took {low} {nanoseconds(summary)} in one and {high} in another"
    why = "A hypervisor that moves virtual CPUs to other cores does that."
    return [f"Processes differ: {least}{how_many}. {why}"]


def _spread(pair: Summary) -> float:
    """The slowest process over the fastest; 1 if it is not known."""
    low, high = pair["by_process"] or (0.0, 0.0)
    return float(high / low) if low > 0 else 1.0


def _alone(summary: Summary, case: Summary) -> list[str]:
    estimate = case["methods"].get("alone", {}).get("estimates", {}).get("handover_ns")
    if estimate is None or estimate["value"] is None:
        return []
    time = time_of(summary, estimate)
    return [f"The same loop takes {time} on one CPU alone, where the line stays in its cache."]
