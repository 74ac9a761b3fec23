# SPDX-License-Identifier: Apache-2.0
"""Remarks on a night: what is odd about it beside the nights of the same host and scenario."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kickbench.compare.metrics import METRICS
from kickbench.nightly.night import Night
from kickbench.nightly.noise import LONG
from kickbench.numbers import listed

_CLOCK_SLACK = datetime.timedelta(hours=1)


def remarks(
    nights: Sequence[Night], night: Night, now: datetime.datetime | None = None
) -> list[str]:
    """What is odd about a night: its clock, its scenario, what its figures mean. One line each.

    ``nights`` are those of the same host and scenario. The night itself may be among them.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    others = [other for other in nights if other.run_id != night.run_id]
    found = []
    if late := [other for other in others if other.when > now + _CLOCK_SLACK]:
        found.append(
            f"{late[-1].run_id} is dated in the future ({late[-1].created_utc}), so the clock was "
            f"or is wrong; forget the run if the clock was wrong then"
        )
    if others and others[-1].when > night.when:
        found.append(
            f"the clock went back: {night.run_id} is dated before {others[-1].run_id}, and the "
            f"history sorts nights by their dates; check the clock"
        )
    earlier = [other for other in others if other.order < night.order]
    if earlier and earlier[-1].document["scenario_digest"] != night.document["scenario_digest"]:
        found.append(
            f"the scenario {night.scenario} was changed since {earlier[-1].run_id}; cases with the "
            f"same id are still compared"
        )
    found += _earlier_meaning(earlier, night)
    return found


def _earlier_meaning(earlier: Sequence[Night], night: Night) -> Iterator[str]:
    """That figures changed their meaning, as long as few nights have the new meaning."""
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
            f"the nights up to {last.run_id} are no baseline for {titles}, because their figures "
            f"mean something else (schema {last.run_schema}, now {night.run_schema}; see "
            f"docs/results.md)"
        )


def lost_kicks(lost: Mapping[str, Any]) -> str:
    """An entry of a night's ``lost``, in words."""
    of = "" if lost["of"] is None else f" of {lost['of']:,}"
    if lost["what"] == "accesses":
        return (
            f"{lost['count']:,}{of} accesses of the guest were done twice, or never, in "
            f"{lost['case']} with {lost['method']}"
        )
    what = "pauses had to be rescued" if lost["what"] == "rescued" else "kicks were lost"
    return (
        f"{lost['count']:,}{of} {what} in {lost['case']} with {lost['method']}, which claims to be "
        "free of races"
    )
