# SPDX-License-Identifier: Apache-2.0
"""A fleet's report as Markdown, for an issue tracker or a mail: the answer, then tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kickbench.fleet.judge.found import Finding, Found, Odd
from kickbench.fleet.pages import words
from kickbench.numbers import NOTHING, plural
from kickbench.report.words.markdown import bullet, escaped, paragraph, table

MOST_FINDINGS, MOST_ODD, MOST_LINES = 20, 10, 10


def to_markdown(found: Found) -> str:
    """The report in Markdown. It ends with a line break."""
    first, more = words.answer(found)
    return "\n\n".join([paragraph(f"**{escaped(first)}**"), *_blocks(found, more)]) + "\n"


def _blocks(found: Found, more: Sequence[str]) -> Iterator[str]:
    if more:
        yield _list(more)
    if found.findings:
        heads = ["what", "figure", "change", "hosts", "in common", "days"]
        right = [False, False, True, True, False, False]
        yield table(heads, [_finding(found, one) for one in found.findings[:MOST_FINDINGS]], right)
        yield from _left_out(found.findings, MOST_FINDINGS, "finding")
    # What the answer does not say: cost that moved, and what went away.
    if rest := [one.words for one in found.findings if one.words not in {"", *found.answer}]:
        yield _list(rest)
    if found.odd:
        heads = ["odd host", "what is odd", "most in", "by", "since"]
        right = [False, False, False, True, False]
        yield table(heads, [_odd(found, one) for one in found.odd[:MOST_ODD]], right)
        yield from _left_out(found.odd, MOST_ODD, "odd host")
    if found.notes:
        yield _list(found.notes)


def _list(lines: Sequence[str]) -> str:
    shown = [bullet(escaped(line) or NOTHING) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(f"- and {len(lines) - MOST_LINES} more")
    return "\n".join(shown)


def _left_out(all_of_them: Sequence[object], most: int, what: str) -> Iterable[str]:
    if len(all_of_them) > most:
        yield f"And {plural(len(all_of_them) - most, f'more {what}')}."


def _finding(found: Found, finding: Finding) -> list[str]:
    effect = words.first_effect(finding)
    figure = NOTHING if effect is None else words.figure_name(found, effect.figure)
    return [
        words.VERDICT[finding.verdict],
        escaped(figure),
        NOTHING if effect is None else escaped(words.change(effect)),
        f"{len(finding.cohort.hosts):,}",
        escaped(words.in_common(finding.cohort)),
        escaped(words.days(finding.cohort)),
    ]


def _odd(found: Found, odd: Odd) -> list[str]:
    figure = words.figure_name(found, odd.figures[0]) if odd.figures else NOTHING
    return [
        escaped(odd.host),
        words.ODDITY[odd.oddity],
        escaped(figure),
        escaped(words.percent(odd.relative)),
        escaped(odd.since) or NOTHING,
    ]
