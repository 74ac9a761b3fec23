# SPDX-License-Identifier: Apache-2.0
"""Writing run folders: nothing finished is lost, nobody writes into another's run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import synthetic_run
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.errors import MeasurementError, UsageError
from kickbench.results import files, writer
from kickbench.results.reader import RunReader
from kickbench.results.schema import SCHEMA
from kickbench.results.tables import from_worker
from kickbench.results.writer import RunWriter, check_place

ONE = synthetic_run.case(1, processes=1)
TWO = synthetic_run.case(2, processes=1)
SMALL = {"shift_ns": 30.0, "rounds": 4, "exits": 50}
ROOT = Path(__file__).parent.parent


def create(path, *, cases=(ONE, TWO), scenario_name="unit", **other):
    return RunWriter.create(
        path, scenario_name, scenario={}, cases=list(cases), environment={}, **other
    )


def write(writer, parameters, **other):
    tables = synthetic_run.case_tables(parameters, **SMALL, **other)
    writer.write_case(parameters["id"], synthetic_run.case_document(parameters, rounds=4), tables)


def statuses(path):
    return [record.status for record in RunReader(path).cases]


def leftovers(path):
    return [item for item in path.rglob(".*") if item.name != ".lock"]


def python(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


# --- the normal course -------------------------------------------------------------------------


def test_a_run_reads_back_as_it_was_written(tmp_path):
    tables = synthetic_run.case_tables(ONE, **SMALL)
    with create(tmp_path, command=["kickbench", "run"], host="box", now=synthetic_run.NOW) as run:
        assert run.pending == [ONE["id"], TWO["id"]]
        assert statuses(run.path) == ["pending", "pending"]
        run.write_case(ONE["id"], synthetic_run.case_document(ONE), tables)
        run.mark(TWO["id"], "skipped", "no node 1\non this host")
        assert not RunReader(run.path).complete
        run.finish()
    reader = RunReader(run.path)
    assert reader.complete
    assert reader.manifest["command"] == ["kickbench", "run"]
    assert reader.manifest["created_utc"] == "2026-03-01T12:00:00Z"
    assert re.fullmatch(r"20260301T120000Z-box-[0-9a-f]{8}", reader.run_id)
    assert run.path == tmp_path / "unit" / reader.run_id
    assert statuses(run.path) == ["ok", "skipped"]
    assert reader.case(TWO["id"]).reason == "no node 1 on this host"
    assert reader.case(TWO["id"]).document is None
    assert reader.case(ONE["id"]).document["processes"][0]["clock"]["hz"] == synthetic_run.HZ
    for name, table in tables.items():
        assert reader.table(ONE["id"], name).equals(table)
        assert reader.count_rows(ONE["id"], name) == len(table)
        batches = list(reader.batches(ONE["id"], name, ["method", "process"], batch_rows=7))
        assert max(map(len, batches)) == 7
        assert batches[0].schema.names == ["method", "process"]
        assert sum(map(len, batches)) == len(table)
    assert leftovers(run.path) == []


def test_finish_with_pending_cases_is_not_complete(tmp_path):
    with create(tmp_path) as run:
        run.mark(ONE["id"], "failed", "the guest crashed")
        run.finish()
    assert not RunReader(run.path).complete


def test_a_closed_folder_takes_no_more(tmp_path):
    with create(tmp_path) as run:
        pass
    run.close()
    with pytest.raises(ValueError, match="closed"):
        run.mark(ONE["id"], "skipped", "late")


def test_misuse_is_refused(tmp_path):
    tables = synthetic_run.case_tables(ONE, **SMALL)
    document = synthetic_run.case_document(ONE)
    with create(tmp_path) as run:
        with pytest.raises(ValueError, match="has no case"):
            run.mark("nonsense", "skipped", "")
        with pytest.raises(ValueError, match="has the tables"):
            run.write_case(ONE["id"], document, {"blocks": tables["blocks"]})
        with pytest.raises(ValueError, match="from_worker"):
            run.write_case(ONE["id"], document, {**tables, "blocks": tables["exit_samples"]})
        run.write_case(ONE["id"], document, tables)
        with pytest.raises(ValueError, match="only write_case"):
            run.mark(ONE["id"], "failed", "changed my mind")
        with pytest.raises(ValueError, match="written before"):
            run.write_case(ONE["id"], document, tables)
        assert statuses(run.path) == ["ok", "pending"]


def test_values_that_could_not_be_read_back_are_not_written(tmp_path):
    arrays = synthetic_run.worker_arrays(ONE, 0, **SMALL)
    arrays["blocks"]["timed_cycles"][3] = -5
    tables = {
        name: from_worker(name, array, entries=synthetic_run.entries_of(ONE), process=0)
        for name, array in arrays.items()
    }
    with create(tmp_path) as run:
        with pytest.raises(MeasurementError, match=r"timed_cycles goes from -5"):
            run.write_case(ONE["id"], synthetic_run.case_document(ONE), tables)
        assert statuses(run.path) == ["pending", "pending"]
        assert leftovers(run.path) == []


@settings(deadline=None)
@given(host=st.text(max_size=80), name=st.text(min_size=1, max_size=80))
def test_any_host_and_scenario_name_stays_one_folder_deep(host, name):
    name = name if name.isprintable() else "printable"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with create(base, scenario_name=name, host=host) as run:
            pass
        assert run.path.resolve().parent.parent == base.resolve()
        assert re.fullmatch(r"[0-9TZ]{16}-[A-Za-z0-9._+-]{1,40}-[0-9a-f]{8}", run.path.name)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", run.path.parent.name)
        assert RunReader(run.path).scenario_name == name


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "<script>", "x" * 300, "ü", "-rf", "."])
def test_hostile_names_become_harmless(tmp_path, name):
    with create(tmp_path / "results", scenario_name=name, host=name) as run:
        pass
    assert run.path.parent.parent == tmp_path / "results"
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_reason_and_any_environment_reads_back(text):
    with tempfile.TemporaryDirectory() as folder:
        run = RunWriter.create(
            folder, "unit", scenario={}, cases=[ONE], environment={"cmdline": text}
        )
        with run:
            run.mark(ONE["id"], "failed", text)
        reader = RunReader(run.path)
        encodable = text.encode("utf-8", "replace").decode()
        assert reader.environment["cmdline"] == encodable
        assert "\n" not in reader.case(ONE["id"]).reason


def test_a_command_line_that_is_not_unicode_reads_back(tmp_path):
    with create(tmp_path, command=["kickbench", "run", "caf\udce9.toml"]) as run:
        pass
    assert RunReader(run.path).manifest["command"][2] == "caf?.toml"


def test_an_impossible_results_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot make a folder there.*; choose another --results"):
        create(tmp_path / "file")


# --- one writer --------------------------------------------------------------------------------

HOLD = """
import sys
from kickbench.results.writer import RunWriter, check_place
with RunWriter.resume(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused(tmp_path):
    with create(tmp_path) as run, pytest.raises(UsageError, match="in use by another kickbench"):
        RunWriter.resume(run.path)
    with RunWriter.resume(run.path):
        pass


def test_a_writer_in_another_process_is_respected_until_it_dies(tmp_path):
    with create(tmp_path) as run:
        pass
    with python(HOLD, run.path) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="in use"):
            RunWriter.resume(run.path)
        RunReader(run.path)  # readers need no lock
        other.kill()
    with RunWriter.resume(run.path) as again:
        assert again.pending == [ONE["id"], TWO["id"]]


