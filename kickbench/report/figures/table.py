# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: one table of them, each a function from a run to plots.

A figure without data has no plots, and is then absent. The functions are in the modules
``*_figures`` beside this one; what they share is in :mod:`kickbench.report.figures.plots`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kickbench.report.figures.contention import draw_contention
from kickbench.report.figures.exits import (
    draw_cost,
    draw_ecdf,
    draw_percentiles,
    draw_throughput,
    draw_throughput_per_vcpu,
)
from kickbench.report.figures.kicks import draw_kick_latency, draw_pauses
from kickbench.report.figures.nested import draw_round_trips, draw_work
from kickbench.report.figures.nodes import draw_nodes
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.races import draw_race
from kickbench.report.figures.rates import draw_exit_rates, draw_kick_rates
from kickbench.report.figures.rounds import draw_differences, draw_over_time
from kickbench.report.figures.shift import draw_shift
from kickbench.summary.data import RunData


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
        "Paired differences with 95 % intervals; siglock is a part of what sigmask costs, where "
        "both were measured with sigmask_same. The grey bar is the A/A control, the baseline "
        "against itself: a difference within it means nothing. A hollow marker has more vCPUs "
        "than CPUs; at the edge, a hollow arrow is a difference beyond the axis, a small one ends "
        "an interval that reaches beyond it.",
        draw_cost,
    ),
    Figure(
        "nodes",
        "What a method costs by NUMA node",
        "The row is the node of the thread that created the process, where the siglock lies; the "
        "column is that of the vCPUs. The stronger the colour, the larger the cost; small are the "
        "ends of the 95 % interval. Hatched: not measured.",
        draw_nodes,
    ),
    Figure(
        "differences",
        "Paired differences, round by round",
        "Each round has the method and the baseline within some milliseconds: a dot is their "
        "difference. To the right is the A/A control, the baseline against itself under the same "
        "schedule, which should lie around 0. Coloured are the estimate and its 95 % interval, "
        "black the trimmed mean of each process.",
        draw_differences,
    ),
    Figure(
        "shift",
        "Where in the distribution a method costs more",
        "The paired difference at each quantile of a block's exits, with its 95 % interval. A cost "
        "that every exit pays is level. Contention makes few exits much longer: the line then "
        "rises to the right. A quantile is left out where blocks have fewer than five exits "
        "beyond it.",
        draw_shift,
    ),
    Figure(
        "throughput",
        "Exits per second against vCPUs",
        "All vCPUs together: the trimmed mean over the rounds with its 95 % interval, as runs are "
        "compared by; the table's exits/s are of all blocks together. The dashed line is perfect "
        "scaling: the best method's rate at the fewest vCPUs, or the rate that was asked for, "
        "times the vCPUs. A hollow marker has more vCPUs than CPUs; an arrow ends an interval that "
        "reaches beyond the axis.",
        draw_throughput,
    ),
    Figure(
        "throughput-per-vcpu",
        "Exits per second and vCPU",
        "The same rates, divided by the vCPUs: with perfect scaling the line is level.",
        draw_throughput_per_vcpu,
    ),
    Figure(
        "exit-rates",
        "Exits against their rate",
        "From the slowest rate that was asked for to full speed (max): first what a method costs "
        "more per exit than the baseline, with the A/A control in grey, then the times themselves, "
        "trimmed means over the rounds with the intervals of their own levels, in which what the "
        "methods share is not left out.",
        draw_exit_rates,
    ),
    Figure(
        "kick-rates",
        "Time per exit while kicks arrive",
        "The trimmed mean over the rounds with its 95 % interval, against the kicks that each vCPU "
        "gets.",
        draw_kick_rates,
    ),
    Figure(
        "kick-latency",
        "Kick latency by state of the vCPU",
        "From just before the kick until the protocol knows of it: the median, with its 95 % "
        "interval. A bar becomes lighter with each moment that was seen: the handler runs, "
        "KVM_RUN returns, the protocol knows. The lightest part comes after the latency, and ends "
        "when the guest runs again. Each moment is a median of its own. The thin line is the "
        "kicker's call; a diamond is p99, an arrow a p99 beyond the axis, "
        "a small one the end of an interval there.",
        draw_kick_latency,
    ),
    Figure(
        "contention",
        "What a kick costs its sender, by the number of kickers",
        "The length of the kicker's call, the median with its 95 % interval, while so many threads "
        "kick the same vCPU at once. Of all their calls, also those that came after another "
        "kicker's kick had got the vCPU out. A hollow marker: less than half of the calls "
        "overlapped with another's, so that the kickers took turns and did not contend; an arrow "
        "ends an interval that reaches beyond the axis.",
        draw_contention,
    ),
    Figure(
        "race",
        "Lost kicks by width of the window",
        "The share lost of the kicks that could have been, with the exact 95 % interval. A hollow "
        "marker with an arrow lost none: the truth is anywhere below it (95 %). Wider windows "
        "between the check of the flag and KVM_RUN lose more, where a protocol can lose at all.",
        draw_race,
    ),
    Figure(
        "pause-all",
        "Pausing all vCPUs against their number",
        "Time from the first kick until the last vCPU (solid, with 95 % intervals), the median one "
        "(dashed) and the first (dotted) have acknowledged; medians over all pauses. A hollow "
        "marker has more vCPUs than CPUs.",
        draw_pauses,
    ),
    Figure(
        "nested-work",
        "What L2 gets done before L1 has its event",
        "Turns of L2's loop: a marker is the median, the thick line reaches to p99, the thin one "
        "to the most. While an event for L1 is pending, L2 should get none done. Beyond the dashed "
        "line the event is late; plain leaves before the loop, and asynchronous works until it "
        "is interrupted.",
        draw_work,
    ),
    Figure(
        "nested-round-trips",
        "Round trips of a guest hypervisor",
        "From just before L1 enters L2 until it has the exit, by L1's clock; every iteration but "
        "those with an unexpected exit. Further left is faster. Those that L2 works in until a "
        "thread interrupts are not drawn: of them the time is that thread's.",
        draw_round_trips,
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
    Figure(
        "over-time",
        "Time per exit over the rounds",
        "All rounds in their order, processes apart by dotted lines. Below, what disturbed them: "
        "a bar is taller the more of it there was. Nothing is left out of the estimates for it. "
        "A stroke at the edge is a value beyond the axis.",
        draw_over_time,
    ),
)
"""The figures in the order of the page. A new one is a function above and an entry here."""
