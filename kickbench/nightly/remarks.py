# SPDX-License-Identifier: Apache-2.0
"""What the nights of the same host and scenario make odd about a night."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

from kickbench.compare.metrics import METRICS
from kickbench.nightly.night import Night
from kickbench.nightly.noise import LONG
from kickbench.numbers import listed

_CLOCK_SLACK = datetime.timedelta(hours=1)


def remarks(
    nights: Sequence[Night], night: Night, now: datetime.datetime | None = None
) -> list[str]:
    """What the history's own nights make odd about this one: the clock, the scenario. A line each.

    ``nights`` are those of the same host and scenario; the night itself may be among them.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    others = [other for other in nights if other.run_id != night.run_id]
    found = []
    if late := [other for other in others if other.when > now + _CLOCK_SLACK]:
        found.append(
            f"{late[-1].run_id} is dated in the future ({late[-1].created_utc}): the clock was or "
            f"is wrong; forget the run if it was"
        )
    if others and others[-1].when > night.when:
        found.append(
            f"the clock went back: {night.run_id} is dated before {others[-1].run_id}, and takes "
            f"its place by its date"
        )
    earlier = [other for other in others if other.order < night.order]
    if earlier and earlier[-1].document["scenario_digest"] != night.document["scenario_digest"]:
        found.append(
            f"the scenario {night.scenario} was changed since {earlier[-1].run_id}: the metrics of "
            f"cases with the same id are compared all the same"
        )
    found += _earlier_meaning(earlier, night)
    return found


def _earlier_meaning(earlier: Sequence[Night], night: Night) -> Iterator[str]:
    """That figures changed their meaning, until they have enough nights to be judged again."""
    measured = {key.metric for key in night.keys()}  # noqa: SIM118 (no mapping)
    old = [
        other for other in earlier if any(other.changed_meaning(name, night) for name in measured)
    ]
    if old and len(earlier) - len(old) < LONG:
        last = old[-1]
        changed = [
            name for name in METRICS if name in measured and last.changed_meaning(name, night)
        ]
        titles = listed([METRICS[name].title for name in changed])
        yield (
            f"the nights up to {last.run_id} are no baseline for {titles}: they mean something "
            f"else by it (schema {last.run_schema}, now {night.run_schema}: docs/results.md)"
        )
