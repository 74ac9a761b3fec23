# SPDX-License-Identifier: Apache-2.0
"""The pages of the site as a folder of Markdown that Sphinx builds from.

The folder is laid out as the repository, so most links hold as they are. What a link or a path in
backticks names, and is no page of the site, gets a page with its source: a file of the repository
is there for whoever reads the site, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from markdown_it import MarkdownIt

from website import c_hooks, command_line, scenario_keys
from website.navigation import PURPOSES, SECTIONS, Section

HOME = "README.md"
GENERATED: dict[str, Callable[[Path], str]] = {
    "reference/command_line.md": lambda _: command_line.page(),
    "reference/scenario_keys.md": lambda _: scenario_keys.page(),
    "reference/c_hooks.md": c_hooks.page,
}
RUN = "tests/data/schema_2"
"""The run that the notebook reads."""
# What is in none of these may be the work of whoever builds the site, such as a run's results.
_FOLDERS = r"kickbench|docs|tests|benchmarks|scenarios|examples|packaging|\.ci"
_SOURCE_PATH = re.compile(
    rf"(?:{_FOLDERS})/[\w./-]*[\w-]|CMakeLists\.txt|noxfile\.py|pyproject\.toml"
)
_LEXERS = {".py": "python", ".c": "c", ".h": "c", ".toml": "toml", ".sh": "bash", ".patch": "diff"}

_LINK_OR_CODE = re.compile(
    r"\[(?P<text>(?:[^\[\]`]|`[^`]*`)*)\]\((?P<target>[^()\s]+)\)"
    r"|(?P<ticks>`+)(?P<code>.+?)(?P=ticks)(?!`)",
    re.DOTALL,
)
_PICTURE = re.compile(
    r"<picture>\s*<source [^>]*srcset=\"(?P<dark>[^\"]+)\">\s*"
    r"<img alt=\"(?P<alt>[^\"]+)\" src=\"(?P<light>[^\"]+)\">\s*</picture>"
)


class Stage:
    """Collects the pages, and the source files that they lead to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pages = {page for section in SECTIONS for page in section.pages} | {HOME}
        self._sources: set[str] = set()

    def texts(self) -> dict[str, str]:
        """The Markdown of every file of the folder, by its path there."""
        originals = {page: self._original(page) for page in sorted(self._pages)}
        texts = {
            _staged(page): self.rewritten(page, original) for page, original in originals.items()
        }
        texts["index.md"] += _table_of_contents(f"{s.slug}.md" for s in SECTIONS)
        for section in SECTIONS:
            texts[f"{section.slug}.md"] = _landing_page(section, originals)
        for folder in sorted(s for s in self._sources if (self._root / s).is_dir()):
            files = (self._root / folder).iterdir()
            self._sources |= {f"{folder}/{file.name}" for file in files if file.is_file()}
        for source in sorted(self._sources):
            texts[f"source/{source}.md"] = self._source_page(source)
        return texts

    def _original(self, page: str) -> str:
        made = GENERATED.get(page)
        return made(self._root) if made else (self._root / page).read_text(encoding="utf-8")

    def rewritten(self, page: str, text: str) -> str:
        """The page's text with links that hold in the site."""
        if page.endswith(".ipynb"):
            notebook = json.loads(text)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = self._rewritten(page, "".join(cell["source"]))
            return json.dumps(notebook)
        return self._rewritten(page, text)

    def _rewritten(self, page: str, text: str) -> str:
        text = _PICTURE.sub(_picture, text)
        return "".join(
            _LINK_OR_CODE.sub(lambda match: self._link(page, match), part) if is_prose else part
            for is_prose, part in _parts(text)
        )

    def _link(self, page: str, match: re.Match[str]) -> str:
        if code := match["code"]:
            if not _SOURCE_PATH.fullmatch(code) or not (self._root / code).is_file():
                return match[0]
            return f"[{match[0]}]({self._target(page, code)})"
        file, hash_, anchor = match["target"].partition("#")
        path = os.path.normpath((PurePosixPath(page).parent / file).as_posix())
        if not file or not (path in self._pages or (self._root / path).exists()):
            return match[0]  # elsewhere, or on this page, or wrong: Sphinx says so
        return f"[{match['text']}]({self._target(page, path)}{hash_}{anchor})"

    def _target(self, page: str, path: str) -> str:
        if path not in self._pages:
            self._sources.add(path)
        there = _staged(path) if path in self._pages else f"source/{path}.md"
        return os.path.relpath(there, PurePosixPath(_staged(page)).parent)

    def _source_page(self, source: str) -> str:
        path = self._root / source
        head = f"---\norphan: true\nnosearch: true\n---\n\n# {source}\n\n"
        if path.is_dir():
            files = sorted(file.name for file in path.iterdir() if file.is_file())
            return head + "".join(f"- [`{file}`]({path.name}/{file}.md)\n" for file in files)
        text = path.read_text(encoding="utf-8")
        fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
        lexer = _LEXERS.get(path.suffix, "text")
        return f"{head}{fence}{lexer}\n{text.rstrip()}\n{fence}\n"


def write(root: Path, folder: Path) -> None:
    """Make the folder anew from the repository at ``root``."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in Stage(root).texts().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for data in ("docs/images", RUN):
        shutil.copytree(root / data, folder / data)


def _staged(page: str) -> str:
    return "index.md" if page == HOME else page


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """The text in parts, and of each whether it is prose: neither code, nor HTML, nor a heading."""
    lines = text.splitlines(keepends=True)
    prose = [True] * len(lines)
    for token in MarkdownIt().enable("table").parse(text):
        if token.map and token.type in ("fence", "code_block", "html_block", "heading_open"):
            prose[slice(*token.map)] = [False] * (token.map[1] - token.map[0])
    begin = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or prose[end] != prose[begin]:
            yield prose[begin], "".join(lines[begin:end])
            begin = end


def _picture(match: re.Match[str]) -> str:
    """A picture for each of the site's colour schemes, whatever the system's is."""
    return "\n\n".join(
        f"```{{image}} {match[scheme]}\n:class: only-{scheme}\n:alt: {match['alt']}\n```"
        for scheme in ("light", "dark")
    )


def _landing_page(section: Section, originals: dict[str, str]) -> str:
    def entries(pages: tuple[str, ...]) -> str:
        return "".join(
            f"- [{_title(originals[page])}]({page}): {PURPOSES[page]}\n" for page in pages
        )

    text = f"# {section.title}\n\n{section.need}\n\n{entries(section.pages)}"
    if section.see_also:
        text += f"\nSee also:\n\n{entries(section.see_also)}"
    return text + _table_of_contents(section.pages)


def _table_of_contents(pages: Iterator[str] | tuple[str, ...]) -> str:
    return "\n".join(["\n```{toctree}", ":hidden:", "", *pages, "```", ""])


def _title(text: str) -> str:
    if text.startswith("{"):  # a notebook
        text = json.loads(text)["cells"][0]["source"][0]
    return text.partition("\n")[0].removeprefix("# ")
