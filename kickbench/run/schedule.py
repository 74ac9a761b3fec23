# SPDX-License-Identifier: Apache-2.0
"""Who runs when: the participants of a round, their order, and how long a block is.

Pure computation on a case; standard library only (the worker imports it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from kickbench.guest.loader import MAX_CYCLES, MAX_GAPS
from kickbench.guest.mix import MAX_ENTRIES, MixedExit
from kickbench.guest.programs import stays_in_kernel
from kickbench.methods import method_label
from kickbench.native import placebo_name
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import ITERATIONS

# By kind: an exit takes microseconds, a kick with its gap some hundred of them.
BLOCK_NS = {
    "exits": 4_000_000,
    "kick": 20_000_000,
    "pause_all": 100_000_000,
    "race": 50_000_000,
    # Its blocks end with their last iteration. This is a usual length.
    "nested": 50_000_000,
    # So are those of this kind: the bench gives a sign of life after each pair.
    "handover": 50_000_000,
    # A VM, with all that it takes to build it.
    "lifecycle": 50_000_000,
}
COUNTING = ("race", "lifecycle")
"""The kinds that count kicks, and compare no times."""
HALTED_BLOCK_NS = 60_000_000
MAX_PAUSE_BLOCK_NS = 2_000_000_000
MAX_BLOCK_NS = 250_000_000
MIN_WARMUP_NS = 300_000
# One turn of CPU time for a thread that shares its CPU: a scheduler slice, rounded up.
SLICE_NS = 4_000_000
# The exits that a paced guest should make in a block, and in its warm-up.
PACED_EXITS_PER_BLOCK = 200
PACED_EXITS_OF_WARMUP = 10
# The sample buffers have room for this rate on each CPU, some times what hardware can do.
MAX_EXITS_PER_CPU_HZ = 4_000_000
MIN_SAMPLES = 4096
# A paced guest catches up, and Poisson arrivals come in bursts: room for so many times its rate.
# Recorded gaps may differ more.
PACED_ROOM = 2
RECORDED_ROOM = 4
# All sample buffers of a machine, and all rings of a guest. What does not fit is counted.
MAX_BUFFERS_BYTES = 1 << 30


Role = Literal["method", "control", "placebo"]


@dataclass(frozen=True)
class Entry:
    """A participant of the schedule: a method, the A/A control or the placebo.

    The control is the baseline's own code once more. The placebo is the baseline's C file compiled
    a second time, so its code lies at another address.
    """

    method: str
    role: Role = "method"

    @property
    def protocol(self) -> str:
        """The engine's name of the code that it runs."""
        return placebo_name(self.method) if self.role == "placebo" else self.method


def entries(case: Case) -> list[Entry]:
    """The participants: each method once, and the baseline once more in each other role.

    A race and a lifecycle compare no times, so they have no control. The guest hypervisor of the
    kind nested has no second copy, so it has no placebo, and nor have the pairs of the kind
    handover.
    """
    roles: dict[str, tuple[Role, ...]] = {
        "race": (),
        "lifecycle": (),
        "nested": ("control",),
        "handover": ("control",),
    }
    who = [Entry(method_label(method)) for method in case.methods]
    others = roles.get(case.kind, ("control", "placebo"))
    return [*who, *(Entry(method_label(case.baseline), role) for role in others)]


def is_compared(case: Case, entry: Entry) -> bool:
    """Whether the entry has a figure that can be compared with the baseline's."""
    if case.kind == "nested":
        return entry.method in ITERATIONS and ITERATIONS[entry.method].compared
    return case.kind not in COUNTING


def generator(case: Case, *which: int) -> Random:
    """A random stream of a case; the same for the same scenario and seed.

    ``which`` is the process whose stream it is; none for that of all its processes.
    """
    return Random("/".join(map(str, (case.seed, case.id, *which))))


def round_order(n_entries: int, rng: Random) -> list[int]:
    """The entries in random order, then in the reverse of it.

    Each entry's two positions have the same mean, so a drift that is linear over the round adds
    the same to all of them (ABBA, for any number of entries).
    """
    order = rng.sample(range(n_entries), n_entries)
    return order + order[::-1]


def threads_per_cpu(vcpu_cpus: list[list[int]]) -> float:
    """vCPU threads to one CPU: above 1 they take turns."""
    return len(vcpu_cpus) / len({cpu for cpus in vcpu_cpus for cpu in cpus})


