# SPDX-License-Identifier: Apache-2.0
"""The kind handover in words, and as a heat map with the nodes marked."""

from __future__ import annotations

import copy
import io
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import synthetic_run

from kickbench.report.figures.plots import Plot
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages.downloads import csv_of
from kickbench.report.pages.run import page as page_of
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


def drawn(data: RunData) -> list[Plot]:
    (figure,) = [figure for figure in FIGURES if figure.name == "handover"]
    return figure.draw(data)


def texts(plot: Plot) -> list[str]:
    """All words of a drawing."""
    file = io.StringIO()
    plot.canvas.savefig(file, format="svg", metadata={"Date": None})
    return re.findall(r"<!-- (.+?) -->", file.getvalue())


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
    pairs[6]["by_process"], pairs[7]["by_process"] = None, [0.0, 1.0]
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


# --- the heat map -------------------------------------------------------------------------------


def test_the_map_has_its_nodes_its_cpus_and_its_siblings(two_nodes: RunData) -> None:
    (plot,) = drawn(two_nodes)
    found = texts(plot)
    assert "node [number]" in found
    assert found.count("CPU [number]") == 2
    assert "threads of one core" in found
    assert "not measured" not in found
    (axes,) = plot.canvas.axes
    (dots,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert {tuple(place) for place in dots.get_xydata().tolist()} == {
        (a, b) for cpu in range(0, 8, 2) for a, b in ((cpu, cpu + 1), (cpu + 1, cpu))
    }
    lines = [line for line in axes.lines if line.get_marker() != "o"]
    assert [line.get_xdata()[0] for line in lines] == [3.5, 0]  # between CPU 3 and 4, both ways


def test_few_cpus_have_their_times_written(tmp_path: Path) -> None:
    (plot,) = drawn(build(tmp_path, cpus=2, nodes=1))
    times = [text for text in texts(plot) if re.fullmatch(r"\d+(\.\d+)? to \d+(\.\d+)?", text)]
    assert len(times) == 2  # the same pair twice


def test_pairs_that_were_left_out_are_hatched(tmp_path: Path) -> None:
    out = frozenset(pair for pair in combinations(range(10), 2) if sum(pair) % 3 == 0)
    (plot,) = drawn(build(tmp_path, cpus=10, nodes=2, left_out=out))
    assert "not measured" in texts(plot)
    assert plot.finding.endswith(f"{len(out)} pairs of CPUs had no turn (hatched).")


def test_a_sample_of_many_cpus_is_not_hatched(two_nodes: RunData) -> None:
    """The squares of 500 CPUs that were not measured would be megabytes."""
    summary = copy.deepcopy(two_nodes.summary)
    found = summary["cases"][0]["handover"]
    (pair, *_) = found["pairs"]
    found["pairs"] = [{**pair, "cpus": [cpu, cpu + 1]} for cpu in range(0, 500, 2)]
    (plot,) = drawn(replace(two_nodes, summary=summary))
    assert "not measured" not in texts(plot)
    assert plot.finding.endswith("124,500 pairs of CPUs had no turn (blank).")


def test_many_cpus_are_a_small_drawing(tmp_path: Path) -> None:
    case = synthetic_run.handover_case(processes=1)
    run = synthetic_run.build(tmp_path, cases=[case], handover={"cpus": 64, "nodes": 8}, rounds=2)
    (plot,) = drawn(RunData.load(run))
    file = io.StringIO()
    plot.canvas.savefig(file, format="svg")
    assert len(file.getvalue()) < 700_000
    assert len(plot.canvas.axes[0].patches) <= 10  # one for each shade


def test_the_page_and_the_csv_have_the_kind(two_nodes: RunData) -> None:
    page = page_of(two_nodes)
    assert "What handing a cache line over takes, by pair of CPUs" in page
    assert "no_guest" not in page.split("Reproduce")[0]
    head, first, second = csv_of(two_nodes, "handover").decode().splitlines()
    assert "ns_per_handover_quiet" in head or "quiet" in head
    assert ",handover," in first
    assert ",alone," in second
