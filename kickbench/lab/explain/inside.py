# SPDX-License-Identifier: Apache-2.0
"""What runs in the machine while the plugin watches: a block of each method in each case.

``python -m kickbench.lab.explain.inside ORDER`` takes an :class:`Order` as JSON. It leaves
``facts.json`` (FACTS) in the order's folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

from kickbench.engine.engine import Clock, Engine, library
from kickbench.engine.protocols import load
from kickbench.guest.loader import Guest
from kickbench.host.capabilities import probe, supports
from kickbench.kvm import Kvm
from kickbench.methods import CATALOGUE, method_label
from kickbench.run import kinds, schedule
from kickbench.scenario.cases import Case

FACTS = "facts.json"
BLOCK_NS = {"exits": 300_000, "kick": 100_000_000}
"""Of the machine's time, in which a nanosecond is an instruction. That is more than a hundred exits
within a timer's period, and more than a hundred kicks."""


@dataclass(frozen=True)
class Order:
    """What to run: cases with one CPU for all threads of each.

    ``protocols`` are the libraries of the user's own protocols, by name. ``folder`` takes the
    facts.
    """

    cases: list[Case]
    protocols: dict[str, str]
    folder: str

    def to_json(self) -> str:
        """The order as one line."""
        return json.dumps({**vars(self), "cases": [case.to_dict() for case in self.cases]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        return cls(**{**data, "cases": [Case.from_dict(case) for case in data["cases"]]})


def run(order: Order) -> dict[str, Any]:
    """Run all blocks, each in a section of its own. Returns the facts.

    A section has ``case``, ``method`` and ``counts``: what the machine's clock counted, for each
    exit or kick.
    """
    # A thread that is woken up does not interrupt the one that runs: the kicker's call is over
    # before the vCPU's thread is delivered the kick (wakeup_preempt in kernel/sched/fair.c).
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    skipped = _lacking(order)
    library().kb_watch()  # The plugin begins to watch. The next mark is the first that it notes.
    sections = list(
        chain.from_iterable(_run_case(case, order.protocols, skipped) for case in order.cases)
    )
    return {
        "sections": sections,
        "skipped": skipped,
        "maps": Path("/proc/self/maps").read_text(),
        "release": os.uname().release,
    }


def _run_case(
    case: Case, protocols: dict[str, str], skipped: dict[str, str]
) -> Iterator[dict[str, Any]]:
    cpus = [[0]] * case.vcpus
    timing = schedule.Timing.of(case, cpus)
    clock = Clock("tsc", 1e9, 0)
    block_ns = BLOCK_NS[case.kind]
    with (
        Kvm() as kvm,
        Guest(kvm, case.program, case.vcpus, irqchip=case.irqchip) as guest,
        Engine(
            guest,
            case.program,
            clock,
            cpus,
            n_entries=1,
            samples_capacity=timing.samples_capacity,
            protocols={name: load(Path(path), name) for name, path in protocols.items()},
            kickers=kinds.kickers(case, [0], timing, 1),
        ) as engine,
    ):
        plan = kinds.MEASUREMENTS[case.kind].plan(case)
        for method in map(method_label, case.methods):
            if method in skipped:
                continue
            print(f"{method}: {case.kind}", file=sys.stderr, flush=True)
            library().kb_watch()
            # No warm-up: its exits are not recorded, so their loop does more.
            results = engine.blocks([(method, 0)], warmup_ns=0, block_ns=block_ns, plan=plan)
            if plan.kicking == "none":
                (one,) = results[0]
                counts = engine.samples(0, int(one["samples_offset"]), int(one["samples_count"]))
            else:
                kicks = engine.kicks()
                counts = kicks["latency"][(kicks["latency"] > 0)]
            yield {"case": case.id, "method": method, "counts": counts.tolist()}


def _lacking(order: Order) -> dict[str, str]:
    """The methods that this kernel does not have, with the reasons."""
    found = probe()
    methods = {method_label(method) for case in order.cases for method in case.methods}
    reasons = {
        method: supports(CATALOGUE[method], found)
        for method in sorted(methods - set(order.protocols))
    }
    return {method: reason for method, reason in reasons.items() if reason}


def main() -> None:
    """Run the order that is the only argument."""
    order = Order.from_json(sys.argv[1])
    (Path(order.folder) / FACTS).write_text(json.dumps(run(order)))


if __name__ == "__main__":
    main()
