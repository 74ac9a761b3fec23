# SPDX-License-Identifier: Apache-2.0
"""A scenario expands to cases that are complete, ordered, uniquely named and plain JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kickbench.errors import EXIT_USAGE, ScenarioError
from kickbench.guest.programs import PROGRAMS
from kickbench.scenario.cases import Case, PlacementSpec, expand
from kickbench.scenario.model import Scenario

# A busy machine is no failure: nothing here depends on how long an example takes.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

RATES = st.just("max") | st.integers(1, 10**9).map(float) | st.floats(0.001, 1e9)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
PACED = sorted(program.name for program in PROGRAMS.values() if program.paced)


def axis(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=4, unique=True)


SCENARIOS = st.builds(
    lambda vcpus, programs, rates, names: Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": vcpus},
            "guest": {"program": programs, "exit_rate_hz": rates},
            "placement": [{"name": name} for name in names],
        }
    ),
    axis(st.integers(1, 1024)),
    axis(st.sampled_from(PACED)),
    axis(RATES),
    axis(NAMES),
)

SWEEP = Scenario.from_dict(
    {
        "name": "sweep",
        "vm": {"vcpus": [1, 2], "irqchip": "split"},
        "guest": {"program": "pm_timer", "exit_rate_hz": ["max", 0.5], "arrival": "poisson"},
        "placement": [
            {"name": "local", "creator": "node:0", "vcpus": "node:0", "kicker": "cpu:0"},
            {"name": "remote", "creator": "node:0", "vcpus": "node:1", "kicker": "any"},
        ],
        "measure": {
            "methods": ["flag_signal", "sigmask"],
            "baseline": "sigmask",
            "processes": 2,
            "precision": 0.01,
            "max_seconds": 5,
            "seed": 7,
            "block_ms": 2.5,
            "sample_budget": 10,
        },
    }
)


def test_the_sweep_nests_placement_then_rate_then_vcpus() -> None:
    assert [case.id for case in expand(SWEEP)] == [
        "exits-pm_timer-1vcpu-max-local",
        "exits-pm_timer-2vcpu-max-local",
        "exits-pm_timer-1vcpu-0.5hz-local",
        "exits-pm_timer-2vcpu-0.5hz-local",
        "exits-pm_timer-1vcpu-max-remote",
        "exits-pm_timer-2vcpu-max-remote",
        "exits-pm_timer-1vcpu-0.5hz-remote",
        "exits-pm_timer-2vcpu-0.5hz-remote",
    ]


def test_a_case_carries_everything_that_the_worker_needs() -> None:
    assert expand(SWEEP)[-1] == Case(
        id="exits-pm_timer-2vcpu-0.5hz-remote",
        kind="exits",
        program="pm_timer",
        irqchip="split",
        vcpus=2,
        exit_rate_hz=0.5,
        arrival="poisson",
        placement=PlacementSpec("remote", "node:0", "node:1", "any"),
        methods=("flag_signal", "sigmask"),
        baseline="sigmask",
        processes=2,
        precision=0.01,
        max_seconds=5.0,
        block_ms=2.5,
        sample_budget=10,
        seed=7,
    )


def test_full_speed_is_none() -> None:
    assert [case.exit_rate_hz for case in expand(SWEEP)][:4] == [None, None, 0.5, 0.5]


@RELAXED
@given(SCENARIOS)
def test_there_is_a_case_for_every_point_of_the_sweep(scenario: Scenario) -> None:
    cases = expand(scenario)
    points = {(c.program, c.placement.name, c.exit_rate_hz, c.vcpus) for c in cases}
    assert len(cases) == len(points) == scenario.case_count
    assert scenario.case_count == (
        len(scenario.vm.vcpus)
        * len(scenario.guest.program)
        * len(scenario.guest.exit_rate_hz)
        * len(scenario.placement)
        * len(scenario.measure.kinds)
    )


@RELAXED
@given(SCENARIOS)
def test_ids_are_unique_stable_and_safe_as_file_names(scenario: Scenario) -> None:
    ids = [case.id for case in expand(scenario)]
    assert len(set(ids)) == len(ids)
    assert ids == [case.id for case in expand(scenario)]
    for name in ids:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)
        assert len(f".{name}.tmp-0123456789abcdef") <= 255


@RELAXED
@given(SCENARIOS)
def test_a_case_survives_json(scenario: Scenario) -> None:
    for case in expand(scenario):
        assert Case.from_json(case.to_json()) == case
        assert Case.from_dict(json.loads(case.to_json())) == case


def test_a_case_of_the_resolved_scenario_is_the_same_case() -> None:
    assert expand(Scenario.from_dict(SWEEP.to_dict())) == expand(SWEEP)


GOOD = expand(SWEEP)[0].to_dict()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "../../etc"}, "case.id: expected a safe file name"),
        ({"id": ".hidden"}, "case.id: expected a safe file name"),
        ({"id": "a\n"}, "case.id: expected a safe file name"),
        ({"id": 3}, "case.id: expected str"),
        ({"vcpus": True}, "case.vcpus: expected int"),
        ({"vcpus": 1.0}, "case.vcpus: expected int"),
        ({"precision": float("nan")}, "case.precision: expected float"),
        ({"exit_rate_hz": "max"}, "case.exit_rate_hz: expected float | None"),
        ({"methods": "sigmask"}, "case.methods: expected tuple[str, ...]"),
        ({"methods": [1]}, "case.methods: expected tuple[str, ...]"),
        ({"placement": "local"}, "case.placement: expected PlacementSpec"),
        ({"placement": {"name": "local"}}, "case.placement: expected the keys name, creator"),
        ({"extra": 1}, "case: expected the keys id, kind"),
    ],
)
def test_a_tampered_case_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        Case.from_dict({**GOOD, **change})
    assert str(caught.value).startswith(expected)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, b"\xff"])
def test_text_that_is_no_case_is_refused(text: str | bytes) -> None:
    with pytest.raises(ScenarioError, match=r"^case: expected"):
        Case.from_json(text)


@RELAXED
@given(
    st.sampled_from([field.name for field in dataclasses.fields(Case)]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_any_change_of_a_case_is_a_case_or_a_scenario_error(key: str, value: object) -> None:
    try:
        case = Case.from_dict({**GOOD, key: value})
    except ScenarioError:
        return
    assert case.to_dict() == {**GOOD, key: value}


def test_the_worker_can_import_cases_without_pydantic() -> None:
    check = "import sys, kickbench.scenario.cases; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
