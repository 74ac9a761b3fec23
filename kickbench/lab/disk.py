# SPDX-License-Identifier: Apache-2.0
"""A raw disk that carries streams: bytes go in and out of a machine that has no other fast way.

The disk begins with a window for each stream. Who writes to a stream puts some bytes into its
window, says on another way how many, and waits until they are taken. After the windows comes the
order, and an archive of the files that the command reads, if it reads any.

This module is both ends of the disk. The end inside needs only the standard library.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tarfile import TarInfo  # it is slow to import

STREAMS = ("stdin", "stdout", "stderr")
WINDOW_BYTES = 1 << 20
SECTOR_BYTES = 512
# The head of Bochs's disk takes 5 ms from the first sector to the last one. What we use of a large
# disk is near its beginning.
DISK_BYTES = 64 << 30
# A cylinder of the disk, as the BIOS counts: 16 heads of 63 sectors.
_CYLINDER_BYTES = 16 * 63 * SECTOR_BYTES


def write(image: Path, order: bytes, reads: Iterable[Path]) -> None:
    """Make the disk with the order, a line, and with files and folders at the paths that they have
    here."""
    import tarfile

    with image.open("wb") as file:
        file.seek(len(STREAMS) * WINDOW_BYTES)
        file.write(order)
        if found := list(reads):
            with tarfile.open(fileobj=file, mode="w", dereference=True) as archive:
                for path in found:
                    archive.add(path, str(path.absolute()).lstrip("/"), filter=_file_or_folder)
    fill(image)


def fill(image: Path) -> None:
    """Make the file a large disk, of whole cylinders. What is added takes no space."""
    os.truncate(image, -(-DISK_BYTES // _CYLINDER_BYTES) * _CYLINDER_BYTES)


def _file_or_folder(member: TarInfo) -> TarInfo | None:
    """Keep files and folders, and drop devices and the like."""
    return member if member.isreg() or member.isdir() else None


def read(device: Path) -> dict[str, Any]:
    """Inside: read the order, and unpack the files that came with it."""
    with device.open("rb") as file:
        file.seek(len(STREAMS) * WINDOW_BYTES)
        order: dict[str, Any] = json.loads(file.readline())
        if file.peek(1)[:1].strip(b"\0"):
            import tarfile

            with tarfile.open(fileobj=file, mode="r:") as archive:
                archive.extractall("/")  # noqa: S202 (it is from the lab outside)
    return order


class Windows:
    """The windows of a disk.

    ``direct`` is for the end inside, whose kernel would keep what it has read (open(2), O_DIRECT).
    """

    def __init__(self, device: Path, *, direct: bool = False) -> None:
        self._file = os.open(device, os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
        self._buffer = mmap.mmap(-1, WINDOW_BYTES)  # O_DIRECT wants whole pages

    def put(self, stream: str, data: bytes) -> None:
        """Write some bytes, at most WINDOW_BYTES, into the window of a stream."""
        self._buffer[: len(data)] = data
        with memoryview(self._buffer) as view:
            os.pwrite(self._file, view[: _whole(len(data))], _place(stream))

    def take(self, stream: str, size: int) -> bytes:
        """Read what the other end has put there. Raises ValueError if the window is smaller."""
        if not 0 <= size <= WINDOW_BYTES:
            raise ValueError(f"a window has no {size} bytes")
        with memoryview(self._buffer) as view:
            os.preadv(self._file, [view[: _whole(size)]], _place(stream))
        return self._buffer[:size]

    def close(self) -> None:
        """Close the disk."""
        os.close(self._file)


def _place(stream: str) -> int:
    return STREAMS.index(stream) * WINDOW_BYTES


def _whole(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
