# SPDX-License-Identifier: Apache-2.0
"""The report of a VM that was observed: what is drawn and said is what was seen."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_observed
from command import kickbench
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.numbers import NOTHING, significant
from kickbench.report.figures.observed import MOST_WAYS
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.svg import inline
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages.assets import is_asset
from kickbench.report.pages.downloads import csv_of_listing
from kickbench.report.pages.index import badges_of
from kickbench.report.pages.run import page
from kickbench.report.words.names import Summary
from kickbench.report.words.tables import TABLES, Row
from kickbench.report.words.verdict import notes, verdict
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


def test_many_vcpus_have_a_line_of_their_mean(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, vcpus=64, seconds=5))
    (plot,) = figures(data)["observed-over-time"]
    assert "mean of the other 61" in text_of(plot)
    turns = read_columns(data.reader, "observed", "observed_turns")
    *busiest, others = (line.get_ydata().sum() for line in plot.canvas.axes[0].lines[:4])
    assert sum(busiest) + 61 * others == pytest.approx(turns["exits"].sum())


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


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_drawing_keeps_its_size_when_drawn_again(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, emulated=True))
    for plots in figures(data).values():
        for plot in plots:
            assert len({inline(plot, "x") for _ in range(3)}) == 1


def test_hostile_names_are_text_in_every_drawing(tmp_path: Path) -> None:
    hostile = "_$\\frac{$ <script>alert(1)</script> " + "x" * 900
    facts: dict[str, Any] = {"vmm": hostile}
    data = RunData.load(synthetic_observed.build(tmp_path, **facts))
    for plots in figures(data).values():
        for plot in plots:
            assert "<script" not in inline(plot, "x")


# --- words and tables -----------------------------------------------------------------------------


def test_the_answer_comes_first_and_has_an_idea_a_sentence(observed: RunData) -> None:
    said = verdict(observed.summary)
    assert said.alarms == ()
    assert re.fullmatch(
        r"This VM leaves to user space 80,000 times a second, 92 % to read port 0x608 \(the ACPI "
        r"PM timer\) and 8 % to write address 0xfe003000 \(MMIO\)\.",
        said.answer,
    )
    assert said.more[0] == "It uses immediate_exit, so siglock costs its exits nothing."
    assert re.fullmatch(
        r"Pausing it took \S+ µs at p50 and at most \S+ ms \(20 pauses\)\.", said.more[1]
    )
    assert "with SIGUSR1 by the tgkill(2) of qemu-system-x86." in said.more[2]
    assert "qemu-system-x86_64 (pid 4711, guest tiny) was observed for 10 s." in said.more


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"protocol": "unknown"}, "Its kick protocol is not known."),
        ({"protocol": "sigmask"}, "not measured on this host yet"),
        (
            {
                "protocol": "sigmask",
                "siglock": {
                    "cost": {"value": 31.0, "ci95": [29.0, 33.0], "run": "20260301T120000Z-a"},
                    "waits": 0,
                    "wait_ns": 0,
                    "vcpu_waits": 0,
                    "threads": 4,
                },
            },
            "so each exit takes siglock: 1.24 ms a second in all.",
        ),
        (
            {"vcpus": 1, "pauses": 1, "latency_ns": dict.fromkeys(range(4), 5000)},
            "after the one kick.",
        ),
        ({"pauses": 0}, "No kick was sent to its vCPUs."),
        ({"rate": 0, "pauses": 0}, "This VM did not leave to user space."),
        ({"ended": "the process ended"}, "was observed for 10 s, because the process ended."),
        ({"detail_ns": 500_000_000}, "Times and reasons are those of 5 % of this time."),
        ({"rate": 10}, "It leaves too rarely to tell what observing cost it."),
        (
            {"memory_nodes": {"0": 250, "1": 750}},
            "Its vCPUs ran on node 0. Its memory is 75 % on node 1 and 25 % on node 0.",
        ),
        (
            {"vcpus": 9, "memory_nodes": {"1": 10}},
            "Its vCPUs ran on nodes 0 and 1. Its memory is 100 % on node 1.",
        ),
        ({"lost": 3}, "3 events of qemu-system-x86_64"),
    ],
)
def test_what_is_special_is_said(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, **facts))
    said = verdict(data.summary)
    assert any(words in line for line in said.lines), said.lines


def test_a_kick_without_an_answer_has_its_age(tmp_path: Path) -> None:
    rows = synthetic_observed._kicks(
        np.random.default_rng(1), 2, 10, 20, synthetic_observed._LATENCY_NS
    )
    rows["answered"][6:8] = False
    rows["latency_ns"][6:8] = rows["handled_ns"][6:8] = -1
    rows["at_ns"][6:8] = [7_000_000_000, 8_000_000_000]
    data = RunData.load(synthetic_observed.build(tmp_path, tables={"observed_kicks": rows}))
    said = verdict(data.summary)
    assert "2 kicks had no answer when observing ended, the oldest after 3 s." in said.lines


def test_a_cost_that_cannot_be_told_is_in_no_cell(observed: RunData) -> None:
    def cell(case: Summary) -> str:
        (column,) = (
            one
            for part in TABLES["observed"].parts
            for one in part.columns
            if one.name == "observing costs"
        )
        return column.cell(Row(case, "immediate_exit"))

    (case,) = observed.finished
    assert cell(case) == significant(100 * case["overhead"]["share"])
    unsure = {**case, "overhead": {**case["overhead"], "share": 0.3, "ci95": [-0.9, 1.5]}}
    assert cell(unsure) == NOTHING
    said = verdict({**observed.summary, "cases": [unsure]})
    assert any("varies too much to tell what observing cost" in line for line in said.lines)


def test_one_node_is_no_news(observed: RunData) -> None:
    assert not any("node" in line for line in verdict(observed.summary).lines)


def test_the_page_lists_ways_vcpus_and_senders(observed: RunData) -> None:
    shown = page(observed)
    text = re.sub(r"<[^>]+>", "\n", shown)
    for title in ("Why it leaves to user space", "Its vCPUs", "Who sent signals to it"):
        assert text.count(title) >= 2  # the table, and its download
    for cell in ("CPU 3/KVM", "tgkill(2)", "to write address 0xfe003000"):
        assert cell in text
    assert "Guest program" not in shown
    assert "A row is one method" not in shown
    assert "kickbench observe 4711 --seconds 10" in shown
    assert "kickbench run" not in shown


def test_downloads_have_the_numbers_of_the_listings(observed: RunData) -> None:
    table = TABLES["observed"]
    files = {one.name: csv_of_listing(observed, "observed", one) for one in table.listings}
    rows = {name: list(csv.DictReader(io.StringIO(text.decode()))) for name, text in files.items()}
    (case,) = observed.finished
    assert [row["exits"] for row in rows["ways"]] == [
        str(w["exits"]) for w in case["exits"]["ways"]
    ]
    assert [row["cpus"] for row in rows["vcpus"]] == ["0", "1", "2", "3"]
    assert rows["senders"][0]["sent"] == "80"
    assert {row["run_id"] for some in rows.values() for row in some} == {observed.reader.run_id}
    for one in table.listings:
        assert is_asset(f"observed-{one.name}.csv")


def test_show_lists_at_most_ten_ways(tmp_path: Path) -> None:
    ways = [(2, False, 4, 0x1000 + i, 1 / 13) for i in range(13)]
    run = synthetic_observed.build(tmp_path, ways=ways)
    shown = CliRunner().invoke(app, ["show", str(run)])
    assert shown.exit_code == 0
    assert len(re.findall(r"^  to read port", shown.stdout, re.MULTILINE)) == 10
    assert "3 rows more: see kickbench report" in shown.stdout


def test_a_vm_that_did_nothing_is_no_mistake_of_the_run(tmp_path: Path) -> None:
    data = RunData.load(synthetic_observed.build(tmp_path, rate=0, pauses=0))
    assert notes(data.summary) == []


def test_the_index_marks_lost_events(tmp_path: Path) -> None:
    for lost, marks in ((0, []), (1, [("bad", "Events lost")])):
        data = RunData.load(synthetic_observed.build(tmp_path, lost=lost))
        assert badges_of(data, verdict(data.summary)) == marks


def test_an_observation_is_not_continued(tmp_path: Path) -> None:
    run = synthetic_observed.build(tmp_path)
    done = kickbench("run", "--resume", run)
    assert done.returncode == 2
    assert "is an observation of a VM, which cannot be continued" in done.stderr
