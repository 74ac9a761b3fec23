# SPDX-License-Identifier: Apache-2.0
"""How far a metric scatters from night to night, and what is unlikely because of it.

The noise of a night is Student's t around the present level. Its scale is that of the metric, and
its tails are those of the host. The tails are heavy, because most hosts also do something else at
night. The null distributions here take into account that level and scale are estimates from a few
nights. Everything is vectorised over metrics. NaN is a night without a value. Nothing here knows
what the numbers are.

Sources: K. L. Lange, R. J. A. Little, J. M. G. Taylor, "Robust Statistical Modeling Using the t
Distribution", JASA 84 (1989); A. Gelman and others, "Bayesian Data Analysis", 3rd edition, chapter
5 (the hierarchical model).
"""

from __future__ import annotations

import bisect
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, stdtr, stdtrit

Floats = NDArray[np.float64]

TAILS = (2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 30.0)
"""Degrees of freedom that a host's tails may have; 30 is as good as normal."""

LONG = 7
"""Nights of the long window, which finds slow changes."""

RECENT = 10
"""Nights that show whether the scatter itself has changed."""

_ALL_AGREE = 3  # nights of a window, at most, that must all have risen
_NORMAL_SCALE = 0.785  # what fit() gives for a normal row of standard deviation 1
_FAR = 1e6  # scales; a night further off has no more influence
_FIT_DF = 3.0  # of the estimator: an outlier has next to no weight, whatever the tails are
_STEPS = 12
_FIT_ROWS = 2000  # at a time, so that they stay in the cache
_PRIOR_TAIL, _PRIOR_NIGHTS = 5.0, 60
_FEW, _DRAWS_OF_FEW, _DRAWS = 15, 4096, 1024  # few nights have rare but very small scales
_X = np.sinh(np.linspace(np.arcsinh(-8.0), np.arcsinh(2000.0), 320))


def fit(values: Floats) -> tuple[Floats, Floats]:
    """Robust level and scale of each row: the maximum likelihood of a t with 3 degrees of freedom.

    Outliers move them little, as long as they are less than half of a row. The scale is 0 if more
    than half of the row agrees exactly, and NaN without two values.
    """
    known = np.isfinite(values)
    count = known.sum(-1)
    filled = np.where(known, values, np.nan)
    level = row_median(filled)
    scale = 1.4826 * row_median(np.abs(filled - level[:, None]))
    spread = np.flatnonzero(scale > 0)
    for work in np.array_split(spread, len(spread) // _FIT_ROWS + 1):
        here = known[work]
        # Around the median and in units of the scale, so that nothing over- or underflows.
        start, unit = level[work, None], scale[work, None]
        with np.errstate(over="ignore", invalid="ignore"):
            y = np.where(here, np.clip((filled[work] - start) / unit, -_FAR, _FAR), 0.0)
        c, s2, n = np.zeros_like(start), np.ones_like(start), count[work, None]
        for _ in range(_STEPS):
            square = (y - c) ** 2
            weight = here / (_FIT_DF + square / s2)
            c = (weight * y).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
            s2 = np.maximum((_FIT_DF + 1) * (weight * square).sum(1, keepdims=True) / n, 1e-6)
        level[work] += (c * unit)[:, 0]
        scale[work] = (np.sqrt(s2) * unit)[:, 0]
    scale[count < 2] = np.nan
    return level, scale


def row_median(values: Floats) -> Floats:
    """The median of each row without its NaN. A row of NaN alone gives NaN."""
    ranked = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, np.maximum(count - 1, 0))
    result: Floats = (ranked[rows, low] + ranked[rows, high]) / 2
    return result


def row_rank(values: Floats, share: float) -> Floats:
    """By row the value that so large a share of its known ones does not exceed; NaN without any."""
    ranked = np.sort(values, axis=1)  # NaN last
    place = np.ceil(share * np.isfinite(values).sum(1)).astype(np.intp) - 1
    result: Floats = ranked[np.arange(len(values)), np.maximum(place, 0)]
    return result


def successive_scale(values: Floats) -> Floats:
    """The scale of each row, from the differences of neighbours: a step in the row does not count.

    In the unit of :func:`fit`, for normal noise. NaN with fewer than 4 differences.
    """
    differences = np.abs(np.diff(values, axis=1))
    result = np.full(len(values), np.nan)
    enough = np.isfinite(differences).sum(1) >= 4
    result[enough] = row_median(differences[enough]) / 0.954 * _NORMAL_SCALE
    return result


