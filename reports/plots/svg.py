"""One style for every picture, and SVG small enough to go inside a page.

Text stays text (no glyph outlines, no fonts), so a picture is small, searchable and takes the
page's own typeface; dense drawings become one bitmap inside the SVG. The same data gives the
same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from reports.text import inert_text, one_line

INK, MUTED, GRID, BAND, FILL = "#1c2430", "#5d6470", "#d9dde3", "#e3eef6", "#c3cad3"

# Okabe and Ito 2008, the pale ones darkened to stand out from white (contrast above 3); they stay
# apart for every common kind of colour blindness, and neighbours differ in lightness too.
LINES = ("#0072b2", "#d55e00", "#1c2430", "#009068", "#9c4f80", "#8f7200")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
AREAS = ("#2f5d84", "#a9cbe6", "#d55e00", "#f3cf8e", "#00765a", "#c8c8c8")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout never depends on the machine
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "path.simplify": True,
}

_NAMESPACE = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
ET.register_namespace("", _NAMESPACE)


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Set the style and the seed of the ids inside the SVG; restore both afterwards."""
    settings: Any = {**_STYLE, "svg.hashsalt": inert_text(salt)}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # the reader's browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def wrapped(label: object, width: int = 30) -> str:
    """Return a label on as many lines as it needs, at most 90 characters in all."""
    return textwrap.fill(one_line(label, 90), width)


def to_svg(figure: Figure, label: str, css_class: str = "kv-figure") -> Markup:
    """Return a figure as an svg element, the only markup that does not come from a template.

    The figure is drawn inside `style`, its texts are inert already; the label is for those who
    cannot see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=100, transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())
    references = " ".join(
        value for each in root.iter() for value in each.attrib.values() if "#" in value
    )
    for element in root.iter():
        _shorten(element, references)
    _keep_visible(root)
    # the first two are what matplotlib's own style sheet says, which would reach the whole page
    root.attrib |= {
        "style": "stroke-linejoin:round;stroke-linecap:butt",
        "role": "img",
        "aria-label": one_line(label),
        "class": css_class,
    }
    return Markup(ET.tostring(root, encoding="unicode").replace(" />", "/>"))


def standalone(drawn: str) -> str:
    """Return an svg element as a file of its own: on white, in the reader's plain typeface."""
    root = ET.fromstring(drawn)
    white = {"width": "100%", "height": "100%", "fill": "#ffffff"}
    root.insert(0, ET.Element(f"{{{_NAMESPACE}}}rect", white))
    root.attrib["style"] += ";font-family:DejaVu Sans,Verdana,sans-serif"
    return ET.tostring(root, encoding="unicode").replace(" />", "/>")


def _name(element: ET.Element) -> str:
    return element.tag.removeprefix(f"{{{_NAMESPACE}}}")


def _shorten(element: ET.Element, references: str) -> None:
    """Drop from an element what the page says itself, ids that nobody refers to, white space."""
    if _name(element) not in ("text", "tspan"):
        element.text = None
    element.tail = None
    attributes = element.attrib
    if f"#{attributes.get('id')}" not in references:
        attributes.pop("id", None)
    if _HREF in attributes:
        attributes["href"] = attributes.pop(_HREF)
    for name, value in attributes.items():
        if name not in ("href", "id") and not value.startswith("matrix"):
            attributes[name] = _shorter(value)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]


def _keep_visible(parent: ET.Element) -> None:
    """Drop metadata, style sheets and what has no ink; put what a bare group holds in its place."""
    children: list[ET.Element] = []
    for child in parent:
        _keep_visible(child)
        name, empty = _name(child), not len(child)
        if name == "g" and not child.attrib:
            children += child
        elif not (
            name in ("metadata", "style")
            or (name == "defs" and empty)
            or (name == "path" and child.get("style") == "fill: none")
        ):
            children.append(child)
    parent[:] = children


def _shorter(value: str) -> str:
    value = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'(?:, [^;\"]*)?", r"font-size: \1px", value)
    value = re.sub(r" ?font-family: 'DejaVu Sans'(?:, [^;\"]*)?;?", "", value)
    # tenths of a point place a line
    value = re.sub(r"(\d\.\d)\d+", r"\1", value)
    return re.sub(r" *([A-Z;:]) +", r"\1", value).strip()
