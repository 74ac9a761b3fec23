# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: one table of them, each a function from a run to plots.

A figure without data has no plots, and is then absent. The functions are in
:mod:`kickbench.report.exit_figures` and :mod:`kickbench.report.kick_figures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kickbench.report.data import RunData
from kickbench.report.exit_figures import (
    draw_cost,
    draw_ecdf,
    draw_kick_rates,
    draw_percentiles,
    draw_throughput,
)
from kickbench.report.kick_figures import draw_kick_latency, draw_pauses
from kickbench.report.plots import Plot


@dataclass(frozen=True)
class Figure:
    """One entry of the report: its name (for ids and files), title, reading guide and function.

    ``guide`` may hold {ns}, the unit of time.
    """

    name: str
    title: str
    guide: str
    draw: Callable[[RunData], list[Plot]]


FIGURES: tuple[Figure, ...] = (
    Figure(
        "cost",
        "What a method costs more per exit than the baseline",
        "Paired differences with 95 % intervals. The grey band is the A/A control, the baseline "
        "against itself: a difference within it means nothing. A hollow marker has more vCPUs "
        "than CPUs; a hollow arrow at the edge stands for one beyond the axis.",
        draw_cost,
    ),
    Figure(
        "throughput",
        "Exits per second against vCPUs",
        "All vCPUs together, both axes logarithmic. The dashed line is perfect scaling: the best "
        "method's rate at the fewest vCPUs, or the rate that was asked for, times the vCPUs. "
        "A hollow marker has more vCPUs than CPUs.",
        draw_throughput,
    ),
    Figure(
        "kick-rates",
        "Time per exit while kicks arrive",
        "The mean over all vCPUs, against the kicks that each vCPU gets.",
        draw_kick_rates,
    ),
    Figure(
        "kick-latency",
        "Kick latency by state of the vCPU",
        "From just before the kick until KVM_RUN has returned. A bar is the median, with its 95 % "
        "interval: dark until the handler runs, light from there on, all dark where there is no "
        "handler. (Medians of parts need not add up to that of the whole.) The thin line is the "
        "kicker's own call; a diamond is p99, an arrow a p99 beyond the axis.",
        draw_kick_latency,
    ),
    Figure(
        "pause-all",
        "Pausing all vCPUs against their number",
        "Time from the first kick until the last vCPU (solid, with 95 % intervals), the median one "
        "(dashed) and the first (dotted) have acknowledged; medians over all pauses, both axes "
        "logarithmic. A hollow marker has more vCPUs than CPUs.",
        draw_pauses,
    ),
    Figure(
        "ecdf",
        "Time per exit: distribution",
        "Every timed exit but the slowest few, which the next figure has. Further left is faster; "
        "of each placement and rate, the case with the most vCPUs for which there were CPUs.",
        draw_ecdf,
    ),
    Figure(
        "percentiles",
        "Time per exit: the slowest exits",
        "The same exits; each step to the right is another nine. A line ends where fewer than one "
        "exit is slower.",
        draw_percentiles,
    ),
)
"""The figures in the order of the page. A new one is a function above and an entry here."""
