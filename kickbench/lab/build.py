# SPDX-License-Identifier: Apache-2.0
"""Builds the lab's kernel from a source, a configuration and patches, and keeps it.

A kernel is kept under the hash of its inputs, in ``XDG_CACHE_HOME/kickbench/lab/``::

    kernels/<hash>/bzImage       finished kernels (arm64: Image), each put there by one rename
    kernels/<hash>/System.map    the addresses of its functions, for kickbench lab explain
    kernels/<hash>/structs.json  how its structures are laid out, for the same
    kernels/<hash>/inputs.json   what went into it, for people
    trees/<source>/source/       the source with the patches applied
    trees/<source>/originals/    the files that the patches change, as they were before
    trees/<source>/objects-*/    make's objects: a changed patch recompiles only what it changes.
                                 Those of most configurations begin as a copy of those of lab
    lock                         one build at a time

You may delete all but ``kernels`` while nothing builds. A build never changes the user's own source
tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.lab import tools
from kickbench.lab.cache import cache, only_one
from kickbench.lab.kbuild import ARM64, STRUCTS, X86_64, Target, Tree, run, say
from kickbench.run.progress import duration

KERNEL = Path(__file__).parent / "kernel"
_BASE = "lab.config"


@dataclass(frozen=True)
class Arch:
    """An architecture that the lab builds kernels for.

    ``fragments`` are merged over lab.config. ``patches`` is the folder of the patches that are
    applied after those of all architectures, if it has any. ``user`` is what the tools call the
    build.
    """

    target: Target
    user: str
    fragments: tuple[str, ...] = ()
    patches: str | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        """What is kept of a build, by its place in the folder of objects."""
        return (self.target.image, "System.map", STRUCTS)


ARCHS: dict[str, Arch] = {
    "x86_64": Arch(X86_64, "build"),
    "arm64": Arch(ARM64, "build-arm64", ("arm64.config",), "arm64"),
}
"""The architectures that kernels can be built for, by name."""


@dataclass(frozen=True)
class Config:
    """A configuration of the kernel, with its purpose in ``doc``.

    lab.config is merged over ``make tinyconfig``, then the fragments of the architecture, and then
    ``fragments``. Later ones win. ``removals`` are patches
    that are applied after the lab's own. Each takes a feature away. Without ``portable``, the
    configuration is of x86_64 alone. ``afresh`` says that its options change how every file is
    compiled, so that the objects of another configuration are of no use.
    """

    doc: str
    fragments: tuple[str, ...] = ()
    removals: tuple[str, ...] = ()
    portable: bool = False
    afresh: bool = False

    def texts(self, arch: str = "x86_64") -> dict[str, str]:
        """The fragments for an architecture, by file name."""
        names = (_BASE, *ARCHS[arch].fragments, *self.fragments)
        return {name: (KERNEL / name).read_text() for name in names}


CONFIGS: dict[str, Config] = {
    "lab": Config("the kernel to measure in", portable=True),
    "debug": Config("KASAN, lockdep and kmemleak", ("debug.config",), portable=True, afresh=True),
    "no-immediate-exit": Config(
        "KVM does not leave a nested guest at once", removals=("no-immediate-exit.patch",)
    ),
    "observe": Config("BTF and BPF, for kickbench observe", ("observe.config",), afresh=True),
    "private-memory": Config(
        "VMs with private memory, for the program memory_fault", ("private-memory.config",)
    ),
    "kexec": Config("boots the next kernel by itself, for kickbench ab", ("kexec.config",)),
    "kexec-no-immediate-exit": Config(
        "another that does, to be told from it: KVM does not leave a nested guest at once",
        ("kexec.config",),
        ("no-immediate-exit.patch",),
    ),
}
"""The kernels that can be built, by name."""


# --- inputs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """All inputs of a build.

    ``source`` is a folder or a tarball, and ``identity`` its hash. ``fragments`` and ``patches``
    are texts by file name, in order.
    """

    source: Path
    identity: str
    config: str
    fragments: Mapping[str, str]
    patches: Mapping[str, str]
    compiler: str
    arch: str = "x86_64"

    @property
    def key(self) -> str:
        """The name under which the kernel is kept."""
        facts = {**self.facts(), "source": None, "kept": ARCHS[self.arch].kept}
        del facts["arch"]  # What is kept says it.
        return _hash(json.dumps(facts).encode())[:16]

    @property
    def image(self) -> Path:
        """The path of the kernel, whether it is built or not."""
        return cache() / "kernels" / self.key / Path(ARCHS[self.arch].target.image).name

    @property
    def objects(self) -> str:
        """The name of the folder of objects, which kernels with the same fragments share."""
        return _objects(self.fragments)

    @property
    def first_objects(self) -> str:
        """The name of the folder that this one may begin as a copy of: that of lab."""
        return _objects((_BASE, *ARCHS[self.arch].fragments))

    def facts(self) -> dict[str, object]:
        """The inputs as a JSON object."""
        return {**vars(self), "source": str(self.source)}


def inputs(
    source: Path | None = None, config: str = "lab", arch: str = "x86_64", *, patched: bool = True
) -> Inputs:
    """The inputs that a build would have now. Looks at the whole source, for half a second.

    Without ``patched`` the lab's own patches are left out. Those of the configuration remain.

    Raises UsageError for a source, configuration or architecture that does not exist, HostError
    (exit code 3) if Debian's source or the compiler is missing.
    """
    chosen = _config(config, arch)
    if source is None:
        source = tools.DEBIAN_SOURCE
        if not source.exists():
            tool = next(tool for tool in tools.TOOLS if tool.name == str(source))
            raise HostError(
                f"{source} is missing; name a kernel's source with --source, or install it: "
                f"{tools.install_line([tool])}"
            )
    elif not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    folder = ARCHS[arch].target.folder
    return Inputs(
        source.resolve(),
        _identity_of_folder(source, folder) if source.is_dir() else _identity_of_file(source),
        config,
        chosen.texts(arch),
        {path.name: path.read_text() for path in _patches(chosen, arch, patched)},
        compiler(arch),
        arch,
    )


def _objects(fragments: Iterable[str]) -> str:
    return "-".join(["objects", *(name.removesuffix(".config") for name in fragments)])


def _config(name: str, arch: str) -> Config:
    if arch not in ARCHS:
        raise UsageError(f"no architecture {arch}; there are: {', '.join(ARCHS)}")
    if name not in CONFIGS:
        raise UsageError(f"no configuration {name}; there are: {', '.join(CONFIGS)}")
    if arch != "x86_64" and not CONFIGS[name].portable:
        there = ", ".join(name for name, config in CONFIGS.items() if config.portable)
        raise UsageError(f"the configuration {name} is of x86_64 alone; {arch} has: {there}")
    return CONFIGS[name]


def _patches(config: Config, arch: str, patched: bool) -> Iterator[Path]:
    """The patches, in the order in which they are applied."""
    if patched:
        yield from sorted((KERNEL / "patches").glob("*.patch"))
        if own := ARCHS[arch].patches:
            yield from sorted((KERNEL / "patches" / own).glob("*.patch"))
    yield from (KERNEL / "removals" / name for name in config.removals)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _identity_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity_of_folder(folder: Path, arch: str) -> str:
    """A hash of the names, sizes and times of all files of a tree, so that an edit changes it."""
    if not (folder / "Kbuild").is_file() or not (folder / "arch" / arch / "Makefile").is_file():
        raise UsageError(f"{folder} is not the source of a Linux kernel; name one with --source")
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            facts = os.lstat(os.path.join(place, name))  # noqa: PTH118 (90,000 of them)
            digest.update(f"{place}/{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def compiler(arch: str = "x86_64") -> str:
    """The first line of gcc's version. Raises HostError if there is none."""
    gcc = ARCHS[arch].target.gcc
    try:
        said = subprocess.run([gcc, "--version"], capture_output=True, text=True, check=True)
    except OSError:
        others = [tool.name for tool in tools.TOOLS if tool.name != gcc]
        tools.require(ARCHS[arch].user, but=others)
        raise
    return said.stdout.partition("\n")[0]


