# SPDX-License-Identifier: Apache-2.0
"""Turns plots into SVG for a page, and into files of their own, SVG and PNG.

In a page, text stays text, ids never clash, and ink takes the colour of the page's text. A file is
drawn on white. An SVG refers to nothing outside it, and the same plot gives the same bytes every
time. :mod:`kickbench.report.figures.table` lists what is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from kickbench.report.figures.plots import INK, Plot

PNG_DPI = 200

_NAMESPACE = re.compile(r"^\{[^}]*\}")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_DECIMALS = re.compile(r"-?[0-9]+\.[0-9]{2,}")
_UNTURNED = re.compile(r"rotate\(-?0 [^)]*\)")
_FAMILY = re.compile(r"font-family: [^;]*; ?")
_LONG = 1000
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
}


def standalone(plot: Plot, name: str, *, alternative: bool = False) -> bytes:
    """The plot as an SVG file, on white. The same plot and name give the same bytes."""
    metadata = {"Title": plot.title, "Description": plot.finding}
    return _save(plot.on(alternative=alternative), "svg", name, white=True, metadata=metadata)


def png(plot: Plot, *, alternative: bool = False) -> bytes:
    """The plot as a PNG file, on white. The same plot gives the same bytes."""
    return _save(plot.on(alternative=alternative), "png", "", white=True, metadata={})


def inline(plot: Plot, name: str, *, alternative: bool = False) -> str:
    """The plot as an ``<svg>`` element for a page; ``name`` must be unique on it."""
    canvas = plot.on(alternative=alternative)
    # matplotlib has just written this file, and escaped foreign text in it.
    root = ElementTree.fromstring(_save(canvas, "svg", name, white=False, metadata={}))  # noqa: S314
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
                value = _shorter(key, value.replace(INK, "currentColor"))
                if value:
                    element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    for parent in list(root.iter()):
        if len(parent):
            parent.text = None  # line breaks and indents
        for child in list(parent):
            child.tail = None
            # Style sheets and metadata would be those of the whole page.
            if child.tag in ("style", "metadata") or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    scale = "" if plot.scales is None else f" ({plot.scales[alternative]})"
    root.attrib.update({"role": "img", "aria-labelledby": f"{name}-title {name}-desc"})
    root.set("font-family", ", ".join(_SETTINGS["font.sans-serif"]))
    for index, (tag, text) in enumerate((("title", plot.title + scale), ("desc", plot.finding))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(index, element)
    # An empty element without an end tag is fine in SVG, but only there.
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _save(canvas: Canvas, format_: str, name: str, *, white: bool, metadata: Any) -> bytes:
    out = io.BytesIO()
    # These would record when, and with which version, the plot was drawn.
    unsaid = ("Creator", "Date", "Format", "Type") if format_ == "svg" else ("Software",)
    settings = {**_SETTINGS, "svg.hashsalt": name}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A browser has glyphs that matplotlib's font lacks. In an SVG the font only measures.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.patch.set(visible=white, facecolor="white")
        canvas.set_dpi(PNG_DPI)  # that of an SVG is fixed
        # Not savefig(), which lays everything out twice.
        known = {**dict.fromkeys(unsaid), **metadata}
        backend: Any = (FigureCanvasSVG if format_ == "svg" else FigureCanvasAgg)(canvas)
        getattr(backend, f"print_{format_}")(out, metadata=known)
    return out.getvalue()


def _shorter(key: str, value: str) -> str:
    """Rounds coordinates to a hundredth of a point, those of long paths to a tenth.

    It also drops what is the same everywhere. Together that halves the size.
    """
    places = 2
    if key == "d":
        value = " ".join(value.split())
        places = 1 if len(value) > _LONG else 2
    if key in ("d", "x", "y", "width", "height", "transform", "style"):
        value = _FAMILY.sub("", value)
        value = _DECIMALS.sub(
            lambda match: f"{float(match[0]):.{places}f}".rstrip("0").rstrip("."), value
        )
    return _UNTURNED.sub("", value) if key == "transform" else value


def _used_ids(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)
