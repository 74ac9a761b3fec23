# SPDX-License-Identifier: Apache-2.0
"""What the agent on another machine imports: Python 3.9's standard library only.

The agent examines that machine as the doctor does, and its workers measure it.
"""

from __future__ import annotations

import ast
import builtins
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BEGINNINGS = (
    *(f"kickbench.agent.{path.stem}" for path in (ROOT / "kickbench" / "agent").glob("*.py")),
    "kickbench.run.worker",
    "kickbench.host.doctor",
)


def source_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((one for one in found if one.is_file()), None)


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that Python evaluates: no annotations, and nothing for a type checker alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from evaluated(child)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """What a module imports, in its functions too. A name may be a module or something in it."""
    for node in evaluated(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def agents_modules() -> dict[str, Path]:
    """All modules of kickbench that these import, with their files."""
    found: dict[str, Path] = {}
    todo = list(BEGINNINGS)
    while todo:
        module = todo.pop()
        if module in found or not module.startswith("kickbench"):
            continue
        if path := source_of(module):
            found[module] = path
            todo += imports_of(ast.parse(path.read_text()))
        # Python imports the package of a module first. And what is no module is a name in one.
        todo.append(module.rpartition(".")[0])
    return found


MODULES = agents_modules()

IMPORT_ALL = """
import importlib, sys

class StandardLibrary:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "kickbench"}:
            raise ImportError(f"{name} is not in the standard library")

sys.meta_path.insert(0, StandardLibrary())
sys.path.append(sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_they_import_the_standard_library_only() -> None:
    # -S: there are no other packages.
    names = sorted(MODULES.keys() - {"kickbench.agent.bootstrap"})  # is sent, and not imported
    command = [sys.executable, "-S", "-c", IMPORT_ALL, str(ROOT), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_oldest_python_imports_them() -> None:
    python = shutil.which("python3.9")
    if (
        python is None
        or subprocess.run([python, "-V"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no python3.9")
    names = sorted(MODULES.keys() - {"kickbench.agent.bootstrap"})
    code = "import importlib, sys\nsys.path.append(sys.argv[1])\n"
    code += "for name in sys.argv[2:]: importlib.import_module(name)"
    command = [python, "-S", "-c", code, str(ROOT), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_their_functions_do_so_too(module: str) -> None:
    names = {name.partition(".")[0] for name in imports_of(ast.parse(MODULES[module].read_text()))}
    assert names <= {*sys.stdlib_module_names, "kickbench"}


def test_the_linters_check_them_as_python_3_9() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    globs = settings["per-file-target-version"]
    assert set(globs.values()) == {"py39"}
    named = {path for glob in globs for path in ROOT.glob(glob)}
    assert named == set(MODULES.values())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_union_of_types_is_evaluated(module: str) -> None:
    """Python 3.9 has ``X | None`` in annotations only, and no linter tells."""

    def is_type(node: ast.expr) -> bool:
        """By its name: that of a class begins with a capital, and that of a constant has only
        capitals."""
        if isinstance(node, ast.Subscript):
            return is_type(node.value)
        if isinstance(node, ast.Constant):
            return node.value is None
        name = ast.unparse(node).rpartition(".")[2]
        return isinstance(getattr(builtins, name, None), type) or (
            name[:1].isupper() and not name.isupper()
        )

    unions = [
        ast.unparse(node)
        for node in evaluated(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
        if is_type(node.left) or is_type(node.right)
    ]
    assert unions == []
