# SPDX-License-Identifier: Apache-2.0
"""Which files of a store hold which runs, at one moment.

A run is in a file of its own, as its host wrote it, or in a pack with many others. Packs of a month
that is not over are at the level of days, and those of a month that is over at that of months. A
run only moves up, and is written above before it is removed below. Whoever lists the levels from
below to above so sees every run. A run that is seen twice counts once, at the highest level: see
:attr:`Snapshot.hidden`.

Packs at the level of months are never removed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.errors import MeasurementError
from kickbench.fleet.files import Files
from kickbench.fleet.tables import RUNS, check_schema
from kickbench.results.reader import DAMAGE

DAYS, MONTHS = "packed/days", "packed/months"

_MONTH = "month=([0-9]{4}-[0-9]{2})"
_LOOSE = re.compile(rf"host=([A-Za-z0-9._+-]+)/{_MONTH}/([^/]+)\.parquet")
_PACK = re.compile(rf"{_MONTH}/([0-9a-f]+)\.parquet")

_NEW = 2**62

Key = tuple[str, str]
"""Of a run: its host and id."""


class Loose(NamedTuple):
    """A run in files of its own."""

    host: str
    month: str
    run_id: str

    def file(self, table: str) -> str:
        """Where its rows of a table are."""
        return f"{table}/host={self.host}/month={self.month}/{self.run_id}.parquet"

    @property
    def key(self) -> Key:
        """The run's key."""
        return self.host, self.run_id


class Pack(NamedTuple):
    """Many runs of a month in one file of each table."""

    level: str
    month: str
    name: str

    def file(self, table: str) -> str:
        """Where its rows of a table are."""
        return f"{self.level}/{table}/month={self.month}/{self.name}.parquet"


@dataclass(frozen=True)
class Snapshot:
    """What to read. ``hidden`` has the runs of a pack that are to be read elsewhere.

    ``covered`` are files all of whose runs are read elsewhere. ``unread`` are packs that are gone
    or damaged. ``left_out`` are names of files that are damaged.
    """

    loose: tuple[Loose, ...]
    packs: tuple[Pack, ...]
    hidden: Mapping[Pack, set[Key]]
    covered: tuple[Loose | Pack, ...]
    unread: tuple[Pack, ...]
    left_out: Collection[str]

    @property
    def sources(self) -> frozenset[Loose | Pack]:
        """All that is read."""
        return frozenset[Loose | Pack]((*self.loose, *self.packs))

    def files(self, table: str, sources: Iterable[Loose | Pack]) -> list[str]:
        """The files of a table that these sources have, but for those that are left out."""
        return [n for source in sources if (n := source.file(table)) not in self.left_out]


def take(
    files: Files, left_out: Collection[str] = (), say: Callable[[str], None] = lambda _: None
) -> Snapshot:
    """Look at a store. ``say`` hears of files that have no place in it.

    Raises ResultsError, in one line, for a store of a newer schema.
    """
    check_schema(files)
    loose: dict[str, list[Loose]] = defaultdict(list)
    for match in _listed(files, RUNS, _LOOSE, left_out, say):
        loose[match[2]].append(Loose(match[1], match[2], match[3]))
    packs: dict[str, list[Pack]] = defaultdict(list)
    for level in (DAYS, MONTHS):  # from below to above
        for match in _listed(files, f"{level}/{RUNS}", _PACK, left_out, say):
            packs[match[1]].append(Pack(level, match[1], match[2]))
    # Only a month with several files can have a run twice.
    doubtful = [
        pack
        for month, found in packs.items()
        if len(found) > 1 or month in loose
        for pack in sorted(found, key=lambda pack: (pack.level != MONTHS, pack.name))
    ]
    with ThreadPoolExecutor(8) as pool:
        rows = dict(zip(doubtful, pool.map(partial(_rows, files), doubtful), strict=True))
    unread = [pack for pack, found in rows.items() if found is None]
    in_packs = {pack: found for pack, found in rows.items() if found is not None}
    in_months = [run for month in {pack.month for pack in in_packs} for run in loose.get(month, ())]
    hidden = _hidden(files, in_packs, in_months)
    covered: list[Loose | Pack] = [
        pack for pack, found in in_packs.items() if len(hidden.get(pack, ())) == len(found)
    ]
    covered += [run for run in in_months if run in hidden]
    out = {*covered, *unread, *(run for run in in_months if run in hidden)}
    return Snapshot(
        loose=tuple(run for month in loose.values() for run in month if run not in out),
        packs=tuple(pack for month in packs.values() for pack in month if pack not in out),
        hidden={p: found for p, found in hidden.items() if isinstance(p, Pack) and p not in out},
        covered=tuple(covered),
        unread=tuple(unread),
        left_out=frozenset(left_out),
    )


