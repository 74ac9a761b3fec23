# SPDX-License-Identifier: Apache-2.0
"""Nights as the history keeps them, small and of any content, for the tests of the nightly job."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from kickbench.compare.identity import fingerprint, fingerprint_facts
from kickbench.nightly.night import SCHEMA, Night, figures
from kickbench.nightly.trends import Key

CASE = "exits-hlt-1vcpu-max-any"
BEGIN = datetime.datetime(2026, 1, 1, 2, 0, tzinfo=datetime.UTC)


def environment(cpu: str = "A CPU", kernel: str = "6.12.3") -> dict[str, Any]:
    """What tells hosts apart, and what may change."""
    return {
        "hostname": "vm",
        "kernel": {"release": kernel, "cmdline": f"BOOT_IMAGE=/vmlinuz-{kernel} quiet"},
        "cpu": {"model": cpu, "microcode": "0x1"},
        "nodes": {"0": {"cpus": "0-1", "distances": [10]}},
        "software": {"kickbench": "0.1.0"},
    }


def row(**changes: Any) -> dict[str, Any]:
    """One figure."""
    return {
        "case": CASE,
        "kind": "exits",
        "method": "sigmask",
        "baseline": None,
        "metric": "ns_per_exit",
        "unit": "ns",
        "better": "lower",
        "value": 2000.0,
        "ci95_low": 1990.0,
        "ci95_high": 2010.0,
        "processes": 5,
        "reference": None,
        "floor": None,
        **changes,
    }


def rows_of(number: int, step: float = 1.0) -> list[dict[str, Any]]:
    """Three figures of a night: 0.2 % of noise, the same for the same number."""
    chance = np.random.default_rng(number)
    found = []
    for method, base in (("sigmask", 2080.0), ("immediate_exit", 2000.0)):
        value = base * step * chance.normal(1.0, 0.002)
        found.append(row(method=method, value=value, ci95_low=value - 4, ci95_high=value + 4))
    cost = 80.0 * chance.normal(1.0, 0.02)
    pair = {"baseline": "immediate_exit", "value": cost, "reference": 2000.0}
    found.append(row(**pair, ci95_low=cost - 2, ci95_high=cost + 2))
    return found


def document(number: int, *, cpu: str = "A CPU", kernel: str = "6.12.3") -> dict[str, Any]:
    """The metadata of the night of this number."""
    host = environment(cpu, kernel)
    when = BEGIN + datetime.timedelta(days=number)
    return {
        "schema": SCHEMA,
        "run_id": f"{when:%Y%m%dT%H%M%SZ}-vm-{number:08x}",
        "created_utc": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "scenario": "nightly",
        "scenario_digest": "0123",
        "fingerprint": fingerprint(host),
        "facts": fingerprint_facts(host),
        "environment": host,
        "emulated": False,
        "emulated_by": None,
        "complete": True,
        "cases": [{"id": CASE, "status": "ok", "reason": None}],
        "lost": [],
        "kickbench": "0.1.0",
    }


def night(
    number: int,
    *,
    rows: Sequence[dict[str, Any]] | None = None,
    step: float = 1.0,
    without: Key | None = None,
    cpu: str = "A CPU",
    kernel: str = "6.12.3",
    **changes: Any,
) -> Night:
    """The night of this number, a day after the one before; ``changes`` are of its metadata."""
    found = list(rows_of(number, step) if rows is None else rows)
    if without is not None:
        found = [some for some in found if Key(*(some[name] for name in Key._fields)) != without]
    return Night({**document(number, cpu=cpu, kernel=kernel), **changes}, figures(found))


def value_of(some: Night, key: Key) -> float:
    """The value of a metric."""
    return float(some.table.column("value")[some.keys().index(key)].as_py())
