# SPDX-License-Identifier: Apache-2.0
"""Makes a scenario of what was observed, and runs its guest for another observation."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kickbench.errors import HostError, MeasurementError, ResultsError, UsageError
from kickbench.guest.mix import SIZES
from kickbench.host.topology import Topology
from kickbench.methods import CATALOGUE
from kickbench.observe.protocol import UNKNOWN
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.schema import place, safe_name
from kickbench.scenario.files import load
from kickbench.scenario.kinds import MAX_KICKS_HZ
from kickbench.scenario.recording import Exit, gap_means, mix_tables
from kickbench.scenario.writing import scenario_text
from kickbench.summary.observed import summarise_observed
from kickbench.watch import process
from kickbench.watch.process import Vmm

_METHODS = ("sigmask", "sigmask_same", "immediate_exit")
_OTHERWISE = "immediate_exit"
_LEAST_RATE, _MOST_RATE = 0.001, 1000.0
"""The limits of a vCPU's rate against the others' (docs/scenarios.md)."""
_IRQCHIP = "kernel"
_STATES = {"userspace": "userspace", "running": "guest", "halted": "halted", "waiting": "guest"}
"""By what a vCPU did when it was kicked, the state of a scenario that is like it. One that waited
for a CPU would have been in the guest."""
BLOCK_MS = 5000
_START_SECONDS = 60.0


def scenario_of(run: Path) -> str:
    """The text of a scenario file that behaves as the observed VM did.

    Raises ResultsError if the folder has no observation, or one without an exit that a guest can
    play.
    """
    reader = RunReader(run)
    record = next(
        (r for r in reader.cases if r.parameters["kind"] == "observed" and r.document), None
    )
    if record is None:
        raise ResultsError(
            f"{place(run)}: is no observation; kickbench observe makes one of a running VM"
        )
    case, _ = summarise_observed(reader, record)
    counts, left_out = _counts(reader, record)
    if not counts:
        raise ResultsError(
            f"{place(run)}: no exit reads or writes a port or MMIO, so there is nothing to play"
        )
    scenario, comments = _scenario(reader, record, case, counts)
    comments[""] = _about(reader, case, left_out)
    return scenario_text(scenario, comments)


def _counts(reader: RunReader, record: CaseRecord) -> tuple[dict[Exit, int], float]:
    """The exits that a guest can play, and the share of all others."""
    table = reader.table(record.id, "observed_ways").to_pylist()
    counts: dict[Exit, int] = {}
    others = 0
    for row in table:
        device = {2: "port", 6: "mmio"}.get(row["reason"])
        if device is None:
            others += row["exits"]
            continue
        exit_ = f"{device}_{'write' if row['write'] else 'read'}"
        size = max(size for size in SIZES if size <= max(1, row["size"]))
        key = (exit_, row["address"], size)
        counts[key] = counts.get(key, 0) + row["exits"]
    total = sum(counts.values()) + others
    return counts, others / total if total else 0.0


def _scenario(
    reader: RunReader, record: CaseRecord, case: Mapping[str, Any], counts: Mapping[Exit, int]
) -> tuple[dict[str, Any], dict[str, str]]:
    vcpus = case["vcpus_seen"]
    seconds = sum(vcpu["exits"] / vcpu["exits_per_second"] for vcpu in vcpus if vcpu["exits"])
    seconds /= max(1, sum(1 for vcpu in vcpus if vcpu["exits"]))
    rates = [vcpu["exits_per_second"] for vcpu in vcpus]
    mean_rate = sum(rates) / len(rates)
    guest: dict[str, Any] = {
        "program": "mix",
        "mix": mix_tables(counts, _IRQCHIP),
        "exit_rate_hz": float(f"{mean_rate:.6g}"),
        "arrival": "recorded",
        "gaps_us": _gaps(reader, record),
    }
    comments = {
        "guest.mix[0]": "The exits, the most frequent first.",
        "guest.exit_rate_hz": "Exits per second and vCPU, the mean of all vCPUs.",
        "guest.gaps_us": "Gaps from one exit to the next: each number stands for an equal part.",
    }
    if len(set(rates)) > 1:
        guest["vcpu_rates"] = _relative(rates)
        comments["guest.vcpu_rates"] = "The vCPUs' rates against each other."
    kicks = case["kicks"]
    kick_rate_hz = kicks["sent"] / seconds / len(rates) if seconds else 0.0
    if kick_rate_hz >= 1 and kick_rate_hz * len(rates) <= MAX_KICKS_HZ:
        guest["kick_rate_hz"] = [0, float(f"{kick_rate_hz:.4g}")]
        comments["guest.kick_rate_hz"] = "Without kicks, and with as many per vCPU as there were."
    protocol = case["protocol"]["id"]
    baseline = protocol if _is_kicked_by(protocol) else _OTHERWISE
    methods = list(dict.fromkeys((*_METHODS, baseline)))
    kinds = ["exits"]
    states = list(dict.fromkeys(_STATES[state] for state in kicks["by_state"]))
    scenario: dict[str, Any] = {
        "name": safe_name(f"like-{case['guest'] or case['vmm']}", default="like_a_vm"),
        "vm": {"vcpus": len(rates), "irqchip": _IRQCHIP},
        "guest": guest,
        "measure": {"kinds": kinds, "methods": methods, "baseline": baseline, "max_seconds": 20},
    }
    if states:
        kinds.append("kick")
        scenario["kick"] = {"states": states, "vcpus": 1}
        comments["kick.states"] = "What the vCPUs did when they were kicked."
    if kicks["pauses"]:
        kinds.append("pause_all")
    where = _placement(case)
    if where is not None:
        scenario["placement"] = [
            {"name": "as_observed", "creator": where, "vcpus": where, "kicker": where}
        ]
    return scenario, comments


def _is_kicked_by(protocol: str) -> bool:
    return protocol in CATALOGUE and CATALOGUE[protocol].control_of is None


def _relative(rates: list[float]) -> list[float]:
    """The rates as shares of the largest, within what a scenario can have."""
    most = max(rates) or 1.0
    return [float(f"{min(_MOST_RATE, max(_LEAST_RATE, rate / most)):.4g}") for rate in rates]


def _gaps(reader: RunReader, record: CaseRecord) -> list[float]:
    table = reader.table(record.id, "observed_times")
    rows = {name: table.column(name).to_numpy() for name in table.column_names}
    mine = rows["figure"] == 0
    if not rows["count"][mine].sum():
        raise ResultsError(
            f"{place(reader.path)}: has no gap between two exits: observe the VM for longer"
        )
    middle_us = (rows["low_ns"][mine] + rows["high_ns"][mine]) / 2e3
    return gap_means(middle_us.tolist(), rows["count"][mine].tolist())


def _placement(case: Mapping[str, Any]) -> str | None:
    """The node on which all vCPUs ran, on a host of several that this is; else None."""
    nodes = {node: set(cpus) for node, cpus in Topology.read().nodes.items() if cpus}
    cpus = {cpu for vcpu in case["vcpus_seen"] for cpu in vcpu["cpus"]}
    if len(nodes) < 2 or not cpus:
        return None
    return next((f"node:{node}" for node, own in nodes.items() if cpus <= own), None)


def _about(reader: RunReader, case: Mapping[str, Any], left_out: float) -> str:
    protocol = case["protocol"]["id"]
    used = "an unknown kick protocol" if protocol == UNKNOWN else protocol
    guest = f" (guest {case['guest']})" if case["guest"] else ""
    said = [
        f"Made of the observation {reader.run_id} by kickbench scenario from.",
        f"The VM was {case['vmm']}{guest}, and used {used}.",
    ]
    if left_out >= 0.0005:
        said.append(f"{100 * left_out:.2g} % of its exits had another reason, and are left out.")
    return "\n".join(said)


# --- the guest again ------------------------------------------------------------------------------


@contextmanager
def replaying(scenario: Path, seconds: float) -> Iterator[Vmm]:
    """Run the guest of a scenario without a pause, and yield its process.

    It is that of the first vCPU count, program and rate, without kicks, under the baseline. Raises
    UsageError if the file is no scenario with exits, MeasurementError if the guest does not start.
    """
    model = load(scenario).to_dict()
    if "exits" not in model["measure"]["kinds"]:
        raise UsageError(f"{place(scenario)}: does not measure the kind exits")
    baseline = model["measure"]["baseline"]
    model["guest"]["kick_rate_hz"] = 0
    for table in ("vm", "guest"):
        for key, value in model[table].items():
            if isinstance(value, (list, tuple)) and key not in ("mix", "gaps_us", "vcpu_rates"):
                model[table][key] = value[0]
    model["measure"] |= {
        "kinds": ["exits"],
        "methods": [baseline],
        "processes": 1,
        "block_ms": BLOCK_MS,
        "precision": 1e-6,
        "max_seconds": math.ceil(seconds) + 2 * _START_SECONDS,
    }
    model.pop("kick", None)
    with tempfile.TemporaryDirectory(prefix="kickbench-") as folder:
        file = Path(folder) / "replay.toml"
        file.write_text(scenario_text(model))
        command = [sys.executable, "-P", "-m", "kickbench", "run", str(file), "--results", folder]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as running:
            try:
                yield replace(_worker_of(running), guest=model["name"])
            finally:
                running.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.communicate(timeout=_START_SECONDS)
                running.kill()


def _worker_of(running: subprocess.Popen[str]) -> Vmm:
    """The worker process of a run, when it has a vCPU."""
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        if running.poll() is not None:
            said = (running.stderr.read() if running.stderr else "").strip().splitlines()
            raise HostError(f"the guest did not start: {said[-1] if said else 'no reason given'}")
        for vmm in process.running():
            if running.pid in process.ancestors(vmm.pid):
                return vmm
        time.sleep(0.05)
    raise MeasurementError("the guest did not start within a minute")
