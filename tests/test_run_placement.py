# SPDX-License-Identifier: Apache-2.0
"""What became of a placement: the nodes of memory, the CPUs of threads, and CPUs that go away."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kickbench.host.topology import Topology, missing_cpus
from kickbench.run.placement import MEMORY, as_asked, creator, remarks
from kickbench.run.process import worker_environment


def host(root: Path, *, online: str = "0-3", cpuset: str = "0-3", memory: str = "0-1") -> Path:
    """A root directory with CPUs 0 and 1 on node 0, 2 and 3 on node 1."""
    files = {
        "sys/devices/system/cpu/online": online,
        "sys/devices/system/node/has_memory": memory,
        "proc/self/cgroup": "0::/mine",
        "proc/self/mountinfo": "1 1 0:1 / /cg rw - cgroup2 cgroup2 rw",
        "cg/mine/cpuset.cpus.effective": cpuset,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def vcpu(cpus: str = "2", node: int = 1, ran_on: str | None = None, **nodes: Any) -> dict[str, Any]:
    memory = {name: [node] for name in MEMORY} | nodes
    return {"cpus": cpus, "ran_on": ran_on or cpus, "nodes": [node], **memory}


def facts(*vcpus: dict[str, Any], kickers: Any = ()) -> dict[str, Any]:
    return {"vcpus": list(vcpus), "kickers": list(kickers)}


def test_what_is_where_it_was_to_be_needs_no_remark(tmp_path: Path) -> None:
    kicker = {"cpus": "0-1", "ran_on": "0", "nodes": [0]}
    found = facts(vcpu(), vcpu("3"), kickers=[kicker])
    assert remarks(found, host(tmp_path)) == []
    assert as_asked(found) is True


@pytest.mark.parametrize("name", MEMORY)
def test_memory_on_another_node_is_said_once_for_all_its_vcpus(tmp_path: Path, name: str) -> None:
    strays = facts(vcpu(**{name: [0]}), vcpu(), vcpu("3", **{name: [0]}))
    (said,) = remarks(strays, host(tmp_path))
    assert said == (
        f"the {MEMORY[name]} of vCPUs 0,2 is on node 0, and not on node 1 as the placement asks"
    )
    assert as_asked(strays) is False


def test_memory_on_both_nodes_is_not_where_it_was_to_be(tmp_path: Path) -> None:
    (said,) = remarks(facts(vcpu(samples=[0, 1])), host(tmp_path))
    assert "sample buffer of vCPU 0 is on node 0-1" in said


def test_threads_that_float_over_both_nodes_have_memory_on_either(tmp_path: Path) -> None:
    floating = vcpu("0-3", samples=[0], flag=[1]) | {"nodes": [0, 1]}
    assert remarks(facts(floating), host(tmp_path)) == []


def test_what_the_kernel_does_not_tell_is_not_known(tmp_path: Path) -> None:
    untold = facts(vcpu(**dict.fromkeys(MEMORY)))
    (said,) = remarks(untold, host(tmp_path))
    assert "is not verified" in said
    assert as_asked(untold) is None
    assert remarks(untold, host(tmp_path, memory="0")) == []  # one node: nothing to tell
    assert remarks(facts(vcpu(kvm_run=None)), host(tmp_path)) == []


def test_a_cpu_that_leaves_the_cpuset_is_told_from_one_that_is_offline(tmp_path: Path) -> None:
    assert missing_cpus([0, 1, 3], host(tmp_path, online="0-2", cpuset="0,2")) == {
        1: "was taken from this process's cpuset",
        3: "went offline",
    }


def test_a_thread_that_the_kernel_moved_is_told_of(tmp_path: Path) -> None:
    moved = facts(vcpu("1", 0, ran_on="0-1"), vcpu())
    assert as_asked(moved) is False
    assert remarks(moved, host(tmp_path, online="0,2-3")) == [
        "CPU 1 went offline during the case: vCPU 0's thread ran elsewhere (CPU 0)"
    ]
    (back,) = remarks(moved, host(tmp_path))
    assert back == (
        "CPU 1 was taken away for a while during the case: vCPU 0's thread ran elsewhere (CPU 0)"
    )
    kicker = {"cpus": "1", "ran_on": "2", "nodes": [0]}
    (said,) = remarks(facts(kickers=[kicker]), host(tmp_path, cpuset="0,2-3"))
    assert said == (
        "CPU 1 was taken from this process's cpuset during the case: "
        "a kicker's thread ran elsewhere (CPU 2)"
    )


def test_the_creators_node_is_that_of_the_cpus_it_was_seen_on() -> None:
    assert creator([0], [0]) == {"cpus": "0", "ran_on": "0", "nodes": creator(None, [0])["nodes"]}
    assert creator(None, [])["nodes"] == []


# --- real runs ---------------------------------------------------------------------------------

HOST = Topology.read()
CPUS = HOST.affinity
PINNED = """
name = "pinned"
[vm]
vcpus = 2
[guest]
program = {programs}
[[placement]]
name = "here"
creator = "cpu:{first}"
vcpus = "cpu:{first},{last}"
kicker = "cpu:{first}"
[measure]
kinds = ["exits", "pause_all"]
methods = ["immediate_exit"]
processes = 1
max_seconds = {seconds}
precision = 0.000001
"""
TWO_CPUS = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


def pinned(path: Path, programs: list[str], seconds: float) -> Path:
    path.write_text(
        PINNED.format(programs=json.dumps(programs), seconds=seconds, first=CPUS[0], last=CPUS[-1])
    )
    return path


def command(scenario: Path, results: Path) -> list[str]:
    where = ["--results", str(results)]
    return [sys.executable, "-P", "-m", "kickbench", "run", str(scenario), *where]


def cases(results: Path) -> dict[str, Any]:
    """By id: a finished case's only process, or the reason of one that failed."""
    (folder,) = results.glob("*/*")
    found = {}
    for entry in json.loads((folder / "manifest.json").read_text())["cases"]:
        path = folder / "cases" / entry["id"] / "case.json"
        done = entry["status"] == "ok"
        found[entry["id"]] = (
            json.loads(path.read_text())["processes"][0] if done else entry["reason"]
        )
    return found


