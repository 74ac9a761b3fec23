# SPDX-License-Identifier: Apache-2.0
"""pyperf.json is a real suite: pyperf itself reads it, shows it and compares it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyperf
import pytest
import synthetic_run

from kickbench.results.reader import RunReader
from kickbench.results.writer import RunWriter
from kickbench.summary.exits import read_rounds
from kickbench.summary.pyperf import export, write_pyperf

CASES = [synthetic_run.case(1), synthetic_run.case(4), synthetic_run.case(8, rate=100.0)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the same cases; in the second sigmask is 500 ns slower."""
    path = tmp_path_factory.mktemp("results")
    return [
        synthetic_run.build(path, cases=CASES, shift_ns=shift, seed=seed, noise=0.002)
        for seed, shift in enumerate((100.0, 600.0))
    ]


def run_pyperf(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_suite_has_a_benchmark_per_case_and_method(runs):
    path = write_pyperf(runs[0])
    assert path == runs[0] / "pyperf.json"
    suite = pyperf.BenchmarkSuite.load(str(path))
    assert suite.get_benchmark_names() == [
        f"{case['id']}/{method}" for case in CASES[:2] for method in case["methods"]
    ]
    reader = RunReader(runs[0])
    for case in CASES[:2]:
        rounds = read_rounds(reader, case["id"])
        for index, method in enumerate(case["methods"]):
            benchmark = suite.get_benchmark(f"{case['id']}/{method}")
            assert benchmark.get_unit() == "second"
            assert benchmark.get_nrun() == 3
            for process, run in enumerate(benchmark.get_runs()):
                wanted = rounds.ns_per_exit[rounds.process == process, index] / 1e9
                assert np.array(run.values) == pytest.approx(wanted)
                assert run.warmups == ()


def test_the_metadata_say_where_the_figures_come_from(runs):
    suite = export(RunReader(runs[0]))
    common = suite.get_metadata()
    assert common["hostname"] == "testhost"
    assert common["cpu_model_name"] == "Imaginary CPU 3000"
    assert common["platform"] == "6.12.0-test"
    assert common["cpu_governor"] == "performance"
    assert common["kickbench_version"] == "0.1.0"
    assert common["kickbench_run_id"] == runs[0].name
    assert common["date"] == "2026-03-01 12:00:00"
    assert "python_version" not in common  # of the exporting machine: not the run's
    benchmark = suite.get_benchmark(f"{CASES[1]['id']}/sigmask")
    assert benchmark.get_metadata()["kickbench_vcpus"] == 4
    assert benchmark.get_metadata()["kickbench_exit_rate_hz"] == "max"
    assert benchmark.get_metadata()["description"].startswith("pm_timer, 4 vCPUs, local")


def test_the_file_is_deterministic(runs):
    first = write_pyperf(runs[0]).read_bytes()
    assert write_pyperf(runs[0]).read_bytes() == first


def test_pyperf_reads_it(runs):
    path = write_pyperf(runs[0])
    shown = run_pyperf("show", path)
    for case in CASES[:2]:
        for method in case["methods"]:
            assert f"{case['id']}/{method}" in shown
    assert "Mean +- std dev: 2.1" in shown
    assert "unstable" not in shown
    metadata = run_pyperf("show", "--metadata", path)
    assert "hostname: testhost" in metadata
    assert "Total number of values: 120" in run_pyperf("stats", path)
    assert "###" in run_pyperf("hist", path)
    assert "All benchmarks seem to be stable" in run_pyperf("check", path)
    assert "Imaginary CPU 3000" in run_pyperf("metadata", path)


def test_pyperf_compares_two(runs):
    compared = run_pyperf("compare_to", *map(write_pyperf, runs), "--table", "-v")
    line = next(row for row in compared.splitlines() if f"{CASES[0]['id']}/sigmask" in row)
    assert "1.24x slower" in line or "1.23x slower" in line


def test_metadata_that_pyperf_does_not_take_are_left_out(tmp_path):
    environment = {"hostname": "a\nb", "cpu": {"model": "  ", "affinity": []}, "kernel": "6.12"}
    run = synthetic_run.build(tmp_path, cases=CASES[:1], environment=environment, emulated=True)
    common = export(RunReader(run)).get_metadata()
    assert common["hostname"] == "a b"
    assert "cpu_model_name" not in common
    assert "cpu_affinity" not in common
    assert common["kickbench_emulated_by"] == "QEMU TCG"
    assert run_pyperf("show", write_pyperf(run))


@pytest.mark.parametrize(
    "zero", [["exits", "timed_exits", "timed_cycles"], ["elapsed_cycles", "timed_cycles"]]
)
def test_a_run_without_times_has_no_pyperf_file(tmp_path, zero):
    with RunWriter.create(tmp_path, "unit", scenario={}, cases=CASES, environment={}) as writer:
        writer.mark(CASES[0]["id"], "skipped", "no KVM")
        parameters = CASES[1]
        tables = synthetic_run.case_tables(parameters, shift_ns=0.0, rounds=4)
        for name in zero:
            column = tables["blocks"].column_names.index(name)
            field = tables["blocks"].schema.field(name)
            zeros = np.zeros(len(tables["blocks"]), np.int64)
            tables["blocks"] = tables["blocks"].set_column(column, field, [zeros])
        writer.write_case(parameters["id"], synthetic_run.case_document(parameters), tables)
    assert export(RunReader(writer.path)) is None
    assert write_pyperf(writer.path) is None
    assert not (writer.path / "pyperf.json").exists()
