# SPDX-License-Identifier: Apache-2.0
"""What all tests share: tests marked ``kvm`` run on the real /dev/kvm, those marked ``lab`` in the
lab's machines with its kernel, and nowhere else."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before numpy is imported. For arrays as small as ours its threads cost more than they gain.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
import sshd
from hypothesis import settings

from kickbench.errors import KickbenchError
from kickbench.host.capabilities import probe
from kickbench.lab import build as builder
from kickbench.lab import machines, tools

if TYPE_CHECKING:
    from kickbench.report.figures.plots import Plot  # matplotlib is slow to import

# Shared machines are slow at times; an example that takes long is not a fault.
settings.register_profile("kickbench", deadline=None)
settings.load_profile("kickbench")

# The runs of these tests are nobody else's business, nor are other runs on this host theirs.
os.environ["KICKBENCH_LOCK"] = str(Path(tempfile.mkdtemp(prefix="kickbench-tests-")) / "lock")

# A job in the background of a shell is started with SIGINT ignored, and so would be the runs that
# these tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn as ever, but their pages have no SVG of them, which takes most of the time.

    For tests of what else a page says, and of what goes on around it.
    """
    for module in ("nightly.page", "report.pages.comparison", "report.pages.run"):
        monkeypatch.setattr(f"kickbench.{module}.inline", _no_svg)


def _no_svg(plot: Plot, name: str, *, alternative: bool = False) -> str:
    return "<svg></svg>"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sshd.Sshd]:
    """A machine that ssh reaches: a real OpenSSH server on loopback."""
    if sshd.SSHD is None:
        assert not os.environ.get("KICKBENCH_REQUIRE_SSHD"), "the tests by ssh must run here"
        pytest.skip("no sshd: apt install openssh-server")
    (folder := tmp_path / "sshd").mkdir()
    with sshd.running(folder) as server:
        monkeypatch.setenv("KICKBENCH_SSH", server.ssh)
        yield server
        for pid in server.supervisors():
            os.kill(pid, signal.SIGKILL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _skip_without_lab([item for item in items if item.get_closest_marker("lab")])
    wants_kvm = [item for item in items if item.get_closest_marker("kvm")]
    if not wants_kvm:
        return
    capabilities = probe()
    if capabilities.usable:
        return
    if os.environ.get("KICKBENCH_REQUIRE_KVM"):
        pytest.exit(f"the tests on real KVM must run here, but: {capabilities.reason}", 1)
    for item in wants_kvm:
        item.add_marker(pytest.mark.skip(reason=f"no usable KVM: {capabilities.reason}"))


def _skip_without_lab(items: list[pytest.Item]) -> None:
    """Each needs the machine that its marker names, or amd-numa; and the kernel, or the lab's."""
    by_need: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("lab")
        assert marker is not None
        machine, config = (*marker.args, *("amd-numa", "lab")[len(marker.args) :])
        by_need.setdefault((machine, config), []).append(item)
    for (machine, config), wanted in by_need.items():
        try:
            tools.require(machine)
            builder.built(config=config, arch=machines.find(machine).emulator.arch)
        except KickbenchError as error:
            if os.environ.get("KICKBENCH_REQUIRE_LAB"):
                pytest.exit(f"the tests in the lab must run here, but: {error}", 1)
            for item in wanted:
                item.add_marker(pytest.mark.skip(reason=f"no lab: {error}".replace("\n", "; ")))
