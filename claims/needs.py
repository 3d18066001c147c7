"""What a claim needs measured, as it is spelled, and the samples that it takes.

``bare`` is a condition on the cell's samples; ``bare@512`` on documents padded to 512 tokens,
``bare@lists`` on lists of passages to rank, ``bare@masked`` on the same lists with names masked,
``bare@seed1`` on samples and random prefixes of the next seed. ``.qdoc`` behind the place is the
target: ``bare@lists.qdoc``, ``bare@samples.answer_plain``. ``*`` stands for every layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kvcore.conditions.parse import condition
from kvcore.data.padding import lengthened
from kvcore.data.ranking_lists import ranking_lists
from kvcore.data.sample import Corpus, Sample, choose_samples
from kvcore.errors import KvError

CONTROLS = ("bare_again", "rope_roundtrip(random)")
CONTROL_SAMPLES = 64  # their differences are all rounding: more samples would not sharpen it
# Long documents, lists and choices take fewer samples: a list is ten passages.
SHARES = {"padded": 6, "lists": 6, "choices": 3}
EVERY_LAYER = "*"
ONE_BASE = "one_base"
_NEED = re.compile(r"(?P<condition>.+?)(?:@(?P<place>\d+|lists|masked|samples|seed\d)"
                   r"(?:\.(?P<target>\w+))?)?", re.DOTALL)
_SEED = re.compile(r"seed(\d)")


@dataclass(frozen=True)
class Need:
    """One condition on one kind of samples, asked by one target."""

    condition: str
    place: str = "samples"
    target: str = "answer"

    @classmethod
    def read(cls, spelled: str) -> Need:
        """Read a need as claims spell it."""
        found = _NEED.fullmatch(spelled)
        if found is None:
            raise KvError(f"need {spelled!r}: write a condition, or condition@place.target.")
        return cls(found["condition"], found["place"] or "samples", found["target"] or "answer")

    def __str__(self) -> str:
        target = "" if self.target == "answer" else f".{self.target}"
        place = "" if self.place == "samples" and not target else f"@{self.place}"
        return f"{self.condition}{place}{target}"

    @property
    def seed(self) -> int:
        """How much is added to the run's seed."""
        found = _SEED.fullmatch(self.place)
        return int(found[1]) if found else 0

    @property
    def share(self) -> str:
        """Which share of its place's samples must do, "" for all of them."""
        return "choices" if self.place == "samples" and self.target != "answer" else ""


def dataset_of(dataset: str, place: str) -> str:
    """Return the dataset's name in the rows' keys: padded documents are another dataset."""
    return dataset if place == "samples" or _SEED.fullmatch(place) else f"{dataset}@{place}"


def place_of(dataset: str, stored: str, offset: int) -> str | None:
    """Return the place of stored rows from their dataset and the seed's offset, None for others."""
    if stored == dataset:
        return f"seed{offset}" if offset else "samples"
    ours = stored.startswith(f"{dataset}@") and not offset
    return stored.removeprefix(f"{dataset}@") if ours else None


def base_of(sample_id: str, place: str) -> str:
    """Return the id that a padded or masked sample shares with the one it is made from."""
    return sample_id.removesuffix(f"@{place}").removesuffix("#masked" if place == "masked" else "")


def plain(needs: Iterable[str]) -> tuple[str, ...]:
    """Return the conditions of some needs, each once."""
    return tuple(dict.fromkeys(Need.read(need).condition for need in needs))


@dataclass(frozen=True)
class Asked:
    """The samples of every need, and the needs that this data cannot serve.

    Attributes
    ----------
    samples : mapping of Need to samples
    lacking : mapping of str to str
        Reasons, by the need as it is spelled.
    """

    samples: Mapping[Need, tuple[Sample, ...]]
    lacking: Mapping[str, str] = field(default_factory=dict)


Surrogates = Callable[[Sequence[Any], Sequence[str]], tuple[Any, ...]]


def ask(spelled: Iterable[str], corpus: Corpus, *, limit: int, seed: int, depth: int,
        surrogates: Surrogates) -> Asked:
    """Choose the samples of every need.

    Parameters
    ----------
    limit : int
        Samples of the cell; places that cost more take a share of them (`SHARES`).
    depth : int
        Layers of the model, for sweeps over every layer.
    surrogates : callable
        Takes samples and styles and gives the samples their surrogate queries.
    """
    needs = [one for need in spelled for one in expanded(Need.read(need), depth)]
    chosen: dict[Need, tuple[Sample, ...]] = {}
    lacking: dict[str, str] = {}
    pools: dict[str, tuple[Sample, ...] | str] = {}
    for need in dict.fromkeys(needs):
        if need.place not in pools:
            pools[need.place] = _pool(need, corpus, limit, seed)
        pool = pools[need.place]
        texts = _texts(need)
        if isinstance(pool, str):
            lacking[str(need)] = pool
        elif "past_query" in texts and not any(dict(s.texts).get("past_query") for s in pool):
            lacking[str(need)] = f"{corpus.name} brings no past queries of its passages"
        else:
            chosen[need] = pool[: max(2, len(pool) // SHARES[need.share])] if need.share else pool
    styles = sorted({text[len("surrogate("):-1] for need in chosen for text in _texts(need)
                     if text.startswith("surrogate(")})
    if styles:
        written = {s.id: s for s in surrogates(pools["samples"], styles)}
        chosen = {need: tuple(written[s.id] for s in some) if need.place == "samples" else some
                  for need, some in chosen.items()}
    some = next((found for need, found in chosen.items() if need == Need("bare")), ())
    controls = {Need(name): some[:CONTROL_SAMPLES] for name in CONTROLS if some}
    return Asked(chosen | controls, lacking)


def expanded(need: Need, depth: int) -> list[Need]:
    """Return a need for every layer where its condition says so."""
    if EVERY_LAYER not in need.condition or "literal" in need.condition:
        return [need]
    return [replace(need, condition=need.condition.replace(EVERY_LAYER, str(layer)))
            for layer in range(depth)]


def _texts(need: Need) -> tuple[str, ...]:
    return tuple(p.text for p in condition(need.condition).prefixes() if p.kind == "own")


def _pool(need: Need, corpus: Corpus, limit: int, seed: int) -> tuple[Sample, ...] | str:
    """Return the samples of a place, or why the corpus has none."""
    if need.place == "samples":
        return choose_samples(corpus.samples, limit, seed)
    if need.seed:
        return choose_samples(corpus.samples, max(2, limit // SHARES["choices"]), seed + need.seed)
    count = max(2, limit // SHARES["lists" if need.place in ("lists", "masked") else "padded"])
    if need.place.isdigit():
        some = choose_samples(corpus.samples, count, seed)
        return lengthened(some, corpus.samples, int(need.place), seed)
    try:
        ranked = ranking_lists(corpus, count, seed, masked=need.place == "masked")
    except KvError as error:
        return str(error)
    return tuple(candidate.sample for candidate in ranked)
