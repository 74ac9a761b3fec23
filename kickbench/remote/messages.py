# SPDX-License-Identifier: Apache-2.0
"""What another machine may send: each message is checked before anything is made of it.

A machine is a stranger: its numbers and texts are data that anybody may have written.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_LINE_BYTES = 64 << 20
MAX_ARRAYS_BYTES = 16 << 30

_Index = Annotated[int, Field(ge=0, lt=2**15)]
_Text = Annotated[str, Field(max_length=100_000)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _OfCase(_Message):
    case: _Text


class _OfProcess(_OfCase):
    process: _Index
    spent_seconds: _Seconds


class _Begin(_OfCase):
    event: Literal["begin"]


class _Ready(_OfProcess):
    event: Literal["ready"]


class _Rounds(_OfProcess):
    event: Literal["rounds"]
    ns: list[list[dict[str, _Number]]]
    counts: list[dict[str, int]]


class _Process(_OfProcess):
    event: Literal["process"]
    report: dict[str, Any]  # the schema of case.json checks it


class _End(_OfCase):
    event: Literal["end"]
    seconds: _Seconds


class _Failed(_OfCase):
    event: Literal["failed"]
    reason: _Text
    storage: bool


class _Say(_Message):
    event: Literal["say"]
    text: _Text


class _Turn(_Message):
    event: Literal["turn"]
    other: _Text | None


class _Files(_Message):
    event: Literal["files"]
    files: Annotated[
        list[
            tuple[
                Annotated[str, Field(pattern=r"^[a-z_]{1,50}\.npy$")],
                Annotated[int, Field(ge=0, le=MAX_ARRAYS_BYTES)],
            ]
        ],
        Field(max_length=20),
    ]


class _Gone(_Message):
    event: Literal["gone"]
    last: _Text


class _Error(_Message):
    event: Literal["error"]
    reason: _Text


class _Attached(_Message):
    event: Literal["attached"]
    found: bool


class _Answer(_Message):
    """What has no content, or content that its receiver checks."""

    model_config = ConfigDict(strict=True, extra="allow")
    event: Literal["alive", "facts", "survey", "brought", "finished", "forgotten"]


_Any = Annotated[
    _Begin
    | _Ready
    | _Rounds
    | _Process
    | _End
    | _Failed
    | _Say
    | _Turn
    | _Files
    | _Gone
    | _Error
    | _Attached
    | _Answer,
    Field(discriminator="event"),
]
_MESSAGE: TypeAdapter[Any] = TypeAdapter(_Any)


def parse(line: bytes) -> dict[str, Any]:
    """The message in a line. Raises ValueError if it is none."""
    try:
        found: dict[str, Any] = _MESSAGE.validate_json(line).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{key}: {first['msg']}") from None
    return found
