# SPDX-License-Identifier: Apache-2.0
"""Counts the kernels of a repository's commits, each once: builds, explains and remembers it.

What an interrupted bisection needs to go on is in ``XDG_CACHE_HOME/kickbench/lab/bisect/``::

    <repository>/source/            a worktree of the repository
    <repository>/objects/           make's objects: a commit recompiles only what it changes
    <repository>/counts/<what>/     what was found, in a file for each commit
    <repository>/log                git's log of the bisection
    lock                            one bisection at a time

When it has ended, only the log stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import kickbench.engine
from kickbench.engine.engine import LIBRARY
from kickbench.errors import KickbenchError, MeasurementError, StorageError, UsageError
from kickbench.lab import build
from kickbench.lab.bisect.repository import Commit, Repository, Worktree
from kickbench.lab.cache import cache, only_one
from kickbench.lab.emulator import Limits
from kickbench.lab.explain import shared
from kickbench.lab.explain.case import STATE, cases_of
from kickbench.lab.explain.explain import Explained, Explanation, Folded, explain
from kickbench.lab.explain.inside import Job
from kickbench.lab.explain.shared import SharedLine
from kickbench.lab.explain.subject import Subject
from kickbench.lab.kbuild import STRUCTS, Tree, say
from kickbench.lab.machines import LINES, MACHINES, Machine
from kickbench.methods import is_protocol_file
from kickbench.native import built_file
from kickbench.numbers import plural
from kickbench.results.files import replace_file
from kickbench.scenario.cases import Case

Ask = Callable[[Commit], Explanation]
"""Counts a commit anew. Raises MeasurementError if it cannot be built or run."""


@dataclass(frozen=True)
class Metric:
    """An exact count. ``state`` is that of the vCPU that is kicked, None for an exit.

    ``unit`` is one of what is counted, on the ``machine``.
    """

    state: str | None
    number: Callable[[Explanation], int]
    unit: str = "instruction"
    machine: str = "amd-count"


METRICS: dict[str, Metric] = {
    "exit": Metric(None, lambda found: found.found[0].instructions),
    "send": Metric(STATE, lambda found: found.found[0].phases["call"].total()),
    "kick": Metric(STATE, lambda found: found.found[0].instructions),
    "shared_lines": Metric(
        None, lambda found: len(found.shared[0].lines), "shared line", LINES["x86_64"].id
    ),
}
"""What can be bisected: an exit, the kicker's call, the whole kick until it is taken, and the cache
lines that two vCPUs share in an exit."""


def case_of(path: Path, metric: str, method: str | None, case_id: str | None) -> Case:
    """The case of a scenario that has this metric, with one method: the baseline unless named.

    Raises UsageError if there is none.
    """
    if metric not in METRICS:
        raise UsageError(f"no metric {metric}; there are: {', '.join(METRICS)}")
    for case in cases_of(path, [method] if method else None, case_id):
        if case.state == METRICS[metric].state:
            return replace(case, methods=(case.baseline,))
    raise UsageError(f"{path}: has no case to count {metric} in; choose another --metric or --case")


# --- one commit ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """Where commits are built and run. ``objects`` and ``jobs`` are as in :class:`Tree`."""

    metric: Metric
    case: Case
    worktree: Worktree
    objects: Path
    jobs: int | None
    limits: Limits

    def count(self, commit: Commit) -> Explanation:
        """Build and explain a commit. Raises MeasurementError if that fails."""
        self.worktree.checkout(commit)
        tree = Tree(self.worktree.folder, self.objects, self.jobs, self.worktree.lock)
        tree.configure(_config().texts().values(), f"-{commit.short}")
        kernel = tree.compile()
        if self.machine in LINES.values():
            return self._lines(tree, kernel, commit)
        found = explain(self.machine, kernel, [self.case], self.limits)
        for method, why in found.skipped.items():
            raise MeasurementError(f"{method}: {why}")
        return found

    def _lines(self, tree: Tree, kernel: Path, commit: Commit) -> Explanation:
        """The lines that two vCPUs on the node of the process's creator share."""
        (method,) = self.case.methods
        tree.note_structs()
        kernel.with_name(STRUCTS).write_bytes((tree.objects / STRUCTS).read_bytes())
        near = shared.jobs([self.case])[:1]
        found = tuple(shared.shared(self.machine, kernel, near, self.limits))
        if not found:
            raise MeasurementError(f"{method}: this kernel does not have it")
        return Explanation(self.machine.description(), commit.short, method, [], {}, found)

    @property
    def machine(self) -> Machine:
        """The machine that runs the kernels."""
        return MACHINES[self.metric.machine]

    def what(self) -> str:
        """The name of what is counted. It differs if the counts could."""
        (method,) = self.case.methods
        facts = {
            "case": self.case.to_dict(),
            "kickbench": kickbench.__version__,
            "machine": self.machine.description(),
            "fragments": _config().texts(),
            "compiler": build.compiler(),
            "engine": _hash(built_file(kickbench.engine.__path__, LIBRARY).read_bytes()),
            "protocol": _hash(Path(method).read_bytes()) if is_protocol_file(method) else None,
        }
        return _hash(json.dumps(facts).encode())


