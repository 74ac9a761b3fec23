# SPDX-License-Identifier: Apache-2.0
"""VMs to observe: QEMU with KVM."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a QMP command, wait for its answer, and return that."""
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        for line in self._file:
            answer = json.loads(line)
            assert "error" not in answer, answer["error"]
            if "return" in answer:
                return answer["return"]
        raise AssertionError("QEMU has ended")

    def add_vcpu(self) -> None:
        """Plug in one more vCPU while the guest runs. It waits for the guest to start it."""
        free = [cpu for cpu in self.command("query-hotpluggable-cpus") if "qom-path" not in cpu]
        self.command("device_add", driver=free[-1]["type"], **free[-1]["props"])

    def close(self) -> None:
        self._file.close()
        self._socket.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def qemu(
    folder: Path, *, vcpus: int, name: str, guest: Sequence[str] = (), room: int | None = None
) -> Iterator[Qemu]:
    """QEMU with KVM and this number of vCPUs, and room for ``room`` of them.

    ``guest`` are the arguments that choose the guest. Without them it is the firmware, which keeps
    the first vCPU at full speed.
    """
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    address = folder / "qmp"
    command = [
        *(program, "-accel", "kvm", "-machine", "pc", "-display", "none", "-nodefaults"),
        *("-smp", f"{vcpus},maxcpus={room or vcpus}", *(guest or ("-bios", str(firmware(folder))))),
        *("-name", f"guest={name}", "-qmp", f"unix:{address},server=on,wait=off"),
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
