# SPDX-License-Identifier: Apache-2.0
"""Describes the kicks of a run: lost ones, their latency, and pausing all vCPUs.

Three entries of the table of kinds in :mod:`kickbench.report.words.verdict`, and the alarm if a
protocol lost kicks although it claims to lose none, whatever the kind of the case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kickbench.numbers import (
    listed,
    measured,
    plural,
    sentence,
    significant,
    whole,
)
from kickbench.report.words.contention import answer_contention
from kickbench.report.words.differences import (
    TOO_FEW,
    amount,
    contrasts,
    cost,
    few,
    hardly_ran,
    interval,
    is_flood,
    is_seen,
    magnitude,
)
from kickbench.report.words.exits import MOST_OTHERS, spurious_exits
from kickbench.report.words.names import (
    Series,
    Summary,
    conditions,
    crowded,
    duration,
    finished,
    kick_rate_name,
    label,
    nanoseconds,
    noise_name,
    series_of,
    window_name,
)
from kickbench.report.words.noise import answer_noise
from kickbench.report.words.pauses import answer_after, answer_back_to_back, answer_orders
from kickbench.scenario.kinds import NOISE, moment_name, state_name

MIN_LANDED = 100
"""Kicks that must have landed for a bound. The bound is then 3 % at most if none was lost."""

_MOST_NAMED = 2
"""Cases that a sentence names; it counts the others."""


# --- race --------------------------------------------------------------------------------------


def answer_race(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """Which protocols lost kicks, and how sure it is that the others lose none."""
    cases = finished(summary, "race")
    sent = _by_method(cases, lambda figures: figures["sent"] > 0)
    if not sent:
        return ["No kick was sent in the race."]
    losers = {m: [c for c in of if c["methods"][m]["lost"]] for m, of in sent.items()}
    losers = {method: hit for method, hit in losers.items() if hit}
    clauses = [_lost_some(losers)] if losers else []
    keepers = {method: of for method, of in sent.items() if method not in losers}
    claimed = {m: of for m, of in keepers.items() if _claim(m, of) is not False}
    if claimed:
        clauses += _kept(claimed)
    # A protocol without a claim has a clause of its own: that it lost none confirms nothing.
    others = [method for method in keepers if method not in claimed]
    if others:
        who = f"{listed(others)}, which {'make' if len(others) > 1 else 'makes'} no such claim,"
        clauses.append(f"{who} lost none either" if claimed else f"{who} lost none")
    # What weakens the answer belongs to it.
    more = [*_untested(summary, keepers), *_weak_control(summary, sent)]
    answers = [" ".join(["; ".join(clauses) + ".", *more])]
    answers += [
        f"{_lost(summary, method, hit, cases, oversubscribed)}." for method, hit in losers.items()
    ]
    answers += _resent(summary, cases)
    answers += answer_noise(summary, "race", oversubscribed)
    answers += spurious_exits(cases)
    answers += _timeouts(summary, cases)
    return answers


def _by_method(
    cases: Sequence[Summary], has: Callable[[Mapping[str, Any]], bool]
) -> dict[str, list[Summary]]:
    """By method, the cases whose figures of the method satisfy ``has``."""
    methods = dict.fromkeys(method for case in cases for method in case["methods"])
    found = {
        method: [c for c in cases if method in c["methods"] and has(c["methods"][method])]
        for method in methods
    }
    return {method: of for method, of in found.items() if of}


def _claim(method: str, cases: Iterable[Summary]) -> bool | None:
    claims = {case["methods"][method].get("race_free_claim") for case in cases}
    return False if False in claims else True if True in claims else None


def _lost_some(losers: Mapping[str, Sequence[Summary]]) -> str:
    """E.g. "flag_signal lost kicks"; methods that claim to lose none come first."""
    claimed = [method for method, hit in losers.items() if _claim(method, hit)]
    others = [method for method in losers if method not in claimed]
    claims = "claims" if len(claimed) == 1 else "claim"
    who = [f"{listed(claimed)}, which {claims} to be race-free,"] if claimed else []
    return f"{listed([*who, *([listed(others)] if others else [])])} lost kicks"


def _lost(
    summary: Summary,
    method: str,
    hit: Sequence[Summary],
    cases: Sequence[Summary],
    oversubscribed: Collection[str],
) -> str:
    """E.g. "flag_signal lost 196 of 199 kicks aimed at a window of 50 µs", the worst case first."""

    def share(case: Summary) -> float:
        figures = case["methods"][method]
        return float(figures["lost"] / figures["sent"])

    places = len({conditions(summary, case, of_kind=False) for case in cases}) > 1
    places = places or len({case["vcpus"] for case in cases}) > 1
    texts: list[str] = []
    for case in sorted(hit, key=share, reverse=True)[:_MOST_NAMED]:
        figures = case["methods"][method]
        place = label(summary, case, of_kind=False) + crowded(case, oversubscribed)
        texts.append(
            f"{whole(figures['lost'])} of {whole(figures['sent'])}"
            f"{'' if texts else ' kicks aimed'} at {window_name(summary, case['window_ns'])}"
            + (f" ({place})" if places else "")
        )
    if len(hit) > _MOST_NAMED:
        texts.append(f"kicks in {plural(len(hit) - _MOST_NAMED, 'more case', 'more cases')}")
    return f"{method} lost {listed(texts)}"


def _kept(keepers: Mapping[str, Sequence[Summary]]) -> list[str]:
    """What is known of the protocols that lost none. A bound rests on kicks that landed.

    E.g. "sigmask lost none of 3,408 kicks that could have been lost (at most 0.09 %, 95 %)"
    """
    tested: list[str] = []
    few: list[str] = []
    unknown: list[str] = []
    for method, of in keepers.items():
        figures = [case["methods"][method] for case in of]
        enough = [f for f in figures if (f["landed"] or 0) >= MIN_LANDED]
        if enough:
            landed = sum(f["landed"] for f in enough)
            bound = at_most(max(f["lost_upper95"] for f in enough))
            many = " in any case" if len(enough) > 1 else ""
            none = f"none of {_kicks(landed).removesuffix(' kicks')}"
            if not tested:
                none = f"lost none of {_kicks(landed)} that could have been lost"
            tested.append(f"{method} {none} (at most {bound}{many}, 95 %)")
        elif all(f["landed"] is None for f in figures):
            unknown.append(method)
        else:
            few.append(f"{method} {_landed(figures)}")
    clauses = [listed(tested)] if tested else []
    if few:
        clauses.append(
            "too few kicks could have been lost for a bound, and none was: " + listed(few)
        )
    if unknown:
        clauses.append(
            f"{listed(unknown)} lost none, but most of the kicks could not have been lost"
        )
    return clauses


def _landed(figures: Sequence[Mapping[str, Any]]) -> str:
    """E.g. "4 of 27,678"."""
    landed = sum(f["landed"] or 0 for f in figures)
    return f"{whole(landed) if landed else 'none'} of {whole(sum(f['sent'] for f in figures))}"


def _untested(summary: Summary, keepers: Mapping[str, Sequence[Summary]]) -> list[str]:
    """The cases in which too few kicks of a protocol landed, although it has a bound in others."""
    shown: dict[str, list[str]] = {}
    for method, of in keepers.items():
        counts = [case["methods"][method]["landed"] for case in of]
        if max(count or 0 for count in counts) < MIN_LANDED:
            continue
        for case, count in zip(of, counts, strict=True):
            if count is not None and count < MIN_LANDED:
                window = window_name(summary, case["window_ns"])
                shown.setdefault(window, []).append(
                    f"{method} {_landed([case['methods'][method]])}"
                )
    return [
        f"At {window} too few kicks could have been lost for a bound: {listed(methods)}."
        for window, methods in shown.items()
    ]


def _kicks(count: int) -> str:
    """E.g. "103,940 kicks"; millions are rounded down."""
    return plural(count, "kick") if count < 10**6 else f"{count // 10**5 / 10:,.1f} million kicks"


def at_most(rate: float) -> str:
    """An upper bound of a rate, rounded up, e.g. "3 in a million" or "0.3 %"."""
    scale, unit = (1e6, " in a million") if rate < 1e-3 else (1e2, " %")
    value = rate * scale
    step = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    rounded = math.ceil(value / step - 1e-9) * step
    if unit == " %":
        rounded = min(rounded, 100.0)
    text = significant(rounded, 2)
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def _weak_control(summary: Summary, sent: Mapping[str, Sequence[Summary]]) -> list[str]:
    """A remark if the protocols that should lose kicks lost none, even at a wide window."""
    wide = {
        method: [case for case in cases if case["window_ns"]]
        for method, cases in sent.items()
        if _claim(method, cases) is False
    }
    tried = [(method, case) for method, cases in wide.items() for case in cases]
    if not tried or any(case["methods"][method]["lost"] for method, case in tried):
        return []
    method, case = tried[-1]
    window = window_name(summary, case["window_ns"])
    return [
        f"{method} should lose kicks, but lost none even at {window}: this race proves nothing."
    ]


def _timeouts(summary: Summary, cases: Sequence[Summary]) -> list[str]:
    usual, first = (
        [case[key] for case in cases if case.get(key) is not None]
        for key in ("timeout_ns", "first_timeout_ns")
    )
    longest = [
        figures["latency_max_ns"]
        for case in cases
        for figures in case["methods"].values()
        if figures["latency_max_ns"] is not None
    ]
    if not usual:
        return []
    begin = seen = ""
    if first and max(first) > max(usual):
        begin = (
            f" (after {_range(summary, first)} in the first round of a process, which finds out "
            "how long kicks take)"
        )
    if longest:
        which = ", in such a first round" if begin and max(longest) > max(usual) else ""
        seen = f"; the slowest kick that was not lost took {duration(summary, max(longest))}{which}"
    after = _range(summary, usual)
    return [f"A kick counts as lost when the guest still runs after {after}{begin}{seen}."]


def _range(summary: Summary, times_ns: Sequence[float]) -> str:
    ends = dict.fromkeys(duration(summary, ns) for ns in (min(times_ns), max(times_ns)))
    return " to ".join(ends)


# --- kick latency ------------------------------------------------------------------------------


def answer_kick(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """Which protocol kicks fastest, and how latency changes with state, transport and kickers."""
    cases = [c for c in finished(summary, "kick") if _p50(c, c["baseline"]) is not None]
    if not cases:
        return [_no_latency(finished(summary, "kick"))]
    case = next((case for case in cases if case["id"] not in oversubscribed), cases[0])
    where = label(summary, case, of_kind=False) + crowded(case, oversubscribed)
    answers = [f"Kicked {state_name(case['state'])}, {_fastest(summary, case)}, {where}."]
    answers += _states(summary, cases, case)
    for key, words in (("transport", "transport"), ("kickers", "number of kickers")):
        answers += _along(summary, cases, case, key, words)
    return [
        *answers,
        *answer_contention(summary),
        *_not_ranked(cases),
        *_resent(summary, finished(summary, "kick")),
        *answer_noise(summary, "kick", oversubscribed),
        *spurious_exits(finished(summary, "kick")),
    ]


def _no_latency(cases: Sequence[Summary]) -> str:
    figures = [figures for case in cases for figures in case["methods"].values()]
    if not any(of_method["sent"] for of_method in figures):
        return "No kick has a latency: none was sent."
    return "No kick has a latency: each one was lost, or met another state."


def _p50(case: Summary, method: str) -> float | None:
    value: float | None = case["methods"].get(method, {}).get("latency_ns", {}).get("p50")
    return value


def _fastest(summary: Summary, case: Summary) -> str:
    """The fastest protocol by the intervals of the differences. One that loses kicks cannot be."""
    unit, baseline = nanoseconds(summary), str(case["baseline"])
    known = contrasts(case)
    kept = {m: c for m, c in known.items() if not case["methods"][m]["lost"]}
    # A reader takes "the fastest" for a plain fact, and a few rounds do not prove it.
    ranked = {m: c for m, c in kept.items() if not few(c)}
    if faster := [contrast for contrast in ranked.values() if contrast["ci95"][1] < 0]:
        best = min(faster, key=lambda contrast: float(contrast["diff"]))
        _, size = magnitude(best)
        return (
            f"{best['method']} is the fastest: {_latency(summary, case, best['method'])}, "
            f"{amount(size, unit)} less than {baseline} {interval(size)}"
        )
    took = _latency(summary, case, baseline)
    if not ranked:
        if len(case["methods"]) < 2:
            return f"{baseline} takes {took}"
        why = f"{TOO_FEW} to say which protocol is the fastest"
        if known and not kept:
            why = "all others lost kicks"
        elif still := hardly_ran(case):
            why = f"nothing is compared with {listed(sorted(still))}, whose guest hardly ran"
        return f"{baseline} takes {took}; {why}"
    if case["methods"][baseline]["lost"]:
        return f"no protocol is faster than {baseline}, which takes {took} but lost kicks"
    if all(is_seen(contrast) for contrast in ranked.values()):
        following = min(ranked.values(), key=lambda contrast: float(contrast["diff"]))
        return (
            f"{baseline} is the fastest: {took}; {following['method']} takes "
            f"{amount(following, unit)} more {interval(following)}"
        )
    alike = [m for m, contrast in ranked.items() if not is_seen(contrast)]
    shown = []
    for method in alike:
        _, low, high = measured(ranked[method]["diff"], ranked[method]["ci95"])
        shown.append(f"{method} (95 % CI {low} to {high} {unit}{few(ranked[method])})")
    return (
        f"no protocol is faster than {baseline}, which takes {took}; no difference seen for "
        f"{listed(shown)}"
    )


def _latency(summary: Summary, case: Summary, method: str) -> str:
    """E.g. "14,230 ns at p50"."""
    figures = case["methods"][method]
    return f"{significant(figures['latency_ns']['p50'])} {nanoseconds(summary)} at p50"


_ROW = ("vcpus", "placement", "irqchip", "transport", "kickers", "state", *NOISE)


def _row(cases: Sequence[Summary], case: Summary, axis: str) -> list[Summary]:
    """The cases that differ from ``case`` along one axis only, one for each value.

    Programs are not compared, because each state has its own.
    """
    keys = [key for key in _ROW if key != axis]
    found = {c[axis]: c for c in reversed(cases) if all(c[key] == case[key] for key in keys)}
    return [c for c in cases if found.get(c[axis]) is c]


def _states(summary: Summary, cases: Sequence[Summary], case: Summary) -> list[str]:
    row = _row(cases, case, "state")
    if len(row) < 2:
        return []
    unit, baseline = nanoseconds(summary), case["baseline"]
    answers = [by_state(summary, row)]
    for method in dict.fromkeys(method for one in row for method in contrasts(one)):
        if any(one["methods"].get(method, {}).get("lost") for one in row):
            continue  # without its lost kicks, its latencies look better than they are
        steps, unseen = [], []
        for one in row:
            contrast = contrasts(one).get(method)
            if contrast is not None and few(contrast):
                continue
            if contrast is not None and is_seen(contrast):
                word, size = magnitude(contrast)
                steps.append(f"{amount(size, unit)} {word} {state_name(one['state'])}")
            elif contrast is not None:
                unseen.append(state_name(one["state"]))
        parts = [listed(steps)] if steps else []
        if unseen:
            parts.append(f"no difference seen {listed(unseen)}")
        if parts:
            answers.append(f"{method} against {baseline} at p50: {'; '.join(parts)}.")
    return answers


def by_state(summary: Summary, cases: Sequence[Summary]) -> str:
    """The baseline's p50 and p99 in every state, as a sentence."""
    shown = []
    for case in cases:
        times = case["methods"][case["baseline"]]["latency_ns"]
        numbers = " and ".join(significant(times[name]) for name in ("p50", "p99"))
        shown.append(f"{numbers} {nanoseconds(summary)} {state_name(case['state'])}")
    return f"{cases[0]['baseline']} at p50 and p99: {listed(shown)}."


