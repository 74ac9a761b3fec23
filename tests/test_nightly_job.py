# SPDX-License-Identifier: Apache-2.0
"""A night of the job: what it keeps, says and exits with, whatever happens to it.

The runs are synthetic folders, written where ``kickbench run`` would, but for the last tests, which
measure on real KVM.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import resource
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic_run
from command import KICKBENCH, kickbench, kickbench_captured, kickbench_here
from made_once import made_once

from kickbench.errors import (
    ConnectionBrokenError,
    HostError,
    MeasurementError,
    StorageError,
    UsageError,
)
from kickbench.nightly import job
from kickbench.nightly.config import THIS_HOST, Config, load
from kickbench.nightly.events import forgotten, verdicts
from kickbench.nightly.history import History
from kickbench.nightly.night import Night
from kickbench.nightly.outputs import headline, junit, markdown
from kickbench.nightly.outputs import json as json_of
from kickbench.results.reader import RunReader
from kickbench.run.runner import Outcome, RunInterruptedError
from kickbench.scenario.model import Scenario
from kickbench.summary.summarise import summarise

SCENARIO = 'name = "{name}"\n[vm]\nvcpus = 1\n[guest]\nprogram = "hlt"\n'
BEGIN = datetime.datetime(2026, 3, 1, 2, tzinfo=datetime.UTC)
BUSY = "**The host was busy"
CASES = synthetic_run.sweep()[:1]
PAST = 12
"""Nights that a history has that is asked for a decision."""

# Most nights of this module are about what is kept and decided.
unrendered = pytest.mark.usefixtures("unrendered")


def environment(kernel: str = "6.12.3", cpu: str = "A CPU", hostname: str = "vm") -> dict[str, Any]:
    host = {**copy.deepcopy(dict(synthetic_run.ENVIRONMENT)), "hostname": hostname}
    host["kernel"] = {**host["kernel"], "release": kernel}
    host["cpu"] = {**host["cpu"], "model": cpu}
    return host


def measuring(
    day: int, *, kernel: str = "6.12.3", cpu: str = "A CPU", hostname: str = "vm", **how: Any
) -> job.Measure:
    """What measures on the night of this day."""

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        folder = synthetic_run.build(
            results,
            scenario_name=scenario.name,
            now=BEGIN + datetime.timedelta(days=day),
            environment=environment(kernel, cpu, hostname),
            **{"cases": CASES, "seed": abs(day) + 1, **how},
        )
        return Outcome(folder, 1, {}, "")

    return measure


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return job_of(tmp_path, "synthetic")


def job_of(folder: Path, *names: str, more: str = "") -> Config:
    for name in names:
        (folder / f"{name}.toml").write_text(SCENARIO.format(name=name))
    path = folder / "nightly.toml"
    path.write_text(f"scenarios = {[f'{name}.toml' for name in names]}\n{more}")
    return load(path)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of PAST calm nights."""

    def make(folder: Path) -> Path:
        history = History(folder / "history")
        live_through(history, folder, PAST)
        return history.folder

    return made_once(tmp_path_factory, "past", make)


def live_through(history: History, folder: Path, days: int, **how: Any) -> None:
    """Add so many nights, without the job and its pages."""
    scenario = Scenario.from_dict({**_TINY, "name": "synthetic"})
    for day in range(days):
        reader = RunReader(measuring(day, **how)(scenario, folder, THIS_HOST).folder)
        history.append(Night.of(reader.manifest, summarise(reader)))


_TINY = {"vm": {"vcpus": 1}, "guest": {"program": "hlt"}}


@pytest.fixture
def seasoned(config: Config, past: Path) -> Config:
    """A job with a past."""
    shutil.copytree(past, config.history)
    return config


def slower(share: float) -> dict[str, Any]:
    """What makes sigmask's exits longer by this share of the baseline's."""
    return {"shift_ns": synthetic_run.siglock_ns(CASES[0]) + share * synthetic_run.BASE_NS}


# --- nights on which the host was busy ---------------------------------------------------------


