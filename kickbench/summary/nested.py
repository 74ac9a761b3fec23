# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind nested: a guest hypervisor's round trips, and what L2 did meanwhile.

An iteration in which L2 left for an unexpected reason answers another question. It is counted by
its reason, and is in no other figure. The work of L2 shows whether L1 got its event at once: see
:data:`AT_ONCE` and docs/method.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.tables import ROLES
from kickbench.scenario.kinds import INJECTION, ITERATIONS
from kickbench.stats.chunks import group_quantiles
from kickbench.summary.events import (
    EVENT_QUANTILES,
    merge_control,
    named_intervals,
    named_quantiles,
    read_rows,
)
from kickbench.summary.shared import (
    CONFIDENCE,
    Control,
    Controls,
    Floats,
    Ints,
    by_process,
    contrast,
    contrast_interval,
    control_interval,
    count_entries,
    count_values,
    level_estimate,
    number,
    precision,
)

AT_ONCE = 0.1
"""L1's event is late if L2 worked for longer than this part of the median plain round trip. This is
little beside the round trip itself. If only a timer of the host ends L2's run, L2 works for
thousands of round trips."""

MIN_SPUN = 10
"""Iterations in which L2 must have worked for some time, to compute the time of a turn."""

SPUN_ROUND_TRIPS = 2.0
"""The least length of such an iteration, in plain round trips."""

QUANTILES = EVENT_QUANTILES


@dataclass(frozen=True)
class Nested:
    """Every iteration of a case. :func:`~kickbench.summary.shared.entry_index` explains ``entry``.

    ``row`` is the place of an iteration's round in ``round_process``, which has the process of each
    round in time order. ``latency_ns`` is 0 if no thread sent the event.
    """

    round_process: Ints
    row: NDArray[np.intp]
    entry: Ints
    expected: NDArray[np.bool_]
    injected: NDArray[np.bool_]
    exit_reason: Ints
    delivered: Ints
    work: Ints
    round_trip_ns: Floats
    latency_ns: Floats

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Injections that L2's handler never saw."""
        return np.asarray(self.injected & (self.delivered == 0))

    @property
    def doubled(self) -> NDArray[np.bool_]:
        """Iterations in which L2's handler ran more often than events were injected."""
        return np.asarray(self.delivered > self.injected)


@dataclass(frozen=True)
class NestedRounds:
    """Per round (rows, time order) the round trips of each entry (columns: methods, controls).

    NaN, and 0 in ``count``, if there was none, and for ways that are not compared.
    """

    process: Ints
    median_ns: Floats
    mean_ns: Floats
    count: Ints


def read_nested(reader: RunReader, case_id: str) -> Nested:
    """Every iteration of a finished case of the kind nested, in ns."""
    columns = (
        *("cycles", "exit_reason", "expected", "injected", "delivered", "work"),
        "latency_cycles",
    )
    rounds, row, entry, scale, found = read_rows(reader, reader.case(case_id), "nested", columns)
    return Nested(
        round_process=rounds,
        row=row,
        entry=entry,
        expected=found["expected"],
        injected=found["injected"],
        exit_reason=found["exit_reason"],
        delivered=found["delivered"],
        work=found["work"],
        round_trip_ns=found["cycles"] * scale,
        latency_ns=found["latency_cycles"] * scale,
    )


def read_nested_rounds(reader: RunReader, case_id: str) -> NestedRounds:
    """The round trips of the rounds of a finished case, for exports."""
    return _rounds(read_nested(reader, case_id), reader.case(case_id).parameters["methods"])


def describe_nested(parameters: Mapping[str, Any]) -> list[str]:
    """The words about nesting in the title of a case."""
    if parameters["kind"] != "nested":
        return []
    rate = parameters.get("kick_rate_hz")
    return ["nested", *([f"{rate:,.10g} kicks/s of L1"] if rate is not None else [])]


