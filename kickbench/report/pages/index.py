# SPDX-License-Identifier: Apache-2.0
"""Writes ``index.html`` of a folder: its reports with their answers, newest first.

It is made from the reports themselves. Each has an :class:`Entry` in its head, so you can copy
reports into the folder and remove them. Other files and damaged reports are left out. Only the
beginning of a file is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote_from_bytes

from markupsafe import Markup, escape
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kickbench.report.pages.html import render
from kickbench.report.words.differences import HEADLINES
from kickbench.report.words.environment import fact
from kickbench.report.words.names import emulation
from kickbench.report.words.verdict import Verdict
from kickbench.results.files import replace_file
from kickbench.results.schema import Time
from kickbench.summary.data import RunData
from kickbench.text import printable, shorten

INDEX = "index.html"
MOST_LISTED = 1000
"""Reports that an index lists."""
_MOST_FILES = 20_000
_HEAD_BYTES = 1 << 16
_LONGEST = 400
_MOST_NAMED = 10
_META = re.compile(rb'<meta name="kickbench-report" content="([^"<>]{2,60000})">')
_OURS = b'<meta name="kickbench-index"'

Badge = tuple[str, str]
"""A mark: its look ("good", "bad", "doubt", "plain") and its words."""


class Entry(BaseModel):
    """A report's entry for the index, which is in the report's head."""

    model_config = ConfigDict(strict=True)

    comparison: bool
    scenario: Annotated[str, Field(max_length=2 * _LONGEST)]
    created_utc: Time
    hosts: Annotated[list[str], Field(max_length=100)]
    kernels: Annotated[list[str], Field(max_length=100)]
    answer: str
    badges: Annotated[list[tuple[str, str]], Field(max_length=10)]

    def meta(self) -> Markup:
        """The entry as the content of a ``<meta>``."""
        return escape(json.dumps(self.model_dump()))


@dataclass(frozen=True)
class Listed:
    """A report in the index: its address relative to the index, and its entry."""

    address: str
    entry: Entry


def entry_of_run(data: RunData, said: Verdict) -> Entry:
    """The entry of a run's report."""
    return Entry(
        comparison=False,
        scenario=_short(data.reader.scenario_name),
        created_utc=data.summary["created_utc"],
        hosts=_all_known([data], "hostname"),
        kernels=_all_known([data], "kernel.release"),
        answer=_short(said.answer),
        badges=[(look, _short(words)) for look, words in badges_of(data, said)],
    )


def entry_of_comparison(runs: Sequence[RunData], answer: str, badges: Sequence[Badge]) -> Entry:
    """The entry of a comparison of runs; its time is that of the newest."""
    return Entry(
        comparison=True,
        scenario=_short(runs[0].reader.scenario_name),
        created_utc=max(data.summary["created_utc"] for data in runs),
        hosts=_all_known(runs, "hostname"),
        kernels=_all_known(runs, "kernel.release"),
        answer=_short(answer),
        badges=list(badges),
    )


def badges_of(data: RunData, said: Verdict) -> list[Badge]:
    """The marks of a run: emulated, partial, events lost, and whether to trust it."""
    marks: list[Badge] = []
    if by := emulation(data.summary):
        marks.append(("doubt", by))
    if not data.summary["complete"]:
        marks.append(("doubt", "Partial"))
    if any(case["kind"] == "observed" and case["lost_events"] for case in data.finished):
        marks.append(("bad", "Events lost"))
    if said.trusted is not None:
        good = ("good", "A/A control good")
        marks.append(good if said.trusted else ("bad", "Not to be trusted: A/A control failed"))
    elif any(case["kind"] in HEADLINES for case in data.finished):
        marks.append(("doubt", "No A/A verdict"))
    return marks


def update(folder: Path) -> None:
    """Write the folder's index anew. An ``index.html`` that kickbench did not write is left alone.

    Raises MeasurementError if the index cannot be written.
    """
    with _locked(folder):
        path = folder / INDEX
        if os.path.lexists(path) and _OURS not in _beginning(path):
            return
        replace_file(path, page(list(_reports(folder))).encode("utf-8", "replace"))


def page(reports: Sequence[Listed]) -> str:
    """The HTML document that lists the reports, newest first; a comparison before its runs."""
    by_name = sorted(reports, key=lambda report: report.address)
    newest = sorted(by_name, key=_newness, reverse=True)
    return render(
        "index.html.j2", reports=newest[:MOST_LISTED], more=max(0, len(newest) - MOST_LISTED)
    )


def _newness(report: Listed) -> tuple[str, bool]:
    return report.entry.created_utc, report.entry.comparison


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time update the index. The last one then sees the reports of all."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _reports(folder: Path) -> Iterator[Listed]:
    names = sorted(path.name for path in folder.glob("*.html"))
    for name in names[-_MOST_FILES:]:
        if name == INDEX or name.startswith("."):
            continue
        found = _META.search(_beginning(folder / name))
        if found is None:
            continue
        with contextlib.suppress(ValidationError):
            text = html.unescape(found[1].decode("utf-8", "replace"))
            yield Listed(
                f"./{quote_from_bytes(os.fsencode(name))}", Entry.model_validate_json(text)
            )


def _beginning(path: Path) -> bytes:
    """The first bytes of a regular file; none if it is not regular or cannot be read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.read(descriptor, _HEAD_BYTES)
        finally:
            os.close(descriptor)
    return b""


def _all_known(runs: Sequence[RunData], path: str) -> list[str]:
    """The values of a fact in the first few runs, each value once."""
    known = (fact(data.reader.environment, path) for data in runs[:_MOST_NAMED])
    return [_short(text) for text in dict.fromkeys(known) if text]


def _short(text: str) -> str:
    return shorten(printable(text), _LONGEST)
