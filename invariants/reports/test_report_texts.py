"""What the reports promise of texts: whatever stands in one, it is shown and does nothing else.

Each promise is a small assertion helper; its twin breaks the production code and must see the
helper fail.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariants.support import invented, invented_plots
from invariants.support.comparing import must_see
from invariants.support.invented_texts import (
    HOSTILE,
    Seen,
    assert_drawings_inert,
    assert_nothing_active,
    hostile_texts,
    outside_drawings,
)
from kvcore.verdict import Judgement
from reports import text
from reports.html import templates, tests_table
from reports.html.page import page
from reports.plots import curves

REPORTS = Path(text.__file__).parent
NEVER = re.compile("(?!)")


# --- single texts ------------------------------------------------------------------------------


def assert_inert(raw: str) -> None:
    shown = text.inert_text(raw)
    assert_nothing_active(shown)
    xml = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert (ET.fromstring(f"<a>{xml}</a>").text or "") == shown
    assert text.inert_text(shown) == shown


@given(hostile_texts)
def test_inert_text_is_inert(raw: str) -> None:
    """Catches a character that UTF-8 or XML cannot hold, or that turns the text."""
    assert_inert(raw)


@pytest.mark.parametrize("raw", ["\x00", "\ud800", "\u202e", "\uffff"])
def test_inert_text_twin(raw: str) -> None:
    """Without the pattern of what is dangerous, each kind of it gets through and is seen."""
    must_see(lambda patch: patch.setattr(text, "DANGEROUS", NEVER), assert_inert, raw)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=40))
def test_ordinary_text_is_left_alone(raw: str) -> None:
    """Catches letters of any script, numbers or punctuation that are changed needlessly."""
    assert text.inert_text(raw) == raw


def test_symbols_say_what_was_there() -> None:
    """Catches a dangerous character whose symbol is missing or wrong; line feed and tab stay."""
    assert text.inert_text("a\x00b\x1b\x7f\u202e\u200f\ud800\n\t") == (
        "a␀b␛␡⟨RLO⟩⟨RLM⟩⟨U+D800⟩\n\t"
    )


def test_long_text_says_how_much_is_left_out() -> None:
    """Catches a text that fills the page, or that is cut without saying so."""
    assert text.inert_text("x" * 5_000) == "x" * text.LONGEST + "… (+1000 characters)"


def assert_encodable(raw: str) -> None:
    data = text.encodable({"a": [raw, (raw, 1)], "b": None})
    assert not re.search("[\ud800-\udfff]", json.dumps(data, ensure_ascii=False))
    assert [type(item) for item in data["a"]] == [str, tuple]


@given(hostile_texts)
def test_encodable_data_has_no_lone_surrogates(raw: str) -> None:
    """Catches a message that ends the worker which has to send it, or data of another shape."""
    assert_encodable(raw)


def test_encodable_twin() -> None:
    """A surrogate that stays as it is cannot be sent, and is seen."""
    must_see(
        lambda patch: patch.setattr(text, "visible", lambda match: match.group()),
        assert_encodable,
        "\ud800",
    )


@given(st.floats(-1e6, 1e6))
def test_numbers_read_as_what_they_are(value: float) -> None:
    """Catches a number shown with another value, or one that is not zero shown as zero."""
    shown = float(text.number(value).replace("−", "-"))
    assert shown == pytest.approx(value, abs=5.01e-4, rel=0)
    assert (shown == 0) == (value == 0)


def test_missing_numbers_are_a_dash() -> None:
    """Catches an unknown value that looks like a number."""
    assert [text.number(x) for x in (None, float("nan"), float("inf"))] == ["–"] * 3


# --- templates ---------------------------------------------------------------------------------


def assert_isolated(raw: str) -> None:
    """One cell of the table of tests: the text in its attribute and between its tags."""
    seen = Seen(tests_table.cell(raw, raw))
    shown = text.inert_text(raw)
    assert seen.tags == [("td", {"class": f"col-{shown}"} if raw else {}), ("bdi", {})]
    assert seen.text == shown


@given(hostile_texts)
def test_a_template_writes_text_in_isolation(raw: str) -> None:
    """Catches a text that becomes an element, leaves its attribute or turns its surroundings."""
    assert_isolated(raw)


@pytest.mark.parametrize(
    ("option", "raw"),
    [({"autoescape": False}, '"<b>bold</b>'), ({"finalize": lambda value: value}, "\u202e")],
)
def test_template_twin(option: dict[str, Any], raw: str) -> None:
    """Without escaping, or without making inert, a text does more and is seen."""
    must_see(
        lambda patch: patch.setattr(
            templates, "ENVIRONMENT", templates.ENVIRONMENT.overlay(**option)
        ),
        assert_isolated,
        raw,
    )


def assert_no_template_trusts(source: str) -> None:
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", source)
    assert not re.search(r"=\s*\{\{", source), "an attribute without quotes"


def test_no_template_trusts_a_text() -> None:
    """Catches a template that marks a text as trusted, or fills an attribute without quotes."""
    sources = [path.read_text(encoding="utf-8") for path in templates.FOLDER.glob("*.html")]
    assert len(sources) > 10
    for source in sources:
        assert_no_template_trusts(source)


@pytest.mark.parametrize("source", ["{{ text | safe }}", "<a href={{ link }}>"])
def test_no_template_trusts_twin(source: str) -> None:
    """A template that trusts, or does not quote, is seen."""
    with pytest.raises(AssertionError):
        assert_no_template_trusts(source)


def tags_in(source: str) -> list[str]:
    """Return the string constants of a module, docstrings too, that hold an HTML tag."""
    constants = (
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
    )
    return [value for value in constants if isinstance(value, str) and re.search("</?[a-z]", value)]


def test_no_python_string_holds_a_tag() -> None:
    """Catches HTML that is put together in Python, past the templates' escaping."""
    modules = list(REPORTS.rglob("*.py"))
    assert len(modules) > 20
    assert {path.name: tags_in(path.read_text(encoding="utf-8")) for path in modules} == {
        path.name: [] for path in modules
    }


