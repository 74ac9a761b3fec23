# SPDX-License-Identifier: Apache-2.0
"""Builds realistic run folders through the real store, for the tests of results and reports.

The numbers imitate a host: noise that is autocorrelated over the rounds and shared by the methods
of a round, a cost of siglock that grows with the vCPUs, outliers, a histogram of every exit and raw
samples; kicks of skewed latency, of which flag_signal loses some; a guest hypervisor whose L0 keeps
its event for it, or does not; a cache line that takes longer from node to node. The same arguments
give the same numbers. Nothing here measures anything.
"""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arrays import dtype_of
from numpy.typing import NDArray

from kickbench.engine.lifecycle import FATES
from kickbench.results.tables import (
    QUANTILES,
    combine,
    from_worker,
    has_noise,
    tables_of_case,
)
from kickbench.results.writer import RunWriter
from kickbench.run import handover, kinds, lifecycle, nested
from kickbench.run.handover import BOUTS, HANDOVERS

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
BASE_NS = 2000.0
HZ = 2.5e9

BLOCKS = dtype_of(kinds.blocks_with(QUANTILES))
HISTOGRAMS, SAMPLES = dtype_of(kinds.HISTOGRAMS), dtype_of(kinds.SAMPLES)
KICKS, KICK_BLOCKS = dtype_of(kinds.KICKS), dtype_of(kinds.KICK_BLOCKS)
PAUSES, RACES = dtype_of(kinds.PAUSES), dtype_of(kinds.RACES)
NOISE_ROWS = dtype_of(kinds.NOISE_ROWS)
NESTED, HANDOVER_ROWS = dtype_of(nested.NESTED), dtype_of(handover.HANDOVER_ROWS)
LIVES = dtype_of(lifecycle.LIVES)
DTYPES: dict[str, np.dtype[Any]] = {
    "blocks": BLOCKS,
    "exit_histograms": HISTOGRAMS,
    "exit_samples": SAMPLES,
    "kicks": KICKS,
    "kick_blocks": KICK_BLOCKS,
    "pauses": PAUSES,
    "races": RACES,
    "nested": NESTED,
    "handovers": HANDOVER_ROWS,
    "noise": NOISE_ROWS,
    "lives": LIVES,
}
"""What a worker's arrays have, by table."""

NESTED_WAYS = ("plain", "pending", "pending_no_injection", "asynchronous")
# The round trip of plain, a turn of L2's loop, and the gap between the ticks of the host's timer.
ROUND_TRIP_NS = 5000.0
TURN_NS = 2.0
TICK_NS = 4e6
VMX_INTERRUPT, VMX_VMCALL = 1, 18

# A hand-over by where the two CPUs are, and on one CPU alone.
HANDOVER_NS = {"siblings": 25.0, "same_node": 100.0, "other_node": 310.0}
ALONE_NS = 3.0

# What the catalogue claims: is the protocol free of races?
CLAIMS: dict[str, bool | None] = {
    "flag_signal": False,
    "sigmask": True,
    "immediate_exit": True,
    "immediate_exit_remote": True,
    "immediate_exit_remote_flag_first": False,
}
STATES = ("guest", "halted", "userspace", "storm")
# The median latency of the baseline's kick by the state of the vCPU.
KICK_NS = {"guest": 9000.0, "halted": 15000.0, "userspace": 1200.0, "storm": 4000.0}
TIMEOUT_NS = 20e6

PLACEMENTS = (
    {"name": "local", "creator": "node:0", "vcpus": "node:0", "kicker": "node:0"},
    {"name": "remote_siglock", "creator": "node:0", "vcpus": "node:1", "kicker": "node:0"},
)

# The shape of kickbench.host.environment.collect(), abridged.
ENVIRONMENT: dict[str, Any] = {
    "hostname": "testhost",
    "kernel": {
        "release": "6.12.0-test",
        "version": "#1 SMP PREEMPT_DYNAMIC",
        "machine": "x86_64",
        "cmdline": "ro quiet mitigations=auto",
        "preempt": "voluntary",
    },
    "cpu": {
        "model": "Imaginary CPU 3000",
        "vendor": "GenuineImaginary",
        "microcode": "0x1",
        "constant_tsc": True,
        "nonstop_tsc": True,
        "online": "0-15",
        "affinity": "0-15",
        "isolated": "",
        "cores": 16,
        "smt": "off",
        "smt_active": False,
    },
    "frequency": {"driver": "none", "governors": ["performance"], "turbo": False},
    "nodes": {
        "0": {"cpus": "0-7", "memory_kib": 33554432, "distances": [10, 21]},
        "1": {"cpus": "8-15", "memory_kib": 33554432, "distances": [21, 10]},
    },
    "mitigations": {"spectre_v2": "Mitigation: Enhanced IBRS", "meltdown": "Not affected"},
    "virtualization": {"hypervisor": None, "nested": False, "container": False},
    "kvm_modules": {"kvm": {"halt_poll_ns": "200000"}},
    "clocksource": {"current": "tsc", "available": ["tsc", "hpet"]},
    "memory": {"total_kib": 67108864, "transparent_hugepages": "madvise"},
    "load": [0.05, 0.03, 0.01],
    "software": {"kickbench": "0.1.0", "python": "3.11.7", "libraries": {"numpy": "2.0.0"}},
}


