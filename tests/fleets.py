# SPDX-License-Identifier: Apache-2.0
"""Fleets as tests begin and watch them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny import tiny

from kickbench.fleet.files import Files
from kickbench.fleet.query import ask

SOON = """
from kickbench.entry import main
from kickbench.fleet import run
run.GONE_SECONDS = 5
main()
"""


def scenario(seconds: float) -> str:
    return tiny(processes=2, max_seconds=seconds, precision=1e-6)


def stored(tmp_path: Path) -> list[tuple[Any, ...]]:
    """The host of each run in the store, the cases that it measured, and its fleet."""
    sql = "SELECT host, ok, fleet FROM runs ORDER BY host"
    return [*ask(Files(str(tmp_path / "store")), sql, lambda _: None).rows]


class Begun:
    """A command that has had a host measure for some seconds, with its folder there."""

    def __init__(self, process: subprocess.Popen[str], words: list[str], folder: Path) -> None:
        self.process = process
        self.words = words
        self.folder = folder
        self.fleet = folder.name

    @property
    def worker(self) -> int:
        """The process on the host that measures, and that nobody but itself needs."""
        return int((self.folder / "lock").read_text())

    def end(self) -> tuple[int, str]:
        """Wait for the end of the command: its exit code, and what it has said since."""
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out + err


@contextmanager
def beginning(host: str, state: Path, words: list[str], tmp_path: Path) -> Iterator[Begun]:
    """Measure as ``words`` say, and go on when ``host`` does. It keeps its fleets in ``state``."""
    path = tmp_path / "long.toml"
    path.write_text(scenario(8))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SOON, "fleet", "run", str(path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if f"{host}: [1/1]" in line:
                break
        (folder,) = state.iterdir()
        yield Begun(process, words, folder)
    finally:
        process.kill()
        process.communicate()
