"""Which tokenizer and which BOS a model has, known without loading its weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from kvcore import io
from kvcore.errors import KvError

VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
SPECIAL_TOKENS_FILES = ("special_tokens_map.json", "added_tokens.json")
BOS_FILES = ("config.json", "generation_config.json")
"""Where a BOS is looked up that the tokenizer does not name."""


def bos(tokenizer: Any, config: Any, name: str) -> tuple[int, str]:
    """Return the token that a cache begins with, and where it is from.

    Parameters
    ----------
    tokenizer, config
        Of the model; the configuration is its text part's.

    Returns
    -------
    (int, str)
        Its id, and ``"tokenizer"``, ``"config"`` or ``"end of text"``.

    Raises
    ------
    KvError
        For a model that has none.
    """
    candidates = (
        (tokenizer.bos_token_id, "tokenizer"),
        (getattr(config, "bos_token_id", None), "config"),
        (tokenizer.eos_token_id, "end of text"),
    )
    for token_id, source in candidates:
        if token_id is not None:
            return int(token_id), source
    raise KvError(f"model {name!r} has neither a BOS nor an end-of-text token; a cache needs one.")


def identity(folder: Path, *, by_files: bool) -> str:
    """Return what stands in rows' keys for a model's tokenizer and BOS.

    Parameters
    ----------
    folder : Path
        Of the model.
    by_files : bool
        Hash the files alone, those that name a BOS only where the tokenizer's own do not. Else
        the tokenizer and the BOS are hashed too as they are loaded, which the version of
        transformers decides as well.

    Returns
    -------
    str
        How the vocabulary marks words (``sentencepiece`` or ``byte-level``) and 24 hex digits.

    Raises
    ------
    KvError
        For a folder without a tokenizer.

    Notes
    -----
    Loading a tokenizer takes about a second; it is done once for the same files.
    """
    vocabulary = _present(folder, VOCABULARY_FILES)
    if not vocabulary:
        raise KvError(f"{folder} holds no tokenizer files ({', '.join(VOCABULARY_FILES)}).")
    text = vocabulary[0].read_text(encoding="utf-8", errors="replace")
    style = "sentencepiece" if text.count("▁") > text.count("Ġ") else "byte-level"
    files = vocabulary + _present(folder, SPECIAL_TOKENS_FILES)
    if not by_files or not _names_bos(folder):
        files += _present(folder, BOS_FILES)
    hashes = tuple(map(io.file_sha256, files))
    loaded = () if by_files else as_loaded(folder, hashes)
    return f"{style}-{io.json_digest((*hashes, *loaded))[:24]}"


@functools.lru_cache(maxsize=8)
def as_loaded(folder: Path, hashes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a hash of the tokenizer as it is loaded, and its BOS with the source of it.

    Returns
    -------
    tuple of str
        Empty where tokenizer or configuration cannot be loaded: loading the model says why.
    """
    from transformers import AutoConfig, AutoTokenizer

    del hashes  # files that have changed are loaded again
    try:
        # Not left out: then a person at a terminal is asked whether to run a folder's code.
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        config = AutoConfig.from_pretrained(folder, **options).get_text_config()
        token_id, source = bos(tokenizer, config, str(folder))
    except Exception:  # third parties' readers raise anything for files that are damaged
        return ()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    return io.digest(spelled), str(token_id), source


def _present(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _names_bos(folder: Path) -> bool:
    """Whether the tokenizer's own settings name a BOS."""
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("bos_token"))
