# SPDX-License-Identifier: Apache-2.0
"""Observing a whole Linux in QEMU with KVM, on the lab's SVM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import linux_guest
import pytest
from command import KICKBENCH

from kickbench.errors import UsageError
from kickbench.lab import build as builder
from kickbench.watch.programs import object_file

TESTS = Path(__file__).parent


@pytest.mark.lab("amd-numa", "observe")
def test_a_linux_on_the_pm_timer_is_observed(tmp_path: Path) -> None:
    try:
        object_file()
    except UsageError as error:
        pytest.skip(str(error))
    program, archive = tmp_path / "init", tmp_path / "initramfs"
    compiler = ["cc", "-O2", "-static", "-o", str(program), str(TESTS / "clock_reader.c")]
    subprocess.run(compiler, check=True)
    archive.write_bytes(linux_guest.initramfs(program))
    kernel = str(builder.built(config="observe"))
    script = [sys.executable, str(TESTS / "linux_guest.py"), kernel, str(archive), str(tmp_path)]
    done = subprocess.run(
        [*KICKBENCH, "lab", "shell", "--machine", "amd-numa", "--kernel", kernel, "--", *script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["emulated"] is True
    (case,) = summary["cases"]
    assert (case["kind"], case["status"]) == ("observed", "ok")
    assert [vcpu["cpus"] for vcpu in case["vcpus_seen"]] == [[cpu] for cpu in linux_guest.CPUS]
    assert case["lost_events"] == 0
    # Each vCPU does nothing but read the clock.
    (most, *_) = case["exits"]["ways"]
    assert (most["reason"], most["address"], most["size"], most["write"]) == ("io", 0x608, 4, False)
    assert most["share"] > 0.9
    assert "0x608 (the ACPI PM timer)" in done.stderr
