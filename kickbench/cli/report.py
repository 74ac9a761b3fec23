# SPDX-License-Identifier: Apache-2.0
"""``kickbench report``: writes the HTML reports that :mod:`kickbench.report.pages.run` makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from kickbench.cli.folders import folder as named_folder


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, or folders with runs below them. Of several runs in a folder, "
            "the newest is taken.",
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Write the reports to DIR.", parser=named_folder
        ),
    ] = Path("reports"),
    assets: Annotated[
        bool,
        typer.Option(
            "--assets", help="Also write the figures (SVG, PNG) and tables (CSV) as files."
        ),
    ] = False,
) -> None:
    """Write an HTML report of each run, and print its path.

    A report is one file that needs no others. With several runs, one more page compares the
    others with the first.
    """
    from kickbench.report.pages.comparison import compare_all
    from kickbench.report.pages.comparison import write as write_comparison
    from kickbench.report.pages.run import write_report
    from kickbench.results.discover import find_run
    from kickbench.results.explanation import load_explanation
    from kickbench.results.schema import fail, place
    from kickbench.summary.data import RunData
    from kickbench.text import printable

    found: dict[str, tuple[Path, RunData]] = {}
    for run in runs:
        data = RunData.load(find_run(run))
        first, same_id = found.setdefault(data.reader.run_id, (run, data))
        if not same_id.reader.path.samefile(data.reader.path):
            # A reader could mistake one report for the other.
            fail(
                run,
                f"has the same run id as {place(first)}, but is another folder; name one of them",
            )
        load_explanation(data.reader.path)  # a damaged one is refused before anything is written
        if first is not run:
            same = f"kickbench: {run}: the same run as {first}, {data.reader.run_id}; it has one "
            "report"
            typer.echo(printable(same), err=True)
    # What cannot be compared is refused before anything is written.
    different = [data for _, data in found.values() if data.finished]
    comparisons = compare_all(different) if len(different) > 1 else []
    pages = {}
    for run, data in found.values():
        path = write_report(data, folder, with_assets=assets)
        pages[data.reader.run_id] = path.name
        if not data.finished:
            message = f"kickbench: {run}: no case finished; the report says why"
            typer.echo(printable(message), err=True)
        typer.echo(os.fsencode(path))  # for scripts: the very bytes, UTF-8 or not
    if comparisons:
        names = [pages[data.reader.run_id] for data in different]
        typer.echo(os.fsencode(write_comparison(different, comparisons, names, folder)))
