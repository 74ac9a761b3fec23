# SPDX-License-Identifier: Apache-2.0
"""What a night says to people, to a CI and to programs, whatever the names and numbers are."""

from __future__ import annotations

import json as plain_json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from synthetic_night import CASE, night, row, rows_of

from kickbench.nightly.collect import trends
from kickbench.nightly.decide import decide
from kickbench.nightly.events import Event
from kickbench.nightly.job import Part, Result
from kickbench.nightly.night import Night
from kickbench.nightly.outputs import OUTPUTS, headline, json, junit, markdown
from kickbench.nightly.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
LOST = {"case": "race-spin", "method": "sigmask", "what": "lost", "count": 3, "of": 1_000_000}
NASTY = "<b>|`*_[x](y)\x00\x1b[31m\u202e\ud800\ufffe &amp; ]]> \\ # - ~~"


def part_of(nights: Sequence[Night], events: Sequence[Event] = (), **changes: Any) -> Part:
    """What the job makes of the last of these nights."""
    known, found = trends(nights, events)
    return Part(
        **{
            "scenario": nights[-1].scenario,
            "run": Path("results/nightly/run"),
            "night": nights[-1],
            "nights": known,
            "measured_on": {trend.key: trend.night.tolist() for trend in found},
            "accepted_from": {trend.key: trend.accepted_from for trend in found},
            "decision": decide(found, known, Settings()),
            **changes,
        }
    )


def result_of(*parts: Part, **changes: Any) -> Result:
    return Result(parts, **{"fewest_nights": 9, **changes})


def calm(count: int = 20) -> list[Night]:
    return [night(number) for number in range(count)]


def stepped(by: float = 1.05, **changes: Any) -> list[Night]:
    """18 calm nights, then two with another kernel."""
    worse = {"kernel": "6.12.4", **changes}
    return [*calm(18), *(night(number, step=by, **worse) for number in (18, 19))]


def shown(result: Result) -> str:
    return " ".join(markdown(result).split())


# --- the answer --------------------------------------------------------------------------------


def test_a_good_night_is_a_sentence_and_a_table() -> None:
    result = result_of(part_of(calm()))
    assert result.exit_code == 0
    assert markdown(result) == (
        "**No regression in 3 metrics of 1 scenario (17 nights of baseline).**\n\n"
        "| scenario | cases | metrics | worse | better | baseline  |\n"
        "| -------- | ----- | ------: | ----: | -----: | --------- |\n"
        "| nightly  | 1 ok  |       3 |     0 |      0 | 17 nights |\n"
    )


def test_a_bad_night_says_what_by_how_much_since_when_how_sure_and_with_what() -> None:
    result = result_of(part_of(stepped()))
    assert result.exit_code == 1
    said = headline(result)
    assert re.fullmatch(
        r"2 metrics got slower: time per exit of (sigmask|immediate_exit) by [45]\.\d % in "
        rf"{CASE} since 2026-01-19 \(2 nights\), and 1 more\.",
        said,
    )
    told = shown(result)
    assert "with kernel: 6.12.3 → 6.12.4" in told
    assert re.search(r"(About 1 in [\d,]+|Fewer than 1 in 100,000) such alarms is false\.", told)
    assert re.search(r"of sigmask: \*\*\+[45]\.\d+ %\*\* in `exits-[^`]+` \(95 % CI \d", told)
    assert re.search(r"2,0\d\d → 2,1\d\d ns\)", told)


def test_a_slowdown_with_nothing_known_to_have_changed_says_so() -> None:
    told = shown(result_of(part_of(stepped(kernel="6.12.3"))))
    assert "when no known fact of the host changed" in told


def test_many_cases_of_one_metric_are_one_line() -> None:
    def rows(number: int, step: float) -> list[dict[str, Any]]:
        return [
            {**some, "case": f"case-{case}"}
            for case in range(30)
            for some in rows_of(100 * number + case, step)[:1]
        ]

    nights = [night(n, rows=rows(n, 1.0 if n < 26 else 1.05)) for n in range(30)]
    result = result_of(part_of(nights))
    assert re.search(r"30 metrics got slower: .* by [45](\.\d)? % in 30 cases", headline(result))
    assert len(markdown(result).splitlines()) < 15
    why = r"[Aa]ll cases are slower by [45]\.\d %: the kernel, the host or its speed changed"
    assert re.search(rf"\. {why}\. ", shown(result))
    document = plain_json.loads(json(result))
    metrics = document["scenarios"][0]["metrics"]
    assert all(metric["common"] and re.search(why, metric["message"]) for metric in metrics)


