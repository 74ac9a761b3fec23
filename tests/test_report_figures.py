# SPDX-License-Identifier: Apache-2.0
"""The figures: what they draw is what was measured, and can be seen by everybody, everywhere."""

from __future__ import annotations

import copy
import itertools
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.report.figures import plots
from kickbench.report.figures.plots import (
    MOST_PLOTS,
    OTHER_STYLES,
    STYLES,
    WAY_STYLES,
    Plot,
    draw_each,
)
from kickbench.report.figures.rounds import MOST_DOTS, MOST_POINTS, _grouped
from kickbench.report.figures.svg import PNG_DPI, inline, png, standalone
from kickbench.report.figures.table import FIGURES
from kickbench.summary.data import RunData
from kickbench.summary.exits import DISTURBANCES, read_disturbances, read_pairs, read_rounds

BLUEPRINT = (
    "flag_signal",
    "sigmask",
    "immediate_exit",
    "immediate_exit_remote",
    "user_exit",
    "exitfd",
)


def far_costs_more(parameters: Mapping[str, Any]) -> float:
    where = parameters["placement"]
    return synthetic_run.siglock_ns(parameters) * (1 + (where["creator"] != where["vcpus"]))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """Three of the four pairs of two nodes, with much noise and disturbances."""
    places = synthetic_run.node_placements()[:3]
    cases = [synthetic_run.case(n, placement=p) for p in places[:2] for n in (2, 8)]
    cases.append(synthetic_run.case(8, placement=places[2]))
    run = synthetic_run.build(
        tmp_path_factory.mktemp("nodes"),
        cases=cases,
        shift_ns=far_costs_more,
        block_noise=0.02,
        disturbed=0.01,
    )
    return RunData.load(run)


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    cases = synthetic_run.rate_sweep()
    return RunData.load(
        synthetic_run.build(tmp_path_factory.mktemp("rates"), cases=cases, paced=True)
    )


