# SPDX-License-Identifier: Apache-2.0
"""The evidence for a change of many metrics, in each window and in all of them together.

Arrays in, arrays out. :mod:`kickbench.nightly.baseline` chooses the nights, and
:mod:`kickbench.nightly.decide` makes judgements of the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from kickbench.nightly import noise
from kickbench.nightly.noise import LONG, Floats

WEIGHTS = {1: 1.0, 2: 0.3, 3: 0.5, LONG: 0.2}
"""The share of the error that each window has (weighted Bonferroni)."""

WILDER_HOST, WILDER_METRIC = 1.5, 4.0
"""The scatter of the last nights counts if it is so many times that of the baseline: the first for
the median of all metrics, the second for one metric alone."""

BEYOND = 1e6
"""So many scales count as infinitely many."""

ODD_SHARE, ODD_SCALES = 0.3, 4.0
"""See _without_odd_nights."""

BACK = 2.5
"""Tonight is clearly back if it is so many scales short of the change that the window shows, and
nearer to the level than to the change. A night of a lasting change hardly ever is."""


@dataclass(frozen=True)
class Evidence:
    """The evidence about many metrics, in arrays with an entry each. Upwards is worse."""

    p_worse: Floats
    p_better: Floats
    level: Floats
    scale: Floats
    within: Floats
    effect: Floats
    low: Floats
    high: Floats
    back: NDArray[np.bool_]  # tonight is clearly back at the level, whatever the window shows


@dataclass
class Rows:
    """The metrics to weigh in one window, a row each, padded with NaN (``errors`` with 0).

    ``level`` has the nights that give the level. ``scatter`` has those that give the scale, and
    ``errors`` their own standard errors. ``window`` has the nights that are judged, and ``recent``
    these and some before. ``same`` is true if ``level`` and ``scatter`` are the same nights.
    """

    level: Floats
    scatter: Floats
    errors: Floats
    window: Floats
    window_errors: Floats
    recent: Floats
    same: NDArray[np.bool_]

    @cached_property
    def fitted(self) -> tuple[Floats, Floats]:
        """Level and scale of each row of ``scatter``."""
        return noise.fit(self.scatter)

    def residuals(self) -> Floats:
        """The scatter, in scales of its row; NaN in a row without a scale."""
        level, scale = self.fitted
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(scale > 0, (self.scatter.T - level) / scale, np.nan).T


def weigh(rows: Rows, minimal: Floats, df: Floats, decisions: int = 1) -> Evidence:
    """How likely the windows are without a change larger than ``minimal``.

    ``df`` has the tails of each row. The rows are those of ``decisions`` decisions, one after the
    other. A row without nights gives NaN.
    """
    k = rows.window.shape[1]
    own_level, scale = rows.fitted
    level = np.where(rows.same, own_level, np.nan)
    other = np.flatnonzero(~rows.same)
    level[other] = noise.fit(rows.level[other])[0]
    n_level = np.isfinite(rows.level).sum(1)
    n_scale = np.isfinite(rows.scatter).sum(1)
    # Nights cannot truly agree better than their own errors allow. If they do, it is luck.
    within = _median_of_positive(rows.errors)
    scale = np.maximum(scale, within)
    recent = noise.successive_scale(rows.recent)
    with np.errstate(divide="ignore", invalid="ignore"):
        wilder = _wilder(np.where(scale > 0, recent / scale, np.nan), decisions)
    scale = np.where(scale > 0, scale * wilder, np.nan_to_num(recent))
    # A night with a larger error than the baseline's has less weight.
    excess = np.maximum(rows.window_errors**2 - within[:, None] ** 2, 0)
    scales = np.sqrt(scale[:, None] ** 2 + excess)
    deviation = rows.window - level[:, None]
    p_worse, p_better, reach = (np.full(len(level), np.nan) for _ in range(3))
    x_worse, x_better = (
        noise.order(_without_odd_nights(_in_scales(side - minimal[:, None], scales), decisions))
        for side in (deviation, -deviation)
    )
    group = np.stack([_rounded(n_level), _rounded(n_scale), rows.same, df], 1)
    for n_l, n_s, same, tail_df in np.unique(group[(n_level > 0) & (n_scale > 1)], axis=0):
        key = (int(n_l), int(n_s), bool(same), float(tail_df))
        chosen = (group == (n_l, n_s, same, tail_df)).all(1)
        x, log_p = noise.tail(k, *key)
        p_worse[chosen] = np.exp(np.interp(x_worse[chosen], x, log_p))
        p_better[chosen] = np.exp(np.interp(x_better[chosen], x, log_p))
        reach[chosen] = noise.half_width(k, *key)
    widest = reach * scales.max(1)
    # A change that is over is no alarm: the last night must not be back at the level.
    effect, last = np.median(deviation, 1), deviation[:, -1]
    short = np.where(effect > 0, effect - last, last - effect)
    back = (short > np.abs(effect) / 2) & (short > BACK * scales[:, -1])
    p_worse[back & (effect > 0) & np.isfinite(p_worse)] = 1.0
    p_better[back & (effect < 0) & np.isfinite(p_better)] = 1.0
    return Evidence(
        p_worse,
        p_better,
        level,
        scale,
        within,
        effect=effect,
        low=noise.order(deviation) - widest,
        high=widest - noise.order(-deviation),
        back=back,
    )


def _wilder(ratio: Floats, decisions: int) -> Floats:
    """The factor by which the last nights scatter more than the baseline; 1 if they do not.

    The last nights are few, so the host's median counts for all metrics. A metric's own ratio
    counts only if it is beyond doubt.
    """
    host = noise.row_median(ratio.reshape(decisions, -1)).repeat(len(ratio) // decisions)
    return np.where(ratio > WILDER_METRIC, ratio, np.where(host > WILDER_HOST, host, 1.0))


def _without_odd_nights(x: Floats, decisions: int) -> Floats:
    """``x`` (rows, nights), in which a night on which the whole host was off is no evidence.

    The host was off if ODD_SHARE of all metrics are ODD_SCALES above their level, and no other
    night of the window has a third as many. Otherwise such a night, and one odd value of a metric
    on the night before or after, would together look like a change of that metric.
    """
    if x.shape[1] == 1:
        return x
    by_decision = x.reshape(decisions, -1, x.shape[1])
    known = np.isfinite(by_decision).any(2).sum(1)
    share = (by_decision > ODD_SCALES).sum(1) / np.maximum(known, 1)[:, None]
    others = np.sort(share, 1)[:, -2:-1]
    odd = (share >= ODD_SHARE) & (share > 3 * others)
    return np.where(odd[:, None, :], np.minimum(by_decision, 0), by_decision).reshape(x.shape)


def combine(p_by_window: Mapping[int, Floats]) -> Floats:
    """The p of all windows together. A window without a p does not count."""
    shares = np.stack([np.where(np.isfinite(p), WEIGHTS[k], 0.0) for k, p in p_by_window.items()])
    values = np.stack([np.where(np.isfinite(p), p, 1.0) for p in p_by_window.values()])
    total = shares.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(shares > 0, values * total / shares, np.inf).min(0)
    result: Floats = np.where(total > 0, np.minimum(p, 1.0), np.nan)
    return result


def adjust(p: Floats) -> Floats:
    """q values (Benjamini and Hochberg) of a vector of p. NaN is not judged, and stays NaN."""
    result = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    if known.any():
        result[known] = false_discovery_control(np.clip(p[known], 0, 1), method="bh")
    return result


def _rounded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    values, place = np.unique(counts, return_inverse=True)
    return np.array([noise.round_count(int(n)) for n in values], np.int64)[place]


def _median_of_positive(errors: Floats) -> Floats:
    """The median of the positive errors of each row; 0 in a row without any."""
    return np.nan_to_num(noise.row_median(np.where(errors > 0, errors, np.nan)))


def _in_scales(deviation: Floats, scale: Floats) -> Floats:
    """Deviations in scales, within ±BEYOND. If the scale is 0, any deviation is that large."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = np.clip(deviation / scale, -BEYOND, BEYOND)
    return np.where(scale == 0, np.where(deviation > 0, BEYOND, -BEYOND), x)
