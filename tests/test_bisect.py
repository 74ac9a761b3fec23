# SPDX-License-Identifier: Apache-2.0
"""``kickbench bisect``: which commit it finds, what it leaves, and what it refuses.

The repositories and their git are real. The kernel is a makefile that takes no time, and it is
explained here. ``nox -s lab`` has a real machine.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from command import kickbench_captured
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_history import explained, make_history

from kickbench.errors import EXIT_HOST, EXIT_MEASUREMENT, EXIT_USAGE, StorageError, UsageError
from kickbench.lab import tools
from kickbench.lab.bisect import counting, search, words
from kickbench.lab.bisect.counting import case_of
from kickbench.lab.bisect.repository import Commit, Repository, git
from kickbench.lab.emulator import Limits
from kickbench.lab.explain import shared
from kickbench.lab.explain.case import STATE
from kickbench.lab.explain.explain import Explanation
from kickbench.lab.explain.inside import Job
from kickbench.lab.explain.shared import Shared, SharedLine
from kickbench.lab.kbuild import STRUCTS, Tree
from kickbench.scenario.shipped import resolve

NEEDED = ("git", "gcc", "make")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in NEEDED), reason=f"needs {', '.join(NEEDED)}"
)
QUIET_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


@pytest.fixture(autouse=True, scope="module")
def no_settings() -> Iterator[None]:
    """The settings of who runs the tests do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET_GIT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that has all tools, a cache of our own, and explanations made of what was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tools, "TOOLS", [tool for tool in tools.TOOLS if tool.name in NEEDED])
    monkeypatch.setattr(counting.Lab, "what", lambda _: "what")
    monkeypatch.setattr(counting, "explain", explain)
    return tmp_path


def explain(
    _machine: object, kernel: Path, cases: Sequence[object], _limits: object
) -> Explanation:
    (case,) = cases
    return explained(kernel.read_text(), case.state)  # type: ignore[attr-defined]


def bisect(folder: Path, good: str, bad: str, *more: object) -> subprocess.CompletedProcess[str]:
    wanted = ("--source", folder, "--good", good, "--bad", bad)
    return kickbench_captured("bisect", *wanted, *more, env=os.environ)


def state(lab: Path) -> list[str]:
    """What is left in the cache, but for the lock."""
    top = lab / "cache/kickbench/lab/bisect"
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.name != "lock")


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder, with git's own."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"(a folder)"
        for path in folder.rglob("*")
    }


# --- which commit -------------------------------------------------------------------------------


def test_the_commit_that_changed_the_count_is_found(lab: Path) -> None:
    linux = lab / "linux"
    shas = make_history(linux, [100, 100, 100, 110, 110, 110, 110])
    (linux / "count").write_text("the user is editing\n")
    (linux / "new").write_text("the user's own\n")
    git(linux, "add", "new")
    before = files(linux)
    done = bisect(linux, shas[0], "main")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == f"first bad commit: {shas[3]} count: commit 3"
    table = [line.split(maxsplit=3) for line in lines[1 : lines.index("")]]
    assert table[0] == ["100", shas[0][:12], "count:", "commit 0"]
    assert ["110", "+10", shas[3][:12], "count: commit 3"] in table
    words = "An exit, immediate_exit: 110 instructions in 6.12-110, and 100 in 6.12-100: 10 more."
    assert words in lines
    assert any(line.split() == ["kvm_run", "95", "105", "+10"] for line in lines)
    assert files(linux) == before
    (folder,) = state(lab)[:1]
    assert state(lab) == [folder, f"{folder}/log"]
    log = (lab / "cache/kickbench/lab/bisect" / folder / "log").read_text()
    assert f"# first bad commit: [{shas[3]}] count: commit 3" in log


