# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind observed: what a running VMM did, seen from outside.

Every exit is counted, but reasons and times are those of the exits that were looked at closely. So
the counts by reason are scaled up to all exits of their vCPU. If everything was looked at, they are
exact.

A pause is a burst of one sender's kicks that reaches every vCPU. With one vCPU it cannot be told
from another kick, and none is counted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.cpu_list import parse_cpu_list
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.tables import LARGEST
from kickbench.stats.contrasts import running_interval
from kickbench.stats.location import huber
from kickbench.stats.quantiles import histogram_quantiles
from kickbench.summary.events import named_intervals, named_quantiles
from kickbench.summary.shared import Controls, Floats, Ints, bounds, number, ratio

FIGURES = ("gap_ns", "userspace_ns", "in_run_ns")
"""The distributions, by their numbers in the table observed_times."""
STATES = ("userspace", "running", "halted", "waiting")
"""What a vCPU did when it was kicked, by its number in the table observed_kicks."""
REASONS = {
    2: "io",
    3: "hypercall",
    5: "halt",
    6: "mmio",
    7: "irq_window",
    8: "shutdown",
    9: "fail_entry",
    10: "interrupted",
    17: "internal_error",
    24: "system_event",
    26: "ioapic_eoi",
    27: "hyperv",
    28: "arm_nisv",
    29: "rdmsr",
    30: "wrmsr",
    31: "dirty_ring",
    34: "xen",
    36: "notify",
    39: "memory_fault",
}
"""KVM's exit reasons (linux/kvm.h) by number. Others have their number as their name."""
_ERRORS = 1 << 16
EINTR = _ERRORS + 4

_COMPARED = {"p50": 0.5, "p99": 0.99}
_LEVELS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PAUSE_ENDS = ("first", "median", "last")
"""A pause has a time until each of these vCPUs answered."""
PAUSE_GAP_NS = 1_000_000
"""The longest time between two kicks of a pause."""
MOST_WAYS = 100
"""Ways to leave in the summary; the table has all."""
_BLOCKS = 3
"""States of a block: nothing was observed, counted, times too."""
_LEAST_EXITS = 200
"""Exits of a block without observing, below which its rate says nothing about the cost."""


