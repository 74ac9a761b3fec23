# SPDX-License-Identifier: Apache-2.0
"""Kicks in words, tables and figures: who lost some, how long they take, what a pause costs."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hand_made import store
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.numbers import measured, significant, whole
from kickbench.report.figures.plots import OTHER_STYLES, style
from kickbench.report.figures.svg import inline
from kickbench.report.figures.table import FIGURES
from kickbench.report.pages.run import page
from kickbench.report.words.contention import answer_contention
from kickbench.report.words.exits import kicked_cases
from kickbench.report.words.kicks import at_most
from kickbench.report.words.names import duration, label
from kickbench.report.words.tables import TABLES, Column, columns_of, rows_of
from kickbench.report.words.verdict import ANSWERS, details, notes, verdict
from kickbench.scenario.kinds import KINDS
from kickbench.summary.data import RunData

RACERS = ["flag_signal", "sigmask", "immediate_exit", "immediate_exit_remote"]


def shift_ns(parameters: Mapping[str, Any]) -> float:
    shifts = {"exits": 30.0, "kick": 2000.0, "pause_all": 900.0, "nested": 700.0}
    return shifts.get(parameters["kind"], 0.0)


def build(folder: Path, cases: list[dict[str, Any]], **arguments: Any) -> RunData:
    run = synthetic_run.build(folder, cases=cases, **{"shift_ns": shift_ns, **arguments})
    return RunData.load(run)


def every_column(kind: str) -> list[Column]:
    table = TABLES[kind]
    return [*table.keys, *(column for part in table.parts for column in part.columns)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    cases = [*synthetic_run.kick_sweep(), synthetic_run.case(2), synthetic_run.case(4)]
    cases += [synthetic_run.nested_case(), synthetic_run.handover_case()]
    cases += [synthetic_run.lifecycle_case()]
    return build(tmp_path_factory.mktemp("mixed"), cases)


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [synthetic_run.race_case(w, 1, methods=RACERS) for w in (0.0, 50_000.0)]
    return build(tmp_path_factory.mktemp("race"), cases).summary


@pytest.fixture(scope="module")
def kick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [synthetic_run.kick_case(s, 1) for s in synthetic_run.STATES]
    return build(tmp_path_factory.mktemp("kick"), cases).summary


@pytest.fixture(scope="module")
def pause(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    methods = ["sigmask", "immediate_exit", "my_protocol"]
    cases = [synthetic_run.pause_case(n, methods=methods) for n in (2, 16, 64)]
    return build(tmp_path_factory.mktemp("pause"), cases)


def only(summary: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {**summary, "cases": [c for c in summary["cases"] if c["kind"] == kind]}


def case_of(summary: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    (case,) = [c for c in summary["cases"] if all(c[k] == v for k, v in keys.items())]
    return dict(case)


def lose(case: dict[str, Any], method: str, count: int) -> None:
    """Lose kicks, as the summary of such a run would say."""
    figures = case["methods"][method]
    key = "rescued" if case["kind"] == "pause_all" else "lost"
    figures[key] = count
    of = figures.get("sent", figures.get("n", 0) + count)
    case["findings"].append(
        {
            "method": method,
            "what": key,
            "count": count,
            "of": of,
            "race_free_claim": figures["race_free_claim"],
        }
    )


def find(case: dict[str, Any], method: str, what: str, count: int, of: int = 120_000) -> None:
    """Put a finding into a case."""
    finding = {"method": method, "what": what, "count": count, "of": of, "race_free_claim": None}
    case["findings"].append(finding)


# --- race --------------------------------------------------------------------------------------


def test_the_first_line_of_a_race_says_who_lost_kicks(race: dict[str, Any]) -> None:
    natural, wide = race["cases"]
    figures = [case["methods"]["flag_signal"] for case in (wide, natural)]
    lost = [f"{whole(f['lost'])} of {whole(f['sent'])}" for f in figures]
    said = verdict(race)
    assert said.answer == (
        "flag_signal lost kicks; sigmask lost none of 216,000 kicks that could have been lost (at "
        "most 28 in a million in any case, 95 %), immediate_exit none of 432,000 (at most 14 in a "
        "million in any case, 95 %) and immediate_exit_remote none of 216,000 (at most 28 in a "
        "million in any case, 95 %)."
    )
    assert said.more[0] == (
        f"flag_signal lost {lost[0]} kicks aimed at a window of 50 µs and {lost[1]} at the natural "
        "window."
    )


def test_millions_of_kicks_are_rounded_down(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    for case in changed["cases"]:
        for figures in case["methods"].values():
            figures["landed"] = 1_099_999
    assert "sigmask lost none of 2.1 million kicks that could" in verdict(changed).answer


def test_one_protocol_at_one_window_needs_few_words(tmp_path: Path) -> None:
    case = synthetic_run.race_case(50_000.0, 1, methods=["immediate_exit"])
    said = verdict(build(tmp_path, [case], rounds=10).summary)
    assert said.answer == (
        "immediate_exit lost none of 54,000 kicks that could have been lost (at most 56 in a "
        "million, 95 %)."
    )


@pytest.mark.parametrize(("landed", "said"), [(0, "none"), (4, "4"), (99, "99")])
def test_kicks_that_could_not_be_lost_make_no_bound(tmp_path: Path, landed: int, said: str) -> None:
    case = synthetic_run.race_case(50_000.0, 1, methods=["immediate_exit"])
    data = build(tmp_path, [case], rounds=10)
    data.summary["cases"][0]["methods"]["immediate_exit"]["landed"] = landed
    answer = verdict(data.summary).answer
    assert answer == (
        "too few kicks could have been lost for a bound, and none was: "
        f"immediate_exit {said} of 60,000."
    )
    (figure,) = (figure for figure in FIGURES if figure.name == "race")
    assert figure.draw(data) == []


def test_a_bound_is_of_the_method_s_own_kicks(race: dict[str, Any]) -> None:
    """Of one that hardly ever lands, its neighbour's kicks say nothing."""
    changed = copy.deepcopy(race)
    natural, wide = changed["cases"]
    for case in changed["cases"]:
        case["methods"]["sigmask"]["landed"] = 4
    natural["methods"]["immediate_exit"]["landed"] = 17
    answer = verdict(changed).answer
    landed = wide["methods"]["immediate_exit"]["landed"]
    assert f"immediate_exit lost none of {whole(landed)} kicks that could" in answer
    assert "too few kicks could have been lost for a bound, and none was: sigmask 8 of " in answer
    assert "At the natural window too few kicks could have been lost for a bound: " in answer
    assert "immediate_exit 17 of " in answer.partition("At the natural")[2]


