# SPDX-License-Identifier: Apache-2.0
"""kickbench as a user starts it: in a process of its own, or in the test's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from kickbench.cli import main

KICKBENCH = [sys.executable, "-P", "-m", "kickbench"]
"""The installed one: -P leaves out the folder that it is started in."""


def kickbench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``kickbench ...`` to its end, and have what it wrote."""
    command = [*KICKBENCH, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, **options
    )


def kickbench_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``kickbench ...`` in this process, and have its exit code."""
    monkeypatch.setattr("sys.argv", ["kickbench", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
