# SPDX-License-Identifier: Apache-2.0
"""The ctypes face of the C engine (``src/engine.h``): loads it, feeds it, and turns what it leaves
in memory into records. No Python runs while a block is measured, and the GIL is not held. The
worker imports it: standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
from array import array
from collections.abc import Mapping, Sequence
from ctypes import (
    POINTER,
    c_char,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import kickbench.engine
from kickbench import arch
from kickbench.affinity import check_cpus
from kickbench.closing import Closing
from kickbench.engine.failures import Failure, describe, why_not_created
from kickbench.errors import HostError, MeasurementError
from kickbench.guest.loader import Guest, Params
from kickbench.kvm import abi
from kickbench.native import built_file
from kickbench.records import Field, Records, RecordType

if TYPE_CHECKING:
    from typing_extensions import Self

LIBRARY = "kickbench_engine.so"
KICK_SIGNAL = signal.SIGUSR1
FOREIGN_SIGNAL = signal.SIGURG

KB_BOUNCE = 0xFFFF_FFFF
"""``expected_exit`` of a vCPU that KVM_RUN returns from before the guest (protocol.h)."""

_EXPECTED_EXITS: dict[str, tuple[int, int]] = {
    "pio": (abi.KVM_EXIT_IO, 0),
    "mmio": (abi.KVM_EXIT_MMIO, 0),
    "hlt": (abi.KVM_EXIT_HLT, 0),
    "mix": (abi.KVM_EXIT_IO, abi.KVM_EXIT_MMIO),
    "kernel": (0, 0),
    "hypercall": (abi.KVM_EXIT_HYPERCALL, 0),
    "memory_fault": (abi.KVM_EXIT_MEMORY_FAULT, 0),
    "bounce": (KB_BOUNCE, 0),
    "none": (0, 0),
}
"""The exits of a program's own: ``expected_exit`` and ``other_exit`` of ``struct kb_vcpu``."""


_COUNTED = ("pio", "mmio")
"""The exits that a guest at full speed counts, see ``accesses.c``. The table of a mix has no room
for it. A paced guest counts all of its exits."""


