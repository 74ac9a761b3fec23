# SPDX-License-Identifier: Apache-2.0
"""The first page of a fleet's report: the answer, findings, the map, groups, odd hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kickbench.fleet.judge.found import Effect, Finding, Found, Group
from kickbench.fleet.pages import heat, tables, words
from kickbench.fleet.pages.links import MOST_TOLD, Links
from kickbench.numbers import fixed, plural, significant
from kickbench.report.pages.html import MAPS, TABLES, Head, Rows, render
from kickbench.text import shorten

MOST_FINDINGS = 200
"""Findings in the table."""
MOST_EFFECTS = 50
MOST_OF_A_CONTRAST = 5
"""Figures of a contrast."""
MOST_NAMES = 200
"""Hosts that are named at one place."""
MOST_ROWS = 1000
MOST_NOTES = 200
_LONGEST_FACT = 60
_CONFOUNDED = "These data cannot tell which move is the cause."


def page(found: Found, links: Links) -> str:
    """The whole HTML document."""
    first, more = words.answer(found)
    drawn = heat.draw(found)
    return render(
        "fleet.html.j2",
        scripts=[TABLES, MAPS],
        store=found.store,
        origin=list(_origin(found)),
        badges=list(_badges(found)),
        verdict={"alarms": [], "answer": first, "more": more},
        findings=_findings_table(found),
        told=[
            _told(found, number, finding, links)
            for number, finding in enumerate(found.findings[:MOST_TOLD], 1)
        ],
        untold=max(len(found.findings) - MOST_TOLD, 0),
        map=drawn,
        bands=[(band, _band_title(band, links)) for band in drawn.bands],
        of_a_host=heat.MOST_OF_A_HOST,
        cells=_cells_table(found, drawn.cells, links),
        columns=heat.column_names(found, drawn.figures),
        contrasts=_contrasts_table(found),
        of_a_contrast=MOST_OF_A_CONTRAST,
        contrast_words=[one.words for one in found.contrasts[:MOST_TOLD] if one.words],
        groups=_groups_table(found, links),
        odd=_odd_table(found, links),
        odd_words=[one.words for one in found.odd[:MOST_TOLD] if one.words],
        hosts=_hosts_table(found, links),
        links=links,
        paged=len(links.hosts) if len(found.hosts) > len(links.hosts) else 0,
        notes=list(found.notes[:MOST_NOTES]),
        unnoted=max(len(found.notes) - MOST_NOTES, 0),
    )


def _origin(found: Found) -> Iterator[tuple[str, str]]:
    yield "Hosts", f"{len(found.hosts):,}"
    yield "Figures", f"{len(found.figures):,}"
    if found.days:
        yield "Days", f"{len(found.days):,}, {found.days[0]} to {found.days[-1]}"


def _badges(found: Found) -> Iterator[tuple[str, str]]:
    def count(verdict: str) -> int:
        return sum(finding.verdict == verdict for finding in found.findings)

    worse, better = count("regression"), count("improvement")
    yield ("bad", plural(worse, "regression")) if worse else ("good", "No regression")
    if better:
        yield "good", plural(better, "improvement")
    if moved := count("moved"):
        yield "plain", f"Cost moved: {moved:,}"
    if gone := count("gone"):
        yield "plain", f"Went away: {gone:,}"
    if found.odd:
        odd = len({one.host for one in found.odd})
        yield "doubt", plural(odd, "odd host")


# --- findings ----------------------------------------------------------------------------------


def _findings_table(found: Found) -> tuple[list[Head], Rows]:
    names = [
        ("#", True),
        ("what", False),
        ("figure", False),
        ("change", True),
        ("hosts", True),
        ("in common", False),
        ("days", False),
        ("q", True),
    ]
    return tables.heads(names), tables.rows(
        _finding_row(found, number, finding)
        for number, finding in enumerate(found.findings[:MOST_FINDINGS], 1)
    )


def _finding_row(found: Found, number: int, finding: Finding) -> list[tables.Cell]:
    look, cohort = words.LOOK[finding.verdict], finding.cohort
    row = [
        tables.number(str(number), number),
        tables.name(words.VERDICT[finding.verdict], look),
        *_effect_cells(found, words.first_effect(finding), look),
        tables.number(f"{len(cohort.hosts):,}", len(cohort.hosts)),
        tables.long(words.in_common(cohort)),
        tables.whole(words.days(cohort)),
    ]
    effect = words.first_effect(finding)
    q = float("nan") if effect is None else effect.q
    return [*row, tables.number(words.chance(q), q)]


def _effect_cells(found: Found, effect: Effect | None, look: str) -> list[tables.Cell]:
    """A figure, and by how much it changed."""
    if effect is None:
        return [tables.name("-"), tables.number("-", float("nan"))]
    return [
        tables.name(words.figure_name(found, effect.figure)),
        tables.number(words.change(effect), effect.relative, look),
    ]


def _told(found: Found, number: int, finding: Finding, links: Links) -> dict[str, Any]:
    """A finding in full."""
    cohort = finding.cohort
    look = words.LOOK[finding.verdict]
    shifted = finding.shifted
    return {
        "number": number,
        "title": words.finding_title(found, finding),
        "words": finding.words,
        "facts": list(_cohort_facts(finding)),
        "hosts": [links.host(name) for name in cohort.hosts[:MOST_NAMES]],
        "more_hosts": max(len(cohort.hosts) - MOST_NAMES, 0),
        "effects": _effects_table(found, finding.effects[:MOST_EFFECTS], look),
        "effects_left": max(len(finding.effects) - MOST_EFFECTS, 0),
        "shifted": None
        if shifted is None
        else f"{words.figure_name(found, shifted.figure)}: {words.change(shifted)}",
        "others": _others_table(found, finding),
    }


def _cohort_facts(finding: Finding) -> Iterator[tuple[str, str | list[str]]]:
    cohort = finding.cohort
    for fact, value in cohort.where.items():
        yield words.fact_name(fact), value or "not known"
    if cohort.moved is not None:
        yield "moved", words.move(cohort.moved, cohort.before)
        yield "on", words.days(cohort)
    elif finding.verdict == "gone":
        yield "differed", words.days(cohort)
    else:
        yield "differs since", cohort.first_day
    if cohort.also:
        yield "also moved", [*map(words.move, cohort.also), _CONFOUNDED]


def _effects_table(found: Found, effects: Sequence[Effect], look: str) -> tuple[list[Head], Rows]:
    names = [("figure", False), ("level", True), ("change", True), ("p", True), ("q", True)]
    return tables.heads(names), tables.rows(
        [
            name,
            tables.number(
                f"{significant(found.figures[effect.figure].level)} "
                f"{found.figures[effect.figure].unit}",
                found.figures[effect.figure].level,
            ),
            by,
            tables.number(words.chance(effect.p), effect.p),
            tables.number(words.chance(effect.q), effect.q),
        ]
        for effect in effects
        for name, by in [_effect_cells(found, effect, look)]
    )


def _others_table(found: Found, finding: Finding) -> tuple[list[Head], Rows]:
    names = [
        ("like them, but", False),
        ("hosts", True),
        ("what they did", False),
        ("figure", False),
        ("change", True),
    ]
    return tables.heads(names), tables.rows(
        [
            tables.long(words.apart(finding.cohort, other.cohort)),
            tables.number(f"{len(other.cohort.hosts):,}", len(other.cohort.hosts)),
            tables.name(words.SIBLING[other.verdict]),
            *_effect_cells(found, other.effect, ""),
        ]
        for other in finding.others[:MOST_EFFECTS]
    )


def _contrasts_table(found: Found) -> tuple[list[Head], Rows]:
    names = [
        ("hosts with", False),
        ("hosts", True),
        ("against", False),
        ("hosts", True),
        ("alike in", False),
        ("figure", False),
        ("difference", True),
        ("q", True),
    ]
    return tables.heads(names), tables.rows(
        [
            tables.name(words.facts({one.fact: one.values[1]})),
            tables.number(f"{one.hosts[1]:,}", one.hosts[1]),
            tables.name(words.facts({one.fact: one.values[0]})),
            tables.number(f"{one.hosts[0]:,}", one.hosts[0]),
            tables.long(words.facts(one.like) or "-"),
            *_effect_cells(found, effect, words.effect_look(found, effect)),
            tables.number(words.chance(effect.q), effect.q),
        ]
        for one in found.contrasts[:MOST_FINDINGS]
        for effect in one.effects[:MOST_OF_A_CONTRAST]
    )


# --- the map -----------------------------------------------------------------------------------


def _band_title(band: heat.Band, links: Links) -> str:
    return band.title if band.group is None else links.group(band.group, band.title)


def _cells_table(found: Found, cells: Sequence[heat.Cell], links: Links) -> tuple[list[Head], Rows]:
    names = [("host", False), ("figure", False), ("from its like", True), ("it is", False)]
    return tables.heads(names), tables.rows(
        [
            tables.whole(links.host(cell.host)),
            tables.name(words.figure_name(found, cell.figure)),
            tables.number(words.percent(cell.share), cell.share),
            _judged(cell.share * words.worse(found.figures[cell.figure])),
        ]
        for cell in cells
    )


def _judged(cost: float) -> tables.Cell:
    return tables.name("worse", "bad") if cost > 0 else tables.name("better", "good")


# --- groups and hosts --------------------------------------------------------------------------


def _groups_table(found: Found, links: Links) -> tuple[list[Head], Rows]:
    names = [
        ("group", False),
        ("hosts", True),
        ("figures that changed", True),
        ("last change", False),
    ]
    return tables.heads(names), tables.rows(
        [
            tables.name(links.group(index, words.group_name(group))),
            tables.number(f"{len(group.hosts):,}", len(group.hosts)),
            tables.number(f"{len(changed):,}", len(changed)),
            tables.long(_last_change(found, group)),
        ]
        for index, group in enumerate(found.groups[:MOST_ROWS])
        for changed in [{figure for figure, _, _ in group.changes}]
    )


def _last_change(found: Found, group: Group) -> str:
    if not group.changes:
        return "-"
    last = max(day for _, day, _ in group.changes)
    figure, _, share = max(
        (one for one in group.changes if one[1] == last), key=lambda one: abs(one[2])
    )
    return f"{last}: {words.metric_name(found.figures[figure])} {words.percent(share)}"


def _odd_table(found: Found, links: Links) -> tuple[list[Head], Rows]:
    names = [
        ("host", False),
        ("what is odd", False),
        ("most in", False),
        ("by", True),
        ("deviations", True),
        ("figures", True),
        ("like", False),
        ("peers", True),
        ("since", False),
    ]
    return tables.heads(names), tables.rows(
        [
            tables.whole(links.host(odd.host)),
            tables.name(words.ODDITY[odd.oddity]),
            tables.name(words.figure_name(found, odd.figures[0]) if odd.figures else "-"),
            tables.number(words.percent(odd.relative), odd.relative),
            tables.number(significant(odd.score, 2), odd.score),
            tables.number(f"{len(odd.figures):,}", len(odd.figures)),
            tables.long(words.facts(odd.like) or "-"),
            tables.number(fixed(odd.peers, 0), odd.peers),
            tables.whole(odd.since or "-"),
        ]
        for odd in found.odd[:MOST_ROWS]
    )


def _hosts_table(found: Found, links: Links) -> tuple[list[Head], Rows]:
    names = [
        ("host", False),
        ("CPU", False),
        ("kernel", False),
        ("microcode", False),
        ("runs", True),
        ("from", False),
        ("to", False),
        ("remark", False),
    ]
    return tables.heads(names), tables.rows(
        [
            tables.whole(links.host(host.name)),
            *(
                tables.name(shorten(host.facts.get(fact, ""), _LONGEST_FACT) or "-")
                for fact in ("cpu_model", "kernel", "microcode")
            ),
            tables.number(f"{host.runs:,}", host.runs),
            tables.whole(host.first_day),
            tables.whole(host.last_day),
            tables.name(host.remark or "-"),
        ]
        for host in found.hosts[:MOST_ROWS]
    )
