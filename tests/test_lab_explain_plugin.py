# SPDX-License-Identifier: Apache-2.0
"""The marks and the plugin with a program that is not kickbench's: what docs/lab.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kickbench.engine
import kickbench.lab
from kickbench.lab.explain.watch import PLUGIN
from kickbench.native import built_file

DOCS = Path(__file__).parents[1] / "docs/lab.md"


def block(language: str) -> str:
    """The block of this language in the section about programs of one's own."""
    section = DOCS.read_text().partition("### A program of your own")[2].partition("\n### ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(found)


@pytest.mark.skipif(
    not (shutil.which("qemu-x86_64") and shutil.which("gcc")), reason="no qemu-x86_64 or gcc"
)
def test_a_program_of_ones_own_is_watched(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text(block("c"))
    (tmp_path / "read.py").write_text(block("python"))
    header = built_file(kickbench.engine.__path__, "include/kickbench/mark.h")
    plugin = built_file(kickbench.lab.__path__, PLUGIN)
    for command in (
        ["gcc", "-O2", f"-I{header.parents[1]}", "mine.c", "-o", "mine"],
        ["qemu-x86_64", "-plugin", f"{plugin},out=trace", "./mine"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "read.py"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    counts = [int(line.split()[0]) for line in done.stdout.splitlines()]
    # The compiler decides how many instructions the loop has. Each turn has 100 loops more.
    assert len(counts) == 3
    assert counts[1] - counts[0] == counts[2] - counts[1]
    assert (counts[1] - counts[0]) % 100 == 0
    assert counts[1] > counts[0]
