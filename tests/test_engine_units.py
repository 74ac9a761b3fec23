# SPDX-License-Identifier: Apache-2.0
"""Parts of the engine by themselves, with what they ask the kernel replaced (``units/*.c``): hosts
of thousands of CPUs, clocks that are preempted, steal, CPUs that do not answer."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.engine.engine import KB_BOUNCE, quantile_levels
from kickbench.engine.engine import quantiles as quantiles_of
from kickbench.kvm import abi
from kickbench.results.tables import QUANTILES

UNITS = Path(__file__).resolve().parent / "units"
PACKAGE = UNITS.parents[1] / "kickbench"


def built(name: str, folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = folder / name
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    includes = [f"-I{PACKAGE / 'engine/include'}", f"-I{PACKAGE / 'guest'}"]
    done = subprocess.run(
        [compiler, *flags, *includes, str(UNITS / f"{name}.c"), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


def output(program: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [program, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- CPUs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("cpus", tmp_path_factory.mktemp("cpus"))


@pytest.mark.parametrize("some", ["0", "1023", "1024", "0 1024 4095 65535", "7 8191"])
def test_no_cpu_is_dropped_from_a_thread_s_set(cpus: Path, some: str) -> None:
    """A cpu_set_t ends at 1,023, and CPU_SET says nothing of what is above. Whoever creates a
    thread stands on the thread's CPUs meanwhile, and goes back."""
    created = f"stand {some}\nthread {some}\nstand 2000\n"
    assert output(cpus, *some.split()) == f"{created}stand {some}\nstand 2000\n"


# --- hand-overs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("handover", tmp_path_factory.mktemp("handover"))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("alone", 0),
        ("first moved", errno.EXDEV),
        ("second moved", errno.EXDEV),
        ("silent", errno.ETIMEDOUT),
        ("refused", errno.EINVAL),
    ],
)
def test_a_hand_over_ends_whatever_becomes_of_its_threads(
    handover: Path, what: str, error: int
) -> None:
    found = output(handover, what).split()
    assert found[:3] == ["on", "5", "back"]  # where the caller was
    assert int(found[3]) == error
    assert (found[4] == "3") is (what not in ("silent", "refused"))


# --- exits -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_exit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("own_exit", tmp_path_factory.mktemp("own_exit"))


IO, MMIO, FAULT, BOUNCE = abi.KVM_EXIT_IO, abi.KVM_EXIT_MMIO, abi.KVM_EXIT_MEMORY_FAULT, KB_BOUNCE


@pytest.mark.parametrize(
    ("program", "left", "error", "is_own"),
    [
        ((IO, 0), IO, 0, True),
        ((IO, 0), MMIO, 0, False),
        ((IO, 0), IO, errno.EINTR, False),
        ((IO, MMIO), MMIO, 0, True),
        ((IO, MMIO), MMIO, errno.EINTR, False),
        ((BOUNCE, 0), IO, errno.EINTR, True),
        ((BOUNCE, 0), IO, 0, False),
        ((FAULT, 0), FAULT, errno.EFAULT, True),
        # The host's own memory is not there: that is no exit of the guest.
        ((FAULT, 0), IO, errno.EFAULT, False),
        ((FAULT, 0), FAULT, errno.EINTR, False),
        ((IO, 0), FAULT, errno.EFAULT, False),
    ],
)
def test_an_exit_is_the_programs_own(
    own_exit: Path, program: tuple[int, int], left: int, error: int, is_own: bool
) -> None:
    found = output(own_exit, *map(str, (*program, left, error)))
    assert found.split() == ["own" if is_own else "other"]


# --- steal -------------------------------------------------------------------------------------

TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
UNKNOWN = -1


@pytest.fixture(scope="module")
def steal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("steal", tmp_path_factory.mktemp("steal"))


def proc_stat(ticks: dict[int, int]) -> str:
    """As the kernel prints it; ``ticks`` has the steal of each online CPU."""
    lines = [f"cpu  1 2 3 4 5 6 7 {sum(ticks.values())} 0 0"]
    lines += [f"cpu{cpu} 10 20 30 40 50 60 70 {count} 80 90" for cpu, count in ticks.items()]
    return "\n".join([*lines, "intr 12345 0 0 9", "ctxt 99", ""])


