# SPDX-License-Identifier: Apache-2.0
"""The bindings say what the installed kernel headers say.

The questions to the C compiler are generated from the module, so a struct, a field or a constant
that is added there is compared without anybody remembering to.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kickbench.arch import x86_64
from kickbench.engine.protocols import include_folder
from kickbench.kvm import abi, proposed

OURS = {
    name: value
    for module in (abi, x86_64)
    for name, value in vars(module).items()
    if name.startswith(("KVM", "kvm_"))
}
CONSTANTS = sorted(name for name in OURS if name.startswith("KVM"))
STRUCTS = sorted(name for name, value in OURS.items() if isinstance(value, type))


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


def layout(name: str) -> dict[str, tuple[str, int]]:
    """Question -> (C expression, our answer) for every size and offset of a struct."""
    kind = OURS[name]
    questions = {f"sizeof {name}": (f"sizeof(struct {name})", ctypes.sizeof(kind))}
    for path, offset, size in fields(kind):
        questions[f"offsetof {name}.{path}"] = (f"offsetof(struct {name}, {path})", offset)
        if size is not None:
            expression = f"sizeof(((struct {name} *)0)->{path})"
            questions[f"sizeof {name}.{path}"] = (expression, size)
    return questions


LAYOUTS = {name: layout(name) for name in STRUCTS}


@pytest.fixture(scope="module")
def header_says(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a C program compiled against <linux/kvm.h> answers; absent: not in this header."""
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <linux/kvm.h>"]
    lines += ["int main(void)", "{"]
    for name in CONSTANTS:
        lines += [f"#ifdef {name}", f'printf("{name}=%llu\\n", (unsigned long long){name});']
        lines += ["#endif"]
    for questions in LAYOUTS.values():
        for question, (expression, _) in questions.items():
            lines.append(f'printf("{question}=%llu\\n", (unsigned long long){expression});')
    lines += ["return 0;", "}", ""]
    folder = tmp_path_factory.mktemp("abi")
    source, program = folder / "abi.c", folder / "abi"
    source.write_text("\n".join(lines))
    subprocess.run(["cc", "-o", str(program), str(source)], check=True)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split("=") for line in output.splitlines())}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_is_the_kernels(name: str, header_says: dict[str, int]) -> None:
    if name not in header_says:
        pytest.skip(f"the installed <linux/kvm.h> is too old to know {name}")
    assert OURS[name] == header_says[name]


@pytest.mark.parametrize("name", STRUCTS)
def test_layout_is_the_kernels(name: str, header_says: dict[str, int]) -> None:
    ours = {question: answer for question, (_, answer) in LAYOUTS[name].items()}
    assert ours == {question: header_says[question] for question in ours}


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
    assert {"KVM_RUN", "KVM_CAP_IMMEDIATE_EXIT", "KVM_EXIT_IO", "KVM_SET_SIGNAL_MASK"} <= set(
        CONSTANTS
    )


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
