# SPDX-License-Identifier: Apache-2.0
"""What is explained: an exit, a kick, a pause, or a round trip of a guest hypervisor."""

from __future__ import annotations

from dataclasses import dataclass

from kickbench.scenario.cases import Case

KICKED = {
    "guest": "a kick of a vCPU in the guest",
    "halted": "a kick of a halted vCPU",
    "userspace": "a kick of a vCPU in user space",
    "storm": "a kick of a vCPU that exits at full speed",
}
"""A kick in words, by the state of the vCPU. Kicks in other states are not explained."""
_PAUSED = {"hlt": "that are halted", "spin": "that are in the guest"}
_PER = {"exits": "exit", "kick": "kick", "pause_all": "pause", "nested": "round_trip"}


@dataclass(frozen=True)
class Subject:
    """What is explained of a case of this kind.

    ``state`` is that of the vCPU that is kicked. The ``vcpus`` that are paused run ``program``.
    """

    kind: str
    state: str | None = None
    program: str | None = None
    vcpus: int = 1

    @classmethod
    def of(cls, case: Case) -> Subject:
        """The subject of a case."""
        if case.kind == "pause_all":
            return cls(case.kind, None, case.program, case.vcpus)
        return cls(case.kind, case.state)

    @property
    def per(self) -> str:
        """The unit: exit, kick, pause or round_trip."""
        return _PER[self.kind]

    @property
    def id(self) -> str:
        """Fit for a file's name, and for an id of HTML."""
        if self.kind == "pause_all":
            return f"pause-{self.program}"
        return self.state or ("exit" if self.kind == "exits" else self.kind)

    @property
    def name(self) -> str:
        """In words, with an article."""
        if self.kind == "kick":
            return KICKED[str(self.state)]
        if self.kind == "pause_all":
            how = _PAUSED.get(str(self.program), f"that run {self.program}")
            return f"a pause of {self.vcpus} vCPUs {how}" if self.vcpus > 1 else "a pause of 1 vCPU"
        return "an exit" if self.kind == "exits" else "a round trip of the guest hypervisor"

    @property
    def heading(self) -> str:
        """The name as a heading."""
        return f"{self.name[0].upper()}{self.name[1:]}"

    @property
    def sleeps(self) -> bool:
        """Whether the vCPUs sleep when they are kicked, so that one CPU does for all threads."""
        return self.state == "halted" or (self.kind == "pause_all" and self.program == "hlt")

    @property
    def has_phases(self) -> bool:
        """Whether a kicker's call and a way out are among it."""
        return self.kind in ("kick", "pause_all")


EXIT = Subject("exits")
