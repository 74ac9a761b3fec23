# SPDX-License-Identifier: Apache-2.0
"""A run in words: the answer first, then what to know before believing it.

Everything comes from the summary (``summary.json``); ``show`` and the HTML report say the same
sentences. The words are plain text and may hold what a stranger wrote into a scenario: whoever
prints them makes them safe for where they go. Nothing is computed here but what rounding and
comparing need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kickbench.report.numbers import decimals, fixed, listed, measured, plural, significant, whole

Summary = Mapping[str, Any]
HEADLINE = "ns_per_exit"
_MOST_OTHERS = 4


@dataclass(frozen=True)
class Verdict:
    """What a run says. ``alarms`` come before everything and are empty for a sound run.

    ``answer`` is one sentence; ``more`` says how it changes and why to believe it. ``trusted`` is
    None when the A/A control gave no judgement.
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
    """Something that disturbed or limits a run: what it is, and what to do about it ("" none)."""

    text: str
    advice: str


@dataclass(frozen=True)
class LeftOut:
    """The cases without figures that share a status and a reason."""

    status: str
    reason: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Finished cases that differ in the number of vCPUs only, by that number."""

    program: str | None
    irqchip: str | None
    exit_rate_hz: float | None
    placement: str
    cases: tuple[Summary, ...]


# --- names -------------------------------------------------------------------------------------


def emulation(summary: Summary) -> str:
    """ "Emulated (QEMU TCG)" for a run that was taken under emulation, else ""."""
    if not summary["emulated"]:
        return ""
    by = summary.get("emulated_by")
    return f"Emulated ({by})" if by else "Emulated"


def nanoseconds(summary: Summary) -> str:
    """The unit of all times: an emulator's clock is never shown as a time on hardware."""
    return "emulated ns" if summary["emulated"] else "ns"


def seconds(summary: Summary) -> str:
    """ "s", of the clock that the run had."""
    return "emulated s" if summary["emulated"] else "s"


def rate_name(exit_rate_hz: float | None) -> str:
    """ "full speed", or "20,000 exits/s per vCPU"."""
    if exit_rate_hz is None:
        return "full speed"
    return f"{significant(exit_rate_hz)} exits/s per vCPU"


def conditions(summary: Summary, case: Summary | Series) -> str:
    """What tells a case's series from the others of its run, e.g. "local, full speed".

    The placement always; program, interrupt chip and exit rate where they are not the same
    throughout or (the rate) not full speed.
    """
    values = vars(case) if isinstance(case, Series) else case
    words = [str(values["placement"])]
    if values["exit_rate_hz"] is not None or _differ(summary, "exit_rate_hz"):
        words.append(rate_name(values["exit_rate_hz"]))
    words += [
        str(values[key]) for key in ("program", "irqchip") if values[key] and _differ(summary, key)
    ]
    return ", ".join(words)


def label(summary: Summary, case: Summary) -> str:
    """A case in a few words, e.g. "2 vCPUs, local"."""
    return f"{plural(case['vcpus'], 'vCPU')}, {conditions(summary, case)}"


def _differ(summary: Summary, key: str) -> bool:
    return len({case[key] for case in summary["cases"]}) > 1


def series_of(summary: Summary, kind: str = "exits") -> list[Series]:
    """The finished cases of a kind by series, in the order of the scenario."""
    found: dict[tuple[Any, ...], list[Summary]] = {}
    for case in summary["cases"]:
        if case["status"] == "ok" and case["kind"] == kind:
            key = (case["program"], case["irqchip"], case["exit_rate_hz"], case["placement"])
            found.setdefault(key, []).append(case)
    return [
        Series(program, irqchip, rate, placement, tuple(sorted(cases, key=_vcpus)))
        for (program, irqchip, rate, placement), cases in found.items()
    ]


def _vcpus(case: Summary) -> int:
    return int(case["vcpus"])


def contrasts(case: Summary, metric: str = HEADLINE) -> dict[str, Summary]:
    """By method, a case's differences to the baseline; only those that have an interval."""
    return {
        contrast["method"]: contrast
        for contrast in case["contrasts"]
        if contrast["metric"] == metric
        and contrast["diff"] is not None
        and contrast["ci95"] is not None
    }


