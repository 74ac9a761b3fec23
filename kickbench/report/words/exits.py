# SPDX-License-Identifier: Apache-2.0
"""Describes the exits of a run: what a method costs per exit, and how the cost grows.

One entry of the table of kinds in :mod:`kickbench.report.words.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kickbench.methods import CATALOGUE
from kickbench.numbers import listed, measured, plural, sentence, significant, whole
from kickbench.report.words.differences import (
    WAITED,
    amount,
    contrast_methods,
    contrasts,
    cost,
    differ,
    few,
    hardly_ran,
    hidden,
    interval,
    is_flood,
    is_seen,
    level_of,
    magnitude,
    parts,
    per,
    why_hidden,
)
from kickbench.report.words.names import (
    Series,
    Summary,
    crowded,
    finished,
    kick_rate_name,
    label,
    nanoseconds,
    noise_name,
    series_of,
)
from kickbench.report.words.noise import answer_noise
from kickbench.report.words.shift import NOTABLE, answer_shift
from kickbench.scenario.kinds import FIGURES
from kickbench.summary.per_kick import pair_with_quiet

MOST_OTHERS = 4
"""Series after the first that have a sentence of their own; the table has all."""


def answer_exits(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """What the methods cost per exit against the baseline, method by method."""
    every = series_of(summary)
    methods = contrast_methods(case for series in every for case in series.cases)
    if not methods:
        return [
            _nothing_compared([case for series in every for case in series.cases]),
            *in_kernel(summary, oversubscribed),
            *answer_noise(summary, "exits", oversubscribed),
            *spurious_exits(finished(summary, "exits")),
        ]
    answers = []
    for method in methods:
        answers += _answer_method(summary, every, method, oversubscribed)
    answers += _kicked(summary, oversubscribed)
    answers += in_kernel(summary, oversubscribed)
    answers += kicks_costs(summary, oversubscribed)
    answers += answer_noise(summary, "exits", oversubscribed)
    return answers + spurious_exits(finished(summary, "exits"))


def kicks_costs(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """What a whole kick costs, method by method: the headline case of the first series."""
    answers: dict[str, str] = {}
    for row in kicked_cases(summary, oversubscribed):
        for case in row[::-1]:
            for method, contrast in contrasts(case, "ns_per_kick").items():
                where = label(summary, case) + crowded(case, oversubscribed)
                said = sentence(f"{cost(contrast, nanoseconds(summary))}, {where}")
                answers.setdefault(method, said)
    return list(answers.values())


def in_kernel(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """Which exits stay in the kernel, and how much the guest gets done while it is kicked."""
    cases = [
        case
        for case in finished(summary, "exits")
        if case.get("timed_by") == "guest" and case["exit_rate_hz"] is None
    ]
    if not cases:
        return []
    programs = listed(list(dict.fromkeys(str(case["program"]) for case in cases)))
    apart = "compare them with no exit to user space"
    said = [
        f"The exits of {programs} stay in the kernel, and the guest times them itself: {apart}."
    ]
    for kicked, quiet in pair_with_quiet(cases, "guest"):
        for method, figures in kicked["methods"].items():
            rates = [one["methods"][method]["exits_per_second"] for one in (kicked, quiet)]
            if None in rates:
                continue
            kicks = significant(figures["kicks"]["per_second"])
            said.append(
                f"With {method} and {kicks} kicks/s the guest did "
                f"{whole(rates[0])} times {kicked['program']} a second, and {whole(rates[1])} "
                f"without kicks, {label(summary, kicked)}{crowded(kicked, oversubscribed)}."
            )
    return said


def spurious_exits(cases: Sequence[Summary]) -> list[str]:
    """How many spurious exits the kicks left, method by method. A flood is an alarm of its own.

    Those of foreign signals have a sentence of their own (kickbench.report.words.noise).
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        if case["foreign_signals_hz"]:
            continue
        for finding in case["findings"]:
            if finding["what"] == "spurious" and not is_flood(case, finding):
                found.setdefault(str(finding["method"]), []).append(finding)
    shown = []
    for method, findings in found.items():
        exits, kicks = (sum(finding[key] for finding in findings) for key in ("count", "of"))
        shown.append(f"{method} {whole(exits)} for {plural(kicks, 'kick')}")
    return [f"Spurious exits (EINTR with no kick pending): {listed(shown)}."] if shown else []


