# SPDX-License-Identifier: Apache-2.0
"""What schedules a fleet's nights: the container's file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTAINER = ROOT / "packaging/container/Containerfile"


# --- the container -------------------------------------------------------------------------------


def instructions() -> list[list[str]]:
    """The words of each instruction of the container's file."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINER.read_text()).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def copied() -> list[str]:
    """What the build gets of the source."""
    return [
        name
        for instruction, *words in instructions()
        if instruction == "COPY" and not words[0].startswith("--from")
        for name in words[:-1]
    ]


def test_the_container_gets_all_that_the_build_reads(tmp_path: Path) -> None:
    for module in ("scikit_build_core", "pip"):
        pytest.importorskip(module, reason=f"building a wheel here needs {module}")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "source" / name)
        else:
            (tmp_path / "source").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", tmp_path, tmp_path / "source"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([*tmp_path.glob("kickbench-*.whl")]) == 1


def test_the_container_starts_the_command_and_both_its_stages_have_one_base() -> None:
    bases = [words[0] for instruction, *words in instructions() if instruction == "FROM"]
    assert bases == ["${BASE}", "${BASE}"]  # a virtual environment belongs to one Python
    assert ["ENTRYPOINT", '["kickbench"]'] in instructions()
