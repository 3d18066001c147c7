"""Results are computed once, again when damaged, and under a key that names all they depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvcore import analysis
from kvcore.analysis import Estimate, IntervalSettings, cached
from kvcore.errors import KvError

DAMAGES = ("truncated", "empty", "binary", "list", "flipped", "other-key")


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    damaged = {
        "truncated": text[: len(text) // 2],
        "empty": "",
        "binary": "\x00\x01",
        "list": "[]",
        "flipped": text.replace('"n": 3', '"n": 4'),
        "other-key": text.replace("abc", "abd"),
    }[how]
    assert damaged != text
    path.write_text(damaged)


def check_cache(folder: Path, how: str | None) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return analysis.effect_size(
            [1.0, 2.0, 4.0], interval=IntervalSettings(resamples=9)
        ).to_dict()

    def stored() -> Estimate:
        return Estimate.from_dict(analysis.cached_json(folder / "cache", "abc", compute))

    first = stored()
    assert first.n == 3
    assert stored() == first
    assert len(calls) == 1
    if how:
        damage(folder / "cache" / "abc.json", how)
        assert stored() == first
        assert len(calls) == 2
    assert [p.name for p in (folder / "cache").iterdir()] == ["abc.json"]
    assert json.loads((folder / "cache" / "abc.json").read_text())["key"] == "abc"


@pytest.mark.parametrize("how", [None, *DAMAGES], ids=["whole", *DAMAGES])
def test_an_estimate_is_computed_once_and_again_when_damaged(
    tmp_path: Path, how: str | None
) -> None:
    """A damaged file that is believed, or a whole one that is not."""
    check_cache(tmp_path, how)


def test_twin_cache_sees_an_unchecked_flip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of damage that a cache without checksums passes."""
    monkeypatch.setattr(cached, "json_digest", lambda _value: "same")
    with pytest.raises(AssertionError):
        check_cache(tmp_path, "flipped")


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """A result lost because its file could not be written."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    computed = analysis.cached_json(
        blocked, "abc", lambda: analysis.to_plain(analysis.paired_effect([1.0], [2.0]))
    )
    assert computed["mean"]["value"] == -1.0


@pytest.mark.parametrize("key", ["", "../x", "a/b", "ä"])
def test_a_key_that_is_no_file_name_is_refused(key: str) -> None:
    """A file written outside the cache."""
    with pytest.raises(KvError, match="key_hash must be letters, digits and '-'"):
        analysis.cached_json(".", key, dict)


def test_the_key_of_an_estimate_names_all_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result recalled for other rows, parameters or code than it was computed with."""
    key = analysis.estimate_key("rows", "effect_size", {"seed": 0, "confidence": 0.95})
    assert key == analysis.estimate_key("rows", "effect_size", {"confidence": 0.95, "seed": 0})
    assert key != analysis.estimate_key("rows2", "effect_size", {"seed": 0, "confidence": 0.95})
    assert key != analysis.estimate_key("rows", "oldham", {"seed": 0, "confidence": 0.95})
    assert key != analysis.estimate_key("rows", "effect_size", {"seed": 1, "confidence": 0.95})
    folder = tmp_path / "analysis"
    (folder / "ranking").mkdir(parents=True)
    for module in sorted(cached.CODE.rglob("*.py")):
        (folder / module.relative_to(cached.CODE)).write_bytes(module.read_bytes())
    monkeypatch.setattr(cached, "CODE", folder)
    assert key == analysis.estimate_key("rows", "effect_size", {"seed": 0, "confidence": 0.95})
    changed = tmp_path / "changed"
    folder.rename(changed)
    (changed / "ranking" / "metrics.py").write_text("K = 9\n")
    monkeypatch.setattr(cached, "CODE", changed)
    assert key != analysis.estimate_key("rows", "effect_size", {"seed": 0, "confidence": 0.95})
