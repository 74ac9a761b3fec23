# SPDX-License-Identifier: Apache-2.0
"""Finds the commits at which a count changes: by git bisect, or by counting all commits.

In a bisection a commit is *bad* if its count differs from that of the good end by ``min_step``
or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import MeasurementError, UsageError
from kickbench.lab.bisect.counting import Counts, Outcome
from kickbench.lab.bisect.repository import Commit, Repository, Worktree
from kickbench.lab.kbuild import say
from kickbench.results.files import replace_file


@dataclass(frozen=True)
class Step:
    """A change of the count, from ``before`` to ``after``.

    ``suspects`` are the commits that may have made it, oldest first. There are several if those
    between the two counts have none.
    """

    before: Outcome
    after: Outcome
    suspects: list[Commit]


@dataclass(frozen=True)
class Found:
    """The outcomes of all commits that were asked for, and the steps in them, oldest first."""

    outcomes: list[Outcome]
    steps: list[Step]


def search(
    worktree: Worktree, counts: Counts, good: Commit, bad: Commit, min_step: int, log: Path
) -> Found:
    """Find one step by git bisect, and keep its log.

    Raises UsageError if the count of the two ends is the same, MeasurementError if one of them
    cannot be counted.
    """
    first, last = _end(counts, "--good", good), _end(counts, "--bad", bad)
    if abs(last - first) < min_step:
        more = f", a change of less than --min-step {min_step}" if first != last else ""
        raise UsageError(
            f"there is no change to find: {good.short} has {counts.words(first)}, and "
            f"{bad.short} has {last:,}{more}"
        )
    repository = worktree.repository
    said = worktree.bisect(good, bad)
    while not (found := worktree.found()):
        say(said)
        outcome = counts.of(repository.commit(worktree.next()))
        said = worktree.mark(outcome.commit, _word(outcome, first, min_step))
        replace_file(log, worktree.log().encode())
    replace_file(log, worktree.log().encode())
    commits = repository.series(good, bad)
    suspects = [commit for commit in commits if commit.sha in found]
    parent = repository.parent(suspects[0])
    known = [counts.of(commit) for commit in suspects if commit in counts]
    before = counts.of(parent or good)
    # A parent on a side branch may lack a count.
    step = Step(
        before if before.number is not None else counts.of(good),
        next(outcome for outcome in reversed(known) if outcome.number is not None),
        suspects,
    )
    return Found([counts.of(commit) for commit in (good, *commits) if commit in counts], [step])


def _end(counts: Counts, option: str, commit: Commit) -> int:
    outcome = counts.of(commit)
    if outcome.number is None:
        raise MeasurementError(f"{option} {commit.short} has no count: {outcome.why}")
    return outcome.number


def _word(outcome: Outcome, good: int, min_step: int) -> str:
    """What git bisect is told of a commit."""
    if outcome.number is None:
        return "skip"
    return "bad" if abs(outcome.number - good) >= min_step else "good"


def series(
    repository: Repository, counts: Counts, good: Commit, bad: Commit, min_step: int
) -> Found:
    """Count all commits of the range, along the first parents, and find all steps.

    Raises MeasurementError if none of them has a count.
    """
    commits = [good, *repository.series(good, bad, "--first-parent")]
    outcomes: list[Outcome] = []
    steps: list[Step] = []
    last: Outcome | None = None
    suspects: list[Commit] = []
    for place, commit in enumerate(commits, 1):
        say(f"commit {place} of {len(commits)}")
        outcomes.append(outcome := counts.of(commit))
        suspects.append(commit)
        if outcome.number is None:
            continue
        if last and last.number is not None and abs(outcome.number - last.number) >= min_step:
            steps.append(Step(last, outcome, suspects))
        last, suspects = outcome, []
    if last is None:
        raise MeasurementError(f"none of {len(commits)} commits has a count: {outcomes[0].why}")
    return Found(outcomes, steps)
