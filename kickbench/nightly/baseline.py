# SPDX-License-Identifier: Apache-2.0
"""The nights that a metric is judged by, and what they show without statistics.

These are the present normal, the baseline nights in it, whether tonight is evidence at all, and
since when a change lasts. :mod:`kickbench.nightly.decide` weighs all metrics together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kickbench.nightly import noise
from kickbench.nightly.judgement import Judgement, Verdict
from kickbench.nightly.noise import LONG, Floats
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import QUIET, Trend
from kickbench.numbers import plural

EXACT_NIGHTS = 2
"""Nights that an exact metric needs as its baseline."""

ESTABLISHED = 4.0
"""Scales by which LONG nights in a row must be better to become the normal without an accept."""

CREPT = 0.45
"""A change crept if no step from a week to the next makes so large a share of it."""


class Metric:
    """One trend, cleaned, in which upwards is worse, and what it shows without statistics."""

    def __init__(self, trend: Trend, tonight: int, pinned: int | None, settings: Settings) -> None:
        known = np.isfinite(trend.value) & (trend.night <= tonight)
        measured = bool((trend.night[known] == tonight).any())
        like, disturbed = trend.like(tonight), trend.disturbed(tonight)
        self.witness = not disturbed[trend.night == tonight].any()
        self.comparable = bool(like[trend.night == tonight].all())
        if not self.comparable:
            like = ~disturbed  # the nights before may have an alarm that is still open
        # A pinned run is the baseline, even if its night was disturbed.
        known &= like if pinned is None else like | (trend.night == pinned)
        self.trend, self.settings, self.tonight = trend, settings, tonight
        self.sign = 1.0 if trend.better == "lower" else -1.0
        self.night = trend.night[known]
        self.value = trend.value[known] * self.sign
        self.error = noise.standard_error(trend.low, trend.high, trend.processes)[known]
        self.exact = ((trend.low == trend.value) & (trend.high == trend.value))[known]
        self.normal = self.night >= trend.accepted_from
        self.usable = _settled_nights(trend.usable[known], self.normal)
        self.alarmed = ~trend.usable[known] & self.normal  # or forgotten
        self.reference = None if trend.reference is None else trend.reference[known]
        self.pinned = np.flatnonzero(self.night == pinned) if pinned is not None else None
        self.verdict: Verdict | None = None
        self.reason = ""
        if not measured:
            self.verdict, self.reason = "not measured", "tonight has no value"
        elif not self.comparable:
            self.verdict, self.reason = "no witness", _why_no_witness(trend, tonight)
        elif settings.pinned is not None and (self.pinned is None or not len(self.pinned)):
            self.verdict = "too little history"
            self.reason = f"the pinned run {settings.pinned} has no value of this metric"
        else:
            self._look_at_history()
            if self.verdict is not None and not self.witness:
                self.verdict, self.reason = "no witness", _why_no_witness(trend, tonight)

    def _look_at_history(self) -> None:
        if self.pinned is None:
            self._move_normal_to_improvements()
        self.exact_value = self._exact_value()
        if self.exact_value is not None:
            return
        shortest, need = self.settings.windows[0], self.settings.min_nights
        end = len(self.night) - shortest
        have, own = len(self.scatter(end)), len(self.level(end))
        if have >= need:
            have, need = own, self.fewest
        judged = int(np.count_nonzero(self.normal[-shortest:]))
        if have < need or judged < min(shortest, len(self.night)):
            self.verdict = "too little history"
            self.reason = (
                f"{self._what_is_new()}: {have} of the {need} nights that a baseline needs"
                + (f", besides the {shortest} that are judged together" if shortest > 1 else "")
                + f"; {plural(need - have + shortest - judged, 'more night')} to go"
            )

    def _what_is_new(self) -> str:
        begin = self.trend.accepted_from
        if self.night[0] >= begin:
            return "a new metric"
        ago = plural(self.tonight - begin, "night") + " ago" if begin < self.tonight else "tonight"
        return f"the new normal that was accepted began {ago}"

    def _move_normal_to_improvements(self) -> None:
        """Let the present normal begin where the metric became better and stayed better.

        Otherwise the baseline would still have the nights before, and a later regression to their
        level would not stand out.
        """
        while True:
            nights = np.flatnonzero(self.usable & self.normal)
            start = _improvement(
                self.value[nights], self.error[nights], self.minimal, self.settings
            )
            if start is None:
                return
            self.normal &= np.arange(len(self.normal)) >= nights[start]

    def _exact_value(self) -> float | None:
        """The last value of an exact metric in its baseline; None if the metric is not exact."""
        if self.pinned is not None:
            before = self.pinned
        else:
            before = np.flatnonzero((self.usable & self.normal)[:-1])
            before = before[-self.settings.baseline_nights :]
            if len(before) < EXACT_NIGHTS:
                return None
        if not self.exact[before].all() or not self.exact[-1]:
            return None
        # An exact metric may have had steps, but not one every night.
        jumps = np.count_nonzero(np.diff(self.value[before]))
        if jumps > (len(before) + 5) // 10:
            return None
        return float(self.value[before[-1]])

    def level(self, end: int) -> NDArray[np.intp]:
        """The latest nights before ``end``, which give the level."""
        if self.pinned is not None:
            return self.pinned
        return np.flatnonzero((self.usable & self.normal)[:end])[-self.settings.baseline_nights :]

    def scatter(self, end: int) -> NDArray[np.intp]:
        """The latest nights before ``end``, which show how far nights scatter.

        They are those of the present normal. While these are too few, they are those of the normal
        before: nights scatter no less because a new level was accepted.
        """
        own = np.flatnonzero((self.usable & self.normal)[:end])
        if len(own) < self.settings.min_nights:
            earlier = np.flatnonzero((self.usable & ~self.normal)[:end])
            own = earlier if len(earlier) >= self.settings.min_nights else own
        return own[-self.settings.baseline_nights :]

    def anchor(self, end: int) -> NDArray[np.intp]:
        """The first nights of the present normal, which do not move with a drift."""
        if self.pinned is not None:
            return self.pinned
        return np.flatnonzero((self.usable & self.normal)[:end])[: self.settings.baseline_nights]

    def possible(self, end: int, level: NDArray[np.intp], scatter: NDArray[np.intp]) -> bool:
        """Whether the nights from ``end`` on can be judged by these."""
        enough = len(level) >= self.fewest and len(scatter) >= self.settings.min_nights
        return end > 0 and enough and bool(self.normal[end:].all())

    @property
    def unit(self) -> float:
        """What a relative effect of 1 is in the metric's unit; 0 if there is no level yet."""
        before = self.level(len(self.night) - 1)
        if not len(before):
            return 0.0
        of = self.value if self.reference is None else self.reference
        found = abs(float(np.median(of[before])))
        return found if np.isfinite(found) else 0.0

    @property
    def fewest(self) -> int:
        """Nights that a level needs, so that no outlier shifts it. One pinned run is enough."""
        return 1 if self.pinned is not None else 3

    @property
    def open(self) -> bool:
        """Whether one of the latest nights raised an alarm."""
        return bool(self.alarmed[-LONG - 1 : -1].any())

    @property
    def minimal(self) -> float:
        return self.settings.minimal(self.trend.key) * self.unit

    def since(self, level: float, effect: float) -> int:
        """The first night of the change that lasts until tonight, as an index of the values.

        If the change is on top of earlier alarms that nobody accepted, it is the first night of the
        first of them. Steps on top of each other are one change, and so is a drift.
        """
        away = (self.value - level) * np.sign(effect)
        first = self._begin(away, len(away) - 1, abs(effect))
        while True:
            earlier = np.flatnonzero(self.alarmed[max(0, first - LONG) : first])
            if not len(earlier):
                return first
            at = max(0, first - LONG) + int(earlier[-1])
            size = float(np.median(away[max(0, at - 2) : at + 1]))
            between = away[at + 1 : first]
            lasted = len(between) < 2 or float(np.median(between)) > size / 2
            if not (size > self.minimal and lasted):
                return first
            first = self._begin(away, at, size)

    def _begin(self, away: Floats, last: int, size: float) -> int:
        """The first night of a change of this size that lasts until ``last``.

        A single night in between may lack the change.
        """
        beyond = (away > size / 2) & self.normal
        first = last
        while last > 0 and (beyond[last - 1] or (last > 1 and beyond[last - 2] and beyond[last])):
            last -= 1
            if beyond[last]:
                first = last
        return first

    def crept(self, level: float, effect: float, scale: float) -> bool:
        """Whether no single step from a week to the next makes CREPT of the change."""
        begin = max(0, self.since(level, effect) - 3 * LONG)
        value = self.value[begin:][self.normal[begin:]]
        if len(value) < 2 * LONG:
            return False
        aside = np.full(LONG - 3, np.nan)
        weeks = sliding_window_view(np.concatenate([aside, value, aside]), LONG)
        level_of = noise.row_median(weeks)
        steps = (level_of[LONG:] - level_of[:-LONG]) * np.sign(effect)
        # The largest of many steps is about a scale too large.
        return bool(steps.max() - scale < CREPT * abs(effect))

    def settled(self) -> Judgement:
        """The judgement of a metric that cannot be weighed."""
        assert self.verdict is not None
        still = self.verdict == "no witness" and bool(self.alarmed[-1:].any())
        return Judgement(self.trend.key, self.verdict, self.reason, open=still)

    def without_witness(self, found: Judgement) -> Judgement:
        """A judgement on a host that is never quiet. It may be a suspect, but it is no alarm."""
        return replace(
            found,
            verdict="no witness",
            reason=_why_no_witness(self.trend, self.tonight),
            since=None,
            suspect=found.verdict == "regression",
        )

    def judge_exactly(self) -> Judgement:
        assert self.exact_value is not None
        level, change = self.exact_value, float(self.value[-1]) - self.exact_value
        verdict: Verdict = (
            "no change" if change == 0 else "regression" if change > 0 else "improvement"
        )
        effect = change * self.sign
        return Judgement(
            self.trend.key,
            verdict,
            "an exact figure, the same as before"
            if change == 0
            else "an exact figure that differs from before",
            effect=effect,
            relative=effect / self.unit if self.unit else np.nan,
            low=effect,
            high=effect,
            p=float(change == 0),
            q=float(change == 0),
            since=None if change == 0 else int(self.night[self.since(level, change)]),
            nights=(self.tonight,),
            baseline=level * self.sign,
            baseline_nights=len(self.level(len(self.night) - 1)),
            tau=0.0,
        )


