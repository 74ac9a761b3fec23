# SPDX-License-Identifier: Apache-2.0
"""What takes long to make, and that several test processes of one session can share.

A fixture of a module is made anew in each process that pytest-xdist gives one of its tests. The
first process makes it here, and the others wait for it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest

T = TypeVar("T")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What ``make`` returns, called once in a session with an empty folder called ``name``.

    The value is kept as a pickle. A process in which ``make`` fails leaves it to the next.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, value = base / name, base / f"{name}.pickle"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not value.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = pickle.dumps(make(folder))
            value.write_bytes(made)
        return cast(T, pickle.loads(value.read_bytes()))  # noqa: S301 (our own)
