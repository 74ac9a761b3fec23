# SPDX-License-Identifier: Apache-2.0
"""Whether this host, user and build can observe VMs, for the tests that do."""

from __future__ import annotations

import os

import pytest

from kickbench.errors import KickbenchError
from kickbench.observe.watch import Watch


def why_not_observe() -> str | None:
    """Why this host, user or build cannot observe; None if they can."""
    try:
        with Watch(os.getpid(), []), Watch(os.getpid(), []) as watch, watch.attached():
            return None
    except KickbenchError as error:
        return str(error).replace("\n", "; ")


_WHY_NOT = why_not_observe()
if _WHY_NOT and os.environ.get("KICKBENCH_REQUIRE_OBSERVER"):
    pytest.exit(f"the tests of the observer must run here, but: {_WHY_NOT}", 1)
needs_observer = pytest.mark.skipif(_WHY_NOT is not None, reason=f"cannot observe: {_WHY_NOT}")
