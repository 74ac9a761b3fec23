# SPDX-License-Identifier: Apache-2.0
"""The summaries of the kinds that kick: kick latency, pause-all, race, and kicks beside exits.

A kick that was lost has no latency, only the time-out that its rescue waited for, and a kick that
met another state than the wanted one answers another question. Both are counted, and neither is in
a latency figure; the same holds for a pause that needed a rescue. Which words to use for what was
found is for ``show`` and the report; "findings" has it in one place for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.methods import method_label
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.scenario.kinds import MAX_KICKERS
from kickbench.stats.chunks import group_quantiles, paired_quantiles
from kickbench.stats.proportions import clopper_pearson, upper_bound
from kickbench.stats.quantiles import bin_samples, quantile_intervals, sample_quantiles
from kickbench.summary.shared import (
    CONFIDENCE,
    WHO,
    Control,
    Controls,
    Floats,
    Ints,
    bounds,
    by_process,
    contrast,
    contrast_interval,
    control_entries,
    control_interval,
    count_entries,
    count_values,
    entry_index,
    index_rounds,
    level_estimate,
    ns_per_cycle,
    number,
    precision,
    ratio,
)

LATENCY_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
PAUSE_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
MIN_SEEN = 0.9
"""The share of kicks in which a moment must have been seen for the phases to it to be told."""

PHASE_QUANTILES = {"p50": 0.5, "p99": 0.99}
SEND_QUANTILES = {"p50": 0.5, "p99": 0.99}

CHUNK_KICKS = {"latency_p50_ns": 10, "latency_p99_ns": 200, "send_p50_ns": 10}
"""Kicks that a method and the baseline each need for one paired difference of the metric: rounds
with fewer are pooled with those that follow."""

SLOW_TIMES = 10
"""A kick is slow that takes so many times the median of the case's fastest method."""

SLOW_EXCESS = 3
"""A method has slow kicks of its own when their share is surely so many times that of the method
which has the fewest: what delays kicks of all methods alike is the host."""

SLOW_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}

MIN_BEYOND = 10
"""Values that must lie beyond a quantile for it to have an interval."""

MAX_GROUPS = 1000
"""Groups of consecutive rounds in all, for the interval of a quantile; bounds its memory."""

# Edges of the bins for intervals: even below p75, then ever narrower up to the largest value.
_LEVELS = np.concatenate([np.linspace(0, 0.75, 256), 1 - np.geomspace(0.25, 1e-7, 768)])

_STATES = {
    "guest": "kicked in the guest",
    "halted": "kicked while halted",
    "userspace": "kicked in userspace",
    "storm": "kicked while exiting at full speed",
}


@dataclass(frozen=True)
class Kicks:
    """Every kick of a case. ``entry``: see :func:`~kickbench.summary.shared.entry_index`.

    ``row`` is the place of a kick's round in ``round_process``, which has the process of each round
    of the case in time order. ``delivery_ns``, ``returned_ns`` and ``resumed_ns`` are 0 where that
    moment was not seen. ``signals`` is how many the kicker's call sent. ``contending``: one
    of the kicks of the volley at this vCPU met the wanted state, so that this one, too, was sent at
    it, whether another kicker got it out first or not. ``overlapping``: meanwhile another of them
    was called on another CPU.
    """

    round_process: Ints
    row: NDArray[np.intp]
    entry: Ints
    met: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    contending: NDArray[np.bool_]
    overlapping: NDArray[np.bool_]
    send_ns: Floats
    delivery_ns: Floats
    returned_ns: Floats
    latency_ns: Floats
    resumed_ns: Floats
    signals: Ints

    @property
    def timed(self) -> NDArray[np.bool_]:
        """The kicks whose latency counts: they met the wanted state and were not lost."""
        return np.asarray(self.met & ~self.lost)

    @property
    def sent(self) -> NDArray[np.bool_]:
        """The kicks whose call counts: what it costs to send them does not depend on who of several
        kickers came first.
        """
        return np.asarray(self.contending & ~self.lost)


