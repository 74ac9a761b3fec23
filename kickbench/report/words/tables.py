# SPDX-License-Identifier: Apache-2.0
"""The tables of cases: for each kind a list of columns, each with the words of its cells.

The HTML report shows all columns of :data:`TABLES`. ``kickbench show`` shows the narrower selection
beside them. A row is one method of one finished case; in a listing, it is one of the many things
that a case has, such as a vCPU. Nothing is computed here. The same numbers
without rounding, for programs, are in :mod:`kickbench.report.pages.downloads`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from kickbench.cpu_list import format_cpu_list
from kickbench.numbers import NOTHING, level, measured, signed, significant, whole
from kickbench.report.words.differences import (
    CONTROLS,
    TOO_FEW,
    WAITED,
    contrasts,
    controls,
    few,
    hidden,
    judged,
    why_hidden,
)
from kickbench.report.words.kicks import at_most
from kickbench.report.words.names import (
    exit_reason_name,
    microseconds,
    nanoseconds,
    seconds,
    vendor_name,
)
from kickbench.report.words.observed import code_name, signal_name, told_cost, way_name
from kickbench.report.words.shift import percentile, shift_points
from kickbench.scenario.kinds import FIGURES

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One method of one finished case; in a listing, one ``item`` of the case's list."""

    case: Summary
    method: str
    item: Summary = field(default_factory=dict)

    @property
    def figures(self) -> Summary:
        """The method's part of the summary."""
        figures: Summary = self.case["methods"][self.method]
        return figures


@dataclass(frozen=True)
class Column:
    """One column. ``name``, ``unit`` and ``group`` can contain {ns}, {us} and {s}.

    These three become the units of the run: see :func:`words`. ``value`` is the number behind the
    cell, by which rows are sorted; a column without one has text. Neighbours of the same ``group``
    share one head. A column that is not ``always`` shown is left out if all its cells are the same.
    ``bad`` says for which rows the cell is an alarm.
    """

    name: str
    unit: str
    cell: Callable[[Row], str]
    value: Callable[[Row], float | None] | None = None
    group: str = ""
    always: bool = True
    bad: Callable[[Row], bool] | None = None


@dataclass(frozen=True)
class Part:
    """Columns that fit beside each other on a page; each part is a table of its own."""

    title: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Listing:
    """A table with a row for each item of a list that a case has.

    ``name`` is for files, and ``items`` finds the list. ``terminal`` has the columns that fit on a
    terminal, the first of them text; without any, the listing is on pages only.
    """

    name: str
    title: str
    items: Callable[[Summary], Sequence[Summary]]
    columns: tuple[Column, ...]
    terminal: tuple[Column, ...] = ()

    def rows_of(self, cases: Iterable[Summary]) -> list[Row]:
        """The rows of finished cases, in the order of their lists."""
        return [Row(case, case["baseline"], item) for case in cases for item in self.items(case)]


@dataclass(frozen=True)
class Table:
    """The tables of a kind: their title, how to read them, and their columns.

    ``keys`` are the columns that identify a row, in each of the ``parts``. ``terminal`` has what
    fits on a terminal: tables by the head of their first column, which has the methods. ``metrics``
    are the contrasts below them, each with the words that distinguish it. ``listings`` follow.
    """

    title: str
    guide: str
    keys: tuple[Column, ...]
    parts: tuple[Part, ...]
    terminal: tuple[tuple[str, tuple[Column, ...]], ...]
    metrics: tuple[tuple[str, str], ...] = ()
    listings: tuple[Listing, ...] = ()


# --- cells -------------------------------------------------------------------------------------


def difference(contrast: Summary | None) -> str:
    """E.g. "+31 (29 to 33)", or "-" without an interval; "few rounds" is added if they are few."""
    if contrast is None or contrast["diff"] is None or contrast["ci95"] is None:
        return NOTHING
    return _signed(*measured(contrast["diff"], contrast["ci95"]), few(contrast))


def _signed(value: str, low: str, high: str, how_sure: str) -> str:
    return f"{signed(value)} ({low} to {high}{how_sure})"


def control(case: Summary, role: str = "control", metric: str | None = None) -> str:
    """The A/A control or the placebo in words: "ok", "NOT OK", "cannot tell" or "none".

    The interval by which it is judged follows, unless it has too few rounds to tell. The metric is
    by default the headline.
    """
    found = next((one for one in controls(case, role) if metric in (None, one["metric"])), {})
    if found.get("ci_family") is None:
        return "none"
    word = {True: "ok", False: "NOT OK", None: "cannot tell"}[found["ok"]]
    if found["ok"] is None and few(found):
        return f"{word}: {TOO_FEW}"
    return f"{word}: {_signed(*judged(found), few(found))}"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row.case[key] or NOTHING)


