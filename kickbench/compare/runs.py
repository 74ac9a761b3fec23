# SPDX-License-Identifier: Apache-2.0
"""Compares two runs of a scenario, from their summaries alone, and judges every figure.

A paired difference of a run does not contain what sets two runs apart. So its interval is enough to
judge it. The level of a method does contain it: the next run of the same kernel differs by some per
cent, and by much more if something else was running. The interval of a single run cannot show that.
A level is therefore called different only if it differs by more than a minimal effect, plus what
waiting for a CPU explains. A run with a single process cannot know how processes differ, so its
levels are never called different. A difference that is seen, but may be smaller than that, is a
"maybe". ``docs/compare.md`` has the reasons, and measures how often a verdict is wrong.

The sentences are in :mod:`kickbench.report.words.comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kickbench.compare.identity import NONE, UNKNOWN, Change, changes
from kickbench.compare.metrics import METRICS, OBSERVED, Point, control_ok, points
from kickbench.errors import ResultsError
from kickbench.results.schema import one_line
from kickbench.stats.contrasts import family_confidence
from kickbench.stats.independent import Difference, difference

if TYPE_CHECKING:
    import pandas as pd

Summary = Mapping[str, Any]

CONFIDENCE = 0.95
"""The confidence for all figures of a comparison together."""

_ROUNDING = 1e-9
"""The error of floating-point arithmetic in an exact count, as a part of the level."""

_CALIBRATION = 1e-5
"""The difference between two processes that measure the same time, as a part of the level: each
finds its clock's rate for itself. (4 in 10 million were seen with an emulator's clock, for the same
number of cycles.)"""

PARAMETERS = (
    "kind",
    "program",
    "irqchip",
    "vcpus",
    "placement_spec",
    "exit_rate_hz",
    "arrival",
    "mix",
    "gaps_us",
    "vcpu_rates",
    "transport",
    "state",
    "kickers",
    "kick_rate_hz",
    "window_ns",
    "pause_gap_us",
    "order",
    "after",
    "foreign_signals_hz",
    "siglock_threads",
    "siglock_hz",
)
"""The keys of a case that must be equal for its figures to be comparable. So must its clock."""

UNKNOWN_PROTOCOL = "unknown"
"""The id of the protocol of an observed VM that nobody kicked, for example. It may be any."""
OTHER_WAYS = 0.1
"""Two observed VMs leave for different reasons if this share of their exits differs."""

Verdict = Literal["worse", "better", "maybe worse", "maybe better", "same", "not comparable"]
Side = Literal["base", "other"]


@dataclass(frozen=True)
class Judged:
    """One figure that both runs have.

    ``difference`` is other - base at 95 %. ``corrected`` is the same, widened so that the intervals
    of all judged figures hold at once. ``effect`` is the difference as a part of the base's level;
    None without one. ``least_effect`` is the part of that level by which the two must differ.
    ``differs_in`` says what forbids the comparison: parameters of the case, "clock", or "schema" if
    the runs mean different things by the figure. Changes of the environment that block are not
    here, but in the comparison. ``alarm`` says that a protocol that claims to be free of races lost
    a kick, and had lost none in the base. ``single`` says that it is a level of a single process.
    The next process may differ by any amount, so the verdict is at most a maybe.
    """

    base: Point
    other: Point
    difference: Difference
    corrected: Difference
    effect: float | None
    least_effect: float
    verdict: Verdict
    differs_in: tuple[str, ...]
    alarm: bool
    single: bool


@dataclass(frozen=True)
class Loss:
    """Kicks that a protocol lost although it claims to be free of races, but that are no alarm.

    Either the base lost some itself, or it has no such figure, and ``base`` is None. ``other`` is
    None if the other run has no such figure.
    """

    base: Point | None
    other: Point | None

    @property
    def point(self) -> Point:
        """The figure of the run that lost kicks, the base before the other."""
        found = self.base or self.other
        assert found is not None
        return found


@dataclass(frozen=True)
class Unmatched:
    """Figures that only one run has: those of a case, of a method of a case, or a single one.

    ``status`` and ``reason`` are those of the case in the run that ``lacks`` it; None if that run
    has no such case or method at all.
    """

    case: str
    method: str | None
    baseline: str | None
    metric: str | None
    lacks: Side
    status: str | None
    reason: str | None


@dataclass(frozen=True)
class Doubt:
    """Something that weakens the comparison: what, in which run, and in which of its cases."""

    what: Literal[
        "schema", "partial", "control", "oversubscribed", "waited", "one process", "one observation"
    ]
    side: Side
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two runs of one scenario. ``judged`` is in the order of the base's cases and figures.

    ``names`` are the names of the two, which are not equal. ``boots`` is how many boots each side
    has, if boots are compared and not runs (:mod:`kickbench.compare.boots`). ``base`` and ``other``
    are the first of them then.
    """

    base: Summary
    other: Summary
    names: tuple[str, str]
    changes: tuple[Change, ...]
    judged: tuple[Judged, ...]
    losses: tuple[Loss, ...]
    unmatched: tuple[Unmatched, ...]
    doubts: tuple[Doubt, ...]
    boots: int = 0

    @property
    def of_itself(self) -> bool:
        """Whether both are the same run."""
        same = ("run_id", "cases")
        return all(self.base[key] == self.other[key] for key in same)

    def of(self, *verdicts: Verdict) -> tuple[Judged, ...]:
        """The figures with one of the verdicts, without those that are an alarm."""
        return tuple(j for j in self.judged if j.verdict in verdicts and not j.alarm)

    @property
    def min_effect(self) -> float:
        """The smallest part by which a level had to differ; 0 without levels."""
        levels = (j.least_effect for j in self.judged if j.base.baseline is None)
        return min(levels, default=0.0)

    @property
    def alarms(self) -> tuple[Judged, ...]:
        """The figures of protocols that claim to be free of races and newly lost kicks."""
        return tuple(judged for judged in self.judged if judged.alarm)

    @property
    def regressions(self) -> tuple[Judged, ...]:
        """Everything that got worse: the alarms, wherever they were measured, and the rest."""
        return (*self.alarms, *self.of("worse"))

    @property
    def comparable(self) -> tuple[Judged, ...]:
        """The figures that were judged."""
        return tuple(j for j in self.judged if j.verdict != "not comparable" or j.alarm)

    def frame(self) -> pd.DataFrame:
        """A row for each figure of ``judged``, in the same order.

        ``base`` and ``other`` have their own intervals of 95 % beside them (``base_low``), and
        ``diff``, which is other - base, has one from ``low`` to ``high``. All are in ``unit``. The
        interval from ``family_low`` to ``family_high`` is the one that was judged. The rest is as
        in :class:`Judged`.
        """
        import pandas as pd  # takes longer to load than a comparison

        rows = [
            {
                "case": judged.base.case,
                "kind": judged.base.kind,
                "method": judged.base.method,
                "baseline": judged.base.baseline,
                "metric": judged.base.metric,
                "unit": METRICS[judged.base.metric].unit,
                "base": judged.base.estimate.value,
                "base_low": judged.base.estimate.low,
                "base_high": judged.base.estimate.high,
                "other": judged.other.estimate.value,
                "other_low": judged.other.estimate.low,
                "other_high": judged.other.estimate.high,
                "diff": judged.difference.value,
                "low": judged.difference.low,
                "high": judged.difference.high,
                "family_low": judged.corrected.low,
                "family_high": judged.corrected.high,
                "effect": judged.effect,
                "least_effect": judged.least_effect,
                "verdict": judged.verdict,
                "differs_in": judged.differs_in,
                "alarm": judged.alarm,
            }
            for judged in self.judged
        ]
        words = ("case", "kind", "method", "baseline", "metric", "unit", "verdict")
        return pd.DataFrame(rows).astype({**dict.fromkeys(words, "category"), "effect": "float64"})


