"""What is seen of the residual stream is what the model has, and seeing it changes nothing.

The oracle reads one text at a time, without padding and without hooks of ours, through
``output_hidden_states``; since those of the last layer come with the final norm applied, the
oracle's model has an identity in its place. Numbers are then worked out in NumPy, in loops.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef

from invariants.support.comparing import must_see
from kvcore import loading
from kvcore.engine import forward, hooks
from kvcore.engine.hooks import PARTS
from kvcore.errors import KvError, NotExact
from kvcore.measurements import capture, hidden_states, stream_stats, token_kinds, token_nlls
from kvcore.measurements.hidden_states import TokenText, dynamics
from kvcore.measurements.stream_stats import STATS
from kvcore.models.lm import LM
from kvcore.models.load import load_model

TOLERANCE = 1e-5  # relative, and absolute for cosines: float32 through three layers leaves 2e-6
WINDOWED = ("tiny-llama", "tiny-mistral", "tiny-gemma3")
Fault = Callable[[pytest.MonkeyPatch], None]
States = np.ndarray[Any, np.dtype[np.float64]]


def some_ids(length: int, seed: int) -> tuple[int, ...]:
    """Draw ordinary token ids."""
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 384, length))


TEXTS = tuple(
    TokenText(f"t{n}", "human", some_ids(prompt, n), some_ids(continuation, 50 + n))
    for n, (prompt, continuation) in enumerate([(5, 20), (0, 2), (11, 3), (3, 9)])
)


# --- a route of our own ------------------------------------------------------------------------


def raw_states(name: str, read: Sequence[int]) -> States:
    """Return the embeddings and every layer's output, (1 + layers, tokens, hidden size)."""
    model: Any = load_model(name, device="cpu").model
    model.get_decoder().norm = torch.nn.Identity()
    with torch.inference_mode():
        states = model(
            torch.tensor([list(read)]), output_hidden_states=True, use_cache=False
        ).hidden_states
    found: States = torch.cat(list(states)).double().numpy()
    return found


def by_hand(states: States) -> dict[str, float]:
    """Work out `STATS` of one layer's states, (tokens, hidden size), token by token."""
    norms = [math.sqrt(sum(x * x for x in state)) for state in states]
    steps = [after - before for before, after in pairwise(states)]
    lengths = [math.sqrt(sum(x * x for x in step)) for step in steps]
    mean = sum(norms) / len(norms)
    cosines = [
        float(a @ b) / (m * n)
        for a, b, m, n in zip(steps, steps[1:], lengths, lengths[1:], strict=False)
    ]
    return {
        "smoothness": sum(lengths) / len(lengths),
        "norm": mean,
        "norm_variance": sum((x - mean) ** 2 for x in norms) / len(norms),
        "relative_step": sum(x / y for x, y in zip(lengths, norms, strict=False)) / len(lengths),
        "cosine": sum(cosines) / len(cosines) if cosines else math.nan,
    }


def plain_nlls(lm: LM, text: TokenText) -> list[float]:
    """Return every token's NLL from one plain forward."""
    read = torch.tensor([[lm.bos_id, *text.ids]])
    with torch.inference_mode():
        logits = lm.model(read, use_cache=False).logits[0, :-1].double()
    nlls: list[float] = torch.nn.functional.cross_entropy(
        logits, read[0, 1:], reduction="none"
    ).tolist()
    return nlls


def assert_near(found: float, wanted: float, what: str) -> None:
    """Compare two numbers, relative to the size of the wanted one or to 1 where it is below."""
    __tracebackhide__ = True
    if math.isnan(wanted):
        assert math.isnan(found), f"{what}: {found}, not NaN"
        return
    allowed = TOLERANCE * max(1.0, abs(wanted))
    assert abs(found - wanted) <= allowed, f"{what}: {found:.8f}, not {wanted:.8f}"