def test_a_lock_is_not_inherited_by_the_workers(tmp_path):
    run = create(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as worker:
        run.close()
        with RunWriter.resume(run.path):
            pass
        worker.kill()


CREATE = """
import datetime, sys
import synthetic_run
from kickbench.results.writer import RunWriter, check_place
sys.stdin.readline()
for i in range(40):
    with RunWriter.create(sys.argv[1], "same", scenario={}, cases=[], host="same",
                          environment={"me": sys.argv[2]}, now=synthetic_run.NOW) as run:
        print(run.path.name)
"""


def test_two_processes_never_share_a_folder(tmp_path):
    writers = [python(CREATE, tmp_path, i) for i in range(2)]
    for one in writers:
        one.stdin.write("go\n")
        one.stdin.flush()
    names = [one.communicate()[0].split() for one in writers]
    assert [len(found) for found in names] == [40, 40]
    assert len({*names[0], *names[1]}) == 80
    for me, found in enumerate(names):
        for name in found:
            assert RunReader(tmp_path / "same" / name).environment == {"me": str(me)}


def test_a_taken_name_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(tokens))
    tokens = iter(["aaaaaaaa", "t1", "aaaaaaaa", "bbbbbbbb", "t2"])
    first = create(tmp_path, host="h", now=synthetic_run.NOW)
    second = create(tmp_path, host="h", now=synthetic_run.NOW)
    assert first.path.name.endswith("-aaaaaaaa")
    assert second.path.name.endswith("-bbbbbbbb")


