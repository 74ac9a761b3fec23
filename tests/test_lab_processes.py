# SPDX-License-Identifier: Apache-2.0
"""A Ctrl-C in the moment in which the lab starts a process: it ends all, without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

STARTS = {
    "an emulator": """
from kickbench.lab.processes import child
with child(["sleep", "600"]):
    pass
""",
    "one on our terminal": """
from kickbench.lab.processes import child
with child(["sleep", "600"], terminal=True):
    pass
""",
    "a build": """
from kickbench.lab import kbuild
kbuild.run(["sleep", "600"], "make", os.open(os.devnull, os.O_RDONLY))
""",
    "work beside": """
import time
from kickbench.lab.beside import beside
with beside(lambda: time.sleep(600)):
    time.sleep(600)
""",
}
# As the terminal sends it: to all processes of the group. In the new process no line has run yet.
CTRL_C = """
import os, signal, sys
{before}
os.register_at_fork(after_in_child=lambda: os.killpg(os.getpgid(0), signal.{number}))
try:
{start}
except KeyboardInterrupt:
    sys.exit(130)
sys.exit("not interrupted")
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("what", STARTS)
def test_a_ctrl_c_while_a_process_starts_ends_both(what: str, number: str) -> None:
    start = "".join(f"    {line}\n" for line in STARTS[what].splitlines())
    before = f"signal.signal(signal.{number}, signal.default_int_handler)"
    done = subprocess.Popen(
        [sys.executable, "-c", CTRL_C.format(before=before, start=start, number=number)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = done.communicate(timeout=300)[1]  # a process that is left would keep it open
    assert (said, done.returncode) == ("", 130)
    with pytest.raises(ProcessLookupError):
        os.killpg(done.pid, signal.SIGKILL)