def test_the_commit_after_which_vcpus_share_another_line(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(_: object, kernel: Path, wanted: Sequence[Job], _limits: object) -> list[Shared]:
        assert json.loads(kernel.with_name(STRUCTS).read_text()) == {}
        (job,) = wanted
        assert (len(job.vcpus), job.in_turns) == (2, True)
        uses = {"vCPU 0": (2.0, 1.5), "vCPU 1": (2.0, 1.5)}
        lines = [
            SharedLine("a page of the kernel's", 0, 2.0, 1.5, uses, ["kvm_run"])
            for _ in range(int(kernel.read_text()))
        ]
        return [Shared(job, "immediate_exit", lines)]

    monkeypatch.setattr(shared, "shared", share)
    monkeypatch.setattr(
        Tree, "note_structs", lambda tree: (tree.objects / STRUCTS).write_text("{}")
    )
    shas = make_history(lab / "linux", [1, 1, 2, 2, 2])
    done = bisect(lab / "linux", shas[0], "main", "--metric", "shared_lines")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == f"first bad commit: {shas[2]} count: commit 2"
    assert (
        "new: a page of the kernel's, with 1.5 writes and 2 reads of an exit, by kvm_run" in lines
    )
    assert f"{shas[2][:12]} count: commit 2: 2 shared lines" in done.stderr
    done = bisect(lab / "linux", shas[2], "main", "--metric", "shared_lines")
    assert done.returncode == EXIT_USAGE
    assert "has 2 shared lines, and" in done.stderr


def test_the_objects_are_reused_and_no_commit_is_built_twice(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shas = make_history(lab / "linux", [100, 100, 100, 110, 110, 110, 110])
    seen = []

    def watch(
        machine: object, kernel: Path, cases: Sequence[object], limits: object
    ) -> Explanation:
        seen.append((kernel.parents[3] / "compiled").read_text().split())
        return explain(machine, kernel, cases, limits)

    monkeypatch.setattr(counting, "explain", watch)
    assert bisect(lab / "linux", shas[0], "main").returncode == 0
    # The two ends, and two of the five between. A new folder of objects would begin anew.
    assert [len(compiled) for compiled in seen] == [1, 2, 3, 4]


def test_a_commit_has_half_an_hour_unless_the_user_says_so(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shas = make_history(lab / "linux", [100, 110])
    seen = []

    def watch(
        machine: object, kernel: Path, cases: Sequence[object], limits: Limits
    ) -> Explanation:
        seen.append(limits.total)
        return explain(machine, kernel, cases, limits)

    monkeypatch.setattr(counting, "explain", watch)
    assert bisect(lab / "linux", shas[0], "main").returncode == 0
    assert bisect(lab / "linux", shas[0], "main", "--time-limit", 60).returncode == 0
    assert seen == [1800, 1800, 60, 60]


def test_the_smallest_step_that_counts(lab: Path) -> None:
    shas = make_history(lab / "linux", [100, 101, 101, 102, 102, 112, 112])
    done = bisect(lab / "linux", shas[0], "main", "--min-step", 5)
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[5]} count: commit 5"
    done = bisect(lab / "linux", shas[0], shas[4], "--min-step", 5)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert done.stderr.splitlines()[-1] == (
        f"kickbench: there is no change to find: {shas[0][:12]} has 100 instructions, and "
        f"{shas[4][:12]} has 102, a change of less than --min-step 5"
    )
    assert state(lab) == []


def test_what_does_not_compile_or_boot_is_skipped(lab: Path) -> None:
    shas = make_history(lab / "linux", [100, "broken", 100, 100, 110, "dead", 110, "broken", 110])
    done = bisect(lab / "linux", shas[0], "main")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[4]} count: commit 4"


def test_a_change_among_skipped_commits_names_them_all(lab: Path) -> None:
    shas = make_history(lab / "linux", [100, 100, "broken", "dead", 110, 110])
    done = bisect(lab / "linux", shas[0], "main")
    assert done.returncode == EXIT_MEASUREMENT
    assert done.stderr.splitlines()[-1].startswith("kickbench: the first bad commit is one of 3: ")
    lines = done.stdout.splitlines()
    assert "The change is in one of 3 commits:" in lines
    assert [f"  {sha[:12]} count: commit {n}" in lines for n, sha in enumerate(shas)] == [
        *[False] * 2,
        *[True] * 3,
        False,
    ]
    assert "first bad commit" not in done.stdout
    assert [path.rpartition("/")[2] for path in state(lab)][1:] == ["log"]


@pytest.mark.parametrize(("metric", "before", "after"), [("kick", 200, 240), ("send", 100, 120)])
def test_kicks_are_bisected_too(lab: Path, metric: str, before: int, after: int) -> None:
    shas = make_history(lab / "linux", [200, 200, 240])
    done = bisect(lab / "linux", shas[0], "main", "--metric", metric, "--method", "sigmask")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [str(before), str(before), str(after)]
    assert lines[-1] == f"first bad commit: {shas[2]} count: commit 2"


def test_every_commit_of_a_series_is_counted(lab: Path) -> None:
    shas = make_history(lab / "linux", [100, 100, 97, "broken", 97, 110])
    done = bisect(lab / "linux", shas[0], "main", "--all")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line.split(maxsplit=1) for line in lines[1:7]]
    assert [row[0] for row in rows] == ["100", "100", "97", "-", "97", "110"]
    assert [row[1].split()[0] for row in rows] == [
        *(shas[0][:12], shas[1][:12], "-3"),
        *(shas[3][:12], shas[4][:12], "+13"),
    ]
    assert rows[3][1].endswith("(the kernel cannot be built: make bzImage failed)")
    assert sum(line.startswith("An exit, immediate_exit: ") for line in lines) == 2
    assert lines[-1] == f"first bad commit: {shas[2]} count: commit 2"
    assert state(lab) == []
    done = bisect(lab / "linux", shas[0], shas[1], "--all")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The count did not change.")


