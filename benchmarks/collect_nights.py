# SPDX-License-Identifier: Apache-2.0
"""Take real short nights and keep their rounds, for bench_nights.py.

A night is one run of one case at 1 vCPU and full speed: sigmask and immediate_exit, five processes
of 0.4 s. Every eighth to sixteenth night begins an episode of other load, from one busy process to
two for each CPU, of one to six nights. What is kept, in the order of the nights:

    night, process  of each round
    quiet_ns        2 x rounds: the quiet exit of sigmask, of immediate_exit
    mean_ns         the same of the mean
    load            of each night: the share of the CPUs' time that others used, as measured
    beside          of each night: how many busy processes were started

The file is written anew after each night, so that nothing is lost:

    python benchmarks/collect_nights.py nights.npz [--nights 200] [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _runs import busy_processes, run_once
from numpy.typing import NDArray

from kickbench.results.reader import RunReader
from kickbench.summary.exits import read_rounds

PROCESSES = 5
SECONDS = 2.0
METHODS = ("sigmask", "immediate_exit")


def one_night(seed: int) -> tuple[dict[str, NDArray[Any]], float]:
    """The rounds of a night, and the share of the CPUs' time that others used."""
    with tempfile.TemporaryDirectory() as folder:
        summary, _ = run_once(
            Path(folder),
            methods=list(METHODS),
            processes=PROCESSES,
            max_seconds=SECONDS,
            block_ms=1.0,
            seed=seed,
        )
        (case,) = summary["cases"]
        (path,) = Path(folder).glob("benchmark/*/summary.json")
        reader = RunReader(path.parent)
        rounds = read_rounds(reader, case["id"])
        names = reader.case(case["id"]).parameters["methods"]
    which = [names.index(method) for method in METHODS]
    quiet, mean = rounds.quiet_ns_per_exit[:, which], rounds.ns_per_exit[:, which]
    there = np.isfinite(quiet).all(1) & np.isfinite(mean).all(1)
    share = case["load"]["others_share"]
    return {
        "process": rounds.process[there].astype(np.int8),
        "quiet_ns": quiet[there].T.astype(np.float32),
        "mean_ns": mean[there].T.astype(np.float32),
    }, float("nan") if share is None else share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two nights")
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    found: list[dict[str, NDArray[Any]]] = []
    load, beside = [], []
    episode, until_next, count = 0, int(random.integers(8, 17)), 0
    for night in range(arguments.nights):
        if episode == 0 and night >= until_next:
            episode = int(random.integers(1, 7))
            until_next = night + episode + int(random.integers(8, 17))
            count = int(random.integers(1, 2 * (os.cpu_count() or 1) + 1))
        running = count if episode else 0
        with busy_processes(running):
            rounds, share = one_night(night)
        episode = max(0, episode - 1)
        found.append({"night": np.full(len(rounds["process"]), night, np.int16), **rounds})
        load.append(share)
        beside.append(running)
        joined = {name: np.concatenate([n[name] for n in found], axis=-1) for name in found[0]}
        part = arguments.file.with_suffix(".part.npz")
        np.savez_compressed(part, load=np.array(load), beside=np.array(beside), **joined)
        part.replace(arguments.file)
        print(f"night {night}: {running} beside, others used {100 * share:.0f} %", flush=True)
        time.sleep(arguments.pause)


if __name__ == "__main__":
    main()
