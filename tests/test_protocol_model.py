# SPDX-License-Identifier: Apache-2.0
"""The catalogue's claims about races, checked exhaustively on models of the protocols.

``protocol_model`` is the checker. A test compares the steps of the models with those of the C
files, and the mutants show what the checker sees: each step is left out in turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from memory_models import ARM, SC, TSO, Model
from protocol_model import (
    MODELS,
    VARIANTS,
    Do,
    Protocol,
    Setting,
    check,
    counterexample,
    in_words,
    table,
)

from kickbench.methods import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "kickbench" / "methods"
RACE_FREE = [name for name, method in CATALOGUE.items() if method.race_free]
BY_REQUEST = [name for name, method in CATALOGUE.items() if not method.kicks_by_signal]
BY_SIGNAL = [name for name in RACE_FREE if name not in BY_REQUEST]

SETTINGS = {
    "one kick": Setting(kicks=1),
    "two kicks": Setting(kicks=2),
    "two kickers, a kick each": Setting(kickers=2, kicks=2),
    "one kicker, any number of kicks": Setting(),
    "two kickers, any number of kicks": Setting(kickers=2),
    "two kickers that do not wait": Setting(kickers=2, patient=False),
    "three kickers that do not wait": Setting(kickers=3, patient=False),
    "sequential consistency": Setting(kickers=2, memory=SC),
    "Armv8, one kick": Setting(kicks=1, memory=ARM),
    "Armv8, two kickers, any number of kicks": Setting(kickers=2, memory=ARM),
    "Armv8, a kicker that does not wait": Setting(patient=False, memory=ARM),
}
MEMORIES = pytest.mark.parametrize("memory", [TSO, ARM], ids=lambda memory: memory.name)


# --- the catalogue -----------------------------------------------------------------------------


def test_every_protocol_of_the_catalogue_has_a_model() -> None:
    assert list(MODELS) == list(CATALOGUE)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", CATALOGUE)
def test_the_model_agrees_with_the_claim_of_the_catalogue(method: str, setting: str) -> None:
    verdict = check(MODELS[method], SETTINGS[setting])
    assert (verdict.lost is None) == CATALOGUE[method].race_free, verdict.lost
    assert verdict.livelock is None, verdict.livelock


@pytest.mark.parametrize("method", CATALOGUE)
def test_a_model_does_what_the_catalogue_says_of_handler_and_mask(method: str) -> None:
    model, entry = MODELS[method], CATALOGUE[method]
    assert (Do.SEND_SIGNAL in model.kick) == entry.kicks_by_signal
    assert bool(model.handler) == ((entry.handler or "").startswith("sets"))
    assert model.blocked == ((entry.mask or "").startswith("blocked"))


STEP_IN_C = {
    Do.READ_FLAG: "kb_kick_requested(v)",
    Do.SET_FLAG: "kb_request_kick(v, k)",
    Do.SET_BYTE: "kb_set_immediate_exit(v, 1)",
    Do.CLEAR_BYTE: "kb_set_immediate_exit(v, 0)",
    Do.FENCE_FLAG: "kb_fence_flag()",
    Do.FENCE: "atomic_thread_fence(memory_order_seq_cst)",
    Do.EAT_SIGNAL: "eat_signal(v)",
    Do.SEND_SIGNAL: "kb_send_signal(v, k)|syscall(SYS_tgkill",
    Do.REQUEST_EXIT: "ioctl(v->fd, KB_USER_EXIT|write(k->targets|write(exitfd",
    Do.COMPLETE_IO: "kb_complete_io(v)",
}


@pytest.mark.parametrize("hook", ["before_run", "after_run", "handler", "finish_exit", "kick"])
@pytest.mark.parametrize("method", CATALOGUE)
def test_a_hook_has_the_same_steps_in_the_same_order_in_model_and_c(method: str, hook: str) -> None:
    source = (METHODS / f"{method}.c").read_text(encoding="utf-8")
    body = re.search(rf"^static [^\n]*\bkb_{hook}\(.*?^}}", source, re.MULTILINE | re.DOTALL)
    assert body or hook == "finish_exit"
    assert ("KB_HAS_FINISH_EXIT" in source) == bool(MODELS[method].finish_exit)
    places = {
        match.start(): step
        for step, words in STEP_IN_C.items()
        for word in words.split("|")
        for match in re.finditer(re.escape(word), body[0] if body else "")
    }
    assert tuple(places[at] for at in sorted(places)) == getattr(MODELS[method], hook)


@MEMORIES
@pytest.mark.parametrize("method", CATALOGUE)
def test_a_kick_causes_few_spurious_exits(method: str, memory: Model) -> None:
    two_writers = Do.SET_BYTE in MODELS[method].kick  # the byte and the signal end a KVM_RUN each
    most = check(MODELS[method], Setting(kicks=1, memory=memory)).spurious
    assert most == (2 if two_writers else 1)


# --- a guest that exits by itself ----------------------------------------------------------------


@MEMORIES
@pytest.mark.parametrize("method", RACE_FREE)
def test_exits_of_the_guest_lose_no_kick(method: str, memory: Model) -> None:
    setting = Setting(kickers=2, guest_exits=True, memory=memory)
    assert check(MODELS[method], setting).word == "holds"


@MEMORIES
@pytest.mark.parametrize("method", RACE_FREE)
def test_a_race_free_protocol_completes_io_and_does_not_run_the_guest_for_it(
    method: str, memory: Model
) -> None:
    """Each step of kb_finish_exit left out: without what ends KVM_RUN, the guest runs. What is
    left behind otherwise costs a spurious exit."""
    setting = Setting(kickers=1 if memory is ARM else 2, guest_exits=True, memory=memory)
    for step in MODELS[method].finish_exit:
        verdict = check(MODELS[method].without("finish_exit", step), setting)
        ends_kvm_run = step in (Do.SET_BYTE, Do.SEND_SIGNAL, Do.REQUEST_EXIT)
        assert verdict.word == ("loses" if ends_kvm_run else "holds")
        if verdict.lost:
            assert "in kb_finish_exit" in verdict.lost[-1]


@pytest.mark.parametrize("method", BY_REQUEST)
def test_a_request_that_the_kernel_forgets_with_the_guests_exit_is_a_lost_kick(method: str) -> None:
    """By the letter of the proposal: "it will keep the original exit reason and not exit early on
    next KVM_RUN". A kernel that keeps the request loses none, nor does a thread that looks at the
    flag before each KVM_RUN, as ours do."""
    setting = Setting(kickers=2, guest_exits=True)
    blind = MODELS[method].without("before_run", Do.READ_FLAG)
    assert check(blind, setting).lost
    keeps = replace(setting, kernel_forgets_request_when_leaving=False)
    assert check(blind, keeps).word == "holds"
    assert check(MODELS[method], setting).word == "holds"


# --- what each step is there for -----------------------------------------------------------------


TWO_KICKERS = Setting(kickers=2)


@dataclass(frozen=True)
class Mutant:
    method: str
    what: str
    protocol: Protocol
    expected: str  # holds | loses | livelocks
    setting: Setting = TWO_KICKERS


def mutants() -> list[Mutant]:
    sigmask, byte = MODELS["sigmask"], MODELS["immediate_exit"]
    remote, user_exit = MODELS["immediate_exit_remote"], MODELS["user_exit"]
    no_poll = Setting(kickers=2, kernel_polls_immediate_exit=False)
    forgetful = Setting(kickers=2, kernel_remembers_request=False)
    found = [
        # sigmask
        Mutant("sigmask", "not blocked outside KVM_RUN", replace(sigmask, blocked=False), "loses"),
        Mutant("sigmask", "blocked inside, too", replace(sigmask, blocked_inside=True), "loses"),
        Mutant(
            "sigmask",
            "the flag is read before the signal is eaten, and nowhere else",
            sigmask.having("before_run").having("after_run", Do.READ_FLAG, Do.EAT_SIGNAL),
            "loses",
        ),
        Mutant(
            "sigmask",
            "the flag is read before the signal is eaten, and again before KVM_RUN",
            sigmask.having("after_run", Do.READ_FLAG, Do.EAT_SIGNAL),
            "holds",
        ),
        # immediate_exit
        Mutant("immediate_exit", "KVM_RUN does not poll the byte", byte, "loses", no_poll),
        Mutant(
            "immediate_exit",
            "the flag is read before the clear, and nowhere else",
            byte.having("before_run").having("after_run", Do.READ_FLAG, Do.CLEAR_BYTE),
            "loses",
        ),
        Mutant(
            "immediate_exit",
            "the byte is cleared before each KVM_RUN, after the flag was read",
            byte.having("before_run", Do.READ_FLAG, Do.CLEAR_BYTE),
            "loses",
        ),
        Mutant(
            "immediate_exit",
            "a full fence after the clear",
            byte.having("after_run", Do.CLEAR_BYTE, Do.FENCE, Do.READ_FLAG),
            "holds",
        ),
        # immediate_exit_remote
        Mutant("immediate_exit_remote", "KVM_RUN does not poll the byte", remote, "loses", no_poll),
        Mutant(
            "immediate_exit_remote",
            "no fence, but sequential consistency",
            remote.without("after_run", Do.FENCE),
            "holds",
            Setting(kickers=2, memory=SC),
        ),
        Mutant(
            "immediate_exit_remote",
            "no fence, but only one kick ever",
            remote.without("after_run", Do.FENCE),
            "holds",
            Setting(kicks=1),
        ),
        Mutant(
            "immediate_exit_remote",
            "no fence, one kicker that waits",
            remote.without("after_run", Do.FENCE),
            "loses",
            Setting(),
        ),
        Mutant(
            "immediate_exit_remote",
            "the fence comes before the clear",
            remote.having("after_run", Do.FENCE, Do.CLEAR_BYTE, Do.READ_FLAG),
            "loses",
        ),
        Mutant(
            "immediate_exit_remote",
            "the kicker sets the byte before the flag",
            remote.having("kick", Do.SET_BYTE, Do.SET_FLAG, Do.SEND_SIGNAL),
            "loses",
        ),
        Mutant(
            "immediate_exit_remote",
            "the kicker sets the byte after the signal",
            remote.having("kick", Do.SET_FLAG, Do.SEND_SIGNAL, Do.SET_BYTE),
            "loses",
        ),
        Mutant(
            "immediate_exit_remote",
            "the one kicker sets the flag by a plain store",
            remote.having("kick", Do.STORE_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),
            "holds",
            Setting(),
        ),
        Mutant(
            "immediate_exit_remote",
            "two kickers set the flag by plain stores",
            remote.having("kick", Do.STORE_FLAG, Do.SET_BYTE, Do.SEND_SIGNAL),
            "loses",
        ),
        Mutant(
            "immediate_exit_remote",
            "the handler sets the byte, too",
            remote.having("handler", Do.SET_BYTE),
            "holds",
        ),
    ]
    for name in BY_REQUEST:
        found += [
            Mutant(name, "KVM forgets it outside KVM_RUN", user_exit, "loses", forgetful),
            Mutant(
                name,
                "the kicker sets the flag after the request",
                user_exit.having("kick", Do.REQUEST_EXIT, Do.SET_FLAG),
                "loses",
            ),
        ]
    for name in BY_SIGNAL:
        unread = MODELS[name].without("after_run", Do.READ_FLAG).having
        found.append(Mutant(name, "the flag is never read", unread("before_run"), "loses"))
    return found


# Leaving out one step of one hook; whatever is not here loses kicks.
REDUNDANT = {
    # Each of the two reads comes after the clear (or the eaten signal) and before the next KVM_RUN:
    # one of them is enough. The first saves the way round, the second an entry into KVM.
    ("sigmask", "before_run", Do.READ_FLAG): "holds",
    ("sigmask", "after_run", Do.READ_FLAG): "holds",
    ("immediate_exit", "before_run", Do.READ_FLAG): "holds",
    ("immediate_exit", "after_run", Do.READ_FLAG): "holds",
    ("immediate_exit_remote", "before_run", Do.READ_FLAG): "holds",
    ("immediate_exit_remote", "after_run", Do.READ_FLAG): "holds",
    # With a guest that does not exit; test_a_request_that_the_kernel_forgets has one that does.
    ("user_exit", "before_run", Do.READ_FLAG): "holds",
    ("user_exit", "after_run", Do.READ_FLAG): "holds",
    ("exitfd", "before_run", Do.READ_FLAG): "holds",
    ("exitfd", "after_run", Do.READ_FLAG): "holds",
    # No kick is lost, but KVM_RUN never gets into the guest again.
    ("sigmask", "after_run", Do.EAT_SIGNAL): "livelocks",
    ("immediate_exit", "after_run", Do.CLEAR_BYTE): "livelocks",
    ("immediate_exit_remote", "after_run", Do.CLEAR_BYTE): "livelocks",
}
STEPS = [
    (method, hook, step)
    for method in RACE_FREE
    for hook in ("before_run", "after_run", "handler", "kick")
    for step in getattr(MODELS[method], hook)
]


@MEMORIES
@pytest.mark.parametrize(
    ("method", "hook", "step"), STEPS, ids=lambda part: part.name if isinstance(part, Do) else part
)
def test_leaving_out_a_step_is_found(method: str, hook: str, step: Do, memory: Model) -> None:
    setting = Setting(kickers=1 if memory is ARM else 2, memory=memory)
    expected = REDUNDANT.get((method, hook, step), "loses")
    if step is Do.FENCE_FLAG and memory is TSO:
        expected = "holds"  # it is the compiler's alone
    assert check(MODELS[method].without(hook, step), setting).word == expected


def test_the_table_of_redundant_steps_names_steps_that_there_are() -> None:
    assert set(REDUNDANT) <= set(STEPS)


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: f"{mutant.method}: {mutant.what}")
def test_a_changed_protocol_is_judged_rightly(mutant: Mutant) -> None:
    assert check(mutant.protocol, mutant.setting).word == mutant.expected


# --- what Armv8 needs and x86 gives for nothing --------------------------------------------------


def test_the_fence_after_the_flag_is_needed_on_armv8_alone() -> None:
    """A release keeps nothing behind the flag: the byte is set, and cleared, before it."""
    unfenced = MODELS["immediate_exit_remote"].without("kick", Do.FENCE_FLAG)
    assert check(unfenced, Setting(memory=TSO)).word == "holds"
    lost = check(unfenced, Setting(memory=ARM)).lost
    assert lost
    byte = lost.index("kicker, late: immediate_exit = 1 reaches memory")
    clear = lost.index("vCPU, late: immediate_exit = 0 reaches memory")
    looked = lost.index("vCPU: kb_before_run reads the flag: not set", clear)
    flag = lost.index("kicker, late: flag = 1 reaches memory")
    assert byte < clear < looked < flag


@pytest.mark.parametrize("method", RACE_FREE)
def test_the_take_must_release_what_finish_exit_cleared(method: str) -> None:
    """Where another thread writes the byte. A thread's own stores stay in order without it."""
    setting = Setting(guest_exits=True, take_releases=False)
    assert check(MODELS[method], replace(setting, memory=TSO)).word == "holds"
    verdict = check(MODELS[method], replace(setting, memory=ARM))
    assert verdict.word == ("loses" if method == "immediate_exit_remote" else "holds")
    if verdict.lost:
        took = verdict.lost.index("vCPU: kb_take_kick takes the kick")
        late = "vCPU, late: immediate_exit = 0 reaches memory"
        assert late not in verdict.lost[:took]
        assert late in verdict.lost[took:]