# --- any history ---------------------------------------------------------------------------------


def asked(shas: list[str], numbers: Sequence[int | None]) -> Callable[[Commit], Explanation]:
    def ask(commit: Commit) -> Explanation:
        return explained(str(numbers[shas.index(commit.sha)]))

    return ask


def found_in(
    numbers: Sequence[int | None], parents: list[list[int]]
) -> tuple[list[int], search.Step]:
    """The suspects by number, in a repository with this history, and the step."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", name)
        folder = Path(name) / "linux"
        shas = make_history(folder, numbers, parents)
        repository = Repository.of(folder)
        good, bad = repository.commit(shas[0]), repository.commit(shas[-1])
        repository.check_range(good, bad)
        with counting.place(repository, good) as place:
            counts = counting.Counts(place.counts("x"), "exit", asked(shas, numbers))
            found = search.search(place.worktree, counts, good, bad, 1, place.log)
        (step,) = found.steps
        return [shas.index(commit.sha) for commit in step.suspects], step


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[list[int]], int]:
    """Counts with one step, parents with merges, and the number of the step's commit."""
    size = draw(st.integers(2, 14))
    parents: list[list[int]] = [[]]
    for number in range(1, size):
        others = st.lists(st.integers(0, number - 1), max_size=1)
        # Every commit is an ancestor of a later one.
        parents.append(list(dict.fromkeys([number - 1, *draw(others)])))
        if number > 2 and draw(st.booleans()):
            parents[-1].reverse()
    step = draw(st.integers(1, size - 1))
    bad = [False] * size
    for number in range(size):
        bad[number] = number == step or any(bad[parent] for parent in parents[number])
    change = draw(st.sampled_from([-7, -1, 1, 10]))
    return [100 + change * is_bad for is_bad in bad], parents, step


@settings(max_examples=25)
@given(histories())
def test_the_step_of_any_history_is_found(
    history: tuple[list[int], list[list[int]], int],
) -> None:
    numbers, parents, step = history
    suspects, found = found_in(numbers, parents)
    assert suspects == [step]
    assert (found.before.number, found.after.number) == (100, numbers[-1])


@settings(max_examples=25)
@given(st.integers(2, 12), st.data())
def test_a_step_beside_skipped_commits_is_among_the_suspects(
    size: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, size - 1))
    skipped = data.draw(st.sets(st.integers(1, size - 2))) if size > 2 else set()
    numbers = [100 if n < step else 110 for n in range(size)]
    parents = [[n - 1] if n else [] for n in range(size)]
    shown = [None if n in skipped else number for n, number in enumerate(numbers)]
    suspects, found = found_in(shown, parents)
    # Back to the last commit before the step that has a count, and on to the first after it.
    first = max(n for n in range(step) if n not in skipped) + 1
    last = min(n for n in range(step, size) if n not in skipped)
    assert suspects == list(range(first, last + 1))
    assert (found.before.number, found.after.number) == (100, 110)


# --- interruptions -------------------------------------------------------------------------------

CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_bisect
from kickbench.cli import main
from kickbench.lab import build, tools
from kickbench.lab.bisect import counting
tools.TOOLS = [tool for tool in tools.TOOLS if tool.name in test_bisect.NEEDED]
counting.Lab.what = lambda _: "what"
left = {left}
def explain(*arguments):
    global left
    if not left:
        Path({reached!r}).touch()
        time.sleep(600)
    left -= 1
    return test_bisect.explain(*arguments)
