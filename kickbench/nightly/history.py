# SPDX-License-Identifier: Apache-2.0
"""The history's folder: nights in a Parquet dataset, and events beside them.

Files are only ever added. A night is one file, which appears by one rename. So adding a night costs
the same however long the history is, needs no lock, and leaves the history as it was if the job is
killed. Each event is a small file of its own. No file is changed or removed once it is there.

Other people may write to a shared history. A damaged or foreign file is not read. It stays where it
is, and :attr:`History.problems` names it.

Nothing here judges: see :mod:`kickbench.nightly.decide` and :mod:`kickbench.nightly.changes`.
``docs/history.md`` describes the format.
"""

from __future__ import annotations

import datetime
import os
import pwd
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kickbench.compare.identity import Change, changes
from kickbench.errors import MeasurementError, ResultsError, UsageError
from kickbench.nightly.events import Event, parse_event
from kickbench.nightly.night import SCHEMA, Night, short_reason
from kickbench.nightly.night_file import MAX_BYTES, night_bytes, parse_night
from kickbench.nightly.trends import Key
from kickbench.results.files import replace_file, sync
from kickbench.results.schema import dump_json, fail, is_safe_name, one_line

EVENTS = "_events"
_FINGERPRINT = re.compile(r"fingerprint=([0-9a-f]{4,64})")
_SCENARIO = re.compile(r"scenario=([A-Za-z0-9][A-Za-z0-9._+-]{0,199})")
_EVENT_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{8}")
_SUFFIX = ".parquet"
_FACTS_OF_FINGERPRINT = ("CPU", "NUMA nodes", "kernel command line", "kernel command line (order)")


@dataclass(frozen=True)
class Partition:
    """The nights of one host fingerprint and one scenario. ``runs`` are names of files, sorted."""

    fingerprint: str
    scenario: str
    path: Path
    runs: tuple[str, ...]


