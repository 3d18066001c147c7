"""What the figures promise: they show the data they were given, and name it as it was named.

What is drawn is read back from the axes, or from the page's own elements, and compared with the
data; each twin breaks the production function and must see the comparison fail.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from invariants import invented
from invariants.invented_plots import plots
from invariants.support.comparing import must_see
from kvcore.errors import KvError
from kvcore.verdict import Cell, Judgement
from reports import (
    canvas,
    choices,
    curves,
    elements,
    figures,
    matrix,
    page,
    samples,
    sequences,
    svg,
    text,
)
from reports.order import by_claim
from reports.words import LOOKS

HOSTILE = '<script>alert(1)</script> "\' & \x00\x1b[31m \ud800 \u202eevil\u2066 \ufffe ]]> $x^2$'
DRAWN = [name for name, kind in figures.KINDS.items() if kind.draw is not None]
NEW = sorted(plots())
DRAWN_ELEMENTS = {"svg", "g", "defs", "path", "use", "text", "tspan", "image", "clipPath", "rect"}


def first(**changes: Any) -> Judgement:
    """Return one judgement of an invented claim."""
    return dataclasses.replace(invented.judgements()[0], **changes)


def drawn(data: dict[str, Any]) -> Figure:
    """Draw a plot on a figure of its own, to look at what is on it."""
    kind = figures.kind_of(data)
    assert kind.draw is not None
    figure = Figure(figsize=kind.size(data))
    assert kind.draw(figure, data, "#00619a")
    return figure


def plain_texts(fragment: str) -> str:
    return "".join(ET.fromstring(f"<a>{fragment.replace('&nbsp;', ' ')}</a>").itertext())


# --- every kind --------------------------------------------------------------------------------


SAID = {
    "curve": ["tokens of the document", "d of the benefit", "128"],
    "roc": ["false positive rate", "true positive rate", "AUC 0.714, baseline",
            "AUC 0.800, condition", "AUC 0.500, chance"],
    "wins": ["reciprocal rank at 10,", "queries, the largest gain first", " better", " alike",
             " worse"],
    "specifications": ["no wording, nll_tail", "7 of 10 intervals lie above 0"],
    "layers": ["layer", "cosine with the bare value", "random prefix", "real prefix"],
    "survival": ["tokens generated", "share left", "bare", "primed"],
    "stack": ["token of the document", "share of attention", "the token itself"],
    "tokens": [" kettle", "a noun", "punctuation and line ends", "↵"],
    "trace": ["step relative to the norm", "kettle", "↵"],
    "table": ["mean step", "1,240", "line feed", "−0.020"],
    "several": ["AUC 0.714, baseline", " better"],
}


def assert_says(name: str) -> None:
    said = plain_texts(figures.plot(first(plot=plots()[name])))
    for words in SAID[name]:
        assert words in said, f"{name} does not say {words!r}"


@pytest.mark.parametrize("name", NEW)
def test_every_kind_says_what_it_shows(name: str) -> None:
    """Axes have their names, curves their labels, and numbers are those of the data."""
    assert_says(name)


def test_every_kind_is_tried() -> None:
    """A kind without an example here, or in the invented judgements, would go unseen."""
    shown = {str(j.plot["kind"]) for j in invented.judgements()} | set(NEW)
    assert shown == {*figures.KINDS, "none", "several"}


@pytest.mark.parametrize("name", ["roc", "layers", "survival", "stack"])
def test_kinds_without_a_legend_twin(name: str) -> None:
    """Curves that nobody names are noticed."""
    def nameless(patch: pytest.MonkeyPatch) -> None:
        for module in (curves, sequences):
            patch.setattr(module, "legend", lambda *_: None)

    must_see(nameless, assert_says, name)


def test_axes_without_names_twin() -> None:
    """So are axes without units."""
    must_see(lambda patch: patch.setattr(svg, "wrapped", lambda _: ""), assert_says, "trace")


@pytest.mark.parametrize("plot", [
    {"kind": "roc", "curves": []},
    {"kind": "wins", "label": "x", "differences": [], "wins": 0, "ties": 0, "losses": 0},
    {"kind": "specifications", "unit": "d", "rows": []},
    {"kind": "layers", "x_label": "x", "y_label": "y",
     "curves": [{"label": "a", "x": [1], "y": [float("nan")], "low": [0], "high": [1]}]},
    {"kind": "survival", "x_label": "x", "curves": []},
    {"kind": "stack", "x_label": "x", "y_label": "y", "parts": []},
    {"kind": "tokens", "tokens": [], "classes": {}},
    {"kind": "trace", "tokens": [], "y": [], "y_label": "y"},
    {"kind": "table", "columns": ["a"], "rows": []},
    {"kind": "several", "figures": [{"kind": "none"}]},
])
def test_nothing_to_show_is_nothing(plot: dict[str, Any]) -> None:
    """A cell without data shows no empty axes and no empty table."""
    assert figures.plot(first(plot=plot)) == ""


@pytest.mark.parametrize("plot", [
    {"kind": "roc", "curves": [{"label": "_a", "fpr": [0, 1], "tpr": [0, 1], "auc": None}]},
    {"kind": "wins", "label": "x", "differences": [0.0], "wins": 0, "ties": 1, "losses": 0},
    {"kind": "specifications", "unit": "d", "rows": [
        {"label": "", "value": 0.1, "low": None, "high": None, "judged": True}]},
    {"kind": "layers", "x_label": "x", "y_label": "y", "curves": [
        {"label": "_a", "x": [1], "y": [2]}]},
    {"kind": "survival", "x_label": "x", "curves": [{"label": "a", "x": [0], "y": [1]}]},
    {"kind": "stack", "x_label": "x", "y_label": "y", "parts": [{"label": "a", "y": [0.0]}]},
    {"kind": "trace", "tokens": ["a"], "y": [0.5], "y_label": "y"},
])
def test_the_least_there_can_be_is_drawn(plot: dict[str, Any]) -> None:
    """One point, or none with an interval, still makes a picture."""
    assert ET.fromstring(figures.plot(first(plot=plot))).tag.endswith("svg")


@pytest.mark.parametrize(("plot", "said"), [
    ({"kind": "pie"}, "unknown kind of plot 'pie'"),
    ({"kind": "several", "figures": [{"kind": "pie"}]}, "unknown kind of plot 'pie'"),
    ({"kind": "trace", "tokens": ["a", "b"], "y": [1.0], "y_label": "y"}, "2 tokens and 1 values"),
    ({"kind": "tokens", "tokens": [{"text": "a", "class": "b"}], "classes": {"c": "d"}},
     "unknown class of token 'b'"),
    ({"kind": "stack", "parts": [{"label": "a", "y": [1.0]}], "y_label": "y"},
     "a plot of kind stack needs 'x_label'"),
])
def test_bad_data_is_refused_by_name(plot: dict[str, Any], said: str) -> None:
    """What cannot be drawn says why in one line."""
    with pytest.raises(KvError, match=said):
        figures.plot(first(plot=plot))


# --- what is drawn is the data -----------------------------------------------------------------


def assert_draws_curves(name: str) -> None:
    data = plots()[name]
    axes = drawn(data).axes[0]
    lines = [line.get_xydata() for line in axes.get_lines()]
    for curve in data["curves"]:
        wanted = np.column_stack([curve["fpr" if name == "roc" else "x"],
                                  curve["tpr" if name == "roc" else "y"]])
        assert any(np.array_equal(line, wanted) for line in lines), curve["label"]


@pytest.mark.parametrize("name", ["roc", "layers", "survival"])
def test_curves_are_those_of_the_data(name: str) -> None:
    """Every curve passes every one of its points."""
    assert_draws_curves(name)


@pytest.mark.parametrize("name", ["roc", "layers", "survival"])
def test_curves_twin(name: str) -> None:
    """A point less is noticed."""
    def shorter(patch: pytest.MonkeyPatch) -> None:
        numbers = canvas.numbers
        patch.setattr(canvas, "numbers", lambda values: numbers(values)[1:])

    must_see(shorter, assert_draws_curves, name)


def assert_draws_diagonal() -> None:
    lines = [line.get_xydata().tolist() for line in drawn(plots()["roc"]).axes[0].get_lines()]
    assert [[0, 0], [1, 1]] in lines


def test_roc_has_its_diagonal() -> None:
    """Chance is there to compare with."""
    assert_draws_diagonal()


def test_roc_twin() -> None:
    """Without it the check fails."""
    def without(patch: pytest.MonkeyPatch) -> None:
        plot = curves.Axes.plot
        patch.setattr(curves.Axes, "plot", lambda self, x, y, **look: plot(
            self, x, [0 for _ in y] if list(y) == [0, 1] else y, **look))

    must_see(without, assert_draws_diagonal)


def assert_draws_wins(data: dict[str, Any]) -> None:
    axes, stack = drawn(data).axes
    found: list[float] = []
    for patch in axes.patches:
        heights, edges, _ = patch.get_data()
        found += np.repeat(heights, np.diff(edges).astype(int)).tolist()
    found = [gap for gap in found if gap != 0]
    assert found == sorted((gap for gap in data["differences"] if gap != 0), reverse=True)
    counts = [bar.get_width() for bar in stack.patches]
    assert counts == [data["wins"], data["ties"], data["losses"]]


@settings(max_examples=15)
@given(st.lists(st.sampled_from([-1.0, -0.5, -0.1, 0.0, 0.0, 0.5, 0.9]), min_size=1))
def test_wins_show_every_query(differences: list[float]) -> None:
    """One bar a query, the largest gain first, and the counts of the data under them."""
    signs = np.sign(differences)
    assert_draws_wins(plots()["wins"] | {
        "differences": differences, "wins": int((signs > 0).sum()),
        "ties": int((signs == 0).sum()), "losses": int((signs < 0).sum())})


@pytest.mark.parametrize("fault", ["_draw_bars", "finite"])
def test_wins_twin(fault: str) -> None:
    """Bars that are missing, or of queries that are not there, are noticed."""
    broken = {"_draw_bars": lambda *_: None, "finite": lambda x: [np.array([*x, 0.25])]}
    must_see(lambda patch: patch.setattr(samples, fault, broken[fault]), assert_draws_wins,
             plots()["wins"])


def assert_draws_specifications() -> None:
    rows = sorted(plots()["specifications"]["rows"], key=lambda row: row["value"], reverse=True)
    (axes,) = drawn(plots()["specifications"]).axes
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == [row["label"] for row in rows]
    bold = [label.get_fontweight() == "bold" for label in axes.get_yticklabels()]
    assert bold == [row["judged"] for row in rows]
    ends, marks = axes.get_lines()[1::2], axes.get_lines()[2::2]
    for row, end, mark, place in zip(rows, ends, marks, axes.get_yticks(), strict=True):
        assert end.get_xydata().tolist() == [[row["low"], place], [row["high"], place]]
        assert mark.get_xydata().tolist() == [[row["value"], place]]
        assert (mark.get_marker() == "D") == row["judged"]


def test_specifications_are_sorted_and_named() -> None:
    """Each way stands beside its own interval, the largest first, the judged one marked."""
    assert_draws_specifications()


def test_specifications_twin() -> None:
    """Labels in the order given are noticed."""
    labels = [row["label"] for row in plots()["specifications"]["rows"]]
    must_see(lambda patch: patch.setattr(samples, "_spec_labels", lambda _: labels),
             assert_draws_specifications)


def assert_draws_stack() -> None:
    data = plots()["stack"]
    total = np.zeros(len(data["parts"][0]["y"]))
    areas = drawn(data).axes[0].collections
    for part, area in zip(data["parts"], areas, strict=True):
        (path,) = area.get_paths()
        total = total + part["y"]
        tops = {round(float(y), 9) for _, y in path.vertices}
        assert {round(float(y), 9) for y in total} <= tops, part["label"]


def test_stack_adds_up() -> None:
    """The upper edge of each area is the sum of all parts up to it."""
    assert_draws_stack()


def test_stack_twin() -> None:
    """Parts in another order are noticed."""
    def turned(patch: pytest.MonkeyPatch) -> None:
        finite = canvas.finite
        patch.setattr(canvas, "finite", lambda *columns: finite(*columns)[::-1])

    must_see(turned, assert_draws_stack)


def assert_draws_trace(count: int) -> None:
    tokens = [f"t{index}" for index in range(count)]
    data = {"kind": "trace", "tokens": tokens, "y": np.arange(count).tolist(), "y_label": "y"}
    rows = drawn(data).axes
    labels = [label.get_text() for axes in rows for label in axes.get_xticklabels()]
    points = [y for axes in rows for y in axes.get_lines()[1].get_ydata()]
    assert labels == tokens
    assert points == data["y"]
    assert len({axes.get_ylim() for axes in rows}) == 1


@pytest.mark.parametrize("count", [1, 24, 25, 61])
def test_trace_shows_every_token(count: int) -> None:
    """Rows break where they are full, on one scale, and lose no token."""
    assert_draws_trace(count)


def test_trace_twin() -> None:
    """Rows of scales of their own are noticed."""
    def apart(patch: pytest.MonkeyPatch) -> None:
        subplots = Figure.subplots
        patch.setattr(Figure, "subplots", lambda *args, **kw: subplots(
            *args, **kw | {"sharey": False}))

    must_see(apart, assert_draws_trace, 61)


# --- HTML --------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """Tags with their attributes, and the text inside each kind of element."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str | None, str]] = []
        self._classes: list[str | None] = []
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and open it."""
        self.tags.append((tag, dict(attrs)))
        if tag != "br":
            self._classes.append(dict(attrs).get("class"))

    def handle_endtag(self, tag: str) -> None:
        """Close a tag."""
        if tag != "br":
            self._classes.pop()

    def handle_data(self, data: str) -> None:
        """Note text with the class of the nearest element that has one."""
        self.texts.append((next(filter(None, reversed(self._classes)), None), data))

    @property
    def names(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags with the names of their attributes."""
        return [(tag, tuple(attrs)) for tag, attrs in self.tags]


