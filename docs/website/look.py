# SPDX-License-Identifier: Apache-2.0
"""The built site in a real browser: on a phone and a desktop, light and dark, and searched.

It is served from this machine, and a request to anywhere else is a fault.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WIDTHS = (360, 1280)
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# Elements that reach beyond the window, and are in no box that scrolls. The theme cuts them off, so
# the page itself never scrolls.
_BEYOND = """() => {
  const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const boxed = e => e.tagName != "ARTICLE" && (scrolls(e) || boxed(e.parentElement));
  const beyond = e => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e.parentElement);
  const found = [...document.querySelectorAll("article *")].filter(beyond);
  return found.map(e => e.innerText || e.tagName);
}"""
# Words to search for, and a page that has them.
_SEARCHES = {"siglock": "docs/method.html", "exit_rate_hz": "reference/scenario_keys.html"}
# Contrast is looked for on pages that have one of everything between them.
_ACCESSIBLE = ("index.html", "docs/method.html", "docs/protocols.html", "reference/c_hooks.html")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nobody needs to know each request."""


@contextmanager
def served(site: Path, port: int = 0) -> Iterator[str]:
    """The address of the site, while it is served on this machine; port 0 is any free one."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def browser() -> str | None:
    """The path of a browser, or None when there is none or nothing to drive it with."""
    try:
        import axe_playwright_python
        import playwright
    except ImportError:
        return None
    del axe_playwright_python, playwright
    named = os.environ.get("KICKBENCH_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _CHROMIUM)), None)


def faults(site: Path, executable: str) -> Iterator[str]:
    """What is wrong with the look of the site in this folder, a line each."""
    from playwright.sync_api import sync_playwright

    pages = [
        path.relative_to(site).as_posix()
        for path in sorted(site.rglob("*.html"))
        if not path.is_relative_to(site / "source") and "_static" not in path.parts
    ]
    with served(site) as address, sync_playwright() as playwright:
        # Chromium has no sandbox for root.
        chromium = playwright.chromium.launch(
            executable_path=executable, chromium_sandbox=os.geteuid() != 0
        )
        page = chromium.new_page(reduced_motion="reduce")
        seen: list[str] = []
        page.on("request", lambda r: seen.append(f"requests {r.url}") if foreign(r.url) else None)
        page.on("requestfailed", lambda request: seen.append(f"misses {request.url}"))
        page.on("pageerror", lambda error: seen.append(f"has an error: {error}"))

        def foreign(url: str) -> bool:
            return not url.startswith((address, "data:", "blob:"))

        for name in pages:
            seen.clear()
            page.goto(address + name)
            for width in _WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    yield f"{name} is {wide} pixels wide in a window of {width}"
                for text in dict.fromkeys(page.evaluate(_BEYOND)):
                    yield f"{name} is cut off in a window of {width}: {text}"
            yield from (f"{name} {what}" for what in dict.fromkeys(seen))
        for words, expected in _SEARCHES.items():
            page.goto(f"{address}search.html?q={words}")
            page.wait_for_selector("#search-results ul.search li")
            page.wait_for_function("document.querySelector('.search-summary')?.innerText.length")
            found = page.eval_on_selector_all("ul.search a", "all => all.map(a => a.href)")
            if not any(link.startswith(address + expected) for link in found):
                yield f"a search for {words} does not find {expected}"
        for scheme in _SCHEMES:
            page.emulate_media(color_scheme=scheme)
            for name in _ACCESSIBLE:
                page.goto(address + name)
                # A colour on its way from one scheme to the other has too little contrast.
                page.evaluate("Promise.all(document.getAnimations().map(a => a.finished))")
                yield from (f"{name}, {scheme}: {what}" for what in _axe(page))
        chromium.close()


def _axe(page: Any) -> Iterator[str]:
    from axe_playwright_python.sync_playwright import Axe

    for violation in Axe().run(page).response["violations"]:
        nodes = [str(node["target"]) for node in violation["nodes"]]
        yield f"{violation['help']}: {', '.join(nodes[:3])}"
