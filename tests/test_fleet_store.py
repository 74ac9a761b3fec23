# SPDX-License-Identifier: Apache-2.0
"""kickbench fleet add and query: a store in a folder, and one behind S3's own protocol."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from command import kickbench_captured
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from synthetic_fleet import write
from synthetic_night import night
from watching import wait_for

from kickbench.compare.metrics import points
from kickbench.errors import MeasurementError, UsageError
from kickbench.fleet import store, tables
from kickbench.fleet.compact import compact
from kickbench.fleet.files import Files
from kickbench.fleet.nights import exchange
from kickbench.fleet.query import ask, frame
from kickbench.nightly.history import History
from kickbench.results.schema import is_safe_name
from kickbench.summary.data import RunData

ROOT = Path(__file__).parent.parent
CASES = [synthetic_run.case(vcpus=1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.build(tmp_path_factory.mktemp("results"), cases=CASES)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet, at each kind of place."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server on loopback that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "anything")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        # An earlier server of this process had another port, which fsspec remembers, and left its
        # buckets to this one.
        s3fs.S3FileSystem.clear_instance_cache()
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # noqa: S310 (our own server)
        s3fs.S3FileSystem().mkdir("fleet")
        yield "s3://fleet"
    server.stop()


def answer(url: str, sql: str) -> list[tuple[Any, ...]]:
    said: list[str] = []
    rows = ask(Files(url), sql, said.append).rows
    assert said == []
    return list(rows)


def kept_from(tmp_path: Path, host: str, number: int = 0, **changes: Any) -> RunData:
    """A run of a host of this name."""
    environment = copy.deepcopy(synthetic_run.ENVIRONMENT)
    environment["hostname"] = host
    environment["kernel"] |= changes
    folder = synthetic_run.build(
        tmp_path / "results", cases=CASES, environment=environment, seed=number, rounds=8
    )
    return RunData.load(folder)


def test_a_run_can_be_asked_for_what_it_found(url: str, run: Path) -> None:
    done = kickbench_captured("fleet", "add", url, run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"testhost {run.name}\n"
    data = RunData.load(run)
    wanted = {
        (p.case, p.method, p.metric + (" difference" if p.baseline else "")): (
            p.estimate.value,
            p.estimate.low,
            p.estimate.high,
        )
        for p in points(data.summary)
    }
    sql = """SELECT host, cpu_model, kernel, microcode, scenario, "case", method, metric,
        value, low, high FROM metrics"""
    rows = answer(url, sql)
    assert {row[5:8]: row[8:] for row in rows} == wanted
    assert {row[:5] for row in rows} == {
        ("testhost", "Imaginary CPU 3000", "6.12.0-test", "0x1", "synthetic")
    }
    assert answer(url, "SELECT run_id, ok, skipped, failed FROM runs") == [(run.name, 1, 0, 0)]


def test_the_results_folder_comes_back_whole(url: str, run: Path) -> None:
    files = Files(url)
    store.add_run(files, RunData.load(run))
    place = f"results/host=testhost/{run.name}/"
    there = {name.removeprefix(place): files.read(name) for name in files.list("results", "")}
    here = {path for path in run.rglob("[!.]*") if path.is_file()}
    assert there == {path.relative_to(run).as_posix(): path.read_bytes() for path in here}


def test_a_run_that_is_added_again_is_there_once(url: str, run: Path) -> None:
    for _ in range(2):
        store.add_run(Files(url), RunData.load(run))
    assert answer(url, "SELECT count(*) FROM runs") == [(1,)]


def test_hosts_write_at_once(url: str, tmp_path: Path) -> None:
    runs = [kept_from(tmp_path, f"host-{number % 4}", number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: store.add_run(Files(url), data), runs))
    rows = answer(url, "SELECT host, runs FROM hosts ORDER BY host")
    assert rows == [(f"host-{number}", 2) for number in range(4)]
    assert answer(url, "SELECT count(DISTINCT run_id) FROM metrics") == [(8,)]


def test_small_files_are_packed_wherever_the_store_is(url: str, tmp_path: Path) -> None:
    for host in "ab":
        store.add_run(Files(url), kept_from(tmp_path, host))
    sql = "SELECT * FROM metrics ORDER BY ALL"
    before = answer(url, sql)
    done = kickbench_captured("fleet", "compact", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2026-03: 2 runs packed, and 2 files of each table removed\n"
    assert Files(url).list("metrics", "") == Files(url).list("runs", "") == []
    assert answer(url, sql) == before
    assert answer(url, "SELECT host, runs FROM hosts") == [("a", 1), ("b", 1)]


def test_a_history_is_kept_wherever_the_store_is(url: str, tmp_path: Path) -> None:
    History(tmp_path / "here").append(night(0))
    exchange(Files(url), "history/host=alpha", tmp_path / "here")
    exchange(Files(f"{url}/history/host=alpha"), "", tmp_path / "there")
    (kept,) = History(tmp_path / "there").partitions()
    assert kept.runs == (f"{night(0).run_id}.parquet",)


def test_a_host_is_what_it_was_last(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    store.add_run(files, kept_from(tmp_path, "a", release="6.12.9"))
    sql = "SELECT host, kernel, fingerprints, runs FROM hosts"
    assert ask(files, sql, pytest.fail).rows == [("a", "6.12.9", 1, 1)]
    store.add_run(files, kept_from(tmp_path, "a", cmdline="another"))
    assert ask(files, "SELECT fingerprints, runs FROM hosts", pytest.fail).rows == [(2, 2)]


def test_a_host_that_dies_while_it_writes_has_no_run_there(
    url: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Files.write

    def die(self: Files, name: str, data: bytes) -> None:
        if name.startswith(tables.RUNS):
            raise MeasurementError("it died")
        write(self, name, data)

    with monkeypatch.context() as dying:
        dying.setattr(Files, "write", die)
        with pytest.raises(MeasurementError):
            store.add_run(Files(url), RunData.load(run))
    said: list[str] = []
    assert ask(Files(url), "SELECT * FROM runs", said.append).rows == []
    assert ask(Files(url), "SELECT * FROM metrics", said.append).rows == []
    store.add_run(Files(url), RunData.load(run))
    assert answer(url, "SELECT count(*) FROM runs") == [(1,)]
    assert answer(url, "SELECT count(*) > 0 FROM metrics") == [(True,)]


def test_a_damaged_file_costs_its_own_rows(url: str, run: Path, tmp_path: Path) -> None:
    files = Files(url)
    store.add_run(files, RunData.load(run))
    store.add_run(files, kept_from(tmp_path, "other"))
    (damaged,) = files.list("metrics/host=other", ".parquet")
    files.write(damaged, files.read(damaged)[:-100])
    row = files.read("runs" + damaged.removeprefix("metrics"))
    for table in ("metrics", "runs"):
        files.write(f"{table}/host=other/month=2026-01/foreign.parquet", row)
    files.write("runs/readme.parquet", b"hello")
    done = kickbench_captured("fleet", "query", url, "SELECT DISTINCT host FROM metrics")
    assert (done.returncode, done.stdout) == (0, "host\ntesthost\n")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert any("runs/readme.parquet: is no file of a store" in line for line in lines)
    assert any(f"{damaged}: is damaged" in line for line in lines)
    assert any("foreign.parquet: has not the columns of this table" in line for line in lines)


def machines_of_one_name(url: str, machines: str, **columns: dict[str, Any]) -> None:
    """A run of "localhost" each night, each by the machine of that letter."""
    for day, letter in enumerate(machines):
        own = {"machine_id": f"{letter}1234567890f", "cpu_model": "A CPU"} | columns.get(letter, {})
        write(Files(url), "localhost", day, {"sigmask": day}, **own)


def test_two_machines_of_one_name_are_two_hosts(url: str) -> None:
    machines_of_one_name(url, "abab")
    write(Files(url), "other", 0, {"sigmask": 1}, machine_id="c1234567890f")
    done = kickbench_captured(
        *(
            "fleet",
            "query",
            url,
            "SELECT host, list(value ORDER BY time) v FROM metrics GROUP BY 1",
        ),
        "--json",
    )
    assert sorted(json.loads(done.stdout), key=lambda row: str(row["host"])) == [
        {"host": "localhost@a1234567", "v": [0, 2]},
        {"host": "localhost@b1234567", "v": [1, 3]},
        {"host": "other", "v": [1]},
    ]
    (line,) = done.stderr.splitlines()
    assert "localhost is the name of several machines" in line
    assert "localhost@a1234567 and localhost@b1234567" in line
    assert "KICKBENCH_HOSTNAME" in line
    said: list[str] = []
    sql = "SELECT host, runs FROM hosts ORDER BY host"
    wanted = [("localhost@a1234567", 2), ("localhost@b1234567", 2), ("other", 1)]
    for _ in range(2):
        assert ask(Files(url), sql, said.append).rows == wanted
        compact(Files(url), pytest.fail)
    assert len(said) == 2


@pytest.mark.parametrize(
    "machines",
    ["aaab", "aabb", "abc", "aaba", "baab"],
    ids=["new", "installed anew", "twice", "a clock was ahead", "a clock was behind"],
)
def test_a_host_that_was_installed_anew_is_one_host(tmp_path: Path, machines: str) -> None:
    machines_of_one_name(str(tmp_path), machines)
    assert answer(str(tmp_path), "SELECT host, runs FROM hosts") == [("localhost", len(machines))]


def test_machines_without_an_id_are_told_apart_by_their_cpus(tmp_path: Path) -> None:
    unknown = {"machine_id": None}
    machines_of_one_name(str(tmp_path), "abab", a=unknown, b=unknown | {"cpu_model": "B CPU"})
    said: list[str] = []
    rows = ask(Files(str(tmp_path)), "SELECT cpu_model, runs FROM hosts ORDER BY 1", said.append)
    assert rows.rows == [("A CPU", 2), ("B CPU", 2)]
    assert len(said) == 1


def test_a_run_without_an_id_is_of_no_other_machine(tmp_path: Path) -> None:
    machines_of_one_name(str(tmp_path), "abab", b={"machine_id": None})
    assert answer(str(tmp_path), "SELECT host, runs FROM hosts") == [("localhost", 4)]


def test_an_answer_is_a_table_or_json(run: Path, tmp_path: Path) -> None:
    store.add_run(Files(str(tmp_path)), RunData.load(run))
    sql = "SELECT host, time, 1 / 3.0::DOUBLE AS third, NULL AS nothing FROM runs"
    table = kickbench_captured("fleet", "query", tmp_path, sql)
    assert table.stdout.splitlines() == [
        "host      time                 third      nothing",
        "testhost  2026-03-01 12:00:00  0.3333333",
    ]
    (row,) = json.loads(kickbench_captured("fleet", "query", tmp_path, sql, "--json").stdout)
    assert row == {
        "host": "testhost",
        "time": "2026-03-01 12:00:00+00:00",
        "third": 1 / 3,
        "nothing": None,
    }


def test_an_answer_is_a_frame_of_pandas(url: str, run: Path) -> None:
    store.add_run(Files(url), RunData.load(run))
    found = frame(url, "SELECT host, time, NULL::DOUBLE AS nothing FROM runs", pytest.fail)
    assert list(found["host"]) == ["testhost"]
    assert str(found["time"][0]) == "2026-03-01 12:00:00+00:00"
    assert found["nothing"].isna().all()


def test_an_empty_store_has_its_views(tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "query", tmp_path, "SELECT host, value FROM metrics")
    assert (done.returncode, done.stdout) == (0, "host  value\n")
    assert done.stderr.count("no runs yet") == 1
    done = kickbench_captured("fleet", "report", tmp_path)
    assert (done.returncode, done.stdout.count("no runs yet")) == (0, 1)
    assert not [*tmp_path.iterdir()]


def test_a_wrong_query_of_an_empty_store_is_told_in_a_line(tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "query", tmp_path, "SELECT price FROM runs")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "price" in done.stderr


@pytest.mark.parametrize(
    "words", [["query", "SELECT * FROM runs"], ["report"], ["compact"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize("name", ["{new}", "file://{new}", "/dev/null", "/dev/null/store"])
def test_a_store_to_read_must_be_there(words: list[str], name: str, tmp_path: Path) -> None:
    store = name.format(new=tmp_path / "new")
    command, *sql = words
    done = kickbench_captured("fleet", command, store, *sql)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"the store {store} " in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_frame_is_of_a_store_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="new does not exist"):
        frame(str(tmp_path / "new"), "SELECT * FROM runs", pytest.fail)


def test_a_bucket_without_files_has_no_runs_yet(tmp_path: Path) -> None:
    said: list[str] = []
    assert frame(f"memory://{tmp_path}", "SELECT * FROM runs", said.append).empty
    assert ["no runs yet" in line for line in said] == [True]


def test_ctrl_c_ends_a_query_while_duckdb_works(tmp_path: Path) -> None:
    begun = tmp_path / "begun.csv"
    endless = "FROM range(1000000000000000) SELECT count(*) WHERE range % 7 = 3"
    sql = f"COPY (FROM range(1)) TO '{begun}'; {endless}"
    words = [sys.executable, "-m", "kickbench", "fleet", "query", str(tmp_path), sql]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(begun.exists)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "kickbench: interrupted"
    assert "Traceback" not in said


def test_ctrl_c_while_a_folder_is_looked_for_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "runs").mkdir()
    files = Files(str(tmp_path))
    monkeypatch.setattr(LocalFileSystem, "info", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.list("runs", ".parquet")


def test_what_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, ['inf'::DOUBLE, 1.5] AS b, 'NaN' AS c"
    done = kickbench_captured("fleet", "query", tmp_path, sql, "--json")
    assert json.loads(done.stdout, parse_constant=pytest.fail) == [
        {"a": None, "b": [None, 1.5], "c": "NaN"}
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["query", "{folder}", "SELEC"], 2, "the query cannot be answered"),
        (["query", "{folder}", "SELECT nonsense FROM metrics"], 2, "nonsense"),
        (["query", "nonsense://x", "SELECT 1"], 2, "is no store that can be opened here"),
        (["query", "{folder}", ""], 2, "the query is empty"),
        (["query", "{folder}", "/* nothing */"], 2, "the query is empty"),
        (["query", "{folder}", "SELECT 1 a, 2 a", "--json"], 2, "two columns are called 'a'"),
        (["query", "", "SELECT 1"], 2, "the store's name is empty"),
        (["query", "{file}", "SELECT * FROM runs"], 2, "the store {file} is no folder"),
        (["compact", "{file}"], 2, "the store {file} is no folder"),
        (["report", "{file}"], 2, "the store {file} is no folder"),
        (["add", "{file}", "{run}"], 2, "the store {file} is no folder"),
        (["add", "{folder}", "{folder}"], 2, "is not a results folder"),
        (["add", "{folder}", "{run}", "--host", "a/b"], 2, "'a/b' is no name"),
        (["add", "{folder}", "{run}", "--host", "x" * 61], 2, "is no name"),
    ],
)
def test_what_goes_wrong_is_one_line(
    tmp_path: Path, run: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "file").write_text("")
    places = {"folder": tmp_path, "file": tmp_path / "file", "run": run}
    done = kickbench_captured("fleet", *(word.format(**places) for word in arguments))
    assert done.returncode == code, done.stderr
    line = done.stderr.splitlines()[-1]
    assert words.format(**places) in line


RUN_FILE = "runs/host=a/month=2026-03/x.parquet"


@pytest.mark.parametrize("link", [False, True], ids=["pipe", "link to a pipe"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("store.json", ["query", "SELECT 1"]),
        ("store.json", ["report"]),
        ("store.json", ["compact"]),
        ("store.json", ["add", "{run}"]),
        (RUN_FILE, ["query", "SELECT 1"]),
        (RUN_FILE, ["compact"]),
    ],
)
def test_a_pipe_in_a_store_is_refused(
    tmp_path: Path, run: Path, name: str, words: list[str], link: bool
) -> None:
    path = tmp_path / "store" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" if link else path)
    if link:
        path.symlink_to(tmp_path / "pipe")
    command, *more = (word.format(run=run) for word in words)
    done = kickbench_captured("fleet", command, tmp_path / "store", *more)
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert f"cannot be read: {name} is not a regular file" in line


def test_a_file_of_a_store_may_be_a_link(tmp_path: Path, run: Path) -> None:
    store.add_run(Files(str(tmp_path / "store")), RunData.load(run))
    (tmp_path / "store/store.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "store/store.json").symlink_to(tmp_path / "elsewhere.json")
    assert answer(str(tmp_path / "store"), "SELECT count(*) FROM runs") == [(1,)]


def test_a_bucket_that_is_not_there_is_one_line(bucket: str, run: Path) -> None:
    done = kickbench_captured("fleet", "add", f"{bucket}-not/store", run)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert "cannot be written to: The specified bucket does not exist" in line


def test_a_run_that_was_interrupted_is_refused(tmp_path: Path) -> None:
    folder = synthetic_run.build(tmp_path / "results", cases=CASES, finish=False)
    done = kickbench_captured("fleet", "add", tmp_path / "store", folder)
    assert done.returncode == 2
    assert "was interrupted; finish it first" in done.stderr
    assert not (tmp_path / "store").exists()


@given(st.text(max_size=80))
def test_any_host_has_a_name_that_a_path_can_have(name: str) -> None:
    assert is_safe_name(store.host_name({"hostname": name}))


def test_a_name_that_no_path_can_have_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name"):
        store.add_run(Files(str(tmp_path)), RunData.load(run), "..")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("table", [tables.RUNS, tables.METRICS_TABLE])
def test_the_page_has_every_column(table: str) -> None:
    page = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### `{table}`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert found == ["host", *(name for name, _, _ in tables.COLUMNS[table]), "month"]
