# SPDX-License-Identifier: Apache-2.0
"""What hosts pay that are alike but for one thing: the kernels of a CPU model side by side.

Nothing needs to change for this: it compares what hosts are, and not what happened to them. So
something that nobody knows may be the reason. A change of hosts that moved says more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from kickbench.fleet.judge.cohorts import Histories
from kickbench.fleet.judge.found import Contrast, Effect
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.robust import median, trimmed
from kickbench.fleet.judge.steps import AFTER
from kickbench.nightly.evidence import adjust

LIKE = {"kernel": ("cpu_model",), "microcode": ("cpu_model", "kernel")}
"""The facts that are compared, and those in which the hosts must agree."""

_RATE = 0.0005


def contrasts(panel: Panel, histories: Histories, min_effect: float) -> list[Contrast]:
    """What the other hosts of a kind pay more than those that are the most, by figure."""
    late = panel.value[..., -AFTER[0] :]
    level = median(late)
    exact = _exact(panel, level)
    pairs = [
        (like, fact, one, other)
        for fact, facts in LIKE.items()
        for like, one, other in _pairs(histories, fact, facts)
    ]
    compared = [_compare(level, exact, one, other) for _, _, (_, one), (_, other) in pairs]
    if not compared:
        return []
    q = adjust(np.concatenate([p for *_, p in compared])).reshape(len(compared), -1)
    found = []
    for (like, fact, (name, one), (other_name, other)), (value, half, p), adjusted in zip(
        pairs, compared, q, strict=True
    ):
        changed = (adjusted <= _RATE) & (np.abs(value) > min_effect)
        effects = [
            Effect(
                int(i), *map(float, (value[i], value[i] - half[i], value[i] + half[i], p[i], qi))
            )
            for i, qi in enumerate(adjusted)
            if changed[i]
        ]
        effects.sort(key=lambda effect: -abs(effect.relative))
        hosts = (len(one), len(other))
        if effects:
            values = (name, other_name)
            found.append(Contrast(dict(like), fact, values, hosts, tuple(effects), ""))
    return found


def _exact(panel: Panel, level: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(figures, hosts): whether the nights have a count that is the same each time."""
    late, half = panel.value[..., -AFTER[0] :], panel.half[..., -AFTER[0] :]
    same = (late == level[..., None]) & (half == 0)
    known = np.isfinite(late)
    return np.asarray(known.any(-1) & (same | ~known).all(-1))


_Named = tuple[str, NDArray[np.intp]]


def _pairs(
    histories: Histories, fact: str, facts: tuple[str, ...]
) -> Iterator[tuple[list[tuple[str, str]], _Named, _Named]]:
    """Hosts that agree in ``facts``: those of the most frequent value, and those of another."""
    now = {name: histories.codes[name][:, -1] for name in (*facts, fact)}
    for codes in np.unique(np.stack([now[name] for name in facts], 1), axis=0):
        alike = np.all([now[name] == code for name, code in zip(facts, codes, strict=True)], axis=0)
        values, count = np.unique(now[fact][alike & (now[fact] >= 0)], return_counts=True)
        like = [histories.fact(name, int(code)) for name, code in zip(facts, codes, strict=True)]
        order = values[np.argsort(-count, kind="stable")]
        for other in order[1:]:
            one, two = (
                (histories.fact(fact, int(code))[1], np.flatnonzero(alike & (now[fact] == code)))
                for code in (order[0], other)
            )
            yield like, one, two


def _compare(
    level: NDArray[np.float32],
    exact: NDArray[np.bool_],
    one: NDArray[np.intp],
    other: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """How much more the others pay, as a share, half its 95 % interval and its p."""
    a, b = trimmed(level[:, one]), trimmed(level[:, other])
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.hypot(a.error, b.error)
        df = np.minimum(a.df, b.df)
        difference = b.value - a.value
        p = np.where(error > 0, 2 * stdtr(df, -np.abs(difference / error)), np.nan)
        half = error * stdtrit(df, 0.975)
    # A count that is the same in all nights of all hosts needs no error: any difference is real.
    first, second = level[:, one], level[:, other]
    sure = exact[:, one].all(1) & exact[:, other].all(1)
    sure &= (first == first[:, :1]).all(1) & (second == second[:, :1]).all(1)
    of = np.where(sure, first[:, 0], a.value)
    difference = np.where(sure, second[:, 0].astype(np.float64) - first[:, 0], difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(of == 0, np.nan, 1 / np.abs(of))
    p = np.where(sure, np.where(difference == 0, 1.0, 0.0), p)
    p[~np.isfinite(share)] = np.nan
    return difference * share, np.where(sure, 0.0, half) * share, p
