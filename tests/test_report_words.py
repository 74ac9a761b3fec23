# SPDX-License-Identifier: Apache-2.0
"""A run is said in words: the answer first, its numbers those of the summary."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.numbers import (
    decimals,
    fixed,
    level,
    listed,
    measured,
    plural,
    significant,
)
from kickbench.report.words.differences import cost
from kickbench.report.words.tables import TABLES, control, difference, rows_of
from kickbench.report.words.verdict import left_out, notes, verdict
from kickbench.summary.data import RunData


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return RunData.load(synthetic_run.build(tmp_path_factory.mktemp("runs"))).summary


@pytest.fixture
def changed(summary: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(summary)


def contrast(low: float, diff: float, high: float) -> dict[str, Any]:
    return {
        "method": "sigmask",
        "baseline": "immediate_exit",
        "metric": "ns_per_exit",
        "diff": diff,
        "ci95": [low, high],
        "rounds": 10,
    }


def one_case(summary: dict[str, Any], vcpus: int = 2) -> dict[str, Any]:
    cases = [c for c in summary["cases"] if c["vcpus"] == vcpus and c["status"] == "ok"]
    return {**summary, "cases": cases[:1]}


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ci", "expected"),
    [
        (31.27, (29.1, 73.4), ("31", "29", "73")),
        (31.27, (29.1, 33.4), ("31.3", "29.1", "33.4")),
        (31.27, (-250.0, 312.0), ("31", "-250", "312")),
        (0.01234, (0.0119, 0.0128), ("0.01234", "0.01190", "0.01280")),
        (123456.0, (100000.0, 150000.0), ("123,000", "100,000", "150,000")),
        (5.0, (5.0, 5.0), ("5.0", "5.0", "5.0")),
    ],
)
def test_numbers_are_rounded_by_the_width_of_their_interval(
    value: float, ci: tuple[float, float], expected: tuple[str, str, str]
) -> None:
    assert measured(value, ci) == expected


@given(st.floats(-1e12, 1e12), st.floats(1e-4, 1e6))
def test_rounding_moves_a_number_by_little_of_the_width(value: float, width: float) -> None:
    shown = float(fixed(value, decimals(width)).replace(",", ""))
    assert abs(shown - value) <= 0.051 * width + 1e-9 * abs(value)


@given(st.floats(-1e-3, 0, exclude_max=True))
def test_there_is_no_minus_zero(value: float) -> None:
    assert fixed(value, 1) == "0.0"


@given(st.none() | st.floats())
def test_any_number_has_words(value: float | None) -> None:
    assert "nan" not in significant(value)
    assert "inf" not in significant(value)


def test_counts_and_lists_read_like_english() -> None:
    assert [plural(1, "vCPU"), plural(2, "vCPU")] == ["1 vCPU", "2 vCPUs"]
    assert [listed(list("a")), listed(list("ab")), listed(list("abc"))] == [
        "a",
        "a and b",
        "a, b and c",
    ]


# --- one difference ----------------------------------------------------------------------------


def test_a_guest_that_stood_still_is_said_before_any_comparison(changed: dict[str, Any]) -> None:
    case = one_case(changed)["cases"][0]
    finding = {"method": "sigmask", "what": "stood_still", "race_free_claim": True}
    case["findings"].append({**finding, "count": 250, "of": 1000})
    (alarm,) = verdict(changed).alarms
    assert alarm.startswith("sigmask's guest stood still for 25 % of the time, 2 vCPUs")


def test_vcpus_that_begin_late_are_remarked_on(changed: dict[str, Any]) -> None:
    def remarks() -> list[str]:
        return [note.text for note in notes(changed) if "began late" in note.text]

    one_case(changed)["cases"][0]["start_skew"] = 0.05
    assert remarks() == []
    one_case(changed)["cases"][0]["start_skew"] = 0.12
    (text,) = remarks()
    assert "in 1 of" in text
    assert "up to 12 % of a block" in text


def test_load_that_others_made_is_remarked_on(changed: dict[str, Any]) -> None:
    def remarks() -> list[str]:
        return [note.text for note in notes(changed) if "other work used" in note.text]

    cases = [case for case in changed["cases"] if case["status"] == "ok"]
    assert remarks() == []
    cases[0]["load"]["others_share"] = 0.64
    assert remarks() == [f"other work used 64 % of the CPUs' time (1 of {len(cases)} cases)"]
    cases[1]["load"]["others_share"] = 0.9
    assert remarks() == [f"other work used 64 to 90 % of the CPUs' time (2 of {len(cases)} cases)"]
    cases[0]["load"] = None  # a run that did not look
    cases[1]["load"]["others_share"] = None
    assert remarks() == []


def test_a_cost_is_said_with_its_interval() -> None:
    assert cost(contrast(29, 31, 33.4), "ns") == (
        "sigmask costs 31.0 ns more per exit than immediate_exit (95 % CI 29.0 to 33.4)"
    )


def test_a_gain_is_said_as_less() -> None:
    assert cost(contrast(-73, -31, -29), "ns") == (
        "sigmask costs 31 ns less per exit than immediate_exit (95 % CI 29 to 73)"
    )


def test_an_interval_with_0_is_no_difference() -> None:
    assert cost(contrast(-13, 1, 15), "ns") == (
        "no difference seen between sigmask and immediate_exit (95 % CI -13 to 15 ns per exit)"
    )


# --- the verdict -------------------------------------------------------------------------------


def test_the_answer_comes_first_and_has_the_numbers_of_the_summary(summary: dict[str, Any]) -> None:
    (case,) = [
        c
        for c in summary["cases"]
        if (c["vcpus"], c["placement"], c["status"]) == (8, "local", "ok")
    ]
    quiet, mean = case["contrasts"][:2]
    value, low, high = measured(quiet["diff"], quiet["ci95"])
    average = "{} ({} to {})".format(*measured(mean["diff"], mean["ci95"]))
    assert verdict(summary).lines[0] == (
        f"sigmask costs {value} ns more per quiet exit than immediate_exit "
        f"(95 % CI {low} to {high}), 8 vCPUs, local, full speed; on average it is {average}."
    )
    assert abs(float(value) - 158.3) < 1  # what the synthetic run was made with


def test_a_single_case_is_said_without_what_goes_without_saying(summary: dict[str, Any]) -> None:
    said = verdict(one_case(summary))
    assert ", 2 vCPUs, local; on average it is " in said.answer
    assert said.trusted is True


def test_the_growth_with_vcpus_and_with_the_creators_node_is_said(summary: dict[str, Any]) -> None:
    more = "\n".join(verdict(summary).more)
    assert "sigmask - immediate_exit grows with the vCPUs: " in more
    assert " at 1, " in more
    far = "With the creator on another node than the vCPUs (remote_siglock), "
    assert f"{far}sigmask - immediate_exit is 39" in more
    assert "2.5 times the 159" in more


def test_remote_is_said_only_of_what_was_placed_so(summary: dict[str, Any]) -> None:
    astray = copy.deepcopy(summary)
    for case in astray["cases"]:
        if case["placement"] == "remote_siglock":
            case["placed"] = False
    assert "With the creator on another node" not in "\n".join(verdict(astray).more)


def test_no_growth_is_not_called_growth(tmp_path: Path) -> None:
    cases = [synthetic_run.case(n) for n in (1, 2, 4)]
    run = synthetic_run.build(tmp_path, cases=cases, shift_ns=0, noise=0.02)
    said = verdict(RunData.load(run).summary)
    assert said.answer.startswith("No difference seen between sigmask and immediate_exit")
    assert not any("grows" in line for line in said.lines)


def test_one_method_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    case = synthetic_run.case(2, methods=("sigmask",), baseline="sigmask")
    said = verdict(RunData.load(synthetic_run.build(tmp_path, cases=[case])).summary)
    assert said.answer == "Only sigmask was measured: there is nothing to compare it with."


def test_the_noise_of_the_control_is_told_of_cases_with_enough_cpus(
    changed: dict[str, Any],
) -> None:
    control = {"ci_family": [-1e7, 1e7], "ok": True, "metric": "ns_per_exit", "rounds": 40}
    for case in changed["cases"]:
        huge = case["vcpus"] > 2
        ends = {"diff": 6000.0, "ci95": [-1e6, 1e6]} if huge else {"diff": 0.3, "ci95": [-1, 2]}
        case["control"] = {**control, **ends}
    changed["cases"].pop()
    crowded = {case["id"] for case in changed["cases"] if case["vcpus"] > 2}
    assert verdict(changed, crowded).more[-1] == (
        "The A/A control is good in all 8 cases: in the 4 cases with enough CPUs, immediate_exit "
        "differs from itself by at most 0.3 ns per exit, within the noise."
    )
    every = {case["id"] for case in changed["cases"]}
    assert (
        "8 cases: immediate_exit differs from itself by at most 6,000 ns"
        in (verdict(changed, every).more[-1])
    )


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_a_wide_interval_costs_no_value_its_first_three_digits(value: float, width: float) -> None:
    shown = float(measured(value, (value - width / 2, value + width / 2))[0].replace(",", ""))
    assert abs(shown - value) <= max(0.5, 0.00501 * abs(value))


def test_a_difference_of_some_size_is_not_rounded_to_nothing() -> None:
    assert measured(413.0, (-1e6, 1e6))[0] == "413"
    assert difference(contrast(-1e6, -37.0, 1e6)) == "-37 (-1,000,000 to 1,000,000)"


def test_a_level_is_the_same_number_with_and_without_its_interval() -> None:
    assert level(23_842.0, (0.0, 127_000.0)) == "23,842 (0 to 130,000)"
    assert level(14_377.4, (14_377.1, 14_377.9)) == "14,377 (14,377 to 14,378)"
    assert level(600.94, (600.0, 601.9)) == "600.9 (600.0 to 601.9)"
    assert level(7.5, None) == significant(7.5)
    assert level(None, None) == "-"


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_a_level_begins_with_what_a_sentence_says(value: float, width: float) -> None:
    assert level(value, (value - width / 2, value + width / 2)).startswith(
        f"{significant(value)} ("
    )


def test_a_difference_from_few_rounds_is_marked() -> None:
    few = {**contrast(29, 31, 33.4), "rounds": 9}
    pooled = {**contrast(29, 31, 33.4), "rounds": 400, "chunks": 5}
    assert difference(pooled) == "+31.0 (29.0 to 33.4, few rounds)"
    assert "few" not in cost(contrast(29, 31, 33.4), "ns") + difference(contrast(29, 31, 33.4))
    assert cost(few, "ns").endswith("(95 % CI 29.0 to 33.4, few rounds)")
    assert difference(few) == "+31.0 (29.0 to 33.4, few rounds)"
    assert cost({**contrast(-13, 1, 15), "rounds": 4}, "ns").endswith("per exit, few rounds)")


def test_where_reasons_are_is_said_only_when_there_are_any(changed: dict[str, Any]) -> None:
    assert verdict(changed).more[-1] == "1 case skipped; the reasons are below."
    changed["cases"][-1] |= {"status": "pending", "reason": None}
    assert verdict(changed).more[-1] == "1 case not run yet; the list is below."


def test_a_warning_with_counts_is_said_once_for_all_cases(changed: dict[str, Any]) -> None:
    text = (
        "the guest could not keep its exit rate: {} of 1000 exits dropped the schedule; use a "
        "lower exit rate"
    )
    changed["cases"][0]["warnings"] = [text.format(100), text.format(200), "odd {} clock"]
    changed["cases"][1]["warnings"] = [text.format(300), "4 vCPUs share 2 CPUs"]
    changed["cases"][2]["warnings"] = ["8 vCPUs share 2 CPUs"]
    found = [note.text for note in notes(changed)]
    expected = (
        "the guest could not keep its exit rate: 600 of 3,000 exits dropped the schedule; use a "
        "lower exit rate (2 of 8 cases)"
    )
    assert [text for text in found if "exit rate" in text] == [expected]
    assert {"odd {} clock (1 of 8 cases)", "8 vCPUs share 2 CPUs (1 of 8 cases)"} <= set(found)


def test_rates_that_were_not_reached_are_said_once_with_the_least_and_the_most(
    changed: dict[str, Any],
) -> None:
    text = "asked for {} kicks/s, reached {}: the figures are for the lower rate"
    changed["cases"][0]["warnings"] = [text.format("2,000", hz) for hz in ("75", "1,210", "90")]
    changed["cases"][1]["warnings"] = [text.format("2,000", "80"), text.format("4,000", "7")]
    found = [note.text for note in notes(changed) if "asked for" in note.text]
    assert found == [
        (
            "asked for 2,000 kicks/s, reached 75 to 1,210: the figures are for the lower rate "
            "(2 of 8 cases)"
        ),
        "asked for 4,000 kicks/s, reached 7: the figures are for the lower rate (1 of 8 cases)",
    ]


def test_a_bad_control_is_in_the_first_line(tmp_path: Path) -> None:
    cases = [synthetic_run.case(n) for n in (1, 2)]
    run = synthetic_run.build(tmp_path, cases=cases, control_shift_ns=20)
    said = verdict(RunData.load(run).summary)
    assert said.trusted is False
    assert said.lines[0].startswith("This run cannot be trusted: the A/A control found ")
    assert "immediate_exit to differ from itself by " in said.lines[0]
    assert said.lines[0].endswith("2 of 2 cases.")
    assert said.lines[1].startswith("sigmask costs")


THREE = ("sigmask", "sigmask_same", "immediate_exit")


def test_the_headline_says_what_of_the_cost_is_siglock(tmp_path: Path) -> None:
    cases = [synthetic_run.case(n, methods=THREE) for n in (1, 2)]
    summary = RunData.load(synthetic_run.build(tmp_path, cases=cases)).summary
    said = verdict(summary)
    assert said.answer.startswith("sigmask costs 5")
    part = next(line for line in said.more if "siglock" in line)
    assert part.startswith("siglock costs ")
    assert " per quiet exit (sigmask - sigmask_same, 95 % CI " in part
    assert part.endswith("; the rest is the bookkeeping of KVM_SET_SIGNAL_MASK.")
    assert any(
        line.startswith("siglock (sigmask - sigmask_same) by vCPUs: 20") for line in said.more
    )


def test_siglock_is_told_by_placement_and_by_rate_too(tmp_path: Path) -> None:
    cases = [
        synthetic_run.case(2, methods=THREE, placement=place, rate=rate)
        for place in synthetic_run.PLACEMENTS
        for rate in (None, 20000.0)
    ]
    run = synthetic_run.build(tmp_path, cases=cases, paced=True)
    lines = verdict(RunData.load(run).summary).lines
    far = next(one for one in lines if one.startswith("With the creator on another node"))
    assert "; siglock is 8" in far  # two thirds of 130 ns
    assert far.endswith(" of that.")
    paced = next(one for one in lines if one.startswith("With 2 vCPUs, local, 20,000 exits/s"))
    assert "; siglock is 3" in paced


def test_a_part_that_is_not_seen_is_not_told_as_one(tmp_path: Path) -> None:
    cases = [synthetic_run.case(2, methods=THREE)]
    summary = RunData.load(synthetic_run.build(tmp_path, cases=cases)).summary
    for contrast in summary["cases"][0]["contrasts"]:
        if contrast["baseline"] == "sigmask_same":
            contrast |= {"diff": 4.0, "ci95": [-20.0, 28.0]}
    assert any(
        line.startswith(
            "This run cannot tell how much of that is siglock: sigmask - sigmask_same is 4 ns"
        )
        for line in verdict(summary).more
    )


def placebo_run(tmp_path: Path, **other: Any) -> dict[str, Any]:
    cases = [synthetic_run.case(n, placebo=True, **other) for n in (1, 2)]
    return RunData.load(synthetic_run.build(tmp_path, cases=cases)).summary


def test_a_good_placebo_is_told_after_the_control(tmp_path: Path) -> None:
    said = verdict(placebo_run(tmp_path))
    control, placebo = said.lines[-2:]
    assert said.trusted
    assert control.startswith("The A/A control is good in both cases")
    assert placebo.startswith(
        "The placebo (the same protocol in another copy of the loop) is good in 2 of 2 cases: it "
        "differs from immediate_exit by at most "
    )


def test_a_placebo_that_fails_says_what_the_place_of_code_can_do(tmp_path: Path) -> None:
    summary = placebo_run(tmp_path, placebo_shift_ns=20.0)
    said = verdict(summary)
    assert said.trusted  # the differences are real, if not all of the protocol
    assert not said.alarms
    assert said.lines[-1].startswith(
        "The placebo (the same protocol in another copy of the loop) differs from immediate_exit "
        "by "
    )
    assert said.lines[-1].endswith(
        "and it fails in 2 of 2 cases: the code's place in memory alone makes differences of that "
        "size."
    )
    assert "; placebo NOT OK: +" in rows_text(summary)


def rows_text(summary: dict[str, Any]) -> str:
    column = TABLES["exits"].parts[0].columns[-1]
    return " ".join(column.cell(row) for row in rows_of(summary["cases"]))


def test_a_missing_control_is_said(changed: dict[str, Any]) -> None:
    for case in changed["cases"]:
        case["control"] = {"diff": None, "ci95": None, "ci_family": None, "ok": None, "rounds": 0}
    said = verdict(changed)
    assert said.trusted is None
    assert any("control cannot tell whether" in line for line in said.more)


def tell(case: dict[str, Any], *, ok: bool | None, seen: bool, rounds: int = 40) -> None:
    """Give a case such a control, and a difference of 150 ns that is seen or not."""
    wide = [-30.0, 33.0] if ok else [-5000.0, 5400.0]
    case["control"] |= {"diff": 1.7, "ci95": [-20, 23], "ci_family": wide, "ok": ok}
    case["control"]["rounds"] = rounds
    for found in case["contrasts"]:
        found |= {"diff": 150.0, "ci95": [100.0 if seen else -100.0, 200.0]}


def test_a_control_without_power_is_not_called_good(changed: dict[str, Any]) -> None:
    for case in changed["cases"][:8]:
        tell(case, ok=None, seen=True)
    said = verdict(changed)
    assert said.trusted is None
    assert (
        "The A/A control cannot tell whether the differences are real: too few rounds, or too much "
        "noise, in all 8 cases."
    ) in said.more
    assert not any("control is good" in line for line in said.lines)
    assert control(changed["cases"][0]) == "cannot tell: +2 (-5,000 to 5,000)"
    tell(changed["cases"][0], ok=None, seen=True, rounds=3)
    assert control(changed["cases"][0]) == "cannot tell: too few rounds"


def test_a_run_is_trusted_when_all_that_was_seen_is_vouched_for(changed: dict[str, Any]) -> None:
    for i, case in enumerate(changed["cases"][:8]):
        tell(case, ok=True if i < 5 else None, seen=i < 5)
    said = verdict(changed)
    assert said.trusted is True
    (line,) = [line for line in said.more if "A/A" in line]
    assert line == (
        "The A/A control is good in 5 of 8 cases: immediate_exit differs from itself by at most "
        "2 ns per quiet exit, within the noise. In the other 3 it cannot tell: too few rounds, or "
        "too much noise."
    )
    tell(changed["cases"][7], ok=None, seen=True)
    assert verdict(changed).trusted is None
    assert verdict(changed, {changed["cases"][7]["id"]}).trusted is True  # too few CPUs for it
    for case in changed["cases"][:8]:
        tell(case, ok=case["control"]["ok"], seen=False)
    assert verdict(changed).trusted is None


def test_the_control_is_the_same_number_in_sentence_and_table(changed: dict[str, Any]) -> None:
    summary = one_case(changed)
    (case,) = summary["cases"]
    case["control"] |= {"diff": -1617.0, "ci95": [-7359.0, 4125.0], "ci_family": [-11434.0, 8200.0]}
    assert "differs from itself by at most 1,620 ns per quiet exit" in verdict(summary).more[-1]
    assert control(case) == "ok: -1,620 (-11,000 to 8,000)"


def blur(case: dict[str, Any], wall: list[float], cpu: list[float]) -> None:
    for found in case["contrasts"]:
        ends = cpu if found["metric"] == "cpu_ns_per_exit" else wall
        found |= {"diff": sum(ends) / 2, "ci95": ends}


def test_cpu_time_answers_where_wall_time_is_too_noisy(changed: dict[str, Any]) -> None:
    """Of a run that has no quiet exits."""
    summary = one_case(changed)
    (case,) = summary["cases"]
    del case["contrasts"][0]
    blur(case, [-6000.0, 2900.0], [77.0, 171.0])
    assert verdict(summary).answer == (
        "Wall time is too noisy to tell sigmask from immediate_exit (95 % CI -6,000 to 2,900 ns "
        "per exit); in CPU time sigmask costs 124 ns more per exit (95 % CI 77 to 171), 2 vCPUs, "
        "local."
    )
    blur(case, [-30.0, 29.0], [77.0, 171.0])  # not noisy: the two disagree
    assert verdict(summary).answer.startswith("No difference seen between sigmask and immediate")
    assert "); in CPU time sigmask costs 124 ns more" in verdict(summary).answer
    blur(case, [-6000.0, 2900.0], [-2.0, 171.0])
    assert "CPU time" not in verdict(summary).answer


def test_cpu_time_is_no_answer_at_a_set_rate_or_from_few_rounds(changed: dict[str, Any]) -> None:
    summary = one_case(changed)
    (case,) = summary["cases"]
    del case["contrasts"][0]
    blur(case, [-6000.0, 2900.0], [77.0, 171.0])
    case["exit_rate_hz"] = 20_000.0
    assert "CPU time" not in verdict(summary).answer
    case["exit_rate_hz"] = None
    case["contrasts"][1]["rounds"] = 5
    assert "CPU time" not in verdict(summary).answer


def test_what_was_not_seen_is_not_said_not_to_change(changed: dict[str, Any]) -> None:
    cases = [case for case in changed["cases"] if case["placement"] == "local"][:2]
    for case in cases:
        blur(case, [90.0, 170.0], [77.0, 171.0])
    summary = {**changed, "cases": cases}
    assert any(
        "sigmask - immediate_exit was not seen to change with the vCPUs: 130" in t
        for t in verdict(summary).more
    )
    blur(cases[1], [-90.0, 370.0], [77.0, 171.0])
    assert not any("seen to change with the vCPUs" in t for t in verdict(summary).more)


def test_an_interval_that_says_nothing_is_not_shown(changed: dict[str, Any]) -> None:
    summary = one_case(changed)
    (case,) = summary["cases"]
    blur(case, [-160_000.0, 160_000.0], [-160_000.0, 160_000.0])
    row = next(row for row in rows_of([case]) if row.method == "sigmask")

    def cells() -> set[str]:
        return {c.cell(row) for part in TABLES["exits"].parts for c in part.columns}

    assert "(95 % CI -160,000 to 160,000" in verdict(summary).answer  # 40 rounds did tell that
    assert "too few rounds" not in cells()
    for found in case["contrasts"]:
        found["rounds"] = 8
    assert verdict(summary).answer.startswith("No difference between methods has an interval")
    assert "too few rounds" in cells()
    assert not any("160,000" in text for text in cells())


def test_emulation_is_said_first_and_in_every_unit(changed: dict[str, Any]) -> None:
    changed |= {"emulated": True, "emulated_by": "QEMU TCG"}
    said = verdict(changed)
    assert said.lines[0].startswith("Emulated (QEMU TCG): ")
    text = " ".join(said.lines)
    assert text.count(" ns ") == text.count(" emulated ns ") > 0


def test_an_unfinished_run_is_called_partial(changed: dict[str, Any]) -> None:
    changed["complete"] = False
    assert verdict(changed).lines[0].startswith("Partial: the run is not complete, 8 of 9")


def test_a_run_without_finished_cases_has_no_answer(changed: dict[str, Any]) -> None:
    for case in changed["cases"]:
        case |= {"status": "failed", "reason": "worker 0 died", "methods": {}, "contrasts": []}
    said = verdict(changed)
    assert said.answer == "No case finished, so there is no answer."
    assert said.trusted is None
    (group,) = left_out(changed)
    assert (group.status, group.reason, len(group.cases)) == ("failed", "worker 0 died", 9)


def test_cases_short_of_cpus_are_named_and_do_not_make_the_answer(summary: dict[str, Any]) -> None:
    crowded = {case["id"] for case in summary["cases"] if case["vcpus"] > 2}
    said = verdict(summary, crowded)
    assert ", 2 vCPUs, local" in said.answer
    assert any(line.startswith("Oversubscribed: 4 and 8 vCPUs") for line in said.more)
    alone = verdict(one_case(summary, 8), crowded)
    assert "8 vCPUs, local, more vCPUs than CPUs" in alone.answer


def test_missing_numbers_are_no_error(changed: dict[str, Any]) -> None:
    for case in changed["cases"]:
        for found in case["contrasts"]:
            found |= {"diff": None, "ci95": None}
    assert "too few rounds" in verdict(changed).answer


def test_every_method_is_answered_for(tmp_path: Path) -> None:
    methods = ("flag_signal", "sigmask", "immediate_exit")
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2, methods=methods)], shift_ns=50)
    text = " ".join(verdict(RunData.load(run).summary).lines)
    assert "flag_signal costs" in text
    assert "sigmask costs" in text


# --- notes and what was left out ---------------------------------------------------------------


def test_no_disturbance_is_dropped_and_each_says_what_to_do(changed: dict[str, Any]) -> None:
    figures = changed["cases"][0]["methods"]["sigmask"]["disturbances"]
    figures |= {"migrations": 3, "steal_ns": 2_500_000, "rescues": 1, "run_delay_ns": None}
    changed["cases"][1] |= {"precision_reached": False, "warnings": ["the clock is odd"]}
    found = notes(changed)
    text = "\n".join(note.text for note in found)
    for part in (
        ": 3 (",
        "steal time: 2.50 ms",
        "a block: 1 (",
        "invol",
        "of 0.1 %",
        "clock is odd",
    ):
        assert part in text
    assert all(note.advice for note in found if "clock" not in note.text)


def test_what_the_doctor_warned_of_is_noted_when_it_bears_on_trust(changed: dict[str, Any]) -> None:
    assert not [note for note in notes(changed) if "doctor" in note.text]
    finding = {"id": "load", "title": "load", "status": "warn", "detail": "3.1 on 2 CPUs"}
    minor = {**finding, "id": "memlock", "title": "locked memory"}
    changed["environment"] = changed["environment"] | {"doctor": [minor]}
    assert not [note for note in notes(changed) if "doctor" in note.text]
    changed["environment"]["doctor"] += [finding, {**finding, "id": "smt", "title": "SMT"}]
    (note,) = [note for note in notes(changed) if "doctor" in note.text]
    assert note.text.endswith("before the run: load: 3.1 on 2 CPUs; SMT: 3.1 on 2 CPUs")
    assert note.advice


@pytest.mark.parametrize("doctor", [None, 7, {}, [None], [{"id": []}], [{"id": "load"}], ["load"]])
def test_a_strangers_doctor_is_no_error(changed: dict[str, Any], doctor: Any) -> None:
    changed["environment"] = changed["environment"] | {"doctor": doctor}
    assert notes(changed)


def test_methods_that_were_never_measured_are_noted(changed: dict[str, Any]) -> None:
    assert not [note for note in notes(changed) if "never measured" in note.text]
    changed["cases"][0]["methods"]["sigmask"]["n"] = 0
    changed["cases"][1]["methods"]["sigmask"]["n"] = 0
    (note,) = [note for note in notes(changed) if "never measured" in note.text]
    assert note.text.startswith("sigmask was never measured in 2 of 8 cases")
    assert "raise max_seconds" in note.advice


def test_a_precision_that_has_no_interval_was_not_reached(changed: dict[str, Any]) -> None:
    for case in changed["cases"][:2]:
        case["precision_reached"] = None
    changed["cases"][1]["precision"] = None
    (note,) = [note for note in notes(changed) if "precision" in note.text]
    assert note.text.startswith("1 of 8 cases ended before reaching the precision of 0.1 %")


def test_a_precision_that_was_not_reached_says_of_which_figure(changed: dict[str, Any]) -> None:
    both = ["quiet_ns_per_exit", "ns_per_exit"]
    for case, missed in zip(changed["cases"][:3], (both, both[1:], both[1:]), strict=True):
        case |= {"precision_reached": False, "precision_missed": missed}
    (note,) = [note for note in notes(changed) if "precision" in note.text]
    assert note.text.startswith("3 of 8 cases ended before reaching")
    assert note.text.endswith("0.1 % (of the quiet exit in 1 and of the mean in 3)")


def test_skipped_cases_share_their_reason(changed: dict[str, Any]) -> None:
    for case in changed["cases"][:4]:
        case |= {"status": "skipped", "reason": "this host has no node 1"}
    changed["cases"][4] |= {"status": "failed", "reason": None}
    failed, skipped = left_out(changed)
    assert (failed.status, failed.reason, len(failed.cases)) == ("failed", "no reason given", 1)
    assert (skipped.status, len(skipped.cases)) == ("skipped", 5)


def test_an_exact_difference_has_no_more_than_six_digits() -> None:
    assert measured(2085.0016, (2085.0015, 2085.0017)) == ("2,085.00", "2,085.00", "2,085.00")
    assert measured(4e6, (4e6, 4e6 + 1e-6)) == ("4,000,000", "4,000,000", "4,000,000")
    assert measured(0.0, (-1e-5, 1e-5)) == ("0.000000", "-0.000010", "0.000010")
    assert measured(1234.5, (1200.0, 1300.0)) == ("1,234", "1,200", "1,300")
