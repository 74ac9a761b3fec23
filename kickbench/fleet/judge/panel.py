# SPDX-License-Identifier: Apache-2.0
"""The figures of all hosts, day by day, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Figure, Host

FACTS = ("cpu_model", "kernel", "microcode", "mitigations", "cmdline", "kickbench", "fingerprint")
"""What is known of a host on a day. Hosts are grouped by these."""


@dataclass(frozen=True)
class Panel:
    """What all hosts measured on each day, oldest day first.

    ``value`` (figures, hosts, days) is that of the day's last run, in the figure's unit, and NaN
    where nothing was measured. ``half`` has half the width of that run's own 95 % interval, NaN if
    it has none. ``facts`` (hosts, days) has for each of :data:`FACTS` an index of its ``names``,
    and -1 where there was no run. ``notes`` say what was left out, and why.
    """

    days: tuple[str, ...]
    hosts: tuple[Host, ...]
    figures: tuple[Figure, ...]
    value: NDArray[np.float32]
    half: NDArray[np.float32]
    facts: Mapping[str, NDArray[np.int32]]
    names: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
