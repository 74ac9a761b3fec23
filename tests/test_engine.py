# SPDX-License-Identifier: Apache-2.0
"""The engine and the guest programs, on real KVM."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from arrays import as_array, dtype_of, kicks_of
from blocks_until import MS, Left, until
from hypothesis import given
from hypothesis import strategies as st

from kickbench import arch
from kickbench.engine.engine import (
    LANDED,
    LOST,
    MET,
    PARTS,
    STRUCTURES,
    TRANSPORTS,
    Clock,
    Engine,
    Kickers,
    NoiseThreads,
    Plan,
    counter_warp_cycles,
    histogram_edges,
    layout,
    library,
    misfits,
    nodes_of,
    quantiles,
    structure,
)
from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.guest import loader
from kickbench.guest.loader import Guest
from kickbench.guest.mix import MixedExit
from kickbench.guest.programs import PROGRAMS
from kickbench.host.capabilities import probe, supports, supports_transport
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.methods import CATALOGUE
from kickbench.native import built_file

CPUS = Topology.read().affinity
MIX = [MixedExit("port_read", 0x608, 4, 1), MixedExit("mmio_write", 0xFE00_0000, 2, 1)]
UNSURE = ("kernel", "hypercall", "memory_fault", "bounce", "none")
EXITING = [name for name, one in PROGRAMS.items() if one.exits not in UNSURE]
HOST = probe()


def here(names: Iterable[str], why_not: Callable[[str], str | None]) -> list[Any]:
    """Names as parameters of a test; those that this host does not support are skipped."""
    return [
        pytest.param(name, marks=pytest.mark.skip(reason) if (reason := why_not(name)) else ())
        for name in names
    ]


METHODS = here(CATALOGUE, lambda name: supports(CATALOGUE[name], HOST))
SENT_BY = here(TRANSPORTS, lambda name: supports_transport(name, HOST))


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(counter_usable=True)


@contextmanager
def running(
    clock: Clock,
    program: str,
    n_vcpus: int = 1,
    *,
    rate_hz: float | None = None,
    irqchip: str | None = None,
    machine: Mapping[str, Any] = MappingProxyType({}),
    **engine: Any,
) -> Iterator[tuple[Guest, Engine]]:
    pacing: dict[str, Any] = {}
    if rate_hz is not None:
        pacing = {
            "gaps_cycles": [int(clock.hz / rate_hz)],
            "first_gaps": [0] * n_vcpus,
            "ring_entries": 1024,
        }
    if program == "mix":
        pacing["mix"] = MIX
    irqchip = irqchip or ("none" if program == "hlt" else "kernel")
    options = {"n_entries": 1, "samples_capacity": 1 << 16, **engine}
    seats = [[CPUS[index % len(CPUS)]] for index in range(n_vcpus)]
    with (
        Kvm() as kvm,
        Guest(kvm, program, n_vcpus, irqchip=irqchip, **machine, **pacing) as guest,
        Engine(guest, program, clock, seats, **options) as running_engine,
    ):
        yield guest, running_engine


@pytest.mark.kvm
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("program", EXITING)
def test_every_program_exits_under_every_method(clock: Clock, program: str, method: str) -> None:
    with running(clock, program) as (_, engine):
        (result,) = until(
            engine, lambda left: left.results[-1]["exits"], [(method, 0)], ms=10
        ).results[-1]
        taken = engine.samples(0, int(result["samples_offset"]), int(result["samples_count"]))
    samples = np.array(taken)
    assert result["exits"] == result["timed_exits"] == len(samples) > 0
    assert result["timed_cycles"] == samples.sum(dtype=np.int64)
    assert result["timed_cycles"] <= result["elapsed_cycles"]
    # The block ends with an exit. One that a kick ends, now or late, is measured to its end.
    if result["timed_cycles"] < result["elapsed_cycles"]:
        window_cycles = int(10 * MS / 1e9 * clock.hz) - int(result["skew_cycles"])
        assert result["elapsed_cycles"] == pytest.approx(window_cycles, abs=2)
    assert result["max_cycles"] == samples.max()
    assert result["quantiles"].tolist() == quantiles(taken, library().kb_clock_step(True))
    assert samples.min() > clock.stamp_cycles
    assert result["cpu_ns"] > 0


@pytest.mark.kvm
@pytest.mark.parametrize("method", METHODS)
def test_a_guest_that_never_exits_is_kicked_at_the_end_of_a_block(
    clock: Clock, method: str
) -> None:
    with running(clock, "spin", 2) as (guest, engine):

        def all_ran(_: object = None) -> bool:
            return all(guest.params(vcpu).heartbeat > 0 for vcpu in range(2))

        results = until(engine, all_ran, [(method, 0)] * 3, ms=2).results
        assert all_ran()
    # One looks at its flag only when it comes round: by then the clock has ended the block.
    assert results["kicked"].all() or method == "immediate_exit_remote_flag_first"
    assert not results["exits"].any()


@pytest.mark.kvm
def test_vcpus_switch_methods_together_and_samples_of_blocks_do_not_mix(clock: Clock) -> None:
    methods = [name for name, method in CATALOGUE.items() if supports(method, HOST) is None]
    schedule = [(methods[i], i) for i in (0, 1, 2, 2, 1, 0)]
    with running(clock, "pm_timer", 3, n_entries=3) as (_, engine):

        def all_exited(_: object = None) -> bool:
            return all(any(engine.histogram(entry)) for entry in range(3))

        left = until(engine, all_exited, schedule, ms=15)
        histograms = [engine.histogram(entry) for entry in range(3)]
    for entry, counts in enumerate(histograms):
        blocks = [position for position, (_, e) in enumerate(schedule * left.calls) if e == entry]
        assert sum(counts) == left.results[blocks]["timed_exits"].sum() > 0
    results = left.results[-len(schedule) :]
    ends = results["samples_offset"] + results["samples_count"]
    assert (results["samples_offset"][1:] == ends[:-1]).all()


@pytest.mark.kvm
def test_a_full_buffer_loses_samples_but_counts_exits(clock: Clock) -> None:
    with running(clock, "pm_timer", samples_capacity=10) as (_, engine):
        first, second = until(
            engine,
            lambda left: left.results[-2]["exits"] > 10 and left.results[-1]["exits"],
            [("immediate_exit", 0)] * 2,
            ms=9,
        ).results[-2:]
    assert first["exits"] == 10 + first["unsampled"] > 10
    assert first["elapsed_cycles"] > first["timed_cycles"]
    assert second["samples_count"] == 0 < second["unsampled"] == second["exits"]


@pytest.mark.kvm
@pytest.mark.parametrize("program", EXITING)
def test_a_paced_guest_keeps_its_rate_and_times_its_own_round_trips(
    clock: Clock, program: str
) -> None:
    rate_hz, block_ns, slack = 500.0, 200 * MS, 5
    schedule = [("immediate_exit", 0)]
    with running(clock, program, rate_hz=rate_hz) as (_, engine):
        for _ in range(50):
            (result,) = as_array(engine.blocks(schedule, warmup_ns=5 * MS, block_ns=block_ns))
            # Nothing makes a guest exit too often.
            assert result["exits"] <= rate_hz * block_ns / 1e9 + slack
            assert result["timed_exits"] == pytest.approx(int(result["exits"]), abs=2)
            assert result["timed_cycles"] < result["elapsed_cycles"]
            # A busy host keeps its thread from running; of the rest it makes use.
            ran_ns = block_ns - int(result["run_delay_ns"]) - int(result["steal_ns"])
            if result["exits"] >= rate_hz * ran_ns / 1e9 - slack:
                return
    pytest.fail("no block in which the guest kept its rate")


@pytest.mark.kvm
def test_periodic_guests_meet_at_another_phase_in_every_block(clock: Clock) -> None:
    gap = int(clock.hz / 1000)
    phases = set()
    with running(clock, "pm_timer", 2, rate_hz=1000.0) as (guest, engine):
        for seed in range(1, 4):
            for n_blocks in (1, 2):
                engine.blocks(
                    [("immediate_exit", 0)] * n_blocks,
                    warmup_ns=5 * MS,
                    block_ns=5 * MS,
                    plan=Plan(seed=seed),
                )
                due = [guest.params(i).next_low + (guest.params(i).next_high << 32) for i in (0, 1)]
                phases.add((due[0] - due[1]) % gap)
    # Within a block they keep it: every exit is due one gap after the one before.
    assert len(phases) == 6
    assert max(phases) - min(phases) > gap / 10


@pytest.mark.kvm
def test_without_a_trusted_tsc_stamps_are_nanoseconds() -> None:
    raw = Clock.choose(counter_usable=False)
    assert (raw.kind, raw.hz) == ("monotonic_raw", 1e9)
    with running(raw, "pm_timer") as (_, engine):
        (result,) = until(
            engine, lambda left: left.results[-1]["exits"], [("immediate_exit", 0)], ms=20
        ).results[-1]
    assert result["exits"] > 0
    assert result["elapsed_cycles"] > 0
    assert result["migrations"] == -1  # only RDTSCP tells


@pytest.mark.kvm
def test_each_vcpus_memory_is_on_pages_of_its_own_and_the_kernel_tells_their_node(
    clock: Clock,
) -> None:
    here = os.sched_getaffinity(0)
    kickers = Kickers(2, CPUS)
    with running(clock, "pm_timer", 3, kickers=kickers) as (guest, engine):
        assert os.sched_getaffinity(0) == here
        engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=MS)
        assert set(engine.kicker_cpus()) <= set(CPUS)
        parts = [[engine.address(part, vcpu) for part in PARTS] for vcpu in range(3)]
        parts = [[*own, guest.params_address(i)] for i, own in enumerate(parts)]
        pages = [address // loader.PAGE for own in parts for address in own]
        assert len(set(pages)) == len(pages)
        nodes = nodes_of([address for own in parts for address in own])
    if None in nodes:
        pytest.skip("move_pages(2) is not permitted, or not there")
    assert set(nodes) <= {node for node, cpus in Topology.read().nodes.items() if cpus}


def test_a_page_that_is_not_there_has_no_node() -> None:
    assert nodes_of([1 << 46]) == [None]


def _image(monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    monkeypatch.setattr(loader, "image", lambda *_args, **_options: code)


TRIPLE_FAULT = b"\x0f\x0b"  # ud2, without an IDT
HALT = b"\xf4"


@pytest.mark.kvm
def test_a_guest_that_triple_faults_is_reported_by_name(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(monkeypatch, TRIPLE_FAULT)
    with (
        running(clock, "pm_timer") as (_, engine),
        pytest.raises(MeasurementError, match=r"KVM_EXIT_(SHUTDOWN \(triple fault\)|INTERNAL)"),
    ):
        until(engine, in_vain, [("immediate_exit", 0)], ms=1)


@pytest.mark.kvm
def test_an_exit_that_the_program_never_takes_is_reported_by_name(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(monkeypatch, HALT)
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 2, irqchip="none") as guest,
        Engine(
            guest, "pm_timer", clock, [[CPUS[0]]] * 2, n_entries=1, samples_capacity=64
        ) as engine,
        pytest.raises(MeasurementError, match="vCPU 0: the guest left KVM_RUN with KVM_EXIT_HLT"),
    ):
        until(engine, in_vain, [("sigmask", 0)], ms=1)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("reason", "fill", "message"),
    [
        (9, {"fail_entry": 0x80000021}, r"KVM_EXIT_FAIL_ENTRY \(hardware reason 0x80000021\)"),
        (17, {"internal": 1}, r"KVM_EXIT_INTERNAL_ERROR \(KVM_INTERNAL_ERROR_EMULATION\)"),
        (8, {}, r"KVM_EXIT_SHUTDOWN \(triple fault\)"),
    ],
)
def test_failures_of_kvm_are_described_by_reason(
    reason: int, fill: dict[str, int], message: str
) -> None:
    """A stub, since a working KVM can't be made to fail so: the real ones are above."""
    from kickbench.engine.failures import Failure, describe

    failure = Failure(vcpu=1, exit_reason=reason)
    failure.detail = fill.get("fail_entry", 0)
    failure.suberror = fill.get("internal", 0)
    with pytest.raises(MeasurementError, match=message):
        raise MeasurementError(describe(failure, 2, 2))


