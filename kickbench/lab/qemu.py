# SPDX-License-Identifier: Apache-2.0
"""QEMU as the lab uses it: TCG, which needs no KVM, and this host's files by 9p.

The lab calls QEMU directly. The kernel itself mounts the host's root by 9p, so a machine needs
neither a disk image nor an initramfs.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kickbench.errors import HostError, UsageError
from kickbench.lab import agents, root
from kickbench.lab.emulation import Order, Running
from kickbench.lab.processes import child

INIT = Path(__file__).parent / "guest" / "init.sh"
# The kernel's command line is at most 2048 bytes long (COMMAND_LINE_SIZE), and has no other quotes.
_UNQUOTABLE = re.compile(r'["\n]|,,')
_READ_ONLY = ",readonly=on,multidevs=remap"
_9P = "trans=virtio,version=9p2000.L,msize=512000,cache=loose"


HOST = Path("/host")
"""Where a machine that has a root of its own has this host's files, read only."""


@dataclass(frozen=True)
class Platform:
    """What the machines of an architecture have in common.

    ``arch`` is the lab's name of it, and ``uname`` the kernel's. ``boot`` are words of the kernel's
    command line, with the console, and ``four_levels`` those with which addresses have 48 bits, if
    a kernel may use more. ``root`` makes the folder of the root, which is this host's own
    root if it is None. ``init`` and ``python`` are there.
    """

    arch: str
    uname: str
    boot: str
    root: Callable[[], Path] | None = None
    init: str = str(INIT)
    python: str = sys.executable
    four_levels: str = ""


# The TSC is the emulator's. Only on a busy host would the kernel's watchdog doubt it.
PC = Platform("x86_64", "x86_64", "console=ttyS0 tsc=reliable", four_levels="no5lvl")
VIRT = Platform("arm64", "aarch64", "console=ttyAMA0", root.root, root.INIT, root.PYTHON)


@dataclass(frozen=True)
class Channels:
    """The emulator's descriptors: sockets, or None for the terminal that it was started on."""

    console: int
    control: int
    stdout: int | None
    stderr: int | None


@dataclass(frozen=True)
class Qemu:
    """A machine that QEMU emulates.

    ``hardware`` is what QEMU emulates, in the words that mark the results. ``arguments`` are QEMU's
    arguments for this machine, and ``boot`` further words of the kernel's command line.
    """

    hardware: str
    arguments: tuple[str, ...]
    tool: str = "qemu-system-x86_64"
    boot: str = ""
    platform: Platform = PC

    @property
    def python(self) -> str:
        """The Python inside."""
        return self.platform.python

    @property
    def arch(self) -> str:
        """The architecture, as the lab calls it."""
        return self.platform.arch

    @property
    def uname(self) -> str:
        """The architecture, as uname(2) calls it."""
        return self.platform.uname

    def place(self, path: Path) -> Path:
        """Where a file of this host's is inside."""
        return path if self.platform.root is None else HOST / path.relative_to("/")

    def description(self) -> str:
        """The words that mark its results, with the emulator's version, which figures depend on."""
        return f"QEMU {_version(self.tool)} TCG, {self.hardware}"

    @contextlib.contextmanager
    def start(self, machine: str, kernel: Path, order: Order) -> Iterator[Running]:
        """Start the machine. Each channel is a socket.

        Without this host's root, Python inside finds the part of kickbench that the agent has.
        """
        agent = agents.prepared(self.uname)
        if self.platform.root:
            order = replace(order, environment={**order.environment, "PYTHONPATH": str(agent)})
        names = ("console", "control") if order.terminal else _CHANNELS
        terminal = termios.tcgetattr(0) if order.terminal else None
        with contextlib.ExitStack() as stack:
            pairs = {name: socket.socketpair() for name in names}
            for end in (end for pair in pairs.values() for end in pair):
                stack.callback(end.close)
            if terminal is not None:
                stack.callback(termios.tcsetattr, 0, termios.TCSADRAIN, terminal)
            theirs = {name: pair[1].fileno() for name, pair in pairs.items()}
            channels = Channels(*(theirs.get(name) for name in _CHANNELS))  # type: ignore[arg-type]
            process = stack.enter_context(
                child(
                    self.command_line(kernel, order.tags, channels, agent),
                    terminal=order.terminal is not None,
                    pass_fds=list(theirs.values()),
                    stdin=None if order.terminal else subprocess.DEVNULL,
                    stdout=None if order.terminal else subprocess.DEVNULL,
                    stderr=theirs["console"],
                )
            )
            for _, end in pairs.values():
                end.close()
            with contextlib.suppress(OSError):  # it has ended; its output is still to be read
                pairs["control"][0].sendall(order.to_json(machine))
            yield Running(process, {name: pair[0].fileno() for name, pair in pairs.items()})

    def command_line(
        self, kernel: Path, shares: Mapping[str, Path], channels: Channels, agent: Path
    ) -> list[str]:
        """The command that starts this machine. ``shares`` are folders to write to, by tag."""
        platform = self.platform
        host, own = Path("/"), platform.root() if platform.root else None
        for path in (kernel, platform.init, self.python, agent, own or host, *shares.values()):
            if _UNQUOTABLE.search(str(path)):
                raise UsageError(
                    f"{path}: the lab cannot use a path with a quote, a newline or two commas in a "
                    "row"
                )
        parameters = (
            f"{platform.boot} panic=-1 {self.boot} "
            f"root=root rootfstype=9p rootflags={_9P} ro "
            f'init=/bin/sh -- "{platform.init}" "{self.python}" "{agent}" virtio'
        )
        return [
            self.tool,
            *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
            *self.arguments,
            *("-kernel", str(kernel), "-append", parameters),
            *_folder("root", own or host, _READ_ONLY),
            *(_folder(HOST.name, host, _READ_ONLY) if own else ()),
            *(_folder("agent", agent, _READ_ONLY) if own else ()),
            *(word for tag, path in shares.items() for word in _folder(tag, path, "")),
            *("-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"),
            *("-device", "virtio-serial-pci"),
            *_port("control", channels.control),
            *_output(channels),
        ]


_CHANNELS = ("console", "control", "stdout", "stderr")


def _folder(tag: str, path: Path, more: str) -> list[str]:
    place = str(path).replace(",", ",,")
    return [
        *("-fsdev", f"local,id={tag},path={place},security_model=none{more}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _port(name: str, descriptor: int) -> list[str]:
    return [
        *("-chardev", f"socket,id={name},fd={descriptor}"),
        *("-device", f"virtserialport,chardev={name},name={name}"),
    ]


def _output(channels: Channels) -> list[str]:
    if channels.stdout is None or channels.stderr is None:
        # Ctrl-C goes to the shell inside. Ctrl-A x ends the machine.
        return [
            *("-chardev", "stdio,id=terminal,mux=on,signal=off"),
            *("-device", "virtconsole,chardev=terminal"),
        ]
    return [*_port("stdout", channels.stdout), *_port("stderr", channels.stderr)]


def _version(tool: str) -> str:
    try:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"{tool} does not run: {error}") from error
    found = re.search(r"version ([0-9.]+)", said.stdout)
    return found[1] if found else "of unknown version"