def contrast_methods(cases: Iterable[Summary]) -> list[str]:
    """The methods that have a difference to the baseline anywhere in the cases."""
    return list(dict.fromkeys(method for case in cases for method in contrasts(case)))


# --- one difference ----------------------------------------------------------------------------


def interval(contrast: Summary) -> str:
    """ "(95 % CI 29 to 33)"."""
    _, low, high = measured(contrast["diff"], contrast["ci95"])
    return f"(95 % CI {low} to {high})"


def amount(contrast: Summary, unit: str) -> str:
    """ "31 ns", rounded by the interval."""
    return f"{measured(contrast['diff'], contrast['ci95'])[0]} {unit}"


def cost(contrast: Summary, unit: str) -> str:
    """One difference as a clause: what a method costs more or less per exit, or that none shows."""
    method, baseline = contrast["method"], contrast["baseline"]
    low, high = contrast["ci95"]
    if low <= 0 <= high:
        _, first, last = measured(contrast["diff"], contrast["ci95"])
        return (
            f"no difference seen between {method} and {baseline} "
            f"(95 % CI {first} to {last} {unit} per exit)"
        )
    word = "more"
    if contrast["diff"] < 0:
        word, contrast = "less", {"diff": -contrast["diff"], "ci95": [-high, -low]}
    return (
        f"{method} costs {amount(contrast, unit)} {word} per exit than {baseline} "
        f"{interval(contrast)}"
    )


def differ(first: Summary, last: Summary) -> int:
    """Whether two differences of separate cases differ: 1 when the last is larger, -1, or 0."""

    def half(contrast: Summary) -> float:
        return float(contrast["ci95"][1] - contrast["ci95"][0]) / 2

    step = float(last["diff"] - first["diff"])
    if abs(step) <= math.hypot(half(first), half(last)):
        return 0
    return 1 if step > 0 else -1


# --- the verdict -------------------------------------------------------------------------------


def verdict(summary: Summary, oversubscribed: Collection[str] = ()) -> Verdict:
    """The run in a few sentences. ``oversubscribed`` has the ids of cases short of CPUs."""
    cases = summary["cases"]
    finished = [case for case in cases if case["status"] == "ok"]
    alarms = []
    if emulated := emulation(summary):
        alarms.append(f"{emulated}: no figure of this run is a time on hardware.")
    trusted, control = _control(summary, finished)
    if trusted is False:
        alarms.append(control)
    if not summary["complete"]:
        alarms.append(
            f"Partial: the run did not come to its end, {len(finished)} of "
            f"{plural(len(cases), 'case')} finished."
        )
    answers = []
    for kind, answer in ANSWERS.items():
        if any(case["kind"] == kind for case in finished):
            answers += answer(summary, oversubscribed)
    if not finished:
        answers = ["No case finished, so that there is no answer."]
    if crowd := _crowd(summary, oversubscribed):
        answers.append(crowd)
    if finished and trusted is not False:
        answers.append(control)
    if counts := _count_left_out(summary):
        answers.append(counts)
    return Verdict(tuple(alarms), answers[0], tuple(answers[1:]), trusted)


def _control(summary: Summary, finished: Sequence[Summary]) -> tuple[bool | None, str]:
    unit = nanoseconds(summary)
    judged = [case for case in finished if case["control"]["ok"] is not None]
    wrong = [case for case in judged if not case["control"]["ok"]]
    if wrong:
        worst = max(wrong, key=lambda case: abs(float(case["control"]["diff"])))
        others = f", and so in {len(wrong)} of {plural(len(judged), 'case')}"
        return False, (
            "This run cannot be trusted: the A/A control found "
            f"{worst['baseline']} to differ from itself by {amount(worst['control'], unit)} "
            f"per exit {interval(worst['control'])}, {label(summary, worst)}"
            f"{others if len(wrong) > 1 else ''}."
        )
    if not judged:
        return None, (
            "The A/A control gave no interval (too few rounds), so that nothing says whether the "
            "differences are real."
        )
    worst = max(judged, key=lambda case: abs(float(case["control"]["diff"])))["control"]
    largest = fixed(abs(worst["diff"]), decimals(worst["ci95"][1] - worst["ci95"][0]))
    where = {1: "its only case", 2: "both cases"}.get(len(judged), f"all {len(judged)} cases")
    missing = len(finished) - len(judged)
    return True, (
        f"The A/A control is good in {where}: {listed(_baselines(judged))} against itself differs "
        f"by at most {largest} {unit} per exit, within the noise."
        + (f" In {plural(missing, 'case')} it gave no interval." if missing else "")
    )


