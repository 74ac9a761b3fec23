# SPDX-License-Identifier: Apache-2.0
"""The lab's machines: their table, their command lines, and what runs in them for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from command import KICKBENCH

from kickbench.cli import lab as cli
from kickbench.errors import (
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_MEASUREMENT,
    EXIT_USAGE,
    HostError,
    MeasurementError,
    ResultsError,
    ScenarioError,
    UsageError,
)
from kickbench.lab import image, machines, tools
from kickbench.lab.bochs import Bochs
from kickbench.lab.emulation import Order
from kickbench.lab.machines import MACHINES
from kickbench.lab.processes import child
from kickbench.lab.qemu import Channels, Qemu
from kickbench.run.emulated import VARIABLE, Mark, origin

EXAMPLES = Path(__file__).parents[1] / "examples"
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.lab(name)) for name in MACHINES]
)
OF_QEMU = [name for name, machine in MACHINES.items() if isinstance(machine.emulator, Qemu)]
EVERY_OF_QEMU = pytest.mark.parametrize("name", OF_QEMU)


def qemu(name: str) -> Qemu:
    emulator = MACHINES[name].emulator
    assert isinstance(emulator, Qemu)
    if emulator.platform.root is None:
        return emulator
    return replace(emulator, platform=replace(emulator.platform, root=lambda: Path("/cache/root")))


def words(name: str, kernel: str = "/k/bzImage", agent: str = "/c/agent") -> list[str]:
    return qemu(name).command_line(
        Path(kernel), {"share0": Path("/re,sults")}, Channels(3, 4, 5, 6), Path(agent)
    )


# --- the table ----------------------------------------------------------------------------------


@EVERY_OF_QEMU
def test_the_root_is_the_hosts_or_their_own_and_cannot_be_written_to(name: str) -> None:
    root = "/cache/root" if name.startswith("arm64") else "/"
    read_only = "security_model=none,readonly=on,multidevs=remap"
    assert f"local,id=root,path={root},{read_only}" in words(name)
    parameters = words(name)[words(name).index("-append") + 1]
    assert "root=root rootfstype=9p" in parameters
    assert " ro " in parameters


@EVERY_OF_QEMU
def test_the_folder_of_the_results_can(name: str) -> None:
    assert "local,id=share0,path=/re,,sults,security_model=none" in words(name)


@EVERY_OF_QEMU
def test_nothing_of_the_users_own_configuration_or_network_gets_in(name: str) -> None:
    assert {"-no-user-config", "-nodefaults"} <= set(words(name))
    assert not any(word.startswith(("-net", "user,", "-nic")) for word in words(name))


@EVERY_OF_QEMU
def test_a_panic_ends_the_machine(name: str) -> None:
    assert "-no-reboot" in words(name)
    assert " panic=-1 " in words(name)[words(name).index("-append") + 1]


@EVERY_OF_QEMU
def test_a_path_that_the_kernel_cannot_be_told_is_refused(name: str) -> None:
    for path in ('/a"b/agent', "/a\nb/agent", "/a,,b/agent"):
        with pytest.raises(UsageError, match="with a quote, a newline or two commas in a row"):
            words(name, agent=path)


def test_the_terminal_takes_the_place_of_the_two_streams() -> None:
    found = qemu("amd-numa").command_line(Path("/k"), {}, Channels(3, 4, None, None), Path("/a"))
    assert "virtconsole,chardev=terminal" in found
    assert not any("name=stdout" in word for word in found)


def test_two_machines_have_two_nodes_and_two_an_instruction_counter() -> None:
    for name in ("amd-numa", "arm64"):
        assert "dist,src=0,dst=1,val=21" in words(name)
    for name in ("amd-count", "arm64-count"):
        assert "shift=0,sleep=on" in words(name)
    steps = {m.id: m.count_step for m in MACHINES.values() if m.count_step}
    assert steps == {"amd-count": 1, "arm64-count": 1, "intel-vmx": 5}


def test_intel_vmx_has_two_cpus_and_nothing_of_the_users_own_configuration(tmp_path: Path) -> None:
    emulator = MACHINES["intel-vmx"].emulator
    assert isinstance(emulator, Bochs)
    ends = {"console": 3, "control": 4, "log": 7}
    text = emulator.configuration(tmp_path, ends, "/dev/pts/7")
    assert "cpu: model=corei7_skylake_x, count=2, " in text
    assert f"ata0-master: type=disk, path={tmp_path}/root, mode=flat\n" in text
    assert f"ata1-master: type=disk, path={tmp_path}/disk, mode=flat\n" in text
    assert "com1: enabled=1, mode=file, dev=/dev/fd/3\n" in text
    assert "com2: enabled=1, mode=term, dev=/dev/pts/7\n" in text
    assert "log: /dev/fd/7\npanic: action=fatal\n" in text
    assert "ne2k" not in text
    with pytest.raises(UsageError, match="TMPDIR"):
        emulator.configuration(tmp_path / "a,b", ends, "/dev/pts/7")


def test_every_machine_has_its_tools_in_the_doctors_table() -> None:
    for machine in MACHINES.values():
        assert machine.emulator.tool in {
            tool.name for tool in tools.TOOLS if machine.id in tool.users
        }
    users = {user for tool in tools.TOOLS for user in tool.users}
    others = {"build", "build-arm64", "root-arm64", "bisect", "observe", "explain"}
    assert users == others | MACHINES.keys()


def test_an_unknown_machine_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match=f"no machine amd; there are: {', '.join(MACHINES)}"):
        machines.find("amd")


def test_what_is_recorded_under_a_mark_is_emulated() -> None:
    assert origin(None)["emulated"] is False
    mark = Mark("QEMU", ["kickbench", "lab", "shell"], "kickbench lab run", 16)
    assert origin(mark) == {
        "command": ["kickbench", "lab", "shell"],
        "emulated": True,
        "emulated_by": "QEMU",
        "count_step": 16,
    }


def test_a_mark_travels_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Mark.of_this_process() is None
    mark = Mark("QEMU", ["kickbench", "lab", "run"], "kickbench lab run --resume")
    for name, value in mark.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Mark.of_this_process() == mark


# --- the command line ---------------------------------------------------------------------------


def lab(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **options}
    return subprocess.run(
        [*KICKBENCH, "lab", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,  # type: ignore[arg-type]
    )


def test_the_doctor_names_each_package_and_one_line_that_installs_the_missing(
    tmp_path: Path,
) -> None:
    done = lab("doctor", PATH=str(tmp_path))
    assert done.returncode == EXIT_HOST
    for tool in tools.TOOLS:
        assert tool.package in done.stdout
    last = done.stdout.strip().split("\n")[-1]
    assert "apt-get install" in last
    assert {"gcc", "make", "flex", "qemu-system-x86"} <= set(last.split())
    listed = json.loads(lab("doctor", "--json", PATH=str(tmp_path)).stdout)
    assert listed["complete"] is False
    assert listed["install"] in last


def test_without_qemu_a_run_says_which_package(tmp_path: Path) -> None:
    done = lab("run", "quick", "--machine", "amd-numa", PATH=str(tmp_path))
    assert done.returncode == EXIT_HOST
    assert "qemu-system-x86" in done.stderr.split("install it:")[1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["run"], "name a scenario"),
        (["run", "quick", "--resume", "x"], "name a scenario"),
        (["run", "quick", "--machine", "vax"], "no machine vax"),
        (["build", "--config", "speedy"], "no configuration speedy"),
        (["build", "--source", "/nowhere"], "no such file"),
        (["shell"], "a shell needs a terminal"),
    ],
)
def test_a_misuse_is_told_in_a_line(arguments: list[str], why: str) -> None:
    done = lab(*arguments)
    assert done.returncode == EXIT_USAGE
    assert why in done.stderr
    assert done.stderr.count("\n") <= 2


# --- before a machine starts ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
def test_an_error_in_the_scenario_is_found_before_the_machine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cli, "prepare", lambda *_: pytest.fail("a machine is prepared"))
    path = scenario(tmp_path, methods='["no_such_protocol"]')
    with pytest.raises(ScenarioError, match="no_such_protocol"):
        cli.run(scenario=str(path), machine=name)
    with pytest.raises(ResultsError, match="manifest"):
        cli.run(resume=tmp_path, machine=name)


@pytest.mark.parametrize("letter", [" ", "\t", ",", "#", "$"])
def test_a_folder_that_bochs_cannot_be_told_is_refused_before_the_disk_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    (folder := tmp_path / f"a{letter}b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(image, "make", lambda *_: pytest.fail("a disk is made"))
    starting = Bochs(cpus=1).start("intel-vmx", tmp_path, Order(["true"], {}, tmp_path))
    with pytest.raises(UsageError, match="TMPDIR"), starting:
        pass


def test_what_a_disk_cannot_be_made_of_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "make", lambda *_: None)
    order = Order(["true"], {}, tmp_path, reads=[tmp_path / "gone"])
    with (
        pytest.raises(MeasurementError, match=f"{tmp_path}/gone: No such file"),
        Bochs(cpus=1).start("intel-vmx", tmp_path, order),
    ):
        pass


def test_a_program_that_does_not_start_is_a_fault_of_the_host(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match="nothing does not run: No such file"),
        child([str(tmp_path / "nothing")]),
    ):
        pass


def test_a_child_may_tidy_up(tmp_path: Path) -> None:
    code = (
        "import signal, sys, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path(sys.argv[1]).touch()))\n"
        "print(flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tidy")]
    with child(command, grace=60, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert (tmp_path / "tidy").exists()


# --- in the machines ----------------------------------------------------------------------------


@EVERY
def test_a_command_runs_inside_and_its_streams_and_status_come_out(name: str) -> None:
    done = lab("shell", "--machine", name, "--", "sh", "-c", "hostname; echo aside >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{name}\n", "aside\n")


# In one go: what takes long with Bochs is to come up.
@pytest.mark.lab("intel-vmx")
def test_a_run_on_intel_vmx_comes_out_and_has_counts(tmp_path: Path) -> None:
    own = shutil.copy(EXAMPLES / "protocols/cloud_hypervisor_7427_fixed.c", tmp_path)
    methods = f'["sigmask", "immediate_exit", "{own}"]'
    path = scenario(tmp_path, seconds=0.3, methods=methods)
    results = tmp_path / "results"
    done = lab("run", path, "--machine", "intel-vmx", "--results", results)
    assert done.returncode == 0, done.stderr
    assert "Emulated (Bochs" in done.stdout
    (manifest,) = results.rglob("manifest.json")
    told = json.loads(manifest.read_text())
    assert told["emulated_by"] == MACHINES["intel-vmx"].description()
    assert told["environment"]["hostname"] == "intel-vmx"
    assert [case["status"] for case in told["cases"]] == ["ok"]
    assert (manifest.parent / "summary.json").is_file()
    assert not list(results.rglob(".*.tmp-*"))
    rows = json.loads(lab("counts", results, "--json").stdout)
    found = {row["method"]: row["instructions"] for row in rows}
    assert found["sigmask"] > found["immediate_exit"] > 0
    assert found["cloud_hypervisor_7427_fixed"] > 0
    assert f"sent to {MACHINES['intel-vmx'].id} and run there" in done.stderr
    # With two CPUs, the clock goes on by five instructions at a time.
    assert {count % 5 for count in found.values()} == {0}


SORT_AT_THE_END_OF_MEMORY = """
import ctypes, mmap, numpy
pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 0)
for kind in ("int64", "float64", "int32"):
    for n in range(1, 200):
        values = numpy.frombuffer(pages, kind, n, mmap.PAGESIZE - n * numpy.dtype(kind).itemsize)
        values[:] = numpy.arange(n)[::-1]
        values.sort()
        assert list(values) == list(range(n))
