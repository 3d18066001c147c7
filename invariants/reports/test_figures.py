"""What the figures promise: they show the data they were given, and name it as it was named.

What is drawn is read back from the axes, or from the page's own elements, and compared with the
data; each twin breaks the production function and must see the comparison fail.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch

from invariants.support import invented
from invariants.support.comparing import must_see
from invariants.support.invented_plots import plots
from invariants.support.invented_texts import (
    HOSTILE,
    Seen,
    assert_drawings_inert,
    assert_nothing_active,
    outside_drawings,
)
from kvcore.errors import KvError
from kvcore.verdict import Cell, Judgement
from reports import specifications as specs
from reports import text
from reports.grouping import by_claim
from reports.html import matrix, page, pictures, templates
from reports.html.facets import Facets
from reports.html.pictures import picture
from reports.plots import (
    bars,
    curves,
    kinds,
    plot_helpers,
    samples,
    specification_curve,
    svg,
    tokens,
)
from reports.topics import topics
from reports.words import VERDICT_STYLES

NEW = sorted(plots())


def first(**changes: Any) -> Judgement:
    """Return one judgement of an invented claim."""
    return dataclasses.replace(invented.judgements()[0], **changes)


def drawn(data: dict[str, Any]) -> Figure:
    """Draw a plot on a figure of its own, to look at what is on it."""
    kind = kinds.kind_of(data)
    assert kind.draw is not None
    figure = Figure(figsize=kind.size(data))
    kind.draw(figure, data, "#00619a")
    assert figure.axes
    return figure


def points(line: Line2D) -> list[list[float]]:
    """Return the points of a line as [x, y]."""
    return [[float(x), float(y)] for x, y in np.asarray(line.get_xydata())]


def plain_texts(fragment: str) -> str:
    return "".join(ET.fromstring(f"<a>{fragment.replace('&nbsp;', ' ')}</a>").itertext())


# --- every kind --------------------------------------------------------------------------------


SAID = {
    "curve": ["tokens of the document", "d of the benefit", "128"],
    "roc": [
        "false positive rate",
        "true positive rate",
        "AUC 0.714, baseline",
        "AUC 0.800, condition",
        "AUC 0.500, chance",
    ],
    "wins": [
        "reciprocal rank at 10,",
        "queries, the largest gain first",
        " better",
        " alike",
        " worse",
    ],
    "specifications": ["no wording, nll_tail", "7 of 10 intervals lie above 0"],
    "layers": ["layer", "cosine with the bare value", "random prefix", "real prefix"],
    "survival": ["tokens generated", "share left", "bare", "primed"],
    "stack": ["token of the document", "share of attention", "the token itself"],
    "bars": ["primed", "not measured yet", "everything else", "0.31", "40 samples"],
    "tokens": [" kettle", "a noun", "punctuation and line ends", "↵"],
    "trace": ["step relative to the norm", "kettle", "↵"],
    "table": ["mean step", "1,240", "line feed", "−0.020"],
    "several": ["AUC 0.714, baseline", " better"],
}


def assert_says(name: str) -> None:
    said = plain_texts(picture(first(plot=plots()[name])))
    for words in SAID[name]:
        assert words in said, f"{name} does not say {words!r}"


@pytest.mark.parametrize("name", NEW)
def test_every_kind_says_what_it_shows(name: str) -> None:
    """Catches an axis without its name, a curve without its label, or a number that is missing."""
    assert_says(name)


def test_every_kind_is_tried() -> None:
    """Catches a new kind of plot that no test draws."""
    shown = {str(j.plot["kind"]) for j in invented.judgements()} | set(NEW)
    assert shown == {*kinds.PLOT_KINDS, "none", "several"}


def assert_bars_are_drawn() -> None:
    """Compare where bars lie with the shares that they stand for, those before them added up."""
    data = plots()["bars"]
    found = [
        [round(bar.get_x(), 6), round(bar.get_width(), 6), round(bar.get_y() + bars.HALF, 6)]
        for bar in drawn(data).axes[0].patches
        if isinstance(bar, Rectangle)
    ]
    shares = [bar["y"] or [0.0] * len(data["parts"]) for bar in data["bars"]]
    wanted = [
        [round(sum(own[:part]), 6), own[part], float(place)]
        for part in range(len(data["parts"]))
        for place, own in enumerate(shares)
    ]
    assert found == wanted


def test_bars_show_their_shares() -> None:
    """Catches a part drawn over another, in another order, or of another condition."""
    assert_bars_are_drawn()


def test_bars_twin() -> None:
    """Shares that are drawn otherwise than they are, are seen."""
    must_see(
        lambda patch: patch.setattr(bars, "numbers", lambda y: np.array(y)[::-1]),
        assert_bars_are_drawn,
    )


@pytest.mark.parametrize("name", ["roc", "layers", "survival", "stack", "bars"])
def test_kinds_without_a_legend_twin(name: str) -> None:
    """Curves that nobody names are seen."""

    def nameless(patch: pytest.MonkeyPatch) -> None:
        for module in (bars, curves, tokens):
            patch.setattr(module, "legend", lambda *_: None)

    must_see(nameless, assert_says, name)


def test_axes_without_names_twin() -> None:
    """Axes without units are seen."""
    must_see(lambda patch: patch.setattr(tokens, "wrapped", lambda _: ""), assert_says, "trace")


@pytest.mark.parametrize(
    "plot",
    [
        {"kind": "roc", "curves": []},
        {"kind": "wins", "label": "x", "differences": [], "wins": 0, "ties": 0, "losses": 0},
        {"kind": "specifications", "unit": "d", "rows": []},
        {
            "kind": "layers",
            "x_label": "x",
            "y_label": "y",
            "curves": [{"label": "a", "x": [1], "y": [float("nan")], "low": [0], "high": [1]}],
        },
        {"kind": "survival", "x_label": "x", "curves": []},
        {"kind": "stack", "x_label": "x", "y_label": "y", "parts": []},
        {"kind": "bars", "x_label": "x", "parts": ["a"], "bars": []},
        {"kind": "tokens", "tokens": [], "classes": {}},
        {"kind": "trace", "tokens": [], "y": [], "y_label": "y"},
        {"kind": "table", "columns": ["a"], "rows": []},
        {"kind": "several", "figures": [{"kind": "none"}]},
    ],
)
def test_nothing_to_show_is_nothing(plot: dict[str, Any]) -> None:
    """Catches empty axes, or an empty table, for a cell without data."""
    assert picture(first(plot=plot)) == ""


@pytest.mark.parametrize(
    "plot",
    [
        {"kind": "roc", "curves": [{"label": "_a", "fpr": [0, 1], "tpr": [0, 1], "auc": None}]},
        {"kind": "wins", "label": "x", "differences": [0.0], "wins": 0, "ties": 1, "losses": 0},
        {
            "kind": "specifications",
            "unit": "d",
            "rows": [{"label": "", "value": 0.1, "low": None, "high": None, "judged": True}],
        },
        {
            "kind": "layers",
            "x_label": "x",
            "y_label": "y",
            "curves": [{"label": "_a", "x": [1], "y": [2]}],
        },
        {"kind": "survival", "x_label": "x", "curves": [{"label": "a", "x": [0], "y": [1]}]},
        {"kind": "stack", "x_label": "x", "y_label": "y", "parts": [{"label": "a", "y": [0.0]}]},
        {
            "kind": "bars",
            "x_label": "x",
            "parts": ["_a"],
            "bars": [{"label": "", "y": [], "missing": ""}],
        },
        {"kind": "trace", "tokens": ["a"], "y": [0.5], "y_label": "y"},
    ],
)
def test_the_least_there_can_be_is_drawn(plot: dict[str, Any]) -> None:
    """Catches a single point, or one without an interval, that crashes the picture."""
    assert ET.fromstring(picture(first(plot=plot))).tag.endswith("svg")


@pytest.mark.parametrize(
    ("plot", "said"),
    [
        ({"kind": "pie"}, "unknown kind of plot 'pie'"),
        ({"kind": "several", "figures": [{"kind": "pie"}]}, "unknown kind of plot 'pie'"),
        (
            {"kind": "trace", "tokens": ["a", "b"], "y": [1.0], "y_label": "y"},
            "2 tokens and 1 values",
        ),
        (
            {"kind": "tokens", "tokens": [{"text": "a", "class": "b"}], "classes": {"c": "d"}},
            "unknown class of token 'b'",
        ),
        (
            {"kind": "stack", "parts": [{"label": "a", "y": [1.0]}], "y_label": "y"},
            "a plot of kind stack needs 'x_label'",
        ),
    ],
)
def test_bad_data_is_refused_by_name(plot: dict[str, Any], said: str) -> None:
    """Catches bad data that crashes without a line that says what is wrong."""
    with pytest.raises(KvError, match=said):
        picture(first(plot=plot))


# --- what is drawn is the data -----------------------------------------------------------------


def assert_draws_curves(name: str) -> None:
    data = plots()[name]
    axes = drawn(data).axes[0]
    lines = [line.get_xydata() for line in axes.get_lines()]
    for curve in data["curves"]:
        wanted = np.column_stack(
            [curve["fpr" if name == "roc" else "x"], curve["tpr" if name == "roc" else "y"]]
        )
        assert any(np.array_equal(line, wanted) for line in lines), curve["label"]


@pytest.mark.parametrize("name", ["roc", "layers", "survival"])
def test_curves_are_those_of_the_data(name: str) -> None:
    """Catches a curve that leaves out or moves one of its points."""
    assert_draws_curves(name)


@pytest.mark.parametrize("name", ["roc", "layers", "survival"])
def test_curves_twin(name: str) -> None:
    """A point less is seen."""

    def shorter(patch: pytest.MonkeyPatch) -> None:
        numbers = plot_helpers.numbers
        patch.setattr(curves, "numbers", lambda values: numbers(values)[1:])

    must_see(shorter, assert_draws_curves, name)


def assert_draws_diagonal() -> None:
    lines = [points(line) for line in drawn(plots()["roc"]).axes[0].get_lines()]
    assert [[0, 0], [1, 1]] in lines


def test_roc_has_its_diagonal() -> None:
    """Catches a ROC plot without the diagonal to compare with."""
    assert_draws_diagonal()


def test_roc_twin() -> None:
    """A diagonal elsewhere is seen."""

    def without(patch: pytest.MonkeyPatch) -> None:
        plot = Axes.plot
        patch.setattr(
            Axes,
            "plot",
            lambda self, x, y, **look: plot(
                self, x, [0 for _ in y] if list(y) == [0, 1] else y, **look
            ),
        )

    must_see(without, assert_draws_diagonal)


def assert_draws_wins(data: dict[str, Any]) -> None:
    axes, stack = drawn(data).axes
    found: list[float] = []
    for patch in axes.patches:
        assert isinstance(patch, StepPatch)
        heights, edges, _ = patch.get_data()
        found += np.repeat(heights, np.diff(edges).astype(int)).tolist()
    found = [gap for gap in found if gap != 0]
    assert found == sorted((gap for gap in data["differences"] if gap != 0), reverse=True)
    widths = [bar.get_width() for bar in stack.patches if isinstance(bar, Rectangle)]
    assert widths == [data["wins"], data["ties"], data["losses"]]


@settings(max_examples=15)
@given(st.lists(st.sampled_from([-1.0, -0.5, -0.1, 0.0, 0.0, 0.5, 0.9]), min_size=1))
def test_wins_show_every_query(differences: list[float]) -> None:
    """Catches a query without its bar, bars out of order, and counts that are not the data's."""
    signs = np.sign(differences)
    assert_draws_wins(
        plots()["wins"]
        | {
            "differences": differences,
            "wins": int((signs > 0).sum()),
            "ties": int((signs == 0).sum()),
            "losses": int((signs < 0).sum()),
        }
    )


