# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab explain``: names, words and refusals here, and real machines."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command import KICKBENCH
from hypothesis import given
from hypothesis import strategies as st
from synthetic_explanation import explained, small

from kickbench.errors import EXIT_HOST, EXIT_INTERRUPTED, EXIT_USAGE, HostError, UsageError
from kickbench.lab import tools
from kickbench.lab.build import built
from kickbench.lab.explain import symbols
from kickbench.lab.explain.case import STATE, cases_of
from kickbench.lab.explain.events import PHASES
from kickbench.lab.explain.explain import Explanation
from kickbench.lab.explain.page import page
from kickbench.lab.explain.subject import Subject
from kickbench.lab.explain.words import (
    against,
    answer,
    difference_table,
    folded_lines,
    tables,
)
from kickbench.lab.machines import MACHINES
from kickbench.report.figures.flame import tree
from kickbench.report.words.explanation import MOST
from kickbench.scenario.shipped import resolve

PROTOCOLS = Path(__file__).parent.parent / "examples" / "protocols"
MAP = """\
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000040 t helper
ffffffff81000100 D some_data
ffffffff81000200 W weak_one
0000000000000000 A fixed_percpu_data
"""


# --- names ---------------------------------------------------------------------------------------


def test_the_functions_of_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(MAP)
    named = symbols.Symbols.of(symbols.of_kernel(path))
    names = {
        0xFFFFFFFF81000000: "_text",
        0xFFFFFFFF8100003F: "_text",
        0xFFFFFFFF81000040: "helper",
        0xFFFFFFFF810001FF: "helper",
        0xFFFFFFFF81000200: "weak_one",
        0xFFFFFFFF80FFFFFF: "[kernel]",
        0x1000: "[unknown]",
    }
    assert {address: named.name(address) for address in names} == names


@pytest.mark.parametrize("text", ["", "this is no map\n", "00001000 T user\n"])
def test_what_is_no_system_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "System.map").write_text(text)
    with pytest.raises(UsageError, match=r"no System\.map"):
        symbols.of_kernel(tmp_path / "System.map")


def test_a_kernel_has_its_map_beside_it_or_at_the_top_of_its_tree(tmp_path: Path) -> None:
    image = tmp_path / "arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.touch()
    with pytest.raises(HostError, match=r"System\.map is missing"):
        symbols.system_map_of(image)
    (tmp_path / "System.map").touch()
    assert symbols.system_map_of(image) == tmp_path / "System.map"
    beside = image.with_name("System.map")
    beside.touch()
    assert symbols.system_map_of(image) == beside


def test_the_functions_of_a_process() -> None:
    """Of this one: libc's functions are where they are, and no address has two names."""
    maps = Path("/proc/self/maps").read_text()
    functions = symbols.of_process(maps)
    named = symbols.Symbols.of(functions)
    import ctypes

    malloc = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value
    assert malloc is not None
    assert "malloc [libc" in named.name(malloc)
    (libc,) = {Path(line.split()[-1]).name for line in maps.splitlines() if "/libc." in line}
    labelled = symbols.Symbols.of(symbols.of_process(maps, {libc: "C"}))
    assert labelled.name(malloc).endswith("malloc [C]")
    (line,) = [one for one in maps.splitlines() if one.endswith("[vdso]")]
    assert named.name(int(line.partition("-")[0], 16)) == "[vdso]"


def test_files_that_are_gone_have_no_names() -> None:
    maps = "7f0000000000-7f0000001000 r-xp 00000000 00:00 0    /nowhere/gone.so\n"
    (only,) = symbols.of_process(maps)
    assert only == (0x7F0000000000, 0x7F0000001000, "[gone.so]")


# --- cases ---------------------------------------------------------------------------------------


