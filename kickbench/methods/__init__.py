# SPDX-License-Identifier: Apache-2.0
"""The catalogue of kick protocols: one entry each, its C beside it in ``<id>.c``.

This table says what a protocol is; the C file is what it does. It does not say whether this host
supports it: that is ``kickbench.host.capabilities``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One kick protocol.

    ``kicker`` and ``vcpu_thread`` say who does what; ``race_free`` is the claim that the race
    measurement tests; ``needs`` names a field of :class:`kickbench.host.capabilities.Capabilities`
    that must be true, or None when any KVM will do; ``used_by`` names who does it so.
    """

    id: str
    kicker: str
    vcpu_thread: str
    race_free: bool
    used_by: str
    needs: str | None = None


CATALOGUE: dict[str, Method] = {
    method.id: method
    for method in (
        Method(
            id="flag_signal",
            kicker="set flag, tgkill",
            vcpu_thread="empty handler; check flag, KVM_RUN",
            race_free=False,
            used_by="kvmtool's loop; the negative control",
        ),
        Method(
            id="sigmask",
            kicker="set flag, tgkill",
            vcpu_thread=(
                "signal blocked outside KVM_RUN, KVM_SET_SIGNAL_MASK unblocks it inside; "
                "sigtimedwait after EINTR"
            ),
            race_free=True,
            used_by="QEMU before 2.9",
        ),
        Method(
            id="immediate_exit",
            kicker="set flag, tgkill",
            vcpu_thread=(
                "the handler sets run->immediate_exit; cleared after EINTR, then the flag is "
                "read again"
            ),
            race_free=True,
            used_by="QEMU, Firecracker, crosvm",
            needs="immediate_exit",
        ),
    )
}
