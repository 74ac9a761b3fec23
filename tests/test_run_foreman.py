# SPDX-License-Identifier: Apache-2.0
"""The foreman when a case fails: the others are measured, unless nothing can be stored."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from kickbench.errors import MeasurementError, StorageError
from kickbench.kvm.ioctl import KvmError
from kickbench.run import foreman, process
from kickbench.run.foreman import Foreman, Job
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand

CASES = expand(
    Scenario.from_dict({"name": "x", "vm": {"vcpus": [1, 2]}, "guest": {"program": "pm_timer"}})
)
FULL = OSError(errno.ENOSPC, "No space left on device", "/there")


def events(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[dict[str, Any]]:
    """What is said of two cases whose workers cannot be started."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(foreman, "WorkerProcess", fail)
    jobs = [Job(case, [[0]] * case.vcpus, [0], None, {}, 1.0) for case in CASES]
    return list(Foreman(jobs, folder).work())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MeasurementError("it hung"), "it hung"),
        (KvmError(errno.ENOMEM, "KVM_RUN"), "KVM_RUN"),
        (TypeError("no such thing"), "this is a bug"),
    ],
)
def test_the_other_cases_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    said = events(tmp_path, monkeypatch, error)
    assert [one["event"] for one in said] == ["begin", "failed"] * 2
    for one in said[1::2]:
        assert reason in one["reason"]
        assert one["storage"] is False


@pytest.mark.parametrize("error", [StorageError("/there: it is full"), FULL])
def test_no_case_begins_where_nothing_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    said = events(tmp_path, monkeypatch, error)
    assert [one["event"] for one in said] == ["begin", "failed"]
    assert said[1]["storage"] is True
    assert said[1]["reason"].startswith("/there: ")


def test_a_worker_that_cannot_be_started_is_no_matter_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_processes(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(process.subprocess, "Popen", no_more_processes)
    jobs = [Job(case, [[0]] * case.vcpus, [0], None, {}, 1.0) for case in CASES]
    said = list(Foreman(jobs, tmp_path).work())
    assert [one["event"] for one in said] == ["begin", "failed"] * 2
    assert "cannot be started: Resource temporarily unavailable" in said[1]["reason"]
    assert said[1]["storage"] is False
