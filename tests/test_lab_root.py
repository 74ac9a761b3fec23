# SPDX-License-Identifier: Apache-2.0
"""The root of a machine of another architecture: made once, by apt, and not half. The tests' apt
and dpkg-deb are shell scripts. The lab's tests make the real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kickbench.errors import EXIT_HOST, HostError, MeasurementError
from kickbench.lab import root as roots
from kickbench.lab import tools
from kickbench.lab.image import PROGRAMS

APT = """#!/bin/sh
echo "$@" >> "$LOG"
for word; do
	case $word in
	Dir::Cache=*) cache=${word#*=} ;;
	update) [ -z "$SLOW" ] || { : > "$LOG.slow"; exec sleep 600; } ;;
	install) [ -z "$FAIL" ] || { echo 'W: no index'; echo 'E: no package python3'; exit 100; }
		: > "$cache/archives/one.deb"; : > "$cache/archives/two.deb" ;;
	esac
done
"""
DPKG_DEB = """#!/bin/sh
echo "$@" >> "$LOG"
mkdir -p "$3/etc" "$3/bin" && cp /bin/sh "$3/bin/busybox"
"""


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs and a cache of our own. Returns the file with what the programs were told."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in {"apt-get": APT, "dpkg-deb": DPKG_DEB}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def left(log: Path) -> list[str]:
    folder = log.parent / "cache/kickbench/lab/roots"
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_a_root_is_made_once_with_python_a_shell_and_mount_points(log: Path) -> None:
    made = roots.root()
    assert {"dev", "proc", "sys", "mnt", "run", "tmp"} <= {path.name for path in made.iterdir()}
    assert all((made / "bin" / name).is_symlink() for name in PROGRAMS)
    told = log.read_text()
    assert roots.root() == made
    assert log.read_text() == told
    assert left(log) == [made.name]


def test_apt_is_told_to_leave_this_host_alone(log: Path) -> None:
    roots.root()
    update, install, *unpack = log.read_text().splitlines()
    folder = log.parent / "cache/kickbench/lab/roots"
    for words in (update.split(), install.split()):
        options = dict(word.split("=", 1) for word in words if "::" in word)
        for name in ("Dir::State", "Dir::State::status", "Dir::Cache"):
            assert Path(options[name]).is_relative_to(folder)
        assert options["APT::Architecture"] == options["APT::Architectures"] == "arm64"
        assert options["APT::Get::AllowUnauthenticated"] == "false"
    assert "--download-only" in install
    assert [line.split()[0] for line in unpack] == ["-x", "-x"]


def test_without_apt_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tools.Tool("aptt-get", "apt", "fetches packages", ("root-arm64",))
    monkeypatch.setattr(tools, "TOOLS", [absent])
    with pytest.raises(HostError, match=r"aptt-get \(.*\): not found\ninstall it: .* apt$"):
        roots.root()


def test_what_apt_cannot_fetch_is_said_and_nothing_is_left(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(HostError) as caught:
        roots.root()
    assert caught.value.exit_code == EXIT_HOST
    assert str(caught.value).splitlines() == [
        "Debian's packages for arm64 cannot be fetched; apt-get said:",
        "  | W: no index",
        "  | E: no package python3",
        "it needs a network, and sources in /etc/apt that have this architecture",
    ]
    assert left(log) == []
    monkeypatch.delenv("FAIL")
    assert roots.root().is_dir()


def test_a_cache_that_cannot_be_written_is_named(log: Path) -> None:
    (log.parent / "cache").write_text("a file\n")
    with pytest.raises(MeasurementError, match=r"cannot be made in .*roots: Not a directory"):
        roots.root()


CHILD = "from kickbench.lab.root import root; print(root())"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_root_is_not_there_and_the_next_one_is(
    log: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], env={**os.environ, "SLOW": "1"}, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + 600
        while not Path(f"{log}.slow").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
    if number == signal.SIGINT:
        assert left(log) == []
    made = roots.root()
    assert left(log) == [made.name]


@pytest.mark.lab
def test_the_real_root_has_an_arm64_python(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = os.environ["PATH"].partition(":")[2]
    monkeypatch.setenv("PATH", programs)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert shutil.which("apt-get")
    made = roots.root()
    with (made / roots.PYTHON.lstrip("/")).open("rb") as file:
        header = file.read(20)
    assert header[:4] == b"\x7fELF"
    assert header[18] == 183  # EM_AARCH64
