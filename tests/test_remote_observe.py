# SPDX-License-Identifier: Apache-2.0
"""Observing a VM of another machine: by a real OpenSSH server on loopback, a real VM, real BPF."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sshd
from blocks_until import until
from hypothesis import given, settings
from hypothesis import strategies as st
from observing import KICKBENCH, machine, needs_observer, observe, only_run, stored
from watching import wait_for

from kickbench.engine.engine import Clock
from kickbench.errors import MachineFailedError, ResultsError, UsageError
from kickbench.observe import observer
from kickbench.remote import messages
from kickbench.remote.box import Box
from kickbench.remote.ssh import Ssh
from kickbench.results.reader import RunReader
from kickbench.summary.data import RunData
from kickbench.watch import layout
from kickbench.watch.process import Thread, Vmm
from kickbench.watch.snapshot import Lost, Rows, Snapshot, Turn, array_of

VMM = Vmm(4711, "vmm", "guest", {5: 0, 6: 1})


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(counter_usable=True)


@contextmanager
def exiting(clock: Clock) -> Iterator[None]:
    """The engine's VM in this process, which exits meanwhile."""
    over = threading.Event()
    with machine(clock, "pm_timer", vcpus=2, rate_hz=2000) as (_, engine):
        call = partial(until, engine, lambda _: over.is_set(), [("immediate_exit", 0)], ms=50)
        running = threading.Thread(target=call)
        running.start()
        try:
            yield
        finally:
            over.set()
            running.join()


def case_of(results: Path) -> dict[str, Any]:
    (case,) = json.loads((only_run(results) / "summary.json").read_text())["cases"]
    assert case["status"] == "ok"
    return dict(case)


