# SPDX-License-Identifier: Apache-2.0
"""A disk that carries the streams of a machine, without the machine: both ends are here; and what
its root has to have."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_lab_emulator import ends

from kickbench.errors import MeasurementError
from kickbench.lab import agents, disk, image, tools

CYLINDER = 16 * 63 * 512


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_an_order_and_what_it_reads_go_in(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, number: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    run = folder / "run"
    (run / "cases").mkdir(parents=True)
    for index in range(number):
        (run / "cases" / str(index)).write_bytes(data)
    disk.write(folder / "disk", b'{"argv": ["a"]}\n', [run] * (number > 0))
    for path in (run / "cases").iterdir():
        path.unlink()
    assert disk.read(folder / "disk") == {"argv": ["a"]}
    assert [path.read_bytes() for path in (run / "cases").iterdir()] == [data] * number


def test_a_disk_has_whole_cylinders(tmp_path: Path) -> None:
    disk.write(tmp_path / "disk", b"{}\n", [])
    assert (tmp_path / "disk").stat().st_size % CYLINDER == 0


@given(st.lists(st.tuples(st.sampled_from(disk.STREAMS), st.binary(max_size=9000)), max_size=5))
def test_what_one_end_puts_into_a_window_the_other_end_takes(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("windows") / "disk"
    disk.write(path, b'{"a": 1}\n', [])
    with closing(disk.Windows(path)) as one, closing(disk.Windows(path)) as other:
        for stream, data in parts:
            one.put(stream, data)
            assert other.take(stream, len(data)) == data
        whole = bytes(range(256)) * (disk.WINDOW_BYTES // 256)
        for stream in disk.STREAMS:
            one.put(stream, whole)
        assert all(other.take(stream, len(whole)) == whole for stream in disk.STREAMS)
    assert disk.read(path) == {"a": 1}


@pytest.mark.parametrize(("stream", "size"), [("stdout", -1), ("stdout", 1 << 40), ("stdnon", 1)])
def test_no_other_place_of_the_disk_is_read(tmp_path: Path, stream: str, size: int) -> None:
    disk.write(tmp_path / "disk", b"{}\n", [])
    with (
        closing(disk.Windows(tmp_path / "disk")) as windows,
        pytest.raises(ValueError, match=r"bytes|not in"),
    ):
        windows.take(stream, size)


# --- the root ------------------------------------------------------------------------------------


def test_the_links_on_the_way_to_a_file_come_with_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to(tmp_path / "folder/file")
    (tmp_path / "loop").symlink_to("loop")
    found = image.closure([tmp_path / "link", tmp_path / "loop", tmp_path / "nothing"])
    names = [str(path.relative_to(tmp_path)) for path in found if path.is_relative_to(tmp_path)]
    assert names == ["folder", "link", "loop", "real/file"]


def test_the_libraries_of_a_program_come_with_it() -> None:
    found = image.closure([Path(sys.executable)])
    names = {path.name for path in found}
    assert "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)
    assert Path(sys.executable).resolve() in found


def test_what_is_not_compiled_or_not_any_more_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    sources = {name: tmp_path / f"{name}.py" for name in ("never", "valid", "old", "broken")}
    for name, source in sources.items():
        source.write_bytes(b"def" if name == "broken" else b"x = 1\n")
    py_compile.compile(str(sources["valid"]))
    py_compile.compile(str(sources["old"]))
    os.utime(sources["old"], (1000, 1000))
    found = image.compiled(sources.values(), tmp_path / "work")
    assert {place.name.partition(".")[0] for place in found} == {"never", "old"}
    for place, of in found.items():
        os.renames(of, place)
    assert image.compiled(sources.values(), tmp_path / "work") == {}


def test_time_before_1970_or_after_2106_is_as_python_has_it(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (source := tmp_path / "old.py").write_text("x = 1\n")
    os.utime(source, (-1000, -1000))
    py_compile.compile(str(source))
    assert image.compiled([source], tmp_path / "work") == {}


def test_a_name_that_is_no_text_may_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.touch()
    (work := tmp_path / "work").mkdir()
    (tmp_path / "kernel").touch()
    tool = tmp_path / "grub-mkrescue"
    tool.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; : > "$2"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(image, "wanted", lambda *_: [odd])
    image.make(tmp_path / "root", tmp_path / "kernel", "quiet", "/python", work)
    assert os.fsencode(odd) in (work / "listing").read_bytes()


def test_nothing_that_writes_the_disk_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work := tmp_path / "work").mkdir()
    tool = tmp_path / "grub-mkrescue"
    tool.write_text(f"#!/bin/sh\nsleep 600 >&- 2>&- &\necho $! > {tmp_path}/pid\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(image, "wanted", lambda *_: [])
    with pytest.raises(MeasurementError, match="root cannot be written"):
        image.make(tmp_path / "root", tmp_path / "kernel", "quiet", "/python", work)
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_program_may_be_where_the_path_does_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool").touch(0o755)
    monkeypatch.setattr(tools, "_MORE_PLACES", str(tmp_path))
    assert tools.program("tool") == str(tmp_path / "tool")
    assert tools.program("no-such-tool") == "no-such-tool"


def test_all_that_the_agent_imports_is_in_the_root() -> None:
    home = agents.prepared()
    code = (
        "import sys; sys.path.append(sys.argv[1]); import kickbench.lab.inside;"
        "import kickbench.agent.server, kickbench.agent.supervisor, kickbench.run.worker;"
        "print(*(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)),"
        " sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-E", "-S", "-c", code, home],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    root = set(image.closure(image.wanted(sys.executable, home)))
    paths = [Path(line) for line in done.stdout.split("\n")[:-1]]
    assert len(paths) > 100
    for path in paths:
        assert path.resolve() in root, path
    assert any(path.name == "kickbench_engine.so" for path in root)


# --- the agent -----------------------------------------------------------------------------------


def test_the_agent_is_prepared_once_and_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    agents.prepared.cache_clear()
    try:
        home = agents.prepared()
        assert home.is_relative_to(tmp_path)
        before = (home / "kickbench").stat().st_ctime_ns
        for source in home.rglob("*.py"):
            # They are valid wherever they are, and whatever the time of the source is.
            os.utime(source, (1, 1))
            compiled = Path(importlib.util.cache_from_source(source))
            assert compiled.read_bytes()[4:8] == b"\1\0\0\0"
        agents.prepared.cache_clear()
        assert agents.prepared() == home
        assert (home / "kickbench").stat().st_ctime_ns == before
    finally:
        agents.prepared.cache_clear()
