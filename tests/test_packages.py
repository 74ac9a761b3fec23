# SPDX-License-Identifier: Apache-2.0
"""The packages as users get them. ``nox -s packages`` builds them and runs these tests."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from tiny import tiny

from kickbench.arch import ARCHS

ROOT = Path(__file__).resolve().parents[1]
MACHINE = os.uname().machine

pytestmark = pytest.mark.packages


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder of the sdist and of a wheel for each architecture."""
    folder = os.environ.get("KICKBENCH_PACKAGES")
    if not folder:
        pytest.skip("no packages were built: nox -s packages")
    return Path(folder)


def wheel(packages: Path, machine: str = MACHINE) -> Path:
    (found,) = packages.glob(f"*_{machine}.whl")
    return found


def names(package: Path) -> set[str]:
    with zipfile.ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def content(package: Path, name: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(name)


def test_a_wheel_asks_for_no_newer_glibc_than_its_tag_says(packages: Path) -> None:
    """Its own libraries, and those that it has for the other architecture."""
    for machine in ARCHS:
        package = wheel(packages, machine)
        tagged = max(map(int, re.findall(rf"manylinux_2_(\d+)_{machine}", package.name)))
        asked = [(2, tagged)]
        for name in names(package):
            if name.endswith(".so"):
                asked += glibc_versions(content(package, name))
        assert len(asked) > 10
        assert max(asked) == (2, tagged)


def glibc_versions(library: bytes) -> Iterator[tuple[int, ...]]:
    needed = ELFFile(io.BytesIO(library)).get_section_by_name(".gnu.version_r")
    for _, versions in needed.iter_versions():
        for version in versions:
            _, _, number = version.name.partition("GLIBC_")
            yield tuple(map(int, number.split(".")))


def test_both_wheels_have_the_same_files_but_for_the_architecture(packages: Path) -> None:
    one, other = (
        {name for name in names(wheel(packages, machine)) if not name.endswith((".bin", ".o"))}
        for machine in ARCHS
    )
    of_one = {name for name in one ^ other if not re.search("x86_64|aarch64", name)}
    assert of_one == set()


def test_the_engine_of_a_wheel_is_the_one_that_the_other_wheel_has_for_its_machine(
    packages: Path,
) -> None:
    """The tests in the lab's arm64 machine run the latter."""
    one, other = ARCHS
    for own, has in ((one, other), (other, one)):
        engine = content(wheel(packages, own), "kickbench/engine/kickbench_engine.so")
        sent = f"kickbench/remote/{own}/engine/kickbench_engine.so"
        assert engine == content(wheel(packages, has), sent)


def test_the_sdist_has_all_of_the_repository_but_results(packages: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    left_out = {name for name in tracked if name.startswith(("results/", "reports/"))}
    assert tracked - left_out <= found
    assert not {name for name in found if name.startswith(("results/", "reports/"))}


def test_the_sdist_builds_without_a_network_what_the_checkout_builds(
    packages: Path, tmp_path: Path
) -> None:
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot make a namespace without a network")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    needs = ["scikit-build-core>=0.10", "cmake", "ninja"]
    house, built = tmp_path / "house", tmp_path / "built"
    subprocess.run([*pip, "download", "--dest", house, *needs], check=True)
    (sdist,) = packages.glob("*.tar.gz")
    build = ["wheel", "--no-deps", "--no-index", "--find-links", house, "--wheel-dir", built, sdist]
    # Without the user's settings, which may name more places to look at.
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    subprocess.run([*alone, *pip, *build], check=True, env=environment)
    (package,) = built.glob("*.whl")
    assert names(package) == names(wheel(packages))


@dataclass(frozen=True)
class Installed:
    """kickbench in the home of a user who has nothing else."""

    home: Path
    share: Path
    """Of the environment that the installer made."""

    def run(self, *command: str, **more: str) -> str:
        own = {"HOME": str(self.home), "PATH": f"{self.home}/.local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            command,
            cwd=self.home,
            env={**own, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


INSTALLERS = {
    "pipx": (["pipx", "install", "--python", sys.executable], "pipx/venvs/kickbench"),
    "uv": (["uv", "tool", "install", "--python", sys.executable], "uv/tools/kickbench"),
}


@pytest.fixture(scope="module", params=INSTALLERS)
def installed(
    request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    command, place = INSTALLERS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    home = tmp_path_factory.mktemp(request.param)
    theirs = ("PIPX_", "UV_", "XDG_", "HOME", "VIRTUAL_ENV", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    # What was downloaded before need not be downloaded again.
    caches = {
        "PIP_CACHE_DIR": Path.home() / ".cache/pip",
        "UV_CACHE_DIR": Path.home() / ".cache/uv",
    }
    environment |= {name: str(folder) for name, folder in caches.items()}
    subprocess.run([*command, wheel(packages)], check=True, env={**environment, "HOME": str(home)})
    return Installed(home, home / ".local/share" / place / "share")


def test_an_installer_gives_the_command_its_manual_pages_and_completions(
    installed: Installed,
) -> None:
    assert installed.run("kickbench", "--version").startswith("kickbench ")
    assert "smp_windows_like" in installed.run("kickbench", "scenario", "list")
    completions = {
        "bash-completion/completions/kickbench",
        "fish/vendor_completions.d/kickbench.fish",
        "zsh/site-functions/_kickbench",
    }
    assert all((installed.share / name).is_file() for name in completions)
    if shutil.which("man"):
        place = str(installed.share / "man")
        assert installed.run("man", "-w", "kickbench-run", MANPATH=place).startswith(place)


@pytest.mark.kvm
def test_what_an_installer_installed_measures_and_reports(installed: Installed) -> None:
    (installed.home / "tiny.toml").write_text(tiny())
    installed.run("kickbench", "run", "tiny.toml")
    assert "immediate_exit" in installed.run("kickbench", "show", "results")
    installed.run("kickbench", "report", "results")
    assert list((installed.home / "reports").glob("*.html"))
