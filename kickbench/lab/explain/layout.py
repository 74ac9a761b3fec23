# SPDX-License-Identifier: Apache-2.0
"""How the structures of a kernel are laid out, from the files of its build on this host.

The machine that runs the kernel looks for BTF itself, if nothing is known here.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kickbench.lab import tools
from kickbench.lab.emulation import printable
from kickbench.lab.explain.symbols import file_of_build
from kickbench.lab.kbuild import STRUCTS, say
from kickbench.lab.scratch import scratch
from kickbench.lab.structs import Structs


@dataclass(frozen=True)
class Layout:
    """The structures that are known. If they are none, ``why`` says why in words."""

    structs: Structs
    why: str = ""


def layout_of(kernel: Path) -> Layout:
    """That of a kernel's image: by the lab's own file beside it, or by its ``vmlinux``.

    The latter has BTF, or debug information that pahole turns into BTF.
    """
    noted = kernel.with_name(STRUCTS)
    if noted.is_file():
        return Layout(Structs.from_json(noted.read_text()))
    vmlinux = file_of_build(kernel, "vmlinux")
    sections = _sections(vmlinux) if vmlinux else {}
    if vmlinux and ".BTF" in sections:
        return Layout(Structs.of_btf(sections[".BTF"]))
    if vmlinux and ".debug_info" in sections:
        return _by_pahole(vmlinux)
    return Layout(
        Structs({}), f"no {STRUCTS} is beside it, and it has no BTF (CONFIG_DEBUG_INFO_BTF)"
    )


def _sections(vmlinux: Path) -> dict[str, bytes]:
    """Of the two kinds of debug information, which it has. The data are BTF's only."""
    try:
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            btf = elf.get_section_by_name(".BTF")
            if btf is not None:
                return {".BTF": btf.data()}
            return {".debug_info": b""} if elf.get_section_by_name(".debug_info") else {}
    except (ELFError, OSError):
        return {}


def _by_pahole(vmlinux: Path) -> Layout:
    what = f"the debug information of {vmlinux}"
    if lacking := tools.missing("explain"):
        return Layout(
            Structs({}),
            f"only pahole reads {what}, and it is not here ({tools.install_line(lacking)})",
        )
    say(f"pahole reads {what}")
    with scratch() as folder:
        btf = folder / "btf"
        command = [tools.program("pahole"), f"--btf_encode_detached={btf}", str(vmlinux)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0 and btf.is_file():
            return Layout(Structs.of_btf(btf.read_bytes()))
    said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
    return Layout(Structs({}), f"pahole failed to read {what}: {printable(said[0])}")
