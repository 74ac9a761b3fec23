# SPDX-License-Identifier: Apache-2.0
"""A scenario that is written reads back as the same one, whatever is in its text and comments."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_scenario_model import VALID

from kickbench.errors import ScenarioError
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario
from kickbench.scenario.shipped import shipped
from kickbench.scenario.writing import scenario_text

RECORDED: dict[str, Any] = {
    "measure": {"kinds": ["exits", "kick"], "max_seconds": 20},
    "name": "my_vm",
    "guest": {
        "mix": [
            {"exit": "port_read", "address": 0x608, "size": 4, "share": 0.92},
            {"exit": "mmio_write", "address": 0xFE00_3000, "size": 2, "share": 0.08},
        ],
        "program": "mix",
        "gaps_us": [10.0 + each for each in range(12)],
    },
    "vm": {"vcpus": 2},
}
COMMENTS = {
    "": "What kickbench saw of qemu (pid 1234).\nIn 30 s.",
    "guest": "1,240,000 exits",
    "guest.gaps_us": "median 15.5",
    "guest.mix[1]": "a doorbell",
    "guest.mix[1].share": "of all",
    "measure.max_seconds": "more if you need it",
}
TEXT = """\
# What kickbench saw of qemu (pid 1234).
# In 30 s.
name = "my_vm"

[vm]
vcpus = 2

[guest]
# 1,240,000 exits
program = "mix"
# median 15.5
gaps_us = [
    10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0,
    20.0, 21.0,
]

[[guest.mix]]
exit = "port_read"
address = 0x608
size = 4
share = 0.92

[[guest.mix]]
# a doorbell
exit = "mmio_write"
address = 0xfe003000
size = 2
# of all
share = 0.08

[measure]
kinds = ["exits", "kick"]
# more if you need it
max_seconds = 20
"""
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(text: str) -> Scenario:
    return Scenario.from_dict(tomllib.loads(text))


def test_a_file_is_written_for_people() -> None:
    assert scenario_text(RECORDED, COMMENTS) == TEXT
    assert read(TEXT) == Scenario.from_dict(RECORDED)


@RELAXED
@given(VALID, st.text())
def test_what_is_written_is_read_back_equal(data: dict[str, Any], comment: str) -> None:
    scenario = Scenario.from_dict(data)
    comments = {"": comment, "vm": comment, "guest.program": comment}
    assert read(scenario_text(data, comments)) == scenario
    assert read(scenario_text(scenario.to_dict())) == scenario


@RELAXED
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t"), max_size=99)
)
def test_a_description_of_any_text_is_read_back_equal(description: str) -> None:
    data = {**RECORDED, "description": description}
    try:
        scenario = Scenario.from_dict(data)
    except ScenarioError:  # it has a character that is not allowed
        return
    assert read(scenario_text(data)) == scenario


@pytest.mark.parametrize("path", shipped().values(), ids=shipped())
def test_a_shipped_scenario_can_be_written(path: Path) -> None:
    scenario = load(path)
    assert read(scenario_text(scenario.to_dict())) == scenario


@pytest.mark.parametrize("key", ["guest.arrival", "vms", "guest.mix[2]", "placement[0]"])
def test_a_comment_on_nothing_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match="no key for the comments"):
        scenario_text(RECORDED, {key: "?"})


def test_a_faulty_scenario_is_not_written() -> None:
    with pytest.raises(ScenarioError, match=r"vm\.vcpus: expected a whole number"):
        scenario_text({**RECORDED, "vm": {"vcpus": 0}})