@pytest.mark.parametrize("method", RACE_FREE)
def test_the_flag_is_seen_with_the_signal_because_the_kernel_orders_them(method: str) -> None:
    """Without siglock's order, or smp_wmb() before a request. x86 orders them in any case."""
    setting = Setting(kernel_orders=False)
    assert check(MODELS[method], replace(setting, memory=TSO)).word == "holds"
    assert check(MODELS[method], replace(setting, memory=ARM)).word == "loses"


# --- counterexamples -----------------------------------------------------------------------------


def test_the_lost_kick_of_flag_signal_is_the_race_of_the_commit_that_made_immediate_exit() -> None:
    lost = check(MODELS["flag_signal"]).lost
    assert lost
    reads, sets, sends, handler, enters, end = lost
    assert reads == "vCPU: kb_before_run reads the flag: not set"
    assert sets == "kicker: kb_kick sets its bit of the flag"
    assert sends == "kicker: kb_kick sends the signal"
    assert handler == "vCPU: the signal's handler runs, and does nothing"
    assert enters == "vCPU: KVM_RUN enters the guest"
    assert end.startswith("lost: the guest runs, no signal is pending, the flag is set")
    assert in_words(lost).startswith(" 1. vCPU: kb_before_run reads the flag: not set\n 2. kicker:")


