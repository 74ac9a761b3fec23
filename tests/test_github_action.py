# SPDX-License-Identifier: Apache-2.0
"""The gate for pull requests: action.yml, its scripts, and the comment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import markdown_it
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kickbench.lab import build as builder
from kickbench.lab.explain.explain import Explained, Explanation
from kickbench.lab.explain.gate import grew, to_markdown
from kickbench.lab.explain.subject import EXIT

ROOT = Path(__file__).parents[1]
ACTION = ROOT / "action.yml"
SCRIPTS = ROOT / "packaging/github"

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
counts = st.dictionaries(st.tuples(names, names), st.integers(1, 10_000), min_size=1, max_size=4)
method_counts = st.dictionaries(names, counts, max_size=3)


def explanation(kernel: str, methods: dict[str, dict[tuple[str, ...], int]]) -> Explanation:
    found = [Explained(name, EXIT, Counter(paths), 1.0, {}) for name, paths in methods.items()]
    return Explanation("QEMU", kernel, "a", found, {})


def beside(tmp_path: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these commands are found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
        "RUNNER_TEMP": str(temporary),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }


# --- the comment --------------------------------------------------------------------------------


def test_the_comment_says_what_grew_by_function() -> None:
    before = explanation("6.12", {"a": {("loop", "run"): 90}, "b": {("loop",): 10}})
    after = explanation(
        "6.13", {"a": {("loop", "run"): 90, ("loop", "fix"): 7}, "b": {("loop",): 9}}
    )
    assert [(one.after.method, one.difference) for one in grew(after, before)] == [("a", 7)]
    text = to_markdown(after, before)
    assert text.startswith("**With a, an exit takes 7 more instructions.**\n\n")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| an exit | `a` | 90 | 97 | +7 |" in lines
    assert "| an exit | `b` | 10 | 9 | -1 |" in lines
    assert "| `fix` | 0 | 7 | +7 |" in lines


def test_the_comment_says_so_if_nothing_grew() -> None:
    same = explanation("6.12", {"a": {("loop",): 90}})
    assert grew(same, same) == []
    assert to_markdown(same, same).startswith("**No exit and no kick takes more instructions.**")
    none = explanation("6.12", {})
    assert to_markdown(none, same).startswith("**Nothing could be counted with both kernels.**")


@given(method_counts, method_counts)
def test_any_counts_are_a_comment(after: dict[str, Any], before: dict[str, Any]) -> None:
    new, old = explanation("new", after), explanation("old", before)
    text = to_markdown(new, old)
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    both = [name for name in after if name in before]
    more = [n for n in both if sum(after[n].values()) > sum(before[n].values())]
    assert sorted(one.after.method for one in grew(new, old)) == sorted(more)
    differ = [n for n in both if sum(after[n].values()) != sum(before[n].values())]
    assert html.count("<table>") == (1 if both else 0) + len(differ)
    assert html.count("<details>") == html.count("</details>") == len(differ)


# --- the action ---------------------------------------------------------------------------------


def test_the_action_is_one_that_github_takes() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-actions",
    ]
    done = subprocess.run([*command, ACTION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_its_scripts_get_what_they_read() -> None:
    action = yaml.safe_load(ACTION.read_text())
    steps = action["runs"]["steps"]
    assert [Path(step["run"].split('"')[1]).name for step in steps] == [
        "install",
        "count",
        "comment",
    ]
    for step in steps:
        script = (SCRIPTS / Path(step["run"].split('"')[1]).name).read_text()
        assert all(f"${name}" in script for name in step.get("env", {}) if name != "GH_TOKEN")
    used = {key for key in action["inputs"] if f"inputs.{key}" in ACTION.read_text()}
    assert used == action["inputs"].keys()


@pytest.mark.parametrize("name", ["install", "count", "comment"])
def test_the_scripts_are_sound(name: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    checker = shutil.which("shellcheck", path=path)
    assert checker is not None
    done = subprocess.run([checker, SCRIPTS / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_later_comment_changes_the_first(tmp_path: Path) -> None:
    # GitHub's command is not here: what it is asked is what is looked at.
    env = beside(
        tmp_path,
        gh='printf "%s\\n" "$*" >> "$CALLS"; case "$*" in *--jq*) cat "$IDS";; esac',
    )
    (tmp_path / "markdown").write_text("**No exit takes more.**\n")
    ids, calls = tmp_path / "ids", tmp_path / "calls"
    env |= {"MARKDOWN": str(tmp_path / "markdown"), "NUMBER": "7", "GITHUB_REPOSITORY": "me/linux"}
    env |= {"IDS": str(ids), "CALLS": str(calls)}
    for known, asked in (
        ("", "--method POST repos/me/linux/issues/7/comments"),
        ("42\n", "--method PATCH repos/me/linux/issues/comments/42"),
    ):
        ids.write_text(known)
        calls.write_text("")
        subprocess.run(["bash", SCRIPTS / "comment"], env=env, check=True)
        assert asked in calls.read_text()
        assert "body=<!-- kickbench -->\n**No exit takes more.**" in calls.read_text()


def test_what_is_missing_is_installed_and_no_more(tmp_path: Path) -> None:
    env = beside(
        tmp_path,
        python3='mkdir -p "$3/bin"; cp "$(dirname "$0")/pip" "$3/bin/"',
        pip="true",
        kickbench="""echo '{"tools": [
            {"package": "flex", "users": ["build"], "found": null},
            {"package": "bison", "users": ["build"], "found": "/usr/bin/bison"},
            {"package": "linux-source-6.12", "users": ["build"], "found": null},
            {"package": "qemu-system-x86", "users": ["amd-count"], "found": null},
            {"package": "bochs", "users": ["intel-vmx"], "found": null}]}'; exit 3""",
        sudo='echo "$*" >> "$RUNNER_TEMP/sudo"',
    )
    env |= {"GITHUB_PATH": str(tmp_path / "path"), "GITHUB_ACTION_PATH": str(ROOT)}
    subprocess.run(["bash", SCRIPTS / "install"], env=env, check=True)
    last = (tmp_path / "temporary/sudo").read_text().splitlines()[-1]
    assert last.endswith(" --no-install-recommends flex qemu-system-x86")


@pytest.mark.lab("amd-count", "no-immediate-exit")
def test_two_kernels_are_counted_for_real(tmp_path: Path) -> None:
    """The kernels are those of the lab, because to build two takes half an hour."""
    source = tmp_path / "linux"
    git = ["git", "-C", str(source), "-c", "user.name=me", "-c", "user.email=me@localhost"]
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    for name in ("before", "after"):
        (source / "which").write_text(name)
        subprocess.run([*git, "add", "which"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", name], check=True)
    before, after = builder.built(config="no-immediate-exit"), builder.built()
    env = beside(
        tmp_path,
        kickbench=f"""
if [ "$1 $2" = "lab build" ]; then
    grep -q before "${{@: -1}}/which" && echo "{before}" || echo "{after}"
else
    exec "{sys.executable}" -P -m kickbench "$@" --no-lines
fi""",
    )
    env |= {"SOURCE": str(source), "BASE": "HEAD~1", "SCENARIO": "instruction_counts"}
    env |= {"METHODS": "sigmask,flag_signal", "FAIL": "true"}
    done = subprocess.run(["bash", SCRIPTS / "count"], env=env, capture_output=True, text=True)
    comment = tmp_path / "temporary/kickbench.md"
    assert (tmp_path / "output").read_text() == f"markdown={comment}\n", done.stderr
    text = comment.read_text()
    assert text == (tmp_path / "summary").read_text()
    grew_there = "more instructions" in text.splitlines()[0] and "No exit" not in text
    assert done.returncode == (1 if grew_there else 0), done.stderr
    assert "`sigmask`" in text
    # The worktree is gone, and the caller's tree is as it was.
    worktrees = subprocess.run(
        [*git, "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1
    assert (source / "which").read_text() == "after"
