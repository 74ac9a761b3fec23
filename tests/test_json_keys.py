# SPDX-License-Identifier: Apache-2.0
"""The keys of what kickbench prints as JSON, which programs rely on: docs/promises.md.

``data/json_keys.toml`` has them. A key is added there with the version that adds it, and removed
with a new major version only. ``python tests/test_json_keys.py`` prints those of today.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_explanation
import synthetic_run
from test_ab_cli import a_plan
from typer.testing import CliRunner

from kickbench.cli import app

DATA = Path(__file__).parent / "data"
NAMES_ARE_DATA = {
    "by_reason",
    "environment",
    "functions",
    "inclusive",
    "paths",
    "phases",
    "skipped",
}
"""Objects whose keys are no keys of the format."""
BY_NAME = {"kicks", "methods", "nested", "pauses"}
"""Objects by the names of methods or states."""


def printed(*arguments: object) -> Any:
    return json.loads(CliRunner().invoke(app, [*map(str, arguments)]).stdout)


def show(folder: Path) -> Any:
    """The keys of both: each has kinds that the other lacks."""
    both = [printed("show", "--json", DATA / run) for run in ("schema_2", "run_kinds")]
    return both[0] | {"cases": [case for summary in both for case in summary["cases"]]}


def compare(folder: Path) -> Any:
    runs = [
        synthetic_run.build(folder, cases=[synthetic_run.case(vcpus=1)], seed=seed)
        for seed in (1, 2)
    ]
    return printed("compare", "--json", *runs)


def ab_report(folder: Path) -> Any:
    return printed("ab", "report", "--json", a_plan(folder / "plan"))


def counts(folder: Path) -> Any:
    run = synthetic_run.build(
        folder, cases=[synthetic_run.case(1)], rounds=4, emulated=True, count_step=1
    )
    return printed("lab", "counts", "--json", run)


def predict(folder: Path) -> Any:
    methods = ["sigmask", "sigmask_same", "immediate_exit"]
    cases = [
        *(synthetic_run.case(vcpus, methods=methods) for vcpus in (1, 2, 4)),
        synthetic_run.handover_case(processes=3),
    ]
    places = {"cpus": 8, "nodes": 2, "siblings": True}
    run = synthetic_run.build(folder, cases=cases, handover=places, rounds=20)
    return printed("predict", run, "--vcpus", "2", "--nodes", "1", "--json")


DOCUMENTS: dict[str, Callable[[Path], Any]] = {
    "show": show,
    "compare": compare,
    "ab report": ab_report,
    "predict": predict,
    "doctor": lambda _: printed("doctor", "--json"),
    "methods": lambda _: printed("methods", "--json"),
    "fleet report": lambda _: printed("fleet", "report", DATA / "store_first", "--json"),
    "lab counts": counts,
    "lab doctor": lambda _: printed("lab", "doctor", "--json"),
    "lab explain": lambda _: synthetic_explanation.small().to_dict(),
}
"""By the command that prints it. The nightly job's JSON is in tests/test_nightly_outputs.py."""


def keys(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all keys, with "[]" for an element of a list and "*" for any name."""
    name = path.rpartition(".")[2]
    match value:
        case list():
            for one in value:
                yield from keys(one, f"{path}[]")
        case dict() if name not in NAMES_ARE_DATA:
            for key, inner in value.items():
                by_name = name in BY_NAME and isinstance(inner, dict)
                place = f"{path}.{'*' if by_name else key}".lstrip(".")
                yield place
                yield from keys(inner, place)


def found(name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return sorted(set(keys(DOCUMENTS[name](Path(folder)))))


PROMISED: dict[str, list[str]] = tomllib.loads((DATA / "json_keys.toml").read_text())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_is_still_there(name: str) -> None:
    assert sorted({*PROMISED[name]} - {*found(name)}) == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "lab counts"])
def test_every_document_says_its_schema(name: str) -> None:
    assert "schema" in PROMISED[name]


if __name__ == "__main__":
    for name in DOCUMENTS:
        lines = textwrap.fill(
            ", ".join(map(json.dumps, found(name))), 98, break_on_hyphens=False
        ).splitlines()
        print(f'"{name}" = [', *(f"  {line}" for line in lines), "]", sep="\n")
