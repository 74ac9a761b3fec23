# SPDX-License-Identifier: Apache-2.0
"""What a bisection says: a table of counts by commit, the functions of a step, and the commit."""

from __future__ import annotations

from collections.abc import Iterator

from kickbench.lab.bisect.counting import Outcome
from kickbench.lab.bisect.search import Found, Step
from kickbench.lab.explain import shared_words
from kickbench.lab.explain.words import against


def lines(found: Found) -> Iterator[str]:
    """All of it. The last line has the first bad commit, if it is known."""
    yield from table(found.outcomes)
    for step in found.steps:
        yield from _functions(step)
    if not found.steps:
        yield ""
        yield "The count did not change."
    elif len(found.steps[0].suspects) == 1:
        (commit,) = found.steps[0].suspects
        yield f"first bad commit: {commit.sha} {commit.subject}"


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """A row for each commit, with the change since the row before that has a count."""
    yield f"{'count':>9}  {'change':>8}  {'commit':<12}  subject"
    last: int | None = None
    for outcome in outcomes:
        commit, number = outcome.commit, outcome.number
        count = "-" if number is None else f"{number:,}"
        change = "" if last is None or number in (last, None) else f"{number - last:+,}"
        # Its first line ends with "; the last lines:", which are not here.
        why = f"  ({outcome.why.partition('; the last lines')[0]})" if number is None else ""
        yield f"{count:>9}  {change:>8}  {commit.short}  {commit.subject}{why}"
        last = last if number is None else number


def _functions(step: Step) -> Iterator[str]:
    """Which functions the step is in."""
    assert step.before.explanation is not None
    assert step.after.explanation is not None
    yield ""
    if len(step.suspects) > 1:
        yield f"The change is in one of {len(step.suspects)} commits:"
        yield from (f"  {commit}" for commit in step.suspects)
    before, after = step.before.explanation, step.after.explanation
    if after.found:
        yield from against(after, before)
    else:
        yield from shared_words.changes(after.shared[0], before.shared[0])
