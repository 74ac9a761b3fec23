# SPDX-License-Identifier: Apache-2.0
"""The nightly job from the outside, on real KVM: nights without a change, then slower system calls.

The slowdown is real and nothing in kickbench knows of it: see slow_syscalls.py. Nights are seconds
apart here, which makes them no less of nights. What else this host does meanwhile is not ours to
choose: the test looks what each night said of it. Quiet nights must find the slowdown, and busy
ones must say that they are not evidence, and find nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command import KICKBENCH
from tiny import tiny

SLOW_SYSCALLS = [sys.executable, str(Path(__file__).with_name("slow_syscalls.py"))]
MOST_INSTRUCTIONS = 30_000

CASE = "exits-pm_timer-1vcpu-max-any"

JOB = """
scenarios = ["tiny.toml"]
[baseline]
min_nights = 5
[decision]
false_discovery_rate = 0.02
[min_effect]
default = 0.03
"""

SYSCALL_NS = """
import os, time
def batch():
    begin = time.perf_counter_ns()
    for _ in range(100):
        os.getppid()
    return (time.perf_counter_ns() - begin) / 100
print(min(batch() for _ in range(200)))
"""


@dataclass
class Night:
    """What a night of the job came to."""

    exit_code: int
    said: str
    document: dict[str, Any]

    @property
    def run_id(self) -> str:
        run_id = self.document["scenarios"][0]["run_id"]
        assert isinstance(run_id, str)
        return run_id

    @property
    def busy(self) -> bool:
        """Whether the job says that this night is not evidence."""
        return bool(self.document["scenarios"][0]["no_witness"])

    def metric(self, name: str) -> dict[str, Any]:
        (found,) = [m for m in self.document["scenarios"][0]["metrics"] if m["metric"] == name]
        assert (found["case"], found["method"]) == (CASE, "immediate_exit")
        return found


@cache
def undisturbed() -> tuple[str, ...]:
    """What lets a command run before all else, where that is allowed: other work is not the topic.

    One vCPU of a machine with several CPUs: the others stay for everybody else.
    """
    # Not --fifo, which never lets an equal in; and not 1, below which vCPUs could not be.
    first = ("chrt", "--rr", "2")
    try:
        allowed = subprocess.run([*first, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    return first if allowed else ()


def slow(instructions: int) -> list[str]:
    return [*SLOW_SYSCALLS, str(instructions)] if instructions else []


def night(folder: Path, instructions: int = 0) -> Night:
    """One night, on a host whose system calls are so many instructions slower."""
    job, document = folder / "nightly.toml", folder / "night.json"
    command = [*undisturbed(), *slow(instructions), *KICKBENCH, "nightly"]
    done = subprocess.run(
        [*command, str(job), "--json", str(document)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stderr
    return Night(done.returncode, done.stdout, json.loads(document.read_text()))


def history(*arguments: object) -> str:
    done = subprocess.run(
        [*KICKBENCH, "history", *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def syscall_ns(instructions: int) -> float:
    """What a cheap system call costs below a filter of that length."""
    command = [*undisturbed(), *slow(instructions), sys.executable, "-c", SYSCALL_NS]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def level(nights: Sequence[Night]) -> float:
    """The middle night's time per exit."""
    values = sorted(night.metric("ns_per_exit")["value"] for night in nights)
    return float(values[len(values) // 2])


def test_a_filter_makes_every_system_call_slower_by_its_length() -> None:
    none, half, whole = (syscall_ns(n) for n in (0, 10_000, 20_000))
    assert none < half < whole
    assert whole - none == pytest.approx(2 * (half - none), rel=0.5)


def test_a_command_below_the_filter_runs_as_it_would_without() -> None:
    done = subprocess.run(
        [*slow(5000), sys.executable, "-c", "import sys; print(sys.argv); sys.exit(7)", "a b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "['-c', 'a b']\n", "")


@pytest.mark.kvm
def test_slower_system_calls_are_found_and_quiet_nights_are_no_alarm(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        tiny(methods=["immediate_exit"], processes=3, precision=1e-6)
    )
    (tmp_path / "nightly.toml").write_text(JOB)

    # Five nights make a baseline, and two are judged together.
    same = [night(tmp_path) for _ in range(7)]
    assert [n.exit_code for n in same] == [0] * 7
    for number, some in enumerate(same):
        expect(some, number + 1 - sum(n.busy for n in same[:number]))
    quiet = [n for n in same if not n.busy]
    if same[-1].metric("ns_per_exit")["verdict"] in ("no witness", "too little history"):
        slower_on_a_busy_host(tmp_path, same)
        return

    # Three quarters of an exit's time on top, or as much as the kernel takes.
    of_one = (syscall_ns(MOST_INSTRUCTIONS) - syscall_ns(0)) / MOST_INSTRUCTIONS
    instructions = min(round(0.75 * level(quiet) / of_one), MOST_INSTRUCTIONS)
    injected = of_one * instructions
    if injected < 0.2 * level(quiet):
        pytest.skip("an exit takes so long here that the longest filter makes no difference")

    # One night is only a suspect; the second one confirms it.
    first, second = night(tmp_path, instructions), night(tmp_path, instructions)
    assert first.exit_code == 0
    if first.busy or second.busy:
        assert second.exit_code == 0
        assert "not evidence" in " ".join((first.said + second.said).split())
        return
    assert first.metric("ns_per_exit")["suspect"]
    assert second.exit_code == 1
    found = second.metric("ns_per_exit")
    assert found["verdict"] == "regression"
    assert found["since"]["run_id"] == first.run_id
    assert found["effect"] == pytest.approx(injected, rel=0.5)
    assert found["relative"] == pytest.approx(found["effect"] / level(quiet), rel=0.2)
    said = " ".join(second.said.split())
    assert "4 metrics got slower" in said
    assert f"{found['relative']:.0%} in {CASE} since" in said.replace(" %", "%")

    # It keeps being one until somebody says that this is how it is now.
    history("accept", tmp_path / "history", first.run_id, "--reason", "the filter stays")
    after = night(tmp_path, instructions)
    assert after.exit_code == 0
    assert after.metric("ns_per_exit")["verdict"] != "regression"
    assert "the filter stays" in history("show", tmp_path / "history", first.run_id)


def expect(some: Night, quiet: int) -> None:
    """What the job must say of a night, the so-manieth quiet one unless it was busy."""
    found = some.metric("ns_per_exit")
    assert found["value"] > 0
    if some.busy:
        assert found["verdict"] == "no witness"
        assert "not evidence" in " ".join(some.said.split())
    elif found["verdict"] == "too little history":
        # A night that was quiet when it came may be busier than what turns out to be usual.
        (has,) = re.findall(r"(\d) of the 5 nights", found["reason"])
        assert int(has) <= min(4, max(0, quiet - 2))
    else:
        assert quiet >= 7


def slower_on_a_busy_host(folder: Path, before: Sequence[Night]) -> None:
    """Two nights of slower system calls where the host was busy: kept, and no alarm by them."""
    after = [night(folder, MOST_INSTRUCTIONS) for _ in range(2)]
    for some in after:
        if some.busy:
            assert some.exit_code == 0
            assert some.metric("ns_per_exit")["verdict"] == "no witness"
    kept = history("list", folder / "history")
    assert f"{len(before) + len(after)} nights" in kept
