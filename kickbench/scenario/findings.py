# SPDX-License-Identifier: Apache-2.0
"""Error messages for TOML files: what a field expects, and what was found instead.

The type of a field states its limits, and beside them the words for what it expects.
:func:`explain` makes one line of what pydantic found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from kickbench.text import did_you_mean, found, key_path, printable, shorten

T = TypeVar("T")


def expected(what: str, hint: str = "") -> PydanticCustomError:
    """A finding that reads "expected ``what``, found ..."."""
    return PydanticCustomError("expected", "{what}", {"what": what, "hint": hint})


def problem(what: str) -> PydanticCustomError:
    """A finding that is a complete sentence by itself."""
    return PydanticCustomError("problem", "{what}", {"what": what})


def expecting(what: str) -> WrapValidator:
    """Report every fault that the wrapped type finds as "expected ``what``"."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise expected(what) from None

    return WrapValidator(validate)


@dataclass(frozen=True)
class OneOf:
    """A string that is one of ``names``. The schema lists them, and an error suggests one."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
            try:
                return handler(value)
            except ValidationError:
                hint = did_you_mean(value, self.names)
                what = f"one of {', '.join(self.names)}" if len(self.names) > 1 else self.names[0]
                raise expected(what, hint) from None

        literal = core_schema.literal_schema(list(self.names))
        return core_schema.no_info_wrap_validator_function(validate, literal)


class _Axis:
    """A list without duplicates, or one value that stands for a list of one."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def listed(value: Any) -> tuple[Any, ...]:
            if not isinstance(value, (list, tuple)):
                return (value,)
            if not value:
                raise expected("a value or a list of values")
            return tuple(value)

        def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
            seen = set()
            for value in values:
                if value in seen:
                    raise problem(f"{found(value)} is listed twice; list each value once")
                seen.add(value)
            return values

        return core_schema.no_info_after_validator_function(
            distinct, core_schema.no_info_before_validator_function(listed, handler(source))
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        array = handler(schema)
        return {"anyOf": [array["items"], {**array, "minItems": 1, "uniqueItems": True}]}


Axis = Annotated[tuple[T, ...], _Axis()]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(
    error: ValidationError,
    data: object,
    source: str,
    top: type[BaseModel],
    tables: Mapping[str, type[BaseModel]],
) -> str:
    """The first finding as one line, and a second line with the places of the others.

    ``top`` is the model that ``data`` should match. ``tables`` are its tables by their keys, such
    as "guest" and "guest.mix".
    """
    findings: dict[str, str] = {}
    for details in error.errors(include_url=False):
        if details["type"] != "default_factory_not_called":  # follows from another finding
            findings.setdefault(_path(details["loc"], data), _say(details, top, tables))
    (path, text), *others = findings.items()
    message = f"{source}: {path}: {text}" if path else f"{source}: {text}"
    if others:
        paths = ", ".join(other for other, _ in others[:3])
        message += f"\n{len(others)} more in this file: {paths}{' ...' if len(others) > 3 else ''}"
    return message


def _path(loc: tuple[int | str, ...], data: Any) -> str:
    """The key as the author wrote it: no index where a single value stands for a list."""
    parts: list[int | str] = []
    for part in loc:
        if isinstance(part, int) and not isinstance(data, (list, tuple)):
            continue
        parts.append(part)
        try:
            data = data[part]
        except (TypeError, LookupError):
            data = None
    return key_path(parts)


def _say(details: ErrorDetails, top: type[BaseModel], tables: Mapping[str, type[BaseModel]]) -> str:
    loc, value = details["loc"], details["input"]
    outer = ".".join(part for part in loc[:-1] if isinstance(part, str))
    table = tables.get(outer, top)
    match details["type"]:
        case "expected":
            context = details["ctx"]
            return f"expected {context['what']}, found {found(value)}{context['hint']}"
        case "problem":
            return str(details["ctx"]["what"])
        case "extra_forbidden":
            return f"unknown key{_meant_key(str(loc[-1]), value, table, tables)}"
        case "missing":
            field = table.model_fields[str(loc[-1])]
            meaning = (field.description or "").split(". ")[0].rstrip(".")
            return f"missing, and required: {meaning}"
        case "model_type":
            return f"expected a table, found {found(value)}"
        case _:
            return f"{shorten(printable(details['msg']), 200)}, found {found(value)}"


def _meant_key(
    key: str, value: object, table: type[BaseModel], tables: Mapping[str, type[BaseModel]]
) -> str:
    elsewhere = [f"{name}.{key}" for name, other in tables.items() if key in other.model_fields]
    if elsewhere and not isinstance(value, dict):  # no key inside a table is a table itself
        return f'; did you mean "{elsewhere[0]}"?'
    known = table.model_fields
    return did_you_mean(key, known) or f"; the keys here are {', '.join(known)}"
