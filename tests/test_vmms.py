# SPDX-License-Identifier: Apache-2.0
"""The gallery of VMM loops: each compiles, and loses kicks on real KVM or not, as its file says."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest
from own_protocol import RACE, blocks, counts, some_landed, some_lost

from kickbench.engine.protocols import build, load
from kickbench.scenario.files import load as load_scenario
from kickbench.scenario.sweep import expand

ROOT = Path(__file__).resolve().parents[1]
VMMS = ROOT / "examples" / "vmms"
LOSES = {"cloud_hypervisor_7455", "kvmtool_task"}
RESENDS = {"cloud_hypervisor_50", "hyperlight"}
LOSES_NONE = {
    *("crosvm", "firecracker_1_13", "firecracker_1_14", "gvisor"),
    *("qemu_2_8", "qemu_10_1", "qemu_10_2", "selftest_sigwait"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where libraries go."""
    (tmp_path / "built").mkdir()
    return tmp_path / "built"


def names() -> set[str]:
    return {path.stem for path in VMMS.glob("*.c")}


def test_every_loop_of_the_gallery_has_a_verdict() -> None:
    assert names() == LOSES | RESENDS | LOSES_NONE


def test_the_scenario_measures_every_loop_of_the_gallery() -> None:
    scenario = load_scenario(VMMS / "vmms.toml")
    measured = {Path(method) for method in scenario.measure.methods}
    assert {path.stem for path in measured if path.parent == VMMS} == names()
    assert {case.kind for case in expand(scenario)} == {"exits", "kick", "race"}


def test_the_documents_list_every_loop_of_the_gallery() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(\.\./examples/vmms/(\w+)\.c\)", text)) == names()


@pytest.mark.parametrize("name", sorted(names()))
def test_a_loop_compiles_without_a_warning_and_loads(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "cc -Wextra -Werror")
    loaded = load(build(VMMS / f"{name}.c", folder), name)
    ctypes.c_char.in_dll(loaded, f"kb_protocol_{name}")


@pytest.mark.kvm
@pytest.mark.parametrize("name", sorted(LOSES_NONE))
def test_a_race_free_loop_loses_none(name: str, folder: Path) -> None:
    result, kicks = blocks(VMMS / f"{name}.c", folder, RACE, ms=300, seen=some_landed)
    sent, lost, landed = counts(kicks)
    assert landed > 0
    assert (lost, int(kicks["rescues"].sum())) == (0, 0)
    assert result["spurious_exits"].sum() < sent


@pytest.mark.kvm
@pytest.mark.parametrize("name", sorted(LOSES))
def test_a_loop_with_the_race_loses_kicks(name: str, folder: Path) -> None:
    _, kicks = blocks(VMMS / f"{name}.c", folder, RACE, ms=300, seen=some_lost)
    assert some_lost(kicks)


@pytest.mark.kvm
@pytest.mark.parametrize("name", sorted(RESENDS))
def test_a_loop_that_sends_again_loses_none_and_shows_it(name: str, folder: Path) -> None:
    def resent(kicks: Any) -> int:
        return int((kicks["signals"] > 1).sum())

    def enough(kicks: Any) -> bool:
        return resent(kicks) >= 10 or some_lost(kicks)

    _, kicks = blocks(VMMS / f"{name}.c", folder, RACE, ms=300, seen=enough)
    assert counts(kicks)[1] == 0
    assert resent(kicks) >= 10
