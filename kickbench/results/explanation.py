# SPDX-License-Identifier: Apache-2.0
"""Reads ``explain.json`` in the folder of a run: which functions have the instructions of an exit.

It also has what other events take, and the cache lines that threads share. ``kickbench lab explain
--into`` writes it, and ``docs/lab.md`` has its format. Nothing here knows who counted, or how. The
file may come from anybody, so it is checked and bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kickbench.results.reader import load_json, real_file
from kickbench.results.schema import Line, Model, check_model, check_version, fail

SCHEMA = 1
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
_MOST_BARS = 50_000
"""How many bars the flame graphs of all call paths have."""
_MOST_LINES = 10_000
"""How many lines all matrices have."""
_MOST_THREADS = 32
_DEEPEST = 100
_LONGEST_PATH = 20_000

_Count = Annotated[int, Field(ge=1, le=2**53)]
_Path = Annotated[str, Field(min_length=1, max_length=_LONGEST_PATH)]
_Paths = Annotated[dict[_Path, _Count], Field(default_factory=dict, max_length=_MOST_BARS)]
_Use = Annotated[list[Annotated[float, Field(ge=0, le=1e9)]], Field(min_length=2, max_length=2)]


class _Line(Model):
    what: Line
    threads: Annotated[dict[Line, _Use], Field(min_length=1, max_length=_MOST_THREADS)]


_Lines = Annotated[list[_Line], Field(max_length=_MOST_LINES)]
_Kickers = Annotated[str, Field(pattern="^[0-9]{1,6}$")]


class _Method(Model):
    instructions_per_exit: _Count
    functions: Annotated[dict[Line, _Count], Field(min_length=1, max_length=_MOST_FUNCTIONS)]
    paths: _Paths
    shared_lines: Annotated[_Lines, Field(default_factory=list)]


class _Event(Model):
    share: Annotated[float, Field(ge=0, le=1)] | None = None  # earlier explanations lack it
    paths: _Paths


class _Kick(_Event):
    instructions_per_kick: _Count
    shared_lines_by_kickers: Annotated[
        dict[_Kickers, _Lines], Field(default_factory=dict, max_length=_MOST_THREADS)
    ]


class _Pause(_Event):
    instructions_per_pause: _Count


class _RoundTrip(_Event):
    instructions_per_round_trip: _Count


_Kicks = Annotated[dict[Line, _Kick], Field(max_length=_MOST_METHODS)]
_Pauses = Annotated[dict[Line, _Pause], Field(max_length=_MOST_METHODS)]


class _Document(Model):
    machine: Line
    kernel: Line
    baseline: Line | None = None
    methods: Annotated[dict[Line, _Method], Field(max_length=_MOST_METHODS)]
    # Earlier explanations have some of these only.
    kicks: Annotated[dict[Line, _Kicks], Field(default_factory=dict, max_length=_MOST_EVENTS)]
    pauses: Annotated[dict[Line, _Pauses], Field(default_factory=dict, max_length=_MOST_EVENTS)]
    nested: Annotated[dict[Line, _RoundTrip], Field(default_factory=dict, max_length=_MOST_METHODS)]


@dataclass(frozen=True)
class SharedLine:
    """A cache line that threads share: what lies in it, and who uses it how often."""

    what: str
    uses: Uses


@dataclass(frozen=True)
class Method:
    """The instructions of an exit: ``functions`` has those of each function itself.

    ``paths`` has them by call path, and is empty if the file has none. ``lines`` are those that two
    vCPUs share.
    """

    instructions: int
    functions: Mapping[str, int]
    paths: Paths
    lines: Sequence[SharedLine] = ()


@dataclass(frozen=True)
class Event:
    """The count that most kicks, pauses or round trips have, and the share that has it.

    None: the file does not say. ``paths`` are as a method's. ``lines`` are those that the threads
    of a kick share, with as many kickers as the file has.
    """

    instructions: int
    share: float | None
    paths: Paths = field(default_factory=dict)
    lines: Sequence[SharedLine] = ()


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
    check_version(data, where, "explanation", SCHEMA)
    checked = check_model(_Document, data, where)
    if not checked.methods:
        return None
    page = run / PAGE
    reader = _Reader(where)
    return Explanation(
        checked.machine,
        checked.kernel,
        checked.baseline if checked.baseline in checked.methods else next(iter(checked.methods)),
        {name: reader.method(name, one) for name, one in checked.methods.items()},
        real_file(run, page) if page.exists() or page.is_symlink() else None,
        {
            state: {name: reader.kick(f"kicks.{state}.{name}", one) for name, one in found.items()}
            for state, found in checked.kicks.items()
        },
        {
            program: {
                name: reader.event(f"pauses.{program}.{name}", one, one.instructions_per_pause)
                for name, one in found.items()
            }
            for program, found in checked.pauses.items()
        },
        {
            name: reader.event(f"nested.{name}", one, one.instructions_per_round_trip)
            for name, one in checked.nested.items()
        },
    )


class _Reader:
    """Makes the parts of an explanation. It fails when they add up to more than can be drawn."""

    def __init__(self, where: Path) -> None:
        self._where, self._bars, self._lines = where, 0, 0

    def method(self, name: str, one: _Method) -> Method:
        key = f"methods.{name}"
        if sum(one.functions.values()) != one.instructions_per_exit:
            self._differ(key, "instructions_per_exit")
        paths = self._paths(key, one.paths, one.instructions_per_exit)
        return Method(
            one.instructions_per_exit, one.functions, paths, self._shared(one.shared_lines)
        )

    def kick(self, key: str, one: _Kick) -> Event:
        by_kickers = one.shared_lines_by_kickers
        lines = by_kickers[max(by_kickers, key=int)] if by_kickers else []
        found = self.event(key, one, one.instructions_per_kick)
        return replace(found, lines=self._shared(lines))

    def event(self, key: str, one: _Event, instructions: int) -> Event:
        return Event(instructions, one.share, self._paths(key, one.paths, instructions))

    def _paths(self, key: str, found: Mapping[str, int], instructions: int) -> Paths:
        paths = {tuple(path.split(SEPARATOR)): count for path, count in found.items()}
        bars: set[tuple[str, ...]] = set()
        for path in paths:
            if len(path) > _DEEPEST or not all(0 < len(name) <= 1000 for name in path):
                fail(self._where, f"is damaged: {key}.paths has what is no call path")
            bars.update(path[: depth + 1] for depth in range(len(path)))
            if self._bars + len(bars) > _MOST_BARS:
                fail(self._where, f"has more than {_MOST_BARS:,} bars in its flame graphs; refused")
        self._bars += len(bars)
        if paths and sum(paths.values()) != instructions:
            self._differ(key, "the instructions")
        return paths

    def _shared(self, lines: Sequence[_Line]) -> list[SharedLine]:
        self._lines += len(lines)
        if self._lines > _MOST_LINES:
            fail(self._where, f"has more than {_MOST_LINES:,} shared lines; refused")
        return [
            SharedLine(one.what, {name: (use[0], use[1]) for name, use in one.threads.items()})
            for one in lines
        ]

    def _differ(self, key: str, what: str) -> None:
        fail(self._where, f"is damaged: {key} does not add up to {what}")
