# SPDX-License-Identifier: Apache-2.0
"""Says which kick protocol a VMM uses, by what was seen of it, and with the evidence in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from kickbench.numbers import plural

UNKNOWN = "unknown"
_ALL = 0.9
_FEW = 3
"""Ends of handlers that must have been seen before the absence of immediate_exit means anything."""


@dataclass(frozen=True)
class Seen:
    """What was seen of all vCPUs together. ``signal`` is the one that most kicks had, 0 without.

    ``has_mask``: KVM_SET_SIGNAL_MASK is in force. ``let_through``: signals that the threads block
    and that this mask does not (bit 0 is signal 1). ``blocked``: the threads block ``signal``.
    Of ``kicks``, ``handled`` ran a handler, and ``in_run`` met the vCPU in KVM_RUN. Before so many
    of each, ``set_before`` and ``set_before_in_run``, immediate_exit was set already.
    ``handlers`` is how many ends of handlers were looked at, and ``set_by_handler`` in how many of
    them immediate_exit was set. ``eintr_immediate``: returns with EINTR while it was set.
    """

    signal: int
    has_mask: bool
    let_through: int
    blocked: bool
    kicks: int
    handled: int
    in_run: int
    set_before: int
    set_before_in_run: int
    handlers: int
    set_by_handler: int
    eintr: int
    eintr_immediate: int


def decide(seen: Seen) -> tuple[str, list[str]]:
    """The id of the protocol, as in kickbench's catalogue, or :data:`UNKNOWN`; and the evidence."""
    evidence = _evidence(seen)
    handled = seen.handled > 0
    if seen.has_mask and (seen.let_through if not seen.kicks else seen.blocked and not handled):
        return "sigmask", evidence
    if not seen.kicks or not handled:
        return UNKNOWN, evidence
    if seen.has_mask:
        return "sigmask_same", evidence
    if _is_set_by_sender(seen):
        return "immediate_exit_remote", evidence
    if seen.set_by_handler:
        return "immediate_exit", evidence
    if seen.handlers >= _FEW:
        return "flag_signal", evidence
    if seen.eintr_immediate:
        return "immediate_exit", evidence
    return UNKNOWN, evidence


def _is_set_by_sender(seen: Seen) -> bool:
    """Whether the sender sets immediate_exit. KVM_RUN does not begin while it is set, so of a vCPU
    in KVM_RUN nobody else can have set it. In user space an earlier kick may have left it set."""
    if seen.in_run:
        return seen.set_before_in_run > seen.in_run / 2
    return seen.set_before >= _ALL * seen.kicks


def signal_name(number: int) -> str:
    """The name of a signal, e.g. "SIGUSR1", or "signal 40" for one without."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _evidence(seen: Seen) -> list[str]:
    said = []
    if seen.has_mask:
        through = [signal_name(n + 1) for n in range(64) if seen.let_through >> n & 1]
        lets = f" and lets {', '.join(through)} through" if through else ""
        said.append(f"a signal mask of KVM_SET_SIGNAL_MASK is in force{lets}")
    else:
        said.append("no signal mask of KVM_SET_SIGNAL_MASK is in force")
    if not seen.kicks:
        return [*said, "no kick was seen"]
    name = signal_name(seen.signal)
    blocks = "block" if seen.blocked else "do not block"
    said.append(f"kicks are {name}, which the vCPUs' threads {blocks}")
    said.append(f"a handler ran for {seen.handled:,} of {plural(seen.kicks, 'kick')}")
    if seen.handlers:
        said.append(
            f"immediate_exit was set at the end of {seen.set_by_handler:,} of "
            f"{plural(seen.handlers, 'handler')}"
        )
    if seen.set_before_in_run:
        said.append(
            f"immediate_exit was set before {seen.set_before_in_run:,} of "
            f"{plural(seen.in_run, 'kick')} in KVM_RUN"
        )
    if seen.eintr:
        said.append(
            f"KVM_RUN returned EINTR {plural(seen.eintr, 'time')}, with immediate_exit set in "
            f"{seen.eintr_immediate:,} of them"
        )
    return said
