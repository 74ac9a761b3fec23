# SPDX-License-Identifier: Apache-2.0
"""OpenMetrics text (https://prometheus.io/docs/specs/om/open_metrics_spec/), in base units.

Times are seconds there, and so are their names. A textfile collector takes the file as it is.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from kickbench.export.results import Case, Figure, Results

_UNITS = {
    "ns": ("seconds", 1e-9),
    "1/s": ("hertz", 1.0),
    "share": ("ratio", 1.0),
    "instructions": ("instructions", 1.0),
}


def write(results: Results) -> str:
    """A gauge for each metric, one for its interval, and one for the outcomes of the cases."""
    of_metric: dict[str, list[Figure]] = {}
    for figure in results.figures:
        of_metric.setdefault(_name(figure), []).append(figure)
    when = datetime.datetime.fromisoformat(results.created_utc).timestamp()
    lines = []
    for name, figures in sorted(of_metric.items()):
        unit, factor = _UNITS[figures[0].unit]
        lines += _family(name, unit, figures[0].title)
        lines += [f"{name}{_labels(figure)} {figure.value * factor!r} {when}" for figure in figures]
        bound = f"{name.removesuffix(f'_{unit}')}_ci95_{unit}"
        lines += _family(bound, unit, f"95 % interval of {name}")
        for figure in figures:
            for end, value in (("low", figure.low), ("high", figure.high)):
                lines.append(f"{bound}{_labels(figure, end=end)} {value * factor!r} {when}")
    lines += [
        "# TYPE kickbench_case stateset",
        "# HELP kickbench_case What became of a case.",
        *(line for case in results.cases for line in _states(case, when)),
        "# TYPE kickbench_run info",
        "# HELP kickbench_run The run and its host.",
        f"kickbench_run_info{_run(results)} 1 {when}",
        "# EOF",
    ]
    return "\n".join(lines) + "\n"


def _name(figure: Figure) -> str:
    """For example kickbench_quiet_per_exit_seconds: the unit is its end, as OpenMetrics has it."""
    unit, _ = _UNITS[figure.unit]
    words = [word for word in figure.metric.split("_") if word not in ("ns", unit)]
    kind = "difference_" if figure.baseline is not None else ""
    return f"kickbench_{'_'.join(words)}_{kind}{unit}"


def _family(name: str, unit: str, text: str) -> list[str]:
    return [f"# TYPE {name} gauge", f"# UNIT {name} {unit}", f"# HELP {name} {_escaped(text)}"]


def _labels(figure: Figure, **more: str) -> str:
    return _braces(
        {
            "case": figure.case,
            "kind": figure.kind,
            "method": figure.method,
            **({} if figure.baseline is None else {"baseline": figure.baseline}),
            **more,
        }
    )


def _states(case: Case, when: float) -> Iterator[str]:
    for state in ("pass", "fail", "skip", "error"):
        labels = _braces({"case": case.id, "kickbench_case": state})
        yield f"kickbench_case{labels} {int(case.outcome == state)} {when}"


def _run(results: Results) -> str:
    return _braces(
        {
            "run_id": results.run_id,
            "scenario": results.scenario,
            "host": results.fact("hostname"),
            "kernel": results.fact("kernel", "release"),
            "cpu": results.fact("cpu", "model"),
        }
    )


def _braces(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
