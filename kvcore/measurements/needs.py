"""What a claim needs measured, as it is spelled, and the samples that it takes.

``bare`` is a condition on the cell's samples; ``bare@512`` on documents padded to 512 tokens,
``bare@lists`` on lists of passages to rank, ``bare@masked`` on the same lists with names masked,
``bare@seed1`` on samples and random prefixes of the next seed. ``.qdoc`` behind the set is the
target: ``bare@lists.qdoc``, ``bare@samples.answer_plain``. ``*`` stands for every layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kvcore.conditions.parse import condition
from kvcore.data import derived_texts
from kvcore.data.padding import lengthened
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Corpus, Sample
from kvcore.errors import KvError

CONTROLS = ("bare_again", "rope_roundtrip(random)")
CONTROL_SAMPLES = 64  # their differences are all rounding: more samples would not sharpen it
# Long documents, lists and choices take fewer samples: a list is ten passages.
SHARES = {"padded": 6, "lists": 6, "choices": 3}
RANKED = ("lists", "masked")
"""Sets of lists of passages to rank."""
EVERY_LAYER = "*"
ONE_BASE = "one_base"
_NEED = re.compile(
    r"(?P<condition>.+?)(?:@(?P<sample_set>\d+|lists|masked|samples|seed\d)(?:\.(?P<target>\w+))?)?",
    re.DOTALL,
)
_SEED = re.compile(r"seed(\d)")
WriteSurrogates = Callable[[Sequence[Sample], Sequence[str]], tuple[Sample, ...]]


@dataclass(frozen=True)
class Need:
    """One condition on one set of samples, scored by one target."""

    condition: str
    sample_set: str = "samples"
    target: str = "answer"

    @classmethod
    def read(cls, spelled: str) -> Need:
        """Read a need as claims spell it."""
        parts = _NEED.fullmatch(spelled)
        if parts is None:
            raise KvError(f"need {spelled!r}: write a condition, or condition@set.target.")
        return cls(
            parts["condition"], parts["sample_set"] or "samples", parts["target"] or "answer"
        )

    def __str__(self) -> str:
        target = "" if self.target == "answer" else f".{self.target}"
        sample_set = "" if self.sample_set == "samples" and not target else f"@{self.sample_set}"
        return f"{self.condition}{sample_set}{target}"

    @property
    def seed(self) -> int:
        """How much is added to the run's seed."""
        offset = _SEED.fullmatch(self.sample_set)
        return int(offset[1]) if offset else 0

    @property
    def share(self) -> str:
        """Which share of its set's samples must do, "" for all of them."""
        return "choices" if self.sample_set == "samples" and self.target != "answer" else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts that its condition takes from every sample."""
        prefixes = condition(self.condition).prefixes()
        return tuple(prefix.text for prefix in prefixes if prefix.kind in ("own", "another"))


def dataset_of(dataset: str, sample_set: str) -> str:
    """Return the dataset's name in the rows' keys: padded documents are another dataset."""
    same = sample_set == "samples" or _SEED.fullmatch(sample_set)
    return dataset if same else f"{dataset}@{sample_set}"


def sample_set_of(dataset: str, stored: str, offset: int) -> str | None:
    """Return the sample set of stored rows from dataset and offset of the seed, None for others."""
    if stored == dataset:
        return f"seed{offset}" if offset else "samples"
    ours = stored.startswith(f"{dataset}@") and not offset
    return stored.removeprefix(f"{dataset}@") if ours else None


def base_of(sample_id: str, sample_set: str) -> str:
    """Return the id that a padded or masked sample shares with the one it is made from."""
    base = sample_id.removesuffix(f"@{sample_set}")
    return base.removesuffix("#masked") if sample_set == "masked" else base


def plain(needs: Iterable[str]) -> tuple[str, ...]:
    """Return the conditions of some needs, each once."""
    return tuple(dict.fromkeys(Need.read(need).condition for need in needs))


def is_sweep(need: str) -> bool:
    """Whether a need, or its condition, stands for one of every layer."""
    return EVERY_LAYER in need and "literal" not in need


def expanded(need: Need, depth: int) -> list[Need]:
    """Return a need for every layer where its condition says so."""
    if not is_sweep(need.condition):
        return [need]
    return [
        replace(need, condition=need.condition.replace(EVERY_LAYER, str(layer)))
        for layer in range(depth)
    ]


@dataclass(frozen=True)
class NeededSamples:
    """The samples of every need, and the needs that this data cannot serve.

    `lacking`: reasons, by the need as it is spelled.
    """

    samples: Mapping[Need, tuple[Sample, ...]]
    lacking: Mapping[str, str] = field(default_factory=dict)


def choose_samples(
    spelled: Iterable[str],
    corpus: Corpus,
    *,
    limit: int,
    seed: int,
    depth: int,
    write_surrogates: WriteSurrogates,
) -> NeededSamples:
    """Choose the samples of every need, and those of the controls where ``bare`` is needed.

    Parameters
    ----------
    spelled : iterable of str
        Needs as claims spell them.
    limit : int
        Samples of the cell; sets that cost more take a share of them (`SHARES`).
    depth : int
        Layers of the model, for sweeps over every layer.
    write_surrogates : callable
        Takes samples and styles and gives the samples their surrogate queries; called only where
        a condition needs some.
    """
    needs = list(dict.fromkeys(n for text in spelled for n in expanded(Need.read(text), depth)))
    pools, reasons = _pools(needs, corpus, limit, seed)
    chosen: dict[Need, tuple[Sample, ...]] = {}
    lacking: dict[str, str] = {}
    for need in needs:
        reason = reasons.get(need.sample_set) or _missing_text(need, corpus, pools[need.sample_set])
        if reason:
            lacking[str(need)] = reason
        else:
            pool = pools[need.sample_set]
            chosen[need] = pool[: _count(len(pool), need.share)] if need.share else pool
    chosen = _with_surrogates(chosen, pools.get("samples", ()), write_surrogates)
    chosen = _with_derived(chosen, corpus, seed, write_surrogates)
    bare = chosen.get(Need("bare"), ())
    controls = {Need(name): bare[:CONTROL_SAMPLES] for name in CONTROLS if bare}
    return NeededSamples(chosen | controls, lacking)


def _pools(
    needs: Iterable[Need], corpus: Corpus, limit: int, seed: int
) -> tuple[dict[str, tuple[Sample, ...]], dict[str, str]]:
    """Return the samples of every set, and why the corpus has none for some."""
    pools: dict[str, tuple[Sample, ...]] = {}
    reasons: dict[str, str] = {}
    for need in {need.sample_set: need for need in needs}.values():
        if need.sample_set not in RANKED:
            pools[need.sample_set] = _pool(need, corpus, limit, seed)
            continue
        try:
            ranked = ranking_lists(
                corpus, _count(limit, "lists"), seed, masked=need.sample_set == "masked"
            )
        except KvError as error:
            reasons[need.sample_set] = str(error)
        else:
            pools[need.sample_set] = tuple(candidate.sample for candidate in ranked)
    return pools, reasons


def _pool(need: Need, corpus: Corpus, limit: int, seed: int) -> tuple[Sample, ...]:
    """Return the samples of a set other than lists."""
    if need.sample_set == "samples":
        return corpus.choose(limit, seed)
    if need.seed:
        few = _count(limit, "choices")
        return corpus.choose(few, seed + need.seed)
    some = corpus.choose(_count(limit, "padded"), seed)
    return lengthened(some, corpus.samples, int(need.sample_set), seed)


def _count(limit: int, share: str) -> int:
    return max(2, limit // SHARES[share])


def _missing_text(need: Need, corpus: Corpus, pool: Sequence[Sample]) -> str:
    """Return why the samples lack a text that a need's condition takes from them, "" if not."""
    lacks = "past_query" in need.texts and not any(
        dict(sample.texts).get("past_query") for sample in pool
    )
    if lacks:
        return f"{corpus.name} brings no past queries of its passages"
    clusters = {sample.cluster for sample in corpus.samples}
    alone = len(clusters) < 2 and any(map(derived_texts.of_another, need.texts))
    return f"{corpus.name} has no passage of another {corpus.cluster_unit}" if alone else ""


