# SPDX-License-Identifier: Apache-2.0
"""``kickbench fleet``: what many hosts found, in one store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kickbench.fleet.query import Answer

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

    answer = ask(Files(store), sql, lambda line: typer.echo(f"kickbench: {line}", err=True))
    if as_json:
        _print_json(answer)
    else:
        _print_table(answer)


def _print_json(answer: Answer) -> None:
    import json

    # Times, and whatever else SQL has that JSON has not, as their text.
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    typer.echo(json.dumps(rows, default=str))


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