def _along(
    summary: Summary, cases: Sequence[Summary], case: Summary, axis: str, words: str
) -> list[str]:
    row = _row(cases, case, axis)
    if len(row) < 2:
        return []
    unit = nanoseconds(summary)
    shown = [f"{c[axis]}: {significant(_p50(c, c['baseline']))} {unit}" for c in row]
    return [
        f"{case['baseline']} {state_name(case['state'])} at p50 by {words}: {', '.join(shown)}."
    ]


def _not_ranked(cases: Sequence[Summary]) -> list[str]:
    shown = []
    for method, of in _by_method(cases, lambda figures: figures["lost"] > 0).items():
        figures = [case["methods"][method] for case in of]
        lost, sent = sum(f["lost"] for f in figures), sum(f["sent"] for f in figures)
        shown.append(f"{method} {whole(lost)} of {whole(sent)}")
    if not shown:
        return []
    return [
        f"Lost kicks are in no latency, so a protocol that lost some looks faster: {listed(shown)}."
    ]


# --- pause all ---------------------------------------------------------------------------------


def answer_pause(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """How long it takes to pause all vCPUs of a VM, and how the time grows with their number."""
    series = [
        kept
        for kept in (_timed(one) for one in series_of(summary, "pause_all"))
        if kept is not None
    ]
    if not series:
        return ["No pause was timed: each needed a rescue."]
    # The others are compared with these, in sentences of their own.
    series = [one for one in series if not noise_name(vars(one))] or series
    answers = _answer_series(summary, series[0], oversubscribed)
    for other in series[1 : 1 + MOST_OTHERS]:
        case = _largest(other, oversubscribed)
        where = conditions(summary, other, of_kind=False) + crowded(case, oversubscribed)
        answers.append(f"{where}: {_pausing(summary, case)}.")
    if len(series) > 1 + MOST_OTHERS:
        answers.append(f"The table has {len(series) - 1 - MOST_OTHERS} more of these.")
    answers += answer_orders(summary, oversubscribed)
    answers += answer_back_to_back(summary)
    answers += answer_after(summary, oversubscribed)
    answers += answer_noise(summary, "pause_all", oversubscribed)
    return answers + _rescued(finished(summary, "pause_all"))


def _timed(series: Series) -> Series | None:
    """The series without the cases in which the baseline has no time."""
    cases = tuple(case for case in series.cases if _last(case) is not None)
    return None if not cases else Series(**{**vars(series), "cases": cases})


def _last(case: Summary) -> float | None:
    value: float | None = case["methods"].get(case["baseline"], {}).get("last_ns", {}).get("p50")
    return value


def _largest(series: Series, oversubscribed: Collection[str]) -> Summary:
    """The case with the most vCPUs that had enough CPUs, but more than one vCPU.

    Without such a case, it is simply the one with the most vCPUs.
    """
    sound = [c for c in series.cases if c["id"] not in oversubscribed and c["vcpus"] > 1]
    return (sound or series.cases)[-1]


def _pausing(summary: Summary, case: Summary) -> str:
    first = case["methods"][case["baseline"]]["first_ns"]["p50"]
    last = _last(case)
    assert last is not None  # _timed() leaves out the others
    number = case["vcpus"]
    which = f"all {number} vCPUs" if number > 1 else "the only vCPU"
    begin = f" and {duration(summary, first)} until the first" if first and number > 1 else ""
    return (
        f"pausing {which} takes {duration(summary, last)} until the last has acknowledged"
        f"{begin} ({case['baseline']}, p50)"
    )


def _answer_series(summary: Summary, series: Series, oversubscribed: Collection[str]) -> list[str]:
    unit = nanoseconds(summary)
    case = _largest(series, oversubscribed)
    clauses = [cost(contrast, unit) for contrast in contrasts(case).values()]
    head = _pausing(summary, case)
    where = conditions(summary, case, of_kind=False) + crowded(case, oversubscribed)
    answers = [f"{head[0].upper()}{head[1:]}, {where}{''.join(f'; {c}' for c in clauses[:1])}."]
    answers += [sentence(clause) for clause in clauses[1:]]
    answers += _time_out(summary, case)
    if len(series.cases) > 1:
        shown = []
        for one in series.cases:
            last = _last(one)
            assert last is not None
            over = " (more vCPUs than CPUs)" if one["id"] in oversubscribed else ""
            shown.append(f"{duration(summary, last)} at {one['vcpus']}{over}")
        if all(one["id"] in oversubscribed for one in series.cases[1:]) and oversubscribed:
            shown = [text.removesuffix(" (more vCPUs than CPUs)") for text in shown]
        answers.append(
            f"Time until the last of N vCPUs, p50: {listed(shown)} ({case['baseline']})."
        )
    return answers


def _time_out(summary: Summary, case: Summary) -> list[str]:
    """How long a VMM must wait for a pause before it may call it failed."""
    bounds = [
        f"{duration(summary, bound)} with {method}"
        for method, figures in case["methods"].items()
        if (bound := figures.get("timeout_ns")) is not None
    ]
    if not bounds:
        return []
    return [f"At most 1 pause in 1,000 takes longer than {listed(bounds)} (95 % confidence)."]


def _rescued(cases: Iterable[Summary]) -> list[str]:
    shown = []
    found = _by_method(list(cases), lambda figures: figures["rescued"] > 0)
    for method, of in found.items():
        figures = [case["methods"][method] for case in of]
        rescued, pauses = (sum(f[k] for f in figures) for k in ("rescued", "n"))
        shown.append(f"{method} {whole(rescued)} of {whole(rescued + pauses)}")
    if not shown:
        return []
    return [f"Pauses that needed a second kick are not timed: {listed(shown)}."]


# --- claims ------------------------------------------------------------------------------------


def floods(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """An alarm per protocol with far more spurious exits than kicks, its worst case first."""
    found: dict[str, list[tuple[float, Summary, Mapping[str, Any]]]] = {}
    for case in finished(summary):
        for finding in (one for one in case["findings"] if is_flood(case, one)):
            per_kick = finding["count"] / max(1, finding["of"])
            found.setdefault(str(finding["method"]), []).append((per_kick, case, finding))
    alarms = []
    for method, cases in found.items():
        per_kick, case, finding = max(cases, key=lambda one: one[0])
        where = f"{_kicked_how(summary, case)}, {label(summary, case, of_kind=False)}"
        where += crowded(case, oversubscribed)
        more = f", and far too many in {plural(len(cases) - 1, 'other case')}"
        alarms.append(
            f"{method} made KVM_RUN return {whole(finding['count'])} times with no kick pending "
            f"(spurious exits), for {plural(int(finding['of']), 'kick')} {where}: "
            f"{significant(per_kick, 2)} per kick{more if len(cases) > 1 else ''}. A flag that "
            "nobody clears has this effect. Meanwhile the guest hardly runs, so none of its times "
            "is the protocol's cost."
        )
    return alarms


def broken_claims(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """An alarm per protocol that claims to be race-free but lost a kick, in any kind."""
    broken: dict[str, list[tuple[Summary, Mapping[str, Any]]]] = {}
    for case in finished(summary):
        for finding in case["findings"]:
            if finding["race_free_claim"] is True and finding["what"] in ("lost", "rescued"):
                broken.setdefault(str(finding["method"]), []).append((case, finding))
    alarms = []
    for method, found in broken.items():
        # The race comes first, because it is there to find lost kicks. Then the worst case.
        found.sort(key=_importance)
        case, finding = found[0]
        where = f"{_kicked_how(summary, case)}, {label(summary, case, of_kind=False)}"
        where += crowded(case, oversubscribed)
        count, of = whole(finding["count"]), int(finding["of"])
        what = f"LOST {count} of {plural(of, 'kick')}"
        if finding["what"] == "rescued":
            what = f"LOST kicks in {count} of {plural(of, 'pause')}"
        others = plural(len(found) - 1, "other case")
        more = f", and lost kicks in {others}" if len(found) > 1 else ""
        alarms.append(f"{method} claims to be race-free, but {what} {where}{more}.")
    return alarms


def second_modes(summary: Summary, oversubscribed: Collection[str]) -> list[str]:
    """An alarm per protocol some of whose kicks take far longer than the others: its worst case.

    The median does not show these kicks, as long as they are fewer than half. They are not lost
    either: a protocol that sends again and again until the vCPU leaves loses none.
    """
    worst: dict[str, tuple[float, Summary]] = {}
    for case in finished(summary, "kick"):
        for method, figures in case["methods"].items():
            slow = figures.get("slow", {"own": False})
            if not slow["own"]:
                continue
            share = slow["n"] / figures["n"]
            if worst.get(method, (0,))[0] < share < 0.5:
                worst[method] = share, case
    alarms = []
    for method, (share, case) in worst.items():
        figures = case["methods"][method]
        where = f"{state_name(case['state'])}, {label(summary, case, of_kind=False)}"
        where += crowded(case, oversubscribed)
        again = ""
        if resent := figures.get("resent"):
            again = f"; it sent {whole(resent)} of {plural(figures['sent'], 'kick')} more than once"
        alarms.append(
            f"{method} has kicks that take far longer than the others: "
            f"{whole(figures['slow']['n'])} of {whole(figures['n'])} "
            f"({significant(share * 100, 2)} %) took "
            f"{_typical(summary, figures['slow']['ns'])}, while p50 is "
            f"{duration(summary, figures['latency_ns']['p50'])} ({where}){again}."
        )
    return alarms


def _typical(summary: Summary, times: Mapping[str, float]) -> str:
    """What most of them took, e.g. "10 to 15 ms"."""
    low, high = (duration(summary, times[name]) for name in ("p10", "p90"))
    (number, _, unit), (_, _, other) = low.partition(" "), high.partition(" ")
    return high if low == high else f"{number if unit == other else low} to {high}"


def _resent(summary: Summary, cases: Sequence[Summary]) -> list[str]:
    """Which protocols send again. A kick that one signal would have lost is then only late."""
    answers = []
    for method, of in _by_method(cases, lambda figures: "resent" in figures).items():
        figures = [case["methods"][method] for case in of]
        resent, sent = (sum(f[key] for f in figures) for key in ("resent", "sent"))
        if not resent:
            continue
        share = significant(100 * resent / sent, 2)
        again = f"{whole(resent)} of {plural(sent, 'kick')} more than once ({share} %)"
        answers.append(f"{method} sent {again}{_late(summary, of, method)}.")
        if not sum(f["lost"] or 0 for f in figures):
            answers[-1] += (
                " That it loses none does not show that it is free of races: it is late where "
                "another one loses a kick."
            )
    return answers


def _late(summary: Summary, cases: Sequence[Summary], method: str) -> str:
    """How late such kicks are, in the case that has the most of them; "" if it is not known."""
    case = max(cases, key=lambda one: int(one["methods"][method]["resent"]))
    figures = case["methods"][method]
    late = figures.get("resent_ns", {}).get("p50")
    usual = figures.get("latency_ns", {}).get("p50")
    if late is None or usual is None or case["kind"] != "race":
        return ""
    worst = figures["latency_ns"]["p999"]
    return (
        f". They took {duration(summary, late)} at p50, while all its kicks took "
        f"{duration(summary, usual)} at p50 and {duration(summary, worst)} at p99.9"
    )


def _importance(item: tuple[Summary, Mapping[str, Any]]) -> tuple[bool, float]:
    case, finding = item
    return case["kind"] != "race", -finding["count"] / max(1, finding["of"])


def _kicked_how(summary: Summary, case: Summary) -> str:
    match case["kind"]:
        case "race":
            return f"aimed at {window_name(summary, case['window_ns'])}"
        case "kick":
            return f"sent {state_name(case['state'])}"
        case "pause_all":
            return "of all vCPUs"
        case "lifecycle":
            return f"sent {moment_name(case['moment'])}"
        case _:
            return f"at {kick_rate_name(case['kick_rate_hz'])}"