def _with_surrogates(
    chosen: dict[Need, tuple[Sample, ...]],
    pool: tuple[Sample, ...],
    write_surrogates: WriteSurrogates,
) -> dict[Need, tuple[Sample, ...]]:
    """Give the cell's samples the surrogate queries that some need takes from them."""
    texts = {text for n in chosen if n.sample_set == "samples" for text in n.texts}
    styles = sorted(
        {text.removeprefix("surrogate(").removesuffix(")") for text in texts if _written(text)}
        | {derived_texts.surrogate_style(text) for text in texts if text.startswith("shuffled(")}
    )
    if not styles:
        return chosen
    written = {sample.id: sample for sample in write_surrogates(pool, styles)}
    return {
        need: tuple(written[s.id] for s in samples) if need.sample_set == "samples" else samples
        for need, samples in chosen.items()
    }


def _written(text: str) -> bool:
    return text.startswith("surrogate(")


def _with_derived(
    chosen: dict[Need, tuple[Sample, ...]],
    corpus: Corpus,
    seed: int,
    write_surrogates: WriteSurrogates,
) -> dict[Need, tuple[Sample, ...]]:
    """Give samples the texts that follow from them and their corpus, as far as needs take some."""
    names = {need: tuple(filter(derived_texts.needs_corpus, need.texts)) for need in chosen}
    if not any(names.values()):
        return chosen
    distinct = {s.id: s for need in chosen if names[need] for s in chosen[need]}
    others = derived_texts.others_of(tuple(distinct.values()), corpus.samples, seed)
    styles = sorted(
        {
            derived_texts.surrogate_style(text)
            for need in chosen
            if need.sample_set == "samples"
            for text in names[need]
            if text.startswith("another(")
        }
    )
    if styles:
        sources = tuple({other.id: other for other in others.values()}.values())
        written = {sample.id: sample for sample in write_surrogates(sources, styles)}
        others = {name: written[other.id] for name, other in others.items()}
    keywords = derived_texts.keywords_in([sample.passage for sample in corpus.samples])
    return {
        need: derived_texts.with_derived(samples, others, keywords, names[need], seed)
        if names[need]
        else samples
        for need, samples in chosen.items()
    }
