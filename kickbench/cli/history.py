# SPDX-License-Identifier: Apache-2.0
"""``kickbench history``: shows what the nightly job found, and sets what counts as normal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kickbench.nightly.events import Event
    from kickbench.nightly.history import History, Partition
    from kickbench.nightly.night import Night

_MOST_PROBLEMS = 20

app = typer.Typer(
    help="Show the nightly job's history, and set what is normal.", no_args_is_help=True
)

_Folder = Annotated[
    str,
    typer.Argument(metavar="HISTORY", help="The folder of the history, or its URL in a store."),
]
_Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The id of a run, or a part of it that no other run has."),
]
_Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why. The history keeps this text.")
]
_Scenario = Annotated[
    str | None, typer.Option("--scenario", metavar="NAME", help="Only this scenario.")
]
_Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="FINGERPRINT",
        help="Only this host, by the fingerprint that history list shows.",
    ),
]


@app.command("list")
def list_history(context: typer.Context, folder: _Folder) -> None:
    """List the hosts, and the nights of each scenario.

    For each host it also shows the facts in which hosts differ.
    """
    history = _open(context, folder)
    partitions = history.partitions()
    events = history.events()
    if not partitions:
        _say([f"{folder}: no nights yet; kickbench nightly adds the first"])
    _say(_hosts(history, partitions, events))
    _warn(history)


@app.command()
def show(
    context: typer.Context,
    folder: _Folder,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="The id of a run, or a part of it. The default is the newest run."
        ),
    ] = None,
) -> None:
    """Show one night: its figures and its verdict.

    It also shows whether the night was accepted or forgotten since, and why.
    """
    history = _open(context, folder)
    if run is None:
        newest = [n for p in history.partitions() if (n := history.newest(p)) is not None]
        night = max(newest, key=lambda night: night.order, default=None)
    else:
        night = history.find(run)
    if night is None:
        _say([f"{folder}: no nights yet; kickbench nightly adds the first"])
    else:
        _say(_night(night, history.events()))
    _warn(history)


@app.command()
def trend(
    context: typer.Context,
    folder: _Folder,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Write the pages to DIR.")
    ] = Path("reports"),
    scenario: _Scenario = None,
    host: _Host = None,
) -> None:
    """Write HTML pages with the trends.

    Each scenario and host has one page. The command prints the paths of the pages.
    """
    from kickbench.nightly.page import write

    history = _open(context, folder)
    events = history.events()
    for partition in _chosen(history, scenario, host):
        nights = history.read(partition)
        if nights:
            typer.echo(os.fsencode(write(nights, events, output)))
    _warn(history)


@app.command()
def export(
    context: typer.Context,
    folder: _Folder,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.csv", help="The CSV file to write.")
    ],
    scenario: _Scenario = None,
    host: _Host = None,
) -> None:
    """Write the nights as a CSV file for Apache Otava.

    It also writes FILE.yaml, the configuration that Otava needs to read the file.
    """
    from kickbench.errors import UsageError
    from kickbench.nightly.otava import export as otava
    from kickbench.results.files import write_output

    history = _open(context, folder)
    chosen = _chosen(history, scenario, host)
    if len(chosen) > 1:
        known = ", ".join(f"{p.scenario} on {p.fingerprint}" for p in chosen[:5])
        raise UsageError(
            f"{folder}: a file holds the nights of one scenario and host, and here are {known}; "
            "choose with --scenario and --host"
        )
    if output.suffix != ".csv":
        raise UsageError(f"{output}: the name of the file must end in .csv")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: is not a folder")
    table, config = otava(history.read(chosen[0]), history.events(), output)
    for path, text in ((output, table), (output.with_suffix(".yaml"), config)):
        write_output(path, text.encode("utf-8", "replace"))
        typer.echo(os.fsencode(path))
    _warn(history)


@app.command()
def accept(
    context: typer.Context,
    folder: _Folder,
    run: _Run,
    reason: _Reason,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="PATTERN",
            help="Only the metrics whose name contains PATTERN or matches it (* and ?). history "
            "show prints the names. You can repeat this option. The default is all metrics.",
        ),
    ] = None,
) -> None:
    """Make the figures of a night the new normal.

    From that night on, later nights are compared with them.
    """
    from kickbench.errors import UsageError
    from kickbench.nightly.events import forgotten
    from kickbench.nightly.trends import matching

    history = _open(context, folder)
    night = history.find(run)
    if night.run_id in forgotten(history.events()):
        raise UsageError(f"run {night.run_id} was forgotten; accept another night")
    chosen = None
    for pattern in metric or ():
        found = matching(night.keys(), pattern)
        if not found:
            raise UsageError(
                f"run {night.run_id} has no metric {pattern!r}; "
                f"kickbench history show {folder} {night.run_id} lists them"
            )
        chosen = list(dict.fromkeys([*(chosen or ()), *found]))
    history.accept(night, _checked(reason), chosen)
    what = "all metrics" if chosen is None else _counted(len(chosen), "metric")
    _say([f"From run {night.run_id} on ({_when(night)}), {what} of {night.scenario} are normal."])


@app.command()
def forget(context: typer.Context, folder: _Folder, run: _Run, reason: _Reason) -> None:
    """Leave a night out of all baselines.

    For example, because the host was disturbed in that night.
    """
    from kickbench.nightly.events import forgotten

    history = _open(context, folder)
    night = history.find(run)
    said = forgotten(history.events()).get(night.run_id)
    if said is not None:
        _say([f"Run {night.run_id} was forgotten before: {said.reason}"])
        return
    history.forget(night, _checked(reason))
    _say([f"Run {night.run_id} of {night.scenario} ({_when(night)}) is in no baseline any more."])


# --- what is printed ---------------------------------------------------------------------------


def _hosts(
    history: History, partitions: Sequence[Partition], events: Sequence[Event]
) -> Iterator[str]:
    """Each host with its facts, then its scenarios, a line each."""
    for host in dict.fromkeys(partition.fingerprint for partition in partitions):
        of_host = [partition for partition in partitions if partition.fingerprint == host]
        read = [(partition.scenario, history.read(partition)) for partition in of_host]
        newest = [nights[-1] for _, nights in read if nights]
        yield f"Host {host}"
        if newest:
            last = max(newest, key=lambda night: night.order)
            for name, fact in last.document["facts"].items():
                yield f"  {name.replace('_', ' ')}: {fact or 'unknown'}"
        width = max(len(scenario) for scenario, _ in read)
        for scenario, nights in read:
            yield f"  {scenario:<{width}}  {_span(nights, events)}"


def _span(nights: Sequence[Night], events: Sequence[Event]) -> str:
    if not nights:
        return "no night that can be read"
    runs = {night.run_id for night in nights}
    alarms = {event.run_id for event in events if event.what == "verdict" and event.keys}
    counts = [
        _counted(len(alarms & runs), "with an alarm", "with an alarm"),
        *(
            _counted(len({e.run_id for e in events if e.what == what} & runs), said, said)
            for what, said in (("accept", "accepted"), ("forget", "forgotten"))
        ),
    ]
    text = f"{_counted(len(runs), 'night')}, {_when(nights[0])} to {_when(nights[-1])}"
    return ", ".join([text, *(count for count in counts if not count.startswith("0 "))])


def _night(night: Night, events: Sequence[Event]) -> Iterator[str]:
    """A night in lines: what it is, its verdict and what followed, its figures, what is missing."""
    from kickbench.nightly.events import verdicts
    from kickbench.nightly.trends import key_name
    from kickbench.numbers import measured, significant

    document = night.document
    emulated = " (emulated)" if document["emulated"] else ""
    yield f"{night.scenario}, {_when(night)}{emulated}"
    yield f"Run {night.run_id} on host {night.fingerprint}"
    kernel = night.environment.get("kernel")
    if isinstance(kernel, dict):
        yield f"Kernel {kernel.get('release')}"
    if not document["complete"]:
        yield "The run is not complete."
    for lost in night.lost:
        yield (
            f"LOST: {lost['count']} of {lost['of']} in {lost['case']} with {lost['method']}, "
            f"which claims to be free of races ({lost['what']})"
        )
    yield from _said(night, events)
    alarmed = verdict.keys or () if (verdict := verdicts(events).get(night.run_id)) else ()
    rows = []
    for key, row in zip(night.keys(), night.table.to_pylist(), strict=True):
        if row["ci95_low"] is None:
            value, ends = significant(row["value"]), ""
        else:
            value, low, high = measured(row["value"], (row["ci95_low"], row["ci95_high"]))
            ends = f"({low} to {high})"
        alarm = "ALARM" if key in alarmed else ""
        rows.append(
            (key_name(key), value, "" if row["unit"] == "share" else row["unit"], ends, alarm)
        )
    yield ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, value, unit, ends, alarm in rows:
        line = f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {ends:<{widths[3]}}"
        yield f"{line}  {alarm}".rstrip()
    for case in document["cases"]:
        if case["status"] != "ok":
            reason = f": {case['reason']}" if case["reason"] else ""
            yield f"{case['id']} {case['status']}{reason}"


def _said(night: Night, events: Iterable[Event]) -> Iterator[str]:
    """The verdict, and each accept and forget since, the oldest first."""
    for event in events:
        if event.run_id != night.run_id:
            continue
        at = f"{event.when_utc[:10]} {event.when_utc[11:16]} UTC"
        who = event.document.get("who")
        by = f" by {who}" if who else ""
        if event.what == "verdict":
            yield f"Verdict ({at}): {_counted(len(event.keys or ()), 'alarm')}"
        elif event.what == "accept":
            what = "all metrics" if event.keys is None else _counted(len(event.keys), "metric")
            yield f"Accepted {at}{by}, {what}: {event.reason}"
        else:
            yield f"Forgotten {at}{by}: {event.reason}"


def _when(night: Night) -> str:
    return f"{night.when:%Y-%m-%d %H:%M} UTC"


def _counted(count: int, one: str, many: str | None = None) -> str:
    from kickbench.numbers import plural

    return plural(count, one, many)


# --- arguments ---------------------------------------------------------------------------------


def _open(context: typer.Context, folder: str) -> History:
    from kickbench.nightly.history import History
    from kickbench.results.schema import fail

    if "://" in folder:
        from kickbench.fleet.nights import history_at

        # What the command adds goes there when it is done.
        here = context.with_resource(history_at(folder))
        return History(here)
    history = History(folder)
    if not Path(folder).exists():
        fail(folder, "does not exist; name the folder of the history, as in the nightly job's file")
    return history


def _chosen(history: History, scenario: str | None, host: str | None) -> list[Partition]:
    """The partitions that the options mean; at least one."""
    from kickbench.results.schema import fail

    everything = history.partitions()
    chosen = [
        partition
        for partition in everything
        if scenario in (None, partition.scenario)
        and (host is None or partition.fingerprint.startswith(host))
    ]
    if not everything:
        fail(history.folder, "no nights yet; kickbench nightly adds the first")
    if not chosen:
        known = ", ".join(f"{p.scenario} on {p.fingerprint}" for p in everything[:5])
        fail(history.folder, f"has no such nights; it has {known}")
    return chosen


def _checked(reason: str) -> str:
    from kickbench.errors import UsageError

    if not reason.strip():
        raise UsageError(
            "--reason is empty; give the reason, because others read the history later"
        )
    return reason


def _say(lines: Iterable[str]) -> None:
    from kickbench.text import printable

    for line in lines:
        typer.echo(printable(line))


def _warn(history: History) -> None:
    """What was left out, on standard error."""
    from kickbench.text import printable

    problems = history.problems
    for line in problems[:_MOST_PROBLEMS]:
        typer.echo(printable(f"kickbench: {line}"), err=True)
    if len(problems) > _MOST_PROBLEMS:
        typer.echo(f"kickbench: {len(problems) - _MOST_PROBLEMS} more files left out", err=True)
