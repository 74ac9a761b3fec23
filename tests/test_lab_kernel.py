# SPDX-License-Identifier: Apache-2.0
"""The lab's kernel: the tests of its patches, which run inside it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from command import KICKBENCH

# Not of the installed package.
SOURCE = Path(__file__).parents[1] / "kickbench/lab/kernel/tests/user_exit.c"


@pytest.mark.lab
def test_every_sentence_of_the_patches_holds(tmp_path: Path) -> None:
    program = tmp_path / "user_exit"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", program, SOURCE], check=True)
    done = subprocess.run(
        [*KICKBENCH, "lab", "shell", "--machine", "amd-numa", "--", program, "-k500", "-r50"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables = SOURCE.with_name("x86_64.h").read_text() + SOURCE.read_text()
    wanted = re.findall(r'^    \{"(\w+)", test_\w+\},$', tables, re.MULTILINE)
    passed = re.findall(r"^ok \d+ - (\w+)", done.stdout, re.MULTILINE)
    assert passed == wanted
    assert "# SKIP" not in done.stdout
