# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind lifecycle: how many VMs, in which order, and on real KVM."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from arrays import as_array

from kickbench.engine.engine import Clock
from kickbench.engine.lifecycle import FATES, Life
from kickbench.host.capabilities import Capabilities, probe
from kickbench.host.topology import Topology
from kickbench.results.reader import RunReader
from kickbench.run import runner, schedule
from kickbench.run.kinds import ENOUGH_LOST, kicking_threads
from kickbench.run.lifecycle import MAX_DELAY_NS, MIN_DELAY_NS, LifecycleBench
from kickbench.run.plan import plan
from kickbench.run.progress import PlainProgress
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import MOMENTS
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand
from kickbench.summary.data import RunData


def scenario(folder: Path | None = None, vms: int = 4, **tables: Any) -> Scenario:
    measure = {"kinds": ["lifecycle"], "processes": 1, "max_seconds": 60}
    measure |= tables.pop("measure", {})
    return Scenario.from_dict(
        {
            "name": "l",
            "vm": {"vcpus": [2, 4]},
            "guest": {"program": "pm_timer"},
            "measure": measure,
            "lifecycle": {"vms": vms, **tables},
        },
        folder=folder,
    )


class FakeVmm:
    """A VMM whose kicks have the fates that it is given, in turn."""

    clock = Clock("tsc", 1e9, 20)

    def __init__(self, *fates: str) -> None:
        self._fates, self.kicks = fates, list[tuple[str, str, int]]()

    def live(self, protocol: str, moment: str, delay_ns: int) -> Life:
        fate = self._fates[len(self.kicks) % len(self._fates)]
        self.kicks.append((protocol, moment, delay_ns))
        return Life(FATES.index(fate), True, 7, 3, 0)


def bench_of(vmm: Any, case: Case) -> LifecycleBench:
    return LifecycleBench(case, vmm, schedule.entries(case), Random(1))


def test_a_case_is_a_moment_a_placement_and_a_transport() -> None:
    cases = expand(scenario(measure={"transports": ["tgkill", "pidfd"]}))
    assert [case.id for case in cases[:2]] == [
        "lifecycle-no_handler-tgkill-any",
        "lifecycle-no_handler-pidfd-any",
    ]
    assert len(cases) == 2 * len(MOMENTS)
    assert {(case.program, case.vcpus, case.vms) for case in cases} == {("spin", 1, 4)}
    assert {kicking_threads(case) for case in cases} == {1}


def test_each_entry_has_a_vm_in_each_of_its_turns() -> None:
    case = expand(scenario(moments="entry"))[0]
    bench = bench_of(vmm := FakeVmm("answered", "lost"), case)
    alive: list[int] = []
    bench.round(0, [1, 0, 0, 1], lambda: alive.append(1))
    assert [protocol for protocol, _, _ in vmm.kicks] == [
        "immediate_exit",
        "sigmask",
        "sigmask",
        "immediate_exit",
    ]
    assert {moment for _, moment, _ in vmm.kicks} == {"entry"}
    assert all(MIN_DELAY_NS <= delay <= MAX_DELAY_NS for _, _, delay in vmm.kicks)
    assert len(alive) == 4
    rows = as_array(*bench.recorder.arrays()["lives"].parts)
    assert rows["entry"].tolist() == [1, 0, 0, 1]
    assert rows["position"].tolist() == [0, 1, 2, 3]
    assert rows["fate"].tolist() == [0, 2, 0, 2]
    assert set(rows["latency_cycles"]) == {7}
    assert set(rows["waited_cycles"]) == {3}
    assert bench.recorder.counts(0) == {"sent": 2, "lost": 1}


def test_delays_are_of_every_scale() -> None:
    bench = bench_of(vmm := FakeVmm("answered"), expand(scenario())[0])
    bench.round(0, [0] * 300, lambda: None)
    for low in (10, 100, 1000, 10_000, 100_000):
        assert any(low <= delay < 10 * low for _, _, delay in vmm.kicks)


def test_an_entry_is_settled_when_it_had_its_vms_or_lost_enough() -> None:
    case = replace(expand(scenario(vms=10))[0], processes=3)  # 4 VMs in each process
    bench = bench_of(FakeVmm("answered"), case)
    bench.round(0, [0, 0, 0, 1], lambda: None)
    assert not bench.recorder.is_settled(0)
    bench.round(1, [0], lambda: None)
    assert bench.recorder.is_settled(0)
    assert not bench.recorder.is_settled(1)
    bench = bench_of(FakeVmm("lost"), replace(case, vms=10**6))
    bench.round(0, [0] * ENOUGH_LOST, lambda: None)
    assert bench.recorder.is_settled(0)


def test_stale_is_skipped_where_no_id_can_be_given_away() -> None:
    cases = expand(scenario(moments=["stale", "entry"]))
    able = Capabilities(path="/dev/kvm", usable=True, immediate_exit=True, irqchip=True)
    stale, entry = plan(cases, Topology.read(), able)
    assert stale.skip is not None
    assert "kernel.ns_last_pid): it needs root" in stale.skip
    assert entry.skip is None
    stale, _ = plan(cases, Topology.read(), replace(able, last_id_settable=True))
    assert stale.skip is None


# --- a run --------------------------------------------------------------------------------------

FORGETS = """
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v) { kb_forget_kicks(v); return 0; }
static void kb_leave(struct kb_vcpu *v) { kb_forget_kicks(v); }
static inline bool kb_before_run(struct kb_vcpu *v) { return kb_kick_requested(v); }
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && kb_kick_requested(v);
}
static void kb_handler(struct kb_vcpu *v) { (void)v; }
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}
#define KB_PROTOCOL forgets
#include <kickbench/loop.h>
"""


@pytest.mark.kvm
def test_a_run_tells_a_protocol_that_forgets_from_one_that_keeps(tmp_path: Path) -> None:
    (tmp_path / "forgets.c").write_text(FORGETS)
    methods = ["immediate_exit", "sigmask", "./forgets.c"]
    moments = ["no_handler", "thread_start", "first_run"]
    wanted = scenario(tmp_path, vms=4, moments=moments, measure={"methods": methods})
    outcome = runner.run(wanted, tmp_path / "results", PlainProgress())
    assert (outcome.finished, outcome.failed) == (3, {})
    data = RunData.load(outcome.folder)
    killed, start, first = data.summary["cases"]
    assert [m["killed"] for m in killed["methods"].values()] == [4, 4, 4]
    assert [m["lost"] for m in start["methods"].values()] == [0, 0, 4]
    assert [m["met"] for m in start["methods"].values()] == [4, 4, 4]
    for figures in first["methods"].values():
        assert figures["answered"] + figures["late"] == 4
    table = RunReader(outcome.folder).table(start["id"], "lives")
    assert table.num_rows == 12
    assert data.reader.case(start["id"]).document["processes"][0]["lost_timeout_ns"] == 50_000_000


@pytest.mark.kvm
def test_the_host_says_whether_it_can_give_an_id_away() -> None:
    settable = os.access("/proc/sys/kernel/ns_last_pid", os.W_OK)
    assert probe().last_id_settable == settable
