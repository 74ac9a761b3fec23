# SPDX-License-Identifier: Apache-2.0
"""The lab's part of the user's cache, and how one process at a time works in a folder of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def cache() -> Path:
    """The lab's part of the user's cache (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "kickbench" / "lab"


@contextlib.contextmanager
def only_one(folder: Path, other: str) -> Iterator[int]:
    """Hold the folder's lock, and make the folder. ``other`` is who may have it, in words.

    A process that is started inside may inherit the lock, and keep it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{other} is at work: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