def test_what_is_explained_of_a_scenario() -> None:
    exits, kicks = cases_of(resolve("instruction_counts"))
    assert (exits.kind, exits.vcpus, exits.state) == ("exits", 1, None)
    assert (kicks.kind, kicks.state) == ("kick", STATE)
    for case in cases_of(resolve("instruction_counts"), ["sigmask", "immediate_exit", "sigmask"]):
        assert (case.methods, case.baseline) == (("sigmask", "immediate_exit"), "sigmask")
    assert cases_of(resolve("instruction_counts"), only=kicks.id) == [kicks]
    with pytest.raises(UsageError, match="no case x can be explained"):
        cases_of(resolve("instruction_counts"), only="x")
    own = PROTOCOLS / "cloud_hypervisor_7427.c"
    assert cases_of(resolve("instruction_counts"), [str(own)])[0].methods == (str(own),)


EVERYTHING = """\
name = "everything"
description = "All that can be explained"
[vm]
vcpus = [1, 2, 16]
irqchip = "kernel"
[guest]
program = ["pm_timer", "spin", "hlt"]
[measure]
kinds = ["exits", "kick", "pause_all", "nested"]
methods = ["immediate_exit", "sigmask", "user_exit"]
baseline = "immediate_exit"
[kick]
states = ["halted", "guest", "userspace", "storm"]
kickers = [1, 2]
vcpus = [1]
[nested]
iterations = 100
"""


def test_a_scenario_that_is_named_is_explained_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "everything.toml"
    path.write_text(EVERYTHING)
    cases = cases_of(path, ["sigmask", "user_exit"], everything=True)
    subjects = [Subject.of(case) for case in cases]
    assert [one.id for one in subjects] == [
        *["exit", "halted", "guest", "userspace", "storm"],
        *["pause-pm_timer", "pause-spin", "pause-hlt", "nested"],
    ]
    assert [one.kickers for one in cases if one.kind == "kick"] == [1, 1, 1, 1]
    # As many as the machines have room for.
    assert [one.vcpus for one in cases if one.kind == "pause_all"] == [2, 2, 4]
    assert {one.methods for one in cases[:-1]} == {("sigmask", "user_exit")}
    # What comes at a random moment has no count.
    assert cases[-1].methods == ("plain", "pending", "pending_no_injection")
    assert [one.name for one in subjects[1:3]] == [
        "a kick of a halted vCPU",
        "a kick of a vCPU in the guest",
    ]
    assert subjects[6].heading == "A pause of 2 vCPUs that are in the guest"
    assert [case.state for case in cases_of(path)] == [None, STATE]


PORTS = """
name = "ports"
[vm]
vcpus = 1
irqchip = "kernel"
[guest]
program = ["pio_out", "mmio_write"]
[measure]
kinds = ["exits", "kick", "nested"]
methods = ["immediate_exit"]
baseline = "immediate_exit"
[kick]
states = ["guest"]
"""


def test_what_an_architecture_lacks_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ports.toml"
    path.write_text(PORTS)

    def programs(machine: str) -> list[str]:
        cases = cases_of(path, machine=MACHINES[machine], everything=True)
        return [case.program for case in cases]

    assert programs("amd-count") == ["pio_out", "spin", "hypervisor"]
    assert capsys.readouterr().err == ""
    assert programs("arm64-count") == ["mmio_write", "spin"]
    assert capsys.readouterr().err == (
        "nested-any is left out: a guest hypervisor is there on x86_64 alone\n"
    )


@pytest.mark.parametrize(
    ("scenario", "machine", "why"),
    [
        (PORTS.replace(', "mmio_write"', ""), "arm64-count", "are of a port"),
        (PORTS.replace('"pio_out", "mmio_write"', '"hlt"'), "amd-count", "HLT leaves to user"),
    ],
)
def test_exits_that_do_not_happen_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, machine: str, why: str
) -> None:
    path = tmp_path / "none.toml"
    only_exits = scenario.partition("[kick]")[0].replace('"exits", "kick", "nested"', '"exits"')
    path.write_text(only_exits)
    with pytest.raises(UsageError, match="nothing in it can be explained"):
        cases_of(path, machine=MACHINES[machine], everything=True)
    assert why in capsys.readouterr().err