def stood_still(summary: Summary) -> list[str]:
    """An alarm per method whose guest stood still for part of the time, the worst case of each."""
    worst: dict[str, tuple[float, Summary]] = {}
    for case in finished(summary, "exits"):
        for finding in case["findings"]:
            share = finding["count"] / max(1, finding["of"])
            if finding["what"] == "stood_still" and share > worst.get(finding["method"], (0,))[0]:
                worst[finding["method"]] = (share, case)
    return [
        f"{method}'s guest stood still for {significant(share * 100, 2)} % of the time, "
        f"{label(summary, case)}: KVM_RUN returned again and again without an exit of the guest, "
        "and the times per exit include this."
        for method, (share, case) in worst.items()
    ]


def _nothing_compared(cases: Sequence[Summary]) -> str:
    methods = dict.fromkeys(method for case in cases for method in case["methods"])
    if not methods:
        return "Nothing was compared."
    if all(len(case["methods"]) < 2 for case in cases):
        one = listed(list(methods))
        if len(methods) == 1:
            return f"Only {one} was measured: there is nothing to compare it with."
        return f"Each case measured only one of {one}: there is nothing to compare it with."
    if still := dict.fromkeys(method for case in cases for method in hardly_ran(case)):
        return f"Nothing is compared with {listed(list(still))}, whose guest hardly ran."
    return "No difference between methods has an interval: too few rounds had exits."


def _answer_method(
    summary: Summary, every: Sequence[Series], method: str, oversubscribed: Collection[str]
) -> list[str]:
    unit = nanoseconds(summary)
    known = [s for s in every if any(method in contrasts(case) for case in s.cases)]
    known.sort(key=lambda s: (s.kick_rate_hz is not None, noise_name(vars(s)) != ""))
    # A series with enough CPUs comes before one without, whatever their order.
    first = next((s for s in known if _sound(s, method, oversubscribed)), known[0])
    case = _headline(first, method, oversubscribed)
    contrast = contrasts(case)[method]
    where = label(summary, case) + crowded(case, oversubscribed)
    answers = [sentence(f"{_cost(case, contrast, unit)}, {where}{_on_average(case, method)}")]
    level = level_of(case, contrast)
    if level and is_seen(contrast):
        share = abs(contrast["diff"]) / level * 100
        exit_ = per(contrast["metric"]).replace("per", "a" if is_quiet(contrast) else "an")
        answers.append(
            f"That is {significant(share, 2)} % of the {significant(level, 3)} {unit} that {exit_} "
            f"takes with {contrast['baseline']}."
        )
    answers += _parts(first, method, unit, oversubscribed)
    answers += _growth(first, method, unit, oversubscribed)
    answers += answer_shift(summary, case, method)
    far = _far_creator(summary, known, first, method, oversubscribed)
    answers += [text for _, text in far]
    said = [first, *(series for series, _ in far)]
    others = [s for s in known if not any(s is one for one in said)]
    for series in others[:MOST_OTHERS]:
        other = _headline(series, method, oversubscribed)
        clause = _cost(other, contrasts(other)[method], unit)
        where = label(summary, other) + crowded(other, oversubscribed)
        answers.append(f"With {where}: {clause}{_of_that(other, method, unit)}.")
    if len(others) > MOST_OTHERS:
        answers.append(f"The table has {len(others) - MOST_OTHERS} more of these.")
    return answers


def _parts(series: Series, method: str, unit: str, oversubscribed: Collection[str]) -> list[str]:
    """The part of a method's cost that its control does not have, such as siglock, by vCPUs."""
    case = _headline(series, method, oversubscribed)
    answers = []
    for part in (one for one in parts(case) if one["method"] == method):
        control = CATALOGUE[part["baseline"]]
        pair = f"{method} - {control.id}"
        if not is_seen(part):
            _, low, high = measured(part["diff"], part["ci95"])
            answers.append(
                f"This run cannot tell how much of that is {control.isolates}: {pair} is "
                f"{amount(part, unit)} {per(part['metric'])} (95 % CI {low} to {high}{few(part)})."
            )
            continue
        _, low, high = measured(part["diff"], part["ci95"])
        answers.append(
            f"{control.isolates} costs {amount(part, unit)} {per(part['metric'])} ({pair}, "
            f"95 % CI {low} to {high}{few(part)}); the rest is {control.keeps}."
        )
        others = [
            (one, other)
            for one in _sound(series, method, oversubscribed)
            for other in parts(one)
            if (other["method"], other["baseline"]) == (method, control.id)
        ]
        if len(others) > 1:
            shown = [f"{amount(other, unit)} at {one['vcpus']}" for one, other in others]
            answers.append(
                f"{control.isolates} ({pair}) by vCPUs: {listed(shown)} ({series.placement})."
            )
    return answers


def _of_that(case: Summary, method: str, unit: str) -> str:
    """The same part, as a clause after the cost; "" if no cost or no such part is seen."""
    if contrasts(case)[method]["ci95"][0] <= 0:
        return ""
    return "".join(
        f"; {CATALOGUE[part['baseline']].isolates} is {amount(part, unit)} {interval(part)} of that"
        for part in parts(case)
        if part["method"] == method and is_seen(part)
    )


def _cost(case: Summary, contrast: Summary, unit: str) -> str:
    """One difference as a clause. If only the CPU time shows one, the clause has that too.

    Load on the host makes exits wait. That blurs the time that they take, but not their CPU time.
    At a set rate most CPU time is the guest's own, between the exits.
    """
    clause = cost(contrast, unit)
    cpu = contrasts(case, "cpu_ns_per_exit").get(contrast["method"])
    if is_seen(contrast) or is_quiet(contrast) or case["exit_rate_hz"] is not None:
        return clause
    if cpu is None or few(cpu) or not is_seen(cpu):
        return clause
    method, baseline = contrast["method"], contrast["baseline"]
    low, high = contrast["ci95"]
    if low <= cpu["diff"] <= high:
        _, first, last = measured(contrast["diff"], contrast["ci95"])
        clause = (
            f"wall time is too noisy to tell {method} from {baseline} "
            f"(95 % CI {first} to {last} {unit} per exit{few(contrast)})"
        )
    word, size = magnitude(cpu)
    return (
        f"{clause}; in CPU time {method} costs {amount(size, unit)} {word} per exit "
        f"{interval(size)}"
    )


def is_quiet(contrast: Summary) -> bool:
    """Whether a difference is one of quiet exits, not of the mean over all exits."""
    return bool(contrast["metric"] == FIGURES["quiet"])


def _on_average(case: Summary, method: str) -> str:
    """The mean over all exits, as a clause after the difference of quiet exits."""
    contrast = contrasts(case)[method]
    left_out = hidden(case, "ns_per_exit").get(method)
    if left_out is not None and why_hidden(case, left_out) == WAITED:
        return "; the mean includes waiting for CPUs, which is not a cost of the protocol"
    mean = contrasts(case, "ns_per_exit").get(method)
    if not is_quiet(contrast) or mean is None:
        return ""
    value, low, high = measured(mean["diff"], mean["ci95"])
    if not is_seen(mean):
        return f"; the mean is too noisy to show a difference (95 % CI {low} to {high}{few(mean)})"
    much = abs(mean["diff"] - contrast["diff"]) > NOTABLE * abs(contrast["diff"])
    step = differ(contrast, mean) if much else 0
    what = {1: ": the rest is in the tail", -1: ": the tail has less of it"}.get(step, "")
    return f"; on average it is {value} ({low} to {high}{few(mean)}){what}"


def kicked_cases(summary: Summary, oversubscribed: Collection[str]) -> list[list[Summary]]:
    """Cases that differ in the rate of kicks only, sorted by that rate: a list per series.

    Each list has the most vCPUs that all of its rates were measured with and had CPUs for.
    """
    return _swept(summary, oversubscribed, "kick_rate_hz", 0.0)


def paced_cases(summary: Summary, oversubscribed: Collection[str]) -> list[list[Summary]]:
    """The same for cases that differ in the exit rate only; full speed comes last."""
    return _swept(summary, oversubscribed, "exit_rate_hz", math.inf)


def _swept(
    summary: Summary, oversubscribed: Collection[str], axis: str, unset: float
) -> list[list[Summary]]:
    """Cases that differ along one axis only, sorted by it; ``unset`` is the place of null."""
    groups: dict[Series, list[Series]] = {}
    for series in series_of(summary):
        alike = replace(series, cases=(), **{axis: None})  # type: ignore[arg-type]
        groups.setdefault(alike, []).append(series)
    found = []
    for group in groups.values():
        by_vcpus = [{int(case["vcpus"]): case for case in series.cases} for series in group]
        common = sorted(set.intersection(*(set(cases) for cases in by_vcpus)))
        rows = [[cases[vcpus] for cases in by_vcpus] for vcpus in common]
        sound = [row for row in rows if all(case["id"] not in oversubscribed for case in row)]
        if len(group) > 1 and rows:
            row = (sound or rows)[-1]
            found.append(sorted(row, key=lambda c: unset if c[axis] is None else float(c[axis])))
    return found


