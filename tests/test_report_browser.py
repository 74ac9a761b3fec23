# SPDX-License-Identifier: Apache-2.0
"""The reports in a real browser: Playwright drives the system's Chromium, without a network.

Chromium is looked for by the names that distributions give it, or is ``KICKBENCH_CHROMIUM``. Where
there is none the tests are skipped; with ``KICKBENCH_REQUIRE_BROWSER=1``, as in CI, that is an
error. What a page says is the matter of test_report_page.py; here it is what a browser makes of it.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import pytest
import synthetic_found
import synthetic_observed
import synthetic_run
from made_once import made_once
from synthetic_explanation import shared_lines, small
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.fleet.pages.site import write as write_fleet
from kickbench.lab.explain.page import page as explanation_page
from kickbench.summary.summarise import write_summary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, Request

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)><svg onload=alert(3)> {{7*7}}"
PHONE, DESKTOP = (360, 740), (1280, 900)

Visit = Callable[..., "Page"]


# --- the browser -------------------------------------------------------------------------------


def without_browser(reason: str) -> NoReturn:
    if os.environ.get("KICKBENCH_REQUIRE_BROWSER"):
        pytest.exit(f"the tests in a browser must run here, but: {reason}", 1)
    pytest.skip(f"no usable browser: {reason}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The first of this machine's browsers that starts and may read our files."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        without_browser("Playwright is not installed")
    named = os.environ.get("KICKBENCH_CHROMIUM")
    found = [named] if named else [path for path in map(shutil.which, NAMES) if path]
    faults = [] if found else [f"none of {', '.join(NAMES)} is in PATH"]
    # One that is confined, as a snap is, starts and sees no file in /tmp.
    trial = tmp_path_factory.mktemp("trial") / "trial.html"
    trial.write_text("<title>trial</title>")
    with sync_playwright() as playwright:
        for path in found:
            try:
                # Chromium has no sandbox for root.
                started = playwright.chromium.launch(
                    executable_path=path, chromium_sandbox=os.geteuid() != 0
                )
                started.new_page().goto(trial.as_uri())
            except Error as error:
                faults.append(f"{path}: {error.message.strip().splitlines()[0]}")
                continue
            yield started
            started.close()
            return
    without_browser("; ".join(faults))


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a page in a context of its own, offline; nothing that any page does may be amiss."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def visit(
        path: Path, *, dark: bool = False, size: tuple[int, int] = DESKTOP, script: bool = True
    ) -> Page:
        def note_request(request: Request) -> None:
            if request.url != path.as_uri() and not request.url.startswith(("data:", "blob:")):
                problems.append(f"request: {request.url}")

        def note_dialog(dialog: Dialog) -> None:
            problems.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        context = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=script,
        )
        contexts.append(context)
        context.set_offline(True)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", note_dialog)
        page.on("request", note_request)
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


# --- the pages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reports:
    """Pages by name, and the summary of the run that each is of."""

    folder: Path
    pages: dict[str, Path]
    summaries: dict[str, dict[str, Any]]


def report(folder: Path, *runs: Path) -> list[Path]:
    """What ``kickbench report`` writes of some runs, in the order in which it says so."""
    done = CliRunner().invoke(app, ["report", *map(str, runs), "-o", str(folder)])
    assert done.exit_code == 0, done.output
    return [Path(line) for line in done.stdout.splitlines()]


def hostile_run(folder: Path) -> Path:
    place = {**synthetic_run.PLACEMENTS[0], "name": HOSTILE}
    methods = ["sigmask", "immediate_exit", HOSTILE]
    cases = [
        synthetic_run.case(n, placement=place, program=HOSTILE, methods=methods, id=f"case-{n}")
        for n in (1, 2)
    ]
    cases.append(synthetic_run.race_case(id="race", placement=place, methods=methods))
    cases.append(synthetic_run.case(2, rate=5.0, placement=place, id="skipped"))
    run = synthetic_run.build(
        folder,
        cases=cases,
        rounds=8,
        scenario_name=HOSTILE,
        host=HOSTILE,
        environment={"hostname": HOSTILE, HOSTILE: {"a\x00\x1b]0;x\x07": ["\u202e" + HOSTILE]}},
    )
    for path in run.glob("cases/*/case.json"):
        document = json.loads(path.read_text())
        document["processes"][0]["warnings"] = [HOSTILE]
        path.write_text(json.dumps(document))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cases"][-1]["reason"] = HOSTILE
    manifest["scenario"]["description"] = HOSTILE
    manifest |= {"command": ["kickbench", "run", HOSTILE], "emulated": True, "emulated_by": HOSTILE}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return made_once(tmp_path_factory, "browsed", write_reports)


def write_reports(made: Path) -> Reports:
    results, folder = made / "results", made / "reports"
    every = [*synthetic_run.sweep(), *synthetic_run.kick_sweep()]
    few = [synthetic_run.case(n) for n in (1, 2)]
    days = (synthetic_run.NOW.replace(day=day) for day in (7, 8, 3))
    runs = {
        "every kind": synthetic_run.build(results / "1", cases=every, now=next(days)),
        "emulated": synthetic_run.build(
            results / "2",
            cases=[*few, *synthetic_run.kick_sweep()],
            rounds=8,
            emulated=True,
            now=next(days),
        ),
        "partial": synthetic_run.build(results / "3", rounds=8, finish=False, now=next(days)),
        "hostile": hostile_run(results / "4"),
    }
    pages = {name: report(folder, run)[0] for name, run in runs.items()}
    kernel = {**synthetic_run.ENVIRONMENT["kernel"], "release": "6.13.0-test"}
    place = {**synthetic_run.PLACEMENTS[0], "name": HOSTILE}
    same = [synthetic_run.case(n, placement=place, id=f"case-{n}") for n in (1, 2)]
    same += [synthetic_run.kick_case(), synthetic_run.pause_case(2), synthetic_run.race_case()]
    alike: dict[str, Any] = {"cases": same, "rounds": 12, "scenario_name": HOSTILE}
    two = [
        synthetic_run.build(results / "5", **alike),
        synthetic_run.build(
            results / "6",
            **alike,
            shift_ns=lambda case: 3 * synthetic_run.siglock_ns(case),
            host=HOSTILE,
            environment={**synthetic_run.ENVIRONMENT, "kernel": kernel, "hostname": HOSTILE},
            seed=2,
        ),
    ]
    *_, pages["comparison"] = report(folder / "two", *two)
    watched = synthetic_observed.build(
        results / "7", vcpus=64, guest="a guest <b>of 64</b>", lost=1
    )
    pages["observed"] = report(folder / "observed", watched)[0]
    pages["index"] = folder / "index.html"
    pages["fleet"] = write_fleet(synthetic_found.found(mark=HOSTILE), folder / "fleet")
    pages["fleet's group"] = folder / "fleet" / "group-1.html"
    pages["fleet's host"] = next((folder / "fleet").glob("host-*.html"))
    return Reports(folder, pages, {name: write_summary(run) for name, run in runs.items()})


RUNS = ("every kind", "emulated", "partial", "hostile")
FLEET = ("fleet", "fleet's group", "fleet's host")
PAGES = (*RUNS, "comparison", "observed", "index", *FLEET)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The page and the summary of a short run on the real KVM."""
    return made_once(tmp_path_factory, "real", run_and_report)


