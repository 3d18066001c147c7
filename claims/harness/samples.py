"""The samples behind a run's verdicts, from its store: rows joined with the texts beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from claims.harness.beside import token_key
from claims.harness.datasets import path_of
from claims.harness.options import Settings
from kvcore.errors import KvError, MissingResource
from kvcore.measurements.collect import stored_rows
from kvcore.measurements.needs import Need
from kvcore.measurements.registry import kind_of
from kvcore.models.registry import row_name
from kvcore.store import texts
from kvcore.verdict import Judgement
from reports.grouping import grouped
from reports.html.samples import Sample, SampleCell

KIND = "answer_nll"
FIRST = ("bare", "random", "oracle")


def sample_cells(judgements: Iterable[Judgement], settings: Settings) -> list[SampleCell]:
    """Return the samples of every model and dataset whose answers a run's verdicts rest on.

    Those whose texts are kept beside the rows; a cell without rows or texts is left out.
    """
    places = grouped(judgements, lambda j: "\x1f".join((j.cell.model, j.cell.dataset)))
    cells = (_cell(own, settings) for own in places.values())
    return [cell for cell in cells if cell is not None and cell.samples]


def _cell(judgements: Sequence[Judgement], settings: Settings) -> SampleCell | None:
    cell = judgements[0].cell
    try:
        collected = stored_rows(
            kind_of(KIND),
            model=row_name(cell.model, settings.quantization),
            dtype=cell.dtype,
            dataset=path_of(cell.dataset),
            seed=settings.seed,
            store=settings.store,
        )
    except (MissingResource, KvError):
        return None
    rows, folder = collected.rows, collected.folder
    rows = rows[(rows["sample_set"] == "samples") & (rows["status"] == "ok")]
    asked = [name for judgement in judgements for name in judgement.conditions]
    names = [name for name in dict.fromkeys((*FIRST, *asked)) if str(Need.read(name)) == name]
    conditions = [name for name in names if (rows["need"] == name).any()]
    if folder is None or not conditions:
        return None
    rows = rows[rows["need"].isin(conditions)]
    return SampleCell(
        cell.model, cell.dataset, tuple(conditions), _samples(rows, conditions, folder)
    )


def _samples(rows: pd.DataFrame, conditions: Sequence[str], folder: Path) -> tuple[Sample, ...]:
    """Return the samples that have a text, with the NLLs of their answer's tokens."""
    by_sample = rows.groupby("sample", sort=True)
    kept = texts.load(folder, rows["sample_hash"])
    ends = texts.load(folder, map(token_key, rows["tokenizer"], rows["sample_hash"]), texts.TOKENS)
    samples = []
    for name, own in by_sample:
        text = next((kept[h] for h in own["sample_hash"] if h in kept), None)
        if text is None:
            continue
        keys = map(token_key, own["tokenizer"], own["sample_hash"])
        split = next((ends[key]["ends"] for key in keys if key in ends), ())
        nlls = dict(zip(own["need"], own["token_nlls"], strict=True))
        measured = (nlls.get(condition, ()) for condition in conditions)
        samples.append(
            Sample(
                id=str(name),
                cluster=str(own["cluster"].iloc[0]),
                query=str(text["query"]),
                passage=str(text["passage"]),
                answer=str(text["answer"]),
                token_ends=tuple(split),
                nlls=tuple(tuple(map(float, values)) for values in measured),
            )
        )
    return tuple(samples)
