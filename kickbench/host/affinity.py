# SPDX-License-Identifier: Apache-2.0
"""Where the calling thread runs, for a while."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


@contextmanager
def pinned(cpus: Collection[int] | None) -> Iterator[None]:
    """Within it the calling thread runs on ``cpus`` only; None leaves it where it is.

    Threads and processes that it starts meanwhile begin there, and memory that it touches first
    comes from their node. Raises OSError (sched_setaffinity(2)) when none of the CPUs is there and
    allowed.
    """
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
