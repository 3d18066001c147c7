"""One look for every picture, and SVG small enough to go inside a page.

Text stays text (no glyph outlines, no fonts), so a picture is small, searchable and takes the
page's own typeface; dense drawings become one bitmap inside the SVG. The same data gives the
same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from reports.text import escape, one_line

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


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Set the look and the seed of the ids inside the SVG; restore both afterwards."""
    settings: Any = {**_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # the reader's browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def to_svg(figure: Figure, label: str, dpi: int = 130) -> str:
    """Return a figure as an ``<svg>`` element with a name for those who cannot see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=dpi, transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def wrapped(label: object, width: int = 30) -> str:
    """Return a label on as many lines as it needs, at most 90 characters in all."""
    return textwrap.fill(one_line(label, 90), width)


def _inline(svg: str, label: str) -> str:
    """Cut an SVG file down to what goes inside a page: no prolog, no metadata, no stray ids."""
    body = svg[svg.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # its `*` selector would reach the whole page; the root carries the same two properties
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    # inside tags only: text is what someone reads
    body = re.sub(r"<[^>]+>", lambda tag: _smaller(tag.group()), body)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r'<g><path d="[^"]*" style="fill: none"/></g>', "", body)
    root = f'<svg role="img" aria-label="{escape(one_line(label))}" class="kv-figure" '
    root += 'style="stroke-linejoin:round;stroke-linecap:butt" '
    return body.replace("<svg ", root, 1).strip()


def _smaller(tag: str) -> str:
    """Drop from a tag what the page says itself, and what nobody sees."""
    tag = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'(?:, [^;\"]*)?", r"font-size: \1px", tag)
    tag = re.sub(r" ?font-family: 'DejaVu Sans'(?:, [^;\"]*)?;?", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
    # hundredths of a point place a line
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag)
