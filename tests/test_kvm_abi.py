# SPDX-License-Identifier: Apache-2.0
"""The bindings say what the installed kernel headers say.

The questions to the C compiler are generated from the module, so a struct, a field or a constant
that is added there is compared without anybody remembering to.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cross_compiler import compiled

from kickbench.arch import ARCHS
from kickbench.engine.protocols import include_folder
from kickbench.kvm import abi, proposed


def ours(machine: str) -> dict[str, Any]:
    """The kernel's names of the bindings, as one architecture has them."""
    return {
        name: value
        for module in (abi, ARCHS[machine])
        for name, value in vars(module).items()
        if name.startswith(("KVM", "kvm_", "user_pt_regs"))
    }


def constants(machine: str) -> list[str]:
    return sorted(name for name in ours(machine) if name.startswith("KVM"))


def structs(machine: str) -> list[str]:
    return sorted(name for name, value in ours(machine).items() if isinstance(value, type))


CONSTANTS = [(machine, name) for machine in ARCHS for name in constants(machine)]
STRUCTS = [(machine, name) for machine in ARCHS for name in structs(machine)]


def is_aggregate(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ctypes.Structure | ctypes.Union)


def fields(kind: Any, prefix: str = "", base: int = 0) -> Iterator[tuple[str, int, int | None]]:
    """Path, offset and size (None for a flexible array) of every field, inner ones too."""
    anonymous = getattr(kind, "_anonymous_", ())
    for name, inner, *_ in kind._fields_:
        offset = base + getattr(kind, name).offset
        if name not in anonymous:
            flexible = issubclass(inner, ctypes.Array) and inner._length_ == 0
            yield prefix + name, offset, None if flexible else ctypes.sizeof(inner)
        if is_aggregate(inner):
            yield from fields(inner, prefix if name in anonymous else f"{prefix}{name}.", offset)


def layout(machine: str, name: str) -> dict[str, tuple[str, int]]:
    """Question -> (C expression, our answer) for every size and offset of a struct."""
    kind = ours(machine)[name]
    questions = {f"sizeof {name}": (f"sizeof(struct {name})", ctypes.sizeof(kind))}
    for path, offset, size in fields(kind):
        questions[f"offsetof {name}.{path}"] = (f"offsetof(struct {name}, {path})", offset)
        if size is not None:
            expression = f"sizeof(((struct {name} *)0)->{path})"
            questions[f"sizeof {name}.{path}"] = (expression, size)
    return questions


NEW = {"kvm_memory_attributes": "KVM_SET_MEMORY_ATTRIBUTES"}
"""Structures that an older header lacks, each with a constant that came with it."""

LAYOUTS = {(machine, name): layout(machine, name) for machine, name in STRUCTS}


@pytest.fixture(scope="module")
def header_says(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, int]]:
    """What an architecture's <linux/kvm.h> says; absent: not in this header.

    The answers are in a section of an object file, so that nothing foreign is run.
    """

    @cache
    def says(machine: str) -> dict[str, int]:
        lines = [f"#include <{name}.h>" for name in ("stddef", "linux/kvm", "linux/kvm_para")]
        answers = [
            (question, f"(unsigned long long)({expression})", NEW.get(struct))
            for (owner, struct), questions in LAYOUTS.items()
            if owner == machine
            for question, (expression, _) in questions.items()
        ] + [(name, f"(unsigned long long)({name})", name) for name in constants(machine)]
        for index, (_, expression, condition) in enumerate(answers):
            lines += [f"#ifdef {condition}"] if condition else []
            lines.append(f"const unsigned long long answer_{index} = {expression};")
            lines += ["#endif"] if condition else []
        source = tmp_path_factory.mktemp("abi") / "abi.c"
        source.write_text("\n".join([*lines, ""]))
        elf = compiled(machine, source)
        symbols = {
            symbol.name: elf.get_section(symbol["st_shndx"]).data()[symbol["st_value"] :][:8]
            for symbol in elf.get_section_by_name(".symtab").iter_symbols()
            if symbol.name.startswith("answer_")
        }
        return {
            question: int.from_bytes(symbols[f"answer_{index}"], "little")
            for index, (question, _, _) in enumerate(answers)
            if f"answer_{index}" in symbols
        }

    return says


@pytest.mark.parametrize(("machine", "name"), CONSTANTS)
def test_constant_is_the_kernels(
    machine: str, name: str, header_says: Callable[[str], dict[str, int]]
) -> None:
    header = header_says(machine)
    if name not in header:
        pytest.skip(f"the installed <linux/kvm.h> is too old to know {name}")
    assert ours(machine)[name] == header[name]


