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

- Memory is that of x86 or of Armv8 (``memory_models``). Each CPU has a window of accesses that it
  has not performed yet, in program order. It performs any of them that need not wait for an earlier
  one. An access that nothing may overtake is performed at once. A load that may be overtaken, and
  whose value decides what the thread does next, goes on with a value that it expects. It is
  performed when memory has that value. If memory never has, this is no run.
- tgkill, sigtimedwait and the delivery of a signal take siglock. KVM_RUN takes the vCPU's mutex. A
  lock is taken by an atomic that acquires, and left by one that releases. On x86 both are full
  fences, on Armv8 neither is. KVM enters the guest behind a full fence on both: that is the one
  after vcpu->mode has become IN_GUEST_MODE (arch/arm64/kvm/arm.c: smp_store_mb).
- A signal is pending from the moment it is sent; a second one merges with it. In user mode the
  handler runs at any later boundary between two steps, or not at all before KVM_RUN is entered. On
  the way back from KVM_RUN it runs before anything else.
- KVM_RUN reads immediate_exit once, on entry (virt/kvm/kvm_main.c: kvm_vcpu_ioctl). After that a
  pending signal makes it fail with EINTR when the mask inside KVM_RUN lets it; the mask is put in
  place and back in one go with it (kvm_sigset_activate, kvm_sigset_deactivate).
- A request of KVM_USER_EXIT is a bit in the kernel, which is set behind smp_wmb()
  (include/linux/kvm_host.h: kvm_make_request). KVM_RUN that finds it returns KVM_EXIT_REQUEST and
  clears it. A vCPU that is leaving for a reason of its own keeps that reason, and forgets the
  request: so says the documentation in the proposal of 2015.

- A kick that is seen before KVM_RUN, after an exit of the guest's own, is taken when the I/O of
  that exit is complete: by a KVM_RUN that must not run the guest (kb_finish_exit). A kick whose
  hook does run it counts as lost.

    python -m tests.protocol_model        # results and counterexamples of the whole catalogue
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import NamedTuple

from memory_models import ARM, SC, TSO, Access, Kind, Model, Window


