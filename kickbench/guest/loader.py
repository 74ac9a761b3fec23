# SPDX-License-Identifier: Apache-2.0
"""Builds a virtual machine around a guest program: memory, vCPUs, and a parameter block for each.

The engine runs it. Standard library only (the worker imports it).

The guest sees one memory slot from 0: the program, a table of gaps and a table of exits that all
vCPUs share, then for each vCPU a page with its parameter block (``params.h``), followed by its ring
of round trips, and by a table of gaps of its own if vCPUs have different rates.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from ctypes import c_uint32

import kickbench.guest
from kickbench import arch
from kickbench.closing import Closing
from kickbench.guest import mix as mixes
from kickbench.kvm import Kvm, Vcpu, Vm, abi
from kickbench.native import built_file

PAGE = mmap.PAGESIZE
ENTRY = 0x1000
GAPS = 0x10000
MAX_GAPS = 4096
# A power of two, and at least as large as the table: see KB_GUEST_MIX_MASK in params.h.
MIX = 0x20000
IOEVENTFD_PORT = 0x90  # KB_GUEST_IOEVENTFD of params.h
PRIVATE = 0xFF000  # KB_GUEST_PRIVATE
VCPU_BLOCKS = 0x100000
MEMORY_END = mixes.FIRST_ADDRESS
MAX_CYCLES = 2**32 - 1


class Params(ctypes.Structure):
    """``struct kb_guest_params`` of params.h; all times in cycles of the guest's counter."""

    _fields_ = [
        ("next_low", c_uint32),
        ("next_high", c_uint32),
        ("gaps", c_uint32),
        ("gap_mask", c_uint32),
        ("gap_index", c_uint32),
        ("ring", c_uint32),
        ("ring_mask", c_uint32),
        ("head", c_uint32),
        ("late_limit", c_uint32),
        ("late", c_uint32),
        ("heartbeat", c_uint32),
        ("phase", c_uint32),
        ("mean_gap", c_uint32),
        ("mix", c_uint32),
        ("mix_mask", c_uint32),
    ]


