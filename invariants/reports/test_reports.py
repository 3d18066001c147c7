"""What the reports promise: every number where it belongs, and the same bytes every time.

Each promise is a small assertion helper; its twin breaks the production function and must see the
helper fail.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image

from invariants.support import invented
from invariants.support.comparing import must_see, replaced
from invariants.support.invented_texts import HOSTILE, Seen
from kvcore.analysis.estimate import Beside, Estimate
from kvcore.errors import KvError
from kvcore.verdict import Cell, Judgement, Published
from reports import junit, multiple, results, terminal, text
from reports.html import tests_table
from reports.html.page import page
from reports.html.pictures import picture
from reports.markdown import verdicts
from reports.plots import forest, kinds, masks
from reports.words import interval_words, probability_words, required_words, verdict_words

ROOT = Path(__file__).resolve().parents[2]


OTHER_CELL = Cell("invented-small", "docstrings", "nll_tail", "float32")
BESIDE = Beside(0.06, 0.2, "another method")
FIRST = Estimate(
    *(0.12, 0.05, 0.19, 0.95, "a method", 240, 200, "d", 0.2),
    se=0.035,
    informative=190,
    effective=150.25,
    beside=BESIDE,
)


def first(**changes: Any) -> Judgement:
    """Return one judgement whose numbers depend on no library's version."""
    fields: dict[str, Any] = {
        "estimate": FIRST,
        "verdict": "supported",
        "reading": "direction-only",
        "why_open": "",
        "benefit": True,
        "p": 0.001,
        "verdict_beside": "supported",
        "required_n": 970,
        "planning": "about 970 samples would settle it if d = 0.09, at 80% power",
        "outcome": "passed",
        "ledger": "",
        "plot": {"kind": "none"},
        "consistent": True,
        "published": Published(0.091, 2303, "nll_tail"),
        "details": {"mean benefit, nats": 0.025, "excluded samples": "3"},
    }
    return dataclasses.replace(invented.judgements()[0], **(fields | changes))


def second() -> Judgement:
    """Return a refuted judgement of another claim, without an n that would settle it."""
    estimate = Estimate(0.875, 0.826, 0.914, 0.95, "Clopper-Pearson", 240, 240, "proportion")
    return dataclasses.replace(
        invented.judgements()[-1],
        estimate=estimate,
        verdict="refuted",
        reading="missed",
        p=0.0004,
        verdict_beside=None,
        required_n=None,
        planning="no effect was written down to plan for",
        consistent=False,
        ledger="known refuted (published)",
        outcome="xfailed",
        floor=0.0,
        floor_nats=None,
        details={},
    )


# --- figures and masks -------------------------------------------------------------------------


def assert_states_every_estimate(judgements: tuple[Judgement, ...]) -> None:
    drawn = "".join(ET.fromstring(forest.forest(judgements)).itertext())
    for judgement in judgements:
        assert interval_words(judgement.estimate) in drawn


def _with_unit(unit: str) -> tuple[Judgement, ...]:
    return tuple(j for j in invented.judgements() if j.estimate.unit == unit)


@pytest.mark.parametrize("unit", ["d", "r", "proportion"])
def test_forest_states_every_estimate_as_it_is(unit: str) -> None:
    """Catches a number beside an interval that is not that of the tables, to the last digit."""
    assert_states_every_estimate(_with_unit(unit))


def test_forest_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """One digit less is seen."""

    def shorter(estimate: Estimate) -> str:
        return re.sub(r"(\.\d\d)\d", r"\1", interval_words(estimate))

    monkeypatch.setattr(forest, "interval_words", shorter)
    with pytest.raises(AssertionError):
        assert_states_every_estimate(_with_unit("r"))


def assert_reproducible() -> None:
    judgements = invented.judgements()
    assert forest.forest(judgements[:3]) == forest.forest(judgements[:3])
    for judgement in (judgements[0], judgements[20], judgements[24]):
        assert picture(judgement) == picture(judgement)


def test_figures_are_the_same_bytes_every_time() -> None:
    """Catches ids inside a picture that come from chance instead of its name."""
    assert_reproducible()


