"""The JSON schema of results.json, made from the records that it holds.

``python -m reports.schema`` prints it; ``docs/results.schema.json`` is what it printed last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kvcore.analysis.estimate import NON_FINITE
from kvcore.verdict import Difference, Judgement, Verdict
from reports import multiple
from reports.results import SCHEMA_VERSION

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBER: Mapping[str, Any] = {"anyOf": [{"type": "number"}, {"enum": sorted(NON_FINITE)}]}
"""A number, or the text that stands for one that JSON lacks."""
_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_FREE: Mapping[str, Any] = {"type": "object"}
_SCALARS: Mapping[Any, Mapping[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: NUMBER,
    str: _TEXT,
    type(None): {"type": "null"},
}
NOT_WRITTEN = ("plot",)
"""Fields of a judgement that results.json leaves out."""


def schema_of(kind: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of a value of an annotated type, as `kvcore.analysis.estimate` writes it.

    `without`: fields of a record that are left out.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        own = {f.name: schema_of(hints[f.name]) for f in fields(kind) if f.name not in without}
        return closed(own)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (UnionType, Union):
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0])}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = schema_of(arguments[1]) if arguments[1] is not Any else {}
        return {"type": "object", "additionalProperties": values}
    return dict(_SCALARS[kind])


def closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with these properties, all of them and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": sorted(properties),
        "additionalProperties": False,
    }


def results_schema() -> dict[str, Any]:
    """Return the schema of results.json."""
    judgement = schema_of(Judgement, without=NOT_WRITTEN)
    said = {
        "words": _TEXT,
        "sentence": _TEXT,
        "q": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]},
        "less_published": {"anyOf": [schema_of(Difference), {"type": "null"}]},
    }
    verdicts = get_args(Verdict)
    document = closed(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "command": {"anyOf": [_TEXT, {"type": "null"}]},
            "configuration": {"type": "object", "additionalProperties": _TEXT},
            "environment": _FREE,
            "cells": {"type": "array", "items": _FREE},
            "counts": closed(dict.fromkeys(verdicts, _COUNT)),
            "q_values": closed(
                {
                    "level": {"type": "number"},
                    **{field.name: _COUNT for field in fields(multiple.Standing)},
                }
            ),
            "judgements": {
                "type": "array",
                "items": closed({**judgement["properties"], **said}),
            },
            "rows": {"type": "array", "items": closed({"store": _TEXT, "rows_hash": _TEXT})},
        }
    )
    return {"$schema": DIALECT, "title": "results.json of kvclaims", **document}


def text() -> str:
    """Return the schema as it stands in its file."""
    return json.dumps(results_schema(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
