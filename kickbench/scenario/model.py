# SPDX-License-Identifier: Apache-2.0
"""The typed model of a scenario file: what it may say, in which units, with which defaults.

``load`` reads a file that may be anything and either returns a :class:`Scenario` or raises one
:class:`~kickbench.errors.ScenarioError` that names the file, the key, what was expected and what
was found. Whether *this* host can run the scenario is not decided here.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from kickbench.errors import ScenarioError
from kickbench.guest.programs import PROGRAMS
from kickbench.host.topology import parse_cpu_list
from kickbench.methods import CATALOGUE
from kickbench.scenario.kinds import KINDS
from kickbench.scenario.text import did_you_mean, found, key_path, printable, quoted, shorten

MAX_BYTES = 1 << 20
MAX_VCPUS = 1024
MAX_CASES = 10_000
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# Line breaks and tabs are text; other control characters would reach terminals and reports.
_TEXT_PATTERN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
_CPU_RANGE = r"[0-9]{1,4}(-[0-9]{1,4})?"
_WHERE_PATTERN = rf"^(any|node:[0-9]{{1,4}}|cpu:{_CPU_RANGE}(,{_CPU_RANGE})*)$"

T = TypeVar("T")


# --- Building blocks: a type, its limits, and the words for what it expects -----------------


def _expected(what: str, hint: str = "") -> PydanticCustomError:
    """A finding that reads "expected ``what``, found ..."."""
    return PydanticCustomError("expected", "{what}", {"what": what, "hint": hint})


def _problem(what: str) -> PydanticCustomError:
    """A finding that is a complete sentence by itself."""
    return PydanticCustomError("problem", "{what}", {"what": what})


def expecting(what: str) -> WrapValidator:
    """Whatever the wrapped type finds wrong, say that ``what`` was expected."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise _expected(what) from None

    return WrapValidator(validate)


