# SPDX-License-Identifier: Apache-2.0
"""The expansion of a scenario into cases, and the plain JSON form in which a case travels.

A case is one point of the sweep and one kind of measurement. This module imports the standard
library only, because the worker process reads cases too; the model of the file is
:mod:`kickbench.scenario.model`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any, Self

from kickbench.errors import ScenarioError

if TYPE_CHECKING:
    from kickbench.scenario.model import Scenario

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
    stop, ``max_seconds`` the measuring time at which to stop regardless, ``block_ms`` None when
    the runner chooses. ``sample_budget`` counts the raw samples kept. ``seed`` is the scenario's:
    whoever needs independent streams per case or process mixes the id and the index in.
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

    def to_dict(self) -> dict[str, Any]:
        """The case as JSON-able data."""
        return {**asdict(self), "methods": list(self.methods)}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of :meth:`to_dict`; ScenarioError when ``data`` is not a case.

        Checks types and that ``id`` is safe as a file name, because the data may come from a
        stranger's results folder.
        """
        values = _checked("case", data, {field.name: field.type for field in fields(cls)})
        if not _SAFE_ID.fullmatch(values["id"]):
            raise ScenarioError("case.id: expected a safe file name; the file is damaged")
        values["placement"] = PlacementSpec(
            **_checked(
                "case.placement",
                values["placement"],
                {field.name: field.type for field in fields(PlacementSpec)},
            )
        )
        values["methods"] = tuple(values["methods"])
        return cls(**values)

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


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


# What JSON may hold for each type that the dataclasses above use.
_CHECKS: dict[str, Any] = {
    "str": lambda value: type(value) is str,
    "int": lambda value: type(value) is int,
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[str, ...]": lambda value: (
        type(value) is list and all(type(item) is str for item in value)
    ),
    "PlacementSpec": lambda value: type(value) is dict,
}


def _checked(where: str, data: object, types: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != types.keys():
        raise ScenarioError(f"{where}: expected the keys {', '.join(types)}; the file is damaged")
    for key, type_name in types.items():
        if not _CHECKS[type_name](data[key]):
            raise ScenarioError(f"{where}.{key}: expected {type_name}; the file is damaged")
    return dict(data)


def _rate_name(rate_hz: float | None) -> str:
    if rate_hz is None:
        return "max"
    return f"{int(rate_hz) if rate_hz.is_integer() else rate_hz!r}hz"


def expand(scenario: Scenario) -> list[Case]:
    """All cases, in the order in which they are run.

    Nested from the slowest to the fastest axis: kind, program, placement, exit rate, vCPUs.
    """
    measure = scenario.measure
    cases = []
    for kind, program, placement, rate, vcpus in product(
        measure.kinds,
        scenario.guest.program,
        scenario.placement,
        scenario.guest.exit_rate_hz,
        scenario.vm.vcpus,
    ):
        rate_hz = None if rate == "max" else float(rate)
        cases.append(
            Case(
                id=f"{kind}-{program}-{vcpus}vcpu-{_rate_name(rate_hz)}-{placement.name}",
                kind=kind,
                program=program,
                irqchip=scenario.vm.irqchip,
                vcpus=vcpus,
                exit_rate_hz=rate_hz,
                arrival=scenario.guest.arrival,
                placement=PlacementSpec(
                    placement.name, placement.creator, placement.vcpus, placement.kicker
                ),
                methods=measure.methods,
                baseline=measure.baseline,
                processes=measure.processes,
                precision=measure.precision,
                max_seconds=measure.max_seconds,
                block_ms=measure.block_ms,
                sample_budget=measure.sample_budget,
                seed=measure.seed,
            )
        )
    return cases
