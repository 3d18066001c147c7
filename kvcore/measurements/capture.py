"""Raw hidden states of one text, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from kvcore.engine import forward, hooks, limits
from kvcore.engine.forward import NO_TOKENS
from kvcore.errors import KvError
from kvcore.io import write_atomically
from kvcore.measurements import hidden_states
from kvcore.measurements.hidden_states import TokenText
from kvcore.models.lm import LM


def capture_to(
    lm: LM, ids: Sequence[int], path: Path, *, parts: Sequence[str] = ("residual",)
) -> Path:
    """Write the raw hidden states of one text to a safetensors file, as a whole or not at all.

    Returns the file. It holds ``<part>.<layer>``, each (1 + len(ids), hidden size) in the model's
    dtype, row 0 being BOS, and ``ids`` with BOS; its metadata name model, fingerprint, dtype and
    final norm.

    Raises KvError as `dynamics`; also where the file cannot be written.

    Parameters
    ----------
    ids : sequence of int
        Without BOS, which is put before.
    path : Path
        Its folder must exist.
    parts : sequence of str
        Of `PARTS`.
    """
    text = TokenText(str(path), "", (), tuple(int(i) for i in ids))
    distinct = hidden_states.check_parts(lm, parts)
    hidden_states.check_ids(lm, [text])
    limit = limits.exact_positions(lm)
    if len(text.ids) + 1 > limit:
        raise KvError(
            f"ids: {len(text.ids)} tokens must be {limit - 1} or fewer; {lm.name} is exact for "
            f"{limit} with BOS."
        )
    sequence = [lm.bos_id, *text.ids]
    tensors = {"ids": torch.tensor(sequence)}

    def store(part: str, layer: int, stream: torch.Tensor) -> None:
        tensors[f"{part}.{layer}"] = stream[0].cpu().clone()

    with hooks.watching(lm, distinct, store):
        forward.logits(lm, forward.pad_ids(lm, [sequence], [0]), NO_TOKENS)
    about = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": lm.dtype,
        "final_norm": "not applied",
    }
    try:
        write_atomically(path, save(tensors, about))
    except OSError as error:
        raise KvError(f"{path}: cannot be written ({error.strerror}); check the folder.") from None
    return path