@pytest.mark.kvm
@needs_observer
def test_a_vm_there_is_observed_as_one_here(box: sshd.Sshd, clock: Clock, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with exiting(clock):
        listed = observe("--host", box.host, folder=results)
        run = observe(str(os.getpid()), "--host", box.host, "--seconds", "3", folder=results)
    assert listed.returncode == 2
    assert f"  {os.getpid()} (" in listed.stderr
    assert run.returncode == 0, run.stderr
    case = case_of(results)
    assert (case["pid"], case["vcpus"], case["ended"]) == (os.getpid(), 2, None)
    (most, *_) = case["exits"]["ways"]
    assert (most["reason"], most["address"], most["write"]) == ("io", 0x608, False)
    assert case["seconds"] == pytest.approx(3, rel=0.5)
    assert case["load"]["others_share"] >= 0
    assert RunReader(only_run(results)).environment["hostname"] == platform.node()
    assert not box.runs


@pytest.mark.kvm
@needs_observer
def test_the_screen_shows_a_vm_there(box: sshd.Sshd, clock: Clock, tmp_path: Path) -> None:
    arguments = (str(os.getpid()), "--host", box.host, "--live", "--seconds", "2")
    with machine(clock, "pm_timer"):
        run = observe(*arguments, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(" exits/s, ") >= 1


def begin(box: sshd.Sshd, pid: int, results: Path) -> subprocess.Popen[str]:
    """An observation there, which has seen something."""
    command = [*KICKBENCH, "observe", str(pid), "--host", box.host, "--live", "--seconds", "600"]
    running = subprocess.Popen(
        [*command, "--results", str(results)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    said = running.stderr.readline()
    assert " exits/s, " in said, said + running.stderr.read()
    return running


def agents(box: sshd.Sshd) -> list[int]:
    """The processes there that observe: they hold programs of BPF."""
    return [
        agent
        for child in sshd.children(box.process.pid)
        for agent in [child, *below(child)]
        if any("bpf-prog" in link for link in links_of(agent))
    ]


def below(pid: int) -> list[int]:
    return [one for child in sshd.children(pid) for one in (child, *below(child))]


def links_of(pid: int) -> list[str]:
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


@pytest.mark.kvm
@needs_observer
def test_ctrl_c_keeps_what_was_seen_there(box: sshd.Sshd, clock: Clock, tmp_path: Path) -> None:
    with machine(clock, "pm_timer"), begin(box, os.getpid(), tmp_path / "results") as running:
        assert agents(box)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=300)
    assert running.returncode == 130, error
    assert "what was seen until then is kept" in error
    assert case_of(tmp_path / "results")["ended"] == observer.INTERRUPTED
    wait_for(lambda: not agents(box))


@pytest.mark.kvm
@needs_observer
def test_a_connection_that_breaks_keeps_what_was_seen(
    box: sshd.Sshd, clock: Clock, tmp_path: Path
) -> None:
    with machine(clock, "pm_timer"), begin(box, os.getpid(), tmp_path / "results") as running:
        (agent,) = agents(box)
        box.cut()
        out, error = running.communicate(timeout=300)
        wait_for(lambda: not Path(f"/proc/{agent}").exists())  # nothing watches the VM any more
    assert running.returncode == 4, error
    assert "the connection to box ended" in error
    assert case_of(tmp_path / "results")["ended"] == observer.BROKEN
    assert "the connection broke" in out


VMM_PROGRAM = """
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
with Kvm() as kvm, Guest(kvm, "pm_timer", 1) as guest:
    print("begun", flush=True)
    while True:
        guest.vcpus[0].run_once()
"""


@pytest.mark.kvm
@needs_observer
def test_the_end_of_a_vm_there_ends_it(box: sshd.Sshd, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", VMM_PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as vmm:
        assert vmm.stdout is not None
        vmm.stdout.readline()
        with begin(box, vmm.pid, tmp_path / "results") as running:
            vmm.kill()
            _, error = running.communicate(timeout=300)
    assert running.returncode == 0, error
    assert case_of(tmp_path / "results")["ended"] == "the process ended"


# --- bad input ------------------------------------------------------------------------------------


def through(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The machine is this one, whose shell runs behind these words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    path = folder / "shell"
    path.write_text(f'#!/bin/sh\nfor last; do :; done\nexec {shlex.join(words)} sh -c "$last"\n')
    path.chmod(0o755)
    monkeypatch.setenv("KICKBENCH_SSH", str(path))


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do without rights")


def hiding(*steps: str) -> tuple[str, ...]:
    """The words of a machine with mounts of its own."""
    inside = " && ".join(["mount --make-rprivate /", *steps, 'exec "$@"'])
    return ("unshare", "-m", "sh", "-c", inside, "sh")


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("999999999",), 2, "box: there is no process 999999999"),
        (("--name", "nobody"), 2, 'box: no VM has the name "nobody"'),
        (("--replay", "any.toml"), 2, "--replay runs its guest on this host: leave out --host"),
        (("1", "--host", "-x"), 2, "is no host"),
    ],
)
def test_what_cannot_be_observed_there_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    what: str,
) -> None:
    through(tmp_path, monkeypatch, "env")
    run = observe("--host", "box", *arguments, folder=tmp_path / "results")
    assert (run.returncode, len(run.stderr.splitlines())) == (code, 1), run.stderr
    assert what in run.stderr
    assert not (tmp_path / "results").exists()


@root_only
@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (
            ("setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"),
            "box: the kernel does not let this process load .*: reach the machine as root",
        ),
        (
            ("setpriv", "--bounding-set=-sys_ptrace,-sys_admin"),
            "box: the files of process .* may not be looked at: reach the machine as root",
        ),
        (
            hiding("mount -t tmpfs none /sys/kernel/btf"),
            "box: this kernel .* CONFIG_DEBUG_INFO_BTF",
        ),
        (("unshare", "--pid", "--fork", "--mount-proc"), "box: this shell is in a pid namespace"),
    ],
)
def test_a_machine_that_cannot_observe_says_why(
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    what: str,
) -> None:
    through(tmp_path, monkeypatch, *words)
    with machine(clock, "pm_timer"):
        run = observe(str(os.getpid()), "--host", "box", folder=tmp_path / "results")
    assert run.returncode == 3, run.stderr
    assert re.search(what, run.stderr), run.stderr


