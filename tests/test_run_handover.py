# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind handover: which pairs, in which order, and where it cannot be measured."""

from __future__ import annotations

import os
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import fake_host
import pytest
from arrays import as_array
from hypothesis import given
from hypothesis import strategies as st

from kickbench.engine.engine import Clock
from kickbench.errors import HostError
from kickbench.host.capabilities import Capabilities
from kickbench.host.topology import Topology
from kickbench.results.reader import RunReader
from kickbench.run import handover as run_handover
from kickbench.run import machine, runner, schedule
from kickbench.run.handover import (
    BOUTS,
    HANDOVERS,
    MAX_PAIRS,
    HandoverBench,
    Pair,
    alone,
    every_pair,
    sample,
)
from kickbench.run.kinds import kicking_threads
from kickbench.run.plan import Seats, plan
from kickbench.run.progress import PlainProgress
from kickbench.scenario.cases import Case
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand
from kickbench.summary.data import RunData

NO_KVM = Capabilities(path="/dev/kvm", reason="/dev/kvm is missing")
CPUS = sorted(os.sched_getaffinity(0))
two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


def scenario(where: str = "any", **measure: Any) -> Scenario:
    return Scenario.from_dict(
        {
            "name": "h",
            "vm": {"vcpus": 1},
            "guest": {"program": "spin"},
            "placement": [{"name": "some", "vcpus": where}],
            "measure": {"kinds": ["handover"], "processes": 2, "max_seconds": 0.5, **measure},
        }
    )


def case_of(text: Scenario) -> Case:
    return expand(text)[0]


def topology(cpus: int, nodes: int = 1, *, affinity: int | None = None) -> Topology:
    every = tuple(range(cpus))
    mine = every[: cpus if affinity is None else affinity]
    return Topology(
        online=every,
        nodes={
            node: every[node * cpus // nodes : (node + 1) * cpus // nodes] for node in range(nodes)
        },
        siblings={cpu: tuple(sorted((cpu, cpu ^ 1))) for cpu in every},
        isolated=(),
        affinity=mine,
        allowed=mine,
    )


# --- where it can be measured -------------------------------------------------------------------


def test_it_needs_no_kvm() -> None:
    (item,) = plan([case_of(scenario())], topology(2), NO_KVM)
    assert item.skip is None
    (other,) = plan(
        expand(Scenario.from_dict({"name": "x", "vm": {"vcpus": 1}, "guest": {"program": "spin"}})),
        topology(2),
        NO_KVM,
    )
    assert other.skip == "/dev/kvm is missing"


def test_one_cpu_is_refused_in_one_line() -> None:
    (item,) = plan([case_of(scenario())], topology(4, affinity=1), NO_KVM)
    assert item.skip == (
        "a hand-over needs two CPUs that run at once, and the placement some has only CPU 0"
    )
    (item,) = plan([case_of(scenario("node:7"))], topology(4), NO_KVM)
    assert item.skip == "this host has no node 7; it has node 0"


def test_a_way_of_another_version_is_refused() -> None:
    case = Case.from_dict({**case_of(scenario()).to_dict(), "methods": ["handover", "by_post"]})
    (item,) = plan([case], topology(2), NO_KVM)
    assert item.case.methods == ("handover",)
    assert item.notes[0].startswith("by_post is left out: this version of kickbench has no way by_")


@pytest.mark.parametrize("where", ["any", "node:0", "cpu:0-3"])
def test_all_cpus_of_the_placement_are_seats(where: str) -> None:
    case = case_of(scenario(where))
    assert Seats.of(case, topology(4)).vcpus == [[0, 1, 2, 3]] * 2
    assert kicking_threads(case) == 0


def test_a_host_without_kvm_runs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "probe", lambda: NO_KVM)
    exits = Scenario.from_dict({"name": "x", "vm": {"vcpus": 1}, "guest": {"program": "spin"}})
    with pytest.raises(HostError, match="/dev/kvm is missing"):
        runner.run(exits, tmp_path, PlainProgress())


# --- pairs --------------------------------------------------------------------------------------


def test_a_pair_has_what_sysfs_says_of_it(tmp_path: Path) -> None:
    root = fake_host.write(
        tmp_path,
        {
            "sys/devices/system/node/node0/distance": "10 32",
            "sys/devices/system/node/node2/distance": "32 10",
            **{f"sys/devices/system/cpu/cpu{cpu}/node{cpu // 2 * 2}/x": "" for cpu in range(4)},
        },
    )
    host = Topology(
        online=(0, 1, 2, 3),
        nodes={0: (0, 1), 2: (2, 3)},
        siblings={0: (0, 1), 1: (0, 1), 2: (2,), 3: (3,)},
        isolated=(),
        affinity=(0, 1, 2, 3),
        allowed=(0, 1, 2, 3),
    )
    pairs = {pair.cpus: pair for pair in every_pair(host.online, host, str(root))}
    assert pairs[0, 1] == Pair((0, 1), (0, 0), 10, True)
    assert pairs[1, 2] == Pair((1, 2), (0, 2), 32, False)
    assert pairs[2, 3] == Pair((2, 3), (2, 2), 10, False)
    assert pairs[1, 2].turned == Pair((2, 1), (2, 0), 32, False)
    assert alone([3], str(root)) == [Pair((3, 3), (2, 2), -1, False)]


