# SPDX-License-Identifier: Apache-2.0
"""How a run inside the lab knows that it is there, and how it was asked for outside.

The lab says so in one variable of the environment. Whoever sets it by hand marks a run as emulated
that is not: it makes a result worth less, never more.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "KICKBENCH_LAB"


@dataclass(frozen=True)
class Mark:
    """``by``: the machine, for people. ``command``: what the user typed outside. ``resume``: what
    to type before the folder of a run to finish it. ``count_step``: the machine's clock counts
    instructions, so many at a time; 0 if it does not."""

    by: str
    command: list[str]
    resume: str
    count_step: int = 0

    def to_environment(self) -> dict[str, str]:
        """The variable that :meth:`of_this_process` reads inside."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def of_this_process(cls) -> Self | None:
        """The mark that the lab has left, or None outside of it."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None
