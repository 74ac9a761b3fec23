# SPDX-License-Identifier: Apache-2.0
"""What docs/promises.md promises of files: old ones are read, and newer ones refused in a line.

``data`` has files as earlier versions of kickbench wrote them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import synthetic_run
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import ResultsError, UsageError
from kickbench.fleet.compact import compact
from kickbench.fleet.files import Files
from kickbench.fleet.query import ask
from kickbench.fleet.run import begun
from kickbench.fleet.store import add_run
from kickbench.summary.data import RunData

DATA = Path(__file__).parent / "data"


# --- the store of a fleet ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Files:
    """A store of two runs, from before fleets had a measurement of their own."""
    return Files(str(shutil.copytree(DATA / "store_first", tmp_path / "store")))


OLD_ROWS = [
    ("host-0", "20261130T171143Z-vm-eb4fe163", None, 7554.41454693856),
    ("host-1", "20261130T171155Z-vm-0cbd85b2", None, 7427.723061505429),
]
SQL = """
SELECT host, run_id, fleet, value FROM runs JOIN metrics USING (host, run_id)
WHERE method = 'immediate_exit' AND metric = 'cpu_ns_per_exit' AND host LIKE 'host-%' ORDER BY host
"""


@pytest.mark.parametrize("new", ["z", "0"])
def test_an_old_store_is_read_beside_new_runs(store: Files, tmp_path: Path, new: str) -> None:
    """Whichever of them comes first."""
    assert ask(store, SQL, pytest.fail).rows == OLD_ROWS
    folder = synthetic_run.build(tmp_path, cases=[synthetic_run.case(vcpus=1)])
    add_run(store, RunData.load(folder), host=new, fleet="f")
    for _ in range(2):
        assert ask(store, SQL, pytest.fail).rows == OLD_ROWS
        assert ask(store, "SELECT host FROM runs WHERE fleet = 'f'", pytest.fail).rows == [(new,)]
        compact(store, pytest.fail)


def test_a_store_says_its_schema(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    add_run(files, RunData.load(synthetic_run.build(tmp_path)))
    assert json.loads(files.read("store.json")) == {"schema": 1}


def test_a_newer_store_is_neither_read_nor_written(store: Files, tmp_path: Path) -> None:
    store.write("store.json", b'{"schema": 2, "new": true}')
    before = store.list("", "")
    said = r"store.json: was written by a newer kickbench \(schema 2\); upgrade kickbench"
    data = RunData.load(synthetic_run.build(tmp_path))
    for use in (
        lambda: ask(store, SQL, pytest.fail),
        lambda: add_run(store, data),
        lambda: compact(store, pytest.fail),
        lambda: begun(store, "fleet"),
    ):
        with pytest.raises(ResultsError, match=said):
            use()
    assert store.list("", "") == before
    done = CliRunner().invoke(app, ["fleet", "query", store.url, SQL])
    assert isinstance(done.exception, ResultsError)


def test_a_fleet_of_an_earlier_order_is_not_resumed(store: Files) -> None:
    old = {"fleet": "f", "name": "n", "scenario": "", "options": [], "store": "s"}
    store.write("fleets/f.json", json.dumps(old).encode())
    with pytest.raises(UsageError, match="was begun by an earlier kickbench; start a new one"):
        begun(store, "f")


def test_a_fleet_of_a_later_order_is_resumed(store: Files) -> None:
    """Of the same schema: what it has more may be left out."""
    kept = {"fleet": "f", "scenarios": {"n": ""}, "options": ["--quick"], "store": "s", "new": 1}
    store.write("fleets/f.json", json.dumps(kept).encode())
    order, _ = begun(store, "f")
    assert (order.scenarios, order.options) == ({"n": ""}, ("--quick",))
