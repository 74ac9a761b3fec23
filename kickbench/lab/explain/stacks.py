# SPDX-License-Identifier: Apache-2.0
"""The call path of each executed instruction, from the instructions alone.

A shadow stack follows calls and returns, entries to the kernel and to the guest, and interrupts.
Nothing is read of the machine's own stack, so it needs no frame pointers and no unwinder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kickbench.lab.explain.flow import Flow, of_x86_64
from kickbench.results.explanation import GUEST

SWITCHES = frozenset({("__switch_to_asm", "__switch_to"), ("cpu_switch_to", "__switch_to")})
"""Where one kernel stack is left for another (entry_64.S, and entry.S of arm64)."""
INTERRUPTED = frozenset({"intr_interception", "el1_irq", "el1_fiq"})
"""KVM's handler of an interrupt in the guest (svm.c, and hyp-entry.S of arm64, in which the two
are one place)."""
ENTRIES = frozenset({"__svm_vcpu_run", "__guest_enter"})
"""The function with VMRUN (arch/x86/kvm/svm/vmenter.S), or with an ERET to the guest
(arch/arm64/kvm/hyp/entry.S). An exit goes on behind VMRUN, or in a vector of VECTORS."""
VECTORS = frozenset({"__kvm_hyp_vector"})
"""Where an exit of arm64 begins (arch/arm64/kvm/hyp/hyp-entry.S)."""


@dataclass(frozen=True)
class Instruction:
    """An executed instruction: where it is, and its bytes."""

    address: int
    code: bytes

    @property
    def end(self) -> int:
        """Where the next one is."""
        return self.address + len(self.code)


@dataclass
class _Frame:
    function: str
    back_to: tuple[int, ...] = ()
    """Where the function may return to: nowhere if it was not seen to be called."""


class _Walk:
    """Follows the instructions of one CPU.

    A part of them is of one stack: the trace begins within its functions, and their callers are
    learned when these return. A switch to another thread begins another part.
    """

    def __init__(self, name: Callable[[int], str], flow: Callable[[bytes], Flow]) -> None:
        self._name = name
        self._flow = flow
        self._frames: list[_Frame] = []
        self._before: Instruction | None = None
        self._callers: list[str] = []
        """Those of the part's first function that are known by now, the nearest first."""
        self._part: list[tuple[int, tuple[str, ...]]] = []
        """The part's instructions: the callers known by then, and the path from there."""
        self.paths: list[tuple[str, ...]] = []

    def take(self, one: Instruction) -> None:
        before, self._before = self._before, one
        if before is None:
            self._begin(one.address)
        else:
            self._follow(before, one)
        path = tuple(frame.function for frame in self._frames)
        self._part.append((len(self._callers), path))

    def finish(self) -> None:
        """The part is over: all its callers that will be known are."""
        for known, path in self._part:
            self.paths.append((*reversed(self._callers[known:]), *path))
        self._part, self._callers = [], []

    def _begin(self, address: int) -> None:
        self.finish()
        self._frames = [_Frame(self._name(address))]

    def _follow(self, before: Instruction, one: Instruction) -> None:
        how, frames = self._flow(before.code), self._frames
        if frames[-1].function == GUEST:  # which may have a VMRUN of its own
            self._leave_guest(one.address)
        elif how is Flow.GUEST:
            if one.address != before.end:  # else it left before its first instruction
                frames.append(_Frame(GUEST, (before.end,)))
        elif how is Flow.LEAVE and frames[-1].function in ENTRIES:
            if self._name(one.address) == GUEST:
                frames.append(_Frame(GUEST))
            else:  # it left before its first instruction
                self._jump(one.address)
        elif how in (Flow.RETURN, Flow.LEAVE):
            self._go_back(one.address)
        elif how is Flow.ENTER or (how is Flow.CALL and one.address != before.end):
            frames.append(_Frame(self._name(one.address), (before.end,)))
        elif how is Flow.NEXT and one.address not in (before.end, before.address):
            # An interrupt, or an exception that tries again. (A string instruction repeats itself.)
            frames.append(_Frame(self._name(one.address), (before.end, before.address)))
        else:
            self._jump(one.address)

    def _leave_guest(self, address: int) -> None:
        frames = self._frames
        if address in frames[-1].back_to:
            frames.pop()
        elif len(frames) > 1 and not frames[-1].back_to and self._name(address) != GUEST:
            frames.pop()
            self._jump(address)  # KVM's vector
        elif len(frames) == 1 and not frames[0].back_to and self._name(address) != GUEST:
            frames[0] = _Frame(self._name(address))
            self._callers.append(frames[0].function)

    def _jump(self, address: int) -> None:
        here, top = self._name(address), self._frames[-1]
        if here == top.function:
            return
        if (top.function, here) in SWITCHES:
            self._begin(address)
        else:  # a tail call
            self._frames[-1] = _Frame(here, top.back_to)

    def _go_back(self, address: int) -> None:
        frames = self._frames
        if (frames[-1].function, self._name(address)) in SWITCHES:
            self._begin(address)
            return
        for place in range(len(frames) - 1, 0, -1):  # the first one was not seen to be called
            if address in frames[place].back_to:
                del frames[place:]
                self._jump(address)
                return
        if len(frames) == 1:
            frames[0] = _Frame(self._name(address))
            self._callers.append(frames[0].function)
        else:
            self._jump(address)  # a jump that looks like a return


def call_paths(
    executed: Iterable[Instruction],
    name: Callable[[int], str],
    flow: Callable[[bytes], Flow] = of_x86_64,
) -> list[tuple[str, ...]]:
    """The call path of each instruction, the outermost function first. ``name`` is of an address:
    GUEST for those that only a guest has. ``flow`` is the architecture's.

    The guest's instructions are one function, GUEST. An interrupt is a call from where it came.
    What one thread does after another is on its own path.
    """
    walk = _Walk(name, flow)
    for one in executed:
        walk.take(one)
    walk.finish()
    return walk.paths


def completed(paths: list[tuple[str, ...]]) -> list[bool]:
    """Whether each was executed to its end: false for those by which a guest left.

    The guest's instruction that makes an exit is begun, and is intercepted. KVM does what it asks
    for, and moves the guest behind it. So the CPU never executed it, and did not count it. A guest
    that is interrupted has executed its last instruction: then KVM's handler is INTERRUPTED.
    """
    found = [True] * len(paths)
    interrupted = False
    following = ""
    for place in range(len(paths) - 1, -1, -1):
        here = paths[place][-1]
        if here != GUEST:
            if (
                following in ENTRIES and following != here
            ):  # an entry after which the guest executed nothing
                interrupted = False
            interrupted |= here in INTERRUPTED
        elif following != GUEST:
            found[place], interrupted = interrupted, False
        following = here
    return found


def fold(paths: Iterable[tuple[str, ...]]) -> Counter[tuple[str, ...]]:
    """How many instructions each call path has: what flame graphs are made of."""
    return Counter(paths)


def self_counts(folded: Counter[tuple[str, ...]]) -> Counter[str]:
    """How many instructions each function has itself."""
    found: Counter[str] = Counter()
    for path, count in folded.items():
        found[path[-1]] += count
    return found


def inclusive_counts(folded: Counter[tuple[str, ...]]) -> Counter[str]:
    """How many instructions each function has with all that it calls. A recursion counts once."""
    found: Counter[str] = Counter()
    for path, count in folded.items():
        for function in set(path):
            found[function] += count
    return found