@pytest.mark.kvm
def test_an_error_of_kvm_run_is_reported_by_name(clock: Clock) -> None:
    with running(clock, "pm_timer") as (guest, engine), Path(os.devnull).open() as null:
        os.dup2(null.fileno(), guest.vcpus[0].fd)
        with pytest.raises(MeasurementError, match=r"vCPU 0: KVM_RUN failed: .* \(ENOTTY\)"):
            until(engine, in_vain, [("immediate_exit", 0)], ms=1)


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGURG])
def test_the_signal_handlers_of_the_process_are_restored(clock: Clock, number: int) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with running(clock, "spin", noise=NoiseThreads(foreign=True)) as (_, engine):
            engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=MS)
        signal.raise_signal(number)
        assert received == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.kvm
def test_python_threads_run_while_blocks_are_measured(clock: Clock) -> None:
    """No GIL is held: or a progress display, or a test like this, would stand still."""
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        with running(clock, "spin") as (_, engine):
            before = ticks
            # More than one for each call: not all of them came between two calls.
            left = until(
                engine,
                lambda left: ticks - before > left.calls,
                [("immediate_exit", 0)],
                ms=200,
            )
            assert ticks - before > left.calls
    finally:
        stop.set()
        thread.join()


@pytest.mark.kvm
@pytest.mark.parametrize("irqchip", ["none", "split", "kernel"])
def test_a_machine_of_many_vcpus_runs_with_every_irqchip(clock: Clock, irqchip: str) -> None:
    n = 300  # beyond the 255 of an 8-bit APIC id
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", n, irqchip=irqchip) as guest,
        Engine(
            guest,
            "pm_timer",
            clock,
            [[CPUS[i % len(CPUS)]] for i in range(n)],
            n_entries=1,
            samples_capacity=1024,
        ) as engine,
    ):
        results = until(
            engine,
            lambda left: left.results["exits"].sum() > n,
            [("immediate_exit", 0)],
            ms=500,
        ).results
        blocks = {guest.params_address(i) for i in range(n)}
    assert results["exits"].sum() > n
    assert len(blocks) == n


