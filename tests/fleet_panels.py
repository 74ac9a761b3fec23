# SPDX-License-Identifier: Apache-2.0
"""Fleets as arrays, of any size, with what happened to their hosts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Figure, Host
from kickbench.fleet.judge.panel import FACTS, Panel

FIRST = datetime.date(2026, 8, 1)
MODELS = ("EPYC 9004", "Xeon 8480")


class World:
    """Hosts that take turns in CPU models. Each night is 0.3 % off, and a host in 20 is busy."""

    def __init__(
        self,
        hosts: int = 60,
        days: int = 60,
        figures: int = 8,
        models: Sequence[str] = MODELS,
        seed: int = 1,
        noise: float = 0.003,
    ) -> None:
        random = np.random.default_rng(seed)
        self.model = np.arange(hosts) % len(models)
        typical = random.lognormal(8, 0.3, (figures, 1, 1))
        level = typical * (1 + 0.2 * self.model[:, None])
        level = level * random.lognormal(0, 0.005, (figures, hosts, 1))
        nights = random.normal(1, noise, (figures, hosts, days))
        nights += (random.random((hosts, days)) < 0.05) * random.exponential(0.2, (hosts, days))
        self.value = (level * (nights if noise else 1.0)).astype(np.float32)
        if not noise:
            self.value = np.repeat(level, days, axis=2).round().astype(np.float32)
        self.value[:, random.random((hosts, days)) < 0.03] = np.nan
        self.half = np.full_like(self.value, np.nan if noise else 0.0)
        self.names: dict[str, list[str]] = {fact: [f"a {fact}"] for fact in FACTS}
        self.names["cpu_model"] = [*models]
        self.facts = {fact: np.zeros((hosts, days), np.int32) for fact in FACTS}
        self.facts["cpu_model"][:] = self.model[:, None]
        self.figures = [
            Figure(
                *("nightly", f"case{i // 2}", "exits", ("sigmask", "immediate_exit")[i % 2]),
                *(None, "quiet_ns_per_exit", "ns", "lower", float(typical[i, 0, 0])),
            )
            for i in range(figures)
        ]

    def of(self, *models: int) -> NDArray[np.intp]:
        """The hosts of these CPU models."""
        return np.flatnonzero(np.isin(self.model, models))

    def move(
        self, hosts: NDArray[np.intp], day: int | NDArray[np.intp], fact: str, value: str
    ) -> None:
        """These hosts have another fact from a day on, or each from its own."""
        if value not in self.names[fact]:
            self.names[fact].append(value)
        code = self.names[fact].index(value)
        for host, at in zip(hosts, np.broadcast_to(day, len(hosts)), strict=True):
            self.facts[fact][host, at:] = code

    def step(
        self,
        hosts: NDArray[np.intp],
        day: int | NDArray[np.intp],
        share: float,
        figures: Sequence[int] | None = None,
        end: int | None = None,
    ) -> None:
        """These hosts' figures are dearer from a day on, until another one."""
        figures = range(len(self.value)) if figures is None else figures
        for host, at in zip(hosts, np.broadcast_to(day, len(hosts)), strict=True):
            self.value[np.ix_([*figures], [host], range(at, end or self.value.shape[2]))] *= (
                1 + share
            )

    def difference(self, case: int) -> int:
        """Add the paired difference of a case, and return its place."""
        sigmask, immediate_exit = self.value[2 * case], self.value[2 * case + 1]
        self.value = np.concatenate([self.value, (sigmask - immediate_exit)[None]])
        self.half = np.concatenate([self.half, self.half[:1]])
        self.figures.append(
            replace(
                self.figures[2 * case],
                baseline="immediate_exit",
                metric="quiet_ns_per_exit difference",
            )
        )
        return len(self.figures) - 1

    def panel(self) -> Panel:
        """All of it, as it is loaded from a store."""
        hosts, days = self.value.shape[1:]
        dates = tuple(str(FIRST + datetime.timedelta(day)) for day in range(days))
        silent = np.isnan(self.value).all(0)
        return Panel(
            days=dates,
            hosts=tuple(
                Host(
                    f"host{host:03}",
                    {fact: self.names[fact][codes[host, -1]] for fact, codes in self.facts.items()},
                    *(days, dates[0], dates[-1], ""),
                )
                for host in range(hosts)
            ),
            figures=tuple(self.figures),
            value=self.value,
            half=self.half,
            facts={fact: np.where(silent, -1, codes) for fact, codes in self.facts.items()},
            names={fact: tuple(names) for fact, names in self.names.items()},
        )
