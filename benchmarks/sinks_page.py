"""Writes the figures and the pictures of `docs/sinks.md` from the shipped rows; no model is loaded.

``python -m benchmarks --part sinks``. Every row of a cell counts here, also those behind the look
at which a claim stopped, so intervals are those of a fixed design and no verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import slot_picture
from claims.harness.cells import OPT_IN_MODELS
from claims.harness.estimands.sinks import attention_plot, lacks_sink
from kvcore.analysis import Estimate, effect_size, mean_difference
from kvcore.errors import MissingResource
from kvcore.io import write_atomically
from kvcore.measurements.collect import stored_rows
from kvcore.measurements.registry import kind_of
from kvcore.measurements.sink_diagnosis import SEEN, SHARES, in_words, place_of
from kvcore.models.registry import row_name
from kvcore.store.agreement import tolerance
from reports.plots.bars import draw_on
from reports.plots.svg import standalone, style, to_svg
from reports.text import number

STORE = Path("reports/reference")
DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE, SLOTS = DOCS / "sinks.md", DOCS / "sinks.svg", DOCS / "slots.svg"
MODELS = ("smollm2-135m", *OPT_IN_MODELS)
DATASET, DTYPE = "docstrings", "float32"
ELSEWHERE = "qwen2.5-coder-0.5b"  # the model whose sink is not BOS
SECOND, WITHOUT_BOS = "service_manuals", "without BOS"
BARS = ("bare", f"{SEEN}(random)", "random", "keep_sink(random)")
PREFIXES = ("random", "static_fact", "oracle")
BEGIN, END = "<!-- figures of the shipped rows -->", "<!-- end of figures -->"
SLOTS_IN_WORDS = """\
The same slot by slot: BOS and the first eight tokens of prefix and document; shares of all other
slots are written beside. Where the sink is kept, it is the one slot of the prefix that is left."""
Cell = Mapping[str, pd.DataFrame]
"""Measured rows of a model by condition, indexed by sample."""


def write(store: Path = STORE) -> None:
    """Write the pictures, and the figures into the page."""
    cells = {model: cell(model, store) for model in MODELS}
    more = further_cells(store)
    write_atomically(PICTURE, picture(cells) + "\n")
    write_atomically(SLOTS, slot_picture.picture(cells, BARS) + "\n")
    write_atomically(PAGE, with_figures(PAGE.read_text(encoding="utf-8"), figures(cells, more)))


def further_cells(store: Path) -> Mapping[str, Cell]:
    """Return the rows of the model whose sink is not BOS on other data, and without BOS."""
    return {
        SECOND: cell(ELSEWHERE, store, SECOND),
        WITHOUT_BOS: cell(row_name(ELSEWHERE, None, "none"), store),
    }


def cell(model: str, store: Path, dataset: str = DATASET) -> Cell:
    """Return the rows of a model; none where nothing is stored of it."""
    try:
        rows = stored_rows(
            kind_of("attention_sinks"),
            model=model,
            dtype=DTYPE,
            dataset=dataset,
            seed=0,
            store=store,
        ).rows
    except MissingResource:
        return {}
    usable = rows[rows["status"] == "ok"]
    return {str(name): own.set_index("sample").sort_index() for name, own in usable.groupby("need")}


def with_figures(page: str, block: str) -> str:
    """Return the page with what stands between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


# --- the picture ---------------------------------------------------------------------------------


def picture(cells: Mapping[str, Cell]) -> str:
    """Return the picture of all models, a panel each, as an SVG file that stands alone."""
    with style("sinks"):
        figure = Figure(figsize=(6.6, 0.6 + 2.1 * len(cells)), layout="constrained")
        for axes, (model, own) in zip(
            figure.subplots(len(cells), 1, squeeze=False)[:, 0], cells.items(), strict=True
        ):
            data = plot_of(own)
            handles = draw_on(axes, data["parts"], data["bars"], data["x_label"])
            axes.set_title(model, loc="left", fontsize=9)
        figure.legend(handles, SHARES, loc="outside lower left", ncols=3, handlelength=1.6)
        return standalone(to_svg(figure, alternative(cells)))


def plot_of(own: Cell) -> dict[str, Any]:
    """Return what a model's panel shows."""
    return attention_plot({name: own.get(name) for name in BARS})


def alternative(cells: Mapping[str, Cell]) -> str:
    """Return what the picture shows, in a line."""
    shown = "; ".join(f"{model}: {in_words(joined(own))}" for model, own in cells.items())
    return f"Attention of answers by part of the cache. {shown}"


def joined(own: Cell) -> pd.DataFrame:
    """Return all rows of a model as one table."""
    return pd.concat(own.values()) if own else pd.DataFrame({"status": [], "condition": []})


# --- the figures ---------------------------------------------------------------------------------