def summarise_observed(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind observed adds to its summary."""
    facts: dict[str, Any] = (record.document or {})["observed"]
    protocol: str = record.parameters["baseline"]
    seconds = facts["elapsed_ns"] / 1e9
    kicks = read_columns(reader, record.id, "observed_kicks")
    exits = _exits(reader, record, facts)
    summary = {
        "pid": facts["pid"],
        "vmm": facts["vmm"],
        "guest": facts["guest"],
        "ended": facts["ended"],
        "looked_at_share": facts["detail_ns"] / facts["elapsed_ns"],
        "protocol": facts["protocol"],
        "exits": exits,
        "times": _times(reader, record),
        "kicks": _kicks(kicks, facts, record.parameters["vcpus"]),
        "siglock": facts["siglock"],
        "vcpus_seen": _vcpus(reader, record, facts, seconds),
        "memory_nodes": facts["memory_nodes"],
        "lost_events": sum(facts["lost"].values()),
        "lost": facts["lost"],
        "overhead": _overhead(reader, record, facts),
        "methods": {protocol: _method(reader, record, facts, exits, kicks, seconds)},
    }
    return summary, []


def reason_name(reason: int) -> str:
    """The name of an exit's reason, e.g. "io", "EINTR" or "reason 99"."""
    if reason >= _ERRORS:
        code = reason - _ERRORS
        return {4: "EINTR", 11: "EAGAIN", 14: "EFAULT"}.get(code, f"errno {code}")
    return REASONS.get(reason, f"reason {reason}")


def read_columns(reader: RunReader, case_id: str, name: str) -> dict[str, NDArray[Any]]:
    """The columns of a case's table ``name``."""
    table = reader.table(case_id, name)
    return {column: table.column(column).to_numpy() for column in table.column_names}


# --- exits -------------------------------------------------------------------------------------


def _exits(reader: RunReader, record: CaseRecord, facts: dict[str, Any]) -> dict[str, Any]:
    rows = read_columns(reader, record.id, "observed_ways")
    total = sum(vcpu["exits"] for vcpu in facts["vcpus"])
    # What a vCPU's exits stand for: all of its exits, of those that were looked at.
    scale = np.array([ratio(vcpu["exits"], vcpu["looked_at"]) or 0.0 for vcpu in facts["vcpus"]])
    counts = rows["exits"] * scale[rows["vcpu"]]
    by_reason: dict[str, float] = {}
    for reason, count in zip(rows["reason"].tolist(), counts.tolist(), strict=True):
        name = reason_name(reason)
        by_reason[name] = by_reason.get(name, 0.0) + count
    ways = _merged(rows, counts)
    return {
        "n": total,
        "per_second": total / (facts["elapsed_ns"] / 1e9),
        "looked_at": sum(vcpu["looked_at"] for vcpu in facts["vcpus"]),
        "by_reason": {
            name: round(count) for name, count in sorted(by_reason.items(), key=lambda x: -x[1])
        },
        "ways": ways[:MOST_WAYS],
        "n_ways": len(ways),
    }


def _merged(rows: dict[str, NDArray[Any]], counts: Floats) -> list[dict[str, Any]]:
    """The ways over all vCPUs, the most frequent first."""
    found: dict[tuple[int, bool, int, int], list[float]] = {}
    keys = zip(*(rows[n].tolist() for n in ("reason", "write", "size", "address")), strict=True)
    names = ("timed", "in_run_ns", "handled", "userspace_ns")
    for key, count, *sums in zip(keys, counts, *(rows[name] for name in names), strict=True):
        known = found.setdefault(key, [0.0] * 5)
        for place, value in enumerate((count, *sums)):
            known[place] += float(value)
    total = float(counts.sum()) or math.inf
    return [
        {
            "reason": reason_name(reason),
            "write": write,
            "size": size,
            "address": address,
            "exits": round(count),
            "share": count / total,
            "in_run_ns": ratio(in_run_ns, timed),
            "userspace_ns": ratio(userspace_ns, handled),
        }
        for (reason, write, size, address), (count, timed, in_run_ns, handled, userspace_ns) in (
            sorted(found.items(), key=lambda item: -item[1][0])
        )
    ]


def _times(reader: RunReader, record: CaseRecord) -> dict[str, Any]:
    """The distributions over all vCPUs, by figure."""
    rows = read_columns(reader, record.id, "observed_times")
    found = {}
    for figure, name in enumerate(FIGURES):
        chosen = rows["figure"] == figure
        found[name] = bin_quantiles({key: column[chosen] for key, column in rows.items()})
    return found


def bin_quantiles(rows: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """p50, p90, p99 and the mean of bins, each None without any; and their count."""
    low, high, count = merged_bins(rows)
    total = count.sum()
    if not total:
        return {**dict.fromkeys(_LEVELS), "mean": None, "n": 0}
    values = histogram_quantiles(low, high, count, list(_LEVELS.values()))
    mean = float((count * (low + high) / 2).sum() / total)
    return {
        **{name: number(value) for name, value in zip(_LEVELS, values, strict=True)},
        "mean": mean,
        "n": int(total),
    }


def merged_bins(rows: dict[str, NDArray[Any]]) -> tuple[Floats, Floats, Floats]:
    """The lower and upper edges in ns of the bins of all vCPUs, and their counts, in order.

    Bins that overlap, as only a stranger's do, end where the next one begins.
    """
    low, at, group = np.unique(rows["low_ns"], return_index=True, return_inverse=True)
    high = np.minimum(rows["high_ns"][at], np.append(low[1:], LARGEST))
    count = np.bincount(group, rows["count"], len(low))
    used = (count > 0) & (high > low)
    return low[used].astype(np.float64), high[used].astype(np.float64), count[used]


def _vcpus(
    reader: RunReader, record: CaseRecord, facts: dict[str, Any], seconds: float
) -> list[dict[str, Any]]:
    turns = read_columns(reader, record.id, "observed_turns")
    nodes = _node_of(reader.environment)
    found = []
    for index, vcpu in enumerate(facts["vcpus"]):
        own = turns["cpu"][turns["vcpu"] == index]
        cpus = sorted({int(cpu) for cpu in own if cpu >= 0})
        found.append(
            {
                **{key: vcpu[key] for key in ("id", "thread", "name", "exits")},
                "exits_per_second": vcpu["exits"] / seconds,
                "cpus": cpus,
                "nodes": sorted({nodes[cpu] for cpu in cpus if cpu in nodes}),
                "ran_share": _share(vcpu["ran_ns"], facts),
                "waited_share": _share(vcpu["waited_ns"], facts),
                "halted_share": ratio(vcpu["halt_wait_ns"], facts["elapsed_ns"]),
                "polled_share": ratio(vcpu["halt_poll_ns"], facts["elapsed_ns"]),
            }
        )
    return found


def _node_of(environment: dict[str, Any]) -> dict[int, int]:
    """The NUMA node of each CPU of the host; empty if the environment does not have it."""
    found = {}
    try:
        for node, facts in environment["nodes"].items():
            found.update(dict.fromkeys(parse_cpu_list(facts["cpus"]), int(node)))
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
    return found


def _share(ns: int | None, facts: dict[str, Any]) -> float | None:
    """The share of the observation; None if the time is unknown."""
    return None if ns is None else ratio(ns, facts["elapsed_ns"])


def _method(
    reader: RunReader,
    record: CaseRecord,
    facts: dict[str, Any],
    exits: dict[str, Any],
    kicks: dict[str, NDArray[Any]],
    seconds: float,
) -> dict[str, Any]:
    """The figures that comparisons of runs use, with intervals over the seconds."""
    turns = read_columns(reader, record.id, "observed_turns")
    numbers, turn = np.unique(turns["turn"], return_inverse=True)
    elapsed = np.ones(len(numbers))
    elapsed[turn] = np.maximum(turns["elapsed_ns"], 1) / 1e9
    rates = np.bincount(turn, turns["exits"], len(numbers)) / elapsed
    ci95 = None
    if len(rates) >= 2:
        interval = running_interval([rates], location=huber)
        ci95 = bounds(interval)
    per_second = exits["per_second"]
    if ci95 is not None:  # the mean over all of the time can lie outside that of the usual seconds
        ci95 = [max(0.0, min(ci95[0], per_second)), max(ci95[1], per_second)]
    return {
        "n": exits["n"],
        "seconds": seconds,
        "exits_per_second": per_second,
        "estimates": {"exits_per_second": {"value": per_second, "ci95": ci95}},
        **_times_of_kicks(kicks, facts, record.parameters["vcpus"]),
    }


def _times_of_kicks(
    kicks: dict[str, NDArray[Any]], facts: dict[str, Any], n_vcpus: int
) -> dict[str, Any]:
    """The latencies and the pauses, with the intervals of the quantiles that are compared."""
    left = kicks["latency_ns"] >= 0
    pauses = find_pauses(kicks, n_vcpus)
    found: dict[str, Any] = {}
    for name, at_ns, took_ns in (
        ("latency", kicks["at_ns"][left], kicks["latency_ns"][left]),
        ("last", pauses["at"], pauses["last"]),
    ):
        times = took_ns.astype(np.float64)
        # A second is the round of the kicks that were sent in it.
        found_in, row = np.unique(at_ns // 1_000_000_000, return_inverse=True)
        rounds = np.zeros(len(found_in), np.int64)
        found[f"{name}_ns"] = named_quantiles(times, _LEVELS, maximum=True)
        found[f"{name}_ci95"] = named_intervals(times, row, rounds, _COMPARED)
    found["latency_ns"] = _with_longest(found["latency_ns"], _counts_of_kicks(kicks, facts))
    return found


# --- kicks -------------------------------------------------------------------------------------


def _kicks(rows: dict[str, NDArray[Any]], facts: dict[str, Any], n_vcpus: int) -> dict[str, Any]:
    sent = [one for one in facts["senders"] if not one["to_process"]]
    left = rows["latency_ns"] >= 0
    latency = rows["latency_ns"][left].astype(np.float64)
    handler = rows["handled_ns"][rows["handled_ns"] >= 0].astype(np.float64)
    both = (rows["handled_ns"] >= 0) & (rows["latency_ns"] >= 0)
    after = (rows["handled_ns"] - rows["latency_ns"])[both].astype(np.float64)
    pauses = find_pauses(rows, n_vcpus)
    counts = _counts_of_kicks(rows, facts)
    unanswered = ~rows["answered"]
    return {
        "sent": sum(one["sent"] for one in sent),
        "n": sum(counts["by_state"]),
        "kept": len(rows["vcpu"]),
        "one_with_another": counts["more"],
        "failed": sum(one["failed"] for one in sent),
        "left": counts["left"],
        "handled": counts["handled"],
        "in_userspace": max(
            0, sum(counts["by_state"]) - counts["left"] - int((unanswered & ~left).sum())
        ),
        "unanswered": int(unanswered.sum()),
        "oldest_unanswered_ns": _oldest_ns(rows, unanswered & ~left, facts),
        "unasked": sum(vcpu["eintr_unasked"] for vcpu in facts["vcpus"]),
        "foreign_signals": sum(vcpu["foreign_signals"] for vcpu in facts["vcpus"]),
        "before_run": sum(vcpu.get("kicks_before", 0) for vcpu in facts["vcpus"]),
        "latency_ns": _with_longest(named_quantiles(latency, _LEVELS, maximum=True), counts),
        "handler_ns": named_quantiles(handler, _LEVELS, maximum=True),
        "return_to_handler_ns": named_quantiles(np.maximum(after, 0), _LEVELS, maximum=True),
        "by_state": _by_state(rows, counts["by_state"]),
        "senders": facts["senders"],
        "pauses": len(pauses["last"]),
        "pause_ns": {
            name: named_quantiles(pauses[name], _LEVELS, maximum=True) for name in PAUSE_ENDS
        },
    }


def _counts_of_kicks(rows: dict[str, NDArray[Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """The counts of all kicks, of which the rows may be a part; ``by_state`` is a list."""
    latency_ns = rows["latency_ns"]
    counts: dict[str, Any] = {
        "by_state": [int((rows["state"] == index).sum()) for index in range(len(STATES))],
        "left": int((latency_ns >= 0).sum()),
        "handled": int((rows["handled_ns"] >= 0).sum()),
        "more": int(rows["more"].sum()),
        "longest_ns": int(latency_ns.max(initial=0)),
    }
    exact = [vcpu["kicks"] for vcpu in facts["vcpus"] if vcpu.get("kicks") is not None]
    if not exact:  # an observation from before they were counted
        return counts
    states = [sum(one["by_state"][index] for one in exact) for index in range(len(STATES))]
    return {
        "by_state": [max(pair) for pair in zip(states, counts["by_state"], strict=True)],
        "longest_ns": max(counts["longest_ns"], *(one["longest_ns"] for one in exact)),
        **{
            name: max(counts[name], sum(one[name] for one in exact))
            for name in ("left", "handled", "more")
        },
    }


def _oldest_ns(
    rows: dict[str, NDArray[Any]], chosen: NDArray[np.bool_], facts: dict[str, Any]
) -> int | None:
    """How old the oldest of these kicks was at the end; None if there is none."""
    at_ns = rows["at_ns"][chosen]
    return max(0, facts["elapsed_ns"] - int(at_ns.min())) if len(at_ns) else None


def _with_longest(
    latency_ns: dict[str, float | None], counts: dict[str, Any]
) -> dict[str, float | None]:
    """The latencies with the longest of all kicks as their maximum."""
    if latency_ns["max"] is None:
        return latency_ns
    return {**latency_ns, "max": float(counts["longest_ns"])}


def _by_state(rows: dict[str, NDArray[Any]], counts: list[int]) -> dict[str, Any]:
    found = {}
    for index, name in enumerate(STATES):
        mine = rows["state"] == index
        if counts[index]:
            latency = rows["latency_ns"][mine & (rows["latency_ns"] >= 0)].astype(np.float64)
            found[name] = {
                "n": counts[index],
                "latency_ns": named_quantiles(latency, _LEVELS, maximum=True),
            }
    return found


def find_pauses(rows: dict[str, NDArray[Any]], n_vcpus: int) -> dict[str, Floats]:
    """The pauses among the rows of observed_kicks, which have their times in ns.

    ``at`` is the first kick of each, since the observation began. From then on it took until
    the ``first``, the ``median`` and the ``last`` vCPU answered. With one vCPU there are none.
    """
    found = []
    for burst in _bursts(rows) if n_vcpus > 1 else ():
        vcpus, first = np.unique(rows["vcpu"][burst], return_index=True)
        if len(vcpus) < n_vcpus:
            continue
        chosen = burst[first]
        took = np.where(rows["latency_ns"] >= 0, rows["latency_ns"], rows["handled_ns"])[chosen]
        at = rows["at_ns"][chosen]
        if (took < 0).any():
            continue
        answered = np.sort(at + took - at.min())
        found.append((at.min(), answered[0], answered[(len(answered) - 1) // 2], answered[-1]))
    columns = np.array(found, np.float64).reshape(len(found), 1 + len(PAUSE_ENDS)).T
    return dict(zip(("at", *PAUSE_ENDS), columns, strict=True))


def _bursts(rows: dict[str, NDArray[Any]]) -> list[Ints]:
    """The rows of each burst: kicks of one sender with one signal, with short gaps between."""
    order = np.lexsort((rows["at_ns"], rows["signal"], rows["sender"]))
    if not len(order):
        return []
    sender, signal, at = (
        rows[name][order].astype(np.int64) for name in ("sender", "signal", "at_ns")
    )
    new = (np.diff(sender) != 0) | (np.diff(signal) != 0) | (np.diff(at) > PAUSE_GAP_NS)
    return [part for part in np.split(order, np.flatnonzero(new) + 1) if len(part) > 1]


# --- what observing costs ----------------------------------------------------------------------


def _overhead(reader: RunReader, record: CaseRecord, facts: dict[str, Any]) -> dict[str, Any]:
    """How much longer an exit takes while it is observed, as a share, by paired blocks."""
    rows = read_columns(reader, record.id, "observed_blocks")
    known = rows["state"] < _BLOCKS
    rounds, at = np.unique(rows["round"][known], return_inverse=True)
    exits, elapsed = (np.zeros((len(rounds), _BLOCKS)) for _ in range(2))
    exits[at, rows["state"][known]] = rows["exits"][known]
    elapsed[at, rows["state"][known]] = rows["elapsed_ns"][known]
    usable = ((exits > 0) & (elapsed > 0)).all(axis=1)
    nothing = {"share": None, "ci95": None, "rounds": int(usable.sum())}
    if usable.sum() < 3 or np.median(exits[usable, 0]) < _LEAST_EXITS:
        return {**nothing, "counting": None, "detail": None}
    ns_per_exit = elapsed[usable] / exits[usable]
    counting, detail = (ns_per_exit[:, state] / ns_per_exit[:, 0] - 1 for state in (1, 2))
    closely = facts["detail_ns"] / facts["elapsed_ns"]
    found = running_interval([closely * detail + (1 - closely) * counting], location=huber)
    return {
        "share": found.estimate,
        "ci95": bounds(found),
        "rounds": int(usable.sum()),
        "counting": huber(counting)[0],
        "detail": huber(detail)[0],
    }
