# SPDX-License-Identifier: Apache-2.0
"""Writes files so that a full disk or a kill leaves the old file. Errors are one line."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from kickbench.errors import MeasurementError, UsageError
from kickbench.results import schema as documents

# No room: on the disk, in the user's quota, in what a file may grow to.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Create a file, which must not exist, and force its contents to the disk."""
    with path.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def cannot_write(folder: Path, error: OSError, advice: str) -> NoReturn:
    """Raise the one-line MeasurementError with the reason and the advice."""
    what = "the disk is full" if error.errno in FULL else (error.strerror or str(error))
    line = documents.one_line(f"cannot write to {folder}: {what}; {advice}")
    raise MeasurementError(line) from error


def replace_bytes(path: Path, data: bytes) -> None:
    """As :func:`replace_file`, but raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        write_new(temporary, partial(write_bytes, data))
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Replace ``path`` atomically: readers see the old contents or the new, never a part.

    Raises MeasurementError when it cannot be written; the old file then stays.
    """
    try:
        replace_bytes(path, data)
    except OSError as error:
        cannot_write(path.parent, error, "the old file, if any, is unchanged")


def make_folder(folder: Path, advice: str) -> None:
    """Make a folder that the user named, if it is not there. Raises UsageError when it cannot be
    made, with ``advice`` on what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Not folder.exists(), which fails as mkdir() did where the name is too long.
        there = isinstance(error, FileExistsError)
        what = "is a file" if there else f"cannot be made: {error.strerror}"
        raise UsageError(f"{documents.place(folder)}: {what}; {advice}") from None


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named, as :func:`replace_file` does. But what exists and is no
    regular file (a device, a pipe: /dev/stdout, /dev/full) is written to and never replaced.
    """
    try:
        if not path.exists() or path.is_file():
            replace_file(path, data)
        else:
            with path.open("wb", buffering=0) as file:
                file.write(data)
    except OSError as error:
        cannot_write(path, error, "choose another file")


def write_bytes(data: bytes, file: IO[bytes]) -> None:
    file.write(data)
