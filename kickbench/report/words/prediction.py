# SPDX-License-Identifier: Apache-2.0
"""Describes what is predicted of a protocol's lock, and how far off the prediction was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kickbench.numbers import fixed, measured, plural, significant
from kickbench.report.words.names import Summary, nanoseconds, rate_name
from kickbench.summary.prediction import Basis, Level, Predicted

NOT_MEASURED = "predicted, not measured"
_WIDE = 2
"""An interval whose upper end is more than so many times the lower one is given by two digits."""
MANY_VCPUS = 64
"""The answer is about so many vCPUs, if they are among the predicted ones."""


def answer(summary: Summary, basis: Basis, found: Sequence[Predicted]) -> list[str]:
    """What the lock would cost with many vCPUs, what that rests on, and the check."""
    unit = nanoseconds(summary)
    sizes = {point.vcpus for point in found}
    many = MANY_VCPUS if MANY_VCPUS in sizes else max(sizes)
    points = [point for point in found if point.vcpus == many]
    ends = points if len(points) < 3 else [points[0], points[-1]]
    costs = " and ".join(
        f"{level_of(point.ns)} {unit} on {plural(point.nodes, 'node')}" for point in ends
    )
    what = f"with {plural(many, 'vCPU')} at {rate_name(basis.exit_rate_hz)}"
    start = (
        f"{basis.isolates} adds {level_of(basis.lock_ns)} {unit} to an exit of "
        f"{significant(basis.exit_ns.value)} {unit}"
    )
    rests_on = (
        f"The prediction rests on one vCPU, where {start}. It also rests on the hand-over of a "
        f"cache line: {_lines(basis, unit)}."
    )
    return [
        f"Predicted, not measured: {what}, {basis.isolates} costs each exit {costs}.",
        *_limit(basis, found),
        rests_on,
        *checks(basis, found, unit),
    ]


def _limit(basis: Basis, found: Sequence[Predicted]) -> Iterator[str]:
    """From how many vCPUs on the lock takes longer than all else."""
    fewest = min(point.nodes for point in found)
    alone = [point for point in found if point.nodes == fewest]
    over = [point.vcpus for point in alone if point.ns.value > basis.exit_ns.value]
    if over:
        at = plural(fewest, "node")
        yield f"On {at} it takes longer than the rest of the exit with {min(over)} vCPUs or more."


def checks(basis: Basis, found: Sequence[Predicted], unit: str) -> Iterator[str]:
    """How far off the prediction is, where this host has the CPUs."""
    checked = False
    for point in found:
        level = basis.measured.get(point.vcpus)
        if level is None or point.vcpus == 1 or point.nodes > 1:
            continue
        off_ns = point.ns.value - level.value
        too = f"{significant(abs(off_ns), 2)} {unit} too {'high' if off_ns > 0 else 'low'}"
        agree = level.low <= point.ns.high and point.ns.low <= level.high
        said = "the intervals overlap" if agree else "the intervals do not overlap"
        checked = True
        yield (
            f"Check with {point.vcpus} vCPUs: predicted {level_of(point.ns)}, measured "
            f"{level_of(level)} {unit}. The prediction is {too}, and {said}."
        )
    if not checked:
        yield "Nothing checks it: no case has more vCPUs, a CPU for each, and one node for all."


def level_of(level: Level) -> str:
    """E.g. "55 (44 to 66)"; a value without an interval stands alone."""
    if level.low == level.high:
        return significant(level.value, 3)
    if level.low > 0 and level.high > _WIDE * level.low:
        value, low, high = (_rounded(ns) for ns in (level.value, level.low, level.high))
        return f"{value} ({low} to {high})"
    value, low, high = measured(level.value, (level.low, level.high))
    return f"{value} ({low} to {high})"


def _rounded(ns: float) -> str:
    """Two digits, for a level that is known to a factor only."""
    return fixed(ns, 1 - math.floor(math.log10(ns)))


def rows(found: Sequence[Predicted], basis: Basis) -> Iterator[tuple[str, ...]]:
    """A head, then a row for each point, with what was measured beside it."""
    yield "vCPUs", "nodes", "predicted", "measured"
    for point in found:
        known = basis.measured.get(point.vcpus) if point.nodes == 1 else None
        said = level_of(known) if known else ""
        yield str(point.vcpus), str(point.nodes), level_of(point.ns), said


def _lines(basis: Basis, unit: str) -> str:
    said = f"{level_of(basis.same_node_ns)} {unit} within a node"
    if basis.other_node_ns is None:
        return f"{said}, and none between nodes was measured"
    how = "as you say" if basis.assumed else "as measured"
    return f"{said}, and {level_of(basis.other_node_ns)} {unit} between nodes, {how}"
