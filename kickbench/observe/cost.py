# SPDX-License-Identifier: Apache-2.0
"""Finds what sigmask costs per exit on a host, among the runs that measured it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kickbench.errors import ResultsError
from kickbench.results.reader import MANIFEST, SUMMARY, RunReader, load_json

_METHOD, _BASELINE, _METRIC = "sigmask", "immediate_exit", "quiet_ns_per_exit"
_MOST_RUNS = 50


def siglock_cost(results: Path, environment: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest difference below ``results`` with one vCPU on a host and kernel.

    ``environment`` is that of the host (:mod:`kickbench.host.environment`).

    It has "value" and "ci95" in ns per quiet exit, and the "run". None if there is no such run.
    """
    host = _host_of(environment)
    runs = sorted(results.glob(f"*/*/{MANIFEST}"), key=lambda path: path.parent.name, reverse=True)
    for manifest in runs[:_MOST_RUNS]:
        try:
            found = _cost_of(manifest.parent, host)
        except (ResultsError, OSError):
            continue
        if found is not None:
            return found
    return None


def _host_of(environment: Mapping[str, Any]) -> tuple[Any, Any]:
    kernel = environment.get("kernel")
    return environment.get("hostname"), kernel.get("release") if isinstance(kernel, dict) else None


def _cost_of(folder: Path, host: tuple[Any, Any]) -> dict[str, Any] | None:
    reader = RunReader(folder, stripped=True)
    if _host_of(reader.environment) != host or reader.manifest["emulated"]:
        return None
    summary = load_json(folder, folder / SUMMARY)
    for case in summary.get("cases", ()):
        if case.get("status") != "ok" or case.get("kind") != "exits" or case.get("vcpus") != 1:
            continue
        for one in case["contrasts"]:
            names = (one["method"], one["baseline"], one["metric"])
            if names == (_METHOD, _BASELINE, _METRIC) and one["ci95"] is not None:
                return {"value": one["diff"], "ci95": one["ci95"], "run": reader.run_id}
    return None
