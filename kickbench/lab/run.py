# SPDX-License-Identifier: Apache-2.0
"""``kickbench run`` inside a machine of the lab, with its results outside.

The very command runs inside, with this Python environment and in this folder; the folder of the
results is shared, so that a finished case is outside as soon as it is finished.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.lab.emulation import Order
from kickbench.lab.emulator import Limits, environment, execute
from kickbench.lab.machines import Machine
from kickbench.run.emulated import Mark


def run(
    machine: Machine,
    kernel: Path,
    arguments: Sequence[str],
    *,
    reads: Path,
    writes_to: Path,
    resume: str,
    limits: Limits | None = None,
) -> int:
    """``kickbench run ARGUMENTS`` inside; returns its exit code.

    ``reads`` is the scenario's file or the run's folder that the arguments name, ``writes_to`` the
    folder of this host's that it writes to, ``resume`` what a user types before the name of a run's
    folder to finish it. Raises UsageError when the folder cannot be
    written to, MeasurementError when the machine fails.
    """
    try:
        writes_to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{writes_to}: cannot make this folder: {error.strerror}") from None
    if not os.access(writes_to, os.W_OK):
        raise UsageError(f"{writes_to}: this folder cannot be written to")
    mark = Mark(machine.description(), ["kickbench", *sys.argv[1:]], resume, machine.count_step)
    order = Order(
        [sys.executable, "-P", "-m", "kickbench", "run", *arguments],
        environment({**mark.to_environment(), **_display(machine)}),
        Path.cwd(),
        [writes_to.resolve()],
        [reads],
    )
    return execute(machine, kernel, order, limits)


def inside(machine: Machine, folder: Path) -> Path:
    """What the command inside calls a folder of this host's that it writes to: as it is called
    here, unless that takes symbolic links, which a machine that does not see this host lacks."""
    real = folder.resolve()
    return folder if machine.emulator.sees_host or folder.absolute() == real else real


def resume_words(machine: Machine, kernel: Path | None) -> str:
    """What to type before a run's folder to finish it in the same machine."""
    chosen = ["--kernel", str(kernel)] if kernel else []
    return shlex.join(["kickbench", "lab", "run", "--machine", machine.id, *chosen, "--resume"])


def _display(machine: Machine) -> dict[str, str]:
    """What the run inside has to know of our terminal, which it writes to through a port."""
    columns, lines = shutil.get_terminal_size()
    found = {"COLUMNS": str(columns), "LINES": str(lines)}
    # Where there is little more than the measurement, a display that moves would disturb it.
    if sys.stderr.isatty() and machine.emulator.sees_host:
        found["FORCE_COLOR"] = "1"  # to rich: it is a terminal
    return found
