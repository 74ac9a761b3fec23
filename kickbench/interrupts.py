# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, and what is treated as one: each raises KeyboardInterrupt, and none is lost.

Python raises KeyboardInterrupt wherever the main thread is. While a module loads, that is too
early. A library in C may turn it into an ImportError or drop it, and Python may end by a signal in
place of the documented exit code (``exit_sigint`` in CPython's Modules/main.c).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_AGAIN_SECONDS = 0.05
_IMPORT_SYSTEM = "<frozen importlib"


def heed(*numbers: signal.Signals) -> None:
    """Have these signals raise KeyboardInterrupt, for example when a service manager ends us.

    Only the main thread may call this. Whoever starts us can block the signals until then, and
    send them at any time: while Python begins, it would end with another exit code.
    """
    for number in numbers:
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def is_heeded(number: signal.Signals) -> bool:
    """Whether this signal raises KeyboardInterrupt."""
    return signal.getsignal(number) in (_interrupt, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or come again in a moment if a module is being loaded."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORT_SYSTEM):
            again = threading.Timer(
                _AGAIN_SECONDS, signal.pthread_kill, (threading.main_thread().ident, number)
            )
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