counting.explain = explain
main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_bisection_goes_on_where_it_was(
    lab: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    linux = lab / "linux"
    shas = make_history(linux, [100] * 5 + [110] * 5)
    before = files(linux)
    arguments = ["--source", str(linux), "--good", shas[0], "--bad", "main"]
    text = CHILD.format(tests=str(Path(__file__).parent), left=3, reached=str(lab / "reached"))
    with subprocess.Popen(
        [sys.executable, "-c", text, "bisect", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 600
        while not (lab / "reached").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate(timeout=600)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    assert "if this is interrupted, the same command goes on" in said
    (folder,) = (lab / "cache/kickbench/lab/bisect").glob("*/")
    assert f"working in {folder}: " in said
    asked: list[str] = []

    def watch(
        machine: object, kernel: Path, cases: Sequence[object], limits: object
    ) -> Explanation:
        asked.append(kernel.read_text())
        return explain(machine, kernel, cases, limits)

    monkeypatch.setattr(counting, "explain", watch)
    done = bisect(linux, shas[0], "main")
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[5]} count: commit 5"
    compiled = 3 + len(asked)
    assert compiled == sum(line.split()[-1] == "instructions" for line in done.stderr.splitlines())
    assert files(linux) == before
    assert [path.rpartition("/")[2] for path in state(lab)][1:] == ["log"]


def test_a_damaged_state_is_made_anew(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linux = lab / "linux"
    shas = make_history(linux, [100, 100, 110, 110])
    before = files(linux)

    def full(*_: object) -> Explanation:
        raise StorageError("the disk is full")

    monkeypatch.setattr(counting, "explain", full)
    assert bisect(linux, shas[0], "main").returncode == EXIT_MEASUREMENT
    (source,) = (lab / "cache/kickbench/lab/bisect").glob("*/source")
    (source / ".git").unlink()
    counts = source.parent / "counts/what"
    (counts / f"{shas[0]}.json").write_text('{"kernel": "6.12", "folded": 7}')
    (counts / f"{shas[3]}.json").write_bytes(b"\xff{")
    monkeypatch.setattr(counting, "explain", explain)
    done = bisect(linux, shas[0], "main")
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[2]} count: commit 2"
    assert git(linux, "status", "--porcelain") == ""
    assert set(before) <= set(files(linux))


def test_a_cache_inside_of_the_repository_does_not_endanger_it(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git finds the repository around a folder that is no worktree."""
    linux = lab / "linux"
    shas = make_history(linux, [100, 110, 110])
    (linux / "count").write_text("the user is editing\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(linux / "cache"))
    repository = Repository.of(linux)
    folder = linux / "cache/kickbench/lab/bisect" / counting._hash(bytes(repository.git_dir))
    (folder / "source").mkdir(parents=True)
    done = bisect(linux, shas[0], "main")
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[1]} count: commit 1"
    assert (linux / "count").read_text() == "the user is editing\n"


@pytest.mark.parametrize("kind", ["folder", "bare", "worktree"])
def test_any_folder_of_a_repository_will_do(lab: Path, kind: str) -> None:
    linux, other = lab / "linux", lab / "other"
    shas = make_history(linux, [100, 110, 110])
    if kind == "bare":
        git(lab, "clone", "--quiet", "--bare", str(linux), str(other))
    elif kind == "worktree":
        git(linux, "worktree", "add", "--quiet", "--detach", str(other), shas[0])
    before = files(linux)
    done = bisect(linux / "arch" if kind == "folder" else other, shas[0], shas[2])
    assert done.stdout.splitlines()[-1] == f"first bad commit: {shas[1]} count: commit 1"
    assert files(linux) == before


def test_hooks_and_variables_of_git_do_not_reach_the_worktree(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linux = lab / "linux"
    shas = make_history(linux, [100, 110])
    hook = linux / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {lab}/hooked\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(lab / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(lab / "index"))
    assert bisect(linux, shas[0], shas[1]).returncode == 0
    assert not (lab / "hooked").exists()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "good", "bad", "more", "why"),
    [
        ("nowhere", "main~2", "main", [], "nowhere: no such folder"),
        ("plain", "main~2", "main", [], "plain: no git repository that can be read: not a git"),
        ("linux", "v6.99", "main", [], "no revision 'v6.99'"),
        ("linux", "main~2", "--all", [], "no revision '--all'"),
        ("linux", "main", "main~2", [], "--good must be an ancestor of --bad, and"),
        ("linux", "main", "other", [], "--good must be an ancestor of --bad, and"),
        ("linux", "main", "main", [], "--good and --bad are the same commit"),
        ("plainer", "HEAD~1", "HEAD", [], "is not the source of a Linux kernel"),
        ("linux", "main~2", "main", ["--metric", "x"], "no metric x; there are: exit, send, kick"),
        ("linux", "main~2", "main", ["--method", "x"], "no method 'x'; there are: "),
        ("linux", "main~2", "main", ["--case", "x"], "no case x can be explained"),
        ("linux", "main~2", "main", [], "there is no change to find: "),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    lab: Path, source: str, good: str, bad: str, more: list[str], why: str
) -> None:
    make_history(lab / "linux", [100, 100, 100])
    git(lab / "linux", "branch", "other", "main~1")
    (lab / "plain").mkdir()
    make_history(lab / "plainer", [1, 2])
    for path in ("arch/x86/Makefile",):
        (lab / "plainer" / path).unlink()
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for message in ("one", "two"):
        git(lab / "plainer", *identity, "commit", "-qam", message, "--allow-empty")
    before = files(lab / "linux")
    done = bisect(lab / source, good, bad, *more)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    *_, last = [line for line in done.stderr.splitlines() if line.startswith("kickbench: ")]
    assert why in last
    assert state(lab) == []
    assert files(lab / "linux") == before


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_a_build_that_fails_for_all_leaves_nothing(lab: Path, options: list[str]) -> None:
    shas = make_history(lab / "linux", ["broken"] * 4)
    before = files(lab / "linux")
    done = bisect(lab / "linux", shas[0], "main", *options)
    assert (done.returncode, done.stdout) == (EXIT_MEASUREMENT, "")
    expected = "none of 4 commits has a count" if options else f"--good {shas[0][:12]} has no count"
    assert f"kickbench: {expected}: the kernel cannot be built: make bzImage failed" in done.stderr
    assert "count.c:1: error: oops" in done.stderr
    assert state(lab) == []
    assert files(lab / "linux") == before


def test_without_git_its_package_is_named(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shas = make_history(lab / "linux", [100, 110])
    absent = tools.Tool("gitt", "git", "the commits of a bisection", ("bisect",))
    monkeypatch.setattr(tools, "TOOLS", [absent])
    done = bisect(lab / "linux", shas[0], "main")
    assert done.returncode == EXIT_HOST
    assert done.stderr.splitlines()[-1].endswith("--no-install-recommends git")


# --- parts ---------------------------------------------------------------------------------------


def test_the_case_of_a_metric() -> None:
    path = resolve("instruction_counts")
    exits = counting.case_of(path, "exit", None, None)
    assert (exits.kind, exits.methods) == ("exits", ("immediate_exit",))
    kick = counting.case_of(path, "send", "user_exit", None)
    assert (kick.state, kick.methods, kick.baseline) == (STATE, ("user_exit",), "user_exit")
    assert counting.case_of(path, "exit", None, exits.id) == exits
    with pytest.raises(UsageError, match="choose another --metric or --case"):
        counting.case_of(path, "exit", None, kick.id)


NAMES = st.text(min_size=1, max_size=5)


@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.integers(1, 9), min_size=1
    ),
    st.sampled_from([None, STATE]),
)
def test_an_outcome_is_remembered_as_it_was(
    folded: dict[tuple[str, ...], int], state: str | None
) -> None:
    found = explained("20", state)
    found.found[0].folded.clear()
    found.found[0].folded.update(folded)
    assert counting._from_dict(json.loads(json.dumps(counting._to_dict(found)))) == found


def test_shared_lines_are_remembered_as_they_were() -> None:
    (job, *_) = shared.jobs([case_of(resolve("instruction_counts"), "exit", None, None)])
    line = SharedLine("object.field", None, 2.5, 4.0, {"vCPU 0": (2.5, 4.0)}, ["a", "b"])
    found = Explanation("QEMU", "abc", "sigmask", [], {}, (Shared(job, "sigmask", [line]),))
    assert counting._from_dict(json.loads(json.dumps(counting._to_dict(found)))) == found


def test_a_subject_does_not_control_the_terminal(lab: Path) -> None:
    linux = lab / "linux"
    make_history(linux, [100])
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    git(linux, *identity, "commit", "-q", "--allow-empty", "-m", "red \x1b[31m or not")
    commit = Repository.of(linux).commit("main")
    assert commit.subject == "red  [31m or not"
    outcome = counting.Outcome(commit, 1234, explained("1234"))
    assert list(words.table([outcome]))[1].split() == [
        "1,234",
        commit.short,
        *commit.subject.split(),
    ]


def test_a_row_has_the_change_since_the_last_count() -> None:
    commits = [Commit(str(n) * 40, f"commit {n}") for n in range(3)]
    for numbers in itertools.product([None, 100, 110], repeat=3):
        outcomes = [
            counting.Outcome(commit, number, None, "why\nmore")
            for commit, number in zip(commits, numbers, strict=True)
        ]
        _, *rows = words.table(outcomes)
        changes = [b - a for a, b in itertools.pairwise(n for n in numbers if n is not None)]
        cells = [row[9:20].strip() for row in rows]
        assert [cell for cell in cells if cell] == [f"{change:+,}" for change in changes if change]
