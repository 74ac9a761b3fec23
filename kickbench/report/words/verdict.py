# SPDX-License-Identifier: Apache-2.0
"""Describes a run in words: the answer first, then what limits it.

Everything comes from the summary (``summary.json``). ``show`` and the HTML report print the same
sentences. The sentences are plain text, and can contain foreign text, for example the name of a
placement. The caller makes them safe for its output. The sentences of each kind are in a module of
its own: :mod:`~kickbench.report.words.exits`, :mod:`~kickbench.report.words.kicks`,
:mod:`~kickbench.report.words.nested`, :mod:`~kickbench.report.words.handover`,
:mod:`~kickbench.report.words.lifecycle` and :mod:`~kickbench.report.words.observed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kickbench.numbers import listed, plural, significant, whole
from kickbench.report.words import environment
from kickbench.report.words.accesses import broken_accesses, done_once
from kickbench.report.words.differences import (
    HEADLINES,
    amount,
    contrasts,
    controls,
    interval,
    is_seen,
    magnitude,
    per,
)
from kickbench.report.words.exits import answer_exits, kicks_costs, stood_still
from kickbench.report.words.handover import answer_handover
from kickbench.report.words.kicks import (
    answer_kick,
    answer_pause,
    answer_race,
    broken_claims,
    floods,
    second_modes,
)
from kickbench.report.words.lifecycle import answer_lifecycle, harmed
from kickbench.report.words.names import Summary, emulation, finished, label, nanoseconds
from kickbench.report.words.nested import answer_nested, broken_injections
from kickbench.report.words.observed import answer_observed, lost_events
from kickbench.scenario.kinds import FIGURES

_EXITS_OF = re.compile(r"([0-9]{1,18}) of ([0-9]{1,18}) exits")
_REACHED = re.compile(r"(?<=, reached )[0-9][0-9,]{0,17}(?=: )")
"""The counts in a warning, which differ from process to process."""

_TIMES_OF_KICKS = {"kick": "kick latencies", "pause_all": "pauses"}

_MOST_OF_THE_FIRST = 3
"""Sentences about the first kind in the verdict of a run of several kinds. Each other kind has
one."""


@dataclass(frozen=True)
class Verdict:
    """What a run found. ``alarms`` come before everything, and are empty for a sound run.

    ``answer`` is one sentence. ``more`` says how the answer changes, and why to believe it.
    ``trusted`` is None if the A/A control cannot tell whether the differences seen are real.
    """

    alarms: tuple[str, ...]
    answer: str
    more: tuple[str, ...]
    trusted: bool | None

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdict line by line, all alarms together in the first."""
        return (*([" ".join(self.alarms)] if self.alarms else []), self.answer, *self.more)


@dataclass(frozen=True)
class Note:
    """Something that disturbed or limits a run: what it is, and what to do ("": nothing)."""

    text: str
    advice: str


@dataclass(frozen=True)
class LeftOut:
    """The cases without figures that share a status and a reason."""

    status: str
    reason: str
    cases: tuple[str, ...]


# --- the verdict -------------------------------------------------------------------------------


def verdict(summary: Summary, oversubscribed: Collection[str] = ()) -> Verdict:
    """The run in a few sentences. ``oversubscribed`` has the ids of cases with too few CPUs.

    If a run has several kinds, each has its most important sentences here. :func:`details` has
    the rest.
    """
    cases = summary["cases"]
    done = finished(summary)
    alarms = []
    if emulated := emulation(summary):
        alarms.append(f"{emulated}: no figure of this run is a time on hardware.")
    alarms += stood_still(summary)
    alarms += floods(summary, oversubscribed)
    alarms += broken_claims(summary, oversubscribed)
    alarms += harmed(summary)
    alarms += second_modes(summary, oversubscribed)
    alarms += broken_accesses(summary)
    alarms += broken_injections(summary)
    alarms += lost_events(summary)
    trusted, control = _control(summary, done, oversubscribed)
    if trusted is False:
        alarms.append(control)
    if not summary["complete"]:
        alarms.append(
            f"Partial: the run is not complete, {len(done)} of {plural(len(cases), 'case')} "
            "finished."
        )
    kinds = kinds_of(summary)
    answers = []
    for kind in kinds:
        most = None if len(kinds) == 1 else _MOST_OF_THE_FIRST if kind == kinds[0] else 1
        answers += ANSWERS[kind](summary, oversubscribed)[:most]
    if len(kinds) > 1:
        answers += kicks_costs(summary, oversubscribed)[:1]
    if not answers:
        answers = ["No case finished, so there is no answer."]
    if older := _older_meaning(summary):
        answers.append(older)
    if crowd := _crowd(summary, oversubscribed):
        answers.append(crowd)
    if control and trusted is not False:
        answers.append(control)
    if placebo := _placebo(summary, done):
        answers.append(placebo)
    if once := done_once(summary):
        answers.append(once)
    if counts := _count_left_out(summary):
        answers.append(counts)
    return Verdict(tuple(alarms), answers[0], tuple(answers[1:]), trusted)


