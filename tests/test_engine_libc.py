# SPDX-License-Identifier: Apache-2.0
"""What is sent to other machines asks for an old glibc, and for nothing that musl does not have."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kickbench
import kickbench.engine
from kickbench.engine.engine import LIBRARY
from kickbench.engine.protocols import build, placebo_of
from kickbench.native import built_file

OLDEST_GLIBC = (2, 17)
"""Of 2012. arm64 has no older one, and clock_gettime moved to libc then."""
EXAMPLE = Path(__file__).parent.parent / "examples/protocols/cloud_hypervisor_7427.c"
MUSL = Path(f"/lib/ld-musl-{platform.machine()}.so.1")


def symbols(library: Path) -> Iterator[tuple[bool, str, str]]:
    """The dynamic symbols: whether it is defined there, its name, and its version, which may be
    "". What the linker may leave out is left out."""
    command = ["readelf", "--dyn-syms", "--wide", str(library)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        words = line.split()
        is_here = len(words) >= 8 and words[6] != "UND"
        if len(words) >= 8 and (words[4] == "GLOBAL" or (is_here and words[4] == "WEAK")):
            name, _, version = words[7].partition("@")
            yield is_here, name, version.lstrip("@")


def sent() -> list[Path]:
    """The engine for each architecture."""
    others = [
        path for folder in kickbench.__path__ for path in Path(folder).glob("remote/*/engine")
    ]
    return [
        built_file(kickbench.engine.__path__, LIBRARY),
        *(folder / LIBRARY for folder in others if (folder / LIBRARY).is_file()),
    ]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All libraries that are sent: the engines, and a protocol of the user's own."""
    target = build(EXAMPLE, tmp_path_factory.mktemp("protocol"))
    return [*sent(), target, placebo_of(target)]


def test_they_ask_for_an_old_glibc(libraries: list[Path]) -> None:
    for library in libraries:
        versions = {version for is_here, _, version in symbols(library) if not is_here} - {""}
        numbers = [re.fullmatch(r"GLIBC_([0-9.]+)", version) for version in versions]
        assert all(numbers), f"{library}: {versions}"
        asked = [tuple(map(int, found[1].split("."))) for found in numbers if found]
        assert max(asked, default=(0,)) <= OLDEST_GLIBC, f"{library}: {versions}"


def test_they_ask_for_no_function_that_glibc_alone_has(libraries: list[Path]) -> None:
    for library in libraries:
        asked = {name for is_here, name, _ in symbols(library) if not is_here}
        assert not {name for name in asked if re.search(r"_chk$|^__isoc23", name)}, library


@pytest.mark.skipif(not MUSL.exists(), reason="no musl: apt install musl-tools")
def test_musl_has_all_that_the_engine_asks_for() -> None:
    engine = sent()[0]
    asked = {name for is_here, name, _ in symbols(engine) if not is_here}
    assert asked <= {name for is_here, name, _ in symbols(MUSL) if is_here}


PROGRAM = """
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *engine = dlopen(argv[argc - 1], RTLD_NOW | RTLD_GLOBAL);

	if (!engine) {
		puts(dlerror());
		return 1;
	}
	double (*calibrate)(uint64_t) = dlsym(engine, "kb_clock_calibrate");
	int (*handover)(int32_t, int32_t, int, uint32_t, uint32_t, uint64_t *) =
		dlsym(engine, "kb_handover");
	uint64_t cycles[2] = {0, 0};

	if (calibrate(10000000) <= 0)
		return 2;
	return handover(FIRST, SECOND, 1, 100, 2, cycles) || !cycles[0] || !cycles[1] ? 3 : 0;
}
"""


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="no musl: apt install musl-tools")
def test_a_program_of_musl_loads_the_engine_and_calls_it(tmp_path: Path) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    cpus = os.sched_getaffinity(0)  # on two of them the engine starts a thread
    chosen = [f"-DFIRST={min(cpus)}", f"-DSECOND={max(cpus)}"]
    compiler = ["musl-gcc", *chosen, "-o", str(program), str(source)]
    subprocess.run(compiler, check=True)
    engine = str(sent()[0])
    command = [program, engine]
    environment = {"LD_PRELOAD": engine}  # as the agent has it there: see bootstrap.py
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "")
