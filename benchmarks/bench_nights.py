# SPDX-License-Identifier: Apache-2.0
"""What the nightly decision makes of real nights, replayed: their quiet exits, and their means.

benchmarks/data/nights.npz has real short nights of one host, quiet ones and such with other load
(data/nights.txt says which). A replayed history draws runs of consecutive nights, so that load
comes and goes as it did. Each of 50 cases has the processes of that night, drawn anew, and in each
blocks of its rounds. They are judged as `kickbench nightly` judges: a night with other load is no
witness.

Targets: at most 5 false-alarm nights in 1,000; a step of 1 % in one of the 50 cases is found within
3 nights in 95 % of the trials or more. A night that is no witness cannot find anything, so that the
nights that are count.

    python benchmarks/bench_nights.py [FILE.npz] [--quick]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_nightly import (
    BOTH_METHODS,
    CASES,
    RESAMPLES,
    SETTINGS,
    Floats,
    History,
    alarms,
    judge_with_load,
    resample,
)
from numpy.typing import NDArray

from kickbench.nightly import noise
from kickbench.nightly.trends import QUIET
from kickbench.stats.location import huber, trimmed
from kickbench.stats.proportions import clopper_pearson

DATA = Path(__file__).parent / "data" / "nights.npz"
CONSECUTIVE = 8  # nights that are drawn together
FIRST = SETTINGS.baseline_nights + 1 + noise.LONG
STEP = 0.01
WITHIN = 3


@dataclass(frozen=True)
class Nights:
    """Estimates (nights, processes, resamples, 3) of sigmask, immediate_exit and what the one costs
    more than the other, in ns; and of each night what others took of the CPUs' time."""

    values: Floats
    load: Floats


def read(path: Path, figure: str, random: np.random.Generator) -> Nights:
    """The nights of a file that collect_nights.py wrote; ``figure`` is "quiet" or "mean"."""
    with np.load(path) as data:
        night, process, ns = data["night"], data["process"], data[f"{figure}_ns"].astype(float)
        load = data["load"]
    rounds = np.stack([ns[0], ns[1], ns[0] - ns[1]])
    location = huber if figure == "quiet" else trimmed
    processes = np.unique(process)
    values = np.full((len(load), len(processes), RESAMPLES, 3), np.nan)
    for i in range(len(load)):
        for j, p in enumerate(processes):
            own = rounds[:, (night == i) & (process == p)]
            if own.shape[1] > 1:
                values[i, j] = resample(own, random, location)
    complete = np.isfinite(values).all((1, 2, 3))
    return Nights(values[complete], load[complete])


