# SPDX-License-Identifier: Apache-2.0
"""Each check of the doctor on hosts that have and have not its disease; then the two commands."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import write
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kickbench.cli import app
from kickbench.cli.doctor import answer
from kickbench.host import doctor
from kickbench.host.capabilities import Capabilities
from kickbench.host.doctor import CHECKS, Finding, Host, can_run, examine
from kickbench.host.topology import Topology
from kickbench.methods import CATALOGUE
from kickbench.report.words.verdict import notes
from kickbench.run import machine
from kickbench.scenario.kinds import TRANSPORTS

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
NO_KVM = Capabilities(
    path="/dev/kvm", reason="/dev/kvm does not exist: load KVM", advice="load KVM"
)
KVM = Capabilities(
    path="/dev/kvm",
    present=True,
    usable=True,
    api_version=12,
    max_vcpus=1024,
    immediate_exit=True,
    irqchip=True,
    split_irqchip=True,
    counter_khz=2_000_000,
)
CPUS = tuple(range(16))
TOPOLOGY = Topology(
    online=CPUS,
    nodes={0: CPUS[:8], 1: CPUS[8:]},
    siblings={cpu: (cpu,) for cpu in CPUS},
    isolated=(4, 5),
    affinity=CPUS,
    allowed=CPUS,
)
QUIET = {
    "proc/cpuinfo": "processor: 0\nflags: rdtscp constant_tsc nonstop_tsc",
    "proc/loadavg": "0.00 0.00 0.00 1/100 1",
    "proc/self/status": "CapEff:\t0000000000004000",
    "proc/sys/kernel/version": "#1 SMP PREEMPT_DYNAMIC",
    "proc/sys/kernel/osrelease": "6.12.0",
    "boot/config-6.12.0": "CONFIG_KVM=y\n# CONFIG_KASAN is not set",
    f"{CPU}/cpufreq/policy0/scaling_governor": "performance",
    f"{CPU}/intel_pstate/no_turbo": "1",
    f"{CLOCK}/current_clocksource": "tsc",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
}


def stat(user: int = 0, idle: int = 0, steal: int = 0) -> str:
    return f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3"


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A tuned two-socket server, at which the doctor has nothing to say."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 1 << 40))
    before, after = stat(user=100, idle=10_000), stat(user=100, idle=10_040)
    return Host(write(tmp_path, QUIET), KVM, TOPOLOGY, before, after, lambda *_cpus: 0)


def finding(host: Host, check: str) -> Finding:
    return next(found for found in examine(host) if found.id == check)


def test_a_tuned_server_is_in_good_health(quiet: Host) -> None:
    assert [found for found in examine(quiet) if found.status != "ok"] == []


def test_every_check_has_its_own_id_and_says_why() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(check.title and check.why for check in CHECKS)


PAGE = Path(__file__).parents[1] / "docs" / "doctor.md"
PARTS = ["What it means", "Figures", "See it", "Do", "Meanwhile"]


def test_every_check_has_its_section_in_the_docs_and_a_row_in_its_contents() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    ids = sorted(check.id for check in CHECKS)
    assert sorted(name for name, _ in sections) == ids
    assert sorted(re.findall(r"^\| \[(\w+)\]\(#\1\) \|", text, re.MULTILINE)) == ids
    for check in CHECKS:
        body = dict(sections)[check.id]
        assert body.startswith(f'Printed as "{check.title}".'), check.id
        assert re.findall(r"^\*\*([^*]+)\.\*\*", body, re.MULTILINE) == PARTS, check.id


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_the_page_marks_the_findings_that_a_run_repeats_with_its_figures(
    check: doctor.Check,
) -> None:
    found = {"id": check.id, "status": "warn", "title": check.title, "detail": "", "advice": None}
    repeated = notes({"cases": [], "environment": {"doctor": [found]}})
    row = rf"^\| \[{check.id}\]\(#{check.id}\) \| (\*? ?)"
    mark = re.search(row, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert mark is not None
    assert bool(mark[1]) == bool(repeated)


def test_no_other_heading_takes_the_anchor_of_a_check() -> None:
    """Of two equal anchors GitHub gives the first one the name."""
    headings = re.findall(r"^#+ (.*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = [heading.lower().replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)


def test_a_host_that_tells_nothing_is_examined_all_the_same(tmp_path: Path) -> None:
    topology = Topology.read(tmp_path, affinity=[0])
    found = examine(Host(tmp_path, NO_KVM, topology, "", ""))
    assert [one.id for one in found] == [check.id for check in CHECKS]
    assert [one.id for one in found if one.status == "fail"] == ["kvm"]


def test_cpus_that_disagree_on_the_tsc_are_named(quiet: Host) -> None:
    warped = replace(quiet, counter_warp_cycles=lambda _first, other: 40 * (other == 2))
    found = finding(warped, "tsc_agreement")
    detail = "the TSCs of CPU 0 and CPU 2 differ by 40 cycles"
    assert (found.status, found.detail) == ("warn", detail)
    unknown = replace(quiet, counter_warp_cycles=lambda *_cpus: None)
    found = finding(unknown, "tsc_agreement")
    assert (found.status, found.detail.partition("could")[2]) == ("warn", " not be compared")


def test_every_node_has_its_tsc_compared(quiet: Host) -> None:
    """Also on a host of more CPUs than are tried."""
    cpus = tuple(range(200))
    for cpu in cpus:
        (quiet.root / f"{CPU}/cpu{cpu}/node{cpu // 100}").mkdir(parents=True)
    big = replace(
        quiet,
        topology=replace(TOPOLOGY, online=cpus, affinity=cpus, allowed=cpus),
        counter_warp_cycles=lambda a, b: 7 * (a // 100 != b // 100),
    )
    assert finding(big, "tsc_agreement").status == "warn"


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"\x1f\x8b\x08garbage"])
def test_garbage_in_every_file_is_no_error(quiet: Host, content: bytes) -> None:
    (quiet.root / "proc/config.gz").touch()
    for path in quiet.root.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    assert len(examine(replace(quiet, stat_before="cpu x", stat_after="cpu"))) == len(CHECKS)


def test_no_kvm_fails_with_the_advice_apart(quiet: Host) -> None:
    found = finding(replace(quiet, capabilities=NO_KVM), "kvm")
    assert (found.status, found.detail, found.advice) == (
        "fail",
        "/dev/kvm does not exist",
        "load KVM",
    )
    assert not can_run([found])


@pytest.mark.parametrize("lacking", ["immediate_exit", "irqchip", "split_irqchip"])
def test_a_kvm_that_lacks_something_can_still_measure(quiet: Host, lacking: str) -> None:
    kvm = replace(KVM, **{lacking: False})  # type: ignore[arg-type]
    found = finding(replace(quiet, capabilities=kvm), "capabilities")
    assert found.status == "warn"
    assert lacking.replace("_irqchip", "") in found.detail
    assert can_run(examine(replace(quiet, capabilities=kvm)))


def with_files(host: Host, files: dict[str, str]) -> Host:
    write(host.root, files)
    return host


@pytest.mark.parametrize(
    ("check", "files", "detail", "advice"),
    [
        ("tsc", {"proc/cpuinfo": "flags: constant_tsc nonstop_tsc"}, "no RDTSCP", "-cpu host"),
        (
            "tsc",
            {
                "proc/cpuinfo": "flags: rdtscp nonstop_tsc",
                f"{CLOCK}/current_clocksource": "kvm-clock",
            },
            "lacks constant_tsc",
            "invtsc",
        ),
        (
            "tsc",
            {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "hpet"},
            "the kernel found the TSC unstable, and took hpet",
            "dmesg",
        ),
        (
            "clocksource",
            {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "tsc hpet"},
            "hpet, though the TSC is available",
            "echo tsc",
        ),
        (
            "governor",
            {f"{CPU}/cpufreq/policy1/scaling_governor": "powersave"},
            "performance, powersave",
            "cpupower frequency-set -g performance",
        ),
        ("turbo", {f"{CPU}/intel_pstate/no_turbo": "0"}, "on", "echo 1 .*no_turbo"),
        (
            "cores",
            {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-15"},
            "CPUs 0-3: cpu_core; CPUs 4-15: cpu_atom",
            "cpu:0-3",
        ),
        (
            "cores",
            {f"{CPU}/cpu{cpu}/cpu_capacity": str(1024 if cpu > 7 else 512) for cpu in CPUS},
            "CPUs 0-7: capacity 512; CPUs 8-15: capacity 1024",
            "cpu:8-15",
        ),
        (
            "idle",
            {
                f"{CPU}/cpu0/cpuidle/state0/name": "POLL",
                f"{CPU}/cpu0/cpuidle/state0/latency": "0",
                f"{CPU}/cpu0/cpuidle/state0/disable": "0",
                f"{CPU}/cpu0/cpuidle/state1/name": "C6",
                f"{CPU}/cpu0/cpuidle/state1/latency": "133",
                f"{CPU}/cpu0/cpuidle/state1/disable": "0",
            },
            "as deep as C6, which takes 133 us",
            "cpupower idle-set",
        ),
        (
            "seccomp",
            {"proc/self/status": "CapEff:\t0000000000004000\nSeccomp_filters:\t2"},
            "2 filters",
            "seccomp=unconfined",
        ),
        (
            "nx_huge_pages",
            {
                "sys/module/kvm/parameters/nx_huge_pages": "Y",
                "proc/sys/kernel/osrelease": "6.11.0-1015-azure",
            },
            "first KVM_RUN may spoil the VM",
            "6.14 or later",
        ),
        ("numa_balancing", {"proc/sys/kernel/numa_balancing": "1"}, "on", "echo 0 .*numa_bal"),
        (
            "quota",
            {
                "proc/self/cgroup": "0::/",
                "proc/self/mountinfo": "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 none rw",
                "sys/fs/cgroup/cpu.max": "50000 100000",
            },
            "the time of 0.5 CPUs",
            "cpu.max",
        ),
        (
            "thp",
            {"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"},
            "always",
            "echo madvise",
        ),
        (
            "kernel",
            {"boot/config-6.12.0": "CONFIG_KASAN=y\nCONFIG_PROVE_LOCKING=y"},
            "KASAN, PROVE_LOCKING",
            "without these options",
        ),
        (
            "kernel",
            {"proc/sys/kernel/version": "#1 SMP PREEMPT_RT"},
            "PREEMPT_RT",
            "without PREEMPT_RT",
        ),
        ("kernel", {"sys/kernel/realtime": "1"}, "PREEMPT_RT", "without PREEMPT_RT"),
        (
            "hypervisor",
            {
                "proc/cpuinfo": "flags: rdtscp constant_tsc nonstop_tsc hypervisor",
                "sys/class/dmi/id/sys_vendor": "QEMU",
            },
            r"itself a virtual machine \(QEMU\)",
            "bare metal",
        ),
    ],
)
def test_a_disturbance_in_the_files_is_found(
    check: str, files: dict[str, str], detail: str, advice: str, quiet: Host
) -> None:
    found = finding(with_files(quiet, files), check)
    assert found.status == "warn"
    assert re.search(detail, found.detail)
    assert re.search(advice, found.advice or "")


def test_numa_balancing_needs_two_nodes(quiet: Host) -> None:
    write(quiet.root, {"proc/sys/kernel/numa_balancing": "1"})
    one_node = replace(quiet, topology=replace(TOPOLOGY, nodes={0: CPUS}))
    assert finding(one_node, "numa_balancing").status == "ok"


@pytest.mark.parametrize(
    ("disable", "held_us", "status"), [("1", None, "ok"), ("0", 0, "ok"), ("0", 200, "warn")]
)
def test_deep_states_that_nobody_may_enter_are_no_trouble(
    quiet: Host, disable: str, held_us: int | None, status: str
) -> None:
    state = f"{CPU}/cpu0/cpuidle/state1"
    write(quiet.root, {f"{state}/name": "C6", f"{state}/latency": 133, f"{state}/disable": disable})
    if held_us is not None:
        (quiet.root / "dev").mkdir(exist_ok=True)
        (quiet.root / "dev/cpu_dma_latency").write_bytes(held_us.to_bytes(4, "little"))
    assert finding(quiet, "idle").status == status


@pytest.mark.parametrize(
    ("release", "setting", "status"),
    [
        ("6.13.2", "Y", "warn"),
        ("6.13.2", "N", "ok"),
        ("6.14.0-rc4", "Y", "ok"),
        ("6.1.0-18-cloud", "Y", "ok"),
        ("garbage", "Y", "ok"),
    ],
)
def test_only_kernels_that_may_spoil_a_vm_are_warned_of(
    quiet: Host, release: str, setting: str, status: str
) -> None:
    files = {
        "sys/module/kvm/parameters/nx_huge_pages": setting,
        "proc/sys/kernel/osrelease": release,
    }
    assert finding(with_files(quiet, files), "nx_huge_pages").status == status


@pytest.mark.parametrize(
    ("policy", "runtime", "status"),
    [
        (os.SCHED_FIFO, "950000", "warn"),
        (os.SCHED_RR, "-1", "ok"),
        (os.SCHED_OTHER, "950000", "ok"),
    ],
)
def test_only_real_time_threads_are_throttled(
    quiet: Host, policy: int, runtime: str, status: str
) -> None:
    host = with_files(quiet, {"proc/sys/kernel/sched_rt_runtime_us": runtime})
    assert finding(replace(host, policy=policy), "rt_throttling").status == status


def test_boost_without_intel_pstate(quiet: Host) -> None:
    (quiet.root / f"{CPU}/intel_pstate/no_turbo").unlink()
    assert finding(quiet, "turbo").status == "ok"
    found = finding(with_files(quiet, {f"{CPU}/cpufreq/boost": "1"}), "turbo")
    assert found.status == "warn"
    assert "echo 0" in (found.advice or "")


def test_the_configuration_in_proc_counts_first(quiet: Host) -> None:
    (quiet.root / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_KCSAN=y\n"))
    assert finding(quiet, "kernel").detail == "built with KCSAN"


@pytest.mark.parametrize(
    ("topology", "check", "detail"),
    [
        (replace(TOPOLOGY, affinity=(0, 1)), "cpus", "2 CPUs (0-1)"),
        (replace(TOPOLOGY, nodes={0: CPUS}), "nodes", "one node"),
        (replace(TOPOLOGY, nodes={0: CPUS, 1: ()}), "nodes", "node 1: memory only"),
        (
            replace(TOPOLOGY, siblings={cpu: (cpu % 8, cpu % 8 + 8) for cpu in CPUS}),
            "smt",
            "8 of 8 cores run several threads",
        ),
        (replace(TOPOLOGY, isolated=()), "isolated", "none"),
    ],
)
def test_a_disturbance_in_the_topology_is_found(
    topology: Topology, check: str, detail: str, quiet: Host
) -> None:
    found = finding(replace(quiet, topology=topology), check)
    assert found.status == "warn"
    assert detail in found.detail
    assert found.advice


def test_two_cpus_are_not_asked_to_isolate_one(quiet: Host) -> None:
    topology = replace(TOPOLOGY, online=(0, 1), isolated=())
    assert finding(replace(quiet, topology=topology), "isolated").status == "ok"


@pytest.mark.parametrize(
    ("before", "after", "check", "status", "detail"),
    [
        (stat(idle=100_000), stat(idle=100_039, steal=1), "steal", "warn", "2.5% now"),
        (stat(idle=960, steal=40), stat(idle=1000, steal=40), "steal", "warn", "since boot"),
        (stat(idle=99_960, steal=40), stat(idle=100_000, steal=40), "steal", "ok", "0.0% now"),
        (stat(), stat(user=10, idle=30), "load", "warn", "25% busy"),
        (stat(), stat(user=1, idle=39), "load", "ok", "2% busy"),
        (stat(), stat(), "load", "ok", "0% busy"),
    ],
)
def test_steal_and_load_come_from_two_samples(
    before: str, after: str, check: str, status: str, detail: str, quiet: Host
) -> None:
    found = finding(replace(quiet, stat_before=before, stat_after=after), check)
    assert found.status == status
    assert detail in found.detail


@given(*[st.lists(st.integers(0, 10**12), min_size=8, max_size=10)] * 2)
def test_shares_of_any_two_samples_are_shares(first: list[int], second: list[int]) -> None:
    texts = ["cpu  " + " ".join(map(str, ticks)) for ticks in (first, second)]
    shares = doctor._cpu_time_shares(*texts)
    assert shares is not None
    assert 0 <= shares.busy <= 1
    assert 0 <= shares.steal <= 1


@pytest.mark.parametrize(
    ("limits", "effective", "status"),
    [
        ((8 << 20, 8 << 20), "0", "warn"),
        ((8 << 20, 64 << 20), "0", "ok"),
        ((8 << 20, resource.RLIM_INFINITY), "0", "ok"),
        ((8 << 20, 8 << 20), "4000", "ok"),
        ((8 << 20, 8 << 20), "ffffffffffffbfff", "warn"),
    ],
)
def test_locked_memory_needs_the_limit_or_the_capability(
    limits: tuple[int, int],
    effective: str,
    status: str,
    quiet: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    write(quiet.root, {"proc/self/status": f"CapEff: {effective}"})
    assert finding(quiet, "memlock").status == status


def test_few_descriptors_limit_the_vcpus(quiet: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for hard, detail in (
        (1024, "at most 1024, enough for 164 vCPUs"),
        (50, "at most 50, enough for 1 vCPU"),
        (20, "at most 20, too few for a single vCPU"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (20, hard))
        found = finding(quiet, "open_files")
        assert (found.status, found.detail) == ("warn", detail)


def test_the_hard_limit_of_descriptors_counts(quiet: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 6 * 1024 + 40))
    assert finding(quiet, "open_files").status == "ok"


def test_little_locked_memory_is_not_shown_as_none(
    quiet: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 << 10, 64 << 10))
    write(quiet.root, {"proc/self/status": "CapEff: 0000000000000000"})
    assert finding(quiet, "memlock").detail == "64 KiB"


# --- kickbench doctor -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "sentence"),
    [
        (["ok", "ok"], "This host can run kickbench, and nothing disturbs it."),
        (["ok", "warn"], "This host can run kickbench, but 1 thing limits or disturbs it."),
        (["warn", "warn"], "This host can run kickbench, but 2 things limit or disturb it."),
        (["warn", "fail"], "This host cannot run kickbench: see title 1."),
    ],
)
def test_the_answer_comes_in_a_sentence(statuses: list[doctor.Status], sentence: str) -> None:
    findings = [
        Finding(str(index), f"title {index}", status, "detail", "why")
        for index, status in enumerate(statuses)
    ]
    assert answer(findings) == sentence


def show(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.setattr(Host, "read", classmethod(lambda _: host))


def test_doctor_prints_the_answer_first_and_what_to_do(
    quiet: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(quiet.root, {f"{CPU}/intel_pstate/no_turbo": "0"})
    show(monkeypatch, quiet)
    result = CliRunner().invoke(app, ["doctor"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0] == "This host can run kickbench, but 1 thing limits or disturbs it."
    turbo = next(index for index, line in enumerate(lines) if "turbo" in line)
    assert lines[turbo].split() == ["warn", "turbo", "on"]
    assert lines[turbo + 1].split()[0] == "why:"
    assert any(line.split()[:2] == ["do:", "echo"] for line in lines[turbo:])
    assert "\x1b" not in result.stdout  # not a terminal


def test_doctor_leaves_with_3_when_the_main_job_cannot_run(
    quiet: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, replace(quiet, capabilities=NO_KVM))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 3
    assert result.stdout.startswith("This host cannot run kickbench: see KVM.")


@pytest.mark.parametrize(("kvm", "code"), [(KVM, 0), (NO_KVM, 3)])
def test_doctor_in_json(
    kvm: Capabilities, code: int, quiet: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch, replace(quiet, capabilities=kvm))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == code
    printed = json.loads(result.stdout)
    assert printed["can_run"] is (code == 0)
    assert [one["id"] for one in printed["findings"]] == [check.id for check in CHECKS]
    keys = {"id", "title", "status", "detail", "why", "advice"}
    assert all(one.keys() == keys for one in printed["findings"])


@pytest.mark.kvm
def test_doctor_on_this_host() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["can_run"] is True


# --- kickbench methods ------------------------------------------------------------------------


def test_methods_without_kvm_lists_all_and_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe", lambda: NO_KVM)
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 0
    assert result.stdout.startswith("This host supports 0 of ")
    assert "/dev/kvm does not exist: load KVM" in result.stdout
    assert "sigmask" in result.stdout


def test_methods_on_a_kernel_without_immediate_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe", lambda: replace(KVM, immediate_exit=False))
    result = CliRunner().invoke(app, ["methods", "--json"])
    assert result.exit_code == 0
    rows = {row["id"]: row for row in json.loads(result.stdout)["methods"]}
    assert (rows["sigmask"]["supported"], rows["sigmask"]["reason"]) == (True, None)
    assert rows["immediate_exit"]["supported"] is False
    assert "KVM_CAP_IMMEDIATE_EXIT" in rows["immediate_exit"]["reason"]
    assert rows["flag_signal"]["race_free"] is False
    assert rows["user_exit"]["handler"] is None
    assert "no released kernel" in rows["user_exit"]["reason"]


@pytest.mark.parametrize("there", [True, False])
def test_methods_says_which_transports_the_kernel_has(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "probe", lambda: replace(KVM, pidfd_thread=there))
    result = CliRunner().invoke(app, ["methods", "--json"])
    rows = {row["id"]: row for row in json.loads(result.stdout)["transports"]}
    assert list(rows) == list(TRANSPORTS)
    assert {name for name, row in rows.items() if not row["supported"]} == (
        set() if there else {"pidfd"}
    )
    assert ("Linux 6.9" in (rows["pidfd"]["reason"] or "")) is not there


def test_methods_prints_every_column_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe", lambda: KVM)
    lines = [
        line.strip()
        for line in CliRunner().invoke(app, ["methods"]).stdout.splitlines()
        if line.strip()
    ]
    for method in CATALOGUE.values():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{method.id}: "))
        entry = dict(re.split(r"  +", line, maxsplit=1) for line in lines[at + 1 : at + 8])
        no_signal = "none: there is no signal"
        assert entry["kicker"] == method.kicker
        assert entry["vCPU thread"] == method.vcpu_thread
        assert entry["handler"] == (method.handler or no_signal)
        assert entry["mask"] == (method.mask or no_signal)
        assert entry["claim"] == ("race-free" if method.race_free else "loses kicks")
        assert entry["used by"] == method.used_by
        assert bool(method.needs) is (entry["needs"] != "any KVM")
    for name, doc in TRANSPORTS.items():
        assert any(line.startswith(name) for line in lines)
        assert doc in lines


@pytest.mark.kvm
def test_methods_on_this_host() -> None:
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 0
    assert "supported" in result.stdout
