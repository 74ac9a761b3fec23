# SPDX-License-Identifier: Apache-2.0
"""The guest program whose exits are an error of KVM_RUN: on KVM in the lab, and as planned.

No distribution's kernel has VMs with private memory, so the lab runs this file, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import guest_program
import pytest
from guest_program import all_pass_in_the_lab
from test_run_plan import CAPABLE, case, planned
from tiny import tiny

from kickbench.engine.engine import Engine, Plan
from kickbench.errors import ScenarioError
from kickbench.guest.loader import Guest
from kickbench.host.capabilities import probe
from kickbench.kvm import KvmError, abi
from kickbench.lab import build as builder
from kickbench.run import runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.files import load

MS = 1_000_000
IN_LAB = "KICKBENCH_TEST_MEMORY_FAULT"
"""Set in the lab: its kernel has what these tests need."""


def need_private_memory() -> None:
    if IN_LAB not in os.environ and not probe().private_memory:
        pytest.skip("this KVM has no VMs with private memory")


@contextmanager
def running() -> Iterator[tuple[Guest, Engine]]:
    need_private_memory()
    with guest_program.running("memory_fault") as both:
        yield both


@pytest.mark.kvm
def test_kvm_run_fails_at_the_private_page_for_each_exit() -> None:
    with running() as (guest, _):
        vcpu = guest.vcpus[0]
        for _ in range(3):
            with pytest.raises(KvmError) as failed:
                vcpu.run_once()
            assert failed.value.errno == errno.EFAULT
            assert vcpu.run.exit_reason == abi.KVM_EXIT_MEMORY_FAULT


@pytest.mark.kvm
@pytest.mark.parametrize("method", ["immediate_exit", "sigmask", "flag_signal"])
def test_each_is_an_exit_that_is_timed(method: str) -> None:
    with running() as (_, engine):
        results = engine.blocks([(method, 0)], warmup_ns=MS, block_ns=100 * MS)
    assert all(results["exits"])
    assert list(results["timed_exits"]) == list(results["exits"])
    assert not any(results["spurious_exits"])


@pytest.mark.kvm
def test_kicks_are_taken() -> None:
    plan = Plan(loop="kick", kicking="volleys", gap_ns=5 * MS, userspace_ns=MS)
    with running() as (_, engine):
        results = engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=100 * MS, plan=plan)
    assert all(results["exits"])
    assert all(results["kicked"])


@pytest.mark.kvm
def test_a_run_measures_it_and_its_kicks(tmp_path: Path) -> None:
    need_private_memory()
    path = tmp_path / "memory_fault.toml"
    path.write_text(tiny(program="memory_fault", kinds=["exits", "kick"]))
    outcome = runner.run(load(path), tmp_path / "results", PlainProgress())
    assert not outcome.failed


@pytest.mark.lab("amd-numa", "private-memory")
def test_the_lab_has_private_memory() -> None:
    kernel = str(builder.built(config="private-memory"))
    all_pass_in_the_lab(__file__, IN_LAB, "--kernel", kernel)


# --- as planned -----------------------------------------------------------------------------------


def test_without_the_type_or_on_arm64_it_is_skipped_with_the_reason() -> None:
    able = replace(CAPABLE, private_memory=True)
    for kind in ("exits", "pause_all"):
        asked = case(kind=kind, program="memory_fault")
        assert planned(asked, able).skip is None
        assert "CONFIG_KVM_SW_PROTECTED_VM" in str(planned(asked, CAPABLE).skip)
        arm64 = planned(asked, replace(able, machine="aarch64"))
        assert arm64.skip == "arm64 has no memory_fault"


def test_it_cannot_pace_itself(tmp_path: Path) -> None:
    path = tmp_path / "paced.toml"
    text = tiny(program="memory_fault")
    path.write_text(text.replace("[measure]", "exit_rate_hz = 1000\n[measure]"))
    with pytest.raises(ScenarioError, match="the program memory_fault cannot be paced"):
        load(path)
