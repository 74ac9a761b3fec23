# SPDX-License-Identifier: Apache-2.0
"""What is said of vCPUs that were not in their state, by KVM's own counts."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kickbench.arch import current
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm, KvmError, abi
from kickbench.run.states import MACHINES, remarks, stats
from kickbench.scenario.kinds import STATES


class PlayedVcpu:
    """A vCPU with these counts, of a kernel that may be too old to tell them."""

    def __init__(self, state: int = 0, counts: dict[str, int] | None = None) -> None:
        self._state, self._counts = state, counts

    def mp_state(self) -> int:
        return self._state

    def stats(self) -> dict[str, int]:
        if self._counts is None:
            raise KvmError(25, "KVM_GET_STATS_FD")
        return self._counts


def played(vcpus: Sequence[PlayedVcpu]) -> Any:
    return SimpleNamespace(vcpus=vcpus, n_vcpus=len(vcpus))


def said(state: str | None, vcpu: PlayedVcpu, before: dict[str, int] | None = None) -> list[str]:
    return list(remarks(state, played([vcpu]), [] if before is None else [before]))


def test_a_vcpu_that_was_started_did_not_wait() -> None:
    waits = PlayedVcpu(current().UNSTARTED)
    (one,) = remarks("wait_for_sipi", played([waits, PlayedVcpu()]), [])
    assert one.startswith("1 of 2 vCPUs did not wait")
    assert said("wait_for_sipi", waits) == []
    assert said("halted", PlayedVcpu()) == []


def test_hlt_that_leaves_the_guest_is_told() -> None:
    (one,) = said("halted_in_guest", PlayedVcpu(counts={"halt_exits": 5}), {"halt_exits": 2})
    assert one.startswith("HLT left the guest 3 times")
    assert said("halted_in_guest", PlayedVcpu(counts={"halt_exits": 2}), {"halt_exits": 2}) == []
    assert said("halted", PlayedVcpu(counts={"halt_exits": 5}), {"halt_exits": 2}) == []


def test_a_poll_that_ends_before_the_kick_is_told() -> None:
    began = {"halt_attempted_poll": 1, "halt_successful_poll": 1}
    few = {"halt_attempted_poll": 11, "halt_successful_poll": 5}
    (one,) = said("polling", PlayedVcpu(counts=few), began)
    assert one.startswith("KVM polled until the kick in only 4 of 10 halts")
    half = {"halt_attempted_poll": 11, "halt_successful_poll": 6}
    assert said("polling", PlayedVcpu(counts=half), began) == []


def test_a_kernel_without_counts_says_nothing() -> None:
    assert stats(played([PlayedVcpu(), PlayedVcpu(counts={})])) == []
    assert said("polling", PlayedVcpu()) == []


def test_each_machine_is_of_a_state() -> None:
    assert set(MACHINES) <= set(STATES)


@pytest.mark.kvm
def test_kvm_counts_by_vcpu_from_0() -> None:
    with Kvm() as kvm, Guest(kvm, "hlt", 2) as guest:
        try:
            guest.vcpus[0].stats()
        except KvmError as error:
            pytest.skip(str(error))
        for counts in stats(guest):
            assert {"halt_exits", "halt_attempted_poll", "halt_successful_poll"} <= set(counts)
            assert not counts["halt_exits"]
    assert abi.KVM_GET_STATS_FD in abi.IOCTL_NAMES
