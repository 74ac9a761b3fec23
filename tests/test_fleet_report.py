# SPDX-License-Identifier: Apache-2.0
"""kickbench fleet report: from a store to an answer, pages and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic_fleet
from command import kickbench_captured

from kickbench.fleet.files import Files

SINCE, WHOM = "Since 11 March 2026", "on the 4 hosts that moved to another kernel"


def stored(path: Path, dearer: float) -> str:
    """A store of eight hosts. On day 10 half of them got a new kernel, which is dearer."""
    files = Files(str(path))
    random = np.random.default_rng(1)
    for host in range(8):
        level = 2000 * random.lognormal(0, 0.005)
        for day in range(16):
            new = host % 2 == 0 and day >= 10
            sigmask = level * random.normal(1 + dearer * new, 0.001)
            synthetic_fleet.write(
                files,
                f"box{host}",
                day,
                {"sigmask": sigmask, "immediate_exit": level * random.normal(0.8, 0.001)},
                kernel="6.12.9" if new else "6.12.8",
            )
    return str(path)


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stored(tmp_path_factory.mktemp("slower") / "store", 0.03)


def test_a_regression_is_told_and_is_exit_code_1(slower: str, tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "report", slower, "-o", tmp_path / "pages")
    assert done.stderr == ""
    assert done.returncode == 1
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(SINCE)
    assert WHOM in first
    assert last == str(tmp_path / "pages" / "index.html")
    assert WHOM in Path(last).read_text().replace("\xa0", " ")


def test_json_has_everything_and_nothing_else_is_printed(slower: str, tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "report", slower, "--json", "-o", tmp_path)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["findings"][0]["cohort"]["moved"] == ["kernel", "6.12.9"]
    assert len(document["map"]) == len(document["hosts"]) == 8
    assert done.stderr == f"{tmp_path / 'index.html'}\n"


def test_markdown_begins_with_the_answer(slower: str) -> None:
    done = kickbench_captured("fleet", "report", slower, "--markdown")
    assert done.returncode == 1
    first = " ".join(done.stdout.partition("\n\n")[0].split())
    assert first.startswith(f"**{SINCE}")
    assert WHOM in first


def test_days_before_the_period_do_not_count(slower: str) -> None:
    done = kickbench_captured("fleet", "report", slower, "--days", 4)
    assert done.returncode == 0
    assert "11 March" not in done.stdout


def test_no_regression_is_exit_code_0(tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "report", stored(tmp_path / "store", 0.0))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No group of hosts got dearer: 8 hosts from 1 March 2026")


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    done = kickbench_captured("fleet", "report", tmp_path, "-o", tmp_path / "pages")
    assert done.returncode == 0
    assert "no runs" in done.stdout
    assert (tmp_path / "pages" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--markdown"], "choose one of them"),
        (["--days", "1"], "--days"),
        (["--days", "99999999"], "--days"),
        (["--days", "9" * 30], "--days"),
        (["-o", ""], "is empty; name a folder"),
    ],
)
def test_what_cannot_work_is_refused(slower: str, arguments: list[str], words: str) -> None:
    done = kickbench_captured("fleet", "report", slower, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
