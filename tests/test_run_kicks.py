# SPDX-License-Identifier: Apache-2.0
"""``kickbench run`` for kicks, pauses and races, on real KVM."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench import arch
from kickbench.engine.engine import Clock
from kickbench.errors import UsageError
from kickbench.host.topology import Topology
from kickbench.report.words.pauses import answer_after
from kickbench.results.reader import RunReader
from kickbench.results.tables import tables_of_case
from kickbench.run import kinds, runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.files import load
from kickbench.scenario.kinds import NOISY_KINDS

pytestmark = pytest.mark.kvm

CPUS = Topology.read().affinity
SPLIT = f"""
[[placement]]
name = "split"
vcpus = "cpu:{CPUS[0]}"
kicker = "cpu:{CPUS[-1]}"
"""
RACE = "[race]\nwindow_ns = [50000]\nkicks = 100\n"


def run(tmp_path: Path, text: str, **options: Any) -> dict[str, Any]:
    """Run a scenario here; its summary, whose cases are all "ok" or the test ends."""
    path = tmp_path / "kicks.toml"
    path.write_text(text)
    outcome = runner.run(load(path), tmp_path / "results", PlainProgress(), **options)
    summary: dict[str, Any] = json.loads((outcome.folder / "summary.json").read_text())
    summary["folder"] = outcome.folder
    return summary


def scenario(kinds_: str, methods: str, more: str = "", **measure: object) -> str:
    values = {"processes": 1, "max_seconds": 0.8, **measure}
    lines = "\n".join(f"{key} = {value}" for key, value in values.items())
    return f"""
