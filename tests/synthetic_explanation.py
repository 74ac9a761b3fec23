# SPDX-License-Identifier: Apache-2.0
"""A small explanation, with a name in it that is not to be trusted."""

from __future__ import annotations

from collections import Counter

from kickbench.lab.explain.case import STATE
from kickbench.lab.explain.events import PHASES
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.subject import EXIT, Subject


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
