# SPDX-License-Identifier: Apache-2.0
"""Runs that measure at once know of each other."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny

from kickbench.host.turn import taken

WAIT = """
from kickbench.host.turn import taken
with taken("pid 2, two", wait=True, say=lambda text: print(text, flush=True)) as other:
    print(other, flush=True)
"""


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setenv("KICKBENCH_LOCK", str(path))
    return path


def test_the_first_is_alone_and_the_second_is_told_of_it() -> None:
    said: list[str] = []
    with taken("pid 1, results/one", wait=False, say=said.append) as first:
        assert (first, said) == (None, [])
        with taken("pid 2, results/two", wait=False, say=said.append) as second:
            assert second == "another kickbench measures on this host (pid 1, results/one)"
        assert said == [f"{second}, which disturbs the figures of both; --wait waits for its end"]
    with taken("pid 3, results/three", wait=True, say=said.append) as third:
        assert third is None


def test_a_run_that_began_beside_another_is_seen_after_its_end() -> None:
    said: list[str] = []
    with contextlib.ExitStack() as later:
        with taken("pid 1, one", wait=False, say=said.append):
            later.enter_context(taken("pid 2, two", wait=False, say=said.append))
        # The first has ended. The second measures on.
        with taken("pid 3, three", wait=False, say=said.append) as third:
            assert third == "another kickbench measures on this host (pid 2, two)"
    with taken("pid 4, four", wait=False, say=said.append) as fourth:
        assert fourth is None


def test_a_run_that_has_ended_is_not_the_one_that_is_named() -> None:
    with taken("pid 1, one", wait=False, say=print):
        with taken("pid 2, two", wait=False, say=print):
            pass
        with taken("pid 3, three", wait=False, say=print) as third:
            assert third == "another kickbench measures on this host (pid 1, one)"


def test_more_runs_at_once_than_there_are_places_for_their_names() -> None:
    with contextlib.ExitStack() as running:
        for pid in range(100):
            other = running.enter_context(taken(f"pid {pid}, x", wait=False, say=lambda _: None))
    assert other == "another kickbench measures on this host (pid 0, x)"


def test_of_those_that_wait_one_at_a_time_begins(lock: Path) -> None:
    script = WAIT + "    input()\n"
    with taken("pid 1, one", wait=False, say=print):
        waiting = [
            subprocess.Popen(
                [sys.executable, "-P", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in waiting:
            assert process.stdout is not None
            assert "waiting for its end" in process.stdout.readline()
    left = {process.stdout.fileno(): process for process in waiting if process.stdout is not None}
    while left:
        begun, _, _ = select.select(list(left), [], [], 600)
        (process,) = [left.pop(descriptor) for descriptor in begun]
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        # No other begins while this one measures.
        assert select.select(list(left), [], [], 0.2)[0] == []
        process.communicate("done\n", timeout=600)


def test_whoever_waits_begins_when_the_other_has_ended(lock: Path) -> None:
    with taken("pid 1, one", wait=False, say=print):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", WAIT], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().endswith("(pid 1, one); waiting for its end\n")
        assert process.poll() is None
    assert process.communicate(timeout=600)[0] == "None\n"
    assert lock.read_text().rstrip() == "pid 2, two"


def test_a_file_that_cannot_be_had_keeps_nobody_from_measuring(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.symlink_to(tmp_path / "elsewhere")
    with taken("pid 1, one", wait=True, say=print) as other:
        assert other is None
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setenv("KICKBENCH_LOCK", str(tmp_path / "no folder" / "lock"))
    with taken("pid 1, one", wait=True, say=print) as other:
        assert other is None


@pytest.mark.kvm
def test_a_run_beside_another_says_so_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny(methods=["immediate_exit"], max_seconds=0.2))
    results = tmp_path / "results"
    with taken("pid 1, results/one", wait=False, say=print):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kickbench", "run", path, "--results", results],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = "another kickbench measures on this host (pid 1, results/one)"
    assert told in done.stderr
    assert told in done.stdout
    (manifest,) = results.glob("*/*/manifest.json")
    doctor = json.loads(manifest.read_text())["environment"]["doctor"]
    assert told in [finding["detail"] for finding in doctor]
