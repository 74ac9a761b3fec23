# SPDX-License-Identifier: Apache-2.0
"""Is the CPU's counter (on x86 the TSC) to be trusted as a clock? One answer, for all who ask.

Two things must hold. Nothing that the kernel and the CPU report is against the TSC
(:func:`objection`). And the CPUs agree on it when they are compared (:func:`disagreement`). CPUs
that could not be compared do not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Optional

from kickbench import arch
from kickbench.host.files import cpu_flags, read_text
from kickbench.host.topology import place

SOURCE = "/sys/devices/system/clocksource/clocksource0"
MAX_PAIRS = 64
"""Of CPUs that are tried against each other; one takes some milliseconds."""

MAX_RATE_OFF = 1e-3
"""What KVM's rate of the counter and the measured one may differ by. Two right ones agreed to 1
part in 10 million (a VM of 2 CPUs). 1 ms between the readings of two clocks is 5 % of a rate."""

WarpCycles = Callable[[int, int], Optional[int]]
"""How far the counters of two CPUs were seen to disagree, in cycles; None: they can't be tried."""


def distrust(
    vcpu_cpus: Collection[int],
    kicker_cpus: Collection[int],
    root: str | Path = "/",
    warp_cycles: WarpCycles | None = None,
) -> str | None:
    """Why the counter is no clock for threads on these CPUs; None when it is."""
    machine = arch.current()
    if (last := max(*vcpu_cpus, *kicker_cpus)) > machine.MAX_STAMPED_CPU:
        return (
            f"{(machine.STAMP_FLAG or machine.COUNTER).upper()} tells the numbers of CPUs up to "
            f"{machine.MAX_STAMPED_CPU}, but not of CPU {last}"
        )
    return objection(root) or disagreement(pairs(vcpu_cpus, kicker_cpus, root), warp_cycles)


def sources(root: str | Path = "/") -> tuple[str | None, tuple[str, ...]]:
    """The kernel's current clock source (None: not known), and those that it could use."""
    available = read_text(root, f"{SOURCE}/available_clocksource") or ""
    return read_text(root, f"{SOURCE}/current_clocksource"), tuple(available.split())


def is_given_up(root: str | Path = "/") -> bool:
    """Whether the kernel found the counter unstable (kernel/time/clocksource.c).

    It then takes its clock source off the list, and the CPU's flags stay as they were. In a
    virtual machine this alone is no reason: the watchdog there takes a pause of the whole machine
    for an unstable counter. A clock of the hypervisor that reads the counter vouches for it, then.
    """
    current, available = sources(root)
    return bool(available) and arch.current().CLOCK_SOURCES.isdisjoint({current, *available})


def objection(root: str | Path = "/") -> str | None:
    """What the CPU or the kernel has against the counter; None when nothing.

    The flags of the CPU are not asked for when the counter is the clock source: the kernel watches
    it.
    """
    machine, flags = arch.current(), cpu_flags(root)
    current, _ = sources(root)
    if machine.STAMP_FLAG and machine.STAMP_FLAG not in flags:
        return f"the CPU has no {machine.STAMP_FLAG.upper()}"
    if is_given_up(root):
        return (
            f"the kernel found the {machine.COUNTER} unstable, and took {current} as its clock "
            "source"
        )
    missing = [flag for flag in machine.STEADY_FLAGS if flag not in flags]
    if missing and current != machine.BARE_CLOCK_SOURCE:
        return f"the {machine.COUNTER} is not steady: the CPU lacks {' and '.join(missing)}"
    return None


def rate_objection(hz: float, kvm_khz: int) -> str | None:
    """What KVM's rate of the counter (0: not known) has against the measured one."""
    counter = arch.current().COUNTER
    off = abs(kvm_khz * 1e3 / hz - 1)
    if not kvm_khz or off <= MAX_RATE_OFF:
        return None
    return (
        f"the {counter}'s rate was measured as {hz / 1e6:.3f} MHz, and KVM says "
        f"{kvm_khz / 1e3:.3f} MHz: all times of this process are off by {off:.2%}, or the guest's "
        f"{counter} is scaled"
    )


def pairs(
    vcpu_cpus: Iterable[int], kicker_cpus: Iterable[int], root: str | Path = "/"
) -> list[tuple[int, int]]:
    """The pairs of CPUs to try; [] when all is on one CPU.

    First one pair for each two places (node and package) between which stamps are compared: where
    kickers are, and where vCPUs are. Then a CPU of the kickers against all others, up to MAX_PAIRS.
    """
    vcpus, kickers = sorted(set(vcpu_cpus)), sorted(set(kicker_cpus))
    # The first of a place and the last: two CPUs, also where kickers and vCPUs share the place.
    of_kickers = {place(cpu, root): cpu for cpu in reversed(kickers)}
    of_vcpus = {place(cpu, root): cpu for cpu in vcpus}
    of_places = _each_once((a, b) for a in of_kickers.values() for b in of_vcpus.values())
    of_cpus = ((kicker, cpu) for kicker in kickers[:1] for cpu in vcpus + kickers)
    return _each_once([*of_places, *of_cpus])[: max(MAX_PAIRS, len(of_places))]


def _each_once(some: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In their order, without pairs of a CPU with itself."""
    found: dict[frozenset[int], tuple[int, int]] = {}
    for a, b in some:
        if a != b:
            found.setdefault(frozenset({a, b}), (a, b))
    return list(found.values())


def disagreement(
    tried: Sequence[tuple[int, int]], warp_cycles: WarpCycles | None = None
) -> str | None:
    """Which of the pairs disagrees on the counter, or could not be tried; None when all agree."""
    warp_cycles = warp_cycles or _measured_warp_cycles
    counter = arch.current().COUNTER
    for a, b in tried:
        warp = warp_cycles(a, b)
        if warp is None:
            return f"the {counter}s of CPU {a} and CPU {b} could not be compared"
        if warp:
            return f"the {counter}s of CPU {a} and CPU {b} differ by {warp} cycles"
    return None


def _measured_warp_cycles(cpu_a: int, cpu_b: int) -> int | None:
    # Imported here: the engine has to be built, and what the kernel says can be read without it.
    from kickbench.engine.engine import counter_warp_cycles

    return counter_warp_cycles(cpu_a, cpu_b)
