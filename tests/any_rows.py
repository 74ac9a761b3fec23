# SPDX-License-Identifier: Apache-2.0
"""Whatever a worker's arrays can have in them, for property tests of the tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import synthetic_run
from hypothesis import strategies as st

from kickbench.results.tables import TABLES

ENTRIES = [
    {"method": "sigmask", "role": "method"},
    {"method": "immediate_exit", "role": "method"},
    {"method": "immediate_exit", "role": "control"},
    {"method": "immediate_exit", "role": "placebo"},
]


def largest(table: str) -> dict[str, int]:
    """The largest value of each field of a worker's array. The least is 0."""
    dtype, schema = synthetic_run.DTYPES[table], TABLES[table].schema

    def of_field(name: str) -> int:
        if name == "entry":
            return len(ENTRIES) - 1
        if schema.field(name).type == pa.bool_():
            return 1
        if dtype[name] == np.float32:
            return 2**24  # whole numbers that a float32 holds
        types = (dtype[name], schema.field(name).type.to_pandas_dtype())
        return int(min(2**53, *(np.iinfo(one).max for one in types)))

    return {name: of_field(name) for name in dtype.names}


def arrays(table: str) -> st.SearchStrategy:
    """Arrays as a worker returns them. numpy draws the values: a table has up to 40 columns.

    Half of the values are of any size, the others at the ends of their range.
    """
    limits = largest(table)

    def made(rows: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        array = np.empty(rows, synthetic_run.DTYPES[table])
        for name, limit in limits.items():
            inside = rng.integers(0, limit, rows, endpoint=True) >> rng.integers(0, 53, rows)
            array[name] = np.where(rng.random(rows) < 0.5, inside, rng.choice([0, 1, limit], rows))
        return array

    return st.builds(made, st.integers(0, 20), st.integers(0, 2**32 - 1))


# An observation has no workers, and fills its tables itself.
OF_WORKERS = [name for name, table in TABLES.items() if table.columns[0].name == "process"]