def _figure(*path: str) -> Callable[[Row], float | None]:
    """A number of the method's figures; None if a part of its path is missing or null."""

    def value(row: Row) -> float | None:
        found: Any = row.figures
        for key in path:
            found = None if found is None else found.get(key)
        return None if found is None else float(found)

    return value


def _case(key: str, otherwise: float | None = None) -> Callable[[Row], float | None]:
    """A number of the case; ``otherwise`` if it is null."""

    def value(row: Row) -> float | None:
        found = row.case[key]
        return otherwise if found is None else float(found)

    return value


def _case_figure(*path: str) -> Callable[[Row], float | None]:
    """A number of the case at a path of keys; None if it is null."""

    def value(row: Row) -> float | None:
        found: Any = row.case
        for key in path:
            found = found[key]
        return None if found is None else float(found)

    return value


def _shown(
    value: Callable[[Row], float | None],
    words: Callable[[float | None], str] = significant,
    scale: float = 1.0,
) -> Callable[[Row], str]:
    """The cell of a number, as ``words`` writes it."""

    def cell(row: Row) -> str:
        number = value(row)
        return words(None if number is None else number * scale)

    return cell


def _with_interval(figures: str, intervals: str, name: str) -> Callable[[Row], str]:
    """E.g. "9,000 (8,950 to 9,060)", or only the number if it has no interval."""

    def cell(row: Row) -> str:
        return level(row.figures[figures][name], row.figures[intervals].get(name))

    return cell


def _contrast(metric: str) -> Callable[[Row], str]:
    """The difference from the baseline in words."""

    def cell(row: Row) -> str:
        if _is_baseline(row):
            return "baseline"
        if left_out := hidden(row.case, metric).get(row.method):
            return why_hidden(row.case, left_out)
        return difference(contrasts(row.case, metric).get(row.method))

    return cell


def _exit_rate(row: Row) -> str:
    rate_hz = row.case["exit_rate_hz"]
    return "full speed" if rate_hz is None else significant(rate_hz)


def _kick_rate(row: Row) -> str:
    rate_hz = row.case["kick_rate_hz"]
    return "none" if rate_hz is None else significant(rate_hz)


def _broken(*path: str) -> Callable[[Row], bool]:
    """Whether a count is an alarm: not 0, although the method claims to be race-free."""

    def bad(row: Row) -> bool:
        value: Any = row.figures
        for key in path[:-1]:
            value = value.get(key, {})
        return bool(value.get("race_free_claim") is True and value.get(path[-1]))

    return bad


def _is_fault(name: str) -> Callable[[Row], bool]:
    """Whether a count that must be 0 is not."""
    return lambda row: bool(row.figures.get(name))


def _not_once(row: Row) -> float | None:
    found = row.figures.get("accesses")
    return None if found is None else float(found["twice"] + found["never"])


def _unexpected(row: Row) -> float:
    return float(sum(row.figures["unexpected"].values()))


def _unexpected_exits(row: Row) -> str:
    """E.g. "3 HLT (12)", or "0"."""
    found = row.figures["unexpected"].items()
    texts = (f"{whole(count)} {exit_reason_name(row.case, reason)}" for reason, count in found)
    return ", ".join(texts) or "0"


def _state(row: Row) -> str:
    return f"{row.case['state']} ({row.case['program'] or NOTHING})"


def _window(row: Row) -> str:
    width_ns = row.case["window_ns"]
    return significant(width_ns / 1e3).removesuffix(".00") if width_ns else "natural"


def _timeout(row: Row) -> str:
    usual, first = row.case["timeout_ns"], row.case.get("first_timeout_ns")
    if usual is None:
        return NOTHING
    begin = f" (first round: {significant(first / 1e3)})" if first and first > usual else ""
    return f"{significant(usual / 1e3)}{begin}"


CLAIMS: dict[bool | None, str] = {True: "race-free", False: "loses kicks"}
"""What a protocol claims. Without a claim it is not known."""


def _claim(row: Row) -> str:
    return CLAIMS.get(row.figures["race_free_claim"], NOTHING)


def _bound(bound: float | None) -> str:
    return NOTHING if bound is None else at_most(bound)


# --- columns -----------------------------------------------------------------------------------


