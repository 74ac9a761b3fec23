# SPDX-License-Identifier: Apache-2.0
"""The gate of the lab: two runs of one kernel have one count, and ten instructions are named."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_run
from command import KICKBENCH

from kickbench.errors import EXIT_REGRESSION, EXIT_USAGE

SCENARIO = """
name = "gate"
[vm]
vcpus = 1
[guest]
program = "pm_timer"
[measure]
methods = ["sigmask", "immediate_exit"]
processes = 1
max_seconds = 0.3
"""


def kickbench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [*KICKBENCH, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def compared(base: Path, other: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of the gate, and what is judged of instructions."""
    done = kickbench("compare", base, other, "--fail-on-regression", "--json")
    (found,) = json.loads(done.stdout)["comparisons"]
    return done.returncode, [f for f in found["figures"] if f["unit"] == "instructions"]


def plant(run: Path, copy: Path, method: str, more: int) -> Path:
    """A copy of the run in which every exit of a method takes so many instructions more."""
    shutil.copytree(run, copy)
    (path,) = copy.rglob("exit_samples.parquet")
    table = pq.read_table(path)
    of_method = np.array(table["method"].to_pylist()) == method
    cycles = table["cycles"].to_numpy() + (of_method * more).astype(np.uint32)
    place = table.column_names.index("cycles")
    pq.write_table(table.set_column(place, table.field("cycles"), pa.array(cycles)), path)
    return copy


def check_gate(base: Path, again: Path, work: Path) -> None:
    code, figures = compared(base, again)
    assert code == 0
    assert {f["method"]: f["diff"] for f in figures} == {"sigmask": 0, "immediate_exit": 0}
    code, figures = compared(base, plant(again, work / "planted", "sigmask", 10))
    assert code == EXIT_REGRESSION
    found = {f["method"]: (f["diff"], f["verdict"]) for f in figures}
    assert found == {"sigmask": (10, "slower"), "immediate_exit": (0, "no difference seen")}
    # What became cheaper is no regression.
    code, _ = compared(work / "planted", base)
    assert code == 0


def test_ten_instructions_in_a_run_that_counts_are_named(tmp_path: Path) -> None:
    runs = []
    for name in ("base", "again"):
        run = synthetic_run.build(
            tmp_path / name,
            cases=[synthetic_run.case(1)],
            rounds=4,
            emulated=True,
            count_step=1,
        )
        (path,) = run.rglob("exit_samples.parquet")
        table = pq.read_table(path)
        cycles = np.where(np.arange(len(table)) % 100, 2521, 4975).astype(np.uint32)
        place = table.column_names.index("cycles")
        pq.write_table(table.set_column(place, table.field("cycles"), pa.array(cycles)), path)
        runs.append(run)
    check_gate(*runs, tmp_path)


def test_what_counts_no_instructions_has_no_counts(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(1)], rounds=4, emulated=True)
    assert compared(run, run) == (0, [])
    done = kickbench("lab", "counts", run)
    assert done.returncode == EXIT_USAGE
    assert "not of a machine that counts instructions (" in done.stderr


@pytest.mark.lab
def test_two_runs_of_a_kernel_are_equal_and_ten_instructions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(SCENARIO)
    for name in ("base", "again"):
        done = kickbench(
            *("lab", "run", path, "--machine", "amd-count", "--results", tmp_path / name)
        )
        assert done.returncode == 0, done.stderr
    check_gate(tmp_path / "base", tmp_path / "again", tmp_path)
