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
    """A value and its interval's ends, all rounded by the interval's width.

    But a value of some size never becomes 0 by being rounded to tens or more.
    """
    places = decimals(ci[1] - ci[0])
    shown = fixed(value, places)
    if places < 0 and shown == "0":
        shown = fixed(value, 1 - _digits_before(value) if abs(value) >= 1 else 0)
    return shown, fixed(ci[0], places), fixed(ci[1], places)


def ceiling(value: float, width: float) -> str:
    """An upper bound of a size, rounded up: by the width, but with two of its own digits."""
    places = max(decimals(width), decimals(value)) if value > 0 else 0
    scale = 10.0**places
    return fixed(math.ceil(value * scale - 1e-9) / scale, places)


def _digits_before(value: float) -> int:
    return math.floor(math.log10(abs(value))) + 1


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


def ordinal(count: int) -> str:
    """ "2nd", "3rd", "14th"."""
    last = count % 10 if count // 10 % 10 != 1 else 0
    return f"{count}{({1: 'st', 2: 'nd', 3: 'rd'}).get(last, 'th')}"


def sentence(clause: str) -> str:
    """A clause as a sentence: a capital to begin with, but a method's name stays as it is."""
    return f"No {clause[3:]}." if clause.startswith("no ") else f"{clause}."


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
