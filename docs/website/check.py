# SPDX-License-Identifier: Apache-2.0
"""Whether the built pages hold together: every link leads somewhere, and nothing loads from afar.

Sphinx checks the links of the Markdown. This checks what came of it, with the theme's own links.
Links to other hosts are a reader's to follow, and are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADS = {"src", "srcset", "poster", "data"}
_CSS_LOAD = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in _LOADS or (tag == "link" and name == "href"):
                self.loads.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "style":
                self.loads += _CSS_LOAD.findall(value)


def faults(site: Path) -> Iterator[str]:
    """What is wrong with the pages in this folder, a line each."""
    pages = {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts  # templates of the theme
    }
    for path, page in pages.items():
        name = path.relative_to(site)
        for target in page.loads:
            if _is_elsewhere(target):
                yield f"{name} loads {target}"
            elif not target.startswith("data:") and not _file(path, target).is_file():
                yield f"{name} loads {target}, which is not there"
        for target in page.links:
            there, anchor = _file(path, target), unquote(urlsplit(target).fragment)
            if _is_elsewhere(target):
                continue
            if not there.is_file():
                yield f"{name} links to {target}, which is not there"
            elif anchor and there in pages and anchor not in pages[there].anchors:
                yield f"{name} links to {target}, which has no such anchor"
    for sheet in sorted(site.rglob("*.css")):
        for target in _CSS_LOAD.findall(sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(site)} loads {target}"


def _is_elsewhere(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc or parts.scheme not in ("", "data"))


def _file(page: Path, target: str) -> Path:
    path = unquote(urlsplit(target).path)
    return (page.parent / path).resolve() if path else page
