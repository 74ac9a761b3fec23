# SPDX-License-Identifier: Apache-2.0
"""Reads ``explain.json`` in the folder of a run: which functions have the instructions of an exit.

``kickbench lab explain --into`` writes it, and ``docs/lab.md`` has its format. Nothing here knows
who counted, or how. The file may come from anybody, so it is checked and bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from kickbench.results.reader import load_json, real_file
from kickbench.results.schema import Line, Model, check_model, fail

FILE = "explain.json"
PAGE = "explain.html"
"""The page of the same explanation, beside it."""
SEPARATOR = ";"
"""Between the functions of a call path, the outermost first: as flamegraph.pl has it."""
GUEST = "[guest]"
"""The name of all that the guest executes."""
VCPU, KICKER = "vCPU", "kicker"
"""What threads that share lines are called, before their number."""

Paths = Mapping[tuple[str, ...], int]
"""The instructions of each call path, the outermost function first."""
Uses = Mapping[str, tuple[float, float]]
"""(reads, writes) of a line by each thread, in its own turn."""

_MOST_METHODS = 100
_MOST_EVENTS = 100
_MOST_FUNCTIONS = 10_000
_MOST_NAMES = 50_000
"""How many functions all call paths of the file have: a page has a bar for each."""
_DEEPEST = 100
_LONGEST_PATH = 20_000

_Count = Annotated[int, Field(ge=1, le=2**53)]
_Path = Annotated[str, Field(min_length=1, max_length=_LONGEST_PATH)]


class _Method(Model):
    instructions_per_exit: _Count
    functions: Annotated[dict[Line, _Count], Field(min_length=1, max_length=_MOST_FUNCTIONS)]
    paths: Annotated[dict[_Path, _Count], Field(default_factory=dict, max_length=_MOST_NAMES)]


class _Event(Model):
    share: Annotated[float, Field(ge=0, le=1)] | None = None  # earlier explanations lack it


class _Kick(_Event):
    instructions_per_kick: _Count


class _Pause(_Event):
    instructions_per_pause: _Count


class _RoundTrip(_Event):
    instructions_per_round_trip: _Count


_Kicks = Annotated[dict[Line, _Kick], Field(max_length=_MOST_METHODS)]
_Pauses = Annotated[dict[Line, _Pause], Field(max_length=_MOST_METHODS)]


class _Document(Model):
    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    machine: Line
    kernel: Line
    baseline: Line | None = None
    methods: Annotated[dict[Line, _Method], Field(max_length=_MOST_METHODS)]
    # Earlier explanations have some of these only.
    kicks: Annotated[dict[Line, _Kicks], Field(default_factory=dict, max_length=_MOST_EVENTS)]
    pauses: Annotated[dict[Line, _Pauses], Field(default_factory=dict, max_length=_MOST_EVENTS)]
    nested: Annotated[dict[Line, _RoundTrip], Field(default_factory=dict, max_length=_MOST_METHODS)]


@dataclass(frozen=True)
class Method:
    """The instructions of an exit: ``functions`` has those of each function itself.

    ``paths`` has them by call path, and is empty if the file has none.
    """

    instructions: int
    functions: Mapping[str, int]
    paths: Paths


@dataclass(frozen=True)
class Event:
    """The count that most kicks, pauses or round trips have, and the share that has it.

    None: the file does not say.
    """

    instructions: int
    share: float | None


@dataclass(frozen=True)
class Explanation:
    """What was counted on a machine with a kernel. ``page`` is the file of its own page, if any.

    ``kicks`` and ``pauses`` have what one takes, by the vCPU's state or the guest's program and
    then by method. ``round_trips`` have that of a guest hypervisor's, by iteration.
    """

    machine: str
    kernel: str
    baseline: str
    methods: dict[str, Method]
    page: Path | None
    kicks: Mapping[str, Mapping[str, Event]]
    pauses: Mapping[str, Mapping[str, Event]]
    round_trips: Mapping[str, Event]


def load_explanation(run: Path) -> Explanation | None:
    """The explanation in the folder of a run. None if there is none, or none of exits.

    Raises ResultsError, in one line, if the file cannot be used.
    """
    where = run / FILE
    if not where.exists() and not where.is_symlink():
        return None
    data = load_json(run, where)
    checked = check_model(_Document, data, where)
    methods = dict(_methods(checked.methods, where))
    if not methods:
        return None
    page = run / PAGE
    return Explanation(
        checked.machine,
        checked.kernel,
        checked.baseline if checked.baseline in methods else next(iter(methods)),
        methods,
        real_file(run, page) if page.exists() or page.is_symlink() else None,
        {
            state: {
                name: Event(one.instructions_per_kick, one.share) for name, one in found.items()
            }
            for state, found in checked.kicks.items()
        },
        {
            program: {
                name: Event(one.instructions_per_pause, one.share) for name, one in found.items()
            }
            for program, found in checked.pauses.items()
        },
        {
            name: Event(one.instructions_per_round_trip, one.share)
            for name, one in checked.nested.items()
        },
    )


def _methods(found: Mapping[str, _Method], where: Path) -> Iterator[tuple[str, Method]]:
    names = 0
    for method, one in found.items():
        paths = {tuple(path.split(SEPARATOR)): count for path, count in one.paths.items()}
        names += sum(map(len, paths))
        if names > _MOST_NAMES:
            fail(where, f"has more than {_MOST_NAMES:,} functions in its call paths; refused")
        for path in paths:
            if len(path) > _DEEPEST or not all(0 < len(name) <= 1000 for name in path):
                fail(where, f"is damaged: methods.{method}.paths has what is no call path")
        sums: list[Any] = [sum(one.functions.values())]
        sums += [sum(paths.values())] if paths else []
        if any(total != one.instructions_per_exit for total in sums):
            fail(where, f"is damaged: methods.{method} does not add up to instructions_per_exit")
        yield method, Method(one.instructions_per_exit, one.functions, paths)
