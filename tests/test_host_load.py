# SPDX-License-Identifier: Apache-2.0
"""How busy others kept the CPUs: from texts of /proc as the kernel writes them, and from ours."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.host import load
from kickbench.host.load import Load, Watch, cpu_ticks, near

HZ = os.sysconf("SC_CLK_TCK")


def stat(**cpus: tuple[int, int, int]) -> str:
    """A text of /proc/stat: by name of a line its busy, idle and stolen seconds."""
    lines = [
        f"{name} {busy * HZ} 0 0 {idle * HZ} 0 0 0 {steal * HZ} 0 0"
        for name, (busy, idle, steal) in cpus.items()
    ]
    return "\n".join([*lines, "intr 12 0 1", "ctxt 99"]) + "\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A folder in the place of /, without anything in its /proc."""
    (tmp_path / "proc").mkdir()
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / "proc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_line_of_proc_stat_is_busy_idle_and_stolen() -> None:
    found = cpu_ticks("cpu  9 8 7 6 5 4 3 2 1 0\ncpu0 1 2 3 4 5 6 7 8\ncpufreq 1\nintr 1 2\n")
    assert vars(found["cpu"]) == {"busy": 9 + 8 + 7 + 4 + 3, "idle": 6 + 5, "steal": 2}
    assert vars(found["cpu0"]) == {"busy": 1 + 2 + 3 + 6 + 7, "idle": 4 + 5, "steal": 8}
    assert set(found) == {"cpu", "cpu0"}


@given(st.text())
def test_any_text_is_no_more_than_unknown(text: str) -> None:
    cpu_ticks(text)
    cpu_ticks(f"cpu0 {text}")


def test_others_are_what_the_cpus_did_without_us(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = iter((10.0, 13.0))
    monkeypatch.setattr(load.time, "process_time", lambda: next(own))
    monkeypatch.setattr(load.time, "monotonic", iter((100.0, 110.0)).__next__)
    write(proc, "stat", stat(cpu=(90, 9, 9), cpu0=(5, 5, 0), cpu1=(1, 9, 1), cpu2=(0, 0, 0)))
    write(proc, "7/stat", f"7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 {1 * HZ} {2 * HZ} 0 0 20")
    write(proc, "pressure/cpu", "some avg10=1.00 total=1000000\nfull avg10=0.00 total=5\n")
    write(proc, f"{os.getpid()}/task/1/schedstat", "5 1000000000 7\n")
    watch = Watch({0, 1}, helpers=[7, 8], root=proc)
    # CPU 2 does not count. We had 3 s and our helper 2 s of the 6 + 4 s that 0 and 1 were busy.
    write(proc, "stat", stat(cpu=(99, 99, 99), cpu0=(11, 9, 0), cpu1=(5, 9, 3), cpu2=(9, 0, 0)))
    write(proc, "7/stat", f"7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 {2 * HZ} {3 * HZ} 0 0 20")
    write(proc, "pressure/cpu", "some avg10=1.00 total=4000000\nfull avg10=0.00 total=5\n")
    write(proc, f"{os.getpid()}/task/1/schedstat", "5 1500000000 7\n")
    assert watch.read() == Load(
        seconds=10.0,
        cpus=2,
        own_cpu_seconds=5.0,
        others_cpu_seconds=5.0,
        stolen_cpu_seconds=2.0,
        waited_seconds=0.5,
        stalled_some_seconds=3.0,
        stalled_full_seconds=0.0,
    )


def test_what_a_kernel_does_not_tell_is_unknown(proc: Path) -> None:
    found = Watch({0}, helpers=[1], root=proc).read()
    assert found.own_cpu_seconds >= 0
    unknown = {name for name, value in vars(found).items() if value is None}
    assert unknown == {
        "others_cpu_seconds",
        "stolen_cpu_seconds",
        "waited_seconds",
        "stalled_some_seconds",
        "stalled_full_seconds",
    }


def test_counters_that_went_back_are_no_negative_time(proc: Path) -> None:
    write(proc, "stat", stat(cpu0=(5, 5, 5)))
    watch = Watch({0}, root=proc)
    write(proc, "stat", stat(cpu0=(4, 4, 4)))
    found = watch.read()
    assert (found.others_cpu_seconds, found.stolen_cpu_seconds) == (0.0, 0.0)


def test_the_other_threads_of_a_core_are_near() -> None:
    every = os.sched_getaffinity(0)
    assert near(every) >= every
    assert near([10_000]) == {10_000}  # unknown to this host


def test_another_process_counts_as_others_and_a_thread_of_ours_does_not() -> None:
    """For as long as it takes until each has had half a second of CPU time."""
    busy = [sys.executable, "-c", "while True: pass"]
    watch = Watch(os.sched_getaffinity(0))
    with subprocess.Popen(busy) as other:
        try:
            cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
            until = time.clock_gettime(cpu_clock) + 0.5
            while time.clock_gettime(cpu_clock) < until or used(other.pid) < 0.5:
                pass
            theirs = used(other.pid)
            found = watch.read()
        finally:
            other.kill()
    assert found.own_cpu_seconds >= 0.5
    assert found.others_cpu_seconds is not None
    # The kernel counts by ticks, and each of ours may stand for one of theirs.
    assert found.others_cpu_seconds > theirs / 2
    assert found.others_cpu_seconds < found.seconds * found.cpus


def used(pid: int) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / HZ
