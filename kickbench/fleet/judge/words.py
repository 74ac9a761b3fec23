# SPDX-License-Identifier: Apache-2.0
"""The sentences of a fleet's report, and what it calls a figure, a day and hosts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from kickbench.compare.metrics import METRICS
from kickbench.fleet.judge.found import (
    Cohort,
    Contrast,
    Effect,
    Figure,
    Finding,
    Odd,
    Other,
    Sibling,
)
from kickbench.numbers import plural, significant
from kickbench.text import printable

FACT = {
    "cpu_model": "CPU",
    "kernel": "kernel",
    "microcode": "microcode",
    "mitigations": "mitigations",
    "cmdline": "command line",
    "kickbench": "kickbench",
}
"""What a fact is called."""

_LONGEST = 60
_MOST_SIBLINGS = 3


def day(text: str) -> str:
    """For example "12 November 2026"."""
    when = datetime.date.fromisoformat(text)
    return f"{when.day} {when:%B} {when.year}"


def value(text: str) -> str:
    """A fact's value, on a line and short enough for a sentence."""
    line = " ".join(printable(text).split())
    return (line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "...") or "none"


def figure_name(figure: Figure) -> str:
    """For example "time per quiet exit of sigmask in CASE"."""
    known = METRICS.get(figure.metric.removesuffix(" difference"))
    title = known.title if known else figure.metric
    than = f" less {figure.baseline}" if figure.baseline is not None else ""
    return printable(f"{title} of {figure.method}{than} in {figure.case}")


def percent(share: float) -> str:
    """For example "2.1 %"."""
    return f"{significant(100 * abs(share), 2)} %"


def interval(effect: Effect) -> str:
    """For example "+2.1 % (2 to 2.2)"."""
    low, high = (significant(100 * end, 2) for end in (effect.low, effect.high))
    return f"{'-' if effect.relative < 0 else '+'}{percent(effect.relative)} ({low} to {high})"


def is_worse(figure: Figure, effect: Effect) -> bool:
    """Whether the figure changed for the worse."""
    return (effect.relative > 0) == (figure.better == "lower")


def cohort(hosts: Cohort) -> str:
    """For example "the 214 hosts with CPU EPYC 9004 that moved from kernel 6.12.8 to 6.12.9"."""
    text = plural(len(hosts.hosts), "host")
    text = f"the {text}" + (f" with {facts(hosts.where)}" if hosts.where else "")
    if hosts.moved:
        fact, to = hosts.moved
        old = f" from {value(hosts.before[0])}" if len(hosts.before) == 1 else ""
        text += f" that moved to another {FACT.get(fact, fact)},{old} to {value(to)}"
    return text


def facts(where: dict[str, str]) -> str:
    """For example "CPU EPYC 9004 and kernel 6.12.9"."""
    return " and ".join(f"{FACT.get(fact, fact)} {value(text)}" for fact, text in where.items())


def finding(found: Finding, figures: Sequence[Figure]) -> str:
    """What changed, for whom, by how much, and who else did not."""
    first = figures[found.effects[0].figure]
    alike = [
        effect
        for effect in found.effects
        if is_worse(figures[effect.figure], effect) == is_worse(first, found.effects[0])
    ]
    when = day(found.cohort.first_day)
    told = [f"Since {when}, {_changed(alike, first)} on {cohort(found.cohort)}."]
    if found.cohort.last_day != found.cohort.first_day and found.verdict != "gone":
        told[0] = told[0][:-1] + f"; the last moved on {day(found.cohort.last_day)}."
    if found.verdict == "gone":
        told = [f"From {when} to {day(found.cohort.last_day)}, " + told[0].partition(", ")[2]]
        told.append("It went away by itself.")
    told.append(f"The most: {figure_name(first)}, {interval(found.effects[0])}.")
    if found.shifted is not None:
        told.append(
            f"It only moved: {figure_name(figures[found.shifted.figure])} changed by "
            f"{interval(found.shifted)}."
        )
    if found.cohort.also:
        also = " and ".join(f"{FACT.get(f, f)} {value(v)}" for f, v in found.cohort.also)
        told.append(f"The same hosts moved to {also} on the same days, so which it is is not told.")
    told += _siblings(found.others, "unchanged", "Hosts with", "did not change")
    unclear = "It cannot be told whether hosts with"
    told += _siblings(found.others, "unclear", unclear, "changed, too")
    return " ".join(told)