@pytest.mark.parametrize("fault", ["draw_bars", "finite"])
def test_wins_twin(fault: str) -> None:
    """Bars that are missing, or of queries that are not there, are seen."""
    broken = {"draw_bars": lambda *_: None, "finite": lambda x: [np.array([*x, 0.25])]}
    must_see(
        lambda patch: patch.setattr(samples, fault, broken[fault]),
        assert_draws_wins,
        plots()["wins"],
    )


def assert_draws_specifications() -> None:
    rows = sorted(plots()["specifications"]["rows"], key=lambda row: row["value"], reverse=True)
    (axes,) = drawn(plots()["specifications"]).axes
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == [row["label"] for row in rows]
    bold = [label.get_fontweight() == "bold" for label in axes.get_yticklabels()]
    assert bold == [row["judged"] for row in rows]
    ends, marks = axes.get_lines()[1::2], axes.get_lines()[2::2]
    for row, end, mark, place in zip(rows, ends, marks, axes.get_yticks(), strict=True):
        assert points(end) == [[row["low"], place], [row["high"], place]]
        assert points(mark) == [[row["value"], place]]
        assert (mark.get_marker() == "D") == row["judged"]


def test_specifications_are_sorted_and_named() -> None:
    """Catches a label beside another way's interval, another order, or a wrong mark."""
    assert_draws_specifications()


