# SPDX-License-Identifier: Apache-2.0
"""Puts the agent together: a zip file with what another machine needs of the package."""

from __future__ import annotations

import hashlib
import io
import platform
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kickbench
from kickbench.arch import ARCHS
from kickbench.arch import names as arch_names
from kickbench.errors import HostError

ROOMS = (
    "agent",
    "arch",
    "engine",
    "guest",
    "host",
    "kvm",
    "methods",
    "nested",
    "run",
    "scenario",
    "stats",
    "watch",
)
"""The folders of the package that go, with their Python modules and what CMake built for them."""
_BUILT = (".so", ".bin", ".o")
_OTHERS = "remote"
"""The folder with what CMake built for other machines, in a folder for each."""


@cache
def names() -> dict[str, str]:
    """The name of the agent for each machine (``uname -m``) that this kickbench has one for.

    No two agents have the same name.
    """
    found = {}
    for machine in [platform.machine(), *_others()]:
        digest = hashlib.sha256()
        for name, path in sorted(_files(machine)):
            digest.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
        found[machine] = f"agent-{kickbench.__version__}-{digest.hexdigest()[:16]}"
    return found


@cache
def agent(machine: str | None = None) -> tuple[str, bytes]:
    """The name of the agent for a machine of this kind, and its zip file. None: for this machine.

    The same agent is the same bytes everywhere. Raises HostError if there is none.
    """
    machine = machine or platform.machine()
    if machine not in names():
        raise HostError(f"no agent for {machine}: {why_none(machine)}")
    name = names()[machine]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, path in sorted(_files(machine)):
            archive.writestr(zipfile.ZipInfo(place), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return name, packed.getvalue()


def why_none(machine: str) -> str:
    """Why :func:`names` lacks a machine, in words."""
    if arch := ARCHS.get(machine):
        return (
            "this kickbench was installed without what runs there: install "
            f"{' and '.join(arch.CROSS_PACKAGES)}, and then kickbench again"
        )
    return f"kickbench measures {arch_names()} hosts only"


def _others() -> set[str]:
    folders = [path for folder in kickbench.__path__ for path in Path(folder, _OTHERS).glob("*")]
    return {folder.name for folder in folders if (folder / "engine").is_dir()}


def _files(machine: str) -> Iterator[tuple[str, Path]]:
    """The files for a machine of this kind, by their names in the zip file."""
    is_ours = machine == platform.machine()
    # In an editable install the package has two folders: the source, and what was built.
    for folder in map(Path, kickbench.__path__):
        for path in folder.glob("*.py"):
            yield f"kickbench/{path.name}", path
        for room in ROOMS:
            for path in (folder / room).rglob("*"):
                if path.suffix == ".py" or (is_ours and path.suffix in _BUILT):
                    yield f"kickbench/{path.relative_to(folder)}", path
        built = folder / _OTHERS / machine
        for path in [] if is_ours else built.rglob("*"):
            if path.suffix in _BUILT:
                yield f"kickbench/{path.relative_to(built)}", path
