# SPDX-License-Identifier: Apache-2.0
"""Cache lines that threads share, as tables of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kickbench.results.explanation import VCPU, Uses


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and rows of texts."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def text(self) -> Iterator[str]:
        """The table in columns of fixed width."""
        yield f"{self.title}:"
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        for row in (self.heads, *self.rows):
            fitted = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(["", *fitted]).rstrip()


def matrix(method: str, state: str | None, lines: Sequence[tuple[str, Uses]]) -> Table:
    """Lines against threads: how often each thread writes and reads in its turn.

    ``state`` is that of the vCPU that is kicked, None for an exit. Each line has what lies in it,
    and its uses.
    """
    what = "an exit" if state is None else f"a kick of a {state} vCPU"
    names = _in_order({name for _, uses in lines for name in uses})
    rows = [(line, *(_use(uses.get(name)) for name in names)) for line, uses in lines]
    return Table(f"{method}: writes + reads of {what}", ("line", *names), rows)


def _in_order(names: Iterable[str]) -> list[str]:
    """vCPUs before those who kick them, each by its number."""
    return sorted(names, key=lambda name: (not name.startswith(VCPU), len(name), name))


def _use(use: tuple[float, float] | None) -> str:
    return f"{use[1]:g} + {use[0]:g}" if use else ""
