# SPDX-License-Identifier: Apache-2.0
"""The ctypes face of the C engine (``src/engine.h``): loads it, feeds it, and turns what it leaves
in memory into numpy arrays. No Python runs while a block is measured, and the GIL is not held.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

import kickbench.engine
from kickbench.closing import Closing
from kickbench.engine.failures import Failure, describe, why_not_created
from kickbench.errors import MeasurementError
from kickbench.guest.loader import Guest, Params
from kickbench.guest.programs import PROGRAMS, ExitKind
from kickbench.host.affinity import check_cpus
from kickbench.kvm import abi
from kickbench.native import built_file

LIBRARY = "kickbench_engine.so"
KICK_SIGNAL = signal.SIGUSR1
_QUANTILES = 17  # KB_QUANTILES

_EXPECTED_EXIT: dict[ExitKind, int] = {
    "pio": abi.KVM_EXIT_IO,
    "mmio": abi.KVM_EXIT_MMIO,
    "hlt": abi.KVM_EXIT_HLT,
    "none": 0,
}


class _VcpuConfig(ctypes.Structure):
    _fields_ = [
        ("fd", c_int32),
        ("n_cpus", c_uint32),
        ("cpus", POINTER(c_int32)),
        ("run", c_void_p),
        ("params", c_void_p),
        ("ring", c_void_p),
    ]


class _Config(ctypes.Structure):
    _fields_ = [
        ("n_vcpus", c_uint32),
        ("n_entries", c_uint32),
        ("signal", c_int32),
        ("expected_exit", c_uint32),
        ("clock_is_tsc", c_uint32),
        ("transport", c_uint32),
        ("samples_capacity", c_uint64),
        ("clock_hz", c_double),
        ("vcpus", POINTER(_VcpuConfig)),
        ("n_kickers", c_uint32),
        ("n_kicker_cpus", c_uint32),
        ("kicker_cpus", POINTER(c_int32)),
        ("kicks_capacity", c_uint64),
        ("pauses_capacity", c_uint64),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [
        ("loop", c_uint32),
        ("kicking", c_uint32),
        ("state", c_uint32),
        ("seed", c_uint32),
        ("gap_ns", c_uint64),
        ("userspace_ns", c_uint64),
        ("window_ns", c_uint64),
        ("lost_after_ns", c_uint64),
    ]


class _Kick(ctypes.Structure):
    _fields_ = [
        ("at", c_int64),
        ("block", c_uint32),
        ("send", c_uint32),
        ("delivery", c_uint32),
        ("latency", c_uint32),
        ("vcpu", ctypes.c_int16),
        ("kicker", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("rescues", c_uint32),
        ("volley", c_uint32),
        ("cpu", c_int32),
        ("returned", c_uint32),
        ("resumed", c_uint32),
        ("signals", c_uint32),
        ("reserved", c_uint32),
    ]


class _Pause(ctypes.Structure):
    _fields_ = [
        ("at", c_int64),
        ("send", c_int64),
        ("first", c_int64),
        ("median", c_int64),
        ("last", c_int64),
        ("block", c_uint32),
        ("rescues", c_uint32),
    ]


class _Block(ctypes.Structure):
    _fields_ = [("protocol", c_void_p), ("entry", c_uint32), ("reserved", c_uint32)]


class _Field(ctypes.Structure):
    _fields_ = [
        ("structure", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("offset", c_uint64),
        ("size", c_uint64),
    ]


class _BlockResult(ctypes.Structure):
    _fields_ = [
        ("exits", c_int64),
        ("elapsed_cycles", c_int64),
        ("skew_cycles", c_int64),
        ("stalled_cycles", c_int64),
        ("timed_exits", c_int64),
        ("timed_cycles", c_int64),
        ("max_cycles", c_int64),
        ("unsampled", c_int64),
        ("samples_offset", c_int64),
        ("samples_count", c_int64),
        ("spurious_exits", c_int64),
        ("cpu_ns", c_int64),
        ("run_delay_ns", c_int64),
        ("steal_ns", c_int64),
        ("voluntary_switches", c_int32),
        ("involuntary_switches", c_int32),
        ("migrations", c_int32),
        ("cpu", c_int32),
        ("rescues", c_int32),
        ("kicked", c_int32),
        ("quantiles", ctypes.c_float * _QUANTILES),
    ]


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "vcpu_config": _VcpuConfig,
    "config": _Config,
    "block": _Block,
    "block_result": _BlockResult,
    "failure": Failure,
    "guest_params": Params,
    "plan": _Plan,
    "kick_record": _Kick,
    "pause": _Pause,
}

BLOCK_RESULT = np.dtype(_BlockResult)
"""What one vCPU did in one block; the fields are documented in ``struct kb_block_result``."""

KICK = np.dtype(_Kick)
"""One kick; the fields are documented in ``struct kb_kick_record``."""

PAUSE = np.dtype(_Pause)
"""One pause of all vCPUs; the fields are documented in ``struct kb_pause``."""

MET, LOST, LANDED = 1, 2, 4
"""The flags of a kick: KB_KICK_MET, KB_KICK_LOST, KB_KICK_LANDED."""

TRANSPORTS = {"tgkill": 0, "pidfd": 1, "timer": 2}
_LOOPS = {"exit": 0, "kick": 1}
_KICKING = {"none": 0, "volleys": 1, "aimed": 2, "pauses": 3}
PARTS = ("flag", "tls", "samples")
"""Of a vCPU's own memory in the engine, as ``enum kb_part`` numbers them."""
_STATES = {None: 0, "guest": 1, "halted": 2, "userspace": 3, "storm": 4}


