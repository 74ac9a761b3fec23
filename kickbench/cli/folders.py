# SPDX-License-Identifier: Apache-2.0
"""The parser of options that name a folder to write to. It does not look for the folder."""

from __future__ import annotations

from pathlib import Path

import typer


def folder(name: str | Path) -> Path:
    """To pathlib "" is the current folder: hardly what `-o "$UNSET"` means."""
    if not str(name):
        raise typer.BadParameter("is empty; name a folder")
    return Path(name)
