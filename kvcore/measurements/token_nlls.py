"""From logits to the NLL of each token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

import numpy as np
import torch

from kvcore.models.device import upload

LOGITS_AT_ONCE = 2**21  # turned into NLLs at a time: 8 MB, which the heap serves again and again


def token_nlls(logits: torch.Tensor, targets: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the NLL of every target token, sequence by sequence, in nats.

    - `logits`: (n, vocab); one row for each target of the first sequence, then for each of the
      second, and so on.
    - `targets`: token ids, n of them together.

    Log-softmax in float32. Rows are independent, so how many are taken at once changes nothing.
    """
    rows_at_once = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    expected = upload(np.fromiter(chain.from_iterable(targets), np.int64), logits.device)
    chunks = zip(logits.split(rows_at_once), expected.split(rows_at_once), strict=True)
    by_chunk = [
        torch.nn.functional.cross_entropy(rows.float(), ids, reduction="none")
        for rows, ids in chunks
    ]
    nlls = iter(torch.cat(by_chunk).tolist())
    return [list(islice(nlls, len(ids))) for ids in targets]
