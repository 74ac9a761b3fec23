# SPDX-License-Identifier: Apache-2.0
"""What a fleet's report takes from a store: which runs count, and the arrays of their figures."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
from synthetic_fleet import BEGIN, time_of, write

from kickbench.fleet.files import Files
from kickbench.fleet.judge import load as loading
from kickbench.fleet.judge.panel import Panel

NOW = time_of(400)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path / "store"))


def loaded(files: Files, days: int = 120) -> Panel:
    return loading.load(files, days, NOW)


def test_the_arrays_have_every_figure_of_every_day(files: Files) -> None:
    for day in range(3):
        write(files, "a", day, {"sigmask": 100 + day, "immediate_exit": 50 + day})
    write(files, "b", 1, {"sigmask": 200, "immediate_exit": None}, kernel="6.13")
    panel = loaded(files)
    assert panel.days == ("2026-03-01", "2026-03-02", "2026-03-03")
    assert [(host.name, host.runs, host.last_day) for host in panel.hosts] == [
        ("a", 3, "2026-03-03"),
        ("b", 1, "2026-03-02"),
    ]
    assert {figure.method: figure.level for figure in panel.figures} == {
        "sigmask": 101.5,
        "immediate_exit": 51,
    }
    at = [figure.method for figure in panel.figures].index("sigmask")
    nan = np.nan
    np.testing.assert_array_equal(panel.value[at], [[100, 101, 102], [nan, 200, nan]])
    np.testing.assert_allclose(panel.half[at], panel.value[at] / 100, rtol=1e-6)
    assert panel.value.dtype == panel.half.dtype == np.float32
    kernel = [
        [panel.names["kernel"][i] if i >= 0 else "" for i in r] for r in panel.facts["kernel"]
    ]
    assert kernel == [["6.12.3"] * 3, ["", "6.13", ""]]
    assert panel.names["cmdline"] == ("quiet",)
    assert panel.notes == ()
    assert {host.remark for host in panel.hosts} == {""}


def test_the_last_run_of_a_day_counts(files: Files) -> None:
    write(files, "a", 0.2, {"sigmask": 2})
    write(files, "a", 0.1, {"sigmask": 1})
    assert loaded(files).value.tolist() == [[[2]]]


def test_another_scenario_of_the_day_is_another_figure(files: Files) -> None:
    write(files, "a", 0.1, {"sigmask": 1})
    write(files, "a", 0.2, {"sigmask": 2}, scenario="other", kernel="6.13")
    panel = loaded(files)
    assert dict(zip((f.scenario for f in panel.figures), panel.value.ravel(), strict=True)) == {
        "nightly": 1,
        "other": 2,
    }
    assert panel.hosts[0].facts["kernel"] == "6.13"


def test_only_the_last_days_count(files: Files) -> None:
    for day in (0, 40, 41):
        write(files, "a", day, {"sigmask": day})
    write(files, "gone", 0, {"sigmask": 1})
    panel = loaded(files, days=10)
    assert (panel.days, panel.value.tolist()) == (("2026-04-10", "2026-04-11"), [[[40, 41]]])
    assert panel.notes == ("1 host without a run that counts since 2026-04-10: gone",)


def test_other_versions_of_the_scenario_are_left_out(files: Files) -> None:
    for host in "abc":
        write(files, host, 0, {"sigmask": 1}, scenario_digest="old")
        write(files, host, 1, {"sigmask": 2}, scenario_digest="new" if host < "c" else "old")
    panel = loaded(files)
    assert (panel.days, [host.name for host in panel.hosts]) == (("2026-03-02",), ["a", "b"])
    assert any(
        "4 runs of nightly left out, because it was another version" in n for n in panel.notes
    )


def test_emulated_runs_are_apart(files: Files) -> None:
    write(files, "a", 0, {"sigmask": 1}, emulated=True)
    assert loaded(files).value.tolist() == [[[1]]]
    assert loaded(files).notes == ("all runs are emulated: times are by the emulator's clock",)
    write(files, "b", 0, {"sigmask": 2})
    assert loaded(files).value.tolist() == [[[2]]]
    assert "1 emulated run left out" in loaded(files).notes


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": time_of(4000)},
        {"time": time_of(2), "stored": time_of(1)},
        {"time": time_of(-3000), "fleet": f"{time_of(1):%Y%m%dT%H%M%SZ}-01234567"},
    ],
    ids=["in the future", "before it began", "before its fleet began"],
)
def test_a_wrong_clock_costs_its_own_run(files: Files, wrong: dict[str, datetime.datetime]) -> None:
    for host in ("right", "wrong"):
        write(files, host, 0, {"sigmask": 1})
    write(files, "wrong", 1, {"sigmask": 2}, **wrong)
    panel = loaded(files)
    assert panel.days == ("2026-03-01",)
    assert panel.notes == ("1 run left out, because the host's clock was wrong: wrong",)
    assert [host.remark for host in panel.hosts] == [
        "",
        (
            f"its clock was wrong in 1 run, such as that of {wrong['time']:%Y-%m-%d}; "
            "they are left out"
        ),
    ]


def test_it_is_this_clock_that_is_wrong_if_it_is_behind_all_others(files: Files) -> None:
    for host in "abc":
        write(files, host, 0, {"sigmask": 1})
    panel = loading.load(files, now=BEGIN - datetime.timedelta(days=900))
    assert (len(panel.hosts), panel.notes) == (3, ())


@pytest.mark.parametrize("change", [{"cpu_model": "B CPU"}, {"fingerprint": "other"}])
def test_a_host_that_came_back_as_other_hardware_begins_anew(
    files: Files, change: dict[str, str]
) -> None:
    for day in range(4):
        write(files, "a", day, {"sigmask": day}, **(change if day >= 2 else {}))
    panel = loaded(files)
    assert (panel.days, panel.value.tolist()) == (("2026-03-03", "2026-03-04"), [[[2, 3]]])
    assert panel.hosts[0].remark == (
        "came back as other hardware on 2026-03-03; only the nights since then are used"
    )


def test_machines_of_one_name_have_a_history_each(files: Files) -> None:
    for day in range(4):
        machine = f"{day % 2}1234567890f"
        write(files, "localhost", day, {"sigmask": day}, machine_id=machine)
    panel = loaded(files)
    assert [host.name for host in panel.hosts] == ["localhost@01234567", "localhost@11234567"]
    nan = np.nan
    np.testing.assert_array_equal(panel.value, [[[0, nan, 2, nan], [nan, 1, nan, 3]]])
    (note,) = panel.notes
    assert note.startswith("localhost is the name of several machines")


def test_hardware_that_changes_often_may_be_several_machines(files: Files) -> None:
    for day in range(4):
        write(files, "localhost", day, {"sigmask": day}, fingerprint=f"{day % 2}")
    (host,) = loaded(files).hosts
    assert "(the 3rd time: several of one name?)" in host.remark


def test_another_command_line_is_no_other_hardware(files: Files) -> None:
    write(files, "a", 0, {"sigmask": 1})
    write(files, "a", 1, {"sigmask": 2}, fingerprint="other", cmdline="quiet mitigations=off")
    assert loaded(files).value.tolist() == [[[1, 2]]]


def test_what_is_wrong_with_a_host_is_remarked(files: Files) -> None:
    write(files, "silent", 0, {"sigmask": 1})
    write(files, "failing", 7, {"sigmask": 1}, failed=2, lost=1)
    remarks = {host.name: host.remark for host in loaded(files).hosts}
    assert remarks == {
        "silent": "has not measured for 7 days",
        "failing": "2 cases failed in its newest run; a race-free protocol lost a kick in its "
        "newest run",
    }


def test_a_damaged_file_costs_its_own_figures(files: Files) -> None:
    for host in "ab":
        write(files, host, 0, {"sigmask": 1})
    (damaged,) = files.list("metrics/host=a", ".parquet")
    files.write(damaged, b"nonsense")
    panel = loaded(files)
    np.testing.assert_array_equal(panel.value, [[[np.nan], [1]]])
    assert len(panel.notes) == 1
    assert f"{damaged}: is damaged" in panel.notes[0]


def test_a_figure_that_no_array_can_have_is_not_measured(files: Files) -> None:
    write(files, "a", 0, {"sigmask": 1e200, "immediate_exit": float("nan")})
    write(files, "b", 0, {"sigmask": 1, "immediate_exit": 1})
    panel = loaded(files)
    np.testing.assert_array_equal(panel.value, [[[np.nan], [1]]] * 2)
    assert [figure.level for figure in panel.figures] == [1, 1]


def test_figures_that_few_hosts_have_go_first(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, "a", 0, {"sigmask": 1})
    write(files, "b", 0, {"sigmask": 1, "immediate_exit": 1})
    monkeypatch.setattr(loading, "MOST_CELLS", 2)
    panel = loaded(files)
    assert [figure.method for figure in panel.figures] == ["sigmask"]
    assert panel.notes == ("1 figure left out that the fewest hosts have",)


def test_an_empty_store_has_an_empty_panel(files: Files) -> None:
    panel = loaded(files)
    assert (panel.hosts, panel.figures, panel.days) == ((), (), ())
    assert "no runs yet" in panel.notes[0]
