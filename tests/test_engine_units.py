# SPDX-License-Identifier: Apache-2.0
"""Parts of the engine by themselves, with what they ask the kernel replaced (``units/*.c``): hosts
of thousands of CPUs, clocks that are preempted, steal."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent / "units"
PACKAGE = UNITS.parents[1] / "kickbench"


def built(name: str, folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = folder / name
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    includes = [f"-I{PACKAGE / 'engine/include'}", f"-I{PACKAGE / 'guest'}"]
    done = subprocess.run(
        [compiler, *flags, *includes, str(UNITS / f"{name}.c"), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


def output(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- CPUs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("cpus", tmp_path_factory.mktemp("cpus"))


@pytest.mark.parametrize("some", ["0", "1023", "1024", "0 1024 4095 65535", "7 8191"])
def test_no_cpu_is_dropped_from_a_thread_s_set(cpus: Path, some: str) -> None:
    """A cpu_set_t ends at 1,023, and CPU_SET says nothing of what is above."""
    assert output(cpus, *some.split()) == f"thread {some}\nstand {some}\nstand 2000\n"
