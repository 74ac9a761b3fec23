# SPDX-License-Identifier: Apache-2.0
"""Reads the small text files of /proc and /sys. Any of them may be missing on a host."""

from __future__ import annotations

import re
from pathlib import Path


def read_text(root: str | Path, path: str) -> str | None:
    """The stripped content of ``path`` (absolute) below ``root``; None when it cannot be read."""
    try:
        return (Path(root) / path.lstrip("/")).read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(root: str | Path, path: str) -> int | None:
    """As :func:`read_text`, for a file with one decimal number; None when it is anything else."""
    try:
        return int(read_text(root, path) or "")
    except ValueError:
        return None


def read_fields(root: str | Path, path: str) -> dict[str, str]:
    """A file of ``key: value`` lines up to the first empty line; {} when it cannot be read."""
    paragraph = (read_text(root, path) or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in paragraph.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_flags(root: str | Path = "/") -> frozenset[str]:
    """What the first CPU in /proc/cpuinfo can do; empty when it cannot be read."""
    fields = read_fields(root, "/proc/cpuinfo")
    return frozenset(fields.get("flags", fields.get("Features", "")).split())


def chosen(text: str | None) -> str | None:
    """The marked choice of a kernel switch: ``always [madvise] never`` -> ``madvise``, and
    ``none voluntary (full)`` -> ``full``."""
    found = re.search(r"\[(.+?)\]|\((.+?)\)", text or "")
    return found[1] or found[2] if found else text or None


def numbered(root: str | Path, folder: str, prefix: str) -> dict[int, Path]:
    """Folders named ``<prefix><number>`` below ``folder``, by number, in order."""
    try:
        entries = list((Path(root) / folder.lstrip("/")).iterdir())
    except OSError:
        return {}
    found = ((re.fullmatch(prefix + r"([0-9]+)", entry.name), entry) for entry in entries)
    return dict(sorted((int(match.group(1)), entry) for match, entry in found if match))
