# SPDX-License-Identifier: Apache-2.0
"""A simulation of a queued spinlock that threads take again and again.

Each thread is on a CPU of its own. It does without the lock for a while (*away*), waits until it
has the lock, holds it, and begins anew. The lock is handed over in the order of arrival, as the
kernel's queued spinlock does it (kernel/locking/qspinlock.c). So this is a closed queue: few
threads rarely meet, and many wait for each other.

What the memory takes is counted in ways of the lock's cache line, from one CPU to another. The
hand-over that the kind handover measures has two: a CPU reads the line, then it gets the line for
itself to write it.

- A free lock was last written by its last holder. Whoever takes it next writes it at once: one way,
  none if that was itself.
- At a lock that is held, the first one in the queue reads the word in a loop. The holder gets the
  line back to write that the lock is free. Then the next one reads it, and writes it: three ways.
- If more wait, the new holder first tells the second one in the queue, on another line, that it is
  now the first: four ways. The others spin on lines of their own meanwhile.

A test compares it with mean value analysis and the limits of a closed queue: M. Reiser and S. S.
Lavenberg, "Mean-value analysis of closed multichain queuing networks", Journal of the ACM 27
(1980); E. D. Lazowska et al., "Quantitative System Performance" (1984), chapter 5.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FREE, _PENDING, _QUEUED = 1 / 2, 3 / 2, 4 / 2
"""Hand-overs between two holders: of a free lock, with one who waits, and with more."""

_LEAST_VARIATION = 1e-3
"""Below this, times are taken as always the same."""

_WARM_UP = 0.25
"""The share of the takings, the first ones, that do not count."""


@dataclass(frozen=True)
class Lock:
    """A lock. All times are in ns.

    It is held for ``hold_ns``, without what its line takes. ``same_node_ns`` and ``other_node_ns``
    are hand-overs of a line within a node and between nodes.
    """

    hold_ns: float
    same_node_ns: float
    other_node_ns: float


@dataclass(frozen=True)
class Away:
    """The time that a thread does without the lock: its mean in ns, and its variation.

    It is a gamma distribution with this coefficient of variation: 0 is always the same, 1 an
    exponential distribution.
    """

    mean_ns: float
    variation: float


@dataclass(frozen=True)
class Threads:
    """Threads that take a lock.

    ``node`` has the node of each. After a taking a thread is away, as the first of ``aways`` says,
    after the next one as the second says, and so on in turn.
    """

    node: NDArray[np.int64]
    aways: tuple[Away, ...]


def spread(threads: int, nodes: int) -> NDArray[np.int64]:
    """The node of each thread: as many on each node as on the others, node by node.

    Raises ValueError if there are fewer threads than nodes, or no node.
    """
    if not 1 <= nodes <= threads:
        raise ValueError(f"{threads} threads cannot be on {nodes} nodes")
    return np.arange(threads) * nodes // threads


def taking_ns(lock: Lock, threads: Threads, takings: int, rng: np.random.Generator) -> float:
    """The mean time from when a thread wants the lock until it gave it back, in ns.

    ``takings`` are simulated for each thread. At first all want the lock: a queue that keeps itself
    up forms sooner or later, and then it stays. The first quarter of all takings is not in the
    mean, so that another queue is gone. Raises ValueError for times below 0, and fewer than 4
    takings.
    """
    times = [lock.hold_ns, lock.same_node_ns, lock.other_node_ns]
    times += [time for away in threads.aways for time in (away.mean_ns, away.variation)]
    if min(times) < 0 or takings < 4:
        raise ValueError("expected times of 0 or more, and 4 takings or more")
    n, kinds = threads.node.size, len(threads.aways)
    node: list[int] = threads.node.tolist()
    total = n * takings
    aways: list[list[float]] = [_drawn(away, total, rng).tolist() for away in threads.aways]
    taken = [0] * n
    waiting = [(0.0, int(thread)) for thread in rng.permutation(n)]
    free_at, holder, spent, counted = 0.0, -1, 0.0, 0
    for taking in range(total):
        arrival, thread = waiting[0]
        begin = max(arrival, free_at)
        if arrival >= free_at:
            handovers = _FREE
        else:
            handovers = _QUEUED if min(waiting[1:3])[0] < free_at else _PENDING
        if holder not in (thread, -1):
            near = node[holder] == node[thread]
            begin += handovers * (lock.same_node_ns if near else lock.other_node_ns)
        free_at, holder = begin + lock.hold_ns, thread
        if taking >= _WARM_UP * total:
            spent += free_at - arrival
            counted += 1
        heapq.heapreplace(waiting, (free_at + aways[taken[thread] % kinds][taking], thread))
        taken[thread] += 1
    return spent / counted


def _drawn(away: Away, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if away.mean_ns == 0 or away.variation < _LEAST_VARIATION:
        return np.full(size, away.mean_ns)
    shape = 1 / away.variation**2
    return rng.gamma(shape, away.mean_ns / shape, size)
