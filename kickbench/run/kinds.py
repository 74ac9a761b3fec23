# SPDX-License-Identifier: Apache-2.0
"""The table of what the engine measures: for each kind of case, who kicks how, and what is kept.

The kinds nested, handover and lifecycle have rounds of their own: see :mod:`kickbench.run.nested`,
:mod:`kickbench.run.handover` and :mod:`kickbench.run.lifecycle`.

The records have the columns of the tables in :mod:`kickbench.results.tables`, with ``entry`` (an
index into the schedule's participants) in place of the method. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, compress
from math import isfinite, log2
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from kickbench.engine.engine import (
    LANDED,
    LOST,
    MET,
    TRANSPORTS,
    Clock,
    Engine,
    Kickers,
    NoiseThreads,
    Plan,
    histogram_edges,
    quantile_levels,
)
from kickbench.guest.programs import stays_in_kernel
from kickbench.records import Collected, Records, RecordType
from kickbench.run.schedule import Entry, Timing
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import (
    DEFAULT_PAUSE_GAP_US,
    FIGURES,
    LATENCY_BINS,
    MAX_KICKS_HZ,
    STATES,
)
from kickbench.stats.quiet import QUIET_LEVELS, quiet

# Mean time between two kicks of a kicker. It is far more than a kick takes, so that the vCPU is in
# its state again. The thread of a halted vCPU polls first (kvm.halt_poll_ns), and sleeps after it.
KICK_GAP_NS = 150_000
HALT_POLLS = 3
USERSPACE_NS = 5_000
# How long the window is held open for a kick that is timed there: longer than most kickers' calls.
HELD_WINDOW_NS = 20_000
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
ACCESSES = ("accesses", "twice", "never")
"""The engine's counts of what the guest accesses: see ``accesses.c``."""
# A method's race ends after so many lost kicks. Each of them costs the time-out above.
ENOUGH_LOST = 200


@dataclass(frozen=True)
class Round:
    """One round. The engine still has its samples, kicks and pauses.
    ``order[position]`` is the entry of each block, ``results`` are what :meth:`Engine.blocks`
    returned, ``lost_after_cycles`` is the round's time-out for kicks.
    """

    number: int
    engine: Engine
    order: list[int]
    results: Records
    lost_after_cycles: int

    @property
    def n_vcpus(self) -> int:
        """The vCPUs, each of which has a record for each block."""
        return len(self.results) // len(self.order)

    def rows(self, type_: RecordType, position: int, count: int) -> Records:
        """So many empty rows for the block at this position."""
        place = {"round": self.number, "position": position, "entry": self.order[position]}
        return Records.of(type_, count, **place)

    def block_rows(self, type_: RecordType) -> Records:
        """A row for every block, with what all vCPUs did in it."""
        rows = Records.of(type_, len(self.order), round=self.number)
        rows["position"], rows["entry"] = range(len(self.order)), self.order
        rows["spurious"] = self.sums("spurious_exits")
        rows["elapsed_cycles"] = map(max, self._by_block("elapsed_cycles"))
        return rows

    def sums(self, name: str) -> Iterator[int]:
        """A field of the results, summed over the vCPUs: a number for every block."""
        return map(sum, self._by_block(name))

    def _by_block(self, name: str) -> Iterator[memoryview[int]]:
        column = self.results[name]
        for begin in range(0, len(column), self.n_vcpus):
            yield column[begin : begin + self.n_vcpus]

    def kicks(self) -> Iterator[tuple[int, Records]]:
        """The kicks of each kicker in each block, with the block's position."""
        return chain.from_iterable(map(by_block, self.engine.kicks()))


def by_block(records: Records) -> Iterator[tuple[int, Records]]:
    """The records of each block, with its position. They are in the order of their blocks."""
    blocks, begin = records["block"], 0
    while begin < len(blocks):
        end = bisect_right(blocks, blocks[begin], begin)
        yield blocks[begin], records.part(begin, end)
        begin = end