@pytest.fixture(scope="module")
def kicked(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    methods = ["flag_signal", "sigmask", "immediate_exit"]
    cases = [synthetic_run.race_case(w, methods=methods) for w in (0.0, 50_000.0)]
    cases += [synthetic_run.pause_case(n) for n in (2, 16)]
    cases.append(synthetic_run.kick_case())
    return RunData.load(
        synthetic_run.build(tmp_path_factory.mktemp("kicked"), cases=cases, shift_ns=900.0)
    )


def drawn(data: RunData, name: str) -> list[Plot]:
    (figure,) = [figure for figure in FIGURES if figure.name == name]
    return figure.draw(data)


def changed(data: RunData, change: Any) -> RunData:
    """The run as if its summary had said something else."""
    summary = copy.deepcopy(data.summary)
    for case in summary["cases"]:
        change(case)
    return replace(data, summary=summary)


def strokes(axes: Any) -> list[NDArray[np.float64]]:
    """What is drawn as many lines in one path: their begins, by path."""
    found = [patch.get_path().vertices for patch in axes.patches if not patch.get_fill()]
    return [np.asarray(vertices)[::2] for vertices in found]


def texts(plot: Plot) -> list[str]:
    return [text.get_text() for text in plot.canvas.axes[0].texts]


# --- colours -----------------------------------------------------------------------------------

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, IEEE TVCG 15 (2009): severity 1, of linear RGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour: str) -> NDArray[np.float64]:
    """An sRGB colour, "#rrggbb", as linear light."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2: 1 (the same) to 21 (black and white)."""
    low, high = sorted(float(linear(colour) @ TO_XYZ[1]) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear sRGB light, for its own white."""
    xyz = np.clip(light, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_is_that_of_the_guideline() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("page", ["#ffffff", "#f6f7f9", "#1c2127"])
def test_every_colour_stands_out_from_the_page(page: str) -> None:
    for colour, _ in (*STYLES.values(), *OTHER_STYLES, plots.PART_STYLE, (plots.BAND, "")):
        assert contrast(colour, page) >= 3, colour


@pytest.mark.parametrize(
    "drawn_together",
    [BLUEPRINT, tuple(WAY_STYLES), ("sigmask", "sigmask_same", "immediate_exit")],
)
@pytest.mark.parametrize("eyes", EYES)
def test_methods_differ_in_colour_for_every_kind_of_eyes(
    eyes: str, drawn_together: tuple[str, ...]
) -> None:
    seen = {method: lab(EYES[eyes] @ linear(STYLES[method][0])) for method in drawn_together}
    for first, second in itertools.combinations(drawn_together, 2):
        # 2.3 is what can just be told apart side by side.
        assert np.linalg.norm(seen[first] - seen[second]) > 15, (first, second)


@pytest.mark.parametrize("eyes", EYES)
def test_siglock_has_a_colour_and_a_marker_apart_from_the_methods_beside_it(eyes: str) -> None:
    colour, marker = plots.PART_STYLE
    mine = lab(EYES[eyes] @ linear(colour))
    for method in ("sigmask", "sigmask_same", "immediate_exit"):
        assert np.linalg.norm(mine - lab(EYES[eyes] @ linear(STYLES[method][0]))) > 15, method
    assert marker not in {shape for _, shape in (*plots.METHOD_STYLES.values(), *OTHER_STYLES)}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """Two placements on two nodes, 1 and 4 vCPUs, two rates: sigmask and what of it is siglock."""
    three = ("sigmask", "sigmask_same", "immediate_exit")
    cases = [
        synthetic_run.case(n, placement=place, rate=rate, methods=three)
        for place in synthetic_run.PLACEMENTS
        for rate in (20000.0, None)
        for n in (1, 4)
    ]
    folder = tmp_path_factory.mktemp("split")
    return RunData.load(synthetic_run.build(folder, cases=cases, rounds=10, paced=True))


@pytest.mark.parametrize("name", ["cost", "exit-rates", "nodes"])
def test_figures_of_cost_draw_the_protocols_and_what_of_it_is_siglock(
    split: RunData, name: str
) -> None:
    """Both by name: in the legend, or as a map of its own; and in the words of the plot."""
    part = "siglock: sigmask - sigmask_same"
    shown = drawn(split, name)
    if name == "nodes":
        titles = "\n".join(plot.title for plot in shown)
        assert f"{part} [ns per quiet exit]" in titles
        assert "sigmask - immediate_exit [ns per quiet exit]" in titles
        return
    plot = shown[0]
    names = [text.get_text() for text in plot.canvas.legends[0].get_texts()]
    assert any(part in " ".join(one.split()) for one in names)
    assert any(one.startswith("sigmask") for one in names)
    assert {line.get_color() for line in plot.canvas.axes[0].lines} >= {
        plots.PART_STYLE[0],
        STYLES["sigmask"][0],
    }
    assert "than sigmask_same" in plot.finding
    assert "than immediate_exit" in plot.finding


def test_methods_differ_in_their_markers_too() -> None:
    markers = [marker for _, marker in (*STYLES.values(), *OTHER_STYLES)]
    assert len(markers) == len(set(markers))


# --- scales and files --------------------------------------------------------------------------

SCALED = ("throughput", "throughput-per-vcpu", "ecdf", "percentiles")


@pytest.mark.parametrize("name", SCALED)
def test_a_plot_on_two_scales_draws_the_same_on_both(nodes: RunData, name: str) -> None:
    shown = drawn(nodes, name)
    assert inline(shown[0], "x") != inline(shown[0], "x", alternative=True)
    for plot in shown:
        assert plot.alternative is not None
        assert plot.scales is not None
        assert sorted(plot.scales) == ["linear", "logarithmic"]
        (main,), (other,) = plot.canvas.axes, plot.alternative.axes
        logs = [[axes.get_xscale(), axes.get_yscale()].count("log") for axes in (main, other)]
        assert (logs[0] > logs[1]) == (plot.scales[0] == "logarithmic")
        first, second = ([line.get_xydata().tolist() for line in a.lines] for a in (main, other))
        assert first == second


def test_pauses_and_paced_exits_have_both_scales(kicked: RunData, paced: RunData) -> None:
    assert [plot.scales for plot in drawn(kicked, "pause-all")] == [("logarithmic", "linear")]
    assert [p.scales for p in drawn(paced, "exit-rates")] == [None, ("linear", "logarithmic")]


def test_a_plot_of_one_scale_has_no_other(nodes: RunData) -> None:
    (plot,) = drawn(nodes, "cost")
    with pytest.raises(ValueError, match="one scale only"):
        inline(plot, "x", alternative=True)


def test_files_are_on_white_and_the_page_is_not(nodes: RunData) -> None:
    plot = drawn(nodes, "throughput")[0]
    file = standalone(plot, "x").decode()
    assert "fill: #ffffff" in file
    assert f"<title>{plot.title}</title>" in file
    assert "currentColor" not in file
    page = inline(plot, "x")
    assert "#ffffff" not in page
    assert plots.INK not in page


def test_a_png_is_opaque_large_and_the_same_every_time(nodes: RunData) -> None:
    import matplotlib.image  # here only: the product never reads an image

    first, second = (png(drawn(nodes, "throughput")[0]) for _ in range(2))
    assert first == second
    assert b"Software" not in first
    width, height = struct.unpack(">II", first[16:24])
    assert width == 880
    assert 660 < height < 800
    import io

    pixels = matplotlib.image.imread(io.BytesIO(first), format="png")
    assert (pixels[..., 3] == 1).all()
    assert (pixels[0, 0] == 1).all()
    assert png(drawn(nodes, "throughput")[0], alternative=True) != first


def test_numbers_in_a_page_are_short(nodes: RunData) -> None:
    for plot in drawn(nodes, "differences"):
        svg = inline(plot, "x")
        assert not re.search(r"[0-9]\.[0-9]{3}", re.sub(r"<(title|desc|text)[^>]*>[^<]*", "", svg))


def test_plots_that_are_too_many_are_counted(nodes: RunData) -> None:
    (plot,) = drawn(nodes, "cost")
    groups = list(range(MOST_PLOTS + 3))
    found = draw_each(groups, lambda _: plot)
    assert len(found) == MOST_PLOTS
    assert found[-1].finding == f"{plot.finding} 3 more plots like these are left out."
    assert found[0].finding == draw_each(groups[:1], lambda _: plot)[0].finding == plot.finding


# --- throughput --------------------------------------------------------------------------------


def test_throughput_per_vcpu_is_the_total_shared_out(nodes: RunData) -> None:
    for total, share in zip(
        drawn(nodes, "throughput"), drawn(nodes, "throughput-per-vcpu"), strict=True
    ):
        for one, part in zip(total.canvas.axes[0].lines, share.canvas.axes[0].lines, strict=True):
            x, y = np.array(one.get_xdata()), np.array(one.get_ydata())
            assert part.get_ydata() == pytest.approx(y / x)
        perfect = share.canvas.axes[0].lines[0].get_ydata()
        assert perfect[0] == perfect[-1] > 0


def test_levels_are_drawn_with_their_intervals(nodes: RunData) -> None:
    case = next(c for c in nodes.finished if c["vcpus"] == 8)
    ends = case["methods"]["sigmask"]["estimates"]["exits_per_second"]["ci95"]
    bars = [
        segment[:, 1]
        for plot in drawn(nodes, "throughput")
        for group in plot.canvas.axes[0].collections
        for segment in group.get_segments()
    ]
    assert any(bar == pytest.approx(ends) for bar in bars)


def disturb(case: dict[str, Any]) -> None:
    """As a loaded host does: the total of all blocks lies far outside of the interval."""
    for figures in case["methods"].values():
        figures["exits_per_second"] /= 2
        figures["ns_per_exit"]["mean"] *= 2


def middle_of_bars(axes: Any) -> list[tuple[float, float]]:
    """Where the intervals of a plot are: their lower and upper ends."""
    segments = [s for group in axes.collections for s in group.get_segments()]
    return [(s[0, 1], s[1, 1]) for s in segments]


@pytest.mark.parametrize("name", ["throughput", "throughput-per-vcpu"])
def test_marker_line_and_interval_of_a_rate_are_of_one_estimator(nodes: RunData, name: str) -> None:
    for plot, calm in zip(drawn(changed(nodes, disturb), name), drawn(nodes, name), strict=True):
        assert plot.finding == calm.finding
        (axes,) = plot.canvas.axes
        bars = middle_of_bars(axes)
        values = {float(v) for line in axes.lines[1:] for v in line.get_ydata() if v == v}
        for low, high in bars:
            assert any(low < value < high for value in values)
        lines = [line.get_ydata().tolist() for line in calm.canvas.axes[0].lines]
        assert [line.get_ydata().tolist() for line in axes.lines] == lines


def test_times_by_rate_are_of_one_estimator_too(paced: RunData) -> None:
    disturbed = drawn(changed(paced, disturb), "exit-rates")
    assert [plot.finding for plot in disturbed] == [p.finding for p in drawn(paced, "exit-rates")]


def test_a_summary_without_estimates_has_totals_without_intervals(nodes: RunData) -> None:
    def older(case: dict[str, Any]) -> None:
        for figures in case["methods"].values():
            del figures["estimates"]

    plot = drawn(changed(nodes, older), "throughput")[0]
    assert middle_of_bars(plot.canvas.axes[0]) == []
    case = next(c for c in nodes.finished if c["vcpus"] == 8)
    total = case["methods"]["sigmask"]["exits_per_second"]
    assert any(total in line.get_ydata() for line in plot.canvas.axes[0].lines)


@pytest.mark.parametrize("name", ["throughput", "throughput-per-vcpu"])
def test_no_interval_is_cut_off_silently(nodes: RunData, name: str) -> None:
    def widen(case: dict[str, Any]) -> None:
        for figures in case["methods"].values():
            found = figures["estimates"]["exits_per_second"]
            found["ci95"] = [-found["value"], 3 * found["value"]]

    for plot in drawn(changed(nodes, widen), name):
        for canvas in (plot.canvas, plot.on(alternative=True)):
            (axes,) = canvas.axes
            low, high = axes.get_ylim()
            bars = middle_of_bars(axes)
            assert bars
            assert max(end for _, end in bars) <= high
            arrows = [line for line in axes.lines if line.get_marker() == "v" and line.get_xdata()]
            assert len(arrows) == len(bars)
            assert {line.get_ydata()[0] for line in arrows} == {low}


def test_a_p99_interval_beyond_the_axis_ends_in_an_arrow(kicked: RunData) -> None:
    def widen(case: dict[str, Any]) -> None:
        if case["kind"] == "kick":
            for figures in case["methods"].values():
                p99 = figures["latency_ns"]["p99"]
                figures["latency_ci95"]["p99"] = [p99 / 2, p99 * 1e3]

    def arrows(data: RunData) -> int:
        (axes,) = drawn(data, "kick-latency")[0].canvas.axes
        return sum(line.get_marker() == ">" for line in axes.lines)

    assert arrows(changed(kicked, widen)) > arrows(kicked)


def test_an_estimate_of_differences_is_on_the_axis(nodes: RunData) -> None:
    def widen(case: dict[str, Any]) -> None:
        for contrast in case["contrasts"]:
            contrast["ci95"] = [contrast["diff"] - 5e3, contrast["diff"] + 5e3]

    low, high = drawn(changed(nodes, widen), "differences")[0].canvas.axes[0].get_ylim()
    assert high - low > 1e4


def test_a_legend_is_below_the_axes_and_within_the_drawing(nodes: RunData) -> None:
    long = "a_protocol_of_the_users_own_with_the_long_name_of_its_file_in_it"
    summary = copy.deepcopy(nodes.summary)
    for case in summary["cases"]:
        case["methods"][long] = case["methods"].pop("sigmask")
        for contrast in case["contrasts"]:
            contrast["method"] = long
    for name in ("cost", "throughput", "ecdf", "over-time"):
        for plot in drawn(nodes if name == "over-time" else replace(nodes, summary=summary), name):
            plot.canvas.set_dpi(PNG_DPI)
            plot.canvas.draw_without_rendering()  # lays it out as png() does
            (legend,) = plot.canvas.legends
            box = legend.get_window_extent()
            assert box.x0 >= 0, name
            assert box.x1 <= plot.canvas.bbox.x1, name
            assert box.y1 <= plot.canvas.axes[0].get_window_extent().y0, name


# --- rounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["quiet_ns_per_exit", "ns_per_exit"])
def test_differences_are_what_the_contrast_is_made_of(nodes: RunData, metric: str) -> None:
    for case in nodes.finished:
        found = read_pairs(nodes.reader, case["id"], metric)
        interval = found["sigmask"].contrast()
        assert interval is not None
        (contrast,) = [c for c in case["contrasts"] if c["metric"] == metric]
        assert interval.estimate == contrast["diff"]
        assert found["immediate_exit"].count == case["control"]["rounds"]


def test_a_plot_of_differences_has_every_round_the_processes_and_the_control(
    nodes: RunData,
) -> None:
    plot = drawn(nodes, "differences")[0]
    (axes,) = plot.canvas.axes
    found = read_pairs(nodes.reader, nodes.finished[1]["id"], "quiet_ns_per_exit")
    low, high = axes.get_ylim()
    every = strokes(axes)
    for method in ("sigmask", "immediate_exit"):
        values = np.concatenate(found[method].differences)
        inside = values[(values >= low) & (values <= high)]
        assert any(np.array_equal(part[:, 1], inside) for part in every)
        means = found[method].processes()
        assert any(part[:, 1].tolist() == means for part in every)
    assert "the A/A control, immediate_exit against itself, is at " in plot.finding
    assert "[each is a dot]" in axes.get_xlabel()


def test_without_a_control_there_is_no_second_side(nodes: RunData) -> None:
    without = changed(nodes, lambda case: case["control"].update(ci95=None, diff=None))
    plot = drawn(without, "differences")[0]
    assert "A/A" not in plot.finding
    assert "A/A control" not in inline(plot, "x")


def test_a_round_beyond_the_axis_is_marked_and_counted(nodes: RunData) -> None:
    plot = drawn(nodes, "differences")[0]
    (axes,) = plot.canvas.axes
    found = read_pairs(nodes.reader, nodes.finished[1]["id"], "quiet_ns_per_exit")
    both = [*found["sigmask"].differences, *found["immediate_exit"].differences]
    values = np.concatenate(both)
    low, high = axes.get_ylim()
    beyond = int(((values < low) | (values > high)).sum())
    at_edges = sum(len(part) for part in strokes(axes) if np.isin(part[:, 1], (low, high)).all())
    assert at_edges == beyond
    assert ("beyond the axis" in plot.finding) == (beyond > 0)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    cases = [synthetic_run.case(1, processes=2)]
    run = synthetic_run.build(tmp_path_factory.mktemp("long"), cases=cases, rounds=700, exits=20)
    return RunData.load(run)


def test_a_long_run_is_thinned_and_says_so(long: RunData) -> None:
    (over_time,), (differences,) = drawn(long, "over-time"), drawn(long, "differences")
    assert "A point is the median of 12 consecutive rounds" in over_time.finding
    points = [np.isfinite(line.get_ydata()).sum() for line in over_time.canvas.axes[0].lines]
    assert 0 < max(points) <= MOST_POINTS
    assert "[every 4th is a dot]" in differences.canvas.axes[0].get_xlabel()
    assert "from 1,400 rounds" in differences.finding
    assert max(map(len, strokes(differences.canvas.axes[0]))) <= MOST_DOTS
    for plot in (over_time, differences):
        assert len(inline(plot, "x")) < 60_000


def test_disturbed_rounds_are_marked_where_they_were(nodes: RunData) -> None:
    case = nodes.finished[1]
    plot = drawn(nodes, "over-time")[0]
    (axes,) = plot.canvas.axes
    found = read_disturbances(nodes.reader, case["id"])
    assert set(found) == set(DISTURBANCES)
    for name, total in found.items():
        of_methods = sum(m["disturbances"][name] for m in case["methods"].values())
        assert total.sum() >= of_methods > 0  # the control's blocks are in it as well
        where = np.flatnonzero(total) + 1.0
        assert any(np.array_equal(part[:, 0], where) for part in strokes(axes))
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert {"preempted", "waited", "moved", "stolen", "rescued"} <= set(labels)
    assert f"steal time in {np.count_nonzero(found['steal_ns'])}" in plot.finding


def test_an_undisturbed_run_says_that_too(long: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    none = {name: np.zeros(1400, np.int64) for name in DISTURBANCES}
    monkeypatch.setattr(
        "kickbench.report.figures.rounds.read_disturbances", lambda *_: none, raising=True
    )
    (plot,) = drawn(long, "over-time")
    assert "No round was disturbed." in plot.finding


def test_processes_are_apart(nodes: RunData) -> None:
    plot = drawn(nodes, "over-time")[0]
    assert texts(plot) == ["process 0", "1", "2"]
    rounds = read_rounds(nodes.reader, nodes.finished[1]["id"])
    boundaries = [
        line.get_xdata()[0] for line in plot.canvas.axes[0].lines if line.get_linestyle() == ":"
    ]
    assert boundaries == (np.flatnonzero(np.diff(rounds.process)) + 1.5).tolist()


def test_cases_without_tables_have_no_rounds(nodes: RunData) -> None:
    gone = replace(nodes, without_tables=frozenset(case["id"] for case in nodes.finished))
    assert drawn(gone, "over-time") == drawn(gone, "differences") == []
    assert drawn(gone, "cost")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 12), st.randoms())
def test_rounds_are_grouped_within_their_process(sizes: list[int], each: int, random: Any) -> None:
    process = np.repeat(np.arange(len(sizes)), sizes)
    values = np.array([[random.random()] for _ in process])
    lines = _grouped(process, values, each)
    assert sum(part.stop - part.start for part in lines.processes) == len(lines.at)
    for index, part in enumerate(lines.processes):
        mine = values[process == index, 0]
        chunks = [mine[i : i + each] for i in range(0, len(mine), each)]
        assert lines.median[part, 0].tolist() == [np.median(chunk) for chunk in chunks]
        assert lines.low[part, 0].tolist() == [chunk.min() for chunk in chunks]
        assert lines.high[part, 0].tolist() == [chunk.max() for chunk in chunks]
    assert (np.diff(lines.at) > 0).all()


# --- nodes -------------------------------------------------------------------------------------


def test_the_map_of_nodes_has_the_costs_of_the_summary(nodes: RunData) -> None:
    (plot,) = drawn(nodes, "nodes")
    shown = texts(plot)
    for case in (c for c in nodes.finished if c["vcpus"] == 8):
        contrast = case["contrasts"][0]
        assert any(text.replace(",", "") == f"{contrast['diff']:.1f}" for text in shown) or any(
            text.replace(",", "") == f"{contrast['diff']:.0f}" for text in shown
        )
    assert sum(" to " in text for text in shown) == 3
    assert "1 pair of nodes was not measured (hatched)" in plot.finding
    assert "8 vCPUs" in plot.title
    assert "creator on node 0 and the vCPUs on node 0. Most:" in plot.finding


def test_what_was_not_on_its_nodes_is_not_on_the_map(nodes: RunData) -> None:
    summary = copy.deepcopy(nodes.summary)
    for case in summary["cases"]:
        spec = case["placement_spec"]
        case["placed"] = (spec["creator"], spec["vcpus"]) != ("node:0", "node:1")
    (plot,) = drawn(replace(nodes, summary=summary), "nodes")
    assert sum(" to " in text for text in texts(plot)) == 2


def test_a_larger_cost_has_more_colour(nodes: RunData) -> None:
    (plot,) = drawn(nodes, "nodes")
    cells = {
        (patch.get_y() + 0.5, patch.get_x() + 0.5): patch.get_alpha()
        for patch in plot.canvas.axes[0].patches
        if patch.get_alpha() is not None
    }
    assert cells[(0, 0)] < cells[(0, 1)]
    assert set(cells) == {(0, 0), (0, 1), (1, 0)}


def test_one_pair_of_nodes_is_no_map(nodes: RunData) -> None:
    def local(case: dict[str, Any]) -> None:
        case["placement_spec"] = {**case["placement_spec"], "creator": "node:0", "vcpus": "node:0"}

    assert drawn(changed(nodes, local), "nodes") == []


@pytest.mark.parametrize("spec", [{}, {"creator": "any", "vcpus": "cpu:0-3"}, {"creator": 3}])
def test_other_placements_are_on_no_map(nodes: RunData, spec: dict[str, Any]) -> None:
    assert drawn(changed(nodes, lambda case: case.update(placement_spec=spec)), "nodes") == []


# --- rates -------------------------------------------------------------------------------------


def test_full_speed_is_the_last_of_the_rates(paced: RunData) -> None:
    costs, times = drawn(paced, "exit-rates")
    for plot in (costs, times):
        labels = [text.get_text() for text in plot.canvas.axes[0].get_xticklabels()]
        assert labels == ["1 k", "20 k", "max"]
    by_rate = sorted(paced.finished, key=lambda case: case["exit_rate_hz"] or np.inf)
    shifts = [case["contrasts"][0]["diff"] for case in by_rate]
    assert shifts in [list(line.get_ydata()) for line in costs.canvas.axes[0].lines]
    levels = [c["methods"]["sigmask"]["estimates"]["ns_per_exit"]["value"] for c in by_rate]
    assert levels in [list(line.get_ydata()) for line in times.canvas.axes[0].lines]
    assert "full speed: sigmask costs " in costs.finding


def test_one_rate_is_no_sweep(nodes: RunData) -> None:
    assert drawn(nodes, "exit-rates") == []


# --- race --------------------------------------------------------------------------------------


def test_the_race_is_drawn_with_its_bounds(kicked: RunData) -> None:
    (plot,) = drawn(kicked, "race")
    (axes,) = plot.canvas.axes
    assert axes.get_xscale() == "log"
    races = [case for case in kicked.finished if case["kind"] == "race"]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "None"]
    for case in races:
        for method, figures in case["methods"].items():
            share = figures["lost"] / figures["landed"] if figures["lost"] else None
            wanted = figures["lost_upper95"] if share is None else share
            assert any(at == pytest.approx(100 * wanted) for at in points), method
    assert sum(text.startswith("0 of ") for text in texts(plot)) == 4
    assert "sigmask (claim: race-free)" in inline(plot, "x")
    assert "flag_signal (claim: loses kicks)" in inline(plot, "x")
    assert not any("breaks" in text for text in texts(plot))


def test_a_broken_claim_is_written_beside_the_loss(kicked: RunData) -> None:
    def claim(case: dict[str, Any]) -> None:
        if case["kind"] == "race":
            case["methods"]["flag_signal"]["race_free_claim"] = True

    (plot,) = drawn(changed(kicked, claim), "race")
    assert sum(text.endswith(": breaks its claim") for text in texts(plot)) == 2


def test_what_no_kick_tested_is_not_drawn(kicked: RunData) -> None:
    def none(case: dict[str, Any]) -> None:
        if case["kind"] == "race":
            for figures in case["methods"].values():
                figures |= {"lost": 0, "landed": 99}

    assert drawn(changed(kicked, none), "race") == []


# --- all ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """Kicks of 1,000 fresh VMs of each method, at two moments."""
    methods = ["immediate_exit", "sigmask", "flag_signal"]
    cases = [
        synthetic_run.lifecycle_case(moment, methods=methods, processes=1)
        for moment in ("entry", "first_run")
    ]
    fates = {"sigmask": {"lost": 1}, "flag_signal": {"lost": 300, "killed": 100}}
    folder = tmp_path_factory.mktemp("lives")
    run = synthetic_run.build(folder, cases=cases, rounds=500, lives={"fates": fates, "met": 0.8})
    return RunData.load(run)


def bars(plot: Plot) -> list[list[tuple[float, float]]]:
    """The begin and the width of each part of each bar, from above."""
    rows: dict[float, list[tuple[float, float]]] = {}
    for patch in plot.canvas.axes[0].patches:
        rows.setdefault(round(patch.get_y(), 3), []).append((patch.get_x(), patch.get_width()))
    return [rows[y] for y in sorted(rows)]


def test_lives_are_drawn_by_what_became_of_the_kicks(lives: RunData) -> None:
    (plot,) = drawn(lives, "lifecycle")
    assert [len(parts) for parts in bars(plot)] == [1, 2, 3] * 2
    for parts in bars(plot):
        assert parts[0][0] == 0
        assert sum(width for _, width in parts) == pytest.approx(100)
    assert [width for _, width in bars(plot)[2]] == pytest.approx([60, 30, 10])
    assert bars(plot)[1][1][1] > 1  # one of 1,000 kicks can be seen
    assert texts(plot) == [
        *("at protocol entry", "1", "400", "in its first KVM_RUN", "1", "400"),
    ]
    axes = plot.canvas.axes[0]
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([80] * 6)
    assert "lost 2 of 2,000 (sigmask)" in plot.finding


def test_a_life_without_kicks_is_not_drawn(lives: RunData) -> None:
    def quiet(case: dict[str, Any]) -> None:
        for figures in case["methods"].values():
            figures["sent"] = 0

    assert drawn(changed(lives, quiet), "lifecycle") == []


def test_an_emulated_run_says_so_in_every_title(tmp_path: Path) -> None:
    here, there = synthetic_run.node_placements()[:2]
    cases = [synthetic_run.case(n, placement=here) for n in (1, 2)]
    cases += [synthetic_run.case(2, placement=there)]
    cases += [synthetic_run.case(2, placement=here, rate=1000.0)]
    cases += synthetic_run.kick_sweep()
    run = synthetic_run.build(tmp_path, cases=cases, emulated=True, paced=True, rounds=10)
    data = RunData.load(run)
    for figure in FIGURES:
        for plot in figure.draw(data):
            assert plot.title.startswith("Emulated (QEMU TCG): ")
            shown = inline(plot, "x")
            assert not re.search(r"(?<!emulated )\b(ns|µs|second)\b", shown), figure.name


def test_a_run_of_many_nodes_rates_and_vcpus_is_drawn(tmp_path: Path) -> None:
    places = synthetic_run.node_placements(4)
    cases = [synthetic_run.case(1, placement=p, processes=1) for p in places]
    cases += [synthetic_run.case(1, rate=10.0 * 2**i, processes=1) for i in range(10)]
    cases += [synthetic_run.case(n, processes=1) for n in (2, 256)]
    run = synthetic_run.build(tmp_path, cases=cases, paced=True, rounds=4, exits=40)
    data = RunData.load(run)
    (plot,) = drawn(data, "nodes")
    assert len(texts(plot)) == 16  # no room for intervals
    differences = drawn(data, "differences")
    assert len(differences) == MOST_PLOTS
    assert "more plots like these are left out." in differences[-1].finding
