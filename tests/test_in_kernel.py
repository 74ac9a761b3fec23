# SPDX-License-Identifier: Apache-2.0
"""Guest programs whose exits stay in the kernel: on real KVM, and how they are planned."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from blocks_until import until
from guest_program import PACED, running
from test_run_kicks import SPLIT, run
from test_run_plan import CAPABLE, case, planned

from kickbench.engine.engine import Plan
from kickbench.guest.programs import PROGRAMS, stays_in_kernel
from kickbench.kvm import Vcpu
from kickbench.report.words.exits import answer_exits
from kickbench.run import runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.files import load

IN_KERNEL = [name for name in PROGRAMS if stays_in_kernel(name)]
# Not every CPU and KVM leaves the guest for a split lock, or gets past a hypercall.
SURE = [name for name in IN_KERNEL if name not in ("split_lock", "vmcall")]


def exits_of_kvm(vcpu: Vcpu) -> int:
    """KVM's own counts of what it did for the vCPU: exits, and instructions that it emulated."""
    stats = vcpu.stats()
    return stats["exits"] + stats.get("insn_emulation", 0)


@pytest.mark.kvm
@pytest.mark.parametrize("plan", [Plan(), Plan(kicking="volleys", gap_ns=500_000)], ids=str)
@pytest.mark.parametrize("program", SURE)
def test_the_guest_times_its_exits_and_kvm_counts_as_many(program: str, plan: Plan) -> None:
    with running(program, **PACED) as (guest, engine):
        before = exits_of_kvm(guest.vcpus[0])
        left = until(
            engine,
            lambda left: left.results["exits"].all(),
            [("immediate_exit", 0)],
            ms=20,
            plan=plan,
        )
        in_kvm = exits_of_kvm(guest.vcpus[0]) - before
        made = guest.params(0).head
    results = left.results
    assert 0 < results["timed_exits"].sum() <= results["exits"].sum() <= made
    assert in_kvm >= made
    assert (results["elapsed_cycles"] >= results["timed_cycles"]).all()
    assert not results["accesses"].any()  # nothing came to user space


@pytest.mark.kvm
def test_every_write_to_the_ioeventfd_is_counted_there() -> None:
    with running("ioeventfd", **PACED) as (guest, engine):
        until(engine, lambda left: left.results["exits"].any(), [("sigmask", 0)], ms=20)
        counted = int.from_bytes(os.read(guest.eventfd, 8), "little")
        made = guest.params(0).head
    assert made <= counted <= made + 1  # the last one may not be behind the guest yet


@pytest.mark.kvm
def test_a_split_lock_adds_to_two_cache_lines() -> None:
    with running("split_lock", **PACED) as (guest, engine):
        until(engine, lambda left: left.results["exits"].any(), [("immediate_exit", 0)], ms=20)
        at = guest.params_address(0) + 0x7E
        made = guest.params(0).head
        added = int.from_bytes(ctypes.string_at(at, 4), "little")
    assert at // 64 != (at + 3) // 64
    assert made <= added <= made + 1


SCENARIO = f"""
name = "kernel"
[vm]
vcpus = [1]
[guest]
program = PROGRAM
kick_rate_hz = [0, 100]
{SPLIT}
[measure]
kinds = ["exits"]
methods = ["immediate_exit"]
processes = 1
max_seconds = 1
"""


@pytest.mark.kvm
def test_a_run_says_that_the_guest_timed_and_how_much_it_did_under_kicks(tmp_path: Path) -> None:
    summary = run(tmp_path, SCENARIO.replace("PROGRAM", '"split_lock"'))
    quiet, kicked = summary["cases"]
    assert {case["timed_by"] for case in (quiet, kicked)} == {"guest"}
    rates = [case["methods"]["immediate_exit"]["exits_per_second"] for case in (quiet, kicked)]
    if not all(rates):
        pytest.skip("a guest did not run at all beside other load")
    said = " ".join(answer_exits(summary, ()))
    assert "The exits of split_lock stay in the kernel, and the guest times them itself" in said
    assert re.search(
        r"With immediate_exit and [\d,.]+ kicks/s the guest did [\d,.]+ times split_lock a "
        r"second, and [\d,.]+ without kicks",
        said,
    )


@pytest.mark.kvm
def test_a_program_that_this_kvm_cannot_run_is_measured_or_named(tmp_path: Path) -> None:
    path = tmp_path / "vmcall.toml"
    path.write_text(SCENARIO.replace("PROGRAM", '"vmcall"'))
    outcome = runner.run(load(path), tmp_path / "results", PlainProgress())
    for reason in outcome.failed.values():
        assert "the guest does not get past its first vmcall" in reason
        assert "leave the program vmcall out" in reason


@pytest.mark.parametrize("program", IN_KERNEL)
def test_other_kinds_and_arm64_skip_these_programs_with_the_reason(program: str) -> None:
    paused = planned(case(kind="pause_all", program=program))
    assert f"the exits of {program} stay in the kernel: only the kind exits" in paused.skip
    arm64 = planned(case(program=program), replace(CAPABLE, machine="aarch64"))
    assert arm64.skip == f"arm64 has no {program}"
    assert planned(case(program=program)).skip is None


@pytest.mark.kvm
@pytest.mark.parametrize("method", ["immediate_exit", "sigmask", "flag_signal"])
def test_a_bounce_is_in_and_out_without_a_guest(method: str) -> None:
    with running("bounce") as (guest, engine):
        before = guest.vcpus[0].stats()
        left = until(engine, lambda left: left.results["exits"].all(), [(method, 0)] * 2, ms=5)
        after = guest.vcpus[0].stats()
    results = left.results
    assert (results["timed_exits"] == results["exits"]).all()
    assert not results["spurious_exits"].any()
    # A guest that ran would have to be kicked out, and KVM would count that.
    assert after["exits"] - before["exits"] <= 2 * left.calls
    assert not results["accesses"].any()


def test_a_bounce_takes_no_kicks() -> None:
    for changes in ({"kick_rate_hz": 100.0}, {"kind": "pause_all"}):
        assert "takes no kicks" in planned(case(program="bounce", **changes)).skip
    assert planned(case(program="bounce")).skip is None
