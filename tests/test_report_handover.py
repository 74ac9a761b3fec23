# SPDX-License-Identifier: Apache-2.0
"""The kind handover in words."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import synthetic_run

from kickbench.report.words.handover import answer_handover
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData


def build(folder: Path, **arguments: Any) -> RunData:
    cases = arguments.pop("cases", [synthetic_run.handover_case(processes=2)])
    run = synthetic_run.build(folder, cases=cases, handover=arguments, rounds=10)
    return RunData.load(run)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return build(tmp_path_factory.mktemp("two"), cpus=8, nodes=2, siblings=True)


def test_the_answer_has_a_time_for_each_kind_of_neighbour(two_nodes: RunData) -> None:
    said = verdict(two_nodes.summary)
    assert re.fullmatch(
        r"Handing a cache line from one CPU to another takes 1\d\d(\.\d)? ns \(95 % CI [\d.]+ to "
        r"[\d.]+\) between cores of one node, the median of 8 pairs\.",
        said.answer,
    )
    more = " ".join(said.more)
    assert "between cores of different nodes, the median of 16 pairs." in more
    assert "between two threads of a core, the median of 4 pairs." in more
    assert re.search(
        r"The fastest pair is CPUs \d and \d with .* and the slowest CPUs \d and ", more
    )
    assert "on one CPU alone, where the line stays in its cache." in more
    assert "handover differs from itself" in more


def test_one_pair_is_neither_a_median_nor_an_extreme(tmp_path: Path) -> None:
    said = answer_handover(build(tmp_path, cpus=2, nodes=1).summary, ())
    assert len(said) == 2
    assert said[0].endswith("between cores of one node.")


def test_processes_that_differ_are_told(two_nodes: RunData) -> None:
    summary = copy.deepcopy(two_nodes.summary)
    assert not any("Processes differ" in line for line in answer_handover(summary, ()))
    pairs = summary["cases"][0]["handover"]["pairs"]
    pairs[3]["by_process"], pairs[5]["by_process"] = [32.0, 149.0], [60.0, 120.0]
    (line,) = [line for line in answer_handover(summary, ()) if "Processes differ" in line]
    assert line.startswith(
        "Processes differ: CPUs 0 and 4 took 32.0 ns in one and 149 in another (2 of 28 pairs "
        "differ)."
    )


def test_two_placements_are_told_apart(tmp_path: Path) -> None:
    here = synthetic_run.handover_case(processes=2)
    there = {**here, "id": "handover-remote", "placement": synthetic_run.PLACEMENTS[1]}
    data = build(tmp_path, cases=[here, there], cpus=2, nodes=1)
    said = answer_handover(data.summary, ())
    assert [line.endswith("(local).") for line in said] == [True, False, False, False]
    assert said[2].endswith("(remote_siglock).")


def test_pairs_without_a_time_have_no_answer(tmp_path: Path) -> None:
    summary = copy.deepcopy(build(tmp_path, cpus=2, nodes=1).summary)
    found = summary["cases"][0]["handover"]
    for level in (*found["pairs"], *found["medians"].values()):
        level["value"] = level["ci95"] = level["by_process"] = None
    assert answer_handover(summary, ())[0].startswith("No pair of CPUs has a hand-over time")
