# SPDX-License-Identifier: Apache-2.0
"""An explicit-state model checker for kick protocols: can a kick get lost, and if so, how?

The vCPU's thread, the kickers and the kernel are state machines that take one atomic step at a
time, in every possible order. The protocols of the catalogue are in ``MODELS``, each a few steps
that follow its C file line by line. ``check`` visits every reachable state, for any number of
kicks, and says whether

- a kick can be **lost**: the guest runs, nothing is under way any more, and a kick is not taken.
  The guest never leaves by itself, and nobody kicks again;
- the thread can **livelock**: KVM_RUN fails again and again though nobody kicks.

Nothing here measures, and nothing is random. What the machine does:

- Memory is x86-TSO (Owens, Sarkar and Sewell, TPHOLs 2009): a store goes to the CPU's store buffer,
  first in first out, and reaches memory some time later; a load sees the buffer of its own CPU
  first. A locked instruction and a fence wait until the buffer is empty. So does a system call that
  takes a lock: tgkill, sigtimedwait and the delivery of a signal take siglock, KVM_RUN the vCPU's
  mutex.
- A signal is pending from the moment it is sent; a second one merges with it. In user mode the
  handler runs at any later boundary between two steps, or not at all before KVM_RUN is entered. On
  the way back from KVM_RUN it runs before anything else.
- KVM_RUN reads immediate_exit once, on entry (virt/kvm/kvm_main.c: kvm_vcpu_ioctl). After that a
  pending signal makes it fail with EINTR when the mask inside KVM_RUN lets it; the mask is put in
  place and back in one go with it (kvm_sigset_activate, kvm_sigset_deactivate).
- A request of KVM_USER_EXIT is a bit in the kernel. KVM_RUN that finds it returns KVM_EXIT_REQUEST
  and clears it. A vCPU that is leaving for a reason of its own keeps that reason, and forgets the
  request: so says the documentation in the proposal of 2015.

- A kick that is seen before KVM_RUN, after an exit of the guest's own, is taken when the I/O of
  that exit is complete: by a KVM_RUN that must not run the guest (kb_finish_exit). A kick whose
  hook does run it counts as lost.

    python -m tests.protocol_model        # results and counterexamples of the whole catalogue
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple


class Do(Enum):
    """One atomic step of a hook, in words."""

    READ_FLAG = "reads the flag"
    SET_FLAG = "sets its bit of the flag"  # a locked instruction
    STORE_FLAG = "stores the flag"  # not what any C file does: a plain store
    SET_BYTE = "stores immediate_exit = 1"
    CLEAR_BYTE = "stores immediate_exit = 0"
    FENCE = "passes a full fence"
    EAT_SIGNAL = "eats a pending signal with sigtimedwait"
    SEND_SIGNAL = "sends the signal"
    REQUEST_EXIT = "requests the exit from KVM"
    COMPLETE_IO = "enters KVM_RUN to complete the I/O"


Steps = tuple[Do, ...]


@dataclass(frozen=True)
class Protocol:
    """The hooks of one C file. A hook that does not read the flag returns false."""

    before_run: Steps = ()
    after_run: Steps = ()
    handler: Steps = ()
    finish_exit: Steps = ()  # none: the I/O stays pending
    kick: Steps = ()
    blocked: bool = False  # the signal is, outside KVM_RUN
    blocked_inside: bool = False  # and inside: KVM_SET_SIGNAL_MASK

    def without(self, hook: str, step: Do) -> Protocol:
        """The protocol with one step left out."""
        steps = list(getattr(self, hook))
        steps.remove(step)
        return self.having(hook, *steps)

    def having(self, hook: str, *steps: Do) -> Protocol:
        """The protocol with other steps in one hook."""
        names = ("before_run", "after_run", "handler", "finish_exit", "kick")
        hooks = {name: getattr(self, name) for name in names}
        return replace(self, **{**hooks, hook: steps})


# kb_request_kick is SET_FLAG, kb_send_signal SEND_SIGNAL, kb_kick_requested READ_FLAG and
# kb_set_immediate_exit SET_BYTE or CLEAR_BYTE (kickbench/engine/include/kickbench/protocol.h).
MODELS: dict[str, Protocol] = {
    # kickbench/methods/flag_signal.c
    "flag_signal": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.READ_FLAG,),  # kb_after_run, after EINTR
        kick=(Do.SET_FLAG, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/sigmask.c
    "sigmask": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.EAT_SIGNAL, Do.READ_FLAG),  # kb_after_run: eat_signal, then the flag
        finish_exit=(Do.SEND_SIGNAL, Do.COMPLETE_IO, Do.EAT_SIGNAL),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.SEND_SIGNAL),  # kb_kick
        blocked=True,  # kb_enter: pthread_sigmask
        blocked_inside=False,  # kb_enter: kb_set_signal_mask
    ),
    # kickbench/methods/sigmask_same.c: the mask inside KVM_RUN is the one outside
    "sigmask_same": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.READ_FLAG,),  # kb_after_run, after EINTR
        kick=(Do.SET_FLAG, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/immediate_exit.c
    "immediate_exit": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.CLEAR_BYTE, Do.READ_FLAG),  # kb_after_run
        handler=(Do.SET_BYTE,),  # kb_handler
        finish_exit=(Do.SET_BYTE, Do.COMPLETE_IO, Do.CLEAR_BYTE),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/immediate_exit_remote.c
    "immediate_exit_remote": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.CLEAR_BYTE, Do.FENCE, Do.READ_FLAG),  # kb_after_run
        finish_exit=(Do.SET_BYTE, Do.COMPLETE_IO, Do.CLEAR_BYTE),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/immediate_exit_remote_flag_first.c
    "immediate_exit_remote_flag_first": Protocol(
        before_run=(Do.READ_FLAG, Do.CLEAR_BYTE),  # kb_before_run
        finish_exit=(Do.SET_BYTE, Do.COMPLETE_IO, Do.CLEAR_BYTE),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/user_exit.c
    "user_exit": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.READ_FLAG,),  # kb_after_run, after KVM_EXIT_REQUEST
        finish_exit=(Do.REQUEST_EXIT, Do.COMPLETE_IO),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.REQUEST_EXIT),  # kb_kick: KVM_USER_EXIT
    ),
    # kickbench/methods/exitfd.c
    "exitfd": Protocol(
        before_run=(Do.READ_FLAG,),  # kb_before_run
        after_run=(Do.READ_FLAG,),  # kb_after_run, after KVM_EXIT_REQUEST
        finish_exit=(Do.REQUEST_EXIT, Do.COMPLETE_IO),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.REQUEST_EXIT),  # kb_kick: write to the eventfd
    ),
}


@dataclass(frozen=True)
class Setting:
    """The world around a protocol.

    ``kicks`` bounds the kicks of all kickers together; None is any number. A ``patient`` kicker
    waits until its kick is taken before it kicks again, as those of the engine do.
    """

    kickers: int = 1
    kicks: int | None = None
    patient: bool = True
    guest_exits: bool = False  # the guest may leave by itself, at any time
    store_buffers: bool = True  # False: sequential consistency
    kernel_polls_immediate_exit: bool = True
    kernel_remembers_request: bool = True  # of a vCPU that is not in KVM_RUN
    kernel_forgets_request_when_leaving: bool = True


class At(Enum):
    """Where the vCPU's thread is."""

    BEFORE = "kb_before_run"
    RUN = "KVM_RUN is next"
    GUEST = "in the guest"
    LEAVING = "in KVM_RUN, leaving for the guest's own reason"
    AFTER = "kb_after_run"
    FINISH = "kb_finish_exit"
    ASTRAY = "in the guest, in kb_finish_exit"
    TAKE = "kb_take_kick is next"


