# SPDX-License-Identifier: Apache-2.0
"""A machine that an agent measures on, as the runner sees machines
(:mod:`kickbench.run.machine`)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kickbench.closing import Closing
from kickbench.errors import ConnectionBrokenError, HostError, MachineFailedError, StorageError
from kickbench.remote.link import Link, Streams
from kickbench.remote.messages import MAX_ARRAYS_BYTES
from kickbench.run.emulated import Mark
from kickbench.run.foreman import Job
from kickbench.run.machine import WORK, Facts, Survey
from kickbench.text import printable
from kickbench.watch.process import Vmm
from kickbench.watch.snapshot import Progress, Snapshot
from kickbench.watch.turns import STEP_SECONDS, News

_T = TypeVar("_T")


def _progress(message: dict[str, Any]) -> News:
    return Progress(**message)


class Box(Closing):
    """The machine at the other end of two streams. A context manager.

    Its first method raises HostError if it cannot be reached, or cannot run the agent. ``mark``
    is that of an emulated machine, which no ``--host`` names.
    """

    def __init__(self, streams: Streams, mark: Mark | None = None) -> None:
        self.host = None if mark else streams.name
        self.mark = mark or Mark.of_this_process()
        self._name = streams.name
        self._link = Link(streams)
        self._found = self._keeps = False
        self._begin: Callable[[], str | None]
        self._say: Callable[[str], None]
        self._why = ""
        self._folder = Path()
        self._libraries: list[Path] = []

    def look(self) -> Facts:
        """As :meth:`Machine.look`."""
        self._link.send("facts")
        return self._checked(Facts.from_dict, self._link.answer("facts"))

    def survey(self) -> Survey:
        """As :meth:`Machine.survey`."""
        self._link.send("survey")
        return self._checked(Survey.from_dict, self._link.answer("survey"))

    @contextlib.contextmanager
    def turn(
        self, note: str, run_id: str | None, *, wait: bool, say: Callable[[str], None]
    ) -> Iterator[str | None]:
        """As :meth:`Machine.turn`. A run that is there already has its turn."""
        self._begin = partial(self._begin_run, note, wait, say)
        self._say = say
        if run_id is not None:
            self._link.send("attach", run=run_id)
            self._found = self._link.answer("attached")["found"]
        yield None if self._found else self._begin()

    def _begin_run(self, note: str, wait: bool, say: Callable[[str], None]) -> str | None:
        self._link.send("begin", note=note, wait=wait)
        while True:
            message = self._link.answer("say", "turn", "gone")
            if message["event"] == "say":
                say(f"{self._name}: {printable(message['text'])}")
            elif message["event"] == "turn":
                other = message["other"]
                return None if other is None else printable(other)
            else:
                last = printable(message["last"])
                raise MachineFailedError(f"{self._name}: the run did not begin there: {last}")

    def bring(self, library: Path) -> str:
        """As :meth:`Machine.bring`."""
        self._libraries.append(library)  # it is sent with the jobs
        return library.name

    def work(
        self, run_id: str, jobs: Sequence[Job], folder: Path
    ) -> Generator[dict[str, Any], None, None]:
        """As :meth:`Machine.work`."""
        self._folder = folder
        left = {job.case.id: job.to_dict() for job in jobs}
        try:
            if self._found:
                yield from self._told(left)
                if left:  # it ended there before they were done
                    self._begin()
            if left:
                if self._libraries:
                    self._say(f"the code of your protocols is sent to {self._name} and run there")
                for library in self._libraries:
                    self._link.send_file(library)
                self._link.send("jobs", run=run_id, jobs=list(left.values()))
                yield from self._told(left)
            if left:
                raise MachineFailedError(f"{self._name}: the run was ended there{self._why}")
        except ConnectionBrokenError:
            raise
        except BaseException:  # the caller is interrupted, or has closed this generator
            if not self._keeps:
                self._forget()
            raise
        self._forget()

    def _told(self, left: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the run says until its supervisor has ended. Takes what is done out of ``left``."""
        for message in self._link.events():
            if message["event"] == "gone":
                self._why = f": {printable(message['last'])}" if message["last"] else ""
                return
            if message.get("storage"):
                left.clear()  # no further case begins
            if message["event"] in ("end", "failed"):
                left.pop(message["case"], None)
            if "case" in message:
                yield message
            if message["event"] == "end":
                # Not earlier: who resumes a run needs the arrays of all processes of a case.
                self._link.send("drop", case=message["case"])

    def _forget(self) -> None:
        with contextlib.suppress(ConnectionBrokenError):
            self._link.send("forget")
            self._link.pass_over("forgotten")

    @contextlib.contextmanager
    def arrays(self, case_id: str, process: int) -> Iterator[Path]:
        """As :meth:`Machine.arrays`. They are fetched."""
        self._link.send("fetch", case=case_id, process=process)
        files = self._link.answer("files")["files"]
        if sum(size for _, size in files) > MAX_ARRAYS_BYTES:
            raise MachineFailedError(f"{self._name} sends more than {MAX_ARRAYS_BYTES >> 30} GiB")
        with tempfile.TemporaryDirectory(
            prefix=WORK, dir=self._folder, ignore_cleanup_errors=True
        ) as folder:
            for name, size in files:
                path = Path(folder, name)
                try:
                    self._link.receive_file(path, size)
                except OSError as error:
                    raise StorageError(f"{path}: {error.strerror}") from error
            yield Path(folder)

    def stop(self, case_id: str, process: int) -> None:
        """As :meth:`Machine.stop`."""
        self._link.send("tell", "stop", case_id, process)

    def skip(self, case_id: str) -> None:
        """As :meth:`Machine.skip`."""
        self._link.send("tell", "skip", case_id)

    def vms(self, pid: int | None, name: str | None) -> list[Vmm]:
        """As :meth:`Machine.vms`."""
        self._link.send("vms", pid=pid, name=name)
        found = [Vmm.from_dict(one) for one in self._link.answer("vms")["vms"]]
        if len(found) != 1 and (pid is not None or name is not None):
            raise HostError(f"{self._name}: the agent there sent what is no message")
        return found

    def watch(
        self, vmm: Vmm, seconds: float, keep_on: Callable[[], bool]
    ) -> Generator[News, None, None]:
        """As :meth:`Machine.watch`. Raises ConnectionBrokenError when the connection breaks."""
        self._link.send("watch", vmm=vmm.to_dict(), seconds=seconds)
        goes_on = True
        while True:
            if goes_on and not keep_on():
                goes_on = False
                self._link.send("enough")
            if not self._link.ready(STEP_SECONDS):
                continue
            message = self._link.answer("progress", "snapshot", "watched")
            event = message["event"]
            if event == "watched":
                return
            yield self._checked(_progress if event == "progress" else Snapshot.from_dict, message)

    def keep(self) -> None:
        """As :meth:`Machine.keep`. The run goes on there."""
        self._keeps = True

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def _checked(self, make: Callable[[dict[str, Any]], _T], message: dict[str, Any]) -> _T:
        del message["event"]
        try:
            return make(message)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise HostError(f"{self._name}: the agent there sent what is no message") from None
