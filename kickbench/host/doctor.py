# SPDX-License-Identifier: Apache-2.0
"""Finds what forbids or disturbs a measurement on this host, and says what to do about it.

``CHECKS`` is the table, with one entry per check. A check that fails means that kickbench cannot
measure here. A warning means that it can, with more noise or with cases left out. Nothing is
changed on the host, and nothing here takes part in a measurement.
"""

from __future__ import annotations

import gzip
import os
import re
import resource
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Optional

from kickbench import affinity, arch
from kickbench.cpu_list import format_cpu_list
from kickbench.host import cgroups, clock, cores, environment
from kickbench.host.capabilities import Capabilities, probe
from kickbench.host.files import chosen, numbered, read_fields, read_int, read_text
from kickbench.host.load import Ticks, cpu_ticks
from kickbench.host.topology import Topology
from kickbench.kvm import DEVICE

Status = Literal["ok", "warn", "fail"]

SAMPLE_SECONDS = 0.2
STEAL_SINCE_BOOT_WARN = 0.005
BUSY_WARN = 0.05
MEMLOCK_WANTED_BYTES = 64 << 20
"""Room for the sample buffers of some vCPUs."""
MAX_VCPUS = 1024
FDS_PER_VCPU = 6
"""The vCPU and its mapping, a pidfd of its thread, and some files in /proc."""
FDS_BESIDE = 40
"""How many a process has open beside those of its vCPUs."""
SHIPPED_VCPUS = 8
"""The largest case of the main job, smp_windows_like."""
CAP_IPC_LOCK = 14  # include/uapi/linux/capability.h

IDLE_WARN_US = 10
"""A CPU that takes longer to wake shows in the latency of a kick.

For example, a kick of a halted vCPU took 18.5 us at p50 on a busy nested host.
"""
DEBUG_OPTIONS = (
    "DEBUG_KMEMLEAK",
    "DEBUG_LOCK_ALLOC",
    "DEBUG_MUTEXES",
    "DEBUG_OBJECTS",
    "DEBUG_PAGEALLOC_ENABLE_DEFAULT",
    "DEBUG_PREEMPT",
    "DEBUG_SPINLOCK",
    "GCOV_KERNEL",
    "KASAN",
    "KCOV",
    "KCSAN",
    "KMSAN",
    "LOCK_STAT",
    "PROVE_LOCKING",
    "PROVE_RCU",
    "SLUB_DEBUG_ON",
    "UBSAN",
)
"""Kernel options that put work into the paths that kickbench measures."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. ``why`` it matters is the same whatever the outcome; ``advice``
    is None when there is nothing to do."""

    id: str
    title: str
    status: Status
    detail: str
    why: str
    advice: str | None = None


@dataclass(frozen=True)
class Host:
    """What the checks look at: the files below ``root``, KVM, the CPUs, two /proc/stat samples,
    how far the counters of two CPUs differ (None: this host's are measured), and the scheduling
    policy of this process."""

    root: Path
    capabilities: Capabilities
    topology: Topology
    stat_before: str
    stat_after: str
    counter_warp_cycles: clock.WarpCycles | None = None
    policy: int = os.SCHED_OTHER

    @classmethod
    def read(cls, root: str | Path = "/", kvm_path: str | Path = DEVICE) -> Host:
        """Look at this host; takes SAMPLE_SECONDS, during which this process only sleeps."""
        before = read_text(root, "/proc/stat") or ""
        time.sleep(SAMPLE_SECONDS)
        after = read_text(root, "/proc/stat") or ""
        return cls(
            Path(root),
            probe(kvm_path),
            Topology.read(root),
            before,
            after,
            policy=affinity.policy(),
        )


Outcome = tuple[Status, str, Optional[str]]
"""Status, detail, advice."""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    id: str
    title: str
    run: Callable[[Host], Outcome]
    why: str


def examine(host: Host | None = None) -> list[Finding]:
    """All checks in the order of the table. Never raises because the host lacks something."""
    host = host or Host.read()
    findings = []
    for check in CHECKS:
        try:
            status, detail, advice = check.run(host)
        except (OSError, ValueError) as error:
            status, detail, advice = "warn", f"could not be checked: {error}", None
        findings.append(Finding(check.id, check.title, status, detail, check.why, advice))
    return findings


def can_run(findings: list[Finding]) -> bool:
    """Whether the main job, measuring on this host's KVM, can run at all."""
    return not any(finding.status == "fail" for finding in findings)


