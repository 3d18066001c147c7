"""How templates become HTML: whatever a template writes out is made inert, then escaped.

No template marks a text as trusted; what is `Markup` comes from another template or is a drawing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reports import words
from reports.text import inert_data, inert_text, number, token_text

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


def json_attribute(value: Any) -> Markup:
    """Return data as JSON for an attribute: its texts inert, and all of it escaped."""
    data = json.dumps(inert_data(value), ensure_ascii=False, separators=(",", ":"))
    return escape(data)


def trusted(*files: Path) -> Markup:
    """Return our own style or script, which is written into a page as it is."""
    return Markup("\n").join(Markup(file.read_text(encoding="utf-8")) for file in files)


def render(template: str, **values: Any) -> Markup:
    """Fill in a template; texts among the values come out inert, escaped and as text."""
    return Markup(ENVIRONMENT.get_template(template).render(values))


ENVIRONMENT.filters["json"] = json_attribute
