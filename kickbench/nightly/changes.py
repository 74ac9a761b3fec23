# SPDX-License-Identifier: Apache-2.0
"""Change points: when a metric changed for good, over its whole history, and what changed with it.

KernelCPD of ruptures finds the candidates: an exact segmentation (PELT, in C) with a linear kernel,
which is the sum of squares around each segment's mean. Its input is prepared for squares. Outliers
of one night or two are pulled in to the level around them. All values are in units of the noise
that is left, which for slow noise is that of averaged nights. So the penalty depends on the number
of nights alone. A candidate must also be larger than the minimal effect and than its own
uncertainty, by robust levels on both sides. Those that are not are taken out, the weakest first.

Why ruptures: it is exact, small, in C where it counts, BSD-licensed, and needs only numpy and
scipy. Apache Otava (hunter) has the same purpose, but pins its numpy and needs cloud clients.
Bayesian online detection needs a prior for the size of steps, which nobody knows.

Nothing here raises an alarm; that is :mod:`kickbench.nightly.decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ruptures
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from kickbench.compare.identity import Change, changes
from kickbench.nightly import noise
from kickbench.nightly.noise import Floats
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend

SHORTEST = 4
"""The nights that a level must last."""

PENALTY = 3.0
"""Times 2 log n, the BIC's penalty for a step in n nights, which assumes normal noise."""

CERTAIN = 4.5
"""The standard errors that a step must exceed."""

LARGEST = 1e100
"""Squares of larger values would overflow. No real figure is near it."""

_FAR = 1e6  # noise scales, beyond which more makes no difference
_CLIP = 3.0
_T_975 = 2.1  # a few nights on either side


@dataclass(frozen=True)
class ChangePoint:
    """A metric's level before and after a night.

    Sizes are in the metric's unit. ``low`` and ``high`` are the 95 % interval of ``size``.
    ``relative`` is a share of the level, or of a paired difference's reference.
    """

    key: Key
    night: int  # index of the first night of the new level
    when_utc: str
    run_before: str
    run_after: str
    before: float
    after: float
    low: float
    high: float
    relative: float
    direction: Literal["worse", "better"]
    environment: tuple[Change, ...]

    @property
    def size(self) -> float:
        """after - before"""
        return self.after - self.before


def change_points(trends: Sequence[Trend], nights: Nights, settings: Settings) -> list[ChangePoint]:
    """All change points of all metrics, in the order of the trends, oldest first."""
    found: dict[tuple[int, int], tuple[Change, ...]] = {}

    def environment(before: int, after: int) -> tuple[Change, ...]:
        if (before, after) not in found:
            pair = (nights.environment[before], nights.environment[after])
            found[before, after] = tuple(changes(*pair))
        return found[before, after]

    points = []
    for trend in trends:
        known = np.abs(trend.value) < LARGEST
        if (quiet := known & ~trend.disturbed(len(nights) - 1)).sum() > known.sum() / 2:
            known = quiet  # on a host that is busy on most nights, all nights count
        value, night = trend.value[known], trend.night[known]
        edges = _edges(trend, value, known, settings)
        for left, edge, right in zip(edges, edges[1:-1], edges[2:], strict=False):
            step = _step(value, left, edge, right)
            last, first = int(night[edge - 1]), int(night[edge])
            worse = (step.size > 0) == (trend.better == "lower")
            unit = _unit(trend, known, left, edge)
            points.append(
                ChangePoint(
                    trend.key,
                    night=first,
                    when_utc=nights.when_utc[first],
                    run_before=nights.run_id[last],
                    run_after=nights.run_id[first],
                    before=step.before,
                    after=step.before + step.size,
                    low=step.size - _T_975 * step.error,
                    high=step.size + _T_975 * step.error,
                    relative=step.size / unit if unit else np.nan,
                    direction="worse" if worse else "better",
                    environment=environment(last, first),
                )
            )
    return points


