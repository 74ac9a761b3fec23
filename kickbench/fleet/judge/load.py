# SPDX-License-Identifier: Apache-2.0
"""Loads the figures of all hosts from a store, and decides which runs count."""

from __future__ import annotations

import datetime
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kickbench.compare.identity import UNKNOWN, fingerprint_facts
from kickbench.fleet.files import Files
from kickbench.fleet.judge.found import Figure, Host
from kickbench.fleet.judge.panel import FACTS, Panel
from kickbench.fleet.views import with_views
from kickbench.numbers import ordinal, plural

if TYPE_CHECKING:
    import duckdb

SILENT_DAYS = 7
"""A host is silent if it has not measured for so many days, and others have."""

MOST_CELLS = 250_000_000
"""Of an array: 1 GB. The figures that fewest hosts have are left out."""

_NAMED = 5

_VECTORS = 256
"""Of 2,048 rows each, which are fetched at once."""

# The clock of a run is wrong if it began after it was stored or later than any clock here knows,
# or before the fleet's measurement that it is a part of, whose name is when it began.
_TIMED = """
CREATE VIEW timed AS
SELECT *, time::DATE AS day, coalesce(
    time <= stored + INTERVAL 1 HOUR AND time <= $latest AND time >=
        coalesce(try_strptime(left(fleet, 16), '%Y%m%dT%H%M%SZ')::TIMESTAMPTZ, time)
        - INTERVAL 1 HOUR, false) AS clock_ok
FROM runs WHERE emulated = (SELECT bool_and(emulated) FROM runs)
"""

_FIGURE = ("scenario", '"case"', "kind", "method", "baseline", "metric")


class _Run(NamedTuple):
    host: str
    run_id: str
    time: datetime.datetime
    day: datetime.date
    scenario: str
    digest: str
    cpu_model: str
    kernel: str
    microcode: str
    mitigations: str
    cmdline: str
    kickbench: str
    fingerprint: str
    failed: int
    lost: int


class _Seen(NamedTuple):
    """A host, whenever it measured."""

    host: str
    runs: int
    first: datetime.date | None
    last: datetime.date | None
    wrong_clock: int
    wrong_time: datetime.datetime | None


def load(files: Files, days: int = 120, now: datetime.datetime | None = None) -> Panel:
    """The figures of all hosts on the last days, up to the day of the newest run.

    ``docs/fleet.md`` says which runs count. ``now`` is the time of this host, by default. Raises
    MeasurementError if the store cannot be read.
    """
    now = datetime.datetime.now(datetime.UTC) if now is None else now
    damaged: list[str] = []
    panel = with_views(files, damaged.append, partial(_panel, days=days, now=now))
    return replace(panel, notes=(*_few(damaged), *panel.notes))


def _panel(connection: duckdb.DuckDBPyConnection, *, days: int, now: datetime.datetime) -> Panel:
    notes: list[str] = []
    seen = _hosts(connection, now, notes)
    newest = max((host.last for host in seen if host.last is not None), default=None)
    if newest is None:
        return _nothing(notes)
    runs = _runs(connection, newest - datetime.timedelta(days=days - 1))
    remarks: dict[str, list[str]] = defaultdict(list)
    for host in seen:
        if host.wrong_clock:
            remarks[host.host].append(
                f"its clock was wrong in {plural(host.wrong_clock, 'run')}, such as that of "
                f"{host.wrong_time:%Y-%m-%d}; they are left out"
            )
    chosen = list(_of_present_hardware(_of_present_scenario(runs, notes), remarks))
    first = min(run.day for run in chosen)
    length = (newest - first).days + 1
    names = sorted({run.host for run in chosen})
    gone = sorted(host.host for host in seen if host.host not in set(names))
    if gone:
        notes.append(
            f"{plural(len(gone), 'host')} without a run that counts since {first}: "
            + ", ".join(_few(gone))
        )
    at_host = {name: index for index, name in enumerate(names)}
    at = [(at_host[run.host], (run.day - first).days) for run in chosen]
    figures, value, half = _figures(connection, chosen, at, (len(names), length), notes)
    facts, fact_names = _facts(chosen, at, (len(names), length))
    of_host = {host.host: host for host in seen}
    last_run = {run.host: run for run in chosen}
    for name, run in last_run.items():
        remarks[name] += _remarks(run, newest)
    return Panel(
        days=tuple(str(first + datetime.timedelta(days=day)) for day in range(length)),
        hosts=tuple(_host(of_host[name], last_run[name], remarks[name]) for name in names),
        figures=figures,
        value=value,
        half=half,
        facts=facts,
        names=fact_names,
        notes=tuple(notes),
    )


def _nothing(notes: Sequence[str]) -> Panel:
    empty = np.empty((0, 0, 0), dtype=np.float32)
    none = {name: np.empty((0, 0), dtype=np.int32) for name in FACTS}
    return Panel((), (), (), empty, empty, none, dict.fromkeys(FACTS, ()), tuple(notes))


