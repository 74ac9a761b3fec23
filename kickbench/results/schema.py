# SPDX-License-Identifier: Apache-2.0
"""The JSON documents of a results folder: what a reader requires, and their safe parsing.

A folder may come from anybody. So sizes are bounded, names cannot leave the folder, and every fault
becomes one line. The models only check: the documents stay plain dicts, and keys that are not
listed here pass through unchanged. Nothing here opens a file.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from kickbench.errors import ResultsError
from kickbench.methods import method_label

SCHEMA = 2
"""The version of the figures' meaning. In runs of schema 1 a kick's latency, and a pause, end when
KVM_RUN returned. Since 2 they end when the protocol knows of the kick, and the table ``races``
counts the kicks that could have been lost."""
MAX_JSON_BYTES = 64 * 1024 * 1024

Status = Literal["pending", "ok", "skipped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)

MAX_DEPTH = 100
"""Levels of a JSON document, so that a recursive walk has an end. kickbench writes about ten."""
_PLACE_BEGIN, _PLACE_END = 150, 300
"""Characters of a path that a message shows. The middle of a longer path is left out."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, fit for a message or a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def place(path: object) -> str:
    """A path for a message: in one line, and without the middle of a very long one."""
    text = one_line(str(path))
    if len(text) <= _PLACE_BEGIN + _PLACE_END:
        return text
    return f"{text[:_PLACE_BEGIN]}...{text[-_PLACE_END:]}"


def is_safe_name(name: str) -> bool:
    """Whether the name can be a file name on any system: no separators, no leading dot."""
    return _SAFE_NAME.fullmatch(name) is not None


def safe_name(text: str, *, default: str, length: int = 60) -> str:
    """A file-name-safe version of the text; ``default`` when nothing of it is left."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[: 4 * length].strip("-._+")[:length]
    return name.rstrip("-._+") or default


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
    # strptime also takes single digits, and those of other scripts: no text sorts by them.
    if not _TIME.fullmatch(value):
        raise ValueError("not a time like 2026-03-01T12:00:00Z")
    datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    return value


SafeName = Annotated[str, AfterValidator(_name)]
Line = Annotated[str, AfterValidator(_line)]
Time = Annotated[str, AfterValidator(_time)]
Count = Annotated[int, Field(ge=0, le=2**53)]


_M = TypeVar("_M", bound=BaseModel)


class Model(BaseModel):
    """A part of a document: its types are checked, and keys that it does not list pass through."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Placement(Model):
    name: Line


_Gap = Annotated[float, Field(gt=0, le=1e18)]


class _Case(Model):
    """The fields of a case that the readers use; see kickbench.scenario.cases for all of them."""

    id: SafeName
    kind: Line
    program: Line | None = None
    irqchip: Line | None = None
    vcpus: Annotated[int, Field(ge=1, le=2**15)]
    exit_rate_hz: Annotated[float, Field(gt=0)] | None
    arrival: Line | None = None
    gaps_us: Annotated[list[_Gap], Field(max_length=1024)] = []
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
    iterations: Annotated[int, Field(ge=1, le=2**53)] | None = None
    foreign_signals_hz: Annotated[float, Field(gt=0)] | None = None
    siglock_threads: Annotated[int, Field(ge=0, le=2**15)] = 0
    siglock_hz: Annotated[float, Field(gt=0)] | None = None
    pause_gap_us: Annotated[float, Field(ge=0)] | None = None
    order: Line = "parallel"
    after: Annotated[list[Line], Field(max_length=100)] = []


class _ManifestCase(Model):
    id: SafeName
    status: Status
    reason: str | None
    case: _Case


class _Manifest(Model):
    run_id: SafeName
    scenario: dict[str, Any]
    scenario_name: Line
    created_utc: Time
    command: list[str]
    environment: dict[str, Any]
    emulated: bool
    emulated_by: Line | None
    # Runs before they were there lack them.
    counts_instructions: bool = False
    count_step: Annotated[int, Field(ge=0, le=2**53)] | None = None
    complete: bool
    cases: Annotated[list[_ManifestCase], Field(max_length=100_000)]


class Clock(Model):
    kind: Literal["tsc", "cntvct", "monotonic_raw"]
    hz: Annotated[float, Field(ge=1, le=1e12)]
    stamp_cycles: Annotated[float, Field(ge=0)] | None = None


class Entries(Model):
    """A vCPU's entries of some iterations, and how many of them left at once by KVM's request."""

    iterations: Annotated[int, Field(ge=1, le=2**53)]
    all: Annotated[int, Field(ge=0, le=2**53)]
    at_once: Annotated[int, Field(ge=0, le=2**53)]


