# SPDX-License-Identifier: Apache-2.0
"""Puts any text into Markdown: escaped, on lines of :data:`WIDTH` columns, in bullets and tables.

GitHub and GitLab show it as it is meant. Names can be foreign.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from kickbench.results.schema import one_line

WIDTH = 80

_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])|(?<!\S)[-+#=]+(?!\S)|(?<=(?<!\S)1)[.)](?!\S)"
)
# At the start of a line any number begins a list. Elsewhere only 1 does, if the line is wrapped.
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?!\S)")


def escaped(text: str) -> str:
    """Any text on one line, shown as it is."""
    return _NUMBERED.sub(r"\1\\\2", _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text)))


def code(text: str) -> str:
    """Any text on one line, set as code."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def paragraph(text: str) -> str:
    """Markdown in lines of :data:`WIDTH` columns."""
    return _filled(text, "")


def bullet(text: str) -> str:
    """Markdown as an item of a list."""
    return _filled(f"- {text}", "  ")


def _filled(text: str, indent: str) -> str:
    kept = text.replace(" %", "\0%")  # never a line that begins with the sign
    filled = textwrap.fill(
        kept, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return filled.replace("\0", " ")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table of cells that are Markdown. ``right`` says which columns have numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if to_right else "-" * width
        for width, to_right in zip(widths, right, strict=True)
    ]
    lines = []
    for row in (heads, rule, *rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
