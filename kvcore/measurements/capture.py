"""Raw hidden states of one text, written to a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from kvcore.engine import forward, hooks, limits
from kvcore.errors import KvError
from kvcore.measurements import hidden_states
from kvcore.measurements.hidden_states import TokenText
from kvcore.models.lm import LM


def capture_to(
    lm: LM, ids: Sequence[int], path: Path, *, parts: Sequence[str] = ("residual",)
) -> Path:
    """Write the raw hidden states of one text to a safetensors file, as a whole or not at all.

    Parameters
    ----------
    ids : sequence of int
        Without BOS, which is put before.
    path : Path
        Its folder must exist.
    parts : sequence of str
        Of `PARTS`.

    Returns
    -------
    Path
        The file. It holds ``<part>.<layer>``, each (1 + len(ids), hidden size) in the model's
        dtype, row 0 being BOS, and ``ids`` with BOS; its metadata name model, fingerprint, dtype
        and final norm.

    Raises
    ------
    KvError
        As `dynamics`; also where the file cannot be written.
    """
    text = TokenText(str(path), "", (), tuple(int(i) for i in ids))
    chosen = hidden_states.check_parts(lm, parts)
    hidden_states.check_ids(lm, [text])
    if len(text.ids) + 1 > limits.exact_positions(lm):
        raise KvError(
            f"capture_to: {len(text.ids)} tokens; {lm.name} is exact for "
            f"{limits.exact_positions(lm)} with BOS."
        )
    held: dict[str, torch.Tensor] = {"ids": torch.tensor([lm.bos_id, *text.ids])}

    def keep(part: str, layer: int, stream: torch.Tensor) -> None:
        held[f"{part}.{layer}"] = stream[0].cpu().clone()

    given = forward.pad_ids(lm, [[lm.bos_id, *text.ids]], [0])
    with hooks.watching(lm, chosen, keep):
        forward.logits(lm, given, ((), ()))
    about = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": lm.dtype,
        "final_norm": "not applied",
    }
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(save(held, about))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise KvError(f"{path}: cannot be written ({error.strerror}); check the folder.") from None
    return path
