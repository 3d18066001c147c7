"""Caches that begin without BOS: what is read first is the first token, and may be dropped."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import pytest

from invariants.oracle import plain
from invariants.support import claim_runs
from invariants.support.comparing import (
    Fault,
    assert_rows_equal,
    assert_scores,
    in_one_batch,
    must_see,
)
from invariants.support.plain_routes import EXPECTED, Case, both_routes
from invariants.support.samples import LONG, SHORT
from kvcore import loading
from kvcore.engine import prepared
from kvcore.errors import KvError, MissingResource
from kvcore.measurements import answer_nll
from kvcore.measurements.base import MeasureRequest
from kvcore.measurements.collect import collect_rows
from kvcore.measurements.kinds import context_switch
from kvcore.models.files import locate
from kvcore.models.lm import LM

WITHOUT: Mapping[str, str] = {
    "bos_only": "without BOS nothing would be cached",
    "swap_bos(oracle)": "there is no BOS whose entry could be swapped",
    "bos_of_bare(oracle)": "there is no BOS whose entry could be swapped",
}
ROUTES: Mapping[str, tuple[int, int] | None] = {
    "oracle": (0, 0),
    "random": (0, 0),
    "keep_first(oracle,1)": (0, 1),
    "keep_first(oracle,4)": (0, 4),
    "keep_sink(oracle)": None,
}
"""Which of the prefix's tokens stay, None for the sink."""


@functools.cache
def without_bos(name: str) -> LM:
    """Load a tiny model whose caches begin without BOS."""
    return loading.load(name, device="cpu", bos="none")


def check_without_bos(name: str, route: answer_nll.Route) -> None:
    """Compare scores without BOS with the plain procedure's.

    1. Production: one masked pass (auto, of one condition), or a cache.
    2. Plain: prefilled at the positions where each part is to stand; bare by teacher forcing, its
       first token where BOS would be.
    """
    lm = without_bos(name)
    case = Case(lm, LONG)
    for spelled, stays in ROUTES.items():
        row = answer_nll.score(lm, [LONG], [spelled], route=route).iloc[0]
        prefix = case.random if spelled == "random" else case.question
        if stays is None:
            sink = plain.sink_of(lm.model, None, prefix, case.document)
            stays = (sink, sink + 1)
        first, stop = stays
        wanted = plain.kept_nlls(
            lm.model, None, prefix, case.document, *case.asked, first=first, stop=stop
        )
        assert row.status == "ok", row.status
        assert_scores(row.token_nlls, wanted, spelled)
        assert row.cache_len == len(case.document) + stop - first, f"{spelled}: other slots"
    bare = answer_nll.score(lm, [LONG], ["bare"], route=route).iloc[0]
    first_token, *rest = case.document
    assert_scores(
        bare.token_nlls, plain.bare_nlls(lm.model, first_token, rest, *case.asked), "bare"
    )


@both_routes
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-gemma3", "tiny-qwen2"])
def test_scores_without_bos_equal_the_plain_procedure(name: str, route: answer_nll.Route) -> None:
    """Would catch a BOS that is read, kept or counted where there is none."""
    check_without_bos(name, route)


def bos_after_all(patch: pytest.MonkeyPatch) -> None:
    """Begin every cache with BOS."""
    right = prepared.PreparedSample.prefill_ids
    patch.setattr(
        prepared.PreparedSample,
        "prefill_ids",
        lambda self, prefill, bos: (bos, *right(self, prefill, bos)[1:]),
    )


def first_slot_stays(patch: pytest.MonkeyPatch) -> None:
    """Keep the first slot as if it were BOS's."""
    right = prepared.PreparedSample.slots_left
    patch.setattr(
        prepared.PreparedSample, "slots_left", lambda self, recipe: [0, *right(self, recipe)[1:]]
    )


@pytest.mark.parametrize("fault", [bos_after_all, first_slot_stays])
def test_twin_without_bos(fault: Fault) -> None:
    """Would catch a check blind to a BOS, or to a first slot that stays whatever it holds."""
    must_see(fault, check_without_bos, "tiny-llama", "cache")


def test_routes_agree_without_bos() -> None:
    """Would catch a condition whose one pass or batch counts BOS where its cache has none.

    1. Each condition by itself, on the default route.
    2. All conditions together, through caches.
    """
    lm = without_bos("tiny-llama")
    names = [name for name in EXPECTED if name not in WITHOUT]
    together = in_one_batch(lm, [LONG, SHORT], names, "cache")
    assert set(together.status) == {"ok"}
    for name in names:
        alone = in_one_batch(lm, [LONG, SHORT], [name], "auto")
        assert_rows_equal(alone, together[together.condition == name], f"{name} by itself")


def test_what_needs_bos_says_so() -> None:
    """Would catch a number for a condition that has no meaning without BOS."""
    rows = answer_nll.score(without_bos("tiny-llama"), [LONG], [*WITHOUT])
    assert dict(zip(rows.condition, rows.status, strict=True)) == dict(WITHOUT)
    assert rows.nll.isna().all()


# --- keys ----------------------------------------------------------------------------------------


def test_the_policy_is_in_the_key_and_the_default_is_not() -> None:
    """Would catch rows of two policies under one key, or rows from before under another."""
    own, none = locate("tiny-llama"), locate("tiny-llama", bos="none")
    assert dataclasses.asdict(own) == dataclasses.asdict(locate("tiny-llama", bos="own"))
    assert (none.row_name, own.row_name) == ("tiny-llama+no-bos", "tiny-llama")
    assert none.tokenizer_id == f"{own.tokenizer_id}+no-bos"
    assert none.model_id == own.model_id


def test_an_unknown_policy_is_one_line() -> None:
    """Would catch a misspelled policy that is taken for the default."""
    with pytest.raises(KvError, match="bos 'non'"):
        locate("tiny-llama", bos="non")  # type: ignore[arg-type]


def test_kinds_that_begin_with_bos_are_not_measured_without(tmp_path: Path) -> None:
    """Would catch rows that say there was no BOS, measured with one."""
    files = locate("tiny-llama", bos="none")
    request = MeasureRequest(
        files, lambda: without_bos("tiny-llama"), "word_problems", ("oracle",), 2, 0, None, tmp_path
    )
    with pytest.raises(MissingResource, match="context_switch begins what it reads with BOS"):
        collect_rows(context_switch.KIND, request, tmp_path, progress=None)


def test_a_run_without_bos_keeps_its_rows_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Would catch stored rows with a BOS that are judged in a run without, or an option unread."""
    chosen = ("claims/test_priming.py", "-k", "random_prefix_helps", "--kv-models", "tiny-llama")
    where = ("--kv-store", str(tmp_path), "--kv-limit", "20", "-q", *claim_runs.NO_PAGE)
    with_bos = claim_runs.run_inside(capsys, *chosen, *where)
    assert "no resource" not in with_bos.stdout
    stored = claim_runs.run_inside(
        capsys, *chosen, *where, "--kv-bos", "none", "--kv-no-measure", "-rs"
    )
    assert "no stored rows for tiny-llama+no-bos" in stored.stdout
    wrong = claim_runs.run_inside(capsys, *chosen, "--kv-bos", "no")
    assert wrong.returncode == 4
    assert "--kv-bos='no' must be one of own, none" in wrong.stdout + wrong.stderr
