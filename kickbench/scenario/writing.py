# SPDX-License-Identifier: Apache-2.0
"""Writes a scenario file, with comments for people.

:mod:`kickbench.scenario.files` reads it. What a scenario should say is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tomlkit
from tomlkit.items import Array, Integer, Table, Trivia

from kickbench.scenario.model import Scenario
from kickbench.text import printable

_PER_LINE = 10
"""Values in a line of a list that has more."""


def scenario_text(
    scenario: Mapping[str, Any], comments: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of a scenario file, which reads back as the same scenario.

    ``scenario`` is what such a file parses to, or what :meth:`Scenario.to_dict` returns. Only the
    keys that it has are written, so that those with a default can stay out. Protocol files are
    absolute paths.

    ``comments`` are lines for people, by what they are about: a key such as "guest.gaps_us", above
    which they stand, a table such as "vm" or "guest.mix[0]", whose first lines they are, or "", the
    begin of the file. They may have text of others in them: it is made printable.

    Raises ScenarioError if the scenario has a fault, ValueError if there is nothing that a comment
    is about.
    """
    Scenario.from_dict(scenario)
    left = dict(comments)
    document = tomlkit.document()
    fields = list(Scenario.model_fields)
    ordered = dict(sorted(scenario.items(), key=lambda item: fields.index(item[0])))
    _fill(document, ordered, "", left)
    if left:
        raise ValueError(f"no key for the comments {', '.join(left)}")
    return tomlkit.dumps(document)


def _fill(
    table: tomlkit.TOMLDocument | Table,
    values: Mapping[str, Any],
    path: str,
    comments: dict[str, str],
) -> None:
    """Write what a table has: its comment, its keys, then its own tables. Takes the comments."""
    _comment(table, comments.pop(path, ""))
    inner = f"{path}." if path else ""
    given = {key: value for key, value in values.items() if value is not None and value != []}
    tables = {key: value for key, value in given.items() if _is_table(value)}
    for key, value in given.items():
        if key not in tables:
            _comment(table, comments.pop(f"{inner}{key}", ""))
            table.add(key, _value(key, value))
    for key, value in tables.items():
        if isinstance(value, Mapping):
            _fill(one := tomlkit.table(), value, f"{inner}{key}", comments)
            table.add(key, one)
            continue
        several = tomlkit.aot()
        for index, each in enumerate(value):
            _fill(one := tomlkit.table(), each, f"{inner}{key}[{index}]", comments)
            several.append(one)
        table.add(key, several)


def _is_table(value: Any) -> bool:
    return isinstance(value[0] if isinstance(value, (list, tuple)) else value, Mapping)


def _comment(table: tomlkit.TOMLDocument | Table, text: str) -> None:
    for line in text.splitlines():
        table.add(tomlkit.comment(printable(line)))


def _value(key: str, value: Any) -> Any:
    if key == "address":
        return Integer(value, Trivia(), hex(value))
    if isinstance(value, (list, tuple)) and len(value) > _PER_LINE:
        return _lines(value)
    return list(value) if isinstance(value, tuple) else value


def _lines(values: list[Any] | tuple[Any, ...]) -> Array:
    array = tomlkit.array()
    for begin in range(0, len(values), _PER_LINE):
        array.add_line(*values[begin : begin + _PER_LINE])
    array.add_line(indent="")
    return array