def kinds_of(summary: Summary) -> list[str]:
    """The kinds that have finished cases, in the order of the report."""
    there = {case["kind"] for case in finished(summary)}
    return [kind for kind in ANSWERS if kind in there]


def details(summary: Summary, kind: str, oversubscribed: Collection[str] = ()) -> list[str]:
    """All sentences about a kind; none if the verdict has them all."""
    return ANSWERS[kind](summary, oversubscribed) if len(kinds_of(summary)) > 1 else []


def _control(
    summary: Summary, done: Sequence[Summary], oversubscribed: Collection[str]
) -> tuple[bool | None, str]:
    unit = nanoseconds(summary)
    compared = [case for case in done if case["kind"] in HEADLINES]
    if not compared:
        return None, ""
    judged = [case for case in compared if case["control"]["ok"] is not None]
    wrong = {
        case["id"]: (case, found)
        for case in compared
        for found in controls(case)
        if found["ok"] is False
    }
    if wrong:
        worst, found = max(wrong.values(), key=lambda pair: abs(float(pair[1]["diff"])))
        others = f", and it fails in {len(wrong)} of {plural(len(compared), 'case')}"
        return False, (
            "This run cannot be trusted: the A/A control found "
            f"{worst['baseline']} to differ from itself by {amount(found, unit)} "
            f"{per(found['metric'])} {interval(found)}, "
            f"{label(summary, worst)}{others if len(wrong) > 1 else ''}."
        )
    every = {1: "its only case", 2: "both cases"}.get(len(compared), f"all {len(compared)} cases")
    if not judged:
        return None, (
            "The A/A control cannot tell whether the differences are real: too few rounds, or too "
            f"much noise, in {every}."
        )
    # Cases that wait for CPUs are far noisier than the others, and would hide their noise.
    sound = [case for case in judged if case["id"] not in oversubscribed]
    shown = sound or judged
    largest = []
    for kind in kinds_of(summary):
        if of_kind := [case for case in shown if case["kind"] == kind]:
            worst = max(of_kind, key=_size_of_control)["control"]
            largest.append(f"{amount(magnitude(worst)[1], unit)} {per(worst['metric'])}")
    missing = len(compared) - len(judged)
    where = f"{len(judged)} of {len(compared)} cases" if missing else every
    enough = "case" if len(shown) == 1 else f"{len(shown)} cases"
    among = "" if len(shown) == len(judged) else f"in the {enough} with enough CPUs, "
    others = "the other" if missing == 1 else f"the other {missing}"
    baselines = _baselines(shown)
    differ = "differs from itself" if len(baselines) == 1 else "differ from themselves"
    # A case without a difference needs no control to confirm it, unless all cases are like this.
    enough_cpus = [case for case in compared if case["id"] not in oversubscribed] or compared
    seen = [case for case in enough_cpus if any(map(is_seen, contrasts(case).values()))]
    confirmed = all(case["control"]["ok"] for case in seen or enough_cpus)
    return confirmed or None, (
        f"The A/A control is good in {where}: {among}{listed(baselines)} {differ} "
        f"by at most {listed(largest)}, within the noise."
        + (f" In {others} it cannot tell: too few rounds, or too much noise." if missing else "")
    )


_PLACEBO = "The placebo (the same protocol in another copy of the loop)"