def test_a_claim_that_is_broken_is_an_alarm_in_the_first_line(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    lose(changed["cases"][1], "sigmask", 3)
    said = verdict(changed)
    assert said.lines[0] == (
        "sigmask claims to be race-free, but LOST 3 of 120,000 kicks aimed at a window of 50 µs, "
        "1 vCPU, local."
    )
    assert said.answer.startswith(
        "sigmask, which claims to be race-free, and flag_signal lost kicks; immediate_exit lost"
    )
    assert any(line.startswith("sigmask lost 3 of 120,000 kicks aimed") for line in said.more)


def test_who_claims_nothing_raises_no_alarm(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    for case in changed["cases"]:
        case["methods"]["sigmask"]["race_free_claim"] = None
        lose(case, "sigmask", 3)
    said = verdict(changed)
    assert said.alarms == ()
    assert said.answer.startswith("flag_signal and sigmask lost kicks; ")
    assert any(line.startswith("sigmask lost 3 of 120,000 kicks aimed at") for line in said.more)


def test_a_broken_claim_is_an_alarm_in_every_kind(mixed: RunData) -> None:
    for kind, words in {
        "kick": "LOST 2 of 2,880 kicks sent in the guest, 2 vCPUs",
        "pause_all": "LOST kicks in 2 of 482 pauses of all vCPUs, 2 vCPUs",
    }.items():
        changed = copy.deepcopy(mixed.summary)
        case = next(c for c in changed["cases"] if c["kind"] == kind)
        lose(case, "sigmask", 2)
        (alarm,) = verdict(changed).alarms
        assert alarm.startswith(f"sigmask claims to be race-free, but {words}")


def test_a_broken_claim_short_of_cpus_says_so(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    for case in changed["cases"]:
        lose(case, "immediate_exit", 1)
    (alarm,) = verdict(changed, {case["id"] for case in changed["cases"]}).alarms
    assert alarm.endswith(", more vCPUs than CPUs, and lost kicks in 1 other case.")


def test_a_negative_control_that_loses_nothing_says_so(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    for case in changed["cases"]:
        case["methods"]["flag_signal"]["lost"] = 0
    answer = verdict(changed).answer
    assert "flag_signal, which makes no such claim, lost none either." in answer
    assert (
        "flag_signal should lose kicks, but lost none even at a window of 50 µs: this race proves "
        "nothing." in answer
    )
    del changed["cases"][1]  # at the natural window that is no wonder
    assert "no loss was tested" not in verdict(changed).answer


def test_spurious_exits_and_the_time_out_are_said(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    find(changed["cases"][0], "sigmask", "spurious", 7)
    text = "\n".join(verdict(changed).more)
    assert "Spurious exits (EINTR with no kick pending): sigmask 7 for 120,000 kicks." in text
    assert "A kick counts as lost when the guest still runs after 20 ms; the slowest" in text
    assert "A/A control" not in text  # the race has none
    for case, usual in zip(changed["cases"], (1.5e6, 14e6), strict=True):
        case |= {"timeout_ns": usual, "first_timeout_ns": 1e8}
    text = "\n".join(verdict(changed).more)
    assert (
        "runs after 1.5 ms to 14 ms (after 100 ms in the first round of a process, which finds out "
        "how long kicks take); the slowest"
    ) in text
    assert "in such a first round" not in text
    changed["cases"][0]["methods"]["sigmask"]["latency_max_ns"] = 98.7e6
    text = "\n".join(verdict(changed).more)
    assert text.endswith("that was not lost took 98.7 ms, in such a first round.")
    (column,) = [column for column in every_column("race") if column.name == "time-out"]
    cells = {column.cell(row) for row in rows_of(changed["cases"])}
    assert cells == {"1,500 (first round: 100,000)", "14,000 (first round: 100,000)"}


def test_a_race_that_sent_nothing_is_no_error(race: dict[str, Any]) -> None:
    changed = copy.deepcopy(race)
    for case in changed["cases"]:
        case["timeout_ns"] = None
        for figures in case["methods"].values():
            figures |= {"sent": 0, "landed": 0, "lost": 0, "lost_upper95": None}
            figures |= {"lost_ci95": None, "latency_max_ns": None}
    assert verdict(changed).answer == "No kick was sent in the race."
    rows = rows_of(changed["cases"])
    assert {column.cell(row) for column in every_column("race") for row in rows} >= {"-"}


def test_a_race_cut_short_is_noted(race: dict[str, Any]) -> None:
    assert not [note for note in notes(race) if "wanted number of kicks" in note.text]
    changed = copy.deepcopy(race)
    changed["cases"][0]["kicks_wanted"] = 10**6
    (note,) = [note for note in notes(changed) if "wanted number of kicks" in note.text]
    assert note.text.startswith("1 of 2 cases ended before")


@given(st.floats(1e-12, 1.0))
def test_an_upper_bound_is_never_rounded_down(rate: float) -> None:
    text = at_most(rate)
    number = float(text.split()[0].replace(",", ""))
    shown = number / (1e6 if "million" in text else 1e2)
    assert rate * (1 - 1e-6) - 1e-12 <= shown <= max(rate * 1.11, 1e-12) + 1e-9


def test_an_upper_bound_reads_well() -> None:
    assert [at_most(r) for r in (2.9957e-6, 0.0029951, 0.985, 1.0)] == [
        "3 in a million",
        "0.3 %",
        "99 %",
        "100 %",
    ]


# --- kick latency ------------------------------------------------------------------------------


def test_the_baseline_can_be_the_fastest(kick: dict[str, Any]) -> None:
    case = kick["cases"][0]
    found = case["contrasts"][0]
    value, low, high = measured(found["diff"], found["ci95"])
    answer = verdict(kick).lines[0]
    assert answer.startswith("Kicked in the guest, immediate_exit is the fastest: ")
    assert answer.endswith(
        f" ns at p50; sigmask takes {value} ns more (95 % CI {low} to {high}), 1 vCPU, local."
    )
    assert abs(float(value.replace(",", "")) - 2000) < 800  # what the run was made with


def test_a_faster_protocol_is_named_with_its_lead(tmp_path: Path) -> None:
    summary = build(tmp_path, [synthetic_run.kick_case()], shift_ns=-3000).summary
    found = summary["cases"][0]["contrasts"][0]
    value, low, high = measured(-found["diff"], [-end for end in reversed(found["ci95"])])
    answer = verdict(summary).answer
    assert answer.startswith("Kicked in the guest, sigmask is the fastest: ")
    assert f" ns at p50, {value} ns less than immediate_exit (95 % CI {low} to {high})" in answer


def test_few_rounds_make_nobody_the_fastest(tmp_path: Path) -> None:
    summary = build(tmp_path, [synthetic_run.kick_case()], shift_ns=-3000).summary
    for found in summary["cases"][0]["contrasts"]:
        found["chunks"] = 5
    answer = verdict(summary).answer
    assert "fastest: " not in answer
    assert re.match(
        r"Kicked in the guest, immediate_exit takes [\d,]+ ns at p50; too few rounds to say which "
        r"protocol is the fastest, ",
        answer,
    )


def test_no_difference_is_not_called_a_lead(tmp_path: Path) -> None:
    summary = build(tmp_path, [synthetic_run.kick_case()], shift_ns=0).summary
    answer = verdict(summary).answer
    assert answer.startswith("Kicked in the guest, no protocol is faster than immediate_exit, ")
    assert "no difference seen for sigmask (95 % CI -" in answer


def test_who_loses_kicks_is_not_ranked(tmp_path: Path) -> None:
    case = synthetic_run.kick_case(methods=["flag_signal", "immediate_exit"])
    said = verdict(build(tmp_path, [case], shift_ns=-3000).summary)
    assert "flag_signal" not in said.answer
    (line,) = [line for line in said.more if line.startswith("Lost kicks")]
    assert re.search(r"flag_signal [1-9]\d* of 2,880\.$", line)


def test_states_transports_and_kickers_are_told_where_they_vary(tmp_path: Path) -> None:
    cases = [
        synthetic_run.kick_case(s, 1, transport=t, kickers=k, id=f"{s}-{t}-{k}")
        for t in ("tgkill", "pidfd")
        for k in (1, 2)
        for s in ("guest", "halted")
    ]
    data = build(tmp_path, cases)
    said = verdict(data.summary)
    assert said.answer.endswith(", 1 vCPU, local, 1 kicker, by tgkill.")
    text = "\n".join(said.more)
    assert re.search(r"by transport: tgkill: [\d,]+ ns, pidfd: [\d,]+ ns\.", text)
    assert re.search(r"by number of kickers: 1: [\d,]+ ns, 2: [\d,]+ ns\.", text)
    assert re.search(r"immediate_exit at p50 and p99: [\d,]+ and [\d,]+ ns in the guest and", text)
    names = [column.name for column in columns_of(every_column("kick"), rows_of(data.finished))]
    assert {"kickers", "transport"} < set(names)
    assert label(data.summary, data.finished[-1]) == (
        "1 vCPU, local, kicked while halted, 2 kickers, by pidfd"
    )


KICKERS = (1, 2, 4)


def contending(folder: Path, growth: Mapping[str, float], **arguments: Any) -> RunData:
    cases = [
        synthetic_run.kick_case(s, 1, kickers=k, id=f"{s}-{k}")
        for s in ("guest", "halted")
        for k in KICKERS
    ]
    return build(folder, cases, of_kicks={"send_growth": growth, **arguments})


def test_the_send_cost_of_many_kickers_is_told_against_that_of_one(tmp_path: Path) -> None:
    data = contending(tmp_path, {"sigmask": 0.5})
    said = answer_contention(data.summary)
    assert len(said) == 2
    for state, line in zip(("in the guest", "while halted"), said, strict=True):
        assert line.startswith(f"With 4 kickers instead of 1, 1 vCPU, local, kicked {state} (100 %")
        assert re.search(
            r": sigmask [\d,]+ ns more than [\d,]+ \(95 % CI [\d,]+ to [\d,]+\);", line
        )
        assert re.search(r"no difference seen for immediate_exit \(95 % CI -", line)
        assert line in verdict(data.summary).more
    names = [column.name for column in columns_of(every_column("kick"), rows_of(data.finished))]
    assert "overlapping" in names


def test_the_send_cost_grows_by_what_the_tables_say(tmp_path: Path) -> None:
    data = contending(tmp_path, {"sigmask": 0.5})
    alone, *_, most = (c["methods"]["sigmask"]["send_ns"]["p50"] for c in data.finished[:3])
    # A fifth of the latency, and half of it more for each of three further kickers.
    assert most / alone == pytest.approx(2.5, rel=0.02)


def test_kickers_that_take_turns_are_not_said_to_contend(tmp_path: Path) -> None:
    data = contending(tmp_path, {"sigmask": 0.5}, take_turns=True)
    (line, _) = answer_contention(data.summary)
    assert line.startswith("This run did not test whether kickers contend")
    assert ": only 0 % of the calls of " in line
    assert " kickers overlapped. Each kicker needs a CPU of its own" in line
    assert "sigmask" not in line


def test_send_cost_is_drawn_by_kickers(tmp_path: Path) -> None:
    (figure,) = [figure for figure in FIGURES if figure.name == "contention"]
    data = contending(tmp_path, {"sigmask": 0.5})
    first, second = figure.draw(data)
    assert [first.finding, second.finding] == answer_contention(data.summary)
    assert first.scales == ("linear", "logarithmic")
    for canvas in (first.canvas, first.alternative):
        assert canvas is not None
        (axes,) = canvas.axes
        assert axes.get_xlabel() == "kickers"
        assert axes.get_ylabel() == "kicker's call, p50 [µs]"
        assert list(axes.get_xticks()) == list(KICKERS)
        drawn = {line.get_color() for line in axes.get_lines()}
        assert {style(data, method)[0] for method in data.finished[0]["methods"]} <= drawn
        hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
        assert not hollow


def test_kickers_that_took_turns_are_hollow(tmp_path: Path) -> None:
    (figure,) = [figure for figure in FIGURES if figure.name == "contention"]
    data = contending(tmp_path, {}, take_turns=True)
    (axes,) = figure.draw(data)[0].canvas.axes
    hollow = [x for line in axes.get_lines() for x in line.get_xdata() if is_hollow(line)]
    methods = data.finished[0]["methods"]
    assert sorted(round(x) for x in hollow) == sorted(KICKERS[1:] * len(methods))


def is_hollow(line: Any) -> bool:
    return bool(line.get_markerfacecolor() == "none" and line.get_marker() != "None")


def test_one_number_of_kickers_has_no_figure(kick: dict[str, Any], tmp_path: Path) -> None:
    (figure,) = [figure for figure in FIGURES if figure.name == "contention"]
    assert answer_contention(kick) == []
    case = synthetic_run.kick_case(kickers=3)
    assert figure.draw(build(tmp_path, [case])) == []


def test_a_summary_from_before_send_costs_were_told_says_nothing_of_them(tmp_path: Path) -> None:
    summary = copy.deepcopy(contending(tmp_path, {}).summary)
    for case in summary["cases"]:
        for figures in case["methods"].values():
            for key in ("send_ns", "send_ci95", "sends", "estimates"):
                del figures[key]
    assert answer_contention(summary) == []
    assert verdict(summary).answer


def test_what_goes_without_saying_is_not_said(kick: dict[str, Any]) -> None:
    assert label(kick, kick["cases"][0]) == "1 vCPU, local, kicked in the guest"
    names = [column.name for column in columns_of(every_column("kick"), rows_of(kick["cases"]))]
    assert not {"kickers", "transport", "irqchip"} & set(names)


def test_kicks_without_latency_are_no_error(kick: dict[str, Any]) -> None:
    changed = copy.deepcopy(kick)
    for case in changed["cases"]:
        for figures in case["methods"].values():
            figures["latency_ns"] = dict.fromkeys(figures["latency_ns"])
            figures["latency_ci95"] = dict.fromkeys(figures["latency_ci95"])
            figures["phases_ns"] = {"send": {"p50": None}, "delivery": None, "return": None}
        for found in case["contrasts"]:
            found |= {"diff": None, "ci95": None}
    assert verdict(changed).answer.startswith("No kick has a latency")
    for column in every_column("kick"):
        assert all(column.cell(row) for row in rows_of(changed["cases"]))


def test_kicks_that_met_another_state_are_noted(kick: dict[str, Any]) -> None:
    unmet = sum(f["unmet"] for case in kick["cases"] for f in case["methods"].values())
    assert f"in another state: {unmet} of 23,040 (4 of 4 cases)" in notes(kick)[-1].text


def test_a_second_mode_of_the_latency_comes_before_any_claim(kick: dict[str, Any]) -> None:
    changed = copy.deepcopy(kick)
    figures = changed["cases"][0]["methods"]["sigmask"]
    figures["n"] = 27_000
    figures["slow"] = {"n": 312, "ns": {"p10": 10.1e6, "p50": 11e6, "p90": 15e6}, "own": True}
    (alarm,) = verdict(changed).alarms
    assert alarm.startswith(
        "sigmask has kicks that take far longer than the others: 312 of 27,000 (1.2 %) took "
        "10.1 to 15 ms, while p50 is "
    )
    assert "more than once" not in alarm
    figures["resent"], figures["sent"] = 312, 27_678
    (alarm,) = verdict(changed).alarms
    assert alarm.endswith("; it sent 312 of 27,678 kicks more than once.")
    figures["slow"]["own"] = False
    assert not verdict(changed).alarms
    assert "sigmask sent 312 of" in " ".join(ANSWERS["kick"](changed, ()))


def test_a_method_most_of_whose_kicks_are_slow_has_no_second_mode(kick: dict[str, Any]) -> None:
    """Its median shows them. For example, a signal takes 80 times as long as a look at a flag."""
    changed = copy.deepcopy(kick)
    slow = {"n": 69, "ns": {"p10": 10.9e3, "p50": 11.7e3, "p90": 20.9e3}, "own": True}
    for case in changed["cases"]:
        figures = case["methods"]["sigmask"]
        figures["n"], figures["slow"] = 74, slow
    assert not verdict(changed).alarms
    changed["cases"][1]["methods"]["sigmask"]["slow"] = {**slow, "n": 7}
    (alarm,) = verdict(changed).alarms
    assert "7 of 74 (9.5 %) took 10.9 to 20.9 µs" in alarm


def test_kicks_that_were_sent_again_are_told_of_all_cases(kick: dict[str, Any]) -> None:
    changed = copy.deepcopy(kick)
    for resent, case in zip((6, 0, 0, 0), changed["cases"], strict=True):
        case["methods"]["sigmask"] |= {"resent": resent, "sent": 9}
    said = " ".join(ANSWERS["kick"](changed, ()))
    assert "sigmask sent 6 of 36 kicks more than once (17 %). That it loses none does not" in said
    changed["cases"][0]["methods"]["sigmask"]["lost"] = 1
    assert "That it loses none" not in " ".join(ANSWERS["kick"](changed, ()))
    changed["cases"][0]["methods"]["sigmask"]["resent"] = 0
    assert "more than once" not in " ".join(ANSWERS["kick"](changed, ()))


def test_a_race_says_how_late_kicks_are_that_were_sent_again(tmp_path: Path) -> None:
    case = synthetic_run.race_case(50_000.0)
    summary = RunData.load(synthetic_run.build(tmp_path, cases=[case], rounds=10)).summary
    figures = summary["cases"][0]["methods"]["sigmask"]
    figures |= {"resent": 30, "sent": 90}
    assert "sigmask sent 30 of 90 kicks more than once (33 %). That it loses none" in " ".join(
        ANSWERS["race"](summary, ())
    )
    figures["latency_ns"] = {"p50": 9e3, "p90": 5e5, "p99": 6e5, "p999": 1e6}
    figures["resent_ns"] = {"p50": 5e5, "p90": 5e5, "p99": 6e5, "p999": 1e6}
    said = " ".join(ANSWERS["race"](summary, ()))
    late = "They took 500 µs at p50, while all its kicks took 9 µs at p50 and 1 ms at p99.9."
    assert f"sigmask sent 30 of 90 kicks more than once (33 %). {late}" in said


def test_without_a_latency_it_is_said_whether_a_kick_was_sent(kick: dict[str, Any]) -> None:
    for sent, reason in ((0, "none was sent"), (9, "each one was lost, or met another state")):
        changed = copy.deepcopy(kick)
        for case in changed["cases"]:
            for figures in case["methods"].values():
                figures["latency_ns"] = dict.fromkeys(figures["latency_ns"])
                figures["sent"] = sent
        assert reason in ANSWERS["kick"](changed, ())[0]


# --- pause all ---------------------------------------------------------------------------------


def test_a_pause_is_told_for_the_most_vcpus(pause: RunData) -> None:
    last = case_of(pause.summary, vcpus=64)["methods"]["immediate_exit"]["last_ns"]["p50"]
    answer = verdict(pause.summary).lines[0]
    assert answer.startswith(
        f"Pausing all 64 vCPUs takes {duration(pause.summary, last)} until the last has "
        "acknowledged and 5 µs until the first (immediate_exit, p50), local; "
    )
    assert "sigmask" in answer
    text = "\n".join(verdict(pause.summary).more)
    assert re.search(r"p50: [\d.]+ µs at 2, [\d.]+ µs at 16 and [\d.]+ µs at 64 \(imm", text)


def test_pauses_short_of_cpus_are_marked(pause: RunData) -> None:
    crowded = {case["id"] for case in pause.finished if case["vcpus"] > 2}
    said = verdict(pause.summary, crowded)
    assert said.answer.startswith("Pausing all 2 vCPUs")
    text = "\n".join(said.more)
    assert "Oversubscribed: 16 and 64 vCPUs (local)" in text
    alone = {**pause.summary, "cases": pause.summary["cases"][1:]}
    assert ", local, more vCPUs than CPUs; " in verdict(alone, crowded).answer


def test_a_time_out_for_pauses_is_told(tmp_path: Path) -> None:
    summary = build(tmp_path, [synthetic_run.pause_case()]).summary
    methods = summary["cases"][0]["methods"]
    for figures in methods.values():
        figures["timeout_ns"] = None
    assert "1 pause in 1,000" not in " ".join(ANSWERS["pause_all"](summary, ()))
    methods["immediate_exit"]["timeout_ns"] = 4.2e6
    said = " ".join(ANSWERS["pause_all"](summary, ()))
    assert "At most 1 pause in 1,000 takes longer than 4.2 ms with immediate_exit (95 %" in said


def test_rescued_pauses_are_told(tmp_path: Path) -> None:
    case = synthetic_run.pause_case(4, methods=["flag_signal", "immediate_exit"])
    text = "\n".join(verdict(build(tmp_path, [case]).summary).more)
    assert re.search(r"second kick are not timed: flag_signal [1-9]\d* of 480\.", text)


# --- several kinds -----------------------------------------------------------------------------


def test_several_kinds_are_told_in_order_and_briefly(mixed: RunData) -> None:
    lines = verdict(mixed.summary).lines
    kinds = ("exits", "race", "kick", "pause_all", "nested", "handover", "lifecycle")
    heads = [ANSWERS[kind](mixed.summary, ())[0] for kind in kinds]
    places = [lines.index(head) for head in heads]
    assert places == sorted(places)
    assert places[0] == 0
    assert len(lines) < 12
    assert "per quiet exit, " in lines[-1]
    assert "per kick at p50, " in lines[-1]
    assert "per pause, " in lines[-1]
    assert "per round trip at p50 and" in lines[-1]
    assert "per hand-over, within the noise" in lines[-1]


def test_a_kind_alone_is_told_in_full_at_the_top(race: dict[str, Any], mixed: RunData) -> None:
    assert details(race, "race") == []
    assert details(mixed.summary, "race") == ANSWERS["race"](mixed.summary, ())


def test_a_bad_control_names_its_metric(tmp_path: Path) -> None:
    data = build(tmp_path, [synthetic_run.kick_case()], control_shift_ns=4000)
    first = verdict(data.summary).lines[0]
    assert re.search(r"to differ from itself by [\d,]+ ns per kick at p50", first)


def test_programs_of_other_kinds_are_not_in_the_names_of_cases(mixed: RunData) -> None:
    names = [label(mixed.summary, case) for case in mixed.finished]
    assert not [name for name in names if "pm_timer" in name or "spin" in name]
    assert len(set(names)) == len(names)


def test_exits_while_kicked_are_told_by_the_rate_of_kicks(mixed: RunData) -> None:
    (row,) = kicked_cases(mixed.summary, ())
    assert [(case["kick_rate_hz"], case["vcpus"]) for case in row] == [(None, 2), (1000.0, 2)]
    means = [significant(c["methods"]["immediate_exit"]["ns_per_exit"]["mean"]) for c in row]
    text = "\n".join(details(mixed.summary, "exits"))
    assert (
        f"An exit takes {means[0]} ns with no kicks and {means[1]} ns with 1,000 kicks/s per vCPU "
        "(immediate_exit, 2 vCPUs, local)."
    ) in text
    assert "With 2 vCPUs, local, 1,000 kicks/s per vCPU: sigmask costs" in text
    assert label(mixed.summary, row[0]) == "2 vCPUs, local, no kicks"


# --- spurious exits ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exits", "kick", "race"])
def test_a_flood_of_spurious_exits_leads_the_answer(mixed: RunData, kind: str) -> None:
    changed = copy.deepcopy(mixed.summary)
    case = next(case for case in changed["cases"] if case["kind"] == kind)
    find(case, "sigmask", "spurious", 320_590, 12_806)
    said = verdict(changed)
    assert said.lines[0].startswith(
        "sigmask made KVM_RUN return 320,590 times with no kick pending (spurious exits), "
        "for 12,806 kicks "
    )
    assert label(changed, case, of_kind=False) in said.lines[0]
    assert (
        ": 25 per kick. A flag that nobody clears has this effect. Meanwhile the guest"
        in said.lines[0]
    )
    # It is said once, as what it is.
    assert not any("EINTR" in line for line in details(changed, kind))


@pytest.mark.parametrize("kind", ["exits", "kick", "race"])
def test_what_kicks_leave_behind_is_no_flood(mixed: RunData, kind: str) -> None:
    changed = copy.deepcopy(mixed.summary)
    case = next(case for case in changed["cases"] if case["kind"] == kind)
    find(case, "sigmask", "spurious", 12_900, 12_806)
    assert not verdict(changed).alarms
    said = "Spurious exits (EINTR with no kick pending): sigmask 12,900 for 12,806 kicks."
    assert said in details(changed, kind)


@pytest.mark.parametrize(
    ("what", "count", "of"), [("spurious", 90_000, 9_000), ("stood_still", 9 * 10**8, 10**9)]
)
@pytest.mark.parametrize("kind", ["exits", "kick"])
def test_nothing_is_compared_with_a_guest_that_hardly_ran(
    mixed: RunData, kind: str, what: str, count: int, of: int
) -> None:
    changed = only(copy.deepcopy(mixed.summary), kind)
    for case in changed["cases"]:
        find(case, "sigmask", what, count, of)
    for case in changed["cases"]:
        rows = {row.method: row for row in rows_of([case])}
        (column, *_) = (column for column in every_column(kind) if "method -" in column.group)
        assert column.cell(rows["sigmask"]) == "guest hardly ran"
        assert column.value is not None
        assert column.value(rows["sigmask"]) is None
    text = " ".join(ANSWERS[kind](changed, ()))
    assert not re.search(r"sigmask (costs|takes|is the fastest|against)", text)
    assert not re.search(r"between sigmask|than sigmask|to sigmask", text)


def test_without_anyone_to_compare_with_it_is_said_why(mixed: RunData) -> None:
    for kind in ("exits", "kick"):
        changed = only(copy.deepcopy(mixed.summary), kind)
        for case in changed["cases"]:
            find(case, case["baseline"], "stood_still", 9, 10)
        text = " ".join(ANSWERS[kind](changed, ()))
        assert "othing is compared with immediate_exit, whose guest hardly ran" in text


# --- figures -----------------------------------------------------------------------------------


def plots(data: RunData, name: str) -> list[Any]:
    (figure,) = [figure for figure in FIGURES if figure.name == name]
    return figure.draw(data)


def test_bars_of_latency_are_the_medians_of_the_summary(mixed: RunData) -> None:
    (plot,) = plots(mixed, "kick-latency")
    ends = sorted(patch.get_x() + patch.get_width() for patch in plot.canvas.axes[0].patches)
    for case in only(mixed.summary, "kick")["cases"]:
        for figures in case["methods"].values():
            moments = [figures["latency_ns"], *figures["phases_ns"].values()]
            names = ["known", *figures["phases_ns"]]
            for name, moment in zip(names, moments, strict=True):
                if moment and name in ("known", "delivery", "returned", "resumed"):
                    assert any(end == pytest.approx(moment["p50"] / 1e3) for end in ends)
    assert "Kicked in the guest" in plot.finding
    assert "while exiting at full speed" in plot.finding


def test_a_plot_of_pauses_has_first_median_and_last_of_every_method(pause: RunData) -> None:
    (plot,) = plots(pause, "pause-all")
    axes = plot.canvas.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn = [[pytest.approx(y) for y in line.get_ydata()] for line in axes.lines]
    for method in ("sigmask", "immediate_exit", "my_protocol"):
        for which in ("first", "median", "last"):
            times = [c["methods"][method][f"{which}_ns"]["p50"] / 1e3 for c in pause.finished]
            assert times in drawn


def test_exits_against_kicks_are_drawn_only_when_the_rate_varies(mixed: RunData) -> None:
    (plot,) = plots(mixed, "kick-rates")
    assert "ns with 1,000 kicks/s per vCPU" in plot.finding
    one = {**mixed.summary, "cases": [c for c in mixed.summary["cases"] if c["kick_rate_hz"]]}
    assert plots(replace(mixed, summary=one), "kick-rates") == []


def test_protocols_of_ones_own_have_colours_of_their_own(pause: RunData) -> None:
    assert style(pause, "my_protocol") == OTHER_STYLES[0]
    assert style(pause, "my_protocol") != style(pause, "sigmask")


def test_a_strangers_names_cannot_break_a_plot(kick: dict[str, Any], mixed: RunData) -> None:
    hostile = "_$\\frac{$ <script>alert(1)</script> \x1b\u202e"
    changed = copy.deepcopy(kick)
    for case in changed["cases"]:
        case |= {"state": hostile, "transport": hostile, "placement": hostile}
        case["methods"][hostile] = case["methods"]["sigmask"]
    (plot, *_) = plots(replace(mixed, summary=changed), "kick-latency")
    svg = inline(plot, "x")
    assert "<script" not in svg
    assert svg.count("_$\\frac{$ &lt;script&gt;") > 4


def test_protocol_files_go_by_their_label_everywhere(tmp_path: Path) -> None:
    methods = ["/some/where/my_protocol.c", "immediate_exit"]
    cases = [synthetic_run.case(2, methods=methods), synthetic_run.race_case(0.0, methods=methods)]
    data = build(tmp_path, cases)
    assert list(data.distributions(cases[0]["id"])) == ["my_protocol", "immediate_exit"]
    text = show(data.reader.path) + page(data)
    assert verdict(data.summary).answer.startswith("my_protocol costs ")
    assert "my_protocol lost none of" in text
    assert "/some/where" not in text


# --- the page and the terminal -----------------------------------------------------------------


def test_the_page_has_a_table_per_kind_under_its_first_sentence(mixed: RunData) -> None:
    html = page(mixed)
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    for kind in KINDS:
        table = TABLES[kind]
        assert f'<h3 id="cases-{kind}">{table.title}</h3>' in html
        assert f"{table.title} {ANSWERS[kind](mixed.summary, ())[0]}" in text
        rows = rows_of(only(mixed.summary, kind)["cases"])
        for column in columns_of(every_column(kind), rows):
            assert all(column.cell(row) in text for row in rows)


def test_a_broken_claim_is_marked_in_the_table(tmp_path: Path) -> None:
    case = synthetic_run.race_case(0.0, 1, methods=["flag_signal", "immediate_exit"])
    for folder, claim in (("sound", None), ("broken", True)):
        document = synthetic_run.case_document(case, rounds=10, claims={"flag_signal": claim})
        tables = synthetic_run.case_tables(case, rounds=10)
        html = page(RunData.load(store(tmp_path / folder, case, document, tables).path))
        assert ('class="number bad"' in html) is bool(claim)
        assert ("claims to be race-free, but LOST" in html) is bool(claim)


def test_an_emulated_run_never_says_a_bare_time(tmp_path: Path) -> None:
    data = build(tmp_path, synthetic_run.kick_sweep(), emulated=True)
    text = " ".join(re.sub(r"<[^>]*>", " ", page(data)).split())
    for unit in ("ns", "µs", "ms"):
        assert not re.search(rf"(?<!emulated) {unit}\b", text.split("Reproduce")[0])
    for figure in FIGURES:
        assert all(plot.title.startswith("Emulated (QEMU TCG)") for plot in figure.draw(data))


def show(run: Path) -> str:
    result = CliRunner().invoke(app, ["show", str(run)])
    assert result.exit_code == 0
    return result.stdout


def test_the_terminal_has_the_numbers_of_the_summary(mixed: RunData) -> None:
    lines = [line.split() for line in show(mixed.reader.path).splitlines()]
    for case in only(mixed.summary, "kick")["cases"]:
        for method, figures in case["methods"].items():
            quantiles = [figures["latency_ns"][k] for k in ("p50", "p90", "p99", "p999", "max")]
            assert [method, *map(significant, quantiles)] in lines
            counts = [figures[k] for k in ("sent", "unmet", "lost", "spurious")]
            assert [method, *map(whole, counts)] in lines
    for case in only(mixed.summary, "race")["cases"]:
        for method, figures in case["methods"].items():
            counts = [figures[k] for k in ("sent", "landed", "lost", "spurious")]
            assert [method, *map(whole, counts)] in lines
    for case in only(mixed.summary, "pause_all")["cases"]:
        for method, figures in case["methods"].items():
            times = [figures[f"{k}_ns"]["p50"] / 1e3 for k in ("first", "median", "last")]
            assert [method, *map(significant, times)] in [line[:4] for line in lines]


def test_the_terminal_tells_the_kinds_apart_and_fits_80_columns(mixed: RunData) -> None:
    lines = show(mixed.reader.path).splitlines()
    for table in map(TABLES.get, KINDS):
        assert table
        assert f"--- {table.title} ---" in lines
    assert [line for line in lines if line.startswith("  ") and len(line) > 80] == []


def test_the_terminal_says_nothing_twice(mixed: RunData) -> None:
    lines = show(mixed.reader.path).splitlines()
    for line in verdict(mixed.summary, mixed.oversubscribed).lines:
        assert lines.count(line) == 1
