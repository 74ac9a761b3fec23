# SPDX-License-Identifier: Apache-2.0
"""Figures of the report on a user's axes, which keep the user's look."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import synthetic_observed
import synthetic_run
from matplotlib.figure import Figure

import kickbench
from kickbench.errors import UsageError
from kickbench.report.figures import prediction as predictions
from kickbench.report.figures.comparison import draw_differences
from kickbench.report.figures.table import FIGURES

OTHER_NAMES = {
    "exit-rates": ("cost_by_exit_rate", "time_by_exit_rate"),
    "kick-rates": ("time_by_kick_rate",),
    "observed-kicks": ("observed_kicks", "observed_pauses"),
    "pause-all": ("pauses",),
}
"""By figure of the report, its functions, if they have other names than the figure."""


METHODS = ("sigmask", "sigmask_same", "immediate_exit")
PARTS = ("sigmask", "sigmask_same", "siglock")
"""What has a cost: the methods, and the part that their difference isolates."""


def functions_of(figure: str) -> tuple[str, ...]:
    return OTHER_NAMES.get(figure, (figure.replace("-", "_"),))


def takes(name: str, parameter: str) -> bool:
    return parameter in inspect.signature(draw(name)).parameters


def draw(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(kickbench.plot, name)
    return found


NAMES = [name for figure in FIGURES for name in functions_of(figure.name)]
SCALED = [name for name in NAMES if takes(name, "scale")]
BY_METHOD = [name for name in NAMES if takes(name, "method")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> kickbench.Run:
    """A run of all kinds."""
    cases = [
        *(
            synthetic_run.case(n, placement=p, methods=METHODS)
            for p in synthetic_run.PLACEMENTS
            for n in (1, 2)
        ),
        synthetic_run.case(2, rate=1000.0),
        synthetic_run.case(2, id="exits-kicked", kick_rate_hz=1000.0),
        synthetic_run.kick_case(),
        synthetic_run.kick_case(vcpus=4),
        synthetic_run.kick_case(id="kick-contended", kickers=2),
        *(synthetic_run.pause_case(n) for n in (2, 4)),
        synthetic_run.race_case(),
        synthetic_run.lifecycle_case(),
        synthetic_run.handover_case(processes=2),
        synthetic_run.nested_case(),
    ]
    folder = tmp_path_factory.mktemp("runs")
    return kickbench.read(
        synthetic_run.build(
            folder, cases=cases, rounds=12, paced=True, handover={"cpus": 4, "nodes": 2}
        )
    )


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> kickbench.Run:
    return kickbench.read(synthetic_observed.build(tmp_path_factory.mktemp("observed")))


@pytest.fixture
def having(name: str, run: kickbench.Run, observed: kickbench.Run) -> kickbench.Run:
    """A run that has the figure."""
    return observed if name.startswith("observed") else run


@pytest.fixture
def lacking(name: str, run: kickbench.Run, observed: kickbench.Run) -> kickbench.Run:
    """A run that does not have the figure."""
    return run if name.startswith("observed") else observed


@pytest.fixture(autouse=True)
def few_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many vCPUs take long to simulate."""
    monkeypatch.setattr(predictions, "VCPUS", (1, 2, 4))


@pytest.fixture
def axes() -> Any:
    return Figure().add_subplot()


def test_every_figure_of_the_report_is_here() -> None:
    assert sorted([*NAMES, "comparison"]) == kickbench.plot.__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_on_the_axes_that_it_gets(
    name: str, having: kickbench.Run, axes: Any
) -> None:
    before = tuple(axes.figure.get_size_inches())
    assert draw(name)(having, ax=axes) is axes
    assert axes.has_data()
    assert axes.get_xlabel()
    assert axes.get_title(loc="left")
    assert tuple(axes.figure.get_size_inches()) == before
    assert not axes.figure.legends


@pytest.mark.parametrize("name", [figure.name for figure in FIGURES])
def test_the_plots_of_the_report_are_those_of_the_cases(name: str, having: kickbench.Run) -> None:
    (draw_all,) = [figure.draw for figure in FIGURES if figure.name == name]
    plots = {
        axes.get_title(loc="left"): axes
        for function in functions_of(name)
        for case in having.cases
        for choice in ([{"method": one} for one in PARTS] if function in BY_METHOD else [{}])
        if (axes := drawn(function, having, case, **choice)) is not None
    }
    for plot in draw_all(having._data):
        (wanted,) = plot.canvas.axes
        assert looks(plots[wanted.get_title(loc="left")]) == looks(wanted)


def drawn(name: str, run: kickbench.Run, case: str, **choice: str) -> Any:
    """The axes with the plot of a case, or None if the figure has none."""
    try:
        return draw(name)(run, case, Figure().add_subplot(), **choice)
    except UsageError as error:
        assert f"the case {case} has no" in str(error)  # noqa: PT017 (both are right)
        return None


