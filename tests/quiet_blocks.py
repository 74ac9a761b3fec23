# SPDX-License-Identifier: Apache-2.0
"""Simulated blocks of exits whose undisturbed cost is known, for choosing the quiet exit.

A block's exits are its level plus noise. An estimator of location moves with the level, so that the
noise is drawn once, as a pool of blocks, and the level added: where a clock counts in steps, one
pool for each place of the level within a step. That is exact, and fast enough for many rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Estimator = Callable[[Floats, int], Floats]
"""The location of each block, from its exits in rising order (blocks x exits) and the clock."""

BASE = 3000
"""Cycles: a fast exit."""
JUMP = 600
"""Cycles: a fifth of a fast exit."""
EXITS = 200
"""In a block: what 20,000 exits a second leave in 10 ms."""


@dataclass(frozen=True)
class Host:
    """What disturbs the exits. Every duration is in cycles."""

    name: str
    wander: float = 0.0
    """AR(1) coefficient of the level from block to block; its standard deviation is 50."""
    drift: float = 0.0
    """By so much the level rises while a process runs."""
    heavy: bool = False
    """The noise of the exits has infinite variance (Student's t with 1.5 degrees of freedom)."""
    hit: float = 0.0
    """The share of the blocks in which a random share of the exits, 0 to 1, comes much later."""
    jumps: float = 0.0
    """The share of the time in which every exit takes JUMP longer, in stretches of some 5 blocks:
    what a sibling's or a neighbour's work does."""
    scatter: float = 0.0
    """The standard deviation of the level of a block in such a stretch, beyond JUMP."""
    step: int = 1
    """What the clock counts in: 84 are 40 ns at 2.1 GHz."""


def ar1(rng: np.random.Generator, shape: tuple[int, ...], coefficient: float) -> Floats:
    """A stationary AR(1) process of variance 1 along the last axis."""
    steps = rng.standard_normal(shape)
    steps[..., 1:] *= np.sqrt(1 - coefficient**2)
    return np.asarray(lfilter([1.0], [1.0, -coefficient], steps, axis=-1))


def tied_quantiles(ordered: Floats, levels: ArrayLike, step: int) -> Floats:
    """The quantiles (blocks x levels) of exits in rising order (blocks x exits), ties spread.

    With c values below v and m equal to v of n, the distribution function rises linearly from c / n
    at v - step / 2 to (c + m) / n at v + step / 2.
    """
    targets = np.asarray(levels, dtype=np.float64) * ordered.shape[1]
    found = np.empty((len(ordered), targets.size))
    for i, target in enumerate(targets):
        value = ordered[:, int(target), np.newaxis]
        below, equal = (ordered < value).sum(axis=1), (ordered == value).sum(axis=1)
        found[:, i] = value[:, 0] + step * ((target - below) / equal - 0.5)
    return found


def pool(host: Host, estimator: Estimator, rng: np.random.Generator, blocks: int = 400) -> Floats:
    """The estimator of blocks at the levels BASE, BASE + 1, ... up to a step (2 x steps x blocks).

    First the calm blocks, then those that were hit.
    """
    found = np.empty((2, host.step, blocks if host.step > 1 else 50 * blocks))
    shape = (found.shape[2], EXITS)
    for was_hit in (0, 1):
        for phase in range(host.step):
            exits = BASE + phase + rng.gamma(2, 40, shape)
            if host.heavy:
                exits += 40 * np.abs(rng.standard_t(1.5, shape))
            if was_hit:
                late = rng.random(shape) < rng.random((shape[0], 1))
                exits += np.where(late, 200 * (1 + rng.pareto(1.5, shape)), 0.0)
            # The stamps before and after are both rounded: the start is anywhere within a step.
            exits = np.floor(exits / host.step + rng.random(shape)) * host.step
            found[was_hit, phase] = estimator(np.sort(exits, axis=1), host.step)
    return found


def pairs(
    host: Host, pooled: Floats, rng: np.random.Generator, shape: tuple[int, ...], shift: int
) -> tuple[Floats, Floats]:
    """The difference, method - baseline, and the level of each round (..., rounds).

    A round has two blocks of each: ABBA or BAAB. Its level is the mean of all.
    A block's exits of the method cost `shift` more; nothing else tells the methods apart.
    """
    level = 50 * ar1(rng, (*shape[:-1], 4 * shape[-1]), host.wander)
    level += np.linspace(0, host.drift, level.shape[-1]) + 1000 * rng.random((*shape[:-1], 1))
    if host.jumps:
        jumps = JUMP + host.scatter * rng.standard_normal(level.shape)
        level += jumps * _stretches(host.jumps, rng, level.shape)
    level = np.rint(level).astype(np.int64).reshape(*shape, 4)
    method_first = rng.random((*shape, 1)) < 0.5
    is_method = method_first == np.array([True, False, False, True])
    level += np.where(is_method, shift, 0)
    was_hit = (rng.random(level.shape) < host.hit).astype(np.int64)
    drawn = rng.integers(0, pooled.shape[2], level.shape)
    costs = level - level % host.step + pooled[was_hit, level % host.step, drawn]
    return np.where(is_method, costs, -costs).sum(axis=-1) / 2, costs.mean(axis=-1)


def _stretches(share: float, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """1 in stretches of some 5 along the last axis, which are ``share`` of it, else 0."""
    stretch = np.cumsum(rng.random(shape) < 0.2, axis=-1)
    high = rng.random((*shape[:-1], shape[-1] + 1)) < share
    return np.take_along_axis(high, stretch, axis=-1).astype(np.float64)
