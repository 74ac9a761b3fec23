# SPDX-License-Identifier: Apache-2.0
"""An emulated machine as the runner sees machines: the agent measures in it.

Its root has the agent already (:mod:`kickbench.lab.agents`), and its Python is the command that the
machine runs. The machine is followed in a thread, while the runner talks to the agent.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from kickbench.errors import MachineFailedError
from kickbench.lab import agents
from kickbench.lab.emulation import Order
from kickbench.lab.emulator import Limits, Session, environment
from kickbench.lab.machines import Machine
from kickbench.lab.processes import held_interrupts
from kickbench.remote.box import Box
from kickbench.remote.link import PYTHON_ARGUMENTS
from kickbench.remote.package import agent
from kickbench.run.emulated import Mark
from kickbench.run.foreman import why_failed
from kickbench.text import printable

_CACHE = "/run/kickbench"  # it is in the machine's memory
# The agent's folder must be the user's own, who is root inside.
_BEGIN = 'mkdir -p "$1" && { [ ! -d "$0" ] || ln -sfn "$0" "$1/$2"; } && shift 2 && exec "$@"'
_LAST_WORDS = 4000


def box(machine: Machine, kernel: Path, limits: Limits, resume: str) -> Box:
    """The machine to measure in, which starts now.

    ``resume`` is what a user types before the name of a run's folder to finish the run. Raises
    MeasurementError or HostError if the machine cannot be started.
    """
    mark = Mark(machine.description(), ["kickbench", *sys.argv[1:]], resume, machine.count_step)
    return Box(Channel(machine, kernel, limits), mark)


def resume_words(machine: Machine, kernel: Path | None) -> str:
    """What a user types before a run's folder to finish the run in the same machine."""
    chosen = ["--kernel", str(kernel)] if kernel else []
    return shlex.join(["kickbench", "lab", "run", "--machine", machine.id, *chosen, "--resume"])


def _order(machine: Machine) -> Order:
    """The command of a machine: its Python, for :class:`kickbench.remote.link.Link`."""
    uname = machine.emulator.uname
    python = [machine.emulator.python, *PYTHON_ARGUMENTS]
    place = f"{_CACHE}/kickbench/agent"
    return Order(
        ["sh", "-c", _BEGIN, str(agents.prepared(uname)), place, agent(uname)[0], *python],
        environment({"XDG_CACHE_HOME": _CACHE}),
        Path("/"),
        talks=True,
    )


class Channel:
    """The streams of a Python in a machine, as :class:`kickbench.remote.link.Streams`."""

    silence_seconds = first_seconds = None  # the session has its own limits

    def __init__(self, machine: Machine, kernel: Path, limits: Limits) -> None:
        self.name = machine.id
        self._why = ""
        self._partner: socket.socket | None = None
        with contextlib.ExitStack() as stack:
            self._stderr = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            running = stack.enter_context(
                machine.emulator.start(machine.id, kernel, _order(machine))
            )
            self._process = running.process
            if running.windows is None:
                self.to = self.source = running.channels["stdout"]
            else:
                ours, self._partner = socket.socketpair()
                stack.callback(ours.close)
                self.to = self.source = ours.fileno()
            stop, self._stop = os.pipe()
            stack.callback(os.close, stop)
            session = Session(machine.id, running, limits)
            self._thread = threading.Thread(target=self._follow, args=(session, stop), daemon=True)
            # The thread gets no interrupts: they are to wake us up.
            with held_interrupts():
                self._thread.start()
                stack.callback(self._leave)
            self._stack = stack.pop_all()

    def _follow(self, session: Session, stop: int) -> None:
        """In the thread: follow the machine, and say why it ended."""
        partner = self._partner.fileno() if self._partner else None
        try:
            status = session.run(stop, {"stderr": self._stderr.fileno()}, partner)
            self._why = f"the agent in {self.name} ended (status {status}){self._last_words()}"
        except Exception as error:  # the runner is to hear of it
            self._why = why_failed(error)
        finally:
            self._process.kill()
            if self._partner:
                self._partner.close()

    def _last_words(self) -> str:
        self._stderr.seek(0)
        last = self._stderr.read()[-_LAST_WORDS:].strip().rpartition("\n")[2]
        return f": {printable(last)}" if last else ""

    def ended(self) -> NoReturn:
        """Raise MachineFailedError with the last words of the machine or of the agent."""
        self._thread.join()
        raise MachineFailedError(self._why)

    def close(self, *, connected: bool) -> None:  # noqa: ARG002
        """End the machine."""
        self._stack.close()

    def _leave(self) -> None:
        os.close(self._stop)
        self._thread.join()
