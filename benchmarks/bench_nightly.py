# SPDX-License-Identifier: Apache-2.0
"""How well the nightly decision decides: false alarms, power and delay, and how fast it is.

Synthetic nights are built from the rounds of real runs (benchmarks/data/nightly_rounds.txt says
what they are): a night draws processes and, within each, blocks of rounds, and gets the estimate
and the interval that `kickbench run` would give it. On top come a deviation between nights, of a
chosen size, with heavy tails, half of it common to all cases; and what is injected. 50 cases of 4
metrics are 200 metrics, judged by the functions that `kickbench nightly` judges with.

    python benchmarks/bench_nightly.py            # all tables
    python benchmarks/bench_nightly.py --quick    # a fifth of the nights
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kickbench.nightly import changes, common, decide, envelope, evidence, noise
from kickbench.nightly.baseline import Metric
from kickbench.nightly.evidence import Rows
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend
from kickbench.stats.location import Location, trimmed
from kickbench.stats.proportions import clopper_pearson

Floats = NDArray[np.float64]

DATA = Path(__file__).parent / "data" / "nightly_rounds.npz"
CASES = 25
RESAMPLES = 16
BLOCK = 8  # rounds that are drawn together
SETTINGS = Settings()
STEPS = (0.005, 0.01, 0.02, 0.05)
BETWEEN = (0.0, 0.001, 0.002, 0.003, 0.005, 0.01)
INJECTED = ("nothing", "outliers", "variance", "suspects")
COMMON = 0.5  # share of the between-night variance that all cases have in common
DIFFERENCE = 0.08  # between-night deviation of a paired difference, of that of the level


@dataclass(frozen=True)
class Pool:
    """Per run and process, resampled estimates: (runs, processes, resamples, columns).

    Columns are sigmask, immediate_exit and their difference; ``level`` is their grand mean.
    """

    values: Floats
    level: Floats

    def without_between(self) -> Pool:
        """The processes of all runs around one level: what runs differ by is taken out."""
        centred = self.values - self.values.mean((1, 2), keepdims=True) + self.level
        return Pool(centred, self.level)

    def quieter(self, factor: float) -> Pool:
        """The same with processes that differ by ``factor`` of what they did."""
        return Pool(self.level + (self.values - self.level) * factor, self.level)


def read_pools(names: list[str], seed: int) -> list[Pool]:
    """The pools of groups of rounds, each process's rounds resampled in blocks."""
    random = np.random.default_rng(seed)
    pools = []
    with np.load(DATA) as data:
        for name in names:
            run, process, ns = (data[f"{name}_{part}"] for part in ("run", "process", "ns"))
            rounds = np.stack([ns[0], ns[1], ns[0] - ns[1]]).astype(np.float64)
            runs, processes = np.unique(run), np.unique(process)
            values = np.empty((len(runs), len(processes), RESAMPLES, 3))
            for i, r in enumerate(runs):
                for j, p in enumerate(processes):
                    own = rounds[:, (run == r) & (process == p)]
                    values[i, j] = resample(own, random)
            pools.append(Pool(values, values.mean((0, 1, 2))))
    return pools


