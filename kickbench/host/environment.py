# SPDX-License-Identifier: Apache-2.0
"""The environment of a run: what a reader of the results must know about the host.

Facts only, as JSON. :mod:`kickbench.host.doctor` says what is wrong with them. A fact that is not
known on this host is null. No serial numbers, no user names, no values of kernel parameters
that look private.
"""

from __future__ import annotations

import hmac
import os
import re
import resource
from pathlib import Path
from typing import Any

import kickbench
from kickbench.cpu_list import format_cpu_list
from kickbench.host import cgroups, clock, cores, midr
from kickbench.host.files import chosen, cpu_flags, numbered, read_fields, read_int, read_text
from kickbench.host.topology import Topology, distances

LIBRARIES = ("numpy", "pandas", "pyarrow", "pydantic", "pyperf", "scipy")
PRIVATE = re.compile(
    r"pass|secret|token|key|auth|cred|uuid|luks|url|^(rd)?init$|^(nfs)?root$|^ip$", re.IGNORECASE
)
"""Names of kernel parameters whose values do not belong into results that are passed around."""

CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
THP = "/sys/kernel/mm/transparent_hugepage"
DMI = "/sys/class/dmi/id"
DEVICE_TREE = "/proc/device-tree"
_KMSG_BYTES = 8192  # CONSOLE_EXT_LOG_MAX, the longest message
RT_RUNTIME = "/proc/sys/kernel/sched_rt_runtime_us"
NUMA_BALANCING = "/proc/sys/kernel/numa_balancing"


def collect(root: str | Path = "/", topology: Topology | None = None) -> dict[str, Any]:
    """All facts, JSON-able: frequencies in kHz, memory in KiB, times in seconds.

    Reads some tens of small files and never raises for one that is missing.
    """
    topology = topology or Topology.read(root)
    return {
        "hostname": hostname(root),
        "machine_id": machine_id(root),
        "kernel": _kernel(root),
        "cpu": _cpu(root, topology),
        "frequency": _frequency(root),
        "nodes": _nodes(root, topology),
        "mitigations": _mitigations(root),
        "virtualization": _virtualization(root),
        "kvm_modules": _kvm_modules(root),
        "clocksource": _clocksource(root),
        "memory": _memory(root),
        "load": _load(root),
        "limits": {
            "memlock_bytes": _limit(resource.RLIMIT_MEMLOCK),
            "open_files": _limit(resource.RLIMIT_NOFILE),
            "cpu_quota_cpus": cgroups.cpu_quota(root),
            "seccomp_filters": seccomp_filters(root),
        },
        "software": _software(),
    }


def hostname(root: str | Path = "/") -> str | None:
    """The host's name, or what KICKBENCH_HOSTNAME calls it: a container's own name says nothing."""
    return os.environ.get("KICKBENCH_HOSTNAME") or read_text(root, "/proc/sys/kernel/hostname")


def machine_id(root: str | Path = "/") -> str | None:
    """12 hexadecimal digits that no other installation of Linux has; None if it has no id.

    machine-id(5) asks that nobody sees the id itself, and that each program makes its own of it.
    """
    own = read_text(root, "/etc/machine-id") or ""
    if not re.fullmatch("[0-9a-f]{32}", own):  # empty or "uninitialized", as in images
        return None
    return hmac.digest(own.encode(), b"kickbench", "sha256").hex()[:12]


def seccomp_filters(root: str | Path) -> int | None:
    """How many filters run with each of our system calls, KVM_RUN among them (Linux 5.11).

    See proc_pid_status(5). A container's or service's filter is in every exit that is measured.
    """
    filters = read_fields(root, "/proc/self/status").get("Seccomp_filters", "")
    return int(filters) if filters.isdecimal() else None


def safe_command_line(text: str | None) -> str | None:
    """The kernel's parameters without init's arguments and with what looks private masked."""
    if text is None:
        return None
    words = []
    for word in text.split():
        if word == "--":
            break
        name, equals, _ = word.partition("=")
        words.append(f"{name}=***" if equals and PRIVATE.search(name) else word)
    return " ".join(words)


