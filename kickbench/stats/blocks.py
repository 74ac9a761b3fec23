# SPDX-License-Identifier: Apache-2.0
"""The standard error of a mean over rounds that resemble their neighbours in time.

Shared by the contrasts and the quantiles: how long a block of rounds must be, how far the block
estimate of a variance falls short, and how many degrees of freedom it has. Trimming, methods, and
the spread between processes are not dealt with here.

Sources: H. R. Künsch, "The Jackknife and the Bootstrap for General Stationary Observations",
Annals of Statistics 17 (1989), for the moving blocks and their closed form; M. G. Kendall, "Note
on Bias in the Estimation of Autocorrelation", Biometrika 41 (1954), for the bias of `r`; D. W. K.
Andrews and J. C. Monahan, Econometrica 60 (1992), for the idea of correcting a window estimate by
an AR(1) model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_AUTOCORRELATION = 0.95
"""The largest that is used: above it, in an AR(1) model, rounds hold next to no information."""


LEAST = 0.1
"""No variance of a mean is less than this part of that of as many independent values."""


@dataclass(frozen=True)
class BlockModel:
    """How the autocorrelation of the rounds changes a block estimate of a variance."""

    autocorrelation: float
    """Lag-1 autocorrelation, moved up by its bias and by one standard error, in [0, 0.95]."""
    lengths: tuple[int, ...]
    """Rounds in a block, per process."""
    factors: tuple[float, ...]
    """By how much the moving-block variance of each process's mean must be multiplied."""
    df: float
    """Effective degrees of freedom of the sum of the processes' variances, at least 1."""


def block_length(rounds: int) -> int:
    """How many rounds form a block: 1.75 * cbrt(rounds), the rate that is optimal for a variance.

    6 of 40 rounds, 13 of 400, 18 of 1000; never more than half of the rounds.
    """
    return max(1, min(round(1.75 * math.cbrt(rounds)), rounds // 2))


def block_model(series: Sequence[NDArray[np.float64]]) -> BlockModel:
    """Fit the correction for `series`: per process one array of at least 2 rounds with mean 0.

    The autocorrelation is pooled over the processes, because a single process is too short for it.
    """
    power = sum(float(s @ s) for s in series)
    lagged = sum(float(s[1:] @ s[:-1]) for s in series)
    total = sum(s.size for s in series)
    r = lagged / power if power > 0 else 0.0
    # Each process loses its own mean, so that the bias goes with the rounds of one process.
    bias = (1 + 3 * r) * len(series) / total
    caution = math.sqrt(max(0.0, 1 - r * r) / total)
    r = min(max(0.0, r + bias + caution), MAX_AUTOCORRELATION)

    lengths = tuple(block_length(s.size) for s in series)
    factors = []
    for s, length in zip(series, lengths, strict=True):
        of_all = _variance_of_mean(r, s.size)
        of_block = _variance_of_mean(r, length)
        factors.append(of_all * s.size / (length * (of_block - of_all)))

    # The delta method for gamma0 * (1 + r) / (1 - r), and 3/2 * blocks for overlapping ones.
    df_model = total / (1 + 2 * (1 + r) / (1 - r))
    df_blocks = sum(1.5 * s.size / n - 1 for s, n in zip(series, lengths, strict=True))
    return BlockModel(r, lengths, tuple(factors), max(1.0, min(df_model, df_blocks)))


def mean_variances(series: Sequence[NDArray[np.float64]], model: BlockModel) -> NDArray[np.float64]:
    """The variance of each process's mean (shape: processes; the square of the series' unit).

    The moving-block bootstrap of a mean needs no random numbers: with infinitely many resamples its
    variance is that of the means of all overlapping blocks, times length / rounds. That times the
    model's factor is what is returned, but never less than LEAST of what independent values have:
    a few values of either sign by turns cancel in every block.
    """
    out = np.empty(len(series))
    for i, (s, length) in enumerate(zip(series, model.lengths, strict=True)):
        sums = np.concatenate(([0.0], np.cumsum(s)))
        of_block = sums[length:] - sums[:-length]
        of_block -= of_block.sum() / of_block.size
        # Of so few rounds numpy's var() takes longer than all the rest. `s` has mean 0.
        of_blocks = (of_block @ of_block) / of_block.size / length / s.size * model.factors[i]
        out[i] = max(of_blocks, LEAST * (s @ s) / s.size**2)
    return out


def _variance_of_mean(r: float, n: int) -> float:
    """The variance of the mean of `n` values of an AR(1) process of variance 1."""
    return ((1 + r) / (1 - r) - 2 * r * (1 - r**n) / (n * (1 - r) ** 2)) / n
