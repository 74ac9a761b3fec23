# SPDX-License-Identifier: Apache-2.0
"""What all cases of a night have in common, and each case without it.

A slower night of the host makes all cases slower by about the same factor. So a level of a case is
judged by its share of the night's common factor, and the common factor is judged by itself, as one
figure of the host. With few cases there is no common factor worth the name: their levels are judged
as they are. Paired differences are too, because the night is the same for both of their methods.

Trends in, trends out. :mod:`kickbench.nightly.decide` judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from kickbench.nightly.noise import Floats, row_median, row_rank, standard_error
from kickbench.nightly.trends import USUAL_NIGHTS, Key, Trend

MIN_CASES = 8
"""Cases that a common factor needs. Of so many, it is safe from a third of them at once."""

ODD = 8.0
"""Cases that disagree so many times more than they usually do make the night no evidence."""

_SPREAD = 0.9  # the quantile of the cases' deviations that is their spread ...
_OF_NORMAL = 1.98  # ... and how large that is of normal noise, in the unit of noise.fit()
_HALF = float(stdtrit(1000, 0.975))  # standard_error() of so many is 1, of no known processes


@dataclass(frozen=True)
class Group:
    """The levels of one metric and method, over at least MIN_CASES cases.

    ``members`` are their places among the trends. ``relative`` has their trends up to tonight,
    divided by each night's common factor. ``common`` is the trend of the factor itself, which is
    near 1 on usual nights.
    """

    members: tuple[int, ...]
    relative: tuple[Trend, ...]
    common: Trend


def groups(trends: Sequence[Trend], tonight: int) -> list[Group]:
    """The groups of levels that have a common factor tonight. Other trends are in none."""
    by_figure: dict[tuple[str, str], list[int]] = {}
    for place, trend in enumerate(trends):
        if trend.key.baseline is None and _is_level(trend, tonight):
            by_figure.setdefault((trend.key.metric, trend.key.method), []).append(place)
    return [
        _group([trends[place] for place in places], tuple(places), tonight)
        for places in by_figure.values()
        if len(places) >= MIN_CASES
    ]


def _is_level(trend: Trend, tonight: int) -> bool:
    """Whether the trend has a level tonight that scatters: it is neither exact nor a count."""
    now = np.flatnonzero(trend.night == tonight)
    known = trend.value[(trend.night <= tonight) & np.isfinite(trend.value)]
    exact = ((trend.low == trend.value) & (trend.high == trend.value))[now]
    measured = len(now) > 0 and np.isfinite(trend.value[now]).all()
    return bool(measured and (known > 0).all() and not exact.any())


def floors(trend: Trend) -> Trend:
    """The trend of the floors. A night without one has its level, times the usual share of both.

    A floor has no interval of its own.
    """
    if trend.floor is None:
        return trend
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = trend.floor / trend.value
    shares = shares[np.isfinite(shares) & (shares > 0)]
    if not len(shares):
        return trend
    known = np.isfinite(trend.floor)
    value = np.where(known, trend.floor, trend.value * np.median(shares))
    none = np.full(len(value), np.nan)
    return replace(trend, value=value, low=none, high=none)


def _group(trends: list[Trend], places: tuple[int, ...], tonight: int) -> Group:
    used = [floors(trend) for trend in trends]
    logs, quiet, load = np.full((3, tonight + 1, len(used)), np.nan)
    for case, trend in enumerate(used):
        now = trend.night <= tonight
        at = trend.night[now]
        logs[at, case] = np.log(trend.value[now])
        quiet[at, case] = np.where(trend.disturbed(tonight)[now], np.nan, logs[at, case])
        if trend.load is not None:
            load[at, case] = trend.load[now]
    enough = np.isfinite(quiet).sum(1) >= MIN_CASES
    found = share(np.where(enough[:, None], quiet, logs), enough == enough[-1])
    relative = tuple(
        _without(trend, found, found.scale[case], tonight) for case, trend in enumerate(used)
    )
    return Group(places, relative, _common(trends, found.factor, load, tonight))


@dataclass(frozen=True)
class Shared:
    """What some nights have in common.

    By night ``factor`` is the log of the common factor (NaN with fewer than MIN_CASES cases),
    ``spread`` how far the cases disagree, in their own scales, and ``odd`` whether that is too far
    for evidence. ``scale`` is that of each case, as a share.
    """

    factor: Floats
    spread: Floats
    odd: NDArray[np.bool_]
    scale: Floats


def share(logs: Floats, like: NDArray[np.bool_]) -> Shared:
    """What the nights have in common, from ``logs`` (nights, cases): logs of levels, or NaN.

    The last night is tonight, and ``like`` are the nights that it may be compared with.
    """
    # The level of a case is that without the factor. So it is the same whatever the host did.
    factor = np.zeros(len(logs))
    for _ in range(2):
        own = logs - factor[:, None]
        level = row_median(_latest(own[like]).T)
        factor = row_median(logs - level)
    factor[np.isfinite(logs).sum(1) < MIN_CASES] = np.nan
    own = np.where(like[:, None], logs - level - factor[:, None], np.nan)
    scale, spread = _spread(own)
    usual = row_median(_latest(np.where(like, spread, np.nan)[:, None]).T)
    odd = spread > ODD * (usual[0] if len(usual) else np.nan)
    return Shared(factor, spread, odd, scale)


def _latest(values: Floats) -> Floats:
    """The last USUAL_NIGHTS rows that have a value, of (nights, cases)."""
    return values[np.isfinite(values).any(1)][-USUAL_NIGHTS:]


def _spread(own: Floats) -> tuple[Floats, Floats]:
    """By case its usual scale, and by night the spread of the cases, in these scales.

    ``own`` (nights, cases) has each case without what the night has in common. A deviation is that
    from the median of the night and its two neighbours. So a step of many cases is no spread, but
    for the night that it begins.
    """
    kept = np.flatnonzero(np.isfinite(own).any(1))
    spread = np.zeros(len(own))
    if len(kept) < 3:
        return np.zeros(own.shape[1]), spread
    y = own[kept]
    around = np.concatenate([y[2:3], y, y[-3:-2]])
    three = np.stack([around[:-2], around[1:-1], around[2:]])
    deviation = np.abs(y - row_median(three.reshape(3, -1).T).reshape(y.shape))
    scale = np.nan_to_num(row_rank(deviation[-USUAL_NIGHTS:].T, _SPREAD) / _OF_NORMAL)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(scale > 0, deviation / scale, np.nan)
    spread[kept] = np.nan_to_num(row_rank(scales, _SPREAD) / _OF_NORMAL)
    return scale, spread


def _without(trend: Trend, shared: Shared, scale: float, tonight: int) -> Trend:
    """The trend without what its nights have in common, with the error that they show."""
    kept = trend.night <= tonight
    at = trend.night[kept]
    remaining = np.exp(-shared.factor[at])
    value, low, high = (x[kept] * remaining for x in (trend.value, trend.low, trend.high))
    own = standard_error(low, high, trend.processes[kept])
    half = np.maximum(own, value * scale * shared.spread[at]) * _HALF
    return replace(
        trend,
        night=at,
        value=value,
        low=value - half,
        high=value + half,
        processes=np.zeros(len(at), np.int64),
        usable=trend.usable[kept],
        load=None if trend.load is None else trend.load[kept],
        biased=None if trend.biased is None else trend.biased[kept],
        floor=None,
        odd=shared.odd[at],
    )


def _common(trends: list[Trend], factor: Floats, load: Floats, tonight: int) -> Trend:
    """The common factor as a trend. It is what most of its members are: usable, or accepted."""
    night = np.flatnonzero(np.isfinite(factor))
    usable = np.zeros((2, len(factor)))
    for trend in trends:
        at = trend.night[trend.night <= tonight]
        usable[0, at] += trend.usable[: len(at)]
        usable[1, at] += 1
    value, none = np.exp(factor[night]), np.full(len(night), np.nan)
    of = trends[0]
    return Trend(
        key=Key("", of.key.method, None, of.key.metric),
        better=of.better,
        night=night,
        value=value,
        low=none,
        high=none,
        processes=np.zeros(len(night), np.int64),
        reference=None,
        usable=(2 * usable[0] > usable[1])[night],
        accepted_from=sorted(trend.accepted_from for trend in trends)[len(trends) // 2],
        load=row_median(load[night]),
    )
