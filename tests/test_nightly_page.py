# SPDX-License-Identifier: Apache-2.0
"""The trend page: what changed and with what, in words and plots, safe whatever the texts are."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import synthetic_night
from synthetic_night import night

from kickbench.errors import UsageError
from kickbench.nightly.events import Event
from kickbench.nightly.history import History
from kickbench.nightly.night import Night
from kickbench.nightly.page import MOST_FOLDED, MOST_PLOTS, page, write
from kickbench.nightly.trends import Key

KEY = Key("exits-hlt-1vcpu-max-any", "sigmask", None, "ns_per_exit")
NASTY = '<script>alert("1")</script>&\u202e'


def stepped(count: int = 30, at: int = 18, by: float = 1.05) -> list[Night]:
    """Nights of which those from ``at`` on have a new kernel and other times."""
    return [
        night(number, kernel="6.12.4", step=by) if number >= at else night(number)
        for number in range(count)
    ]


def text_of(document: str) -> str:
    words = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", document, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", words)).replace("\xa0", " ").split())


def test_a_step_is_said_with_what_changed_in_the_environment() -> None:
    text = text_of(page(stepped(), []))
    assert "2 of 3 metrics changed in 30 nights, last on 2026-01-19" in text
    assert "kernel: 6.12.3 → 6.12.4" in text
    assert re.search(r"sigmask/ns_per_exit: \+[45]\.[0-9]+ % \([0-9.]+ to [0-9.]+ %\), worse", text)
    assert night(18).run_id in text


def test_no_step_is_said_too() -> None:
    text = text_of(page([night(number) for number in range(20)], []))
    assert "No lasting change is seen in 3 metrics over 20 nights." in text
    assert "What changed, and with what" not in text


def test_an_improvement_is_better() -> None:
    assert re.search(r"% \(-[0-9.]+ to -[0-9.]+ %\), better", text_of(page(stepped(by=0.95), [])))


def test_a_paired_difference_is_told_in_its_unit_and_by_both_names() -> None:
    def rows(number: int) -> list[dict[str, Any]]:
        *levels, pair = synthetic_night.rows_of(number)
        more = 40.0 if number >= 18 else 0.0
        ends = {name: pair[name] + more for name in ("value", "ci95_low", "ci95_high")}
        return [*levels, {**pair, **ends}]

    text = text_of(page([night(number, rows=rows(number)) for number in range(30)], []))
    by = r"\+(39|40|41)(\.\d+)? ns \([0-9.]+ to [0-9.]+ ns\)"
    assert re.search(rf"1: on 2026-01-19 sigmask - immediate_exit {by}", text)
    assert re.search(rf"of sigmask - immediate_exit in \S+ by {by}, worse", text)


@pytest.mark.filterwarnings("error")
def test_figures_of_any_size_are_drawn() -> None:
    huge = 9e199
    rows = [
        synthetic_night.row(value=huge, ci95_low=-huge, ci95_high=huge),
        synthetic_night.row(baseline="immediate_exit", value=-huge, reference=1e-300),
    ]
    for some in (rows, [{**row, "ci95_low": None, "ci95_high": None} for row in rows]):
        nights = [night(number, rows=some) for number in range(12)]
        assert page([*nights, night(12), night(13)], [])


def test_one_night_is_no_trend() -> None:
    assert "There is one night, and no trend yet" in text_of(page([night(0)], []))


def test_every_figure_says_in_words_what_it_shows() -> None:
    document = page(stepped(), [])
    figures = re.findall(r"<svg.*?</svg>", document, flags=re.S)
    assert len(figures) == 2  # the levels of both methods, and their difference
    for figure in figures:
        root = ElementTree.fromstring(figure)  # noqa: S314 (our own)
        titles = {child.get("id"): child.text or "" for child in root[:2]}
        title, finding = (titles[name] for name in (root.get("aria-labelledby") or "").split())
        assert title.startswith("exits-hlt-1vcpu-max-any: time per exit")
        assert "from the median of" in finding
        assert finding in text_of(document) or " ".join(finding.split()) in text_of(document)
    assert any("1: on 2026-01-19" in figure and "6.12.4" in figure for figure in figures)


def test_accepted_forgotten_and_alarmed_nights_are_marked(tmp_path: Path) -> None:
    history = History(tmp_path)
    nights = stepped()
    for some in nights:
        history.append(some)
    history.forget(nights[3], "a backup ran")
    history.accept(nights[18], "a fix that costs", [KEY])
    history.add_verdict(nights[-1].run_id, [KEY])
    document = page(nights, history.events())
    text = text_of(document)
    for words in ("a backup ran", "a fix that costs", "new normal accepted", "forgotten", "alarm"):
        assert words in text
    assert "The newest night raised an alarm: exits-hlt-1vcpu-max-any/sigmask/ns_per_exit" in text
    assert "1 night with an alarm" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"what": "lost", "count": 2, "of": 9000}, "2 of 9,000 kicks were lost"),
        ({"what": "lost", "count": 2, "of": None}, "2 kicks were lost"),
        ({"what": "rescued", "count": 1, "of": 900}, "1 of 900 pauses had to be rescued"),
    ],
)
def test_lost_kicks_are_an_alarm(fault: dict[str, Any], words: str) -> None:
    lost = [{"case": "race-1", "method": "sigmask", **fault}]
    text = text_of(page([night(0), night(1, lost=lost)], []))
    assert f"{words} in race-1 with sigmask, which claims to be free of races" in text


@pytest.mark.parametrize(("name", "shown"), [("amd <1>", "amd &lt;1&gt; ("), (None, "<dd>")])
def test_the_host_has_its_name_beside_its_fingerprint(name: str | None, shown: str) -> None:
    one = night(0)
    one = Night({**one.document, "environment": {**one.environment, "hostname": name}}, one.table)
    assert f"{shown}{one.fingerprint}" in page([one], [])


def test_a_changed_scenario_is_said() -> None:
    nights = [night(0), night(1), night(2, scenario_digest="feed")]
    assert "the scenario was changed" in text_of(page(nights, []))


def test_an_emulated_history_says_so_first() -> None:
    document = page([night(n, emulated=True, emulated_by="QEMU TCG") for n in range(3)], [])
    assert "<h1>Emulated (QEMU TCG): nightly</h1>" in document


def test_a_strangers_texts_are_shown_as_texts(tmp_path: Path) -> None:
    history = History(tmp_path)
    rows = [synthetic_night.row(method="<b>x</b>", metric="<i>$y_1$", unit="&lt;")]
    nights = [night(number, rows=rows, kernel=NASTY) for number in range(3)]
    history.forget(nights[0], NASTY)
    nights.append(night(3, cpu="A CPU"))
    document = page(nights, history.events())
    assert "<script>alert" not in document
    assert "<b>x" not in document
    assert "<i>$y" not in document
    assert "\u202e" not in document
    assert "alert" in text_of(document)


def test_nothing_is_loaded_from_anywhere() -> None:
    document = page(stepped(), [])
    assert not re.search(r"https?:|\bsrc=|@import", re.sub(r'xmlns(:\w+)?="[^"]*"', "", document))
    assert set(re.findall(r"url\((.)", document)) <= {"#"}
    assert "default-src 'none'" in document


def test_three_years_of_many_metrics_are_a_page_that_can_be_mailed() -> None:
    cases = [f"exits-hlt-{number}vcpu-max-any" for number in range(14)]
    nights = []
    for number in range(1100):
        rows = synthetic_night.rows_of(number)
        nights.append(night(number, rows=[{**row, "case": case} for case in cases for row in rows]))
    document = page(nights, [])
    assert len(document.encode()) < 3_000_000
    assert document.count("<svg") == MOST_PLOTS + MOST_FOLDED
    assert "8 further plots are left out" in text_of(document)


def test_the_same_history_gives_the_same_page(tmp_path: Path) -> None:
    nights, events = stepped(), list[Event]()
    first = write(nights, events, tmp_path)
    assert first.parent == tmp_path
    assert first.name == f"nightly-{nights[0].fingerprint}-trend.html"
    before = first.read_bytes()
    assert write(nights, events, tmp_path) == first
    assert first.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write([night(0)], [], tmp_path / "file")
