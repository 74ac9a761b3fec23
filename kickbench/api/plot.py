# SPDX-License-Identifier: Apache-2.0
"""Figures of the report on axes of your own.

Each function draws on ``ax`` and returns it. Without ``ax`` it makes a new figure of pyplot. A
figure can have several plots. ``case`` is the id of a case, and chooses the plot that has it; by
default it is the first. Times of an emulator are called "emulated ns", as in the report. Each
function raises UsageError for a scale that is neither "logarithmic" nor "linear" and if the run has
nothing to draw, and ResultsError if a table is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import matplotlib as mpl

from kickbench.api.reading import Run
from kickbench.errors import UsageError
from kickbench.text import did_you_mean, printable, shorten

with mpl.rc_context():  # pages have settings of their own; yours stay as they are
    from kickbench.report.figures import comparison as compared
    from kickbench.report.figures import contention as contentions
    from kickbench.report.figures import exits, kicks, nested, observed, races, rates, rounds
    from kickbench.report.figures import handover as handovers
    from kickbench.report.figures import lifecycle as lives
    from kickbench.report.figures import nodes as maps
    from kickbench.report.figures import prediction as predictions
    from kickbench.report.figures import shift as shifts
    from kickbench.report.figures.plots import case_title, draw_title
    from kickbench.report.words.contention import series_of_kickers
    from kickbench.summary.prediction import bases

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kickbench.compare.runs import Comparison
    from kickbench.summary.data import RunData

_T = TypeVar("_T")
Scale = Literal["logarithmic", "linear"]

__all__ = [
    *("comparison", "contention", "cost", "cost_by_exit_rate", "differences", "ecdf", "handover"),
    *("kick_latency", "lifecycle", "nested_round_trips", "nested_work", "nodes", "observed_kicks"),
    *("observed_over_time", "observed_pauses", "observed_times", "observed_ways", "over_time"),
    *("pauses", "percentiles", "prediction", "race", "shift", "throughput", "throughput_per_vcpu"),
    *("time_by_exit_rate", "time_by_kick_rate"),
]


# --- exits -------------------------------------------------------------------------------------


def cost(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """What a method costs more per exit than the baseline, by vCPUs, with 95 % intervals."""
    groups = exits.cost_groups(run._data)
    group = _chosen(
        run, case, "costs of exits", groups, lambda group: [c for one in group for c in one.cases]
    )
    return _drawn(run, group, ax, exits.cost_title, exits.draw_cost_on)


def cost_by_exit_rate(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """What a method costs more per exit than the baseline, by the rate of exits."""
    several = "costs of exits at several rates"
    group = _chosen(run, case, several, rates.exit_rate_cost_groups(run._data), list)
    return _drawn(run, group, ax, rates.exit_rate_cost_title, rates.draw_exit_rate_cost_on)


def nodes(
    run: Run, case: str | None = None, ax: Axes | None = None, *, method: str | None = None
) -> Axes:
    """What a method costs more per exit than the baseline, by NUMA nodes.

    ``method`` chooses the method, or the part of a cost, such as "siglock"; by default it is the
    first.
    """
    found = [
        one
        for one in maps.node_maps(run._data)
        if method in (None, one.method.partition(":")[0])  # "siglock: sigmask - sigmask_same"
    ]
    what = f"costs of {method or 'exits'} on several nodes"
    chosen = _chosen(run, case, what, found, lambda one: one.cells.values())
    return _drawn(run, chosen, ax, maps.node_title, maps.draw_nodes_on)


def differences(
    run: Run, case: str | None = None, ax: Axes | None = None, *, method: str | None = None
) -> Axes:
    """The differences of a method from the baseline, round by round, beside the A/A control.

    ``method`` chooses the method; by default it is the first that is compared.
    """
    pairs = [pair for pair in rounds.difference_pairs(run._data) if method in (None, pair[1])]
    what = f"differences by round{f' of {method}' if method else ''}"
    pair = _chosen(run, case, what, pairs, lambda pair: [pair[0]])
    return _drawn(run, pair, ax, rounds.difference_title, rounds.draw_differences_on)


def over_time(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The time per exit of one case, round by round, and what disturbed the rounds."""
    chosen = _chosen(run, case, "rounds of exits", rounds.round_cases(run._data), _alone)
    return _drawn(run, chosen, ax, case_title, rounds.draw_over_time_on)


def time_by_exit_rate(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "linear"
) -> Axes:
    """The time per exit, on an axis with this scale, by the rate of exits."""
    draw = _scaled(rates.draw_exit_rate_time_on, scale)
    several = "times of exits at several rates"
    group = _chosen(run, case, several, rates.exit_rate_time_groups(run._data), list)
    return _drawn(run, group, ax, rates.exit_rate_time_title, draw)


