# SPDX-License-Identifier: Apache-2.0
"""Counts the entries of a vCPU as its kernel saw them, by the tracepoint kvm:kvm_entry.

In Linux 6.12 the tracepoint says of each entry whether KVM makes it leave at once
(``immediate_exit``, arch/x86/kvm/trace.h). A counting event of perf has neither a buffer nor text,
but each entry takes longer meanwhile. So nothing is timed here. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

EVENT = "events/kvm/kvm_entry/id"
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
"""Where tracefs is mounted: Documentation/trace/ftrace.rst."""

# linux/perf_event.h, and arch/x86/entry/syscalls/syscall_64.tbl: the kind nested is of x86-64.
_SYS_PERF_EVENT_OPEN = 298
_TYPE_TRACEPOINT, _SIZE_VER0 = 2, 64
_IOC_SET_FILTER = 0x40082406
_FLAG_FD_CLOEXEC = 8


class Entries(NamedTuple):
    """How often a thread entered its vCPU, and at how many of these KVM made it leave at once."""

    all: int
    at_once: int


def count_entries(work: Callable[[], object]) -> Entries | None:
    """Do ``work``, and count the entries that the calling thread makes meanwhile.

    None, without doing it, where the tracepoint cannot be read: no rights, no tracefs, or a kernel
    whose tracepoint does not say it.
    """
    with ExitStack() as stack:
        counters = []
        try:
            for condition in (None, b"immediate_exit == 1"):
                counters.append(counter := _open(_event()))
                stack.callback(os.close, counter)
                if condition is not None:
                    fcntl.ioctl(counter, _IOC_SET_FILTER, condition)
        except OSError:
            return None
        work()
        return Entries(*(struct.unpack("=Q", os.read(counter, 8))[0] for counter in counters))


def _event() -> int:
    """The number of the tracepoint. Raises OSError."""
    for folder in TRACEFS:
        if (folder / EVENT).exists():
            return int((folder / EVENT).read_text())
    raise FileNotFoundError(EVENT)


def _open(event: int) -> int:
    """A counter of that tracepoint in the calling thread (perf_event_open(2)). Raises OSError."""
    attributes = struct.pack("=IIQ48x", _TYPE_TRACEPOINT, _SIZE_VER0, event)
    libc = ctypes.CDLL(None, use_errno=True)
    counter = int(libc.syscall(_SYS_PERF_EVENT_OPEN, attributes, 0, -1, -1, _FLAG_FD_CLOEXEC))
    if counter < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return counter