def replay(nights: Nights, length: int, random: np.random.Generator) -> tuple[History, Floats]:
    """A history of so many nights, and the load of each."""
    measured, processes, _, _ = nights.values.shape
    starts = random.integers(0, measured, -(-length // CONSECUTIVE))
    drawn = ((starts[:, None] + np.arange(CONSECUTIVE)) % measured).ravel()[:length]
    level = np.median(nights.values[nights.load <= QUIET], axis=(0, 1, 2))
    values, errors = [], []
    shape = (length, processes)
    for _ in range(2 * CASES):
        which = random.integers(0, processes, shape)
        own = nights.values[drawn[:, None], which, random.integers(0, RESAMPLES, shape)]
        mean, error = own.mean(1), own.std(1, ddof=1) / np.sqrt(processes)
        # The fourth stands for what goes with the level, as in bench_nightly.
        values += [mean, mean[:, 1:2]]
        errors += [error, error[:, 1:2]]
    unit = np.tile([level[0], level[1], level[1], level[1]], 2 * CASES)
    return History(np.concatenate(values, 1), np.concatenate(errors, 1), unit), nights.load[drawn]


def false_alarms(nights: Nights, count: int, random: np.random.Generator) -> str:
    """Of so many nights without a change those that raise an alarm."""
    found = total = silent = 0
    per_history = 250
    for _ in range(max(1, count // per_history)):
        history, load = replay(nights, FIRST + per_history, random)
        p = judge_with_load(history, load, FIRST)
        found += int(alarms(p).any(1).sum())
        silent += int(np.isnan(p).all(1).sum())
        total += len(p)
    share = clopper_pearson(found, total)
    return (
        f"{1000 * found / total:.1f} false-alarm nights in 1,000 ({1000 * share.low:.1f} to "
        f"{1000 * share.high:.1f}; target at most 5), {100 * silent / total:.0f} % no witness"
    )


def power(nights: Nights, histories: int, random: np.random.Generator) -> str:
    """How often a step of one case is found within so many nights that are witnesses."""
    trials = hit = 0
    after = 4 * WITHIN
    # Nights that are no witness are in no baseline, so that a history needs more of them first.
    first = 2 * FIRST
    for _ in range(histories):
        history, load = replay(nights, first + after, random)
        undisturbed = judge_with_load(history, load, first)
        stepped = history.value.copy()
        moved = np.isin(np.arange(len(history.unit)) % 4, BOTH_METHODS)
        stepped[first:] += STEP * history.unit * moved
        p = judge_with_load(replace(history, value=stepped), load, first)
        witnesses = np.flatnonzero(~np.isnan(p).all(1))[:WITHIN]
        if len(witnesses) < WITHIN:
            continue
        for case in range(0, len(history.unit), 4):
            trials += 1
            hit += _is_found(undisturbed[witnesses], p[witnesses], slice(case, case + 4))
    if not trials:
        return f"a step of {100 * STEP:g} %: no trial, for want of {WITHIN} nights to judge by"
    share = clopper_pearson(hit, trials)
    return (
        f"a step of {100 * STEP:g} % in one of {2 * CASES} cases is found within {WITHIN} nights "
        f"in {100 * hit / trials:.1f} % of {trials:,} trials ({100 * share.low:.1f} to "
        f"{100 * share.high:.1f}; target 95)"
    )


def _is_found(undisturbed: Floats, changed: Floats, case: slice) -> bool:
    """Whether a metric of this case raises an alarm, when it is the only one that changed."""
    mixed = undisturbed.copy()
    mixed[:, case] = changed[:, case]
    found: NDArray[np.bool_] = alarms(mixed)[:, case]
    return bool(found.any())


def repeatable(path: Path) -> str:
    """How well nights without other load agree in immediate_exit's quiet exit, by the quantile of
    all rounds of a night that is taken for its level: the interquartile range of the nights."""
    with np.load(path) as data:
        night, ns, load = data["night"], data["quiet_ns"][1], data["load"]
    calm = [ns[night == i] for i in np.flatnonzero(load <= QUIET) if np.sum(night == i) > 1]
    found = []
    for level in (0.5, 0.25, 0.1, 0.05):
        nights = np.array([np.quantile(rounds, level) for rounds in calm])
        low, middle, high = np.quantile(nights, [0.25, 0.5, 0.75])
        found.append(f"p{100 * level:g} of the rounds {100 * (high - low) / middle:.2f} %")
    return "half of the quiet nights lie within: " + ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=DATA)
    parser.add_argument("--quick", action="store_true", help="a fifth of the nights")
    arguments = parser.parse_args()
    factor = 5 if arguments.quick else 1
    print(repeatable(arguments.file))
    for figure in ("quiet", "mean"):
        nights = read(arguments.file, figure, np.random.default_rng(1))
        calm = nights.load <= QUIET
        level = nights.values[calm].mean((1, 2))
        scatter = 100 * level.std(0, ddof=1) / np.median(level[:, 1])
        print(
            f"{figure} exit: {len(calm)} nights, {np.sum(~calm)} with other load; the others "
            f"differ by {scatter[0]:.2f} % (sigmask), {scatter[1]:.2f} % (immediate_exit) and, "
            f"of an exit, {scatter[2]:.2f} % (their difference)"
        )
        print("  " + false_alarms(nights, 4000 // factor, np.random.default_rng(2)), flush=True)
        print("  " + power(nights, 20 // factor, np.random.default_rng(3)), flush=True)


if __name__ == "__main__":
    main()
