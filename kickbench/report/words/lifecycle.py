# SPDX-License-Identifier: Apache-2.0
"""Describes the kicks of fresh VMs: which were lost, killed the VMM, or poisoned the VM, and when.

An entry of the table of kinds in :mod:`kickbench.report.words.verdict`, and its alarms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kickbench.engine.failures import FIRST_RUN_BUG
from kickbench.numbers import listed, plural, whole
from kickbench.report.words.kicks import at_most
from kickbench.report.words.names import Summary, finished
from kickbench.scenario.kinds import MOMENTS, moment_name
from kickbench.summary.lifecycle import FAULTS

_WHAT = {
    "late": "late",
    "lost": "lost",
    "refused": "refused",
    "poisoned": "answered, but the VM is poisoned",
    "killed": "fatal: the signal killed the VMM",
}
"""By fault, what a kick was."""

_WHY = {
    "no_handler": "Install the handler before anybody can kick.",
    "thread_end": (
        "A kick that is sent as the thread ends has nobody to answer it: wait for the thread's end "
        "as well."
    ),
    "stale": (
        "Only a pidfd is sure of its thread, and refuses. An id can belong to another thread by "
        "then."
    ),
}
"""By moment at which the VMM must not kick, what follows."""


def answer_lifecycle(summary: Summary, _: Collection[str]) -> list[str]:
    """What became of the kicks: first at the moments at which they must be answered."""
    cases = finished(summary, "lifecycle")
    if not any(figures["sent"] for case in cases for figures in case["methods"].values()):
        return ["No fresh VM was kicked."]
    kept, others = ([case for case in cases if _is_kept(case) is which] for which in (True, False))
    answers = [_kept(kept)] if kept else []
    for moment in dict.fromkeys(case["moment"] for case in others):
        here = [case for case in others if case["moment"] == moment]
        answers += [
            _at(moment, [case for case in here if case["transport"] == transport])
            for transport in dict.fromkeys(case["transport"] for case in here)
        ]
        answers += [_WHY[moment]] if moment in _WHY else []
    return answers


def _is_kept(case: Summary) -> bool:
    moment = MOMENTS.get(str(case["moment"]))
    return moment is not None and moment.kept


def _kept(cases: Sequence[Summary]) -> str:
    """The moments at which a kick must be answered, all in one sentence."""
    sent, _ = _sum(cases)
    when = listed(list(dict.fromkeys(moment_name(case["moment"]) for case in cases)))
    head = f"Fresh VMs kicked {when}"
    faults = [f"{_WHAT[fault]} {who}" for fault in FAULTS if (who := _who(cases, fault))]
    if faults:
        return f"{head}: of {plural(sent, 'kick')}, {'; '.join(faults)}. The table has the bounds."
    bounds: dict[str, float] = {}
    for case in cases:
        if (bound := _worst_bound(case)) is not None:
            moment = moment_name(case["moment"])
            bounds[moment] = max(bound, bounds.get(moment, 0.0))
    each = listed([f"{at_most(bound)} {moment}" for moment, bound in bounds.items()])
    return (
        f"{head}: of {plural(sent, 'kick')} none was late, lost or refused, killed the VMM or "
        f"poisoned the VM{f'; at most {each} could be, of any protocol (95 %)' if each else ''}."
    )


def _worst_bound(case: Summary) -> float | None:
    """The bound of the method that had the fewest kicks in time."""
    found = [figures["upper95"]["lost"] for figures in case["methods"].values()]
    return max((bound for bound in found if bound is not None), default=None)


def _at(moment: str, cases: Sequence[Summary]) -> str:
    """E.g. "Kicked before the signal has a handler (tgkill), of 40 kicks 40 were fatal"."""
    sent, counts = _sum(cases)
    shown = [
        f"{whole(counts[fate])} {'was' if counts[fate] == 1 else 'were'} {_WHAT.get(fate, fate)}"
        for fate in ("answered", *FAULTS)
        if counts[fate]
    ]
    transport = cases[0]["transport"]
    return (
        f"Kicked {moment_name(moment)} ({transport}): of {plural(sent, 'kick')}, {listed(shown)}."
    )


def _sum(cases: Sequence[Summary]) -> tuple[int, dict[str, int]]:
    figures = [figures for case in cases for figures in case["methods"].values()]
    counts = {fate: sum(one[fate] for one in figures) for fate in ("answered", *FAULTS)}
    return sum(one["sent"] for one in figures), counts


def _who(cases: Sequence[Summary], fault: str) -> str:
    """The methods whose kicks had a fault, and how many, e.g. "3 of 100 of sigmask"."""
    shown = []
    for method in dict.fromkeys(method for case in cases for method in case["methods"]):
        figures = [case["methods"][method] for case in cases if method in case["methods"]]
        if count := sum(one[fault] for one in figures):
            shown.append(
                f"{whole(count)} of {whole(sum(one['sent'] for one in figures))} ({method})"
            )
    return listed(shown)


# --- alarms ------------------------------------------------------------------------------------


def harmed(summary: Summary) -> list[str]:
    """An alarm for VMs that were poisoned, and for VMMs that were killed when they need not be."""
    cases = finished(summary, "lifecycle")
    alarms = [_poisoned(cases, when)] if (when := _when(cases, "poisoned")) else []
    if when := _when([case for case in cases if _is_kept(case)], "killed"):
        alarms.append(f"A kick KILLED the VMM, {when}.")
    return alarms


def _when(cases: Sequence[Summary], fault: str) -> str:
    """E.g. "at protocol entry: 3 of 100 (sigmask); in its first KVM_RUN: 2 of 100 (sigmask)"."""
    by_moment = {
        moment: _who([case for case in cases if case["moment"] == moment], fault)
        for moment in dict.fromkeys(case["moment"] for case in cases)
    }
    found = [f"{moment_name(moment)}: {who}" for moment, who in by_moment.items() if who]
    return "; ".join(found)


def _poisoned(cases: Sequence[Summary], when: str) -> str:
    figures: list[Mapping[str, object]] = [f for case in cases for f in case["methods"].values()]
    errors = list(dict.fromkeys(str(f["poisoned_by"]) for f in figures if f["poisoned_by"]))
    which = "This" if len(errors) == 1 else "ENOMEM"
    why = f" {which} is a bug of the kernel: {FIRST_RUN_BUG}." if "ENOMEM" in errors else ""
    return f"A kick POISONED the VM, {when}. Every later KVM_RUN failed ({listed(errors)}).{why}"
