"""Texts that a model wrote for samples, kept beside the store so that each is written once.

They lie in ``<store>/_written/`` as files ``texts-<pid>-<hash>.jsonl``, as `kvcore.store.artifacts`
says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kvcore.conditions.registry import STYLES
from kvcore.data.sample import Sample
from kvcore.errors import KvError, unknown
from kvcore.measurements import surrogate_queries
from kvcore.measurements.base import ENGINE, sources_hash
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.store import artifacts
from kvcore.store.artifacts import Key
from kvcore.store.schema import clean

METHOD = "surrogate_queries/1"  # its version: raised by hand when texts are meant to change
SOURCES = (*ENGINE, "measurements/generation.py", "measurements/surrogate_queries.py")
FILE_SAMPLES = 50  # all that a killed process can lose
KEY = ("model_id", "dtype", "tokenizer", "style", "method", "sample_id", "sample_hash")
TEXTS = artifacts.ArtifactKind("texts", KEY, "text", {"method": METHOD})


def with_surrogates(
    files: ModelFiles,
    load: Callable[[], LM],
    samples: Sequence[Sample],
    styles: Sequence[str],
    root: Path,
) -> tuple[Sample, ...]:
    """Give each sample the surrogate queries that a model wrote for its passage.

    Raises KvError for an unknown style, a folder that cannot be read or written, or whatever `load`
    raises.
    Warns StoreWarning for each damaged file.

    Parameters
    ----------
    files : ModelFiles
        From `kvcore.models.locate`: which model writes.
    load : callable
        Loads that model; called at most once, and only where a text is missing.
    samples : sequence of Sample
        With unique identities.
    styles : sequence of str
        Of `kvcore.conditions.STYLES`; none leaves the samples as they are.
    root : Path
        The store's folder. Texts are read from ``_written/`` in it, missing ones are added.

    Returns
    -------
    tuple of Sample
        In the order given, as `attach` returns them.

    Notes
    -----
    Killed at any instant, all but the file at work is kept. Of several processes that want the
    same model's texts in a style one writes and the others wait; its lock dies with it.
    """
    for style in styles:
        if style not in STYLES:
            raise unknown("style", style, STYLES)
    load_once = functools.cache(load)
    texts = {}
    for style in dict.fromkeys(styles):

        def write(indices: Sequence[int], style: str = style) -> Sequence[str]:
            chosen = [samples[i] for i in indices]
            return surrogate_queries.surrogates(load_once(), chosen, style)

        texts[style] = artifacts.obtain(
            root / artifacts.FOLDER,
            TEXTS,
            [surrogate_key(files, style, sample) for sample in samples],
            write,
            code=sources_hash(SOURCES),
            setting=_shared_key(files, style),
            per_file=FILE_SAMPLES,
        )
    return attach(samples, texts)


def attach(samples: Sequence[Sample], texts: Mapping[str, Sequence[str]]) -> tuple[Sample, ...]:
    """Return the samples with their surrogates as texts named ``surrogate(<style>)``.

    `texts`: for each style one text per sample. Where it is "", the sample gets none of that style;
    a text of that name which it had before is dropped.
    """
    names = {f"surrogate({style})": style for style in texts}
    for style, given in texts.items():
        if len(given) != len(samples):
            raise KvError(
                f"attach: {len(given)} texts of style {style!r} for {len(samples)} "
                "samples; pass one per sample."
            )
    return tuple(
        replace(
            sample,
            texts=(
                *(pair for pair in sample.texts if pair[0] not in names),
                *((name, texts[style][n]) for name, style in names.items() if texts[style][n]),
            ),
        )
        for n, sample in enumerate(samples)
    )


def _shared_key(files: ModelFiles, style: str) -> Key:
    """Return the part of a key that all texts of one model and style share."""
    return files.model_id, files.dtype, files.tokenizer_id, style, METHOD


def surrogate_key(files: ModelFiles, style: str, sample: Sample) -> Key:
    """Return the key under which a text is stored, one entry for each of `KEY`."""
    return *_shared_key(files, style), clean(sample.id), sample.content_hash
