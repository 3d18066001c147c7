"""How fast predictions follow a context that is switched in mid-answer.

Every way to switch is followed along the same tokens, so that its curves can be compared, and in
free generation, so that its answers can be checked. A switch's two contexts are each read once;
every way is then one row of a pass on top of those caches. Hidden states are kept for the tokens
that count only, and the LM head turns them into logits in small parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvcore import attention as looking
from kvcore import cache as kv
from kvcore import forward, generation, scoring, switches
from kvcore.errors import KvError
from kvcore.switches import Ids, Opening, Script, Switch, Tokenized, Way

if TYPE_CHECKING:
    import torch

    from kvcore.cache import KVCache, Pile
    from kvcore.forward import Pass
    from kvcore.models import LM

LOGITS = {"cpu": 2**24, "cuda": 2**27}  # numbers in one part of the logits, before their copies
GROUP = 3  # tokens of caches held at once, in passes
CLASSES = ("original", "injected", "mixed", "neither")

Cached = dict[Ids, tuple["KVCache", int]]
"""Which batch, and which row of it, holds the cache of a sequence."""


@dataclass(frozen=True)
class Case:
    """Tokens that several scripts follow, two of them references."""

    followed: Ids
    scripts: tuple[Script, ...]
    oracle: int
    ignore: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured on one script, one number per token followed.

    Attributes
    ----------
    logp : (n,) float64
        Log-probability of the token followed, in nats.
    choice : (n,) int64
        The likeliest token.
    kl_oracle, kl_ignore : (n,) float64
        KL(this || reference) over the whole vocabulary, in nats.
    similarity : (n,) float64
        Cosine of what the LM head gets with what it gets under the oracle.
    shares : (layer, n, span) float32 or None
        Attention of the predicting token on each of `kvcore.switches.SPANS`.
    """

    logp: np.ndarray
    choice: np.ndarray
    kl_oracle: np.ndarray
    kl_ignore: np.ndarray
    similarity: np.ndarray
    shares: np.ndarray | None


def follow(lm: LM, given: Iterable[Switch], conditions: Iterable[str | Way] = switches.WAYS, *,
           steps: int = 64, attention: bool = False, seed: int = 0,
           batch_tokens: int | None = None) -> pd.DataFrame:
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
    ways = tuple(map(switches.way, conditions))
    if steps < 1:
        raise KvError(f"follow: steps={steps}; pass at least 1.")
    told = _told(lm, given)
    cases, rows = [], []
    for one in told:
        case, places = _case(lm, one, ways, steps, seed)
        cases.append(case)
        rows.append(places)
    _check(lm, [(one.id, script.length) for one, case in zip(told, cases, strict=True)
                for script in case.scripts])
    found = measure(lm, cases, attention=attention, batch_tokens=batch_tokens)
    return pd.DataFrame([
        {"switch_id": one.id, "condition": name.name, "identical": one.identical,
         "step": len(one.before), **_columns(case, results, place)}
        for one, case, results, places in zip(told, cases, found, rows, strict=True)
        for name, place in zip(ways, places, strict=True)])


