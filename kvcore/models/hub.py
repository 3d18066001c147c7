"""Models in the local cache of the hub, and the commands that fetch what is not there.

Nothing here imports torch or downloads anything.
"""

from __future__ import annotations

from pathlib import Path

from kvcore.errors import MissingResource
from kvcore.models import registry
from kvcore.models.registry import INSTALL_COMMANDS, ModelEntry

PATTERNS = ("*.safetensors", "*.json", "tokenizer*")
"""Files of a hub model that are fetched: pickled weights are left out."""


def fetch_command(repo: str, revision: str | None) -> str:
    """Return the command that downloads a model without its pickled weights.

    Each pattern has its own ``--include``: behind a single one, all but the first pattern are taken
    for names of files and the weights are left out.
    """
    at = f" --revision {revision}" if revision else ""
    return f"hf download {repo}{at} " + " ".join(f'--include "{name}"' for name in PATTERNS)


def snapshot(repo: str, revision: str | None, *, gated: bool = False) -> Path:
    """Return the folder of a model in the local cache of the hub.

    Parameters
    ----------
    revision : str or None
        A commit or branch; None takes what the cache has for the main branch.
    gated : bool
        Say where its terms are accepted, if it must be fetched.

    Raises
    ------
    MissingResource
        If it is not there; names the command that fetches it, and revisions that are there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        terms = (
            f" It is gated: accept its terms at https://huggingface.co/{repo} and run "
            "`hf auth login` before."
            if gated
            else ""
        )
        raise MissingResource(
            f"model {repo!r} is not in the local hub cache{_other_revisions(repo, revision)}: run "
            f"`{fetch_command(repo, revision)}` first.{terms}"
        ) from error


def _other_revisions(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    others = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if not others:
        return ""
    wanted = f" at revision {revision}" if revision else " at the main branch's revision"
    return f"{wanted} (there it is at revision {', '.join(others)})"


def not_installed(name: str, entry: ModelEntry) -> MissingResource:
    """Build the error for a model whose wheels are not installed."""
    where = entry.source.partition(":")[2]
    hub = f", or `{fetch_command(entry.hub, entry.revision)}`" if entry.hub else ""
    return MissingResource(
        f"model {name!r} is not installed: run `{INSTALL_COMMANDS[where]}`{hub}."
    )


def check_present(name: str) -> None:
    """Raise MissingResource for a model that is not on this machine; nothing is loaded.

    Raises
    ------
    MissingResource
        As `kvcore.models.files.locate` does, in milliseconds.
    """
    entry = registry.entry_of(name)
    kind, _, where = entry.source.partition(":")
    if kind == "hub":
        snapshot(where, entry.revision, gated=entry.gated)
    elif kind in ("wheel", "parts") and not registry.installed(name):
        if entry.hub is None:
            raise not_installed(name, entry)
        try:
            snapshot(entry.hub, entry.revision)
        except MissingResource as error:
            raise not_installed(name, entry) from error
