# SPDX-License-Identifier: Apache-2.0
"""Objects that must be closed. The end of their ``with`` block closes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing(ABC):
    """A context manager that closes itself, whatever happened."""

    @abstractmethod
    def close(self) -> None:
        """Release what the object holds. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
