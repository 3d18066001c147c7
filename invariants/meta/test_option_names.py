"""Names and paths of a run's options: each model and each file counts once."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims.harness import options
from invariants.support.comparing import must_see, replaced
from kvcore.errors import KvError


def named(*names: str) -> tuple[str, ...]:
    """Return what `--kv-models` makes of names."""
    parse = next(option.parse for option in options.OPTIONS if option.name == "models")
    found: tuple[str, ...] = parse("--kv-models", ",".join(names))
    return found


def check_once(folder: Path) -> None:
    """Of two spellings of a place the first is kept; other places and names all are."""
    one, two = folder / "one" / "model", folder / "two" / "model"
    for path in (one, two):
        path.mkdir(parents=True, exist_ok=True)
    link = folder / "link"
    if not link.exists():
        link.symlink_to(one)
    spelled = (f"{one}/", str(two), str(one), str(link), f"{two}/../model", f"texts:{one}")
    assert named(*spelled) == (str(one), str(two), f"texts:{one}")
    assert named("tiny-llama", "org/name", "tiny-llama", "org/name ") == ("tiny-llama", "org/name")


def test_a_place_counts_once(tmp_path: Path) -> None:
    """Catches a model or file that is judged twice, and halves the share of false verdicts."""
    check_once(tmp_path)


def test_a_registered_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a registered model left out for a folder of its name."""
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named("smollm2-135m", "./smollm2-135m") == ("smollm2-135m", "./smollm2-135m")


@pytest.mark.parametrize("name", ["_place", "_without_slash"])
def test_twin_a_place_counts_once(name: str, tmp_path: Path) -> None:
    """Catches a test blind to paths that are compared as they are spelled."""
    must_see(replaced(options, name, lambda _, path: path), check_once, tmp_path)


@pytest.mark.parametrize("text", [",", " ", ", ,"])
def test_names_of_nothing(text: str) -> None:
    """Catches empty shell variables that start a run of all default cells."""
    with pytest.raises(KvError, match=r"--kv-models .* names nothing; pass names, or leave it out"):
        named(text)


def test_no_names_are_the_default() -> None:
    """Catches a default that is refused."""
    assert named("") == ()