@pytest.mark.parametrize(("machine", "name"), STRUCTS)
def test_layout_is_the_kernels(
    machine: str, name: str, header_says: Callable[[str], dict[str, int]]
) -> None:
    answers = {question: answer for question, (_, answer) in LAYOUTS[machine, name].items()}
    header = header_says(machine)
    if name in NEW and NEW[name] not in header:
        pytest.skip(f"the installed <linux/kvm.h> is too old to know {name}")
    assert answers == {question: header[question] for question in answers}


def test_the_generated_questions_reach_the_fields_that_the_product_reads() -> None:
    assert {
        "offsetof kvm_run.immediate_exit",
        "offsetof kvm_run.io.data_offset",
        "offsetof kvm_run.mmio.phys_addr",
        "offsetof kvm_run.fail_entry.hardware_entry_failure_reason",
        "offsetof kvm_run.internal.suberror",
        "offsetof kvm_sregs.cs.base",
        "sizeof kvm_signal_mask",
    } <= {question for questions in LAYOUTS.values() for question in questions}
    assert {
        ("x86_64", "KVM_RUN"),
        ("x86_64", "KVM_SET_REGS"),
        ("aarch64", "KVM_EXIT_MMIO"),
        ("aarch64", "KVM_ARM_VCPU_INIT"),
    } <= set(CONSTANTS)


def test_every_exit_reason_and_ioctl_has_its_name() -> None:
    assert abi.exit_reason_name(abi.KVM_EXIT_UNKNOWN) == "KVM_EXIT_UNKNOWN"
    assert abi.exit_reason_name(abi.KVM_EXIT_IO) == "KVM_EXIT_IO"
    assert abi.exit_reason_name(4711) == "KVM_EXIT_4711"
    assert abi.ioctl_name(abi.KVM_RUN) == "KVM_RUN"
    assert abi.ioctl_name(abi.KVM_SET_SIGNAL_MASK) == "KVM_SET_SIGNAL_MASK"
    assert abi.ioctl_name(0x5401) == "ioctl 0x5401"


# --- the proposed interface, which is in no kernel header: protocol.h is the authority -----------

PROPOSED = {
    "KB_USER_EXIT": proposed.KVM_USER_EXIT,
    "KB_VCPU_MAKE_EXITFD": proposed.KVM_VCPU_MAKE_EXITFD,
    "KB_EXIT_REQUEST": proposed.KVM_EXIT_REQUEST,
    "sizeof(struct kb_user_exit)": ctypes.sizeof(proposed.kvm_user_exit),
}


def test_the_proposed_interface_is_that_of_the_engine(tmp_path: Path) -> None:
    lines = ["#include <stdio.h>", "#include <kickbench/protocol.h>", "int main(void)", "{"]
    lines += [f'printf("{name}=%llu\\n", (unsigned long long)({name}));' for name in PROPOSED]
    lines += ["return 0;", "}", ""]
    source, program = tmp_path / "proposed.c", tmp_path / "proposed"
    source.write_text("\n".join(lines))
    flags = ["-std=c11", "-D_GNU_SOURCE", "-c", f"-I{include_folder()}"]
    subprocess.run(["cc", *flags, "-o", f"{program}.o", str(source)], check=True)
    subprocess.run(["cc", "-o", str(program), f"{program}.o"], check=True)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert dict(line.split("=") for line in output.splitlines()) == {
        name: str(value) for name, value in PROPOSED.items()
    }


def test_the_proposed_numbers_are_free_in_the_kernels_header() -> None:
    macros = subprocess.run(
        ["cc", "-dM", "-E", "-include", "linux/kvm.h", "-x", "c", "/dev/null"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    reasons = {int(n) for n in re.findall(r"#define KVM_EXIT_\w+ +(\d+)$", macros, re.MULTILINE)}
    assert abi.KVM_EXIT_HLT in reasons
    assert proposed.KVM_EXIT_REQUEST not in reasons
    ioctls = {int(n, 16) for n in re.findall(r"_IO[WR]*\(KVMIO, *0x([0-9a-f]+)", macros)}
    assert abi.KVM_RUN & 0xFF in ioctls
    assert not {proposed.KVM_USER_EXIT & 0xFF, proposed.KVM_VCPU_MAKE_EXITFD & 0xFF} & ioctls
