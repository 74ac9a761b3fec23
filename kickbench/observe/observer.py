# SPDX-License-Identifier: Apache-2.0
"""Collects what is seen of a VMM, here or on another machine, for the evaluation."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kickbench.errors import ConnectionBrokenError
from kickbench.host.load import Load
from kickbench.observe.kept import KeptKicks
from kickbench.watch import layout
from kickbench.watch.process import Thread, Vmm
from kickbench.watch.snapshot import Block, Lost, Progress, Snapshot, Turn
from kickbench.watch.turns import Watching, watch

INTERRUPTED = "it was interrupted"
BROKEN = "the connection broke"

Rows = NDArray[np.void]
"""A structured array with the fields of one of the structs of :mod:`kickbench.watch.layout`."""


def rows(data: bytes, kind: type[ctypes.Structure]) -> Rows:
    """The structs in the data."""
    return np.frombuffer(data, np.dtype(kind))


def _no(kind: type[ctypes.Structure]) -> Callable[[], Rows]:
    return lambda: np.zeros(0, np.dtype(kind))


@dataclass
class Observed:
    """What was seen of a VMM, as :class:`~kickbench.watch.snapshot.Snapshot` says it.

    ``kicks`` are those that :mod:`kickbench.observe.kept` keeps. ``vcpus`` counts all of them.
    ``ended``: why it ended before its time, or None. ``broken``: how the connection broke.
    """

    vmm: Vmm
    n_threads: int = 0
    began_ns: int = 0
    elapsed_ns: int = 0
    detail_ns: int = 0
    blocks: list[Block] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    first: dict[int, Thread] = field(default_factory=dict)
    last: dict[int, Thread] = field(default_factory=dict)
    memory_nodes: dict[int, int] = field(default_factory=dict)
    load: Load | None = None
    ended: str | None = None
    broken: ConnectionBrokenError | None = None
    lost: Lost = field(default_factory=Lost)
    kvm_before: Rows = field(default_factory=_no(layout.KvmCounts))
    vcpus: Rows = field(default_factory=_no(layout.Vcpu))
    ways: Rows = field(default_factory=_no(layout.WayCount))
    kicks: Rows = field(default_factory=_no(layout.Kick))
    senders: Rows = field(default_factory=_no(layout.Sender))
    sent: Rows = field(default_factory=_no(layout.SenderCount))
    totals: Rows = field(default_factory=_no(layout.Totals))

    def see(self, snapshot: Snapshot) -> None:
        """Take what a snapshot says, but its kicks and turns."""
        for name in ("n_threads", "began_ns", "elapsed_ns", "detail_ns", "blocks", "first"):
            setattr(self, name, getattr(snapshot, name))
        for name in ("last", "memory_nodes", "load", "ended", "lost"):
            setattr(self, name, getattr(snapshot, name))
        taken = snapshot.rows
        self.kvm_before = rows(taken.kvm_before, layout.KvmCounts)
        self.vcpus = rows(taken.vcpus, layout.Vcpu)
        self.ways = rows(taken.ways, layout.WayCount)
        self.senders = rows(taken.senders, layout.Sender)
        self.sent = rows(taken.sent, layout.SenderCount)
        self.totals = rows(taken.totals, layout.Totals)


OnProgress = Callable[[str, float], None]
"""Is called with what happens now, in words, and the share of the time that is over."""
OnTurn = Callable[[Observed], None]


def observe(
    vmm: Vmm,
    seconds: float,
    *,
    watch: Watching = watch,
    progress: OnProgress = lambda *_: None,
    on_turn: OnTurn = lambda *_: None,
    keep_on: Callable[[], bool] = lambda: True,
) -> Observed:
    """Observe the VMM for ``seconds``, as :func:`kickbench.watch.turns.watch` does.

    ``watch`` is that function, or one that has it run on another machine. If the connection to that
    breaks, what was seen until then is returned. If ``keep_on`` ends the observation before
    anything was seen, KeyboardInterrupt is raised. Raises the errors of ``watch``.
    """
    found = Observed(vmm)
    kicks = KeptKicks()
    try:
        with closing(watch(vmm, seconds, keep_on)) as news:
            for one in news:
                if isinstance(one, Progress):
                    progress(one.what, one.share)
                    continue
                kicks.add(rows(one.rows.kicks, layout.Kick))
                found.see(one)
                if not one.is_last:
                    found.turns.append(one.turn)
                    progress("observing", min(1.0, one.elapsed_ns / (seconds * 1e9)))
                    on_turn(found)
    except ConnectionBrokenError as error:
        if not found.turns:
            raise
        found.ended, found.broken = BROKEN, error
    if not found.turns:
        raise KeyboardInterrupt
    found.kicks = kicks.rows
    return found