name = "kicks"
[vm]
vcpus = [1]
[guest]
program = "pm_timer"
{SPLIT}
[measure]
kinds = {kinds_}
methods = {methods}
{lines}
{more}
"""


@pytest.mark.parametrize("transport", ["tgkill", "tgkill_rt", "pidfd", "timer"])
def test_kicks_are_timed_in_every_state(tmp_path: Path, transport: str) -> None:
    summary = run(
        tmp_path,
        # Several blocks: beside other load, a thread may not run for the whole of one.
        scenario(
            '["kick"]',
            '["sigmask", "immediate_exit"]',
            transports=f'["{transport}"]',
            max_seconds=3,
        ),
    )
    cases = {case["state"]: case for case in summary["cases"]}
    assert set(cases) == {"guest", "halted", "userspace", "storm"}
    for case in cases.values():
        if case["status"] == "skipped":
            assert "pidfd" in case["reason"]
            continue
        assert case["status"] == "ok", case["reason"]
        for method in case["methods"].values():
            latency = method["latency_ns"]
            assert method["n"] > 0
            assert method["lost"] == 0
            assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
            assert method["sent"] == method["n"] + method["unmet"]
    delivered = cases["guest"]["methods"]["immediate_exit"]["phases_ns"]
    assert delivered["delivery"]["p50"] > 0
    assert cases["guest"]["methods"]["sigmask"]["phases_ns"]["delivery"] is None


@pytest.mark.parametrize("order", ["parallel", "serial"])
def test_back_to_back_it_is_counted_which_vcpus_had_not_run(tmp_path: Path, order: str) -> None:
    table = f'[pause_all]\ngap_us = [0, 5000]\norder = "{order}"\n'
    text = scenario('["pause_all"]', '["immediate_exit"]', table)
    summary = run(tmp_path, text.replace("vcpus = [1]", "vcpus = [2]"))
    counts = {case["pause_gap_us"]: case["methods"]["immediate_exit"] for case in summary["cases"]}
    assert set(counts) == {0.0, 5000.0}
    for figures in counts.values():
        assert figures["n"] > 0
        assert figures["rescued"] == 0
        assert figures["not_run"]["pauses"] <= figures["not_run"]["vcpus"]
    assert counts[0.0]["not_run"]["pauses"] > 0


@pytest.mark.skipif(not arch.current().HAS_KVMCLOCK, reason="there is no such clock")
def test_what_follows_a_pause_is_in_the_summary(tmp_path: Path) -> None:
    table = '[pause_all]\nafter = ["kvmclock_ctrl", "read_state"]\n'
    summary = run(tmp_path, scenario('["pause_all"]', '["immediate_exit"]', table))
    (case,) = summary["cases"]
    after = case["methods"]["immediate_exit"]["after_ns"]
    assert case["after"] == ["kvmclock_ctrl", "read_state"]
    assert 0 < after["clock"]["p50"] <= after["clock"]["max"]
    assert 0 < after["state"]["p50"] <= after["state"]["max"]
    assert 0 < after["pause_share"] < 1
    (said,) = answer_after(summary, ())
    assert "takes" in said
    assert said.endswith(" % of the whole.")


NOISE = "[noise]\nforeign_signals_hz = [0, 2000]\nsiglock_threads = [0, 1]\n"


@pytest.mark.parametrize("kind", NOISY_KINDS)
def test_noise_is_made_for_each_method_and_counted(tmp_path: Path, kind: str) -> None:
    tables = {"kick": '[kick]\nstates = ["guest"]\n', "race": RACE}
    methods = '["sigmask", "immediate_exit"]'
    summary = run(tmp_path, scenario(f'["{kind}"]', methods, tables.get(kind, "") + NOISE))
    assert len(summary["cases"]) == 4
    reader = RunReader(summary["folder"])
    for case in summary["cases"]:
        assert case["status"] == "ok", case["reason"]
        is_noisy = case["foreign_signals_hz"] is not None or case["siglock_threads"] > 0
        stored = [table.name for table in tables_of_case(reader.case(case["id"]).parameters)]
        assert ("noise" in stored) is is_noisy
        for figures in case["methods"].values():
            assert ("noise" in figures) is is_noisy
            noise = figures.get("noise", {"foreign_taken": 0, "siglock_taken": 0})
            assert (noise["foreign_taken"] > 0) is (case["foreign_signals_hz"] is not None)
            assert (noise["siglock_taken"] > 0) is (case["siglock_threads"] > 0)
            if case["foreign_signals_hz"] is not None:
                assert noise["foreign_sent"] >= noise["foreign_taken"]
                assert noise["spurious"] > 0 or kind == "race"  # each of its KVM_RUNs is kicked
        assert not [one for one in case["findings"] if one["what"] in ("lost", "rescued")]


@contextmanager
def no_signal_may_be_queued() -> Iterator[None]:
    """RLIMIT_SIGPENDING at 0, which root is under, too."""
    before = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, before)


@pytest.mark.parametrize("transport", ["tgkill", "tgkill_rt"])
def test_only_a_real_time_signal_needs_a_place_in_the_queue(tmp_path: Path, transport: str) -> None:
    text = scenario('["kick"]', '["immediate_exit"]', "", transports=f'["{transport}"]')
    with no_signal_may_be_queued():
        summary = run(tmp_path, text)
    for case in summary["cases"]:
        if transport == "tgkill":
            assert case["status"] == "ok", case["reason"]
        else:
            assert case["status"] == "failed"
            assert "a kick failed: Resource temporarily unavailable (EAGAIN)" in case["reason"]
            assert "its signal was not sent: raise the limit of pending" in case["reason"]


def test_every_kick_is_stored(tmp_path: Path) -> None:
    text = scenario('["kick"]', '["immediate_exit"]', '[kick]\nstates = ["guest"]\nkickers = [2]\n')
    summary = run(tmp_path, text)
    (case,) = summary["cases"]
    reader = RunReader(summary["folder"])
    kicks = reader.table(case["id"], "kicks").to_pandas()
    blocks = reader.table(case["id"], "kick_blocks").to_pandas()
    assert blocks["sent"].sum() == len(kicks)
    assert set(kicks["kicker"]) == {0, 1}
    assert (kicks["at_cycles"] >= 0).all()
    assert (kicks[kicks["met"]]["latency_cycles"] > 0).all()


def test_a_wide_window_loses_kicks_of_the_negative_controls_alone(tmp_path: Path) -> None:
    methods = [
        "flag_signal",
        "sigmask",
        "immediate_exit",
        "immediate_exit_remote",
        "immediate_exit_remote_flag_first",
    ]
    text = scenario(
        '["race"]',
        json.dumps(methods),
        RACE,
        max_seconds=600,
    )
    (case,) = run(tmp_path, text)["cases"]
    found = case["methods"]
    for method in ("flag_signal", "immediate_exit_remote_flag_first"):
        assert found[method]["lost"] > found[method]["landed"] / 2
        assert found[method]["race_free_claim"] is False
    for method in ("sigmask", "immediate_exit", "immediate_exit_remote"):
        assert found[method]["lost"] == 0
        assert found[method]["landed"] >= 100
        # 1 - 0.05^(1/100) = 0.03, and of 58 kicks it would still be above 0.05.
        assert 0 < found[method]["lost_upper95"] < 0.05
        assert found[method]["race_free_claim"] is True
    assert (
        case["timeout_ns"] > found["sigmask"]["latency_ns"]["p50"] if "latency_ns" in found else 1
    )
    assert case["stopped_by"] == "precision"


def test_all_vcpus_are_paused_and_go_on(tmp_path: Path) -> None:
    text = scenario('["pause_all"]', '["sigmask", "immediate_exit"]').replace(
        "vcpus = [1]", "vcpus = [3]"
    )
    (case,) = run(tmp_path, text)["cases"]
    assert case["status"] == "ok", case["reason"]
    for method in case["methods"].values():
        assert method["n"] > 0
        assert method["first_ns"]["p50"] <= method["median_ns"]["p50"] <= method["last_ns"]["p50"]


def test_exits_are_measured_while_kicks_arrive(tmp_path: Path) -> None:
    text = scenario('["exits"]', '["immediate_exit"]').replace(
        'program = "pm_timer"', 'program = "pm_timer"\nkick_rate_hz = [0, 2000]'
    )
    calm, kicked = run(tmp_path, text)["cases"]
    assert calm["methods"]["immediate_exit"].get("kicks") is None
    assert kicked["methods"]["immediate_exit"]["kicks"]["sent"] > 0
    assert kicked["methods"]["immediate_exit"]["kicks"]["lost"] is None
    assert kicked["methods"]["immediate_exit"]["n"] > 0


def test_rates_that_are_not_reached_are_said(tmp_path: Path) -> None:
    text = scenario('["exits"]', '["immediate_exit"]').replace(
        'program = "pm_timer"',
        'program = "pm_timer"\nkick_rate_hz = [200000]\nexit_rate_hz = [10000000]',
    )
    folder = run(tmp_path, text)["folder"]
    (document,) = (json.loads(path.read_text()) for path in folder.glob("cases/*/case.json"))
    warnings = document["processes"][0]["warnings"]
    assert any(line.startswith("asked for 200,000 kicks/s, reached ") for line in warnings)
    assert any(line.startswith("asked for 10,000,000 exits/s of each") for line in warnings)


@given(st.floats(1, 1e6), st.floats(0.001, 1000), st.floats(0, 1.5))
def test_a_rate_is_missed_below_nine_tenths_unless_too_few_were_due(
    asked_hz: float, seconds: float, part: float
) -> None:
    words = kinds._shortfall("kicks/s", asked_hz, int(asked_hz * seconds * part), seconds)
    if part >= 0.9 or asked_hz * seconds < 9:
        assert words is None
    elif asked_hz * seconds * (0.9 - part) > 4 * (asked_hz * seconds) ** 0.5 + 1:
        assert words is not None


def run_at_real_time_priority(tmp_path: Path, priority: int) -> subprocess.CompletedProcess[str]:
    """As `chrt -f PRIORITY kickbench run` does, with a spinning vCPU on every CPU."""
    param = os.sched_param(priority)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, param)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("real-time priority is not permitted here")
    path = tmp_path / "fifo.toml"
    path.write_text(
        scenario('["pause_all", "kick"]', '["immediate_exit"]', '[kick]\nstates = ["guest"]')
        .replace("vcpus = [1]", f"vcpus = [{len(CPUS)}]")
        .replace(SPLIT, "")
        .replace('"pm_timer"', '"spin"')
    )
    return subprocess.run(
        [sys.executable, "-P", "-m", "kickbench", "run", path, "--results", tmp_path / "results"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=lambda: os.sched_setscheduler(0, os.SCHED_FIFO, param),
    )


def test_real_time_threads_do_not_starve_each_other(tmp_path: Path) -> None:
    done = run_at_real_time_priority(tmp_path, 10)
    assert done.returncode == 0, done.stderr
    assert "vCPUs run at priority 9, below the kickers' 10" in done.stdout


def test_real_time_threads_without_a_priority_below_them_are_refused(tmp_path: Path) -> None:
    done = run_at_real_time_priority(tmp_path, 1)
    assert done.returncode == 4
    assert "use 2 or more (chrt -f 2)" in done.stderr


HOOKS = """
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v) {{ kb_forget_kicks(v); return 0; }}
static void kb_leave(struct kb_vcpu *v) {{ kb_forget_kicks(v); }}
static inline bool kb_before_run(struct kb_vcpu *v) {{ {before_run} }}
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{{
	(void)v;
	(void)error;
	{after_run}
}}
static void kb_handler(struct kb_vcpu *v) {{ (void)v; }}
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}}

