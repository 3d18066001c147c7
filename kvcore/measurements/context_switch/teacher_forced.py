"""Every way to switch followed along the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kvcore.conditions import switching
from kvcore.conditions.switching import Switch, SwitchMethod
from kvcore.errors import KvError
from kvcore.measurements.context_switch import cases, passes
from kvcore.measurements.context_switch.cases import SwitchCase
from kvcore.measurements.context_switch.passes import TokenCurves
from kvcore.models.lm import LM


def follow(
    lm: LM,
    switches: Iterable[Switch],
    conditions: Iterable[str | SwitchMethod] = switching.METHODS,
    *,
    steps: int = 64,
    attention: bool = False,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> pd.DataFrame:
    """Follow every way to switch along the stream, teacher-forced.

    Parameters
    ----------
    switches : iterable of Switch
        No two with the same id.
    conditions : iterable of str or SwitchMethod
        `switching.METHOD_MEANINGS` defines them. Both references are read whether named or not.
    steps : int
        Most tokens to follow behind the switch, from 1.
    attention : bool
        Record where each predicting token looks as well.
    seed : int
        Together with a switch's id it fixes the noise.
    batch_tokens : int, optional
        Most tokens in one pass; changes speed and memory, never a number beyond rounding.

    Returns
    -------
    pandas.DataFrame
        One row per switch and condition, in the order given. `switch_id`, `condition`,
        `identical` (whether the two contexts are the same), `step` (tokens before the switch);
        and lists with an entry per token followed: `tokens`, `choice` (the likeliest),
        `attribution` of the choice (see `attribute`), `logp` of the token in nats,
        `kl_oracle` and `kl_ignore` (KL(condition || reference), nats, whole vocabulary),
        `logratio_oracle` and `logratio_ignore` (log P(token | condition) - log P(token |
        reference), nats) and `hidden_similarity` to the oracle (cosine, last layer). With
        `attention`, for each span of `switching.SPANS`, `share_<span>`: its share of the
        predicting token's attention, mean over layers and heads, one per token; and
        `layer_share_<span>`: the same by layer, mean over tokens.

    Raises
    ------
    KvError
        For an unknown condition, a repeated id, a switch that cannot be read (empty, outside the
        vocabulary, past the positions that the model is exact for), or logits that are not
        finite. All of the first before anything is run.

    Notes
    -----
    Exact: as one uncached pass over the tokens of each way, up to rounding (1e-5 in float32).
    Ways that read the same tokens are one row: oracle and flush agree to the last bit here, and
    on an identical pair so do oracle and ignore. Cost: two prefills per switch and one pass of
    the followed tokens per way.
    """
    if steps < 1:
        raise KvError(f"steps={steps} must be 1 or more.")

    # 1. Plan what each way reads, and refuse what the model cannot read exactly.
    methods = tuple(map(switching.switch_method, conditions))
    tokenized = cases.tokenize_all(lm, switches)
    planned = [cases.build_case(lm, switch, methods, steps, seed) for switch in tokenized]
    cases.check_lengths(
        lm,
        [
            (switch.id, plan.length)
            for switch, (case, _) in zip(tokenized, planned, strict=True)
            for plan in case.plans
        ],
    )

    # 2. Read every plan.
    measured = passes.measure_cases(
        lm, [case for case, _ in planned], attention=attention, batch_tokens=batch_tokens
    )

    # 3. Compare each way with both references.
    return pd.DataFrame(
        [
            {
                "switch_id": switch.id,
                "condition": method.name,
                "identical": switch.identical,
                "step": len(switch.before),
                **_columns(case, curves, number),
            }
            for switch, (case, numbers), curves in zip(tokenized, planned, measured, strict=True)
            for method, number in zip(methods, numbers, strict=True)
        ]
    )


def _columns(case: SwitchCase, curves: Sequence[TokenCurves], number: int) -> dict[str, Any]:
    """Return what a row holds of one plan's curves."""
    own, oracle, ignore = curves[number], curves[case.oracle], curves[case.ignore]
    columns = {
        "tokens": list(case.followed),
        "choice": own.choice.tolist(),
        "attribution": attributions(own.choice.tolist(), oracle, ignore),
        "logp": own.logp.tolist(),
        "kl_oracle": own.kl_oracle.tolist(),
        "kl_ignore": own.kl_ignore.tolist(),
        "logratio_oracle": (own.logp - oracle.logp).tolist(),
        "logratio_ignore": (own.logp - ignore.logp).tolist(),
        "hidden_similarity": own.similarity.tolist(),
    }
    if own.shares is not None:
        for span, shares in zip(switching.SPANS, np.moveaxis(own.shares, 2, 0), strict=True):
            columns[f"share_{span}"] = shares.mean(axis=0).tolist()
            columns[f"layer_share_{span}"] = shares.mean(axis=1).tolist()
    return columns


def attributions(tokens: Iterable[int], oracle: TokenCurves, ignore: TokenCurves) -> list[str]:
    """Say of each token whose choice it is; see `attribute`."""
    choices = zip(tokens, oracle.choice.tolist(), ignore.choice.tolist(), strict=True)
    return [attribute(*three) for three in choices]


def attribute(token: int, oracle: int, ignore: int) -> str:
    """Say whose choice a token is.

    Returns ``"mixed"`` where it is the choice of both references, ``"injected"`` of the oracle
    alone, ``"original"`` of ignore alone, else ``"neither"``.

    `token`, `oracle`, `ignore`: the token, and the likeliest one under each reference at the same
    place.
    """
    by_oracle, by_ignore = token == oracle, token == ignore
    if by_oracle and by_ignore:
        return "mixed"
    return "injected" if by_oracle else "original" if by_ignore else "neither"
