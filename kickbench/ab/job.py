# SPDX-License-Identifier: Apache-2.0
"""What is done in each boot of a plan: look where we are, measure, and boot the next kernel.

Every step is saved before it is done. So a crash at any point leaves a state from which the next
boot goes on, and a boot that went wrong is known as one. A boot counts only if it came of the
reboot that was asked for, has the kernel of the plan, and lived until its run was finished.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kickbench.ab.state import MOST_FAULTS, RUNS, Boot, Kernel, State, alone, is_stopped, load
from kickbench.errors import (
    KickbenchError,
    MeasurementError,
    ResultsError,
    StorageError,
    UsageError,
)
from kickbench.results.discover import find_run
from kickbench.results.reader import load_manifest
from kickbench.results.schema import one_line


class Host(Protocol):
    """The host that boots, and how it does."""

    def boot_id(self) -> str:
        """What is different in each boot."""

    def build(self) -> str:
        """The build of the kernel that runs (:mod:`kickbench.ab.image`)."""

    def came(self, kernel: Kernel) -> bool:
        """Whether this boot is one that :meth:`boot` asked for, as far as the host can tell."""

    def boot(self, kernel: Kernel) -> None:
        """Have this host reboot into a kernel, once. Raises KickbenchError if it will not."""

    def leave(self) -> None:
        """Have this host reboot into its default kernel."""


Measure = Callable[[State, Path], None]
"""Measures the scenario of a plan into a folder. Raises KickbenchError if a case fails."""

Say = Callable[[str], None]


def go_on(
    folder: Path, host: Host, measure: Measure, say: Say, wait: Callable[[float], None]
) -> State:
    """Do what is to be done in this boot. Usually the host reboots soon after.

    ``wait`` waits for so many seconds. Returns the state. The exit of a plan that failed is an
    error: raises MeasurementError if a boot went wrong for the last time. Raises ResultsError if
    there is no plan, HostError if another process goes on with it. Raises UsageError or
    StorageError as ``measure`` does, without a reboot: the next call measures this boot again.
    """
    with alone(folder):
        state = load(folder)
        if state.end is not None:
            say(f"this plan is {state.end}: there is nothing left to do")
        elif is_stopped(folder):
            say("this plan was stopped: no reboot")
        else:
            _Step(folder, state, host, say).take(measure, wait)
        return state


class _Step:
    def __init__(self, folder: Path, state: State, host: Host, say: Say) -> None:
        self._folder, self._state, self._host, self._say = folder, state, host, say
        self._now = host.boot_id()

    def take(self, measure: Measure, wait: Callable[[float], None]) -> None:
        at = self._state.next
        if at is not None and self._state.boots[at].asked_in not in (None, self._now):
            boot = self._state.boots[at]
            self._arrive(at, boot)
            if boot.boot_id == self._now:
                self._measure(at, boot, measure, wait)
        self._reboot()

    def _arrive(self, at: int, boot: Boot) -> None:
        """Find out whether this is the boot that was asked for, and note it."""
        if boot.boot_id == self._now:
            return  # the measurement was interrupted, and the host was not
        if boot.boot_id is not None:
            if not self._is_finished(boot):
                self._fault(boot, "the boot ended before its run was finished: a panic, perhaps")
            return
        kernel = self._state.kernels[boot.kernel]
        runs = self._host.build()
        if runs != kernel.build:
            self._fault(boot, f"{kernel.build} was asked for, and {runs} came up")
        elif not self._host.came(kernel):
            self._fault(boot, "the right kernel came up, but not because it was asked for")
        else:
            boot.boot_id = self._now
            boot.place = f"{at + 1:03}-{boot.kernel}-{len(boot.faults) + 1}"
            self._state.save(self._folder)

    def _is_finished(self, boot: Boot) -> bool:
        """Whether the run of a boot is there. A crash may have left out the note of it."""
        assert boot.place is not None
        boot.run = _finished_run(self._folder / RUNS, boot.place)
        if boot.run is not None:
            self._state.save(self._folder)
        return boot.run is not None

    def _measure(
        self, at: int, boot: Boot, measure: Measure, wait: Callable[[float], None]
    ) -> None:
        if self._is_finished(boot):
            return
        state = self._state
        assert boot.place is not None
        build = state.kernels[boot.kernel].build
        self._say(f"boot {at + 1} of {len(state.boots)}: measuring {boot.kernel}, {build}")
        wait(state.settle_seconds)
        try:
            measure(state, self._folder / RUNS / boot.place)
        except (UsageError, StorageError) as error:
            again = shlex.join(["kickbench", "ab", "continue", str(self._folder)])
            raise type(error)(
                f"{error}\nno other boot would mend this, so there is no reboot; when you have "
                f"mended it, continue with: {again}"
            ) from error
        except KickbenchError as error:
            self._fault(boot, str(error))
        else:
            if not self._is_finished(boot):
                self._fault(boot, "no case of its run was measured")

    def _fault(self, boot: Boot, what: str) -> None:
        """Note what went wrong. Raises MeasurementError if it did so too often."""
        state = self._state
        number = state.boots.index(boot) + 1
        self._say(f"boot {number} of {len(state.boots)}: {one_line(what)}")
        boot.faults.append(what[:4000])
        boot.asked_in = boot.boot_id = boot.place = None
        if len(boot.faults) >= MOST_FAULTS:
            state.end = "failed"
        state.save(self._folder)
        if state.end is not None:
            raise MeasurementError(
                f"a boot went wrong {MOST_FAULTS} times, the last time: {what}\n"
                "the plan ends here, without another reboot; what was measured is kept"
            )

    def _reboot(self) -> None:
        """Boot what comes next, or the default kernel when all is measured."""
        state, host = self._state, self._host
        if is_stopped(self._folder):
            self._say("this plan was stopped: no reboot")
            return
        at = state.next
        if at is None:
            state.end = "done"
            state.save(self._folder)
            compare = shlex.join(["kickbench", "ab", "report", str(self._folder)])
            self._say(f"all boots are measured; {compare} compares them")
            self._say("the host returns to its default kernel")
            host.leave()
            return
        boot = state.boots[at]
        boot.asked_in = self._now
        state.save(self._folder)
        kernel = state.kernels[boot.kernel]
        self._say(f"booting {boot.kernel}, {kernel.build}, for boot {at + 1} of {len(state.boots)}")
        try:
            host.boot(kernel)
        except KickbenchError as error:
            state.end = "failed"
            boot.faults.append(str(error)[:4000])
            state.save(self._folder)
            raise


def _finished_run(runs: Path, folder: str) -> str | None:
    """The run in a folder, below ``runs``, if it is finished and no case of it failed."""
    try:
        run = find_run(runs / folder)
        cases = [case["status"] for case in load_manifest(run)["cases"]]
    except ResultsError:
        return None
    if "failed" in cases or "ok" not in cases:
        return None
    return str(run.relative_to(runs))