class _NestedBy(Model):
    vendor: Literal["vmx", "svm"]
    nested_paging: bool
    kicks: Annotated[int, Field(ge=0, le=2**53)] = 0
    entries: Entries | None = None  # older runs lack it


_Seconds = Annotated[float, Field(ge=0, le=1e12)]


class _Load(Model):
    seconds: Annotated[float, Field(gt=0, le=1e9)]
    cpus: Annotated[int, Field(ge=1, le=2**16)]
    own_cpu_seconds: _Seconds
    others_cpu_seconds: _Seconds | None
    stolen_cpu_seconds: _Seconds | None
    waited_seconds: _Seconds | None
    stalled_some_seconds: _Seconds | None
    stalled_full_seconds: _Seconds | None


CpuList = Annotated[str, Field(max_length=50_000, pattern=r"^[0-9,-]*$")]
Nodes = Annotated[list[Annotated[int, Field(ge=0, lt=2**15)]], Field(max_length=2**15)]


class _PlacedThread(Model):
    ran_on: CpuList
    nodes: Nodes


class _PlacedCreator(_PlacedThread):
    cpus: CpuList | None


class _PlacedKicker(_PlacedThread):
    cpus: CpuList


class _PlacedVcpu(_PlacedKicker):
    memory: Nodes | None
    kvm_run: Nodes | None
    flag: Nodes | None
    tls: Nodes | None
    samples: Nodes | None


class _Placed(Model):
    as_asked: bool | None = None
    creator: _PlacedCreator
    vcpus: Annotated[list[_PlacedVcpu], Field(max_length=2**15)] = []
    kickers: Annotated[list[_PlacedKicker], Field(max_length=2**15)] = []


class Accesses(Model):
    """How many accesses of a guest a method had, and how many of them were not done once."""

    accesses: Count
    twice: Count
    never: Count


_Bins = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,4}$")], Count], Field(max_length=10_000)
]


class _Latencies(Model):
    """The kicks of a race in each bin of latency, by the signals that their calls sent."""

    one: _Bins
    more: _Bins


class _Process(Model):
    index: Annotated[int, Field(ge=0, lt=2**15)]
    clock: Clock
    warnings: list[str]
    rounds: Count
    oversubscribed: bool
    lost_timeout_ns: Annotated[float, Field(ge=0)] | None = None
    nested: _NestedBy | None = None
    load: _Load | None = None  # runs before it was measured lack it
    placement: _Placed | None = None  # runs before it was there lack it
    # Runs before they were counted lack them, and so do guests that do not count.
    accesses: Annotated[dict[Line, Accesses], Field(max_length=100)] = {}
    latencies: Annotated[dict[Line, _Latencies], Field(max_length=100)] = {}


class Sender(Model):
    name: Line
    thread: Count
    process: Count
    signal: Annotated[int, Field(ge=0, le=64)]
    code: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    system_call: Annotated[int, Field(ge=-1, lt=2**31)]
    to_process: bool
    sent: Count
    pending: Count
    failed: Count


class _KickCounts(Model):
    by_state: Annotated[list[Count], Field(min_length=4, max_length=4)]
    left: Count
    handled: Count
    more: Count
    longest_ns: Count


class _ObservedVcpu(Model):
    id: Count
    thread: Count
    name: Line
    exits: Count
    looked_at: Count
    eintr: Count
    eintr_immediate: Count
    eintr_unasked: Count
    foreign_signals: Count
    kicks_before: Count = 0  # runs before it was counted lack it
    changed_thread: Count
    ran_ns: Count | None
    waited_ns: Count | None
    halt_wait_ns: Count
    halt_poll_ns: Count
    halt_polls: Count
    halt_polls_good: Count
    kicks: _KickCounts | None = None  # runs before it was counted lack it


class ObservedProtocol(Model):
    id: Line
    evidence: Annotated[list[Line], Field(max_length=100)]


class _SiglockCost(Model):
    """What sigmask costs per exit on the host, in ns, and the run that measured it."""

    value: Annotated[float, Field(ge=-1e12, le=1e12)]
    ci95: Annotated[
        list[Annotated[float, Field(ge=-1e12, le=1e12)]], Field(min_length=2, max_length=2)
    ]
    run: SafeName


class Siglock(Model):
    cost: _SiglockCost | None
    waits: Count
    wait_ns: Count
    vcpu_waits: Count
    threads: Count


