# SPDX-License-Identifier: Apache-2.0
"""What the nightly decision makes of real nights, replayed: their quiet exits, and their means.

benchmarks/data/nights.npz has real short nights of one host, quiet ones and such with other load
(data/nights.txt says which). A replayed history draws runs of consecutive nights, so that load
comes and goes as it did. Each of 50 cases has the processes of that night, drawn anew, and in each
blocks of its rounds. They are judged as `kickbench nightly` judges: a night with other load is no
witness, nor is one on which the cases disagree far more than usual.

Targets: at most 5 false-alarm nights in 1,000; a step of 1 % in one of the 50 cases is found within
3 nights in 95 % of the trials or more. Two figures are told: within 3 nights without other load,
and within 3 nights that are witnesses, because a night that is no witness cannot find anything. The
constants of the decision were chosen by the first half of the nights. The second is held out.

    python benchmarks/bench_nights.py [FILE.npz] [--quick] [--half first|second] [--permuted]
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

from kickbench.nightly import noise
from kickbench.nightly.trends import QUIET
from kickbench.stats.floor import FLOOR_LEVEL
from kickbench.stats.location import huber, trimmed
from kickbench.stats.proportions import clopper_pearson

DATA = Path(__file__).parent / "data" / "nights.npz"
CONSECUTIVE = 8  # nights that are drawn together
FIRST = SETTINGS.baseline_nights + 1 + noise.LONG
STEP = 0.01
WITHIN = 3
STEPS = (0.005, 0.01, 0.02, 0.05)
LEVELS = slice(0, None, 4)  # of sigmask
SHARES = (0.25, 1 / 3, 1.0)  # of the cases that a step hits at once


@dataclass(frozen=True)
class Nights:
    """Estimates (nights, processes, resamples, 3) of sigmask, immediate_exit and what the one costs
    more than the other, in ns; and of each night what others took of the CPUs' time. ``floors``
    says that the first two are floors of the processes, of which a night has the lowest."""

    values: Floats
    load: Floats
    floors: bool

    def part(self, half: str) -> Nights:
        """The first or second half of the nights, or all."""
        middle = len(self.load) // 2
        chosen = {"first": slice(middle), "second": slice(middle, None), "both": slice(None)}[half]
        return Nights(self.values[chosen], self.load[chosen], self.floors)


def read(path: Path, figure: str, random: np.random.Generator) -> Nights:
    """The nights of a file that collect_nights.py wrote; ``figure`` is "quiet" or "mean"."""
    with np.load(path) as data:
        night, process, ns = data["night"], data["process"], data[f"{figure}_ns"].astype(float)
        load = data["load"]
    rounds = np.stack([ns[0], ns[1], ns[0] - ns[1]])
    locations = (_floor, _floor, huber) if figure == "quiet" else (trimmed,) * 3
    processes = np.unique(process)
    values = np.full((len(load), len(processes), RESAMPLES, 3), np.nan)
    for i in range(len(load)):
        for j, p in enumerate(processes):
            own = rounds[:, (night == i) & (process == p)]
            if own.shape[1] > 1:
                values[i, j] = resample(own, random, locations)
    complete = np.isfinite(values).all((1, 2, 3))
    return Nights(values[complete], load[complete], figure == "quiet")


def _floor(rounds: Floats) -> tuple[float, Floats]:
    """The floor of a process's rounds, with no influences."""
    return float(np.quantile(rounds, FLOOR_LEVEL)), rounds