@pytest.mark.kvm
@needs_observer
def test_a_machine_without_libbpf_names_its_package(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent there looks for another library."""
    through(tmp_path, monkeypatch, "env")
    with Box(Ssh("box")) as there:
        there.look()
    (sent,) = (tmp_path / "cache/kickbench/agent").glob("agent-*/kickbench/watch/libbpf.py")
    sent.write_text(sent.read_text().replace("libbpf.so.1", "libbpf.so.none"))
    with machine(clock, "pm_timer"):
        run = observe(str(os.getpid()), "--host", "box", folder=tmp_path / "results")
    assert run.returncode == 3, run.stderr
    assert "box: kickbench observe needs libbpf 1: install it" in run.stderr
    assert "apt install libbpf1" in run.stderr


# --- a stranger's data ----------------------------------------------------------------------------


def snapshot() -> Snapshot:
    vcpus = (layout.Vcpu * 2)()
    ways = (layout.WayCount * 3)()
    kicks = (layout.Kick * 2)()
    for index, vcpu in enumerate(vcpus):
        vcpu.id, vcpu.thread, vcpu.exits = index, 10 + index, 100
        vcpu.gap_ns[7] = 99
    for index, way in enumerate(ways):
        way.way.vcpu, way.exits = index % 2, 50
    for kick in kicks:
        kick.sent_ns, kick.left_ns, kick.vcpu, kick.signal = 5, 9, 1, 10
    thread = Thread("CPU 0", 1, 2, 3, 4, 5)
    return Snapshot(
        n_threads=3,
        began_ns=1,
        elapsed_ns=10**9,
        detail_ns=10**8,
        blocks=[],
        turn=Turn(0, 10**9, [100, 100], [0, -1]),
        first={0: thread, 1: thread},
        last={0: thread},
        lost=Lost(events=1),
        rows=Rows(
            vcpus=bytes(vcpus),
            ways=bytes(ways),
            senders=bytes(layout.Sender()),
            sent=bytes(layout.SenderCount()),
            kicks=bytes(kicks),
        ),
        memory_nodes={0: 12},
    )


def arrived(sent: dict[str, Any]) -> Snapshot:
    """What is made of a snapshot at the other end of the connection."""
    message = messages.parse(json.dumps({"event": "snapshot", **sent}).encode())
    del message["event"]
    return Snapshot.from_dict(message)


def test_a_snapshot_survives_the_way() -> None:
    assert arrived(snapshot().to_dict()) == snapshot()


def wrong(**what: Any) -> dict[str, Any]:
    return {**snapshot().to_dict(), **what}


def wrong_rows(**what: bytes) -> dict[str, Any]:
    one = snapshot()
    return dataclasses.replace(one, rows=dataclasses.replace(one.rows, **what)).to_dict()


def with_pending_kick(of_slot: int) -> bytes:
    vcpus = (layout.Vcpu * 2)()
    vcpus[0].kick.sent_ns, vcpus[0].kick.vcpu = 5, of_slot
    return bytes(vcpus)


def of_vcpu(kind: type, number: int) -> bytes:
    one = kind()
    (one.way if kind is layout.WayCount else one).vcpu = number
    return bytes(one)


BOMB = {"vcpus": bytes(5000 * 15_000)}


@pytest.mark.parametrize(
    "sent",
    [
        wrong(turn={"at_ns": 0, "elapsed_ns": 1, "exits": [1, 2, 3], "cpus": [0, 0, 0]}),
        wrong(turn={"at_ns": 0, "elapsed_ns": 0, "exits": [], "cpus": []}),
        wrong(turn={"at_ns": 0, "elapsed_ns": 1, "exits": [1], "cpus": []}),
        wrong(first=[[2, vars(Thread("x", 1, 2, 3, 4, 5))]]),
        wrong(began_ns=-1),
        wrong(began_ns="1"),
        wrong(rows={}),
        wrong(rows={**snapshot().to_dict()["rows"], "ways": "no base64"}),
        wrong(rows={**snapshot().to_dict()["rows"], "ways": "AAAA"}),
        wrong_rows(ways=of_vcpu(layout.WayCount, 2)),
        wrong_rows(kicks=of_vcpu(layout.Kick, 2)),
        wrong_rows(vcpus=b"1234"),
        wrong_rows(vcpus=with_pending_kick(2)),
        wrong_rows(sent=b""),
        wrong_rows(totals=b""),
        wrong_rows(**BOMB),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(sent: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        arrived(sent)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, 1]))
def test_any_counts_can_be_stored(noise: bytes, slot: int) -> None:
    """Nobody checked what they say. If they cannot be, that is an error in a line."""

    def noisy(data: bytes) -> bytes:
        return (noise * (len(data) // max(1, len(noise)) + 1))[: len(data)] if noise else data

    one = snapshot()
    ways, kicks = array_of(layout.WayCount, noisy(one.rows.ways)), noisy(one.rows.kicks)
    for way in ways:
        way.way.vcpu = slot
    vcpus = array_of(layout.Vcpu, noisy(one.rows.vcpus))
    for vcpu in vcpus:
        vcpu.kick.vcpu = slot
    answered = array_of(layout.Kick, kicks)
    for kick in answered:
        kick.vcpu = slot
    noise_rows = Rows(
        vcpus=bytes(vcpus),
        ways=bytes(ways),
        senders=noisy(one.rows.senders),
        sent=noisy(one.rows.sent),
        totals=noisy(one.rows.totals),
        kicks=bytes(answered),
    )
    found = observer.Observed(VMM)
    found.see(arrived(dataclasses.replace(one, rows=noise_rows).to_dict()))
    found.turns.append(one.turn)
    found.kicks = observer.rows(bytes(answered), layout.Kick)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(MachineFailedError, ResultsError),
    ):
        RunData.load(stored(found, Path(folder)))


def test_a_line_of_usage_there_is_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through(tmp_path, monkeypatch, "env")
    with Box(Ssh("box")) as there, pytest.raises(UsageError, match="box: there is no process"):
        there.vms(2**31 - 1, None)
