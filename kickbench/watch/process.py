# SPDX-License-Identifier: Apache-2.0
"""Finds processes with vCPUs, and reads what /proc says of them and of their threads.

A vCPU is known by the name of its open file (``anon_inode:kvm-vcpu:N``), which
kvm_vm_ioctl_create_vcpu() in virt/kvm/kvm_main.c gives it: no thread needs a certain name.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kickbench.cpu_list import parse_cpu_list
from kickbench.errors import HostError, UsageError
from kickbench.text import printable, quoted, shorten

_VCPU = re.compile(r"anon_inode:\[?kvm-vcpu:(\d+)\]?")
_NAMES = ("-name", "--name", "--id", "--vm-name")
"""Options by which VMMs get the name of their guest: QEMU, crosvm, Firecracker, kvmtool."""
_GUEST = re.compile(r"(?:^|,)guest=([^,]*)|^([^,=]*)(?:,|$)")
_INIT_NAMESPACE = 0xEFFFFFFC
"""The inode of the first pid namespace: PROC_PID_INIT_INO in linux/proc_ns.h."""

_CAPABILITIES = "+bpf,+perfmon,+sys_ptrace,+dac_read_search"
RIGHTS = (
    "run it as root, or with four capabilities:\n"
    f"  sudo setpriv --reuid $USER --init-groups --inh-caps {_CAPABILITIES} "
    f"--ambient-caps {_CAPABILITIES} kickbench observe ..."
)
"""What to do without the rights: setpriv(1), capabilities(7). The last of them is for the files of
another user's process."""


class RightsError(HostError):
    """This user may not do ``what``: watching needs rights (exit code 3)."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: {RIGHTS}")
        self.what = what


@dataclass(frozen=True)
class Vmm:
    """A process with vCPUs: its program's name, its guest's name ("" if its command line has
    none), and KVM's number of each vCPU by the file descriptor."""

    pid: int
    program: str
    guest: str
    vcpu_files: dict[int, int]

    @property
    def title(self) -> str:
        """The process in a few words."""
        guest = f", guest {quoted(self.guest)}" if self.guest else ""
        return f"{self.pid} ({self.program}{guest})"

    def to_dict(self) -> dict[str, Any]:
        """The process as JSON."""
        return {**vars(self), "vcpu_files": list(self.vcpu_files.items())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vmm:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "vcpu_files": dict(data["vcpu_files"])})


@dataclass(frozen=True)
class Thread:
    """What /proc says of a thread: the CPU that it last ran on, CPU time and waiting time in ns.

    ``blocked`` and ``caught`` are its signal masks: bit 0 is signal 1. ``comm`` is its name.
    """

    comm: str
    cpu: int
    ran_ns: int
    waited_ns: int
    blocked: int
    caught: int


def check_namespace() -> None:
    """Raises HostError in a pid namespace of its own: the kernel's numbers are others there."""
    try:
        own = Path("/proc/self/ns/pid").stat().st_ino
    except FileNotFoundError:  # A kernel without CONFIG_PID_NS has one such namespace.
        return
    if own != _INIT_NAMESPACE:
        raise HostError(
            "this shell is in a pid namespace of its own, such as a container's, where processes "
            "have other numbers than in the kernel: run kickbench observe on the host"
        )


def find(pid: int) -> Vmm:
    """The process, with its vCPUs. Raises UsageError if there is none, or it runs no vCPU.

    Raises HostError if its files may not be looked at.
    """
    folder = Path(f"/proc/{pid}")
    if not folder.exists():
        raise UsageError(f"there is no process {pid}: kickbench observe without a PID lists VMs")
    try:
        files = _vcpu_files(folder)
    except PermissionError:
        raise RightsError(f"the files of process {pid} may not be looked at") from None
    except OSError:
        raise UsageError(f"process {pid} has ended") from None
    found = Vmm(pid, _program(folder), _guest(folder), files)
    if not files:
        raise UsageError(
            f"process {found.title} has no vCPU, so it is no VMM or its VM has not begun: "
            "kickbench observe without a PID lists VMs"
        )
    if (parent := _forked_from(found)) is not None:
        raise UsageError(
            f"process {found.title} was forked from process {parent}, which runs the VM: name that"
        )
    return found