def test_without_numa_nothing_is_known_of_nodes(tmp_path: Path) -> None:
    assert every_pair([0, 1], topology(2), str(tmp_path)) == [Pair((0, 1), (-1, -1), -1, True)]


@given(cpus=st.integers(2, 90), nodes=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_a_sample_is_fair_to_nodes_and_siblings(cpus: int, nodes: int, seed: int) -> None:
    every = [
        Pair((a, b), (a * nodes // cpus, b * nodes // cpus), 10, a // 2 == b // 2)
        for a, b in combinations(range(cpus), 2)
    ]
    most = 100
    found = sample(every, most, Random(seed))
    assert len(found) == min(most, len(every))
    assert len(set(found)) == len(found)
    assert set(found) <= set(every)
    assert [pair.cpus for pair in found] == sorted(pair.cpus for pair in found)

    def groups(pairs: list[Pair]) -> Counter[Any]:
        return Counter((pair.nodes, pair.siblings) for pair in pairs)

    there, got = groups(every), groups(found)
    most_of_a_group = max(got.values())
    assert all(got[group] >= min(there[group], most_of_a_group - 1) for group in there)


def test_64_cpus_are_measured_in_full() -> None:
    assert len(list(combinations(range(64), 2))) == MAX_PAIRS
    # The place of a block in its round fits the table's column.
    assert 2 * 2 * MAX_PAIRS + 2 * 64 < 2**15


# --- rounds -------------------------------------------------------------------------------------


def made_bench(monkeypatch: pytest.MonkeyPatch, cpus: int) -> tuple[HandoverBench, list[Any]]:
    """A bench on a host with so many CPUs, and the blocks that it asks for."""
    asked: list[Any] = []

    def handed(first: int, second: int, _: Clock, *, handovers: int, bouts: int) -> Any:
        asked.append((first, second))
        ns = 3 if first == second else 100 + first + second
        return [ns * handovers] * bouts

    monkeypatch.setattr(run_handover, "exchange", handed)
    monkeypatch.setattr(Topology, "read", lambda: topology(cpus))
    case = case_of(scenario())
    bench = HandoverBench(
        case, range(cpus), schedule.entries(case), Clock("tsc", 1e9, 20), Random(1)
    )
    return bench, asked


def test_each_pair_has_a_block_from_either_side_in_each_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, asked = made_bench(monkeypatch, 5)
    alive: list[int] = []
    turns = [1, 0, 2, 2, 0, 1]  # alone, handover, the control
    bench.round(0, turns, lambda: alive.append(1))
    rows = as_array(*bench.recorder.arrays()["handovers"].parts)
    assert len(alive) == len(asked) == len(rows) == 2 * (5 + 10 + 10)
    assert rows["position"].tolist() == list(range(len(rows)))
    for entry in (0, 2):
        mine = rows[rows["entry"] == entry]
        sides = Counter(zip(mine["first_cpu"].tolist(), mine["second_cpu"].tolist(), strict=True))
        assert sides == Counter({(a, b): 1 for a in range(5) for b in range(5) if a != b})
    assert (rows["first_cpu"] == rows["second_cpu"]).tolist() == (rows["entry"] == 1).tolist()
    assert set(rows["handovers"].tolist()) == {BOUTS * HANDOVERS}
    assert asked == [(b, a) for a, b in reversed(asked)]  # ABBA
    assert bench.recorder.round_cycles(0) == {"handover_ns": 104.0}  # of sums from 1 to 7
    assert bench.recorder.round_cycles(1) == {"handover_ns": 3.0}
    assert bench.facts == {}


def test_disturbed_bouts_do_not_reach_the_quiet_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = made_bench(monkeypatch, 2)
    bouts = [100 * HANDOVERS] * (BOUTS // 2) + [10**9] * (BOUTS // 2)  # preempted
    monkeypatch.setattr(run_handover, "exchange", lambda *_, **__: bouts)
    bench.round(0, [0, 0], lambda: None)
    (rows,) = bench.recorder.arrays()["handovers"].parts
    assert rows["quiet_cycles"].tolist() == [100.0] * 2
    assert rows["elapsed_cycles"].tolist() == [sum(bouts)] * 2


def test_of_more_cpus_the_same_sample_is_measured_in_each_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, asked = made_bench(monkeypatch, 80)
    assert bench.sampled == "2016 of 3160 pairs"
    bench.round(0, [0, 0], lambda: None)
    first = set(asked)
    bench, asked = made_bench(monkeypatch, 80)
    bench.round(0, [0, 0], lambda: None)
    assert set(asked) == first
    assert len(first) == 2 * MAX_PAIRS


# --- a run --------------------------------------------------------------------------------------


@two_cpus
def test_a_run_without_kvm_has_a_time_for_each_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "probe", lambda: NO_KVM)
    where = f"cpu:{CPUS[0]},{CPUS[1]}"
    some_rounds = scenario(where, precision=1.0, max_seconds=120)
    outcome = runner.run(some_rounds, tmp_path, PlainProgress())
    assert (outcome.finished, outcome.failed) == (1, {})
    data = RunData.load(outcome.folder)
    (case,) = data.summary["cases"]
    (pair,) = case["handover"]["pairs"]
    assert pair["cpus"] == CPUS[:2]
    assert pair["value"] > case["methods"]["alone"]["ns_per_handover"]["quiet"] > 0
    rows = RunReader(outcome.folder).table(case["id"], "handovers")
    assert set(rows.column("process").to_pylist()) == {0, 1}
    assert case["warnings"] == []
