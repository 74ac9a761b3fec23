# SPDX-License-Identifier: Apache-2.0
"""Exact bounds for a proportion, such as the kicks lost of those sent.

Source: C. J. Clopper and E. S. Pearson, "The Use of Confidence or Fiducial Limits Illustrated in
the Case of the Binomial", Biometrika 26 (1934). Exact means that the coverage is never below the
confidence, for independent trials. It does not hold for trials that depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

_SOLVED = 1e-6
"""How far the probability at a quantile may be from the wanted one."""
_HALVINGS = 100
"""How often [0, 1] is halved. The smallest share, 1 of 2 ** 53, is then known to 2 ** -47 of
itself."""


@dataclass(frozen=True)
class Proportion:
    """successes / trials with its exact two-sided interval, all in [0, 1]."""

    estimate: float
    low: float
    high: float
    confidence: float


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Proportion:
    """The two-sided interval, with (1 - confidence) / 2 on either side.

    Raises ValueError for no trials, successes outside [0, trials], or a confidence outside (0, 1).
    """
    _check(successes, trials, confidence)
    tail = (1 - confidence) / 2
    return Proportion(
        successes / trials,
        _lower(successes, trials, tail),
        _upper(successes, trials, tail),
        confidence,
    )


def upper_bound(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """The one-sided bound: the proportion is below it with `confidence`. Errors as above.

    For no success it is 1 - (1 - confidence) ** (1 / trials), about 3 / trials at 95 %.
    """
    _check(successes, trials, confidence)
    return _upper(successes, trials, 1 - confidence)


def _lower(successes: int, trials: int, tail: float) -> float:
    if successes == 0:
        return 0.0
    # Rounding must not put the estimate outside the interval.
    return min(_beta_quantile(successes, trials - successes + 1, tail), successes / trials)


def _upper(successes: int, trials: int, tail: float) -> float:
    if successes == trials:
        return 1.0
    return max(_beta_quantile(successes + 1, trials - successes, 1 - tail), successes / trials)


def _beta_quantile(a: int, b: int, probability: float) -> float:
    # Slow to import, and a stored summary needs none.
    from scipy.special import betainc, betaincinv

    found = float(betaincinv(a, b, probability))
    if abs(float(betainc(a, b, found)) - probability) <= _SOLVED:
        return found
    # The solver fails for some arguments (1,000 of 2 ** 28), the integral does not.
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(betainc(a, b, middle)) < probability:
            low = middle
        else:
            high = middle
    return high


def _check(successes: int, trials: int, confidence: float) -> None:
    if trials < 1:
        raise ValueError(f"a proportion needs at least one trial, got {trials}")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes are between 0 and {trials}, got {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, got {confidence}")
