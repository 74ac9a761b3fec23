# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other from Python: the verdicts of ``kickbench compare`` as a frame."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import synthetic_run

import kickbench
from kickbench.errors import ResultsError
from kickbench.fleet.files import Files
from kickbench.fleet.store import add_run
from kickbench.summary.data import RunData


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    cases = [synthetic_run.case(2), synthetic_run.race_case()]
    return [
        synthetic_run.build(folder / str(shift), cases=cases, shift_ns=shift, rounds=12)
        for shift in (0.0, 400.0)
    ]


def test_a_comparison_has_a_row_for_each_figure(runs: list[Path]) -> None:
    comparison = kickbench.compare(*runs)
    frame = comparison.frame()
    assert len(frame) == len(comparison.judged)
    worse = frame[frame["verdict"] == "worse"]
    assert len(worse) == len(comparison.regressions) > 0
    assert set(worse["method"]) == {"sigmask"}
    assert (worse.loc[worse["unit"] == "ns", "family_low"] > 0).all()
    for base, other, diff in zip(frame["base"], frame["other"], frame["diff"], strict=True):
        assert diff == pytest.approx(other - base)
    for name in ("base", "other"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    assert (frame["low"] <= frame["high"]).all()
    assert set(frame["unit"]) <= {"ns", "1/s", "share"}
    assert isinstance(frame["case"].dtype, pd.CategoricalDtype)


def test_runs_and_their_folders_compare_alike(runs: list[Path]) -> None:
    base, other = map(kickbench.read, runs)
    of_runs = kickbench.compare(base, other).frame()
    pd.testing.assert_frame_equal(of_runs, kickbench.compare(runs[0], str(runs[1])).frame())


def test_the_minimal_effect_can_be_chosen(runs: list[Path]) -> None:
    frame = kickbench.compare(*runs, min_effect=100.0).frame()
    assert not (frame["baseline"].isna() & (frame["verdict"] == "worse")).any()


def test_runs_of_different_scenarios_are_refused(runs: list[Path], tmp_path: Path) -> None:
    third = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2)], scenario_name="third")
    with pytest.raises(ResultsError, match="different scenarios"):
        kickbench.compare(runs[0], third)


@pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="needs kickbench[fleet]")
def test_a_store_answers(runs: list[Path], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    add_run(Files(store), RunData.load(runs[0]))
    found = kickbench.query(store, "SELECT host, count(*) AS runs FROM runs GROUP BY host")
    assert found.to_dict("list") == {"host": ["testhost"], "runs": [1]}
