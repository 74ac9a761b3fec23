# SPDX-License-Identifier: Apache-2.0
"""The engine and every protocol under ThreadSanitizer, on a stub of KVM (``tsan/driver.c``).

What the sanitizer sees are data races by the rules of C11, in the schedules that happened to run.
It says nothing about lost kicks: that is ``test_protocol_model``.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from made_once import made_once

from kickbench.engine.engine import TRANSPORTS
from kickbench.methods import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kickbench"
CHOICES = [
    (method, transport)
    for method, entry in CATALOGUE.items()
    for transport in (TRANSPORTS if entry.kicks_by_signal else ["tgkill"])
    if transport != "tgkill_rt"  # another signal, and the same code
]
PROBE = """
#include <pthread.h>
int x;
static void *f(void *p) { x = 1; return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); x = 2; return pthread_join(t, 0); }
"""


def compile_with_tsan(program: Path, *arguments: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    # GCC's sanitizer does not know fences, and warns of them (-Wtsan). The one in the methods
    # orders two atomic accesses, which are no data race anyway.
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fsanitize=thread", "-Wall", "-Wno-tsan"]
    done = subprocess.run(
        [compiler, *flags, "-pthread", *arguments, "-o", str(program)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "tsan" in done.stderr and "cannot find" in done.stderr:
        pytest.skip("the compiler has no libtsan")
    assert done.returncode == 0, done.stderr


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it with its addresses where the sanitizer wants them, whatever vm.mmap_rnd_bits is."""
    setarch = [tool, "--addr-no-randomize"] if (tool := shutil.which("setarch")) else []
    return subprocess.run(
        [*setarch, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={"TSAN_OPTIONS": "exitcode=66 halt_on_error=0"},
    )


@cache
def sanitizer_works(folder: Path) -> str:
    """An empty string when the sanitizer finds a race that is there, else why it can't."""
    source = folder / "racy.c"
    source.write_text(PROBE, encoding="utf-8")
    compile_with_tsan(folder / "racy", str(source))
    done = run(folder / "racy")
    if done.returncode == 66 and "data race" in done.stderr:
        return ""
    return f"ThreadSanitizer does not work here: {done.stderr.strip()[:200]}"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if platform.machine() != "x86_64":
        pytest.skip("the engine is for x86-64")
    if why := sanitizer_works(tmp_path_factory.mktemp("tsan")):
        pytest.skip(why)
    return made_once(tmp_path_factory, "driver", compile_driver)


def compile_driver(folder: Path) -> Path:
    program = folder / "driver"
    sources = [
        ROOT / "tests" / "tsan" / "driver.c",
        ROOT / "tests" / "stub_kvm" / "kvm.c",
        *sorted((PACKAGE / "engine" / "src").glob("*.c")),
        *(PACKAGE / "methods" / f"{method}.c" for method in CATALOGUE),
    ]
    includes = [
        f"-I{PACKAGE / folder}" for folder in ("engine/include", "engine/src", "guest", "methods")
    ] + [f"-I{ROOT / 'tests' / 'stub_kvm'}"]
    compile_with_tsan(program, *includes, *map(str, sources), "-rdynamic", "-Wl,--wrap=ioctl")
    return program


def assert_no_race(driver: Path, method: str, transport: str, lost_after_ns: int) -> None:
    done = run(driver, method, str(TRANSPORTS[transport][0]), str(lost_after_ns))
    if done.returncode == 3 and transport == "pidfd":
        pytest.skip(f"no such transport in this kernel: {done.stderr.strip()}")
    assert "WARNING: ThreadSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("method", "transport"), CHOICES, ids=str)
def test_there_is_no_data_race(driver: Path, method: str, transport: str) -> None:
    assert_no_race(driver, method, transport, lost_after_ns=5_000_000_000)


@pytest.mark.parametrize("method", ["flag_signal", "user_exit"])
def test_there_is_none_when_kicks_are_sent_again_early(driver: Path, method: str) -> None:
    assert_no_race(driver, method, "tgkill", lost_after_ns=20_000)
