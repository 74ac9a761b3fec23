# SPDX-License-Identifier: Apache-2.0
"""Objects and processes that must end: with their ``with`` block, or with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> bool:
    """Have the kernel end this process when its parent ends, however that ends (prctl(2)).

    False if the parent is not ``parent`` any more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


class Closing(ABC):
    """A context manager that closes itself, whatever happened."""

    @abstractmethod
    def close(self) -> None:
        """Release what the object holds. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
