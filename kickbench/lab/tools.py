# SPDX-License-Identifier: Apache-2.0
"""The tools that the lab needs on this host: what each is for, and its Debian package.

This module looks for tools, and installs none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import HostError

# Files that Bochs and its boot CD need. They are not programs on the PATH.
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/vgabios/vgabios.bin")
GRUB = Path("/usr/lib/grub/i386-pc")

# Folders in which Debian has programs, and which a user's PATH may lack.
_MORE_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Tool:
    """A tool. ``name`` is a program on the PATH, or the absolute path of another file.

    ``users`` are what needs it: "build", "build-arm64", "root-arm64", "bisect", configurations of
    the kernel, machines, or "explain" for a kernel that has debug information only.
    """

    name: str
    package: str
    doc: str
    users: tuple[str, ...] = ("build",)

    def find(self) -> Path | None:
        """The path of the tool on this host, or None."""
        if self.name.startswith("/"):
            return Path(self.name) if Path(self.name).exists() else None
        found = shutil.which(self.name) or shutil.which(self.name, path=_MORE_PLACES)
        return Path(found) if found else None


DEBIAN_SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")

_ARM64 = ("build-arm64",)
_BUILDS = ("build", *_ARM64)
_BUILD = (*_BUILDS, "bisect")
_AMD = ("amd-numa", "amd-count", "amd-lines")
_VMX = ("intel-vmx",)
_EL2 = ("arm64", "arm64-count", "arm64-lines")

TOOLS: tuple[Tool, ...] = (
    Tool("git", "git", "the commits of a bisection", ("bisect",)),
    Tool("gcc", "gcc", "compiles the kernel", _BUILD),
    Tool("make", "make", "runs the kernel's build", _BUILD),
    Tool("flex", "flex", "the kernel's configuration", _BUILD),
    Tool("bison", "bison", "the kernel's configuration", _BUILD),
    Tool("bc", "bc", "the kernel's timer constants", _BUILD),
    Tool("perl", "perl", "the kernel's build", _BUILD),
    Tool("patch", "patch", "applies the lab's patches", _BUILDS),
    Tool("tar", "tar", "unpacks the kernel's source", _BUILDS),
    Tool("xz", "xz-utils", "unpacks the kernel's source", _BUILDS),
    Tool("/usr/include/gelf.h", "libelf-dev", "the kernel's objtool", ("build", "bisect")),
    Tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "compiles for arm64", _ARM64),
    Tool("pahole", "dwarves", "the kernel's description of its types", ("observe", "explain")),
    Tool(
        str(DEBIAN_SOURCE),
        "linux-source-6.12",
        "the kernel's source, unless --source names one",
        _BUILDS,
    ),
    Tool("qemu-system-x86_64", "qemu-system-x86", "emulates an AMD host with SVM", _AMD),
    Tool("qemu-system-aarch64", "qemu-system-arm", "emulates an arm64 host with EL2", _EL2),
    Tool("bochs", "bochs", "emulates an Intel host with VMX", _VMX),
    Tool(str(BIOS), "bochsbios", "the BIOS in Bochs", _VMX),
    Tool(str(VGA_BIOS), "vgabios", "the VGA BIOS in Bochs", _VMX),
    Tool("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_x_gui.so", "bochs-x", "its window", _VMX),
    Tool("Xvfb", "xvfb", "a display for its window", _VMX),
    Tool("grub-mkrescue", "grub-common", "makes the CD that Bochs boots", _VMX),
    Tool(str(GRUB), "grub-pc-bin", "the boot loader on that CD", _VMX),
    Tool("xorriso", "xorriso", "writes that CD", _VMX),
    Tool("mount", "mount", "the file systems inside", (*_AMD, *_VMX)),
    Tool("apt-get", "apt", "fetches Debian's packages for arm64", ("root-arm64",)),
    Tool("dpkg-deb", "dpkg", "unpacks these", ("root-arm64",)),
)
"""Every tool, once, in the order in which they are needed."""


def missing(user: str, but: Iterable[str] = ()) -> list[Tool]:
    """The tools that ``user`` needs and this host lacks, without those named in ``but``."""
    return [t for t in TOOLS if user in t.users and t.name not in but and t.find() is None]


def require(user: str, but: Iterable[str] = ()) -> None:
    """Raise HostError (exit code 3) if a tool is missing, with the line that installs it."""
    if lacking := missing(user, but):
        what = ", ".join(f"{tool.name} ({tool.doc})" for tool in lacking)
        raise HostError(f"{what}: not found\ninstall it: {install_line(lacking)}")


def install_line(tools: Iterable[Tool]) -> str:
    """The one command that installs these tools."""
    packages = dict.fromkeys(tool.package for tool in tools)
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install --no-install-recommends {' '.join(packages)}"


def program(name: str) -> str:
    """The path to start a program by, which may be in a folder that the user's PATH lacks."""
    return str(Tool(name, "", "").find() or name)
