# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind pause_all. A pause that needed a rescue is counted, but has no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import CaseRecord, RunReader
from kickbench.scenario.kinds import DEFAULT_ORDER, DEFAULT_PAUSE_GAP_US
from kickbench.stats.quantiles import quantile_bound
from kickbench.summary.events import (
    EVENT_QUANTILES,
    claims_of,
    compare_events,
    count_findings,
    merge_control,
    named_intervals,
    named_quantiles,
    read_rows,
    totals_of,
)
from kickbench.summary.shared import (
    Controls,
    Floats,
    Ints,
    precision,
)

TIMEOUT_QUANTILE = 0.999


@dataclass(frozen=True)
class Pauses:
    """Every pause of a case; ``row``, ``round_process`` and ``entry`` as in
    :class:`~kickbench.summary.events.Events`."""

    round_process: Ints
    row: NDArray[np.intp]
    entry: Ints
    rescues: Ints
    not_run: Ints
    send_ns: Floats
    first_ns: Floats
    median_ns: Floats
    last_ns: Floats
    clock_ns: Floats
    state_ns: Floats

    @property
    def timed(self) -> NDArray[np.bool_]:
        """The pauses that count: no vCPU had to be rescued."""
        return np.asarray(self.rescues == 0)


def read_pauses(reader: RunReader, case_id: str) -> Pauses:
    """Every pause of a finished case of the kind pause_all, in ns."""
    times = ("send", "first", "median", "last", "clock", "state")
    columns = ("rescues", "not_run", *(f"{name}_cycles" for name in times))
    rounds, row, entry, scale, found = read_rows(reader, reader.case(case_id), "pauses", columns)
    return Pauses(
        round_process=rounds,
        row=row,
        entry=entry,
        rescues=found["rescues"].astype(np.int64),
        not_run=found["not_run"].astype(np.int64),
        send_ns=found["send_cycles"] * scale,
        first_ns=found["first_cycles"] * scale,
        median_ns=found["median_cycles"] * scale,
        last_ns=found["last_cycles"] * scale,
        clock_ns=found["clock_cycles"] * scale,
        state_ns=found["state_cycles"] * scale,
    )


def _timeout_ns(last_ns: Floats, rescued: int) -> float | None:
    """What at most one pause in 1,000 exceeds, with a confidence of 95 %.

    None if it cannot be told. A pause that needed a rescue exceeds every time.
    """
    bound = quantile_bound(np.append(last_ns, np.full(rescued, np.inf)), TIMEOUT_QUANTILE)
    return bound if bound is not None and np.isfinite(bound) else None


def _after(pauses: Pauses, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """The phases that follow a pause, each from the end of the phase before; empty without any.

    The share is that of the pause itself in the whole, its median.
    """
    found: dict[str, Any] = {}
    begin = pauses.last_ns[chosen]
    for name in ("clock", "state"):
        end = getattr(pauses, f"{name}_ns")[chosen]
        if len(end) and end.any():
            found[name] = named_quantiles(end - begin, EVENT_QUANTILES, maximum=True)
            begin = end
    if found:
        shares = pauses.last_ns[chosen] / np.maximum(begin, 1e-9)
        found["pause_share"] = float(np.median(np.minimum(shares, 1.0)))
    return found


def pause_gap_us(parameters: Mapping[str, Any]) -> float | None:
    """The mean gap between pauses; None for a case of another kind. Earlier runs had one gap."""
    if parameters["kind"] != "pause_all":
        return None
    gap_us: float | None = parameters.get("pause_gap_us")
    return DEFAULT_PAUSE_GAP_US if gap_us is None else gap_us


def describe_pauses(parameters: Mapping[str, Any]) -> list[str]:
    """The words about pauses in the title of a case, for what is not the default."""
    words = [] if parameters.get("order", DEFAULT_ORDER) == DEFAULT_ORDER else ["one at a time"]
    gap_us = pause_gap_us(parameters)
    if gap_us not in (None, DEFAULT_PAUSE_GAP_US):
        words.append(f"{gap_us:,.10g} µs between pauses" if gap_us else "back to back")
    return words


def _not_run(not_run: Ints) -> dict[str, int] | None:
    """The pauses that found a vCPU that had not run since the pause before, and such vCPUs in all.

    None if that is not known: of guests that halt, and of earlier runs.
    """
    if not len(not_run) or (not_run < 0).any():
        return None
    return {"pauses": int((not_run > 0).sum()), "vcpus": int(not_run.sum())}


def summarise_pauses(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind pause_all adds to its summary."""
    methods: list[str] = record.parameters["methods"]
    claims = claims_of(record)
    pauses = read_pauses(reader, record.id)
    statistics: dict[str, dict[str, Any]] = {}
    for index, method in enumerate(methods):
        of_method = pauses.entry == index
        chosen = of_method & pauses.timed
        statistics[method] = {
            **{
                name: named_quantiles(getattr(pauses, name)[chosen], EVENT_QUANTILES, maximum=True)
                for name in ("first_ns", "median_ns", "last_ns", "send_ns")
            },
            "last_ci95": named_intervals(
                pauses.last_ns[chosen], pauses.row[chosen], pauses.round_process, EVENT_QUANTILES
            ),
            "timeout_ns": _timeout_ns(
                pauses.last_ns[chosen], int((of_method & ~pauses.timed).sum())
            ),
            "after_ns": _after(pauses, chosen),
            "not_run": _not_run(pauses.not_run[of_method]),
            "n": int(chosen.sum()),
            "rescued": int((of_method & ~pauses.timed).sum()),
            "rescues": int(pauses.rescues[of_method].sum()),
            "race_free_claim": claims.get(method),
        }
    baseline = statistics[record.parameters["baseline"]]["last_ns"]["p50"]
    fill, controls = compare_events(
        record, pauses, pauses.last_ns, {"pause_last_ns": 0.5}, baseline
    )
    entry = merge_control(pauses.entry, record)
    totals = {
        "rescued": totals_of(entry, ~pauses.timed, len(methods)),
        "sent": totals_of(entry, np.ones(len(entry)), len(methods)),
    }
    return {
        "methods": statistics,
        **fill,
        **precision(record.parameters, fill["contrasts"], {"pause_last_ns": baseline}),
        "findings": count_findings(methods, claims, totals, ("rescued",)),
    }, controls
