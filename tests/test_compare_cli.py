# SPDX-License-Identifier: Apache-2.0
"""``kickbench compare``: the answer first, tables that stay readable, JSON, and exit codes."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.compare.metrics import points
from kickbench.compare.runs import compare as compare_summaries
from kickbench.errors import EXIT_USAGE, KickbenchError
from kickbench.report.words import comparison as compared
from kickbench.summary.data import RunData

SWEEP = synthetic_run.sweep() + synthetic_run.kick_sweep()
OTHER_KERNEL: dict[str, Any] = copy.deepcopy(synthetic_run.ENVIRONMENT)
OTHER_KERNEL["kernel"]["release"] = "6.13.0-test"
OTHER_CPU: dict[str, Any] = copy.deepcopy(synthetic_run.ENVIRONMENT)
OTHER_CPU["cpu"]["model"] = "Imaginary CPU 4000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return synthetic_run.build(folder / "base", cases=SWEEP)


@pytest.fixture(scope="module")
def slower(folder: Path) -> Path:
    """Another kernel, on which siglock costs half as much again."""
    return synthetic_run.build(
        folder / "slower",
        cases=SWEEP,
        environment=OTHER_KERNEL,
        shift_ns=lambda case: 1.5 * synthetic_run.siglock_ns(case),
        seed=2,
    )


@pytest.fixture(scope="module")
def elsewhere(folder: Path) -> Path:
    return synthetic_run.build(folder / "elsewhere", cases=SWEEP[:3], environment=OTHER_CPU)


@pytest.fixture(scope="module", autouse=True)
def loaded_once(folder: Path) -> Iterator[None]:
    """The runs that the tests share do not change, and to load one takes most of a comparison."""
    load, loaded = RunData.load, dict[Path, RunData]()

    def loads(path: Path) -> RunData:
        if folder not in path.parents:
            return load(path)
        if path not in loaded:
            loaded[path] = load(path)
        # A test may change its summary.
        return replace(loaded[path], summary=copy.deepcopy(loaded[path].summary))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(RunData, "load", loads)
        yield


def compare(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line of an error that ends with exit code 2."""
    error = compare(*arguments).exception
    assert isinstance(error, KickbenchError), error
    assert error.exit_code == EXIT_USAGE
    assert "\n" not in str(error)
    return str(error)


def test_the_answer_comes_first_but_for_who_is_who(base: Path, slower: Path) -> None:
    result = compare(base, slower)
    assert result.exit_code == 0
    one, other, blank, first, worst, *_ = result.stdout.splitlines()
    assert one == f"base: kernel 6.12.0-test, 2026-03-01 12:00:00 UTC, {base}"
    assert other == f"other: kernel 6.13.0-test, 2026-03-01 12:00:00 UTC, {slower}"
    assert not blank
    assert re.match(r"other is slower than base in \d+ of \d+ figures[.;]", first)
    assert worst.startswith("Worst: time per quiet exit of sigmask - immediate_exit, 8 vCPUs")
    assert "- kernel: 6.12.0-test -> 6.13.0-test\n" in result.stdout


def test_what_differs_has_a_row_and_the_rest_is_counted(base: Path, slower: Path) -> None:
    short, full = (compare(base, slower, *more).stdout for more in ((), ("--all",)))
    assert "no difference seen (--all shows them)" in short
    assert "--all" not in full
    comparison = compare_summaries(RunData.load(base).summary, RunData.load(slower).summary)
    rows = [row for table in compared.tables(comparison) for row in table.rows]
    assert sum(line.endswith("  slower") for line in short.splitlines()) == len(
        [row for row in rows if row.word == "slower"]
    )
    assert sum(line.endswith("  no difference seen") for line in full.splitlines()) == sum(
        table.unseen for table in compared.tables(comparison)
    )


def test_the_table_fits_100_columns(base: Path, slower: Path) -> None:
    lines = compare(base, slower).stdout.splitlines()
    tables = lines[lines.index("--- Exits ---") : lines.index("Before you believe it:")]
    assert len(tables) > 20
    assert max(map(len, tables)) <= 100


def test_the_same_run_twice_has_no_difference(base: Path) -> None:
    result = compare(base, base.parent, "--fail-on-regression")
    assert result.exit_code == 0
    assert f"\n\nbase and other are the same run, {base.name}.\nNo diff" in result.stdout
    assert " between base and other." in result.stdout


