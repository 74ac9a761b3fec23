# SPDX-License-Identifier: Apache-2.0
"""The layout of a kernel's structures, from the files of its build. pahole reads real ELF files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kickbench.lab import tools
from kickbench.lab.explain.layout import layout_of
from kickbench.lab.kbuild import STRUCTS
from kickbench.lab.structs import Struct, Structs

SOURCE = """
struct sighand_struct { int siglock; int count; };
struct sighand_struct sighand;
int main(void) { return sighand.count; }
"""
FOUND = Structs({"sighand_struct": Struct(8, ((0, "siglock"), (4, "count")))})
BUILT = [
    pytest.param("-g", marks=pytest.mark.skipif(not shutil.which("pahole"), reason="no pahole")),
    "-gbtf",
]
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


def build(kernel: Path, *options: str) -> Path:
    """A kernel's image, which nobody reads, with a vmlinux at the top of its tree."""
    image = kernel / "arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.touch()
    (kernel / "init.c").write_text(SOURCE)
    subprocess.run(["gcc", *options, "init.c", "-o", "vmlinux"], cwd=kernel, check=True)
    return image


@needs_gcc
@pytest.mark.parametrize("how", BUILT)
def test_a_vmlinux_has_the_layout(tmp_path: Path, how: str) -> None:
    assert layout_of(build(tmp_path, how)).structs == FOUND


@needs_gcc
def test_what_the_lab_noted_comes_first(tmp_path: Path) -> None:
    image = build(tmp_path, "-gbtf")
    noted = Structs({"page": Struct(64, ((0, "flags"),))})
    image.with_name(STRUCTS).write_text(noted.to_json())
    assert layout_of(image).structs == noted


@needs_gcc
def test_without_pahole_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(tmp_path, "-g")
    absent = tools.Tool("paholee", "dwarves", "the types", ("explain",))
    monkeypatch.setattr(tools, "TOOLS", [absent])
    layout = layout_of(image)
    assert layout.structs == Structs({})
    assert f"only pahole reads the debug information of {tmp_path / 'vmlinux'}" in layout.why
    assert layout.why.endswith("apt-get install --no-install-recommends dwarves)")


@needs_gcc
def test_what_pahole_says_is_told_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(tmp_path, "-g")
    pahole = tmp_path / "bin/pahole"
    pahole.parent.mkdir()
    pahole.write_text("#!/bin/sh\necho 'pahole: no \033[1mmercy' >&2\nexit 1\n")
    pahole.chmod(0o755)
    monkeypatch.setenv("PATH", str(pahole.parent), prepend=":")
    layout = layout_of(image)
    assert layout.structs == Structs({})
    assert f"pahole failed to read the debug information of {tmp_path / 'vmlinux'}" in layout.why
    assert layout.why.endswith("pahole: no  [1mmercy")


@needs_gcc
@pytest.mark.parametrize("how", ["none", "no ELF", "a folder"])
def test_without_debug_information_nothing_is_known(tmp_path: Path, how: str) -> None:
    image = build(tmp_path)
    if how != "none":
        (tmp_path / "vmlinux").unlink()
    if how == "no ELF":
        (tmp_path / "vmlinux").write_text("#!/bin/sh\n")
    if how == "a folder":
        (tmp_path / "vmlinux").mkdir()
    layout = layout_of(image)
    assert layout.structs == Structs({})
    assert layout.why == f"no {STRUCTS} is beside it, and it has no BTF (CONFIG_DEBUG_INFO_BTF)"
