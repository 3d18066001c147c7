"""Where answers look and where sinks are: held against eager attention and plain scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

import kvcore
from invariants.oracle import plain
from invariants.support.comparing import Fault, assert_scores, must_see, replaced
from invariants.support.plain_routes import EXPECTED, Case
from invariants.support.samples import LONG, SHORT
from kvcore import loading
from kvcore.conditions.parse import condition
from kvcore.engine import attention_shares, limits
from kvcore.engine import sinks as norms
from kvcore.errors import KvError
from kvcore.measurements import sink_diagnosis, sink_parts, sinks
from kvcore.measurements.kinds import attention_sinks
from kvcore.models import tiny
from kvcore.models.lm import LM

WHOLE = ("bare", "full_context(oracle)", "full_context(random)")
"""Conditions whose whole prefill is seen: plain attention over one sequence tells the shares."""
NAMES = (*WHOLE, "oracle", "keep_first(oracle,4)", "keep_sink(oracle)")
TOLERANCE = 1e-5


def measured(lm: LM, names: Sequence[str]) -> pd.DataFrame:
    """Measure two samples of unlike length in shared passes."""
    requests = [(sample, [condition(name) for name in names]) for sample in (LONG, SHORT)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(limits.PASS_COST, "cpu", 10**6)  # so dear that unlike samples share a pass
        return sinks.measure_sinks(lm, requests)


def prefix_of(case: Case, name: str) -> list[int]:
    """Return the ids that a condition reads before the document."""
    if name == "bare":
        return []
    return case.random if "random" in name else case.question


def check_scores(lm: LM) -> None:
    """Compare NLLs with each condition's plain route, and sinks with the model's own states."""
    rows = measured(lm, NAMES).set_index(["sample_id", "condition"])
    for sample in (LONG, SHORT):
        case = Case(lm, sample)
        for name in NAMES:
            row = rows.loc[sample.id, name]
            nlls = EXPECTED.get(name, EXPECTED["bare"])(case)
            assert_scores([row.nll], [sum(nlls) / len(nlls)], name)
            read = [*prefix_of(case, name), *case.document]
            assert row.sink_slot == plain.sink_of(lm.model, lm.bos_id, read, []), name
            assert abs(sum(row.profile) - 1) < TOLERANCE, f"{name}: shares sum to another number"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-qwen2"])
def test_scores_and_sinks_equal_the_plain_routes(name: str) -> None:
    """Would catch another cache or answer than a score's, or a sink of another slot or layer."""
    check_scores(loading.load(name, device="cpu"))


