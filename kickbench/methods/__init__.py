# SPDX-License-Identifier: Apache-2.0
"""The catalogue of kick protocols: one entry each, its C beside it in ``<id>.c``.

The table describes each protocol, and the C file implements it. ``kickbench.host.capabilities``
decides whether this host supports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Lock:
    """A lock that a protocol takes ``takings`` times per exit.

    ``instructions`` are those that one taking adds to an exit. Of these, ``held`` run while nobody
    else can take the lock. Both are exact counts (docs/lab.md).
    """

    takings: int
    instructions: int
    held: int

    @property
    def held_share(self) -> float:
        """The share of a taking's instructions that run under the lock."""
        return self.held / self.instructions


@dataclass(frozen=True)
class Method:
    """One kick protocol.

    ``kicker`` and ``vcpu_thread`` are the steps of the two threads, ``handler`` and ``mask`` what
    the signal's handler does and how the signal is masked (None: there is no signal). ``race_free``
    is the claim that the race measurement tests. ``needs`` names a field of
    :class:`kickbench.host.capabilities.Capabilities` that must be true, or None when any KVM will
    do. ``used_by`` names the VMMs that kick in this way.

    A measuring control splits the cost of the protocol ``control_of``. Nobody kicks in its way, and
    it takes part in exits only. ``isolates`` is the part of the cost that only the protocol has,
    ``keeps`` the rest that both have. ``lock`` is what is known of a lock that is that part.
    """

    id: str
    kicker: str
    vcpu_thread: str
    handler: str | None
    mask: str | None
    race_free: bool
    used_by: str
    needs: str | None = None
    control_of: str | None = None
    isolates: str = ""
    keeps: str = ""
    lock: Lock | None = None

    @property
    def kicks_by_signal(self) -> bool:
        """Whether the transport of the signal makes a difference."""
        return self.handler is not None


_NO_MASK = "the signal is never blocked"
_PROPOSED = "nobody: in no released kernel"

CATALOGUE: dict[str, Method] = {
    method.id: method
    for method in (
        Method(
            id="flag_signal",
            kicker="set flag, signal",
            vcpu_thread="check flag, KVM_RUN",
            handler="does nothing",
            mask=_NO_MASK,
            race_free=False,
            used_by="kvmtool's loop; the negative control",
        ),
        Method(
            id="sigmask",
            kicker="set flag, signal",
            vcpu_thread="check flag, KVM_RUN; after EINTR sigtimedwait, then the flag again",
            handler="never runs",
            mask="blocked outside KVM_RUN, unblocked inside by KVM_SET_SIGNAL_MASK",
            race_free=True,
            used_by="QEMU before 2.9",
        ),
        Method(
            id="sigmask_same",
            kicker="set flag, signal",
            vcpu_thread="check flag, KVM_RUN",
            handler="does nothing",
            mask="never blocked, and KVM_SET_SIGNAL_MASK sets the same mask: no siglock",
            race_free=False,
            used_by="nobody; the control of what sigmask costs",
            control_of="sigmask",
            isolates="siglock",
            keeps="the bookkeeping of KVM_SET_SIGNAL_MASK",
            # kvm_sigset_activate and kvm_sigset_deactivate (virt/kvm/kvm_main.c) call sigprocmask,
            # which locks in __set_current_blocked (kernel/signal.c). Counted with Linux 6.12.
            lock=Lock(takings=2, instructions=42, held=34),
        ),
        Method(
            id="immediate_exit",
            kicker="set flag, signal",
            vcpu_thread=(
                "check flag, KVM_RUN; after EINTR clear run->immediate_exit, then the flag again"
            ),
            handler="sets run->immediate_exit",
            mask=_NO_MASK,
            race_free=True,
            used_by="QEMU, Firecracker, crosvm",
            needs="immediate_exit",
        ),
        Method(
            id="immediate_exit_remote",
            kicker="set flag, set run->immediate_exit, signal",
            vcpu_thread=(
                "check flag, KVM_RUN; after EINTR clear run->immediate_exit, fence, then the flag "
                "again"
            ),
            handler="does nothing",
            mask=_NO_MASK,
            race_free=True,
            used_by="proposed for Cloud Hypervisor (PR 7455)",
            needs="immediate_exit",
        ),
        Method(
            id="immediate_exit_remote_flag_first",
            kicker="set flag, set run->immediate_exit, signal",
            vcpu_thread="read flag, then clear run->immediate_exit, KVM_RUN: the wrong order",
            handler="does nothing",
            mask=_NO_MASK,
            race_free=False,
            used_by="nobody; the negative control of the order",
            needs="immediate_exit",
        ),
        Method(
            id="user_exit",
            kicker="set flag, KVM_USER_EXIT on the vCPU's descriptor",
            vcpu_thread="check flag, KVM_RUN, which returns KVM_EXIT_REQUEST",
            handler=None,
            mask=None,
            race_free=True,
            used_by=_PROPOSED,
            needs="user_exit",
        ),
        Method(
            id="exitfd",
            kicker="set flag, write to its own eventfd (KVM_VCPU_MAKE_EXITFD)",
            vcpu_thread="check flag, KVM_RUN, which returns KVM_EXIT_REQUEST",
            handler=None,
            mask=None,
            race_free=True,
            used_by=_PROPOSED,
            needs="exitfd",
        ),
    )
}


def control_pairs(methods: Iterable[str], baseline: str) -> list[tuple[str, str]]:
    """The pairs (protocol, its control) that are compared besides each method and the baseline."""
    there = set(methods)
    return [
        (method.control_of, method.id)
        for method in CATALOGUE.values()
        if method.control_of in there and method.id in there - {baseline}
        if method.control_of != baseline
    ]


def method_label(method: str) -> str:
    """The name of a method in results: an id of the catalogue, the stem of a C file, or that of a
    library without "lib".

    :mod:`kickbench.scenario.model` ensures that no two methods of a scenario have the same label.
    """
    if not is_protocol_file(method):
        return method
    stem = PurePath(method).stem
    return stem.removeprefix("lib") if is_library(method) else stem


def is_protocol_file(method: str) -> bool:
    """Whether a method is a C file or a library rather than an id of the catalogue."""
    return method.endswith(".c") or is_library(method)


def is_library(method: str) -> bool:
    """Whether a method is a library, with a protocol in another language."""
    return method.endswith(".so")
