# SPDX-License-Identifier: Apache-2.0
"""The screen of kickbench observe --live: its keys on a terminal, and plain lines without one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import pytest
from observing import KICKBENCH, machine, needs_observer, observe, only_run

from kickbench.engine.engine import Clock


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(counter_usable=True)


class Screen:
    """What a terminal was sent."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.text = ""

    def wait_for(self, words: str) -> None:
        """Read on until these words come. Ends with the terminal's other end."""
        self.text = ""
        while words not in self.text:
            try:
                sent = os.read(self._terminal, 1 << 16)
            except OSError:  # nobody has the other end
                break
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent.decode(errors="replace"))
        assert words in self.text, self.text[-2000:]


@pytest.mark.kvm
@needs_observer
def test_the_screen_is_held_and_goes_on_and_ends_by_its_keys(clock: Clock, tmp_path: Path) -> None:
    terminal, other = pty.openpty()
    before = termios.tcgetattr(other)
    command = [*KICKBENCH, "observe", str(os.getpid()), "--live", "--seconds", "600"]
    with (
        machine(clock, "pm_timer"),
        subprocess.Popen(
            [*command, "--results", str(tmp_path / "results")],
            stdin=other,
            stdout=subprocess.PIPE,
            stderr=other,
            text=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        ) as running,
    ):
        screen = Screen(terminal)
        screen.wait_for("space: hold the screen")
        screen.wait_for("longest")
        os.write(terminal, b" ")
        screen.wait_for("HELD")
        assert "space: go on" in screen.text
        os.write(terminal, b" ")
        screen.wait_for("space: hold the screen")
        os.write(terminal, b"q")
        out, _ = running.communicate(timeout=300)
    assert running.returncode == 0, screen.text
    assert "it was ended early" in out
    assert termios.tcgetattr(other)[3] == before[3]  # keys are echoed again
    assert only_run(tmp_path / "results")
    for end in (terminal, other):
        os.close(end)


@pytest.mark.kvm
@needs_observer
def test_without_a_terminal_it_prints_a_line_a_second(clock: Clock, tmp_path: Path) -> None:
    with machine(clock, "pm_timer"):
        run = observe(str(os.getpid()), "--live", "--seconds", "2", folder=tmp_path / "results")
    assert run.returncode == 0, run.stderr
    lines = run.stderr.splitlines()
    assert len(lines) == 2
    assert all("exits/s" in line and "\x1b" not in line for line in lines)