def test_flag_first_loses_the_kick_between_the_read_and_the_clear() -> None:
    lost = check(MODELS["immediate_exit_remote_flag_first"], Setting(memory=SC)).lost
    assert lost
    read = lost.index("vCPU: kb_before_run reads the flag: not set")
    byte = lost.index("kicker: kb_kick stores immediate_exit = 1")
    clear = lost.index("vCPU: kb_before_run stores immediate_exit = 0")
    assert read < byte < clear


def test_without_its_fence_the_remote_byte_is_wiped_out_by_the_store_buffer() -> None:
    lost = check(MODELS["immediate_exit_remote"].without("after_run", Do.FENCE)).lost
    assert lost
    *_, set_late, wiped_out, sends, handler, enters, _end = lost
    assert set_late == "kicker's store buffer: immediate_exit = 1 reaches memory"
    assert wiped_out == "vCPU's store buffer: immediate_exit = 0 reaches memory"
    assert sends == "kicker: kb_kick sends the signal"
    assert handler.startswith("vCPU: the signal's handler runs")
    assert enters == "vCPU: KVM_RUN reads immediate_exit = 0, enters the guest"


def test_a_byte_that_is_never_cleared_is_a_livelock_with_no_kick_pending() -> None:
    verdict = check(MODELS["immediate_exit"].without("after_run", Do.CLEAR_BYTE))
    assert verdict.lost is None
    assert verdict.livelock
    for_ever = verdict.livelock[verdict.livelock.index("for ever:") + 1 :]
    assert "  vCPU: KVM_RUN reads immediate_exit = 1, fails with EINTR" in for_ever
    assert "  vCPU: kb_after_run reads the flag: not set" in for_ever
    assert not any("kicker" in words for words in for_ever)


# --- the document --------------------------------------------------------------------------------


def document() -> str:
    return (ROOT / "docs" / "memory_ordering.md").read_text(encoding="utf-8")


@MEMORIES
def test_the_document_shows_the_checkers_own_table(memory: Model) -> None:
    assert table(memory) in document()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_document_shows_the_checkers_own_counterexamples(variant: str) -> None:
    indented = "\n".join(f"    {line}" for line in counterexample(variant).splitlines())
    assert indented in document()
