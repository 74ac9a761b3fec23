# SPDX-License-Identifier: Apache-2.0
"""``kickbench report``: writes the HTML reports that :mod:`kickbench.report.build` makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Runs' folders, or folders with runs below: the newest is taken."
        ),
    ],
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the reports go.")
    ] = Path("reports"),
) -> None:
    """Write a self-contained HTML report of each run, and print its path."""
    from kickbench.report.build import write
    from kickbench.results.discover import find_run
    from kickbench.scenario.text import printable

    for run in runs:
        path, data = write(find_run(run), folder)
        if not data.finished:
            message = f"kickbench: {run}: no case finished; the report says why"
            typer.echo(printable(message), err=True)
        typer.echo(os.fsencode(path))  # for scripts: the very bytes, UTF-8 or not