def _number(
    name: str,
    unit: str,
    *path: str,
    words: Callable[[float | None], str] = significant,
    scale: float = 1.0,
    **more: Any,
) -> Column:
    """The column of a number of the method's figures, shown ``scale`` times as large."""
    value = _figure(*path)
    return Column(name, unit, _shown(value, words, scale), value, **more)


_count = partial(_number, words=whole)

_PROGRAM = Column("program", "", _text("program"), always=False)
_IRQCHIP = Column("irqchip", "", _text("irqchip"), always=False)
_TRANSPORT = Column("transport", "", _text("transport"), always=False)
_NOISE = (
    Column(
        "foreign signals",
        "1/{s} per vCPU",
        _shown(_case("foreign_signals_hz", 0.0)),
        _case("foreign_signals_hz", 0.0),
        always=False,
        group="noise",
    ),
    Column(
        "siglock threads",
        "",
        _shown(_case("siglock_threads"), whole),
        _case("siglock_threads"),
        always=False,
        group="noise",
    ),
)
_NOISE_COUNTS = (
    _count("foreign delivered", "", "noise", "foreign_taken", always=False, group="noise"),
    _count("siglock taken", "", "noise", "siglock_taken", always=False, group="noise"),
    _count("spurious", "", "noise", "spurious", always=False, group="noise"),
)
_VCPUS = Column("vCPUs", "", _shown(_case("vcpus"), whole), _case("vcpus"))
_PLACEMENT = Column("placement", "", _text("placement"))
_METHOD = Column("method", "", lambda row: row.method)
_RATE = Column("rate", "exits/{s} per vCPU", _exit_rate, _case("exit_rate_hz", math.inf))
_TIMED_BY = Column("timed by", "", lambda row: row.case.get("timed_by") or NOTHING, always=False)
_ENDED_BY = Column("ended by", "", _text("stopped_by"), always=False)
_NOT_ONCE = Column(
    "not once",
    "",
    _shown(_not_once, whole),
    _not_once,
    group="accesses",
    always=False,
    bad=lambda row: bool(_not_once(row)),
)
_LOST = _count("lost", "", "lost", bad=_broken("lost"), group="kicks")
_SENT = _count("sent", "", "sent", group="kicks")
_SPURIOUS = _count("spurious", "", "spurious", group="kicks")


def _difference_column(metric: str, name: str, unit: str, *, controlled: bool = True) -> Column:
    """The differences of a metric; if ``controlled``, the baseline's row has the A/A control."""
    group = f"method - baseline [{unit}] (95 % CI)"
    contrast = _contrast(metric)

    def cell(row: Row) -> str:
        if not (controlled and _is_baseline(row)):
            return contrast(row)
        placebo = control(row.case, "placebo", metric)
        return f"A/A {control(row.case, metric=metric)}" + (
            f"; placebo {placebo}" if placebo != "none" else ""
        )

    def value(row: Row) -> float | None:
        found = contrasts(row.case, metric).get(row.method)
        return None if found is None else float(found["diff"])

    def bad(row: Row) -> bool:
        found = (one for role in CONTROLS for one in controls(row.case, role))
        wrong = any(one["ok"] is False for one in found if one["metric"] == metric)
        return controlled and _is_baseline(row) and wrong

    return Column(name, "", cell, value, bad=bad, group=group)


def _is_baseline(row: Row) -> bool:
    return bool(row.method == row.case["baseline"])


_OF_BASELINE = (
    "The baseline's row has the A/A control (the baseline against itself) and the placebo (the "
    "baseline against another copy of its loop), both with 99 % intervals over all cases. They "
    "cannot tell if that interval is wider than the differences that it should confirm."
)

_EXITS_PER_SECOND = _count("exits/{s}", "", "exits_per_second")
_EXIT_QUIET = _number("quiet", "{ns} per exit", "ns_per_exit", "quiet")
_EXIT_MEAN = _number("mean", "{ns} per exit", "ns_per_exit", "mean")
_EXIT_TIMES = tuple(
    _number(name, "", "ns_per_exit", name, group="{ns} per exit")
    for name in ("p50", "p90", "p99", "max")
)


def _shift_column(level: float) -> Column:
    """The differences at a quantile of a block's exits.

    If vCPUs share CPUs, the quantiles above the median include waiting for a CPU.
    """

    def waited(row: Row) -> bool:
        return bool(row.case.get("oversubscribed")) and level > 0.5

    def found(row: Row) -> Summary | None:
        points = shift_points(row.case, row.method, row.case["baseline"])
        return next((point for point in points if point["level"] == level), None)

    def value(row: Row) -> float | None:
        point = found(row)
        return None if point is None or waited(row) else float(point["diff"])

    def cell(row: Row) -> str:
        point = found(row)
        return WAITED if point is not None and waited(row) else difference(point)

    return Column(
        percentile(level),
        "",
        cell,
        value,
        always=False,
        group="method - baseline [{ns} per exit] (95 % CI), at each quantile of a block's exits",
    )


