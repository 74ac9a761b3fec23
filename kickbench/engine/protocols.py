# SPDX-License-Identifier: Apache-2.0
"""Kick protocols of the user's own: compiles their C files, and loads the libraries.

A protocol in another language is a library already. What is compiled for it is C with the hot
loops, which calls the library's hooks (``kickbench/foreign.h``).

``docs/protocols.md`` explains how to write one. Building runs a compiler, and loading runs the
file's code: the user wrote it, or trusts its author. Nothing here is a sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import c_uint32
from pathlib import Path

import kickbench.engine
from kickbench.arch import ARCHS
from kickbench.engine.engine import library
from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.methods import is_library, method_label
from kickbench.native import PLACEBO, built_file, placebo_name

FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall"),
    "-U_FORTIFY_SOURCE",
    # For a hook that is missing. Newer compilers make this an error anyway.
    "-Werror=implicit-function-declaration",
)
COMPILE_SECONDS = 600
"""A compilation takes one or two seconds, and some hundred times as long on a very busy host."""
LONGEST_LINE = 200
MOST_LINES = 20

HOOKS = ("enter", "leave", "before_run", "after_run", "handler", "kick")
"""What a library in another language must have; ``finish_exit`` is optional."""

_EXPORTED = re.compile(rb"\0kb_protocol_(\w+)(?=\0)")


class _Protocol(ctypes.Structure):
    """How ``struct kb_protocol`` begins, in this and every later version."""

    _fields_ = [("abi", c_uint32), ("vcpu_size", c_uint32)]


def build(source: Path, folder: Path, machine: str | None = None) -> Path:
    """Compile ``source``, with $CC or cc, to ``<its label>.so`` in ``folder``. Returns that path.

    ``machine`` is that which it is for, as in uname(2); None: this one. For another one, the
    compiler is that of Debian's name. The same file is compiled a second time, to the library of
    :func:`placebo_of`. ``source`` may be a library in another language: it is copied to
    :func:`foreign_of`. Raises UsageError with the compiler's output when it does not compile, and
    when the protocol's name is not the file's or a hook is missing; HostError when there is no
    compiler; MeasurementError when the disk is full.
    """
    if not source.is_file():
        raise UsageError(
            f"{_printable(source.name)}: there is no such file ({source.parent}); correct the path "
            "in the scenario"
        )
    target = folder.resolve() / f"{method_label(source.name)}.so"
    link: tuple[str, ...] = ()
    if is_library(source.name):
        source = _hooks_of(source, target)
        link = (f"-L{target.parent}", f"-l:{foreign_of(target).name}", "-Wl,-rpath,$ORIGIN")
    _compile(source, target, machine, link=link)
    _check_name(source, target)
    _compile(source, placebo_of(target), machine, f"-DKB_COPY={PLACEBO}", link=link)
    return target


def foreign_of(library: Path) -> Path:
    """The library in another language whose hooks ``library`` calls. There need not be one."""
    name = library.stem.removesuffix(placebo_name(""))
    return library.with_name(f"{name}.foreign.so")


def _hooks_of(source: Path, target: Path) -> Path:
    """Copy a library in another language, and write the C file that calls its hooks."""
    name = target.stem
    there = source.read_bytes()
    missing = [f"{name}_{hook}" for hook in HOOKS if f"\0{name}_{hook}\0".encode() not in there]
    if missing:
        raise UsageError(
            f"{source.name} does not export {', '.join(missing)}; "
            "docs/protocols.md says what a protocol in another language must have"
        )
    foreign_of(target).write_bytes(there)
    lines = [f"#define KB_PROTOCOL {name}", "#include <kickbench/foreign.h>", ""]
    if f"\0{name}_finish_exit\0".encode() in there:
        lines.insert(0, "#define KB_HAS_FINISH_EXIT")
    caller = target.with_suffix(".c")
    caller.write_text("\n".join(lines))
    return caller


def placebo_of(library: Path) -> Path:
    """The library with the placebo of the protocol of ``library``, which :func:`build` made."""
    return library.with_stem(placebo_name(library.stem))


def _compile(
    source: Path, target: Path, machine: str | None, *options: str, link: Sequence[str] = ()
) -> None:
    command = [
        *_compiler(source, machine),
        *FLAGS,
        *options,
        f"-I{include_folder()}",
        *("-include", "kickbench/arch/libc.h"),
        *("-o", str(target), f"./{source.name}"),
        *link,
    ]
    try:
        done = subprocess.run(
            command,
            cwd=source.resolve().parent,  # so that messages name the file, not where it is
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMPILE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"{source.name}: the compiler did not finish within {COMPILE_SECONDS} s; try again on "
            "a quieter host"
        ) from error
    except OSError as error:
        raise HostError(
            f"{command[0]} cannot be started: {error.strerror}; name another compiler with CC=..."
        ) from error
    if done.returncode != 0:
        output = _bounded(done.stdout.decode(errors="replace")) or f"status {done.returncode}"
        if os.strerror(errno.ENOSPC) in output:
            raise MeasurementError(
                f"{source.name} cannot be compiled: no space for the compiler's temporary files; "
                f"make room, or set TMPDIR to another folder:\n{output}"
            )
        raise UsageError(f"{source.name} does not compile:\n{output}")


def load(path: Path, name: str) -> ctypes.CDLL:
    """Load the library that :func:`build` made of ``name``'s file, for ``Engine(protocols=...)``.

    Raises MeasurementError when it calls a function that does not exist, and when it was built
    against other headers than this engine's.
    """
    engine = library()  # first: the protocol's calls are resolved in it
    try:
        # Before what needs it: it may have a name of its own (DT_SONAME), which is no file's here.
        if (foreign := foreign_of(path)).exists():
            ctypes.CDLL(str(foreign.resolve()), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        loaded = ctypes.CDLL(str(path.resolve()), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        found = _Protocol.in_dll(loaded, f"kb_protocol_{name}")
    except (OSError, ValueError) as error:
        raise MeasurementError(
            f"the protocol {name} cannot be loaded: {error}{_noexec_hint(path)}"
        ) from error
    ours = c_uint32.in_dll(engine, "kb_abi").value
    if (found.abi, found.vcpu_size) != (ours, engine.kb_sizeof(b"vcpu")):
        raise MeasurementError(
            f"the protocol {name} was built against the headers of another version of kickbench: "
            "build it again"
        )
    return loaded


def _noexec_hint(path: Path) -> str:
    """What to do if nothing may be executed in the folder, as on many a /tmp; else ""."""
    try:
        noexec = os.statvfs(path).f_flag & os.ST_NOEXEC
    except OSError:
        return ""
    if not noexec:
        return ""
    return f"\n{path.parent} is mounted noexec: set TMPDIR to a folder that is not"


def include_folder() -> Path:
    """The folder for a protocol's compiler (-I): it has ``kickbench/protocol.h``."""
    return built_file(kickbench.engine.__path__, "include/kickbench/protocol.h").parents[1]