def time_by_kick_rate(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The time per exit while kicks arrive, by their rate."""
    several = "times of exits at several rates of kicks"
    group = _chosen(run, case, several, rates.kick_rate_groups(run._data), list)
    return _drawn(run, group, ax, rates.kick_rate_title, rates.draw_kick_rates_on)


def ecdf(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The share of exits that took no longer, of one case, on an axis of time with this scale."""
    return _distribution(run, case, ax, _scaled(exits.draw_ecdf_on, scale))


def percentiles(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The slowest exits of one case: their time, on an axis with this scale, by percentile."""
    return _distribution(run, case, ax, _scaled(exits.draw_percentiles_on, scale))


def shift(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The difference of two methods at each quantile of an exit's time, of one case."""
    known = shifts.shift_cases(run._data)
    chosen = _chosen(run, case, "differences by quantile", known, _alone)
    return _drawn(run, chosen, ax, case_title, shifts.draw_shift_on)


def throughput(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """Exits per second of all vCPUs together against their number, on axes with this scale."""
    return _scaling(run, case, ax, _scaled(exits.draw_throughput_on, scale))


def throughput_per_vcpu(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "linear"
) -> Axes:
    """Exits per second and vCPU, on an axis with this scale, against the number of vCPUs."""
    return _scaling(run, case, ax, _scaled(exits.draw_per_vcpu_on, scale))


def prediction(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """What a lock would cost with more vCPUs and nodes, on an axis of time with this scale.

    The run needs exits with one vCPU, and hand-overs. ``case`` is one of those exits.
    """
    draw = _scaled(predictions.draw_prediction_on, scale)
    what = "prediction of a lock's cost"
    basis = _chosen(run, case, what, bases(run.summary), lambda basis: [{"id": basis.case}])
    return _drawn(run, predictions.predicted(basis), ax, predictions.prediction_title, draw)


# --- kicks -------------------------------------------------------------------------------------


def kick_latency(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The latency of kicks with its phases, by the state of the vCPU."""
    cases = _chosen(run, case, "kick latency", kicks.latency_groups(run._data), list)
    return _drawn(run, cases, ax, kicks.latency_title, kicks.draw_latency_on)


def contention(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "linear"
) -> Axes:
    """What a kick costs its sender, on an axis with this scale, by the number of kickers."""
    draw = _scaled(contentions.draw_contention_on, scale)
    several = "kicks by several numbers of kickers"
    cases = _chosen(run, case, several, series_of_kickers(run.summary), list)
    return _drawn(run, cases, ax, contentions.contention_title, draw)


def pauses(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The time to pause all vCPUs against their number, on axes with this scale."""
    draw = _scaled(kicks.draw_pauses_on, scale)
    several = "pauses at several numbers of vCPUs"
    group = _chosen(run, case, several, kicks.pause_groups(run._data), itemgetter(1))
    return _drawn(run, group, ax, kicks.pause_title, draw)


def race(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The share of kicks that each method lost, with 95 % intervals, by window."""
    cases = _chosen(run, case, "races with enough kicks", races.race_groups(run._data), list)
    return _drawn(run, cases, ax, races.race_title, races.draw_race_on)


def lifecycle(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """What became of the kicks of fresh VMs, by the moment of the vCPU's life."""
    cases = _chosen(run, case, "kicks of fresh VMs", lives.lifecycle_groups(run._data), list)
    return _drawn(run, cases, ax, lives.lifecycle_title, lives.draw_lifecycle_on)


# --- other kinds -------------------------------------------------------------------------------


def handover(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """What handing a cache line over takes, by pair of CPUs."""
    known = handovers.handover_cases(run._data)
    chosen = _chosen(run, case, "timed hand-overs", known, _alone)
    return _drawn(run, chosen, ax, handovers.handover_title, handovers.draw_handover_on)


def nested_work(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The work that L2 gets done before L1 has its event, by the way of entering L2."""
    chosen = _chosen(run, case, "work of L2", nested.work_cases(run._data), _alone)
    return _drawn(run, chosen, ax, nested.nested_title, nested.draw_work_on)


def nested_round_trips(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "logarithmic"
) -> Axes:
    """The share of a guest hypervisor's round trips that took no longer.

    The time is on an axis with this scale.
    """
    draw = _scaled(nested.draw_round_trips_on, scale)
    known = nested.round_trip_groups(run._data)
    group = _chosen(run, case, "round trips", known, lambda group: [group[0]])
    return _drawn(run, group, ax, nested.round_trip_title, draw)


# --- a VM that was observed --------------------------------------------------------------------


def observed_ways(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The most frequent ways in which a VM leaves, with their rates and times."""
    chosen = _chosen(run, case, "ways to leave", observed.way_cases(run._data), _alone)
    return _drawn(run, chosen, ax, observed.vm_title, observed.draw_ways_on)


def observed_times(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The share of exits that were in KVM_RUN, or outside, no longer than a time."""
    chosen = _chosen(run, case, "times of exits", observed.time_cases(run._data), _alone)
    return _drawn(run, chosen, ax, observed.vm_title, observed.draw_exit_times_on)


def observed_over_time(
    run: Run, case: str | None = None, ax: Axes | None = None, *, scale: Scale = "linear"
) -> Axes:
    """Exits per second, on an axis with this scale, over the observation, with its kicks."""
    draw = _scaled(observed.draw_exits_over_time_on, scale)
    known = observed.turn_groups(run._data)
    group = _chosen(run, case, "turns of an observation", known, lambda group: [group.case])
    return _drawn(run, group, ax, observed.turn_title, draw)


def observed_kicks(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The share of kicks of a VM that took no longer, by what the vCPU did."""
    return _events(run, case, ax, "kicks")


def observed_pauses(run: Run, case: str | None = None, ax: Axes | None = None) -> Axes:
    """The share of pauses of a VM that took no longer, until the first and the last vCPU."""
    return _events(run, case, ax, "pauses")


# --- two runs ----------------------------------------------------------------------------------


def comparison(
    comparison: Comparison, case: str | None = None, ax: Axes | None = None, *, paired: bool = False
) -> Axes:
    """The differences that :func:`kickbench.compare` judged, in per cent of the base.

    They are those of all cases that are of one kind. ``paired`` chooses between the levels and the
    differences of methods from their baseline.
    """
    known = [bars for bars in compared.difference_bars(comparison) if bars.paired == paired]
    cases = [one["id"] for one in comparison.base["cases"]]
    what = "paired differences" if paired else "levels"
    bars = _choice("comparison", cases, case, what, known, lambda bars: bars.cases)
    title = compared.bars_title(comparison, bars)
    return _on(ax, title, lambda axes: compared.draw_bars_on(axes, comparison, bars))


# --- what several of them do -------------------------------------------------------------------


def _scaling(run: Run, case: str | None, ax: Axes | None, draw: Callable[..., None]) -> Axes:
    several = "exits at several numbers of vCPUs"
    group = _chosen(run, case, several, exits.scaling_groups(run._data), itemgetter(1))
    return _drawn(run, group, ax, exits.scaling_title, draw)


def _distribution(run: Run, case: str | None, ax: Axes | None, draw: Callable[..., None]) -> Axes:
    of_exits = [one for one in run._data.finished if one["kind"] == "exits"]
    chosen = _chosen(run, case, "distribution of exits", of_exits, _alone)
    found = run._data.distributions(chosen["id"])
    if not found:
        raise UsageError(f"the case {chosen['id']} has no timed exits, or has lost its tables")
    return _drawn(run, chosen, ax, case_title, lambda axes, data, _: draw(axes, data, found))


def _events(run: Run, case: str | None, ax: Axes | None, kind: str) -> Axes:
    known = [group for group in observed.event_groups(run._data) if group.kind == kind]
    what = f"{kind} that were observed"
    group = _chosen(run, case, what, known, lambda group: [group.case])
    return _drawn(run, group, ax, observed.event_title, observed.draw_events_on)


def _alone(case: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cases of a plot that has a case of its own."""
    return [case]


def _scaled(draw: Callable[..., None], scale: Scale) -> Callable[..., None]:
    # The figures take all that is not "logarithmic" for "linear".
    if scale not in get_args(Scale):
        given = shorten(printable(repr(scale)))
        raise UsageError(f"scale is logarithmic or linear, not {given}")
    return partial(draw, scale=scale)


def _chosen(
    run: Run,
    case: str | None,
    what: str,
    groups: Sequence[_T],
    cases: Callable[[_T], Iterable[Mapping[str, Any]]],
) -> _T:
    """The group that has the case, or the first one. A plot is of a group."""
    return _choice("run", run.cases, case, what, groups, lambda one: [c["id"] for c in cases(one)])


def _choice(
    whole: str,
    known: Collection[str],
    case: str | None,
    what: str,
    groups: Sequence[_T],
    ids: Callable[[_T], Sequence[str]],
) -> _T:
    if case is not None and case not in known:
        raise UsageError(f"the {whole} has no case {case}{did_you_mean(case, known)}")
    for group in groups:
        if case is None or case in ids(group):
            return group
    raise UsageError(f"the {whole if case is None else f'case {case}'} has no {what}")


def _drawn(
    run: Run,
    group: _T,
    ax: Axes | None,
    title: Callable[[RunData, _T], str],
    draw: Callable[[Axes, RunData, _T], object],
) -> Axes:
    data = run._data
    return _on(ax, title(data, group), lambda axes: draw(axes, data, group))


def _on(ax: Axes | None, title: str, draw: Callable[[Axes], object]) -> Axes:
    if ax is None:
        from matplotlib import pyplot as plt  # it looks for a screen

        _, ax = plt.subplots(layout="constrained")
    draw_title(ax, title)
    draw(ax)
    return ax