def test_figures_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that differ from one drawing to the next are seen."""
    for module in (kinds, forest):
        monkeypatch.setattr(module, "style", lambda _: mpl.rc_context({}))
    with pytest.raises(AssertionError):
        assert_reproducible()


def assert_small_scatter() -> None:
    rng = np.random.default_rng(0)
    points = {
        "kind": "scatter",
        "x": rng.normal(size=5_000).tolist(),
        "y": rng.normal(size=5_000).tolist(),
    }
    svg = picture(first(plot=points))
    assert svg.count("<image") == 1
    assert len(svg) < 80_000


def test_dense_scatter_is_one_bitmap() -> None:
    """Catches five thousand points drawn one by one instead of in 80 kB."""
    assert_small_scatter()


def test_dense_scatter_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points drawn one by one are seen."""
    scatter = Axes.scatter
    monkeypatch.setattr(
        Axes, "scatter", lambda *args, **kw: scatter(*args, **kw | {"rasterized": False})
    )
    with pytest.raises(AssertionError):
        assert_small_scatter()


def test_unknown_plot_is_refused_by_name() -> None:
    """Catches an unknown kind of plot that is left out, or refused without the known ones."""
    with pytest.raises(KvError, match="known are bars, curve, layers, none, paired, quartiles"):
        picture(first(plot={"kind": "pie"}))


@pytest.mark.parametrize(
    "plot",
    [
        {"kind": "paired", "differences": []},
        {"kind": "paired", "differences": [float("nan")] * 3},
        {"kind": "scatter", "x": [], "y": []},
        {"kind": "quartiles", "rows": []},
        {"kind": "curve", "x": [1], "d": [float("nan")], "low": [0.0], "high": [1.0]},
    ],
)
def test_nothing_to_draw_is_no_picture(plot: dict[str, Any]) -> None:
    """Catches empty axes for a cell without data."""
    assert picture(first(plot=plot)) == ""


@pytest.mark.parametrize(
    "plot",
    [
        {"kind": "paired", "differences": [0.5]},
        {"kind": "paired", "differences": [0.0] * 40},
        {"kind": "scatter", "x": [1.0], "y": [2.0]},
    ],
)
def test_degenerate_data_is_drawn(plot: dict[str, Any]) -> None:
    """Catches one sample, or samples that are all alike, that crash the picture."""
    assert ET.fromstring(picture(first(plot=plot))).tag.endswith("svg")


def test_unbounded_intervals_are_drawn() -> None:
    """Catches an interval without a bound that crashes the picture."""
    estimate = Estimate(0.1, -np.inf, np.inf, 0.95, "none", 12, 12, "d")
    unbounded = first(estimate=estimate, verdict="inconclusive", reading="open")
    assert "[−∞, ∞]" in forest.forest([unbounded])


matrices = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 1), min_size=size[1], max_size=size[1]),
        min_size=size[0],
        max_size=size[0],
    )
)


def shown_mask(svg: str) -> tuple[np.ndarray, list[float]]:
    """Read a mask's picture: (queries, slots) where it is dark, and where the bitmap lies.

    The place is (width and height of a pixel, left and top edge), in points.
    """
    (image,) = (each for each in ET.fromstring(svg).iter() if each.tag.endswith("image"))
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(image.attrib["href"].split(",")[1]))))
    scale_x, skew_y, skew_x, scale_y, left, top = map(
        float, image.attrib["transform"].removeprefix("matrix(").rstrip(")").split()
    )
    assert (skew_y, skew_x) == (0, 0)
    assert (image.attrib["width"], image.attrib["height"]) == (
        str(pixels.shape[1]),
        str(pixels.shape[0]),
    )
    return (pixels[..., 0] < 128).astype(int), [scale_x, scale_y, left, top]


def assert_mask_drawn(mask: list[list[int]]) -> None:
    slots = [f"slot {index}" for index, _ in enumerate(mask[0])]
    drawn, (across, down, left, top) = shown_mask(masks.mask_svg(mask, slots, "a mask"))
    assert drawn.tolist() == mask
    unit = 300 / max(drawn.shape)
    assert [across, down, left, top] == pytest.approx([unit, unit, 1, 1], rel=1e-4)