def shared_out(
    program: Path, before: dict[int, int], after: dict[int, int], blocks: list[list[int]]
) -> list[list[int]]:
    """The steal_ns of each block and vCPU."""
    paths = [program.with_name("before"), program.with_name("after")]
    for path, ticks in zip(paths, (before, after), strict=True):
        path.write_text(proc_stat(ticks))
    numbers = [len(blocks), len(blocks[0]), *chain(*blocks)]
    text = output(program, *map(str, paths), stdin=" ".join(map(str, numbers)))
    found = [int(word) for word in text.split()]
    width = len(blocks[0])
    return [found[i : i + width] for i in range(0, len(found), width)]


def test_a_cpu_s_steal_is_counted_once_for_all_its_vcpus(steal: Path) -> None:
    """It was 4 times as much for 8 vCPUs on 2 CPUs."""
    blocks = [[0, 1] * 4, [0, 1] * 4]
    found = shared_out(steal, {0: 100, 1: 50}, {0: 102, 1: 51}, blocks)
    assert found == [[TICK_NS, TICK_NS // 2, 0, 0, 0, 0, 0, 0]] * 2


def test_the_steal_of_a_cpu_that_is_not_known_is_not_known(steal: Path) -> None:
    """A CPU that was offline at one of the readings, that never was there, or has no number."""
    found = shared_out(steal, {0: 1, 3: 7}, {0: 2, 2: 9}, [[0, 1, 2, 3, 4, -1, 65535]])
    assert found == [[TICK_NS, *[UNKNOWN] * 6]]
    assert shared_out(steal, {}, {}, [[0]]) == [[UNKNOWN]]


def test_steal_that_goes_backwards_is_none(steal: Path) -> None:
    assert shared_out(steal, {0: 9, 5000: 1}, {0: 3, 5000: 3}, [[0, 5000]]) == [[0, 2 * TICK_NS]]


ONLINE = [0, 1, 2, 7, 1024, 4095]


@given(
    stolen=st.lists(st.integers(0, 1000), min_size=len(ONLINE), max_size=len(ONLINE)),
    blocks=st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from(ONLINE), min_size=width, max_size=width),
            min_size=1,
            max_size=7,
        )
    ),
)
@settings(max_examples=30)
def test_no_steal_is_counted_twice_and_none_is_left_out(
    steal: Path, stolen: list[int], blocks: list[list[int]]
) -> None:
    after = dict(zip(ONLINE, stolen, strict=True))
    found = shared_out(steal, dict.fromkeys(ONLINE, 0), after, blocks)
    for cpu, ticks in after.items():
        sums = [
            sum(ns for ns, at in zip(row, cpus, strict=True) if at == cpu)
            for row, cpus in zip(found, blocks, strict=True)
        ]
        present = [cpu in cpus for cpus in blocks]
        assert all(there or not ns for there, ns in zip(present, sums, strict=True))
        shares = [ns for there, ns in zip(present, sums, strict=True) if there]
        assert max(shares, default=0) - min(shares, default=0) <= 1
        if all(present):
            assert sum(sums) == ticks * TICK_NS


# --- the clock's rate --------------------------------------------------------------------------

TSC_HZ = 2.5e9
AGREE_TO = 1e-5
"""As ``kickbench compare`` takes the rates that two processes found to agree."""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("clock", tmp_path_factory.mktemp("clock"))


@given(
    seed=st.integers(0, 2**63),
    preempted_percent=st.integers(0, 30),
    longest_cycles=st.integers(0, 25_000_000),
)
@settings(max_examples=50)
def test_a_preemption_between_the_two_clocks_does_not_shift_the_rate(
    clock: Path, seed: int, preempted_percent: int, longest_cycles: int
) -> None:
    """1 ms between the reading of one and of the other was 5 % of the 20 ms."""
    found = float(output(clock, str(seed), str(preempted_percent), str(longest_cycles)))
    assert abs(found / TSC_HZ - 1) < AGREE_TO


