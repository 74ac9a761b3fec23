# SPDX-License-Identifier: Apache-2.0
"""Finds the run that a path on the command line means. It reads manifests and nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

from kickbench.errors import ResultsError
from kickbench.results.reader import MANIFEST, load_manifest
from kickbench.results.schema import fail, one_line


def find_run(path: Path | str) -> Path:
    """The run folder that ``path`` means: itself, or the newest finished run below it.

    ``path`` may be a run folder, a scenario's folder (results/NAME) or the results folder. Raises
    ResultsError when there is none. The error names the newest unfinished run, if there is one.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        fail(path, "does not exist")
    except (OSError, ValueError) as error:
        fail(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not stat.S_ISDIR(mode):
        fail(path, "is not a results folder (it is a file)")
    if (path / MANIFEST).exists():
        return path
    try:
        found = {
            manifest.parent
            for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}")
            for manifest in path.glob(pattern)
        }
    except OSError as error:
        fail(path, f"cannot be read: {error.strerror}")
    if not found:
        fail(path, f"is not a results folder, and no run is below it (no {MANIFEST})")
    unfinished = None
    # Folder names begin with the UTC time: the newest is the last.
    for run in sorted(found, key=lambda folder: (folder.name, str(folder)), reverse=True):
        try:
            complete = load_manifest(run)["complete"]
        except ResultsError:
            continue
        if complete:
            return run
        unfinished = unfinished or run
    if unfinished is None:
        fail(path, "has no run that can be read; name one run's folder to see why")
    raise ResultsError(
        one_line(
            f"{path}: has no finished run; the newest unfinished one is {unfinished} "
            f"(continue with kickbench run --resume {unfinished})"
        )
    )
