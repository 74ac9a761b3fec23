# SPDX-License-Identifier: Apache-2.0
"""``kickbench scenario``: its output and its exit codes, as a script would see them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from command import kickbench

from kickbench.scenario import model
from kickbench.scenario.shipped import shipped

scenario = partial(kickbench, "scenario")

GOOD = 'name = "one"\n[vm]\nvcpus = 1\n[guest]\nprogram = "hlt"\n'
BAD = 'name = "two"\n[vm]\nvcpu = 1\n[guest]\nprogram = "hlt"\n'


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    return path


def test_validate_says_ok_and_counts_the_cases(good: Path) -> None:
    done = scenario("validate", good, "quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{good}: ok, 1 case\nquick: ok, 2 cases\n"


def test_validate_checks_all_files_and_fails_for_one(good: Path, bad: Path) -> None:
    done = scenario("validate", bad, "no_such", good)
    assert done.returncode == 2
    assert done.stdout == f"{good}: ok, 1 case\n"
    first, *_, last = done.stderr.splitlines()
    assert first.startswith(f"kickbench: {bad}: vm.vcpus: missing")
    assert "Traceback" not in done.stderr
    assert last.startswith("shipped: ")


def test_schema_prints_the_schema() -> None:
    done = scenario("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == model.json_schema()


def test_list_shows_the_shipped_scenarios() -> None:
    done = scenario("list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(lines) == list(shipped())
    assert "30 cases  SMP Windows guest" in lines["smp_windows_like"]
