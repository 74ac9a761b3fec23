# SPDX-License-Identifier: Apache-2.0
"""A guest that is a hypervisor itself: L1, which runs a guest L2 and times its entries and exits.

L1 (``hypervisor/``) takes one order at a time: an iteration and how many of them. In each it lets
L2 begin, and notes how L2 left:

- ``plain``: L2 calls L1 (VMCALL, VMMCALL) with its first instruction: the floor of a round trip.
- ``pending``: an interrupt for L1 is pending when it enters L2, and L1 injects an event at that
  entry. KVM (L0) must enter L2, or the injection is lost, and leave at once, or L1's interrupt is
  late: what KVM_REQ_IMMEDIATE_EXIT was made for (KVM commit d6185f20a0ef).
- ``pending_no_injection``: the same without the event.
- ``asynchronous``: with the event, and L2 counts until an interrupt comes from a thread outside.

L2 leaves before the first instruction of its handler, so L1 lets it go on to its end after each
iteration: only that shows whether the event was delivered, and how often.

Nothing is compared or stored here. Standard library and the engine's library only, because the
worker imports it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import c_int32, c_uint32, c_uint64
from random import Random
from typing import Literal

import kickbench.nested
from kickbench.affinity import pinned
from kickbench.arch import x86_64
from kickbench.closing import Closing
from kickbench.engine.engine import KICK_SIGNAL, library
from kickbench.errors import MeasurementError
from kickbench.guest.loader import PAGE
from kickbench.kvm import Kvm, Vcpu, Vm, abi
from kickbench.native import built_file
from kickbench.nested.entries import Entries, count_entries
from kickbench.records import Records, RecordType

ITERATIONS = ("plain", "pending", "pending_no_injection", "asynchronous")

RECORD = RecordType.of(
    [
        ("cycles", "Q"),
        ("work", "Q"),
        ("detail", "Q"),
        ("latency", "Q"),
        ("exit_reason", "I"),
        ("delivered", "I"),
        ("expected", "B"),
        ("injected", "B"),
    ]
)
"""One iteration, ``struct kb_nested_record``. ``cycles`` of L1's TSC from just before the entry to
just after the exit; ``work``, L2's loop count when it left; ``exit_reason``, the basic reason of
VMX or the low half of SVM's EXITCODE; ``detail``, the exit qualification or EXITINFO1;
``expected``: the exit was the call (plain) or the external interrupt (all others); ``injected``: an
event was injected at the entry; ``delivered``, how often L2's handler ran for it; ``latency``, of
asynchronous iterations, cycles from the sender's stamp until L1 had the exit; 0 if KVM does not
report the TSC's offset, and if the exit was another."""

BROKEN = {
    "bad_control_field": 1,
    "bad_guest_state": 2,
    "l2_triple_fault": 4,
    "l2_never_exits": 8,
    "l1_triple_fault": 16,
}
"""Deliberately broken variants, for tests: each ends with a MeasurementError that names it."""

# Guest addresses, as in hypervisor/shared.h.
SHARED = 0x1000
TABLES = 0x2000  # three pages: the first GiB, to itself
IMAGE = 0x10000
RECORDS = 0x100000
MAX_COUNT = 1 << 16  # in one order
PORT = 0xE8
WARMUP = 16
"""Iterations before those that are recorded, in each order."""

MAX_DELAY_NS = 200_000
STALL_SECONDS = 10.0
"""The guest hangs if it finishes no iteration for so long. L1 waits for nothing that takes as long,
except on an emulator that is asleep."""

_EFER_LONG_MODE = 1 << 8 | 1 << 10  # LME, LMA
_CR0 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1  # PG, WP, NE, ET, PE
_CR4_PAE = 1 << 5

_MAP_POPULATE = 0x8000
"""include/uapi/asm-generic/mman-common.h. The module mmap has it from Python 3.10 on."""

Vendor = Literal["vmx", "svm"]
_VENDORS: dict[int, Vendor] = {1: "svm", 2: "vmx"}


class Shared(ctypes.Structure):
    """``struct kb_nested`` of hypervisor/shared.h."""

    _fields_ = [
        ("iteration", c_uint32),
        ("count", c_uint32),
        ("records", c_uint64),
        ("warmup", c_uint32),
        ("broken", c_uint32),
        ("vendor", c_uint32),
        ("nested_paging", c_uint32),
        ("status", c_uint32),
        ("phase", c_uint32),
        ("reason", c_uint64),
        ("detail", c_uint64),
        ("more", c_uint64),
        ("progress", c_uint32),
        ("reserved", c_uint32 * 15),
        ("armed", c_uint32),
        ("reserved2", c_uint32 * 15),
        ("sent_at", c_uint64),
    ]