def default_names(others: int) -> list[tuple[str, str]]:
    """Names for the base and each of ``others`` runs: "other", or "other 1", "other 2"."""
    if others == 1:
        return [("base", "other")]
    return [("base", f"other {number}") for number in range(1, others + 1)]


def compare(
    base: Summary,
    other: Summary,
    *,
    min_effect: float | None = None,
    names: tuple[str, str] = ("base", "other"),
) -> Comparison:
    """Judge every figure that both runs have; the summaries are not changed.

    ``min_effect`` is a part of the base's level, e.g. 0.05 for 5 %; by default each metric has its
    own. ``names`` are the names of the two. Raises ResultsError, in one line, for runs of different
    scenarios, a run without a finished case, and runs without a figure in common.
    """
    names_matter = not (is_observed(base) and is_observed(other))
    if names_matter and base["scenario"] != other["scenario"]:
        raise ResultsError(
            one_line(
                f"the runs are of different scenarios, {base['scenario']} and "
                f"{other['scenario']}; compare two runs of one scenario"
            )
        )
    for summary in (base, other):
        if not any(case["status"] == "ok" for case in summary["cases"]):
            raise ResultsError(
                one_line(
                    f"{summary['run_id']}: no case finished, so there is nothing to compare; "
                    "kickbench show has the reasons"
                )
            )
    environment = _changes(base, other)
    pairs = _pairs(base, other)
    if not pairs:
        raise ResultsError(
            one_line(
                f"{base['run_id']} and {other['run_id']} have no figure in common: no case, method "
                "and metric was measured in both with an interval; run both with the same scenario "
                "file, and for long enough"
            )
        )
    by_case = {case: differs_in(base, other, case) for case in {one.case for one, _ in pairs}}
    changed = changed_metrics(base, other)
    differing = {
        one.key: (*by_case[one.case], *(("schema",) if one.metric in changed else ()))
        for one, _ in pairs
    }
    forbidden = any(change.blocks for change in environment)
    # Exact counts need no correction for chance, and figures that are not comparable are not
    # judged.
    family = [
        (one, two)
        for one, two in pairs
        if not (forbidden or differing[one.key] or are_exact(base, one, two))
    ]
    confidence = family_confidence(CONFIDENCE, max(1, len(family)))
    judged = []
    for one, two in pairs:
        exact = are_exact(base, one, two)
        least_effect = 0.0 if exact else _least_effect(one, two, min_effect)
        single = not exact and _single(one, two)
        corrected = difference(two.estimate, one.estimate, confidence=confidence)
        level = level_of(one)
        judged.append(
            Judged(
                base=one,
                other=two,
                difference=difference(two.estimate, one.estimate),
                corrected=corrected,
                effect=corrected.value / level if level > 0 else None,
                least_effect=least_effect,
                verdict="not comparable"
                if forbidden or differing[one.key]
                else verdict_of(one, corrected, math.inf if single else least_effect),
                differs_in=differing[one.key],
                alarm=two.race_free is True and one.count == 0 and bool(two.count),
                single=single,
            )
        )
    return Comparison(
        base=base,
        other=other,
        names=names,
        changes=tuple(environment),
        judged=tuple(judged),
        losses=tuple(_losses(base, other)),
        unmatched=tuple(_unmatched(base, other)),
        doubts=(
            *_earlier(base, other, [one for one, _ in pairs if one.metric in changed]),
            *_doubts("base", base, by_case),
            *_doubts("other", other, by_case),
            *_waits(pairs),
        ),
    )