def test_a_paired_difference_is_told_in_its_unit() -> None:
    def rows(number: int) -> list[dict[str, Any]]:
        *levels, pair = rows_of(number)
        more = 40.0 if number >= 18 else 0.0
        ends = {name: pair[name] + more for name in ("value", "ci95_low", "ci95_high")}
        return [*levels, {**pair, **ends}]

    told = shown(result_of(part_of([night(n, rows=rows(n)) for n in range(20)])))
    assert (
        "1 metric got slower: time per exit of sigmask \N{MINUS SIGN} immediate_exit by 4" in told
    )
    assert re.search(r"\*\*\+(39|40|41)(\.\d+)? ns\*\*", told)


def test_what_got_better_is_no_alarm_but_told() -> None:
    result = result_of(part_of(stepped(0.95)))
    assert result.exit_code == 0
    assert headline(result).startswith("No regression in 3 metrics")
    assert re.search(r"Better than before: time per exit of \w+ in `[^`]+` \(-[45]", shown(result))


def no_decision(part: Part) -> str:
    result = result_of(part)
    (row,) = [line for line in markdown(result).splitlines() if line.startswith("| nightly")]
    assert "none yet" in row
    said = headline(result)
    assert said.startswith("No decision yet: ")
    return said.removeprefix("No decision yet: ")


def test_too_few_nights_are_counted_the_same_everywhere() -> None:
    assert no_decision(part_of(calm(2))) == "2 of the 9 nights that a decision takes."
    reasons = {
        str(some.get("message"))
        for some in suites(junit(result_of(part_of(calm(2))))).iter("skipped")
    }
    (reason,) = reasons
    assert reason.startswith("too little history: ")
    assert "0 of the 7 nights" in reason
    assert "besides the 2 that" in reason  # which makes 2 of 9


def test_why_there_is_no_decision_is_said_whatever_the_reason() -> None:
    renamed = night(50, rows=[{**some, "case": "renamed"} for some in rows_of(50)])
    known, found = trends([*calm(50), renamed], [])
    only_new = [trend for trend in found if trend.key.case == "renamed"]
    part = part_of([*calm(50), renamed], decision=decide(only_new, known, Settings()))
    assert no_decision(part) == "all metrics are new tonight."
    assert no_decision(part_of([*calm(20), night(20, rows=[])])) == "nothing has a value tonight."
    nights = calm(51)
    accepted = Event(
        "1", "accept", nights[49].run_id, None, {"created_utc": nights[49].created_utc}
    )
    said = no_decision(part_of(nights, [accepted]))
    assert said.startswith("the new normal that was accepted ")
    assert said.endswith(" to go.")
    forgotten = [Event(str(n), "forget", nights[n].run_id, None, {}) for n in range(51)]
    assert "0 of the 7 nights that a baseline" in no_decision(part_of(nights, forgotten))


def test_the_kind_of_an_error_is_told_to_the_ci() -> None:
    part = Part("one", errors=[("no /dev/kvm", 3), ("a worker died", 4)])
    text = junit(result_of(part))
    check_junit(text)
    assert [some.get("type") for some in suites(text).iter("error")] == ["host", "measurement"]


def test_kicks_lost_that_must_not_be_come_first_and_always_alarm() -> None:
    result = result_of(part_of([night(0, lost=[LOST])]))
    assert result.exit_code == 1
    assert headline(result).startswith(
        "Kicks were lost that must not be lost: 3 of 1,000,000 kicks were lost in race-spin with "
        "sigmask, which claims to be free of races."
    )
    (failure,) = suites(junit(result)).iter("failure")
    assert "3 of 1,000,000" in str(failure.get("message"))


def test_accesses_that_were_not_done_once_always_alarm() -> None:
    result = result_of(part_of([night(0, lost=[{**LOST, "what": "accesses"}])]))
    assert result.exit_code == 1
    assert headline(result).startswith(
        "The guest and the host disagree: 3 of 1,000,000 accesses of the guest were done twice, or "
        "never, in race-spin with sigmask."
    )
    assert "free of races" not in junit(result)


