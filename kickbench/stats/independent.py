# SPDX-License-Identifier: Apache-2.0
"""The difference of two independent estimates, from their 95 % intervals alone.

For what was not measured side by side: two runs, two cases. It needs no data behind the estimates,
so a summary is enough. For what was measured in rounds use `kickbench.stats.contrasts`, which
resolves far more. It does not know what changes from run to run: no interval of one run can contain
that.

Sources: G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a
general approach", Statistics in Medicine 27 (2008), doi 10.1002/sim.3095 (the difference's limits
from the nearer arms of the two intervals, which may be asymmetric); B. L. Welch, Biometrika 34
(1947), and F. E. Satterthwaite, Biometrics Bulletin 2 (1946) (the degrees of freedom of a sum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kickbench.stats.contrasts import check_confidence, t_quantile

_GIVEN = 0.95
"""The confidence of the intervals of the estimates."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, in any unit.

    ``processes`` is how many processes the interval is Student's t over. It is 0 for an interval
    that is exact, or that has only the noise within processes: there the normal distribution is
    used.
    """

    value: float
    low: float
    high: float
    processes: int


@dataclass(frozen=True)
class Difference:
    """A difference and its interval, in the unit of the estimates."""

    value: float
    low: float
    high: float
    confidence: float

    @property
    def seen(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference(a: Estimate, b: Estimate, *, confidence: float = 0.95) -> Difference:
    """``a - b`` with its interval at any ``confidence``. Raises ValueError for one outside (0, 1).

    At 95 % and with many processes the lower limit is d - sqrt((a - low_a)^2 + (high_b - b)^2), the
    upper one its mirror image (Zou and Donner). Each arm is turned into a standard error by
    Student's t with processes - 1 degrees of freedom, and the sum of the two back into an arm with
    those of Welch and Satterthwaite, so that few processes and another confidence are accounted
    for. 1 process is treated as 0: its interval does not show how processes differ.
    """
    check_confidence(confidence)
    value = a.value - b.value
    below = _arm(a.value - a.low, a, b.high - b.value, b, confidence)
    above = _arm(a.high - a.value, a, b.value - b.low, b, confidence)
    return Difference(value, value - below, value + above, confidence)


def _arm(of_a: float, a: Estimate, of_b: float, b: Estimate, confidence: float) -> float:
    """The arm of the difference from one arm of each estimate; never below 0."""
    df_a, df_b = _df(a), _df(b)
    error_a = max(of_a, 0.0) / t_quantile(_GIVEN, df_a)
    error_b = max(of_b, 0.0) / t_quantile(_GIVEN, df_b)
    error = math.hypot(error_a, error_b)
    if error == 0:
        return 0.0
    share = (error_a / error) ** 2
    inverse = share**2 / df_a + (1 - share) ** 2 / df_b
    return t_quantile(confidence, 1 / inverse if inverse > 0 else math.inf) * error


def _df(estimate: Estimate) -> float:
    return estimate.processes - 1 if estimate.processes > 1 else math.inf
