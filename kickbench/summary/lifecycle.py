# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind lifecycle: what became of the kicks of fresh VMs, with exact bounds."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from kickbench.engine.lifecycle import FATES
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.scenario.kinds import MOMENTS
from kickbench.stats.proportions import clopper_pearson, upper_bound
from kickbench.summary.events import (
    EVENT_QUANTILES,
    claims_of,
    count_findings,
    named_quantiles,
    read_rows,
)
from kickbench.summary.shared import CONFIDENCE, Controls

FAULTS = FATES[1:]
"""All that can become of a kick, but the answer in time."""


def summarise_lifecycle(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind lifecycle adds to its summary.

    A protocol claims to be race-free only at the moments at which it must answer.
    """
    methods: list[str] = record.parameters["methods"]
    moment = MOMENTS.get(str(record.parameters["moment"]))
    claims = claims_of(record) if moment is not None and moment.kept else {}
    columns = ("fate", "met", "error", "latency_cycles")
    _, _, entry, scale, found = read_rows(reader, record, "lives", columns)
    latency_ns = found["latency_cycles"] * scale
    statistics: dict[str, dict[str, Any]] = {}
    for index, method in enumerate(methods):
        mine = entry == index
        fate, met = found["fate"][mine], int(np.count_nonzero(found["met"][mine]))
        counts = {name: int(np.count_nonzero(fate == i)) for i, name in enumerate(FATES)}
        taken = mine & (found["latency_cycles"] > 0)
        errors = found["error"][mine & (found["fate"] == FATES.index("poisoned"))]
        statistics[method] = {
            "sent": int(np.count_nonzero(mine)),
            "met": met,
            **counts,
            **_bounds(counts, met, int(np.count_nonzero(mine))),
            "poisoned_by": _most_common(errors),
            "latency_ns": named_quantiles(latency_ns[taken], EVENT_QUANTILES, maximum=True),
            "race_free_claim": claims.get(method),
        }
    totals = {key: [one[key] for one in statistics.values()] for key in ("sent", *FAULTS)}
    return {"methods": statistics, "findings": count_findings(methods, claims, totals, FAULTS)}, ()


def at_risk(count: int, met: int, sent: int) -> int:
    """Of how many kicks a fault is a share: of those in time, unless late ones had it as well."""
    return met if count <= met else sent


def _bounds(counts: dict[str, int], met: int, sent: int) -> dict[str, Any]:
    """By fault, exact bounds of its share of the kicks at risk; None without any."""
    upper: dict[str, float | None] = {}
    intervals: dict[str, list[float] | None] = {}
    for name in FAULTS:
        count, of = counts[name], at_risk(counts[name], met, sent)
        upper[name] = upper_bound(count, of, confidence=CONFIDENCE) if of else None
        both = clopper_pearson(count, of, confidence=CONFIDENCE) if of else None
        intervals[name] = None if both is None else [both.low, both.high]
    return {"upper95": upper, "ci95": intervals}


def _most_common(errors: Any) -> str | None:
    """The error that most KVM_RUNs failed with, e.g. "ENOMEM"; None if none did."""
    if not len(errors):
        return None
    numbers, times = np.unique(errors, return_counts=True)
    number = int(numbers[times.argmax()])
    return errno.errorcode.get(number, str(number))
