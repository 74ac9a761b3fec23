# SPDX-License-Identifier: Apache-2.0
"""The report of a VM that was observed: what is drawn and said is what was seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_observed

from kickbench.report.figures.observed import MOST_WAYS
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.svg import inline
from kickbench.report.figures.table import FIGURES
from kickbench.summary.data import RunData
from kickbench.summary.observed import find_pauses, read_columns

DRAWN = ("observed-ways", "observed-times", "observed-over-time", "observed-kicks")


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    folder = tmp_path_factory.mktemp("observed")
    return RunData.load(synthetic_observed.build(folder, vcpus=4, lost=0))


def figures(data: RunData) -> dict[str, list[Plot]]:
    return {figure.name: plots for figure in FIGURES if (plots := figure.draw(data))}


def text_of(plot: Plot) -> str:
    return re.sub(r"<[^>]+>", " ", inline(plot, "x"))


# --- figures --------------------------------------------------------------------------------------


def test_the_kind_has_its_figures_and_no_others(observed: RunData) -> None:
    found = figures(observed)
    assert set(found) == set(DRAWN)
    assert [len(found[name]) for name in DRAWN] == [1, 1, 1, 2]
    for plots in found.values():
        assert all("pid 4711" in plot.title and plot.finding.endswith(".") for plot in plots)


def test_the_ways_have_their_share_rate_and_times(observed: RunData) -> None:
    (plot,) = figures(observed)["observed-ways"]
    shown = text_of(plot)
    assert "To read port 0x608 (the ACPI PM timer)" in shown
    assert "92 %, 73,600/s; KVM_RUN 3 µs, user space 5 µs" in shown
    widths = [round(bar.get_width(), 3) for bar in plot.canvas.axes[0].patches]
    assert widths == [92.0, 8.0]
    assert plot.finding.startswith("Most often it leaves to read port 0x608")


def test_rare_ways_are_counted(tmp_path: Path) -> None:
    ways = [(2, False, 4, 0x1000 + i, 1 / 20) for i in range(20)]
    data = RunData.load(synthetic_observed.build(tmp_path, ways=ways))
    (plot,) = figures(data)["observed-ways"]
    assert len(plot.canvas.axes[0].patches) == MOST_WAYS
    assert f"{20 - MOST_WAYS} rarer ways to leave are not drawn." in plot.finding


def test_the_lines_over_time_are_the_exits_of_the_turns(observed: RunData) -> None:
    (plot,) = figures(observed)["observed-over-time"]
    turns = read_columns(observed.reader, "observed", "observed_turns")
    lines = [line for line in plot.canvas.axes[0].lines if len(line.get_xdata()) > 2]
    for index, line in enumerate(lines[:4]):
        assert np.array_equal(line.get_ydata(), turns["exits"][turns["vcpu"] == index])
    assert "80 kicks" in text_of(plot)
    assert "20 pauses" in text_of(plot)


def test_many_vcpus_share_a_line(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, vcpus=64, seconds=5))
    (plot,) = figures(data)["observed-over-time"]
    assert "the other 61 vCPUs" in text_of(plot)
    turns = read_columns(data.reader, "observed", "observed_turns")
    drawn = sum(line.get_ydata().sum() for line in plot.canvas.axes[0].lines[:4])
    assert drawn == pytest.approx(turns["exits"].sum())


def test_latencies_are_drawn_by_what_the_vcpu_did(observed: RunData) -> None:
    latency, pauses = figures(observed)["observed-kicks"]
    rows = read_columns(observed.reader, "observed", "observed_kicks")
    for state, words in ((1, "while the vCPU ran"), (2, "while it was halted")):
        n = int((rows["state"] == state).sum())
        assert f"{words} ({n})" in text_of(latency)
    assert "until the handler ran (80)" in text_of(latency)
    # From user space KVM_RUN does not return.
    assert "user space" not in text_of(latency)
    found = find_pauses(rows, 4)
    longest = pauses.canvas.axes[0].lines[2].get_xdata().max()
    assert longest == pytest.approx(found["last"].max() / 1e3)


def test_a_vm_that_nobody_kicks_has_no_plot_of_kicks(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, pauses=0))
    assert set(figures(data)) == set(DRAWN) - {"observed-kicks"}


def test_a_vm_that_never_leaves_has_a_page(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, rate=0, pauses=0))
    assert set(figures(data)) == {"observed-over-time"}


@pytest.mark.parametrize("vcpus", [1, 2, 3])
def test_a_pause_reaches_every_vcpu(tmp_path: Path, vcpus: int) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, vcpus=vcpus))
    rows = read_columns(data.reader, "observed", "observed_kicks")
    found = find_pauses(rows, vcpus)
    assert len(found["last"]) == (0 if vcpus == 1 else 20)
    assert (found["first"] <= found["median"]).all()
    assert (found["median"] <= found["last"]).all()
    assert set(found["at"]) <= set(rows["at_ns"].astype(float))


def test_an_emulated_vm_is_said_to_be_emulated(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, emulated=True))
    for name, plots in figures(data).items():
        for plot in plots:
            assert plot.title.startswith("Emulated (QEMU TCG): ")
            assert not re.search(r"(?<!emulated )\b(ns|µs|second)\b", inline(plot, "x")), name


def test_hostile_names_are_text_in_every_drawing(tmp_path: Path) -> None:
    hostile = "_$\\frac{$ <script>alert(1)</script> " + "x" * 900
    facts: dict[str, Any] = {"vmm": hostile}
    data = RunData.load(synthetic_observed.build(tmp_path, **facts))
    for plots in figures(data).values():
        for plot in plots:
            assert "<script" not in inline(plot, "x")