def _why_no_witness(trend: Trend, night: int) -> str:
    load = np.nan if trend.load is None else float(trend.load[trend.night == night][0])
    if load > QUIET:
        return f"the host was busy (others used {100 * load:.0f} % of its CPUs)"
    if trend.odd is not None and trend.odd[trend.night == night].any():
        return "the cases of the night disagree far more than they usually do"
    return "the A/A control found that the baseline differs from itself"


def _settled_nights(usable: NDArray[np.bool_], normal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The nights that may be baseline. After an alarm, LONG nights in a row must raise none.

    A change that is just large enough for an alarm does not raise one every night. It must not
    become the normal through the nights in between.
    """
    result = usable.copy()
    start = 0
    alarmed = False
    for i in range(len(usable) + 1):
        if i == len(usable) or not usable[i]:
            if alarmed and i - start < LONG:
                result[start:i] = False
            alarmed = alarmed or (i < len(usable) and bool(normal[i]))
            start = i + 1
    return result


def _improvement(value: Floats, error: Floats, minimal: float, settings: Settings) -> int | None:
    """Where ``value`` became better for LONG nights in a row, all but one of them.

    It is better by ESTABLISHED scales of the baseline before, which so many nights cannot be by
    luck.
    """
    least, most = settings.min_nights, settings.baseline_nights
    if len(value) < least + LONG:
        return None
    after = sliding_window_view(value, LONG)[least:]
    padded = np.concatenate([np.full(most - least, np.nan), value])
    before = sliding_window_view(padded, most)[: len(after)]
    level = noise.row_median(before)
    scale = 1.4826 * noise.row_median(np.abs(before - level[:, None]))
    # The scale of a few nights may be far too small by luck.
    scale = np.maximum(scale, np.median(error)) * (1 + LONG / np.isfinite(before).sum(1))
    gain = level - np.median(after, 1)
    better = after < (level - gain / 2)[:, None]
    found = (gain > minimal) & (gain > ESTABLISHED * scale)
    found &= better[:, 0] & (better.sum(1) >= LONG - 1)
    return least + int(found.argmax()) if found.any() else None
