# SPDX-License-Identifier: Apache-2.0
"""Chooses hosts by what they are: ``kernel>=6.12 and cpu~EPYC``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kickbench.errors import UsageError
from kickbench.results.schema import dig, one_line

FACTS: dict[str, tuple[str, ...]] = {
    "host": ("hostname",),
    "cpu": ("cpu", "model"),
    "microcode": ("cpu", "microcode"),
    "kernel": ("kernel", "release"),
    "cmdline": ("kernel", "cmdline"),
    "machine": ("kernel", "machine"),
}
"""What can be asked for, and where the environment has it."""

_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|!=|=|>|<|~)\s*(\S.*?)\s*")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")

Test = Callable[[Mapping[str, Any]], bool]


def chooser(text: str) -> Test:
    """A function that says of an environment whether all terms of ``text`` hold there.

    A term is a fact, an operator and a value. ``~`` is true if the fact has the value somewhere in
    it, in capitals or not. ``<`` and its like compare versions: the first numbers in the fact and
    in the value, so 6.9 is before 6.12. A fact that is not known makes no term true.

    Raises UsageError, in one line, for what is no such text.
    """
    tests = [_term(term) for term in re.split(r"\s+and\s+", text)]
    return lambda environment: all(test(environment) for test in tests)


def _term(text: str) -> Test:
    found = _TERM.fullmatch(text)
    if found is None or found[1] not in FACTS:
        raise UsageError(
            f"--only: {one_line(text)[:80]!r} is no condition; write for example "
            f"'kernel>=6.12 and cpu~EPYC', of {', '.join(FACTS)}"
        )
    name, operator, value = found.groups()
    if operator in ("<", "<=", ">", ">=") and not _version(value):
        raise UsageError(f"--only: {one_line(value)[:80]!r} is no version to compare {name} with")

    def holds(environment: Mapping[str, Any]) -> bool:
        fact = dig(environment, *FACTS[name])
        return fact is not None and _compare(str(fact), operator, value)

    return holds


def _compare(fact: str, operator: str, value: str) -> bool:
    match operator:
        case "~":
            return value.casefold() in fact.casefold()
        case "=":
            return fact == value
        case "!=":
            return fact != value
    # As many numbers as were asked for: 6.12.9 is not after 6.12.
    wanted = _version(value)
    have = _version(fact)[: len(wanted)]
    if not have:
        return False
    have += (0,) * (len(wanted) - len(have))
    return {"<": have < wanted, "<=": have <= wanted, ">": have > wanted, ">=": have >= wanted}[
        operator
    ]


def _version(text: str) -> tuple[int, ...]:
    found = _NUMBERS.search(text)
    return tuple(map(int, found[0].split("."))) if found else ()