@dataclass(frozen=True)
class OneOf:
    """A string that is one of ``names``: the schema lists them, the error guesses the meant."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
            try:
                return handler(value)
            except ValidationError:
                hint = did_you_mean(value, self.names)
                what = f"one of {', '.join(self.names)}" if len(self.names) > 1 else self.names[0]
                raise _expected(what, hint) from None

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
                raise _expected("a value or a list of values")
            return tuple(value)

        def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
            seen = set()
            for value in values:
                if value in seen:
                    raise _problem(f"{found(value)} is listed twice; list each value once")
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


def _cpu_list_parses(where: str) -> str:
    if where.startswith("cpu:"):
        parse_cpu_list(where.removeprefix("cpu:"))
    return where


Name = Annotated[
    str,
    Field(strict=True, pattern=NAME_PATTERN),
    expecting("1 to 64 letters, digits, '_', '-' or '.' that begin with a letter or digit"),
]
Text = Annotated[
    str,
    Field(strict=True, max_length=2000, pattern=_TEXT_PATTERN),
    expecting("at most 2000 characters of text without control characters"),
]
Where = Annotated[
    str,
    Field(strict=True, max_length=4096, pattern=_WHERE_PATTERN),
    AfterValidator(_cpu_list_parses),
    expecting("any, node:N (as in node:0) or cpu:LIST (as in cpu:0-3,8)"),
]
VcpuCount = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_VCPUS),
    expecting(f"a whole number from 1 to {MAX_VCPUS}"),
]
RateHz = Annotated[
    Literal["max"] | Annotated[float, Field(strict=True, ge=0.001, le=1e9, allow_inf_nan=False)],
    expecting('"max" or a number of exits per second from 0.001 to 1e9'),
]
ProgramName = Annotated[str, OneOf(tuple(PROGRAMS))]
MethodName = Annotated[str, OneOf(tuple(CATALOGUE))]
KindName = Annotated[str, OneOf(tuple(KINDS))]


# --- The tables of a file -------------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Vm(_Table):
    """The virtual machine."""

    vcpus: Axis[VcpuCount] = Field(
        description="Number of vCPUs, 1 to 1024. A list is an axis of the sweep."
    )
    irqchip: Annotated[str, OneOf(("none", "split", "kernel"))] = Field(
        default="kernel",
        description="Where interrupts are emulated: none (no in-kernel controller), split (local "
        "APIC in the kernel) or kernel (all of it in the kernel).",
    )


class Guest(_Table):
    """What the vCPUs run."""

    program: Axis[ProgramName] = Field(
        description="The guest program that every vCPU runs. A list is an axis of the sweep."
    )
    exit_rate_hz: Axis[RateHz] = Field(
        default=("max",),
        description='Exits per second and vCPU: "max" (full speed) or a rate that the guest '
        "paces itself to. A list is an axis of the sweep.",
    )
    arrival: Annotated[str, OneOf(("periodic", "poisson"))] = Field(
        default="periodic",
        description="Gaps between paced exits: periodic (all equal) or poisson (exponential). "
        'Without effect at "max".',
    )

    @field_validator("exit_rate_hz")
    @classmethod
    def _program_can_be_paced(
        cls, rates: tuple[Literal["max"] | float, ...], info: ValidationInfo
    ) -> tuple[Literal["max"] | float, ...]:
        for program in info.data.get("program", ()):
            if not PROGRAMS[program].paced and any(rate != "max" for rate in rates):
                raise _expected(f'"max", because the program {program} cannot be paced')
        return rates


class Placement(_Table):
    """Where the threads of one variant run: "any", "node:N" or "cpu:LIST"."""

    name: Name = Field(
        description="Name of the placement, unique in the file, part of the case's id."
    )
    creator: Where = Field(
        default="any",
        description="Where the thread runs that creates the worker process; the process's "
        "siglock is allocated on that NUMA node.",
    )
    vcpus: Where = Field(default="any", description="Where the vCPU threads run.")
    kicker: Where = Field(default="any", description="Where the thread runs that kicks vCPUs.")


def _default_baseline(measure: Mapping[str, Any]) -> str:
    methods: tuple[str, ...] = measure["methods"]
    return "immediate_exit" if "immediate_exit" in methods else methods[0]


class Measure(_Table):
    """What is measured, against what, and for how long."""

    kinds: Axis[KindName] = Field(
        default=("exits",), description="Kinds of measurement; each makes cases of its own."
    )
    methods: Axis[MethodName] = Field(
        default=("sigmask", "immediate_exit"),
        description="Kick protocols, measured side by side in interleaved rounds.",
    )
    baseline: MethodName = Field(
        default_factory=_default_baseline,
        description="The method that the others are compared with and that the A/A control runs "
        "twice. Default: immediate_exit when it is measured, else the first method.",
    )
    processes: Annotated[
        int, Field(strict=True, ge=1, le=100), expecting("a whole number from 1 to 100")
    ] = Field(
        default=5,
        description="Worker processes per case, 1 to 100; memory layout differs between them.",
    )
    precision: Annotated[
        float,
        Field(strict=True, gt=0, le=1, allow_inf_nan=False),
        expecting("a number above 0 and at most 1 (0.001 is 0.1 %)"),
    ] = Field(
        default=0.001,
        description="Stop when the 95 % interval's half-width is below this fraction of the "
        "baseline's value; 0.001 is 0.1 %.",
    )
    max_seconds: Annotated[
        float,
        Field(strict=True, gt=0, le=86_400, allow_inf_nan=False),
        expecting("a number of seconds above 0 and at most 86400"),
    ] = Field(default=60.0, description="Stop a case after this many seconds of measuring.")
    seed: Annotated[
        int,
        Field(strict=True, ge=0, le=2**63 - 1),
        expecting("a whole number from 0 to 2^63 - 1"),
    ] = Field(default=1, description="Seed of the random order of blocks and of the arrivals.")
    block_ms: Annotated[
        Annotated[float, Field(strict=True, ge=0.1, le=10_000, allow_inf_nan=False)] | None,
        expecting("a number of milliseconds from 0.1 to 10000"),
    ] = Field(
        default=None,
        description="Length of a block in milliseconds. Default: chosen by the runner.",
    )
    sample_budget: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000_000),
        expecting("a whole number from 0 to 1000000000"),
    ] = Field(
        default=2_000_000,
        description="Raw samples kept per case; the histograms cover every exit regardless.",
    )

    @field_validator("baseline")
    @classmethod
    def _baseline_is_measured(cls, baseline: str, info: ValidationInfo) -> str:
        methods = info.data.get("methods", (baseline,))
        if baseline not in methods:
            raise _expected(f"one of measure.methods ({', '.join(methods)})")
        return baseline


def _placement_list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _expected("one or more [[placement]] tables (two brackets on each side)")
    return tuple(value)


def _distinct_names(placements: tuple[Placement, ...]) -> tuple[Placement, ...]:
    first: dict[str, int] = {}
    for index, placement in enumerate(placements):
        if placement.name in first:
            raise _problem(
                f"the name {quoted(placement.name)} is used twice, by placement"
                f"[{first[placement.name]}] and placement[{index}]; names must differ"
            )
        first[placement.name] = index
    return placements


class Scenario(_Table):
    """A scenario: one guest and its measurements, swept over vCPUs, exit rates and placements."""

    name: Name = Field(description="Name of the scenario and of its folder of results.")
    description: Text = Field(default="", description="What the scenario stands for, for people.")
    vm: Vm = Field(description="The virtual machine: table [vm] with its key vcpus.")
    guest: Guest = Field(description="What the vCPUs run: table [guest] with its key program.")
    placement: Annotated[
        tuple[Placement, ...],
        BeforeValidator(_placement_list),
        AfterValidator(_distinct_names),
    ] = Field(
        default=(Placement(name="any"),),
        json_schema_extra={"minItems": 1},
        description='Where threads run, an axis of the sweep. Default: one, "any", unpinned.',
    )
    measure: Measure = Field(
        default_factory=lambda: Measure.model_validate({}),
        description="What is measured and for how long.",
    )

    @model_validator(mode="after")
    def _sweep_is_finite_work(self) -> Self:
        if self.case_count > MAX_CASES:
            raise _problem(
                f"the sweep has {self.case_count} cases, at most {MAX_CASES} can be run; "
                "shorten one of its lists"
            )
        return self

    @property
    def case_count(self) -> int:
        """Number of cases that the sweep expands to."""
        axes: tuple[Sequence[object], ...] = (
            self.measure.kinds,
            self.guest.program,
            self.placement,
            self.guest.exit_rate_hz,
            self.vm.vcpus,
        )
        return math.prod(len(axis) for axis in axes)

    def to_dict(self) -> dict[str, Any]:
        """The resolved scenario as JSON-able data, every default filled in."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: object, source: str = "scenario") -> Self:
        """The inverse of :meth:`to_dict`; also takes what a TOML file parses to.

        ``source`` is the file that an error names. Raises ScenarioError.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ScenarioError(_explain(error, data, source)) from None


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a scenario file, for editors."""
    schema = Scenario.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "kickbench scenario",
    }


