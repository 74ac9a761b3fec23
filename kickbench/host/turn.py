# SPDX-License-Identifier: Apache-2.0
"""Lets one run at a time measure on this host: a run holds a file locked (flock(2)).

The lock ends with its process, however that ends. Two runs at once are no error, but the later one
reports the other. Containers that share a host and no folder can name a shared file in
KICKBENCH_LOCK.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kickbench.text import printable, shorten

NAME = "kickbench.measuring"
_LONGEST_NOTE = 200


def _places() -> list[Path]:
    if named := os.environ.get("KICKBENCH_LOCK"):
        return [Path(named)]
    own = os.environ.get("XDG_RUNTIME_DIR")
    folders = ["/run/lock", *([own] if own else []), tempfile.gettempdir()]
    return [Path(folder, NAME) for folder in folders]


def _open() -> int | None:
    """The first of the files that can be opened; a link that somebody left there is not followed.

    Without O_CREAT first: in a sticky folder the kernel denies that for a file of another user's
    (fs.protected_regular).
    """
    for path in _places():
        for create in (0, os.O_CREAT):
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | create
            with contextlib.suppress(OSError):
                descriptor = os.open(path, flags, 0o666)
                with contextlib.suppress(OSError):
                    os.fchmod(descriptor, 0o666)  # whatever the umask is
                return descriptor
    return None


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    return True


@contextmanager
def taken(what: str, *, wait: bool, say: Callable[[str], None]) -> Iterator[str | None]:
    """Inside the ``with`` block, other runs on this host report the line ``what``.

    When another one measures already: ``say`` is called with a line that names it, and it is
    waited for (``wait``), or the block is entered at once with that line. None: there is none.
    """
    descriptor = _open()
    if descriptor is None:
        yield None
        return
    try:
        other = None
        if not _locked(descriptor, fcntl.LOCK_NB):
            note = os.pread(descriptor, _LONGEST_NOTE, 0).decode(errors="replace").strip()
            other = f"another kickbench measures on this host ({shorten(printable(note), 150)})"
            if wait:
                say(f"{other}; waiting for its end")
                _locked(descriptor, 0)
                other = None
            else:
                say(f"{other}, which disturbs the figures of both; --wait waits for its end")
        if other is None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, what.encode()[:_LONGEST_NOTE], 0)
        yield other
    finally:
        os.close(descriptor)