def is_observed(summary: Summary) -> bool:
    """Whether a run observed a VM. Its name is that of the VM, and not of a scenario."""
    return bool(summary["cases"]) and all(case.get("kind") == OBSERVED for case in summary["cases"])


# --- one figure --------------------------------------------------------------------------------


def _changes(base: Summary, other: Summary) -> list[Change]:
    """What changed around the two; what forbids the comparison comes first, as an emulator does."""
    found = changes(base["environment"], other["environment"])
    emulators = [
        str(run["emulated_by"] or UNKNOWN) if run["emulated"] else NONE for run in (base, other)
    ]
    if emulators[0] != emulators[1]:
        before, after = map(one_line, emulators)
        found.insert(0, Change("emulator", before, after, blocks=True))
    return found


def _pairs(base: Summary, other: Summary) -> list[tuple[Point, Point]]:
    there = {point.key: point for point in points(other)}
    return [(point, there[point.key]) for point in points(base) if point.key in there]


def verdict_of(base: Point, corrected: Difference, least_effect: float) -> Verdict:
    """The verdict. To be worse or better, the whole interval must be beyond the least effect."""
    of_clock = METRICS[base.metric].unit in ("ns", "1/s")
    rounding = (_CALIBRATION if of_clock else _ROUNDING) * level_of(base)
    if not corrected.seen or abs(corrected.value) <= rounding:
        return "same"
    worse = (corrected.value > 0) == (METRICS[base.metric].better == "lower")
    nearest = min(abs(corrected.low), abs(corrected.high))
    if nearest > least_effect * level_of(base):
        return "worse" if worse else "better"
    return "maybe worse" if worse else "maybe better"


