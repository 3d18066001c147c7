"""What kind of text a token is."""

from __future__ import annotations

from collections.abc import Sequence

from kvcore.models.lm import LM


def kinds_of(lm: LM, ids: Sequence[int]) -> list[str]:
    """Say what kind of text each token of a text is.

    Returns ``word`` (a letter first, and a word begins), ``inside`` (a letter first, within a
    word), ``number`` (a digit first), ``punctuation`` (a visible sign first), ``space`` (white
    space only) or ``other`` (special tokens, parts of a character).
    """
    special = {*lm.tokenizer.all_special_ids, lm.bos_id}
    texts = spelled(lm, ids)
    kinds = []
    for n, (token, text) in enumerate(zip(ids, texts, strict=True)):
        core = text.lstrip()
        continues = core == text and n > 0 and texts[n - 1][-1:].isalnum()
        if token in special or "\ufffd" in core:
            kinds.append("other")
        elif not core:
            kinds.append("space" if text else "other")
        elif core[0].isalpha():
            kinds.append("inside" if continues else "word")
        elif core[0].isdigit():
            kinds.append("number")
        else:
            kinds.append("punctuation" if core[0].isprintable() else "other")
    return kinds


def spelled(lm: LM, ids: Sequence[int]) -> list[str]:
    """Return each token's text, with the blank of a SentencePiece token, which decoding drops."""
    pieces = lm.tokenizer.convert_ids_to_tokens(list(ids))
    texts = lm.tokenizer.batch_decode([[i] for i in ids])
    return [
        f" {text}" if str(piece).startswith("▁") and not text.startswith(" ") else str(text)
        for piece, text in zip(pieces, texts, strict=True)
    ]
