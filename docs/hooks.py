"""What pages need to be read as a site: links out of docs, and fences that are blocks of code."""

from __future__ import annotations

import re

REPOSITORY = "https://github.com/kvclaims/kvclaims/blob/main/"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page whose links to ``../file`` lead to the file in the repository.

    Words behind a fence's language say what tests do with a block; the site takes the language
    alone, or would show the block as prose.
    """
    linked = re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}\1)", markdown)
    return re.sub(r"^( *```\w+) .*$", r"\1", linked, flags=re.MULTILINE)