# --- kill -9 -----------------------------------------------------------------------------------

KILL = """
import os, signal, sys
import synthetic_run
from kickbench.results import writer
fatal = int(sys.argv[2])
count = 0
real = os.fsync
def fsync(descriptor):
    global count
    count += 1
    if count == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
with writer.RunWriter.resume(sys.argv[1]) as run:
    os.fsync = fsync
    case = synthetic_run.case(2, processes=1)
    tables = synthetic_run.case_tables(case, shift_ns=30.0, rounds=4, exits=50)
    run.write_case(case["id"], synthetic_run.case_document(case), tables)
    print("survived", count)
"""


def test_kill_9_at_any_point_of_writing_a_case_loses_nothing_finished(tmp_path):
    seen = []
    for fatal in range(1, 20):
        with create(tmp_path) as run:
            write(run, ONE)
        before = RunReader(run.path).table(ONE["id"], "blocks")
        with python(KILL, run.path, fatal) as victim:
            output = victim.communicate()[0]
        found = statuses(run.path)
        seen.append(found[1])
        assert found[0] == "ok"
        assert RunReader(run.path).table(ONE["id"], "blocks").equals(before)
        with RunWriter.resume(run.path) as again:
            assert leftovers(run.path) == []
            if again.pending:
                write(again, TWO)
            again.finish()
        assert statuses(run.path) == ["ok", "ok"]
        assert RunReader(run.path).complete
        if output:
            assert output == f"survived {fatal - 1}\n"
            break
        assert victim.returncode == -signal.SIGKILL
    else:
        pytest.fail("writing a case never ended")
    # Before the rename the case is still to do; after it, it is there, whatever the manifest says.
    assert seen == sorted(seen, reverse=True)
    assert seen.count("pending") == 5
    assert seen.count("ok") >= 3


def test_resume_removes_what_a_killed_run_left(tmp_path):
    with create(tmp_path) as run:
        write(run, ONE)
    junk = run.path / "cases" / f".{TWO['id']}.tmp-abcd1234"
    junk.mkdir()
    (junk / "blocks.parquet").write_bytes(b"PAR1 half")
    (run.path / ".manifest.json.tmp-abcd1234").write_text('{"schema"')
    assert statuses(run.path) == ["ok", "pending"]
    with RunWriter.resume(run.path):
        assert leftovers(run.path) == []
    assert statuses(run.path) == ["ok", "pending"]


