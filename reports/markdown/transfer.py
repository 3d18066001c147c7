"""What transfers and what does not, as two Markdown pages written from a run's judgements."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kvcore.io import write_atomically
from kvcore.verdict import Judgement
from reports.folders import LATEST
from reports.markdown import outcomes, priming, sinks
from reports.markdown.places import by_place, on_main_data
from reports.markdown.spelling import counts, interval_text, models_of, percent, render
from reports.markdown.verdicts import verdicts

FOLDER = Path(__file__).parents[1]
PUBLISHED = FOLDER.parent / "claims" / "published.toml"


def transfer(judgements: Sequence[Judgement], published: priming.Published) -> str:
    """Return transfer.md: what holds on all models, what flips, what is small and what is open.

    `published`: the published values, for the table of the priming family.
    """
    models, judged = models_of(judgements), by_place(judgements)
    counted = [j for own in judged.values() for j in on_main_data(own).values()]
    flipped = outcomes.flips(judged)
    controls = {c: own for c, own in judged.items() if outcomes.is_control(own)}
    small = {c: own for c, own in judged.items() if outcomes.is_small(own) and c not in controls}
    on_models = sinks.by_model(judgements)
    return render(
        "transfer.md",
        models=[
            (m, *verdicts_of)
            for m, verdicts_of in zip(models, counts(counted, models), strict=True)
        ],
        sizes={m: _sizes([j for j in judgements if j.cell.model == m]) for m in models},
        several_models=len(outcomes.on_several_models(judged)),
        holds=outcomes.in_common(judged, "supported"),
        fails=outcomes.in_common(judged, "refuted", came_out=True),
        flips=outcomes.section(flipped, outcomes.spread),
        sinks=on_models,
        conclusion=sinks.conclusion(on_models, list(flipped.values())),
        prefixes=sinks.PREFIXES,
        small=outcomes.section(small, len),
        controls=sorted(controls),
        open=outcomes.still_open(judged, models),
        corpora=outcomes.on_other_corpora(judged),
        control=outcomes.CONTROL,
        near=outcomes.NEAR,
        far=outcomes.FAR,
        priming=priming.table(judgements, published),
        interval=interval_text,
        percent=percent,
    )


def _sizes(judgements: Sequence[Judgement]) -> tuple[int, int]:
    """Return the fewest and the most samples of a verdict."""
    sizes = [judgement.estimate.n for judgement in judgements]
    return min(sizes), max(sizes)


def main(folder: Path = FOLDER, published: Path = PUBLISHED) -> int:
    """Write both pages to a folder from its latest results.json; return the exit status."""
    source = folder / "out" / LATEST / "results.json"
    if not source.exists():
        print(
            f"reports.markdown: no {source.name} yet; run `make reference` first.", file=sys.stderr
        )
        return 1
    document = json.loads(source.read_text(encoding="utf-8"))
    judgements = [
        Judgement.from_dict(j | {"plot": {"kind": "none"}}) for j in document["judgements"]
    ]
    text = transfer(judgements, priming.read_published(published))
    write_atomically(folder / "transfer.md", text)
    write_atomically(folder / "verdicts.md", verdicts(judgements))
    print(f"{len(judgements)} verdicts written to transfer.md and verdicts.md")
    return 0
