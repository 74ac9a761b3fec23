# SPDX-License-Identifier: Apache-2.0
"""Exactly once: the guest and the host count the same accesses, on real KVM.

Two protocols with a fault on purpose do an access twice, or keep one from the host.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blocks_until import until
from own_protocol import CPUS, playing
from test_engine import MIX

from kickbench.engine.engine import Clock, Engine, Kickers, Plan
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm

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
    if kind == "twice" and os.uname().machine != "x86_64":
        pytest.skip("the fault writes registers of x86")
    loop = "#include <kickbench/loop.h>"
    text = (METHODS / "immediate_exit.c").read_text().replace(loop, FAULTS[kind] + loop)
    path = tmp_path / "faulty.c"
    path.write_text(text.replace("KB_PROTOCOL immediate_exit", "KB_PROTOCOL faulty"))

    with playing(path, tmp_path, program) as engine:
        left = until(
            engine, lambda left: left.results[kind].any(), [("faulty", 0)], ms=20, plan=PLANS[plan]
        )
        faults = ctypes.c_uint.in_dll(ctypes.CDLL(str(tmp_path / "faulty.so")), "faults").value
    other = {"twice": "never", "never": "twice"}[kind]
    assert faults > 0
    # One may be in doubt still, after a block that did not end with an access.
    assert faults - 1 <= left.results[kind].sum() <= faults
    assert not left.results[other].any()
