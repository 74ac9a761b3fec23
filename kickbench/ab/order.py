# SPDX-License-Identifier: Apache-2.0
"""The order of the boots: pairs of neighbours, one boot of each kernel, in blocks of ABBA or BAAB.

Whatever drifts steadily over the boots, such as the temperature of the room, is the same for both
kernels in a block. Which kernel begins is drawn, so that nothing that comes every second or every
fourth boot is always with the same kernel.
"""

from __future__ import annotations

import random
from typing import Literal

Letter = Literal["A", "B"]

FEWEST_BOOTS = 2
"""Boots of each kernel. One pair does not show how pairs differ."""
MOST_BOOTS = 100


def order(boots: int, seed: int) -> list[Letter]:
    """The kernels of all boots, for ``boots`` boots of each. The same seed gives the same order.

    An odd number of boots has half a block at the end.
    """
    draw = random.Random(seed)
    blocks: tuple[tuple[Letter, Letter], ...] = (("A", "B"), ("B", "A"))
    letters: list[Letter] = []
    while len(letters) < 2 * boots:
        first, second = draw.choice(blocks)
        letters += [first, second, second, first]
    return letters[: 2 * boots]
