# SPDX-License-Identifier: Apache-2.0
"""The guest hypervisor: its layouts are the manuals' and its host's, whatever goes wrong is told,
and in the lab's machines it sees what KVM does for L1."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kickbench.arch import x86_64
from kickbench.engine.engine import library
from kickbench.engine.protocols import include_folder
from kickbench.errors import MeasurementError
from kickbench.host.capabilities import probe
from kickbench.kvm import Kvm
from kickbench.lab import build as builder
from kickbench.nested import guest as nested
from kickbench.nested.guest import (
    BROKEN,
    ITERATIONS,
    RECORD,
    WARMUP,
    NestedGuest,
    Sender,
    Shared,
)

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "kickbench" / "nested" / "hypervisor"
PROBE = Path(__file__).with_name("nested_probe.py")


def compiled(
    folder: Path, expressions: list[str], *headers: str, flags: tuple[str, ...] = ()
) -> list[int]:
    """What a C program that includes these headers says that the expressions are."""
    lines = [f"#include {header}" for header in ("<stddef.h>", "<stdio.h>", *headers)]
    lines += ["int main(void)", "{"]
    lines += [f'printf("%llu\\n", (unsigned long long)({text}));' for text in expressions]
    lines += ["return 0;", "}", ""]
    source, program = folder / "said.c", folder / "said"
    source.write_text("\n".join(lines))
    command = ["cc", f"-I{SOURCES}", *flags, "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in said.splitlines()]


# --- layouts ------------------------------------------------------------------------------------


C_NAMES = {
    "plain": ITERATIONS.index("plain"),
    "pending": ITERATIONS.index("pending"),
    "pending_no_injection": ITERATIONS.index("pending_no_injection"),
    "asynchronous": ITERATIONS.index("asynchronous"),
    "bad_control_field": BROKEN["bad_control_field"],
    "bad_guest_state": BROKEN["bad_guest_state"],
    "l2_triple_faults": BROKEN["l2_triple_fault"],
    "l2_never_exits": BROKEN["l2_never_exits"],
    "l1_triple_faults": BROKEN["l1_triple_fault"],
}


def test_the_record_and_the_page_of_orders_are_those_of_the_guest(tmp_path: Path) -> None:
    fields = {
        f"offsetof(struct kb_nested_record, {name})": field.offset
        for name, field in RECORD.fields.items()
    }
    fields["sizeof(struct kb_nested_record)"] = RECORD.size
    for name, *_ in Shared._fields_:
        if name not in ("reserved", "reserved2"):
            fields[f"offsetof(struct kb_nested, {name})"] = getattr(Shared, name).offset
    places = {
        "KB_NESTED_SHARED": nested.SHARED,
        "KB_NESTED_IMAGE": nested.IMAGE,
        "KB_NESTED_PORT": nested.PORT,
    }
    flags = {f"KB_{name.upper()}": value for name, value in C_NAMES.items()}
    expected = fields | places | flags
    assert compiled(tmp_path, list(expected), '"shared.h"') == list(expected.values())


LATENCIES = {
    ("LEFT_BY_INTERRUPT", 900, 1000): 100,
    ("LEFT_BY_INTERRUPT", 1000, 1000): 0,
    ("LEFT_BY_INTERRUPT", 1001, 1000): 0,  # and not 2^64 - 1
    ("LEFT_BY_INTERRUPT", 0, 1000): 0,
    ("LEFT_BY_CALL", 900, 1000): 0,
    ("LEFT_BY_SHUTDOWN", 900, 1000): 0,
}


def test_a_latency_is_of_the_interrupts_exit_and_never_below_zero(tmp_path: Path) -> None:
    wrapped = tmp_path / "wrapped.h"
    wrapped.write_text('#define main l1_main\n#include "main.c"\n#undef main\n')
    calls = [
        f"latency_of(&(struct exit){{.kind = {kind}, .left_at = {left}}}, {sent})"
        for kind, sent, left in LATENCIES
    ]
    # Nothing of L1 is called that is not here.
    flags = ("-w", "-no-pie", "-Wl,--unresolved-symbols=ignore-all", f"-I{include_folder()}")
    assert compiled(tmp_path, calls, '"wrapped.h"', flags=flags) == list(LATENCIES.values())


class NoMachine(NestedGuest):
    """As much of a guest as the sender's thread needs."""

    def __init__(self, sender_cpus: list[int]) -> None:
        self._sender_cpus = sender_cpus
        self._shared = Shared()
        self._random = Random(1)
        self._vcpu = SimpleNamespace()  # type: ignore[assignment]
        self._vm = SimpleNamespace(fd=-1)  # type: ignore[assignment]


