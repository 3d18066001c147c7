"""Texts that would do something on a page, were they not made inert, and a reader of pages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

from hypothesis import strategies as st

HOSTILE = "<script>alert(1)</script> \"' & \x00\x1b[31m \ud800 \u202eevil\u2066 \ufffe ]]> $x^2$"

hostile_texts = st.text(
    st.characters()
    | st.sampled_from("<>&\"'\x00\x0b\x85\ud800\udfff\u202e\u2066\u200f\ufffe\uffff"),
    max_size=40,
)

DRAWN_ELEMENTS = {"svg", "g", "defs", "path", "use", "text", "tspan", "image", "clipPath", "rect"}

_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e"
    "\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)
_VOID = {"br", "meta", "link", "img"}
_SVG = re.compile("<svg.*?</svg>", flags=re.DOTALL)


class Seen(HTMLParser):
    """A fragment as a browser sees it: its elements, and each text with what it stands in."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[list[tuple[str, str]], str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element with its attributes and open it."""
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in _VOID:
            self._open.append((tag, attributes.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        """Close an element, which has to be the innermost one."""
        if tag not in _VOID:
            assert [name for name, _ in self._open[-1:]] == [tag], f"</{tag}> closes nothing"
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Note text with the (tag, class) of every element it stands in."""
        self.texts.append((list(self._open), data))

    @property
    def text(self) -> str:
        """All text, without the elements."""
        return "".join(data for _, data in self.texts)

    @property
    def names(self) -> list[tuple[str, tuple[str, ...]]]:
        """Elements with the names of their attributes."""
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]


def outside_drawings(fragment: str) -> str:
    """Return a fragment without its pictures."""
    return _SVG.sub("", fragment)


def drawings(fragment: str) -> list[str]:
    """Return the pictures of a fragment."""
    return _SVG.findall(fragment)


def assert_nothing_active(shown: str) -> None:
    """Demand that no character acts on what surrounds it and that UTF-8 can hold each."""
    __tracebackhide__ = True
    assert not _ACTIVE.search(shown), f"an active character in {shown[:200]!a}"


def assert_drawings_inert(fragment: str) -> None:
    """Demand that pictures hold nothing but drawing: no script, no link, no handler."""
    __tracebackhide__ = True
    for drawing in drawings(fragment):
        for element in ET.fromstring(drawing).iter():
            assert element.tag.split("}")[-1] in DRAWN_ELEMENTS
            assert not [name for name in element.attrib if name.startswith("on")]
            assert element.get("href", "#").startswith(("#", "data:image/png;base64,"))
