# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of whole runs share: real ones, small and silent, and large made-up ones."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kickbench.results.tables import combine, from_worker
from kickbench.results.writer import RunWriter
from kickbench.run import runner
from kickbench.run.machine import Machine
from kickbench.run.progress import PlainProgress
from kickbench.scenario.model import Scenario

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Size:
    """How much a made-up case has: rounds and samples in all its processes, exits in a block."""

    case: dict[str, Any]
    rounds: int
    exits_per_block: int = 0
    samples: int = 0


def make_up(folder: Path, scenario: dict[str, Any], sizes: Sequence[Size]) -> Path:
    """A run folder with numbers that imitate a host's, of the size of a real, long run."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import synthetic_run

    with RunWriter.create(
        folder,
        str(scenario["name"]),
        scenario=scenario,
        cases=[size.case for size in sizes],
        environment=synthetic_run.ENVIRONMENT,
    ) as writer:
        for size in sizes:
            case, rounds = size.case, max(2, size.rounds // size.case["processes"])
            exits = {"exits": size.exits_per_block} if case["kind"] == "exits" else {}
            parts: dict[str, list[Any]] = {}
            for process in range(case["processes"]):
                arrays = synthetic_run.ARRAYS[case["kind"]](
                    case, process, shift_ns=synthetic_run.siglock_ns(case), rounds=rounds, **exits
                )
                if "exit_samples" in arrays:
                    samples = size.samples // case["processes"]
                    arrays["exit_samples"] = _samples(case, process, rounds, samples)
                for name, array in arrays.items():
                    entries = synthetic_run.entries_of(case)
                    table = from_worker(name, array, entries=entries, process=process)
                    parts.setdefault(name, []).append(table)
            document = synthetic_run.case_document(case, rounds=rounds)
            tables = {name: combine(found) for name, found in parts.items()}
            writer.write_case(case["id"], document, tables)
        writer.finish()
    return writer.path


def _samples(case: dict[str, Any], process: int, rounds: int, number: int) -> Any:
    import synthetic_run

    rng = np.random.default_rng(process)
    samples = np.zeros(number, synthetic_run.SAMPLES)
    samples["round"] = np.sort(rng.integers(0, rounds, number))
    samples["entry"] = np.arange(number) // 1000 % (len(case["methods"]) + 1)
    samples["vcpu"] = np.arange(number) // 100 % case["vcpus"]
    samples["cycles"] = rng.gamma(30, 170, number)
    return samples


def run_once(
    folder: Path, machine: Machine | None = None, **measure: Any
) -> tuple[dict[str, Any], float]:
    """The summary of one run of one case (1 vCPU, pm_timer), and how long all of it took, in s.

    ``machine`` measures; None: this host.
    """
    scenario = Scenario.from_dict(
        {
            "name": "benchmark",
            "vm": {"vcpus": [1]},
            "guest": {"program": "pm_timer"},
            "placement": [{"name": "node0", "creator": "node:0", "vcpus": "node:0"}],
            "measure": {"precision": 1e-9, **measure},
        }
    )
    begun = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()):
        outcome = runner.run(scenario, folder, PlainProgress(), machine=machine)
    seconds = time.monotonic() - begun
    if outcome.failed:
        raise SystemExit(f"a run failed: {outcome.failed}")
    summary: dict[str, Any] = json.loads((outcome.folder / "summary.json").read_text())
    return summary, seconds


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many run beside what is done within."""
    if not count:
        yield
        return
    command = [sys.executable, str(ROOT / "tests" / "busy.py"), "--count", str(count), "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as others:
        try:
            yield
        finally:
            assert others.stdin is not None
            others.stdin.close()