@dataclass(frozen=True)
class Pauses:
    """Every pause of a case; ``row``, ``round_process`` and ``entry`` as for :class:`Kicks`."""

    round_process: Ints
    row: NDArray[np.intp]
    entry: Ints
    rescues: Ints
    send_ns: Floats
    first_ns: Floats
    median_ns: Floats
    last_ns: Floats

    @property
    def timed(self) -> NDArray[np.bool_]:
        """The pauses that count: no vCPU had to be rescued."""
        return np.asarray(self.rescues == 0)


@dataclass(frozen=True)
class RoundMedians:
    """Per round (rows, time order) the median of each entry (columns: methods, control, placebo).

    NaN, and 0 in ``count``, where there was nothing that counts.
    """

    process: Ints
    median_ns: Floats
    count: Ints


def read_kicks(reader: RunReader, case_id: str) -> Kicks:
    """Every kick of a finished case of the kind kick, in ns."""
    phases = ("send", "delivery", "returned", "latency", "resumed")
    times = ("at_cycles", *(f"{phase}_cycles" for phase in phases))
    columns = ("position", "vcpu", "volley", "cpu", "met", "lost", "signals", *times)
    rounds, row, entry, scale, found = read_rows(reader, reader.case(case_id), "kicks", columns)
    volley = index_volleys(row, *(found[name] for name in ("position", "vcpu", "volley")))
    # Of runs in which that is not known the latency ended when KVM_RUN returned.
    returned = np.where(
        found["returned_cycles"] < 0, found["latency_cycles"], found["returned_cycles"]
    )
    return Kicks(
        round_process=rounds,
        row=row,
        entry=entry,
        met=found["met"],
        lost=found["lost"],
        contending=find_contending(volley, found["met"]),
        overlapping=find_overlapping(
            volley, found["cpu"], found["at_cycles"], found["send_cycles"]
        ),
        send_ns=found["send_cycles"] * scale,
        delivery_ns=found["delivery_cycles"] * scale,
        returned_ns=returned * scale,
        latency_ns=found["latency_cycles"] * scale,
        resumed_ns=found["resumed_cycles"] * scale,
        signals=found["signals"].astype(np.int64),
    )


def index_volleys(
    row: NDArray[np.intp], position: NDArray[Any], vcpu: NDArray[Any], volley: NDArray[Any]
) -> NDArray[np.intp]:
    """Per kick a number that those have in common which were due at one moment at one vCPU.

    ``row`` and ``position`` say in which block. A kick of which that is not known (-1) is alone.
    """
    keys = (volley, vcpu, position, row)
    order = np.lexsort(keys)
    begins = volley[order] < 0  # a volley
    begins[:1] = True
    for key in keys:
        begins[1:] |= np.diff(key[order]) != 0
    result = np.empty(len(volley), np.intp)
    result[order] = np.cumsum(begins) - 1
    return result


