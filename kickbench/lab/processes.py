# SPDX-License-Identifier: Apache-2.0
"""Starts processes that end with us, and loses no Ctrl-C that comes in that moment."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kickbench.errors import HostError

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that may raise KeyboardInterrupt."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Have interrupts wait, here and in a process that is forked meanwhile.

    Python runs code of its own around a fork. A KeyboardInterrupt there is lost, with a traceback
    on stderr, or leaves a new process that nobody knows of. Yields a function that ends this
    earlier: an interrupt that has waited is raised in it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


@contextlib.contextmanager
def child(
    command: Sequence[str], *, terminal: bool = False, grace: float = 0, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process. It ends with its children when the context is left, or when we are killed.

    With ``terminal`` it takes over our terminal, so it stays in our process group, because only the
    foreground's group may use a terminal. Without, it has a group of its own, and we pass Ctrl-C
    on. ``grace`` is how many seconds it has to tidy up after SIGTERM. Raises HostError if the
    program cannot be started.
    """
    with held_interrupts() as release:
        try:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                process_group=-1 if terminal else 0,
                preexec_fn=functools.partial(become, os.getpid(), signal.SIGKILL, release),
                **options,
            )
        except OSError as error:
            raise HostError(f"{command[0]} does not run: {error.strerror}") from error
        try:
            release()
            yield process
        finally:
            try:
                if grace:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace)
            finally:
                if not terminal:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()


def become(parent: int, number: int, release: Callable[[], None]) -> None:
    """In a new process, just before it becomes its program: see :func:`die_with`.

    ``release`` is that of :func:`held_interrupts`. An interrupt that has waited ends the process.
    """
    die_with(parent, number)
    for each in INTERRUPTS:
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)  # as the program will have it
    release()


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send us a signal when the parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