# --- which runs count --------------------------------------------------------------------------


def _hosts(
    connection: duckdb.DuckDBPyConnection, now: datetime.datetime, notes: list[str]
) -> list[_Seen]:
    """All hosts. After this, the view ``timed`` has the runs, and whether their clock was right."""
    ((emulated, real, middle),) = connection.execute("""
        SELECT sum(emulated), sum(real), median(last) FROM (
            SELECT count(*) FILTER (emulated) AS emulated,
                count(*) FILTER (NOT emulated) AS real, max(time) AS last
            FROM runs GROUP BY host
        )
    """).fetchall()
    if emulated:
        notes.append(
            f"{plural(emulated, 'emulated run')} left out"
            if real
            else "all runs are emulated: times are by the emulator's clock"
        )
    # If most hosts are ahead of this one, it is this one's clock that is wrong.
    latest = max(now, middle or now) + datetime.timedelta(hours=1)
    # A view takes no parameters. isoformat() has no quotes.
    connection.execute(_TIMED.replace("$latest", f"'{latest.isoformat()}'::TIMESTAMPTZ"))
    found = connection.execute("""
        SELECT host, count(*), min(day) FILTER (clock_ok), max(day) FILTER (clock_ok),
            count(*) FILTER (NOT clock_ok), max(time) FILTER (NOT clock_ok)
        FROM timed GROUP BY host ORDER BY host
    """).fetchall()
    seen = [_Seen(*row) for row in found]
    if wrong := [host.host for host in seen if host.wrong_clock]:
        count = sum(host.wrong_clock for host in seen)
        notes.append(
            f"{plural(count, 'run')} left out, because the host's clock was wrong: "
            f"{', '.join(_few(wrong))}"
        )
    return seen


def _runs(connection: duckdb.DuckDBPyConnection, since: datetime.date) -> list[_Run]:
    """The runs since a day whose clock was right, oldest first."""
    found = connection.execute(
        """
        SELECT host, run_id, time, day, scenario, scenario_digest, coalesce(cpu_model, $unknown),
            coalesce(kernel, $unknown), coalesce(microcode, $unknown),
            coalesce(mitigations, $unknown), coalesce(cmdline, $unknown),
            coalesce(kickbench, $unknown), fingerprint, failed, lost
        FROM timed WHERE clock_ok AND day >= $since AND month >= $month ORDER BY time, run_id
        """,
        {"since": since, "month": f"{since:%Y-%m}", "unknown": UNKNOWN},
    )
    runs = []
    while rows := found.fetchmany(10_000):
        for row in rows:
            # Most texts are in many rows.
            run = _Run._make(sys.intern(v) if type(v) is str else v for v in row)
            runs.append(run._replace(cmdline=_stable(run.cmdline, run.kernel)))
    return runs


@lru_cache(maxsize=10_000)
def _stable(cmdline: str, kernel: str) -> str:
    """The command line without what changes with the kernel's version alone."""
    facts = fingerprint_facts({"kernel": {"release": kernel, "cmdline": cmdline}})
    return sys.intern(str(facts["kernel_command_line"] or UNKNOWN))


def _of_present_scenario(runs: Sequence[_Run], notes: list[str]) -> list[_Run]:
    """The runs of each scenario as most hosts measured it last. Others are not comparable.

    A host that measures a new version before all others must not outweigh them.
    """
    last = {(run.scenario, run.host): run for run in runs}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for run in sorted(last.values(), key=lambda run: run.time, reverse=True):
        votes[run.scenario][run.digest] += 1
    present = {scenario: count.most_common(1)[0][0] for scenario, count in votes.items()}
    left_out = Counter(run.scenario for run in runs if run.digest != present[run.scenario])
    for scenario, count in sorted(left_out.items()):
        notes.append(
            f"{plural(count, 'run')} of {scenario} left out, because it was another version than "
            "the one that most hosts measured last"
        )
    return [run for run in runs if run.digest == present[run.scenario]]


def _of_present_hardware(runs: Iterable[_Run], remarks: dict[str, list[str]]) -> Iterable[_Run]:
    """Each host's runs on the hardware that it has now, the last one of a day and scenario."""
    by_host: dict[str, list[_Run]] = defaultdict(list)
    for run in runs:
        by_host[run.host].append(run)
    for host, own in by_host.items():
        moves = [at for at in range(1, len(own)) if _is_other_hardware(own[at - 1], own[at])]
        if moves:
            again = f" (the {ordinal(len(moves))} time: several of one name?)"
            remarks[host].append(
                f"came back as other hardware on {own[moves[-1]].day}"
                + (again if len(moves) > 1 else "")
                + "; only the nights since then are used"
            )
        of_day = {(run.day, run.scenario): run for run in own[moves[-1] if moves else 0 :]}
        yield from sorted(of_day.values(), key=lambda run: (run.time, run.run_id))