def test_lost_kicks_are_not_counted_twice() -> None:
    lost = row(case="race-spin", metric="lost", unit="share", value=0.0, ci95_low=0.0, ci95_high=0)
    bad = {**lost, "value": 0.5, "ci95_low": 0.4, "ci95_high": 0.6}
    nights = [night(n, rows=[lost]) for n in range(18)]
    nights += [night(n, rows=[bad], lost=[LOST]) for n in (18, 19)]
    part = part_of(nights)
    assert part.decision.of("regression")
    assert part.regressions == []
    assert len(list(suites(junit(result_of(part))).iter("failure"))) == 1


def test_an_emulated_night_says_so_first() -> None:
    emulated = [night(n, emulated=True, emulated_by="QEMU TCG") for n in range(20)]
    assert headline(result_of(part_of(emulated))).startswith("Emulated (QEMU TCG): No regression")


def test_metrics_that_have_no_value_tonight_are_counted_and_skipped() -> None:
    nights = [*calm(19), night(19, rows=rows_of(19)[:1])]
    result = result_of(part_of(nights))
    assert "2 metrics of 1 case of nightly have no value tonight" in shown(result)
    assert len(list(suites(junit(result)).iter("skipped"))) == 2


def test_of_several_scenarios_each_has_its_row_and_the_worst_counts() -> None:
    parts = [
        part_of(calm()),
        part_of([night(0, scenario="new")]),
        Part("gone", errors=[("no KVM", 3)]),
    ]
    result = result_of(*parts)
    assert result.exit_code == 3
    assert headline(result) == (
        "No regression in 3 metrics of 1 scenario (17 nights of baseline). Not measured: gone."
    )
    cells = [line.split("|")[1:-1] for line in markdown(result).splitlines() if "|" in line]
    assert [cell[0].strip() for cell in cells[2:]] == ["nightly", "new", "gone"]


# --- several hosts -----------------------------------------------------------------------------


def on(host: str, nights: Sequence[Night], **changes: Any) -> Part:
    return part_of(nights, host=host, several=True, **changes)


def test_of_several_hosts_each_sentence_names_its_own() -> None:
    slow = on("root@amd", stepped(), remarks=["the clock went back"])
    result = result_of(on("this host", calm()), slow)
    assert f"% in {CASE} on root@amd since 2026-01-19 (2 nights), and 1 more." in headline(result)
    told = shown(result)
    assert "nightly on root@amd since 2026-01-19 (2 nights), with kernel: 6.12.3" in told
    assert "- root@amd: the clock went back" in told
    cells = [line.split("|")[1:-1] for line in markdown(result).splitlines() if "|" in line]
    assert [[text.strip() for text in row[:2]] for row in (cells[0], *cells[2:])] == [
        ["host", "scenario"],
        ["this host", "nightly"],
        ["root@amd", "nightly"],
    ]
    (suite, other) = suites(junit(result))
    assert (suite.get("name"), other.get("name")) == ("nightly on this host", "nightly on root@amd")
    message = str(next(other.iter("failure")).get("message"))
    assert f"in {CASE} on root@amd got slower" in message
    documents = plain_json.loads(json(result))["scenarios"]
    assert [document["host"] for document in documents] == ["this host", "root@amd"]


def test_a_good_night_counts_the_hosts_and_the_page_of_each_names_it() -> None:
    result = result_of(*(on(host, calm(), report=Path("x.html")) for host in ("a", "b")))
    assert headline(result) == (
        "No regression in 6 metrics of 1 scenario on 2 hosts (17 nights of baseline)."
    )
    assert "- `x.html` on a - `x.html` on b" in shown(result)


@pytest.mark.parametrize(
    ("nights", "said"),
    [
        (calm(2), "No decision yet on a: 2 of the 9 nights that a decision takes."),
        ([night(0, lost=[LOST])], "Kicks were lost on a that must not be lost: 3 of 1,000,000"),
        (
            [*calm(20), night(20, cases=[{"id": CASE, "status": "failed", "reason": "it broke"}])],
            "1 case failed on a.",
        ),
    ],
)
def test_whatever_the_answer_is_it_names_the_host(nights: Sequence[Night], said: str) -> None:
    assert said in headline(result_of(on("a", nights), Part("nightly", "b", several=True)))


