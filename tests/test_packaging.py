# SPDX-License-Identifier: Apache-2.0
"""What schedules the nightly job: units, cron table and workflow say what kickbench understands."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command import check_words
from cross_compiler import compiler
from elftools.elf.elffile import ELFFile

from kickbench.ab.hosts import UNIT
from kickbench.ab.state import STATE, STOPPED
from kickbench.arch import ARCHS
from kickbench.nightly.config import load

ROOT = Path(__file__).resolve().parents[1]
SYSTEMD = ROOT / "packaging/systemd"
SERVICE = SYSTEMD / "kickbench-nightly.service"
TIMER = SYSTEMD / "kickbench-nightly.timer"
MAIL = SYSTEMD / "kickbench-mail@.service"
AB = SYSTEMD / "kickbench-ab@.service"
CRON = ROOT / "packaging/cron/kickbench"
FLEET_CRON = ROOT / "packaging/ssh/cron"
JOB = ROOT / "packaging/nightly.toml"
WORKFLOW = ROOT / ".github/workflows/nightly.yml"

INSTALLED_JOB = "/etc/kickbench/nightly.toml"

BY_SECCOMP = re.compile(
    "DynamicUser|LockPersonality|MemoryDenyWriteExecute|PrivateDevices|SystemCall.*|Restrict.*|"
    "Protect(Clock|Hostname|KernelLogs|KernelModules|KernelTunables)"
)
"""What systemd does with a seccomp filter, which would be measured with every KVM_RUN."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


def settings(unit: Path) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(name, []).append(value)
    return found


def only(unit: Path, name: str) -> str:
    (value,) = settings(unit)[name]
    return value


# --- systemd -------------------------------------------------------------------------------------


def test_the_service_starts_a_command_that_there_is() -> None:
    words = shlex.split(only(SERVICE, "ExecStart"))
    check_words(words)
    assert words[-1] == INSTALLED_JOB
    assert only(SERVICE, "Type") == "oneshot"  # whose exit code is the unit's


def test_the_service_may_open_kvm_and_no_other_device() -> None:
    assert only(SERVICE, "DeviceAllow") == "/dev/kvm rw"
    assert only(SERVICE, "DevicePolicy") == "closed"
    assert only(SERVICE, "SupplementaryGroups") == "kvm"


def test_nothing_in_the_services_filters_system_calls() -> None:
    for service in (SERVICE, AB):
        assert not [name for name in settings(service) if BY_SECCOMP.fullmatch(name)]


def test_a_plan_of_boots_goes_on_after_each_boot_unless_it_was_stopped() -> None:
    words = shlex.split(only(AB, "ExecStart"))
    check_words(words)
    assert words[-1] == "%f"  # the folder, of the instance
    assert settings(AB)["ConditionPathExists"] == [f"%f/{STATE}", f"!%f/{STOPPED}"]
    assert AB.name == UNIT
    assert only(AB, "WantedBy") == "multi-user.target"


def test_the_timer_starts_the_service_and_makes_up_for_missed_nights() -> None:
    assert TIMER.stem == SERVICE.stem  # without Unit=, it is the one of the same name
    assert "Unit" not in settings(TIMER)
    assert only(TIMER, "Persistent") == "yes"
    assert only(TIMER, "WantedBy") == "timers.target"


def test_a_failure_is_mailed() -> None:
    template = only(SERVICE, "OnFailure").replace("%p", "")
    assert template == MAIL.name


def test_the_service_user_is_one_that_sysusers_makes() -> None:
    lines = (SYSTEMD / "kickbench.sysusers.conf").read_text().splitlines()
    made = [shlex.split(line) for line in lines if line and line[0] != "#"]
    user = only(SERVICE, "User")
    assert ["u", user] in [words[:2] for words in made]
    assert ["m", user, "kvm"] in made


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    kickbench = tmp_path / "kickbench"
    kickbench.write_text("#!/bin/sh\n")
    kickbench.chmod(0o755)
    for unit in (SERVICE, TIMER, MAIL, AB):
        text = unit.read_text().replace("ExecStart=kickbench", f"ExecStart={kickbench}")
        (tmp_path / unit.name).write_text(text)
    for unit in (SERVICE, TIMER, MAIL, AB):
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"./{unit.name.replace('@', '@x')}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        # It also complains about the host's own units, which are not ours to mend.
        assert not [line for line in verified.stderr.splitlines() if "kickbench" in line]


@needs_systemd
def test_the_service_is_as_confined_as_it_can_be_without_a_filter() -> None:
    checked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=55", str(SERVICE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in checked.stderr:
        pytest.skip("this systemd-analyze is older than 250")
    assert checked.returncode == 0, checked.stdout.splitlines()[-1]


def test_the_job_keeps_everything_where_the_service_may_write() -> None:
    job = load(JOB)
    state = Path("/var/lib") / only(SERVICE, "StateDirectory")
    assert {job.history.parent, job.results.parent, job.reports.parent} == {state}


