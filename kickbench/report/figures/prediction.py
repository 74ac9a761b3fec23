# SPDX-License-Identifier: Apache-2.0
"""The figure of what a lock would cost with more vCPUs and nodes, beside what was measured."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kickbench.report.figures.plots import (
    BAND,
    DASHES,
    LINEAR,
    LOGARITHMIC,
    PART_STYLE,
    Plot,
    draw_cut_ends,
    draw_each,
    draw_intervals,
    draw_legend,
    log_ticks,
    on_both,
    round_ticks,
    tick_time,
    titled,
    vcpu_axis,
)
from kickbench.report.words.names import nanoseconds, rate_name
from kickbench.report.words.prediction import NOT_MEASURED, answer
from kickbench.summary.data import RunData
from kickbench.summary.prediction import NODES, VCPUS, Basis, Predicted, bases, points, predict

Prediction = tuple[Basis, list[Predicted]]
"""What was measured, and what is predicted from it."""


def draw_predictions(data: RunData) -> list[Plot]:
    """What the lock costs against vCPUs, a line for each number of nodes: a plot per rate."""
    return draw_each(bases(data.summary), lambda basis: _plot(data, predicted(basis)))


def predicted(basis: Basis) -> Prediction:
    """The predictions that a plot has. They are simulated, which takes a while."""
    return basis, list(predict(basis, points(basis, VCPUS, NODES)))


def prediction_title(data: RunData, group: Prediction) -> str:
    """What distinguishes the plot from those of other bases."""
    basis, _ = group
    return titled(data, f"{basis.isolates}, {NOT_MEASURED}: {rate_name(basis.exit_rate_hz)}")


def _plot(data: RunData, group: Prediction) -> Plot:
    return on_both(
        prediction_title(data, group),
        " ".join(answer(data.summary, *group)),
        lambda axes, scale: draw_prediction_on(axes, data, group, scale),
        LOGARITHMIC,
        LINEAR,
    )


def draw_prediction_on(axes: Axes, data: RunData, group: Prediction, scale: str) -> None:
    """Draw what :func:`predicted` gives, on an axis of time with this scale."""
    basis, found = group
    handles: list[Line2D] = []
    names: list[str] = []
    for nodes, dashes in zip(NODES, DASHES, strict=True):
        line = [point for point in found if point.nodes == nodes]
        if not line:
            continue
        x = [point.vcpus for point in line]
        y = [point.ns.value for point in line]
        handles += axes.plot(x, y, color=BAND, linestyle=dashes)
        ends = _band(line, scale)
        axes.fill_between(x, *ends, color=BAND, alpha=0.25, linewidth=0)
        names.append(f"predicted, {nodes} {'node' if nodes == 1 else 'nodes'}")
    colour, marker = PART_STYLE
    known = sorted(basis.measured.items())
    x = [vcpus for vcpus, _ in known]
    y = [level.value for _, level in known]
    axes.plot(x, y, marker, color=colour, markersize=6)
    values = [value for value in (*y, *(point.ns.value for point in found)) if value > 0]
    if scale == LOGARITHMIC:
        axes.set_yscale("log")
        log_ticks(axes, values or [1.0], "y", tick_time)
    else:
        lowest = min(0.0, *y, *(point.ns.value for point in found))
        axes.set_ylim(lowest, 1.08 * max(values or [1.0]))
        round_ticks(axes, "y", tick_time)
    intervals = [(level.low, level.high) for _, level in known]
    draw_intervals(axes, x, intervals, colour)
    draw_cut_ends(axes, x, intervals, colour)
    vcpu_axis(axes, VCPUS)
    axes.set_ylabel(f"{basis.isolates} [{nanoseconds(data.summary)} per exit]")
    if known:
        handles += axes.plot([], [], marker, color=colour, markersize=6)
        names.append("measured")
    draw_legend(axes, handles, names)


def _band(line: list[Predicted], scale: str) -> tuple[list[float], list[float]]:
    """The ends of the intervals. A logarithmic axis has no 0, so that a lower end is above it."""
    low = [point.ns.low for point in line]
    if scale == LOGARITHMIC:
        low = [max(end, abs(point.ns.value) / 100) for end, point in zip(low, line, strict=True)]
    return low, [point.ns.high for point in line]
