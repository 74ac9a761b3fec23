# SPDX-License-Identifier: Apache-2.0
"""Predicts what a protocol's lock costs with vCPUs and NUMA nodes that this host does not have.

A run of one vCPU says what an exit takes, and what the lock adds to it when nobody else wants it. A
run of the kind handover says what the lock's cache line takes from one CPU to another. The
catalogue says how often an exit takes the lock, and how much of that is under the lock. From these,
:mod:`kickbench.stats.spinlock` simulates more vCPUs, each on a CPU of its own.

A prediction is not a measurement. Its interval has what the inputs do not know and the chance of
the simulation. It does not have what the model leaves out: see docs/prediction.md.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kickbench.methods import CATALOGUE, Lock, control_pairs
from kickbench.stats import spinlock

Summary = Mapping[str, Any]

VCPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NODES = (1, 2, 4, 8)
MOST_VCPUS, MOST_NODES, MOST_POINTS = 4096, 64, 200

_CONDITIONS = ("program", "irqchip", "exit_rate_hz", "arrival")
"""The keys of a case in which a basis differs from another one."""
_REPEATS = 39
"""How often a point is simulated, each time with other inputs from their intervals. The next
simulation would be within the least and the largest of 39 with a probability of 95 %."""
_TAKINGS = 2000
"""About how many takings are simulated each time, by all vCPUs together."""
_FEWEST_EACH = 6
_Z95, _Z90 = 1.96, 1.2816
"""Quantiles of the normal distribution: of a two-sided 95 % interval, and p90."""


@dataclass(frozen=True)
class Level:
    """A value with its 95 % interval, in ns."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error that the interval is of."""
        return (self.high - self.low) / 2 / _Z95


@dataclass(frozen=True)
class Basis:
    """What was measured with one vCPU, at one rate of exits.

    ``lock_ns`` is what the lock adds to an exit of ``exit_ns``. With ``exit_rate_hz`` a vCPU exits
    that often, else at full speed. ``variation`` is the coefficient of variation of the time
    between two exits. ``other_node_ns`` is None without a hand-over between nodes, and ``assumed``
    says that the user gave it. ``measured`` has what the lock costs an exit on average with more
    vCPUs, by their number.
    """

    case: str
    method: str
    control: str
    isolates: str
    lock: Lock
    exit_rate_hz: float | None
    variation: float
    exit_ns: Level
    lock_ns: Level
    same_node_ns: Level
    other_node_ns: Level | None
    assumed: bool
    measured: dict[int, Level]


@dataclass(frozen=True)
class Predicted:
    """What the lock costs an exit on average, with so many vCPUs on so many nodes."""

    vcpus: int
    nodes: int
    ns: Level


def bases(
    summary: Summary, handovers: Summary | None = None, other_node_ns: float | None = None
) -> list[Basis]:
    """What predictions can start from: one basis for each rate of exits.

    It is of the first placement that has one vCPU.
    ``handovers`` is the summary with the kind handover, by default the same one. ``other_node_ns``
    takes the place of a hand-over between nodes. Empty if something is missing: see
    :func:`missing`.
    """
    line = _line(handovers or summary)
    if line is None or line["same_node"] is None or _emulated(summary, handovers):
        return []
    far = line["other_node"]
    if other_node_ns is not None:
        far = Level(other_node_ns, other_node_ns, other_node_ns)
    found: dict[tuple[Any, ...], Basis] = {}
    for case, method, control in _split(summary):
        key = (method, *(case.get(name) for name in _CONDITIONS))
        if case["vcpus"] != 1 or key in found:
            continue
        lock_ns = _difference(case, method, control, "quiet_ns_per_exit")
        exit_ns = _level(case["methods"][control].get("estimates", {}).get("quiet_ns_per_exit"))
        lock = CATALOGUE[control].lock
        if lock_ns is None or exit_ns is None or lock is None:
            continue
        others = [other for other in _split(summary) if _alike(case, other[0])]
        measured = {
            other["vcpus"]: level
            for other, *pair in others
            if pair == [method, control]
            and not other["oversubscribed"]
            and _on_one_node(summary, other)
            and (level := _difference(other, method, control, "ns_per_exit"))
        }
        found[key] = Basis(
            case=case["id"],
            method=method,
            control=control,
            isolates=CATALOGUE[control].isolates,
            lock=lock,
            exit_rate_hz=case["exit_rate_hz"],
            variation=_variation(case, control),
            exit_ns=exit_ns,
            lock_ns=lock_ns,
            same_node_ns=line["same_node"],
            other_node_ns=far,
            assumed=other_node_ns is not None,
            measured=measured,
        )
    return list(found.values())


