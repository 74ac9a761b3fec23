# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind lifecycle: what became of the kicks, with exact bounds, and in words."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic_run

from kickbench.compare.metrics import points
from kickbench.engine.failures import Failure, describe
from kickbench.errors import ResultsError
from kickbench.report.words.lifecycle import answer_lifecycle
from kickbench.report.words.verdict import notes, verdict
from kickbench.results.reader import RunReader
from kickbench.scenario.kinds import MOMENTS
from kickbench.stats.proportions import clopper_pearson, upper_bound
from kickbench.summary.data import RunData
from kickbench.summary.lifecycle import FAULTS
from kickbench.summary.summarise import summarise, write_summary

METHODS = ["immediate_exit", "sigmask"]


def build(folder: Path, *moments: str, **lives: Any) -> Path:
    cases = [
        synthetic_run.lifecycle_case(moment, methods=METHODS, processes=1)
        for moment in moments or ("first_run",)
    ]
    return synthetic_run.build(folder, cases=cases, rounds=50, lives=lives)


def case_of(folder: Path, *moments: str, **lives: Any) -> dict[str, Any]:
    case: dict[str, Any] = summarise(RunReader(build(folder, *moments, **lives)))["cases"][0]
    return case


def said_of(folder: Path, *moments: str, **lives: Any) -> tuple[str, ...]:
    return verdict(RunData.load(build(folder, *moments, **lives)).summary).lines


def test_each_fate_is_counted_with_bounds_of_the_kicks_in_time(tmp_path: Path) -> None:
    case = case_of(tmp_path, fates={"sigmask": {"lost": 3, "late": 2}}, met=0.4)
    figures = case["methods"]["sigmask"]
    assert (figures["sent"], figures["met"], figures["answered"]) == (100, 40, 95)
    assert {fault: figures[fault] for fault in FAULTS} == {
        "late": 2,
        "lost": 3,
        "refused": 0,
        "poisoned": 0,
        "killed": 0,
    }
    share = clopper_pearson(3, 40)
    assert figures["ci95"]["lost"] == [share.low, share.high]
    assert figures["upper95"]["lost"] == upper_bound(3, 40)
    assert figures["upper95"]["killed"] == upper_bound(0, 40)
    assert case["methods"]["immediate_exit"]["answered"] == 100


def test_faults_of_kicks_that_came_too_late_are_shares_of_all(tmp_path: Path) -> None:
    case = case_of(tmp_path, fates={"sigmask": {"lost": 30}}, met=0.1)
    figures = case["methods"]["sigmask"]
    assert figures["upper95"]["lost"] == upper_bound(30, 100)
    assert figures["upper95"]["late"] == upper_bound(0, 10)


def test_without_a_kick_in_time_there_is_no_bound(tmp_path: Path) -> None:
    figures = case_of(tmp_path, met=0.0)["methods"]["sigmask"]
    assert set(figures["upper95"].values()) == set(figures["ci95"].values()) == {None}
    assert figures["latency_ns"]["p50"] > 0


def test_a_claim_holds_only_where_a_kick_must_be_answered(tmp_path: Path) -> None:
    claims = {
        moment: case_of(tmp_path / moment, moment)["methods"]["sigmask"]["race_free_claim"]
        for moment in MOMENTS
    }
    kept = {"thread_start", "entry", "first_run", "takeover"}
    assert claims == {moment: True if moment in kept else None for moment in MOMENTS}


def test_the_error_of_poisoned_vms_has_its_name(tmp_path: Path) -> None:
    case = case_of(tmp_path, fates={"sigmask": {"poisoned": 2}}, error=errno.ENOMEM)
    assert case["methods"]["sigmask"]["poisoned_by"] == "ENOMEM"
    assert case["methods"]["immediate_exit"]["poisoned_by"] is None


def test_the_faults_are_compared_between_runs(tmp_path: Path) -> None:
    run = build(tmp_path, fates={"sigmask": {"killed": 5}})
    found = {
        (point.method, point.metric): (point.count, point.of)
        for point in points(RunData.load(run).summary)
    }
    assert found["sigmask", "killed"] == (5, 100)
    assert found["sigmask", "poisoned"] == found["sigmask", "lost"] == (0, 100)


# --- words --------------------------------------------------------------------------------------


def test_a_sound_run_says_how_sure_it_is(tmp_path: Path) -> None:
    (line, *_) = said_of(tmp_path, "entry", "first_run")
    assert line.startswith("Fresh VMs kicked at protocol entry and in its first KVM_RUN: of 400")
    assert "none was late, lost or refused, killed the VMM or poisoned the VM; at most " in line
    assert "5.9 % at protocol entry and 5.9 % in its first KVM_RUN could be" in line


def test_the_moments_of_a_fault_have_one_alarm(tmp_path: Path) -> None:
    fates = {"sigmask": {"poisoned": 7, "killed": 4}}
    run = build(tmp_path, "entry", "first_run", "thread_end", fates=fates, error=errno.ENOMEM)
    poisoned, killed = verdict(RunData.load(run).summary).alarms
    assert poisoned.startswith(
        "A kick POISONED the VM, at protocol entry: 7 of 100 (sigmask); in its first KVM_RUN: 7 of "
        "100 (sigmask); when its thread ends: 7 of 100 (sigmask). Every later KVM_RUN failed"
    )
    assert poisoned.count("bug of the kernel") == 1
    assert killed == (
        "A kick KILLED the VMM, at protocol entry: 4 of 100 (sigmask); in its first KVM_RUN: 4 of "
        "100 (sigmask)."
    )


