"""Negative log-likelihood of a sample's answer under a cache condition."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvcore import tokenization
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition
from kvcore.conditions.registry import recipe_of_defined
from kvcore.data.datasets import DATASETS, load_corpus
from kvcore.data.sample import Sample
from kvcore.errors import unknown
from kvcore.measurements import base
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest, RowSpec
from kvcore.measurements.needs import (
    EVERY_LAYER,
    ONE_BASE,
    Need,
    NeededSamples,
    base_of,
    choose_samples,
    dataset_of,
    is_sweep,
    plain,
    sample_set_of,
)
from kvcore.measurements.registry import register
from kvcore.measurements.shard_size import shard_size
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, RowSchema, clean

CPU_SAMPLES, SHARD_ROWS = 50, 1000  # of a shard on a CPU, at most; ten samples whatever their rows
SEEDS = 3  # the run's own, and those of the needs ``@seed1`` and ``@seed2``
SamplesByPlace = Mapping[tuple[str, int], Mapping[str, Sample]]
"""Samples by dataset and seed of their rows, and by id."""
MeasureSamples = Callable[..., pd.DataFrame]
"""Of a request, `SamplesByPlace` and keys, and of what was prepared of them, if anything was."""
PrepareSamples = Callable[[MeasureRequest, SamplesByPlace, pd.DataFrame], Any]
SCHEMA = RowSchema(
    {
        "nll": NUMBER,
        "nll_tail": NUMBER,
        "token_nlls": NUMBERS,
        **dict.fromkeys(
            ("n_answer_tokens", "doc_len", "prefix_len", "cache_len", "clean_boundary"), COUNT
        ),
    },
    "nll",
)


def plan(request: MeasureRequest) -> MeasurePlan:
    """Plan every sample of every need; ``one_base`` only where the model has two rope bases."""
    from kvcore.models.files import rope_bases

    two_bases = rope_bases(request.files) > 1
    needs = [need for need in request.needs if two_bases or not need.startswith(ONE_BASE)]
    return plan_samples(
        KIND,
        request,
        needs,
        _measure,
        lambda n: max(10, min(CPU_SAMPLES, SHARD_ROWS // n)),
        prepare=_tokenize,
    )


def plan_samples(
    kind: MeasurementKind,
    request: MeasureRequest,
    needs: Sequence[str],
    measure: MeasureSamples,
    cpu_samples: Callable[[int], int],
    prepare: PrepareSamples | None = None,
) -> MeasurePlan:
    """Plan the samples that some needs take of a corpus; texts that a model writes are written.

    Parameters
    ----------
    kind : MeasurementKind
        Whose rows are planned.
    request : MeasureRequest
        What is asked of a cell.
    needs : sequence of str
        Those of the request that its model can serve.
    measure : callable
        Measures keys of one dataset and seed.
    cpu_samples : callable
        Returns the most samples of a shard on a CPU by the number of needs, which is at least 1.
    prepare : callable, optional
        Does what of `measure` runs no model.
    """
    from kvcore.measurements.surrogate_store import with_surrogates
    from kvcore.models.files import depth

    corpus = load_corpus(request.dataset)
    needed = choose_samples(
        needs,
        corpus,
        limit=request.limit,
        seed=request.seed,
        depth=depth(request.files),
        write_surrogates=lambda samples, styles: with_surrogates(
            request.files, request.load, samples, styles, request.store
        ),
    )
    keys, samples = keys_and_samples(kind, request, Path(corpus.name).stem, needed)
    size = shard_size(request, keys, most_samples=cpu_samples(max(1, len(needed.samples))))
    return MeasurePlan(
        keys,
        functools.partial(measure, request, samples),
        {
            "samples available": len(corpus.samples),
            "clusters are": corpus.cluster_unit,
            **base.corpus_facts(corpus),
        },
        needed.lacking,
        size.samples,
        size.length,
        {
            sample.hash_with(need.texts): dataclasses.asdict(sample)
            for need, chosen in needed.samples.items()
            for sample in chosen
        },
        base.clusters_of(corpus),
        None if prepare is None else functools.partial(prepare, request, samples),
    )


def check_need(spelled: str) -> None:
    """Raise KvError for a need of no known condition or target."""
    need = Need.read(spelled)
    name = need.condition.replace(EVERY_LAYER, "0") if is_sweep(spelled) else need.condition
    condition(name)
    template_of(need.target)


def explain(request: MeasureRequest) -> tuple[Mapping[str, Any], ...]:
    """Explain the conditions of some needs on one sample of the data."""
    from kvcore.measurements.explain import expositions

    corpus = load_corpus(request.dataset)
    names = [name.replace(EVERY_LAYER, "0") for name in plain(request.needs)]
    return expositions(request.load(), corpus, names, request.seed)


def row_specs(samples: Mapping[Need, Sequence[Sample]]) -> list[RowSpec]:
    """List the rows of some needs, whatever their sample set."""
    rows = []
    for need, chosen in samples.items():
        template = template_of(need.target)
        rows += [
            RowSpec(s.id, s.hash_with(need.texts), need.condition, template, _characters(s))
            for s in chosen
        ]
    return rows


@functools.cache
def template_of(target: str = "answer") -> str:
    """Return a target's name and the hash of its two texts."""
    if target not in tokenization.TARGETS:
        raise unknown("target", target, tokenization.TARGETS)
    texts = tokenization.TARGETS[target]
    spelled = f"{texts.prompt}\x1f{texts.answer}"
    return f"{target}:{hashlib.sha256(spelled.encode()).hexdigest()[:12]}"


