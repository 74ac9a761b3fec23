# SPDX-License-Identifier: Apache-2.0
"""The mark of a run inside the lab: its machine, and the command that started it outside.

The lab sets it in one variable of the environment. If you set the variable by hand, a run on real
KVM is marked as emulated. Its results then count for less, never for more.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

VARIABLE = "KICKBENCH_LAB"


@dataclass(frozen=True)
class Mark:
    """``by``: the machine, for people. ``command``: the command that the user typed outside.
    ``resume``: what to type before the folder of a run to finish it. ``count_step``: how many
    instructions the machine's clock counts at a time; 0 if it does not count instructions."""

    by: str
    command: list[str]
    resume: str
    count_step: int = 0

    def to_environment(self) -> dict[str, str]:
        """The variable that :meth:`of_this_process` reads inside."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def of_this_process(cls) -> Self | None:
        """The mark that the lab set, or None outside the lab."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None


def origin(mark: Mark | None) -> dict[str, Any]:
    """The keys of a manifest that say which command made the run, and in which machine. ``mark`` is
    that machine's."""
    return {
        "command": mark.command if mark else ["kickbench", *sys.argv[1:]],
        "emulated": mark is not None,
        "emulated_by": mark.by if mark else None,
        "count_step": mark.count_step if mark else 0,
    }
