# SPDX-License-Identifier: Apache-2.0
"""TAP version 14 (https://testanything.org), with the figures as YAML diagnostics."""

from __future__ import annotations

import json

from kickbench.export.results import Case, Results


def write(results: Results) -> str:
    """A test for each case."""
    lines = ["TAP version 14", f"1..{len(results.cases)}"]
    for number, case in enumerate(results.cases, start=1):
        sound = case.outcome in ("pass", "skip")
        line = f"{'ok' if sound else 'not ok'} {number} - {_escaped(case.id)}"
        lines.append(line + (f" # SKIP {_escaped(case.reason)}" if case.outcome == "skip" else ""))
        lines += [f"  {line}" for line in _diagnostics(case)]
    return "\n".join(lines) + "\n"


def _diagnostics(case: Case) -> list[str]:
    """A YAML block. Strings are JSON strings, which YAML reads as strings, whatever is in them."""
    if case.outcome == "skip" or not (case.figures or case.reason):
        return []
    lines = ["---"]
    if case.reason:
        lines.append(f"message: {json.dumps(case.reason)}")
    if case.figures:
        lines.append("figures:")
    for figure in case.figures:
        interval = f"[{figure.low:.9g}, {figure.high:.9g}]"
        lines.append(
            f"  {json.dumps(figure.name)}: {{value: {figure.value:.9g}, ci95: {interval}, "
            f"unit: {json.dumps(figure.unit)}}}"
        )
    return [*lines, "..."]


def _escaped(text: str) -> str:
    """A "#" begins a directive."""
    return text.replace("\\", "\\\\").replace("#", "\\#")
