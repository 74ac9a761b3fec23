# SPDX-License-Identifier: Apache-2.0
"""kickbench as a user starts it: in a process of its own, or in the test's."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from kickbench.cli import COMMANDS, main

KICKBENCH = [sys.executable, "-P", "-m", "kickbench"]
"""The installed one: -P leaves out the folder that it is started in."""


def kickbench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``kickbench ...`` to its end, and have what it wrote."""
    command = [*KICKBENCH, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, **options
    )


def check_words(words: list[str]) -> None:
    """Fails if kickbench has no such subcommand, or the subcommand no such option."""
    assert words[0] == "kickbench"
    subcommand = words[1:3] if isinstance(COMMANDS[words[1]], typer.Typer) else words[1:2]
    shown = subprocess.run(
        [*KICKBENCH, *subcommand, "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?m)(^|\s){option}\b", shown.stdout), f"{words}: no {option}"


def kickbench_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``kickbench ...`` in this process, and have its exit code."""
    monkeypatch.setattr("sys.argv", ["kickbench", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def kickbench_captured(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``kickbench ...`` in this process, and have what it wrote: as ``kickbench``, but cheaper.

    ``env`` is its whole environment. What it starts does not write there. What only a process can
    show stays in one: imports, signals, standard streams that fail, the environment at start-up.
    """
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, os.environ.copy() if env is None else env, clear=True),
        Path(os.devnull).open() as nothing,
        mock.patch("sys.stdin", nothing),
        pytest.MonkeyPatch.context() as monkeypatch,
        _signals(),
        _stream("stdout") as out,
        _stream("stderr") as err,
    ):
        code = kickbench_here(monkeypatch, *arguments)
        return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The command sets what some of them do."""
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _stream(name: str) -> Iterator[io.TextIOWrapper]:
    """A file in the place of ``sys.stdout`` or ``sys.stderr``: the command asks for its number."""
    with (
        tempfile.TemporaryFile() as file,
        io.TextIOWrapper(file, encoding="utf-8") as stream,
        mock.patch(f"sys.{name}", stream),
    ):
        yield stream


def _text(stream: io.TextIOWrapper) -> str:
    """What was written, with Python's line ends."""
    stream.flush()
    stream.seek(0)
    return stream.read()