@settings(max_examples=40)
@given(st.integers(1, 2**32), st.integers(1, 200), st.integers(0, 200))
def test_a_clock_s_step_is_found_whatever_a_stamp_takes(
    clock: Path, seed: int, step_cycles: int, ahead_cycles: int
) -> None:
    """A reading takes 50 to 56 cycles: less than a step, or several. CPUs need not agree."""
    words = (str(seed), "100", "6", str(step_cycles), str(ahead_cycles))
    assert int(output(clock, *words)) == step_cycles


# --- quantiles ---------------------------------------------------------------------------------

LEVELS = np.array(list(QUANTILES.values()))
STEPS = st.sampled_from([1, 2, 16, 26, 36, 41])
TIMES = st.lists(
    st.one_of(st.integers(0, 200), st.integers(1000, 5000), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=300,
)


def spread(times: list[int], step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distribution function of times that are spread over the step: its corners, of which
    each value has two, and the share of the times below them."""
    values, counts = np.unique(times, return_counts=True)
    reach = np.minimum(np.diff(values, prepend=-np.inf, append=np.inf), step) / 2
    corners = np.stack([values - reach[:-1], values + reach[1:]], axis=1).ravel()
    below = np.cumsum(counts)
    return corners, np.stack([below - counts, below], axis=1).ravel() / below[-1]


def reference(times: list[int], step: float) -> NDArray[np.float64]:
    """Inverts it: where it is flat at a level, the middle of where it is so."""
    corners, shares = spread(times, step)

    def inverse(level: float, side: str) -> float:
        # The corner from which it rises through the level, and the one where it has.
        end = int(np.searchsorted(shares, level, side))  # type: ignore[call-overload]
        rise = (level - shares[end - 1]) / (shares[end] - shares[end - 1])
        return float(corners[end - 1] + rise * (corners[end] - corners[end - 1]))

    exact = [round(level * 1000 * len(times)) / (1000 * len(times)) for level in LEVELS]
    return np.array([(inverse(at, "left") + inverse(at, "right")) / 2 for at in exact])


def quantiles(times: NDArray[np.uint32], step: float) -> NDArray[np.float64]:
    return np.array(quantiles_of(times.copy().data, step))


def test_the_tables_have_the_engine_s_levels() -> None:
    assert list(quantile_levels().items()) == list(QUANTILES.items())


@given(times=TIMES, step=STEPS)
@example(times=[1480, 1520, 1520, 1520], step=40)
def test_quantiles_are_those_of_times_spread_over_the_clock_s_step(
    times: list[int], step: int
) -> None:
    found = quantiles(np.array(times, np.uint32), step)
    assert found == pytest.approx(reference(times, step), rel=1e-6, abs=1e-3)


@given(times=TIMES, step=STEPS)
def test_quantiles_rise_and_do_not_depend_on_the_order_nor_change_the_times(
    times: list[int], step: int
) -> None:
    values = np.array(times, np.uint32)
    found = quantiles(values, step)
    assert values.tolist() == times
    assert (np.diff(found) >= 0).all()
    assert (quantiles(values[::-1], step) == found).all()


@given(count=st.integers(2, 100), more=st.integers(1, 100), step=STEPS)
def test_quantiles_of_a_coarse_clock_move_with_the_shares_of_its_ticks(
    count: int, more: int, step: int
) -> None:
    """One exit more at the next tick moves every one of them, by a tick at most; p99.9 by
    less than a float32 tells."""
    low = quantiles(np.repeat(np.uint32([64, 64 + step]), [count, more]), step)
    high = quantiles(np.repeat(np.uint32([64, 64 + step]), [count - 1, more + 1]), step)
    assert (high > low)[:-1].all()
    assert (high >= low).all()
    assert (high - low <= step).all()


def test_no_exits_have_no_quantiles() -> None:
    assert np.isnan(quantiles(np.empty(0, np.uint32), 1)).all()
