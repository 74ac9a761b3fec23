# SPDX-License-Identifier: Apache-2.0
"""Moves the calling thread to CPUs, for the time of a ``with`` block."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from kickbench.cpu_list import format_cpu_list
from kickbench.errors import MeasurementError


@contextmanager
def pinned(cpus: Collection[int] | None, who: str = "a thread") -> Iterator[None]:
    """Within it the calling thread runs on ``cpus`` only; None leaves it where it is.

    Threads and processes that it starts meanwhile begin there, and memory that it touches first
    comes from their node. Raises MeasurementError, which names ``who`` and the CPUs, when one of
    them is not there. The kernel would silently use the others (sched_setaffinity(2)).
    """
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        if missing := set(cpus) - _move_to(cpus):
            raise MeasurementError(
                f"{who} cannot run on CPU {format_cpu_list(missing)}: it is offline, or this "
                "process may not use it (see taskset and the cgroup's cpuset)"
            )
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_cpus(cpus: Collection[int], who: str) -> None:
    """Raise MeasurementError as :func:`pinned` does. The calling thread moves there and back."""
    with pinned(cpus, who):
        pass


def _move_to(cpus: Collection[int]) -> set[int]:
    """Move the calling thread. Returns where it may run now; no CPU if it could not be moved."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError:
        return set()
    return os.sched_getaffinity(0)


def current_cpu() -> int:
    """The CPU that the calling thread is on at this moment (sched_getcpu(3)); -1: not known."""
    return int(ctypes.CDLL(None).sched_getcpu())


def policy() -> int:
    """The scheduling policy of this thread (sched(7)); that of most threads if musl is the C
    library, whose function for it only returns ENOSYS."""
    try:
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    except OSError:
        return os.SCHED_OTHER
