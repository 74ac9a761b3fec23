# SPDX-License-Identifier: Apache-2.0
"""How often a fleet's report raises a false alarm, what it finds how soon, and what it costs.

The fleets are simulated from real nights: see fleet_nights.py. The false alarms are those of every
night of three years, with kernels that reach the hosts in waves and change nothing. An alarm that
the night before had, too, is the same alarm. For the power, a kernel that does change something
reaches some of the hosts, and it is found if the report says so of these hosts.

    python benchmarks/bench_fleet_report.py [--hosts 1000] [--figures 50] [--years 3] [--trials 40]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from fleet_nights import World

from kickbench.fleet.judge.changes import Change, Settings, changes
from kickbench.fleet.judge.cohorts import Histories
from kickbench.fleet.judge.effects import Fleet
from kickbench.fleet.judge.judge import judge
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.steps import Steps, steps
from kickbench.stats.proportions import clopper_pearson

PERIOD = 120  # nights that a report looks at
YEAR = 365
LOOKED = (1, 3, 7)  # nights after a step at which it is looked for
TARGET_NIGHTS = 3


def nights(panel: Panel, which: Iterable[int]) -> Iterator[tuple[int, list[Change], Panel]]:
    """What the report of each of these nights says, as it looked on that night."""
    whole = steps(panel)
    for night in which:
        yield night, *on_night(panel, whole, night)


def on_night(panel: Panel, whole: Steps, night: int) -> tuple[list[Change], Panel]:
    """The changes that a report of a night tells of. The steps before it are the same as later."""
    days = slice(max(0, night + 1 - PERIOD), night + 1)
    field = {}
    for after, steps_after in whole.field.items():
        field[after] = steps_after[..., days].copy()
        field[after][..., field[after].shape[2] - after + 1 :] = np.nan  # nights yet to come
    part = Steps(whole.value[..., days], whole.level, whole.before[..., days], field)
    seen = replace(
        panel,
        days=panel.days[days],
        value=panel.value[..., days],
        facts={fact: codes[:, days] for fact, codes in panel.facts.items()},
    )
    histories = Histories(seen)
    found = changes(Fleet(part, histories), histories.moved(), histories.settled(), Settings())
    return found, seen


def false_alarms(hosts: int, figures: int, years: int) -> None:
    """Prints how many alarms a fleet without a change raises in a year."""
    alarms, gone = 0, 0
    for year in range(years):
        world = World(hosts, PERIOD + YEAR, figures, np.random.default_rng(year))
        before: set[tuple[object, ...]] = set()
        for _, found, seen in nights(world.panel(), range(PERIOD, PERIOD + YEAR)):
            now = {_name(change, seen) for change in found if _is_alarm(change)}
            fresh = [one for one in now if one not in before]
            for one in fresh:
                print(f"  false alarm: {one}", flush=True)
            alarms += len(fresh)
            gone += sum(change.end is not None for change in found)
            before = now
    print(
        f"{hosts} hosts, {figures} figures, {years} years of nights: {alarms} false alarms, "
        f"{alarms / years / 4:.2f} a quarter (target at most 1); {gone} nights told of something "
        "that had gone by itself"
    )


def _is_alarm(change: Change) -> bool:
    """Whether something got dearer and is so still."""
    return change.end is None and bool((change.effects.value[change.figures] > 0).any())


def _name(change: Change, panel: Panel) -> tuple[object, ...]:
    hosts = change.hosts
    day = panel.days[change.day] if hosts.moved is None else None
    return hosts.moved, hosts.where, day


def power(hosts: int, share: float, size: float, figures: int, hit: int, trials: int) -> None:
    """Prints how often a step of some hosts is found so many nights after it."""
    found: dict[int, int] = dict.fromkeys(LOOKED, 0)
    for trial in range(trials):
        random = np.random.default_rng(1000 + trial)
        world = World(hosts, PERIOD + max(LOOKED), figures, random)
        some = random.permutation(hosts)[: round(share * hosts)]
        days = np.full(len(some), PERIOD)
        world.roll_out(some, days)
        world.step(some, days, size, range(hit))
        for night, seen, _ in nights(world.panel(), (PERIOD + after - 1 for after in LOOKED)):
            told = any(_is_it(change, world.kernels[-1], hit) for change in seen)
            found[night - PERIOD + 1] += told
    part = clopper_pearson(found[TARGET_NIGHTS], trials)
    print(
        f"{100 * size:.2f} % on {round(share * hosts)} of {hosts} hosts, {hit} of {figures} "
        "figures: found after "
        + ", ".join(f"{after}: {100 * n / trials:.0f} %" for after, n in found.items())
        + f" nights of {trials} ({TARGET_NIGHTS}: {100 * part.low:.0f} to {100 * part.high:.0f})",
        flush=True,
    )


def _is_it(change: Change, kernel: str, hit: int) -> bool:
    right = change.hosts.moved == ("kernel", kernel)
    return right and bool((change.figures < hit).any())


def cost(figures: int) -> None:
    """Prints what judging costs, by the number of hosts."""
    for hosts in (10, 100, 1000, 10_000):
        panel = World(hosts, PERIOD, figures, np.random.default_rng(1)).panel()
        begun = time.process_time()
        judge(panel, "simulated")
        spent = time.process_time() - begun
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{hosts} hosts, {figures} figures, {PERIOD} nights: {spent:.1f} s of CPU, at most "
            f"{most:.1f} GiB so far",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--figures", type=int, default=50)
    parser.add_argument("--years", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    chosen = parser.parse_args()
    cost(chosen.figures)
    for share, size, hit in (
        (0.2, 0.0005, chosen.figures),
        (0.2, 0.001, 1),
        (0.2, 0.001, chosen.figures),
        (0.05, 0.002, 1),
        (0.05, 0.005, 1),
        (0.02, 0.01, 1),
        (1.0, 0.001, 1),
    ):
        power(chosen.hosts, share, size, chosen.figures, hit, chosen.trials)
    false_alarms(chosen.hosts, chosen.figures, chosen.years)


if __name__ == "__main__":
    main()
