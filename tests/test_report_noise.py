# SPDX-License-Identifier: Apache-2.0
"""Noise in words: what it costs against the same case without it, and how much there was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from synthetic_run import case, kick_case, pause_case, race_case

from kickbench.report.words.noise import answer_noise
from kickbench.report.words.tables import TABLES, columns_of, rows_of
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData
from kickbench.summary.found import check_summary

NOISES: dict[str, dict[str, Any]] = {
    "": {},
    "-foreign": {"foreign_signals_hz": 100.0},
    "-siglock": {"siglock_threads": 2, "siglock_hz": 10_000.0},
}
FOREIGN, SIGLOCK = "100 foreign signals/s per vCPU", "2 siglock threads at 10,000/s"


def noisy(make: Any, **other: Any) -> list[dict[str, Any]]:
    """A case without noise, and the same with each noise."""
    quiet = make(**other)
    return [{**quiet, **fields, "id": quiet["id"] + name} for name, fields in NOISES.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    race = noisy(race_case, window_ns=50_000.0)
    cases = [*noisy(case), *noisy(kick_case), *noisy(pause_case), *race]
    run = synthetic_run.build(tmp_path_factory.mktemp("noise"), cases=cases, rounds=20)
    return RunData.load(run)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("exits", ["a quiet exit", "an exit on average"]),
        ("kick", ["a kick at p50", "a kick at p99"]),
        ("pause_all", ["a pause at p50"]),
        ("race", ["flag_signal lost ", " instead of "]),
    ],
)
def test_each_noise_is_compared_with_the_case_without_it(
    data: RunData, kind: str, what: list[str]
) -> None:
    foreign, siglock, delivered, taken = answer_noise(data.summary, kind, ())
    assert foreign.startswith(f"With {FOREIGN}, against none (")
    assert siglock.startswith(f"With {SIGLOCK}, against none (")
    assert all(one in foreign for one in what)
    assert "no noise" not in foreign
    assert delivered.startswith("Foreign signals delivered: ")
    assert " is no kick: KVM_RUN returned " in delivered
    assert taken.endswith(", 10,000 times a second each.")


@pytest.mark.parametrize(
    ("key", "value"), [("gaps_us", [1.0, 2.0]), ("vcpu_rates", [0.5, 1.5]), ("vcpus", 8)]
)
def test_noise_is_compared_with_the_same_guest_only(data: RunData, key: str, value: Any) -> None:
    summary = copy.deepcopy(data.summary)
    silent = next(one for one in summary["cases"] if one["kind"] == "exits")
    silent[key] = value
    assert not any("against none" in said for said in answer_noise(summary, "exits", ()))


def test_what_noise_costs_has_an_interval(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    _, foreign, _ = (one for one in summary["cases"] if one["kind"] == "pause_all")
    for figures in foreign["methods"].values():
        figures["last_ns"]["p50"] += 5e6
        figures["last_ci95"]["p50"] = [end + 5e6 for end in figures["last_ci95"]["p50"]]
    said, *_ = answer_noise(summary, "pause_all", ())
    assert "a pause at p50 takes 5," in said
    assert "ns more (95 % CI 4," in said
    assert "with sigmask" in said


def test_a_signal_that_is_not_delivered_is_not_passed_over(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    for one in summary["cases"]:
        for figures in one["methods"].values():
            figures.get("noise", {})["foreign_taken"] = 0
    said = answer_noise(summary, "kick", ())
    assert "No foreign signal was delivered, so nothing is known of their cost." in said


def test_foreign_signals_make_no_flood_of_spurious_exits(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    _, foreign, _ = (one for one in summary["cases"] if one["kind"] == "kick")
    figures = foreign["methods"]["sigmask"]
    figures["spurious"] = 10 * figures["sent"]
    finding = {"method": "sigmask", "what": "spurious", "race_free_claim": True}
    foreign["findings"] = [{**finding, "count": figures["spurious"], "of": figures["sent"]}]
    alarms = verdict(summary).alarms
    assert any("with no kick pending" in alarm for alarm in alarms)
    figures["noise"]["foreign_taken"] = figures["spurious"]
    assert not any("with no kick pending" in alarm for alarm in verdict(summary).alarms)


def test_a_case_with_noise_is_told_from_the_one_without(data: RunData) -> None:
    cases = [one for one in data.summary["cases"] if one["kind"] == "exits"]
    assert [one["title"].split(", ")[4:] for one in cases] == [[], [FOREIGN], [SIGLOCK]]
    names = [column.name for column in columns_of(TABLES["exits"].keys, rows_of(cases))]
    assert "foreign signals" in names
    assert "siglock threads" in names
    more = " ".join(verdict(data.summary).more)
    assert "no noise" in verdict(data.summary).answer + more


def test_without_noise_there_is_no_word_of_it(tmp_path: Path) -> None:
    summary = RunData.load(synthetic_run.build(tmp_path, cases=[case()], rounds=10)).summary
    assert answer_noise(summary, "exits", ()) == []
    assert "noise" not in " ".join(verdict(summary).lines).replace("within the noise", "")
    assert all("noise" not in figures for figures in summary["cases"][0]["methods"].values())


def test_a_summary_with_more_signals_taken_than_sent_is_refused(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    one = summary["cases"][1]
    one["methods"]["sigmask"]["noise"]["foreign_taken"] = 10**9
    parameters = {one["id"]: data.reader.case(one["id"]).parameters}
    with pytest.raises(Exception, match="more foreign signals were taken than sent"):
        check_summary(summary, summary["run_id"], parameters, "summary.json")