class AccessCounts:
    """By method, the accesses of the guest in all rounds, and those that were not done once.

    The counts of the controls are the baseline's. A guest that does not count has no entry.
    """

    def __init__(self, participants: Sequence[Entry]) -> None:
        self._participants = participants
        self.by_method: dict[str, dict[str, int]] = {}

    def add(self, order: Sequence[int], results: Records) -> None:
        """Take a round: blocks of these entries, with a record for each vCPU."""
        n_vcpus = len(results) // len(order)
        for name in ACCESSES:
            column = results[name]
            for position, entry in enumerate(order):
                count = sum(column[position * n_vcpus : (position + 1) * n_vcpus])
                if count:
                    method = self._participants[entry].method
                    counts = self.by_method.setdefault(method, dict.fromkeys(ACCESSES, 0))
                    counts[name] += count


class KickTimes:
    """By method, a race's kicks that were not lost, by their latency and by the signals sent.

    A kick is of "one" signal, or of "more": those that its call sent. Bin i begins at
    2^(i / LATENCY_BINS) ns. The kicks of the controls are the baseline's.
    """

    def __init__(self, participants: Sequence[Entry], clock: Clock) -> None:
        self._participants, self._ns_per_cycle = participants, 1e9 / clock.hz
        self.by_method: dict[str, dict[str, dict[str, int]]] = {}

    def add(self, taken: Round) -> None:
        """Take a round of aimed kicks."""
        for position, kicks in taken.kicks():
            method = self._participants[taken.order[position]].method
            times = self.by_method.setdefault(method, {"one": {}, "more": {}})
            signals = compress(kicks["signals"], kicks["flags"].tobytes().translate(_FOUND))
            for cycles, sent in zip(_latencies(kicks, _FOUND), signals):
                if cycles:
                    bin_ = int(LATENCY_BINS * log2(max(1.0, cycles * self._ns_per_cycle)))
                    counts = times["more" if sent > 1 else "one"]
                    counts[str(bin_)] = counts.get(str(bin_), 0) + 1


class Recorder(Protocol):
    """Collects the rounds of one kind, and has them as arrays at the end."""

    def round_cycles(self, entry: int) -> dict[str, float]:
        """The figures that the kind compares, of one entry in the last round: cycles by the
        contrast's metric. The running estimate shows the first. Empty if the entry has none.
        """

    def counts(self, entry: int) -> dict[str, int]:
        """The counts of one entry so far; empty if the kind counts nothing."""

    def is_settled(self, entry: int) -> bool:
        """Whether the entry needs no more rounds."""

    def arrays(self) -> dict[str, Collected]:
        """All rounds, by table."""


class EngineRecorder(Recorder, Protocol):
    """Takes the rounds of the engine."""

    def add(self, taken: Round) -> None:
        """Take a round."""

    def latencies_cycles(self) -> Sequence[int]:
        """Latencies of the last round's kicks that were not lost. The engine still has them."""


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

    def latencies_cycles(self) -> Sequence[int]:
        return ()

    def is_settled(self, entry: int) -> bool:
        return False


def medians(metric: str, cycles: Iterable[float]) -> dict[str, float]:
    """``round_cycles`` of a recorder that compares medians."""
    found = list(cycles)
    return {metric: float(median(found))} if found else {}


PLACE = [("round", "i"), ("position", "h"), ("entry", "B")]
"""The fields that name the block of a row."""

# --- exits --------------------------------------------------------------------------------------

# The engine's fields, with its codes: so they are copied as they are.
_KEPT = [
    ("exits", "q"),
    ("elapsed_cycles", "q"),
    ("skew_cycles", "q"),
    ("stalled_cycles", "q"),
    ("timed_exits", "q"),
    ("timed_cycles", "q"),
    ("max_cycles", "q"),
    ("cpu_ns", "q"),
    ("run_delay_ns", "q"),
    ("steal_ns", "q"),
    ("spurious_exits", "q"),
    ("unsampled", "q"),
    ("voluntary_switches", "i"),
    ("involuntary_switches", "i"),
    ("migrations", "i"),
    ("rescues", "i"),
    ("kicked", "i"),
    ("cpu", "i"),
]
SAMPLES = RecordType.of([("round", "i"), ("vcpu", "h"), ("entry", "B"), ("cycles", "I")])
HISTOGRAMS = RecordType.of(
    [("entry", "B"), ("low_cycles", "I"), ("high_cycles", "Q"), ("count", "Q")]
)


