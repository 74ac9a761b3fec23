# SPDX-License-Identifier: Apache-2.0
"""Paired contrasts in which a round counts by how steady rounds like it are.

The speed of a host can jump, because a neighbour works on the same core. Rounds in which it does
not jump agree within some ns; the others differ by a thousand of either sign. Which sort a round is
of shows in its level, the mean of its two values: a round at the host's full speed is a steady one.
So each round gets the scatter of the rounds with levels like its own as its scale, and the contrast
is Huber's M-estimate with these scales. On a host that does not jump all scales are alike, and the
estimate is Huber's as ever. The level says nothing of the sign of the difference, so that these
weights favour neither method.

`docs/statistics.md` has the reasons, the coverage, and what it gains on real runs.

Sources: P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics
35 (1964), for the estimate; R. J. Carroll, "Adapting for Heteroscedasticity in Linear Models",
Annals of Statistics 10 (1982), for scales estimated from the data; C. B. Bell and D. F. McCaffrey,
"Bias Reduction in Standard Errors for Linear Regression with Multi-Stage Samples", Survey
Methodology 28 (2002), for the variance over processes of unequal weight and its degrees of freedom;
J. G. MacKinnon and H. White, "Some Heteroskedasticity-Consistent Covariance Matrix Estimators with
Improved Finite Sample Properties", Journal of Econometrics 29 (1985), for that over rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from kickbench.stats.blocks import block_model, mean_variances
from kickbench.stats.contrasts import FLOOR, Interval, check_confidence, checked_rounds, t_quantile
from kickbench.stats.location import HUBER, MAD_TO_DEVIATION

Floats = NDArray[np.float64]

ALIKE = (1 / 8, 15, 101)
"""How many rounds of the nearest levels a scale is taken from: this share of all, but at least and
at most so many."""

BY_CHANCE = 3.0
"""The variance of the logarithm of a scale that is found from k rounds, times k. For normal noise
it is 1.4; heavy tails have more."""

_LEAST_SCALE = 1e-3
_LEAST_DF = 0.5
_STEPS = 100


@dataclass(frozen=True)
class _Fit:
    """The estimate of all rounds, and what each round and each process does to it."""

    estimate: float
    rounds: list[Floats]
    scales: list[Floats]
    influences: list[Floats]
    """By how much each round moves the estimate. Over all processes they add up to 0."""
    weights: list[Floats]
    """Of each round. Over all processes they add up to 1."""

    @property
    def process_weights(self) -> Floats:
        return np.array([own.sum() for own in self.weights])


def steady_contrast(
    differences: Sequence[ArrayLike], levels: Sequence[ArrayLike], *, confidence: float = 0.95
) -> Interval:
    """The contrast over all processes, for a process started anew.

    `differences` holds one 1-D array per process: method - baseline, round by round in time order.
    `levels` has the same shapes: the mean of the two values of each round. With two or more
    processes the variance is that between the processes' shares in the estimate, with the degrees
    of freedom of as many processes as their weights amount to. It is never less than FLOOR times
    that of `steady_running_interval`.

    Raises ValueError as :func:`kickbench.stats.contrasts.paired_contrast` does, and if a process
    has not one level for each difference.
    """
    fit, within = _intervals(differences, levels, confidence)
    if len(fit.rounds) < 2:
        return within
    shares = np.array([influence.sum() for influence in fit.influences])
    weights = fit.process_weights
    # A process of weight w takes the estimate w of the way to itself.
    variance = float((shares**2 / np.maximum(1 - weights, 1 / shares.size**2)).sum())
    df = max(1 / float((weights**2).sum()) - 1, _LEAST_DF)
    half = max(t_quantile(confidence, df) * variance**0.5, FLOOR * within.half_width)
    return _around(fit, half, confidence)


def steady_running_interval(
    differences: Sequence[ArrayLike], levels: Sequence[ArrayLike], *, confidence: float = 0.95
) -> Interval:
    """The contrast of just these processes: the part of the interval that more rounds narrow.

    Input and errors as for `steady_contrast`.
    """
    return _intervals(differences, levels, confidence)[1]


def steady_processes(
    differences: Sequence[ArrayLike], levels: Sequence[ArrayLike]
) -> NDArray[np.float64]:
    """The estimate of each process alone (shape: processes), by the scales of all rounds.

    Input and errors as for `steady_contrast`.
    """
    fit = _fit(differences, levels)
    located = [_solve(own, scale) for own, scale in zip(fit.rounds, fit.scales, strict=True)]
    return np.array(located)


def _intervals(
    differences: Sequence[ArrayLike], levels: Sequence[ArrayLike], confidence: float
) -> tuple[_Fit, Interval]:
    """The fit, and the interval from the noise of the rounds.

    Few rounds may have most of the weight. Each draws the estimate, and with it its scale, to
    itself: what is seen of its influence is divided by what its weight leaves (MacKinnon and
    White's HC3). And the degrees of freedom are those of as many rounds as the weights amount to.
    """
    check_confidence(confidence)
    fit = _fit(differences, levels)
    seen = [own / (1 - w) for own, w in zip(fit.influences, fit.weights, strict=True)]
    # The variance of a sum is that of a mean of as many times the values.
    series = [(own - own.mean()) * own.size for own in seen]
    model = block_model(series)
    error = float(np.sqrt(mean_variances(series, model).sum()))
    weights = np.concatenate(fit.weights)
    df = max(1.0, model.df / (weights.size * float((weights**2).sum())))
    return fit, _around(fit, t_quantile(confidence, df) * error, confidence)


def _around(fit: _Fit, half: float, confidence: float) -> Interval:
    return Interval(
        fit.estimate,
        fit.estimate - half,
        fit.estimate + half,
        confidence=confidence,
        n_processes=len(fit.rounds),
        n_rounds=sum(map(len, fit.rounds)),
    )


def _fit(differences: Sequence[ArrayLike], levels: Sequence[ArrayLike]) -> _Fit:
    processes = checked_rounds(differences)
    level = np.concatenate(_checked_levels(levels, processes))
    values = np.concatenate(processes)
    estimate = float(np.median(values))
    for _ in range(2):  # the scales are around the estimate, which hardly moves any more
        scales = _scales(np.abs(values - estimate), level)
        estimate = _solve(values, scales)
    far = (values - estimate) / scales
    precisions = 1 / scales**2
    # The share of the pull that moves with the estimate. Where no round is within reach, all of it.
    inside = float((precisions * (np.abs(far) < HUBER)).sum() / precisions.sum()) or 1.0
    total = inside * float(precisions.sum())
    cuts = np.cumsum([own.size for own in processes])[:-1]
    return _Fit(
        estimate,
        processes,
        np.split(scales, cuts),
        np.split(np.clip(far, -HUBER, HUBER) / scales / total, cuts),
        np.split(precisions / precisions.sum(), cuts),
    )


def _scales(residuals: Floats, levels: Floats) -> Floats:
    """The scale of each round: the deviation of those with levels like its own.

    Scales that differ no more than they do by chance are drawn to their middle (Stein's way): else
    a host without jumps would have weights of noise, and intervals that are too narrow.
    """
    n = residuals.size
    share, least, most = ALIKE
    k = int(np.clip(n * share, least, most)) | 1
    everywhere = MAD_TO_DEVIATION * float(np.median(residuals))
    if n <= k or not everywhere > 0:
        return np.full(n, everywhere if everywhere > 0 else _one_scale(residuals))
    order = np.argsort(levels, kind="stable")
    windows = sliding_window_view(residuals[order], k)
    medians = np.partition(windows, k // 2, axis=1)[:, k // 2]  # k is odd
    found = np.empty(n)
    found[order] = medians[np.clip(np.arange(n) - k // 2, 0, n - k)]
    # Ties do not make a round infinitely precise.
    logs = np.log(np.maximum(MAD_TO_DEVIATION * found, _LEAST_SCALE * everywhere))
    spread = float(logs.var())
    kept = max(0.0, 1 - BY_CHANCE / k / spread) if spread > 0 else 0.0
    return np.asarray(np.exp(logs.mean() + kept * (logs - logs.mean())))


def _one_scale(residuals: Floats) -> float:
    """For rounds more than half of which are equal. All equal, any scale will do."""
    return float(residuals.mean()) or 1.0


def _solve(values: Floats, scales: Floats) -> float:
    """Where the pulls of the rounds, each up to HUBER of its scale, are equal to either side."""
    estimate = float(np.median(values))
    precisions, reach, enough = 1 / scales**2, HUBER * scales, 1e-9 * float(scales.min())
    for _ in range(_STEPS):
        # In full up to the reach, and beyond it in the proportion of the reach to the distance.
        weights = reach / np.maximum(np.abs(values - estimate), reach) * precisions
        before, estimate = estimate, float(weights @ values / weights.sum())
        if abs(estimate - before) <= enough:
            break
    return estimate


def _checked_levels(levels: Sequence[ArrayLike], processes: list[Floats]) -> list[Floats]:
    found = [np.asarray(own, dtype=np.float64) for own in levels]
    if [own.shape for own in found] != [own.shape for own in processes]:
        raise ValueError("each round has a level: the shapes are not those of the differences")
    return found