@given(matrices)
def test_mask_picture_covers_exactly_the_mask(mask: list[list[int]]) -> None:
    """Catches a slot drawn as the other colour, a mirrored mask, or one stretched off its frame."""
    assert_mask_drawn(mask)


@pytest.mark.parametrize("fault", ["transposed", "stretched"])
def test_mask_picture_twin(fault: str) -> None:
    """A picture of the transposed mask, and axes that grow with what is drawn on them, are seen."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        imshow = Axes.imshow
        if fault == "transposed":
            patch.setattr(Axes, "imshow", lambda self, mask, **kw: imshow(self, mask.T, **kw))
        else:
            patch.setattr(Axes, "autoscale", lambda *_, **__: None)
        masks.draw_mask.cache_clear()

    masks.draw_mask.cache_clear()
    must_see(broken, assert_mask_drawn, [[1, 0], [1, 1]])
    masks.draw_mask.cache_clear()


def assert_slots_named() -> None:
    each = invented.explanations()[0]["masks"][0]
    root = ET.fromstring(masks.mask_svg(each["mask"], each["slots"], "a mask"))
    texts = [e for e in root.iter() if e.tag.endswith("text")]
    assert [e.text for e in texts] == ["BOS", "prefix", "document", "query", "answer"]
    ends = [0, 1, 4, 9, 11, 12]
    middles = [1 + 25 * (start + end) / 2 for start, end in itertools.pairwise(ends)]
    places = [float(e.attrib["x"]) for e in texts]
    assert places == pytest.approx(middles, abs=6)  # moved in from the edges, to be read whole
    (boundaries,) = (e.attrib["d"] for e in root.iter() if "dasharray" in e.get("style", ""))
    lines = [float(x) for x in re.findall(r"M([\d.]+)", boundaries)]
    assert lines == pytest.approx([1 + 25 * end for end in ends[1:-1]], abs=0.1)


def test_mask_names_its_slots() -> None:
    """Catches a name that is missing, repeated or elsewhere, and a boundary between wrong slots."""
    assert_slots_named()


def test_mask_names_twin() -> None:
    """Slots that are counted from the right are seen."""

    def mirrored(patch: pytest.MonkeyPatch) -> None:
        cumsum = np.cumsum
        patch.setattr(np, "cumsum", lambda lengths: cumsum(lengths[::-1]))
        masks.draw_mask.cache_clear()

    masks.draw_mask.cache_clear()
    must_see(mirrored, assert_slots_named)
    masks.draw_mask.cache_clear()


def test_many_masks_are_small() -> None:
    """Catches masks that would fill the page: sixty of a hundred tokens stay below 300 kB."""
    causal = np.tri(100, dtype=int).tolist()
    svgs = [masks.mask_svg(causal, ["BOS", *["document"] * 99], f"mask {i}") for i in range(60)]
    assert sum(map(len, svgs)) < 300_000
    assert len(set(svgs)) == 60


def test_no_mask_is_no_picture() -> None:
    """Catches an empty picture, or a crash, where there is no mask."""
    assert masks.mask_svg([], [], "a mask") == "" == masks.mask_svg([[]], [], "a mask")


# --- page, results, terminal, JUnit ------------------------------------------------------------


def skeleton(fragment: str) -> str:
    """Return a page as it is, each picture replaced by a mark."""
    return re.sub(r"<svg.*?</svg>", "[picture]", fragment, flags=re.DOTALL)


def test_page(snapshot: Any) -> None:
    """Catches any change of what a reader is told; pictures are left out."""
    rendered = page(
        [first(), second()],
        invented.explanations()[:1],
        invented.provenance(),
        invented.environment(),
    )
    assert skeleton(rendered) == snapshot


def test_page_without_judgements_says_so() -> None:
    """Catches a page of an empty run that does not say so."""
    assert "No claim was judged" in page([], [], {}, {})


def test_page_without_ids_twice() -> None:
    """Catches two pictures of one page that share an id."""
    judgements = [invented.judgements()[i] for i in (0, 1, 2, 20, 21, 24, 25, -1)]
    found = re.findall(r'\bid="([^"]+)"', page(judgements, [], {}, {}))
    assert len(found) == len(set(found))


def _schema(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _schema(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_schema(item) for item in value[:1]]
    return type(value).__name__


def _document(judgements: list[Judgement], **facts: Any) -> dict[str, Any]:
    return results.document(
        judgements, provenance=invented.provenance() | facts, environment=invented.environment()
    )


def test_results_schema(snapshot: Any) -> None:
    """Catches a change of names and types of results.json without another SCHEMA_VERSION."""
    assert [results.SCHEMA_VERSION, _schema(_document([first(), second()]))] == snapshot


def assert_strict_json(path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    estimate = Estimate(float("nan"), -np.inf, np.inf, 0.95, "none: no data", 0, 0, "d")
    judgement = first(
        estimate=estimate,
        verdict="inconclusive",
        reading="open",
        store=HOSTILE,
        details={"a": float("nan")},
    )
    results.write(path, _document([judgement], configuration={"x": float("inf"), "y": HOSTILE}))
    read = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    assert Judgement.from_dict(read["judgements"][0] | {"plot": {}}).estimate.n == 0
    assert read["configuration"]["x"] is None


def test_results_are_strict_json(tmp_path: Path) -> None:
    """Catches NaN, infinities and lone surrogates that a strict parser cannot read."""
    assert_strict_json(tmp_path / "results.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_results_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are, they cannot be written, which is seen."""
    monkeypatch.setattr(results, "inert_data", lambda data: data)
    with pytest.raises(ValueError, match="JSON compliant"):
        assert_strict_json(tmp_path / "results.json")