def _baselines(cases: Iterable[Summary]) -> list[str]:
    return list(dict.fromkeys(str(case["baseline"]) for case in cases))


def _answer_exits(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    every = series_of(summary)
    methods = contrast_methods(case for series in every for case in series.cases)
    if not methods:
        if any(case["methods"] for series in every for case in series.cases):
            return ["No difference between methods has an interval: too few rounds had exits."]
        return ["Nothing was compared."]
    answers = []
    for method in methods:
        answers += _answer_method(summary, every, method, oversubscribed)
    return answers


def _answer_method(
    summary: Summary, every: Sequence[Series], method: str, oversubscribed: Collection[str]
) -> list[str]:
    unit = nanoseconds(summary)
    known = [s for s in every if any(method in contrasts(case) for case in s.cases)]
    # A series that had CPUs enough says more than one that had not, wherever it stands.
    first = next((s for s in known if _sound(s, method, oversubscribed)), known[0])
    case = _headline(first, method, oversubscribed)
    contrast = contrasts(case)[method]
    crowded = ", more vCPUs than CPUs" if case["id"] in oversubscribed else ""
    answers = [f"{cost(contrast, unit)}, {label(summary, case)}{crowded}."]
    mean = case["methods"].get(contrast["baseline"], {}).get("ns_per_exit", {}).get("mean")
    if mean and not contrast["ci95"][0] <= 0 <= contrast["ci95"][1]:
        share = abs(contrast["diff"]) / mean * 100
        answers.append(
            f"That is {significant(share, 2)} % of the {significant(mean, 3)} {unit} that an exit "
            f"takes with {contrast['baseline']}."
        )
    answers += _growth(first, method, unit, oversubscribed)
    far = _far_creator(summary, known, first, method, oversubscribed)
    answers += [text for _, text in far]
    said = [first, *(series for series, _ in far)]
    others = [s for s in known if not any(s is one for one in said)]
    for series in others[:_MOST_OTHERS]:
        other = _headline(series, method, oversubscribed)
        crowded = ", more vCPUs than CPUs" if other["id"] in oversubscribed else ""
        clause = cost(contrasts(other)[method], unit)
        answers.append(f"With {label(summary, other)}{crowded}: {clause}.")
    if len(others) > _MOST_OTHERS:
        answers.append(f"The table has {len(others) - _MOST_OTHERS} more of these.")
    return answers


def _sound(series: Series, method: str, oversubscribed: Collection[str]) -> list[Summary]:
    return [c for c in series.cases if method in contrasts(c) and c["id"] not in oversubscribed]


def _headline(series: Series, method: str, oversubscribed: Collection[str]) -> Summary:
    """The case that stands for a series: the most vCPUs for which there were CPUs."""
    sound = _sound(series, method, oversubscribed)
    return sound[-1] if sound else next(c for c in series.cases if method in contrasts(c))


def _growth(series: Series, method: str, unit: str, oversubscribed: Collection[str]) -> list[str]:
    cases = _sound(series, method, oversubscribed)
    if len(cases) < 2:
        return []
    points = [contrasts(case)[method] for case in cases]
    words = {1: "It grows with the vCPUs", -1: "It falls with the vCPUs"}
    how = words.get(differ(points[0], points[-1]), "It was not seen to change with the vCPUs")
    shown = [
        f"{amount(point, unit)} at {case['vcpus']}"
        for case, point in zip(cases, points, strict=True)
    ]
    return [f"{how}: {listed(shown)} ({series.placement})."]


def _far_creator(
    summary: Summary,
    every: Sequence[Series],
    near: Series,
    method: str,
    oversubscribed: Collection[str],
) -> list[tuple[Series, str]]:
    """What it costs when another node than the vCPUs' created the process, against ``near``."""
    if _is_far(near) is not False:
        return []
    unit = nanoseconds(summary)
    said = []
    for far in every:
        alike = (far.program, far.irqchip, far.exit_rate_hz) == (
            near.program,
            near.irqchip,
            near.exit_rate_hz,
        )
        here = {case["vcpus"]: case for case in _sound(near, method, oversubscribed)}
        there = {case["vcpus"]: case for case in _sound(far, method, oversubscribed)}
        common = sorted(here.keys() & there.keys())
        if not (alike and _is_far(far) and common):
            continue
        one = contrasts(here[common[-1]])[method]
        other = contrasts(there[common[-1]])[method]
        step = differ(one, other)
        if step == 0:
            how = f"no difference seen to the {amount(one, unit)} of {near.placement}"
        elif one["ci95"][0] > 0 and other["ci95"][0] > 0:
            times = significant(other["diff"] / one["diff"], 2)
            how = f"{times} times the {amount(one, unit)} of {near.placement}"
        else:
            word = "more" if step > 0 else "less"
            how = f"{word} than the {amount(one, unit)} of {near.placement}"
        text = (
            f"With the creator on another node than the vCPUs ({far.placement}) it is "
            f"{amount(other, unit)} {interval(other)} at {plural(common[-1], 'vCPU')}, {how}."
        )
        said.append((far, text))
    return said


def _is_far(series: Series) -> bool | None:
    """Whether creator and vCPUs are on different nodes; None when the placement does not say."""
    spec = series.cases[0]["placement_spec"]
    creator, vcpus = spec.get("creator"), spec.get("vcpus")
    if not all(isinstance(at, str) and at.startswith("node:") for at in (creator, vcpus)):
        return None
    return bool(creator != vcpus)


def _crowd(summary: Summary, oversubscribed: Collection[str]) -> str:
    cases = [case for case in summary["cases"] if case["id"] in oversubscribed]
    if not cases:
        return ""
    counts = sorted({int(case["vcpus"]) for case in cases})
    placements = listed(list(dict.fromkeys(str(case["placement"]) for case in cases)))
    return (
        f"Oversubscribed: {listed([str(count) for count in counts])} vCPUs ({placements}) were "
        "more than the CPUs they could use, so that their figures include waiting for a CPU."
    )


def _count_left_out(summary: Summary) -> str:
    counts = [
        f"{plural(sum(case['status'] == status for case in summary['cases']), 'case')} {word}"
        for status, word in STATUS_WORDS.items()
        if any(case["status"] == status for case in summary["cases"])
    ]
    return f"{listed(counts)}; the reasons are below." if counts else ""


# The table of kinds: what each has to say about its finished cases, the most important first.
ANSWERS: dict[str, Callable[[Summary, Collection[str]], list[str]]] = {
    "exits": _answer_exits,
}

STATUS_WORDS = {"failed": "failed", "skipped": "skipped", "pending": "not run yet"}
"""The states of a case that has no figures, in the order in which they are listed."""


# --- what disturbed it -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Disturbance:
    """One column of ``disturbances``: what it counts, the unit shown, and what to do about it."""

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
        "a vCPU's thread had to wait for a CPU, or a kick was lost (of flag_signal, expect that)",
    ),
)