def assert_tokens_in_their_looks() -> None:
    data = plots()["tokens"]
    example = elements.tokens(data).split("<ul")[0]
    looks = {name: f"kv-token kv-token-{index}" for index, name in enumerate(data["classes"])}
    wanted = [(looks[token["class"]], token["text"].replace("\n", "↵"))
              for token in data["tokens"]]
    assert Seen(example).texts == wanted


def test_tokens_have_the_look_of_their_class() -> None:
    """Every token is there, in order, and looks like its class in the legend."""
    assert_tokens_in_their_looks()


@pytest.mark.parametrize("fault", ["token_text", "TOKEN_LOOKS"])
def test_tokens_twin(fault: str) -> None:
    """Lost white space, or one look for two classes, is noticed."""
    broken = {"token_text": lambda token: str(token).strip(), "TOKEN_LOOKS": 2}
    must_see(lambda patch: patch.setattr(elements, fault, broken[fault]),
             assert_tokens_in_their_looks)


@given(st.text(max_size=8))
def test_a_token_is_always_seen(raw: str) -> None:
    """Whatever a token is, something of it is visible, on one line and inert."""
    shown = text.token_text(raw)
    assert shown.strip()
    assert "\n" not in shown
    assert "\t" not in shown
    assert text.safe(shown) == shown


