# SPDX-License-Identifier: Apache-2.0
"""The nights as a CSV file that Apache Otava can read, and a configuration that names the file.

Otava (https://otava.apache.org) finds change points in tables with a time column, a column for each
metric and some for attributes. Every cell of a metric must be a number. A night that lacks it gets
the value of the night before, as Otava fills the gaps of other sources. The column "filled" counts
these values of a night. Nothing here depends on Otava.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kickbench.nightly.collect import trends
from kickbench.nightly.events import Event, forgotten
from kickbench.nightly.night import Night
from kickbench.nightly.trends import Trend, key_name
from kickbench.results.schema import dig

TIME = "time"
FILLED = "filled"
# Attributes: the name of the column, and where the environment has it.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hostname": ("hostname",),
    "kernel": ("kernel", "release"),
    "microcode": ("cpu", "microcode"),
    "kickbench": ("software", "kickbench"),
}
_RUN = "run_id"


def export(nights: Sequence[Night], events: Sequence[Event], file: Path) -> tuple[str, str]:
    """The text of the CSV, and that of the YAML with a test that reads the CSV from ``file``.

    ``nights`` are of one host and scenario, oldest first. Forgotten nights are left out.
    """
    gone = forgotten(events)
    nights = [night for night in nights if night.run_id not in gone]
    _, found = trends(nights, events)
    return _csv(nights, found), _yaml(nights, found, file)


def _csv(nights: Sequence[Night], found: Sequence[Trend]) -> str:
    values = np.full((len(nights), len(found)), np.nan)
    for number, trend in enumerate(found):
        values[trend.night, number] = trend.value
    missing = np.isnan(values)
    filled = pd.DataFrame(values).ffill().bfill()  # back, before a metric's first night
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [key_name(trend.key) for trend in found]
    writer.writerow([TIME, _RUN, *_ATTRIBUTES, FILLED, *names])
    rows = zip(nights, filled.to_numpy().tolist(), missing.sum(axis=1), strict=True)
    for night, cells, count in rows:
        attributes = [_text(night.environment, path) for path in _ATTRIBUTES.values()]
        when = f"{night.when:%Y-%m-%d %H:%M:%S} +0000"
        writer.writerow(
            [when, night.run_id, *attributes, int(count), *(repr(value) for value in cells)]
        )
    return out.getvalue()


def _yaml(nights: Sequence[Night], found: Sequence[Trend], file: Path) -> str:
    """Names are JSON strings, which YAML reads as strings, whatever is in them."""
    attributes = ", ".join([_RUN, *_ATTRIBUTES, FILLED])
    lines = [
        "tests:",
        f"  {json.dumps(nights[-1].scenario if nights else 'none')}:",
        "    type: csv",
        f"    file: {json.dumps(str(file))}",
        f"    time_column: {TIME}",
        f"    attributes: [{attributes}]",
        "    metrics:" if found else "    metrics: {}",
    ]
    for trend in found:
        direction = -1 if trend.better == "lower" else 1
        lines.append(f"      {json.dumps(key_name(trend.key))}: {{direction: {direction}}}")
    return "\n".join(lines) + "\n"


def _text(environment: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value = dig(environment, *path)
    return value if isinstance(value, str) and value.isprintable() else "unknown"
