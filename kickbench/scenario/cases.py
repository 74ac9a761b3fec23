# SPDX-License-Identifier: Apache-2.0
"""A case, and the plain JSON form in which it travels to the worker process and into results.

A case is one point of the sweep and one kind of measurement. This module imports the standard
library only, because the worker reads cases too. :mod:`kickbench.scenario.sweep` makes them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

from kickbench.cpu_list import parse_cpu_list
from kickbench.errors import ScenarioError
from kickbench.guest.mix import EXITS, MAX_EXITS, MAX_SHARE, SIZES, MixedExit, why_not_an_exit
from kickbench.guest.programs import PROGRAMS
from kickbench.methods import is_protocol_file, method_label
from kickbench.scenario.kinds import (
    AFTER,
    ARRIVALS,
    DEFAULT_ORDER,
    DEFAULT_TRANSPORT,
    KINDS,
    MAX_GAP_US,
    MAX_GAPS,
    MAX_KICKERS,
    MAX_SIGLOCK_THREADS,
    MAX_VCPU_RATE,
    MIN_GAP_US,
    MIN_GAPS,
    MIN_VCPU_RATE,
    MOMENTS,
    NOISE,
    NOISY_KINDS,
    ORDERS,
    OWN_PROGRAMS,
    PRECISION_OF,
    STATES,
    TRANSPORTS,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class PlacementSpec:
    """Where threads run, as the file says it: ``any``, ``node:N`` or ``cpu:LIST``."""

    name: str
    creator: str
    vcpus: str
    kicker: str


@dataclass(frozen=True)
class Case:
    """One point of the sweep and one kind of measurement.

    ``id`` is unique in its scenario, stable and safe as a file name. ``exit_rate_hz`` is per vCPU,
    None for full speed. ``precision`` is the relative half-width of the 95 % interval at which to
    stop; of exits it is that of the figures that ``precision_of``, a key of
    ``kinds.PRECISION_OF``, names. ``max_seconds`` is the measuring time at which to stop
    regardless, ``block_ms`` None when the runner chooses. ``sample_budget`` counts the raw samples
    kept. ``seed`` is the scenario's: whoever needs independent streams per case or process mixes
    the id and the index in.

    A method is an id of the catalogue or the absolute path of a C file: see :func:`method_label`.
    ``transport`` is how a signal is sent (a key of ``kinds.TRANSPORTS``). ``state`` (a key of
    ``kinds.STATES``) and ``kickers``, the number of kicking threads, are of kind "kick". Of kind
    "exits", ``kick_rate_hz`` is per vCPU, None for no kicks. Of kind "race", ``window_ns`` is the
    time spun between the check of the flag and KVM_RUN, 0 for the natural window, and ``kicks``
    the aimed kicks wanted of each method over the case, which ``max_seconds`` may cut short.

    ``mix`` are the exits of the program mix, of no other. A paced guest whose ``arrival`` is
    "recorded" has gaps distributed as ``gaps_us``: ascending, each for an equal part of all, in
    microseconds before they are scaled to ``exit_rate_hz``. ``vcpu_rates`` are the vCPUs' exit
    rates against each other: ``exit_rate_hz`` is the mean of all. Empty: they are equal.

    Of kind "pause_all", ``pause_gap_us`` is the mean time between two pauses, 0 for none, and
    ``order`` (a key of ``kinds.ORDERS``) how a pause goes through the vCPUs.
    ``after`` (keys of ``kinds.AFTER``) is what each vCPU's thread does once it is paused.

    Cases of ``kinds.NOISY_KINDS`` may have noise: ``foreign_signals_hz`` signals per second to each
    vCPU's thread that are no kicks, None for none, and ``siglock_threads`` that take the process's
    siglock ``siglock_hz`` times a second each.

    Of kind "nested" ``kick_rate_hz`` are the kicks of L1's vCPU, the program is
    ``kinds.HYPERVISOR``, the methods are ``kinds.ITERATIONS``, and ``iterations`` is how many of
    them a block has.

    Of kind "handover" the program is ``kinds.NO_GUEST``, and the methods are ``kinds.WAYS``.
    ``vcpus`` is 2: the threads of a pair.

    Of kind "lifecycle", ``moment`` (a key of ``kinds.MOMENTS``) is when each fresh vCPU is kicked,
    and ``vms`` are the VMs wanted of each method over the case.
    """

    id: str
    kind: str
    program: str
    irqchip: str
    vcpus: int
    exit_rate_hz: float | None
    arrival: str
    placement: PlacementSpec
    methods: tuple[str, ...]
    baseline: str
    processes: int
    precision: float
    max_seconds: float
    block_ms: float | None
    sample_budget: int
    seed: int
    transport: str = DEFAULT_TRANSPORT
    state: str | None = None
    kickers: int = 1
    kick_rate_hz: float | None = None
    window_ns: float | None = None
    kicks: int | None = None
    iterations: int | None = None
    precision_of: str = "mean"  # what cases were judged by before they had the field
    mix: tuple[MixedExit, ...] = ()
    gaps_us: tuple[float, ...] = ()
    vcpu_rates: tuple[float, ...] = ()
    foreign_signals_hz: float | None = None
    siglock_threads: int = 0
    siglock_hz: float | None = None
    pause_gap_us: float | None = None  # None: 500 µs, as before cases had the field
    order: str = DEFAULT_ORDER
    moment: str | None = None
    vms: int | None = None
    after: tuple[str, ...] = ()

    @property
    def has_noise(self) -> bool:
        """Whether other threads disturb the vCPUs."""
        return self.foreign_signals_hz is not None or self.siglock_threads > 0

    def to_dict(self) -> dict[str, Any]:
        """The case as JSON-able data."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of :meth:`to_dict`; ScenarioError when ``data`` is not a case.

        Checks types and values as the model of the file does, because the data may come from a
        stranger's results folder; but a method that is not in the catalogue may be another
        version's. Fields that have a default may be missing: results of an earlier version do not
        have them.
        """
        defaults = {
            field.name: list(field.default) if field.default == () else field.default
            for field in fields(cls)
            if field.default is not MISSING
        }
        if isinstance(data, dict):
            data = {**defaults, **data}
        values = _checked("case", data, _types(cls))
        if not _SAFE_ID.fullmatch(values["id"]):
            raise ScenarioError("case.id: expected a safe file name; the file is damaged")
        values["placement"] = PlacementSpec(
            **_checked("case.placement", values["placement"], _types(PlacementSpec))
        )
        values["mix"] = [
            MixedExit(**_checked(f"case.mix[{index}]", each, _types(MixedExit)))
            for index, each in enumerate(values["mix"])
        ]
        for key in ("methods", "mix", "gaps_us", "vcpu_rates", "after"):
            values[key] = tuple(values[key])
        case = cls(**values)
        _check_values(case)
        return case

    def to_json(self) -> str:
        """The case as one JSON object (text)."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of :meth:`to_json`; ScenarioError when ``text`` is not a case."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise ScenarioError("case: expected one JSON object; the file is damaged") from None
        return cls.from_dict(data)


