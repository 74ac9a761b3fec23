# SPDX-License-Identifier: Apache-2.0
"""Exact counts: of a clock that counts instructions only, and what most samples have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.results.counts import count, read_counts
from kickbench.results.store import RunReader
from kickbench.results.summary import summarise


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_a_count_is_the_most_frequent_value(values: list[int]) -> None:
    found = count(np.array(values, np.uint32))
    assert values.count(found.instructions) == max(values.count(value) for value in values)
    assert found.share == values.count(found.instructions) / len(values)
    assert found.least == min(values)
    assert found.samples == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values))


def build(folder: Path, **arguments: bool) -> RunReader:
    cases = [synthetic_run.case(1), synthetic_run.kick_case("halted"), synthetic_run.race_case()]
    return RunReader(synthetic_run.build(folder, cases=cases, rounds=4, **arguments))


def test_a_clock_that_counts_gives_counts_by_what_it_counted(tmp_path: Path) -> None:
    reader = build(tmp_path, emulated=True, counts_instructions=True)
    exits, kicks, race = reader.cases
    assert {tuple(found) for found in read_counts(reader, exits).values()} == {("exit",)}
    found = read_counts(reader, kicks)
    # sigmask has no handler, and so no delivery.
    assert list(found["sigmask"]) == ["kick", "send"]
    assert list(found["immediate_exit"]) == ["kick", "send", "delivery"]
    assert read_counts(reader, race) == {}
    summary = summarise(reader)
    assert summary["counts_instructions"] is True
    told = summary["cases"][1]["methods"]["sigmask"]["counts"]["kick"]
    assert told == vars(found["sigmask"]["kick"])
    assert "counts" not in summary["cases"][2]["methods"]["sigmask"]


@pytest.mark.parametrize(("emulated", "counts"), [(True, False), (False, True), (False, False)])
def test_any_other_clock_gives_none(tmp_path: Path, emulated: bool, counts: bool) -> None:
    reader = build(tmp_path, emulated=emulated, counts_instructions=counts)
    assert [read_counts(reader, case) for case in reader.cases] == [{}, {}, {}]
    summary = summarise(reader)
    assert summary["counts_instructions"] is False
    methods = [m for case in summary["cases"] for m in case["methods"].values()]
    assert not any("counts" in figures for figures in methods)


def test_the_control_is_not_among_the_samples(tmp_path: Path) -> None:
    reader = build(tmp_path, emulated=True, counts_instructions=True)
    case = reader.cases[1]
    table = reader.table(case.id, "kicks").to_pandas()
    mine = table[(table["method"] == "immediate_exit") & ~table["control"]]
    found = read_counts(reader, case)["immediate_exit"]
    assert found["send"].samples == int((mine["met"] & ~mine["lost"]).sum())
