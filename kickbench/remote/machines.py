# SPDX-License-Identifier: Apache-2.0
"""The machine that the name of a host means."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kickbench.run.machine import Machine


def machine_of(host: str | None) -> AbstractContextManager[Machine]:
    """Open the machine that ``--host`` names, by ssh; None is this host.

    Raises UsageError for what is no host's name, and HostError if ssh cannot be run.
    """
    if host is None:
        from kickbench.run.this_host import ThisHost

        return nullcontext(ThisHost())
    from kickbench.remote.box import Box
    from kickbench.remote.ssh import Ssh

    return Box(Ssh(host))
