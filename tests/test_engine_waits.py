# SPDX-License-Identifier: Apache-2.0
"""Nothing that the engine waits for can keep it for ever: whatever is asked of it, and whatever
runs out, it ends, and says which limit it met or which thread did not come.

The plans are run on a stub of KVM (``stub_kvm/plan.c``), the hooks on the real one.
"""

from __future__ import annotations

import errno
import platform
import re
import shutil
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_once import made_once

from kickbench.engine.engine import TRANSPORTS
from kickbench.engine.failures import FIRST_RUN_BUG, Failure, describe, why_not_created
from kickbench.methods import CATALOGUE
from kickbench.scenario.kinds import STATES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kickbench"
WRAPPED = ("ioctl", "pthread_create", "timer_create")
MS = 1_000_000
EXIT_LOOP, KICK_LOOP = 0, 1
KICKING = 8  # enum kb_doing
NO_KICKS, VOLLEYS, AIMED, PAUSES = range(4)


@dataclass(frozen=True)
class Planned:
    """The arguments of ``plan.c``, in its order; ``nth_thread`` and ``nth_timer`` cannot be had,
    0 for none."""

    protocol: str = "immediate_exit"
    vcpus: int = 2
    kickers: int = 1
    transport: int = TRANSPORTS["tgkill"][0]
    loop: int = EXIT_LOOP
    kicking: int = VOLLEYS
    state: int = 0
    gap_ns: int = 100_000
    userspace_ns: int = 0
    window_ns: int = 0
    nth_thread: int = 0
    nth_timer: int = 0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("there is no C compiler, or this is no x86-64")
    return made_once(tmp_path_factory, "plan", lambda folder: compile_plan(compiler, folder))


def compile_plan(compiler: str, folder: Path) -> Path:
    path = folder / "plan"
    folders = [PACKAGE / name for name in ("engine/include", "engine/src", "guest", "methods")]
    subprocess.run(
        [
            compiler,
            *("-std=c11", "-D_GNU_SOURCE", "-O1", "-pthread", "-rdynamic", "-o", str(path)),
            *(f"-I{folder}" for folder in [*folders, ROOT / "tests/stub_kvm"]),
            *map(str, sorted((ROOT / "tests/stub_kvm").glob("*.c"))),
            *map(str, sorted((PACKAGE / "engine/src").glob("*.c"))),
            *(str(PACKAGE / "methods" / f"{method}.c") for method in CATALOGUE),
            *(f"-Wl,--wrap={name}" for name in WRAPPED),
        ],
        check=True,
        timeout=600,
    )
    return path


def outcome(program: Path, planned: Planned, prefix: str = "") -> tuple[int, list[int]]:
    """The exit code, and the numbers that it printed. It never hangs, or this raises."""
    command = " ".join([prefix, str(program), *map(str, astuple(planned))])
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, [int(number) for number in re.findall(r"\d+", done.stdout)]


def in_words(planned: Planned, resource: int, error: int) -> str:
    failure = Failure(resource=resource, error=error)
    return why_not_created(failure, planned.vcpus, planned.kickers)


PLANS = st.builds(
    Planned,
    protocol=st.sampled_from(sorted(CATALOGUE)),
    vcpus=st.integers(1, 12),
    kickers=st.integers(1, 4),
    transport=st.sampled_from([TRANSPORTS["tgkill"][0], TRANSPORTS["timer"][0]]),
    loop=st.sampled_from([EXIT_LOOP, KICK_LOOP]),
    kicking=st.sampled_from([NO_KICKS, VOLLEYS, AIMED, PAUSES]),
    state=st.integers(0, len(STATES)),
    gap_ns=st.one_of(st.integers(0, 100), st.integers(0, 10_000_000), st.just(2**63)),
    userspace_ns=st.sampled_from([0, 1, 5000, 200_000]),
    window_ns=st.sampled_from([0, 1, 50_000]),
    nth_thread=st.one_of(st.just(0), st.integers(0, 20)),
    nth_timer=st.one_of(st.just(0), st.integers(0, 60)),
)


