# SPDX-License-Identifier: Apache-2.0
"""The layout of the maps that the programs in the kernel fill: ``watch.h`` in Python's words."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_uint8, c_uint32, c_uint64

SUB_BITS = 4
BINS = 608
MAX_VCPUS = 4096
MAX_WAYS = 16384
MAX_SENDERS = 1024
REASON_ERROR = 0x10000
UNKNOWN_REASON = 2**32 - 1
"""The reason of a kick that was answered in user space, without an exit."""


class Kick(ctypes.Structure):
    """``struct kb_kick``."""

    _fields_ = (
        ("sent_ns", c_uint64),
        ("left_ns", c_uint64),
        ("handled_ns", c_uint64),
        ("vcpu", c_uint32),
        ("sender", c_uint32),
        ("signal", c_int32),
        ("code", c_int32),
        ("state", c_uint32),
        ("more", c_uint32),
        ("reason", c_uint32),
        ("set_by_sender", c_uint8),
        ("set_at_exit", c_uint8),
        ("pad", c_uint8 * 2),
    )


class KickCounts(ctypes.Structure):
    """``struct kb_kick_counts``."""

    _fields_ = (
        ("by_state", c_uint64 * 4),
        ("left", c_uint64),
        ("handled", c_uint64),
        ("more", c_uint64),
        ("longest_ns", c_uint64),
    )


class Way(ctypes.Structure):
    """``struct kb_way``."""

    _fields_ = (
        ("address", c_uint64),
        ("vcpu", c_uint32),
        ("reason", c_uint32),
        ("size", c_uint32),
        ("write", c_uint32),
    )


class WayCount(ctypes.Structure):
    """``struct kb_way_count``."""

    _fields_ = (
        ("way", Way),
        ("exits", c_uint64),
        ("in_run_ns", c_uint64),
        ("timed", c_uint64),
        ("userspace_ns", c_uint64),
        ("handled", c_uint64),
    )


class Sender(ctypes.Structure):
    """``struct kb_sender``."""

    _fields_ = (
        ("thread", c_uint32),
        ("process", c_uint32),
        ("signal", c_int32),
        ("code", c_int32),
        ("system_call", c_int32),
        ("to_process", c_uint32),
    )


class SenderCount(ctypes.Structure):
    """``struct kb_sender_count``."""

    _fields_ = (
        ("sent", c_uint64),
        ("pending", c_uint64),
        ("failed", c_uint64),
        ("comm", c_uint8 * 16),
    )


class KvmCounts(ctypes.Structure):
    """``struct kb_kvm_counts``."""

    _fields_ = (
        ("exits", c_uint64),
        ("halt_wait_ns", c_uint64),
        ("halt_polls", c_uint64),
        ("halt_polls_good", c_uint64),
        ("halt_poll_ns", c_uint64),
    )


class Vcpu(ctypes.Structure):
    """``struct kb_vcpu``."""

    _fields_ = (
        ("kvm_vcpu", c_uint64),
        ("id", c_uint32),
        ("thread", c_uint32),
        ("exits", c_uint64),
        ("entries", c_uint64),
        ("looked_at", c_uint64),
        ("eintr", c_uint64),
        ("eintr_unasked", c_uint64),
        ("eintr_immediate", c_uint64),
        ("foreign_signals", c_uint64),
        ("kicks_before", c_uint64),
        ("mask", c_uint64),
        ("has_mask", c_uint32),
        ("changed_thread", c_uint32),
        ("kick", Kick),
        ("kicks", KickCounts),
        ("kvm", KvmCounts),
        ("gap_ns", c_uint64 * BINS),
        ("userspace_ns", c_uint64 * BINS),
        ("in_run_ns", c_uint64 * BINS),
    )


class Totals(ctypes.Structure):
    """``struct kb_totals``."""

    _fields_ = (
        ("watching", c_uint32),
        ("detail", c_uint32),
        ("n_vcpus", c_uint32),
        ("n_ways", c_uint32),
        ("siglock_waits", c_uint64),
        ("siglock_wait_ns", c_uint64),
        ("siglock_vcpu_waits", c_uint64),
        ("handlers", c_uint64),
        ("handlers_set", c_uint64),
        ("lost_kicks", c_uint64),
        ("lost_vcpus", c_uint64),
        ("lost_ways", c_uint64),
        ("lost_senders", c_uint64),
        ("lost_threads", c_uint64),
    )


STRUCTS = {
    "kick": Kick,
    "kick_counts": KickCounts,
    "way": Way,
    "way_count": WayCount,
    "sender": Sender,
    "sender_count": SenderCount,
    "kvm_counts": KvmCounts,
    "vcpu": Vcpu,
    "totals": Totals,
}
"""Each struct of ``watch.h`` by its name without ``kb_``."""


def edges_ns() -> list[int]:
    """The lower edges of the histograms' bins in ns, of length BINS; they rise."""
    logs = [max(number >> SUB_BITS, 1) - 1 for number in range(BINS)]
    return [(number - (log << SUB_BITS)) << log for number, log in enumerate(logs)]