@pytest.fixture
def no_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x86_64, "counter_offset", lambda _: None)


@pytest.mark.usefixtures("no_offset")
def test_a_sender_that_cannot_begin_is_told_before_l1_waits_for_it() -> None:
    entered = []
    nowhere = "the sender cannot run on CPU 65000"
    with pytest.raises(MeasurementError, match=nowhere), NoMachine([65_000])._sending(True):
        entered.append(True)
    assert not entered


@pytest.mark.usefixtures("no_offset")
def test_a_sender_that_fails_later_is_told_when_the_order_is_over() -> None:
    guest = NoMachine([*os.sched_getaffinity(0)])

    def order() -> None:
        with guest._sending(True):
            guest._shared.armed += 1
            time.sleep(0.1)  # the sender looks every few microseconds

    with pytest.raises(MeasurementError, match="KVM_SIGNAL_MSI failed: Bad file descriptor"):
        order()


def test_the_sender_is_that_of_the_engine() -> None:
    assert ctypes.c_size_t.in_dll(library(), "kb_sender_size").value == ctypes.sizeof(Sender)


def test_the_image_is_linked_to_where_it_is_loaded() -> None:
    script = (SOURCES / "image.ld").read_text()
    assert f". = {nested.IMAGE:#x};" in script
    (end,) = re.findall(r"ASSERT\(\. <= (0x\w+)", script)
    assert int(end, 16) <= nested.RECORDS


def sections() -> dict[str, list[tuple[str, int]]]:
    """The fields of the VMCS in vmx.h, by the section of appendix B that they stand under."""
    found: dict[str, list[tuple[str, int]]] = {}
    section = ""
    for line in (SOURCES / "vmx.h").read_text().splitlines():
        if heading := re.fullmatch(r"/\* (B\.\d\.\d .*) \*/", line):
            section = heading[1]
        elif section and (field := re.fullmatch(r"#define (\w+)\s+(0x\w+)", line)):
            found.setdefault(section, []).append((field[1], int(field[2], 16)))
    return found


WIDTHS = {"16-bit": 0, "64-bit": 1, "32-bit": 2, "natural-width": 3}
TYPES = {"control": 0, "read-only": 1, "guest-state": 2, "host-state": 3}


@pytest.mark.parametrize("section", sections())
def test_a_field_of_the_vmcs_is_encoded_as_its_section_of_the_manual_says(section: str) -> None:
    """Bits 14:13 of an encoding are the width, 11:10 the type (SDM volume 3, field encoding)."""
    number, width, kind, *_ = section.split()
    assert number.startswith(f"B.{[*WIDTHS].index(width) + 1}.")
    for name, encoding in sections()[section]:
        assert encoding >> 13 & 3 == WIDTHS[width], name
        assert encoding >> 10 & 3 == TYPES[kind], name
        assert encoding & 1 == 0, name  # the whole field, not its upper half
        assert encoding < 1 << 15, name


def test_no_two_fields_of_the_vmcs_are_the_same() -> None:
    fields = [field for section in sections().values() for field in section]
    assert len(fields) > 60
    assert len({encoding for _, encoding in fields}) == len(fields)


UAPI = {
    "VMEXIT_INTR": "SVM_EXIT_INTR",
    "VMEXIT_SHUTDOWN": "SVM_EXIT_SHUTDOWN",
    "VMEXIT_VMMCALL": "SVM_EXIT_VMMCALL",
    "VMEXIT_INVALID": "(uint32_t)SVM_EXIT_ERR",
    "EXIT_EXTERNAL_INTERRUPT": "EXIT_REASON_EXTERNAL_INTERRUPT",
    "EXIT_TRIPLE_FAULT": "EXIT_REASON_TRIPLE_FAULT",
    "EXIT_VMCALL": "EXIT_REASON_VMCALL",
    "EXIT_ENTRY_FAILED": "VMX_EXIT_REASONS_FAILED_VMENTRY",
}


@pytest.mark.parametrize("name", UAPI)
def test_an_exit_reason_is_the_kernels(name: str, tmp_path: Path) -> None:
    vendor = "svm" if name.startswith("VMEXIT") else "vmx"
    headers = (f'"{vendor}.h"', f"<asm/{vendor}.h>")
    ours, kernels = compiled(tmp_path, [name, UAPI[name]], "<stdint.h>", *headers)
    assert ours == kernels


