# SPDX-License-Identifier: Apache-2.0
"""The ctypes face of ``src/lifecycle.c``: one kick of a fresh vCPU, in a process of its own.

The process is the VMM of one VM. It is a fork of the caller's, because a signal without a handler
ends it, and because nothing of one VM must reach the next. Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_char
from dataclasses import dataclass
from typing import NoReturn

from kickbench.closing import end_with
from kickbench.engine.engine import (
    TRANSPORTS,
    Clock,
    Kickers,
    configuration,
    library,
    protocol_address,
    structure,
)
from kickbench.errors import MeasurementError
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.records import Records

FATES = ("answered", "late", "lost", "refused", "poisoned", "killed")
"""What became of a kick: ``enum kb_fate``, and "killed", which only the parent of the VMM sees."""
LOST, KILLED = FATES.index("lost"), FATES.index("killed")

LATE_AFTER_NS = 10_000_000
LOST_AFTER_NS = 50_000_000
STUCK_SECONDS = 20
"""A VMM that takes longer is ended. Its vCPU did not leave, whatever was sent."""

_PROGRAM = "spin"
_MOMENTS = {
    "no_handler": 0,
    "thread_start": 1,
    "entry": 2,
    "first_run": 3,
    "thread_end": 4,
    "takeover": 5,
    "stale": 6,
}


@dataclass(frozen=True)
class Life:
    """What became of the kick of one VM.

    ``fate`` is an index of FATES. ``met``: the kick was sent before the moment was over.
    ``latency`` is in cycles; 0: it was never taken. For ``waited`` of these cycles the vCPU's
    thread waited for a CPU. ``error`` is an errno, or 0.
    """

    fate: int
    met: bool
    latency: int
    waited: int
    error: int


@dataclass(frozen=True)
class Vmm:
    """How a VM is built and kicked, the same for all VMs of a case."""

    clock: Clock
    vcpu_cpus: Sequence[int]
    kicker_cpus: Sequence[int]
    irqchip: str
    transport: str
    protocols: Mapping[str, ctypes.CDLL]

    def live(self, protocol: str, moment: str, delay_ns: int) -> Life:
        """One VM, one kick. Raises MeasurementError if there is no VM, or it ends by itself."""
        with mmap.mmap(-1, mmap.PAGESIZE) as page:  # shared with the VMM

            def be_the_vmm() -> None:
                page[: structure("life").size] = self._live(protocol, moment, delay_ns)

            status = _in_process(be_the_vmm, page)
            if os.WIFSIGNALED(status):
                return _killed(os.WTERMSIG(status), TRANSPORTS[self.transport][1])
            if status:
                said = page[:].rstrip(b"\0").decode(errors="replace")
                raise MeasurementError(said or f"the VMM ended with status {status}")
            found = Records(structure("life"), page[: structure("life").size])
        keys = ("fate", "met", "latency", "waited", "error")
        fate, met, *rest = (found[key][0] for key in keys)
        return Life(fate, bool(met), *rest)

    def _live(self, protocol: str, moment: str, delay_ns: int) -> bytes:
        os.sched_setaffinity(0, self.kicker_cpus)
        with Kvm() as kvm, Guest(kvm, _PROGRAM, 1, irqchip=self.irqchip) as guest:
            config, _alive = configuration(
                guest,
                _PROGRAM,
                self.clock,
                [self.vcpu_cpus],
                n_entries=1,
                samples_capacity=1,
                kickers=Kickers(1, self.kicker_cpus, self.transport, kicks_capacity=1),
            )
            plan = structure("life_plan").pack(
                protocol=protocol_address(self.protocols, protocol),
                delay_ns=delay_ns,
                late_after_ns=LATE_AFTER_NS,
                lost_after_ns=LOST_AFTER_NS,
                moment=_MOMENTS[moment],
            )
            found = (c_char * structure("life").size)()
            if error := library().kb_live(config, plan, found):
                raise MeasurementError(_why_not(moment, error))
            return found.raw


def _in_process(body: Callable[[], None], page: mmap.mmap) -> int:
    """Run ``body`` in a process of its own. Returns its status; an error's text is in ``page``."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_a_process(body, page, parent)
    return os.waitpid(pid, 0)[1]


def _be_a_process(body: Callable[[], None], page: mmap.mmap, parent: int) -> NoReturn:
    status = 1
    try:
        if end_with(parent):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(STUCK_SECONDS)
            body()
            status = 0
    except BaseException as error:  # it is the parent that reports it
        text = str(error).encode()[: mmap.PAGESIZE]
        page[: len(text)] = text
    finally:
        os._exit(status)


def _killed(number: int, kick_signal: int) -> Life:
    if number == kick_signal:
        return Life(KILLED, True, 0, 0, 0)
    if number == signal.SIGALRM:
        return Life(LOST, True, 0, 0, 0)
    raise MeasurementError(f"the VMM of a fresh VM was ended by signal {number}")


def _why_not(moment: str, error: int) -> str:
    said = os.strerror(error)
    if moment == "stale":
        return (
            f"no thread could get the id of one that ended: {said}; the moment stale needs root "
            "(kernel.ns_last_pid)"
        )
    return f"a fresh VM could not be run: {said}"
