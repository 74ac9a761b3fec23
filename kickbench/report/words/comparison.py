# SPDX-License-Identifier: Apache-2.0
"""Describes a comparison of two runs: the answer, what changed around it, a row for every figure.

``kickbench compare`` and the HTML report print the same. :mod:`kickbench.compare.runs` decides what
differs; this module only has the words. They are plain text, and can contain foreign text, for
example the name of a placement or of a host.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kickbench.compare.identity import UNKNOWN, Change
from kickbench.compare.metrics import METRICS, Point
from kickbench.compare.runs import Comparison, Doubt, Judged, Loss, Unmatched, Verdict
from kickbench.numbers import level, listed, measured, plural, signed, significant, whole
from kickbench.report.words.names import emulation, label, nanoseconds, seconds
from kickbench.report.words.observed import compare_vms
from kickbench.report.words.tables import TABLES
from kickbench.report.words.verdict import ANSWERS, STATUS_WORDS
from kickbench.results.schema import dig
from kickbench.stats.independent import Difference
from kickbench.text import shorten

Summary = Mapping[str, Any]
Severity = Literal["good", "bad", "none"]

LEVELS = (
    "Levels are not paired. Two runs of one kernel differ in their levels by more than the "
    "intervals say, but not in paired differences (method - method). Compare two runs of the base "
    "to see how much levels vary on this host."
)

BOOTS = (
    "A boot is one value, however long it measured. So the intervals hold what varies from boot to "
    "boot of one kernel on this host. They do not hold what another build of the same source, or "
    "another host, would show."
)

SAME = "no difference seen"

DIFFERENCE = "difference (95 %, all at once)"
"""The head of the differences. Their intervals hold for all figures together."""

_WORDS: dict[str, dict[Verdict, str]] = {
    "time": {
        "worse": "slower",
        "better": "faster",
        "maybe worse": "maybe slower",
        "maybe better": "maybe faster",
    },
    "share": {
        "worse": "more lost",
        "better": "fewer lost",
        "maybe worse": "maybe more lost",
        "maybe better": "maybe fewer lost",
    },
    "exits": {
        "worse": "more exits",
        "better": "fewer exits",
        "maybe worse": "maybe more exits",
        "maybe better": "maybe fewer exits",
    },
    "faults": {
        "worse": "more often",
        "better": "less often",
        "maybe worse": "maybe more often",
        "maybe better": "maybe less often",
    },
}
_SEVERITIES: dict[Verdict, Severity] = {"worse": "bad", "better": "good"}
_ORDER: tuple[Verdict, ...] = (
    "worse",
    "better",
    "maybe worse",
    "maybe better",
    "same",
    "not comparable",
)

_PARAMETERS = {
    "kind": "kind of measurement",
    "irqchip": "interrupt chip",
    "vcpus": "number of vCPUs",
    "placement_spec": "placement",
    "exit_rate_hz": "exit rate",
    "mix": "mix of exits",
    "gaps_us": "recorded gaps",
    "vcpu_rates": "rates of the vCPUs",
    "state": "state of the vCPU",
    "kickers": "number of kickers",
    "kick_rate_hz": "kick rate",
    "window_ns": "window",
    "pause_gap_us": "gap between pauses",
    "order": "order of a pause",
    "after": "what follows a pause",
    "foreign_signals_hz": "foreign signals",
    "siglock_threads": "siglock threads",
    "siglock_hz": "rate of the siglock threads",
    "schema": "what the figure means",
    "protocol": "kick protocol",
    "ways": "reasons to leave",
}

_NAMED_CHANGES = 3

_FEW = 2
"""Figures of a case that are named if only one run has them. If there are more, it counts them."""

_VERBS = {
    "more lost": "has more kicks lost",
    "fewer lost": "has fewer kicks lost",
    "more often": "has more faults",
    "less often": "has fewer faults",
}

_DOUBTS = {
    "schema": "{run} was measured by an earlier kickbench: its kick latencies and pauses end when "
    "KVM_RUN returns, and its races do not show how many kicks could have been lost. So kicks are "
    "not compared in {cases}; exits are.",
    "partial": "{run} is partial: it is not complete, so only finished cases are compared.",
    "control": "{run} cannot be trusted in {cases}: the A/A control found a method to differ from "
    "itself.",
    "oversubscribed": "{run} had more vCPUs than CPUs in {cases}: the figures include waiting for "
    "a CPU.",
    "waited": "The vCPUs of {run} waited longer for a CPU in {cases}: something else was running. "
    "It also costs CPU time, because it takes the caches. A difference that this may explain is at "
    "most called maybe slower or maybe faster.",
    "one process": "{run} has a single process in {cases} (--quick does that), which does not show "
    "how processes differ. Levels there are at most called maybe slower or maybe faster.",
    "one observation": "{run} is one observation, which does not show how much the VM varies. So "
    "its figures are at most called maybe slower or maybe faster.",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence of the answer, and whether it is good news, bad news, or neither."""

    text: str
    severity: Severity


