# SPDX-License-Identifier: Apache-2.0
"""A resolved scenario as a TOML file again, ready for ``kickbench run``.

It writes any data that JSON can have. TOML has no null, so keys with null are left out, which means
their default. It does not check the scenario.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def dump(data: Mapping[str, Any]) -> str:
    """The data as TOML: the plain keys first, then tables and arrays of tables, in their order."""
    lines: list[str] = []
    _table(lines, (), data)
    return "\n".join(lines).strip() + "\n"


def _table(lines: list[str], path: tuple[str, ...], data: Mapping[str, Any]) -> None:
    nested = []
    for key, value in data.items():
        if isinstance(value, Mapping) or _is_tables(value):
            nested.append((key, value))
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in nested:
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _table(lines, (*path, key), value)
        else:
            for item in value:
                lines += ["", f"[[{name}]]"]
                _table(lines, (*path, key), item)


def _is_tables(value: object) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are valid in TOML. Invisible characters are escaped too, so that the text on a
    # page is exactly the text that a parser reads.
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(ch if ch.isprintable() else _escape(ord(ch)) for ch in escaped)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        inside = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    return json.dumps(value)
