# SPDX-License-Identifier: Apache-2.0
"""A disk that boots, with the root of a machine that cannot see this host's files.

The root has the files that a run needs, at the paths that they have here: Python with its standard
library, the agent, a few programs, and the shared libraries of all of these. Times of files are
kept, so that compiled Python files stay valid. To compile them inside would take long.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import py_compile
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.lab import agents, disk
from kickbench.lab.emulation import printable
from kickbench.lab.processes import child
from kickbench.lab.tools import GRUB, program

PROGRAMS = (
    *("sh", "mount", "mkdir", "chroot"),  # guest/init.sh needs these; the others are for a user
    "ln",  # the agent's
    *("cat", "cp", "dmesg", "env", "false", "grep", "head", "hostname", "ls", "ps", "sleep"),
    *("sort", "tail", "taskset", "true"),
)
INIT = Path(__file__).parent / "guest" / "init.sh"
_EMPTY = ("dev", "mnt", "proc", "run", "sys", "tmp")
_ALSO = ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/localtime")
_LINKS = ("/bin", "/sbin", "/lib", "/lib64")
# Parts of Python's library that no run imports.
_NOT_IMPORTED = {"test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3"}
_NOT_READ = (".a", ".h")
_ELF = b"\x7fELF"


def make(target: Path, kernel: Path, parameters: str, python: str, work: Path) -> None:
    """Write the disk: GRUB, the kernel with these parameters, and the root with this Python.

    The disk is the image of a CD, which also boots as a disk. ``work`` is an empty folder of ours.
    Raises MeasurementError if the disk cannot be written, HostError for what this host lacks.
    """
    (work / "empty").mkdir()
    menu, first = work / "grub.cfg", work / "init"
    # GRUB and the kernel read quotes differently, so no path may be among the parameters.
    menu.write_text(f"linux /boot/lab-kernel {parameters} init=/boot/lab-init\nboot\n")
    agent = agents.prepared()
    words = ["/bin/sh", str(INIT), python, str(agent), "serial"]
    first.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
    first.chmod(0o755)
    grafts = {"/boot/grub/grub.cfg": menu, "/boot/lab-kernel": kernel.resolve()}
    grafts["/boot/lab-init"] = first
    grafts |= {f"/{name}": work / "empty" for name in _EMPTY}
    files = closure(wanted(python, agent))
    grafts |= {str(path): path for path in files}
    (work / "compiled").mkdir()
    grafts |= {str(at): of for at, of in compiled(files, work / "compiled").items()}
    listing = work / "listing"
    lines = "".join(f"{_graft(at)}={_graft(of)}\n" for at, of in grafts.items())
    listing.write_bytes(os.fsencode(lines))
    command = [program("grub-mkrescue"), "-d", str(GRUB), "-o", str(target)]
    command += [
        "--locales=",
        "--fonts=",
        "--themes=",
        "--install-modules=linux normal iso9660 biosdisk",
    ]
    with child(
        [*command, "-graft-points", "-path-list", str(listing)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C", "TMPDIR": str(work)},
    ) as made:
        said = made.communicate()[1].decode(errors="replace")
    if made.returncode:
        last = [printable(line) for line in said.strip().split("\n")[-3:]]
        raise MeasurementError("the machine's root cannot be written: " + "; ".join(last))
    disk.fill(target)


def _graft(path: object) -> str:
    """A path, quoted for a list that xorriso reads."""
    if "\n" in (text := str(path)):
        raise UsageError(f"{printable(text)}: the lab cannot use a path with a newline")
    return text.replace("\\", "\\\\").replace("=", "\\=")


# --- what goes in ------------------------------------------------------------------------------


def closure(wanted: Iterable[Path]) -> list[Path]:
    """All paths that these files need to be found and to run, sorted, each once.

    These are the files, the symbolic links on the way to them, and their shared libraries.
    """
    found: set[Path] = set()
    for path in wanted:
        _follow(path, found)
    for library in _libraries([path for path in found if not path.is_symlink()]):
        _follow(library, found)
    return sorted(found)


def _follow(path: Path, found: set[Path], depth: int = 0) -> None:
    """Add a file, and every link on the way to it."""
    if path in found or depth > 40:
        return
    place = Path("/")
    parts = Path(os.path.abspath(path)).parts[1:]  # noqa: PTH100 (resolve() would skip the links)
    for number, part in enumerate(parts):
        place = place / part
        if place.is_symlink():
            found.add(place)
            target = place.parent / place.readlink() / PurePath(*parts[number + 1 :])
            _follow(target, found, depth + 1)
            return
    if place.is_file():
        found.add(place)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that the loader would load for these files."""
    elf = [str(path) for path in files if _is_elf(path)]
    if not elf:
        return set()
    try:
        said = subprocess.run(["ldd", *elf], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise HostError(f"ldd does not run: {error.strerror}") from error
    return {Path(path) for path in re.findall(r"^\t(?:.* => )?(/.*) \(0x", said, re.M)}


def _is_elf(path: Path) -> bool:
    if ".so" not in path.name and not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(4) == _ELF


def compiled(files: Iterable[Path], work: Path) -> dict[Path, Path]:
    """Compile the sources that have no valid compiled file, which Python would compile inside.

    Returns the compiled files in ``work``, by the paths at which Python looks for them.
    """
    made = {}
    for number, source in enumerate(path for path in files if path.suffix == ".py"):
        place = Path(importlib.util.cache_from_source(source))
        facts = source.stat()
        times = (int(facts.st_mtime) & 0xFFFFFFFF, facts.st_size & 0xFFFFFFFF)
        valid = struct.pack("<4sIII", importlib.util.MAGIC_NUMBER, 0, *times)
        try:
            with place.open("rb") as file:
                if file.read(len(valid)) == valid:
                    continue
        except OSError:
            pass
        with contextlib.suppress(py_compile.PyCompileError, OSError):
            py_compile.compile(str(source), str(work / str(number)), doraise=True)
            made[place] = work / str(number)
    return made


def wanted(python: str, agent: Path) -> Iterator[Path]:
    """The files that a run needs, and a few programs."""
    yield from map(Path, (*_ALSO, *_LINKS))
    for name in PROGRAMS:
        if found := shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"):
            yield Path(found)
    yield Path(python)
    yield Path(sys.prefix) / "pyvenv.cfg"
    for library in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        yield from _tree(Path(library), but={"site-packages", "dist-packages"})
    yield INIT
    yield from _tree(agent)


def _tree(folder: Path, but: Iterable[str] = ()) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_IMPORTED and name not in but]
        yield from (Path(place, name) for name in files if _is_needed(PurePath(name)))


def _is_needed(path: PurePath) -> bool:
    return path.suffix not in _NOT_READ and not _NOT_IMPORTED.intersection(path.parts)