def blocks_with(quantiles: Iterable[str]) -> RecordType:
    """The rows of the table ``blocks`` with quantiles of these names."""
    return RecordType.of([*PLACE, ("vcpu", "h"), *_KEPT, *((name, "f") for name in quantiles)])


@cache
def blocks_type() -> RecordType:
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
        self._blocks = Collected(blocks_type())
        self._samples: dict[int, list[Records]] = {}
        self._kept = 0
        self._budget = case.sample_budget // case.processes
        self._stride = 1
        self._n_entries = n_entries
        # At full speed the time per exit is the whole window over its exits, as in the summary.
        self._time = ("timed_cycles", "timed_exits")
        if case.exit_rate_hz is None and not stays_in_kernel(case.program):
            self._time = ("elapsed_cycles", "exits")
        self._kicks = KickRecorder() if case.kick_rate_hz is not None else None

    def add(self, taken: Round) -> None:
        positions, vcpus = range(len(taken.order)), range(taken.n_vcpus)
        rows = Records.of(blocks_type(), len(taken.results), round=taken.number)
        rows["position"] = [position for position in positions for _ in vcpus]
        rows["entry"] = [entry for entry in taken.order for _ in vcpus]
        rows["vcpu"] = [vcpu for _ in positions for vcpu in vcpus]
        for name, _ in _KEPT:
            rows[name] = taken.results[name]
        for index, name in enumerate(quantile_levels()):
            rows[name] = taken.results.column("quantiles", index)
        self._blocks.parts.append(rows)
        self._engine = taken.engine
        if taken.number % self._stride == 0:
            self._keep_samples(taken)
        if self._kicks is not None:
            self._kicks.add(taken)

    def unsampled(self) -> tuple[int, int]:
        """The exits so far that did not fit the sample buffers, and all exits."""
        return self._blocks.sum("unsampled"), self._blocks.sum("exits")

    def round_cycles(self, entry: int) -> dict[str, float]:
        last = self._blocks.parts[-1]
        mine = [one == entry for one in last["entry"]]
        cycles, exits = (sum(compress(last[name], mine)) for name in self._time)
        levels = zip(*(compress(last[name], mine) for name in _quiet_names()))
        of_vcpus = [quiet(some) for some in levels if all(map(isfinite, some))]
        if not exits or not of_vcpus:
            return {}
        return {FIGURES["quiet"]: fmean(of_vcpus), FIGURES["mean"]: cycles / exits}

    def arrays(self) -> dict[str, Collected]:
        kicks = self._kicks.arrays() if self._kicks is not None else {}
        return {
            "blocks": self._blocks,
            "exit_samples": Collected(SAMPLES, [*chain(*self._samples.values())]),
            "exit_histograms": self._histograms(),
            **{name: array for name, array in kicks.items() if name == "kick_blocks"},
        }

    def shortfalls(self, case: Case, block_ns: int) -> list[str]:
        """A sentence for each wanted rate that was not reached."""
        seconds = len(self._blocks) * block_ns / 1e9  # of all vCPUs
        found = []
        if case.exit_rate_hz is not None:
            exits = self._blocks.sum("exits")
            found.append(_shortfall("exits/s of each vCPU", case.exit_rate_hz, exits, seconds))
        if self._kicks is not None and case.kick_rate_hz is not None:
            sent = self._kicks.arrays()["kick_blocks"].sum("sent")
            asked_hz = case.kick_rate_hz * case.vcpus
            found.append(_shortfall("kicks/s", asked_hz, sent, seconds / case.vcpus))
        return [words for words in found if words is not None]

    def _keep_samples(self, taken: Round) -> None:
        parts = self._samples.setdefault(taken.number, [])
        offsets, counts = taken.results["samples_offset"], taken.results["samples_count"]
        for index, (offset, count) in enumerate(zip(offsets, counts)):
            position, vcpu = divmod(index, taken.n_vcpus)
            place = {"round": taken.number, "entry": taken.order[position], "vcpu": vcpu}
            part = Records.of(SAMPLES, count, **place)
            part["cycles"] = taken.engine.samples(vcpu, offset, count)
            parts.append(part)
        self._kept += sum(counts)
        while self._kept > self._budget and len(self._samples) > 1:
            self._stride *= 2
            for other in [n for n in self._samples if n % self._stride]:
                self._kept -= sum(map(len, self._samples.pop(other)))

    def _histograms(self) -> Collected:
        edges = histogram_edges()
        rows = Collected(HISTOGRAMS)
        for entry in range(self._n_entries):
            counts = self._engine.histogram(entry)
            part = Records.of(HISTOGRAMS, len(counts) - counts.count(0), entry=entry)
            part["low_cycles"] = compress(edges, counts)
            part["high_cycles"] = compress(edges[1:], counts)
            part["count"] = filter(None, counts)
            rows.parts.append(part)
        return rows


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

