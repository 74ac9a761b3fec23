# SPDX-License-Identifier: Apache-2.0
"""kickbench history on the command line: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command import kickbench_here
from synthetic_night import night, value_of

from kickbench.nightly.history import History
from kickbench.nightly.trends import Key

CASE = "exits-hlt-1vcpu-max-any"
KEY = Key(CASE, "sigmask", None, "ns_per_exit")
NAME = f"{CASE}/sigmask/ns_per_exit"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``kickbench history ...`` and return the exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = kickbench_here(monkeypatch, "history", *arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    history = History(tmp_path / "history")
    for number in range(5):
        history.append(night(number, kernel="6.12.3" if number < 4 else "6.12.4"))
    return history.folder


def test_list_does_not_count_what_is_left_out(run: Run, folder: Path) -> None:
    (path,) = folder.glob(f"*/*/{night(2).run_id}.parquet")
    path.write_bytes(b"PAR1")
    code, out, err = run("list", folder)
    assert code == 0
    assert "4 nights" in out
    assert path.name in err


def test_list_tells_hosts_scenarios_and_nights(run: Run, folder: Path) -> None:
    history = History(folder)
    history.append(night(9, cpu="Another CPU", scenario="other"))
    history.add_verdict(night(4).run_id, [KEY])
    history.forget(night(1), "noise")
    code, out, err = run("list", folder)
    assert (code, err) == (0, "")
    assert "A CPU" in out
    assert "Another CPU" in out
    assert re.search(
        r"nightly +5 nights, 2026-01-01 02:00 UTC to 2026-01-05 02:00 UTC, 1 with an alarm, "
        r"1 forgotten\n",
        out,
    )
    assert re.search(r"other +1 night,", out)


def test_an_empty_history_is_said_and_is_no_error(run: Run, tmp_path: Path) -> None:
    for command in ("list", "show"):
        code, out, _ = run(command, tmp_path)
        assert code == 0
        assert "no nights yet" in out


@pytest.mark.parametrize("command", ["list", "show", "trend", "export"])
def test_a_folder_that_is_not_there_is_wrong_usage(run: Run, tmp_path: Path, command: str) -> None:
    output = ["-o", tmp_path / "x.csv"] if command == "export" else []
    code, out, err = run(command, tmp_path / "nowhere", *output)
    assert (code, out) == (2, "")
    assert err.startswith("kickbench: ")
    assert err.count("\n") == 1


def test_show_has_the_figures_and_what_was_said(run: Run, folder: Path) -> None:
    history = History(folder)
    history.add_verdict(night(4).run_id, [KEY])
    run("accept", folder, night(4).run_id, "--reason", "a fix\nthat costs", "--metric", NAME)
    code, out, _ = run("show", folder)
    assert code == 0
    assert night(4).run_id in out
    assert "Kernel 6.12.4" in out
    assert re.search(rf"{NAME} +2,0[0-9.]+ ns +\(2,0[0-9.]+ to 2,[0-9.]+\) +ALARM\n", out)
    assert "1 alarm\n" in out
    assert "1 metric: a fix that costs\n" in out
    _, first, _ = run("show", folder, night(0).run_id)
    assert "Kernel 6.12.3" in first
    assert "ALARM" not in first


def test_show_names_cases_without_figures_and_lost_kicks(run: Run, tmp_path: Path) -> None:
    cases = [{"id": "kick-1", "status": "skipped", "reason": "no node 1"}]
    lost = [{"case": "race-1", "method": "sigmask", "what": "lost", "count": 2, "of": 900}]
    History(tmp_path).append(night(0, rows=[], cases=cases, lost=lost, complete=False))
    code, out, _ = run("show", tmp_path)
    assert code == 0
    assert "kick-1 skipped: no node 1" in out
    assert "LOST: 2 of 900 in race-1 with sigmask" in out
    assert "not complete" in out


def test_accept_and_forget_are_kept_with_their_reasons(run: Run, folder: Path) -> None:
    code, out, _ = run("accept", folder, night(3).run_id, "--reason", "known")
    assert code == 0
    assert "all metrics" in out
    assert run("forget", folder, night(1).run_id[-8:], "--reason", "a backup")[0] == 0
    assert "before: a backup" in run("forget", folder, night(1).run_id, "--reason", "again")[1]
    accepted, gone = History(folder).events()
    assert (accepted.what, accepted.run_id, accepted.keys) == ("accept", night(3).run_id, None)
    assert (gone.what, gone.run_id, gone.reason) == ("forget", night(1).run_id, "a backup")


def test_accept_takes_patterns(run: Run, folder: Path) -> None:
    arguments = ("accept", folder, night(3).run_id, "--reason", "x")
    code, out, _ = run(*arguments, "--metric", "*/sigmask/*", "--metric", NAME)
    assert code == 0
    assert "1 metric of" in out
    (event,) = History(folder).events()
    assert event.keys == {KEY}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["accept", "{}", "nothing", "--reason", "x"], "has no run"),
        (["accept", "{}", "Z-vm-", "--reason", "x"], "has 5 runs"),
        (["accept", "{}", "00000001", "--reason", " "], "--reason is empty"),
        (["accept", "{}", "00000001", "--reason", "x", "--metric", "zzz"], "has no metric"),
        (["accept", "{}", "00000000", "--reason", "x"], "was forgotten"),
        (["forget", "{}", "nothing", "--reason", "x"], "has no run"),
        (["export", "{}", "-o", "{}/nights.txt"], "end in .csv"),
        (["export", "{}", "-o", "{}/no/nights.csv"], "is not a folder"),
        (["export", "{}", "-o", "x.csv", "--scenario", "other"], "has no such nights"),
        (["trend", "{}", "--host", "ffff"], "has no such nights"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, folder: Path, arguments: list[str], what: str
) -> None:
    run("forget", folder, night(0).run_id, "--reason", "noise")
    code, out, err = run(*(argument.replace("{}", str(folder)) for argument in arguments))
    assert (code, out) == (2, "")
    assert what in err
    assert err.count("\n") == 1
    assert len(History(folder).events()) == 1


def test_a_damaged_night_is_named_and_the_rest_is_shown(run: Run, folder: Path) -> None:
    (path,) = folder.glob(f"*/*/{night(4).run_id}.parquet")
    path.write_bytes(b"\x1b[31m")
    code, out, err = run("show", folder)
    assert code == 0
    assert night(3).run_id in out
    assert err.count("\n") == 1
    assert str(path) in err
    code, _, err = run("show", folder, night(4).run_id)
    assert code == 2
    assert "damaged" in err


def test_trend_writes_a_page_for_each_host_and_scenario(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    History(folder).append(night(0, scenario="other"))
    code, out, _ = run("trend", folder, "-o", tmp_path / "pages")
    assert code == 0
    pages = [Path(line) for line in out.splitlines()]
    assert [page.exists() for page in pages] == [True, True]
    assert len(run("trend", folder, "-o", tmp_path, "--scenario", "other")[1].splitlines()) == 1
    (tmp_path / "file").write_text("")
    code, _, err = run("trend", folder, "-o", tmp_path / "file")
    assert code == 2
    assert "is a file" in err
    code, _, err = run("trend", folder, "-o", tmp_path / ("x" * 300))
    assert code == 2
    assert "File name too long" in err


def read_as_otava_does(path: Path) -> tuple[list[str], list[list[str]]]:
    """Its importer: csv.reader, every metric a float, a time that names its zone."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter=",", quotechar='"')
    assert all(len(row) == len(header) for row in rows)
    return header, rows


