# SPDX-License-Identifier: Apache-2.0
"""Watches a process by programs in the kernel: :class:`Watch` loads them and reads what they count.

``watch.bpf.c`` has the programs. clang compiled them when the package was built, and libbpf fits
them to the running kernel. The counts are in memory that this process maps, so reading them costs
the watched process nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kickbench.watch
from kickbench.closing import Closing
from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.native import built_file
from kickbench.watch import layout
from kickbench.watch.libbpf import Sample, TestRun, failed, library
from kickbench.watch.snapshot import Lost

OBJECT = "watch.bpf.o"
_BTF = Path("/sys/kernel/btf/vmlinux")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")

_ALWAYS = ("left", "sent", "delivered", "waits", "waited")
_DETAIL = ("entered",)
_HANDLERS = ("handled",)
"""The programs on tracepoints: those that count, those for times, and that for handlers."""
PROGRAMS = (*_ALWAYS, *_DETAIL, *_HANDLERS)

RING_BYTES = 1 << 22
"""The ring of answered kicks: some 50,000 of them until they are taken. A power of two."""
_LEAST_VCPUS = 16
_MOST_VCPUS = 4096

_PROGRAM_INFO_BYTES = 232
"""The length of struct bpf_prog_info (linux/bpf.h)."""
_RECURSION_MISSES = 208
"""The offset of recursion_misses in it."""


class Watch(Closing):
    """The programs in the kernel, loaded for the process ``pid``. A context manager.

    ``vcpu_files`` are the process's file descriptors of vCPUs. They get their slots, the rows of
    :attr:`vcpus`, when the object is made. A vCPU that comes later has its own when it first runs
    inside :meth:`detail`, or by :meth:`look_again`. Nothing is counted outside :meth:`attached`.

    Raises HostError if this kernel or this user cannot do it, in a line that says what is missing.
    """

    def __init__(self, pid: int, vcpu_files: Sequence[int]) -> None:
        path = object_file()
        _check_host()
        self._library = library()
        self._maps: dict[str, mmap.mmap] = {}
        self._ring: int | None = None
        self._object = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise failed("read the programs of the observer")
        try:
            room = max(_LEAST_VCPUS, 2 * len(vcpu_files))
            self._n_vcpus = min(_MOST_VCPUS, room)
            self._library.bpf_map__set_max_entries(self._map("vcpus"), self._n_vcpus)
            self._library.bpf_map__set_max_entries(self._map("kicks"), RING_BYTES)
            self._set_process(pid)
            with _without_signals():
                if self._library.bpf_object__load(self._object):
                    raise failed("load the programs of the observer")
            self._vcpus = self._rows("vcpus", layout.Vcpu, self._n_vcpus)
            (self._totals,) = self._rows("totals", layout.Totals, 1)
            self._ways = self._rows("ways", layout.WayCount, layout.MAX_WAYS)
            self._files: set[int] = set()
            self._n_threads = 0
            self.look_again(vcpu_files)
            self._kicks: list[bytes] = []
            self._callback = Sample(self._take_kick)
            descriptor = self._library.bpf_map__fd(self._map("kicks"))
            self._ring = self._library.ring_buffer__new(descriptor, self._callback, None, None)
            if not self._ring:
                raise failed("map the ring of kicks")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Detach and unload everything. A second call does nothing."""
        if self._object:
            if self._ring:
                self._library.ring_buffer__free(self._ring)
            self._library.bpf_object__close(self._object)
            self._object = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the ``with`` block the kernel counts exits and kicks. It can be entered again."""
        self._totals.watching = 1
        with self._attached(_ALWAYS):
            yield

    @contextmanager
    def detail(self) -> Iterator[None]:
        """Inside this block, within :meth:`attached`, it also notes times and reasons.

        That takes two to three times as long as counting.
        """
        with self._attached(_DETAIL):
            self._totals.detail = 1
            try:
                yield
            finally:
                self._totals.detail = 0

    @contextmanager
    def handlers(self) -> Iterator[None]:
        """Inside this block, within :meth:`attached`, it also looks at what handlers leave behind.

        All system calls of the host take longer meanwhile.
        """
        with self._attached(_HANDLERS):
            yield

    def look_again(self, vcpu_files: Iterable[int]) -> None:
        """Find the vCPUs among these files that came since, and the threads that run them.

        A vCPU can sleep in its first KVM_RUN for long, so its next exit may be far.
        """
        if new := set(vcpu_files) - self._files:
            descriptor = self._library.bpf_map__fd(self._map("vcpu_files"))
            for number in new:
                key, one = ctypes.c_uint32(number), ctypes.c_uint32(1)
                if self._library.bpf_map_update_elem(
                    descriptor, ctypes.byref(key), ctypes.byref(one), 0
                ):
                    raise failed("name the vCPUs to the observer")
            self._files |= new
            self._iterate("find_vcpus")
        self.read_kvm_counts()  # which finds the threads of vCPUs that ran since
        if (n_threads := sum(map(bool, self.threads))) > self._n_threads:
            self._n_threads = n_threads
            self._iterate("find_threads")

    @property
    def vcpus(self) -> bytes:
        """The counts of each vCPU so far, a copy: structs of :class:`~.layout.Vcpu`, by slot."""
        return self._copy("vcpus", ctypes.sizeof(layout.Vcpu) * self._n_slots)

    @property
    def exits(self) -> list[int]:
        """The exits of each vCPU so far, by slot."""
        return [vcpu.exits for vcpu in self._vcpus[: self._n_slots]]

    @property
    def threads(self) -> list[int]:
        """The thread that ran each vCPU last, by slot; 0: none did."""
        return [vcpu.thread for vcpu in self._vcpus[: self._n_slots]]

    @property
    def ways(self) -> bytes:
        """The ways to leave so far, a copy: structs of :class:`~.layout.WayCount`."""
        n = min(int(self._totals.n_ways), layout.MAX_WAYS)
        return self._copy("ways", ctypes.sizeof(layout.WayCount) * n)

    @property
    def totals(self) -> layout.Totals:
        """What is counted of the process as a whole, a copy."""
        return layout.Totals.from_buffer_copy(self._totals)

    @property
    def kvm_counts(self) -> bytes:
        """What :meth:`read_kvm_counts` read last: structs of :class:`~.layout.KvmCounts`."""
        return b"".join(bytes(vcpu.kvm) for vcpu in self._vcpus[: self._n_slots])

    def read_kvm_counts(self) -> list[int]:
        """Read what KVM counts itself. Returns the exits of each slot, those in the kernel too.

        :attr:`kvm_counts` and :attr:`vcpus` have the others then.
        """
        program = self._library.bpf_program__fd(self._program("read_counts"))
        for index in range(self._n_slots):
            slot = ctypes.c_uint32(index)
            call = TestRun(
                sz=ctypes.sizeof(TestRun),
                ctx_in=ctypes.cast(ctypes.byref(slot), ctypes.c_void_p),
                ctx_size_in=ctypes.sizeof(slot),
            )
            if self._library.bpf_prog_test_run_opts(program, ctypes.byref(call)):
                raise failed("read KVM's counts")
        return [vcpu.kvm.exits for vcpu in self._vcpus[: self._n_slots]]

    def take_kicks(self) -> bytes:
        """The kicks that were answered since the last call: structs of :class:`~.layout.Kick`."""
        self._library.ring_buffer__consume(self._ring)
        taken, self._kicks = b"".join(self._kicks), []
        return taken

    def senders(self) -> tuple[bytes, bytes]:
        """Who sent signals to threads of vCPUs, and how many: structs of
        :class:`~.layout.Sender` and :class:`~.layout.SenderCount`."""
        keys, values = [], []
        descriptor = self._library.bpf_map__fd(self._map("senders"))
        key = ctypes.create_string_buffer(ctypes.sizeof(layout.Sender))
        value = ctypes.create_string_buffer(ctypes.sizeof(layout.SenderCount))
        before = None
        while not self._library.bpf_map_get_next_key(descriptor, before, key):
            if not self._library.bpf_map_lookup_elem(descriptor, key, value):
                keys.append(key.raw)
                values.append(value.raw)
            before = ctypes.create_string_buffer(key.raw, len(key))
        return b"".join(keys), b"".join(values)

    def lost(self) -> Lost:
        """What was not noted so far."""
        return Lost(
            **{
                name: getattr(self._totals, f"lost_{name}")
                for name in ("kicks", "vcpus", "ways", "senders", "threads")
            },
            events=sum(self._misses(name) for name in PROGRAMS),
        )

    # --- within ----------------------------------------------------------------------------------

    def _program(self, name: str) -> Any:
        found = self._library.bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise MeasurementError(f"the observer has no program {name}: the package is damaged")
        return found

    def _map(self, name: str) -> Any:
        found = self._library.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise MeasurementError(f"the observer has no map {name}: the package is damaged")
        return found

    def _set_process(self, pid: int) -> None:
        """Write the constant of the programs, which is fixed when they are loaded."""
        size = ctypes.c_size_t()
        constants = self._map(".rodata")
        address = self._library.bpf_map__initial_value(constants, ctypes.byref(size))
        ctypes.c_int32.from_address(address).value = pid

    @property
    def _n_slots(self) -> int:
        """How many vCPUs have a slot."""
        return min(int(self._totals.n_vcpus), self._n_vcpus)

    def _rows(self, name: str, kind: type[ctypes.Structure], n: int) -> Any:
        """The structs in the memory of a map."""
        descriptor = self._library.bpf_map__fd(self._map(name))
        size = -(-ctypes.sizeof(kind) * n // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            self._maps[name] = mmap.mmap(descriptor, size)
        except OSError as error:
            raise HostError(f"cannot map the observer's counts: {error.strerror}") from None
        return (kind * n).from_buffer(self._maps[name])

    def _copy(self, name: str, size: int) -> bytes:
        return self._maps[name][:size]

    def _iterate(self, name: str) -> None:
        link = self._library.bpf_program__attach_iter(self._program(name), None)
        if not link:
            raise failed(f"attach the observer's program {name}")
        try:
            descriptor = self._library.bpf_iter_create(self._library.bpf_link__fd(link))
            if descriptor < 0:
                raise failed(f"run the observer's program {name}")
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                file.readall()
        finally:
            self._library.bpf_link__destroy(link)

    @contextmanager
    def _attached(self, names: Iterable[str]) -> Iterator[None]:
        links: list[int] = []
        try:
            for name in names:
                link = self._library.bpf_program__attach(self._program(name))
                if not link:
                    raise failed(f"attach the observer's program {name}")
                links.append(link)
            yield
        finally:
            for link in links:
                self._library.bpf_link__destroy(link)

    def _take_kick(self, _: object, address: int, size: int) -> int:
        self._kicks.append(ctypes.string_at(address, size))
        return 0

    def _misses(self, name: str) -> int:
        info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
        length = ctypes.c_uint32(len(info))
        descriptor = self._library.bpf_program__fd(self._program(name))
        if self._library.bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(length)):
            return 0
        return int.from_bytes(info.raw[_RECURSION_MISSES : _RECURSION_MISSES + 8], "little")


@contextmanager
def _without_signals() -> Iterator[None]:
    """Signals to this thread wait meanwhile: the verifier gives up when there is one (EAGAIN)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def object_file() -> Path:
    """The compiled programs. Raises UsageError if the package was built without them."""
    try:
        return built_file(kickbench.watch.__path__, OBJECT)
    except UsageError:
        raise UsageError(
            "this kickbench was built without its observer, because clang or libbpf's headers were "
            "missing:\ninstall both (Debian, Ubuntu: apt install clang libbpf-dev), then install "
            "kickbench again (pip install --force-reinstall .)"
        ) from None


def _check_host() -> None:
    if not _BTF.exists():
        raise HostError(
            "this kernel does not describe its types (no /sys/kernel/btf/vmlinux): kickbench "
            "observe needs one that is built with CONFIG_DEBUG_INFO_BTF=y"
        )
    try:
        lockdown = _LOCKDOWN.read_text()
    except OSError:
        return
    if "[confidentiality]" in lockdown:
        raise HostError(
            "this kernel is locked down for confidentiality, so that nothing may read its memory: "
            "boot it with lockdown=integrity to observe"
        )
