# SPDX-License-Identifier: Apache-2.0
"""Which cases of a scenario are explained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kickbench.arch import ARCHS
from kickbench.errors import UsageError
from kickbench.lab.explain.subject import KICKED, Subject
from kickbench.lab.machines import MACHINES, Machine
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.run.plan import why_no_exit
from kickbench.scenario.cases import Case
from kickbench.scenario.files import load
from kickbench.scenario.kinds import ITERATIONS
from kickbench.scenario.sweep import expand

STATE = "halted"
"""The state in which a vCPU is kicked, unless all are explained. With one CPU for all threads, a
thread that does not sleep waits for its turn when it is kicked, and that is the scheduler's time.
"""
MOST_RUNNING = 2
"""How many vCPUs are paused at most while they run: each has a CPU of its own, and so have the
kicker and what ends their turns."""

MOST_PAUSED = 4
"""How many vCPUs a pause has at most."""

_NESTED = ("x86_64",)
"""The architectures that have a guest hypervisor."""


def cases_of(
    path: Path,
    methods: Sequence[str] | None = None,
    only: str | None = None,
    *,
    machine: Machine = MACHINES["amd-count"],
    everything: bool = False,
) -> list[Case]:
    """The first exits with one vCPU at full speed, and the first kicks of one in STATE.

    With ``everything`` also the first kicks in each other state of KICKED, pauses of up to
    MOST_PAUSED vCPUs with each program, and the round trips of a guest hypervisor. ``only`` is the
    id of the only case to look at. Cases that the machine's architecture lacks are passed over. If
    nothing is left of a kind, that is said.

    Of ``methods`` the first one is the baseline: ids of the catalogue, or C files. None are the
    scenario's own. Raises UsageError if the scenario has no such case, or a method does not exist.
    """
    found: dict[str, Case] = {}
    lacking: dict[str, str] = {}
    for case in expand(load(path)):
        if only in (None, case.id) and _can_be_explained(case, everything):
            one = _smaller(case)
            subject = Subject.of(one)
            if reason := _why_not(one, machine):
                lacking.setdefault(subject.id, f"{case.id} is left out: {reason}")
            elif subject.id not in found or found[subject.id].vcpus < one.vcpus:
                found[subject.id] = one
    for name, why in lacking.items():
        if name not in found:
            print(why, file=sys.stderr, flush=True)
    if not found:
        raise UsageError(
            f"{path}: {f'no case {only}' if only else 'nothing in it'} can be explained\n"
            "lab explain needs exits of one vCPU at full speed, kicks of one vCPU, pauses, or the "
            "kind nested"
        )
    if methods is None:
        return list(found.values())
    chosen = tuple(_method(name) for name in dict.fromkeys(methods))
    return [
        case if case.kind == "nested" else replace(case, methods=chosen, baseline=chosen[0])
        for case in found.values()
    ]


def _can_be_explained(case: Case, everything: bool) -> bool:
    if case.exit_rate_hz is not None or case.kick_rate_hz is not None or case.has_noise:
        return False
    if everything and case.kind in ("pause_all", "nested"):
        return True
    return case.vcpus == 1 and (
        case.kind == "exits"
        or (case.kind == "kick" and case.state in (KICKED if everything else (STATE,)))
    )


def _why_not(case: Case, machine: Machine) -> str | None:
    """Why the machine's architecture does not have the case, or None."""
    if case.kind == "nested" and machine.emulator.arch not in _NESTED:
        return f"a guest hypervisor is there on {' and '.join(_NESTED)} alone"
    return why_no_exit(case, ARCHS[machine.emulator.uname])


def _smaller(case: Case) -> Case:
    """The case, as far as it can be explained: the machines are small."""
    if case.kind == "pause_all":
        most = MOST_PAUSED if Subject.of(case).sleeps else MOST_RUNNING
        return replace(case, vcpus=min(case.vcpus, most))
    if case.kind == "nested":  # what comes at a random moment has no count
        ways = tuple(way for way in case.methods if ITERATIONS[way].compared)
        return replace(case, methods=ways)
    return replace(case, kickers=1)


def _method(name: str) -> str:
    if is_protocol_file(name):
        if not Path(name).is_file():
            raise UsageError(f"{name}: no such file")
        return str(Path(name).resolve())
    if name not in CATALOGUE:
        raise UsageError(f"no method {name!r}; there are: {', '.join(CATALOGUE)}, or a C file")
    return method_label(name)
