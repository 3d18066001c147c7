"""The page a reader opens: HTML fragments made from judgements, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from kvcore.verdict import Judgement
from reports import choices, figures, matrix
from reports.elements import badge, table, value
from reports.forest import forest
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
ROOM = 2_300_000
"""Characters of the report proper; with the table of tests a page has to stay below 3 MB."""
_WORDS = 3_000  # characters about one judgement, without its pictures
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
    before = [_forests(judgements), matrix.section(judgements, groups) if judgements else "",
              choices.section(groups)]
    after = [_explained(explanations), _provenance(judgements, provenance, environment)]
    room = ROOM - sum(map(len, (*before, *after))) - _WORDS * len(judgements)
    body = "\n".join([*before, _claims(groups, room), *after,
                      '<h2 id="kv-tests">Every test</h2>'])
    return f'<main class="kv">\n{_headline(judgements, groups, body)}\n{body}\n</main>'


def finish(page: str) -> str:
    """Return a page by pytest-html with what its head lacks: language, viewport, our style."""
    style = _CSS.read_text(encoding="utf-8")
    return (page.replace("<html>", '<html lang="en">', 1)
            .replace("<head>", f"<head>{_HEAD}", 1)
            .replace("</head>", f"<style>{style}</style></head>", 1))


Groups = Sequence[Sequence[Judgement]]


# --- headline ----------------------------------------------------------------------------------


def _headline(judgements: Sequence[Judgement], groups: Groups, body: str) -> str:
    if not judgements:
        return '<p class="kv-none">No claim was judged in this run.</p>'
    models = {j.cell.model for j in judgements}
    datasets = {j.cell.dataset for j in judgements}
    tiles = "".join(
        f'<li class="kv-tile kv-{look.word}"><b>{count}</b> {look.symbol}&nbsp;{look.word}</li>'
        for look, count in zip(LOOKS.values(), counts(judgements).values(), strict=True)
    )
    links = "".join(f'<a href="#kv-{anchor}">{title}</a>' for anchor, title in _SECTIONS
                    if f'<h2 id="kv-{anchor}">' in body)
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
    ("choices", "Choices"),
    ("claims", "Claims"),
    ("conditions", "Conditions"),
    ("provenance", "Provenance"),
    ("tests", "Every test"),
)


def _plural(count: int, noun: str) -> str:
    return f"{count}&nbsp;{noun}{'' if count == 1 else 's'}"


# --- forest ------------------------------------------------------------------------------------


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
        f'<div class="kv-wide">{forest(judgements)}</div>'
        f'<div class="kv-narrow">{forest(judgements, narrow=True)}</div></figure>'
    )


# --- one block a claim -------------------------------------------------------------------------


def _claims(groups: Groups, room: int) -> str:
    shown = _pictures(groups, room)
    missing = sum(map(len, groups)) - len(shown)
    said = (f'<p class="kv-note">The pictures of {missing:,} cells are left out to keep the page '
            "small: run fewer models or datasets at once to see them.</p>") if missing else ""
    blocks = "\n".join(_claim(index, group, [shown.get((index, at), "") for at in
                                            range(len(group))])
                       for index, group in enumerate(groups))
    return f'<h2 id="kv-claims">Claims</h2>{said}\n{blocks}'


def _pictures(groups: Groups, room: int) -> dict[tuple[int, int], str]:
    """Draw the first cell of every claim, then the second, ... as long as characters are left.

    Returns (number of the claim, number of the cell) to what is shown there, which may be "".
    """
    places = sorted(((index, at) for index, group in enumerate(groups) for at in
                     range(len(group))), key=lambda place: place[1])
    shown: dict[tuple[int, int], str] = {}
    for index, at in places:
        picture = figures.plot(groups[index][at])
        room -= len(picture)
        if room < 0:
            break
        shown[index, at] = picture
    return shown


def _claim(index: int, group: Sequence[Judgement], pictures: Sequence[str]) -> str:
    claim = group[0].claim
    return (
        f'<section class="kv-claim" id="kv-claim-{index}"><h3>{markup(claim.statement)}</h3>'
        f'<p class="kv-meta"><code>{markup(claim.id)}</code> version {claim.version} · '
        f"source: {markup(claim.source)} · a refutation counts from {claim.min_n:,} samples on</p>"
        f"<p>{markup(prediction_words(claim.prediction))}</p>"
        + table(_CELL_HEAD, [_cell_row(j) for j in group], "kv-cells")
        + _plots(group, pictures)
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


def _plots(group: Sequence[Judgement], pictures: Sequence[str]) -> str:
    """Return the pictures of every cell, and once what each kind of them shows."""
    drawn = [(j, shown) for j, shown in zip(group, pictures, strict=True) if shown]
    if not drawn:
        return ""
    pictures = "".join(
        f'<figure class="kv-breadth-{figures.breadth(j) or "small"}"><figcaption>'
        f"<b>{markup(cell_words(j))}</b></figcaption>{shown}</figure>" for j, shown in drawn)
    captions = dict.fromkeys(caption for j, _ in drawn for caption in figures.captions(j))
    return (f'<div class="kv-plots">{pictures}</div>'
            f'<p class="kv-note kv-small">{markup(" ".join(captions))}</p>')


def _details(group: Sequence[Judgement]) -> str:
    """Return the secondary numbers of every cell, folded away: a row a number, a column a cell."""
    names = list(dict.fromkeys(name for j in group for name in j.details))
    head = ["", *(escape(cell_words(j)) for j in group)]
    rows = [[markup(name), *(value(j.details.get(name), 4) for j in group)] for name in names]
    rows += [
        ["interval", *(markup(j.estimate.method) for j in group)],
        ["conditions", *(markup(", ".join(j.conditions)) for j in group)],
        ["seed", *(str(j.seed) for j in group)],
        ["test outcome", *(markup(j.outcome) for j in group)],
    ]
    return f"<details><summary>More numbers</summary>{table(head, rows)}</details>"


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
    return f"<details><summary>Rows behind each estimate</summary>{table(head, rows)}</details>"
