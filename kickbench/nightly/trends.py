# SPDX-License-Identifier: Apache-2.0
"""One metric over the nights: what deciding and change points work on.

Plain arrays; where they come from is :mod:`kickbench.nightly.history`'s business. All trends of one
decision index the same :class:`Nights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Key(NamedTuple):
    """Which metric of which case: a level of ``method``, or its difference from ``baseline``."""

    case: str
    method: str
    baseline: str | None
    metric: str


@dataclass(frozen=True)
class Nights:
    """The nights of one host fingerprint and scenario, oldest first; the last may be tonight.

    ``environment`` has what :func:`kickbench.results.identity.changes` compares.
    """

    run_id: tuple[str, ...]
    when_utc: tuple[str, ...]
    environment: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.run_id)


@dataclass(frozen=True)
class Trend:
    """The values of one metric. Arrays have one entry per night that measured it.

    ``low`` and ``high`` are the night's own 95 % interval, NaN where the night has none.
    ``reference``, for paired differences, is the level that relative effects are a share of.
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
