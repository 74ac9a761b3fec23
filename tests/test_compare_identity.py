# SPDX-License-Identifier: Apache-2.0
"""Which facts make another host, which may change from run to run, and a host's fingerprint."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st

from kickbench.compare.identity import (
    FACTS,
    UNKNOWN,
    Change,
    changes,
    fingerprint,
    fingerprint_facts,
)
from kickbench.host.environment import collect


def changed(**facts: Any) -> dict[str, Any]:
    """The synthetic environment with single facts replaced: cpu__model="x" for cpu.model."""
    environment = copy.deepcopy(synthetic_run.ENVIRONMENT)
    for path, value in facts.items():
        *parents, last = path.split("__")
        place = environment
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return environment


def between(**facts: Any) -> list[Change]:
    return changes(synthetic_run.ENVIRONMENT, changed(**facts))


@pytest.mark.parametrize(
    ("facts", "title"),
    [
        ({"cpu__model": "Other CPU"}, "CPU"),
        ({"cpu__online": "0-7"}, "CPUs online"),
        ({"nodes": {"0": {"cpus": "0-15", "distances": [10]}}}, "NUMA nodes"),
        ({"virtualization": {"hypervisor": "KVM", "nested": True}}, "hypervisor"),
        ({"kernel__machine": "aarch64"}, "architecture"),
    ],
)
def test_other_hardware_is_not_comparable(facts: dict[str, Any], title: str) -> None:
    (change, *_) = between(**facts)
    assert (change.title, change.blocks) == (title, True)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"kernel__release": "6.13.0"}, ("kernel", "6.12.0-test", "6.13.0")),
        ({"cpu__microcode": "0x2"}, ("microcode", "0x1", "0x2")),
        ({"frequency__turbo": True}, ("turbo", "no", "yes")),
        ({"frequency__governors": ["powersave"]}, ("governor", "performance", "powersave")),
        (
            {"mitigations__meltdown": "Mitigation: PTI"},
            ("mitigation of meltdown", "Not affected", "Mitigation: PTI"),
        ),
        (
            {"kvm_modules__kvm__halt_poll_ns": "0"},
            ("module parameter kvm.halt_poll_ns", "200000", "0"),
        ),
        ({"software__libraries__numpy": "2.1.0"}, ("library numpy", "2.0.0", "2.1.0")),
        ({"hostname": "b"}, ("host name", "testhost", "b")),
        ({"cpu__isolated": "2-3"}, ("isolated CPUs", "none", "2-3")),
        ({"protocols": {"mine": "abc"}}, ("protocol", UNKNOWN, "1 known")),
    ],
)
def test_what_is_tested_is_a_change_and_comparable(
    facts: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    assert between(**facts) == [Change(*expected, blocks=False)]


@pytest.mark.parametrize("facts", [{"load": [9.0, 9.0, 9.0]}, {"memory__available_kib": 1}])
def test_what_changes_by_itself_is_no_change(facts: dict[str, Any]) -> None:
    assert between(**facts) == []


def test_every_kernel_sees_another_amount_of_memory() -> None:
    assert between(memory__total_kib=67108864 - 50_000) == []
    assert [c.title for c in between(memory__total_kib=67108864 // 2)] == ["memory"]
    nodes = copy.deepcopy(synthetic_run.ENVIRONMENT["nodes"])
    nodes["0"]["memory_kib"] -= 50_000
    assert between(nodes=nodes) == []


@pytest.mark.parametrize("path", ["cpu__model", "nodes", "virtualization", "kernel__release"])
def test_a_missing_fact_is_unknown_and_blocks_nothing(path: str) -> None:
    (change,) = [c for c in between(**{path: None}) if c.title != "container"]
    assert change.after == UNKNOWN
    assert not change.blocks


def test_bare_metal_and_a_guest_are_not_the_same_host() -> None:
    (change,) = between(virtualization__hypervisor="KVM", virtualization__nested=True)
    assert change == Change("hypervisor", "bare metal", "KVM", blocks=True)


def test_what_blocks_comes_first() -> None:
    found = between(kernel__release="6.13.0", cpu__model="Other", hostname="b")
    assert [change.blocks for change in found] == [True, False, False]


def test_of_the_command_line_only_what_differs_is_told() -> None:
    before = changed(kernel__cmdline="BOOT_IMAGE=/vmlinuz-6.12.0-test ro quiet mitigations=auto")
    after = changed(kernel__cmdline="BOOT_IMAGE=/vmlinuz-6.13 ro quiet mitigations=off nosmt")
    assert changes(before, after) == [
        Change("kernel command line", "mitigations=auto", "mitigations=off nosmt", blocks=False)
    ]


def test_the_order_of_parameters_can_matter() -> None:
    before, after = (
        changed(kernel__cmdline=f"{a} {b}") for a, b in (("x=1", "x=2"), ("x=2", "x=1"))
    )
    assert [c.title for c in changes(before, after)] == ["kernel command line (order)"]


# --- the fingerprint ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        {"kernel__release": "6.13.0"},
        {"cpu__microcode": "0x2"},
        {"hostname": "elsewhere"},
        {"software__kickbench": "9.9"},
        {"mitigations__meltdown": "Mitigation: PTI"},
        {"load": [9.0]},
    ],
)
def test_what_is_tested_keeps_the_fingerprint(facts: dict[str, Any]) -> None:
    assert fingerprint(changed(**facts)) == fingerprint(synthetic_run.ENVIRONMENT)


@pytest.mark.parametrize(
    "facts",
    [
        {"cpu__model": "Other"},
        {"kernel__cmdline": "ro quiet mitigations=off"},
        {"nodes__1__cpus": "8-11"},
        {"nodes__1__distances": [31, 10]},
    ],
)
def test_another_host_has_another_fingerprint(facts: dict[str, Any]) -> None:
    assert fingerprint(changed(**facts)) != fingerprint(synthetic_run.ENVIRONMENT)


def test_where_the_kernel_was_loaded_from_is_no_part_of_it() -> None:
    old, new = (
        changed(
            kernel__release=release,
            kernel__cmdline=f"BOOT_IMAGE=/vmlinuz-{release} initrd=/initrd-{release} ro "
            f"dyndbg=/lib/modules/{release}/x",
        )
        for release in ("6.12.3-amd64", "6.12.4-amd64")
    )
    assert fingerprint(old) == fingerprint(new)
    assert fingerprint_facts(old)["kernel_command_line"] == "ro dyndbg=/lib/modules/*/x"
    assert [c.title for c in changes(old, new)] == ["kernel"]


def test_a_fingerprint_is_short_and_stays() -> None:
    assert len(fingerprint(synthetic_run.ENVIRONMENT)) == 12
    # A history is kept under it: another value would begin every history anew.
    assert fingerprint({"cpu": {"model": "A"}, "kernel": {"cmdline": "ro"}}) == "a19dd7c09312"


def test_every_fact_is_one_that_a_host_tells() -> None:
    there = collect()
    for fact in FACTS:
        if fact.path == ("protocols",):
            continue  # added by the runner, of the user's own protocols
        place: Any = there
        for key in fact.path:
            assert key in place, fact.path
            place = place[key]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
odd = st.recursive(
    scalars,
    lambda s: st.lists(s, max_size=2) | st.dictionaries(st.text(max_size=3), s, max_size=2),
    max_leaves=4,
)
paths = st.sampled_from([fact.path for fact in FACTS])


@st.composite
def environments(draw: st.DrawFn) -> dict[str, Any]:
    """The synthetic environment with up to 3 facts of any shape."""
    facts = draw(st.dictionaries(paths, odd, max_size=3))
    found = copy.deepcopy(synthetic_run.ENVIRONMENT)
    for path, value in facts.items():
        place = found
        for key in path[:-1]:
            inner = place.get(key)
            inner = inner if isinstance(inner, dict) else {}
            place[key] = inner
            place = inner
        place[path[-1]] = value
    return found


@given(environments(), environments())
def test_any_environment_can_be_compared(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = changes(before, after)
    assert changes(before, copy.deepcopy(before)) == []
    for change in found:
        assert change.before != change.after
        assert all(text and text.isprintable() for text in (change.before, change.after))
        assert change.title.isprintable()
    # The other way round the same facts differ.
    assert sorted(c.title for c in changes(after, before)) == sorted(c.title for c in found)
    assert fingerprint(before) == fingerprint(copy.deepcopy(before))