@dataclass(frozen=True)
class Plan:
    """What happens in the blocks of one call; see ``struct kb_plan``. All times in ns."""

    loop: str = "exit"  # exit | kick
    kicking: str = "none"  # none | volleys | aimed | pauses
    state: str | None = None  # guest | halted | userspace | storm
    seed: int = 1
    gap_ns: int = 0
    userspace_ns: int = 0
    window_ns: int = 0
    lost_after_ns: int = 1_000_000_000

    def _structure(self) -> _Plan:
        return _Plan(
            loop=_LOOPS[self.loop],
            kicking=_KICKING[self.kicking],
            state=_STATES[self.state],
            seed=self.seed,
            gap_ns=self.gap_ns,
            userspace_ns=self.userspace_ns,
            window_ns=self.window_ns,
            lost_after_ns=self.lost_after_ns,
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


@cache
def library() -> ctypes.CDLL:
    """The engine's library with its functions declared. Raises UsageError when it is not built."""
    path = built_file(kickbench.engine.__path__, LIBRARY)
    # Global: protocols that are loaded later call the engine's functions.
    lib = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL, use_errno=True)
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "kb_engine_create": (c_void_p, [POINTER(_Config), POINTER(Failure)]),
        "kb_engine_destroy": (ctypes.c_int, [c_void_p]),
        "kb_engine_blocks": (
            ctypes.c_int,
            [
                c_void_p,
                POINTER(_Block),
                c_uint32,
                c_uint64,
                c_uint64,
                POINTER(_Plan),
                c_void_p,
            ],
        ),
        "kb_engine_kicks": (c_void_p, [c_void_p, c_uint32, POINTER(c_uint64)]),
        "kb_engine_pauses": (c_void_p, [c_void_p, POINTER(c_uint64)]),
        "kb_engine_failure": (POINTER(Failure), [c_void_p]),
        "kb_engine_samples": (POINTER(c_uint32), [c_void_p, c_uint32]),
        "kb_engine_histogram": (None, [c_void_p, c_uint32, c_void_p]),
        "kb_engine_memory_locked": (ctypes.c_int, [c_void_p]),
        "kb_engine_address": (c_void_p, [c_void_p, c_uint32, c_uint32]),
        "kb_engine_kicker_cpu": (c_int32, [c_void_p, c_uint32]),
        "kb_nodes_of": (ctypes.c_int, [c_void_p, c_uint64, c_void_p]),
        "kb_histogram_edges": (None, [c_void_p]),
        "kb_quantile_levels": (None, [c_void_p]),
        "kb_quantiles": (None, [c_void_p, c_uint64, c_double, c_void_p, c_void_p]),
        "kb_clock_calibrate": (c_double, [c_uint64]),
        "kb_clock_stamp_cost": (c_uint64, [ctypes.c_int]),
        "kb_clock_step": (c_uint64, [ctypes.c_int]),
        "kb_clock_warp_cycles": (c_int64, [ctypes.c_int, ctypes.c_int, c_uint32]),
        "kb_sizeof": (ctypes.c_size_t, [ctypes.c_char_p]),
        "kb_fields": (POINTER(_Field), [POINTER(ctypes.c_size_t)]),
    }
    for name, (restype, argtypes) in declarations.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    if wrong := misfits(lib, STRUCTURES):
        raise MeasurementError(
            f"{LIBRARY} does not fit this version of kickbench (struct kb_{wrong[0]}): "
            "install the package again"
        )
    return lib


def layout(lib: ctypes.CDLL) -> dict[str, dict[str, tuple[int, int]]]:
    """By structure and field, its offset and size in bytes, as the compiler laid it out."""
    count = ctypes.c_size_t()
    first = lib.kb_fields(ctypes.byref(count))
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for field in first[: count.value]:
        fields = found.setdefault(field.structure.decode(), {})
        fields[field.name.decode()] = (field.offset, field.size)
    return found


