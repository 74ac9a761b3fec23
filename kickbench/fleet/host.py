# SPDX-License-Identifier: Apache-2.0
"""What runs on each host of a fleet: a look at it, and a measurement.

A Dask worker calls :func:`look` and :func:`measure`. The measurement itself is a process of its own
(``python -m kickbench.fleet.host FOLDER``). It is ``kickbench run``, and then it puts the run into
the store. So it needs neither the worker nor the scheduler, and a host that both have lost still
keeps what it measured.

Its folder has ``order.json``, ``lock`` (held while it works), ``said`` (what the run wrote) and
``results``. It is removed when the store has the run.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from kickbench import interrupts
from kickbench.errors import EXIT_INTERRUPTED, EXIT_MEASUREMENT, EXIT_OK, HostError, KickbenchError
from kickbench.fleet.files import Files
from kickbench.fleet.store import add_run, host_name
from kickbench.fleet.versions import versions
from kickbench.host import doctor, environment
from kickbench.results.files import replace_file
from kickbench.results.schema import is_safe_name, one_line, place
from kickbench.summary.data import RunData

POLL_SECONDS = 0.25
_SAID, _OUTCOME, _LOCK, _ORDER = "said", "outcome.json", "lock", "order.json"
_LONGEST_LINE = 500


@dataclass(frozen=True)
class Order:
    """What a host of a fleet has to do: run scenarios, and put each run into a store.

    ``scenarios`` has their TOML by name.
    """

    fleet: str
    scenarios: dict[str, str]
    options: tuple[str, ...]
    store: str


@dataclass(frozen=True)
class Seen:
    """What a host is. ``faults`` say why it cannot measure."""

    host: str
    versions: dict[str, str]
    environment: dict[str, Any]
    faults: tuple[str, ...]


def look() -> Seen:
    """What this host is, and why it cannot measure."""
    facts = environment.collect()
    findings = doctor.examine()
    return Seen(
        host=host_name(facts),
        versions=versions(),
        environment=facts,
        faults=tuple(
            one_line(f"{finding.title}: {finding.detail}; {finding.advice}")
            for finding in findings
            if finding.status == "fail"
        ),
    )


def order_name(fleet: str) -> str:
    """The file of a store that has a fleet's order."""
    return f"fleets/{fleet}.json"


def folder_of(fleet: str) -> Path:
    """Where a host keeps its part of a fleet's measurement until the store has it.

    The host's name is a part of it, because hosts may share a home.
    """
    if not is_safe_name(fleet):
        raise ValueError("a fleet's id is no name of a file")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    host = host_name({"hostname": environment.hostname()})
    return Path(state) / "kickbench" / "fleet" / host / fleet


def measure(
    order: Order, say: Callable[[str], None], stopped: Callable[[], bool]
) -> tuple[int, str]:
    """Measure here, or follow the measurement that goes on already.

    ``say`` gets each line of the run's progress. When ``stopped`` returns true, the run is
    interrupted as by Ctrl-C. Returns the exit code, and the last line: what went wrong, or the run.
    """
    folder = folder_of(order.fleet)
    folder.mkdir(parents=True, exist_ok=True)
    process = None
    if not _is_held(folder):
        for name in (_OUTCOME, _SAID):
            (folder / name).unlink(missing_ok=True)
        replace_file(folder / _ORDER, json.dumps(asdict(order)).encode())
        process = _start(folder)
    said = _Lines(folder / _SAID)
    told = False
    while _is_held(folder):
        for line in said:
            say(line)
        if not told and stopped():
            with suppress(OSError, ValueError):  # it has not written its id yet
                os.kill(int((folder / _LOCK).read_text()), signal.SIGINT)
                told = True
        time.sleep(POLL_SECONDS)
    if process is not None:
        process.wait()  # or it would be a zombie as long as the worker lives
    for line in said:
        say(line)
    code: int
    last: str
    try:
        code, last = json.loads((folder / _OUTCOME).read_text())
    except (OSError, ValueError):
        return EXIT_MEASUREMENT, said.last or "it was killed, and said nothing"
    if code != EXIT_INTERRUPTED and not (folder / "results").exists():
        shutil.rmtree(folder, ignore_errors=True)
    return code, last


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that measures, and return when it holds its lock."""
    with (folder / _SAID).open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kickbench.fleet.host", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    while process.poll() is None and not _is_held(folder):
        time.sleep(POLL_SECONDS)
    return process


def _is_held(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class _Lines:
    """The whole lines that a file has since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if line.strip():
                    self.last = one_line(line)[:_LONGEST_LINE]
                    yield self.last


