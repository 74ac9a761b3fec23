# SPDX-License-Identifier: Apache-2.0
"""``kickbench show``: the answer first, on any terminal and none, and the summary as JSON."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import ResultsError
from kickbench.numbers import significant, whole
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData
from kickbench.summary.summarise import write_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.build(tmp_path_factory.mktemp("results"))


def show(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["show", *map(str, arguments)])


def test_the_answer_is_the_first_line(run: Path) -> None:
    result = show(run)
    assert result.exit_code == 0
    assert result.stdout.startswith("sigmask costs ")
    assert result.stdout.splitlines()[0] == verdict(RunData.load(run).summary).answer


def test_the_numbers_are_those_of_the_summary(run: Path) -> None:
    text = show(run).stdout
    for case in write_summary(run)["cases"]:
        for figures in case["methods"].values():
            row = [whole(figures["exits_per_second"])]
            names = ("quiet", "mean", "p50", "p90", "p99", "max")
            row += [significant(figures["ns_per_exit"][name]) for name in names]
            assert any(line.split()[1:] == row for line in text.splitlines())


def test_json_is_the_summary_file_exactly(run: Path) -> None:
    write_summary(run)
    result = show("--json", run)
    assert result.exit_code == 0
    assert result.stdout_bytes == (run / "summary.json").read_bytes()


def test_json_on_a_terminal_is_ascii(tmp_path: Path) -> None:
    odd = "h\xf6st\x7f\x9b31m\u202e\U000e0001"
    run = synthetic_run.build(
        tmp_path, cases=[synthetic_run.case(1)], rounds=4, environment={"hostname": odd}
    )
    text = show("--json", run).stdout
    assert all(" " <= character <= "~" for character in text.replace("\n", ""))
    assert json.loads(text)["environment"]["hostname"] == odd


def test_a_folder_of_runs_shows_the_newest(run: Path) -> None:
    assert show(run.parent).stdout.startswith("sigmask")
    assert f"Run: {run}" in show(run.parent.parent).stdout


def test_the_table_fits_80_columns(run: Path) -> None:
    lines = show(run).stdout.splitlines()
    table = lines[lines.index("") : lines.index("What disturbed or limits it:")]
    assert len(table) > 20
    assert max(map(len, table)) <= 80


def test_skipped_cases_come_with_their_reason(run: Path) -> None:
    assert (
        "Skipped:\n- this host has no node 1: exits-pm_timer-8vcpu-20000hz-remote_siglock\n"
        in show(run).stdout
    )


def test_hostile_text_cannot_reach_the_terminal(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": "[bold]x[/bold] <b>"}
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(1, placement=place, id="c")])
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cases"].append(
        {"id": "d", "status": "failed", "reason": "\x1b]0;evil\x07 \u202e", "case": {
            **synthetic_run.case(2), "id": "d"}}
    )  # fmt: skip
    (run / "manifest.json").write_text(json.dumps(manifest))
    document = run / "cases" / "c" / "case.json"
    changed = json.loads(document.read_text())
    changed["processes"][0]["warnings"] = ["\x1b[31mred\x07\u202e"]
    document.write_text(json.dumps(changed))
    text = show(run).stdout
    assert "red" in text
    assert "[bold]x[/bold] <b>" in text
    assert not any(c in text for c in "\x1b\x07\u202e")


def test_no_finished_case_is_said(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2, rate=5.0)])
    result = show(run)
    assert result.exit_code == 0
    assert result.stdout.startswith("No case finished")


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    error = show(tmp_path).exception
    assert isinstance(error, ResultsError)
    assert error.exit_code == 2


def test_a_terminal_gets_wrapped_lines_and_the_same_words(run: Path) -> None:
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kickbench", "show", str(run)],
        stdout=terminal, env=environment, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    os.close(terminal)
    output = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    os.close(controller)
    assert process.wait() == 0
    text = output.decode()
    assert "\x1b[1m" in text
    answer = verdict(RunData.load(run).summary).answer
    assert text.index("sigmask") < 10
    assert answer.split()[0] in text
    words = " ".join(text.replace("\x1b[1m", "").replace("\x1b[0m", "").split())
    assert answer in words
