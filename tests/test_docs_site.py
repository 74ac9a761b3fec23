# SPDX-License-Identifier: Apache-2.0
"""The documentation site, up to what Sphinx gets: its pages, its links, and what is generated.

``nox -s docs`` builds the site itself, checks it and looks at it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from website import c_hooks, check, command_line, scenario_keys
from website.navigation import PURPOSES, SECTIONS
from website.stage import GENERATED, Stage

from kickbench.cli import COMMANDS
from kickbench.scenario import model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return Stage(ROOT).texts()


def rewritten(text: str, page: str = "docs/method.md") -> str:
    return Stage(ROOT).rewritten(page, text)


# --- navigation --------------------------------------------------------------------------------


def test_every_page_of_docs_is_in_one_section() -> None:
    pages = [page for section in SECTIONS for page in section.pages]
    assert len(set(pages)) == len(pages)
    written = {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()}
    written = {page for page in written if page.endswith((".md", ".ipynb"))}
    assert set(pages) == {*written, *GENERATED, "CONTRIBUTING.md", "CHANGELOG.md"}
    assert set(PURPOSES) == set(pages)


def test_the_sections_are_the_needs_of_readers() -> None:
    titles = [section.title for section in SECTIONS]
    needs = ["Measure", "Compare", "Find out why", "Watch every night", "Write your own protocol"]
    assert titles == [*needs, "Reference", "Develop"]


def test_a_section_lists_its_pages_and_those_of_others_that_belong_to_it(
    texts: dict[str, str],
) -> None:
    for section in SECTIONS:
        listed = re.findall(r"^- \[.+\]\((.+)\): .+$", texts[f"{section.slug}.md"], re.MULTILINE)
        assert listed == [*section.pages, *section.see_also]


def test_the_home_page_is_the_readme_with_a_picture_for_each_scheme(texts: dict[str, str]) -> None:
    first, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("<picture>")
    home = texts["index.md"]
    assert home.startswith(first)
    assert rest.partition("</picture>")[2][:500] in home
    assert "<picture>" not in home
    for scheme in ("light", "dark"):
        picture = f"```{{image}} docs/images/report-{scheme}.png\n:class: only-{scheme}\n"
        assert home.count(picture) == 1


# --- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "in_the_site"),
    [
        ("[a page](statistics.md#intervals)", "[a page](statistics.md#intervals)"),
        ("[here](#kicks)", "[here](#kicks)"),
        ("[home](../README.md)", "[home](../index.md)"),
        ("[root](../CONTRIBUTING.md#set-up)", "[root](../CONTRIBUTING.md#set-up)"),
        ("[file](../kickbench/lab/image.py)", "[file](../source/kickbench/lab/image.py.md)"),
        ("[`two\nlines`](../LICENSE)", "[`two\nlines`](../source/LICENSE.md)"),
        ("[away](https://example.org)", "[away](https://example.org)"),
        ("[wrong](nowhere.md)", "[wrong](nowhere.md)"),
        ("`kickbench/errors.py`", "[`kickbench/errors.py`](../source/kickbench/errors.py.md)"),
        ("see `.ci/run`.", "see [`.ci/run`](../source/.ci/run.md)."),
        ("`docs/lab.md`", "[`docs/lab.md`](lab.md)"),
        ("[`docs/lab.md`](lab.md)", "[`docs/lab.md`](lab.md)"),
        ("`tests/`, `results/x.py`, `vm.vcpus[2]`", "`tests/`, `results/x.py`, `vm.vcpus[2]`"),
        ("`kickbench/nothing.py`", "`kickbench/nothing.py`"),
        ("# `kickbench/errors.py`\n", "# `kickbench/errors.py`\n"),
        ("    `kickbench/errors.py`\n", "    `kickbench/errors.py`\n"),
        ("1. a\n   ```\n   `.ci/run`\n   ```\n", "1. a\n   ```\n   `.ci/run`\n   ```\n"),
    ],
)
def test_a_link_of_github_holds_in_the_site(written: str, in_the_site: str) -> None:
    assert rewritten(written) == in_the_site


def test_what_is_linked_and_is_no_page_has_a_page_with_its_source(texts: dict[str, str]) -> None:
    page = texts["source/kickbench/engine/include/kickbench/loop.h.md"]
    source = (ROOT / "kickbench/engine/include/kickbench/loop.h").read_text(encoding="utf-8")
    assert f"```c\n{source.rstrip()}\n```" in page
    assert "nosearch: true" in page


def test_a_linked_folder_has_a_page_that_lists_its_files(texts: dict[str, str]) -> None:
    folder = "source/kickbench/lab/kernel/patches"
    listed = re.findall(r"\((.+)\)$", texts[f"{folder}.md"], re.MULTILINE)
    assert listed
    assert all(f"{folder}/{Path(name).name}" in texts for name in listed)


def test_only_links_and_pictures_are_changed(texts: dict[str, str]) -> None:
    """A page of the site reads as it does in the repository."""

    def words(text: str) -> str:
        text = re.sub(r"(?s)<picture>.*?</picture>|(```\{image\}.*?```\s*)+(?=\n\n)", "", text)
        return re.sub(r"\[(`[^`]*`)\]\([^()]*\)|\]\([^()\s]+\)", r"\1", text)

    for path in (ROOT / "docs").glob("*.md"):
        original = path.read_text(encoding="utf-8")
        assert words(texts[f"docs/{path.name}"]) == words(original), path.name


# --- what is generated -------------------------------------------------------------------------


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", page, re.MULTILINE)


def test_the_scenario_reference_has_every_key_once() -> None:
    schema = model.json_schema()
    found = [heading for heading in headings(scenario_keys.page()) if not heading[0].isupper()]
    assert sorted(found) == sorted(_headings("", schema, schema["$defs"]))
    assert {"name", "vm.vcpus", "[vm]", "[[placement]]", "[[guest.mix]]"} <= set(found)


def _headings(prefix: str, table: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    for key, value in table["properties"].items():
        match = re.search(r"#/\$defs/(\w+)", str(value))
        if match is None:
            yield f"{prefix}{key}"
            continue
        yield f"[[{prefix}{key}]]" if "items" in value else f"[{prefix}{key}]"
        yield from _headings(f"{prefix}{key}.", models[match[1]], models)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("vm.vcpus", "a whole number from 1 to 1024"),
        ("vm.irqchip", 'one of none, split, kernel\n- Default: `"kernel"`'),
        ("guest.kick_rate_hz", "or a number of kicks per second from 0.001 to 1e6\n- Default: `0`"),
        ("race.window_ns", "nanoseconds from 1 to 1e9\n- Default: `[0, 50000]`"),
        ("measure.methods", '- Default: `["sigmask", "immediate_exit"]`'),
        ("measure.precision", "- Default: `0.001`"),
    ],
)
def test_the_scenario_reference_says_what_a_key_takes(key: str, words: str) -> None:
    section = scenario_keys.page().partition(f"### {key}\n")[2].partition("\n##")[0]
    assert words in section
    assert ("*axis" in section) == (key not in ("vm.irqchip", "measure.precision"))


def test_the_command_line_reference_has_every_command_and_its_options() -> None:
    page = command_line.page()
    assert {f"kickbench {name}" for name in COMMANDS} <= set(headings(page))
    assert {"kickbench scenario list", "kickbench history accept", "kickbench lab run"} <= set(
        headings(page)
    )
    run = page.partition("## kickbench run\n")[2].partition("\n## ")[0]
    assert "\nkickbench run [OPTIONS]" in run
    assert "| `scenario` | A scenario file, or the name of a shipped one. |" in run
    assert "| `--results DIR` | Make the run's folder in DIR. [default: results] |" in run


def test_the_hook_reference_has_the_hooks_that_the_engine_demands() -> None:
    header = (ROOT / c_hooks.HEADER).read_text(encoding="utf-8")
    hooks = [part for part in c_hooks.introduction(header) if isinstance(part, c_hooks.Hook)]
    written = set(re.findall(r"^static .*?\b(kb_\w+)\(", _example_protocol(), re.MULTILINE))
    assert {hook.name for hook in hooks} == written | {"kb_finish_exit"}
    for hook in hooks:
        assert hook.text[0].isupper() or hook.text[0] == "`"
        assert hook.text.endswith(".")


def _example_protocol() -> str:
    return (ROOT / "kickbench/methods/sigmask.c").read_text(encoding="utf-8")


def test_the_hook_reference_has_everything_that_the_header_declares() -> None:
    header = (ROOT / c_hooks.HEADER).read_text(encoding="utf-8")
    blocks = list(c_hooks.declarations(header))
    named = list(itertools.chain.from_iterable(block.names for block in blocks))
    declared = re.findall(r"^(?:static inline|KB_EXPORT) .*?\b(kb_\w+)\(", header, re.MULTILINE)
    declared += re.findall(r"^(?:struct|enum) (kb_\w+) \{", header, re.MULTILINE)
    assert len(declared) > 10
    assert set(declared) <= set(named)
    assert not any("\treturn " in block.code for block in blocks)


def test_the_hook_reference_says_what_the_comments_say() -> None:
    page = c_hooks.page(ROOT)
    assert "### kb_kick\n\n```c\nint kb_kick(struct kb_vcpu *, struct kb_kicker *);\n```" in page
    sending = page.partition("### kb_send_signal\n")[2].partition("\n###")[0]
    assert "The kick signal, to the vCPU's thread, by the kicker's transport." in sending
    assert "static inline int kb_send_signal(" in sending


# --- the check of the built pages --------------------------------------------------------------


def faults(folder: Path, **files: str) -> list[str]:
    (folder / "there.html").write_text('<p id="anchor">', encoding="utf-8")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return list(check.faults(folder))


@pytest.mark.parametrize(
    "fine",
    [
        '<a href="there.html#anchor">',
        '<a href="#">',
        '<a href="https://example.org/page">',
        '<img src="data:image/png;base64,AA==">',
        '<a href="there.html?q=1">',
    ],
)
def test_the_check_is_content_with(tmp_path: Path, fine: str) -> None:
    assert faults(tmp_path, page_html=fine) == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">', "links to gone.html, which is not there"),
        ('<a href="there.html#gone">', "links to there.html#gone, which has no such anchor"),
        ('<a href="#gone">', "links to #gone, which has no such anchor"),
        ('<img src="gone.png">', "loads gone.png, which is not there"),
        ('<script src="https://example.org/x.js">', "loads https://example.org/x.js"),
        ('<link rel="preconnect" href="//example.org">', "loads //example.org"),
        ('<p style="background: url(https://example.org/x)">', "loads https://example.org/x"),
    ],
)
def test_the_check_finds(tmp_path: Path, page: str, fault: str) -> None:
    assert faults(tmp_path, page_html=page) == [f"page.html {fault}"]


def test_the_check_looks_into_style_sheets(tmp_path: Path) -> None:
    sheet = '@import "https://example.org/a.css"; p { src: url(//example.org/font.woff2) }'
    assert faults(tmp_path, site_css=sheet) == [
        "site.css loads https://example.org/a.css",
        "site.css loads //example.org/font.woff2",
    ]
