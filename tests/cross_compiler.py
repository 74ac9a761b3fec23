# SPDX-License-Identifier: Apache-2.0
"""The C compilers of the architectures that kickbench knows, as Debian names them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile


def compiler(machine: str) -> str:
    """The compiler for this machine. Skips the test if there is none; on a CI machine, fails it."""
    name = "cc" if machine == os.uname().machine else f"{machine.replace('_', '-')}-linux-gnu-gcc"
    if not shutil.which(name):
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing")
        pytest.skip(f"{name} is not installed")
    return name


def compiled(machine: str, source: Path, *flags: str) -> ELFFile:
    """The object file of a source, which nobody runs."""
    built = source.with_suffix(".o")
    subprocess.run([compiler(machine), *flags, "-c", "-o", str(built), str(source)], check=True)
    return ELFFile(io.BytesIO(built.read_bytes()))


def assembled(machine: str, folder: Path, instructions: str) -> bytes:
    """The machine code of instructions."""
    source = folder / "code.S"
    source.write_text(f"{instructions}\n")
    text: bytes = compiled(machine, source).get_section_by_name(".text").data()
    return text