def _placebo(summary: Summary, done: Sequence[Summary]) -> str:
    """What the placebo shows: the differences that come of the code's place in memory."""
    unit = nanoseconds(summary)
    cases = [case for case in done if case.get("placebo", {}).get("metric")]
    judged = [case for case in cases if case["placebo"]["ok"] is not None]
    if not cases:
        return ""
    if not judged:
        return (
            f"{_PLACEBO} cannot tell whether the code's place in memory matters: too few rounds, "
            "or too much noise."
        )
    wrong = [case for case in judged if not case["placebo"]["ok"]]
    worst = max(wrong or judged, key=lambda case: _size_of_control(case, "placebo"))
    found, baseline = worst["placebo"], worst["baseline"]
    if wrong:
        others = f", and it fails in {len(wrong)} of {plural(len(judged), 'case')}"
        return (
            f"{_PLACEBO} differs from {baseline} by {amount(found, unit)} {per(found['metric'])} "
            f"{interval(found)}, {label(summary, worst)}{others if len(wrong) > 1 else ''}: the "
            "code's place in memory alone makes differences of that size."
        )
    where = f"{len(judged)} of {plural(len(cases), 'case')}"
    size = amount(magnitude(found)[1], unit)
    return (
        f"{_PLACEBO} is good in {where}: it differs from {baseline} by at most {size} "
        f"{per(found['metric'])}, within the noise."
    )


def _size_of_control(case: Summary, role: str = "control") -> float:
    return abs(float(case[role]["diff"]))


def _baselines(cases: Iterable[Summary]) -> list[str]:
    return list(dict.fromkeys(str(case["baseline"]) for case in cases))


def _crowd(summary: Summary, oversubscribed: Collection[str]) -> str:
    cases = [case for case in summary["cases"] if case["id"] in oversubscribed]
    if not cases:
        return ""
    counts = sorted({int(case["vcpus"]) for case in cases})
    placements = listed(list(dict.fromkeys(str(case["placement"]) for case in cases)))
    vcpus = f"{listed([str(count) for count in counts])} {'vCPU' if counts == [1] else 'vCPUs'}"
    return (
        f"Oversubscribed: {vcpus} ({placements}) had too few CPUs, so their figures include "
        "waiting for a CPU."
    )


def _older_meaning(summary: Summary) -> str:
    """What a run of an earlier schema means by its kicks; "" if it has none."""
    if summary["run_schema"] >= 2:
        return ""
    kinds = kinds_of(summary)
    what = [name for kind, name in _TIMES_OF_KICKS.items() if kind in kinds]
    said = []
    if what:
        said.append(
            f"its {listed(what)} end when KVM_RUN returns, not when the protocol knows of the kick"
        )
    if "race" in kinds:
        said.append("its races do not show how many kicks could have been lost")
    return f"An earlier kickbench measured this run: {', and '.join(said)}." if said else ""


def _count_left_out(summary: Summary) -> str:
    counts = [
        f"{plural(sum(case['status'] == status for case in summary['cases']), 'case')} {word}"
        for status, word in STATUS_WORDS.items()
        if any(case["status"] == status for case in summary["cases"])
    ]
    if not counts:
        return ""
    if all(group.reason for group in left_out(summary)):
        return f"{listed(counts)}; the reasons are below."
    return f"{listed(counts)}; the list is below."


# The table of kinds, in the order of the report: each with the sentences about its finished cases,
# the most important first.
ANSWERS: dict[str, Callable[[Summary, Collection[str]], list[str]]] = {
    "exits": answer_exits,
    "race": answer_race,
    "kick": answer_kick,
    "pause_all": answer_pause,
    "nested": answer_nested,
    "handover": answer_handover,
    "lifecycle": answer_lifecycle,
    "observed": answer_observed,
}

MUCH_SKEW = 0.05
"""There is a note if a vCPU begins later than this share of a block."""

MUCH_LOAD = 0.05
"""There is a note if other work used more than this share of the CPUs' time."""

STATUS_WORDS = {"failed": "failed", "skipped": "skipped", "pending": "not run yet"}
"""The states of a case that has no figures, in the order in which they are listed."""


# --- what disturbed it -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Disturbance:
    """One column of ``disturbances``: what it counts, the unit shown, and what to do."""

    key: str
    what: str
    advice: str
    unit: str = ""
    scale: float = 1.0


_DISTURBANCES = (
    _Disturbance(
        "involuntary_switches",
        "involuntary context switches",
        "something else ran on the vCPUs' CPUs; stop it, or keep it off them (isolcpus=, cpusets)",
    ),
    _Disturbance(
        "run_delay_ns",
        "vCPU threads ready but waiting for a CPU",
        "use fewer vCPUs than CPUs, and stop other load",
        " ms",
        1e-6,
    ),
    _Disturbance(
        "migrations",
        "moves of a vCPU thread to another CPU",
        "pin the vCPUs with a placement of single CPUs (cpu:LIST)",
    ),
    _Disturbance(
        "steal_ns",
        "steal time",
        "the hypervisor ran something else; measure on bare metal or on a dedicated host",
        " ms",
        1e-6,
    ),
    _Disturbance(
        "rescues",
        "kicks repeated to end a block",
        "a vCPU's thread had to wait for a CPU, or a kick was lost (expect that with flag_signal)",
    ),
)


