"""Links from pages to files outside of docs lead to the repository."""

from __future__ import annotations

import re

REPOSITORY = "https://github.com/kvclaims/kvclaims/blob/main/"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page whose links to ``../file`` lead to the file in the repository."""
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}\1)", markdown)
