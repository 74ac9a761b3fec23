# SPDX-License-Identifier: Apache-2.0
"""Observes a VMM into a results folder, with its progress on standard error.

What stores results is imported after the observation. It needs more memory than the observation,
and its import would disturb the VM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.observe.live import Live, bar
from kickbench.observe.observer import INTERRUPTED, Observed, observe
from kickbench.observe.process import Vmm
from kickbench.text import printable


def record(vmm: Vmm, seconds: float, results: Path, *, live: bool) -> tuple[Path, bool]:
    """Observe the VMM and store it below ``results``.

    Returns the folder, and whether Ctrl-C ended it. Raises UsageError if the folder cannot be made,
    and the errors of :func:`observe`.
    """
    _check_place(results)
    if live:
        with Live(vmm, seconds) as screen:
            found = observe(
                vmm, seconds, progress=screen.progress, on_turn=screen.turn, keep_on=screen.keep_on
            )
    else:
        with bar(f"observing {vmm.title}", seconds) as progress:
            found = observe(vmm, seconds, progress=progress)
    # The rest takes a moment, and must be done: another Ctrl-C has no effect.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return _stored(found, seconds, results), found.ended == INTERRUPTED


def _check_place(results: Path) -> None:
    """Raises UsageError now, and not after the observation, if nothing can be stored there."""
    there = results.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{printable(str(there))}: cannot be written to; choose another --results")


def _stored(found: Observed, seconds: float, results: Path) -> Path:
    from kickbench.host import environment
    from kickbench.observe import store
    from kickbench.observe.cost import siglock_cost
    from kickbench.observe.protocol import UNKNOWN
    from kickbench.results.writer import RunWriter
    from kickbench.summary.summarise import write_summary

    name = f"observed-{found.vmm.guest or found.vmm.program}"
    with RunWriter.create(
        results,
        name,
        scenario={"name": name, "observed": {"pid": found.vmm.pid, "seconds": seconds}},
        cases=[store.parameters(len(found.vcpus), UNKNOWN)],
        environment=environment.collect(),
        command=["kickbench", *sys.argv[1:]],
    ) as writer:
        document = store.document(found, siglock_cost(results))
        writer.write_case(store.CASE_ID, document, store.tables(found))
        writer.finish()
        write_summary(writer.path)
        return writer.path
