# SPDX-License-Identifier: Apache-2.0
"""The lab's kernel builds: what makes another kernel, what a second call does, and what a failure
leaves. The "kernel" is a makefile that takes no time; the real one is built by ``nox -s lab``."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from kickbench.errors import EXIT_HOST, EXIT_MEASUREMENT, HostError, MeasurementError, UsageError
from kickbench.lab import build as builder
from kickbench.lab import kbuild, tools

NEEDED = ("gcc", "make", "patch", "tar")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in NEEDED), reason=f"needs {', '.join(NEEDED)}"
)

MAKEFILE = """
tinyconfig olddefconfig mrproper:
\t@cd $(or $(O),.) && echo CONFIG_TINY=y >> .config
BOOT = $(O)/arch/$(or $(ARCH),x86)/boot
bzImage Image:
\t@mkdir -p $(BOOT)
\t@echo "  CC      init/main.o"
\t@cat init/main.c > $(BOOT)/$@
\t@echo "ffffffff81000000 T of `head -n 2 init/main.c | tail -n 1`" > $(O)/System.map
\t@echo built >> $(O)/../../../builds
%.s:
\t@mkdir -p $(O)/$(@D) && : > $(O)/$@
"""
PATCH = """From: a developer

--- a/init/main.c
+++ b/init/main.c
@@ -1,3 +1,3 @@
 one
-two
+{two}
 three
