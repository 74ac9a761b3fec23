# SPDX-License-Identifier: Apache-2.0
"""Paired contrasts: by how much does a method differ from the baseline, and how sure is that?

The input is one number per round, method - baseline, measured in the same VM and process within
some milliseconds; see `docs/statistics.md` for the reasoning and the measured coverage. This module
does not form the differences and does not know their unit.

Sources: T. Kalibera and R. Jones, "Rigorous Benchmarking in Reasonable Time", ISMM 2013 (the
interval over the means of the top level, the processes); `kickbench.stats.location` for the
estimate of a process; `kickbench.stats.blocks` for autocorrelated rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kickbench.stats.blocks import block_model, mean_variances
from kickbench.stats.location import Location, trimmed

FLOOR = 1 / 3
"""No interval is narrower than this part of the interval that the rounds alone give: two or three
processes that agree better than their own noise allows do so by luck."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of the data."""

    estimate: float
    low: float
    high: float
    confidence: float
    n_processes: int
    n_rounds: int
    """Rounds of all processes together, including outliers."""

    @property
    def half_width(self) -> float:
        """Half of high - low."""
        return (self.high - self.low) / 2


def paired_contrast(
    differences: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    location: Location = trimmed,
) -> Interval:
    """The contrast over all processes, for a process started anew.

    `differences` holds one 1-D array per process: the per-round differences in time order. The
    estimate is the mean over the processes of the `location` of their rounds. With two or
    more processes the interval is Student's t over the processes' estimates, but never narrower
    than `FLOOR` times `running_interval`. One process does not show how processes differ, so its
    interval is `running_interval` and holds for that process only.

    Raises ValueError for no process, a process of fewer than 2 rounds, a value that is not finite,
    or a confidence outside (0, 1).
    """
    within, estimates = _from_rounds(differences, confidence, location)
    low, high = widen(within.estimate, within.low, within.high, estimates, confidence)
    return replace(within, low=low, high=high)


def running_interval(
    differences: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    location: Location = trimmed,
) -> Interval:
    """The contrast of just these processes: the part of the interval that more rounds narrow.

    The same estimate as `paired_contrast`, but the interval covers the noise of the rounds only.
    It is for live progress, for the stopping rule, and for the A/A control, whose processes cannot
    differ unless something is wrong. Takes some 100 µs.

    Input and errors as for `paired_contrast`.
    """
    return _from_rounds(differences, confidence, location)[0]


def family_confidence(confidence: float, n: int) -> float:
    """The confidence of each of `n` independent intervals that all hold at once with `confidence`.

    Sidak's correction. An A/A control checked with `family_confidence(0.95, n)` in each of a run's
    n cases raises a false alarm in 5 % of the runs. Raises ValueError for n < 1.
    """
    check_confidence(confidence)
    if n < 1:
        raise ValueError(f"a family has at least one interval, got {n}")
    return float(confidence ** (1 / n))


def widen(
    estimate: float, low: float, high: float, processes: Sequence[float], confidence: float
) -> tuple[float, float]:
    """`low` and `high` of the rounds alone, widened so that they hold for processes in general.

    `processes` are the estimates of the single processes. With one process nothing changes.
    """
    n = len(processes)
    if n < 2:
        return low, high
    error = float(np.std(processes, ddof=1)) / n**0.5
    half = t_quantile(confidence, n - 1) * error
    return (
        min(estimate - half, estimate - FLOOR * (estimate - low)),
        max(estimate + half, estimate + FLOOR * (high - estimate)),
    )


def t_quantile(confidence: float, df: float) -> float:
    """Student's t: the central part `confidence` lies within plus and minus this."""
    from scipy.special import stdtrit  # slow to import, and a stored summary needs none

    return float(stdtrit(df, (1 + confidence) / 2))


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless `confidence` is inside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, got {confidence}")


def _from_rounds(
    differences: Sequence[ArrayLike], confidence: float, location: Location
) -> tuple[Interval, list[float]]:
    """The interval from the noise of the rounds, and the estimate of each process."""
    check_confidence(confidence)
    processes = checked_rounds(differences)
    located = [location(d) for d in processes]
    estimates = [estimate for estimate, _ in located]
    influences = [influence for _, influence in located]
    model = block_model(influences)
    error = float(np.sqrt(mean_variances(influences, model).sum())) / len(processes)
    half = t_quantile(confidence, model.df) * error
    estimate = float(np.mean(estimates))
    interval = Interval(
        estimate,
        estimate - half,
        estimate + half,
        confidence=confidence,
        n_processes=len(processes),
        n_rounds=sum(d.size for d in processes),
    )
    return interval, estimates


def checked_rounds(differences: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    """The rounds of each process. Raises ValueError as `paired_contrast` says."""
    processes = [_rounds(d, i) for i, d in enumerate(differences)]
    if not processes:
        raise ValueError("a contrast needs the differences of at least one process, got none")
    return processes


def _rounds(values: ArrayLike, process: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"process {process}: expected a 1-D array of rounds, got {array.ndim}-D")
    if array.size < 2:
        raise ValueError(f"process {process}: an interval needs 2 rounds or more, got {array.size}")
    if not np.isfinite(array).all():
        raise ValueError(f"process {process}: a per-round difference is not a finite number")
    return array
