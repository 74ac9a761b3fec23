# SPDX-License-Identifier: Apache-2.0
"""The nightly job and its history, kept in a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic_run
from command import kickbench_captured
from synthetic_night import night

from kickbench.cli import nightly
from kickbench.fleet.files import Files
from kickbench.fleet.nights import exchange, history_at
from kickbench.fleet.query import ask
from kickbench.nightly.history import History
from kickbench.run.runner import Outcome
from kickbench.scenario.model import Scenario

PLACE = "history/host=alpha"


def nights_of(folder: Path) -> list[str]:
    history = History(folder)
    assert history.problems == []
    return [night.run_id for p in history.partitions() for night in history.read(p)]


def test_two_folders_have_all_nights_by_way_of_a_store(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    for number, name in enumerate("ab"):
        History(tmp_path / name).append(night(number))
    History(tmp_path / "a").forget(night(0), "because")
    for name in "aba":
        exchange(files, PLACE, tmp_path / name)
    wanted = [night(number).run_id for number in range(2)]
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "store" / PLACE):
        assert nights_of(folder) == wanted
        assert [event.what for event in History(folder).events()] == ["forget"]


def test_only_files_of_a_history_are_taken(tmp_path: Path) -> None:
    files = Files(f"memory://{tmp_path}")
    for name in ("x/../../../outside.json", "a/b/readme.txt", "a/b/.hidden.json", "a/.b/c.json"):
        files.write(f"{PLACE}/{name}", b"hello")
    exchange(files, PLACE, tmp_path / "here")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_history_can_be_read_and_written_at_its_url(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/{PLACE}"
    History(tmp_path / "a").append(night(0))
    exchange(Files(url), "", tmp_path / "a")
    listed = kickbench_captured("history", "list", url)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "1 night" in listed.stdout
    done = kickbench_captured("history", "forget", url, night(0).run_id, "--reason", "because")
    assert done.returncode == 0, done.stderr
    with history_at(url) as folder:
        assert [event.what for event in History(folder).events()] == ["forget"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the next night measure this."""

    def choose(number: int) -> None:
        def measure(scenario: Scenario, results: Path, host: str, *, several: bool) -> Outcome:
            run = synthetic_run.build(
                results, cases=[synthetic_run.case(vcpus=1)], rounds=8, seed=number
            )
            return Outcome(run, 1, {}, "")

        monkeypatch.setattr(nightly, "_measure", measure)

    return choose


def job(folder: Path, store: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(f'scenarios = "quick"\nstore = "{store}"\n')
    return folder / "job.toml"


def test_a_night_is_in_the_store_and_so_is_its_history(
    tmp_path: Path, measured: Callable[[int], None]
) -> None:
    for number, folder in enumerate(("first", "second")):  # as if the machine was set up anew
        measured(number)
        environment = {**os.environ, "KICKBENCH_HOSTNAME": "alpha"}
        file = job(tmp_path / folder, "../store")
        done = kickbench_captured("nightly", file, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
    files = Files(str(tmp_path / "store"))
    assert ask(files, "SELECT count(*) FROM runs", pytest.fail).rows == [(2,)]
    assert len(nights_of(tmp_path / "second" / "history")) == 2
    assert len(nights_of(tmp_path / "store" / PLACE)) == 2


def test_a_store_that_cannot_be_written_costs_no_night(
    tmp_path: Path, measured: Callable[[int], None]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/results").write_text("")
    measured(0)
    done = kickbench_captured("nightly", job(tmp_path / "job", "../store"))
    assert done.returncode == 4
    assert "cannot be written to" in done.stderr
    assert len(nights_of(tmp_path / "job" / "history")) == 1


def test_a_store_that_cannot_be_opened_is_told_before_the_night(
    tmp_path: Path, measured: Callable[[int], None]
) -> None:
    measured(0)
    done = kickbench_captured("nightly", job(tmp_path / "job", "nonsense://x"))
    assert done.returncode == 2
    assert "is no store that can be opened here" in done.stderr
    assert not (tmp_path / "job" / "history").exists()