def hostile_plot(name: str, raw: str) -> dict[str, Any]:
    """Return an example with every label replaced."""
    def replaced(value: Any, key: str = "") -> Any:
        if isinstance(value, dict) and key == "classes":
            return {f"{raw}{index}": raw for index, _ in enumerate(value)}
        if isinstance(value, dict):
            return {name: item if name in ("kind", "class") else replaced(item, name)
                    for name, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return raw if isinstance(value, str) else value

    data = replaced(plots()[name])
    if name == "tokens":
        data["tokens"] = [{"text": raw, "class": f"{raw}{index % 4}"} for index in range(5)]
    return dict(data)


def assert_plot_inert(name: str, raw: str) -> None:
    shown, plain = (figures.plot(first(plot=hostile_plot(name, each))) for each in (raw, "y"))
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", shown)
    if "<svg" in shown:
        root = ET.fromstring(f"<a>{shown}</a>")
        assert {e.tag.split("}")[-1] for e in root.iter()} <= DRAWN_ELEMENTS | {"a"}
    else:
        assert Seen(shown).names == Seen(plain).names


@pytest.mark.parametrize("name", NEW)
def test_hostile_labels_are_inert(name: str) -> None:
    """Labels of curves, axes, tokens and tables are text and nothing else."""
    assert_plot_inert(name, HOSTILE)


@pytest.mark.parametrize("name", ["tokens", "table"])
def test_hostile_labels_twin(name: str) -> None:
    """Unescaped, they are more."""
    must_see(lambda patch: patch.setattr(text, "markup", str), assert_plot_inert, name,
             HOSTILE)


def test_hostile_axes_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a picture, unsafe text cannot even be written."""
    monkeypatch.setattr(svg, "wrapped", str)
    # what refuses it depends on the version of matplotlib
    with pytest.raises((AssertionError, UnicodeEncodeError, TypeError, ET.ParseError)):
        assert_plot_inert("layers", HOSTILE)


def assert_ids_apart() -> None:
    plot = {"kind": "several", "figures": [plots()["roc"], plots()["roc"], plots()["layers"]]}
    found = re.findall(r'\bid="([^"]+)"', figures.plot(first(plot=plot)))
    assert found
    assert len(found) == len(set(found))


def test_several_figures_share_no_id() -> None:
    """Two pictures of one cell, though alike, have ids of their own."""
    assert_ids_apart()


def test_several_figures_twin() -> None:
    """With one seed for all, they do not."""
    def one_salt(patch: pytest.MonkeyPatch) -> None:
        style = svg.style
        patch.setattr(svg, "style", lambda _: style("one"))

    must_see(one_salt, assert_ids_apart)


# --- matrix ------------------------------------------------------------------------------------


def wide_run() -> list[Judgement]:
    """Return the invented judgements on three datasets."""
    return [dataclasses.replace(j, cell=dataclasses.replace(j.cell, dataset=dataset))
            for dataset in ("docstrings", "pydoc", "ms_marco")
            for j in invented.judgements()]


def matrix_cells(judgements: list[Judgement]) -> dict[tuple[str, str], str]:
    """Read the matrix as a reader does: (claim, name of the column) to what stands there."""
    found = {}
    shown = matrix.section(judgements, by_claim(judgements)).replace("&nbsp;", " ")
    for row in re.findall(r"<tr><td.*?</tr>", shown):
        cells = re.findall(r'<td data-label="(.*?)".*?>(.*?)</td>', row)
        claim = re.findall(r"<bdi>(.*?)</bdi>", cells[0][1])[0]
        for label, cell in cells[1:]:
            found[claim, label] = re.sub(r"<[^>]+>", " ", cell)
    return found


def assert_matrix_states_every() -> None:
    judgements = wide_run()
    cells = matrix_cells(judgements)
    for j in judgements:
        metric = j.cell.metric if j.cell.metric in ("nll", "nll_tail") else "other"
        said = cells[j.claim.id, f"{j.cell.model} × {j.cell.dataset} · {metric}"]
        sign = "" if j.estimate.unit == "proportion" else "+"
        for number in (j.estimate.value, j.estimate.ci_low, j.estimate.ci_high):
            assert f"{number:{sign}.2f}".replace("-", "−") in said
        assert LOOKS[j.verdict].symbol in said
        if j.published is None:
            assert "pub." not in said
        else:
            agrees = {True: "≈ ", False: "≠ ", None: ""}[j.consistent]
            value = f"{j.published.value:{sign}.2f}".replace("-", "−")
            assert f"pub. {agrees}{value}" in " ".join(said.split())


def test_matrix_states_every_judgement() -> None:
    """Each cell has our value, its interval, its verdict as a sign, and the published value."""
    assert_matrix_states_every()


@pytest.mark.parametrize("fault", ["_published", "end_words", "Column.of"])
def test_matrix_twin(fault: str) -> None:
    """A published value or an end of an interval that is not there, or a wrong column, is seen."""
    def swapped(cell: Cell) -> matrix.Column:
        metric = {"nll": "nll_tail", "nll_tail": "nll"}.get(cell.metric, "other")
        return matrix.Column(cell.model, cell.dataset, cell.dtype, metric)

    def broken(patch: pytest.MonkeyPatch) -> None:
        if fault == "Column.of":
            patch.setattr(matrix.Column, "of", swapped)
        else:
            patch.setattr(matrix, fault, lambda *_: "")

    must_see(broken, assert_matrix_states_every)


found_columns = st.lists(st.builds(
    matrix.Column, st.sampled_from("abcd"), st.sampled_from("xyz"), st.just("float32"),
    st.sampled_from(["nll", "nll_tail", "other"])), min_size=1, unique=True)


def assert_blocks(found: list[matrix.Column]) -> None:
    ordered = sorted(found, key=lambda c: (c.model, c.dataset, c.metric))
    blocks = matrix.blocks(ordered)
    assert list(itertools.chain(*blocks)) == ordered
    assert max(map(len, blocks)) <= matrix.WIDEST
    homes = [{(c.model, c.dataset) for c in block} for block in blocks]
    assert sum(map(len, homes)) == len(set().union(*homes))


@given(found_columns)
def test_tables_are_narrow_and_keep_a_dataset_together(found: list[matrix.Column]) -> None:
    """No table is too wide, none parts two metrics of one model and dataset, none loses any."""
    assert_blocks(found)


def test_tables_twin() -> None:
    """Cut anywhere, they part them; never cut, they are too wide."""
    found = [matrix.Column(model, "x", "float32", metric) for model in "abcd"
             for metric in ("nll", "nll_tail")]
    must_see(lambda patch: patch.setattr(matrix, "_place", lambda column: column),
             assert_blocks, found)
    must_see(lambda patch: patch.setattr(matrix, "blocks", lambda columns: [columns]),
             assert_blocks, found)


def test_a_row_has_a_cell_for_every_column() -> None:
    """Heads of models and datasets span exactly the metrics under them."""
    judgements = wide_run()
    shown = matrix.section(judgements, by_claim(judgements))
    tables = re.findall(r"<table.*?</table>", shown)
    assert len(tables) == len(matrix.blocks(matrix.columns(judgements)))
    for table in tables:
        width = sum(map(int, re.findall(r'colspan="(\d+)"', table)))
        assert table.count('<th scope="col">') == width
        rows = re.findall(r"<tr><td.*?</tr>", table)
        assert {row.count("<td") for row in rows} == {width + 1}


# --- choices -----------------------------------------------------------------------------------


def with_ways() -> list[Judgement]:
    """Return one claim in four cells, each with nine ways beside the judged one."""
    return [dataclasses.replace(j, plot=plots()["specifications"])
            for j in invented.judgements()[:4]]


def assert_every_way_counts_once() -> None:
    group = with_ways()
    rows = [row for row in plots()["specifications"]["rows"] if not row["judged"]]
    wanted = sorted([j.estimate.value for j in group] + 4 * [row["value"] for row in rows])
    assert [each.value for each in choices.by_value(choices.specifications(group))] == wanted


def test_every_way_counts_once() -> None:
    """Judgements and further ways are there, the judged way not twice, the smallest first."""
    assert_every_way_counts_once()


def test_every_way_twin() -> None:
    """Counted with its row, the judged way would be there twice."""
    must_see(lambda patch: patch.setattr(choices, "_further", lambda j: [
        choices._read(j, row) for row in choices._rows(j)]), assert_every_way_counts_once)


def test_a_way_in_another_unit_is_left_out() -> None:
    """Ways that are measured on another scale cannot stand on the same axis."""
    plot = plots()["specifications"] | {"unit": "r"}
    assert len(choices.specifications([first(plot=plot)])) == 1


def test_a_label_gives_its_way_and_metric() -> None:
    """The metric at a label's end is a choice of its own."""
    assert choices._way("no wording, nll_tail", "nll") == ("no wording", "nll_tail")
    assert choices._way("first 50 by name", "nll") == ("first 50 by name", "nll")
    assert choices._way("a, b", "nll") == ("a, b", "nll")


found_specifications = st.lists(st.builds(
    lambda model, metric, way, verdict: choices.Specification(
        {"model": model, "dataset": "x", "metric": metric, "way": way}, 0.0, -1.0, 1.0, verdict),
    st.sampled_from("ab"), st.sampled_from(["nll", "nll_tail"]), st.sampled_from("uvw"),
    st.sampled_from(["supported", "refuted", "inconclusive"])), max_size=12,
    unique_by=lambda each: tuple(each.choices.values()))


def assert_hangs_on(found: list[choices.Specification]) -> None:
    """Compare with pandas' grouping of the same table."""
    table = pd.DataFrame([{**each.choices, "verdict": each.verdict} for each in found],
                         columns=[*choices.FACTORS, "verdict"])
    wanted = {}
    for factor in choices.FACTORS:
        others = [name for name in choices.FACTORS if name != factor]
        counts = table.groupby(others).agg({factor: "nunique", "verdict": "nunique"})
        varied = counts[counts[factor] > 1]
        if len(varied):
            wanted[factor] = (int((varied["verdict"] > 1).sum()), len(varied))
    assert choices.hangs_on(found) == wanted


@given(found_specifications)
def test_what_a_verdict_hangs_on(found: list[choices.Specification]) -> None:
    """Only ways that differ in one choice alone are compared, each group once."""
    assert_hangs_on(found)


def test_what_a_verdict_hangs_on_twin() -> None:
    """Compared across other choices, the counts are wrong."""
    def all_together(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(choices, "_alike_but_for", lambda _, found: [found])

    must_see(all_together, assert_hangs_on, choices.specifications(with_ways()))


def assert_curve_draws_every_way() -> None:
    group = with_ways()
    found = choices.by_value(choices.specifications(group))
    figure = Figure()
    axes = figure.subplots(2, 1)
    choices._draw_estimates(axes[0], found, group[0])
    choices._draw_choices(axes[1], found, choices.levels(found))
    points = [line.get_ydata()[0] for line in axes[0].get_lines() if len(line.get_ydata()) == 1]
    assert points == [each.value for each in found]
    names = [label.get_text() for label in axes[1].get_yticklabels()]
    marks = {(int(x), names[int(y)]) for line in axes[1].get_lines()
             for x, y in line.get_xydata() if line.get_marker() == "s"}
    varied = ("model", "metric", "way")
    assert marks == {(place, each.choices[name]) for place, each in enumerate(found)
                     for name in varied}


def test_a_specification_curve_shows_every_way() -> None:
    """Each estimate is drawn once, and under it each choice that was varied."""
    assert_curve_draws_every_way()


def test_a_specification_curve_twin() -> None:
    """A choice that is not marked is noticed."""
    levels = choices.levels
    must_see(lambda patch: patch.setattr(choices, "levels", lambda found: levels(found)[1:]),
             assert_curve_draws_every_way)


def assert_choices_inert(raw: str) -> None:
    def shown(each: str) -> str:
        rows = [{"label": f"{each}{index}", "value": 0.1, "low": 0.0, "high": 0.2,
                 "judged": False} for index in range(2)]
        judgement = first(plot={"kind": "specifications", "unit": "d", "rows": rows})
        judgement = dataclasses.replace(judgement, cell=Cell(f"x{each}", "y", "nll", "float32"))
        groups = [[judgement]]
        return choices.section(groups) + matrix.section(groups[0], groups)

    hostile = shown(raw)
    outside = re.compile(r"<svg.*?</svg>", flags=re.DOTALL)
    assert Seen(outside.sub("", hostile)).names == Seen(outside.sub("", shown("y"))).names
    for picture in outside.findall(hostile):
        assert {e.tag.split("}")[-1] for e in ET.fromstring(picture).iter()} <= DRAWN_ELEMENTS


def test_hostile_names_do_not_change_choices_and_matrix() -> None:
    """Names of models and ways are text and nothing else."""
    assert_choices_inert(HOSTILE)


@pytest.mark.parametrize("name", ["markup", "escape"])
def test_hostile_names_twin(name: str) -> None:
    """Unescaped, they are more."""
    must_see(lambda patch: patch.setattr(matrix, name, str), assert_choices_inert, HOSTILE)


# --- room --------------------------------------------------------------------------------------


def with_pictures() -> list[Judgement]:
    return [j for j in invented.judgements() if j.plot["kind"] != "none"]


def assert_keeps_to_its_room() -> None:
    judgements = with_pictures()
    shown = page.render(judgements, [], {}, {}).split('<h2 id="kv-claims">')[1]
    groups = by_claim(judgements)
    drawn = shown.count('class="kv-figure"')
    assert len(groups) <= drawn < len(judgements)
    assert f"The pictures of {len(judgements) - drawn} cells are left out" in shown
    blocks = shown.split('<section class="kv-claim"')[1:]
    assert all('class="kv-figure"' in block for block in blocks)


def test_a_page_keeps_to_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pictures would make the page too large, every claim keeps its first; it is said."""
    whole = len(page.render(with_pictures(), [], {}, {}))
    monkeypatch.setattr(page, "ROOM", whole - 80_000)
    assert_keeps_to_its_room()


def test_a_page_keeps_to_its_room_twin() -> None:
    """With room for all, none is left out."""
    with pytest.raises(AssertionError):
        assert_keeps_to_its_room()
