# SPDX-License-Identifier: Apache-2.0
"""The guest program mix takes the exits of its table, each in turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ctypes import c_uint32
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.arch import x86_64
from kickbench.guest import loader
from kickbench.guest.loader import Guest
from kickbench.guest.mix import (
    EXITS,
    FIRST_ADDRESS,
    LAST_ADDRESS,
    MAX_ENTRIES,
    SIZES,
    MixedExit,
    code,
    is_port,
    nearest,
    why_kept,
    why_not_an_exit,
)
from kickbench.kvm import Kvm, Vcpu, abi
from kickbench.run.schedule import mix_table, recorded_gaps

Seen = tuple[str, int, int]

IRQCHIPS = ("none", "split", "kernel")
ALL = [
    MixedExit(exit_, (0xC0DE if is_port(exit_) else 0xFEB0_0000) + 8 * size, size, 1)
    for exit_ in EXITS
    for size in SIZES
]
TABLE = [*ALL, *ALL[:4]]
EXIT = st.sampled_from(tuple(EXITS))
SIZE = st.sampled_from(SIZES)
IRQCHIP = st.sampled_from(IRQCHIPS)


def exits_of(vcpu: Vcpu, count: int) -> Iterator[Seen]:
    """What KVM says of a vCPU's next exits: which, where, of how many bytes."""
    for _ in range(count):
        reason, run = vcpu.run_once(), vcpu.run
        if reason == abi.KVM_EXIT_IO:
            assert run.io.count == 1
            yield ("port_read", "port_write")[run.io.direction], run.io.port, run.io.size
        else:
            assert reason == abi.KVM_EXIT_MMIO
            mmio = run.mmio
            yield ("mmio_read", "mmio_write")[mmio.is_write], mmio.phys_addr, mmio.len


@pytest.mark.kvm
@pytest.mark.parametrize("irqchip", IRQCHIPS)
@pytest.mark.parametrize("gaps", [(), (1000,)], ids=["max", "paced"])
def test_every_vcpu_takes_the_exits_of_the_table_in_turn_from_its_own_place(
    gaps: tuple[int, ...], irqchip: str
) -> None:
    pacing: dict[str, Any] = {}
    if gaps:
        pacing = {"gaps_cycles": gaps, "first_gaps": [0, 0, 0], "ring_entries": 64}
    wanted = [(entry.exit, entry.address, entry.size) for entry in TABLE]
    with Kvm() as kvm, Guest(kvm, "mix", 3, irqchip=irqchip, mix=TABLE, **pacing) as guest:
        for first, vcpu in zip((0, 5, 10), guest.vcpus, strict=True):
            seen = list(exits_of(vcpu, 2 * len(TABLE)))
            assert seen == 2 * (wanted[first:] + wanted[:first])
            # The exit before the last is complete, and the next is chosen.
            if gaps:
                assert guest.params(guest.vcpus.index(vcpu)).head == 2 * len(TABLE) - 1


@pytest.mark.kvm
@pytest.mark.parametrize("gaps", [(), (1,)], ids=["max", "paced"])
def test_a_turn_of_a_drawn_table_has_each_exit_as_often_as_its_share_says(
    gaps: tuple[int, ...],
) -> None:
    shares = dict(zip(ALL, (500, 200, 200, 100, 50, 20, 10, 5, 5, 3, 2, 1), strict=True))
    mix = tuple(replace(each, share=share) for each, share in shares.items())
    table = mix_table(mix, Random(1))
    pacing: dict[str, Any] = {}
    if gaps:
        pacing = {"gaps_cycles": gaps, "first_gaps": [0, 0], "ring_entries": 64}
    with Kvm() as kvm, Guest(kvm, "mix", 2, mix=table, **pacing) as guest:
        turns = [list(exits_of(vcpu, len(table))) for vcpu in guest.vcpus]
    half = len(table) // 2
    assert turns[1] == turns[0][half:] + turns[0][:half]
    counts = Counter(turns[0])
    assert len(counts) == len(mix)
    for each in mix:
        wanted = each.share / sum(shares.values()) * len(table)
        assert abs(counts[each.exit, each.address, each.size] - wanted) < 1


@pytest.mark.kvm
def test_a_guest_takes_its_recorded_gaps_in_turn() -> None:
    gaps = [int(gap) for gap in recorded_gaps((1e3, 2e3, 9e5), 64, Random(1))]
    pacing: dict[str, Any] = {"gaps_cycles": gaps, "first_gaps": [5], "ring_entries": 64}
    with Kvm() as kvm, Guest(kvm, "mix", 1, mix=TABLE, **pacing) as guest:
        params = guest.params(0)
        params.late_limit = loader.MAX_CYCLES  # however busy the host is
        due = [
            params.next_low + (params.next_high << 32)
            for _ in exits_of(guest.vcpus[0], 2 * len(gaps))
        ]
        assert not params.late
    assert np.diff(due).tolist() == (2 * (gaps[5:] + gaps[:5]))[1:]


