# SPDX-License-Identifier: Apache-2.0
"""VMs to observe, and whether this host and user can observe any."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kickbench.errors import KickbenchError
from kickbench.observe.watch import Watch


def why_not_observe() -> str | None:
    """Why this host, user or build cannot observe; None if they can."""
    try:
        with Watch(os.getpid(), []), Watch(os.getpid(), []) as watch, watch.attached():
            return None
    except KickbenchError as error:
        return str(error).replace("\n", "; ")


_WHY_NOT = why_not_observe()
if _WHY_NOT and os.environ.get("KICKBENCH_REQUIRE_OBSERVER"):
    pytest.exit(f"the tests of the observer must run here, but: {_WHY_NOT}", 1)
needs_observer = pytest.mark.skipif(_WHY_NOT is not None, reason=f"cannot observe: {_WHY_NOT}")

# A firmware of 64 KiB: reads the ACPI PM timer's port for ever, from the reset vector on.
_LOOP = bytes.fromhex("ba080666edebfc")  # mov $0x608,%dx; 1: in (%dx),%eax; jmp 1b
_RESET = bytes.fromhex("ea000000f0")  # ljmp $0xf000,$0


def firmware(folder: Path) -> Path:
    """The file of a firmware that exits at full speed, always to read port 0x608."""
    path = folder / "loop.bin"
    image = bytearray(0x10000)
    image[: len(_LOOP)] = _LOOP
    image[0xFFF0 : 0xFFF0 + len(_RESET)] = _RESET
    path.write_bytes(image)
    return path


class Qemu:
    """A QEMU with KVM that runs the firmware, and its QMP."""

    def __init__(self, process: subprocess.Popen[bytes], address: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(address))
                break
            except OSError:
                assert process.poll() is None, "QEMU has ended"
                time.sleep(0.05)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.command("qmp_capabilities")

    def command(self, name: str) -> None:
        """Send a QMP command, and wait for its answer."""
        self._file.write(f'{{"execute": "{name}"}}\n')
        self._file.flush()
        while '"return"' not in self._file.readline():
            assert self.process.poll() is None, "QEMU has ended"

    def close(self) -> None:
        self._file.close()
        self._socket.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def qemu(folder: Path, *, vcpus: int, name: str) -> Iterator[Qemu]:
    """QEMU with KVM and this number of vCPUs, of which the first one exits at full speed."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    address = folder / "qmp"
    command = [
        *(program, "-accel", "kvm", "-machine", "pc", "-display", "none", "-nodefaults"),
        *("-smp", str(vcpus), "-bios", str(firmware(folder)), "-name", f"guest={name}"),
        *("-qmp", f"unix:{address},server=on,wait=off"),
    ]
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)
    try:
        found = Qemu(process, address)
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        yield found
    finally:
        found.close()
