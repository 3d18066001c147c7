"""What the manuals of web services say of each operation, as paragraphs of plain text.

botocore ships the reference manual of every service of Amazon Web Services: a JSON file a service
and version of its interface, in which the documentation of an operation is HTML.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

SKIPPED = frozenset("pre ul ol dl table important note".split())
"""Elements that are no running text, or an aside that many operations share."""
INLINE = frozenset("a b code em i strong".split())
"""Elements inside a sentence; every other one ends a paragraph."""
# A sentence that only points to another page, or to a list that was left out.
POINTER = re.compile(
    r"\bmore (?:\w+ )*(?:information|details?|errors)\b|\blearn more\b|\bthe following\b"
    r"|\b(?:see|refer to|read|visit|listed in|described in|review)\b[^.]*"
    r"\b(?:Guide|Reference|Documentation|documentation|guide|reference|topics?|sections?|page)\b"
    r"|\bin the [A-Z][^.]* (?:Guide|Reference|Documentation)\b"
    r"|^\(?(?:Refer to|Also see)\b|\b(?:[Ss]ee|listed in),? [A-Z]|\b[Ss]ee (?:the|our) "
)
_WHOLE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_VERSION = re.compile(r"-?v\d+$")


class Operation(NamedTuple):
    """One operation of a service and what its manual says of it."""

    service: str  # the name of its folder, such as ``"cognito-idp"``
    title: str  # the name of the service, such as ``"Cognito Identity Provider"``
    name: str
    text: str  # paragraphs of plain text with an empty line between them

    @property
    def id(self) -> str:
        """Return what names the operation among those of all services."""
        return f"{self.service}.{self.name}"

    @property
    def family(self) -> str:
        """Return the product that the service belongs to: its name without version and part."""
        return _VERSION.sub("", self.service).split("-")[0]


class _Paragraphs(HTMLParser):
    """Collects the running text of HTML, paragraph by paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = [""]
        self.skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin to skip, or a paragraph."""
        del attrs
        self.skipping += tag in SKIPPED
        if tag not in INLINE:
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        """End what began."""
        self.skipping = max(0, self.skipping - (tag in SKIPPED))
        if tag not in INLINE:
            self.paragraphs.append("")

    def handle_data(self, data: str) -> None:
        """Add text that is not skipped."""
        if not self.skipping:
            self.paragraphs[-1] += data


def text_of(html: str) -> str:
    """Return the running text of HTML: paragraphs on a line each, an empty line between them.

    Lists, tables, code blocks and remarks are left out, and so is every sentence that only points
    to another page.
    """
    parser = _Paragraphs()
    parser.feed(html)
    parser.close()
    paragraphs = (" ".join(text.split()) for text in parser.paragraphs)
    telling = (
        " ".join(part for part in _WHOLE.split(text) if not POINTER.search(part))
        for text in paragraphs
    )
    return "\n\n".join(filter(None, telling))


def operations_of(folder: Path) -> Iterator[Operation]:
    """Yield the operations of a service, by its newest manual; withdrawn ones are left out.

    `folder`: of the service, with a folder for each version of its interface, named by its date.
    """
    manuals = sorted(folder.glob("*/service-2.json.gz"))
    if not manuals:
        return
    manual = json.loads(gzip.decompress(manuals[-1].read_bytes()))
    title = manual["metadata"]["serviceId"]
    for name, operation in sorted(manual["operations"].items()):
        if not operation.get("deprecated"):
            text = text_of(operation.get("documentation", ""))
            yield Operation(folder.name, title, name, text)


def read(data: Path) -> tuple[Operation, ...]:
    """Read the operations of all services, sorted by service and name.

    `data`: the folder of botocore that has a folder a service.
    """
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    return tuple(operation for folder in folders for operation in operations_of(folder))
