# SPDX-License-Identifier: Apache-2.0
"""Flame graphs: trees of call paths. ``flame.html.j2`` draws them, and ``flame.js`` zooms in.

Bars are as wide as the instructions that they stand for, callers above what they call, in the
order in which they were first executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kickbench.results.explanation import GUEST, Paths


@dataclass
class Bar:
    """A function in a call path: ``before`` and ``after`` are its instructions with its callees'.

    ``before`` is the baseline's. ``callees`` are in the order of their first execution. A tree is
    complete before its widths are asked for.
    """

    name: str
    before: int = 0
    after: int = 0
    callees: dict[str, Bar] = field(default_factory=dict)

    @cached_property
    def width(self) -> int:
        """The wider of the two: a function that is gone is seen as well."""
        return max(self.before, self.after, sum(one.width for one in self.callees.values()))

    @property
    def rest(self) -> int:
        """The width that no callee takes."""
        return self.width - sum(one.width for one in self.callees.values())

    @property
    def place(self) -> str:
        """Where the function is: guest, user or kernel."""
        if self.name == GUEST:
            return "guest"
        return "user" if self.name.endswith("]") else "kernel"

    @property
    def change(self) -> str:
        """How ``after`` compares with ``before``: more, less or same."""
        if self.after == self.before:
            return "same"
        return "more" if self.after > self.before else "less"


@dataclass(frozen=True)
class Graph:
    """A flame graph. With ``compares``, its bars compare a method with the baseline."""

    title: str
    tree: Bar
    compares: bool


def graphs(methods: Mapping[str, Paths], baseline: str | None) -> Iterator[Graph]:
    """A graph of each method, then one of each that differs from the baseline."""
    for name, paths in methods.items():
        yield Graph(name, tree(paths, paths), False)
    if baseline is not None:
        before = methods[baseline]
        for name, paths in methods.items():
            if paths != before:
                yield Graph(f"{name} - {baseline}", tree(paths, before), True)


def tree(after: Paths, before: Paths) -> Bar:
    """The bars of two sets of call paths, under one that stands for all."""
    root = Bar("all")
    for folded, which in ((after, "after"), (before, "before")):
        for path, count in folded.items():
            bar = root
            for name in ("", *path):
                if name:
                    bar = bar.callees.setdefault(name, Bar(name))
                setattr(bar, which, getattr(bar, which) + count)
    return root