# --- cron ----------------------------------------------------------------------------------------


@pytest.fixture(params=[CRON, FLEET_CRON], ids=["a host", "a fleet"])
def cron_command(request: pytest.FixtureRequest) -> str:
    """The command of a table's only entry."""
    table: Path = request.param
    (line,) = [line for line in table.read_text().splitlines() if line[:1].isdigit()]
    *_when, user, command = line.split(None, 6)
    assert user == only(SERVICE, "User")
    assert "%" not in command  # a line's end to cron
    return command


@pytest.fixture
def cron_mail(tmp_path: Path, cron_command: str) -> Callable[[str], str]:
    """What cron would mail after a kickbench that is the given shell script."""

    def run(script: str) -> str:
        kickbench = tmp_path / "kickbench"
        kickbench.write_text(f"#!/bin/sh\n{script}\n")
        kickbench.chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", "-c", cron_command],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"},
        )
        return done.stdout + done.stderr

    return run


def test_cron_starts_a_command_that_there_is(cron_command: str) -> None:
    (command,) = re.findall(r"\((kickbench [^>)]*)", cron_command)
    check_words(shlex.split(command.removesuffix("2")))


def test_cron_reads_the_job_that_is_installed() -> None:
    assert f" {INSTALLED_JOB} " in CRON.read_text()


def test_cron_mails_nothing_after_a_good_night(cron_mail: Callable[[str], str]) -> None:
    assert cron_mail("echo All is well; echo [1/1] >&2") == ""


def test_cron_mails_everything_after_a_bad_night(cron_mail: Callable[[str], str]) -> None:
    mail = cron_mail('echo "**1 metric got slower**"; echo "  * by 5 %" >&2; exit 1')
    title, _, rest = mail.partition("\n")
    assert title in ("kickbench nightly: exit code 1", "kickbench fleet run: exit code 1")
    assert rest == "**1 metric got slower**\n  * by 5 %\n"


# --- GitHub --------------------------------------------------------------------------------------


def workflow_steps() -> list[str]:
    """The steps of the workflow's only job, each with the comment above it."""
    _, steps = WORKFLOW.read_text().split("    steps:\n")
    return re.split(r"\n(?=      - )", steps)


def test_the_workflow_runs_commands_that_there_are() -> None:
    lines = [line.strip().removeprefix("run: ") for line in WORKFLOW.read_text().splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("kickbench ")]
    assert [words[1] for words in commands] == ["history", "nightly"]
    for words in commands:
        check_words(words)


def test_the_workflow_keeps_the_history_also_after_a_regression() -> None:
    measure, save = (
        next(i for i, step in enumerate(workflow_steps()) if what in step)
        for what in ("kickbench nightly", "actions/cache/save")
    )
    assert measure < save
    assert "if: ${{ !cancelled()" in workflow_steps()[save]
    # A cache cannot be written twice: each run has a key of its own, and restores by its beginning.
    keys = re.findall(r" key: (.*)", WORKFLOW.read_text())
    (beginning,) = re.findall(r" restore-keys: (.*)", WORKFLOW.read_text())
    assert len(keys) == 2
    assert set(keys) == {beginning + "${{ github.run_id }}-${{ github.run_attempt }}"}


def test_no_stranger_starts_the_workflow_and_nothing_given_to_it_is_code() -> None:
    text = WORKFLOW.read_text()
    (events,) = re.findall(r"(?ms)^on:\n(.*?)^\S", text)
    assert re.findall(r"(?m)^  (\w+):", events) == ["schedule", "workflow_dispatch"]
    for step in workflow_steps():
        _, _, script = step.partition("run: ")
        assert "${{" not in script


def test_a_wheel_for_the_other_architecture_has_its_parts(tmp_path: Path) -> None:
    """As ``nox -s packages`` builds it."""
    for module in ("scikit_build_core", "pip"):
        pytest.importorskip(module, reason=f"building a wheel here needs {module}")
    other = next(machine for machine in ARCHS if machine != os.uname().machine)
    environment = {
        "_PYTHON_HOST_PLATFORM": f"linux-{other}",
        "SKBUILD_CMAKE_ARGS": (
            f"-DCMAKE_SYSTEM_NAME=Linux;-DCMAKE_SYSTEM_PROCESSOR={other};"
            f"-DCMAKE_C_COMPILER={compiler(other)}"
        ),
    }
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(tmp_path), str(ROOT)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob(f"*-linux_{other}.whl")
    with zipfile.ZipFile(wheel) as archive:
        engine = ELFFile(io.BytesIO(archive.read("kickbench/engine/kickbench_engine.so")))
        assert engine["e_machine"] == {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[other]
        images = {Path(name).name for name in archive.namelist() if name.endswith(".bin")}
    assert {f"{name}.max.bin" for name in ARCHS[other].PROGRAMS} <= images
