"""How smoothly hidden states move over a text, layer by layer, by the source that wrote it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvcore.data.texts import TEXTS, Text, TextCorpus, load_texts
from kvcore.errors import MissingResource
from kvcore.measurements import base
from kvcore.measurements.base import ENGINE, MeasurementKind, MeasurePlan, MeasureRequest, RowSpec
from kvcore.measurements.registry import register
from kvcore.measurements.shard_size import samples_on
from kvcore.measurements.text_sources import check_source, writer_of
from kvcore.store import schema
from kvcore.store.schema import COUNT, NUMBER, NUMBERS, RowSchema, clean

if TYPE_CHECKING:
    from kvcore.measurements.hidden_states import TokenText
    from kvcore.models.lm import LM

CPU_TEXTS = 50  # of a shard
STATS = ("smoothness", "norm", "norm_variance", "relative_step", "cosine")
TRACED = 0.8  # share of the depth at which single steps are kept: where the gap was largest
TRACE_COLUMNS = {
    "tokens": "token",
    "token_kinds": "kind",
    "token_steps": "step",
    "token_nlls": "nll",
}
SCHEMA = RowSchema(
    {
        "ce": NUMBER,
        "ce_continuation": NUMBER,
        "n_tokens": COUNT,
        "n_continuation": COUNT,
        **dict.fromkeys(STATS, NUMBERS),
        "tokens": schema.TEXTS,
        "token_kinds": schema.TEXTS,
        "token_steps": NUMBERS,
        "token_nlls": NUMBERS,
    },
    "ce",
)


def plan(request: MeasureRequest) -> MeasurePlan:
    """Plan every text by every source."""
    from kvcore.measurements.continuations import LEAST_TOKENS, NEW_TOKENS

    corpus = load_texts(request.dataset)
    fitting = texts_for(request, corpus)
    texts = fitting[: request.limit]
    rule = hashlib.sha256(f"{NEW_TOKENS} {LEAST_TOKENS}".encode()).hexdigest()[:12]
    templates, lacking = _templates(request.needs, f"continuation:{rule}")
    rows = [
        RowSpec(
            text.id,
            text.content_hash,
            source,
            template,
            len(text.prompt + text.continuation),
        )
        for text in texts
        for source, template in templates.items()
    ]
    return MeasurePlan(
        KIND.keys(request.files, corpus.name, request.seed, rows),
        functools.partial(_measure, request, texts),
        {"texts available": len(fitting), **base.corpus_facts(corpus)},
        lacking,
        samples_on(request, CPU_TEXTS),
    )


def _templates(sources: Sequence[str], rule: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the template of each source, and why some cannot be had: their writer is not here.

    What another model writes hangs on its weights, which the key of a row does not name.
    """
    from kvcore.models.files import locate

    templates, lacking = {}, {}
    for source in sources:
        writer = writer_of(source)
        try:
            templates[source] = f"{rule} {locate(writer).model_id[:12]}" if writer else rule
        except MissingResource as missing:
            lacking[source] = str(missing)
    return templates, lacking


def texts_for(request: MeasureRequest, corpus: TextCorpus) -> tuple[Text, ...]:
    """Return the texts that are of the right length for the model that reads them.

    The model is loaded only where the corpus asks for a number of tokens.
    """
    from kvcore import tokenization

    return corpus.fitting(lambda text: len(tokenization.encode(request.load().tokenizer, text)))


def _measure(request: MeasureRequest, texts: Sequence[Text], todo: pd.DataFrame) -> pd.DataFrame:
    """Measure texts by the sources asked for; what a model is to write is written first."""
    from kvcore.measurements.continuations import load_continuations

    lm, by_id = request.load(), {clean(text.id): text for text in texts}
    continuations = load_continuations(
        lm,
        [by_id[name] for name in dict.fromkeys(todo["sample_id"])],
        list(dict.fromkeys(todo["condition"])),
        seed=int(todo["seed"].iloc[0]),
        root=request.store,
        batch_tokens=request.batch_tokens,
    )
    usable = {(text.id, text.source): text for text in continuations.texts}
    measured = measure_texts(lm, list(usable.values()), request.batch_tokens)
    rows = []
    for name, source, template in zip(
        todo["sample_id"], todo["condition"], todo["template"], strict=True
    ):
        text_id = by_id[name].id
        values = measured.get((text_id, source)) or {
            "status": continuations.unusable.get(text_id, "no text")
        }
        place = {"sample_id": name, "condition": source, "template": template, "cluster": name}
        rows.append(values | place)
    columns = ["sample_id", "condition", "template", *SCHEMA.values]
    return pd.DataFrame(rows).reindex(columns=columns)


def measure_texts(
    lm: LM, texts: Sequence[TokenText], batch_tokens: int | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Measure texts: the schema's values by the text's id and source."""
    from kvcore.engine import hooks
    from kvcore.measurements import hidden_states

    layer = max(0, round(TRACED * len(hooks.layers_of(lm))) - 1)
    layers = hidden_states.dynamics(lm, texts, batch_tokens=batch_tokens)
    steps = hidden_states.trace(lm, texts, layer, batch_tokens=batch_tokens)
    traced = {place: part for place, part in steps.groupby(["id", "source"], sort=False)}
    measured: dict[tuple[str, str], dict[str, Any]] = {}
    for row in layers.to_dict("records"):
        place = (row.pop("id"), row.pop("source"))
        if place in traced:
            row |= {own: traced[place][name].tolist() for own, name in TRACE_COLUMNS.items()}
        measured[place] = row
    return measured


def explain(request: MeasureRequest) -> tuple[Mapping[str, Any], ...]:
    """Explain who wrote a continuation, and what of it counts, on one text of the data."""
    from kvcore.measurements.explain import CANDIDATES, records
    from kvcore.measurements.explain_kinds import source_explanations

    lm = request.load()
    texts = texts_for(request, load_texts(request.dataset))[:CANDIDATES]
    return records(lm, source_explanations(lm, texts, request.needs, request.seed))


KIND = register(
    MeasurementKind(
        name="hidden_states",
        version=1,
        schema=SCHEMA,
        folder="_dynamics",
        sources=(
            *ENGINE,
            "measurements/capture.py",
            "measurements/continuations.py",
            "measurements/frames.py",
            "measurements/generation.py",
            "measurements/hidden_states.py",
            "measurements/stream_stats.py",
            "measurements/text_sources.py",
            "measurements/token_kinds.py",
            "measurements/token_nlls.py",
            "measurements/kinds/hidden_states.py",
        ),
        plan=plan,
        dataset="pydoc",
        datasets=lambda: tuple(TEXTS),
        load_data=load_texts,
        published=(("gemma2-2b", "wikitext2"), ("gemma2-2b-it", "wikitext2")),
        prefix="texts:",
        counted="texts",
        check_need=check_source,
        explain=explain,
    )
)
