# SPDX-License-Identifier: Apache-2.0
"""The part of a run's page that explains an exit: which functions have its instructions.

What is long is folded: the graphs of methods and other events, and matrices of shared lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kickbench.report.figures.flame import Graph, graphs
from kickbench.report.words.explanation import Row, Totals, answer, difference_rows, events, totals
from kickbench.report.words.sharing import Table, matrix
from kickbench.results.explanation import Event, Explanation, Method, load_explanation
from kickbench.scenario.kinds import NESTED_BASELINE

_Counted = Mapping[str, Method] | Mapping[str, Event]


@dataclass(frozen=True)
class ExplanationOnPage:
    """Sentences, a table and a graph for each method that differs, and the address of more.

    ``folded`` are further graphs, each group under a title. ``shared`` are matrices of shared
    lines. ``machine`` and ``kernel`` say where it was counted: that is not where the run was
    measured.
    """

    machine: str
    kernel: str
    said: list[str]
    tables: list[tuple[str, str, list[Row]]]
    totals: list[Totals]
    graphs: list[Graph]
    folded: list[tuple[str, list[Graph]]]
    shared: list[Table]
    more: str | None


def explanation_of(run: Path, folder: Path | None) -> ExplanationOnPage | None:
    """What the folder of a run explains. None if it has no explanation.

    ``folder`` is where the page will be: a link leads from there to the explanation's own page.
    Raises ResultsError if the explanation is damaged.
    """
    found = load_explanation(run)
    if found is None:
        return None
    of_exits = _graphs(found.methods, found.baseline)
    folded = [("an exit", [one for one in of_exits if not one.compares])]
    folded += [(name, _graphs(methods, found.baseline)) for name, methods in events(found)]
    return ExplanationOnPage(
        found.machine,
        found.kernel,
        list(answer(found)),
        list(_tables(found)),
        totals(found),
        [one for one in of_exits if one.compares],
        [(title, graphs) for title, graphs in folded if graphs],
        list(_matrices(found)),
        _address(found.page, folder) if found.page and folder else None,
    )


def _tables(found: Explanation) -> Iterator[tuple[str, str, list[Row]]]:
    baseline = found.methods[found.baseline]
    for name, one in found.methods.items():
        if one.functions != baseline.functions:
            yield found.baseline, name, difference_rows(one.functions, baseline.functions)


def _graphs(methods: _Counted, baseline: str) -> list[Graph]:
    """Those of the methods whose call paths the file has."""
    paths = {name: one.paths for name, one in methods.items() if one.paths}
    # A guest hypervisor's ways have their own baseline.
    known = [name for name in (baseline, NESTED_BASELINE) if name in paths]
    return list(graphs(paths, known[0] if known else None))


def _matrices(found: Explanation) -> Iterator[Table]:
    counted: list[tuple[str | None, _Counted]] = [(None, found.methods), *found.kicks.items()]
    for state, methods in counted:
        for name, one in methods.items():
            if one.lines:
                yield matrix(name, state, [(line.what, line.uses) for line in one.lines])


def _address(page: Path, folder: Path) -> str:
    """The relative address. It begins with a dot: a folder's name could look like a scheme."""
    relative = os.path.relpath(page, folder.resolve())
    return quote(os.fsencode(os.path.join(os.curdir, relative)))  # noqa: PTH118