def missing(summary: Summary, handovers: Summary | None = None) -> str:
    """What is missing for a prediction, and what helps; "" if nothing is."""
    pairs = [
        (method.control_of, method.id) for method in CATALOGUE.values() if method.lock is not None
    ]
    wanted = " or ".join(f"{method} and {control}" for method, control in pairs)
    anew = "kickbench run siglock_prediction measures what a prediction needs"
    if _emulated(summary, handovers):
        return "in an emulated machine a cache line takes no time: predict from a run on hardware"
    if not any(case["vcpus"] == 1 for case, *_ in _split(summary)):
        return (
            f"no finished case compares quiet exits of {wanted}, with 1 vCPU, no kicks and another "
            f"baseline\n{anew}"
        )
    line = _line(handovers or summary)
    if line is None:
        return f"no finished case has hand-overs of a cache line\n{anew}"
    if line["same_node"] is None:
        return "this host has no two cores of one node, so the time of a hand-over is not known"
    if not bases(summary, handovers):
        return f"the difference between {wanted} has no interval: measure it anew, for longer"
    return ""


def _emulated(*summaries: Summary | None) -> bool:
    return any(summary is not None and summary["emulated"] for summary in summaries)


def predict(basis: Basis, points: Iterable[tuple[int, int]]) -> Iterator[Predicted]:
    """What the lock costs with each (vCPUs, nodes), in this order.

    The same basis gives the same figures. Points between nodes need ``basis.other_node_ns``.
    """
    for vcpus, nodes in points:
        if vcpus == 1:
            yield Predicted(vcpus, nodes, basis.lock_ns)
            continue
        seed = zlib.crc32(f"{basis.case} {vcpus} {nodes}".encode())
        rng = np.random.default_rng(seed)
        costs = [_cost_ns(basis, vcpus, nodes, rng) for _ in range(_REPEATS)]
        yield Predicted(vcpus, nodes, Level(float(np.median(costs)), min(costs), max(costs)))


def points(basis: Basis, vcpus: Sequence[int], nodes: Sequence[int]) -> list[tuple[int, int]]:
    """(vCPUs, nodes): as many nodes as have a vCPU, and one if the way between nodes is unknown.

    What was measured with several vCPUs is among them, so that it checks the prediction.
    """
    known = [n for n in nodes if n == 1 or basis.other_node_ns is not None]
    wanted = {(v, n) for n in known for v in vcpus if v >= n}
    checks = {(v, 1) for v in basis.measured if v > 1} if wanted else set()
    return sorted(wanted | checks, key=lambda point: point[::-1])


