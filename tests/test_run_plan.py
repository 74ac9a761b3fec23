# SPDX-License-Identifier: Apache-2.0
"""What is run on a host and what is skipped, and how a case is cut into blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mixed_guests import GAPS, MIXES

from kickbench.cpu_list import format_cpu_list
from kickbench.errors import HostError
from kickbench.guest.loader import MEMORY_END, PAGE, VCPU_BLOCKS
from kickbench.guest.mix import MAX_ENTRIES, MixedExit
from kickbench.host.capabilities import Capabilities
from kickbench.host.topology import Topology, resolve
from kickbench.methods import CATALOGUE
from kickbench.run.plan import (
    QUICK_BLOCK_MS,
    QUICK_CASE_OVERHEAD_SECONDS,
    QUICK_KICKS,
    QUICK_SECONDS,
    Seats,
    plan,
    quicken,
)
from kickbench.run.schedule import (
    MAX_BLOCK_NS,
    MAX_BUFFERS_BYTES,
    MAX_EXITS_PER_CPU_HZ,
    Pacing,
    Timing,
    entries,
    generator,
    mix_table,
    recorded_gaps,
    round_order,
    vcpu_rates,
)
from kickbench.scenario.cases import Case, PlacementSpec
from kickbench.scenario.files import load
from kickbench.scenario.shipped import shipped
from kickbench.scenario.sweep import expand

CAPABLE = Capabilities(
    path="/dev/kvm",
    present=True,
    usable=True,
    max_vcpus=256,
    immediate_exit=True,
    irqchip=True,
    split_irqchip=True,
)
TWO_NODES = Topology(
    online=tuple(range(8)),
    nodes={0: (0, 1, 2, 3), 1: (4, 5, 6, 7)},
    siblings={cpu: (cpu,) for cpu in range(8)},
    isolated=(),
    affinity=tuple(range(8)),
    allowed=tuple(range(8)),
)


def case(**changes: Any) -> Case:
    base = Case(
        id="exits-pm_timer-2vcpu-max-any",
        kind="exits",
        program="pm_timer",
        irqchip="kernel",
        vcpus=2,
        exit_rate_hz=None,
        arrival="periodic",
        placement=PlacementSpec("any", "any", "any", "any"),
        methods=("sigmask", "immediate_exit"),
        baseline="immediate_exit",
        processes=3,
        precision=0.001,
        max_seconds=60.0,
        block_ms=None,
        sample_budget=1000,
        seed=1,
    )
    return replace(base, **changes)


def planned(changed: Case, capabilities: Capabilities = CAPABLE) -> Any:
    (item,) = plan([changed], TWO_NODES, capabilities)
    return item


def test_a_method_that_the_kernel_lacks_is_left_out_and_the_case_still_runs() -> None:
    item = planned(case(), replace(CAPABLE, immediate_exit=False))
    assert item.skip is None
    assert item.case.methods == ("sigmask",)
    assert item.case.baseline == "sigmask"
    assert any("immediate_exit is left out" in note for note in item.notes)


def test_a_case_with_no_method_left_is_skipped_with_the_reason() -> None:
    item = planned(case(methods=("immediate_exit",)), replace(CAPABLE, immediate_exit=False))
    assert "KVM_CAP_IMMEDIATE_EXIT" in item.skip


@pytest.mark.parametrize(
    ("changes", "capabilities", "reason"),
    [
        ({"vcpus": 300}, CAPABLE, "256 vCPUs"),
        ({"program": "hlt"}, CAPABLE, 'irqchip = "none"'),
        ({"program": "spin", "exit_rate_hz": 100.0}, CAPABLE, "never exits"),
        ({"irqchip": "split"}, replace(CAPABLE, split_irqchip=False), "split irqchip"),
        ({"placement": PlacementSpec("far", "node:0", "node:7", "any")}, CAPABLE, "no node 7"),
        ({"placement": PlacementSpec("far", "any", "any", "cpu:99")}, CAPABLE, "99"),
        ({"kind": "kick", "state": "halted", "irqchip": "none"}, CAPABLE, "local APIC"),
        ({"kind": "kick", "state": "wait_for_sipi", "irqchip": "none"}, CAPABLE, "local APIC"),
        ({"kind": "kick", "state": "polling"}, CAPABLE, "KVM_CAP_HALT_POLL"),
        ({"kind": "kick", "state": "halted_in_guest"}, CAPABLE, "KVM_CAP_X86_DISABLE_EXITS"),
        ({"kind": "kick", "state": "guest", "kickers": 32}, CAPABLE, "at most 31 kicking threads"),
        ({"methods": ("no_such",), "baseline": "no_such"}, CAPABLE, "has no method no_such"),
        ({}, Capabilities(path="/dev/kvm", reason="/dev/kvm does not exist"), "does not exist"),
        (
            {"methods": ("/p/my.c",), "baseline": "/p/my.c"},
            Capabilities(path="/dev/kvm", reason="/dev/kvm does not exist"),
            "does not exist",
        ),
    ],
)
def test_what_the_host_cannot_do_is_skipped_with_the_reason(
    changes: dict[str, Any], capabilities: Capabilities, reason: str
) -> None:
    assert reason in planned(case(**changes), capabilities).skip


ON_ARM64 = replace(CAPABLE, machine="aarch64", split_irqchip=False, nested="not on arm64")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"program": "pio_out"}, "arm64 has no ports"),
        ({"program": "mix", "mix": (MixedExit("port_read", 0x608, 4, 1),)}, "has no ports"),
        ({"program": "hlt"}, "never leaves to user space on arm64"),
        ({"program": "hlt", "irqchip": "none"}, "never leaves to user space on arm64"),
        ({"irqchip": "split"}, "split irqchip"),
        ({"kind": "pause_all", "after": ("kvmclock_ctrl",)}, "arm64 has no KVM_KVMCLOCK_CTRL"),
        ({"kind": "kick", "state": "halted_in_guest"}, "kvm-arm.wfi_trap_policy"),
        ({"kind": "nested", "methods": ("plain",), "baseline": "plain"}, "not on arm64"),
    ],
)
def test_what_arm64_lacks_is_skipped_there_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason in planned(case(**changes), ON_ARM64).skip


@pytest.mark.parametrize(
    "changes",
    [
        {"program": "pm_timer"},
        {"program": "mmio_write"},
        {"program": "mix", "mix": (MixedExit("mmio_read", 0x8000_0000, 4, 1),)},
        {"kind": "kick", "state": "halted", "program": "hlt"},
        {"kind": "pause_all", "program": "hlt"},
    ],
)
def test_what_arm64_has_is_run_there(changes: dict[str, Any]) -> None:
    assert planned(case(**changes), ON_ARM64).skip is None


def test_a_machine_of_no_known_architecture_is_told() -> None:
    assert "riscv64" in planned(case(), replace(CAPABLE, machine="riscv64")).skip


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "kick", "state": "halted", "program": "hlt"},
        {"kind": "kick", "state": "halted", "program": "hlt", "irqchip": "split"},
        {"kind": "pause_all", "program": "hlt"},
        {"kind": "race", "program": "spin", "window_ns": 0.0, "kicks": 5},
        {"kind": "kick", "state": "guest", "program": "spin", "kickers": 31},
        {"kick_rate_hz": 1000.0, "transport": "timer"},
    ],
)
def test_what_only_exits_cannot_do_is_run(changes: dict[str, Any]) -> None:
    item = planned(case(**changes))
    assert item.skip is None
    assert item.case == case(**changes)
    assert not item.notes


PROPOSED = replace(CAPABLE, user_exit=True, exitfd=True, pidfd_thread=True)


@pytest.mark.parametrize("transport", ["tgkill_rt", "pidfd", "timer"])
@pytest.mark.parametrize("method", [m.id for m in CATALOGUE.values() if not m.kicks_by_signal])
def test_a_kick_without_a_signal_has_no_transport(method: str, transport: str) -> None:
    changes = {"kind": "kick", "state": "guest", "program": "spin", "transport": transport}
    both = planned(case(**changes, methods=(method, "sigmask"), baseline=method), PROPOSED)
    assert both.case.methods == ("sigmask",)
    assert both.case.baseline == "sigmask"
    assert both.notes == (
        f"{method} is left out: kicks without a signal are measured with the transport tgkill only",
        f"sigmask is the baseline instead of {method}",
    )
    alone = planned(case(**changes, methods=(method,), baseline=method), PROPOSED)
    assert alone.skip == "kicks without a signal are measured with the transport tgkill only"
    as_usual = planned(case(methods=(method, "sigmask"), baseline=method), PROPOSED)
    assert as_usual.case.methods == (method, "sigmask")


def test_a_kernel_without_pidfds_of_threads_skips_that_transport_only() -> None:
    kick = case(kind="kick", state="guest", program="spin", transport="pidfd")
    old = replace(PROPOSED, pidfd_thread=False)
    assert "PIDFD_SIGNAL_THREAD, Linux 6.9" in planned(kick, old).skip
    assert planned(replace(kick, transport="timer"), old).skip is None
    assert planned(kick, PROPOSED).skip is None


def test_a_protocol_file_is_always_tried_and_is_called_by_its_name() -> None:
    mine = case(
        methods=("/somewhere/my_protocol.c", "immediate_exit"),
        transport="timer",
        kind="race",
        program="spin",
        window_ns=0.0,
        kicks=5,
    )
    assert planned(mine).case.methods == mine.methods
    alone = planned(mine, replace(CAPABLE, immediate_exit=False))
    assert alone.case.methods == alone.case.methods[:1] == (alone.case.baseline,)
    assert "my_protocol is the baseline instead of immediate_exit" in alone.notes


def test_vcpus_take_the_cpus_of_their_node_in_turn() -> None:
    remote = case(vcpus=6, placement=PlacementSpec("remote", "node:0", "node:1", "cpu:3"))
    seats = Seats.of(remote, TWO_NODES)
    assert seats.vcpus == [[4], [5], [6], [7], [4], [5]]
    assert seats.creator == (0, 1, 2, 3)
    assert seats.kicker == [3]


def test_any_leaves_threads_to_the_scheduler() -> None:
    seats = Seats.of(case(), TWO_NODES)
    assert seats.creator is None
    assert seats.vcpus == [list(range(8))] * 2


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Nodes of whole cores with 1 to 4 threads, numbered core by core or thread by thread."""
    threads, n_cores = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    n_cpus = threads * n_cores
    by_thread = draw(st.booleans())  # as on Intel: CPU 0 and CPU n_cores are siblings
    core_of = [cpu % n_cores if by_thread else cpu // threads for cpu in range(n_cpus)]
    online = tuple(sorted(draw(st.sets(st.sampled_from(range(n_cpus)), min_size=1))))
    half = draw(st.integers(0, n_cores))
    nodes = {
        node: tuple(cpu for cpu in online if (core_of[cpu] >= half) == bool(node))
        for node in range(2)
    }
    return Topology(
        online=online,
        nodes=nodes,
        siblings={
            cpu: tuple(other for other in online if core_of[other] == core_of[cpu])
            for cpu in online
        },
        isolated=(),
        affinity=online,
        allowed=online,
    )


@given(st.data(), topologies(), st.integers(1, 30))
def test_kickers_keep_off_the_vcpus_and_their_cores_while_anything_else_is_left(
    data: st.DataObject, topology: Topology, n_vcpus: int
) -> None:
    lists = st.sets(st.sampled_from(topology.online), min_size=1).map(
        lambda cpus: "cpu:" + format_cpu_list(cpus)
    )
    some = ["any", *(f"node:{node}" for node, cpus in topology.nodes.items() if cpus)]
    specs = st.sampled_from(some) | lists
    placement = PlacementSpec("drawn", "any", data.draw(specs), data.draw(specs))
    seats = Seats.of(case(vcpus=n_vcpus, placement=placement), topology)
    wanted = set(resolve(placement.kicker, topology))
    taken = {cpu for cpus in seats.vcpus for cpu in cpus}
    cores = {thread for cpu in taken for thread in topology.siblings[cpu]}
    kicker = set(seats.kicker)
    assert kicker == (wanted - cores or wanted - taken or wanted)
    if kicker.isdisjoint(cores):
        assert seats.kicker_shares == "nothing"
    if placement.vcpus != "any":
        expected = "nothing" if wanted - cores else "core" if wanted - taken else "CPU"
        assert seats.kicker_shares == expected
    elif kicker <= taken and n_vcpus >= len(taken):
        assert seats.kicker_shares == "CPU"
    shared = {"nothing": 0, "core": 1, "CPU": 1}[seats.kicker_shares]
    assert len(seats.notes(1)) == shared
    assert seats.notes(0) == []


SMT = replace(TWO_NODES, siblings={cpu: (cpu - cpu % 2, cpu - cpu % 2 + 1) for cpu in range(8)})


@pytest.mark.parametrize(
    ("vcpus", "kicker", "cpus", "note"),
    [
        ("cpu:0", "node:0", [2, 3], ""),
        ("cpu:0,2", "node:0", [1, 3], "shares a core with a vCPU"),
        ("cpu:0-3", "node:0", [0, 1, 2, 3], "has no CPU of its own"),
        ("node:1", "node:0", [0, 1, 2, 3], ""),
        ("any", "any", [0, 1, 2, 3, 4, 5, 6, 7], "shares a core with a vCPU"),
        ("cpu:0", "cpu:1", [1], "shares a core with a vCPU"),
    ],
)
def test_a_kicker_that_must_share_says_so(
    vcpus: str, kicker: str, cpus: list[int], note: str
) -> None:
    placement = PlacementSpec("x", "any", vcpus, kicker)
    seats = Seats.of(case(vcpus=4, placement=placement), SMT)
    assert seats.kicker == cpus
    assert note in "".join(seats.notes(1))
    assert bool(seats.notes(1)) == bool(note)


def test_more_kickers_than_cpus_kick_in_turn() -> None:
    placement = PlacementSpec("x", "any", "cpu:0-1", "cpu:2")
    seats = Seats.of(case(placement=placement), TWO_NODES)
    assert seats.notes(1) == []
    assert seats.notes(2) == ["2 kickers share 1 CPU: they kick in turn, not at once"]


def test_a_missing_node_is_an_error_of_the_host() -> None:
    with pytest.raises(HostError, match="no node 2"):
        Seats.of(case(placement=PlacementSpec("x", "node:2", "any", "any")), TWO_NODES)


def test_quick_shares_out_its_seconds_and_never_lengthens_a_case() -> None:
    items = plan([case(), case(max_seconds=0.1), case(vcpus=999)], TWO_NODES, CAPABLE)
    quick = quicken(items, TWO_NODES)
    assert [item.case.processes for item in quick] == [1, 1, 1]
    assert quick[1].case.max_seconds == 0.1
    assert quick[0].case.max_seconds < QUICK_SECONDS / 2
    assert quick[2].skip == items[2].skip


def test_quick_races_are_for_few_kicks() -> None:
    def race(kicks: int) -> Case:
        return case(kind="race", program="spin", window_ns=0.0, kicks=kicks)

    quick = quicken(plan([case(), race(1_000_000), race(7)], TWO_NODES, CAPABLE), TWO_NODES)
    assert [item.case.kicks for item in quick] == [None, QUICK_KICKS, 7]
    assert 1000 <= QUICK_KICKS < 10_000


@pytest.mark.parametrize(
    ("some", "block_ms"),
    [
        ({}, QUICK_BLOCK_MS),
        ({"block_ms": 7.0}, 7.0),
        ({"exit_rate_hz": 100.0}, None),
        ({"kick_rate_hz": 100.0}, None),
        ({"vcpus": 64}, None),  # more than there are CPUs: each needs its turn
        ({"kind": "kick", "state": "guest", "program": "spin"}, None),
    ],
)
def test_quick_exits_are_in_short_blocks_where_these_have_all_they_need(
    some: dict[str, Any], block_ms: float | None
) -> None:
    (item,) = quicken(plan([case(**some)], TWO_NODES, CAPABLE), TWO_NODES)
    assert item.case.block_ms == block_ms


def test_the_shipped_windows_scenario_is_quick_on_two_nodes() -> None:
    cases = expand(load(shipped()["smp_windows_like"]))
    quick = quicken(plan(cases, TWO_NODES, CAPABLE), TWO_NODES)
    assert all(item.skip is None for item in quick)
    seconds = sum(item.case.max_seconds + QUICK_CASE_OVERHEAD_SECONDS for item in quick)
    assert seconds < 45


def test_the_baseline_plays_three_times_and_once_in_another_copy() -> None:
    who = entries(case(methods=("flag_signal", "sigmask", "immediate_exit")))
    assert [(e.method, e.role, e.protocol) for e in who] == [
        ("flag_signal", "method", "flag_signal"),
        ("sigmask", "method", "sigmask"),
        ("immediate_exit", "method", "immediate_exit"),
        ("immediate_exit", "control", "immediate_exit"),
        ("immediate_exit", "placebo", "immediate_exit__placebo"),
    ]


def test_a_race_compares_no_times_and_what_has_no_protocol_has_no_copy() -> None:
    race = case(kind="race", program="spin", window_ns=0.0, kicks=1)
    assert {entry.role for entry in entries(race)} == {"method"}
    nested = case(kind="nested", program="hypervisor", methods=("plain",), baseline="plain")
    assert [entry.role for entry in entries(nested)] == ["method", "control"]
    handover = case(kind="handover", program="no_guest", methods=("handover",), baseline="handover")
    assert [entry.role for entry in entries(handover)] == ["method", "control"]


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_a_linear_drift_adds_the_same_to_every_entry(n: int, seed: int) -> None:
    order = round_order(n, Random(seed))
    assert sorted(order) == sorted([*range(n)] * 2)
    sums = {entry: sum(i for i, e in enumerate(order) if e == entry) for entry in range(n)}
    assert set(sums.values()) == {2 * n - 1}


def test_all_orders_come_up_equally_often() -> None:
    rng = generator(case(), 0)
    firsts = [round_order(3, rng)[0] for _ in range(3000)]
    assert min(firsts.count(entry) for entry in range(3)) > 850


def test_the_random_stream_is_of_the_seed_the_case_and_the_process() -> None:
    def stream(some: Case, process: int) -> list[int]:
        return generator(some, process).sample(range(2**32), 8)

    assert stream(case(), 0) == stream(case(), 0)
    others = [
        stream(case(), 1),
        stream(case(seed=2), 0),
        stream(case(id="exits-pm_timer-1vcpu-max-any"), 0),
    ]
    assert all(other != stream(case(), 0) for other in others)


@given(
    vcpus=st.integers(1, 1024),
    cpus=st.integers(1, 64),
    rate=st.none() | st.floats(0.001, 1e9),
    block_ms=st.none() | st.floats(0.1, 10_000),
)
@example(vcpus=1024, cpus=1, rate=1e6, block_ms=None)
@example(vcpus=1024, cpus=64, rate=20_000.0, block_ms=10_000.0)
def test_blocks_are_bounded_and_buffers_fit(
    vcpus: int, cpus: int, rate: float | None, block_ms: float | None
) -> None:
    seats = [[index % cpus] for index in range(vcpus)]
    timing = Timing.of(case(vcpus=vcpus, exit_rate_hz=rate, block_ms=block_ms), seats)
    assert 0 < timing.warmup_ns <= MAX_BLOCK_NS
    assert 0 < timing.block_ns <= (MAX_BLOCK_NS if block_ms is None else block_ms * 1e6)
    assert timing.samples_capacity * 4 * vcpus <= MAX_BUFFERS_BYTES
    some = case(vcpus=vcpus, exit_rate_hz=rate, arrival="poisson", block_ms=block_ms)
    pacing = Pacing.of(some, timing, 3e9, Random(1))
    if rate is None:
        assert pacing.gaps_cycles == []
        return
    assert pacing.ring_entries & (pacing.ring_entries - 1) == 0
    in_block = min(rate, MAX_EXITS_PER_CPU_HZ) * timing.block_ns / 1e9
    assert pacing.ring_entries >= min(in_block, MAX_BUFFERS_BYTES // 8 // vcpus)
    ring_pages = PAGE + max(PAGE, 4 * pacing.ring_entries)
    assert VCPU_BLOCKS + vcpus * ring_pages < MEMORY_END
    assert all(0 < gap < 2**32 for gap in pacing.gaps_cycles)


def test_poisson_gaps_have_the_mean_and_the_scatter_of_an_exponential() -> None:
    some = case(exit_rate_hz=20000.0, arrival="poisson")
    timing = Timing.of(some, [[0]])
    gaps = np.array(Pacing.of(some, timing, 2.5e9, Random(1)).gaps_cycles)
    assert gaps.mean() == pytest.approx(125000, rel=0.001)
    assert gaps.std() == pytest.approx(125000, rel=0.05)


@given(GAPS, st.integers(1, 13).map(lambda power: 1 << power), st.integers(0, 9))
def test_recorded_gaps_have_the_quantiles_and_the_mean_that_were_recorded(
    gaps: list[float], count: int, seed: int
) -> None:
    drawn = np.sort(recorded_gaps(tuple(gaps), count, Random(seed)))
    assert len(drawn) == count
    assert gaps[0] <= drawn[0] <= drawn[-1] <= gaps[-1]
    # One of each quantile: no value is further from its own than the next one's.
    middles = (np.arange(len(gaps)) + 0.5) / len(gaps)
    low = np.interp(np.arange(count) / count, middles, gaps)
    high = np.interp(np.arange(1, count + 1) / count, middles, gaps)
    assert (low * (1 - 1e-9) <= drawn).all()
    assert (drawn <= high * (1 + 1e-9)).all()
    error = (high - low).mean()
    assert drawn.mean() == pytest.approx(np.mean(gaps), abs=error + 1e-9 * gaps[-1])


@given(GAPS, st.floats(10, 1e6), st.integers(0, 9))
def test_a_recording_keeps_its_shape_at_another_rate(
    gaps: list[float], rate: float, seed: int
) -> None:
    recorded = case(exit_rate_hz=rate, arrival="recorded", gaps_us=tuple(gaps))
    timing = Timing.of(recorded, [[0], [1]])
    pacing = Pacing.of(recorded, timing, 3e9, Random(seed))
    cycles = np.array(pacing.gaps_cycles)
    shape = np.array(recorded_gaps(tuple(gaps), len(cycles), Random(seed)))
    wanted = shape * (3e9 / rate / shape.mean())
    assert (np.abs(cycles - np.clip(wanted, 1, 2**32 - 1)) <= 0.5 + 1e-9 * wanted).all()
    assert pacing.gap_scales == []


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=9))
def test_the_mean_of_the_vcpus_rates_is_the_rate_of_the_case(rates: list[float]) -> None:
    some = case(vcpus=len(rates), exit_rate_hz=1000.0, vcpu_rates=tuple(rates))
    timing = Timing.of(some, [[0]] * len(rates))
    pacing = Pacing.of(some, timing, 3e9, Random(1))
    hz = 3e9 / (pacing.gaps_cycles[0] * np.array(pacing.gap_scales))
    assert hz.mean() == pytest.approx(1000.0)
    assert hz / hz[0] == pytest.approx(np.array(rates) / rates[0])
    assert vcpu_rates(case(vcpus=3)) == [1, 1, 1]


