# SPDX-License-Identifier: Apache-2.0
"""kickbench fleet run: a real Dask cluster, whose hosts measure on real KVM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sshd
from command import kickbench_captured
from dask_hosts import Cluster
from fleets import Begun, beginning, scenario, stored
from hypothesis import given
from hypothesis import strategies as st
from watching import wait_for

from kickbench.errors import UsageError
from kickbench.fleet import run as fleet_run
from kickbench.fleet.files import Files
from kickbench.fleet.host import Order, folder_of, measure, order_name
from kickbench.fleet.only import FACTS, chooser
from kickbench.fleet.query import ask

pytestmark = pytest.mark.kvm

needs_hosts = pytest.mark.skipif(os.geteuid() != 0, reason="it names hosts: root only")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster")
    yield made
    made.end()


@pytest.fixture
def fleet(cluster: Cluster, tmp_path: Path) -> list[object]:
    """The words of a command that measures for a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(scenario(1))
    return ["fleet", "run", path, "--scheduler", cluster.address, "--store", tmp_path / "store"]


@pytest.fixture
def begun(cluster: Cluster, tmp_path: Path) -> Iterator[Begun]:
    cluster.add("alpha")
    words = ["--scheduler", cluster.address, "--store", str(tmp_path / "store")]
    with beginning("alpha", cluster.state("alpha"), words, tmp_path) as made:
        yield made


@needs_hosts
def test_every_host_measures_and_stores(
    cluster: Cluster, fleet: list[object], tmp_path: Path
) -> None:
    for name in ("alpha", "beta", "beta"):  # two workers of one host
        cluster.add(name)
    cluster.add("gamma", "mount --bind /dev/null /dev/kvm")
    wait_for(lambda: len(workers(cluster)) == 4)
    done = kickbench_captured(*fleet)
    assert done.returncode == 0, done.stderr
    (name,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Fleet: ")]
    assert stored(tmp_path) == [("alpha", 1, name), ("beta", 1, name)]
    assert "2 hosts finished:\n" in done.stdout
    assert "1 host left out:\n  gamma: " in done.stdout
    assert "/dev/kvm" in done.stdout
    assert "alpha: [1/1]" in done.stderr
    assert not [*cluster.state("alpha").iterdir()]
    # Whoever has finished is not asked again.
    again = kickbench_captured("fleet", "run", "--resume", name, *fleet[3:])
    assert again.returncode == 0, again.stderr
    assert len(stored(tmp_path)) == 2


def workers(cluster: Cluster) -> list[str]:
    with fleet_run.connected(cluster.address) as client:
        return list(client.scheduler_info(n_workers=-1)["workers"])


@needs_hosts
def test_another_machine_of_the_name_is_left_out(
    cluster: Cluster, fleet: list[object], tmp_path: Path
) -> None:
    (tmp_path / "machine-id").write_text("f" * 32)
    cluster.add("beta")
    cluster.add("beta", f"mount --bind {tmp_path}/machine-id /etc/machine-id")
    wait_for(lambda: len(workers(cluster)) == 2)
    done = kickbench_captured(*fleet)
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in stored(tmp_path)] == ["beta"]
    assert "1 host left out:\n  beta at tcp://" in done.stdout
    assert "another machine has this name, too; set KICKBENCH_HOSTNAME there" in done.stdout


@needs_hosts
def test_only_some_hosts(cluster: Cluster, fleet: list[object], tmp_path: Path) -> None:
    cluster.add("alpha")
    cluster.add("beta")
    wait_for(lambda: len(workers(cluster)) == 2)
    done = kickbench_captured(*fleet, "--quick", "--only", "host=beta")
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in stored(tmp_path)] == ["beta"]
    none = kickbench_captured(*fleet, "--only", "kernel<2.6")
    assert none.returncode == 3