def test_a_regression_is_exit_code_1_only_when_asked_for(base: Path, slower: Path) -> None:
    assert compare(base, slower).exit_code == 0
    assert compare(base, slower, "--fail-on-regression").exit_code == 1
    assert compare(slower, base, "--fail-on-regression").exit_code == 0
    # Any of several runs.
    assert compare(base, base, slower, "--fail-on-regression").exit_code == 1


def test_every_further_run_is_compared_with_the_first(base: Path, slower: Path) -> None:
    document = json.loads(compare(base, slower, base, "--json").stdout)
    assert [c["base"]["run_id"] for c in document["comparisons"]] == [base.name] * 2
    assert [c["other"]["run_id"] for c in document["comparisons"]] == [slower.name, base.name]
    assert [c["other"]["name"] for c in document["comparisons"]] == ["other 1", "other 2"]
    text = compare(base, slower, base).stdout
    assert text.count(f"base: kernel 6.12.0-test, 2026-03-01 12:00:00 UTC, {base}\n") == 1
    assert "other 2 and base" not in text
    assert "\nbase and other 2 are the same run, " in text


def test_json_has_every_figure_unrounded(base: Path, slower: Path) -> None:
    document = json.loads(compare(base, slower, "--json").stdout)
    assert document["schema"] == 1
    assert document["regression"] is True
    (comparison,) = document["comparisons"]
    summary = RunData.load(base).summary
    assert len(comparison["figures"]) == comparison["figures_judged"] == len(points(summary))
    levels = {p.key: p.estimate.value for p in points(summary)}
    for figure in comparison["figures"]:
        key = (figure["case"], figure["method"], figure["baseline"], figure["metric"])
        assert figure["base"]["value"] == levels[key]
        difference = figure["other"]["value"] - figure["base"]["value"]
        assert figure["diff"] == pytest.approx(difference, abs=1e-9)
        assert figure["ci_family"][0] <= figure["ci95"][0] <= figure["diff"]
    assert {f["verdict"] for f in comparison["figures"]} >= {"slower", "no difference seen"}
    assert comparison["environment"] == [
        {"title": "kernel", "before": "6.12.0-test", "after": "6.13.0-test", "blocks": False}
    ]


def test_json_is_there_also_when_the_exit_code_is_1(base: Path, slower: Path) -> None:
    result = compare(base, slower, "--json", "--fail-on-regression")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["regression"] is True


def test_the_minimal_effect_is_in_per_cent(base: Path, slower: Path) -> None:
    figures = json.loads(compare(base, slower, "--json", "--min-effect", "30").stdout)
    words = {
        f["verdict"]
        for f in figures["comparisons"][0]["figures"]
        if f["baseline"] is None and f["unit"] != "share"
    }
    assert words <= {"maybe slower", "maybe faster", "no difference seen"}
    assert len(words) > 1


@pytest.mark.parametrize("value", ["-1", "1001", "nan"])
def test_an_odd_minimal_effect_is_refused(base: Path, value: str) -> None:
    assert "--min-effect must be between 0 and 1000" in refused(base, base, "--min-effect", value)


def test_other_hardware_is_shown_side_by_side_but_not_judged(base: Path, elsewhere: Path) -> None:
    result = compare(base, elsewhere)
    assert result.exit_code == 0
    assert "\n\nNothing is comparable: environments differ in CPU.\n" in result.stdout
    assert "(so that times are not comparable)" in result.stdout
    assert re.search(r"\d+ figures: not comparable \(--all shows them\)", result.stdout)
    everything = compare(base, elsewhere, "--all").stdout
    assert "  not comparable\n" in everything
    assert "slower" not in result.stdout
    error = refused(base, elsewhere, "--fail-on-regression")
    assert "not comparable with the base" in error


