# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind nested, from the scenario to the summary, with a guest that is made up.

The guest itself is tested in test_nested_guest.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from arrays import as_array, dtype_of

from kickbench.engine.engine import Clock
from kickbench.errors import HostError, MeasurementError
from kickbench.host.capabilities import Capabilities
from kickbench.host.topology import Topology
from kickbench.nested import guest as nested_guest
from kickbench.nested.entries import Entries
from kickbench.records import Records
from kickbench.results.reader import RunReader
from kickbench.run import foreman, machine, runner, schedule, worker
from kickbench.run import nested as run_nested
from kickbench.run.nested import FIRST_ORDER, NESTED, NestedBench, NestedRecorder
from kickbench.run.plan import plan
from kickbench.run.progress import PlainProgress
from kickbench.run.worker import Order
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import ITERATIONS, NESTED_BASELINE
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand

ABLE = Capabilities(
    path="/dev/kvm", present=True, usable=True, irqchip=True, max_vcpus=8, nested=None
)
TOPOLOGY = Topology.read()
WHY_NOT = "this KVM cannot run nested guests: it has no nested state (KVM_CAP_NESTED_STATE)"


def scenario(**measure: Any) -> Scenario:
    return Scenario.from_dict(
        {
            "name": "n",
            "vm": {"vcpus": 1},
            "guest": {"program": "spin"},
            "measure": {"kinds": ["nested"], "processes": 2, "max_seconds": 0.4, **measure},
            "nested": {"iterations": FIRST_ORDER},
        }
    )


def case_of(text: Scenario) -> Case:
    return expand(text)[0]


class StubGuest:
    """Takes the place of a machine: round trips of 1,000 cycles for plain, 100 more for others."""

    nested_paging = True
    kicks = 3
    made: list[StubGuest] = []  # noqa: RUF012

    def __init__(self, _: object, **how: Any) -> None:
        self.how, self.runs, self.closed = how, [], False  # type: ignore[var-annotated]
        StubGuest.made.append(self)

    @property
    def vendor(self) -> str:
        """It is read from the guest's memory, which is gone with the machine."""
        assert not self.closed
        return "svm"

    def run(self, iteration: str, count: int) -> Records:
        self.runs.append((iteration, count))
        if failing and len(self.runs) == 4:
            raise MeasurementError(failing[0])
        rows = np.zeros(count, dtype_of(nested_guest.RECORD))
        rows["cycles"] = 1000 + 100 * (iteration != "plain")
        rows["exit_reason"] = 0x60
        rows["expected"] = 1
        if iteration == "asynchronous":
            rows["cycles"] += 50_000
            rows["work"] = 25_000
            rows["latency"] = 700
        if iteration == "pending":
            rows["injected"] = rows["delivered"] = 1
        rows["detail"] = 2**64 - 1
        return Records(nested_guest.RECORD, rows.tobytes())

    def entries(self, iteration: str, count: int) -> Entries | None:
        assert not self.runs  # before anything is timed
        assert iteration == "pending"
        return Entries(7 * count, count) if readable else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


failing: list[str] = []
readable: list[bool] = []
"""Not empty: the kernel's tracepoint can be read."""


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in this process, with the guest and the clock made up."""
    StubGuest.made, clock = [], Clock("tsc", 1e9, 20)
    failing.clear()
    readable.clear()
    monkeypatch.setattr(worker, "NestedGuest", StubGuest)
    monkeypatch.setattr(worker, "Kvm", nullcontext)
    monkeypatch.setattr(Clock, "choose", classmethod(lambda *_, **__: clock))
    monkeypatch.setattr(worker, "_asked_to_stop", lambda: False)


def order(case: Case, folder: Path, **changes: Any) -> Order:
    return replace(
        Order(
            case=case,
            process=0,
            vcpu_cpus=[[TOPOLOGY.affinity[0]]],
            kicker_cpus=[TOPOLOGY.affinity[-1]],
            max_seconds=0.2,
            folder=folder,
            runner_pid=0,
            protocols={},
        ),
        **changes,
    )


class InProcess:
    """Takes the place of a WorkerProcess: does the order at once, and says what it said."""

    created_on = frozenset({0})

    def __init__(self, text: str, *_: object) -> None:
        self._order = Order.from_json(text)

    def messages(self, _: float) -> Iterator[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                worker, "_say", lambda event, **what: said.append({"event": event, **what})
            )
            worker.measure(self._order)
        yield from json.loads(json.dumps(said))

    def ask_to_stop(self) -> None:
        """It is over already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


# --- names -------------------------------------------------------------------------------------


def test_the_ways_are_the_guests() -> None:
    assert tuple(ITERATIONS) == nested_guest.ITERATIONS
    assert NESTED_BASELINE in ITERATIONS


