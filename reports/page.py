"""The page a reader opens: HTML fragments made from judgements, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from kvcore.verdict import Judgement
from reports import figures
from reports.masks import mask_svg
from reports.order import by_claim
from reports.text import escape, markup, number
from reports.words import (
    LOOKS,
    cell_words,
    counts,
    interval_words,
    prediction_words,
    published_words,
    required_words,
    unit_words,
)

Explanation = Mapping[str, Any]
"""``condition``, ``text``, ``masks`` (each with ``title``, ``mask``: queries × slots, 0 / 1, and
``slots``: a name a column) and optionally ``model``."""

TITLE = "Claims about primed KV caches"
_CSS = Path(__file__).with_name("report.css")
_HEAD = (
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
    '<link rel="icon" href="data:,"/>'
)


def render(
    judgements: Sequence[Judgement],
    explanations: Sequence[Explanation],
    provenance: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    """Return the whole report as one HTML fragment, pictures inside.

    Parameters
    ----------
    judgements : sequence of Judgement
        In the order in which they are to be read; may be empty.
    explanations : sequence of mappings
        Conditions on a real sample: see `Explanation`.
    provenance : mapping
        ``command`` (str), ``configuration`` (mapping) and ``cells`` (sequence of mappings, one
        for each model and dataset); each of them optional.
    environment : mapping
        Versions, platform and commit, as `reports.results.environment` returns them.

    Returns
    -------
    str
        Every text from outside is escaped and isolated; `finish` adds the style.
    """
    groups = by_claim(judgements)
    return "\n".join([
        '<main class="kv">',
        _headline(judgements, groups),
        _forests(judgements),
        _matrix(judgements, groups),
        _claims(groups),
        _explained(explanations),
        _provenance(judgements, provenance, environment),
        '<h2 id="kv-tests">Every test</h2>',
        "</main>",
    ])


def finish(page: str) -> str:
    """Return a page by pytest-html with what its head lacks: language, viewport, our style."""
    style = _CSS.read_text(encoding="utf-8")
    return (page.replace("<html>", '<html lang="en">', 1)
            .replace("<head>", f"<head>{_HEAD}", 1)
            .replace("</head>", f"<style>{style}</style></head>", 1))


Groups = Sequence[Sequence[Judgement]]


def badge(verdict: str) -> str:
    """Return a verdict as symbol and word in its colour."""
    look = LOOKS[verdict]
    return f'<span class="kv-badge kv-{look.word}">{look.symbol}&nbsp;{look.word}</span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table of ready HTML cells; on a phone each row becomes a card with labels."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f'<td data-label="{title}"><div>{cell}</div></td>'
                         for title, cell in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (f'<div class="kv-scroll"><table class="kv-table {kind}"><thead><tr>{titles}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


# --- headline ----------------------------------------------------------------------------------


def _headline(judgements: Sequence[Judgement], groups: Groups) -> str:
    if not judgements:
        return '<p class="kv-none">No claim was judged in this run.</p>'
    models = {j.cell.model for j in judgements}
    datasets = {j.cell.dataset for j in judgements}
    tiles = "".join(
        f'<li class="kv-tile kv-{look.word}"><b>{count}</b> {look.symbol}&nbsp;{look.word}</li>'
        for look, count in zip(LOOKS.values(), counts(judgements).values(), strict=True)
    )
    links = "".join(f'<a href="#kv-{anchor}">{title}</a>' for anchor, title in _SECTIONS)
    return (
        f'<p class="kv-lead">{_plural(len(groups), "claim")}, '
        f'{_plural(len(judgements), "verdict")}, on {_plural(len(models), "model")} and '
        f'{_plural(len(datasets), "dataset")}.</p>'
        f'<ul class="kv-tiles">{tiles}</ul>'
        '<p class="kv-note">A claim is <b>supported</b> or <b>refuted</b> when its whole '
        "confidence interval lies in the region written down for it before measuring; otherwise "
        "it is <b>inconclusive</b>, and the report says how many samples would settle it.</p>"
        f'<nav class="kv-nav">{links}</nav>'
    )


_SECTIONS = (
    ("forest", "All estimates"),
    ("matrix", "Verdicts"),
    ("claims", "Claims"),
    ("conditions", "Conditions"),
    ("provenance", "Provenance"),
    ("tests", "Every test"),
)


def _plural(count: int, noun: str) -> str:
    return f"{count}&nbsp;{noun}{'' if count == 1 else 's'}"


# --- forest and matrix -------------------------------------------------------------------------


def _forests(judgements: Sequence[Judgement]) -> str:
    units = list(dict.fromkeys(j.estimate.unit for j in judgements))
    blocks = "".join(
        _forest(unit, [j for j in judgements if j.estimate.unit == unit]) for unit in units
    )
    key = "".join(
        f'<span class="kv-{look.word}">{_MARKS[look.marker, look.filled]}&nbsp;{look.word}</span>'
        for look in LOOKS.values()
    )
    return (
        '<h2 id="kv-forest">All estimates</h2>'
        f'<p class="kv-key">{key}<span>◇&nbsp;published value</span>'
        '<span><i class="kv-band"></i>&nbsp;where the claim is supported</span></p>' + blocks
    )


_MARKS = {("o", True): "●", ("s", True): "■", ("o", False): "○"}


def _forest(unit: str, judgements: Sequence[Judgement]) -> str:
    return (
        f'<figure class="kv-forest"><figcaption>{markup(unit_words(unit))}</figcaption>'
        f'<div class="kv-wide">{figures.forest(judgements)}</div>'
        f'<div class="kv-narrow">{figures.forest(judgements, narrow=True)}</div></figure>'
    )


def _matrix(judgements: Sequence[Judgement], groups: Groups) -> str:
    cells = list(dict.fromkeys(cell_words(j) for j in judgements))
    rows = []
    for index, group in enumerate(groups):
        found = {cell_words(j): _mark(j) for j in group}
        rows.append([f'<a href="#kv-claim-{index}">{markup(group[0].claim.id)}</a>',
                     *(found.get(cell, '<span class="kv-absent">–</span>') for cell in cells)])
    head = ["claim", *(escape(cell) for cell in cells)]
    return f'<h2 id="kv-matrix">Verdicts</h2>{_table(head, rows, "kv-matrix")}'


def _mark(judgement: Judgement) -> str:
    value = number(judgement.estimate.value, 2, sign=judgement.estimate.unit != "proportion")
    return f"{badge(judgement.verdict)} <small>{value}</small>"


# --- one block a claim -------------------------------------------------------------------------


def _claims(groups: Groups) -> str:
    blocks = "\n".join(_claim(index, group) for index, group in enumerate(groups))
    return f'<h2 id="kv-claims">Claims</h2>\n{blocks}'


def _claim(index: int, group: Sequence[Judgement]) -> str:
    claim = group[0].claim
    return (
        f'<section class="kv-claim" id="kv-claim-{index}"><h3>{markup(claim.statement)}</h3>'
        f'<p class="kv-meta"><code>{markup(claim.id)}</code> version {claim.version} · '
        f"source: {markup(claim.source)} · a refutation counts from {claim.min_n:,} samples on</p>"
        f"<p>{markup(prediction_words(claim.prediction))}</p>"
        + _table(_CELL_HEAD, [_cell_row(j) for j in group], "kv-cells")
        + _plots(group)
        + _details(group) + "</section>"
    )


_CELL_HEAD = ("cell", "verdict", "estimate", "n", "n needed", "noise floor", "published")


def _cell_row(judgement: Judgement) -> Sequence[str]:
    estimate = judgement.estimate
    level = f"{estimate.confidence:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    grouped = f"in {estimate.clusters:,} clusters" if estimate.clusters != estimate.n else ""
    ledger = f"<br/><small>{markup(judgement.ledger)}</small>" if judgement.ledger else ""
    nats = "" if judgement.floor_nats is None or estimate.unit == "nats/token" else (
        f'<small class="kv-line">{number(judgement.floor_nats, 4)} nats</small>')
    return (
        markup(cell_words(judgement)),
        badge(judgement.verdict) + ledger,
        f'<b class="kv-number">{escape(interval_words(estimate))}</b>'
        f'<small class="kv-line">{markup(estimate.unit)}, {level} interval</small>',
        f'{estimate.n:,}<small class="kv-line">{grouped}</small>',
        required_words(judgement),
        f"{number(judgement.floor, 4)}{nats}",
        markup(published_words(judgement)),
    )


def _plots(group: Sequence[Judgement]) -> str:
    """Return the picture of every cell, and once what such a picture shows."""
    drawn = [(cell_words(j), svg) for j in group if (svg := figures.plot(j))]
    if not drawn:
        return ""
    pictures = "".join(f"<figure><figcaption><b>{markup(cell)}</b></figcaption>{svg}</figure>"
                       for cell, svg in drawn)
    captions = dict.fromkeys(filter(None, map(figures.caption, group)))
    return (f'<div class="kv-plots">{pictures}</div>'
            f'<p class="kv-note kv-small">{markup(" ".join(captions))}</p>')


def _details(group: Sequence[Judgement]) -> str:
    """Return the secondary numbers of every cell, folded away: a row a number, a column a cell."""
    names = list(dict.fromkeys(name for j in group for name in j.details))
    head = ["", *(escape(cell_words(j)) for j in group)]
    rows = [[markup(name), *(_detail(j.details.get(name)) for j in group)] for name in names]
    rows += [
        ["interval", *(markup(j.estimate.method) for j in group)],
        ["conditions", *(markup(", ".join(j.conditions)) for j in group)],
        ["seed", *(str(j.seed) for j in group)],
        ["test outcome", *(markup(j.outcome) for j in group)],
    ]
    return f"<details><summary>More numbers</summary>{_table(head, rows)}</details>"


def _detail(value: float | str | None) -> str:
    if isinstance(value, float):
        return number(value, 4)
    return "–" if value is None else markup(value)


# --- conditions --------------------------------------------------------------------------------


def _explained(explanations: Sequence[Explanation]) -> str:
    if not explanations:
        return ""
    blocks = "\n".join(_explanation(explanation) for explanation in explanations)
    return (
        '<h2 id="kv-conditions">Conditions, on a real sample</h2><p class="kv-note">In a mask '
        "picture each row is a token that reads and each column a slot of the cache; dark: it may "
        f"attend.</p>\n{blocks}"
    )


def _explanation(explanation: Explanation) -> str:
    condition = explanation["condition"]
    model = explanation.get("model")
    place = f' <small>on {markup(model)}</small>' if model else ""
    masks = "".join(
        f"<figure>{mask_svg(one['mask'], one['slots'], one['title'])}"
        f"<figcaption>{markup(one['title'])}</figcaption></figure>"
        for one in explanation.get("masks", ()))
    return (
        f'<section class="kv-condition"><h3><code>{markup(condition)}</code>{place}</h3>'
        f'<div class="kv-pair"><div class="kv-masks">{masks}</div>'
        f'<pre>{markup(explanation["text"])}</pre></div>'
        "</section>"
    )


# --- provenance --------------------------------------------------------------------------------


def _provenance(
    judgements: Sequence[Judgement], provenance: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    command = provenance.get("command")
    again = f"<p>Run it again:</p><pre>{markup(command)}</pre>" if command else ""
    cells = "".join(_pairs(cell) for cell in provenance.get("cells", ()))
    options = _pairs(provenance.get("configuration", {}))
    return (
        f'<h2 id="kv-provenance">Provenance</h2>{again}<div class="kv-facts">{cells}{options}'
        f"{_pairs(environment)}</div>{_rows(judgements)}"
    )


def _pairs(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    lines = "".join(f"<dt>{markup(name)}</dt><dd>{_fact(value)}</dd>"
                    for name, value in facts.items())
    return f"<dl>{lines}</dl>"


def _fact(value: Any) -> str:
    if value is None or value == "" or value == {}:
        return "–"
    if isinstance(value, Mapping):
        return "<br/>".join(f"{markup(name)}: {markup(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "<br/>".join(markup(item) for item in value)
    return markup(value)


def _rows(judgements: Sequence[Judgement]) -> str:
    """Return where the rows behind each number lie and their hash, folded away."""
    if not judgements:
        return ""
    head = ("claim", "cell", "revision", "store", "rows, sha256")
    rows = [
        (markup(j.claim.id), markup(cell_words(j)), f"<code>{markup(j.model_revision)}</code>",
         markup(PurePath(j.store).name), f"<code>{markup(j.rows_hash)}</code>")
        for j in judgements
    ]
    return f"<details><summary>Rows behind each estimate</summary>{_table(head, rows)}</details>"