def figures(cells: Mapping[str, Cell], more: Mapping[str, Cell]) -> str:
    """Return the page's tables of figures, and the pictures with their numbers, as Markdown.

    ``more``: the cells of `further_cells`.
    """
    heads = ["docstrings, float32", *cells]
    places = [
        ["in words", *(in_words(joined(own)) for own in cells.values())],
        *(
            [words, *(place_words(own.get(name)) for own in cells.values())]
            for words, name in (("bare", "bare"), ("primed, random prefix in sight", BARS[1]))
        ),
    ]
    effects = [
        ["BOS's share, bare", *(share(own, "bare", "bos_share") for own in cells.values())],
        ["sink's share, primed", *(share(own, BARS[1], "sink_share") for own in cells.values())],
    ]
    for prefix in PREFIXES:
        for baseline, name in (
            ("bare", prefix),
            (prefix, f"keep_sink({prefix})"),
            (prefix, f"keep_first({prefix},4)"),
        ):
            label = f"`{name}` against `{baseline}`"
            effects.append([label, *(benefit(own, baseline, name) for own in cells.values())])
    without = []
    for name in ("bare", *PREFIXES):
        label = f"samples without a sink, `{name}`"
        without.append([label, *(without_sink(own.get(name)) for own in cells.values())])
    in_sight = "full_context(static_fact)"
    label = f"`{in_sight}` against `bare`"
    without.append([label, *(benefit(own, "bare", in_sight) for own in cells.values())])
    for prefix in PREFIXES:
        first, rest = (f"values_positions({prefix},{part})" for part in ("0,0.25", "0.25,1"))
        for name in (first, rest):
            label = f"`{name}` against `bare`"
            without.append([label, *(benefit(own, "bare", name) for own in cells.values())])
    shares = []
    for model, own in cells.items():
        data = plot_of(own)
        for bar in data["bars"]:
            numbers = [number(x, 3) for x in bar["y"]] or [
                bar["missing"],
                *[""] * (len(SHARES) - 1),
            ]
            shares.append([model, bar["label"], *numbers])
    elsewhere = cells.get(ELSEWHERE, {})
    return "\n\n".join(
        (
            table(heads, places),
            table(heads, effects),
            table(heads, without),
            by_sink({DATASET: elsewhere, SECOND: more.get(SECOND, {})}),
            without_bos({"with BOS": elsewhere, WITHOUT_BOS: more.get(WITHOUT_BOS, {})}),
            f"![{alternative(cells)}](sinks.svg)",
            table(["model", "cache", *SHARES], shares),
            SLOTS_IN_WORDS,
            f"![{slot_picture.alternative(cells, BARS)}](slots.svg)",
        )
    )


def by_sink(by_data: Mapping[str, Cell]) -> str:
    """Return the mean benefits of samples whose bare pass has no sink beside those of the others.

    In nats per answer token, with intervals that leave out whole clusters.
    """
    columns = [(data, none) for data in by_data for none in (True, False)]
    head = [
        f"{ELSEWHERE}, nats/token",
        *(f"{data}: {'no sink' if none else 'a sink'} in the bare pass" for data, none in columns),
    ]
    rows = []
    for name in ("bare", "static_fact", "keep_sink(random)", "keep_sink(oracle)"):
        label = "NLL, `bare`" if name == "bare" else f"benefit of `{name}` over `bare`"
        rows.append([label, *(mean_by_sink(by_data[data], name, none) for data, none in columns)])
    return table(head, rows)


def mean_by_sink(own: Cell, name: str, none: bool) -> str:
    """Return the mean NLL of bare, or benefit over it, where its pass has no sink or has one."""
    if not {"bare", name} <= own.keys():
        return "no rows stored yet"
    bare = own["bare"]
    common = bare.index.intersection(own[name].index)
    chosen = common[(lacks_sink(bare) == none).loc[common]]
    nll = own[name].loc[chosen, "nll"]
    values = nll if name == "bare" else bare.loc[chosen, "nll"] - nll
    mean = mean_difference(values.to_numpy(float), list(bare.loc[chosen, "cluster"]))
    return spelled(mean, sign=name != "bare")


def without_bos(by_begin: Mapping[str, Cell]) -> str:
    """Return where the sink is and what losing it does, with caches that begin with BOS or not."""
    head = [f"{ELSEWHERE}, {DATASET}", *by_begin]
    rows = [["bare", *(place_words(own.get("bare")) for own in by_begin.values())]]
    for prefix in PREFIXES:
        kept = f"keep_sink({prefix})"
        for baseline, name in (("bare", prefix), (prefix, kept), ("bare", kept)):
            label = f"`{name}` against `{baseline}`"
            rows.append([label, *(benefit(own, baseline, name) for own in by_begin.values())])
    return table(head, rows)


def place_words(rows: pd.DataFrame | None) -> str:
    """Return where most samples have the sink, and what it gets there."""
    if rows is None:
        return "no rows stored yet"
    place = place_of(rows)
    return (
        f"{place.part}, {place.held} of {place.samples} (most often slot {place.slot}); sink "
        f"{number(place.sink_share, 3)}, BOS {number(place.bos_share, 3)}; norm "
        f"{number(place.norm, 0)} times the median"
    )


def without_sink(rows: pd.DataFrame | None) -> str:
    """Return how many samples have no hidden state twice as long as the median one."""
    if rows is None:
        return "no rows stored yet"
    return f"{int(lacks_sink(rows).sum())} of {len(rows)}"


def share(own: Cell, name: str, column: str) -> str:
    """Return the mean share under a condition with its interval and n."""
    rows = own.get(name)
    if rows is None:
        return "no rows stored yet"
    return spelled(mean_difference(rows[column].to_numpy(float), list(rows["cluster"])), sign=False)


def benefit(own: Cell, baseline: str, name: str) -> str:
    """Return d of the benefit of a condition over another with its interval and n."""
    if not {baseline, name} <= own.keys():
        return "no rows stored yet"
    before, after = own[baseline], own[name]
    common = before.index.intersection(after.index)
    gain = np.asarray(before.loc[common, "nll"] - after.loc[common, "nll"], dtype=float)
    scale = np.maximum(1.0, before.loc[common, "nll"].to_numpy(float))
    if (np.abs(gain) <= tolerance("float32") * scale).all():  # what measuring again moves
        return f"no change, n = {len(gain):,}"
    return spelled(effect_size(gain, list(before.loc[common, "cluster"])), sign=True)


def spelled(e: Estimate, *, sign: bool) -> str:
    """Return an estimate, its interval and its n."""
    value, low, high = (number(x, 3, sign=sign) for x in (e.value, e.ci_low, e.ci_high))
    return f"{value} [{low}, {high}], n = {e.n:,}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