def test_what_was_not_measured_is_listed_by_host() -> None:
    gone = [("a", "one"), ("a", "two"), ("b", "one")]
    parts = [Part(name, host, several=True, errors=[("no KVM", 3)]) for host, name in gone]
    result = result_of(on("c", calm()), *parts)
    assert headline(result).endswith("Not measured: one and two on a; one on b.")
    assert "- one and two on a; one on b were not measured: no KVM" in shown(result)


# --- safe and readable -------------------------------------------------------------------------


def nasty_result(*, several: bool = False) -> Result:
    """Everything that can be text is hostile."""
    host = {"host": NASTY, "several": several}
    line = "".join(c for c in NASTY if c.isprintable())  # as histories insist on

    def rows(number: int, step: float) -> list[dict[str, Any]]:
        return [{**some, "case": line, "method": line} for some in rows_of(number, step)[:1]]

    def of_kernel(number: int, kernel: str, step: float) -> Night:
        case = {"id": CASE, "status": "failed", "reason": NASTY}
        plain = night(number, kernel=kernel, rows=rows(number, step), cases=[case])
        host = {**plain.environment, "hostname": NASTY + kernel}
        return Night({**plain.document, "environment": host}, plain.table)

    nights = [of_kernel(n, "a", 1.0) for n in range(18)]
    nights += [of_kernel(n, NASTY, 1.05) for n in (18, 19)]
    lost = {**LOST, "case": NASTY, "method": NASTY}
    return result_of(
        part_of(nights, remarks=[NASTY], report=Path(line), scenario=NASTY, **host),
        part_of([night(0, lost=[lost])], errors=[(NASTY, 4)], **host),
        problems=(NASTY,),
        interrupted=NASTY,
    )


def tokens(text: str) -> list[Token]:
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [inner for token in parsed for inner in (token, *(token.children or ()))]


def check_markdown(text: str) -> None:
    """Nothing in it is markup but our own, and nothing could do harm on a terminal."""
    assert text.replace("\n", "").isprintable()
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "heading_open", "hr"}
    assert not kinds & {"s_open", "em_open", "blockquote_open", "fence", "code_block"}
    assert "ordered_list_open" not in kinds
    assert {token.level for token in tokens(text) if token.type == "bullet_list_open"} <= {0}
    tables = [token for token in tokens(text) if token.type == "table_open"]
    assert len(tables) <= 1
    # A row of the table has as many cells as its head.
    per_row = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len({*per_row}) <= 1
    if text.count("|") and tables:
        cells = sum(token.type in ("td_open", "th_open") for token in tokens(text))
        assert cells == (per_row[0] + 1) * (len(per_row) - 1)


@pytest.mark.parametrize("several", [False, True])
def test_hostile_text_is_text_in_markdown(several: bool) -> None:
    text = markdown(nasty_result(several=several))
    check_markdown(text)
    assert "got slower" in text


_TEXTS = st.one_of(
    st.text(alphabet=st.characters(), max_size=40),
    st.text(alphabet="ab 1.)-+#=_*<>[]()`|&;~\\!:/\n\t", max_size=100),
)


@settings(max_examples=80)
@example("", "", "", "", "__0__")
@example("", "0)", "", "", "12. x")
@given(scenario=_TEXTS, remark=_TEXTS, error=_TEXTS, problem=_TEXTS, reason=_TEXTS)
def test_any_text_is_text_in_every_output(
    scenario: str, remark: str, error: str, problem: str, reason: str
) -> None:
    tonight = night(0, cases=[{"id": CASE, "status": "failed", "reason": reason}])
    part = part_of([tonight], scenario=scenario, remarks=[remark], errors=[(error, 4)])
    result = result_of(part, problems=(problem,), interrupted=reason)
    check_markdown(markdown(result))
    check_junit(junit(result))
    assert plain_json.loads(json(result))["scenarios"][0]["errors"] is not None
    for output in OUTPUTS.values():
        output(result).encode("utf-8", "replace")


@pytest.mark.parametrize("nights", [calm(), stepped()], ids=["good", "bad"])
def test_lines_are_at_most_80_columns_wide(nights: list[Night]) -> None:
    for line in markdown(result_of(part_of(nights))).splitlines():
        assert len(line) <= 80


