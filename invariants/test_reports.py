"""What the reports promise: inert text, the same bytes every time, whole sessions with xdist.

Each promise is a small assertion helper; its twin breaks the production function and must see the
helper fail.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from invariants import invented
from kvcore.errors import KvError
from kvcore.stats import Estimate
from kvcore.verdict import Judgement, Published
from reports import check_page, figures, forest, junit, masks, page, results, terminal, text

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '<script>alert(1)</script> "\' & \x00\x1b[31m \ud800 \u202eevil\u2066 \ufffe ]]> $x^2$'
NEVER = re.compile("(?!)")

hostile_texts = st.text(
    st.characters()
    | st.sampled_from("<>&\"'\x00\x0b\x85\ud800\udfff\u202e\u2066\u200f\ufffe\uffff"),
    max_size=40,
)


def first(**changes: Any) -> Judgement:
    """Return one judgement whose numbers depend on no library's version."""
    estimate = Estimate(0.12, 0.05, 0.19, 0.95, "a method", 240, 200, "d", 0.2)
    given = {"estimate": estimate, "verdict": "supported", "required_n": 970,
             "outcome": "passed", "ledger": "", "plot": {"kind": "none"}, "consistent": True,
             "published": Published(0.091, 2303, "nll_tail"),
             "details": {"mean benefit, nats": 0.025, "excluded samples": "3"}}
    return dataclasses.replace(invented.judgements()[0], **(given | changes))


def second() -> Judgement:
    """Return a refuted judgement of another claim, without an n that would settle it."""
    estimate = Estimate(0.875, 0.826, 0.914, 0.95, "Clopper-Pearson", 240, 240, "proportion")
    return dataclasses.replace(
        invented.judgements()[-1], estimate=estimate, verdict="refuted", required_n=None,
        consistent=False, ledger="known refuted (published)", outcome="xfailed",
        floor=0.0, floor_nats=None, details={})


# --- text --------------------------------------------------------------------------------------


def assert_inert(raw: str) -> None:
    shown = text.safe(raw)
    assert shown.encode("utf-8").decode("utf-8") == shown
    xml = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert (ET.fromstring(f"<a>{xml}</a>").text or "") == shown
    assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    assert text.safe(shown) == shown


@given(hostile_texts)
def test_safe_text_is_inert(raw: str) -> None:
    """Safe text is UTF-8, valid XML, free of direction controls, and stays as it is."""
    assert_inert(raw)