def find_by_name(name: str) -> Vmm:
    """The process whose guest has this name. Raises UsageError if there is none, or several."""
    every = list(running())
    known_as = _printable_name(name)
    found = [vmm for vmm in every if vmm.guest == known_as]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(str(vmm.pid) for vmm in found)
        raise UsageError(f"several VMs have the name {quoted(name)}: choose a PID of {several}")
    known = ", ".join(vmm.title for vmm in every[:20]) or "no other VM that you may look at"
    raise UsageError(f"no VM has the name {quoted(name)}; there is {known}")


def running() -> Iterator[Vmm]:
    """The processes with vCPUs that this user may look at, by pid.

    A process that a VMM forked has the VMM's files, but may not run its vCPUs. It is left out.
    """
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            if files := _vcpu_files(folder):
                found = Vmm(pid, _program(folder), _guest(folder), files)
                if _forked_from(found) is None:
                    yield found


def _forked_from(vmm: Vmm) -> int | None:
    """The process that runs the VM if this one only inherited its files; else None.

    A child that runs the same program has its parent's command line until exec(2).
    """
    command = _command(vmm.pid)
    for pid in ancestors(vmm.pid):
        if vcpu_files(pid) == vmm.vcpu_files and _command(pid) == command:
            return pid
    return None


def threads_of(pid: int) -> int:
    """How many threads the process has; 0 if it has ended."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def thread(pid: int, tid: int) -> Thread | None:
    """A thread of the process; None if it has ended."""
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        times = (folder / "schedstat").read_text().split()
        return Thread(
            comm=shorten(printable(status["Name"]), 40),
            cpu=int(after_name[36]),
            ran_ns=int(times[0]),
            waited_ns=int(times[1]),
            blocked=int(status["SigBlk"], 16),
            caught=int(status["SigCgt"], 16),
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None


def online_cpus() -> tuple[int, ...]:
    """The CPUs of the host that are online."""
    try:
        return parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text().strip())
    except (OSError, ValueError):
        return tuple(sorted(os.sched_getaffinity(0)))


def is_alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def is_open(vmm: Vmm) -> bool:
    """Whether the process still has each vCPU among its files; False if it has ended."""
    return vcpu_files(vmm.pid).items() >= vmm.vcpu_files.items()


def ancestors(pid: int) -> Iterator[int]:
    """The parent of the process, that one's parent, and so on."""
    for _ in range(1000):
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
        yield pid


def memory_nodes(pid: int) -> dict[int, int]:
    """The pages of the process on each NUMA node (numa_maps of proc(5)); empty if unknown."""
    try:
        return pages_of(Path(f"/proc/{pid}/numa_maps").read_text())
    except OSError:
        return {}


def pages_of(numa_maps: str) -> dict[int, int]:
    """The pages on each node. A huge page counts as the small ones that it stands for."""
    pages: dict[int, int] = {}
    for line in numa_maps.splitlines():
        kib = re.search(r"\bkernelpagesize_kB=(\d+)", line)
        small = max(1, int(kib[1]) * 1024 // os.sysconf("SC_PAGE_SIZE")) if kib else 1
        for node, count in re.findall(r"\bN(\d+)=(\d+)", line):
            pages[int(node)] = pages.get(int(node), 0) + small * int(count)
    return pages


def vcpu_files(pid: int) -> dict[int, int]:
    """KVM's number of each vCPU of the process by its file descriptor.

    Empty if the process has ended, or may not be looked at.
    """
    try:
        return _vcpu_files(Path(f"/proc/{pid}"))
    except OSError:
        return {}


def _vcpu_files(folder: Path) -> dict[int, int]:
    found = {}
    for entry in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := _VCPU.fullmatch(str(entry.readlink())):
                found[int(entry.name)] = int(match[1])
    return found


def _program(folder: Path) -> str:
    try:
        name = (folder / "exe").readlink().name.removesuffix(" (deleted)")
    except OSError:
        name = (folder / "comm").read_text().strip()
    return shorten(printable(name), 60)


def _command(pid: int) -> bytes:
    """The command line of the process; empty if it has ended or may not be looked at."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _guest(folder: Path) -> str:
    """The guest's name by the process's command line; "" if it has none."""
    words = _command(int(folder.name)).decode(errors="replace").split("\0")
    for option, value in zip(words, words[1:]):
        name, equals, own = option.partition("=")
        if name in _NAMES and (match := _GUEST.search(own if equals else value)):
            return _printable_name(match[1] or match[2] or "")
    return ""


def _printable_name(name: str) -> str:
    return shorten(printable(name), 60)
