# SPDX-License-Identifier: Apache-2.0
"""What a fleet's report says, as data: findings, hosts that are odd, groups over time.

:meth:`Found.to_dict` is what ``kickbench fleet report --json`` prints. All shares are of the level:
0.021 is 2.1 %. A share is positive if the figure rose. Days are texts, such as "2026-11-12".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1

MOST_TRACKS = 50
"""Hosts that are looked at one by one. Odd ones come first, then those of findings, then others."""

Verdict = Literal["regression", "improvement", "moved", "gone"]
"""``moved``: what one figure gained, another one of the same hosts lost. ``gone``: the change went
away by itself."""

Sibling = Literal["unchanged", "changed", "unclear"]
"""``unchanged``: the interval is within the minimal effect. ``unclear``: neither can be told."""

Oddity = Literal["level", "scatter", "step"]
"""``level``: off its like on most nights. ``scatter``: its nights differ more than theirs do.
``step``: it changed lately, and they did not."""


@dataclass(frozen=True)
class Figure:
    """One figure that all hosts measure. ``level`` is the median of all hosts, in ``unit``."""

    scenario: str
    case: str
    kind: str
    method: str
    baseline: str | None
    metric: str
    unit: str
    better: Literal["lower", "higher"]
    level: float


@dataclass(frozen=True)
class Host:
    """A host as its newest run has it. ``remark`` says what is wrong with it or its clock."""

    name: str
    facts: dict[str, str]  # cpu_model, kernel, microcode, mitigations, cmdline
    runs: int
    first_day: str
    last_day: str
    remark: str


@dataclass(frozen=True)
class Cohort:
    """Hosts with something in common.

    ``where`` are the facts that all have, and ``moved`` the fact that all have got within the
    period: (fact, new value). ``before`` are the values that they had. ``also`` are other moves
    that the same hosts made on the same days. The first of them moved on ``first_day``, the last on
    ``last_day``; of hosts that did not move, both are the day since when the figures differ.
    """

    where: dict[str, str]
    moved: tuple[str, str] | None
    before: tuple[str, ...]
    also: tuple[tuple[str, str], ...]
    hosts: tuple[str, ...]
    first_day: str
    last_day: str


@dataclass(frozen=True)
class Effect:
    """How much a figure changed: a share of its level, with its 95 % interval over hosts.

    ``figure`` is an index of :attr:`Found.figures`. ``p`` is how often hosts without a change look
    like this, and ``q`` is p adjusted for all that was tried.
    """

    figure: int
    relative: float
    low: float
    high: float
    p: float
    q: float


@dataclass(frozen=True)
class Other:
    """Hosts like those of a finding in all but one thing, and what their figure did."""

    cohort: Cohort
    effect: Effect
    verdict: Sibling


@dataclass(frozen=True)
class Finding:
    """A change of a cohort. ``effects`` are those found, the largest first: see ``words``.

    ``shifted`` is the effect that makes up for the first one, if the verdict is ``moved``.
    """

    verdict: Verdict
    cohort: Cohort
    effects: tuple[Effect, ...]
    others: tuple[Other, ...]
    shifted: Effect | None
    words: str


@dataclass(frozen=True)
class Contrast:
    """Hosts that are ``like`` each other but for a ``fact``, side by side now.

    ``values`` are the one that most of them have, and another. ``hosts`` counts those of each. The
    effects are how much more the others pay, the largest first.
    """

    like: dict[str, str]
    fact: str
    values: tuple[str, str]
    hosts: tuple[int, int]
    effects: tuple[Effect, ...]
    words: str


@dataclass(frozen=True)
class Odd:
    """A host that is unlike its like. ``score`` is how many usual deviations it is off.

    ``like`` are the facts of the ``peers`` hosts that it is compared with. ``figures`` are those in
    which it is odd, the oddest first, and ``relative`` how far the first is off.
    """

    host: str
    oddity: Oddity
    like: dict[str, str]
    peers: int
    figures: tuple[int, ...]
    relative: float
    score: float
    since: str
    words: str


@dataclass(frozen=True)
class Group:
    """Hosts of one CPU model over time: the median of the hosts' figures.

    It is told by how far it is from each host's own level, as a share of the level.
    Arrays are (figures, days), NaN where nothing was measured. ``low`` and ``high`` are the
    quartiles of the hosts. ``changes`` are the days on which a figure's level changed: (figure,
    day, share).
    """

    facts: dict[str, str]
    hosts: tuple[str, ...]
    middle: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    changes: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True)
class Track:
    """A host over time, in a few of its ``figures``: how far each is from its own level.

    ``value`` (figures, days) has shares of the level, and ``changes`` are as those of a group.
    ``moves`` are the days on which the host got another fact: (day, fact, new value).
    """

    host: str
    figures: tuple[int, ...]
    value: NDArray[np.float32]
    changes: tuple[tuple[int, str, float], ...]
    moves: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Found:
    """Everything that the report says.

    ``days`` are those of the period. ``map`` (hosts, figures) is how far each host's latest nights
    are from the median of its like, as a share. ``answer`` is what to read first, a sentence each.
    ``notes`` say what was left out, and why. ``tracks`` are those of the :attr:`foremost` hosts.
    """

    store: str
    days: tuple[str, ...]
    figures: tuple[Figure, ...]
    hosts: tuple[Host, ...]
    findings: tuple[Finding, ...]
    contrasts: tuple[Contrast, ...]
    odd: tuple[Odd, ...]
    groups: tuple[Group, ...]
    map: NDArray[np.float32]
    answer: tuple[str, ...]
    notes: Sequence[str]
    tracks: tuple[Track, ...] = ()

    @property
    def foremost(self) -> tuple[str, ...]:
        """The hosts to look at one by one, the oddest first."""
        known = dict.fromkeys(host.name for host in self.hosts)
        wanted = [odd.host for odd in self.odd]
        wanted += [name for finding in self.findings for name in finding.cohort.hosts]
        chosen = [name for name in dict.fromkeys([*wanted, *known]) if name in known]
        return tuple(chosen[:MOST_TRACKS])

    @property
    def regressed(self) -> bool:
        """Whether a group of hosts is dearer now: exit code 1."""
        return any(finding.verdict == "regression" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON. A number that is not known is null."""
        return {"schema": SCHEMA, **{name: _json(value) for name, value in asdict(self).items()}}


def _json(value: Any) -> Any:
    match value:
        case np.ndarray():
            # Shares, of single precision: as doubles they would have twice the digits.
            return _json(np.round(value.astype(np.float64), 7).tolist())
        case dict():
            return {name: _json(one) for name, one in value.items()}
        case list() | tuple():
            return [_json(one) for one in value]
        case float():
            return value if np.isfinite(value) else None
        case _:
            return value
