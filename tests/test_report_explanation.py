# SPDX-License-Identifier: Apache-2.0
"""An explanation in the folder of a run: what is read of it, and what the report shows."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st
from synthetic_explanation import shared_lines, small
from test_report_page import HOSTILE, Page

from kickbench.errors import ResultsError
from kickbench.lab.explain.case import STATE
from kickbench.lab.explain.page import page as explanation_page
from kickbench.lab.explain.shared_words import matrices
from kickbench.report.pages.run import page, write
from kickbench.report.words.explanation import totals
from kickbench.results.explanation import FILE, PAGE, load_explanation
from kickbench.summary.data import RunData


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an explanation, not to be changed."""
    run = synthetic_run.build(
        tmp_path_factory.mktemp("runs"), cases=[synthetic_run.case(1)], rounds=4
    )
    (run / FILE).write_text(json.dumps(small().to_dict()))
    (run / PAGE).write_text("<!doctype html>")
    return run


@pytest.fixture
def run(explained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(explained, tmp_path / "javascript:run"))


def change(run: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    document = json.loads((run / FILE).read_text())
    edit(document)
    (run / FILE).write_text(json.dumps(document))
    return run


def test_what_lab_explain_writes_is_read(explained: Path) -> None:
    found = load_explanation(explained)
    assert found is not None
    assert (found.machine, found.kernel, found.baseline) == ("QEMU 7.2", "6.12", "immediate_exit")
    sigmask = found.methods["sigmask"]
    assert sigmask.instructions == sum(sigmask.functions.values()) == 157
    assert sigmask.paths == small().found[1].folded
    assert found.page == (explained / PAGE).resolve()


def titles(html: str) -> list[str | None]:
    """Of the flame graphs of a page."""
    return [attrs["data-title"] for tag, attrs in Page(html).tags if tag == "figure" and attrs]


def test_a_run_without_one_has_none(tmp_path: Path) -> None:
    assert load_explanation(tmp_path) is None
    html = page(RunData.load(synthetic_run.build(tmp_path, cases=[synthetic_run.case(1)])))
    assert 'id="instructions"' not in html


def test_one_of_kicks_only_is_not_shown(run: Path) -> None:
    assert load_explanation(change(run, lambda d: d["methods"].clear())) is None


def test_the_report_has_the_table_the_graph_and_a_link(run: Path, tmp_path: Path) -> None:
    written, _ = write(run, tmp_path / "out")
    html = written.read_text()
    assert "With sigmask it takes 157: 55" in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "<h3>sigmask, compared with immediate_exit</h3>" in html
    assert titles(html) == [
        "sigmask - immediate_exit",
        *("immediate_exit", "sigmask"),  # of exits, folded
        *("immediate_exit", "sigmask"),  # of kicks, which are alike
    ]
    links = [attrs["href"] or "" for _, attrs in Page(html).tags if "href" in attrs]
    (link,) = [one for one in links if not one.startswith(("#", "data:"))]
    assert link == "./../javascript%3Arun/explain.html"  # and no script's address
    assert "&lt;b&gt;lock" in html
    assert "<b>lock" not in html


def test_the_report_has_what_other_events_take(run: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        document["kicks"]["<i>x"] = {"sigmask": {"instructions_per_kick": 4321}}
        document["pauses"] = {"spin": {"sigmask": {"instructions_per_pause": 7654, "share": 0.017}}}
        document["nested"] = {"plain": {"instructions_per_round_trip": 8888, "share": 1.0}}

    found = load_explanation(change(run, add))
    assert found is not None
    both, nested = totals(found)
    assert both.methods == ["immediate_exit", "sigmask"]
    assert both.rows == [
        (f"a kick, {STATE}", ["3 (100%)", "3 (100%)"]),
        ("a kick, <i>x", ["-", "4,321"]),
        ("a pause, spin", ["-", "7,654 (2%)"]),
    ]
    assert (nested.methods, nested.rows) == (["plain"], [("a nested round trip", ["8,888 (100%)"])])
    html = page(RunData.load(run))
    assert html.count("<h3>Other events</h3>") == 1
    assert '<th scope="row">a pause, spin</th><td class="number">-</td>' in html
    assert "<i>x" not in html


def test_other_events_have_their_graphs(run: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        kick = {"instructions_per_kick": 5, "paths": {"a;b": 2, "a;c": 3}}
        document["kicks"][STATE]["sigmask"] = kick
        document["kicks"]["storm"] = {"sigmask": {"instructions_per_kick": 4}}
        pause = {"instructions_per_pause": 7, "paths": {"a;b": 7}}
        document["pauses"] = {"spin": {"immediate_exit": pause}}
        ways = {"plain": {"x": 8}, "pending": {"x": 8, "y": 1}}
        document["nested"] = {
            way: {"instructions_per_round_trip": sum(paths.values()), "paths": paths}
            for way, paths in ways.items()
        }

    html = page(RunData.load(change(run, add)))
    assert re.findall("<summary>Call paths of (.*)</summary>", html) == [
        "an exit",
        f"a kick, {STATE}",
        "a pause, spin",  # no graph of a kick in storm: the file has no call paths
        "a nested round trip",
    ]
    assert titles(html)[3:] == [
        *("immediate_exit", "sigmask", "sigmask - immediate_exit"),
        "immediate_exit",
        *("plain", "pending", "pending - plain"),
    ]


def test_the_report_has_the_matrices_of_the_explanations_page(run: Path) -> None:
    found = replace(small(), shared=shared_lines())
    (run / FILE).write_text(json.dumps(found.to_dict()))
    html = page(RunData.load(run))
    expected = list(matrices(found.shared))
    assert len(expected) == 3
    assert re.findall("<summary>(.* reads .*)</summary>", html) == [one.title for one in expected]
    (own, shown) = (_tables(one) for one in (explanation_page(found), html))
    assert shown == own[-3:]
    assert "<h3>Shared cache lines</h3>" not in page(RunData.load(change(run, forget_lines)))


def _tables(html: str) -> list[str]:
    return re.findall('<table class="lines">(.*?)</table>', html, re.DOTALL)


def forget_lines(document: dict[str, Any]) -> None:
    for one in (*document["methods"].values(), *document["kicks"][STATE].values()):
        one.pop("shared_lines", None)
        one.pop("shared_lines_by_kickers", None)


def test_an_explanation_of_exits_only_has_no_other_events(run: Path) -> None:
    change(run, lambda document: document.pop("kicks"))
    assert "Other events" not in page(RunData.load(run))


@pytest.mark.parametrize("kicks", [[], {"a": 1}, {"a": {"b": {}}}, {"a": {"b": {"x": 1}}}])
def test_damaged_kicks_are_refused(run: Path, kicks: Any) -> None:
    with pytest.raises(ResultsError, match="kicks"):
        load_explanation(change(run, lambda document: document.update(kicks=kicks)))


def test_a_report_without_a_place_has_no_link(explained: Path) -> None:
    html = page(RunData.load(explained))
    assert "<h3>sigmask, compared with immediate_exit</h3>" in html
    assert "explain.html" not in html


def test_an_older_one_has_a_table_and_no_graph(run: Path) -> None:
    def forget_paths(document: dict[str, Any]) -> None:
        for one in (*document["methods"].values(), *document["kicks"][STATE].values()):
            del one["paths"]

    html = page(RunData.load(change(run, forget_paths)))
    assert "<h3>sigmask, compared with immediate_exit</h3>" in html
    assert titles(html) == []
    assert "Call paths" not in html


def test_a_baseline_that_is_missing_is_the_first_method(run: Path) -> None:
    found = load_explanation(change(run, lambda d: d.update(baseline="gone")))
    assert found is not None
    assert found.baseline == "immediate_exit"


def test_hostile_names_are_shown_as_text(run: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        document.update(machine=HOSTILE, kernel=HOSTILE)
        document["methods"][HOSTILE] = document["methods"].pop("sigmask")

    html = page(RunData.load(change(run, rename)))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "{{7*7}}" in html
    assert html.count("<script") == 1


def at_kick(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["kicks"][STATE]["sigmask"].update(changes)


def lines(count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    return [{"what": "x", "threads": {"vCPU 0": [1, 2.5]}, **changes}] * count


def at_sigmask(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["methods"]["sigmask"].update(changes)


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (
        lambda d: d.update(schema=2, methods="in another shape"),
        "was written by a newer kickbench (schema 2); upgrade kickbench",
    ),
    (lambda d: d.update(schema=True), "schema"),
    (lambda d: d.update(methods=[]), "methods"),
    (lambda d: d.update(machine="x\n\x1b[31m"), "machine"),
    (lambda d: d.update(kernel="k" * 1001), "kernel"),
    (lambda d: d.update(methods={"m" * 2000: d["methods"]["sigmask"]}), "methods"),
    (lambda d: d.update(methods={str(n): d["methods"]["sigmask"] for n in range(101)}), "methods"),
    (at_sigmask(instructions_per_exit=156), "sigmask does not add up"),
    (at_sigmask(instructions_per_exit="157"), "instructions_per_exit"),
    (at_sigmask(functions={}), "functions"),
    (at_sigmask(functions={"f": 0, "g": 157}), "functions"),
    (at_sigmask(functions={"f": -1, "g": 158}), "functions"),
    (at_sigmask(functions={"f": 156.5, "g": 0.5}), "functions"),
    (at_sigmask(functions={"f": 2**80}), "functions"),
    (at_sigmask(functions={f"f{n}": 1 for n in range(10_001)}), "functions"),
    (at_sigmask(paths={"f;g": 156}), "sigmask does not add up"),
    (at_sigmask(paths={"f;;g": 157}), "no call path"),
    (at_sigmask(paths={"": 157}), "paths"),
    (at_sigmask(paths={";".join("f" * 101): 157}), "no call path"),
    (at_sigmask(paths={"f" * 1001: 157}), "no call path"),
    (at_sigmask(paths={f"{n}{';f' * 90}": 1 for n in range(600)}), "refused"),
    (at_kick(paths={"f;g": 2}), f"kicks.{STATE}.sigmask does not add up"),
    (at_kick(paths={";f": 3}), "no call path"),
    (
        lambda d: d.update(nested={"plain": {"instructions_per_round_trip": 4, "paths": {"a": 3}}}),
        "nested.plain does not add up",
    ),
    (at_sigmask(shared_lines={}), "shared_lines"),
    (at_sigmask(shared_lines=lines(what="a\nb")), "shared_lines"),
    (at_sigmask(shared_lines=lines(threads={})), "threads"),
    (at_sigmask(shared_lines=lines(threads={"a": [1]})), "threads"),
    (at_sigmask(shared_lines=lines(threads={"a": [1, -1]})), "threads"),
    (at_sigmask(shared_lines=lines(threads={str(n): [1, 1] for n in range(33)})), "threads"),
    (at_sigmask(shared_lines=lines(10_001)), "shared_lines"),
    (at_kick(shared_lines_by_kickers={"x": lines()}), "shared_lines_by_kickers"),
    (at_kick(shared_lines_by_kickers=lines()), "shared_lines_by_kickers"),
    (
        lambda d: (
            at_sigmask(shared_lines=lines(9000))(d),
            at_kick(shared_lines_by_kickers={"1": lines(9000)})(d),
        ),
        "refused",
    ),
]


@pytest.mark.parametrize(("edit", "said"), WRONG)
def test_what_is_wrong_is_refused_in_one_line(
    run: Path, edit: Callable[[dict[str, Any]], Any], said: str
) -> None:
    with pytest.raises(ResultsError) as caught:
        page(RunData.load(change(run, edit)))
    message = str(caught.value)
    assert "explain.json" in message
    assert said in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("text", ["", "[]", "{", "nan", '{"schema": NaN}', "[" * 5000, "\ud800"])
def test_what_is_no_json_is_refused(run: Path, text: str) -> None:
    (run / FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ResultsError, match=r"explain\.json"):
        load_explanation(run)


@pytest.mark.parametrize("name", [FILE, PAGE])
def test_a_link_out_of_the_folder_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).rename(tmp_path / "outside")
    (run / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ResultsError, match="leads out of the results folder"):
        load_explanation(run)
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ResultsError):
        load_explanation(run)


def test_the_deepest_paths_that_are_read_can_be_drawn(run: Path) -> None:
    names = [f"f{n}" for n in range(100)]
    paths = {";".join([*names[:-1], f"{n}"]): 1 for n in range(157)}
    html = page(RunData.load(change(run, at_sigmask(paths=paths))))
    assert "f98" in html


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PLACES: list[tuple[str, ...]] = [
    *[(key,) for key in ("schema", "machine", "kernel", "baseline", "methods")],
    *[
        ("methods", "sigmask", *rest)
        for rest in ((), ("functions",), ("paths",), ("functions", "kvm_run"), ("paths", "a;b"))
    ],
    ("methods", "sigmask", "shared_lines"),
    *[
        ("kicks", STATE, "sigmask", key)
        for key in ("instructions_per_kick", "paths", "shared_lines_by_kickers")
    ],
]


@given(st.sampled_from(PLACES), JSON)
def test_whatever_is_in_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], value: object
) -> None:
    document: dict[str, Any] = copy.deepcopy(small().to_dict())
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    run = tmp_path_factory.mktemp("run")
    (run / FILE).write_text(json.dumps(document))
    try:
        load_explanation(run)
    except ResultsError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either is right)
