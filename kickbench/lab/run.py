# SPDX-License-Identifier: Apache-2.0
"""``kickbench run`` inside a machine of the lab, with its results outside.

The same command runs inside, with this Python environment and in this folder. The folder of the
results is shared, so a finished case is outside as soon as it is finished.
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
    """Run ``kickbench run ARGUMENTS`` inside. Returns its exit code.

    ``reads`` is the scenario's file or the run's folder that the arguments name. ``writes_to`` is
    this host's folder that the run writes to. ``resume`` is what a user types before the name of a
    run's folder to finish the run. Raises UsageError if the folder cannot be written to,
    MeasurementError if the machine fails.
    """
    try:
        writes_to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{writes_to}: cannot make this folder: {error.strerror}; choose another --results"
        ) from None
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
    """The path inside of a folder of this host's that the command writes to.

    It is the same as here. But if a symbolic link is in it and the machine does not see this host's
    files, it is the folder's real path, because the machine lacks the link.
    """
    real = folder.resolve()
    return folder if machine.emulator.sees_host or folder.absolute() == real else real


def resume_words(machine: Machine, kernel: Path | None) -> str:
    """What a user types before a run's folder to finish the run in the same machine."""
    chosen = ["--kernel", str(kernel)] if kernel else []
    return shlex.join(["kickbench", "lab", "run", "--machine", machine.id, *chosen, "--resume"])


def _display(machine: Machine) -> dict[str, str]:
    """The variables that describe our terminal to the run inside, which writes through a port."""
    columns, lines = shutil.get_terminal_size()
    found = {"COLUMNS": str(columns), "LINES": str(lines)}
    # A machine with little more than the measurement would be disturbed by a display that moves.
    if sys.stderr.isatty() and machine.emulator.sees_host:
        found["FORCE_COLOR"] = "1"  # to rich: it is a terminal
    return found
