# SPDX-License-Identifier: Apache-2.0
"""What all formats are made of: a run's cases with their outcomes and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kickbench.compare.metrics import METRICS, Point, points
from kickbench.results.schema import dig, one_line
from kickbench.summary.data import RunData

Outcome = Literal["pass", "fail", "skip", "error"]
"""``fail``: something that must not happen did: a race-free protocol lost a kick, or an access was
not done once. ``error``: the case was not measured."""


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval. ``fault`` says that it shows one."""

    case: str
    kind: str
    method: str
    baseline: str | None
    metric: str
    title: str
    unit: str
    better: str
    value: float
    low: float
    high: float
    fault: bool

    @property
    def name(self) -> str:
        """For example "sigmask/quiet_ns_per_exit", or "sigmask-immediate_exit/..."."""
        than = "" if self.baseline is None else f"-{self.baseline}"
        return f"{self.method}{than}/{self.metric}"


@dataclass(frozen=True)
class Case:
    """One case. ``reason`` says why it was not measured, or what is wrong; it may be empty."""

    id: str
    kind: str
    outcome: Outcome
    reason: str
    seconds: float
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Results:
    """A run. ``environment`` is the host's."""

    run_id: str
    scenario: str
    created_utc: str
    environment: Mapping[str, Any]
    cases: tuple[Case, ...]

    @property
    def figures(self) -> list[Figure]:
        """Those of all cases."""
        return [figure for case in self.cases for figure in case.figures]

    def fact(self, *path: str) -> str:
        """Something about the host on a line; empty if it is not known."""
        found = dig(self.environment, *path)
        return one_line(str(found)) if found is not None else ""


def results(data: RunData) -> Results:
    """The run as it is exported."""
    of_case: dict[str, list[Figure]] = defaultdict(list)
    for point in points(data.summary):
        of_case[point.case].append(_figure(point))
    manifest = data.reader.manifest
    return Results(
        data.reader.run_id,
        one_line(data.reader.scenario_name),
        manifest["created_utc"],
        data.reader.environment,
        tuple(_case(case, of_case[case["id"]]) for case in data.summary["cases"]),
    )


def _figure(point: Point) -> Figure:
    metric = METRICS[point.metric]
    return Figure(
        case=point.case,
        kind=point.kind,
        method=point.method,
        baseline=point.baseline,
        metric=point.metric,
        title=metric.title,
        unit=metric.unit,
        better=metric.better,
        value=point.estimate.value,
        low=point.estimate.low,
        high=point.estimate.high,
        fault=bool(point.race_free and point.count),
    )


def _case(case: Mapping[str, Any], figures: list[Figure]) -> Case:
    outcomes: dict[str, Outcome] = {"ok": "pass", "skipped": "skip"}
    outcome = outcomes.get(case["status"], "error")
    reason = one_line(case["reason"] or "")
    if faults := [f"{figure.title}: {figure.method}" for figure in figures if figure.fault]:
        outcome, reason = "fail", "; ".join(faults)
    seconds = case.get("seconds")
    return Case(
        case["id"],
        case["kind"],
        outcome,
        reason,
        float(seconds) if isinstance(seconds, (int, float)) else 0.0,
        tuple(figures),
    )
