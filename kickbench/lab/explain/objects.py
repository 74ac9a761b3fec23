# SPDX-License-Identifier: Apache-2.0
"""What lies at an address: a symbol of the kernel's, an object of a slab, or a process's memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.kvm.abi import kvm_run
from kickbench.lab.explain.memory import PAGE_BYTES, Kernel, Space
from kickbench.lab.explain.symbols import Symbols

KERNEL = 1 << 63
_OF_CACHE = {
    "sighand_cache": "sighand_struct",
    "signal_cache": "signal_struct",
    "task_struct": "task_struct",
    "filp": "file",
    "files_cache": "files_struct",
    "mm_struct": "mm_struct",
    "kvm_vcpu": "kvm_vcpu",
    "pid": "pid",
    "cred_jar": "cred",
    "sigqueue": "sigqueue",
}
"""The structure of a slab cache's objects, for caches that have but one."""
_OF_CALLER = {"kvm_dev_ioctl": "kvm", "kvm_create_vm": "kvm", "kvm_arch_alloc_vm": "kvm"}
"""The structure that a function asked vmalloc() for."""
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ *(\S.*)?$", re.MULTILINE)
_KVM_RUN = "anon_inode:kvm-vcpu"


@dataclass(frozen=True)
class Objects:
    """The memory of one process and its kernel.

    ``books`` and ``maps`` are what the driver said (:mod:`kickbench.lab.explain.inside`), ``slabs``
    the array that :func:`slabs` makes. ``data`` are the kernel's variables by address.
    """

    books: dict[str, Any]
    slabs: NDArray[np.int32] | None
    maps: str
    kernel: Kernel
    data: Symbols

    def name(self, address: int) -> str:
        """What is at a virtual address, down to the field where that is known."""
        if address in self.kernel.image:
            return self.data.name(address)
        if address in self.kernel.space.direct_map:
            return self._of_slab(address) or self._of_cpu(address) or "a page of the kernel's"
        if address >= KERNEL:
            return self._vmalloced(address)
        return self._of_process(address)

    def node(self, physical: int) -> int | None:
        """The NUMA node of a physical address."""
        return next((n for n, low, high in self.books["nodes"] if low <= physical < high), None)

    def _of_slab(self, address: int) -> str | None:
        space = self.kernel.space
        page = space.page(address)
        if self.slabs is None or page >= len(self.slabs) or self.slabs[page][0] < 0:
            return None
        _, cache, size = self.books["caches"][self.slabs[page][0]]
        begin = space.direct_map.start + int(self.slabs[page][1]) * PAGE_BYTES
        return self._field(_OF_CACHE.get(cache, cache), (address - begin) % size)

    def _field(self, name: str, offset: int) -> str:
        struct = self.kernel.structs.by_name.get(name)
        # An object may be longer: a vCPU of KVM is a part of one of its vendor module's.
        if struct is None or offset >= struct.size:
            return f"{name}+{offset}"
        return f"{name}.{struct.field(offset)}"

    def _of_cpu(self, address: int) -> str | None:
        for cpu, offset in enumerate(self.books["per_cpu"]):
            own = (address - offset) % (1 << 64)
            if own in self.kernel.per_cpu:
                return f"{self.data.name(own)} of CPU {cpu}"
        return None

    def _vmalloced(self, address: int) -> str:
        for low, high, caller in self.books["vmalloced"]:
            if low <= address < high:
                if caller in _OF_CALLER:
                    return self._field(_OF_CALLER[caller], address - low)
                return f"memory of {caller}()"
        return "memory of the kernel's"

    def _of_process(self, address: int) -> str:
        for low, high, _, path in _MAPPING.findall(self.maps):
            if int(low, 16) <= address < int(high, 16):
                if path.startswith(_KVM_RUN):
                    return f"kvm_run.{_field_of_kvm_run(address - int(low, 16))}"
                return f"the process's {Path(path).name or 'memory'}"
        return "the process's memory"


def physical(
    addresses: Sequence[int], place: int, books: dict[str, Any], known: set[int], space: Space
) -> int:
    """The physical address of a line that QEMU keeps at ``place``.

    ``known`` are the differences between the two that were seen in the kernel's direct map, one for
    each node. Raises LookupError if none fits.
    """
    for address in addresses:
        if address in space.direct_map:
            return space.physical(address)
    for difference in known:
        if any(low <= place - difference < high for _, low, high in books["nodes"]):
            return place - difference
    raise LookupError(hex(place))


def _field_of_kvm_run(offset: int) -> str:
    """The field of struct kvm_run (include/uapi/linux/kvm.h) that this offset is in."""
    names = [name for name, *_ in kvm_run._fields_ if getattr(kvm_run, name).offset <= offset]
    return names[-1]


def slabs(pages: bytes, kernel: Kernel, caches: list[int]) -> NDArray[np.int32]:
    """An array (pages, 2): the number of the page's cache, or -1, and the first page of its slab.

    ``pages`` are what :meth:`kickbench.lab.explain.memory.Books.now` wrote, and ``caches`` the
    addresses of the caches.
    """
    structs = kernel.structs
    page = structs.by_name["page"]
    words = np.frombuffer(pages, "<u8").reshape(-1, page.size // 8)
    first = np.arange(len(words))
    # A page behind the first one of several has the first one's address, and one more.
    inner = words[:, page.offset("compound_head") // 8]
    later = inner & np.uint64(1) == 1
    first[later] = (inner[later] - np.uint64(1 + kernel.space.vmemmap)) // np.uint64(page.size)
    owner = words[first.clip(0, len(words) - 1), structs.by_name["slab"].offset("slab_cache") // 8]
    order = np.argsort(caches)
    known = np.array(caches, np.uint64)[order]
    place = np.searchsorted(known, owner).clip(0, known.size - 1)
    return np.stack([np.where(known[place] == owner, order[place], -1), first], axis=1).astype(
        np.int32
    )
