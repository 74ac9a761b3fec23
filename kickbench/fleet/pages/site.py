# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of a fleet's report into a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kickbench.fleet.judge.found import Found
from kickbench.fleet.pages import group, host, index
from kickbench.fleet.pages.links import INDEX, PAGE, links_of
from kickbench.results.files import make_folder, replace_file

_GROUP_PLOTS, _HOST_PLOTS = 60, 120
"""Plots over time of all groups, and of all hosts. A plot takes a tenth of a second."""
_MARK = b'<meta name="kickbench-fleet"'
_HEAD_BYTES = 2000


def write(found: Found, folder: Path) -> Path:
    """Write all pages, and return the first of them. It is written last.

    Raises UsageError if the folder cannot be made, MeasurementError if a file cannot be written.
    """
    make_folder(folder, "choose another folder with -o")
    written = set()
    for name, page in pages(found):
        replace_file(folder / name, page.encode("utf-8", "replace"))
        written.add(name)
    _remove_stale(folder, written)
    return folder / INDEX


def _remove_stale(folder: Path, written: set[str]) -> None:
    """Remove pages of an earlier report that this one does not have. Other files stay."""
    for path in folder.iterdir():
        if PAGE.fullmatch(path.name) and path.name not in written and _is_ours(path):
            path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return _MARK in file.read(_HEAD_BYTES)
    return False


def pages(found: Found) -> Iterator[tuple[str, str]]:
    """Each page: its file and its HTML. The first page comes last, when all that it names exist."""
    links = links_of(found)
    plots = min(group.MOST_PLOTS, _each(_GROUP_PLOTS, len(links.groups)))
    for number, name in links.groups.items():
        yield name, group.page(found, number, links, plots)
    for host_name, name in links.hosts.items():
        yield name, host.page(found, host_name, links, _each(_HOST_PLOTS, len(found.tracks)))
    yield INDEX, index.page(found, links)


def _each(plots: int, pages: int) -> int:
    """How many of the plots each page has."""
    return max(1, plots // max(pages, 1))