def _compiler(source: Path, machine: str | None) -> list[str]:
    """$CC split into words, or cc, with the path of the program; for another machine, its cc."""
    wanted = os.environ.get("CC", "").strip() or "cc"
    packages = "apt install gcc libc6-dev, dnf install gcc"
    if machine is not None and machine != os.uname().machine:
        wanted = f"{machine.replace('_', '-')}-linux-gnu-gcc"
        packages = "apt install " + " ".join(ARCHS[machine].CROSS_PACKAGES)
    try:
        program, *options = shlex.split(wanted)
    except ValueError as error:
        raise UsageError(
            f"CC is no command: {error}; set it to a C compiler, or unset it"
        ) from error
    path = shutil.which(program)
    if path is None:
        raise HostError(
            f"no C compiler for {source.name}: there is no {_printable(program)};\n"
            f"install one ({packages}), or name one with CC=..."
        )
    return [str(Path(path).absolute()), *options]


def _check_name(source: Path, target: Path) -> None:
    """The engine finds a protocol by the file's name. The library is only read, and not run."""
    names = sorted({name.decode() for name in _EXPORTED.findall(target.read_bytes())})
    if source.stem in names:
        return
    expected = f'"#define KB_PROTOCOL {source.stem}", before it includes <kickbench/loop.h>'
    if names:
        raise UsageError(
            f"{source.name} calls its protocol {', '.join(names)}: expected\n{expected}"
        )
    raise UsageError(f"{source.name} exports no protocol: it must end with\n{expected}")


def _bounded(output: str) -> str:
    """The first lines of a compiler's output, as text that a terminal only prints."""
    lines = output.rstrip().splitlines()
    shown = [_printable(line)[:LONGEST_LINE] for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(f"... and {len(lines) - MOST_LINES} lines more")
    return "\n".join(shown)


def _printable(text: str) -> str:
    spaces = text.replace("\t", " ")
    return "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in spaces)
