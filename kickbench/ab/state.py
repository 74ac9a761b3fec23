# SPDX-License-Identifier: Apache-2.0
"""The folder of a plan: what is to be booted and measured, and how far that is.

``state.json`` is replaced by one rename after every step, so a crash leaves the old state or the
new one. ``runs/`` has a folder for each boot that was measured. A file ``stopped`` has the plan
stop before the next reboot: it is a file of its own, so that it can be made at any moment.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kickbench.ab.order import FEWEST_BOOTS, MOST_BOOTS, Letter
from kickbench.errors import HostError, ResultsError, UsageError
from kickbench.results.files import make_folder, replace_file
from kickbench.results.schema import Line, SafeName, check_model, check_version, parse_json, place

STATE, STOPPED, RUNS = "state.json", "stopped", "runs"
SCHEMA = 1
"""Of the file. It grows when earlier versions of kickbench could not go on with a plan."""
MOST_FAULTS = 2
"""How often a boot may go wrong. Then the plan ends, so no host reboots for ever."""
_MOST_BYTES = 8 << 20
"""A scenario file has 1 MiB at most, and takes some more here."""
_Text = Annotated[str, Field(max_length=4096)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


_M = TypeVar("_M", bound=_Model)


class Kernel(_Model):
    """A kernel of the plan. ``given`` is what the user called it: a file, or a boot entry.

    ``build`` is what uname -rv prints when it runs. ``initrd`` and ``parameters`` are what kexec
    gives to it; a boot entry has its own.
    """

    given: Line
    build: Line
    initrd: Line | None = None
    parameters: _Text | None = None


class Boot(_Model):
    """One boot of the plan.

    ``asked_in`` is the id of the boot in which the reboot was asked for, and ``boot_id`` that of
    the boot that came of it, while that is measured and after. ``place`` is the folder below
    ``runs`` for its run, and ``run`` the run in it when it is finished. ``faults`` says what went
    wrong, in order.
    """

    kernel: Letter
    asked_in: Line | None = None
    boot_id: Line | None = None
    place: SafeName | None = None
    run: Line | None = None
    faults: Annotated[list[_Text], Field(max_length=MOST_FAULTS)] = []


class State(_Model):
    """A plan, and how far it is.

    ``scenario`` is the scenario itself, as :meth:`kickbench.scenario.model.Scenario.to_dict` has
    it: all boots measure the same, whatever becomes of its file. ``began_on`` is the build of the
    kernel that ran when the plan was made. ``settle_seconds`` is how long each boot waits before it
    measures. ``end`` is None while there is something left to do.
    """

    schema_: Annotated[int, Field(alias="schema")] = SCHEMA
    scenario: dict[str, Any]
    quick: bool = False
    by: Literal["kexec", "systemd"]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    settle_seconds: Annotated[float, Field(ge=0, le=86400)]
    began_on: Line
    kernels: dict[Letter, Kernel]
    boots: Annotated[list[Boot], Field(min_length=2 * FEWEST_BOOTS, max_length=2 * MOST_BOOTS)]
    end: Literal["done", "failed"] | None = None

    @property
    def next(self) -> int | None:
        """The index of the first boot that is not measured; None if all are."""
        return next((i for i, boot in enumerate(self.boots) if boot.run is None), None)

    def pairs(self, folder: Path) -> list[tuple[Path, Path]]:
        """The runs of the pairs of neighbours that are measured, A before B."""
        found = []
        for pair in zip(self.boots[::2], self.boots[1::2], strict=True):
            runs = {boot.kernel: folder / RUNS / boot.run for boot in pair if boot.run is not None}
            if len(runs) == 2:
                found.append((runs["A"], runs["B"]))
        return found

    def save(self, folder: Path) -> None:
        """Replace the file, and force it to the disk. Raises MeasurementError if that fails."""
        replace_file(folder / STATE, self.model_dump_json(indent=1, by_alias=True).encode())


def load(folder: Path) -> State:
    """Read a plan. Raises ResultsError, in one line, if there is none, or if it is damaged."""
    path = folder / STATE
    try:
        with path.open("rb") as file:
            data = parse_json(file.read(_MOST_BYTES), path)
    except OSError as error:
        raise ResultsError(
            f"{place(path)}: {error.strerror}; name the folder that kickbench ab start made"
        ) from None
    check_version(data, path, "plan of boots", SCHEMA)
    state = check_model(State, data, path)
    if {*state.kernels} != {"A", "B"} or len(state.boots) % 2:
        raise ResultsError(f"{place(path)}: a plan has the kernels A and B, and pairs of boots")
    for one, other in zip(state.boots[::2], state.boots[1::2], strict=True):
        if one.kernel == other.kernel:
            raise ResultsError(f"{place(path)}: a pair has a boot of each kernel")
    if state.end is None and any(len(boot.faults) >= MOST_FAULTS for boot in state.boots):
        raise ResultsError(f"{place(path)}: a boot went wrong too often for a plan that goes on")
    for boot in state.boots:
        if boot.boot_id is not None and boot.place is None:
            raise ResultsError(f"{place(path)}: a boot that is measured has a place for its run")
        if boot.run is not None and (".." in Path(boot.run).parts or boot.run.startswith("/")):
            raise ResultsError(f"{place(path)}: {boot.run} is outside of the folder")
    return state


def made(kind: type[_M], **words: Any) -> _M:
    """A part of a plan, of what a user wrote. Raises UsageError, in one line, if it cannot be."""
    try:
        return kind(**words)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def create(folder: Path, state: State) -> None:
    """Make the folder of a plan. Raises UsageError if it cannot be made, or has a plan."""
    check_new(folder)
    make_folder(folder / RUNS, "choose another --state")
    state.save(folder)


def check_new(folder: Path) -> None:
    """Raise UsageError if the folder has a plan."""
    if (folder / STATE).exists() or is_stopped(folder):
        raise UsageError(
            f"{place(folder)} has a plan already; choose another --state, or delete that folder"
        )


def is_stopped(folder: Path) -> bool:
    """Whether somebody had the plan stop."""
    return (folder / STOPPED).exists()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that a service and a person do not go on with one plan at once.

    Raises HostError if another process has it. The lock ends with the process.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ResultsError(f"{place(folder)}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise HostError(
            f"another kickbench goes on with {place(folder)} already; kickbench ab status shows "
            "how far it is"
        ) from None
    finally:
        os.close(lock)
