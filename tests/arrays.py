# SPDX-License-Identifier: Apache-2.0
"""Records as numpy's structured arrays, in which a test says what it expects of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from kickbench.engine.engine import Engine, structure
from kickbench.records import Records, RecordType


def dtype_of(type_: RecordType) -> np.dtype[Any]:
    """The dtype of records of a type."""
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(type_.descr)
    return dtype


def as_array(*parts: Records) -> Any:
    """A copy of the records of one part or more, one below the other."""
    data = b"".join(part.data for part in parts)
    return np.frombuffer(data, dtype_of(parts[0].type)).copy()


def kicks_of(engine: Engine) -> Any:
    """The kicks of all kickers in the last call, one kicker's below another's."""
    return as_array(Records(structure("kick_record"), b""), *engine.kicks())
