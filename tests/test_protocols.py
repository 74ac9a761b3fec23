# SPDX-License-Identifier: Apache-2.0
"""Protocols of the user's own: what compiles, what is said of what does not, what the shipped
examples show on real KVM, and that all of it works from an installed wheel."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import signal
import stat
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import as_array, kicks_of
from blocks_until import MS, until
from cross_compiler import compiler
from hypothesis import given
from hypothesis import strategies as st
from own_protocol import (
    CPUS,
    RACE,
    blocks,
    counts,
    no_kicks,
    playing,
    some_landed,
    some_lost,
)

from kickbench.engine import protocols
from kickbench.engine.engine import LOST, MET, Clock, Engine, Kickers, Plan, library
from kickbench.engine.protocols import build, include_folder, load, placebo_of
from kickbench.errors import EXIT_HOST, EXIT_USAGE, HostError, MeasurementError, UsageError
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.methods import CATALOGUE
from kickbench.native import placebo_name
from kickbench.scenario.files import load as load_scenario
from kickbench.scenario.sweep import expand

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "protocols"
METHODS = ROOT / "kickbench" / "methods"
BROKEN, UNCLEARED, FIXED = (
    EXAMPLES / f"cloud_hypervisor_7427{which}.c" for which in ("", "_uncleared", "_fixed")
)
SHIPPED = [*sorted(EXAMPLES.glob("*.c")), *sorted(METHODS.glob("*.c"))]
STRICT = "cc -Wextra -Werror"

HOOKS = {
    "enter": "static int kb_enter(struct kb_vcpu *v)\n{ kb_forget_kicks(v); return 0; }",
    "leave": "static void kb_leave(struct kb_vcpu *v)\n{ kb_forget_kicks(v); }",
    "before_run": (
        "static inline bool kb_before_run(struct kb_vcpu *v)\n{ return kb_kick_requested(v); }"
    ),
    "after_run": (
        "static inline bool kb_after_run(struct kb_vcpu *v, int error)\n"
        "{ return error && kb_kick_requested(v); }"
    ),
    "handler": "static void kb_handler(struct kb_vcpu *v)\n{ (void)v; }",
    "kick": (
        "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        "{ kb_request_kick(v, k); return kb_send_signal(v, k); }"
    ),
}


def source(folder: Path, name: str = "mine", *, before_loop: str = "", **hooks: str | None) -> Path:
    """A protocol's file, with some of its hooks replaced, or left out (None)."""
    chosen = [hook for hook in {**HOOKS, **hooks}.values() if hook is not None]
    return write(
        folder / f"{name}.c",
        "#include <kickbench/protocol.h>",
        *chosen,
        before_loop,
        f"#define KB_PROTOCOL {name}",
        "#include <kickbench/loop.h>",
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def script(path: Path, *lines: str) -> Path:
    write(path, "#!/bin/sh", *lines)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where libraries go."""
    (tmp_path / "built").mkdir()
    return tmp_path / "built"


# --- how a block begins and ends ---------------------------------------------------------------

COUNTED = {
    "before_run": """
KB_EXPORT atomic_uint running, too_early;
static _Atomic bool ran[64];
static inline bool kb_before_run(struct kb_vcpu *v)
{
	const bool late = v->index == 15 && !atomic_load(&ran[15]);
	const struct timespec t = {0, late ? 100000000 : 1000000};

	nanosleep(&t, NULL); /* so that all of them have a CPU to run on */
	if (!atomic_exchange(&ran[v->index], true))
		atomic_fetch_add(&running, 1);
	else if (v->record_until && atomic_load(&running) < 16)
		atomic_fetch_add(&too_early, 1);
	return kb_kick_requested(v);
}""",
}


@pytest.mark.kvm
def test_a_window_opens_when_all_vcpus_run(tmp_path: Path, folder: Path) -> None:
    library_of = load(build(source(tmp_path, "counted", **COUNTED), folder), "counted")
    clock = Clock.choose(counter_usable=True)
    seats = [[CPUS[i % len(CPUS)]] for i in range(16)]
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 16) as guest,
        Engine(
            guest,
            "pm_timer",
            clock,
            seats,
            n_entries=1,
            samples_capacity=1 << 16,
            protocols={"counted": library_of},
        ) as engine,
    ):
        result = as_array(engine.blocks([("counted", 0)], warmup_ns=0, block_ns=2000 * MS))
    assert ctypes.c_uint.in_dll(library_of, "running").value == 16
    assert ctypes.c_uint.in_dll(library_of, "too_early").value == 0
    assert (result["exits"] > 0).all()
    assert (result["skew_cycles"] + result["elapsed_cycles"] >= 2 * clock.hz * 0.999).all()


@pytest.mark.kvm
def test_a_guest_that_stands_still_is_measured_to_the_windows_end(
    tmp_path: Path, folder: Path
) -> None:
    """The byte is set by the first kick, and never cleared: KVM_RUN returns at once for good."""
    loaded = load(build(UNCLEARED, folder), UNCLEARED.stem)
    clock = Clock.choose(counter_usable=True)
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 1) as guest,
        Engine(
            guest,
            "pm_timer",
            clock,
            [[CPUS[0]]],
            n_entries=1,
            samples_capacity=1 << 16,
            protocols={UNCLEARED.stem: loaded},
            kickers=Kickers(count=1, cpus=[CPUS[-1]]),
        ) as engine,
    ):
        plan = Plan(kicking="volleys", gap_ns=20 * MS)
        schedule = [(UNCLEARED.stem, 0)]
        (result,) = as_array(engine.blocks(schedule, warmup_ns=MS, block_ns=1000 * MS, plan=plan))
        assert len(kicks_of(engine)) > 0
    assert result["elapsed_cycles"] + result["skew_cycles"] >= clock.hz * 0.999
    assert result["spurious_exits"] > 100
    assert result["timed_cycles"] < result["elapsed_cycles"] / 2
    assert result["elapsed_cycles"] / 2 < result["stalled_cycles"] <= result["elapsed_cycles"]


# --- what compiles -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_examples_and_the_catalogue_compile_without_a_warning_and_load(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", STRICT)
    built = build(path, folder)
    assert built == folder / f"{path.stem}.so"
    ctypes.c_char.in_dll(load(built, path.stem), f"kb_protocol_{path.stem}")
    copy = placebo_name(path.stem)
    ctypes.c_char.in_dll(load(placebo_of(built), copy), f"kb_protocol_{copy}")


def test_the_bare_loop_of_the_benchmarks_fits_the_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", STRICT)
    load(build(ROOT / "benchmarks" / "bare.c", folder), "bare")


def test_the_documents_example_is_a_protocol(tmp_path: Path, folder: Path) -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    programs = [
        block
        for block in re.findall(r"^```c\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if "#define KB_PROTOCOL" in block
    ]
    assert programs
    for program in programs:
        (name,) = re.findall(r"#define KB_PROTOCOL (\w+)", program)
        load(build(write(tmp_path / f"{name}.c", program), folder), name)


def test_a_file_may_include_its_neighbours_and_be_named_relatively(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "neighbour.h", "#define NEIGHBOUR 1")
    source(tmp_path, handler=f'#include "neighbour.h"\n#if NEIGHBOUR\n{HOOKS["handler"]}\n#endif')
    monkeypatch.chdir(tmp_path)
    assert build(Path("mine.c"), Path("built")) == folder / "mine.so"


def test_building_runs_nothing_of_the_file(tmp_path: Path, folder: Path) -> None:
    crash = "__attribute__((constructor)) static void crash(void) { __builtin_trap(); }"
    assert build(source(tmp_path, before_loop=crash), folder).is_file()


# --- what does not -----------------------------------------------------------------------------


def refused(path: Path, folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        build(path, folder)
    assert caught.value.exit_code == EXIT_USAGE
    message = str(caught.value)
    assert str(path.parent) not in message or not path.exists()
    assert all(ch.isprintable() or ch == "\n" for ch in message)
    return message


def test_a_compile_error_is_the_compilers_message(tmp_path: Path, folder: Path) -> None:
    path = source(tmp_path, handler="static void kb_handler(struct kb_vcpu *v)\n{ no_such_name; }")
    message = refused(path, folder)
    assert message.startswith("mine.c does not compile:\n")
    assert re.search(r"^\./mine\.c:\d+:\d+: error: .*no_such_name", message, re.MULTILINE)
    assert not (folder / "mine.so").exists()


def test_a_long_message_is_cut_and_a_hostile_one_is_text(tmp_path: Path, folder: Path) -> None:
    errors = [f"#error {'x' * 1000} \x1b[31m\u202e {number}" for number in range(500)]
    message = refused(write(tmp_path / "mine.c", *errors), folder)
    assert "\\x1b" in message or "\\u202e" in message or "x" * 100 in message
    lines = message.splitlines()
    assert len(lines) <= protocols.MOST_LINES + 2
    assert max(map(len, lines)) <= protocols.LONGEST_LINE
    assert re.search(r"\.\.\. and \d+ lines more", lines[-1])


@given(st.text())
def test_any_output_becomes_few_short_printable_lines(output: str) -> None:
    shown = protocols._bounded(output)
    assert len(shown.split("\n")) <= protocols.MOST_LINES + 1
    assert all(len(line) <= protocols.LONGEST_LINE for line in shown.split("\n"))
    assert all(ch.isprintable() or ch == "\n" for ch in shown)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_missing_hook_is_named(hook: str, tmp_path: Path, folder: Path) -> None:
    without: dict[str, Any] = {hook: None}
    assert f"kb_{hook}" in refused(source(tmp_path, **without), folder)


def test_a_name_that_is_not_the_files_is_refused_with_both(tmp_path: Path, folder: Path) -> None:
    path = source(tmp_path, "theirs").rename(tmp_path / "mine.c")
    message = refused(path, folder)
    assert "mine.c calls its protocol theirs" in message
    assert "#define KB_PROTOCOL mine" in message


def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path, folder: Path) -> None:
    message = refused(write(tmp_path / "mine.c", "int anything;"), folder)
    assert "mine.c exports no protocol" in message
    assert "#define KB_PROTOCOL mine" in message
    path = write(tmp_path / "mine.c", "#include <kickbench/loop.h>")
    assert "define KB_PROTOCOL before including" in refused(path, folder)


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x00\xff" * 50, b'#include "no_such.h"\n'])
def test_rubbish_is_refused(content: bytes, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mine.c").write_bytes(content)
    assert "mine.c" in refused(tmp_path / "mine.c", folder)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, folder: Path) -> None:
    assert "mine.c: there is no such file" in refused(tmp_path / "mine.c", folder)
    (tmp_path / "mine.c").mkdir()
    with pytest.raises(UsageError, match="no such file"):
        build(tmp_path / "mine.c", folder)


# --- the compiler ------------------------------------------------------------------------------


def test_a_file_is_compiled_for_the_machine_that_measures(tmp_path: Path, folder: Path) -> None:
    compiler("aarch64")
    built = build(source(tmp_path), folder, "aarch64")
    assert all(path.read_bytes()[18:20] == b"\xb7\0" for path in (built, placebo_of(built)))


def test_without_a_compiler_for_that_machine_its_packages_are_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "", "", "", "aarch64")))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(HostError, match="apt install gcc-x86-64-linux-gnu libc6-dev-amd64-cross"):
        build(source(tmp_path), folder, "x86_64")


@pytest.mark.parametrize("compiler", ["", "no-such-compiler -O2", "/"])
def test_without_a_compiler_the_host_cannot(
    compiler: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"(?s)no C compiler for mine\.c.*install one") as caught:
        build(source(tmp_path), folder)
    assert caught.value.exit_code == EXIT_HOST


def test_a_compiler_that_cannot_be_started_is_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = script(tmp_path / "odd")
    odd.write_text("#!/no/such/interpreter\n")
    monkeypatch.setenv("CC", str(odd))
    with pytest.raises(HostError, match="odd cannot be started"):
        build(source(tmp_path), folder)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["exit 3"], "does not compile:\nstatus 3"),
        (["kill -9 $$"], "does not compile:\nstatus -9"),
        (["cat > /dev/null; echo 'that is all'; exit 1"], "that is all"),
        (["sleep 1000"], "the compiler did not finish within 0.1 s"),
    ],
)
def test_a_compiler_that_fails_in_its_own_way_is_reported(
    lines: list[str], words: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in lines[0]:
        monkeypatch.setattr(protocols, "COMPILE_SECONDS", 0.1)
        lines = ["exec " + lines[0]]
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", *lines)))
    with pytest.raises(UsageError, match=re.escape(words)):
        build(source(tmp_path), folder)


def test_a_full_disk_is_no_fault_of_the_file(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "error writing to /tmp/cc1.s: No space left on device"
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", f"echo '{said}'; exit 1")))
    with pytest.raises(MeasurementError, match=r"(?s)mine\.c.*TMPDIR.*No space left"):
        build(source(tmp_path), folder)


def test_cc_has_options_and_a_path_of_its_own(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "my cc", f'echo "$1" > {tmp_path}/option; shift; exec cc "$@"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "'./my cc' --first")
    build(source(tmp_path), folder)
    assert (tmp_path / "option").read_text() == "--first\n"
    monkeypatch.setenv("CC", "'cc")
    with pytest.raises(UsageError, match="CC is no command"):
        build(source(tmp_path), folder)


# --- loading -----------------------------------------------------------------------------------


def not_loaded(path: Path, words: str, name: str = "mine") -> None:
    with pytest.raises(MeasurementError, match=words):
        load(path, name)


def test_a_call_of_what_is_nowhere_is_found_when_loading(tmp_path: Path, folder: Path) -> None:
    handler = (
        "void nobody_has_this(void);\n"
        "static void kb_handler(struct kb_vcpu *v)\n{ (void)v; nobody_has_this(); }"
    )
    not_loaded(build(source(tmp_path, handler=handler), folder), "nobody_has_this")


def test_a_library_of_other_headers_is_refused(tmp_path: Path, folder: Path) -> None:
    older = "#undef KB_PROTOCOL_ABI\n#define KB_PROTOCOL_ABI 0"
    not_loaded(build(source(tmp_path, before_loop=older), folder), "other version of kickbench")


def test_a_library_of_another_struct_is_refused(tmp_path: Path, folder: Path) -> None:
    larger = write(
        tmp_path / "larger.c",
        "#include <kickbench/protocol.h>",
        "KB_EXPORT const struct kb_protocol kb_protocol_larger;",
        "KB_EXPORT const struct kb_protocol kb_protocol_larger = {",
        "    .abi = KB_PROTOCOL_ABI, .vcpu_size = sizeof(struct kb_vcpu) + 64};",
    )
    not_loaded(build(larger, folder), "other version of kickbench", "larger")


NOEXEC = """
mount -t tmpfs -o noexec tmpfs "$1" && cp "$2" "$1/mine.so" && exec "$3" -P -c "
import sys
from pathlib import Path
from kickbench.engine.protocols import load
load(Path(sys.argv[1]), 'mine')" "$1/mine.so"
"""


def test_a_folder_where_nothing_may_be_executed_is_said(tmp_path: Path, folder: Path) -> None:
    """As /tmp is mounted on many hosts."""
    built, mount = build(source(tmp_path), folder), tmp_path / "noexec"
    mount.mkdir()
    namespace = ["unshare", "--mount", "--map-root-user", "--propagation", "private"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    done = subprocess.run(
        [*namespace, "sh", "-c", NOEXEC, "sh", mount, built, sys.executable],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert f"{mount} is mounted noexec: set TMPDIR to a folder that is not" in done.stderr


def test_what_is_no_library_of_that_protocol_is_refused(tmp_path: Path, folder: Path) -> None:
    not_loaded(folder / "mine.so", "cannot be loaded")
    not_loaded(write(folder / "mine.so", "hello"), "cannot be loaded")
    not_loaded(build(source(tmp_path), folder), "kb_protocol_yours", "yours")


def test_the_engine_tells_the_size_that_protocols_are_checked_against() -> None:
    assert library().kb_sizeof(b"vcpu") % 64 == 0 < library().kb_sizeof(b"vcpu")


# --- on real KVM -------------------------------------------------------------------------------


def some_returned(kicks: Any) -> Any:
    """Those that KVM_RUN returned for."""
    return (kicks["returned"] > 0).any()


def some_met(kicks: Any) -> Any:
    """Those that found the vCPU in the state that they were meant for."""
    return (kicks["flags"] & MET).any()


@pytest.mark.kvm
def test_an_empty_handler_loses_nearly_every_aimed_kick(folder: Path) -> None:
    result, kicks = blocks(BROKEN, folder, RACE, ms=300, seen=some_lost)
    sent, lost, aimed = counts(kicks)
    assert sent > 0
    assert aimed > 0
    assert 2 * lost > aimed
    assert kicks["rescues"][kicks["flags"] & LOST != 0].min() >= 1
    assert result["kicked"].all()


# Sends its signal with every second kick only: what the first one asked for wakes nobody.
EVERY_SECOND_SIGNAL = """
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	static atomic_uint kicks;

	kb_request_kick(v, k);
	return atomic_fetch_add(&kicks, 1) % 2 ? kb_send_signal(v, k) : 0;
}
"""


@pytest.mark.kvm
def test_a_halted_guest_that_nothing_wakes_has_lost_its_kick(tmp_path: Path, folder: Path) -> None:
    plan = Plan(loop="kick", kicking="volleys", state="halted", gap_ns=MS, lost_after_ns=5 * MS)
    path = source(tmp_path, kick=EVERY_SECOND_SIGNAL)
    _, kicks = blocks(path, folder, plan, "hlt", ms=300, seen=lambda kicks: counts(kicks)[1] >= 5)
    assert kicks["rescues"][kicks["flags"] & LOST != 0].min() >= 1


# Now and then, 5 ms in which it runs no guest and looks at no flag.
SLEEPS = """
static inline bool kb_before_run(struct kb_vcpu *v)
{
	static atomic_uint rounds;
	struct timespec left = {0, 5000000};

	if (atomic_fetch_add(&rounds, 1) % 20 == 0)
		while (nanosleep(&left, &left) && errno == EINTR)
			;
	return kb_kick_requested(v);
}
"""
# What immediate_exit does, so that it loses none.
RACE_FREE = {
    "after_run": (
        "static inline bool kb_after_run(struct kb_vcpu *v, int error)\n"
        "{ if (error) kb_set_immediate_exit(v, 0); return error && kb_kick_requested(v); }"
    ),
    "handler": "static void kb_handler(struct kb_vcpu *v)\n{ kb_set_immediate_exit(v, 1); }",
}


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("kicking", "program"),
    [("volleys", "spin"), ("volleys", "hlt"), ("volleys", "pm_timer"), ("aimed", "spin")],
)
def test_a_loop_that_sleeps_in_user_space_is_late_and_loses_nothing(
    tmp_path: Path, folder: Path, kicking: str, program: str
) -> None:
    plan = replace(RACE, kicking=kicking, window_ns=0, gap_ns=MS, lost_after_ns=MS)
    path = source(tmp_path, before_run=SLEEPS, **RACE_FREE)
    _, kicks = blocks(path, folder, plan, program, ms=300)
    sent, lost, _ = counts(kicks)
    assert sent > 0
    assert lost == 0


SLOW_KICK = """
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	const struct timespec more = {0, 200000};
	int error;

	kb_request_kick(v, k);
	error = kb_send_signal(v, k);
	nanosleep(&more, NULL);
	return error;
}
"""


@pytest.mark.kvm
def test_a_kick_that_returns_late_is_aimed_and_lost_like_any_other(
    tmp_path: Path, folder: Path
) -> None:
    def some_aimed_and_lost(kicks: Any) -> bool:
        """Whether in some block of all a quarter of the kicks landed, and half of these are lost:
        beside other load the thread is often not where it was when the kick was aimed."""
        for block in np.unique(kicks["block"]):
            sent, lost, landed = counts(kicks[kicks["block"] == block])
            if sent >= 20 and 2 * lost > landed > sent / 4:
                return True
        return False

    _, kicks = blocks(
        source(tmp_path, kick=SLOW_KICK), folder, RACE, ms=1000, seen=some_aimed_and_lost
    )
    sent, lost, landed = counts(kicks)
    assert sent >= landed >= lost > 0
    assert some_aimed_and_lost(kicks)


@pytest.mark.kvm
def test_the_fixed_loop_loses_none(folder: Path) -> None:
    result, kicks = blocks(FIXED, folder, RACE, ms=300, seen=some_landed)
    sent, lost, aimed = counts(kicks)
    assert aimed > 0
    assert (lost, int(kicks["rescues"].sum())) == (0, 0)
    assert result["spurious_exits"].sum() < sent


@pytest.mark.kvm
def test_immediate_exit_that_nobody_clears_keeps_the_guest_from_running(folder: Path) -> None:
    now_and_then = Plan(loop="kick", kicking="volleys", gap_ns=2 * MS)
    result, kicks = blocks(UNCLEARED, folder, now_and_then)
    sent, lost, _ = counts(kicks)
    assert lost == 0
    assert result["spurious_exits"].sum() > 10 * sent > 0
    result, kicks = blocks(FIXED, folder, now_and_then)
    assert result["spurious_exits"].sum() <= len(kicks)


SLOW_CYCLES = 3_000_000
SLOW_AFTER_RUN = f"""
#include <kickbench/clock.h>
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{{
	uint32_t cpu;
	const uint64_t until = kb_stamp(v->clock_is_counter, &cpu) + {SLOW_CYCLES};

	while (kb_stamp(v->clock_is_counter, &cpu) < until)
		;
	return error && kb_kick_requested(v);
}}
"""


@pytest.mark.kvm
def test_a_kick_lasts_until_the_protocol_knows_of_it(tmp_path: Path, folder: Path) -> None:
    path = source(tmp_path, after_run=SLOW_AFTER_RUN)
    plan = Plan(loop="kick", kicking="volleys", state="guest", gap_ns=5 * MS)
    _, kicks = blocks(path, folder, plan, ms=200, seen=some_returned)
    by_kvm_run = kicks[kicks["returned"] > 0]
    assert len(by_kvm_run) > 0
    after_return = by_kvm_run["latency"].astype(np.int64) - by_kvm_run["returned"]
    assert (after_return >= SLOW_CYCLES).all()


IN_USERSPACE = Plan(
    loop="kick", kicking="volleys", state="userspace", userspace_ns=MS, gap_ns=5 * MS
)


@pytest.mark.kvm
def test_the_loops_own_time_in_user_space_is_no_part_of_a_kick(
    tmp_path: Path, folder: Path
) -> None:
    """It is a millisecond, and a kick comes in the middle of it."""

    def in_userspace(kicks: Any) -> Any:
        return kicks[(kicks["flags"] & MET != 0) & (kicks["returned"] == 0)]

    path = source(tmp_path)
    _, kicks = blocks(
        path, folder, IN_USERSPACE, "pm_timer", ms=300, seen=lambda kicks: len(in_userspace(kicks))
    )
    met = in_userspace(kicks)
    assert len(met) > 0
    spin_cycles = MS * Clock.choose(counter_usable=True).hz / 1e9
    assert np.median(met["latency"]) < spin_cycles / 10


@pytest.mark.kvm
@pytest.mark.parametrize("program", ["spin", "hlt", "pm_timer"])
def test_the_guests_return_is_timed_with_the_clean_up(
    tmp_path: Path, folder: Path, program: str
) -> None:
    """The loop cleans up for longer than all else takes, before it runs the guest again."""
    cleans = """