class Sender(ctypes.Structure):
    """``struct kb_sender`` of sender.h."""

    _fields_ = [
        ("shared", ctypes.c_void_p),
        ("tsc_offset", c_uint64),
        ("seed", c_uint64),
        ("max_delay_ns", c_uint32),
        ("vm_fd", c_int32),
        ("knows_tsc", c_uint32),
        ("served", c_uint32),
        ("stop", c_uint32),
        ("reserved", c_uint32),
    ]


class NestedGuest(Closing):
    """A machine whose only vCPU runs the guest hypervisor. A context manager.

    The vCPU runs in the thread that calls :meth:`run`, on ``vcpu_cpus``; the thread that sends the
    interrupts of asynchronous iterations runs on ``sender_cpus``. None: on any CPU that they may
    use. With ``kick_rate_hz`` a thread on ``sender_cpus`` kicks the vCPU out of KVM_RUN at random
    moments, so often on average, and ``kicks`` counts the KVM_RUNs that ended by it: a kick may
    come while L1's injection is pending, or its event. ``broken`` is a key of BROKEN. A run that
    finishes no iteration for ``stall_seconds`` or longer fails.

    Raises KvmError, UsageError when the package is not built, and MeasurementError when L1 cannot
    begin.
    """

    def __init__(
        self,
        kvm: Kvm,
        *,
        vcpu_cpus: Sequence[int] | None = None,
        sender_cpus: Sequence[int] | None = None,
        seed: int = 1,
        broken: str | None = None,
        stall_seconds: float = STALL_SECONDS,
        kick_rate_hz: float | None = None,
    ) -> None:
        self._vcpu_cpus, self._sender_cpus = vcpu_cpus, sender_cpus
        self._kick_rate_hz = kick_rate_hz
        self.kicks = 0
        self._random = Random(seed)
        self._broken = BROKEN[broken] if broken else 0
        self._stall_seconds = stall_seconds
        self._stack = ExitStack()
        try:
            with pinned(vcpu_cpus, "the vCPU"):
                self._allocate(RECORDS + MAX_COUNT * RECORD.size)
                self._load()
                self._vm: Vm = self._stack.enter_context(kvm.create_vm())
                self._vcpu = self._create_vcpu(kvm)
            self._order()  # L1 finds out what it can do
        except BaseException:
            self._stack.close()
            raise

    @property
    def vendor(self) -> Vendor:
        """The CPU's virtualization that L1 uses for L2."""
        return _VENDORS[self._shared.vendor]

    @property
    def nested_paging(self) -> bool:
        """Whether L1 gives L2 nested page tables (NPT, EPT)."""
        return bool(self._shared.nested_paging)

    def run(self, iteration: str, count: int) -> Records:
        """Run ``count`` iterations in L1, after WARMUP of them: RECORDs.

        Raises MeasurementError with what went wrong in L1, L2 or KVM_RUN.
        """
        parts = [Records(RECORD, b"")]
        while count > 0:
            now = min(count, MAX_COUNT)
            self._shared.iteration = ITERATIONS.index(iteration)
            self._shared.count = now
            self._shared.records = RECORDS
            self._shared.warmup = WARMUP
            self._shared.broken = self._broken
            with self._sending(iteration == "asynchronous"):
                self._order()
            written = ctypes.string_at(self._address + RECORDS, now * RECORD.size)
            parts.append(Records(RECORD, written))
            count -= now
        return Records.joined(parts)

    def entries(self, iteration: str, count: int) -> Entries | None:
        """The vCPU's entries of ``count`` iterations and WARMUP before them, without kicks.

        None where the kernel's tracepoint cannot be read. Raises as :meth:`run`.
        """
        rate_hz, self._kick_rate_hz = self._kick_rate_hz, None
        try:
            return count_entries(lambda: self.run(iteration, count))
        finally:
            self._kick_rate_hz = rate_hz

    def close(self) -> None:
        """Close the machine, then free its memory."""
        self._stack.close()

    # --- the machine ----------------------------------------------------------------------------

    def _allocate(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_POPULATE
        memory = mmap.mmap(-1, size, flags=flags)
        view = (ctypes.c_char * size).from_buffer(memory)
        self._size = size
        self._address = ctypes.addressof(view)
        self._shared = Shared.from_address(self._address + SHARED)

        def free() -> None:
            nonlocal view
            del view
            memory.close()

        self._stack.callback(free)

    def _load(self) -> None:
        """Load the program and its page tables: L1 begins in 64-bit mode."""
        program = built_file(kickbench.nested.__path__, "hypervisor.bin").read_bytes()
        present, large = 0x63, 1 << 7  # present, writable, accessed, dirty
        tables = (c_uint64 * (3 * PAGE // 8))()
        tables[0] = (TABLES + PAGE) | present
        tables[512] = (TABLES + 2 * PAGE) | present
        for index in range(512):
            tables[1024 + index] = index << 21 | large | present
        for address, data in ((IMAGE, program), (TABLES, bytes(tables))):
            ctypes.memmove(self._address + address, data, len(data))

    def _create_vcpu(self, kvm: Kvm) -> Vcpu:
        self._vm.set_memory(0, 0, self._size, self._address)
        x86_64.set_up(self._vm, "kernel")
        vcpu = self._vm.create_vcpu(0)
        x86_64.set_cpuid(vcpu, x86_64.supported_cpuid(kvm))
        sregs = x86_64.get_sregs(vcpu)
        flat = {"base": 0, "limit": 0xFFFFFFFF, "present": 1, "s": 1, "g": 1}
        sregs.cs = x86_64.kvm_segment(selector=0x08, type=0b1011, l=1, **flat)
        data = x86_64.kvm_segment(selector=0x10, type=0b0011, db=1, **flat)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.cr0, sregs.cr3, sregs.cr4 = _CR0, TABLES, _CR4_PAE
        sregs.efer = _EFER_LONG_MODE
        x86_64.set_sregs(vcpu, sregs)
        x86_64.set_regs(vcpu, x86_64.kvm_regs(rip=IMAGE, rflags=0b10))
        # The signal is pending outside KVM_RUN, and ends KVM_RUN inside: no kick is lost, and no
        # handler is needed.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - {KICK_SIGNAL}
        vcpu.set_signal_mask(sum(1 << (number - 1) for number in blocked).to_bytes(8, "little"))
        return vcpu

    # --- one order ------------------------------------------------------------------------------

    def _order(self) -> None:
        """Let L1 run until its order is done. Raises MeasurementError."""
        with (
            pinned(self._vcpu_cpus, "the vCPU"),
            self._watched() as stalled,
            self._kicked(),
        ):
            while (reason := self._vcpu.run_once()) == abi.KVM_EXIT_INTR and not stalled():
                self.kicks += signal.sigtimedwait({KICK_SIGNAL}, 0) is not None
        if reason == abi.KVM_EXIT_INTR:
            raise MeasurementError(self._where_it_hangs())
        run = self._vcpu.run
        if reason != abi.KVM_EXIT_IO or run.io.port != PORT:
            raise MeasurementError(_describe_exit(run))
        if self._shared.status:
            raise MeasurementError(_describe(self._shared))
        # The OUT is finished only by the next KVM_RUN.

    @contextmanager
    def _watched(self) -> Iterator[Callable[[], bool]]:
        """Kick the calling thread out of KVM_RUN when L1 makes no progress.

        Yields a function: whether the thread was kicked.
        """
        over, stalled = threading.Event(), threading.Event()
        runner = threading.get_ident()

        def watch() -> None:
            seen = None
            while seen != (seen := self._shared.progress):
                if over.wait(self._stall_seconds):
                    return
            stalled.set()
            signal.pthread_kill(runner, KICK_SIGNAL)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield stalled.is_set
        finally:
            over.set()
            thread.join()
            signal.sigtimedwait({KICK_SIGNAL}, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @contextmanager
    def _kicked(self) -> Iterator[None]:
        """Kick the calling thread out of KVM_RUN at random moments, if a rate is asked for."""
        if self._kick_rate_hz is None:
            yield
            return
        rate_hz, over, runner = self._kick_rate_hz, threading.Event(), threading.get_ident()

        def kick() -> None:
            with pinned(self._sender_cpus, "the kicker"):
                while not over.is_set():
                    time.sleep(self._random.expovariate(rate_hz))
                    signal.pthread_kill(runner, KICK_SIGNAL)

        thread = threading.Thread(target=kick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _sending(self, wanted: bool) -> Iterator[None]:
        """Send L1 an interrupt whenever it is about to enter L2."""
        if not wanted:
            yield
            return
        offset = x86_64.counter_offset(self._vcpu)
        sender = Sender(
            shared=ctypes.addressof(self._shared),
            tsc_offset=offset or 0,
            seed=self._random.randrange(1, 2**63),
            max_delay_ns=MAX_DELAY_NS,
            vm_fd=self._vm.fd,
            knows_tsc=offset is not None,
            served=self._shared.armed,
        )
        problems: list[BaseException] = []
        begun = threading.Event()
        send = library().kb_sender_run
        send.argtypes, send.restype = [ctypes.POINTER(Sender)], ctypes.c_int

        def run() -> None:
            try:
                with pinned(self._sender_cpus, "the sender"):
                    begun.set()
                    error = send(ctypes.byref(sender))
                if error:
                    raise MeasurementError(f"KVM_SIGNAL_MSI failed: {os.strerror(error)}")
            except BaseException as problem:  # for the caller
                problems.append(problem)
            finally:
                begun.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            begun.wait()
            if not problems:
                yield
        finally:
            sender.stop = 1
            thread.join()
            if problems:  # if L1 hangs, they are the reason
                raise problems[0]

    def _where_it_hangs(self) -> str:
        what = {
            0: "L1 does not finish",
            1: "L2 does not leave",
            2: "L2 left, but L1 does not get its interrupt",
            3: "L2 does not leave after it was resumed",
        }.get(self._shared.phase, "L1 is somewhere unknown")
        name = ITERATIONS[self._shared.iteration % len(ITERATIONS)]
        return (
            f"the nested guest hangs in {name}: {what}; "
            f"kicked out of KVM_RUN after {self._stall_seconds:g} s without an iteration"
        )


def _describe_exit(run: abi.kvm_run) -> str:
    """Why KVM_RUN returned when L1 had not ended its order."""
    reason = int(run.exit_reason)
    detail = ""
    if reason == abi.KVM_EXIT_SHUTDOWN:
        detail = " (triple fault)"
    elif reason == abi.KVM_EXIT_INTERNAL_ERROR:
        suberror = run.internal.suberror
        detail = f" ({abi.INTERNAL_ERRORS.get(suberror, suberror)})"
    elif reason == abi.KVM_EXIT_FAIL_ENTRY:
        detail = f" (hardware reason {run.fail_entry.hardware_entry_failure_reason:#x})"
    return f"L1, the guest hypervisor, left with {abi.exit_reason_name(reason)}{detail}"


_VMX_STEPS = {1: "VMXON", 2: "VMCLEAR", 3: "VMPTRLD", 4: "VMWRITE", 5: "VMLAUNCH or VMRESUME"}
_VMX_ERRORS = {
    4: "VMLAUNCH with non-clear VMCS",
    5: "VMRESUME with non-launched VMCS",
    7: "VM entry with invalid control field(s)",
    8: "VM entry with invalid host-state field(s)",
    12: "VMREAD or VMWRITE from or to unsupported VMCS component",
    13: "VMWRITE to read-only VMCS component",
    26: "VM entry with events blocked by MOV SS",
}
"""Intel SDM volume 3, "VM-instruction error numbers"."""


def _describe(shared: Shared) -> str:
    """What L1 reported, in the words of the manuals."""
    reason, detail, more = shared.reason, shared.detail, shared.more
    is_vmx = _VENDORS.get(shared.vendor) == "vmx"
    exit_ = (
        f"exit reason {reason}, exit qualification {detail:#x}"
        if is_vmx
        else f"EXITCODE {reason:#x}, EXITINFO1 {detail:#x}"
    )
    if shared.status == 3:
        step = _VMX_STEPS.get(detail, "a VMX instruction")
        field = f" of field {more:#x}" if detail == 4 else ""
        known = _VMX_ERRORS.get(reason)
        return f"{step}{field} failed: VM-instruction error {reason}" + (
            f", {known}" if known else ""
        )
    not_entered = (
        f"invalid guest state ({exit_})" if is_vmx else "VMEXIT_INVALID, the VMCB is not consistent"
    )
    return {
        1: "L1 has neither VMX nor SVM: load kvm_intel or kvm_amd with nested=1",
        2: f"L1 got exception {reason} at {detail:#x} (error code {more:#x})",
        4: f"L2 could not be entered: {not_entered}",
        5: f"L2 ended with a triple fault ({exit_})",
        6: f"L2 could not be brought to its end ({exit_})",
    }.get(shared.status, f"L1 ended with status {shared.status}")
