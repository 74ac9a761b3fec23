# SPDX-License-Identifier: Apache-2.0
"""Describes kickers that contend: does a kick cost its sender more while others kick the vCPU?

Only calls that overlap contend. Kickers that do not have a CPU each take turns, and their times
then show nothing of what they share. So each number of kickers comes with the share of calls that
overlapped. The figure is in :mod:`kickbench.report.figures.contention`.
"""

from __future__ import annotations

from collections.abc import Sequence

from kickbench.numbers import listed, measured, plural, significant
from kickbench.report.words.differences import amount, interval
from kickbench.report.words.names import Summary, finished, label, nanoseconds
from kickbench.scenario.kinds import NOISE
from kickbench.stats.independent import Estimate, difference

_SAME = ("vcpus", "placement", "irqchip", "transport", "state", "program", *NOISE)

MOSTLY = 0.5
"""The share of calls that must overlap with another's, for kickers to contend."""


def series_of_kickers(summary: Summary) -> list[list[Summary]]:
    """The cases that differ in the number of kickers only, sorted by it: lists of two or more."""
    found: dict[tuple[object, ...], dict[int, Summary]] = {}
    for case in finished(summary, "kick"):
        if senders(case):
            key = tuple(case[name] for name in _SAME)
            found.setdefault(key, {}).setdefault(case["kickers"], case)
    return [[cases[n] for n in sorted(cases)] for cases in found.values() if len(cases) > 1]


def senders(case: Summary) -> list[str]:
    """The methods whose calls were timed; none in a summary of an earlier kickbench."""
    return [
        method
        for method, figures in case["methods"].items()
        if figures.get("send_ns", {}).get("p50") is not None
    ]


def overlapping(case: Summary) -> float:
    """The share of all methods' calls that overlapped with another kicker's."""
    sends = [case["methods"][method]["sends"] for method in senders(case)]
    calls = sum(found["n"] for found in sends)
    return float(sum((found["overlapping"] or 0.0) * found["n"] for found in sends) / max(1, calls))


def contends(case: Summary) -> bool:
    """Whether its kickers contended. A single one counts too: it is the base of the comparison."""
    return bool(case["kickers"] == 1 or overlapping(case) >= MOSTLY)


def answer_contention(summary: Summary) -> list[str]:
    """A sentence per series: how much more a kick costs its sender, for each protocol."""
    return [answer(summary, cases) for cases in series_of_kickers(summary)]


def answer(summary: Summary, cases: Sequence[Summary]) -> str:
    """Compares the first number of kickers with the largest number that contended."""
    first, where = cases[0], place_of(summary, cases[0])
    contending = [case for case in cases[1:] if contends(case)]
    if not contending:
        most = max(cases[1:], key=overlapping)
        return (
            f"This run did not test whether kickers contend, {where}: only "
            f"{_percent(overlapping(most))} of the calls of {most['kickers']} kickers overlapped. "
            "Each kicker needs a CPU of its own, and so does the vCPU."
        )
    last, unit = contending[-1], nanoseconds(summary)
    grown, unseen = [], []
    for method in senders(first):
        if method not in senders(last):
            continue
        step = _step(first, last, method)
        alone = significant(first["methods"][method]["send_ns"]["p50"])
        if step is None:
            unseen.append(f"{method} (no interval)")
        elif step["ci95"][0] > 0 or step["ci95"][1] < 0:
            word = "more" if step["diff"] > 0 else "less"
            low, high = sorted(map(abs, step["ci95"]))
            size = {**step, "diff": abs(step["diff"]), "ci95": [low, high]}
            grown.append(f"{method} {amount(size, unit)} {word} than {alone} {interval(size)}")
        else:
            _, low_end, high_end = measured(step["diff"], step["ci95"])
            unseen.append(f"{method} (95 % CI {low_end} to {high_end} {unit})")
    parts = [listed(grown)] if grown else []
    if unseen:
        parts.append(f"no difference seen for {listed(unseen)}")
    kickers = plural(last["kickers"], "kicker")
    return (
        f"With {kickers} instead of {first['kickers']}, {where} ({_percent(overlapping(last))} of "
        f"the calls overlapped), a kick costs its sender at p50: {'; '.join(parts)}."
    )


def _step(first: Summary, last: Summary, method: str) -> Summary | None:
    """The difference between two cases. It is not paired, for the cases follow each other."""
    estimates = []
    for case in (last, first):
        figures = case["methods"][method]
        ends = figures["send_ci95"]["p50"]
        if ends is None:
            return None
        low, high = ends
        value, processes = figures["send_ns"]["p50"], case.get("processes", 0)
        estimates.append(Estimate(value, low, high, processes))
    found = difference(estimates[0], estimates[1])
    return {"diff": found.value, "ci95": [found.low, found.high], "rounds": 2**31}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def place_of(summary: Summary, case: Summary) -> str:
    """The conditions that all cases of a series share, for a title."""
    return label(summary, {**case, "kickers": None})