--- /dev/null
+++ b/init/{new}
@@ -0,0 +1 @@
+new
"""


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a source and patches of our own; and a host that has all tools."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "KERNEL", tmp_path / "kernel")
    monkeypatch.setattr(tools, "TOOLS", [tool for tool in tools.TOOLS if tool.name in NEEDED])
    (tmp_path / "kernel/patches").mkdir(parents=True)
    (tmp_path / "kernel/lab.config").write_text("CONFIG_TINY=y\n")
    (tmp_path / "kernel/debug.config").write_text("CONFIG_KASAN=y\n")
    (tmp_path / "kernel/kexec.config").write_text("CONFIG_KEXEC_FILE=y\n")
    (tmp_path / "kernel/arm64.config").write_text("CONFIG_TINY=y\n")
    patch(tmp_path, "TWO")
    return tmp_path


def patch(lab: Path, two: str, new: str = "new.c") -> None:
    (lab / "kernel/patches/0001-two.patch").write_text(PATCH.format(two=two, new=new))


def source(lab: Path, makefile: str = MAKEFILE) -> Path:
    folder = lab / "linux"
    for name, text in {
        "Kbuild": "",
        "Makefile": makefile,
        "arch/x86/Makefile": "",
        "arch/arm64/Makefile": "",
        "init/main.c": "one\ntwo\nthree\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tarball(lab: Path) -> Path:
    path = lab / "linux.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(source(lab), "linux-6.12")
    return path


def kernels(lab: Path) -> list[str]:
    return sorted(path.name for path in (lab / "cache/kickbench/lab/kernels").glob("*"))


def builds(lab: Path) -> int:
    logs = (lab / "cache/kickbench/lab").rglob("builds")
    return sum(len(log.read_text().splitlines()) for log in logs)


# --- what makes another kernel ------------------------------------------------------------------


def test_everything_that_goes_in_makes_another_kernel(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = source(lab)
    keys = [builder.inputs(tree).key]
    keys.append(builder.inputs(tree, "debug").key)
    (lab / "kernel/lab.config").write_text("CONFIG_TINY=n\n")
    keys.append(builder.inputs(tree).key)
    patch(lab, "2")
    keys.append(builder.inputs(tree).key)
    shutil.copy(lab / "kernel/patches/0001-two.patch", lab / "kernel/patches/0002-two.patch")
    keys.append(builder.inputs(tree).key)
    (tree / "init/main.c").write_text("one\ntwo\nthree\nfour\n")
    keys.append(builder.inputs(tree).key)
    keys.append(builder.inputs(tree, patched=False).key)
    monkeypatch.setattr(builder, "compiler", lambda _: "gcc 99")
    keys.append(builder.inputs(tree).key)
    assert len(set(keys)) == len(keys) == 8


def test_the_same_inputs_make_the_same_kernel_wherever_the_tarball_is(lab: Path) -> None:
    path = tarball(lab)
    key = builder.inputs(path).key
    assert builder.inputs(path.rename(lab / "other.tar.xz")).key == key


def test_a_source_that_is_none_is_refused(lab: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        builder.inputs(lab / "nowhere")
    with pytest.raises(UsageError, match="not the source of a Linux kernel"):
        builder.inputs(lab / "kernel")
    with pytest.raises(UsageError, match="there are: lab, debug, no-immediate-exit, observe"):
        builder.inputs(source(lab), "speedy")


def test_without_debians_source_its_package_is_named(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tools.Tool(str(lab / "linux-source.tar.xz"), "linux-source-6.12", "the source")
    monkeypatch.setattr(tools, "DEBIAN_SOURCE", Path(absent.name))
    monkeypatch.setattr(tools, "TOOLS", [absent])
    with pytest.raises(HostError, match=r"--source, or install it: .*linux-source-6\.12") as caught:
        builder.build()
    assert caught.value.exit_code == EXIT_HOST


def test_missing_tools_are_named_with_their_packages(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tools.Tool("flexx", "flex", "the kernel's configuration")
    monkeypatch.setattr(tools, "TOOLS", [*tools.TOOLS, absent])
    with pytest.raises(HostError, match=r"flexx \(.*\): not found\ninstall it: .* flex$"):
        builder.build(source(lab))


def test_only_the_kernel_to_observe_in_needs_pahole(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab / "kernel/observe.config").write_text("CONFIG_BTF=y\n")
    absent = tools.Tool("paholee", "dwarves", "the types", ("observe",))
    monkeypatch.setattr(tools, "TOOLS", [*tools.TOOLS, absent])
    tree = source(lab)
    builder.build(tree)
    with pytest.raises(
        HostError, match=r"paholee \(the types\): not found\ninstall it: .* dwarves$"
    ):
        builder.build(tree, "observe")


# --- building -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [source, tarball])
def test_a_second_call_does_nothing(lab: Path, make: object) -> None:
    path = make(lab)  # type: ignore[operator]
    image = builder.build(path)
    assert image.read_text() == "one\nTWO\nthree\n"
    assert "ffffffff81000000 T of" in (image.parent / "System.map").read_text()
    inputs = json.loads((image.parent / "inputs.json").read_text())
    assert inputs["source"] == str(path)
    assert builder.build(path) == builder.built(path) == image
    assert builds(lab) == 1


def test_the_users_own_tree_is_left_alone(lab: Path) -> None:
    tree = source(lab)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    builder.build(tree)
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_changed_patches_replace_the_earlier_ones_in_the_same_tree(lab: Path) -> None:
    path = tarball(lab)
    builder.build(path)
    (built,) = (lab / "cache/kickbench/lab/trees").glob("*/source")
    untouched = (built / "Kbuild").stat().st_ctime_ns
    patch(lab, "deux", new="other.c")
    assert builder.build(path).read_text() == "one\ndeux\nthree\n"
    assert sorted(file.name for file in (built / "init").iterdir()) == ["main.c", "other.c"]
    assert (built / "Kbuild").stat().st_ctime_ns == untouched
    assert len(kernels(lab)) == 2


def test_make_sees_no_change_where_the_patches_are_the_same(lab: Path) -> None:
    path = tarball(lab)
    builder.build(path)
    (built,) = (lab / "cache/kickbench/lab/trees").glob("*/source")
    files = built / "init/main.c", built / "init/new.c"
    for file in files:
        os.utime(file, ns=(1_000_000_001, 2_000_000_003))
    builder.build(path, "debug")
    assert [file.stat().st_mtime_ns for file in files] == [2_000_000_003] * 2
    patch(lab, "deux")
    builder.build(path)
    assert [file.stat().st_mtime_ns == 2_000_000_003 for file in files] == [False, True]


REMOVAL = """\
--- a/init/main.c
+++ b/init/main.c
@@ -1,3 +1,2 @@
 one
-TWO
 three
