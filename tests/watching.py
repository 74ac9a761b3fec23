# SPDX-License-Identifier: Apache-2.0
"""Runs as tests watch them: their folder, their cases, and what is yet to happen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def only_run(results: Path) -> Path:
    """The folder of the only run below ``results``."""
    (folder,) = results.glob("*/*")
    return folder


def statuses(folder: Path) -> dict[str, str]:
    """The status of each case of a run, by its id, in their order."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {entry["id"]: entry["status"] for entry in manifest["cases"]}


def wait_for(condition: Callable[[], Any], seconds: float = 600.0) -> Any:
    """What the condition returns as soon as that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")
