# SPDX-License-Identifier: Apache-2.0
"""The table of cases: one visible list of columns, each with how its cell is worded.

The HTML report shows all of :data:`COLUMNS`; ``kickbench show`` has its own, narrower, layout
and the same words. A row is one method of one finished case. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kickbench.report.numbers import NOTHING, decimals, fixed, significant, whole
from kickbench.report.words import contrasts, nanoseconds, seconds

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One method of one finished case."""

    case: Summary
    method: str

    @property
    def figures(self) -> Summary:
        """The method's part of the summary."""
        figures: Summary = self.case["methods"][self.method]
        return figures


@dataclass(frozen=True)
class Column:
    """One column. ``unit`` may hold {ns} and {s}, which an emulated run words otherwise.

    A column that is not ``always`` shown is left out when all its cells are the same.
    """

    name: str
    unit: str
    cell: Callable[[Row], str]
    numeric: bool = True
    always: bool = True


def difference(contrast: Summary | None) -> str:
    """ "+31 (29 to 33)", or "-" without an interval."""
    if contrast is None or contrast["diff"] is None or contrast["ci95"] is None:
        return NOTHING
    low, high = contrast["ci95"]
    places = decimals(high - low)
    value = fixed(contrast["diff"], places)
    sign = "" if value.startswith("-") or not value.strip("0.,") else "+"
    return f"{sign}{value} ({fixed(low, places)} to {fixed(high, places)})"


def control(case: Summary) -> str:
    """The A/A control in words: "ok", "NOT OK" or "none", and the interval that it is judged by."""
    verdict = case["control"]
    if verdict["ok"] is None:
        return "none"
    judged = verdict | {"ci95": verdict["ci_family"]}
    return f"{'ok' if verdict['ok'] else 'NOT OK'}: {difference(judged)}"


def _rate(row: Row) -> str:
    rate_hz = row.case["exit_rate_hz"]
    return "full speed" if rate_hz is None else significant(rate_hz)


def _time(name: str) -> Callable[[Row], str]:
    return lambda row: significant(row.figures["ns_per_exit"][name])


def _contrast(metric: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if row.method == row.case["baseline"]:
            return "baseline"
        return difference(contrasts(row.case, metric).get(row.method))

    return cell


COLUMNS: tuple[Column, ...] = (
    Column("program", "", lambda row: str(row.case["program"] or NOTHING), False, always=False),
    Column("irqchip", "", lambda row: str(row.case["irqchip"] or NOTHING), False, always=False),
    Column("vCPUs", "", lambda row: whole(row.case["vcpus"])),
    Column("placement", "", lambda row: str(row.case["placement"]), numeric=False),
    Column("rate", "exits/{s} per vCPU", _rate),
    Column("method", "", lambda row: row.method, numeric=False),
    Column("exits", "1/{s}", lambda row: whole(row.figures["exits_per_second"])),
    Column("mean", "{ns} per exit", _time("mean")),
    Column("difference (95 % CI)", "{ns} per exit", _contrast("ns_per_exit")),
    Column("A/A control (95 % CI over all cases)", "{ns} per exit", lambda row: control(row.case)),
    Column("p50", "{ns}", _time("p50")),
    Column("p90", "{ns}", _time("p90")),
    Column("p99", "{ns}", _time("p99")),
    Column("max", "{ns}", _time("max")),
    Column("CPU time", "{ns} per exit", lambda row: significant(row.figures["cpu_ns_per_exit"])),
    Column("CPU difference (95 % CI)", "{ns} per exit", _contrast("cpu_ns_per_exit")),
    Column("timed exits", "", lambda row: whole(row.figures["n"])),
    Column("ended by", "", lambda row: str(row.case["stopped_by"] or NOTHING), numeric=False),
)


def rows_of(cases: Sequence[Summary]) -> list[Row]:
    """The rows of finished cases, the methods in the order of the case."""
    return [Row(case, method) for case in cases for method in case["methods"]]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns that have something to say about the rows."""
    return [
        column for column in COLUMNS if column.always or len({column.cell(row) for row in rows}) > 1
    ]


def unit(column: Column, summary: Summary) -> str:
    """A column's unit in this run."""
    return column.unit.format(ns=nanoseconds(summary), s=seconds(summary))
