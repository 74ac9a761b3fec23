# SPDX-License-Identifier: Apache-2.0
"""Shows an observation while it goes on: a bar, or with ``--live`` a screen like that of top(1).

Both go to standard error. Without a terminal they are plain lines.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kickbench.numbers import plural, significant
from kickbench.observe.observer import Observed, OnProgress
from kickbench.text import printable
from kickbench.watch.process import Vmm

PLAIN_SECONDS = 10.0
_MOST_VCPUS = 32
"""Rows of the screen; those that leave most often are shown."""
_MOST_WAYS = 8
_HELP = "q: end and store what was seen    space: hold the screen"
_HELD = "q: end and store what was seen    space: go on    HELD: observing goes on"


@contextmanager
def bar(title: str, seconds: float) -> Iterator[OnProgress]:
    """A bar for the whole observation. Yields the function that moves it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(f"{title} for {seconds:g} s")
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        task = progress.add_task(escape(title), total=1.0)

        def advance(what: str, share: float) -> None:
            progress.update(task, completed=share, description=escape(f"{title}: {what}"))

        yield advance


def _plain(title: str) -> OnProgress:
    said: dict[str, float] = {}
    print(title, file=sys.stderr, flush=True)

    def advance(what: str, share: float) -> None:
        now = time.monotonic()
        if now - said.get(what, -PLAIN_SECONDS if share else now) >= PLAIN_SECONDS:
            print(f"  {what}, {100 * share:.0f} %", file=sys.stderr, flush=True)
            said[what] = now
        said.setdefault(what, now)

    return advance


class Live:
    """The screen. A context manager: the terminal is as it was afterwards."""

    def __init__(self, vmm: Vmm, seconds: float) -> None:
        self._vmm = vmm
        self._seconds = seconds
        self._console = Console(stderr=True)
        self._ended = self._held = False
        self._before: dict[tuple[int, ...], int] = {}
        self._kicks = 0
        self._shown: list[Any] = []
        self._screen: RichLive | None = None
        self._keys: int | None = None
        self._mode: list[object] = []
        self._on_cont: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._screen = RichLive(console=self._console, screen=True, auto_refresh=False)
            self._screen.__enter__()
            if sys.stdin.isatty():
                self._keys = sys.stdin.fileno()
                self._mode = termios.tcgetattr(self._keys)
                self._take_keys()
                # A shell gives the terminal its own mode while this process is stopped.
                self._on_cont = signal.signal(signal.SIGCONT, self._take_keys)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keys is not None:
            signal.signal(signal.SIGCONT, self._on_cont)
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._mode)  # type: ignore[arg-type]
        if self._screen is not None:
            self._screen.__exit__(kind, error, trace)

    def _take_keys(self, *_: object) -> None:
        """Have each key at once, without Enter."""
        if self._keys is not None:
            tty.setcbreak(self._keys)

    def progress(self, what: str, share: float) -> None:
        """Say what happens before the first turn."""
        if self._screen is not None and not share:
            self._screen.update(Text(f"{self._vmm.title}: {what}"), refresh=True)

    def keep_on(self) -> bool:
        """Take the keys that were pressed; False after q."""
        while self._keys is not None and select.select([self._keys], [], [], 0)[0]:
            pressed = os.read(self._keys, 1)
            if pressed in (b"q", b"Q", b""):
                self._ended = True
                return False
            if pressed == b" ":
                self._held = not self._held
                self._draw()
        return not self._ended

    def turn(self, found: Observed) -> None:
        """Show the last turn."""
        lines = self._lines(found)
        if self._screen is None:
            print(lines[0], file=sys.stderr, flush=True)
        elif not self._held:
            table = self._vcpus(found)
            self._shown = [Text(lines[0], style="bold"), table, *map(Text, lines[1:])]
            self._draw()

    def _draw(self) -> None:
        """Draw what is shown, with the keys below its first line."""
        if self._screen is not None and self._shown:
            keys = Text(_HELD, style="reverse") if self._held else Text(_HELP, style="dim")
            self._screen.update(Group(self._shown[0], keys, *self._shown[1:]), refresh=True)

    def _lines(self, found: Observed) -> list[str]:
        turn = found.turns[-1]
        seconds = turn.elapsed_ns / 1e9
        kicks = int(found.sent["sent"].sum())
        more, self._kicks = kicks - self._kicks, kicks
        at = (turn.at_ns + turn.elapsed_ns) / 1e9
        first = (
            f"{self._vmm.title}: {at:.0f} of {self._seconds:g} s, "
            f"{significant(sum(turn.exits) / seconds, 3)} exits/s, {plural(more, 'kick')}"
        )
        ways = []
        rows = found.ways
        for row in rows:
            way = row["way"]
            key = tuple(int(way[name]) for name in ("reason", "write", "size", "address"))
            ways.append((key, int(row["exits"])))
        counts: dict[tuple[int, ...], int] = {}
        for key, count in ways:
            counts[key] = counts.get(key, 0) + count
        recent = {key: count - self._before.get(key, 0) for key, count in counts.items()}
        self._before = counts
        total = sum(recent.values()) or 1
        most = sorted(recent.items(), key=lambda item: -item[1])[:_MOST_WAYS]
        said = [_way(key, count / total) for key, count in most if count]
        return [printable(first), "", *said, *_troubles(found)]

    def _vcpus(self, found: Observed) -> Table:
        names = ("vCPU", "thread", "exits/s", "EINTR", "kicks", "longest", "CPU")
        table = Table(*names, box=None, pad_edge=False)
        turn, rows = found.turns[-1], found.vcpus
        seconds = turn.elapsed_ns / 1e9
        slots = sorted(range(len(turn.exits)), key=lambda slot: -turn.exits[slot])[:_MOST_VCPUS]
        for slot in sorted(slots, key=lambda slot: int(rows["id"][slot])):
            cpu = turn.cpus[slot]
            table.add_row(
                str(rows["id"][slot]),
                str(rows["thread"][slot] or "-"),
                significant(turn.exits[slot] / seconds, 3),
                str(rows["eintr"][slot]),
                str(rows["kicks"]["by_state"][slot].sum()),
                f"{significant(int(rows['kicks']['longest_ns'][slot]) / 1e3, 3)} µs",
                str(cpu) if cpu >= 0 else "-",
            )
        return table


def _troubles(found: Observed) -> list[str]:
    """Waiting for siglock, and events that got lost, since the beginning; nothing if there is
    none."""
    totals, lost = found.totals[0], found.lost
    said = []
    if waits := int(totals["siglock_waits"]):
        took = significant(int(totals["siglock_wait_ns"]) / 1e3, 3)
        said.append(f"siglock: {plural(waits, 'wait')}, {took} µs in all")
    if lost.total:
        kinds = ", ".join(f"{n} {name}" for name, n in vars(lost).items() if n)
        said.append(f"lost: {kinds}")
    return ["", *said] if said else []


def _way(key: tuple[int, ...], share: float) -> str:
    from kickbench.report.words.observed import way_name
    from kickbench.summary.observed import reason_name

    reason, write, size, address = key
    way = {"reason": reason_name(reason), "write": write, "size": size, "address": address}
    return f"{100 * share:5.1f} %  {way_name(way)}"
