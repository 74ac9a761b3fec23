# SPDX-License-Identifier: Apache-2.0
"""The two ways to boot a kernel once: kexec, and the one-shot entry of systemd's boot loader.

Neither changes which kernel is the default. After a panic, a watchdog or a power cut, the host
comes up with that, and :mod:`kickbench.ab.job` sees that it is not the one that was asked for.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kickbench import arch
from kickbench.ab import image
from kickbench.ab.state import Kernel, made
from kickbench.errors import HostError, UsageError
from kickbench.results.schema import one_line, place

UNIT = "kickbench-ab@.service"
MARK = "kickbench.ab"
"""In the command line of a kernel that :class:`Kexec` booted. The kernel ignores a parameter of a
module that it does not have."""
PANIC_SECONDS = 30
"""After so long a kernel that panicked has the firmware boot the default one."""
_OF_THIS_BOOT = re.compile(rf"(?:^|\s)(?:(?:BOOT_IMAGE|initrd)=\S+|{re.escape(MARK)}(?=\s|$))")
"""Parameters that say which file the running kernel came from, and how."""
_INITRDS = ("initrd.img-", "initramfs-", "initrd-")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h."""
_NO_INITRD = 4
"""KEXEC_FILE_NO_INITRAMFS of linux/kexec.h."""
_REBOOT, _BOOT_LOADED = 0x01234567, 0x45584543
"""LINUX_REBOOT_CMD_RESTART and LINUX_REBOOT_CMD_KEXEC of linux/reboot.h."""
_TOOL_SECONDS = 60
_IN_MEMORY = ("tmpfs", "ramfs")
_EMPTIED = Path("/tmp")  # noqa: S108 (nothing is written there)
"""Debian's systemd deletes what is in it at each boot: /usr/lib/tmpfiles.d/tmp.conf."""
_PATH_OF_SERVICES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where systemd looks for the command of a service (systemd.exec(5), PATH)."""


class Here(ABC):
    """This host (:class:`kickbench.ab.job.Host`), without the way in which it boots a kernel."""

    def boot_id(self) -> str:
        """The kernel's own id of this boot."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def build(self) -> str:
        return image.running()

    @abstractmethod
    def kernel(self, given: str, append: str | None) -> Kernel:
        """The kernel that the user named, with ``append`` for its command line. Raises
        UsageError if there is no such kernel."""

    @abstractmethod
    def check(self) -> None:
        """Raise HostError if this host cannot boot a kernel in this way."""

    @abstractmethod
    def came(self, kernel: Kernel) -> bool:
        """As :meth:`kickbench.ab.job.Host.came`."""

    @abstractmethod
    def boot(self, kernel: Kernel) -> None:
        """As :meth:`kickbench.ab.job.Host.boot`."""

    def leave(self) -> None:
        """Reboot as the host always does: by its firmware, into its default kernel."""
        _shut_down("reboot", _REBOOT)


class Kexec(Here):
    """The running kernel loads the next one and jumps to it. No boot loader takes part."""

    def kernel(self, given: str, append: str | None) -> Kernel:
        """``given`` is the kernel's file, or that and its initrd, with a comma between. Without
        one, it is the initrd beside it with the name that distributions give it, if there is one.
        """
        if append is not None and not append.isprintable():
            raise UsageError("--append: the words of a command line are one line of text")
        name, comma, initrd = given.partition(",")
        file = Path(name).absolute()
        found = Path(initrd).absolute() if initrd else None if comma else _initrd_of(file)
        if found is not None and not found.is_file():
            raise UsageError(f"{place(found)}: there is no such initrd")
        return made(
            Kernel,
            given=str(file),
            build=image.build(file),
            initrd=str(found) if found is not None else None,
            parameters=_parameters(append),
        )

    def check(self) -> None:
        loaded = Path("/sys/kernel/kexec_loaded")
        disabled = Path("/proc/sys/kernel/kexec_load_disabled")
        if not loaded.exists():
            raise HostError("the running kernel was built without kexec; try --by systemd")
        if disabled.exists() and disabled.read_text(encoding="ascii").strip() != "0":
            raise HostError(
                "kernel.kexec_load_disabled is set, which only a reboot undoes; try --by systemd"
            )

    def came(self, kernel: Kernel) -> bool:  # noqa: ARG002 (all have the same mark)
        return MARK in _command_line().split()

    def boot(self, kernel: Kernel) -> None:
        _load(kernel)
        _shut_down("kexec", _BOOT_LOADED)


