# SPDX-License-Identifier: Apache-2.0
"""What the file of a kernel says about itself: the same words that uname(1) prints when it runs."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.results.schema import place

_MOST_BYTES = 512 << 20
_WORDS = (
    # The setup code of a kernel that a boot loader unpacks, or of one inside a unified image:
    # kernel_version in arch/x86/boot/version.c.
    re.compile(rb"\0([\w.+~-]+) \([^()\0\n]+@[^()\0\n]+\) (#\d[^\0\n]*)\0"),
    # A kernel that is not packed: linux_banner in init/version-timestamp.c.
    re.compile(rb"Linux version ([\w.+~-]+) \([^\0\n]*\) (#\d[^\0\n]*)\n\0"),
)
_UTS_BYTES = 64
"""As much of its version as a kernel keeps: __NEW_UTS_LEN of include/uapi/linux/utsname.h."""


def running() -> str:
    """The build of the kernel that runs: its release and version, as ``uname -rv`` prints them."""
    here = os.uname()
    return f"{here.release} {here.version}"


def build(file: Path) -> str:
    """The build of a kernel's file, as :func:`running` gives it when that kernel runs.

    The file is a kernel for a boot loader, a unified kernel image, or a plain image that may be
    packed by gzip. Raises UsageError if it cannot be read, or does not say.
    """
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise UsageError(f"{place(file)}: is no file")
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(file) as packed:
                data = packed.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{place(file)}: cannot be read: {what}") from None
    for words in _WORDS:
        if found := words.search(data):
            release, version = found[1], found[2][:_UTS_BYTES]
            return f"{release.decode()} {version.decode('ascii', 'replace')}"
    raise UsageError(
        f"{place(file)}: is no kernel that says its version, so kickbench could not tell whether "
        "it is the one that runs; name the vmlinuz that a boot loader boots"
    )
