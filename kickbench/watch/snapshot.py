# SPDX-License-Identifier: Apache-2.0
"""What is said of a VM while it is watched, in a form that can be sent from another machine."""

from __future__ import annotations

import base64
import binascii
import ctypes
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kickbench.host.load import Load
from kickbench.watch import layout
from kickbench.watch.process import Thread


@dataclass(frozen=True)
class Progress:
    """What happens now, in words, and the share of the time that is over."""

    what: str
    share: float


@dataclass(frozen=True)
class Block:
    """A block of the measurement of what observing costs: ``exits`` as KVM counts them."""

    round: int
    state: int
    exits: int
    elapsed_ns: int


@dataclass(frozen=True)
class Turn:
    """About a second: the exits of each vCPU within it, and the CPU that its thread ended on."""

    at_ns: int
    elapsed_ns: int
    exits: list[int]
    cpus: list[int]


@dataclass(frozen=True)
class Lost:
    """What the programs could not note, by kind; all 0 in a sound observation.

    ``kicks`` did not fit into their ring, ``vcpus``, ``ways`` and ``senders`` into their tables.
    ``threads`` had no memory. ``events`` came while the same program ran on that CPU.
    """

    kicks: int = 0
    vcpus: int = 0
    ways: int = 0
    senders: int = 0
    threads: int = 0
    events: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Rows:
    """The counts so far: structs of :mod:`kickbench.watch.layout`, one after another.

    ``kvm_before`` has what KVM had counted of each vCPU at the beginning. ``kicks`` are only those
    that were answered since the last snapshot.
    """

    kvm_before: bytes = b""
    vcpus: bytes = b""
    ways: bytes = b""
    senders: bytes = b""
    sent: bytes = b""
    totals: bytes = bytes(ctypes.sizeof(layout.Totals))
    kicks: bytes = b""


_KINDS = {
    "kvm_before": (layout.KvmCounts, layout.MAX_VCPUS),
    "vcpus": (layout.Vcpu, layout.MAX_VCPUS),
    "ways": (layout.WayCount, layout.MAX_WAYS),
    "senders": (layout.Sender, layout.MAX_SENDERS),
    "sent": (layout.SenderCount, layout.MAX_SENDERS),
    "totals": (layout.Totals, 1),
    "kicks": (layout.Kick, 1 << 22),
}
"""The struct of each kind of rows, and the most of them that there can be."""


@dataclass(frozen=True)
class Snapshot:
    """What was seen of a VMM so far. It comes at the end of each turn, and once more at the end.

    ``detail_ns`` of ``elapsed_ns`` were looked at closely. ``blocks`` has all blocks, and ``turn``
    the last turn. ``first`` and ``last`` have the vCPUs' threads when they were seen first and
    now, by slot. Only the snapshot at the end has ``load``, which is what else ran on the host (the
    VMM's time counts as our own), and ``memory_nodes``. ``ended``: why it ended before its time.
    """

    n_threads: int
    began_ns: int
    elapsed_ns: int
    detail_ns: int
    blocks: list[Block]
    turn: Turn
    first: dict[int, Thread]
    last: dict[int, Thread]
    lost: Lost
    rows: Rows = field(default_factory=Rows)
    is_last: bool = False
    memory_nodes: dict[int, int] = field(default_factory=dict)
    load: Load | None = None
    ended: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as JSON."""
        return {
            **vars(self),
            "blocks": [vars(block) for block in self.blocks],
            "turn": vars(self.turn),
            "first": [[slot, vars(thread)] for slot, thread in self.first.items()],
            "last": [[slot, vars(thread)] for slot, thread in self.last.items()],
            "lost": vars(self.lost),
            "rows": {name: _packed(data) for name, data in vars(self.rows).items()},
            "memory_nodes": list(self.memory_nodes.items()),
            "load": None if self.load is None else vars(self.load),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        """The inverse of :meth:`to_dict`.

        Raises LookupError, TypeError or ValueError if the data is something else. The types of
        single numbers and texts are for the caller to check.
        """
        rows = {name: _unpacked(data["rows"][name], *kind) for name, kind in _KINDS.items()}
        found = cls(
            **{
                **data,
                "blocks": [Block(**block) for block in data["blocks"]],
                "turn": Turn(**data["turn"]),
                "first": {slot: Thread(**thread) for slot, thread in data["first"]},
                "last": {slot: Thread(**thread) for slot, thread in data["last"]},
                "lost": Lost(**data["lost"]),
                "rows": Rows(**rows),
                "memory_nodes": dict(data["memory_nodes"]),
                "load": None if data["load"] is None else Load(**data["load"]),
            }
        )
        found._check()
        return found

    def _check(self) -> None:
        """Raises ValueError if the parts do not fit together."""
        rows = self.rows
        vcpus = array_of(layout.Vcpu, rows.vcpus)
        n_vcpus = len(vcpus)
        slots = [vcpu.kick.vcpu for vcpu in vcpus if vcpu.kick.sent_ns]
        slots += [row.way.vcpu for row in array_of(layout.WayCount, rows.ways)]
        slots += [row.vcpu for row in array_of(layout.Kick, rows.kicks)]
        slots += [*self.first, *self.last, len(self.turn.exits) - 1, len(self.turn.cpus) - 1]
        if max(slots, default=-1) >= n_vcpus:
            raise ValueError("a vCPU that there is not")
        if len(self.turn.exits) != len(self.turn.cpus):
            raise ValueError("a turn with more CPUs than vCPUs, or fewer")
        n_senders = len(rows.senders) // ctypes.sizeof(layout.Sender)
        if len(rows.sent) // ctypes.sizeof(layout.SenderCount) != n_senders:
            raise ValueError("counts of senders that there are not")
        if len(rows.totals) != ctypes.sizeof(layout.Totals):
            raise ValueError("no totals")


def array_of(kind: type[ctypes.Structure], data: bytes) -> Any:
    """The structs in the data, a copy: an array of ctypes."""
    return (kind * (len(data) // ctypes.sizeof(kind))).from_buffer_copy(data)


def _packed(data: bytes) -> str:
    # Most of a histogram's bins are 0, so the fastest level is enough.
    return base64.b64encode(zlib.compress(data, 1)).decode()


def _unpacked(text: str, kind: type[ctypes.Structure], most: int) -> bytes:
    size = ctypes.sizeof(kind)
    try:
        packed = base64.b64decode(text, validate=True)
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, size * most + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from None
    if len(data) > size * most or len(data) % size or not unpacking.eof:
        raise ValueError(f"{len(data)} bytes are no structs of {size} bytes, at most {most}")
    return data