_SHIFT_LEVELS = (0.01, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99, 0.999)

_EXITS = Table(
    "Exits",
    "A quiet exit is the path itself: a low quantile of each block. The mean contains everything "
    "that happened: the tail, contention, and waiting. Differences are paired, method - baseline, "
    "with their 95 % interval. " + _OF_BASELINE,
    keys=(
        _PROGRAM,
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        _RATE,
        Column("kicks", "1/{s} per vCPU", _kick_rate, _case("kick_rate_hz", 0.0), always=False),
        _TRANSPORT,
        *_NOISE,
        _TIMED_BY,
        _METHOD,
    ),
    parts=(
        Part(
            "Exits",
            (
                _EXITS_PER_SECOND,
                replace(_EXIT_QUIET, unit="", group="{ns} per exit", always=False),
                _number("mean", "", "ns_per_exit", "mean", group="{ns} per exit"),
                *_EXIT_TIMES,
                replace(
                    _difference_column("quiet_ns_per_exit", "quiet", "{ns} per exit"),
                    always=False,
                ),
                _difference_column("ns_per_exit", "mean", "{ns} per exit"),
            ),
        ),
        Part("Exits: where the cost lies", tuple(map(_shift_column, _SHIFT_LEVELS))),
        Part(
            "Exits: CPU time and counts",
            (
                _number("CPU time", "{ns} per exit", "cpu_ns_per_exit"),
                _difference_column(
                    "cpu_ns_per_exit", "CPU time", "{ns} per exit", controlled=False
                ),
                _count("timed exits", "", "n"),
                _count("sent", "", "kicks", "sent", always=False, group="kicks"),
                _count(
                    "lost",
                    "",
                    "kicks",
                    "lost",
                    always=False,
                    group="kicks",
                    bad=_broken("kicks", "lost"),
                ),
                _count("spurious", "", "kicks", "spurious", always=False, group="kicks"),
                _NOT_ONCE,
                replace(
                    _difference_column("ns_per_kick", "all in", "{ns} per kick", controlled=False),
                    always=False,
                ),
                *_NOISE_COUNTS,
                _ENDED_BY,
            ),
        ),
    ),
    terminal=(("{ns} per exit", (_EXITS_PER_SECOND, _EXIT_QUIET, _EXIT_MEAN, *_EXIT_TIMES)),),
    metrics=tuple((metric, f", {word}") for word, metric in FIGURES.items()),
)

_RACE = Table(
    "Race",
    "Kicks aimed at the window between the check of the flag and KVM_RUN. A kick landed if it "
    "could have been lost: it came after the check, and the guest had not run on when it was "
    "taken. A kick is lost if the guest still runs after the time-out; a rescue then ends it. The "
    "time-out is longer in the first round of a process, which finds out how long kicks take. The "
    "bound is that of lost / landed, one-sided and exact; it needs kicks that landed. The slowest "
    "kick is the slowest of those not lost, with the first round. A spurious exit has EINTR but no "
    "kick pending.",
    keys=(
        _VCPUS,
        _PLACEMENT,
        _TRANSPORT,
        *_NOISE,
        Column("window", "{us}", _window, _case("window_ns", 0.0)),
        _METHOD,
    ),
    parts=(
        Part(
            "Race",
            (
                Column("claim", "", _claim),
                _SENT,
                _count("landed", "", "landed", group="kicks"),
                _LOST,
                _SPURIOUS,
                _number("lost at most", "95 %", "lost_upper95", words=_bound),
                _count("sent again", "", "resent", group="kicks", always=False),
                *(
                    _number(name, "", "latency_ns", key, scale=1e-3, group="latency [{us}]")
                    for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))
                ),
                _number("slowest", "", "latency_max_ns", scale=1e-3, group="latency [{us}]"),
                Column("time-out", "{us}", _timeout, _case("timeout_ns")),
                *_NOISE_COUNTS,
                _NOT_ONCE,
                _ENDED_BY,
            ),
        ),
    ),
    terminal=(
        ("kicks", (_SENT, _count("landed", "", "landed"), _LOST, _SPURIOUS)),
        (
            "protocol",
            (
                Column("claim", "", _claim),
                _number("lost at most", "", "lost_upper95", words=_bound),
            ),
        ),
        (
            "{us}",
            (
                *(
                    _number(name, "", "latency_ns", key, scale=1e-3)
                    for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))
                ),
                _number("slowest", "", "latency_max_ns", scale=1e-3),
            ),
        ),
    ),
)

