# SPDX-License-Identifier: Apache-2.0
"""Exactly once: the guest and the host count the same accesses, on real KVM.

Two protocols with a fault on purpose do an access twice, or keep one from the host.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blocks_until import until
from own_protocol import CPUS, playing
from test_engine import MIX
from test_run_kicks import run, scenario

from kickbench.engine.engine import Clock, Engine, Kickers, Plan
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.report.words.verdict import verdict
from kickbench.results.reader import RunReader
from kickbench.summary.found import load_summary

pytestmark = pytest.mark.kvm

METHODS = Path(__file__).resolve().parents[1] / "kickbench" / "methods"
PLANS = {
    "exits": Plan(),
    "exits-with-kicks": Plan(kicking="volleys", gap_ns=100_000),
    "kick": Plan(loop="kick", kicking="volleys", gap_ns=100_000),
    "pause_all": Plan(loop="kick", kicking="pauses", gap_ns=100_000),
    "race": Plan(loop="kick", kicking="aimed", userspace_ns=3000, window_ns=5000),
}

# The vCPU is set back to before an access that is complete, behind the MOV of 5 bytes with which
# the programs begin: a VMM that restores registers which it had saved too early.
TWICE = """
KB_EXPORT atomic_uint faults;
static int faulty_finish_exit(struct kb_vcpu *v)
{
	struct kvm_regs regs;
	int error = kb_finish_exit(v);

	if (error)
		return error;
	if (ioctl(v->fd, KVM_GET_REGS, &regs))
		return -errno;
	regs.rip = 0x1000 + 5;
	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		return -errno;
	atomic_fetch_add(&faults, 1);
	return 0;
}
#define kb_finish_exit faulty_finish_exit
"""
# The guest runs on, and nobody looks at its next access: a VMM that completes an exit without
# immediate_exit.
NEVER = """
KB_EXPORT atomic_uint faults;
static int faulty_finish_exit(struct kb_vcpu *v)
{
	(void)kb_finish_exit;
	while (ioctl(v->fd, KVM_RUN, 0)) {
		if (errno != EINTR)
			return -errno;
		kb_set_immediate_exit(v, 0);
	}
	atomic_fetch_add(&faults, 1);
	return 0;
}
#define kb_finish_exit faulty_finish_exit
"""
FAULTS = {"twice": TWICE, "never": NEVER}


def faulty(folder: Path, kind: str) -> Path:
    """immediate_exit with a fault."""
    if kind == "twice" and os.uname().machine != "x86_64":
        pytest.skip("the fault writes registers of x86")
    loop = "#include <kickbench/loop.h>"
    text = (METHODS / "immediate_exit.c").read_text().replace(loop, FAULTS[kind] + loop)
    path = folder / "faulty.c"
    path.write_text(text.replace("KB_PROTOCOL immediate_exit", "KB_PROTOCOL faulty"))
    return path


@contextmanager
def running(program: str, *, paced: bool) -> Iterator[Engine]:
    pacing: dict[str, Any] = {"mix": MIX} if program == "mix" else {}
    clock = Clock.choose(counter_usable=True)
    if paced:
        gap = int(clock.hz / 20_000)
        pacing |= {"gaps_cycles": [gap], "first_gaps": [0, 0], "ring_entries": 1024}
    with (
        Kvm() as kvm,
        Guest(kvm, program, 2, **pacing) as guest,
        Engine(
            guest,
            program,
            clock,
            [[CPUS[0]], [CPUS[-1]]],
            n_entries=1,
            samples_capacity=1 << 16,
            kickers=Kickers(2, [CPUS[0]], pauses_capacity=1000),
        ) as engine,
    ):
        yield engine


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("paced", [False, True], ids=["full-speed", "paced"])
@pytest.mark.parametrize("program", ["pm_timer", "pio_out", "mmio", "mmio_write", "mix"])
def test_the_guest_and_the_host_count_the_same(program: str, paced: bool, plan: Plan) -> None:
    schedule = [("immediate_exit", 0), ("sigmask", 0), ("flag_signal", 0)] * 3
    with running(program, paced=paced) as engine:
        left = until(engine, lambda left: left.results["exits"].any(), schedule, ms=3, plan=plan)
    counted = paced or program != "mix"  # at full speed its table has no room for a count
    assert (left.results["accesses"] >= counted * left.results["exits"]).all()
    assert left.results["accesses"].any() == counted
    assert not left.results["twice"].any()
    assert not left.results["never"].any()


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("plan", ["kick", "pause_all"])
@pytest.mark.parametrize("program", ["pm_timer", "pio_out", "mmio_write"])
def test_an_access_that_is_done_twice_or_never_is_counted(
    tmp_path: Path, program: str, plan: str, kind: str
) -> None:
    path = faulty(tmp_path, kind)
    with playing(path, tmp_path, program) as engine:
        left = until(
            engine, lambda left: left.results[kind].any(), [("faulty", 0)], ms=20, plan=PLANS[plan]
        )
        faults = ctypes.c_uint.in_dll(ctypes.CDLL(str(tmp_path / "faulty.so")), "faults").value
    other = {"twice": "never", "never": "twice"}[kind]
    assert faults > 0
    assert left.results[kind].sum() == faults
    assert not left.results[other].any()


def measured(folder: Path, methods: str) -> dict[str, Any]:
    return run(folder, scenario('["pause_all"]', methods, max_seconds=3))


@pytest.mark.parametrize("kind", FAULTS)
def test_a_run_in_which_an_access_was_not_done_once_says_so_first(
    tmp_path: Path, kind: str
) -> None:
    summary = measured(tmp_path, f'["immediate_exit", "{faulty(tmp_path, kind)}"]')
    (case,) = summary["cases"]
    found = {name: method["accesses"] for name, method in case["methods"].items()}
    assert found["faulty"][kind] > 0
    assert found["immediate_exit"]["accesses"] > 0
    assert found["immediate_exit"]["twice"] == found["immediate_exit"]["never"] == 0
    words = {"twice": "done twice", "never": "never done"}[kind]
    (alarm,) = [one for one in verdict(summary).alarms if "An access was done twice" in one]
    assert re.search(rf"faulty has [\d,]+ {words} of [\d,]+ accesses of the guest", alarm)
    assert not any("Each of" in said for said in verdict(summary).more)


def test_a_run_in_which_each_access_was_done_once_says_that(tmp_path: Path) -> None:
    summary = measured(tmp_path, '["immediate_exit", "sigmask"]')
    (case,) = summary["cases"]
    total = sum(method["accesses"]["accesses"] for method in case["methods"].values())
    said = f"Each of {total:,} accesses was done once: the guests and the host count the same."
    assert said in verdict(summary).more
    # The figures are still known without the tables.
    for table in summary["folder"].glob("cases/*/*.parquet"):
        table.unlink()
    stripped = RunReader(summary["folder"], stripped=True)
    assert load_summary(stripped)[case["id"]]["methods"] == case["methods"]