def order(windows: Floats) -> Floats:
    """How far k nights rose together, in their unit, so that one night alone is never enough.

    Up to three nights: the lowest, for what disturbs a night hardly ever disturbs each of them.
    More: their median. For a fall, negate the windows.
    """
    k = windows.shape[-1]
    result: Floats = np.sort(windows, -1)[..., 0 if k <= _ALL_AGREE else (k - 1) // 2]
    return result


@cache
def _known_tail(k: int, df: float) -> Floats:
    """log P(order of k nights > x) on the grid, for the known level 0 and the known scale 1."""
    q = stdtr(df, -_X)
    p = q**k if k <= _ALL_AGREE else bdtrc((k - 1) // 2, k, q)
    result: Floats = np.log(np.clip(p, 1e-290, 1.0))
    return result


@cache
def _pivots(n_level: int, n_scale: int, same: bool, df: float) -> tuple[Floats, Floats]:
    """Draws of (estimated level, estimated scale) if the true ones are 0 and 1."""
    random = np.random.default_rng(1)
    draws = _DRAWS_OF_FEW if n_scale < _FEW else _DRAWS
    level, scale = fit(random.standard_t(df, (draws, n_scale)))
    if not same:
        level = fit(random.standard_t(df, (draws, n_level)))[0]
    return level, scale


@cache
def tail(k: int, n_level: int, n_scale: int, same: bool, df: float) -> tuple[Floats, Floats]:
    """(x, log p): how likely unchanged nights come out x estimated scales above the level.

    x is ``order`` of k nights, minus the level from ``n_level`` nights, over the scale from
    ``n_scale`` nights. ``same`` is true if these are the same nights.
    """
    level, scale = _pivots(n_level, n_scale, same, df)
    truth = level[:, None] + scale[:, None] * _X
    log_p = np.interp(truth, _X, _known_tail(k, df))
    return _X, np.log(np.exp(log_p).mean(0))


_COUNTS: tuple[int, ...] = (*range(1, 11), 12, 14, 17, 20, 25, 30, 40, 60, 90)


def round_count(n: int) -> int:
    """A number of nights, rounded down to one of _COUNTS, so that few tables are needed."""
    return _COUNTS[bisect.bisect_right(_COUNTS, max(n, 1)) - 1]


@cache
def _ratios(n: int) -> Floats:
    """For each of TAILS, the log of the ratio that :func:`tails` compares."""
    random = np.random.default_rng(2)
    found = []
    for df in TAILS:
        y = random.standard_t(df, (_DRAWS_OF_FEW, n))
        level, scale = fit(y)
        found.append(_log_ratio((np.abs(y - level[:, None]) / scale[:, None])[None])[0])
    return np.asarray(found)


def _log_ratio(z: Floats) -> Floats:
    """log of the 95 % over the 50 % quantile of all values, along the last two axes."""
    flat = z.reshape(len(z), -1)
    high, middle = np.nanquantile(flat, [0.95, 0.5], axis=-1)
    result: Floats = np.log(high / middle)
    return result


def tails(residuals: Floats) -> Floats:
    """The tails of a host: degrees of freedom from (decisions x metrics x nights) residuals.

    Residuals are in scales of their own metric. Only their middle 95 % counts: rare outliers would
    make every threshold too high, and :func:`order` withstands them. The metrics of a night go up
    and down together, so n of them count as √n. With few nights, the result is near 5 degrees of
    freedom.
    """
    size = np.abs(residuals)
    nights = np.isfinite(size).sum(-1)
    n = round_count(int(np.median(nights[nights > 0]))) if (nights > 0).any() else 1
    result = np.full(len(residuals), _PRIOR_TAIL)
    enough = (nights > 0).any(-1) & (np.nanmax(nights, -1) > 4)
    if n < 5 or not enough.any():
        return result
    expected = _ratios(n)
    metrics = (nights[enough] > 0).sum(-1)
    weight = n * np.sqrt(metrics)
    prior = np.interp(_PRIOR_TAIL, TAILS, expected)
    mixed = (weight * _log_ratio(size[enough]) + _PRIOR_NIGHTS * prior) / (weight + _PRIOR_NIGHTS)
    nearest = np.abs(mixed[:, None] - expected).argmin(1)
    result[enough] = np.asarray(TAILS)[nearest]
    return result


def standard_error(low: Floats, high: Floats, processes: NDArray[np.int64]) -> Floats:
    """The standard error of each night from its 95 % interval; 0 if it has none."""
    df = np.where(processes >= 2, processes - 1, 1000).astype(np.float64)
    error = (high - low) / 2 / stdtrit(df, 0.975)
    return np.where(np.isfinite(error) & (error > 0), error, 0.0)


@cache
def half_width(k: int, n_level: int, n_scale: int, same: bool, df: float) -> float:
    """The estimated scales by which :func:`order` exceeds the level in 2.5 % of unchanged cases."""
    x, log_p = tail(k, n_level, n_scale, same, df)
    return float(np.interp(-np.log(0.025), -log_p, x))
