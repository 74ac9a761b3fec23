# SPDX-License-Identifier: Apache-2.0
"""The interface of an emulator: it starts a machine that runs one command, and leaves no process.

An emulator is a class with the methods of :class:`Emulator`: see :mod:`kickbench.lab.qemu` and
:mod:`kickbench.lab.bochs`. :mod:`kickbench.lab.emulator` talks to the machine while it runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kickbench.lab.disk import Windows


@dataclass(frozen=True)
class Order:
    """A command for a machine: its words, its environment and its folder.

    ``shares`` are this host's folders that it writes to, for a machine that sees this host's files.
    ``reads`` are the files and folders that it needs, for one that does not. ``terminal`` is (rows,
    columns) for a command that takes over the terminal, else None. The standard input of a command
    that ``talks`` is ours to write to, and otherwise empty.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    shares: Sequence[Path] = ()
    reads: Sequence[Path] = ()
    terminal: tuple[int, int] | None = None
    talks: bool = False

    @property
    def tags(self) -> dict[str, Path]:
        """The folders to write to, by a name for each."""
        return {f"share{number}": path for number, path in enumerate(self.shares)}

    def to_json(self, hostname: str, **more: object) -> bytes:
        """The line that :mod:`kickbench.lab.inside` reads."""
        facts = {
            "argv": list(self.argv),
            "environment": dict(self.environment),
            "cwd": str(self.cwd),
            "shares": {tag: str(path) for tag, path in self.tags.items()},
            "terminal": self.terminal,
            "talks": self.talks,
            "hostname": hostname,
            **more,
        }
        return json.dumps(facts).encode() + b"\n"


@dataclass(frozen=True)
class Running:
    """A machine that runs.

    ``channels`` are our descriptors by name: console, control, stdout (standard input too, if the
    command talks), stderr, and log. An emulator that does not end when it fails writes PANIC to its
    log. Instead of stdout and stderr it may have ``windows``, in which the streams go.
    """

    process: subprocess.Popen[bytes]
    channels: Mapping[str, int]
    windows: Windows | None = None


class Emulator(Protocol):
    """``tool`` is the emulator's program, and ``python`` the path of a Python inside.

    ``arch`` is the architecture as the lab calls it (:data:`kickbench.lab.ARCHITECTURES`), and
    ``uname`` as uname(2) does.
    """

    @property
    def tool(self) -> str: ...
    @property
    def python(self) -> str: ...
    @property
    def arch(self) -> str: ...
    @property
    def uname(self) -> str: ...

    def description(self) -> str:
        """The words that mark its results, with the emulator's version, which figures depend on."""

    def place(self, path: Path) -> Path:
        """Where a file of this host's is inside."""

    def start(
        self, machine: str, kernel: Path, order: Order
    ) -> AbstractContextManager[Running, bool | None]:
        """Start the machine. When the context is left, it is gone, with all its processes."""


def printable(text: str) -> str:
    """A line of a console, without characters that would control our terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
