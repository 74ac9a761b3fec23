# SPDX-License-Identifier: Apache-2.0
"""The progress of a fleet: a screen on a terminal, plain lines elsewhere.

The screen is one however many hosts there are: counts, what failed, and hosts that measure with
their running estimates. Both go to standard error.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kickbench.numbers import plural
from kickbench.run.progress import REFRESH_HZ, duration
from kickbench.text import printable

_MOST_FAILURES = 5
_CASE = re.compile(r"(\[\d+/\d+\] .*?): at most .* left")


class Observer(Protocol):
    """Hears what happens to a fleet. Any thread may call it."""

    def note(self, line: str) -> None:
        """A line about the whole fleet."""

    def planned(self, hosts: Collection[str]) -> None:
        """These hosts are to measure."""

    def said(self, host: str, line: str) -> None:
        """A line of a host's run, as ``kickbench run`` prints it without a terminal."""

    def ended(self, host: str, why: str | None) -> None:
        """A host has finished, or failed if there is a reason."""


class PlainProgress:
    """Prints each line."""

    def note(self, line: str) -> None:
        self.said("kickbench", line)

    def planned(self, hosts: Collection[str]) -> None:
        self.note(f"{plural(len(hosts), 'host')} to measure: {', '.join(sorted(hosts))}")

    def said(self, host: str, line: str) -> None:
        print(printable(f"{host}: {line}"), file=sys.stderr, flush=True)

    def ended(self, host: str, why: str | None) -> None:
        self.said(host, "finished" if why is None else f"failed: {why}")


class LiveProgress:
    """Draws the screen: see :meth:`__rich__`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._note = ""
        self._waiting: set[str] = set()
        self._measuring: dict[str, tuple[str, str]] = {}  # the case, and the last line
        self._failed: dict[str, str] = {}
        self._finished = 0

    def note(self, line: str) -> None:
        with self._lock:
            self._note = line

    def planned(self, hosts: Collection[str]) -> None:
        with self._lock:
            self._waiting = set(hosts)

    def said(self, host: str, line: str) -> None:
        case = _CASE.fullmatch(line)
        with self._lock:
            self._waiting.discard(host)
            before, _ = self._measuring.get(host, ("", ""))
            self._measuring[host] = (case[1], "") if case else (before, line)

    def ended(self, host: str, why: str | None) -> None:
        with self._lock:
            self._waiting.discard(host)
            self._measuring.pop(host, None)
            if why is None:
                self._finished += 1
            else:
                self._failed[host] = why

    def __rich__(self) -> Group:
        """As many lines as the terminal has, at most."""
        with self._lock:
            measuring, failed = dict(self._measuring), dict(self._failed)
            counts = [
                f"{self._finished} finished",
                f"{len(failed)} failed",
                f"{len(measuring)} measuring",
                f"{len(self._waiting)} waiting",
            ]
            note = self._note
        since = duration(time.monotonic() - self._begun)
        failures = _rows([(host, why, "") for host, why in failed.items()], _MOST_FAILURES, "red")
        # The two lines above, and one for the cursor.
        space = self._console.height - 3 - failures.row_count
        rows = [(host, case, last) for host, (case, last) in sorted(measuring.items())]
        return Group(
            Text(printable(note), no_wrap=True, overflow="ellipsis"),
            Text(f"{', '.join(counts)}, {since}", style="bold", no_wrap=True, overflow="ellipsis"),
            failures,
            _rows(rows, space, ""),
        )


def _rows(rows: list[tuple[str, str, str]], most: int, style: str) -> Table:
    """A table of so many rows at most; the last one counts the rest."""
    table = Table.grid(padding=(0, 2))
    for column in ("host", "case", "last"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    shown = rows if len(rows) <= most else rows[: max(0, most - 1)]
    for row in shown:
        table.add_row(*(Text(printable(cell), style=style) for cell in row))
    if len(shown) < len(rows) and most > 0:
        table.add_row(f"and {len(rows) - len(shown)} more")
    return table


def observer() -> tuple[Observer, AbstractContextManager[object]]:
    """The display that fits standard error, and the context in which it is shown."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return PlainProgress(), nullcontext()
    shown = LiveProgress(console)
    return shown, Live(shown, console=console, refresh_per_second=REFRESH_HZ, transient=True)