# --- kicks -------------------------------------------------------------------------------------

GUESTS = {"guest": "spin", "halted": "hlt", "userspace": "pm_timer", "storm": "mix"}
ONE = Kickers(count=1, cpus=[CPUS[-1]])
QUIET = NoiseThreads()


def any_kick(left: Left) -> bool:
    return len(left.kicks) > 0


def kicked(
    clock: Clock,
    method: str,
    *,
    n_vcpus: int = 1,
    kickers: Kickers = ONE,
    noise: NoiseThreads = QUIET,
    ms: int = 100,
    program: str = "spin",
    n_blocks: int = 1,
    seen: Callable[[Left], object] = any_kick,
    **plan: Any,
) -> Left:
    """Blocks of one method, until something was seen, by default in volleys about 1 ms apart."""
    chosen = Plan(**{"loop": "kick", "kicking": "volleys", "gap_ns": MS, **plan})
    with running(clock, program, n_vcpus, irqchip="kernel", kickers=kickers, noise=noise) as (
        _,
        engine,
    ):
        return until(engine, seen, [(method, 0)] * n_blocks, ms=ms, plan=chosen)


def in_vain(_: Left) -> bool:
    """For what must fail: a busy host may keep a thread from KVM_RUN for a whole block."""
    return False


def flagged(kicks: Any, flag: int) -> int:
    return int(np.count_nonzero(kicks["flags"] & flag))


def lost(kicks: Any) -> int:
    return flagged(kicks, LOST)


@pytest.mark.kvm
@pytest.mark.parametrize("state", GUESTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_delivers_kicks_in_every_state(clock: Clock, method: str, state: str) -> None:
    in_userspace_ns = 200_000 if state == "userspace" else 0
    exits = state in ("userspace", "storm")
    left = kicked(
        clock,
        method,
        program=GUESTS[state],
        state=state,
        userspace_ns=in_userspace_ns,
        seen=lambda left: flagged(left.kicks, MET) and left.results["exits"].any() == exits,
    )
    results, kicks = left.results, left.kicks
    assert len(kicks) > 0
    assert results["kicked"].all()
    if CATALOGUE[method].race_free:
        assert lost(kicks) == 0
        assert not kicks["rescues"].any()
    assert (kicks["flags"] & MET).any()
    assert not (kicks["flags"] & ~np.uint8(MET | LOST | LANDED)).any()
    assert (kicks["latency"] > 0).all()
    assert (kicks["send"] > 0).all()
    assert (kicks["delivery"] <= kicks["latency"]).all()
    assert (kicks["returned"] <= kicks["latency"]).all()
    assert (kicks["signals"] == (1 if CATALOGUE[method].kicks_by_signal else 0)).all()
    assert all((np.diff(kicks["at"][kicks["block"] == b]) > 0).all() for b in set(kicks["block"]))
    assert set(kicks["vcpu"]) == set(kicks["kicker"]) == {0}
    assert set(kicks["cpu"]) == {CPUS[-1] if clock.is_counter else -1}
    assert bool(results["exits"].any()) is exits


AIMED = {"kicking": "aimed", "gap_ns": 0, "window_ns": 50_000, "lost_after_ns": 2 * MS}


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("state", "program"), [("window", "spin"), ("pending_io", "pm_timer"), ("pending_io", "mmio")]
)
@pytest.mark.parametrize("method", METHODS)
def test_a_kick_that_is_pending_before_kvm_run_keeps_a_guest_out_unless_the_protocol_races(
    clock: Clock, method: str, state: str, program: str
) -> None:
    """A race-free KVM_RUN returns for it. Otherwise the guest runs once more, and spin for ever."""
    kicks = kicked(
        clock,
        method,
        program=program,
        state=state,
        seen=lambda left: flagged(left.kicks, MET) >= 20,
        **AIMED,
    ).kicks
    met = kicks[(kicks["flags"] & MET) != 0]
    if CATALOGUE[method].race_free:
        assert lost(kicks) == 0
        assert ((met["flags"] & LANDED) != 0).all()
        assert (met["returned"] > 0).all()
        assert (met["latency"] >= met["returned"]).all()
    elif state == "window":
        assert 2 * lost(met) > len(met)
    else:
        assert lost(kicks) == 0
        assert 2 * np.count_nonzero(met["returned"] == 0) > len(met)


