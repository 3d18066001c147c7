"""What is compared: each contender turns the same samples into per-answer NLL sums."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from invariants.oracle import plain
from kvcore.conditions import parse
from kvcore.data.sample import Sample
from kvcore.engine import prepared
from kvcore.errors import KvError, MissingResource
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM
from kvcore.tokenization import Unusable

PRIMED = ("bare", "oracle", "random")
VISIBLE = ("full_context(oracle)",)

Key = tuple[str, ...]
"""What a number is of: sample id and condition, and the target where there are several."""
Sums = dict[Key, float]
"""For each key an NLL in nats: of the whole answer, or per answer token where a part says so."""
Contender = Callable[[], Sums]


@dataclass(frozen=True)
class Request:
    """One answer to score under one condition, as token ids without BOS."""

    sample_id: str
    condition: str
    prefix: tuple[int, ...]
    doc: tuple[int, ...]
    query: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def sees_prefix(self) -> bool:
        """Whether the query may attend to the prefix."""
        return self.condition in VISIBLE

    @property
    def key(self) -> tuple[str, str]:
        """The request's place in a contender's results."""
        return self.sample_id, self.condition


def requests(lm: LM, samples: Sequence[Sample], names: Sequence[str], seed: int) -> list[Request]:
    """Tokenize every sample for every condition; raises `Unusable` where one cannot be."""
    return [_request(lm, sample, name, seed) for sample in samples for name in names]


def notebook(lm: LM, wanted: Sequence[Request]) -> Contender:
    """Prepare the notebook's procedure: one sample at a time, every logit of every pass."""

    def run() -> Sums:
        return {r.key: sum(_plainly(plain.truncated_nlls, lm, r)) for r in wanted}

    return run


def one_pass(lm: LM, wanted: Sequence[Request]) -> Contender:
    """Prepare the route without cache surgery, as a check on the other two."""

    def run() -> Sums:
        return {r.key: sum(_plainly(plain.one_pass_nlls, lm, r)) for r in wanted}

    return run


def engine(lm: LM, samples: Sequence[Sample], names: Sequence[str], seed: int) -> Contender:
    """Prepare this project's engine, its tokenization and random prefixes included."""

    def run() -> Sums:
        rows = answer_nll.score(lm, samples, names, seed=seed)
        if (rows.status != "ok").any():
            raise KvError(f"benchmark samples must all be measurable: {set(rows.status)}")
        return {
            (row.sample_id, row.condition): row.nll * row.n_answer_tokens
            for row in rows.itertuples(index=False)
        }

    return run


def harness(lm: LM, wanted: Sequence[Request], batch_size: int) -> Contender:
    """Prepare lm-evaluation-harness on the same loaded model and the very same token ids.

    Raises
    ------
    MissingResource
        If ``lm-eval`` is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingResource(
            "lm-eval is not installed, so it is left out: pip install --no-deps lm-eval==0.4.13"
        )
    from lm_eval.models.huggingface import HFLM  # here: the package is optional

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns that a loaded model is odd
    peer = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)
    asked: list[Any] = [
        (("", ""), [lm.bos_id, *r.prefix, *r.doc, *r.query], list(r.answer)) for r in wanted
    ]

    def run() -> Sums:
        found = peer._loglikelihood_tokens(asked, disable_tqdm=True)
        return {r.key: -log_prob for r, (log_prob, _) in zip(wanted, found, strict=True)}

    return run


def usable(lm: LM, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Return the first `count` samples that every condition can be measured on."""
    chosen: list[Sample] = []
    for sample in samples:
        with contextlib.suppress(Unusable):
            requests(lm, [sample], [*PRIMED, *VISIBLE], seed)
            chosen.append(sample)
        if len(chosen) == count:
            break
    return chosen


def _request(lm: LM, sample: Sample, name: str, seed: int) -> Request:
    given = parse.condition(name)
    ready = prepared.prepare_one(lm, sample, given, seed)
    read = ready.tokens
    prefix = ready.prefixes[given.prefixes()[0]]
    return Request(str(sample.id), name, prefix, read.document, read.prompt, read.answer)


def _plainly(route: Callable[..., list[float]], lm: LM, r: Request) -> list[float]:
    return route(lm.model, lm.bos_id, r.prefix, r.doc, r.query, r.answer)
