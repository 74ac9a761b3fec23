# SPDX-License-Identifier: Apache-2.0
"""The pages and the Markdown of a fleet's report: what they say, whatever was found."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_found
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markdown_it import MarkdownIt
from matplotlib import image

from kickbench.errors import UsageError
from kickbench.fleet.judge.found import (
    MOST_TRACKS,
    Cohort,
    Contrast,
    Effect,
    Figure,
    Finding,
    Found,
    Group,
    Host,
    Odd,
    Other,
    Track,
)
from kickbench.fleet.pages import heat, index, words
from kickbench.fleet.pages.links import links_of
from kickbench.fleet.pages.markdown import to_markdown
from kickbench.fleet.pages.site import pages, write

NASTY = "<script>alert(1)</script>|`*_[x](y)\x00\x1b[31m\u202e &amp; {{7*7}} # - ~~"


def text_of(document: str) -> str:
    words = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", document, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", words)).replace("\xa0", " ").split())


def written(found: Found) -> dict[str, str]:
    return dict(pages(found))


@pytest.fixture(scope="module")
def found() -> Found:
    return synthetic_found.found()


@pytest.fixture(scope="module")
def site(found: Found) -> dict[str, str]:
    return written(found)


def nothing() -> Found:
    no_map = np.empty((0, 0), np.float32)
    return Found("an empty store", (), (), (), (), (), (), (), no_map, (), ())


# --- the first page ----------------------------------------------------------------------------


def test_the_answer_comes_first(found: Found, site: dict[str, str]) -> None:
    document = site["index.html"]
    main = document[document.index("<main>") :]
    assert re.findall(r'<p class="answer.*?">(.*?)</p>', main) == [
        found.answer[0].replace("2.1 %", "2.1\xa0%")
    ]
    assert main.index(found.answer[1]) < main.index("<h2")
    assert "1 regression" in text_of(document)


def test_a_finding_has_its_interval_its_hosts_and_what_they_have_in_common(
    site: dict[str, str],
) -> None:
    text = text_of(site["index.html"])
    for told in (
        (
            "1 worse time per quiet exit, immediate_exit (exits-hlt-1vcpu-max-any) +2.10 % "
            "(1.94 to 2.26 %) 6 CPU AMD EPYC 9654 96-Core Processor, kernel 6.12.8-cloud or "
            "6.12.7-cloud → 6.12.9-cloud, also microcode → 0xa101148 2026-11-12 to 2026-11-14"
        ),
        "1. Worse: time per quiet exit, immediate_exit, +2.1 % on 6 hosts",
        "also moved microcode → 0xa101148 These data cannot tell which move is the cause.",
        "6 hosts rack00-box00 , rack00-box04",
        "CPU Intel(R) Xeon(R) Platinum 8480+ 6 did not change",
        "no move to kernel 6.12.9-cloud 6 did not change",
        "CPU AMD EPYC 7763 64-Core Processor 6 cannot be told",
        "Another figure of the same hosts makes up for it: time per quiet exit, sigmask",
        "4. Went away: ",
        "CPU AMD EPYC 7763 64-Core Processor differs since 2026-11-12",
    ):
        assert told in text


def test_hosts_that_are_alike_but_for_one_fact_are_compared(site: dict[str, str]) -> None:
    assert (
        "kernel 6.12.8-cloud 2 kernel 6.12.9-cloud 4 CPU AMD EPYC 9654 96-Core Processor time per "
        "quiet exit, immediate_exit (exits-hlt-1vcpu-max-any) -2.05 %"
    ) in text_of(site["index.html"])


def test_an_odd_host_is_named_with_its_page(found: Found, site: dict[str, str]) -> None:
    document = site["index.html"]
    assert '<a href="host-rack00-box03.html">rack00-box03</a>' in document
    assert "off on most nights" in text_of(document)
    text = text_of(site["host-rack00-box03.html"])
    assert found.odd[0].words in text
    assert "It is a host of finding 4" in text
    assert re.search(r"time per quiet exit, sigmask \(exits-\S+\) \+[78]\.\d % worse 1 of 6", text)


def test_every_link_leads_to_a_page_or_a_place_on_it(site: dict[str, str]) -> None:
    ids = {name: set(re.findall(r' id="([^"]+)"', page)) for name, page in site.items()}
    for name, page in site.items():
        for address in re.findall(r'href="([^"#]*(?:#[^"]*)?)"', page):
            file, _, place = html.unescape(address).partition("#")
            assert (file or name) in site, (name, address)
            assert not place or place in ids[file or name], (name, address)


def test_an_empty_store_has_a_page_that_says_so() -> None:
    assert list(written(nothing())) == ["index.html"]
    text = text_of(written(nothing())["index.html"])
    assert "The store has nothing that can be judged." in text
    assert "No regression" in text
    assert to_markdown(nothing()) == "**The store has nothing that can be judged.**\n"


def test_a_fleet_without_findings_has_no_table_of_them() -> None:
    small = synthetic_found.found(hosts=4, figure_count=3, day_count=5)
    quiet = dataclasses.replace(small, findings=(), odd=(), contrasts=(), answer=("All is well.",))
    site = written(quiet)
    for name in ("findings", "odd", "contrasts"):
        assert f'id="{name}"' not in site["index.html"]
    assert "No regression" in text_of(site["index.html"])
    assert "No finding has this host" in text_of(site["host-rack00-box00.html"])


# --- the map -----------------------------------------------------------------------------------


def pixels(band: heat.Band) -> np.ndarray[Any, Any]:
    data = base64.b64decode(band.address.removeprefix("data:image/png;base64,"))
    return (255 * image.imread(io.BytesIO(data))).round().astype(int)


def test_the_map_has_a_pixel_for_each_host_and_figure(found: Found) -> None:
    drawn = heat.draw(found)
    assert [band.title for band in drawn.bands] == list(synthetic_found.MODELS)
    assert all(pixels(band).shape == (6, 12, 4) for band in drawn.bands)
    assert sum(last - first + 1 for _, first, last in drawn.kinds) == 12


def test_the_worst_host_of_a_group_is_at_the_top_and_the_best_at_the_bottom(found: Found) -> None:
    band = heat.draw(found).bands[3]
    assert band.labels[0][1] == "rack00-box03"
    assert band.labels[-1][1] == "rack00-box07"
    first, *_, last = pixels(band)[:, 0]
    assert (first[0] > first[2], last[0] > last[2]) == (True, False)  # red is worse, blue better


@pytest.mark.parametrize(
    ("hosts", "height"), [(1, 18), (24, 18), (100, 9), (900, 2), (1000, 2), (2000, 1)]
)
def test_a_map_is_as_high_as_a_few_screens_at_most(hosts: int, height: int) -> None:
    few = synthetic_found.found(hosts=8, figure_count=3, day_count=5)
    many = tuple(dataclasses.replace(few.hosts[0], name=f"box{n}") for n in range(hosts))
    fleet = dataclasses.replace(few, hosts=many, map=np.zeros((hosts, 3), np.float32), groups=())
    (band,) = heat.draw(fleet).bands
    assert band.height == hosts * height


def test_worse_is_worse_also_if_higher_is_better(found: Found) -> None:
    higher = tuple(dataclasses.replace(one, better="higher") for one in found.figures)
    band = heat.draw(dataclasses.replace(found, figures=higher)).bands[3]
    assert band.labels[0][1] == "rack00-box07"


def test_what_was_not_measured_has_a_colour_of_its_own(found: Found) -> None:
    unknown = dataclasses.replace(found, map=np.full_like(found.map, np.nan))
    band = heat.draw(unknown).bands[0]
    assert {tuple(pixel) for row in pixels(band) for pixel in row} == {(127, 128, 128, 96)}
    assert "72 were not measured" in band.words


@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 0.02, 0.3, 5.0])
def test_mere_noise_has_no_colour(found: Found, sigma: float) -> None:
    noise = np.random.default_rng(1).normal(0, sigma, found.map.shape).astype(np.float32)
    drawn = heat.draw(dataclasses.replace(found, map=noise))
    coloured = sum((pixels(band)[..., 3] > 0).sum() for band in drawn.bands)
    assert coloured <= 0.05 * noise.size


def test_a_large_fleet_leaves_out_what_is_least_off_and_says_so(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heat, "MOST_HOSTS", 5)
    monkeypatch.setattr(heat, "MOST_FIGURES", 4)
    drawn = heat.draw(found)
    assert sum(band.hosts for band in drawn.bands) == 5
    assert len(drawn.figures) == 4
    assert "rack00-box03" in [host for band in drawn.bands for _, host in band.labels]
    assert drawn.left_out == "19 hosts and 8 figures left out. All others are further off."


def test_the_extreme_cells_are_a_table_with_a_few_of_each_host(found: Found) -> None:
    cells = heat.draw(found).cells
    assert [cell.host for cell in cells[:3]] == ["rack00-box03"] * 3
    assert {cell.host for cell in cells} >= {"rack00-box03", "rack00-box07"}
    assert len(cells) <= heat.MOST_CELLS
    assert max(sum(one.host == cell.host for one in cells) for cell in cells) == 3


def test_a_fleet_of_noise_has_no_extreme_cells() -> None:
    small = synthetic_found.found(hosts=8, figure_count=3, day_count=5)
    noise = np.full_like(small.map, 0.001)
    quiet = dataclasses.replace(small, map=noise, groups=())
    assert heat.draw(quiet).cells == []
    text = text_of(index.page(quiet, links_of(quiet)))
    assert "No host is off by more than 0.50 %, about three usual deviations." in text


# --- groups and hosts --------------------------------------------------------------------------


def test_a_group_shows_what_changed_first_and_when(site: dict[str, str]) -> None:
    document = site["group-1.html"]
    captions = [text_of(one) for one in re.findall(r"<figcaption>(.*?)</figcaption>", document)]
    assert re.fullmatch(
        r"time per quiet exit, immediate_exit: the latest median is \+2.\d % from the level\. "
        r"It changed by \+2\.1 % on 2026-10-19\.",
        captions[0],
    )
    assert captions[-1].endswith("No lasting change is seen.")
    assert "4 figures changed" in text_of(document)
    assert len(re.findall(r"<svg", document)) == len(captions)


def test_a_host_is_shown_over_time_with_its_changes_and_moves(site: dict[str, str]) -> None:
    document = site["host-rack00-box03.html"]
    (time,) = re.findall(r'<section aria-labelledby="time">.*?</section>', document, re.S)
    captions = [text_of(one) for one in re.findall(r"<figcaption>(.*?)</figcaption>", time)]
    assert len(captions) == time.count("<svg") == 2
    assert re.fullmatch(
        r"time per quiet exit, immediate_exit: the latest night is \+8.\d % from the level\. "
        r"It changed by \+8\.0 % on 2026-10-19\.",
        captions[0],
    )
    text = text_of(time)
    assert "On 2026-10-19 the host moved to kernel 6.12.9-cloud and microcode 0xa101148." in text
    assert captions[1].endswith("No lasting change is seen.")


def test_a_host_that_is_not_followed_says_nothing_over_time(site: dict[str, str]) -> None:
    assert 'id="time"' not in site["host-rack00-box05.html"]


def test_a_large_fleet_has_pages_of_odd_hosts_first(found: Found) -> None:
    many = synthetic_found.found(hosts=MOST_TRACKS + 40, figure_count=3)
    links = links_of(many)
    assert len(links.hosts) == MOST_TRACKS
    assert [*links.hosts][:3] == [odd.host for odd in many.odd]
    assert f"{MOST_TRACKS} hosts have a page of their own" in text_of(index.page(many, links))


def test_hosts_of_like_names_have_pages_of_their_own(found: Found) -> None:
    names = ["box", "Box", "bo/x", "bo\\x", "../box", ".", "böx", "\ud800", "x" * 300, "x" * 301]
    hosts = tuple(dataclasses.replace(found.hosts[0], name=name) for name in names)
    unlike = np.zeros((len(names), 12), np.float32)
    files = links_of(
        dataclasses.replace(found, hosts=hosts, map=unlike, odd=(), findings=(), groups=())
    ).hosts.values()
    assert len({file.lower() for file in files}) == len(names)
    assert all(re.fullmatch(r"host-[A-Za-z0-9._+-]{1,100}\.html", file) for file in files)


def test_pages_are_written_and_the_first_is_returned(tmp_path: Path) -> None:
    small = synthetic_found.found(hosts=4, figure_count=3, day_count=5)
    path = write(small, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "index.html"
    names = {one.name for one in path.parent.iterdir()}
    assert names == {"index.html", *links_of(small).hosts.values()} | {
        f"group-{number}.html" for number in (1, 2, 3, 4)
    }
    assert dict(pages(small)) == {one.name: one.read_text() for one in path.parent.iterdir()}


def test_the_next_report_removes_pages_that_it_does_not_have(tmp_path: Path) -> None:
    small = synthetic_found.found(hosts=4, figure_count=3, day_count=5)
    write(small, tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "host-of-the-user.html").write_text("<p>not ours</p>")
    (tmp_path / "host-folder.html").mkdir()
    fewer = dataclasses.replace(small, hosts=small.hosts[:3], map=small.map[:3])
    write(fewer, tmp_path)
    after = {path.name for path in tmp_path.iterdir()}
    assert after == before - {"host-rack00-box03.html"} | {
        "host-of-the-user.html",
        "host-folder.html",
    }


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, found: Found) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; choose another folder with -o"):
        write(found, tmp_path / "file")


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0213, "+2.1 %"),
        (-0.5, "-50 %"),
        (0.0, "0 %"),
        (1e-9, "0 %"),
        (math.nan, "-"),
        (0.00012, "+0.012 %"),
        (3.0, "+300 %"),
        (-math.inf, "-"),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        ((0.021, 0.0194, 0.0226), "+2.10 % (1.94 to 2.26 %)"),
        ((-0.021, -0.04, -0.002), "-2.1 % (-4.0 to -0.2 %)"),
        ((0.021, math.nan, math.nan), "+2.1 %"),
        ((math.nan, math.nan, math.nan), "-"),
    ],
)
def test_changes(effect: tuple[float, float, float], text: str) -> None:
    assert words.change(Effect(0, *effect, 0.1, 0.1)) == text


@pytest.mark.parametrize(
    ("chance", "text"), [(2e-7, "< 0.0001"), (0.0312, "0.031"), (1.0, "1.0"), (math.nan, "-")]
)
def test_chances(chance: float, text: str) -> None:
    assert words.chance(chance) == text


def test_a_figure_of_several_scenarios_names_its_own(found: Found) -> None:
    first, *rest = found.figures
    other = dataclasses.replace(first, scenario="quick")
    both = dataclasses.replace(found, figures=(other, *rest))
    assert words.figure_name(both, 0) == (
        "time per quiet exit, immediate_exit (quick: exits-hlt-1vcpu-max-any)"
    )
    assert words.figure_name(found, 2) == (
        "time per quiet exit, sigmask - immediate_exit (exits-hlt-1vcpu-max-any)"
    )


# --- Markdown ----------------------------------------------------------------------------------


def test_markdown_has_the_answer_and_the_findings(found: Found) -> None:
    lines = to_markdown(found).splitlines()
    assert lines[0] == "**Exits are 2.1 % dearer on 6 hosts that moved to 6.12.9-cloud.**"
    assert lines[2] == "- Intel hosts did not change."
    (worse,) = [line for line in lines if line.startswith("| worse")]
    assert [cell.strip() for cell in worse.split("|")[3:5]] == ["+2.10 % (1.94 to 2.26 %)", "6"]
    assert "- What exits gained, kicks lost." in lines
    assert any(line.startswith("| rack00-box03 | off on most nights") for line in lines)
    assert lines[-1] == "- 1 run of 2,160 was left out: its file is damaged."


def test_long_markdown_is_cut_and_says_so(found: Found) -> None:
    long = dataclasses.replace(found, findings=found.findings * 8, notes=("a note",) * 12)
    text = to_markdown(long)
    assert "And 12 more findings." in text
    assert text.endswith("- and 2 more\n")


# --- whatever was found ------------------------------------------------------------------------

texts = st.sampled_from([NASTY, "", "6.12.9", "x" * 3000, "ünï|cödé\n\n# h", "**", "- "]) | st.text(
    max_size=12
)
names = st.text(max_size=8) | st.sampled_from([NASTY, "box-1", "..", "/etc/passwd"])
numbers = st.floats() | st.floats(-0.1, 0.1)
days = st.dates(datetime.date(2000, 1, 1), datetime.date(2099, 12, 31)).map(str)
facts = st.dictionaries(
    st.sampled_from(["cpu_model", "kernel", "microcode", "mitigations", NASTY]), texts, max_size=3
)


@st.composite
def anything(draw: st.DrawFn) -> Found:
    """Any report of a small fleet."""
    dates = tuple(sorted(draw(st.sets(days, min_size=1, max_size=4))))
    figures = tuple(
        draw(
            st.lists(
                st.builds(
                    Figure,
                    texts,
                    texts,
                    texts,
                    texts,
                    st.none() | texts,
                    texts,
                    texts,
                    st.sampled_from(["lower", "higher"]),
                    numbers,
                ),
                min_size=1,
                max_size=3,
            )
        )
    )
    hosts = tuple(
        Host(name, draw(facts), 3, dates[0], dates[-1], draw(texts))
        for name in draw(st.lists(names, unique=True, min_size=1, max_size=2))
    )
    some = st.lists(st.sampled_from([host.name for host in hosts]), unique=True).map(tuple)
    figure = st.integers(0, len(figures) - 1)
    effect = st.builds(Effect, figure, *[numbers] * 5)
    pairs = st.tuples(texts, texts)
    cohort = st.builds(
        Cohort,
        facts,
        st.none() | pairs,
        st.lists(texts, max_size=4).map(tuple),
        st.lists(pairs, max_size=2).map(tuple),
        some,
        days,
        days,
    )
    effects = st.lists(effect, max_size=2).map(tuple)
    other = st.builds(Other, cohort, effect, st.sampled_from(["unchanged", "changed", "unclear"]))
    finding = st.builds(
        Finding,
        st.sampled_from(["regression", "improvement", "moved", "gone"]),
        cohort,
        effects,
        st.lists(other, max_size=2).map(tuple),
        st.none() | effect,
        texts,
    )
    counts = st.tuples(st.integers(1, 9), st.integers(1, 9))
    contrast = st.builds(Contrast, facts, texts, pairs, counts, effects, texts)
    odd = st.builds(
        Odd,
        names,
        st.sampled_from(["level", "scatter", "step"]),
        facts,
        st.integers(0, 9),
        st.lists(figure, max_size=2).map(tuple),
        numbers,
        numbers,
        days,
        texts,
    )
    shape = (len(figures), len(dates))
    wide = st.floats(width=32)
    over_time = arrays(np.float32, shape, elements=wide)
    group = st.builds(
        Group,
        facts,
        some,
        over_time,
        over_time,
        over_time,
        st.lists(st.tuples(figure, st.sampled_from(dates), numbers), max_size=2).map(tuple),
    )
    track = st.builds(
        Track,
        names,
        st.just(tuple(range(len(figures)))),
        over_time,
        st.lists(st.tuples(figure, st.sampled_from(dates), numbers), max_size=2).map(tuple),
        st.lists(st.tuples(days, texts, texts), max_size=2).map(tuple),
    )
    return Found(
        store=draw(texts),
        days=dates,
        figures=figures,
        hosts=hosts,
        findings=draw(st.lists(finding, max_size=2).map(tuple)),
        contrasts=draw(st.lists(contrast, max_size=1).map(tuple)),
        odd=draw(st.lists(odd, max_size=2).map(tuple)),
        groups=draw(st.lists(group, max_size=1).map(tuple)),
        map=draw(arrays(np.float32, (len(hosts), len(figures)), elements=wide)),
        answer=draw(st.lists(texts, max_size=2).map(tuple)),
        notes=draw(st.lists(texts, max_size=2)),
        tracks=tuple(
            dataclasses.replace(draw(track), host=host.name)
            for host in hosts
            if draw(st.booleans())
        ),
    )


class Parsed(HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.attributes: set[str] = set()
        self.images: list[str] = []
        self.script = False
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("iframe", "object", "embed", "form", "base", "link")
        self.attributes |= {name for name, _ in attrs}
        self.script = tag == "script"
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        if self.script:
            self.scripts.append(data)
            self.script = False


# Each draws several plots, which is slow: so few of them, and no shrinking.
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(anything())
@example(synthetic_found.found(hosts=4, figure_count=3, day_count=3))
def test_any_report_is_shown_as_text(found: Found) -> None:
    for name, document in pages(found):
        parsed = Parsed(document)
        assert len(parsed.scripts) == 1, name
        assert "makeSortable" in parsed.scripts[0]
        assert not [one for one in parsed.attributes if one.startswith("on")]
        assert all(one.startswith("data:image/png;base64,") for one in parsed.images)
        document.encode("utf-8", "replace")


@given(anything())
def test_any_report_is_markdown_of_our_own(found: Found) -> None:
    text = to_markdown(found)
    assert text.replace("\n", "").isprintable()
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    kinds = {inner.type for token in parsed for inner in (token, *(token.children or ()))}
    assert not kinds & {
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "heading_open",
        "hr",
        "s_open",
        "em_open",
        "blockquote_open",
        "fence",
        "code_block",
        "ordered_list_open",
    }
    rows = [token for token in parsed if token.type == "tr_open"]
    cells = [token for token in parsed if token.type in ("td_open", "th_open")]
    tables = [token for token in parsed if token.type == "table_open"]
    assert len(tables) == bool(found.findings) + bool(found.odd)
    width = [6] * (bool(found.findings) * (len(found.findings) + 1))
    assert len(cells) == sum(width) + 5 * (len(rows) - len(width))


@given(anything())
def test_any_report_is_json(found: Found) -> None:
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["schema"] == 1
    assert len(document["findings"]) == len(found.findings)
