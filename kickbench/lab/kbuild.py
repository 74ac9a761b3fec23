# SPDX-License-Identifier: Apache-2.0
"""Configures and compiles a kernel's source, with make's objects in a folder of their own.

What goes into a kernel and where it is kept is another matter: see :mod:`kickbench.lab.build`.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import MeasurementError
from kickbench.lab import structs
from kickbench.lab.cache import cache
from kickbench.lab.emulation import printable
from kickbench.lab.processes import become, held_interrupts
from kickbench.run.progress import duration

STRUCTS = "structs.json"
"""The place of the layout of a kernel's structures in the folder of objects."""

_STEP = re.compile(rb"  (CC|AS) ")
_REPORT_SECONDS = 15.0
_LINES_SHOWN = 12
# What make prints of its steps and of its other children, after the error that counts.
_CHATTER = re.compile(rb"  [A-Z]+ |make\S*: .*(\] Error \d+|ing directory .*|unfinished jobs\.*)$")
# The same inputs make the same kernel, to the byte.
_REPRODUCIBLE = {
    "KBUILD_BUILD_USER": "kickbench",
    "KBUILD_BUILD_HOST": "lab",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
    "LOCALVERSION": "",  # Not a "+" for a commit that is no release (scripts/setlocalversion).
}


@dataclass(frozen=True)
class Target:
    """What make needs to know of the architecture that a kernel is for.

    ``folder`` is the architecture's in ``arch/``, and ``image`` the kernel's place in the folder of
    objects. ``prefix`` is that of the compiler's and the linker's name. A whole build prints about
    ``steps`` lines with CC or AS, and only the progress depends on it.
    """

    folder: str
    image: str
    prefix: str
    steps: int

    @property
    def gcc(self) -> str:
        """The compiler."""
        return f"{self.prefix}gcc"

    def words(self) -> list[str]:
        """What make is told."""
        return [f"ARCH={self.folder}", f"CROSS_COMPILE={self.prefix}"] if self.prefix else []


X86_64 = Target("x86", "arch/x86/boot/bzImage", "", 1620)
ARM64 = Target("arm64", "arch/arm64/boot/Image", "aarch64-linux-gnu-", 1090)


@dataclass(frozen=True)
class Tree:
    """A kernel's ``source``, which is only read, and make's ``objects``.

    make runs ``jobs`` compilers at once, or as many as there are CPUs. Its processes hold the lock,
    a descriptor, as long as one of them lives.
    """

    source: Path
    objects: Path
    jobs: int | None
    lock: int
    target: Target = X86_64

    def configure(self, fragments: Iterable[str], version: str) -> None:
        """Merge the fragments over ``make tinyconfig``. The release ends with ``version``.

        Options that this source does not have are said.
        """
        self.objects.mkdir(exist_ok=True)
        self._make("tinyconfig")
        config = self.objects / ".config"
        wanted = "\n".join(fragments)
        name = f'CONFIG_LOCALVERSION="{version}"\n'
        config.write_text(f"{config.read_text()}\n{wanted}\n{name}")
        self._make("olddefconfig")
        for option in unmet(wanted, config.read_text()):
            say(f"warning: the kernel was configured without {option}")

    def compile(self) -> Path:
        """Compile what has changed since the last time. Returns the path of the kernel."""
        image = self.objects / self.target.image
        expected = 0 if image.exists() else self.target.steps
        self._make(image.name, follow=_Progress(expected).take)
        return image

    def note_structs(self) -> None:
        """Compile the files that know the structures once more, for their debug information."""
        files = [f"{name}.s" for name in structs.SOURCES]
        self._make(*files, "KCFLAGS=-g")
        with tempfile.TemporaryDirectory(dir=self.objects) as folder:
            objects = []
            for name in files:
                objects.append(Path(folder) / f"{Path(name).stem}.o")
                command = [self.target.gcc, "-c", str(self.objects / name), "-o", str(objects[-1])]
                run(command, f"assembling {name}", self.lock)
            found = structs.Structs.of(objects)
        (self.objects / STRUCTS).write_text(found.to_json())

    def _make(self, *targets: str, follow: Callable[[bytes], None] | None = None) -> None:
        jobs = self.jobs or len(os.sched_getaffinity(0))
        command = ["make", "-C", str(self.source), f"O={self.objects}", f"-j{jobs}"]
        run(
            [*command, *self.target.words(), *targets],
            f"make {' '.join(targets)}",
            self.lock,
            follow,
        )


def run(
    command: Sequence[str],
    what: str,
    lock: int,
    follow: Callable[[bytes], None] | None = None,
) -> None:
    """Run a part of a build. Its processes hold the lock as long as one of them lives.

    ``follow`` takes each line that it prints. Raises MeasurementError, with the last lines, if it
    fails.
    """
    last: deque[str] = deque(maxlen=_LINES_SHOWN)
    with (
        held_interrupts() as release,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_clean_environment(), **_REPRODUCIBLE},
            pass_fds=[lock],
            process_group=0,
            preexec_fn=functools.partial(become, os.getpid(), signal.SIGTERM, release),
        ) as process,
    ):
        assert process.stdout is not None
        try:
            release()
            for line in process.stdout:
                if not _CHATTER.match(line):
                    last.append(printable(line.decode(errors="replace").rstrip()))
                if follow is not None:
                    follow(line)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        shown = "\n".join(f"  | {line}" for line in last)
        full = any("No space left on device" in line for line in last)
        why = f"the disk of {cache()} is full" if full else f"{what} failed"
        raise MeasurementError(f"the kernel cannot be built: {why}; the last lines:\n{shown}")


def _clean_environment() -> dict[str, str]:
    """Our environment, without variables that would change what make builds."""
    others = ("ARCH", "CROSS_COMPILE", "LLVM", "CC", "HOSTCC", "MAKEFLAGS", "LOCALVERSION", "O")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in others and not name.startswith(("KBUILD_", "KCONFIG_", "KCFLAGS"))
    }


def unmet(wanted: str, config: str) -> list[str]:
    """The options of a fragment that a .config does not have. In both, a later line wins."""
    have = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE))
    asked = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", wanted, re.MULTILINE))
    return [f"{name}={value}" for name, value in asked.items() if have.get(name, "n") != value]


# --- progress ----------------------------------------------------------------------------------


class _Progress:
    """Prints the progress: a line now and then, or one line that changes on a terminal.

    ``expected`` is how many files will be compiled, or 0 if only what has changed is.
    """

    def __init__(self, expected: int) -> None:
        self._begun = self._last = time.monotonic()
        self._expected = expected
        self._steps = 0

    def take(self, line: bytes) -> None:
        self._steps += bool(_STEP.match(line))
        terminal = sys.stderr.isatty()
        now = time.monotonic()
        if now - self._last < (0.5 if terminal else _REPORT_SECONDS) or not self._steps:
            return
        self._last = now
        text = progress_words(self._steps, self._expected, now - self._begun)
        if terminal:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            say(text)


def progress_words(steps: int, expected: int, spent_seconds: float) -> str:
    """The words of the progress: how far a build is, and how long it may still take."""
    if not expected:
        return f"{steps} files compiled"
    left = spent_seconds / steps * max(0, expected - steps)
    return f"{steps} of about {max(expected, steps)} files compiled, about {duration(left)} left"


def say(text: str) -> None:
    """A line on standard error, in the place of the progress."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{text}", file=sys.stderr, flush=True)
