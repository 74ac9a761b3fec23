# SPDX-License-Identifier: Apache-2.0
"""The control groups that limit this process: its CPUs (cpuset) and its CPU time (quota).

Version 1 and 2, see cgroups(7). Reads only; a missing file means no limit.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from kickbench.host.files import read_int, read_text


def folders(root: str | Path, controller: str) -> list[str]:
    """The process's group of ``controller`` and its visible ancestors, innermost first.

    Paths are as seen below ``root``.
    """
    membership = _membership(root)
    found: list[str] = []
    for mount_root, mount_point, kind, options in _mounts(root):
        if kind == "cgroup2":
            path = membership.get("")
        elif controller in options:
            path = membership.get(controller)
        else:
            continue
        if path is None:
            continue
        group = PurePosixPath(path)
        # In a container without its own cgroup name space the mount shows a part of the tree.
        inside = group.relative_to(mount_root) if group.is_relative_to(mount_root) else None
        below = PurePosixPath(mount_point) / (inside or ".")
        found.append(str(below))
        while below != PurePosixPath(mount_point):
            below = below.parent
            found.append(str(below))
    return found


def cpu_quota(root: str | Path = "/") -> float | None:
    """CPUs' worth of time that this process may use, the tightest limit; None without a limit."""
    limits: list[float] = []
    for folder in folders(root, "cpu"):
        quota, _, period = (read_text(root, f"{folder}/cpu.max") or "").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
        old_quota = read_int(root, f"{folder}/cpu.cfs_quota_us")
        old_period = read_int(root, f"{folder}/cpu.cfs_period_us")
        if old_quota is not None and old_quota > 0 and old_period:
            limits.append(old_quota / old_period)
    return min(limits, default=None)


def cpuset(root: str | Path = "/") -> str | None:
    """The CPU list that the innermost cpuset grants this process; None when there is none."""
    for folder in folders(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            text = read_text(root, f"{folder}/{name}")
            if text:
                return text
    return None


def _membership(root: str | Path) -> dict[str, str]:
    """Controller -> path from /proc/self/cgroup; version 2 is the controller ""."""
    groups: dict[str, str] = {}
    for line in (read_text(root, "/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _mounts(root: str | Path) -> list[tuple[str, str, str, list[str]]]:
    """(root, mount point, type, super options) of every cgroup mount (proc_pid_mountinfo(5))."""
    mounts = []
    for line in (read_text(root, "/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        mount, file_system = left.split(), right.split()
        if len(mount) >= 5 and len(file_system) >= 3 and file_system[0] in ("cgroup", "cgroup2"):
            mounts.append((mount[3], mount[4], file_system[0], file_system[2].split(",")))
    return mounts
