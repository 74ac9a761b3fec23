# SPDX-License-Identifier: Apache-2.0
"""What a prediction starts from, and what it says."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import ResultsError, UsageError
from kickbench.methods import CATALOGUE, Lock
from kickbench.report.figures.prediction import draw_predictions
from kickbench.report.words.prediction import answer, rows
from kickbench.summary.data import RunData
from kickbench.summary.prediction import (
    NODES,
    VCPUS,
    Basis,
    Level,
    bases,
    missing,
    points,
    predict,
)

METHODS = ("sigmask", "sigmask_same", "immediate_exit")


def exact(value: float) -> Level:
    return Level(value, value, value)


BASIS = Basis(
    case="exits",
    method="sigmask",
    control="sigmask_same",
    isolates="siglock",
    lock=Lock(takings=2, instructions=42, held=34),
    exit_rate_hz=None,
    variation=0.1,
    exit_ns=exact(1000.0),
    lock_ns=exact(42.0),
    same_node_ns=exact(100.0),
    other_node_ns=exact(300.0),
    assumed=False,
    measured={1: exact(42.0)},
)


def one(basis: Basis, vcpus: int, nodes: int = 1) -> Level:
    (found,) = predict(basis, [(vcpus, nodes)])
    return found.ns


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    cases = [
        *(synthetic_run.case(n, methods=METHODS) for n in (1, 2, 4)),
        synthetic_run.handover_case(processes=3),
    ]
    arguments = {"cpus": 8, "nodes": 2, "siblings": True}
    return RunData.load(
        synthetic_run.build(
            tmp_path_factory.mktemp("run"), cases=cases, handover=arguments, rounds=20
        )
    )


def test_a_run_with_both_kinds_is_a_basis(run: RunData) -> None:
    (basis,) = bases(run.summary)
    assert missing(run.summary) == ""
    assert (basis.method, basis.control, basis.isolates) == ("sigmask", "sigmask_same", "siglock")
    assert basis.lock == CATALOGUE["sigmask_same"].lock
    assert basis.same_node_ns.low <= synthetic_run.HANDOVER_NS["same_node"] * 1.05
    assert basis.other_node_ns is not None
    assert basis.other_node_ns.value > 2 * basis.same_node_ns.value
    assert sorted(basis.measured) == [1, 2, 4]
    case = next(case for case in run.summary["cases"] if case["vcpus"] == 1)
    (part,) = [
        contrast
        for contrast in case["contrasts"]
        if contrast["baseline"] == "sigmask_same" and contrast["metric"] == "quiet_ns_per_exit"
    ]
    assert basis.lock_ns == Level(part["diff"], *part["ci95"])


def without(summary: Any, **changes: Any) -> Any:
    """A copy of the summary in which the cases of these kinds are as given."""
    found = copy.deepcopy(dict(summary))
    for case in found["cases"]:
        case.update(changes.get(case["kind"], {}))
    return found


def test_exits_vary_as_the_gaps_that_were_recorded(run: RunData) -> None:
    paced = {"exit_rate_hz": 1000.0, "arrival": "recorded", "gaps_us": [2.0, 4.0, 6.0]}
    (basis,) = bases(without(run.summary, exits=paced))
    assert basis.variation == pytest.approx(math.sqrt(8 / 3) / 4)
    (basis,) = bases(without(run.summary, exits={**paced, "gaps_us": [1.0] * 99 + [1e5]}))
    assert basis.variation == 1.0


def test_what_is_missing_is_said(run: RunData) -> None:
    assert "1 vCPU" in missing(without(run.summary, exits={"status": "failed"}))
    assert "1 vCPU" in missing(without(run.summary, exits={"kick_rate_hz": 1000.0}))
    assert "hand-overs of a cache line" in missing(
        without(run.summary, handover={"status": "skipped"})
    )
    nothing = {"value": None, "ci95": None}
    medians = {"medians": dict.fromkeys(("siblings", "same_node", "other_node"), nothing)}
    assert "two cores of one node" in missing(without(run.summary, handover={"handover": medians}))
    assert "no interval" in missing(without(run.summary, exits={"contrasts": []}))
    for changes in ({"exits": {"contrasts": []}}, {"handover": {"status": "failed"}}):
        assert bases(without(run.summary, **changes)) == []


def test_an_emulated_run_says_nothing_of_a_line(run: RunData) -> None:
    emulated = {**run.summary, "emulated": True}
    assert bases(emulated) == bases(run.summary, emulated) == []
    assert "emulated" in missing(emulated)


def test_guests_that_hardly_ran_are_no_basis(run: RunData) -> None:
    still = {"what": "stood_still", "method": "sigmask_same"}
    assert bases(without(run.summary, exits={"findings": [still]})) == []


def test_vcpus_on_several_nodes_check_nothing(run: RunData) -> None:
    anywhere = {"placement_spec": {"name": "local", "vcpus": "any"}}
    (basis,) = bases(without(run.summary, exits=anywhere))
    assert basis.measured == {}


def test_hand_overs_may_be_of_another_run(run: RunData) -> None:
    exits = {**run.summary, "cases": [c for c in run.summary["cases"] if c["kind"] == "exits"]}
    assert bases(exits) == []
    assert bases(exits, run.summary) == bases(run.summary)


def test_a_time_between_nodes_that_the_user_gives(run: RunData) -> None:
    (basis,) = bases(run.summary, other_node_ns=1234.0)
    assert basis.other_node_ns == exact(1234.0)
    assert basis.assumed
    said = " ".join(answer(run.summary, basis, list(predict(basis, [(64, 2)]))))
    assert "1,234 ns between nodes, as you say" in said


def test_one_vcpu_is_as_measured() -> None:
    assert one(BASIS, 1) == BASIS.lock_ns


def test_with_rare_exits_nobody_waits_but_the_line_travels() -> None:
    """The first taking of an exit fetches the line. The second one has it still."""
    rare = replace(BASIS, exit_rate_hz=10.0)
    assert one(rare, 64).value == pytest.approx(42 + 50 * 63 / 64, rel=0.05)
    assert one(rare, 64, 8).value == pytest.approx(42 + (50 * 7 + 150 * 56) / 64, rel=0.05)


def test_with_many_vcpus_the_lock_is_all_that_counts() -> None:
    """Each of two takings waits for all others: hold, and two hand-overs each. The exit overlaps.

    The cost is the length of the queue less what a vCPU does meanwhile.
    """
    hold_ns = 42 / 2 * 34 / 42
    found = one(BASIS, 1024).value
    assert found == pytest.approx(2 * 1024 * (hold_ns + 200) - 1000, rel=0.02)


def test_a_line_that_takes_no_time_leaves_the_hold_and_the_time_away() -> None:
    """Both times away from the lock, until the second taking and until the next exit, count."""
    hold_ns = 42 / 2 * 34 / 42
    found = one(replace(BASIS, same_node_ns=exact(0.0), variation=0.0), 128).value
    assert found == pytest.approx(2 * 128 * hold_ns - 1000, rel=0.01)


def test_an_exit_of_which_hardly_anything_is_known() -> None:
    """Some draws are no time at all."""
    vague = replace(BASIS, exit_ns=Level(1.0, -1e5, 1e5), lock_ns=Level(1.0, -1e5, 1e5))
    found = one(vague, 8)
    assert 0 <= found.low <= found.value <= found.high


@settings(max_examples=30, deadline=None)
@given(
    vcpus=st.sampled_from(VCPUS[1:8]),
    nodes=st.sampled_from(NODES),
    rate=st.sampled_from([None, 1e3, 2e4, 1e6]),
)
def test_more_vcpus_and_more_nodes_do_not_cost_less(
    vcpus: int, nodes: int, rate: float | None
) -> None:
    basis = replace(BASIS, exit_rate_hz=rate, variation=1.0 if rate else 0.1)
    nodes = min(nodes, vcpus)
    found = one(basis, vcpus, nodes)
    hold_ns = 42 / 2 * 34 / 42
    assert 0.99 * 42 <= found.low <= found.value <= found.high
    assert found.high <= 1.01 * (42 + 2 * vcpus * (hold_ns + 2 * (300 if nodes > 1 else 100)))
    assert one(basis, 2 * vcpus, nodes).high >= found.low
    assert found.high >= one(basis, vcpus).low


def test_what_the_inputs_do_not_know_is_in_the_interval() -> None:
    vague = replace(BASIS, same_node_ns=Level(100.0, 50.0, 150.0))
    sharp, wide = one(BASIS, 64), one(vague, 64)
    assert wide.low < sharp.low < sharp.high < wide.high
    assert one(vague, 64) == wide  # the same in every run


def test_nodes_that_nobody_knows_are_left_out() -> None:
    near = replace(BASIS, other_node_ns=None)
    assert {nodes for _, nodes in points(near, VCPUS, NODES)} == {1}
    known = points(BASIS, VCPUS, NODES)
    assert (4, 4) in known
    assert (3, 1) in points(replace(BASIS, measured={3: exact(1.0)}), VCPUS, NODES)
    assert (4, 8) not in known


def test_the_words_say_what_was_not_measured(run: RunData) -> None:
    (basis,) = bases(run.summary)
    found = list(predict(basis, points(basis, (1, 4, 16), (1, 2))))
    first, limit, basis_words, *checks = answer(run.summary, basis, found)
    assert first.startswith(
        "Predicted, not measured: with 16 vCPUs at full speed, siglock costs each"
    )
    assert " ns on 1 node and " in first
    assert limit == "On 1 node it takes longer than the rest of the exit with 16 vCPUs or more."
    assert "between nodes, as measured" in basis_words
    assert [check.partition(":")[0] for check in checks] == [
        "Check with 2 vCPUs",
        "Check with 4 vCPUs",
    ]
    head, *others = rows(found, basis)
    assert head == ("vCPUs", "nodes", "predicted", "measured")
    places = [("1", "1"), ("2", "1"), ("4", "1"), ("16", "1"), ("4", "2"), ("16", "2")]
    assert [row[:2] for row in others] == places
    assert [bool(row[3]) for row in others] == [True, True, True, False, False, False]
    many = list(predict(BASIS, [(1, 1), (64, 1), (1024, 1)]))
    said, limit, *_ = answer(run.summary, BASIS, many)
    assert "with 64 vCPUs at full speed" in said
    assert limit == ("On 1 node it takes longer than the rest of the exit with 64 vCPUs or more.")
    unchecked = replace(basis, measured={1: basis.lock_ns})
    assert "Nothing checks it" in answer(run.summary, unchecked, found)[-1]


def test_intervals_that_do_not_overlap_are_said_to(run: RunData) -> None:
    wrong = replace(BASIS, measured={4: Level(9e6, 8.9e6, 9.1e6)})
    said = answer(run.summary, wrong, list(predict(wrong, [(4, 1)])))[-1]
    assert said.endswith("ns too low, and the intervals do not overlap.")


def test_the_figure_has_predictions_and_measurements_apart(run: RunData) -> None:
    (plot,) = draw_predictions(run)
    assert "predicted, not measured" in plot.title
    assert plot.finding.startswith("Predicted, not measured:")
    assert plot.scales == ("logarithmic", "linear")
    exits = {**run.summary, "cases": [c for c in run.summary["cases"] if c["kind"] == "exits"]}
    assert draw_predictions(replace(run, summary=exits)) == []


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_the_command(run: RunData) -> None:
    done = call(run.reader.path, "--vcpus", "1,4,64", "--nodes", "1-2")
    assert done.exit_code == 0, done.output
    assert "siglock in ns per exit, full speed:" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("  ")]) == 7
    done = call(run.reader.path, "--vcpus", "64", "--nodes", "1", "--json")
    (found,) = json.loads(done.stdout)["predictions"]
    assert [(one["vcpus"], one["nodes"]) for one in found["predicted"]] == [(2, 1), (4, 1), (64, 1)]
    point = found["predicted"][-1]
    low, high = point["ns_per_exit"]["ci95"]
    assert low <= point["ns_per_exit"]["value"] <= high
    assert [one["vcpus"] for one in found["measured"]] == [1, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vcpus", "0"], "--vcpus takes numbers from 1 to 4,096"),
        (["--vcpus", "5000"], "--vcpus takes"),
        (["--vcpus", "many"], "--vcpus takes"),
        (["--nodes", ""], "--nodes takes"),
        (["--nodes", "65"], "--nodes takes numbers from 1 to 64"),
        (["--other-node-ns", "0"], "above 0"),
        (["--other-node-ns", "nan"], "above 0"),
        (["--vcpus", "1", "--nodes", "2"], "none of these numbers"),
        (["--vcpus", "1-300"], "at most 200 are simulated"),
    ],
)
def test_bad_options(run: RunData, arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        raise call(run.reader.path, *arguments).exception


def test_a_run_without_what_it_takes(tmp_path: Path) -> None:
    path = synthetic_run.build(tmp_path, cases=[synthetic_run.case(1, methods=METHODS)])
    with pytest.raises(ResultsError, match="hand-overs") as raised:
        raise call(path).exception
    assert "siglock_prediction" in str(raised.value)


def test_nodes_that_the_run_does_not_know(tmp_path: Path) -> None:
    cases = [synthetic_run.case(1, methods=METHODS), synthetic_run.handover_case(processes=3)]
    path = synthetic_run.build(tmp_path, cases=cases, handover={"cpus": 4, "nodes": 1}, rounds=20)
    with pytest.raises(UsageError, match="--other-node-ns"):
        raise call(path, "--nodes", "2,4").exception
    assert call(path, "--nodes", "2,4", "--vcpus", "8", "--other-node-ns", "250").exit_code == 0


def test_runs_of_two_hosts(run: RunData, tmp_path: Path) -> None:
    path = synthetic_run.build(tmp_path, cases=[synthetic_run.handover_case()], handover={})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["environment"]["cpu"]["model"] = "Another CPU"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultsError, match="different hosts"):
        raise call(run.reader.path, "--handovers", path).exception