def resample(
    rounds: Floats, random: np.random.Generator, locations: tuple[Location, ...] = (trimmed,) * 3
) -> Floats:
    """(RESAMPLES, rows): the location of each row of (rows, rounds), its rounds drawn in blocks."""
    n = rounds.shape[1]
    length = min(BLOCK, n)
    starts = random.integers(0, n - length + 1, (RESAMPLES, -(-n // length)))
    chosen = (starts[..., None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :n]
    pairs = list(zip(locations, rounds, strict=True))
    return np.array([[location(row[c])[0] for location, row in pairs] for c in chosen])


@dataclass(frozen=True)
class Host:
    """What the nights come from. ``between``: None draws whole runs, deviations and all."""

    pools: tuple[Pool, ...]
    processes: int = 10
    between: float | None = 0.0
    tails: float = 4.0


@dataclass
class History:
    """(nights, metrics) of values, standard errors and what relative effects are a share of."""

    value: Floats
    error: Floats
    unit: Floats  # per metric


def make_history(host: Host, nights: int, random: np.random.Generator) -> History:
    """Nights of CASES cases in two placements, with 4 metrics each.

    These are the levels of sigmask and of immediate_exit, their difference, and one that stands for
    what goes with the level (CPU time).
    """
    values, errors, units = [], [], []
    common = _deviation(random, host, (nights, 1))
    run_of_night: dict[int, NDArray[np.int64]] = {}
    for case in range(CASES):
        pool = host.pools[case % len(host.pools)]
        runs, processes, _, _ = pool.values.shape
        shape = (nights, host.processes)
        if host.between is None:
            run = run_of_night.setdefault(runs, random.integers(0, runs, (nights, 1)))
            run = np.broadcast_to(run, shape)
        else:
            run = random.integers(0, runs, shape)
        for _ in range(2):  # placements
            drawn = pool.values[
                run, random.integers(0, processes, shape), random.integers(0, RESAMPLES, shape)
            ]
            mean, error = drawn.mean(1), drawn.std(1, ddof=1) / np.sqrt(host.processes)
            level = pool.level[1]
            if host.between is not None:
                own = _deviation(random, host, (nights, 1))
                extra = np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
                differing = DIFFERENCE * _deviation(random, host, (nights, 1))
                mean = mean + level * np.concatenate([extra, extra + differing, differing], axis=1)
                rate = extra + DIFFERENCE * _deviation(random, host, (nights, 1))
            else:
                rate = np.zeros((nights, 1))
            values += [mean, mean[:, 1:2] + level * rate * DIFFERENCE]
            errors += [error, error[:, 1:2]]
            units += [pool.level[0], level, level, level]
    return History(np.concatenate(values, 1), np.concatenate(errors, 1), np.array(units))


def _deviation(random: np.random.Generator, host: Host, shape: tuple[int, int]) -> Floats:
    """Heavy-tailed, with the host's standard deviation between nights."""
    scale = (host.between or 0.0) / np.sqrt(host.tails / (host.tails - 2))
    return scale * random.standard_t(host.tails, shape)


# --- deciding many nights at once --------------------------------------------------------------


WINDOWS = (*SETTINGS.windows, noise.LONG)
LATEST = SETTINGS.baseline_nights + 4 * noise.LONG  # nights that a decision looks at


def judge(
    history: History,
    first: int,
    last: int,
    windows: tuple[int, ...] = WINDOWS,
    among: History | None = None,
) -> Floats:
    """p (nights, metrics) of a regression on each of the nights, as `decide` has it without alarms.

    The nights before ``first`` are history. ``windows`` (1,) is the test that makes suspects. The
    p is 0 where all cases changed, and NaN where the night is no evidence. ``among`` is the history
    of the other cases of each, which shows what the nights have in common: each case is judged as
    if it alone were of ``history``.
    """
    found = []
    for begin in range(first, last, 100):
        nights = range(begin, min(begin + 100, last))
        sights = [_sight(history, among or history, night, windows) for night in nights]
        minimal = np.tile(SETTINGS.default_min_effect * history.unit, len(nights))
        metrics = len(history.unit)
        cells = {name: np.concatenate([s.cells[name] for s in sights]) for name in sights[0].cells}
        same = np.ones(len(minimal), np.bool_)
        fits = {name: noise.fit(cells[name]) for name in ("base", "anchor")}
        p = {}
        df = np.empty(0)
        for k in windows:
            base = "anchor" if k == noise.LONG else "base"
            rows = Rows(
                level=cells[base],
                scatter=cells[base],
                errors=cells[f"{base} errors"],
                window=cells["window"][:, -k:],
                window_errors=cells["window errors"][:, -k:],
                recent=cells["recent"],
                same=same,
            )
            rows.__dict__["fitted"] = fits[base]  # the same as decide() has, but once
            if not len(df):
                residuals = rows.residuals().reshape(len(nights), metrics, -1)
                df = noise.tails(residuals).repeat(metrics)
            p[k] = evidence.weigh(rows, minimal, df, len(nights)).p_worse
        combined = evidence.combine(p).reshape(len(nights), metrics)
        for row, sight in zip(combined, sights, strict=True):
            row[sight.changed] = 0
            row[sight.odd] = np.nan
        found.append(combined)
    return np.concatenate(found)


@dataclass(frozen=True)
class _Sight:
    """What a night's decision sees: a row for each metric, and whose group changed or is odd."""

    cells: dict[str, Floats]
    changed: NDArray[np.bool_]
    odd: NDArray[np.bool_]


def _sight(history: History, among: History, night: int, windows: tuple[int, ...]) -> _Sight:
    """Levels are relative to what all cases have in common, each kind of metric by itself."""
    n, metrics = SETTINGS.baseline_nights, len(history.unit)
    kind = np.arange(metrics) % 4
    width = {"base": n, "anchor": n, "window": noise.LONG, "recent": noise.RECENT}
    cells = {
        f"{name}{more}": np.full((metrics, of), np.nan)
        for name, of in width.items()
        for more in ("", " errors")
    }
    changed, odd = np.zeros((2, metrics), np.bool_)
    # What lies between the first nights and the latest is not looked at.
    seen = np.r_[: max(0, min(n, night + 1 - LATEST)), max(0, night + 1 - LATEST) : night + 1]
    for which in range(4):
        own = np.flatnonzero(kind == which)
        value = history.value[seen][:, own]
        error = history.error[seen][:, own]
        if which != ONE_METHOD[0]:
            with np.errstate(invalid="ignore"):
                logs = np.log(among.value[seen][:, own])
            shared = common.share(logs, np.ones(len(value), np.bool_))
            value = value * np.exp(-shared.factor)[:, None]
            error = np.maximum(error, value * shared.spread[:, None] * shared.scale)
            odd[own] = shared.odd[-1]
            if windows != (1,):
                changed[own] = _all_changed(shared.factor)
            value, error = value[~shared.odd], error[~shared.odd]
        end = len(value) - SETTINGS.window
        places = {
            "base": slice(max(0, end - n), end),
            "anchor": slice(0, n),
            "window": slice(-noise.LONG, None),
            "recent": slice(-noise.RECENT, None),
        }
        for name, nights in places.items():
            for more, values in (("", value), (" errors", error)):
                some = values[nights].T
                cells[name + more][own[:, None], np.arange(-some.shape[1], 0)] = some
    return _Sight(cells, changed, odd)


def _all_changed(factor: Floats) -> bool:
    """Whether the common factor of all cases is slower on the last night."""
    nights, none = np.arange(len(factor)), np.full(len(factor), np.nan)
    trend = Trend(
        Key("", "sigmask", None, "ns_per_exit"),
        *("lower", nights, np.exp(factor), none, none, 0 * nights, None, nights >= 0, 0),
    )
    found = envelope.change(Metric(trend, len(factor) - 1, None, SETTINGS))
    return found is not None and found.relative > 0


def alarms(p: Floats, rate: float = SETTINGS.false_discovery_rate) -> NDArray[np.bool_]:
    """(nights, metrics) that raise an alarm."""
    return np.array([evidence.adjust(night) for night in p]) <= rate


# --- nights with other load --------------------------------------------------------------------


@dataclass(frozen=True)
class Others:
    """Other load that comes and goes: episodes of nights, each with its own load and effect.

    An episode begins on a quiet night with the chance ``begins``, and goes on with ``lasts``. Its
    load, the share of the CPUs' time, is drawn between ``least`` and ``most``.
    """

    begins: float
    lasts: float
    least: float = 0.02
    most: float = 0.95


IDLE = 0.005  # what an idle host's own services take
COMES_AND_GOES = Others(0.05, 0.6)
EVERY_THIRD = Others(0.2, 0.6)
ALWAYS = Others(1.0, 0.9, 0.3)
LOADS = {
    "comes and goes": COMES_AND_GOES,
    "every third night": EVERY_THIRD,
    "always busy": ALWAYS,
}


def other_load(others: Others, nights: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """(nights,) the share of CPU time that others take, and by what share an exit gets slower.

    Slower by waiting for a CPU, which happens when all are taken, here as on two CPUs: of ``load``
    squared; and through caches and siblings, by a tenth of ``load``, more or less by what runs.
    """
    load, effect = np.empty(nights), np.empty(nights)
    busy, share, weight = False, 0.0, 0.0
    for night in range(nights):
        goes_on = busy and random.random() < others.lasts
        busy = goes_on or random.random() < others.begins
        if busy and not goes_on:
            share, weight = random.uniform(others.least, others.most), random.lognormal(0, 0.7)
        taken = share * random.lognormal(0, 0.1) if busy else IDLE * random.lognormal(0, 0.5)
        load[night] = min(taken, others.most)
        waited = 0.9 * load[night] ** 2
        effect[night] = waited / (1 - waited) + 0.1 * load[night] * weight
    return load, effect


def with_load(history: History, effect: Floats, random: np.random.Generator) -> History:
    """The history with every metric slower by ``effect``, a difference by a tenth of it."""
    metrics = len(history.unit)
    share = np.where(np.arange(metrics) % 4 == 2, 0.1, 1.0)
    own = random.uniform(0.7, 1.3, history.value.shape)
    slower = effect[:, None] * share * own
    return replace(
        history, value=history.value + slower * history.unit, error=history.error * (1 + slower)
    )


def judge_with_load(
    history: History, load: Floats, first: int, among: History | None = None
) -> Floats:
    """As :func:`judge` from ``first`` on, by the nights that each is compared with; NaN: by none.

    Nights with fewer of their like before them than fill a baseline are not judged.
    """
    night = np.arange(len(load))
    none = np.full(len(load), np.nan)
    trend = Trend(
        Key("case", "sigmask", None, "ns_per_exit"),
        *("lower", night, none, none, none, night, None, night >= 0, 0),
        load=load,
    )
    likes = {
        tonight: trend.like(tonight)[: tonight + 1]
        for tonight in night[first:]
        if not trend.disturbed(tonight)[tonight]  # which raises no alarm, whatever it is like
    }
    witnesses = [tonight for tonight, like in likes.items() if like[tonight]]
    p = np.full((len(load) - first, history.value.shape[1]), np.nan)
    need = SETTINGS.baseline_nights + 1 + noise.LONG
    while witnesses:
        last = witnesses[-1]
        same = [t for t in witnesses if (likes[t] == likes[last][: t + 1]).all()]
        witnesses = [t for t in witnesses if t not in same]
        kept, others = (
            replace(
                some,
                value=some.value[: last + 1][likes[last]],
                error=some.error[: last + 1][likes[last]],
            )
            for some in (history, among or history)
        )
        # Nights of the same like follow each other in what is kept.
        places = [int(likes[tonight].sum()) - 1 for tonight in same]
        chosen = [t for t, place in zip(same, places, strict=True) if place >= need]
        if chosen:
            begin = places[-1] + 1 - len(chosen)
            p[np.array(chosen) - first] = judge(kept, begin, places[-1] + 1, among=others)
    return p


def alarms_with_load(host: Host, others: Others, nights: int, seed: int, *, ignored: bool) -> str:
    """Alarm nights per 1,000 of all, with nothing to find; and the share that was no witness."""
    random = np.random.default_rng(seed)
    first = 2 * SETTINGS.baseline_nights
    per_history = 250
    count = total = silent = 0
    for _ in range(max(1, nights // per_history)):
        load, effect = other_load(others, first + per_history, random)
        history = with_load(make_history(host, len(load), random), effect, random)
        p = judge_with_load(history, np.full(len(load), np.nan) if ignored else load, first)
        count += int(alarms(p).any(1).sum())
        silent += int(np.isnan(p).all(1).sum())
        total += len(p)
    share = clopper_pearson(count, total)
    rate = f"{1000 * count / total:5.1f} ({1000 * share.low:.1f} to {1000 * share.high:.1f})"
    return f"{rate}, {100 * silent / total:.0f} % of nights no witness"


def power_with_load(host: Host, others: Others, step: float, histories: int, seed: int) -> str:
    """Nights until a step of all cases is found that begins on a quiet or a busy night."""
    random = np.random.default_rng(seed)
    start = 2 * SETTINGS.baseline_nights
    delays = []
    for _ in range(histories):
        load, effect = other_load(others, start + 2 * LOOKED_AT, random)
        history = make_history(host, len(load), random)
        history.value[start:] += (
            step * history.unit * np.isin(np.arange(len(history.unit)) % 4, BOTH_METHODS)
        )
        p = judge_with_load(with_load(history, effect, random), load, start)
        found = alarms(p).any(1)
        delays.append(found.argmax() + 1.0 if found.any() else np.inf)
    within = " ".join(f"{100 * np.mean(np.array(delays) <= n):5.1f}" for n in (2, 3, LOOKED_AT))
    return f"{within}  {np.median(delays):4.0f}"


# --- the tables --------------------------------------------------------------------------------


def false_alarms(host: Host, nights: int, seed: int, inject: str = "nothing") -> str:
    """Alarm nights per 1,000, over all metrics together, where there is no change to find.

    "suspects" counts nights with a suspect instead, nothing being injected.
    """
    random = np.random.default_rng(seed)
    first = SETTINGS.baseline_nights + 1 + noise.LONG
    per_history = 250
    count = total = 0
    for _ in range(max(1, nights // per_history)):
        history = make_history(host, first + per_history, random)
        if inject == "outliers":
            _add_outliers(history, random)
        elif inject == "variance":
            _double_variance(history, first)
        if inject == "suspects":
            p = judge(history, first, first + per_history, (1,))
            found = alarms(p, decide.SUSPECT_RATE).any(1)
        else:
            found = alarms(judge(history, first, first + per_history)).any(1)
        count += int(found.sum())
        total += len(found)
    share = clopper_pearson(count, total)
    return f"{1000 * count / total:5.1f} ({1000 * share.low:.1f} to {1000 * share.high:.1f})"


def _add_outliers(history: History, random: np.random.Generator) -> None:
    """1 night of 50 has all levels 5 to 30 % up; 1 value of 1,000 is so by itself."""
    nights, metrics = history.value.shape
    whole = random.random((nights, 1)) < 0.02
    single = random.random((nights, metrics)) < 0.001
    history.value += (whole | single) * random.uniform(0.05, 0.3, (nights, metrics)) * history.unit


def _double_variance(history: History, first: int) -> None:
    """From the first judged night on, 30 nights of every 125 scatter twice as far."""
    middle = np.median(history.value, 0)
    noisy = (np.arange(len(history.value)) - first) % 125 < 30
    noisy[:first] = False
    history.value[noisy] = middle + 2 * (history.value[noisy] - middle)


BOTH_METHODS, ONE_METHOD = (1, 0, 3), (2, 0)
"""The metrics of a case (see make_history) that a step of both methods, or of sigmask, moves."""

LOOKED_AT = 10
"""Nights after a step for which it is looked for."""


def power(
    host: Host,
    histories: int,
    seed: int,
    steps: tuple[float, ...] = STEPS,
    hit: tuple[int, ...] = BOTH_METHODS,
) -> tuple[list[Floats], list[Floats], float]:
    """Per step the nights until it was found (inf: not within LOOKED_AT), one for each trial.

    ``hit`` are the metrics of a case that go up, the first of them the one that is looked at. In
    the first result one case of all is hit, in the second every case. Last, how far nights scatter
    in all: the median standard deviation as a share of the level.
    """
    random = np.random.default_rng(seed)
    start = SETTINGS.baseline_nights + SETTINGS.window
    one: list[list[tuple[float, bool]]] = [[] for _ in steps]
    every: list[list[tuple[float, bool]]] = [[] for _ in steps]
    scatter = []
    for _ in range(histories):
        history = make_history(host, start + LOOKED_AT, random)
        kind = np.arange(len(history.unit)) % 4
        looked = kind == hit[0]
        scatter.append((history.value[:start].std(0, ddof=1) / history.unit)[looked])
        undisturbed = judge(history, start, start + LOOKED_AT)
        alone = judge(history, start, start + 1, (1,))
        for i, step in enumerate(steps):
            changed = _with_change(history, start, np.full(LOOKED_AT, step), hit)
            p, p_alone = changed(), changed((1,), 1)
            suspect = alarms(p_alone, decide.SUSPECT_RATE)[0]
            every[i] += zip(_delays(alarms(p))[looked], suspect[looked], strict=True)
            p, p_alone = changed(among=history), changed((1,), 1, among=history)
            for metric in np.flatnonzero(looked):
                found = alarms(_mix(undisturbed, p, metric))
                suspect = alarms(_mix(alone, p_alone, metric), decide.SUSPECT_RATE)[0]
                one[i].append((_delays(found)[metric], suspect[metric]))
    median = float(np.median(np.concatenate(scatter)))
    return [np.array(x, np.float64) for x in one], [np.array(x, np.float64) for x in every], median


def drift(host: Host, per_night: float, seed: int, nights: int = 120) -> tuple[float, float]:
    """Nights until a drift of one case was found: the median, and by then 95 % of trials had it."""
    random = np.random.default_rng(seed)
    start = SETTINGS.baseline_nights + noise.LONG
    found = []
    for _ in range(2):
        history = make_history(host, start + nights, random)
        undisturbed = judge(history, start, start + nights)
        p = _with_change(history, start, per_night * np.arange(1, nights + 1))(among=history)
        found += [
            _delays(alarms(_mix(undisturbed, p, metric)))[metric]
            for metric in range(1, len(history.unit), 4)
        ]
    return float(np.median(found)), float(np.quantile(found, 0.95, method="higher"))


def _with_change(
    history: History, start: int, change: Floats, hit: tuple[int, ...] = BOTH_METHODS
) -> Callable[..., Floats]:
    """What judges the nights from ``start`` on, ``hit`` of each case being up by ``change``."""
    value = history.value.copy()
    chosen = np.isin(np.arange(len(history.unit)) % 4, hit)
    value[start : start + len(change)] += change[:, None] * chosen * history.unit
    changed = replace(history, value=value)

    def judged(
        windows: tuple[int, ...] = WINDOWS,
        nights: int = len(change),
        among: History | None = None,
    ) -> Floats:
        return judge(changed, start, start + nights, windows, among)

    return judged


def _mix(undisturbed: Floats, changed: Floats, metric: int) -> Floats:
    """The nights where only the case of ``metric`` changed."""
    case = slice(metric // 4 * 4, metric // 4 * 4 + 4)
    mixed = undisturbed.copy()
    mixed[:, case] = changed[:, case]
    return mixed


def _delays(found: NDArray[np.bool_]) -> Floats:
    return np.where(found.any(0), found.argmax(0) + 1.0, np.inf)


def power_line(trials: Floats) -> str:
    """Suspect on night 1, found within 2, 3 and 10 nights, in per cent, and the median delay."""
    delays, suspect = trials.T
    within = [suspect.mean(), *((delays <= n).mean() for n in (2, 3, LOOKED_AT))]
    median = float(np.median(delays))
    return " ".join(f"{100 * share:5.1f}" for share in within) + (
        f"  {median:4.0f}" if np.isfinite(median) else f"  > {LOOKED_AT}"
    )


def speed(nights: int = 1100, metrics: int = 200) -> str:
    """Seconds to decide, and to find the change points, over three years."""
    random = np.random.default_rng(7)
    value = 8000 * (1 + 0.003 * random.standard_t(4, (metrics, nights)))
    value[:, 400:] *= 1.01
    value[:, 800:] *= 0.98
    every = np.arange(nights)
    trends = [
        Trend(
            Key(f"case{i}", "sigmask", None, "ns_per_exit"),
            "lower",
            every,
            row,
            row * 0.999,
            row * 1.001,
            np.full(nights, 10),
            None,
            np.ones(nights, np.bool_),
            0,
        )
        for i, row in enumerate(value)
    ]
    environment = ({"kernel": {"release": "6.12.3"}}, {"kernel": {"release": "6.12.4"}})
    history = Nights(
        tuple(f"run{i}" for i in every),
        tuple(f"night {i}" for i in every),
        tuple(environment[int(i >= 400)] for i in every),
    )
    begun = time.perf_counter()
    decide.decide(trends, history, SETTINGS)
    decided = time.perf_counter() - begun
    found = changes.change_points(trends, history, SETTINGS)
    both = time.perf_counter() - begun
    return (
        f"{nights} nights x {metrics} metrics: decided in {decided:.2f} s, with change points "
        f"{both:.2f} s (target 10 s); {len(found)} change points, 400 injected"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", default="alarms,load,power,difference,drift,speed")
    arguments = parser.parse_args()
    factor = 5 if arguments.quick else 1
    begun = time.monotonic()
    measured = read_pools(["exits_1vcpu", "exits_2vcpu"], 1)
    quiet = read_pools(["quiet_exits_1vcpu", "quiet_exits_2vcpu"], 1)
    busy = Host(tuple(measured), between=None)
    here = Host(tuple(pool.without_between() for pool in quiet))
    calm = Host(tuple(pool.without_between().quieter(0.25) for pool in quiet))
    if "alarms" in arguments.tables:
        print("False-alarm nights per 1,000, 200 metrics together (exact 95 % interval)")
        print(f"{'':38}" + "".join(f"{what:22}" for what in INJECTED))
        for name, host in (
            ("calm, nothing between nights", calm),
            ("calm, 0.2 % between", replace(calm, between=0.002)),
            ("calm, 1 % between", replace(calm, between=0.01)),
            ("calm, 0.5 %, normal", replace(calm, between=0.005, tails=100.0)),
            ("calm, 0.5 %, very heavy tails", replace(calm, between=0.005, tails=2.5)),
            ("quiet hour, 0.3 % between", replace(here, between=0.003)),
            ("busy, as measured", busy),
        ):
            print(f"{name:38}", end="", flush=True)
            for inject in INJECTED:
                print(f"{false_alarms(host, 1000 // factor, 11, inject):22}", end="", flush=True)
            print()
    if "load" in arguments.tables:
        print("Nights with other load that comes and goes: alarm nights per 1,000, nothing to find")
        hosts = {
            "calm, 0.3 % between": replace(calm, between=0.003),
            "quiet hour, 0.3 % between": replace(here, between=0.003),
        }
        for name, host in hosts.items():
            for what, others in LOADS.items():
                for ignored in (True, False):
                    how = "ignored" if ignored else "regarded"
                    nights = (250 if ignored else 1000) // factor
                    rate = alarms_with_load(host, others, nights, 14, ignored=ignored)
                    print(f"{name}, {what}, load {how}:  {rate}", flush=True)
        print("A step of all cases: found within 2, 3, 10 nights (%), median delay")
        for name, host in hosts.items():
            for what, others in LOADS.items():
                for step in (0.02, 0.05):
                    line = power_with_load(host, others, step, 40 // factor, 15)
                    print(f"{name}, {what}, step {100 * step:g} %:  {line}", flush=True)
    if "power" in arguments.tables:
        print(
            "Suspect on night 1, found within 2, 3, 10 nights (%), median delay: one case hit | all"
        )
        for name, host in {"calm": calm, "quiet hour": here, "busy": busy}.items():
            for between in (None,) if host.between is None else BETWEEN:
                one, every, scatter = power(replace(host, between=between), 5 // min(factor, 2), 12)
                what = "as measured" if between is None else f"{100 * between:g} % between"
                for i, step in enumerate(STEPS):
                    print(
                        f"{name}, {what}, {100 * scatter:.2f} % in all, step {100 * step:g} %:  "
                        f"{power_line(one[i])} | {power_line(every[i])}",
                        flush=True,
                    )
    if "difference" in arguments.tables:
        print("The same for a step of sigmask alone, seen in its paired difference; 1 vCPU")
        for name, host in {
            "quiet hour, 0.5 % between": Host((quiet[0].without_between(),), between=0.005),
            "busy, as measured": Host((measured[0],), between=None),
        }.items():
            one, every, scatter = power(host, 4 // min(factor, 2), 12, hit=ONE_METHOD)
            for i, step in enumerate(STEPS):
                print(
                    f"{name}, {100 * scatter:.2f} % in all, step {100 * step:g} % of the level:  "
                    f"{power_line(one[i])} | {power_line(every[i])}",
                    flush=True,
                )
    if "drift" in arguments.tables:
        print("A drift of one case: nights until found, median and 95 %")
        for per_night in (0.0001, 0.0003):
            for between in (0.001, 0.002, 0.005):
                median, late = drift(replace(calm, between=between), per_night, 13)
                print(
                    f"calm, {100 * between:g} % between, {100 * per_night:g} % a night: "
                    f"{median:.0f}, {late:.0f}",
                    flush=True,
                )
    if "speed" in arguments.tables:
        print(speed())
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
