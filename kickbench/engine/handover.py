# SPDX-License-Identifier: Apache-2.0
"""The ctypes face of ``src/handover.c``: a cache line is handed from one CPU to another and back.

No Python runs meanwhile, and the GIL is not held. Needs no KVM. Standard library only.
"""

from __future__ import annotations

import errno
import os
from ctypes import c_uint64

from kickbench.engine.engine import Clock, library
from kickbench.errors import MeasurementError


def exchange(first: int, second: int, clock: Clock, *, handovers: int, bouts: int) -> list[int]:
    """The length of each bout, in cycles of ``clock``.

    A bout is ``handovers`` hand-overs, an even number: CPU ``first`` takes the line as often as CPU
    ``second`` does. The line's memory is on the node of ``first``. If both are one CPU, a single
    thread takes both turns, and no line travels. Before the first bout there is one that is not
    timed. Raises MeasurementError if a thread cannot run on its CPU, or waits for the other too
    long.
    """
    if handovers < 2 or handovers % 2 or bouts < 1:
        raise ValueError(f"expected bouts of an even number of hand-overs: {bouts} of {handovers}")
    cycles = (c_uint64 * bouts)()
    error = library().kb_handover(first, second, clock.is_counter, handovers, bouts, cycles)
    if error:
        raise MeasurementError(_why(first, second, error))
    return list(cycles)


def _why(first: int, second: int, error: int) -> str:
    pair = f"CPUs {first} and {second}" if first != second else f"CPU {first}"
    if error in (errno.EINVAL, errno.EXDEV):
        return (
            f"no line can be handed over on {pair}: a CPU went offline, or this process may not "
            "use it (see taskset and the cgroup's cpuset)"
        )
    if error == errno.ETIMEDOUT:
        return f"{pair} did not hand over a line in time: other work keeps a thread off its CPU"
    return f"no line can be handed over on {pair}: {os.strerror(error)}"