# --- the process that measures ------------------------------------------------------------------


def _work(folder: Path) -> tuple[int, str]:
    """Measure and store what a folder's order says: the exit code, and the last word."""
    order = Order(**json.loads((folder / _ORDER).read_text()))
    files = Files(order.store)
    # Hours of measuring are lost if the runs then go where nobody looks for them.
    if not files.list(order_name(order.fleet), ""):
        raise HostError(
            f"the store {place(files.url)} here is not that of the fleet; name one that all hosts "
            "share"
        )
    ended: list[tuple[int, str]] = []
    for number, name in enumerate(order.scenarios, 1):
        if len(order.scenarios) > 1:
            print(f"scenario {number} of {len(order.scenarios)}: {name}", flush=True)
        ended.append(_scenario(folder, order, name, files))
        if ended[-1][0] == EXIT_INTERRUPTED:
            return ended[-1]
    failed = [each for each in ended if each[0] != EXIT_OK]
    if failed:
        return failed[0]
    shutil.rmtree(folder / "results", ignore_errors=True)
    return EXIT_OK, ", ".join(run for _, run in ended)


def _scenario(folder: Path, order: Order, name: str, files: Files) -> tuple[int, str]:
    """Measure or finish one scenario, and store its run: the exit code, and the run or a reason."""
    runs = folder / "results" / name
    begun = _newest(runs)
    if begun is None or not RunData.load(begun).reader.manifest["complete"]:
        code = _run(folder, order, name, begun)
    else:  # the store could not be written when it was finished
        code = EXIT_OK
    run = _newest(runs)
    if run is None:
        return code or EXIT_MEASUREMENT, _last_line(folder)
    data = RunData.load(run)
    if not data.reader.manifest["complete"]:
        return code, _last_line(folder)
    add_run(files, data, fleet=order.fleet)
    shutil.rmtree(runs)
    return code, data.reader.run_id if code == EXIT_OK else _last_line(folder)


def _run(folder: Path, order: Order, name: str, begun: Path | None) -> int:
    """``kickbench run``, or its continuation, and its exit code."""
    words = ["run", "--resume", str(begun)]
    if begun is None:
        scenario = folder / f"{name}.toml"
        replace_file(scenario, order.scenarios[name].encode())
        runs = str(folder / "results" / name)
        words = ["run", str(scenario), "--results", runs, *order.options]
    # Ctrl-C is for the run, also when it comes before that can hear it: see heed().
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "kickbench", *words, "--wait"], stdout=subprocess.DEVNULL
    )
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        process.send_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    code = process.wait()
    interrupts.heed(signal.SIGINT)
    if interrupted and code == EXIT_OK:  # it has just ended by itself
        raise KeyboardInterrupt
    return code


def _newest(results: Path) -> Path | None:
    """The run that was begun in these results, finished or not."""
    manifests = sorted(results.glob("*/*/manifest.json"))
    return manifests[-1].parent if manifests else None


def _last_line(folder: Path) -> str:
    """The last error that the run told, or else its last line."""
    lines: list[str] = [*_Lines(folder / _SAID)]
    errors = [line.removeprefix("kickbench: ") for line in lines if line.startswith("kickbench: ")]
    last: str = (errors or lines or ["it said nothing"])[-1]
    return last


def _taken(lock: IO[str]) -> bool:
    """Take the lock, unless another process works. Who only looks has it for a moment, too."""
    for _ in range(20):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def main(folder: Path) -> None:
    """Work in a folder, unless somebody does already, and leave the outcome there."""
    with (folder / _LOCK).open("a+") as lock:
        if not _taken(lock):
            return
        try:
            interrupts.heed(signal.SIGINT)  # whoever started the worker may have it ignored
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            outcome = _work(folder)
        except KeyboardInterrupt:
            outcome = EXIT_INTERRUPTED, "interrupted"
        except KickbenchError as error:
            outcome = error.exit_code, one_line(str(error))
        replace_file(folder / _OUTCOME, json.dumps(outcome).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
