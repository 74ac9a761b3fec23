# SPDX-License-Identifier: Apache-2.0
"""kickbench ab on the command line: what it refuses, shows and reports. No host reboots here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from command import kickbench_captured
from tiny import tiny

from kickbench.ab import hosts, state
from kickbench.ab.order import order
from kickbench.ab.state import RUNS, Boot, Kernel, State
from kickbench.errors import (
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_USAGE,
    StorageError,
)
from kickbench.results import writer
from kickbench.results.writer import RunWriter
from kickbench.run import runner
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario


def a_plan(folder: Path, **of_b: Any) -> Path:
    """Two pairs of boots that are measured, and a third of which one boot went wrong. ``of_b`` is
    for the runs of B."""
    boots = [Boot(kernel=letter) for letter in order(3, 1)]
    for number, boot in enumerate(boots[:5], 1):
        boot.place = f"{number:03}-{boot.kernel}-1"
        run = synthetic_run.build(
            folder / RUNS / boot.place,
            cases=[synthetic_run.case(2)],
            seed=number,
            **(of_b if boot.kernel == "B" else {}),
        )
        boot.boot_id, boot.run = f"boot-{number}", str(run.relative_to(folder / RUNS))
    boots[4].faults = ["6.12-b was asked for, and 6.1 came up\x1b[2J"]
    kernels = {
        letter: Kernel(given=f"/boot/{letter}", build=f"6.12-{letter}") for letter in ("A", "B")
    }
    made = State(
        scenario={},
        by="kexec",
        seed=1,
        settle_seconds=60,
        began_on="6.1",
        kernels=kernels,  # type: ignore[arg-type]
        boots=boots,
    )
    state.create(folder, made)
    return folder


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_plan(tmp_path_factory.mktemp("plans") / "plan")


def test_the_status_names_each_boot(plan: Path) -> None:
    done = kickbench_captured("ab", "status", plan)
    assert done.returncode == EXIT_OK
    lines = done.stdout.splitlines()
    assert lines[0] == "under way: 5 of 6 boots are measured"
    assert sum("synthetic/" in line for line in lines) == 5
    assert any("was asked for, and 6.1 came up" in line for line in lines)
    assert "\x1b" not in done.stdout


def test_the_report_is_of_the_pairs_that_are_measured(plan: Path) -> None:
    done = kickbench_captured("ab", "report", plan)
    assert done.returncode == EXIT_OK, done.stderr
    assert "A: 2 boots, /boot/A" in done.stdout
    assert "A boot is one value" in done.stdout
    found = json.loads(kickbench_captured("ab", "report", plan, "--json").stdout)
    assert len(found["pairs"]) == 2
    assert all("-A-" in one and "-B-" in other for one, other in found["pairs"])
    assert found["base"]["name"] == "A"
    assert found["figures"]


def test_a_regression_is_an_exit_code_only_when_asked_for(plan: Path, tmp_path: Path) -> None:
    slower = a_plan(tmp_path / "slower", shift_ns=9000.0)
    assert kickbench_captured("ab", "report", slower).returncode == EXIT_OK
    asked = ("ab", "report", "--fail-on-regression")
    assert kickbench_captured(*asked, slower).returncode == EXIT_REGRESSION
    assert kickbench_captured(*asked, plan).returncode == EXIT_OK
    assert kickbench_captured("ab", "report", plan, "--min-effect", "-1").returncode == EXIT_USAGE


def test_boots_in_which_no_regression_can_be_found_are_no_success(tmp_path: Path) -> None:
    emulated = a_plan(tmp_path / "plan", emulated=True)
    assert kickbench_captured("ab", "report", emulated).returncode == EXIT_OK
    done = kickbench_captured("ab", "report", emulated, "--fail-on-regression")
    assert done.returncode == EXIT_USAGE
    assert "a regression cannot be found" in done.stderr


def test_a_plan_is_stopped_by_a_file(plan: Path) -> None:
    assert kickbench_captured("ab", "stop", plan).returncode == EXIT_OK
    assert kickbench_captured("ab", "status", plan).stdout.startswith("stopped: 5 of 6")
    done = kickbench_captured("ab", "continue", plan)
    assert done.returncode == EXIT_OK
    assert "no reboot" in done.stderr
    (plan / state.STOPPED).unlink()


def start(*words: object) -> tuple[int, str]:
    done = kickbench_captured("ab", "start", "quick", "--state", "/nonexistent/plan", *words)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--by", "grub", "--kernel", "a", "--kernel", "b"], "kexec or systemd"),
        (["--by", "kexec", "--kernel", "a"], "twice"),
        (["--by", "kexec", "--kernel", "a", "--kernel", "b", "--boots", "1"], "--boots"),
        (["--by", "kexec", "--kernel", "a", "--kernel", "b", "--settle", "-1"], "--settle"),
        (["--by", "kexec", "--kernel", "a", "--kernel", "b", "--seed", "-1"], "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(words: list[str], what: str) -> None:
    code, error = start(*words)
    assert code == EXIT_USAGE
    assert what in error
    assert error.count("\n") <= 2


def test_a_plan_that_is_there_is_said_before_the_host_is_looked_at(plan: Path) -> None:
    code, error = start("--by", "kexec", "--kernel", "a", "--kernel", "b", "--state", plan)
    assert code == EXIT_USAGE
    assert "has a plan already" in error


def test_a_host_that_cannot_boot_a_kernel_is_refused(tmp_path: Path) -> None:
    """Nowhere do these tests reboot: the kernels are no kernels."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"no kernel")
    words = ["--kernel", tmp_path / "a", "--kernel", tmp_path / "b", "--yes"]
    code, error = start("--by", "kexec", *words)
    assert code in (EXIT_HOST, EXIT_USAGE)
    assert "kexec" in error or "is no kernel" in error
    assert not Path("/nonexistent").exists()
    if not hosts.has_systemd():
        assert start("--by", "systemd", *words)[0] == EXIT_HOST


