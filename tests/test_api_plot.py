# SPDX-License-Identifier: Apache-2.0
"""Figures of the report on a user's axes, which keep the user's look."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import synthetic_run
from matplotlib.figure import Figure

import kickbench
from kickbench.errors import UsageError

NAMES = (
    *("cost", "ecdf", "kick_latency", "pauses", "percentiles"),
    *("race", "shift", "throughput", "throughput_per_vcpu"),
)
SCALED = ("ecdf", "pauses", "percentiles", "throughput")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> kickbench.Run:
    cases = [
        *(synthetic_run.case(n, placement=p) for p in synthetic_run.PLACEMENTS for n in (1, 2)),
        synthetic_run.kick_case(),
        synthetic_run.kick_case(vcpus=4),
        *(synthetic_run.pause_case(n) for n in (2, 4)),
        synthetic_run.race_case(),
    ]
    folder = tmp_path_factory.mktemp("runs")
    return kickbench.read(synthetic_run.build(folder, cases=cases, rounds=12))


@pytest.fixture
def axes() -> Any:
    return Figure().add_subplot()


def draw(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(kickbench.plot, name)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_on_the_axes_that_it_gets(name: str, run: kickbench.Run, axes: Any) -> None:
    before = tuple(axes.figure.get_size_inches())
    assert draw(name)(run, ax=axes) is axes
    assert axes.has_data()
    assert axes.get_xlabel()
    assert axes.get_title(loc="left")
    names = {text.get_text() for text in axes.get_legend().get_texts()}
    assert any(one.startswith(("sigmask", "local")) for one in names)
    assert tuple(axes.figure.get_size_inches()) == before
    assert not axes.figure.legends


@pytest.mark.parametrize("name", NAMES)
def test_without_axes_there_is_a_new_figure_of_pyplot(name: str, run: kickbench.Run) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    ax = draw(name)(run)
    assert plt.gcf() is ax.figure
    plt.close(ax.figure)


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_can_be_chosen(name: str, run: kickbench.Run, axes: Any) -> None:
    draw(name)(run, ax=axes, scale="linear")
    assert {axes.get_xscale(), axes.get_yscale()} == {"linear"}


@pytest.mark.parametrize("scale", ["log", "cubic", "", None, 5, math.nan, ["linear"]])
@pytest.mark.parametrize("name", [*SCALED, "throughput_per_vcpu"])
def test_another_scale_is_an_error(name: str, scale: object, run: kickbench.Run, axes: Any) -> None:
    with pytest.raises(UsageError, match="logarithmic or linear") as error:
        draw(name)(run, ax=axes, scale=scale)
    assert "\n" not in str(error.value)
    assert not axes.has_data()


def test_a_case_chooses_its_plot(run: kickbench.Run, axes: Any) -> None:
    two, four = (case for case in run.cases if case.startswith("kick"))
    titles = []
    for case in (two, four):
        kickbench.plot.kick_latency(run, case, axes)
        titles.append(axes.get_title(loc="left"))
    assert ["2 vCPUs" in titles[0], "4 vCPUs" in titles[1]] == [True, True]
    kickbench.plot.ecdf(run, "exits-pm_timer-2vcpu-max-remote_siglock", axes)
    assert "remote_siglock" in axes.get_title(loc="left")


def test_what_cannot_be_drawn_is_an_error(run: kickbench.Run, axes: Any, tmp_path: Path) -> None:
    first = next(iter(run.cases))
    with pytest.raises(UsageError, match=f"case {first} has no kick latency"):
        kickbench.plot.kick_latency(run, first, axes)
    with pytest.raises(UsageError, match="the run has no case nothing"):
        kickbench.plot.cost(run, "nothing", axes)
    kicks = kickbench.read(synthetic_run.build(tmp_path, cases=[synthetic_run.kick_case()]))
    with pytest.raises(UsageError, match="the run has no costs of exits"):
        kickbench.plot.cost(kicks, ax=axes)


def test_emulated_times_are_called_that(tmp_path: Path, axes: Any) -> None:
    folder = synthetic_run.build(
        tmp_path, cases=[synthetic_run.case(2)], rounds=8, emulated=True, count_step=1
    )
    kickbench.plot.ecdf(kickbench.read(folder), ax=axes)
    assert axes.get_title(loc="left").startswith("Emulated")
    assert "emulated ns" in axes.get_xlabel()


def test_the_settings_of_matplotlib_stay_the_users() -> None:
    """Pages are drawn with matplotlib's own settings. This needs a fresh process."""
    code = (
        "import matplotlib as mpl\n"
        "mpl.rcParams['axes.facecolor'] = 'pink'\n"
        "import kickbench\n"
        "kickbench.plot.cost\n"
        "print(mpl.rcParams['axes.facecolor'])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "pink\n"