# --- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 1}, "neither VMX nor SVM: load kvm_intel or kvm_amd with nested=1"),
        ({"status": 2, "reason": 13, "detail": 0x10040, "more": 8}, "exception 13 at 0x10040"),
        ({"status": 3, "reason": 7, "detail": 5, "vendor": 2}, "VM-instruction error 7, VM entry"),
        ({"status": 3, "reason": 12, "detail": 4, "more": 0x401E, "vendor": 2}, "VMWRITE of field"),
        ({"status": 3, "reason": 0, "detail": 1, "vendor": 2}, "VMXON failed"),
        (
            {"status": 4, "reason": 33, "detail": 4, "vendor": 2},
            "reason 33, exit qualif",
        ),
        ({"status": 4, "reason": 0xFFFFFFFF, "vendor": 1}, "VMEXIT_INVALID"),
        ({"status": 5, "reason": 2, "vendor": 2}, "triple fault (exit reason 2"),
        ({"status": 5, "reason": 0x7F, "vendor": 1}, "triple fault (EXITCODE 0x7f"),
        ({"status": 6, "reason": 48, "detail": 0x181, "vendor": 2}, "exit reason 48"),
        ({"status": 99}, "status 99"),
    ],
)
def test_what_l1_reports_is_told_in_the_manuals_words(answer: dict[str, int], words: str) -> None:
    assert words in nested._describe(Shared(**answer))


def test_every_status_of_the_guest_has_its_words() -> None:
    (statuses,) = re.findall(r"enum kb_status \{(.*?)\};", (SOURCES / "shared.h").read_text(), re.S)
    names = re.findall(r"^\s(KB_\w+),", statuses, re.M)
    assert names[0] == "KB_DONE"
    for number in range(1, len(names)):
        assert "status" not in nested._describe(Shared(status=number))


@pytest.mark.kvm
def test_without_vmx_and_svm_l1_says_so_and_with_them_it_runs() -> None:
    """On every host with KVM: L1 itself needs no nested state to find out what it has."""
    if probe().nested is not None:
        with Kvm() as kvm, pytest.raises(MeasurementError, match="neither VMX nor SVM"):
            NestedGuest(kvm)
        return
    with Kvm() as kvm, NestedGuest(kvm) as guest:
        records = guest.run("pending", 100)
    assert all(records["expected"])
    assert set(records["delivered"]) == {1}


# mov al, 0; mov dx, PORT; out
OUT = b"\xb0\x00\x66\xba" + nested.PORT.to_bytes(2, "little") + b"\xee"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose machine code runs in L1's place."""
    file = tmp_path / "program.bin"
    monkeypatch.setattr(nested, "built_file", lambda *_: file)
    return file


@pytest.mark.kvm
def test_an_l1_that_never_comes_back_is_kicked_out_of_kvm_run(program: Path) -> None:
    program.write_bytes(b"\xeb\xfe")  # jmp to itself
    before = threading.active_count()
    with Kvm() as kvm, pytest.raises(MeasurementError, match="hangs in plain: L1 does not finish"):
        NestedGuest(kvm, stall_seconds=0.05)
    assert threading.active_count() == before


@pytest.mark.kvm
def test_progress_keeps_the_watchdog_quiet(program: Path) -> None:
    progress, told = (
        (nested.SHARED + getattr(Shared, name).offset).to_bytes(4, "little")
        for name in ("progress", "reserved")
    )
    # OUT; then 1: inc dword [progress]; cmp dword [told], 0; je 1b; out
    counts = b"\xff\x04\x25" + progress + b"\x83\x3c\x25" + told + b"\x00\x74\xef"
    program.write_bytes(OUT + counts + b"\xee\xeb\xfe")
    with Kvm() as kvm, NestedGuest(kvm, stall_seconds=0.5) as guest:
        timer = threading.Timer(1.5, lambda: guest._shared.reserved.__setitem__(0, 1))
        timer.start()
        guest.run("plain", 1)
        timer.join()


@pytest.mark.kvm
def test_a_triple_fault_of_l1_is_told(program: Path) -> None:
    program.write_bytes(b"\x0f\x0b")  # ud2, and there is no IDT
    with Kvm() as kvm, pytest.raises(MeasurementError, match="KVM_EXIT_SHUTDOWN"):
        NestedGuest(kvm)


@pytest.mark.kvm
def test_the_affinity_and_the_signal_mask_are_the_callers_again(program: Path) -> None:
    program.write_bytes(OUT + b"\xeb\xfe")
    cpus = os.sched_getaffinity(0)
    with Kvm() as kvm, NestedGuest(kvm, vcpu_cpus=[min(cpus)]):
        assert os.sched_getaffinity(0) == cpus


# --- in the lab ---------------------------------------------------------------------------------