@contextmanager
def halted(clock: Clock, n_vcpus: int = 1, **machine: Any) -> Iterator[tuple[Guest, Engine]]:
    """A machine whose guests halt in the kernel, or would if they were started."""
    with running(clock, "hlt", n_vcpus, irqchip="kernel", kickers=ONE, machine=machine) as (
        guest,
        engine,
    ):
        yield guest, engine


def while_halted(state: str) -> Plan:
    return Plan(loop="kick", kicking="volleys", state=state, gap_ns=150_000)


def met(left: Left) -> int:
    return flagged(left.kicks, MET)


@pytest.mark.kvm
@pytest.mark.parametrize("method", METHODS)
def test_a_vcpu_that_waits_for_its_start_is_kicked_and_goes_on_waiting(
    clock: Clock, method: str
) -> None:
    with halted(clock, started=False) as (guest, engine):
        left = until(engine, met, [(method, 0)], ms=50, plan=while_halted("wait_for_sipi"))
        assert guest.vcpus[0].mp_state() == arch.current().UNSTARTED
        assert not guest.vcpus[0].stats()["exits"]
    assert met(left) > 0
    assert not left.results["spurious_exits"].any()
    if CATALOGUE[method].race_free:
        assert lost(left.kicks) == 0


@pytest.mark.kvm
def test_a_kick_that_kvm_polls_for_ends_a_poll(clock: Clock) -> None:
    with halted(clock, halt_poll_ns=10_000_000) as (guest, engine):
        before = guest.vcpus[0].stats()["halt_successful_poll"]
        plan = while_halted("polling")
        left = until(
            engine, lambda left: met(left) >= 10, [("immediate_exit", 0)], ms=50, plan=plan
        )
        polled = guest.vcpus[0].stats()["halt_successful_poll"] - before
    assert lost(left.kicks) == 0
    assert 2 * polled >= met(left)
    if not polled:
        pytest.skip("the host is so busy that KVM never polled until a kick")
    assert met(left) > 0


@pytest.mark.kvm
@pytest.mark.parametrize("state", ["polling", "halted_in_guest"])
def test_a_thread_that_sleeps_meets_no_state_of_one_that_works(clock: Clock, state: str) -> None:
    with halted(clock, halt_poll_ns=0) as (_, engine):
        left = until(engine, any_kick, [("sigmask", 0)], ms=50, plan=while_halted(state))
    assert len(left.kicks) > 0
    assert met(left) == 0


@pytest.mark.kvm
@pytest.mark.skipif(not HOST.halts_inside, reason="HLT leaves the guest on this host")
@pytest.mark.parametrize("method", METHODS)
def test_a_guest_that_halts_inside_is_kicked_and_never_left_by_hlt(
    clock: Clock, method: str
) -> None:
    with halted(clock, halts_inside=True) as (guest, engine):
        left = until(engine, met, [(method, 0)], ms=50, plan=while_halted("halted_in_guest"))
        assert not guest.vcpus[0].stats()["halt_exits"]
    assert met(left) > 0
    if CATALOGUE[method].race_free:
        assert lost(left.kicks) == 0


@pytest.mark.kvm
def test_no_io_is_pending_of_a_guest_that_takes_none(clock: Clock) -> None:
    kicks = kicked(clock, "immediate_exit", state="pending_io", seen=in_vain, ms=10, **AIMED).kicks
    assert len(kicks) == 0


@pytest.mark.kvm
def test_the_handler_is_seen_where_there_is_one(clock: Clock) -> None:
    by_handler = kicked(
        clock, "immediate_exit", state="guest", seen=lambda left: left.kicks["delivery"].any()
    ).kicks
    assert (by_handler["delivery"] > 0).any()
    by_mask = kicked(clock, "sigmask", state="guest").kicks
    assert not by_mask["delivery"].any()


@pytest.mark.kvm
def test_a_state_that_the_vcpu_is_not_in_is_not_met(clock: Clock) -> None:
    kicks = kicked(clock, "immediate_exit", program="spin", state="storm").kicks
    assert len(kicks) > 0
    assert not (kicks["flags"] & MET).any()
    kicks = kicked(clock, "immediate_exit", program="hlt", state="guest").kicks
    assert len(kicks) > 0
    assert not (kicks["flags"] & MET).any()


@pytest.mark.kvm
@pytest.mark.parametrize("transport", SENT_BY)
@pytest.mark.parametrize("method", ["sigmask", "immediate_exit"])
def test_every_transport_delivers_kicks(clock: Clock, method: str, transport: str) -> None:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], transport=transport)
    kicks = kicked(
        clock,
        method,
        kickers=kickers,
        n_vcpus=2,
        seen=lambda left: set(left.kicks["vcpu"]) == {0, 1},
    ).kicks
    assert set(kicks["vcpu"]) == {0, 1}
    assert lost(kicks) == 0


