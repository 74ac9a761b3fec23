# SPDX-License-Identifier: Apache-2.0
"""kickbench fleet compact: every run is there once, whoever writes, packs, reads or dies."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from command import KICKBENCH, kickbench_captured
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_fleet import time_of, write

from kickbench.errors import MeasurementError
from kickbench.fleet.compact import Packed, compact
from kickbench.fleet.files import Files
from kickbench.fleet.query import ask

APRIL, MAY = time_of(40), time_of(70)
VALUES = {"sigmask": 2.0, "immediate_exit": 1.0}

ROWS = """
SELECT 'runs' AS "table", host, run_id, count(*) AS rows FROM runs GROUP BY ALL UNION ALL
SELECT 'metrics', host, run_id, count(*) FROM metrics GROUP BY ALL
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path / "store"))


def content(files: Files, say: Callable[[str], None] = pytest.fail) -> set[tuple[Any, ...]]:
    """All rows of both tables."""
    runs = ask(files, "SELECT * FROM runs", say).rows
    metrics = ask(files, "SELECT * FROM metrics", say).rows
    rows = [("runs", *row) for row in runs] + [("metrics", *row) for row in metrics]
    assert len(set(rows)) == len(rows)
    return set(rows)


def packed(files: Files, now: Any = MAY, say: Callable[[str], None] = pytest.fail) -> list[Packed]:
    done: list[Packed] = []
    compact(files, say, done.append, now)
    return done


def small_files(files: Files) -> list[str]:
    return files.list("runs", ".parquet") + files.list("metrics", ".parquet")


def packs(files: Files, level: str) -> list[str]:
    return files.list(f"packed/{level}/runs", ".parquet")


def fill(files: Files, days: Sequence[float] = (0, 1, 35)) -> set[tuple[str, str]]:
    return {(host, write(files, host, day, VALUES)) for host in "ab" for day in days}


def test_a_month_that_is_over_is_one_file(files: Files) -> None:
    fill(files)
    before = content(files)
    assert packed(files) == [Packed("2026-03", 4, 4), Packed("2026-04", 2, 2)]
    assert content(files) == before
    assert small_files(files) == []
    assert [name.split("/")[3] for name in packs(files, "months")] == [
        "month=2026-03",
        "month=2026-04",
    ]
    assert packed(files) == []
    assert not list(Path(files.url).glob("runs/*/*"))


def test_days_are_packed_again_once_their_month_is_over(files: Files) -> None:
    write(files, "a", 31, VALUES)
    assert packed(files, APRIL) == [Packed("2026-04", 1, 1)]
    write(files, "a", 32, VALUES)
    before = content(files)
    assert packed(files, APRIL) == [Packed("2026-04", 1, 1)]
    assert (len(packs(files, "days")), packs(files, "months")) == (2, [])
    assert packed(files, MAY) == [Packed("2026-04", 2, 2)]
    assert (packs(files, "days"), len(packs(files, "months"))) == ([], 1)
    assert content(files) == before


def test_a_run_that_comes_late_is_packed_too(files: Files) -> None:
    fill(files)
    packed(files)
    write(files, "c", 2, VALUES)
    before = content(files)
    assert packed(files) == [Packed("2026-03", 1, 1)]
    assert content(files) == before
    assert small_files(files) == []


@pytest.mark.parametrize("again", [False, True], ids=["small", "packed"])
def test_a_run_that_is_added_again_is_as_it_was_added_last(files: Files, again: bool) -> None:
    fill(files)
    packed(files)
    for stored, kernel in ((50, "6.12.4"), (51, "6.12.5")):
        write(files, "a", 1, VALUES, stored=time_of(stored), kernel=kernel)
        if again:
            assert packed(files) == [Packed("2026-03", 1, 1)]
    rows = ask(files, "SELECT kernel FROM runs WHERE host = 'a' ORDER BY time", pytest.fail).rows
    assert [kernel for (kernel,) in rows] == ["6.12.3", "6.12.5", "6.12.3"]
    assert ask(files, "SELECT count(*) FROM metrics", pytest.fail).rows == [(12,)]
    assert len(content(files)) == 6 + 12