ENTERED = 100  # iterations that the probe looks at by the tracepoint
VENDORS = {"amd-numa": "svm", "amd-count": "svm", "amd-lines": "svm", "intel-vmx": "vmx"}
EVERY = pytest.mark.parametrize(
    "machine", [pytest.param(name, marks=pytest.mark.lab(name)) for name in VENDORS]
)


@cache
def seen_in(machine: str, config: str = "lab") -> dict[str, Any]:
    """What the probe says in that machine with that kernel, which is booted once."""
    command = [sys.executable, "-P", "-m", "kickbench", "lab", "shell", "--machine", machine]
    command += ["--kernel", str(builder.built(config=config))]
    # A machine that does not see this host is given the files that are words: the probe alone.
    script = f'exec {shlex.quote(sys.executable)} -P "$0"'
    done = subprocess.run(
        [*command, "--", "sh", "-c", script, str(PROBE)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def records(machine: str, iteration: str, config: str = "lab") -> dict[str, Any]:
    columns = seen_in(machine, config)["iterations"][iteration]
    return {name: np.array(values) for name, values in columns.items()}


@EVERY
def test_each_machine_runs_l2_by_what_it_has(machine: str) -> None:
    assert seen_in(machine)["vendor"] == VENDORS[machine]
    assert seen_in(machine)["nested_paging"] is True


@EVERY
@pytest.mark.parametrize("iteration", ITERATIONS)
def test_every_exit_is_the_expected_and_every_injection_is_delivered_once(
    machine: str, iteration: str
) -> None:
    found = records(machine, iteration)
    assert found["expected"].all()
    injects = iteration in ("pending", "asynchronous")
    assert (found["injected"] == injects).all()
    assert (found["delivered"] == injects).all()
    assert (found["cycles"] > 0).all()


@EVERY
def test_kicks_of_l1_lose_and_double_no_injection(machine: str) -> None:
    """A kick may come while the injection is pending: KVM_RUN then ends before L2 has it."""
    kicked = seen_in(machine)["kicked"]
    assert kicked["kicks"] >= 100
    assert set(kicked) == {"kicks", "right"}


@EVERY
def test_the_kernel_says_that_it_requested_an_immediate_exit_for_each_event(machine: str) -> None:
    said = seen_in(machine)["entries"]
    assert said["plain"][1] == 0
    in_all, at_once = said["pending"]
    assert ENTERED + WARMUP <= at_once < in_all  # it may have to request one again
    assert seen_in(machine)["kicks_meanwhile"] == 0


@pytest.mark.lab("amd-count", "no-immediate-exit")
def test_the_kernel_says_that_it_requested_none() -> None:
    assert seen_in("amd-count", "no-immediate-exit")["entries"]["pending"][1] == 0


@EVERY
def test_l2_does_no_work_when_an_interrupt_is_pending(machine: str) -> None:
    for iteration in ("plain", "pending", "pending_no_injection"):
        assert not records(machine, iteration)["work"].any(), iteration


@pytest.mark.lab("amd-count", "no-immediate-exit")
def test_without_the_immediate_exit_l2_works_on_until_a_timer_of_the_host() -> None:
    for iteration in ("pending", "pending_no_injection"):
        late = records("amd-count", iteration, "no-immediate-exit")
        assert np.median(late["work"]) > 1000, iteration
        assert late["expected"].all()
        # The event is late, and the injection is delivered all the same.
        assert (late["delivered"] == late["injected"]).all()


@EVERY
def test_l2_works_until_an_asynchronous_interrupt_comes(machine: str) -> None:
    found = records(machine, "asynchronous")
    assert np.median(found["work"]) > 0
    assert len(set(found["work"].tolist())) > len(found["work"]) // 2  # random moments
    assert (found["latency"] > 0).all()
    assert (found["latency"] < 2**63).all()


COMPLAINTS = {
    "svm": {
        "bad_control_field": "VMEXIT_INVALID",
        "bad_guest_state": "VMEXIT_INVALID",
        "l2_triple_fault": "triple fault (EXITCODE 0x7f",
    },
    "vmx": {
        "bad_control_field": "VM-instruction error 7",
        "bad_guest_state": "exit reason 33, exit qualification",
        "l2_triple_fault": "triple fault (exit reason 2",
    },
}
ALWAYS = {"l2_never_exits": "L2 does not leave", "l1_triple_fault": "KVM_EXIT_SHUTDOWN"}


@EVERY
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_hypervisor_is_told_and_does_not_hang(machine: str, broken: str) -> None:
    words = (COMPLAINTS[VENDORS[machine]] | ALWAYS)[broken]
    assert words in (seen_in(machine)["complaints"][broken] or "nothing was said")
