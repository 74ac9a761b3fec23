# SPDX-License-Identifier: Apache-2.0
"""Protocols in other languages: a library with the hooks, and the C that kickbench puts around."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from own_protocol import blocks

from kickbench.engine.engine import LANDED, LOST, Plan
from kickbench.engine.protocols import HOOKS, build, foreign_of, include_folder, placebo_of
from kickbench.errors import UsageError
from kickbench.methods import method_label
from kickbench.scenario.files import load as load_scenario

NUMBERS = itertools.count()
RUST = Path(__file__).resolve().parents[1] / "examples/protocols/rust"

# C without the structures, as any language sees them.
LIBRARY = """
#include <stdbool.h>
struct kb_vcpu;
struct kb_kicker;
unsigned char *kb_foreign_immediate_exit(struct kb_vcpu *v);
void kb_foreign_forget_kicks(struct kb_vcpu *v);
bool kb_foreign_kick_requested(const struct kb_vcpu *v);
void kb_foreign_request_kick(struct kb_vcpu *v, const struct kb_kicker *k);
int kb_foreign_send_signal(const struct kb_vcpu *v, const struct kb_kicker *k);
int kb_foreign_complete_io(struct kb_vcpu *v);

static void set(struct kb_vcpu *v, unsigned char value)
{ __atomic_store_n(kb_foreign_immediate_exit(v), value, __ATOMIC_RELAXED); }
int mine_enter(struct kb_vcpu *v) { kb_foreign_forget_kicks(v); set(v, 0); return 0; }
void mine_leave(struct kb_vcpu *v) { mine_enter(v); }
bool mine_before_run(struct kb_vcpu *v) { return kb_foreign_kick_requested(v); }
bool mine_after_run(struct kb_vcpu *v, int error)
{ if (!error) return false; set(v, 0); return kb_foreign_kick_requested(v); }
void mine_handler(struct kb_vcpu *v) { HANDLER; }
int mine_kick(struct kb_vcpu *v, struct kb_kicker *k)
{ kb_foreign_request_kick(v, k); return kb_foreign_send_signal(v, k); }
FINISH_EXIT
"""
FINISH_EXIT = """int mine_finish_exit(struct kb_vcpu *v)
{ int error; set(v, 1); error = kb_foreign_complete_io(v); set(v, 0); return error; }"""


def library(
    folder: Path,
    handler: str = "set(v, 1)",
    finish_exit: str = "",
    text: str = "",
    options: Sequence[str] = (),
) -> Path:
    """A library of a new name, which kickbench has not built.

    The dynamic linker takes a library whose name it knows already for the one that it has.
    """
    source = folder / "mine.c"
    name = f"mine{next(NUMBERS)}"
    text = text or LIBRARY.replace("HANDLER", handler).replace("FINISH_EXIT", finish_exit)
    source.write_text(text.replace("mine_", f"{name}_"))
    built = folder / f"lib{name}.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", *options, "-o", str(built), str(source)], check=True
    )
    return built


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where kickbench's own libraries go."""
    (tmp_path / "built").mkdir()
    return tmp_path / "built"


RACE = Plan(
    loop="kick", kicking="aimed", userspace_ns=3000, window_ns=50_000, lost_after_ns=5_000_000
)


def race(path: Path, folder: Path, flag: int, program: str = "spin") -> dict[int, int]:
    """Kicks with each flag, of kicks into a window of 50 us, when ten have the one asked for."""
    _, kicks = blocks(path, folder, RACE, program, seen=lambda kicks: count(kicks, flag) >= 10)
    return {each: count(kicks, each) for each in (LANDED, LOST)}


def count(kicks: Any, flag: int) -> int:
    """The kicks with this flag."""
    return int((kicks["flags"] & flag != 0).sum())


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("program", "finish_exit"), [("spin", ""), ("pm_timer", ""), ("pm_timer", FINISH_EXIT)]
)
def test_a_right_protocol_loses_no_kick(
    program: str, finish_exit: str, tmp_path: Path, folder: Path
) -> None:
    found = race(library(tmp_path, finish_exit=finish_exit), folder, LANDED, program)
    assert found[LANDED] >= 10
    assert found[LOST] == 0


@pytest.mark.kvm
def test_it_may_have_a_name_of_its_own(tmp_path: Path, folder: Path) -> None:
    path = library(tmp_path, options=["-Wl,-soname,libother.so.1"])
    assert race(path, folder, LANDED)[LANDED] >= 10


@pytest.mark.kvm
def test_a_wrong_one_loses_kicks(tmp_path: Path, folder: Path) -> None:
    found = race(library(tmp_path, handler="(void)v"), folder, LOST)
    assert 2 * found[LOST] > found[LANDED]


@pytest.mark.kvm
def test_the_example_in_rust_loses_no_kick(tmp_path: Path, folder: Path) -> None:
    if not shutil.which("rustc"):
        if os.environ.get("CI"):
            pytest.fail("rustc is missing")
        pytest.skip("rustc is not installed")
    text = (RUST / "immediate_exit_rust.rs").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("//!     rustc")]
    command = line.removeprefix("//!").split()
    source = RUST / command.pop()
    subprocess.run([*command, "-D", "warnings", str(source)], cwd=tmp_path, check=True)
    found = race(tmp_path / "libimmediate_exit_rust.so", folder, LANDED)
    assert found[LANDED] >= 10
    assert found[LOST] == 0


def test_it_is_called_by_its_name_without_lib(tmp_path: Path, folder: Path) -> None:
    path = library(tmp_path)
    scenario = tmp_path / "mine.toml"
    text = (RUST / "rust.toml").read_text()
    scenario.write_text(text.replace("libimmediate_exit_rust.so", path.name))
    method = load_scenario(scenario).measure.methods[1]
    assert method == str(path)
    assert f"lib{method_label(method)}.so" == path.name
    built = build(Path(method), folder)
    assert {built.name, placebo_of(built).name, foreign_of(built).name} <= {
        path.name for path in folder.iterdir()
    }
    assert foreign_of(placebo_of(built)) == foreign_of(built)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_missing_hook_is_named(hook: str, tmp_path: Path, folder: Path) -> None:
    text = LIBRARY.replace("HANDLER", "").replace("FINISH_EXIT", "")
    path = library(tmp_path, text=text.replace(f"mine_{hook}(", f"other_{hook}("))
    with pytest.raises(UsageError, match=rf"^{path.name} does not export mine\d+_{hook};"):
        build(path, folder)


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x00\xff" * 50])
def test_rubbish_is_no_protocol(content: bytes, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "libmine.so"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="does not export"):
        build(path, folder)


def test_the_header_is_c_without_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "includes.c"
    source.write_text("#include <kickbench/foreign.h>\n")
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run(["cc", *flags, f"-I{include_folder()}", str(source)], check=True)