def _single(one: Point, two: Point) -> bool:
    """Whether it is a level that rests on a single process in one of the runs.

    The paired differences of processes differ no more than those of rounds do: docs/compare.md has
    the numbers.
    """
    return one.baseline is None and 1 in (one.estimate.processes, two.estimate.processes)


def _least_effect(one: Point, two: Point, min_effect: float | None) -> float:
    """The part of the base's level by which the two must differ; 0 for a paired difference."""
    if one.baseline is not None:
        return 0.0
    own = METRICS[one.metric].min_effect
    return (own if min_effect is None else min_effect) + _waited(one, two)


def _waited(one: Point, two: Point) -> float:
    """The part of a level that may come of one run's vCPUs having waited longer for a CPU.

    This holds for the CPU time too, because what ran meanwhile took the caches.
    """
    return abs((one.waiting or 0.0) - (two.waiting or 0.0))


def are_exact(base: Summary, one: Point, two: Point) -> bool:
    """Whether both are counts of a deterministic emulator, which do not vary by chance.

    On hardware, an interval without width only means that the clock was too coarse.
    """
    return bool(base["emulated"]) and all(
        point.estimate.high - point.estimate.low <= _ROUNDING * level_of(point)
        for point in (one, two)
    )


def level_of(point: Point) -> float:
    """The size of which an effect is a part; 0 if it is not known."""
    level = point.estimate.value if point.baseline is None else point.reference
    return abs(level or 0.0)


def differs_in(base: Summary, other: Summary, case_id: str) -> tuple[str, ...]:
    """The parameters in which a case differs, of those that both summaries have."""
    one, two = _case(base, case_id), _case(other, case_id)
    found = []
    if _clocks(one) and _clocks(two) and _clocks(one) != _clocks(two):
        found.append("clock")
    for key in PARAMETERS:
        # At full speed exits do not arrive; they follow each other.
        said = key in one and key in two and (key != "arrival" or one["exit_rate_hz"] is not None)
        if said and one[key] != two[key]:
            found.append(key)
    if one["kind"] == two["kind"] == OBSERVED:
        found += _differ_as_vms(one, two)
    return tuple(found)


def _differ_as_vms(one: Summary, two: Summary) -> Iterator[str]:
    """In what two observed VMs differ so much that one is not slower than the other."""
    if len({one["protocol"]["id"], two["protocol"]["id"]} - {UNKNOWN_PROTOCOL}) > 1:
        yield "protocol"
    shares = [_shares(case["exits"]["ways"]) for case in (one, two)]
    apart = [
        abs(shares[0].get(key, 0.0) - shares[1].get(key, 0.0)) for key in {**shares[0], **shares[1]}
    ]
    if sum(apart) / 2 > OTHER_WAYS:
        yield "ways"


def _shares(ways: Sequence[Summary]) -> dict[tuple[Any, ...], float]:
    return {tuple(way[key] for key in _WAY): float(way["share"]) for way in ways}


_WAY = ("reason", "write", "size", "address")


def changed_metrics(base: Summary, other: Summary) -> set[str]:
    """The metrics that mean different things in the two runs."""
    schemas = base["run_schema"], other["run_schema"]
    return {name for name, metric in METRICS.items() if metric.changed_between(*schemas)}


def _clocks(case: Summary) -> set[str]:
    """The kinds of clock that the case's processes had; empty if they are not known."""
    return {str(clock["kind"]) for clock in case.get("clocks") or ()}


def _case(summary: Summary, case_id: str) -> Summary:
    found: Summary = next(case for case in summary["cases"] if case["id"] == case_id)
    return found