@given(MIXES, st.integers(0, 9))
def test_each_exit_of_a_mix_is_as_often_in_the_table_as_its_share_says(
    mix: list[dict[str, Any]], seed: int
) -> None:
    exits = tuple(MixedExit(**each) for each in mix)
    table = mix_table(exits, Random(seed))
    assert len(table) == MAX_ENTRIES
    places = Counter(table)
    assert set(places) == set(exits)
    total = sum(each.share for each in exits)
    for one in places:
        mine = [each.share for each in exits if each == one]
        wanted = sum(mine) / total * MAX_ENTRIES
        # Those that are too rare for a place get one, and the others lose as many.
        assert wanted - len(exits) < places[one] <= wanted + len(mine)


def test_the_shares_of_usual_exits_are_exact_to_less_than_one_place() -> None:
    exits = [MixedExit("port_read", 0x600 + n, 1, share) for n, share in enumerate((92, 7, 1))]
    table = mix_table(tuple(exits), Random(1))
    assert [table.count(one) for one in exits] == [3768, 287, 41]
    assert table != sorted(table, key=exits.index)
    assert table != mix_table(tuple(exits), Random(2))
    assert mix_table((), Random(1)) == []


def test_room_for_samples_follows_the_rate_of_a_paced_guest() -> None:
    seats = [[index] for index in range(64)]
    timing = Timing.of(case(vcpus=64, exit_rate_hz=1000.0), seats)
    exits = 2 * len(entries(case(vcpus=64))) * timing.block_ns / 1e9 * 1000
    assert exits < timing.samples_capacity < 10 * exits


def test_block_ms_is_taken_as_it_is() -> None:
    assert Timing.of(case(block_ms=7.5), [[0]]).block_ns == 7_500_000
