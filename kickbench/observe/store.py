# SPDX-License-Identifier: Apache-2.0
"""Puts what was observed into the plain tables and the document of a results folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kickbench.errors import MachineFailedError
from kickbench.observe.observer import Observed
from kickbench.observe.protocol import Seen, decide
from kickbench.results.tables import LARGEST, TABLES, tables_of
from kickbench.watch import layout

KIND = "observed"
CASE_ID = "observed"
_HISTOGRAMS = ("gap_ns", "userspace_ns", "in_run_ns")
"""The figures of the table observed_times, by their numbers."""


def parameters(n_vcpus: int, protocol: str) -> dict[str, Any]:
    """The parameters of the case, in the form that cases of scenarios have."""
    where = {"name": "as it was", "creator": "any", "vcpus": "any", "kicker": "any"}
    return {
        "id": CASE_ID,
        "kind": KIND,
        "program": None,
        "irqchip": None,
        "vcpus": max(1, n_vcpus),
        "exit_rate_hz": None,
        "arrival": None,
        "placement": where,
        "methods": [protocol],
        "baseline": protocol,
    }


def document(found: Observed, cost: dict[str, Any] | None = None) -> dict[str, Any]:
    """The case.json: plain facts; :mod:`kickbench.summary.observed` evaluates them.

    ``cost`` is what sigmask costs per exit on this host, if a run has measured it.
    """
    protocol, evidence = decide(_seen(found))
    order = _order(found)
    totals = found.totals[0]
    return {
        "case": parameters(len(order), protocol),
        "seconds": found.elapsed_ns / 1e9,
        "stopped_by": None,
        "processes": [
            {
                "index": 0,
                "clock": {"kind": "monotonic_raw", "hz": 1e9},
                "warnings": [],
                "rounds": len(found.turns),
                "oversubscribed": False,
                "load": None if found.load is None else vars(found.load),
            }
        ],
        "observed": {
            "pid": found.vmm.pid,
            "vmm": found.vmm.program,
            "guest": found.vmm.guest,
            "elapsed_ns": found.elapsed_ns,
            "detail_ns": min(found.detail_ns, found.elapsed_ns),
            "ended": found.ended,
            "protocol": {"id": protocol, "evidence": evidence},
            "siglock": {
                "cost": cost,
                "waits": int(totals["siglock_waits"]),
                "wait_ns": int(totals["siglock_wait_ns"]),
                "vcpu_waits": int(totals["siglock_vcpu_waits"]),
                "threads": found.n_threads,
            },
            "senders": _senders(found),
            "vcpus": [_vcpu(found, slot) for slot in order],
            "memory_nodes": {str(node): pages for node, pages in found.memory_nodes.items()},
            "lost": vars(found.lost),
        },
    }


def tables(found: Observed) -> dict[str, pa.Table]:
    """The tables of the kind, by their names. A vCPU's index is its place by KVM's number."""
    order = _order(found)
    index_of = np.full(len(found.vcpus), 0, np.int64)
    index_of[order] = np.arange(len(order))
    columns = {
        "observed_ways": _ways(found, index_of),
        "observed_times": _times(found, order),
        "observed_kicks": _kicks(found, index_of),
        "observed_turns": _turns(found, index_of),
        "observed_blocks": {
            "round": [block.round for block in found.blocks],
            "state": [block.state for block in found.blocks],
            "exits": [block.exits for block in found.blocks],
            "elapsed_ns": [block.elapsed_ns for block in found.blocks],
        },
    }
    return {table.name: _table(table.name, columns[table.name]) for table in tables_of(KIND)}


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    table = TABLES[name]
    try:
        arrays = [pa.array(columns[column.name]).cast(column.type) for column in table.columns]
    except pa.ArrowInvalid as error:  # another machine may say anything
        raise MachineFailedError(f"what was seen cannot be: {name}: {error}") from None
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _order(found: Observed) -> list[int]:
    """The slots in the order of KVM's numbers of the vCPUs."""
    return [int(slot) for slot in np.argsort(found.vcpus["id"], kind="stable")]


