# SPDX-License-Identifier: Apache-2.0
"""Says whether each access of a guest was done once, for :mod:`kickbench.report.words.verdict`.

The engine compares the guest's count with its own (``kickbench/engine/src/accesses.c``).
"""

from __future__ import annotations

from kickbench.numbers import listed, plural, whole
from kickbench.report.words.names import Summary, finished, label


def broken_accesses(summary: Summary) -> list[str]:
    """An alarm per method that did an access twice, or never: its worst case."""
    worst: dict[str, tuple[int, Summary]] = {}
    for case in finished(summary):
        for method, figures in case["methods"].items():
            found = figures.get("accesses", {})
            wrong = found.get("twice", 0) + found.get("never", 0)
            if wrong > worst.get(method, (0,))[0]:
                worst[method] = wrong, case
    alarms = []
    for method, (_, case) in worst.items():
        found = case["methods"][method]["accesses"]
        kinds = {"twice": "done twice", "never": "never done"}
        parts = [f"{whole(found[key])} {words}" for key, words in kinds.items() if found[key]]
        alarms.append(
            f"An access was done twice, or never: {method} has {listed(parts)} of "
            f"{plural(found['accesses'], 'access', 'accesses')} of the guest, "
            f"{label(summary, case)}. The guest and the host disagree by more than what is pending."
        )
    return alarms


def done_once(summary: Summary) -> str:
    """That all accesses were done once; "" if one was not, or if no guest counted."""
    counts = [
        figures["accesses"]
        for case in finished(summary)
        for figures in case["methods"].values()
        if "accesses" in figures
    ]
    total = sum(one["accesses"] for one in counts)
    if not total or any(one["twice"] or one["never"] for one in counts):
        return ""
    return f"Each of {whole(total)} accesses was done once: the guests and the host count the same."