IN_KVM_RUN = (At.GUEST, At.LEAVING, At.ASTRAY)
Buffer = tuple[tuple[str, int], ...]
IDLE = -1


class Kicker(NamedTuple):
    step: int = IDLE  # of kb_kick, the next one
    buffer: Buffer = ()
    waits: bool = False  # its kick is sent, or being sent, and not taken


class State(NamedTuple):
    at: At
    step: int  # of the hook, the next one
    seen: bool  # the hook has seen the flag set
    handler: int  # step of the handler, the next one
    buffer: Buffer
    pending: bool
    request: bool
    io: bool  # KVM_RUN returned with the guest's own exit, and has not been entered since
    flag: int
    byte: int
    kickers: tuple[Kicker, ...]
    kicks_left: int | None


class Move(NamedTuple):
    """One atomic step. A ``free`` one need not ever happen: a new kick, the guest's own exit."""

    words: str
    state: State
    free: bool = False
    spurious: bool = False


class Machine:
    """A protocol in a setting: the initial state, and the moves out of each."""

    def __init__(self, protocol: Protocol, setting: Setting) -> None:
        self.protocol = protocol
        self.setting = setting
        self.hooks = {
            At.BEFORE: protocol.before_run,
            At.AFTER: protocol.after_run,
            At.FINISH: protocol.finish_exit,
        }
        used = {
            step
            for hook in (*self.hooks.values(), protocol.handler, protocol.kick)
            for step in hook
        }
        self.uses_byte = bool(used & {Do.SET_BYTE, Do.CLEAR_BYTE})

    def initial(self) -> State:
        kickers = (Kicker(),) * self.setting.kickers
        kicks = self.setting.kicks
        return self._come_round(
            State(At.BEFORE, 0, False, IDLE, (), False, False, False, 0, 0, kickers, kicks)
        )

    def moves(self, state: State) -> Iterator[Move]:
        yield from self._drains(state)
        yield from self._signal_delivery(state)
        yield from self._vcpu(state)
        for index in range(len(state.kickers)):
            yield from self._kicker(state, index)

    # -- The vCPU's thread (kickbench/engine/include/kickbench/loop.h: kb_kick_loop) ---------------

    def _vcpu(self, state: State) -> Iterator[Move]:
        if state.handler != IDLE:
            yield from self._handler(state)
        elif state.at in self.hooks:
            yield from self._hook(state)
        elif state.at is At.TAKE:
            yield from self._take(state)
        elif state.at is At.RUN:
            yield from self._enter(state)
        elif state.at is not At.ASTRAY:
            yield from self._leave(state)

    def _hook(self, state: State) -> Iterator[Move]:
        hook = self.hooks[state.at]
        if hook[state.step] is Do.COMPLETE_IO:
            yield from self._complete_io(state)
            return
        done = self._perform(state, hook[state.step])
        if done:
            after, note = done
            words = f"vCPU: {state.at.value} {hook[state.step].value}{note}"
            yield self._ended(after._replace(step=state.step + 1), words)

    def _handler(self, state: State) -> Iterator[Move]:
        step = self.protocol.handler[state.handler]
        done = self._perform(state, step)
        if done:
            following = state.handler + 1
            over = following == len(self.protocol.handler)
            after = done[0]._replace(handler=IDLE if over else following)
            yield Move(f"vCPU: the handler {step.value}{done[1]}", after)

    def _perform(self, state: State, step: Do) -> tuple[State, str] | None:
        """A step of the vCPU's thread; None while it has to wait for the store buffer."""
        if step is Do.READ_FLAG:
            flag = _load(state.buffer, "flag", state.flag)
            return state._replace(seen=flag != 0), f": {'set' if flag else 'not set'}"
        if step in (Do.SET_BYTE, Do.CLEAR_BYTE):
            value = int(step is Do.SET_BYTE)
            if not self.setting.store_buffers:
                return state._replace(byte=value), ""
            return state._replace(buffer=(*state.buffer, ("byte", value))), ""
        if state.buffer:
            return None
        if step is Do.EAT_SIGNAL:
            return state._replace(pending=False), "" if state.pending else ": there is none"
        if step is Do.SEND_SIGNAL:
            return state._replace(pending=True), " to itself"
        if step is Do.REQUEST_EXIT:
            return state._replace(request=self.setting.kernel_remembers_request), ""
        assert step is Do.FENCE, step
        return state, ""

    def _complete_io(self, state: State) -> Iterator[Move]:
        """kb_complete_io: something must be there by which KVM_RUN returns before the guest."""
        if state.buffer:
            return
        words = f"vCPU: kb_finish_exit {Do.COMPLETE_IO.value}"
        polled = state.byte and self.setting.kernel_polls_immediate_exit
        signalled = state.pending and not self.protocol.blocked_inside
        if not (polled or signalled or state.request):
            yield Move(f"{words}, and the guest runs", state._replace(at=At.ASTRAY))
            return
        after, note = self._to_user(state._replace(step=state.step + 1, request=False))
        yield self._ended(after, words + note)

    def _ended(self, state: State, words: str) -> Move:
        after = self._end_hook(state)
        spurious = state.at is At.AFTER and after.at in (At.BEFORE, At.RUN)
        return Move(words, after, spurious=spurious)

    def _end_hook(self, state: State) -> State:
        """Goes on where the loop does when a hook has returned, if it has."""
        if state.step < len(self.hooks[state.at]):
            return state
        following = state._replace(step=0, seen=False)
        if state.at is At.BEFORE and state.seen and state.io and self.protocol.finish_exit:
            return following._replace(at=At.FINISH)
        if state.seen or state.at is At.FINISH:
            return following._replace(at=At.TAKE, io=False)
        if state.at is At.BEFORE:
            return following._replace(at=At.RUN)
        return self._come_round(following)

    def _come_round(self, state: State) -> State:
        return state._replace(at=At.BEFORE if self.protocol.before_run else At.RUN)

    def _take(self, state: State) -> Iterator[Move]:
        """kb_take_kick: a locked exchange, then the answer to whoever had set a bit."""
        if state.buffer:
            return
        kickers = tuple(
            kicker._replace(waits=kicker.waits and not state.flag & 1 << index)
            for index, kicker in enumerate(state.kickers)
        )
        after = self._come_round(state._replace(flag=0, kickers=kickers))
        yield Move("vCPU: kb_take_kick takes the kick", after)

    def _enter(self, state: State) -> Iterator[Move]:
        if state.buffer:
            return
        polled = state.byte and self.setting.kernel_polls_immediate_exit
        sees = f" reads immediate_exit = {state.byte}," if self.uses_byte else ""
        if polled:
            yield self._fail(state, f"vCPU: KVM_RUN{sees} fails with EINTR")
        else:
            words = f"vCPU: KVM_RUN{sees} enters the guest"
            yield Move(words, state._replace(at=At.GUEST, io=False))

    def _leave(self, state: State) -> Iterator[Move]:
        if state.at is At.LEAVING:
            kept = state.request and not self.setting.kernel_forgets_request_when_leaving
            after, note = self._to_user(self._come_round(state._replace(request=kept, io=True)))
            yield Move(f"vCPU: KVM_RUN returns with the guest's exit{note}", after)
            return
        if state.pending and not self.protocol.blocked_inside:
            yield self._fail(state, "vCPU: the signal ends KVM_RUN with EINTR")
        if state.request:
            words = "vCPU: KVM_RUN returns KVM_EXIT_REQUEST"
            yield self._fail(state._replace(request=False), words)
        if self.setting.guest_exits:
            yield Move("vCPU: the guest exits", state._replace(at=At.LEAVING), free=True)

    def _fail(self, state: State, words: str) -> Move:
        """Back in user mode, with EINTR or KVM_EXIT_REQUEST."""
        after, note = self._to_user(state._replace(at=At.AFTER, step=0, seen=False, io=False))
        if after.handler != IDLE or self.protocol.after_run:
            return Move(words + note, after)
        return self._ended(after, words + note)

    def _to_user(self, state: State) -> tuple[State, str]:
        if not state.pending or self.protocol.blocked:
            return state, ""
        return self._run_handler(state), "; the signal's handler runs"

    def _run_handler(self, state: State) -> State:
        return state._replace(pending=False, handler=0 if self.protocol.handler else IDLE)

    # -- Signals and store buffers -----------------------------------------------------------------

    def _signal_delivery(self, state: State) -> Iterator[Move]:
        in_user_mode = state.at not in IN_KVM_RUN and state.handler == IDLE
        if state.pending and in_user_mode and not self.protocol.blocked and not state.buffer:
            what = "runs" if self.protocol.handler else "runs, and does nothing"
            yield Move(f"vCPU: the signal's handler {what}", self._run_handler(state))

    def _drains(self, state: State) -> Iterator[Move]:
        if state.buffer:
            (name, value), *rest = state.buffer
            after = _write(state, name, value)._replace(buffer=tuple(rest))
            yield Move(f"vCPU's store buffer: {_NAMES[name]} = {value} reaches memory", after)
        for index, kicker in enumerate(state.kickers):
            if kicker.buffer:
                (name, value), *rest = kicker.buffer
                after = _write(state, name, value)
                after = _with_kicker(after, index, kicker._replace(buffer=tuple(rest)))
                who = self._who(index)
                yield Move(f"{who}'s store buffer: {_NAMES[name]} = {value} reaches memory", after)

    # -- Kickers -----------------------------------------------------------------------------------

    def _who(self, index: int) -> str:
        return "kicker" if self.setting.kickers == 1 else f"kicker {index}"

    def _kicker(self, state: State, index: int) -> Iterator[Move]:
        kicker = state.kickers[index]
        begins = kicker.step == IDLE
        if begins and (state.kicks_left == 0 or (kicker.waits and self.setting.patient)):
            return
        number = 0 if begins else kicker.step
        step = self.protocol.kick[number]
        if kicker.buffer and step not in (Do.SET_BYTE, Do.STORE_FLAG):
            return
        over = number + 1 == len(self.protocol.kick)
        kicker = kicker._replace(
            step=IDLE if over else number + 1,
            waits=kicker.waits or begins or step in (Do.SET_FLAG, Do.STORE_FLAG),
        )
        if step is Do.SET_FLAG:
            state = state._replace(flag=state.flag | 1 << index)
        elif step is Do.SEND_SIGNAL:
            state = state._replace(pending=True)
        elif step is Do.REQUEST_EXIT:
            in_run = state.at in IN_KVM_RUN
            state = state._replace(request=in_run or self.setting.kernel_remembers_request)
        else:
            name, value = ("byte", 1) if step is Do.SET_BYTE else ("flag", 1 << index)
            if self.setting.store_buffers:
                kicker = kicker._replace(buffer=(*kicker.buffer, (name, value)))
            else:
                state = _write(state, name, value)
        if begins and state.kicks_left is not None:
            state = state._replace(kicks_left=state.kicks_left - 1)
        words = f"{self._who(index)}: kb_kick {step.value}"
        yield Move(words, _with_kicker(state, index, kicker), free=begins)


