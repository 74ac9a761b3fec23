# SPDX-License-Identifier: Apache-2.0
"""How long a run with 20 million stored samples takes to load and summarise, and in what memory.

Aim: under 10 s and 1 GiB. Prints figures, asserts nothing. The run is made up (synthetic_run),
and reading is measured in a process of its own, so that its peak memory is the reader's alone.

    python benchmarks/bench_summary.py [SAMPLES]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

N_CASES = 8
ROUNDS = 1000


def make_run(folder: Path, n_samples: int) -> Path:
    """A run of 8 cases, 3 processes each, with ``n_samples`` samples in all."""
    from _runs import Size, make_up

    sys.path[:0] = [str(ROOT / "tests")]
    import synthetic_run

    cases = [synthetic_run.case(n) for n in range(1, N_CASES + 1)]
    sizes = [Size(case, ROUNDS * 3, 500, n_samples // N_CASES) for case in cases]
    return make_up(folder, {"name": "bench"}, sizes)


def read_run(path: str, scan: bool) -> None:
    """Summarise the run, or also read every sample; print seconds and the peak memory as JSON."""
    before = time.perf_counter()
    from kickbench.results.reader import RunReader
    from kickbench.summary.summarise import summarise

    reader = RunReader(path)
    summarise(reader)
    rows = sum(reader.count_rows(record.id, "exit_samples") for record in reader.cases)
    if scan:
        for record in reader.cases:
            for batch in reader.batches(record.id, "exit_samples"):
                del batch
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - before,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "samples": rows,
            }
        )
    )


def main() -> None:
    """Make a run, read it in fresh processes, print what it took."""
    if sys.argv[1:2] == ["--read"]:
        read_run(sys.argv[2], sys.argv[3] == "scan")
        return
    n_samples = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = make_run(Path(folder), n_samples)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for mode, what in (("summary", "summarised"), ("scan", "summarised and read whole")):
            done = subprocess.run(
                [sys.executable, __file__, "--read", str(path), mode],
                check=True,
                capture_output=True,
                text=True,
            )
            found = json.loads(done.stdout)
            print(
                f"{found['samples'] / 1e6:.1f} million samples ({size / 2**20:.0f} MiB) {what} in "
                f"{found['seconds']:.2f} s ({found['seconds'] / 10:.2f} of the 10 s aimed at), "
                f"peak memory {found['peak_mib']:.0f} MiB "
                f"({found['peak_mib'] / 1024:.2f} of the 1 GiB)"
            )


if __name__ == "__main__":
    main()
