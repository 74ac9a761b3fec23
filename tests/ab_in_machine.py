# SPDX-License-Identifier: Apache-2.0
"""What runs in each boot of the machine of test_ab_lab.py: makes a plan, or goes on with it.

Where a plan is measured, this only looks whether KVM can run a guest under the kernel that came up,
notes which one that is, and takes a run that is there already: the runner takes minutes in an
emulator. In the second boot of a plan it has the kernel panic once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kickbench.ab import hosts, image, job, state
from kickbench.ab.order import order
from kickbench.ab.state import Boot, State
from kickbench.host.capabilities import probe


def say(text: str) -> None:
    print(text, flush=True)


def main(share: Path, run: Path, kernels: list[str]) -> None:
    plan, host = share / "plan", hosts.Kexec()

    def measure(_: State, folder: Path) -> None:
        if folder.name.startswith("002") and not (share / "panicked").exists():
            (share / "panicked").touch()
            Path("/proc/sysrq-trigger").write_text("c")
        assert probe().usable
        folder.mkdir()
        (folder / "build").write_text(image.running())
        (folder / "run").symlink_to(run)

    if not (plan / state.STATE).exists():
        host.check()
        first, second = (host.kernel(given, None) for given in kernels)
        hosts.check(plan, [first, second])
        made = State(
            scenario={},
            by="kexec",
            seed=1,
            settle_seconds=0,
            began_on=host.build(),
            kernels={"A": first, "B": second},
            boots=[Boot(kernel=letter) for letter in order(2, 1)],
        )
        state.create(plan, made)
    say(f"{host.boot_id()} runs {host.build()}")
    job.go_on(plan, host, measure, say, time.sleep)


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
