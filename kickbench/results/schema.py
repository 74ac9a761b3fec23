# SPDX-License-Identifier: Apache-2.0
"""The JSON documents of a results folder: what a reader insists on, and their safe parsing.

A folder may come from a stranger, so sizes are bounded, names cannot leave the folder, and every
fault becomes one line. The models check; the documents stay plain dicts, and keys that are not
listed here pass through untouched. Nothing here opens a file.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NoReturn, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kickbench.errors import ResultsError

SCHEMA = 1
MAX_JSON_BYTES = 64 * 1024 * 1024

Status = Literal["pending", "ok", "skipped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, fit for a message or a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_safe_name(name: str) -> bool:
    """Whether the name can be a file name on any system: no separators, no leading dot."""
    return _SAFE_NAME.fullmatch(name) is not None


def safe_name(text: str, *, default: str, length: int = 60) -> str:
    """A file-name-safe version of the text; ``default`` when nothing of it is left."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[: 4 * length].strip("-._+")[:length]
    return name.rstrip("-._+") or default


def method_label(method: str) -> str:
    """The name of a method in results: the catalogue's id, or the stem of a protocol file."""
    return PurePosixPath(method).stem if method.endswith(".c") else method


def with_labels(case: dict[str, Any]) -> dict[str, Any]:
    """The case with the labels of its methods in place of paths."""
    return {
        **case,
        "methods": [method_label(name) for name in case["methods"]],
        "baseline": method_label(case["baseline"]),
    }


def _name(value: str) -> str:
    if not is_safe_name(value):
        raise ValueError("not a safe file name")
    return value


def _line(value: str) -> str:
    if len(value) > 1000 or not value.isprintable():
        raise ValueError("not a printable line of at most 1000 characters")
    return value


def _time(value: str) -> str:
    datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    return value


SafeName = Annotated[str, AfterValidator(_name)]
Line = Annotated[str, AfterValidator(_line)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Placement(_Model):
    name: Line


class _Case(_Model):
    """The fields of a case that the readers use; see kickbench.scenario.cases for all of them."""

    id: SafeName
    kind: Line
    program: Line | None = None
    irqchip: Line | None = None
    vcpus: Annotated[int, Field(ge=1, le=2**15)]
    exit_rate_hz: Annotated[float, Field(gt=0)] | None
    arrival: Line | None = None
    placement: _Placement
    methods: Annotated[list[Line], Field(min_length=1, max_length=100)]
    baseline: Line
    precision: Annotated[float, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 0
    transport: Line = "tgkill"
    state: Line | None = None
    kickers: Annotated[int, Field(ge=1, le=2**15)] = 1
    kick_rate_hz: Annotated[float, Field(gt=0)] | None = None
    window_ns: Annotated[float, Field(ge=0)] | None = None
    kicks: Annotated[int, Field(ge=1, le=2**53)] | None = None


class _ManifestCase(_Model):
    id: SafeName
    status: Status
    reason: str | None
    case: _Case


class _Manifest(_Model):
    run_id: SafeName
    scenario: dict[str, Any]
    scenario_name: Line
    created_utc: Annotated[str, AfterValidator(_time)]
    command: list[str]
    environment: dict[str, Any]
    emulated: bool
    emulated_by: Line | None
    complete: bool
    cases: Annotated[list[_ManifestCase], Field(max_length=100_000)]


class _Clock(_Model):
    kind: Literal["tsc", "monotonic_raw"]
    hz: Annotated[float, Field(ge=1, le=1e12)]
    stamp_cycles: Annotated[float, Field(ge=0)] | None = None


class _Process(_Model):
    index: Annotated[int, Field(ge=0, lt=2**15)]
    clock: _Clock
    warnings: list[str]
    rounds: Count
    oversubscribed: bool
    lost_timeout_ns: Annotated[float, Field(ge=0)] | None = None


class _CaseDocument(_Model):
    case: _Case
    status: Literal["ok"]
    reason: str | None
    seconds: Annotated[float, Field(ge=0)]
    stopped_by: Literal["precision", "max_seconds"] | None
    processes: Annotated[list[_Process], Field(min_length=1)]
    claims: Annotated[dict[Line, bool | None], Field(max_length=1000)] = {}


def fail(where: object, what: str) -> NoReturn:
    """Raise the one-line ResultsError about a file or folder."""
    raise ResultsError(one_line(f"{where}: {what[:300]}"))


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Parse a JSON object; NaN, infinities, invalid Unicode and bottomless nesting are refused."""
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_reject_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates fail here
    except (ValueError, RecursionError) as error:
        fail(where, f"is damaged, not valid JSON ({error})")
    if not isinstance(value, dict):
        fail(where, "is damaged, not a JSON object")
    return value


def dump_json(value: object) -> bytes:
    """JSON as it is stored: UTF-8, indented, numpy scalars as numbers, never NaN (ValueError)."""

    def plain(item: Any) -> Any:
        if hasattr(item, "item") and getattr(item, "ndim", None) == 0:
            return item.item()
        raise TypeError(f"{type(item).__name__} is not JSON")

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, default=plain)
    return (text + "\n").encode("utf-8", "replace")


def _check(model: type[_Model], data: dict[str, Any], where: object) -> None:
    try:
        model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        fail(where, f"is damaged: {key}: {first['msg']}")


def check_manifest(data: dict[str, Any], where: object) -> None:
    """Check a manifest. Raises ResultsError, in one line, when it cannot be used."""
    version = data.get("schema")
    if type(version) is not int or version < 1:
        fail(where, "is not a kickbench manifest (no schema version)")
    if version > SCHEMA:
        fail(where, f"was written by a newer kickbench (schema {version}); upgrade")
    _check(_Manifest, data, where)
    seen = set()
    for entry in data["cases"]:
        if entry["id"] in seen:
            fail(where, f"is damaged: case {entry['id']} is there twice")
        seen.add(entry["id"])
        if entry["case"]["id"] != entry["id"]:
            fail(where, f"is damaged: case {entry['id']} describes another case")


def check_case(data: dict[str, Any], case_id: str, where: object) -> None:
    """Check a case.json. Raises ResultsError, in one line, when it cannot be used."""
    _check(_CaseDocument, data, where)
    case = data["case"]
    if case["id"] != case_id:
        fail(where, f"is damaged: it describes another case ({case['id']})")
    if case["baseline"] not in case["methods"]:
        fail(where, "is damaged: the baseline is not one of the methods")
    if len({method_label(name) for name in case["methods"]}) != len(case["methods"]):
        fail(where, "is damaged: a method is there twice")
    indices = [process["index"] for process in data["processes"]]
    if len(set(indices)) != len(indices):
        fail(where, "is damaged: a process is there twice")