def test_environment_names_the_commit() -> None:
    """Catches a commit that is missing in a checkout, or invented elsewhere."""
    found = results.environment(ROOT)
    assert re.fullmatch(r"[0-9a-f]{40}( \+ changes)?", found["commit"])
    assert found["versions"]["numpy"] == np.__version__
    assert results.environment(Path("/"))["commit"] is None


def test_terminal_table(snapshot: Any) -> None:
    """Catches any change of the table that a run prints last."""
    assert "\n".join(terminal.table([first(), second()])) == snapshot


PROPERTIES = {
    "claim": "random-prefix-helps@1",
    "model": "invented-small",
    "revision": "0123456789abcdef",
    "dataset": "docstrings",
    "metric": "nll",
    "dtype": "float32",
    "n": 240,
    "estimate": 0.12,
    "ci_low": 0.05,
    "ci_high": 0.19,
    "unit": "d",
    "confidence": 0.95,
    "method": "a method",
    "published": 0.091,
    "margin": 0.09,
    "required_n": 970,
    "verdict": "supported",
    "outcome": "direction-only",
    "words": "helps, how much is open",
    "p": 0.001,
    "verdict_beside": "supported",
    "informative_clusters": 190,
    "look": "",
    "seed": 0,
    "store": "stores/invented",
    "rows_hash": "ab" * 32,
}


def assert_properties() -> None:
    assert dict(junit.properties(first())) == PROPERTIES
    lacking = {
        "published": "",
        "required_n": "",
        "verdict_beside": "",
        "informative_clusters": "",
    }
    plain = dataclasses.replace(FIRST, informative=None)
    without = {"published": None, "required_n": None, "verdict_beside": None, "estimate": plain}
    assert dict(junit.properties(first(**without))) == PROPERTIES | lacking


def test_properties_are_those_of_the_judgement() -> None:
    """Catches a property that is missing, swapped with another, rounded or renamed."""
    assert_properties()


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_of_the_judgement_twin(name: str) -> None:
    """Any property that is lost is seen."""

    def lost(patch: pytest.MonkeyPatch) -> None:
        real = junit.properties
        patch.setattr(junit, "properties", lambda j: [pair for pair in real(j) if pair[0] != name])

    must_see(lost, assert_properties)


def assert_plain_properties() -> None:
    value, low, high, confidence = np.array([0.12, 0.05, 0.19, 0.95])
    size: Any = np.int64(9)  # no int, unlike a float64, which is a float
    estimate = Estimate(value, low, high, confidence, "a", size, 9, "d")
    properties = dict(junit.properties(first(estimate=estimate, store=HOSTILE)))
    assert set(properties) == set(PROPERTIES)
    assert {type(value) for value in properties.values()} <= {str, int, float}
    assert properties["store"] == text.inert_text(HOSTILE)
    assert properties["estimate"] == 0.12