"""


def test_a_removal_is_applied_last_and_another_kernel_from_the_same_objects(lab: Path) -> None:
    tree = source(lab)
    (lab / "kernel/removals").mkdir()
    (lab / "kernel/removals/no-immediate-exit.patch").write_text(REMOVAL)
    whole = builder.build(tree)
    without = builder.build(tree, "no-immediate-exit")
    assert (whole.read_text(), without.read_text()) == ("one\nTWO\nthree\n", "one\nthree\n")
    assert [path.name for path in (lab / "cache").rglob("objects-*")] == ["objects-lab"]
    assert builder.built(tree) == whole


def test_another_configuration_begins_with_a_copy_of_the_labs_objects(lab: Path) -> None:
    tree = source(lab)
    builder.build(tree)
    (first,) = (lab / "cache").rglob("objects-lab")
    (first / "main.o").write_text("compiled")
    (first / "source").symlink_to(tree)
    os.utime(first / "main.o", ns=(1_000_000_001, 2_000_000_003))
    (left := first.parent / ".copying").mkdir()  # by a build that was killed
    (left / "half").write_text("")
    builder.build(tree, "kexec")
    copied = first.parent / "objects-lab-kexec"
    assert not left.exists()
    assert not (copied / "half").exists()
    assert (copied / "source").readlink() == tree
    assert (copied / "main.o").stat().st_mtime_ns == 2_000_000_003
    (copied / "main.o").write_text("compiled otherwise")
    assert (first / "main.o").read_text() == "compiled"
    builder.build(tree, "debug")  # it compiles every file in another way
    assert not (first.parent / "objects-lab-debug/main.o").exists()


def test_without_the_patches_any_source_is_built_as_it_is(lab: Path) -> None:
    tree = source(lab)
    patched, plain = builder.build(tree), builder.build(tree, patched=False)
    assert (patched.read_text(), plain.read_text()) == ("one\nTWO\nthree\n", "one\ntwo\nthree\n")
    assert builder.built(tree) == patched
    (tree / "init/main.c").write_text("another\nkernel\n")
    with pytest.raises(MeasurementError, match=r"does not apply(.|\n)*--no-patches$"):
        builder.build(tree)
    assert builder.build(tree, patched=False).read_text() == "another\nkernel\n"


def test_a_kernel_that_is_not_built_is_asked_for(lab: Path) -> None:
    with pytest.raises(HostError, match="run kickbench lab build"):
        builder.built(source(lab))


def test_progress_has_a_count_and_a_time() -> None:
    assert kbuild.progress_words(405, 1620, 60) == (
        "405 of about 1620 files compiled, about 3 min 00 s left"
    )
    assert kbuild.progress_words(1700, 1620, 60) == (
        "1700 of about 1700 files compiled, about 0 s left"
    )
    assert kbuild.progress_words(7, 0, 60) == "7 files compiled"


def test_options_that_the_kernel_does_not_take_are_found() -> None:
    wanted = "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=3\nCONFIG_D=y\nCONFIG_D=n\n"
    config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=4\n"
    assert kbuild.unmet(wanted, config) == ["CONFIG_C=3"]
    assert kbuild.unmet("CONFIG_A=y\n", "") == ["CONFIG_A=y"]


# --- another architecture -----------------------------------------------------------------------


@pytest.fixture
def cross(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cross-compiler, and a patch for arm64 alone. Returns the compiler's log."""
    programs, log = lab / "programs", lab / "calls"
    programs.mkdir()
    compiler = programs / "aarch64-linux-gnu-gcc"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (lab / "kernel/patches/arm64").mkdir()
    text = PATCH.format(two="ARM", new="arm64.c").replace("-two", "-TWO")
    (lab / "kernel/patches/arm64/0004-arm64.patch").write_text(text)
    return log


def test_a_kernel_for_arm64_has_its_own_compiler_patches_and_name(lab: Path, cross: Path) -> None:
    tree = source(lab)
    ours = builder.build(tree)
    assert not cross.exists()
    theirs = builder.build(tree, arch="arm64")
    assert (ours.name, theirs.name) == ("bzImage", "Image")
    assert (ours.read_text(), theirs.read_text()) == ("one\nTWO\nthree\n", "one\nARM\nthree\n")
    assert "-c " in cross.read_text()
    assert {path.name for path in (lab / "cache").rglob("objects-*")} == {
        "objects-lab",
        "objects-lab-arm64",
    }
    assert json.loads((theirs.parent / "inputs.json").read_text())["arch"] == "arm64"
    assert (theirs.parent / "System.map").exists()
    assert builder.built(tree) == ours
    assert builder.built(tree, arch="arm64") == theirs
    plain = builder.build(tree, arch="arm64", patched=False)
    assert plain.read_text() == "one\ntwo\nthree\n"


def test_what_no_arm64_kernel_has_is_refused(lab: Path, cross: Path) -> None:
    tree = source(lab)
    with pytest.raises(UsageError, match="no architecture vax; there are: x86_64, arm64"):
        builder.inputs(tree, arch="vax")
    for config in ("no-immediate-exit", "observe", "private-memory"):
        with pytest.raises(
            UsageError, match=f"{config} is of x86_64 alone; arm64 has: lab, debug$"
        ):
            builder.inputs(tree, config, "arm64")
    with pytest.raises(HostError, match=r"run kickbench lab build --arch arm64$"):
        builder.built(tree, arch="arm64")
    (tree / "arch/arm64/Makefile").unlink()
    with pytest.raises(UsageError, match="not the source of a Linux kernel"):
        builder.inputs(tree, arch="arm64")


