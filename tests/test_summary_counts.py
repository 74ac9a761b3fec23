# SPDX-License-Identifier: Apache-2.0
"""Exact counts: of a clock that counts instructions only, and what most samples have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.compare.metrics import METRICS, Point, points
from kickbench.lab.counts import counts
from kickbench.results.reader import RunReader
from kickbench.summary.counts import count, read_counts
from kickbench.summary.summarise import summarise


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_a_count_is_the_most_frequent_value(values: list[int]) -> None:
    found = count(np.array(values, np.uint32))
    assert values.count(found.instructions) == max(values.count(value) for value in values)
    assert found.share == values.count(found.instructions) / len(values)
    assert found.least == min(values)
    assert found.samples == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values))


def build(folder: Path, **arguments: int) -> RunReader:
    cases = [synthetic_run.case(1), synthetic_run.kick_case("halted"), synthetic_run.race_case()]
    return RunReader(synthetic_run.build(folder, cases=cases, rounds=4, **arguments))


def test_a_clock_that_counts_gives_counts_by_what_it_counted(tmp_path: Path) -> None:
    reader = build(tmp_path, emulated=True, count_step=1)
    exits, kicks, race = reader.cases
    assert {tuple(found) for found in read_counts(reader, exits).values()} == {("exit",)}
    found = read_counts(reader, kicks)
    # sigmask has no handler, and so no delivery.
    assert list(found["sigmask"]) == ["kick", "send"]
    assert list(found["immediate_exit"]) == ["kick", "send", "delivery"]
    assert read_counts(reader, race) == {}
    summary = summarise(reader)
    assert (summary["counts_instructions"], summary["count_step"]) == (True, 1)
    told = summary["cases"][1]["methods"]["sigmask"]["counts"]["kick"]
    assert told == vars(found["sigmask"]["kick"])
    assert "counts" not in summary["cases"][2]["methods"]["sigmask"]


@pytest.mark.parametrize(("emulated", "step"), [(True, 0), (False, 1), (False, 5)])
def test_any_other_clock_gives_none(tmp_path: Path, emulated: bool, step: int) -> None:
    reader = build(tmp_path, emulated=emulated, count_step=step)
    assert [read_counts(reader, case) for case in reader.cases] == [{}, {}, {}]
    summary = summarise(reader)
    assert (summary["counts_instructions"], summary["count_step"]) == (False, 0)
    methods = [m for case in summary["cases"] for m in case["methods"].values()]
    assert not any("counts" in figures for figures in methods)


def judged(summary: dict[str, Any]) -> list[Point]:
    return [point for point in points(summary) if METRICS[point.metric].unit == "instructions"]


def test_a_clock_that_counts_in_steps_is_told_but_not_judged_as_exact(tmp_path: Path) -> None:
    for step in (1, 5):
        run = synthetic_run.build(
            tmp_path / str(step),
            cases=[synthetic_run.case(1)],
            rounds=4,
            emulated=True,
            count_step=step,
        )
        (path,) = run.rglob("exit_samples.parquet")
        table = pq.read_table(path)
        place = table.column_names.index("cycles")
        cycles = pa.array(np.full(len(table), 2520, np.uint32))
        pq.write_table(table.set_column(place, table.field("cycles"), cycles), path)
        summary = summarise(RunReader(run))
        found = summary["cases"][0]["methods"]["sigmask"]["counts"]["exit"]
        assert (found["instructions"], found["share"], found["step"]) == (2520, 1.0, step)
        assert {row.count.step for row in counts(run)} == {step}
        assert bool(judged(summary)) == (step == 1)


def test_a_run_that_does_not_say_its_step_counted_each_instruction(tmp_path: Path) -> None:
    run = build(tmp_path, emulated=True, count_step=1).path
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["count_step"]
    path.write_text(json.dumps(manifest))
    assert RunReader(run).count_step == 1
    del manifest["counts_instructions"]
    path.write_text(json.dumps(manifest))
    assert RunReader(run).count_step == 0


def test_the_control_is_not_among_the_samples(tmp_path: Path) -> None:
    reader = build(tmp_path, emulated=True, count_step=1)
    case = reader.cases[1]
    table = reader.table(case.id, "kicks").to_pandas()
    mine = table[(table["method"] == "immediate_exit") & ~table["control"]]
    found = read_counts(reader, case)["immediate_exit"]
    assert found["send"].samples == int((mine["met"] & ~mine["lost"]).sum())
