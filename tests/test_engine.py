# SPDX-License-Identifier: Apache-2.0
"""The engine and the guest programs, on real KVM."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.engine.engine import (
    STRUCTURES,
    Clock,
    Engine,
    histogram_edges,
    library,
    tsc_warp_cycles,
)
from kickbench.errors import MeasurementError, UsageError
from kickbench.guest import loader
from kickbench.guest.loader import Guest
from kickbench.guest.programs import PROGRAMS
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.methods import CATALOGUE
from kickbench.native import built_file

MS = 1_000_000
CPUS = Topology.read().affinity
EXITING = [name for name, program in PROGRAMS.items() if program.exits != "none"]


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(tsc_usable=True)


@contextmanager
def running(
    clock: Clock, program: str, n_vcpus: int = 1, *, rate_hz: float | None = None, **engine: Any
) -> Iterator[tuple[Guest, Engine]]:
    pacing: dict[str, Any] = {}
    if rate_hz is not None:
        pacing = {
            "gaps_cycles": [int(clock.hz / rate_hz)],
            "first_gaps": [0] * n_vcpus,
            "ring_entries": 1024,
        }
    irqchip = "none" if program == "hlt" else "kernel"
    options = {"n_entries": 1, "samples_capacity": 1 << 16, **engine}
    seats = [[CPUS[index % len(CPUS)]] for index in range(n_vcpus)]
    with (
        Kvm() as kvm,
        Guest(kvm, program, n_vcpus, irqchip=irqchip, **pacing) as guest,
        Engine(guest, program, clock, seats, **options) as running_engine,
    ):
        yield guest, running_engine


@pytest.mark.kvm
@pytest.mark.parametrize("method", CATALOGUE)
@pytest.mark.parametrize("program", EXITING)
def test_every_program_exits_under_every_method(clock: Clock, program: str, method: str) -> None:
    with running(clock, program) as (_, engine):
        (result,) = engine.blocks([(method, 0)], warmup_ns=MS, block_ns=10 * MS)[0]
        samples = engine.samples(0, int(result["samples_offset"]), int(result["samples_count"]))
    assert result["exits"] == result["timed_exits"] == len(samples) > 0
    assert result["timed_cycles"] == result["elapsed_cycles"] == samples.sum(dtype=np.int64)
    assert result["max_cycles"] == samples.max()
    assert samples.min() > clock.stamp_cycles
    assert result["cpu_ns"] > 0


@pytest.mark.kvm
@pytest.mark.parametrize("method", CATALOGUE)
def test_a_guest_that_never_exits_is_kicked_at_the_end_of_a_block(
    clock: Clock, method: str
) -> None:
    with running(clock, "spin", 2) as (guest, engine):
        results = engine.blocks([(method, 0)] * 3, warmup_ns=MS, block_ns=2 * MS)
        assert all(guest.params(vcpu).heartbeat > 0 for vcpu in range(2))
    assert results["kicked"].all()
    assert not results["exits"].any()


@pytest.mark.kvm
def test_vcpus_switch_methods_together_and_samples_of_blocks_do_not_mix(clock: Clock) -> None:
    methods = list(CATALOGUE)
    schedule = [(methods[i], i) for i in (0, 1, 2, 2, 1, 0)]
    with running(clock, "pm_timer", 3, n_entries=3) as (_, engine):
        results = engine.blocks(schedule, warmup_ns=MS, block_ns=15 * MS)
        histograms = [engine.histogram(entry) for entry in range(3)]
    for entry, counts in enumerate(histograms):
        blocks = [position for position, (_, e) in enumerate(schedule) if e == entry]
        assert counts.sum() == results[blocks]["timed_exits"].sum() > 0
    ends = results["samples_offset"] + results["samples_count"]
    assert (results["samples_offset"][1:] == ends[:-1]).all()


@pytest.mark.kvm
def test_a_full_buffer_loses_samples_but_counts_exits(clock: Clock) -> None:
    with running(clock, "pm_timer", samples_capacity=10) as (_, engine):
        first, second = engine.blocks([("immediate_exit", 0)] * 2, warmup_ns=MS, block_ns=9 * MS)
    assert first["exits"] == 10 + first["unsampled"] > 10
    assert first["elapsed_cycles"] > first["timed_cycles"]
    assert second["samples_count"] == 0 < second["unsampled"] == second["exits"]


@pytest.mark.kvm
@pytest.mark.parametrize("program", EXITING)
def test_a_paced_guest_keeps_its_rate_and_times_its_own_round_trips(
    clock: Clock, program: str
) -> None:
    rate_hz = 500.0
    with running(clock, program, rate_hz=rate_hz) as (guest, engine):
        (result,) = engine.blocks([("immediate_exit", 0)], warmup_ns=5 * MS, block_ns=200 * MS)[0]
        late = guest.params(0).late
    # Late exits are made up for within four gaps, or else dropped and counted.
    assert abs(int(result["exits"]) - 0.2 * rate_hz) <= 5 + 5 * late
    assert result["timed_exits"] == pytest.approx(int(result["exits"]), abs=2)
    assert result["timed_cycles"] < result["elapsed_cycles"]


@pytest.mark.kvm
def test_without_a_trusted_tsc_stamps_are_nanoseconds() -> None:
    raw = Clock.choose(tsc_usable=False)
    assert (raw.kind, raw.hz) == ("monotonic_raw", 1e9)
    with running(raw, "pm_timer") as (_, engine):
        (result,) = engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=20 * MS)[0]
    assert result["exits"] > 0
    assert result["elapsed_cycles"] > 0
    assert result["migrations"] == -1  # only RDTSCP tells


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
        engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=MS)


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
        engine.blocks([("sigmask", 0)], warmup_ns=MS, block_ns=MS)


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
    from kickbench.engine.engine import _describe, _Failure

    failure = _Failure(vcpu=1, exit_reason=reason)
    failure.detail = fill.get("fail_entry", 0)
    failure.suberror = fill.get("internal", 0)
    with pytest.raises(MeasurementError, match=message):
        raise MeasurementError(_describe(failure))


@pytest.mark.kvm
def test_an_error_of_kvm_run_is_reported_by_name(clock: Clock) -> None:
    with running(clock, "pm_timer") as (guest, engine), Path(os.devnull).open() as null:
        os.dup2(null.fileno(), guest.vcpus[0].fd)
        with pytest.raises(MeasurementError, match=r"vCPU 0: KVM_RUN failed: .* \(ENOTTY\)"):
            engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=MS)


@pytest.mark.kvm
def test_the_signal_handler_of_the_process_is_restored(clock: Clock) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        with running(clock, "spin") as (_, engine):
            engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=MS)
        received: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
        signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


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
            engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=200 * MS)
            assert ticks > before
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
        results = engine.blocks([("immediate_exit", 0)], warmup_ns=MS, block_ns=500 * MS)
        blocks = {guest.params_address(i) for i in range(n)}
    assert results["exits"].sum() > n
    assert len(blocks) == n


def test_structures_have_the_sizes_of_the_c_side() -> None:
    for name, structure in STRUCTURES.items():
        assert library().kb_sizeof(name.encode()) == ctypes.sizeof(structure)
    assert library().kb_sizeof(b"no such thing") == 0


@given(st.integers(0, 2**32 - 1))
def test_histogram_bins_cover_all_values_and_are_narrow(cycles: int) -> None:
    edges = histogram_edges()
    assert edges[0] == 0
    assert edges[-1] == 2**32
    assert (np.diff(edges.astype(np.int64)) > 0).all()
    index = int(np.searchsorted(edges, cycles, side="right")) - 1
    width = int(edges[index + 1]) - int(edges[index])
    assert width == 1 or width * 64 <= int(edges[index])


def test_two_cpus_agree_on_the_tsc_or_say_by_how_much() -> None:
    assert tsc_warp_cycles(CPUS[0], CPUS[-1]) is not None
    assert tsc_warp_cycles(CPUS[0], 1023) is None


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
