# SPDX-License-Identifier: Apache-2.0
"""The settings of the decision: baseline, window, false discovery rate, minimal effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kickbench.nightly.trends import Key


@dataclass(frozen=True)
class Settings:
    """How to decide. Effects are shares of the level, or of the reference of a paired difference.

    ``min_effect`` has a share for each metric, such as "ns_per_exit". That of a paired difference
    is "ns_per_exit difference". ``pinned`` is the run that is the baseline instead of the last
    nights. How far nights scatter is still learnt from the last nights.
    """

    baseline_nights: int = 60
    min_nights: int = 7
    window: int = 3
    false_discovery_rate: float = 0.002
    min_effect: Mapping[str, float] = field(default_factory=dict)
    default_min_effect: float = 0.001
    pinned: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.window <= 3:
            raise ValueError(f"the window must be 1, 2 or 3 nights, not {self.window}")
        if not 5 <= self.min_nights <= self.baseline_nights:
            raise ValueError("min_nights must be at least 5 and at most baseline_nights")
        if not 0 < self.false_discovery_rate < 1:
            raise ValueError("the false discovery rate must be between 0 and 1")
        if not all(effect >= 0 for effect in (*self.min_effect.values(), self.default_min_effect)):
            raise ValueError("a minimal effect must be 0 or more")

    @property
    def windows(self) -> tuple[int, ...]:
        """The sizes of the windows that are tried, in nights."""
        return (1,) if self.window == 1 else tuple(range(2, self.window + 1))

    def minimal(self, key: Key) -> float:
        """The relative effect that a change of this metric must exceed."""
        own = self.min_effect.get(key.metric, self.default_min_effect)
        return own if key.baseline is None else self.min_effect.get(f"{key.metric} difference", own)
