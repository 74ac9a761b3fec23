# SPDX-License-Identifier: Apache-2.0
"""The host of a run, as facts for a page: the key facts first, then everything.

An environment can come from another machine, and have any content. A fact of an unexpected shape is
shown as it is, and the number of facts is bounded. :mod:`kickbench.host.doctor` judges a host, not
this module. A run keeps the doctor's findings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kickbench.numbers import NOTHING, significant
from kickbench.report.words.names import nanoseconds
from kickbench.summary.data import RunData

MOST_FACTS = 1000
"""Facts of the environment that a page shows."""
MOST_WARNINGS = 100
"""Findings of the doctor that a page shows."""
_MOST_DEPTH = 6
_DOCTOR = "doctor"

# The key facts, by the path in the environment. The page folds the rest away.
KEY_FACTS = (
    ("Host", "hostname"),
    ("Kernel", "kernel.release"),
    ("Kernel build", "kernel.version"),
    ("Kernel command line", "kernel.cmdline"),
    ("CPU", "cpu.model"),
    ("Microcode", "cpu.microcode"),
    ("CPUs online", "cpu.online"),
    ("SMT", "cpu.smt"),
    ("Governor", "frequency.governors"),
    ("Turbo", "frequency.turbo"),
    ("Hypervisor", "virtualization.hypervisor"),
    ("Nested virtualization", "virtualization.nested"),
    ("Clock source", "clocksource.current"),
    ("kickbench", "software.kickbench"),
    ("Python", "software.python"),
)


@dataclass(frozen=True)
class HostWarning:
    """A finding of the doctor that is not ok: what it is, and what to do ("": nothing)."""

    id: str
    status: str
    title: str
    detail: str
    advice: str


def key_facts(data: RunData) -> Iterator[tuple[str, str | list[str]]]:
    """The key facts as (name, value or lines), without those that are not known."""
    environment = data.reader.environment
    for name, path in KEY_FACTS:
        value = _at(environment, path)
        if value not in (None, "", [], {}):
            yield name, _text(value)
    libraries = _at(environment, "software.libraries")
    if isinstance(libraries, Mapping) and libraries:
        yield "Libraries", ", ".join(f"{name} {_text(one)}" for name, one in libraries.items())
    mitigations = environment.get("mitigations")
    if isinstance(mitigations, Mapping) and mitigations:
        yield "Mitigations", _mitigations(mitigations)
    nodes = environment.get("nodes")
    if isinstance(nodes, Mapping) and nodes:
        cpus = (n.get("cpus") if isinstance(n, Mapping) else n for n in nodes.values())
        yield (
            "NUMA nodes",
            [f"node {name}: CPUs {_text(some)}" for name, some in zip(nodes, cpus, strict=True)],
        )
    if clocks := _clocks(data):
        yield "Clock of the stamps", clocks


def fact(environment: Mapping[str, Any], path: str) -> str:
    """One fact by its path, e.g. "kernel.release"; "" if it is not known."""
    value = _at(environment, path)
    return "" if value in (None, "", [], {}) else _text(value)


def groups(environment: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """All known facts of the host: by group, a list of (name, value); at most MOST_FACTS."""
    found: dict[str, list[tuple[str, str]]] = {}
    known = {key: value for key, value in environment.items() if key != _DOCTOR}
    for number, (path, value) in enumerate(_flat(known)):
        if number == MOST_FACTS:
            found["more"] = [("not shown", f"there are more than {MOST_FACTS} facts")]
            break
        group = path[0] if len(path) > 1 else "host"
        found.setdefault(group, []).append((".".join(path[1:] or path), value))
    return list(found.items())


def warnings(environment: Mapping[str, Any]) -> list[HostWarning] | None:
    """What the doctor found before the run; None if the run has no findings, as old runs."""
    findings = environment.get(_DOCTOR)
    if not isinstance(findings, list):
        return None
    said = []
    for finding in findings[:MOST_WARNINGS]:
        if isinstance(finding, Mapping) and finding.get("status") != "ok":
            words = (finding.get(key) for key in ("id", "status", "title", "detail", "advice"))
            name, status, title, detail, advice = (
                "" if value is None else _text(value) for value in words
            )
            said.append(HostWarning(name, status, title or name, detail, advice))
    return said


def _at(environment: Mapping[str, Any], path: str) -> Any:
    value: Any = environment
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _mitigations(mitigations: Mapping[str, Any]) -> list[str]:
    """The mitigations that are active or missing, and the number that the CPU does not need."""
    affecting = {name: _text(state) for name, state in mitigations.items()}
    told = [f"{name}: {state}" for name, state in affecting.items() if state != "Not affected"]
    others = len(affecting) - len(told)
    if others:
        told.append(f"not affected by {'the other ' if told else ''}{others}")
    return told


def _clocks(data: RunData) -> list[str]:
    """The clocks of all processes: kind, rate, and the cost of a stamp from least to most."""
    stamps: dict[tuple[str, str], list[float]] = {}
    for case in data.summary["cases"]:
        for clock in case["clocks"]:
            key = (str(clock["kind"]), f"{significant(clock['hz'] / 1e6)} MHz")
            costs = stamps.setdefault(key, [])
            if clock.get("stamp_cycles") is not None:
                costs.append(clock["stamp_cycles"] / clock["hz"] * 1e9)
    said = []
    for (kind, rate), costs in stamps.items():
        text = f"{kind}, {rate}"
        if costs:
            ends = dict.fromkeys(significant(cost, 3) for cost in (min(costs), max(costs)))
            text += f", a stamp costs {' to '.join(ends)} {nanoseconds(data.summary)}"
        said.append(text)
    return said


def _flat(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value and len(path) < _MOST_DEPTH:
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    elif path:
        yield path, _text(value)


def _text(value: object) -> str:
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