@dataclass(frozen=True)
class Timing:
    """How a case is cut into blocks. ``samples_capacity`` is per vCPU and round."""

    warmup_ns: int
    block_ns: int
    samples_capacity: int

    @classmethod
    def of(cls, case: Case, vcpu_cpus: list[list[int]]) -> Timing:
        """Blocks as short as they can be (drift hurts less), and long enough to mean something.

        That is: some turns for each thread if threads share CPUs, some exits if the guest paces
        itself, some kicks or a pause if there are kicks.
        """
        crowd = max(1.0, threads_per_cpu(vcpu_cpus))
        sharing = crowd > 1
        warmup_ns = MIN_WARMUP_NS + (SLICE_NS if sharing else 0)
        turns_ns = int(3 * crowd * SLICE_NS) if sharing else 0
        block_ns = (HALTED_BLOCK_NS if case.state == "halted" else BLOCK_NS[case.kind]) + turns_ns
        if case.exit_rate_hz is not None:
            warmup_ns = max(warmup_ns, int(PACED_EXITS_OF_WARMUP / case.exit_rate_hz * 1e9))
            block_ns = max(block_ns, int(PACED_EXITS_PER_BLOCK / case.exit_rate_hz * 1e9))
        block_ns = min(block_ns, MAX_PAUSE_BLOCK_NS if case.kind == "pause_all" else MAX_BLOCK_NS)
        if case.block_ms is not None:
            block_ns = int(case.block_ms * 1e6)
        blocks = 2 * len(entries(case))
        exits_hz = MAX_EXITS_PER_CPU_HZ / crowd if case.kind == "exits" else 0
        if case.exit_rate_hz is not None:
            room = RECORDED_ROOM if case.gaps_us else PACED_ROOM
            exits_hz = min(exits_hz, room * case.exit_rate_hz * max(vcpu_rates(case)))
        capacity = min(int(blocks * block_ns / 1e9 * exits_hz), _most_entries(case.vcpus))
        return cls(min(warmup_ns, MAX_BLOCK_NS), block_ns, max(capacity, MIN_SAMPLES))


def _most_entries(vcpus: int) -> int:
    """32-bit entries that each vCPU's buffer may have."""
    return MAX_BUFFERS_BYTES // 4 // vcpus


def vcpu_rates(case: Case) -> list[float]:
    """The exit rate of each vCPU, as a part of the mean of all."""
    rates = case.vcpu_rates or (1.0,) * case.vcpus
    mean = math.fsum(rates) / len(rates)
    return [rate / mean for rate in rates]


def mix_table(mix: Sequence[MixedExit], rng: Random) -> list[MixedExit]:
    """A guest's table of exits, in random order: each as often as its share says, to less than one
    place, and at least once. No mix gives an empty table."""
    if not mix:
        return []
    counts = places([each.share for each in mix], MAX_ENTRIES)
    table = [each for each, count in zip(mix, counts) for _ in range(count)]
    rng.shuffle(table)
    return table


def places(shares: Sequence[float], count: int) -> list[int]:
    """How many of ``count`` places each share has, by the largest remainders: at least one."""
    usual = list(range(len(shares)))  # those that have a place or more by themselves
    while True:
        wanted = [1.0] * len(shares)
        largest = max(shares[index] for index in usual)  # no sum of shares is infinite
        total = math.fsum(shares[index] / largest for index in usual)
        rest = count - (len(shares) - len(usual))
        for index in usual:
            wanted[index] = shares[index] / largest / total * rest
        enough = [index for index in usual if wanted[index] >= 1]
        if len(enough) == len(usual):
            break
        usual = enough
    counts = [math.floor(one) for one in wanted]
    by_remainder = sorted(range(len(shares)), key=lambda index: counts[index] - wanted[index])
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    return counts


def recorded_gaps(gaps: Sequence[float], count: int, rng: Random) -> list[float]:
    """So many gaps of the distribution of ``gaps``, in random order, one of each quantile.

    Each of ``gaps`` stands for an equal part of all, and is its middle. Between these the quantiles
    are linear. So the mean of the distribution is that of ``gaps``.
    """
    drawn = [
        interpolated(gaps, (index + rng.random()) / count * len(gaps) - 0.5)
        for index in range(count)
    ]
    rng.shuffle(drawn)
    return drawn


def interpolated(values: Sequence[float], place: float) -> float:
    """The value at a place between two indices, on a line between them; beyond the ends, theirs."""
    place = min(max(place, 0.0), len(values) - 1.0)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


@dataclass(frozen=True)
class Pacing:
    """What a guest needs to pace itself: see :class:`kickbench.guest.loader.Guest`."""

    gaps_cycles: list[int]
    first_gaps: list[int]
    gap_scales: list[float]
    ring_entries: int

    @classmethod
    def of(cls, case: Case, timing: Timing, tsc_hz: float, rng: Random) -> Pacing:
        """The gaps of the case's rate and arrival. A rate of None gives none at all.

        Poisson and recorded arrivals are one table of gaps, in which each vCPU begins elsewhere.
        """
        rate_hz = case.exit_rate_hz
        if stays_in_kernel(case.program):
            rate_hz = rate_hz or MAX_EXITS_PER_CPU_HZ  # at full speed it is always late
        if rate_hz is None:
            return cls([], [0] * case.vcpus, [], 0)
        mean_cycles = tsc_hz / rate_hz
        gaps = [1.0]
        if case.arrival == "poisson":
            gaps = [rng.expovariate(1.0) for _ in range(MAX_GAPS)]
        elif case.arrival == "recorded":
            gaps = recorded_gaps(case.gaps_us, MAX_GAPS, rng)
        scale = mean_cycles / (math.fsum(gaps) / len(gaps))
        highest_hz = rate_hz * max(vcpu_rates(case))
        per_block = min(highest_hz, MAX_EXITS_PER_CPU_HZ) * timing.block_ns / 1e9
        return cls(
            gaps_cycles=[min(max(round(gap * scale), 1), MAX_CYCLES) for gap in gaps],
            first_gaps=[rng.randrange(MAX_GAPS) for _ in range(case.vcpus)],
            gap_scales=[1 / rate for rate in vcpu_rates(case)] if case.vcpu_rates else [],
            ring_entries=1
            << min(
                max(10, math.ceil(math.log2(4 * per_block + 1))),
                _most_entries(case.vcpus).bit_length() - 1,
            ),
        )
