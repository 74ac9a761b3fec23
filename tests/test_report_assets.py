# SPDX-License-Identifier: Apache-2.0
"""What can be taken from a report: tables as CSV, the scenario, figures as files."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.errors import UsageError
from kickbench.report.pages.assets import is_asset
from kickbench.report.pages.downloads import MOST_IN_PAGE_BYTES, csv_of, data_link, defused
from kickbench.report.pages.run import page, write, write_report
from kickbench.summary.data import RunData
from kickbench.text import printable

PNG = b"\x89PNG\r\n\x1a\n"
FORMULA = '=HYPERLINK("http://example.invalid","x")'


class Links(HTMLParser):
    """The attributes of all links of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append({name: value or "" for name, value in attrs})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = [synthetic_run.case(2), *synthetic_run.kick_sweep()[:5], synthetic_run.race_case()]
    return synthetic_run.build(tmp_path_factory.mktemp("runs"), cases=cases, rounds=12)


@pytest.fixture(scope="module")
def data(run: Path) -> RunData:
    return RunData.load(run)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.build(
        tmp_path_factory.mktemp("small"), cases=[synthetic_run.case(1)], rounds=4
    )


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the run, with its assets beside it. No test changes these."""
    return write(run, tmp_path_factory.mktemp("reports"), with_assets=True)[0]


def assets_of(report: Path) -> Path:
    return report.with_name(f"{report.stem}-assets")


def copy_with_manifest(run: Path, folder: Path, change: dict[str, Any]) -> RunData:
    """The run as if its manifest had said something else."""
    copied = shutil.copytree(run, folder / run.name)
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | change))
    return RunData.load(copied)


def table(data: RunData, kind: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_of(data, kind).decode())))


def held(html: str) -> dict[str, bytes]:
    """The files that a page holds, by name."""
    return {
        link["download"]: base64.b64decode(link["href"].partition(";base64,")[2], validate=True)
        for link in Links(html).found
        if "download" in link
    }


# --- tables ------------------------------------------------------------------------------------


def test_a_csv_has_the_numbers_of_the_summary_unrounded(data: RunData) -> None:
    (case,) = (case for case in data.finished if case["kind"] == "exits")
    rows = table(data, "exits")
    assert [row["method"] for row in rows] == list(case["methods"])
    for row in rows:
        figures = case["methods"][row["method"]]
        assert float(row["ns_per_exit_p99"]) == figures["ns_per_exit"]["p99"]
        assert float(row["exits_per_second"]) == figures["exits_per_second"]
        assert int(row["n"]) == figures["n"]
        assert row["case_id"] == case["id"]
    both = {"quiet_ns_per_exit": case["control"], "ns_per_exit": case["control"]["mean"]}
    for metric, control in both.items():
        (contrast,) = (one for one in case["contrasts"] if one["metric"] == metric)
        assert float(rows[0][f"difference_{metric}"]) == contrast["diff"]
        ends = [float(rows[0][f"difference_{metric}_ci95_{end}"]) for end in ("low", "high")]
        assert ends == contrast["ci95"]
        assert float(rows[1][f"control_{metric}"]) == control["diff"]
        assert rows[0][f"control_{metric}"] == ""


def test_every_time_in_a_csv_has_its_unit(data: RunData) -> None:
    for kind in ("exits", "kick", "pause_all", "race"):
        rows = table(data, kind)
        assert rows
        for name in rows[0]:
            if any(word in name for word in ("p50", "p99", "max", "mean", "latency", "timeout")):
                assert "_ns" in name or "ns_per_exit" in name, name


def test_every_column_of_a_csv_has_a_value_somewhere(data: RunData) -> None:
    for kind in ("exits", "kick", "pause_all", "race"):
        rows = table(data, kind)
        assert all(any(row[name] for row in rows) for name in rows[0])
        assert len({len(row) for row in rows}) == 1


def test_the_csv_of_an_emulated_run_says_so_in_every_row(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(1)], rounds=4, emulated=True)
    rows = table(RunData.load(run), "exits")
    assert {row["emulated"] for row in rows} == {"yes"}
    assert {row["emulated_by"] for row in rows} == {"QEMU TCG"}


def test_the_csv_of_a_run_on_hardware_says_so(data: RunData) -> None:
    rows = table(data, "exits")
    assert {row["emulated"] for row in rows} == {"no"}
    assert "emulated_by" not in rows[0]


def test_a_strangers_text_is_no_formula(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": FORMULA}
    case = synthetic_run.case(1, placement=place, program="@SUM(1)", id="case")
    data = RunData.load(synthetic_run.build(tmp_path, cases=[case], rounds=4))
    for row in table(data, "exits"):
        assert row["placement"] == f"'{FORMULA}"
        assert row["program"] == "'@SUM(1)"


@example("-1+cmd|' /C calc'!A0")
@example("\t=1")
@example("'=1")
@example("\uff1d1+1")
@example("\uff0b1")
@example("\uff0d1")
@example("\uff201")
@example("  =1+1")
@example("\u3000=1+1")
@example("a;=1+1")
@example("a; \uff1d1;;-1")
@given(st.text() | st.text(alphabet="a;=+-@\uff1d '\t"))
def test_no_text_begins_like_a_formula(text: str) -> None:
    cell = defused(text)
    for part in cell.split(";"):  # as a spreadsheet does where numbers have a decimal comma
        assert not part.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r\n"))
    assert cell.isprintable()
    assert cell.replace("'", "") == printable(text).replace("'", "")


def test_a_cell_with_a_separator_of_any_spreadsheet_is_quoted(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": 'a;"b'}
    case = synthetic_run.case(1, placement=place, program="c,d", id="case")
    data = RunData.load(synthetic_run.build(tmp_path, cases=[case], rounds=4))
    text = csv_of(data, "exits").decode()
    assert ',"a;""b",' in text
    assert ',"c,d",' in text
    assert {row["placement"] for row in table(data, "exits")} == {'a;"b'}
    assert text.endswith("\r\n")


def test_a_number_is_no_text(data: RunData) -> None:
    found = [row for kind in ("exits", "kick") for row in table(data, kind)]
    numbers = [row[name] for row in found for name in row if name.startswith("control_")]
    assert any(number.startswith("-") for number in numbers)


# --- in the page -------------------------------------------------------------------------------


@pytest.mark.usefixtures("unrendered")
def test_the_page_holds_its_tables_and_its_scenario(data: RunData) -> None:
    files = held(page(data))
    stem = f"synthetic-{data.reader.run_id}"
    for kind in ("exits", "kick", "pause_all", "race"):
        assert files[f"{stem}-{kind}.csv"] == csv_of(data, kind)
    assert tomllib.loads(files["synthetic.toml"].decode()) == data.reader.manifest["scenario"]


@pytest.mark.usefixtures("unrendered")
def test_the_scenario_to_copy_is_the_one_to_download(small: Path, tmp_path: Path) -> None:
    hostile = "</pre><script>\u202e\x00\x1b\x85\U000e0001 \"'\\" + "x" * 5000
    scenario = json.loads((small / "manifest.json").read_text())["scenario"]
    scenario |= {"description": hostile, hostile: [hostile, 1]}
    html = page(copy_with_manifest(small, tmp_path, {"scenario": scenario}))

    pre = re.search(r'<pre id="scenario-text"[^>]*>(.*?)</pre>', html, re.DOTALL)
    assert pre is not None
    shown = unescape(pre[1])
    assert tomllib.loads(shown) == scenario
    assert held(html)["synthetic.toml"].decode() == shown


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["kickbench", "run", "x"], "kickbench run synthetic.toml"),
        (["kickbench", "run", "--quick", "x"], "kickbench run synthetic.toml --quick"),
        (["python", "x.py"], "kickbench run synthetic.toml"),
    ],
)
def test_the_command_has_the_options_that_the_run_had(
    small: Path, tmp_path: Path, words: list[str], command: str
) -> None:
    assert f">{command}</pre>" in page(copy_with_manifest(small, tmp_path, {"command": words}))


def test_what_is_too_large_for_a_page_is_not_in_it() -> None:
    assert data_link(b"x" * (MOST_IN_PAGE_BYTES + 1), "text/csv") is None
    assert data_link(b"=", "text/csv") == "data:text/csv;charset=utf-8;base64,PQ=="


# --- beside the page ---------------------------------------------------------------------------


def test_assets_are_the_tables_and_all_figures_twice(report: Path, data: RunData) -> None:
    folder = assets_of(report)
    names = {file.name for file in folder.iterdir()}
    assert {"exits.csv", "kick.csv", "pause_all.csv", "race.csv"} <= names
    svgs = {name.removesuffix(".svg") for name in names if name.endswith(".svg")}
    pngs = {name.removesuffix(".png") for name in names if name.endswith(".png")}
    assert svgs == pngs
    assert svgs
    for name in svgs:
        assert (folder / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
    assert (folder / "kick.csv").read_bytes() == csv_of(data, "kick")
    links = {link["href"] for link in Links(report.read_text()).found if "-assets/" in link["href"]}
    assert links == {f"{folder.name}/{name}" for name in names}


@pytest.mark.usefixtures("unrendered")
def test_assets_are_the_same_every_time_and_old_ones_go(
    report: Path, run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(assets_of(report), tmp_path / assets_of(report).name)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    old = ["cost-9.svg", "ecdf-7.png", "cost-2-linear.svg", "ecdf-12-logarithmic.png"]
    mine = ["notes.txt", "mydata.csv", "gone-9.svg", "cost-mine.svg", "cost.svg.png", "exits-1.csv"]
    assert not first.keys() & {*old, *mine}
    for name in (*old, *mine):
        (folder / name).write_text(name)
    again, _ = write(run, tmp_path, with_assets=True)
    assert again.name == report.name
    second = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in mine:
        assert second.pop(name) == name.encode()
    assert second == first


def test_every_name_of_an_asset_is_known_as_one(report: Path) -> None:
    for file in assets_of(report).iterdir():
        assert is_asset(file.name), file.name


def test_assets_do_not_go_through_a_symlink(run: Path, data: RunData, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious.svg").write_text("mine")
    name = f"synthetic-{run.name}-assets"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symlink"):
        write_report(data, tmp_path / "out", with_assets=True)
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["precious.svg"]


def test_assets_where_there_is_a_file_are_one_clear_line(
    run: Path, data: RunData, tmp_path: Path
) -> None:
    (tmp_path / f"synthetic-{run.name}-assets").write_text("x")
    with pytest.raises(UsageError) as caught:
        write_report(data, tmp_path, with_assets=True)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unrendered")
def test_the_command_writes_assets_when_asked(small: Path, tmp_path: Path) -> None:
    def report(*options: str) -> Any:
        arguments = ["report", str(small), "-o", str(tmp_path / "out"), *options]
        return CliRunner().invoke(app, arguments)

    assert report().exit_code == 0
    assert not list((tmp_path / "out").glob("*-assets"))
    assert len(report("--assets").stdout.splitlines()) == 1
    (folder,) = (tmp_path / "out").glob("*-assets")
    assert (folder / "exits.csv").is_file()