_KICK_FIELDS = {
    "vcpu": "vcpu",
    "kicker": "kicker",
    "volley": "volley",
    "cpu": "cpu",
    "at_cycles": "at",
    "send_cycles": "send",
    "delivery_cycles": "delivery",
    "returned_cycles": "returned",
    "latency_cycles": "latency",
    "resumed_cycles": "resumed",
    "signals": "signals",
}
"""The engine's field of a column. It has the same code, so it is copied as it is."""
KICKS = RecordType.of(
    [
        *PLACE,
        ("kicker", "B"),
        ("vcpu", "h"),
        ("met", "B"),
        ("lost", "B"),
        ("volley", "I"),
        ("at_cycles", "q"),
        ("cpu", "i"),
        ("send_cycles", "I"),
        ("delivery_cycles", "I"),
        ("returned_cycles", "I"),
        ("latency_cycles", "I"),
        ("resumed_cycles", "I"),
        ("signals", "I"),
    ]
)
KICK_BLOCKS = RecordType.of(
    [*PLACE, *((name, "q") for name in ("sent", "met", "lost", "spurious", "elapsed_cycles"))]
)


def _table(flag: int) -> bytes:
    """By the flags of a kick: whether it has this one. For :meth:`bytes.translate`."""
    return bytes(flags & flag != 0 for flags in range(256))


_MET, _LOST, _LANDED = _table(MET), _table(LOST), _table(LANDED)
_FOUND = bytes(not lost for lost in _LOST)
_COMPARED = bytes(met and found for met, found in zip(_MET, _FOUND))


class KickRecorder(BaseRecorder):
    """Every kick, and the counts of every block."""

    def __init__(self) -> None:
        self._kicks, self._blocks = Collected(KICKS), Collected(KICK_BLOCKS)
        self._last: list[tuple[int, Records]] = []

    def add(self, taken: Round) -> None:
        blocks = taken.block_rows(KICK_BLOCKS)
        n_sent, n_met, n_lost = (blocks[name] for name in ("sent", "met", "lost"))
        self._last = []
        for position, kicks in taken.kicks():
            flags = kicks["flags"].tobytes()
            met, lost = flags.translate(_MET), flags.translate(_LOST)
            rows = taken.rows(KICKS, position, len(kicks))
            for name, of_engine in _KICK_FIELDS.items():
                rows[name] = kicks[of_engine]
            rows["met"], rows["lost"] = met, lost
            n_sent[position] += len(kicks)
            n_met[position] += met.count(1)
            n_lost[position] += lost.count(1)
            self._kicks.parts.append(rows)
            self._last.append((taken.order[position], kicks))
        self._blocks.parts.append(blocks)

    def round_cycles(self, entry: int) -> dict[str, float]:
        mine = [kicks for of, kicks in self._last if of == entry]
        found = (_latencies(kicks, _COMPARED) for kicks in mine)
        return medians("latency_p50_ns", chain.from_iterable(found))

    def latencies_cycles(self) -> Sequence[int]:
        found = (_latencies(kicks, _FOUND) for _, kicks in self._last)
        return [*filter(None, chain.from_iterable(found))]

    def arrays(self) -> dict[str, Collected]:
        return {"kicks": self._kicks, "kick_blocks": self._blocks}


