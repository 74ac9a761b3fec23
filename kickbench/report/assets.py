# SPDX-License-Identifier: Apache-2.0
"""A report's figures and tables as files of their own, for slides, papers and spreadsheets.

They go into a folder beside the page. Each file appears at once or not at all; what an earlier
report of the same run left there goes, other files stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kickbench.errors import MeasurementError, UsageError
from kickbench.report.data import RunData
from kickbench.report.downloads import csv_of
from kickbench.report.figures import Figure
from kickbench.report.plots import Plot
from kickbench.report.svg import png, standalone
from kickbench.report.words import kinds_of
from kickbench.results.schema import one_line, safe_name
from kickbench.results.store import replace_file

_SUFFIXES = (".csv", ".png", ".svg")


def write(folder: Path, data: RunData, figures: Sequence[tuple[Figure, list[Plot]]]) -> list[str]:
    """Write the files and return their addresses relative to the page, which is beside the folder.

    Raises UsageError when the folder cannot be made, MeasurementError when a file cannot be
    written.
    """
    try:
        folder.mkdir(exist_ok=True)
        # Through a symlink, what is not ours could be taken for an old report's.
        if folder.is_symlink():
            raise UsageError(one_line(f"{folder}: is a symlink; remove it, or choose another -o"))
    except OSError as error:
        what = f"{folder}: cannot be made a folder ({error.strerror}); choose another with -o"
        raise UsageError(one_line(what)) from None
    names = []
    for name, content in _files(data, figures):
        replace_file(folder / name, content)
        names.append(name)
    _remove_stale(folder, set(names))
    return [f"{folder.name}/{name}" for name in names]


def _files(
    data: RunData, figures: Sequence[tuple[Figure, list[Plot]]]
) -> Iterator[tuple[str, bytes]]:
    for kind in kinds_of(data.summary):
        yield f"{kind}.csv", csv_of(data, kind)
    for figure, plots in figures:
        for number, plot in enumerate(plots, 1):
            name = figure.name if len(plots) == 1 else f"{figure.name}-{number}"
            yield f"{name}.svg", standalone(plot, name)
            yield f"{name}.png", png(plot)
            if plot.alternative is not None and plot.scales is not None:
                other = f"{name}-{safe_name(plot.scales[1], default='other')}"
                yield f"{other}.svg", standalone(plot, other, alternative=True)
                yield f"{other}.png", png(plot, alternative=True)


def _remove_stale(folder: Path, written: set[str]) -> None:
    try:
        for path in folder.iterdir():
            if path.suffix in _SUFFIXES and path.name not in written and path.is_file():
                path.unlink()
    except OSError as error:
        raise MeasurementError(
            one_line(f"{folder}: an old file cannot be removed: {error.strerror}")
        ) from None