def test_export_is_what_otava_reads(run: Run, folder: Path, tmp_path: Path) -> None:
    history = History(folder)
    history.append(night(5, without=KEY))
    history.append(night(6))
    history.forget(night(2), "noise")
    table = tmp_path / "nights.csv"
    code, out, _ = run("export", folder, "-o", table)
    assert code == 0
    assert out.splitlines() == [str(table), str(tmp_path / "nights.yaml")]
    header, rows = read_as_otava_does(table)
    assert header[:7] == [
        "time",
        "run_id",
        "hostname",
        "kernel",
        "microcode",
        "kickbench",
        "filled",
    ]
    runs = [night(number).run_id for number in (0, 1, 3, 4, 5, 6)]
    assert [row[1] for row in rows] == runs
    times = [datetime.datetime.strptime(row[0], "%Y-%m-%d %H:%M:%S %z") for row in rows]
    assert times == [night(number).when for number in (0, 1, 3, 4, 5, 6)]
    assert [row[3] for row in rows[2:4]] == ["6.12.3", "6.12.4"]
    values = [float(row[header.index(NAME)]) for row in rows]
    assert values[:4] == [value_of(night(number), KEY) for number in (0, 1, 3, 4)]
    assert values[4] == values[3]  # not measured that night: the value of the night before
    assert [row[6] for row in rows] == ["0", "0", "0", "0", "1", "0"]
    config = (tmp_path / "nights.yaml").read_text()
    assert f'    file: "{table}"\n' in config
    assert f'      "{NAME}": {{direction: -1}}\n' in config
    assert config.count("direction") == len(header) - 7


def test_a_metric_that_came_later_has_no_hole_before_it(run: Run, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.append(night(0, without=KEY))
    history.append(night(1))
    run("export", history.folder, "-o", tmp_path / "x.csv")
    header, rows = read_as_otava_does(tmp_path / "x.csv")
    column = header.index(NAME)
    assert rows[0][column] == rows[1][column]
    assert [row[6] for row in rows] == ["1", "0"]


def test_an_export_of_several_scenarios_has_to_choose(run: Run, folder: Path) -> None:
    History(folder).append(night(0, scenario="other"))
    output = folder.parent / "x.csv"
    code, _, err = run("export", folder, "-o", output)
    assert code == 2
    assert "--scenario" in err
    assert run("export", folder, "-o", output, "--scenario", "other")[0] == 0
