# SPDX-License-Identifier: Apache-2.0
"""Whether the common factor of all cases changed, by its lower envelope.

The host has slow nights, often some in a row, and what disturbs it only adds time. So the factor is
slower only if the fastest of the last nights is slower than the fastest of any such nights before.
This is slow on purpose, because no other case is there to compare the host with.

:mod:`kickbench.nightly.common` has the factor. :mod:`kickbench.nightly.decide` puts both together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kickbench.nightly import noise
from kickbench.nightly.baseline import Metric

ENVELOPE = 4
"""Nights whose lowest is one point of the envelope."""

_TAILS = 5.0  # degrees of freedom of the envelope, which has too few points to show its own


@dataclass(frozen=True)
class Change:
    """A change of the factor: a share of its level, with its 95 % interval. Upwards is slower."""

    relative: float
    low: float
    high: float
    p: float
    since: int
    nights: tuple[int, ...]
    baseline_nights: int
    drift: bool


def change(common: Metric) -> Change | None:
    """The change that the last nights show; None if they show none, or are not evidence."""
    if common.verdict is not None or not common.witness or common.exact_value is not None:
        return None
    end = len(common.night) - ENVELOPE
    if end <= 0 or not common.normal[end:].all():
        return None
    if common.pinned is not None:
        bases = {False: common.scatter(end)}
    else:
        bases = {False: common.level(end), True: common.anchor(end)}
    found = (_against(common, end, base, drift) for drift, base in bases.items())
    return next((one for one in found if one is not None), None)


def _against(common: Metric, end: int, base: NDArray[np.intp], drift: bool) -> Change | None:
    """The change of the nights from ``end`` on against those of ``base``."""
    blocks = len(base) // ENVELOPE
    if len(base) < common.settings.min_nights or blocks < 2:
        return None
    before = sliding_window_view(common.value[base], ENVELOPE).min(1)
    window = common.value[end:]
    lowest, most = float(window.min()), -float(noise.order(-window))
    upwards = lowest > before.max()
    if not upwards and not most < before.min():
        return None
    fitted, scales = noise.fit(before[None])
    level, scale = float(fitted[0]), float(scales[0])
    if common.pinned is not None:
        level = float(common.value[common.pinned[-1]])
    effect = (lowest if upwards else most) - level
    size = effect if upwards else -effect
    p = _p(size - common.minimal, scale, blocks)
    if p > common.settings.false_discovery_rate:
        return None
    reach = noise.half_width(1, noise.round_count(blocks), noise.round_count(blocks), True, _TAILS)
    unit = abs(level)
    return Change(
        relative=effect / unit,
        low=(effect - reach * scale) / unit,
        high=(effect + reach * scale) / unit,
        p=p,
        since=int(common.night[common.since(level, effect)]),
        nights=tuple(int(night) for night in common.night[end:]),
        baseline_nights=len(base),
        drift=drift,
    )


def _p(size: float, scale: float, blocks: int) -> float:
    """How often the envelope of unchanged nights is so far above its level."""
    if not scale > 0:
        return float(size <= 0)
    n = noise.round_count(blocks)
    x, log_p = noise.tail(1, n, n, True, _TAILS)
    return float(np.exp(np.interp(size / scale, x, log_p)))