def test_no_python_string_twin() -> None:
    """Tags in a plain string and in the middle of an f-string are seen."""
    assert tags_in('x = "<td>"\ny = f"{x}</td>"\nz = "a < b"') == ["<td>", "</td>"]


def test_few_modules_make_markup() -> None:
    """Catches a text that becomes trusted anywhere but where templates and drawings come out."""
    trusted = {
        path.relative_to(REPORTS).as_posix()
        for path in REPORTS.rglob("*.py")
        if re.search(r"\bMarkup\(|, Markup\b|\(Markup,", path.read_text(encoding="utf-8"))
    }
    drawings = {"plots/svg.py", "html/pictures.py"}
    pages = {"html/templates.py", "html/page.py", "html/tests_table.py"}
    assert trusted == drawings | pages


# --- the whole page ----------------------------------------------------------------------------


class Places:
    """Replaces every text of some data by the same raw text behind a number for its place."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.names: list[str] = []

    def text(self, name: str) -> str:
        """Return the text for a place, to be named later on."""
        self.names.append(name)
        return f"№{len(self.names):03} {self.raw}"

    def filled(self, value: Any, name: str, fixed: tuple[str, ...] = ()) -> Any:
        """Return JSON data with each text replaced, but for what has one of a few values."""
        if isinstance(value, dict):
            keys = {
                key: self.text(f"{name}, name")
                if name.endswith(("details", "facts", "map"))
                else key
                for key in value
            }
            return {
                keys[key]: item if key in fixed else self.filled(item, f"{name}.{key}", fixed)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.filled(item, name, fixed) for item in value]
        return self.text(name) if isinstance(value, str) else value


# what code compares with, and numbers written as texts
FIXED = (
    "kind",
    "verdict",
    "reading",
    "verdict_beside",
    "id",
    "family",
    "name",
    "prediction",
    "ci_low",
    "ci_high",
    "value",
    "unit",
)


def _plot(places: Places, plot: dict[str, Any], unit: str) -> dict[str, Any]:
    if plot["kind"] == "several":
        return {
            "kind": "several",
            "figures": [_plot(places, each, unit) for each in plot["figures"]],
        }
    if plot["kind"] == "tokens":
        classes = {places.text("tokens.class"): places.text("tokens.meaning") for _ in range(3)}
        return {
            "kind": "tokens",
            "classes": classes,
            "tokens": [{"text": places.text("tokens.text"), "class": name} for name in classes],
        }
    filled: dict[str, Any] = places.filled(plot, plot["kind"], FIXED)
    return filled | ({"unit": unit} if "unit" in plot else {})


def _judgement(places: Places, index: int, plot: dict[str, Any], unit: str) -> Judgement:
    """Return a judgement of a claim of its own, with a plot, all of whose texts are replaced."""
    base = dataclasses.replace(
        invented.judgements()[0],
        plot={"kind": "none"},
        ledger="x",
        details={"a number": 0.5, "a text": "x"},
    )
    data = places.filled(base.to_dict(), "judgement", FIXED)
    data["claim"]["id"] = f"claim-{index}"
    data["estimate"]["unit"] = unit
    data["store"] = data["store"].replace("/", "")  # of a path the page shows the last part
    data["claim"]["prediction"] = data["claim"]["prediction"] | {"unit": unit}
    return Judgement.from_dict(data | {"plot": _plot(places, plot, unit)})


@cache
def harmless_page() -> str:
    """Return the page of a run whose texts do nothing, to compare with."""
    return run_of("y")[1]


def run_of(raw: str) -> tuple[Places, str]:
    """Render a run all of whose texts are replaced: every kind of plot, two masks, every fact."""
    places = Places(raw)
    plots = [
        *(dict(j.plot) for j in (invented.judgements()[i] for i in (0, 20, 24))),
        *invented_plots.plots().values(),
    ]
    unit = places.text("judgement.estimate.unit")
    judgements = [_judgement(places, index, plot, unit) for index, plot in enumerate(plots)]
    explanations = places.filled(
        [
            {
                "condition": "x",
                "model": "x",
                "text": "x",
                "masks": [{"title": "x", "mask": [[1, 0], [1, 1]]}],
            }
        ],
        "explanation",
    )
    explanations[0]["masks"][0]["slots"] = [places.text("explanation.masks.slots")] * 2
    facts = {"text": "x", "list": ["x", "x"], "map": {"x": "x"}, "none": None}
    provenance = {
        "command": places.text("command"),
        "cells": [places.filled(facts, "cell.facts")],
        "configuration": places.filled(facts, "options.facts"),
    }
    environment = places.filled(facts, "environment.facts")
    return places, page(judgements, explanations, provenance, environment)


SHOWN = {
    "judgement.claim.statement",
    "judgement.claim.source",
    "judgement.cell.model",
    "judgement.cell.dataset",
    "judgement.cell.metric",
    "judgement.estimate.unit",
    "judgement.estimate.method",
    "judgement.ledger",
    "judgement.conditions",
    "judgement.store",
    "judgement.rows_hash",
    "judgement.model_revision",
    "judgement.outcome",
    "judgement.details, name",
    "judgement.details.a text",
    "tokens.class",
    "tokens.meaning",
    "tokens.text",
    "table.columns",
    "table.rows",
    "trace.tokens",
    "trace.y_label",
    "layers.x_label",
    "layers.y_label",
    "layers.curves.label",
    "survival.x_label",
    "survival.curves.label",
    "roc.curves.label",
    "wins.label",
    "specifications.rows.label",
    "stack.x_label",
    "stack.y_label",
    "stack.parts.label",
    "bars.x_label",
    "bars.parts",
    "bars.bars.label",
    "bars.bars.missing",
    "scatter.x_label",
    "scatter.y_label",
    "curve.x_label",
    "explanation.condition",
    "explanation.model",
    "explanation.text",
    "explanation.masks.title",
    "explanation.masks.slots",
    "command",
    "cell.facts, name",
    "options.facts, name",
    "environment.facts, name",
    "cell.facts.text",
    "cell.facts.list",
    "cell.facts.map.x",
    "cell.facts.map, name",
    "options.facts.list",
    "environment.facts.map.x",
}
"""Where a text can enter a page."""


def _markers(shown: str) -> Iterator[int]:
    return (int(number) for number in re.findall(r"№(\d{3})", shown))


ISOLATING = {"kv-numbers", "kv-cells", "kv-small-table"}
"""Tables whose cells hold one text each."""


def assert_every_text_is_inert(raw: str) -> None:
    """Compare two pages, place by place.

    1. A run all of whose texts are ``raw``.
    2. The same run with harmless texts.
    """
    places, hostile = run_of(raw)
    harmless = harmless_page()
    seen, plain = Seen(outside_drawings(hostile)), Seen(outside_drawings(harmless))
    assert seen.names == plain.names
    assert_drawings_inert(hostile)
    assert_nothing_active(hostile)
    assert set(_markers(hostile)) == set(_markers(harmless))
    assert {places.names[number - 1] for number in _markers(hostile)} >= SHOWN
    for inside, shown in seen.texts:
        tags = {tag for tag, _ in inside}
        # a cell of these tables holds one text, and isolates it as a block
        cell = "td" in tags and ISOLATING & {name for _, names in inside for name in names.split()}
        assert "№" not in shown or {"bdi", "th", "option"} & tags or cell, shown


def test_every_text_reaches_the_page_inert() -> None:
    """Catches a place at which a text is not escaped, not isolated, active, or not shown at all."""
    assert_every_text_is_inert(HOSTILE)


@pytest.mark.parametrize("option", [{"autoescape": False}, {"finalize": lambda value: value}])
def test_every_text_twin(option: dict[str, Any]) -> None:
    """Without escaping, or without making inert, the whole page sees it."""
    must_see(
        lambda patch: patch.setattr(
            templates, "ENVIRONMENT", templates.ENVIRONMENT.overlay(**option)
        ),
        assert_every_text_is_inert,
        "<b>\u202e",
    )


def test_every_drawn_text_twin() -> None:
    """A label that a plot passes on as it is, is seen."""
    must_see(
        lambda patch: patch.setattr(curves, "wrapped", str), assert_every_text_is_inert, "<b>\u202e"
    )


def hostile_page(raw: str) -> str:
    """Render one judgement with texts that have no marker, so that each may be anything."""
    base = dataclasses.replace(invented.judgements()[0], plot={"kind": "none"})
    judgement = dataclasses.replace(
        base,
        model_revision=raw,
        ledger=f"x{raw}",
        conditions=(raw,),
        details={f"x{raw}": f"x{raw}"},
        store=f"x{raw.replace('/', '')}",
        rows_hash=raw,
        cell=dataclasses.replace(base.cell, model=f"x{raw}", dataset=raw),
        claim=dataclasses.replace(base.claim, statement=raw, source=raw),
    )
    explained = {
        "condition": raw,
        "text": raw,
        "model": f"x{raw}",
        "masks": [{"title": raw, "mask": [[1]], "slots": [f"x{raw}"]}],
    }
    facts = {
        "command": f"x{raw}",
        "configuration": {f"x{raw}": f"x{raw}"},
        "cells": [{f"x{raw}": {f"x{raw}": f"x{raw}"}}],
    }
    return page([judgement], [explained], facts, {"python": f"x{raw}"})


@settings(max_examples=15)
@given(hostile_texts)
def test_no_text_changes_the_page(raw: str) -> None:
    """Catches a text, of any characters, that adds an element or an active character."""
    hostile = hostile_page(raw)
    assert Seen(outside_drawings(hostile)).names == Seen(outside_drawings(hostile_page("y"))).names
    assert_drawings_inert(hostile)
    assert_nothing_active(hostile)