def run_and_report(folder: Path) -> tuple[Path, dict[str, Any]]:
    arguments = ["run", "quick", "--quick", "--results", str(folder / "results")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (manifest,) = (folder / "results").glob("*/*/manifest.json")
    (page, *_) = report(folder / "reports", manifest.parent)
    return page, json.loads((manifest.parent / "summary.json").read_text())


# --- numbers -----------------------------------------------------------------------------------


def says(text: str, value: float, scale: float = 1.0) -> bool:
    """Whether a printed number is this value, rounded to the digits that it has."""
    number = text.replace(",", "").lstrip("+")
    whole, point, decimals = number.partition(".")
    zeros = len(whole) - len(whole.rstrip("0")) if not point else 0
    step = 10.0 ** (zeros - len(decimals))
    return abs(float(number) - value * scale) <= step / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("8,044", 8043.6, True),
        ("8,044", 8044.6, False),
        ("141.0", 141.04, True),
        ("141.0", 141.06, False),
        ("-1,600", -1640.0, True),
        ("-1,600", 1600.0, False),
        ("36.9", 36_913.0, False),
    ],
)
def test_a_number_is_told_from_its_neighbours(text: str, value: float, same: bool) -> None:
    assert says(text, value) == same


def check_verdict(page: Page, summary: dict[str, Any]) -> list[str]:
    """Compare the sentences of the verdict that we know with the summary; what was compared."""
    text = " ".join(page.locator("#verdict").inner_text().split())
    number = r"(-?[\d,]+(?:\.\d+)?)"
    done = []
    cost = rf"(\w+) costs {number} (?:emulated )?ns (more|less) per quiet exit than (\w+) "
    cost += rf"\(95 % CI {number} to {number}\), (\d+) vCPUs?, (\w+)"
    cases = [case for case in summary["cases"] if case["status"] == "ok"]

    def contrast(method: str, vcpus: str, placement: str) -> dict[str, Any]:
        for case in cases:
            is_it = case["kind"] == "exits" and case["placement"] == placement
            if is_it and case["vcpus"] == int(vcpus) and not case["kick_rate_hz"]:
                for found in case["contrasts"]:
                    if (found["method"], found["metric"]) == (method, "quiet_ns_per_exit"):
                        return dict(found)
        raise AssertionError((method, vcpus, placement))

    for method, diff, way, baseline, low, high, vcpus, place in re.findall(cost, text)[:1]:
        found = contrast(method, vcpus, place)
        sign = 1 if way == "more" else -1
        ends = sorted(sign * end for end in found["ci95"])
        assert found["baseline"] == baseline
        assert says(diff, sign * found["diff"])
        assert says(low, ends[0])
        assert says(high, ends[1])
        done.append("cost")
    none = rf"No difference seen between (\w+) and \w+ \(95 % CI {number} to {number} "
    none += r"ns per quiet exit\), "
    for method, low, high, vcpus, place in re.findall(rf"{none}(\d+) vCPUs?, (\w+)", text)[:1]:
        found = contrast(method, vcpus, place)
        assert says(low, found["ci95"][0])
        assert says(high, found["ci95"][1])
        done.append("no cost")
    grows = r"(?:grows|falls|seen to change) with the vCPUs: ([^()]+) \((\w+)\)"
    for points, place in re.findall(grows, text)[:1]:
        shown = re.findall(rf"{number} (?:emulated )?ns at (\d+)", points)
        assert len(shown) >= 2
        for diff, vcpus in shown:
            assert says(diff, contrast("sigmask", vcpus, place)["diff"])
        done.append("growth")
    lost = rf"(\w+) lost kicks; (\w+) lost none of {number} kicks that could have been lost"
    races = [case["methods"] for case in cases if case["kind"] == "race"]
    for loser, keeper, landed in re.findall(lost, text):
        assert any(methods[loser]["lost"] for methods in races)
        assert not any(methods[keeper]["lost"] for methods in races)
        assert says(landed, sum(methods[keeper]["landed"] for methods in races))
        done.append("lost")
    kicked = rf"Kicked in the (\w+), .*?(\w+)(?:, which takes| is the fastest:) {number} "
    for state, method, median in re.findall(kicked, text):
        (case, *_) = [c for c in cases if c["kind"] == "kick" and c["state"] == state]
        assert says(median, case["methods"][method]["latency_ns"]["p50"])
        done.append("kick")
    paused = (
        rf"Pausing all (\d+) vCPUs takes {number} (?:emulated )?µs until the last .*?\((\w+), p50"
    )
    for vcpus, last, method in re.findall(paused, text):
        (case,) = [c for c in cases if c["kind"] == "pause_all" and c["vcpus"] == int(vcpus)]
        assert says(last, case["methods"][method]["last_ns"]["p50"], 1e-3)
        done.append("pause")
    return done


