# SPDX-License-Identifier: Apache-2.0
"""The emulated machines: one entry in one table each, with the command line that makes it.

Nothing is started here: see :mod:`kickbench.lab.emulator`. QEMU is called directly: the kernel
mounts the host's root by 9p itself, so that a machine needs neither a disk image nor an initramfs.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import HostError, UsageError

INIT = Path(__file__).parent / "guest" / "init.sh"
# One line of the kernel's is 2048 bytes (COMMAND_LINE_SIZE), and it has no other quotes than these.
_UNQUOTABLE = re.compile(r'["\n]|,,')
_9P = "trans=virtio,version=9p2000.L,msize=512000,cache=loose"


@dataclass(frozen=True)
class Channels:
    """Descriptors that the emulator gets: sockets, or None for the terminal it was started on."""

    console: int
    control: int
    stdout: int | None
    stderr: int | None


@dataclass(frozen=True)
class Machine:
    """An emulated host. ``doc`` says what for; ``hardware`` is what it emulates, in the words that
    mark its results; ``tool`` is the emulator's program. ``arguments`` are the emulator's own for
    this machine. ``counts``: its clock counts instructions."""

    id: str
    doc: str
    hardware: str
    tool: str
    arguments: tuple[str, ...]
    counts: bool = False

    def description(self) -> str:
        """What marks its results, with the emulator's version: figures depend on it."""
        return f"QEMU {_qemu_version(self.tool)} TCG, {self.hardware}"

    def command_line(
        self, kernel: Path, shares: Mapping[str, Path], channels: Channels, python: str
    ) -> list[str]:
        """The emulator with this machine in it; ``shares`` are folders to write to, by tag."""
        for path in (kernel, INIT, Path(python), *shares.values()):
            if _UNQUOTABLE.search(str(path)):
                raise UsageError(f"{path}: the lab cannot use a path with a quote or a newline")
        parameters = (
            # The TSC is the emulator's: only a busy host makes the kernel's watchdog doubt it.
            f"console=ttyS0 panic=-1 tsc=reliable "
            f"root=root rootfstype=9p rootflags={_9P} ro "
            f'init=/bin/sh -- "{INIT}" "{python}"'
        )
        return [
            self.tool,
            *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
            *self.arguments,
            *("-kernel", str(kernel), "-append", parameters),
            *_folder("root", Path("/"), ",readonly=on,multidevs=remap"),
            *(word for tag, path in shares.items() for word in _folder(tag, path, "")),
            *("-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"),
            *("-device", "virtio-serial-pci"),
            *_port("control", channels.control),
            *_output(channels),
        ]


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
        # Ctrl-C is for the shell inside; Ctrl-A x ends the machine.
        return [
            *("-chardev", "stdio,id=terminal,mux=on,signal=off"),
            *("-device", "virtconsole,chardev=terminal"),
        ]
    return [*_port("stdout", channels.stdout), *_port("stderr", channels.stderr)]


def _qemu_version(tool: str) -> str:
    try:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"{tool} does not run: {error}") from error
    found = re.search(r"version ([0-9.]+)", said.stdout)
    return found[1] if found else "of unknown version"


_QEMU = "qemu-system-x86_64"

MACHINES: dict[str, Machine] = {
    machine.id: machine
    for machine in (
        Machine(
            "amd-numa",
            "two NUMA nodes and SVM: remote placements, every protocol, nested guests",
            "SVM, 4 CPUs, 2 nodes",
            _QEMU,
            (
                *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "4", "-m", "2G"),
                *("-object", "memory-backend-ram,id=memory0,size=1G"),
                *("-object", "memory-backend-ram,id=memory1,size=1G"),
                *("-numa", "node,nodeid=0,cpus=0-1,memdev=memory0"),
                *("-numa", "node,nodeid=1,cpus=2-3,memdev=memory1"),
                *("-numa", "dist,src=0,dst=1,val=21"),
            ),
        ),
        Machine(
            "amd-count",
            "one CPU whose clock counts its instructions: exact and repeatable costs",
            "SVM, 1 CPU, a nanosecond is an instruction",
            _QEMU,
            # sleep=on: while the CPU waits for the host's files, time goes by as outside. With
            # sleep=off it would leap from timer to timer, and every time-out would be over at once.
            (
                *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"),
                *("-cpu", "max", "-smp", "1", "-m", "2G"),
            ),
            counts=True,
        ),
        # intel-vmx (Bochs) goes here: another emulator, another command line and way in and out.
    )
}
"""The machines by name."""


def find(name: str) -> Machine:
    """The machine of that name. Raises UsageError with the names there are."""
    if name not in MACHINES:
        raise UsageError(f"no machine {name}; there are: {', '.join(MACHINES)}")
    return MACHINES[name]
