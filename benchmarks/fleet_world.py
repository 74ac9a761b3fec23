# SPDX-License-Identifier: Apache-2.0
"""Writes the store of a fleet that does not exist: hosts of five kinds, three years of nights.

The store is as kickbench leaves it: a pack for each month that is over, one for each day of the
present month, and the last night's small files. Kernels are rolled out in waves. The last kernel
makes exits dearer on the first kind of host. Hosts miss nights, and some fall silent.

    python benchmarks/fleet_world.py FOLDER [--hosts 1000] [--nights 1100]
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kickbench.fleet.compact import ROW_GROUP
from kickbench.fleet.snapshot import DAYS, MONTHS, Loose, Pack
from kickbench.fleet.tables import COLUMNS, METRICS_TABLE, RUNS

END = datetime.date(2026, 11, 29)
"""The last night."""

KINDS = (  # CPU model, microcode, share of the hosts, level of an exit in ns
    ("AMD EPYC 9654 96-Core Processor", "0xa101148", 0.3, 1450.0),
    ("AMD EPYC 7763 64-Core Processor", "0xa0011d5", 0.25, 1700.0),
    ("Intel(R) Xeon(R) Platinum 8480+", "0x2b0005c0", 0.2, 1300.0),
    ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "0xd0003e7", 0.15, 1550.0),
    ("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz", "0x5003707", 0.1, 1900.0),
)
KERNELS = tuple(f"6.{minor}.{patch}" for minor in (6, 12) for patch in range(1, 10))
DEARER = 1.021
"""What an exit costs under the last kernel on the first kind of host, as a share of before."""

METHODS = ("sigmask", "immediate_exit", "flag_signal", "immediate_exit_remote", "user_exit")
CASES = tuple(
    f"exits-{program}-{vcpus}vcpu-max-any"
    for program in ("pm_timer", "hlt", "cpuid", "pio_out", "mmio")
    for vcpus in (1, 4)
)
FIGURES = sorted(  # metric, case, method, baseline: as a pack is sorted
    [
        (metric, case, method, "")
        for metric in ("ns_per_exit", "quiet_ns_per_exit")
        for case in CASES
        for method in METHODS
    ]
    + [
        (f"{metric} difference", case, method, "immediate_exit")
        for metric in ("ns_per_exit", "quiet_ns_per_exit")
        for case in CASES
        for method in METHODS
        if method != "immediate_exit"
    ]
    + [("cpu_ns_per_exit", case, method, "") for case in CASES for method in METHODS[:2]]
)
assert len(FIGURES) == 200


@dataclass(frozen=True)
class World:
    """Who is in the fleet and what runs there: (hosts, nights), the last night last."""

    names: list[str]
    kind: NDArray[np.int64]
    kernel: NDArray[np.int64]  # indices of KERNELS
    measured: NDArray[np.bool_]
    days: list[datetime.date]
    host_level: NDArray[np.float64]


def world(hosts: int, nights: int, chance: np.random.Generator) -> World:
    """A fleet. Its hosts are sorted as a pack is: by CPU model, then by name."""
    shares = np.array([share for _, _, share, _ in KINDS])
    kind = chance.choice(len(KINDS), hosts, p=shares)
    names = np.array([f"node-{number:05}" for number in range(hosts)])
    order = sorted(range(hosts), key=lambda host: (KINDS[kind[host]][0], names[host]))
    kind, names = kind[order], names[order]
    every = max(1, nights // len(KERNELS))
    wave = chance.integers(0, 4, hosts)
    delay = 5 * wave + chance.integers(0, 3, hosts)  # nights after the first host
    night = np.arange(nights)
    kernel = np.clip((night[None, :] - delay[:, None]) // every, 0, len(KERNELS) - 1)
    # The last kernel came in the last three weeks.
    late = night[None, :] >= nights - 21 + delay[:, None]
    kernel = np.where(late, len(KERNELS) - 1, np.minimum(kernel, len(KERNELS) - 2))
    measured = chance.random((hosts, nights)) > 0.02
    for host in chance.choice(hosts, hosts // 100, replace=False):
        measured[host, nights - int(chance.integers(10, 60)) :] = False
    days = [END - datetime.timedelta(days=nights - 1 - n) for n in range(nights)]
    return World(list(names), kind, kernel, measured, days, chance.normal(1, 0.01, hosts))


def rows(some: World, first: int, last: int, chance: np.random.Generator) -> dict[str, pa.Table]:
    """Both tables of the nights from ``first`` to before ``last``, sorted as a pack is."""
    host, night = np.nonzero(some.measured[:, first:last])
    night += first
    begin = np.datetime64(str(some.days[0])) + np.timedelta64(2 * 3600, "s")
    time = (begin.astype("datetime64[ms]") + night * np.timedelta64(86_400_000, "ms")).astype(
        "int64"
    )
    time += host * 1000
    run_ids = [
        f"{some.days[n]:%Y%m%d}T020000Z-{some.names[h]}-{h:04x}{n:04x}"
        for h, n in zip(host, night, strict=True)
    ]
    kind, kernel = some.kind[host], some.kernel[host, night]
    one = len(host)
    stamp = pa.timestamp("ms", "UTC")

    def coded(names: Sequence[Any], codes: NDArray[np.int64], copies: int) -> pa.Array:
        indices = pa.array(np.tile(codes.astype(np.int32), copies))
        return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))

    def shared(copies: int) -> dict[str, pa.Array]:
        same = np.zeros(one, dtype=np.int64)
        fingerprints = [f"{number:012x}" for number in range(len(KINDS))]
        return {
            "host": coded(some.names, host, copies),
            "run_id": coded(run_ids, np.arange(one), copies),
            "time": pa.array(np.tile(time, copies)).cast(pa.timestamp("ms")).cast(stamp),
            "cpu_model": coded([model for model, _, _, _ in KINDS], kind, copies),
            "kernel": coded(KERNELS, kernel, copies),
            "microcode": coded([microcode for _, microcode, _, _ in KINDS], kind, copies),
            "fingerprint": coded(fingerprints, kind, copies),
            "scenario": coded(["nightly"], same, copies),
            "scenario_digest": coded(["0123456789ab"], same, copies),
        }

    runs = shared(1)
    same = np.zeros(one, dtype=np.int64)
    cmdlines = [f"BOOT_IMAGE=/vmlinuz-{kernel} ro quiet" for kernel in KERNELS]
    runs |= {
        "stored": runs["time"],
        "fleet": pa.nulls(one, pa.string()),
        "cmdline": coded(cmdlines, kernel, 1),
        "mitigations": coded(["meltdown: Not affected; spectre_v2: Mitigation: IBRS"], same, 1),
        "emulated": pa.array(np.zeros(one, dtype=bool)),
        **{
            name: pa.array(np.full(one, number, dtype=np.int32))
            for name, number in (("ok", len(CASES)), ("skipped", 0), ("failed", 0), ("lost", 0))
        },
        "kickbench": coded(["0.1.0"], same, 1),
        "machine_id": coded([f"{number:012x}" for number in range(len(some.names))], host, 1),
    }
    level = np.array([level for _, _, _, level in KINDS])[kind] * some.host_level[host]
    level = level * np.where((kernel == len(KERNELS) - 1) & (kind == 0), DEARER, 1.0)
    count = len(FIGURES)
    value = np.empty((count, one), dtype=np.float64)
    for number, (_, case, method, baseline) in enumerate(FIGURES):
        of_figure = 1 + 0.05 * CASES.index(case) + 0.02 * METHODS.index(method)
        scale = 0.05 if baseline else 1.0
        value[number] = level * of_figure * scale * chance.normal(1, 0.004, one)
    value = value.ravel()
    figure = np.repeat(np.arange(count), one)

    def of_figure_column(index: int) -> pa.Array:
        names = sorted({f[index] for f in FIGURES})
        codes = np.array([names.index(f[index]) for f in FIGURES], dtype=np.int32)
        array = pa.DictionaryArray.from_arrays(pa.array(codes[figure]), pa.array(names))
        return (
            array
            if index != 3
            else pa.compute.if_else(
                pa.array(np.array([bool(f[3]) for f in FIGURES])[figure]),
                array.cast(pa.string()),
                pa.scalar(None, pa.string()),
            )
        )

    long = np.zeros(count * one, dtype=np.int32)

    def constant(text: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(long), pa.array([text]))

    metrics = shared(count) | {
        "case": of_figure_column(1),
        "kind": constant("exits"),
        "method": of_figure_column(2),
        "baseline": of_figure_column(3),
        "metric": of_figure_column(0),
        "unit": constant("ns"),
        "better": constant("lower"),
        "value": pa.array(value),
        "low": pa.array(value * 0.998),
        "high": pa.array(value * 1.002),
        "processes": pa.array(long + 5),
    }
    return {
        table: pa.table(
            {name: found[name] for name in ("host", *(c for c, _, _ in COLUMNS[table]))}
        )
        for table, found in ((RUNS, runs), (METRICS_TABLE, metrics))
    }


def write(folder: Path, hosts: int, nights: int) -> None:
    """Write the store of such a fleet."""
    chance = np.random.default_rng(1)
    some = world(hosts, nights, chance)
    present = f"{END:%Y-%m}"
    for number, (month, first, last) in enumerate(_parts(some.days, present)):
        tables = rows(some, first, last, chance)
        pack = Pack(DAYS if month == present else MONTHS, month, f"{number:016x}")
        for table, found in tables.items():
            path = folder / pack.file(table)
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = duckdb.connect()
            connection.register("found", found)
            connection.execute(
                f"COPY found TO '{path}' "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )
        print(f"{month}: {tables[METRICS_TABLE].num_rows:,} rows", flush=True)
    _write_small(folder, rows(some, nights - 1, nights, chance), present)


def _parts(days: Sequence[datetime.date], present: str) -> Iterator[tuple[str, int, int]]:
    """A month, and its first and last night; of the present month, each day but the last."""
    first = 0
    for night in range(1, len(days)):
        month = f"{days[first]:%Y-%m}"
        if f"{days[night]:%Y-%m}" != month or month == present:
            yield month, first, night
            first = night


def _write_small(folder: Path, tables: dict[str, pa.Table], month: str) -> None:
    for table, found in tables.items():
        schema = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS[table]])
        order = np.argsort(found.column("host").to_numpy(), kind="stable")
        found = found.take(order)
        each = len(FIGURES) if table == METRICS_TABLE else 1
        for at in range(0, found.num_rows, each):
            own = found.slice(at, each)
            run = Loose(own.column("host")[0].as_py(), month, own.column("run_id")[0].as_py())
            path = folder / run.file(table)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(own.drop_columns("host").cast(schema), path, compression="zstd")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--nights", type=int, default=1100)
    chosen = parser.parse_args()
    write(chosen.folder, chosen.hosts, chosen.nights)
