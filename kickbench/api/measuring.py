# SPDX-License-Identifier: Apache-2.0
"""Measures a scenario on the KVM of this host or another, and hands over the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from kickbench.api.reading import Run, read
from kickbench.errors import MeasurementError
from kickbench.remote.machines import machine_of
from kickbench.run import runner
from kickbench.run.plan import Planned
from kickbench.scenario.cases import Case
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario
from kickbench.scenario.shipped import resolve
from kickbench.scenario.sweep import check_size


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    ``number`` counts the ``cases`` that are measured, from 1. ``case`` is the id of the current
    one, which begins, advances every half second or so, and is then stored or has failed.
    ``seconds`` is how long it was measured, and ``rounds`` how many rounds are finished.
    ``estimate`` is its estimate so far, in words; it may be empty. ``reason`` says why it failed.
    """

    folder: Path
    case: str
    number: int
    cases: int
    state: Literal["begins", "advances", "stored", "failed"]
    seconds: float = 0.0
    rounds: int = 0
    estimate: str = ""
    reason: str | None = None


def run(
    scenario: str | PathLike[str] | Mapping[str, Any],
    *,
    results: str | PathLike[str] = "results",
    progress: Callable[[Progress], None] | None = None,
    quick: bool = False,
    strict: bool = False,
    wait: bool = False,
    host: str | None = None,
) -> Run:
    """Measure a scenario on this host, or on another. It takes as long as ``kickbench run``.

    ``scenario`` is a file, the name of a shipped scenario, or the keys of such a file. The run's
    folder is made in ``results``. ``progress`` is called with a :class:`Progress` now and then.
    ``quick`` takes some 12 seconds in all. ``strict``: a case that the host cannot run is an
    error, and is not skipped. ``wait``: wait while another kickbench measures on the host.
    ``host`` names another machine as ``kickbench run --host`` does, such as "user@box". It measures
    by an agent that ssh brings there, and the run's folder is made here.

    A case that was skipped or has failed says so in its ``status``, with the ``reason``. Raises
    ScenarioError for a scenario that is wrong, HostError if the host can run nothing of it or
    cannot be reached, and MeasurementError if no case could be measured, if results cannot be
    stored, or if the connection to another host breaks. After Ctrl-C it raises
    KeyboardInterrupt, with the command that finishes the run. An exception of ``progress`` ends the
    run in the same way, and is raised.
    """
    wanted = _scenario(scenario)
    observer = _Observer(progress or (lambda _: None))
    with _own_signals():
        try:
            with machine_of(host) as machine:
                outcome = runner.run(
                    wanted,
                    Path(results),
                    observer,
                    quick=quick,
                    strict=strict,
                    wait=wait,
                    machine=machine,
                )
        except runner.RunInterruptedError as interrupted:
            if observer.fault:
                raise observer.fault from None
            resume = interrupted.outcome.resume
            raise KeyboardInterrupt(f"finished cases are kept; continue with {resume}") from None
    if not outcome.finished:
        case, reason = next(iter(outcome.failed.items()))
        raise MeasurementError(f"no case could be measured, {case}: {reason}")
    return read(outcome.folder)


def _scenario(scenario: str | PathLike[str] | Mapping[str, Any]) -> Scenario:
    if not isinstance(scenario, Mapping):
        return load(resolve(fspath(scenario)))
    found = Scenario.from_dict(dict(scenario), "scenario", Path.cwd())
    check_size(found, "scenario")
    return found


@contextmanager
def _own_signals() -> Iterator[None]:
    """A run that was interrupted ignores further signals; whoever called it must not."""
    if threading.current_thread() is not threading.main_thread():
        yield  # such a thread is not interrupted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Observer:
    """Makes a :class:`Progress` of what the runner says."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._number = 0
        self.fault: Exception | None = None

    def planned(
        self,
        folder: Path,
        cases: Sequence[Planned],  # noqa: ARG002 (the runner's interface)
        todo: Sequence[Case],
    ) -> None:
        self._folder, self._cases = folder, len(todo)

    def case_begins(self, case: Case) -> None:
        self._number += 1
        self._advance: dict[str, Any] = {}
        self._say(case, "begins")

    def case_advances(self, case: Case, spent_seconds: float, rounds: int, estimate: str) -> None:
        self._advance = {"seconds": spent_seconds, "rounds": rounds, "estimate": estimate}
        self._say(case, "advances")

    def case_ends(self, case: Case, status: str, reason: str | None) -> None:
        self._say(case, "stored" if status == "ok" else "failed", reason)

    def _say(
        self,
        case: Case,
        state: Literal["begins", "advances", "stored", "failed"],
        reason: str | None = None,
    ) -> None:
        where = (self._folder, case.id, self._number, self._cases, state)
        try:
            self._tell(Progress(*where, **self._advance, reason=reason))
        except Exception as fault:
            # It is no fault of the case, for which the runner would take it.
            self.fault = fault
            raise KeyboardInterrupt from None
