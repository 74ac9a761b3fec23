# SPDX-License-Identifier: Apache-2.0
"""Run a command while busy processes run beside it: python tests/busy.py [--count N] COMMAND...

The processes compute without end, at the usual priority, each free to use any CPU: what a build or
another test run does to a host. They end with this script, however that ends. The exit code is the
command's.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys

COUNT = 4
PR_SET_PDEATHSIG = 1


def busy(parent: int) -> None:
    """Compute until the parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    while os.getppid() == parent:
        sum(number * number for number in range(100_000))


def run(command: list[str], count: int = COUNT) -> int:
    """The command's exit code, with so many busy processes beside it."""
    script = [sys.executable, __file__, "--busy-for", str(os.getpid())]
    others = [subprocess.Popen(script) for _ in range(count)]
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--busy-for", type=int, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.busy_for is not None:
        busy(arguments.busy_for)
        return 0
    if not arguments.command:
        parser.error("which command?")
    return run(arguments.command, arguments.count)


if __name__ == "__main__":
    sys.exit(main())