def case(
    vcpus: int = 2,
    *,
    placement: Mapping[str, str] = PLACEMENTS[0],
    rate: float | None = None,
    methods: Sequence[str] = ("sigmask", "immediate_exit"),
    **other: Any,
) -> dict[str, Any]:
    """The JSON form of one case of the kind exits; ``other`` replaces single fields."""
    speed = "max" if rate is None else f"{rate:g}hz"
    return {
        "id": f"exits-pm_timer-{vcpus}vcpu-{speed}-{placement['name']}",
        "kind": "exits",
        "program": "pm_timer",
        "irqchip": "kernel",
        "vcpus": vcpus,
        "exit_rate_hz": rate,
        "arrival": "periodic",
        "placement": dict(placement),
        "methods": list(methods),
        "baseline": "immediate_exit",
        "processes": 3,
        "precision": 0.001,
        "max_seconds": 60.0,
        "block_ms": None,
        "sample_budget": 1000,
        "seed": 1,
        **other,
    }


def sweep() -> list[dict[str, Any]]:
    """2 placements x 1, 2, 4, 8 vCPUs, and one paced case that this host cannot run."""
    cases = [case(n, placement=p) for p in PLACEMENTS for n in (1, 2, 4, 8)]
    return [*cases, case(8, placement=PLACEMENTS[1], rate=20000.0)]


def rate_sweep(rates: Sequence[float | None] = (1000.0, 20000.0, None)) -> list[dict[str, Any]]:
    """4 vCPUs at each rate; None is full speed. For :func:`build` with ``paced``."""
    return [case(4, rate=rate) for rate in rates]


def node_placements(nodes: int = 2) -> list[dict[str, str]]:
    """The creator on each node, with the vCPUs on each."""
    return [
        {"name": f"n{c}{v}", "creator": f"node:{c}", "vcpus": f"node:{v}", "kicker": f"node:{c}"}
        for c in range(nodes)
        for v in range(nodes)
    ]


