# SPDX-License-Identifier: Apache-2.0
"""Observes a QEMU that runs a whole Linux: python linux_guest.py BZIMAGE INITRAMFS FOLDER.

This is for a machine of the lab. The guest's clock is the ACPI PM timer, as that of some Windows
guests. The answer of kickbench observe goes to standard error, and its summary.json to standard
output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from own_vmm import qemu

CPUS = (2,)
"""The CPU of each vCPU, on the second node of the machine amd-numa.

There is one: with two vCPUs, SVM in QEMU's TCG does not last. In half of the tries the guest, or
the host around it, ends by a fault.
"""
SECONDS = 10
READY = f"{len(CPUS)} CPUs read the clock"
# A vCPU that waits by HLT is not always woken up in time by SVM in TCG.
_BOOT = "console=ttyS0 clocksource=acpi_pm tsc=reliable no-kvmclock idle=poll"


def initramfs(program: Path) -> bytes:
    """A cpio archive (newc, cpio(5)) whose /init is this program."""
    return _member("init", 0o100755, program.read_bytes()) + _member("TRAILER!!!", 0, b"")


def _member(name: str, mode: int, data: bytes) -> bytes:
    text = name.encode() + b"\0"
    # c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, four numbers of devices, c_namesize
    # and c_check.
    numbers = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + text) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def main(kernel: str, archive: str, folder: Path) -> int:
    console = folder / "console"
    guest = [
        *("-cpu", "host", "-m", "96M", "-no-reboot", "-kernel", kernel, "-initrd", archive),
        *("-append", _BOOT, "-serial", f"file:{console}"),
    ]
    with qemu(folder, vcpus=len(CPUS), name="linux", guest=guest) as vm:
        for vcpu, cpu in zip(vm.command("query-cpus-fast"), CPUS, strict=True):
            os.sched_setaffinity(vcpu["thread-id"], {cpu})
        while not console.exists() or READY not in console.read_text(errors="replace"):
            assert vm.process.poll() is None, "QEMU has ended"
            time.sleep(0.5)
        observe = ["observe", str(vm.pid), "--seconds", str(SECONDS), "--results", str(folder)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kickbench", *observe], stdout=sys.stderr, check=False
        )
        sys.stderr.write(console.read_text(errors="replace")[-1000:])
    for summary in folder.glob("*/*/summary.json"):
        sys.stdout.write(summary.read_text())
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
