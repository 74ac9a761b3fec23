# SPDX-License-Identifier: Apache-2.0
"""Two kernels compared by boots: a boot is one value, and neighbours are a pair."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_run

from kickbench.compare.boots import compare_boots
from kickbench.compare.runs import Comparison, Judged
from kickbench.errors import ResultsError
from kickbench.report.words import comparison as words
from kickbench.results.reader import RunReader
from kickbench.stats.contrasts import family_confidence, t_quantile
from kickbench.summary.summarise import summarise

Summary = dict[str, Any]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    cases = [synthetic_run.case(2), synthetic_run.race_case(50_000.0)]
    return summarise(RunReader(synthetic_run.build(tmp_path_factory.mktemp("run"), cases=cases)))


def boot(summary: Summary, level: float, paired: float = 50.0, lost: int = 0) -> Summary:
    """A run in which each level is ``level``, with an interval that is much too narrow."""
    found = copy.deepcopy(summary)
    for case in found["cases"]:
        for figures in case["methods"].values():
            for estimate in figures.get("estimates", {}).values():
                estimate |= {"value": level, "ci95": [level - 0.01, level + 0.01]}
        for contrast in case.get("contrasts", ()):
            contrast |= {"diff": paired, "ci95": [paired - 0.01, paired + 0.01]}
        if case["kind"] == "race":
            case["methods"]["sigmask"]["lost"] = lost
    return found


def compared(summary: Summary, base: Sequence[float], other: Sequence[float]) -> Comparison:
    pairs = [(boot(summary, a), boot(summary, b)) for a, b in zip(base, other, strict=True)]
    return compare_boots(pairs, names=("A", "B"))


def level(comparison: Comparison) -> Judged:
    return next(
        j for j in comparison.judged if j.base.metric == "ns_per_exit" and j.base.baseline is None
    )


def test_boots_that_vary_show_that_one_run_of_each_knew_nothing(measured: Summary) -> None:
    found = level(compared(measured, [1000, 1100, 950, 1020], [1080, 990, 1040, 1000]))
    assert found.verdict == "same"
    assert found.base.estimate.processes == 4
    assert found.difference.low < 0 < found.difference.high


def test_a_kernel_that_is_slower_in_every_pair_is_slower(measured: Summary) -> None:
    """By less than two runs could ever show."""
    found = level(compared(measured, [1000, 1100, 950, 1020], [1031, 1130, 980, 1049]))
    assert found.verdict == "worse"
    assert found.difference.value == pytest.approx(30.0)
    assert found.effect == pytest.approx(30.0 / 1017.5)


def test_the_interval_is_that_of_students_t_over_the_pairs(measured: Summary) -> None:
    found = level(compared(measured, [1000, 1000, 1000], [1010, 1020, 1030])).difference
    half = 4.302653 * 10 / 3**0.5  # t of 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((20 - half, 20 + half), rel=1e-6)


def test_a_steady_drift_is_no_difference(measured: Summary) -> None:
    """In the order ABBA, a host that slows down by 10 each boot has the same mean for both."""
    found = level(compared(measured, [1000, 1030], [1010, 1020]))
    assert found.difference.value == pytest.approx(0.0)
    assert found.verdict == "same"


def test_one_kernel_is_rarely_called_different(measured: Summary) -> None:
    """With the confidence of all figures together, at most one plan in twenty says so of one."""
    draw = np.random.default_rng(1)
    wrong = 0
    for _ in range(100):
        values = draw.normal(1000, 30, (2, 4))
        wrong += level(compared(measured, *values.tolist())).verdict != "same"
    assert wrong <= 5


def test_lost_kicks_are_counted_over_all_boots(measured: Summary) -> None:
    pairs = [(boot(measured, 1000), boot(measured, 1000, lost=lost)) for lost in (0, 2, 1)]
    found = compare_boots(pairs)
    (alarm,) = [j for j in found.alarms if j.base.method == "sigmask"]
    sent = pairs[0][0]["cases"][1]["methods"]["sigmask"]["sent"]
    assert (alarm.base.count, alarm.other.count) == (0, 3)
    assert alarm.base.of == alarm.other.of == 3 * sent
    assert found.regressions


def test_one_pair_is_not_enough(measured: Summary) -> None:
    with pytest.raises(ResultsError, match="takes 2"):
        compared(measured, [1000], [1001])


def test_boots_of_another_scenario_are_not_comparable(measured: Summary) -> None:
    other = boot(measured, 1000)
    other["cases"][0]["vcpus"] = 4
    good = boot(measured, 1000)
    found = compare_boots([(good, good), (good, other)])
    assert level(found).verdict == "not comparable"


def test_a_figure_that_changed_its_meaning_in_a_plan_is_not_comparable(tmp_path: Path) -> None:
    """Whichever pair it was: kickbench was upgraded between two boots."""
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2), synthetic_run.kick_case()])
    new = summarise(RunReader(run))
    old = copy.deepcopy(new) | {"run_schema": 1}
    found = compare_boots([(old, old), (new, new)])
    verdicts = {
        kind: {(j.verdict, j.differs_in) for j in found.judged if j.base.kind == kind}
        for kind in ("exits", "kick")
    }
    assert verdicts["exits"] == {("same", ())}
    assert ("not comparable", ("schema",)) in verdicts["kick"]


def test_the_words_say_that_the_unit_is_the_boot(measured: Summary) -> None:
    found = compared(measured, [1000, 1100, 950, 1020], [1031, 1130, 980, 1049])
    assert words.who(found) == ("4 boots", "4 boots")
    assert words.BOOTS in words.caveats(found)
    assert words.LEVELS not in words.caveats(found)
    assert "slower" in words.headline(found)[0].text


def test_the_documentation_says_what_boots_can_show() -> None:
    """docs/recipes.md has half the width of an interval, in standard deviations of the pairs."""
    text = (Path(__file__).parents[1] / "docs/recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    for boots, *told in rows:
        for figures, value in zip((1, 4, 12), told, strict=True):
            pairs = int(boots)
            half = t_quantile(family_confidence(0.95, figures), pairs - 1) / pairs**0.5
            assert f"{half:.2f}" == value