def misfits(lib: ctypes.CDLL, structures: Mapping[str, type[ctypes.Structure]]) -> list[str]:
    """The structures whose size or fields differ from those of the library."""
    laid_out = layout(lib)
    wrong = []
    for name, structure in structures.items():
        ours = {
            field[0]: (getattr(structure, field[0]).offset, getattr(structure, field[0]).size)
            for field in structure._fields_
        }
        fields = laid_out.get(name, {})
        fits = all(ours.get(field) == where for field, where in fields.items())
        if not fits or lib.kb_sizeof(name.encode()) != ctypes.sizeof(structure):
            wrong.append(name)
    return wrong


@dataclass(frozen=True)
class Clock:
    """The clock of all stamps.

    ``hz`` is its rate and ``stamp_cycles`` what one stamp costs at least, in its own units.
    """

    kind: str  # "tsc" or "monotonic_raw"
    hz: float
    stamp_cycles: int

    @property
    def is_tsc(self) -> bool:
        """Whether stamps are TSC cycles, not nanoseconds."""
        return self.kind == "tsc"

    @classmethod
    def choose(cls, *, tsc_usable: bool, calibrate_ns: int = 20_000_000) -> Self:
        """The TSC when it is usable, calibrated for ``calibrate_ns``; else CLOCK_MONOTONIC_RAW."""
        lib = library()
        return cls(
            kind="tsc" if tsc_usable else "monotonic_raw",
            hz=lib.kb_clock_calibrate(calibrate_ns) if tsc_usable else 1e9,
            stamp_cycles=lib.kb_clock_stamp_cost(tsc_usable),
        )


def tsc_warp_cycles(cpu_a: int, cpu_b: int, rounds: int = 2000) -> int | None:
    """How far the two CPUs' TSCs were ever seen to disagree, in cycles; 0 when they agree.

    None when a thread can't be put on one of the CPUs.
    """
    warp = int(library().kb_clock_warp_cycles(cpu_a, cpu_b, rounds))
    return None if warp < 0 else warp


def nodes_of(addresses: Sequence[int]) -> list[int | None]:
    """The NUMA node of the page at each address of this process, by the kernel's own account.

    None for a page that is not there or that the kernel does not tell of; for all of them when
    move_pages(2) is not permitted here or not built in.
    """
    wanted = np.array(addresses, np.uint64)
    nodes = np.full(len(wanted), -1, np.int32)
    if library().kb_nodes_of(wanted.ctypes.data, len(wanted), nodes.ctypes.data):
        return [None] * len(wanted)
    return [int(node) if node >= 0 else None for node in nodes]


def histogram_edges() -> NDArray[np.uint64]:
    """Edges of the histogram's bins, shape (bins + 1,), in cycles: [edge i, edge i + 1)."""
    bins = 1 << 16
    edges = np.zeros(bins, np.uint64)
    library().kb_histogram_edges(edges.ctypes.data)
    end = int(np.argmax(edges)) + 1
    return edges[:end]


@cache
def quantile_levels() -> dict[str, float]:
    """The columns that a block's quantiles have in the table ``blocks``, with their levels, as the
    engine orders them: "p2_5_cycles" at 0.025."""
    per_mille = np.zeros(_QUANTILES, np.uint32)
    library().kb_quantile_levels(per_mille.ctypes.data)
    return {f"p{one / 10:g}_cycles".replace(".", "_"): int(one) / 1000 for one in per_mille}


def quantiles(cycles: NDArray[np.uint32], step_cycles: float) -> NDArray[np.float32]:
    """The quantiles of these times at the engine's levels, in cycles, with ties spread over the
    clock's step; see ``kb_quantiles``. NaN of no times."""
    values = np.ascontiguousarray(cycles, np.uint32)
    scratch = np.empty(2 * len(values), np.uint32)
    found = np.empty(_QUANTILES, np.float32)
    library().kb_quantiles(
        values.ctypes.data, len(values), step_cycles, scratch.ctypes.data, found.ctypes.data
    )
    return found


class StuckVcpuError(MeasurementError):
    """A vCPU could not be kicked out of KVM_RUN, or another thread did not come. It still uses the
    machine's memory: the process must end without tearing the machine down."""