# --- the cache ---------------------------------------------------------------------------------


def built(source: Path | None = None, config: str = "lab", arch: str = "x86_64") -> Path:
    """The path of the kernel that :func:`build` would return. Builds nothing.

    Raises HostError (exit code 3) if the kernel is not built.
    """
    image = inputs(source, config, arch).image
    if not image.is_file():
        more = "" if config == "lab" else f" --config {config}"
        more += "" if arch == "x86_64" else f" --arch {arch}"
        raise HostError(f"the lab's kernel is not built: run kickbench lab build{more}")
    return image


def build(
    source: Path | None = None,
    config: str = "lab",
    jobs: int | None = None,
    arch: str = "x86_64",
    *,
    patched: bool = True,
) -> Path:
    """Build the kernel of these inputs, unless it is there. Returns its path.

    Raises HostError (exit code 3) if tools are missing, MeasurementError (exit code 4) if a patch
    does not apply, the build fails or the disk is full.
    """
    wanted = inputs(source, config, arch, patched=patched)
    image = wanted.image
    if image.is_file():
        return image
    # A tree of the user's needs neither Debian's source nor the tools that unpack a tarball.
    own_tree = ("tar", "xz") if wanted.source.is_dir() else ()
    tools.require(ARCHS[arch].user, but=(str(tools.DEBIAN_SOURCE), *own_tree))
    tools.require(config)
    try:
        with only_one(cache(), "another kickbench lab build") as lock:
            if not image.is_file():  # built by the one that we waited for
                _Build(wanted, jobs, lock).run(image)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise MeasurementError(
            f"the kernel cannot be built: {where}{error.strerror}\n"
            f"the lab builds in {cache()}; set XDG_CACHE_HOME to build elsewhere"
        ) from error
    return image


