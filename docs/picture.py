# SPDX-License-Identifier: Apache-2.0
"""Make the pictures of the documentation, docs/images/NAME-*.png, from a run.

    python docs/picture.py RUN                                          # report-*, of the README
    python docs/picture.py RUN --name observed --figure observed-kicks  # of docs/observe.md

It writes the run's report, opens it in the system's Chromium, once in light and once in dark, and
keeps a row of figures with their heading: by default the first.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH, MARGIN = 1100, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default="report", help="the begin of the files' names")
    parser.add_argument("--figure", default="", help="the name of a figure")
    arguments = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("there is no Chromium and no Chrome here: apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = [sys.executable, "-m", "kickbench", "report", str(arguments.run), "-o", folder]
        subprocess.run(command, check=True, capture_output=True)
        (page_file,) = (path for path in Path(folder).glob("*.html") if path.stem != "index")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": WIDTH},
                color_scheme="light" if scheme == "light" else "dark",
            )
            page.goto(page_file.as_uri())
            heading = page.locator(f"h3[id^=figure-{arguments.figure}]").first
            drawing = heading.locator("xpath=..").locator("figure").first
            top, figure = heading.bounding_box(), drawing.bounding_box()
            assert top is not None
            assert figure is not None
            end = figure["y"] + figure["height"] + MARGIN
            page.screenshot(
                path=IMAGES / f"{arguments.name}-{scheme}.png",
                full_page=True,
                clip={
                    "x": 0,
                    "y": top["y"] - MARGIN,
                    "width": WIDTH,
                    "height": end - top["y"] + MARGIN,
                },
            )
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
