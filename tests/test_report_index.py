# SPDX-License-Identifier: Apache-2.0
"""The folder of reports: its index, and the page that compares runs."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import synthetic_run
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.compare.runs import Comparison, Loss, Verdict
from kickbench.errors import ResultsError
from kickbench.report.figures.comparison import draw_differences
from kickbench.report.pages import index
from kickbench.report.pages.comparison import compare_all, page
from kickbench.report.pages.run import write
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{7*7}} ../"
ENVIRONMENT = synthetic_run.ENVIRONMENT
unrendered = pytest.mark.usefixtures("unrendered")


class Page(HTMLParser):
    """The tags, links and text of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pieces: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs).get("href") or "")

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def build(folder: Path, day: int = 1, **other: Any) -> Path:
    now = datetime.datetime(2026, 3, day, 12, 0, 0, tzinfo=datetime.UTC)
    arguments: dict[str, Any] = {"cases": [synthetic_run.case(1)], "rounds": 8, "now": now}
    return synthetic_run.build(folder, **arguments | other)


def on_kernel(release: str, environment: Mapping[str, Any] = ENVIRONMENT) -> dict[str, Any]:
    return {**environment, "kernel": {**environment["kernel"], "release": release}}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("old"), 1, environment=on_kernel("6.12.0-old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    return build(folder, 2, environment=on_kernel("6.18.0-new"), shift_ns=400.0, seed=2)


def report(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def listed(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


# --- the index ---------------------------------------------------------------------------------


@unrendered
def test_the_index_lists_reports_newest_first(old: Path, new: Path, tmp_path: Path) -> None:
    assert report(new, "-o", tmp_path).exit_code == 0
    assert report(old, "-o", tmp_path).exit_code == 0
    found = listed(tmp_path)
    assert found.links == [f"./synthetic-{run.name}.html" for run in (new, old)]
    for run, release in ((new, "6.18.0-new"), (old, "6.12.0-old")):
        assert verdict(RunData.load(run).summary).answer in found.text.replace("\xa0", " ")
        assert f"kernel {release}" in found.text
    assert "2026-03-02 12:00 UTC , host testhost, kernel 6.18.0-new" in found.text
    assert found.text.count("A/A control good") == 2


def test_the_index_needs_no_script_and_loads_nothing(old: Path, tmp_path: Path) -> None:
    write(old, tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert not {"script", "link", "img"} & set(Page(html).tags)
    assert "http:" not in html
    assert "script-src 'none'" in unescape(html)


@unrendered
def test_a_report_that_is_gone_is_no_longer_listed(old: Path, new: Path, tmp_path: Path) -> None:
    gone, _ = write(old, tmp_path)
    gone.unlink()
    write(new, tmp_path)
    assert listed(tmp_path).links == [f"./synthetic-{new.name}.html"]


@unrendered
def test_what_is_no_report_is_passed_over(old: Path, tmp_path: Path) -> None:
    entry = {
        "comparison": False,
        "scenario": "x",
        "created_utc": "2026-03-01T12:00:00Z",
        "hosts": [],
        "kernels": [],
        "answer": "x",
        "badges": [],
    }
    wrong: list[Any] = [
        {},
        [],
        1,
        "x",
        None,
        entry | {"answer": 1},
        entry | {"created_utc": "yesterday"},
        entry | {"created_utc": "2026-3-1T1:2:3Z"},
        entry | {"created_utc": "\uff19999-03-01T12:00:00Z"},
        entry | {"hosts": ["x"] * 1000},
        entry | {"badges": [["good"]]},
    ]
    for number, content in enumerate(wrong):
        text = json.dumps(content).replace("&", "&amp;").replace('"', "&#34;")
        head = f'<meta name="kickbench-report" content="{text}">'
        (tmp_path / f"wrong-{number}.html").write_text(head)
    far = json.dumps(entry).replace('"', "&#34;")
    head = f'<meta name="kickbench-report" content="{far}">'
    (tmp_path / "far.html").write_text("x" * 100_000 + head)
    (tmp_path / "foreign.html").write_text("<h1>mine</h1>")
    (tmp_path / "bytes.html").write_bytes(bytes(range(256)) * 300)
    (tmp_path / "empty.html").touch()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "gone.html").symlink_to(tmp_path / "missing")
    (tmp_path / "link.html").symlink_to(tmp_path / "good.html")
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "good.html").write_text(head)
    write(old, tmp_path)
    assert sorted(listed(tmp_path).links) == ["./good.html", f"./synthetic-{old.name}.html"]


def test_a_strangers_entry_is_shown_as_text(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": HOSTILE}
    environment = {"hostname": f"\u202e{HOSTILE}", "kernel": {"release": f"\u202e{HOSTILE}"}}
    run = build(
        tmp_path / "results",
        scenario_name=HOSTILE,
        environment=environment,
        cases=[synthetic_run.case(1, placement=place, id="case")],
    )
    write(run, tmp_path / "out")
    found = listed(tmp_path / "out")
    assert not {"script", "img"} & set(found.tags)
    assert found.text.count("<script>alert(1)</script>") >= 3
    assert "\u202e" not in found.text


@unrendered
def test_a_file_name_of_any_bytes_can_be_followed(old: Path, tmp_path: Path) -> None:
    path, _ = write(old, tmp_path)
    odd = tmp_path / os.fsdecode(b'a "#?%20\xff<b>.html')
    path.rename(odd)
    index.update(tmp_path)
    (link,) = listed(tmp_path).links
    assert (tmp_path / os.fsdecode(unquote_to_bytes(link))).samefile(odd)


@unrendered
def test_somebodys_own_index_is_left_alone(old: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    path, _ = write(old, tmp_path)
    assert path.is_file()
    assert (tmp_path / "index.html").read_text() == "mine"


@unrendered
def test_an_index_of_ours_is_replaced_even_when_cut_short(old: Path, tmp_path: Path) -> None:
    write(old, tmp_path)
    html = (tmp_path / "index.html").read_text()
    (tmp_path / "index.html").write_text(html[:300])
    write(old, tmp_path)
    assert (tmp_path / "index.html").read_text() == html


@unrendered
def test_reports_written_at_once_are_all_listed(old: Path, new: Path, tmp_path: Path) -> None:
    path, _ = write(old, tmp_path / "one")
    html = path.read_bytes()
    (tmp_path / "many").mkdir()

    def add(number: int) -> None:
        (tmp_path / "many" / f"{number}.html").write_bytes(html)
        index.update(tmp_path / "many")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(listed(tmp_path / "many").links) == 40
    assert not list((tmp_path / "many").glob(".*"))


@unrendered
def test_a_long_list_ends(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MOST_LISTED", 2)
    path, _ = write(old, tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.html").write_bytes(path.read_bytes())
    index.update(tmp_path)
    found = listed(tmp_path)
    assert len(found.links) == 2
    assert "2 older reports are not listed" in found.text


# --- the comparison ----------------------------------------------------------------------------


def test_two_runs_are_two_reports_and_a_comparison(old: Path, new: Path, tmp_path: Path) -> None:
    result = report(old, new, "-o", tmp_path)
    assert result.exit_code == 0
    *pages, last = map(Path, result.stdout.splitlines())
    assert pages == [tmp_path / f"synthetic-{run.name}.html" for run in (old, new)]
    assert last.name == f"synthetic-compare-{old.name}-{new.name}.html"
    found = Page(last.read_text())
    assert {f"./{path.name}" for path in pages} <= set(found.links)
    for run in (old, new):
        assert verdict(RunData.load(run).summary).answer in found.text.replace("\xa0", " ")
    assert "6.12.0-old" in found.text
    assert "6.18.0-new" in found.text
    assert listed(tmp_path).links[0] == f"./{last.name}"
    assert "synthetic: comparison Comparison" in listed(tmp_path).text


def test_the_comparison_has_every_figure_with_its_word(old: Path, new: Path) -> None:
    runs = [RunData.load(run) for run in (old, new)]
    (comparison,) = compare_all(runs)
    html = page(runs, [comparison], ["a.html", "b.html"])
    rows = re.findall(r"<tr class=\"first\">(.*?)</tr>", html, re.DOTALL)
    assert len(rows) == len(comparison.judged) > 0
    for row in rows:
        assert row.count("<td") == 7
        assert re.search(
            r">(maybe )?(faster|slower|(more|fewer) lost)<|no difference seen|not comparable", row
        )
    assert page(runs, [comparison], ["a.html", "b.html"]) == html


def test_the_figure_draws_each_difference_once(old: Path, new: Path) -> None:
    (comparison,) = compare_all([RunData.load(run) for run in (old, new)])
    plots = draw_differences(comparison)
    assert len(plots) == 2
    drawn = sum(len(plot.canvas.axes[0].texts) for plot in plots)
    assert drawn == len(comparison.comparable)
    for plot in plots:
        assert re.search(r"of [0-9]+ figures?, [0-9]+ worse", plot.finding)
        assert re.search(r"the largest .*is .*, [+-][0-9.,]+ % \(", plot.finding)


@unrendered
def test_three_runs_are_compared_with_the_first(old: Path, new: Path, tmp_path: Path) -> None:
    third = build(tmp_path / "r", 3, environment=on_kernel("6.19.0-third"), seed=3)
    result = report(old, new, third, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    text = Page(Path(result.stdout.splitlines()[-1]).read_text()).text
    assert "other 1 against base" in text
    assert "other 2 against base" in text
    # What is true of both is said once.
    assert text.count("Levels are not paired") == 1


@unrendered
def test_the_head_says_what_is_compared(old: Path, new: Path, tmp_path: Path) -> None:
    html = Path(report(old, new, "-o", tmp_path).stdout.splitlines()[-1]).read_text()
    title, head = (re.search(f"(?s)<{tag}>(.*?)</{tag}>", html) for tag in ("title", "header"))
    assert title is not None
    assert head is not None
    text = Page(head[1]).text
    for run, release in ((old, "6.12.0-old"), (new, "6.18.0-new")):
        assert run.name in title[1]
        assert run.name in text
        assert release in text
    assert "2026-03-01 12:00 UTC" in text
    assert "2026-03-02 12:00 UTC" in text
    assert "testhost" in text
    text = Page(html).text
    assert "Differences are other - base" in text
    assert text.count("if it is beside this file:") == 2
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", html)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@unrendered
def test_why_nothing_is_comparable_is_said_once(old: Path, tmp_path: Path) -> None:
    other = build(
        tmp_path / "r",
        2,
        environment={**ENVIRONMENT, "cpu": {**ENVIRONMENT["cpu"], "model": "Another CPU"}},
    )
    runs = [RunData.load(run) for run in (old, other)]
    (comparison,) = compare_all(runs)
    assert not comparison.comparable
    text = Page(page(runs, [comparison], ["a.html", "b.html"])).text
    assert f"{len(comparison.judged)} figures are not comparable: environments differ in" in text
    # There, and in the answer.
    assert text.count(": environments differ in") == 2
    assert text.count("not comparable") > len(comparison.judged)


def judged_as(comparison: Comparison, verdict: Verdict) -> Comparison:
    judged = tuple(replace(one, verdict=verdict, alarm=False) for one in comparison.judged)
    return replace(comparison, judged=judged, losses=())


@unrendered
def test_the_badge_is_green_only_if_there_is_no_doubt(old: Path, new: Path) -> None:
    runs = [RunData.load(run) for run in (old, new)]
    (found,) = compare_all(runs)

    def badges(comparison: Comparison) -> str:
        html = page(runs, [comparison], ["a.html", "b.html"])
        return " ".join(re.findall(r'(?s)<p class="badges">(.*?)</p>', html)[:1])

    same = judged_as(found, "same")
    assert "Nothing clearly worse" in badges(same)
    maybe = badges(judged_as(found, "maybe worse"))
    assert f'class="badge doubt">{len(found.judged)} maybe slower<' in maybe
    assert "Nothing clearly worse" not in maybe
    lost = badges(replace(same, losses=(Loss(found.judged[0].base, None),)))
    assert "Kicks lost by a race-free protocol" in lost
    assert "Nothing clearly worse" not in lost
    assert "badge bad" in badges(judged_as(found, "worse"))


def test_the_figure_tells_maybe_from_no_difference(old: Path, new: Path) -> None:
    (found,) = compare_all([RunData.load(run) for run in (old, new)])
    looks = set()
    verdicts: tuple[Verdict, ...] = ("worse", "maybe worse", "same", "maybe better", "better")
    for word in verdicts:
        plot = draw_differences(judged_as(found, word))[0]
        lines = plot.canvas.axes[0].lines
        marker = next(line for line in lines if line.get_marker() in ("X", "D", "o"))
        looks.add((marker.get_marker(), marker.get_fillstyle(), marker.get_color()))
        said = "no difference seen in" if word == "same" else f" {word}; the largest is"
        assert said in plot.finding
    assert len(looks) == len(verdicts)


def test_a_bar_beyond_the_axis_ends_in_an_arrow(old: Path, new: Path) -> None:
    (found,) = compare_all([RunData.load(run) for run in (old, new)])
    first, *others = found.judged
    wide = replace(first, corrected=replace(first.corrected, low=-1e9, high=1e9))
    plot = draw_differences(replace(found, judged=(wide, *others)))[0]
    (axes,) = plot.canvas.axes
    ends = {line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("<", ">")}
    assert set(axes.get_xlim()) <= ends


@unrendered
def test_a_run_is_not_compared_with_itself(old: Path, tmp_path: Path) -> None:
    result = report(old, old, "-o", tmp_path)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert f"the same run as {old}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*compare*"))


@unrendered
def test_a_run_without_a_finished_case_is_reported_but_not_compared(
    old: Path, tmp_path: Path
) -> None:
    empty = build(tmp_path / "r", 2, cases=[synthetic_run.case(2, rate=5.0)])
    result = report(old, empty, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert "no case finished" in result.stderr


def test_runs_of_different_scenarios_are_refused_before_anything_is_written(
    old: Path, tmp_path: Path
) -> None:
    other = build(tmp_path / "r", 2, scenario_name="another")
    error = report(old, other, "-o", tmp_path / "out").exception
    assert isinstance(error, ResultsError)
    assert error.exit_code == 2
    assert "\n" not in str(error)
    assert "one run at a time" in str(error)
    assert not (tmp_path / "out").exists()


def test_hostile_text_in_a_comparison_is_shown_as_text(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": HOSTILE}
    cases = [synthetic_run.case(1, placement=place, id="case")]
    runs = [
        build(
            tmp_path / str(day),
            day,
            scenario_name=HOSTILE,
            cases=cases,
            environment={
                "hostname": f"{day}{HOSTILE}\u202e",
                "kernel": {"release": f"{day}{HOSTILE}\u202e"},
            },
        )
        for day in (1, 2)
    ]
    result = report(*runs, "-o", tmp_path / "out")
    assert result.exit_code == 0
    last = Path(result.stdout.splitlines()[-1])
    found = Page(last.read_text())
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert "<script>alert(1)</script>" in found.text
    assert "\u202e" not in found.text
    assert re.fullmatch(r"[A-Za-z0-9._+-]+\.html", last.name)


def test_an_emulated_comparison_says_so_in_its_first_line(tmp_path: Path) -> None:
    runs = [build(tmp_path / str(day), day, emulated=True) for day in (1, 2)]
    result = report(*runs, "-o", tmp_path / "out")
    html = Path(result.stdout.splitlines()[-1]).read_text()
    assert "<title>Emulated (QEMU TCG): " in html
    assert "<h1>Emulated (QEMU TCG): " in html
    assert "no figure here is a time on hardware" in Page(html).text
    assert "Emulated" in listed(tmp_path / "out").text