def find_contending(volley: NDArray[np.intp], met: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The kicks of whose volley any met the wanted state."""
    return np.asarray(np.bincount(volley, met)[volley] > 0) if len(volley) else met


def find_overlapping(
    volley: NDArray[np.intp],
    cpu: NDArray[Any],
    at_cycles: NDArray[Any],
    send_cycles: NDArray[Any],
) -> NDArray[np.bool_]:
    """The kicks during whose call another of their volley was under way, on another CPU.

    On the same one, that is the call of a kicker that was preempted within it, or preempted ours.
    A volley has a kick of each kicker: of one with more, which is damaged, each kick is seen
    against its MAX_KICKERS neighbours only.
    """
    begin = at_cycles.astype(np.int64)
    end = begin + send_cycles.astype(np.int64)
    order = np.lexsort((begin, volley))
    volley, cpu, begin, end = volley[order], cpu[order], begin[order], end[order]
    found = np.zeros(len(volley), np.bool_)
    for step in range(1, min(len(volley), MAX_KICKERS + 1)):
        pair = np.flatnonzero(volley[step:] == volley[:-step])
        if not len(pair):
            break
        apart = (cpu[pair] != cpu[pair + step]) & (np.minimum(cpu[pair], cpu[pair + step]) >= 0)
        pair = pair[apart & (begin[pair + step] < end[pair])]
        found[pair] = found[pair + step] = True
    result = np.empty_like(found)
    result[order] = found
    return result


def read_pauses(reader: RunReader, case_id: str) -> Pauses:
    """Every pause of a finished case of the kind pause_all, in ns."""
    columns = ("rescues", "send_cycles", "first_cycles", "median_cycles", "last_cycles")
    rounds, row, entry, scale, found = read_rows(reader, reader.case(case_id), "pauses", columns)
    return Pauses(
        round_process=rounds,
        row=row,
        entry=entry,
        rescues=found["rescues"].astype(np.int64),
        send_ns=found["send_cycles"] * scale,
        first_ns=found["first_cycles"] * scale,
        median_ns=found["median_cycles"] * scale,
        last_ns=found["last_cycles"] * scale,
    )


def read_round_medians(reader: RunReader, case_id: str) -> RoundMedians:
    """The medians per round of a finished case: of kick latency, or of the pause's last vCPU."""
    record = reader.case(case_id)
    n_entries = count_entries(record.parameters["methods"])
    if record.parameters["kind"] == "kick":
        kicks = read_kicks(reader, case_id)
        return _round_medians(kicks, kicks.latency_ns, n_entries)
    pauses = read_pauses(reader, case_id)
    return _round_medians(pauses, pauses.last_ns, n_entries)


def describe_kicks(parameters: Mapping[str, Any]) -> list[str]:
    """What the title of a case says about its kicks; nothing for exits without any."""
    kind, rate = parameters["kind"], parameters.get("kick_rate_hz")
    words = []
    if kind == "exits" and rate is not None:
        words.append(f"{rate:,.10g} kicks/s per vCPU")
    elif kind == "kick":
        state = str(parameters.get("state"))
        words.append(_STATES.get(state, f"kicked in the state {state}"))
        kickers = parameters.get("kickers", 1)
        if kickers > 1:
            words.append(f"{kickers} kickers")
    elif kind == "pause_all":
        words.append("pause all")
    elif kind == "race":
        width = parameters.get("window_ns")
        words.append(f"race, window {width:,.10g} ns" if width else "race, natural window")
    transport = parameters.get("transport", "tgkill")
    if words and transport != "tgkill":
        words.append(f"by {transport}")
    return words


# --- one summariser a kind ---------------------------------------------------------------------


def summarise_kicks(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind kick adds to its summary."""
    methods: list[str] = record.parameters["methods"]
    kicks = read_kicks(reader, record.id)
    counts, findings = count_kicks(reader, record)
    statistics: dict[str, dict[str, Any]] = {}
    for index, method in enumerate(methods):
        of_method = kicks.entry == index
        chosen = of_method & kicks.timed
        sent = of_method & kicks.sent
        count = counts[method]
        statistics[method] = {
            "latency_ns": named_quantiles(
                kicks.latency_ns[chosen], LATENCY_QUANTILES, maximum=True
            ),
            "latency_ci95": named_intervals(
                kicks.latency_ns[chosen], kicks.row[chosen], kicks.round_process, LATENCY_QUANTILES
            ),
            "phases_ns": _phases(kicks, chosen),
            "send_ns": named_quantiles(kicks.send_ns[sent], SEND_QUANTILES, maximum=True),
            "send_ci95": named_intervals(
                kicks.send_ns[sent], kicks.row[sent], kicks.round_process, SEND_QUANTILES
            ),
            "sends": {
                "n": int(sent.sum()),
                "overlapping": ratio(int((sent & kicks.overlapping).sum()), int(sent.sum())),
            },
            "estimates": {
                "send_mean_ns": level_estimate(kicks.round_process, _send_means(kicks, index))
            },
            "n": int(chosen.sum()),
            "unmet": int((of_method & ~kicks.met & ~kicks.lost).sum()),
            "resent": int((of_method & (kicks.signals > 1)).sum()),
            **{name: count[name] for name in ("lost", "spurious", "sent", "race_free_claim")},
        }
    for method, slow in zip(methods, _slow_kicks(kicks, len(methods)), strict=True):
        statistics[method]["slow"] = slow
    baseline = statistics[record.parameters["baseline"]]["latency_ns"]["p50"]
    metrics = {"latency_p50_ns": 0.5, "latency_p99_ns": 0.99}
    fill, controls = _compare(record, kicks, kicks.latency_ns, metrics, baseline)
    fill["contrasts"] += _compare_sends(record, kicks)
    timeouts = [p.get("lost_timeout_ns") for p in (record.document or {})["processes"]]
    return {
        "methods": statistics,
        **fill,
        **precision(record.parameters, fill["contrasts"], {"latency_p50_ns": baseline}),
        "findings": findings,
        "timeout_ns": max((t for t in timeouts if t is not None), default=None),
    }, controls


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
                name: named_quantiles(getattr(pauses, name)[chosen], PAUSE_QUANTILES, maximum=True)
                for name in ("first_ns", "median_ns", "last_ns", "send_ns")
            },
            "last_ci95": named_intervals(
                pauses.last_ns[chosen], pauses.row[chosen], pauses.round_process, PAUSE_QUANTILES
            ),
            "n": int(chosen.sum()),
            "rescued": int((of_method & ~pauses.timed).sum()),
            "rescues": int(pauses.rescues[of_method].sum()),
            "race_free_claim": claims.get(method),
        }
    baseline = statistics[record.parameters["baseline"]]["last_ns"]["p50"]
    fill, controls = _compare(record, pauses, pauses.last_ns, {"pause_last_ns": 0.5}, baseline)
    entry = merge_control(pauses.entry, record)
    totals = {
        "rescued": totals_of(entry, ~pauses.timed, len(methods)),
        "sent": totals_of(entry, np.ones(len(entry)), len(methods)),
    }
    return {
        "methods": statistics,
        **fill,
        **precision(record.parameters, fill["contrasts"], {"pause_last_ns": baseline}),
        "findings": _findings(methods, claims, totals, ("rescued",)),
    }, controls


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
    statistics: dict[str, dict[str, Any]] = {}
    for index, method in enumerate(methods):
        count = {name: totals[name][index] for name in names}
        # What runs of schema 1 counted had mostly no chance to be lost.
        landed = count["landed"] if reader.schema > 1 and count["landed"] >= 0 else None
        seen = longest[(entry == index) & (found["latency_max_cycles"] > 0)]
        statistics[method] = {
            **count,
            "landed": landed,
            **_proportions(count["lost"], landed, count["spurious"], count["sent"]),
            "latency_max_ns": _longest(seen),
            "race_free_claim": claims.get(method),
        }
    return {
        "methods": statistics,
        "findings": _findings(methods, claims, totals, ("lost", "spurious")),
        "timeout_ns": _longest(timeouts[later] if later.any() else timeouts),
        "first_timeout_ns": _longest(timeouts[~later]) if later.any() else None,
    }, ()


def count_kicks(
    reader: RunReader, record: CaseRecord
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The table kick_blocks per method, without the controls' blocks; and the findings, with them.

    Per method: sent, met, lost, spurious, per_second (kicks sent), race_free_claim.
    """
    methods: list[str] = record.parameters["methods"]
    claims = claims_of(record)
    names = ("sent", "met", "lost", "spurious")
    _, _, entry, scale, found = read_rows(reader, record, "kick_blocks", (*names, "elapsed_cycles"))
    totals = {name: totals_of(entry, found[name], len(methods)) for name in names}
    seconds = [
        float((found["elapsed_cycles"] * scale)[entry == index].sum()) / 1e9
        for index in range(len(methods))
    ]
    counts: dict[str, dict[str, Any]] = {
        method: {
            **{name: totals[name][index] for name in names},
            "per_second": ratio(totals["sent"][index], seconds[index]),
            "race_free_claim": claims.get(method),
        }
        for index, method in enumerate(methods)
    }
    merged = merge_control(entry, record)
    in_all = {name: totals_of(merged, found[name], len(methods)) for name in names}
    return counts, _findings(methods, claims, in_all, ("lost", "spurious"))


# --- reading -----------------------------------------------------------------------------------


def read_rows(
    reader: RunReader, record: CaseRecord, name: str, columns: Sequence[str]
) -> tuple[Ints, NDArray[np.intp], Ints, Floats, dict[str, NDArray[Any]]]:
    """A table as arrays: process per round, and per row: round, entry, ns per cycle, columns."""
    parameters = record.parameters
    table = reader.table(record.id, name, ["process", "round", *WHO, *columns])
    process = table.column("process").to_numpy().astype(np.int64)
    round_process, row = index_rounds(process, table.column("round").to_numpy().astype(np.int64))
    entry = entry_index(table, parameters["methods"], parameters["baseline"])
    scale = ns_per_cycle(record.document or {}, process)
    arrays = {column: table.column(column).to_numpy() for column in columns}
    return round_process, row, entry, scale, arrays


def claims_of(record: CaseRecord) -> dict[str, bool | None]:
    """What the catalogue said of each method when it was measured: is it free of races?"""
    claims: dict[str, bool | None] = (record.document or {}).get("claims", {})
    return {method_label(method): claim for method, claim in claims.items()}


def merge_control(entry: Ints, record: CaseRecord) -> Ints:
    """The rows of control and placebo as what they are, the baseline's: a kick that one of them
    lost is no less lost.
    """
    methods: list[str] = record.parameters["methods"]
    return np.where(entry >= len(methods), methods.index(record.parameters["baseline"]), entry)


def totals_of(entry: Ints, values: NDArray[Any], n_methods: int) -> list[int]:
    known = (entry >= 0) & (entry < n_methods)
    sums = np.bincount(entry[known], values[known].astype(np.float64), minlength=n_methods)
    return [int(value) for value in sums]


# --- figures -----------------------------------------------------------------------------------


def named_quantiles(
    values: Floats, levels: Mapping[str, float], *, maximum: bool = False
) -> dict[str, float | None]:
    """The quantiles by name, each a value that occurred; null without any."""
    names = [*levels, "max"] if maximum else list(levels)
    if not len(values):
        return dict.fromkeys(names)
    found = sample_quantiles(values, [*levels.values(), 1.0])
    return {name: number(value) for name, value in zip(names, found, strict=False)}


def _phases(kicks: Kicks, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """The phases of kicks; each null unless both its ends were seen for nearly all.

    Where many kicks are taken by a look at the flag, those that a handler ran for are the slow
    ones: their phases would not be those of the latencies beside them.
    """
    delivery, returned = kicks.delivery_ns[chosen], kicks.returned_ns[chosen]
    latency, resumed = kicks.latency_ns[chosen], kicks.resumed_ns[chosen]
    handled = (delivery > 0) & (delivery <= returned)

    def phase(values: Floats, seen: NDArray[np.bool_]) -> dict[str, float | None] | None:
        enough = len(seen) > 0 and seen.mean() >= MIN_SEEN
        return named_quantiles(values[seen], PHASE_QUANTILES) if enough else None

    return {
        "send": named_quantiles(kicks.send_ns[chosen], PHASE_QUANTILES),
        "delivery": phase(delivery, handled),
        "return": phase(returned - delivery, handled),
        "returned": phase(returned, returned > 0),
        "know": phase(latency - returned, returned > 0),
        "resumed": phase(resumed, resumed > 0),
    }


def _slow_kicks(kicks: Kicks, n_methods: int) -> list[dict[str, Any]]:
    """Per method its kicks of another order of magnitude, a second mode that no median shows.

    ``n`` of them, what they took, and whether they are the method's ``own``: not as frequent with
    another method, and so not the host's.
    """
    latencies = [kicks.latency_ns[kicks.timed & (kicks.entry == i)] for i in range(n_methods)]
    medians = [float(np.median(values)) for values in latencies if len(values)]
    limit = SLOW_TIMES * min(medians, default=0.0)
    slow = [values[values > limit] for values in latencies]
    shares = {
        index: clopper_pearson(len(slow[index]), len(values), confidence=CONFIDENCE)
        for index, values in enumerate(latencies)
        if len(values)
    }
    fewest = min((share.high for share in shares.values()), default=1.0)
    return [
        {
            "n": len(some),
            "ns": named_quantiles(some, SLOW_QUANTILES),
            "own": index in shares and shares[index].low > SLOW_EXCESS * fewest,
        }
        for index, some in enumerate(slow)
    ]


def named_intervals(
    values: Floats, row: NDArray[np.intp], round_process: Ints, levels: Mapping[str, float]
) -> dict[str, list[float] | None]:
    """The 95 % intervals of quantiles; null with fewer than MIN_BEYOND values on its rarer side.

    The interval is computed on bins; its deviations are put around the exact quantile.
    """
    wanted = {
        name: p for name, p in levels.items() if len(values) * min(p, 1 - p) >= MIN_BEYOND - 1e-9
    }
    result: dict[str, list[float] | None] = dict.fromkeys(levels)
    groups, group = np.unique(_groups(round_process)[row], return_inverse=True)
    if not wanted or len(groups) < 2:
        return result
    low, high, counts = bin_samples(values, group, len(groups), levels=_LEVELS)
    probabilities = list(wanted.values())
    intervals = quantile_intervals(
        low, high, counts, groups >> 32, probabilities, confidence=CONFIDENCE, seed=1
    )
    exact = sample_quantiles(values, probabilities)
    for name, interval, value in zip(wanted, intervals, exact, strict=True):
        found = bounds(interval)
        if found is not None:
            shift = float(value) - interval.estimate
            result[name] = [max(0.0, found[0] + shift), found[1] + shift]
    return result


def _groups(round_process: Ints) -> Ints:
    """Per round its group, process * 2^32 + number: consecutive rounds of one process."""
    _, start, place, size = np.unique(
        round_process, return_index=True, return_inverse=True, return_counts=True
    )
    local = np.arange(len(round_process)) - start[place]
    groups = np.minimum(size, max(1, MAX_GROUPS // max(1, len(size))))
    return round_process * 2**32 + local * groups[place] // size[place]


def latency_differences(
    data: Kicks | Pauses,
    values: Floats,
    entry: int,
    baseline: int,
    probability: float,
    at_least: int,
    of: NDArray[np.bool_] | None = None,
) -> tuple[list[Floats], int]:
    """Per process the paired differences of a quantile, entry - baseline, in time order.

    A difference is of a round, or of as many consecutive rounds as give both sides ``at_least``
    values (:mod:`kickbench.stats.chunks`). A process with fewer than two is left out, for a single
    value has no spread. The second result is the number of rounds that went in. ``of`` says which
    values count; by default those that are timed.
    """
    counted = data.timed if of is None else of
    edges = np.append(np.unique(data.round_process, return_index=True)[1], len(data.round_process))
    sides = []
    for wanted in (entry, baseline):
        chosen = np.flatnonzero(counted & (data.entry == wanted))
        chosen = chosen[np.argsort(data.row[chosen], kind="stable")]
        row = data.row[chosen]
        sides.append((values[chosen], row, np.searchsorted(row, edges)))
    (value_a, row_a, cut_a), (value_b, row_b, cut_b) = sides
    differences, used = [], 0
    for i, (first, end) in enumerate(itertools.pairwise(edges)):
        a, b = slice(cut_a[i], cut_a[i + 1]), slice(cut_b[i], cut_b[i + 1])
        found = paired_quantiles(
            value_a[a],
            row_a[a] - first,
            value_b[b],
            row_b[b] - first,
            int(end - first),
            probability,
            at_least=at_least,
        )
        if len(found) > 1:
            differences.append(found)
            used += int(end - first)
    return differences, used


def _compare(
    record: CaseRecord,
    data: Kicks | Pauses,
    values: Floats,
    metrics: Mapping[str, float],
    level_ns: float | None,
) -> tuple[dict[str, Any], Controls]:
    """The contrasts of every method with the baseline, which takes ``level_ns``; those of control
    and placebo are of the first metric.
    """
    methods: list[str] = record.parameters["methods"]
    baseline = methods.index(record.parameters["baseline"])
    n_rounds = len(data.round_process)

    def differences(entry: int, metric: str) -> tuple[list[Floats], int]:
        return latency_differences(
            data, values, entry, baseline, metrics[metric], CHUNK_KICKS.get(metric, 1)
        )

    contrasts = []
    for index, method in enumerate(methods):
        if index == baseline:
            continue
        for metric in metrics:
            found, used = differences(index, metric)
            interval, chunks = contrast_interval(found), count_values(found)
            contrasts.append(
                {
                    "method": method,
                    "baseline": methods[baseline],
                    "metric": metric,
                    **contrast(interval, used, n_rounds, chunks=chunks),
                }
            )
    metric = next(iter(metrics))
    fill: dict[str, Any] = {"contrasts": contrasts}
    controls: list[Control] = []
    for index, role in control_entries(methods).items():
        found, used = differences(index, metric)
        if not found and role != "control":
            continue
        interval = control_interval(found, CONFIDENCE)
        fill[role] = {
            "metric": metric,
            **contrast(interval, used, n_rounds, chunks=count_values(found)),
            "ci_family": None,
            "ok": None,
        }
        controls.append(Control(fill[role], found, level_ns))
    return fill, controls


def _send_means(kicks: Kicks, entry: int) -> Floats:
    """Per round the mean of an entry's calls; NaN without any."""
    chosen = kicks.sent & (kicks.entry == entry)
    rows, n_rounds = kicks.row[chosen], len(kicks.round_process)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.bincount(rows, kicks.send_ns[chosen], n_rounds) / np.bincount(rows, None, n_rounds)
        )


def _compare_sends(record: CaseRecord, kicks: Kicks) -> list[dict[str, Any]]:
    """The contrasts of the kicker's call: of its median by chunks, of its mean by rounds."""
    methods: list[str] = record.parameters["methods"]
    baseline = methods.index(record.parameters["baseline"])
    n_rounds = len(kicks.round_process)
    contrasts = []
    for index, method in enumerate(methods):
        if index == baseline:
            continue
        medians, used = latency_differences(
            kicks, kicks.send_ns, index, baseline, 0.5, CHUNK_KICKS["send_p50_ns"], kicks.sent
        )
        means = by_process(
            kicks.round_process, _send_means(kicks, index) - _send_means(kicks, baseline)
        )
        for metric, found, rounds, chunks in (
            ("send_p50_ns", medians, used, count_values(medians)),
            ("send_mean_ns", means, count_values(means), None),
        ):
            contrasts.append(
                {
                    "method": method,
                    "baseline": methods[baseline],
                    "metric": metric,
                    **contrast(contrast_interval(found), rounds, n_rounds, chunks=chunks),
                }
            )
    return contrasts


def _longest(values: Floats) -> float | None:
    return number(values.max()) if len(values) else None


def _proportions(lost: int, landed: int | None, spurious: int, sent: int) -> dict[str, Any]:
    """Exact bounds, of the kicks lost per kick that could have been, of spurious exits per kick
    sent; null when there was none, or when that is not known.

    A flag that nobody clears can make more spurious exits than there were kicks: then they are no
    proportion of them, and their interval is null.
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


def _findings(
    methods: Sequence[str],
    claims: Mapping[str, bool | None],
    totals: Mapping[str, list[int]],
    faults: Sequence[str],
) -> list[dict[str, Any]]:
    """Every fault that occurred, by method: what, how often, of how many, against which claim."""
    return [
        {
            "method": method,
            "what": what,
            "count": totals[what][index],
            "of": totals["sent"][index],
            "race_free_claim": claims.get(method),
        }
        for index, method in enumerate(methods)
        for what in faults
        if totals[what][index] > 0
    ]


def _round_medians(data: Kicks | Pauses, values: Floats, n_entries: int) -> RoundMedians:
    chosen = data.timed & (data.entry >= 0)
    cell = data.row[chosen] * n_entries + data.entry[chosen]
    shape = (len(data.round_process), n_entries)
    return RoundMedians(
        data.round_process,
        group_quantiles(values[chosen], cell, shape[0] * n_entries, 0.5).reshape(shape),
        np.bincount(cell, minlength=shape[0] * n_entries).reshape(shape),
    )