def tables(page: Page, kind: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a kind, row by row as a browser shows them: cells by the words over them."""
    found = page.evaluate(
        """kind => [...document.querySelectorAll("table.cases")].map(table => {
            const grid = [...table.tHead.rows].map(() => []);
            [...table.tHead.rows].forEach((row, y) => [...row.cells].forEach(cell => {
                let x = 0;
                while (grid[y][x] !== undefined) x++;
                for (let i = y; i < y + cell.rowSpan && i < grid.length; i++)
                    for (let j = x; j < x + cell.colSpan; j++)
                        grid[i][j] = i == y ? cell.innerText : "";
            }));
            const before = [...document.querySelectorAll("h3[id^=cases-]")].filter(
                h => h.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING);
            const words = text => text.split(/\\s+/).filter(Boolean).join(" ");
            return [
                before.at(-1).id,
                grid[0].map((_, x) => words(grid.map(row => row[x]).join(" "))),
                [...table.tBodies[0].rows].map(r => [...r.cells].map(c => words(c.innerText))),
            ];
        }).filter(([id]) => id == `cases-${kind}` || id.startsWith(`cases-${kind}-`))""",
        kind,
    )
    assert found, kind
    for _, names, rows in found:
        yield [dict(zip(names, row, strict=True)) for row in rows]


def test_the_verdict_has_the_figures_of_the_summary(reports: Reports, visit: Visit) -> None:
    done = check_verdict(visit(reports.pages["every kind"]), reports.summaries["every kind"])
    assert set(done) == {"cost", "growth", "lost", "kick", "pause"}
    done = check_verdict(visit(reports.pages["partial"]), reports.summaries["partial"])
    assert set(done) == {"cost", "growth"}
    done = check_verdict(visit(reports.pages["emulated"]), reports.summaries["emulated"])
    assert set(done) >= {"cost", "growth"}


Figure = Callable[[dict[str, Any]], float]
COLUMNS: dict[str, dict[str, Figure]] = {
    "exits": {
        "exits/s": lambda method: method["exits_per_second"],
        "ns per exit mean": lambda method: method["ns_per_exit"]["mean"],
        "ns per exit p99": lambda method: method["ns_per_exit"]["p99"],
        "timed exits": lambda method: method["n"],
    },
    "kick": {
        "latency [ns] (95 % CI) p50": lambda method: method["latency_ns"]["p50"],
        "kicks unmet": lambda method: method["unmet"],
    },
    "race": {
        "kicks sent": lambda method: method["sent"],
        "kicks lost": lambda method: method["lost"],
    },
    "pause_all": {"last [µs] p50": lambda method: method["last_ns"]["p50"] / 1e3},
}
"""Columns of the tables, by the kind of the cases, and where the summary has their numbers."""


@pytest.mark.parametrize("kind", COLUMNS)
def test_the_tables_have_the_figures_of_the_summary(
    kind: str, reports: Reports, visit: Visit
) -> None:
    expected = [
        (case, method)
        for case in reports.summaries["every kind"]["cases"]
        if case["kind"] == kind
        for method in case["methods"]
    ]
    seen = set()
    for rows in tables(visit(reports.pages["every kind"]), kind):
        assert len(rows) == len(expected) > 0
        for row, (case, method) in zip(rows, expected, strict=True):
            assert row["vCPUs"].removesuffix(" *") == str(case["vcpus"])
            assert row["method"] == method
            for name in COLUMNS[kind].keys() & row.keys():
                # The number comes first; its interval, where it has one, behind it.
                number = row[name].partition(" ")[0]
                assert says(number, COLUMNS[kind][name](case["methods"][method])), (name, row)
                seen.add(name)
    assert seen == set(COLUMNS[kind])


# --- what a page may do ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_complains_of_nothing(
    name: str, reports: Reports, visit: Visit
) -> None:
    page = visit(reports.pages[name])
    page.wait_for_load_state("networkidle")
    assert page.title()
    assert page.locator("h1").inner_text()


@pytest.mark.kvm
def test_the_page_of_a_real_run(real: tuple[Path, dict[str, Any]], visit: Visit) -> None:
    path, summary = real
    page = visit(path)
    check_verdict(page, summary)  # on a busy machine its rounds may be too few for an answer
    check_width(page)
    check_accessible(page)


@pytest.mark.parametrize("name", PAGES)
def test_all_can_be_read_without_script(name: str, reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages[name], script=False)
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    scripted = visit(reports.pages[name])
    for selector in ("h2", "h3", "p", "li", "figcaption", "th", "td", "pre", "svg text"):
        with_script, without = (
            [" ".join((text or "").split()) for text in one.locator(selector).all_text_contents()]
            for one in (scripted, page)
        )
        assert without == with_script, selector
        seen = [one.locator(f"main {selector}:visible").count() for one in (scripted, page)]
        assert seen[0] == seen[1], selector


@pytest.mark.parametrize("name", ["hostile", "comparison", "index"])
def test_hostile_text_is_text(name: str, reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages[name])
    open_all(page)
    assert HOSTILE in page.locator("main").inner_text().replace("\xa0", " ")
    assert page.locator("h1").count() == page.locator("main").count() == 1
    assert page.locator("script").count() == (name != "index")
    assert page.locator("img, iframe, object, embed, form, base").count() == 0
    attributes = page.evaluate(
        "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
    )
    assert not [attribute for attribute in attributes if attribute.startswith("on")]


def test_hostile_text_of_a_fleet_is_text(reports: Reports, visit: Visit) -> None:
    for name in FLEET:
        page = visit(reports.pages[name])
        open_all(page)
        assert HOSTILE in page.locator("main").inner_text().replace("\xa0", " ")
        pictures = page.locator("img").evaluate_all("all => all.map(one => one.src.slice(0, 22))")
        assert {*pictures} <= {"data:image/png;base64,"}
        assert page.locator("script").count() == 1


def test_a_fleet_is_walked_from_its_answer_to_a_host(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["fleet"])
    box = page.locator("#verdict .answer").bounding_box()
    assert box is not None
    assert box["y"] < DESKTOP[1] / 2  # before anything else
    loaded = "all => all.every(one => one.complete && one.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(loaded)
    assert page.locator("img[alt*='worse than their like']").count() == page.locator("img").count()
    addresses = page.locator("main a").evaluate_all("all => all.map(one => one.href)")
    files = {address.rpartition("/")[2].partition("#")[0] for address in addresses}
    there = {path.name for path in reports.pages["fleet"].parent.iterdir()}
    assert {unquote(file) for file in files} <= there
    assert reports.pages["fleet's host"].name in files


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_pointer_names_a_cell_of_the_map(
    size: tuple[int, int], reports: Reports, visit: Visit
) -> None:
    page = visit(reports.pages["fleet"], size=size)
    picture = page.locator(".band img").last
    label = page.locator(".cell")
    assert not label.is_visible()
    box = picture.bounding_box()
    assert box is not None
    for x, y, host, figure in (
        (1, 1, "rack00-box03", "time per quiet exit"),
        (box["width"] - 1, box["height"] - 1, "rack00-box07", "pause all p50"),
    ):
        picture.hover(position={"x": x, "y": y})
        text = label.inner_text()
        assert text.startswith(host + HOSTILE[:9])
        assert figure in text
        where = label.bounding_box()
        assert where is not None
        assert 0 <= where["x"] <= where["x"] + where["width"] <= size[0]
    page.mouse.move(0, 0)
    assert not label.is_visible()


def test_hostile_text_is_shown_where_it_belongs(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["hostile"])
    open_all(page)
    assert HOSTILE in page.title()
    assert HOSTILE in page.locator("h1").inner_text()
    for selector in ("#verdict", "td", "h3", "main li", "summary", "figcaption", "pre"):
        texts = page.locator(selector).all_inner_texts()
        # Quotes are escaped where it is a string of TOML or a word of a shell.
        assert any("'><img src=x onerror=alert(2)><svg onload" in text for text in texts), selector


# --- what it looks like ------------------------------------------------------------------------


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


def check_width(page: Page) -> None:
    """Nothing is wider than the window but what scrolls by itself."""
    open_all(page)
    wide = page.evaluate(
        """() => {
            const root = document.scrollingElement, wide = [];
            if (root.scrollWidth > innerWidth) wide.push(`page: ${root.scrollWidth}`);
            for (const e of document.body.querySelectorAll("*:not(svg *)")) {
                if (e.parentElement.closest(".scroll, pre") || !e.checkVisibility()) continue;
                const box = e.getBoundingClientRect();
                if (box.right > innerWidth + 0.5 || box.left < -0.5)
                    wide.push(`${e.outerHTML.slice(0, 80)}: ${box.left} to ${box.right}`);
            }
            return wide;
        }"""
    )
    assert wide == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out(
    name: str, size: tuple[int, int], reports: Reports, visit: Visit
) -> None:
    check_width(visit(reports.pages[name], dark=True, size=size))


FAINT = r"""() => {
    const parse = colour => colour.match(/[\d.]+/g).map(Number);
    const luminance = rgb => rgb.slice(0, 3)
        .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paint = e => {
        const style = getComputedStyle(e), drawn = e.matches("svg *");
        const colour = drawn ? style.fill : style.backgroundColor;
        const [r, g, b, a = 1] = colour.startsWith("rgb") ? parse(colour) : [0, 0, 0, 0];
        return [r, g, b, a * style.opacity * (drawn ? style.fillOpacity : 1)];
    };
    const faint = [];
    for (const text of document.querySelectorAll("figure svg text")) {
        if (!text.checkVisibility() || !text.textContent.trim()) continue;
        text.scrollIntoView({block: "center"});
        const box = text.getBoundingClientRect();
        const under = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        let ground = [0, 0, 0], left = 1;
        for (const e of [...under.filter(e => !e.closest("text")), document.body]) {
            const [r, g, b, alpha] = paint(e);
            ground = ground.map((v, i) => v + left * alpha * [r, g, b][i]);
            left *= 1 - alpha;
        }
        const [one, other] = [luminance(paint(text)), luminance(ground)].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) faint.push(`${text.textContent}: ${ratio.toFixed(2)}`);
    }
    return faint;
}"""
"""The texts of all drawings that have less than WCAG's 4.5:1 to what is painted under them, which
is more than axe-core can say of a drawing."""


def check_accessible(page: Page) -> None:
    """Neither axe-core finds anything serious or critical, nor is a text of a drawing faint."""
    from axe_playwright_python.sync_playwright import Axe

    open_all(page)
    found = Axe().run(page).response
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]
    grave = [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
    assert grave == []
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_it_is_accessible(name: str, dark: bool, reports: Reports, visit: Visit) -> None:
    check_accessible(visit(reports.pages[name], dark=dark))


def test_dark_is_dark(reports: Reports, visit: Visit) -> None:
    def brightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3

    path = reports.pages["partial"]
    assert brightness(visit(path)) > 200
    assert brightness(visit(path, dark=True)) < 60


def test_it_prints(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"], dark=True)
    page.emulate_media(media="print", color_scheme="dark")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"
    assert page.locator("button.copy:visible, button.scale:visible").count() == 0


def sheets(printed: bytes) -> list[bool]:
    """The sheets of Chromium's PDF, whose pages are not compressed: whether each is landscape."""
    pages = re.findall(rb"/Type\s*/Page\b(?:(?!endobj).)*", printed, re.DOTALL)
    sizes = [re.search(rb"/MediaBox\s*\[([^]]*)\]", page) for page in pages]
    boxes = [[float(end) for end in size[1].split()] for size in sizes if size is not None]
    assert len(boxes) == len(pages)
    for box in boxes:
        assert sorted(box) == pytest.approx([0, 0, 595, 842], abs=1)  # A4
    return [box[2] > box[3] for box in boxes]


