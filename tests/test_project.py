# SPDX-License-Identifier: Apache-2.0
"""The repository itself: what its documents promise is there, and nothing is in it that is not."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tokenize
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import kickbench
from kickbench.cli import COMMANDS
from kickbench.errors import EXIT_HOST, EXIT_OK

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def files() -> tuple[Path, ...]:
    """What is, or would be, in the repository: tracked files, and new ones that are not ignored."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return tuple(path for path in dict.fromkeys(paths) if path.is_file())


def markdown() -> list[Path]:
    return [path for path in files() if path.suffix == ".md"]


def code_lines(document: str) -> list[str]:
    """The lines of a document's indented and fenced code blocks."""
    fenced = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", document, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", document, re.MULTILINE)
    return [line.strip() for block in fenced for line in block.splitlines()] + indented


def commands(document: str) -> list[list[str]]:
    """The ``kickbench`` commands in a document's code blocks, as argument lists."""
    found = []
    for line in code_lines(document):
        match = re.match(r"(?:\$ )?(?:\.venv/bin/)?(kickbench .*)", line)
        if match and not match[1].startswith("kickbench:"):
            found.append(shlex.split(match[1], comments=True)[1:])
    return found


# --- the two commands --------------------------------------------------------------------------


def ci_line() -> str:
    lines = [line for line in text(".ci/run").splitlines() if line.endswith("nox -s tests")]
    (line,) = lines
    return line


def test_the_readme_has_the_very_test_command_of_ci() -> None:
    assert ci_line() in code_lines(text("README.md"))


def test_both_commands_of_the_readme_set_up_alike_and_go_through_nox() -> None:
    set_up, and_, test = ci_line().rpartition(" && ")
    assert test == ".venv/bin/nox -s tests"
    lines = code_lines(text("README.md"))
    assert f"{set_up}{and_}.venv/bin/nox -s bench -- scenarios/smp_windows_like.toml" in lines
    assert (ROOT / "scenarios" / "smp_windows_like.toml").is_file()


def test_ci_is_what_the_workflow_runs_and_demands_kvm_and_a_browser() -> None:
    assert "run: .ci/run" in text(".github/workflows/ci.yml")
    for demand in ("KICKBENCH_REQUIRE_KVM=1", "KICKBENCH_REQUIRE_BROWSER=1"):
        assert demand in text(".ci/run")
    assert {".venv/bin/nox -s lint", ".venv/bin/nox -s docs"} <= {*text(".ci/run").splitlines()}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_sessions_that_the_documents_name_exist() -> None:
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)", text("noxfile.py"), re.MULTILINE))
    assert {"bench", "tests", "lint", "docs", "benchmark"} <= sessions
    for path in markdown():
        named = re.findall(r"nox -s (\w+)", path.read_text(encoding="utf-8"))
        assert set(named) <= sessions, path


# --- what the documents say --------------------------------------------------------------------


def test_every_command_in_the_documents_exists() -> None:
    for path in markdown():
        for arguments in commands(path.read_text(encoding="utf-8")):
            first = next(iter(arguments), "")
            assert first in COMMANDS or first.startswith("-"), f"{path.name}: {arguments}"


CHEAP = {"methods", "doctor", "scenario"}


def cheap_commands() -> list[list[str]]:
    return [c for c in commands(text("README.md")) if c and (c[0] in CHEAP or c[0][0] == "-")]


def test_the_readme_shows_cheap_commands() -> None:
    assert {arguments[0] for arguments in cheap_commands()} >= {"methods", "doctor", "scenario"}