def target_of(template: str) -> str:
    """Return the target's name in a stored template."""
    return template.split(":")[0]


def arrange(rows: pd.DataFrame, dataset: str, seed: int) -> pd.DataFrame:
    """Add sample set, need and the id that samples of one origin share; drop other datasets."""
    rows = rows[rows["template"].isin([template_of(target) for target in tokenization.TARGETS])]
    sample_sets = [
        sample_set_of(dataset, stored, row_seed - seed)
        for stored, row_seed in zip(rows["dataset"], rows["seed"], strict=True)
    ]
    rows = rows.assign(sample_set=pd.Series(sample_sets, index=rows.index, dtype=object))
    rows = rows[rows["sample_set"].notna()].reset_index(drop=True)
    needs = [
        str(Need(name, sample_set, target_of(template)))
        for name, sample_set, template in zip(
            rows["condition"], rows["sample_set"], rows["template"], strict=True
        )
    ]
    origins = [base_of(*ids) for ids in zip(rows["sample_id"], rows["sample_set"], strict=True)]
    return rows.assign(need=pd.Series(needs, dtype=object), sample=pd.Series(origins, dtype=object))


def keys_and_samples(
    kind: MeasurementKind, request: MeasureRequest, dataset: str, needed: NeededSamples
) -> tuple[pd.DataFrame, dict[tuple[str, int], dict[str, Sample]]]:
    """Return the keys of all rows, and the samples by dataset and seed of the keys, and by id.

    Each need brings a sample with the texts that its own condition takes: here it gets all of them.
    """
    tables = []
    samples: dict[tuple[str, int], dict[str, Sample]] = {}
    for sample_set in dict.fromkeys(need.sample_set for need in needed.samples):
        own = {
            need: chosen for need, chosen in needed.samples.items() if need.sample_set == sample_set
        }
        name, seed = dataset_of(dataset, sample_set), request.seed + Need("bare", sample_set).seed
        tables.append(kind.keys(request.files, name, seed, row_specs(own)))
        by_id = samples.setdefault((name, seed), {})
        for sample in dict.fromkeys(sample for chosen in own.values() for sample in chosen):
            known = by_id.get(clean(sample.id), sample)
            by_id[clean(sample.id)] = sample.with_texts_of(known)
    if not tables:
        return kind.keys(request.files, dataset, request.seed, ()), samples
    return pd.concat(tables, ignore_index=True), samples


def _measure(
    request: MeasureRequest,
    samples: SamplesByPlace,
    todo: pd.DataFrame,
    tokenized: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """Score rows of one dataset and seed."""
    from kvcore.measurements import answer_nll

    lm, seed, by_id = request.load(), _seed_of(todo), _samples_of(samples, todo)
    pairs = _pairs(samples, todo)
    if tokenized is None:
        scored = answer_nll.score_pairs(lm, pairs, seed=seed, batch_tokens=request.batch_tokens)
    else:
        scored = answer_nll.score_tokenized(lm, pairs, tokenized, batch_tokens=request.batch_tokens)
    ids = [clean(i) for i in scored["sample_id"]]
    return scored.assign(
        sample_id=ids,
        template=[template_of(target) for target in scored["target"]],
        cluster=[clean(by_id[i].cluster) for i in ids],
    )


def _tokenize(
    request: MeasureRequest, samples: SamplesByPlace, todo: pd.DataFrame
) -> Sequence[Any]:
    """Do what of `_measure` runs no model."""
    from kvcore.measurements.answer_nll import tokenize_requests

    return tokenize_requests(request.load(), _pairs(samples, todo), _seed_of(todo))


def _pairs(
    samples: SamplesByPlace, todo: pd.DataFrame
) -> list[tuple[Sample, str, list[Condition]]]:
    """Return what is to be scored: each sample and target with its conditions."""
    by_id = _samples_of(samples, todo)
    conditions = {name: condition(name) for name in dict.fromkeys(todo["condition"])}
    asked: dict[tuple[str, str], list[Condition]] = {}
    for name, template, spelled in zip(
        todo["sample_id"], todo["template"], todo["condition"], strict=True
    ):
        asked.setdefault((name, template), []).append(conditions[spelled])
    return [
        (by_id[name], target_of(template), some)
        for (name, template), some in sorted(asked.items(), key=lambda each: each[0])
    ]


def _samples_of(samples: SamplesByPlace, todo: pd.DataFrame) -> Mapping[str, Sample]:
    return samples[todo["dataset"].iloc[0], _seed_of(todo)]


def _seed_of(todo: pd.DataFrame) -> int:
    return int(todo["seed"].iloc[0])


def _characters(sample: Sample) -> int:
    """Return the characters that the model reads, about; padding has 4 of them to a token."""
    return len(sample.passage) if sample.length is None else 4 * sample.length


KIND = register(
    MeasurementKind(
        name="answer_nll",
        version=1,
        schema=SCHEMA,
        folder="",
        sources=(
            *ENGINE,
            "measurements/answer_nll.py",
            "measurements/frames.py",
            "measurements/token_nlls.py",
            "measurements/kinds/answer_nll.py",
        ),
        plan=plan,
        without_bos=True,
        dataset="docstrings",
        datasets=lambda: tuple(DATASETS),
        load_data=load_corpus,
        published=(("mistral-7b", "ms_marco"),),
        seeds=SEEDS,
        arrange=arrange,
        recipe_of=recipe_of_defined,
        check_need=check_need,
        explain=explain,
    )
)