class History:
    """A history's folder, which need not exist before the first night.

    ``problems`` has a line for each file that was left out, because it is damaged, foreign or
    unreadable. A file has one line, however often it is met.
    """

    def __init__(self, folder: Path | str) -> None:
        """Raises UsageError if ``folder`` is not a folder, or cannot be looked at."""
        self.folder = Path(folder)
        self._problems: dict[str, None] = {}
        try:
            is_folder = stat.S_ISDIR(self.folder.stat().st_mode)
        except FileNotFoundError:
            is_folder = True
        except (OSError, ValueError) as error:
            fail(self.folder, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        if not is_folder:
            fail(self.folder, "is not a folder; name the folder of a history")

    @property
    def problems(self) -> list[str]:
        """What was left out so far and why, one line each."""
        return list(self._problems)

    # --- adding --------------------------------------------------------------------------------

    def append(self, night: Night) -> bool:
        """Add a night. Returns False, and changes nothing, if the history has the run already.

        When it returns, the night is on the disk. Raises ResultsError for a night that could not be
        read back (for example of a wrong clock), UsageError if a damaged file has the night's name,
        MeasurementError if the night cannot be written (for example on a full disk).
        """
        data = night_bytes(night)
        path = self._path_of(parse_night(data, f"run {night.run_id}"))
        if os.path.lexists(path):
            try:
                self._read_night(path, night.fingerprint, night.scenario)
            except ResultsError as error:
                raise UsageError(f"{error}; move the file away to add the run again") from None
            return False
        _make_folders(path.parent, self.folder.parent)
        replace_file(path, data)
        return True

    def add_verdict(
        self, run_id: str, alarms: Iterable[Key], more: Mapping[str, Any] | None = None
    ) -> Event:
        """Add the verdict on a night: the metrics that raised an alarm, and ``more`` keys."""
        return self._add_event(
            {"what": "verdict", "run_id": run_id, "alarms": _listed(alarms), **(more or {})}
        )

    def accept(self, night: Night, reason: str, metrics: Collection[Key] | None = None) -> Event:
        """Make the values from this night on the new normal, for these metrics or for all."""
        return self._add_event(
            {
                "what": "accept",
                "run_id": night.run_id,
                "created_utc": night.created_utc,
                "fingerprint": night.fingerprint,
                "scenario": night.scenario,
                "metrics": None if metrics is None else _listed(metrics),
                "reason": short_reason(reason),
                "who": _who(),
            }
        )

    def forget(self, night: Night, reason: str) -> Event:
        """Leave a night out of every baseline from now on. Its file stays."""
        return self._add_event(
            {
                "what": "forget",
                "run_id": night.run_id,
                "reason": short_reason(reason),
                "who": _who(),
            }
        )

    def _add_event(self, event: Mapping[str, Any]) -> Event:
        now = datetime.datetime.now(datetime.UTC)
        name = f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
        data = dump_json({"schema": SCHEMA, "when": f"{now:%Y-%m-%dT%H:%M:%SZ}", **event})
        parsed = parse_event(data, name, f"the {event['what']}")
        folder = self.folder / EVENTS
        if folder.is_symlink():
            fail(folder, "is a symlink; put the folder itself there")
        _make_folders(folder, self.folder.parent)
        replace_file(folder / f"{name}.json", data)
        return parsed

    def _path_of(self, night: Night) -> Path:
        folder = f"fingerprint={night.fingerprint}/scenario={night.scenario}"
        return self.folder / folder / f"{night.run_id}{_SUFFIX}"

    # --- reading -------------------------------------------------------------------------------

    def partitions(self) -> list[Partition]:
        """All hosts and scenarios that have nights. Reads folders, and no file."""
        found = []
        for host, above in self._folders(self.folder, _FINGERPRINT):
            for scenario, path in self._folders(above, _SCENARIO):
                if runs := tuple(self._runs(path)):
                    found.append(Partition(host, scenario, path, runs))
        return sorted(found, key=lambda partition: (partition.scenario, partition.fingerprint))

    def nights(self, fingerprint: str, scenario: str) -> list[Night]:
        """The nights of a host and scenario that can be read, oldest first.

        Forgotten nights are among them: see :func:`kickbench.nightly.events.forgotten`.
        """
        for partition in self.partitions():
            if (partition.fingerprint, partition.scenario) == (fingerprint, scenario):
                return self.read(partition)
        return []

    def read(self, partition: Partition) -> list[Night]:
        """The nights of a partition that can be read, oldest first."""
        found = []
        for name in partition.runs:
            night = self._try_night(partition, name)
            if night is not None:
                found.append(night)
        return sorted(found, key=lambda night: night.order)

    def newest(self, partition: Partition) -> Night | None:
        """The newest night of a partition that can be read, by the name of its file."""
        nights = (self._try_night(partition, name) for name in reversed(partition.runs))
        return next((night for night in nights if night is not None), None)

    def find(self, run: str) -> Night:
        """The night whose run has this id, or the only one whose id contains it.

        Raises ResultsError if there is no such night, if there are several, or if it is damaged.
        """
        everything = [(p, name) for p in self.partitions() for name in p.runs]
        exact = [(p, name) for p, name in everything if name == run + _SUFFIX]
        found = exact or [
            (p, name) for p, name in everything if run and run in name.removesuffix(_SUFFIX)
        ]
        if not found:
            fail(self.folder, f"has no run with {run!r} in its id")
        if len(found) > 1:
            names = ", ".join(name.removesuffix(_SUFFIX) for _, name in found[:3])
            more = "..." if len(found) > 3 else ""
            what = f"has {len(found)} runs with {run!r} in their ids: {names}{more}"
            fail(self.folder, f"{what}; give more of the id")
        partition, name = found[0]
        return self._read_night(partition.path / name, partition.fingerprint, partition.scenario)

    def events(self) -> list[Event]:
        """The events that can be read, oldest first.

        An event that accepts a night is left out if it does not fit the nights of the history.
        """
        found = []
        folder = self.folder / EVENTS
        if folder.is_symlink():
            self._leave_out(f"{folder}: is a symlink")
            return []
        partitions: list[Partition] | None = None
        for entry in self._entries(folder):
            name = entry.name.removesuffix(".json")
            if name == entry.name or not _EVENT_NAME.fullmatch(name):
                self._leave_out(f"{entry.path}: is not of the history")
                continue
            try:
                event = parse_event(_read_bounded(Path(entry.path)), name, entry.path)
            except ResultsError as error:
                self._leave_out(str(error))
                continue
            if event.what == "accept":
                partitions = self.partitions() if partitions is None else partitions
                if fault := self._misfit(event, partitions):
                    self._leave_out(f"{entry.path}: {fault}")
                    continue
            found.append(event)
        return sorted(found, key=lambda event: event.order)

    def _misfit(self, event: Event, partitions: Sequence[Partition]) -> str | None:
        """Why an event cannot accept the night that it names. None if it can.

        A forged event could make any value normal. With a date in the future, it could end all
        judging.
        """
        when, place = event.document.get("created_utc"), event.partition
        named = [p for p in partitions if place in ((p.fingerprint, p.scenario), (None, None))]
        name = event.run_id + _SUFFIX
        nights = [self._try_night(p, name) for p in named if name in p.runs]
        if when is None:
            return f"accepts {event.run_id} without the date of the run (created_utc)"
        if found := [night for night in nights if night is not None]:
            if all(night.created_utc != when for night in found):
                its_own = found[0].created_utc
                return f"accepts {event.run_id} of {when}, but that run is of {its_own}"
            return None
        # The night's file may be gone or damaged. What was accepted is still normal.
        if None in place or not named:
            return f"accepts {event.run_id}, which is not among the nights"
        if when > event.when_utc:
            return f"accepts {event.run_id} of {when} before it was measured"
        return None

    def moved_from(
        self, night: Night, *, same_name: bool = False
    ) -> tuple[Night, list[Change]] | None:
        """The newest night of the same scenario on another host, and in what the hosts differ.

        None if the night's own host has earlier nights, or if no other host has any. With
        ``same_name``, only hosts count that have the name of the night's own.
        """
        name = night.environment.get("hostname")
        others = []
        for partition in self.partitions():
            if partition.scenario != night.scenario:
                continue
            if partition.fingerprint == night.fingerprint:
                if any(name != night.run_id + _SUFFIX for name in partition.runs):
                    return None
            elif (newest := self.newest(partition)) is not None and (
                not same_name or newest.environment.get("hostname") == name
            ):
                others.append(newest)
        if not others:
            return None
        last = max(others, key=lambda other: other.order)
        told = changes(last.environment, night.environment)
        return last, [change for change in told if change.title in _FACTS_OF_FINGERPRINT]

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What is in a folder, without hidden files, in the order of the names."""
        try:
            with os.scandir(folder) as entries:
                found = [e for e in entries if not e.name.startswith(".") and e.name != EVENTS]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._leave_out(f"{folder}: cannot be read: {error.strerror}")
            return []
        return sorted(found, key=lambda entry: entry.name)

    def _folders(self, above: Path, named: re.Pattern[str]) -> Iterator[tuple[str, Path]]:
        """The values and paths of the folders on one level of partitions."""
        for entry in self._entries(above):
            match = named.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                yield match[1], Path(entry.path)
            else:
                self._leave_out(f"{entry.path}: is not of the history")

    def _runs(self, folder: Path) -> Iterator[str]:
        for entry in self._entries(folder):
            run = entry.name.removesuffix(_SUFFIX)
            if run != entry.name and is_safe_name(run):
                yield entry.name
            else:
                self._leave_out(f"{entry.path}: is not of the history")

    def _try_night(self, partition: Partition, name: str) -> Night | None:
        try:
            path = partition.path / name
            return self._read_night(path, partition.fingerprint, partition.scenario)
        except ResultsError as error:
            self._leave_out(str(error))
            return None

    def _read_night(self, path: Path, fingerprint: str, scenario: str) -> Night:
        night = parse_night(_read_bounded(path), path)
        if (night.run_id + _SUFFIX, night.fingerprint, night.scenario) != (
            path.name,
            fingerprint,
            scenario,
        ):
            fail(path, f"is in the wrong place: it is run {night.run_id} of {night.scenario}")
        return night

    def _leave_out(self, line: str) -> None:
        self._problems[one_line(f"{line}; left out")] = None


def _read_bounded(path: Path) -> bytes:
    """The contents of a regular file of the history. A symlink is refused."""
    try:
        # O_NONBLOCK: if the file is a pipe, do not wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 (no path: a descriptor)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                fail(path, "is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = "is a symlink" if path.is_symlink() else f"cannot be read: {error.strerror}"
        fail(path, what)
    if len(data) > MAX_BYTES:
        fail(path, f"is larger than {MAX_BYTES >> 20} MiB")
    return data


def _make_folders(folder: Path, above: Path) -> None:
    """Make a folder and those above it. They are on the disk when it returns."""
    if folder.is_dir():
        return
    missing = [folder, *(p for p in folder.parents if above in p.parents and not p.exists())]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync(made.parent)
    except OSError as error:
        what = f"cannot be made: {error.strerror}; the history is as it was"
        raise MeasurementError(one_line(f"{folder}: {what}")) from None


def _listed(keys: Iterable[Key]) -> list[list[str | None]]:
    return [list(key) for key in keys]


def _who() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