def test_properties_are_plain_values() -> None:
    """Catches a NumPy scalar, which would end an xdist worker, and a text that is not inert."""
    assert_plain_properties()


def test_properties_twin() -> None:
    """Left as they are, they are not plain, which is seen."""
    must_see(
        lambda patch: patch.setattr(junit, "plain_value", lambda value: value),
        assert_plain_properties,
    )


# --- outcomes in words, and many verdicts at once -------------------------------------------------


def hanging() -> Judgement:
    """Return a supported judgement that the bootstrap would leave open."""
    drawn = Beside(-0.01, 0.2, "BCa bootstrap over 200 clusters, 9 resamples, seed 0")
    estimate = dataclasses.replace(FIRST, method="jackknife-t over 200 clusters", beside=drawn)
    return first(estimate=estimate, verdict_beside="inconclusive")


def shown_words(judgements: list[Judgement]) -> dict[str, str]:
    """Return what each report shows of judgements, as text."""
    return {
        "page": Seen(page(judgements, [], {}, {})).text,
        "terminal": "\n".join(terminal.table(judgements)),
        "results": json.dumps(_document(judgements), ensure_ascii=False),
        "tests": " ".join(tests_table.cells(judgements[0])),
        "markdown": verdicts.verdicts(judgements),
    }


def assert_outcomes_in_words() -> None:
    for judgement in (first(), second(), first(verdict="inconclusive", reading="open")):
        for name, text_shown in shown_words([judgement]).items():
            assert judgement.words in text_shown, (judgement.words, name)


def test_every_report_says_the_outcome_in_words() -> None:
    """Catches a report that says supported or refuted and not what came out."""
    assert_outcomes_in_words()


@pytest.mark.parametrize("report", ["page", "terminal", "results", "tests", "markdown"])
def test_outcome_words_twin(report: str) -> None:
    """Words that any one of the reports lacks are seen."""
    real = shown_words

    def without(judgements: list[Judgement]) -> dict[str, str]:
        words = judgements[0].words
        return {k: v.replace(words, "") if k == report else v for k, v in real(judgements).items()}

    must_see(
        lambda patch: patch.setattr(sys.modules[__name__], "shown_words", without),
        assert_outcomes_in_words,
    )


def test_a_verdict_that_hangs_on_the_method_says_so() -> None:
    """Catches a verdict that the other method's interval would change and that hides it."""
    marks = {
        "page": "hangs on the method: inconclusive by the bootstrap",
        "terminal": "hangs on the method: inconclusive by the bootstrap",
        "results": "by the bootstrap interval it would be inconclusive",
        "tests": "hangs on the method: inconclusive by the bootstrap",
        "markdown": "**S**†",
    }
    hangs, stands = shown_words([hanging()]), shown_words([first()])
    for name, mark in marks.items():
        assert mark in hangs[name], name
        assert mark not in stands[name], name
    assert "1 verdict hangs on the method" in " ".join(hangs["page"].split())
    assert "No verdict hangs on the method" in stands["page"]
    assert "†" in forest.forest([hanging()])
    assert "†" not in forest.forest([first()])


@pytest.mark.parametrize(
    ("own", "beside", "name"),
    [
        ("jackknife-t", "BCa bootstrap", "bootstrap"),
        ("jackknife-t", "percentile bootstrap (BCa undefined)", "bootstrap"),
        ("BCa bootstrap", "jackknife-t on Fisher's z", "jackknife"),
        ("BCa bootstrap", "none: undefined where some cluster is left out", "jackknife"),
        ("none: undefined where some cluster is left out", "BCa bootstrap", "bootstrap"),
        ("jackknife-t", "none: the bootstrap is undefined", "bootstrap"),
    ],
)
def test_the_other_method_has_its_name(own: str, beside: str, name: str) -> None:
    """Catches a verdict said to hang on the method that gave it."""
    estimate = dataclasses.replace(FIRST, method=own, beside=Beside(-0.01, 0.2, beside))
    judgement = first(estimate=estimate, verdict_beside="inconclusive")
    assert judgement.method_beside == name
    assert f"inconclusive by the {name}" in verdict_words(judgement)


