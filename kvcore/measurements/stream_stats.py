"""How long hidden states are, how far they move from token to token, and how they turn."""

from __future__ import annotations

from typing import NamedTuple

import torch

STATS = ("smoothness", "norm", "norm_variance", "relative_step", "cosine")
"""What a stream is reduced to; `hidden_states.dynamics` defines each."""


class Series(NamedTuple):
    """What a stream of hidden states does, token by token; float64.

    - `norm`: (batch, n); Euclidean length of each state.
    - `step`: (batch, n - 1); length of the difference from each state to the next.
    - `relative_step`: (batch, n - 1); step by the norm of the state that it leaves.
    - `cosine`: (batch, n - 2); between each step and the next, -1 to 1; NaN where one of them has
      length 0.
    """

    norm: torch.Tensor
    step: torch.Tensor
    relative_step: torch.Tensor
    cosine: torch.Tensor


def series(stream: torch.Tensor) -> Series:
    """Return norms, steps and turns of hidden states, (batch, n, hidden size)."""
    states = stream.float()
    between = states[:, 1:] - states[:, :-1]
    norm, step = (torch.linalg.vector_norm(x, dim=-1).double() for x in (states, between))
    dot = torch.linalg.vecdot(between[:, 1:], between[:, :-1]).double()
    cosine = dot / (step[:, 1:] * step[:, :-1])
    return Series(norm, step, step / norm[:, :-1], cosine)


def reduced(stream: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Reduce hidden states to `STATS`.

    Returns (batch, len(STATS)) float64: NaN where nothing counts.

    `counted`: (batch, n) bool; which tokens count; steps between two of them, and turns at one
    between two of them, do.
    """
    by_token = series(stream)
    pairs = counted[:, 1:] & counted[:, :-1]
    turns = pairs[:, 1:] & pairs[:, :-1] & by_token.cosine.isfinite()
    norm = mean_of(by_token.norm, counted)
    return torch.stack(
        [
            mean_of(by_token.step, pairs),
            norm,
            mean_of((by_token.norm - norm.unsqueeze(1)) ** 2, counted),
            mean_of(by_token.relative_step, pairs),
            mean_of(by_token.cosine, turns),
        ],
        dim=1,
    )


def mean_of(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return each row's mean of the values that count, (batch,); NaN where none does."""
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1)