class _Observed(Model):
    pid: Count
    vmm: Line
    guest: Line
    elapsed_ns: Annotated[int, Field(gt=0, le=2**53)]
    detail_ns: Count
    ended: Line | None
    protocol: ObservedProtocol
    siglock: Siglock
    senders: Annotated[list[Sender], Field(max_length=2**14)]
    vcpus: Annotated[list[_ObservedVcpu], Field(min_length=1, max_length=2**15)]
    memory_nodes: Annotated[dict[Line, Count], Field(max_length=2**15)]
    lost: Annotated[dict[Line, Count], Field(max_length=100)]


class _CaseDocument(Model):
    case: _Case
    status: Literal["ok"]
    reason: str | None
    seconds: Annotated[float, Field(ge=0)]
    stopped_by: Literal["precision", "max_seconds"] | None
    processes: Annotated[list[_Process], Field(min_length=1)]
    claims: Annotated[dict[Line, bool | None], Field(max_length=1000)] = {}
    observed: _Observed | None = None  # of the kind observed only


# --- checking ----------------------------------------------------------------------------------


def dig(value: object, *path: str) -> object:
    """The value at a path of keys, or None. The document is not checked, and may be anything."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def fail(where: object, what: str) -> NoReturn:
    """Raise the one-line ResultsError about a file or folder."""
    raise ResultsError(one_line(f"{place(where)}: {what[:300]}"))


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _check_depth(value: object) -> None:
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        inside = (node.values() if isinstance(node, dict) else node for node in level)
        level = [item for node in inside for item in node if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Parse a JSON object; NaN, infinities, invalid Unicode and deep nesting are refused."""
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_reject_constant, parse_float=_finite
        )
        _check_depth(value)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates fail here
    except RecursionError:
        fail(where, "is damaged, not valid JSON (nested too deeply)")
    except ValueError as error:
        fail(where, f"is damaged, not valid JSON ({error})")
    if not isinstance(value, dict):
        fail(where, "is damaged, not a JSON object")
    return value


def dump_json(value: object, *, ensure_ascii: bool = False) -> bytes:
    """JSON as it is stored: UTF-8, indented, numpy scalars as numbers, never NaN (ValueError).

    With ``ensure_ascii`` it is fit for a terminal, whatever text is in it.
    """

    def plain(item: Any) -> Any:
        if hasattr(item, "item") and getattr(item, "ndim", None) == 0:
            return item.item()
        raise TypeError(f"{type(item).__name__} is not JSON")

    text = json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, indent=2, default=plain)
    return (text + "\n").encode("utf-8", "replace")


def check_model(model: type[_M], data: object, where: object, what: str = "") -> _M:
    """The data as the model has it. Raises ResultsError, in one line that names the key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        fail(where, f"is damaged: {what}{key}: {first['msg']}")


def check_version(data: Mapping[str, Any], where: object, what: str, newest: int = SCHEMA) -> None:
    """Raise ResultsError, in one line, unless this kickbench can read the document's schema."""
    version = data.get("schema")
    if type(version) is not int or version < 1:
        fail(where, f"is not a kickbench {what} (no schema version)")
    if version > newest:
        fail(where, f"was written by a newer kickbench (schema {version}); upgrade kickbench")


def check_manifest(data: dict[str, Any], where: object) -> None:
    """Check a manifest. Raises ResultsError, in one line, when it cannot be used."""
    check_version(data, where, "manifest")
    check_model(_Manifest, data, where)
    seen = set()
    for entry in data["cases"]:
        if entry["id"] in seen:
            fail(where, f"is damaged: case {entry['id']} is there twice")
        seen.add(entry["id"])
        if entry["case"]["id"] != entry["id"]:
            fail(where, f"is damaged: case {entry['id']} describes another case")


def check_case(data: dict[str, Any], case_id: str, where: object) -> None:
    """Check a case.json. Raises ResultsError, in one line, when it cannot be used."""
    check_model(_CaseDocument, data, where)
    case = data["case"]
    if (case["kind"] == "observed") != (data.get("observed") is not None):
        fail(where, "is damaged: observed: only a case of this kind has it, and must")
    if case["kind"] == "observed" and len(data["observed"]["vcpus"]) != case["vcpus"]:
        fail(where, "is damaged: observed.vcpus: not as many as the case has")
    if case["id"] != case_id:
        fail(where, f"is damaged: it describes another case ({case['id']})")
    check_methods(case["methods"], case["baseline"], where)
    indices = [process["index"] for process in data["processes"]]
    if len(set(indices)) != len(indices):
        fail(where, "is damaged: a process is there twice")


def check_methods(methods: Iterable[str], baseline: str, where: object) -> None:
    labels = [method_label(name) for name in methods]
    if method_label(baseline) not in labels:
        fail(where, "is damaged: the baseline is not one of the methods")
    if len(set(labels)) != len(labels):
        fail(where, "is damaged: a method is there twice")
