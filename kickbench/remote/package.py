# SPDX-License-Identifier: Apache-2.0
"""Puts the agent together: a zip file with what another machine needs of the package."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kickbench

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
)
"""The folders of the package that go, with their Python modules and what CMake built for them."""
_BUILT = (".so", ".bin")


@cache
def agent() -> tuple[str, bytes]:
    """The name of this agent, which only it has, and its zip file.

    The same agent is the same bytes everywhere.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files()):
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = packed.getvalue()
    return f"agent-{kickbench.__version__}-{hashlib.sha256(data).hexdigest()[:16]}", data


def _files() -> Iterator[tuple[str, Path]]:
    # In an editable install the package has two folders: the source, and what was built.
    for folder in map(Path, kickbench.__path__):
        for path in folder.glob("*.py"):
            yield f"kickbench/{path.name}", path
        for room in ROOMS:
            for path in (folder / room).rglob("*"):
                if path.suffix == ".py" or path.suffix in _BUILT:
                    yield f"kickbench/{path.relative_to(folder)}", path