_FAULTS = ("late", "lost", "refused", "killed", "poisoned")
_VMS = _count("VMs", "", "sent")
_MET = _count("in time", "", "met")
_LIFECYCLE = Table(
    "Life of a vCPU",
    "Each VM is fresh, in a process of its own, and is kicked once. A kick is in time if it was "
    "sent before the moment was over. It is late after 10 ms, without the time in which the vCPU's "
    "thread waited for a CPU, and lost if the guest still runs after 50 ms or the thread has "
    "ended. It is refused if the kicker got an error instead. It killed the VMM if the signal "
    "ended the process, and poisoned the VM if no later KVM_RUN ran the guest. The bounds are "
    "those of the share of kicks in time, one-sided and exact.",
    keys=(
        Column("moment", "", _text("moment")),
        _PLACEMENT,
        _TRANSPORT,
        _METHOD,
    ),
    parts=(
        Part(
            "Life of a vCPU: kicks",
            (
                Column("claim", "", _claim),
                _VMS,
                _MET,
                _count("answered", "", "answered", group="kicks"),
                *(_count(name, "", name, bad=_broken(name), group="kicks") for name in _FAULTS),
                _number("p50", "", "latency_ns", "p50", scale=1e-3, group="latency [{us}]"),
                _number("max", "", "latency_ns", "max", scale=1e-3, group="latency [{us}]"),
                _ENDED_BY,
            ),
        ),
        Part(
            "Life of a vCPU: bounds",
            tuple(
                _number(name, "95 %", "upper95", name, words=_bound, group="at most")
                for name in _FAULTS
            ),
        ),
    ),
    terminal=(
        ("kicks", (_VMS, _MET, *(_count(name, "", name) for name in _FAULTS[:3]))),
        ("VMs", tuple(_count(name, "", name) for name in _FAULTS[3:])),
        (
            "at most (95 %)",
            tuple(_number(name, "", "upper95", name, words=_bound) for name in _FAULTS),
        ),
    ),
)

_LATENCIES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999", "max": "max"}
_MOMENTS = tuple(
    _number(name, "", *path, "p50", group="p50 until [{ns}]")
    for name, path in {
        "sent": ("phases_ns", "send"),
        "handler": ("phases_ns", "delivery"),
        "returned": ("phases_ns", "returned"),
        "known": ("latency_ns",),
        "resumed": ("phases_ns", "resumed"),
    }.items()
)
_SENDS = (
    _number("p50", "", "send_ns", "p50"),
    _number("p99", "", "send_ns", "p99"),
    _number("mean", "", "estimates", "send_mean_ns", "value"),
    _number("overlapping", "%", "sends", "overlapping", scale=100, words=whole, always=False),
)
_UNMET = _count("unmet", "", "unmet", group="kicks")
_LATENCY = "latency [{ns}] (95 % CI)"

_KICK = Table(
    "Kick latency",
    "The latency is from just before the kick until the protocol knows of it, with 95 % intervals, "
    "by the state of the vCPU. The moments are counted from just before the kick as well: the "
    "kicker's call is over (sent), the signal's handler runs, KVM_RUN has returned, the protocol "
    "knows (this is the latency), and the guest runs again after the protocol has cleaned up "
    "(resumed). A moment is shown if it was seen for 90 % of the kicks. Unmet kicks found the vCPU "
    "in another state; they and lost ones are in no latency. The kicker's call includes every kick "
    "sent at the vCPU in the wanted state, even if another kicker got it out first. Its mean is "
    "trimmed, over rounds. A call overlaps if another kicker's call was under way. Differences are "
    "paired, method - baseline. " + _OF_BASELINE,
    keys=(
        Column("kicked", "", _state),
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        Column("kickers", "", _shown(_case("kickers"), whole), _case("kickers"), always=False),
        _TRANSPORT,
        *_NOISE,
        _METHOD,
    ),
    parts=(
        Part(
            "Kick latency",
            (
                *(
                    Column(
                        name,
                        "",
                        # The intervals of the others do not fit on a page; the CSV has them.
                        _with_interval("latency_ns", "latency_ci95", key)
                        if key in ("p50", "p99")
                        else _shown(_figure("latency_ns", key)),
                        _figure("latency_ns", key),
                        group=_LATENCY,
                    )
                    for name, key in _LATENCIES.items()
                ),
                _difference_column("latency_p50_ns", "p50", "{ns}"),
                _difference_column("latency_p99_ns", "p99", "{ns}", controlled=False),
            ),
        ),
        Part(
            "Kick latency: what it costs the kicker",
            (
                *(replace(column, group="call [{ns}]") for column in _SENDS[:3]),
                _difference_column("send_p50_ns", "p50", "{ns}", controlled=False),
                _difference_column("send_mean_ns", "mean", "{ns}", controlled=False),
                replace(_SENDS[3], group="calls"),
            ),
        ),
        Part(
            "Kick latency: moments and counts",
            (*_MOMENTS, _SENT, _UNMET, _LOST, _SPURIOUS, _NOT_ONCE, *_NOISE_COUNTS, _ENDED_BY),
        ),
    ),
    terminal=(
        (
            "{ns}",
            tuple(_number(name, "", "latency_ns", key) for name, key in _LATENCIES.items()),
        ),
        ("{ns}, p50 until", _MOMENTS),
        ("kicker's call", _SENDS),
        ("kicks", (_SENT, _UNMET, _LOST, _SPURIOUS)),
    ),
    metrics=(("latency_p50_ns", " at p50"), ("latency_p99_ns", " at p99")),
)

