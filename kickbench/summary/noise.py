# SPDX-License-Identifier: Apache-2.0
"""The summary of noise: what disturbed a case of any kind, by method.

The cost of noise is the difference between two cases. Each kind's own figures have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kickbench.numbers import plural
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.tables import has_noise
from kickbench.summary.events import merge_control, read_rows, totals_of

_COUNTS = ("foreign_sent", "foreign_taken", "siglock_taken", "spurious")


def read_noise(reader: RunReader, record: CaseRecord) -> dict[str, dict[str, Any]]:
    """By method, what its blocks had of noise, and the seconds that they lasted; empty without any.

    The blocks of control and placebo are the baseline's.
    """
    if not has_noise(record.parameters):
        return {}
    methods: list[str] = record.parameters["methods"]
    _, _, entry, scale, found = read_rows(reader, record, "noise", (*_COUNTS, "elapsed_cycles"))
    entry = merge_control(entry, record)
    totals = {name: totals_of(entry, found[name], len(methods)) for name in _COUNTS}
    elapsed_ns = totals_of(entry, found["elapsed_cycles"] * scale, len(methods))
    return {
        method: {
            **{name: totals[name][index] for name in _COUNTS},
            "seconds": elapsed_ns[index] / 1e9,
        }
        for index, method in enumerate(methods)
    }


def describe_noise(parameters: Mapping[str, Any]) -> list[str]:
    """The words about noise in the title of a case; none without noise."""
    words = []
    if parameters.get("foreign_signals_hz"):
        words.append(f"{parameters['foreign_signals_hz']:,.10g} foreign signals/s per vCPU")
    if parameters.get("siglock_threads"):
        threads = plural(parameters["siglock_threads"], "siglock thread")
        words.append(f"{threads} at {parameters['siglock_hz']:,.10g}/s")
    return words
