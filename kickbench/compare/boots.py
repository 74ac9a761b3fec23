# SPDX-License-Identifier: Apache-2.0
"""Compares two kernels by boots: a run in each boot, and the boots in pairs of neighbours.

All processes of a boot share what the boot did once, for example where the kernel put its own
memory. So a boot is one value here, however many processes it measured. The difference of a pair is
other - base, and the interval is Student's t over the pairs. It holds what varies from boot to boot
of one kernel. That is why a level needs no minimal effect here, as it does between two runs
(:mod:`kickbench.compare.runs`). Kicks that were lost are counted over all boots.

Source: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1908).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from kickbench.compare.identity import Change
from kickbench.compare.metrics import Estimate, Point, points
from kickbench.compare.runs import (
    CONFIDENCE,
    Comparison,
    Doubt,
    Judged,
    Loss,
    Summary,
    are_exact,
    changed_metrics,
    compare,
    differs_in,
    level_of,
    verdict_of,
)
from kickbench.errors import ResultsError
from kickbench.numbers import plural
from kickbench.stats.contrasts import family_confidence, t_quantile
from kickbench.stats.independent import Difference, difference
from kickbench.stats.proportions import clopper_pearson

FEWEST_PAIRS = 2

Key = tuple[str, str, str | None, str]


def compare_boots(
    pairs: Sequence[tuple[Summary, Summary]],
    *,
    min_effect: float = 0.0,
    names: tuple[str, str] = ("base", "other"),
) -> Comparison:
    """Judge every figure that all boots have. Each pair is of two boots beside each other in time.

    ``min_effect`` is a part of the base's level, e.g. 0.05 for 5 %. Raises ResultsError, in one
    line, for fewer than two pairs, and for what :func:`kickbench.compare.runs.compare` refuses.
    """
    if len(pairs) < FEWEST_PAIRS:
        raise ResultsError(
            f"only {plural(len(pairs), 'pair')} of boots measured: an interval takes "
            f"{FEWEST_PAIRS}, because one pair does not show how pairs differ"
        )
    compared = [compare(*pair, names=names) for pair in pairs]
    first = compared[0]
    sides = [[{p.key: p for p in points(run)} for run in runs] for runs in zip(*pairs, strict=True)]
    keys = [key for key in sides[0][0] if all(key in boot for side in sides for boot in side)]
    if not keys:
        raise ResultsError("the boots have no figure in common")
    pooled = {key: _pooled(key, sides) for key in keys}
    differing = _differing(keys, pairs)
    changed = _changes(compared)
    forbidden = any(change.blocks for change in changed)
    family = sum(
        not (forbidden or differing[key] or are_exact(first.base, *pooled[key])) for key in keys
    )
    confidence = family_confidence(CONFIDENCE, max(1, family))
    judged = []
    for key in keys:
        one, two = pooled[key]
        values = [[boot[key].estimate.value for boot in side] for side in sides]
        corrected = _difference(one, two, values, confidence)
        level = level_of(one)
        judged.append(
            Judged(
                base=one,
                other=two,
                difference=_difference(one, two, values, CONFIDENCE),
                corrected=corrected,
                effect=corrected.value / level if level > 0 else None,
                least_effect=min_effect if one.baseline is None else 0.0,
                verdict="not comparable"
                if forbidden or differing[key]
                else verdict_of(one, corrected, min_effect if one.baseline is None else 0.0),
                differs_in=differing[key],
                alarm=two.race_free is True and one.count == 0 and bool(two.count),
                single=False,
            )
        )
    return replace(
        first,
        changes=changed,
        judged=tuple(judged),
        losses=tuple(Loss(one, two) for one, two in pooled.values() if one.race_free and one.count),
        unmatched=tuple(dict.fromkeys(item for one in compared for item in one.unmatched)),
        doubts=_doubts(compared),
        boots=len(pairs),
    )


def _pooled(key: Key, sides: Sequence[Sequence[dict[Key, Point]]]) -> tuple[Point, Point]:
    """The figure over all boots of each side."""
    one, two = (_over([boot[key] for boot in side]) for side in sides)
    return one, two


def _over(boots: Sequence[Point]) -> Point:
    """A figure over boots: their mean, with an interval of theirs; of counts, their sum."""
    first = boots[0]
    if first.of is not None:
        count = sum(boot.count or 0 for boot in boots)
        of = sum(boot.of or 0 for boot in boots)
        share = clopper_pearson(count, of)
        estimate = Estimate(share.estimate, share.low, share.high, 0)
        return replace(first, estimate=estimate, count=count, of=of)
    found = _interval([boot.estimate.value for boot in boots], CONFIDENCE)
    references = [boot.reference for boot in boots if boot.reference is not None]
    return replace(
        first,
        estimate=Estimate(found.value, found.low, found.high, len(boots)),
        reference=float(np.mean(references)) if references else None,
        floor=None,
    )


def _difference(
    one: Point, two: Point, values: Sequence[Sequence[float]], confidence: float
) -> Difference:
    """Other - base: over the pairs, or of two counts."""
    if one.of is not None:
        return difference(two.estimate, one.estimate, confidence=confidence)
    return _interval(np.subtract(values[1], values[0]), confidence)


def _interval(values: Iterable[float], confidence: float) -> Difference:
    """A mean and its interval by Student's t."""
    array = np.fromiter(values, float)
    mean = float(array.mean())
    error = float(array.std(ddof=1)) / len(array) ** 0.5
    half = t_quantile(confidence, len(array) - 1) * error
    return Difference(mean, mean - half, mean + half, confidence)


def _differing(
    keys: Iterable[Key], pairs: Sequence[tuple[Summary, Summary]]
) -> dict[Key, tuple[str, ...]]:
    """What forbids the comparison of each figure: parameters in which any two boots differ, or that
    it means different things in them."""
    (base, _), *_ = pairs
    others = [run for pair in pairs for run in pair]
    by_case = {
        case: tuple(dict.fromkeys(what for run in others for what in differs_in(base, run, case)))
        for case in {key[0] for key in keys}
    }
    changed = {metric for run in others for metric in changed_metrics(base, run)}
    return {key: by_case[key[0]] + (("schema",) if key[-1] in changed else ()) for key in keys}


def _changes(compared: Sequence[Comparison]) -> tuple[Change, ...]:
    """What changed around any pair, each once; what forbids the comparison comes first."""
    found: dict[str, Change] = {}
    for comparison in compared:
        for change in comparison.changes:
            found.setdefault(change.title, change)
    return tuple(sorted(found.values(), key=lambda change: not change.blocks))


def _doubts(compared: Sequence[Comparison]) -> tuple[Doubt, ...]:
    """The doubts of all boots. That a boot has one process is none: boots show what varies."""
    cases: dict[tuple[str, str], dict[str, None]] = {}
    first: dict[tuple[str, str], Doubt] = {}
    for doubt in (doubt for comparison in compared for doubt in comparison.doubts):
        if doubt.what not in ("one process", "waited"):
            key = doubt.what, doubt.side
            first.setdefault(key, doubt)
            cases.setdefault(key, {}).update(dict.fromkeys(doubt.cases))
    return tuple(replace(doubt, cases=tuple(cases[key])) for key, doubt in first.items())
