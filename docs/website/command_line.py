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
    return "\n".join([_INTRODUCTION, *(line for below in contexts() for line in _command(below))])


def contexts() -> Iterator[Any]:
    """Click's context of each command, the main one first: what knows its name, help and usage."""
    # Click's class, wherever this version of typer keeps it: no type can be named.
    command: Any = typer.main.get_command(app)
    return _with_those_below(command.make_context("kickbench", ["methods"], resilient_parsing=True))


def _with_those_below(context: Any) -> Iterator[Any]:
    yield context
    for name, command in getattr(context.command, "commands", {}).items():
        yield from _with_those_below(type(context)(command, info_name=name, parent=context))


def records(context: Any, kind: str) -> list[tuple[str, str]]:
    """The names and the help of a command's parameters of a kind, "argument" or "option"."""
    found = [
        parameter.get_help_record(context)
        for parameter in context.command.params
        if parameter.param_type_name == kind and not parameter.hidden
    ]
    # Without the type, which typer puts behind the name of an argument.
    return [
        (re.sub(r"(?<=\S) <[^<>]*>$", "", name), " ".join(text.split())) for name, text in found
    ]


def _command(context: Any) -> Iterator[str]:
    command = context.command
    if context.parent:
        yield f"## {context.command_path}\n"
    yield f"```text\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```\n"
    yield f"{command.help}\n"
    for kind, about in (("argument", "what it is"), ("option", "what it does")):
        if found := records(context, kind):
            yield _table(f"| {kind} | {about} |", found)


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    cells = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows]
    return "\n".join([head, "|---|---|", *cells, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