class _Field(ctypes.Structure):
    _fields_ = [
        ("structure", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("offset", c_uint64),
        ("size", c_uint64),
        ("unit", c_uint64),
        ("kind", ctypes.c_char),
    ]


STRUCTURES: dict[str, type[ctypes.Structure]] = {"failure": Failure, "guest_params": Params}
"""The structures that Python defines as well, for code that runs without the library.

:func:`misfits` compares them with the library's.
"""

MET, LOST, LANDED = 1, 2, 4
"""The flags of a kick: KB_KICK_MET, KB_KICK_LOST, KB_KICK_LANDED."""

TRANSPORTS = {
    "tgkill": (0, KICK_SIGNAL),
    "tgkill_rt": (0, signal.SIGRTMIN),
    "pidfd": (1, KICK_SIGNAL),
    "timer": (2, KICK_SIGNAL),
}
"""By name, the number in ``enum kb_transport`` and the signal that is sent."""
_LOOPS = {"exit": 0, "kick": 1}
_KICKING = {"none": 0, "volleys": 1, "aimed": 2, "pauses": 3}
_AFTER = {"kvmclock_ctrl": 1, "read_state": 2}
PARTS = ("flag", "tls", "samples")
"""The parts of a vCPU's own memory in the engine, as ``enum kb_part`` numbers them."""
_STATES = {
    None: 0,
    "guest": 1,
    "halted": 2,
    "userspace": 3,
    "storm": 4,
    "window": 5,
    "pending_io": 6,
    "wait_for_sipi": 7,
    "polling": 8,
    "halted_in_guest": 9,
}


@dataclass(frozen=True)
class Plan:
    """What happens in the blocks of one call; see ``struct kb_plan``. All times in ns."""

    loop: str = "exit"  # exit | kick
    kicking: str = "none"  # none | volleys | aimed | pauses
    state: str | None = None  # a key of STATES (kickbench/scenario/kinds.py)
    seed: int = 1
    one_by_one: bool = False
    after: tuple[str, ...] = ()  # kvmclock_ctrl | read_state
    gap_ns: int = 0
    userspace_ns: int = 0
    window_ns: int = 0
    lost_after_ns: int = 1_000_000_000
    foreign_gap_ns: int = 0
    siglock_gap_ns: int = 0

    def _record(self) -> bytes:
        return structure("plan").pack(
            loop=_LOOPS[self.loop],
            kicking=_KICKING[self.kicking],
            state=_STATES[self.state],
            seed=self.seed,
            one_by_one=self.one_by_one,
            after=sum(_AFTER[step] for step in self.after),
            gap_ns=self.gap_ns,
            userspace_ns=self.userspace_ns,
            window_ns=self.window_ns,
            lost_after_ns=self.lost_after_ns,
            foreign_gap_ns=self.foreign_gap_ns,
            siglock_gap_ns=self.siglock_gap_ns,
        )


@dataclass(frozen=True)
class Kickers:
    """The kicking threads: how many, the CPUs they may run on, their transport, and room for the
    kicks of each, and for pauses, in one call of :meth:`Engine.blocks`."""

    count: int
    cpus: Sequence[int]
    transport: str = "tgkill"
    kicks_capacity: int = 1 << 16
    pauses_capacity: int = 0


@dataclass(frozen=True)
class NoiseThreads:
    """The threads that make noise for plans with ``foreign_gap_ns`` and ``siglock_gap_ns``: whether
    one sends foreign signals, and how many take siglock. They run where the engine is created."""

    foreign: bool = False
    siglock: int = 0


@cache
def library() -> ctypes.CDLL:
    """The engine's library with its functions declared. Raises UsageError when it is not built,
    HostError when this host cannot load it."""
    path = built_file(kickbench.engine.__path__, LIBRARY)
    for name in ("libpthread.so.0", "librt.so.1"):  # which are apart before glibc 2.34
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    try:
        # Global: protocols that are loaded later call the engine's functions.
        lib = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL, use_errno=True)
    except OSError as error:
        raise HostError(_why_not_loaded(str(error))) from error
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "kb_engine_create": (c_void_p, [c_void_p, POINTER(Failure)]),
        "kb_engine_destroy": (ctypes.c_int, [c_void_p]),
        "kb_engine_blocks": (
            ctypes.c_int,
            [c_void_p, c_void_p, c_uint32, c_uint64, c_uint64, c_void_p, c_void_p],
        ),
        "kb_engine_kicks": (c_void_p, [c_void_p, c_uint32, POINTER(c_uint64)]),
        "kb_engine_pauses": (c_void_p, [c_void_p, POINTER(c_uint64)]),
        "kb_engine_failure": (POINTER(Failure), [c_void_p]),
        "kb_engine_samples": (c_void_p, [c_void_p, c_uint32]),
        "kb_engine_histogram": (None, [c_void_p, c_uint32, c_void_p]),
        "kb_engine_memory_locked": (ctypes.c_int, [c_void_p]),
        "kb_engine_address": (c_void_p, [c_void_p, c_uint32, c_uint32]),
        "kb_engine_kicker_cpu": (c_int32, [c_void_p, c_uint32]),
        "kb_watch": (None, []),
        "kb_nodes_of": (ctypes.c_int, [c_void_p, c_uint64, c_void_p]),
        "kb_histogram_edges": (None, [c_void_p]),
        "kb_quantile_levels": (None, [c_void_p]),
        "kb_quantiles": (None, [c_void_p, c_uint64, c_double, c_void_p, c_void_p]),
        "kb_clock_calibrate": (c_double, [c_uint64]),
        "kb_clock_stamp_cost": (c_uint64, [ctypes.c_int]),
        "kb_clock_step": (c_uint64, [ctypes.c_int]),
        "kb_clock_warp_cycles": (c_int64, [ctypes.c_int, ctypes.c_int, c_uint32]),
        "kb_handover": (
            ctypes.c_int,
            [c_int32, c_int32, ctypes.c_int, c_uint32, c_uint32, c_void_p],
        ),
        "kb_live": (ctypes.c_int, [c_void_p, c_void_p, c_void_p]),
        "kb_sizeof": (ctypes.c_size_t, [ctypes.c_char_p]),
        "kb_fields": (POINTER(_Field), [POINTER(ctypes.c_size_t)]),
    }
    for name, (restype, argtypes) in declarations.items():
        function = getattr(lib, name, None)
        if function is None:
            raise _does_not_fit(f"no {name}")
        function.restype, function.argtypes = restype, argtypes
    readable = lib.kb_sizeof(b"field") == ctypes.sizeof(_Field)
    if wrong := misfits(lib, STRUCTURES) if readable else ["field"]:
        raise _does_not_fit(f"struct kb_{wrong[0]}")
    return lib