def _latencies(kicks: Records, which: bytes) -> Iterator[int]:
    """The latencies of the kicks that are true in a table of flags; 0 of one that was not timed."""
    return compress(kicks["latency"].tolist(), kicks["flags"].tobytes().translate(which))


# --- pause_all ----------------------------------------------------------------------------------

_PAUSE_TIMES = ("at", "send", "first", "median", "last", "clock", "state")
PAUSES = RecordType.of(
    [
        *PLACE,
        *((f"{name}_cycles", "q") for name in _PAUSE_TIMES),
        ("rescues", "I"),
        ("not_run", "i"),
    ]
)


class PauseRecorder(BaseRecorder):
    """Every pause of all vCPUs."""

    def __init__(self) -> None:
        self._pauses = Collected(PAUSES)
        self._last: list[tuple[int, Records]] = []

    def add(self, taken: Round) -> None:
        self._last = []
        for position, pauses in by_block(taken.engine.pauses()):
            rows = taken.rows(PAUSES, position, len(pauses))
            for name in _PAUSE_TIMES:
                rows[f"{name}_cycles"] = pauses[name]
            rows["rescues"], rows["not_run"] = pauses["rescues"], pauses["not_run"]
            self._last.append((taken.order[position], rows))
        self._pauses.parts += [rows for _, rows in self._last]

    def round_cycles(self, entry: int) -> dict[str, float]:
        mine = [rows["last_cycles"] for of, rows in self._last if of == entry]
        return medians("pause_last_ns", chain.from_iterable(mine))

    def latencies_cycles(self) -> Sequence[int]:
        return [*chain.from_iterable(rows["last_cycles"] for _, rows in self._last)]

    def arrays(self) -> dict[str, Collected]:
        return {"pauses": self._pauses}


# --- race ---------------------------------------------------------------------------------------

_COUNTS = ("sent", "landed", "lost")
RACES = RecordType.of(
    [
        *PLACE,
        *((name, "q") for name in (*_COUNTS, "resent", "spurious", "rescues")),
        *((f"{name}_cycles", "q") for name in ("timeout", "elapsed", "latency_max")),
    ]
)


