# SPDX-License-Identifier: Apache-2.0
"""The part of a run's page that explains an exit: which functions have its instructions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kickbench.report.figures.flame import Graph, tree
from kickbench.report.words.explanation import Row, Totals, answer, difference_rows, totals
from kickbench.results.explanation import Explanation, load_explanation


@dataclass(frozen=True)
class ExplanationOnPage:
    """Sentences, a table and a graph for each method that differs, and the address of more.

    ``machine`` and ``kernel`` say where it was counted: that is not where the run was measured.
    """

    machine: str
    kernel: str
    said: list[str]
    tables: list[tuple[str, str, list[Row]]]
    graphs: list[Graph]
    totals: list[Totals]
    more: str | None


def explanation_of(run: Path, folder: Path | None) -> ExplanationOnPage | None:
    """What the folder of a run explains. None if it has no explanation.

    ``folder`` is where the page will be: a link leads from there to the explanation's own page.
    Raises ResultsError if the explanation is damaged.
    """
    found = load_explanation(run)
    if found is None:
        return None
    return ExplanationOnPage(
        found.machine,
        found.kernel,
        list(answer(found)),
        list(_tables(found)),
        list(_graphs(found)),
        totals(found),
        _address(found.page, folder) if found.page and folder else None,
    )


def _tables(found: Explanation) -> Iterator[tuple[str, str, list[Row]]]:
    baseline = found.methods[found.baseline]
    for name, one in found.methods.items():
        if one.functions != baseline.functions:
            yield found.baseline, name, difference_rows(one.functions, baseline.functions)


def _graphs(found: Explanation) -> Iterator[Graph]:
    baseline = found.methods[found.baseline]
    for name, one in found.methods.items():
        if baseline.paths and one.paths and one.paths != baseline.paths:
            yield Graph(f"{name} - {found.baseline}", tree(one.paths, baseline.paths), True)


def _address(page: Path, folder: Path) -> str:
    """The relative address. It begins with a dot: a folder's name could look like a scheme."""
    relative = os.path.relpath(page, folder.resolve())
    return quote(os.fsencode(os.path.join(os.curdir, relative)))  # noqa: PTH118