class Engine(Closing):
    """One VM's vCPU threads, stepping through blocks together. A context manager.

    ``vcpu_cpus[i]`` are the CPUs that vCPU i's thread may run on. ``n_entries`` participants of
    the schedule have a histogram each. ``samples_capacity`` is the room for samples per vCPU and
    call of :meth:`blocks`. ``protocols`` are libraries with further protocols, by their name,
    ``kickers`` the threads for plans that kick. Raises MeasurementError.
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
        cpus = [(c_int32 * len(some))(*some) for some in vcpu_cpus]
        vcpus = (_VcpuConfig * guest.n_vcpus)(
            *(
                _VcpuConfig(
                    fd=vcpu.fd,
                    n_cpus=len(cpus[index]),
                    cpus=cpus[index],
                    run=vcpu.run_address,
                    params=guest.params_address(index),
                    ring=guest.ring_address(index),
                )
                for index, vcpu in enumerate(guest.vcpus)
            )
        )
        config = _Config(
            n_vcpus=guest.n_vcpus,
            n_entries=n_entries,
            signal=KICK_SIGNAL,
            expected_exit=_EXPECTED_EXIT[PROGRAMS[program].exits],
            clock_is_tsc=clock.is_tsc,
            samples_capacity=samples_capacity,
            clock_hz=clock.hz,
            vcpus=vcpus,
        )
        if kickers:
            config.n_kickers = kickers.count
            config.n_kicker_cpus = len(kickers.cpus)
            config.kicker_cpus = (c_int32 * len(kickers.cpus))(*kickers.cpus)
            config.transport = TRANSPORTS[kickers.transport]
            config.kicks_capacity = kickers.kicks_capacity
            config.pauses_capacity = kickers.pauses_capacity
        failure = Failure()
        self._engine = self._lib.kb_engine_create(ctypes.byref(config), ctypes.byref(failure))
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
    ) -> NDArray[Any]:
        """Run one block after another: (protocol id, entry) each, all vCPUs together.

        Returns BLOCK_RESULT records of shape (blocks, vCPUs). Raises MeasurementError when a
        guest left in a way that its program does not, StuckVcpuError when a vCPU could not be
        kicked.
        """
        blocks = (_Block * len(schedule))(
            *(_Block(self._protocol(method), entry) for method, entry in schedule)
        )
        results = np.zeros((len(schedule), self._n_vcpus), BLOCK_RESULT)
        status = self._lib.kb_engine_blocks(
            self._engine,
            blocks,
            len(schedule),
            warmup_ns,
            block_ns,
            ctypes.byref(plan._structure()),
            results.ctypes.data,
        )
        if status:
            self._raise(self._lib.kb_engine_failure(self._engine).contents)
        return results

    def samples(self, vcpu: int, offset: int, count: int) -> NDArray[np.uint32]:
        """A copy of ``count`` samples of the last call of :meth:`blocks`, in cycles."""
        first = self._lib.kb_engine_samples(self._engine, vcpu)
        if not count:
            return np.empty(0, np.uint32)
        whole = np.ctypeslib.as_array(first, shape=(offset + count,))
        return whole[offset:].copy()

    def address(self, part: str, vcpu: int) -> int:
        """Where a vCPU's own memory in the engine begins: one of PARTS."""
        return int(self._lib.kb_engine_address(self._engine, vcpu, PARTS.index(part)))

    def kicker_cpus(self) -> list[int]:
        """The CPU that each kicking thread was on at the end of the last block."""
        return [
            int(self._lib.kb_engine_kicker_cpu(self._engine, kicker))
            for kicker in range(self._n_kickers)
        ]

    def kicks(self) -> NDArray[Any]:
        """All kicks of the last call of :meth:`blocks`: KICK records, by kicker."""
        parts = []
        for kicker in range(self._n_kickers):
            count = c_uint64()
            first = self._lib.kb_engine_kicks(self._engine, kicker, ctypes.byref(count))
            parts.append(_records(first, count.value, KICK))
        return np.concatenate(parts) if parts else np.empty(0, KICK)

    def pauses(self) -> NDArray[Any]:
        """All pauses of the last call of :meth:`blocks`: PAUSE records."""
        count = c_uint64()
        first = self._lib.kb_engine_pauses(self._engine, ctypes.byref(count))
        return _records(first, count.value, PAUSE)

    def histogram(self, entry: int) -> NDArray[np.uint64]:
        """Counts of all timed exits of the entry so far, shape (bins,): see histogram_edges."""
        counts = np.zeros(self._n_bins, np.uint64)
        self._lib.kb_engine_histogram(self._engine, entry, counts.ctypes.data)
        return counts

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
        lib = self._protocols.get(method, self._lib)
        return ctypes.addressof(ctypes.c_char.in_dll(lib, f"kb_protocol_{method}"))


def _records(address: int | None, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not address or not count:
        return np.empty(0, dtype)
    return np.frombuffer(ctypes.string_at(address, count * dtype.itemsize), dtype)
