# SPDX-License-Identifier: Apache-2.0
"""A machine to measure on, as the runner sees it.

:mod:`kickbench.run.this_host` is the one that the runner itself is on, and
:mod:`kickbench.remote.box` the one at the other end of an ssh connection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kickbench.host import doctor, environment
from kickbench.host.capabilities import Capabilities, probe
from kickbench.host.topology import Topology
from kickbench.run.emulated import Mark

if TYPE_CHECKING:
    from kickbench.run.foreman import Job  # it is slow to import, and not always needed
    from kickbench.watch.process import Vmm
    from kickbench.watch.turns import News

WORK = ".work.tmp-"
"""How the names of temporary folders in a run's folder begin. :mod:`kickbench.results.writer`
removes those that a killed run left behind."""


def is_host(text: str) -> bool:
    """Whether ssh may be asked to reach this. ssh takes what begins with "-" for an option."""
    return bool(text) and text.isprintable() and " " not in text and not text.startswith("-")


@dataclass(frozen=True)
class Facts:
    """What the plan of a run needs to know about its machine."""

    topology: Topology
    capabilities: Capabilities

    @classmethod
    def of_this_host(cls) -> Facts:
        """Look at this host."""
        return cls(Topology.read(), probe())

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return {
            "topology": {
                **vars(self.topology),
                "nodes": list(self.topology.nodes.items()),
                "siblings": list(self.topology.siblings.items()),
            },
            "capabilities": vars(self.capabilities),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Facts:
        """The inverse of :meth:`to_dict`. Raises LookupError, TypeError or ValueError if the data
        is something else."""
        cpus = data["topology"]
        return cls(
            Topology(
                **{name: _numbers(cpus[name]) for name in _CPU_LISTS},
                nodes={int(node): _numbers(some) for node, some in cpus["nodes"]},
                siblings={int(cpu): _numbers(some) for cpu, some in cpus["siblings"]},
            ),
            Capabilities(**data["capabilities"]),
        )


@dataclass(frozen=True)
class Survey:
    """What is stored with a run about its machine: the facts of :mod:`kickbench.host.environment`,
    and what the doctor found."""

    environment: dict[str, Any]
    findings: list[doctor.Finding]

    @classmethod
    def of_this_host(cls) -> Survey:
        """Look at this host. It takes a third of a second."""
        return cls(environment.collect(), doctor.examine())

    def to_dict(self) -> dict[str, Any]:
        """The survey as JSON."""
        return {
            "environment": self.environment,
            "findings": [vars(finding) for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Survey:
        """The inverse of :meth:`to_dict`. Raises LookupError, TypeError or ValueError if the data
        is something else."""
        findings = [doctor.Finding(**finding) for finding in data["findings"]]
        return cls(dict(data["environment"]), findings)


_CPU_LISTS = ("online", "isolated", "affinity", "allowed")


def _numbers(values: Iterable[object]) -> tuple[int, ...]:
    return tuple(int(str(value)) for value in values)


class Machine(Protocol):
    """Measures cases. The methods of a run are called in the order in which they are here."""

    @property
    def host(self) -> str | None:
        """What the user calls the machine in ``--host``; None: nothing, it is not reached so."""

    @property
    def mark(self) -> Mark | None:
        """The mark of an emulated machine."""

    def look(self) -> Facts:
        """Find out what the machine is and can do."""

    def survey(self) -> Survey:
        """Find out what a reader of the figures must know about the machine."""

    def turn(
        self, note: str, run_id: str | None, *, wait: bool, say: Callable[[str], None]
    ) -> AbstractContextManager[str | None]:
        """As :func:`kickbench.host.turn.taken`. ``run_id`` is that of a run that is resumed."""

    def bring(self, library: Path) -> str:
        """Make a protocol's library available there. Returns its path on the machine."""

    def work(
        self, run_id: str, jobs: Sequence[Job], folder: Path
    ) -> Generator[dict[str, Any], None, None]:
        """Measure, and yield what the foreman says (:mod:`kickbench.run.foreman`).

        Temporary files go below ``folder``. When the caller closes the generator, the machine
        measures no longer.
        """

    def arrays(self, case_id: str, process: int) -> AbstractContextManager[Path]:
        """The folder with the arrays of a process that is done.

        They are there only once, but a run on another machine that is resumed tells of them again.
        """

    def stop(self, case_id: str, process: int) -> None:
        """As :meth:`Foreman.stop`."""

    def skip(self, case_id: str) -> None:
        """As :meth:`Foreman.skip`."""

    def vms(self, pid: int | None, name: str | None) -> list[Vmm]:
        """The VM of a process, or of the guest with a name, or else all that run there.

        Raises the errors of :mod:`kickbench.watch.process`.
        """

    def watch(
        self, vmm: Vmm, seconds: float, keep_on: Callable[[], bool]
    ) -> Generator[News, None, None]:
        """As :func:`kickbench.watch.turns.watch`."""

    def keep(self) -> None:
        """Keep the run for whoever resumes it, because its results cannot be stored here. This
        host keeps nothing, because it has nowhere else to."""