def test_states_that_cannot_be_explained_are_left_out() -> None:
    cases = cases_of(resolve("moments"), everything=True)
    names = {Subject.of(case).name for case in cases}
    assert {case.state for case in cases} == {"guest", "halted", "userspace", "storm"}
    assert "a kick of a vCPU in user space" in names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "no_such"), "no method 'no_such'; there are: "),
        (("--methods", "gone.c"), "gone.c: no such file"),
        (("cacheline_handover",), "nothing in it can be explained"),
        (("--machine", "intel-vmx"), "cannot be watched instruction by instruction; use amd-count"),
        (("--machine", "amd-numa"), "cannot be watched instruction by instruction; use amd-count"),
        (("--machine", "vax"), "no machine vax"),
    ],
)
def test_wrong_usage_is_a_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    kernel = tmp_path / "bzImage"
    kernel.touch()
    (tmp_path / "System.map").write_text(MAP)
    command = [*KICKBENCH, "lab", "explain", *words, "--kernel", str(kernel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    if done.returncode == EXIT_HOST:
        pytest.skip(done.stderr)  # the emulator of the machine is not installed
    assert done.returncode == EXIT_USAGE, done.stderr
    assert said in done.stderr


def test_a_kernel_without_a_map_is_found_before_the_machine_starts(tmp_path: Path) -> None:
    if lacking := tools.missing("amd-count"):
        pytest.skip(f"not installed: {lacking}")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bzImage").touch()
    (tmp_path / "one" / "System.map").write_text(MAP)
    command = [*KICKBENCH, "lab", "explain", "--kernel", str(tmp_path / "one" / "bzImage")]
    command += ["--against", str(tmp_path / "two" / "bzImage")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_HOST
    assert "two/bzImage: its System.map is missing" in done.stderr
    assert "starting" not in done.stderr


# --- words ---------------------------------------------------------------------------------------


def test_the_answer_and_its_tables() -> None:
    found = Explanation(
        "QEMU",
        "6.12",
        "immediate_exit",
        [
            explained("immediate_exit", {("loop",): 10, ("loop", "run"): 90}),
            explained("sigmask", {("loop",): 9, ("loop", "run"): 90, ("loop", "run", "lock"): 58}),
            explained("immediate_exit", {("loop",): 3}, STATE),
            explained("sigmask", {("loop",): 3}, STATE),
        ],
        {"exitfd": "the kernel has no exitfd"},
    )
    assert list(answer(found)) == [
        "With immediate_exit, an exit takes 100 instructions.",
        "With sigmask it takes 157: 57 more.",
        "With immediate_exit, a kick of a halted vCPU takes 3 instructions.",
        "With sigmask it takes 3: as many.",
        "exitfd was skipped: the kernel has no exitfd",
    ]
    rows = [line.split() for line in tables(found) if line]
    assert rows[:7] == [
        ["An", "exit,", "sigmask:"],
        ["immediate_exit", "sigmask", "difference"],
        ["lock", "0", "58", "+58"],
        ["loop", "10", "9", "-1"],
        ["(1", "functions", "that", "do", "not", "differ)", "90", "90", "0"],
        ["all", "100", "157", "+57"],
        ["A", "kick", "of", "a", "halted", "vCPU,", "sigmask:"],
    ]
    assert ["way", "out", "3", "3", "0"] in rows
    assert list(folded_lines(found.found[1].folded)) == [
        "loop 9",
        "loop;run 90",
        "loop;run;lock 58",
    ]


def test_a_count_that_few_have_is_no_count() -> None:
    one = replace(explained("a", {("f",): 5}, "storm"), share=0.014)
    found = Explanation("QEMU", "6.12", "a", [one], {})
    assert list(answer(found)) == [
        "With a, a kick of a vCPU that exits at full speed takes 5 instructions.",
        "Few have the same count (1.4% with a). Compare the calls only.",
    ]


def test_a_table_of_many_functions_adds_up() -> None:
    one = explained("a", {(f"f{n}",): n for n in range(1, 60)})
    none = explained("b", {("f1",): 1})
    lines = list(difference_table(one, none, "a", "b"))
    changes = [int(line.split()[-1].replace(",", "")) for line in lines[1:]]
    assert len(changes) == MOST + 3
    assert sum(changes[:-1]) == changes[-1] == one.instructions - none.instructions


def test_two_kernels_are_compared_method_by_method() -> None:
    exits = {("loop",): 10, ("loop", "run"): 90}
    found = Explanation("QEMU", "new", "a", [explained("a", {**exits, ("loop", "fix"): 7})], {})
    found.found.append(explained("b", exits))
    found.found.append(explained("c", exits))
    found.skipped["d"] = "the kernel has no d"
    base = Explanation("QEMU", "old", "a", [explained("a", exits), explained("b", exits)], {})
    base.skipped.update(c="the kernel has no c", d="the kernel has no d")
    assert [" ".join(line.split()) for line in against(found, base)] == [
        "An exit, a: 107 instructions in new, and 100 in old: 7 more.",
        "old new difference",
        "fix 0 7 +7",
        "(2 functions that do not differ) 100 100 0",
        "all 100 107 +7",
        "",
        "An exit, b: 100 instructions in new, and 100 in old: as many.",
        "An exit, c: not in old: the kernel has no c",
        "d was skipped: the kernel has no d",
    ]


def test_the_json_has_what_others_rely_on() -> None:
    found = Explanation("QEMU", "6.12", "a", [explained("a", {("f",): 2, ("f", "g"): 3})], {})
    document = json.loads(json.dumps(found.to_dict()))
    assert (document["schema"], document["machine"], document["kernel"]) == (1, "QEMU", "6.12")
    one = document["methods"]["a"]
    assert one["instructions_per_exit"] == sum(one["functions"].values()) == 5
    assert one["functions"] == {"g": 3, "f": 2}
    assert one["inclusive"] == {"f": 5, "g": 3}


def test_pauses_and_round_trips_are_beside_exits_in_the_json() -> None:
    paths: dict[tuple[str, ...], int] = {("f",): 2, ("f", "g"): 3}
    pause = replace(explained("a", paths), subject=Subject("pause_all", None, "hlt", 4))
    running = replace(explained("a", paths, "guest"), machine="QEMU, 6 CPUs")
    nested = [replace(explained(way, paths), subject=Subject("nested")) for way in ("plain", "p")]
    found = Explanation("QEMU", "6.12", "a", [explained("a", paths), pause, running, *nested], {})
    document = json.loads(json.dumps(found.to_dict()))
    assert document["methods"]["a"]["instructions_per_exit"] == 5
    assert document["kicks"]["guest"]["a"]["machine"] == "QEMU, 6 CPUs"
    assert document["pauses"]["hlt"]["a"]["instructions_per_pause"] == 5
    assert document["pauses"]["hlt"]["a"]["vcpus"] == 4
    assert document["nested"]["plain"]["instructions_per_round_trip"] == 5
    assert "With plain, a round trip of the guest hypervisor takes 5 instructions." in answer(found)
    assert "With p it takes 5: as many." in answer(found)


# --- the page ------------------------------------------------------------------------------------


def test_a_tree_has_both_sets_of_paths_under_one_root() -> None:
    after = {("loop",): 9, ("loop", "run"): 90, ("loop", "run", "lock"): 58}
    before = {("loop",): 10, ("loop", "run"): 90, ("loop", "gone"): 5}
    root = tree(after, before)
    assert (root.before, root.after, root.width) == (105, 157, 157)
    (loop,) = root.callees.values()
    below = [
        (bar.name, bar.before, bar.after, bar.width, bar.change) for bar in loop.callees.values()
    ]
    assert below == [("run", 90, 148, 148, "more"), ("gone", 5, 0, 5, "less")]
    assert loop.rest == 157 - 148 - 5


PATHS = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(tuple),
    st.integers(1, 1000),
    max_size=12,
)


@given(PATHS, PATHS)
def test_every_bar_has_room_for_what_is_below_it(
    after: dict[tuple[str, ...], int], before: dict[tuple[str, ...], int]
) -> None:
    root = tree(after, before)
    assert (root.after, root.before) == (sum(after.values()), sum(before.values()))
    bars = [root]
    while bars:
        bar = bars.pop()
        below = list(bar.callees.values())
        assert bar.rest >= 0
        assert bar.width == bar.rest + sum(one.width for one in below)
        assert bar.after >= sum(one.after for one in below)
        assert bar.before >= sum(one.before for one in below)
        bars += below


def test_the_page_loads_nothing_and_says_what_the_terminal_says() -> None:
    text = page(small())
    assert "<b>lock" not in text
    assert "&lt;b&gt;lock" in text
    for sentence in answer(small()):
        assert sentence.removeprefix("exitfd was skipped: ") in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    # Two methods and their difference; and two whose kicks are the same.
    assert text.count("<figure") == 5
    assert text.count("<table") == 1
    assert "With sigmask it takes 157: 55 more." in text


# --- a QEMU that cannot, and one that can ---------------------------------------------------------


def test_a_qemu_that_does_not_take_the_plugin_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub, because the QEMU that is installed takes it: what one without plugins says."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "QEMU emulator version 9.9.9"; exit 0;; esac\n'
        'echo "qemu-system-x86_64: -plugin: invalid option" >&2; exit 1\n'
    )
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path('/usr/bin')}:/bin")
    (tmp_path / "bzImage").touch()
    (tmp_path / "System.map").write_text(MAP)
    command = [*KICKBENCH, "lab", "explain", "--kernel", str(tmp_path / "bzImage")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_HOST, done.stderr
    assert "QEMU 9.9.9 does not take the plugin: " in done.stderr
    assert "-plugin: invalid option" in done.stderr


@pytest.mark.lab
def test_an_exit_is_explained_to_the_instruction(tmp_path: Path) -> None:
    """On the real machine, twice: the sums are the clock's, and the same in both."""
    kernel = built()
    found = []
    for run in ("one", "two"):
        out = tmp_path / run
        command = [*KICKBENCH, "lab", "explain", "--methods", "immediate_exit,sigmask,user_exit"]
        command += ["--kernel", str(kernel), "-o", str(out), "--json", str(out / "explain.json")]
        command += ["--no-lines"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((out / "explain.json").read_text()))
        for path in out.glob("*.folded"):
            counts = [int(line.rpartition(" ")[2]) for line in path.read_text().splitlines()]
            assert sum(counts) > 1000, path
    methods = found[0]["methods"]
    for one in methods.values():
        assert sum(one["functions"].values()) == one["instructions_per_exit"]
    again = found[1]["methods"]
    assert {name: one["inclusive"] for name, one in methods.items()} == {
        name: one["inclusive"] for name, one in again.items()
    }
    assert all(one["functions"] == again[name]["functions"] for name, one in methods.items())
    base, mask = methods["immediate_exit"]["functions"], methods["sigmask"]["functions"]
    more = Counter(mask)
    more.subtract(base)
    # siglock and what is done under it; and nothing in the guest, or in KVM's own code.
    for function in ("sigprocmask", "recalc_sigpending", "__set_task_blocked"):
        assert more[function] > 0
    assert more["[guest]"] == more["svm_vcpu_run"] == more["kvm_arch_vcpu_ioctl_run"] == 0
    assert methods["user_exit"]["functions"] == base
    kicks = found[0]["kicks"][STATE]
    for one in kicks.values():
        assert sum(one["functions"].values()) == one["instructions_per_kick"]
        assert sum(one["phases"].values()) == one["instructions_per_kick"]
        assert list(one["phases"]) == list(PHASES)
    # A signal is sent through the code of signals, an ioctl is not.
    assert "__send_signal_locked" in kicks["immediate_exit"]["functions"]
    assert "__send_signal_locked" not in kicks["user_exit"]["functions"]
    assert "kick_signal_handler [kickbench]" in kicks["immediate_exit"]["functions"]


@pytest.mark.lab
@pytest.mark.parametrize(
    "moment",
    ["starting amd-count", "amd-count: sigmask, exits", "amd-count: sigmask, kick"],
)
def test_a_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    """As the terminal sends it: to all processes of the command."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    command = [*KICKBENCH, "lab", "explain", "--methods", "immediate_exit,sigmask", "-o", str(out)]
    command += ["--kernel", str(built()), "--json", str(out / "explain.json"), "--no-lines"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(work)},
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.strip() == moment:
                os.killpg(process.pid, signal.SIGINT)
    assert f"{moment}\n" in said
    assert process.returncode == EXIT_INTERRUPTED
    assert said[-1] == "kickbench: interrupted\n", "".join(said)
    assert not [line for line in said if "Traceback" in line]
    assert not list(work.iterdir())
    assert not list(out.iterdir())
    with pytest.raises(ProcessLookupError):  # no machine is left
        os.killpg(process.pid, 0)


@pytest.mark.lab
def test_kicks_in_all_states_pauses_and_round_trips_add_up(tmp_path: Path) -> None:
    """On the real machines: explain itself compares each sum with the machine's clock."""
    scenario, path = tmp_path / "everything.toml", tmp_path / "explain.json"
    scenario.write_text(EVERYTHING.replace(', "spin", "hlt"]', ', "spin"]'))
    command = [*KICKBENCH, "lab", "explain", str(scenario), "--methods", "immediate_exit,user_exit"]
    command += ["--kernel", str(built()), "--json", str(path), "--no-lines"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    assert document["kicks"].keys() == {"halted", "guest", "userspace", "storm"}
    for state, methods in document["kicks"].items():
        for one in methods.values():
            count = one["instructions_per_kick"]
            assert sum(one["functions"].values()) == sum(one["phases"].values()) == count
            if state == "guest":
                assert one["share"] > 0.5
                # The guest did nothing for the kick, and one CPU's thread did not wait for another.
                assert "[guest]" not in one["functions"]
                assert one["phases"]["switch"] == 0
    for one in document["pauses"]["spin"].values():
        assert sum(one["phases"].values()) == one["instructions_per_pause"]
        assert one["vcpus"] == 2
    plain, pending = document["nested"]["plain"], document["nested"]["pending"]
    for way in (plain, pending):
        assert sum(way["functions"].values()) == way["instructions_per_round_trip"]
        assert way["functions"]["[guest]"] > 0
        assert way["inclusive"]["nested_svm_vmrun"] > 1000
    # L2's call is for L1, and so is the interrupt: KVM finds out in different functions.
    assert "nested_svm_exit_handled" in plain["functions"]
    assert "svm_check_nested_events" in pending["functions"]


@pytest.mark.lab
def test_only_siglock_is_shared_because_of_a_signal_mask(tmp_path: Path) -> None:
    """In four placements it lies where the process was created; and what kickers share."""
    path = tmp_path / "explain.json"
    command = [*KICKBENCH, "lab", "explain", "--methods", "immediate_exit,sigmask,user_exit,exitfd"]
    command += ["--kernel", str(built()), "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    lines = {
        name: {line["what"]: line for line in one["shared_lines"]}
        for name, one in document["methods"].items()
    }
    siglock = lines["sigmask"].pop("sighand_struct.siglock")
    assert (siglock["writes_per_exit"], siglock["reads_per_exit"]) == (4, 2)
    assert siglock["threads"] == {"vCPU 0": [2, 4], "vCPU 1": [2, 4]}
    assert "sigprocmask" in siglock["functions"]
    assert lines["sigmask"].keys() == lines["immediate_exit"].keys()
    places = document["methods"]["sigmask"]["placements"]
    assert len(places) == 4
    for place in places:
        (line,) = [one for one in place["shared_lines"] if one["what"] == siglock["what"]]
        assert line["node"] == place["creator_node"]
    kicks = {
        name: {line["what"] for line in one["shared_lines_by_kickers"]["4"]}
        for name, one in document["kicks"][STATE].items()
    }
    # A vCPU's file is one for all kickers. An eventfd is a kicker's own.
    assert "file.f_count" in kicks["user_exit"] - kicks["exitfd"]
    assert "sighand_struct.siglock" in kicks["immediate_exit"] & kicks["sigmask"]
    assert "sighand_struct.siglock" not in kicks["user_exit"] | kicks["exitfd"]
