# SPDX-License-Identifier: Apache-2.0
"""Two summaries compared: what is called different, what is not, and what cannot be compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import synthetic_run

from kickbench.compare.runs import Comparison, Judged, compare
from kickbench.errors import ResultsError
from kickbench.report.words.comparison import headline
from kickbench.results.reader import RunReader
from kickbench.summary.summarise import summarise

Summary = dict[str, Any]

CASES = [
    synthetic_run.case(2),
    synthetic_run.kick_case("guest"),
    synthetic_run.pause_case(2),
    synthetic_run.race_case(50_000.0),
]
EXITS, KICK, PAUSE, RACE = range(4)


@pytest.fixture(scope="module")
def of_disk(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    path = synthetic_run.build(tmp_path_factory.mktemp("results"), cases=CASES)
    return summarise(RunReader(path))


@pytest.fixture
def base(of_disk: Summary) -> Summary:
    """A summary in which every level is 1,000 +- 10 and every paired difference 50 +- 2."""
    summary = copy.deepcopy(of_disk)
    for case in summary["cases"]:
        case["processes"] = 10
        for figures in case["methods"].values():
            for estimate in figures.get("estimates", {}).values():
                estimate |= {"value": 1000.0, "ci95": [990.0, 1010.0]}
            for values, intervals, name in LATENCIES:
                if values in figures:
                    figures[values][name] = 1000.0
                    figures[intervals][name] = [990.0, 1010.0]
            if "disturbances" in figures:
                figures["disturbances"]["run_delay_ns"] = 0
                figures |= {"cpu_ns_per_exit": 1000.0, "n": 1000}
        for contrast in case["contrasts"]:
            contrast |= {"diff": 50.0, "ci95": [48.0, 52.0]}
    return summary


LATENCIES = (
    ("latency_ns", "latency_ci95", "p50"),
    ("latency_ns", "latency_ci95", "p99"),
    ("last_ns", "last_ci95", "p50"),
)


def shifted(base: Summary, shift: float, *, half: float = 10.0) -> Summary:
    """Every level of the other run ``shift`` higher."""
    other = copy.deepcopy(base)
    for case in other["cases"]:
        for figures in case["methods"].values():
            for estimate in figures.get("estimates", {}).values():
                value = 1000 + shift
                estimate |= {"value": value, "ci95": [value - half, value + half]}
            for values, intervals, name in LATENCIES:
                if values in figures:
                    figures[values][name] = 1000 + shift
                    figures[intervals][name] = [1000 + shift - half, 1000 + shift + half]
    return other


def paired(base: Summary, value: float, half: float = 2.0) -> Summary:
    """Every paired difference of the other run is ``value``."""
    other = copy.deepcopy(base)
    for case in other["cases"]:
        for contrast in case["contrasts"]:
            contrast |= {"diff": value, "ci95": [value - half, value + half]}
    return other


def verdicts(comparison: Comparison, metric: str, *, paired: bool = False) -> set[str]:
    return {j.verdict for j in figures(comparison, metric, paired=paired)}


def figures(comparison: Comparison, metric: str, *, paired: bool = False) -> list[Judged]:
    return [
        judged
        for judged in comparison.judged
        if judged.base.metric == metric and (judged.base.baseline is not None) == paired
    ]


def test_a_run_does_not_differ_from_itself(of_disk: Summary) -> None:
    found = compare(of_disk, of_disk)
    assert {judged.verdict for judged in found.judged} == {"same"}
    assert found.of_itself
    assert not found.regressions
    assert not found.changes
    assert not found.unmatched
    assert len(found.comparable) == len(found.judged) > 20


def test_summaries_are_not_changed(base: Summary) -> None:
    before = copy.deepcopy(base)
    compare(base, shifted(base, 300))
    assert base == before


def test_an_equal_id_alone_makes_no_equal_run(base: Summary) -> None:
    assert not compare(base, shifted(base, 300)).of_itself
    assert not compare(base, base | {"run_id": "another"}).of_itself


@pytest.mark.parametrize(
    ("shift", "times", "rates"),
    [
        (300, "worse", "better"),
        (-300, "better", "worse"),
        (60, "maybe worse", "maybe better"),  # seen, but not surely beyond 5 %
        (0, "same", "same"),
    ],
)
def test_a_level_differs_by_more_than_the_minimal_effect(
    base: Summary, shift: float, times: str, rates: str
) -> None:
    found = compare(base, shifted(base, shift))
    assert verdicts(found, "ns_per_exit") == verdicts(found, "cpu_ns_per_exit") == {times}
    assert verdicts(found, "exits_per_second") == {rates}
    assert verdicts(found, "ns_per_exit", paired=True) == {"same"}


def test_kicks_have_a_larger_minimal_effect(base: Summary) -> None:
    found = compare(base, shifted(base, 90))
    assert verdicts(found, "ns_per_exit") == {"worse"}
    assert verdicts(found, "latency_p50_ns") == verdicts(found, "pause_last_ns") == {"maybe worse"}
    assert verdicts(compare(base, shifted(base, 200)), "latency_p50_ns") == {"worse"}


@pytest.mark.parametrize(
    ("min_effect", "word"), [(0.0, "worse"), (0.02, "worse"), (0.2, "maybe worse")]
)
def test_the_minimal_effect_can_be_chosen(base: Summary, min_effect: float, word: str) -> None:
    found = compare(base, shifted(base, 100), min_effect=min_effect)
    assert verdicts(found, "ns_per_exit") == verdicts(found, "latency_p99_ns") == {word}
    assert found.min_effect == pytest.approx(min_effect)


def test_paired_differences_need_no_minimal_effect(base: Summary) -> None:
    # 10 ns are 1 % of the level, far below what a level must differ by.
    found = compare(base, paired(base, 60))
    assert verdicts(found, "ns_per_exit", paired=True) == {"worse"}
    assert verdicts(found, "ns_per_exit") == {"same"}
    assert {judged.base.baseline for judged in found.regressions} == {"immediate_exit"}
    assert verdicts(compare(base, paired(base, 40)), "ns_per_exit", paired=True) == {"better"}
    assert verdicts(compare(base, paired(base, 51)), "ns_per_exit", paired=True) == {"same"}


def test_intervals_hold_for_all_figures_at_once(base: Summary) -> None:
    """A difference that a 95 % interval excludes by a little is what luck makes of many figures."""
    other = paired(base, 53.2)
    found = compare(base, other)
    (judged, _) = figures(found, "ns_per_exit", paired=True) + figures(
        found, "cpu_ns_per_exit", paired=True
    )
    assert judged.difference.seen
    assert not judged.corrected.seen
    assert judged.verdict == "same"
    assert judged.corrected.low < judged.difference.low
    assert judged.corrected.confidence == pytest.approx(0.95 ** (1 / len(found.judged)))


def test_what_waiting_for_a_cpu_explains_is_not_called_slower(base: Summary) -> None:
    other = shifted(base, 300)
    for method in other["cases"][EXITS]["methods"].values():
        method["disturbances"]["run_delay_ns"] = 500 * method["n"]
    found = compare(base, other)
    assert verdicts(found, "ns_per_exit") == {"maybe worse"}
    assert verdicts(found, "exits_per_second") == {"maybe better"}
    # Waiting is no CPU time, but whatever ran meanwhile took the caches.
    assert verdicts(found, "cpu_ns_per_exit") == {"maybe worse"}
    # What is far beyond it is not explained by it.
    far = shifted(other, 900)
    assert verdicts(compare(base, far), "cpu_ns_per_exit") == {"worse"}
    (doubt,) = found.doubts
    assert (doubt.what, doubt.side, doubt.cases) == (
        "waited",
        "other",
        (other["cases"][EXITS]["id"],),
    )
    (back,) = compare(other, base).doubts
    assert back.side == "base"


def test_both_waiting_alike_explains_nothing(base: Summary) -> None:
    for method in base["cases"][EXITS]["methods"].values():
        method["disturbances"]["run_delay_ns"] = 500 * method["n"]
    found = compare(base, shifted(base, 300))
    assert verdicts(found, "ns_per_exit") == {"worse"}
    assert not found.doubts


@pytest.mark.parametrize("side", [0, 1])
def test_a_level_of_a_single_process_is_at_most_a_maybe(base: Summary, side: int) -> None:
    runs = [base, shifted(paired(base, 90), 300)]
    for case in runs[side]["cases"]:
        case["processes"] = 1
    found = compare(*runs)
    levels = {j.verdict for j in found.judged if j.base.baseline is None and j.base.of is None}
    assert levels == {"maybe worse", "maybe better"}
    # Of a paired difference the processes differ no more than the rounds.
    assert verdicts(found, "ns_per_exit", paired=True) == {"worse"}
    assert {judged.base.baseline for judged in found.regressions} == {"immediate_exit"}


def test_of_an_exact_count_a_single_process_is_enough(base: Summary) -> None:
    runs = [exact(base, value) for value in (2430.0, 2440.0)]
    for run in runs:
        run["cases"][EXITS]["processes"] = 1
    assert verdicts(compare(*runs), "ns_per_exit") == {"worse"}


def test_at_a_set_rate_only_the_time_per_exit_is_judged(base: Summary) -> None:
    runs = [base, shifted(base, 300)]
    full = len(compare(*runs).judged)
    for run in runs:
        run["cases"][EXITS]["exit_rate_hz"] = 20000.0
    found = compare(*runs)
    assert verdicts(found, "ns_per_exit") == {"worse"}
    assert verdicts(found, "ns_per_exit", paired=True) == {"same"}
    for is_paired in (False, True):
        assert not figures(found, "cpu_ns_per_exit", paired=is_paired)
        assert not figures(found, "exits_per_second", paired=is_paired)
    assert not found.unmatched
    # What is not judged does not widen the intervals of what is.
    (judged, *_) = figures(found, "latency_p50_ns")
    assert judged.corrected.confidence == pytest.approx(0.95 ** (1 / (full - 5)))


# --- counts that are exact ---------------------------------------------------------------------


def exact(base: Summary, value: float, *, emulated: bool = True) -> Summary:
    summary = copy.deepcopy(base)
    summary |= {"emulated": emulated, "emulated_by": "QEMU TCG" if emulated else None}
    for figures in summary["cases"][EXITS]["methods"].values():
        for estimate in figures["estimates"].values():
            estimate |= {"value": value, "ci95": [value, value]}
    return summary


def test_an_exact_count_needs_no_minimal_effect(base: Summary) -> None:
    found = compare(exact(base, 2430.0), exact(base, 2440.0))
    assert verdicts(found, "ns_per_exit") == {"worse"}
    assert verdicts(compare(exact(base, 2430.0), exact(base, 2430.0)), "ns_per_exit") == {"same"}


def counted(base: Summary, instructions: int, share: float = 0.998) -> Summary:
    summary = copy.deepcopy(base) | {"emulated": True, "emulated_by": "QEMU TCG"}
    for figures in summary["cases"][EXITS]["methods"].values():
        figures["counts"] = {"exit": {"instructions": instructions, "share": share}}
    return summary


def test_ten_instructions_more_are_worse_and_the_same_are_the_same(base: Summary) -> None:
    one, other = counted(base, 2521), counted(base, 2531)
    assert verdicts(compare(one, other), "instructions_per_exit") == {"worse"}
    assert verdicts(compare(other, one), "instructions_per_exit") == {"better"}
    assert verdicts(compare(one, one), "instructions_per_exit") == {"same"}
    (judged, *_) = figures(compare(one, other), "instructions_per_exit")
    assert judged.difference.value == 10


def test_a_count_of_some_samples_only_is_not_judged(base: Summary) -> None:
    found = compare(counted(base, 2521, share=0.6), counted(base, 2531))
    assert figures(found, "instructions_per_exit") == []


def test_rounding_is_no_difference_between_exact_counts(base: Summary) -> None:
    almost = 2430.0 * (1 + 1e-14)
    assert almost != 2430.0
    assert verdicts(compare(exact(base, 2430.0), exact(base, almost)), "ns_per_exit") == {"same"}


def test_neither_is_what_two_processes_make_of_one_clock(base: Summary) -> None:
    one, other = exact(base, 2430.0), exact(base, 2430.002)
    assert verdicts(compare(one, other), "ns_per_exit") == {"same"}
    assert verdicts(compare(one, exact(base, 2431.0)), "ns_per_exit") == {"worse"}


def test_on_hardware_no_width_is_no_exactness(base: Summary) -> None:
    one, other = (exact(base, value, emulated=False) for value in (2430.0, 2440.0))
    assert verdicts(compare(one, other), "ns_per_exit") == {"maybe worse"}


def test_exact_counts_do_not_widen_the_other_intervals(base: Summary) -> None:
    one, other = exact(base, 2430.0), exact(base, 2440.0)
    found = compare(one, other)
    counted = [j for j in found.judged if j.difference.low == j.difference.high]
    (other_figure, *_) = figures(found, "latency_p50_ns")
    judged = len(found.judged) - len(counted)
    assert other_figure.corrected.confidence == pytest.approx(0.95 ** (1 / judged))


# --- lost kicks --------------------------------------------------------------------------------


def losing(
    base: Summary, count: int, *, case: int = RACE, method: str = "immediate_exit"
) -> Summary:
    summary = copy.deepcopy(base)
    figures = summary["cases"][case]["methods"][method]
    what = "rescued" if case == PAUSE else "lost"
    summary["cases"][case]["findings"] = [
        {"method": method, "what": what, "count": count, "of": 10**6, "race_free_claim": True}
    ] * (count > 0)
    figures["lost" if case != PAUSE else "rescued"] = count
    return summary


@pytest.mark.parametrize("case", [RACE, KICK, PAUSE])
def test_a_race_free_protocol_that_loses_kicks_is_an_alarm(base: Summary, case: int) -> None:
    # One of a million is no difference by its interval; by its claim it is one too many.
    found = compare(losing(base, 0, case=case), losing(base, 1, case=case))
    (alarm,) = found.alarms
    assert alarm.base.method == "immediate_exit"
    assert alarm.verdict == "same"
    assert found.regressions == (alarm,)


def test_an_access_that_was_not_done_once_is_an_alarm(base: Summary) -> None:
    good, bad = copy.deepcopy(base), copy.deepcopy(base)
    for run, twice in ((good, 0), (bad, 1)):
        counts = {"accesses": 10**6, "twice": twice, "never": 0}
        run["cases"][0]["methods"]["sigmask"]["accesses"] = counts
    (alarm,) = compare(good, bad).alarms
    assert (alarm.base.method, alarm.base.metric) == ("sigmask", "accesses")
    said = " ".join(sentence.text for sentence in headline(compare(good, bad)))
    assert "did 1 of 1,000,000 accesses of the guest twice, or never in other" in said
    assert "free of races" not in said


def test_it_is_an_alarm_on_other_hardware_too(base: Summary) -> None:
    other = losing(base, 1)
    other["environment"] = copy.deepcopy(other["environment"])
    other["environment"]["cpu"]["model"] = "Other"
    found = compare(base, other)
    assert len(found.regressions) == len(found.comparable) == 1


def test_losses_that_are_not_new_or_not_claimed_away_are_no_alarm(base: Summary) -> None:
    assert not compare(losing(base, 3), losing(base, 5)).alarms
    assert not compare(losing(base, 3), losing(base, 0)).alarms
    found = compare(base, base)  # flag_signal loses kicks, and claims nothing else
    assert not found.alarms
    assert not found.losses


@pytest.mark.parametrize("count", [0, 5])
def test_what_the_base_lost_itself_is_told(base: Summary, count: int) -> None:
    (loss,) = compare(losing(base, 3), losing(base, count)).losses
    assert loss.base is not None
    assert loss.other is not None
    assert (loss.base.count, loss.other.count) == (3, count)
    assert not compare(losing(base, 0), losing(base, 3)).losses  # that is an alarm


def test_a_loss_is_told_also_where_one_run_has_no_such_figure(base: Summary) -> None:
    without = copy.deepcopy(base)
    del without["cases"][RACE]
    (gone,) = compare(losing(base, 3), without).losses
    (new,) = compare(without, losing(base, 3)).losses
    assert (gone.other, new.base) == (None, None)
    assert gone.point == new.point
    assert not compare(without, losing(base, 3)).alarms


def test_losing_far_more_kicks_is_worse(base: Summary) -> None:
    other = losing(base, 3000)
    assert verdicts(compare(losing(base, 1000), other), "lost") >= {"worse"}
    found = compare(other, losing(base, 1000))
    assert "better" in verdicts(found, "lost")


# --- not comparable ----------------------------------------------------------------------------


def with_environment(base: Summary, change: Callable[[Any], None]) -> Summary:
    other = copy.deepcopy(base)
    change(other["environment"])
    return other


def test_another_cpu_makes_nothing_comparable(base: Summary) -> None:
    other = with_environment(shifted(base, 300), lambda e: e["cpu"].update(model="Other"))
    found = compare(base, other)
    assert {judged.verdict for judged in found.judged} == {"not comparable"}
    assert not found.comparable
    assert not found.regressions
    assert [(c.title, c.blocks) for c in found.changes] == [("CPU", True)]
    # The numbers are there all the same, side by side.
    assert figures(found, "ns_per_exit")[0].difference.value == pytest.approx(300)


def test_another_kernel_is_what_is_compared(base: Summary) -> None:
    other = with_environment(shifted(base, 300), lambda e: e["kernel"].update(release="6.13.0"))
    found = compare(base, other)
    assert [(c.title, c.blocks) for c in found.changes] == [("kernel", False)]
    assert found.regressions


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("program", "pio_out"),
        ("irqchip", "none"),
        ("vcpus", 3),
        ("exit_rate_hz", 20000.0),
        ("placement_spec", {"name": "local", "creator": "node:1"}),
        ("transport", "pidfd"),
        ("kick_rate_hz", 100.0),
        ("mix", [{"exit": "port_read", "address": 0x608, "size": 4, "share": 1.0}]),
        ("gaps_us", [1.0, 2.0]),
        ("vcpu_rates", [1.0, 0.5]),
    ],
)
def test_a_case_that_means_something_else_is_not_comparable(
    base: Summary, key: str, value: Any
) -> None:
    other = shifted(base, 300)
    other["cases"][EXITS][key] = value
    found = compare(base, other)
    (judged, *_) = figures(found, "ns_per_exit")
    assert judged.verdict == "not comparable"
    assert judged.differs_in == (key,)
    assert not found.unmatched
    # The other cases are judged all the same, and the correction is for those only.
    assert verdicts(found, "latency_p50_ns") == {"worse"}
    assert judged.corrected.confidence == pytest.approx(0.95 ** (1 / len(found.comparable)))


def test_how_exits_arrive_matters_only_when_they_are_paced(base: Summary) -> None:
    other = copy.deepcopy(base)
    other["cases"][EXITS]["arrival"] = "poisson"
    assert verdicts(compare(base, other), "ns_per_exit") == {"same"}
    for summary in (base, other):
        summary["cases"][EXITS]["exit_rate_hz"] = 1000.0
    assert verdicts(compare(base, other), "ns_per_exit") == {"not comparable"}


def test_another_clock_is_not_comparable(base: Summary) -> None:
    other = copy.deepcopy(base)
    other["cases"][EXITS]["clocks"] = [{"kind": "monotonic_raw", "hz": 1e9}]
    assert figures(compare(base, other), "ns_per_exit")[0].differs_in == ("clock",)
    other["cases"][EXITS]["clocks"] = [{"kind": "tsc", "hz": 1.0}]
    assert verdicts(compare(base, other), "ns_per_exit") == {"same"}


@pytest.mark.parametrize("by", [None, "Bochs"])
def test_emulated_and_not_emulated_are_not_comparable(base: Summary, by: str | None) -> None:
    other = exact(base, 1000.0)
    one = base | {"emulated": by is not None, "emulated_by": by}
    found = compare(one, other)
    (change,) = found.changes
    assert (change.title, change.after, change.blocks) == ("emulator", "QEMU TCG", True)
    assert change.before == (by or "none")
    assert not found.comparable


def test_a_key_that_an_older_summary_lacks_is_not_a_difference(base: Summary) -> None:
    other = copy.deepcopy(base)
    for case in other["cases"]:
        for key in ("transport", "clocks", "oversubscribed", "processes"):
            case.pop(key, None)
    assert compare(base, other).comparable


# --- what only one has, and doubts -------------------------------------------------------------


def test_what_only_one_run_has_is_said_with_its_reason(base: Summary) -> None:
    other = copy.deepcopy(base)
    other["cases"][EXITS] |= {"status": "skipped", "reason": "no node 1", "methods": {}}
    other["cases"][EXITS]["contrasts"] = []
    del other["cases"][KICK]["methods"]["sigmask"]
    other["cases"][PAUSE]["methods"]["sigmask"]["last_ci95"]["p50"] = None
    del other["cases"][RACE]
    ids = [case["id"] for case in base["cases"]]
    found = [
        (item.case, item.method, item.metric, item.lacks, item.status, item.reason)
        for item in compare(base, other).unmatched
    ]
    assert found[0] == (ids[EXITS], None, None, "other", "skipped", "no node 1")
    assert found[1] == (ids[RACE], None, None, "other", None, None)
    assert found[2] == (ids[KICK], "sigmask", None, "other", None, None)
    assert (ids[PAUSE], "sigmask", "pause_last_ns", "other", "ok", None) in found
    assert {item.lacks for item in compare(other, base).unmatched} == {"base"}


def test_doubts_are_of_the_run_and_its_cases(base: Summary) -> None:
    other = copy.deepcopy(base)
    ids = [case["id"] for case in base["cases"]]
    other["complete"] = False
    other["cases"][EXITS]["control"]["ok"] = False
    other["cases"][KICK]["oversubscribed"] = True
    for case in base["cases"]:
        case["processes"] = 1
    found = {(d.what, d.side): d.cases for d in compare(base, other).doubts}
    assert found == {
        ("one process", "base"): tuple(ids[:RACE]),
        ("partial", "other"): tuple(ids),
        ("control", "other"): (ids[EXITS],),
        ("oversubscribed", "other"): (ids[KICK],),
    }


# --- refused -----------------------------------------------------------------------------------


def test_runs_of_different_scenarios_are_refused(base: Summary) -> None:
    with pytest.raises(ResultsError, match="different scenarios, synthetic and other"):
        compare(base, base | {"scenario": "other"})


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_without_a_finished_case_is_refused(base: Summary, which: int) -> None:
    broken = copy.deepcopy(base)
    for case in broken["cases"]:
        case["status"] = "failed"
    broken["run_id"] = "broken"
    runs = [base, base]
    runs[which] = broken
    with pytest.raises(ResultsError, match="broken: no case finished"):
        compare(*runs)


def test_runs_without_a_figure_in_common_are_refused(base: Summary) -> None:
    one, other = copy.deepcopy(base), copy.deepcopy(base)
    one["cases"], other["cases"] = one["cases"][:1], other["cases"][1:]
    with pytest.raises(ResultsError, match="no figure in common") as caught:
        compare(one, other)
    assert "\n" not in str(caught.value)
