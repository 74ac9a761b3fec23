# SPDX-License-Identifier: Apache-2.0
"""What another machine may send: each message is checked before anything is made of it.

A machine is a stranger: its numbers and texts are data that anybody may have written.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from kickbench.text import printable

MAX_LINE_BYTES = 64 << 20
MAX_ARRAYS_BYTES = 16 << 30

_Index = Annotated[int, Field(ge=0, lt=2**15)]
_Text = Annotated[str, Field(max_length=100_000)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Mask = Annotated[int, Field(ge=0, lt=2**64)]
_Shown = Annotated[str, Field(max_length=1000), AfterValidator(printable)]
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
    exit_code: int = 0


class _Attached(_Message):
    event: Literal["attached"]
    found: bool


class _Vmm(_Message):
    pid: _Count
    program: _Shown
    guest: _Shown
    vcpu_files: Annotated[list[tuple[_Count, _Count]], Field(max_length=2**16)]


class _Vms(_Message):
    event: Literal["vms"]
    vms: Annotated[list[_Vmm], Field(max_length=10_000)]


class _Progress(_Message):
    event: Literal["progress"]
    what: _Shown
    share: Annotated[float, Field(ge=0, le=1)]


class _Block(_Message):
    round: _Index
    state: Literal[0, 1, 2]
    exits: _Count
    elapsed_ns: _Count


class _TurnOfVcpus(_Message):
    at_ns: _Count
    elapsed_ns: Annotated[int, Field(gt=0, lt=2**63)]
    exits: list[_Count]
    cpus: list[Annotated[int, Field(ge=-1, lt=2**31)]]


class _Thread(_Message):
    comm: _Shown
    cpu: Annotated[int, Field(ge=-1, lt=2**31)]
    ran_ns: _Count
    waited_ns: _Count
    blocked: _Mask
    caught: _Mask


class _Lost(_Message):
    kicks: _Count
    vcpus: _Count
    ways: _Count
    senders: _Count
    threads: _Count
    events: _Count


class _Load(_Message):
    seconds: _Seconds
    cpus: _Count
    own_cpu_seconds: _Number
    others_cpu_seconds: _Number | None
    stolen_cpu_seconds: _Number | None
    waited_seconds: _Number | None
    stalled_some_seconds: _Number | None
    stalled_full_seconds: _Number | None


class _Snapshot(_Message):
    event: Literal["snapshot"]
    n_threads: _Count
    began_ns: _Count
    elapsed_ns: Annotated[int, Field(gt=0, lt=2**63)]
    detail_ns: _Count
    blocks: Annotated[list[_Block], Field(max_length=1000)]
    turn: _TurnOfVcpus
    first: list[tuple[_Index, _Thread]]
    last: list[tuple[_Index, _Thread]]
    lost: _Lost
    rows: dict[str, str]  # kickbench.watch.snapshot checks them
    is_last: bool
    memory_nodes: Annotated[list[tuple[_Index, _Count]], Field(max_length=2**12)]
    load: _Load | None
    ended: _Shown | None


class _Answer(_Message):
    """What has no content, or content that its receiver checks."""

    model_config = ConfigDict(strict=True, extra="allow")
    event: Literal["alive", "facts", "survey", "brought", "finished", "forgotten", "watched"]


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
    | _Vms
    | _Progress
    | _Snapshot
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