def test_n_needed_is_shown_of_open_verdicts_alone() -> None:
    """Catches an n that would settle what is settled, in any report."""
    settled, open_ = first(), first(verdict="inconclusive", reading="open")
    assert required_words(settled) == "–"
    assert required_words(open_) == "970"
    for name in ("page", "terminal", "markdown"):
        assert "970" not in shown_words([settled])[name], name
        assert "970" in shown_words([open_])[name], name


@pytest.mark.parametrize(
    ("p", "said"), [(0.0, "< 0.0001"), (9e-5, "< 0.0001"), (1e-4, "0.0001"), (1.0, "1.0000")]
)
def test_no_probability_is_shown_as_nothing(p: float, said: str) -> None:
    """Catches a small p value that is shown as 0."""
    assert probability_words(p) == said


def test_an_open_verdict_says_what_would_settle_it() -> None:
    """Catches an open verdict whose page hides the plan, or why the interval is not read."""
    open_ = first(verdict="inconclusive", reading="open")
    assert open_.planning in shown_words([open_])["page"]
    few = first(verdict="inconclusive", reading="open", why_open="no verdict below 20 clusters")
    assert few.why_open in shown_words([few])["page"]
    assert first().planning not in shown_words([first()])["page"]


def _of(ps: list[float], **changes: Any) -> list[Judgement]:
    """Return a judgement of a claim of its own for each p value."""
    claim = invented.judgements()[0].claim
    return [
        first(p=p, claim=dataclasses.replace(claim, id=f"claim-{i}"), **changes)
        for i, p in enumerate(ps)
    ]


def assert_q_values() -> None:
    ps = [0.001, 0.008, 0.039, 0.041, 0.6]
    primary = _of(ps)
    extra = [dataclasses.replace(j, primary=False, p=1e-9, cell=OTHER_CELL) for j in primary]
    document = _document([*extra, *primary])
    shown = [j["q"] for j in document["judgements"]]
    assert shown[:5] == [None] * 5
    # By hand: m p / rank, then the smallest from the right.
    assert shown[5:] == pytest.approx([0.005, 0.02, 0.05125, 0.05125, 0.6])
    assert document["q_values"] == {"level": 0.05, "primary": 5, "settled": 5, "standing": 2}
    (sentence,) = (x for x in terminal.table([*extra, *primary]) if "primary verdicts" in x)
    assert sentence.startswith(
        "Of 5 primary verdicts 5 are settled, and 2 of those stand at q ≤ 0.05"
    )
    html = Seen(page([*extra, *primary], [], {}, {})).text
    assert sentence in html
    assert html.count("not the primary metric") == 5
    for q in ("0.0050", "0.0200", "0.6000"):
        assert q in html


def test_q_values_are_of_primary_verdicts_alone() -> None:
    """Catches q over other judgements than the primary ones, in JSON, page and terminal."""
    assert_q_values()


def test_q_values_twin() -> None:
    """q-values that count every judgement are seen."""
    must_see(
        replaced(
            multiple,
            "primary_q_values",
            lambda real, js: real([dataclasses.replace(j, primary=True) for j in js]),
        ),
        assert_q_values,
    )


def test_an_open_verdict_does_not_stand() -> None:
    """Catches an inconclusive verdict, or none at all, counted as standing."""
    open_ = _of([0.001, 0.002], verdict="inconclusive", reading="open")
    assert multiple.standing(open_) == multiple.Standing(primary=2, settled=0, standing=0)
    assert multiple.standing([]).sentence.startswith("No primary verdict was judged")


def assert_no_torch(code: str, path: str = "") -> None:
    check = f"import sys\n{code}\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    env = {"PYTHONPATH": f"{ROOT}:{path}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", check], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_reports_need_no_torch() -> None:
    """Catches a report that loads a model library."""
    assert_no_torch(
        "import reports.plugin, reports.html.page, reports.markdown.transfer\n"
        "reports.results.environment(__import__('pathlib').Path('.'))"
    )


def test_reports_need_no_torch_twin(tmp_path: Path) -> None:
    """A module of ours that imported one is seen."""
    (tmp_path / "torch.py").write_text("", encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_no_torch("import reports.plugin, torch", str(tmp_path))