def _ways(found: Observed, index_of: NDArray[np.int64]) -> dict[str, Any]:
    rows = found.ways
    way = rows["way"]
    return {
        "vcpu": index_of[way["vcpu"]],
        "reason": way["reason"].astype(np.int64),
        "write": way["write"] > 0,
        "size": way["size"].astype(np.int64),
        "address": _saturated(way["address"]),
        "exits": _saturated(rows["exits"]),
        "timed": np.minimum(_saturated(rows["timed"]), _saturated(rows["exits"])),
        "in_run_ns": _saturated(rows["in_run_ns"]),
        "handled": np.minimum(_saturated(rows["handled"]), _saturated(rows["exits"])),
        "userspace_ns": _saturated(rows["userspace_ns"]),
    }


def _times(found: Observed, order: list[int]) -> dict[str, Any]:
    edges = np.append(layout.edges_ns(), 2 * layout.edges_ns()[-1])
    parts: dict[str, list[NDArray[np.int64]]] = {
        name: [] for name in ("vcpu", "figure", "low_ns", "high_ns", "count")
    }
    for index, slot in enumerate(order):
        for figure, name in enumerate(_HISTOGRAMS):
            counts = found.vcpus[name][slot].astype(np.int64)
            (bins,) = np.nonzero(counts)
            parts["vcpu"].append(np.full(len(bins), index))
            parts["figure"].append(np.full(len(bins), figure))
            parts["low_ns"].append(edges[bins])
            parts["high_ns"].append(edges[bins + 1])
            parts["count"].append(counts[bins])
    return {name: np.concatenate(part) for name, part in parts.items()}


def _kicks(found: Observed, index_of: NDArray[np.int64]) -> dict[str, Any]:
    pending = found.vcpus["kick"]
    pending = pending[pending["sent_ns"] > 0]
    rows = np.concatenate([found.kicks, pending])
    answered = np.arange(len(rows)) < len(found.kicks)
    order = np.argsort(rows["sent_ns"], kind="stable")
    rows, answered = rows[order], answered[order]
    sent = rows["sent_ns"].astype(np.int64)

    def since(name: str) -> NDArray[np.int64]:
        at = rows[name].astype(np.int64)
        return np.where(at > 0, np.maximum(at - sent, 0), -1)

    reason = rows["reason"].astype(np.int64)
    left = rows["left_ns"] > 0
    return {
        "vcpu": index_of[rows["vcpu"]],
        "sender": rows["sender"].astype(np.int64),
        "signal": rows["signal"].astype(np.int64),
        "code": rows["code"].astype(np.int64),
        "state": rows["state"].astype(np.int64),
        "more": rows["more"].astype(np.int64),
        "reason": np.where(left & (reason != layout.UNKNOWN_REASON), reason, -1),
        "set_by_sender": rows["set_by_sender"] > 0,
        "set_at_exit": rows["set_at_exit"] > 0,
        "at_ns": np.maximum(sent - found.began_ns, 0),
        "latency_ns": since("left_ns"),
        "handled_ns": since("handled_ns"),
        "answered": answered,
    }


def _turns(found: Observed, index_of: NDArray[np.int64]) -> dict[str, Any]:
    rows = [
        (number, turn.at_ns, turn.elapsed_ns, int(index_of[slot]), max(0, exits), cpu)
        for number, turn in enumerate(found.turns)
        for slot, (exits, cpu) in enumerate(zip(turn.exits, turn.cpus, strict=True))
    ]
    values = np.array(rows, np.int64).reshape(len(rows), 6)
    names = ("turn", "at_ns", "elapsed_ns", "vcpu", "exits", "cpu")
    return {name: values[:, column] for column, name in enumerate(names)}


