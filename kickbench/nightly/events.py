# SPDX-License-Identifier: Apache-2.0
"""Events: what the job and the user noted about nights after they were measured.

An event gives the verdict on a night, accepts a night as the new normal, or forgets a night. Each
is a small JSON document. Somebody else may have written it, so it is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from kickbench.nightly.night import MAX_ROWS, SCHEMA
from kickbench.nightly.trends import Key
from kickbench.results.schema import (
    Line,
    Model,
    SafeName,
    Time,
    check_model,
    check_version,
    one_line,
    parse_json,
)

# A tuple in JSON is a list.
_EventKey = Annotated[tuple[Line, Line, Line | None, Line], Field(strict=False)]


class _Event(Model):
    what: Literal["verdict", "accept", "forget"]
    when: Time
    run_id: SafeName
    alarms: Annotated[list[_EventKey], Field(max_length=MAX_ROWS)] | None = None
    metrics: Annotated[list[_EventKey], Field(max_length=MAX_ROWS)] | None = None
    created_utc: Time | None = None
    fingerprint: SafeName | None = None
    scenario: SafeName | None = None
    reason: str | None = None
    who: str | None = None


@dataclass(frozen=True)
class Event:
    """What was noted about a night. ``what`` is "verdict", "accept" or "forget".

    ``keys`` are a verdict's alarms, or the metrics that are accepted (None: all). ``order`` sorts
    events by the time when they were written. ``document`` is all that was written.
    """

    order: str
    what: str
    run_id: str
    keys: frozenset[Key] | None
    document: Mapping[str, Any]

    @property
    def when_utc(self) -> str:
        """When the event was written, for example "2026-03-01T12:00:00Z"."""
        return str(self.document["when"])

    @property
    def partition(self) -> tuple[str | None, str | None]:
        """Fingerprint and scenario of an accepted night; None for what the event lacks."""
        return self.document.get("fingerprint"), self.document.get("scenario")

    @property
    def reason(self) -> str:
        """The reason, in the user's words."""
        return one_line(str(self.document.get("reason") or ""))


def forgotten(events: Iterable[Event]) -> dict[str, Event]:
    """The forgotten nights by run id, each with the first event that forgets it."""
    found: dict[str, Event] = {}
    for event in events:
        if event.what == "forget":
            found.setdefault(event.run_id, event)
    return found


def verdicts(events: Iterable[Event]) -> dict[str, Event]:
    """The last verdict on each night, by run id."""
    return {event.run_id: event for event in events if event.what == "verdict"}


def parse_event(data: bytes, order: str, where: object) -> Event:
    """An event from its JSON. Raises ResultsError if anything about it is wrong."""
    document = parse_json(data, where)
    check_version(document, where, "event", SCHEMA)
    event = check_model(_Event, document, where)
    keys = event.alarms if event.what == "verdict" else event.metrics
    return Event(
        order=order,
        what=event.what,
        run_id=event.run_id,
        keys=None if keys is None else frozenset(Key(*key) for key in keys),
        document=document,
    )
