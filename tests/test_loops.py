# SPDX-License-Identifier: Apache-2.0
"""The compiled loops: what is the same in all protocols is so in the library that was built."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import pytest

import kickbench.engine
from kickbench.engine.engine import LIBRARY, library
from kickbench.methods import CATALOGUE
from kickbench.native import built_file, placebo_name

ONLY_LOOK_AT_A_FLAG = ("sigmask", "sigmask_same", "immediate_exit", "immediate_exit_remote")
CACHE_LINE = 64
LONGEST = 1024


class Protocol(ctypes.Structure):
    """``struct kb_protocol``."""

    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("vcpu_size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        *((name, ctypes.c_void_p) for name in ("enter", "leave", "handler", "kick")),
        ("exit_loop", ctypes.c_void_p),
        ("kick_loop", ctypes.c_void_p),
    ]


def tool(name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} (binutils)")
    path = built_file(kickbench.engine.__path__, LIBRARY)
    done = subprocess.run([program, *arguments, path], capture_output=True, text=True, check=True)
    return done.stdout


def protocol(name: str) -> Protocol:
    return Protocol.in_dll(library(), f"kb_protocol_{name}")


def hot_instructions(name: str) -> list[str]:
    """Those of a protocol's exit loop, without addresses: of a jump within, only its distance.

    The installed library has no symbols but the exported ones: a function goes on from its first
    instruction to one that leaves it, and that no jump before it goes beyond.
    """
    symbols = dict(re.findall(r"^0*([0-9a-f]+) \w (.*)$", tool("nm", "-D"), re.MULTILINE))
    (exported,) = [at for at, symbol in symbols.items() if symbol == f"kb_protocol_{name}"]
    found = protocol(name)
    begin = found.exit_loop - (ctypes.addressof(found) - int(exported, 16))
    text = tool(
        "objdump",
        "--disassemble",
        "--no-show-raw-insn",
        f"--start-address={begin}",
        f"--stop-address={begin + LONGEST}",
    )
    instructions, farthest = [], begin
    for at, instruction in re.findall(r"^ *([0-9a-f]+):\t(.*)$", text, re.MULTILINE):
        instruction = re.sub(r"\s+#.*", "", instruction).strip()
        if jump := re.match(r"(j\w+|call)\s+([0-9a-f]+)", instruction):
            target = int(jump[2], 16)
            within = jump[1] != "call" and begin <= target < begin + LONGEST
            farthest = max(farthest, target if within else begin)
            instruction = f"{jump[1]} {target - begin if within else 'elsewhere'}"
        instructions.append(re.sub(r"-?0x[0-9a-f]+\(%rip\)", "(%rip)", instruction))
        if int(at, 16) >= farthest and re.match(r"(ret|jmp)", instruction):
            return instructions
    raise AssertionError(f"no end of {name}'s exit loop")


def test_protocols_that_only_look_at_a_flag_have_the_same_hot_instructions() -> None:
    expected = hot_instructions("flag_signal")
    assert "rdtscp" in expected
    for name in ONLY_LOOK_AT_A_FLAG:
        assert hot_instructions(name) == expected
    # It does see a difference: this one clears a byte before each KVM_RUN.
    assert hot_instructions("immediate_exit_remote_flag_first") != expected


def test_every_copy_of_a_loop_begins_a_cache_line() -> None:
    for name in CATALOGUE:
        assert protocol(name).exit_loop % CACHE_LINE == 0
        assert protocol(name).kick_loop % CACHE_LINE == 0


def test_the_engine_has_each_protocol_a_second_time_at_another_address() -> None:
    names = [name for method in CATALOGUE for name in (method, placebo_name(method))]
    assert len({protocol(name).exit_loop for name in names}) == len(names)
    assert len({protocol(name).kick_loop for name in names}) == len(names)
    for method in CATALOGUE:
        assert protocol(method).name == protocol(placebo_name(method)).name == method.encode()
