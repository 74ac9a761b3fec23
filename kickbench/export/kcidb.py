# SPDX-License-Identifier: Apache-2.0
"""KCIDB, version 5.3 of its schema: https://docs.kernelci.org/kcidb/.

A figure is a test with a number, below the path of its case. A case that was not measured is a test
of its own, with the reason. The build is the kernel's release: what was built from what is known to
whoever built it, and its report has the same build id.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from kickbench.export.results import Case, Outcome, Results

ORIGIN = "kickbench"
VERSION = {"major": 5, "minor": 3}
_STATUS: dict[Outcome, str] = {"pass": "DONE", "fail": "FAIL", "skip": "SKIP", "error": "ERROR"}
_NO_PATH = re.compile(r"[^a-zA-Z0-9_-]")


def write(results: Results) -> str:
    """A report of KCIDB with a checkout, a build and the tests."""
    release = results.fact("kernel", "release") or "unknown"
    machine = results.fact("kernel", "machine")
    build = f"{ORIGIN}:{_digest(release + machine + results.fact('kernel', 'version'))}"
    report = {
        "version": VERSION,
        "checkouts": [{"id": build, "origin": ORIGIN, "comment": release}],
        "builds": [
            {
                "id": build,
                "checkout_id": build,
                "origin": ORIGIN,
                "comment": release,
                **({"architecture": machine} if machine else {}),
            }
        ],
        "tests": [
            {
                "origin": ORIGIN,
                "build_id": build,
                "start_time": results.created_utc,
                "environment": {
                    "comment": f"{results.fact('hostname')}, {results.fact('cpu', 'model')}"
                },
                **test,
            }
            for case in results.cases
            for test in _tests(results, case)
        ],
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _tests(results: Results, case: Case) -> list[dict[str, Any]]:
    path = f"kickbench.{_word(results.scenario)}.{_word(case.id)}"
    whole: dict[str, Any] = {
        "id": f"{ORIGIN}:{_digest(results.run_id + case.id)}",
        "path": path,
        "status": _STATUS[case.outcome],
        "duration": case.seconds,
    }
    if case.reason:
        whole["misc"] = {"reason": case.reason}
    return [
        whole,
        *(
            {
                "id": f"{ORIGIN}:{_digest(results.run_id + case.id + figure.name)}",
                "path": ".".join([path, *(_word(word) for word in figure.name.split("/"))]),
                "status": "FAIL" if figure.fault else "DONE",
                "number": {"value": figure.value, "unit": figure.unit},
                "comment": figure.title,
                "misc": {"ci95": [figure.low, figure.high]},
            }
            for figure in case.figures
        ),
    ]


def _word(text: str) -> str:
    return _NO_PATH.sub("_", text) or "_"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