@dataclass(frozen=True)
class Row:
    """One figure of both runs in words.

    ``verdict`` is the word alone. ``word`` also says why a figure is not comparable. If there is no
    room for all rows, the ``notable`` ones are shown.
    """

    case: str
    method: str
    metric: str
    base: str
    other: str
    difference: str
    word: str
    severity: Severity
    notable: bool
    verdict: str


@dataclass(frozen=True)
class Table:
    """The rows of a kind, those that differ first. In ``unseen`` of them no difference is seen."""

    kind: str
    title: str
    rows: tuple[Row, ...]
    unseen: int


# --- names -------------------------------------------------------------------------------------


def names(comparison: Comparison) -> tuple[str, str]:
    """The names of the two runs: "base" and "other", or those of the user. Never equal."""
    return comparison.names


def who(comparison: Comparison) -> tuple[str, str]:
    """Which runs the names mean, e.g. "kernel 6.13.0, 2026-03-01 12:00:00 UTC".

    The kernel and the host are there only if they differ.
    """
    runs = (comparison.base, comparison.other)
    parts: tuple[list[str], list[str]] = ([], [])
    for title, *path in (("kernel", "kernel", "release"), ("host", "hostname")):
        found = [_at(run, "environment", *path) or UNKNOWN for run in runs]
        if found[0] != found[1]:
            for side, text in zip(parts, found, strict=True):
                side.append(f"{title} {_brief(text)}")
    base, other = (
        ", ".join(
            [
                *side,
                *filter(None, [emulation(run).lower()]),
                f"{comparison.boots} boots" if comparison.boots else _created(run),
            ]
        )
        for side, run in zip(parts, runs, strict=True)
    )
    return base, other


def heads(comparison: Comparison) -> tuple[str, ...]:
    """The heads of the seven columns of a row, ``case`` to ``word``."""
    return (
        "case",
        "method",
        "metric",
        *names(comparison),
        "difference (95 % CI of all)",
        "verdict",
    )


def _created(summary: Summary) -> str:
    """The day and the time of a run."""
    day, _, time = str(summary["created_utc"]).rstrip("Z").partition("T")
    return f"{day} {time} UTC"


def _at(summary: Summary, *path: str) -> str:
    value = dig(summary, *path)
    return value if isinstance(value, str) else ""


def _case_label(comparison: Comparison, case_id: str) -> str:
    for summary in (comparison.base, comparison.other):
        for case in summary["cases"]:
            if case["id"] == case_id:
                return label(summary, case)
    return case_id


def _method(point: Point) -> str:
    return point.method if point.baseline is None else f"{point.method} - {point.baseline}"


def _unit(comparison: Comparison, metric: str) -> str:
    match METRICS[metric].unit:
        case "ns":
            return nanoseconds(comparison.base)
        case "1/s":
            return f"1/{seconds(comparison.base)}"
        case _:
            return ""


def _metric(comparison: Comparison, metric: str) -> str:
    unit = _unit(comparison, metric)
    return METRICS[metric].title + (f" [{unit}]" if unit else "")


# --- numbers -----------------------------------------------------------------------------------


def _values(judged: Judged) -> tuple[str, str]:
    """The figure in each run, e.g. "8,023 (7,800 to 8,240)" or "3 of 1,000,000"."""
    return _value(judged.base), _value(judged.other)


def _value(point: Point) -> str:
    if point.of is not None:
        return f"{whole(point.count)} of {whole(point.of)}"
    value, low, high = (getattr(point.estimate, end) for end in ("value", "low", "high"))
    if low == high:
        return _exactly(value)
    if point.baseline is None:
        return level(value, (low, high))
    shown, first, last = measured(value, (low, high))
    return f"{shown} ({first} to {last})"


def _difference(judged: Judged) -> str:
    """E.g. "+8.6 % (4.3 to 12.9)" for a level, "+31 (29 to 33)" for a paired difference.

    The interval is the corrected one, by which it is judged. Another one could contradict the word.
    """
    found, effect = judged.corrected, judged.effect
    if judged.base.of is not None:
        return _share_difference(judged)
    if judged.base.baseline is not None or not effect:
        return _measured(found.value, found.low, found.high)
    scale = 100 * effect / found.value
    part = _measured(100 * effect, found.low * scale, found.high * scale, " %")
    return f"{_measured(found.value, found.low, found.high)}, {part}" if _is_exact(found) else part