_NAMES = {"byte": "immediate_exit", "flag": "flag"}


def _load(buffer: Buffer, name: str, memory: int) -> int:
    return next((value for stored, value in reversed(buffer) if stored == name), memory)


def _write(state: State, name: str, value: int) -> State:
    return state._replace(byte=value) if name == "byte" else state._replace(flag=value)


def _with_kicker(state: State, index: int, kicker: Kicker) -> State:
    kickers = (*state.kickers[:index], kicker, *state.kickers[index + 1 :])
    return state._replace(kickers=kickers)


# -- The search ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What was found: shortest counterexamples, line by line, or None where there is none.

    ``spurious`` is the highest number of spurious exits in one run; None when kicks have no bound.
    """

    states: int
    lost: tuple[str, ...] | None
    livelock: tuple[str, ...] | None
    spurious: int | None

    @property
    def word(self) -> str:
        if self.lost:
            return "loses"
        return "livelocks" if self.livelock else "holds"


def check(protocol: Protocol, setting: Setting | None = None) -> Verdict:
    """Visits every reachable state of the protocol in the setting."""
    machine = Machine(protocol, setting or Setting())
    first = machine.initial()
    moves: dict[State, list[Move]] = {}
    reached_by: dict[State, tuple[State, str]] = {}
    queue = deque([first])
    lost = None
    seen = {first}
    while queue:  # breadth first: the first lost state found has a shortest trace
        state = queue.popleft()
        moves[state] = list(machine.moves(state))
        for move in moves[state]:
            if move.state not in seen:
                seen.add(move.state)
                reached_by[move.state] = (state, move.words)
                queue.append(move.state)
        if all(move.free for move in moves[state]):
            assert state.at in (At.GUEST, At.ASTRAY), f"the model itself is stuck: {state}"
            if lost is None and any(kicker.waits for kicker in state.kickers):
                lost = (*_trace(reached_by, state), _end(state))
    cycles = _cycles(moves)
    return Verdict(
        states=len(moves),
        lost=lost,
        livelock=_lasso(moves, reached_by, cycles) if cycles else None,
        spurious=None if cycles or machine.setting.kicks is None else _worst(moves, first),
    )


def _end(state: State) -> str:
    kickers = [str(index) for index, kicker in enumerate(state.kickers) if kicker.waits]
    whose = f" of kicker {' and '.join(kickers)}" if len(state.kickers) > 1 else ""
    if state.at is At.ASTRAY:
        return f"lost: the guest runs, in kb_finish_exit, and the kick{whose} is not taken"
    flag = "set" if state.flag else "not set"
    return (
        f"lost: the guest runs, no signal is pending, the flag is {flag}, and the kick{whose} is "
        "not taken"
    )


def _trace(reached_by: dict[State, tuple[State, str]], state: State) -> list[str]:
    words = []
    while state in reached_by:
        state, step = reached_by[state]
        words.append(step)
    return words[::-1]


def _forced(moves: dict[State, list[Move]]) -> dict[State, list[State]]:
    return {state: [m.state for m in out if not m.free] for state, out in moves.items()}


def _cycles(moves: dict[State, list[Move]]) -> dict[State, list[State]]:
    """What is left of the graph of forced moves without the states that lead out of it for good.

    In a graph with no cycle nothing is: every run ends, in the guest, when nobody kicks any more.
    """
    out = _forced(moves)
    into: dict[State, list[State]] = {state: [] for state in out}
    for state, following in out.items():
        for other in following:
            into[other].append(state)
    left = {state: len(following) for state, following in out.items()}
    ended = [state for state, count in left.items() if count == 0]
    for state in ended:  # grows
        for before in into[state]:
            left[before] -= 1
            if left[before] == 0:
                ended.append(before)
    gone = set(ended)
    return {
        state: [other for other in following if other not in gone]
        for state, following in out.items()
        if state not in gone
    }


def _lasso(
    moves: dict[State, list[Move]],
    reached_by: dict[State, tuple[State, str]],
    cycles: dict[State, list[State]],
) -> tuple[str, ...]:
    """The way to the nearest state on a cycle, then once round."""
    for start in (state for state in moves if state in cycles):
        back: dict[State, tuple[State, str]] = {}
        queue = deque([start])
        while queue and start not in back:
            state = queue.popleft()
            for move in moves[state]:
                if not move.free and move.state in cycles and move.state not in back:
                    back[move.state] = (state, move.words)
                    queue.append(move.state)
        if start in back:
            before, last = back.pop(start)
            loop = [*_trace(back, before), last]
            return (*_trace(reached_by, start), "for ever:", *(f"  {words}" for words in loop))
    raise AssertionError("a graph without ends has a cycle")


def _worst(moves: dict[State, list[Move]], first: State) -> int:
    """The longest path by its number of spurious exits; there is no cycle."""
    worst: dict[State, int] = {}
    stack = [first]
    while stack:
        state = stack[-1]
        todo = [m.state for m in moves[state] if m.state not in worst]
        if todo:
            stack.extend(todo)
            continue
        stack.pop()
        worst[state] = max((worst[m.state] + m.spurious for m in moves[state]), default=0)
    return worst[first]


def in_words(trace: tuple[str, ...]) -> str:
    """A counterexample as numbered lines."""
    number = 0
    lines = []
    for words in trace:
        if words.startswith(("lost:", "for ever:")):
            lines.append(f"    {words}")
        else:
            number += 1
            lines.append(f"{number:2}. {words}")
    return "\n".join(lines)


# -- The whole catalogue, for docs/memory_ordering.md ----------------------------------------------

ASKED: dict[str, Setting] = {
    "1 kicker": Setting(),
    "2 kickers": Setting(kickers=2),
    "2, impatient": Setting(kickers=2, patient=False),
    "2, and the guest may exit": Setting(kickers=2, guest_exits=True),
}


def table(word: Callable[[Protocol, Setting], str] = lambda p, s: check(p, s).word) -> str:
    """The verdicts on every protocol, and the most spurious exits that one kick can cause."""
    head = ["protocol", *ASKED, "states", "spurious exits"]
    rows = [head, ["---"] * len(head)]
    for name, protocol in MODELS.items():
        words = [word(protocol, setting) for setting in ASKED.values()]
        states = sum(check(protocol, setting).states for setting in ASKED.values())
        spurious = check(protocol, Setting(kicks=1)).spurious
        rows.append([f"`{name}`", *words, f"{states:,}", str(spurious)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# Variants of the models that the documents show: what a step is there for.
VARIANTS: dict[str, tuple[Protocol, Setting]] = {
    "flag_signal": (MODELS["flag_signal"], Setting()),
    "immediate_exit_remote_flag_first": (
        MODELS["immediate_exit_remote_flag_first"],
        Setting(store_buffers=False),
    ),
    "immediate_exit_remote without its fence": (
        MODELS["immediate_exit_remote"].without("after_run", Do.FENCE),
        Setting(),
    ),
    "immediate_exit that is never cleared": (
        MODELS["immediate_exit"].without("after_run", Do.CLEAR_BYTE),
        Setting(),
    ),
    "user_exit without a look at the flag, and a guest that exits": (
        MODELS["user_exit"].without("before_run", Do.READ_FLAG),
        Setting(guest_exits=True),
    ),
}


def counterexample(name: str) -> str:
    """The counterexample of a variant, in words."""
    verdict = check(*VARIANTS[name])
    trace = verdict.lost or verdict.livelock
    assert trace, f"{name} holds"
    return in_words(trace)


if __name__ == "__main__":
    print(table())
    for variant in VARIANTS:
        print(f"\n{variant}:\n{counterexample(variant)}")