def test_every_field_of_the_guests_records_is_kept() -> None:
    kept = {name.removesuffix("_cycles") for name in NESTED.fields}
    assert kept >= set(nested_guest.RECORD.fields)


# --- plan --------------------------------------------------------------------------------------


def test_a_host_without_nesting_skips_it_with_the_reason() -> None:
    case = case_of(scenario())
    (planned,) = plan([case], TOPOLOGY, replace(ABLE, nested=WHY_NOT))
    assert planned.skip == WHY_NOT
    (planned,) = plan([case], TOPOLOGY, ABLE)
    assert (planned.skip, planned.case) == (None, case)


def test_other_kinds_do_not_ask_for_nesting() -> None:
    text = scenario(kinds=["race", "nested"])
    skips = {p.case.kind: p.skip for p in plan(expand(text), TOPOLOGY, replace(ABLE, nested="no"))}
    assert skips["nested"] == "no"
    assert skips["race"] != "no"


def test_a_way_of_another_version_is_left_out() -> None:
    case = replace(case_of(scenario()), methods=("plain", "telepathic"))
    (planned,) = plan([case], TOPOLOGY, ABLE)
    assert planned.case.methods == ("plain",)
    (note,) = planned.notes
    assert note == (
        "telepathic is left out: this version of kickbench has no iteration telepathic; resume "
        "the run with the version that began it"
    )


# --- rounds ------------------------------------------------------------------------------------


def test_a_round_has_every_way_twice_in_mirrored_order_and_plain_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "_channel", sys.stdout)
    worker.measure(order(case_of(scenario()), tmp_path))
    (guest,) = StubGuest.made
    assert {*guest.runs} == {
        (way, FIRST_ORDER // 10 if way == "asynchronous" else FIRST_ORDER) for way in ITERATIONS
    }
    assert guest.how["vcpu_cpus"] == [TOPOLOGY.affinity[0]]
    assert guest.how["sender_cpus"] == [TOPOLOGY.affinity[-1]]
    rows = np.load(tmp_path / "nested.npy")
    first = rows[rows["round"] == 0]
    turns = [first["entry"][first["position"] == place][0] for place in range(10)]
    assert turns == turns[::-1]
    assert sorted(turns) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    entries = [*ITERATIONS, NESTED_BASELINE]
    assert [way for way, _ in guest.runs[:10]] == [entries[turn] for turn in turns]
    assert len(rows) == sum(count for _, count in guest.runs)
    assert (rows["detail"] == 2**53).all()  # what a table takes at most
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["ready", "done"]
    facts = {"vendor": "svm", "nested_paging": True, "kicks": 3, "entries": None}
    assert lines[-1]["facts"] == {"nested": facts}
    for round_ in (ns for line in lines[1:-1] for ns in line["ns"]):
        # plain, pending, pending_no_injection, nothing of asynchronous, the control
        found = [one.get("round_trip_p50_ns") for one in round_]
        assert found == [1000.0, 1100.0, 1100.0, None, 1000.0]


def test_a_guest_that_fails_fails_the_case_in_its_own_words(tmp_path: Path) -> None:
    failing.append("L2 does not leave")
    with pytest.raises(MeasurementError, match="L2 does not leave"):
        worker.measure(order(case_of(scenario()), tmp_path))
    assert StubGuest.made[0].closed


def test_long_rounds_give_a_sign_of_life_after_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "_channel", sys.stdout)
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.0)
    worker.measure(order(case_of(scenario()), tmp_path, max_seconds=0.0))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(StubGuest.made[0].runs) == 10  # one round
    assert sum(line["event"] == "rounds" for line in lines) > 10
    assert sum(len(line.get("ns", ())) for line in lines) == 1


class SlowGuest(StubGuest):
    """Of iterations that take their time, by a clock that nothing else moves."""

    def __init__(self, seconds_each: float) -> None:
        super().__init__(None)
        self._each = seconds_each
        self.now = 0.0

    def run(self, iteration: str, count: int) -> Records:
        self.now += (nested_guest.WARMUP + count) * self._each
        rows = as_array(super().run(iteration, count))
        rows["work"] = np.arange(count) + sum(n for _, n in self.runs[:-1])
        return Records(nested_guest.RECORD, rows.tobytes())


def one_block(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float, iterations: int, max_seconds: float
) -> tuple[SlowGuest, np.ndarray, list[float]]:
    """A guest, what is recorded of two blocks of plain, and when it gave a sign of life."""
    case = replace(case_of(scenario()), iterations=iterations, max_seconds=max_seconds, processes=1)
    guest, alive = SlowGuest(seconds_each), [0.0]
    monkeypatch.setattr(run_nested, "monotonic", lambda: guest.now)
    bench = NestedBench(case, guest, schedule.entries(case), Clock("tsc", 1e9, 20))  # type: ignore[arg-type]
    bench.round(0, [0, 0], lambda: alive.append(guest.now))
    return guest, as_array(*bench.recorder.arrays()["nested"].parts), alive


