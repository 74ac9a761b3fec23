# SPDX-License-Identifier: Apache-2.0
"""Does some work in a process of its own while this one does something else.

A thread would not do: only a process's main thread can heed signals, as
:func:`kickbench.lab.emulator.execute` does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TypeVar

from kickbench.errors import EXIT_INTERRUPTED, KickbenchError, MeasurementError
from kickbench.lab.processes import INTERRUPTS, die_with, held_interrupts

_GRACE_SECONDS = 5.0
"""A machine has this long to end by itself."""
Result = TypeVar("Result")


@contextlib.contextmanager
def beside(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Begin some work. Yields a function that waits for its end, and returns its result.

    That function raises the work's error, if it is one of kickbench's own. The process gets its own
    Ctrl-C from the terminal. It is gone when the context is left, or when we are killed.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with held_interrupts() as release:
        process = context.Process(target=_run, args=(work, theirs, os.getpid(), release))
        process.start()
        theirs.close()

        def result() -> Result:
            try:
                error, found = ours.recv()
            except EOFError:
                process.join()
                if process.exitcode == EXIT_INTERRUPTED:
                    raise KeyboardInterrupt from None
                raise MeasurementError("a process that worked beside this one was killed") from None
            if error is not None:
                raise error
            return found  # type: ignore[no-any-return]

        try:
            release()
            yield result
        finally:
            process.terminate()
            process.join(_GRACE_SECONDS)
            process.terminate()  # Of two signals, the second one ends a machine at once.
            process.join()


def _run(
    work: Callable[[], object], end: Connection, parent: int, release: Callable[[], None]
) -> None:
    die_with(parent)
    try:
        release()
        try:
            end.send((None, work()))
        except KickbenchError as error:
            end.send((error, None))
        _heed_nothing()
    except KeyboardInterrupt:
        _heed_nothing()
        raise SystemExit(EXIT_INTERRUPTED) from None


def _heed_nothing() -> None:
    """An interrupt while this process ends would be a traceback."""
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
