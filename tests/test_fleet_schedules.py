# SPDX-License-Identifier: Apache-2.0
"""What schedules a fleet's nights: manifest, batch script, hosts and the container's file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import check_words
from lightkube.codecs import from_dict

from kickbench.fleet import inventory

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "packaging/kubernetes/kickbench.yaml"
BATCH = ROOT / "packaging/slurm/kickbench.sbatch"
CONTAINER = ROOT / "packaging/container/Containerfile"
PAGE = ROOT / "docs/fleet_schedules.md"

SBATCH = {
    *("cpus-per-task", "exclusive", "job-name", "mem", "no-kill", "no-requeue"),
    *("nodes", "ntasks", "ntasks-per-node", "output", "time"),
}
"""Options of sbatch(1) that the script uses."""


# --- Kubernetes ----------------------------------------------------------------------------------


def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """The manifest's objects by kind and name."""
    found = yaml.safe_load_all(MANIFEST.read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods() -> dict[str, dict[str, Any]]:
    """What the pods of each workload are, by its name."""
    made = objects()
    return {
        "scheduler": made["Deployment", "kickbench-scheduler"]["spec"]["template"],
        "worker": made["DaemonSet", "kickbench-worker"]["spec"]["template"],
        "night": made["CronJob", "kickbench-night"]["spec"]["jobTemplate"]["spec"]["template"],
    }


def container(name: str) -> dict[str, Any]:
    (only,) = pods()[name]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def check_object(found: dict[str, Any]) -> None:
    """Fails if Kubernetes has no such kind, or the kind no such key, or a key no such value."""
    # Unknown keys are not read, and so are not written.
    assert from_dict(found).to_dict() == found


@pytest.mark.parametrize("name", [f"{kind}/{name}" for kind, name in objects()])
def test_kubernetes_knows_every_key_of_the_manifest(name: str) -> None:
    kind, _, object_name = name.partition("/")
    check_object(objects()[kind, object_name])


@pytest.mark.parametrize(
    "wrong",
    [{"imag": "kickbench"}, {"name": None}, {"ports": [{"containerPort": "8786"}]}],
    ids=["a key that there is not", "a name that is missing", "a port that is a text"],
)
def test_a_wrong_manifest_is_noticed(wrong: dict[str, Any]) -> None:
    found = objects()["DaemonSet", "kickbench-worker"]
    found["spec"]["template"]["spec"]["containers"][0] |= wrong
    with pytest.raises((AssertionError, TypeError, ValueError)):
        check_object(found)


def test_all_pods_are_of_one_image() -> None:
    assert len({container(name)["image"] for name in pods()}) == 1


def test_workloads_find_their_pods() -> None:
    for workload in objects().values():
        if workload["kind"] in ("Deployment", "DaemonSet"):
            labels = workload["spec"]["template"]["metadata"]["labels"]
            assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = objects()["Service", "kickbench-scheduler"]["spec"]
    assert service["selector"].items() <= pods()["scheduler"]["metadata"]["labels"].items()


def test_the_night_and_the_workers_ask_the_scheduler_that_there_is() -> None:
    (port,) = objects()["Service", "kickbench-scheduler"]["spec"]["ports"]
    address = f"tls://kickbench-scheduler:{port['port']}"
    assert address in " ".join(container("worker")["args"])
    assert address in container("night")["args"]
    words = container("scheduler")["command"]
    assert words[words.index("--port") + 1] == str(port["port"])


def test_the_night_runs_a_command_that_there_is() -> None:
    words = container("night")["args"]
    check_words(["kickbench", *words])
    assert (ROOT / f"scenarios/{words[2]}.toml").exists()


def test_only_a_worker_has_a_device_and_no_container_is_privileged() -> None:
    for name in pods():
        limits = container(name)["resources"].get("limits", {})
        assert [*limits] == (["devices.kubevirt.io/kvm"] if name == "worker" else [])
        security = container(name)["securityContext"]
        assert "privileged" not in security
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert pods()[name]["spec"]["automountServiceAccountToken"] is False


def test_nothing_in_a_worker_is_measured_with_the_kicks() -> None:
    """No filter of system calls, and no quota of CPU time."""
    worker = pods()["worker"]["spec"]
    assert worker["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    assert "cpu" not in container("worker")["resources"]["limits"]


def test_every_pod_has_what_it_mounts_and_reads() -> None:
    for name, pod in pods().items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes
        maps = [each["configMapRef"]["name"] for each in container(name)["envFrom"][:1]]
        assert ("ConfigMap", *maps) in objects()


def test_the_page_makes_the_secrets_that_the_pods_read() -> None:
    read = {
        *re.findall(r"secretName: (\S+)", MANIFEST.read_text()),
        *re.findall(r"secretRef:\n +name: (\S+)", MANIFEST.read_text()),
    }
    assert read == set(re.findall(r"create secret generic (\S+)", PAGE.read_text()))


# --- Slurm ---------------------------------------------------------------------------------------


def test_sbatch_knows_the_directives() -> None:
    lines = re.findall(r"(?m)^#SBATCH (.*)$", BATCH.read_text())
    assert lines.count("hetjob") == 1
    options = [re.fullmatch(r"--([a-z-]+)(=\S+)?", line) for line in lines if line != "hetjob"]
    assert {option and option[1] for option in options} == SBATCH
    # sbatch reads no directive below the first command.
    before, _, _ = BATCH.read_text().partition("\nset -euo")
    assert before.count("\n#SBATCH") == len(lines)


def test_the_shell_understands_the_batch_script() -> None:
    subprocess.run(["bash", "-n", BATCH], check=True)
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("shellcheck", path=beside)  # of the extra "test", whatever PATH is
    assert found is not None
    checked = subprocess.run([found, BATCH], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_batch_script_runs_a_command_that_there_is() -> None:
    (line,) = re.findall(r"(?m)^kickbench .*$", BATCH.read_text())
    check_words([word.strip('"') for word in line.split()])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_the_batch_script_has_the_fleet_measure_and_leaves_nothing(tmp_path: Path) -> None:
    """With Dask's own scheduler and worker, and in place of Slurm what runs its commands here."""
    python = f'exec "{sys.executable}" -P'
    stubs = {
        "dask": f'{python} -m dask "$@"',
        "hostname": "echo 127.0.0.1",
        "kickbench": f'{python} -c "$LOOK" "$@"',
        "python3": f'{python} "$@"',
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; echo $$ > worker; exec "$@"',
    }
    (tmp_path / "bin").mkdir()
    (tmp_path / "shared").mkdir()
    for name, script in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["bash", BATCH, "quick", "--quick"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path / "shared",
        timeout=300,
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "KICKBENCH_STORE": "/store",
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NUM_NODES_HET_GROUP_1": "1",
            "LOOK": LOOK,
        },
    )
    assert done.returncode == 4, done.stderr
    scheduler = f"tls://127.0.0.1:{20000 + os.getpid() % 10000}"
    words = ["fleet", "run", "quick", "--quick", "--scheduler", scheduler, "--store", "/store"]
    assert done.stdout.splitlines() == [*words, "1"]
    worker = int((tmp_path / "shared/worker").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["worker"]


LOOK = """
import sys
from distributed import Client

print(*sys.argv[1:], sep="\\n")
scheduler = sys.argv[sys.argv.index("--scheduler") + 1]
print(len(Client(scheduler).scheduler_info(n_workers=-1)["workers"]))
sys.exit(4)
"""


# --- ssh -----------------------------------------------------------------------------------------


def test_the_file_of_hosts_is_one() -> None:
    hosts = inventory.read(ROOT / "packaging/ssh/hosts")
    assert [host.name for host in hosts] == ["kvm1.example", "kvm2.example", "kvm3"]
    assert hosts[0].python == "/opt/kickbench/bin/python"
    assert (hosts[2].address, hosts[2].port) == ("kickbench@192.0.2.3", 2222)


# --- the container -------------------------------------------------------------------------------


def instructions() -> list[list[str]]:
    """The words of each instruction of the container's file."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINER.read_text()).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def copied() -> list[str]:
    """What the build gets of the source."""
    return [
        name
        for instruction, *words in instructions()
        if instruction == "COPY" and not words[0].startswith("--from")
        for name in words[:-1]
    ]


def test_the_container_gets_the_wheels_and_nothing_else_of_the_tree() -> None:
    assert copied() == ["dist/*.whl"]


def test_the_file_of_the_container_says_what_its_command_in_the_documentation_gives_it() -> None:
    """Devices, limits, capabilities. The rest of the command is about results and other runs."""
    head, _, _ = CONTAINER.read_text().partition("ARG BASE")
    said = {" ".join(words) for words in re.findall(r"(?m)^#     (--\S+)(?: (\S+))?", head)}
    document = (ROOT / "docs/fleet_schedules.md").read_text()
    command, *_ = re.findall(r"    podman run (.*?kickbench run.*?)\n", document, re.DOTALL)
    given = {" ".join(words) for words in re.findall(r"(--[\w-]+) ([^-\s]\S*)", command)}
    given = {
        option for option in given if not option.startswith(("--env", "--volume", "--results"))
    }
    assert {option.rstrip(",").strip() for option in said} == given


def test_the_container_starts_the_command_and_both_its_stages_have_one_base() -> None:
    bases = [words[0] for instruction, *words in instructions() if instruction == "FROM"]
    assert bases == ["${BASE}", "${BASE}"]  # a virtual environment belongs to one Python
    assert ["ENTRYPOINT", '["kickbench"]'] in instructions()
