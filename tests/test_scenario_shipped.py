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
from kickbench.methods import CATALOGUE
from kickbench.scenario import model, shipped
from kickbench.scenario.files import load
from kickbench.scenario.kinds import ITERATIONS, STATES, TRANSPORTS, USUAL_STATES, WAYS
from kickbench.scenario.sweep import case_count, expand

SHIPPED = shipped.shipped()
SCHEMA = model.json_schema()


def test_these_are_shipped() -> None:
    assert list(SHIPPED) == [
        "all_methods",
        "cacheline_handover",
        "contending_kickers",
        "exit_throughput",
        "instruction_counts",
        "kick_latency",
        "lifecycle",
        "moments",
        "nested_immediate_exit",
        "numa_siglock",
        "pause_all",
        "quick",
        "race",
        "siglock_prediction",
        "smp_mmio",
        "smp_windows_like",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_loads_under_its_own_name(name: str) -> None:
    scenario = load(SHIPPED[name])
    assert scenario.name == name
    assert scenario.description
    assert len(expand(scenario)) == case_count(scenario)


def test_smp_windows_like_is_the_blueprints() -> None:
    scenario = load(SHIPPED["smp_windows_like"])
    assert scenario.vm.vcpus == (1, 2, 4, 8)
    assert scenario.guest.program == ("pm_timer",)
    assert scenario.guest.exit_rate_hz == ("max", 20000.0)
    assert scenario.guest.arrival == "poisson"
    assert scenario.guest.kick_rate_hz == (0, 1000)
    assert scenario.kicked_vcpus == (1,)
    assert {p.name: (p.creator, p.vcpus, p.kicker) for p in scenario.placement} == {
        "local": ("node:0", "node:0", "node:0"),
        "remote_siglock": ("node:0", "node:1", "node:1"),
    }
    assert scenario.measure.kinds == ("exits", "kick", "race")
    assert scenario.measure.methods == ("sigmask", "sigmask_same", "immediate_exit")
    assert scenario.measure.baseline == "immediate_exit"


def test_numa_siglock_moves_one_thing_at_a_time() -> None:
    scenario = load(SHIPPED["numa_siglock"])
    places = {p.name: (p.creator, p.vcpus, p.kicker) for p in scenario.placement}
    for node in "01":
        here, there = f"node:{node}", f"node:{'10'[int(node)]}"
        assert places[f"local{node}"] == (here, here, here)
        assert places[f"remote_lock{node}"] == (here, there, there)
    assert places["remote_kicker0"] == ("node:1", "node:1", "node:0")
    assert len(places) == 5
    assert set(scenario.measure.kinds) >= {"exits", "kick"}


def test_kick_latency_covers_every_state_and_transport_in_ten_minutes() -> None:
    scenario = load(SHIPPED["kick_latency"])
    assert scenario.kick is not None
    assert scenario.kick.states == USUAL_STATES
    assert set(scenario.measure.transports) == set(TRANSPORTS)
    assert scenario.kick.kickers == (1, 2)
    assert sum(case.max_seconds for case in expand(scenario)) < 500


def test_moments_covers_every_state_and_the_documents_describe_each() -> None:
    scenario = load(SHIPPED["moments"])
    assert scenario.kick is not None
    assert scenario.kick.states == tuple(STATES)
    for page in ("scenarios.md", "method.md"):
        text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
        assert [state for state in STATES if f"\n| {state} | " not in text] == []


def test_pause_all_reaches_256_vcpus() -> None:
    scenario = load(SHIPPED["pause_all"])
    assert scenario.measure.kinds == ("pause_all",)
    assert scenario.vm.vcpus == (1, 4, 16, 64, 256)


def test_the_race_is_of_every_method_that_signals_and_a_million_kicks() -> None:
    scenario = load(SHIPPED["race"])
    signalling = {
        method.id
        for method in CATALOGUE.values()
        if method.kicks_by_signal and method.control_of is None
    }
    assert set(scenario.measure.methods) == signalling
    assert {case.window_ns for case in expand(scenario)} == {0.0, 50_000.0}
    assert {case.kicks for case in expand(scenario)} == {1_000_000}


def test_cacheline_handover_is_one_case_of_all_cpus() -> None:
    (case,) = expand(load(SHIPPED["cacheline_handover"]))
    assert (case.kind, case.methods, case.baseline) == ("handover", tuple(WAYS), "handover")
    assert (case.id, case.placement.vcpus) == ("handover-all", "any")


def test_siglock_prediction_measures_what_a_prediction_takes() -> None:
    cases = expand(load(SHIPPED["siglock_prediction"]))
    exits = [case for case in cases if case.kind == "exits"]
    assert {case.kind for case in cases} == {"exits", "handover"}
    assert {1, 2} <= {case.vcpus for case in exits}
    (control,) = [method for method in CATALOGUE.values() if method.lock]
    assert all({control.id, control.control_of} <= set(case.methods) for case in exits)
    assert any(case.placement.vcpus == "any" for case in cases if case.kind == "handover")


def test_nested_immediate_exit_is_one_case_of_every_way_in_which_l1_enters_l2() -> None:
    (case,) = expand(load(SHIPPED["nested_immediate_exit"]))
    assert (case.kind, case.methods, case.baseline) == ("nested", tuple(ITERATIONS), "plain")
    assert (case.vcpus, case.irqchip) == (1, "kernel")


def test_every_program_of_exit_throughput_exits() -> None:
    scenario = load(SHIPPED["exit_throughput"])
    exiting = {name for name, one in PROGRAMS.items() if one.exits in ("pio", "mmio", "hlt")}
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
    assert first.endswith(f"no such file, and no shipped scenario has this name{hint}")
    assert second == f"shipped: {', '.join(SHIPPED)}"


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
    validator().validate(load(SHIPPED[name]).to_dict())


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
        {"measure": {"methods": ["./My.c"]}},
        {"measure": {"methods": ["./my-protocol.c"]}},
        {"measure": {"methods": ["./my.h"]}},
        {"measure": {"methods": ["/a\nb/my.c"]}},
        {"measure": {"kinds": "kick", "transports": "tkill"}},
        {"guest": {"program": "hlt", "kick_rate_hz": -1}},
        {"guest": {"program": "hlt", "kick_rate_hz": 1e-9}},
        {"kick": 1, "measure": {"kinds": ["kick"]}},
        {"kick": {"states": ["halt"]}, "measure": {"kinds": ["kick"]}},
        {"kick": {"states": []}, "measure": {"kinds": ["kick"]}},
        {"kick": {"kickers": 0}, "measure": {"kinds": ["kick"]}},
        {"kick": {"kickers": [1, 32]}, "measure": {"kinds": ["kick"]}},
        {"kick": {"vcpus": [0]}, "measure": {"kinds": ["kick"]}},
        {"race": {"window_ns": -1}, "measure": {"kinds": ["race"]}},
        {"race": {"window_ns": [0, 0.5]}, "measure": {"kinds": ["race"]}},
        {"race": {"kicks": 0}, "measure": {"kinds": ["race"]}},
        {"race": {"nope": 0}, "measure": {"kinds": ["race"]}},
        {"nested": {"iterations": 0}, "measure": {"kinds": ["nested"]}},
        {"nested": {"iterations": 100_001}, "measure": {"kinds": ["nested"]}},
        {"nested": {"methods": ["plain"]}, "measure": {"kinds": ["nested"]}},
    ],
)
def test_the_schema_and_the_model_refuse_the_same(change: dict[str, Any]) -> None:
    good = {"name": "x", "vm": {"vcpus": 1}, "guest": {"program": "hlt"}}
    validator().validate(good)
    assert not validator().is_valid({**good, **change})
    with pytest.raises(ScenarioError):
        model.Scenario.from_dict({**good, **change})


