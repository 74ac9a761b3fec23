# SPDX-License-Identifier: Apache-2.0
"""Makes a git repository: a kernel's source, and a series of commits of which one changes a count.

    python benchmarks/kernel_series.py FOLDER [--commits N] [--seed N] [--metric METRIC]

The tag ``base`` is Debian's source of Linux, and the branch METRIC the end of the series. If FOLDER
has such a repository, it gets one more branch. Nearly all commits add words or cold code to KVM's
files, mostly virt/kvm/kvm_main.c. One changes what ``kickbench bisect --metric METRIC`` counts, by
ten instructions or one shared line. In a series of 16 commits or more, one does not build and one
does not boot. Each of the two is repaired by the commit after it. The same source and arguments
make the same commits.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kickbench.lab.tools import DEBIAN_SOURCE

SUBJECTS = {
    "exit": "KVM: settle before KVM_RUN",
    "send": "signal: settle before a signal is sent",
    "kick": "KVM: settle when a halted vCPU wakes up",
    "shared_lines": "KVM: count the calls of KVM_RUN",
}
"""The subject of the commit that changes each metric."""
UNBUILT, UNBOOTED = "KVM: give the halt-poll window a name", "KVM: check the size of a vCPU"

_MAIN = "virt/kvm/kvm_main.c"
_OTHERS = ("lapic.c", "cpuid.c", "pmu.c", "emulate.c", "mmu/mmu.c", "svm/svm.c")
_FUNCTION = re.compile(r"^(?:static )?(?:int|void|bool) \w+\([^;{]*\)\n\{$", re.MULTILINE)
_SETTLE = '\tasm volatile(".rept 10; nop; .endr");\n'
_ENTERS = "\t\tr = kvm_arch_vcpu_ioctl_run(vcpu);\n"


@dataclass(frozen=True)
class Edit:
    """In the ``file``, the text ``old`` becomes ``new``, once."""

    file: str
    old: str
    new: str

    def undone(self) -> Edit:
        """The edit that takes it back."""
        return Edit(self.file, self.new, self.old)

    def apply(self, tree: Path) -> None:
        """Make the edit. Raises ValueError if there is not exactly one place for it."""
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: not exactly one {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


def _before(file: str, line: str, added: str) -> Edit:
    return Edit(file, line, added + line)


CHANGES = {
    "exit": _before(_MAIN, _ENTERS, f"\t{_SETTLE}"),
    "send": _before("kernel/signal.c", "\treturn do_send_specific(tgid, pid, sig, &info);\n}\n"
                    "\n/**\n *  sys_tgkill", _SETTLE),
    "kick": _before(_MAIN, "\tfinish_rcuwait(wait);\n\tkvm_arch_vcpu_unblocking", _SETTLE),
    "shared_lines": _before(
        _MAIN, _ENTERS,
        "\t\tstatic atomic_t calls ____cacheline_aligned;\n\n\t\tatomic_inc(&calls);\n",
    ),
}  # fmt: skip
"""What changes each metric."""
_DOES_NOT_BUILD = Edit(_MAIN, _ENTERS, "\t\tr = kvm_arch_vcpu_ioctl_run(halt_poll_window);\n")
_DOES_NOT_BOOT = Edit(
    _MAIN,
    "struct module *module)\n{\n\tint r;\n",
    "struct module *module)\n{\n\tint r;\n\n\tBUG_ON(vcpu_size);\n",
)


def plan(commits: int, seed: int, metric: str) -> dict[int, tuple[str, Edit]]:
    """The commits that are not harmless, by their number from 1 on: subjects and edits."""
    rng = random.Random(seed)
    found: dict[int, tuple[str, Edit]] = {}
    if commits >= 16:
        # git bisect looks here first, and there if it is to skip that.
        for place, subject, edit in (
            (commits // 2, UNBUILT, _DOES_NOT_BUILD),
            (commits * 25 // 64, UNBOOTED, _DOES_NOT_BOOT),
        ):
            found[place] = (subject, edit)
            found[place + 1] = ("KVM: fix the commit before", edit.undone())
    free = [n for n in range(1, commits + 1) if n not in found]
    found[rng.choice(free)] = (SUBJECTS[metric], CHANGES[metric])
    return found


def _harmless(tree: Path, number: int, rng: random.Random) -> str:
    """Change nothing that is counted. Returns the subject."""
    file = _MAIN if rng.random() < 0.75 else f"arch/x86/kvm/{rng.choice(_OTHERS)}"
    path = tree / file
    text = path.read_text()
    if rng.random() < 0.3:
        text += (
            f"\nstatic void __cold __maybe_unused kvm_series_{number}(void)\n"
            f'{{\n\tpr_warn("step {number}\\n");\n}}\n'
        )
        subject = f"KVM: say so at step {number}"
    else:
        place = rng.choice([one.start() for one in _FUNCTION.finditer(text)])
        text = f"{text[:place]}/* Step {number}: see Documentation/virt/kvm. */\n{text[place:]}"
        subject = f"KVM: explain step {number}"
    path.write_text(text)
    return subject


def make_series(folder: Path, commits: int, seed: int, metric: str) -> None:
    """Make the repository, unless it is there, and a branch in it that is named as the metric."""
    if not folder.exists():
        folder.mkdir(parents=True)
        unpack = ["tar", "-xf", str(DEBIAN_SOURCE), "-C", str(folder), "--strip-components=1"]
        subprocess.run(unpack, check=True)
        _git(folder, 0, "init", "-q")
        _git(folder, 0, "config", "gc.auto", "0")
        _git(folder, 0, "add", "--all", "--force")
        _git(folder, 0, "commit", "-q", "-m", "Linux")
        _git(folder, 0, "tag", "base")
    _git(folder, 0, "checkout", "-q", "-f", "-B", metric, "base")
    rng = random.Random(seed)
    special = plan(commits, seed, metric)
    for number in range(1, commits + 1):
        if number in special:
            subject, edit = special[number]
            edit.apply(folder)
        else:
            subject = _harmless(folder, number, rng)
        _git(folder, number, "commit", "-q", "-a", "-m", subject)


def _git(folder: Path, number: int, *arguments: str) -> None:
    date = f"{1_700_000_000 + number} +0000"
    who = {"NAME": "A Developer", "EMAIL": "dev@example.org", "DATE": date}
    names = {f"GIT_{role}_{key}": text for role in ("AUTHOR", "COMMITTER") for key, text in
             who.items()}  # fmt: skip
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *arguments], cwd=folder, env=os.environ | names | alone, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commits", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metric", choices=SUBJECTS, default="exit")
    given = parser.parse_args()
    make_series(given.folder, given.commits, given.seed, given.metric)


if __name__ == "__main__":
    main()