# --- Reading a file -------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Scenario:
    """Read and validate a scenario file of at most 1 MiB; raises ScenarioError."""
    source = printable(os.fspath(path))
    return Scenario.from_dict(_parse(_read(path, source), source), source)


def _read(path: str | os.PathLike[str], source: str) -> bytes:
    try:
        # Looked at before it is opened: a FIFO would block, and opening a device can have effects.
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ScenarioError(f"{source}: expected a scenario file (TOML), this is {kind}")
        size = status.st_size
        data = b""
        if size <= MAX_BYTES:
            # The size of a file in /proc is 0, so the limit holds for the reading as well.
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ScenarioError(f"{source}: cannot be read: {reason}") from error
    if max(size, len(data)) > MAX_BYTES:
        raise ScenarioError(
            f"{source}: expected a scenario file of at most 1 MiB, this has "
            f"{max(size, len(data)):,} bytes"
        )
    return data


def _parse(data: bytes, source: str) -> dict[str, Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScenarioError(
            f"{source}:{line}: expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(_syntax_error(str(error), text, source)) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        what = "a number is too long" if isinstance(error, ValueError) else "nested too deeply"
        raise ScenarioError(f"{source}: TOML syntax error: {what}") from None


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


# --- From pydantic's findings to one line ---------------------------------------------------

_TABLES: dict[str, type[BaseModel]] = {
    "vm": Vm,
    "guest": Guest,
    "placement": Placement,
    "measure": Measure,
}


def _explain(error: ValidationError, data: object, source: str) -> str:
    """The first finding as one line, and a second line that says where the others are."""
    findings: dict[str, str] = {}
    for details in error.errors(include_url=False):
        if details["type"] != "default_factory_not_called":  # follows from another finding
            findings.setdefault(_path(details["loc"], data), _say(details))
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


def _say(details: ErrorDetails) -> str:
    loc, value = details["loc"], details["input"]
    match details["type"]:
        case "expected":
            context = details["ctx"]
            return f"expected {context['what']}, found {found(value)}{context['hint']}"
        case "problem":
            return str(details["ctx"]["what"])
        case "extra_forbidden":
            return f"unknown key{_meant_key(loc)}"
        case "missing":
            field = _table(loc).model_fields[str(loc[-1])]
            meaning = (field.description or "").split(". ")[0].rstrip(".")
            return f"missing, and required: {meaning}"
        case "model_type":
            return f"expected a table, found {found(value)}"
        case _:
            return f"{shorten(printable(details['msg']), 200)}, found {found(value)}"


def _table(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the table that holds the key ``loc``."""
    return Scenario if len(loc) < 2 else _TABLES[str(loc[0])]


def _meant_key(loc: tuple[int | str, ...]) -> str:
    key = str(loc[-1])
    elsewhere = [f"{name}.{key}" for name, table in _TABLES.items() if key in table.model_fields]
    if elsewhere:
        return f'; did you mean "{elsewhere[0]}"?'
    known = _table(loc).model_fields
    return did_you_mean(key, known) or f"; the keys here are {', '.join(known)}"