def _changed(effects: Sequence[Effect], first: Figure) -> str:
    sizes = sorted(abs(effect.relative) for effect in effects)
    ends = percent(sizes[0])
    if len(sizes) > 1 and percent(sizes[-1]) != ends:
        ends = f"{ends.removesuffix(' %')} to {percent(sizes[-1])}"
    rose = effects[0].relative > 0
    how = ("dearer" if rose else "cheaper") if first.unit in ("ns", "instructions") else None
    how = how or ("higher" if rose else "lower")
    verb = "is" if len(sizes) == 1 else "are"
    return f"{plural(len(sizes), 'figure')} {verb} {ends} {how}"


def _siblings(others: Sequence[Other], verdict: Sibling, before: str, after: str) -> list[str]:
    names = [facts(other.cohort.where) for other in others if other.verdict == verdict]
    if not names:
        return []
    if len(names) > _MOST_SIBLINGS:
        names = [*names[:_MOST_SIBLINGS], f"{len(names) - _MOST_SIBLINGS} more"]
    *most, last = names
    shown = f"{', '.join(most)} or {last}" if most else last
    return [f"{before} {shown} {after}."]


def contrast(found: Contrast, figures: Sequence[Figure]) -> str:
    """What a kernel costs more than another one on the same kind of host."""
    first = found.effects[0]
    one, other = map(value, found.values)
    name = FACT.get(found.fact, found.fact)
    hosts = f"{found.hosts[1]} against {plural(found.hosts[0], 'host')}"
    return (
        f"With {facts(found.like)}, {_changed(_same_sign(found.effects), figures[first.figure])} "
        f"under {name} {other} than under {one} ({hosts}). "
        f"The most: {figure_name(figures[first.figure])}, {interval(first)}."
    )


def _same_sign(effects: Sequence[Effect]) -> list[Effect]:
    return [one for one in effects if (one.relative > 0) == (effects[0].relative > 0)]


def odd(found: Odd, figures: Sequence[Figure]) -> str:
    """What is odd about a host."""
    first = figure_name(figures[found.figures[0]])
    count = plural(len(found.figures), "figure")
    like = f"its like, {plural(found.peers, 'host')} with {facts(found.like)}"
    host = printable(found.host)
    match found.oddity:
        case "level":
            way = "above" if found.relative > 0 else "below"
            most = f"{first}, {percent(found.relative)} {way}"
            return f"{host} differs in {count} from {like}. The most: {most}."
        case "scatter":
            times = significant(1 + found.relative, 2)
            most = f"{first}, {times} times as much"
            return f"The nights of {host} differ more than those of {like}. The most: {most}."
        case "step":
            way = "rose" if found.relative > 0 else "fell"
            size = percent(found.relative)
            when = day(found.since)
            return f"{host} changed alone: {count} {way} on {when}, by a median of {size}."


def answer(
    findings: Sequence[Finding],
    contrasts: Sequence[Contrast],
    odd_hosts: Sequence[Odd],
    hosts: int,
    days: Sequence[str],
) -> tuple[str, ...]:
    """What to read first: a sentence or two for each finding, the worst first."""
    if not days:
        return ("The store has no runs in this period.",)
    told = [found.words for found in findings if found.verdict == "regression"]
    period = f"{plural(hosts, 'host')} from {day(days[0])} to {day(days[-1])}"
    if len(days) == 1:
        measured = f"{plural(hosts, 'host')} on {day(days[0])}"
        told.append(f"One day cannot tell what changed: the store has {measured} only.")
    elif not told:
        told.append(f"No group of hosts got dearer: {period}.")
    told += [found.words for found in findings if found.verdict == "improvement"]
    told += [found.words for found in contrasts[:3]]
    if odd_hosts:
        names = ", ".join(sorted({printable(one.host) for one in odd_hosts})[:5])
        count = len({one.host for one in odd_hosts})
        told.append(
            f"{plural(count, 'host')} {'is' if count == 1 else 'are'} odd: {names}"
            + (" and others." if count > 5 else ".")
        )
    return tuple(told)