@pytest.mark.parametrize("arguments", cheap_commands(), ids=" ".join)
def test_a_command_of_the_readme_works(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kickbench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode in (EXIT_OK, EXIT_HOST), done.stderr
    assert done.stderr == ""
    assert done.stdout


def test_the_readme_says_every_exit_code() -> None:
    codes = re.findall(r"^\| (\d+) \|", text("README.md"), re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "130"]


def test_links_lead_somewhere() -> None:
    link = re.compile(r"\]\(([^()\s]+)\)")
    for path in markdown():
        for target in link.findall(path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path.relative_to(ROOT)}: {target}"
            assert there.is_relative_to(ROOT)
            if anchor:
                assert anchor in anchors(there), f"{path.relative_to(ROOT)}: {target}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PACKAGE_PATH = re.compile(r"`((?:kickbench|docs|tests|benchmarks|scenarios|\.ci)/[\w./-]+)`")


def test_files_that_the_documents_name_are_there() -> None:
    for path in markdown():
        for name in PACKAGE_PATH.findall(path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"


def test_functions_that_the_method_names_are_in_the_file_beside_them() -> None:
    """docs/method.md names its evidence as `function` (`file`): both must be right."""
    evidence = re.findall(
        r"`(\w+)(?:\(\))?` \(`([\w./-]+\.(?:py|c|h|S|inc))`\)", text("docs/method.md")
    )
    assert len(evidence) >= 10
    for name, file in evidence:
        assert re.search(rf"\b{name}\b", text(file)), f"{name} in {file}"


ARCH = ROOT / "kickbench/engine/include/kickbench/arch"
OF_AN_ARCHITECTURE = re.compile(
    r"x86|amd64|i[36]86|rdtsc|_mm_|ia32|immintrin|cpuid"
    r"|aarch64|arm64|__arm|riscv|powerpc|s390|\basm\b|__asm",
    re.IGNORECASE,
)
C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def test_only_the_headers_of_arch_know_an_architecture() -> None:
    """In the engine and the protocols. Comments may: a fact about one is a fact."""
    found = {}
    for folder in ("kickbench/engine", "kickbench/methods"):
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            code = C_COMMENT.sub("", path.read_text(encoding="utf-8"))
            found[path] = bool(OF_AN_ARCHITECTURE.search(code))
    assert {path.parent for path in found if found[path]} == {ARCH}
    assert len(found) > 20


OF_AN_ARCHITECTURE_IN_PYTHON = re.compile(
    r"x86|amd64|i[36]86|rdtsc|sregs|kvm_intel|kvm_amd|aarch64|arm64|riscv|powerpc|s390",
    re.IGNORECASE,
)
ROOMS_OF_ONE_ARCHITECTURE = {
    "arch": "a module for each",
    "nested": "the guest hypervisor is of VMX and SVM",
    "lab": "the machines that it emulates",
}


def test_only_arch_knows_an_architecture_in_python() -> None:
    """And what can be of one architecture only. Comments, docstrings and the kernel's names may."""
    found = set()
    for path in sorted((ROOT / "kickbench").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        docstrings = {
            (node.value.lineno, node.value.col_offset)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT or token.start in docstrings:
                continue
            if OF_AN_ARCHITECTURE_IN_PYTHON.search(token.string.removeprefix("KVM_EXIT_X86_")):
                found.add(path.relative_to(ROOT / "kickbench").parts[0])
    assert found <= set(ROOMS_OF_ONE_ARCHITECTURE)
    assert "arch" in found


# --- versions, licence -------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("kickbench") == kickbench.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", kickbench.__version__)
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", text("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == kickbench.__version__
    assert re.search(r"^## \[?Unreleased\]?$", text("CHANGELOG.md"), re.MULTILINE)


def test_the_licence_is_apache_2() -> None:
    assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert tomllib.loads(text("pyproject.toml"))["project"]["license"] == (
        "Apache-2.0 AND GPL-2.0-only"  # patches of the lab's kernel
    )
    assert text("LICENSES/GPL-2.0-only.txt").split()[:6] == [
        "GNU",
        "GENERAL",
        "PUBLIC",
        "LICENSE",
        "Version",
        "2,",
    ]


COMMENT = {".py": "# {}", ".c": "/* {} */", ".h": "/* {} */", ".S": "/* {} */", ".inc": "/* {} */"}


def test_every_source_file_begins_with_its_licence() -> None:
    for path in files():
        if path.suffix not in COMMENT:
            continue
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        package = ROOT / "kickbench"
        # What runs in the kernel or in QEMU, in the kernel's form.
        theirs = (package / "lab/explain/plugin.c", package / "watch/watch.bpf.c")
        if path.is_relative_to(package / "lab/kernel") or path in theirs:
            assert first == "// SPDX-License-Identifier: GPL-2.0-only", path.relative_to(ROOT)
            continue
        expected = COMMENT[path.suffix].format("SPDX-License-Identifier: Apache-2.0")
        assert first == expected, path.relative_to(ROOT)


# --- what must not be in it --------------------------------------------------------------------

# Written so that none of them matches itself.
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.])/(?:wor[k]|home/\w+|roo[t]|tmp/ven[v])/",
    "a private or a public package host": r"pypi\.(?:org|io)|pythonhosted\.|index-[u]rl",
    "how it was written": (
        r"\b(?:sub-?agen[t]|coding agen[t]|agenti[c]|language mode[l]|LL[M]|claud[e]|anthropi[c]|"
        r"chatgp[t]|opena[i]|copilo[t]|AI-generate[d]|prompt enginee[r])"
    ),
    "a reference to talk that the reader has not heard": (
        r"\b(?:th(?:is|e) (?:previous|earlier|coding|current) sessio[n]|the lea[d]'s|my brie[f])\b"
    ),
    "a merge conflict": r"^(?:<{7} |>{7} )",
}


def test_nothing_that_is_no_business_of_a_reader_is_in_it() -> None:
    for path in files():
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in FORBIDDEN.items():
            found = [match[0] for match in re.finditer(pattern, content, re.I | re.M)]
            assert not found, f"{path.relative_to(ROOT)}: {what}: {found[:3]}"


def test_nothing_generated_or_large_is_in_it() -> None:
    for path in files():
        name = path.relative_to(ROOT)
        generated = {".so", ".o", ".bin", ".pyc", ".whl"}
        if not name.is_relative_to("tests/data"):  # runs of former versions, which none makes anew
            generated.add(".parquet")
        assert path.suffix not in generated, name
        assert path.stat().st_size < 1 << 20, name


def imports_of(path: Path) -> set[str]:
    """The rooms and files of kickbench/ that a module imports, its own room among them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "kickbench":
            names += [f"kickbench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("kickbench.")}


def test_the_map_is_the_house_and_each_room_imports_only_rooms_below() -> None:
    (figure,) = re.findall(r"```text\n(    floor.*?)```", text("docs/architecture.md"), re.DOTALL)
    floors = {
        room: int(number)
        for number, rooms in re.findall(r"floor (\d+)(.*)", figure)
        for room in re.findall(r"(\w+)/", rooms)
    }
    folders = {path.parent.name for path in (ROOT / "kickbench").glob("*/__init__.py")}
    assert set(floors) == folders
    files = {path.stem for path in (ROOT / "kickbench").glob("*.py")}
    for path in sorted((ROOT / "kickbench").rglob("*.py")):
        room = path.relative_to(ROOT / "kickbench").parts[0]
        for other in imports_of(path) - {room} - files:
            assert room not in floors or floors[other] < floors[room], f"{path} imports {other}/"


def test_no_two_rooms_or_files_import_each_other() -> None:
    """Not by a longer way either."""
    below: dict[str, set[str]] = {}
    for path in sorted((ROOT / "kickbench").rglob("*.py")):
        room = path.relative_to(ROOT / "kickbench").parts[0].removesuffix(".py")
        below.setdefault(room, set()).update(imports_of(path) - {room})
    TopologicalSorter(below).prepare()  # raises CycleError, with the circle


def test_what_is_written_by_hand_has_about_the_lines_that_its_table_says() -> None:
    section = text("docs/architecture.md").partition("## Written by hand")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert rows
    for _, what, said, *_ in rows:
        paths = [ROOT / name for name in re.findall("`([^`]+)`", what)]
        files = [
            file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])
        ]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert lines == pytest.approx(int(said), rel=0.25), what