@pytest.mark.parametrize(
    "fault",
    [
        replaced(norms, "middle_layer", lambda _real, _lm: 2),
        replaced(norms, "hidden_norms", lambda real, lm, ids: real(lm, ids).flip(1)),
        replaced(
            sinks, "token_nlls", lambda real, *given: [[x + 1 for x in n] for n in real(*given)]
        ),
    ],
    ids=["layer", "slots", "nlls"],
)
def test_twin_scores_and_sinks(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to another layer, another slot or another NLL."""
    must_see(fault, check_scores, llama)


def plain_shares(lm: LM, ids: Sequence[int], answer: int) -> torch.Tensor:
    """Return the mean attention of the tokens that predict the answer, by eager attention."""
    model, _ = tiny.build(lm.name)
    model.set_attn_implementation("eager")
    model.eval()
    with torch.inference_mode():
        out = model(torch.tensor([list(ids)]), use_cache=False, output_attentions=True)
    rows = range(len(ids) - answer, len(ids))
    layers = [layer[0].mean(dim=0)[list(rows)].mean(dim=0) for layer in out.attentions]
    return torch.stack(layers).mean(dim=0)


def check_shares(lm: LM) -> None:
    """Compare shares with eager attention.

    1. Production: recorded while the answer is read on a cache, samples in one batch.
    2. Plain: the whole sequence at once, one sample, attention matrices of every layer.
    """
    rows = measured(lm, WHOLE).set_index(["sample_id", "condition"])
    for sample in (LONG, SHORT):
        case = Case(lm, sample)
        prompt, answer = case.asked
        for name in WHOLE:
            row, prefix = rows.loc[sample.id, name], prefix_of(case, name)
            cached = [lm.bos_id, *prefix, *case.document]
            shares = plain_shares(lm, [*cached, *prompt, *answer[:-1]], len(answer))
            at = [0, 1 + len(prefix), len(cached)]
            first, last = len(prefix), len(case.document)
            parts = [
                shares[0],
                *(shares[1 + i] if i < first else 0.0 for i in range(sink_parts.SINGLE)),
                shares[1 + min(first, sink_parts.SINGLE) : at[1]].sum(),
                *(shares[at[1] + i] if i < last else 0.0 for i in range(sink_parts.SINGLE)),
                shares[at[1] + min(last, sink_parts.SINGLE) : at[2]].sum(),
                0.0,
                shares[at[2] :].sum(),
            ]
            for part, found, wanted in zip(sink_parts.PARTS, row.profile, parts, strict=True):
                assert abs(found - float(wanted)) < TOLERANCE, f"{name}: {part}"
            assert abs(row.bos_share - float(shares[0])) < TOLERANCE
            assert abs(row.sink_share - float(shares[row.sink_slot])) < TOLERANCE, name
            assert abs(row.prefix_share - float(shares[1 : at[1]].sum())) < TOLERANCE


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-qwen2"])
def test_shares_equal_eager_attention(name: str) -> None:
    """Would catch shares of other tokens, slots, layers or rows, or parts mixed up."""
    check_shares(loading.load(name, device="cpu"))


def check_parts(lm: LM) -> None:
    """Compare what the picture shows, attention by part of the cache, with eager attention.

    1. Production: from rows, whose shares are recorded while answers are read on caches.
    2. Plain: slots summed up here, the sink found by the model's own hidden states.
    """
    rows = measured(lm, WHOLE).set_index(["sample_id", "condition"])
    parts = sink_diagnosis.shares_by_part(rows)
    for sample in (LONG, SHORT):
        case = Case(lm, sample)
        prompt, answer = case.asked
        for name in WHOLE:
            prefix = prefix_of(case, name)
            read = [*prefix, *case.document]
            ids = [lm.bos_id, *read, *prompt, *answer[:-1]]
            shares = plain_shares(lm, ids, len(answer)).tolist()
            sink = plain.sink_of(lm.model, lm.bos_id, read, [])
            wanted = dict.fromkeys(sink_diagnosis.SHARES, 0.0)
            for slot, share in enumerate(shares):
                wanted[part_of(slot, sink, len(prefix), len(read))] += share
            for part, share in wanted.items():
                found = parts.loc[(sample.id, name), part]
                assert abs(found - share) < TOLERANCE, f"{name}: {part}"


def part_of(slot: int, sink: int, prefix: int, cached: int) -> str:
    """Return the part of the cache that a slot belongs to, BOS being slot 0."""
    if slot == 0 or slot > cached:
        return "question and answer" if slot else "BOS"
    place = "prefix" if slot <= prefix else "document"
    return f"the sink, in the {place}" if slot == sink else f"the rest of the {place}"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-qwen2"])
def test_attention_by_part_equals_eager_attention(name: str) -> None:
    """Would catch a sink counted twice, or as another part than the one that holds it."""
    check_parts(loading.load(name, device="cpu"))


@pytest.mark.parametrize(
    "fault",
    [
        replaced(
            sink_diagnosis,
            "shares_by_part",
            lambda real, rows: real(rows.assign(sink_part="document")),
        ),
        replaced(norms, "hidden_norms", lambda real, lm, ids: real(lm, ids).flip(1)),
    ],
    ids=["parts", "sink"],
)
def test_twin_attention_by_part(fault: Fault) -> None:
    """Would catch a check blind to parts mixed up, or to a sink of another slot."""
    must_see(fault, check_parts, loading.load("tiny-gemma3", device="cpu"))


def no_prefix(patch: pytest.MonkeyPatch) -> None:
    """Take every slot but BOS's for the document's."""
    right = sinks.held_by
    patch.setattr(
        sinks,
        "held_by",
        lambda roles: ["document" if name == "prefix" else name for name in right(roles)],
    )


def other_tokens(patch: pytest.MonkeyPatch) -> None:
    """Record where the tokens before those that predict the answer look."""
    right = attention_shares.record_shares
    patch.setattr(
        attention_shares,
        "record_shares",
        lambda lm, columns, *more: right(lm, [[c - 1 for c in own] for own in columns], *more),
    )


@pytest.mark.parametrize("fault", [no_prefix, other_tokens])
def test_twin_shares(llama: LM, fault: Fault) -> None:
    """Would catch a check blind to a prefix counted as the document, or to other tokens."""
    must_see(fault, check_shares, llama)


def test_a_sink_that_was_dropped_gets_no_attention() -> None:
    """Would catch attention of another slot shown as the sink's after truncation."""
    lm = loading.load("tiny-gemma3", device="cpu")
    rows = measured(lm, ("oracle", "keep_sink(oracle)")).set_index(["sample_id", "condition"])
    dropped, kept = (rows.loc[LONG.id, name] for name in ("oracle", "keep_sink(oracle)"))
    assert dropped.sink_part == kept.sink_part == "prefix"
    assert dropped.sink_share == 0.0
    assert kept.sink_share > 0.0
    assert kept.sink_share == pytest.approx(kept.prefix_share, abs=1e-6)


def test_samples_that_cannot_be_measured_say_why(llama: LM) -> None:
    """Would catch numbers where a sample has no text for a condition."""
    bare = replace(LONG, texts=())
    (row,) = sinks.measure_sinks(llama, [(bare, [condition("click_history(1)")])]).itertuples()
    assert row.status == "the sample has no text 'past_query'"
    assert pd.isna(row.nll)


@pytest.mark.parametrize("need", ["bare@512", "bare@samples.qdoc"])
def test_other_samples_are_refused(need: str) -> None:
    """Would catch a need that is measured on other samples than it names."""
    with pytest.raises(KvError, match="the cell's own samples"):
        attention_sinks.check_need(need)


# --- in words ------------------------------------------------------------------------------------


def rows_of(bare: float, primed: str) -> pd.DataFrame:
    """Return rows with a share on BOS, and where a primed pass has its sink."""
    shared = {"status": "ok", "sink_share": 0.3}
    return pd.DataFrame(
        [
            {"condition": "bare", "bos_share": bare, "sink_part": "document", **shared},
            {"condition": "random", "bos_share": 0.01, "sink_part": primed, **shared},
        ]
    )


@pytest.mark.parametrize(
    ("bare", "primed", "said"),
    [
        (0.33, "BOS", "BOS is the sink"),
        (0.002, "prefix", "the sink is not BOS (0.002): truncation removes it"),
        (0.002, "document", "the sink is not BOS (0.002), nor in the prefix"),
        (float("nan"), "prefix", "there is no BOS: truncation removes the sink"),
    ],
)
def test_where_the_sink_is_in_words(bare: float, primed: str, said: str) -> None:
    """Would catch a sentence that says the opposite of the rows."""
    assert sink_diagnosis.in_words(rows_of(bare, primed)).startswith(said)


# --- the diagnosis -------------------------------------------------------------------------------


def with_known_sinks() -> tuple[LM, int, int]:
    """Return a model that has a sink where two tokens stand, and their slots bare and primed.

    A token of the passage has a long embedding, one of the query a longer one.
    """
    lm = loading.load("tiny-llama", device="cpu")
    case = Case(lm, LONG)
    document, question = case.document, case.question
    inside = next(i for i in document if document.count(i) == 1 and i not in question)
    before = next(i for i in question if question.count(i) == 1 and i not in document)
    embeddings: Any = lm.model.get_input_embeddings()
    weight = embeddings.weight
    with torch.no_grad():
        weight[inside] *= 100 / weight[inside].norm()
        weight[before] *= 1000 / weight[before].norm()
    return lm, 1 + document.index(inside), 1 + question.index(before)


def check_diagnosis() -> None:
    """Demand that a sink is found where it was put, with its token."""
    lm, bare, primed = with_known_sinks()
    found = kvcore.diagnose_sinks(lm, [LONG], prefix="oracle")
    assert (found.bare.part, found.bare.slot) == ("document", bare)
    assert (found.primed.part, found.primed.slot) == ("prefix", primed)
    case = Case(lm, LONG)
    read = [lm.bos_id, *case.question]
    assert found.primed.token == lm.tokenizer.decode([read[primed]])
    assert found.in_words.endswith("truncation removes it")
    assert min(found.bare.norm, found.primed.norm) > 10


def test_a_sink_on_a_known_slot_is_found() -> None:
    """Would catch a sink looked for in another layer or pass, or a slot counted without BOS."""
    check_diagnosis()


@pytest.mark.parametrize(
    "fault",
    [
        replaced(norms, "hidden_norms", lambda real, lm, ids: real(lm, ids).flip(1)),
        replaced(sink_diagnosis, "place_of", lambda real, rows: real(rows.assign(sink_slot=0))),
    ],
    ids=["norms", "slot"],
)
def test_twin_a_sink_on_a_known_slot(fault: Fault) -> None:
    """Would catch a check blind to another slot."""
    must_see(fault, check_diagnosis)


def check_places(lm: LM) -> None:
    """Compare a diagnosis of two samples with eager attention and the model's own states."""
    found = kvcore.diagnose_sinks(lm, [LONG, SHORT], prefix="oracle")
    for place, primed in ((found.bare, False), (found.primed, True)):
        shares = []
        for sample in (LONG, SHORT):
            case = Case(lm, sample)
            prompt, answer = case.asked
            read = [*(case.question if primed else ()), *case.document]
            attention = plain_shares(lm, [lm.bos_id, *read, *prompt, *answer[:-1]], len(answer))
            sink = plain.sink_of(lm.model, lm.bos_id, read, [])
            shares.append((float(attention[sink]), float(attention[0])))
        assert place.samples == 2
        assert abs(place.sink_share - sum(s for s, _ in shares) / 2) < TOLERANCE
        assert abs(place.bos_share - sum(b for _, b in shares) / 2) < TOLERANCE


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_a_diagnosis_equals_eager_attention(name: str) -> None:
    """Would catch shares of truncated passes, of one sample, or of the other kind of pass."""
    check_places(loading.load(name, device="cpu"))


def test_twin_a_diagnosis_of_truncated_passes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a check that takes a prefix dropped again for one in place."""
    monkeypatch.setattr(sink_diagnosis, "SEEN", "keep_sink")
    with pytest.raises(AssertionError):
        check_places(loading.load("tiny-gemma3", device="cpu"))


def test_a_diagnosis_without_a_sample_that_can_be_measured_says_why(llama: LM) -> None:
    """Would catch figures of nothing, or a traceback in place of a line."""
    long = replace(SHORT, passage="sum " * 5000)
    with pytest.raises(KvError, match="none of 1 samples can be measured"):
        kvcore.diagnose_sinks(llama, [long])
