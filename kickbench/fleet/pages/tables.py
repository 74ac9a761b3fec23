# SPDX-License-Identifier: Apache-2.0
"""The cells of sortable tables, as :mod:`kickbench.report.pages.html` has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from kickbench.report.pages.html import Head

_LONGEST_LINE = 40

Cell = tuple[str, str | None, str]


def heads(names: Sequence[tuple[str, bool]]) -> list[Head]:
    """The heads of columns: a name, and whether the column has numbers."""
    return [("", [(index, name, "", number) for index, (name, number) in enumerate(names)])]


def name(text: str, look: str = "") -> Cell:
    """A cell of text."""
    return text, None, f"name {look}".rstrip()


def long(text: str) -> Cell:
    """A cell of several words, which is never narrow."""
    return name(text, "long")


def whole(text: str) -> Cell:
    """A cell of one line, such as a day. Text that is too long for a line has several."""
    shown = text.striptags() if isinstance(text, Markup) else text
    return name(text, "whole" if len(shown) <= _LONGEST_LINE else "")


def number(text: str, value: float, look: str = "") -> Cell:
    """A cell of a number, which is sorted by ``value``."""
    key = repr(float(value)) if np.isfinite(value) else None
    return text, key, f"number {look}".rstrip()


def rows(cells: Iterable[list[Cell]]) -> list[tuple[bool, list[Cell]]]:
    """Rows that each begin a block."""
    return [(True, row) for row in cells]
