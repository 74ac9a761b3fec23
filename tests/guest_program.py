# SPDX-License-Identifier: Apache-2.0
"""A guest program and its engine, for the tests of programs that not every host can run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from command import KICKBENCH
from own_protocol import CPUS

from kickbench.engine.engine import Clock, Engine, Kickers
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm

PACED: dict[str, Any] = {"gaps_cycles": [1000], "first_gaps": [0], "ring_entries": 1024}


@contextmanager
def running(program: str, **pacing: Any) -> Iterator[tuple[Guest, Engine]]:
    """A vCPU with the program, and one thread that kicks it."""
    with (
        Kvm() as kvm,
        Guest(kvm, program, 1, **pacing) as guest,
        Engine(
            guest,
            program,
            Clock.choose(counter_usable=True),
            [[CPUS[0]]],
            n_entries=1,
            samples_capacity=1 << 16,
            kickers=Kickers(1, [CPUS[-1]]),
        ) as engine,
    ):
        yield guest, engine


def all_pass_in_the_lab(file: str, variable: str, *options: str) -> None:
    """Run the tests of a file that need KVM in a machine of the lab, where none may be skipped.

    ``variable`` is set there. ``options`` are those of lab shell.
    """
    # -P: the installed package, and not the folder that this is started in.
    tests = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "kvm"]
    machine = ["lab", "shell", "--machine", "amd-numa", *options]
    done = subprocess.run(
        [*KICKBENCH, *machine, "--", "env", f"{variable}=1", *tests, file],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