def corners(patch: Any) -> Any:
    return patch.get_patch_transform().transform_path(patch.get_path()).vertices.tolist()


def looks(axes: Any) -> list[Any]:
    """What is drawn, and where. How large the figure is makes no difference."""
    return [
        *(axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()),
        [f"{end:.6g}" for end in (*axes.get_xlim(), *axes.get_ylim())],
        [(line.get_color(), repr(line.get_xydata().tolist())) for line in axes.lines],
        [
            (
                patch.get_facecolor(),
                patch.get_patch_transform().transform_path(patch.get_path()).vertices.tolist(),
            )
            for patch in axes.patches
        ],
        [(text.get_text(), text.get_position()) for text in axes.texts],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_without_axes_there_is_a_new_figure_of_pyplot(name: str, having: kickbench.Run) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    ax = draw(name)(having)
    assert plt.gcf() is ax.figure
    plt.close(ax.figure)


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_can_be_chosen(name: str, having: kickbench.Run) -> None:
    scales = []
    for scale in ("logarithmic", "linear"):
        axes = draw(name)(having, ax=Figure().add_subplot(), scale=scale)
        scales.append([axes.get_xscale(), axes.get_yscale()].count("log"))
    assert scales[0] > scales[1]


@pytest.mark.parametrize("scale", ["log", "cubic", "", None, 5, math.nan, ["linear"]])
@pytest.mark.parametrize("name", SCALED)
def test_another_scale_is_an_error(
    name: str, scale: object, having: kickbench.Run, axes: Any
) -> None:
    with pytest.raises(UsageError, match="logarithmic or linear") as error:
        draw(name)(having, ax=axes, scale=scale)
    assert "\n" not in str(error.value)
    assert not axes.has_data()


def test_a_case_chooses_its_plot(run: kickbench.Run, axes: Any) -> None:
    two, four = (f"kick-guest-{n}vcpu-local" for n in (2, 4))
    titles = []
    for case in (two, four):
        kickbench.plot.kick_latency(run, case, axes)
        titles.append(axes.get_title(loc="left"))
    assert ["2 vCPUs" in titles[0], "4 vCPUs" in titles[1]] == [True, True]
    kickbench.plot.ecdf(run, "exits-pm_timer-2vcpu-max-remote_siglock", axes)
    assert "remote_siglock" in axes.get_title(loc="left")


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_drawn_is_an_error(
    name: str, having: kickbench.Run, lacking: kickbench.Run, axes: Any
) -> None:
    with pytest.raises(UsageError, match="the run has no case nothing"):
        draw(name)(having, "nothing", axes)
    with pytest.raises(UsageError, match="the run has no "):
        draw(name)(lacking, ax=axes)
    first = next(iter(lacking.cases))
    with pytest.raises(UsageError, match=f"the case {first} has no "):
        draw(name)(lacking, first, axes)
    assert not axes.has_data()
    assert not axes.get_title(loc="left")


@pytest.mark.parametrize("name", BY_METHOD)
def test_a_method_chooses_its_plot(name: str, run: kickbench.Run, axes: Any) -> None:
    draw(name)(run, ax=axes, method="sigmask_same")
    assert "sigmask_same" in axes.get_title(loc="left")
    with pytest.raises(UsageError, match=r"the run has no .* of nothing"):
        draw(name)(run, ax=axes, method="nothing")


@pytest.mark.parametrize("paired", [False, True])
def test_a_comparison_is_drawn_as_on_its_page(paired: bool, run: kickbench.Run, axes: Any) -> None:
    comparison = kickbench.compare(run, run)
    plots = {}
    for case in run.cases:
        try:
            ax = kickbench.plot.comparison(comparison, case, Figure().add_subplot(), paired=paired)
        except UsageError as error:
            assert f"the case {case} has no" in str(error)  # noqa: PT017 (both are right)
        else:
            plots[ax.get_title(loc="left")] = looks(ax)
    wanted = {
        plot.canvas.axes[0].get_title(loc="left"): looks(plot.canvas.axes[0])
        for plot in draw_differences(comparison)
        if paired == plot.title.endswith("method - baseline")
    }
    assert plots == wanted != {}
    assert kickbench.plot.comparison(comparison, ax=axes, paired=paired) is axes
    assert axes.get_title(loc="left") == next(iter(wanted))
    with pytest.raises(UsageError, match="the comparison has no case nothing"):
        kickbench.plot.comparison(comparison, "nothing")


def test_a_comparison_without_differences_is_an_error(observed: kickbench.Run) -> None:
    comparison = kickbench.compare(observed, observed)
    with pytest.raises(UsageError, match="the comparison has no paired differences"):
        kickbench.plot.comparison(comparison, paired=True)


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