class Do(Enum):
    """One atomic step of a hook, in words."""

    READ_FLAG = "reads the flag"
    SET_FLAG = "sets its bit of the flag"  # a locked instruction
    STORE_FLAG = "stores the flag"  # not what any C file does: a plain store
    FENCE_FLAG = "passes kb_fence_flag"  # on x86 only the compiler's
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
        kick=(Do.SET_FLAG, Do.FENCE_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),  # kb_kick
    ),
    # kickbench/methods/immediate_exit_remote_flag_first.c
    "immediate_exit_remote_flag_first": Protocol(
        before_run=(Do.READ_FLAG, Do.CLEAR_BYTE),  # kb_before_run
        finish_exit=(Do.SET_BYTE, Do.COMPLETE_IO, Do.CLEAR_BYTE),  # kb_finish_exit
        kick=(Do.SET_FLAG, Do.FENCE_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),  # kb_kick
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
    memory: Model = TSO
    take_releases: bool = True  # the exchange of kb_take_kick
    kernel_orders: bool = True  # siglock, and smp_wmb() before a request
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

    __hash__ = object.__hash__  # the checker hashes millions


IN_KVM_RUN = (At.GUEST, At.LEAVING, At.ASTRAY)
IDLE = -1

# What kb_take_kick and siglock begin with: an atomic instruction that acquires.
ATOMIC = Access(Kind.LOAD, acquire=True, weakly=True, atomic=True)


class Kicker(NamedTuple):
    step: int = IDLE  # of kb_kick, the next one
    window: Window = ()
    waits: bool = False  # its kick is sent, or being sent, and not taken


class State(NamedTuple):
    at: At
    step: int  # of the hook, the next one
    seen: bool  # the hook has seen the flag set
    handler: int  # step of the handler, the next one
    window: Window
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
        self.memory = setting.memory
        self._late_words = "'s store buffer" if self.memory is TSO else ", late"
        self.hooks = {
            At.BEFORE: protocol.before_run,
            At.AFTER: protocol.after_run,
            At.FINISH: protocol.finish_exit,
        }
        self.kicks = [  # each kicker's steps, and what they do to memory
            tuple(
                (step, self._access(step, index))
                for step in protocol.kick
                if step is not Do.FENCE_FLAG or self.memory is ARM
            )
            for index in range(setting.kickers)
        ]
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
        yield from self._late(state)
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
        """A step of the vCPU's thread; None while it has to wait."""
        if step is Do.READ_FLAG:
            if not self._ready(state, Access(Kind.LOAD, "flag", acquire=True, weakly=True)):
                return None
            return state._replace(seen=state.flag != 0), f": {'set' if state.flag else 'not set'}"
        if step in (Do.SET_BYTE, Do.CLEAR_BYTE):
            return self._store(state, Access(Kind.STORE, "byte", int(step is Do.SET_BYTE))), ""
        if step is Do.FENCE:
            return (state, "") if self._ready(state, Access(Kind.FENCE)) else None
        if step is Do.REQUEST_EXIT:
            if not self._ready(state, ATOMIC._replace(place="request")):
                return None
            return state._replace(request=self.setting.kernel_remembers_request), ""
        if not self._ready(state, ATOMIC._replace(place="signal")):
            return None
        note = "" if state.pending else ": there is none"
        if step is Do.SEND_SIGNAL:
            note = " to itself"
        return self._under_siglock(state, pending=step is Do.SEND_SIGNAL), note

    def _complete_io(self, state: State) -> Iterator[Move]:
        """kb_complete_io: something must be there by which KVM_RUN returns before the guest."""
        if not self._ready(state, ATOMIC._replace(place="mutex")):
            return
        words = f"vCPU: kb_finish_exit {Do.COMPLETE_IO.value}"
        own = self.memory.forwarded(state.window, Access(Kind.LOAD, "byte"))
        polled = (own.value if own else state.byte) and self.setting.kernel_polls_immediate_exit
        signalled = state.pending and not self.protocol.blocked_inside
        if not (polled or signalled or state.request):
            yield Move(f"{words}, and the guest runs", state._replace(at=At.ASTRAY))
            return
        following = state._replace(step=state.step + 1, request=False)
        for after, note in self._to_user(following):
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
        """kb_take_kick: an atomic exchange, then the answer to whoever had set a bit."""
        if not self._ready(state, ATOMIC._replace(place="flag")):
            return
        taken = Access(
            Kind.STORE, "flag", state.flag, release=self.setting.take_releases, atomic=True
        )
        after = self._come_round(self._store(state, taken))
        yield Move("vCPU: kb_take_kick takes the kick", after)

    def _enter(self, state: State) -> Iterator[Move]:
        if not self._ready(state, ATOMIC._replace(place="mutex")):
            return
        for after, value, words in self._read_byte(state):
            if value and self.setting.kernel_polls_immediate_exit:
                yield from self._fail(after, f"vCPU: KVM_RUN{words} fails with EINTR")
            else:
                entered = after._replace(at=At.GUEST, io=False)
                yield Move(f"vCPU: KVM_RUN{words} enters the guest", entered)

    def _read_byte(self, state: State) -> Iterator[tuple[State, int, str]]:
        """What KVM_RUN may read on entry, or go on with until it is read."""
        load = Access(Kind.LOAD, "byte")
        if not self.uses_byte:
            yield state, 0, ""
            return
        if self.memory.ready(state.window, load):
            own = self.memory.forwarded(state.window, load)
            value = own.value if own else state.byte
            yield state, value, f" reads immediate_exit = {value},"
        if self.memory.lags(load):
            for value in (0, 1):
                window = (*state.window, load._replace(value=value, register="byte"))
                words = f" goes on with immediate_exit = {value},"
                yield state._replace(window=window), value, words

    def _leave(self, state: State) -> Iterator[Move]:
        if state.at is At.LEAVING:
            kept = state.request and not self.setting.kernel_forgets_request_when_leaving
            following = self._come_round(state._replace(request=kept, io=True))
            for after, note in self._to_user(following):
                yield Move(f"vCPU: KVM_RUN returns with the guest's exit{note}", after)
            return
        if state.pending and not self.protocol.blocked_inside:
            yield from self._fail(state, "vCPU: the signal ends KVM_RUN with EINTR")
        if state.request:
            words = "vCPU: KVM_RUN returns KVM_EXIT_REQUEST"
            yield from self._fail(state._replace(request=False), words)
        if self.setting.guest_exits and self._ready(state, Access(Kind.FENCE)):
            yield Move("vCPU: the guest exits", state._replace(at=At.LEAVING), free=True)

    def _fail(self, state: State, words: str) -> Iterator[Move]:
        """Back in user mode, with EINTR or KVM_EXIT_REQUEST."""
        failed = state._replace(at=At.AFTER, step=0, seen=False, io=False)
        for after, note in self._to_user(failed):
            if after.handler != IDLE or self.protocol.after_run:
                yield Move(words + note, after)
            else:
                yield self._ended(after, words + note)

    def _to_user(self, state: State) -> Iterator[tuple[State, str]]:
        """KVM_RUN unlocks the mutex, and a signal that is not blocked is delivered. A step that has
        to wait is no step yet."""
        unlocked = Access(Kind.STORE, "mutex", release=True, atomic=True)
        after = self._store(state, unlocked)
        if not state.pending or self.protocol.blocked:
            yield after, ""
        elif self._ready(after, ATOMIC._replace(place="signal")):
            yield self._run_handler(after), "; the signal's handler runs"

    def _run_handler(self, state: State) -> State:
        after = self._under_siglock(state, pending=False)
        return after._replace(handler=0 if self.protocol.handler else IDLE)

    # -- Signals, and accesses that are performed late ---------------------------------------------

    def _signal_delivery(self, state: State) -> Iterator[Move]:
        in_user_mode = state.at not in IN_KVM_RUN and state.handler == IDLE
        if not state.pending or not in_user_mode or self.protocol.blocked:
            return
        if self._ready(state, ATOMIC._replace(place="signal")):
            what = "runs" if self.protocol.handler else "runs, and does nothing"
            yield Move(f"vCPU: the signal's handler {what}", self._run_handler(state))

    def _ready(self, state: State, access: Access) -> bool:
        """Can the vCPU's thread perform the access now?"""
        return self.memory.ready(state.window, access)

    def _store(self, state: State, store: Access) -> State:
        """A store of the vCPU's thread.

        The second half of an atomic instruction is performed at once, if it can be: until it is,
        the other CPUs only wait.
        """
        if self.memory.ready(state.window, store) and (store.atomic or not self.memory.lags(store)):
            return _write(state, store)
        return state._replace(window=(*state.window, store))

    def _under_siglock(self, state: State, *, pending: bool) -> State:
        unlocked = Access(Kind.STORE, "signal", release=self.setting.kernel_orders, atomic=True)
        return self._store(state._replace(pending=pending), unlocked)

    def _late(self, state: State) -> Iterator[Move]:
        window = state.window
        for index, access in enumerate(window):
            rest = window[:index] + window[index + 1 :]
            if not self.memory.ready(window[:index], access):
                continue
            after = state._replace(window=rest)
            if access.kind is Kind.LOAD:
                own = self.memory.forwarded(window[:index], access)
                if (own.value if own else state.byte) != access.value:
                    continue
                words = f"vCPU{self._late_words}: immediate_exit = {access.value} is read"
                yield Move(words, after)
            else:
                words = _LATE.get(access.place) or f"immediate_exit = {access.value} reaches memory"
                yield Move(f"vCPU{self._late_words}: {words}", _write(after, access))
        for index, kicker in enumerate(state.kickers):
            for place, access in enumerate(kicker.window):
                rest = kicker.window[:place] + kicker.window[place + 1 :]
                if not self.memory.ready(kicker.window[:place], access):
                    continue
                if access.atomic and _is_held(state, access.place):
                    continue
                after = _with_kicker(state, index, kicker._replace(window=rest))
                words = f"{_NAMES[access.place]} = {access.value} reaches memory"
                who = f"{self._who(index)}{self._late_words}"
                yield Move(f"{who}: {words}", _set(after, access))

    # -- Kickers -----------------------------------------------------------------------------------

    def _who(self, index: int) -> str:
        return "kicker" if self.setting.kickers == 1 else f"kicker {index}"

    def _kicker(self, state: State, index: int) -> Iterator[Move]:
        """The next step of kb_kick.

        A kick begins when all accesses of the kicker's last one are performed. Its first access is
        a release, so that nothing else could be seen of an earlier beginning.
        """
        kicker = state.kickers[index]
        begins = kicker.step == IDLE
        if begins and (state.kicks_left == 0 or (kicker.waits and self.setting.patient)):
            return
        number = 0 if begins else kicker.step
        step, access = self.kicks[index][number]
        now = not self.memory.lags(access) or step in (Do.SEND_SIGNAL, Do.REQUEST_EXIT)
        if kicker.window and (begins or (now and not self.memory.ready(kicker.window, access))):
            return
        if now and _is_held(state, access.place):
            return
        over = number + 1 == len(self.kicks[index])
        kicker = kicker._replace(
            step=IDLE if over else number + 1,
            waits=kicker.waits or begins or step in (Do.SET_FLAG, Do.STORE_FLAG),
            window=kicker.window if now else (*kicker.window, access),
        )
        if now:
            state = self._done(state, step, access)
        if begins and state.kicks_left is not None:
            state = state._replace(kicks_left=state.kicks_left - 1)
        words = f"{self._who(index)}: kb_kick {step.value}"
        yield Move(words, _with_kicker(state, index, kicker), free=begins)

    def _access(self, step: Do, index: int) -> Access:
        """What a step of kb_kick does to memory. A system call is the store that ends it."""
        orders = self.setting.kernel_orders
        return {
            Do.SET_FLAG: Access(Kind.STORE, "flag", 1 << index, release=True, atomic=True),
            Do.STORE_FLAG: Access(Kind.STORE, "flag", 1 << index),
            Do.SET_BYTE: Access(Kind.STORE, "byte", 1),
            Do.FENCE_FLAG: Access(Kind.FENCE),
            Do.SEND_SIGNAL: Access(Kind.STORE, "signal", release=orders, atomic=True),
            Do.REQUEST_EXIT: Access(Kind.STORE, "request", release=orders, atomic=True),
        }[step]

    def _done(self, state: State, step: Do, access: Access) -> State:
        if step is Do.SEND_SIGNAL:
            return state._replace(pending=True)
        if step is Do.REQUEST_EXIT:
            in_run = state.at in IN_KVM_RUN
            return state._replace(request=in_run or self.setting.kernel_remembers_request)
        return _set(state, access)


_NAMES = {"byte": "immediate_exit", "flag": "flag"}
# The second half of what an atomic instruction of the vCPU's thread began.
_LATE = {
    "flag": "the exchange of kb_take_kick reaches memory",
    "signal": "siglock is free",
    "mutex": "the vCPU's mutex is free",
}


def _is_held(state: State, place: str) -> bool:
    """The vCPU's thread is between the two halves of an atomic instruction, or holds the lock."""
    return any(access.atomic and access.place == place for access in state.window)


def _write(state: State, store: Access) -> State:
    """A store of the vCPU's thread is performed. That of the flag takes the bits of its value."""
    if store.place == "flag":
        kickers = tuple(
            kicker._replace(waits=kicker.waits and not store.value & 1 << index)
            for index, kicker in enumerate(state.kickers)
        )
        return state._replace(flag=0, kickers=kickers)
    return _set(state, store)


def _set(state: State, store: Access) -> State:
    if store.place == "byte":
        return state._replace(byte=store.value)
    if store.place == "flag":
        return state._replace(flag=state.flag | store.value if store.atomic else store.value)
    return state  # a fence, or a lock that is free again


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


class Edge(NamedTuple):
    """A move, to the state of that number."""

    words: str
    to: int
    free: bool
    spurious: bool


Graph = dict[int, list[Edge]]


@cache
def check(protocol: Protocol, setting: Setting | None = None) -> Verdict:
    """Visits every reachable state of the protocol in the setting."""
    machine = Machine(protocol, setting or Setting())
    states = [machine.initial()]
    number = {states[0]: 0}
    moves: Graph = {}
    reached_by: dict[int, tuple[int, str]] = {}
    lost = None
    for at, state in enumerate(states):  # grows breadth first: the first trace found is a shortest
        moves[at] = []
        for move in machine.moves(state):
            to = number.setdefault(move.state, len(states))
            if to == len(states):
                states.append(move.state)
                reached_by[to] = (at, move.words)
            moves[at].append(Edge(move.words, to, move.free, move.spurious))
        if all(move.free for move in moves[at]):
            ended = state.at in (At.GUEST, At.ASTRAY) and not state.window
            assert ended or _expects(state), f"the model itself is stuck: {state}"
            if ended and lost is None and any(kicker.waits for kicker in state.kickers):
                lost = (*_trace(reached_by, at), _end(state))
    moves = _real(moves, [at for at, state in enumerate(states) if not _expects(state)])
    cycles = _cycles(moves)
    return Verdict(
        states=len(moves),
        lost=lost,
        livelock=_lasso(moves, reached_by, cycles) if cycles else None,
        spurious=None if cycles or machine.setting.kicks is None else _worst(moves, 0),
    )


def _expects(state: State) -> bool:
    """A load has not been performed yet. It is known later whether this is a run at all."""
    return any(access.kind is Kind.LOAD for access in state.window)


def _real(moves: Graph, real: list[int]) -> Graph:
    """What leads to one of the real states. From the others memory never has what a load expects,
    so that they are in no run."""
    into: dict[int, list[int]] = {state: [] for state in moves}
    for state, out in moves.items():
        for move in out:
            into[move.to].append(state)
    kept = set(real)
    for state in real:  # grows
        for before in into[state]:
            if before not in kept:
                kept.add(before)
                real.append(before)
    return {state: [move for move in moves[state] if move.to in kept] for state in sorted(kept)}


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


def _trace(reached_by: dict[int, tuple[int, str]], state: int) -> list[str]:
    words = []
    while state in reached_by:
        state, step = reached_by[state]
        words.append(step)
    return words[::-1]


def _forced(moves: Graph) -> dict[int, list[int]]:
    return {state: [m.to for m in out if not m.free] for state, out in moves.items()}


def _cycles(moves: Graph) -> dict[int, list[int]]:
    """What is left of the graph of forced moves without the states that lead out of it for good.

    In a graph with no cycle nothing is: every run ends, in the guest, when nobody kicks any more.
    """
    out = _forced(moves)
    into: dict[int, list[int]] = {state: [] for state in out}
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
    moves: Graph,
    reached_by: dict[int, tuple[int, str]],
    cycles: dict[int, list[int]],
) -> tuple[str, ...]:
    """The way to the nearest state on a cycle, then once round."""
    for start in (state for state in moves if state in cycles):
        back: dict[int, tuple[int, str]] = {}
        queue = deque([start])
        while queue and start not in back:
            state = queue.popleft()
            for move in moves[state]:
                if not move.free and move.to in cycles and move.to not in back:
                    back[move.to] = (state, move.words)
                    queue.append(move.to)
        if start in back:
            before, last = back.pop(start)
            loop = [*_trace(back, before), last]
            return (*_trace(reached_by, start), "for ever:", *(f"  {words}" for words in loop))
    raise AssertionError("a graph without ends has a cycle")


