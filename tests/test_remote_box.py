# SPDX-License-Identifier: Apache-2.0
"""Machines as they are found: other login shells, no Python, no room, a stranger's data.

The command that reaches them is a shell here, in namespaces of its own where that is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import zipfile
from collections.abc import Generator, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cross_compiler
import pytest
from command import KICKBENCH, kickbench_captured
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny
from watching import only_run, statuses, wait_for

import kickbench.agent
from kickbench.cli import several
from kickbench.errors import (
    ConnectionBrokenError,
    HostError,
    KickbenchError,
    MachineFailedError,
    StorageError,
    UsageError,
)
from kickbench.host.capabilities import Capabilities
from kickbench.host.topology import Topology
from kickbench.native import built_file
from kickbench.remote import link, messages, package, ssh
from kickbench.remote.box import Box
from kickbench.remote.package import ROOMS, agent
from kickbench.remote.ssh import Ssh
from kickbench.run import runner
from kickbench.run.foreman import Job
from kickbench.run.machine import Facts, Survey
from kickbench.run.progress import observer
from kickbench.run.this_host import ThisHost
from kickbench.scenario.files import load
from kickbench.scenario.shipped import resolve

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="it mounts file systems: root only")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the agent goes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/kickbench/agent"


def script(folder: Path, text: str) -> list[str]:
    """The command of a machine whose shell is this script; its $1 is what ssh is to run."""
    path = folder / "shell"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def look(command: list[str]) -> Facts:
    with Box(Ssh("box", command)) as box:
        return box.look()


# --- the agent ----------------------------------------------------------------------------------


def test_the_agent_is_small_and_always_the_same() -> None:
    name, data = agent()
    assert len(data) < 5_000_000
    agent.cache_clear()
    assert agent() == (name, data)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
    assert {"kickbench/engine/kickbench_engine.so", "kickbench/nested/hypervisor.bin"} <= {*names}
    assert {name.split("/")[1] for name in names if name.count("/") > 1} == {*ROOMS}


def test_a_machine_of_another_architecture_gets_its_own_agent() -> None:
    others = package.names().keys() - {os.uname().machine}
    if not others:
        cross_compiler.compiler("aarch64")  # skips, or fails on a CI machine
    for machine in others:
        name, data = agent(machine)
        assert name == package.names()[machine] != agent()[0]
        with zipfile.ZipFile(BytesIO(data)) as archive:
            ours = {"kickbench/nested/hypervisor.bin"}  # x86-64 alone has it
            assert not ours & {*archive.namelist()}
            library = archive.read("kickbench/engine/kickbench_engine.so")
            assert library[18] == {"aarch64": 183, "x86_64": 62}[machine]  # e_machine of ELF
            assert "kickbench/guest/images/hlt.max.bin" in archive.namelist()


def test_without_glibc_python_starts_again_with_the_engine_in_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """musl's os.confstr does not know the name of glibc's version."""
    sent = built_file(kickbench.agent.__path__, "bootstrap.py").read_text()
    bootstrap = tmp_path / "bootstrap.py"
    bootstrap.write_text(sent.replace("CS_GNU_LIBC_VERSION", "CS_NONE"))
    assert bootstrap.read_text() != sent
    monkeypatch.setattr(link, "built_file", lambda *_: bootstrap)
    streams = Ssh("box", ["sh", "-c"])
    with Box(streams) as box:
        assert box.look() == Facts.of_this_host()
        environment = Path(f"/proc/{streams._process.pid}/environ").read_text().split("\0")
    (engine,) = home.glob("agent-*/kickbench/engine/kickbench_engine.so")
    assert f"LD_PRELOAD={engine}" in environment


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "fish", "csh", "zsh", "busybox"])
def test_any_login_shell_will_do(home: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    command = [shell, *(["sh"] if shell == "busybox" else []), "-c"]
    with Box(Ssh("box", command)) as box:
        assert box.look() == Facts.of_this_host()
    (folder,) = home.glob("agent-*")
    before = (folder / "kickbench/__init__.py").stat().st_mtime_ns
    with Box(Ssh("box", command)) as box:  # it is there, and not sent again
        assert {finding.id for finding in box.survey().findings}
    assert (folder / "kickbench/__init__.py").stat().st_mtime_ns == before


def test_agents_that_nobody_uses_go(home: Path) -> None:
    for name, days in (("agent-old", 20), ("agent-recent", 2)):
        (home / name / "kickbench").mkdir(mode=0o700, parents=True)
        then = time.time() - days * 86400
        os.utime(home / name, (then, then))
    for folder in (home, home.parent):
        folder.chmod(0o700)
    look(["sh", "-c"])
    names = {folder.name for folder in home.glob("agent-*")}
    assert names == {"agent-recent", agent()[0]}


def test_what_a_machine_of_another_architecture_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = package.names().keys() & {os.uname().machine}
    monkeypatch.setattr(package, "names", lambda: {ours: "agent-1"})
    missing = "hello(error='machine', machine=MACHINE)"
    for machine, what in {
        "aarch64": "install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, and",
        "riscv64": "box is riscv64, and kickbench measures x86-64 and arm64 hosts only",
    }.items():
        command = stranger(tmp_path, missing.replace("MACHINE", repr(machine)))
        with pytest.raises(HostError, match=what):
            look(command)


def test_a_shell_may_print_a_banner(home: Path, tmp_path: Path) -> None:
    banner = "echo 'Welcome!'; echo kickbench- ; printf 'no newline at the end'; "
    with Box(Ssh("box", script(tmp_path, f'{banner} exec sh -c "$1"'))) as box:
        assert box.look() == Facts.of_this_host()
    assert home.is_dir()


def test_a_shell_that_prints_for_ever_is_left(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="prints without an end"):
        look(script(tmp_path, "yes | head -c 9000000; sleep 60"))


def test_a_box_without_python_says_what_to_install(tmp_path: Path) -> None:
    for name in ("sh", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    with pytest.raises(HostError, match=r"box has no Python 3: install it there .*apt install"):
        look(script(tmp_path, f'export PATH={tmp_path}; exec sh -c "$1"'))


def test_an_old_python_is_told_by_its_version(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    older = "import sys; sys.version_info = (3, 8, 2, 'final', 0); exec(sys.argv.pop(1))"
    old.write_text(
        f'#!/bin/sh\nwhile [ "$1" != -c ]; do shift; done\n'
        f'exec {sys.executable} -u -c "{older}" "$2"\n'
    )
    old.chmod(0o755)
    with pytest.raises(HostError, match=r"box has Python 3\.8\.2, and the agent needs 3\.9"):
        look(script(tmp_path, f'export PATH={tmp_path}:$PATH; exec sh -c "$1"'))


def test_an_engine_that_cannot_be_loaded_there_is_one_line(home: Path) -> None:
    look(["sh", "-c"])
    (engine,) = home.glob("agent-*/kickbench/engine/kickbench_engine.so")
    engine.write_bytes(b"no library")
    with pytest.raises(HostError, match=r"^box: the engine cannot be loaded: .*engine.so: "):
        look(["sh", "-c"])


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "a\nb"])
def test_what_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        ssh.command(name)


def test_the_command_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ssh.command("me@box") == ["ssh", "-T", "--", "me@box"]
    monkeypatch.setenv("KICKBENCH_SSH", " ")
    assert ssh.command("me@box") == ["ssh", "-T", "--", "me@box"]
    monkeypatch.setenv("KICKBENCH_SSH", "ssh -p 2222 -F 'my config'")
    assert ssh.command("box") == ["ssh", "-p", "2222", "-F", "my config", "-T", "--", "box"]


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("ssh 'x", 2, "KICKBENCH_SSH: no closing quotation"),
        ("no-such-ssh", 3, "no-such-ssh cannot be run: No such file or directory; install ssh"),
    ],
)
def test_a_command_that_is_none_is_said(
    monkeypatch: pytest.MonkeyPatch, command: str, code: int, why: str
) -> None:
    monkeypatch.setenv("KICKBENCH_SSH", command)
    done = kickbench_captured("doctor", "--host", "box")
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert why in done.stderr


def test_a_banner_may_be_in_any_encoding(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"the connection to box ended: .*caf.; no entry"):
        look(script(tmp_path, r"printf 'caf\351\nno entry\n' >&2; exit 255"))


def test_a_host_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ssh"):
        pytest.skip("no ssh here")
    monkeypatch.setenv("KICKBENCH_SSH", "ssh -o BatchMode=yes -p 1")
    done = kickbench_captured("run", "quick", "--host", "127.0.0.1")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "the connection to 127.0.0.1 ended: ssh: connect to host 127.0.0.1 port 1" in line


# --- a terminal ---------------------------------------------------------------------------------


def on_a_terminal(*command: str) -> tuple[int, bytes, bool]:
    """The exit code of a kickbench whose user presses Ctrl-C when it is asked for a password, what
    is on the terminal, and whether that echoes at the end."""
    terminal, slave = pty.openpty()
    words = ["setsid", "--ctty", *KICKBENCH, *command]
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave)
    shown = b""
    while process.poll() is None:
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 4096)
            if shown.endswith(b"password: "):
                time.sleep(0.5)  # something else may be shown meanwhile
                shown += b"|"
                os.write(terminal, b"\x03")
    echoes = bool(termios.tcgetattr(slave)[3] & termios.ECHO)
    while select.select([terminal], [], [], 0)[0]:
        shown += os.read(terminal, 4096)
    os.close(slave)
    os.close(terminal)
    return process.returncode, shown, echoes


def test_ssh_may_ask_for_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = script(
        tmp_path,
        "trap 'stty echo </dev/tty; exit 1' TERM; stty -echo </dev/tty\n"
        "printf 'password: ' >/dev/tty; while :; do sleep 0.1; done",
    )
    monkeypatch.setenv("KICKBENCH_SSH", " ".join(asking))
    code, shown, echoes = on_a_terminal("run", "quick", "--host", "box")
    assert code == 130, shown
    assert shown.startswith(b"password: |")  # and nothing has overwritten it
    assert echoes


def test_ssh_cannot_ask_for_one_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = script(tmp_path, "if : </dev/tty; then echo asks; else echo no; fi >&2; exit 255")
    monkeypatch.setenv("KICKBENCH_SSH", " ".join(asking))
    code, shown, _ = on_a_terminal("run", "quick", "--host", "one", "--host", "two")
    assert code == 3
    assert b"asks" not in shown


# --- restricted machines ------------------------------------------------------------------------


def mounted(tmp_path: Path, *steps: str) -> list[str]:
    """The command of a machine with mounts of its own."""
    inside = " && ".join(["cd /", "mount --make-rprivate /", *steps, 'exec sh -c "$0"'])
    return script(tmp_path, f'exec unshare -m sh -c {shlex.quote(inside)} "$1"')


HIDDEN = "mount -t tmpfs -o ro none"


@root_only
@pytest.mark.usefixtures("home")
def test_a_read_only_root_needs_one_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    steps = ["mount --bind / /", "mount -o remount,ro,bind /", "mount -t tmpfs none /dev/shm"]
    steps += [f"{HIDDEN} {place}" for place in ("/run", "/tmp", "/var/tmp")]
    monkeypatch.setenv("HOME", "/none/at/all")
    monkeypatch.chdir("/")
    with Box(Ssh("box", mounted(tmp_path, *steps))) as box:
        assert box.look() == Facts.of_this_host()


@root_only
def test_a_cache_that_cannot_be_made_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Box(Ssh("box", mounted(tmp_path, "mount -t tmpfs none /run"))) as box:
        assert box.look() == Facts.of_this_host()


@root_only
def test_no_folder_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/kickbench-none/cache")
    steps = [f"{HIDDEN} {place}" for place in ("/run", "/var/tmp", "/dev/shm")]
    steps += ["mount -t tmpfs -o noexec none /tmp"]
    with pytest.raises(HostError, match=r"no folder for the agent: .*/tmp/\S+ is mounted noexec"):
        look(mounted(tmp_path, *steps))


@root_only
@pytest.mark.kvm
def test_a_full_disk_there_is_an_error_with_its_place(home: Path, tmp_path: Path) -> None:
    cache = home.parents[1]
    cache.mkdir()
    command = mounted(tmp_path, f"mount -t tmpfs -o size=100k none {cache}")
    with pytest.raises(HostError, match=r"cannot be unpacked: .*No space left.*make room"):
        look(command)


@root_only
@pytest.mark.kvm
def test_a_disk_there_that_fills_up_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = home.parents[1]
    cache.mkdir()
    fills_up = f"while ! grep -qs rounds {home}/runs/2*/journal; do sleep 0.1; done"
    fills_up += f"; cat /dev/zero >{cache}/zeros"
    steps = [f"mount -t tmpfs -o size=20m none {cache}", f"{{ ({fills_up}) >&- 2>&- & }}"]
    watching, _ = observer()
    with (
        Box(Ssh("box", mounted(tmp_path, *steps))) as box,
        pytest.raises(KickbenchError, match=f"{home}/runs/.*[Nn]o space left"),
    ):
        runner.run(load(resolve("quick")), tmp_path / "results", watching, machine=box)


@pytest.mark.kvm
def test_a_disk_here_that_is_full_costs_no_case(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: link.Link, path: Path, size: int) -> None:
        path.symlink_to("/dev/full")
        receive_file(self, path, size)

    receive_file = link.Link.receive_file
    monkeypatch.setattr(link.Link, "receive_file", full)
    scenario = load(resolve("quick"))
    with (
        Box(Ssh("box", ["sh", "-c"])) as box,
        pytest.raises(StorageError, match=r"\.npy: No space left .*make room(.|\n)*--host box"),
    ):
        runner.run(scenario, tmp_path / "results", observer()[0], quick=True, machine=box)
    monkeypatch.setattr(link.Link, "receive_file", receive_file)
    assert len(list(home.glob("runs/*"))) == 1
    folder = only_run(tmp_path / "results")
    wait_for(lambda: '"finished"' in next(home.glob("runs/*/journal")).read_text())
    with Box(Ssh("box", ["sh", "-c"])) as box:
        outcome = runner.resume(folder, observer()[0], machine=box)
    assert outcome.failed == {}
    assert {*statuses(folder).values()} == {"ok"}
    assert list(home.glob("runs/*")) == []


NO_KVM = ("mount -t tmpfs none /dev", "mknod -m 666 /dev/null c 1 3")


@root_only
@pytest.mark.usefixtures("home")
def test_a_box_without_kvm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "command", lambda _: mounted(tmp_path, *NO_KVM))
    done = kickbench_captured("run", "quick", "--quick", "--host", "box", cwd=tmp_path)
    assert done.returncode == 3
    assert "/dev/kvm does not exist" in done.stderr
    done = kickbench_captured("doctor", "--host", "box")
    assert done.returncode == 3
    assert "box cannot run kickbench: see KVM" in done.stdout


@pytest.mark.usefixtures("home")
def test_doctor_and_methods_look_at_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "command", lambda _: ["sh", "-c"])
    here = json.loads(kickbench_captured("methods", "--json").stdout)
    assert json.loads(kickbench_captured("methods", "--json", "--host", "box").stdout) == here
    found = json.loads(kickbench_captured("doctor", "--json", "--host", "box").stdout)
    assert [finding["id"] for finding in found["findings"]] == [
        finding["id"]
        for finding in json.loads(kickbench_captured("doctor", "--json").stdout)["findings"]
    ]


@pytest.mark.kvm
@pytest.mark.usefixtures("home")
def test_several_boxes_measure_at_once_and_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_SSH", " ".join(script(tmp_path, 'exec sh -c "$4"')))
    (tmp_path / "tiny.toml").write_text(tiny(max_seconds=0.5))
    hosts = ["--host", "one", "--host", "two"]
    done = kickbench_captured("run", tmp_path / "tiny.toml", *hosts, "--results", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "r").glob("tiny/*/summary.json"))) == 2
    for host in ("one", "two"):
        assert f"{host}: [1/1]" in done.stderr
    assert "against" in done.stdout


def test_an_impatient_user_ends_the_runs_on_all_boxes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    send_signal = subprocess.Popen.send_signal
    told = []

    def once_more(self: subprocess.Popen[Any], number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        told.append(number)
        send_signal(self, number)

    monkeypatch.setattr(subprocess.Popen, "send_signal", once_more)
    program = "import os, sys, time; os.write(2, b'begun\\n'); time.sleep(20)"
    monkeypatch.setattr(several, "_KICKBENCH", [sys.executable, "-c", program])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        assert several.run_on(["one", "two"], []) == 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert told == [signal.SIGINT, signal.SIGINT]
    assert "one: begun" in capfd.readouterr().err


# --- a stranger's data --------------------------------------------------------------------------

AGENT = """
import json, sys
def line(): return json.loads(sys.stdin.readline())
sys.stdin.readline()
order = line()
def hello(**what): print("\\n" + order["token"] + json.dumps(what), flush=True)
"""


def stranger(folder: Path, program: str) -> list[str]:
    path = folder / "stranger.py"
    path.write_text(AGENT + program)
    return script(folder, f"exec {sys.executable} {path}")


READY = f"""
hello(have=True, machine="{os.uname().machine}"); line(); hello(ready=True)
"""


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("print(order['token'] + '[]', flush=True)", "is no message"),
        ("hello(have=True, machine='riscv64\\x1b[2J')", r"box is riscv64\\x1b"),
        (READY + "print('{}', flush=True); line()", "sent what is no message"),
        (READY + 'line(); print(\'{"event": "facts"}\', flush=True); line()', "no message"),
        (READY + "line(); print(json.dumps({'event': 'facts', 'topology': {}}))", "no message"),
        (READY + "line(); print('x' * 1000, flush=True); line()", "no message"),
        (READY + 'line(); print(\'{"event": "error", "reason": "\\x1b[2J"}\')', "box"),
        (READY + "sys.exit(3)", "ended"),
        ("sys.exit('something \\x1b[2J else')", r"ended: something \\x1b\[2J else"),
    ],
)
def test_what_a_stranger_sends_is_one_line_of_error(
    tmp_path: Path, program: str, what: str
) -> None:
    with (
        pytest.raises((HostError, MachineFailedError, ConnectionBrokenError), match=what) as told,
        Box(Ssh("box", stranger(tmp_path, program))) as box,
    ):
        box.look()
    assert "\x1b" not in str(told.value)


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_line_is_a_message_or_a_value_error(line: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert "event" in messages.parse(line)


GOOD: dict[str, dict[str, Any]] = {
    "rounds": {"case": "a", "process": 0, "spent_seconds": 1.5, "ns": [[{"x": 1.0}]], "counts": []},
    "files": {"files": [["blocks.npy", 12]]},
    "end": {"case": "a", "seconds": 1.0},
}


@given(
    st.sampled_from(sorted(GOOD)),
    st.data(),
    st.none() | st.text() | st.floats() | st.lists(st.text(), min_size=1) | st.just(-1),
)
def test_a_key_of_another_kind_is_refused(event: str, data: st.DataObject, value: object) -> None:
    good = {"event": event, **GOOD[event]}
    assert messages.parse(json.dumps(good).encode())["event"] == event
    key = data.draw(st.sampled_from(sorted(GOOD[event])))
    bad = {**good, key: value}
    try:
        messages.parse(json.dumps(bad).encode())
    except ValueError:
        return
    assert (isinstance(value, str) and key == "case") or isinstance(value, float)


@pytest.mark.parametrize("name", ["../x.npy", "/etc/passwd", "a.py", "A.npy", "x/y.npy"])
def test_files_have_names_of_tables_only(name: str) -> None:
    with pytest.raises(ValueError, match="files"):
        messages.parse(json.dumps({"event": "files", "files": [[name, 1]]}).encode())


cpus = st.lists(st.integers(0, 4096), unique=True, max_size=8).map(lambda some: tuple(sorted(some)))


@given(
    st.builds(
        Topology,
        online=cpus,
        nodes=st.dictionaries(st.integers(0, 9), cpus),
        siblings=st.dictionaries(st.integers(0, 99), cpus),
        isolated=cpus,
        affinity=cpus,
        allowed=cpus,
    ),
    st.builds(Capabilities),
)
def test_facts_survive_the_way(topology: Topology, capabilities: Capabilities) -> None:
    facts = Facts(topology, capabilities)
    assert Facts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_a_survey_survives_the_way() -> None:
    survey = Survey.of_this_host()
    assert Survey.from_dict(json.loads(json.dumps(survey.to_dict()))) == survey


# --- the way takes time -------------------------------------------------------------------------


class FarAway(ThisHost):
    """A machine whose arrays arrive damaged, and that has measured on when it is told so."""

    def work(
        self, run_id: str, jobs: Sequence[Job], folder: Path
    ) -> Generator[dict[str, Any], None, None]:
        rounds: dict[str, Any] = {}
        for message in super().work(run_id, jobs, folder):
            yield message
            if message["event"] == "rounds":
                rounds = message
            if message["event"] == "process":
                yield rounds

    @contextlib.contextmanager
    def arrays(self, case_id: str, process: int) -> Iterator[Path]:
        with super().arrays(case_id, process) as folder:
            (folder / "blocks.npy").write_bytes(b"")
            yield folder


@pytest.mark.kvm
def test_rounds_of_a_case_that_has_failed_here_are_passed_over(tmp_path: Path) -> None:
    watching, display = observer()
    with display:
        outcome = runner.run(
            load(resolve("quick")), tmp_path, watching, quick=True, machine=FarAway()
        )
    assert outcome.finished == 0
    assert all("cannot read the worker's result" in why for why in outcome.failed.values())


@pytest.mark.kvm
def test_a_run_is_forgotten_there_when_its_arrays_are_interrupted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_file = link.Link.receive_file

    def interrupted(self: link.Link, path: Path, size: int) -> None:
        receive_file(self, path, size // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(link.Link, "receive_file", interrupted)
    watching, _ = observer()
    scenario = load(resolve("quick"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Box(Ssh("box", ["sh", "-c"])) as box, pytest.raises(runner.RunInterruptedError):
            runner.run(scenario, tmp_path / "results", watching, quick=True, machine=box)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert list(home.glob("runs/*")) == []


def test_a_run_of_another_host_is_resumed_with_its_name() -> None:
    begun = Survey.of_this_host().environment
    advice = r"another host, .*name it with --host, or start a new run"
    with pytest.raises(UsageError, match=advice):
        runner._check_same_host({**begun, "hostname": "amd"}, begun)
