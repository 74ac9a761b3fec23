# SPDX-License-Identifier: Apache-2.0
"""The root of a machine of another architecture: Debian's packages, unpacked, with Python in them.

apt fetches them from this host's own sources, and checks their signatures. Nothing of theirs runs
here, not even the scripts that a package has for its installation. apt's lists and its idea of what
is installed are in a folder of ours, so this needs no rights, and changes nothing of this host's.

A root is made once, and kept under the hash of what it is made of::

    cache()/roots/<hash>/
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kickbench.errors import HostError, MeasurementError
from kickbench.lab import tools
from kickbench.lab.cache import cache, only_one
from kickbench.lab.emulation import printable
from kickbench.lab.image import PROGRAMS
from kickbench.lab.kbuild import say
from kickbench.lab.processes import child

PACKAGES = ("python3", "busybox-static")
"""What is in a root, besides what these need: the agent's Python, and a shell with its programs."""
PYTHON = "/usr/bin/python3"
"""The place of Python in a root."""
INIT = "/init.sh"
"""The place of guest/init.sh in a root."""
_INIT_HERE = Path(__file__).parent / "guest" / "init.sh"
_EMPTY = ("dev", "mnt", "proc", "root", "run", "sys", "tmp")
_USERS = "root:x:0:0:root:/root:/bin/sh\n"
# The hooks in apt's configuration are for the packages of this host.
_NO_HOOKS = "".join(
    f"#clear APT::Update::{name};\n"
    for name in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")
)
_LINES_SHOWN = 4


def root(arch: str = "arm64") -> Path:
    """The folder with the root for Debian's architecture ``arch``. The first call makes it.

    Raises HostError (exit code 3) if apt is missing or cannot fetch the packages, MeasurementError
    (exit code 4) if the folder cannot be written.
    """
    recipe = [arch, PACKAGES, PROGRAMS, _INIT_HERE.read_text(), sys.version_info[:2]]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    made = cache() / "roots" / key
    if made.is_dir():
        return made
    tools.require(f"root-{arch}")
    try:
        with only_one(made.parent, "another kickbench, which makes this root,"):
            if not made.is_dir():  # made by the one that we waited for
                _make(arch, made)
    except OSError as error:
        raise MeasurementError(
            f"the root for {arch} cannot be made in {made.parent}: {error.strerror}"
        ) from error
    return made


def _make(arch: str, made: Path) -> None:
    for leftover in made.parent.glob(".new-*"):
        shutil.rmtree(leftover)
    say(f"fetching Debian's Python for {arch}")
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=made.parent))
    try:
        fresh = work / "root"
        fresh.mkdir()
        for package in _fetch(arch, work):
            _run(["dpkg-deb", "-x", str(package), str(fresh)], f"{package.name} cannot be unpacked")
        _complete(fresh)
        fresh.rename(made)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(arch: str, work: Path) -> list[Path]:
    """The packages, and all that they need."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "state/status").touch()
    (work / "apt.conf").write_text(_NO_HOOKS)
    options = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "state/status",
        "Dir::Cache": work / "cache",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Get::AllowUnauthenticated": "false",
        # The folder is in our home, which apt's own user may not enter.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-q", "-c", str(work / "apt.conf")]
    apt += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    what = f"Debian's packages for {arch} cannot be fetched"
    said = _run([*apt, "update"], what)
    download = ["install", "--download-only", "--yes", "--no-install-recommends", *PACKAGES]
    _run([*apt, *download], what, said)
    return sorted((work / "cache/archives").glob("*.deb"))


def _run(command: Sequence[str], what: str, before: str = "") -> str:
    """Run a program, and return its output. Raises HostError, with its errors, if it fails.

    ``before`` is the output of a program that may have the reason.
    """
    with child(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    ) as process:
        said = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        lines = [line for line in (before + said).splitlines() if line[:2] in ("E:", "W:", "Er")]
        shown = "\n".join(
            f"  | {printable(line)}" for line in (lines or said.splitlines())[-_LINES_SHOWN:]
        )
        raise HostError(
            f"{what}; {command[0]} said:\n{shown}\n"
            "it needs a network, and sources in /etc/apt that have this architecture"
        )
    return said


def _complete(fresh: Path) -> None:
    """What the packages' scripts would do, as far as a machine needs it."""
    for name in _EMPTY:
        (fresh / name).mkdir(exist_ok=True)
    (fresh / "etc/passwd").write_text(_USERS)
    shutil.copyfile(_INIT_HERE, fresh / INIT.lstrip("/"))
    for name in PROGRAMS:
        if not (fresh / "bin" / name).is_symlink():
            (fresh / "bin" / name).symlink_to("busybox")
    # To compile inside would take long at each boot. If Python's version there is another one than
    # here, it has to.
    library = fresh / f"usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    if library.is_dir():
        compileall.compile_dir(library, quiet=2, stripdir=str(fresh), prependdir="/")
