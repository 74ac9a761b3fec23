# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: no more digits than were measured, thousands apart.

A number with an interval is rounded by the width of that interval. It does not choose units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "-"
"""What stands for a number that does not exist."""

_DIGITS_OF_WIDTH = 2
_MOST_DECIMALS = 6


def decimals(width: float) -> int:
    """The decimals (negative: whole tens, hundreds) that show a width with 2 to 3 digits."""
    if not (math.isfinite(width) and width > 0):
        return 1
    exponent = math.floor(math.log10(width))
    # Whole numbers are easier to read than whole tens, up to 3 digits of the width.
    if exponent in (1, 2):
        return 0
    return min(_DIGITS_OF_WIDTH - 1 - exponent, _MOST_DECIMALS)


def fixed(value: float, places: int) -> str:
    """The number with ``places`` decimals (negative: rounded to tens, hundreds), never "-0"."""
    text = f"{round(value, places):,.{max(places, 0)}f}"
    return text if text.strip("-0.,") else text.lstrip("-")


def measured(value: float, ci: Sequence[float]) -> tuple[str, str, str]:
    """A value and its interval's ends, all rounded by the interval's width."""
    places = decimals(ci[1] - ci[0])
    return fixed(value, places), fixed(ci[0], places), fixed(ci[1], places)


def significant(value: float | None, digits: int = 4) -> str:
    """A number without an interval: ``digits`` significant ones, but all before the point."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    return fixed(value, min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 9))


def whole(value: float | None) -> str:
    """A number without decimals, thousands apart."""
    return NOTHING if value is None else fixed(value, 0)


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 vCPU", "2 vCPUs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
