# SPDX-License-Identifier: Apache-2.0
"""Finds the scenario files that come with kickbench, and the file that an argument means.

It reads none of them. :mod:`kickbench.scenario.files` reads them.
"""

from __future__ import annotations

from pathlib import Path

import kickbench
from kickbench.errors import ScenarioError
from kickbench.text import did_you_mean, printable, shorten


def folder() -> Path:
    """Where the shipped files are: inside an installed package, beside it in a source tree."""
    package = Path(kickbench.__file__).resolve().parent
    installed = package / "scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def shipped() -> dict[str, Path]:
    """The shipped scenario files by name (without ``.toml``), sorted by name."""
    return {path.stem: path for path in sorted(folder().glob("*.toml"))}


def resolve(argument: str) -> Path:
    """The file that ``argument`` means: an existing path, or the name of a shipped scenario.

    A file wins over a shipped name, and a shipped name wins over a directory. Raises
    ScenarioError, with the shipped names, when it is neither.
    """
    path = Path(argument)
    ours = shipped()
    try:
        exists = path.exists()
        if exists and not path.is_dir():
            return path
    except PermissionError:  # it may exist; reading it reports what is wrong
        return path
    except (OSError, ValueError):  # a name that no file can have
        exists = False
    name = argument.removesuffix(".toml")
    if name in ours:
        return ours[name]
    if exists:
        return path
    raise ScenarioError(
        f"{shorten(printable(argument), 200)}: no such file, and no shipped scenario has this name"
        f"{did_you_mean(path.stem, ours)}\nshipped: {', '.join(ours) or 'none'}"
    )