@pytest.mark.parametrize("raw", ["\x00", "\ud800", "\u202e", "\uffff"])
def test_safe_text_twin(raw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pattern of what is dangerous, each kind of it gets through."""
    monkeypatch.setattr(text, "_INERT", NEVER)
    with pytest.raises((AssertionError, UnicodeEncodeError, ET.ParseError)):
        assert_inert(raw)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=40))
def test_ordinary_text_is_left_alone(raw: str) -> None:
    """Letters of any script, numbers and punctuation pass unchanged."""
    assert text.safe(raw) == raw


def test_symbols_say_what_was_there() -> None:
    """Each dangerous character has a symbol of its own; line feed and tab stay."""
    assert text.safe("a\x00b\x1b\x7f\u202e\u200f\ud800\n\t") == "a␀b␛␡⟨RLO⟩⟨RLM⟩⟨U+D800⟩\n\t"


def test_long_text_says_how_much_is_left_out() -> None:
    """A page never holds more of a text than is readable, and says so."""
    assert text.safe("x" * 5_000) == "x" * text.LONGEST + "… (+1000 characters)"


class Seen(HTMLParser):
    """Tags and text of a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag with the names of its attributes."""
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def assert_isolated(raw: str) -> None:
    seen = Seen(text.markup(raw))
    assert seen.tags == [("bdi", ())]
    assert seen.text == text.safe(raw)


@given(hostile_texts)
def test_markup_is_text_in_isolation(raw: str) -> None:
    """Markup of a text is that text inside one isolating element."""
    assert_isolated(raw)


def test_markup_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unescaped text becomes elements."""
    monkeypatch.setattr(text, "escape", lambda raw, _: str(raw))
    with pytest.raises(AssertionError):
        assert_isolated("<b>bold</b>")


def assert_encodable(raw: str) -> None:
    data = text.encodable({"a": [raw, (raw, 1)], "b": None})
    json.dumps(data, ensure_ascii=False).encode("utf-8")
    assert [type(item) for item in data["a"]] == [str, tuple]


@given(hostile_texts)
def test_encodable_data_has_no_lone_surrogates(raw: str) -> None:
    """Report data can be sent between processes, whatever was in a message."""
    assert_encodable(raw)


def test_encodable_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A surrogate that is kept cannot be sent."""
    monkeypatch.setattr(text, "_visible", lambda match: match.group())
    with pytest.raises(UnicodeEncodeError):
        assert_encodable("\ud800")


@given(st.floats(-1e6, 1e6))
def test_numbers_read_as_what_they_are(value: float) -> None:
    """A shown number is the number to three decimals, or to two digits where it is tiny."""
    shown = float(text.number(value).replace("−", "-"))
    assert shown == pytest.approx(value, abs=5.01e-4, rel=0)
    assert (shown == 0) == (value == 0)


def test_missing_numbers_are_a_dash() -> None:
    """What is unknown never looks like a number."""
    assert [text.number(x) for x in (None, float("nan"), float("inf"))] == ["–"] * 3


# --- figures and masks -------------------------------------------------------------------------


def assert_states_every_estimate(judgements: tuple[Judgement, ...]) -> None:
    from reports.words import interval_words

    drawn = "".join(ET.fromstring(forest.forest(judgements)).itertext())
    for judgement in judgements:
        assert interval_words(judgement.estimate) in drawn


def _with_unit(unit: str) -> tuple[Judgement, ...]:
    return tuple(j for j in invented.judgements() if j.estimate.unit == unit)


@pytest.mark.parametrize("unit", ["d", "r", "proportion"])
def test_forest_states_every_estimate_as_it_is(unit: str) -> None:
    """The numbers beside the intervals are those of the tables, to the last digit."""
    assert_states_every_estimate(_with_unit(unit))


def test_forest_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """One digit less is noticed."""
    words = forest.interval_words
    monkeypatch.setattr(forest, "interval_words", lambda e: re.sub(r"(\.\d\d)\d", r"\1", words(e)))
    with pytest.raises(AssertionError):
        assert_states_every_estimate(_with_unit("r"))


def assert_reproducible() -> None:
    judgements = invented.judgements()
    assert forest.forest(judgements[:3]) == forest.forest(judgements[:3])
    for judgement in (judgements[0], judgements[20], judgements[24]):
        assert figures.plot(judgement) == figures.plot(judgement)


def test_figures_are_the_same_bytes_every_time() -> None:
    """Ids inside a picture come from its name, never from chance."""
    assert_reproducible()


def test_figures_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a fixed salt the ids differ from one drawing to the next."""
    for module in (figures, forest):
        monkeypatch.setattr(module, "style", lambda _: mpl.rc_context({}))
    with pytest.raises(AssertionError):
        assert_reproducible()


def assert_small_scatter() -> None:
    rng = np.random.default_rng(0)
    points = {"kind": "scatter", "x": rng.normal(size=5_000).tolist(),
              "y": rng.normal(size=5_000).tolist()}
    svg = figures.plot(first(plot=points))
    assert svg.count("<image") == 1
    assert len(svg) < 80_000


def test_dense_scatter_is_one_bitmap() -> None:
    """Five thousand points take less than 80 kB."""
    assert_small_scatter()


def test_dense_scatter_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn point by point they take more."""
    scatter = Axes.scatter
    monkeypatch.setattr(Axes, "scatter",
                        lambda *args, **kw: scatter(*args, **kw | {"rasterized": False}))
    with pytest.raises(AssertionError):
        assert_small_scatter()


def test_unknown_plot_is_refused_by_name() -> None:
    """A judgement that asks for a picture nobody draws says which ones exist."""
    with pytest.raises(KvError, match="known are curve, layers, none, paired, quartiles"):
        figures.plot(first(plot={"kind": "pie"}))


@pytest.mark.parametrize("plot", [
    {"kind": "paired", "differences": []},
    {"kind": "paired", "differences": [float("nan")] * 3},
    {"kind": "scatter", "x": [], "y": []},
    {"kind": "quartiles", "rows": []},
    {"kind": "curve", "x": [1], "d": [float("nan")], "low": [0.0], "high": [1.0]},
])
def test_nothing_to_draw_is_no_picture(plot: dict[str, Any]) -> None:
    """A cell without data shows no empty axes."""
    assert figures.plot(first(plot=plot)) == ""


@pytest.mark.parametrize("plot", [
    {"kind": "paired", "differences": [0.5]},
    {"kind": "paired", "differences": [0.0] * 40},
    {"kind": "scatter", "x": [1.0], "y": [2.0]},
])
def test_degenerate_data_is_drawn(plot: dict[str, Any]) -> None:
    """One sample, or samples that are all alike, still make a picture."""
    assert ET.fromstring(figures.plot(first(plot=plot))).tag.endswith("svg")


def test_unbounded_intervals_are_drawn() -> None:
    """An interval without a bound ends in an arrow, not in an error."""
    estimate = Estimate(0.1, -np.inf, np.inf, 0.95, "none", 12, 12, "d")
    assert "[−∞, ∞]" in forest.forest([first(estimate=estimate, verdict="inconclusive")])


matrices = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, 1), min_size=size[1], max_size=size[1]),
                          min_size=size[0], max_size=size[0]))


def assert_mask_drawn(mask: list[list[int]]) -> None:
    svg = ET.fromstring(masks.mask_svg(mask, [], "a mask"))
    path = next(e for e in svg if "transform" in e.attrib).attrib["d"]
    drawn = np.zeros((len(mask), len(mask[0])), dtype=int)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", path):
        drawn[int(y), int(x):int(x) + int(width)] += 1
    assert drawn.tolist() == mask


@given(matrices)
def test_mask_picture_covers_exactly_the_mask(mask: list[list[int]]) -> None:
    """Every one is drawn once and nothing else is."""
    assert_mask_drawn(mask)


def test_mask_picture_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of the transposed mask is another picture."""
    runs = masks._runs
    monkeypatch.setattr(masks, "_runs", lambda mask: runs(list(zip(*mask, strict=True))))
    with pytest.raises(AssertionError):
        assert_mask_drawn([[1, 0], [1, 1]])


def test_mask_as_text(snapshot: Any) -> None:
    """The mask of a truncated condition, as a reader of a terminal sees it."""
    assert masks.mask_text(invented.explanations()[1]["masks"][0]["mask"]) == snapshot


def test_mask_names_its_slots() -> None:
    """Each run of equal names is written once, under its slots."""
    each = invented.explanations()[0]["masks"][0]
    svg = masks.mask_svg(each["mask"], each["slots"], "a mask")
    assert re.findall(r">([^<>]+)</text>", svg) == ["BOS", "prefix", "document", "query", "answer"]


def test_no_mask_is_no_picture() -> None:
    """A condition that has no mask to show shows none."""
    assert masks.mask_svg([], [], "a mask") == "" == masks.mask_svg([[]], [], "a mask")


# --- page, results, terminal, JUnit ------------------------------------------------------------


def skeleton(fragment: str) -> str:
    return re.sub(r"<svg.*?</svg>", "<svg/>", fragment, flags=re.DOTALL).replace("><", ">\n<")


def test_page(snapshot: Any) -> None:
    """Everything a reader is told, pictures left out."""
    rendered = page.render([first(), second()], invented.explanations()[:1],
                           invented.provenance(), invented.environment())
    assert skeleton(rendered) == snapshot


def test_page_without_judgements_says_so() -> None:
    """An empty run has a page, and the page says that it is empty."""
    assert "No claim was judged" in page.render([], [], {}, {})


def test_page_without_ids_twice() -> None:
    """All pictures share one page, so no two of them may share an id."""
    judgements = [invented.judgements()[i] for i in (0, 1, 2, 20, 21, 24, 25, -1)]
    found = re.findall(r'\bid="([^"]+)"', page.render(judgements, [], {}, {}))
    assert len(found) == len(set(found))


def hostile_page(raw: str) -> str:
    base = first(model_revision=raw)
    judgement = dataclasses.replace(
        base, ledger=f"x{raw}", conditions=(raw,), details={f"x{raw}": f"x{raw}"},
        store=f"x{raw.replace('/', '')}", rows_hash=raw,
        cell=dataclasses.replace(base.cell, model=f"x{raw}", dataset=raw),
        claim=dataclasses.replace(base.claim, statement=raw, source=raw))
    explained = {"condition": raw, "text": raw, "model": f"x{raw}",
                 "masks": [{"title": raw, "mask": [[1]], "slots": [f"x{raw}"]}]}
    facts = {"command": f"x{raw}", "configuration": {f"x{raw}": f"x{raw}"},
             "cells": [{f"x{raw}": {f"x{raw}": f"x{raw}"}}]}
    return page.render([judgement], [explained], facts, {"python": f"x{raw}"})


def assert_same_structure(raw: str) -> None:
    def tags(fragment: str) -> list[tuple[str, tuple[str, ...]]]:
        outside = re.sub(r'<svg role="img"[^>]* class="kv-figure".*?</svg>', "", fragment,
                         flags=re.DOTALL)
        return Seen(outside).tags

    hostile = hostile_page(raw)
    assert tags(hostile) == tags(hostile_page("y"))
    for svg in re.findall(r"<svg.*?</svg>", hostile, flags=re.DOTALL):
        assert {e.tag.split("}")[-1] for e in ET.fromstring(svg).iter()} <= {
            "svg", "g", "defs", "path", "use", "text", "tspan", "image", "clipPath", "rect"}
    assert_inert_page(hostile)


def assert_inert_page(fragment: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", fragment)


@settings(max_examples=15)
@given(hostile_texts)
def test_no_text_changes_the_page(raw: str) -> None:
    """Whatever the texts are, the page has the same elements and no control characters."""
    assert_same_structure(raw)


def test_a_hostile_text_does_not_change_the_page() -> None:
    """Neither does one that holds everything at once."""
    assert_same_structure(HOSTILE)


@pytest.mark.parametrize("name", ["markup", "escape"])
def test_page_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unescaped text changes it."""
    monkeypatch.setattr(page, name, str)
    with pytest.raises(AssertionError):
        assert_same_structure(HOSTILE)


def _schema(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _schema(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_schema(item) for item in value[:1]]
    return type(value).__name__


def _document(judgements: list[Judgement], **facts: Any) -> dict[str, Any]:
    return results.document(judgements, provenance=invented.provenance() | facts,
                            environment=invented.environment())


def test_results_schema(snapshot: Any) -> None:
    """The names and types a dashboard may rely on; raise SCHEMA_VERSION when they change."""
    assert [results.SCHEMA_VERSION, _schema(_document([first(), second()]))] == snapshot


def assert_strict_json(path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    estimate = Estimate(float("nan"), -np.inf, np.inf, 0.95, "none: no data", 0, 0, "d")
    judgement = first(estimate=estimate, verdict="inconclusive", store=HOSTILE,
                      details={"a": float("nan")})
    results.write(path, _document([judgement], configuration={"x": float("inf"), "y": HOSTILE}))
    read = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    assert Judgement.from_dict(read["judgements"][0] | {"plot": {}}).estimate.n == 0
    assert read["configuration"]["x"] is None


def test_results_are_strict_json(tmp_path: Path) -> None:
    """NaN, infinities and lone surrogates are written so that any parser reads them."""
    assert_strict_json(tmp_path / "results.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_results_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are, they cannot be written."""
    monkeypatch.setattr(results, "inert", lambda data: data)
    with pytest.raises(ValueError, match="JSON compliant"):
        assert_strict_json(tmp_path / "results.json")


def test_environment_names_the_commit() -> None:
    """A checkout gives its commit, any other folder gives none."""
    found = results.environment(ROOT)
    assert re.fullmatch(r"[0-9a-f]{40}( \+ changes)?", found["commit"])
    assert found["versions"]["numpy"] == np.__version__
    assert results.environment(Path("/"))["commit"] is None


def test_terminal_table(snapshot: Any) -> None:
    """The last thing a run prints."""
    assert "\n".join(terminal.table([first(), second()])) == snapshot


PROPERTIES = {"claim", "model", "revision", "dataset", "metric", "n", "estimate", "ci_low",
              "ci_high", "confidence", "method", "published", "margin", "required_n", "verdict",
              "seed", "store", "rows_hash"}


def assert_plain_properties() -> None:
    estimate = Estimate(*map(np.float64, (0.12, 0.05, 0.19, 0.95)), "a", np.int64(9), 9, "d")
    found = dict(junit.properties(first(estimate=estimate, store=HOSTILE)))
    assert set(found) >= PROPERTIES
    assert {type(value) for value in found.values()} <= {str, int, float}
    assert found["store"] == text.safe(HOSTILE)
    assert found["estimate"] == 0.12


def test_properties_are_plain_values() -> None:
    """NumPy scalars would end an xdist worker."""
    assert_plain_properties()


def test_properties_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left as they are, they are not plain."""
    monkeypatch.setattr(junit, "_plain", lambda value: value)
    with pytest.raises(AssertionError):
        assert_plain_properties()


def assert_no_torch(code: str, path: str = "") -> None:
    check = f"import sys\n{code}\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    env = {"PYTHONPATH": f"{ROOT}:{path}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", check], env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_reports_need_no_torch() -> None:
    """Judging stored rows and reporting them loads no model library."""
    assert_no_torch("import reports.plugin, reports.page, reports.results\n"
                    "reports.results.environment(__import__('pathlib').Path('.'))")


def test_reports_need_no_torch_twin(tmp_path: Path) -> None:
    """A module of ours that imported it would be seen."""
    (tmp_path / "torch.py").write_text("", encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_no_torch("import reports.plugin, torch", str(tmp_path))


# --- the finished page, by a browser -----------------------------------------------------------


def test_page_checker_survives_its_browser(tmp_path: Path) -> None:
    """A browser that crashes on a page is a problem of that page, not a traceback."""
    path = tmp_path / "report.html"
    path.write_text("<html><body></body></html>", encoding="utf-8")
    assert "page: the browser ended with 1" in list(check_page.problems(path, "false"))


def _browser(folder: Path, found: str, said: str) -> str:
    """Make a program that answers as a browser would."""
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\necho '<p id=\"found\">{found}</p>'\necho '{said}' >&2\n",
                    encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("content", "found", "said", "problem"), [
    ("<p>", "0 px", "", None),
    ("<p>", "17 px, first: TABLE.", "", "sticks out by 17 px"),
    ("<p>", "none", "", "sticks out by none"),
    ("<p>", "0 px", '[1:INFO:CONSOLE(3)] "Uncaught TypeError"', "Uncaught TypeError"),
    ('<script src="https://example.org/a.js">', "0 px", "", "loads from elsewhere"),
    ("x" * 3_000_001, "0 px", "", "allowed are 3,000,000"),
])
def test_page_checker(tmp_path: Path, content: str, found: str, said: str,
                      problem: str | None) -> None:
    """Each thing that can be wrong with a page is named, and a good page has nothing wrong."""
    path = tmp_path / "report.html"
    path.write_text(f"<html><body>{content}</body></html>", encoding="utf-8")
    wrong = " ".join(check_page.problems(path, _browser(tmp_path, found, said)))
    assert (wrong == "") if problem is None else (problem in wrong)


# --- whole sessions ----------------------------------------------------------------------------

CONFTEST = """
    import pytest
    from reports import plugin

    pytest_plugins = ["reports.plugin"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(config):
        plugin.enable(config, "out", {"kv-limit": "240"})
"""
CLAIMS = """
    import dataclasses
    import pytest
    from invariants import invented
    from reports.plugin import attach

    CHOSEN = [invented.judgements()[i] for i in (0, 1, 2, 5, -1)]

    @pytest.mark.parametrize("judgement", CHOSEN, ids=lambda j: f"{j.claim.id}-{j.cell.slug}")
    def test_claim(judgement, request):
        attach(request.node, judgement, {
            "explanations": invented.explanations(),
            "provenance": {"model": judgement.cell.model, "device": "cpu"},
        })
        if judgement.verdict == "inconclusive":
            pytest.skip("needs more samples")
        if judgement.claim.prediction.name == "at_least":
            request.applymarker(pytest.mark.xfail(strict=True, reason="known"))
        assert judgement.verdict != "refuted"
"""
ONE_CLAIM = """
    from invariants import invented
    from reports.plugin import attach

    def test_claim(request):
        attach(request.node, invented.judgements()[-1], {})
"""
HOSTILE_CLAIMS = f"""
    import dataclasses
    import pytest
    from invariants import invented
    from reports.plugin import attach

    HOSTILE = {HOSTILE!r}

    @pytest.mark.parametrize("x", [HOSTILE], ids=["<script>alert(2)</script>"])
    def test_claim(x, request):
        judgement = invented.judgements()[0]
        attach(request.node, dataclasses.replace(
            judgement, cell=dataclasses.replace(judgement.cell, model=HOSTILE), store=HOSTILE,
            plot={{"kind": "none"}},
            claim=dataclasses.replace(judgement.claim, statement=HOSTILE, source=HOSTILE),
        ), {{"explanations": [{{"condition": HOSTILE, "text": HOSTILE}}],
             "provenance": {{"model": HOSTILE}}}})
        print(HOSTILE.replace("\\ud800", ""))
        pytest.fail(HOSTILE)
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a whole pytest session on a test file, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makefile(".toml", pytest='[pytest]\nstrict = true\nfilterwarnings = ["error"]\n')

    def run(tests: str, *arguments: str, conftest: str = CONFTEST) -> pytest.RunResult:
        pytester.makeconftest(conftest)
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def _properties(path: Path) -> list[dict[str, str]]:
    cases = ET.fromstring(path.read_bytes()).iter("testcase")
    return [{p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases]


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_session_writes_three_reports(session: Any, pytester: pytest.Pytester,
                                      workers: tuple[str, ...]) -> None:
    """A claims run leaves JUnit, a page and JSON that agree, on one process or several."""
    run = session(CLAIMS, *workers)
    run.assert_outcomes(passed=2, failed=1, skipped=1, xfailed=1)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    out = pytester.path / "out"
    assert sorted(file.name for file in out.iterdir()) == ["junit.xml", "report.html",
                                                           "results.json"]
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    ids = [j["claim"]["id"] for j in data["judgements"]]
    assert ids == ["random-prefix-helps"] * 3 + ["real-query-does-not-help",
                                                 "newline-is-no-clean-boundary"]
    assert [j["outcome"] for j in data["judgements"]] == ["passed", "passed", "failed", "skipped",
                                                          "xfailed"]
    assert data["counts"] == {"supported": 2, "refuted": 2, "inconclusive": 1}
    assert data["configuration"] == {"kv-limit": "240"}
    assert [cell["model"] for cell in data["cells"]] == list(invented.MODELS)
    found = sorted(_properties(out / "junit.xml"), key=lambda case: case["estimate"])
    stored = sorted(str(j["estimate"]["value"]) for j in data["judgements"])
    assert [case["estimate"] for case in found] == stored
    assert all(set(case) >= PROPERTIES for case in found)


def _rows(document: str) -> list[dict[str, Any]]:
    (blob,) = re.findall(r'data-jsonblob="([^"]*)"', document)
    tests = json.loads(html.unescape(blob))["tests"]
    return [row for rows in tests.values() for row in rows]


def _row_cells(document: str) -> list[str]:
    return [cell for row in _rows(document) for cell in row["resultsTableRow"]]


def test_session_page_is_whole(session: Any, pytester: pytest.Pytester) -> None:
    """The page is one file with our columns, made for phones, that names no folder of ours."""
    run = session(CLAIMS)
    document = (pytester.path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="en">' in document
    assert 'name="viewport"' in document
    assert "<title id=\"head-title\">Claims about primed KV caches</title>" in document
    assert ".kv-claim" in document
    assert not check_page._EXTERNAL.search(document)
    assert len(document.encode()) < check_page.LARGEST
    assert str(ROOT) not in document
    assert document.count('class="kv-condition"') == 2
    assert any("col-verdict" in cell and "refuted" in cell for cell in _row_cells(document))
    run.stdout.fnmatch_lines(["*claim*cell*estimate*n*verdict*n needed*",
                              "random-prefix-helps*✓ supported*",
                              "2 supported, 2 refuted, 1 inconclusive", "reports: out"])


def assert_hostile_session_inert(session: Any, pytester: pytest.Pytester, *arguments: str,
                                 conftest: str = CONFTEST) -> None:
    run = session(HOSTILE_CLAIMS, *arguments, conftest=conftest)
    run.assert_outcomes(failed=1)
    out = pytester.path / "out"
    assert _properties(out / "junit.xml")[0]["store"] == text.safe(HOSTILE)
    document = (out / "report.html").read_text(encoding="utf-8")
    assert document.count("<script") == 1  # pytest-html's own
    assert not any("<script" in cell for cell in _row_cells(document))
    for row in _rows(document):
        assert "alert(1)" in row["log"]
        assert "<script" not in row["log"]
        assert_inert_page(row["log"])
    body = re.sub(r"<script>.*?</script>", "", document, flags=re.DOTALL)
    assert_inert_page(body)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_hostile_session_is_inert(session: Any, pytester: pytest.Pytester,
                                  workers: tuple[str, ...]) -> None:
    """Hostile texts, test names and failure messages come out inert, on a worker or not."""
    assert_hostile_session_inert(session, pytester, *workers)


@pytest.mark.parametrize("broken", ["markup", "encodable", "safe"])
def test_hostile_session_twin(session: Any, pytester: pytest.Pytester, broken: str) -> None:
    """Without either guard, they do not."""
    conftest = CONFTEST.replace("pytest_plugins", f"plugin.{broken} = lambda x, *_: x\n    "
                                                  "pytest_plugins")
    with pytest.raises(AssertionError):
        assert_hostile_session_inert(session, pytester, "-n", "1", conftest=conftest)


def test_session_that_judges_nothing_fails(session: Any, pytester: pytest.Pytester) -> None:
    """All tests passed, but no claim was judged: that is no success."""
    run = session("def test_nothing(): pass")
    run.assert_outcomes(passed=1)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(["no claim was judged: the run fails"])
    document = (pytester.path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No claim was judged" in document


def test_listing_tests_writes_nothing(session: Any, pytester: pytest.Pytester) -> None:
    """Looking at what would run is no run."""
    run = session(ONE_CLAIM, "--collect-only", "-q")
    assert run.ret == pytest.ExitCode.OK
    assert not (pytester.path / "out").exists()


def test_paths_given_by_the_user_are_kept(session: Any, pytester: pytest.Pytester) -> None:
    """Reports go where the command line says."""
    session(ONE_CLAIM, "--html=mine/page.html", "--self-contained-html", "--junitxml=mine/unit.xml")
    mine = sorted(file.name for file in (pytester.path / "mine").iterdir())
    assert mine == ["page.html", "unit.xml"]
    assert 'name="viewport"' in (pytester.path / "mine/page.html").read_text(encoding="utf-8")
    assert [file.name for file in (pytester.path / "out").iterdir()] == ["results.json"]


def test_session_without_pytest_html(session: Any, pytester: pytest.Pytester) -> None:
    """Without pytest-html there is no page, and the rest is there."""
    session(ONE_CLAIM, "-p", "no:html")
    written = sorted(file.name for file in (pytester.path / "out").iterdir())
    assert written == ["junit.xml", "results.json"]


def test_one_test_judges_once(session: Any) -> None:
    """A second judgement in one test is an error with a name."""
    run = session("""
        from invariants import invented
        from reports.plugin import attach

        def test_twice(request):
            for judgement in invented.judgements()[:2]:
                attach(request.node, judgement, {})
    """)
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*KvError: *test_twice: judged twice; make one test*"])
