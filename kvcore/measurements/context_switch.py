"""How fast predictions follow a context that is switched in mid-answer.

Every way to switch is followed along the same tokens, so that its curves can be compared, and in
free generation, so that its answers can be checked. A switch's two contexts are each read once;
every way is then one row of a pass on top of those caches. Hidden states are kept for the tokens
that count only, and the LM head turns them into logits in small parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from kvcore.conditions import switching
from kvcore.conditions.switching import Ids, Switch, SwitchMethod, TokenizedSwitch
from kvcore.engine import limits
from kvcore.errors import KvError
from kvcore.measurements import switch_generation, switch_passes
from kvcore.measurements.switch_passes import Case, Measured
from kvcore.models.lm import LM

CLASSES = ("original", "injected", "mixed", "neither")


def follow(
    lm: LM,
    given: Iterable[Switch],
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
    lm : LM
        From `kvcore.load`.
    given : iterable of Switch
        No two with the same id.
    conditions : iterable of str or Way
        `kvcore.switches.KINDS` defines them. Both references are read whether named or not.
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
        `attention`, for each span of `kvcore.switches.SPANS`, `share_<span>`: its share of the
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
    ways = tuple(map(switching.switch_method, conditions))
    if steps < 1:
        raise KvError(f"follow: steps={steps}; pass at least 1.")
    told = _tokenize_all(lm, given)
    cases, rows = [], []
    for one in told:
        case, places = _case(lm, one, ways, steps, seed)
        cases.append(case)
        rows.append(places)
    _check(
        lm,
        [
            (one.id, script.length)
            for one, case in zip(told, cases, strict=True)
            for script in case.scripts
        ],
    )
    found = switch_passes.measure(lm, cases, attention=attention, batch_tokens=batch_tokens)
    return pd.DataFrame(
        [
            {
                "switch_id": one.id,
                "condition": name.name,
                "identical": one.identical,
                "step": len(one.before),
                **_columns(case, results, place),
            }
            for one, case, results, places in zip(told, cases, found, rows, strict=True)
            for name, place in zip(ways, places, strict=True)
        ]
    )


def refusal(
    lm: LM,
    one: Switch,
    conditions: Iterable[str | SwitchMethod],
    *,
    steps: int = 64,
    max_new_tokens: int = 1,
    seed: int = 0,
) -> str:
    """Say why a switch can be neither followed nor gone on from; empty where it can.

    Parameters
    ----------
    lm, one, conditions, steps, max_new_tokens, seed
        As `follow` and `free` take them. No model is run.
    """
    ways = tuple(map(switching.switch_method, conditions))
    try:
        (told,) = _tokenize_all(lm, [one])
        scripts = _case(lm, told, ways, steps, seed)[0].scripts
        jobs = [switch_generation._job(lm, told, each, max_new_tokens, seed) for each in ways]
        _check(
            lm, [(told.id, n) for n in (*(s.length for s in scripts), *(j.length for j in jobs))]
        )
    except KvError as reason:
        return str(reason)
    return ""


def attribute(token: int, oracle: int, ignore: int) -> str:
    """Say whose choice a token is.

    Parameters
    ----------
    token, oracle, ignore : int
        The token, and the likeliest one under each reference at the same place.

    Returns
    -------
    str
        ``"mixed"`` where it is the choice of both references, ``"injected"`` of the oracle alone,
        ``"original"`` of ignore alone, else ``"neither"``.
    """
    by_oracle, by_ignore = token == oracle, token == ignore
    if by_oracle and by_ignore:
        return "mixed"
    return "injected" if by_oracle else "original" if by_ignore else "neither"


def _tokenize_all(lm: LM, given: Iterable[Switch]) -> list[TokenizedSwitch]:
    told = [switching.tokenize(lm.tokenizer, one, int(lm.config.vocab_size)) for one in given]
    ids = [one.id for one in told]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise KvError(f"two switches have the id {twice!r}; give each its own.")
    return told


def _check(lm: LM, lengths: Iterable[tuple[str, int]]) -> None:
    limit = limits.exact_positions(lm)
    for name, length in lengths:
        if length > limit:
            raise KvError(
                f"switch {name!r} takes {length} positions, past the {limit} that "
                f"{lm.name} is exact for; pass shorter contexts or fewer tokens."
            )


def _noise(lm: LM, one: TokenizedSwitch, given: SwitchMethod, seed: int) -> Ids:
    return switching.noise_ids(lm.tokenizer, one, seed) if given.kind == "noise" else ()


def _case(
    lm: LM, one: TokenizedSwitch, ways: Sequence[SwitchMethod], steps: int, seed: int
) -> tuple[Case, list[int]]:
    """Return a switch's distinct scripts, and which of them each way is."""
    wanted = [*ways, switching.switch_method("ignore"), switching.switch_method("oracle")]
    followed = one.after[:steps]
    scripts = [
        switching.plan_decode(
            switching.plan_cache(each, one, lm.bos_id, _noise(lm, one, each, seed)), followed
        )
        for each in wanted
    ]
    # Of equal scripts the last one names the slots: the oracle's, whatever else was asked for.
    places = {switch_passes.script_key(each): n for n, each in enumerate(scripts)}
    order = sorted(places.values())
    at = [order.index(places[switch_passes.script_key(each)]) for each in scripts]
    return Case(followed, tuple(scripts[n] for n in order), at[-1], at[-2]), at[:-2]


def _columns(case: Case, results: Sequence[Measured], place: int) -> dict[str, Any]:
    own, oracle, ignore = results[place], results[case.oracle], results[case.ignore]
    found = {
        "tokens": list(case.followed),
        "choice": own.choice.tolist(),
        "attribution": _attributions(own.choice, oracle, ignore),
        "logp": own.logp.tolist(),
        "kl_oracle": own.kl_oracle.tolist(),
        "kl_ignore": own.kl_ignore.tolist(),
        "logratio_oracle": (own.logp - oracle.logp).tolist(),
        "logratio_ignore": (own.logp - ignore.logp).tolist(),
        "hidden_similarity": own.similarity.tolist(),
    }
    if own.shares is not None:
        for number, span in enumerate(switching.SPANS):
            found[f"share_{span}"] = own.shares[:, :, number].mean(axis=0).tolist()
            found[f"layer_share_{span}"] = own.shares[:, :, number].mean(axis=1).tolist()
    return found


def _attributions(chosen: Iterable[int], oracle: Measured, ignore: Measured) -> list[str]:
    return [
        attribute(*ids)
        for ids in zip(
            map(int, chosen), oracle.choice.tolist(), ignore.choice.tolist(), strict=True
        )
    ]
