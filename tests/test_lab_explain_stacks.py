# SPDX-License-Identifier: Apache-2.0
"""Call paths from executed instructions alone: on small programs whose paths are known."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.lab.explain.flow import Flow, of_arm64, of_x86_64
from kickbench.lab.explain.stacks import (
    GUEST,
    Instruction,
    call_paths,
    completed,
    fold,
    inclusive_counts,
    self_counts,
)

NOP, CALL, RET, JMP = b"\x90", b"\xe8\0\0\0\0", b"\xc3", b"\xeb\x00"
SYSCALL, SYSRET, IRET, VMRUN = b"\x0f\x05", b"\x48\x0f\x07", b"\x48\xcf", b"\x0f\x01\xd8"
IN = b"\xed"
# Each function has 0x100 bytes: a at 0x1000, b at 0x1100, ...
FUNCTIONS = "abcdefgh"


def name(address: int) -> str:
    return FUNCTIONS[(address - 0x1000) >> 8]


def at(function: str, offset: int = 0) -> int:
    return 0x1000 + 0x100 * FUNCTIONS.index(function) + offset


def program(*steps: tuple[str, int, bytes]) -> list[Instruction]:
    return [Instruction(at(function, offset), code) for function, offset, code in steps]


def paths(*steps: tuple[str, int, bytes]) -> list[str]:
    return ["".join(path) for path in call_paths(program(*steps), name)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("90", Flow.NEXT),
        ("4889c3", Flow.NEXT),
        ("e800000000", Flow.CALL),
        ("ff15aabbccdd", Flow.CALL),  # call *disp(%rip)
        ("41ffd3", Flow.CALL),  # call *%r11
        ("3effd0", Flow.CALL),  # notrack call *%rax
        ("ffe0", Flow.JUMP),
        ("ffc0", Flow.NEXT),  # inc %eax
        ("ff30", Flow.NEXT),  # push (%rax)
        ("7405", Flow.JUMP),
        ("0f8400000000", Flow.JUMP),
        ("e9ffffffff", Flow.JUMP),
        ("e2fe", Flow.JUMP),  # loop
        ("c3", Flow.RETURN),
        ("f3c3", Flow.RETURN),
        ("c20800", Flow.RETURN),
        ("0f05", Flow.ENTER),
        ("cd80", Flow.ENTER),
        ("480f07", Flow.LEAVE),
        ("48cf", Flow.LEAVE),
        ("0f01d8", Flow.GUEST),
        ("0f01c2", Flow.GUEST),
        ("0f01f9", Flow.NEXT),  # rdtscp
        ("0f1f8400c0ffee00", Flow.NEXT),
        ("", Flow.NEXT),
    ],
)
def test_the_flow_of_an_instruction(code: str, expected: Flow) -> None:
    assert of_x86_64(bytes.fromhex(code)) is expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0x94000002, 0xD63F0060, 0xD63F087F, 0xD73F0864), Flow.CALL),  # bl, blr, blraaz, blraa
        ((0xD65F03C0, 0xD65F0BFF, 0xD65F00A0), Flow.RETURN),  # ret, retaa, ret x5
        ((0xD61F0060, 0xD61F087F, 0x14000001, 0x54000020), Flow.JUMP),  # br, braaz, b, b.eq
        ((0xB4000020, 0x35000020, 0x36180020, 0x37180020), Flow.JUMP),  # cbz, cbnz, tbz, tbnz
        ((0xD4000001, 0xD4000002), Flow.ENTER),  # svc, hvc
        ((0xD69F03E0, 0xD69F0BFF), Flow.LEAVE),  # eret, eretaa
        ((0xD53BE040, 0xD503201F, 0xD503207F, 0xD2896C1F), Flow.NEXT),  # mrs, nop, wfi, a mark
    ],
)
def test_the_flow_of_an_arm64_instruction(words: tuple[int, ...], expected: Flow) -> None:
    for word in words:
        assert of_arm64(word.to_bytes(4, "little")) is expected


def test_calls_and_returns() -> None:
    assert paths(("a", 0, CALL), ("b", 0, CALL), ("c", 0, RET), ("b", 5, RET), ("a", 5, NOP)) == [
        "a",
        "ab",
        "abc",
        "ab",
        "a",
    ]


def test_a_tail_call_takes_the_place_of_its_caller() -> None:
    assert paths(("a", 0, CALL), ("b", 0, JMP), ("c", 0, RET), ("a", 5, NOP)) == [
        "a",
        "ab",
        "ac",
        "a",
    ]


def test_a_call_of_the_next_instruction_is_no_function() -> None:
    assert paths(("a", 0, CALL), ("a", 5, NOP)) == ["a", "a"]


def test_a_return_that_skips_functions() -> None:
    # As after longjmp(3), or a thunk that returns to where it was asked to jump.
    assert paths(("a", 0, CALL), ("b", 0, CALL), ("c", 0, RET), ("a", 5, NOP)) == [
        "a",
        "ab",
        "abc",
        "a",
    ]


def test_a_system_call() -> None:
    assert paths(
        ("a", 0, SYSCALL), ("b", 0, CALL), ("c", 0, RET), ("b", 5, SYSRET), ("a", 2, NOP)
    ) == ["a", "ab", "abc", "ab", "a"]


def test_an_interrupt_comes_back_behind_the_instruction_and_a_fault_to_it() -> None:
    interrupt = [("a", 0, NOP), ("d", 0, NOP), ("d", 1, IRET), ("a", 1, NOP)]
    fault = [("a", 0, NOP), ("d", 0, NOP), ("d", 1, IRET), ("a", 0, NOP), ("a", 1, NOP)]
    assert paths(*interrupt) == ["a", "ad", "ad", "a"]
    assert paths(*fault) == ["a", "ad", "ad", "a", "a"]


def test_an_instruction_that_repeats_itself_is_no_interrupt() -> None:
    assert paths(("a", 0, b"\xf3\xa4"), ("a", 0, b"\xf3\xa4"), ("a", 2, NOP)) == ["a", "a", "a"]


def test_the_guest_is_one_function_and_its_last_instruction_is_not_complete() -> None:
    steps = [("a", 0, VMRUN), ("e", 0, CALL), ("f", 0, IN), ("a", 3, NOP)]
    found = call_paths(program(*steps), name)
    assert found == [("a",), ("a", GUEST), ("a", GUEST), ("a",)]
    assert completed(found) == [True, True, False, True]


def test_an_interrupted_guest_has_executed_its_last_instruction() -> None:
    names = {"a": "__svm_vcpu_run", "b": "svm_handle_exit", "c": "intr_interception", "e": GUEST}
    run = [("a", 0, VMRUN), ("e", 0, NOP), ("e", 1, NOP), ("a", 3, RET)]

    def kept(*handlers: str) -> list[bool]:
        steps = [step for one in handlers for step in (*run, (one, 0, RET))]
        found = call_paths(program(*steps), lambda address: names[name(address)])
        return [is_kept for path, is_kept in zip(found, completed(found), strict=True)
                if path[-1] == GUEST]  # fmt: skip

    assert kept("c") == [True, True]
    assert kept("b", "c", "b") == [True, False, True, True, True, False]


def test_an_entry_after_which_the_guest_does_nothing_is_no_interrupt_of_the_one_before() -> None:
    names = {"a": "__svm_vcpu_run", "b": "svm_handle_exit", "c": "intr_interception", "e": GUEST}
    steps = [("a", 0, VMRUN), ("e", 0, IN), ("a", 3, RET), ("b", 0, NOP)]
    steps += [("a", 0, VMRUN), ("a", 3, RET), ("c", 0, RET)]
    found = call_paths(program(*steps), lambda address: names[name(address)])
    assert [path[-1] for path in found].count(GUEST) == 1
    assert completed(found) == [True, False, True, True, True, True, True]


def test_on_arm64_a_guest_is_entered_by_eret_and_leaves_to_a_vector() -> None:
    names = {"a": "kvm_vcpu_run", "b": "__guest_enter", "c": "el1_sync", "e": GUEST}
    names |= {"d": "el1_irq"}

    def word(code: int) -> bytes:
        return code.to_bytes(4, "little")

    nop, bl, b, ret, eret = map(word, (0xD503201F, 0x94000000, 0x14000000, 0xD65F03C0, 0xD69F03E0))

    def walk(vector: str) -> list[tuple[str, ...]]:
        steps = [("a", 0, bl), ("b", 0, eret), ("e", 0, nop), ("e", 4, nop), (vector, 0, b)]
        steps += [("b", 8, ret), ("a", 4, nop)]
        return call_paths(program(*steps), lambda where: names[name(where)], of_arm64)

    found = walk("c")
    run, enter = "kvm_vcpu_run", "__guest_enter"
    guest = (run, enter, GUEST)
    assert found == [(run,), (run, enter), guest, guest, (run, "el1_sync"), (run, enter), (run,)]
    assert completed(found) == [True, True, True, False, True, True, True]
    assert all(completed(walk("d")))
    left_at_once = [("a", 0, bl), ("b", 0, eret), ("d", 0, b), ("b", 8, ret), ("a", 4, nop)]
    found = call_paths(program(*left_at_once), lambda where: names[name(where)], of_arm64)
    assert found == [(run,), (run, enter), (run, "el1_irq"), (run, enter), (run,)]


def test_on_arm64_a_switch_to_another_stack_is_a_return() -> None:
    names = {"a": "schedule", "b": "__switch_to", "c": "cpu_switch_to", "d": "wait"}
    bl, ret = (0x94000000).to_bytes(4, "little"), (0xD65F03C0).to_bytes(4, "little")
    steps = [("a", 0, bl), ("b", 0, bl), ("c", 0, ret), ("b", 4, ret), ("a", 8, ret), ("d", 4, ret)]
    found = call_paths(program(*steps), lambda where: names[name(where)], of_arm64)
    assert found[2] == ("schedule", "__switch_to", "cpu_switch_to")
    assert found[3:] == [("wait", "schedule", "__switch_to"), ("wait", "schedule"), ("wait",)]


def test_a_guest_may_have_a_vmrun_of_its_own() -> None:
    steps = [("a", 0, VMRUN), ("e", 0, VMRUN), ("a", 3, NOP), ("b", 0, NOP)]
    assert paths(*steps)[:3] == ["a", f"a{GUEST}", "a"]


def test_what_begins_in_a_guest_learns_who_runs_it() -> None:
    names = {"a": "run", "b": "handle", "e": GUEST}
    steps = [("e", 0, NOP), ("e", 1, IN), ("a", 3, RET), ("b", 5, NOP)]
    assert call_paths(program(*steps), lambda address: names[name(address)]) == [
        ("handle", "run", GUEST),
        ("handle", "run", GUEST),
        ("handle", "run"),
        ("handle",),
    ]


def test_the_callers_of_the_first_function_are_learned_when_it_returns() -> None:
    assert paths(("c", 0, NOP), ("c", 1, RET), ("b", 5, CALL), ("d", 0, RET), ("b", 10, RET),
                 ("a", 5, NOP)) == ["abc", "abc", "ab", "abd", "ab", "a"]  # fmt: skip


def test_another_thread_is_on_its_own_path() -> None:
    names = {"a": "kick", "b": "schedule", "c": "__switch_to_asm", "d": "__switch_to", "e": "run"}
    executed = program(
        ("a", 0, CALL),
        ("b", 0, CALL),
        ("c", 0, JMP),
        ("d", 0, RET),
        ("b", 5, RET),  # the same place in schedule(), of the other thread
        ("e", 5, NOP),
    )
    assert call_paths(executed, lambda address: names[name(address)]) == [
        ("kick",),
        ("kick", "schedule"),
        ("kick", "schedule", "__switch_to_asm"),
        ("run", "schedule", "__switch_to"),
        ("run", "schedule"),
        ("run",),
    ]


@st.composite
def nested_calls(draw: st.DrawFn) -> tuple[list[Instruction], list[str]]:
    """A program of nested calls, and the path of each of its instructions."""
    executed: list[Instruction] = []
    expected: list[str] = []

    def run(path: str, budget: int) -> None:
        address = at(path[-1])
        for calls in draw(st.lists(st.booleans(), max_size=4)):
            if calls and budget:
                callee = draw(st.sampled_from(FUNCTIONS))
                executed.append(Instruction(address, CALL))
                expected.append(path)
                address += len(CALL)
                run(path + callee, budget - 1)
            else:
                executed.append(Instruction(address, NOP))
                expected.append(path)
                address += len(NOP)
        if len(path) > 1:
            executed.append(Instruction(address, RET))
            expected.append(path)

    run(draw(st.sampled_from(FUNCTIONS)), 4)
    return executed, expected


@given(nested_calls())
def test_any_nesting_of_calls(made: tuple[list[Instruction], list[str]]) -> None:
    executed, expected = made
    found = call_paths(executed, name)
    assert ["".join(path) for path in found] == expected
    folded = fold(found)
    own, inclusive = self_counts(folded), inclusive_counts(folded)
    assert folded.total() == own.total() == len(executed)
    assert own == Counter(path[-1] for path in expected)
    assert inclusive == Counter(function for path in expected for function in set(path))


@given(
    st.lists(
        st.tuples(
            st.integers(0x1000, 0x17FF),
            st.sampled_from([NOP, CALL, RET, JMP, SYSCALL, SYSRET, IRET, VMRUN, IN]),
        ),
        min_size=1,
    )
)
def test_whatever_is_executed_each_instruction_has_a_path(steps: list[tuple[int, bytes]]) -> None:
    executed = [Instruction(address, code) for address, code in steps]
    found = call_paths(executed, name)
    assert len(found) == len(completed(found)) == len(executed)
    assert all(found)
    assert all(
        path[-1] in (GUEST, name(one.address)) for path, one in zip(found, executed, strict=True)
    )
