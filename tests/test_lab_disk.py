# SPDX-License-Identifier: Apache-2.0
"""Files in and out of a machine by a disk, without the machine: both ends are here; and what its
root has to have."""

from __future__ import annotations

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

from kickbench.lab import disk, image

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
    with pytest.raises(ValueError, match="no archive of files"):
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


def test_a_runs_distributions_are_in_it_and_no_others() -> None:
    found = image.distributions("kickbench")
    assert {"kickbench", "numpy", "pyarrow", "pydantic", "pydantic-core"} <= found
    assert not {"matplotlib", "pytest", "ruptures"} & found


def test_all_that_a_run_imports_is_in_the_root() -> None:
    code = (
        "import sys; before = set(sys.modules); import kickbench.cli.run, kickbench.run.runner;"
        "import kickbench.run.worker, kickbench.results.summary, kickbench.results.pyperf_export;"
        "new = [module for name, module in sys.modules.items() if name not in before];"
        "print(*(m.__file__ for m in new if getattr(m, '__file__', None)),"
        " sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    root = set(image.closure(image.wanted()))
    for path in map(Path, done.stdout.split("\n")[:-1]):
        assert path.resolve() in root, path
