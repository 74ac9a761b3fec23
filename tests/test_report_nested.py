# SPDX-License-Identifier: Apache-2.0
"""Nesting in words, tables and figures: whether L1 had its event at once, and L2 its injection."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.compare.runs import compare as compare_runs
from kickbench.numbers import significant, whole
from kickbench.report.figures import nested as nested_figures
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.svg import inline
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages.downloads import csv_of
from kickbench.report.pages.run import page
from kickbench.report.words import comparison as compare
from kickbench.report.words.names import exit_reason_name, finished
from kickbench.report.words.nested import MOST_LATE, is_late
from kickbench.report.words.verdict import notes, verdict
from kickbench.summary.data import RunData
from kickbench.summary.nested import read_nested

NESTED = synthetic_run.nested_case()


def build(folder: Path, **arguments: Any) -> RunData:
    cases = arguments.pop("cases", [NESTED])
    keys = ("emulated", "rounds")
    more = {key: arguments.pop(key) for key in keys if key in arguments}
    run = synthetic_run.build(folder, cases=cases, shift_ns=700.0, nested=arguments, **more)
    return RunData.load(run)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return build(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return build(tmp_path_factory.mktemp("late"), kept=True)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return build(tmp_path_factory.mktemp("bad"), lost=0.02, doubled=0.01, unexpected=0.01)


def pending(data: RunData) -> dict[str, Any]:
    found: dict[str, Any] = data.summary["cases"][0]["methods"]["pending"]
    return found


def drawn(data: RunData, name: str) -> list[Plot]:
    (figure,) = [figure for figure in FIGURES if figure.name == name]
    return figure.draw(data)


# --- words -------------------------------------------------------------------------------------


def test_the_first_line_says_that_the_request_did_its_job(good: RunData) -> None:
    said = verdict(good.summary)
    assert said.alarms == ()
    assert re.fullmatch(
        r"L0 entered L2, delivered each of 12,000 injections once, and left at once: L2 got no "
        r"turn of its loop done; a round trip takes [\d.]+ ns more than plain at p50 "
        r"\(95 % CI [\d.]+ to [\d.]+\), 1 vCPU, local, nested by VMX\.",
        said.answer,
    )
    assert said.trusted is True


def test_the_kicks_of_l1_are_told_with_what_became_of_the_injections(good: RunData) -> None:
    summary = copy.deepcopy(good.summary)
    assert "kick" not in " ".join(verdict(summary).more)
    case = finished(summary, "nested")[0]
    case["kick_rate_hz"], case["nested"]["kicks"] = 500.0, 20
    (said,) = [line for line in verdict(summary).more if "kicks of L1" in line]
    assert said.startswith("Under 20 kicks of L1's vCPU, L0 delivered each of ")
    case["methods"]["pending"]["lost"] = 1
    (said,) = [line for line in verdict(summary).more if "kicks of L1" in line]
    assert "L0 delivered 1 never of " in said


def test_the_kernel_is_quoted_on_its_immediate_exits(good: RunData) -> None:
    (said,) = [line for line in verdict(good.summary).more if "kvm_entry" in line]
    assert said == (
        "Of 690 entries of L1's vCPU in 96 iterations of pending, 93 left at once by KVM's "
        "request, as its tracepoint kvm_entry says."
    )
    summary = copy.deepcopy(good.summary)
    for case in finished(summary, "nested"):
        case["nested"]["entries"] = None  # where it could not be read
    assert "kvm_entry" not in " ".join(verdict(summary).more)


def test_a_late_event_is_the_answer(late: RunData) -> None:
    work = pending(late)["work"]
    said = verdict(late.summary)
    assert said.alarms == ()  # what one wants to know, and no fault of the run
    assert said.answer.startswith(
        f"L1's event was late: L2 got a median of {whole(work['p50'])} turns of its loop "
        f"(p99 {whole(work['p99'])}, at most {whole(work['max'])}) done before L1 had it, in "
    )
    assert "L0 delivered each of 12,000 injections once" in said.answer
    assert said.more[0].startswith("Without an injection L1's event was late as well: ")


def test_a_late_event_may_be_the_fault_of_what_runs_below(good: RunData, late: RunData) -> None:
    def says_it(data: RunData, name: str | None, emulated: bool = False) -> bool:
        summary = copy.deepcopy(data.summary) | {"emulated": emulated}
        summary["environment"]["virtualization"]["hypervisor"] = name
        return "This host is itself a guest (kvm)." in " ".join(verdict(summary).more)

    assert says_it(late, "kvm")
    assert not says_it(late, None)
    assert not says_it(late, "kvm", emulated=True)
    assert not says_it(good, "kvm")


def test_a_few_late_events_are_counted_but_are_no_other_answer(good: RunData) -> None:
    changed = copy.deepcopy(good.summary)
    figures = changed["cases"][0]["methods"]["pending"]
    figures["late"] = most = int(MOST_LATE * figures["judged"])
    figures["work"]["max"] = 100_000.0
    said = verdict(changed).answer
    assert said.startswith("L0 entered L2, delivered each of 12,000 injections once, and left at")
    assert f"at most 100,000) done, and {whole(most)} events were late; " in said
    figures["late"] += 1
    assert verdict(changed).answer.startswith("L1's event was late: ")


def test_lost_and_doubled_injections_are_alarms_before_everything(bad: RunData) -> None:
    figures = pending(bad)
    lost, doubled = (f"{whole(figures[k])}" for k in ("lost", "doubled"))
    n, injected = whole(figures["n"]), whole(figures["injected"])
    said = verdict(bad.summary)
    where = "(pending, 1 vCPU, local, nested by VMX)."
    assert said.alarms == (
        f"L0 LOST L1's injection into L2 in {lost} of {n} iterations {where}",
        f"L0 DOUBLED L1's injection into L2 in {doubled} of {n} iterations {where}",
    )
    each = f"delivered {lost} never and {doubled} more than once of {injected} injections"
    assert each in said.answer


def test_unexpected_exits_are_told_by_their_reason(bad: RunData) -> None:
    (line,) = [line for line in verdict(bad.summary).lines if "unexpected" in line]
    for method, figures in bad.summary["cases"][0]["methods"].items():
        assert f"{method} {whole(figures['unexpected']['48'])} EPT violation (48)" in line
    (note,) = [note.text for note in notes(bad.summary) if "unexpected" in note.text]
    total = sum(m["unexpected"]["48"] for m in bad.summary["cases"][0]["methods"].values())
    assert f"in {whole(total)} iterations (1 of 1 case)" in note


@pytest.mark.parametrize(
    ("vendor", "reason", "name"),
    [
        ("vmx", "1", "external interrupt (1)"),
        ("vmx", "33", "entry failure: invalid guest state (33)"),
        ("vmx", "77", "reason 77"),
        ("svm", "96", "INTR (0x60)"),
        ("svm", "4294967295", "INVALID (0xffffffff)"),
        (None, "1", "reason 1"),
        ("vmx", "x" * 50, "reason " + "x" * 50),
    ],
)
def test_exit_reasons_have_the_manuals_names(vendor: str | None, reason: str, name: str) -> None:
    assert exit_reason_name({"nested": {"vendor": vendor}}, reason) == name


def test_without_a_measure_of_work_nothing_is_called_at_once(good: RunData) -> None:
    changed = copy.deepcopy(good.summary)
    case = changed["cases"][0]
    case["nested"] |= {"turn_ns": None, "at_once_turns": None}
    for figures in case["methods"].values():
        figures |= {"late": None, "judged": 0}
    assert is_late(case["methods"]["pending"]) is None
    answer = verdict(changed).answer
    assert "at once" not in answer
    assert (
        "not known how long a turn takes, so whether L1's event was late is not known either"
        in answer
    )


def test_a_case_in_which_nothing_ended_as_expected_claims_nothing(tmp_path: Path) -> None:
    data = build(tmp_path, unexpected=1.0)
    assert verdict(data.summary).answer.startswith("No iteration with a pending event ended as")
    assert drawn(data, "nested-work") == drawn(data, "nested-round-trips") == []
    assert "kickbench" in page(data)


def test_every_case_has_its_sentence(tmp_path: Path) -> None:
    cases = [
        synthetic_run.nested_case(id=f"nested-{p['name']}", placement=p)
        for p in synthetic_run.PLACEMENTS
    ]
    lines = verdict(build(tmp_path, cases=cases).summary).lines
    assert sum(line.startswith("L0 entered L2, ") for line in lines) == 2
    assert ", remote_siglock, nested by VMX." in lines[1]


def test_a_few_rounds_are_too_few_for_each_pair_by_its_own_name(tmp_path: Path) -> None:
    data = build(tmp_path, rounds=2)
    summary = copy.deepcopy(data.summary)
    for contrast in summary["cases"][0]["contrasts"]:
        contrast["ci95"] = [-1e6, 1e6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunData, "load", lambda _: replace(data, summary=summary))
        shown = CliRunner().invoke(app, ["show", str(data.reader.path)]).stdout.splitlines()
    assert "  pending - plain at p50: too few rounds" in shown
    assert "  pending - pending_no_injection at p50: too few rounds" in shown
    assert "takes 5.84 µs at p50, 1 vCPU" in verdict(summary).answer


# --- the page and the terminal -----------------------------------------------------------------


def test_the_terminal_has_the_numbers_of_the_summary_in_80_columns(bad: RunData) -> None:
    done = CliRunner().invoke(app, ["show", str(bad.reader.path)])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    cells = [line.split() for line in lines]
    assert max(len(line) for line in lines if line.startswith("  ")) <= 80
    for method, figures in bad.summary["cases"][0]["methods"].items():
        times = [figures["round_trip_ns"][k] for k in ("p50", "p90", "p99", "max", "mean")]
        assert [method, *map(significant, times)] in cells
        strange = sum(figures["unexpected"].values())
        counts = [*(figures[k] for k in ("injected", "lost", "doubled", "n")), strange]
        assert [method, *map(whole, counts)] in cells
    assert any(line.startswith("  pending - pending_no_injection at p50: +") for line in lines)


def test_faults_are_marked_on_the_page(good: RunData, bad: RunData, late: RunData) -> None:
    marked = [page(data).count('class="number bad"') for data in (good, bad, late)]
    # Lost and doubled of pending; late of both ways in which an event is pending.
    assert marked == [0, 2, 2]


def test_an_emulated_run_never_says_a_bare_time(tmp_path: Path) -> None:
    data = build(tmp_path, emulated=True)
    text = " ".join(re.sub(r"<[^>]*>", " ", page(data)).split())
    for unit in ("ns", "µs", "ms"):
        assert not re.search(rf"(?<!emulated) {unit}\b", text.split("Reproduce")[0])
    for name in ("nested-work", "nested-round-trips"):
        assert all(plot.title.startswith("Emulated (QEMU TCG)") for plot in drawn(data, name))


def test_the_download_has_every_figure(bad: RunData) -> None:
    head, *rows = csv_of(bad, "nested").decode().splitlines()
    names = head.split(",")
    assert len(rows) == len(synthetic_run.NESTED_WAYS)
    for name in ("work_p99", "round_trip_ns_p50", "late", "lost", "doubled", "unexpected_48"):
        assert name in names
    assert "difference_injection_p50_ns_ci95_low" in names


# --- figures -----------------------------------------------------------------------------------


def test_the_figure_of_work_has_every_way_and_the_limit(late: RunData) -> None:
    (plot,) = drawn(late, "nested-work")
    assert plot.finding == verdict(late.summary).answer
    (axes,) = plot.canvas.axes
    assert [text.get_text() for text in axes.texts] == list(synthetic_run.NESTED_WAYS)
    reached = {float(max(line.get_xdata())) for line in axes.lines}
    for figures in late.summary["cases"][0]["methods"].values():
        assert {figures["work"][name] for name in ("p50", "p99", "max")} <= reached
    assert late.summary["cases"][0]["nested"]["at_once_turns"] in reached
    assert axes.get_xlim()[1] > max(reached)


def test_the_figure_of_round_trips_leaves_out_what_a_thread_decides(good: RunData) -> None:
    (plot,) = drawn(good, "nested-round-trips")
    assert plot.scales == ("logarithmic", "linear")
    (axes,) = plot.canvas.axes
    (legend,) = plot.canvas.legends
    names = [text.get_text() for text in legend.get_texts() if text.get_text()]
    assert sorted(names) == ["pending", "pending_no_injection", "plain"]
    for line in axes.lines:
        x, y = line.get_xdata(), line.get_ydata()
        assert list(x) == sorted(x)
        assert y[-1] == 100
    plain = good.summary["cases"][0]["methods"]["plain"]["round_trip_ns"]
    assert axes.lines[0].get_xdata()[-1] == plain["max"]
    assert "asynchronous" not in plot.finding


def test_a_few_preempted_round_trips_do_not_flatten_the_others(
    good: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = read_nested(good.reader, "nested-local")
    slow = every.round_trip_ns.copy()
    slow[::200] = 1e9
    changed = replace(every, round_trip_ns=slow)
    monkeypatch.setattr(nested_figures, "read_nested", lambda *_: changed)
    (plot,) = drawn(good, "nested-round-trips")
    assert plot.canvas.axes[0].get_xlim()[1] < 10_000
    assert "are beyond the axis" in plot.finding


def test_without_tables_the_figure_of_work_is_left(good: RunData, tmp_path: Path) -> None:
    alone = replace(good, without_tables=frozenset({"nested-local"}))
    assert drawn(alone, "nested-round-trips") == []
    assert len(drawn(alone, "nested-work")) == 1


def test_a_strangers_way_is_text(good: RunData) -> None:
    changed = copy.deepcopy(good.summary)
    case = changed["cases"][0]
    case["methods"]["$\\frac{<script>"] = copy.deepcopy(case["methods"]["pending"])
    for plot in drawn(replace(good, summary=changed), "nested-work"):
        assert "<script>" not in inline(plot, "x")


# --- two runs ----------------------------------------------------------------------------------


def test_a_kernel_without_the_request_is_late_more_often(good: RunData, late: RunData) -> None:
    comparison = compare_runs(good.summary, late.summary)
    rows = {
        (row.method, row.metric.split(" [")[0]): row
        for table in compare.tables(comparison)
        for row in table.rows
    }
    assert rows["pending", "events late for L1"].verdict == "more often"
    assert rows["pending", "round trip to L2 p50"].verdict == "slower"
    assert rows["plain", "round trip to L2 p50"].verdict == "no difference seen"
    assert rows["pending", "injections lost"].verdict == "no difference seen"
