# SPDX-License-Identifier: Apache-2.0
"""kickbench fleet run --hosts: real OpenSSH servers, on whose hosts workers measure on real KVM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd
from command import kickbench_captured
from fleets import Begun, beginning, scenario, stored
from watching import wait_for

from kickbench.fleet.versions import differing, versions


def words(tmp_path: Path, *lines: str) -> list[str]:
    """The options of a command for these hosts."""
    (tmp_path / "hosts").write_text("\n".join(lines))
    return ["--hosts", str(tmp_path / "hosts"), "--store", str(tmp_path / "store")]


def python(folder: Path, begins: str) -> Path:
    """A Python that begins so."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(begins)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


OTHERS = {
    "other-kickbench": (
        "import kickbench; kickbench.__version__ = '0.0.1'",
        "it has kickbench 0.0.1; install kickbench ",
    ),
    "other-dask": (
        "from importlib import metadata; metadata.version = lambda _: '1.2.3'",
        "it has distributed 1.2.3; install distributed ",
    ),
    "no-dask": (
        "import sys; sys.modules['distributed'] = None",
        "its Python has no distributed: pip install 'kickbench[fleet]' there",
    ),
}


@pytest.mark.kvm
def test_hosts_of_a_file_measure_and_others_are_said(box: sshd.Sshd, tmp_path: Path) -> None:
    lines = ["box", "box2 ansible_host=box  # the same host", "nowhere.invalid"]
    lines.append("no-kickbench ansible_host=box ansible_python_interpreter=/bin/false")
    for name, (begins, _) in OTHERS.items():
        path = python(tmp_path / name, begins)
        lines.append(f"{name} ansible_host=box ansible_python_interpreter={path}")
    (tmp_path / "tiny.toml").write_text(scenario(1))
    options = words(tmp_path, *lines)
    done = kickbench_captured("fleet", "run", tmp_path / "tiny.toml", *options)
    assert done.returncode == 0, done.stderr
    assert "1 host finished:\n" in done.stdout
    assert [row[1] for row in stored(tmp_path)] == [1]
    assert "5 hosts left out:\n" in done.stdout
    left_out = dict(
        line.strip().split(": ", 1) for line in done.stdout.splitlines() if line.startswith("  ")
    )
    assert "Could not resolve hostname" in left_out["nowhere.invalid"]
    assert left_out["no-kickbench"].startswith("no Python there has kickbench: pip install")
    for name, (_, said) in OTHERS.items():
        assert left_out[name].startswith(said)
    assert "Traceback" not in done.stderr
    # All workers have ended.
    wait_for(lambda: not sshd.children(box.process.pid))


@pytest.mark.kvm
def test_no_host_can_be_reached(box: sshd.Sshd, tmp_path: Path) -> None:
    options = words(tmp_path, "one.invalid", "two.invalid")
    done = kickbench_captured("fleet", "run", "quick", *options)
    assert done.returncode == 3, done.stderr
    assert "2 hosts left out:\n  one.invalid: " in done.stdout


@contextlib.contextmanager
def measuring(box: sshd.Sshd, tmp_path: Path) -> Iterator[Begun]:
    name = os.uname().nodename
    state = box.cache / "kickbench" / "fleet" / name
    with beginning(name, state, words(tmp_path, "box"), tmp_path) as begun:
        yield begun


@pytest.mark.kvm
def test_ctrl_c_ends_the_run_there_and_it_can_be_resumed(box: sshd.Sshd, tmp_path: Path) -> None:
    with measuring(box, tmp_path) as begun:
        pid = begun.worker
        begun.process.send_signal(signal.SIGINT)
        code, said = begun.end()
        assert code == 130
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        assert "Traceback" not in said
        assert f"kickbench fleet run --resume {begun.fleet} --hosts " in said
        assert stored(tmp_path) == []
        done = kickbench_captured("fleet", "run", "--resume", begun.fleet, *begun.words)
        assert done.returncode == 0, done.stderr
        assert [row[1:] for row in stored(tmp_path)] == [(1, begun.fleet)]


@pytest.mark.kvm
def test_a_connection_that_breaks_costs_nothing(box: sshd.Sshd, tmp_path: Path) -> None:
    with measuring(box, tmp_path) as begun:
        box.cut()
        code, said = begun.end()
        assert code == 4
        assert "its worker is gone; the run may go on there" in said
        assert "Traceback" not in said
        wait_for(lambda: [row[1:] for row in stored(tmp_path)] == [(1, begun.fleet)])


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    options = ["--hosts", tmp_path / "none", "--store", tmp_path / "store"]
    done = kickbench_captured("fleet", "run", "quick", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "none: cannot be read: No such file" in line


def test_other_versions_are_named() -> None:
    assert differing(versions(), versions()) is None
    said = differing({**versions(), "Python": "3.99"}, versions())
    assert said is not None
    assert said.startswith("it has Python 3.99; install Python 3.")
    assert differing({}, versions()) is not None
