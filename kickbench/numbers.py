# SPDX-License-Identifier: Apache-2.0
"""Formats numbers for people: no more digits than were measured, thousands apart.

A number with an interval is rounded by the width of that interval, but keeps three digits of its
own. This module does not choose units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "-"
"""Shown in place of a number that does not exist."""

_DIGITS_OF_WIDTH = 2
_LEAST_DIGITS = 3
_MOST_DECIMALS = 6
_MOST_DIGITS = 6


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


def _exponent(value: float) -> int:
    """The power of ten of the leading digit; 0 for numbers without one."""
    return math.floor(math.log10(abs(value))) if math.isfinite(value) and value else 0


def measured(value: float, ci: Sequence[float], places: int | None = None) -> tuple[str, str, str]:
    """A value and its interval's ends, all rounded by the interval's width, or to ``places``.

    However wide the interval is, a value keeps its first three digits, or it would be read as
    another number. However narrow it is, as for an exact count, a value has at most six digits.
    """
    if places is None:
        largest = max(abs(value), abs(ci[0]), abs(ci[1]))
        most = max(_MOST_DIGITS - 1 - _exponent(largest), 0)
        places = min(decimals(ci[1] - ci[0]), most)
    own = min(_LEAST_DIGITS - 1 - _exponent(value), 0)
    return fixed(value, max(places, own)), fixed(ci[0], places), fixed(ci[1], places)


def level(value: float | None, ci: Sequence[float] | None) -> str:
    """For example "9,000 (8,950 to 9,060)"; only the number if it has no interval.

    The number is formatted by :func:`significant`, as in sentences. Its interval has no more
    decimals.
    """
    text = significant(value)
    if value is None or ci is None:
        return text
    places = min(decimals(ci[1] - ci[0]), len(text.partition(".")[2]))
    return f"{text} ({fixed(ci[0], places)} to {fixed(ci[1], places)})"


def significant(value: float | None, digits: int = 4) -> str:
    """A number without an interval: ``digits`` significant digits, but all before the point."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    return fixed(value, min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 9))


def whole(value: float | None) -> str:
    """A number without decimals, thousands apart."""
    return NOTHING if value is None else fixed(value, 0)


def plural(count: int, one: str, many: str | None = None) -> str:
    """For example "1 vCPU", "2 vCPUs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def ordinal(count: int) -> str:
    """For example "2nd", "3rd", "14th"."""
    last = count % 10 if count // 10 % 10 != 1 else 0
    return f"{count}{({1: 'st', 2: 'nd', 3: 'rd'}).get(last, 'th')}"


def sentence(clause: str) -> str:
    """A clause as a sentence: a capital to begin with, but a method's name stays as it is."""
    if clause.startswith(("no ", "wall ")):
        clause = clause[0].upper() + clause[1:]
    return f"{clause}."


def listed(items: Sequence[str]) -> str:
    """For example "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def signed(text: str) -> str:
    """A formatted number with its sign: "31" becomes "+31". A zero gets no sign."""
    return text if text.startswith("-") or not text.strip("0.,") else f"+{text}"