def free(lm: LM, given: Iterable[Switch], conditions: Iterable[str | Way] = switches.WAYS, *,
         max_new_tokens: int, stop: Iterable[int] | None = None, seed: int = 0,
         batch_tokens: int | None = None) -> pd.DataFrame:
    """Let the model go on greedily behind every way to switch.

    Parameters
    ----------
    lm, given, conditions, seed, batch_tokens
        As `follow` takes them; the tokens of `batch_tokens` are slots here.
    max_new_tokens : int
        Tokens written behind the switch, at most. The oracle writes the tokens before it itself,
        so many more.
    stop : iterable of int, optional
        Token ids that end a text. Default: `kvcore.generation.end_ids`; ``()`` for none.

    Returns
    -------
    pandas.DataFrame
        One row per switch and condition, in the order given: `switch_id`, `condition`,
        `identical`, `step` (tokens that stood before what was written: 0 for the oracle),
        `ids` (list, what was written; a stop token is its last), `text` (all of the answer: what
        stood before and what was written, decoded, special tokens left out), and lists with an
        entry per id: `attribution` (see `attribute`), and `towards_oracle`, log P(id | oracle) -
        log P(id | ignore) in nats, both references reading the answer so far.

    Raises
    ------
    KvError
        As `follow`, also for max_new_tokens below 1 and stop ids outside the vocabulary.

    Notes
    -----
    Greedy. Exact as `kvcore.generation.generate` is: where two logits lie closer than rounding,
    another batch may choose the other token. Cost: a prefill and a step per token for each
    batch, then one teacher-forced pass per reference and row.
    """
    ways = tuple(map(switches.way, conditions))
    rule = generation.Rule(max_new_tokens, stop=generation.end_ids(lm) if stop is None
                           else frozenset(stop))
    generation._check(lm, [], rule)
    told = _told(lm, given)
    jobs = [_job(lm, one, each, max_new_tokens, seed) for one in told for each in ways]
    _check(lm, [(job.one.id, job.length) for job in jobs])
    written = _written(lm, jobs, rule, batch_tokens)
    judged = measure(lm, [_references(lm, job, ids) for job, ids in zip(
        jobs, written, strict=True)], batch_tokens=batch_tokens)
    return pd.DataFrame([_answer(lm, job, ids, results) for job, ids, results in zip(
        jobs, written, judged, strict=True)])


def refusal(lm: LM, one: Switch, conditions: Iterable[str | Way], *, steps: int = 64,
            max_new_tokens: int = 1, seed: int = 0) -> str:
    """Say why a switch can be neither followed nor gone on from; empty where it can.

    Parameters
    ----------
    lm, one, conditions, steps, max_new_tokens, seed
        As `follow` and `free` take them. No model is run.
    """
    ways = tuple(map(switches.way, conditions))
    try:
        (told,) = _told(lm, [one])
        scripts = _case(lm, told, ways, steps, seed)[0].scripts
        jobs = [_job(lm, told, each, max_new_tokens, seed) for each in ways]
        _check(lm, [(told.id, n) for n in (*(s.length for s in scripts),
                                   *(j.length for j in jobs))])
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


# --- what is wanted -----------------------------------------------------------------------------


def _told(lm: LM, given: Iterable[Switch]) -> list[Tokenized]:
    told = [switches.tokenize(lm.tokenizer, one, int(lm.config.vocab_size)) for one in given]
    ids = [one.id for one in told]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise KvError(f"two switches have the id {twice!r}; give each its own.")
    return told


def _check(lm: LM, lengths: Iterable[tuple[str, int]]) -> None:
    limit = scoring.exact_positions(lm)
    for name, length in lengths:
        if length > limit:
            raise KvError(f"switch {name!r} takes {length} positions, past the {limit} that "
                          f"{lm.name} is exact for; pass shorter contexts or fewer tokens.")


def _noise(lm: LM, one: Tokenized, given: Way, seed: int) -> Ids:
    return switches.noise_ids(lm.tokenizer, one, seed) if given.kind == "noise" else ()


def _case(lm: LM, one: Tokenized, ways: Sequence[Way], steps: int, seed: int
          ) -> tuple[Case, list[int]]:
    """Return a switch's distinct scripts, and which of them each way is."""
    wanted = [*ways, switches.way("ignore"), switches.way("oracle")]
    followed = one.after[:steps]
    scripts = [switches.script(switches.opening(
        each, one, lm.bos_id, _noise(lm, one, each, seed)), followed) for each in wanted]
    # Of equal scripts the last one names the slots: the oracle's, whatever else was asked for.
    places = {_read_as(each): n for n, each in enumerate(scripts)}
    order = sorted(places.values())
    at = [order.index(places[_read_as(each)]) for each in scripts]
    return Case(followed, tuple(scripts[n] for n in order), at[-1], at[-2]), at[:-2]