@unrendered
def test_a_busy_night_is_kept_and_is_no_witness(seasoned: Config) -> None:
    result = job.run(seasoned, measuring(PAST, others=0.37, **slower(0.5)))
    assert result.exit_code == 0
    why = "the host was busy (others used 37 % of its CPUs)"
    assert headline(result) == f"T{why[1:]}: the night is not evidence."
    (part,) = result.parts
    (case,) = part.disturbed
    document = json.loads(json_of(result))["scenarios"][0]
    assert document["no_witness"] == [{"case": case, "reason": why}]
    assert {m["verdict"] for m in document["metrics"]} == {"no witness"}
    assert all(m["value"] is not None for m in document["metrics"])  # shown all the same
    assert f"1 of 1 case of synthetic is not evidence tonight: {why}" in words(markdown(result))
    skipped = ElementTree.fromstring(junit(result)).findall(".//skipped")  # noqa: S314 (ours)
    assert {each.get("message") for each in skipped} == {f"no witness: {why}"}
    assert len(History(seasoned.history).nights(*of(part))) == PAST + 1


@unrendered
def test_slower_on_busy_nights_is_no_alarm_and_found_on_the_next_quiet_ones(
    seasoned: Config,
) -> None:
    codes = []
    for night, others in enumerate((0.6, 0.5, 0.01, 0.4, 0.01)):
        result = job.run(seasoned, measuring(PAST + night, others=others, **slower(0.5)))
        codes.append(result.exit_code)
    assert codes == [0, 0, 0, 0, 1]
    # And on a busy night it is neither confirmed nor over.
    result = job.run(seasoned, measuring(PAST + 5, others=0.5))
    assert result.exit_code == 0
    assert "The last alarm still stands" in words(markdown(result))


@unrendered
def test_a_host_that_is_never_quiet_says_so_every_night(config: Config) -> None:
    live_through(History(config.history), config.results, 12, others=0.5)
    codes = [job.run(config, measuring(day, others=0.5)).exit_code for day in (12, 13)]
    assert codes == [0, 3]
    result = job.run(config, measuring(14, others=0.5))
    assert result.exit_code == 3
    assert "busy on each of the last 14 nights" in words(markdown(result))
    assert job.run(config, measuring(15, others=0.01)).exit_code == 0


@unrendered
def test_an_emulated_host_is_as_good_a_witness_when_it_is_busy(config: Config) -> None:
    """What it counts does not depend on what runs beside the emulator."""
    for day in range(3):
        result = job.run(config, measuring(day, others=0.9, emulated=True))
    assert not result.parts[0].disturbed


def words(text: str) -> str:
    return " ".join(text.split())


def of(part: job.Part) -> tuple[str, str]:
    assert part.night is not None
    return part.night.fingerprint, part.night.scenario


# --- good nights and bad ones ------------------------------------------------------------------


def test_the_first_night_is_kept_and_decides_nothing(config: Config) -> None:
    result = job.run(config, measuring(0))
    assert result.exit_code == 0
    assert headline(result) == "The first night: there is nothing yet to compare it with."
    (part,) = result.parts
    history = History(config.history)
    (kept,) = history.read(history.partitions()[0])
    assert part.night is not None
    assert kept.run_id == part.night.run_id
    assert verdicts(history.events())[kept.run_id].keys == frozenset()
    for page in (part.report, part.trend):
        assert page is not None
        assert page.read_text().startswith("<!DOCTYPE html>")


@unrendered
def test_too_few_nights_decide_nothing_either(config: Config) -> None:
    job.run(config, measuring(0))
    result = job.run(config, measuring(1, **slower(0.5)))
    assert result.exit_code == 0
    assert headline(result) == "No decision yet: 2 of the 9 nights that a decision takes."


@unrendered
def test_a_calm_night_is_no_alarm(seasoned: Config) -> None:
    result = job.run(seasoned, measuring(PAST))
    assert result.exit_code == 0
    said = headline(result)
    assert said.startswith("No regression in 11 metrics of 1 scenario (")
    assert said.endswith("nights of baseline).")


