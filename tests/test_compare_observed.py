# SPDX-License-Identifier: Apache-2.0
"""Two observed VMs are compared where both have a figure, and told apart where they differ."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic_observed
from command import kickbench

from kickbench.compare.runs import Comparison, compare
from kickbench.errors import ResultsError
from kickbench.nightly.night import Night
from kickbench.report.pages.comparison import compare_all, page
from kickbench.report.words.comparison import caveats, headline, left_out, tables
from kickbench.summary.data import RunData
from kickbench.summary.pyperf import write_pyperf
from kickbench.summary.summarise import write_summary

SLOW = {0: -1, 1: 24_000, 2: 90_000, 3: 1_800_000}
OTHER_WAYS = [(2, False, 4, 0x608, 0.5), (2, True, 1, 0x3F8, 0.5)]


def observed(folder: Path, **facts: Any) -> RunData:
    return RunData.load(synthetic_observed.build(folder, pauses=40, **facts))


def compared(tmp_path: Path, **facts: Any) -> Comparison:
    base = observed(tmp_path / "base")
    other = observed(tmp_path / "other", seed=2, **facts)
    return compare(base.summary, other.summary)


def said(comparison: Comparison) -> str:
    return " ".join(sentence.text for sentence in headline(comparison))


def test_the_same_vm_twice_has_no_difference(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    assert {judged.base.metric for judged in comparison.judged} == {
        "vm_exits_per_second",
        "latency_p50_ns",
        "pause_last_ns",
    }
    assert {judged.verdict for judged in comparison.judged} == {"same"}
    assert said(comparison).startswith("No difference seen in 3 figures")
    assert "uses" not in said(comparison)
    assert any("one observation" in text for text in caveats(comparison))
    assert not any("--quick" in text for text in caveats(comparison))


def test_another_rate_is_more_exits_and_not_slower(tmp_path: Path) -> None:
    comparison = compared(tmp_path, rate=40_000)
    (table,) = tables(comparison)
    verdicts = {row.metric: row.verdict for row in table.rows}
    assert verdicts["exits per second of the VM [1/s]"] == "maybe more exits"


def test_slower_kicks_are_at_most_maybe_slower(tmp_path: Path) -> None:
    comparison = compared(tmp_path, latency_ns=SLOW)
    words = {judged.base.metric: judged.verdict for judged in comparison.judged}
    assert words["vm_exits_per_second"] == "same"
    assert "worse" not in words.values()
    assert comparison.regressions == ()


@pytest.mark.parametrize(
    ("facts", "words", "reason"),
    [
        (
            {"protocol": "sigmask"},
            "base uses immediate_exit and other uses sigmask.",
            "the cases differ in kick protocol",
        ),
        ({"vcpus": 4}, "base has 2 vCPUs and other has 4 vCPUs.", "number of vCPUs"),
        (
            {"ways": OTHER_WAYS},
            "other leaves 50 % to read port 0x608 (the ACPI PM timer) and 50 % to write port 0x3f8",
            "reasons to leave",
        ),
    ],
)
def test_other_vms_are_told_apart_and_not_judged(
    tmp_path: Path, facts: dict[str, Any], words: str, reason: str
) -> None:
    comparison = compared(tmp_path, **facts)
    assert {judged.verdict for judged in comparison.judged} == {"not comparable"}
    assert words in said(comparison)
    assert reason in said(comparison)
    assert not left_out(comparison)
    (table,) = tables(comparison)
    assert all("not comparable" in row.word for row in table.rows)


@pytest.mark.parametrize("end", ["base", "other"])
def test_an_unknown_protocol_may_be_the_same(tmp_path: Path, end: str) -> None:
    """A VM that nobody kicked has one, and its replay, which is kicked, does not."""
    protocols = {"base": "immediate_exit", "other": "immediate_exit", end: "unknown"}
    runs = [
        observed(tmp_path / name, protocol=protocol, seed=len(name))
        for name, protocol in protocols.items()
    ]
    comparison = compare(*(run.summary for run in runs))
    assert {judged.verdict for judged in comparison.judged} == {"same"}
    assert f"{end} uses an unknown protocol" in said(comparison)


def test_a_small_difference_in_the_ways_forbids_nothing(tmp_path: Path) -> None:
    ways = [(*synthetic_observed.PM_TIMER[:4], 0.9), (*synthetic_observed.DOORBELL[:4], 0.1)]
    comparison = compared(tmp_path, ways=ways)
    assert {judged.verdict for judged in comparison.judged} == {"same"}
    assert "base leaves 92 %" in said(comparison)


def test_vms_of_two_names_are_compared(tmp_path: Path) -> None:
    base = synthetic_observed.build(tmp_path / "base")
    other = synthetic_observed.build(tmp_path / "other", guest="another")
    done = kickbench("compare", base, other)
    assert done.returncode == 0, done.stderr
    assert "exits per second of the VM" in done.stdout


def test_a_mailed_observation_is_compared_like_the_whole(tmp_path: Path) -> None:
    base = synthetic_observed.build(tmp_path / "base")
    other = synthetic_observed.build(tmp_path / "other", seed=2)
    whole = compare(*(RunData.load(run).summary for run in (base, other)))
    write_summary(other)
    shutil.rmtree(other / "cases")
    mailed = compare(*(RunData.load(run).summary for run in (base, other)))
    assert tables(mailed) == tables(whole)
    assert headline(mailed) == headline(whole)


def test_a_figure_that_only_one_has_is_left_out(tmp_path: Path) -> None:
    comparison = compared(tmp_path, latency_ns={0: -1, 1: -1, 2: -1, 3: -1})
    assert {judged.base.metric for judged in comparison.judged} == {
        "vm_exits_per_second",
        "pause_last_ns",
    }
    (line,) = left_out(comparison)
    assert "kick latency p50" in line


def test_the_page_of_a_comparison_has_both(tmp_path: Path) -> None:
    runs = [observed(tmp_path / "base"), observed(tmp_path / "other", protocol="sigmask", seed=2)]
    html = page(runs, compare_all(runs), ["a.html", "b.html"])
    assert "base uses immediate_exit and other uses sigmask." in html
    assert "not comparable" in html


def test_a_history_keeps_no_observations(tmp_path: Path) -> None:
    data = observed(tmp_path)
    with pytest.raises(ResultsError, match="is an observation of a VM") as refusal:
        Night.of(data.reader.manifest, data.summary)
    assert str(refusal.value).isprintable()


def test_there_is_nothing_to_export_for_pyperf(tmp_path: Path) -> None:
    assert write_pyperf(synthetic_observed.build(tmp_path)) is None
