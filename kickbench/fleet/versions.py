# SPDX-License-Identifier: Apache-2.0
"""The versions that must be the same on all hosts of a fleet, and here.

Dask sends Python's objects between them, which another version may not understand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata

import kickbench


def versions() -> dict[str, str]:
    """Those of this process."""
    try:
        distributed = metadata.version("distributed")
    except metadata.PackageNotFoundError:
        distributed = "none"
    return {
        "kickbench": kickbench.__version__,
        "Python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "distributed": distributed,
    }


def differing(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """What a host has in place of the versions here, in a line; None: it has the same."""
    others = [name for name in here if there.get(name) != here[name]]
    if not others:
        return None
    has = ", ".join(f"{name} {there.get(name, 'unknown')}" for name in others)
    return f"it has {has}; install {', '.join(f'{name} {here[name]}' for name in others)} there"