@settings(max_examples=50)
@given(PLANS)
def test_every_plan_ends_and_what_runs_out_is_named(program: Path, planned: Planned) -> None:
    code, numbers = outcome(program, planned)
    assert code in (0, 3)
    if code == 3:
        assert planned.nth_thread or planned.nth_timer
        assert re.search(r"ulimit -[ui]", in_words(planned, *numbers))
    else:
        # Its threads and the one that ends blocks; its timers.
        assert not 0 < planned.nth_thread <= planned.vcpus + planned.kickers + 1


@pytest.mark.parametrize("loop", [EXIT_LOOP, KICK_LOOP])
def test_eagain_is_no_spurious_exit(program: Path, loop: int) -> None:
    """A vCPU that got its INIT is to be entered again, and nobody kicked it."""
    planned = Planned(loop=loop, kicking=NO_KICKS)
    code, (*_, spurious) = outcome(program, planned, "STUB_EAGAIN=1")
    assert (code, spurious) == (0, 0)


@pytest.mark.parametrize("gap_ns", [0, 1, 10, 1000])
def test_a_rate_that_no_kicker_can_keep_up_with_is_kicked_as_fast_as_it_goes(
    program: Path, gap_ns: int
) -> None:
    """Some block has many: in others the kicker may have waited for a CPU."""
    for _ in range(100):
        code, (kicks, *_) = outcome(program, Planned(gap_ns=gap_ns))
        assert code == 0
        if kicks > 10:
            return
    pytest.fail("no block had more than ten kicks")


def test_kicks_that_are_rarer_than_blocks_are_sent_in_some_of_them(program: Path) -> None:
    sent = [
        outcome(program, Planned(gap_ns=gap_ns))[1][0] for gap_ns in range(30 * MS, 90 * MS, MS)
    ]
    assert 0 < sum(count > 0 for count in sent) < len(sent)


@pytest.mark.parametrize(
    ("limit", "planned", "words"),
    [
        (
            "ulimit -i 10;",
            Planned(vcpus=6, kickers=2, transport=TRANSPORTS["timer"][0]),
            "ulimit -i",
        ),
        ("", Planned(vcpus=6, kickers=2, nth_thread=3), "ulimit -u"),
        ("", Planned(vcpus=6, kickers=2, nth_thread=8), "ulimit -u"),
        ("", Planned(vcpus=6, kickers=2, nth_thread=9), "ulimit -u"),
        ("ulimit -n 20;", Planned(vcpus=6), "ulimit -n"),
        ("ulimit -v 20000;", Planned(vcpus=60), "ulimit -[vu]"),
    ],
)
def test_a_limit_that_is_met_is_named(
    program: Path, limit: str, planned: Planned, words: str
) -> None:
    code, numbers = outcome(program, planned, limit)
    assert code == 3
    assert re.search(words, in_words(planned, *numbers))


def test_kicks_that_get_on_but_take_too_long_are_told_from_one_that_hangs() -> None:
    failure = Failure(stuck=1, doing=KICKING, kicker=0, vcpu=57, protocol=b"serial")
    assert describe(failure, 254, 2) == (
        "serial: kb_kick of vCPU 57 did not return within 10 s, in kicker 0"
    )
    failure.slow = 1
    assert describe(failure, 254, 2) == (
        "serial: the kicks took too long, with 254 vCPUs on 2 CPUs: kicker 0 had only reached vCPU "
        "57, in kb_kick, 20 s after its time was over; use fewer vCPUs"
    )


def test_memory_that_kvm_itself_lacks_is_no_matter_of_fewer_vcpus() -> None:
    said = describe(Failure(error=errno.ENOMEM, kicker=-1), 2, 2)
    assert said == f"vCPU 0: KVM_RUN failed: Cannot allocate memory (ENOMEM); {FIRST_RUN_BUG}"
    assert "fewer vCPUs" not in said
