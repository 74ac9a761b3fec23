# SPDX-License-Identifier: Apache-2.0
"""Guests of scenarios for property tests: any that the model allows, also mixes and recordings."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kickbench.guest.mix import EXITS, FIRST_ADDRESS, SIZES, nearest
from kickbench.guest.programs import PROGRAMS

SHARES = st.floats(1e-9, 1e12)
GAPS = st.lists(st.floats(0.001, 1e6), min_size=2, max_size=9).map(sorted)


def _exit(exit_: str, address: int, size: int, share: float) -> dict[str, Any]:
    address = nearest(exit_, address, size, "kernel")
    return {"exit": exit_, "address": address, "size": size, "share": share}


MIXES = st.lists(
    st.builds(
        _exit,
        st.sampled_from(tuple(EXITS)),
        st.integers(0, 0xFFFF) | st.integers(FIRST_ADDRESS, 2**64),
        st.sampled_from(SIZES),
        SHARES,
    ),
    min_size=1,
    max_size=6,
)


def with_mix(guest: dict[str, Any], mix: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of a guest, with a mix if one of its programs needs it."""
    return {**guest, "mix": mix} if "mix" in guest["program"] else guest


def _guest(
    programs: list[str],
    rates: list[Any],
    mix: list[dict[str, Any]],
    gaps: list[float] | None,
    arrival: str,
) -> dict[str, Any]:
    guest: dict[str, Any] = {"program": programs, "exit_rate_hz": rates}
    if gaps is None or rates == ["max"]:
        guest["arrival"] = arrival
    else:
        guest["gaps_us"] = gaps
    return with_mix(guest, mix)


PACED = sorted(name for name, program in PROGRAMS.items() if program.paced)
GUESTS = st.builds(
    _guest,
    st.lists(st.sampled_from(PACED), min_size=1, max_size=4, unique=True),
    st.lists(
        st.just("max") | st.integers(1, 10**9).map(float) | st.floats(0.001, 1e9),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    MIXES,
    st.none() | GAPS,
    st.sampled_from(["periodic", "poisson"]),
)
"""The table [guest] of a scenario whose programs can all be paced."""
