# SPDX-License-Identifier: Apache-2.0
"""The lab's machines with arm64: their own root, and what runs in them for real."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from command import KICKBENCH

from kickbench.cli import lab as cli
from kickbench.errors import HostError, UsageError
from kickbench.lab import agents, tools
from kickbench.lab.machines import MACHINES
from kickbench.lab.qemu import VIRT, Channels, Qemu
from kickbench.remote import package

NAMES = ("arm64", "arm64-count", "arm64-lines")


def words(name: str) -> list[str]:
    emulator = MACHINES[name].emulator
    assert isinstance(emulator, Qemu)
    stubbed = replace(emulator, platform=replace(VIRT, root=lambda: Path("/cache/root")))
    return stubbed.command_line(Path("/k/Image"), {}, Channels(3, 4, 5, 6), Path("/c/agent"))


@pytest.mark.parametrize("name", NAMES)
def test_the_root_is_their_own_and_the_hosts_files_are_beside_it(name: str) -> None:
    read_only = "security_model=none,readonly=on,multidevs=remap"
    assert f"local,id=root,path=/cache/root,{read_only}" in words(name)
    assert f"local,id=host,path=/,{read_only}" in words(name)
    assert f"local,id=agent,path=/c/agent,{read_only}" in words(name)
    parameters = words(name)[words(name).index("-append") + 1]
    assert 'init=/bin/sh -- "/init.sh" "/usr/bin/python3" "/c/agent" virtio' in parameters
    assert parameters.startswith("console=ttyAMA0 ")
    place = MACHINES[name].emulator.place
    assert place(Path("/a/program")) == Path("/host/a/program")


@pytest.mark.parametrize("name", NAMES)
def test_kvm_has_el2_and_an_interrupt_controller(name: str) -> None:
    assert "virt,virtualization=on,gic-version=3" in words(name)


def test_a_tick_of_the_counter_is_a_nanosecond() -> None:
    for name in ("arm64-count", "arm64-lines"):
        said = words(name)
        assert said[said.index("-cpu") + 1].endswith(",cntfrq=1000000000")
    assert not any("cntfrq" in word for word in words("arm64"))


def test_a_kernel_of_another_architecture_is_refused(tmp_path: Path) -> None:
    kernels = {name: tmp_path / name for name in ("x86_64", "arm64", "unknown")}
    kernels["x86_64"].write_bytes(bytes(0x202) + b"HdrS")
    kernels["arm64"].write_bytes(bytes(0x38) + b"ARMd")
    kernels["unknown"].write_bytes(b"")
    for machine, other in (("arm64", "x86_64"), ("amd-numa", "arm64")):
        if tools.missing(machine):
            pytest.skip(f"no emulator for {machine}")
        with pytest.raises(UsageError, match=f"for {other}, and {machine} boots one for "):
            cli.prepare(machine, kernels[other])
        assert cli.prepare(machine, kernels["unknown"])[1] == kernels["unknown"]


def test_without_an_engine_for_arm64_the_compilers_packages_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(package, "names", lambda: {"x86_64": "agent-1"})
    package.agent.cache_clear()
    agents.prepared.cache_clear()
    with pytest.raises(HostError, match="install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"):
        agents.prepared("aarch64")


def lab(*arguments: str) -> str:
    done = subprocess.run(
        [*KICKBENCH, "lab", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.lab("arm64")
def test_a_shell_sees_this_hosts_files_and_cannot_change_them(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a text\n")
    file = f"/host{tmp_path}/here"
    said = lab(
        *("shell", "--machine", "arm64", "--", "sh", "-c"),
        f"uname -m; cat {file}; echo more >> {file} || ls /sys/devices/system/node; "
        "python3 -c \"from kickbench.kvm import Kvm; print('KVM', Kvm().api_version())\"",
    )
    assert {"aarch64", "a text", "node0", "node1", "KVM 12"} <= {*said.split("\n"), *said.split()}
    assert (tmp_path / "here").read_text() == "a text\n"


SCENARIO = """
name = "counts"
[vm]
vcpus = 1
irqchip = "kernel"
[guest]
program = "pm_timer"
[measure]
kinds = ["exits"]
methods = ["immediate_exit", "sigmask"]
baseline = "immediate_exit"
processes = 1
max_seconds = 1
"""


SHARED = """
name = "shared"
[vm]
vcpus = 1
irqchip = "kernel"
[guest]
program = "pm_timer"
[measure]
kinds = ["exits", "kick"]
methods = ["immediate_exit", "sigmask"]
baseline = "immediate_exit"
[kick]
states = ["guest"]
"""


@pytest.mark.lab("arm64-lines")
def test_vcpus_share_the_line_of_siglock_and_a_kick_of_one_in_the_guest_is_explained(
    tmp_path: Path,
) -> None:
    scenario = tmp_path / "shared.toml"
    scenario.write_text(SHARED)
    file = tmp_path / "e.json"
    lab("explain", str(scenario), "--machine", "arm64-count", "--json", str(file))
    document = json.loads(file.read_text())
    placements = {
        name: [
            [line for line in place["shared_lines"] if "siglock" in line["what"]]
            for place in method["placements"]
        ]
        for name, method in document["methods"].items()
    }
    assert placements["immediate_exit"] == [[]] * 4
    lines = [line for (line,) in placements["sigmask"]]
    assert {line["what"] for line in lines} == {"sighand_struct.siglock"}
    assert [line["node"] for line in lines] == [0, 0, 1, 1]  # the creator's
    assert "__set_current_blocked" in lines[0]["functions"]
    # 4 and 2. A vCPU whose turn ends under the lock makes the other one wait.
    assert lines[0]["writes_per_exit"] == pytest.approx(4, abs=0.5)
    assert lines[0]["reads_per_exit"] >= 2
    kicks = document["kicks"]["guest"]
    assert "kick_signal_handler [kickbench]" in kicks["immediate_exit"]["functions"]
    assert "kick_signal_handler [kickbench]" not in kicks["sigmask"]["functions"]
    for one in kicks.values():
        assert "in turn" in one["machine"]
        assert sum(one["phases"].values()) == one["instructions_per_kick"]
        assert one["phases"]["switch"] == 0
        assert one["phases"]["delivery"] > one["phases"]["call"] > 0


@pytest.mark.lab("arm64-count")
def test_the_signal_mask_costs_the_same_instructions_in_a_count_and_in_an_explanation(
    tmp_path: Path,
) -> None:
    scenario = tmp_path / "counts.toml"
    scenario.write_text(SCENARIO)
    machine = ("--machine", "arm64-count")
    lab("run", str(scenario), *machine, "--results", str(tmp_path))
    (run,) = tmp_path.glob("counts/*")
    assert json.loads((run / "manifest.json").read_text())["emulated"]
    rows = json.loads(lab("counts", str(run), "--json"))
    # compare judges a count that 95 % of the samples have.
    assert all(row["share"] >= 0.95 for row in rows)
    counts = {row["method"]: row["instructions"] for row in rows}
    lab("explain", str(scenario), *machine, "--json", str(tmp_path / "e.json"))
    methods = json.loads((tmp_path / "e.json").read_text())["methods"]
    explained = {name: one["instructions_per_exit"] for name, one in methods.items()}
    assert counts == explained
    assert "__set_task_blocked" in methods["sigmask"]["functions"]
    assert sum(methods["sigmask"]["functions"].values()) == explained["sigmask"]
