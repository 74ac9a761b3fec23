# SPDX-License-Identifier: Apache-2.0
"""A measurement from Python, on real KVM: its run, its progress, and how it ends early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sshd

import kickbench
from kickbench.errors import HostError, ScenarioError, UsageError

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "vm": {"vcpus": [1, 2]},
    "guest": {"program": "pm_timer"},
    "measure": {
        "methods": ["sigmask", "immediate_exit"],
        "processes": 1,
        "max_seconds": 60.0,
        "precision": 1.0,
    },
}


@pytest.mark.kvm
def test_a_run_says_how_it_advances_and_gives_its_figures(tmp_path: Path) -> None:
    seen: list[kickbench.Progress] = []
    run = kickbench.run(SCENARIO, results=tmp_path, progress=seen.append)
    assert run.path.parent.parent == tmp_path
    assert run.scenario["name"] == "tiny"
    assert [case["status"] for case in run.cases.values()] == ["ok", "ok"]
    assert set(run.blocks()["method"]) == {"sigmask", "immediate_exit"}
    assert set(run.figures()["case"]) == set(run.cases)
    ends = [(one.case, one.number, one.cases) for one in seen if one.state == "stored"]
    assert ends == [(case, number, 2) for number, case in enumerate(run.cases, 1)]
    for case in run.cases:
        of_case = [one for one in seen if one.case == case]
        states = [one.state for one in of_case]
        assert (states[0], states[-1]) == ("begins", "stored")
        assert set(states[1:-1]) == {"advances"}
        rounds = [one.rounds for one in of_case]
        assert rounds == sorted(rounds)
        assert rounds[-1] > 0
        assert {one.folder for one in of_case} == {run.path}


@pytest.mark.kvm
def test_a_run_needs_no_main_thread(tmp_path: Path) -> None:
    runs: list[kickbench.Run] = []
    _call(lambda: runs.append(kickbench.run(SCENARIO, results=tmp_path, quick=True)), True)
    assert [case["status"] for case in runs[0].cases.values()] == ["ok", "ok"]


def _call(measure: Callable[[], None], in_thread: bool) -> None:
    if in_thread:
        thread = threading.Thread(target=measure)
        thread.start()
        thread.join()
    else:
        measure()


class _EnoughError(Exception):
    pass


@pytest.mark.kvm
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("state", ["advances", "stored"])
def test_an_exception_of_progress_ends_the_run_and_keeps_what_is_finished(
    tmp_path: Path, state: str, in_thread: bool
) -> None:
    def progress(now: kickbench.Progress) -> None:
        if now.state == state and now.number == (1 if state == "stored" else 2):
            raise _EnoughError

    found: list[BaseException] = []

    def measure() -> None:
        try:
            kickbench.run(SCENARIO, results=tmp_path, progress=progress)
        except _EnoughError as error:
            found.append(error)

    before = signal.getsignal(signal.SIGINT)
    _call(measure, in_thread)
    assert len(found) == 1
    assert signal.getsignal(signal.SIGINT) is before
    run = kickbench.read(next(tmp_path.glob("tiny/*")))
    assert [case["status"] for case in run.cases.values()] == ["ok", "pending"]


@pytest.mark.kvm
def test_an_interrupted_run_says_how_it_is_continued_and_leaves_signals_as_they_were(
    tmp_path: Path,
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def progress(now: kickbench.Progress) -> None:
        if now.state == "advances":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="continue with kickbench run --resume"):
        kickbench.run(SCENARIO, results=tmp_path, progress=progress)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.kvm
@pytest.mark.parametrize("in_thread", [False, True])
def test_another_host_measures_and_the_run_is_here(
    box: sshd.Sshd, tmp_path: Path, in_thread: bool
) -> None:
    seen: list[kickbench.Progress] = []
    runs: list[kickbench.Run] = []

    def measure() -> None:
        options: dict[str, Any] = {"quick": True, "progress": seen.append}
        runs.append(kickbench.run(SCENARIO, results=tmp_path, host="box", **options))

    _call(measure, in_thread)
    (run,) = runs
    assert run.path.parent.parent == tmp_path
    assert [case["status"] for case in run.cases.values()] == ["ok", "ok"]
    assert [one.case for one in seen if one.state == "stored"] == list(run.cases)
    assert any((box.cache / "kickbench/agent").iterdir())  # an agent measured
    assert not box.runs  # nothing is left there


@pytest.mark.kvm
def test_a_run_on_another_host_is_continued_there(box: sshd.Sshd, tmp_path: Path) -> None:
    def progress(now: kickbench.Progress) -> None:
        if now.state == "advances":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"run --resume .* --host box"):
        kickbench.run(SCENARIO, results=tmp_path, host=box.host, progress=progress)


def test_a_host_that_cannot_be_reached_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="is no host"):
        kickbench.run(SCENARIO, results=tmp_path, host="-oProxyCommand=true")
    monkeypatch.setenv("KICKBENCH_SSH", "false")
    with pytest.raises(HostError, match="box"):
        kickbench.run(SCENARIO, results=tmp_path, host="box")
    assert not list(tmp_path.iterdir())


@pytest.mark.kvm
def test_a_host_that_can_run_nothing_of_it_is_an_error(tmp_path: Path) -> None:
    nowhere = {**SCENARIO, "placement": [{"name": "nowhere", "vcpus": "node:999"}]}
    with pytest.raises(HostError, match="no node 999"):
        kickbench.run(nowhere, results=tmp_path)


def test_a_scenario_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="methods"):
        kickbench.run({**SCENARIO, "measure": {"methods": ["sigmsk"]}}, results=tmp_path)
    with pytest.raises(ScenarioError, match="no such file"):
        kickbench.run("nothing_like_it", results=tmp_path)
