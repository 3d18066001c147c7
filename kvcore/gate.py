"""The gate at load: a model's own forward, one masked pass and caches agree, or it is refused.

Two token sequences, one short and one long, are scored in the dtype and on the device that will
measure, under `bare` and under a truncated condition::

    route                          bare   truncated
    the model's own forward         x                 no mask, no positions, no cache, alone
    one masked pass                 x        x        alone
    one masked pass in a batch      x        x        both sequences, padded
    caches                          x        x        alone
    caches in a batch               x        x        both sequences, padded

The long sequence reaches past every window that the configuration names; past what no longer
sequence is admitted for (`kvcore.engine.limits.exact_positions`) it never goes. What is admitted
is remembered on disk and in the process.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

from kvcore import io
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Condition
from kvcore.engine import build, forward, limits, one_pass
from kvcore.engine.forward import ForwardInput
from kvcore.engine.prepared import PreparedSample
from kvcore.errors import KvError, NotExact, one_line
from kvcore.models.lm import LM
from kvcore.tokenization import TokenizedSample

# Largest mean difference of an answer token's NLL between two routes, in nats. On the tiny models
# it is at most 1e-6, 2.5e-3 and 2.2e-2.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
CONDITIONS = ("bare", "oracle")
OWN, PASS, PASS_BATCH = "its own forward", "one masked pass", "one masked pass in a batch"
CACHE, CACHE_BATCH = "caches", "caches in a batch"
PREFIX, PROMPT, ANSWER = 8, 8, 20  # tokens
SHORT, LONG = 12, 128  # tokens of the two documents where there is no window
TRIAL = 4  # tokens of the pass that shows whether the model runs at all
TEXT = (
    "The sample mean is the sum of the entries divided by their number. A prefix is read before "
    "the document and dropped again; what remains of it is in the keys and the values. In 1847, "
    "the harbour's keeper counted 36 ships, most of them loaded with timber, salt and wool.\n"
)
SOURCES = ("cache", "conditions", "engine", "models", "gate.py", "loading.py")
Scores = Mapping[str, Mapping[str, list[float]]]
"""By sample and condition, then by route: the NLL of each answer token, in nats."""

ADMITTED: set[str] = set()


def check(lm: LM) -> None:
    """Refuse a model on which the routes to a score do not agree; what is admitted is remembered.

    Raises
    ------
    KvError
        Naming the model, two routes and the two numbers that differ, or the dtype to use.

    Notes
    -----
    Some twenty passes the first time, of which four have twice the length of the widest window.
    """
    key = record_key(lm)
    if key in ADMITTED:
        return
    path = io.cache_folder() / "gates" / f"{key}.json"
    if not path.is_file():
        differences = check_scores(lm, route_scores(lm))
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"model": lm.name, "dtype": lm.dtype, "largest differences, nats": differences}
        io.write_atomically(path, json.dumps(record, indent=1) + "\n", flush=False)
    ADMITTED.add(key)


def record_key(lm: LM) -> str:
    """Return what tells apart all that a gate's result can hang on, as 64 hex digits."""
    device = lm.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(lm.device)
    return io.json_digest(
        [
            lm.files.model_id,
            lm.dtype,
            lm.files.quantization,
            lm.bos_id,
            lm.files.tokenizer_id,
            lm.config._attn_implementation,
            device,
            torch.__version__,
            transformers.__version__,
            instrument_hash(),
        ]
    )


@functools.cache
def instrument_hash() -> str:
    # Of bytes, comments and all: a gate that is passed once too often costs a second.
    paths = (Path(__file__).parent / source for source in SOURCES)
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) or [path])]
    return io.digest(*map(io.file_sha256, files))


def try_pass(lm: LM) -> None:
    """Run one short pass with positions and a mask, and refuse a model that cannot.

    Raises
    ------
    KvError
        Naming what the model's forward raised; `NotExact` where fewer layers cache than there are.
    """
    step = forward.pad_ids(lm, [_ids(lm, 1 + TRIAL), _ids(lm, TRIAL)], [0, 0])
    with refused_in_one_line(lm, "given positions, a 4-D mask and a plain cache"):
        forward.run_model(lm, step, ([0], [0]), use_cache=False)
        _, cache = forward.run(lm, step, ([0], [0]))
    if len(cache.keys) != lm.config.num_hidden_layers:
        raise NotExact(
            f"{lm.name}: {len(cache.keys)} of {lm.config.num_hidden_layers} layers cache keys and "
            "values (layers that share them); use a model that caches them in every layer."
        )


@contextmanager
def refused_in_one_line(lm: LM, what: str) -> Iterator[None]:
    """Turn whatever a model's own code raises into one line; memory errors pass.

    Parameters
    ----------
    what : str
        What the model is run with.
    """
    try:
        yield
    except KvError:
        raise
    except Exception as error:  # of code that is not ours: whatever it may be
        if limits.is_out_of_memory(error):
            raise
        raise KvError(
            f"{lm.name}: {type(lm.model).__name__} cannot be run with {what} ({one_line(error)}); "
            "use a decoder with rotary positions."
        ) from error


# --- scores ------------------------------------------------------------------------------------


def route_scores(lm: LM) -> Scores:
    """Score the two samples under both conditions by every route."""
    scores: dict[str, dict[str, list[float]]] = {}
    conditions = [condition(name) for name in CONDITIONS]
    samples = gate_samples(lm, conditions)
    for each in conditions:
        both = {
            PASS_BATCH: _in_one_pass(lm, samples, each),
            CACHE_BATCH: _on_caches(lm, samples, each),
        }
        for row, sample in enumerate(samples):
            routes = {name: nlls[row] for name, nlls in both.items()}
            routes[PASS] = _in_one_pass(lm, [sample], each)[0]
            routes[CACHE] = _on_caches(lm, [sample], each)[0]
            if each.name == "bare":
                routes[OWN] = _by_own_forward(lm, sample, each)
            scores[f"{sample.tokens.sample_id}, {each.name}"] = routes
    return scores


