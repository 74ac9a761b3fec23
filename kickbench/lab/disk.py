# SPDX-License-Identifier: Apache-2.0
"""A raw disk with tar archives: files go in and out of a machine that cannot see this host's files.

The disk begins with an archive of the order and of what the command reads. After it come archives
of what the command has written, one after the other. The machine reports the place of each archive
as soon as the archive is complete. So a finished case is outside as soon as it is finished. Names
that begin with a dot are unfinished work, and stay inside.

This module is both ends of the disk. The end inside needs only the standard library.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ORDER = "order.json"
SECTOR_BYTES = 512
# A cylinder of the disk, as the BIOS counts: 16 heads of 63 sectors.
_CYLINDER_BYTES = 16 * 63 * SECTOR_BYTES
# The file is sparse: what is never written takes no space.
_ROOM_BYTES = 4 << 30


def _aligned(place: int) -> int:
    return -(-place // SECTOR_BYTES) * SECTOR_BYTES


# --- outside, before -----------------------------------------------------------------------------


def write(image: Path, order: bytes, reads: Iterable[Path]) -> None:
    """Make the disk with the order, and with files and folders at the paths that they have here."""
    with tarfile.open(image, "w", dereference=True) as archive:
        member = tarfile.TarInfo(ORDER)
        member.size = len(order)
        archive.addfile(member, io.BytesIO(order))
        for path in reads:
            archive.add(path, str(path.absolute()).lstrip("/"), filter=_file_or_folder)
    fill(image, _ROOM_BYTES)


def fill(image: Path, room: int = 0) -> None:
    """Add ``room`` bytes, and what is missing to a whole cylinder."""
    size = image.stat().st_size + room
    os.truncate(image, -(-size // _CYLINDER_BYTES) * _CYLINDER_BYTES)


def _file_or_folder(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Keep files and folders, and drop devices and the like."""
    return member if member.isreg() or member.isdir() else None


# --- inside --------------------------------------------------------------------------------------


class Inside:
    """The disk as the machine sees it."""

    def __init__(self, device: Path) -> None:
        self._file = device.open("r+b")
        self._known: dict[str, tuple[int, int]] = {}
        self._folders: list[str] = []
        self._end = 0

    def close(self) -> None:
        """Close the disk."""
        self._file.close()

    def read(self) -> dict[str, Any]:
        """Read the order, and unpack the files that came with it."""
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            member = archive.next()
            assert member is not None
            text = archive.extractfile(member)
            assert text is not None
            order: dict[str, Any] = json.load(text)
            for member in archive:
                if member.name != ORDER:
                    archive.extract(member, "/")
            self._end = _aligned(archive.offset + 2 * SECTOR_BYTES)
        return order

    def watch(self, folders: Iterable[str]) -> None:
        """Begin to watch these folders. What is in them now is known outside."""
        self._folders = list(folders)
        for path in self._folders:
            Path(path).mkdir(parents=True, exist_ok=True)
        self._known = dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for top in self._folders:
            for place, folders, files in os.walk(top):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for name in files:
                    if name.startswith("."):
                        continue
                    path = f"{place}/{name}"
                    try:
                        facts = os.lstat(path)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(facts.st_mode):
                        yield path, (facts.st_mtime_ns, facts.st_size)

    def collect(self) -> tuple[int, int] | None:
        """Write the new files to the disk. Returns their place, or None if there are none.

        The oldest file is first, so that the file that marks a case as finished comes after its
        tables. A file that cannot be read is left for the next time. Raises OSError if the disk is
        full.
        """
        new = sorted(
            (facts[0], name, facts)
            for name, facts in self._walk()
            if facts != self._known.get(name)
        )
        if not new:
            return None
        taken = {}
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for time_ns, name, facts in new:
                try:
                    content = Path(name).read_bytes()
                except OSError:  # for example, it was renamed meanwhile
                    continue
                member = tarfile.TarInfo(name.lstrip("/"))
                member.size, member.mtime = len(content), time_ns / 1e9
                archive.addfile(member, io.BytesIO(content))
                taken[name] = facts
        if not taken:
            return None
        begin = place = self._end
        rest = data.getbuffer()
        while rest:
            written = os.pwrite(self._file.fileno(), rest, place)
            place, rest = place + written, rest[written:]
        os.fsync(self._file.fileno())
        self._known |= taken
        self._end = _aligned(place)
        return begin, self._end


# --- outside, while it runs ----------------------------------------------------------------------


def receive(image: Path, begin: int, end: int, folders: Iterable[Path]) -> None:
    """Unpack an archive of the machine's into the folders that the machine may write to.

    Each file appears by one rename. Raises ValueError if the archive is damaged, would write
    elsewhere, or has anything but files. Raises OSError if this host cannot write a file.
    """
    if not 0 <= begin <= end <= image.stat().st_size:
        raise ValueError(f"the disk has no place {begin} to {end}")
    allowed = [os.path.realpath(folder) for folder in folders]
    try:
        with image.open("rb") as file:
            file.seek(begin)
            part = io.BytesIO(file.read(end - begin))
        with tarfile.open(fileobj=part, mode="r:") as archive:
            for member in archive:
                _put(archive, member, allowed)
    except tarfile.TarError as error:
        raise ValueError(f"not an archive of files: {error}") from error


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, allowed: list[str]) -> None:
    target = os.path.realpath(f"/{member.name}")
    if not member.isreg() or not any(target.startswith(f"{folder}/") for folder in allowed):
        raise ValueError(f"{member.name}: not a file in a folder of the results")
    source = archive.extractfile(member)
    assert source is not None
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            shutil.copyfileobj(source, file)
        os.utime(temporary, (member.mtime, member.mtime))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