@pytest.mark.parametrize(("name", "most"), [("every kind", 18), ("comparison", 8)])
def test_only_the_tables_are_printed_across(
    name: str, most: int, reports: Reports, visit: Visit
) -> None:
    page = visit(reports.pages[name])
    across = page.locator(".landscape").count()
    assert across == 1
    page.emulate_media(media="print")
    turned = page.evaluate(
        "[...document.querySelectorAll('body *')]"
        ".filter(e => getComputedStyle(e).page === 'wide' && !e.closest('.landscape'))"
        ".map(e => e.className)"
    )
    assert turned == []
    found = sheets(page.pdf(prefer_css_page_size=True))
    assert len(found) <= most
    # In one go, after sheets and before sheets that are not.
    assert [key for key, _ in itertools.groupby(found)] == [False, True, False]


# --- what a reader can do ----------------------------------------------------------------------

FOCUSABLE = "a[href], button, summary, input, select, [tabindex='0']"


def test_the_keyboard_reaches_everything_in_order(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"])
    count = page.evaluate(
        """selector => {
            const all = [...document.querySelectorAll(selector)].filter(e => e.checkVisibility());
            all.forEach((e, index) => e.dataset.stop = index);
            return all.length;
        }""",
        FOCUSABLE,
    )
    assert count > 10
    stops = []
    for _ in range(count):
        page.keyboard.press("Tab")
        stop, outline, inside = page.evaluate(
            """() => {
                const e = document.activeElement, style = getComputedStyle(e);
                const box = e.getBoundingClientRect();
                const inside = box.bottom > 0 && box.top < innerHeight;
                return [e.dataset.stop, style.outlineStyle + " " + style.outlineWidth, inside];
            }"""
        )
        stops.append(stop)
        assert re.fullmatch(r"(solid|auto|dashed|double) ([2-9]|1[0-9])(\.\d+)?px", outline)
        assert inside, f"stop {stop} has the focus out of sight"
    assert stops == [str(index) for index in range(count)]


def rows_of(table: Locator) -> list[str]:
    return table.locator("tbody tr").all_inner_texts()


def numbers_of(table: Locator, column: int) -> list[float]:
    """The numbers of a column as they are printed."""
    cells = table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
    return [float(cell.split()[0].replace(",", "")) for cell in cells]


@pytest.mark.parametrize("key", ["click", "Enter", "Space"])
def test_a_table_is_sorted_up_down_and_back(key: str, reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"])
    table = page.locator("#cases-exits ~ * table.cases, #cases-exits ~ table.cases").first
    head = table.locator("th[data-column]").filter(has_text=re.compile(r"^\s*exits/s\s*$"))
    column = int(head.get_attribute("data-column") or "")

    def press() -> None:
        button = head.get_by_role("button")
        if key == "click":
            button.click()
        else:
            button.focus()
            page.keyboard.press(key)

    first = rows_of(table)
    order = numbers_of(table, column)
    # The order of text would be another one.
    assert sorted(order) != sorted(order, key=str)
    assert order not in (sorted(order), sorted(order, reverse=True))
    for direction in ("ascending", "descending"):
        press()
        assert head.get_attribute("aria-sort") == direction
        assert table.locator("th[aria-sort]").count() == 1
        assert numbers_of(table, column) == sorted(order, reverse=direction == "descending")
        assert sorted(rows_of(table)) == sorted(first)
    press()
    assert head.get_attribute("aria-sort") in (None, "none")
    assert rows_of(table) == first


def test_every_column_sorts_and_what_has_no_number_comes_last(
    reports: Reports, visit: Visit
) -> None:
    page = visit(reports.pages["every kind"])
    texts = 0
    for table in page.locator("table.cases").all():
        count = table.locator("tbody tr").count()
        for head in table.locator("th[data-column]").all():
            column = int(head.get_attribute("data-column") or "")
            head.get_by_role("button").click()
            there = table.evaluate(
                "(table, column) => [...table.tBodies[0].rows].map(row =>"
                " [row.cells[column].dataset.sort ?? null, row.cells[column].innerText])",
                column,
            )
            assert len(there) == count
            if all(raw is None for raw, _ in there):
                texts += 1
                continue
            known = [float(raw) for raw, _ in there if raw is not None]
            assert known == sorted(known)
            assert [raw for raw, _ in there[len(known) :]] == [None] * (count - len(known))
            for raw, shown in there:
                printed = re.match(r"[+-]?[\d,]+(\.\d+)?(?= \(|$)", shown)
                assert raw is not None or not printed, shown
    assert texts > 0


def test_a_figure_switches_its_scale(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"])
    groups = page.get_by_role("group", name="Scale")
    assert groups.count() > 0
    for group in groups.all():
        plots = group.locator("xpath=ancestor::figure").locator("div.plot")
        assert plots.count() == 2
        drawn = [plot.inner_html() for plot in plots.all()]
        assert drawn[0] != drawn[1]
        buttons = group.get_by_role("button").all()
        names = [button.inner_text() for button in buttons]
        assert sorted(names) == ["linear", "logarithmic"]
        for chosen in (0, 1, 1, 0):
            if chosen:
                buttons[chosen].click()
            else:
                buttons[chosen].press("Enter")
            pressed = [button.get_attribute("aria-pressed") for button in buttons]
            assert pressed == [str(i == chosen).lower() for i in (0, 1)]
            assert [plot.is_visible() for plot in plots.all()] == [i == chosen for i in (0, 1)]
            title = plots.nth(chosen).locator("svg > title").text_content() or ""
            assert title.endswith(f"({names[chosen]})")
            looks = [b.evaluate("b => getComputedStyle(b).backgroundColor") for b in buttons]
            assert looks[0] != looks[1]


@pytest.mark.parametrize("modern", [True, False], ids=["clipboard", "old way"])
def test_the_command_is_copied(modern: bool, reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    reader = visit(reports.pages["partial"])
    reader.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for button in page.locator("button.copy").all():
        reader.bring_to_front()
        reader.evaluate("navigator.clipboard.writeText('nothing')")
        page.bring_to_front()
        if not modern:
            page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        name = button.get_attribute("data-copy")
        button.evaluate("button => button.closest('details')?.setAttribute('open', '')")
        button.focus()
        page.keyboard.press("Enter")
        page.locator("#copied", has_text="Copied").wait_for(state="attached")
        assert page.evaluate("document.activeElement.dataset.copy") == name
        reader.bring_to_front()
        copied = reader.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator(f"#{name}").evaluate("pre => pre.textContent")
        if name == "command":
            assert copied.strip() == "kickbench run synthetic.toml"


def test_a_table_is_downloaded_as_csv(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["every kind"])
    links = page.locator("a[download$='.csv']")
    assert links.count() >= 4
    cases = {
        case["id"]: case
        for case in reports.summaries["every kind"]["cases"]
        if case["status"] == "ok"
    }
    rows: list[dict[str, str]] = []
    for link in links.all():
        with page.expect_download() as waiting:
            link.click()
        assert waiting.value.suggested_filename.endswith(".csv")
        text = Path(waiting.value.path()).read_text(encoding="utf-8")
        rows += csv.DictReader(io.StringIO(text))
    assert len(rows) == sum(len(case["methods"]) for case in cases.values())
    for row in rows:
        case = cases[row["case_id"]]
        assert row["kind"] == case["kind"]
        assert int(row["vcpus"]) == case["vcpus"]
        figures = case["methods"][row["method"]]
        if case["kind"] == "exits":
            assert float(row["exits_per_second"]) == figures["exits_per_second"]
            assert float(row["ns_per_exit_p99"]) == figures["ns_per_exit"]["p99"]


# --- several runs ------------------------------------------------------------------------------


def test_the_index_has_all_reports_the_newest_first(reports: Reports, visit: Visit) -> None:
    page = visit(reports.folder / "index.html")
    assert page.locator("meta[name=kickbench-index]").count() == 1
    links = page.locator("ol.reports > li a")
    targets = [link.evaluate("link => link.href") for link in links.all()]
    assert sorted(set(targets)) == sorted(reports.pages[name].as_uri() for name in RUNS)
    texts = page.locator("ol.reports > li").all_inner_texts()
    days = [re.findall(r"\d{4}-\d\d-\d\d", text)[0] for text in texts]
    assert days == sorted(days, reverse=True)
    assert len(set(days)) > 2
    assert any(HOSTILE in text.replace("\xa0", " ") for text in texts)


def test_a_comparison_says_which_is_slower(reports: Reports, visit: Visit) -> None:
    page = visit(reports.pages["comparison"])
    assert re.search(r"slower", page.locator("#verdict").inner_text())
    assert page.locator("table.cases tbody tr").count() > 0
    for text in ("6.12.0-test", "6.13.0-test"):
        assert text in page.locator("main").inner_text()


# --- an explanation ------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_a_flame_graph_is_searched_and_zoomed(tmp_path: Path, visit: Visit, dark: bool) -> None:
    path = tmp_path / "explain.html"
    path.write_text(explanation_page(small()), encoding="utf-8")
    view = visit(path, dark=dark, size=PHONE)
    assert view.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    exits = view.locator("section").first
    graph = exits.locator("figure.flame").nth(1)
    bars = graph.locator("button.call")

    def width(number: int) -> float:
        box = bars.nth(number).bounding_box()
        assert box is not None
        return box["width"]

    assert bars.all_inner_texts() == ["all", "loop [kickbench]", "kvm_run", "<b>lock</b>"]
    assert width(1) == pytest.approx(width(0), abs=1)
    assert width(2) == pytest.approx(width(1) * 148 / 157, abs=2)
    assert width(3) == pytest.approx(width(1) * 58 / 157, abs=2)
    exits.locator("input").fill("LOCK")
    assert graph.locator(".call.found").all_inner_texts() == ["<b>lock</b>"]
    assert exits.locator("output").inner_text() == (
        "immediate_exit: 0, sigmask: 58, sigmask - immediate_exit: 58"
    )
    exits.locator("input").fill("k")  # in the loop's name too, which calls all others
    assert exits.locator("output").inner_text().startswith("immediate_exit: 102, sigmask: 157, ")
    bars.nth(2).click()
    assert width(2) == pytest.approx(width(0), abs=1)
    bars.nth(2).click()
    assert width(2) == pytest.approx(width(1) * 148 / 157, abs=2)


def test_a_flame_graph_is_complete_without_its_script(tmp_path: Path, visit: Visit) -> None:
    path = tmp_path / "explain.html"
    path.write_text(explanation_page(small()), encoding="utf-8")
    view = visit(path, script=False)
    assert view.locator("section").first.locator("button.call").count() == 4 + 4 + 5
    assert not view.locator("input").first.is_visible()


def test_a_runs_report_has_its_explanation_on_a_phone(tmp_path: Path, visit: Visit) -> None:
    run = synthetic_run.build(tmp_path / "runs", cases=[synthetic_run.case(1)], rounds=4)
    (run / "explain.json").write_text(json.dumps(small().to_dict()))
    (path,) = report(tmp_path / "reports", run)
    view = visit(path, size=PHONE)
    assert view.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    section = view.locator("section[aria-labelledby=instructions]")
    assert "With sigmask it takes 157" in section.inner_text().replace("\xa0", " ")
    assert section.locator("figure.flame:visible").count() == 1
    section.locator("input").first.fill("lock")
    assert section.locator(".call.found").all_inner_texts() == ["<b>lock</b> +58"]
    section.locator(".call.found").click()
    whole, found = (section.locator(one).first.bounding_box() for one in ("figure", ".found"))
    assert whole is not None
    assert found is not None
    assert found["width"] > 0.9 * whole["width"] - 20


@pytest.mark.parametrize("size", [PHONE, (800, 900), (1200, 900)])
def test_what_is_folded_of_an_explanation_unfolds(
    tmp_path: Path, visit: Visit, size: tuple[int, int]
) -> None:
    run = synthetic_run.build(tmp_path / "runs", cases=[synthetic_run.case(1)], rounds=4)
    explained = replace(small(), shared=shared_lines())
    (run / "explain.json").write_text(json.dumps(explained.to_dict()))
    (path,) = report(tmp_path / "reports", run)
    view = visit(path, size=size, dark=size != PHONE)
    section = view.locator("section[aria-labelledby=instructions]")
    assert section.locator("details[open]").count() == 3  # the matrices, which are short here
    folded = section.locator("details:not([open]) > summary")
    for _ in range(folded.count()):
        folded.first.click()
    assert section.locator("figure.flame:visible").count() == 5
    assert section.locator("table.lines:visible").count() == 3
    assert view.evaluate("document.documentElement.scrollWidth") <= size[0]
    # A search is of its own group.
    group = section.locator("details .flames").first
    group.locator("input").fill("lock")
    assert section.locator(".call.found").all_inner_texts() == ["<b>lock</b>"]
    assert group.locator("output").inner_text() == "immediate_exit: 0, sigmask: 58"
