# SPDX-License-Identifier: Apache-2.0
"""The tables of cases: per kind one visible list of columns, each with how its cell is worded.

The HTML report shows all columns of :data:`TABLES`, ``kickbench show`` the narrower selection
beside them. A row is one method of one finished case. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kickbench.report.kicks import at_most
from kickbench.report.names import contrasts, few, microseconds, nanoseconds, seconds
from kickbench.report.numbers import NOTHING, decimals, fixed, measured, significant, whole

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One method of one finished case."""

    case: Summary
    method: str

    @property
    def figures(self) -> Summary:
        """The method's part of the summary."""
        figures: Summary = self.case["methods"][self.method]
        return figures


@dataclass(frozen=True)
class Column:
    """One column. ``name`` and ``unit`` may hold {ns}, {us} and {s}, which an emulated run words
    otherwise.

    A column that is not ``always`` shown is left out when all its cells are the same. ``bad`` says
    of which rows the cell is an alarm.
    """

    name: str
    unit: str
    cell: Callable[[Row], str]
    numeric: bool = True
    always: bool = True
    bad: Callable[[Row], bool] | None = None


@dataclass(frozen=True)
class Table:
    """The table of a kind: its title, how to read it, and its columns.

    ``terminal`` has what fits on a terminal: tables by the head of their first column, which has
    the methods. ``metrics`` are the contrasts that are told below them, with what tells them apart.
    """

    title: str
    guide: str
    columns: tuple[Column, ...]
    terminal: tuple[tuple[str, tuple[Column, ...]], ...]
    metrics: tuple[tuple[str, str], ...] = ()


# --- cells -------------------------------------------------------------------------------------


def difference(contrast: Summary | None) -> str:
    """ "+31 (29 to 33)", or "-" without an interval; a few rounds are said to be few."""
    if contrast is None or contrast["diff"] is None or contrast["ci95"] is None:
        return NOTHING
    value, low, high = measured(contrast["diff"], contrast["ci95"])
    sign = "" if value.startswith("-") or not value.strip("0.,") else "+"
    return f"{sign}{value} ({low} to {high}{few(contrast)})"


def control(case: Summary) -> str:
    """The A/A control in words: "ok", "NOT OK" or "none", and the interval that it is judged by."""
    verdict = case["control"]
    if verdict["ok"] is None:
        return "none"
    judged = verdict | {"ci95": verdict["ci_family"]}
    return f"{'ok' if verdict['ok'] else 'NOT OK'}: {difference(judged)}"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row.case[key] or NOTHING)


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: whole(row.figures[key])


def _number(*path: str, scale: float = 1.0) -> Callable[[Row], str]:
    """A number of the method's figures; "-" when it or what holds it is not there."""

    def cell(row: Row) -> str:
        value: Any = row.figures
        for key in path:
            value = None if value is None else value.get(key)
        return NOTHING if value is None else significant(value * scale)

    return cell


def _with_interval(figures: str, intervals: str, name: str) -> Callable[[Row], str]:
    """ "9,000 (8,950 to 9,060)", or only the number where it has no interval."""

    def cell(row: Row) -> str:
        value, ends = row.figures[figures][name], row.figures[intervals].get(name)
        if value is None or ends is None:
            return significant(value)
        # A time is no finer than it would be without an interval.
        places = min(decimals(ends[1] - ends[0]), 1)
        return f"{fixed(value, places)} ({fixed(ends[0], places)} to {fixed(ends[1], places)})"

    return cell