def test_specifications_twin() -> None:
    """Labels in the order given are seen."""
    labels = [row["label"] for row in plots()["specifications"]["rows"]]
    must_see(
        lambda patch: patch.setattr(samples, "specification_labels", lambda _: labels),
        assert_draws_specifications,
    )


def assert_draws_stack() -> None:
    data = plots()["stack"]
    total = np.zeros(len(data["parts"][0]["y"]))
    areas = drawn(data).axes[0].collections
    for part, area in zip(data["parts"], areas, strict=True):
        (path,) = area.get_paths()
        total = total + part["y"]
        tops = {round(float(y), 9) for y in np.asarray(path.vertices)[:, 1]}
        assert {round(float(y), 9) for y in total} <= tops, part["label"]


def test_stack_adds_up() -> None:
    """Catches an area whose upper edge is not the sum of all parts up to it."""
    assert_draws_stack()


def test_stack_twin() -> None:
    """Parts in another order are seen."""

    def turned(patch: pytest.MonkeyPatch) -> None:
        finite = plot_helpers.finite
        patch.setattr(tokens, "finite", lambda *columns: finite(*columns)[::-1])

    must_see(turned, assert_draws_stack)


def assert_draws_trace(count: int) -> None:
    tokens = [f"t{index}" for index in range(count)]
    data = {"kind": "trace", "tokens": tokens, "y": np.arange(count).tolist(), "y_label": "y"}
    rows = drawn(data).axes
    labels = [label.get_text() for axes in rows for label in axes.get_xticklabels()]
    values = [y for axes in rows for _, y in points(axes.get_lines()[1])]
    assert labels == tokens
    assert values == data["y"]
    assert len({axes.get_ylim() for axes in rows}) == 1