class Guest(Closing):
    """A machine whose vCPUs stand at the entry of a guest program. A context manager.

    With ``gaps_cycles`` (a power of two of them, at most 4096) the program paces itself, and vCPU i
    begins at entry ``first_gaps[i]``. ``ring_entries``, a power of two, is then the length of each
    vCPU's ring. With ``gap_scales`` vCPU i's gaps are ``gap_scales[i]`` times those.

    ``mix`` is the table of exits of the program mix, a power of two of them, at most 4096. The
    vCPUs begin at places of it that are as far from each other as can be.

    ``halt_poll_ns`` is how long KVM may poll before a halted vCPU sleeps (KVM_CAP_HALT_POLL). With
    ``halts_inside`` a halted vCPU stays in the guest. If not ``started``, the vCPUs wait for what
    starts them, and no guest runs. The last two need an interrupt chip in the kernel on x86.

    With ``kvmclock`` KVM keeps a paravirtual clock for each vCPU, which no program reads.

    ``on_node_of(i)`` is entered around everything that allocates memory for vCPU i, so that the
    caller can pin itself to the node of that memory.

    Raises KvmError, and UsageError when the package is not built.
    """

    def __init__(
        self,
        kvm: Kvm,
        program: str,
        n_vcpus: int,
        *,
        irqchip: str = "kernel",
        gaps_cycles: Sequence[int] = (),
        first_gaps: Sequence[int] = (),
        gap_scales: Sequence[float] = (),
        mix: Sequence[mixes.MixedExit] = (),
        ring_entries: int = 0,
        halt_poll_ns: int | None = None,
        halts_inside: bool = False,
        started: bool = True,
        kvmclock: bool = False,
        on_node_of: Callable[[int], AbstractContextManager[object]] = lambda _: nullcontext(),
    ) -> None:
        self.paced = bool(gaps_cycles)
        if len(gaps_cycles) > MAX_GAPS or len(gaps_cycles) & (len(gaps_cycles) - 1):
            raise ValueError("the number of gaps must be a power of two, at most 4096")
        if ring_entries & (ring_entries - 1):
            raise ValueError("ring_entries must be a power of two")
        if len(mix) > mixes.MAX_ENTRIES or len(mix) & (len(mix) - 1):
            raise ValueError("the number of exits must be a power of two, at most 4096")
        if (program == "mix") != bool(mix):
            raise ValueError("the program mix, and no other, has a table of exits")
        self.n_vcpus = n_vcpus
        self.ring_entries = ring_entries if self.paced else 0
        self._ring_bytes = -(-self.ring_entries * 4 // PAGE) * PAGE
        own_gaps = len(gaps_cycles) * 4 if gap_scales else 0
        self._stride = PAGE + self._ring_bytes + -(-own_gaps // PAGE) * PAGE
        size = VCPU_BLOCKS + n_vcpus * self._stride
        if size > MEMORY_END:
            raise ValueError(f"{n_vcpus} rings of {self.ring_entries} entries: too much memory")
        self._stack = ExitStack()
        try:
            self._allocate(size)
            with on_node_of(0):  # what all vCPUs share
                self._write(ENTRY, image(program, paced=self.paced))
                self._write(GAPS, (c_uint32 * len(gaps_cycles))(*gaps_cycles))
                self._write_mix(mix)
                for address, data in arch.current().BESIDE_PROGRAM.items():
                    self._write(address, data)
                private = program == "memory_fault"
                created = arch.current().create_vm(kvm, private_memory=private)
                self.vm: Vm = self._stack.enter_context(created)
                self.vm.set_memory(0, 0, self._size, self._address)
                arch.current().set_up(self.vm, irqchip)
                if halt_poll_ns is not None:
                    self.vm.enable_cap(abi.KVM_CAP_HALT_POLL, halt_poll_ns)
                if halts_inside:
                    arch.current().halt_inside(self.vm)
                if program == "ioeventfd":
                    self.eventfd = self.vm.add_ioeventfd(IOEVENTFD_PORT, 1)
                if private:
                    self.vm.make_private(PRIVATE, PAGE)
                if program == "hypercall":
                    leaving = 1 << abi.KVM_HC_MAP_GPA_RANGE
                    self.vm.enable_cap(abi.KVM_CAP_EXIT_HYPERCALL, leaving)
            self.vcpus: list[Vcpu] = []
            for index in range(n_vcpus):
                with on_node_of(index):
                    self._init_params(index)
                    if self.paced:
                        gaps = self._gaps_of(index, gaps_cycles, gap_scales)
                        self._pace(index, *gaps, first_gaps[index])
                    self.vcpus.append(self._add_vcpu(index, irqchip))
                    if not started:
                        self.vcpus[-1].set_mp_state(arch.current().UNSTARTED)
                    if kvmclock:  # in the page of the parameters, behind them
                        address = self._params_gpa(index) + PAGE // 2
                        arch.current().start_clock(self.vcpus[index], address)
            with on_node_of(0):
                arch.current().finish(self.vm, irqchip, n_vcpus)
        except BaseException:
            self._stack.close()
            raise

    def params_address(self, index: int) -> int:
        """Host address of vCPU ``index``'s parameter block."""
        return self._address + self._params_gpa(index)

    @property
    def bytes_per_vcpu(self) -> int:
        """The size of a vCPU's parameter block and of what follows it."""
        return self._stride

    def ring_address(self, index: int) -> int | None:
        """Host address of vCPU ``index``'s ring; None when the guest is not paced."""
        return self.params_address(index) + PAGE if self.paced else None

    def params(self, index: int) -> Params:
        """A live view of vCPU ``index``'s parameter block, valid while the machine is open."""
        return Params.from_address(self.params_address(index))

    def close(self) -> None:
        """Close the machine, then free its memory."""
        self._stack.close()

    def _allocate(self, size: int) -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A huge page would hold the blocks of many vCPUs, on the node of the first of them.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        view = (ctypes.c_char * size).from_buffer(memory)
        self._size = size
        self._address = ctypes.addressof(view)

        def free() -> None:
            nonlocal view
            del view
            memory.close()

        self._stack.callback(free)

    def _write(self, gpa: int, data: bytes | ctypes.Array[c_uint32]) -> None:
        ctypes.memmove(self._address + gpa, bytes(data), len(bytes(data)))

    def _params_gpa(self, index: int) -> int:
        return VCPU_BLOCKS + index * self._stride

    def _write_mix(self, mix: Sequence[mixes.MixedExit]) -> None:
        code, self._exits = mixes.code(mix, paced=self.paced) if mix else (b"", [])
        self._write(MIX, code)

    def _init_params(self, index: int) -> None:
        # The write also puts the pages on this thread's node.
        ctypes.memset(self.params_address(index), 0, self._stride)
        if self._exits:
            first = index * len(self._exits) // self.n_vcpus
            self.params(index).mix = MIX + self._exits[first]
            size = len(self._exits) * arch.current().PACED_ENTRY
            self.params(index).mix_mask = MIX | (size - 1)

    def _gaps_of(
        self, index: int, gaps_cycles: Sequence[int], scales: Sequence[float]
    ) -> tuple[int, Sequence[int]]:
        """Where the vCPU's gaps are, and which."""
        if not scales:
            return GAPS, gaps_cycles
        scaled = [min(max(round(gap * scales[index]), 1), MAX_CYCLES) for gap in gaps_cycles]
        address = self._params_gpa(index) + PAGE + self._ring_bytes
        self._write(address, (c_uint32 * len(scaled))(*scaled))
        return address, scaled

    def _pace(self, index: int, address: int, gaps_cycles: Sequence[int], first_gap: int) -> None:
        mean_gap = sum(gaps_cycles) // len(gaps_cycles)
        params = self.params(index)
        params.gaps = address
        params.gap_mask = len(gaps_cycles) - 1
        params.gap_index = first_gap & params.gap_mask
        params.ring = self._params_gpa(index) + PAGE
        params.ring_mask = self.ring_entries - 1
        params.mean_gap = mean_gap
        params.late_limit = min(4 * mean_gap, MAX_CYCLES)

    def _add_vcpu(self, index: int, irqchip: str) -> Vcpu:
        vcpu = self.vm.create_vcpu(index)
        arch.current().start(self.vm, vcpu, ENTRY, self._params_gpa(index), irqchip)
        return vcpu


def image(program: str, *, paced: bool) -> bytes:
    """The program's machine code. Raises UsageError when the package is not built."""
    variant = "paced" if paced else "max"
    path = built_file(kickbench.guest.__path__, f"images/{program}.{variant}.bin")
    return path.read_bytes()