@needs_hosts
def test_a_nightly_job_s_scenarios_are_measured_on_each_host(
    cluster: Cluster, fleet: list[object], tmp_path: Path
) -> None:
    text = scenario(1)
    (tmp_path / "other.toml").write_text(text.replace('"tiny"', '"other"'))
    # One vCPU on a CPU that no host has: no case can run.
    (tmp_path / "none.toml").write_text(
        text.replace('"tiny"', '"none"') + '[[placement]]\nname = "far"\nvcpus = "cpu:9999"\n'
    )
    job = tmp_path / "nightly.toml"
    job.write_text('scenarios = ["tiny.toml", "none.toml", "other.toml"]\nhosts = ["root@box"]\n')
    for name in ("alpha", "beta"):
        cluster.add(name)
    wait_for(lambda: len(workers(cluster)) == 2)
    done = kickbench_captured("fleet", "run", job, *fleet[3:])
    assert done.returncode == 4, done.stderr
    assert "2 hosts failed:\n  alpha: this host can run no case of none: " in done.stdout
    assert "alpha: scenario 3 of 3: other" in done.stderr
    sql = "SELECT host, scenario FROM runs ORDER BY ALL"
    assert [*ask(Files(str(tmp_path / "store")), sql, lambda _: None).rows] == [
        ("alpha", "other"),
        ("alpha", "tiny"),
        ("beta", "other"),
        ("beta", "tiny"),
    ]
    # Only what is not finished is measured again.
    (name,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Fleet: ")]
    again = kickbench_captured("fleet", "run", "--resume", name, *fleet[3:])
    assert again.returncode == 4, again.stderr
    assert "alpha: kickbench: this host can run no case of none" in again.stderr
    assert "scenario 1 of" not in again.stderr


@needs_hosts
def test_ctrl_c_ends_the_hosts_runs_and_can_be_resumed(begun: Begun, tmp_path: Path) -> None:
    pid = begun.worker
    begun.process.send_signal(signal.SIGINT)
    code, said = begun.end()
    assert code == 130
    assert f"kickbench fleet run --resume {begun.fleet} " in said
    assert "Traceback" not in said
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert json.loads((begun.folder / "outcome.json").read_text())[0] == 130
    assert stored(tmp_path) == []
    done = kickbench_captured("fleet", "run", "--resume", begun.fleet, *begun.words)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("alpha", 1, begun.fleet)]


@needs_hosts
@pytest.mark.parametrize(
    ("who", "said"), [("alpha", "its worker is gone"), ("scheduler", "the scheduler is gone")]
)
def test_who_dies_costs_nothing_that_is_measured(
    begun: Begun, cluster: Cluster, who: str, said: str, tmp_path: Path
) -> None:
    cluster.kill(who)
    code, text = begun.end()
    assert code == 4
    assert f"alpha: {said}; the run may go on there" in text
    assert "Traceback" not in text
    # The host has finished by itself, and stored its run.
    wait_for(lambda: stored(tmp_path) == [("alpha", 1, begun.fleet)])
    if who == "alpha":
        cluster.add("alpha")
        wait_for(lambda: len(workers(cluster)) == 1)
        done = kickbench_captured("fleet", "run", "--resume", begun.fleet, *begun.words)
        assert done.returncode == 0, done.stderr
        assert "alpha: it had finished before" in done.stdout


@needs_hosts
def test_a_killed_measurement_is_said_and_finished_later(begun: Begun, tmp_path: Path) -> None:
    os.killpg(begun.worker, signal.SIGKILL)
    code, text = begun.end()
    assert code == 4
    assert "1 host failed:\n  alpha: " in text
    done = kickbench_captured("fleet", "run", "--resume", begun.fleet, *begun.words)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path) == [("alpha", 1, begun.fleet)]


HOSTS = ("alpha", "beta", "gamma", "delta")


class FourHosts:
    """A fleet of four hosts, each in a network of its own, that all measure."""

    def __init__(self, opened: ExitStack, tmp_path: Path) -> None:
        (tmp_path / "cluster").mkdir()
        self.cluster = Cluster(tmp_path / "cluster", "0.0.0.0")  # noqa: S104 (the networks' too)
        opened.callback(self.cluster.end)
        self.networks = {
            name: opened.enter_context(sshd.network(which)) for which, name in enumerate(HOSTS)
        }
        for name, network in self.networks.items():
            self.cluster.add(name, inside=network)
        wait_for(lambda: len(workers(self.cluster)) == 4)
        words = ["--scheduler", self.cluster.address, "--store", str(tmp_path / "store")]
        state = self.cluster.state("alpha")
        self.begun = opened.enter_context(beginning("alpha", state, words, tmp_path))
        for name in HOSTS:
            wait_for(lambda name=name: [*self.cluster.state(name).glob("*/results/*/*/*")])


@pytest.fixture
def four(tmp_path: Path) -> Iterator[FourHosts]:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("it makes networks: root and iproute2 only")
    if subprocess.run(["unshare", "--net", "true"]).returncode:
        pytest.skip("no network namespaces here")
    with ExitStack() as opened:
        yield FourHosts(opened, tmp_path)