def gate_samples(lm: LM, conditions: Sequence[Condition]) -> list[PreparedSample]:
    """Return a short sample, and one that reaches past every window that can be crossed."""
    limit = limits.exact_positions(lm)
    widest = max((w for w in limits.windows(lm.config) if w < limit), default=0)
    around = 1 + PREFIX + PROMPT + ANSWER
    room = limit - around
    if room < 1:
        raise KvError(
            f"{lm.name}: it is exact for {limit} positions, and the shortest sample that it is "
            f"tried on has {around + 1}; use a model with a longer context."
        )
    long = min(room, max(LONG, widest + limits.PAST_WINDOW - around))
    return [
        _sample(lm, name, length, conditions)
        for name, length in (("short", min(SHORT, room)), ("long", long))
    ]


def _sample(lm: LM, name: str, length: int, conditions: Sequence[Condition]) -> PreparedSample:
    ids = _ids(lm, PREFIX + length + PROMPT + ANSWER)
    ends = (PREFIX, PREFIX + length, PREFIX + length + PROMPT)
    prefix, document, prompt, answer = (
        ids[a:b] for a, b in zip((0, *ends), (*ends, None), strict=True)
    )
    tokens = TokenizedSample(name, prefix, document, prompt, answer, clean_boundary=True)
    prefixes = {p for each in conditions for p in each.prefixes()}
    ids_of = {p: () if p.kind == "none" else prefix for p in prefixes}
    return PreparedSample(tokens, ids_of, bos=lm.has_bos)


def _ids(lm: LM, count: int) -> tuple[int, ...]:
    """Return token ids of the text, from its start again where it ends."""
    ids = lm.tokenizer.encode(TEXT, add_special_tokens=False) or [lm.bos_id]
    return tuple(ids[i % len(ids)] for i in range(count))


def _by_own_forward(lm: LM, sample: PreparedSample, each: Condition) -> list[float]:
    ids = one_pass.one_pass(sample, each, lm.bos_id).ids
    first = len(ids) - len(sample.tokens.answer)
    columns = range(first, len(ids))
    return _nlls(forward.own_logits(lm, ids, columns), [sample])[0]


def _in_one_pass(lm: LM, samples: Sequence[PreparedSample], each: Condition) -> list[list[float]]:
    sequences = [one_pass.one_pass(sample, each, lm.bos_id) for sample in samples]
    step = forward.pad_sequences(lm, sequences)
    return _read(lm, step, samples, [len(sequence.ids) for sequence in sequences])


def _on_caches(lm: LM, samples: Sequence[PreparedSample], each: Condition) -> list[list[float]]:
    cache = build.build(lm, each.recipe, {}, samples)
    ends = [len(sample.query_ids()) for sample in samples]
    return _read(lm, build.query_input(lm, cache, samples), samples, ends)


def _read(
    lm: LM, step: ForwardInput, samples: Sequence[PreparedSample], ends: Sequence[int]
) -> list[list[float]]:
    """Run a pass and return the NLLs of the answers; each row's last token predicts the last."""
    places = [
        (row, end - len(sample.tokens.answer) + i)
        for row, (sample, end) in enumerate(zip(samples, ends, strict=True))
        for i in range(len(sample.tokens.answer))
    ]
    rows, columns = zip(*places, strict=True)
    return _nlls(forward.logits(lm, step, (rows, columns), share_layers=True), samples)


def _nlls(logits: torch.Tensor, samples: Sequence[PreparedSample]) -> list[list[float]]:
    answers = [sample.tokens.answer for sample in samples]
    targets = torch.tensor([token for ids in answers for token in ids], device=logits.device)
    nlls = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return [of_answer.tolist() for of_answer in nlls.split([len(ids) for ids in answers])]


# --- refusals ----------------------------------------------------------------------------------


def check_scores(lm: LM, scores: Scores) -> dict[str, float]:
    """Refuse scores that are not finite, or that differ from route to route.

    Returns
    -------
    dict of str to float
        By sample and condition the largest mean difference, in nats.
    """
    for routes in scores.values():
        for route, nlls in routes.items():
            if not all(map(math.isfinite, nlls)):
                raise KvError(_not_finite(lm, route))
    return {place: largest_difference(lm, place, routes) for place, routes in scores.items()}


def _not_finite(lm: LM, route: str) -> str:
    if lm.dtype == "float16":
        return f"{lm.name} overflows in float16 ({route}): use --kv-dtype bfloat16."
    advice = "its weights are damaged" if lm.dtype == "float32" else "use --kv-dtype float32"
    return f"{lm.name}: its scores are not finite in {lm.dtype} ({route}); {advice}."


def largest_difference(lm: LM, place: str, routes: Mapping[str, list[float]]) -> float:
    reference = OWN if OWN in routes else PASS
    allowed = TOLERANCES[lm.dtype]
    largest = 0.0
    for route, nlls in routes.items():
        pairs = list(zip(routes[reference], nlls, strict=True))
        off = math.fsum(abs(a - b) for a, b in pairs) / len(pairs)
        if off > allowed:
            a, b = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
            raise KvError(
                f"{lm.name} ({lm.dtype}): {reference} and {route} do not agree ({place}): one "
                f"answer token's NLL is {a:.5f} and {b:.5f} nats, the mean difference {off:.1e}, "
                f"allowed {allowed:.0e}; this model is not supported."
            )
        largest = max(largest, off)
    return largest
