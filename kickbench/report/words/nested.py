# SPDX-License-Identifier: Apache-2.0
"""Describes nesting: whether L1 got its event at once, and L2 its injection.

An entry of the table of kinds in :mod:`kickbench.report.words.verdict`, and the alarm if an
injection was lost or doubled. :mod:`kickbench.summary.nested` defines "at once".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kickbench.numbers import listed, measured, plural, significant, whole
from kickbench.report.words.differences import amount, contrasts, interval, is_seen, magnitude
from kickbench.report.words.names import (
    Summary,
    duration,
    exit_reason_name,
    finished,
    label,
    nanoseconds,
)
from kickbench.text import printable

PENDING, WITHOUT, PLAIN, OUTSIDE = ("pending", "pending_no_injection", "plain", "asynchronous")

MOST_LATE = 0.01
"""The share of events that may be late while the answer still says "at once"."""


def answer_nested(summary: Summary, _: Collection[str]) -> list[str]:
    """Whether L0 entered L2 as it must, and left again because of L1's event; and the cost."""
    cases = [case for case in finished(summary, "nested") if _iterations(case, PENDING)]
    if not cases:
        return ["No iteration with a pending event ended as expected, so there is no answer."]
    answers = [_at_once(summary, case) for case in cases]
    if any(is_late(case["methods"][PENDING]) for case in cases):
        answers += _below(summary)
    case = cases[0]
    answers += _without_injection(summary, case)
    answers += _injection(summary, case)
    answers += _floor(summary, case)
    answers += _from_outside(summary, case)
    answers += _entries(case)
    answers += [_kicked(summary, case) for case in cases if case["kick_rate_hz"] is not None]
    return answers + _unexpected(cases)


def broken_injections(summary: Summary) -> list[str]:
    """An alarm per case in which L2 did not get its injections once each."""
    alarms = []
    for case in finished(summary, "nested"):
        for finding in case["findings"]:
            if finding["what"] not in ("lost", "doubled"):
                continue
            what = "LOST" if finding["what"] == "lost" else "DOUBLED"
            count, of = whole(finding["count"]), plural(int(finding["of"]), "iteration")
            where = f"{finding['method']}, {label(summary, case)}"
            alarms.append(f"L0 {what} L1's injection into L2 in {count} of {of} ({where}).")
    return alarms


def is_late(figures: Summary) -> bool | None:
    """Whether L1's events were late in these figures; None if it is not known."""
    if figures["late"] is None or not figures["judged"]:
        return None
    return bool(figures["late"] > MOST_LATE * figures["judged"])


# --- sentences ---------------------------------------------------------------------------------


def _iterations(case: Summary, method: str) -> int:
    return int(case["methods"].get(method, {}).get("n", 0))


def _at_once(summary: Summary, case: Summary) -> str:
    """The answer: the request did its job, or what happened instead."""
    figures = case["methods"][PENDING]
    late = is_late(figures)
    where = label(summary, case)
    delivered, cost = _delivered(figures), _cost(summary, case, PENDING)
    if late is None:
        return (
            f"L0 entered L2 and {delivered}; L2 got {_work(figures)} done. It is not known how "
            f"long a turn takes, so whether L1's event was late is not known either; {cost}, "
            f"{where}."
        )
    if late:
        return (
            f"L1's event was late: L2 got {_work(figures)} done before L1 had it, in "
            f"{whole(figures['late'])} of {plural(figures['judged'], 'iteration')} more than the "
            f"{whole(case['nested']['at_once_turns'])} turns that count as at once; L0 "
            f"{delivered}; "
            f"{cost}, {where}."
        )
    some = f", and {whole(figures['late'])} events were late" if figures["late"] else ""
    return (
        f"L0 entered L2, {delivered}, and left at once: L2 got {_work(figures)} done{some}; "
        f"{cost}, {where}."
    )


def _below(summary: Summary) -> list[str]:
    """Late events may be the fault of what runs below this host."""
    virtualization = (summary.get("environment") or {}).get("virtualization") or {}
    if summary["emulated"] or not (name := virtualization.get("hypervisor")):
        return []
    said = (
        f"This host is itself a guest ({printable(str(name))}). What makes L2 leave at once may "
        "come late there: L0's IPI to its own CPU with SVM, a timer of the CPU with VMX. That is "
        "no fault of this host's kernel."
    )
    return [said]


def _delivered(figures: Summary) -> str:
    injected, lost, doubled = figures["injected"], figures["lost"], figures["doubled"]
    if not injected:
        return "was asked to deliver no injection"
    if not lost and not doubled:
        return f"delivered each of {plural(injected, 'injection')} once"
    wrong = [f"{whole(lost)} never"] if lost else []
    wrong += [f"{whole(doubled)} more than once"] if doubled else []
    return f"delivered {listed(wrong)} of {plural(injected, 'injection')}"


