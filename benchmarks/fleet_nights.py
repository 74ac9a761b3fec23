# SPDX-License-Identifier: Apache-2.0
"""A fleet that is simulated from real nights, for benchmarks of what is said of fleets.

Each night of each host is one of the real ones in data/nights.npz, quiet or beside other load, over
its figure's level. Around that is what fleets have: CPU models, a slow drift of each host and of
all, kernels that reach the hosts in waves and change nothing, hosts that are silent for some days,
and noisy neighbours that stay for weeks.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Figure, Host
from kickbench.fleet.judge.panel import FACTS, Panel

DATA = Path(__file__).parent / "data" / "nights.npz"
MODELS = ("EPYC 7003", "EPYC 9004", "EPYC 9005", "Xeon 6338", "Xeon 8480")
METHODS = ("sigmask", "immediate_exit", "user_exit", "exitfd")
FIRST = datetime.date(2026, 1, 1)

QUIET_LOAD = 0.02
DRIFT, TOGETHER = 2e-4, 1e-4  # a night, of each host and of all
BUSY, NEIGHBOURS, NEIGHBOURLY = 0.02, 0.05, 0.6  # nights with load; hosts with more for a while
SILENT, OUTAGES = 0.02, 0.002  # nights missed; hosts whose silence begins on a night
ROLL_OUT, WAVES, WAVE = 50, 4, 3  # nights between kernels; waves, and the nights between them
REACHED = 0.8  # of the hosts, by each kernel

Places = NDArray[np.intp]


@dataclass
class World:
    """Hosts, their nights and their facts; ``value`` is (figures, hosts, days)."""

    hosts: int
    days: int
    figures: int
    random: np.random.Generator
    models: Sequence[str] = MODELS
    value: NDArray[np.float32] = field(init=False)
    model: Places = field(init=False)
    kernel: NDArray[np.int32] = field(init=False)
    kernels: list[str] = field(init=False)

    def __post_init__(self) -> None:
        random, shape = self.random, (self.hosts, self.days)
        self.model = random.integers(0, len(self.models), self.hosts)
        self.kernel, self.kernels = np.zeros(shape, np.int32), ["6.12.1"]
        level = random.lognormal(8, 0.3, (self.figures, 1))
        level = level * random.lognormal(0, 0.2, (self.figures, len(self.models)))[:, self.model]
        level *= random.lognormal(0, 0.01, level.shape)
        drift = np.cumsum(random.normal(0, DRIFT, shape), axis=1)
        drift += np.cumsum(random.normal(0, TOGETHER, self.days))
        self.value = np.empty((self.figures, *shape), np.float32)
        quiet, loaded = _real_nights()
        busy = self._busy()
        for figure in range(self.figures):
            night = np.where(
                random.random(shape) < busy,
                random.choice(loaded, shape),
                random.choice(quiet, shape),
            )
            self.value[figure] = level[figure][:, None] * night * np.exp(drift)
        self.value[:, self._silent()] = np.nan
        for day in range(ROLL_OUT, self.days, ROLL_OUT):
            some = random.permutation(self.hosts)[: int(REACHED * self.hosts)]
            self.roll_out(some, day + WAVE * random.integers(0, WAVES, len(some)))

    def _busy(self) -> NDArray[np.float64]:
        """How likely each night of each host is to be beside other load."""
        found = np.full((self.hosts, self.days), BUSY)
        for host in np.flatnonzero(self.random.random(self.hosts) < NEIGHBOURS):
            begin = int(self.random.integers(0, self.days))
            found[host, begin : begin + int(self.random.integers(14, 90))] = NEIGHBOURLY
        return found

    def _silent(self) -> NDArray[np.bool_]:
        found = self.random.random((self.hosts, self.days)) < SILENT
        for host, day in np.argwhere(self.random.random(found.shape) < OUTAGES):
            found[host, day : day + int(self.random.integers(2, 15))] = True
        return found

    def roll_out(self, hosts: Places, days: Places) -> None:
        """These hosts have a new kernel, each from its day on."""
        self.kernels.append(f"6.12.{len(self.kernels) + 1}")
        for host, day in zip(hosts, days, strict=True):
            self.kernel[host, day:] = len(self.kernels) - 1

    def step(self, hosts: Places, days: Places, share: float, figures: Sequence[int]) -> None:
        """These figures of these hosts are dearer, each from its day on."""
        for host, day in zip(hosts, days, strict=True):
            self.value[np.ix_(figures, [host], range(day, self.days))] *= 1 + share

    def panel(self) -> Panel:
        """All of it."""
        shape = (self.hosts, self.days)
        facts = {fact: np.zeros(shape, np.int32) for fact in FACTS}
        facts["cpu_model"][:] = self.model[:, None]
        facts["kernel"] = self.kernel.copy()
        silent = np.isnan(self.value).all(0)
        for codes in facts.values():
            codes[silent] = -1
        names = dict.fromkeys(FACTS, ("the same",))
        names |= {"cpu_model": tuple(self.models), "kernel": tuple(self.kernels)}
        days = tuple(str(FIRST + datetime.timedelta(day)) for day in range(self.days))
        return Panel(
            days,
            tuple(
                Host(
                    f"host{host:05}",
                    {"cpu_model": self.models[self.model[host]]},
                    *(self.days, days[0], days[-1], ""),
                )
                for host in range(self.hosts)
            ),
            tuple(
                Figure(
                    *("nightly", f"case{i // len(METHODS)}", "exits", METHODS[i % len(METHODS)]),
                    *(None, "quiet_ns_per_exit", "ns", "lower"),
                    float(np.nanmedian(self.value[i])),
                )
                for i in range(self.figures)
            ),
            self.value,
            np.full_like(self.value, np.nan),
            facts,
            names,
        )


def _real_nights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a quiet exit took in real nights, as a share of the usual: without load, and with."""
    with np.load(DATA) as data:
        night, ns, load = data["night"], data["quiet_ns"][1].astype(float), data["load"]
    floor = np.array([np.quantile(ns[night == n], 0.05) for n in range(len(load))], np.float32)
    quiet = load <= QUIET_LOAD
    return floor[quiet] / np.median(floor[quiet]), floor[~quiet] / np.median(floor[quiet])
