# SPDX-License-Identifier: Apache-2.0
"""The file that ``kickbench fleet run --hosts`` reads: a host a line, as Ansible's inventories.

``docs/fleet.md`` describes it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.results.schema import place
from kickbench.run.machine import is_host
from kickbench.text import quoted

_PYTHON = re.compile(r"[A-Za-z0-9~/][A-Za-z0-9._~/+-]*")
_HEADING = re.compile(r"\[[^\[\]]+\]")


@dataclass(frozen=True)
class Host:
    """A host: what the file calls it, what ssh reaches it by, and its Python, None if unknown."""

    name: str
    address: str
    port: int | None = None
    python: str | None = None


def read(path: Path) -> tuple[Host, ...]:
    """The hosts of a file, each once. Raises UsageError, in one line, for what is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(f"{place(path)}: cannot be read: {reason}") from None
    found: dict[str, dict[str, str]] = {}
    has_hosts = True
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{place(path)}:{number}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"{where}: {str(error).lower()}") from None
        if not words or words[0].startswith(";"):
            continue
        if _HEADING.fullmatch(line.strip()):
            has_hosts = ":" not in line  # [group:vars] and [group:children] name no hosts
        elif has_hosts:
            found.setdefault(words[0], {}).update(_settings(words[1:], where))
            _host(words[0], found[words[0]], where)  # say what is wrong with its line
    if not found:
        raise UsageError(f"{place(path)}: names no host; write a host for ssh on each line")
    return tuple(_host(name, settings, place(path)) for name, settings in found.items())


def _settings(words: list[str], where: str) -> dict[str, str]:
    settings = {}
    for word in words:
        key, is_one, value = word.partition("=")
        if not is_one:
            raise UsageError(f"{where}: {quoted(word)} is no setting; write one host a line")
        settings[key] = value
    return settings


def _host(name: str, settings: dict[str, str], where: str) -> Host:
    if "[" in name:
        raise UsageError(
            f"{where}: {quoted(name)} is a pattern; list the hosts with ansible all --list-hosts"
        )
    address = settings.get("ansible_host", name)
    if user := settings.get("ansible_user"):
        address = f"{user}@{address}"
    if not is_host(name) or not is_host(address):
        raise UsageError(f"{where}: {quoted(address)} is no host; write user@box or box")
    port = settings.get("ansible_port")
    if port is not None and not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise UsageError(f"{where}: ansible_port: {quoted(port)} is no port")
    python = settings.get("ansible_python_interpreter")
    if python is not None and not _PYTHON.fullmatch(python):
        raise UsageError(f"{where}: ansible_python_interpreter: {quoted(python)} is no path")
    return Host(name, address, int(port) if port else None, python)