def _contrast(metric: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if _is_baseline(row):
            return "baseline"
        return difference(contrasts(row.case, metric).get(row.method))

    return cell


def _exit_rate(row: Row) -> str:
    rate_hz = row.case["exit_rate_hz"]
    return "full speed" if rate_hz is None else significant(rate_hz)


def _kick_rate(row: Row) -> str:
    rate_hz = row.case["kick_rate_hz"]
    return "none" if rate_hz is None else significant(rate_hz)


def _kicks_beside(key: str) -> Callable[[Row], str]:
    """A count of the kicks that arrived beside exits."""
    return lambda row: whole(row.figures.get("kicks", {}).get(key))


def _broken(*path: str) -> Callable[[Row], bool]:
    """Whether a count is an alarm: not 0, of a method that claims to be free of races."""

    def bad(row: Row) -> bool:
        value: Any = row.figures
        for key in path[:-1]:
            value = value.get(key, {})
        return bool(value.get("race_free_claim") is True and value.get(path[-1]))

    return bad


def _state(row: Row) -> str:
    return str(row.case["state"])


def _window(row: Row) -> str:
    width_ns = row.case["window_ns"]
    return significant(width_ns / 1e3).removesuffix(".00") if width_ns else "natural"


def _claim(row: Row) -> str:
    return {True: "race-free", False: "loses kicks"}.get(row.figures["race_free_claim"], NOTHING)


def _bound(row: Row) -> str:
    bound = row.figures["lost_upper95"]
    return NOTHING if bound is None else at_most(bound)


def _timeout(row: Row) -> str:
    timeout_ns = row.case["timeout_ns"]
    return NOTHING if timeout_ns is None else significant(timeout_ns / 1e3)


# --- columns -----------------------------------------------------------------------------------

_PROGRAM = Column("program", "", _text("program"), numeric=False, always=False)
_IRQCHIP = Column("irqchip", "", _text("irqchip"), numeric=False, always=False)
_TRANSPORT = Column("transport", "", _text("transport"), numeric=False, always=False)
_VCPUS = Column("vCPUs", "", lambda row: whole(row.case["vcpus"]))
_PLACEMENT = Column("placement", "", _text("placement"), numeric=False)
_METHOD = Column("method", "", lambda row: row.method, numeric=False)
_ENDED_BY = Column("ended by", "", _text("stopped_by"), numeric=False, always=False)
_SENT = Column("sent", "", _count("sent"))
_UNMET = Column("unmet", "", _count("unmet"))
_LOST = Column("lost", "", _count("lost"), bad=_broken("lost"))
_SPURIOUS = Column("spurious", "", _count("spurious"))


def _difference_column(metric: str, name: str, unit: str) -> Column:
    """The differences of the metric that the A/A control is of, which the baseline's row has."""
    contrast = _contrast(metric)
    return Column(
        name,
        unit,
        lambda row: f"A/A {control(row.case)}" if _is_baseline(row) else contrast(row),
        bad=lambda row: _is_baseline(row) and row.case["control"]["ok"] is False,
    )


def _is_baseline(row: Row) -> bool:
    return bool(row.method == row.case["baseline"])


_OF_BASELINE = (
    "The baseline's row has the A/A control, the baseline against itself (99 % over all cases)."
)

_EXITS_PER_SECOND = Column("exits/{s}", "", _count("exits_per_second"))
_EXIT_MEAN = Column("mean", "{ns} per exit", _number("ns_per_exit", "mean"))
_EXIT_TIMES = tuple(
    Column(name, "{ns}", _number("ns_per_exit", name)) for name in ("p50", "p90", "p99", "max")
)

_EXITS = Table(
    "Exits",
    "Differences are paired, method - baseline, with their 95 % interval. " + _OF_BASELINE,
    columns=(
        _PROGRAM,
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        Column("rate", "exits/{s} per vCPU", _exit_rate),
        Column("kicks", "1/{s} per vCPU", _kick_rate, always=False),
        _TRANSPORT,
        _METHOD,
        _EXITS_PER_SECOND,
        _EXIT_MEAN,
        _difference_column("ns_per_exit", "difference (95 % CI)", "{ns} per exit"),
        *_EXIT_TIMES,
        Column("CPU time", "{ns} per exit", _number("cpu_ns_per_exit")),
        Column("CPU difference (95 % CI)", "{ns} per exit", _contrast("cpu_ns_per_exit")),
        Column("timed exits", "", _count("n")),
        Column("kicks sent", "", _kicks_beside("sent"), always=False),
        Column("lost", "", _kicks_beside("lost"), always=False, bad=_broken("kicks", "lost")),
        Column("spurious", "", _kicks_beside("spurious"), always=False),
        _ENDED_BY,
    ),
    terminal=(("{ns} per exit", (_EXITS_PER_SECOND, _EXIT_MEAN, *_EXIT_TIMES)),),
    metrics=(("ns_per_exit", ""),),
)

_RACE = Table(
    "Race",
    "Kicks aimed at the window between the check of the flag and KVM_RUN; some landed in it. A "
    "kick is lost when the guest still runs after the time-out; a rescue then ends it. The bound "
    "is that of lost / sent, one-sided and exact; slowest is of those not lost. A spurious exit "
    "has EINTR but no kick pending.",
    columns=(
        _VCPUS,
        _PLACEMENT,
        _TRANSPORT,
        Column("window", "{us}", _window),
        _METHOD,
        Column("claim", "", _claim, numeric=False),
        _SENT,
        Column("landed", "", _count("aimed")),
        _LOST,
        Column("lost at most", "95 %", _bound),
        _SPURIOUS,
        Column("slowest", "{us}", _number("latency_max_ns", scale=1e-3)),
        Column("time-out", "{us}", _timeout),
        _ENDED_BY,
    ),
    terminal=(
        ("kicks", (_SENT, Column("landed", "", _count("aimed")), _LOST, _SPURIOUS)),
        (
            "protocol",
            (
                Column("claim", "", _claim),
                Column("lost at most", "", _bound),
                Column("slowest [{us}]", "", _number("latency_max_ns", scale=1e-3)),
            ),
        ),
    ),
)

_LATENCIES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999", "max": "max"}
_PHASES = tuple(
    Column(name, "{ns}, p50", _number("phases_ns", name, "p50"))
    for name in ("send", "delivery", "return")
)

_KICK = Table(
    "Kick latency",
    "From just before the kick until KVM_RUN has returned, with 95 % intervals, by what the vCPU "
    "was doing. Send is the length of the kicker's call, delivery the time until the handler runs, "
    "return the rest. Unmet kicks found the vCPU in another state; they and lost ones are in no "
    "latency. Differences are paired, method - baseline. " + _OF_BASELINE,
    columns=(
        Column("kicked", "", _state, numeric=False),
        _PROGRAM,
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        Column("kickers", "", lambda row: whole(row.case["kickers"]), always=False),
        _TRANSPORT,
        _METHOD,
        *(
            Column(name, "{ns} (95 % CI)", _with_interval("latency_ns", "latency_ci95", key))
            for name, key in _LATENCIES.items()
            if key != "max"
        ),
        Column("max", "{ns}", _number("latency_ns", "max")),
        _difference_column("latency_p50_ns", "p50 difference (95 % CI)", "{ns}"),
        Column("p99 difference (95 % CI)", "{ns}", _contrast("latency_p99_ns")),
        *_PHASES,
        _SENT,
        _UNMET,
        _LOST,
        _SPURIOUS,
        _ENDED_BY,
    ),
    terminal=(
        (
            "{ns}",
            tuple(Column(name, "", _number("latency_ns", key)) for name, key in _LATENCIES.items()),
        ),
        ("phases, p50", _PHASES),
        ("kicks", (_SENT, _UNMET, _LOST, _SPURIOUS)),
    ),
    metrics=(("latency_p50_ns", " at p50"), ("latency_p99_ns", " at p99")),
)


def _pause(which: str, name: str) -> Callable[[Row], str]:
    return _number(f"{which}_ns", name, scale=1e-3)


_RESCUED = Column("rescued", "", _count("rescued"), bad=_broken("rescued"))
_PAUSES = Column("pauses", "", _count("n"))

_PAUSE = Table(
    "Pause all",
    "From just before the first kick until the first, the median and the last vCPU have "
    "acknowledged. Rescued pauses needed a second kick, and are in no time. Differences are "
    "paired, method - baseline, of the time until the last. " + _OF_BASELINE,
    columns=(
        _PROGRAM,
        _IRQCHIP,
        _VCPUS,
        _PLACEMENT,
        Column("rate", "exits/{s} per vCPU", _exit_rate, always=False),
        _TRANSPORT,
        _METHOD,
        *(
            Column(f"{which} {name}", "{us}", _pause(which, name))
            for which in ("send", "first", "median", "last")
            for name in ("p50", "p99")
        ),
        Column("last max", "{us}", _pause("last", "max")),
        _difference_column("pause_last_ns", "difference (95 % CI)", "{ns} per pause"),
        _PAUSES,
        _RESCUED,
        _ENDED_BY,
    ),
    terminal=(
        (
            "{us} until",
            (
                Column("first", "", _pause("first", "p50")),
                Column("median", "", _pause("median", "p50")),
                Column("last", "", _pause("last", "p50")),
                Column("last p99", "", _pause("last", "p99")),
                _PAUSES,
                _RESCUED,
            ),
        ),
    ),
    metrics=(("pause_last_ns", " (last)"),),
)

TABLES: dict[str, Table] = {"exits": _EXITS, "race": _RACE, "kick": _KICK, "pause_all": _PAUSE}
"""The table of each kind of measurement."""


# --- rows --------------------------------------------------------------------------------------


def rows_of(cases: Sequence[Summary]) -> list[Row]:
    """The rows of finished cases, the methods in the order of the case."""
    return [Row(case, method) for case in cases for method in case["methods"]]


def columns_of(kind: str, rows: Sequence[Row]) -> list[Column]:
    """The columns of a kind that have something to say about its rows."""
    return [
        column
        for column in TABLES[kind].columns
        if column.always or len({column.cell(row) for row in rows}) > 1
    ]


def words(text: str, summary: Summary) -> str:
    """A column's name or unit in this run."""
    return text.format(ns=nanoseconds(summary), us=microseconds(summary), s=seconds(summary))
