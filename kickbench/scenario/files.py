# SPDX-License-Identifier: Apache-2.0
"""Reads a scenario file, or another TOML file, whatever is in it.

:mod:`kickbench.scenario.model` defines the keys. An error is one line that names the file, and the
line if the file is not TOML.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from kickbench.errors import ScenarioError, UsageError
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import check_size
from kickbench.text import printable, shorten

MAX_BYTES = 1 << 20
_MAX_PARTS = 64
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w.\"'-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MAX_PARTS}}}")
"""A dotted key of too many parts: the time that tomllib takes grows with the square of these."""


def load(path: str | os.PathLike[str]) -> Scenario:
    """Read and validate a scenario file of at most 1 MiB; raises ScenarioError."""
    data, source = read_toml(path, "a scenario file", ScenarioError)
    scenario = Scenario.from_dict(data, source, Path(path).absolute().parent)
    check_size(scenario, source)
    return scenario


def read_toml(
    path: str | os.PathLike[str], what: str, error: type[UsageError]
) -> tuple[dict[str, Any], str]:
    """The data of a TOML file of at most 1 MiB, and its name as errors show it.

    ``what`` says in errors which file is expected, e.g. "a scenario file". ``error`` is the class
    of the errors.
    """
    source = printable(os.fspath(path))
    try:
        return _parse(_read(path, source, what), source), source
    except _FileError as found:
        raise error(str(found)) from found.__cause__


class _FileError(Exception):
    """What is wrong with a file. :func:`read_toml` turns it into an error of the wanted class."""


def _read(path: str | os.PathLike[str], source: str, what: str) -> bytes:
    try:
        # Looked at before it is opened: a FIFO would block, and opening a device can have effects.
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise _FileError(f"{source}: expected {what} (TOML), this is {kind}")
        size = status.st_size
        data = b""
        if size <= MAX_BYTES:
            # The size of a file in /proc is 0, so the limit holds for the reading as well.
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _FileError(f"{source}: cannot be read: {reason}") from error
    if max(size, len(data)) > MAX_BYTES:
        raise _FileError(
            f"{source}: expected {what} of at most 1 MiB, this has {max(size, len(data)):,} bytes"
        )
    return data


def _parse(data: bytes, source: str) -> dict[str, Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _FileError(
            f"{source}:{line}: expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        ) from None
    if long_key := _LONG_KEY.search(text):
        line = text.count("\n", 0, long_key.start()) + 1
        raise _FileError(f"{source}:{line}: expected keys of at most {_MAX_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _FileError(_syntax_error(str(error), text, source)) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        what = "a number is too long" if isinstance(error, ValueError) else "nested too deeply"
        raise _FileError(f"{source}: TOML syntax error: {what}") from None


def _syntax_error(message: str, text: str, source: str) -> str:
    """tomllib's "REASON (at line L, column C)" as "FILE:L:C: TOML syntax error: REASON"."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.S)
    if match is None:
        return f"{source}: TOML syntax error: {shorten(printable(message), 200)}"
    reason, line, column = match.groups()
    if line is None:  # at the end of the document
        lines = text.split("\n")
        line, column = str(len(lines)), str(len(lines[-1]) + 1)
    return f"{source}:{line}:{column}: TOML syntax error: {shorten(printable(reason), 200)}"
