# SPDX-License-Identifier: Apache-2.0
"""Figures of the report on axes of your own.

Each function draws on ``ax`` and returns it. Without ``ax`` it makes a new figure of pyplot. A
figure can have several plots. ``case`` is the id of a case, and chooses the plot that has it; by
default it is the first. Times of an emulator are called "emulated ns", as in the report. Each
function raises UsageError for a scale that is neither "logarithmic" nor "linear" and if the run has
nothing to draw, and ResultsError if a table is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import matplotlib as mpl

from kickbench.api.reading import Run
from kickbench.errors import UsageError
from kickbench.text import did_you_mean, printable, shorten

with mpl.rc_context():  # pages have settings of their own; yours stay as they are
    from kickbench.report.figures import exits, kicks, races
    from kickbench.report.figures import shift as shifts
    from kickbench.report.figures.plots import draw_title, titled, where
    from kickbench.report.words.names import conditions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_T = TypeVar("_T")
Scale = Literal["logarithmic", "linear"]

__all__ = [
    *("cost", "ecdf", "kick_latency", "pauses", "percentiles"),
    *("race", "shift", "throughput", "throughput_per_vcpu"),
]


def cost(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """What a method costs more per exit than the baseline, by vCPUs, with 95 % intervals."""
    data = run._data
    group = _chosen(
        run,
        exits.cost_groups(data),
        lambda group: [one for series in group for one in series.cases],
        case,
        "costs of exits",
    )
    title = exits.cost_title(data, group)
    return _drawn(ax, title, lambda ax: exits.draw_cost_on(ax, data, group))


def ecdf(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The share of exits that took no longer, of one case, on an axis of time with this scale."""
    return _distribution(run, case, ax, scale, exits.draw_ecdf_on)


def percentiles(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The slowest exits of one case: their time, on an axis with this scale, by percentile."""
    return _distribution(run, case, ax, scale, exits.draw_percentiles_on)


def kick_latency(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The latency of kicks with its phases, by the state of the vCPU."""
    data = run._data
    cases = _chosen(run, kicks.latency_groups(data), lambda group: group, case, "kick latency")
    title = kicks.latency_title(data, cases)
    return _drawn(ax, title, lambda ax: kicks.draw_latency_on(ax, data, cases))


def pauses(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The time to pause all vCPUs against their number, on axes with this scale."""
    _check_scale(scale)
    data = run._data
    several = "pauses at several numbers of vCPUs"
    series, cases = _chosen(run, kicks.pause_groups(data), lambda group: group[1], case, several)
    title = titled(data, conditions(data.summary, series, of_kind=False))
    return _drawn(ax, title, lambda ax: kicks.draw_pauses_on(ax, data, cases, scale))


def race(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The share of kicks that each method lost, with 95 % intervals, by window."""
    data = run._data
    what = "races with enough kicks"
    cases = _chosen(run, races.race_groups(data), lambda group: group, case, what)
    title = races.race_title(data, cases)
    return _drawn(ax, title, lambda ax: races.draw_race_on(ax, data, cases))


def shift(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The difference of two methods at each quantile of an exit's time, of one case."""
    data = run._data
    known = [one for one in data.finished if one.get("shift")]
    chosen = _chosen(run, known, lambda one: [one], case, "differences by quantile")
    title = shifts.shift_title(data, chosen)
    return _drawn(ax, title, lambda ax: shifts.draw_shift_on(ax, data, chosen))


def throughput(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """Exits per second of all vCPUs together against their number, on axes with this scale."""
    return _scaling(run, case, ax, scale, exits.draw_throughput_on)


def throughput_per_vcpu(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "linear"
) -> Axes:
    """Exits per second and vCPU, on an axis with this scale, against the number of vCPUs."""
    return _scaling(run, case, ax, scale, exits.draw_per_vcpu_on)


def _scaling(
    run: Run, case: str | None, ax: Axes | None, scale: Scale, draw: Callable[..., None]
) -> Axes:
    _check_scale(scale)
    data = run._data
    what = "exits at several numbers of vCPUs"
    groups = exits.scaling_groups(data)
    series, cases = _chosen(run, groups, lambda group: group[1], case, what)
    title = titled(data, conditions(data.summary, series))
    return _drawn(ax, title, lambda ax: draw(ax, data, series, cases, scale))


def _distribution(
    run: Run, case: str | None, ax: Axes | None, scale: Scale, draw: Callable[..., None]
) -> Axes:
    _check_scale(scale)
    data = run._data
    of_exits = [one for one in data.finished if one["kind"] == "exits"]
    chosen = _chosen(run, of_exits, lambda one: [one], case, "distribution of exits")
    found = data.distributions(chosen["id"])
    if not found:
        raise UsageError(f"the case {chosen['id']} has no timed exits, or has lost its tables")
    title = titled(data, where(data, chosen))
    return _drawn(ax, title, lambda ax: draw(ax, data, found, scale))


def _check_scale(scale: Scale) -> None:
    # The figures take all that is not "logarithmic" for "linear".
    if scale not in get_args(Scale):
        given = shorten(printable(repr(scale)))
        raise UsageError(f"scale is logarithmic or linear, not {given}")


def _chosen(
    run: Run,
    groups: Sequence[_T],
    cases: Callable[[_T], Iterable[Mapping[str, Any]]],
    case: str | None,
    what: str,
) -> _T:
    """The group that has the case, or the first one."""
    if case is not None and case not in run.cases:
        raise UsageError(f"the run has no case {case}{did_you_mean(case, run.cases)}")
    for group in groups:
        if case is None or case in [one["id"] for one in cases(group)]:
            return group
    raise UsageError(f"{'the run' if case is None else f'the case {case}'} has no {what}")


def _drawn(ax: Axes | None, title: str, draw: Callable[[Axes], object]) -> Axes:
    if ax is None:
        from matplotlib import pyplot as plt  # it looks for a screen

        _, ax = plt.subplots(layout="constrained")
    draw_title(ax, title)
    draw(ax)
    return ax