@pytest.mark.kvm
@TWO_CPUS
def test_a_run_keeps_what_became_of_its_placement(tmp_path: Path) -> None:
    scenario = pinned(tmp_path / "pinned.toml", ["pm_timer"], 0.4)
    done = subprocess.run(
        command(scenario, tmp_path / "results"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    exits, pauses = cases(tmp_path / "results").values()
    first, last = (
        {
            "cpus": str(cpu),
            "ran_on": str(cpu),
            "nodes": [n for n, c in HOST.nodes.items() if cpu in c],
        }
        for cpu in (CPUS[0], CPUS[-1])
    )
    for process in (exits, pauses):
        placement = process["placement"]
        assert placement["creator"] == first
        for thread, wanted in zip(placement["vcpus"], (first, last), strict=True):
            assert {key: thread[key] for key in wanted} == wanted
            for name in MEMORY:  # null where move_pages(2) is not permitted
                assert thread[name] in (None, wanted["nodes"])
    assert exits["placement"]["kickers"] == []
    assert pauses["placement"]["kickers"] == [first]


STACKS_LEFT = """
import re
from pathlib import Path
from kickbench.engine.engine import library, counter_warp_cycles

def stacks():
    text = Path("/proc/self/maps").read_text()
    ends = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *$", text, re.M)
    return sum(int(end, 16) - int(begin, 16) == 256 << 10 for begin, end in ends)

library()
before = stacks()
counter_warp_cycles(CPU, CPU, 10)
print(stacks() - before)
"""


def test_a_worker_keeps_no_stack_of_a_thread_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vCPU's thread would get it, with pages on the node of whoever made that thread."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    tunables = worker_environment()["GLIBC_TUNABLES"]
    assert tunables == "glibc.malloc.arena_max=4:glibc.pthread.stack_cache_size=0"
    left = subprocess.run(
        [sys.executable, "-P", "-c", STACKS_LEFT.replace("CPU", str(CPUS[0]))],
        env=worker_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stdout == "0\n"


@contextlib.contextmanager
def cpuset(cpus: str) -> Iterator[Path]:
    """A cpuset with these CPUs, of either version of control groups; skips without the right."""
    top = Path("/sys/fs/cgroup")
    parent = top / "cpuset" if (top / "cpuset/cpuset.cpus").exists() else top
    mine = parent / f"kickbench-test-{os.getpid()}"
    try:
        if parent == top and "cpuset" not in (top / "cgroup.subtree_control").read_text().split():
            (top / "cgroup.subtree_control").write_text("+cpuset")
        mine.mkdir()
    except OSError as error:
        pytest.skip(f"no cpuset can be made here: {error}")
    try:
        if parent != top:
            (mine / "cpuset.mems").write_text((parent / "cpuset.mems").read_text())
        (mine / "cpuset.cpus").write_text(cpus)
        yield mine
    finally:
        for pid in (mine / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.procs").write_text(pid)
        mine.rmdir()


def wait_for_vcpu_threads(group: Path, cpus: set[int]) -> None:
    """Until a process in the group has vCPUs, and threads that are pinned to each of the CPUs."""
    for _ in range(3000):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
                files = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
                masks = [os.sched_getaffinity(task) for task in tasks[1:]]
                has_vcpus = any("kvm-vcpu" in name for name in files)
                if has_vcpus and all({cpu} in masks for cpu in cpus):
                    return
        time.sleep(0.02)
    raise AssertionError("no vCPU threads came")


@pytest.mark.kvm
@TWO_CPUS
def test_a_cpu_that_is_lost_in_a_case_is_named_there_and_in_those_that_follow(
    tmp_path: Path,
) -> None:
    scenario = pinned(tmp_path / "pinned.toml", ["pm_timer", "pio_out"], 6)
    lost = CPUS[-1]
    with cpuset(f"{CPUS[0]},{lost}") as group:
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        run = subprocess.Popen(
            ["/bin/sh", "-c", join, "sh", *command(scenario, tmp_path / "results")],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for_vcpu_threads(group, {CPUS[0], lost})
            (group / "cpuset.cpus").write_text(str(CPUS[0]))
            run.wait(120)
        finally:
            run.kill()
            run.wait()
    first, *others = cases(tmp_path / "results").values()
    why = f"CPU {lost} was taken from this process's cpuset during the case: "
    assert f"{why}vCPU 1's thread ran elsewhere (CPU {CPUS[0]})" in first["warnings"]
    assert len(others) == 3
    for reason in others:
        assert reason.startswith(f"vCPU 1 cannot run on CPU {lost}: it is offline, or this process")