# The checks of the doctor whose warnings concern the figures. The cases themselves show what the
# other checks warn of.
_BEARS_ON_TRUST = frozenset(
    {
        *("tsc", "clocksource", "tsc_agreement", "governor", "turbo", "cores", "smt", "idle"),
        *(
            "numa_balancing",
            "steal",
            "load",
            "quota",
            "seccomp",
            "rt_throttling",
            "kernel",
            "hypervisor",
            "other_run",
        ),
    }
)


def notes(summary: Summary, without_tables: Collection[str] = ()) -> list[Note]:
    """What disturbed or limits the run, all of it, each with what to do.

    ``without_tables`` has the ids of finished cases that are known from summary.json only.
    """
    done = finished(summary)
    found: list[Note] = []
    if gone := [case for case in done if case["id"] in without_tables]:
        text = f"the tables of {_of(gone, done)} are missing: their figures come from summary.json"
        found.append(Note(text, "figures that need tables are left out; ask for the whole folder"))
    warned = environment.warnings(summary["environment"]) or ()
    if doubts := [warning for warning in warned if warning.id in _BEARS_ON_TRUST]:
        said = "; ".join(f"{warning.title}: {warning.detail}" for warning in doubts)
        found.append(Note(f"the doctor warned before the run: {said}", "see kickbench doctor"))
    if blank := _never_measured(done):
        methods = listed(sorted({method for case, method in blank}))
        cases = list({case["id"]: case for case, _ in blank}.values())
        verb = "was" if len({method for _, method in blank}) == 1 else "were"
        text = f"{methods} {verb} never measured in {_of(cases, done)}: too few or too short blocks"
        found.append(Note(text, "raise max_seconds or block_ms, or use fewer vCPUs"))
    missed = [case for case in done if _is_imprecise(case)]
    if missed:
        targets = listed(sorted({f"{c['precision'] * 100:.3g} %" for c in missed}))
        text = f"{_of(missed, done)} ended before reaching the precision of {targets}"
        by_figure = [
            f"of the {name} in {len(some)}"
            for metric, name in _FIGURES.items()
            if (some := [case for case in missed if metric in case["precision_missed"]])
        ]
        text += f" ({listed(by_figure)})" if by_figure else ""
        found.append(Note(text, "raise max_seconds for narrower intervals"))
    skewed = [case for case in done if (case.get("start_skew") or 0) > MUCH_SKEW]
    if skewed:
        share = max(case["start_skew"] for case in skewed) * 100
        text = (
            f"vCPUs began late: in {_of(skewed, done)} the window of the last one began up to "
            f"{share:.0f} % of a block late"
        )
        found.append(Note(text, "use fewer vCPUs than CPUs, or raise block_ms"))
    busy = [case for case in done if _others_share(case) > MUCH_LOAD]
    if busy:
        low, high = (round(100 * end(map(_others_share, busy))) for end in (min, max))
        share = f"{low} %" if low == high else f"{low} to {high} %"
        text = f"other work used {share} of the CPUs' time ({_of(busy, done)})"
        found.append(
            Note(text, "measure again on a quiet host; load disturbs the differences least")
        )
    short = [case for case in done if _kicks_missing(case)]
    if short:
        text = f"{_of(short, done)} ended before the wanted number of kicks"
        found.append(Note(text, "raise max_seconds for narrower bounds"))
    if unmet := [case for case in done if _total(case, "unmet")]:
        kicks = whole(sum(_total(case, "unmet") for case in unmet))
        sent = whole(sum(_total(case, "sent") for case in unmet))
        text = f"kicks that found the vCPU in another state: {kicks} of {sent} ({_of(unmet, done)})"
        found.append(Note(text, "they are counted, but are in no latency"))
    if strange := [case for case in done if _unexpected(case)]:
        iterations = plural(sum(map(_unexpected, strange)), "iteration")
        text = f"L2 left for an unexpected reason in {iterations} ({_of(strange, done)})"
        found.append(Note(text, "they are counted, but are in no other figure"))
    found += [Note(f"{text} ({_of(cases, done)})", "") for text, cases in _warnings(done)]
    for kind in _DISTURBANCES:
        totals = [(case, _disturbed(case, kind.key)) for case in done]
        hit = [case for case, total in totals if total]
        if hit:
            amount_of_all = sum(total for _, total in totals) * kind.scale
            total = significant(amount_of_all, 3) if kind.unit else whole(amount_of_all)
            text = f"{kind.what}: {total}{kind.unit} ({_of(hit, done)})"
            found.append(Note(text, kind.advice))
    return found


