# SPDX-License-Identifier: Apache-2.0
"""Observes a VMM into a results folder, with its progress on standard error.

What stores results is imported after the observation. It needs more memory than the observation,
and its import would disturb the VM.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kickbench.errors import MeasurementError, UsageError
from kickbench.observe.live import Live, bar
from kickbench.observe.observer import INTERRUPTED, Observed, observe
from kickbench.run.emulated import origin
from kickbench.text import printable
from kickbench.watch.process import Vmm
from kickbench.watch.turns import ENDED_EARLY

if TYPE_CHECKING:
    from kickbench.run.machine import Machine


def record(
    machine: Machine, vmm: Vmm, seconds: float, results: Path, *, live: bool
) -> tuple[Path, BaseException | None]:
    """Observe the VMM on a machine, and store it below ``results``.

    Returns the folder, and what ended the observation early: KeyboardInterrupt,
    ConnectionBrokenError, or None. Raises UsageError if the folder cannot be made, and the errors
    of :func:`observe`.
    """
    _check_place(results)
    environment = machine.survey().environment
    with _noting_interrupts() as interrupts:
        if live:
            with Live(vmm, seconds) as screen:
                found = observe(
                    vmm,
                    seconds,
                    watch=machine.watch,
                    progress=screen.progress,
                    on_turn=screen.turn,
                    keep_on=lambda: not interrupts and screen.keep_on(),
                )
        else:
            with bar(f"observing {vmm.title}", seconds) as progress:
                found = observe(
                    vmm,
                    seconds,
                    watch=machine.watch,
                    progress=progress,
                    keep_on=lambda: not interrupts,
                )
        if found.ended == ENDED_EARLY and interrupts:
            found.ended = INTERRUPTED
        # The rest takes a moment, and must be done.
        about = {"environment": environment, **origin(machine.mark)}
        folder = _stored_anywhere(found, seconds, results, about)
    return folder, KeyboardInterrupt() if found.ended == INTERRUPTED else found.broken


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """SIGINT and SIGTERM only add their numbers to a list, which is yielded, and raise nothing.

    An exception would be lost if it came in a callback of libbpf.
    """
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: numbers.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_place(results: Path) -> None:
    """Raises UsageError now, and not after the observation, if nothing can be stored there."""
    there = results.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{printable(str(there))}: cannot be written to; choose another --results")


def _stored_anywhere(found: Observed, seconds: float, results: Path, about: dict[str, Any]) -> Path:
    """Store it below ``results``, or in the folder for temporary files if there is no room.

    A VM cannot be asked to do the same again.
    """
    try:
        return _stored(found, seconds, results, about)
    except (MeasurementError, UsageError) as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="kickbench-observed-"))
        try:
            folder = _stored(found, seconds, elsewhere, about)
        except (MeasurementError, UsageError):
            shutil.rmtree(elsewhere, ignore_errors=True)
            why = str(error).partition(";")[0]
            raise MeasurementError(
                f"{why}, nor to {elsewhere.parent}, so what was seen is lost: make room, then "
                "observe again"
            ) from None
        why = str(error).partition(";")[0]
        print(f"kickbench: {why}; what was seen is in {folder}", file=sys.stderr)
        return folder


def _stored(found: Observed, seconds: float, results: Path, about: dict[str, Any]) -> Path:
    from kickbench.observe import store
    from kickbench.observe.cost import siglock_cost
    from kickbench.results.writer import RunWriter
    from kickbench.summary.summarise import write_summary

    name = f"observed-{found.vmm.guest or found.vmm.program}"
    document = store.document(found, siglock_cost(results, about["environment"]))
    with RunWriter.create(
        results,
        name,
        scenario={"name": name, "observed": {"pid": found.vmm.pid, "seconds": seconds}},
        cases=[document["case"]],
        host=about["environment"].get("hostname"),
        **about,
    ) as writer:
        try:
            writer.write_case(store.CASE_ID, document, store.tables(found))
            writer.finish()
            write_summary(writer.path)
        except MeasurementError:
            shutil.rmtree(writer.path, ignore_errors=True)
            raise
        return writer.path