_UNTIL = {"send": "all sent", "first": "first", "median": "median", "last": "last"}
_RESCUED = _count("rescued", "", "rescued", bad=_broken("rescued"))
_PAUSES = _count("pauses", "", "n")


def _pause(which: str, name: str, head: str, group: str = "") -> Column:
    return _number(head, "", f"{which}_ns", name, scale=1e-3, group=group)


_AFTER = tuple(
    _number(name, "{us}, p50", "after_ns", key, "p50", scale=1e-3, always=False, group="then")
    for name, key in (("KVM_KVMCLOCK_CTRL", "clock"), ("state read", "state"))
)

_PAUSE = Table(
    "Pause all",
    "The times are from just before the first kick until the first, the median and the last vCPU "
    "have acknowledged. Rescued pauses needed a second kick, and are not timed. Differences are "
    "paired, method - baseline, of the time until the last. " + _OF_BASELINE,
    keys=(
        _PROGRAM,
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        replace(_RATE, always=False),
        _TRANSPORT,
        Column("order", "", _text("order"), always=False),
        Column(
            "gap",
            "{us}",
            _shown(_case("pause_gap_us")),
            _case("pause_gap_us"),
            always=False,
        ),
        *_NOISE,
        _METHOD,
    ),
    parts=(
        Part(
            "Pause all",
            (
                *(
                    _pause(which, name, name, f"{until} [{{us}}]")
                    for which, until in _UNTIL.items()
                    for name in ("p50", "p99", *(["max"] if which == "last" else []))
                ),
                _difference_column("pause_last_ns", "last", "{ns} per pause"),
                _PAUSES,
                _RESCUED,
                _count("not run between", "", "not_run", "pauses", always=False),
                *_AFTER,
                *_NOISE_COUNTS,
                _NOT_ONCE,
                _ENDED_BY,
            ),
        ),
    ),
    terminal=(
        (
            "{us} until",
            (
                _pause("first", "p50", "first"),
                _pause("median", "p50", "median"),
                _pause("last", "p50", "last"),
                _pause("last", "p99", "last p99"),
                _PAUSES,
                _RESCUED,
                _count("not run", "", "not_run", "pauses"),
            ),
        ),
    ),
    metrics=(("pause_last_ns", " (last)"),),
)

