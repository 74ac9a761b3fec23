# SPDX-License-Identifier: Apache-2.0
"""How much lab explain's plugin slows the emulator: the same command with and without it.

Target: less than 3. The command runs on amd-count, and each of its parts is a ratio: the boot, in
which the plugin only looks for its first mark; Python between two blocks, when it watches and
writes nothing; and a block of exits, of which it writes down each instruction, and with memory=on
each access. The time is QEMU's CPU time, so a busy host does not change it much.
"""

from __future__ import annotations

import os
import selectors
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kickbench.lab
from kickbench.lab import build
from kickbench.lab.emulation import Order, Running
from kickbench.lab.emulator import environment
from kickbench.lab.explain.watch import PLUGIN
from kickbench.lab.machines import find
from kickbench.lab.qemu import Qemu
from kickbench.native import built_file

COMMAND = """
from kickbench.engine.engine import Clock, Engine, library
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm

def work():
    return sum(len(str(i)) for i in range(100_000))

def say(what):
    print(what, flush=True)

clock = Clock("tsc", 1e9, 0)
with (
    Kvm() as kvm,
    Guest(kvm, "pm_timer", 1) as guest,
    Engine(guest, "pm_timer", clock, [[0]], n_entries=1, samples_capacity=1 << 16) as engine,
):
    def block(block_ns):
        engine.blocks([("immediate_exit", 0)], warmup_ns=0, block_ns=block_ns)

    library().kb_watch()
    work()
    say("-")
    work()
    say("Python between two blocks")
    block(300_000)
    say("-")
    block(20_000_000)
    say("a block of exits")
"""
BOOT = "the boot"
MODES = {
    "without the plugin": None,
    "with the plugin": "memory=off",
    "with the plugin, memory=on": "memory=on",
}


def parts(mode: str | None) -> dict[str, float]:
    """QEMU's CPU seconds in each part of the command."""
    machine = find("amd-count")
    assert isinstance(machine.emulator, Qemu)
    emulator = replace(machine.emulator, boot="nokaslr no5lvl")
    order = Order([sys.executable, "-P", "-c", COMMAND], environment({}), Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        if mode:
            plugin = built_file(kickbench.lab.__path__, PLUGIN)
            words = ("-plugin", f"{plugin},out={folder}/plugin,{mode}")
            emulator = replace(emulator, arguments=(*emulator.arguments, *words))
        found: dict[str, float] = {}
        with emulator.start(machine.id, build.built(), order) as running:
            last = 0.0
            for line in _lines(running):
                now = _cpu_seconds(running.process.pid)
                if line != "-" or BOOT not in found:
                    found[BOOT if line == "-" else line] = now - last
                last = now
    return found


def _lines(running: Running) -> Iterator[str]:
    """What the command prints, as it comes."""
    names = {descriptor: name for name, descriptor in running.channels.items()}
    text = b""
    with selectors.DefaultSelector() as selector:
        for descriptor in names:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    data = os.read(key.fd, 1 << 16)
                except ConnectionResetError:
                    data = b""
                if not data:
                    selector.unregister(key.fd)
                elif names[key.fd] == "stdout":
                    *lines, text = (text + data).split(b"\n")
                    yield from (line.decode() for line in lines)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    found = {name: parts(mode) for name, mode in MODES.items()}
    base, *others = found
    for name in others:
        for part, seconds in found[name].items():
            print(
                f"{part}, {name} / {base}: {seconds / found[base][part]:.2f} "
                f"({seconds:.2f} and {found[base][part]:.2f} s; target below 3)"
            )


if __name__ == "__main__":
    main()