@pytest.mark.parametrize("count", [1, 24, 25, 61])
def test_trace_shows_every_token(count: int) -> None:
    """Catches a token lost where a row breaks, and rows of different scales."""
    assert_draws_trace(count)


def test_trace_twin() -> None:
    """Rows of scales of their own are seen."""

    def apart(patch: pytest.MonkeyPatch) -> None:
        subplots = Figure.subplots
        patch.setattr(
            Figure, "subplots", lambda *args, **kw: subplots(*args, **kw | {"sharey": False})
        )

    must_see(apart, assert_draws_trace, 61)


# --- HTML --------------------------------------------------------------------------------------


def assert_tokens_in_their_styles() -> None:
    data = plots()["tokens"]
    example = Seen(pictures.classed_tokens(data).split("<ul")[0])
    styles = {name: f"kv-token kv-token-{index}" for index, name in enumerate(data["classes"])}
    assert [(inside[-2][1], shown) for inside, shown in example.texts] == [
        (styles[token["class"]], token["text"].replace("\n", "↵")) for token in data["tokens"]
    ]


def test_tokens_have_the_style_of_their_class() -> None:
    """Catches a token that is lost, out of order, or in the style of another class."""
    assert_tokens_in_their_styles()


def test_tokens_twin() -> None:
    """Lost white space, or one style for two classes, is seen."""
    must_see(
        lambda patch: patch.setitem(
            templates.ENVIRONMENT.filters, "token", lambda token: str(token).strip()
        ),
        assert_tokens_in_their_styles,
    )
    must_see(
        lambda patch: patch.setattr(pictures, "TOKEN_STYLES", 2), assert_tokens_in_their_styles
    )


