# SPDX-License-Identifier: Apache-2.0
"""The tables: what the worker returned is what Parquet gives back, and bad arrays are refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic_run
from any_rows import ENTRIES, OF_WORKERS, arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kickbench.errors import MeasurementError
from kickbench.results.tables import (
    ROLES,
    TABLES,
    combine,
    from_worker,
    load_worker_array,
    tables_of,
)


@pytest.mark.parametrize("name", OF_WORKERS)
def test_a_worker_array_has_the_columns_of_its_table(name):
    columns = {column.name for column in TABLES[name].columns}
    expected = columns - {"process", "method", *ROLES} | {"entry"}
    assert set(synthetic_run.DTYPES[name].names) == expected


@pytest.mark.parametrize("name", OF_WORKERS)
@settings(deadline=None)
@given(data=st.data())
def test_a_worker_array_survives_parquet_exactly(name, data):
    parts = data.draw(st.lists(arrays(name), min_size=1, max_size=3))
    table = combine(
        [from_worker(name, part, entries=ENTRIES, process=i) for i, part in enumerate(parts)]
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    back = pq.read_table(io.BytesIO(file.getvalue()))
    assert back.schema.equals(TABLES[name].schema)
    assert back.equals(table)
    together = np.concatenate(parts)
    assert back["process"].to_pylist() == [i for i, part in enumerate(parts) for _ in part]
    assert back["method"].to_pylist() == [ENTRIES[e]["method"] for e in together["entry"]]
    for role in ROLES:
        assert back[role].to_pylist() == [ENTRIES[e]["role"] == role for e in together["entry"]]
    for column in TABLES[name].columns:
        if column.name not in ("process", "method", *ROLES):
            assert back[column.name].to_pylist() == together[column.name].tolist()


def test_every_field_carries_its_meaning():
    for table in TABLES.values():
        for field in table.schema:
            assert field.metadata[b"doc"], f"{table.name}.{field.name}"
            if field.name.endswith("_cycles") or field.name == "cycles":
                assert field.metadata[b"unit"] == b"cycles"
            if field.name.endswith("_ns"):
                assert field.metadata[b"unit"] == b"ns"


def test_a_kind_knows_its_tables():
    assert [t.name for t in tables_of("exits")] == ["blocks", "exit_histograms", "exit_samples"]
    assert [t.name for t in tables_of("exits", kicks=True)][3:] == ["kick_blocks"]
    assert [t.name for t in tables_of("exits", noise=True)][3:] == ["noise"]
    assert [t.name for t in tables_of("kick")] == ["kicks", "kick_blocks"]
    assert [t.name for t in tables_of("pause_all")] == ["pauses"]
    assert [t.name for t in tables_of("race")] == ["races"]
    assert [t.name for t in tables_of("nested")] == ["nested"]
    assert [t.name for t in tables_of("handover")] == ["handovers"]
    assert [t.name for t in tables_of("lifecycle")] == ["lives"]
    assert tables_of("telepathy") == ()


@pytest.mark.parametrize("name", TABLES)
def test_the_reference_mentions_every_table_and_column(name):
    text = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    section = text.split(f"### {name}", 1)[1].split("\n### ", 1)[0]
    for column in TABLES[name].columns:
        row = next((line for line in section.splitlines() if f"`{column.name}`" in line), None)
        assert row is not None, f"docs/results.md does not mention {name}.{column.name}"
        assert str(column.type).split("<")[0] in row, f"wrong type of {name}.{column.name}"
        assert column.unit in row, f"wrong unit of {name}.{column.name}"


def test_missing_fields_are_named():
    array = np.zeros(1, [("entry", "u1"), ("round", "i4"), ("vcpu", "i2")])
    with pytest.raises(MeasurementError, match=r"worker 4 .* exit_samples without cycles"):
        from_worker("exit_samples", array, entries=ENTRIES, process=4)


def test_an_entry_outside_the_schedule_is_refused():
    array = np.zeros(2, synthetic_run.SAMPLES)
    array["entry"][1] = len(ENTRIES)
    with pytest.raises(MeasurementError, match="outside its schedule"):
        from_worker("exit_samples", array, entries=ENTRIES, process=0)


@settings(deadline=None)
@given(hnp.arrays(np.int64, 3))
def test_values_that_do_not_fit_are_refused_not_wrapped(values):
    array = np.zeros(3, [("round", "i4"), ("entry", "u1"), ("vcpu", "i2"), ("cycles", "i8")])
    array["cycles"] = values
    if ((values < 0) | (values >= 2**32)).any():
        with pytest.raises(MeasurementError, match="bad cycles"):
            from_worker("exit_samples", array, entries=ENTRIES, process=0)
    else:
        table = from_worker("exit_samples", array, entries=ENTRIES, process=0)
        assert table["cycles"].to_pylist() == values.tolist()


def test_a_worker_array_is_never_a_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    plain = np.zeros(3, synthetic_run.SAMPLES)
    np.save(tmp_path / "good.npy", plain)
    assert (load_worker_array(tmp_path / "good.npy") == plain).all()
    np.save(tmp_path / "object.npy", np.array([Bomb()], object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "unstructured.npy", np.zeros(3))
    (tmp_path / "short.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-5])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("object", "raw", "unstructured", "short", "empty", "absent"):
        with pytest.raises(MeasurementError):
            load_worker_array(tmp_path / f"{name}.npy")
    assert not (tmp_path / "exploded").exists()