#include <kickbench/clock.h>
static bool dirty;
static inline bool kb_before_run(struct kb_vcpu *v)
{
	uint32_t cpu;
	const uint64_t until = kb_stamp(v->clock_is_counter, &cpu) + 3000000;

	if (kb_kick_requested(v))
		return true;
	while (dirty && kb_stamp(v->clock_is_counter, &cpu) < until)
		;
	dirty = false;
	return false;
}
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	dirty = error && kb_kick_requested(v);
	return dirty;
}
"""
    plan = Plan(loop="kick", kicking="volleys", gap_ns=5 * MS)
    path = source(tmp_path, before_run=cleans, after_run=None)

    def cleaned_up(kicks: Any) -> Any:
        return kicks[(kicks["resumed"] > 0) & (kicks["returned"] > 0)]

    _, kicks = blocks(
        path, folder, plan, program, ms=300, seen=lambda kicks: len(cleaned_up(kicks))
    )
    found = cleaned_up(kicks)
    assert len(found) > 0
    assert (found["resumed"].astype(np.int64) - found["latency"] >= SLOW_CYCLES).all()


SLOW_FINISH_EXIT = f"""
#include <kickbench/clock.h>
KB_EXPORT atomic_uint finished;
static int kb_finish_exit(struct kb_vcpu *v)
{{
	uint32_t cpu;
	const uint64_t until = kb_stamp(v->clock_is_counter, &cpu) + {SLOW_CYCLES};

	while (kb_stamp(v->clock_is_counter, &cpu) < until)
		;
	atomic_fetch_add(&finished, 1);
	return 0;
}}
#define KB_HAS_FINISH_EXIT
"""
# So that each kick is seen by a look at the flag, after an exit of the guest's own.
NO_SIGNAL = (
    "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
    "{ kb_request_kick(v, k); return 0; }"
)


def finished(path: Path, folder: Path, name: str = "finished") -> int:
    """How often the protocol that was built of the file was told to finish an exit."""
    loaded = ctypes.CDLL(str(folder / f"{path.stem}.so"))
    return ctypes.c_uint.in_dll(loaded, name).value


@pytest.mark.kvm
@pytest.mark.parametrize("program", ["pm_timer", "pio_out", "mmio"])
def test_a_kick_of_an_exiting_guest_contains_what_completes_its_io(
    tmp_path: Path, folder: Path, program: str
) -> None:
    path = source(tmp_path, kick=NO_SIGNAL, before_loop=SLOW_FINISH_EXIT)
    plan = Plan(loop="kick", kicking="volleys", state="storm", gap_ns=5 * MS)
    _, kicks = blocks(path, folder, plan, program, ms=1000, seen=some_met)
    met = kicks[kicks["flags"] & MET != 0]
    assert len(met) > 0
    assert (met["returned"] == 0).all()
    assert (met["latency"] >= SLOW_CYCLES).all()
    assert finished(path, folder) >= len(met)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("program", "plan"),
    [
        ("spin", Plan(loop="kick", kicking="volleys", state="guest", gap_ns=MS)),
        ("hlt", Plan(loop="kick", kicking="volleys", state="halted", gap_ns=MS)),
        ("pm_timer", Plan(kicking="volleys", gap_ns=MS)),
    ],
    ids=["guest", "halted", "exits"],
)
def test_where_no_io_is_pending_or_exits_are_measured_there_is_none_to_complete(
    tmp_path: Path, folder: Path, program: str, plan: Plan
) -> None:
    path = source(tmp_path, before_loop=SLOW_FINISH_EXIT)
    blocks(path, folder, plan, program)
    assert finished(path, folder) == 0


# Around the hook of a protocol of the catalogue: what the guest has of its IN before and after.
CHECKED = """
KB_EXPORT atomic_uint finished, wrong;
static int checked_finish_exit(struct kb_vcpu *v)
{
	const uint32_t value = 0x5a000000 + atomic_fetch_add(&finished, 1);
	struct kvm_regs before, after;
	int error;

	memcpy((char *)v->run + v->run->io.data_offset, &value, sizeof(value));
	ioctl(v->fd, KVM_GET_REGS, &before);
	error = kb_finish_exit(v);
	ioctl(v->fd, KVM_GET_REGS, &after);
	if (before.rax == value || after.rax != value || after.rip != before.rip + 1)
		atomic_fetch_add(&wrong, 1);
	return error;
}
#define kb_finish_exit checked_finish_exit
"""


@pytest.mark.kvm
@pytest.mark.parametrize(
    "method",
    [
        name
        for name, method in CATALOGUE.items()
        # The others have no way to it (docs/method.md), or need a kernel of their own.
        if method.kicks_by_signal and name not in ("flag_signal", "sigmask_same")
    ],
)
def test_a_vcpu_that_is_paused_after_an_in_has_its_data_and_ran_nothing(
    tmp_path: Path, folder: Path, method: str
) -> None:
    text = (METHODS / f"{method}.c").read_text(encoding="utf-8")
    text = text.replace(f"#define KB_PROTOCOL {method}", "#define KB_PROTOCOL mine")
    loop = "#include <kickbench/loop.h>"
    path = write(tmp_path / "mine.c", text.replace(loop, CHECKED + loop))
    blocks(path, folder, IN_USERSPACE, "pm_timer", ms=300)
    assert finished(path, folder) > 0
    assert finished(path, folder, "wrong") == 0


@pytest.mark.kvm
def test_a_hook_that_runs_the_guest_is_an_error(tmp_path: Path, folder: Path) -> None:
    runs_it = (
        "static int kb_finish_exit(struct kb_vcpu *v)\n{ return kb_complete_io(v); }\n"
        "#define KB_HAS_FINISH_EXIT"
    )
    path = source(tmp_path, kick=NO_SIGNAL, before_loop=runs_it)
    plan = Plan(loop="kick", kicking="volleys", gap_ns=MS)
    with pytest.raises(MeasurementError, match=r"completing the guest's I/O failed: .*\(EPROTO\)"):
        blocks(path, folder, plan, "pm_timer")


@pytest.mark.kvm
def test_a_pause_lasts_until_the_last_protocol_knows_of_it(tmp_path: Path, folder: Path) -> None:
    path = source(tmp_path, after_run=SLOW_AFTER_RUN)
    plan = Plan(loop="kick", kicking="pauses", gap_ns=MS)
    with playing(path, folder, n_vcpus=2) as engine:
        pauses = until(
            engine, lambda left: len(left.pauses) > 9, [(path.stem, 0)], ms=200, plan=plan
        ).pauses
    assert len(pauses) > 0
    # Now and then a look at the flag takes a kick, without KVM_RUN and what comes after it.
    assert np.median(pauses["first"]) >= SLOW_CYCLES
    # Of two vCPUs the median is not the last.
    assert (pauses["median"] == pauses["first"]).all()


SENDS_AGAIN = (
    "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
    "{ kb_request_kick(v, k); return kb_send_signal(v, k) || kb_send_signal(v, k); }"
)


@pytest.mark.kvm
def test_the_signals_of_a_kick_are_counted(tmp_path: Path, folder: Path) -> None:
    plan = Plan(loop="kick", kicking="volleys", gap_ns=MS)
    _, kicks = blocks(source(tmp_path, kick=SENDS_AGAIN), folder, plan)
    assert set(kicks["signals"]) == {2}


PREEMPTED = """
#include <signal.h>
#include <time.h>
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	const struct timespec away = {0, 100000000};
	const struct itimerspec soon = {.it_value = {0, 5000000}};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = v->signal};
	static timer_t timer;
	static bool created;

	event._sigev_un._tid = v->tid;
	if (!created && timer_create(CLOCK_MONOTONIC, &event, &timer))
		return -errno;
	created = true;
	kb_request_kick(v, k);
	nanosleep(&away, NULL);
	return timer_settime(timer, 0, &soon, NULL) ? -errno : 0;
}
"""


@pytest.mark.kvm
def test_a_kick_is_not_lost_while_it_is_still_being_sent(tmp_path: Path, folder: Path) -> None:
    """The kicker is away for two time-outs, as one whose CPU others need, before it has sent. The
    signal comes a tenth of one after that."""
    path = source(tmp_path, kick=PREEMPTED)
    plan = Plan(loop="kick", kicking="volleys", gap_ns=MS, lost_after_ns=50 * MS)
    _, kicks = blocks(path, folder, plan, ms=500)
    assert len(kicks) > 0
    assert not (kicks["flags"] & LOST).any()
    assert not kicks["rescues"].any()


@pytest.mark.kvm
def test_exits_are_measured_under_a_protocol_of_ones_own(tmp_path: Path, folder: Path) -> None:
    result, _ = blocks(source(tmp_path), folder, Plan(), "pm_timer", ms=20, seen=no_kicks)
    assert (result["exits"] == result["timed_exits"]).all()
    assert (result["exits"] > 0).all()


@pytest.mark.kvm
def test_a_protocol_that_cannot_be_entered_says_why(tmp_path: Path, folder: Path) -> None:
    enter = "static int kb_enter(struct kb_vcpu *v)\n{ (void)v; return -EPERM; }"
    with pytest.raises(MeasurementError, match=r"entering the protocol failed: .*\(EPERM\)"):
        blocks(source(tmp_path, enter=enter), folder, Plan(), "pm_timer", ms=5)


@pytest.mark.kvm
def test_a_protocol_whose_kick_fails_says_why(tmp_path: Path, folder: Path) -> None:
    kick = (
        "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        "{ kb_request_kick(v, k);\n"
        "  return k->index == KB_CONDUCTOR ? kb_send_signal(v, k) : -ENODEV; }"
    )
    plan = Plan(loop="kick", kicking="volleys", gap_ns=100_000)
    with pytest.raises(MeasurementError, match=r"a kick failed: .*\(ENODEV\)"):
        blocks(source(tmp_path, kick=kick), folder, plan)


IN_A_PROCESS = """
import os, sys
from pathlib import Path
from own_protocol import blocks
from kickbench.engine.engine import Plan
from kickbench.errors import MeasurementError
try:
    library, folder, program, loop = sys.argv[1:]
    # A block may end before its thread comes to the hook: until one fails.
    blocks(Path(library), Path(folder), Plan(loop=loop), program, ms=5, seen=lambda _: False)