def turn_ns(data: Nested, plain: int, spinning: int) -> float | None:
    """The time of one turn of L2's loop in ns; None without enough iterations in which L2 worked.

    An iteration of the entry ``spinning`` has a time beyond the median round trip of the entry
    ``plain``. This time divided by its turns is the time of a turn; the result is the median over
    the iterations. It contains what L0 does meanwhile. This makes turns longer than they are, and
    the limit for "at once" stricter.
    """
    floor = data.round_trip_ns[data.expected & (data.entry == plain)]
    if not len(floor):
        return None
    floor_ns = float(np.median(floor))
    spun = data.expected & (data.entry == spinning) & (data.work > 0)
    spun &= data.round_trip_ns >= SPUN_ROUND_TRIPS * floor_ns
    if spun.sum() < MIN_SPUN:
        return None
    return float(np.median((data.round_trip_ns[spun] - floor_ns) / data.work[spun]))


def summarise_nested(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind nested adds to its summary."""
    methods: list[str] = record.parameters["methods"]
    baseline = methods.index(record.parameters["baseline"])
    data = read_nested(reader, record.id)
    rounds = _rounds(data, methods)
    limit = _at_once_turns(data, methods, baseline)
    statistics = {
        method: _method_statistics(data, rounds, index, method, limit)
        for index, method in enumerate(methods)
    }
    level_ns = statistics[methods[baseline]]["round_trip_ns"]["p50"]
    contrasts = [
        _contrast(rounds, methods, index, baseline, "round_trip_p50_ns")
        for index, method in enumerate(methods)
        if index != baseline and _is_compared(method)
    ]
    if set(INJECTION) <= set(methods):
        with_it, without = map(methods.index, INJECTION)
        contrasts.append(_contrast(rounds, methods, with_it, without, "injection_p50_ns"))
    differences = _differences(rounds, len(methods), baseline)
    interval = control_interval(differences, CONFIDENCE)
    control = {
        "metric": "round_trip_p50_ns",
        **contrast(interval, count_values(differences), len(rounds.process)),
        "ci_family": None,
        "ok": None,
    }
    processes = [one.get("nested") or {} for one in (record.document or {})["processes"]]
    of_l1 = processes[0]
    return {
        "methods": statistics,
        "contrasts": contrasts,
        "control": control,
        "findings": _findings(data, record, limit),
        **precision(record.parameters, contrasts, {"round_trip_p50_ns": level_ns}),
        "nested": {
            "vendor": of_l1.get("vendor"),
            "nested_paging": of_l1.get("nested_paging"),
            "kicks": sum(one.get("kicks", 0) for one in processes),
            "entries": _entries(processes),
            **limit,
        },
    }, [Control(control, partial(control_interval, differences), level_ns)]


# --- figures -----------------------------------------------------------------------------------


def _entries(processes: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """What the kernel's tracepoint said in all processes; None if it said nothing."""
    found = [entries for one in processes if (entries := one.get("entries"))]
    if not found:
        return None
    return {name: sum(one[name] for one in found) for name in ("iterations", "all", "at_once")}


def _is_compared(method: str) -> bool:
    return method in ITERATIONS and ITERATIONS[method].compared


def _is_judged(method: str, limit: Mapping[str, Any]) -> bool:
    at_once = method in ITERATIONS and ITERATIONS[method].at_once
    return at_once and limit["at_once_turns"] is not None


def _at_once_turns(data: Nested, methods: list[str], baseline: int) -> dict[str, Any]:
    """The turns that L2 may do if it leaves at once, and the time of a turn behind that limit."""
    turn = None
    if "asynchronous" in methods:
        turn = turn_ns(data, baseline, methods.index("asynchronous"))
    if not turn:
        return {"turn_ns": None, "at_once_turns": None}
    floor_ns = np.median(data.round_trip_ns[data.expected & (data.entry == baseline)])
    return {"turn_ns": turn, "at_once_turns": int(AT_ONCE * float(floor_ns) / turn)}


def _rounds(data: Nested, methods: list[str]) -> NestedRounds:
    width = count_entries(methods)
    compared = np.array([*map(_is_compared, methods), *(True for _ in ROLES)])
    chosen = data.expected & (data.entry >= 0)
    chosen &= compared[data.entry]  # of no entry is the last
    cell = data.row[chosen] * width + data.entry[chosen]
    shape = (len(data.round_process), width)
    n_cells = shape[0] * width
    values = data.round_trip_ns[chosen]
    count = np.bincount(cell, minlength=n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(count > 0, np.bincount(cell, values, n_cells) / count, np.nan)
    medians = group_quantiles(values, cell, n_cells, 0.5)
    return NestedRounds(
        data.round_process, medians.reshape(shape), means.reshape(shape), count.reshape(shape)
    )


def _method_statistics(
    data: Nested, rounds: NestedRounds, index: int, method: str, limit: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of one way over its iterations, without those of the control."""
    mine = data.entry == index
    chosen = mine & data.expected
    sent = chosen & (data.latency_ns > 0)
    reasons, times = np.unique(data.exit_reason[mine & ~data.expected], return_counts=True)
    judged = _is_judged(method, limit)
    return {
        "round_trip_ns": _spread(data.round_trip_ns[chosen]),
        "estimates": {
            "round_trip_p50_ns": level_estimate(rounds.process, rounds.median_ns[:, index]),
            "round_trip_mean_ns": level_estimate(rounds.process, rounds.mean_ns[:, index]),
        },
        "work": _spread(data.work[chosen].astype(np.float64)),
        "latency_ns": named_quantiles(data.latency_ns[sent], QUANTILES, maximum=True),
        "latency_ci95": named_intervals(
            data.latency_ns[sent], data.row[sent], data.round_process, QUANTILES
        ),
        "n": int(chosen.sum()),
        "unexpected": {
            str(reason): int(count) for reason, count in zip(reasons, times, strict=True)
        },
        "injected": int((chosen & data.injected).sum()),
        "lost": int((chosen & data.lost).sum()),
        "doubled": int((chosen & data.doubled).sum()),
        "judged": int(chosen.sum()) if judged else 0,
        "late": int((chosen & (data.work > limit["at_once_turns"])).sum()) if judged else None,
    }


def _spread(values: Floats) -> dict[str, float | None]:
    """The quantiles, and the plain mean of all values."""
    found = named_quantiles(values, QUANTILES, maximum=True)
    return {**found, "mean": number(values.mean()) if len(values) else None}


def _differences(rounds: NestedRounds, entry: int, baseline: int) -> list[Floats]:
    values = rounds.median_ns
    return by_process(rounds.process, values[:, entry] - values[:, baseline])


def _contrast(
    rounds: NestedRounds, methods: list[str], entry: int, baseline: int, metric: str
) -> dict[str, Any]:
    differences = _differences(rounds, entry, baseline)
    return {
        "method": methods[entry],
        "baseline": methods[baseline],
        "metric": metric,
        **contrast(contrast_interval(differences), count_values(differences), len(rounds.process)),
    }


def _findings(data: Nested, record: CaseRecord, limit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The faults by way. The control's iterations count as the baseline's."""
    entry = merge_control(data.entry, record)
    late = data.work > (limit["at_once_turns"] or 0)
    found = []
    for index, method in enumerate(record.parameters["methods"]):
        chosen = (entry == index) & data.expected
        faults = {"lost": data.lost, "doubled": data.doubled}
        if _is_judged(method, limit):
            faults["late"] = late
        for what, happened in faults.items():
            if count := int((chosen & happened).sum()):
                found.append(
                    {
                        "method": method,
                        "what": what,
                        "count": count,
                        "of": int(chosen.sum()),
                        "race_free_claim": None,
                    }
                )
    return found
