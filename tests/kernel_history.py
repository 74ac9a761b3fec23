# SPDX-License-Identifier: Apache-2.0
"""Git repositories with the history of a kernel whose "compiler" is a makefile that takes no time.

A commit's file ``count`` has the number of instructions that its kernel will be explained with, or
a word: ``broken`` if it does not compile, ``dead`` if it does not boot.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kickbench.errors import MeasurementError
from kickbench.lab.bisect.repository import git
from kickbench.lab.explain.events import PHASES
from kickbench.lab.explain.explain import Explained, Explanation, Folded
from kickbench.lab.explain.subject import EXIT, Subject

MAKEFILE = """\
tinyconfig olddefconfig:
\t@cd $(O) && echo CONFIG_TINY=y >> .config
bzImage:
\t@echo "  CC      count.o"
\t@grep -q broken count && { echo "count.c:1: error: oops"; exit 2; } || true
\t@mkdir -p $(O)/arch/x86/boot
\t@cp count $(O)/arch/x86/boot/bzImage
\t@cat count >> $(O)/compiled
"""


def make_history(
    folder: Path, counts: Sequence[object], parents: Sequence[Sequence[int]] | None = None
) -> list[str]:
    """Make a repository. Returns the hash of each commit, the root first.

    Without ``parents``, by number, each commit follows the one before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    stream = []
    for number, count in enumerate(counts):
        files = {"count": f"{count}\n"}
        if not number:
            files |= {"Makefile": MAKEFILE, "arch/x86/Makefile": "", "Kbuild": ""}
        named = range(number - 1, number) if parents is None else parents[number]
        marks = [f":{parent + 1}" for parent in named if parent >= 0]
        stream += [
            f"commit refs/heads/main\nmark :{number + 1}\n",
            f"committer A Developer <dev@example.org> {1_700_000_000 + number} +0000\n",
            _data(f"count: commit {number}\n"),
            *(
                f"{word} {mark}\n"
                for word, mark in zip(["from", *["merge"] * 9], marks, strict=False)
            ),
            *(f"M 100644 inline {name}\n{_data(text)}" for name, text in files.items()),
        ]
    marks_file = folder / ".git/marks"
    subprocess.run(
        ["git", "fast-import", "--quiet", f"--export-marks={marks_file}"],
        cwd=folder,
        input="".join(stream),
        text=True,
        check=True,
    )
    shas = dict(line[1:].split() for line in marks_file.read_text().splitlines())
    marks_file.unlink()
    git(folder, "reset", "--quiet", "--hard", "main")
    git(folder, "pack-refs", "--all")  # which git makes anyway when it deletes a ref
    return [shas[str(number + 1)] for number in range(len(counts))]


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}\n"


def explained(count: str, state: str | None = None, method: str = "immediate_exit") -> Explanation:
    """The explanation of a kernel with this count. Raises MeasurementError if it is a word."""
    if not count.strip().isdigit():
        raise MeasurementError(f"the machine ended by itself; the last lines:\n  | {count}")
    folded = Counter({("loop",): 5, ("loop", "kvm_run"): int(count) - 5})
    phases: dict[str, Folded] = {}
    if state:
        phases = {name: Counter({("loop",): n}) for n, name in enumerate(PHASES)}
        phases["call"] = Counter({("loop",): int(count) // 2})
    subject = Subject("kick", state) if state else EXIT
    one = Explained(method, subject, folded, 1.0, phases)
    return Explanation("QEMU", f"6.12-{count.strip()}", method, [one], {})