except MeasurementError as error:
    print(error, flush=True)
    os._exit(4)  # a vCPU's thread may be stuck in KVM_RUN
"""


def start_in_a_process(
    path: Path, folder: Path, program: str, loop: str = "exit"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", IN_A_PROCESS, str(path), str(folder), program, loop],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_a_process(path: Path, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    process = start_in_a_process(path, folder, program)
    said, errors = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


@pytest.mark.kvm
@pytest.mark.parametrize("hook", ["enter", "before_run"])
def test_a_protocol_that_crashes_takes_its_own_process_along(
    hook: str, tmp_path: Path, folder: Path
) -> None:
    head = HOOKS[hook].partition("\n")[0]
    path = source(tmp_path, **{hook: f"{head}\n{{ (void)v; __builtin_trap(); }}"})
    done = in_a_process(path, folder, "pm_timer")
    assert done.returncode in (-signal.SIGILL, -signal.SIGTRAP), done.stderr


@pytest.mark.kvm
def test_a_protocol_that_never_acknowledges_is_given_up(tmp_path: Path, folder: Path) -> None:
    kick = (
        "static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        "{ (void)v; (void)k; return 0; }"
    )
    done = in_a_process(source(tmp_path, kick=kick), folder, "spin")
    assert done.returncode == 4, done.stderr
    assert "vCPU 0 could not be kicked out of KVM_RUN" in done.stdout


@pytest.mark.kvm
@pytest.mark.parametrize("work", ["", "kb_request_kick(v, k); kb_send_signal(v, k);"])
def test_a_kick_that_fails_is_reported_with_its_error(
    tmp_path: Path, folder: Path, work: str
) -> None:
    kick = (
        "#include <errno.h>\nstatic int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)\n"
        f"{{ (void)v; (void)k; {work} return -EACCES; }}"
    )
    done = in_a_process(source(tmp_path, kick=kick), folder, "hlt")
    assert done.returncode == 4, done.stderr
    assert "vCPU 0: a kick failed: Permission denied (EACCES)" in done.stdout


STUCK = {
    "enter": "mine: kb_enter of vCPU 0 did not return",
    "leave": "mine: kb_leave of vCPU 0 did not return",
    "before_run": "mine: vCPU 0 did not return from kb_before_run",
    "before_run, at work": "mine: vCPU 0 did not return from kb_before_run",
    "after_run": "mine: kb_after_run of vCPU 0 did not return",
    "handler": "mine: kb_handler of vCPU 0 did not return",
    "kick": "mine: kb_kick of vCPU 0 did not return within 10 s, in the thread that ends blocks",
}


@pytest.mark.kvm
def test_a_hook_that_never_returns_is_named(tmp_path: Path, folder: Path) -> None:
    started = {}
    for hook in STUCK:
        name, _, at_work = hook.partition(",")
        head, _, body = HOOKS[name].partition("{")
        (tmp_path / hook).mkdir()
        stop = ";" if at_work else "pause();"
        path = source(tmp_path / hook, **{name: f"{head}{{ for (;;) {stop} {body}"})
        started[hook] = start_in_a_process(path, tmp_path / hook, "hlt")
    for hook, process in started.items():
        said, errors = process.communicate(timeout=600)
        assert process.returncode == 4, errors
        assert STUCK[hook] in said


@pytest.mark.kvm
def test_a_hook_that_never_finishes_an_exit_is_named(tmp_path: Path, folder: Path) -> None:
    hangs = (
        "static int kb_finish_exit(struct kb_vcpu *v)\n{ for (;;) pause(); }\n"
        "#define KB_HAS_FINISH_EXIT"
    )
    path = source(tmp_path, kick=NO_SIGNAL, before_loop=hangs)
    process = start_in_a_process(path, folder, "pm_timer", loop="kick")
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 4, errors
    assert "mine: kb_finish_exit of vCPU 0 did not return within 10 s" in said


# --- the example scenario ----------------------------------------------------------------------


def test_the_example_scenario_names_the_examples_beside_it() -> None:
    scenario = load_scenario(EXAMPLES / "race.toml")
    own = [method for method in scenario.measure.methods if method not in CATALOGUE]
    assert sorted(own) == sorted(str(path) for path in (BROKEN, UNCLEARED, FIXED))
    cases = expand(scenario)
    assert {case.kind for case in cases} == {"race", "kick"}
    assert {case.window_ns for case in cases if case.kind == "race"} == {0.0, 50_000.0}


# --- the package -------------------------------------------------------------------------------


HEADERS = {
    *("protocol.h", "loop.h", "clock.h", "mark.h", "foreign.h"),
    *("arch/current.h", "arch/libc.h", "arch/x86_64.h", "arch/aarch64.h"),
}


def test_the_headers_are_there_to_be_included() -> None:
    folder = include_folder() / "kickbench"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.h")} == HEADERS


def check_files(names: list[str]) -> None:
    """Of the C in a package, the headers for protocols are there and nothing else."""
    c = {name for name in names if re.search(r"\.(c|h|S|inc)$", name)}
    assert c == {f"kickbench/engine/include/kickbench/{name}" for name in HEADERS}


def test_an_installed_package_has_the_headers_and_no_other_c() -> None:
    files = importlib.metadata.files("kickbench") or []
    names = [str(file) for file in files]
    if not any(name.endswith("kickbench/native.py") for name in names):
        pytest.skip("an editable install: the source tree is the package")
    check_files(names)


FROM_A_WHEEL = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path += sys.argv[4:]
from pathlib import Path
from kickbench.engine import protocols
assert protocols.__file__.startswith(sys.argv[1]), protocols.__file__
path = Path(sys.argv[2])
protocols.load(protocols.build(path, Path(sys.argv[3])), path.stem)
"""


def test_a_wheel_has_what_a_protocol_needs(tmp_path: Path, folder: Path) -> None:
    for module in ("scikit_build_core", "pip"):
        pytest.importorskip(module, reason=f"building a wheel here needs {module}")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        check_files(archive.namelist())
        archive.extractall(tmp_path / "wheel")
    site = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # -S: no site, and so no editable install of the very package.
    done = subprocess.run(
        [
            *(sys.executable, "-S", "-P", "-c", FROM_A_WHEEL),
            *(str(tmp_path / "wheel"), str(FIXED), str(folder), *site),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
