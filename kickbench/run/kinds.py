# SPDX-License-Identifier: Apache-2.0
"""The table of what the engine measures: for each kind of case, who kicks how, and what is kept.

The kinds nested and handover have rounds of their own: see :mod:`kickbench.run.nested` and
:mod:`kickbench.run.handover`.

The arrays have the columns of the tables in :mod:`kickbench.results.tables`, with ``entry`` (an
index into the schedule's participants) in place of the method. Standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kickbench.engine.engine import (
    LANDED,
    LOST,
    MET,
    TRANSPORTS,
    Clock,
    Engine,
    Kickers,
    Plan,
    histogram_edges,
    quantile_levels,
)
from kickbench.run.schedule import Timing
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import FIGURES, MAX_KICKS_HZ
from kickbench.stats.quiet import QUIET_LEVELS, quiet

# Mean time between two kicks of a kicker. It is far more than a kick takes, so that the vCPU is in
# its state again. The thread of a halted vCPU polls first (kvm.halt_poll_ns), and sleeps after it.
KICK_GAP_NS = 150_000
HALT_POLLS = 3
PAUSE_GAP_NS = 500_000
USERSPACE_NS = 5_000
# How long before the natural window it is announced: longer than most kickers' calls take.
AIM_NS = 20_000
# Room for the kicks of all kickers in one round, about 1 GiB. A kicker stops when its buffer is
# full.
MAX_KICKS = 20_000_000
# Below this share of the wanted rate there is a warning.
REACHED = 0.9

# The time-out after which a kick may be lost: at first, and once latencies are known.
FIRST_LOST_AFTER_NS = 100_000_000
LOST_AFTER_MEDIANS = 100
MIN_LOST_AFTER_NS = 1_000_000
MAX_LOST_AFTER_NS = 200_000_000
# A method's race ends after so many lost kicks. Each of them costs the time-out above.
ENOUGH_LOST = 200


@dataclass(frozen=True)
class Round:
    """One round. The engine still has its samples, kicks and pauses.
    ``order[position]`` is the entry of each block, ``results`` are its BLOCK_RESULT records
    (blocks, vCPUs), ``lost_after_cycles`` is the round's time-out for kicks.
    """

    number: int
    engine: Engine
    order: list[int]
    results: NDArray[Any]
    lost_after_cycles: int

    def rows(self, dtype: np.dtype[Any], position: NDArray[Any]) -> NDArray[Any]:
        """Empty rows for the blocks at these positions."""
        rows = np.zeros(len(position), dtype)
        rows["round"] = self.number
        rows["position"] = position
        rows["entry"] = np.array(self.order)[position]
        return rows

    def block_rows(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A row for every block, with what all vCPUs did in it."""
        rows = self.rows(dtype, np.arange(len(self.order)))
        rows["spurious"] = self.results["spurious_exits"].sum(axis=1)
        rows["elapsed_cycles"] = self.results["elapsed_cycles"].max(axis=1)
        return rows

    def per_block(self, blocks: NDArray[Any]) -> NDArray[Any]:
        """How often each block occurs in ``blocks``."""
        return np.bincount(blocks, minlength=len(self.order))


class Recorder(Protocol):
    """Collects the rounds of one kind, and returns them as arrays at the end."""

    def round_cycles(self, entry: int) -> dict[str, float]:
        """The figures that the kind compares, of one entry in the last round: cycles by the
        contrast's metric. The running estimate shows the first. Empty if the entry has none.
        """

    def counts(self, entry: int) -> dict[str, int]:
        """The counts of one entry so far; empty if the kind counts nothing."""

    def is_settled(self, entry: int) -> bool:
        """Whether the entry needs no more rounds."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All rounds, by table."""


class EngineRecorder(Recorder, Protocol):
    """Takes the rounds of the engine."""

    def add(self, taken: Round) -> None:
        """Take a round."""

    def latencies_cycles(self) -> NDArray[Any]:
        """Latencies of the last round's kicks that were not lost."""


class Bench(Protocol):
    """The machine of a case, and how it runs a round.

    ``facts`` are further keys of a process in case.json, for what is not in the arrays.
    """

    clock: Clock

    @property
    def recorder(self) -> Recorder:
        """The recorder of this bench's rounds."""

    @property
    def facts(self) -> dict[str, Any]:
        """See above. They are final when all rounds are over."""

    def round(self, number: int, turns: list[int], after_block: Callable[[], None], /) -> None:
        """Run a block of each of the participants ``turns``, in this order, and record it.

        A bench whose blocks can be long calls ``after_block`` now and then, as a sign of life.
        """


