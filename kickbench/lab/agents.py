# SPDX-License-Identifier: Apache-2.0
"""The agent as the lab's machines have it: unpacked, compiled, and with their process 1 beside it.

To send it and to compile it inside would take longer than all else before a measurement.
"""

from __future__ import annotations

import compileall
import hashlib
import io
import py_compile
import shutil
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from kickbench.agent.runs import remove_other_agents
from kickbench.errors import HostError
from kickbench.lab.cache import cache as lab_cache
from kickbench.remote.package import agent

_OF_THE_LAB = (
    *("__init__.py", "disk.py", "inside.py"),
    *("structs.py", "explain/__init__.py", "explain/inside.py", "explain/memory.py"),
)
"""What the lab has inside: process 1, and what lab explain runs."""


@cache
def prepared(uname: str | None = None) -> Path:
    """The folder of the agent for a machine of this kind (None: this host's). It is in the lab's
    cache, and made if it is missing.

    Raises HostError if it cannot be made.
    """
    name, data = agent(uname)
    facts = [
        sys.implementation.cache_tag.encode(),
        *(_ours(name).read_bytes() for name in _OF_THE_LAB),
    ]
    version = hashlib.sha256(b"\0".join(facts)).hexdigest()[:8]
    folder = lab_cache() / "agents" / f"{name}-{version}"
    try:
        if not folder.is_dir():
            _make(folder, data)
        remove_other_agents(folder)
    except OSError as error:
        raise HostError(f"{error.filename or folder}: {error.strerror}") from error
    return folder


def _ours(name: str) -> Path:
    return Path(__file__).parent / name


def _make(folder: Path, data: bytes) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as work:
        new = Path(work, "new")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(new)
        (new / "kickbench/lab/explain").mkdir(parents=True)
        for name in _OF_THE_LAB:
            shutil.copyfile(_ours(name), new / "kickbench/lab" / name)
        # A machine's files have other times at times, so these are not looked at.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(
            new, quiet=2, invalidation_mode=mode, stripdir=new, prependdir=folder, workers=1
        )
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
