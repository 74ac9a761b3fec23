# SPDX-License-Identifier: Apache-2.0
"""The machine that the runner itself is on (:mod:`kickbench.run.machine`)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kickbench.host import turn
from kickbench.run.emulated import Mark
from kickbench.run.machine import WORK, Facts, Survey

if TYPE_CHECKING:
    from kickbench.run.foreman import Foreman, Job  # it is slow to import, and not always needed
    from kickbench.watch.process import Vmm
    from kickbench.watch.turns import News


class ThisHost:
    """The machine that this process runs on."""

    host = None

    def __init__(self) -> None:
        self.mark = Mark.of_this_process()
        self._foreman: Foreman
        self._folder = Path()

    def look(self) -> Facts:
        return Facts.of_this_host()

    def survey(self) -> Survey:
        return Survey.of_this_host()

    def turn(
        self,
        note: str,
        run_id: str | None,  # noqa: ARG002 (this host keeps no runs)
        *,
        wait: bool,
        say: Callable[[str], None],
    ) -> AbstractContextManager[str | None]:
        return turn.taken(note, wait=wait, say=say)

    def bring(self, library: Path) -> str:
        return str(library)

    def work(
        self,
        run_id: str,  # noqa: ARG002
        jobs: Sequence[Job],
        folder: Path,
    ) -> Generator[dict[str, Any], None, None]:
        from kickbench.run.foreman import Foreman

        self._folder = Path(tempfile.mkdtemp(prefix=WORK, dir=folder))
        try:
            self._foreman = Foreman(jobs, self._folder)
            yield from self._foreman.work()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def arrays(self, case_id: str, process: int) -> Iterator[Path]:
        from kickbench.run.foreman import arrays_of

        folder = arrays_of(self._folder, case_id, process)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self, case_id: str, process: int) -> None:
        self._foreman.stop(case_id, process)

    def skip(self, case_id: str) -> None:
        self._foreman.skip(case_id)

    def vms(self, pid: int | None, name: str | None) -> list[Vmm]:
        from kickbench.watch import process

        process.check_namespace()
        if pid is not None:
            return [process.find(pid)]
        return list(process.running()) if name is None else [process.find_by_name(name)]

    def watch(
        self, vmm: Vmm, seconds: float, keep_on: Callable[[], bool]
    ) -> Generator[News, None, None]:
        from kickbench.watch import turns

        return turns.watch(vmm, seconds, keep_on)

    def keep(self) -> None:
        pass