def check_kvm(host: Host) -> Outcome:
    kvm = host.capabilities
    if kvm.usable:
        return "ok", f"{kvm.path} works: a guest ran (API version {kvm.api_version})", None
    reason = kvm.reason or f"{kvm.path} does not work"
    return "fail", reason.removesuffix(f": {kvm.advice}"), kvm.advice or "see dmesg"


def check_capabilities(host: Host) -> Outcome:
    kvm = host.capabilities
    if not kvm.usable:
        return "warn", "unknown until KVM works", None
    missing = [
        what
        for there, what in (
            (kvm.immediate_exit, "immediate_exit (method immediate_exit is skipped)"),
            (kvm.irqchip, "an in-kernel irqchip (cases with irqchip = kernel are skipped)"),
            (
                kvm.split_irqchip or "split" not in arch.current().IRQCHIPS,
                "a split irqchip (cases with irqchip = split are skipped)",
            ),
        )
        if not there
    ]
    if missing:
        return "warn", "KVM lacks " + ", ".join(missing), "run a kernel of 4.11 or later"
    return "ok", f"immediate_exit, irqchips; up to {kvm.max_vcpus} vCPUs in a machine", None


def check_cpus(host: Host) -> Outcome:
    cpus = host.topology.affinity
    here = f"{_count(len(cpus), 'CPU')} ({format_cpu_list(cpus)})"
    if len(cpus) >= SHIPPED_VCPUS:
        return "ok", here, None
    advice = (
        f"in cases with more than {_count(len(cpus), 'vCPU')}, which are marked oversubscribed, "
        "figures include waiting for a CPU"
    )
    if len(cpus) < len(host.topology.online):
        online = len(host.topology.online)
        advice += (
            f"; this process may not use {_count(online - len(cpus), 'CPU')} (taskset, cpuset)"
        )
    return "warn", f"{here}; smp_windows_like goes to {SHIPPED_VCPUS} vCPUs", advice


def check_nodes(host: Host) -> Outcome:
    nodes = host.topology.nodes
    text = "; ".join(
        f"node {node}: " + (f"CPUs {format_cpu_list(cpus)}" if cpus else "memory only")
        for node, cpus in nodes.items()
    )
    if sum(1 for cpus in nodes.values() if cpus) > 1:
        return "ok", text, None
    advice = "placements on node:1 are skipped here; measure them on a host with two sockets"
    return "warn", f"one node with CPUs ({text})", advice


def check_tsc(host: Host) -> Outcome:
    if objection := clock.objection(host.root):
        if clock.is_given_up(host.root):
            return "warn", objection, "dmesg | grep -i clocksource says why"
        return "warn", objection, "in a VM, pass the host's CPU through (-cpu host,+invtsc)"
    khz = host.capabilities.counter_khz
    return "ok", f"steady, {khz / 1e3:.0f} MHz" if khz else "steady", None


def check_clocksource(host: Host) -> Outcome:
    current, available = clock.sources(host.root)
    if current is None:
        return "warn", "unknown", None
    machine = arch.current()
    if current in machine.CLOCK_SOURCES or machine.BARE_CLOCK_SOURCE not in available:
        return "ok", current, None
    advice = f"echo {machine.BARE_CLOCK_SOURCE} | sudo tee {clock.SOURCE}/current_clocksource"
    return "warn", f"{current}, though the {machine.COUNTER} is available", advice


def check_tsc_agreement(host: Host) -> Outcome:
    cpus = host.topology.allowed
    tried = clock.pairs(cpus, cpus, host.root)
    if not tried:
        return "ok", "one CPU", None
    if disagreement := clock.disagreement(tried, host.counter_warp_cycles):
        return "warn", disagreement, "stamps fall back to CLOCK_MONOTONIC_RAW, which costs more"
    return "ok", f"{_count(len(set(chain(*tried))), 'CPU')} agree", None


def check_governor(host: Host) -> Outcome:
    found = environment.governors(host.root)
    if not found:
        return "ok", "no frequency scaling visible", None
    if found == ["performance"]:
        return "ok", "performance", None
    return "warn", ", ".join(found), "sudo cpupower frequency-set -g performance"


def check_turbo(host: Host) -> Outcome:
    on = environment.turbo(host.root)
    if on is None:
        return "ok", "no switch visible", None
    if not on:
        return "ok", "off", None
    folder = environment.CPU
    if read_text(host.root, f"{folder}/intel_pstate/no_turbo") is not None:
        return "warn", "on", f"echo 1 | sudo tee {folder}/intel_pstate/no_turbo"
    return "warn", "on", f"echo 0 | sudo tee {folder}/cpufreq/boost"


