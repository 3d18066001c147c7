"""Texts that a model wrote for samples, kept beside the store so that each is written once.

They lie in ``<store>/_written/`` as files ``texts-<pid>-<hash>.jsonl``, one text a line, the hash
that of the file's bytes. A file appears as a whole or not at all, and nothing is changed in place;
a damaged one is set aside as ``_<name>.damaged``, and its texts are written again. The folder's
underscore keeps readers of Parquet folders out of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from kvcore.conditions import STYLES
from kvcore.corpora.sample import digest
from kvcore.errors import KvError, unknown
from kvcore.store import StoreWarning, _publish, clean, code_hash, disk_errors

if TYPE_CHECKING:
    from kvcore.corpora import Sample
    from kvcore.models import LM, ModelFiles

# The modules whose code decides what a text is; a change in any of them makes new keys.
TEXT_MODULES = ("gguf", "tokens", "masks", "cache", "forward", "generation")
FILE_SAMPLES = 50  # all that a killed process can lose
KEY = ("model_id", "dtype", "tokenizer", "style", "code", "sample_id", "sample_hash")

_FILE = re.compile(r"texts-\d+-([0-9a-f]{32})\.jsonl")
Key = tuple[str, ...]


def written(files: ModelFiles, load: Callable[[], LM], samples: Sequence[Sample],
            styles: Sequence[str], root: Path) -> tuple[Sample, ...]:
    """Give each sample the surrogate queries that a model wrote for its passage.

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

    Raises
    ------
    KvError
        An unknown style, a folder that cannot be read or written, or whatever `load` raises.

    Warns
    -----
    StoreWarning
        For each damaged file.

    Notes
    -----
    Killed at any instant, all but the file at work is kept. Of several processes that want the
    same model's texts in a style one writes and the others wait; its lock dies with it.
    """
    for style in styles:
        if style not in STYLES:
            raise unknown("style", style, STYLES)
    once = functools.cache(load)
    folder = root / "_written"
    texts = {}
    for style in dict.fromkeys(styles):
        found = _present(folder, files, samples, style)
        if len(found) < len(samples):
            with _alone(folder, files, style):
                _write_missing(folder, files, once, samples, style)
            found = _present(folder, files, samples, style)
        texts[style] = [found[n] for n in range(len(samples))]
    return attach(samples, texts)


def attach(samples: Sequence[Sample], texts: Mapping[str, Sequence[str]]) -> tuple[Sample, ...]:
    """Return the samples with their surrogates as texts named ``surrogate(<style>)``.

    Parameters
    ----------
    samples : sequence of Sample
    texts : mapping of str to sequence of str
        For each style one text per sample. Where it is "", the sample gets none of that style; a
        text of that name which it had before is dropped.
    """
    names = {f"surrogate({style})": style for style in texts}
    for style, given in texts.items():
        if len(given) != len(samples):
            raise KvError(f"attach: {len(given)} texts of style {style!r} for {len(samples)} "
                          "samples; pass one per sample.")
    return tuple(
        replace(sample, texts=(
            *(pair for pair in sample.texts if pair[0] not in names),
            *((name, texts[style][n]) for name, style in names.items() if texts[style][n])))
        for n, sample in enumerate(samples))


@functools.cache
def code() -> str:
    """Return the hash of the modules that decide what is written, comments left out."""
    folder = Path(__file__).parent
    return code_hash(folder / f"{name}.py" for name in TEXT_MODULES)


def _setting(files: ModelFiles, style: str) -> Key:
    """Return the part of a key that all texts of one model and style share."""
    return files.model_id, files.dtype, files.tokenizer_id, style, code()


def _key(files: ModelFiles, style: str, sample: Sample) -> Key:
    return *_setting(files, style), clean(sample.id), sample.content_hash


def _present(folder: Path, files: ModelFiles, samples: Sequence[Sample], style: str
             ) -> dict[int, str]:
    """Return the texts that are there, by the sample's place."""
    stored = _read(folder)
    keys = [_key(files, style, sample) for sample in samples]
    return {n: stored[key] for n, key in enumerate(keys) if key in stored}


def _write_missing(folder: Path, files: ModelFiles, load: Callable[[], LM],
                   samples: Sequence[Sample], style: str) -> None:
    """Write what is missing, a file at a time.

    Files are divided by all samples, present or not, so that a run that resumes forms the batches
    of one that was never interrupted.
    """
    from kvcore import generation

    present = _present(folder, files, samples, style)  # another process may have written since
    for start in range(0, len(samples), FILE_SAMPLES):
        todo = [samples[n] for n in range(start, min(start + FILE_SAMPLES, len(samples)))
                if n not in present]
        if todo:
            texts = generation.surrogates(load(), todo, style)
            keys = [_key(files, style, sample) for sample in todo]
            _save(folder, dict(zip(keys, texts, strict=True)))


def _save(folder: Path, texts: Mapping[Key, str]) -> None:
    """Store texts as one new file, as a whole or not at all."""
    record = {"time": time.time(), "id": uuid.uuid4().hex}  # no two files are the same
    lines = [json.dumps({**dict(zip(KEY, key, strict=True)), "text": text, **record})
             for key, text in texts.items()]
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    with disk_errors(folder, f"write {len(texts)} texts"):
        folder.mkdir(parents=True, exist_ok=True)
        _publish(data, folder / f"texts-{os.getpid()}-{_fingerprint(data)}.jsonl")


def _read(folder: Path) -> dict[Key, str]:
    """Read all texts; of two for one key, the earlier written one counts for everybody."""
    with disk_errors(folder, "list its files"):
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    rows = [row for path in paths if _FILE.fullmatch(path.name) for row in _rows(path)]
    texts: dict[Key, str] = {}
    for row in sorted(rows, key=lambda row: (row["time"], row["id"])):
        texts.setdefault(tuple(row[name] for name in KEY), row["text"])
    return texts


def _rows(path: Path) -> list[dict[str, str]]:
    """Return a file's rows; none of a damaged one, which is set aside."""
    with disk_errors(path.parent, f"read {path.name}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # another process has just set it aside
            return []
    named = _FILE.fullmatch(path.name)
    if named and named[1] == _fingerprint(data):
        return [json.loads(line) for line in data.splitlines()]
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(f"_{path.name}.damaged"))
    warnings.warn(f"store {path.parent}: {path.name} is damaged (its {len(data)} bytes are not "
                  "those written); its texts count as missing.", StoreWarning, stacklevel=6)
    return []


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@contextlib.contextmanager
def _alone(folder: Path, files: ModelFiles, style: str) -> Iterator[None]:
    """Wait until no other process writes this model's texts in this style."""
    claims = folder / ".claims"
    lock = FileLock(claims / f"{digest(*_setting(files, style))[:32]}.lock")
    with disk_errors(folder, "claim its texts"):
        claims.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
