# SPDX-License-Identifier: Apache-2.0
"""Records as numpy's structured arrays, in which a test says what it expects of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from kickbench.records import Records, RecordType


def dtype_of(type_: RecordType) -> np.dtype[Any]:
    """The dtype of records of a type."""
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(type_.descr)
    return dtype


def as_array(*parts: Records) -> Any:
    """A copy of the records of one part or more, one below the other."""
    data = b"".join(part.data for part in parts)
    return np.frombuffer(data, dtype_of(parts[0].type)).copy()
