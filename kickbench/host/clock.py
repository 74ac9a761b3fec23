# SPDX-License-Identifier: Apache-2.0
"""Is the TSC to be trusted as the clock of these CPUs? One answer, for all who ask.

Two things must hold: nothing that the kernel and the CPU say is against it (:func:`objection`), and
the CPUs agree on it when they are tried (:func:`disagreement`). What could not be tried is no
agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from kickbench.host.files import cpu_flags, read_text
from kickbench.host.topology import place

SOURCE = "/sys/devices/system/clocksource/clocksource0"
TSC_SOURCES = frozenset({"tsc", "tsc-early", "kvm-clock", "hyperv_clocksource_tsc_page", "xen"})
"""Clock sources that read the TSC. On bare metal there is ``tsc`` alone (and ``tsc-early`` in the
first second). The others are a hypervisor's: each is the TSC, scaled as the hypervisor says."""
STEADY_FLAGS = ("constant_tsc", "nonstop_tsc")
MAX_STAMPED_CPU = 4095
"""RDTSCP tells the CPU's number in 12 bits (kickbench/engine/include/kickbench/arch/x86_64.h)."""
MAX_PAIRS = 64
"""Of CPUs that are tried against each other; one takes some milliseconds."""

MAX_RATE_OFF = 1e-3
"""What KVM's rate of the TSC and the measured one may differ by. Two right ones agreed to 1 part in
10 million (a VM of 2 CPUs); 1 ms between the readings of two clocks is 5 % of a rate."""

WarpCycles = Callable[[int, int], int | None]
"""How far the TSCs of two CPUs were seen to disagree, in cycles; None when they can't be tried."""


def tsc_distrust(
    vcpu_cpus: Collection[int],
    kicker_cpus: Collection[int],
    root: str | Path = "/",
    warp_cycles: WarpCycles | None = None,
) -> str | None:
    """Why the TSC is no clock for threads on these CPUs; None when it is."""
    if (last := max(*vcpu_cpus, *kicker_cpus)) > MAX_STAMPED_CPU:
        return f"RDTSCP tells the numbers of CPUs up to {MAX_STAMPED_CPU}, but not of CPU {last}"
    return objection(root) or disagreement(pairs(vcpu_cpus, kicker_cpus, root), warp_cycles)


def sources(root: str | Path = "/") -> tuple[str | None, tuple[str, ...]]:
    """The kernel's current clock source (None: it does not tell), and those it could take."""
    available = read_text(root, f"{SOURCE}/available_clocksource") or ""
    return read_text(root, f"{SOURCE}/current_clocksource"), tuple(available.split())


def is_given_up(root: str | Path = "/") -> bool:
    """Whether the kernel found the TSC unstable (kernel/time/clocksource.c).

    It then takes ``tsc`` off the list of clock sources, and the CPU's flags stay as they were. In
    a virtual machine this alone is no reason: the watchdog there takes a pause of the whole machine
    for an unstable TSC. A clock of the hypervisor that reads the TSC vouches for it, then.
    """
    current, available = sources(root)
    return bool(available) and TSC_SOURCES.isdisjoint({current, *available})


def objection(root: str | Path = "/") -> str | None:
    """What the CPU or the kernel has against the TSC; None when nothing.

    The flags of the CPU are not asked for when the TSC is the clock source: the kernel watches it.
    """
    flags = cpu_flags(root)
    current, _ = sources(root)
    if "rdtscp" not in flags:
        return "the CPU has no RDTSCP"
    if is_given_up(root):
        return f"the kernel found the TSC unstable, and took {current} as its clock source"
    missing = [flag for flag in STEADY_FLAGS if flag not in flags]
    if missing and current != "tsc":
        return f"the TSC is not steady: the CPU lacks {' and '.join(missing)}"
    return None


def rate_objection(hz: float, kvm_khz: int) -> str | None:
    """What KVM's rate of the TSC (KVM_GET_TSC_KHZ, 0: not known) has against the measured one."""
    off = abs(kvm_khz * 1e3 / hz - 1)
    if not kvm_khz or off <= MAX_RATE_OFF:
        return None
    return (
        f"the TSC's rate was measured as {hz / 1e6:.3f} MHz, and KVM says {kvm_khz / 1e3:.3f} MHz: "
        f"all times of this process are off by {off:.2%}, or the guest's TSC is scaled"
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
    """Which of the pairs disagrees on the TSC, or could not be tried; None when all agree."""
    warp_cycles = warp_cycles or _measured_warp_cycles
    for a, b in tried:
        warp = warp_cycles(a, b)
        if warp is None:
            return f"the TSCs of CPU {a} and CPU {b} could not be compared"
        if warp:
            return f"the TSCs of CPU {a} and CPU {b} differ by {warp} cycles"
    return None


def _measured_warp_cycles(cpu_a: int, cpu_b: int) -> int | None:
    # Imported here: the engine has to be built, and what the kernel says can be read without it.
    from kickbench.engine.engine import tsc_warp_cycles

    return tsc_warp_cycles(cpu_a, cpu_b)
