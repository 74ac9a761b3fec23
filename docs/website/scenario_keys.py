# SPDX-License-Identifier: Apache-2.0
"""The reference of the keys of a scenario file, from its model.

Descriptions and defaults are the JSON schema's. What a key expects is said in the words of the
error that a wrong value gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kickbench.scenario import model

_INTRODUCTION = """\
# Scenario keys

This page lists every key of a scenario file. It is made from the model that checks the file, so it
agrees with `kickbench scenario schema` and with the messages of `kickbench scenario validate`.
[Scenario files](../docs/scenarios.md) explains how you write one.

A key marked *axis* takes one value, or a list without duplicates. A scenario has a case for every
combination of its axes.
"""


def page() -> str:
    """The page, in Markdown."""
    schema = model.json_schema()
    parts = [_INTRODUCTION, "## Top level\n", *_keys("", model.Scenario, schema)]
    parts += _tables("", schema, schema["$defs"])
    return "\n".join(parts)


def _tables(prefix: str, outer: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    """The sections of the tables in a table, each followed by those of its own tables."""
    for key, found in outer["properties"].items():
        if (name := _table(found)) is not None:
            path = f"{prefix}{key}"
            shown = f"[[{path}]]" if found.get("type") == "array" else f"[{path}]"
            yield f"## {shown}\n\n{found['description']}\n"
            yield from _keys(f"{path}.", getattr(model, name), models[name])
            yield from _tables(f"{path}.", models[name], models)


def _table(schema: Any) -> str | None:
    """The model that a property refers to, if it is a table or an array of tables."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return str(schema["$ref"]).rpartition("/")[2]
        return _table([schema.get("anyOf"), schema.get("items")])
    if isinstance(schema, list):
        return next(filter(None, map(_table, schema)), None)
    return None


def _keys(prefix: str, table: type[BaseModel], schema: dict[str, Any]) -> Iterator[str]:
    for key, found in schema["properties"].items():
        if _table(found) is not None:
            continue
        marks = ["axis"] if _is_axis(found) else []
        marks += ["required"] if key in schema.get("required", ()) else []
        lines = [f"- Value: {expectation(table.model_fields[key])}"]
        if (default := found.get("default")) not in (None, ""):
            lines.append(f"- Default: `{_toml(default, _is_axis(found))}`")
        mark = f"*{', '.join(marks)}*\n\n" if marks else ""
        yield f"### {prefix}{key}\n\n{mark}{found['description']}\n\n" + "\n".join(lines) + "\n"


def expectation(field: FieldInfo) -> str:
    """What a field expects, as the error says to whoever gives it something else."""
    annotation: Any = field.annotation
    for part in field.metadata:
        annotation = Annotated[annotation, part]
    try:
        TypeAdapter(annotation).validate_python(object())
    except ValidationError as error:
        return error.errors()[0]["msg"]
    raise AssertionError("a field that takes anything")


def _is_axis(schema: dict[str, Any]) -> bool:
    return any("uniqueItems" in choice for choice in schema.get("anyOf", ()))


def _toml(value: Any, axis: bool) -> str:
    """As one writes it in the file: an axis of one value is that value; 0.0 is 0."""
    if axis and len(value) == 1:
        return _toml(value[0], False)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item, False) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
