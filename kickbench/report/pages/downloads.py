# SPDX-License-Identifier: Apache-2.0
"""Makes CSV of a run's tables, and a link of any small file, which contains the file.

The CSV files are for programs and spreadsheets. They have all numbers of the summary, without
rounding and in the summary's units, which the column names have. Text that a spreadsheet could take
for a formula is defused. Numbers stay numbers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kickbench.methods import CATALOGUE
from kickbench.report.words.differences import CONTROLS, controls
from kickbench.report.words.tables import Listing, Row, rows_of
from kickbench.summary.data import RunData
from kickbench.text import printable

MOST_IN_PAGE_BYTES = 1 << 18
"""A page does not contain a larger file, so that it stays small."""

# In the summary an interval is beside its figure. Here its name must have the unit.
_WITH_UNIT = {
    "latency_ci95": "latency_ns_ci95",
    "last_ci95": "last_ns_ci95",
    "send_ci95": "send_ns_ci95",
}
_UNSAID = ("methods", "contrasts", *CONTROLS, "warnings", "clocks", "title", "status")
_ENDS = ("low", "high")
# Some spreadsheets take the wide characters for the narrow ones. A semicolon separates cells where
# numbers have a decimal comma.
_FORMULA = re.compile(r"(^|;)(?=\s*['=+\-@\uff1d\uff0b\uff0d\uff20])")
_QUOTED = re.compile(r'[",;]|^\s|\s$')


def csv_of(data: RunData, kind: str) -> bytes:
    """The table of a kind as CSV (RFC 4180, UTF-8): a row for each method of each finished case.

    A column without any value is left out.
    """
    return _csv(
        [dict(_columns(data, row)) for row in rows_of(data.finished) if row.case["kind"] == kind]
    )


def csv_of_listing(data: RunData, kind: str, listing: Listing) -> bytes:
    """A listing of a kind as CSV in the same form: a row for each item. It is empty without any."""
    cases = [case for case in data.finished if case["kind"] == kind]
    rows = [dict(_columns_of_item(data, row)) for row in listing.rows_of(cases)]
    return _csv(rows) if rows else b""


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = dict.fromkeys(name for row in rows for name in row if row[name] is not None)
    lines = [map(defused, names), *([_cell(row.get(name)) for name in names] for row in rows)]
    text = "".join(",".join(map(_quoted, cells)) + "\r\n" for cells in lines)
    return text.encode("utf-8", "replace")


def data_link(content: bytes, media_type: str) -> str | None:
    """A link that contains the file; None if the file is too large for a page."""
    if len(content) > MOST_IN_PAGE_BYTES:
        return None
    return f"data:{media_type};charset=utf-8;base64,{base64.b64encode(content).decode('ascii')}"


def _columns_of_run(data: RunData) -> Iterator[tuple[str, Any]]:
    summary = data.summary
    yield "run_id", summary["run_id"]
    yield "emulated", "yes" if summary["emulated"] else "no"
    yield "emulated_by", summary["emulated_by"] if summary["emulated"] else None


def _columns_of_item(data: RunData, row: Row) -> Iterator[tuple[str, Any]]:
    yield from _columns_of_run(data)
    yield "case_id", row.case["id"]
    yield from _flat("", row.item)


def _columns(data: RunData, row: Row) -> Iterator[tuple[str, Any]]:
    case = row.case
    yield from _columns_of_run(data)
    for key, value in case.items():
        if key not in _UNSAID:
            yield from _flat("case_id" if key == "id" else key, value)
    yield "oversubscribed", case["id"] in data.oversubscribed
    yield "method", row.method
    yield from _flat("", row.figures)
    for contrast in case["contrasts"]:
        if contrast["method"] == row.method:
            other = contrast["baseline"] != case["baseline"] and contrast["baseline"] in CATALOGUE
            to = f"_to_{contrast['baseline']}" if other else ""
            yield from _difference(f"difference_{contrast['metric']}{to}", contrast)
    for role in CONTROLS:
        for found in controls(case, role) if row.method == case["baseline"] else ():
            own = {key: value for key, value in found.items() if key != "mean"}
            yield from _difference(f"{role}_{found['metric']}", own)


def _difference(name: str, contrast: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield name, contrast["diff"]
    for key, value in contrast.items():
        if key not in ("method", "baseline", "metric", "diff"):
            yield from _flat(f"{name}_{key}", value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested values as columns of their own; an interval as its two ends."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            key = _WITH_UNIT.get(key, key)
            yield from _flat(f"{name}_{key}" if name else str(key), item)
    elif isinstance(value, list | tuple):
        if len(value) == len(_ENDS) and all(isinstance(item, int | float) for item in value):
            for end, item in zip(_ENDS, value, strict=True):
                yield f"{name}_{end}", item
    else:
        yield name, value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return defused(str(value))


def defused(text: str) -> str:
    """The text with an apostrophe where a formula could begin, which makes it text."""
    return printable(_FORMULA.sub(r"\1'", text))


def _quoted(cell: str) -> str:
    # The module csv quotes for commas only.
    return '"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell
