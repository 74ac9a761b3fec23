# SPDX-License-Identifier: Apache-2.0
"""The folder of a machine's files: it goes with its owner, or with the next one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kickbench.lab.scratch import scratch

OWNER = """
import time
from kickbench.lab.scratch import scratch
with scratch() as folder:
    (folder / "trace").write_text("long")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that has such a folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-P", "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def folder_of(owner: subprocess.Popen[str]) -> Path:
    assert owner.stdout is not None
    return Path(owner.stdout.readline().strip())


def test_it_is_gone_with_the_context_and_others_stay(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    theirs = folder_of(owner)
    with scratch() as ours:
        assert {*tmp_path.iterdir()} == {theirs, ours}
        (ours / "file").touch()
    assert [*tmp_path.iterdir()] == [theirs]
    assert (theirs / "trace").exists()


def test_what_a_killed_process_left_goes_with_the_next_one(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    theirs = folder_of(owner)
    owner.kill()
    owner.wait()
    assert theirs.exists()
    with scratch() as ours:
        assert [*tmp_path.iterdir()] == [ours]


def test_what_only_has_such_a_name_is_not_ours(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "kickbench-machine-link"
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    (tmp_path / "kickbench-machine-file").touch()
    with scratch():
        assert link.is_symlink()
        assert elsewhere.exists()
        assert (tmp_path / "kickbench-machine-file").exists()
