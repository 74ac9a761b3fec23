# SPDX-License-Identifier: Apache-2.0
"""The history: what is appended is read back, nothing damages it, strange files are left alone."""

from __future__ import annotations

import copy
import datetime
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import synthetic_night
import synthetic_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kickbench.errors import KickbenchError, MeasurementError, ResultsError, UsageError
from kickbench.nightly.collect import trends
from kickbench.nightly.events import forgotten, verdicts
from kickbench.nightly.history import History
from kickbench.nightly.night import COLUMNS, Night, scenario_digest
from kickbench.nightly.night_file import MAX_BYTES, night_bytes, parse_night
from kickbench.nightly.remarks import remarks
from kickbench.nightly.trends import Key, key_name, matching
from kickbench.results.reader import RunReader
from kickbench.summary.data import RunData
from kickbench.summary.summarise import summarise

night = synthetic_night.night
KEY = Key("exits-hlt-1vcpu-max-any", "sigmask", None, "ns_per_exit")
PAIR = Key("exits-hlt-1vcpu-max-any", "sigmask", "immediate_exit", "ns_per_exit")
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def only(history: History) -> tuple[str, str]:
    (partition,) = history.partitions()
    return partition.fingerprint, partition.scenario


def file_of(history: History, some: Night) -> Path:
    (path,) = history.folder.glob(f"*/*/{some.run_id}.parquet")
    return path


def filled(folder: Path, count: int = 3) -> tuple[History, list[Night]]:
    history = History(folder)
    nights = [night(number) for number in range(count)]
    for some in nights:
        assert history.append(some)
    return history, nights


# --- what is appended is read back --------------------------------------------------------------


def test_a_run_becomes_a_night_with_all_its_figures(tmp_path: Path) -> None:
    reader = RunReader(synthetic_run.build(tmp_path / "results"))
    some = Night.of(reader.manifest, summarise(reader))
    history = History(tmp_path / "history")
    assert history.append(some)
    (read,) = History(tmp_path / "history").nights(*only(history))
    assert read.document == some.document
    assert read.table.to_pylist() == some.table.to_pylist()
    assert read.run_id == reader.run_id
    keys = read.keys()
    assert {key.metric for key in keys} >= {"ns_per_exit", "exits_per_second"}
    assert [case["id"] for case in read.document["cases"]] == [case.id for case in reader.cases]


def test_lost_kicks_of_a_protocol_without_races_are_kept() -> None:
    summary = {
        "cases": [
            {
                "id": "race-1",
                "status": "ok",
                "findings": [
                    {"method": m, "what": w, "count": 3, "of": 9, "race_free_claim": claim}
                    for m, w, claim in (
                        ("sigmask", "lost", True),
                        ("flag_signal", "lost", False),
                        ("sigmask", "spurious", True),
                        ("mine", "lost", None),
                        ("exitfd", "rescued", True),
                    )
                ],
            }
        ]
    }
    manifest = {**synthetic_night.document(0), "scenario_name": "s"}
    manifest["scenario"] = {}
    lost = Night.of(manifest, summary).lost
    assert [(item["method"], item["what"]) for item in lost] == [
        ("sigmask", "lost"),
        ("exitfd", "rescued"),
    ]
    assert lost[0] == {"case": "race-1", "method": "sigmask", "what": "lost", "count": 3, "of": 9}


def test_accesses_not_done_once_are_kept_and_are_no_trend(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case()], rounds=10)
    data = RunData.load(run)
    summary = copy.deepcopy(data.summary)
    counts = {"accesses": 100, "twice": 0, "never": 1}
    summary["cases"][0]["methods"]["sigmask"]["accesses"] = counts
    kept = Night.of(data.reader.manifest, summary)
    (lost,) = kept.lost
    assert (lost["what"], lost["method"], lost["count"], lost["of"]) == (
        "accesses",
        "sigmask",
        1,
        101,
    )
    assert "accesses" not in kept.table["metric"].to_pylist()


def test_nights_come_by_date_whatever_the_order_of_appending(tmp_path: Path) -> None:
    history = History(tmp_path)
    for number in (3, 1, 2, 0):
        history.append(night(number))
    found = history.nights(*only(history))
    assert [some.run_id for some in found] == [night(n).run_id for n in range(4)]


