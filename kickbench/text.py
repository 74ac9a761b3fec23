# SPDX-License-Identifier: Apache-2.0
"""Puts values of an untrusted file into text that is safe and short enough for a terminal.

It does not check the values. :mod:`kickbench.scenario.model` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def printable(text: str) -> str:
    """``text`` with every control, bidirectional and undecodable character escaped."""
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in text)


def shorten(text: str, longest: int = _LONGEST) -> str:
    """The first ``longest`` characters of ``text``, with "..." if there are more."""
    return text if len(text) <= longest else text[:longest] + "..."


def quoted(text: str) -> str:
    """``text`` in double quotes, escaped and shortened."""
    escaped = shorten(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def found(value: object) -> str:
    """What was found, as the author of a TOML file would call it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() of an int refuses more than 4300 digits, and nobody wants to read them.
        return str(value) if value.bit_length() <= 128 else "a number of more than 38 digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a table"
    if value is None:
        return "nothing"
    return shorten(printable(str(value)))


def key_path(parts: Iterable[str | int]) -> str:
    """A path such as ``vm.vcpus[2]``; a part that TOML would have to quote is quoted."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else quoted(part)
            path += f".{shorten(name)}" if path else shorten(name)
    return path


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """``; did you mean "X"?`` when one of ``names`` is close to ``word``, else nothing."""
    if not isinstance(word, str):
        return ""
    close = difflib.get_close_matches(word[:_LONGEST], list(names), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
