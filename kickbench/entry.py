# SPDX-License-Identifier: Apache-2.0
"""The ``kickbench`` command's first and last steps.

Ctrl-C ends it tidily even while it is being loaded, and while Python ends.
"""

from __future__ import annotations

import io
import signal
import sys

from kickbench import interrupts
from kickbench.errors import EXIT_INTERRUPTED


def main() -> None:
    """Load the command line and run it."""
    for stream in (sys.stdout, sys.stderr):
        # A path or a name may have letters that the locale's encoding, such as latin-1, has not.
        if isinstance(stream, io.TextIOWrapper):  # it is None if it was closed
            stream.reconfigure(errors="backslashreplace")
    try:
        if interrupts.is_heeded(signal.SIGINT):  # not ignored, as it is in a shell's background
            interrupts.heed(signal.SIGINT)
        from kickbench.cli import main as run

        run()
    except KeyboardInterrupt:  # or a second one, while the first one is reported
        print("kickbench: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        # Python would show a traceback of what comes while it ends.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if interrupts.is_heeded(number):
                signal.signal(number, signal.SIG_DFL)