@given(st.text(max_size=8))
def test_a_token_is_always_seen(raw: str) -> None:
    """Catches a token of which nothing is visible, or that breaks its line."""
    shown = text.token_text(raw)
    assert shown.strip()
    assert "\n" not in shown
    assert "\t" not in shown
    assert text.inert_text(shown) == shown


def hostile_plot(name: str, raw: str) -> dict[str, Any]:
    """Return an example with every label replaced."""

    def replaced(value: Any, key: str = "") -> Any:
        if isinstance(value, dict) and key == "classes":
            return {f"{raw}{index}": raw for index, _ in enumerate(value)}
        if isinstance(value, dict):
            return {
                name: item if name in ("kind", "class") else replaced(item, name)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return raw if isinstance(value, str) else value

    data = replaced(plots()[name])
    if name == "tokens":
        data["tokens"] = [{"text": raw, "class": f"{raw}{index % 4}"} for index in range(5)]
    return dict(data)


def assert_plot_inert(name: str, raw: str) -> None:
    shown, plain = (picture(first(plot=hostile_plot(name, each))) for each in (raw, "y"))
    assert_nothing_active(shown)
    assert_drawings_inert(shown)
    assert Seen(outside_drawings(shown)).names == Seen(outside_drawings(plain)).names


@pytest.mark.parametrize("name", NEW)
def test_hostile_labels_are_inert(name: str) -> None:
    """Catches a label of a curve, axis, token or table that is more than text."""
    assert_plot_inert(name, HOSTILE)


@pytest.mark.parametrize("option", [{"autoescape": False}, {"finalize": lambda value: value}])
@pytest.mark.parametrize("name", ["tokens", "table"])
def test_hostile_labels_twin(name: str, option: dict[str, Any]) -> None:
    """Without escaping, or without making inert, they do more and are seen."""
    raw = "<b>\u202e"
    environment = templates.ENVIRONMENT.overlay(**option)
    environment.filters = templates.ENVIRONMENT.filters | {"token": str}
    must_see(
        lambda patch: patch.setattr(templates, "ENVIRONMENT", environment),
        assert_plot_inert,
        name,
        raw,
    )


@pytest.mark.parametrize("module", [curves, plot_helpers])
def test_hostile_axes_twin(module: Any) -> None:
    """A direction control in a label of an axis or of a legend is seen."""
    name = "wrapped" if module is curves else "one_line"
    must_see(
        lambda patch: patch.setattr(module, name, lambda label, *_: str(label)),
        assert_plot_inert,
        "layers",
        "a\u202eb",
    )


def assert_ids_apart() -> None:
    plot = {"kind": "several", "figures": [plots()["roc"], plots()["roc"], plots()["layers"]]}
    found = re.findall(r'\bid="([^"]+)"', picture(first(plot=plot)))
    assert found
    assert len(found) == len(set(found))


def test_several_figures_share_no_id() -> None:
    """Catches two pictures of one cell that share an id."""
    assert_ids_apart()


def test_several_figures_twin() -> None:
    """One seed for all pictures is seen."""

    def one_salt(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(kinds, "style", lambda _: svg.style("one"))

    must_see(one_salt, assert_ids_apart)


# --- matrix ------------------------------------------------------------------------------------


def wide_run() -> list[Judgement]:
    """Return the invented judgements on three datasets."""
    return [
        dataclasses.replace(j, cell=dataclasses.replace(j.cell, dataset=dataset))
        for dataset in ("docstrings", "pydoc", "ms_marco")
        for j in invented.judgements()
    ]


def matrix_cells(judgements: list[Judgement]) -> dict[tuple[str, str], str]:
    """Read the matrix as a reader does: (claim, name of the column) to what stands there."""
    found = {}
    facets = Facets.of(topics(judgements))
    shown = matrix.section(judgements, by_claim(judgements), facets).replace("&nbsp;", " ")
    for row in re.findall(r"<tr data-place.*?</tr>", shown, flags=re.DOTALL):
        cells = re.findall(r'<td data-label="(.*?)".*?>(.*?)</td>', row, flags=re.DOTALL)
        claim = re.findall(r"<bdi>(.*?)</bdi>", cells[0][1])[0]
        for label, cell in cells[1:]:
            found[claim, label] = re.sub(r"<[^>]+>", " ", cell)
    return found


def assert_matrix_states_every() -> None:
    judgements = wide_run()
    cells = matrix_cells(judgements)
    for j in judgements:
        metric = j.cell.metric if j.cell.metric in ("nll", "nll_tail") else "other"
        said = cells[escape(j.claim.statement), f"{j.cell.model} × {j.cell.dataset} · {metric}"]
        sign = "" if j.estimate.unit == "proportion" else "+"
        for number in (j.estimate.value, j.estimate.ci_low, j.estimate.ci_high):
            assert f"{number:{sign}.2f}".replace("-", "−") in said
        assert VERDICT_STYLES[j.verdict].symbol in said
        if j.published is None:
            assert "pub." not in said
        else:
            agrees = {True: "≈ ", False: "≠ ", None: ""}[j.consistent]
            value = f"{j.published.value:{sign}.2f}".replace("-", "−")
            assert f"pub. {agrees}{value}" in " ".join(said.split())


def test_matrix_states_every_judgement() -> None:
    """Catches a value, interval, verdict or published value that is missing or in another cell."""
    assert_matrix_states_every()


@pytest.mark.parametrize("fault", ["number", "end", "Column.of"])
def test_matrix_twin(fault: str) -> None:
    """A value or an end of an interval that is not there, or a wrong column, is seen."""

    def swapped(cell: Cell) -> matrix.Column:
        metric = {"nll": "nll_tail", "nll_tail": "nll"}.get(cell.metric, "other")
        return matrix.Column(cell.model, cell.dataset, cell.dtype, metric)

    def broken(patch: pytest.MonkeyPatch) -> None:
        if fault == "Column.of":
            patch.setattr(matrix.Column, "of", swapped)
        else:
            patch.setitem(templates.ENVIRONMENT.filters, fault, lambda *_, **__: "")

    must_see(broken, assert_matrix_states_every)


found_columns = st.lists(
    st.builds(
        matrix.Column,
        st.sampled_from("abcd"),
        st.sampled_from("xyz"),
        st.just("float32"),
        st.sampled_from(["nll", "nll_tail", "other"]),
    ),
    min_size=1,
    unique=True,
)


def assert_blocks(found: list[matrix.Column]) -> None:
    ordered = sorted(found, key=lambda c: (c.model, c.dataset, c.metric))
    blocks = matrix.blocks(ordered)
    assert list(itertools.chain(*blocks)) == ordered
    assert max(map(len, blocks)) <= matrix.WIDEST
    homes = [{(c.model, c.dataset) for c in block} for block in blocks]
    assert sum(map(len, homes)) == len(set().union(*homes))


@given(found_columns)
def test_tables_are_narrow_and_keep_a_dataset_together(found: list[matrix.Column]) -> None:
    """Catches a table that is too wide, parts a dataset's metrics, or loses a column."""
    assert_blocks(found)


def test_tables_twin() -> None:
    """Tables that are cut anywhere, or never, are seen."""
    found = [
        matrix.Column(model, "x", "float32", metric)
        for model in "abcd"
        for metric in ("nll", "nll_tail")
    ]
    must_see(
        lambda patch: patch.setattr(matrix.Column, "place", property(lambda self: self)),
        assert_blocks,
        found,
    )
    must_see(
        lambda patch: patch.setattr(matrix, "blocks", lambda columns: [columns]),
        assert_blocks,
        found,
    )


def test_a_row_has_a_cell_for_every_column() -> None:
    """Catches a head that spans more or fewer columns than stand under it."""
    judgements = wide_run()
    shown = matrix.section(judgements, by_claim(judgements), Facets.of(topics(judgements)))
    tables = re.findall(r"<table.*?</table>", shown, flags=re.DOTALL)
    assert len(tables) == len(matrix.blocks(matrix.columns(judgements)))
    for table in tables:
        width = sum(map(int, re.findall(r'colspan="(\d+)"', table)))
        assert table.count('<th scope="col">') == width
        rows = re.findall(r"<tr data-place.*?</tr>", table, flags=re.DOTALL)
        assert {row.count("<td") for row in rows} == {width + 1}


# --- choices -----------------------------------------------------------------------------------


def with_ways() -> list[Judgement]:
    """Return one claim in four cells, each with nine ways beside the judged one."""
    return [
        dataclasses.replace(j, plot=plots()["specifications"]) for j in invented.judgements()[:4]
    ]


def assert_every_way_counts_once() -> None:
    group = with_ways()
    rows = [row for row in plots()["specifications"]["rows"] if not row["judged"]]
    wanted = sorted([j.estimate.value for j in group] + 4 * [row["value"] for row in rows])
    assert [each.value for each in specs.by_value(specs.specifications(group))] == wanted


def test_every_way_counts_once() -> None:
    """Catches a way of measuring that is lost, counted twice, or out of order."""
    assert_every_way_counts_once()


def test_every_way_twin() -> None:
    """The judged way, counted with its row too, is seen."""
    must_see(
        lambda patch: patch.setattr(
            specs,
            "further_ways",
            lambda j: [specs.specification(j, row) for row in specs.specification_rows(j)],
        ),
        assert_every_way_counts_once,
    )


def test_a_way_in_another_unit_is_left_out() -> None:
    """Catches a way in another unit on the same axis."""
    plot = plots()["specifications"] | {"unit": "r"}
    assert len(specs.specifications([first(plot=plot)])) == 1


def test_a_label_gives_its_way_and_metric() -> None:
    """Catches a metric at a label's end that is taken for part of the way, and the reverse."""
    assert specs.split_label("no wording, nll_tail", "nll") == ("no wording", "nll_tail")
    assert specs.split_label("first 50 by name", "nll") == ("first 50 by name", "nll")
    assert specs.split_label("a, b", "nll") == ("a, b", "nll")


found_specifications = st.lists(
    st.builds(
        lambda model, metric, way, verdict: specs.Specification(
            {"model": model, "dataset": "x", "metric": metric, "way": way}, 0.0, -1.0, 1.0, verdict
        ),
        st.sampled_from("ab"),
        st.sampled_from(["nll", "nll_tail"]),
        st.sampled_from("uvw"),
        st.sampled_from(["supported", "refuted", "inconclusive"]),
    ),
    max_size=12,
    unique_by=lambda each: tuple(each.choices.values()),
)


def assert_hangs_on(found: list[specs.Specification]) -> None:
    """Compare two ways of counting.

    1. `specifications.hangs_on`.
    2. pandas' grouping of the same table.
    """
    table = pd.DataFrame(
        [{**each.choices, "verdict": each.verdict} for each in found],
        columns=[*specs.FACTORS, "verdict"],
    )
    wanted = {}
    for factor in specs.FACTORS:
        others = [name for name in specs.FACTORS if name != factor]
        counts = table.groupby(others).agg({factor: "nunique", "verdict": "nunique"})
        varied = counts[counts[factor] > 1]
        if len(varied):
            wanted[factor] = (int((varied["verdict"] > 1).sum()), len(varied))
    assert specs.hangs_on(found) == wanted


@given(found_specifications)
def test_what_a_verdict_hangs_on(found: list[specs.Specification]) -> None:
    """Catches counts that compare ways which differ in more than one choice, or a group twice."""
    assert_hangs_on(found)


def test_what_a_verdict_hangs_on_twin() -> None:
    """Ways compared across other choices are seen."""

    def all_together(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(specs, "alike_but_for", lambda _, found: [found])

    must_see(all_together, assert_hangs_on, specs.specifications(with_ways()))


def assert_curve_draws_every_way() -> None:
    group = with_ways()
    found = specs.by_value(specs.specifications(group))
    figure = Figure()
    axes = figure.subplots(2, 1)
    specification_curve.draw_estimates(axes[0], found, group[0])
    specification_curve.draw_choices(axes[1], found, specs.levels(found))
    values = [line.get_ydata()[0] for line in axes[0].get_lines() if len(line.get_ydata()) == 1]
    assert values == [each.value for each in found]
    names = [label.get_text() for label in axes[1].get_yticklabels()]
    marks = {
        (int(x), names[int(y)])
        for line in axes[1].get_lines()
        for x, y in line.get_xydata()
        if line.get_marker() == "s"
    }
    varied = ("model", "metric", "way")
    assert marks == {
        (place, each.choices[name]) for place, each in enumerate(found) for name in varied
    }


def test_a_specification_curve_shows_every_way() -> None:
    """Catches an estimate, or a mark of its choices, that is missing or elsewhere."""
    assert_curve_draws_every_way()


def test_a_specification_curve_twin() -> None:
    """A choice that is not marked is seen."""
    levels = specs.levels
    must_see(
        lambda patch: patch.setattr(specs, "levels", lambda found: levels(found)[1:]),
        assert_curve_draws_every_way,
    )


def assert_choices_inert(raw: str) -> None:
    def shown(each: str) -> str:
        rows = [
            {"label": f"{each}{index}", "value": 0.1, "low": 0.0, "high": 0.2, "judged": False}
            for index in range(2)
        ]
        judgement = first(plot={"kind": "specifications", "unit": "d", "rows": rows})
        judgement = dataclasses.replace(judgement, cell=Cell(f"x{each}", "y", "nll", "float32"))
        groups = [[judgement]]
        facets = Facets.of(topics(groups[0]))
        return page.choices(groups) + matrix.section(groups[0], groups, facets)

    hostile = shown(raw)
    assert Seen(outside_drawings(hostile)).names == Seen(outside_drawings(shown("y"))).names
    assert_drawings_inert(hostile)
    assert_nothing_active(hostile)


def test_hostile_names_do_not_change_choices_and_matrix() -> None:
    """Catches a name of a model or a way that is more than text."""
    assert_choices_inert(HOSTILE)


@pytest.mark.parametrize("option", [{"autoescape": False}, {"finalize": lambda value: value}])
def test_hostile_names_twin(option: dict[str, Any]) -> None:
    """Without escaping, or without making inert, they do more and are seen."""
    must_see(
        lambda patch: patch.setattr(
            templates, "ENVIRONMENT", templates.ENVIRONMENT.overlay(**option)
        ),
        assert_choices_inert,
        "<b>\u202e",
    )


# --- room --------------------------------------------------------------------------------------


def with_pictures() -> list[Judgement]:
    return [j for j in invented.judgements() if j.plot["kind"] != "none"]


def assert_keeps_to_its_room() -> None:
    judgements = with_pictures()
    shown = page.page(judgements, [], {}, {}).split('<h2 id="kv-claims">')[1]
    groups = by_claim(judgements)
    drawn = shown.count('class="kv-figure"')
    assert len(groups) <= drawn < len(judgements)
    assert f"The pictures of {len(judgements) - drawn} cells are left out" in shown
    blocks = shown.split('<details class="kv-claim"')[1:]
    assert all('class="kv-figure"' in block for block in blocks)


def test_a_page_keeps_to_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that grows too large, a claim without any picture, or silence about it."""
    whole = len(page.page(with_pictures(), [], {}, {}))
    monkeypatch.setattr(page, "MAX_CHARACTERS", whole - 80_000)
    assert_keeps_to_its_room()


def test_a_page_keeps_to_its_room_twin() -> None:
    """With room for all none is left out, so the check fails."""
    with pytest.raises(AssertionError):
        assert_keeps_to_its_room()