def _config() -> build.Config:
    return build.CONFIGS["lab"]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# --- all commits ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a commit has: an explanation with its count, or why it has none."""

    commit: Commit
    number: int | None
    explanation: Explanation | None
    why: str = ""


class Counts:
    """The outcomes of commits. Each is asked for once, and kept in a file of ``folder``."""

    def __init__(self, folder: Path, metric: str, ask: Ask) -> None:
        self._folder, self._ask = folder, ask
        self._metric = METRICS[metric]
        self._known: dict[Commit, Outcome] = {}

    def words(self, number: int) -> str:
        """E.g. "2,520 instructions"."""
        return plural(number, self._metric.unit)

    def of(self, commit: Commit) -> Outcome:
        """The outcome of a commit, from memory if it is known."""
        if commit not in self._known:
            self._known[commit] = self._find(commit)
        return self._known[commit]

    def __contains__(self, commit: Commit) -> bool:
        return commit in self._known

    def _find(self, commit: Commit) -> Outcome:
        path = self._folder / f"{commit.sha}.json"
        # A file that is damaged is written anew.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return self._outcome(commit, json.loads(path.read_text()))
        say(f"counting {commit}")
        try:
            kept: dict[str, Any] = _to_dict(self._ask(commit))
        except StorageError:  # a full disk: that is no fault of this commit
            raise
        except MeasurementError as error:
            say(f"{commit}: {error}")
            kept = {"why": str(error)}
        replace_file(path, json.dumps(kept).encode())
        return self._outcome(commit, kept)

    def _outcome(self, commit: Commit, kept: dict[str, Any]) -> Outcome:
        if "why" in kept:
            return Outcome(commit, None, None, str(kept["why"]))
        found = _from_dict(kept)
        number = self._metric.number(found)
        say(f"{commit}: {self.words(number)}")
        return Outcome(commit, number, found)


def _to_dict(found: Explanation) -> dict[str, Any]:
    return {
        "machine": found.machine,
        "kernel": found.kernel,
        "method": found.baseline,
        "found": [
            {
                "subject": asdict(one.subject),
                "share": one.share,
                "folded": list(one.folded.items()),
                "phases": {name: list(folded.items()) for name, folded in one.phases.items()},
            }
            for one in found.found
        ],
        "shared": [
            {"job": one.job.to_dict(), "lines": [asdict(line) for line in one.lines]}
            for one in found.shared
        ],
    }


def _from_dict(kept: dict[str, Any]) -> Explanation:
    def folded(items: list[Any]) -> Folded:
        return Counter({tuple(path): int(count) for path, count in items})

    method = kept["method"]
    found = [
        Explained(
            method,
            Subject(**one["subject"]),
            folded(one["folded"]),
            one["share"],
            {name: folded(items) for name, items in one["phases"].items()},
        )
        for one in kept["found"]
    ]
    lines = tuple(
        shared.Shared(
            Job.from_dict(one["job"]), method, [SharedLine.from_dict(line) for line in one["lines"]]
        )
        for one in kept["shared"]
    )
    return Explanation(kept["machine"], kept["kernel"], method, found, {}, lines)


# --- the place of a bisection --------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The folder of a bisection, which nobody else uses meanwhile."""

    folder: Path
    worktree: Worktree

    @property
    def objects(self) -> Path:
        """make's objects."""
        return self.folder / "objects"

    @property
    def log(self) -> Path:
        """git's log, for people."""
        return self.folder / "log"

    def counts(self, what: str) -> Path:
        """The folder of the outcomes of one thing that is counted."""
        folder = self.folder / "counts" / what
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextlib.contextmanager
def place(repository: Repository, good: Commit) -> Iterator[Place]:
    """A worktree of the repository, and a folder around it.

    After it, only the log is left, and nothing after an error of ours. But what an interruption or
    a full disk leaves stays, for the next bisection of the same repository.
    """
    top = cache() / "bisect"
    with only_one(top, "another kickbench bisect") as lock:
        folder = top / _hash(bytes(repository.git_dir))
        worktree = Worktree(repository, folder / "source", lock)
        found = Place(folder, worktree)
        try:
            folder.mkdir(exist_ok=True)
            worktree.make(good)
            yield found
        except StorageError:
            raise
        except KickbenchError:
            worktree.remove()
            shutil.rmtree(folder)
            raise
        worktree.remove()
        for path in (found.objects, folder / "counts"):
            shutil.rmtree(path, ignore_errors=True)
        if not found.log.exists():
            shutil.rmtree(folder, ignore_errors=True)
