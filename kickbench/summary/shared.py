# SPDX-License-Identifier: Apache-2.0
"""Shared by the summaries of all kinds: entries, rounds, cycles to ns, intervals, precision.

An entry is a participant of the schedule: a case's methods in order, then the A/A control, then the
placebo. Nothing here knows a kind or a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.tables import ROLES
from kickbench.scenario.kinds import FIGURES
from kickbench.stats.contrasts import Interval, paired_contrast, running_interval
from kickbench.stats.location import Location, huber, trimmed
from kickbench.stats.steady import steady_contrast, steady_processes, steady_running_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Control:
    """A case's A/A control or placebo, until the number of all of them is known.

    ``found`` is its part of the case's summary, into which the judgement goes. ``interval`` gives
    its interval at a confidence. ``level_ns`` is the baseline's level, of which a difference is a
    share; None if it is not known.
    """

    found: dict[str, Any]
    interval: Callable[[float], Interval | None]
    level_ns: float | None = None


Controls = Sequence[Control]
"""The controls and placebos of a case, one for each figure."""

NO_CONTROL: dict[str, Any] = {
    "metric": None,
    "diff": None,
    "ci95": None,
    "ci_family": None,
    "ok": None,
    "rounds": 0,
}
"""The record of a control or placebo that was not measured."""

WHO = ("method", *ROLES)
"""The columns that :func:`entry_index` needs."""


def entry_index(table: Any, methods: list[str], baseline: str) -> Ints:
    """Per row of a table the index of its entry.

    That is the index of the method, ``len(methods)`` for the control, and one more for the placebo.
    A row that is none of these has -1.
    """
    chunks = table.column("method").chunks
    if not chunks:
        return np.empty(0, np.int64)
    names = chunks[0].dictionary.to_pylist()  # one dictionary: the reader has unified them
    index_of = np.array([methods.index(name) for name in names], np.int64)
    entry = np.concatenate([index_of[chunk.indices.to_numpy()] for chunk in chunks])
    is_baseline = entry == methods.index(baseline)
    for index, role in control_entries(methods).items():
        has_role = np.asarray(table.column(role).to_numpy(), np.bool_)
        entry = np.where(has_role, np.where(is_baseline, index, -1), entry)
    return entry


def control_entries(methods: list[str]) -> dict[int, str]:
    """By entry, the roles of the control and the placebo."""
    return dict(enumerate(ROLES, len(methods)))


def count_entries(methods: list[str]) -> int:
    """How many entries a case has, including those without a row."""
    return len(methods) + len(ROLES)


def ns_per_cycle(document: dict[str, Any], process: Ints) -> Floats:
    """Nanoseconds per cycle for every row, each by the clock of its own process."""
    scale = np.full(2**15, np.nan)
    for item in document["processes"]:
        scale[item["index"]] = 1e9 / item["clock"]["hz"]
    return scale[process]


def index_rounds(process: Ints, round_: Ints) -> tuple[Ints, NDArray[np.intp]]:
    """The process of every round in time order, and for each row the place of its round."""
    keys, row = np.unique(process * 2**32 + round_, return_inverse=True)
    return keys >> 32, row


def by_process(process: Ints, values: Floats) -> list[Floats]:
    """Per process its finite values in time order; a process with fewer than two is left out."""
    usable = np.isfinite(values)
    values, process = values[usable], process[usable]
    starts = np.flatnonzero(np.diff(process)) + 1
    return [part for part in np.split(values, starts) if len(part) > 1]


def number(value: float) -> float | None:
    """The value, or None if it does not exist (NaN, infinite)."""
    value = float(value)
    return value if math.isfinite(value) else None


def ratio(numerator: float, denominator: float) -> float | None:
    """The quotient, or None if the denominator is 0."""
    return number(numerator / denominator) if denominator > 0 else None


def bounds(interval: Interval | None) -> list[float] | None:
    """An interval as [low, high], or None if it does not exist."""
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return None
    return [float(interval.low), float(interval.high)]


def location_of(metric: str) -> Location:
    """How the rounds of a metric are averaged.

    Huber's estimate for a quiet exit, and the trimmed mean for all others.
    """
    return huber if metric == FIGURES["quiet"] else trimmed


def contrast_interval(differences: list[Floats], location: Location = trimmed) -> Interval | None:
    """The interval of a contrast from the differences per process."""
    if not differences:
        return None
    return paired_contrast(differences, confidence=CONFIDENCE, location=location)


def control_interval(differences: list[Floats], confidence: float) -> Interval | None:
    """The interval of an A/A control or a placebo: one method, so processes do not differ."""
    if not differences:
        return None
    return running_interval(differences, confidence=confidence)


@dataclass(frozen=True)
class Paired:
    """The rounds of two participants: per process, in time order, the differences and the levels.

    A level is the mean of the two values. ``steady`` says that a round counts by how steady rounds
    with such a level are. Otherwise all rounds count the same.
    """

    differences: list[Floats]
    levels: list[Floats]
    steady: bool

    @classmethod
    def of(cls, process: Ints, values: Floats, baseline: Floats, *, steady: bool) -> Paired:
        """Pair the rounds in which both have a value.

        A process with only one such round is left out: a single value has no spread.
        """
        differences = values - baseline
        levels = np.where(np.isfinite(differences), (values + baseline) / 2, np.nan)
        return cls(by_process(process, differences), by_process(process, levels), steady)

    @property
    def count(self) -> int:
        """How many rounds there are in all processes."""
        return count_values(self.differences)

    def contrast(self) -> Interval | None:
        """The interval for a process started anew."""
        if self.steady and self.differences:
            return steady_contrast(self.differences, self.levels, confidence=CONFIDENCE)
        return contrast_interval(self.differences)

    def control(self, confidence: float) -> Interval | None:
        """The interval of an A/A control or a placebo, as :func:`control_interval`."""
        if self.steady and self.differences:
            return steady_running_interval(self.differences, self.levels, confidence=confidence)
        return control_interval(self.differences, confidence)

    def processes(self) -> list[float]:
        """The estimate of each process."""
        if self.steady and self.differences:
            return list(steady_processes(self.differences, self.levels))
        return [trimmed(own)[0] for own in self.differences]


def level_estimate(process: Ints, values: Floats, location: Location = trimmed) -> dict[str, Any]:
    """A level from its values per round, "value" and "ci95", for comparisons of runs."""
    interval = contrast_interval(by_process(process, values), location)
    return _estimate("value", interval)


def contrast(
    interval: Interval | None,
    used: int,
    n_rounds: int,
    *,
    chunks: int | None = None,
    left_out: str = "rounds_left_out",
) -> dict[str, Any]:
    """The record of a difference: "diff", "ci95", and from how many rounds.

    ``used`` of ``n_rounds`` rounds were used, as ``chunks`` values if rounds were pooled.
    ``left_out`` is the key for the number of the other rounds.
    """
    counts = {"rounds": used} if chunks is None else {"rounds": used, "chunks": chunks}
    return {**_estimate("diff", interval), **counts, left_out: n_rounds - used}


def count_values(differences: list[Floats]) -> int:
    """How many differences there are in all processes."""
    return sum(map(len, differences))


def _estimate(key: str, interval: Interval | None) -> dict[str, Any]:
    return {
        key: None if interval is None else number(interval.estimate),
        "ci95": bounds(interval),
    }


def precision(
    parameters: Mapping[str, Any],
    contrasts: list[dict[str, Any]],
    baseline: Mapping[str, float | None],
) -> dict[str, Any]:
    """How precise a case is, beside the precision that was asked for.

    ``baseline`` has the metrics that must reach it, with the baseline's values. A half-width is a
    share of these.
    """
    target = parameters.get("precision")
    widths = {
        metric: _relative_half_width(contrasts, metric, level) for metric, level in baseline.items()
    }
    known = [width for width in widths.values() if width is not None]
    width = max(known) if known and len(known) == len(widths) else None
    missed = [m for m, one in widths.items() if target and (one is None or one > target)]
    return {
        "precision": target,
        "precision_of": list(widths),
        "precision_missed": missed,
        "relative_half_width": width,
        "precision_reached": None if width is None or target is None else not missed,
    }


def _relative_half_width(
    contrasts: list[dict[str, Any]], metric: str, baseline: float | None
) -> float | None:
    """Half the width of the metric's widest interval, relative to the baseline's value."""
    widths = [c["ci95"] for c in contrasts if c["metric"] == metric]
    if not widths or not baseline or any(ci is None for ci in widths):
        return None
    return number(max((high - low) / 2 for low, high in widths) / baseline)
