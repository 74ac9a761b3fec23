# SPDX-License-Identifier: Apache-2.0
"""Trends: one metric over the nights, as the decision and the change points need it.

These are plain arrays. :mod:`kickbench.nightly.collect` makes them. All trends of one decision
index the same :class:`Nights`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUIET, BUSY = 0.02, 0.1
"""Shares of the CPUs' time. A night is quiet if others took at most QUIET, and busy if they took
more than BUSY. In between, it depends on what is usual on the host."""

USUAL_NIGHTS = 60
"""Nights that show how busy a host usually is."""

ABOUT_USUAL = 1.5
"""A load is usual up to so many times the usual load."""

QUIET_WITHIN = 14
"""A host is never quiet if it was quiet on none of so many nights."""

JUDGED_TOGETHER = 3
"""The last nights of such a host that are judged together, with each other's loads."""


class Key(NamedTuple):
    """A metric of a case: the level of ``method``, or its difference from ``baseline``."""

    case: str
    method: str
    baseline: str | None
    metric: str


@dataclass(frozen=True)
class Nights:
    """The nights of one host fingerprint and scenario, oldest first; the last may be tonight.

    ``environment`` has what :func:`kickbench.compare.identity.changes` compares.
    """

    run_id: tuple[str, ...]
    when_utc: tuple[str, ...]
    environment: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.run_id)


@dataclass(frozen=True)
class Trend:
    """The values of one metric. Arrays have one entry per night that measured it.

    ``low`` and ``high`` are the night's own 95 % interval, NaN if the night has none.
    ``reference`` is the level that a paired difference is a share of.
    """

    key: Key
    better: Literal["lower", "higher"]
    night: NDArray[np.int64]  # indices into the nights, rising
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    processes: NDArray[np.int64]  # that the interval rests on; 0 unknown
    reference: NDArray[np.float64] | None
    usable: NDArray[np.bool_]  # may serve as baseline: neither forgotten nor alarmed since accepted
    accepted_from: int  # index of the first night of the present normal
    load: NDArray[np.float64] | None = None  # share of CPU time that others took; NaN: not known
    biased: NDArray[np.bool_] | None = None  # the case's A/A control differed from its baseline
    floor: NDArray[np.float64] | None = None  # of a quiet exit; NaN: not known
    odd: NDArray[np.bool_] | None = None  # the cases disagreed far more than they usually do

    def disturbed(self, night: int) -> NDArray[np.bool_]:
        """The nights that are not evidence if there are quiet ones, as seen from ``night``.

        Others took more CPU time than they usually do, or the A/A control showed a difference, or
        the cases disagreed.
        """
        found = np.zeros(len(self.night), np.bool_)
        if self.load is not None:
            before = self.load[(self.night <= night) & np.isfinite(self.load)]
            usual = float(np.median(before[-USUAL_NIGHTS:])) if len(before) else 0.0
            found = self.load > min(max(QUIET, ABOUT_USUAL * usual), BUSY)  # not where unknown
        for other in (self.biased, self.odd):
            found = found if other is None else found | other
        return found

    def never_quiet(self, night: int) -> bool:
        """Whether the host was quiet on none of the last QUIET_WITHIN nights up to this one."""
        late = self.disturbed(night)[self.night <= night][-QUIET_WITHIN:]
        return len(late) == QUIET_WITHIN and bool(late.all())

    def like(self, night: int) -> NDArray[np.bool_]:
        """The nights that this night may be compared with, and itself. There may be none at all.

        Quiet nights are compared with each other. A disturbed night is compared with none. But on a
        host that is never quiet, the latest nights are compared with the nights before on which
        others took at least as much. Load makes nothing faster, so a metric that is slower than on
        those nights is slower by more than the load.
        """
        disturbed, at = self.disturbed(night), np.flatnonzero(self.night == night)
        if not len(at) or not disturbed[at[0]]:
            return ~disturbed
        if not self.never_quiet(night):
            return np.zeros(len(disturbed), np.bool_)
        load = np.zeros(len(disturbed)) if self.load is None else np.nan_to_num(self.load)
        latest = np.flatnonzero(disturbed & (self.night <= night))[-JUDGED_TOGETHER:]
        as_busy: NDArray[np.bool_] = load >= load[latest].max()
        as_busy[latest] = True
        return disturbed & as_busy


def key_name(key: Key) -> str:
    """E.g. "CASE/METHOD/METRIC", or "CASE/METHOD-BASELINE/METRIC" for a paired difference."""
    method = key.method if key.baseline is None else f"{key.method}-{key.baseline}"
    return f"{key.case}/{method}/{key.metric}"


def matching(keys: Iterable[Key], pattern: str) -> list[Key]:
    """The keys whose name contains the pattern, or matches it as a shell's pattern does."""
    found = []
    for key in keys:
        name = key_name(key)
        if pattern in name or fnmatch.fnmatchcase(name, pattern):
            found.append(key)
    return found
