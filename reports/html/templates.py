"""How templates become HTML: whatever a template writes out is made inert, then escaped.

No template marks a text as trusted; what is `Markup` comes from another template or is a drawing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import words
from reports.text import inert_text, number, token_text

FOLDER = Path(__file__).with_name("templates")


def inert(value: Any) -> Any:
    """Return what a template may write out: markup as it is, anything else as inert text."""
    return value if isinstance(value, Markup) else inert_text(value)


ENVIRONMENT = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    finalize=inert,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "cell": words.cell_words,
    "end": words.end_words,
    "interval": words.interval_words,
    "level": words.level_words,
    "method": words.method_words,
    "number": number,
    "prediction": words.prediction_words,
    "published": words.published_words,
    "required": words.required_words,
    "signed": words.is_signed,
    "thousands": "{:,}".format,
    "token": token_text,
    "unit": words.unit_words,
    "verdict": words.verdict_words,
}
ENVIRONMENT.globals |= {"verdict_styles": words.VERDICT_STYLES}


def render(template: str, **values: Any) -> Markup:
    """Fill in a template; texts among the values come out inert, escaped and as text."""
    return Markup(ENVIRONMENT.get_template(template).render(values))