@pytest.mark.parametrize("seconds_each", [20e-6, 4e-3, 0.3, 1.0])
def test_a_long_block_is_orders_of_about_a_second(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float
) -> None:
    guest, rows, alive = one_block(monkeypatch, seconds_each, 1000, 86_400.0)
    assert len(rows) == 2000
    assert rows["position"].tolist() == [0] * 1000 + [1] * 1000
    assert rows["work"].tolist() == list(range(2000))
    # An order has at least one iteration, and those before it; the first one is a guess.
    longest = max(1.0 + 17 * seconds_each, (FIRST_ORDER + 17) * seconds_each)
    assert np.diff(alive).max() <= longest
    assert np.diff(alive[2:]).max() <= 1.0 + 17 * seconds_each
    if seconds_each < 1e-4:
        assert len(guest.runs) == 3  # nothing of it is felt where iterations are fast


def test_blocks_of_a_slow_guest_end_at_their_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest, rows, _ = one_block(monkeypatch, 4e-3, 100_000, 20.0)
    sizes = np.bincount(rows["position"])
    assert len(sizes) == 2
    assert (sizes > 1000).all()
    assert guest.now < 20.0 + 4
    _, rows, _ = one_block(monkeypatch, 4e-3, 100_000, 1e-9)
    assert np.bincount(rows["position"])[0] == FIRST_ORDER  # never none


def test_only_expected_exits_have_a_round_trip() -> None:
    case = case_of(scenario())
    recorder = NestedRecorder(case, schedule.entries(case))
    rows = Records.of(nested_guest.RECORD, 4)
    rows["cycles"], rows["expected"] = [100, 200, 900, 9000], [1, 1, 1, 0]
    recorder.add(0, 0, 0, rows)
    assert recorder.round_cycles(0) == {"round_trip_p50_ns": 200}
    assert recorder.round_cycles(1) == {}
    rows["expected"] = [0] * 4
    recorder.add(1, 0, 0, rows)
    assert recorder.round_cycles(0) == {}
    assert len(recorder.arrays()["nested"]) == 8


# --- a run -------------------------------------------------------------------------------------


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.ThisHost, "look", lambda _: machine.Facts(TOPOLOGY, ABLE))
    monkeypatch.setattr(foreman, "WorkerProcess", InProcess)


@pytest.mark.usefixtures("able")
def test_a_run_ends_in_a_summary(tmp_path: Path) -> None:
    readable.append(True)
    outcome = runner.run(scenario(), tmp_path, PlainProgress())
    assert (outcome.finished, outcome.failed) == (1, {})
    (case,) = json.loads((outcome.folder / "summary.json").read_text())["cases"]
    assert case["status"] == "ok"
    assert case["nested"] == {
        "vendor": "svm",
        "nested_paging": True,
        "kicks": 6,  # of two processes
        "entries": {"iterations": 64, "all": 224, "at_once": 32},
        "turn_ns": pytest.approx((51_100 - 1000) / 25_000),
        "at_once_turns": 49,
    }
    found = {(c["method"], c["metric"]): c["diff"] for c in case["contrasts"]}
    assert found == {
        ("pending", "round_trip_p50_ns"): 100.0,
        ("pending_no_injection", "round_trip_p50_ns"): 100.0,
        ("pending", "injection_p50_ns"): 0.0,
    }
    assert case["methods"]["pending"]["late"] == case["methods"]["pending"]["lost"] == 0
    assert case["methods"]["pending"]["injected"] == case["methods"]["pending"]["n"] > 0
    assert case["methods"]["asynchronous"]["latency_ns"]["max"] == 700.0
    rows = RunReader(outcome.folder).table(case["id"], "nested")
    assert set(rows["process"].to_pylist()) == {0, 1}


@pytest.mark.usefixtures("able")
def test_a_precise_process_is_stopped_whatever_asynchronous_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(InProcess, "ask_to_stop", lambda _: asked.append(True))
    runner.run(scenario(precision=0.5), tmp_path, PlainProgress())
    assert asked


@pytest.mark.usefixtures("able")
def test_a_guest_that_fails_is_a_failed_case(tmp_path: Path) -> None:
    failing.append("L2 ended with a triple fault (exit reason 2)")
    outcome = runner.run(scenario(), tmp_path, PlainProgress())
    assert outcome.failed == {"nested-any": "L2 ended with a triple fault (exit reason 2)"}


def test_a_host_that_can_run_nothing_of_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unable = replace(ABLE, nested=WHY_NOT)
    monkeypatch.setattr(runner.ThisHost, "look", lambda _: machine.Facts(TOPOLOGY, unable))
    with pytest.raises(HostError, match="KVM_CAP_NESTED_STATE"):
        runner.run(scenario(), tmp_path, PlainProgress())
