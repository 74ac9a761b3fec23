# SPDX-License-Identifier: Apache-2.0
"""The progress of a run for the user: a live display on a terminal, plain lines elsewhere.

Both go to standard error, so that standard output has only the answer. They are redrawn rarely,
because the display runs on a CPU of the host that is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kickbench.run.plan import Planned
from kickbench.run.runner import Observer
from kickbench.scenario.cases import Case

# What a process costs beside its measurement: it is started, its VM is built, its data is stored.
PROCESS_SECONDS = 0.5
REFRESH_HZ = 2
PLAIN_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Seconds as a person writes them: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Times:
    """How long a run still takes at most: every case may use all of its max_seconds."""

    def __init__(self, todo: Sequence[Case]) -> None:
        self._cost = {case.id: case.max_seconds + case.processes * PROCESS_SECONDS for case in todo}
        self.total = sum(self._cost.values())
        self._case_spent = 0.0

    def advance(self, case: Case, spent_seconds: float) -> None:
        self._case_spent = min(spent_seconds, self._cost[case.id])

    def end(self, case: Case) -> None:
        del self._cost[case.id]
        self._case_spent = 0.0

    @property
    def left(self) -> float:
        return sum(self._cost.values()) - self._case_spent


def _begin(folder: Path, cases: Sequence[Planned], todo: Sequence[Case], left: float) -> str:
    skipped = sum(item.skip is not None for item in cases)
    aside = f", {skipped} skipped" if skipped else ""
    what = f"{len(todo)} case{'s' * (len(todo) != 1)} to measure{aside}"
    return f"{what}, at most {duration(left)}; results go to {folder}"


def _rounds(count: int) -> str:
    return f"{count} round{'s' * (count != 1)}"


class PlainProgress:
    """Prints a line when a case begins, when it ends, and now and then between."""

    def __init__(self) -> None:
        self._last = 0.0
        self._number = 0

    def planned(self, folder: Path, cases: Sequence[Planned], todo: Sequence[Case]) -> None:
        self._times = _Times(todo)
        self._count = len(todo)
        self._print(_begin(folder, cases, todo, self._times.left))

    def case_begins(self, case: Case) -> None:
        self._number += 1
        self._estimate = ""
        self._rounds = 0
        self._last = time.monotonic()
        left = duration(self._times.left)
        self._print(f"[{self._number}/{self._count}] {case.id}: at most {left} left")

    def case_advances(self, case: Case, spent_seconds: float, rounds: int, estimate: str) -> None:
        self._times.advance(case, spent_seconds)
        self._estimate, self._rounds = estimate, rounds
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self._print(f"  {_rounds(rounds)}" + (f": {estimate}" if estimate else ""))

    def case_ends(self, case: Case, status: str, reason: str | None) -> None:
        self._times.end(case)
        result = self._estimate if status == "ok" else reason
        self._print(f"  {status}, {_rounds(self._rounds)}" + (f": {result}" if result else ""))

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LiveProgress:
    """Shows a bar for the whole run, and below it the current case with its running estimate."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def planned(self, folder: Path, cases: Sequence[Planned], todo: Sequence[Case]) -> None:
        self._times = _Times(todo)
        self._progress.start()  # not earlier: it would overwrite what ssh asks
        self._progress.console.print(escape(_begin(folder, cases, todo, self._times.left)))
        self._bar = self._progress.add_task("", total=self._times.total, left="")
        self._count = len(todo)
        self._number = 0

    def case_begins(self, case: Case) -> None:
        self._number += 1
        self._last = ""
        self._show(case, 0)

    def case_advances(self, case: Case, spent_seconds: float, rounds: int, estimate: str) -> None:
        self._times.advance(case, spent_seconds)
        self._last = estimate
        self._show(case, rounds)

    def case_ends(self, case: Case, status: str, reason: str | None) -> None:
        self._times.end(case)
        self._progress.update(self._bar, completed=self._times.total - self._times.left)
        result = self._last if status == "ok" else f"{status}: {reason}"
        self._progress.console.print(escape(f"{case.id}: {result}"))

    def _show(self, case: Case, rounds: int) -> None:
        text = f"{self._number}/{self._count} {case.id}, {_rounds(rounds)}\n{self._last}"
        self._progress.update(
            self._bar,
            description=escape(text),
            completed=self._times.total - self._times.left,
            left=f"at most {duration(self._times.left)} left",
        )


def observer() -> tuple[Observer, AbstractContextManager[object]]:
    """The display that fits standard error, and the context in which it is shown."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return PlainProgress(), nullcontext()
    progress = Progress(
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
        console=console,
        refresh_per_second=REFRESH_HZ,
        transient=True,
    )
    shown = ExitStack()
    shown.callback(progress.stop)
    return LiveProgress(progress), shown
