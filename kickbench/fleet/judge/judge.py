# SPDX-License-Identifier: Apache-2.0
"""A fleet's panel in, everything that its report says out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge import words
from kickbench.fleet.judge.changes import Change, Settings, changes
from kickbench.fleet.judge.cohorts import Histories, Hosts
from kickbench.fleet.judge.effects import Fleet
from kickbench.fleet.judge.found import (
    Cohort,
    Effect,
    Finding,
    Found,
    Group,
    Other,
    Sibling,
    Verdict,
)
from kickbench.fleet.judge.levels import contrasts
from kickbench.fleet.judge.odd import odd_hosts
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.robust import quartiles
from kickbench.fleet.judge.steps import steps
from kickbench.fleet.judge.tracks import tracks
from kickbench.fleet.judge.trends import level_changes

SHIFTED = 0.25
"""What may be left, as a part of the change, if a cost only moved from one figure to another."""


def judge(panel: Panel, store: str, settings: Settings | None = None) -> Found:
    """What the report says of a panel."""
    settings = settings or Settings()
    if not panel.days or not panel.hosts or not panel.figures:
        return _nothing(panel, store)
    histories = Histories(panel)
    fleet = Fleet(steps(panel), histories)
    moved, settled = histories.moved(), histories.settled()
    seen = changes(fleet, moved, settled, settings)
    findings = [
        _finding(panel, histories, fleet, change, [*moved, *settled], settings) for change in seen
    ]
    findings.sort(key=_order)
    unlike, off = odd_hosts(panel, histories, fleet, _explained(panel, seen))
    unlike.sort(key=lambda one: -abs(one.score))
    odd = [replace(one, words=words.odd(one, panel.figures)) for one in unlike]
    sides = [
        replace(one, words=words.contrast(one, panel.figures))
        for one in contrasts(panel, histories, settings.min_effect)
    ]
    found = Found(
        store=store,
        days=panel.days,
        figures=panel.figures,
        hosts=panel.hosts,
        findings=tuple(findings),
        contrasts=tuple(sides),
        odd=tuple(odd),
        groups=tuple(_groups(panel, histories, fleet)),
        map=off.T,
        answer=words.answer(findings, sides, odd, len(panel.hosts), panel.days),
        notes=panel.notes,
    )
    return replace(found, tracks=tuple(tracks(panel, histories, fleet.steps, found)))


def _nothing(panel: Panel, store: str) -> Found:
    empty = np.full((len(panel.hosts), len(panel.figures)), np.nan, np.float32)
    told = words.answer([], [], [], len(panel.hosts), ())
    return Found(
        store, panel.days, panel.figures, panel.hosts, (), (), (), (), empty, told, panel.notes
    )


def _order(finding: Finding) -> tuple[int, float]:
    """Regressions first, then what is largest."""
    verdicts: tuple[Verdict, ...] = ("regression", "improvement", "moved", "gone")
    return verdicts.index(finding.verdict), -abs(finding.effects[0].relative)


def _finding(
    panel: Panel,
    histories: Histories,
    fleet: Fleet,
    change: Change,
    cohorts: Sequence[Hosts],
    settings: Settings,
) -> Finding:
    effects = [_effect(change, int(place)) for place in change.figures]
    worse = [e for e in effects if words.is_worse(panel.figures[e.figure], e)]
    better = [e for e in effects if e not in worse]
    shifted = [_shifted(panel, one, better) for one in worse]
    verdict: Verdict = "regression" if worse else "improvement"
    if worse and all(shifted):
        verdict = "moved"
    if change.end is not None:
        verdict = "gone"
    # What counts against the verdict comes last.
    effects = [
        *sorted(worse, key=lambda e: -abs(e.relative)),
        *sorted(better, key=lambda e: -abs(e.relative)),
    ]
    first = effects[0].figure
    found = Finding(
        verdict,
        _cohort(panel, histories, change.hosts, change.day, change.end),
        tuple(effects),
        tuple(_others(panel, histories, fleet, change, cohorts, first, settings)),
        _shifted(panel, effects[0], better) if verdict == "moved" else None,
        "",
    )
    return replace(found, words=words.finding(found, panel.figures))


def _effect(change: Change, place: int) -> Effect:
    of = change.effects
    numbers = (array[place] for array in (of.value, of.low, of.high, of.p, change.q))
    return Effect(place, *map(float, numbers))


def _shifted(panel: Panel, worse: Effect, better: Sequence[Effect]) -> Effect | None:
    """The figure of the same case that lost what this one gained; None: there is none.

    A paired difference grows if its baseline gets cheaper. And figures of one protocol may be parts
    of one whole, such as the sending of a kick and its delivery.
    """
    of = panel.figures[worse.figure]
    for other in better:
        figure = panel.figures[other.figure]
        if (figure.scenario, figure.case, figure.unit) != (of.scenario, of.case, of.unit):
            continue
        if (figure.method, figure.baseline) == (of.baseline, None):
            gained, lost = worse.relative, other.relative  # both are shares of the same level
        elif (figure.method, figure.baseline) == (of.method, of.baseline):
            gained, lost = worse.relative * of.level, other.relative * figure.level
        else:
            continue
        if abs(gained + lost) < SHIFTED * abs(gained):
            return other
    return None


def _cohort(
    panel: Panel, histories: Histories, hosts: Hosts, day: int, end: int | None = None
) -> Cohort:
    last = day if hosts.day is None else int(hosts.day.max())
    return Cohort(
        where=dict(hosts.where),
        moved=hosts.moved,
        before=histories.before(hosts),
        also=histories.also(hosts),
        hosts=tuple(panel.hosts[place].name for place in hosts.place),
        first_day=panel.days[day],
        last_day=panel.days[last if end is None else end],
    )


def _others(
    panel: Panel,
    histories: Histories,
    fleet: Fleet,
    change: Change,
    cohorts: Sequence[Hosts],
    figure: int,
    settings: Settings,
) -> Iterator[Other]:
    """What the same figure did for hosts that differ from those of a change in one fact."""
    told = change.hosts
    if not told.where:
        return
    ((fact, own),) = told.where
    size = abs(float(change.effects.value[figure]))
    for hosts in cohorts:
        alike = hosts.moved == told.moved and [name for name, _ in hosts.where] == [fact]
        if not alike or hosts.where[0][1] == own:
            continue
        effect = _at(fleet, hosts, change, figure)
        if effect is None:
            continue
        limit = max(settings.min_effect, SHIFTED * size)
        verdict: Sibling = "unclear"
        if -limit < effect.low and effect.high < limit:
            verdict = "unchanged"
        elif effect.low > 0 or effect.high < 0:
            verdict = "changed"
        day = change.day if hosts.day is None else int(hosts.day.min())
        yield Other(_cohort(panel, histories, hosts, day), effect, verdict)


def _at(fleet: Fleet, hosts: Hosts, change: Change, figure: int) -> Effect | None:
    """What a figure of other hosts did: when they moved, or on the day of the change."""
    found = fleet.on_day(hosts, change.day) if hosts.day is None else fleet.moved(hosts)
    if found is None or not np.isfinite(found.value[figure]):
        return None
    numbers = (array[figure] for array in (found.value, found.low, found.high, found.p, found.p))
    return Effect(figure, *map(float, numbers))


def _explained(panel: Panel, seen: Sequence[Change]) -> NDArray[np.bool_]:
    """The hosts that a change was told of."""
    explained = np.zeros(len(panel.hosts), np.bool_)
    for change in seen:
        explained[change.hosts.place] = True
    return explained


def _groups(panel: Panel, histories: Histories, fleet: Fleet) -> Iterator[Group]:
    """The hosts of each CPU model over time, the most hosts first."""
    model = histories.codes["cpu_model"][:, -1]
    codes, count = np.unique(model, return_counts=True)
    for code in codes[np.argsort(-count, kind="stable")]:
        place = np.flatnonzero(model == code)
        own = fleet.steps.value[:, place]
        apart = own - fleet.steps.level[:, place, None]
        low, middle, high = quartiles(apart, 1)
        yield Group(
            dict([histories.fact("cpu_model", int(code))]),
            tuple(panel.hosts[at].name for at in place),
            middle,
            low,
            high,
            tuple(level_changes(panel, middle)),
        )
