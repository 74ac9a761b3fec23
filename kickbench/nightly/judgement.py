# SPDX-License-Identifier: Apache-2.0
"""A judgement is what the job decides about one metric of a night; a decision has all of them."""

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
    """The judgement of one metric. A number that does not apply is NaN, and ``since`` None.

    ``effect`` (95 % interval ``low`` to ``high``) is the change from ``baseline``, in the metric's
    unit. ``relative`` is the same as a share of the level or the reference. ``p`` is how often
    nights without a change look like this, in this direction. ``q`` is p adjusted for all metrics
    that were judged. ``since`` is the index of the first night of the change. ``nights`` are those
    that the judgement rests on. ``suspect`` means that tonight alone is far off for the worse. A
    second run tonight would confirm or clear it.
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
    open: bool = False  # the night before raised an alarm, and tonight is not evidence
    common: bool = False  # the change is that of all cases together


@dataclass(frozen=True)
class Decision:
    """All judgements of a night, in the order of the trends.

    ``lost`` has a line for each race-free protocol that lost kicks tonight: always an alarm.
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
        """Whether the night raises an alarm."""
        return bool(self.lost) or any(j.verdict == "regression" for j in self.judgements)
