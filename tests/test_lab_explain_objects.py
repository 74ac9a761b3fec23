# SPDX-License-Identifier: Apache-2.0
"""What lies at an address of an emulated machine, and how structures are laid out."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from kickbench.lab import structs
from kickbench.lab.explain import symbols
from kickbench.lab.explain.memory import SPACES, Kernel, Memory, nodes, vmalloced
from kickbench.lab.explain.objects import Objects, physical, slabs
from kickbench.lab.structs import Struct, Structs

# --- structures ----------------------------------------------------------------------------------

SOURCE = """
typedef struct { int raw; } spinlock_t;
struct page { unsigned long flags; union { long a; struct { short b, c; }; }; char d : 3, e : 5; };
struct sighand_struct { spinlock_t siglock; int count; struct { int inner; } wqh; long action[4]; };
struct task_struct; /* only declared */
struct not_wanted { int x; };
struct page page; struct sighand_struct sighand; struct task_struct *task; struct not_wanted other;
"""


def structs_of(path: Path) -> Structs:
    """The structures of an object file's BTF."""
    with path.open("rb") as file:
        return Structs.of_btf(ELFFile(file).get_section_by_name(".BTF").data())


def test_what_is_no_btf_is_refused() -> None:
    with pytest.raises(ValueError, match="no BTF"):
        Structs.of_btf(b"\x7fELF" + bytes(60))


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5", "-gbtf"])
def test_structures_are_read_from_debug_information(tmp_path: Path, version: str) -> None:
    (tmp_path / "a.c").write_text(SOURCE)
    command = ["gcc", version, "-c", "a.c", "-o", "a.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = structs_of(tmp_path / "a.o") if version == "-gbtf" else Structs.of([tmp_path / "a.o"])
    assert set(found.by_name) == {"page", "sighand_struct"}
    page = found.by_name["page"]
    assert page.size == 24
    assert [page.offset(name) for name in ("flags", "a", "b", "c", "d")] == [0, 8, 8, 10, 16]
    sighand = found.by_name["sighand_struct"]
    assert sighand.fields == ((0, "siglock"), (4, "count"), (8, "wqh"), (16, "action"))
    assert [sighand.field(at) for at in (0, 3, 4, 9, 47)] == [
        "siglock", "siglock", "count", "wqh", "action",
    ]  # fmt: skip
    assert Structs.from_json(found.to_json()) == found


@given(st.lists(st.integers(0, 500), min_size=1, unique=True), st.data())
def test_a_field_reaches_to_the_next_one(offsets: list[int], data: st.DataObject) -> None:
    fields = tuple((at, f"f{at}") for at in sorted(offsets))
    struct = Struct(512, fields)
    offset = data.draw(st.integers(min(offsets), 511))
    assert struct.field(offset) == f"f{max(at for at in offsets if at <= offset)}"
    assert Structs.from_json(Structs({"s": struct}).to_json()).by_name == {"s": struct}


# --- what the kernel says of its memory ----------------------------------------------------------

ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 0
  pages free     3840
        spanned  4095
        present  3998
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone    DMA32
  pages free     100
        spanned  126976
  start_pfn:           4096
Node 0, zone   Normal
  pages free     0
        spanned  0
  start_pfn:           0
Node 1, zone    DMA32
        spanned  131072
  start_pfn:           131072
"""


def test_the_nodes_spans() -> None:
    assert nodes(ZONEINFO) == [
        (0, 4096, 4096 * 4096),
        (0, 4096 * 4096, 131072 * 4096),
        (1, 131072 * 4096, 262144 * 4096),
    ]


def test_who_asked_for_an_area() -> None:
    said = (
        "0xffffc90000000000-0xffffc90000005000   20480 kernel_clone+0x9d/0x3a0 vmalloc N0=4\n"
        "0xffffc90000005000-0xffffc90000007000    8192 gen_pool_add_owner+0x3/0x1 ioremap\n"
    )
    assert vmalloced(said) == [
        (0xFFFFC90000000000, 0xFFFFC90000005000, "kernel_clone"),
        (0xFFFFC90000005000, 0xFFFFC90000007000, "gen_pool_add_owner"),
    ]


def test_what_is_known_of_a_kernel_travels() -> None:
    kernel = Kernel("arm64", {"slab_caches": 7}, Structs({"page": Struct(64, ((0, "flags"),))}))
    assert Kernel.from_dict(kernel.to_dict()) == kernel
    assert (kernel.image, kernel.per_cpu) == (range(0), range(0))  # these symbols are not known


def test_memory_is_read_by_its_virtual_address(tmp_path: Path) -> None:
    """As /proc/kcore has it: an ELF file with a segment for each range. Elsewhere are zeros."""
    header = struct.pack("<32xQ14xHH4x", 64, 56, 2)
    segments = [(4, 0, 200, 0, 0, 5), (1, 0, 176, 0x1000, 0, 4)]  # the first one is no memory
    table = b"".join(struct.pack("<IIQQQQ16x", *one) for one in segments)
    path = tmp_path / "kcore"
    path.write_bytes(header.ljust(64, b"\0") + table + b"abcd")
    assert Memory(path).read(0xFFE, 8) == b"\0\0abcd\0\0"
    assert Memory(path).number(0x1000) == int.from_bytes(b"abcd", "little")
    assert Memory(path).text(0x1001) == "bcd"


def test_which_slab_a_page_is_of() -> None:
    """Pages 1 and 2 are one slab. The second one has the address of the first one, and one more."""
    page = Struct(64, ((0, "flags"), (8, "compound_head")))
    known = Structs({"page": page, "slab": Struct(64, ((0, "flags"), (24, "slab_cache")))})
    words = np.zeros((4, 8), "<u8")
    words[1, 3], words[3, 3] = 0xFFFF888000001100, 0xFFFF888000001000
    words[2, 1] = 0xFFFFEA0000000000 + 64 + 1
    caches = [0xFFFF888000001000, 0xFFFF888000001100]
    found = slabs(words.tobytes(), Kernel("x86_64", {}, known), caches)
    assert found.tolist() == [[-1, 0], [1, 1], [1, 1], [0, 3]]
    words[2, 1] = 0xFFFFFDFFC0000000 + 64 + 1
    found = slabs(words.tobytes(), Kernel("arm64", {}, known), caches)
    assert found.tolist() == [[-1, 0], [1, 1], [1, 1], [0, 3]]


# --- names ---------------------------------------------------------------------------------------

SIGHAND = Struct(2112, ((0, "siglock"), (4, "count"), (32, "action")))
DIRECT_MAP = SPACES["x86_64"].direct_map.start
IMAGE = {"_text": 0xFFFFFFFF81000000, "_end": 0xFFFFFFFF83000000}
PER_CPU = {"__per_cpu_start": 0, "__per_cpu_end": 0x2000}
OBJECTS = Objects(
    books={
        "nodes": [(0, 0, 0x20000000), (1, 0x20000000, 0x40000000)],
        "vmalloced": [
            (0xFFFFC90000000000, 0xFFFFC90000005000, "kernel_clone"),
            (0xFFFFC90000010000, 0xFFFFC90000020000, "kvm_dev_ioctl"),
        ],
        "caches": [(0, "sighand_cache", 2112), (0, "kmalloc-64", 64)],
        "per_cpu": [DIRECT_MAP + 0x8000, DIRECT_MAP + 0x20000],
    },
    # Pages 2 and 3 are one slab of sighand_cache, page 4 one of kmalloc-64.
    slabs=np.array([[-1, 0], [-1, 1], [0, 2], [0, 2], [1, 4]], np.int32),
    maps=(
        "55d000000000-55d000001000 rw-p 00000000 00:00 0    [heap]\n"
        "7f0000000000-7f0000003000 rw-s 00000000 00:0e 1    anon_inode:kvm-vcpu:0\n"
        "7f0000004000-7f0000005000 rw-p 00000000 00:00 0 \n"
    ),
    kernel=Kernel(
        "x86_64",
        IMAGE | PER_CPU,
        Structs({"sighand_struct": SIGHAND, "kvm": Struct(100, ((0, "mmu_lock"),))}),
    ),
    data=symbols.Symbols.of(
        [(0x1000, 0x1100, "runqueues"), (0xFFFFFFFF82000000, 0xFFFFFFFF82000040, "jiffies")]
    ),
)
ARM64_MAP = SPACES["arm64"].direct_map.start
ARM64 = replace(
    OBJECTS,
    books={
        **OBJECTS.books,
        "vmalloced": [(0xFFFF800082000000, 0xFFFF800082005000, "kernel_clone")],
        "per_cpu": [ARM64_MAP + 0x8000 - 0xFFFF800080600000],
    },
    kernel=Kernel(
        "arm64",
        {
            "_text": 0xFFFF800080000000,
            "_end": 0xFFFF800081000000,
            "__per_cpu_start": 0xFFFF800080600000,
            "__per_cpu_end": 0xFFFF800080602000,
        },
        OBJECTS.kernel.structs,
    ),
    data=symbols.Symbols.of(
        [
            (0xFFFF800080601000, 0xFFFF800080601100, "runqueues"),
            (0xFFFF800080700000, 0xFFFF800080700040, "jiffies"),
        ]
    ),
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (DIRECT_MAP + 0x2000, "sighand_struct.siglock"),
        (DIRECT_MAP + 0x2000 + 2112 + 5, "sighand_struct.count"),
        (DIRECT_MAP + 0x3000, "sighand_struct.action"),  # the slab's second page
        (DIRECT_MAP + 0x4000 + 64 + 8, "kmalloc-64+8"),
        (DIRECT_MAP + 0x8000 + 0x1010, "runqueues of CPU 0"),
        (DIRECT_MAP + 0x20000 + 0x1010, "runqueues of CPU 1"),
        (DIRECT_MAP + 0x1000, "a page of the kernel's"),
        (DIRECT_MAP + 0x7000000, "a page of the kernel's"),  # behind all slabs
        (0xFFFFFFFF82000004, "jiffies"),
        (0xFFFFC90000000010, "memory of kernel_clone()"),
        (0xFFFFC90000010010, "kvm.mmu_lock"),
        (0xFFFFC90000010064, "kvm+100"),  # behind the structure
        (0xFFFFC90000030000, "memory of the kernel's"),
        (0x7F0000000001, "kvm_run.immediate_exit"),
        (0x7F0000000008, "kvm_run.exit_reason"),
        (0x55D000000000, "the process's [heap]"),
        (0x7F0000004000, "the process's memory"),
        (0x1234, "the process's memory"),
    ],
)
def test_what_is_at_an_address(address: int, name: str) -> None:
    assert OBJECTS.name(address) == name


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (ARM64_MAP + 0x2004, "sighand_struct.count"),
        (ARM64_MAP + 0x8000 + 0x1010, "runqueues of CPU 0"),
        (ARM64_MAP + 0x8000 + 0x100020, "a page of the kernel's"),  # no variable of a CPU's
        (0xFFFF800080700004, "jiffies"),
        (0xFFFF800082000004, "memory of kernel_clone()"),  # not far behind the image
        (0x7F0000000008, "kvm_run.exit_reason"),
    ],
)
def test_what_is_at_an_address_of_arm64(address: int, name: str) -> None:
    assert ARM64.name(address) == name


def test_without_structures_a_slab_is_known_by_its_cache() -> None:
    without = replace(OBJECTS, kernel=replace(OBJECTS.kernel, structs=Structs({})))
    assert without.name(DIRECT_MAP + 0x2000) == "sighand_struct+0"
    blind = replace(OBJECTS, slabs=None)
    assert blind.name(DIRECT_MAP + 0x2000) == "a page of the kernel's"


def test_the_node_of_a_line() -> None:
    books, space = OBJECTS.books, OBJECTS.kernel.space
    moved = {0, 0x40000000}  # of node 1's memory
    assert physical([0x7F00, DIRECT_MAP + 0x2000], 0x999, books, moved, space) == 0x2000
    assert physical([0x7F00], 0x3000, books, moved, space) == 0x3000
    assert physical([0x7F00], 0x60001000, books, moved, space) == 0x20001000
    assert physical([ARM64_MAP + 0x2000], 0x999, books, moved, SPACES["arm64"]) == 0x40002000
    assert [OBJECTS.node(at) for at in (0x3000, 0x20001000, 0x50000000)] == [0, 1, None]
    with pytest.raises(LookupError):
        physical([0x7F00], 0x123456789000, books, moved, space)


# --- System.map ----------------------------------------------------------------------------------


def test_variables_and_values_of_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "0000000000000000 D __per_cpu_start\n"
        "0000000000001000 d runqueues\n"
        "0000000000002000 D __per_cpu_end\n"
        "ffffffff81000000 T _text\n"
        "ffffffff82000000 D jiffies\n"
        "ffffffff82000040 b slab_caches\n"
    )
    found = symbols.Symbols.of(symbols.variables(path))
    assert found.name(0x1008) == "runqueues"
    assert found.name(0xFFFFFFFF82000044) == "slab_caches"
    assert symbols.values(path, ["slab_caches", "gone"]) == {"slab_caches": 0xFFFFFFFF82000040}
    assert [name for _, _, name in symbols.of_kernel(path)] == ["_text"]


def test_the_kernels_files_are_named_as_make_names_them() -> None:
    assert all(re.fullmatch(r"[a-z_]+(/[a-z_]+)+", name) for name in structs.SOURCES)