def _read_as(script: Script) -> tuple[object, ...]:
    """Return what decides a script's numbers; what its slots are called is no part of it."""
    start = script.opening
    return start.runs, start.take, script.read, script.predicts


def _columns(case: Case, results: Sequence[Measured], place: int) -> dict[str, Any]:
    own, oracle, ignore = results[place], results[case.oracle], results[case.ignore]
    found = {
        "tokens": list(case.followed), "choice": own.choice.tolist(),
        "attribution": _attributions(own.choice, oracle, ignore),
        "logp": own.logp.tolist(),
        "kl_oracle": own.kl_oracle.tolist(), "kl_ignore": own.kl_ignore.tolist(),
        "logratio_oracle": (own.logp - oracle.logp).tolist(),
        "logratio_ignore": (own.logp - ignore.logp).tolist(),
        "hidden_similarity": own.similarity.tolist()}
    if own.shares is not None:
        for number, span in enumerate(switches.SPANS):
            found[f"share_{span}"] = own.shares[:, :, number].mean(axis=0).tolist()
            found[f"layer_share_{span}"] = own.shares[:, :, number].mean(axis=1).tolist()
    return found


def _attributions(chosen: Iterable[int], oracle: Measured, ignore: Measured) -> list[str]:
    return [attribute(*ids) for ids in zip(
        map(int, chosen), oracle.choice.tolist(), ignore.choice.tolist(), strict=True)]


# --- measuring ----------------------------------------------------------------------------------


def measure(lm: LM, cases: Sequence[Case], *, attention: bool = False,
            batch_tokens: int | None = None) -> list[list[Measured]]:
    """Measure every script of every case, in groups whose caches are held at once.

    Returns
    -------
    list of list of Measured
        By case and script.
    """
    import torch

    budget, cost = _limits(lm, batch_tokens)
    done: dict[int, list[Measured]] = {}
    with torch.inference_mode():
        for group in _groups(cases, GROUP * budget):
            scripts = [(n, s) for n in group for s in cases[n].scripts]
            read = _read(lm, [s for _, s in scripts], budget, cost, attention)
            for n in group:
                mine = [found for (m, _), found in zip(scripts, read, strict=True) if m == n]
                done[n] = _reduced(lm, cases[n], mine)
    return [done[n] for n in range(len(cases))]


def _limits(lm: LM, batch_tokens: int | None) -> tuple[int, int]:
    kind = lm.device.type
    return (batch_tokens or scoring.BATCH_TOKENS.get(kind, 4096), scoring.PASS_COST.get(kind, 128))


def _groups(cases: Sequence[Case], budget: int) -> Iterator[list[int]]:
    """Cut the cases, sorted by length, into groups whose runs do not exceed a budget of slots."""
    sizes = [sum(len(run) for run in {r for s in case.scripts for r in s.opening.runs})
             for case in cases]
    group: list[int] = []
    for n in sorted(range(len(cases)), key=lambda n: (sizes[n], n)):
        if group and sum(sizes[m] for m in group) + sizes[n] > budget:
            yield group
            group = []
        group.append(n)
    if group:
        yield group


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a pass left of one script: (n, hidden) before the LM head, and attention shares."""

    hidden: torch.Tensor
    shares: np.ndarray | None


def _read(lm: LM, scripts: Sequence[Script], budget: int, cost: int, attention: bool
          ) -> list[_Seen]:
    """Read scripts on top of their caches, equal sequences and equal scripts once each."""
    cached = _prefilled(lm, [s.opening for s in scripts], budget, cost)
    ordered = sorted(range(len(scripts)), key=lambda n: (len(scripts[n].read), n))
    done: dict[int, _Seen] = {}
    for a, b in scoring.cut([len(scripts[n].read) for n in ordered], budget, cost):
        part = ordered[a:b]
        seen = _one_pass(lm, [scripts[n] for n in part], cached, attention)
        done |= dict(zip(part, seen, strict=True))
    return [done[n] for n in range(len(scripts))]


def _one_pass(lm: LM, part: Sequence[Script], cached: Cached, attention: bool) -> list[_Seen]:
    cache = kv.Pile(tuple(opened(lm, s.opening, cached) for s in part))
    given = on_top(lm, cache, [s.read for s in part])
    wanted = [s.predicts for s in part]
    if not attention:
        hidden = _hidden(lm, given, wanted)
        shares: list[Any] = [None] * len(part)
    else:
        with looking.watched(lm, wanted, _slots(part, cache.slots), len(switches.SPANS)) as (
                as_loaded, watch):
            hidden = _hidden(as_loaded, given, wanted)
        layers = np.stack([watch.seen[i].cpu().numpy() for i in sorted(watch.seen)])
        shares = [layers[:, row, : len(w)] for row, w in enumerate(wanted)]
    return [_Seen(*found) for found in zip(hidden, shares, strict=True)]


def _slots(part: Sequence[Script], slots: int) -> list[list[int]]:
    """Return what each key slot holds; padding behind a row's cached slots holds nothing seen."""
    cached = [len(s.opening.cached) for s in part]
    return [[*s.holds[:n], *[switches.BOS] * (slots - n), *s.holds[n:]]
            for s, n in zip(part, cached, strict=True)]