@pytest.mark.parametrize("table", ["runs", "metrics"])
def test_a_damaged_small_file_stays_where_it_is(files: Files, table: str) -> None:
    fill(files)
    (damaged, _, _) = files.list(f"{table}/host=a", ".parquet")
    files.write(damaged, files.read(damaged)[:-40])
    said: list[str] = []
    before = content(files, lambda _: None)
    packed(files, say=said.append)
    assert len(said) == 1
    assert f"{damaged}: is damaged" in said[0]
    assert damaged in small_files(files)
    assert content(files, lambda _: None) == before
    write(files, "a", 0, VALUES)  # again
    assert len(content(files)) == 6 + 12


@pytest.mark.parametrize("table", ["runs", "metrics"])
def test_a_damaged_pack_costs_its_own_rows(files: Files, table: str) -> None:
    fill(files)
    packed(files)
    (march, _) = files.list(f"packed/months/{table}", ".parquet")
    files.write(march, files.read(march)[:-40])
    for host in "ab":
        write(files, host, 2, VALUES)  # so that the month is looked at
    said: list[str] = []
    rows = ask(files, "SELECT host, run_id, value FROM metrics", said.append).rows
    assert len(rows) == 8
    assert len(said) == 1
    assert f"{march}: is damaged" in said[0]


def test_a_store_that_is_full_loses_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(files)
    before = content(files)

    def refuse(path: Path, data: bytes) -> None:
        raise MeasurementError(f"cannot write to {path.parent}: the disk is full")

    with monkeypatch.context() as full:
        full.setattr("kickbench.fleet.files.replace_file", refuse)
        done = kickbench_captured("fleet", "compact", files.url)
    assert (done.returncode, done.stdout) == (4, "")
    assert "the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert content(files) == before


def test_an_error_in_sql_reads_no_pack_as_damaged(files: Files) -> None:
    fill(files)
    packed(files)
    said: list[str] = []
    with pytest.raises(Exception, match="the query cannot be answered"):
        ask(files, "SELECT nonsense FROM metrics", said.append)
    assert said == []


class Killed(BaseException):
    """Nobody catches it."""


class Actor(Files):
    """Somebody who works on a store step by step, in a thread of its own.

    Each call takes a step or more. A listing sees a part of the store as it was a step before.
    """

    def __init__(self, url: str, work: Callable[[Actor], None], pivot: float) -> None:
        super().__init__(url)
        self.fault: BaseException | None = None
        self._pivot, self._work = pivot, work
        self._go, self._back, self._one = (threading.Semaphore(0) for _ in range(3))
        self._one.release()
        self._killed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._work(self)
        except Killed:
            pass
        except BaseException as fault:  # told by the test's own thread
            self.fault = fault
        finally:
            self.done = True
            self._back.release()

    done = False

    def step(self) -> None:
        """Go on until the next call."""
        if not self.done:
            self._go.release()
            self._back.acquire()
            if self.fault is not None:
                raise self.fault

    def kill(self) -> None:
        self._killed = True
        self.step()
        while not self.done:
            self.step()

    def wait(self) -> None:
        """Until the next step."""
        with self._one:
            self._back.release()
            self._go.acquire()
            if self._killed:
                raise Killed

    def list(self, name: str, suffix: str) -> list[str]:
        self.wait()
        first = super().list(name, suffix)
        self.wait()
        second = super().list(name, suffix)
        names = sorted({*first, *second})
        pivot = names[int(self._pivot * len(names))] if names else ""
        return [n for n in first if n < pivot] + [n for n in second if n >= pivot]

    def read(self, name: str) -> bytes:
        self.wait()
        return super().read(name)

    def write(self, name: str, data: bytes) -> None:
        self.wait()
        super().write(name, data)

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            self.wait()
            super().remove([name])


def reads(known: set[tuple[str, str]]) -> Callable[[Files], None]:
    """Read, and see every run once: those that are known, and maybe others."""

    def work(files: Files) -> None:
        must = set(known)
        rows = ask(files, ROWS, pytest.fail).rows
        for table, each in (("runs", 1), ("metrics", 2)):
            found = [row[1:] for row in rows if row[0] == table]
            assert must <= {row[:2] for row in found}
            assert {row[2] for row in found} <= {each}

    return work


def adds(known: set[tuple[str, str]], runs: Sequence[tuple[str, float]]) -> Callable[[Files], None]:
    def work(files: Files) -> None:
        for host, day in runs:
            known.add((host, write(files, host, day, VALUES, stored=time_of(80))))

    return work


def finish(actor: Actor) -> int:
    """Let it go on to its end; how many steps that took."""
    steps = 0
    while not actor.done:
        actor.step()
        steps += 1
    return steps


