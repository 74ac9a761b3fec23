# SPDX-License-Identifier: Apache-2.0
"""The machines that kickbench can measure on, as a table.

Each entry opens a machine (:mod:`kickbench.run.machine`), and the runner does not ask which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kickbench.remote.machines import machine_of

if TYPE_CHECKING:
    from kickbench.lab.emulator import Limits
    from kickbench.run.machine import Machine


def _emulated(name: str, kernel: Path | None, limits: Limits) -> AbstractContextManager[Machine]:
    from kickbench.cli.lab import prepare
    from kickbench.lab.run import box, resume_words

    machine, bzimage = prepare(name, kernel)
    return box(machine, bzimage, limits, resume_words(machine, kernel))


MACHINES: dict[str, Callable[..., AbstractContextManager[Machine]]] = {
    "this host": partial(machine_of, None),
    "ssh": machine_of,
    "lab": _emulated,
}
"""How to open a machine of each kind: this host; one by ssh, from what ``--host`` names; one that
the lab emulates, from its name, its kernel (None: the lab's) and its limits."""
