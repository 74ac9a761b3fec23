# SPDX-License-Identifier: Apache-2.0
"""Where the rounds of a process lie: two estimators, each with the influence of every round.

To first order such an estimate is the mean of the influences, and that holds whatever the size of
the outliers. The interval is made of them. Resampling the rounds themselves would not do: a
resample that draws an outlier more often than the estimator can take breaks the estimate, and the
interval with it.

Sources: J. W. Tukey and D. H. McLaughlin, Sankhya A 25 (1963), for the trimmed mean and its
winsorised values; P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
Statistics 35 (1964), for the M-estimator. `docs/statistics.md` shows the use of each, with tables.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

TRIM = 0.1
"""The share of a process's rounds that the trimmed mean leaves out at either end."""

HUBER = 0.5
"""Standard deviations from the middle up to which a round counts in full for `huber`. Those beyond
pull by that much: the estimate lies between the mean and the median."""

MAD_TO_DEVIATION = 1.4826  # of a normal distribution

Location = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
"""The estimate of 1-D rounds, and each round's influence on it: in time order, with mean 0."""


def trimmed(rounds: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The mean without the floor(`TRIM` * n) smallest and as many largest rounds."""
    n = rounds.size
    k = int(TRIM * n)
    ordered = np.sort(rounds)
    # Of so few rounds numpy's clip() and mean() take several times as long.
    winsorised = np.minimum(np.maximum(rounds, ordered[k]), ordered[n - k - 1])
    influence = (winsorised - winsorised.sum() / n) * (n / (n - 2 * k))
    return float(ordered[k : n - k].sum() / (n - 2 * k)), influence


def huber(rounds: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Huber's M-estimate, with the median absolute deviation as its scale.

    Rounds that jump up and down with the state of the host pull it little, even if they are 40 %
    of all. When more than half of the rounds are equal there is no such scale, and it is the
    trimmed mean.
    """
    middle = float(np.median(rounds))
    reach = HUBER * MAD_TO_DEVIATION * float(np.median(np.abs(rounds - middle)))
    if not reach > 0:
        return trimmed(rounds)
    estimate = _balance(rounds, reach)
    pull = np.clip(rounds - estimate, -reach, reach)
    inside = max(1, int(np.count_nonzero(np.abs(rounds - estimate) < reach)))
    return estimate, (pull - pull.mean()) * (rounds.size / inside)


def trimmed_mean(values: ArrayLike) -> float:
    """The estimate of `trimmed`."""
    return trimmed(np.asarray(values, dtype=np.float64))[0]


def _balance(rounds: NDArray[np.float64], reach: float) -> float:
    """Where the pulls to either side are equal: the root of the sum of clip(round - x, +-reach).

    The sum is linear between the places at which a round comes within reach or leaves it. If no
    round is within reach, it may be 0 over a stretch. The result is then the middle of the stretch.
    """
    n = rounds.size
    places = np.concatenate([rounds - reach, rounds + reach])
    order = np.argsort(places, kind="stable")
    places = places[order]
    within = np.cumsum(np.where(order < n, 1, -1))
    sums = np.concatenate([[0.0], np.cumsum(within[:-1] * np.diff(places))]) - n * reach
    sums = np.maximum.accumulate(sums)
    almost = 1e-9 * n * reach
    return float(np.interp([-almost, almost], sums, places).mean())
