# SPDX-License-Identifier: Apache-2.0
"""``kickbench run`` on several machines at once: a process for each, and then they are compared."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import typer

from kickbench.errors import EXIT_INTERRUPTED, EXIT_MEASUREMENT, EXIT_OK

_KICKBENCH = [sys.executable, "-P", "-m", "kickbench"]


def run_on(hosts: Sequence[str], arguments: Sequence[str]) -> int:
    """Run ``kickbench run ARGUMENTS`` on each host. Returns the exit code.

    That is the code of all if they agree, else EXIT_MEASUREMENT. Each line of progress begins with
    its host. What each run found is printed when all are over.
    """
    processes = [
        subprocess.Popen(
            [*_KICKBENCH, "run", *arguments, "--host", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A Ctrl-C is for us to pass on, once. And ssh finds no terminal to ask on: several
            # would ask at once, and each would be stopped for it (SIGTTOU).
            start_new_session=True,
        )
        for host in hosts
    ]
    found = ["" for _ in hosts]

    def hear(index: int) -> None:
        stream = processes[index].stdout
        assert stream is not None
        found[index] = stream.read()

    def repeat(index: int) -> None:
        stream = processes[index].stderr
        assert stream is not None
        for line in stream:
            print(f"{hosts[index]}: {line.rstrip()}", file=sys.stderr, flush=True)

    threads = [
        threading.Thread(target=target, args=(index,))
        for index in range(len(hosts))
        for target in (hear, repeat)
    ]
    for thread in threads:
        thread.start()
    interrupted = False
    while any(process.poll() is None for process in processes):
        try:
            for process in processes:
                process.wait()
        except KeyboardInterrupt:
            interrupted = True
            # Each run ends in a moment. A second Ctrl-C must not keep a box from being told.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for process in processes:
                process.send_signal(signal.SIGINT)
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate()  # closes the pipes, whose ends were read
    for host, said in zip(hosts, found, strict=True):
        if said:
            typer.secho(f"\n{host}\n", bold=True)
            typer.echo(said, nl=False)
    codes = {process.returncode for process in processes}
    if interrupted:
        return EXIT_INTERRUPTED
    if codes == {EXIT_OK}:
        _compare([re.findall(r"^Run: (.*)$", said, re.MULTILINE)[-1] for said in found])
    return codes.pop() if len(codes) == 1 else EXIT_MEASUREMENT


def _compare(runs: Sequence[str]) -> None:
    """Compare the first run with each of the others. That they differ is no error."""
    for other in runs[1:]:
        typer.secho(f"\n{runs[0]} against {other}\n", bold=True)
        sys.stdout.flush()
        subprocess.run([*_KICKBENCH, "compare", runs[0], other], check=False)
