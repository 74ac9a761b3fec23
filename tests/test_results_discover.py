# SPDX-License-Identifier: Apache-2.0
"""``kickbench show PATH``: which run a path means."""

from __future__ import annotations

import datetime
import shutil

import pytest
import synthetic_run

from kickbench.errors import ResultsError
from kickbench.results.discover import find_run

CASES = [synthetic_run.case(1, rate=100.0)]


def build(path, hour, scenario_name="one", **other):
    now = synthetic_run.NOW + datetime.timedelta(hours=hour)
    return synthetic_run.build(path, cases=CASES, now=now, scenario_name=scenario_name, **other)


def test_a_run_folder_means_itself_finished_or_not(tmp_path):
    run = build(tmp_path, 0, finish=False)
    assert find_run(run) == run
    assert find_run(str(run)) == run


def test_a_scenario_folder_means_its_newest_finished_run(tmp_path):
    build(tmp_path, 0)
    newest = build(tmp_path, 2)
    build(tmp_path, 1)
    build(tmp_path, 3, finish=False)
    build(tmp_path, 4, scenario_name="two")
    assert find_run(tmp_path / "one") == newest


def test_the_results_folder_means_the_newest_of_all_scenarios(tmp_path):
    build(tmp_path, 0, host="zzz")
    newest = build(tmp_path, 2, scenario_name="a", host="aaa")
    build(tmp_path, 1, scenario_name="z")
    assert find_run(tmp_path) == newest


def test_damaged_runs_are_passed_over(tmp_path):
    good = build(tmp_path, 0)
    bad = build(tmp_path, 1)
    (bad / "manifest.json").write_text("{")
    assert find_run(tmp_path) == good


def test_only_unfinished_runs_are_named(tmp_path):
    run = build(tmp_path, 0, finish=False)
    with pytest.raises(ResultsError, match=f"no finished run.*--resume {run}"):
        find_run(tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="does not exist"):
        find_run(tmp_path / "absent")
    with pytest.raises(ResultsError, match="it is a file"):
        find_run(tmp_path / "file")
    with pytest.raises(ResultsError, match="no run is below it"):
        find_run(tmp_path)
    run = build(tmp_path, 0)
    (run / "manifest.json").write_text("{")
    with pytest.raises(
        ResultsError, match="no run that can be read; name one run's folder to see why"
    ):
        find_run(tmp_path)
    shutil.rmtree(run)
    with pytest.raises(ResultsError, match="no run is below it"):
        find_run(tmp_path)
