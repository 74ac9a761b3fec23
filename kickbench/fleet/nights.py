# SPDX-License-Identifier: Apache-2.0
"""The history of a host's nightly job, kept in a store.

The history is a folder on the host, and in the store it is ``history/host=H/`` with the same files.
Files of a history are only ever added, and have names of their own. So both take what only the
other has.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kickbench.fleet.files import Files
from kickbench.results.files import make_folder, replace_file

HISTORY = "history"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_=.+-]*"
_NAME = re.compile(rf"{_PART}(/{_PART}){{1,2}}\.(parquet|json)")
"""Of a file of a history. Others stay where they are."""


def exchange(files: Files, name: str, folder: Path) -> None:
    """Have the history ``name`` of a store and a folder take from each other what they lack.

    Raises MeasurementError if either cannot be read or written.
    """
    before = f"{name}/" if name else ""
    there = {n for f in files.list(name, "") if _NAME.fullmatch(n := f.removeprefix(before))}
    here = {
        n
        for path in folder.rglob("[!.]*")
        if path.is_file() and _NAME.fullmatch(n := path.relative_to(folder).as_posix())
    }

    def fetch(missing: str) -> None:
        make_folder((folder / missing).parent, "name another folder for the history")
        replace_file(folder / missing, files.read(before + missing))

    def keep(missing: str) -> None:
        files.write(before + missing, (folder / missing).read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, sorted(there - here)))
        list(pool.map(keep, sorted(here - there)))


@contextmanager
def history_at(url: str) -> Iterator[Path]:
    """A folder with the history at a URL. What is added there is added to the URL at the end."""
    files = Files(url)
    with tempfile.TemporaryDirectory(prefix="kickbench-") as folder:
        exchange(files, "", Path(folder))
        yield Path(folder)
        exchange(files, "", Path(folder))
