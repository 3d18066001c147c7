"""Text from outside made inert, and numbers written the same way everywhere."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

LONGEST = 4_000
"""Characters of one piece of text that a report shows before it says how many it left out."""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
DANGEROUS = re.compile(
    rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff\ufdd0-\ufdef]"
    + "".join(f"|[{chr(end)}{chr(end + 1)}]" for end in range(0xFFFE, 0x110000, 0x10000))
)
"""Characters that act on what surrounds them, or that UTF-8 or XML cannot hold."""


def visible(match: re.Match[str]) -> str:
    """Return a symbol for the dangerous character that was matched."""
    char = match.group()
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    name = unicodedata.name(char, "")
    # initials, as bidirectional controls are known: RIGHT-TO-LEFT OVERRIDE -> RLO
    short = "".join(word[0] for word in re.split(r"[ -]", name) if word != "TO") if name else ""
    return f"\u27e8{short or f'U+{code:04X}'}\u27e9"


def inert_text(text: object, longest: int = LONGEST) -> str:
    """Return text that shows what it holds and does nothing else.

    Control characters, bidirectional controls, lone surrogates and non-characters become
    visible symbols; line feed and tab stay; what is longer than `longest` characters is cut and
    says so. The result is encodable as UTF-8 and allowed in XML 1.0, and applying ``inert_text``
    again changes nothing, as long as nothing was cut.
    """
    raw = str(text)
    shown = DANGEROUS.sub(visible, raw[:longest])
    left_out = max(len(raw) - longest, 0)
    return f"{shown}\u2026 (+{left_out} characters)" if left_out else shown


def one_line(text: object, longest: int = 300) -> str:
    """Return `inert_text` on one line of at most `longest` characters, an ellipsis for the rest."""
    shown = " ".join(inert_text(text).split())
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}\u2026"


def inert_data(value: Any) -> Any:
    """Return JSON-like data with every string made inert and every non-finite number null.

    Strings are made inert but never cut: this is data, not a page.
    """
    if isinstance(value, str):
        return inert_text(value, max(len(value), 1))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {inert_data(str(key)): inert_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [inert_data(item) for item in value]
    return value


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Return a number with a true minus sign, or an en dash for None and non-finite values.

    A value that would round to 0 at so many decimals is given two significant digits; with
    ``sign`` a plus sign is written too.
    """
    if value is None or not math.isfinite(value):
        return "\u2013"
    tiny = value != 0 and abs(value) < 0.5 * 10.0**-digits
    shown = f"{value:{'+' if sign else ''}{'.2g' if tiny else f'.{digits}f'}}"
    return shown.replace("-", "\u2212")


def encodable(value: Any) -> Any:
    """Return data with lone surrogates in its strings replaced, and nothing else changed."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", visible, value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(encodable(item) for item in value)
    return value


def token_text(token: object) -> str:
    """Return a token's text with white space that can be seen: line feeds, tabs, lone spaces."""
    shown = inert_text(token).replace("\n", "\u21b5").replace("\t", "\u21e5")
    return shown if shown.strip() else "\u2423" * len(shown) or "\u2205"
