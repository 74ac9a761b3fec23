# SPDX-License-Identifier: Apache-2.0
"""The shipped scenarios load, are found by name, and agree with the exported schema."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kickbench.errors import ScenarioError
from kickbench.guest.programs import PROGRAMS
from kickbench.scenario import model, shipped
from kickbench.scenario.cases import expand

SHIPPED = shipped.shipped()
SCHEMA = model.json_schema()


def test_these_are_shipped() -> None:
    assert list(SHIPPED) == ["exit_throughput", "numa_siglock", "quick", "smp_windows_like"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_loads_under_its_own_name(name: str) -> None:
    scenario = model.load(SHIPPED[name])
    assert scenario.name == name
    assert scenario.description
    assert len(expand(scenario)) == scenario.case_count


def test_smp_windows_like_is_the_blueprints() -> None:
    scenario = model.load(SHIPPED["smp_windows_like"])
    assert scenario.vm.vcpus == (1, 2, 4, 8)
    assert scenario.guest.program == ("pm_timer",)
    assert scenario.guest.exit_rate_hz == ("max", 20000.0)
    assert scenario.guest.arrival == "poisson"
    assert {p.name: (p.creator, p.vcpus, p.kicker) for p in scenario.placement} == {
        "local": ("node:0", "node:0", "node:0"),
        "remote_siglock": ("node:0", "node:1", "node:0"),
    }
    assert scenario.measure.methods == ("sigmask", "immediate_exit")
    assert scenario.measure.baseline == "immediate_exit"


def test_every_program_of_exit_throughput_exits() -> None:
    scenario = model.load(SHIPPED["exit_throughput"])
    exiting = {program.name for program in PROGRAMS.values() if program.exits != "none"}
    assert set(scenario.guest.program) == exiting
    assert scenario.vm.irqchip == "none"  # else HLT stays in the kernel


# --- Names and paths ------------------------------------------------------------------------


def test_a_shipped_name_is_found_from_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.resolve("quick") == SHIPPED["quick"]
    assert shipped.resolve("quick.toml") == SHIPPED["quick"]


def test_a_file_wins_over_a_shipped_name_and_that_over_a_directory(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick.toml").write_text("")
    Path("quick").mkdir()
    Path("mine").mkdir()
    assert shipped.resolve("quick.toml") == Path("quick.toml")
    assert shipped.resolve("quick") == SHIPPED["quick"]
    assert shipped.resolve("mine") == Path("mine")


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("quik", '; did you mean "quick"?'),
        ("scenarios/smp_windows_lik.toml", '; did you mean "smp_windows_like"?'),
        ("nothing_like_it", ""),
        ("../quick", '; did you mean "quick"?'),
        ("x" * 5000, ""),
        ("a\0b", ""),
    ],
)
def test_an_unknown_name_lists_what_there_is(
    argument: str, hint: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ScenarioError) as caught:
        shipped.resolve(argument)
    first, second = str(caught.value).split("\n")
    assert len(first) < 400
    assert first.endswith(f"no such file, and no shipped scenario of this name{hint}")
    assert second == "shipped: exit_throughput, numa_siglock, quick, smp_windows_like"


def test_an_installed_package_has_its_own_folder(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "kickbench"
    (tmp_path / "scenarios").mkdir()
    package.mkdir()
    monkeypatch.setattr("kickbench.__file__", str(package / "__init__.py"))
    assert shipped.folder() == tmp_path / "scenarios"
    (package / "scenarios").mkdir()
    assert shipped.folder() == package / "scenarios"


# --- The schema for editors -----------------------------------------------------------------


def validator() -> jsonschema.protocols.Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_says_what_it_is() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "kickbench scenario"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_accepts_what_is_shipped(name: str) -> None:
    validator().validate(tomllib.loads(SHIPPED[name].read_text()))
    validator().validate(model.load(SHIPPED[name]).to_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"description": "\x1b[2J"},
        {"unknown": 1},
        {"vm": {}},
        {"vm": {"vcpus": 0}},
        {"vm": {"vcpus": [1, 5000]}},
        {"vm": {"vcpus": []}},
        {"vm": {"vcpus": [1, 1]}},
        {"vm": {"vcpus": 1, "irqchip": "kernal"}},
        {"guest": {"program": "doom"}},
        {"guest": {"program": "hlt", "exit_rate_hz": "full"}},
        {"guest": {"program": "hlt", "exit_rate_hz": [-1]}},
        {"placement": []},
        {"placement": {"name": "a"}},
        {"placement": [{"name": "a", "vcpus": "node:"}]},
        {"measure": {"methods": []}},
        {"measure": {"kinds": ["nope"]}},
        {"measure": {"processes": 101}},
        {"measure": {"precision": 0}},
        {"measure": {"max_seconds": True}},
    ],
)
def test_the_schema_and_the_model_refuse_the_same(change: dict[str, Any]) -> None:
    good = {"name": "x", "vm": {"vcpus": 1}, "guest": {"program": "hlt"}}
    validator().validate(good)
    assert not validator().is_valid({**good, **change})
    with pytest.raises(ScenarioError):
        model.Scenario.from_dict({**good, **change})


def test_every_key_has_a_description() -> None:
    tables = [SCHEMA, *SCHEMA["$defs"].values()]
    for table in tables:
        for key, field in table["properties"].items():
            assert field.get("description"), f"{table['title']}: {key}"


def test_the_reference_names_every_key() -> None:
    reference = Path(__file__).parents[1] / "docs" / "scenarios.md"
    named = set(re.findall(r"^\| `([a-z_]+)` \|", reference.read_text(), re.M))
    tables = (model.Scenario, model.Vm, model.Guest, model.Placement, model.Measure)
    scalars = {key for table in tables for key in table.model_fields} - {
        "vm",
        "guest",
        "placement",
        "measure",
    }
    # "vcpus" is a key of [vm] and of [[placement]].
    assert named == scalars
