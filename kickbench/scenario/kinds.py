# SPDX-License-Identifier: Apache-2.0
"""The table of measurement kinds that a scenario can name in ``measure.kinds``.

It says what a kind measures; how it is scheduled and run is the runner's business.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of measurement; ``doc`` says what it yields, for people."""

    id: str
    doc: str


KINDS: dict[str, Kind] = {
    kind.id: kind
    for kind in (Kind("exits", "exits per second and time per exit, with paired differences"),)
}