def test_a_flood_is_cut_and_says_so() -> None:
    part = part_of(calm(), remarks=[], errors=[])
    result = result_of(part, problems=tuple(f"file {number} left out" for number in range(1000)))
    assert "995 more" in markdown(result)
    assert len(markdown(result)) < 2000


# --- JUnit -------------------------------------------------------------------------------------


def suites(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 (our own)


def check_junit(text: str) -> None:
    """As the schema of the Jenkins xUnit plugin has it: which elements, which attributes."""
    top = suites(text)
    assert top.tag == "testsuites"
    assert {"name", "tests", "failures", "errors", "skipped"} == {*top.keys()}
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in top:
        assert suite.tag == "testsuite"
        needed = {"name", "tests", "failures", "errors", "skipped", "time"}
        assert needed <= {*suite.keys()} <= {*needed, "timestamp"}
        if "timestamp" in suite.keys():  # noqa: SIM118 (an element, no mapping)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(suite.get("timestamp")))
        counts = dict.fromkeys(totals, 0)
        for case in suite:
            assert case.tag == "testcase"
            assert {*case.keys()} == {"classname", "name", "time"}
            counts["tests"] += 1
            assert len(case) <= 1
            for outcome in case:
                name = {"failure": "failures", "error": "errors", "skipped": "skipped"}[outcome.tag]
                counts[name] += 1
                wanted = {"message"} if outcome.tag == "skipped" else {"message", "type"}
                assert {*outcome.keys()} == wanted
        for name, count in counts.items():
            assert suite.get(name) == str(count)
            totals[name] += count
    for name, count in totals.items():
        assert top.get(name) == str(count)


def test_junit_has_a_case_per_metric_and_says_what_is_wrong_in_the_failure() -> None:
    text = junit(result_of(part_of(stepped())))
    check_junit(text)
    cases = list(suites(text).iter("testcase"))
    assert [case.get("name") for case in cases] == [
        "sigmask/ns_per_exit",
        "immediate_exit/ns_per_exit",
        "sigmask-immediate_exit/ns_per_exit",
    ]
    assert {case.get("classname") for case in cases} == {f"nightly.{CASE}"}
    message = str(next(iter(suites(text).iter("failure"))).get("message"))
    assert re.fullmatch(
        rf"time per exit of sigmask in {CASE} got slower: \+[45]\.\d+ % \(95 % CI [\d.]+ to "
        r"[\d.]+ %\), 2,\d{3} → 2,\d{3} ns, since 2026-01-19 \(2 nights\); .* such alarms is "
        r"false; changed with it: kernel: 6\.12\.3 → 6\.12\.4",
        message,
    )


@pytest.mark.parametrize("several", [False, True])
def test_junit_is_well_formed_whatever_the_names_contain(several: bool) -> None:
    check_junit(junit(nasty_result(several=several)))


def test_a_scenario_that_was_not_begun_is_skipped_in_junit() -> None:
    result = result_of(part_of(calm()), Part("later"), interrupted="nightly was not finished")
    check_junit(junit(result))
    (skipped,) = suites(junit(result)).iter("skipped")
    assert skipped.get("message") == "the job ended before this scenario"


# --- JSON --------------------------------------------------------------------------------------


def test_json_has_what_the_documentation_says_and_nothing_else() -> None:
    text = (ROOT / "docs" / "nightly.md").read_text()
    section = text[text.index("## JSON") :].split("\n## ")[0]
    documented = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
    document = plain_json.loads(json(result_of(part_of(stepped()))))
    scenario = document["scenarios"][0]
    metric = scenario["metrics"][0]
    assert {*documented} == {*document, *scenario, *metric}
    assert metric["since"] == {"run_id": night(18).run_id, "night_utc": "2026-01-19T02:00:00Z"}
    assert metric["last_before"]["run_id"] == night(17).run_id
    assert {c["title"] for c in metric["changed_with_it"]} == {"kernel"}
    assert metric["verdict"] == "regression"
    assert metric["relative"] == pytest.approx(0.05, abs=0.01)


def test_json_has_no_numbers_that_json_has_not() -> None:
    document = plain_json.loads(json(result_of(part_of(calm(1)))), parse_constant=pytest.fail)
    assert document["scenarios"][0]["metrics"][0]["q"] is None