def _initrd_of(kernel: Path) -> Path | None:
    """The initrd that belongs to /boot/vmlinuz-VERSION, or to the file that a link names."""
    for file in (kernel, kernel.resolve()):
        version = file.name.partition("-")[2]
        for begin in _INITRDS if version else ():
            for end in ("", ".img"):
                if (initrd := file.with_name(f"{begin}{version}{end}")).is_file():
                    return initrd
    return None


def _parameters(append: str | None) -> str:
    """The command line of the kernel that runs, without what names its file, and more."""
    words = " ".join(filter(None, (append, _OF_THIS_BOOT.sub("", _command_line()).strip())))
    # A kernel that panics waits for ever by default, and the host with it.
    panic = None if re.search(r"(?:^|\s)panic=", words) else f"panic={PANIC_SECONDS}"
    return " ".join(filter(None, (MARK, panic, words)))


def _command_line() -> str:
    return Path("/proc/cmdline").read_text(encoding="utf-8", errors="replace")


def _load(kernel: Kernel) -> None:
    """Have the kernel that runs load the next one: kexec_file_load(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (kernel.parameters or "").encode() + b"\0"
    try:
        image_file = os.open(kernel.given, os.O_RDONLY | os.O_CLOEXEC)
        initrd = os.open(kernel.initrd, os.O_RDONLY | os.O_CLOEXEC) if kernel.initrd else -1
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}; no reboot") from None
    failed = libc.syscall(
        ctypes.c_long(arch.current().KEXEC_FILE_LOAD_SYSCALL),
        ctypes.c_long(image_file),
        ctypes.c_long(initrd),
        ctypes.c_long(len(words)),
        ctypes.c_char_p(words),
        ctypes.c_long(0 if kernel.initrd else _NO_INITRD),
    )
    code = ctypes.get_errno()
    for descriptor in (image_file, initrd):
        if descriptor >= 0:
            os.close(descriptor)
    if failed:
        raise HostError(
            f"the running kernel does not load {place(kernel.given)}: {os.strerror(code)}\n"
            "it may take signed kernels only (Secure Boot, lockdown); try --by systemd"
        )


class Systemd(Here):
    """systemd-boot boots an entry once, by the firmware as after any reboot."""

    def kernel(self, given: str, append: str | None) -> Kernel:
        """``given`` is the id of an entry, as ``bootctl list`` shows it."""
        if append:
            raise UsageError("a boot entry has its own command line; leave out --append")
        entries = _entries()
        entry = next((one for one in entries if one.get("id") == given), None)
        if entry is None:
            there = ", ".join(one_line(str(one.get("id"))) for one in entries) or "none"
            raise UsageError(f"no boot entry {given}; bootctl list has: {there}")
        file = Path(str(entry.get("linux") or entry.get("path") or ""))
        root = Path(str(entry.get("root") or "/"))
        if not file.is_relative_to(root):
            file = root / str(file).lstrip("/")
        return made(Kernel, given=given, build=image.build(file))

    def check(self) -> None:
        _systemd_runs()
        _entries()

    def came(self, kernel: Kernel) -> bool:
        chosen = [one.get("id") for one in _entries() if one.get("isSelected")]
        return chosen in ([kernel.given], [])  # a boot loader may not say

    def boot(self, kernel: Kernel) -> None:
        _told("bootctl", "set-oneshot", kernel.given)
        _shut_down("reboot", _REBOOT)


def _entries() -> list[dict[str, Any]]:
    text = _told("bootctl", "list", "--json=short", hint="; try --by kexec")
    try:
        found = json.loads(text)
    except ValueError:
        raise HostError("bootctl list --json=short prints no JSON; it takes systemd 252") from None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _told(*words: str, hint: str = "") -> str:
    """What a tool prints. Raises HostError, with the hint, if it fails."""
    command = shlex.join(words)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TOOL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or "it does not end"
        raise HostError(f"{command}: {why}{hint}") from None
    if done.returncode:
        raise HostError(one_line(f"{command}: {done.stderr or done.returncode}{hint}"))
    return done.stdout


def _systemd_runs() -> None:
    if not has_systemd():
        raise HostError("systemd does not run this host; try --by kexec")


def has_systemd() -> bool:
    """Whether systemd is process 1: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def _shut_down(verb: str, command: int) -> None:
    """Reboot, with a clean end of all services if systemd runs them."""
    if has_systemd():
        _told("systemctl", verb, "--no-block")
        return
    os.sync()
    if ctypes.CDLL(None, use_errno=True).reboot(ctypes.c_int(command)):
        raise HostError(f"this host does not reboot: {os.strerror(ctypes.get_errno())}")