def _work(figures: Summary) -> str:
    """E.g. "no turn of its loop", or "a median of 1.2 million turns of its loop (p99 ...)"."""
    work = figures["work"]
    if not work["max"]:
        return "no turn of its loop"
    numbers = {name: whole(work[name]) for name in ("p50", "p99", "max")}
    return (
        f"a median of {numbers['p50']} turns of its loop (p99 {numbers['p99']}, at most "
        f"{numbers['max']})"
    )


def _cost(summary: Summary, case: Summary, method: str) -> str:
    """E.g. "a round trip takes 840 ns more than plain at p50 (95 % CI ...)"."""
    contrast = contrasts(case, "round_trip_p50_ns").get(method)
    p50 = case["methods"][method]["round_trip_ns"]["p50"]
    if contrast is None:
        return f"a round trip takes {duration(summary, p50)} at p50"
    more = _more(summary, contrast)
    return f"a round trip {more} {case['baseline']} at p50 {_ends(contrast)}"


def _more(summary: Summary, contrast: Summary) -> str:
    if not is_seen(contrast):
        return "is not seen to differ from"
    word, size = magnitude(contrast)
    return f"takes {amount(size, nanoseconds(summary))} {word} than"


def _ends(contrast: Summary) -> str:
    if is_seen(contrast):
        return interval(magnitude(contrast)[1])
    _, low, high = measured(contrast["diff"], contrast["ci95"])
    return f"(95 % CI {low} to {high})"


def _entries(case: Summary) -> list[str]:
    """What the host's kernel said of the immediate exits."""
    if (found := case["nested"]["entries"]) is None:
        return []
    said = (
        f"Of {plural(found['all'], 'entry', 'entries')} of L1's vCPU in "
        f"{plural(found['iterations'], 'iteration')} of {PENDING}, {whole(found['at_once'])} left "
        "at once by KVM's request, as its tracepoint kvm_entry says."
    )
    return [said]


def _without_injection(summary: Summary, case: Summary) -> list[str]:
    if not _iterations(case, WITHOUT):
        return []
    figures = case["methods"][WITHOUT]
    late = is_late(figures)
    when = {True: "L1's event was late as well", False: "L0 left at once as well", None: ""}[late]
    how = f"{when}: " if when else ""
    return [
        f"Without an injection {how}L2 got {_work(figures)} done; {_cost(summary, case, WITHOUT)}."
    ]


def _injection(summary: Summary, case: Summary) -> list[str]:
    contrast = contrasts(case, "injection_p50_ns").get(PENDING)
    if contrast is None:
        return []
    more = _more(summary, contrast)
    return [f"With an injection a round trip {more} one without at p50 {_ends(contrast)}."]


def _floor(summary: Summary, case: Summary) -> list[str]:
    times = case["methods"].get(PLAIN, {}).get("round_trip_ns", {})
    if times.get("p50") is None:
        return []
    unit, paging = nanoseconds(summary), case["nested"]["nested_paging"]
    how = {True: ", with nested paging", False: ", without nested paging", None: ""}[paging]
    numbers = [significant(times[name]) for name in ("p50", "p99")]
    return [f"The floor is a plain round trip of {numbers[0]} {unit} (p99 {numbers[1]}){how}."]


def _from_outside(summary: Summary, case: Summary) -> list[str]:
    times = case["methods"].get(OUTSIDE, {}).get("latency_ns", {})
    if times.get("p50") is None:
        return []
    unit = nanoseconds(summary)
    numbers = [significant(times[name]) for name in ("p50", "p99")]
    took = f"{numbers[0]} {unit} (p99 {numbers[1]})"
    return [f"An interrupt that another thread sends while L2 works reaches L1 after {took}."]


def _kicked(summary: Summary, case: Summary) -> str:
    """What the kicks of L1's vCPU did to the injections of all ways."""
    counts = {
        name: sum(figures[name] for figures in case["methods"].values())
        for name in ("injected", "lost", "doubled")
    }
    kicks = plural(case["nested"]["kicks"], "kick")
    return f"Under {kicks} of L1's vCPU, L0 {_delivered(counts)}, {label(summary, case)}."


def _unexpected(cases: Sequence[Summary]) -> list[str]:
    shown = []
    for case in cases:
        for method, figures in case["methods"].items():
            exits = [
                f"{whole(count)} {exit_reason_name(case, reason)}"
                for reason, count in figures["unexpected"].items()
            ]
            if exits:
                shown.append(f"{method} {listed(exits)}")
    return (
        [f"Exits for an unexpected reason, which are in no other figure: {listed(shown)}."]
        if shown
        else []
    )