def _is_exact(found: Difference) -> bool:
    return found.low == found.high


def _measured(value: float, low: float, high: float, unit: str = "") -> str:
    """E.g. "+31 (29 to 33)"; an exact value has no interval, and all its digits."""
    if low == high:
        return f"{signed(_exactly(value))}{unit}"
    shown, first, last = measured(value, (low, high))
    return f"{signed(shown)}{unit} ({first} to {last})"


def _exactly(value: float) -> str:
    """An exact value; without decimals if it is whole, as a count is."""
    return whole(value) if value == round(value) else significant(value)


def _share_difference(judged: Judged) -> str:
    """A difference of proportions, in the unit that suits the larger end."""
    found = judged.corrected
    scale, unit = (1e6, " in a million") if max(-found.low, found.high) < 1e-3 else (1e2, " %")
    return _measured(found.value * scale, found.low * scale, found.high * scale, unit)


# --- rows --------------------------------------------------------------------------------------


def tables(comparison: Comparison) -> tuple[Table, ...]:
    """Every compared figure by kind of measurement; alarms first, then the largest differences."""
    kinds = {judged.base.kind for judged in comparison.judged}
    order = _order(comparison)
    found = []
    for kind in (*(k for k in ANSWERS if k in kinds), *sorted(kinds - set(ANSWERS))):
        rows = tuple(_row(comparison, judged) for judged in order if judged.base.kind == kind)
        title = TABLES[kind].title if kind in TABLES else kind
        found.append(Table(kind, title, rows, sum(not row.notable for row in rows)))
    return tuple(found)


def word(judged: Judged) -> str:
    """The verdict in a word or three, e.g. "maybe slower"."""
    if judged.alarm:
        return _WORDS["share" if _is_loss(judged.base) else "faults"]["worse"]
    unit = METRICS[judged.base.metric].unit
    if judged.base.metric == "vm_exits_per_second":
        words = _WORDS["exits"]
    elif unit != "share":
        words = _WORDS["time"]
    else:
        words = _WORDS["share" if _is_loss(judged.base) else "faults"]
    return words.get(judged.verdict, SAME if judged.verdict == "same" else judged.verdict)


def _is_loss(point: Point) -> bool:
    """Whether the figure counts kicks or pauses that were lost, and not another fault."""
    return point.kind != "nested" and METRICS[point.metric].fault in ("lost", "rescued")


def _order(comparison: Comparison) -> list[Judged]:
    """The figures in the order of importance; those not different in the order of the scenario.

    Alarms come first, then figures by verdict, with paired differences before levels. Within these
    the largest come first, but the figures of one method of a case stay together.
    """
    largest: dict[tuple[str, str, str | None], float] = {}
    for judged in comparison.judged:
        key = judged.base.key[:3]
        largest[key] = max(largest.get(key, 0.0), abs(judged.effect or 0.0))

    def importance(judged: Judged) -> tuple[Any, ...]:
        order = (not judged.alarm, _ORDER.index(judged.verdict))
        if judged.verdict in ("same", "not comparable"):
            return order
        return (*order, judged.base.baseline is None, -largest[judged.base.key[:3]])

    return sorted(comparison.judged, key=importance)


def _row(comparison: Comparison, judged: Judged) -> Row:
    verdict = word(judged)
    base, other = _values(judged)
    reason = ""
    if judged.verdict == "not comparable" and not judged.alarm:
        reason = f": {_reason(comparison, judged)}"
    return Row(
        case=_case_label(comparison, judged.base.case),
        method=listed(list(dict.fromkeys(map(_method, (judged.base, judged.other))))),
        metric=_metric(comparison, judged.base.metric),
        base=base,
        other=other,
        difference=_difference(judged),
        word=verdict + reason,
        severity="bad" if judged.alarm else _SEVERITIES.get(judged.verdict, "none"),
        notable=judged.alarm or judged.verdict != "same",
        verdict=verdict,
    )


def _reason(comparison: Comparison, judged: Judged) -> str:
    """Why a figure is not comparable."""
    reasons = []
    if blocking := [change.title for change in comparison.changes if change.blocks]:
        reasons.append(f"environments differ in {listed(blocking)}")
    cases = [_PARAMETERS.get(key, key) for key in judged.differs_in]
    if cases:
        reasons.append(f"the cases differ in {listed(cases)}")
    return "; ".join(reasons)


