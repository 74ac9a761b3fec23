# SPDX-License-Identifier: Apache-2.0
"""``kickbench fleet``: what many hosts found, in one store."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench.cli.folders import folder as named_folder
from kickbench.cli.run import shipped_names
from kickbench.errors import UsageError

if TYPE_CHECKING:
    from kickbench.fleet.query import Answer
    from kickbench.fleet.run import Outcome

_MOST_DAYS = 36_500
"""A century. The calendar of Python begins in the year 1."""

app = typer.Typer(help="Keep many hosts' runs in one store, and ask it.", no_args_is_help=True)

_Store = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A folder or a URL, such as s3://bucket/kickbench."),
]


@app.command()
def add(
    store: _Store,
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or folders with runs below them."),
    ],
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="NAME", help="The host's name, if not its own."),
    ] = None,
) -> None:
    """Put finished runs into a store.

    Any number of hosts may do so at once. A run that is there is written again.
    """
    from kickbench.fleet.files import Files
    from kickbench.fleet.store import add_run
    from kickbench.results.discover import find_run
    from kickbench.summary.data import RunData

    files = Files(store)
    for path in runs:
        data = RunData.load(find_run(path))
        name = add_run(files, data, host)
        typer.echo(f"{name} {data.reader.run_id}")


@app.command()
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario's name or file, as for kickbench run. Or the file of a nightly job.",
            autocompletion=shipped_names,
        ),
    ] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", metavar="ADDRESS", help="Dask's, such as tcp://box:8786.")
    ] = "",
    hosts: Annotated[
        Path | None,
        typer.Option("--hosts", metavar="FILE", help="Or a file of hosts to reach by ssh."),
    ] = None,
    store: Annotated[
        str, typer.Option("--store", metavar="STORE", help="Where the runs go: a folder or a URL.")
    ] = "",
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="CONDITION", help="Only such hosts: 'kernel>=6.12 and cpu~EPYC'."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="As for kickbench run.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="As for kickbench run.")] = False,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="FLEET", help="Go on with a fleet that was interrupted."),
    ] = None,
) -> None:
    """Measure a scenario on every host of a Dask cluster, or of a file.

    Each host writes its run to the store. The exit code is 0 if every host finished, 4 if some
    failed, and 3 if none could measure.
    """
    from kickbench.fleet import run as fleet_run
    from kickbench.fleet.by_ssh import workers
    from kickbench.fleet.files import Files
    from kickbench.fleet.inventory import read
    from kickbench.fleet.only import chooser
    from kickbench.fleet.progress import observer

    if not store or bool(scheduler) == (hosts is not None):
        raise UsageError(
            "name the hosts with --scheduler ADDRESS or --hosts FILE, one of them, and the place "
            "for the runs with --store"
        )
    if (scenario is None) == (resume is None):
        raise UsageError("name a scenario, or the fleet to --resume, one of them")
    inventory = read(hosts) if hosts is not None else ()
    files = Files(store)
    options = [name for name, chosen in (("--quick", quick), ("--strict", strict)) if chosen]
    if resume is not None:
        order, done = fleet_run.begun(files, resume)
    else:
        assert scenario is not None
        order, done = fleet_run.new_order(files, scenario, options), {}
    wanted = chooser(only) if only is not None else None
    watching, display = observer()
    with display, ExitStack() as opened:
        security, faults = None, dict[str, str]()
        if hosts is not None:
            by_ssh = workers(inventory, watching.note)
            scheduler, security, faults = opened.enter_context(by_ssh)
        client = opened.enter_context(fleet_run.connected(scheduler, security))
        outcome = fleet_run.run(client, order, done, wanted, watching)
    outcome.left_out |= faults
    cluster = ["--scheduler", scheduler] if hosts is None else ["--hosts", str(hosts)]
    _print_outcome(outcome, shlex.join([*cluster, "--store", store]))
    raise typer.Exit(outcome.exit_code)


def _print_outcome(outcome: Outcome, words: str) -> None:
    from kickbench.numbers import plural
    from kickbench.text import printable

    for title, hosts in (
        ("finished", outcome.ok),
        ("failed", outcome.failed),
        ("left out", outcome.left_out),
    ):
        if hosts:
            typer.echo(f"{plural(len(hosts), 'host')} {title}:")
        for host, what in sorted(hosts.items()):
            typer.echo(printable(f"  {host}: {what}"))
    typer.echo(f"Fleet: {outcome.fleet}")
    if outcome.failed:
        again = f"kickbench fleet run --resume {outcome.fleet} {words}"
        typer.echo(f"kickbench: continue with: {again}", err=True)


@app.command()
def compact(store: _Store) -> None:
    """Pack the small files of a store, for fast answers.

    Do this once a day. Hosts may add runs meanwhile.
    """
    from kickbench.fleet.compact import Packed
    from kickbench.fleet.compact import compact as pack
    from kickbench.fleet.files import Files
    from kickbench.numbers import plural

    def say(packed: Packed) -> None:
        typer.echo(
            f"{packed.month}: {plural(packed.runs, 'run')} packed, and "
            f"{plural(packed.replaced, 'file')} of each table removed"
        )

    pack(Files.existing(store), lambda line: typer.echo(f"kickbench: {line}", err=True), say)


@app.command()
def query(
    store: _Store,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="A query of the views runs, hosts and metrics.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of rows.")] = False,
) -> None:
    """Ask a store a question in SQL.

    For example, 'SELECT kernel, median(value) FROM metrics GROUP BY kernel'.
    """
    from kickbench.fleet.files import Files
    from kickbench.fleet.query import ask

    answer = ask(
        Files.existing(store), sql, lambda line: typer.echo(f"kickbench: {line}", err=True)
    )
    if as_json:
        _print_json(answer)
    else:
        _print_table(answer)


@app.command()
def report(
    store: _Store,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Write HTML pages to DIR.", parser=named_folder
        ),
    ] = None,
    days: Annotated[
        int,
        typer.Option("--days", metavar="N", min=2, max=_MOST_DAYS, help="Judge the last N days."),
    ] = 120,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a mail or an issue.")
    ] = False,
) -> None:
    """Say what changed on which hosts, and what these have in common.

    The exit code is 1 if a group of hosts has a regression.
    """
    from kickbench.errors import EXIT_REGRESSION
    from kickbench.fleet.files import Files
    from kickbench.fleet.judge.judge import judge
    from kickbench.fleet.judge.load import load
    from kickbench.fleet.pages.markdown import to_markdown
    from kickbench.fleet.pages.site import write
    from kickbench.results.schema import dump_json
    from kickbench.text import printable

    if as_json and as_markdown:
        raise UsageError("--json and --markdown both print; choose one of them")
    found = judge(load(Files.existing(store), days), store)
    page = write(found, folder) if folder is not None else None
    if as_json:
        typer.echo(dump_json(found.to_dict(), ensure_ascii=True), nl=False)
    elif as_markdown:
        typer.echo(to_markdown(found), nl=False)
    else:
        for line in (*found.answer, *found.notes):
            typer.echo(printable(line))
    if page is not None:
        typer.echo(printable(str(page)), err=as_json or as_markdown)
    if found.regressed:
        raise typer.Exit(EXIT_REGRESSION)


def _print_json(answer: Answer) -> None:
    import json

    for name in answer.columns:
        if answer.columns.count(name) > 1:
            raise UsageError(f"two columns are called {name!r}; give one another name with AS")
    # Times, and whatever else SQL has that JSON has not, as their text.
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    text = json.dumps(rows, default=str)
    # Python writes NaN and Infinity, also inside lists, and other readers refuse them.
    typer.echo(json.dumps(json.loads(text, parse_constant=lambda _: None)))


def _print_table(answer: Answer) -> None:
    cells = [[_cell(value) for value in row] for row in (answer.columns, *answer.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        typer.echo("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    from datetime import datetime

    from kickbench.text import printable

    match value:
        case None:
            return ""
        case float():
            return f"{value:.7g}"  # --json has all digits
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case _:
            return printable(str(value))