@unrendered
def test_a_lasting_slowdown_is_told_with_its_night_and_what_changed_with_it(
    seasoned: Config,
) -> None:
    worse = {"kernel": "6.12.4", **slower(0.05)}
    first = job.run(seasoned, measuring(PAST, **worse))
    assert first.exit_code == 0
    assert "a single night raises no alarm" in " ".join(markdown(first).split())
    second = job.run(seasoned, measuring(PAST + 1, **worse))
    assert second.exit_code == 1
    said = headline(second)
    assert "got slower: time per quiet exit of sigmask by " in said
    assert "since 2026-03-13 (2 nights)" in said
    told = " ".join(markdown(second).split())
    assert "with kernel: 6.12.3 → 6.12.4" in told
    part = second.parts[0]
    alarmed = verdicts(History(seasoned.history).events())[part.night.run_id].keys  # type: ignore[union-attr]
    assert alarmed == {judgement.key for judgement in part.regressions}
    assert any(key.method == "sigmask" and key.baseline is None for key in alarmed)
    assert all(key.method == "sigmask" for key in alarmed)  # immediate_exit is as it was
    failed = [
        case.get("name")
        for case in ElementTree.fromstring(junit(second)).iter("testcase")  # noqa: S314 (our own)
        if case.find("failure") is not None
    ]
    assert len(failed) == len(alarmed)
    assert "sigmask/ns_per_exit" in failed


@unrendered
def test_it_goes_on_being_an_alarm_until_it_is_accepted(seasoned: Config) -> None:
    for day in (PAST, PAST + 1):
        result = job.run(seasoned, measuring(day, **slower(0.05)))
    assert result.exit_code == 1
    history = History(seasoned.history)
    first = history.find(f"{BEGIN + datetime.timedelta(days=PAST):%Y%m%d}")
    history.accept(first, "the price of a mitigation")
    assert job.run(seasoned, measuring(PAST + 2, **slower(0.05))).exit_code == 0
    assert not forgotten(history.events())


@unrendered
def test_a_pinned_run_is_the_baseline(seasoned: Config, tmp_path: Path) -> None:
    history = History(seasoned.history)
    run = history.read(history.partitions()[0])[3].run_id
    pinned = job_of(tmp_path, "synthetic", more=f'[baseline]\npinned = "{run}"\n')
    result = job.run(pinned, measuring(PAST))
    assert result.exit_code == 0
    assert headline(result).endswith(f"(against {run}).")


def test_a_pinned_run_has_to_be_one_of_this_job(seasoned: Config, tmp_path: Path) -> None:
    history = History(seasoned.history)
    runs = [night.run_id for night in history.read(history.partitions()[0])]

    def measured(*_: object) -> Outcome:
        raise AssertionError("it has to be refused before anything is measured")

    for scenario, pins, said in (
        ("synthetic", ["20200101T000000Z-x-00000000"], "baseline.pinned: .*has no run"),
        ("other", runs[:1], "is of synthetic, which this job does not measure"),
        ("synthetic", runs[:2], "pin one"),
    ):
        pinned = job_of(tmp_path, scenario, more=f"[baseline]\npinned = {pins}\n")
        with pytest.raises(UsageError, match=said):
            job.run(pinned, measured)


# --- odd nights --------------------------------------------------------------------------------


@unrendered
def test_another_host_begins_a_baseline_of_its_own_and_is_told_why(seasoned: Config) -> None:
    result = job.run(seasoned, measuring(PAST, cpu="A newer CPU", **slower(0.5)))
    assert result.exit_code == 0
    told = " ".join(markdown(result).split())
    assert "The first night" in told
    assert "the host is not that of" in told
    assert "CPU: A CPU → A newer CPU" in told


def test_a_clock_that_went_back_is_told_and_judges_by_the_past_of_its_date(
    seasoned: Config,
) -> None:
    result = job.run(seasoned, measuring(-30))
    assert result.exit_code == 0
    assert len(result.parts[0].nights) == 1
    assert "the clock went back" in " ".join(markdown(result).split())


@unrendered
def test_a_changed_scenario_is_told(config: Config) -> None:
    job.run(config, measuring(0))
    history = History(config.history)
    (night,) = history.read(history.partitions()[0])
    path = history.partitions()[0].path / f"{night.run_id}.parquet"
    path.unlink()
    history.append(Night({**night.document, "scenario_digest": "another"}, night.table))
    told = " ".join(markdown(job.run(config, measuring(1))).split())
    assert "the scenario synthetic was changed" in told


