# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/python.md run, one after another, as a reader would type them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import sshd
import synthetic_run

import kickbench
from kickbench.fleet.files import Files
from kickbench.fleet.store import add_run
from kickbench.summary.data import RunData

DOCS = Path(__file__).resolve().parents[1] / "docs"


def examples() -> list[str]:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def measures(example: str) -> bool:
    return "kickbench.run(" in example


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs and the store that the examples name."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cases = [synthetic_run.case(2), synthetic_run.case(4), synthetic_run.kick_case()]
    for name, shift in (("before", 0.0), ("after", 400.0)):
        made = synthetic_run.build(Path("results", name), cases=cases, shift_ns=shift, rounds=12)
    add_run(Files("store"), RunData.load(made))
    return tmp_path


def test_the_examples_run_as_they_are(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for example in examples():
        if not measures(example):
            exec(compile(example, "docs/python.md", "exec"), names)  # noqa: S102 (our own)
    said = capsys.readouterr().out
    assert "something got worse" in said
    assert "results/nothing: does not exist" in said
    assert (results / "cost.svg").is_file()
    assert names["hosts"]["host"].tolist() == ["testhost"]


@pytest.mark.kvm
def test_the_examples_that_measure_do(
    box: sshd.Sshd, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = filter(measures, examples())
    names: dict[str, Any] = {"kickbench": kickbench}
    exec(compile(here, "docs/python.md", "exec"), names)  # noqa: S102 (our own)
    assert "1 of 1" in capsys.readouterr().out
    assert names["run"].path.is_relative_to("results/two-vcpus")
    exec(compile(there, "docs/python.md", "exec"), names)  # noqa: S102 (our own)
    assert names["run"].path.is_relative_to("results/two-vcpus")
    assert any((box.cache / "kickbench/agent").iterdir())


def test_the_cells_of_the_notebook_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """``nox -s docs`` also runs them in a kernel, for the site."""
    monkeypatch.chdir(DOCS)
    mpl.use("agg")
    notebook = json.loads((DOCS / "example.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)  # they come of a build
            exec(compile("".join(cell["source"]), "docs/example.ipynb", "exec"), names)  # noqa: S102
    assert len(names["figure"].axes) == 2
    names["plt"].close("all")


def test_the_page_has_every_name() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    run = {name for name in vars(kickbench.Run) if not name.startswith("_")}
    assert {*kickbench.__all__, *kickbench.plot.__all__, *run} <= words
