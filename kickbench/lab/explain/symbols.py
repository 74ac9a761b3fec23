# SPDX-License-Identifier: Apache-2.0
"""The names of functions by address: the kernel's from its System.map, a process's from its files.

A function that the compiler put into its caller has no name of its own. Its instructions count as
the caller's.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kickbench.errors import HostError, UsageError

_KERNEL = 1 << 63
_MAP_LINE = re.compile(r"^([0-9a-f]{8,16}) (\w) (\S+)$", re.MULTILINE)
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) \S+ \d+ +(\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Symbols:
    """Functions by address: ``starts`` in rising order, with a name and an end for each."""

    starts: list[int]
    ends: list[int]
    names: list[str]

    @classmethod
    def of(cls, functions: Iterable[tuple[int, int, str]]) -> Symbols:
        """Of (start, end, name). Of several names of one address, the first one counts."""
        unique: dict[int, tuple[int, str]] = {}
        for start, end, name in functions:
            unique.setdefault(start, (end, name))
        starts = sorted(unique)
        return cls(starts, [unique[s][0] for s in starts], [unique[s][1] for s in starts])

    def name(self, address: int) -> str:
        """The function at this address, or what is known of it."""
        place = bisect.bisect_right(self.starts, address) - 1
        if place >= 0 and address < self.ends[place]:
            return self.names[place]
        return "[kernel]" if address >= _KERNEL else "[unknown]"


def file_of_build(kernel: Path, name: str) -> Path | None:
    """A file of the same build as a kernel's image, if there is one.

    It is beside the image, or at the top of the tree that the image is built in.
    """
    top = kernel.resolve().parents
    places = (kernel.with_name(name), *(folder / name for folder in top[3:4]))
    return next((place for place in places if place.is_file()), None)


def system_map_of(kernel: Path) -> Path:
    """The System.map of a kernel's image. Raises HostError if there is none."""
    found = file_of_build(kernel, "System.map")
    if found is None:
        raise HostError(
            f"{kernel}: its System.map is missing, so its functions have no names\n"
            f"copy the file of the same build to {kernel.with_name('System.map')}"
        )
    return found


def of_kernel(system_map: Path) -> list[tuple[int, int, str]]:
    """The functions of a System.map. Raises UsageError if it has none."""
    found = [one for one in _of_map(system_map, "tTwW") if one[0] >= _KERNEL]
    if not found:
        raise UsageError(f"{system_map}: this is no System.map with a kernel's functions")
    return found


def variables(system_map: Path) -> list[tuple[int, int, str]]:
    """The kernel's variables, from a System.map. Those of each CPU begin at 0."""
    return _of_map(system_map, "bBdDrRvV")


def values(system_map: Path, names: Iterable[str]) -> dict[str, int]:
    """The addresses of these symbols, as far as there are any."""
    wanted = set(names)
    lines = _MAP_LINE.findall(system_map.read_text(errors="replace"))
    return {name: int(address, 16) for address, _, name in lines if name in wanted}


def _of_map(system_map: Path, types: str) -> list[tuple[int, int, str]]:
    """(start, end, name) of the symbols of these types. One ends where the next one begins."""
    found = sorted(
        (
            (int(address, 16), name)
            for address, type_, name in _MAP_LINE.findall(system_map.read_text(errors="replace"))
            if type_ in types
        ),
        # A section may begin where its first function does: __sched_text_start is no function.
        key=lambda one: (one[0], one[1].endswith("_text_start")),
    )
    ends = [following for following, _ in found[1:]] + [at + 4096 for at, _ in found[-1:]]
    # Names of one address share an end.
    for i in range(len(found) - 2, -1, -1):
        if found[i][0] == found[i + 1][0]:
            ends[i] = ends[i + 1]
    return [(start, end, name) for (start, name), end in zip(found, ends, strict=True)]


def of_process(
    maps: str, labels: Mapping[str, str] = MappingProxyType({}), root: Path = Path("/")
) -> list[tuple[int, int, str]]:
    """The functions of a process, from the text of its /proc/PID/maps and the files in it.

    A name is followed by that of its file, or the file's label: ``ioctl [libc.so.6]``. A machine
    may have a root of its own, and other files are where they are here.
    """
    found: list[tuple[int, int, str]] = []
    for low, high, offset, path in _MAPPING.findall(maps):
        start, end = int(low, 16), int(high, 16)
        if path.startswith("["):
            found.append((start, end, path))
            continue
        label = labels.get(Path(path).name, Path(path).name)
        theirs = root / path.lstrip("/")
        place = theirs if theirs.exists() else Path(path)
        functions = list(_of_file(place, start, int(offset, 16)))
        found += [(a, b, f"{name} [{label}]") for a, b, name in functions if start <= a < end]
        found += _gaps(functions, start, end, f"[{label}]")
    return found


def _gaps(
    functions: list[tuple[int, int, str]], start: int, end: int, name: str
) -> Iterable[tuple[int, int, str]]:
    """What is between the functions."""
    at = start
    for low, high, _ in sorted(functions):
        if at < low <= end:
            yield at, low, name
        at = max(at, high)
    if at < end:
        yield at, end, name


def _of_file(path: Path, start: int, offset: int) -> Iterable[tuple[int, int, str]]:
    """The functions of an ELF file that is mapped from ``offset`` on at ``start``."""
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            segments = [s for s in elf.iter_segments("PT_LOAD") if s["p_offset"] <= offset]
            if not segments:
                return
            segment = max(segments, key=lambda s: int(s["p_offset"]))
            base = start - (segment["p_vaddr"] - segment["p_offset"] + offset)
            for section in elf.iter_sections():
                if not isinstance(section, SymbolTableSection):
                    continue
                # pyelftools would take seconds for all symbols of Python and its libraries.
                symbols = np.frombuffer(section.data(), _SYMBOL)
                is_function = np.isin(symbols["info"] & 0xF, _FUNCTIONS)
                symbols = symbols[is_function & (symbols["size"] > 0) & (symbols["value"] > 0)]
                names = elf.get_section(section["sh_link"]).data()
                for at, low, size in symbols[["name", "value", "size"]].tolist():
                    name = names[at : names.index(b"\0", at)].decode(errors="replace")
                    yield base + low, base + low + size, name
    except (OSError, ELFError):
        return


_SYMBOL = np.dtype(
    [
        *(("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2")),
        *(("value", "<u8"), ("size", "<u8")),
    ]
)
"""Elf64_Sym of elf.h."""
_FUNCTIONS = (2, 10)
"""STT_FUNC and STT_GNU_IFUNC: types, in the lower half of ``info``."""