@pytest.mark.kvm
@pytest.mark.parametrize("method", ["sigmask", "immediate_exit", "immediate_exit_remote"])
def test_several_kickers_kick_at_once_and_each_is_answered(clock: Clock, method: str) -> None:
    kickers = Kickers(count=3, cpus=[CPUS[-1]])

    def blocks_of(kicks: Any) -> list[set[int]]:
        return [set(kicks["block"][kicks["kicker"] == kicker]) for kicker in range(3)]

    def all_kicked_twice(left: Left) -> bool:
        return all(len(blocks) > 1 for blocks in blocks_of(left.kicks))

    left = kicked(clock, method, kickers=kickers, n_blocks=2, seen=all_kicked_twice)
    kicks = left.kicks
    assert lost(kicks) == 0
    assert all_kicked_twice(left)
    for kicker, blocks in enumerate(blocks_of(kicks)):
        mine = kicks[kicks["kicker"] == kicker]
        assert all((np.diff(mine["at"][mine["block"] == block]) > 0).all() for block in blocks)


@pytest.mark.kvm
def test_the_kicks_of_a_volley_are_due_at_one_moment(clock: Clock) -> None:

    def common_volleys(kicks: Any, block: int) -> tuple[Any, Any, Any]:
        one, two = (
            kicks[(kicks["block"] == block) & (kicks["kicker"] == kicker)] for kicker in (0, 1)
        )
        return one, two, np.intersect1d(one["volley"], two["volley"])

    def two_in_each_block(left: Left) -> bool:
        last = len(left.results) - 1
        return all(len(common_volleys(left.kicks, block)[2]) > 1 for block in (last - 1, last))

    left = kicked(
        clock,
        "immediate_exit",
        kickers=Kickers(count=2, cpus=[CPUS[-1]]),
        n_blocks=2,
        gap_ns=2 * MS,
        seen=two_in_each_block,
    )
    assert two_in_each_block(left)
    for block in range(len(left.results)):
        one, two, common = common_volleys(left.kicks, block)
        # Each has a volley once at most: one that comes too late for it leaves it out.
        for mine in (one, two):
            assert (np.diff(mine["volley"].astype(np.int64)) > 0).all()
        first, second = (
            mine["at"][np.isin(mine["volley"], common)].astype(np.int64) for mine in (one, two)
        )
        assert (np.diff(np.minimum(first, second)) > 0).all()


@pytest.mark.kvm
def test_the_most_kickers_that_are_allowed_kick(clock: Clock) -> None:
    kickers = Kickers(count=31, cpus=[CPUS[-1]])
    left = kicked(
        clock,
        "immediate_exit",
        kickers=kickers,
        gap_ns=20 * MS,
        ms=200,
        seen=lambda left: len(set(left.kicks["kicker"])) > 1,
    )
    assert lost(left.kicks) == 0
    assert len(set(left.kicks["kicker"])) > 1
    assert left.results["kicked"].all()


@pytest.mark.kvm
@pytest.mark.parametrize("window_ns", [0, 50_000])
@pytest.mark.parametrize("method", METHODS)
def test_no_race_free_method_loses_an_aimed_kick(clock: Clock, method: str, window_ns: int) -> None:
    loses = method == "flag_signal" and window_ns > 0
    least = 20 if loses else 1
    left = kicked(
        clock,
        method,
        kicking="aimed",
        userspace_ns=3000,
        window_ns=window_ns,
        lost_after_ns=5 * MS,
        ms=200,
        seen=lambda left: flagged(left.kicks, LANDED) >= least,
    )
    results, kicks = left.results, left.kicks
    landed = flagged(kicks, LANDED)
    assert landed >= least
    if CATALOGUE[method].race_free:
        assert lost(kicks) == 0
        assert results["spurious_exits"].sum() <= 2 * len(kicks)
    elif loses:
        assert 2 * lost(kicks) > landed
    assert (kicks["rescues"][kicks["flags"] & LOST != 0] > 0).all()


@pytest.mark.kvm
def test_each_vcpu_of_a_race_has_a_kicker_of_its_own(clock: Clock) -> None:
    kickers = Kickers(count=2, cpus=[CPUS[-1]])
    aimed: dict[str, Any] = {"kicking": "aimed", "userspace_ns": 3000, "window_ns": 50_000}

    def pairs(left: Left) -> set[tuple[int, int]]:
        return set(zip(left.kicks["vcpu"].tolist(), left.kicks["kicker"].tolist(), strict=True))

    left = kicked(
        clock,
        "immediate_exit",
        n_vcpus=2,
        kickers=kickers,
        seen=lambda left: len(pairs(left)) > 1,
        **aimed,
    )
    assert pairs(left) == {(0, 0), (1, 1)}
    assert lost(left.kicks) == 0


@pytest.mark.kvm
def test_exits_go_on_while_kicks_arrive(clock: Clock) -> None:
    left = kicked(
        clock,
        "immediate_exit",
        program="pm_timer",
        loop="exit",
        seen=lambda left: left.results["exits"].sum() > len(left.kicks) > 0,
    )
    exits = left.results["exits"].sum()
    assert exits == left.results["timed_exits"].sum() > len(left.kicks) > 0
    assert lost(left.kicks) == 0