def pack(files: Files) -> None:
    compact(files, pytest.fail, now=MAY)


def test_a_reader_sees_every_run_whenever_the_store_is_packed(tmp_path: Path) -> None:
    known = fill(Files(str(tmp_path / "0")), [0])
    steps = finish(Actor(str(tmp_path / "0"), reads(known), 0.5))
    assert steps > 5
    for step in range(steps):
        files = Files(str(tmp_path / f"{step + 1}"))
        reader = Actor(files.url, reads(fill(files, [0])), 0.5)
        for _ in range(step):
            reader.step()
        pack(files)
        finish(reader)


@pytest.mark.parametrize("days_first", [False, True], ids=["small", "days"])
def test_every_run_is_there_wherever_packing_is_killed(tmp_path: Path, days_first: bool) -> None:
    step = 0
    while True:
        step += 1
        files = Files(str(tmp_path / f"{step}"))
        known = fill(files, [0])
        if days_first:
            packed(files, time_of(5))
        packer = Actor(files.url, pack, 0.5)
        for _ in range(step):
            packer.step()
        if packer.done:
            break
        reads(known)(files)
        packer.kill()
        reads(known)(files)
        pack(files)
        reads(known)(files)
        assert small_files(files) == packs(files, "days") == []
    assert step > 10


@settings(max_examples=10, deadline=None)
@given(
    turns=st.lists(st.integers(0, 5), max_size=120),
    pivots=st.lists(st.floats(0, 0.99), min_size=6, max_size=6),
    killed=st.none() | st.integers(0, 60),
    days_first=st.booleans(),
)
def test_every_run_is_there_once_at_every_moment(
    turns: list[int], pivots: list[float], killed: int | None, days_first: bool
) -> None:
    with TemporaryDirectory() as folder:
        files = Files(folder)
        known = {
            (host, write(files, host, day, VALUES))
            for host, day in (("a", 0), ("a", 31), ("b", 31))
        }
        if days_first:
            packed(files, APRIL)
            known.add(("b", write(files, "b", 32, VALUES)))
        packer, other = (
            (lambda some, now=now: compact(some, pytest.fail, now=now)) for now in (MAY, APRIL)
        )
        second = packer if killed is None else other
        works = [packer, second, adds(known, [("c", 1), ("a", 31)]), *[reads(known)] * 3]
        actors = [Actor(folder, *both) for both in zip(works, pivots, strict=True)]
        for number, turn in enumerate(turns):
            if number == killed:
                actors[0].kill()
            actors[turn].step()
        while not all(actor.done for actor in actors):
            for actor in actors:
                actor.step()
        reads(known)(files)
        packed(files, MAY)
        reads(known)(files)
        assert small_files(files) == []


def test_processes_that_pack_write_and_read_at_once(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    known = {(host, write(files, host, day, VALUES)) for host in "abc" for day in range(31)}
    words = {
        "pack": ["fleet", "compact", files.url],
        "read": ["fleet", "query", files.url, ROWS, "--json"],
    }
    packing = [subprocess.Popen([*KICKBENCH, *words["pack"]]) for _ in range(2)]
    adding = threading.Thread(target=lambda: adds(known, [("d", day) for day in range(20)])(files))
    adding.start()
    found = []
    while any(process.poll() is None for process in packing):
        must = set(known)
        done = kickbench_captured(*words["read"])
        assert (done.returncode, done.stderr) == (0, "")
        found.append((must, json.loads(done.stdout)))
    adding.join()
    assert [process.wait() for process in packing] == [0, 0]
    for must, rows in found:
        for table, each in (("runs", 1), ("metrics", 2)):
            there = {(r["host"], r["run_id"]): r["rows"] for r in rows if r["table"] == table}
            assert must <= there.keys()
            assert set(there.values()) == {each}
    reads(known)(files)


def test_the_command_says_what_it_packed(files: Files) -> None:
    fill(files)
    (damaged, *_) = files.list("metrics/host=a", ".parquet")
    files.write(damaged, b"nonsense")
    done = kickbench_captured("fleet", "compact", files.url)
    assert done.returncode == 0
    assert done.stdout == (
        "2026-03: 3 runs packed, and 3 files of each table removed\n"
        "2026-04: 2 runs packed, and 2 files of each table removed\n"
    )
    assert f"{damaged}: is damaged" in done.stderr