"""


@pytest.mark.lab("amd-numa")
def test_numpy_sorts_at_the_end_of_memory() -> None:
    """QEMU's AVX2 does not get past it."""
    done = lab(
        "shell", "--machine", "amd-numa", "--", sys.executable, "-c", SORT_AT_THE_END_OF_MEMORY
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.lab
def test_what_is_written_inside_is_gone_but_in_the_results(tmp_path: Path) -> None:
    done = lab("shell", "--", "sh", "-c", f"echo x > {tmp_path}/x && cat {tmp_path}/x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert not (tmp_path / "x").exists()


@pytest.mark.lab
def test_what_runs_in_a_shell_knows_that_it_is_emulated() -> None:
    done = lab("shell", "--", "sh", "-c", f"echo ${VARIABLE}")
    assert json.loads(done.stdout)["by"] == MACHINES["amd-numa"].description()


@pytest.mark.lab
def test_a_kernel_that_panics_shows_its_last_words() -> None:
    done = lab("shell", "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert done.returncode == EXIT_MEASUREMENT
    assert "ended by itself" in done.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr


@pytest.mark.lab
def test_every_protocol_of_the_catalogue_is_supported_inside() -> None:
    done = lab("shell", "--", *KICKBENCH, "methods", "--json")
    supported = {row["id"]: row["supported"] for row in json.loads(done.stdout)["methods"]}
    assert {"user_exit", "exitfd"} <= supported.keys()
    assert all(supported.values())


SCENARIO = """
name = "inside"
[vm]
vcpus = [1]
[guest]
program = "pm_timer"
{more}
[measure]
kinds = {kinds}
methods = {methods}
processes = 1
max_seconds = {seconds}
{last}
"""


def scenario(folder: Path, **values: object) -> Path:
    path = folder / "inside.toml"
    defaults = {"more": "", "kinds": '["exits"]', "seconds": 1, "last": ""}
    defaults["methods"] = '["sigmask", "immediate_exit"]'
    path.write_text(SCENARIO.format(**{**defaults, **values}))
    return path


@pytest.mark.lab
def test_a_run_comes_out_marked_as_emulated_and_the_command_reproduces_it(tmp_path: Path) -> None:
    path = scenario(tmp_path)
    done = lab("run", path, "--machine", "amd-numa", "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "Emulated (QEMU" in done.stdout
    (manifest,) = (tmp_path / "results").rglob("manifest.json")
    told = json.loads(manifest.read_text())
    assert told["emulated"] is True
    assert told["emulated_by"] == MACHINES["amd-numa"].description()
    assert told["environment"]["hostname"] == "amd-numa"
    assert told["command"][:4] == ["kickbench", "lab", "run", str(path)]
    assert subprocess.run([*KICKBENCH, "show", manifest.parent], check=False).returncode == 0


@pytest.mark.lab
def test_an_interrupted_run_is_resumed_in_the_lab(tmp_path: Path) -> None:
    path = scenario(tmp_path, more="exit_rate_hz = ['max', 100, 50]", seconds=2)
    with subprocess.Popen(
        [*KICKBENCH, "lab", "run", path, "--results", tmp_path / "results"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/3]"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == EXIT_INTERRUPTED
    assert "1 finished case is kept" in rest
    command = next(line for line in rest.split("\n") if line.startswith("kickbench lab run"))
    assert "--machine amd-numa" in command
    done = lab(*command.split()[2:])
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "results").rglob("summary.json")
    assert [case["status"] for case in json.loads(summary.read_text())["cases"]] == ["ok"] * 3


RACE = """
[race]
window_ns = 50000
kicks = 60
"""


@pytest.mark.lab
def test_no_race_free_protocol_loses_a_kick(tmp_path: Path) -> None:
    methods = '["sigmask", "immediate_exit", "immediate_exit_remote", "user_exit", "exitfd"]'
    path = scenario(tmp_path, kinds='["race"]', methods=methods, seconds=60, last=RACE)
    done = lab("run", path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "results").rglob("summary.json")
    (case,) = json.loads(summary.read_text())["cases"]
    for name, method in case["methods"].items():
        assert method["sent"] > 0, name
        assert method["lost"] == 0, name


# Runs inside: starts a run whose threads belong on both nodes, and looks where they are.
LOOK = Path(__file__).parent / "lab_placement.py"
PLACEMENT = """
[[placement]]
name = "remote"
creator = "node:0"
vcpus = "node:1"
kicker = "node:0"
"""


@pytest.mark.lab
def test_memory_threads_and_creator_are_on_the_nodes_asked_for(tmp_path: Path) -> None:
    path = scenario(tmp_path, more=PLACEMENT, kinds='["kick"]', seconds=20, last="precision = 1e-9")
    done = lab("shell", "--machine", "amd-numa", "--", sys.executable, LOOK, path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["creator_node"] == 0
    assert seen["vcpu_nodes"] == [1]
    assert seen["kicker_nodes"] == [0]
    assert seen["guest_memory_nodes"] == [1]


APART = """
[[placement]]
name = "remote_lock"
creator = "node:0"
vcpus = "node:1"
kicker = "node:1"

[[placement]]
name = "remote_kicker"
creator = "node:1"
vcpus = "node:1"
kicker = "node:0"
"""


@pytest.mark.lab
def test_the_lock_alone_or_the_kicker_alone_is_remote(tmp_path: Path) -> None:
    only = {"methods": '["immediate_exit"]', "last": '[kick]\nstates = ["halted"]'}
    path = scenario(tmp_path, more=APART, kinds='["kick"]', **only)
    done = lab("run", path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    found = {}
    for document in (tmp_path / "results").rglob("case.json"):
        case = json.loads(document.read_text())
        found[case["case"]["placement"]["name"]] = case["processes"][0]
    for name, creator_node, kicker_node in (("remote_lock", 0, 1), ("remote_kicker", 1, 0)):
        placement = found[name]["placement"]
        assert placement["creator"]["nodes"] == [creator_node]
        (vcpu,), (kicker,) = placement["vcpus"], placement["kickers"]
        assert kicker["nodes"] == [kicker_node]
        assert vcpu["ran_on"] == vcpu["cpus"]
        assert set(kicker["ran_on"].split(",")).isdisjoint({vcpu["cpus"]})
        where = ("nodes", "memory", "kvm_run", "flag", "tls", "samples")
        assert {part: vcpu[part] for part in where} == {part: [1] for part in where}
        assert placement["as_asked"] is True


@pytest.mark.lab
def test_counts_are_the_same_to_the_instruction_in_two_runs(tmp_path: Path) -> None:
    path = scenario(tmp_path, seconds=0.3)
    found = []
    for number in range(2):
        results = tmp_path / str(number)
        done = lab("run", path, "--machine", "amd-count", "--results", results)
        assert done.returncode == 0, done.stderr
        rows = json.loads(lab("counts", results, "--json").stdout)
        found.append({row["method"]: row["instructions"] for row in rows})
        assert all(row["share"] > 0.9 for row in rows)
    assert found[0] == found[1]
    assert found[0]["sigmask"] > found[0]["immediate_exit"]


@pytest.mark.lab
def test_counts_are_of_a_machine_that_counts_only(tmp_path: Path) -> None:
    done = lab("counts", tmp_path)
    assert done.returncode == EXIT_USAGE
