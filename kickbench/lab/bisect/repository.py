# SPDX-License-Identifier: Apache-2.0
"""The user's git repository, which is only read, and a worktree of our own with git bisect in it.

git keeps the HEAD, the index and the refs of a bisection for each worktree apart (git-worktree(1)).
So nothing of the user's changes, except that ``git worktree list`` has one line more meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import MeasurementError, StorageError, UsageError
from kickbench.lab.emulation import printable

# No hook of the user's runs in our worktree, and no daemon begins to watch it.
_SETTINGS = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *("-c", "log.showSignature=false"),
)
_KERNEL_FILE = "arch/x86/Makefile"
_FOUND = re.compile(r"^# (?:possible )?first bad commit: \[([0-9a-f]{40,64})\]", re.MULTILINE)
_SHOWN = 12


@dataclass(frozen=True)
class Commit:
    """A commit: its whole hash, and the first line of its message."""

    sha: str
    subject: str

    @property
    def short(self) -> str:
        """The beginning of the hash."""
        return self.sha[:_SHOWN]

    def __str__(self) -> str:
        return f"{self.short} {self.subject}"


def git(folder: Path, *arguments: str, held: Iterable[int] = ()) -> str:
    """Run git in a folder. Returns what it prints.

    The process inherits the descriptors in ``held``. Raises MeasurementError with git's last line
    if it fails.
    """
    done = subprocess.run(
        ["git", *_SETTINGS, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=_environment(),
        pass_fds=list(held),
    )
    if done.returncode == 0:
        return done.stdout
    lines = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
    why = next((line for line in lines if line.startswith("fatal: ")), lines[-1])
    error = StorageError if "No space left on device" in done.stderr else MeasurementError
    raise error(f"git {arguments[0]} failed in {folder}: {printable(why)}")


def _environment() -> dict[str, str]:
    """Ours, without what git tells the hooks that it starts: they may have started us."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(("GIT_CONFIG_", "GIT_TRACE"))
    }
    return kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


@dataclass(frozen=True)
class Repository:
    """A git repository. ``folder`` is what the user named, ``git_dir`` where git keeps it."""

    folder: Path
    git_dir: Path

    @classmethod
    def of(cls, folder: Path) -> Repository:
        """Of a folder in it. Raises UsageError if there is none."""
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
        try:
            said = git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir")
        except MeasurementError as error:
            why = str(error).rpartition("fatal: ")[2]
            raise UsageError(f"{folder}: no git repository that can be read: {why}") from None
        return cls(folder, Path(said.strip()).resolve())

    def commit(self, revision: str) -> Commit:
        """The commit that a revision means. Raises UsageError if there is none."""
        try:
            wanted = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
            sha = self._git("rev-parse", *wanted).split()[-1]
        except MeasurementError:
            raise UsageError(f"{self.folder}: no revision {revision!r}") from None
        return self._commits("-1", sha)[0]

    def check_range(self, good: Commit, bad: Commit) -> None:
        """Raise UsageError if there is nothing to search between two commits of a kernel."""
        for commit in (good, bad):
            if not self._git("ls-tree", "--full-tree", commit.sha, _KERNEL_FILE):
                raise UsageError(f"{self.folder}: {commit} is not the source of a Linux kernel")
        if good == bad:
            raise UsageError(f"--good and --bad are the same commit: {good}")
        if self._git("rev-list", "--max-count=1", f"{bad.sha}..{good.sha}"):
            raise UsageError(f"--good must be an ancestor of --bad, and {good} is none of {bad}")

    def parent(self, commit: Commit) -> Commit | None:
        """The first parent, if there is one."""
        parents = self._git("rev-list", "--parents", "--max-count=1", commit.sha).split()[1:]
        return self.commit(parents[0]) if parents else None

    def series(self, good: Commit, bad: Commit, *options: str) -> list[Commit]:
        """The commits after the good one up to the bad one, oldest first."""
        return self._commits("--reverse", "--topo-order", *options, f"{good.sha}..{bad.sha}")

    def _commits(self, *wanted: str) -> list[Commit]:
        lines = self._git("log", "--format=%H %s", *wanted).split("\n")[:-1]
        return [Commit(*printable(line).split(" ", 1)) for line in lines]

    def _git(self, *arguments: str) -> str:
        return git(self.folder, *arguments)


@dataclass(frozen=True)
class Worktree:
    """A worktree of our own of a repository. git's processes hold the ``lock``, a descriptor."""

    repository: Repository
    folder: Path
    lock: int

    def make(self, commit: Commit) -> None:
        """Make it, unless it is there. Its HEAD is then this commit, but it has no files yet."""
        if not self._usable():
            self.remove()
            # Twice: git knows a worktree that was begun and killed.
            add = ("add", "--force", "--force", "--detach", "--no-checkout")
            git(self.repository.folder, "worktree", *add, str(self.folder), commit.sha)

    def checkout(self, commit: Commit) -> None:
        """Have the files of this commit, and no others. Files that are the same stay untouched.

        A checkout that was killed before is repaired.
        """
        # Of a checkout that was killed. Its processes are gone, because we have the lock.
        Path(self._git("rev-parse", "--git-path", "index.lock").strip()).unlink(missing_ok=True)
        self._git("checkout", "--quiet", "--force", "--detach", commit.sha)
        self._git("clean", "--quiet", "-ffdx")

    def remove(self) -> None:
        """Remove it, and what the repository knows of it."""
        if self._usable():
            git(
                self.repository.folder,
                *("worktree", "remove", "--force", "--force", str(self.folder)),
            )
        shutil.rmtree(self.folder, ignore_errors=True)

    def _usable(self) -> bool:
        """Whether it is a whole worktree. The folder may be in another one, which is not ours."""
        try:
            said = self._git(
                "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"
            )
        except (MeasurementError, OSError):
            return False
        top, git_dir = (Path(line).resolve() for line in said.splitlines())
        return (top, git_dir) == (self.folder.resolve(), self.repository.git_dir)

    def _git(self, *arguments: str) -> str:
        return git(self.folder, *arguments, held=[self.lock])

    # --- git bisect ------------------------------------------------------------------------------

    def bisect(self, good: Commit, bad: Commit) -> str:
        """Begin a bisection, which checks nothing out by itself. Returns how much is left."""
        return _left(self._git("bisect", "start", "--no-checkout", bad.sha, good.sha))

    def mark(self, commit: Commit, word: str) -> str:
        """Tell git that a commit is "good", "bad", or to "skip". Returns how much is left."""
        try:
            return _left(self._git("bisect", word, commit.sha))
        except MeasurementError:
            if not self.found():  # It fails when only commits to skip are left.
                raise
            return ""

    def next(self) -> str:
        """The hash of the commit that git wants to know of."""
        return self._git("rev-parse", "BISECT_HEAD").strip()

    def found(self) -> list[str]:
        """The hash of the first bad commit: several if some were skipped, none as yet."""
        return _FOUND.findall(self.log())

    def log(self) -> str:
        """git's log of the bisection, which ``git bisect replay`` takes."""
        return self._git("bisect", "log")


def _left(said: str) -> str:
    """The line of git bisect that says how many steps are left."""
    return next((line for line in said.splitlines() if line.startswith("Bisecting: ")), "")