def _cost_ns(basis: Basis, vcpus: int, nodes: int, rng: np.random.Generator) -> float:
    """One simulation: inputs are drawn from their intervals."""

    def drawn(level: Level) -> float:
        return max(0.0, rng.normal(level.value, level.error))

    lock_ns, exit_ns, near_ns = drawn(basis.lock_ns), drawn(basis.exit_ns), basis.same_node_ns
    takings = basis.lock.takings
    hold_ns = lock_ns / takings * basis.lock.held_share
    within_ns = (exit_ns + lock_ns) / takings - hold_ns
    period_ns = exit_ns + lock_ns
    if basis.exit_rate_hz:
        period_ns = max(period_ns, 1e9 / basis.exit_rate_hz)
    # All that varies is in the last time of an exit, until the next exit.
    last_ns = max(0.0, period_ns - takings * hold_ns - (takings - 1) * within_ns)
    variation = min(1.0, basis.variation * period_ns / last_ns) if last_ns else 0.0
    last = spinlock.Away(last_ns, variation)
    found = spinlock.taking_ns(
        spinlock.Lock(hold_ns, drawn(near_ns), drawn(basis.other_node_ns or near_ns)),
        spinlock.Threads(
            spinlock.spread(vcpus, nodes),
            (*[spinlock.Away(max(0.0, within_ns), 0.0)] * (takings - 1), last),
        ),
        max(_FEWEST_EACH, _TAKINGS // vcpus),
        rng,
    )
    return lock_ns + takings * (found - hold_ns)


# --- from the summary ----------------------------------------------------------------------------


def _split(summary: Summary) -> Iterator[tuple[Summary, str, str]]:
    """(case, protocol, control) of finished cases of exits that have both.

    Cases with kicks or noise are left out.
    """
    disturbed = ("kick_rate_hz", "foreign_signals_hz", "siglock_threads")
    for case in summary["cases"]:
        if case["status"] != "ok" or case["kind"] != "exits" or any(map(case.get, disturbed)):
            continue
        still = {one["method"] for one in case["findings"] if one["what"] == "stood_still"}
        for method, control in control_pairs(case["methods"], case["baseline"]):
            # The times of a guest that hardly ran are not what the protocol costs.
            if CATALOGUE[control].lock is not None and not still & {method, control}:
                yield case, method, control


def _alike(one: Summary, other: Summary) -> bool:
    return all(one.get(key) == other.get(key) for key in ("placement", *_CONDITIONS))


def _on_one_node(summary: Summary, case: Summary) -> bool:
    """Whether the vCPUs of a case are on one node: the placement says so, or there is one only."""
    placed = str(case["placement_spec"]["vcpus"]).startswith("node:")
    return placed or len(summary["environment"].get("nodes") or {}) == 1


def _difference(case: Summary, method: str, control: str, metric: str) -> Level | None:
    for one in case["contrasts"]:
        if (one["method"], one["baseline"], one["metric"]) == (method, control, metric):
            return _level({"value": one["diff"], "ci95": one["ci95"]})
    return None


def _level(found: Mapping[str, Any] | None) -> Level | None:
    if found is None or found["value"] is None or found["ci95"] is None:
        return None
    return Level(found["value"], *found["ci95"])


def _line(summary: Summary) -> dict[str, Level | None] | None:
    """A hand-over within a node and between nodes; None without a case of the kind.

    Of several cases it is the first one with both.
    """
    found = [
        {group: _level(case["handover"]["medians"][group]) for group in ("same_node", "other_node")}
        for case in summary["cases"]
        if case["status"] == "ok" and case["kind"] == "handover"
    ]
    return max(found, key=lambda line: sum(map(bool, line.values())), default=None)


def _variation(case: Summary, control: str) -> float:
    """The coefficient of variation of the time between two exits.

    The gaps of a Poisson guest are exponential. Recorded ones are known. At full speed it is that
    of a lognormal distribution with the measured p50 and p90.
    """
    gaps: list[float] = case.get("gaps_us") or []
    if gaps:
        return min(1.0, statistics.pstdev(gaps) / statistics.fmean(gaps))
    if case["exit_rate_hz"]:
        return 1.0 if case.get("arrival") == "poisson" else 0.0
    times = case["methods"][control]["ns_per_exit"]
    if not times["p50"] or not times["p90"]:
        return 0.0
    sigma = math.log(times["p90"] / times["p50"]) / _Z90
    return min(1.0, math.sqrt(math.expm1(sigma**2)))