def _types(cls: type[Any]) -> dict[str, Any]:
    return {field.name: field.type for field in fields(cls)}


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


# What JSON may hold for each type that the dataclasses above use.
_CHECKS: dict[str, Any] = {
    "str": lambda value: type(value) is str,
    "str | None": lambda value: value is None or type(value) is str,
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[str, ...]": lambda value: (
        type(value) is list and all(type(item) is str for item in value)
    ),
    "tuple[float, ...]": lambda value: type(value) is list and all(map(_is_number, value)),
    "tuple[MixedExit, ...]": lambda value: type(value) is list,
    "PlacementSpec": lambda value: type(value) is dict,
}


def _checked(where: str, data: object, types: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != types.keys():
        raise ScenarioError(f"{where}: expected the keys {', '.join(types)}; the file is damaged")
    for key, type_name in types.items():
        if not _CHECKS[type_name](data[key]):
            raise ScenarioError(f"{where}.{key}: expected {type_name}; the file is damaged")
    return dict(data)


# --- what a case may say ------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CPU_RANGE = r"[0-9]{1,4}(-[0-9]{1,4})?"
_WHERE = re.compile(rf"any|node:[0-9]{{1,4}}|cpu:{_CPU_RANGE}(,{_CPU_RANGE})*")
_PROTOCOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONGEST_METHOD = 4096
_SEED_END = 2**63

# Per field that is a name: the names there are.
_NAMES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "program": (*PROGRAMS, *OWN_PROGRAMS.values()),
    "irqchip": ("none", "split", "kernel"),
    "arrival": tuple(ARRIVALS),
    "transport": tuple(TRANSPORTS),
    "state": tuple(STATES),
    "moment": tuple(MOMENTS),
    "precision_of": tuple(PRECISION_OF),
    "order": tuple(ORDERS),
}

