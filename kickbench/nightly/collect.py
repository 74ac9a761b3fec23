# SPDX-License-Identifier: Apache-2.0
"""Collects nights, and the events about them, into trends: one for each metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kickbench.nightly.events import Event, forgotten, verdicts
from kickbench.nightly.night import Night, key_codes
from kickbench.nightly.trends import Key, Nights, Trend


def trends(nights: Sequence[Night], events: Sequence[Event]) -> tuple[Nights, list[Trend]]:
    """Every metric over the nights (of one host and scenario, oldest first).

    The metrics of the newest night come first, in its order. A night is usable as a baseline of a
    metric unless it was forgotten, or raised an alarm about the metric. Such an alarm is settled if
    that night or an earlier one was accepted since.
    """
    index = {night.run_id: number for number, night in enumerate(nights)}
    known = Nights(
        run_id=tuple(night.run_id for night in nights),
        when_utc=tuple(night.created_utc for night in nights),
        environment=tuple(night.environment for night in nights),
    )
    if not nights:
        return known, []
    left_out = {index[run] for run in forgotten(events) if run in index}
    alarmed: dict[Key, list[tuple[int, str]]] = {}
    for run, verdict in verdicts(events).items():
        if run in index:
            for key in verdict.keys or ():
                alarmed.setdefault(key, []).append((index[run], verdict.order))
    own = (nights[-1].fingerprint, nights[-1].scenario)
    accepted = [
        (event, _first_night(event, nights, index))
        for event in events
        if event.what == "accept" and (event.run_id in index or event.partition == own)
    ]
    found = []
    for key, rows in _by_key(nights):
        steps = [
            (event.order, first)
            for event, first in accepted
            if event.keys is None or key in event.keys
        ]
        usable = np.array([night not in left_out for night in rows.night.tolist()])
        for night, order in alarmed.get(key, ()):
            if not any(said > order and first <= night for said, first in steps):
                usable[rows.night == night] = False
        found.append(
            replace(
                rows,
                usable=usable,
                accepted_from=steps[-1][1] if steps else 0,
                load=np.array([nights[night].load(key.case) for night in rows.night]),
                biased=np.array([nights[night].is_biased(key.case) for night in rows.night]),
            )
        )
    return known, found


def _first_night(event: Event, nights: Sequence[Night], index: Mapping[str, int]) -> int:
    """The index of the night that an event accepts, or of the next one if that night is gone."""
    if event.run_id in index:
        return index[event.run_id]
    order = (str(event.document.get("created_utc") or ""), event.run_id)
    return sum(night.order < order for night in nights)


def _by_key(nights: Sequence[Night]) -> Iterator[tuple[Key, Trend]]:
    """A trend of each metric over all nights, in which every night is usable."""
    # The newest night is first, so that metrics come in its order.
    numbers = range(len(nights) - 1, -1, -1)
    rows = pa.concat_tables([nights[number].table for number in numbers]).unify_dictionaries()
    night = np.repeat(list(numbers), [nights[number].table.num_rows for number in numbers])
    kept = _of_present_meaning(rows.column("metric").combine_chunks(), night, nights)
    rows, night = rows.filter(pa.array(kept)), night[kept]
    if not len(rows):
        return
    codes, names = key_codes(rows)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    value, low, high, reference, floor = (
        rows.column(name).to_numpy()
        for name in ("value", "ci95_low", "ci95_high", "reference", "floor")
    )
    processes = rows.column("processes").to_numpy().astype(np.int64)
    better = rows.column("better")
    by_key = np.lexsort((night, inverse))
    ends = np.cumsum(np.bincount(inverse))
    for group in np.argsort(first):
        at = by_key[ends[group - 1] if group else 0 : ends[group]]
        newest = int(first[group])
        key = Key(*(name(newest) for name in names))
        yield (
            key,
            Trend(
                key=key,
                better=better[newest].as_py(),
                night=night[at].astype(np.int64),
                value=value[at],
                low=low[at],
                high=high[at],
                processes=processes[at],
                reference=None if np.isnan(reference[at]).all() else reference[at],
                usable=np.ones(len(at), dtype=bool),
                accepted_from=0,
                floor=None if np.isnan(floor[at]).all() else floor[at],
            ),
        )


def _of_present_meaning(
    metric: pa.DictionaryArray, night: NDArray[np.int64], nights: Sequence[Night]
) -> NDArray[np.bool_]:
    """Which rows have a metric with the meaning that it has in the newest night."""
    kept = np.ones(len(metric), dtype=bool)
    code = metric.indices.to_numpy()
    for number, name in enumerate(metric.dictionary.to_pylist()):
        changed = np.array([other.changed_meaning(name, nights[-1]) for other in nights])
        kept &= (code != number) | ~changed[night]
    return kept