def _losses(base: Summary, other: Summary) -> Iterator[Loss]:
    """The losses of protocols that claim to be free of races, without those that are alarms."""
    sides = [
        {point.key: point for point in points(run) if point.of is not None and point.race_free}
        for run in (base, other)
    ]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, two = sides[0].get(key), sides[1].get(key)
        if (one is not None and one.count) or (one is None and two is not None and two.count):
            yield Loss(one, two)


# --- what only one run has ---------------------------------------------------------------------


def _unmatched(base: Summary, other: Summary) -> Iterator[Unmatched]:
    """Whole cases first, then methods of cases that both have, then single figures."""
    finished = {
        side: {case["id"]: case for case in summary["cases"] if case["status"] == "ok"}
        for side, summary in (("base", base), ("other", other))
    }
    sides: tuple[tuple[Side, Side, Summary], ...] = (
        ("base", "other", other),
        ("other", "base", base),
    )
    for has, lacks, summary in sides:
        there = {case["id"]: case for case in summary["cases"]}
        for case_id in finished[has]:
            if case_id not in finished[lacks]:
                case = there.get(case_id, {})
                status, reason = case.get("status"), case.get("reason")
                yield Unmatched(case_id, None, None, None, lacks, status, reason)
    for has, lacks, _ in sides:
        for case_id in finished[has]:
            if case_id in finished[lacks]:
                if finished[has][case_id]["kind"] == OBSERVED:
                    continue  # another protocol is a finding
                here, there = finished[has][case_id]["methods"], finished[lacks][case_id]["methods"]
                for method in here:
                    if method not in there:
                        yield Unmatched(case_id, method, None, None, lacks, None, None)
    found = {"base": points(base), "other": points(other)}
    for has, lacks, _ in sides:
        others = {point.key for point in found[lacks]}
        for point in found[has]:
            case = finished[lacks].get(point.case)
            if case is None or point.key in others:
                continue
            if point.kind != OBSERVED and point.method not in case["methods"]:
                continue
            if "exit_rate_hz" in differs_in(base, other, point.case):
                continue  # only one is at full speed, so the other has no figure of its rate
            baseline, metric = point.baseline, point.metric
            yield Unmatched(point.case, point.method, baseline, metric, lacks, "ok", None)


def _earlier(base: Summary, other: Summary, changed: Sequence[Point]) -> Iterator[Doubt]:
    """The earlier of two runs if some figures mean different things, and the cases of these."""
    if changed:
        side: Side = "base" if base["run_schema"] < other["run_schema"] else "other"
        yield Doubt("schema", side, tuple(dict.fromkeys(point.case for point in changed)))


def _doubts(side: Side, summary: Summary, compared: Collection[str]) -> Iterator[Doubt]:
    """What weakens the figures of a run by itself, in the compared cases only."""
    cases = [case for case in summary["cases"] if case["id"] in compared]

    def ids(chosen: list[Summary]) -> tuple[str, ...]:
        return tuple(case["id"] for case in chosen)

    if not summary["complete"]:
        yield Doubt("partial", side, ids(cases))
    if wrong := [case for case in cases if control_ok(case) is False]:
        yield Doubt("control", side, ids(wrong))
    if crowded := [case for case in cases if case.get("oversubscribed")]:
        yield Doubt("oversubscribed", side, ids(crowded))
    if once := [case for case in cases if case["kind"] == OBSERVED]:
        yield Doubt("one observation", side, ids(once))
    counted = ("race", OBSERVED)
    single = [case for case in cases if case["kind"] not in counted and case.get("processes") == 1]
    if single:
        yield Doubt("one process", side, ids(single))


def _waits(pairs: Sequence[tuple[Point, Point]]) -> Iterator[Doubt]:
    """The cases in which one run waited for a CPU by more than a minimal effect longer."""
    sides: tuple[Side, ...] = ("base", "other")
    for side in sides:
        cases = [
            one.case
            for one, two in pairs
            if _waited(one, two) > METRICS[one.metric].min_effect
            and ((one.waiting or 0.0) > (two.waiting or 0.0)) == (side == "base")
        ]
        if cases:
            yield Doubt("waited", side, tuple(dict.fromkeys(cases)))
