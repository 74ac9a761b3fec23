# SPDX-License-Identifier: Apache-2.0
"""``kickbench export``: a run in a format that another tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kickbench.errors import UsageError


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, or one with runs below it. Of several runs, the newest is "
            "taken.",
        ),
    ] = Path("results"),
    to: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="bencher, csv, github-benchmark, junit, kcidb, lava, openmetrics or tap.",
        ),
    ] = "csv",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write to a file, whole or not at all."
        ),
    ] = None,
) -> None:
    """Print a run's figures in a format that another tool reads.

    For example, kickbench export --format junit -o kickbench.xml.
    """
    from kickbench.export.formats import FORMATS
    from kickbench.export.results import results
    from kickbench.results.discover import find_run
    from kickbench.results.files import write_output
    from kickbench.summary.data import RunData

    if to not in FORMATS:
        raise UsageError(f"--format: {to[:40]!r} is none of {', '.join(FORMATS)}")
    text = FORMATS[to].write(results(RunData.load(find_run(run))))
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_output(output, text.encode())
