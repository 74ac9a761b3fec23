# SPDX-License-Identifier: Apache-2.0
"""Pauses in words: their order, and vCPUs that had not run since the pause before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from synthetic_run import pause_case

from kickbench.report.words.pauses import answer_back_to_back, answer_orders
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData
from kickbench.summary.found import check_summary


def made(vcpus: int, order: str, gap_us: float) -> dict[str, Any]:
    name = f"pause_all-{vcpus}vcpu-{order}-{gap_us:g}-local"
    return pause_case(vcpus, id=name, order=order, pause_gap_us=gap_us)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    cases = [made(n, o, g) for g in (0.0, 500.0) for o in ("parallel", "serial") for n in (2, 16)]
    return RunData.load(
        synthetic_run.build(tmp_path_factory.mktemp("pauses"), cases=cases, rounds=10)
    )


def changed(data: RunData) -> dict[str, Any]:
    """The summary, in which pauses in the order serial take three times as long."""
    summary = copy.deepcopy(data.summary)
    for case in summary["cases"]:
        for figures in case["methods"].values():
            figures["last_ns"]["p50"] = 3e5 if case["order"] == "serial" else 1e5
    return summary


def test_the_orders_are_compared_where_there_were_cpus_enough(data: RunData) -> None:
    both = "300 µs instead of 100 µs with sigmask (3.0 times) and "
    (said,) = answer_orders(changed(data), ())
    assert said.startswith(f"Kicked one at a time, all vCPUs are paused after {both}")
    assert said.endswith(", p50 (16 vCPUs, local, 500 µs between pauses).")
    large = [case["id"] for case in data.summary["cases"] if case["vcpus"] == 16]
    (said,) = answer_orders(changed(data), large)
    assert said.endswith(", p50 (2 vCPUs, local, 500 µs between pauses).")


def test_back_to_back_the_pauses_without_a_run_between_are_counted(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    for case in summary["cases"]:
        for figures in case["methods"].values():
            assert figures["not_run"] == {"pauses": 0, "vcpus": 0}
        case["methods"]["sigmask"]["not_run"] = {"pauses": 9, "vcpus": 11}
    sent = sum(c["methods"]["sigmask"]["n"] for c in summary["cases"] if c["pause_gap_us"] == 0)
    (said,) = answer_back_to_back(summary)
    assert f"pause before: 36 of {sent:,} (" in said
    assert " %) with sigmask" in said
    assert "0 of " in said


def test_a_run_without_such_cases_says_nothing_of_them(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[pause_case(2)], rounds=10)
    summary = RunData.load(run).summary
    assert answer_orders(summary, ()) == answer_back_to_back(summary) == []
    lines = " ".join(verdict(summary).lines)
    assert "between pauses" not in lines
    assert "at once" not in lines


def test_a_gap_of_earlier_runs_is_the_default(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[pause_case(2)], rounds=10)
    (case,) = RunData.load(run).summary["cases"]
    assert (case["pause_gap_us"], case["order"]) == (500.0, "parallel")


def test_more_pauses_without_a_run_than_pauses_are_refused(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    one = summary["cases"][0]
    one["methods"]["sigmask"]["not_run"] = {"pauses": 10**6, "vcpus": 10**6}
    parameters = {one["id"]: data.reader.case(one["id"]).parameters}
    with pytest.raises(Exception, match="not_run has more pauses than there were"):
        check_summary(summary, summary["run_id"], parameters, "summary.json")