def _does_not_fit(why: str) -> MeasurementError:
    return MeasurementError(
        f"{LIBRARY} does not fit this version of kickbench ({why}): install the package again"
    )


_CODES = {
    ("i", 2): "h",
    ("i", 4): "i",
    ("i", 8): "q",
    ("u", 1): "B",
    ("u", 4): "I",
    ("u", 8): "Q",
    ("f", 4): "f",
    ("f", 8): "d",
}
"""The codes of the module struct, by kind and bytes of a number: see ``layout.c``."""


def _why_not_loaded(said: str) -> str:
    """The loader's words, or what they mean if the C library is too old."""
    if missing := re.search(r"version `GLIBC_([0-9.]+)' not found", said):
        here = os.confstr("CS_GNU_LIBC_VERSION") or "an unknown C library"
        return (
            f"this host has {here}, and this kickbench was built for glibc {missing[1]} or later: "
            "install kickbench from its source where the C library is as old"
        )
    return f"the engine cannot be loaded: {said}"


def layout(lib: ctypes.CDLL) -> dict[str, dict[str, Field]]:
    """The fields of each structure by name, as the compiler laid them out."""
    count = ctypes.c_size_t()
    first = lib.kb_fields(ctypes.byref(count))
    found: dict[str, dict[str, Field]] = {}
    for field in first[: count.value]:
        kind = field.kind.decode().replace("p", "u")  # a pointer is an address
        fields = found.setdefault(field.structure.decode(), {})
        code = _CODES[kind, field.unit]
        fields[field.name.decode()] = Field(field.offset, code, field.size // field.unit)
    return found


@cache
def structure(name: str) -> RecordType:
    """``struct kb_<name>`` of engine.h, which documents its fields; a pointer is an address."""
    return RecordType(layout(library())[name], library().kb_sizeof(name.encode()))


def misfits(lib: ctypes.CDLL, structures: Mapping[str, type[ctypes.Structure]]) -> list[str]:
    """The structures whose size or fields differ from those of the library."""
    laid_out = layout(lib)
    wrong = []
    for name, ours in structures.items():
        places = {
            field[0]: (getattr(ours, field[0]).offset, getattr(ours, field[0]).size)
            for field in ours._fields_
        }
        theirs = {key: (field.offset, field.size) for key, field in laid_out[name].items()}
        if places != theirs or lib.kb_sizeof(name.encode()) != ctypes.sizeof(ours):
            wrong.append(name)
    return wrong


@dataclass(frozen=True)
class Clock:
    """The clock of all stamps.

    ``hz`` is its rate and ``stamp_cycles`` what one stamp costs at least, in its own units.
    """

    kind: str  # "tsc" or "cntvct", the CPU's counter; or "monotonic_raw"
    hz: float
    stamp_cycles: int

    @property
    def is_counter(self) -> bool:
        """Whether stamps are ticks of the CPU's counter, not nanoseconds."""
        return self.kind != "monotonic_raw"

    @classmethod
    def choose(cls, *, counter_usable: bool, calibrate_ns: int = 20_000_000) -> Self:
        """The CPU's counter when it is usable, calibrated for ``calibrate_ns``; else
        CLOCK_MONOTONIC_RAW."""
        lib = library()
        return cls(
            kind=arch.current().CLOCK_KIND if counter_usable else "monotonic_raw",
            hz=lib.kb_clock_calibrate(calibrate_ns) if counter_usable else 1e9,
            stamp_cycles=lib.kb_clock_stamp_cost(counter_usable),
        )


def counter_warp_cycles(cpu_a: int, cpu_b: int, rounds: int = 2000) -> int | None:
    """The largest difference that was seen between two CPUs' counters, in cycles; 0: they agree.

    None when a thread can't be put on one of the CPUs.
    """
    warp = int(library().kb_clock_warp_cycles(cpu_a, cpu_b, rounds))
    return None if warp < 0 else warp


def nodes_of(addresses: Sequence[int]) -> list[int | None]:
    """The NUMA node of the page at each address of this process, as the kernel reports it.

    None for a page that is not there, or whose node the kernel does not report. None for all pages
    when move_pages(2) is not permitted here or not built in.
    """
    nodes = (c_int32 * len(addresses))()
    wanted = (c_uint64 * len(addresses))(*addresses)
    if library().kb_nodes_of(wanted, len(addresses), nodes):
        return [None] * len(addresses)
    return [node if node >= 0 else None for node in nodes]


def histogram_edges() -> list[int]:
    """Edges of the histogram's bins, one more than bins, in cycles: [edge i, edge i + 1)."""
    edges = (c_uint64 * (1 << 16))()
    library().kb_histogram_edges(edges)
    found = list(edges)
    return found[: found.index(max(found)) + 1]


def _n_quantiles() -> int:
    return structure("block_result").fields["quantiles"].count


@cache
def quantile_levels() -> dict[str, float]:
    """The columns of a block's quantiles in the table ``blocks``, with their levels, in the order
    of the engine: "p2_5_cycles" at 0.025."""
    per_mille = (c_uint32 * _n_quantiles())()
    library().kb_quantile_levels(per_mille)
    return {f"p{one / 10:g}_cycles".replace(".", "_"): one / 1000 for one in per_mille}


def quantiles(cycles: memoryview[int], step_cycles: float) -> list[float]:
    """The quantiles of these times (uint32) at the engine's levels, in cycles, with ties spread
    over the clock's step; see ``kb_quantiles``. NaN if there are no times."""
    count = len(cycles)
    values = (c_uint32 * count).from_buffer_copy(cycles)
    scratch, found = (c_uint32 * (2 * count))(), (c_float * _n_quantiles())()
    library().kb_quantiles(values, count, step_cycles, scratch, found)
    return list(found)


class StuckVcpuError(MeasurementError):
    """A vCPU could not be kicked out of KVM_RUN, or another thread did not arrive. It still uses
    the machine's memory: the process must end without tearing the machine down."""


class Engine(Closing):
    """One VM's vCPU threads, stepping through blocks together. A context manager.

    ``vcpu_cpus[i]`` are the CPUs that vCPU i's thread may run on. ``n_entries`` participants of
    the schedule have a histogram each. ``samples_capacity`` is the room for samples per vCPU and
    call of :meth:`blocks`. ``protocols`` are libraries with further protocols, by their name,
    ``kickers`` the threads for plans that kick, ``noise`` those that disturb. Raises
    MeasurementError.
    """

    def __init__(
        self,
        guest: Guest,
        program: str,
        clock: Clock,
        vcpu_cpus: Sequence[Sequence[int]],
        *,
        n_entries: int,
        samples_capacity: int,
        protocols: Mapping[str, ctypes.CDLL] = MappingProxyType({}),
        kickers: Kickers | None = None,
        noise: NoiseThreads = NoiseThreads(),
    ) -> None:
        for index, some in enumerate(vcpu_cpus):
            check_cpus(some, f"vCPU {index}")
        if kickers:
            check_cpus(kickers.cpus, "a kicking thread")
        self._lib = library()
        self._protocols = protocols
        self._n_kickers = kickers.count if kickers else 0
        self._n_vcpus = guest.n_vcpus
        self._n_cpus = len({cpu for some in vcpu_cpus for cpu in some})
        self._n_bins = len(histogram_edges()) - 1
        config, _alive = configuration(
            guest,
            program,
            clock,
            vcpu_cpus,
            n_entries=n_entries,
            samples_capacity=samples_capacity,
            kickers=kickers,
            noise=noise,
        )
        failure = Failure()
        self._engine = self._lib.kb_engine_create(config, ctypes.byref(failure))
        if not self._engine:
            self._raise(failure)

    @property
    def memory_locked(self) -> bool:
        """Whether all sample buffers are locked in memory (RLIMIT_MEMLOCK allows it)."""
        return bool(self._lib.kb_engine_memory_locked(self._engine))

    def blocks(
        self,
        schedule: Sequence[tuple[str, int]],
        *,
        warmup_ns: int,
        block_ns: int,
        plan: Plan = Plan(),
    ) -> Records:
        """Run one block after another: (protocol id, entry) each, all vCPUs together.

        Returns ``block_result`` records: those of the first block's vCPUs, then those of the
        second's. Raises MeasurementError when a guest left KVM_RUN with an exit that its program
        never makes, StuckVcpuError when a vCPU could not be kicked.
        """
        block = structure("block")
        results = bytearray(len(schedule) * self._n_vcpus * structure("block_result").size)
        status = self._lib.kb_engine_blocks(
            self._engine,
            b"".join(block.pack(protocol=self._protocol(m), entry=entry) for m, entry in schedule),
            len(schedule),
            warmup_ns,
            block_ns,
            plan._record(),
            (c_char * len(results)).from_buffer(results),
        )
        if status:
            self._raise(self._lib.kb_engine_failure(self._engine).contents)
        return Records(structure("block_result"), results)

    def samples(self, vcpu: int, offset: int, count: int) -> memoryview[int]:
        """A copy of ``count`` samples of the last call of :meth:`blocks`, in cycles."""
        samples = array("I")
        if count:
            first = self._lib.kb_engine_samples(self._engine, vcpu)
            samples.frombytes(
                ctypes.string_at(first + samples.itemsize * offset, samples.itemsize * count)
            )
        return memoryview(samples)

    def address(self, part: str, vcpu: int) -> int:
        """The address of one of PARTS of a vCPU."""
        return int(self._lib.kb_engine_address(self._engine, vcpu, PARTS.index(part)))

    def kicker_cpus(self) -> list[int]:
        """The CPU that each kicking thread was on at the end of the last block."""
        return [
            int(self._lib.kb_engine_kicker_cpu(self._engine, kicker))
            for kicker in range(self._n_kickers)
        ]

    def kicks(self) -> list[Records]:
        """The kicks of each kicker in the last call of :meth:`blocks`, in the order of their
        blocks: ``kick_record``."""
        found = []
        for kicker in range(self._n_kickers):
            count = c_uint64()
            first = self._lib.kb_engine_kicks(self._engine, kicker, ctypes.byref(count))
            found.append(_records(first, count.value, structure("kick_record")))
        return found

    def pauses(self) -> Records:
        """All pauses of the last call of :meth:`blocks`, in the order of their blocks: ``pause``
        records."""
        count = c_uint64()
        first = self._lib.kb_engine_pauses(self._engine, ctypes.byref(count))
        return _records(first, count.value, structure("pause"))

    def histogram(self, entry: int) -> list[int]:
        """Counts of all timed exits of the entry so far, of each bin: see histogram_edges."""
        counts = (c_uint64 * self._n_bins)()
        self._lib.kb_engine_histogram(self._engine, entry, counts)
        return list(counts)

    def close(self) -> None:
        """Stop the threads and free their buffers. Raises StuckVcpuError when one does not stop."""
        engine, self._engine = self._engine, None
        if engine and self._lib.kb_engine_destroy(engine):
            self._raise(self._lib.kb_engine_failure(engine).contents)

    def _raise(self, failure: Failure) -> NoReturn:
        if failure.stuck:
            raise StuckVcpuError(describe(failure, self._n_vcpus, self._n_cpus))
        if failure.resource:
            raise MeasurementError(why_not_created(failure, self._n_vcpus, self._n_kickers))
        raise MeasurementError(describe(failure, self._n_vcpus, self._n_cpus))

    def _protocol(self, method: str) -> int:
        return protocol_address(self._protocols, method)


def protocol_address(protocols: Mapping[str, ctypes.CDLL], method: str) -> int:
    """The address of a protocol: one of ``protocols``, or of the engine's own."""
    lib = protocols.get(method, library())
    return ctypes.addressof(ctypes.c_char.in_dll(lib, f"kb_protocol_{method}"))


def configuration(
    guest: Guest,
    program: str,
    clock: Clock,
    vcpu_cpus: Sequence[Sequence[int]],
    *,
    n_entries: int,
    samples_capacity: int,
    kickers: Kickers | None,
    noise: NoiseThreads = NoiseThreads(),
) -> tuple[bytes, list[object]]:
    """``struct kb_config``, and what must stay alive while it is used: it has addresses only."""
    cpus = [_ints(some) for some in vcpu_cpus]
    kicker_cpus = _ints(kickers.cpus if kickers else ())
    vcpus = b"".join(
        structure("vcpu_config").pack(
            fd=vcpu.fd,
            n_cpus=len(cpus[index]),
            cpus=ctypes.addressof(cpus[index]),
            run=vcpu.run_address,
            params=guest.params_address(index),
            ring=guest.ring_address(index) or 0,
        )
        for index, vcpu in enumerate(guest.vcpus)
    )
    vcpus_there = ctypes.create_string_buffer(vcpus, len(vcpus))
    exits = arch.current().PROGRAMS[program]
    expected_exit, other_exit = _EXPECTED_EXITS[exits]
    config = structure("config").pack(
        n_vcpus=guest.n_vcpus,
        n_entries=n_entries,
        signal=TRANSPORTS[kickers.transport][1] if kickers else KICK_SIGNAL,
        expected_exit=expected_exit,
        other_exit=other_exit,
        clock_is_counter=clock.is_counter,
        guest_counts=exits in _COUNTED or (exits == "mix" and guest.paced),
        foreign_signal=FOREIGN_SIGNAL if noise.foreign else 0,
        n_siglock_threads=noise.siglock,
        samples_capacity=samples_capacity,
        clock_hz=clock.hz,
        vcpus=ctypes.addressof(vcpus_there),
        **_of_kickers(kickers, ctypes.addressof(kicker_cpus)),
    )
    return config, [cpus, kicker_cpus, vcpus_there]


def _ints(numbers: Sequence[int]) -> ctypes.Array[c_int32]:
    return (c_int32 * len(numbers))(*numbers)


def _of_kickers(kickers: Kickers | None, cpus_address: int) -> dict[str, int]:
    """The fields of ``struct kb_config`` for the kicking threads."""
    if not kickers:
        return {}
    return {
        "n_kickers": kickers.count,
        "n_kicker_cpus": len(kickers.cpus),
        "kicker_cpus": cpus_address,
        "transport": TRANSPORTS[kickers.transport][0],
        "kicks_capacity": kickers.kicks_capacity,
        "pauses_capacity": kickers.pauses_capacity,
    }


def _records(address: int | None, count: int, type_: RecordType) -> Records:
    """A copy of so many records."""
    return Records(type_, ctypes.string_at(address, count * type_.size) if address else b"")
