# SPDX-License-Identifier: Apache-2.0
"""Made-up runs of the kind observed, with everything that an observer would have stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import synthetic_run

from kickbench.observe.store import parameters
from kickbench.results.tables import TABLES, tables_of
from kickbench.results.writer import RunWriter

PM_TIMER = (2, False, 4, 0x608, 0.92)
DOORBELL = (6, True, 2, 0xFE00_3000, 0.08)
Way = tuple[int, bool, int, int, float]
"""Reason, whether the guest writes, size, address, and the share of the exits."""

_LATENCY_NS = {0: -1, 1: 12_000, 2: 45_000, 3: 900_000}
"""From the signal until KVM_RUN returned, by what the vCPU did."""


def build(
    path: Path,
    *,
    vcpus: int = 2,
    seconds: int = 10,
    rate: int = 20_000,
    ways: Sequence[Way] = (PM_TIMER, DOORBELL),
    pauses: int = 20,
    protocol: str = "immediate_exit",
    latency_ns: Mapping[int, int] = _LATENCY_NS,
    guest: str = "tiny",
    overhead: float = 0.01,
    lost: int = 0,
    seed: int = 1,
    emulated: bool = False,
    tables: Mapping[str, Mapping[str, Any]] = {},
    **facts: Any,
) -> Path:
    """Write a run into the results folder ``path`` and return the run's folder.

    Each vCPU leaves ``rate`` times a second. Each pause kicks every vCPU once. ``tables`` replace
    the columns of whole tables, and ``facts`` single facts of the document.
    """
    rng = np.random.default_rng(seed)
    case = parameters(vcpus, protocol)
    columns = {
        "observed_ways": _ways(vcpus, rate * seconds, ways),
        "observed_times": _times(vcpus, rate * seconds),
        "observed_kicks": _kicks(rng, vcpus, seconds, pauses, latency_ns),
        "observed_turns": _turns(rng, vcpus, seconds, rate),
        "observed_blocks": _blocks(rng, rate * vcpus, overhead),
        **tables,
    }
    document = {
        "case": case,
        "seconds": float(seconds),
        "stopped_by": None,
        "processes": [
            {
                "index": 0,
                "clock": {"kind": "monotonic_raw", "hz": 1e9},
                "warnings": [],
                "rounds": seconds,
                "oversubscribed": False,
            }
        ],
        "observed": {
            **_facts(vcpus, seconds, rate, pauses, protocol, guest, lost),
            **facts,
        },
    }
    with RunWriter.create(
        path,
        f"observed-{guest}",
        scenario={"name": f"observed-{guest}", "observed": {"pid": 4711, "seconds": seconds}},
        cases=[case],
        environment=synthetic_run.ENVIRONMENT,
        command=["kickbench", "observe", "4711", "--seconds", str(seconds)],
        emulated=emulated,
        emulated_by="QEMU TCG" if emulated else None,
        host="testhost",
        now=synthetic_run.NOW,
    ) as writer:
        stored = {table.name: _table(table.name, columns) for table in tables_of("observed")}
        writer.write_case(case["id"], document, stored)
        writer.finish()
    return writer.path


def _table(name: str, columns: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    table = TABLES[name]
    arrays = [pa.array(columns[name][column.name]).cast(column.type) for column in table.columns]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _ways(vcpus: int, exits: int, ways: Sequence[Way]) -> dict[str, Any]:
    rows = [(vcpu, *way[:4], round(exits * way[4])) for vcpu in range(vcpus) for way in ways]
    names = ("vcpu", "reason", "write", "size", "address", "exits")
    found = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    counts = np.array(found["exits"], np.int64)
    return {
        **found,
        "timed": counts,
        "in_run_ns": counts * 3_000,
        "handled": counts,
        "userspace_ns": counts * 5_000,
    }


def _times(vcpus: int, exits: int) -> dict[str, Any]:
    low = [
        (figure, ns * factor) for figure, ns in enumerate((8000, 5000, 3000)) for factor in (1, 2)
    ]
    rows = [(vcpu, figure, ns) for vcpu in range(vcpus) for figure, ns in low]
    return {
        "vcpu": [row[0] for row in rows],
        "figure": [row[1] for row in rows],
        "low_ns": [row[2] for row in rows],
        "high_ns": [2 * row[2] for row in rows],
        "count": [exits // 2 for _ in rows],
    }


def _kicks(
    rng: np.random.Generator, vcpus: int, seconds: int, pauses: int, latency_ns: Mapping[int, int]
) -> dict[str, Any]:
    n = pauses * vcpus
    state = rng.integers(0, 4, n)
    usual = np.array([latency_ns[int(one)] for one in state], np.float64)
    latency = np.where(usual > 0, usual * rng.uniform(0.9, 1.3, n), -1).astype(np.int64)
    begin = np.repeat((np.arange(pauses) + 0.5) * seconds * 1e9 / max(pauses, 1), vcpus)
    return {
        "vcpu": np.tile(np.arange(vcpus), pauses),
        "sender": np.full(n, 4711),
        "signal": np.full(n, 10),
        "code": np.full(n, -6),
        "state": state,
        "more": np.zeros(n, np.int64),
        "reason": np.where(latency > 0, (1 << 16) + 4, -1),
        "set_by_sender": np.zeros(n, bool),
        "set_at_exit": latency > 0,
        "at_ns": begin.astype(np.int64) + 2_000 * np.tile(np.arange(vcpus), pauses),
        "latency_ns": latency,
        "handled_ns": np.where(latency > 0, latency + 3_000, 20_000),
        "answered": np.ones(n, bool),
    }


def _turns(rng: np.random.Generator, vcpus: int, seconds: int, rate: int) -> dict[str, Any]:
    turn = np.repeat(np.arange(seconds), vcpus)
    n = len(turn)
    return {
        "turn": turn,
        "at_ns": turn * 10**9,
        "elapsed_ns": np.full(n, 10**9),
        "vcpu": np.tile(np.arange(vcpus), seconds),
        "exits": (rate * rng.uniform(0.97, 1.03, n)).astype(np.int64),
        "cpu": np.tile(np.arange(vcpus), seconds),
    }


def _blocks(rng: np.random.Generator, rate: int, overhead: float) -> dict[str, Any]:
    rounds = 10
    state = np.tile(np.arange(3), rounds)
    slower = 1 + overhead * (state > 0) * rng.uniform(0.9, 1.1, len(state))
    return {
        "round": np.repeat(np.arange(rounds), 3),
        "state": state,
        "exits": (rate / 20 / slower).astype(np.int64),
        "elapsed_ns": np.full(len(state), 50_000_000),
    }


def _facts(
    vcpus: int, seconds: int, rate: int, pauses: int, protocol: str, guest: str, lost: int
) -> dict[str, Any]:
    exits = rate * seconds
    return {
        "pid": 4711,
        "vmm": "qemu-system-x86_64",
        "guest": guest,
        "elapsed_ns": seconds * 10**9,
        "detail_ns": seconds * 10**9,
        "ended": None,
        "protocol": {"id": protocol, "evidence": ["a handler ran for all kicks"]},
        "siglock": {"cost": None, "waits": 0, "wait_ns": 0, "vcpu_waits": 0, "threads": vcpus + 2},
        "senders": [_sender(pauses * vcpus)] if pauses else [],
        "vcpus": [_vcpu(index, exits, seconds) for index in range(vcpus)],
        "memory_nodes": {"0": 8000},
        "lost": {"kicks": lost, "vcpus": 0, "ways": 0, "senders": 0, "threads": 0, "events": 0},
    }


def _sender(sent: int) -> dict[str, Any]:
    return {
        "name": "qemu-system-x86",
        "thread": 4711,
        "process": 4711,
        "signal": 10,
        "code": -6,
        "system_call": 234,
        "to_process": False,
        "sent": sent,
        "pending": 0,
        "failed": 0,
    }


def _vcpu(index: int, exits: int, seconds: int) -> dict[str, Any]:
    return {
        "id": index,
        "thread": 4712 + index,
        "name": f"CPU {index}/KVM",
        "exits": exits,
        "looked_at": exits,
        "eintr": 0,
        "eintr_immediate": 0,
        "eintr_unasked": 0,
        "foreign_signals": 0,
        "kicks_before": 0,
        "changed_thread": 0,
        "ran_ns": round(0.8 * seconds * 1e9),
        "waited_ns": round(0.01 * seconds * 1e9),
        "halt_wait_ns": round(0.1 * seconds * 1e9),
        "halt_poll_ns": round(0.05 * seconds * 1e9),
        "halt_polls": 100,
        "halt_polls_good": 60,
    }