def arch_of(kernel: Path) -> str | None:
    """The architecture that a kernel is for, by the magic number in its header; None: unknown.

    Sources: Documentation/arch/x86/boot.rst and Documentation/arch/arm64/booting.rst.
    """
    with kernel.open("rb") as file:
        header = file.read(0x206)
    for arch, at, magic in (("x86_64", 0x202, b"HdrS"), ("arm64", 0x38, b"ARM\x64")):
        if header[at : at + 4] == magic:
            return arch
    return None


# --- one build ---------------------------------------------------------------------------------


class _Build:
    def __init__(self, wanted: Inputs, jobs: int | None, lock: int) -> None:
        self._inputs, self._jobs, self._lock = wanted, jobs, lock
        self._tree = cache() / "trees" / wanted.identity[:16]
        self._source = self._tree / "source"
        self._originals = self._tree / "originals"
        self._objects = self._tree / wanted.objects
        self._arch = ARCHS[wanted.arch]

    def run(self, image: Path) -> None:
        begun = time.monotonic()
        if not self._source.is_dir():
            self._unpack()
        self._patch()
        self._begin_objects()
        tree = Tree(self._source, self._objects, self._jobs, self._lock, self._arch.target)
        tree.configure(self._inputs.fragments.values(), f"-kickbench-{self._inputs.key}")
        tree.compile()
        tree.note_structs()
        self._keep(image)
        say(f"built in {duration(time.monotonic() - begun)}")

    def _unpack(self) -> None:
        say(f"unpacking {self._inputs.source}")
        self._tree.mkdir(parents=True, exist_ok=True)
        for leftover in self._tree.glob(".unpacking-*"):
            shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=self._tree))
        fresh = work / "source"
        if self._inputs.source.is_dir():
            shutil.copytree(
                self._inputs.source, fresh, symlinks=True, ignore=shutil.ignore_patterns(".git")
            )
            # make refuses a folder of objects if the source has objects too.
            run(["make", "-s", "-C", str(fresh), "mrproper"], "cleaning the source", self._lock)
        else:
            fresh.mkdir()
            run(
                ["tar", "-xf", str(self._inputs.source), "-C", str(fresh), "--strip-components=1"],
                "unpacking the source",
                self._lock,
            )
            if not (fresh / "Kbuild").is_file():
                raise UsageError(
                    f"{self._inputs.source} is not the source of a Linux kernel; "
                    "name one with --source"
                )
        fresh.rename(self._source)
        work.rmdir()

    def _begin_objects(self) -> None:
        """Begin with the objects of lab, if they are there.

        make compiles what depends on an option that differs (scripts/basic/fixdep.c). So the times
        of the files have to be kept, and no file may be shared.
        """
        first = self._tree / self._inputs.first_objects
        afresh = CONFIGS[self._inputs.config].afresh
        if afresh or self._objects.exists() or not first.exists():
            return
        # The name is not that of a folder of objects, and a killed copy is removed.
        work = self._tree / ".copying"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(first, work, symlinks=True)
        work.rename(self._objects)

    def _patch(self) -> None:
        """Apply the patches in place of earlier ones.

        A file that ends as it was keeps its time: make compiles nothing for it.
        """
        before = {path: (path.read_bytes(), path.stat()) for path in self._patched()}
        self._restore()
        for name, text in self._inputs.patches.items():
            self._apply(name, text)
        for path, (data, was) in before.items():
            if path.exists() and path.read_bytes() == data:
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    def _patched(self) -> list[Path]:
        """The files of the source that earlier patches changed or added."""
        changed = [str(path.relative_to(self._originals)) for path in self._originals.rglob("*")]
        paths = [self._source / name for name in changed + self._added()]
        return [path for path in paths if path.is_file()]

    def _added(self) -> list[str]:
        file = self._tree / "added.json"
        names: list[str] = json.loads(file.read_text()) if file.exists() else []
        return names

    def _restore(self) -> None:
        """Undo earlier patches."""
        for name in self._added():
            (self._source / name).unlink(missing_ok=True)
        for original in [path for path in self._originals.rglob("*") if path.is_file()]:
            target = self._source / original.relative_to(self._originals)
            shutil.copyfile(original, target)

    def _apply(self, name: str, text: str) -> None:
        self._save_originals(touched_files(text))
        done = subprocess.run(
            # No fuzz: a hunk that fits only nearly would make another kernel.
            ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch", "-r-"],
            cwd=self._source,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            where = rejects(done.stdout) or (done.stdout + done.stderr).strip().split("\n")[-1:]
            raise MeasurementError(
                f"{name} does not apply to {self._inputs.source}: {'; '.join(where)}\n"
                "the patch is for Linux 6.12: name a source of 6.12 with --source, or leave out "
                "the patches with --no-patches"
            )

    def _save_originals(self, names: list[str]) -> None:
        added = self._added()
        for name in names:
            path, original = self._source / name, self._originals / name
            if original.exists() or name in added:
                continue
            if path.exists():
                original.parent.mkdir(parents=True, exist_ok=True)
                part = original.with_name(f".{original.name}.part")
                shutil.copyfile(path, part)
                part.rename(original)
            else:
                added.append(name)
        (self._tree / "added.json").write_text(json.dumps(added))

    def _keep(self, image: Path) -> None:
        folder = image.parent.parent
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".new-*"):
            shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            for name in self._arch.kept:
                shutil.copyfile(self._objects / name, work / Path(name).name)
            text = json.dumps(self._inputs.facts(), indent=2)
            (work / "inputs.json").write_text(text + "\n")
            for path in (*work.iterdir(), work):
                _sync(path)
            work.chmod(0o755)
            work.rename(image.parent)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading patches -------------------------------------------------------------------------


def touched_files(patch: str) -> list[str]:
    """The files that a patch in git's format changes, adds or removes, each once."""
    found = re.findall(r"^(?:---|\+\+\+) [ab]/(\S+)$", patch, re.MULTILINE)
    return list(dict.fromkeys(found))


def rejects(said: str) -> list[str]:
    """The hunks that patch(1) could not apply, in words, from its output."""
    found, file = [], "?"
    for line in said.splitlines():
        if match := re.match(r"(?:checking|patching) file '?(.+?)'?$", line):
            file = match[1]
        elif match := re.match(r"Hunk #(\d+) FAILED at (\d+)", line):
            found.append(f"{file}, hunk {match[1]} (line {match[2]})")
        elif match := re.match(r"can't find file to patch at input line (\d+)", line):
            found.append(f"no file for line {match[1]} of the patch")
        elif "previously applied" in line:
            found.append(f"{file}: it is applied already")
    return found
