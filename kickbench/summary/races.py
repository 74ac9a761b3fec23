# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind race: how many of the kicks that landed were lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.methods import method_label
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.scenario.kinds import LATENCY_BINS
from kickbench.stats.proportions import clopper_pearson, upper_bound
from kickbench.summary.events import (
    claims_of,
    count_findings,
    longest_ns,
    merge_control,
    read_rows,
    totals_of,
)
from kickbench.summary.shared import (
    CONFIDENCE,
    Controls,
)

LATENCY_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

_SENT = ("one", "more")
_MOST_BINS = 40 * LATENCY_BINS
"""Up to 2^40 ns, which are 18 minutes: no kick takes so long."""


def summarise_races(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind race adds to its summary; the controls' kicks are the baseline's."""
    methods: list[str] = record.parameters["methods"]
    claims = claims_of(record)
    names = ("sent", "landed", "lost", "resent", "spurious", "rescues")
    columns = (*names, "timeout_cycles", "latency_max_cycles")
    process, row, entry, scale, found = read_rows(reader, record, "races", columns)
    entry = merge_control(entry, record)
    totals = {name: totals_of(entry, found[name], len(methods)) for name in names}
    timeouts = found["timeout_cycles"] * scale
    # The first round of a process finds out how long kicks take; the others wait less.
    later = np.append(False, process[1:] == process[:-1])[row] if len(row) else np.empty(0, bool)
    longest = found["latency_max_cycles"] * scale
    times = _latencies(record)
    statistics: dict[str, dict[str, Any]] = {}
    for index, method in enumerate(methods):
        count = {name: totals[name][index] for name in names}
        # Most kicks that runs of schema 1 counted as landed could not have been lost.
        landed = count["landed"] if reader.schema > 1 and count["landed"] >= 0 else None
        seen = longest[(entry == index) & (found["latency_max_cycles"] > 0)]
        statistics[method] = {
            **count,
            "landed": landed,
            **_proportions(count["lost"], landed, count["spurious"], count["sent"]),
            "latency_max_ns": longest_ns(seen),
            **times.get(method, {}),
            "race_free_claim": claims.get(method),
        }
    return {
        "methods": statistics,
        "findings": count_findings(methods, claims, totals, ("lost", "spurious")),
        "timeout_ns": longest_ns(timeouts[later] if later.any() else timeouts),
        "first_timeout_ns": longest_ns(timeouts[~later]) if later.any() else None,
    }, ()


def _latencies(record: CaseRecord) -> dict[str, dict[str, Any]]:
    """By method, the quantiles of all kicks that were not lost, and of those sent more than once.

    They are of bins that are 4.4 % wide. Older runs have none.
    """
    merged: dict[str, dict[str, NDArray[np.int64]]] = {}
    for process in (record.document or {}).get("processes", ()):
        for method, of_method in process.get("latencies", {}).items():
            counts = merged.setdefault(
                method_label(method), {name: np.zeros(_MOST_BINS, int) for name in _SENT}
            )
            for name in _SENT:
                for bin_, count in of_method.get(name, {}).items():
                    counts[name][min(int(bin_), _MOST_BINS - 1)] += count
    return {
        method: {
            "latency_ns": _quantiles(counts["one"] + counts["more"]),
            "resent_ns": _quantiles(counts["more"]),
        }
        for method, counts in merged.items()
    }


def _quantiles(counts: NDArray[np.int64]) -> dict[str, float | None]:
    total = int(counts.sum())
    if not total:
        return dict.fromkeys(LATENCY_QUANTILES)
    reached = np.cumsum(counts)
    found: dict[str, float | None] = {}
    for name, level in LATENCY_QUANTILES.items():
        bin_ = int(np.searchsorted(reached, max(1, np.ceil(level * total))))
        found[name] = float(2 ** ((bin_ + 0.5) / LATENCY_BINS))
    return found


def _proportions(lost: int, landed: int | None, spurious: int, sent: int) -> dict[str, Any]:
    """Exact bounds of two shares: kicks lost per kick landed, and spurious exits per kick sent.

    A bound is null if there was no such kick, or if the number is not known. If nobody clears a
    flag, there can be more spurious exits than kicks. They are then no share of the kicks, and
    their interval is null.
    """
    found: dict[str, Any] = {"lost_upper95": None, "lost_ci95": None, "spurious_ci95": None}
    if landed:
        at_risk = max(landed, lost)
        interval = clopper_pearson(lost, at_risk, confidence=CONFIDENCE)
        found["lost_upper95"] = upper_bound(lost, at_risk, confidence=CONFIDENCE)
        found["lost_ci95"] = [interval.low, interval.high]
    if 0 < sent >= spurious:
        interval = clopper_pearson(spurious, sent, confidence=CONFIDENCE)
        found["spurious_ci95"] = [interval.low, interval.high]
    return found