def _vcpu(found: Observed, slot: int) -> dict[str, Any]:
    row = found.vcpus[slot]
    before = found.kvm_before[slot] if slot < len(found.kvm_before) else None
    first, last = found.first.get(slot), found.last.get(slot)
    known = first is not None and last is not None
    counts = {}
    for name in ("halt_wait_ns", "halt_poll_ns", "halt_polls", "halt_polls_good"):
        older = 0 if before is None else int(before[name])
        counts[name] = max(0, int(row["kvm"][name]) - older)
    names = (
        *("id", "thread", "exits", "looked_at", "eintr", "eintr_immediate", "eintr_unasked"),
        *("foreign_signals", "kicks_before", "changed_thread"),
    )
    return {
        **{name: int(row[name]) for name in names},
        "name": last.comm if last else "",
        "ran_ns": last.ran_ns - first.ran_ns if known and last and first else None,
        "waited_ns": last.waited_ns - first.waited_ns if known and last and first else None,
        **counts,
        "kicks": _kick_counts(row),
    }


def _kick_counts(row: np.void) -> dict[str, Any]:
    """The kicks of a vCPU: those that were answered, and the one that was not yet."""
    answered, pending = row["kicks"], row["kick"]
    by_state = [int(n) for n in answered["by_state"]]
    counts = {name: int(answered[name]) for name in ("left", "handled", "more", "longest_ns")}
    if sent_ns := int(pending["sent_ns"]):
        by_state[int(pending["state"]) & 3] += 1
        counts["more"] += int(pending["more"])
        counts["handled"] += bool(pending["handled_ns"])
        if left_ns := int(pending["left_ns"]):
            counts["left"] += 1
            counts["longest_ns"] = max(counts["longest_ns"], left_ns - sent_ns)
    return {"by_state": by_state, **counts}


def _senders(found: Observed) -> list[dict[str, Any]]:
    said = []
    for key, count in zip(found.senders, found.sent, strict=True):
        name = bytes(count["comm"]).rstrip(b"\0").decode(errors="replace")
        said.append(
            {
                "name": "".join(c if c.isprintable() else "?" for c in name),
                **{
                    field: int(key[field])
                    for field in ("thread", "process", "signal", "code", "system_call")
                },
                "to_process": bool(key["to_process"]),
                **{field: int(count[field]) for field in ("sent", "pending", "failed")},
            }
        )
    return sorted(said, key=lambda one: -one["sent"])


def _seen(found: Observed) -> Seen:
    """The facts by which the protocol is told."""
    kicks, vcpus, totals = found.kicks, found.vcpus, found.totals[0]
    number = 0
    if len(kicks):
        signals, counts = np.unique(kicks["signal"], return_counts=True)
        number = int(signals[np.argmax(counts)])
    kicks = kicks[kicks["signal"] == number]
    in_run, set_before = kicks["state"] > 0, kicks["set_by_sender"] > 0
    threads = list(found.last.values()) or list(found.first.values())
    masked = vcpus[vcpus["has_mask"] > 0]
    blocked = 0
    for thread in threads:
        blocked |= thread.blocked
    mask = int(np.bitwise_and.reduce(masked["mask"])) if len(masked) else 0
    return Seen(
        signal=number,
        has_mask=bool(len(masked)),
        let_through=blocked & ~mask if len(masked) else 0,
        blocked=bool(0 < number <= 64 and blocked >> (number - 1) & 1),
        kicks=len(kicks),
        handled=int((kicks["handled_ns"] > 0).sum()),
        in_run=int(in_run.sum()),
        set_before=int(set_before.sum()),
        set_before_in_run=int((in_run & set_before).sum()),
        handlers=int(totals["handlers"]),
        set_by_handler=int(totals["handlers_set"]),
        eintr=int(vcpus["eintr"].sum()),
        eintr_immediate=int(vcpus["eintr_immediate"].sum()),
    )


def _saturated(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.minimum(values, np.uint64(LARGEST)).astype(np.int64)
