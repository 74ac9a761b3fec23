# SPDX-License-Identifier: Apache-2.0
"""Bochs as the lab uses it: VMX, and a clock that counts instructions.

Bochs has no virtio and no 9p. So the root is a disk with what a run needs
(:mod:`kickbench.lab.image`), a second disk carries the streams (:mod:`kickbench.lab.disk`), and the
other channels are serial ports. Bochs needs a window. It is on a display of our own, which nobody
sees.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import tty
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.lab import agents, disk, image
from kickbench.lab.emulation import Order, Running, printable
from kickbench.lab.processes import child
from kickbench.lab.scratch import scratch
from kickbench.lab.tools import BIOS, VGA_BIOS, program

# Instructions in a second of the machine's time. Bochs executes a fourth of them in a real second.
# With fewer, a CPU would spend much of its time on the timer's interrupts, and the pauses between
# kicks would be too short.
IPS = 100_000_000
DISPLAY_SECONDS = 60.0
# The X server needs them to remove its socket.
GRACE_SECONDS = 5.0
_PARAMETERS = (
    # Each letter on the console takes 87 us, and the kernel waits for it.
    "console=ttyS0 loglevel=4 panic=-1 root=/dev/sda rootfstype=iso9660 ro "
    # CPUID reports a TSC of 3.5 GHz, but this TSC counts instructions.
    f"tsc=reliable tsc_early_khz={IPS // 1000} "
    # The kernel finds XSAVE's CPUID wrong, prints all of it, and runs without XSAVE.
    "noxsave "
    # MONITOR does not see what another CPU writes, so MWAIT may not wake up.
    "idle=halt"
)
_CONFIGURATION = """\
megs: 1024
cpu: model=corei7_skylake_x, count={cpus}, ips={ips}, reset_on_triple_fault=0
clock: sync=none, time0=utc
romimage: file={bios}
vgaromimage: file={vga_bios}
vga: update_freq=1
display_library: x
speaker: enabled=0
log: /dev/fd/{log}
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={folder}/root, mode=flat
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=disk, path={folder}/disk, mode=flat
boot: disk
com1: enabled=1, mode=file, dev=/dev/fd/{console}
com2: enabled=1, mode=term, dev={control}
"""


@dataclass(frozen=True)
class Bochs:
    """A machine that Bochs emulates, with so many CPUs."""

    cpus: int
    tool: str = "bochs"
    python: str = sys.executable
    arch: str = "x86_64"
    uname: str = "x86_64"

    def place(self, path: Path) -> Path:
        """Where a file of this host's is inside, if it is there."""
        return path

    def description(self) -> str:
        """The words that mark its results, with the emulator's version, which figures depend on."""
        cpus = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"Bochs {_version(self.tool)}, VMX, {cpus}, a tick of the TSC is an instruction"

    @contextlib.contextmanager
    def start(self, machine: str, kernel: Path, order: Order) -> Iterator[Running]:
        """Start the machine. The channels are pipes, except ``control``, which is a terminal."""
        if order.terminal:
            raise UsageError(
                f"{machine} has no terminal, so it cannot open a shell; name a command after --"
            )
        # The command finds kickbench in the agent, and nothing else of this host's environment.
        environment = {**order.environment, "PYTHONPATH": str(agents.prepared())}
        inside = replace(order, environment=environment)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(scratch())
            ours, theirs = _channels(stack)
            # The configuration is first, because it may refuse the folder, and the rest takes time.
            text = self.configuration(folder, theirs, os.ttyname(theirs["control"]))
            configuration = folder / "bochsrc"
            try:
                configuration.write_text(text)
                (folder / "work").mkdir()
                image.make(folder / "root", kernel, _PARAMETERS, self.python, folder / "work")
                disk.write(folder / "disk", inside.to_json(machine), order.reads)
            except OSError as error:
                what = f"{printable(str(error.filename))}: " if error.filename else ""
                raise MeasurementError(
                    f"the machine's disks cannot be written: {what}{error.strerror}\n"
                    f"they take 120 MB in {folder.parent}; set TMPDIR to put them elsewhere"
                ) from error
            display = _display(stack, folder)
            with (folder / "said").open("wb") as said:
                process = stack.enter_context(
                    child(
                        [program(self.tool), "-q", "-f", str(configuration)],
                        pass_fds=list(theirs.values()),
                        stdin=subprocess.PIPE,
                        stdout=said,
                        stderr=said,
                        env={**os.environ, "DISPLAY": display, "HOME": str(folder)},
                    )
                )
            for descriptor in theirs.values():
                os.close(descriptor)
            theirs.clear()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                # Debian builds Bochs with its debugger, which waits for a command at the start.
                process.stdin.write(b"c\nquit\n")

            windows = disk.Windows(folder / "disk")
            stack.callback(windows.close)
            yield Running(process, ours, windows)

    def configuration(self, folder: Path, theirs: dict[str, int], control: str) -> str:
        """The text of the file that Bochs reads. Its disks are in ``folder``."""
        if re.search(r"[,\"#\s$]", str(folder)):
            raise UsageError(f"{folder}: Bochs cannot use this folder; set TMPDIR to another")
        return _CONFIGURATION.format(
            **{**theirs, "control": control},
            folder=folder,
            cpus=self.cpus,
            ips=IPS,
            bios=BIOS,
            vga_bios=VGA_BIOS,
        )


def _channels(stack: contextlib.ExitStack) -> tuple[dict[str, int], dict[str, int]]:
    """Our ends and the emulator's, by name. The stack closes both."""
    ours, theirs = {}, {}
    for name in ("console", "log"):
        ours[name], theirs[name] = os.pipe()
    ours["control"], theirs["control"] = os.openpty()
    tty.setraw(theirs["control"])

    def close() -> None:
        for end in (*ours.values(), *theirs.values()):
            os.close(end)

    stack.callback(close)
    return ours, theirs


def _display(stack: contextlib.ExitStack, folder: Path) -> str:
    """Start an X server of our own. Returns the name of its display."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer, (folder / "xvfb").open("w+b") as said:
        try:
            command = [program("Xvfb"), "-displayfd", str(writer)]
            stack.enter_context(
                child(
                    [*command, "-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset"],
                    grace=GRACE_SECONDS,
                    pass_fds=[writer],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            )
        finally:
            os.close(writer)
        ready = select.select([answer], [], [], DISPLAY_SECONDS)[0]
        number = answer.readline().strip() if ready else b""
        if not number.isdigit():
            said.seek(0)
            last = printable(said.read().decode(errors="replace").strip().rpartition("\n")[2])
            raise MeasurementError(f"Xvfb, which Bochs needs, did not start: {last}")
    return f":{number.decode()}"


def _version(tool: str) -> str:
    try:
        said = subprocess.run(
            [program(tool), "--help"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise HostError(f"{tool} does not run: {error}") from error
    found = re.search(r"Bochs x86 Emulator ([0-9.]+)", said.stdout + said.stderr)
    return found[1] if found else "of unknown version"