def test_a_protocol_that_newly_loses_kicks_comes_first(
    base: Path, slower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = RunData.load

    def loses(path: Path) -> Any:
        data = load(path)
        for case in data.summary["cases"]:
            if path == slower and case["kind"] == "race":
                finding = {"method": "sigmask", "what": "lost", "count": 1, "of": 9999}
                case["findings"] = [finding]
        return data

    monkeypatch.setattr(RunData, "load", loses)
    result = compare(base, slower, "--fail-on-regression")
    assert result.exit_code == 1
    text = result.stdout
    assert text.splitlines()[3].startswith("sigmask (2 vCPUs, local, race at ")
    assert " claims to be free of races, but lost 1 of 9,999 kicks in other; in base it" in text
    assert "  more lost\n" in text
    assert re.search(r"\nother is slower than base in \d+ of the remaining \d+ figures[.;]", text)
    # Of the base it is no regression, but it is told all the same, next to the answer.
    result = compare(slower, base, "--fail-on-regression")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert " but lost 1 of 9,999 kicks in base already; in other it was 0 of " in lines[4]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            {"created_utc": "2026-02-28T08:00:00Z"},
            {},
            ("2026-02-28 08:00:00 UTC", "2026-03-01 12:00:00 UTC"),
        ),
        (
            {"environment": {"hostname": "a"}},
            {"environment": {"hostname": "b"}},
            ("host a, 2026-03-01 12:00:00 UTC", "host b, 2026-03-01 12:00:00 UTC"),
        ),
        (
            {"environment": {"hostname": "a", "kernel": {"release": "6.1"}}},
            {"environment": {"hostname": "a", "kernel": {"release": 6}}},
            ("kernel 6.1, 2026-03-01 12:00:00 UTC", "kernel unknown, 2026-03-01 12:00:00 UTC"),
        ),
        (
            {},
            {"emulated": True, "emulated_by": "QEMU TCG"},
            ("2026-03-01 12:00:00 UTC", "emulated (qemu tcg), 2026-03-01 12:00:00 UTC"),
        ),
    ],
)
def test_who_is_who_is_told_by_what_differs(
    base: Path, before: Any, after: Any, told: tuple[str, str]
) -> None:
    summary = RunData.load(base).summary
    found = compare_summaries(summary | before, summary | after)
    assert compared.names(found) == ("base", "other")
    assert compared.who(found) == told


def test_runs_can_be_given_names(base: Path, slower: Path) -> None:
    text = compare(f"base={base}", f"patched={slower}").stdout
    assert text.startswith("base: kernel 6.12.0-test, ")
    assert "\npatched: kernel 6.13.0-test, " in text
    assert "patched is slower than base in " in text
    assert "other" not in text
    document = json.loads(compare(base, f"6.13={slower}", "--json").stdout)
    (comparison,) = document["comparisons"]
    assert [comparison[side]["name"] for side in ("base", "other")] == ["base", "6.13"]