def check_idle(host: Host) -> Outcome:
    # All CPUs have the states of the first, on all but the oddest hosts.
    folder = f"{environment.CPU}/cpu{host.topology.online[0]}/cpuidle"
    states = [
        (latency, read_text(state, "name") or state.name)
        for state in numbered(host.root, folder, "state").values()
        if read_int(state, "disable") == 0
        and (latency := read_int(state, "latency") or 0) > IDLE_WARN_US
    ]
    if not states:
        return "ok", f"no CPU sleeps so deep that it takes {IDLE_WARN_US} us to wake", None
    allowed = _dma_latency_us(host.root)
    if allowed is not None and allowed < min(states)[0]:
        return "ok", f"somebody holds /dev/cpu_dma_latency at {allowed} us", None
    latency, name = max(states)
    advice = (
        "cpupower idle-set -D 10, or have a program hold /dev/cpu_dma_latency open with 0 in it "
        "(tuned-adm profile latency-performance does)"
    )
    return "warn", f"CPUs sleep as deep as {name}, which takes {latency} us to leave", advice


def _dma_latency_us(root: Path) -> int | None:
    """The exit latency that somebody allows at most; None if it cannot be read (power/qos.c)."""
    try:
        value = (root / "dev/cpu_dma_latency").read_bytes()[:4]
    except OSError:
        return None
    return int.from_bytes(value, "little", signed=True) if len(value) == 4 else None


def check_cores(host: Host) -> Outcome:
    kinds = cores.kinds(host.topology.allowed, host.root)
    if cores.are_alike(kinds):
        return "ok", "all CPUs are alike", None
    fastest = max(kinds, key=lambda kind: (kind.capacity or 0, kind.max_khz or 0))
    advice = f"place vCPUs and kickers on one kind, such as cpu:{format_cpu_list(fastest.cpus)}"
    return "warn", "; ".join(map(str, kinds)), advice


def check_smt(host: Host) -> Outcome:
    cores = set(host.topology.siblings.values())
    shared = [core for core in cores if len(core) > 1]
    if not shared:
        return "ok", "no two online CPUs share a core", None
    advice = (
        f"use at most {_count(len(cores), 'vCPU')}, or switch SMT off: echo off | sudo tee "
        f"{environment.CPU}/smt/control"
    )
    return "warn", f"{len(shared)} of {_count(len(cores), 'core')} run several threads", advice


