# SPDX-License-Identifier: Apache-2.0
"""What a test definition of LAVA prints: https://docs.lavasoftware.org/lava/test-case-definition.html.

Run in a test's shell, for example ``kickbench export RUN --format lava``, the lines are signals
that the dispatcher reads off the console.
"""

from __future__ import annotations

import re

from kickbench.export.results import Outcome, Results

_RESULT: dict[Outcome, str] = {"pass": "pass", "fail": "fail", "skip": "skip", "error": "unknown"}
_UNIT = {"1/s": "per_second"}
_NO_NAME = re.compile(r"[^A-Za-z0-9._/+-]")


def write(results: Results) -> str:
    """A signal for each case, and one with a measurement for each figure."""
    lines = []
    for case in results.cases:
        lines.append(_signal(case.id, _RESULT[case.outcome]))
        for figure in case.figures:
            unit = _UNIT.get(figure.unit, figure.unit)
            lines.append(
                _signal(
                    f"{case.id}/{figure.name}",
                    "fail" if figure.fault else "pass",
                    f" MEASUREMENT={figure.value:.9g} UNITS={unit}",
                )
            )
    return "".join(f"{line}\n" for line in lines)


def _signal(name: str, result: str, more: str = "") -> str:
    known = _NO_NAME.sub("_", name)  # a signal is cut at blanks, and ends at ">"
    return f"<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={known} RESULT={result}{more}>"
