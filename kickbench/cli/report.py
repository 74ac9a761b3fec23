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
    assets: Annotated[
        bool,
        typer.Option("--assets", help="Also write figures (SVG, PNG) and tables (CSV) as files."),
    ] = False,
) -> None:
    """Write a self-contained HTML report of each run, and print its path.

    Of several runs, the last page compares the others with the first.
    """
    from kickbench.report.build import write_report
    from kickbench.report.comparison import compare_all
    from kickbench.report.comparison import write as write_comparison
    from kickbench.report.data import RunData
    from kickbench.results.discover import find_run
    from kickbench.scenario.text import printable

    every = [RunData.load(find_run(run)) for run in runs]
    # What cannot be compared is refused before anything is written.
    different = list({data.reader.run_id: data for data in every if data.finished}.values())
    comparisons = compare_all(different) if len(different) > 1 else []
    pages = {}
    for run, data in zip(runs, every, strict=True):
        path = write_report(data, folder, with_assets=assets)
        pages[data.reader.run_id] = path.name
        if not data.finished:
            message = f"kickbench: {run}: no case finished; the report says why"
            typer.echo(printable(message), err=True)
        typer.echo(os.fsencode(path))  # for scripts: the very bytes, UTF-8 or not
    if comparisons:
        names = [pages[data.reader.run_id] for data in different]
        typer.echo(os.fsencode(write_comparison(different, comparisons, names, folder)))