def _hidden(
    files: Files, in_packs: Mapping[Pack, pa.Table], loose: Sequence[Loose]
) -> Mapping[Loose | Pack, set[Key]]:
    """The runs of each file that are to be read elsewhere: what was stored last counts.

    So does a pack, if both were stored at once, and of packs the first one here.
    """
    ids = [run.run_id for run in loose]
    for rows in in_packs.values():
        ids += rows.column("run_id").to_pylist()
    twice = {run_id for run_id, count in Counter(ids).items() if count > 1}
    hidden: dict[Loose | Pack, set[Key]] = defaultdict(set)
    if not twice:
        return hidden
    best: dict[Key, tuple[int, Loose | Pack]] = {}
    # From what counts least, if all are stored at once, to what counts most.
    for source, rows in _candidates(files, in_packs, loose, twice):
        for key, stored in rows:
            before = best.get(key)
            if before is not None and before[1] == source:
                continue  # twice in one file, which is not for us to mend
            if before is None or stored >= before[0]:
                best[key] = stored, source
                if before is not None:
                    hidden[before[1]].add(key)
            else:
                hidden[source].add(key)
    return hidden


def _candidates(
    files: Files, in_packs: Mapping[Pack, pa.Table], loose: Sequence[Loose], twice: set[str]
) -> Iterator[tuple[Loose | Pack, list[tuple[Key, int]]]]:
    """The files that have one of these runs, with the times at which they were stored."""
    own = [run for run in loose if run.run_id in twice]
    with ThreadPoolExecutor(8) as pool:
        for run, found in zip(own, pool.map(partial(_rows, files), own), strict=True):
            # What cannot be read counts as new. Its reader then finds out whether it is damaged.
            yield run, [(run.key, _NEW if found is None else max(_stored(found), default=0))]
    for pack, table in reversed(list(in_packs.items())):
        keys = zip(*(table.column(name).to_pylist() for name in ("host", "run_id")), strict=True)
        yield pack, [(k, at) for k, at in zip(keys, _stored(table), strict=True) if k[1] in twice]


def _listed(
    files: Files,
    folder: str,
    place: re.Pattern[str],
    left_out: Collection[str],
    say: Callable[[str], None],
) -> list[re.Match[str]]:
    found = []
    for name in files.list(folder, ".parquet"):
        if not (match := place.fullmatch(name.removeprefix(f"{folder}/"))):
            say(f"{name}: is no file of a store; left out")
        elif name not in left_out:
            found.append(match)
    return found


def _rows(files: Files, source: Loose | Pack) -> pa.Table | None:
    """The runs of a file, and when they were stored; None if it cannot be read."""
    columns = ["stored"] if isinstance(source, Loose) else ["host", "run_id", "stored"]
    try:
        data = pa.BufferReader(files.read(source.file(RUNS)))
        # With partitioning, the path would be taken for columns.
        rows = pq.read_table(data, columns=columns, partitioning=None)
        stored = rows.column("stored").cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    except (*DAMAGE, MeasurementError):
        return None
    return rows.set_column(len(columns) - 1, "stored", stored)


def _stored(rows: pa.Table) -> list[int]:
    """In ms since 1970; 0 if it is not known."""
    return [at or 0 for at in rows.column("stored").to_pylist()]