def _hidden(lm: LM, given: Pass, wanted: Sequence[Ids]) -> list[torch.Tensor]:
    """Run a pass and return what the LM head would get for the wanted tokens of each row."""
    taken: list[list[torch.Tensor]] = []

    def take(hidden: torch.Tensor) -> torch.Tensor:
        taken.append([hidden[row, list(columns)] for row, columns in enumerate(wanted)])
        return hidden

    with _before_head(lm, take):
        forward.logits(lm, given, ((), ()))
    return taken[0]


def _logits(lm: LM, hidden: torch.Tensor) -> torch.Tensor:
    """Return the logits of hidden states, (n, vocab) float32.

    The model's own forward runs on a single BOS, so that whatever it does to logits is done to
    these; only its LM head is handed the hidden states in place of BOS's.
    """
    n = hidden.shape[0]
    with _before_head(lm, lambda _bos: hidden.unsqueeze(0)):
        logits = forward.logits(lm, forward.prepare(lm, [[lm.bos_id]], [0]),
                                ([0] * n, range(n))).float()
    if not bool(logits.isfinite().all()):
        raise KvError(f"{lm.name}: the logits are not finite; load the model in another dtype.")
    return logits


@contextmanager
def _before_head(lm: LM, change: Any) -> Iterator[None]:
    """Hand the LM head's input to a function, before `forward` picks from what that returns."""
    head = lm.model.get_output_embeddings()
    if head is None:
        raise KvError(f"{lm.name}: no LM head found; load a causal language model.")
    handle = head.register_forward_pre_hook(
        lambda _module, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _reduced(lm: LM, case: Case, seen: Sequence[_Seen]) -> list[Measured]:
    """Reduce a case's logits, a few tokens of all its scripts at a time."""
    import torch

    budget = LOGITS.get(lm.device.type, 2**26)
    width = max(1, budget // (len(seen) * int(lm.config.vocab_size)))
    hidden = torch.stack([s.hidden for s in seen])
    parts = []
    for start in range(0, len(case.followed), width):
        some = hidden[:, start : start + width]
        logits = _logits(lm, some.flatten(0, 1)).view(*some.shape[:2], -1)
        parts.append(_numbers(logits, case, case.followed[start : start + width]))
    similar = torch.nn.functional.cosine_similarity(
        hidden.float(), hidden[case.oracle].float().unsqueeze(0), dim=-1).double().cpu().numpy()
    logp, choice, oracle, ignore = (np.concatenate(p, axis=1) for p in zip(*parts, strict=True))
    return [Measured(logp[n], choice[n], oracle[n], ignore[n], similar[n], seen[n].shares)
            for n in range(len(seen))]


def _numbers(logits: torch.Tensor, case: Case, followed: Ids) -> tuple[np.ndarray, ...]:
    """Return the tokens' log-probabilities, the choices and both KLs, each (script, token)."""
    import torch

    logps = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(followed, device=logits.device).expand(len(logits), -1)
    kls = [torch.stack([_kl(own, logps[reference]) for own in logps])
           for reference in (case.oracle, case.ignore)]
    found = (logps.gather(2, targets.unsqueeze(2)).squeeze(2).double(), logits.argmax(dim=-1),
             *kls)
    return tuple(x.cpu().numpy() for x in found)


def _kl(own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return KL(own || reference) in nats from log-probabilities, (token,) float64, from 0."""
    import torch

    return ((own - reference) * own.exp()).sum(dim=-1, dtype=torch.float64).clamp_min(0)


# --- caches -------------------------------------------------------------------------------------


def _prefilled(lm: LM, openings: Sequence[Opening], budget: int, cost: int) -> Cached:
    """Read every distinct run of the openings once, from an empty cache."""
    runs = sorted({run for one in openings for run in one.runs}, key=lambda r: (len(r), r))
    cached: Cached = {}
    for a, b in scoring.cut([len(run) for run in runs], budget, cost):
        part = runs[a:b]
        cache = forward.fill(lm, forward.prepare(lm, part, [0] * len(part)))
        cached |= {run: (cache, row) for row, run in enumerate(part)}
    return cached


def opened(lm: LM, one: Opening, cached: Cached) -> KVCache:
    """Build one opening's cache from the runs that it is made of.

    Returns
    -------
    KVCache
        One sequence without padding, its slot i at position i; the runs are not changed.
    """
    first, last = one.take
    rows = [cached[run][0].rows([cached[run][1]]) for run in one.runs]
    kept = rows[0].keep([range(first)])
    if len(rows) == 1:
        return kept
    length = len(one.runs[1])
    return closed(lm, beside(kept, rows[1].keep([range(length - last, length)])))


def beside(first: KVCache, second: KVCache) -> KVCache:
    """Join the slots of two caches of as many sequences, positions as they are."""
    import torch

    def joined(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]
               ) -> tuple[torch.Tensor, ...]:
        return tuple(torch.cat(pair, dim=2) for pair in zip(a, b, strict=True))

    return kv.KVCache(joined(first.keys, second.keys), joined(first.values, second.values),
                      torch.cat([first.positions, second.positions], dim=1),
                      torch.cat([first.real, second.real], dim=1))


def closed(lm: LM, cache: KVCache) -> KVCache:
    """Move slot i to position i, its keys turned to match; padding stays."""
    import torch

    wanted = torch.arange(cache.slots, device=cache.positions.device).unsqueeze(0)
    return cache.reposition(lm, forward.rope_plan(lm), (wanted - cache.positions) * cache.real)


def on_top(lm: LM, cache: KVCache | Pile, read: Sequence[Ids]) -> Pass:
    """Return the pass that reads tokens right behind what is cached of each row."""
    return forward.prepare(lm, read, cache.lengths().tolist(), cache)


# --- free generation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One answer that is wanted."""

    one: Tokenized
    way: Way
    opening: Opening
    before: Ids
    most: int

    @property
    def slots(self) -> int:
        """Slots in use once the answer is written."""
        injected = sum(len(part) for _, part in self.opening.later)
        return len(self.opening.cached) + len(self.opening.read) + injected + self.most

    @property
    def length(self) -> int:
        """Positions in use until the answer is written and both references have read it."""
        context = max(len(self.one.original), len(self.one.new))
        return max(self.slots, 1 + context + len(self.before) + self.most,
                   *(len(run) + 1 for run in self.opening.runs))


def _job(lm: LM, one: Tokenized, given: Way, most: int, seed: int) -> _Job:
    if given.kind == "oracle":
        start = switches.fresh(one.new, switches.INJECTED, (), lm.bos_id)
        return _Job(one, given, start, (), len(one.before) + most)
    start = switches.opening(given, one, lm.bos_id, _noise(lm, one, given, seed))
    return _Job(one, given, start, one.before, most)


def _references(lm: LM, job: _Job, ids: Ids) -> Case:
    """Let both references read what was written."""
    oracle, ignore = (switches.script(switches.fresh(context, kind, job.before, lm.bos_id), ids)
                      for context, kind in ((job.one.new, switches.INJECTED),
                                            (job.one.original, switches.ORIGINAL)))
    same = _read_as(oracle) == _read_as(ignore)
    return Case(ids, (oracle,) if same else (oracle, ignore), 0, 0 if same else 1)


def _answer(lm: LM, job: _Job, ids: Ids, results: Sequence[Measured]) -> dict[str, Any]:
    oracle, ignore = results[0], results[-1]
    return {"switch_id": job.one.id, "condition": job.way.name, "identical": job.one.identical,
            "step": len(job.before), "ids": list(ids),
            "text": str(lm.tokenizer.decode([*job.before, *ids], skip_special_tokens=True)),
            "attribution": _attributions(ids, oracle, ignore),
            "towards_oracle": (oracle.logp - ignore.logp).tolist()}


def _written(lm: LM, jobs: Sequence[_Job], rule: generation.Rule, batch_tokens: int | None
             ) -> list[Ids]:
    """Write every answer, in batches of answers of like length."""
    import torch

    budget, cost = _limits(lm, None)
    slots = batch_tokens or generation.BATCH_TOKENS.get(lm.device.type, 16384)
    done: dict[int, Ids] = {}
    with torch.inference_mode():
        for part in generation._batches([job.slots for job in jobs], slots):
            batch = [jobs[n] for n in part]
            cached = _prefilled(lm, [job.opening for job in batch], budget, cost)
            done |= dict(zip(part, _write(lm, batch, cached, rule), strict=True))
    return [done[n] for n in range(len(jobs))]


def _write(lm: LM, jobs: Sequence[_Job], cached: Cached, rule: generation.Rule) -> list[Ids]:
    """Write for one batch, a token a step; what is injected on the way is read a token a step."""
    cache = kv.stack([opened(lm, job.opening, cached) for job in jobs])
    read = [job.opening.read for job in jobs]
    logits, cache = forward.run(lm, on_top(lm, cache, read),
                                (range(len(jobs)), [len(ids) - 1 for ids in read]))
    live = _live(cache)
    pages = [_Page(job, rule.stop) for job in jobs]
    going = list(pages)
    while True:
        chosen = generation._choose(lm, logits.float(), rule, 0, np.zeros(len(going)))
        next_ids = [page.next(token) for page, token in zip(going, chosen, strict=True)]
        rows = [row for row, page in enumerate(going) if not page.ended]
        if not rows:
            return [tuple(page.ids) for page in pages]
        live = live.grown(next_ids, rows)
        going = [going[row] for row in rows]
        logits = live.next_logits(lm)


class _Page:
    """An answer being written, and what is yet to be injected into it."""

    def __init__(self, job: _Job, stop: frozenset[int]) -> None:
        self.ids: list[int] = []
        self._job, self._stop = job, stop
        self._due: list[int] = []
        self._later = dict(job.opening.later)

    def next(self, chosen: int) -> int:
        """Return the token to be read next: one that is due, or else the chosen one."""
        if not self._due:
            self._due = list(self._later.pop(len(self.ids), ()))
        if self._due:
            return self._due.pop(0)
        self.ids.append(chosen)
        return chosen

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be written."""
        return len(self.ids) == self._job.most or (bool(self.ids) and self.ids[-1] in self._stop)


def _live(cache: KVCache) -> generation._Live:
    """Return a batch to be written behind a cache, its padding moved to the front of each row."""
    order = cache.real.int().argsort(dim=1, stable=True)
    aligned = cache.select(order, cache.real.gather(1, order))
    return generation._Live(aligned.positions[:, :0], aligned.positions, aligned.real,
                            aligned.to_model())