def test_the_schema_accepts_what_the_model_accepts_of_kicks() -> None:
    data = {
        "name": "x",
        "vm": {"vcpus": 1},
        "guest": {"program": "hlt", "kick_rate_hz": [0, 0.5]},
        "measure": {
            "kinds": ["exits", "kick", "race"],
            "methods": ["sigmask", "/a/b_1.c"],
            "baseline": "/a/b_1.c",
            "transports": "pidfd",
        },
        "kick": {"states": "guest", "kickers": [1, 31], "vcpus": 2},
        "race": {"window_ns": 0, "kicks": 1, "vcpus": [1, 2]},
    }
    validator().validate(data)
    validator().validate(model.Scenario.from_dict(data).to_dict())
    data["measure"]["methods"] = ["sigmask", "./b_1.c", "b_2.c", "../x/b_3.c"]  # type: ignore[index]
    validator().validate(data)


def test_every_key_has_a_description() -> None:
    tables = [SCHEMA, *SCHEMA["$defs"].values()]
    for table in tables:
        for key, field in table["properties"].items():
            assert field.get("description"), f"{table['title']}: {key}"


def test_the_reference_names_every_key() -> None:
    reference = Path(__file__).parents[1] / "docs" / "scenarios.md"
    named = set(re.findall(r"^\| `([a-z_]+)` \|", reference.read_text(), re.M))
    tables = (
        model.Scenario,
        model.Vm,
        model.Guest,
        model.Mix,
        model.Placement,
        model.Measure,
        model.Kick,
        model.Race,
        model.Nested,
        model.Noise,
        model.PauseAll,
        model.Lifecycle,
    )
    scalars = {key for table in tables for key in table.model_fields} - {
        "vm",
        "guest",
        "placement",
        "measure",
        "kick",
        "race",
        "nested",
        "noise",
        "pause_all",
        "lifecycle",
    }
    # "vcpus" is a key of four tables.
    assert named == scalars
