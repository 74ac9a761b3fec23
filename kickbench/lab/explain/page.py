# SPDX-License-Identifier: Apache-2.0
"""The page of an explanation: flame graphs, and tables of what differs. It loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kickbench.lab.explain import shared_words
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.subject import Subject
from kickbench.lab.explain.words import answer_of, rows_of
from kickbench.report.figures.flame import Graph, graphs
from kickbench.report.pages.html import FLAMES, render
from kickbench.report.words.explanation import Row

TEMPLATE = "explain.html.j2"


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


def page(found: Explanation) -> str:
    """The page as HTML."""
    sections = [_section(found, *one) for one in found.by_subject().items()]
    return render(
        TEMPLATE,
        scripts=[FLAMES],
        machine=found.machine,
        kernel=found.kernel,
        skipped=found.skipped,
        sections=sections,
        shared=[*shared_words.tables(found.shared), *shared_words.matrices(found.shared)],
    )


def _section(found: Explanation, subject: Subject, methods: Mapping[str, Explained]) -> Section:
    baseline = found.baseline_of(methods)
    tables = []
    if baseline is not None:
        tables = [
            (baseline.method, one.method, rows_of(one, baseline))
            for one in methods.values()
            if one.folded != baseline.folded
        ]
    paths = {name: one.folded for name, one in methods.items()}
    return Section(
        subject.id,
        subject.heading,
        list(answer_of(found, subject, methods)),
        list(graphs(paths, baseline.method if baseline else None)),
        tables,
    )