@unrendered
def test_damaged_and_foreign_files_are_named_and_do_no_harm(seasoned: Config) -> None:
    history = History(seasoned.history)
    partition = history.partitions()[0]
    (partition.path / partition.runs[0]).write_bytes(b"PAR1 no more")
    (partition.path / "notes.txt").write_text("of mine")
    result = job.run(seasoned, measuring(PAST))
    assert result.exit_code == 0
    assert len(result.problems) == 2
    told = " ".join(markdown(result).split())
    assert "notes.txt" in told
    assert partition.runs[0] in told
    assert (partition.path / "notes.txt").read_text() == "of mine"


def _failing(day: int) -> job.Measure:
    """A night of two cases, of which the second fails."""

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        cases = synthetic_run.sweep()[:2]
        done = measuring(day, cases=cases, finish=False)(scenario, results, host)
        manifest = json.loads((done.folder / "manifest.json").read_text())
        entry = manifest["cases"][1]
        entry |= {"status": "failed", "reason": "the guest crashed"}
        manifest["complete"] = True
        shutil.rmtree(done.folder / "cases" / entry["id"])
        (done.folder / "manifest.json").write_text(json.dumps(manifest))
        return Outcome(done.folder, 1, {entry["id"]: "the guest crashed"}, "")

    return measure


@unrendered
def test_a_night_with_a_failed_case_is_kept_and_judged_as_far_as_it_goes(
    seasoned: Config,
) -> None:
    result = job.run(seasoned, _failing(PAST))
    assert result.exit_code == 4
    assert headline(result).startswith("No regression in 11 metrics")
    assert headline(result).endswith("1 case failed.")
    assert "failed: the guest crashed" in markdown(result)
    found = ElementTree.fromstring(junit(result))  # noqa: S314 (our own)
    assert found.get("errors") == "1"


# --- faults ------------------------------------------------------------------------------------


def raising(error: BaseException, first: job.Measure | None = None) -> job.Measure:
    """Measures the first scenario, if so wanted, and fails at the next."""
    left = [] if first is None else [first]

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        if left:
            return left.pop()(scenario, results, host)
        raise error

    return measure


@unrendered
def test_one_scenario_that_fails_does_not_keep_the_others_from_being_measured(
    tmp_path: Path,
) -> None:
    config = job_of(tmp_path, "one", "two", "three")
    calls: list[str] = []

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        calls.append(scenario.name)
        if scenario.name == "two":
            raise MeasurementError("a worker died")
        return measuring(0)(scenario, results, host)

    result = job.run(config, measure)
    assert calls == ["one", "two", "three"]
    assert result.exit_code == 4
    assert headline(result).endswith("Not measured: two.")
    assert "two was not measured: a worker died" in markdown(result)
    assert {p.scenario for p in History(config.history).partitions()} == {"one", "three"}


def test_a_host_that_cannot_measure_is_told_once(tmp_path: Path) -> None:
    config = job_of(tmp_path, "one", "two")
    result = job.run(config, raising(HostError("no /dev/kvm here")))
    assert result.exit_code == 3
    assert headline(result) == "Nothing was measured."
    assert markdown(result).count("no /dev/kvm here") == 1
    assert "- one and two were not measured: no" in markdown(result)


@unrendered
def test_when_results_cannot_be_stored_the_job_ends(tmp_path: Path) -> None:
    config = job_of(tmp_path, "one", "two", "three")
    result = job.run(config, raising(StorageError("the disk is full"), first=measuring(0)))
    assert result.exit_code == 4
    assert headline(result).endswith("Not measured: two and three.")
    assert result.parts[2].errors == result.parts[1].errors


