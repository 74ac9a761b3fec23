# SPDX-License-Identifier: Apache-2.0
"""A machine of the lab as the runner sees it. The emulator is a stub that starts the command here;
the real ones are in test_lab_machines.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lab_emulator import ends, machine
from watching import only_run, statuses

from kickbench.errors import MachineFailedError
from kickbench.lab import run as lab
from kickbench.lab.emulator import Limits
from kickbench.lab.machines import Machine
from kickbench.remote.box import Box
from kickbench.run import runner
from kickbench.run.machine import Facts
from kickbench.run.progress import PlainProgress
from kickbench.scenario.cases import Case
from kickbench.scenario.model import Scenario

BEGIN = """
say('control', 'alive')
streams = {"stdin": port["stdout"], "stdout": port["stdout"], "stderr": port["stderr"]}
child = subprocess.Popen(order["argv"], **streams, env=order["environment"])
open(order["environment"]["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
"""
# The machine panics as soon as there is a file.
PANIC = (
    BEGIN
    + """
while not os.path.exists(order["environment"]["PIDS"] + ".panic"):
    time.sleep(0.05)
say('console', 'Kernel panic - not syncing')
os.killpg(0, signal.SIGKILL)
"""
)


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the processes of a machine."""
    monkeypatch.setattr(Machine, "description", lambda _: "a stub")
    monkeypatch.setattr(lab, "_CACHE", str(tmp_path / "run"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def box(folder: Path, what: str, limits: Limits | None = None) -> Box:
    stubbed = machine(folder, what)
    words = lab.resume_words(stubbed, None)
    return lab.box(stubbed, folder / "bzImage", limits or Limits(), words)


def test_the_agent_in_a_machine_is_asked_and_nothing_is_left(tmp_path: Path, pids: Path) -> None:
    with box(tmp_path, BEGIN + "child.wait()") as here:
        assert here.look() == Facts.of_this_host()
        assert here.host is None
        assert here.mark is not None
        assert here.mark.resume == "kickbench lab run --machine stubbed --resume"
    assert all(ends(int(pid)) for pid in pids.read_text().split())


def test_a_machine_that_panics_is_told_with_its_last_words(tmp_path: Path, pids: Path) -> None:
    with box(tmp_path, PANIC) as here:
        here.look()
        Path(f"{pids}.panic").touch()
        what = r"the machine stubbed ended by itself(.|\n)*Kernel panic - not syncing$"
        assert all(ends(int(pid)) for pid in pids.read_text().split())
        with pytest.raises(MachineFailedError, match=what):
            here.survey()


def test_an_agent_that_fails_is_told_with_its_last_words(tmp_path: Path, pids: Path) -> None:
    what = "say('control', 'alive'); say('stderr', 'no such module'); say('control', 'exit 1')"
    assert pids
    with (
        pytest.raises(MachineFailedError, match=r"stubbed ended \(status 1\): no such module"),
        box(tmp_path, what) as here,
    ):
        here.look()


def test_the_limits_of_a_machine_hold_while_the_runner_waits(tmp_path: Path, pids: Path) -> None:
    assert pids
    with (
        pytest.raises(MachineFailedError, match=r"did not end within .*--time-limit"),
        box(tmp_path, "say('control', 'alive'); time.sleep(6000)", Limits(total=0.7)) as here,
    ):
        here.look()


TINY = {
    "name": "tiny",
    "vm": {"vcpus": [1, 2]},
    "guest": {"program": "pm_timer"},
    "measure": {"methods": ["sigmask"], "processes": 1, "max_seconds": 4, "precision": 1e-6},
}


class Panicking(PlainProgress):
    """The machine panics in its second case."""

    def __init__(self, panic: Path) -> None:
        super().__init__()
        self._panic = panic

    def case_begins(self, case: Case) -> None:
        super().case_begins(case)
        if self._number == 2:
            self._panic.touch()


@pytest.mark.kvm
def test_a_machine_that_panics_loses_only_the_case_that_ran(tmp_path: Path, pids: Path) -> None:
    scenario, results = Scenario.from_dict(TINY), tmp_path / "results"
    command = "kickbench lab run --machine stubbed --resume"
    again = rf"(.|\n)*the finished cases are kept; continue with\n{command}"
    with (
        box(tmp_path, PANIC) as here,
        pytest.raises(MachineFailedError, match=f"ended by itself{again} {results}"),
    ):
        runner.run(scenario, results, Panicking(Path(f"{pids}.panic")), machine=here)
    assert [*statuses(only_run(results)).values()] == ["ok", "pending"]
    Path(f"{pids}.panic").unlink()
    (tmp_path / "again").mkdir()
    with box(tmp_path / "again", BEGIN + "child.wait()") as here:
        runner.resume(only_run(results), PlainProgress(), machine=here)
    assert [*statuses(only_run(results)).values()] == ["ok", "ok"]
