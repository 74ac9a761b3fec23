# SPDX-License-Identifier: Apache-2.0
"""``nox -s docs``: build the site, check it and look at it; ``nox -s docs -- serve`` shows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from website import check, look, stage

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "docs"
PORT = 8000


def build() -> Path:
    """The folder of the site, made anew; a link that leads nowhere ends the program."""
    site = BUILD / "html"
    stage.write(ROOT, BUILD / "pages")
    shutil.rmtree(site, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "--jobs", "auto"]
    strict = ["--fail-on-warning", "--keep-going", "--fresh-env"]
    folders = ["-c", str(ROOT / "docs" / "website"), "-d", str(BUILD / "doctrees")]
    done = subprocess.run(
        [*sphinx, *strict, *folders, str(BUILD / "pages"), str(site)], check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return site


def main(arguments: list[str]) -> None:
    """Build, and then check or serve."""
    site = build()
    if arguments == ["serve"]:
        with look.served(site, PORT) as address:
            print(f"The site is at {address} until Ctrl-C. Start again after a change.")
            while True:
                time.sleep(3600)
    if arguments:
        sys.exit(f"expected nothing or serve, found {' '.join(arguments)}")
    found = list(check.faults(site))
    if executable := look.browser():
        found += look.faults(site, executable)
    elif os.environ.get("KICKBENCH_REQUIRE_BROWSER"):
        sys.exit("the site must be looked at in a browser, but there is none, or no Playwright")
    else:
        print("There is no browser, or no Playwright: nobody has looked at the site.")
    if found:
        sys.exit("\n".join(found))
    print(f"The site is in {site.relative_to(ROOT)}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
