"""Which data this machine lacks, known without reading or fetching any."""

from __future__ import annotations

from kvcore.data.context_pairs.load import PUBLISHED
from kvcore.data.datasets import HUB, PASSAGES, SERVICE_MANUALS
from kvcore.data.docstrings.load import versions
from kvcore.data.hub import HubDataset, cached_files
from kvcore.data.service_manuals.load import version
from kvcore.data.texts import WIKITEXT
from kvcore.errors import MissingResource


def hub_dataset(name: str) -> HubDataset | None:
    """Return where a dataset, corpus of texts or of pairs lies on the hub, if it does."""
    pairs = {pair_name: data for pair_name, (data, _) in PUBLISHED.items()}
    return {**HUB, PASSAGES: HUB["ms_marco"], **pairs, WIKITEXT.name: WIKITEXT}.get(name)


def check_present(name: str) -> None:
    """Raise MissingResource for data that is not on this machine, with the command that fetches it.

    Parameters
    ----------
    name : str
        Of a dataset, of texts or of pairs; a path is not looked at.
    """
    if name == "docstrings":
        versions()
    if name == SERVICE_MANUALS:
        version()
    data = hub_dataset(name)
    if data is not None and len(cached_files(data)) < len(data.files):
        raise MissingResource(f"{name} is not on this machine: run `{data.fetch_command}` first.")