def test_the_same_run_twice_stays_as_it_was(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    before = file_of(history, nights[1]).read_bytes()
    assert not history.append(night(1, step=2.0))
    assert file_of(history, nights[1]).read_bytes() == before
    assert len(history.nights(*only(history))) == 3


def test_other_readers_read_the_folder_as_it_is(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    history.forget(nights[0], "why")
    frame = pd.read_parquet(tmp_path)
    assert set(frame["run_id"]) == {some.run_id for some in nights}
    assert list(frame.columns)[: len(COLUMNS)] == [name for name, _, _ in COLUMNS]
    assert set(frame["scenario"]) == {"nightly"}
    table = ds.dataset(tmp_path, partitioning="hive").to_table()
    assert table.num_rows == sum(some.table.num_rows for some in nights)


@SETTINGS
@given(
    value=st.floats(-4e199, 4e199),
    interval=st.none() | st.tuples(st.floats(-4e199, 4e199), st.floats(0, 4e199)),
    reference=st.none() | st.floats(-4e199, 4e199),
    processes=st.integers(0, 2**31 - 1),
    text=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40),
)
def test_any_figure_survives(
    tmp_path_factory: pytest.TempPathFactory,
    value: float,
    interval: tuple[float, float] | None,
    reference: float | None,
    processes: int,
    text: str,
) -> None:
    low, high = (None, None) if interval is None else (interval[0], interval[0] + interval[1])
    row = {
        "method": text,
        "value": value,
        "ci95_low": low,
        "ci95_high": high,
        "reference": reference,
        "processes": processes,
    }
    some = night(0, rows=[synthetic_night.row(**row)])
    history = History(tmp_path_factory.mktemp("history"))
    assert history.append(some)
    (read,) = history.nights(*only(history))
    assert read.table.to_pylist() == some.table.to_pylist()


# --- faults while writing -----------------------------------------------------------------------

_APPEND_FOREVER = """
import sys
sys.path.insert(0, sys.argv[2])
from synthetic_night import night
from kickbench.nightly.history import History
history = History(sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[3]), 100000):
    history.append(night(number))
    history.add_verdict(night(number).run_id, [])
    print(number, flush=True)
"""


def start(folder: Path, first: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOREVER, folder, Path(__file__).parent, str(first)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def stop(process: subprocess.Popen[str], nights: int, seconds: float = 0) -> list[int]:
    """Kill it a moment after so many nights, and return those that it said it had finished."""
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(nights)]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said = "".join(first) + process.communicate()[0]
    return [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


def test_a_kill_at_any_moment_leaves_a_sound_history(tmp_path: Path) -> None:
    said: list[int] = []
    for attempt in range(5):
        process = start(tmp_path, 1000 * attempt)
        said += stop(process, attempt % 3, 0.0017 * attempt)
        history = History(tmp_path)
        found = history.nights(*only(history)) if history.partitions() else []
        events = history.events()
        assert not history.problems
        runs = {some.run_id for some in found}
        assert {night(number).run_id for number in said} <= runs
        assert {event.run_id for event in events} <= runs
    assert said


def test_two_jobs_at_once(tmp_path: Path) -> None:
    # The first nights are the same ones.
    both = [start(tmp_path, 0), start(tmp_path, 5)]
    said = {number for process in both for number in stop(process, 20)}
    history = History(tmp_path)
    runs = [some.run_id for some in history.nights(*only(history))]
    assert not history.problems
    assert {night(number).run_id for number in said} <= set(runs)
    assert len(set(runs)) == len(runs)


def test_a_full_disk_is_one_line_and_the_history_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, nights = filled(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(MeasurementError, match="disk is full") as full:
            history.append(night(7))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(full.value)
    assert [some.run_id for some in history.nights(*only(history))] == [n.run_id for n in nights]
    assert not history.problems
    assert not list(tmp_path.rglob(".*"))
    assert history.append(night(7))


def test_no_room_for_a_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(MeasurementError, match="No space left"):
        History(tmp_path / "history").append(night(0))


def test_a_damaged_file_is_not_replaced_by_the_run_of_its_name(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    file_of(history, nights[1]).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="move the file away"):
        history.append(nights[1])
    assert file_of(history, nights[1]).read_bytes() == b"PAR1"


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    twice = [synthetic_night.row(), synthetic_night.row()]
    for some, what in (
        (night(0, rows=[synthetic_night.row(value=float("nan"))]), "not a number"),
        (night(0, rows=[synthetic_night.row(ci95_low=2.0, ci95_high=1.0)]), "interval"),
        (night(0, rows=twice), "twice"),
        (night(0, scenario="../up"), "scenario"),
        (night(0, created_utc="yesterday"), "created_utc"),
        (night(0, created_utc="1970-01-01T00:00:00Z"), "clock"),
        (night(0, rows=[synthetic_night.row(value=-1e308)]), "not a number"),
    ):
        with pytest.raises(ResultsError, match=what):
            history.append(some)
    assert not (tmp_path / "history").exists()


# --- strange files ------------------------------------------------------------------------------


def rewrite(path: Path, document: Mapping[str, Any] | None = None, **columns: Any) -> None:
    """Change a night's file behind the history's back."""
    file = pq.ParquetFile(path)
    table, old = file.read(), json.loads(file.metadata.metadata[b"kickbench.night"])
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        gone = values is None
        table = table.remove_column(at) if gone else table.set_column(at, name, values)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.add_key_value_metadata({"kickbench.night": json.dumps({**old, **(document or {})})})
        writer.write_table(table)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def _symlink(path: Path) -> None:
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


def _other_table(path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), path)


def _column(name: str, value: Any, kind: pa.DataType | None = None) -> Any:
    def damage(path: Path) -> None:
        rows = pq.ParquetFile(path).metadata.num_rows
        rewrite(path, **{name: pa.array([value] * rows, kind)})

    return damage


def _metadata(**changes: Any) -> Any:
    return lambda path: rewrite(path, changes)


FAULTS = {
    "truncated": _truncate,
    "a flipped byte": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not Parquet"),
    "a symlink out of the history": _symlink,
    "a pipe": _fifo,
    "a folder": _folder,
    "huge": _huge,
    "another table": _other_table,
    "no column": lambda path: rewrite(path, value=None),
    "a column of another type": _column("value", "fast", pa.string()),
    "not a number": _column("value", float("nan")),
    "infinite": _column("value", float("inf")),
    "an empty cell": _column("value", None, pa.float64()),
    "a case without a name": _column("case", "", pa.string()),
    "half an interval": _column("ci95_low", None, pa.float64()),
    "an odd text": _column("method", "a\x1b[31mb", pa.string()),
    "neither lower nor higher": _column("better", "more", pa.string()),
    "fewer than no processes": _column("processes", -1, pa.int32()),
    "the same figure twice": _column("method", "sigmask", pa.string()),
    "a newer schema": _metadata(schema=99),
    "no schema": _metadata(schema=None),
    "another run": _metadata(run_id="20200101T000000Z-vm-other"),
    "another host": _metadata(fingerprint="0" * 12),
    "another scenario": _metadata(scenario="other"),
    "a run id that is a path": _metadata(run_id="../../etc"),
    "no time": _metadata(created_utc="now"),
    "a year that no run is of": _metadata(created_utc="9999-12-31T23:59:59Z"),
    "the year of a clock that was never set": _metadata(created_utc="0001-01-01T00:00:00Z"),
    "too large to be a figure": _column("reference", 1e308),
    "a floor that is no number": _column("floor", float("inf")),
    "an environment that is none": _metadata(environment=[1]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_strange_file_is_left_alone_and_the_others_are_read(tmp_path: Path, fault: str) -> None:
    history, nights = filled(tmp_path / "history")
    path = file_of(history, nights[1])
    FAULTS[fault](path)
    history = History(tmp_path / "history")
    found = history.nights(nights[0].fingerprint, "nightly")
    assert [some.run_id for some in found] == [nights[0].run_id, nights[2].run_id]
    (line,) = history.problems
    assert path.name in line
    assert line.isprintable()
    assert len(line) < 1000
    assert os.path.lexists(path)
    history.nights(nights[0].fingerprint, "nightly")
    assert len(history.problems) == 1


def test_foreign_files_are_named_and_hidden_ones_are_not(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    partition = file_of(history, nights[0]).parent
    for path in (tmp_path / "README", partition.parent / "x", partition / "notes.txt"):
        path.write_text("mine")
    (tmp_path / "fingerprint=0123" / "scenario=a b").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (partition / ".20260101.parquet.tmp-0").write_text("a killed job's")
    assert len(history.partitions()) == 1
    assert len(history.nights(*only(history))) == 3
    problems = "\n".join(history.problems)
    assert len(history.problems) == 4
    for name in ("README", "/x:", "notes.txt", "scenario=a b"):
        assert name in problems


def test_a_partition_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    history, nights = filled(tmp_path / "history")
    partition = file_of(history, nights[0]).parent
    partition.rename(tmp_path / "elsewhere")
    partition.symlink_to(tmp_path / "elsewhere")
    assert history.nights(nights[0].fingerprint, "nightly") == []
    assert [partition.name in line for line in history.problems] == [True]


@SETTINGS
@given(damage=st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=8)), max_size=4))
def test_no_bytes_raise_anything_but_one_line(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    data = bytearray(_SOUND)
    for at, some in damage:
        at %= len(data)
        data[at : at + len(some)] = some
    try:
        read = parse_night(bytes(data), "file")
    except ResultsError as error:
        said = str(error)
    else:
        said = ""
        assert np.isfinite(read.table.column("value").to_numpy()).all()
    assert said.isprintable()


_SOUND = night_bytes(night(0))


def test_events_that_make_no_sense_are_left_alone(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    sound = history.forget(nights[0], "noise")
    folder = tmp_path / "_events"
    when = '"when": "2026-01-01T00:00:00Z"'
    for number, text in enumerate(
        (
            "",
            "[]",
            '{"schema": 1}',
            '{"schema": 9, "what": "forget", "run_id": "a"}',
            f'{{"schema": 1, "what": "burn", "run_id": "a", {when}}}',
            f'{{"schema": 1, "what": "forget", "run_id": "../a", {when}}}',
            f'{{"schema": 1, "what": "verdict", "run_id": "a", {when}, "alarms": [["a", "b"]]}}',
        )
    ):
        (folder / f"20260101T000000.00000{number}Z-00000000.json").write_text(text)
    (folder / "x.json").symlink_to("/etc/passwd")
    assert [event.order for event in history.events()] == [sound.order]
    assert len(history.problems) == 8
    assert all(line.isprintable() for line in history.problems)


def test_a_history_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="not a folder"):
        History(tmp_path / "file")


def test_an_empty_history_has_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not-there"):
        history = History(folder)
        assert history.partitions() == history.events() == history.problems == []
        assert history.nights("0123", "nightly") == []
        with pytest.raises(ResultsError, match="has no run"):
            history.find("x")
    known, found = trends([], [])
    assert len(known) == 0
    assert found == []


def test_the_documentation_has_every_column() -> None:
    text = (Path(__file__).parents[1] / "docs" / "history.md").read_text()
    types = {"timestamp[ms, tz=UTC]": "timestamp (ms, UTC)"}
    for name, kind, meaning in COLUMNS:
        assert f"| `{name}` | {types.get(str(kind), str(kind))} | {meaning} |\n" in text


# --- what nights and events say together --------------------------------------------------------


def trend_of(history: History, key: Key = KEY) -> Any:
    _, found = trends(history.nights(*only(history)), history.events())
    (trend,) = [trend for trend in found if trend.key == key]
    return trend


def test_a_trend_has_the_floors_of_the_nights_that_have_one(tmp_path: Path) -> None:
    """Nights of earlier versions have no such column."""
    history = History(tmp_path)
    for number in range(3):
        rows = [{**row, "floor": 1900.0 + number} for row in synthetic_night.rows_of(number)[:1]]
        history.append(night(number, rows=rows))
    old = night(1)
    rewrite(file_of(history, old), floor=None)
    history = History(tmp_path)
    trend = trend_of(history)
    np.testing.assert_array_equal(trend.floor, [1900.0, np.nan, 1902.0])
    assert trend.value.tolist() == [synthetic_night.value_of(night(n), KEY) for n in range(3)]
    assert history.problems == []


def test_a_trend_has_the_values_of_every_night(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 4)
    history.append(night(4, without=KEY))
    history.append(night(5))
    trend = trend_of(history)
    assert trend.night.tolist() == [0, 1, 2, 3, 5]
    every = [*nights, night(5)]
    assert trend.value.tolist() == [synthetic_night.value_of(some, KEY) for some in every]
    assert (trend.low < trend.value).all()
    assert (trend.value < trend.high).all()
    assert trend.better == "lower"
    assert trend.reference is None
    assert trend.usable.all()
    assert trend.accepted_from == 0
    pair = trend_of(history, PAIR)
    assert len(pair.night) == 6
    assert (pair.reference > 0).all()


def test_a_forgotten_night_is_in_no_baseline(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 4)
    history.forget(nights[2], "a backup ran")
    assert trend_of(history).usable.tolist() == [True, True, False, True]
    event = forgotten(history.events())[nights[2].run_id]
    assert event.reason == "a backup ran"


def test_an_alarmed_night_is_in_no_baseline_of_that_metric_until_accepted(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 6)
    for number in (2, 3, 4):
        history.add_verdict(nights[number].run_id, [KEY])
    assert trend_of(history).usable.tolist() == [True, True, False, False, False, True]
    assert trend_of(history, PAIR).usable.all()
    # Accepted from the second alarm on: the first one was something else.
    history.accept(nights[3], "a fix that costs", [KEY])
    trend = trend_of(history)
    assert trend.usable.tolist() == [True, True, False, True, True, True]
    assert trend.accepted_from == 3
    assert trend_of(history, PAIR).accepted_from == 0
    # An alarm after it was accepted is an alarm again.
    history.add_verdict(nights[5].run_id, [KEY])
    assert trend_of(history).usable.tolist() == [True, True, False, True, True, False]


def test_the_last_verdict_on_a_night_counts(tmp_path: Path) -> None:
    history, nights = filled(tmp_path)
    history.add_verdict(nights[1].run_id, [KEY, PAIR])
    history.add_verdict(nights[1].run_id, [PAIR], {"tail_df": 4.0})
    assert verdicts(history.events())[nights[1].run_id].keys == {PAIR}
    assert verdicts(history.events())[nights[1].run_id].document["tail_df"] == 4.0
    assert trend_of(history).usable.all()


def test_a_step_stays_accepted_when_its_night_is_gone(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 5)
    history.accept(nights[2], "new kernel")
    file_of(history, nights[2]).unlink()
    assert trend_of(history).accepted_from == 2  # which is the night after it
    assert not history.problems


def test_a_step_is_one_of_its_own_host_and_scenario(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 5)
    other = night(3, scenario="other", run_id="20260104T020000Z-vm-other")
    history.append(other)
    history.accept(other, "of the other scenario")
    _, found = trends(history.nights(nights[0].fingerprint, "nightly"), history.events())
    assert {trend.accepted_from for trend in found} == {0}
    assert not history.problems


GONE = {"run_id": "gone", "fingerprint": night(0).fingerprint, "scenario": "nightly"}
LIES = {
    "of a run that never was": {"run_id": "gone", "created_utc": night(2).created_utc},
    "of a run that never was, in another place": {
        **GONE,
        "scenario": "other",
        "created_utc": night(2).created_utc,
    },
    "of a night after it was said": {**GONE, "created_utc": "2100-01-01T00:00:00Z"},
    "of a night without a time": GONE,
    "of another time": {"run_id": night(2).run_id, "created_utc": "2026-01-05T00:00:00Z"},
    "of no time": {"run_id": night(2).run_id},
    "of another host": {
        "run_id": night(2).run_id,
        "fingerprint": "0" * 12,
        "scenario": "nightly",
        "created_utc": night(2).created_utc,
    },
}


def say(history: History, **event: Any) -> Path:
    """Put an event into a history behind its back."""
    path = history.folder / "_events" / "20260301T000000.000000Z-00000000.json"
    path.parent.mkdir(exist_ok=True)
    written = {"schema": 1, "what": "accept", "when": "2026-03-01T00:00:00Z", "reason": "x"}
    path.write_text(json.dumps({**written, **event}))
    return path


@pytest.mark.parametrize("lie", LIES)
def test_an_accepted_night_that_does_not_fit_the_history_counts_for_nothing(
    tmp_path: Path, lie: str
) -> None:
    history, _ = filled(tmp_path, 5)
    path = say(history, **LIES[lie])
    assert trend_of(history).accepted_from == 0
    (line,) = history.problems
    assert line.startswith(f"{path}: ")
    history.events()
    assert len(history.problems) == 1


def test_a_true_one_in_the_same_words_counts(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 5)
    say(history, run_id=nights[2].run_id, created_utc=nights[2].created_utc)
    assert trend_of(history).accepted_from == 2
    say(history, **GONE, created_utc=nights[2].created_utc)
    assert trend_of(history).accepted_from == 3  # "gone" comes after the run of that time
    assert not history.problems


def test_events_that_lead_elsewhere_are_neither_read_nor_written(tmp_path: Path) -> None:
    history, nights = filled(tmp_path / "history", 5)
    history.forget(nights[1], "noise")
    (history.folder / "_events").rename(tmp_path / "elsewhere")
    (history.folder / "_events").symlink_to(tmp_path / "elsewhere")
    assert history.events() == []
    (line,) = history.problems
    assert "_events: is a symlink" in line
    with pytest.raises(UsageError, match="_events: is a symlink"):
        history.forget(nights[2], "noise")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_metrics_are_chosen_by_name() -> None:
    keys = night(0).keys()
    assert key_name(PAIR) == "exits-hlt-1vcpu-max-any/sigmask-immediate_exit/ns_per_exit"
    assert matching(keys, key_name(KEY)) == [KEY]
    assert matching(keys, "*/sigmask/ns*") == [KEY]
    assert set(matching(keys, "sigmask")) == {KEY, PAIR}
    assert matching(keys, "nothing") == []


def test_a_run_is_found_by_a_part_of_its_id(tmp_path: Path) -> None:
    history, nights = filled(tmp_path / "history")
    assert history.find(nights[1].run_id).run_id == nights[1].run_id
    assert history.find(nights[1].run_id[-8:]).run_id == nights[1].run_id
    for count, more in ((2, ""), (3, ""), (4, "...")):
        some, nights = filled(tmp_path / f"{count}", count)
        names = ", ".join(night.run_id for night in nights[:3])
        with pytest.raises(ResultsError) as caught:
            some.find("-vm-")
        said = f"has {count} runs with '-vm-' in their ids: {names}{more}; give more of the id"
        assert str(caught.value).endswith(said)
    for wrong in ("zzz", "", "../.."):
        with pytest.raises(ResultsError, match="has no run"):
            history.find(wrong)


# --- remarks ------------------------------------------------------------------------------------


def test_changed_hardware_is_a_new_history_and_is_said(tmp_path: Path) -> None:
    history, _ = filled(tmp_path)
    moved = night(5, cpu="Another CPU")
    old, told = history.moved_from(moved) or pytest.fail("nothing was said")
    assert old.run_id == night(2).run_id
    assert [(change.title, change.after) for change in told] == [("CPU", "Another CPU")]
    history.append(moved)
    assert history.moved_from(moved) is not None  # the same when it is there already
    assert len(history.nights(moved.fingerprint, "nightly")) == 1
    history.append(night(6, cpu="Another CPU"))
    assert history.moved_from(night(7, cpu="Another CPU")) is None
    assert history.moved_from(night(7)) is None
    assert history.moved_from(night(7, scenario="first")) is None


def test_a_new_kernel_is_the_same_host(tmp_path: Path) -> None:
    history, _ = filled(tmp_path)
    history.append(night(3, kernel="6.13.0"))
    assert len(history.partitions()) == 1


def test_a_clock_that_went_back_is_said_and_does_no_harm(tmp_path: Path) -> None:
    history, _ = filled(tmp_path, 5)
    now = night(4).when + datetime.timedelta(days=1)
    early = synthetic_night.night(99, created_utc="2020-01-01T00:00:00Z")
    (line,) = remarks(history.nights(*only(history)), early, now)
    assert "clock went back" in line
    history.append(early)
    assert history.nights(*only(history))[0].run_id == early.run_id
    assert remarks(history.nights(*only(history)), night(5), now) == []


def test_nights_of_the_future_are_said(tmp_path: Path) -> None:
    history, nights = filled(tmp_path, 3)
    lines = remarks(history.nights(*only(history)), nights[0], nights[0].when)
    assert any("in the future" in line and nights[2].run_id in line for line in lines)


def test_a_changed_scenario_is_said(tmp_path: Path) -> None:
    _, nights = filled(tmp_path)
    changed = night(3, scenario_digest="feed")
    (line,) = remarks([*nights, changed], changed, changed.when)
    assert "was changed since" in line
    assert remarks(nights, night(3), night(3).when) == []


def test_the_digest_of_a_scenario_is_of_what_is_measured() -> None:
    digest = scenario_digest
    assert digest({"a": 1, "description": "x"}) == digest({"description": "y", "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_errors_are_of_the_family() -> None:
    assert issubclass(ResultsError, KickbenchError)
