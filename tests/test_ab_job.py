# SPDX-License-Identifier: Apache-2.0
"""A plan of boots on a simulated host: power cuts, panics and wrong kernels."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.ab import job, state
from kickbench.ab.order import order
from kickbench.ab.state import MOST_FAULTS, Boot, Kernel, State
from kickbench.errors import (
    HostError,
    KickbenchError,
    MeasurementError,
    ResultsError,
    StorageError,
    UsageError,
)

BUILDS = {"A": "6.12.0-a #1 SMP", "B": "6.12.0-b #2 SMP"}
DEFAULT = "6.1.0-default #1 SMP"


class PowerCut(BaseException):
    """The host is gone, wherever it was."""


class SimulatedHost:
    """Boots what it is asked to. ``power`` is called before each step that another can see, and may
    raise PowerCut. ``ignored`` are the numbers of the reboots that end in the default kernel."""

    def __init__(self, ignored: frozenset[int] = frozenset(), default: str = DEFAULT) -> None:
        self.boots, self.reboots = 0, 0
        self.runs, self.asked, self.next = default, False, ""
        self.ignored, self.default = ignored, default
        self.power = lambda: None

    def start(self) -> None:
        """The firmware boots the default kernel."""
        self.boots += 1
        self.runs, self.asked = self.next or self.default, bool(self.next)
        self.next = ""

    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def build(self) -> str:
        return self.runs

    def came(self, kernel: Kernel) -> bool:  # noqa: ARG002
        return self.asked

    def boot(self, kernel: Kernel) -> None:
        self.power()
        self.reboots += 1
        self.next = "" if self.reboots in self.ignored else kernel.build
        self.power()

    def leave(self) -> None:
        self.power()
        self.next = ""


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.build(tmp_path_factory.mktemp("run"), cases=[synthetic_run.case(2)])


@pytest.fixture
def measure(finished_run: Path) -> job.Measure:
    def made(plan: State, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        if not (folder / "run").exists():
            (folder / "run").symlink_to(finished_run)

    return made


def a_plan(folder: Path, boots: int = 2, seed: int = 1) -> Path:
    kernels = {letter: Kernel(given=f"/boot/{letter}", build=b) for letter, b in BUILDS.items()}
    plan = State(
        scenario={},
        by="kexec",
        seed=seed,
        settle_seconds=60,
        began_on=DEFAULT,
        kernels=kernels,  # type: ignore[arg-type]
        boots=[Boot(kernel=letter) for letter in order(boots, seed)],
    )
    state.create(folder, plan)
    return folder


def play(folder: Path, host: SimulatedHost, measure: job.Measure, most: int = 50) -> list[str]:
    """Boot the host until it stays up. Returns what was said."""
    said: list[str] = []
    for _ in range(most):
        before = host.reboots, host.boots
        host.start()
        try:
            job.go_on(folder, host, measure, said.append, lambda _: None)
        except PowerCut:
            host.next = ""
            continue
        except KickbenchError as error:
            said.append(str(error))
        if host.reboots == before[0]:
            return said
    raise AssertionError("the host reboots for ever")


# --- the order ----------------------------------------------------------------------------------


@given(st.integers(2, 100), st.integers(0, 2**64 - 1))
def test_each_kernel_has_its_boots_and_each_pair_has_both(boots: int, seed: int) -> None:
    letters = order(boots, seed)
    assert letters.count("A") == letters.count("B") == boots
    assert all({*pair} == {"A", "B"} for pair in zip(letters[::2], letters[1::2], strict=True))
    assert letters == order(boots, seed)


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_a_steady_drift_is_the_same_for_both_kernels(blocks: int, seed: int) -> None:
    letters = order(2 * blocks, seed)
    times = {
        kernel: sum(i for i, letter in enumerate(letters) if letter == kernel) for kernel in "AB"
    }
    assert times["A"] == times["B"]


def test_which_kernel_begins_is_drawn() -> None:
    assert {order(2, seed)[0] for seed in range(20)} == {"A", "B"}


# --- a plan that goes well ----------------------------------------------------------------------


def test_every_boot_is_measured_once_and_the_host_ends_in_its_default_kernel(
    tmp_path: Path, measure: job.Measure
) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()
    said = play(folder, host, measure)
    found = state.load(folder)
    assert found.end == "done"
    assert host.reboots == 4
    assert len({boot.boot_id for boot in found.boots}) == len(found.boots) == 4
    assert len({boot.run for boot in found.boots}) == 4
    assert any("kickbench ab report" in line and "all boots are measured" in line for line in said)
    host.start()
    assert host.runs == DEFAULT
    assert play(folder, host, measure) == ["this plan is done: there is nothing left to do"]


def test_each_run_is_of_the_kernel_that_ran(tmp_path: Path, finished_run: Path) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()
    ran = []

    def noted(plan: State, place: Path) -> None:
        ran.append(host.runs)
        place.mkdir()
        (place / "run").symlink_to(finished_run)

    play(folder, host, noted)
    assert ran == [BUILDS[boot.kernel] for boot in state.load(folder).boots]


def test_pairs_are_neighbours_with_a_first(tmp_path: Path, measure: job.Measure) -> None:
    folder = a_plan(tmp_path / "plan")
    play(folder, SimulatedHost(), measure)
    pairs = state.load(folder).pairs(folder)
    assert len(pairs) == 2
    for number, (one, other) in enumerate(pairs):
        assert {int(run.parent.name[:3]) - 1 for run in (one, other)} == {
            2 * number,
            2 * number + 1,
        }
        assert "-A-" in one.parent.name
        assert "-B-" in other.parent.name


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_one_shot_that_does_not_take_is_tried_again(tmp_path: Path, measure: job.Measure) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost(ignored=frozenset({2}))
    said = play(folder, host, measure)
    found = state.load(folder)
    assert found.end == "done"
    assert host.reboots == 5
    assert [len(boot.faults) for boot in found.boots] == [0, 1, 0, 0]
    assert any("was asked for, and 6.1.0-default" in line for line in said)


def test_a_kernel_that_never_comes_up_ends_the_plan_without_a_reboot(
    tmp_path: Path, measure: job.Measure
) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost(ignored=frozenset(range(2, 99)))
    said = play(folder, host, measure)
    found = state.load(folder)
    assert found.end == "failed"
    assert host.reboots == 1 + MOST_FAULTS
    assert sum(boot.run is not None for boot in found.boots) == 1
    assert "went wrong 2 times" in said[-1]
    assert play(folder, host, measure) == ["this plan is failed: there is nothing left to do"]


def test_the_default_kernel_is_not_taken_for_a_boot_of_the_plan(
    tmp_path: Path, measure: job.Measure
) -> None:
    first = order(2, 1)[0]
    host = SimulatedHost(ignored=frozenset({1}), default=BUILDS[first])
    folder = a_plan(tmp_path / "plan")
    said = play(folder, host, measure)
    assert state.load(folder).boots[0].faults
    assert any("not because it was asked for" in line for line in said)
    assert state.load(folder).end == "done"


def test_a_measurement_that_fails_is_tried_in_another_boot(
    tmp_path: Path, measure: job.Measure
) -> None:
    failures = iter([True, False])

    def fails_once(plan: State, place: Path) -> None:
        if next(failures, False):
            raise MeasurementError("a worker died")
        measure(plan, place)

    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()
    play(folder, host, fails_once)
    found = state.load(folder)
    assert found.boots[0].faults == ["a worker died"]
    assert found.end == "done"
    assert host.reboots == 5


@pytest.mark.parametrize("error", [UsageError, StorageError])
def test_what_no_boot_can_mend_costs_no_boot(
    tmp_path: Path, measure: job.Measure, error: type[KickbenchError]
) -> None:
    def cannot(plan: State, place: Path) -> None:
        raise error("my_loop.c cannot be read")

    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()
    host.start()
    job.go_on(folder, host, measure, print, lambda _: None)
    host.start()
    again = re.escape(f"kickbench ab continue {folder}")
    for _ in range(3):
        with pytest.raises(error, match=rf"my_loop\.c cannot be read\n.*{again}"):
            job.go_on(folder, host, cannot, print, lambda _: None)
    assert host.reboots == 1
    job.go_on(folder, host, measure, print, lambda _: None)  # it was mended
    first = state.load(folder).boots[0]
    assert (first.run is not None, first.faults) == (True, [])


def test_a_panic_while_measuring_is_seen(tmp_path: Path, measure: job.Measure) -> None:
    panics = iter([True])

    def panics_once(plan: State, place: Path) -> None:
        if next(panics, False):
            raise PowerCut
        measure(plan, place)

    folder = a_plan(tmp_path / "plan")
    play(folder, SimulatedHost(), panics_once)
    found = state.load(folder)
    assert "ended before its run was finished" in found.boots[0].faults[0]
    assert found.end == "done"


def test_a_host_that_will_not_reboot_ends_the_plan(tmp_path: Path, measure: job.Measure) -> None:
    class Locked(SimulatedHost):
        def boot(self, kernel: Kernel) -> None:  # noqa: ARG002
            raise HostError("signed kernels only")

    folder = a_plan(tmp_path / "plan")
    assert play(folder, Locked(), measure) == [
        f"booting {order(2, 1)[0]}, {BUILDS[order(2, 1)[0]]}, for boot 1 of 4",
        "signed kernels only",
    ]
    assert state.load(folder).end == "failed"


def test_a_plan_that_is_stopped_reboots_no_more(tmp_path: Path, measure: job.Measure) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()

    def stops(plan: State, place: Path) -> None:
        measure(plan, place)
        (folder / state.STOPPED).touch()

    play(folder, host, stops)
    assert host.reboots == 1
    assert state.load(folder).boots[0].run is not None  # what it measured is kept
    assert play(folder, host, measure) == ["this plan was stopped: no reboot"]
    (folder / state.STOPPED).unlink()
    play(folder, host, measure)
    assert state.load(folder).end == "done"


def test_a_plan_that_is_stopped_in_its_last_boot_does_not_leave_it(
    tmp_path: Path, measure: job.Measure
) -> None:
    folder, host = a_plan(tmp_path / "plan"), SimulatedHost()
    host.leave = lambda: pytest.fail("it rebooted")  # type: ignore[method-assign]

    def stops(plan: State, place: Path) -> None:
        measure(plan, place)
        if place.name.startswith("004"):
            (folder / state.STOPPED).touch()

    assert play(folder, host, stops)[-1] == "this plan was stopped: no reboot"
    assert state.load(folder).next is None
    (folder / state.STOPPED).unlink()
    left: list[bool] = []
    host.leave = lambda: left.append(True)  # type: ignore[method-assign]
    play(folder, host, measure)
    assert state.load(folder).end == "done"
    assert left == [True]


def test_only_one_process_goes_on_with_a_plan(tmp_path: Path, measure: job.Measure) -> None:
    folder = a_plan(tmp_path / "plan")
    with state.alone(folder), pytest.raises(HostError, match="already"):
        job.go_on(folder, SimulatedHost(), measure, print, lambda _: None)


@given(cuts=st.sets(st.integers(0, 60), max_size=4))
def test_a_power_cut_at_any_step_loses_and_invents_nothing(
    finished_run: Path, cuts: set[int]
) -> None:
    """Each file that is written, each reboot and each measurement may be the last thing that
    happens. Whatever the state says then, every run in it was finished in a boot of its kernel, and
    every run that was finished is in it."""
    host, steps = SimulatedHost(), iter(range(10_000))
    measured: dict[str, str] = {}

    def power() -> None:
        if next(steps) in cuts:
            raise PowerCut

    host.power = power  # type: ignore[method-assign]

    def measure(plan: State, place: Path) -> None:
        power()
        place.mkdir(exist_ok=True)
        (place / "run").symlink_to(finished_run)
        measured[place.name] = host.runs
        power()

    save = State.save

    def save_and_cut(self: State, where: Path) -> None:
        power()
        save(self, where)
        power()

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = a_plan(Path(name) / "plan")
        patch.setattr(State, "save", save_and_cut)
        play(folder, host, measure)
        found = state.load(folder)
    assert all(len(boot.faults) <= MOST_FAULTS for boot in found.boots)
    counted = {boot.place: boot.kernel for boot in found.boots if boot.run is not None}
    assert measured == {place: BUILDS[kernel] for place, kernel in counted.items()}
    assert found.end == "done" or len(cuts) >= MOST_FAULTS


# --- the file -----------------------------------------------------------------------------------


def test_a_plan_is_not_made_twice(tmp_path: Path) -> None:
    folder = a_plan(tmp_path / "plan")
    with pytest.raises(UsageError, match="has a plan already"):
        a_plan(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"A"', '"C"'),
        ('"seed"', '"sead"'),
        ('"schema": 1', '"schema": 2'),
        ('"kernel": "A"', '"kernel": "B"'),
        ("{", "["),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, old: str, new: str) -> None:
    folder = a_plan(tmp_path / "plan")
    file = folder / state.STATE
    text = file.read_text().replace('"schema":1', '"schema": 1').replace('":"', '": "')
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ResultsError) as caught:
        state.load(folder)
    assert "\n" not in str(caught.value)


def test_a_run_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = a_plan(tmp_path / "plan")
    plan = state.load(folder)
    plan.boots[0].run = "../../elsewhere"
    plan.save(folder)
    with pytest.raises(ResultsError, match="outside"):
        state.load(folder)