def _worst(moves: Graph, first: int) -> int:
    """The longest path by its number of spurious exits; there is no cycle."""
    worst: dict[int, int] = {}
    stack = [first]
    while stack:
        state = stack[-1]
        todo = [m.to for m in moves[state] if m.to not in worst]
        if todo:
            stack.extend(todo)
            continue
        stack.pop()
        worst[state] = max((worst[m.to] + m.spurious for m in moves[state]), default=0)
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
# Two impatient ones would take most of the time.
ASKED_ON_ARM = {
    "1 kicker": Setting(memory=ARM),
    "1, impatient": Setting(patient=False, memory=ARM),
    "2 kickers": Setting(kickers=2, memory=ARM),
    "2, and the guest may exit": Setting(kickers=2, guest_exits=True, memory=ARM),
}


def table(memory: Model) -> str:
    """The verdicts on every protocol, and the most spurious exits that one kick can cause."""
    asked = ASKED_ON_ARM if memory is ARM else ASKED
    head = ["protocol", *asked, "states", "spurious exits"]
    rows = [head, ["---"] * len(head)]
    for name, protocol in MODELS.items():
        words = [check(protocol, setting).word for setting in asked.values()]
        states = sum(check(protocol, setting).states for setting in asked.values())
        spurious = check(protocol, Setting(kicks=1, memory=memory)).spurious
        rows.append([f"`{name}`", *words, f"{states:,}", str(spurious)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# Variants of the models that the documents show: what a step is there for.
VARIANTS: dict[str, tuple[Protocol, Setting]] = {
    "flag_signal": (MODELS["flag_signal"], Setting()),
    "immediate_exit_remote_flag_first": (
        MODELS["immediate_exit_remote_flag_first"],
        Setting(memory=SC),
    ),
    "immediate_exit_remote without its fence": (
        MODELS["immediate_exit_remote"].without("after_run", Do.FENCE),
        Setting(),
    ),
    "immediate_exit_remote without kb_fence_flag, on Armv8": (
        MODELS["immediate_exit_remote"].without("kick", Do.FENCE_FLAG),
        Setting(memory=ARM),
    ),
    "immediate_exit_remote, whose kicks are taken without a release, on Armv8": (
        MODELS["immediate_exit_remote"],
        Setting(memory=ARM, guest_exits=True, take_releases=False),
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
    for memory in (TSO, ARM):
        print(f"{memory.name}:\n\n{table(memory)}\n")
    for variant in VARIANTS:
        print(f"\n{variant}:\n{counterexample(variant)}")