def check_isolated(host: Host) -> Outcome:
    isolated, online = host.topology.isolated, host.topology.online
    if isolated:
        cpus = format_cpu_list(isolated)
        return "ok", f"CPUs {cpus}; the placement cpu:{cpus} uses them", None
    if len(online) < 4:
        return "ok", "none, and too few CPUs to set some aside", None
    rest = format_cpu_list(online[len(online) // 2 :])
    advice = f"boot with isolcpus={rest} nohz_full={rest}, then place vCPUs on cpu:{rest}"
    return "warn", "none: other work may be scheduled next to the vCPUs", advice


def check_steal(host: Host) -> Outcome:
    sample = _cpu_time_shares(host.stat_before, host.stat_after)
    since_boot = _cpu_time_shares("", host.stat_after)
    if sample is None or since_boot is None:
        return "warn", "/proc/stat does not show it", None
    detail = f"{sample.steal:.1%} now, {since_boot.steal:.2%} since boot"
    if sample.steal > 0 or since_boot.steal > STEAL_SINCE_BOOT_WARN:
        advice = "use a machine with dedicated CPUs, or look at steal_ns in the table of blocks"
        return "warn", detail, advice
    return "ok", detail, None


def check_load(host: Host) -> Outcome:
    sample = _cpu_time_shares(host.stat_before, host.stat_after)
    average = (read_text(host.root, "/proc/loadavg") or "unknown").split()[0]
    if sample is None:
        return "warn", f"/proc/stat does not show it; load average {average}", None
    detail = f"CPUs {sample.busy:.0%} busy now; load average {average}"
    if sample.busy > BUSY_WARN:
        return "warn", detail, "stop other work (top shows it), then measure"
    return "ok", detail, None


def check_memlock(host: Host) -> Outcome:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    capabilities = read_fields(host.root, "/proc/self/status").get("CapEff", "0")
    if int(capabilities, 16) >> CAP_IPC_LOCK & 1:
        return "ok", "no limit (CAP_IPC_LOCK)", None
    # A process may raise its soft limit to the hard one, and the worker does.
    if resource.RLIM_INFINITY in (soft, hard):
        return "ok", "no limit", None
    limit = max(soft, hard)
    detail = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    if max(soft, hard) >= MEMLOCK_WANTED_BYTES:
        return "ok", detail, None
    kib = MEMLOCK_WANTED_BYTES >> 10
    advice = f"raise the limit (ulimit -l {kib}, or memlock in /etc/security/limits.conf)"
    return "warn", detail, advice


def check_open_files(_: Host) -> Outcome:
    # The worker raises its soft limit to the hard one.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FDS_PER_VCPU * MAX_VCPUS + FDS_BESIDE
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return "ok", f"enough for {MAX_VCPUS} vCPUs", None
    advice = f"raise the hard limit (ulimit -Hn {wanted}, or nofile in limits.conf)"
    vcpus = (hard - FDS_BESIDE) // FDS_PER_VCPU
    enough = f"enough for {_count(vcpus, 'vCPU')}" if vcpus > 0 else "too few for a single vCPU"
    return "warn", f"at most {hard}, {enough}", advice


def check_quota(host: Host) -> Outcome:
    quota = cgroups.cpu_quota(host.root)
    if quota is None:
        return "ok", "none", None
    advice = "run outside the cgroup, or raise its quota (cpu.max, or --cpus of the container)"
    share = "one CPU" if quota == 1 else f"{quota:g} CPUs"
    return "warn", f"the cgroup may use the time of {share}, then it is throttled", advice


def check_seccomp(host: Host) -> Outcome:
    filters = environment.seccomp_filters(host.root)
    if not filters:
        return "ok", "no filter" if filters == 0 else "the kernel does not tell", None
    advice = "run outside of the container, or with --security-opt seccomp=unconfined"
    return "warn", f"{_count(filters, 'filter')} of system calls in this process", advice


def check_rt_throttling(host: Host) -> Outcome:
    runtime = read_int(host.root, environment.RT_RUNTIME)
    if host.policy not in (os.SCHED_FIFO, os.SCHED_RR) or runtime in (None, -1):
        return "ok", "not in use", None
    advice = f"echo -1 | sudo tee {environment.RT_RUNTIME}"
    return "warn", f"real-time threads get {runtime} us of CPU time in a period", advice


def check_nx_huge_pages(host: Host) -> Outcome:
    setting = read_text(host.root, "/sys/module/kvm/parameters/nx_huge_pages")
    release = read_text(host.root, "/proc/sys/kernel/osrelease") or ""
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if setting not in ("Y", "force") or not (6, 11) <= version < (6, 14):
        return "ok", "not affected", None
    advice = (
        "run a kernel of 6.14 or later, or: "
        "echo N | sudo tee /sys/module/kvm/parameters/nx_huge_pages"
    )
    detail = f"Linux {version[0]}.{version[1]}: a kick in a VM's first KVM_RUN may spoil the VM"
    return "warn", detail, advice


def check_numa_balancing(host: Host) -> Outcome:
    if len(host.topology.nodes) < 2:
        return "ok", "one node", None
    if read_int(host.root, environment.NUMA_BALANCING) in (None, 0):
        return "ok", "off", None
    return "warn", "on", f"echo 0 | sudo tee {environment.NUMA_BALANCING}"


def check_thp(host: Host) -> Outcome:
    mode = chosen(read_text(host.root, f"{environment.THP}/enabled"))
    if mode == "always":
        return "warn", mode, f"echo madvise | sudo tee {environment.THP}/enabled"
    return "ok", mode or "not in this kernel", None


def check_kernel(host: Host) -> Outcome:
    version = read_text(host.root, "/proc/sys/kernel/version") or ""
    if read_int(host.root, "/sys/kernel/realtime") == 1 or "PREEMPT_RT" in version:
        advice = "boot a kernel without PREEMPT_RT, unless you want to compare it"
        return "warn", "PREEMPT_RT: siglock is a sleeping lock here", advice
    config = kernel_config(host.root)
    if config is None:
        return "ok", "no PREEMPT_RT; its configuration cannot be read", None
    enabled = [option for option in DEBUG_OPTIONS if f"CONFIG_{option}=y" in config]
    if enabled:
        return "warn", "built with " + ", ".join(enabled), "boot a kernel without these options"
    return "ok", "no PREEMPT_RT, no debugging options in its configuration", None


def check_hypervisor(host: Host) -> Outcome:
    name = environment.hypervisor(host.root)
    if name is None:
        return "ok", "bare metal", None
    named = f" ({name})" if name != "unknown" else ""
    advice = "trust the differences between methods, and measure absolute times on bare metal"
    return "warn", f"this host is itself a virtual machine{named}", advice


CHECKS: tuple[Check, ...] = (
    Check("kvm", "KVM", check_kvm, "all measurements run on its vCPUs"),
    Check(
        "capabilities",
        "KVM features",
        check_capabilities,
        "some methods and cases need these features",
    ),
    Check(
        "cpus",
        "CPUs",
        check_cpus,
        "with more vCPUs than CPUs, the figures include the scheduler as well as KVM",
    ),
    Check(
        "nodes",
        "NUMA nodes",
        check_nodes,
        "siglock costs more when its memory is on another node, which a host with one cannot show",
    ),
    Check(
        "tsc",
        "counter",
        check_tsc,
        "it stamps every exit, so it must tick evenly in all states of the CPU",
    ),
    Check(
        "clocksource",
        "clock source",
        check_clocksource,
        "reading the time costs a system call if the clock source is not the CPU's counter",
    ),
    Check(
        "tsc_agreement",
        "counters across CPUs",
        check_tsc_agreement,
        "blocks begin and end by the counter on all vCPUs together",
    ),
    Check("governor", "governor", check_governor, "a changing frequency changes every cost"),
    Check(
        "turbo",
        "turbo",
        check_turbo,
        "the frequency then depends on temperature and on how many CPUs are busy",
    ),
    Check(
        "cores",
        "core types",
        check_cores,
        "a figure is of all vCPUs together, and an exit costs more on a slow core",
    ),
    Check(
        "idle",
        "idle states",
        check_idle,
        "a vCPU that halts leaves its CPU idle, and a kick must wake that CPU first",
    ),
    Check("smt", "SMT siblings", check_smt, "two vCPUs on one core slow each other down"),
    Check("isolated", "isolated CPUs", check_isolated, "the kernel schedules nothing else on them"),
    Check("steal", "steal", check_steal, "time that the outer host took away looks like cost"),
    Check("load", "load", check_load, "other work preempts vCPU threads and fills caches"),
    Check("memlock", "locked memory", check_memlock, "locked buffers have no page faults"),
    Check("open_files", "open files", check_open_files, "each vCPU and its thread use about six"),
    Check("quota", "CPU quota", check_quota, "throttling stops all vCPUs for milliseconds"),
    Check("seccomp", "seccomp", check_seccomp, "its filters run in every KVM_RUN and every kick"),
    Check(
        "rt_throttling",
        "real-time throttling",
        check_rt_throttling,
        "the kernel stops real-time vCPUs when they have used up their time",
    ),
    Check(
        "numa_balancing",
        "NUMA balancing",
        check_numa_balancing,
        "it unmaps pages to see who uses them, so that the guest's next access exits to the kernel",
    ),
    Check(
        "thp",
        "huge pages",
        check_thp,
        "some processes get transparent huge pages and some do not, and which ones differs by run",
    ),
    Check("kernel", "kernel", check_kernel, "debugging code slows the paths that are measured"),
    Check(
        "nx_huge_pages",
        "nx_huge_pages",
        check_nx_huge_pages,
        "every later KVM_RUN of such a VM fails with ENOMEM, though there is memory",
    ),
    Check(
        "hypervisor",
        "hypervisor",
        check_hypervisor,
        "absolute times then contain the outer host's exits",
    ),
)


@dataclass(frozen=True)
class CpuTimeShares:
    """Shares of all CPUs' time, 0 to 1."""

    busy: float
    steal: float


def _cpu_time_shares(before: str, after: str) -> CpuTimeShares | None:
    """Shares between two texts of /proc/stat (proc_stat(5)); since boot when ``before`` is ""."""
    first, last = (cpu_ticks(text).get("cpu") for text in (before, after))
    if last is None:
        return None
    first = first or Ticks(0, 0, 0)
    busy, steal = last.busy - first.busy, last.steal - first.steal
    total = busy + steal + last.idle - first.idle
    if total <= 0:
        return CpuTimeShares(0.0, 0.0)
    # Idle time may go backwards, see proc_stat(5) on iowait.
    return CpuTimeShares(min(1.0, max(0.0, busy / total)), min(1.0, max(0.0, steal / total)))


def kernel_config(root: str | Path = "/") -> frozenset[str] | None:
    """The lines of the running kernel's configuration; None if it cannot be read."""
    try:
        packed = (Path(root) / "proc/config.gz").read_bytes()
        return frozenset(gzip.decompress(packed).decode(errors="replace").splitlines())
    except (OSError, EOFError, zlib.error):
        pass
    release = read_text(root, "/proc/sys/kernel/osrelease")
    for path in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        text = read_text(root, path)
        if text is not None:
            return frozenset(text.splitlines())
    return None


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
