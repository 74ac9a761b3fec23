# SPDX-License-Identifier: Apache-2.0
"""The layout of the maps that the programs in the kernel fill: ``watch.h`` in numpy's words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUB_BITS = 4
BINS = 608
REASON_ERROR = 0x10000
UNKNOWN_REASON = 2**32 - 1
"""The reason of a kick that was answered in user space, without an exit."""

KICK = np.dtype(
    [
        ("sent_ns", "u8"),
        ("left_ns", "u8"),
        ("handled_ns", "u8"),
        ("vcpu", "u4"),
        ("sender", "u4"),
        ("signal", "i4"),
        ("code", "i4"),
        ("state", "u4"),
        ("more", "u4"),
        ("reason", "u4"),
        ("set_by_sender", "u1"),
        ("set_at_exit", "u1"),
        ("pad", "u1", 2),
    ]
)
KICK_COUNTS = np.dtype(
    [
        ("by_state", "u8", 4),
        ("left", "u8"),
        ("handled", "u8"),
        ("more", "u8"),
        ("longest_ns", "u8"),
    ]
)
WAY = np.dtype(
    [("address", "u8"), ("vcpu", "u4"), ("reason", "u4"), ("size", "u4"), ("write", "u4")]
)
WAY_COUNT = np.dtype(
    [
        ("way", WAY),
        ("exits", "u8"),
        ("in_run_ns", "u8"),
        ("timed", "u8"),
        ("userspace_ns", "u8"),
        ("handled", "u8"),
    ]
)
SENDER = np.dtype(
    [
        ("thread", "u4"),
        ("process", "u4"),
        ("signal", "i4"),
        ("code", "i4"),
        ("system_call", "i4"),
        ("to_process", "u4"),
    ]
)
SENDER_COUNT = np.dtype([("sent", "u8"), ("pending", "u8"), ("failed", "u8"), ("comm", "S16")])
KVM_COUNTS = np.dtype(
    [
        ("exits", "u8"),
        ("halt_wait_ns", "u8"),
        ("halt_polls", "u8"),
        ("halt_polls_good", "u8"),
        ("halt_poll_ns", "u8"),
    ]
)
VCPU = np.dtype(
    [
        ("kvm_vcpu", "u8"),
        ("id", "u4"),
        ("thread", "u4"),
        ("exits", "u8"),
        ("entries", "u8"),
        ("looked_at", "u8"),
        ("eintr", "u8"),
        ("eintr_unasked", "u8"),
        ("eintr_immediate", "u8"),
        ("foreign_signals", "u8"),
        ("kicks_before", "u8"),
        ("mask", "u8"),
        ("has_mask", "u4"),
        ("changed_thread", "u4"),
        ("kick", KICK),
        ("kicks", KICK_COUNTS),
        ("kvm", KVM_COUNTS),
        ("gap_ns", "u8", BINS),
        ("userspace_ns", "u8", BINS),
        ("in_run_ns", "u8", BINS),
    ]
)
TOTALS = np.dtype(
    [
        ("watching", "u4"),
        ("detail", "u4"),
        ("n_vcpus", "u4"),
        ("n_ways", "u4"),
        ("siglock_waits", "u8"),
        ("siglock_wait_ns", "u8"),
        ("siglock_vcpu_waits", "u8"),
        ("handlers", "u8"),
        ("handlers_set", "u8"),
        ("lost_kicks", "u8"),
        ("lost_vcpus", "u8"),
        ("lost_ways", "u8"),
        ("lost_senders", "u8"),
        ("lost_threads", "u8"),
    ]
)

STRUCTS = {
    "kick": KICK,
    "kick_counts": KICK_COUNTS,
    "way": WAY,
    "way_count": WAY_COUNT,
    "sender": SENDER,
    "sender_count": SENDER_COUNT,
    "kvm_counts": KVM_COUNTS,
    "vcpu": VCPU,
    "totals": TOTALS,
}
"""Each struct of ``watch.h`` by its name without ``kb_``."""


def edges_ns() -> NDArray[np.uint64]:
    """The lower edges of the histograms' bins in ns, of length BINS; they rise."""
    bins = np.arange(BINS, dtype=np.uint64)
    one = np.uint64(1)
    log = np.maximum(bins >> np.uint64(SUB_BITS), one) - one
    edges: NDArray[np.uint64] = (bins - (log << np.uint64(SUB_BITS))) << log
    return edges
