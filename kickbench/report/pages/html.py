# SPDX-License-Identifier: Apache-2.0
"""What all HTML pages share: the templates, the functions that make text safe, style and script.

A page is one file that loads nothing. Its text can be foreign: all of it is escaped, control
characters are made visible, and lengths are bounded. This module does not know what is on a page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

import kickbench
from kickbench.results.schema import safe_name
from kickbench.text import printable, shorten

LONGEST_TEXT = 2000
"""Characters of one value that a page shows."""
_LONGEST_STEM = 180

Head = tuple[str, list[tuple[int | None, str, str, bool]]]
"""Columns under one head ("": none). Each has its index (None: it cannot be sorted), its name, its
unit, and whether it has numbers."""
Rows = list[tuple[bool, list[tuple[str, str | None, str]]]]
"""Rows of a table. Each says whether it begins a block, and has cells: text, the number by which it
is sorted, and class."""

_ROOMS = (
    "kickbench.report.pages",
    "kickbench.nightly",
    "kickbench.lab.explain",
    "kickbench.fleet.pages",
)
"""Where templates are."""
_UNITS = r"%|[nµm]?s|emulated|[kMG]Hz|v?CPUs?|cases?"
_BEFORE_UNIT = re.compile(rf"(?<=[0-9]) (?=(?:{_UNITS})(?!\w))")
_NUMBER = r"-?[0-9][0-9.,]*"
_TOGETHER = re.compile(rf"(?:(?<=\()|(?<=CI )){_NUMBER} to {_NUMBER}(?=[,) ])|few rounds(?=\))")
_ASIDE = re.compile(r"(?s)(.*\S) (\([^()]*\))")


TABLES = "page.js"
"""The script that sorts tables, switches scales, and copies text."""
FLAMES = "flame.js"
"""The script that zooms into flame graphs."""
MAPS = "map.js"
"""The script that names the cells of a map."""


def render(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """A whole HTML document with these scripts of this room's, such as TABLES."""
    environment = _environment()
    code = "".join(map(_text_of, scripts))
    return environment.get_template(template).render(
        style=Markup(_text_of("page.css")),  # noqa: S704 (our own)
        script=Markup(code),  # noqa: S704 (our own)
        script_source=_hash_source(code) if code else "'none'",
        version=kickbench.__version__,
        **values,
    )


def safe(value: Any) -> Any:
    """Foreign text, safe to show: bounded, with control characters made visible."""
    if isinstance(value, Markup):
        return value
    return printable(shorten(str(value), LONGEST_TEXT))


def units(text: str) -> Markup:
    """Our own words, safe, without line breaks before a number's unit or within an interval."""
    text = _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", safe(text))
    text = _TOGETHER.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    return escape(text)


def cell(text: str) -> Markup:
    """The text of a table's cell. Parentheses at its end are set apart. A link is ready."""
    if isinstance(text, Markup):
        return text
    aside = _ASIDE.fullmatch(text)
    if aside is None:
        return units(text)
    return Markup('{} <span class="ci">{}</span>').format(units(aside[1]), units(aside[2]))


def file_stem(scenario: str, *parts: str) -> str:
    """A file name without its suffix, safe and short enough for any name of a scenario."""
    stem = "-".join([safe_name(scenario, default="scenario"), *parts])
    if len(stem) <= _LONGEST_STEM:
        return stem
    # The name is cut, but another run still has another name.
    return f"{stem[:_LONGEST_STEM]}-{hashlib.sha256(stem.encode()).hexdigest()[:12]}"


def when(created_utc: str) -> str:
    """E.g. "2026-03-01 12:00 UTC", from the time as results have it."""
    return f"{created_utc[:10]} {created_utc[11:16]} UTC"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in _ROOMS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(units=units, cell=cell, when=when)
    return environment


@cache
def _text_of(name: str) -> str:
    return resources.files("kickbench.report.pages").joinpath(name).read_text("utf-8")


def _hash_source(code: str) -> str:
    """The source for a Content-Security-Policy that lets exactly this script run."""
    digest = hashlib.sha256(code.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