class BaseRecorder:
    """Defaults for a recorder: it compares and counts nothing, and times no kicks."""

    def round_cycles(self, entry: int) -> dict[str, float]:
        return {}

    def counts(self, entry: int) -> dict[str, int]:
        return {}

    def latencies_cycles(self) -> NDArray[Any]:
        return np.empty(0)

    def is_settled(self, entry: int) -> bool:
        return False


def medians(metric: str, cycles: NDArray[Any]) -> dict[str, float]:
    """``round_cycles`` of a recorder that compares medians."""
    return {metric: float(np.median(cycles))} if len(cycles) else {}


def joined(parts: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The rows of all parts, one below the other. There may be no parts."""
    return np.concatenate(parts) if parts else np.empty(0, dtype)


PLACE = [("round", "i4"), ("position", "i2"), ("entry", "u1")]
"""The fields that name the block of a row."""

# --- exits --------------------------------------------------------------------------------------

_KEPT = (
    "exits",
    "elapsed_cycles",
    "skew_cycles",
    "stalled_cycles",
    "timed_exits",
    "timed_cycles",
    "max_cycles",
    "cpu_ns",
    "run_delay_ns",
    "voluntary_switches",
    "involuntary_switches",
    "migrations",
    "steal_ns",
    "rescues",
    "kicked",
    "spurious_exits",
    "unsampled",
    "cpu",
)
SAMPLES = np.dtype([("round", "i4"), ("entry", "u1"), ("vcpu", "i2"), ("cycles", "u4")])
HISTOGRAMS = np.dtype(
    [("entry", "u1"), ("low_cycles", "u4"), ("high_cycles", "u8"), ("count", "i8")]
)


def blocks_with(quantiles: Iterable[str]) -> np.dtype[Any]:
    """The rows of the table ``blocks`` with quantiles of these names."""
    kept = [(name, "i8") for name in _KEPT]
    return np.dtype([*PLACE, ("vcpu", "i2"), *kept, *((name, "f4") for name in quantiles)])


@cache
def blocks_dtype() -> np.dtype[Any]:
    """The rows of the table ``blocks``; the engine says which quantiles they have."""
    return blocks_with(quantile_levels())


@cache
def _quiet_names() -> list[str]:
    """The columns of blocks that the quiet exit is made of."""
    return [name for name, level in quantile_levels().items() if level in QUIET_LEVELS]


class ExitRecorder(BaseRecorder):
    """All blocks, all exits as histograms, and whole rounds of samples up to a budget.

    When the budget is full, every second kept round is dropped. From then on only every 2nd, 4th,
    8th ... round is kept. So the kept rounds are evenly spread over the run, and no sample decides
    which are kept.
    """

    def __init__(self, case: Case, n_entries: int) -> None:
        self._blocks: list[NDArray[Any]] = []
        self._samples: dict[int, NDArray[Any]] = {}
        self._kept = 0
        self._budget = case.sample_budget // case.processes
        self._stride = 1
        self._n_entries = n_entries
        # At full speed the time per exit is the whole window over its exits, as in the summary.
        self._time = ("timed_cycles", "timed_exits")
        if case.exit_rate_hz is None:
            self._time = ("elapsed_cycles", "exits")
        self._kicks = KickRecorder() if case.kick_rate_hz is not None else None

    def add(self, taken: Round) -> None:
        n_blocks, n_vcpus = taken.results.shape
        rows = taken.rows(blocks_dtype(), np.repeat(np.arange(n_blocks), n_vcpus))
        rows["vcpu"] = np.tile(np.arange(n_vcpus), n_blocks)
        for name in _KEPT:
            rows[name] = taken.results[name].ravel()
        for index, name in enumerate(quantile_levels()):
            rows[name] = taken.results["quantiles"][..., index].ravel()
        self._blocks.append(rows)
        self._engine = taken.engine
        if taken.number % self._stride == 0:
            self._keep_samples(taken)
        if self._kicks is not None:
            self._kicks.add(taken)

    def unsampled(self) -> tuple[int, int]:
        """The exits so far that did not fit the sample buffers, and all exits."""
        left = sum(int(rows["unsampled"].sum()) for rows in self._blocks)
        return left, sum(int(rows["exits"].sum()) for rows in self._blocks)

    def round_cycles(self, entry: int) -> dict[str, float]:
        mine = self._blocks[-1][self._blocks[-1]["entry"] == entry]
        cycles, exits = (int(mine[name].sum()) for name in self._time)
        of_vcpus = quiet([mine[name].astype(np.float64) for name in _quiet_names()])
        of_vcpus = of_vcpus[np.isfinite(of_vcpus)]
        if not exits or not len(of_vcpus):
            return {}
        return {FIGURES["quiet"]: float(of_vcpus.mean()), FIGURES["mean"]: cycles / exits}

    def arrays(self) -> dict[str, NDArray[Any]]:
        kicks = self._kicks.arrays() if self._kicks is not None else {}
        return {
            "blocks": joined(self._blocks, blocks_dtype()),
            "exit_samples": joined(list(self._samples.values()), SAMPLES),
            "exit_histograms": self._histograms(),
            **{name: array for name, array in kicks.items() if name == "kick_blocks"},
        }

    def shortfalls(self, case: Case, block_ns: int) -> list[str]:
        """A sentence for each wanted rate that was not reached."""
        rows = joined(self._blocks, blocks_dtype())
        seconds = len(rows) * block_ns / 1e9  # of all vCPUs
        found = []
        if case.exit_rate_hz is not None:
            exits = int(rows["exits"].sum())
            found.append(_shortfall("exits/s of each vCPU", case.exit_rate_hz, exits, seconds))
        if self._kicks is not None and case.kick_rate_hz is not None:
            sent = int(self._kicks.arrays()["kick_blocks"]["sent"].sum())
            asked_hz = case.kick_rate_hz * case.vcpus
            found.append(_shortfall("kicks/s", asked_hz, sent, seconds / case.vcpus))
        return [words for words in found if words is not None]

    def _keep_samples(self, taken: Round) -> None:
        parts = []
        for position, entry in enumerate(taken.order):
            for vcpu, result in enumerate(taken.results[position]):
                cycles = taken.engine.samples(
                    vcpu, int(result["samples_offset"]), int(result["samples_count"])
                )
                part = np.empty(len(cycles), SAMPLES)
                part["round"], part["entry"], part["vcpu"] = taken.number, entry, vcpu
                part["cycles"] = cycles
                parts.append(part)
        self._samples[taken.number] = np.concatenate(parts)
        self._kept += len(self._samples[taken.number])
        while self._kept > self._budget and len(self._samples) > 1:
            self._stride *= 2
            for other in [n for n in self._samples if n % self._stride]:
                self._kept -= len(self._samples.pop(other))

    def _histograms(self) -> NDArray[Any]:
        edges = histogram_edges()
        parts = []
        for entry in range(self._n_entries):
            counts = self._engine.histogram(entry)
            hit = np.flatnonzero(counts)
            part = np.empty(len(hit), HISTOGRAMS)
            part["entry"] = entry
            part["low_cycles"], part["high_cycles"] = edges[hit], edges[hit + 1]
            part["count"] = counts[hit]
            parts.append(part)
        return np.concatenate(parts)


def _shortfall(what: str, asked_hz: float, made: int, seconds: float) -> str | None:
    """None if about as many were made, or if there are too few to decide."""
    asked = asked_hz * seconds
    if made + 3 * asked**0.5 >= REACHED * asked:
        return None
    return (
        f"asked for {asked_hz:,.0f} {what}, reached {made / seconds:,.0f}: the figures are for the "
        "lower rate"
    )


# --- kicks --------------------------------------------------------------------------------------

KICKS = np.dtype(
    [
        *PLACE,
        ("vcpu", "i2"),
        ("kicker", "i2"),
        ("volley", "i4"),
        ("cpu", "i4"),
        ("met", "?"),
        ("lost", "?"),
        ("at_cycles", "i8"),
        ("send_cycles", "u4"),
        ("delivery_cycles", "u4"),
        ("returned_cycles", "i8"),
        ("latency_cycles", "u4"),
        ("resumed_cycles", "u4"),
        ("signals", "u4"),
    ]
)
KICK_BLOCKS = np.dtype(
    [*PLACE, *((name, "i8") for name in ("sent", "met", "lost", "spurious", "elapsed_cycles"))]
)


class KickRecorder(BaseRecorder):
    """Every kick, and the counts of every block."""

    def __init__(self) -> None:
        self._kicks: list[NDArray[Any]] = []
        self._blocks: list[NDArray[Any]] = []

    def add(self, taken: Round) -> None:
        kicks = taken.engine.kicks()
        met, lost = (kicks["flags"] & MET) != 0, (kicks["flags"] & LOST) != 0
        rows = taken.rows(KICKS, kicks["block"].astype(np.int64))
        for name in ("vcpu", "kicker", "volley", "cpu", "signals"):
            rows[name] = kicks[name]
        rows["met"], rows["lost"] = met, lost
        for name in ("at", "send", "delivery", "returned", "latency", "resumed"):
            rows[f"{name}_cycles"] = kicks[name]
        self._kicks.append(rows)
        blocks = taken.block_rows(KICK_BLOCKS)
        blocks["sent"] = taken.per_block(kicks["block"])
        blocks["met"] = taken.per_block(kicks["block"][met])
        blocks["lost"] = taken.per_block(kicks["block"][lost])
        self._blocks.append(blocks)

    def round_cycles(self, entry: int) -> dict[str, float]:
        last = self._kicks[-1]
        mine = last[(last["entry"] == entry) & last["met"] & ~last["lost"]]
        return medians("latency_p50_ns", mine["latency_cycles"])

    def latencies_cycles(self) -> NDArray[Any]:
        last = self._kicks[-1]
        return np.asarray(last["latency_cycles"][~last["lost"] & (last["latency_cycles"] > 0)])

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "kicks": joined(self._kicks, KICKS),
            "kick_blocks": joined(self._blocks, KICK_BLOCKS),
        }


# --- pause_all ----------------------------------------------------------------------------------

_PAUSE_TIMES = ("at", "send", "first", "median", "last")
PAUSES = np.dtype([*PLACE, *((f"{name}_cycles", "i8") for name in _PAUSE_TIMES), ("rescues", "i8")])


class PauseRecorder(BaseRecorder):
    """Every pause of all vCPUs."""

    def __init__(self) -> None:
        self._pauses: list[NDArray[Any]] = []

    def add(self, taken: Round) -> None:
        pauses = taken.engine.pauses()
        rows = taken.rows(PAUSES, pauses["block"].astype(np.int64))
        for name in _PAUSE_TIMES:
            rows[f"{name}_cycles"] = pauses[name]
        rows["rescues"] = pauses["rescues"]
        self._pauses.append(rows)

    def round_cycles(self, entry: int) -> dict[str, float]:
        mine = self._pauses[-1][self._pauses[-1]["entry"] == entry]
        return medians("pause_last_ns", mine["last_cycles"])

    def latencies_cycles(self) -> NDArray[Any]:
        return np.asarray(self._pauses[-1]["last_cycles"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"pauses": joined(self._pauses, PAUSES)}


# --- race ---------------------------------------------------------------------------------------

_COUNTS = ("sent", "landed", "lost")
RACES = np.dtype(
    [
        *PLACE,
        *((name, "i8") for name in (*_COUNTS, "resent", "spurious", "rescues")),
        *((f"{name}_cycles", "i8") for name in ("timeout", "elapsed", "latency_max")),
    ]
)


class RaceRecorder(BaseRecorder):
    """The counts of every block, until enough kicks of each method have landed, or were lost."""

    def __init__(self, case: Case, n_entries: int) -> None:
        self._races: list[NDArray[Any]] = []
        self._wanted = -(-(case.kicks or 0) // case.processes)
        self._counts = [dict.fromkeys(_COUNTS, 0) for _ in range(n_entries)]
        self._latencies = np.empty(0)

    def add(self, taken: Round) -> None:
        kicks = taken.engine.kicks()
        block = kicks["block"]
        lost = (kicks["flags"] & LOST) != 0
        rows = taken.block_rows(RACES)
        rows["sent"] = taken.per_block(block)
        rows["landed"] = taken.per_block(block[(kicks["flags"] & LANDED) != 0])
        rows["resent"] = taken.per_block(block[kicks["signals"] > 1])
        rows["lost"] = taken.per_block(block[lost])
        rows["timeout_cycles"] = taken.lost_after_cycles
        rows["rescues"] = np.bincount(block, kicks["rescues"], minlength=len(taken.order))
        np.maximum.at(rows["latency_max_cycles"], block[~lost], kicks["latency"][~lost])
        self._races.append(rows)
        self._latencies = kicks["latency"][~lost & (kicks["latency"] > 0)]
        for row in rows:
            for name in _COUNTS:
                self._counts[row["entry"]][name] += int(row[name])

    def counts(self, entry: int) -> dict[str, int]:
        return self._counts[entry]

    def latencies_cycles(self) -> NDArray[Any]:
        return self._latencies

    def is_settled(self, entry: int) -> bool:
        counts = self._counts[entry]
        return counts["landed"] >= self._wanted or counts["lost"] >= ENOUGH_LOST

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"races": joined(self._races, RACES)}


# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """How one kind is measured. ``plan`` has no seed and no time-out: each round has its own."""

    plan: Callable[[Case], Plan]
    n_kickers: Callable[[Case], int]
    recorder: Callable[[Case, int], EngineRecorder]


def _exits_plan(case: Case) -> Plan:
    if case.kick_rate_hz is None:
        return Plan()
    return Plan(kicking="volleys", gap_ns=int(1e9 / (case.kick_rate_hz * case.vcpus)))


def _kick_plan(case: Case) -> Plan:
    return Plan(
        loop="kick",
        kicking="volleys",
        state=case.state,
        gap_ns=_halted_gap_ns() if case.state == "halted" else KICK_GAP_NS,
        userspace_ns=USERSPACE_NS if case.state == "userspace" else 0,
    )


def _halted_gap_ns() -> int:
    parameter = Path("/sys/module/kvm/parameters/halt_poll_ns")
    try:
        polls_ns = int(parameter.read_text())
    except (OSError, ValueError):
        polls_ns = 200_000
    return KICK_GAP_NS + HALT_POLLS * polls_ns


def _race_plan(case: Case) -> Plan:
    window_ns = int(case.window_ns or 0)
    return Plan(
        loop="kick",
        kicking="aimed",
        userspace_ns=0 if window_ns else AIM_NS,
        window_ns=window_ns,
    )


MEASUREMENTS: dict[str, Measurement] = {
    "exits": Measurement(
        plan=_exits_plan,
        n_kickers=lambda case: 0 if case.kick_rate_hz is None else 1,
        recorder=ExitRecorder,
    ),
    "kick": Measurement(
        plan=_kick_plan,
        n_kickers=lambda case: case.kickers,
        recorder=lambda *_: KickRecorder(),
    ),
    "pause_all": Measurement(
        plan=lambda _: Plan(loop="kick", kicking="pauses", gap_ns=PAUSE_GAP_NS),
        n_kickers=lambda _: 1,
        recorder=lambda *_: PauseRecorder(),
    ),
    "race": Measurement(
        plan=_race_plan,
        n_kickers=lambda case: case.vcpus,
        recorder=RaceRecorder,
    ),
}


_OTHER_KICKERS = {"nested": 1, "handover": 0}
"""The kicking threads of the kinds that are not the engine's: one interrupts L2."""


def kicking_threads(case: Case) -> int:
    """The number of a case's kicking threads."""
    measurement = MEASUREMENTS.get(case.kind)
    return measurement.n_kickers(case) if measurement else _OTHER_KICKERS[case.kind]


def kickers(case: Case, cpus: Sequence[int], timing: Timing, n_blocks: int) -> Kickers | None:
    """The kicking threads of a case, with room for their kicks and pauses in one round."""
    count = kicking_threads(case)
    if not count:
        return None
    # Two kicks are at least half a mean gap apart.
    gap_ns = MEASUREMENTS[case.kind].plan(case).gap_ns
    kicks_hz = min(MAX_KICKS_HZ, 2e9 / gap_ns) if gap_ns else MAX_KICKS_HZ
    most = int(n_blocks * timing.block_ns / 1e9 * kicks_hz)
    pauses = case.kind == "pause_all"
    return Kickers(
        count,
        cpus,
        case.transport if case.transport in TRANSPORTS else "tgkill",
        kicks_capacity=1 if pauses else min(max(1024, most), MAX_KICKS // count),
        pauses_capacity=max(64, most) if pauses else 0,
    )


def lost_after_ns(latencies_cycles: NDArray[Any], clock: Clock) -> int:
    """The time-out after which a kick may be lost: 100 times the median of the latencies seen.

    The time-out is bounded, and it is not the only sign: the guest must be seen to run on as well.
    A kick whose vCPU's thread waits for a CPU is only late, and the kicker waits for it.
    """
    if not len(latencies_cycles):
        return FIRST_LOST_AFTER_NS
    median_ns = float(np.median(latencies_cycles)) / clock.hz * 1e9
    return int(np.clip(LOST_AFTER_MEDIANS * median_ns, MIN_LOST_AFTER_NS, MAX_LOST_AFTER_NS))
