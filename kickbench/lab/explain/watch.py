# SPDX-License-Identifier: Apache-2.0
"""Runs methods in one of QEMU's machines while the plugin watches."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kickbench.lab
from kickbench.engine.engine import LIBRARY
from kickbench.engine.protocols import build
from kickbench.errors import HostError, MeasurementError, StorageError
from kickbench.lab import emulation
from kickbench.lab.emulator import Limits, environment, execute
from kickbench.lab.explain import stacks, symbols
from kickbench.lab.explain.flow import FLOWS, Flow
from kickbench.lab.explain.inside import FACTS, Job, Order
from kickbench.lab.explain.memory import Kernel
from kickbench.lab.explain.trace import EXECUTED, Section, Trace
from kickbench.lab.machines import Machine
from kickbench.lab.qemu import Qemu
from kickbench.lab.scratch import scratch
from kickbench.methods import is_protocol_file, method_label
from kickbench.native import built_file
from kickbench.results.explanation import GUEST

PLUGIN = "qemu_plugin.so"
_GUEST = (0, 0x100000)
"""The addresses of guest programs. No process has any there: the linker begins at 0x400000."""
_LEAST_FREE_BYTES = 1 << 20
"""With less room a disk counts as full."""


@dataclass(frozen=True)
class Watched:
    """What the plugin wrote down, what the driver in the machine said, and the functions' names.

    ``folder`` has the driver's files. ``flow`` is the architecture's.
    """

    jobs: Sequence[Job]
    facts: dict[str, Any]
    trace: Trace
    functions: symbols.Symbols
    folder: Path
    flow: Callable[[bytes], Flow]

    def sections(self) -> Iterator[tuple[Job, dict[str, Any], Section]]:
        """Each block that is shown: its job, what the driver said of it, and its entries."""
        told = [
            (job, section)
            for job, facts in zip(self.jobs, self.facts["jobs"], strict=True)
            for section in facts["sections"]
        ]
        for (job, section), entries in zip(told, self.trace.sections(), strict=True):
            if section["shown"]:
                yield job, section, entries

    def paths(self, executed: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """The call path of each of these instructions, which are numbers of the trace's code."""
        return stacks.call_paths(
            (
                stacks.Instruction(int(one["vaddr"]), one["bytes"][: one["size"]].tobytes())
                for one in self.trace.code[executed]
            ),
            self.functions.name,
            self.flow,
        )

    def executes(self, section: Section, wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Whether each entry is an instruction of a function with such a name."""
        executed = section.kinds == EXECUTED
        numbers, inverse = np.unique(section.values[executed], return_inverse=True)
        vaddrs = self.trace.code["vaddr"][numbers].tolist()
        named = [wanted(self.functions.name(vaddr)) for vaddr in vaddrs]
        found = np.zeros(executed.size, np.bool_)
        found[executed] = np.array(named, np.bool_)[inverse]
        return found


@contextmanager
def watched(
    machine: Machine,
    emulator: Qemu,
    kernel: Path,
    jobs: Sequence[Job],
    limits: Limits | None = None,
    *,
    memory_of: Kernel | None = None,
) -> Iterator[Watched]:
    """Run these jobs in the machine. With ``memory_of``, the trace has accesses to memory too.

    The trace is a file that is gone with the context. Raises HostError if QEMU does not take the
    plugin or the kernel has no System.map, MeasurementError if the machine fails.
    """
    plugin = built_file(kickbench.lab.__path__, PLUGIN)
    _check_plugin(emulator, plugin)
    of_kernel = symbols.of_kernel(symbols.system_map_of(kernel))
    with scratch() as folder:
        order = Order(
            list(jobs), _build_protocols(jobs, folder, emulator.uname), str(folder), memory_of
        )
        trace = folder / "plugin"
        words = f"{plugin},out={trace}{',memory=on' if memory_of else ''}"
        watching = replace(
            emulator,
            arguments=(*emulator.arguments, "-plugin", words),
            # Functions, and memory by its virtual address, are where System.map and
            # kickbench.lab.explain.memory say. An entry of the trace has room for 48 bits.
            boot=f"{emulator.boot} nokaslr {emulator.platform.four_levels if memory_of else ''}",
        )
        command = emulation.Order(
            [emulator.python, "-P", "-m", "kickbench.lab.explain.inside", order.to_json()],
            environment({}),
            Path.cwd(),
            [folder],
        )
        print(f"starting {machine.id}", file=sys.stderr, flush=True)
        try:
            where = replace(machine, emulator=watching)
            # Nothing of an interrupted command is kept. A Python that is just being loaded would
            # show a traceback.
            status = execute(where, kernel, command, limits, tidies_up=False)
        except MeasurementError:
            if shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
                raise StorageError(_no_room(machine, folder)) from None
            raise
        if status:
            raise MeasurementError(f"the methods could not be run in {machine.id}: see above")
        if not Path(f"{trace}.whole").is_file():
            raise StorageError(_no_room(machine, folder))
        facts = json.loads((folder / FACTS).read_text())
        ours = [LIBRARY, *(Path(library).name for library in order.protocols.values())]
        root = emulator.platform.root() if emulator.platform.root else Path("/")
        of_process = symbols.of_process(facts["maps"], dict.fromkeys(ours, "kickbench"), root)
        loops = [(begin, end) for begin, end, name in of_process if name.endswith("[kickbench]")]
        if any(job.case.kind == "nested" for job in jobs):
            loops.append(_GUEST)
        functions = symbols.Symbols.of([*of_kernel, *of_process, (*_GUEST, GUEST)])
        flow = FLOWS[emulator.arch]
        yield Watched(jobs, facts, Trace.read(trace, loops), functions, folder, flow)


def _no_room(machine: Machine, folder: Path) -> str:
    return (
        f"what {machine.id} executed could not be written to {folder.parent}: is the disk full?\n"
        "it takes some hundred megabytes; TMPDIR can name another place"
    )


def _check_plugin(emulator: Qemu, plugin: Path) -> None:
    """Raise HostError if this QEMU does not take the plugin. It says so itself, and ends."""
    said = subprocess.run(
        [emulator.tool, "-M", "none", "-display", "none", "-plugin", f"{plugin},check=on"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if "kickbench: the plugin fits" in said.stderr:
        return
    why = said.stderr.strip().splitlines()[-1:] or ["it says nothing"]
    raise HostError(
        f"{emulator.description().partition(' TCG')[0]} does not take the plugin: {why[0]}\n"
        "lab explain needs a QEMU with TCG plugins of API version 1, such as Debian 12's 7.2"
    )


def _build_protocols(jobs: Sequence[Job], folder: Path, uname: str) -> dict[str, str]:
    files = {m: Path(m) for job in jobs for m in job.case.methods if is_protocol_file(m)}
    return {method_label(method): str(build(path, folder, uname)) for method, path in files.items()}
