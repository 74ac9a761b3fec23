# SPDX-License-Identifier: Apache-2.0
"""Where in the distribution a difference lies: what is said of it, and what is drawn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import synthetic_run

from kickbench.report.figures.shift import draw_shift
from kickbench.report.words.exits import answer_exits
from kickbench.report.words.shift import answer_shift, percentile, shift_points
from kickbench.report.words.tables import TABLES, columns_of, difference, rows_of
from kickbench.results.tables import QUANTILES
from kickbench.summary.data import RunData


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    folder = tmp_path_factory.mktemp("shift")
    return RunData.load(synthetic_run.build(folder, cases=[synthetic_run.case(2)]))


def of(level: float, diff: float, half: float = 2.0) -> dict[str, Any]:
    return {"level": level, "diff": diff, "ci95": [diff - half, diff + half]}


def answer(data: RunData, *points: dict[str, Any]) -> str:
    summary = copy.deepcopy(data.summary)
    (case,) = summary["cases"]
    case["shift"] = [{"method": "sigmask", "baseline": "immediate_exit", "points": [*points]}]
    return " ".join(answer_shift(summary, case, "sigmask"))


def test_levels_are_percentiles() -> None:
    assert [percentile(level) for level in (0.01, 0.025, 0.5, 0.999)] == [
        *("p1", "p2.5", "p50", "p99.9"),
    ]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (
            (of(0.2, 100), of(0.5, 110), of(0.99, 400)),
            "grows towards the tail: 100.0 ns at p20, 400.0 ns (95 % CI 398.0 to 402.0) at p99.",
        ),
        ((of(0.2, 100), of(0.99, 40)), "falls towards the tail: "),
        ((of(0.2, 100), of(0.99, 400, 500)), "was not seen to change towards the tail: "),
        # Surely different, and of no importance.
        ((of(0.2, 100, 0.1), of(0.99, 105, 0.1)), "was not seen to change towards the tail: "),
    ],
)
def test_the_tail_is_compared_with_the_quiet_exit(
    data: RunData, points: tuple[dict[str, Any], ...], said: str
) -> None:
    assert answer(data, *points).startswith(f"sigmask - immediate_exit {said}")


@pytest.mark.parametrize(
    "points",
    [
        (),
        (of(0.2, 100),),
        (of(0.5, 100), of(0.99, 400)),  # no quiet exit
        (of(0.2, 1, 5), of(0.99, 400)),  # whose difference was not seen
    ],
)
def test_nothing_is_said_of_what_is_not_known(
    data: RunData, points: tuple[dict[str, Any], ...]
) -> None:
    assert answer(data, *points) == ""


def test_the_verdict_says_where_the_cost_lies(data: RunData) -> None:
    assert any("towards the tail" in line for line in answer_exits(data.summary, ()))


def test_the_figure_has_every_point_and_says_the_ends(data: RunData) -> None:
    (case,) = data.summary["cases"]
    points = shift_points(case, "sigmask", "immediate_exit")
    (plot,) = draw_shift(data)
    (axes,) = plot.canvas.axes
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert [point["diff"] for point in points] in drawn
    assert plot.finding.startswith("sigmask - immediate_exit: ")
    assert f" at {percentile(points[0]['level'])}, " in plot.finding
    assert plot.finding.endswith(f" at {percentile(points[-1]['level'])}.")


def test_a_run_without_quantiles_has_no_such_figure(data: RunData) -> None:
    summary = copy.deepcopy(data.summary)
    summary["cases"][0]["shift"] = []
    without = copy.copy(data)
    object.__setattr__(without, "summary", summary)
    assert draw_shift(without) == []


def test_the_table_has_the_difference_at_each_quantile(data: RunData) -> None:
    (case,) = data.summary["cases"]
    (part,) = [part for part in TABLES["exits"].parts if part.title.endswith("the cost lies")]
    rows = rows_of([case])
    known = {percentile(point["level"]) for point in case["shift"][0]["points"]}
    shown = [column.name for column in columns_of(part.columns, rows)]
    assert shown == [column.name for column in part.columns if column.name in known]
    assert {"p10", "p50", "p90"} <= set(shown)
    (row,) = [row for row in rows if row.method == "sigmask"]
    for column in columns_of(part.columns, rows):
        (point,) = [
            point
            for point in shift_points(case, "sigmask", "immediate_exit")
            if percentile(point["level"]) == column.name
        ]
        assert column.cell(row) == difference(point)
        assert column.value is not None
        assert column.value(row) == point["diff"]


def test_the_table_asks_for_levels_that_the_engine_has() -> None:
    (part,) = [part for part in TABLES["exits"].parts if part.title.endswith("the cost lies")]
    assert {column.name for column in part.columns} <= set(map(percentile, QUANTILES.values()))


def test_the_slower_exits_of_vcpus_that_share_cpus_are_no_difference(data: RunData) -> None:
    (case,) = copy.deepcopy(data.summary)["cases"]
    case["oversubscribed"] = True
    (part,) = [part for part in TABLES["exits"].parts if part.title.endswith("the cost lies")]
    (row,) = [row for row in rows_of([case]) if row.method == "sigmask"]
    cells = {
        column.name: column.cell(row)
        for column in columns_of(part.columns, [row, *rows_of([case])])
    }
    assert cells["p90"] == "waited for CPUs"
    assert cells["p25"].startswith("+")
    (column,) = [column for column in part.columns if column.name == "p90"]
    assert column.value is not None
    assert column.value(row) is None


def test_a_run_without_a_shift_function_has_no_such_table(data: RunData) -> None:
    (case,) = copy.deepcopy(data.summary)["cases"]
    case["shift"] = []
    (part,) = [part for part in TABLES["exits"].parts if part.title.endswith("the cost lies")]
    assert not columns_of(part.columns, rows_of([case]))