# --- the answer --------------------------------------------------------------------------------


def headline(comparison: Comparison) -> tuple[Sentence, ...]:
    """The answer: alarms, how many figures differ, the worst and the best, the environment."""
    said = []
    if comparison.base["emulated"] and comparison.other["emulated"]:
        text = f"{emulation(comparison.base)}: no figure here is a time on hardware."
        said.append(Sentence(text, "none"))
    said += [Sentence(_alarm(comparison, judged), "bad") for judged in comparison.alarms]
    if comparison.of_itself:
        first, second = names(comparison)
        text = f"{first} and {second} are the same run, {comparison.base['run_id']}."
        said.append(Sentence(text, "none"))
    said.append(_answer(comparison))
    said += [Sentence(_loss(comparison, loss), "bad") for loss in comparison.losses]
    said += _largest(comparison)
    said += [Sentence(text, "none") for text in compare_vms(comparison)]
    if blind := _blind(comparison):
        said.append(Sentence(blind, "none"))
    said.append(Sentence(_environment(comparison.changes), "none"))
    return tuple(said)


def changes(comparison: Comparison) -> tuple[Change, ...]:
    """What differs between the environments; what forbids the comparison comes first."""
    return comparison.changes


def _alarm(comparison: Comparison, judged: Judged) -> str:
    first, second = names(comparison)
    before, after = _values(judged)
    return f"{_broken(comparison, judged.base, after)} in {second}; in {first} it was {before}."


def _loss(comparison: Comparison, loss: Loss) -> str:
    """Lost kicks that are not new in the other run, but that should not exist either."""
    first, second = names(comparison)
    if loss.base is None:
        return f"{_broken(comparison, loss.point)} in {second}; in {first} it was not measured."
    rest = f"it was {_value(loss.other)}" if loss.other is not None else "it was not measured"
    return f"{_broken(comparison, loss.point)} in {first} already; in {second} {rest}."


def _broken(comparison: Comparison, point: Point, count: str = "") -> str:
    """E.g. "sigmask (2 vCPUs, local) claims to be free of races, but lost 3 of 1,000,000 kicks"."""
    label = _case_label(comparison, point.case)
    if METRICS[point.metric].must_not:
        done = f"{count or _value(point)} accesses of the guest twice, or never"
        return f"{point.method} ({label}) did {done}"
    verb, of = ("lost", "kicks")
    if point.metric == "rescued":
        verb, of = ("needed a rescue in", "pauses")
    claim = f"{point.method} ({label}) claims to be free of races"
    return f"{claim}, but {verb} {count or _value(point)} {of}"


def _answer(comparison: Comparison) -> Sentence:
    first, second = names(comparison)
    judged = [j for j in comparison.comparable if not j.alarm]
    if not judged:
        barred = [j for j in comparison.judged if j.verdict == "not comparable"]
        reasons = "; ".join(dict.fromkeys(_reason(comparison, j) for j in barred))
        return Sentence(f"Nothing is comparable: {reasons or 'no other figure'}.", "none")
    total = ("the remaining " if comparison.alarms else "") + plural(len(judged), "figure")
    counts = Counter(word(j) for verdict in ("worse", "better") for j in comparison.of(verdict))
    maybe = len(comparison.of("maybe worse", "maybe better"))
    if not counts:
        known = "clear difference" if maybe else "difference"
        few = f"; {maybe} may differ" if maybe else ""
        return Sentence(f"No {known} seen in {total} between {first} and {second}{few}.", "none")
    clauses = [
        f"{_VERBS.get(one, f'is {one}')}{f' than {first}' if number == 0 else ''} in {count}"
        for number, (one, count) in enumerate(counts.items())
    ]
    also = f"; {maybe} more may differ" if maybe else ""
    return Sentence(
        f"{second} {listed(clauses)} of {total}{also}.",
        "bad" if comparison.of("worse") else "good",
    )


def _largest(comparison: Comparison) -> list[Sentence]:
    """The most important figure that got worse, and the one that got better."""
    said = []
    ends: tuple[tuple[str, Severity, Verdict], ...] = (
        ("Worst", "bad", "worse"),
        ("Best", "good", "better"),
    )
    order = [judged for judged in _order(comparison) if not judged.alarm]
    for begin, severity, verdict in ends:
        judged = next((judged for judged in order if judged.verdict == verdict), None)
        if judged is None:
            continue
        point = judged.base
        first, last = (text.partition(" (")[0] for text in _values(judged))
        unit = _unit(comparison, point.metric)
        said.append(
            Sentence(
                f"{begin}: {METRICS[point.metric].title} of {_method(point)}, "
                f"{_case_label(comparison, point.case)}: from {first} to {last}"
                f"{' ' if unit else ''}{unit}, by {_difference(judged)}.",
                severity,
            )
        )
    return said