def _is_other_hardware(before: _Run, after: _Run) -> bool:
    """The fingerprint is that of the CPU, of the nodes and of the command line."""
    return before.cpu_model != after.cpu_model or (
        before.fingerprint != after.fingerprint and before.cmdline == after.cmdline
    )


# --- arrays ------------------------------------------------------------------------------------


def _figures(
    connection: duckdb.DuckDBPyConnection,
    runs: Sequence[_Run],
    at: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    notes: list[str],
) -> tuple[tuple[Figure, ...], NDArray[np.float32], NDArray[np.float32]]:
    cell = np.array([host * shape[1] + day for host, day in at], dtype=np.int32)
    chosen = pa.table(
        {
            "host": [run.host for run in runs],
            "run_id": [run.run_id for run in runs],
            "cell": cell,
        }
    )
    connection.register("chosen", chosen)
    months = {"first": f"{min(run.time for run in runs):%Y-%m}"}
    keys = ", ".join(_FIGURE)
    # Numbers are joined faster than six texts. Two of even 10,000 figures hardly have the same one.
    connection.execute(
        f"""
        CREATE TEMP TABLE figures AS
        SELECT row_number() OVER (ORDER BY {keys}) - 1 AS figure, hash({keys}) AS number, * FROM (
            SELECT {keys}, any_value(unit) AS unit, any_value(better) AS better,
                count(*) OVER () AS figures
            FROM metrics WHERE month >= $first GROUP BY {keys}
            ORDER BY count(*) DESC, {keys} LIMIT $most
        )
        """,  # noqa: S608 (ours)
        {**months, "most": MOST_CELLS // (shape[0] * shape[1])},
    )
    listed = connection.execute(
        f"SELECT {keys}, unit, better, figures FROM figures ORDER BY figure"  # noqa: S608 (ours)
    ).fetchall()
    if listed and (more := listed[0][-1] - len(listed)):
        notes.append(f"{plural(more, 'figure')} left out that the fewest hosts have")
    value = np.full((len(listed), shape[0] * shape[1]), np.nan, dtype=np.float32)
    half = np.full_like(value, np.nan)
    rows = connection.execute(
        f"""
        SELECT figure::INTEGER AS figure, cell, TRY_CAST(value AS FLOAT) AS value,
            TRY_CAST((high - low) / 2 AS FLOAT) AS half
        FROM metrics m JOIN figures ON number = hash({", ".join(f"m.{key}" for key in _FIGURE)})
            JOIN chosen USING (host, run_id)
        WHERE month >= $first
        """,  # noqa: S608 (ours)
        months,
    )
    while len(some := rows.fetch_df_chunk(_VECTORS)):
        where = some["figure"].to_numpy(), some["cell"].to_numpy()
        value[where], half[where] = some["value"].to_numpy(), some["half"].to_numpy()
    # Some figures are only of runs that do not count.
    known = np.flatnonzero(np.isfinite(value).any(axis=1))
    if len(known) < len(listed):
        listed, value, half = [listed[at] for at in known], value[known], half[known]
    figures = tuple(
        Figure(*[*row[:-1], float(np.nanmedian(of_figure))])
        for row, of_figure in zip(listed, value, strict=True)
    )
    return figures, value.reshape(-1, *shape), half.reshape(-1, *shape)


def _facts(
    runs: Sequence[_Run], at: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> tuple[dict[str, NDArray[np.int32]], dict[str, tuple[str, ...]]]:
    facts, names = {}, {}
    for fact in FACTS:
        names[fact] = tuple(sorted({getattr(run, fact) for run in runs}))
        number = {name: index for index, name in enumerate(names[fact])}
        facts[fact] = np.full(shape, -1, dtype=np.int32)
        for where, run in zip(at, runs, strict=True):
            facts[fact][where] = number[getattr(run, fact)]
    return facts, names


# --- words -------------------------------------------------------------------------------------


def _host(seen: _Seen, run: _Run, remarks: Sequence[str]) -> Host:
    return Host(
        name=seen.host,
        facts={name: getattr(run, name) for name in FACTS if name != "fingerprint"},
        runs=seen.runs,
        first_day=str(seen.first),
        last_day=str(seen.last),
        remark="; ".join(remarks),
    )


def _remarks(run: _Run, newest: datetime.date) -> Iterable[str]:
    if (silent := (newest - run.day).days) >= SILENT_DAYS:
        yield f"has not measured for {plural(silent, 'day')}"
    if run.failed:
        yield f"{plural(run.failed, 'case')} failed in its newest run"
    if run.lost:
        yield "a race-free protocol lost a kick in its newest run"


def _few(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _NAMED
    return [*lines[:_NAMED], *([f"and {more:,} more"] if more > 0 else [])]