def replay(
    nights: Nights, length: int, random: np.random.Generator, consecutive: int
) -> tuple[History, Floats]:
    """A history of so many nights, and the load of each."""
    measured, processes, _, _ = nights.values.shape
    starts = random.integers(0, measured, -(-length // consecutive))
    drawn = ((starts[:, None] + np.arange(consecutive)) % measured).ravel()[:length]
    level = np.median(nights.values[nights.load <= QUIET], axis=(0, 1, 2))
    values, errors = [], []
    shape = (length, processes)
    for _ in range(2 * CASES):
        which = random.integers(0, processes, shape)
        own = nights.values[drawn[:, None], which, random.integers(0, RESAMPLES, shape)]
        mean, error = own.mean(1), own.std(1, ddof=1) / np.sqrt(processes)
        if nights.floors:
            mean[:, :2], error[:, :2] = own.min(1)[:, :2], 0.0
        # The fourth stands for what goes with the level, as in bench_nightly.
        values += [mean, mean[:, 1:2]]
        errors += [error, error[:, 1:2]]
    unit = np.tile([level[0], level[1], level[1], level[1]], 2 * CASES)
    return History(np.concatenate(values, 1), np.concatenate(errors, 1), unit), nights.load[drawn]


def false_alarms(nights: Nights, count: int, random: np.random.Generator, consecutive: int) -> str:
    """Of so many nights without a change those that raise an alarm."""
    found = total = silent = busy = 0
    per_history = 250
    for _ in range(max(1, count // per_history)):
        history, load = replay(nights, FIRST + per_history, random, consecutive)
        p = judge_with_load(history, load, FIRST)
        found += int(alarms(p).any(1).sum())
        busy += int(np.isnan(p).all(1).sum())
        silent += int(np.isnan(p[:, LEVELS]).all(1).sum())
        total += len(p)
    share = clopper_pearson(found, total)
    return (
        f"{1000 * found / total:.1f} false-alarm nights in 1,000 ({1000 * share.low:.1f} to "
        f"{1000 * share.high:.1f}; target at most 5), {100 * silent / total:.0f} % no witness, "
        f"{100 * busy / total:.0f} % for other load"
    )


def power(nights: Nights, histories: int, random: np.random.Generator, consecutive: int) -> None:
    """Prints how often a step of one case is found within so many nights, and one of many cases."""
    after = 4 * WITHIN
    # Nights that are no witness are in no baseline, so that a history needs more of them first.
    first = 2 * FIRST
    one: dict[float, list[tuple[bool, bool]]] = {step: [] for step in STEPS}
    many: dict[tuple[float, float], list[tuple[bool, bool]]] = {}
    for _ in range(histories):
        history, load = replay(nights, first + after, random, consecutive)
        undisturbed = judge_with_load(history, load, first)
        unloaded = np.flatnonzero(~np.isnan(undisturbed).all(1))
        witnesses = np.flatnonzero(~np.isnan(undisturbed[:, LEVELS]).all(1))
        if len(witnesses) < WITHIN:
            continue
        kind, case = np.arange(len(history.unit)) % 4, np.arange(len(history.unit)) // 4
        moved = np.isin(kind, BOTH_METHODS)
        for step in STEPS:
            alone = judge_with_load(_stepped(history, first, step * moved), load, first, history)
            for chosen in range(2 * CASES):
                mixed = np.where(case == chosen, alone, undisturbed)
                found = alarms(mixed)[:, case == chosen].any(1)
                one[step].append(
                    (bool(found[unloaded[:WITHIN]].any()), bool(found[witnesses[:WITHIN]].any()))
                )
            for share in SHARES:
                hit = moved & (case < share * 2 * CASES)
                p = judge_with_load(_stepped(history, first, step * hit), load, first)
                found = alarms(p)[:, hit].any(1)
                many.setdefault((share, step), []).append(
                    (
                        bool(found[unloaded[:WITHIN]].any()),
                        bool(found[unloaded[: 2 * WITHIN]].any()),
                    )
                )
    for step, trials in one.items():
        hits = np.array(trials)
        limits = [clopper_pearson(int(n), len(hits)) for n in hits.sum(0)]
        print(
            f"  a step of {100 * step:g} % in one of {2 * CASES} cases is found within {WITHIN} "
            f"nights without other load in {100 * hits[:, 0].mean():.1f} % of {len(hits):,} trials "
            f"({100 * limits[0].low:.1f} to {100 * limits[0].high:.1f}), within {WITHIN} witnesses "
            f"in {100 * hits[:, 1].mean():.1f} % ({100 * limits[1].low:.1f} to "
            f"{100 * limits[1].high:.1f}); target 95"
        )
    for (share_hit, step), trials in many.items():
        early, late = 100 * np.array(trials).mean(0)
        print(
            f"  a step of {100 * step:g} % in {100 * share_hit:.0f} % of the cases is found within "
            f"{WITHIN} and {2 * WITHIN} nights without other load in {early:.0f} and {late:.0f} % "
            f"of {len(trials)} histories",
            flush=True,
        )


def _stepped(history: History, first: int, change: Floats) -> History:
    """The history with each metric up by ``change``, a share of its level, from ``first`` on."""
    value = history.value.copy()
    value[first:] += change * history.unit
    return replace(history, value=value)


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
    parser.add_argument("--half", default="both", choices=("first", "second", "both"))
    parser.add_argument("--permuted", action="store_true", help="draw each night by itself")
    parser.add_argument("--figures", default="quiet,mean")
    arguments = parser.parse_args()
    factor = 5 if arguments.quick else 1
    print(repeatable(arguments.file))
    consecutive = 1 if arguments.permuted else CONSECUTIVE
    for figure in arguments.figures.split(","):
        nights = read(arguments.file, figure, np.random.default_rng(1)).part(arguments.half)
        calm = nights.load <= QUIET
        level = nights.values[calm].mean((1, 2))
        scatter = 100 * level.std(0, ddof=1) / np.median(level[:, 1])
        print(
            f"{figure} exit: {len(calm)} nights, {np.sum(~calm)} with other load; the others "
            f"differ by {scatter[0]:.2f} % (sigmask), {scatter[1]:.2f} % (immediate_exit) and, "
            f"of an exit, {scatter[2]:.2f} % (their difference)"
        )
        found = false_alarms(nights, 4000 // factor, np.random.default_rng(2), consecutive)
        print("  " + found, flush=True)
        power(nights, 20 // factor, np.random.default_rng(3), consecutive)


if __name__ == "__main__":
    main()
