# SPDX-License-Identifier: Apache-2.0
"""Kicks of fresh VMs on real KVM: at each moment, and of protocols that are wrong on purpose."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from kickbench.engine import lifecycle
from kickbench.engine.engine import KICK_SIGNAL, Clock
from kickbench.engine.lifecycle import FATES, Life, Vmm
from kickbench.engine.protocols import build, load
from kickbench.errors import MeasurementError
from kickbench.host.capabilities import probe, supports, supports_transport
from kickbench.methods import CATALOGUE, Method
from kickbench.native import placebo_name

pytestmark = pytest.mark.kvm

CPUS = sorted(os.sched_getaffinity(0))
HERE = probe()
METHODS = [method for method in CATALOGUE.values() if supports(method, HERE) is None]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a thread's id away")
ANSWERED = {"answered", "late"}  # the host may be busy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples/protocols"

HOOKS = {
    "enter": "static int kb_enter(struct kb_vcpu *v)\n{ (void)v; return 0; }",
    "handler": "static void kb_handler(struct kb_vcpu *v)\n{ kb_set_immediate_exit(v, 1); }",
    "kick": (
        "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        "{ kb_request_kick(v, k); return kb_send_signal(v, k); }"
    ),
}
OTHERS = """
static void kb_leave(struct kb_vcpu *v) { kb_forget_kicks(v); }
static inline bool kb_before_run(struct kb_vcpu *v) { return kb_kick_requested(v); }
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	kb_set_immediate_exit(v, 0);
	return error && kb_kick_requested(v);
}
#define KB_PROTOCOL mine
#include <kickbench/loop.h>
"""


def vmm(transport: str = "tgkill", **protocols: Path) -> Vmm:
    return Vmm(
        Clock.choose(counter_usable=True),
        [CPUS[0]],
        [CPUS[-1]],
        "kernel",
        transport,
        {name: load(path, name) for name, path in protocols.items()},
    )


def life_of(folder: Path, moment: str, **hooks: str) -> Life:
    """The life of one VM whose protocol has some hooks replaced."""
    text = "\n".join(["#include <kickbench/protocol.h>", *{**HOOKS, **hooks}.values(), OTHERS])
    (folder / "mine.c").write_text(text)
    path = build(folder / "mine.c", folder)
    return vmm(mine=path).live("mine", moment, 1000)


def fate(life: Life) -> str:
    return FATES[life.fate]


@pytest.mark.parametrize("moment", ["thread_start", "entry", "first_run", "takeover"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_no_protocol_loses_a_kick_that_comes_before_its_loop_runs(
    method: Method, moment: str
) -> None:
    for delay_ns in (0, 2000, 20_000):
        life = vmm().live(method.id, moment, delay_ns)
        assert fate(life) in ANSWERED, life


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_a_signal_without_a_handler_kills(method: Method) -> None:
    life = vmm().live(method.id, "no_handler", 0)
    assert fate(life) == ("killed" if method.kicks_by_signal else "answered")


def test_a_real_time_signal_kills_as_well() -> None:
    assert fate(vmm("tgkill_rt").live("sigmask", "no_handler", 0)) == "killed"


def test_a_placebo_lives_as_well() -> None:
    life = vmm().live(placebo_name("immediate_exit"), "first_run", 0)
    assert fate(life) in ANSWERED


def test_a_thread_that_ends_answers_nobody() -> None:
    """The flag is not seen, and the kicker is told so only when the thread is gone."""
    for delay_ns in (0, 100_000_000):
        life = vmm().live("immediate_exit", "thread_end", delay_ns)
        assert fate(life) in ("lost", "refused")
        assert life.met == (fate(life) == "lost")
        assert life.error == (0 if life.met else errno.ESRCH)
    assert fate(life) == "refused"


@ROOT_ONLY
def test_the_id_of_a_thread_that_ended_reaches_another_thread() -> None:
    assert fate(vmm().live("immediate_exit", "stale", 0)) == "lost"


@ROOT_ONLY
@pytest.mark.skipif(
    supports_transport("pidfd", HERE) is not None, reason="no pidfd of a thread here"
)
def test_a_pidfd_reaches_no_other_thread() -> None:
    life = vmm("pidfd").live("immediate_exit", "stale", 0)
    assert (fate(life), life.error) == ("refused", errno.ESRCH)


def test_without_the_right_to_give_an_id_away_stale_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "library", lambda: _Refusing(errno.EACCES))
    with pytest.raises(MeasurementError, match="Permission denied; the moment stale needs root"):
        vmm().live("immediate_exit", "stale", 0)


class _Refusing:
    def __init__(self, error: int) -> None:
        self.kb_live = lambda *_: error


# --- protocols that are wrong on purpose ---------------------------------------------------------


def test_a_protocol_that_forgets_kicks_when_it_is_entered_loses_them(tmp_path: Path) -> None:
    enter = "static int kb_enter(struct kb_vcpu *v)\n{ kb_forget_kicks(v); return 0; }"
    life = life_of(tmp_path, "thread_start", enter=enter)
    assert (fate(life), life.met, life.latency) == ("lost", True, 0)


def test_a_handler_that_is_taken_away_too_early_kills(tmp_path: Path) -> None:
    enter = "static int kb_enter(struct kb_vcpu *v)\n{ signal(v->signal, SIG_DFL); return 0; }"
    assert fate(life_of(tmp_path, "first_run", enter=enter)) == "killed"


def test_a_kick_that_fails_is_refused_and_not_lost(tmp_path: Path) -> None:
    kick = (
        "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        "{ if (k->index != KB_CONDUCTOR) return -EBADF;\n"
        "  kb_request_kick(v, k); return kb_send_signal(v, k); }"
    )
    life = life_of(tmp_path, "first_run", kick=kick)
    assert (fate(life), life.error) == ("refused", errno.EBADF)


def test_a_vcpu_whose_every_kvm_run_fails_is_poisoned(tmp_path: Path) -> None:
    handler = "static void kb_handler(struct kb_vcpu *v)\n{ v->fd = -1; }"
    life = life_of(tmp_path, "first_run", handler=handler)
    assert (fate(life), life.error) == ("poisoned", errno.EBADF)


def test_a_guest_that_never_runs_again_is_poisoned(tmp_path: Path) -> None:
    """The handler sets immediate_exit, and nobody clears it."""
    path = build(EXAMPLES / "cloud_hypervisor_7427_uncleared.c", tmp_path)
    name = "cloud_hypervisor_7427_uncleared"
    life = vmm(**{name: path}).live(name, "first_run", 300_000)
    assert (fate(life), life.error) == ("poisoned", errno.EINTR)
    assert life.latency > 0


def test_a_kvm_run_that_fails_once_poisons_nothing(tmp_path: Path) -> None:
    """A signal handler that breaks the next KVM_RUN only: the one after it works."""
    handler = (
        "static int broken = -1;\n"
        "static void kb_handler(struct kb_vcpu *v)\n"
        "{ if (broken < 0) { broken = v->fd; v->fd = -1; } }\n"
    )
    before = (
        "static int kb_enter(struct kb_vcpu *v)\n{ (void)v; return 0; }\nstatic int attempts;\n"
    )
    text = OTHERS.replace(
        "{ return kb_kick_requested(v); }",
        "{ if (v->fd < 0 && attempts++ == 1) v->fd = broken; return v->fd >= 0 && "
        "kb_kick_requested(v); }",
    )
    (tmp_path / "mine.c").write_text(
        "\n".join(["#include <kickbench/protocol.h>", handler, before, HOOKS["kick"], text])
    )
    life = vmm(mine=build(tmp_path / "mine.c", tmp_path)).live("mine", "first_run", 1000)
    assert fate(life) in ANSWERED


def test_a_vcpu_that_never_comes_back_has_lost_its_kick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "STUCK_SECONDS", 1)
    enter = "static int kb_enter(struct kb_vcpu *v)\n{ (void)v; for (;;) pause(); }"
    assert fate(life_of(tmp_path, "entry", enter=enter)) == "lost"


def test_a_protocol_that_cannot_be_entered_is_an_error(tmp_path: Path) -> None:
    enter = "static int kb_enter(struct kb_vcpu *v)\n{ (void)v; return -EPERM; }"
    with pytest.raises(
        MeasurementError, match="fresh VM could not be run: Operation not permitted"
    ):
        life_of(tmp_path, "first_run", enter=enter)


# --- the process ---------------------------------------------------------------------------------


def test_what_goes_wrong_in_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MeasurementError("no such thing")

    monkeypatch.setattr(lifecycle, "Guest", fail)
    with pytest.raises(MeasurementError, match="no such thing"):
        vmm().live("immediate_exit", "first_run", 0)


def test_a_process_that_another_signal_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "Guest", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(MeasurementError, match="ended by signal 15"):
        vmm().live("immediate_exit", "first_run", 0)


def test_the_handlers_of_the_caller_stay() -> None:
    before = signal.getsignal(KICK_SIGNAL)
    vmm().live("immediate_exit", "first_run", 0)
    assert signal.getsignal(KICK_SIGNAL) == before
