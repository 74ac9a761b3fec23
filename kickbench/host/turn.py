# SPDX-License-Identifier: Apache-2.0
"""Lets one run at a time measure on this host: every run that measures shares a lock on a file.

A run that can have the lock alone is alone. The lock ends with its process, however that ends. Two
runs at once are no error, but the later one reports the other. Containers that share a host and no
folder can name a shared file in KICKBENCH_LOCK.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kickbench.text import printable, shorten

NAME = "kickbench.measuring"
_LONGEST_NOTE = 200
# The bytes of the file that are locked: by all that measure, and by the one that is next.
_MEASURING, _NEXT = 0, 1
_FIRST_NOTE = 2
_NOTES = 64
"""Each that measures also locks a byte of its own, and its note is the line at that place."""


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


def _locked(descriptor: int, byte: int, kind: int, *, wait: bool) -> bool:
    """Lock a byte of the file, or convert the lock on it, which is atomic (fcntl(2), OFD locks).

    The lock belongs to the open file: it ends with the process, and holds within one, too.
    """
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(descriptor, command, struct.pack("hhqqi", kind, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    return True


def _is_locked(descriptor: int, byte: int) -> bool:
    """Whether another has locked this byte of the file."""
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    (kind,) = struct.unpack_from("h", fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return bool(kind != fcntl.F_UNLCK)


def _leave_note(descriptor: int, what: str) -> None:
    """Write the note at the first place that no other has. Whoever finds none leaves no note."""
    for place in range(_NOTES):
        if _locked(descriptor, _FIRST_NOTE + place, fcntl.F_WRLCK, wait=False):
            note = what.encode()[:_LONGEST_NOTE].ljust(_LONGEST_NOTE)
            os.pwrite(descriptor, note, place * _LONGEST_NOTE)
            return


def _note(descriptor: int) -> str:
    """The note of one that measures now; "" if it has left none. Those that ended have no lock."""
    for place in range(_NOTES):
        if _is_locked(descriptor, _FIRST_NOTE + place):
            note = os.pread(descriptor, _LONGEST_NOTE, place * _LONGEST_NOTE)
            return note.decode(errors="replace").strip(" \0\n")
    return ""


@contextmanager
def taken(what: str, *, wait: bool, say: Callable[[str], None]) -> Iterator[str | None]:
    """Inside the ``with`` block, other runs on this host report the line ``what``.

    If others measure already, ``say`` gets a line that names one of them. With ``wait`` the
    block is then entered when all have ended, one waiting run at a time. Otherwise it is entered
    at once. It gets that line, or None if no other measures.
    """
    descriptor = _open()
    if descriptor is None:
        yield None
        return
    try:
        other = None
        if not _locked(descriptor, _MEASURING, fcntl.F_WRLCK, wait=False):
            other = "another kickbench measures on this host"
            if note := _note(descriptor):
                other += f" ({shorten(printable(note), 150)})"
            if wait:
                say(f"{other}; waiting for its end")
                _locked(descriptor, _NEXT, fcntl.F_WRLCK, wait=True)
                _locked(descriptor, _MEASURING, fcntl.F_WRLCK, wait=True)
                other = None
            else:
                say(f"{other}, which disturbs the figures of both; --wait waits for its end")
        _locked(descriptor, _MEASURING, fcntl.F_RDLCK, wait=True)
        _locked(descriptor, _NEXT, fcntl.F_UNLCK, wait=True)
        _leave_note(descriptor, what)
        yield other
    finally:
        os.close(descriptor)