_NESTED = Table(
    "Nested",
    "A round trip is from just before L1 enters L2 until L1 has the exit, by L1's own clock. Work "
    "is the turns of L2's loop before the exit: while an event for L1 is pending, L2 should get "
    "none done. An event is late if L2 worked longer than a tenth of the median plain round trip. "
    "An injected event is lost if L2's handler never saw it, and doubled if it saw it more than "
    "once. An iteration in which L2 left for an unexpected reason is in no other figure. The "
    "latency is from the stamp of the sending thread until L1 has the exit. Differences are "
    "paired, method - baseline. " + _OF_BASELINE,
    keys=(
        _PLACEMENT,
        Column("by", "", lambda row: vendor_name(row.case), always=False),
        Column("iteration", "", lambda row: row.method),
    ),
    parts=(
        Part(
            "Nested: round trips",
            (
                *(
                    _number(name, "", "round_trip_ns", name, group="round trip [{ns}]")
                    for name in ("p50", "p90", "p99", "max", "mean")
                ),
                _difference_column("round_trip_p50_ns", "p50", "{ns} per round trip"),
                *(
                    _number(name, "", "latency_ns", name, group="latency [{ns}]")
                    for name in ("p50", "p99", "max")
                ),
                _ENDED_BY,
            ),
        ),
        Part(
            "Nested: work of L2 and injections",
            (
                *(
                    _number(name, "", "work", name, group="work [turns]")
                    for name in ("p50", "p99", "max", "mean")
                ),
                _count("iterations", "", "n"),
                _count("late", "", "late", bad=_is_fault("late")),
                _count("injected", "", "injected", group="injections"),
                _count("lost", "", "lost", bad=_is_fault("lost"), group="injections"),
                _count("doubled", "", "doubled", bad=_is_fault("doubled"), group="injections"),
                Column("unexpected exits", "", _unexpected_exits),
            ),
        ),
    ),
    terminal=(
        (
            "{ns}",
            tuple(
                _number(name, "", "round_trip_ns", name)
                for name in ("p50", "p90", "p99", "max", "mean")
            ),
        ),
        (
            "turns of L2",
            (
                *(_number(name, "", "work", name) for name in ("p50", "p99", "max")),
                _count("late", "", "late"),
            ),
        ),
        (
            "injections",
            (
                _count("injected", "", "injected"),
                _count("lost", "", "lost"),
                _count("doubled", "", "doubled"),
                _count("iterations", "", "n"),
                Column("unexpected", "", _shown(_unexpected, whole), _unexpected),
            ),
        ),
    ),
    metrics=(("round_trip_p50_ns", " at p50"), ("injection_p50_ns", " at p50")),
)

_HANDOVER = Table(
    "Hand-overs of a cache line",
    "The median over all pairs of CPUs, or over all CPUs alone, where the line stays in the cache. "
    "A quiet hand-over is one that nothing disturbed; the mean has all of them. Each pair has its "
    "own time in summary.json. Differences are paired, way - baseline. " + _OF_BASELINE,
    keys=(_PLACEMENT, Column("way", "", lambda row: row.method)),
    parts=(
        Part(
            "Hand-overs",
            (
                _number("quiet", "", "ns_per_handover", "quiet", group="hand-over [{ns}]"),
                _number("mean", "", "ns_per_handover", "mean", group="hand-over [{ns}]"),
                _difference_column("handover_ns", "difference", "{ns} per hand-over"),
                _count("hand-overs", "", "n"),
                _ENDED_BY,
            ),
        ),
    ),
    terminal=(
        (
            "{ns}",
            (
                _number("quiet", "", "ns_per_handover", "quiet"),
                _number("mean", "", "ns_per_handover", "mean"),
                _count("hand-overs", "", "n"),
            ),
        ),
    ),
    metrics=(("handover_ns", ""),),
)

_KICKS_SEEN = _case_figure("kicks", "sent")
_PAUSES_SEEN = _case_figure("kicks", "pauses")
_PAUSED = _case_figure("kicks", "pause_ns", "last", "p50")


def _overhead(row: Row) -> float | None:
    return told_cost(row.case)


_LATENCIES_OBSERVED = tuple(
    Column(name, "", _shown(value), value, group="kick until KVM_RUN returned [{ns}]")
    for name in ("p50", "p90", "p99", "max")
    for value in (_case_figure("kicks", "latency_ns", name),)
)


def _item(key: str) -> Callable[[Row], float | None]:
    """A number of the item; None if it is null."""
    return lambda row: None if row.item[key] is None else float(row.item[key])


def _of_item(
    name: str,
    key: str,
    unit: str = "",
    words: Callable[[float | None], str] = significant,
    scale: float = 1.0,
    **more: Any,
) -> Column:
    return Column(name, unit, _shown(_item(key), words, scale), _item(key), **more)


def _ways(case: Summary) -> Sequence[Summary]:
    rate = case["exits"]["per_second"]
    return [{**way, "per_second": way["share"] * rate} for way in case["exits"]["ways"]]


def _vcpus_seen(case: Summary) -> Sequence[Summary]:
    return [{**one, "cpus": format_cpu_list(one["cpus"])} for one in case["vcpus_seen"]]