def kick_case(state: str = "guest", vcpus: int = 2, **other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind kick; ``other`` replaces single fields."""
    program = {"guest": "spin", "halted": "hlt"}.get(state, "pm_timer")
    return _kicking_case("kick", f"kick-{state}-{vcpus}vcpu-local", vcpus, program) | {
        "state": state,
        **other,
    }


def pause_case(vcpus: int = 16, **other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind pause_all; ``other`` replaces single fields."""
    return _kicking_case("pause_all", f"pause_all-{vcpus}vcpu-local", vcpus, "pm_timer") | other


def race_case(window_ns: float = 0.0, vcpus: int = 2, **other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind race; ``other`` replaces single fields."""
    name = f"race-{vcpus}vcpu-window{window_ns:g}ns-local"
    return _kicking_case("race", name, vcpus, "spin") | {
        "window_ns": window_ns,
        "kicks": 10_000,
        "methods": ["flag_signal", "sigmask", "immediate_exit"],
        **other,
    }


def nested_case(**other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind nested; ``other`` replaces single fields."""
    return _kicking_case("nested", "nested-local", 1, "hypervisor") | {
        "methods": list(NESTED_WAYS),
        "baseline": "plain",
        "iterations": 50,
        **other,
    }


def handover_case(**other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind handover; ``other`` replaces single fields."""
    return _kicking_case("handover", "handover-all", 2, "no_guest") | {
        "methods": ["handover", "alone"],
        "baseline": "handover",
        **other,
    }


def lifecycle_case(moment: str = "first_run", **other: Any) -> dict[str, Any]:
    """The JSON form of one case of the kind lifecycle; ``other`` replaces single fields."""
    name = f"lifecycle-{moment}-{other.get('transport', 'tgkill')}-local"
    mine = {"moment": moment, "vms": 100}
    return _kicking_case("lifecycle", name, 1, "spin") | mine | other


def _kicking_case(kind: str, name: str, vcpus: int, program: str) -> dict[str, Any]:
    later = {"transport": "tgkill", "state": None, "kickers": 1, "kick_rate_hz": None}
    later |= {"window_ns": None, "kicks": None}
    return case(vcpus, id=name, kind=kind, program=program, precision=0.01, **later)


def kick_sweep() -> list[dict[str, Any]]:
    """Kicks in every state, pauses of 2 and 16 vCPUs, two windows, and exits while kicked."""
    kicked = case(2, id="exits-pm_timer-2vcpu-max-1000kicks-local", kick_rate_hz=1000.0)
    cases = [kick_case(state) for state in STATES]
    return [*cases, pause_case(2), pause_case(16), race_case(), race_case(50_000.0), kicked]


def siglock_ns(parameters: Mapping[str, Any]) -> float:
    """The default ``shift_ns``: what sigmask costs more per exit than the baseline."""
    remote = 2.5 if parameters["placement"]["name"] == "remote_siglock" else 1.0
    return 30.0 * remote * float(parameters["vcpus"]) ** 0.8


def entries_of(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The schedule's participants: each method, then the baseline again as the A/A control, and as
    the placebo where the parameters have one.
    """
    roles = ("control", "placebo") if parameters.get("placebo") else ("control",)
    entries = [{"method": method, "role": "method"} for method in parameters["methods"]]
    return [*entries, *({"method": parameters["baseline"], "role": role} for role in roles)]


def _order(rng: np.random.Generator, rounds: int, n_entries: int) -> NDArray[Any]:
    """Rounds x positions: a random order and its mirror image, ABBA for any number of methods."""
    order = np.argsort(rng.random((rounds, n_entries)), axis=1)
    return np.concatenate([order, order[:, ::-1]], axis=1)


def _drift(rng: np.random.Generator, rounds: int, noise: float) -> NDArray[np.float64]:
    """What the methods of a round share: relative noise that is autocorrelated over the rounds."""
    drift = np.zeros(rounds)
    for i in range(1, rounds):
        drift[i] = 0.8 * drift[i - 1] + noise * rng.standard_normal()
    return drift


def _rng(parameters: Mapping[str, Any], process: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, process, zlib.crc32(parameters["id"].encode())])


def _shifts(
    parameters: Mapping[str, Any], shift_ns: float, control_shift_ns: float
) -> NDArray[np.float64]:
    """What each entry costs more than the baseline. The bookkeeping of sigmask is a third of it."""
    shares = {parameters["baseline"]: 0.0, "sigmask_same": 1 / 3}
    of_role = {"control": control_shift_ns, "placebo": parameters.get("placebo_shift_ns", 0.0)}
    return np.array(
        [
            of_role.get(e["role"], shift_ns * shares.get(e["method"], 1.0))
            for e in entries_of(parameters)
        ]
    )


def _shares(parameters: Mapping[str, Any], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """A share by method as a share by entry; 0 for methods without one."""
    return np.array([shares.get(e["method"], 0.0) for e in entries_of(parameters)])


def worker_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float,
    control_shift_ns: float = 0.0,
    rounds: int = 40,
    exits: int = 500,
    hz: float = HZ,
    noise: float = 0.004,
    block_noise: float | None = None,
    disturbed: float = 0.0,
    kick_cost_ns: Mapping[str, float] = {},
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case: structured arrays by table name.

    ``shift_ns`` is added per exit to every method but the baseline, ``control_shift_ns`` to the
    control. ``noise`` is relative: of a round (shared by its blocks, autocorrelated); a block has
    an eighth of it, or ``block_noise``. The share ``disturbed`` of the blocks was moved, rescued
    and lost time to the hypervisor. A kick takes ``kick_cost_ns``, by method, of a vCPU's time.
    """
    rng = _rng(parameters, process, seed)
    n_entries, vcpus = len(entries_of(parameters)), int(parameters["vcpus"])
    order = _order(rng, rounds, n_entries)
    drift = _drift(rng, rounds, noise)
    blocks = np.zeros(rounds * 2 * n_entries * vcpus, BLOCKS)
    shape = (rounds, 2 * n_entries, vcpus)
    grid = np.indices(shape).reshape(3, -1)
    blocks["round"], blocks["position"], blocks["vcpu"] = grid
    blocks["cpu"] = grid[2]
    blocks["entry"] = order[grid[0], grid[1]]
    shift = _shifts(parameters, shift_ns, control_shift_ns)
    spread = noise / 8 if block_noise is None else block_noise
    of_block = spread * rng.standard_normal(len(blocks))
    ns = BASE_NS * (1 + drift[grid[0]] + of_block) + shift[blocks["entry"]]
    count = rng.integers(exits - exits // 20, exits + exits // 20 + 1, len(blocks))
    outlier = rng.random(len(blocks)) < 0.002  # a preempted block: one exit took 50 µs
    blocks["exits"] = blocks["timed_exits"] = count
    blocks["timed_cycles"] = np.rint((ns * count + 50_000 * outlier) * hz / 1e9)
    blocks["elapsed_cycles"] = blocks["timed_cycles"]
    blocks["skew_cycles"] = 2000
    blocks["max_cycles"] = np.rint((ns * 1.4 + 50_000 * outlier) * hz / 1e9)
    # As the samples are: from 0.96 of the mean on, most of them near it, and a tail.
    for name, level in QUANTILES.items():
        blocks[name] = ns * (0.95 + 0.05 * (1 - np.log1p(-level)) ** 0.5) * hz / 1e9
    blocks["cpu_ns"] = np.rint(ns * count * 0.99)
    blocks["involuntary_switches"] = outlier
    blocks["run_delay_ns"] = 50_000 * outlier
    if disturbed:
        hit = rng.random(len(blocks)) < disturbed
        blocks["migrations"] = blocks["rescues"] = hit
        blocks["steal_ns"] = hit * rng.integers(1000, 100_000, len(blocks))
    arrays = {
        "blocks": blocks,
        "exit_histograms": _histograms(blocks, n_entries),
        "exit_samples": _samples(blocks, rng, int(parameters["sample_budget"])),
    }
    if parameters.get("kick_rate_hz") is not None:
        # As with flag_signal and a natural window: some in a thousand are lost.
        arrays["kick_blocks"] = counts = np.zeros(order.size, KICK_BLOCKS)
        _place(counts, order)
        counts["sent"] = counts["met"] = rng.poisson(200, len(counts))
        lost = _shares(parameters, {"flag_signal": 0.003})[counts["entry"]]
        counts["lost"] = rng.binomial(counts["sent"], lost)
        seconds = 200 / (float(parameters["kick_rate_hz"]) * vcpus)
        counts["elapsed_cycles"] = round(seconds * hz)
        taken = counts["sent"] * _shares(parameters, kick_cost_ns)[counts["entry"]] * hz / 1e9
        for name in ("timed_cycles", "elapsed_cycles"):
            blocks[name] += np.rint(np.repeat(taken / vcpus, vcpus)).astype(np.int64)
    return arrays


def _place(rows: NDArray[Any], order: NDArray[Any], per_block: int = 1) -> NDArray[np.int64]:
    """Fill in round, position and entry, ``per_block`` rows for a block; the round of each row."""
    rounds, position = np.repeat(np.indices(order.shape).reshape(2, -1), per_block, axis=1)
    rows["round"], rows["position"] = rounds, position
    rows["entry"] = order[rounds, position]
    return np.asarray(rounds)


def kick_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float,
    control_shift_ns: float = 0.0,
    rounds: int = 40,
    kicks: int = 12,
    unmet: float = 0.02,
    lost: Mapping[str, float] = {"flag_signal": 0.01},
    slow: Mapping[str, float] = {},
    spread: float = 0.3,
    hz: float = HZ,
    noise: float = 0.004,
    send_growth: Mapping[str, float] = {},
    take_turns: bool = False,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind kick.

    A block has ``kicks`` kicks, a round two blocks of each entry. Latencies are log-normal (with
    the standard deviation ``spread``) around the state's median; every quantile of every method but
    the baseline is ``shift_ns`` above the baseline's. The share ``unmet`` meets another state,
    where a kick takes twice as long. A method's share ``lost`` waits for the time-out, its share
    ``slow`` takes 10 to 15 ms more, as if it had been lost and sent again. sigmask has
    no handler, and so no delivery. Several kickers kick in volleys, at once, or one after the other
    where they ``take_turns``; a call takes a fifth of the baseline's latency, and the share
    ``send_growth`` of it more for each further kicker.
    """
    rng = _rng(parameters, process, seed)
    entries = entries_of(parameters)
    order = _order(rng, rounds, len(entries))
    drift = _drift(rng, rounds, noise)
    rows = np.zeros(order.size * kicks, KICKS)
    round_ = _place(rows, order, kicks)
    rows["vcpu"] = rng.integers(0, parameters["vcpus"], len(rows))
    kickers = parameters["kickers"]
    turn = np.tile(np.arange(kicks), order.size)
    rows["kicker"], rows["volley"] = turn % kickers, turn // kickers
    rows["cpu"] = rows["kicker"]
    if kickers > 1:  # each begins at the vCPU of its own index
        rows["vcpu"] = (rows["volley"] + rows["kicker"]) % parameters["vcpus"]
    shift = _shifts(parameters, shift_ns, control_shift_ns)[rows["entry"]]
    base = KICK_NS[parameters["state"]] * (1 + drift[round_])
    ns = base * np.exp(spread * rng.standard_normal(len(rows))) + shift
    rows["met"] = rng.random(len(rows)) >= unmet
    rows["lost"] = rng.random(len(rows)) < _shares(parameters, lost)[rows["entry"]]
    ns = np.where(rows["met"], ns, 2 * ns)
    ns = np.where(rows["lost"], TIMEOUT_NS, ns)
    if slow:
        late = rng.random(len(rows)) < _shares(parameters, slow)[rows["entry"]]
        ns = np.where(late & (rows["lost"] == 0), ns + rng.uniform(10e6, 15e6, len(rows)), ns)
    rows["latency_cycles"] = np.rint(ns * hz / 1e9)
    growth = np.array([send_growth.get(e["method"], 0.0) for e in entries])[rows["entry"]]
    send = 0.2 * base * (1 + growth * (kickers - 1)) * hz / 1e9
    rows["send_cycles"] = np.rint(send)
    handled = np.array([e["method"] != "sigmask" for e in entries])[rows["entry"]]
    rows["delivery_cycles"] = np.where(handled & (rows["lost"] == 0), 0.6 * ns * hz / 1e9, 0)
    rows["returned_cycles"] = np.where(rows["lost"], 0, np.rint(0.9 * ns * hz / 1e9))
    rows["resumed_cycles"] = np.where(rows["lost"], 0, np.rint(1.3 * ns * hz / 1e9))
    rows["signals"] = 1
    # Due at one moment, 100 us after the volley before; a cycle apart, as stamps are.
    apart = 2 * send.max() if take_turns else 1
    rows["at_cycles"] = rows["volley"] * round(1e-4 * hz) + rows["kicker"] * np.rint(apart)
    blocks = np.zeros(order.size, KICK_BLOCKS)
    _place(blocks, order)
    blocks["sent"] = kicks
    blocks["met"] = rows["met"].reshape(-1, kicks).sum(axis=1)
    blocks["lost"] = rows["lost"].reshape(-1, kicks).sum(axis=1)
    blocks["elapsed_cycles"] = round(kicks * 1e-4 * hz)
    return {"kicks": rows, "kick_blocks": blocks}


def pause_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float,
    control_shift_ns: float = 0.0,
    rounds: int = 40,
    pauses: int = 2,
    rescued: Mapping[str, float] = {"flag_signal": 0.01},
    hz: float = HZ,
    noise: float = 0.004,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind pause_all.

    The last vCPU acknowledges after 2 µs a vCPU, and ``shift_ns`` later with any method but the
    baseline; in the share ``rescued`` of a method's pauses a vCPU needed a rescue.
    """
    rng = _rng(parameters, process, seed)
    order = _order(rng, rounds, len(entries_of(parameters)))
    drift = _drift(rng, rounds, noise)
    rows = np.zeros(order.size * pauses, PAUSES)
    round_ = _place(rows, order, pauses)
    shift = _shifts(parameters, shift_ns, control_shift_ns)[rows["entry"]]
    base = (1 + drift[round_]) * np.exp(0.05 * rng.standard_normal(len(rows)))
    last = 5000.0 + 2000.0 * parameters["vcpus"] * base + shift
    rows["rescues"] = rng.random(len(rows)) < _shares(parameters, rescued)[rows["entry"]]
    rows["send_cycles"] = np.rint(0.5 * last * hz / 1e9)
    rows["first_cycles"] = np.rint(5000.0 * hz / 1e9)
    rows["median_cycles"] = np.rint((2500.0 + 0.5 * last) * hz / 1e9)
    rows["last_cycles"] = np.rint(np.where(rows["rescues"] > 0, TIMEOUT_NS, last) * hz / 1e9)
    return {"pauses": rows}


def race_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float = 0.0,
    control_shift_ns: float = 0.0,
    rounds: int = 10,
    kicks: int = 500,
    lost: Mapping[str, float] | None = None,
    spurious: Mapping[str, float] = {},
    hz: float = HZ,
    noise: float = 0.0,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind race.

    A block has ``kicks`` kicks, nine of ten in the window. Of those a method's share ``lost`` is
    lost: by default flag_signal loses 0.2 % at the natural window and 98 % at a wider one.
    """
    rng = _rng(parameters, process, seed)
    order = _order(rng, rounds, len(entries_of(parameters)))
    if lost is None:
        lost = {"flag_signal": 0.98 if parameters["window_ns"] else 0.002}
    rows = np.zeros(order.size, RACES)
    _place(rows, order)
    rows["sent"] = kicks
    rows["landed"] = kicks * 9 // 10
    rows["lost"] = rng.binomial(rows["landed"], _shares(parameters, lost)[rows["entry"]])
    rows["rescues"] = rows["lost"]
    rows["spurious"] = rng.binomial(kicks, _shares(parameters, spurious)[rows["entry"]])
    rows["timeout_cycles"] = round(TIMEOUT_NS * hz / 1e9)
    rows["elapsed_cycles"] = rows["lost"] * rows["timeout_cycles"] + round(kicks * 2e-5 * hz)
    rows["latency_max_cycles"] = np.rint(30_000 * (1 + rng.random(len(rows))) * hz / 1e9)
    return {"races": rows}


def nested_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float = 0.0,
    control_shift_ns: float = 0.0,
    rounds: int = 20,
    kept: bool = False,
    lost: float = 0.0,
    doubled: float = 0.0,
    unexpected: float = 0.0,
    hz: float = HZ,
    noise: float = 0.004,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind nested, on VMX.

    A pending event costs ``shift_ns`` more than plain, an injection a fifth of that once more. Of
    an L0 that has ``kept`` L1's event to itself, L2 works on until a tick of the host's timer. The
    shares ``lost`` and ``doubled`` are of the injections, ``unexpected`` of all iterations.
    """
    rng = _rng(parameters, process, seed)
    entries = entries_of(parameters)
    order = _order(rng, rounds, len(entries))
    drift = _drift(rng, rounds, noise)
    count = int(parameters["iterations"])
    rows = np.zeros(order.size * count, NESTED)
    round_ = _place(rows, order, count)
    way = np.array([e["method"] for e in entries])[rows["entry"]]
    control = np.array([e["role"] == "control" for e in entries])[rows["entry"]]
    pending = np.isin(way, ("pending", "pending_no_injection"))
    rows["injected"] = way == "pending"
    ns = ROUND_TRIP_NS * (1 + drift[round_] + noise * rng.standard_normal(len(rows)))
    ns += shift_ns * pending + shift_ns / 5 * rows["injected"] + control_shift_ns * control
    spun = (way == "asynchronous") * rng.uniform(20_000, 200_000, len(rows))
    rows["latency_cycles"] = np.rint((way == "asynchronous") * 0.8 * ns * hz / 1e9)
    if kept:
        spun += pending * rng.uniform(0, TICK_NS, len(rows))
    rows["work"] = np.rint(spun / TURN_NS)
    rows["cycles"] = np.rint((ns + spun) * hz / 1e9)
    rows["expected"] = rng.random(len(rows)) >= unexpected
    rows["exit_reason"] = np.where(way == "plain", VMX_VMCALL, VMX_INTERRUPT)
    rows["exit_reason"][rows["expected"] == 0] = 48  # EPT violation
    chance = rng.random(len(rows))
    rows["delivered"] = rows["injected"] * np.where(
        chance < lost, 0, np.where(chance > 1 - doubled, 2, 1)
    )
    return {"nested": rows}


def handover_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    shift_ns: float = 0.0,
    control_shift_ns: float = 0.0,
    rounds: int = 10,
    cpus: int = 4,
    nodes: int = 2,
    siblings: bool = False,
    left_out: frozenset[tuple[int, int]] = frozenset(),
    hz: float = HZ,
    noise: float = 0.004,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind handover.

    ``cpus`` are in equal parts on ``nodes`` nodes. With ``siblings``, each two neighbours are the
    threads of a core. The pairs ``left_out`` are not measured. ``shift_ns`` has no meaning here.
    """
    rng = _rng(parameters, process, seed)
    pairs = [(a, b) for a in range(cpus) for b in range(a + 1, cpus) if (a, b) not in left_out]
    seats = {"handover": pairs, "alone": [(cpu, cpu) for cpu in range(cpus)]}
    entries = entries_of(parameters)
    order = _order(rng, rounds, len(entries))
    drift = _drift(rng, rounds, noise)
    rows = []
    for number, turns in enumerate(order):
        before = len(rows)
        for place, entry in enumerate(turns):
            for a, b in seats[entries[entry]["method"]]:
                first, second = (a, b) if place < len(entries) else (b, a)
                row = np.zeros(1, HANDOVER_ROWS)
                row["round"], row["position"], row["entry"] = number, len(rows) - before, entry
                row["first_cpu"], row["second_cpu"] = first, second
                at = [cpu * nodes // cpus for cpu in (first, second)]
                row["first_node"], row["second_node"] = at
                row["siblings"] = siblings and a != b and a // 2 == b // 2
                group = "other_node" if at[0] != at[1] else "same_node"
                ns = HANDOVER_NS["siblings" if row["siblings"][0] else group]
                row["distance"] = -1 if a == b else 10 if at[0] == at[1] else 21
                ns = ALONE_NS if a == b else ns
                ns *= 1 + drift[number] + noise * rng.standard_normal()
                ns += control_shift_ns * (entries[entry]["role"] == "control")
                row["handovers"] = BOUTS * HANDOVERS
                row["quiet_cycles"] = ns * hz / 1e9
                row["elapsed_cycles"] = np.rint(1.1 * row["quiet_cycles"] * row["handovers"])
                rows.append(row)
    return {"handovers": np.concatenate(rows)}


def lifecycle_arrays(
    parameters: Mapping[str, Any],
    process: int,
    *,
    fates: Mapping[str, Mapping[str, int]] = {},
    met: float = 0.5,
    error: int = 12,
    shift_ns: float = 0.0,
    control_shift_ns: float = 0.0,
    rounds: int = 20,
    hz: float = HZ,
    noise: float = 0.004,
    seed: int = 1,
) -> dict[str, NDArray[Any]]:
    """What one worker process returns for a case of the kind lifecycle.

    ``fates`` has by method how many of its VMs had a fault, the first ones: all others answered.
    ``met`` is the share of kicks in time, the first ones as well. ``error`` is that of VMs that
    were poisoned or refused. Shifts and noise have no meaning here.
    """
    rng = _rng(parameters, process, seed)
    methods = parameters["methods"]
    order = _order(rng, rounds, len(methods))
    rows = np.zeros(order.size, LIVES)
    _place(rows, order)
    for entry, method in enumerate(methods):
        mine = np.flatnonzero(rows["entry"] == entry)
        rows["met"][mine[: round(met * len(mine))]] = 1
        for fate, count in fates.get(method, {}).items():
            rows["fate"][mine[:count]] = FATES.index(fate)
            mine = mine[count:]
    rows["error"] = np.where(np.isin(rows["fate"], (3, 4)), error, 0)
    rows["delay_ns"] = rng.integers(10, 300_000, len(rows))
    took = np.rint(30_000 * (1 + rng.random(len(rows))) * hz / 1e9)
    rows["latency_cycles"] = np.where(rows["fate"] <= 1, took, 0)
    return {"lives": rows}


ARRAYS: dict[str, Callable[..., dict[str, NDArray[Any]]]] = {
    "exits": worker_arrays,
    "kick": kick_arrays,
    "pause_all": pause_arrays,
    "race": race_arrays,
    "nested": nested_arrays,
    "handover": handover_arrays,
    "lifecycle": lifecycle_arrays,
}


def _histograms(blocks: NDArray[Any], n_entries: int) -> NDArray[Any]:
    edges = np.unique(np.geomspace(1000, 1_000_000, 400).astype(np.int64))
    mean = blocks["timed_cycles"] / np.maximum(blocks["timed_exits"], 1)
    parts = []
    for entry in range(n_entries):
        chosen = blocks["entry"] == entry
        # Each block's exits: most near its mean, some later.
        values = np.concatenate([mean[chosen] * factor for factor in (0.97, 0.99, 1.0, 1.04)])
        weights = np.tile(blocks["timed_exits"][chosen], 4) // 4
        counts, _ = np.histogram(values, edges, weights=weights)
        used = np.flatnonzero(counts)
        part = np.zeros(len(used), HISTOGRAMS)
        part["entry"], part["count"] = entry, counts[used]
        part["low_cycles"], part["high_cycles"] = edges[used], edges[used + 1]
        parts.append(part)
    return np.concatenate(parts)


def _samples(blocks: NDArray[Any], rng: np.random.Generator, budget: int) -> NDArray[Any]:
    chosen = blocks[:: max(1, len(blocks) // max(1, budget // 8))]
    samples = np.zeros(8 * len(chosen), SAMPLES)
    for name in ("round", "entry", "vcpu"):
        samples[name] = np.repeat(chosen[name], 8)
    mean = np.repeat(chosen["timed_cycles"] / np.maximum(chosen["timed_exits"], 1), 8)
    samples["cycles"] = np.rint(mean * (0.96 + rng.gamma(2, 0.02, len(samples))))
    return samples


def load(others: float = 0.01, **changes: float | None) -> dict[str, float | None]:
    """What ran beside a process of 4 s on 2 CPUs, of which others used this share."""
    return {
        "seconds": 4.0,
        "cpus": 2,
        "own_cpu_seconds": 4.0,
        "others_cpu_seconds": others * 8.0,
        "stolen_cpu_seconds": 0.0,
        "waited_seconds": 0.0,
        "stalled_some_seconds": 0.25,
        "stalled_full_seconds": 0.0,
        **changes,
    }


def noise_rows(parameters: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The noise of a process: the same in each block of 100 ms that another array has rows of."""
    places = next(iter(arrays.values()))[["round", "position", "entry"]]
    blocks = np.unique(places)
    rows = np.zeros(len(blocks), NOISE_ROWS)
    for name in places.dtype.names:
        rows[name] = blocks[name]
    if parameters.get("foreign_signals_hz"):
        rows["foreign_sent"], rows["foreign_taken"], rows["spurious"] = 10, 9, 7
    rows["siglock_taken"] = 1000 * parameters.get("siglock_threads", 0)
    rows["elapsed_cycles"] = HZ // 10
    return rows


def case_document(
    parameters: Mapping[str, Any], *, rounds: int = 40, hz: float = HZ, **other: Any
) -> dict[str, Any]:
    """A case.json for :func:`case_tables`; ``other`` replaces single fields."""
    more: dict[str, Any] = {}
    if parameters["kind"] in ("kick", "race"):
        more = {"lost_timeout_ns": TIMEOUT_NS}
    if parameters["kind"] == "nested":
        kicks = 10 if parameters.get("kick_rate_hz") else 0
        more = {"nested": {"vendor": "vmx", "nested_paging": True, "kicks": kicks}}
        more["nested"]["entries"] = {"iterations": 32, "all": 230, "at_once": 31}
    return {
        "case": dict(parameters),
        "seconds": 12.5,
        "stopped_by": "precision",
        "processes": [
            {
                "index": index,
                "clock": {"kind": "tsc", "hz": hz, "stamp_cycles": 25.0},
                "warnings": [],
                "rounds": rounds,
                "oversubscribed": False,
                "load": load(),
                **more,
            }
            for index in range(parameters["processes"])
        ],
        "claims": {method: CLAIMS.get(method) for method in parameters["methods"]},
        **other,
    }


def case_tables(parameters: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """The Arrow tables of a finished case; the arguments are those of its kind's arrays above."""
    arrays = ARRAYS[parameters["kind"]]
    workers = [arrays(parameters, index, **arguments) for index in range(parameters["processes"])]
    if has_noise(parameters):
        workers = [{**arrays, "noise": noise_rows(parameters, arrays)} for arrays in workers]
    return worker_tables(parameters, workers)


def worker_tables(
    parameters: Mapping[str, Any], workers: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, Any]:
    """The Arrow tables of a case from the arrays of its processes; without an array it is empty."""
    entries = entries_of(parameters)
    no_rows = {table.name: np.zeros(0, DTYPES[table.name]) for table in tables_of_case(parameters)}
    return {
        name: combine(
            [
                from_worker(name, arrays.get(name, empty), entries=entries, process=process)
                for process, arrays in enumerate(workers)
            ]
        )
        for name, empty in no_rows.items()
    }


def build(
    path: Path,
    *,
    cases: Sequence[Mapping[str, Any]] | None = None,
    shift_ns: float | Callable[[Mapping[str, Any]], float] = siglock_ns,
    control_shift_ns: float = 0.0,
    rounds: int = 40,
    noise: float = 0.004,
    seed: int = 1,
    scenario_name: str = "synthetic",
    host: str = "testhost",
    now: datetime.datetime = NOW,
    environment: Mapping[str, Any] = ENVIRONMENT,
    emulated: bool = False,
    count_step: int = 0,
    others: float = 0.01,
    finish: bool = True,
    paced: bool = False,
    of_kicks: Mapping[str, Any] = {},
    nested: Mapping[str, Any] = {},
    handover: Mapping[str, Any] = {},
    lives: Mapping[str, Any] = {},
    **arguments: Any,
) -> Path:
    """Write a run into the results folder ``path`` and return the run's folder.

    ``cases`` default to :func:`sweep`; those with an exit rate are marked as skipped unless the
    host can run them, ``paced``. ``others`` is the share of CPU time that others took.
    ``shift_ns`` is what every method costs more per exit than the baseline, a number or a function
    of the case. Other arguments go to the arrays of exits,
    ``of_kicks``, ``nested``, ``handover`` and ``lives`` to those of these kinds.
    """
    parameters = [dict(item) for item in (sweep() if cases is None else cases)]
    with RunWriter.create(
        path,
        scenario_name,
        scenario={"name": scenario_name, "description": "made up, for tests"},
        cases=parameters,
        environment=environment,
        command=["kickbench", "run", "synthetic.toml"],
        emulated=emulated,
        emulated_by="QEMU TCG" if emulated else None,
        count_step=count_step,
        host=host,
        now=now,
    ) as writer:
        for item in parameters:
            if item["exit_rate_hz"] is not None and not paced:
                writer.mark(item["id"], "skipped", "this host has no node 1")
                continue
            of_kind = {
                "exits": arguments,
                "kick": of_kicks,
                "nested": nested,
                "handover": handover,
                "lifecycle": lives,
            }
            tables = case_tables(
                item,
                shift_ns=shift_ns(item) if callable(shift_ns) else shift_ns,
                control_shift_ns=control_shift_ns,
                rounds=rounds,
                noise=noise,
                seed=seed,
                **of_kind.get(item["kind"], {}),
            )
            document = case_document(item, rounds=rounds)
            for process in document["processes"]:
                process["load"] = load(others)
            writer.write_case(item["id"], document, tables)
        if finish:
            writer.finish()
    return writer.path
