# SPDX-License-Identifier: Apache-2.0
"""A report's figures and tables as files of their own, for slides, papers and spreadsheets.

They go into a folder beside the page. Each file appears at once or not at all. Files of an earlier
report of the same run that are no longer written are removed. Other files stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kickbench.errors import MeasurementError, UsageError
from kickbench.report.figures.plots import LINEAR, LOGARITHMIC, Plot
from kickbench.report.figures.svg import png, standalone
from kickbench.report.figures.table import FIGURES, Figure
from kickbench.report.pages.downloads import csv_of, csv_of_listing
from kickbench.report.words.tables import TABLES
from kickbench.report.words.verdict import kinds_of
from kickbench.results.files import cannot_write, replace_file
from kickbench.results.schema import place
from kickbench.summary.data import RunData

_TABLES = [
    *TABLES,
    *(f"{kind}-{one.name}" for kind, table in TABLES.items() for one in table.listings),
]
_TABLE = re.compile(rf"({'|'.join(map(re.escape, _TABLES))})\.csv")
_FIGURE = re.compile(
    rf"({'|'.join(re.escape(figure.name) for figure in FIGURES)})"
    rf"(-[0-9]+)?(-({LOGARITHMIC}|{LINEAR}))?\.(svg|png)",
    re.ASCII,
)


def is_asset(name: str) -> bool:
    """Whether a file of that name can be one of a report. Other files are the user's."""
    return bool(_TABLE.fullmatch(name) or _FIGURE.fullmatch(name))


def write(folder: Path, data: RunData, figures: Sequence[tuple[Figure, list[Plot]]]) -> list[str]:
    """Write the files and return their addresses relative to the page, which is beside the folder.

    Raises UsageError if the folder cannot be made, MeasurementError if a file cannot be written.
    """
    # Through a symlink, files of the user could be removed as those of an old report.
    if folder.is_symlink():
        raise UsageError(f"{place(folder)}: is a symlink; remove it, or choose another -o")
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{place(folder)}: is a file; remove it, or choose another -o") from None
    except OSError as error:
        cannot_write(folder, error, "nothing was written")
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
        for listing in TABLES[kind].listings:
            if content := csv_of_listing(data, kind, listing):
                yield f"{kind}-{listing.name}.csv", content
    for figure, plots in figures:
        for number, plot in enumerate(plots, 1):
            name = figure.name if len(plots) == 1 else f"{figure.name}-{number}"
            yield f"{name}.svg", standalone(plot, name)
            yield f"{name}.png", png(plot)
            if plot.alternative is not None and plot.scales is not None:
                other = f"{name}-{plot.scales[1]}"
                yield f"{other}.svg", standalone(plot, other, alternative=True)
                yield f"{other}.png", png(plot, alternative=True)


def _remove_stale(folder: Path, written: set[str]) -> None:
    try:
        for path in folder.iterdir():
            if is_asset(path.name) and path.name not in written and path.is_file():
                path.unlink()
    except OSError as error:
        raise MeasurementError(
            f"{place(folder)}: a file of an earlier report cannot be removed: {error.strerror}"
        ) from None
