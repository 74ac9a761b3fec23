# SPDX-License-Identifier: Apache-2.0
"""Runs in a machine of the lab: what the guest hypervisor says there, as one JSON object."""

from __future__ import annotations

import json
from collections import Counter

from kickbench.errors import MeasurementError
from kickbench.kvm import Kvm
from kickbench.nested.guest import BROKEN, ITERATIONS, NestedGuest

COUNT = 100
KICKS, KICKS_HZ = 100, 500


def complaint(broken: str) -> str | None:
    with Kvm() as kvm, NestedGuest(kvm, broken=broken, stall_seconds=1) as guest:
        try:
            guest.run("pending", 1)
        except MeasurementError as error:
            return str(error)
    return None


def delivery(injected: int, delivered: int) -> str:
    """What became of an iteration's injection, or of none."""
    if injected == delivered:
        return "right"
    return "lost" if delivered < injected else "doubled"


with Kvm() as kvm, NestedGuest(kvm) as guest:
    said = {
        "vendor": guest.vendor,
        "nested_paging": guest.nested_paging,
        "iterations": {
            name: {column: guest_records[column].tolist() for column in guest_records.type.fields}
            for name in ITERATIONS
            for guest_records in (guest.run(name, COUNT),)
        },
    }
with Kvm() as kvm, NestedGuest(kvm, kick_rate_hz=KICKS_HZ) as kicked:
    seen = Counter[str]()
    while kicked.kicks < KICKS:
        for way in ITERATIONS:
            found = kicked.run(way, COUNT)
            seen.update(map(delivery, found["injected"], found["delivered"]))
    said["kicked"] = {**seen, "kicks": kicked.kicks}
with Kvm() as kvm, NestedGuest(kvm, kick_rate_hz=KICKS_HZ) as guest:
    before = guest.kicks  # L1 has begun
    said["entries"] = {name: guest.entries(name, COUNT) for name in ("plain", "pending")}
    said["kicks_meanwhile"] = guest.kicks - before
said["complaints"] = {broken: complaint(broken) for broken in BROKEN}
print(json.dumps(said))
