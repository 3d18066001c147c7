"""The page a reader opens: HTML fragments made from judgements, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from kvcore.errors import KvError
from kvcore.verdict import Judgement
from reports import multiple, words
from reports.grouping import Groups, by_claim, grouped
from reports.html import matrix, pictures
from reports.html.templates import FOLDER, render
from reports.plots.forest import forest
from reports.plots.masks import mask_svg
from reports.plots.specification_curve import specification_curve
from reports.specifications import (
    Specification,
    by_value,
    further_ways,
    hangs_on,
    specifications,
)

Explanation = Mapping[str, Any]
"""``condition``, ``text``, ``masks`` (each with ``title``, ``mask``: queries × slots, 0 / 1, and
``slots``: a name a column) and optionally ``model``."""

MAX_CHARACTERS = 2_300_000
"""Of the report proper; with the table of tests a page has to stay below 3 MB."""
_TEXT_CHARACTERS = 3_000  # about one judgement, without its pictures
_SECTION_TITLES = {
    "forest": "All estimates",
    "matrix": "Verdicts",
    "choices": "Choices",
    "claims": "Claims",
    "conditions": "Conditions",
    "provenance": "Provenance",
}


def page(
    judgements: Sequence[Judgement],
    explanations: Sequence[Explanation],
    provenance: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    """Return the whole report as one HTML fragment, pictures inside; `document` adds the style.

    Every text from outside is inert, escaped and isolated. The provenance may hold ``command``
    (str), ``configuration`` (mapping) and ``cells`` (a mapping for each model and dataset).
    """
    groups = by_claim(judgements)
    units = grouped(judgements, lambda judgement: judgement.estimate.unit)
    explained = render("conditions.html", explanations=explanations, mask_svg=mask_svg)
    facts = [*provenance.get("cells", ()), provenance.get("configuration", {}), environment]
    sections = {
        "forest": render("forest.html", units=units, forest=forest),
        "matrix": matrix.section(judgements, groups) if judgements else "",
        "choices": choices(groups),
        "claims": "",
        "conditions": explained if explanations else "",
        "provenance": render(
            "provenance.html",
            judgements=judgements,
            facts=facts,
            command=provenance.get("command"),
            floors=words.floor_words(judgements),
        ),
    }
    left = MAX_CHARACTERS - _TEXT_CHARACTERS * len(judgements)
    qs = multiple.primary_q_values(judgements)
    sections["claims"] = _claims(groups, qs, left - sum(map(len, sections.values())))
    return render(
        "page.html",
        sections=sections,
        titles=_SECTION_TITLES,
        counts=words.counts(judgements),
        standing=multiple.standing(judgements).sentence,
        hanging=sum(judgement.hangs_on_method for judgement in judgements),
        claims=len(groups),
        verdicts=len(judgements),
        models=len({j.cell.model for j in judgements}),
        datasets=len({j.cell.dataset for j in judgements}),
    )


def document(html: str) -> str:
    """Return a page by pytest-html with what its head lacks: language, viewport, our style.

    Raises KvError for a text without a head, which is no page by pytest-html.
    """
    parts = re.split(r"<[/]?head>", html, maxsplit=2)
    if len(parts) != 3:
        raise KvError(
            "the page by pytest-html must have one head; got none, so this version of "
            "pytest-html writes another page: install the version of constraints.txt."
        )
    _, head, rest = map(Markup, parts)
    style = Markup((FOLDER / "report.css").read_text(encoding="utf-8"))
    return render("document.html", head=head, rest=rest, style=style)


def choices(groups: Groups) -> str:
    """Return the part of the page on choices, or "" where nothing was measured in two ways."""
    ways = [by_value(specifications(group)) for group in groups]
    cards = [_card(index, groups[index], each) for index, each in enumerate(ways) if len(each) > 1]
    return render("choices.html", cards=cards) if cards else ""


def _card(index: int, group: Sequence[Judgement], ways: Sequence[Specification]) -> dict[str, Any]:
    # Where only cells differ, the forest plot has drawn them.
    varied = any(further_ways(judgement) for judgement in group)
    return {
        "index": index,
        "claim": group[0].claim,
        "unit": group[0].estimate.unit,
        "verdicts": [way.verdict for way in ways],
        "low": ways[0].value,
        "high": ways[-1].value,
        "curve": specification_curve(group) if varied else "",
        "hangs_on": hangs_on(ways),
    }


# --- one block a claim -------------------------------------------------------------------------


def _claims(groups: Groups, qs: Mapping[multiple.Key, float], characters: int) -> str:
    drawings = _drawings(groups, characters)
    claims = [
        _claim([(j, drawings.get((index, at), "")) for at, j in enumerate(group)], qs)
        for index, group in enumerate(groups)
    ]
    left_out = sum(map(len, groups)) - len(drawings)
    return render("claims.html", claims=claims, pictures_left_out=left_out)


def _drawings(groups: Groups, characters: int) -> dict[tuple[int, int], str]:
    """Draw the first cell of every claim, then the second, ... as long as characters are left.

    Returns (number of the claim, number of the cell) to what is shown there, which may be "".
    """
    places = [(index, at) for index, group in enumerate(groups) for at in range(len(group))]
    drawings: dict[tuple[int, int], str] = {}
    for index, at in sorted(places, key=itemgetter(1)):
        drawing = pictures.picture(groups[index][at])
        characters -= len(drawing)
        if characters < 0:
            break
        drawings[index, at] = drawing
    return drawings


def _claim(
    cells: Sequence[tuple[Judgement, str]], qs: Mapping[multiple.Key, float]
) -> dict[str, Any]:
    group = [j for j, _ in cells]
    drawn = [(j, drawing) for j, drawing in cells if drawing]
    captions = dict.fromkeys(caption for j, _ in drawn for caption in pictures.captions(j))
    return {
        "claim": group[0].claim,
        "judgements": group,
        "pictures": [
            {"width": pictures.width(j), "cell": words.cell_words(j), "drawing": drawing}
            for j, drawing in drawn
        ],
        "captions": " ".join(captions),
        "details_head": ["", *map(words.cell_words, group)],
        "details": _details(group, qs),
    }


def _details(group: Sequence[Judgement], qs: Mapping[multiple.Key, float]) -> list[list[object]]:
    """Return the secondary numbers of every cell: a row a number, a column a cell."""
    q = [
        words.probability_words(qs[multiple.key_of(j)]) if j.primary else "not the primary metric"
        for j in group
    ]
    names = dict.fromkeys(name for j in group for name in j.details)
    numbers: list[list[object]] = [[name, *(j.details.get(name) for j in group)] for name in names]
    return [
        ["outcome", *(j.words for j in group)],
        ["what would settle it", *(map(words.planning_words, group))],
        *numbers,
        ["p value of the verdict", *(words.probability_words(j.p) for j in group)],
        ["q-value, over all primary verdicts", *q],
        ["interval", *(j.estimate.method for j in group)],
        ["by the other method", *(map(words.beside_words, group))],
        ["clusters that tell of it", *(map(words.cluster_words, group))],
        ["conditions", *(", ".join(j.conditions) for j in group)],
        ["seed", *(str(j.seed) for j in group)],
        ["test outcome", *(j.outcome for j in group)],
    ]
