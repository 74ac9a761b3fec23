# SPDX-License-Identifier: Apache-2.0
"""The text of a small scenario, for tests of something else than scenarios."""

from __future__ import annotations

import json


def tiny(vcpus: int | list[int] = 1, program: str = "pm_timer", **measure: object) -> str:
    """One program, and a second of measuring. ``measure`` are keys of that table."""
    short = {"methods": ["sigmask", "immediate_exit"], "processes": 1, "max_seconds": 1}
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in (short | measure).items())
    return (
        f'name = "tiny"\n[vm]\nvcpus = {vcpus}\n[guest]\nprogram = "{program}"\n[measure]\n{keys}'
    )
