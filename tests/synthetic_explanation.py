# SPDX-License-Identifier: Apache-2.0
"""A small explanation, with a name in it that is not to be trusted, and lines that are shared."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from kickbench.lab.explain.case import STATE, cases_of
from kickbench.lab.explain.events import PHASES
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.shared import NODES, Shared, SharedLine, jobs, threads
from kickbench.lab.explain.subject import EXIT, Subject
from kickbench.scenario.shipped import resolve

CASES = cases_of(resolve("instruction_counts"), ["immediate_exit", "sigmask"])
JOBS = jobs(CASES)
SIGLOCK = SharedLine(
    "sighand_struct.siglock",
    0,
    2,
    4,
    {"vCPU 0": (2, 4), "vCPU 1": (2, 4)},
    ["sigprocmask", "_raw_spin_lock_irq", "__set_task_blocked", "recalc_sigpending"],
)


def explained(
    method: str, counts: dict[tuple[str, ...], int], state: str | None = None
) -> Explained:
    folded = Counter(counts)
    phases = {name: Counter({("a",): n}) for n, name in enumerate(PHASES)} if state else {}
    subject = Subject("kick", state) if state else EXIT
    return Explained(method, subject, folded, 1.0, phases)


def small() -> Explanation:
    loop, run, lock = "loop [kickbench]", "kvm_run", "<b>lock</b>"
    return Explanation(
        "QEMU 7.2",
        "6.12",
        "immediate_exit",
        [
            explained("immediate_exit", {(loop,): 10, (loop, run): 90, (loop, run, "[guest]"): 2}),
            explained("sigmask", {(loop,): 9, (loop, run): 90, (loop, run, lock): 58}),
            explained("immediate_exit", {(loop, run): 3}, STATE),
            explained("sigmask", {(loop, run): 3}, STATE),
        ],
        {"exitfd": "the kernel has no exitfd"},
    )


def shared_lines() -> tuple[Shared, ...]:
    """Four placements, with sigmask's line on the creator's node; then kicks."""
    exits = [job for job in JOBS if job.case.state is None]
    shared = [Shared(job, "immediate_exit", []) for job in exits]
    for job in exits:
        node = next(n for n, cpus in enumerate(NODES) if job.creator in cpus)
        shared.append(Shared(job, "sigmask", [replace(SIGLOCK, node=node)]))
    for job in JOBS:
        if job.case.state is not None:
            users = [thread.name for thread in threads(job) if thread.role == "kicker"]
            line = SharedLine("file.f_count", 1, 1, 2.5, dict.fromkeys(users, (1, 1)), ["fdget"])
            flag = replace(line, what="kvm_run.x", threads={"vCPU 0": (1, 0), users[0]: (0, 1)})
            shared += [
                Shared(job, method, [line, flag]) for method in ("immediate_exit", "sigmask")
            ]
    return tuple(shared)