def _blind(comparison: Comparison) -> str:
    """By how much figures had to change to be called different. A smaller change can be hidden.

    This is half the width of the interval of the difference; for a level, plus the minimal effect.
    Levels of a single process are left out, because they are never called different.
    """
    levels, paired = [], []
    for judged in comparison.comparable:
        base = judged.base
        level = base.estimate.value if base.baseline is None else base.reference
        if base.of is not None or not level or judged.single:
            continue
        half = (judged.corrected.high - judged.corrected.low) / 2 / abs(level)
        if base.baseline is None:
            levels.append(half + judged.least_effect)
        else:
            paired.append(half)
    parts = []
    if any(levels):
        parts.append(f"a level had to change by about {_part(statistics.median(levels))}")
    if any(paired):
        change = "" if parts else " had to change"
        size = _part(statistics.median(paired))
        parts.append(f"a paired difference{change} by about {size} of the level")
    if not parts:
        return ""
    of_them = " (the median of all)" if len(levels) > 1 or len(paired) > 1 else ""
    return f"To be called slower or faster, {', '.join(parts)}{of_them}; less may have gone unseen."


def _part(part: float) -> str:
    return f"{significant(part * 100, 2)} %"


def _environment(changed: Sequence[Change]) -> str:
    if not changed:
        return "The environments are the same, as far as they are known."
    named = [f"{c.title} ({_brief(c.before)}, {_brief(c.after)})" for c in changed[:_NAMED_CHANGES]]
    if more := len(changed) - len(named):
        named.append(f"{more} more")
    return f"The environments differ in {listed(named)}."


def _brief(text: str) -> str:
    return shorten(text, 40)


# --- what to know ------------------------------------------------------------------------------


def left_out(comparison: Comparison, most: int | None = None) -> tuple[str, ...]:
    """The figures that only one run has: a line for each reason, with ``most`` cases at most."""
    groups: dict[str, dict[str, list[Unmatched]]] = {}
    for item in comparison.unmatched:
        groups.setdefault(_lack(comparison, item), {}).setdefault(item.case, []).append(item)
    lines = []
    for reason, cases in groups.items():
        told = [_lacked(comparison, *case) for case in list(cases.items())[:most]]
        if more := len(cases) - len(told):
            told.append(f"{plural(more, 'more case')} (--all shows them)")
        lines.append(f"{reason}: {'; '.join(told)}")
    return tuple(lines)


def _lack(comparison: Comparison, item: Unmatched) -> str:
    first, second = names(comparison)
    lacks = first if item.lacks == "base" else second
    if item.metric is not None:
        return f"too few rounds or kicks in {lacks} for an interval"
    if item.method is not None:
        return f"not measured in {lacks}"
    if item.status is None:
        return f"not in the scenario of {lacks}"
    because = f" ({item.reason})" if item.reason else ""
    return f"{STATUS_WORDS.get(item.status, item.status)} in {lacks}{because}"


def _lacked(comparison: Comparison, case_id: str, items: Sequence[Unmatched]) -> str:
    """A case and its methods or figures; only the number of figures if there are many."""
    label = _case_label(comparison, case_id)
    methods = [item.method for item in items if item.method is not None and item.metric is None]
    if methods:
        return f"{label}: {listed(methods)}"
    figures = [
        f"{METRICS[item.metric].title} of {_pair(item)}"
        for item in items
        if item.metric is not None
    ]
    if not figures:
        return label
    return f"{label}: {listed(figures) if len(figures) <= _FEW else plural(len(figures), 'figure')}"


def _pair(item: Unmatched) -> str:
    return str(item.method) if item.baseline is None else f"{item.method} - {item.baseline}"


def caveats(comparison: Comparison) -> tuple[str, ...]:
    """What weakens the comparison, each in a few sentences."""
    said = [_doubt(comparison, doubt) for doubt in comparison.doubts]
    levels = (j for j in comparison.comparable if j.base.baseline is None and j.base.of is None)
    if any(j.difference.low < j.difference.high for j in levels):
        said.append(BOOTS if comparison.boots else LEVELS)
    return tuple(said)


def _doubt(comparison: Comparison, doubt: Doubt) -> str:
    run = names(comparison)[0 if doubt.side == "base" else 1]
    cases = plural(len(doubt.cases), "case")
    return _DOUBTS[doubt.what].format(run=run, cases=cases)
