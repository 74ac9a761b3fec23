# SPDX-License-Identifier: Apache-2.0
"""Prints the output of subcommands: paragraphs, coloured and wrapped on a terminal.

The texts come from the callers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from kickbench.text import printable

Line = tuple[str, str, str]
"""One paragraph: its text, its style (of rich), and the indentation of its further lines."""

GOOD, BAD, DIM = "green", "bold red", "dim"


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines: coloured and wrapped on a terminal, elsewhere one paragraph a line."""
    if not sys.stdout.isatty():
        for text, _, _ in lines:
            typer.echo(printable(text))
        return
    import textwrap

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for text, style, indent in lines:
        wrapped = textwrap.fill(
            printable(text),
            width=max(console.width, 40),
            subsequent_indent=indent,
            replace_whitespace=False,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
        console.print(Text(wrapped, style=style), soft_wrap=True)
