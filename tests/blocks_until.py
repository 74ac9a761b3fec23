# SPDX-License-Identifier: Apache-2.0
"""Blocks on real KVM, run again until what a test judges was seen: a busy host may keep it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from arrays import as_array, kicks_of

from kickbench.engine.engine import Engine, Plan

MS = 1_000_000
MOST_CALLS = 1000
NO_KICKS = Plan()


@dataclass(frozen=True)
class Left:
    """What the calls of ``Engine.blocks`` left. Blocks are numbered through all calls."""

    calls: int
    results: Any
    kicks: Any
    pauses: Any

    def last(self, records: Any) -> Any:
        """The records of these that are of the last call."""
        return records[records["block"] >= len(self.results) - len(self.results) // self.calls]


def until(
    engine: Engine,
    seen: Callable[[Left], object],
    schedule: Sequence[tuple[str, int]],
    *,
    ms: int,
    plan: Plan = NO_KICKS,
) -> Left:
    """Runs the schedule again until something was seen in what all its calls left.

    A busy host may keep it from happening in some of them. When it never does, MOST_CALLS calls
    are over, and the test's own assertion says what is missing.
    """
    parts: list[tuple[Any, Any, Any]] = []
    while True:
        calls = len(parts) + 1
        results = as_array(
            engine.blocks(schedule, warmup_ns=MS, block_ns=ms * MS, plan=replace(plan, seed=calls))
        ).reshape(len(schedule), -1)
        kicks, pauses = kicks_of(engine), as_array(engine.pauses())
        for records in (kicks, pauses):
            records["block"] += len(parts) * len(schedule)
        parts.append((results, kicks, pauses))
        left = Left(calls, *map(np.concatenate, zip(*parts, strict=True)))
        if seen(left) or calls == MOST_CALLS:
            return left