def notes(summary: Summary) -> list[Note]:
    """What disturbed or limits the run: nothing is dropped, each with what to do about it."""
    finished = [case for case in summary["cases"] if case["status"] == "ok"]
    found: list[Note] = []
    missed = [case for case in finished if case["precision_reached"] is False]
    if missed:
        targets = listed(sorted({f"{c['precision'] * 100:.3g} %" for c in missed}))
        found.append(
            Note(
                f"{_of(missed, finished)} ended before the precision of {targets} was reached",
                "raise max_seconds for narrower intervals",
            )
        )
    said: dict[str, list[Summary]] = {}
    for case in finished:
        for warning in case["warnings"]:
            said.setdefault(str(warning), []).append(case)
    found += [Note(f"{text} ({_of(cases, finished)})", "") for text, cases in said.items()]
    for kind in _DISTURBANCES:
        totals = [(case, _disturbed(case, kind.key)) for case in finished]
        hit = [case for case, total in totals if total]
        if hit:
            amount_of_all = sum(total for _, total in totals) * kind.scale
            total = significant(amount_of_all, 3) if kind.unit else whole(amount_of_all)
            text = f"{kind.what}: {total}{kind.unit} ({_of(hit, finished)})"
            found.append(Note(text, kind.advice))
    return found


def _disturbed(case: Summary, key: str) -> float:
    return sum(method["disturbances"].get(key) or 0 for method in case["methods"].values())


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
