# SPDX-License-Identifier: Apache-2.0
"""The running estimate of a case, and when it is precise enough to stop.

After each round the worker reports the figures of each participant, by the metric of the contrast.
For exits these are the quiet exit and the mean. Nothing is stored here. The intervals of the
summary come from :mod:`kickbench.summary.summarise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kickbench.run import schedule
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import FIGURES, precise_metrics
from kickbench.stats.contrasts import Interval, running_interval, t_quantile
from kickbench.stats.steady import steady_running_interval

# The scatter of fewer rounds is not known well enough to stop a case, or to show an interval.
MIN_ROUNDS = 20
MIN_ROUNDS_SHOWN = 5

_WHAT = {FIGURES["quiet"]: " per quiet exit", FIGURES["mean"]: " per exit"}

Round = Sequence[Mapping[str, float]]
"""The figures of each participant, in ns by metric; empty if a participant has none."""


@dataclass
class _Figure:
    """The rounds of one metric, in ns: the baseline's, and by entry and process both values."""

    baseline_ns: list[float] = field(default_factory=list)
    pairs: dict[int, list[list[tuple[float, float]]]] = field(default_factory=dict)


def _interval(metric: str, processes: Sequence[Sequence[tuple[float, float]]]) -> Interval:
    """The difference in the rounds of each process, with the interval that more rounds narrow."""
    pairs = [np.array(rounds) for rounds in processes]
    differences = [own[:, 0] - own[:, 1] for own in pairs]
    if metric == FIGURES["quiet"]:
        return steady_running_interval(differences, [own.mean(axis=1) for own in pairs])
    return running_interval(differences)


class Estimate:
    """The differences of a case, estimated from the rounds of all its processes so far."""

    def __init__(self, case: Case, crowded: bool) -> None:
        self._case = case
        self._participants = schedule.entries(case)
        self._baseline = case.methods.index(case.baseline)
        self._figures: dict[str, _Figure] = {}
        self._wanted = precise_metrics(case.to_dict(), crowded)
        self._processes = 0
        self.rounds = 0

    def begin_process(self) -> None:
        """A new process begins: the next rounds are its own."""
        self._processes += 1

    def take(self, rounds: Sequence[Round]) -> None:
        """Take rounds of the current process."""
        for found in rounds:
            self.rounds += 1
            for metric, reference in found[self._baseline].items():
                figure = self._figures.setdefault(metric, _Figure())
                figure.baseline_ns.append(reference)
                for entry, values in enumerate(found):
                    processes = figure.pairs.setdefault(entry, [])
                    processes += [[] for _ in range(self._processes - len(processes))]
                    if metric in values:
                        processes[-1].append((values[metric], reference))

    def in_words(self, counts: Sequence[Mapping[str, int]]) -> str:
        """The differences with their intervals, for exits those of the quiet exit. If kicks are
        counted, how many were lost. ``counts`` has the counts of each participant."""
        metric, figure = next(iter(self._figures.items()), ("", _Figure()))
        words = []
        for entry in self._compared():
            participant = self._participants[entry]
            series = [
                rounds for rounds in figure.pairs.get(entry, ()) if len(rounds) >= MIN_ROUNDS_SHOWN
            ]
            if counts[entry]:
                lost, sent = counts[entry]["lost"], counts[entry]["sent"]
                words.append(f"{participant.method} lost {lost:,} of {sent:,}")
            elif series:
                interval = _interval(metric, series)
                control = "A/A control " if participant.role == "control" else ""
                baseline = self._participants[self._baseline].method
                words.append(
                    f"{control}{participant.method} - {baseline} {interval.estimate:+,.0f} "
                    f"± {interval.half_width:,.0f} ns"
                )
        what = _WHAT.get(metric, "") if words and not any(counts) else ""
        return ", ".join(words) + what

    def is_precise_enough(self) -> bool:
        """Whether the current process has enough rounds for the wanted precision, in each metric
        that must have it.

        The final interval is Student's t over the processes' means. If the means differ no more
        than their own intervals allow, its half-width is that of one process's interval, times t
        over the normal quantile, over the root of the number of processes.
        """
        case = self._case
        judged = [
            (metric, figure)
            for metric, figure in self._figures.items()
            if metric in self._wanted or case.kind != "exits"
        ]
        if case.kind in schedule.COUNTING or not judged:
            return False
        inflation = 1.0
        if case.processes > 1:
            t = t_quantile(0.95, case.processes - 1)
            inflation = t / 1.96 / math.sqrt(case.processes)
        for metric, figure in judged:
            wanted_ns = case.precision * sum(figure.baseline_ns) / len(figure.baseline_ns)
            for entry in self._compared():
                of_processes = figure.pairs[entry]
                rounds = of_processes[-1] if len(of_processes) == self._processes else []
                if len(rounds) < MIN_ROUNDS:
                    return False
                if _interval(metric, [rounds]).half_width * inflation > wanted_ns:
                    return False
        return True

    def _compared(self) -> list[int]:
        """The entries that are compared with the baseline: the other methods, or the control if
        there are none. A race and a lifecycle compare nothing, and show all entries.
        """
        if self._case.kind in schedule.COUNTING:
            return list(range(len(self._participants)))
        others = [
            index
            for index, entry in enumerate(self._participants)
            if index != self._baseline
            and entry.role == "method"
            and schedule.is_compared(self._case, entry)
        ]
        return others or [len(self._case.methods)]