def test_an_interrupt_while_writing_leaves_no_rest(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with create(tmp_path) as run:
        monkeypatch.setattr(writer, "_write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(run, ONE)
        assert leftovers(run.path) == []
        assert statuses(run.path) == ["pending", "pending"]


# --- full disk ---------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 192 KiB, where mounting is allowed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", folder]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fail_then_resume(run):
    """Write TWO, which must fail for want of room; what is found then, and after resuming."""
    with pytest.raises(MeasurementError, match=r"disk is full.*--resume") as caught:
        write(run, TWO)
    assert "\n" not in str(caught.value)
    assert leftovers(run.path) == []
    found = statuses(run.path)
    assert found[0] == "ok"
    assert len(RunReader(run.path).table(ONE["id"], "blocks")) > 0
    run.close()
    yield found[1]
    with RunWriter.resume(run.path) as again:
        if again.pending:
            write(again, TWO)
        again.finish()
    assert statuses(run.path) == ["ok", "ok"]
    yield "resumed"


def test_a_full_disk_keeps_finished_cases(tiny_disk):
    """With more and more free pages, up to where all of it but the new manifest fits."""
    filler = tiny_disk / "filler"
    seen = []
    for pages in range(20):
        with create(tiny_disk, cases=[ONE, TWO]) as run:
            write(run, ONE)
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            os.truncate(filler, filler.stat().st_size - 4096 * pages)
            if "ok" in seen:  # one page more than that is enough
                write(run, TWO)
                break
            steps = fail_then_resume(run)
            seen.append(next(steps))
            filler.unlink()
            assert next(steps) == "resumed"
        shutil.rmtree(run.path)
    assert statuses(run.path) == ["ok", "ok"]
    assert seen[0] == "pending"
    assert seen[-1] == "ok"


def test_a_full_disk_before_the_run_begins(tiny_disk):
    with (tiny_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(MeasurementError, match=r"disk is full.*make room") as caught:
        create(tiny_disk)
    assert "--resume" not in str(caught.value)
    assert [*tiny_disk.rglob("manifest.json")] == []


def test_a_file_size_limit_counts_as_a_full_disk(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with create(tmp_path) as run:
        write(run, ONE)
        steps = fail_then_resume(run)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
            assert next(steps) == "pending"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert next(steps) == "resumed"


def test_a_disk_full_at_any_fsync_leaves_a_sound_folder(tmp_path, monkeypatch):
    """ENOSPC can come as late as in fsync (delayed allocation)."""
    real = os.fsync
    count = 0
    fatal = None

    def fsync(descriptor):
        nonlocal count
        count += 1
        if count == fatal:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with create(tmp_path) as run:
        write(run, ONE)
        count = 0
        write(run, TWO)
    total = count
    assert total >= 8  # three tables, case.json, two folders, the manifest and its folder
    for number in range(1, total + 1):
        with create(tmp_path) as run:
            write(run, ONE)
            count, fatal = 0, number
            steps = fail_then_resume(run)
            assert next(steps) in ("pending", "ok")
            fatal = None
            assert next(steps) == "resumed"


def test_json_on_the_disk_is_plain(tmp_path):
    with create(tmp_path) as run:
        write(run, ONE)
    manifest = json.loads((run.path / "manifest.json").read_bytes())
    assert manifest["schema"] == SCHEMA
    assert [entry["status"] for entry in manifest["cases"]] == ["ok", "pending"]
    document = json.loads((run.path / "cases" / ONE["id"] / "case.json").read_bytes())
    assert document["status"] == "ok"
    assert document["case"] == ONE


def test_an_output_that_is_no_file_is_written_to_and_stays_what_it_is(tmp_path):
    """As root, a rename would make a file of /dev/full."""
    fifo, file = tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    files.write_output(fifo, b"text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert fifo.is_fifo()
    files.write_output(file, b"text")
    files.write_output(file, b"other")
    assert file.read_bytes() == b"other"
    device = Path("/dev/full").stat().st_rdev
    with pytest.raises(MeasurementError, match="/dev/full"):
        files.write_output(Path("/dev/full"), b"text")
    assert Path("/dev/full").stat().st_rdev == device


@pytest.mark.parametrize("place", ["taken/results", "taken", "/proc/results"])
def test_a_place_where_no_run_can_be_stored_is_told_before_a_run(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UsageError, match=r"cannot make a folder there.*choose another --results"):
        check_place(tmp_path / place)


def test_a_place_for_runs_is_made(tmp_path: Path) -> None:
    check_place(tmp_path / "new/results")
    assert (tmp_path / "new/results").is_dir()