def assert_rows(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Compare frames of `dynamics`, row by row and layer by layer."""
    __tracebackhide__ = True
    assert list(found.columns) == list(wanted.columns)
    for a, b in zip(found.to_dict("records"), wanted.to_dict("records"), strict=True):
        for name, value in b.items():
            given = a[name]
            if isinstance(value, list):
                assert len(given) == len(value)
                for layer, (x, y) in enumerate(zip(given, value, strict=True)):
                    assert_near(x, y, f"{name} of {b['id']}, layer {layer}")
            elif isinstance(value, float):
                assert_near(given, value, f"{name} of {b['id']}")
            else:
                assert given == value


# --- what is measured --------------------------------------------------------------------------


def check_stats(lm: LM) -> None:
    """Each layer's numbers are those of the continuation's raw states, whatever the batch."""
    found = dynamics(lm, TEXTS)
    for text, row in zip(TEXTS, found.to_dict("records"), strict=True):
        states = raw_states(lm.name, (lm.bos_id, *text.ids))
        own = states[1:, 1 + len(text.prompt) :]
        assert len(row["norm"]) == len(own) == lm.config.num_hidden_layers
        assert (row["n_tokens"], row["n_continuation"]) == (len(text.ids), len(text.continuation))
        for layer, states_here in enumerate(own):
            for name, value in by_hand(states_here).items():
                assert_near(row[name][layer], value, f"{name}, layer {layer} of {text.id}")


def check_entropy(lm: LM) -> None:
    """Cross-entropies are those of one plain forward per text, of all tokens but BOS."""
    for text, row in zip(TEXTS, dynamics(lm, TEXTS).to_dict("records"), strict=True):
        nlls = plain_nlls(lm, text)
        own = nlls[len(text.prompt) :]
        assert (len(nlls), len(own)) == (len(text.ids), len(text.continuation))
        assert_near(row["ce"], sum(nlls) / len(nlls), f"ce of {text.id}")
        assert_near(row["ce_continuation"], sum(own) / len(own), f"ce_continuation of {text.id}")


def test_stats(lm: LM) -> None:
    """Catches a layer's numbers that are not those of its raw states, on every architecture."""
    check_stats(lm)


def test_entropy(lm: LM) -> None:
    """Catches a cross-entropy that is not that of one plain forward."""
    check_entropy(lm)


def one_more_token(patch: pytest.MonkeyPatch) -> None:
    """Count the prompt's last token, too."""
    patch.setattr(
        hidden_states,
        "continuation_slots",
        lambda group: [
            [len(t.prompt) <= i < 1 + len(t.ids) for i in range(1 + max(len(t.ids) for t in group))]
            for t in group
        ],
    )


def padding_counts(patch: pytest.MonkeyPatch) -> None:
    """Count padding as if it were the continuation."""
    patch.setattr(
        hidden_states,
        "continuation_slots",
        lambda group: [
            [len(t.prompt) < i for i in range(1 + max(len(t.ids) for t in group))] for t in group
        ],
    )


def final_norm(patch: pytest.MonkeyPatch) -> None:
    """See each layer's successor, and the final norm's output for the last layer's."""
    layers_of = hooks.layers_of
    patch.setattr(
        hooks, "layers_of", lambda lm: [*list(layers_of(lm))[1:], lm.model.get_decoder().norm]
    )


def changed(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """Change parts of the series before they are reduced."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        series = stream_stats.series
        patch.setattr(
            stream_stats,
            "series",
            lambda stream: (found := series(stream))._replace(
                **{name: change(getattr(found, name)) for name, change in changes.items()}
            ),
        )

    fault.__name__ = "_".join(changes)
    return fault


@pytest.mark.parametrize(
    "fault",
    [
        one_more_token,
        padding_counts,
        final_norm,
        changed(norm=lambda x: x**2),
        changed(step=lambda x: x**2),
        changed(relative_step=lambda x: x * 1.0001),
        changed(cosine=lambda x: x.abs()),
    ],
    ids=lambda fault: fault.__name__,
)
def test_twin_stats(llama: LM, fault: Fault) -> None:
    """Catches a check blind to wrong tokens, layers or formulas."""
    must_see(fault, check_stats, llama)


def next_column(patch: pytest.MonkeyPatch) -> None:
    """Predict each token from itself."""
    logits = forward.logits
    patch.setattr(
        forward,
        "logits",
        lambda lm, passed, wanted: logits(lm, passed, (wanted[0], [i + 1 for i in wanted[1]])),
    )


def first_chunk_again(patch: pytest.MonkeyPatch) -> None:
    """Score every chunk against the targets of the first."""
    split: Any = torch.Tensor.split
    patch.setattr(token_nlls, "LOGITS_AT_ONCE", 2 * 384)
    patch.setattr(
        torch.Tensor,
        "split",
        lambda x, n: [part if x.dim() > 1 else split(x, n)[0][: len(part)] for part in split(x, n)],
    )


@pytest.mark.parametrize("fault", [next_column, first_chunk_again])
def test_twin_entropy(llama: LM, fault: Fault) -> None:
    """Catches a check blind to NLLs of other columns or chunks."""
    must_see(fault, check_entropy, llama)


def check_composition(lm: LM) -> None:
    """Neither padding, nor the batch, nor the order changes a number; chunks do not either."""
    together = dynamics(lm, TEXTS, parts=PARTS, batch_tokens=10**6)
    alone = pd.concat([dynamics(lm, [text], parts=PARTS) for text in TEXTS], ignore_index=True)
    assert_rows(together, alone)
    turned = dynamics(lm, TEXTS[::-1], parts=PARTS, batch_tokens=40)[::-1]
    assert_rows(turned, alone)


@pytest.mark.parametrize("name", WINDOWED)
def test_composition(name: str) -> None:
    """Catches a number that hangs on padding, batch, order or chunks."""
    check_composition(loading.load(name, device="cpu"))


def test_twin_composition(llama: LM) -> None:
    """Catches a check blind to padding that counts."""
    must_see(padding_counts, check_composition, llama)


# --- numbers of a stream alone -----------------------------------------------------------------


def stream_of(seed: int, tokens: int, scale: float = 1.0) -> torch.Tensor:
    """Draw hidden states, (2, tokens, 5)."""
    return scale * torch.from_numpy(
        np.random.default_rng(seed).normal(size=(2, tokens, 5)).astype(np.float32)
    )


def check_constant(tokens: int) -> None:
    """A stream that stands still has no steps, no variance and no turns."""
    stream = stream_of(tokens, 1).repeat(1, tokens, 1)
    everything = torch.ones(2, tokens, dtype=torch.bool)
    found = dict(zip(STATS, stream_stats.reduced(stream, everything).T.tolist(), strict=True))
    assert found["smoothness"] == found["relative_step"] == [0.0, 0.0]
    assert max(found["norm_variance"]) <= 1e-12
    assert all(math.isnan(x) for x in found["cosine"])
    assert min(found["norm"]) > 0


@given(tokens=st.integers(3, 12))
def test_constant(tokens: int) -> None:
    """Catches steps, turns or variance where nothing moves."""
    check_constant(tokens)


def check_scaling(seed: int, tokens: int, scale: float) -> None:
    """A stream so many times as long has steps and norms so many times as long, no other turns."""
    everything = torch.ones(2, tokens, dtype=torch.bool)
    once = stream_stats.reduced(stream_of(seed, tokens), everything)
    scaled = stream_stats.reduced(stream_of(seed, tokens, scale), everything)
    wanted = once * torch.tensor([scale, scale, scale**2, 1.0, 1.0], dtype=torch.float64)
    # The variance is a difference of numbers as large as the norm's square.
    slack = 1e-5 * wanted.abs() + 1e-5 * torch.tensor([0, 0, scale**2, 0, 1.0]).double()
    assert bool(((scaled - wanted).abs() <= slack).all())


@given(seed=st.integers(0, 2**32), tokens=st.integers(3, 12), scale=st.floats(0.01, 1000))
def test_scaling(seed: int, tokens: int, scale: float) -> None:
    """Catches numbers that do not scale as lengths do."""
    check_scaling(seed, tokens, scale)


def check_gaps(seed: int) -> None:
    """Steps and turns across a token that does not count do not count either."""
    stream = stream_of(seed, 9)
    inside = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0, 0], [0] * 9]).bool()
    found = stream_stats.reduced(stream, inside)
    wanted = [by_hand(stream[0, part].double().numpy()) for part in (slice(0, 3), slice(4, 7))]
    for name, value in zip(STATS, found[0].tolist(), strict=True):
        if name != "norm_variance":
            assert_near(value, (wanted[0][name] + wanted[1][name]) / 2, name)
    assert bool(found[1].isnan().all())


@given(seed=st.integers(0, 2**32))
def test_gaps(seed: int) -> None:
    """Catches steps across a token that does not count."""
    check_gaps(seed)


def all_count(patch: pytest.MonkeyPatch) -> None:
    """Take the mean of everything."""
    patch.setattr(stream_stats, "mean_of", lambda values, _counted: values.mean(dim=1))


@pytest.mark.parametrize(
    ("fault", "check", "given_"),
    [
        (changed(step=lambda x: x + 1e-6), check_constant, (5,)),
        (changed(norm=lambda x: x + torch.arange(x.shape[1])), check_constant, (5,)),
        (changed(step=lambda x: x**2), check_scaling, (1, 5, 3.0)),
        (changed(relative_step=lambda x: x + x**2), check_gaps, (1,)),
        (all_count, check_gaps, (1,)),
    ],
    ids=["moves", "varies", "squares", "bends", "everything"],
)
def test_twin_stream(fault: Fault, check: Callable[..., None], given_: tuple[Any, ...]) -> None:
    """Catches checks blind to formulas that are off."""
    must_see(fault, check, *given_)


# --- hooks -------------------------------------------------------------------------------------


def hooks_on(lm: LM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def check_logits(lm: LM) -> None:
    """Watching and reducing every part changes not a bit of the logits."""
    passed = forward.pad_ids(lm, [(lm.bos_id, *t.ids) for t in TEXTS], [0] * len(TEXTS))
    wanted = ([0, 0, 1, 2, 3], [0, 25, 1, 9, 12])
    inside = torch.tensor(hidden_states.continuation_slots(TEXTS))
    seen: list[tuple[str, int]] = []

    def reduce(part: str, layer: int, stream: torch.Tensor) -> None:
        seen.append((part, layer))
        stream_stats.reduced(stream, inside)

    with hooks.watching(lm, PARTS, reduce):
        watched = forward.logits(lm, passed, wanted)
    assert torch.equal(watched, forward.logits(lm, passed, wanted))
    depth = lm.config.num_hidden_layers
    assert sorted(seen) == sorted((part, layer) for part in PARTS for layer in range(depth))


def test_logits(lm: LM) -> None:
    """Catches watching that changes a bit of the logits."""
    check_logits(lm)


def in_place(patch: pytest.MonkeyPatch) -> None:
    """Reduce in the stream's own memory."""
    reduced = stream_stats.reduced
    patch.setattr(
        stream_stats, "reduced", lambda stream, inside: reduced(stream.mul_(1.01), inside)
    )


def test_twin_logits(llama: LM) -> None:
    """Catches a check blind to a stream changed in place."""
    must_see(in_place, check_logits, llama)


def check_hooks_gone(name: str) -> None:
    """No hook is left: not after a run, an error in it, or one while hooks are being set."""
    lm = loading.load(name, device="cpu")
    dynamics(lm, TEXTS, parts=PARTS)
    hidden_states.trace(lm, TEXTS, 0)
    assert hooks_on(lm) == 0

    def fail(*_given: Any) -> None:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_stats, "reduced", fail)
        with pytest.raises(ZeroDivisionError):
            dynamics(lm, TEXTS)
    assert hooks_on(lm) == 0
    with pytest.MonkeyPatch.context() as patch:
        module = hooks.module_of
        patch.setattr(
            hooks, "module_of", lambda layer, part: fail() if part == "mlp" else module(layer, part)
        )
        with pytest.raises(ZeroDivisionError), hooks.watching(lm, PARTS, fail):
            pytest.fail("hooks were set")
    assert hooks_on(lm) == 0


def test_hooks_gone() -> None:
    """Catches a hook that stays, whatever went wrong."""
    check_hooks_gone("tiny-llama")


def kept_on(patch: pytest.MonkeyPatch) -> None:
    """Remove hooks only where nothing went wrong."""
    watching = hooks.watching
    open_still: list[Any] = []  # a watch that is forgotten would end by itself

    @contextmanager
    def broken(*asked: Any) -> Iterator[None]:
        open_still.append(watching(*asked))
        open_still[-1].__enter__()
        yield
        open_still.pop().__exit__(None, None, None)

    broken.open_still = open_still  # type: ignore[attr-defined]
    patch.setattr(hooks, "watching", broken)


def never_removed(patch: pytest.MonkeyPatch) -> None:
    """Remove no hook that watches a layer; the one before the LM head would break the next pass."""
    handle = torch.utils.hooks.RemovableHandle
    remove = handle.remove

    def broken(self: Any) -> None:
        if self.hooks_dict_ref()[self.id].__name__ != "show":
            remove(self)

    patch.setattr(handle, "remove", broken)


@pytest.mark.parametrize("fault", [kept_on, never_removed])
def test_twin_hooks_gone(fault: Fault) -> None:
    """Catches a check blind to hooks that stay after an error or always."""
    must_see(fault, check_hooks_gone, "tiny-llama")


def check_memory(lm: LM) -> None:
    """No layer's hidden states outlive the next layer's, on the way or afterwards."""
    seen: list[StorageWeakRef] = []
    most = 0
    watching = hooks.watching

    @contextmanager
    def counting(lm: LM, parts: Sequence[str], show: Any, *layers: Any) -> Iterator[None]:
        def count(part: str, layer: int, stream: torch.Tensor) -> None:
            nonlocal most
            show(part, layer, stream)
            seen.append(StorageWeakRef(stream.untyped_storage()))
            most = max(most, sum(not ref.expired() for ref in seen))

        with watching(lm, parts, count, *layers):
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "watching", counting)
        found = dynamics(lm, TEXTS)
    assert len(seen) == lm.config.num_hidden_layers
    assert most <= 2
    assert not [ref for ref in seen if not ref.expired()]
    assert len(found) == len(TEXTS)