# Per field that is a number: what is right, and in words. None is for the types to allow.
_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "vcpus": (lambda n: 1 <= n <= 1024, "a number from 1 to 1024"),
    "processes": (lambda n: 1 <= n <= 100, "a number from 1 to 100"),
    "precision": (lambda n: 0 < n <= 1, "a number above 0 and at most 1"),
    "max_seconds": (lambda n: 0 < n <= 86_400, "a number above 0 and at most 86400"),
    "exit_rate_hz": (lambda n: 0.001 <= n <= 1e9, "a number from 0.001 to 1e9"),
    "kick_rate_hz": (lambda n: 0.001 <= n <= 1e6, "a number from 0.001 to 1e6"),
    "block_ms": (lambda n: 0.1 <= n <= 10_000, "a number from 0.1 to 10000"),
    "sample_budget": (lambda n: 0 <= n <= 1_000_000_000, "a number from 0 to 1000000000"),
    "seed": (lambda n: 0 <= n < _SEED_END, "a number from 0 to 2^63 - 1"),
    "kickers": (lambda n: 1 <= n <= MAX_KICKERS, f"a number from 1 to {MAX_KICKERS}"),
    "window_ns": (lambda n: n == 0 or 1 <= n <= 1e9, "0 or a number from 1 to 1e9"),
    "kicks": (lambda n: 1 <= n <= 10**12, "a number from 1 to 10^12"),
    "foreign_signals_hz": (lambda n: 0.001 <= n <= 1e6, "a number from 0.001 to 1e6"),
    "siglock_threads": (
        lambda n: 0 <= n <= MAX_SIGLOCK_THREADS,
        f"a number from 0 to {MAX_SIGLOCK_THREADS}",
    ),
    "siglock_hz": (lambda n: 0.001 <= n <= 1e6, "a number from 0.001 to 1e6"),
    "pause_gap_us": (lambda n: n == 0 or 1 <= n <= 1e6, "0 or a number from 1 to 1e6"),
    "vms": (lambda n: 1 <= n <= 10**9, "a number from 1 to 10^9"),
    "iterations": (lambda n: 1 <= n <= 100_000, "a number from 1 to 100000"),
}

# Per kind: the fields that may be None, but not in its cases.
_NEEDED = {
    "kick": ("state",),
    "race": ("window_ns", "kicks"),
    "nested": ("iterations",),
    "lifecycle": ("moment", "vms"),
}