@pytest.mark.kvm
@pytest.mark.parametrize("irqchip", IRQCHIPS)
def test_an_exit_that_is_moved_to_the_nearest_address_leaves(irqchip: str) -> None:
    table = [
        MixedExit(exit_, nearest(exit_, address, size, irqchip), size, 1)
        for exit_, address, size in (
            ("port_read", 0x20, 1),
            ("port_write", 0x4CF, 4),
            ("port_write", 0xFFFF, 4),
            ("mmio_read", 0xA_0000, 4),
            ("mmio_write", 0xFEE0_00B0, 4),
            ("mmio_read", 0xFEC0_0010, 4),
            ("mmio_write", 0xFFFB_CFFF, 2),
            ("mmio_read", 0x12_3456_7FFE, 4),
        )
    ]
    with Kvm() as kvm, Guest(kvm, "mix", 1, irqchip=irqchip, mix=table) as guest:
        seen = list(exits_of(guest.vcpus[0], len(table)))
    assert seen == [(entry.exit, entry.address, entry.size) for entry in table]


@pytest.mark.kvm
def test_vcpus_of_different_rates_have_gaps_of_their_own() -> None:
    gaps, scales = (1000, 3001), (0.1, 2, 1e9)
    pacing: dict[str, Any] = {"gaps_cycles": gaps, "first_gaps": [0, 1, 0], "ring_entries": 64}
    with Kvm() as kvm, Guest(kvm, "pm_timer", 3, gap_scales=scales, **pacing) as guest:
        start = guest.params_address(0) - loader.VCPU_BLOCKS
        params = [guest.params(index) for index in range(3)]
        own = [(c_uint32 * 2).from_address(start + each.gaps)[:] for each in params]
        assert own == [[100, 300], [2000, 6002], [2**32 - 1] * 2]
        assert [each.mean_gap for each in params] == [200, 4001, 2**32 - 1]
        assert [list(exits_of(vcpu, 1)) for vcpu in guest.vcpus[:2]] == 2 * [
            [("port_read", 0x608, 4)]
        ]


@given(EXIT, st.integers(0, 2**64 - 1), SIZE, IRQCHIP)
def test_the_nearest_address_is_one_at_which_the_guest_can_leave(
    exit_: str, address: int, size: int, irqchip: str
) -> None:
    moved = nearest(exit_, address, size, irqchip)
    assert why_not_an_exit(exit_, moved, size) is None
    assert why_kept(exit_, moved, size, irqchip) is None
    can = why_not_an_exit(exit_, address, size) is None
    if can and why_kept(exit_, address, size, irqchip) is None:
        assert moved == address


@given(EXIT, st.integers(FIRST_ADDRESS, LAST_ADDRESS) | st.integers(0, 0xFFFF), SIZE, IRQCHIP)
def test_what_no_interrupt_chip_lets_leave_is_no_exit(
    exit_: str, address: int, size: int, irqchip: str
) -> None:
    if not is_port(exit_) and why_not_an_exit(exit_, address, size) is None:
        assert why_kept(exit_, address, size, "none") is None
    if why_kept(exit_, address, size, "none"):
        assert why_kept(exit_, address, size, irqchip)


def test_the_largest_table_fits_its_place() -> None:
    """A mask wraps the addresses of a paced guest."""
    table = MAX_ENTRIES * [MixedExit("mmio_read", 0xFEB0_0000, 2, 1)]
    for paced in (False, True):
        whole, begins = code(table, paced=paced)
        assert len(begins) == MAX_ENTRIES
        assert len(whole) <= loader.MIX <= loader.VCPU_BLOCKS - len(whole)
    assert len(whole) == begins[1] * MAX_ENTRIES == x86_64.PACED_ENTRY * MAX_ENTRIES
    assert loader.MIX & (loader.MIX - 1) == 0


def test_the_guest_and_the_loader_agree_on_what_both_state() -> None:
    text = (Path(__file__).parents[1] / "kickbench/guest/params.h").read_text()
    stated = dict(re.findall(r"#define (KB_\w+)\s+(0x\w+|\d+)", text))
    assert int(stated["KB_GUEST_ENTRY"], 16) == loader.ENTRY
    assert int(stated["KB_MIX_ENTRY"]) == x86_64.PACED_ENTRY
    # KVM's own pages: the TSS has three, after the one of the identity map.
    for address in (x86_64.IDENTITY_MAP, x86_64.TSS, x86_64.TSS + 3 * loader.PAGE - 1):
        assert why_not_an_exit("mmio_read", address, 1)