_FIGURES = {FIGURES["quiet"]: "quiet exit", FIGURES["mean"]: "mean"}


def _never_measured(done: Sequence[Summary]) -> list[tuple[Summary, str]]:
    """The methods that had no exit, kick or pause in a case, not even a lost one.

    A VM that was observed may do none of it.
    """
    return [
        (case, method)
        for case in done
        if case["kind"] != "observed"
        for method, figures in case["methods"].items()
        if not any(figures.get(key) for key in ("n", "sent", "rescued"))
    ]


def _is_imprecise(case: Summary) -> bool:
    """Whether a precision was asked for and not reached. Without an interval it is not reached."""
    compares = case["kind"] in HEADLINES and len(case["methods"]) > 1
    return compares and case["precision"] is not None and not case["precision_reached"]


def _warnings(done: Sequence[Summary]) -> Iterator[tuple[str, list[Summary]]]:
    """The warnings of all cases, each once with its cases.

    Counts of exits are added up. Rates that were reached are shown from the least to the most.
    """
    said: dict[tuple[str, ...], list[tuple[Summary, list[int]]]] = {}
    rates: dict[str, list[tuple[Summary, int]]] = {}
    for case in done:
        for warning in map(str, case["warnings"]):
            if (rate := _REACHED.search(warning)) is not None:
                hz = int(rate[0].replace(",", ""))
                rates.setdefault(_REACHED.sub("{}", warning), []).append((case, hz))
                continue
            before, *rest = _EXITS_OF.split(warning, maxsplit=1)
            counts = [int(count) for count in rest[:2]]
            said.setdefault((before, *rest[2:]), []).append((case, counts))
    for parts, found in said.items():
        cases = {case["id"]: case for case, _ in found}
        some, every = (sum(sum(counts[i : i + 1]) for _, counts in found) for i in (0, 1))
        yield f"{whole(some)} of {whole(every)} exits".join(parts), list(cases.values())
    for text, reached in rates.items():
        ends = dict.fromkeys(whole(end(hz for _, hz in reached)) for end in (min, max))
        yield (
            text.replace("{}", " to ".join(ends)),
            list({case["id"]: case for case, _ in reached}.values()),
        )


def _disturbed(case: Summary, key: str) -> float:
    return sum(method.get("disturbances", {}).get(key) or 0 for method in case["methods"].values())


def _others_share(case: Summary) -> float:
    """The share of the CPUs' time that other work used; 0 if it was not measured."""
    return float((case.get("load") or {}).get("others_share") or 0.0)


_WANTED = {"race": ("kicks_wanted", "landed"), "lifecycle": ("vms_wanted", "sent")}
"""By kind, how many kicks of each method are wanted, and which of them count."""


def _kicks_missing(case: Summary) -> bool:
    wanted, counted = _WANTED.get(case["kind"], ("", ""))
    if case.get(wanted) is None:
        return False
    # A method that loses kicks is given up early, because each lost kick costs a time-out.
    counts = [m[counted] for m in case["methods"].values() if not m["lost"]]
    return any(count is not None and count < case[wanted] for count in counts)


def _total(case: Summary, key: str) -> int:
    return sum(method.get(key) or 0 for method in case["methods"].values())


def _unexpected(case: Summary) -> int:
    return sum(sum(m.get("unexpected", {}).values()) for m in case["methods"].values())


def _of(cases: Sequence[Summary], every: Sequence[Summary]) -> str:
    return f"{len(cases)} of {plural(len(every), 'case')}"


def left_out(summary: Summary) -> list[LeftOut]:
    """The cases without figures by status and reason: failed, skipped, then not run."""
    groups: dict[tuple[str, str], list[str]] = {}
    for status, word in STATUS_WORDS.items():
        for case in summary["cases"]:
            if case["status"] == status:
                reason = case["reason"] or ("" if status == "pending" else "no reason given")
                groups.setdefault((word, reason), []).append(str(case["id"]))
    return [LeftOut(*key, cases=tuple(ids)) for key, ids in groups.items()]
