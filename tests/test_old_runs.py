# SPDX-License-Identifier: Apache-2.0
"""A run of schema 1, as the kickbench of that time measured it: readable, and not a new one.

``data/schema_1`` is a real run on one vCPU with exits, exits under kicks, kicks, pauses and races.
A kick's latency ended there when KVM_RUN returned.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.compare.metrics import METRICS
from kickbench.compare.runs import compare
from kickbench.errors import EXIT_USAGE, UsageError
from kickbench.nightly.collect import trends
from kickbench.nightly.history import History
from kickbench.nightly.night import Night
from kickbench.nightly.remarks import remarks
from kickbench.report.words import comparison as words
from kickbench.results.reader import RunReader
from kickbench.results.schema import SCHEMA
from kickbench.results.writer import RunWriter
from kickbench.summary.data import RunData

OLD = Path(__file__).parent / "data" / "schema_1"
LATER = datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC)
MEANING = "its kick latencies and pauses end when KVM_RUN returns"


def copy_of(folder: Path, *, schema: int = 1, days: int = 0, kinds: tuple[str, ...] = ()) -> Path:
    """The run, as if it had been measured some days later, in another meaning, of some kinds."""
    shutil.copytree(OLD, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    when = datetime.datetime.fromisoformat(manifest["created_utc"]) + datetime.timedelta(days=days)
    manifest["schema"] = schema
    manifest["created_utc"] = f"{when:%Y-%m-%dT%H:%M:%SZ}"
    manifest["run_id"] = f"{when:%Y%m%dT%H%M%SZ}-vm-{schema:08x}"
    if kinds:
        cases = manifest["cases"]
        manifest["cases"] = [case for case in cases if case["case"]["kind"] in kinds]
    path.write_text(json.dumps(manifest))
    return folder


def night_of(folder: Path) -> Night:
    return Night.of(RunReader(folder).manifest, RunData.load(folder).summary)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_it_is_shown_and_says_what_its_figures_mean() -> None:
    result = run("show", OLD)
    assert result.exit_code == 0
    assert result.stdout.count(MEANING) == 1
    before, _, _ = result.stdout.partition("--- Exits ---")
    assert MEANING in before
    assert "Kicked in the guest" in before
    assert "its races do not show how many kicks could have been lost" in before
    assert "lost none, but most of the kicks could not have been lost" in before
    assert "at most" not in before


def test_a_run_of_this_version_says_nothing_of_it(tmp_path: Path) -> None:
    assert "earlier kickbench" not in run("show", copy_of(tmp_path / "new", schema=SCHEMA)).stdout


@pytest.mark.parametrize(
    ("kinds", "said", "unsaid"),
    [
        (("exits",), "", "earlier kickbench"),
        (("kick",), "its kick latencies end", "races"),
        (("race",), "this run: its races do not show", "KVM_RUN returns"),
    ],
)
def test_only_of_what_it_measured(
    tmp_path: Path, kinds: tuple[str, ...], said: str, unsaid: str
) -> None:
    text = run("show", copy_of(tmp_path / "some", kinds=kinds)).stdout
    assert said in text
    assert unsaid not in text.partition("---")[0]


def test_the_report_says_it_too(tmp_path: Path) -> None:
    result = run("report", OLD, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    (page,) = (p for p in tmp_path.rglob("*.html") if p.name != "index.html")
    assert MEANING in page.read_text(encoding="utf-8")


def test_the_summary_tells_its_own_schema_from_that_of_the_run() -> None:
    summary = json.loads(run("show", "--json", OLD).stdout)
    assert (summary["schema"], summary["run_schema"]) == (SCHEMA, 1)
    (race,) = (case for case in summary["cases"] if case["kind"] == "race")
    for figures in race["methods"].values():
        assert figures["sent"] > 0
        assert figures.get("landed") is None  # what was counted then could not all have been lost


def test_without_its_tables_it_reads_the_same(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "stripped")
    (folder / "manifest.json").write_text((OLD / "manifest.json").read_text())
    shutil.rmtree(folder / "cases")
    result = run("show", folder)
    assert result.exit_code == 0, result.exception
    assert MEANING in result.stdout


def test_it_cannot_be_resumed(tmp_path: Path) -> None:
    """Its pending cases would get figures of another meaning than the finished ones."""
    folder = copy_of(tmp_path / "old")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UsageError, match=r"begun by an earlier kickbench .* start a new run"):
        RunWriter.resume(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    result = run("run", "--resume", folder)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == EXIT_USAGE


# --- compare ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_kicks_are_not_compared_across_the_change_and_exits_are(
    tmp_path: Path, turned: bool
) -> None:
    runs = [OLD, copy_of(tmp_path / "new", schema=SCHEMA, days=1)]
    first, second = reversed(runs) if turned else runs
    comparison = compare(RunData.load(first).summary, RunData.load(second).summary)
    verdicts = {(j.base.kind, j.verdict == "not comparable") for j in comparison.judged}
    kicks = {"kick", "pause_all", "race"} & {j.base.kind for j in comparison.judged}
    assert {"kick", "pause_all"} <= kicks
    assert verdicts == {("exits", False)} | {(kind, True) for kind in kicks}
    (doubt,) = (doubt for doubt in comparison.doubts if doubt.what == "schema")
    assert doubt.side == ("other" if turned else "base")
    text = run("compare", first, second).stdout
    lines = [line for line in text.splitlines() if "an earlier kickbench" in line]
    assert len(lines) == 1
    (table,) = (table for table in words.tables(comparison) if table.kind == "pause_all")
    reasons = {row.word for row in table.rows}
    assert reasons == {"not comparable: the cases differ in what the figure means"}


def test_runs_of_one_meaning_are_compared(tmp_path: Path) -> None:
    for schema in (1, SCHEMA):
        one = copy_of(tmp_path / f"one{schema}", schema=schema)
        other = copy_of(tmp_path / f"other{schema}", schema=schema, days=1)
        comparison = compare(RunData.load(one).summary, RunData.load(other).summary)
        assert not comparison.of("not comparable")
        assert "schema" not in {doubt.what for doubt in comparison.doubts}


# --- nights -------------------------------------------------------------------------------------


def history_of(folder: Path, schemas: Mapping[int, int]) -> tuple[History, list[Night]]:
    """A history with a night per day, each of a schema."""
    history = History(folder / "history")
    for day, schema in schemas.items():
        history.append(night_of(copy_of(folder / f"run{day}", schema=schema, days=day)))
    (partition,) = history.partitions()
    return history, history.read(partition)


def test_earlier_nights_are_no_baseline_for_kicks(tmp_path: Path) -> None:
    history, nights = history_of(tmp_path, {0: 1, 1: 1, 2: SCHEMA, 3: SCHEMA})
    _, found = trends(nights, history.events())
    for trend in found:
        changed = METRICS[trend.key.metric].since > 1
        assert trend.night.tolist() == ([2, 3] if changed else [0, 1, 2, 3])
    assert {"latency_p50_ns", "pause_last_ns", "ns_per_exit"} <= {t.key.metric for t in found}
    (line,) = remarks(nights, nights[-1], LATER)
    assert line.startswith(f"the nights up to {nights[1].run_id} are no baseline for kick latency")


def test_it_is_said_until_there_are_nights_enough(tmp_path: Path) -> None:
    _, nights = history_of(tmp_path, {0: 1, **dict.fromkeys(range(1, 9), SCHEMA)})
    said = [bool(remarks(nights[: i + 1], night, LATER)) for i, night in enumerate(nights)]
    assert said == [False] + 7 * [True] + [False]


def test_nights_of_one_meaning_say_nothing(tmp_path: Path) -> None:
    _, nights = history_of(tmp_path, {0: 1, 1: 1})
    assert remarks(nights, nights[-1], LATER) == []


def test_a_night_from_before_schemas_were_kept_is_of_the_first(tmp_path: Path) -> None:
    night = night_of(OLD)
    document = {key: value for key, value in night.document.items() if key != "run_schema"}
    history = History(tmp_path / "history")
    history.append(Night(document, night.table))
    (partition,) = history.partitions()
    assert [night.run_schema for night in history.read(partition)] == [1]