def test_without_the_cross_compiler_its_package_is_named(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "aarch64-linux-gnu-gcc"
    absent = tools.Tool(name, "gcc-aarch64-linux-gnu", "compiles for arm64", ("build-arm64",))
    monkeypatch.setattr(tools, "TOOLS", [*tools.TOOLS, absent])
    monkeypatch.setenv("PATH", str(lab))
    with pytest.raises(HostError, match=rf"{name} .*: not found\ninstall it: .* {absent.package}$"):
        builder.build(source(lab), arch="arm64")
    assert kernels(lab) == []


# --- faults -------------------------------------------------------------------------------------


def test_a_patch_that_does_not_apply_is_named_with_file_and_hunk(lab: Path) -> None:
    tree = source(lab)
    (tree / "init/main.c").write_text("one\nzwei\nthree\n")
    with pytest.raises(MeasurementError) as caught:
        builder.build(tree)
    first = str(caught.value).split("\n")[0]
    assert first == f"0001-two.patch does not apply to {tree}: init/main.c, hunk 1 (line 1)"
    assert caught.value.exit_code == EXIT_MEASUREMENT
    assert kernels(lab) == []
    patch(lab, "TWO")
    (tree / "init/main.c").write_text("one\ntwo\nthree\n")
    assert builder.build(tree).read_text() == "one\nTWO\nthree\n"


def test_a_patch_to_a_file_that_is_not_there_is_named(lab: Path) -> None:
    tree = source(lab)
    (tree / "init/main.c").unlink()
    with pytest.raises(MeasurementError, match=r"0001-two\.patch does not apply"):
        builder.build(tree)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("echo main.c:1: error: oops; exit 2", "make bzImage failed"),
        ("echo ld: cannot write: No space left on device; exit 2", "the disk of .* is full"),
    ],
)
def test_a_failed_build_shows_its_last_lines_and_leaves_no_kernel(
    lab: Path, line: str, why: str
) -> None:
    tree = source(lab, MAKEFILE.replace('@echo "  CC      init/main.o"', f"@{line}"))
    with pytest.raises(MeasurementError, match=why) as caught:
        builder.build(tree)
    assert line.split(";")[0].removeprefix("echo ") in str(caught.value)
    assert kernels(lab) == []


def test_the_error_is_shown_though_other_compilers_and_make_go_on_talking(lab: Path) -> None:
    error = "echo main.c:1: error: oops; for i in `seq 30`; do echo '  CC [M]  x.o'; done; "
    error += "for i in 1 2 3; do echo 'make[2]: *** [Makefile:7: .] Error 2'; done; exit 2"
    tree = source(lab, MAKEFILE.replace('@echo "  CC      init/main.o"', f"@{error}"))
    with pytest.raises(MeasurementError) as caught:
        builder.build(tree)
    assert [line for line in str(caught.value).splitlines() if line.startswith("  |")] == [
        "  | main.c:1: error: oops"
    ]
    tree = source(lab, MAKEFILE.replace("bzImage Image:", "bzImage Image: missing.c"))
    with pytest.raises(MeasurementError, match=r"No rule to make target 'missing\.c'"):
        builder.build(tree)


def test_a_full_disk_at_the_last_moment_leaves_no_kernel(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder, "_sync", full)
    with pytest.raises(MeasurementError, match="No space left on device"):
        builder.build(source(lab))
    assert kernels(lab) == []


CHILD = """
import sys
from pathlib import Path
from kickbench.lab import build, tools
build.KERNEL = Path({kernel!r})
tools.TOOLS = [tool for tool in tools.TOOLS if tool.name in {needed!r}]
print(build.build(Path({tree!r})))
"""


def building(lab: Path, tree: Path) -> subprocess.Popen[str]:
    text = CHILD.format(kernel=str(lab / "kernel"), needed=NEEDED, tree=str(tree))
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def test_a_killed_build_leaves_no_kernel_and_the_next_one_succeeds(lab: Path) -> None:
    slow = "@touch $(O)/../../../compiling; [ -e $(O)/../../../quick ] || exec sleep 600"
    tree = source(lab, MAKEFILE.replace('@echo "  CC      init/main.o"', slow))
    process = building(lab, tree)
    cache = lab / "cache/kickbench/lab"
    wait_for(cache / "compiling")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert kernels(lab) == []
    (cache / "quick").touch()
    assert builder.build(tree).is_file()


def test_two_builds_at_once_are_one(lab: Path) -> None:
    tree = source(lab)
    lock = lab / "cache/kickbench/lab/lock"
    lock.parent.mkdir(parents=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    both = [building(lab, tree) for _ in range(2)]
    for process in both:
        assert process.stderr is not None
        assert "another kickbench lab build is at work" in process.stderr.readline()
    os.close(descriptor)
    said = [process.communicate(timeout=600)[0] for process in both]
    assert said[0] == said[1] != ""
    assert builds(lab) == 1
