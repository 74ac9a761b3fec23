# SPDX-License-Identifier: Apache-2.0
"""The ``kickbench`` command's first steps: Ctrl-C ends it tidily even while it is being loaded."""

from __future__ import annotations

import sys

from kickbench.errors import EXIT_INTERRUPTED


def main() -> None:
    """Load the command line and run it."""
    try:
        from kickbench.cli import main as run
    except KeyboardInterrupt:
        print("kickbench: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    run()