@unrendered
def test_a_disk_that_is_full_after_measuring_costs_the_night_and_nothing_else(
    seasoned: Config,
) -> None:
    before = {p: p.read_bytes() for p in seasoned.history.rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        done = measuring(PAST)(scenario, results, host)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        return done

    try:
        result = job.run(seasoned, measure)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 4
    told = " ".join(markdown(result).split())
    assert "was measured, but: cannot write to" in told
    assert "the disk is full" in told
    for path, data in before.items():
        assert path.read_bytes() == data
    assert job.run(seasoned, measuring(PAST + 1)).exit_code == 0


@unrendered
def test_a_regression_is_told_even_when_its_pages_cannot_be_written(seasoned: Config) -> None:
    job.run(seasoned, measuring(PAST, **slower(0.05)))

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        done = measuring(PAST + 1, **slower(0.05))(scenario, results, host)
        shutil.rmtree(seasoned.reports)
        seasoned.reports.write_text("in the way")
        return done

    result = job.run(seasoned, measure)
    assert result.exit_code == 1
    told = " ".join(markdown(result).split())
    assert "got slower" in told
    assert "is a file" in told
    assert verdicts(History(seasoned.history).events())[result.parts[0].night.run_id].keys  # type: ignore[union-attr]


@unrendered
@pytest.mark.parametrize("broken", ["write_report", "page.write"])
def test_no_fault_of_a_page_costs_the_regression_or_the_next_scenario(
    seasoned: Config, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    both = job_of(seasoned.path.parent, "synthetic", "two")

    def fail(*_: object) -> Path:
        raise ValueError("year -1 is out of range")

    job.run(both, measuring(PAST, **slower(0.05)))
    monkeypatch.setattr(f"kickbench.nightly.job.{broken}", fail)
    result = job.run(both, measuring(PAST + 1, **slower(0.05)))
    assert result.exit_code == 1
    assert "got slower" in headline(result)
    told = " ".join(markdown(result).split())
    assert "year -1 is out of range" in told
    assert result.parts[1].night is not None
    assert result.parts[1].exit_code == 4
    # The other page is there.
    assert (result.parts[1].report is None) == (broken == "write_report")
    assert (result.parts[1].trend is None) == (broken == "page.write")
    for output in (junit, json_of):
        assert "year -1 is out of range" in output(result)


def test_a_night_of_a_year_far_away_in_the_history_is_left_out(seasoned: Config) -> None:
    (path,) = seasoned.history.glob("*/*/20260303*.parquet")
    far = path.with_name("99991231T235959Z-vm-00000001.parquet")
    file = pq.ParquetFile(path)
    document = json.loads(file.metadata.metadata[b"kickbench.night"])
    document |= {"created_utc": "9999-12-31T23:59:59Z", "run_id": far.stem}
    with pq.ParquetWriter(far, file.schema_arrow, store_schema=False) as writer:
        writer.add_key_value_metadata({"kickbench.night": json.dumps(document)})
        writer.write_table(file.read())
    job.run(seasoned, measuring(PAST, **slower(0.05)))
    result = job.run(seasoned, measuring(PAST + 1, **slower(0.05)))
    assert result.exit_code == 1
    assert result.parts[0].errors == []
    assert any(far.name in line for line in result.problems)


def test_advice_is_what_fits_the_job(config: Config) -> None:
    for error, said in (
        (
            StorageError(
                "cannot write to /x: the disk is full; the finished cases are kept: make room or "
                "repair the disk, then continue with\nkickbench run --resume /x"
            ),
            "cannot write to /x: the disk is full; the next night starts anew",
        ),
        (
            MeasurementError(
                "cannot write to /x: the disk is full; make room or choose another --results"
            ),
            (
                "cannot write to /x: the disk is full; make room or choose another folder of "
                "results in the job's file"
            ),
        ),
        (
            UsageError("/r: is a symlink; remove it, or choose another -o"),
            "/r: is a symlink; remove it, or choose another folder of reports in the job's file",
        ),
    ):
        (part,) = job.run(config, raising(error)).parts
        assert [line for line, _ in part.errors] == [said]


@unrendered
def test_ctrl_c_keeps_the_scenarios_that_are_finished(tmp_path: Path) -> None:
    config = job_of(tmp_path, "one", "two")
    half = Outcome(tmp_path / "results" / "two" / "x", 0, {}, "")
    for stop in (RunInterruptedError(half), KeyboardInterrupt()):
        result = job.run(config, raising(stop, first=measuring(0)))
        assert result.exit_code == 130
        assert "The job was interrupted" in headline(result)
        (partition,) = History(config.history).partitions()
        assert partition.scenario == "one"
        shutil.rmtree(config.history)


# --- several hosts -----------------------------------------------------------------------------

HERE = {"cpu": "A CPU", "hostname": "vm"}
BOX = {"cpu": "Another CPU", "hostname": "box"}


def on_hosts(**hosts: job.Measure) -> job.Measure:
    """Measures on each host of HOSTS with its own."""

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        name = {THIS_HOST: "here", "root@box": "box"}[host]
        return hosts[name](scenario, results, host)

    return measure


def on_both(folder: Path, *names: str, more: str = "") -> Config:
    return job_of(folder, *names, more=f'hosts = ["this host", "root@box"]\n{more}')


def never(scenario: Scenario, results: Path, host: str) -> Outcome:
    raise AssertionError((scenario.name, host))


@unrendered
def test_each_host_has_nights_of_its_own(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one", "two")
    calls: list[tuple[str, str]] = []

    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        calls.append((host, scenario.name))
        how = HERE if host == THIS_HOST else BOX
        return measuring(0, **how)(scenario, results, host)

    result = job.run(config, measure)
    assert result.exit_code == 0
    assert calls == [(h, s) for h in ("this host", "root@box") for s in ("one", "two")]
    partitions = History(config.history).partitions()
    assert len({partition.fingerprint for partition in partitions}) == 2
    assert len(partitions) == 4
    assert all(len(partition.runs) == 1 for partition in partitions)
    assert "the host is not that of" not in words(markdown(result))
    assert [part.name for part in result.parts][1:3] == ["two on this host", "one on root@box"]


@unrendered
def test_a_regression_of_one_host_is_told_of_that_host(seasoned: Config, tmp_path: Path) -> None:
    config = on_both(tmp_path, "synthetic")
    live_through(History(config.history), config.results, PAST, **BOX)
    for day in (PAST, PAST + 1):
        box = measuring(day, **BOX, **slower(0.05))
        result = job.run(config, on_hosts(here=measuring(day), box=box))
    assert result.exit_code == 1
    assert " on root@box since 2026-03-13 (2 nights)" in headline(result)
    here, there = result.parts
    assert here.exit_code == 0
    assert len(here.judged) == len(there.judged) == 11
    assert here.regressions == []


@unrendered
@pytest.mark.parametrize("first", [True, False])
def test_a_host_that_cannot_be_reached_costs_only_its_own_nights(
    tmp_path: Path, first: bool
) -> None:
    config = on_both(tmp_path, "one", "two")
    gone, works = raising(HostError("the connection to root@box ended: no route")), measuring(0)
    result = job.run(config, on_hosts(here=works, box=gone))
    if first:
        result = job.run(config, on_hosts(here=gone, box=measuring(0, **BOX)))
    assert result.exit_code == 3
    host = "this host" if first else "root@box"
    assert headline(result).endswith(f"Not measured: one and two on {host}.")
    assert f"one and two on {host} were not measured: the connection" in words(markdown(result))
    assert sum(part.night is not None for part in result.parts) == 2


@unrendered
def test_a_run_that_goes_on_without_a_connection_is_no_night_and_can_be_collected(
    tmp_path: Path,
) -> None:
    config = on_both(tmp_path, "one")
    broken = ConnectionBrokenError(
        "the connection to root@box ended\nthe run goes on there within its limits; collect it "
        "with\nkickbench run --resume results/one/x --host root@box"
    )
    result = job.run(config, on_hosts(here=measuring(0), box=raising(broken)))
    assert result.exit_code == 4
    assert (
        "one on root@box was not measured: the connection to root@box ended; the run goes on "
        "there, but is not a night; collect it with kickbench run --resume results/one/x --host "
        "root@box"
    ) in words(markdown(result))
    assert len(History(config.history).partitions()) == 1


@unrendered
def test_two_names_of_one_host_do_not_make_two_nights(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one", "two")
    twin = measuring(1)  # one run, and no second
    result = job.run(config, on_hosts(here=measuring(0), box=raising(AssertionError(), twin)))
    assert result.exit_code == 2
    assert [len(partition.runs) for partition in History(config.history).partitions()] == [1, 1]
    *_, refused, not_tried = result.parts
    assert refused.errors == not_tried.errors
    assert not_tried.run is None
    told = words(markdown(result))
    assert "one on root@box was measured, but: root@box has the fingerprint of this host" in told
    assert "two on root@box was not measured: root@box has the fingerprint of this host" in told


@unrendered
def test_a_host_whose_disk_is_full_does_not_end_the_job(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one", "two")
    full = raising(StorageError("the disk is full"))
    result = job.run(config, on_hosts(here=full, box=measuring(0, **BOX)))
    assert result.exit_code == 4
    assert [part.night is not None for part in result.parts] == [False, False, True, True]
    assert result.parts[0].errors == result.parts[1].errors


@unrendered
def test_ctrl_c_ends_the_job_on_all_hosts(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one", "two")
    half = Outcome(tmp_path / "results" / "one" / "x", 0, {}, "")
    for stop in (RunInterruptedError(half), KeyboardInterrupt()):
        result = job.run(config, on_hosts(here=raising(stop), box=never))
        assert result.exit_code == 130
        assert "The job was interrupted: one on this host was" in words(markdown(result))


@unrendered
def test_a_host_that_became_another_is_told_by_its_name(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one")
    job.run(config, on_hosts(here=measuring(0), box=measuring(0, **BOX)))
    newer = measuring(1, cpu="A newer CPU", hostname="box")
    told = words(markdown(job.run(config, on_hosts(here=measuring(1), box=newer))))
    assert told.count("so a new baseline begins") == 1
    assert "- root@box: the host is not that of" in told
    assert "CPU: Another CPU → A newer CPU" in told


@unrendered
def test_a_pinned_run_is_foreign_only_if_no_host_has_measured_it(tmp_path: Path) -> None:
    config = on_both(tmp_path, "one")
    both = on_hosts(here=measuring(0), box=measuring(0, **BOX))
    run = job.run(config, both).parts[1].night.run_id  # type: ignore[union-attr]
    pinned = on_both(tmp_path, "one", more=f'[baseline]\npinned = "{run}"\n')
    result = job.run(pinned, on_hosts(here=measuring(1), box=measuring(1, **BOX)))
    assert [part.pinned for part in result.parts] == [None, run]
    assert "measured on another host" not in words(markdown(result))
    gone = raising(HostError("no route"))
    result = job.run(pinned, on_hosts(here=measuring(2), box=gone))
    assert f"this host: {run} was measured on another host" in words(markdown(result))


# --- one job at a time, and the order of exit codes ---------------------------------------------


@unrendered
def test_a_second_job_at_once_is_refused_and_told_of_the_first(config: Config) -> None:
    def measure(scenario: Scenario, results: Path, host: str) -> Outcome:
        with pytest.raises(HostError, match=rf"another nightly job is running \(pid {os.getpid()}"):
            job.run(config, measuring(1))
        return measuring(0)(scenario, results, host)

    assert job.run(config, measure).exit_code == 0
    assert job.run(config, measuring(2)).exit_code == 0  # the lock is gone with its holder


@pytest.mark.parametrize("name", ["history", "results", "reports"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_measured(
    config: Config, name: str
) -> None:
    getattr(config, name).write_text("in the way")
    with pytest.raises(UsageError, match="folder"):
        job.run(config, raising(AssertionError()))


def test_which_exit_code_counts() -> None:
    assert job.worst(set()) == 0
    assert job.worst({0, 2}) == 2
    assert job.worst({0, 3, 2}) == 3
    assert job.worst({3, 4}) == 4
    assert job.worst({4, 1, 3}) == 1


# --- the command -------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``kickbench nightly ...`` and return the exit code, stdout and stderr."""
    terminate = signal.getsignal(signal.SIGTERM)
    hangup = signal.getsignal(signal.SIGHUP)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = kickbench_here(monkeypatch, "nightly", *arguments)
        finally:
            signal.signal(signal.SIGTERM, terminate)
            signal.signal(signal.SIGHUP, hangup)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_missing_scenario_is_wrong_usage_and_leaves_no_trace(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text('scenarios = ["quick", "absent"]\n')
    code, out, err = run(tmp_path / "nightly.toml")
    assert (code, out) == (2, "")
    assert "scenarios[1]" in err
    assert [path.name for path in tmp_path.iterdir()] == ["nightly.toml"]


@pytest.mark.parametrize("option", ["--junit", "--json"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_measured(
    run: Run, tmp_path: Path, option: str
) -> None:
    (tmp_path / "nightly.toml").write_text('scenarios = "quick"\n')
    for file in (tmp_path, tmp_path / "no" / "folder.x"):
        code, out, err = run(tmp_path / "nightly.toml", option, file)
        assert (code, out) == (2, "")
        assert err.startswith(f"kickbench: {file}: ")
    assert not (tmp_path / "history").exists()


def test_no_output_is_where_something_else_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(SCENARIO.format(name="own"))
    job_file = tmp_path / "nightly.toml"
    job_file.write_text('scenarios = "own.toml"\n')
    (tmp_path / "link").symlink_to("same")
    before = {path: path.read_bytes() for path in (job_file, tmp_path / "own.toml")}
    for outputs, said in (
        (["--json", tmp_path / "same", "--junit", tmp_path / "same"], "--json and --junit"),
        (["--json", tmp_path / "same", "--junit", tmp_path / "link"], "--json and --junit"),
        (["--json", job_file], "this job reads this file"),
        (["--junit", tmp_path / "own.toml"], "this job reads this file"),
    ):
        code, out, err = run(job_file, *outputs)
        assert (code, out) == (2, "")
        assert said in err
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "history").exists()
    (tmp_path / "history").write_text("in the way, so that nothing is measured")
    _, _, err = run(job_file, "--json", "/dev/null", "--junit", "/dev/null")
    assert "history: is not a folder" in err


def test_every_output_that_cannot_be_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text('scenarios = "quick"\n')
    files = [tmp_path / "no" / "a.xml", tmp_path / "no" / "b.json"]
    code, _, err = run(tmp_path / "nightly.toml", "--junit", files[0], "--json", files[1])
    assert code == 2
    assert all(str(file) in err for file in files)


REAL = """
name = "tiny"
[vm]
vcpus = 1
[guest]
program = "pm_timer"
[[placement]]
name = "here"
[[placement]]
name = "nowhere"
vcpus = "node:999"
[measure]
methods = ["sigmask", "immediate_exit"]
processes = 2
max_seconds = {seconds}
precision = {precision}
"""


def real_job(folder: Path, seconds: float = 0.4, precision: float = 0.01) -> Path:
    (folder / "tiny.toml").write_text(REAL.format(seconds=seconds, precision=precision))
    path = folder / "nightly.toml"
    path.write_text('scenarios = ["tiny.toml"]\n')
    return path


@unrendered
@pytest.mark.kvm
def test_nights_on_real_kvm(tmp_path: Path) -> None:
    """The first as a user starts it, the second in this process."""
    # A figure needs rounds, and as many as the coarsest precision asks for are enough. Time for
    # more is for a busy host, which may need a second for a round.
    path, summary = real_job(tmp_path, seconds=60, precision=1.0), tmp_path / "summary.md"
    arguments = ("nightly", path, "--junit", tmp_path / "j.xml", "--json", "j.json")
    env = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    said = []
    for night in (kickbench, kickbench_captured):
        done = night(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        assert "[1/1]" in done.stderr
    # On a busy host neither is a witness, and both say so.
    assert said[0].startswith(("**The first night: ", BUSY))
    assert said[1].startswith(("**No decision yet: ", "**The first night: ", BUSY))
    assert "1 ok, 1 skipped" in said[1]
    assert summary.read_text() == "".join(said)
    document = json.loads((tmp_path / "j.json").read_text())
    (scenario,) = document["scenarios"]
    history = History(tmp_path / "history")
    night = history.find(scenario["run_id"])
    rows = dict(zip(night.keys(), night.table.to_pylist(), strict=True))
    assert len(scenario["metrics"]) == len(rows)
    for metric in scenario["metrics"]:
        row = rows[job.Key(metric["case"], metric["method"], metric["baseline"], metric["metric"])]
        assert metric["value"] == row["value"]
        assert metric["verdict"] in ("too little history", "no witness")
    assert Path(scenario["run"], "summary.json").is_file()
    assert pc.min(night.table.column("processes")).as_py() == 2
    ElementTree.parse(tmp_path / "j.xml")  # noqa: S314 (our own)


@unrendered
@pytest.mark.kvm
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_a_night_that_is_ended_is_no_night_and_the_next_one_is(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    running = subprocess.Popen(
        [*KICKBENCH, "nightly", real_job(tmp_path, seconds=100)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 600
    while not list((tmp_path / "results").glob("*/*/.work*")) and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(number)
    out, _ = running.communicate(timeout=600)
    assert running.returncode == code
    if code == 130:
        assert "interrupted" in out
    assert History(tmp_path / "history").partitions() == []
    done = kickbench_captured("nightly", real_job(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("**The first night: ", BUSY))
