# SPDX-License-Identifier: Apache-2.0
"""The environment: complete JSON on any host, whatever is missing there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_host import write
from hypothesis import given
from hypothesis import strategies as st

import kickbench
from kickbench.host import environment
from kickbench.host.files import chosen, read_fields, read_int, read_text

CPUINFO = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 106
model name	: Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz
stepping	: 6
microcode	: 0xd0003a5
flags		: fpu tsc constant_tsc nonstop_tsc{more}

processor	: 1
model name	: something else
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO.format(more=""),
            "proc/cmdline": "root=UUID=1 isolcpus=2-3 rd.luks.key=/k api_token=abc quiet -- --x y",
            "proc/loadavg": "0.50 1.00 2.25 1/100 1234",
            "proc/meminfo": "MemTotal:  1000 kB\nMemAvailable: 600 kB\nHugePages_Total:  8",
            "proc/sys/kernel/osrelease": "6.12.0",
            "sys/devices/system/cpu/online": "0-3",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance",
            "sys/devices/system/cpu/cpufreq/policy10/scaling_governor": "powersave",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
            "sys/devices/system/cpu/nohz_full": "(null)",
            "sys/devices/system/cpu/vulnerabilities/mds": "Mitigation: Clear CPU buffers",
            "sys/devices/system/node/node0/cpulist": "0-3",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       900 kB",
            "sys/devices/system/node/node0/distance": "10 21",
            "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
            "sys/module/kvm/parameters/halt_poll_ns": "200000",
            "sys/module/kvm_intel/parameters/ept": "Y",
        },
    )


def test_a_server_is_described(server: Path) -> None:
    found = environment.collect(server)
    assert found["kernel"]["release"] == "6.12.0"
    assert found["cpu"]["model"] == "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz"
    assert found["cpu"]["microcode"] == "0xd0003a5"
    assert found["cpu"]["nohz_full"] == ""
    assert found["frequency"]["governors"] == ["performance", "powersave"]
    assert found["frequency"]["turbo"] is True
    assert found["mitigations"] == {"mds": "Mitigation: Clear CPU buffers"}
    assert found["nodes"] == {"0": {"cpus": "0-3", "memory_kib": 900, "distances": [10, 21]}}
    assert found["memory"]["transparent_hugepages"] == "always"
    assert found["memory"]["hugepages"] == 8
    assert found["kvm_modules"] == {"kvm": {"halt_poll_ns": "200000"}, "kvm_intel": {"ept": "Y"}}
    assert found["load"] == [0.5, 1.0, 2.25]
    assert found["software"]["kickbench"] == kickbench.__version__


def test_all_policies_and_all_cores_are_described(server: Path) -> None:
    """A hybrid processor has more than one of each."""
    policies = "sys/devices/system/cpu/cpufreq"
    write(
        server,
        {
            f"{policies}/policy0/scaling_max_freq": "5100000",
            f"{policies}/policy0/scaling_min_freq": "800000",
            f"{policies}/policy0/scaling_driver": "intel_pstate",
            f"{policies}/policy10/scaling_max_freq": "3900000",
            f"{policies}/policy10/scaling_min_freq": "400000",
            f"{policies}/policy10/scaling_driver": "intel_pstate",
            "sys/devices/cpu_core/cpus": "0-1",
            "sys/devices/cpu_atom/cpus": "2-3",
            "sys/devices/system/cpu/cpu3/cpu_capacity": "446",
        },
    )
    found = environment.collect(server)
    frequency = found["frequency"]
    assert (frequency["min_khz"], frequency["max_khz"]) == (400_000, 5_100_000)
    assert frequency["driver"] == "intel_pstate"
    kinds = [(kind["cpus"], kind["type"], kind["capacity"]) for kind in found["cpu"]["kinds"]]
    assert kinds == [("0-1", "cpu_core", None), ("2", "cpu_atom", None), ("3", "cpu_atom", 446)]


def test_private_kernel_parameters_stay_here(server: Path) -> None:
    line = environment.collect(server)["kernel"]["cmdline"]
    assert line == "root=*** isolcpus=2-3 rd.luks.key=*** api_token=*** quiet"


def test_a_machine_is_told_from_others_without_its_own_id(server: Path) -> None:
    assert environment.collect(server)["machine_id"] is None
    found = set()
    for own in ("0123456789abcdef" * 2, "0123456789abcdef" * 2 + "\n", "f" * 32):
        write(server, {"etc/machine-id": own})
        found.add(environment.collect(server)["machine_id"])
        assert own.strip() not in json.dumps(environment.collect(server))
    assert [len(one) for one in found] == [12, 12]


@pytest.mark.parametrize("own", ["", "uninitialized\n"])
def test_a_container_without_an_id_is_any_machine(server: Path, own: str) -> None:
    write(server, {"etc/machine-id": own})
    assert environment.collect(server)["machine_id"] is None


def test_a_host_may_be_given_a_name(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KICKBENCH_HOSTNAME", "node7")
    assert environment.collect(server)["hostname"] == "node7"


def test_an_empty_root_gives_nulls_and_no_error(tmp_path: Path) -> None:
    found = environment.collect(tmp_path)
    assert found["hostname"] is None
    assert found["kernel"]["cmdline"] is None
    assert found["cpu"]["model"] is None
    assert found["frequency"]["turbo"] is None
    assert found["load"] is None
    assert found["kvm_modules"] == {}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"garbage: [", b":\n\n:"])
def test_garbage_in_every_file_is_no_error(server: Path, content: bytes) -> None:
    for path in server.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    json.dumps(environment.collect(server), allow_nan=False)


def test_every_file_may_be_a_directory(server: Path) -> None:
    for path in [path for path in server.rglob("*") if path.is_file()]:
        path.unlink()
        path.mkdir()
    json.dumps(environment.collect(server), allow_nan=False)


def test_this_host_is_json_without_loss() -> None:
    found = environment.collect()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["kernel"]["release"]


def test_turbo_through_the_boost_switch(tmp_path: Path) -> None:
    boost = "sys/devices/system/cpu/cpufreq/boost"
    assert environment.turbo(write(tmp_path, {boost: "0"})) is False
    assert environment.turbo(write(tmp_path, {boost: "1"})) is True


def test_an_arm_server_is_described(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd atomics\nCPU part\t: 0xd0c",
            "proc/interrupts": " 13:  49  57  GICv3  27 Level  arch_timer",
            "sys/devices/system/cpu/online": "0-1",
            "sys/devices/system/cpu/cpu0/regs/identification/midr_el1": "0x00000000413fd0c1",
            "dev/kmsg": "6,1,1,-;kvm [1]: Hyp nVHE mode initialized successfully",
        },
    )
    found = environment.collect(root)
    assert found["cpu"]["model"] == "Arm Neoverse-N1"
    assert found["cpu"]["vendor"] == "Arm"
    assert found["cpu"]["stepping"] == "r3p1"
    assert found["virtualization"]["kvm_mode"] == "Hyp nVHE mode"
    assert found["virtualization"]["interrupt_controller"] == "GICv3"
    assert found["virtualization"]["hypervisor"] is None


@pytest.mark.parametrize(
    ("file", "text", "who"),
    [
        ("hypervisor/compatible", "linux,kvm\0", "linux,kvm"),
        ("compatible", "linux,dummy-virt\0", "unknown"),
    ],
)
def test_a_device_tree_tells_of_a_virtual_machine(
    tmp_path: Path, file: str, text: str, who: str
) -> None:
    root = write(tmp_path, {f"proc/device-tree/{file}": text})
    assert environment.hypervisor(root) == who


def test_who_a_virtual_machine_runs_under(tmp_path: Path) -> None:
    assert environment.hypervisor(tmp_path) is None
    write(tmp_path, {"proc/cpuinfo": CPUINFO.format(more=" hypervisor")})
    assert environment.hypervisor(tmp_path) == "unknown"
    write(tmp_path, {"sys/class/dmi/id/sys_vendor": "QEMU", "sys/class/dmi/id/product_name": "PC"})
    assert environment.hypervisor(tmp_path) == "QEMU PC"
    write(tmp_path, {"sys/hypervisor/type": "xen"})
    assert environment.hypervisor(tmp_path) == "xen"


@given(st.text())
def test_no_value_of_a_private_parameter_survives(value: str) -> None:
    word = "".join(value.split())
    line = environment.safe_command_line(f"quiet password={word} isolcpus=1 -- {word}")
    assert line == "quiet password=*** isolcpus=1"


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("always [madvise] never", "madvise"),
        ("none voluntary (full) lazy", "full"),
        ("performance", "performance"),
        ("", None),
        (None, None),
    ],
)
def test_the_marked_choice_of_a_switch(text: str | None, choice: str | None) -> None:
    assert chosen(text) == choice


def test_unreadable_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("many words\n")
    assert read_text(tmp_path, "/missing") is None
    assert read_text(tmp_path, "/") is None
    assert read_int(tmp_path, "/missing") is None
    assert read_int(tmp_path, "/text") is None
    assert read_fields(tmp_path, "/missing") == {}


def test_it_counts_the_filters_that_run_with_every_system_call(server: Path) -> None:
    assert environment.collect(server)["limits"]["seccomp_filters"] is None
    write(server, {"proc/self/status": "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t3"})
    assert environment.collect(server)["limits"]["seccomp_filters"] == 3
