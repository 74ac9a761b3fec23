# SPDX-License-Identifier: Apache-2.0
"""The guest program whose hypercalls leave to user space: on KVM, in the lab, and as planned.

Not every KVM gets a guest past the instruction, so the lab runs this file, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import guest_program
import pytest
from blocks_until import until
from guest_program import PACED, all_pass_in_the_lab
from test_run_plan import CAPABLE, case, planned
from tiny import tiny

from kickbench.engine.engine import Engine, Plan
from kickbench.guest.loader import Guest
from kickbench.host.capabilities import probe
from kickbench.kvm import Kvm, KvmError, Vm, abi
from kickbench.run import runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.files import load

MS = 1_000_000
IN_LAB = "KICKBENCH_TEST_HYPERCALL"
"""Set in the lab: the guest must get past a hypercall there."""


@contextmanager
def running(**pacing: Any) -> Iterator[tuple[Guest, Engine]]:
    if not probe().hypercall_exits:
        pytest.skip("this KVM hands no hypercalls to user space")
    with guest_program.running("hypercall", **pacing) as both:
        yield both


def made(guest: Guest) -> int:
    """The hypercalls of the guest that are complete, as KVM counts them."""
    return guest.vcpus[0].stats()["hypercalls"]


def skip_unless_made(guest: Guest) -> None:
    if IN_LAB not in os.environ and not made(guest):
        pytest.skip("this KVM does not get past a VMCALL")


@pytest.mark.kvm
@pytest.mark.parametrize("pacing", [{}, PACED], ids=["max", "paced"])
@pytest.mark.parametrize("method", ["immediate_exit", "sigmask", "flag_signal"])
def test_every_hypercall_leaves_to_user_space_once(method: str, pacing: dict[str, Any]) -> None:
    with running(**pacing) as (guest, engine):
        engine.blocks([(method, 0)], warmup_ns=MS, block_ns=100 * MS)
        skip_unless_made(guest)
        before = made(guest)
        left = until(engine, lambda left: left.results["exits"].all(), [(method, 0)] * 2, ms=50)
        complete = made(guest) - before
    # KVM has those of the warm-up too. One of each block may be pending.
    assert complete >= left.results["exits"].sum() - left.calls * 2 > 0
    assert not left.results["spurious_exits"].any()
    assert left.results["timed_exits"].all()


@pytest.mark.kvm
def test_a_kick_is_taken_when_the_hypercall_is_complete() -> None:
    """KVM moves the guest on at the next KVM_RUN: a VMM must not save the vCPU before that."""
    plan = Plan(loop="kick", kicking="volleys", gap_ns=5 * MS, userspace_ns=MS)
    exits = 0
    with running() as (guest, engine):
        for _ in range(10):
            results = engine.blocks(
                [("immediate_exit", 0)], warmup_ns=MS, block_ns=50 * MS, plan=plan
            )
            skip_unless_made(guest)
            exits += sum(results["exits"])
            assert made(guest) == exits
    assert exits


@pytest.mark.lab
def test_the_lab_has_hypercalls() -> None:
    all_pass_in_the_lab(__file__, IN_LAB)


@pytest.mark.kvm
def test_a_run_measures_it_or_says_that_this_kvm_cannot(tmp_path: Path) -> None:
    path = tmp_path / "hypercall.toml"
    measured = {"kinds": ["exits", "pause_all"], "methods": ["immediate_exit"]}
    path.write_text(tiny(program="hypercall", **measured))
    outcome = runner.run(load(path), tmp_path / "results", PlainProgress())
    if IN_LAB in os.environ:
        assert not outcome.failed
    for reason in outcome.failed.values():
        assert "the guest does not get past its first hypercall" in reason
        assert "leave the program hypercall out" in reason


def test_without_the_capability_or_on_arm64_it_is_skipped_with_the_reason() -> None:
    able = replace(CAPABLE, hypercall_exits=True)
    for kind in ("exits", "pause_all"):
        asked = case(kind=kind, program="hypercall")
        assert planned(asked, able).skip is None
        assert "hands no hypercalls to user space" in str(planned(asked, CAPABLE).skip)
        arm64 = planned(asked, replace(able, machine="aarch64"))
        assert arm64.skip == "arm64 has no hypercall"


@pytest.mark.kvm
def test_a_kernel_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_vm: Vm, cap: int, *args: int) -> None:
        if cap == abi.KVM_CAP_EXIT_HYPERCALL:
            assert args == (1 << 12,)
            raise KvmError(errno.EINVAL, "KVM_ENABLE_CAP")

    monkeypatch.setattr(Vm, "enable_cap", refuse)
    with Kvm() as kvm, pytest.raises(KvmError, match="KVM_ENABLE_CAP failed"):
        Guest(kvm, "hypercall", 1, irqchip="none")
