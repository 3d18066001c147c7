"""What claims need: sample sets and targets, their samples, and rows of several versions."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claims.harness.rows import CellRows, Measured
from invariants.support.comparing import must_see
from invariants.support.strategies import condition_names
from kvcore.data.sample import Corpus, Sample
from kvcore.errors import MissingResource
from kvcore.measurements.collect import CollectedRows, join_code_versions
from kvcore.measurements.kinds.answer_nll import SCHEMA
from kvcore.measurements.needs import (
    Need,
    NeededSamples,
    base_of,
    choose_samples,
    dataset_of,
    sample_set_of,
)
from kvcore.measurements.surrogate_store import attach
from kvcore.store import agreement
from kvcore.store.schema import KEY

PLACES = ["samples", "256", "2048", "lists", "masked", "seed1", "seed2"]


def letters(number: int) -> str:
    """Spell a number as a word that no other number has."""
    return "".join(chr(97 + number // 26**k % 26) for k in range(4))


def corpus(count: int = 30, **texts: str) -> Corpus:
    samples = tuple(
        Sample(
            f"what does m{i % 3}.f{i} do",
            " ".join(letters(31 * i + k) for k in range(20)),
            f"answer {chr(97 + i)}",
            id=f"m{i % 3}.f{i}",
            cluster=f"m{i % 3}",
            texts=tuple(texts.items()),
        )
        for i in range(count)
    )
    return Corpus("x", samples, {}, "r", "module", "")


def asked(
    *spelled: str, of: Corpus | None = None, limit: int = 30, depth: int = 4
) -> NeededSamples:
    def surrogates(samples: Any, styles: Any) -> Any:
        return attach(samples, {style: [f"{style} text"] * len(samples) for style in styles})

    return choose_samples(
        spelled, of or corpus(), limit=limit, seed=0, depth=depth, write_surrogates=surrogates
    )


@given(condition_names(), st.sampled_from(PLACES), st.sampled_from(["answer", "qdoc"]))
def test_a_need_comes_back_from_its_spelling(name: str, sample_set: str, target: str) -> None:
    """Whatever the condition, a literal with an @ included."""
    need = Need(name, sample_set, target)
    assert Need.read(str(need)) == need


@pytest.mark.parametrize("sample_set", PLACES)
def test_a_place_comes_back_from_the_stored_dataset(sample_set: str) -> None:
    """Padded, ranked and masked documents are datasets of their own; a seed is a seed."""
    offset = Need("bare", sample_set).seed
    stored = dataset_of("docstrings", sample_set)
    assert sample_set_of("docstrings", stored, offset) == sample_set
    assert sample_set_of("docs", stored, offset) is None


def test_a_padded_and_a_masked_sample_go_by_the_id_of_what_they_are_made_from() -> None:
    """An id that happens to end like a padded one is left alone elsewhere."""
    assert base_of("a@256", "256") == "a"
    assert base_of("a@256", "samples") == "a@256"
    assert base_of("q#p#masked", "masked") == "q#p"


def test_expensive_needs_take_a_share_of_the_samples() -> None:
    """Padded documents and lists a sixth, other wordings and seeds a third."""
    found = {
        str(need): some
        for need, some in asked(
            "bare",
            "bare@256",
            "values_early_layers(static_fact,0.3)",
            "bare@lists",
            "bare@seed1",
            "bare@samples.answer_plain",
        ).samples.items()
    }
    assert {name: len(some) for name, some in found.items()} == {
        "bare": 30,
        "bare@256": 5,
        "values_early_layers(static_fact,0.3)": 30,
        "bare@lists": 50,
        "bare@seed1": 10,
        "bare_again": 30,
        "bare@samples.answer_plain": 10,
        "rope_roundtrip(random)": 30,
    }
    assert [s.id for s in found["bare@256"]] == [f"{s.id}@256" for s in found["bare"][:5]]


def test_a_sweep_is_asked_of_every_layer() -> None:
    """As many needs as the model has layers."""
    found = asked("values_layer(static_fact,*)", depth=3).samples
    assert [str(need) for need in found] == [f"values_layer(static_fact,{k})" for k in range(3)]


def test_what_the_data_cannot_give_is_said() -> None:
    """No past queries, no clusters to rank within: a reason by need, and the rest is asked."""
    alone = Corpus(
        "x",
        tuple(Sample(f"q{i}", "some words", "a", id=f"s{i}") for i in range(9)),
        {},
        "r",
        "sample",
        "",
    )
    found = asked("bare", "bare@lists", "click_history(5)", of=alone)
    assert "cannot be ranked" in found.lacking["bare@lists"]
    assert found.lacking["click_history(5)"] == "x brings no past queries of its passages"
    assert Need("bare") in found.samples
    assert Need("click_history(5)") in asked("click_history(5)", of=corpus(past_query="q")).samples


def test_surrogates_are_written_for_all_samples_and_change_nothing_else() -> None:
    """Every sample brings its surrogate; its passage and answer are what they were."""
    found = asked("bare", "llm_surrogate(need)").samples
    plain = {s.id: s for s in corpus().samples}
    for sample in found[Need("llm_surrogate(need)")]:
        assert dict(sample.texts) == {"surrogate(need)": "need text"}
        assert sample.content_hash == plain[sample.id].content_hash


# --- rows side by side --------------------------------------------------------------------------


def frame(ids: list[str], need: list[str], nll: list[float], cluster: list[str]) -> Any:
    sample_sets = [Need.read(n).sample_set for n in need]
    return pd.DataFrame(
        {
            "sample": [base_of(*p) for p in zip(ids, sample_sets, strict=True)],
            "status": "ok",
            "cluster": cluster,
            "need": need,
            "sample_set": sample_sets,
            "nll": nll,
        }
    )


def cell(rows: Any, **lacking: str) -> Measured:
    return Measured("m", "d", SCHEMA, CollectedRows(rows, "r", {}, lacking))


def test_padded_documents_stand_where_their_samples_stand() -> None:
    """Rows of padded documents pair with one another and with nothing that is not padded."""
    rows = frame(
        ["a", "b", "c", "b@256", "a@256"],
        ["bare"] * 3 + ["bare@256"] * 2,
        [1.0, 2.0, 3.0, 20, 10],
        ["m"] * 5,
    )
    assert cell(rows).of("bare", "nll").values.tolist() == [1, 2, 3]
    assert cell(rows).of("bare@256", "nll").values.tolist() == [10, 20]
    with pytest.raises(MissingResource, match="no measurable rows of 'bare@512'"):
        cell(rows).of("bare@512", "nll")
    with pytest.raises(MissingResource, match="never"):
        cell(rows, **{"bare@lists": "never"}).of("bare@lists", "nll")


def test_every_layer_is_handed_out_by_its_number() -> None:
    """In the order of the layers, not of their spelling."""
    layers = [10, 2, 0]
    rows = frame(["a"] * 3, [f"values_layer(random,{k})" for k in layers], [1.0, 2, 3], ["m"] * 3)
    cell_rows = CellRows(cell(rows), "nll")
    found = cell_rows("values_layer(random,*)")
    assert isinstance(found, dict)
    assert {k: r.values.tolist() for k, r in found.items()} == {0: [3], 2: [2], 10: [1]}
    assert list(found) == [0, 2, 10]
    needs = cell_rows.spelled_out(("bare", "values_layer(random,*)", "bare"))
    assert needs == ("bare", *(f"values_layer(random,{k})" for k in (0, 2, 10)))
    with pytest.raises(MissingResource, match="no measurable rows"):
        cell_rows("values_layer(oracle,*)")


def versions(shift: float, both: int) -> pd.DataFrame:
    """Rows of two versions of the code, of which some were measured twice."""
    one = pd.DataFrame({"sample_id": [f"s{i}" for i in range(20)], "code": "new"})
    two = pd.DataFrame({"sample_id": [f"s{i}" for i in range(20 - both, 30)], "code": "old"})
    rows = pd.concat([one, two], ignore_index=True)
    rest = {name: "x" for name in KEY if name not in rows.columns}
    nll = [float(i[1:]) / 10 for i in rows["sample_id"]]
    rows = rows.assign(**(rest | {"dtype": "float32"}), status="ok", nll=nll)
    return rows.assign(nll=rows["nll"] + shift * (rows["code"] == "old"))


def check_versions(shift: float, both: int, kept: int) -> None:
    found, said = join_code_versions(versions(shift, both), SCHEMA)
    assert len(found) == kept, said
    assert not found["sample_id"].duplicated().any()


def test_versions_of_the_code_are_joined_where_they_agree() -> None:
    """Agreeing rows extend each other; disagreeing ones, or none in common, are left out."""
    check_versions(1e-7, 5, 30)
    check_versions(1e-3, 5, 20)
    check_versions(0.0, 0, 20)
    assert "they differ by" in join_code_versions(versions(1e-3, 5), SCHEMA)[1]
    assert "none measured twice" in join_code_versions(versions(0.0, 0), SCHEMA)[1]

    def blind(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(agreement.TOLERANCES, "float32", 1.0)

    must_see(blind, check_versions, 1e-3, 5, 20)
