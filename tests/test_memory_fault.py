# SPDX-License-Identifier: Apache-2.0
"""The guest program whose exits are an error of KVM_RUN: on KVM in the lab, and as planned.

No distribution's kernel has VMs with private memory, so the lab runs this file, too.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from command import KICKBENCH
from own_protocol import CPUS
from test_run_plan import CAPABLE, case, planned

from kickbench.engine.engine import Clock, Engine, Kickers, Plan
from kickbench.guest.loader import PAGE, PRIVATE, Guest
from kickbench.host.capabilities import probe
from kickbench.kvm import Kvm, KvmError, abi
from kickbench.lab import build as builder
from kickbench.run import runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.files import load

MS = 1_000_000
IN_LAB = "KICKBENCH_TEST_MEMORY_FAULT"
"""Set in the lab: its kernel has what these tests need."""


@contextmanager
def running() -> Iterator[tuple[Guest, Engine]]:
    if IN_LAB not in os.environ and not probe().private_memory:
        pytest.skip("this KVM has no VMs with private memory")
    clock = Clock.choose(counter_usable=True)
    with (
        Kvm() as kvm,
        Guest(kvm, "memory_fault", 1) as guest,
        Engine(
            guest,
            "memory_fault",
            clock,
            [[CPUS[0]]],
            n_entries=1,
            samples_capacity=1 << 16,
            kickers=Kickers(1, [CPUS[-1]]),
        ) as engine,
    ):
        yield guest, engine


@pytest.mark.kvm
def test_kvm_run_fails_at_the_private_page_for_each_exit() -> None:
    with running() as (guest, _):
        vcpu = guest.vcpus[0]
        for _ in range(3):
            with pytest.raises(KvmError) as failed:
                vcpu.run_once()
            assert failed.value.errno == errno.EFAULT
            assert vcpu.run.exit_reason == abi.KVM_EXIT_MEMORY_FAULT
        # The guest reads its page in vain until the page is no longer private.
        guest.vm.make_private(PRIVATE + PAGE, PAGE)
        with pytest.raises(KvmError):
            vcpu.run_once()


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


SCENARIO = """
name = "memory_fault"
[vm]
vcpus = [1]
[guest]
program = "memory_fault"
[measure]
kinds = ["exits", "kick"]
methods = ["immediate_exit", "sigmask"]
processes = 1
max_seconds = 1
"""


@pytest.mark.kvm
def test_a_run_measures_it_and_its_kicks(tmp_path: Path) -> None:
    if not probe().private_memory:
        pytest.skip("this KVM has no VMs with private memory")
    path = tmp_path / "memory_fault.toml"
    path.write_text(SCENARIO)
    outcome = runner.run(load(path), tmp_path / "results", PlainProgress())
    assert not outcome.failed


@pytest.mark.lab("amd-numa", "private-memory")
def test_the_lab_has_private_memory() -> None:
    # -P: the installed package, and not the folder that this is started in.
    pytest_there = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    tests = [*pytest_there, "-m", "kvm", __file__]
    kernel = str(builder.built(config="private-memory"))
    machine = ["--machine", "amd-numa", "--kernel", kernel]
    done = subprocess.run(
        [*KICKBENCH, "lab", "shell", *machine, "--", "env", f"{IN_LAB}=1", *tests],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


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
    path.write_text(SCENARIO.replace('fault"\n[measure]', 'fault"\nexit_rate_hz = 1000\n[measure]'))
    with pytest.raises(Exception, match="memory_fault"):
        load(path)
