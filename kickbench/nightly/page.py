# SPDX-License-Identifier: Apache-2.0
"""The page of trends of one host and scenario: what changed and with what, then the plots.

The template is ``trend.html.j2``, in the style of the reports. :mod:`kickbench.nightly.changes`
finds what changed, and nothing is decided here. Other people may write to a history, so texts are
escaped and bounded as in reports. The same history gives the same bytes.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from matplotlib import dates
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from kickbench.compare.identity import Change, changes
from kickbench.compare.metrics import METRICS
from kickbench.nightly.changes import change_points
from kickbench.nightly.collect import trends
from kickbench.nightly.events import Event, forgotten, verdicts
from kickbench.nightly.night import Night
from kickbench.nightly.remarks import lost_kicks
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend, key_name
from kickbench.numbers import NOTHING, fixed, measured, plural, significant
from kickbench.report.figures.plots import (
    INK,
    OTHER_STYLES,
    STYLES,
    Plot,
    draw_legend,
    engineering,
    new_plot,
)
from kickbench.report.figures.svg import inline
from kickbench.report.pages.html import TABLES, Head, Rows, file_stem, render, when
from kickbench.report.words.environment import fact
from kickbench.report.words.names import emulation
from kickbench.results.files import make_folder, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kickbench.nightly.changes import ChangePoint

MOST_PLOTS = 8
"""Plots that are shown at once. Those of metrics that changed come first."""
MOST_FOLDED = 12
"""Further plots, folded away. The table has every metric."""
MOST_ROWS = 1000
_MOST_WORDS = 4
_USUAL_NIGHTS = Settings().baseline_nights
_NIGHTS_AS_DOTS = 90
"""With more nights than this, a plot shows their running median, and no marker for each."""
_SMOOTHED_NIGHTS = 7
_NEARLY = 1
"""The most nights between two neighbouring change points of one step."""
_DATES: Any = dates  # which has no types

Floats = NDArray[np.float64]

# Plots are in this order of metrics, with the differences of a metric before its levels.
_RANK = {name: rank for rank, name in enumerate(METRICS)}


@dataclass(frozen=True)
class Group:
    """The trends of one plot: a metric of a case, for all methods or all paired differences."""

    case: str
    metric: str
    paired: bool
    trends: tuple[Trend, ...]

    @property
    def title(self) -> str:
        """E.g. "exits-hlt-1vcpu-max-local: time per exit, paired difference"."""
        name = METRICS[self.metric].title if self.metric in METRICS else self.metric
        return f"{self.case}: {name}{', paired difference' if self.paired else ''}"

    @property
    def unit(self) -> str:
        """E.g. "ns"; "" for a metric that this kickbench does not know."""
        return METRICS[self.metric].unit if self.metric in METRICS else ""


@dataclass(frozen=True)
class Step:
    """A night on which metrics changed: what else changed, and the change points."""

    night: int
    with_it: list[str]
    points: list[ChangePoint]


def write(nights: Sequence[Night], events: Sequence[Event], folder: Path) -> Path:
    """Write the page of nights (of one host and scenario, oldest first) and return the file.

    Raises UsageError if the folder cannot be made, MeasurementError if the file cannot be written.
    """
    make_folder(folder, "choose another folder with -o")
    newest = nights[-1]
    path = folder / f"{file_stem(newest.scenario, newest.fingerprint, 'trend')}.html"
    replace_file(path, page(nights, events).encode("utf-8", "replace"))
    return path


def page(nights: Sequence[Night], events: Sequence[Event]) -> str:
    """The whole HTML document."""
    known, found = trends(nights, events)
    steps = _steps(change_points(found, known, Settings()), nights)
    newest = nights[-1]
    groups = _ranked(found, steps, verdicts(events).get(newest.run_id))
    said = _Said(nights, events)
    plots = [
        (plot.finding, Markup(inline(plot, f"trend-{number}")))  # noqa: S704 (our own)
        for number, plot in enumerate(
            _draw(group, known, said, steps) for group in groups[: MOST_PLOTS + MOST_FOLDED]
        )
    ]
    heads, rows = _table(found, steps, known)
    return render(
        "trend.html.j2",
        scripts=[TABLES],
        newest=newest,
        emulated=emulation(newest.document),
        origin=list(_origin(nights)),
        badges=list(_badges(nights, steps, said)),
        verdict={
            "alarms": list(_alarms(newest, verdicts(events).get(newest.run_id))),
            "answer": _answer(found, known, steps),
            "more": [],
        },
        steps=[_in_words(*step, nights) for step in reversed([*enumerate(steps, 1)])],
        guide=_guide(len(nights)),
        plots=plots[:MOST_PLOTS],
        folded=plots[MOST_PLOTS:],
        groups=len(groups),
        heads=heads,
        rows=rows,
        metrics=len(found),
        said=list(_notes(nights, events)),
        environment=list(_environment_changes(nights)),
        facts=[
            (key.replace("_", " "), str(v or "unknown"))
            for key, v in newest.document["facts"].items()
        ],
    )


class _Said:
    """The indices of nights that raised alarms (by metric), were accepted or were forgotten."""

    def __init__(self, nights: Sequence[Night], events: Sequence[Event]) -> None:
        index = {night.run_id: number for number, night in enumerate(nights)}
        self.forgotten = {index[run] for run in forgotten(events) if run in index}
        self._alarms = [
            (index[run], verdict.keys or frozenset())
            for run, verdict in verdicts(events).items()
            if run in index
        ]
        self._accepted = [
            (index[event.run_id], event.keys)
            for event in events
            if event.what == "accept" and event.run_id in index
        ]

    def alarmed(self, key: Key) -> set[int]:
        return {night for night, keys in self._alarms if key in keys}

    def accepted(self, key: Key) -> set[int]:
        return {night for night, keys in self._accepted if keys is None or key in keys}

    @property
    def any_alarm(self) -> set[int]:
        return {night for night, keys in self._alarms if keys}


# --- words -------------------------------------------------------------------------------------


def _answer(found: Sequence[Trend], known: Nights, steps: Sequence[Step]) -> str:
    metrics, over = plural(len(found), "metric"), plural(len(known), "night")
    if len(known) == 1:
        return "There is one night, and no trend yet: the next nights will be added."
    if not steps:
        return f"No lasting change is seen in {metrics} over {over}."
    last = steps[-1]
    changed = len({point.key for step in steps for point in step.points})
    return (
        f"{changed} of {metrics} changed in {over}, last on {_day(known, last.night)}: "
        f"{_summary(last)}."
    )


def _summary(step: Step) -> str:
    """The largest change of a step, and the number of the others."""
    largest = max(step.points, key=_extent)
    others = len(step.points) - 1
    more = f", and {plural(others, 'other metric')}" if others else ""
    key = largest.key
    metric = METRICS[key.metric].title if key.metric in METRICS else key.metric
    by = f"{_by(largest)}, {largest.direction}"
    return f"{metric} of {_who(key)} in {key.case} by {by}{more}"


def _extent(point: ChangePoint) -> float:
    return abs(point.relative) if np.isfinite(point.relative) else 0.0


def _by(point: ChangePoint) -> str:
    """E.g. "+1.2 % (0.9 to 1.5 %)", or "+24 ns (20 to 28 ns)" for a paired difference."""
    size, low, high, unit = point.size, point.low, point.high, _unit(point.key)
    if point.key.baseline is None and np.isfinite(point.relative) and size:
        scale = 100 * point.relative / size
        size, low, high, unit = size * scale, low * scale, high * scale, "%"
    value, *ends = (f"{text} {unit}".rstrip() for text in measured(size, (low, high)))
    return f"{'+' if size > 0 else ''}{value} ({ends[0].removesuffix(f' {unit}')} to {ends[1]})"


def _unit(key: Key) -> str:
    return METRICS[key.metric].unit if key.metric in METRICS else ""


def _who(key: Key) -> str:
    """The method, or both of a paired difference, e.g. "sigmask - immediate_exit"."""
    return key.method if key.baseline is None else f"{key.method} - {key.baseline}"


def _in_words(number: int, step: Step, nights: Sequence[Night]) -> dict[str, Any]:
    """A step for the page: the day, the run, what changed with it, and every metric."""
    night = nights[step.night]
    points = sorted(step.points, key=_extent, reverse=True)
    return {
        "number": number,
        "when": night.created_utc,
        "run": night.run_id,
        "with_it": step.with_it,
        "metrics": [
            (
                key_name(point.key),
                _by(point),
                "bad" if point.direction == "worse" else "good",
                point.direction,
            )
            for point in points[:MOST_ROWS]
        ],
    }


def _guide(nights: int) -> str:
    line = "Each night's value"
    if nights > _NIGHTS_AS_DOTS:
        line = f"The median of {_SMOOTHED_NIGHTS} nights around each"
    return f"{line}; each night's 95 % interval as a band. What changed comes first."


def _alarms(newest: Night, verdict: Event | None) -> Iterator[str]:
    yield from map(lost_kicks, newest.lost)
    if verdict is not None and verdict.keys:
        names = sorted(map(key_name, verdict.keys))
        more = f" and {len(names) - _MOST_WORDS} more" if len(names) > _MOST_WORDS else ""
        yield f"The newest night raised an alarm: {', '.join(names[:_MOST_WORDS])}{more}"


def _badges(
    nights: Sequence[Night], steps: Sequence[Step], said: _Said
) -> Iterator[tuple[str, str]]:
    yield "plain", plural(len(nights), "night")
    yield ("doubt" if steps else "good"), plural(len(steps), "step")
    if said.any_alarm:
        yield "bad", plural(len(said.any_alarm), "night with an alarm", "nights with an alarm")
    if said.forgotten:
        yield "plain", plural(len(said.forgotten), "forgotten night")


def _origin(nights: Sequence[Night]) -> Iterator[tuple[str, str]]:
    newest = nights[-1]
    name = fact(newest.environment, "hostname")
    yield "Host", f"{name} ({newest.fingerprint})" if name else newest.fingerprint
    yield "From", when(nights[0].created_utc)
    yield "To", when(nights[-1].created_utc)


def _notes(nights: Sequence[Night], events: Sequence[Event]) -> Iterator[tuple[str, str]]:
    """What users noted about nights, newest first: the night, and the words."""
    by_run = {night.run_id: night for night in nights}
    for event in reversed(events):
        night = by_run.get(event.run_id)
        if night is None or event.what == "verdict":
            continue
        what = "forgotten" if event.what == "forget" else "accepted"
        if event.what == "accept" and event.keys is not None:
            what += f" for {plural(len(event.keys), 'metric')}"
        who = event.document.get("who")
        yield when(night.created_utc), f"{what}{f' by {who}' if who else ''}: {event.reason}"


def _environment_changes(nights: Sequence[Night]) -> Iterator[tuple[str, list[str]]]:
    """The nights before which the host or the scenario changed, newest first."""
    count = 0
    for number in range(len(nights) - 1, 0, -1):
        words = list(_between(nights[number - 1], nights[number]))
        if words and count < MOST_ROWS:
            count += 1
            yield when(nights[number].created_utc), words


def _between(before: Night, after: Night) -> Iterator[str]:
    if before.environment != after.environment:
        yield from map(_told, changes(before.environment, after.environment))
    yield from _of_scenario(before, after)


def _told(change: Change) -> str:
    return f"{change.title}: {change.before} → {change.after}"


def _of_scenario(before: Night, after: Night) -> Iterator[str]:
    if before.document["scenario_digest"] != after.document["scenario_digest"]:
        yield "the scenario was changed"


def _day(known: Nights, night: int) -> str:
    return known.when_utc[night][:10]


def _percent(share: float) -> str:
    """E.g. "+1.2 %"."""
    places = 1 if abs(share) < 0.1 else 0
    return f"{'+' if share > 0 else ''}{fixed(100 * share, places)} %"


# --- steps and groups --------------------------------------------------------------------------


def _steps(points: Sequence[ChangePoint], nights: Sequence[Night]) -> list[Step]:
    """The change points, grouped by night into steps, oldest first.

    Noise can put a metric's change point a night early or late. So a step also has those of the
    nights beside it, and its night is the one that most of them have.
    """
    together: list[list[ChangePoint]] = []
    for point in sorted(points, key=lambda point: point.night):
        if together and point.night - together[-1][-1].night <= _NEARLY:
            together[-1].append(point)
        else:
            together.append([point])
    found = []
    for some in together:
        of = [point.night for point in some]
        night = max(dict.fromkeys(of), key=of.count)
        told = (_told(change) for point in some for change in point.environment)
        with_it = [*told, *_of_scenario(nights[night - 1], nights[night])]
        found.append(Step(night, list(dict.fromkeys(with_it)), some))
    return found


def _ranked(found: Sequence[Trend], steps: Sequence[Step], verdict: Event | None) -> list[Group]:
    """The plots, most important first: alarms, the latest steps, then the order of metrics."""
    groups: dict[tuple[str, str, bool], list[Trend]] = {}
    for trend in found:
        paired = trend.key.baseline is not None
        if np.any(trend.value):  # one that was always 0, such as lost kicks, has nothing to draw
            groups.setdefault((trend.key.case, trend.key.metric, paired), []).append(trend)
    changed = {point.key: step.night for step in steps for point in step.points}
    alarmed = (verdict.keys if verdict else None) or frozenset()

    def rank(group: Group) -> tuple[Any, ...]:
        keys = [trend.key for trend in group.trends]
        latest = max(changed.get(key, -1) for key in keys)
        known = _RANK.get(group.metric, len(_RANK))
        return (alarmed.isdisjoint(keys), -latest, known, not group.paired)

    return sorted((Group(*key, tuple(some)) for key, some in groups.items()), key=rank)


# --- plots -------------------------------------------------------------------------------------


def _draw(group: Group, known: Nights, said: _Said, steps: Sequence[Step]) -> Plot:
    canvas, axes = new_plot(group.title)
    days = np.array(
        _DATES.date2num([datetime.datetime.fromisoformat(text) for text in known.when_utc])
    )
    others = [t.key.method for t in group.trends if t.key.method not in STYLES]
    handles, names = [], []
    for trend in group.trends:
        method = trend.key.method
        if method in STYLES:
            colour, marker = STYLES[method]
        else:
            colour, marker = OTHER_STYLES[others.index(method) % len(OTHER_STYLES)]
        handles.append(_draw_trend(axes, trend, days, colour, marker))
        names.append(_who(trend.key))
    for look, name, nights in _MARKS:
        marked = [
            _draw_mark(axes, trend, days, look, nights(said, trend)) for trend in group.trends
        ]
        if any(marked):
            handles.append(Line2D([], [], linestyle="none", **look))
            names.append(name)
    keys = {trend.key for trend in group.trends}
    for number, step in enumerate(steps, 1):
        if any(point.key in keys for point in step.points):
            axes.axvline(days[step.night], color=INK, alpha=0.6, linewidth=1, linestyle="--")
            axes.annotate(
                str(number),
                (days[step.night], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -2),
                textcoords="offset points",
                va="top",
                color=INK,
                fontsize=9,
            )
    _limit(axes, group)
    locator = _DATES.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_DATES.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=INK, fontsize=9)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
    axes.set_ylabel(group.unit)
    draw_legend(axes, handles, names, split=len(group.trends))
    return Plot(group.title, _finding(group, known, steps), canvas)


_MARKS: tuple[tuple[dict[str, Any], str, Callable[[_Said, Trend], set[int]]], ...] = (
    (
        {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": INK},
        "alarm",
        lambda said, trend: said.alarmed(trend.key),
    ),
    (
        {"marker": "^", "markersize": 8, "markerfacecolor": "none", "color": INK},
        "new normal accepted",
        lambda said, trend: said.accepted(trend.key),
    ),
    ({"marker": "x", "markersize": 8, "color": INK}, "forgotten", lambda said, _: said.forgotten),
    (
        {"marker": "s", "markersize": 9, "markerfacecolor": "none", "color": INK},
        "not evidence",
        lambda _, trend: {*trend.night[trend.disturbed(int(trend.night[-1]))].tolist()},
    ),
)
"""The marks of special nights: how they look, the word in the legend, which nights."""


def _draw_trend(axes: Axes, trend: Trend, days: Floats, colour: str, marker: str) -> Line2D:
    """Draw a line, and its intervals as a band. Returns the handle for the legend."""
    at = days[trend.night]
    axes.fill_between(at, trend.low, trend.high, color=colour, alpha=0.2, linewidth=0)
    looks: dict[str, Any] = {"color": colour, "linewidth": 1.2, "markersize": 4}
    if len(at) > _NIGHTS_AS_DOTS:
        axes.plot(at, median_filter(trend.value, _SMOOTHED_NIGHTS, mode="nearest"), **looks)
        return Line2D([], [], **looks)
    axes.plot(at, trend.value, marker=marker, **looks)
    return Line2D([], [], marker=marker, **looks)


def _draw_mark(
    axes: Axes, trend: Trend, days: Floats, look: Mapping[str, Any], nights: set[int]
) -> bool:
    here = np.isin(trend.night, list(nights))
    if here.any():
        axes.plot(days[trend.night[here]], trend.value[here], linestyle="none", **look)
    return bool(here.any())


def _limit(axes: Axes, group: Group) -> None:
    """Make room for the values, and for intervals unless they would dwarf the values."""
    values = np.concatenate([trend.value for trend in group.trends])
    half = np.concatenate([(trend.high - trend.low) / 2 for trend in group.trends])
    known = half[np.isfinite(half)]
    room = max(0.15 * np.ptp(values), 1.5 * np.median(known) if len(known) else 0)
    room = room or 0.05 * abs(values[0]) or 1.0
    axes.set_ylim(values.min() - room, values.max() + 1.3 * room)


def _finding(group: Group, known: Nights, steps: Sequence[Step]) -> str:
    """What the plot shows, in words."""
    words = [f"{_who(t.key)}: {_newest(t, group.unit, known)}" for t in group.trends]
    keys = {trend.key for trend in group.trends}
    for number, step in enumerate(steps, 1):
        points = [point for point in step.points if point.key in keys]
        if points:
            told = ", ".join(f"{_who(p.key)} {_by(p)}" for p in points)
            because = f" with {_shortened(step.with_it)}" if step.with_it else ""
            words.append(f"{number}: on {_day(known, step.night)} {told}{because}")
    return "; ".join(words) + "."


def _newest(trend: Trend, unit: str, known: Nights) -> str:
    """E.g. "2,010 ns (2,005 to 2,015), +1.2 % from the median of 29 nights before"."""
    value, ends = _measured(trend, -1)
    text = f"{value} {unit}{ends}"
    usual, count = _usual(trend)
    if usual is not None:
        change = float(trend.value[-1]) - usual
        if trend.key.baseline is None and usual:
            by = _percent(change / usual)
        else:
            by = f"{'+' if change > 0 else ''}{significant(change, 3)} {unit}"
        text += f", {by} from the median of {plural(count, 'night')} before"
    if trend.night[-1] != len(known) - 1:
        text += f" (last measured on {_day(known, int(trend.night[-1]))})"
    return text


def _usual(trend: Trend) -> tuple[float | None, int]:
    """The median of the nights of the present normal before the last one, and their number."""
    normal = trend.usable & (trend.night >= trend.accepted_from)
    before = trend.value[:-1][normal[:-1]][-_USUAL_NIGHTS:]
    return (float(np.median(before)) if len(before) else None), len(before)


def _measured(trend: Trend, at: int) -> tuple[str, str]:
    value, low, high = (float(some[at]) for some in (trend.value, trend.low, trend.high))
    if np.isnan(low):
        return significant(value), ""
    shown, first, last = measured(value, (low, high))
    return shown, f" ({first} to {last})"


def _shortened(words: Sequence[str]) -> str:
    more = len(words) - _MOST_WORDS
    return ", ".join(words[:_MOST_WORDS]) + (f" and {more} more" if more > 0 else "")


# --- the table ---------------------------------------------------------------------------------


def _table(found: Sequence[Trend], steps: Sequence[Step], known: Nights) -> tuple[list[Head], Rows]:
    """Every metric: its newest value, its median before, its last step."""
    last = {point.key: step for step in steps for point in step.points}
    names = (
        ("metric", False),
        ("unit", False),
        ("nights", True),
        ("newest value", True),
        ("median before", True),
        ("last step", False),
    )
    heads: list[Head] = [("", [(i, name, "", number) for i, (name, number) in enumerate(names)])]
    rows: Rows = []
    for trend in found[:MOST_ROWS]:
        value, ends = _measured(trend, -1)
        usual, _ = _usual(trend)
        step = last.get(trend.key)
        unit = _unit(trend.key) or NOTHING
        changed = NOTHING if step is None else _day(known, step.night)
        cells: list[tuple[str, str | None, str]] = [
            (key_name(trend.key), None, "name"),
            (unit, None, "name"),
            (f"{len(trend.night):,}", str(len(trend.night)), "number"),
            (f"{value}{ends}", repr(float(trend.value[-1])), "number"),
            (significant(usual), None if usual is None else repr(usual), "number"),
            (changed, None, "name"),
        ]
        rows.append((not rows or found[len(rows) - 1].key.case != trend.key.case, cells))
    return heads, rows
