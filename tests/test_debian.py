# SPDX-License-Identifier: Apache-2.0
"""The Debian package is of this version, and has the units and the job of packaging/.

That it builds, installs, measures and goes without a trace is shown by ``nox -s debian``.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import kickbench

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
DEBIAN = PACKAGING / "debian"


def paragraphs(name: str) -> list[dict[str, str]]:
    """A file of paragraphs of fields: the values of several lines keep their line ends."""
    found = []
    for text in (DEBIAN / name).read_text().split("\n\n"):
        fields = re.split(r"^([A-Z][\w-]*):", text, flags=re.MULTILINE)[1:]
        found.append(dict(zip(fields[::2], (value.strip() for value in fields[1::2]), strict=True)))
    return found


def test_the_package_has_the_version_of_kickbench() -> None:
    first = (DEBIAN / "changelog").read_text().partition("\n")[0]
    assert first.startswith(f"kickbench ({kickbench.__version__}) ")


def installed(path: Path) -> str | None:
    """The name that debhelper gives a unit or users' file, PACKAGE[@][.NAME].TYPE of debian/."""
    package, _, rest = path.name.partition(".")
    name, _, kind = rest.rpartition(".")
    if rest == "sysusers":
        return f"{package}.sysusers.conf"
    return f"{name}{package.removeprefix('kickbench')}.{kind}" if name else None


def test_the_units_and_the_user_are_those_of_packaging_systemd() -> None:
    found = {installed(path): path.read_text() for path in DEBIAN.glob("kickbench*")}
    found.pop(None)
    assert found == {path.name: path.read_text() for path in (PACKAGING / "systemd").iterdir()}


def test_debhelper_is_told_of_each_unit() -> None:
    names = re.findall(r"dh_installsystemd --name=(\S+)", (DEBIAN / "rules").read_text())
    units = [path for path in (PACKAGING / "systemd").iterdir() if path.suffix != ".conf"]
    assert {*names} == {path.stem.removesuffix("@") for path in units}


def test_a_clean_tree_is_without_the_wheels_of_the_build_and_with_those_of_the_user() -> None:
    """README.source has the user fetch some to build without a network."""
    (made,) = re.findall(r"^wheels := (\S+)$", (DEBIAN / "rules").read_text(), re.MULTILINE)
    (fetched,) = re.findall(r"--wheel-dir (\S+)", (DEBIAN / "README.source").read_text())
    assert (DEBIAN / "clean").read_text().split() == [f"{made}/"]
    assert fetched != made


def test_the_file_of_the_job_is_where_the_service_looks() -> None:
    source, folder = (DEBIAN / "kickbench.install").read_text().split()
    assert (ROOT / source).is_file()
    service = (PACKAGING / "systemd/kickbench-nightly.service").read_text()
    assert f"/{folder}/{Path(source).name}" in service


def test_the_package_wants_the_python_that_kickbench_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    build = paragraphs("control")[0]["Build-Depends"]
    assert f"python3 ({project['requires-python'].replace('>=', '>= ')})" in build


def test_the_copyright_file_has_the_licence_of_each_source_file() -> None:
    rules = [(p["Files"].split(), p["License"]) for p in paragraphs("copyright") if "Files" in p]
    for path in (ROOT / "kickbench").rglob("*"):
        if path.suffix not in {".py", ".c", ".h", ".S", ".md"}:
            continue
        name = path.relative_to(ROOT).as_posix()
        said = re.search(r"SPDX-License-Identifier: (\S+)", path.read_text(encoding="utf-8"))
        # The last paragraph that matches counts. Its * also stands for slashes.
        matching = [one for globs, one in rules if any(fnmatchcase(name, g) for g in globs)]
        if said:
            assert matching[-1] == said[1], name


def test_each_of_lintians_findings_that_stays_has_its_reason() -> None:
    for block in (DEBIAN / "kickbench.lintian-overrides").read_text().split("\n\n"):
        assert block.startswith("# "), block


def test_the_list_of_dependencies_has_their_versions_and_licences() -> None:
    done = subprocess.run(
        [sys.executable, DEBIAN / "list-dependencies"], capture_output=True, text=True, check=True
    )
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in done.stdout.splitlines()}
    assert rows["numpy"][0] == importlib.metadata.version("numpy")
    assert "BSD" in rows["numpy"][1]
    assert "kickbench" not in rows


def test_ci_builds_and_tries_the_package() -> None:
    assert "nox -s debian" in (ROOT / ".ci/run").read_text()