_SHARE = _of_item("share", "share", "%", partial(significant, digits=3), 100)
_PER_SECOND = _of_item("exits/{s}", "per_second", words=whole)
_MEANS = (
    _of_item("in KVM_RUN", "in_run_ns", "{ns}", whole, group="mean time"),
    _of_item("user space", "userspace_ns", "{ns}", whole, group="mean time"),
)
_WAY = Column("way to leave", "", lambda row: way_name(row.item))
_WAYS = Listing(
    "ways",
    "Why it leaves to user space",
    _ways,
    (_WAY, _SHARE, _PER_SECOND, _of_item("exits", "exits", words=whole), *_MEANS),
    terminal=(_WAY, _SHARE, _PER_SECOND, *_MEANS),
)
_VCPUS_SEEN = Listing(
    "vcpus",
    "Its vCPUs",
    _vcpus_seen,
    (
        _of_item("vCPU", "id", words=whole),
        Column("thread", "", lambda row: str(row.item["name"] or NOTHING)),
        _of_item("exits/{s}", "exits_per_second", words=whole),
        *(
            _of_item(
                name,
                f"{key}_share",
                words=partial(significant, digits=3),
                scale=100,
                group="time [%]",
            )
            for name, key in {
                "running": "ran",
                "waiting for a CPU": "waited",
                "halted": "halted",
                "polling": "polled",
            }.items()
        ),
        Column("CPUs", "", lambda row: row.item["cpus"] or NOTHING),
    ),
)
_SENDERS = Listing(
    "senders",
    "Who sent signals to it",
    lambda case: case["kicks"]["senders"],
    (
        Column("thread", "", lambda row: str(row.item["name"] or NOTHING)),
        Column("number", "", lambda row: str(row.item["thread"]), _item("thread")),
        Column("signal", "", lambda row: signal_name(row.item["signal"])),
        Column("sent by", "", lambda row: code_name(row.item["code"])),
        Column("to", "", lambda row: "the process" if row.item["to_process"] else "a vCPU"),
        _of_item("sent", "sent", words=whole, group="signals"),
        _of_item("already pending", "pending", words=whole, group="signals"),
        _of_item("failed", "failed", words=whole, group="signals"),
    ),
)
_OBSERVED = Table(
    "A running VM",
    "Exits per second are of all vCPUs together. A kick lasts from the signal until KVM_RUN "
    "returned. A pause is a burst of kicks to all vCPUs, and lasts until the last one answered. "
    "The time in KVM_RUN is that before the exit, and the time in user space that after it.",
    keys=(Column("VMM", "", _text("vmm")), _VCPUS, Column("protocol", "", lambda row: row.method)),
    parts=(
        Part(
            "What it did",
            (
                _count("exits/{s}", "", "exits_per_second"),
                Column("kicks", "", _shown(_KICKS_SEEN, whole), _KICKS_SEEN),
                *_LATENCIES_OBSERVED,
                Column("pauses", "", _shown(_PAUSES_SEEN, whole), _PAUSES_SEEN),
                Column("p50", "", _shown(_PAUSED), _PAUSED, group="pause [{ns}]"),
                Column(
                    "observing costs",
                    "%",
                    _shown(_overhead, scale=100.0),
                    _overhead,
                ),
            ),
        ),
    ),
    terminal=(
        (
            "{ns}",
            (
                _count("exits/{s}", "", "exits_per_second"),
                Column("kicks", "", _shown(_KICKS_SEEN, whole), _KICKS_SEEN),
                *_LATENCIES_OBSERVED,
            ),
        ),
    ),
    listings=(_WAYS, _VCPUS_SEEN, _SENDERS),
)

TABLES: dict[str, Table] = {
    "exits": _EXITS,
    "race": _RACE,
    "kick": _KICK,
    "pause_all": _PAUSE,
    "nested": _NESTED,
    "handover": _HANDOVER,
    "lifecycle": _LIFECYCLE,
    "observed": _OBSERVED,
}
"""The table of each kind of measurement."""


# --- rows --------------------------------------------------------------------------------------


def rows_of(cases: Sequence[Summary]) -> list[Row]:
    """The rows of finished cases, the methods in the order of the case."""
    return [Row(case, method) for case in cases for method in case["methods"]]


def columns_of(columns: Iterable[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns that the rows need: those ``always`` shown, and those whose cells differ."""
    return [
        column for column in columns if column.always or len({column.cell(row) for row in rows}) > 1
    ]


def heads(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """The columns by the head that they share with their neighbours; "" without a head."""
    return [(group, list(some)) for group, some in itertools.groupby(columns, lambda c: c.group)]


def words(text: str, summary: Summary) -> str:
    """A column's name or unit, with the units of time of this run."""
    return text.format(ns=nanoseconds(summary), us=microseconds(summary), s=seconds(summary))