def test_a_poisoned_vm_is_an_alarm_that_names_the_commit(tmp_path: Path) -> None:
    (alarm, answer, *_) = said_of(tmp_path, fates={"sigmask": {"poisoned": 7}}, error=errno.ENOMEM)
    assert alarm.startswith("A kick POISONED the VM, in its first KVM_RUN: 7 of 100 (sigmask).")
    assert "Every later KVM_RUN failed (ENOMEM)." in alarm
    assert "Linux 6.14" in alarm
    assert "916b7f42b3b3" in alarm
    assert "fewer vCPUs" not in alarm
    assert "7 of 100 (sigmask)" in answer


def test_a_vm_that_is_poisoned_otherwise_names_its_error_alone(tmp_path: Path) -> None:
    (alarm, *_) = said_of(tmp_path, fates={"sigmask": {"poisoned": 1}}, error=errno.EBADF)
    assert "Every later KVM_RUN failed (EBADF)." in alarm
    assert "6.14" not in alarm


def test_a_kick_that_kills_is_an_alarm_where_it_must_be_answered(tmp_path: Path) -> None:
    fates = {"sigmask": {"killed": 4}}
    (alarm, *_) = said_of(tmp_path / "a", "takeover", fates=fates)
    assert alarm == (
        "A kick KILLED the VMM, when another thread takes it over: 4 of 100 (sigmask)."
    )
    assert not verdict(
        RunData.load(build(tmp_path / "b", "no_handler", fates=fates)).summary
    ).alarms


def test_a_lost_kick_is_an_alarm_where_it_must_be_answered(tmp_path: Path) -> None:
    fates = {"sigmask": {"lost": 4}}
    (alarm, *_) = said_of(tmp_path / "a", "thread_start", fates=fates)
    assert alarm == (
        "sigmask claims to be race-free, but LOST 4 of 100 kicks sent when its thread starts, "
        "1 vCPU, local."
    )
    assert not verdict(RunData.load(build(tmp_path / "b", "stale", fates=fates)).summary).alarms


def test_the_moments_at_which_nobody_may_kick_say_why(tmp_path: Path) -> None:
    fates = {method: {"killed": 100} for method in METHODS}
    said = " ".join(said_of(tmp_path / "a", "no_handler", fates=fates))
    assert "(tgkill): of 200 kicks, 200 were fatal: the signal killed the VMM." in said
    fates = {method: {"lost": 40, "refused": 60} for method in METHODS}
    summary = RunData.load(build(tmp_path / "b", "thread_end", fates=fates)).summary
    said = " ".join(answer_lifecycle(summary, ()))
    assert "of 200 kicks, 80 were lost and 120 were refused." in said
    assert "wait for the thread's end as well" in said


def test_too_few_vms_are_told(tmp_path: Path) -> None:
    cases = [synthetic_run.lifecycle_case(methods=METHODS, vms=101, processes=1)]
    summary = RunData.load(synthetic_run.build(tmp_path, cases=cases, rounds=50)).summary
    assert [note for note in notes(summary) if "wanted number of kicks" in note.text]


def test_kvm_run_that_fails_with_enomem_names_the_commit_in_every_kind() -> None:
    text = describe(Failure(vcpu=0, kicker=-1, error=errno.ENOMEM), 1, 1)
    assert "KVM_RUN failed: Cannot allocate memory (ENOMEM)" in text
    assert "916b7f42b3b3" in text
    entering = Failure(vcpu=0, kicker=-1, error=errno.ENOMEM, entering=1)
    assert "916b7f42b3b3" not in describe(entering, 1, 1)


# --- a summary that is read ----------------------------------------------------------------------

ODD: list[tuple[tuple[Any, ...], Any, str]] = [
    (("met",), 101, "as many as were sent"),
    (("answered",), 5, "as many as were sent"),
    (("upper95", "lost"), None, "upper95.lost must be there"),
    (("upper95", "lost"), 0.001, "be above the share"),
    (("ci95", "lost"), None, "ci95.lost must be there"),
    (("ci95", "lost"), [0.5, 0.6], "ci95.lost"),
    (("poisoned_by",), "ENOMEM", "poisoned_by must be there"),
    (("killed",), -1, "killed"),
]


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = build(tmp_path_factory.mktemp("stripped"), fates={"sigmask": {"lost": 3}})
    document = write_summary(run)
    shutil.rmtree(run / "cases")
    return run, document


def test_a_run_without_tables_has_all_of_it(stripped: tuple[Path, dict[str, Any]]) -> None:
    run, document = stripped
    (run / "summary.json").write_text(json.dumps(document))
    (case,) = RunData.load(run).summary["cases"]
    assert case["methods"] == document["cases"][0]["methods"]


@pytest.mark.parametrize(("path", "value", "message"), ODD)
def test_an_odd_summary_without_tables_is_refused(
    stripped: tuple[Path, dict[str, Any]], path: tuple[Any, ...], value: Any, message: str
) -> None:
    run, document = stripped
    odd = copy.deepcopy(document)
    place = odd["cases"][0]["methods"]["sigmask"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (run / "summary.json").write_text(json.dumps(odd))
    with pytest.raises(ResultsError) as error:
        RunData.load(run)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
