# SPDX-License-Identifier: Apache-2.0
"""The page of an explanation: flame graphs, what differs, and the tables. One file, loads nothing.

A flame graph is a tree of call paths. Its bars are as wide as the instructions that they stand for,
callers above what they call, in the order in which they were first executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kickbench.lab.explain import shared_words
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.stacks import GUEST
from kickbench.lab.explain.subject import Subject
from kickbench.lab.explain.words import Row, answer_of, difference_rows
from kickbench.report.pages.html import render

PAGE = "explain.html"
TEMPLATE = "explain.html.j2"
SCRIPT = "flame.js"


@dataclass
class Bar:
    """A function in a call path: ``before`` and ``after`` are its instructions with its callees'.

    ``before`` is the baseline's. ``callees`` are in the order of their first execution.
    """

    name: str
    before: int = 0
    after: int = 0
    callees: dict[str, Bar] = field(default_factory=dict)

    @property
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


@dataclass(frozen=True)
class Section:
    """What is explained: its answer, the graphs, and tables.

    A method that executes the same as the baseline has no table.
    """

    id: str
    title: str
    answer: list[str]
    graphs: list[Graph]
    tables: list[tuple[str, str, list[Row]]]


def tree(after: Mapping[tuple[str, ...], int], before: Mapping[tuple[str, ...], int]) -> Bar:
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


def page(found: Explanation) -> str:
    """The page as HTML."""
    sections = [_section(found, *one) for one in found.by_subject().items()]
    return render(
        TEMPLATE,
        scripts=[SCRIPT],
        machine=found.machine,
        kernel=found.kernel,
        skipped=found.skipped,
        sections=sections,
        shared=[*shared_words.tables(found.shared), *shared_words.matrices(found.shared)],
    )


def _section(found: Explanation, subject: Subject, methods: Mapping[str, Explained]) -> Section:
    baseline = found.baseline_of(methods)
    others = [
        one for one in methods.values() if baseline is not None and one.folded != baseline.folded
    ]
    graphs = [Graph(name, tree(one.folded, one.folded), False) for name, one in methods.items()]
    tables = []
    if baseline is not None:
        graphs += [
            Graph(f"{one.method} - {baseline.method}", tree(one.folded, baseline.folded), True)
            for one in others
        ]
        tables = [(baseline.method, one.method, difference_rows(one, baseline)) for one in others]
    return Section(
        subject.id,
        subject.heading,
        list(answer_of(found, subject, methods)),
        graphs,
        tables,
    )