HOSTS: dict[str, type[Here]] = {"kexec": Kexec, "systemd": Systemd}
"""The ways to boot a kernel once, by the name of ``--by``."""


# --- before the first reboot ---------------------------------------------------------------------


def check(folder: Path, kernels: Sequence[Kernel], why_no_kvm: str | None = None) -> None:
    """Raise HostError or UsageError, before anything is done, if a plan cannot work here.

    ``why_no_kvm`` is why this host has no KVM to measure, or None if it has.
    """
    if os.geteuid() != 0:
        raise HostError("only root can reboot a host; run this as root")
    if _is_in_container():
        raise HostError("a container cannot reboot its host; run this on the host itself")
    if why_no_kvm is not None:
        raise HostError(f"this host cannot measure: {why_no_kvm}")
    first, second = kernels
    if first.build == second.build:
        raise UsageError(
            f"both kernels are {first.build}, so kickbench could not tell which of them runs; "
            "build one with another CONFIG_LOCALVERSION"
        )
    _check_disk(folder)
    if has_systemd():
        _check_unit(folder)


def _check_disk(folder: Path) -> None:
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    kind = _told("stat", "--file-system", "--format=%T", str(there)).strip()
    advice = "; choose another --state, such as /var/lib/ab"
    if kind in _IN_MEMORY:
        raise UsageError(f"{place(folder)} is in memory ({kind}), which a reboot empties{advice}")
    if folder.is_relative_to(_EMPTIED) and there.stat().st_dev == _EMPTIED.stat().st_dev:
        raise UsageError(f"{place(folder)} is in {_EMPTIED}, which a boot empties{advice}")


def _is_in_container() -> bool:
    """Whether reboot(2) ends a name space of processes only: pid_namespaces(7)."""
    try:
        return _PID_NAMESPACE.stat().st_ino != _FIRST_PID_NAMESPACE
    except FileNotFoundError:  # this kernel has no name spaces
        return False


def unit_of(folder: Path) -> str:
    """The unit that goes on with a plan after each boot."""
    return _told("systemd-escape", "--path", f"--template={UNIT}", str(folder)).strip()


def _check_unit(folder: Path) -> None:
    unit = unit_of(folder)
    try:
        _told("systemctl", "is-enabled", "--quiet", unit)
    except HostError:
        raise HostError(
            f"nothing would go on after the first reboot: {unit} is not enabled\n"
            f"install {UNIT} (docs/recipes.md), then: systemctl enable '{unit}'"
        ) from None
    starts = re.findall(r"^ExecStart=[-@:+!|]*(\S+)", _told("systemctl", "cat", unit), re.MULTILINE)
    if starts and not shutil.which(starts[-1], path=_PATH_OF_SERVICES):
        raise HostError(
            f"nothing would go on after the first reboot: services find no {starts[-1]}\n"
            f"write its whole path into ExecStart: systemctl edit --full {UNIT}"
        )


def who_is_here() -> list[str]:
    """The users that are logged in, as far as who(1) knows; each once."""
    try:
        done = subprocess.run(
            ["who"], capture_output=True, text=True, check=False, timeout=_TOOL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted({line.split()[0] for line in done.stdout.splitlines() if line.split()})
