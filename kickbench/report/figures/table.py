# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: one table of them, each a function from a run to plots.

A figure without data has no plots, and is left out. The functions are in the modules beside this
one. :mod:`kickbench.report.figures.plots` has what they share.
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
from kickbench.report.figures.handover import draw_handovers
from kickbench.report.figures.kicks import draw_kick_latency, draw_pauses
from kickbench.report.figures.lifecycle import draw_lifecycle
from kickbench.report.figures.nested import draw_round_trips, draw_work
from kickbench.report.figures.nodes import draw_nodes
from kickbench.report.figures.observed import (
    draw_exit_times,
    draw_exits_over_time,
    draw_observed_kicks,
    draw_ways,
)
from kickbench.report.figures.plots import Plot
from kickbench.report.figures.prediction import draw_predictions
from kickbench.report.figures.races import draw_race
from kickbench.report.figures.rates import draw_exit_rates, draw_kick_rates
from kickbench.report.figures.rounds import draw_differences, draw_over_time
from kickbench.report.figures.shift import draw_shift
from kickbench.summary.data import RunData


@dataclass(frozen=True)
class Figure:
    """One figure of the report: its name (for ids and files), title, reading guide and function.

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
        "Paired differences with 95 % intervals. siglock is the part of sigmask's cost that "
        "sigmask_same does not have, if it was measured. The grey bar is the A/A control, the "
        "baseline against itself: a difference within it means nothing. A hollow marker has more "
        "vCPUs than CPUs. At the edge, a hollow arrow is a difference beyond the axis, and a small "
        "arrow ends an interval that reaches beyond it.",
        draw_cost,
    ),
    Figure(
        "nodes",
        "What a method costs by NUMA node",
        "The row is the node of the thread that created the process, where the siglock lies. The "
        "column is the node of the vCPUs. The stronger the colour, the larger the cost. The small "
        "numbers are the 95 % interval. A hatched cell was not measured.",
        draw_nodes,
    ),
    Figure(
        "differences",
        "Paired differences, round by round",
        "Each round runs the method and the baseline within some milliseconds, and a dot is their "
        "difference. To the right is the A/A control, the baseline against itself under the same "
        "schedule. It should lie around 0. The coloured line and band are the estimate and its "
        "95 % interval. A black line is the estimate of one process.",
        draw_differences,
    ),
    Figure(
        "shift",
        "Where in the distribution a method costs more",
        "The paired difference at each quantile of a block's exits, with its 95 % interval. If "
        "every exit pays the cost, the line is level. If contention makes a few exits much longer, "
        "the line rises to the right. A quantile is left out if blocks have fewer than five exits "
        "beyond it.",
        draw_shift,
    ),
    Figure(
        "throughput",
        "Exits per second against vCPUs",
        "All vCPUs together: the trimmed mean over the rounds with its 95 % interval, which "
        "comparisons of runs use too. The exits/s of the table are of all blocks together. The "
        "dashed line is perfect scaling: the best method's rate at the fewest vCPUs, or the rate "
        "that was asked for, times the vCPUs. A hollow marker has more vCPUs than CPUs. An arrow "
        "ends an interval that reaches beyond the axis.",
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
        "From the slowest rate that was asked for to full speed (max). The first plots show what a "
        "method costs more per exit than the baseline, with the A/A control in grey. The others "
        "show the times themselves: trimmed means over the rounds, with the intervals of these "
        "levels. Such an interval also has the variation that the methods share.",
        draw_exit_rates,
    ),
    Figure(
        "kick-rates",
        "Time per exit while kicks arrive",
        "The trimmed mean over the rounds with its 95 % interval, by the rate of kicks that each "
        "vCPU gets.",
        draw_kick_rates,
    ),
    Figure(
        "kick-latency",
        "Kick latency by state of the vCPU",
        "The median from just before the kick until the protocol knows of it, with its 95 % "
        "interval. A bar becomes lighter with each moment that was seen: the handler runs, "
        "KVM_RUN returns, the protocol knows. The lightest part comes after the latency, and ends "
        "when the guest runs again. Each moment is a median of its own. The thin line is the "
        "kicker's call. A diamond is p99, and an arrow is a p99 beyond the axis. A small arrow "
        "ends an interval that reaches beyond the axis.",
        draw_kick_latency,
    ),
    Figure(
        "contention",
        "What a kick costs its sender, by the number of kickers",
        "The length of the kicker's call, the median with its 95 % interval, while this number of "
        "threads kick the same vCPU at once. It includes calls that came after another kicker had "
        "got the vCPU out. A hollow marker means that less than half of the calls overlapped, so "
        "the kickers took turns and did not contend. An arrow ends an interval that reaches beyond "
        "the axis.",
        draw_contention,
    ),
    Figure(
        "race",
        "Lost kicks by width of the window",
        "The share of lost kicks among those that could have been lost, with the exact 95 % "
        "interval. A hollow marker with an arrow lost none: the true share is anywhere below it "
        "(95 %). If a protocol can lose kicks, it loses more with a wider window between the check "
        "of the flag and KVM_RUN.",
        draw_race,
    ),
    Figure(
        "lifecycle",
        "What became of the kicks of fresh VMs",
        "Each bar is all kicks of a protocol at a moment of a vCPU's life. The number beside it "
        "says how many went wrong. The triangle is the share that was sent in time, before "
        "the moment was over. A fault is never narrower than it can be seen. The table has the "
        "exact bounds.",
        draw_lifecycle,
    ),
    Figure(
        "pause-all",
        "Pausing all vCPUs against their number",
        "The time from the first kick until the last vCPU (solid, with 95 % intervals), the median "
        "one (dashed) and the first (dotted) have acknowledged. Each is a median over all pauses. "
        "A hollow marker has more vCPUs than CPUs.",
        draw_pauses,
    ),
    Figure(
        "nested-work",
        "What L2 gets done before L1 has its event",
        "Turns of L2's loop: a marker is the median, the thick line reaches to p99, the thin one "
        "to the maximum. While an event for L1 is pending, L2 should get none done. Beyond the "
        "dashed line the event is late. plain leaves before the loop, and asynchronous works until "
        "it is interrupted.",
        draw_work,
    ),
    Figure(
        "nested-round-trips",
        "Round trips of a guest hypervisor",
        "The time from just before L1 enters L2 until L1 has the exit, by L1's clock. Further left "
        "is faster. Iterations with an unexpected exit are left out. So is asynchronous, whose "
        "time depends on the thread that interrupts L2.",
        draw_round_trips,
    ),
    Figure(
        "handover",
        "What handing a cache line over takes, by pair of CPUs",
        "Each square is a pair of CPUs, and the same pair is there twice. The stronger the colour, "
        "the longer the hand-over. CPUs are in the order of their nodes, with a line between two "
        "nodes. The times are quiet hand-overs, with 95 % intervals if there is room. A hatched "
        "or blank square was not measured.",
        draw_handovers,
    ),
    Figure(
        "prediction",
        "What the lock would cost with more vCPUs and nodes",
        "A simulation of the kernel's queued spinlock: the grey lines are predicted, not measured. "
        "It starts from one vCPU and the hand-over of a cache line. Each vCPU has its own CPU. The "
        "grey bands are 95 % intervals of what goes into it, not of what the model "
        "leaves out. A coloured marker was measured, with its 95 % interval. An arrow ends an "
        "interval that reaches beyond the axis.",
        draw_predictions,
    ),
    Figure(
        "observed-ways",
        "Why the VM leaves to user space",
        "The most frequent ways to leave, with their rates of all vCPUs together. The times are "
        "means: how long the exit was in KVM_RUN before, and how long user space took after it.",
        draw_ways,
    ),
    Figure(
        "observed-times",
        "How long the VM stays in and outside KVM_RUN",
        "Distributions of the exits that were looked at closely, of all vCPUs together. Further "
        "left is shorter.",
        draw_exit_times,
    ),
    Figure(
        "observed-over-time",
        "Exits per second over the observation",
        "A line is a vCPU, with a value for each turn of about a second. With more than four "
        "vCPUs, the busiest three have a line, and the mean of the others has one. Strokes at the "
        "upper edge are kicks, and the longer ones pauses.",
        draw_exits_over_time,
    ),
    Figure(
        "observed-kicks",
        "How long kicks of the VM took",
        "From the signal until KVM_RUN returned, by what the vCPU did when it was kicked. The "
        "dotted line is the time until the signal's handler was entered, of all kicks that have "
        "one. A pause is counted from its first kick until the first, the median and the last vCPU "
        "answered. Further left is shorter.",
        draw_observed_kicks,
    ),
    Figure(
        "ecdf",
        "Time per exit: distribution",
        "Every timed exit but the slowest few, which the next figure has. Further left is faster. "
        "Each placement and rate has the case with the most vCPUs that had enough CPUs.",
        draw_ecdf,
    ),
    Figure(
        "percentiles",
        "Time per exit: the slowest exits",
        "The same exits. Each step to the right is another nine. A line ends where fewer than one "
        "exit is slower.",
        draw_percentiles,
    ),
    Figure(
        "over-time",
        "Time per exit over the rounds",
        "All rounds in their order, with dotted lines between processes. Below is what disturbed "
        "them: the taller a bar, the stronger the disturbance. The estimates contain the disturbed "
        "rounds too. A stroke at the edge is a value beyond the axis.",
        draw_over_time,
    ),
)
"""The figures in the order of the page. A new one is a function above and an entry here."""
