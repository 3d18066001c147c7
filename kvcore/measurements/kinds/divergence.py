"""Divergence of the next-token distributions under two cache conditions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore.conditions.parse import condition
from kvcore.conditions.registry import recipe_of_defined
from kvcore.data.datasets import DATASETS, load_corpus
from kvcore.data.sample import Sample, choose_samples
from kvcore.errors import KvError
from kvcore.measurements import base
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest, RowSpec
from kvcore.measurements.kinds.answer_nll import template_of
from kvcore.measurements.registry import register
from kvcore.measurements.shard_size import samples_on
from kvcore.store.schema import NUMBER, RowSchema, clean

SCHEMA = RowSchema(
    dict.fromkeys(("js", "kl", "kl_back", "kept_first", "kept_second"), NUMBER), "js"
)
CPU_SAMPLES = 50  # of a shard
AGAINST = "~"  # between the names of two conditions: ``bare~random``


def plan(request: MeasureRequest) -> MeasurePlan:
    """Plan every sample with every pair of conditions."""
    corpus = load_corpus(request.dataset)
    samples = choose_samples(corpus.samples, request.limit, request.seed)
    rows = [
        RowSpec(s.id, s.content_hash, pair, template_of(), len(s.passage))
        for s in samples
        for pair in request.needs
    ]
    return MeasurePlan(
        KIND.keys(request.files, Path(corpus.name).stem, request.seed, rows),
        functools.partial(_measure, request, samples),
        {
            "samples available": len(corpus.samples),
            "clusters are": corpus.cluster_unit,
            **base.corpus_facts(corpus),
        },
        clusters=base.clusters_of(corpus),
        shard_samples=samples_on(request, CPU_SAMPLES),
    )


def split(pair: str) -> tuple[str, str]:
    """Return the two conditions of a pair as claims spell it, ``bare~random``.

    Raises KvError where nothing separates two conditions.
    """
    first, separator, second = pair.partition(AGAINST)
    if not separator:
        raise KvError(f"pair {pair!r}: write two conditions with {AGAINST!r} between them.")
    return first, second


def check_pair(pair: str) -> None:
    """Raise KvError for a pair of which one is no condition."""
    for name in split(pair):
        condition(name)


def recipe_of(pair: str) -> str:
    """Return what a pair's two conditions are made of where a user defined one, else ""."""
    recipes = [recipe_of_defined(name) for name in split(pair)]
    return "\x1f".join(recipes) if any(recipes) else ""


def _measure(
    request: MeasureRequest, samples: Sequence[Sample], todo: pd.DataFrame
) -> pd.DataFrame:
    """Compare the pairs of rows of one seed; samples with the same pairs go together."""
    from kvcore.measurements.divergence import between

    by_id = {clean(sample.id): sample for sample in samples}
    names_of: dict[tuple[str, ...], list[str]] = {}
    for name, part in todo.groupby("sample_id", sort=True):
        names_of.setdefault(tuple(part["condition"]), []).append(str(name))
    tables = []
    for pairs, names in names_of.items():
        table = between(
            request.load(),
            [by_id[name] for name in names],
            [split(pair) for pair in pairs],
            seed=int(todo["seed"].iloc[0]),
            batch_tokens=request.batch_tokens,
        )
        row_names = [name for name in names for _ in pairs]
        tables.append(
            table.assign(
                sample_id=row_names,
                condition=[*pairs] * len(names),
                template=template_of(),
                cluster=[clean(by_id[name].cluster) for name in row_names],
            )
        )
    return pd.concat(tables, ignore_index=True)


def explain(request: MeasureRequest) -> tuple[Mapping[str, Any], ...]:
    """Explain pairs of conditions on one sample of the data."""
    from kvcore.measurements.explain import records
    from kvcore.measurements.explain_kinds import pair_explanations

    lm, corpus = request.load(), load_corpus(request.dataset)
    pairs = {pair: split(pair) for pair in request.needs}
    return records(lm, pair_explanations(lm, corpus, pairs, request.seed))


KIND = register(
    MeasurementKind(
        name="divergence",
        version=2,
        schema=SCHEMA,
        folder="_divergence",
        sources=(
            *ENGINE,
            "measurements/answer_nll.py",
            "measurements/divergence.py",
            "measurements/frames.py",
            "measurements/token_nlls.py",
            "measurements/kinds/divergence.py",
        ),
        plan=plan,
        without_bos=True,
        dataset="docstrings",
        datasets=lambda: tuple(DATASETS),
        load_data=load_corpus,
        published=(("mistral-7b", "ms_marco"),),
        recipe_of=recipe_of,
        check_need=check_pair,
        explain=explain,
    )
)
