# SPDX-License-Identifier: Apache-2.0
"""Where the built parts of the package are, and what they are called: the engine's library with two
copies of each protocol, and the guests' images.

They are not in the source tree: the build puts them into the installed package, which in an
editable install is a second folder of the same package.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kickbench.errors import UsageError

PLACEBO = "placebo"
"""The name of a protocol's second copy, for -DKB_COPY (loop.h)."""


def built_file(package_path: Iterable[str], name: str) -> Path:
    """The file ``name`` of the package with this ``__path__``.

    Raises UsageError when it was not built, as in a bare checkout.
    """
    for folder in package_path:
        path = Path(folder) / name
        if path.is_file():
            return path
    raise UsageError(
        f"{name} is not built: install the package (pip install .) and run kickbench from there,\n"
        "not `python -m kickbench` from a bare checkout"
    )


def placebo_name(name: str) -> str:
    """The engine's name of a protocol's second copy. No protocol has such a name."""
    return f"{name}__{PLACEBO}"
