# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG that can stand in a page beside others: text as text, ids that never clash.

The result has no reference to anything outside, takes the colour of the page's text, and is the
same for the same plot every time. What is drawn is the business of
:mod:`kickbench.report.figures`.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG

from kickbench.report.plots import INK, Plot

_NAMESPACE = re.compile(r"^\{[^}]*\}")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
}


def standalone(plot: Plot, name: str) -> bytes:
    """The plot as an SVG file. The same plot and name give the same bytes."""
    out = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # A browser has glyphs that matplotlib's font, which only measures here, has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(plot.canvas)
        plot.canvas.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


def inline(plot: Plot, name: str) -> str:
    """The plot as an ``<svg>`` element for a page; ``name`` must be unique on it."""
    # Our own file of a moment ago, whatever texts are in it.
    root = ElementTree.fromstring(standalone(plot, name))  # noqa: S314
    used = set(_used_ids(root))
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            key = _NAMESPACE.sub("", key)
            if key == "id":
                if value in used:
                    element.set("id", f"{name}-{value}")
            elif key == "href":
                element.set("href", f"#{name}-{value.removeprefix('#')}")
            else:
                value = value.replace(INK, "currentColor")
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    for parent in list(root.iter()):
        for child in list(parent):
            # Style sheets and metadata would be those of the whole page.
            if child.tag in ("style", "metadata") or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-labelledby": f"{name}-title {name}-desc"})
    for index, (tag, text) in enumerate((("title", plot.title), ("desc", plot.finding))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(index, element)
    # An empty element without an end tag is fine in SVG, but only there.
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _used_ids(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)
