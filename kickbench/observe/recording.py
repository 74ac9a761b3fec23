# SPDX-License-Identifier: Apache-2.0
"""Observes a VMM into a results folder, with its progress on standard error."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from kickbench.host import environment
from kickbench.observe import store
from kickbench.observe.cost import siglock_cost
from kickbench.observe.observer import INTERRUPTED, Observed, observe
from kickbench.observe.process import Vmm
from kickbench.observe.protocol import UNKNOWN
from kickbench.results.writer import RunWriter
from kickbench.summary.summarise import write_summary


def record(vmm: Vmm, seconds: float, results: Path, *, live: bool) -> tuple[Path, bool]:
    """Observe the VMM and store it below ``results``.

    Returns the folder, and whether Ctrl-C ended it.

    Raises UsageError if the folder cannot be made, and the errors of :func:`observe`.
    """
    name = f"observed-{vmm.guest or vmm.program}"
    with RunWriter.create(
        results,
        name,
        scenario={"name": name, "observed": {"pid": vmm.pid, "seconds": seconds}},
        cases=[store.parameters(len(vmm.vcpu_files), UNKNOWN)],
        environment=environment.collect(),
        command=["kickbench", *sys.argv[1:]],
    ) as writer:
        try:
            found = _observed(vmm, seconds, live)
        except BaseException as error:
            writer.mark(store.CASE_ID, "failed", str(error) or INTERRUPTED)
            raise
        # The rest takes a moment, and must be done: another Ctrl-C has no effect.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        writer.write_case(
            store.CASE_ID, store.document(found, siglock_cost(results)), store.tables(found)
        )
        writer.finish()
        write_summary(writer.path)
        return writer.path, found.ended == INTERRUPTED


def _observed(vmm: Vmm, seconds: float, live: bool) -> Observed:
    from kickbench.observe.live import Live, bar

    if live:
        with Live(vmm, seconds) as screen:
            return observe(
                vmm, seconds, progress=screen.progress, on_turn=screen.turn, keep_on=screen.keep_on
            )
    with bar(f"observing {vmm.title}", seconds) as progress:
        return observe(vmm, seconds, progress=progress)
