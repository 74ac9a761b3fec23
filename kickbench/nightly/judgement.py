# SPDX-License-Identifier: Apache-2.0
"""Judgements: what a night says about each metric, and all of them together, the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kickbench.nightly.trends import Key

Verdict = Literal[
    "regression", "improvement", "no change", "too little history", "no witness", "not measured"
]


@dataclass(frozen=True)
class Judgement:
    """What tonight says about one metric. Numbers are NaN, and ``since`` None, where there is none.

    ``effect`` (with ``low`` and ``high``, 95 %) is the change from ``baseline`` in the metric's
    unit, ``relative`` the same as a share of the level or the reference. ``p`` is how often nights
    without a change look like this, in this direction; ``q`` regards all metrics that were judged.
    ``since`` indexes the nights: the first one of the change. ``nights`` are those that it rests
    on. ``suspect``: tonight alone is far off for the worse; a second run tonight would tell.
    """

    key: Key
    verdict: Verdict
    reason: str
    effect: float = np.nan
    relative: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    q: float = np.nan
    since: int | None = None
    nights: tuple[int, ...] = ()
    baseline: float = np.nan
    baseline_nights: int = 0
    tau: float = np.nan
    drift: bool = False  # against the first nights of the present normal, not the latest
    suspect: bool = False
    open: bool = False  # the night before raised an alarm, and tonight is no witness


@dataclass(frozen=True)
class Decision:
    """All judgements of a night, in the order of the trends.

    ``lost`` has a line for each protocol without races that lost kicks tonight: always an alarm.
    ``tail_df`` says how heavy the tails of this host's nights are (Student's t).
    """

    judgements: tuple[Judgement, ...]
    lost: tuple[str, ...] = ()
    tail_df: float = np.nan

    def of(self, verdict: Verdict) -> tuple[Judgement, ...]:
        """The judgements with this verdict."""
        return tuple(j for j in self.judgements if j.verdict == verdict)

    @property
    def suspects(self) -> tuple[Judgement, ...]:
        """What a second run tonight would confirm or clear."""
        return tuple(j for j in self.judgements if j.suspect)

    @property
    def alarm(self) -> bool:
        """Whether to wake someone."""
        return bool(self.lost) or any(j.verdict == "regression" for j in self.judgements)
