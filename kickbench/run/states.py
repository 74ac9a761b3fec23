# SPDX-License-Identifier: Apache-2.0
"""The machines of states that need one of their own, and whether KVM says that it was in the state.

A kick is timed if its vCPU was seen in the state (``kickbench/engine/src/look.c``). What is here
looks at the whole process by KVM's own counts. Standard library only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kickbench import arch
from kickbench.guest.loader import Guest
from kickbench.kvm import KvmError

POLLED_NS = 10_000_000
"""How long KVM may poll for a halted vCPU: far longer than the gap between two kicks."""

MACHINES: Mapping[str, Mapping[str, Any]] = {
    "wait_for_sipi": {"started": False},
    "polling": {"halt_poll_ns": POLLED_NS},
    "halted_in_guest": {"halts_inside": True},
}
"""By state, what its :class:`~kickbench.guest.loader.Guest` has; others have nothing of it."""

Stats = Sequence[Mapping[str, int]]


def stats(guest: Guest) -> Stats:
    """KVM's counts of each vCPU; none if KVM does not have them (before Linux 5.14)."""
    with contextlib.suppress(KvmError):
        return [vcpu.stats() for vcpu in guest.vcpus]
    return []


def remarks(state: str | None, guest: Guest, before: Stats) -> Iterator[str]:
    """A sentence if the vCPUs were not in the state; ``before`` are the counts of the begin."""
    if state == "wait_for_sipi":
        started = sum(vcpu.mp_state() != arch.current().UNSTARTED for vcpu in guest.vcpus)
        if started:
            yield f"{started} of {guest.n_vcpus} vCPUs did not wait for their start until the end"
    if not before:
        return
    after = stats(guest)

    def count(name: str) -> int:
        return sum(one.get(name, 0) for one in after) - sum(one.get(name, 0) for one in before)

    if state == "halted_in_guest" and (exits := count("halt_exits")):
        yield f"HLT left the guest {exits} times, although it was to stay there"
    polls, ended = count("halt_attempted_poll"), count("halt_successful_poll")
    if state == "polling" and 2 * ended < polls:
        yield (
            f"KVM polled until the kick in only {ended} of {polls} halts: it stops when another "
            "thread wants the vCPU's CPU"
        )
