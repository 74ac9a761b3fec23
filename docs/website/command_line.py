# SPDX-License-Identifier: Apache-2.0
"""The reference of the command line, from the typer application: what ``--help`` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from kickbench.cli import app

_INTRODUCTION = """\
# Command line

This page has what `kickbench --help` and `kickbench COMMAND --help` say. It is made from the
program.
"""


def page() -> str:
    """The page, in Markdown."""
    # Click's class, wherever this version of typer keeps it: no type can be named.
    command: Any = typer.main.get_command(app)
    context = command.make_context("kickbench", ["methods"], resilient_parsing=True)
    return "\n".join([_INTRODUCTION, *_command(context), *_subcommands(context)])


def _subcommands(context: Any) -> Iterator[str]:
    for name, command in getattr(context.command, "commands", {}).items():
        below = type(context)(command, info_name=name, parent=context)
        yield f"## {below.command_path}\n"
        yield from _command(below)
        yield from _subcommands(below)


def _command(context: Any) -> Iterator[str]:
    command = context.command
    yield f"```text\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```\n"
    yield f"{command.help}\n"
    for kind, about in (("argument", "what it is"), ("option", "what it does")):
        records = [
            parameter.get_help_record(context)
            for parameter in command.params
            if parameter.param_type_name == kind and not parameter.hidden
        ]
        if records:
            yield _table(f"| {kind} | {about} |", records)


def _table(head: str, records: list[tuple[str, str]]) -> str:
    # Without the type, which typer puts behind the name of an argument.
    names = (re.sub(r"(?<=\S) <[^<>]*>$", "", name) for name, _ in records)
    texts = (text for _, text in records)
    rows = [f"| `{_cell(a)}` | {_cell(b)} |" for a, b in zip(names, texts, strict=True)]
    return "\n".join([head, "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
