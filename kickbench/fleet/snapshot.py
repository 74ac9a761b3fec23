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
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.errors import MeasurementError
from kickbench.fleet.files import Files
from kickbench.fleet.tables import RUNS
from kickbench.results.reader import DAMAGE

if TYPE_CHECKING:
    import pandas as pd

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
    """Look at a store. ``say`` hears of files that have no place in it."""
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
    files: Files, in_packs: Mapping[Pack, pd.DataFrame], loose: Sequence[Loose]
) -> Mapping[Loose | Pack, set[Key]]:
    """The runs of each file that are to be read elsewhere: what was stored last counts.

    So does a pack, if both were stored at once, and of packs the first one here.
    """
    if not in_packs:
        return {}
    import pandas as pd  # half of the time that a query takes to start

    sources: list[Loose | Pack] = [*in_packs, *loose]
    own = pd.DataFrame([run.key for run in loose], columns=["host", "run_id"])
    everything = pd.concat([*in_packs.values(), own], ignore_index=True)
    lengths = [*map(len, in_packs.values()), *([1] * len(loose))]
    number = np.repeat(np.arange(len(sources)), lengths)
    everything["source"] = number
    twice = everything[everything.duplicated(["host", "run_id"], keep=False)].copy()
    at = [n for n in twice.index.to_list() if isinstance(sources[number[n]], Loose)]
    found = (sources[number[n]] for n in at)
    with ThreadPoolExecutor(8) as pool:
        own_rows = pool.map(partial(_rows, files), found)
    twice.loc[at, "stored"] = [
        0 if rows is None else int(rows["stored"].max()) for rows in own_rows
    ]
    twice = twice.sort_values(["stored", "source"], ascending=[False, True])
    twice = twice[twice.duplicated(["host", "run_id"], keep="first")]
    hidden: dict[Loose | Pack, set[Key]] = defaultdict(set)
    for of, host, run_id in zip(*(twice[c] for c in ("source", "host", "run_id")), strict=True):
        hidden[sources[int(of)]].add((host, run_id))
    return hidden


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


def _rows(files: Files, source: Loose | Pack) -> pd.DataFrame | None:
    """The hosts, ids and times of what a file has, in ms; None if it cannot be read."""
    import pandas as pd

    columns = ["stored"] if isinstance(source, Loose) else ["host", "run_id", "stored"]
    try:
        data = pa.BufferReader(files.read(source.file(RUNS)))
        # With partitioning, the path would be taken for columns.
        rows = pq.read_table(data, columns=columns, partitioning=None)
        stored = rows.column("stored").cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    except (*DAMAGE, MeasurementError):
        return None
    texts = {name: rows.column(name).to_pylist() for name in columns if name != "stored"}
    found = pd.DataFrame({**texts, "stored": stored.fill_null(0).to_numpy()})
    return found.drop_duplicates(columns[:-1] or None)
