# SPDX-License-Identifier: Apache-2.0
"""Which groups and hosts have a page of their own, and its file.

A fleet can have thousands of hosts. Then only those that are odd or have changed have a page.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from markupsafe import Markup

from kickbench.fleet.judge.found import Found
from kickbench.report.pages.html import safe
from kickbench.results.schema import safe_name

MOST_GROUPS = 40
MOST_TOLD = 40
"""Findings that have a section on the first page. The table there has more."""
INDEX = "index.html"
PAGE = re.compile(r"(group-[0-9]+|host-[A-Za-z0-9._+-]+)\.html", re.ASCII)
"""The file of a group or host."""


@dataclass(frozen=True)
class Links:
    """The files of groups, by their index, and of hosts, by their name."""

    groups: dict[int, str]
    hosts: dict[str, str]

    def host(self, name: str) -> str:
        """The name, as a link if the host has a page."""
        return _link(self.hosts.get(name), name)

    def group(self, index: int, name: str) -> str:
        """The name, as a link if the group has a page."""
        return _link(self.groups.get(index), name)

    def finding(self, number: int) -> str:
        """Where the first page tells of the finding with this number, which is from 1."""
        return f"{INDEX}#finding-{number}" if number <= MOST_TOLD else f"{INDEX}#findings"


def links_of(found: Found) -> Links:
    """Choose the pages of groups and hosts."""
    groups = {index: f"group-{index + 1}.html" for index in range(len(found.groups))[:MOST_GROUPS]}
    return Links(groups, {name: _file(name) for name in found.foremost})


def _file(name: str) -> str:
    """A file name that no other host has, also where upper and lower case are the same."""
    stem = safe_name(name, default="name")
    if stem != name.lower():
        stem += "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"host-{stem}.html"


def _link(address: str | None, name: str) -> str:
    if address is None:
        return name
    return Markup('<a href="{}">{}</a>').format(address, safe(name))