def _kicked(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """What an exit takes with the baseline while kicks arrive at the rates measured."""
    answers = []
    for row in kicked_cases(summary, oversubscribed):
        shown = []
        for case in row:
            mean = case["methods"].get(case["baseline"], {}).get("ns_per_exit", {}).get("mean")
            if mean:
                rate = kick_rate_name(case["kick_rate_hz"])
                shown.append(f"{significant(mean)} {nanoseconds(summary)} with {rate}")
        case = row[0]
        where = f"{case['baseline']}, {plural(case['vcpus'], 'vCPU')}, {case['placement']}"
        if len(shown) > 1:
            answers.append(f"An exit takes {listed(shown)} ({where}).")
    return answers[:1]


def _sound(series: Series, method: str, oversubscribed: Collection[str]) -> list[Summary]:
    return [c for c in series.cases if method in contrasts(c) and c["id"] not in oversubscribed]


def _headline(series: Series, method: str, oversubscribed: Collection[str]) -> Summary:
    """The case that represents a series: the most vCPUs that had enough CPUs."""
    sound = _sound(series, method, oversubscribed)
    return sound[-1] if sound else next(c for c in series.cases if method in contrasts(c))


def _growth(series: Series, method: str, unit: str, oversubscribed: Collection[str]) -> list[str]:
    cases = _sound(series, method, oversubscribed)
    if len(cases) < 2:
        return []
    points = [contrasts(case)[method] for case in cases]
    pair = f"{method} - {points[0]['baseline']}"
    words = {1: "grows", -1: "falls"}
    step = differ(points[0], points[-1])
    # A difference that is not seen at both ends says nothing of a change.
    if step == 0 and not (is_seen(points[0]) and is_seen(points[-1])):
        return []
    how = words.get(step, "was not seen to change")
    shown = [
        f"{amount(point, unit)} at {case['vcpus']}"
        for case, point in zip(cases, points, strict=True)
    ]
    return [f"{pair} {how} with the vCPUs: {listed(shown)} ({series.placement})."]


def _far_creator(
    summary: Summary,
    every: Sequence[Series],
    near: Series,
    method: str,
    oversubscribed: Collection[str],
) -> list[tuple[Series, str]]:
    """What the method costs if the process was created on another node than that of the vCPUs.

    ``near`` is the series whose creator is on the node of the vCPUs.
    """
    if _is_far(near) is not False:
        return []
    unit = nanoseconds(summary)
    said = []
    for far in every:
        alike = replace(far, placement=near.placement, cases=near.cases) == near
        here = {case["vcpus"]: case for case in _sound(near, method, oversubscribed)}
        there = {case["vcpus"]: case for case in _sound(far, method, oversubscribed)}
        common = sorted(here.keys() & there.keys())
        if not (alike and _is_far(far) and common):
            continue
        one = contrasts(here[common[-1]])[method]
        other = contrasts(there[common[-1]])[method]
        step = differ(one, other)
        if step == 0:
            how = f"not seen to differ from the {amount(one, unit)} of {near.placement}"
        elif one["ci95"][0] > 0 and other["ci95"][0] > 0:
            times = significant(other["diff"] / one["diff"], 2)
            how = f"{times} times the {amount(one, unit)} of {near.placement}"
        else:
            word = "more" if step > 0 else "less"
            how = f"{word} than the {amount(one, unit)} of {near.placement}"
        text = (
            f"With the creator on another node than the vCPUs ({far.placement}), "
            f"{method} - {other['baseline']} is {amount(other, unit)} {interval(other)} at "
            f"{plural(common[-1], 'vCPU')}, {how}"
            f"{_of_that(there[common[-1]], method, unit)}."
        )
        said.append((far, text))
    return said


def _is_far(series: Series) -> bool | None:
    """Whether creator and vCPUs are on different nodes.

    None if the placement does not say so, or if threads or memory were not where it puts them.
    """
    if any(case.get("placed") is False for case in series.cases):
        return None
    spec = series.cases[0]["placement_spec"]
    creator, vcpus = spec.get("creator"), spec.get("vcpus")
    if not all(isinstance(at, str) and at.startswith("node:") for at in (creator, vcpus)):
        return None
    return bool(creator != vcpus)