@pytest.mark.kvm
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_vcpus", [1, 3])
def test_pausing_all_waits_for_the_last(clock: Clock, n_vcpus: int, method: str) -> None:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=1000)
    plan = Plan(loop="kick", kicking="pauses", gap_ns=MS, lost_after_ns=50 * MS)

    def in_two_blocks(left: Left) -> bool:
        return len(set(left.pauses["block"])) > 1

    with running(clock, "spin", n_vcpus, kickers=kickers) as (guest, engine):
        left = until(engine, in_two_blocks, [(method, 0)] * 2, ms=100, plan=plan)
        assert all(guest.params(vcpu).heartbeat > 0 for vcpu in range(n_vcpus))
    results, pauses = left.results, left.pauses
    assert len(left.kicks) == 0
    assert in_two_blocks(left)
    assert (pauses["first"] > 0).all()
    assert (pauses["first"] <= pauses["median"]).all()
    assert (pauses["median"] <= pauses["last"]).all()
    assert (pauses["send"] > 0).all()
    if n_vcpus == 1:
        assert (pauses["first"] == pauses["last"]).all()
    if CATALOGUE[method].race_free:
        assert not pauses["rescues"].any()
    assert results["kicked"].all()


def paused(clock: Clock, seen: Callable[[Left], object], n_vcpus: int, **plan: Any) -> Left:
    """Pauses of guests that spin, until something was seen."""
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=100_000)
    chosen = Plan(loop="kick", kicking="pauses", lost_after_ns=50 * MS, **plan)
    with running(clock, "spin", n_vcpus, kickers=kickers) as (_, engine):
        return until(engine, seen, [("immediate_exit", 0)], ms=50, plan=chosen)


@pytest.mark.kvm
def test_guests_run_between_pauses_that_have_a_gap(clock: Clock) -> None:
    left = paused(clock, lambda left: (left.pauses["not_run"] == 0).any(), 2, gap_ns=2 * MS)
    assert (left.pauses["not_run"] == 0).any()
    assert (left.pauses["not_run"] >= 0).all()


@pytest.mark.kvm
def test_back_to_back_a_guest_may_not_run_between_two_pauses(clock: Clock) -> None:
    left = paused(clock, lambda left: (left.pauses["not_run"] > 0).any(), 2, gap_ns=0)
    assert (left.pauses["not_run"] > 0).any()
    assert (left.pauses["not_run"] <= 2).all()
    assert not left.pauses["rescues"].any()


@pytest.mark.kvm
def test_whether_a_halted_guest_ran_between_two_pauses_is_not_known(clock: Clock) -> None:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=1000)
    plan = Plan(loop="kick", kicking="pauses", gap_ns=MS)
    with running(clock, "hlt", irqchip="kernel", kickers=kickers) as (_, engine):
        left = until(engine, lambda left: len(left.pauses), [("sigmask", 0)], ms=50, plan=plan)
    assert set(left.pauses["not_run"]) == {-1}


@pytest.mark.kvm
def test_vcpus_are_paused_one_by_one_if_the_plan_says_so(clock: Clock) -> None:
    """The last of three is kicked when two have answered: all calls have not returned before."""
    left = paused(clock, lambda left: len(left.pauses) > 3, 3, gap_ns=MS, one_by_one=True)
    pauses = left.pauses
    assert len(pauses) > 3
    assert (pauses["first"] > 0).all()
    assert (pauses["first"] < pauses["median"]).all()
    assert (pauses["median"] < pauses["last"]).all()
    assert (pauses["send"] < pauses["last"]).all()


@contextmanager
def pausing(clock: Clock, **guest: Any) -> Iterator[Engine]:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=1000)
    with (
        Kvm() as kvm,
        Guest(kvm, "spin", 2, **guest) as machine,
        Engine(
            machine,
            "spin",
            clock,
            [[cpu] for cpu in (CPUS[0], CPUS[-1])],
            n_entries=1,
            samples_capacity=1024,
            kickers=kickers,
        ) as engine,
    ):
        yield engine


PAUSES = Plan(loop="kick", kicking="pauses", gap_ns=MS)


@pytest.mark.kvm
@pytest.mark.parametrize("after", [("read_state",), ("kvmclock_ctrl", "read_state"), ()])
def test_what_follows_a_pause_is_timed_behind_it(clock: Clock, after: tuple[str, ...]) -> None:
    plan = replace(PAUSES, after=after)
    has_clock = arch.current().HAS_KVMCLOCK
    if "kvmclock_ctrl" in after and not has_clock:
        pytest.skip("this architecture has no such clock")
    with pausing(clock, kvmclock=has_clock) as engine:
        left = until(engine, lambda left: len(left.pauses), [("sigmask", 0)], ms=50, plan=plan)
    pauses = left.pauses
    assert len(pauses) > 0
    assert not pauses["rescues"].any()
    done = pauses["last"]
    for step, name in (("kvmclock_ctrl", "clock"), ("read_state", "state")):
        if step in after:
            assert (pauses[name] > done).all()
            done = pauses[name]
        else:
            assert not pauses[name].any()


@pytest.mark.kvm
@pytest.mark.skipif(not arch.current().HAS_KVMCLOCK, reason="there is no such clock")
def test_what_the_kernel_refuses_after_a_pause_is_reported_by_name(clock: Clock) -> None:
    with (
        pausing(clock) as engine,
        pytest.raises(MeasurementError, match=r"what follows a pause failed: .*EINVAL"),
    ):
        until(
            engine, in_vain, [("sigmask", 0)], ms=50, plan=replace(PAUSES, after=("kvmclock_ctrl",))
        )


@pytest.mark.kvm
def test_pausing_256_vcpus_on_few_cpus_works(clock: Clock) -> None:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=1)
    plan = Plan(loop="kick", kicking="pauses", gap_ns=MS, lost_after_ns=10_000 * MS)
    with running(clock, "pm_timer", 256, samples_capacity=1, kickers=kickers) as (_, engine):
        left = until(
            engine, lambda left: len(left.pauses), [("immediate_exit", 0)], ms=8000, plan=plan
        )
        (pause,) = left.pauses
    assert 0 < pause["first"] <= pause["median"] <= pause["last"]
    assert pause["rescues"] == 0


