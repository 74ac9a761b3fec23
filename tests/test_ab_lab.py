# SPDX-License-Identifier: Apache-2.0
"""Two kernels boot each other by kexec, in an emulated machine whose firmware is this test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_run

from kickbench.ab import image, state
from kickbench.ab.state import RUNS
from kickbench.lab import agents
from kickbench.lab import build as builder
from kickbench.lab.machines import MACHINES
from kickbench.lab.processes import child
from kickbench.lab.qemu import Channels, Qemu

IN_MACHINE = Path(__file__).with_name("ab_in_machine.py")
SECONDS = 600
"""For one machine, on a busy host. It takes 30 s or so."""

POWERS = 3
"""How often a machine is switched on whose emulator crashes."""

BEGIN = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p {share}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share {share}
{command} >> {share}/log 2>&1
echo o > /proc/sysrq-trigger
sleep 60
"""


def powered_on(kernel: Path, begin: Path, share: Path) -> None:
    """Boot a kernel as a firmware does. Returns when the machine is switched off, or reset.

    QEMU 7.2 itself may crash while a kernel looks for its devices: a segmentation fault of its own.
    Nothing has run in the machine then, and it is switched on again.
    """
    emulator = MACHINES["amd-numa"].emulator
    assert isinstance(emulator, Qemu)
    agent = agents.prepared(emulator.uname)
    words = emulator.command_line(kernel, {"share": share}, Channels(3, 4, 5, 6), agent)
    words = words[: words.index("-chardev")]
    at = words.index("-append") + 1
    words[at] = words[at].replace(f'"{emulator.python}"', f'"{begin}"')
    words += ["-serial", f"file:{share}/console"]
    log = share / "log"
    for _ in range(POWERS):
        before = log.stat().st_size if log.exists() else 0
        with child(words, terminal=False, stdin=subprocess.DEVNULL) as machine:
            crashed = machine.wait(SECONDS) < 0
        if not crashed or (log.exists() and log.stat().st_size > before):
            return
    pytest.fail(f"QEMU crashed {POWERS} times")


@pytest.mark.lab("amd-numa", "kexec-no-immediate-exit")
def test_two_kernels_boot_each_other_and_a_panic_costs_one_boot(tmp_path: Path) -> None:
    first, second = (builder.built(config=name) for name in ("kexec", "kexec-no-immediate-exit"))
    (share := tmp_path / "share").mkdir()
    run = synthetic_run.build(tmp_path, cases=[synthetic_run.case(2)])
    command = [sys.executable, IN_MACHINE, share, run, first, second]
    begin = tmp_path / "begin"
    begin.write_text(BEGIN.format(share=share, command=" ".join(map(str, command))))
    begin.chmod(0o755)
    log = share / "log"
    powers = 0
    while not powers or "returns to its default kernel" not in log.read_text():
        powers += 1
        assert powers <= 2, log.read_text()
        powered_on(first, begin, share)
    assert powers == 2  # before the first boot of the plan, and after the panic
    plan = state.load(share / "plan")
    assert plan.end == "done", log.read_text()
    builds = {"A": image.build(first), "B": image.build(second)}
    for number, boot in enumerate(plan.boots):
        assert (share / "plan" / RUNS / str(boot.place) / "build").read_text() == builds[
            boot.kernel
        ]
        assert len(boot.faults) == (number == 1)
    assert "ended before its run was finished" in plan.boots[1].faults[0]
    boots = [line for line in log.read_text().splitlines() if " runs " in line]
    assert len({line.partition(" ")[0] for line in boots}) == len(boots) == 2 + 5