def _check_values(case: Case) -> None:
    """Whether the model would have let a scenario make the case. Raises ScenarioError."""
    for key, names in _NAMES.items():
        if getattr(case, key) not in (None, *names):
            _refuse(key, f"one of {', '.join(names)}")
    for key, (is_right, words) in _LIMITS.items():
        value = getattr(case, key)
        if value is not None and not is_right(value):
            _refuse(key, words)
    for key in _NEEDED.get(case.kind, ()):
        if getattr(case, key) is None:
            _refuse(key, f"one, for the kind is {case.kind}")
    for kind, program in OWN_PROGRAMS.items():
        if (case.program == program) != (case.kind == kind):
            _refuse("program", f"{program} of the kind {kind}, and of no other")
    _check_guest(case)
    if case.has_noise and case.kind not in NOISY_KINDS:
        _refuse(NOISE[0], f"noise of the kinds {', '.join(NOISY_KINDS)}, and of no other")
    if (case.siglock_hz is not None) != (case.siglock_threads > 0):
        _refuse("siglock_hz", "a rate if there are threads that take siglock, and only then")
    if case.after and (case.kind != "pause_all" or not set(case.after) <= set(AFTER)):
        _refuse("after", f"some of {', '.join(AFTER)}, of the kind pause_all")
    if case.kind != "pause_all" and (case.pause_gap_us, case.order) != (None, DEFAULT_ORDER):
        _refuse("pause_gap_us", "a gap and an order of the kind pause_all, and of no other")
    if not _NAME.fullmatch(case.placement.name):
        _refuse("placement.name", "a name fit for a file")
    for key in ("creator", "vcpus", "kicker"):
        if not _is_place(getattr(case.placement, key)):
            _refuse(f"placement.{key}", "any, node:N or cpu:LIST")
    labels = {method_label(method) for method in case.methods if _is_method(method)}
    if not case.methods or len(labels) < len(case.methods):
        _refuse("methods", "methods and absolute paths of C files, each with a name of its own")
    if case.baseline not in case.methods:
        _refuse("baseline", "one of the methods")


def _check_guest(case: Case) -> None:
    """The same for what the vCPUs run, if they run a mix or a recording."""
    if (case.program == "mix") != bool(case.mix) or len(case.mix) > MAX_EXITS:
        _refuse("mix", f"1 to {MAX_EXITS} exits of the program mix, and of no other")
    for index, each in enumerate(case.mix):
        if each.exit not in EXITS:
            _refuse(f"mix[{index}].exit", f"one of {', '.join(EXITS)}")
        if each.size not in SIZES:
            _refuse(f"mix[{index}].size", "1, 2 or 4")
        if words := why_not_an_exit(each.exit, each.address, each.size):
            _refuse(f"mix[{index}].address", words)
        if not 0 < each.share <= MAX_SHARE:
            _refuse(f"mix[{index}].share", "a number above 0 and at most 1e12")
    gaps = case.gaps_us
    ascending = all(one <= two for one, two in zip(gaps, gaps[1:]))
    if gaps and not (MIN_GAPS <= len(gaps) <= MAX_GAPS and ascending):
        _refuse("gaps_us", f"{MIN_GAPS} to {MAX_GAPS} ascending numbers")
    if not all(MIN_GAP_US <= gap <= MAX_GAP_US for gap in gaps):
        _refuse("gaps_us", f"numbers from {MIN_GAP_US} to 1e6")
    paced = case.exit_rate_hz is not None
    if bool(gaps) != (paced and case.arrival == "recorded"):
        _refuse("gaps_us", "gaps of a paced guest whose arrival is recorded, and of no other")
    if case.vcpu_rates and not (paced and len(case.vcpu_rates) == case.vcpus):
        _refuse("vcpu_rates", "a rate for each vCPU of a paced guest")
    if not all(MIN_VCPU_RATE <= rate <= MAX_VCPU_RATE for rate in case.vcpu_rates):
        _refuse("vcpu_rates", f"numbers from {MIN_VCPU_RATE} to {MAX_VCPU_RATE}")


def _refuse(key: str, expected: str) -> NoReturn:
    raise ScenarioError(f"case.{key}: expected {expected}; the file is damaged")


def _is_place(where: str) -> bool:
    try:
        parse_cpu_list(where.removeprefix("cpu:") if where.startswith("cpu:") else "")
    except ValueError:
        return False
    return _WHERE.fullmatch(where) is not None


def _is_method(method: str) -> bool:
    """Whether it can be a method: of a catalogue, or a file. Whether there is one is not asked."""
    if not 0 < len(method) <= _LONGEST_METHOD or not method.isprintable():
        return False
    if not is_protocol_file(method):
        return True
    return method.startswith("/") and _PROTOCOL_NAME.fullmatch(method_label(method)) is not None
