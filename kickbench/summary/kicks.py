# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind kick, and of the kicks beside exits.

A lost kick has no latency, only the time-out for which its rescue waited. A kick that found the
vCPU in another state than the wanted one answers another question. Both are counted, and neither is
in a latency. "findings" collects all faults in one place, for ``show`` and the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import CaseRecord, RunReader
from kickbench.scenario.kinds import MAX_KICKERS, moment_name, state_name
from kickbench.stats.proportions import clopper_pearson
from kickbench.summary.events import (
    CHUNK_KICKS,
    claims_of,
    compare_events,
    count_findings,
    latency_differences,
    merge_control,
    named_intervals,
    named_quantiles,
    read_rows,
    totals_of,
)
from kickbench.summary.shared import (
    CONFIDENCE,
    Controls,
    Floats,
    Ints,
    by_process,
    contrast,
    contrast_interval,
    count_values,
    level_estimate,
    precision,
    ratio,
)

LATENCY_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
MIN_SEEN = 0.9
"""The share of kicks in which a moment must have been seen, for its phases to be in the summary."""

PHASE_QUANTILES = {"p50": 0.5, "p99": 0.99}
SEND_QUANTILES = {"p50": 0.5, "p99": 0.99}


SLOW_TIMES = 10
"""A kick is slow if it takes this many times the median of the case's fastest method."""

SLOW_EXCESS = 3
"""A method has slow kicks of its own if their share is surely this many times that of the method
with the fewest. If the kicks of all methods are delayed alike, the cause is the host."""

SLOW_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


@dataclass(frozen=True)
class Kicks:
    """Every kick of a case. :func:`~kickbench.summary.shared.entry_index` explains ``entry``.

    ``row`` is the place of a kick's round in ``round_process``, which has the process of each round
    of the case in time order. ``delivery_ns``, ``returned_ns`` and ``resumed_ns`` are 0 if that
    moment was not seen. ``signals`` is the number that the kicker's call sent. ``contending`` means
    that a kick of the same volley at this vCPU met the wanted state. So this kick was sent at that
    state too, whether another kicker got the vCPU out first or not. ``overlapping`` means that
    another call of the volley was under way on another CPU.
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
        """The kicks whose call counts. Its cost does not depend on which kicker came first."""
        return np.asarray(self.contending & ~self.lost)


def read_kicks(reader: RunReader, case_id: str) -> Kicks:
    """Every kick of a finished case of the kind kick, in ns."""
    phases = ("send", "delivery", "returned", "latency", "resumed")
    times = ("at_cycles", *(f"{phase}_cycles" for phase in phases))
    columns = ("position", "vcpu", "volley", "cpu", "met", "lost", "signals", *times)
    rounds, row, entry, scale, found = read_rows(reader, reader.case(case_id), "kicks", columns)
    volley = index_volleys(row, *(found[name] for name in ("position", "vcpu", "volley")))
    # In runs that do not have the column, the latency ended when KVM_RUN returned.
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
    """Per kick the number of its volley: the kicks that were due at one moment at one vCPU.

    ``row`` and ``position`` identify the block. A kick whose volley is not known (-1) has a volley
    of its own.
    """
    keys = (volley, vcpu, position, row)
    order = np.lexsort(keys)
    begins = volley[order] < 0  # where a volley begins
    begins[:1] = True
    for key in keys:
        begins[1:] |= np.diff(key[order]) != 0
    result = np.empty(len(volley), np.intp)
    result[order] = np.cumsum(begins) - 1
    return result


def find_contending(volley: NDArray[np.intp], met: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The kicks in whose volley at least one met the wanted state."""
    return np.asarray(np.bincount(volley, met)[volley] > 0) if len(volley) else met


def find_overlapping(
    volley: NDArray[np.intp],
    cpu: NDArray[Any],
    at_cycles: NDArray[Any],
    send_cycles: NDArray[Any],
) -> NDArray[np.bool_]:
    """The kicks during whose call another of their volley was under way, on another CPU.

    On the same CPU, a kicker was preempted within its call by the other, so the calls did not
    contend. A volley has one kick of each kicker. In a damaged one with more, each kick is compared
    with its MAX_KICKERS neighbours only.
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


def describe_kicks(parameters: Mapping[str, Any]) -> list[str]:
    """The words about kicks in the title of a case; none for exits without kicks."""
    kind, rate = parameters["kind"], parameters.get("kick_rate_hz")
    words = []
    if kind == "exits" and rate is not None:
        words.append(f"{rate:,.10g} kicks/s per vCPU")
    elif kind == "kick":
        words.append(f"kicked {state_name(parameters.get('state'))}")
        kickers = parameters.get("kickers", 1)
        if kickers > 1:
            words.append(f"{kickers} kickers")
    elif kind == "pause_all":
        words.append("pause all")
    elif kind == "race":
        width = parameters.get("window_ns")
        words.append(f"race, window {width:,.10g} ns" if width else "race, natural window")
    elif kind == "lifecycle":
        words.append(f"kicked {moment_name(parameters.get('moment'))}")
    transport = parameters.get("transport", "tgkill")
    if words and transport != "tgkill":
        words.append(f"by {transport}")
    return words


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
    fill, controls = compare_events(record, kicks, kicks.latency_ns, metrics, baseline)
    fill["contrasts"] += _compare_sends(record, kicks)
    timeouts = [p.get("lost_timeout_ns") for p in (record.document or {})["processes"]]
    return {
        "methods": statistics,
        **fill,
        **precision(record.parameters, fill["contrasts"], {"latency_p50_ns": baseline}),
        "findings": findings,
        "timeout_ns": max((t for t in timeouts if t is not None), default=None),
    }, controls


def count_kicks(
    reader: RunReader, record: CaseRecord
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The counts of kicks per method, without the controls; and the findings, with them.

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
    return counts, count_findings(methods, claims, in_all, ("lost", "spurious"))


def _phases(kicks: Kicks, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """The phases of kicks; each is null unless both its ends were seen for nearly all kicks.

    If a protocol takes many kicks by a look at the flag, those with a handler are the slow ones.
    Their phases would not belong to the latencies beside them.
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
    """Per method its slow kicks, which can be a second mode that no median shows.

    ``n`` is their number and ``ns`` the time that they took. They are the method's ``own`` if they
    are less frequent with another method, because the cause is then not the host.
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
