# SPDX-License-Identifier: Apache-2.0
"""kickbench as a user starts it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

KICKBENCH = [sys.executable, "-P", "-m", "kickbench"]
"""The installed one: -P leaves out the folder that it is started in."""


def kickbench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``kickbench ...`` to its end, and have what it wrote."""
    command = [*KICKBENCH, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, **options
    )
