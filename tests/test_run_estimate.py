# SPDX-License-Identifier: Apache-2.0
"""The running estimate and the stopping rule, on made-up rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import synthetic_run

from kickbench.run.estimate import MIN_ROUNDS, Estimate
from kickbench.scenario.cases import Case

QUIET, MEAN = "quiet_ns_per_exit", "ns_per_exit"
NO_COUNTS: list[dict[str, int]] = [{}] * 4


def case(**changes: Any) -> Case:
    return Case.from_dict(synthetic_run.case(1, precision=0.001, processes=1, **changes))


def rounds(count: int, *, quiet_noise_ns: float, mean_noise_ns: float) -> list[Any]:
    """Rounds of sigmask at 8,100 ns, immediate_exit, its control and its placebo at 8,000."""
    random = np.random.default_rng(1)
    levels = (8100.0, 8000.0, 8000.0, 8000.0)
    noise = {QUIET: quiet_noise_ns, MEAN: mean_noise_ns}
    return [
        [{m: level + random.normal(0, ns) for m, ns in noise.items()} for level in levels]
        for _ in range(count)
    ]


def estimate(found: list[Any], *, crowded: bool = False, **changes: Any) -> Estimate:
    running = Estimate(case(**changes), crowded)
    running.begin_process()
    running.take(found)
    return running


@pytest.mark.parametrize(
    ("of", "crowded", "stops"),
    [
        ("quiet", False, True),
        ("mean", False, False),
        ("both", False, False),
        ("both", True, True),
        ("mean", True, False),
    ],
)
def test_a_case_ends_when_the_figures_asked_for_are_precise(
    of: str, crowded: bool, stops: bool
) -> None:
    found = rounds(100, quiet_noise_ns=1, mean_noise_ns=1000)
    running = estimate(found, crowded=crowded, precision_of=of)
    assert running.is_precise_enough() is stops
    calm = rounds(100, quiet_noise_ns=1, mean_noise_ns=1)
    assert estimate(calm, crowded=crowded, precision_of=of).is_precise_enough()


def test_too_few_rounds_are_never_precise_and_each_process_needs_its_own() -> None:
    calm = rounds(MIN_ROUNDS, quiet_noise_ns=1, mean_noise_ns=1)
    assert not estimate(calm[1:], precision_of="both").is_precise_enough()
    running = estimate(calm, precision_of="both")
    assert running.is_precise_enough()
    running.begin_process()
    assert not running.is_precise_enough()
    running.take(calm[1:])
    assert not running.is_precise_enough()
    running.take(calm[:1])
    assert running.is_precise_enough()
    assert running.rounds == 2 * MIN_ROUNDS


def test_the_estimate_is_of_the_quiet_exit_and_says_so() -> None:
    found = rounds(50, quiet_noise_ns=0, mean_noise_ns=900)
    assert estimate(found).in_words(NO_COUNTS) == (
        "sigmask - immediate_exit +100 ± 0 ns per quiet exit"
    )


def test_rounds_without_an_exit_are_left_out() -> None:
    found = rounds(50, quiet_noise_ns=0, mean_noise_ns=0)
    for some in found[::2]:
        some[0] = {}
    found[1][1] = {}
    running = estimate(found)
    assert running.rounds == 50
    assert "+100 ± 0 ns" in running.in_words(NO_COUNTS)
    assert estimate([[{}] * 4] * 50).in_words(NO_COUNTS) == ""
    assert not estimate([[{}] * 4] * 50).is_precise_enough()