def total(results: Any, name: str) -> int:
    return int(results[name].sum())


@pytest.mark.kvm
@pytest.mark.parametrize("method", METHODS)
def test_a_foreign_signal_is_no_kick(clock: Clock, method: str) -> None:
    def enough(left: Left) -> object:
        return len(left.kicks) > 10 and total(left.results, "spurious_exits") > 10

    left = kicked(
        clock,
        method,
        n_vcpus=2,
        noise=NoiseThreads(foreign=True),
        foreign_gap_ns=MS // 4,
        seen=enough,
    )
    results = left.results
    assert enough(left)
    assert (results["foreign_taken"] <= results["foreign_sent"]).all()
    assert 0 < total(results, "spurious_exits") <= total(results, "foreign_taken")
    assert (results["foreign_taken"].sum(axis=0) > 0).all()
    assert total(results, "siglock_taken") == 0
    if CATALOGUE[method].race_free:
        assert lost(left.kicks) == 0


@pytest.mark.kvm
def test_exits_go_on_while_foreign_signals_arrive(clock: Clock) -> None:
    def enough(left: Left) -> object:
        return total(left.results, "exits") > total(left.results, "foreign_taken") > 10

    noise = NoiseThreads(foreign=True)
    plan = Plan(foreign_gap_ns=MS // 4)
    with running(clock, "pm_timer", noise=noise) as (_, engine):
        left = until(engine, enough, [("sigmask", 0), ("immediate_exit", 0)], ms=20, plan=plan)
    assert enough(left)
    assert total(left.results, "spurious_exits") <= total(left.results, "foreign_taken")


@pytest.mark.kvm
def test_threads_that_take_siglock_do_so_in_every_block_of_a_plan_with_noise(clock: Clock) -> None:
    schedule = [("sigmask", 0), ("immediate_exit", 0)]
    with running(clock, "pm_timer", noise=NoiseThreads(siglock=2)) as (_, engine):

        def taken(left: Left) -> object:
            return (left.results["siglock_taken"].sum(axis=1) > 0).all()

        noisy = until(engine, taken, schedule, ms=20, plan=Plan(siglock_gap_ns=MS // 10))
        quiet = until(engine, lambda _: True, schedule, ms=20)
    assert taken(noisy)
    assert total(noisy.results, "foreign_sent") == total(noisy.results, "foreign_taken") == 0
    assert total(quiet.results, "siglock_taken") == 0


@pytest.mark.kvm
def test_full_buffers_end_the_kicking_and_not_the_block(clock: Clock) -> None:
    kickers = Kickers(count=2, cpus=[CPUS[-1]], kicks_capacity=3)
    left = kicked(
        clock,
        "immediate_exit",
        kickers=kickers,
        n_blocks=2,
        seen=lambda left: np.count_nonzero(left.kicks["block"] == len(left.results) - 2) == 6,
    )
    last = left.last(left.kicks)
    assert len(last) == 6
    assert set(last["block"]) == {len(left.results) - 2}
    assert left.results["kicked"].all()
    kickers = Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=2)
    plan = Plan(loop="kick", kicking="pauses", gap_ns=MS)

    def is_full(left: Left) -> bool:
        return len(left.last(left.pauses)) == 2

    with running(clock, "spin", kickers=kickers) as (_, engine):
        for _ in range(2):
            assert is_full(until(engine, is_full, [("immediate_exit", 0)], ms=50, plan=plan))


@pytest.mark.kvm
def test_kicks_of_one_call_are_gone_in_the_next(clock: Clock) -> None:
    with running(clock, "spin", kickers=ONE) as (_, engine):
        plan = Plan(loop="kick", kicking="volleys", gap_ns=MS)
        until(engine, lambda left: len(left.last(left.kicks)), [("sigmask", 0)], ms=50, plan=plan)
        assert len(kicks_of(engine)) > 0
        engine.blocks([("sigmask", 0)], warmup_ns=MS, block_ns=5 * MS)
        assert len(kicks_of(engine)) == 0


@pytest.mark.kvm
@pytest.mark.skipif(not HOST.pidfd_thread, reason="this kernel has no pidfds of threads")
def test_a_kick_that_fails_is_reported_by_name(clock: Clock) -> None:
    kickers = Kickers(count=1, cpus=[CPUS[-1]], transport="pidfd")
    plan = Plan(loop="kick", kicking="volleys", gap_ns=MS)
    with running(clock, "spin", kickers=kickers) as (_, engine), Path(os.devnull).open() as null:
        links = {
            fd: str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()
        }
        pidfds = [int(fd.name) for fd, link in links.items() if "pidfd" in link]
        assert pidfds
        for pidfd in pidfds:
            os.dup2(null.fileno(), pidfd)
        with pytest.raises(MeasurementError, match=r"vCPU 0: a kick failed: .* \(EBADF\)"):
            until(engine, lambda _: False, [("immediate_exit", 0)], ms=50, plan=plan)


@pytest.mark.kvm
def test_a_method_that_the_kernel_lacks_fails_by_name(clock: Clock) -> None:
    """The product skips it; this is what its C says when it is used all the same."""
    if HOST.exitfd:
        pytest.skip("this kernel is patched")
    with (
        running(clock, "pm_timer") as (_, engine),
        pytest.raises(MeasurementError, match="vCPU 0: entering the protocol failed"),
    ):
        until(engine, in_vain, [("exitfd", 0)], ms=1)


@pytest.mark.kvm
@pytest.mark.parametrize("cpu", [1023, 1024, 65535])
@pytest.mark.parametrize("who", ["vCPU 1", "a kicking thread"])
def test_a_cpu_that_is_not_there_is_named_and_not_replaced_by_its_neighbour(
    clock: Clock, who: str, cpu: int
) -> None:
    seats = [[CPUS[0]], [CPUS[0], cpu]] if who == "vCPU 1" else [[CPUS[0]], [CPUS[0]]]
    kickers = Kickers(1, [CPUS[0]] if who == "vCPU 1" else [CPUS[0], cpu])
    with (
        Kvm() as kvm,
        Guest(kvm, "spin", 2) as guest,
        pytest.raises(MeasurementError, match=f"^{who} cannot run on CPU {cpu}: "),
    ):
        Engine(guest, "spin", clock, seats, n_entries=1, samples_capacity=4096, kickers=kickers)


# --- the binding -------------------------------------------------------------------------------


def test_structures_have_the_sizes_of_the_c_side() -> None:
    for name, ours in STRUCTURES.items():
        assert library().kb_sizeof(name.encode()) == ctypes.sizeof(ours)
    assert library().kb_sizeof(b"no such thing") == 0


def test_what_is_stated_twice_is_stated_alike() -> None:
    assert misfits(library(), STRUCTURES) == []


def test_two_fields_in_another_order_are_told() -> None:
    fields = list(STRUCTURES["failure"]._fields_)
    vcpu, error = (fields.index((name, ctypes.c_int32)) for name in ("vcpu", "error"))
    fields[vcpu], fields[error] = fields[error], fields[vcpu]
    swapped = type("Swapped", (ctypes.Structure,), {"_fields_": fields})
    assert ctypes.sizeof(swapped) == ctypes.sizeof(STRUCTURES["failure"])
    assert misfits(library(), {**STRUCTURES, "failure": swapped}) == ["failure"]


def test_a_library_without_a_function_is_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of its source, in an editable install that was not built again."""
    (tmp_path / "old.c").write_text("int kb_old;\n")
    subprocess.run(["cc", "-shared", "-o", "old.so", "old.c"], cwd=tmp_path, check=True)
    monkeypatch.setattr("kickbench.engine.engine.built_file", lambda *_: tmp_path / "old.so")
    with pytest.raises(MeasurementError, match=r"does not fit .* install the package again"):
        library.__wrapped__()


def test_the_layout_of_a_structure_has_no_gap() -> None:
    """Else a field is not listed, or the compiler pads, and one that is not could hide there."""
    for name, fields in layout(library()).items():
        end = 0
        for field, place in fields.items():
            assert place.offset == end, f"{name}.{field}"
            end += place.size
        assert end == structure(name).size, name


def test_a_field_has_the_type_of_the_c_side() -> None:
    """One of each; times since the block's begin have a sign, as they may be before it."""
    record = dtype_of(structure("kick_record"))
    assert record["at"] == np.int64
    assert record["latency"] == np.uint32
    assert record["vcpu"] == np.int16
    assert record["kicker"] == np.uint8
    assert dtype_of(structure("block_result"))["quantiles"].base == np.float32
    assert dtype_of(structure("config"))["clock_hz"] == np.float64
    assert dtype_of(structure("config"))["vcpus"] == np.uint64


@given(st.integers(0, 2**32 - 1))
def test_histogram_bins_cover_all_values_and_are_narrow(cycles: int) -> None:
    edges = histogram_edges()
    assert edges[0] == 0
    assert edges[-1] == 2**32
    assert (np.diff(np.array(edges, np.int64)) > 0).all()
    index = int(np.searchsorted(edges, cycles, side="right")) - 1
    width = int(edges[index + 1]) - int(edges[index])
    assert width == 1 or width * 64 <= int(edges[index])


def test_two_cpus_agree_on_the_tsc_or_say_by_how_much() -> None:
    assert counter_warp_cycles(CPUS[0], CPUS[-1]) is not None
    assert counter_warp_cycles(CPUS[0], 1023) is None


def test_a_bare_checkout_says_that_it_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pip install"):
        built_file([str(tmp_path)], "kickbench_engine.so")


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="power of two"):
        call()


@pytest.mark.kvm
def test_tables_and_rings_that_the_guest_cannot_mask_are_refused() -> None:
    with Kvm() as kvm:
        _refused(lambda: Guest(kvm, "pm_timer", 1, gaps_cycles=[1, 2, 3], first_gaps=[0]))
        _refused(
            lambda: Guest(kvm, "pm_timer", 1, gaps_cycles=[1], first_gaps=[0], ring_entries=1000)
        )
        _refused(lambda: Guest(kvm, "mix", 1, mix=3 * MIX[:1]))


@pytest.mark.kvm
def test_kicks_in_a_storm_are_out_of_step_with_the_exits(clock: Clock) -> None:
    """A kicker that waits for a sign of the state, then kicks, always hits the same moment."""
    plan = Plan(loop="kick", kicking="volleys", state="storm", gap_ns=150_000)
    schedule = [("immediate_exit", 0)]
    with running(clock, "pm_timer", kickers=Kickers(1, [CPUS[-1]])) as (_, engine):
        alone = until(engine, lambda left: left.results[-1]["exits"] > 100, schedule, ms=50)
        exits = engine.samples(0, 0, int(alone.results[-1]["samples_count"][0]))
        kicks = until(
            engine, lambda left: flagged(left.kicks, MET) > 100, schedule, ms=500, plan=plan
        ).kicks
    between_exits = np.median(exits)  # a preemption is not between most of them
    met = kicks[(kicks["flags"] & MET) != 0]
    assert len(met) > 100
    # Out of step, a tenth of the kicks finds the next look at the flag within a tenth of the time.
    assert (met["latency"] < between_exits / 10).mean() < 0.35


def test_a_c_library_that_is_too_old_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(*_: object, **__: object) -> None:
        raise OSError("/lib/libc.so.6: version `GLIBC_9.99' not found (required by engine.so)")

    monkeypatch.setattr(ctypes, "CDLL", too_old)
    with pytest.raises(HostError, match=r"has glibc .*, and .* built for glibc 9\.99 or later: "):
        library.__wrapped__()