def test_hosts_that_die_or_are_cut_off_cost_their_own_run_only(
    four: FourHosts, tmp_path: Path
) -> None:
    four.cluster.kill("beta")
    four.networks["gamma"].cable("down")
    code, text = four.begun.end()
    assert code == 4
    assert "2 hosts finished:\n  alpha: " in text
    assert "2 hosts failed:\n  beta: its worker is gone; the run may go on there\n  gamma: " in text
    assert "Traceback" not in text
    # Both have measured on, and stored what they found.
    fleet = four.begun.fleet
    wait_for(lambda: stored(tmp_path) == [(name, 1, fleet) for name in sorted(HOSTS)])


def test_a_scheduler_that_dies_costs_no_host_its_run(four: FourHosts, tmp_path: Path) -> None:
    four.cluster.kill("scheduler")
    code, text = four.begun.end()
    assert code == 4
    assert text.count(": the scheduler is gone; the run may go on there\n") == 2 * len(HOSTS)
    fleet = four.begun.fleet
    wait_for(lambda: stored(tmp_path) == [(name, 1, fleet) for name in sorted(HOSTS)])


def test_a_host_that_is_stopped_at_once_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    text = scenario(600)
    store = Files(str(tmp_path / "store"))
    store.write(order_name("fleet"), b"{}")
    order = Order("fleet", {"tiny": text}, (), store.url)
    said: list[str] = []
    code, last = measure(order, said.append, lambda: True)
    assert code == 130, (last, said)
    assert stored(tmp_path) == []


def test_a_store_that_is_another_folder_on_the_host_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    order = Order("fleet", {"tiny": ""}, (), str(tmp_path / "store"))
    code, said = measure(order, lambda _: None, lambda: False)
    assert code == 3
    assert "is not that of the fleet; name one that all hosts share" in said


def test_hosts_that_share_a_home_keep_apart_what_they_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folders = set()
    for name in ("alpha", "beta"):
        monkeypatch.setenv("KICKBENCH_HOSTNAME", name)
        folders.add(folder_of("fleet"))
    assert len(folders) == 2


def test_hosts_hear_of_a_store_by_a_name_that_is_good_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    order = fleet_run.new_order(Files("store"), "quick", [])
    monkeypatch.chdir("/")
    resumed, done = fleet_run.begun(Files(order.store), order.fleet)
    assert (resumed, done) == (order, {})


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
)
def test_versions_are_compared_as_numbers(fact: list[int], wanted: list[int]) -> None:
    environment = {"kernel": {"release": ".".join(map(str, fact)) + "-generic"}}
    text = ".".join(map(str, wanted))
    ordered = fact[: len(wanted)] + [0] * (len(wanted) - len(fact))
    for operator, holds in (
        (">=", ordered >= wanted),
        ("<=", ordered <= wanted),
        (">", ordered > wanted),
        ("<", ordered < wanted),
    ):
        assert chooser(f"kernel {operator} {text}")(environment) is holds


def test_terms_are_joined_and_unknown_facts_hold_for_nothing() -> None:
    environment = {"kernel": {"release": "6.12.9"}, "cpu": {"model": "AMD EPYC 9004"}}
    assert chooser("kernel>=6.12 and cpu~epyc")(environment)
    assert not chooser("kernel>=6.12 and cpu~xeon")(environment)
    assert not chooser("microcode!=0x1")(environment)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_refused_in_a_line(text: str) -> None:
    try:
        chosen = chooser(text)
    except UsageError as error:
        said = str(error)
    else:
        said = f"{chosen({name: {} for name in FACTS})}"
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "name the hosts with --scheduler ADDRESS or --hosts FILE"),
        (["quick", "--scheduler", "tcp://127.0.0.1:1", "--store", "{tmp}"], 3, "cannot be reached"),
        (["quick", "--scheduler", "nonsense", "--store", "{tmp}"], 3, "cannot be reached"),
        (["--scheduler", "x", "--store", "{tmp}"], 2, "name a scenario, or the fleet to --resume"),
        (["--resume", "nix", "--scheduler", "x", "--store", "{tmp}"], 2, "has no fleet 'nix'"),
        (["{tmp}/own.toml", "--scheduler", "x", "--store", "{tmp}"], 2, "does not carry protocol"),
        (
            ["quick", "--only", "vendor=x", "--scheduler", "x", "--store", "{tmp}"],
            2,
            "no condition",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "mine.c").write_text("")
    text = scenario(1).replace('"sigmask"', '"./mine.c"')
    (tmp_path / "own.toml").write_text(text)
    monkeypatch.setattr(fleet_run, "CONNECT_SECONDS", 1)
    done = kickbench_captured("fleet", "run", *(word.format(tmp=tmp_path) for word in words))
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert said in line