def _edges(trend: Trend, value: Floats, known: NDArray[np.bool_], settings: Settings) -> list[int]:
    """The edges of a trend's segments: 0, where each further one begins, the number of nights."""
    n = len(value)
    if n and (value == value[0]).all():
        return [0, n]
    exact = (trend.low[known] == value) & (trend.high[known] == value)
    jumps = np.flatnonzero(np.diff(value)) + 1
    if exact.all() and len(jumps) <= max(1, n // 10):
        return [0, *jumps.tolist(), n]
    if n < 2 * SHORTEST:
        return [0, n]
    calm = _without_spikes(value)
    scale = _noise_scale(calm)
    if not scale > 0:
        return [0, *_lasting(jumps, n), n]
    with np.errstate(over="ignore"):
        signal = np.clip((calm - np.median(calm)) / scale, -_FAR, _FAR)[:, None]
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST).fit(signal)
    edges = [0, *search.predict(pen=PENALTY * 2 * np.log(n))]
    while len(edges) > 2:
        strength = []
        for left, edge, right in zip(edges, edges[1:-1], edges[2:], strict=False):
            step = _step(value, left, edge, right)
            share = settings.minimal(trend.key) * _unit(trend, known, left, edge)
            enough = abs(step.size) > share
            error = max(step.error, 1e-12 * abs(step.before))
            strength.append(abs(step.size) / error if enough and error else 0.0)
        weakest = int(np.argmin(strength))
        if strength[weakest] > CERTAIN:
            break
        del edges[weakest + 1]
    return edges


def _lasting(jumps: NDArray[np.intp], n: int) -> list[int]:
    """The jumps to a level that lasts, for a metric that hardly ever moves."""
    ends = np.append(jumps[1:], n)
    return [int(jump) for jump, end in zip(jumps, ends, strict=True) if end - jump >= SHORTEST]


def _without_spikes(value: Floats) -> Floats:
    """The values, with nights far from their neighbours pulled in to _CLIP usual distances."""
    around = median_filter(value, size=5, mode="nearest")
    apart = value - around
    usual = 1.4826 * np.median(np.abs(apart))
    result: Floats = around + np.clip(apart, -_CLIP * usual, _CLIP * usual)
    return result


def _noise_scale(value: Floats) -> float:
    """The noise of a night without steps, or that of means of 4 nights if it is larger."""
    scale = _successive(value)
    groups = len(value) // 4
    if groups >= 8:
        means = value[: groups * 4].reshape(groups, 4).mean(1)
        scale = max(scale, 2 * _successive(means))
    return scale


def _successive(value: Floats) -> float:
    return float(np.median(np.abs(np.diff(value)))) / 0.954


@dataclass(frozen=True)
class _Step:
    before: float
    size: float
    error: float


def _step(value: Floats, left: int, edge: int, right: int) -> _Step:
    """The step between two segments, by their robust levels, and its standard error."""
    width = max(edge - left, right - edge)
    sides = np.full((2, width), np.nan)
    sides[0, : edge - left] = value[left:edge]
    sides[1, : right - edge] = value[edge:right]
    (before, after), scales = noise.fit(sides)
    a, b = np.nan_to_num(scales)  # only an exact metric has a level of a single night
    n_a, n_b = edge - left, right - edge
    pooled = (n_a * a**2 + n_b * b**2) / (n_a + n_b)
    # A level of few nights may look calm by luck, so each side has at least the pooled variance.
    variance = max(a**2, pooled) / n_a + max(b**2, pooled) / n_b
    return _Step(float(before), float(after - before), float(np.sqrt(variance)) / 0.785)


def _unit(trend: Trend, known: NDArray[np.bool_], left: int, edge: int) -> float:
    """What a relative change of 1 is: the level before, or the reference."""
    of = trend.value if trend.reference is None else trend.reference
    unit = abs(float(np.median(of[known][left:edge])))
    return unit if np.isfinite(unit) else 0.0
