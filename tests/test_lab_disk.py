# SPDX-License-Identifier: Apache-2.0
"""Files in and out of a machine by a disk, without the machine: both ends are here; and what its
root has to have."""

from __future__ import annotations

import errno
import importlib
import io
import os
import py_compile
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_lab_emulator import ends

from kickbench.errors import HostError, MeasurementError
from kickbench.lab import disk, image, tools
from kickbench.lab import inside as process_1

CYLINDER = 16 * 63 * 512


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[disk.Inside]:
    """A machine that has taken its order, with a folder for results, and knows what is there."""
    results(tmp_path).mkdir()
    (results(tmp_path) / "old").write_text("known")
    disk.write(tmp_path / "disk", b"{}\n", [])
    with closing(disk.Inside(tmp_path / "disk")) as machine:
        assert machine.read() == {}
        machine.watch([str(results(tmp_path))])
        yield machine


def results(folder: Path) -> Path:
    return folder / "results"


def bring_out(folder: Path, place: tuple[int, int] | None) -> None:
    assert place is not None
    disk.receive(folder / "disk", *place, [results(folder)])


# --- in ------------------------------------------------------------------------------------------


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_an_order_and_what_it_reads_go_in(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, number: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    run = folder / "run"
    (run / "cases").mkdir(parents=True)
    for index in range(number):
        (run / "cases" / str(index)).write_bytes(data)
    disk.write(folder / "disk", b'{"argv": ["a"]}\n', [run])
    for path in (run / "cases").iterdir():
        path.unlink()
    with closing(disk.Inside(folder / "disk")) as machine:
        assert machine.read() == {"argv": ["a"]}
    assert [path.read_bytes() for path in (run / "cases").iterdir()] == [data] * number


def test_a_disk_has_whole_cylinders_and_takes_no_place(tmp_path: Path) -> None:
    disk.write(tmp_path / "disk", b"{}\n", [])
    facts = (tmp_path / "disk").stat()
    assert facts.st_size % CYLINDER == 0
    assert facts.st_size > 1 << 30
    assert facts.st_blocks * 512 < 1 << 20


# --- out -----------------------------------------------------------------------------------------


def test_what_is_new_comes_out_once(tmp_path: Path, inside: disk.Inside) -> None:
    assert inside.collect() is None
    path = results(tmp_path) / "run/cases/a/exits.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"table")
    os.utime(path, (1000, 1000))
    place = inside.collect()
    path.unlink()
    bring_out(tmp_path, place)
    assert path.read_bytes() == b"table"
    assert path.stat().st_mtime == 1000
    assert inside.collect() is None


def test_what_is_changed_replaces_what_was_there(tmp_path: Path, inside: disk.Inside) -> None:
    path = results(tmp_path) / "manifest.json"
    for text in ("pending", "finished"):
        path.write_text(text)
        place = inside.collect()
        path.write_text("of outside")
        bring_out(tmp_path, place)
        assert path.read_text() == text
        inside.watch([str(results(tmp_path))])


def test_the_oldest_comes_first(tmp_path: Path, inside: disk.Inside) -> None:
    for age, name in enumerate(["manifest.json", "a.parquet", "z.parquet"]):
        path = results(tmp_path) / name
        path.write_text(name)
        os.utime(path, (1000 - age, 1000 - age))
    place = inside.collect()
    assert place is not None
    with (tmp_path / "disk").open("rb") as file:
        file.seek(place[0])
        with tarfile.open(fileobj=file) as archive:
            names = [Path(name).name for name in archive.getnames()]
    assert names == ["z.parquet", "a.parquet", "manifest.json"]


def test_unfinished_work_and_what_is_no_file_stay_inside(
    tmp_path: Path, inside: disk.Inside
) -> None:
    (results(tmp_path) / ".case.tmp-1").mkdir()
    (results(tmp_path) / ".case.tmp-1" / "exits.parquet").touch()
    (results(tmp_path) / ".manifest.json.tmp-1").touch()
    (results(tmp_path) / "link").symlink_to("/etc/passwd")
    assert inside.collect() is None


def test_a_file_that_cannot_be_read_spoils_nothing_and_comes_the_next_time(
    tmp_path: Path, inside: disk.Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (results(tmp_path) / name).write_text(name)
    read = Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "b":
            raise OSError(errno.EIO, "bad sector")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        first = inside.collect()
    second = inside.collect()
    for name in "abc":
        (results(tmp_path) / name).unlink()
    bring_out(tmp_path, first)
    assert sorted(path.name for path in results(tmp_path).iterdir()) == ["a", "c", "old"]
    bring_out(tmp_path, second)
    assert [(results(tmp_path) / name).read_text() for name in "abc"] == list("abc")


def test_a_full_disk_is_told_and_what_it_lacks_comes_when_there_is_room(
    tmp_path: Path, inside: disk.Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    (results(tmp_path) / "a").write_text("text")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[tuple[str, bytes]] = []
    port, outside = os.pipe()[::-1]
    link = object.__new__(process_1._Serial)
    link._disk, link.control, link._open, link.relayed, link._complaint = inside, port, {}, {}, ""
    monkeypatch.setattr(link, "pass_on", lambda name, data: said.append((name, data)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert not link.tell_files()
        assert not link.tell_files()
    ((name, words),) = said
    assert (name, words.decode().rpartition(": ")[2]) == ("stderr", "No space left on device\n")
    assert link.tell_files()
    place = os.read(outside, 100).split()
    os.close(port)
    os.close(outside)
    (results(tmp_path) / "a").unlink()
    bring_out(tmp_path, (int(place[1]), int(place[2])))
    assert (results(tmp_path) / "a").read_text() == "text"


def hostile(folder: Path, member: tarfile.TarInfo) -> tuple[int, int]:
    """A disk with an archive of a machine that wishes us ill."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(member, io.BytesIO(b"x" * member.size))
    (folder / "disk").write_bytes(data.getvalue())
    return 0, len(data.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return found


@pytest.mark.parametrize(
    "name",
    ["etc/x", "{share}/../x", "{share}", "{share}-2/x", "/../..{share}/../x", "{share}/out/x"],
)
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    results(tmp_path).mkdir()
    (tmp_path / "results-2").mkdir()
    (results(tmp_path) / "out").symlink_to(tmp_path / "results-2")
    before = sorted(tmp_path.rglob("*"))
    place = hostile(tmp_path, member(name.format(share=results(tmp_path))))
    with pytest.raises(ValueError, match="not a file in a folder of the results"):
        bring_out(tmp_path, place)
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "disk") == before


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_nothing_but_files_is_made(tmp_path: Path, kind: bytes) -> None:
    results(tmp_path).mkdir()
    place = hostile(tmp_path, member(f"{results(tmp_path)}/x", kind, "/etc/passwd"))
    with pytest.raises(ValueError, match="not a file"):
        bring_out(tmp_path, place)
    assert list(results(tmp_path).iterdir()) == []


@pytest.mark.parametrize("place", [(-1, 0), (0, 1 << 40), (512, 0)])
def test_a_place_that_the_disk_has_not_is_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    disk.write(tmp_path / "disk", b"{}\n", [])
    with pytest.raises(ValueError, match="no place"):
        disk.receive(tmp_path / "disk", *place, [tmp_path])


@given(st.binary(min_size=1, max_size=3000))
def test_what_is_no_archive_writes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("out")
    results(folder).mkdir()
    (folder / "disk").write_bytes(b"\x01" + data)
    with pytest.raises(ValueError, match="not an archive of files"):
        bring_out(folder, (0, len(data) + 1))
    assert list(results(folder).iterdir()) == []


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


def test_a_distribution_without_a_list_of_its_files_is_found_by_what_it_is_imported_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, declares in [("some_thing", "some_other\nalone\n"), ("plain_one", "")]:
        (facts := tmp_path / f"{name}-1.dist-info").mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (facts / "top_level.txt").write_text(declares)
    for package in ("some_other", "plain_one"):
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "part/__init__.py").touch()
    (tmp_path / "alone.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def found(name: str) -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in image._installed(name)}

    assert found("some-thing") == {
        "some_other/__init__.py",
        "some_other/part/__init__.py",
        "alone.py",
    }
    assert found("plain-one") == {"plain_one/__init__.py", "plain_one/part/__init__.py"}
    (tmp_path / "plain_one").rename(tmp_path / "called_otherwise")
    importlib.invalidate_caches()
    with pytest.raises(HostError, match="the distribution plain-one"):
        found("plain-one")


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
    monkeypatch.setattr(image, "wanted", lambda: [odd])
    image.make(tmp_path / "root", tmp_path / "kernel", "quiet", work)
    assert os.fsencode(odd) in (work / "listing").read_bytes()


def test_nothing_that_writes_the_disk_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work := tmp_path / "work").mkdir()
    tool = tmp_path / "grub-mkrescue"
    tool.write_text(f"#!/bin/sh\nsleep 600 >&- 2>&- &\necho $! > {tmp_path}/pid\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(image, "wanted", list)
    with pytest.raises(MeasurementError, match="root cannot be written"):
        image.make(tmp_path / "root", tmp_path / "kernel", "quiet", work)
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_program_may_be_where_the_path_does_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool").touch(0o755)
    monkeypatch.setattr(tools, "_MORE_PLACES", str(tmp_path))
    assert tools.program("tool") == str(tmp_path / "tool")
    assert tools.program("no-such-tool") == "no-such-tool"


def test_a_runs_distributions_are_in_it_and_no_others() -> None:
    found = image.distributions("kickbench")
    assert {"kickbench", "numpy", "pyarrow", "pydantic", "pydantic-core"} <= found
    assert not {"matplotlib", "pyelftools", "pytest", "ruptures"} & found


def test_all_that_a_run_imports_is_in_the_root() -> None:
    code = (
        "import sys; before = set(sys.modules); import kickbench.cli.run, kickbench.run.runner;"
        "import kickbench.run.worker, kickbench.summary.summarise, kickbench.summary.pyperf;"
        "new = [module for name, module in sys.modules.items() if name not in before];"
        "print(*(m.__file__ for m in new if getattr(m, '__file__', None)),"
        " sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    root = set(image.closure(image.wanted()))
    for path in map(Path, done.stdout.split("\n")[:-1]):
        assert path.resolve() in root, path