def turbo(root: str | Path = "/") -> bool | None:
    """Whether the CPUs may exceed their base frequency; None when the host does not tell."""
    no_turbo = read_int(root, f"{CPU}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    boost = read_int(root, f"{CPU}/cpufreq/boost")
    return None if boost is None else boost == 1


def governors(root: str | Path = "/") -> list[str]:
    """The different frequency governors in use; [] when the host does not tell."""
    return _of_policies(root, "scaling_governor")


def _of_policies(root: str | Path, name: str) -> list[str]:
    """The different values that the frequency policies have for ``name``; [] when none has one."""
    policies = numbered(root, f"{CPU}/cpufreq", "policy").values()
    return sorted({text for policy in policies if (text := read_text(policy, name))})


def _khz_of_policies(root: str | Path, name: str) -> list[int]:
    return [int(text) for text in _of_policies(root, name) if text.isdecimal()]


def hypervisor(root: str | Path = "/") -> str | None:
    """Who this host is a guest of ("unknown" when it does not say); None on bare metal."""
    if kind := read_text(root, "/sys/hypervisor/type"):
        return kind
    # Without a flag of the CPU, the firmware's tree of devices may tell.
    if tree := read_text(root, f"{DEVICE_TREE}/hypervisor/compatible"):
        return tree.strip("\0").split("\0")[0]
    if "dummy-virt" in (read_text(root, f"{DEVICE_TREE}/compatible") or ""):
        return "unknown"
    if "hypervisor" not in cpu_flags(root):
        return None
    names = (read_text(root, f"{DMI}/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(name for name in names if name) or "unknown"


def _clocksource(root: str | Path) -> dict[str, Any]:
    current, available = clock.sources(root)
    return {
        "current": current,
        "available": list(available),
        "tsc_objection": clock.objection(root),
    }


def _kernel(root: str | Path) -> dict[str, Any]:
    return {
        "release": read_text(root, "/proc/sys/kernel/osrelease"),
        "version": read_text(root, "/proc/sys/kernel/version"),
        "machine": os.uname().machine,
        "cmdline": safe_command_line(read_text(root, "/proc/cmdline")),
        "preempt": chosen(read_text(root, "/sys/kernel/debug/sched/preempt")),
        "realtime": read_int(root, "/sys/kernel/realtime") == 1,
        "lockdown": chosen(read_text(root, "/sys/kernel/security/lockdown")),
    }


def _cpu(root: str | Path, topology: Topology) -> dict[str, Any]:
    first = read_fields(root, "/proc/cpuinfo")
    flags = cpu_flags(root)
    core = midr.read(topology.online[0], root) if topology.online else None
    return {
        "model": first.get("model name") or (core and core.name),
        "vendor": first.get("vendor_id") or (core and core.vendor),
        "family": first.get("cpu family"),
        "model_number": first.get("model"),
        "stepping": first.get("stepping") or (core and core.stepping),
        "microcode": first.get("microcode"),
        "constant_tsc": "constant_tsc" in flags,
        "nonstop_tsc": "nonstop_tsc" in flags,
        "online": format_cpu_list(topology.online),
        "affinity": format_cpu_list(topology.affinity),
        "isolated": format_cpu_list(topology.isolated),
        "nohz_full": _nohz_full(root),
        "cores": len(set(topology.siblings.values())),
        "smt": read_text(root, f"{CPU}/smt/control"),
        "kinds": [
            {**vars(kind), "cpus": format_cpu_list(kind.cpus)}
            for kind in cores.kinds(topology.online, root)
        ],
        "smt_active": any(len(threads) > 1 for threads in topology.siblings.values()),
    }


def _nohz_full(root: str | Path) -> str | None:
    text = read_text(root, f"{CPU}/nohz_full")
    return "" if text == "(null)" else text  # what some kernels print for an empty mask


def _frequency(root: str | Path) -> dict[str, Any]:
    """Of all policies: a hybrid processor has different ones."""
    return {
        "driver": ", ".join(_of_policies(root, "scaling_driver")) or None,
        "governors": governors(root),
        "energy_performance_preference": ", ".join(
            _of_policies(root, "energy_performance_preference")
        )
        or None,
        "min_khz": min(_khz_of_policies(root, "scaling_min_freq"), default=None),
        "max_khz": max(_khz_of_policies(root, "scaling_max_freq"), default=None),
        "turbo": turbo(root),
        "idle_driver": read_text(root, f"{CPU}/cpuidle/current_driver"),
        "idle_governor": read_text(root, f"{CPU}/cpuidle/current_governor_ro")
        or read_text(root, f"{CPU}/cpuidle/current_governor"),
    }


def _nodes(root: str | Path, topology: Topology) -> dict[str, Any]:
    nodes = {}
    for node, cpus in topology.nodes.items():
        meminfo = read_text(root, f"{NODE}/node{node}/meminfo") or ""
        total = re.search(r"MemTotal:\s*([0-9]+) kB", meminfo)
        nodes[str(node)] = {
            "cpus": format_cpu_list(cpus),
            "memory_kib": int(total[1]) if total else None,
            "distances": distances(node, root),
        }
    return nodes


def _mitigations(root: str | Path) -> dict[str, str]:
    folder = Path(root) / CPU.lstrip("/") / "vulnerabilities"
    texts = {entry.name: read_text(folder, entry.name) for entry in sorted(folder.glob("*"))}
    return {name: text for name, text in texts.items() if text}


def _virtualization(root: str | Path) -> dict[str, Any]:
    name = hypervisor(root)
    marks = ("/.dockerenv", "/run/.containerenv")
    return {
        "hypervisor": name,
        "nested": name is not None,
        "kvm_mode": _kvm_mode(root),
        "interrupt_controller": _interrupt_controller(root),
        "container": any((Path(root) / mark.lstrip("/")).exists() for mark in marks),
    }


def _kvm_mode(root: str | Path) -> str | None:
    """How the kernel has the CPU run guests, such as "VHE mode", where there are several ways.

    Only its log tells (kvm_arm_init() of the kernel), and only who may read that.
    """
    try:
        log = os.open(Path(root) / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        while record := os.read(log, _KMSG_BYTES):  # one message each
            if found := re.search(rb"kvm \[\d+\]: ([\w ]*mode) initialized", record):
                return found[1].decode()
    except OSError:  # EAGAIN: that was all
        pass
    finally:
        os.close(log)
    return None


def _interrupt_controller(root: str | Path) -> str | None:
    """The host's own GIC, whose kind decides which one its guests may have."""
    found = re.search(r"\bGIC(?:v\d|-\d)?\b", read_text(root, "/proc/interrupts") or "")
    return found[0] if found else None


def _kvm_modules(root: str | Path) -> dict[str, dict[str, str]]:
    modules = {}
    for folder in sorted((Path(root) / "sys/module").glob("kvm*")):
        names = sorted(entry.name for entry in folder.glob("parameters/*"))
        values = {name: read_text(folder / "parameters", name) for name in names}
        modules[folder.name] = {name: value for name, value in values.items() if value is not None}
    return modules


def _memory(root: str | Path) -> dict[str, Any]:
    info = read_fields(root, "/proc/meminfo")

    def kib(key: str) -> int | None:
        number = info.get(key, "").removesuffix(" kB")
        return int(number) if number.isdigit() else None

    return {
        "total_kib": kib("MemTotal"),
        "available_kib": kib("MemAvailable"),
        "swap_kib": kib("SwapTotal"),
        "hugepages": kib("HugePages_Total"),
        "transparent_hugepages": chosen(read_text(root, f"{THP}/enabled")),
        "ksm": read_int(root, "/sys/kernel/mm/ksm/run"),
        "numa_balancing": read_int(root, NUMA_BALANCING),
    }


def _load(root: str | Path) -> list[float] | None:
    words = (read_text(root, "/proc/loadavg") or "").split()[:3]
    try:
        return [float(word) for word in words] or None
    except ValueError:
        return None


def _limit(which: int) -> int | None:
    """The soft limit; None when there is none."""
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _software() -> dict[str, Any]:
    import platform  # it and importlib.metadata are slow to import, and needed here only

    return {
        "kickbench": kickbench.__version__,
        "python": platform.python_version(),
        "libc": " ".join(part for part in platform.libc_ver() if part) or None,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(distribution: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