class RaceRecorder(BaseRecorder):
    """The counts of every block, until enough kicks of each method have landed, or were lost."""

    def __init__(self, case: Case, n_entries: int) -> None:
        self._races = Collected(RACES)
        self._wanted = -(-(case.kicks or 0) // case.processes)
        self._counts = [dict.fromkeys(_COUNTS, 0) for _ in range(n_entries)]

    def add(self, taken: Round) -> None:
        rows = taken.block_rows(RACES)
        rows["timeout_cycles"] = [taken.lost_after_cycles] * len(rows)
        columns = {name: rows[name] for name in rows.type.fields}
        for position, kicks in taken.kicks():
            flags = kicks["flags"].tobytes()
            columns["sent"][position] += len(kicks)
            columns["landed"][position] += flags.translate(_LANDED).count(1)
            columns["lost"][position] += flags.translate(_LOST).count(1)
            columns["resent"][position] += sum(signals > 1 for signals in kicks["signals"])
            columns["rescues"][position] += sum(kicks["rescues"])
            longest = columns["latency_max_cycles"]
            longest[position] = max(chain([longest[position]], _latencies(kicks, _FOUND)))
        self._races.parts.append(rows)
        self._last = taken
        for name in _COUNTS:
            for entry, count in zip(taken.order, columns[name]):
                self._counts[entry][name] += count

    def counts(self, entry: int) -> dict[str, int]:
        return self._counts[entry]

    def latencies_cycles(self) -> Sequence[int]:
        found = (_latencies(kicks, _FOUND) for _, kicks in self._last.kicks())
        return [*filter(None, chain.from_iterable(found))]

    def is_settled(self, entry: int) -> bool:
        counts = self._counts[entry]
        return counts["landed"] >= self._wanted or counts["lost"] >= ENOUGH_LOST

    def arrays(self) -> dict[str, Collected]:
        return {"races": self._races}


# --- noise --------------------------------------------------------------------------------------

_NOISE_COUNTS = ("foreign_sent", "foreign_taken", "siglock_taken")
NOISE_ROWS = RecordType.of(
    [*PLACE, *((name, "q") for name in (*_NOISE_COUNTS, "spurious", "elapsed_cycles"))]
)


def noise_threads(case: Case) -> NoiseThreads:
    """The threads that disturb a case of the engine's."""
    return NoiseThreads(case.foreign_signals_hz is not None, case.siglock_threads)


def with_noise(plan: Plan, case: Case) -> Plan:
    """The plan with the case's noise. One thread sends the foreign signals to all vCPUs."""
    signals_hz = (case.foreign_signals_hz or 0) * case.vcpus
    return replace(
        plan,
        foreign_gap_ns=int(1e9 / signals_hz) if signals_hz else 0,
        siglock_gap_ns=int(1e9 / case.siglock_hz) if case.siglock_hz else 0,
    )


class NoiseRecorder:
    """What a case's noise was, in every block; of any kind of the engine's."""

    def __init__(self) -> None:
        self.rows = Collected(NOISE_ROWS)

    def add(self, taken: Round) -> None:
        rows = taken.block_rows(NOISE_ROWS)
        for name in _NOISE_COUNTS:
            rows[name] = taken.sums(name)
        self.rows.parts.append(rows)

    def shortfalls(self, case: Case, block_ns: int) -> list[str]:
        """A sentence for each wanted rate that was not reached."""
        seconds = len(self.rows) * block_ns / 1e9
        wanted = (
            (
                "foreign signals/s to each vCPU",
                case.foreign_signals_hz,
                "foreign_taken",
                case.vcpus,
            ),
            ("takings of siglock/s", case.siglock_hz, "siglock_taken", case.siglock_threads),
        )
        found = [
            _shortfall(what, hz, self.rows.sum(name), seconds * threads)
            for what, hz, name, threads in wanted
            if hz is not None
        ]
        return [words for words in found if words is not None]


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
    if case.state is not None and STATES[case.state].aimed:
        return Plan(loop="kick", kicking="aimed", state=case.state, window_ns=HELD_WINDOW_NS)
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


def _pause_plan(case: Case) -> Plan:
    gap_us = DEFAULT_PAUSE_GAP_US if case.pause_gap_us is None else case.pause_gap_us
    return Plan(
        loop="kick",
        kicking="pauses",
        one_by_one=case.order == "serial",
        after=case.after,
        gap_ns=int(gap_us * 1e3),
    )


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
        plan=_pause_plan,
        n_kickers=lambda _: 1,
        recorder=lambda *_: PauseRecorder(),
    ),
    "race": Measurement(
        plan=_race_plan,
        n_kickers=lambda case: case.vcpus,
        recorder=RaceRecorder,
    ),
}


_OTHER_KICKERS = {"nested": 1, "handover": 0, "lifecycle": 1}
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


def lost_after_ns(latencies_cycles: Sequence[int], clock: Clock) -> int:
    """The time-out after which a kick may be lost: 100 times the median of the latencies seen.

    The time-out is bounded, and it is not the only sign: the guest must be seen to run on as well.
    A kick whose vCPU's thread waits for a CPU is only late, and the kicker waits for it.
    """
    if not latencies_cycles:
        return FIRST_LOST_AFTER_NS
    wanted_ns = LOST_AFTER_MEDIANS * median(latencies_cycles) / clock.hz * 1e9
    return int(min(max(wanted_ns, MIN_LOST_AFTER_NS), MAX_LOST_AFTER_NS))
