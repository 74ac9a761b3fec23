# SPDX-License-Identifier: Apache-2.0
"""What docs/python.md promises to Python programs: names, parameters, columns.

A change here breaks somebody's program, unless it only adds. It then needs a new major version, and
a line in CHANGELOG.md.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import synthetic_run

import kickbench

PARAMETERS = {
    "compare": "base, other, *, min_effect=None",
    "plot.comparison": "comparison, case=None, ax=None, *, paired=False",
    "plot.contention": "run, case=None, ax=None, *, scale='linear'",
    "plot.cost": "run, case=None, ax=None",
    "plot.cost_by_exit_rate": "run, case=None, ax=None",
    "plot.differences": "run, case=None, ax=None, *, method=None",
    "plot.ecdf": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.handover": "run, case=None, ax=None",
    "plot.kick_latency": "run, case=None, ax=None",
    "plot.lifecycle": "run, case=None, ax=None",
    "plot.nested_round_trips": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.nested_work": "run, case=None, ax=None",
    "plot.nodes": "run, case=None, ax=None, *, method=None",
    "plot.observed_kicks": "run, case=None, ax=None",
    "plot.observed_over_time": "run, case=None, ax=None, *, scale='linear'",
    "plot.observed_pauses": "run, case=None, ax=None",
    "plot.observed_times": "run, case=None, ax=None",
    "plot.observed_ways": "run, case=None, ax=None",
    "plot.over_time": "run, case=None, ax=None",
    "plot.pauses": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.percentiles": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.prediction": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.race": "run, case=None, ax=None",
    "plot.shift": "run, case=None, ax=None",
    "plot.throughput": "run, case=None, ax=None, *, scale='logarithmic'",
    "plot.throughput_per_vcpu": "run, case=None, ax=None, *, scale='linear'",
    "plot.time_by_exit_rate": "run, case=None, ax=None, *, scale='linear'",
    "plot.time_by_kick_rate": "run, case=None, ax=None",
    "query": "store, sql, *, say=print",
    "read": "path",
    "run": (
        "scenario, *, results='results', progress=None, "
        "quick=False, strict=False, wait=False, host=None"
    ),
    "Run.arrow": "self, table, case=None",
    "Run.blocks": "self, case=None",
    "Run.exits": "self, case=None",
    "Run.figures": "self",
    "Run.frame": "self, table, case=None",
    "Run.handovers": "self, case=None",
    "Run.histogram": "self, case, method",
    "Run.kicks": "self, case=None",
    "Run.lives": "self, case=None",
    "Run.nested": "self, case=None",
    "Run.noise": "self, case=None",
    "Run.observed": "self, what='kicks', case=None",
    "Run.pauses": "self, case=None",
    "Run.races": "self, case=None",
    "Comparison.frame": "self",
}
NAMES = [
    "Comparison",
    "Histogram",
    "Progress",
    "Run",
    "compare",
    "errors",
    "plot",
    "query",
    "read",
    "run",
]
PROPERTIES = ["cases", "environment", "id", "path", "scenario", "summary"]
COMPARISON = [
    "alarms",
    "base",
    "changes",
    "doubts",
    "frame",
    "judged",
    "losses",
    "other",
    "regressions",
    "unmatched",
]
PROGRESS = ["folder", "case", "number", "cases", "state", "seconds", "rounds", "estimate", "reason"]
HISTOGRAM = ("edges_ns", "counts")
ERRORS = {
    "KickbenchError": "Exception",
    "UsageError": "KickbenchError",
    "ScenarioError": "UsageError",
    "ResultsError": "UsageError",
    "HostError": "KickbenchError",
    "MeasurementError": "KickbenchError",
}
FIGURES = [
    "case",
    "kind",
    "method",
    "baseline",
    "metric",
    "unit",
    "value",
    "low",
    "high",
    "processes",
    "reference",
    "floor",
    "count",
    "of",
]
FRAME = [
    "case",
    "kind",
    "method",
    "baseline",
    "metric",
    "unit",
    "base",
    "base_low",
    "base_high",
    "other",
    "other_low",
    "other_high",
    "diff",
    "low",
    "high",
    "family_low",
    "family_high",
    "effect",
    "least_effect",
    "verdict",
    "differs_in",
    "alarm",
]


def found(name: str) -> Any:
    value: Any = kickbench
    for part in name.split("."):
        value = getattr(value, part)
    return value


def public(of: object) -> list[str]:
    return sorted(name for name in vars(of) if not name.startswith("_"))


def test_the_names_are_these() -> None:
    assert kickbench.__all__ == NAMES
    assert set(NAMES) <= set(dir(kickbench))
    assert kickbench.plot.__all__ == [
        name.removeprefix("plot.") for name in PARAMETERS if name.startswith("plot.")
    ]
    methods = [name.removeprefix("Run.") for name in PARAMETERS if name.startswith("Run.")]
    assert public(kickbench.Run) == sorted([*methods, *PROPERTIES])
    assert all(isinstance(vars(kickbench.Run)[name], property) for name in PROPERTIES)
    assert set(COMPARISON) <= {*public(kickbench.Comparison), *fields(kickbench.Comparison)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found("nothing")


def fields(of: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(of)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_function_takes_these_parameters_and_is_typed_and_explained(name: str) -> None:
    function = found(name)
    signature = inspect.signature(function)
    parameters = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    shown = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    assert shown.replace("<built-in function print>", "print") == f"({PARAMETERS[name]})"
    annotated = [one.annotation for one in signature.parameters.values() if one.name != "self"]
    assert inspect.Parameter.empty not in [*annotated, signature.return_annotation]
    assert inspect.getdoc(function)


def test_values_have_these_parts() -> None:
    assert fields(kickbench.Progress) == PROGRESS
    assert kickbench.Histogram._fields == HISTOGRAM
    for name, base in ERRORS.items():
        assert found(f"errors.{name}").__base__.__name__ == base


def test_frames_have_these_columns(tmp_path: Path) -> None:
    run = kickbench.read(synthetic_run.build(tmp_path, cases=[synthetic_run.case(2)], rounds=8))
    assert list(run.figures()) == FIGURES
    assert list(kickbench.compare(run, run).frame()) == FRAME


# --- how the names are loaded ------------------------------------------------------------------


def fresh(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_import_loads_nothing_until_a_name_is_used() -> None:
    code = "import sys; import kickbench; print([n for n in sys.modules if n.startswith('kick')])"
    assert fresh(code) == "['kickbench']"
    heavy = "import sys; import kickbench; kickbench.read; print('matplotlib' in sys.modules)"
    assert fresh(heavy) == "False"


@pytest.mark.parametrize("name", ["run", "compare"])
def test_a_function_with_the_name_of_a_room_is_the_function(name: str) -> None:
    module = {"run": "kickbench.run.runner", "compare": "kickbench.compare.runs"}[name]
    kind = f"print(type(kickbench.{name}).__name__)"
    first = f"import {module}; import kickbench; {kind}"
    last = f"import kickbench; kickbench.{name}; import {module}; {kind}"
    assert [fresh(first), fresh(last)] == ["function", "function"]
    assert fresh(f"from {module} import {name}; print({name}.__module__)") == module
    assert isinstance(sys.modules[f"kickbench.{name}"], ModuleType)


def test_checkers_of_types_see_every_name() -> None:
    source = Path(str(kickbench.__file__)).read_text(encoding="utf-8")
    (block,) = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    seen = {
        alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == NAMES
    for name, module in seen.items():
        value = found(name)
        expected = f"{module}.{name}" if isinstance(value, ModuleType) else module
        assert (value.__name__ if isinstance(value, ModuleType) else value.__module__) == expected