#define KB_PROTOCOL mine
#include <kickbench/loop.h>
"""


def with_own_protocol(
    tmp_path: Path, before_run: str, after_run: str, max_seconds: float = 1.5
) -> str:
    (tmp_path / "mine.c").write_text(HOOKS.format(before_run=before_run, after_run=after_run))
    return scenario(
        '["race", "exits"]',
        '["immediate_exit", "./mine.c"]',
        RACE,
        max_seconds=20,
    ).replace("max_seconds = 20", f"max_seconds = {max_seconds}")


def test_a_protocol_of_ones_own_is_measured_and_raced_like_the_others(tmp_path: Path) -> None:
    text = with_own_protocol(
        tmp_path, "return kb_kick_requested(v);", "return error && kb_kick_requested(v);"
    )
    race, exits = sorted(run(tmp_path, text)["cases"], key=lambda case: case["kind"], reverse=True)
    assert race["methods"]["mine"]["lost"] > 0
    assert race["methods"]["mine"]["race_free_claim"] is None
    assert race["methods"]["immediate_exit"]["lost"] == 0
    assert exits["methods"]["mine"]["n"] > 0


def test_a_protocol_that_crashes_fails_its_cases_alone(tmp_path: Path) -> None:
    text = with_own_protocol(tmp_path, "__builtin_trap();", "return false;")
    text += '[[placement]]\nname = "other"\n'
    summary = run(tmp_path, text)
    assert {case["status"] for case in summary["cases"]} == {"failed"}
    for case in summary["cases"]:
        assert "SIGILL" in case["reason"] or "SIGTRAP" in case["reason"]


def test_a_protocol_that_prints_is_measured_like_any_other(tmp_path: Path) -> None:
    prints = 'printf("vCPU %u\\n", v->index); fflush(stdout); return kb_kick_requested(v);'
    text = with_own_protocol(tmp_path, prints, "return error && kb_kick_requested(v);", 0.5)
    path = tmp_path / "mine.c"
    path.write_text("#include <stdio.h>\n" + path.read_text())
    assert {case["status"] for case in run(tmp_path, text)["cases"]} == {"ok"}


def test_a_protocol_killed_by_a_real_time_signal_fails_its_cases_alone(tmp_path: Path) -> None:
    dies = (
        "sigset_t none; sigemptyset(&none); sigprocmask(SIG_SETMASK, &none, NULL); "
        "syscall(SYS_tgkill, getpid(), v->tid, SIGRTMIN + 1); return false;"
    )
    cases = run(tmp_path, with_own_protocol(tmp_path, dies, "return false;"))["cases"]
    assert [case["status"] for case in cases] == ["failed"] * 2
    assert all("was killed by SIGRTMIN+1" in case["reason"] for case in cases)


def test_an_internal_error_fails_its_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runner.schedule.entries

    def entries(case: Any) -> Any:
        if case.kind == "kick":
            raise TypeError("no such thing")
        return real(case)

    monkeypatch.setattr(runner.schedule, "entries", entries)
    text = scenario('["pause_all", "kick"]', '["immediate_exit"]', '[kick]\nstates = ["guest"]')
    by_kind = {case["kind"]: case for case in run(tmp_path, text)["cases"]}
    assert by_kind["pause_all"]["status"] == "ok"
    assert by_kind["kick"]["status"] == "failed"
    assert re.fullmatch(
        r"kickbench failed at test_run_kicks\.py, line \d+: TypeError\('no such thing'\); "
        "this is a bug: report this line, the scenario file and the output of kickbench doctor",
        by_kind["kick"]["reason"],
    )


def test_a_protocol_that_never_acknowledges_fails_with_the_reason(tmp_path: Path) -> None:
    text = with_own_protocol(tmp_path, "(void)v; return false;", "return false;").replace(
        '["race", "exits"]', '["race"]'
    )
    (case,) = run(tmp_path, text)["cases"]
    assert case["status"] == "failed"
    assert "could not be kicked out of KVM_RUN" in case["reason"]


def test_a_protocol_that_does_not_compile_is_wrong_usage_in_the_compilers_words(
    tmp_path: Path,
) -> None:
    text = with_own_protocol(tmp_path, "return no_such_thing;", "return false;")
    with pytest.raises(UsageError, match="no_such_thing"):
        run(tmp_path, text)
    assert not (tmp_path / "results").exists()


def test_a_race_full_of_lost_kicks_is_interrupted_at_once(tmp_path: Path) -> None:
    path = tmp_path / "race.toml"
    path.write_text(
        scenario(
            '["race"]',
            '["flag_signal"]',
            "[race]\nwindow_ns = [0, 200000]\nkicks = 100000\n",
            max_seconds=3,
        )
    )
    command = [sys.executable, "-P", "-m", "kickbench", "run", str(path), "--results"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "results")], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/2]"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=600) == 130
    assert "1 finished case is kept" in rest
    process.stderr.close()


@given(st.lists(st.integers(1, 2**32 - 1), max_size=50))
def test_the_time_out_for_lost_kicks_is_far_above_their_median_and_bounded(
    latencies: list[int],
) -> None:
    clock = Clock("tsc", 1e9, 1)
    timeout = kinds.lost_after_ns(latencies, clock)
    assert kinds.MIN_LOST_AFTER_NS <= timeout <= kinds.MAX_LOST_AFTER_NS
    if latencies and timeout < kinds.MAX_LOST_AFTER_NS:
        assert timeout >= 99 * np.median(latencies)


def test_a_resumed_run_compiles_its_protocols_only_when_told_to(tmp_path: Path) -> None:
    text = with_own_protocol(
        tmp_path, "return kb_kick_requested(v);", "return error && kb_kick_requested(v);", 0.5
    )
    folder = run(tmp_path, text)["folder"]
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_text())
    case = document["cases"][0]
    case["status"] = "failed"
    shutil.rmtree(folder / "cases" / case["id"])
    manifest.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="--trust-protocols"):
        runner.resume(folder, PlainProgress())
    source = tmp_path / "mine.c"
    before = source.read_text()
    source.write_text(before + "/* changed */")
    with pytest.raises(UsageError, match="not the file that the run began with: restore"):
        runner.resume(folder, PlainProgress(), trust_protocols=True)
    source.write_text(before)
    outcome = runner.resume(folder, PlainProgress(), trust_protocols=True)
    assert outcome.finished == len(document["cases"])
