"""Datasets of the hub, at pinned revisions, through one loader for hub and local files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcore.corpora.sample import Corpus, Sample
from kvcore.errors import KvError, MissingResource

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "microsoft/ms_marco"
# The head of the repository's main branch, unchanged since January 2024.
REVISION = "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a"
FILE = "v1.1/validation-00000-of-00001.parquet"
COLUMNS = ("answers", "passages", "query", "query_id")
WORDS = (50, 300)  # white-space separated, as in the published study
NO_ANSWER = "No Answer Present."
TIMEOUT = 5.0  # seconds until a hub that does not answer counts as absent


def sample_of(row: Mapping[str, Any]) -> Sample | str:
    """Turn one row of MS MARCO into a sample, or into the reason why there is none.

    Parameters
    ----------
    row : mapping
        ``query`` and ``query_id``; ``answers``: list of str; ``passages``: parallel lists
        ``is_selected`` (0 or 1), ``passage_text`` and ``url``.
    """
    query = (row["query"] or "").strip()
    answer = next((text.strip() for text in row["answers"] or () if text and text.strip()), "")
    passages = row["passages"]
    pairs = zip(passages["is_selected"], passages["passage_text"], strict=True)
    passage = next(((text or "").strip() for chosen, text in pairs if chosen == 1), None)
    if not query:
        return "empty query"
    if not answer:
        return "empty answer"
    if answer == NO_ANSWER:
        return "no answer present"
    if passage is None:
        return "no selected passage"
    if not passage:
        return "empty passage"
    if not WORDS[0] <= len(passage.split()) <= WORDS[1]:
        return f"passage not {WORDS[0]} to {WORDS[1]} words"
    return Sample(query, passage, answer, id=str(row["query_id"]), cluster=str(row["query_id"]))


def samples_of(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Turn rows into samples with unique query ids, and counts of what was dropped, by reason."""
    kept: dict[str, Sample] = {}
    dropped: Counter[str] = Counter()
    for made in map(sample_of, rows):
        if isinstance(made, str):
            dropped[made] += 1
        elif made.id in kept:
            dropped["repeated query id"] += 1
        else:
            kept[made.id] = made
    return tuple(kept.values()), dict(sorted(dropped.items()))


def ms_marco_from(dataset: Dataset, revision: str = REVISION) -> Corpus:
    """Make the corpus from a dataset that has the hub's columns.

    Raises
    ------
    KvError
        Where a column lacks, or no row makes a sample.
    """
    lacking = [name for name in COLUMNS if name not in dataset.column_names]
    if lacking:
        raise KvError(
            f"ms_marco: column {lacking[0]!r} lacks; needed are {', '.join(COLUMNS)}, "
            f"given are {', '.join(dataset.column_names)}."
        )
    samples, dropped = samples_of(dataset)
    if not samples:
        raise KvError(f"ms_marco: none of {len(dataset)} rows makes a sample; dropped: {dropped}.")
    note = "MS MARCO v1.1 validation: the selected passage of each query, first answer"
    return Corpus("ms_marco", samples, dropped, revision, "query", note)


def read_parquet(path: Path) -> Dataset:
    """Read a Parquet file as the hub's own are read."""
    from datasets import load_dataset

    return load_dataset("parquet", data_files={"validation": str(path)}, split="validation")


def hub_answers() -> bool:
    """Tell whether the hub may be asked and answers in time; proxies are honoured."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # whatever the transport raises, it means no hub
        return False
    return True


def hub_file() -> Path:
    """Return the local copy of the dataset's file, fetched once where the hub answers.

    Raises
    ------
    MissingResource
        Where there is no copy and the hub cannot be reached or refuses.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(REPOSITORY, FILE, repo_type="dataset", revision=REVISION)
    if isinstance(cached, str):
        return Path(cached)
    why = "the hub is offline or does not answer"
    if hub_answers():
        try:
            fetched = hf_hub_download(
                REPOSITORY, FILE, repo_type="dataset", revision=REVISION, etag_timeout=TIMEOUT
            )
            return Path(fetched)
        except Exception as error:  # network, access and disk all end in one line
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    raise MissingResource(
        f"ms_marco is not on this machine ({why}); with network, run: "
        f"hf download {REPOSITORY} {FILE} --repo-type dataset --revision {REVISION}"
    )


def load_ms_marco() -> Corpus:
    """Load MS MARCO v1.1 validation at the pinned revision.

    Raises
    ------
    MissingResource
        Where it is neither in the hub's cache nor reachable; says the command that fetches it.
    """
    return ms_marco_from(read_parquet(hub_file()))
