# SPDX-License-Identifier: Apache-2.0
"""The lab's kernels: the tests of their patches, which run inside them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from command import KICKBENCH
from cross_compiler import compiler

from kickbench.lab.machines import MACHINES

# Not of the installed package.
SOURCE = Path(__file__).parents[1] / "kickbench/lab/kernel/tests/user_exit.c"


@pytest.mark.parametrize(
    ("machine", "guests"),
    [
        pytest.param("amd-numa", "x86_64.h", marks=pytest.mark.lab("amd-numa")),
        pytest.param("arm64", "arm64.h", marks=pytest.mark.lab("arm64")),
    ],
)
def test_every_sentence_of_the_patches_holds(tmp_path: Path, machine: str, guests: str) -> None:
    program = tmp_path / "user_exit"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    emulator = MACHINES[machine].emulator
    subprocess.run([compiler(emulator.uname), *flags, "-o", program, SOURCE], check=True)
    inside = emulator.place(program)
    done = subprocess.run(
        [*KICKBENCH, "lab", "shell", "--machine", machine, "--", inside, "-k500", "-r50"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables = SOURCE.with_name(guests).read_text() + SOURCE.read_text()
    wanted = re.findall(r'^    \{"(\w+)", test_\w+\},$', tables, re.MULTILINE)
    passed = re.findall(r"^ok \d+ - (\w+)", done.stdout, re.MULTILINE)
    assert passed == wanted
    assert "# SKIP" not in done.stdout
