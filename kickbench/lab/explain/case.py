# SPDX-License-Identifier: Apache-2.0
"""Which cases of a scenario are explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.scenario.cases import Case
from kickbench.scenario.files import load
from kickbench.scenario.sweep import expand

STATE = "halted"
"""The state in which a vCPU is kicked. With one CPU for all threads, a thread that does not sleep
waits for its turn when it is kicked, and that is the scheduler's time."""


def cases_of(
    path: Path, methods: Sequence[str] | None = None, only: str | None = None
) -> list[Case]:
    """The first exits with one vCPU at full speed, and the first kicks of one in STATE.

    ``only`` is the id of the only case to look at.

    Of ``methods`` the first one is the baseline: ids of the catalogue, or C files. None are the
    scenario's own. Raises UsageError if the scenario has no such case, or a method does not exist.
    """
    found: dict[str | None, Case] = {}
    for case in expand(load(path)):
        if only not in (None, case.id):
            continue
        one = case.vcpus == 1 and case.exit_rate_hz is None and case.kick_rate_hz is None
        if one and (case.kind == "exits" or (case.kind == "kick" and case.state == STATE)):
            found.setdefault(case.state, case)
    if not found:
        raise UsageError(
            f"{path}: {f'no case {only}' if only else 'nothing in it'} can be explained\n"
            f"lab explain needs exits of one vCPU at full speed, or kicks of a {STATE} vCPU"
        )
    if methods is None:
        return list(found.values())
    chosen = tuple(_method(name) for name in dict.fromkeys(methods))
    return [replace(case, methods=chosen, baseline=chosen[0]) for case in found.values()]


def _method(name: str) -> str:
    if is_protocol_file(name):
        if not Path(name).is_file():
            raise UsageError(f"{name}: no such file")
        return str(Path(name).resolve())
    if name not in CATALOGUE:
        raise UsageError(f"no method {name!r}; there are: {', '.join(CATALOGUE)}, or a C file")
    return method_label(name)