class Playing:
    """A host whose reboots are taken for made at once."""

    def __init__(self) -> None:
        self.boots: list[Kernel] = []

    def check(self) -> None:
        pass

    def kernel(self, given: str, append: str | None) -> Kernel:  # noqa: ARG002
        return Kernel(given=given, build=given)

    def build(self) -> str:
        return self.boots[-1].build if self.boots else "default"

    def boot_id(self) -> str:
        return str(len(self.boots))

    def came(self, kernel: Kernel) -> bool:
        return kernel == self.boots[-1]

    def boot(self, kernel: Kernel) -> None:
        self.boots.append(kernel)


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Playing:
    host = Playing()
    monkeypatch.setattr(hosts, "HOSTS", {"kexec": lambda: host})
    monkeypatch.setattr(hosts, "check", lambda *_: None)
    return host


@pytest.fixture
def begun(playing: Playing, tmp_path: Path) -> Path:
    """A plan whose host came up in its first kernel. Its scenario's file is gone."""
    file, plan = tmp_path / "tiny.toml", tmp_path / "plan"
    file.write_text(tiny())
    words = ["--by", "kexec", "--kernel", "a", "--kernel", "b", "--settle", 0, "--yes"]
    done = kickbench_captured("ab", "start", file, "--state", plan, *words)
    assert (done.returncode, len(playing.boots)) == (EXIT_OK, 1), done.stderr
    file.unlink()
    return plan


def test_all_boots_measure_what_the_scenario_was_when_the_plan_began(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again.toml").write_text(tiny())
    measured = []

    def run(scenario: Scenario, *_: object, **__: object) -> None:
        measured.append(scenario)
        raise runner.RunInterruptedError(runner.Outcome(tmp_path, 0, {}, ""))

    monkeypatch.setattr(runner, "run", run)
    assert kickbench_captured("ab", "continue", begun).returncode == EXIT_INTERRUPTED
    assert measured == [load(tmp_path / "again.toml")]


def no_folder(runs: Path) -> None:
    runs.touch()
    RunWriter.create(runs, "tiny", scenario={}, cases=[], environment={})


def no_room(runs: Path) -> None:
    raise StorageError(f"{runs}: is full; {writer._resume_advice(runs)}")


@pytest.mark.parametrize(
    ("fails", "said"),
    [(no_folder, "tiny: cannot make a folder there: Not a directory"), (no_room, ": is full")],
)
def test_a_plan_is_not_told_to_choose_other_results_or_to_resume_a_run(
    begun: Path,
    playing: Playing,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[Path], None],
    said: str,
) -> None:
    monkeypatch.setattr(runner, "run", lambda _, results, *__, **___: fails(results))
    done = kickbench_captured("ab", "continue", begun)
    *_, error, advice = done.stderr.splitlines()
    assert error.endswith(said)
    assert advice.endswith(f"continue with: kickbench ab continue {begun}")
    assert len(playing.boots) == 1


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    for command in ("continue", "status", "stop", "report"):
        done = kickbench_captured("ab", command, tmp_path)
        assert done.returncode == EXIT_USAGE
        assert "ab start" in done.stderr
