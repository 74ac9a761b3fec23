# SPDX-License-Identifier: Apache-2.0
"""Two emulated hosts with two kernels: the report of the fleet says which kernel takes more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import kickbench_captured

from kickbench.lab import build as builder

SCENARIO = """
name = "counted"
[vm]
vcpus = [1]
[guest]
program = "pm_timer"
[measure]
kinds = ["exits"]
methods = ["flag_signal", "sigmask"]
processes = 1
max_seconds = 1
"""


def called(*words: object) -> str:
    done = kickbench_captured(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.lab("amd-count", "no-immediate-exit")
def test_the_kernel_that_takes_more_is_named(tmp_path: Path) -> None:
    scenario, store = tmp_path / "counted.toml", tmp_path / "store"
    scenario.write_text(SCENARIO)
    counts = {}
    for host, config in (("plain", "no-immediate-exit"), ("patched", "lab")):
        results = tmp_path / host
        words = ["--machine", "amd-count", "--kernel", builder.built(config=config)]
        called("lab", "run", scenario, *words, "--results", results)
        called("fleet", "add", store, results, "--host", host)
        rows = json.loads(called("lab", "counts", results, "--json"))
        counts[host] = {row["method"]: row["instructions"] for row in rows}
    assert counts["plain"] != counts["patched"]
    found = json.loads(called("fleet", "report", store, "--json"))
    kernels = {host["name"]: host["facts"]["kernel"] for host in found["hosts"]}
    (contrast,) = found["contrasts"]
    assert {*contrast["values"]} == {*kernels.values()}
    assert contrast["hosts"] == [1, 1]
    one, other = (
        next(host for host, kernel in kernels.items() if kernel == value)
        for value in contrast["values"]
    )
    shown = {found["figures"][e["figure"]]["method"]: e for e in contrast["effects"]}
    for method, effect in shown.items():
        expected = counts[other][method] / counts[one][method] - 1
        assert effect["relative"] == pytest.approx(expected, rel=1e-3)
        assert effect["low"] == effect["high"] == effect["relative"]
    assert {*shown} == {m for m in counts[one] if counts[one][m] != counts[other][m]}
    more = "dearer" if counts[other]["sigmask"] > counts[one]["sigmask"] else "cheaper"
    assert f"{more} under kernel {kernels[other]} than under {kernels[one]}" in found["answer"][-1]