def test_memory(llama: LM) -> None:
    """Catches hidden states that outlive the next layer."""
    check_memory(llama)


def hoards(patch: pytest.MonkeyPatch) -> None:
    """Keep what was reduced."""
    reduced = stream_stats.reduced
    held: list[torch.Tensor] = []

    def hoarding(stream: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        held.append(stream)
        return reduced(stream, counted)

    patch.setattr(stream_stats, "reduced", hoarding)


def test_twin_memory(llama: LM) -> None:
    """Catches a check blind to states that are held on to."""
    must_see(hoards, check_memory, llama)


# --- raw states, parts and traces --------------------------------------------------------------


def middles(lm: LM, read: Sequence[int]) -> list[torch.Tensor]:
    """Return the stream between attention and MLP: what the norm before the MLP reads."""
    held: list[torch.Tensor] = []
    handles = []
    for layer in hooks.layers_of(lm):
        name = (
            "pre_feedforward_layernorm"
            if hasattr(layer, "pre_feedforward_layernorm")
            else "post_attention_layernorm"
        )
        handles.append(
            getattr(layer, name).register_forward_pre_hook(
                lambda _module, inputs: held.append(inputs[0][0].double())
            )
        )
    with torch.inference_mode():
        lm.model(torch.tensor([list(read)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return held


def check_raw(lm: LM, folder: Path) -> None:
    """The file has each layer's states before the final norm, and what was added to the stream."""
    ids = TEXTS[0].ids
    found = load_file(capture.capture_to(lm, ids, folder / "a.safetensors", parts=PARTS))
    wanted = torch.from_numpy(raw_states(lm.name, (lm.bos_id, *ids)))
    assert found["ids"].tolist() == [lm.bos_id, *ids]
    assert len(found) == 1 + len(PARTS) * lm.config.num_hidden_layers
    for layer, middle in enumerate(middles(lm, (lm.bos_id, *ids))):
        before, after = wanted[layer], wanted[layer + 1]
        assert found[f"residual.{layer}"].dtype == torch.float32
        size = float(after.abs().max())
        for part, value in (
            ("residual", after),
            ("attention", middle - before),
            ("mlp", after - middle),
        ):
            off = float((found[f"{part}.{layer}"].double() - value).abs().max())
            assert off <= TOLERANCE * size, f"{part}, layer {layer}: off by {off:.1e}"


def test_raw(lm: LM, tmp_path: Path) -> None:
    """Catches raw states that are not the model's, and files beside the one asked for."""
    check_raw(lm, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["fingerprint"] == lm.fingerprint


def parts_swapped(patch: pytest.MonkeyPatch) -> None:
    """Take attention for MLP."""
    module = hooks.module_of
    other = {"attention": "mlp", "mlp": "attention", "residual": "residual"}
    patch.setattr(hooks, "module_of", lambda layer, part: module(layer, other[part]))


def test_twin_raw(llama: LM, tmp_path: Path) -> None:
    """Catches a check blind to attention and MLP swapped."""
    must_see(parts_swapped, check_raw, llama, tmp_path)


def test_a_part_that_does_not_add_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's norm behind attention left out: refused by name, before anything is measured."""
    lm = loading.load("tiny-gemma3", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(
            hooks,
            "module_of",
            lambda layer, part: {"residual": layer, "attention": layer.self_attn, "mlp": layer.mlp}[
                part
            ],
        )
        with pytest.raises(NotExact, match="tiny-gemma3: layer 1 is not the sum"):
            dynamics(lm, TEXTS, parts=["attention"])
        assert set(dynamics(lm, TEXTS).status) == {"ok"}
    assert set(dynamics(lm, TEXTS, parts=["attention"]).status) == {"ok"}


def check_part_stats(lm: LM, folder: Path) -> None:
    """A part's numbers are those of its raw output."""
    text = TEXTS[0]
    row = dynamics(lm, TEXTS, parts=PARTS).to_dict("records")[0]
    raw = load_file(capture.capture_to(lm, text.ids, folder / "a.safetensors", parts=PARTS))
    for part in PARTS:
        for layer in range(lm.config.num_hidden_layers):
            own = raw[f"{part}.{layer}"][1 + len(text.prompt) :].double().numpy()
            for name, value in by_hand(own).items():
                column = name if part == "residual" else f"{part}_{name}"
                assert_near(row[column][layer], value, f"{column}, layer {layer}")


def test_part_stats(llama: LM, tmp_path: Path) -> None:
    """Catches a part's numbers that are not those of its raw output."""
    check_part_stats(llama, tmp_path)


def test_twin_part_stats(llama: LM, tmp_path: Path) -> None:
    """Catches a check blind to the residual stream's numbers under a part's name."""

    def one_name(patch: pytest.MonkeyPatch) -> None:
        measured = hidden_states.measured_row
        patch.setattr(
            hidden_states,
            "measured_row",
            lambda text, nlls, stats: measured(
                text, nlls, {part: stats["residual"] for part in stats}
            ),
        )

    must_see(one_name, check_part_stats, llama, tmp_path)


def check_trace(lm: LM) -> None:
    """Every token has the norm, step and turn of the raw states, and its own NLL."""
    for layer in (0, 2, -1):
        found = hidden_states.trace(lm, TEXTS, layer, batch_tokens=60)
        assert list(found.columns) == list(hidden_states.TRACE)
        for text in TEXTS:
            rows = found[found.id == text.id].reset_index(drop=True)
            states = raw_states(lm.name, (lm.bos_id, *text.ids))[1:][layer][1 + len(text.prompt) :]
            assert rows.token_id.tolist() == list(text.continuation)
            assert rows.position.tolist() == list(range(len(states)))
            assert np.allclose(rows.nll, plain_nlls(lm, text)[len(text.prompt) :], rtol=1e-5)
            norms = np.linalg.norm(states, axis=1)
            steps = np.diff(states, axis=0)
            lengths = np.linalg.norm(steps, axis=1)
            cosines = (steps[1:] * steps[:-1]).sum(axis=1) / (lengths[1:] * lengths[:-1])
            nan = [math.nan]
            for name, values in (
                ("norm", norms),
                ("step", [*nan, *lengths]),
                ("relative_step", [*nan, *lengths / norms[:-1]]),
                ("cosine", [*nan, *nan, *cosines]),
            ):
                assert np.allclose(rows[name], values, rtol=1e-5, atol=1e-5, equal_nan=True), name


@pytest.mark.parametrize("name", WINDOWED)
def test_trace(name: str) -> None:
    """Catches a token with another token's norm, step, turn or NLL."""
    check_trace(loading.load(name, device="cpu"))


@pytest.mark.parametrize(
    "fault",
    [
        changed(step=lambda x: x.roll(1, dims=1)),
        changed(cosine=lambda x: x.roll(1, dims=1)),
        final_norm,
    ],
    ids=["steps-late", "turns-late", "next-layer"],
)
def test_twin_trace(llama: LM, fault: Fault) -> None:
    """Catches a check blind to numbers a token late or a layer off."""
    must_see(fault, check_trace, llama)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
def test_kinds(name: str) -> None:
    """By the text before, blanks included, whether the tokenizer writes them or marks them."""
    lm = loading.load(name, device="cpu")
    ids = lm.tokenizer("the mean, 12 (x)\n", add_special_tokens=False).input_ids
    spelled = token_kinds.spelled(lm, ids)
    kinds = token_kinds.kinds_of(lm, ids)
    assert "".join(spelled).lstrip() == "the mean, 12 (x)\n"
    for text, kind in zip(spelled, kinds, strict=True):
        core = text.strip()
        wanted = (
            {"space"}
            if not core
            else {"punctuation"}
            if core in (",", "(", ")")
            else {"number"}
            if core.isdigit()
            else {"word", "inside"}
        )
        assert kind in wanted, (text, kind)
    assert kinds.count("word") == 3
    assert token_kinds.kinds_of(lm, [lm.bos_id, *ids])[0] == "other"


# --- what cannot be measured -------------------------------------------------------------------


def test_unusable_texts_have_a_status(llama: LM) -> None:
    """Too short or too long: said in the row, and the others are measured all the same."""
    short = TokenText("short", "human", some_ids(4, 1), some_ids(1, 2))
    long = TokenText("long", "human", some_ids(4, 1), some_ids(2044, 2))
    found = dynamics(llama, [short, TEXTS[0], long])
    assert found.status.tolist() == [
        "fewer than 2 tokens in the continuation",
        "ok",
        "longer than the 2048 positions the model is exact for",
    ]
    assert found.ce.isna().tolist() == [True, False, True]
    assert [len(x) for x in found.norm] == [0, 3, 0]
    assert set(hidden_states.trace(llama, [short, TEXTS[0], long], 0).id) == {"t0"}
    assert list(dynamics(llama, []).columns) == list(found.columns)
    assert list(hidden_states.trace(llama, [], 0).columns) == list(hidden_states.TRACE)


def test_numbers_that_are_not_finite_have_a_status() -> None:
    """Catches NaN in a row that says it is fine."""
    lm = loading.load("tiny-llama", device="cpu")
    embeddings: Any = lm.model.get_input_embeddings()
    embeddings.weight[TEXTS[3].ids[4]] = math.nan
    found = dynamics(lm, [TEXTS[1], TEXTS[3]])
    assert found.status.tolist() == ["ok", "the model's activations or logits are not finite"]
    assert found.smoothness.map(len).tolist() == [3, 0]


def test_out_of_memory_halves_the_batch(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches texts lost, or numbers changed, where memory runs out."""
    wanted = dynamics(llama, TEXTS)
    measure = hidden_states.measure_batch

    def tight(lm: LM, group: Sequence[TokenText], parts: Sequence[str]) -> list[dict[str, Any]]:
        if len(group) > 1 or group[0].id == "t1":
            raise torch.OutOfMemoryError("out of memory")
        return measure(lm, group, parts)

    monkeypatch.setattr(hidden_states, "measure_batch", tight)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = dynamics(llama, TEXTS)
    assert all("out of memory with" in str(warning.message) for warning in said)
    assert len(said) == 3
    assert found.status.tolist() == ["ok", "out of memory", "ok", "ok"]
    others = [0, 2, 3]
    assert_rows(found.iloc[others], wanted.iloc[others])


def test_one_clear_line(llama: LM, tmp_path: Path) -> None:
    """Catches a bad request that is not refused in one line."""
    odd = TokenText("odd", "human", (5,), (6, 384))
    asked: list[tuple[str, Callable[[], object]]] = [
        ("did you mean 'attention'", lambda: dynamics(llama, TEXTS, parts=["atention"])),
        ("text 'odd' holds the id 384", lambda: dynamics(llama, [odd])),
        ("layer=3 must be in -3..2 for tiny-llama", lambda: hidden_states.trace(llama, TEXTS, 3)),
        (
            "cannot be written",
            lambda: capture.capture_to(llama, (5,), tmp_path / "none" / "a.safetensors"),
        ),
        (
            "exact for 2048 with BOS",
            lambda: capture.capture_to(llama, some_ids(2048, 1), tmp_path / "a.safetensors"),
        ),
    ]
    for said, ask in asked:
        with pytest.raises(KvError, match=said) as error:
            ask()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