def test_a_path_may_contain_what_ends_a_name(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = synthetic_run.build(tmp_path / "x=y", cases=SWEEP[:1])
    monkeypatch.chdir(tmp_path)
    for path in (run, run.relative_to(tmp_path), "x=y"):
        assert "\nother: " in compare(base, path).stdout
        assert "\na: " in compare(base, f"a={path}").stdout
    assert "b=/nowhere: does not exist" in refused(base, "a/b=/nowhere")
    assert refused(base, "a=b=c") == "b=c: does not exist"


@pytest.mark.parametrize("name", ["x" * 25, "a\x1b[31m"])
def test_odd_names_are_refused(base: Path, name: str) -> None:
    error = refused(base, f"{name}={base}")
    assert "before the =" in error
    assert "\x1b" not in error


def test_two_runs_of_one_name_are_refused(base: Path, slower: Path) -> None:
    assert "two runs are called other" in refused(f"other={base}", slower)
    assert "two runs are called a" in refused(base, f"a={slower}", f"a={base}")


def test_an_unfinished_run_is_compared_as_far_as_it_goes(tmp_path: Path, base: Path) -> None:
    partial = synthetic_run.build(tmp_path, cases=SWEEP[:2], finish=False)
    result = compare(base, partial)
    assert result.exit_code == 0
    assert "is partial: it is not complete, so only finished cases" in result.stdout
    assert "not in the scenario of " in result.stdout


def test_skipped_cases_come_with_their_reason(tmp_path: Path, base: Path) -> None:
    paced = synthetic_run.case(8, placement=synthetic_run.PLACEMENTS[1], rate=20000.0)
    other = synthetic_run.build(
        tmp_path, cases=[*SWEEP[:1], SWEEP[1] | {"exit_rate_hz": 1.0}, paced]
    )
    assert (
        "- skipped in other (this host has no node 1): 2 vCPUs, local, full speed, no kicks\n"
        in (compare(base, other).stdout)
    )


def test_figures_of_one_run_only_are_told_by_case(
    base: Path, slower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = RunData.load

    def short(path: Path) -> Any:
        data = load(path)
        for case in data.summary["cases"] if path == slower else ():
            if case["kind"] == "exits":
                for figures in case["methods"].values():
                    for estimate in figures["estimates"].values():
                        estimate["ci95"] = None
                for contrast in case["contrasts"][1:]:
                    contrast["ci95"] = None
            if case["kind"] == "kick":
                case["methods"]["sigmask"]["latency_ci95"]["p99"] = None
        return data

    monkeypatch.setattr(RunData, "load", short)
    text, everything = (compare(base, slower, *more).stdout for more in ((), ("--all",)))
    (line,) = (line for line in text.splitlines() if "for an interval" in line)
    assert line.startswith("- too few rounds or kicks in other for an interval: 1 vCPU, local")
    assert "1 vCPU, local, full speed, no kicks: 10 figures; 2 vCPUs, local, full " in line
    assert line.endswith("; 7 more cases (--all shows them)")
    assert "kicked in the guest: kick latency p99 of sigmask" in everything
    assert "-local" not in text  # no raw id of a case


def test_runs_of_different_scenarios_are_refused(tmp_path: Path, base: Path) -> None:
    other = synthetic_run.build(tmp_path, cases=SWEEP[:1], scenario_name="another")
    assert "different scenarios, synthetic and another" in refused(base, other)


def test_what_is_no_run_is_refused(tmp_path: Path, base: Path) -> None:
    assert "does not exist" in refused(base, tmp_path / "nothing")
    assert "is not a results folder" in refused(tmp_path, base)
    assert "needs two runs" in refused(base)
    newer = synthetic_run.build(tmp_path / "newer", cases=SWEEP[:1])
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    assert "newer kickbench" in refused(base, newer)


def test_a_run_without_a_finished_case_is_refused(tmp_path: Path, base: Path) -> None:
    paced = synthetic_run.case(8, placement=synthetic_run.PLACEMENTS[1], rate=20000.0)
    empty = synthetic_run.build(tmp_path, cases=[paced])
    assert "no case finished" in refused(base, empty)


def test_an_emulated_pair_says_so_first_and_has_no_time_on_hardware(tmp_path: Path) -> None:
    one, two = (
        synthetic_run.build(tmp_path / name, cases=SWEEP[:1], emulated=True, seed=seed)
        for seed, name in enumerate("ab")
    )
    result = compare(one, two)
    assert "\n\nEmulated (QEMU TCG): no figure here is a time on hardware.\n" in result.stdout
    assert "[emulated ns]" in result.stdout
    assert "[ns]" not in result.stdout


def test_an_emulator_is_a_difference_of_the_environments(tmp_path: Path) -> None:
    one, two = (
        synthetic_run.build(tmp_path / str(emulated), cases=SWEEP[:1], emulated=emulated)
        for emulated in (False, True)
    )
    text = compare(one, two).stdout
    assert "\n\nNothing is comparable: environments differ in emulator.\n" in text
    assert "The environments differ in emulator (none, QEMU TCG).\n" in text
    assert "- emulator: none -> QEMU TCG (so that times are not comparable)\n" in text
    assert "are the same" not in text


def test_it_says_what_it_takes_to_be_called_different(base: Path, slower: Path) -> None:
    (line,) = (x for x in compare(base, slower).stdout.splitlines() if x.startswith("To be called"))
    assert re.fullmatch(
        r"To be called slower or faster, a level had to change by about [\d.]+ %, a paired "
        r"difference by about [\d.]+ % of the level \(the median of all\); less may have gone "
        r"unseen\.",
        line,
    )


def test_hostile_text_cannot_reach_the_terminal(tmp_path: Path) -> None:
    place = {**synthetic_run.PLACEMENTS[0], "name": "[bold]x[/bold] <b>"}
    odd = copy.deepcopy(synthetic_run.ENVIRONMENT)
    odd["kernel"]["release"] = "6\x1b[31m\n\u202e13"
    cases = [synthetic_run.case(2, placement=place, id="exits-odd")]
    one = synthetic_run.build(tmp_path / "a", cases=cases)
    two = synthetic_run.build(tmp_path / "b", cases=cases, environment=odd, host="b")
    text = compare(one, two).stdout
    assert not {"\x1b", "\u202e"} & set(text)
    assert "[bold]x[/bold] <b>" in text


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'scipy', 'pandas', 'pyarrow', 'pydantic', 'matplotlib'}"
    program = f"import sys, kickbench.cli; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr
