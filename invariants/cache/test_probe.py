"""The probe finds each layer's rotation in every dtype, or refuses the model with figures."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from invariants.support.comparing import PREFILL_TOLERANCE, assert_close_per_layer
from invariants.support.patching import Fault, patched
from invariants.support.versions import needs_config
from kvcore import loading
from kvcore.cache import kv_cache, rope, rope_fit
from kvcore.cache.rope import LayerRope
from kvcore.engine import forward, rope_probe
from kvcore.errors import KvError, NotExact
from kvcore.models import tiny, tiny_configs
from kvcore.models.lm import LM
from kvcore.models.load import load_model

pytestmark = pytest.mark.every_model

needs_beam = needs_config("BeamConfig")
needs_granite = needs_config("GraniteSWAConfig")
DTYPES = ("float32", "bfloat16", "float16")
EditModel = Callable[[Any], None]
NOT_ROTATED = LayerRope("none", None, 0)
BIASES = (605.0, 22.0, 22.0, 921.0)  # norms of Qwen2.5-7B's key biases: first, some, last layer


def built(config: Any, dtype: str = "float32", edit: EditModel | None = None) -> LM:
    """Return a model of a configuration with random weights, not probed."""
    base = load_model("tiny-llama", device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if edit is not None:
        with torch.no_grad():
            edit(model)
    model = model.to(getattr(torch, dtype)).eval()
    files = replace(base.files, dtype=dtype)
    text = model.config.get_text_config()
    return LM("built", model, base.tokenizer, 0, "tokenizer", files, base.device, text)


def settings(**changes: Any) -> dict[str, Any]:
    return {**tiny_configs.settings("tiny-llama"), **changes}


def plan_of(lm: LM, *, native: bool = False) -> tuple[LayerRope, ...]:
    """Probe a model anew; its layers in their own dtype if so asked."""
    with pytest.MonkeyPatch.context() as patch:
        if native:
            patch.setattr(rope_probe, "room_for_float32", lambda _: False)
        return rope_probe.probe(lm).layers


def refusal_of(lm: LM) -> str:
    """Return the line by which the probe refuses a model, empty where it does not."""
    try:
        rope_probe.probe(lm)
    except NotExact as error:
        return str(error)
    return ""


def must_refuse_or_fail(fault: Fault, check: Callable[..., None], *arguments: object) -> None:
    """Run a check, break the production code, and demand that the check or the probe says so."""
    check(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises((AssertionError, KvError)):
            check(*arguments)


# --- large biases of keys ----------------------------------------------------------------------


def add_slow_biases(model: Any) -> None:
    """Put Qwen2.5's key biases on the dimensions that turn slowly."""
    generator = torch.Generator().manual_seed(1)
    for norm, layer in zip(BIASES, model.model.layers, strict=True):
        head_dim = layer.self_attn.head_dim
        slow = [d for d in range(head_dim) if d % (head_dim // 2) >= 3 * head_dim // 8]
        bias = torch.zeros(2, head_dim)
        drawn = torch.randn(2, len(slow), generator=generator)
        bias[:, slow] = norm * drawn / drawn.norm()
        layer.self_attn.k_proj.bias.copy_(bias.flatten())


def biased_config() -> Any:
    return transformers.Qwen2Config(
        **settings(
            num_hidden_layers=4,
            hidden_size=128,
            head_dim=32,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    )


def check_biased_keys(dtype: str, native: bool) -> None:
    """Demand that every layer of a model with large key biases is found to rotate."""
    layers = plan_of(built(biased_config(), dtype, add_slow_biases), native=native)
    assert layers == (LayerRope("half", None, 32),) * 4, layers


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_key_biases_hide_no_rotation(dtype: str, native: bool) -> None:
    """Would catch a rotation hidden by a bias on dimensions that turn slowly."""
    check_biased_keys(dtype, native)


def accept_no_rotation_first(patch: pytest.MonkeyPatch) -> None:
    """Take no rotation wherever the whole key changes by little."""
    right = rope_fit.explain

    def broken(rotations: Any, old: Any, new: Any) -> list[rope_fit.Explanation]:
        if (change := rope_fit.relative_change(old, new)) < 6e-2:
            return [rope_fit.Explanation(NOT_ROTATED, 0.0, change)]
        return right(rotations, old, new)

    patch.setattr(rope_fit, "explain", broken)


@pytest.mark.parametrize("native", [False, True])
def test_twin_large_key_biases(native: bool) -> None:
    """Would catch a check blind to a threshold that accepts no rotation first."""
    must_refuse_or_fail(accept_no_rotation_first, check_biased_keys, "bfloat16", native)


def check_four_bits(tmp_path: Path) -> None:
    """Demand the rotation of a model in 4 bits, and every tensor of it as it was."""
    built(biased_config(), "float32", add_slow_biases).model.save_pretrained(tmp_path)
    tiny.build("tiny-llama")[1].save_pretrained(tmp_path)
    lm = load_model(str(tmp_path), device="cpu", dtype="bfloat16", quantization="nf4")
    before = {key: value.clone() for key, value in lm.model.state_dict().items()}
    for native in (False, True):
        assert plan_of(lm, native=native) == (LayerRope("half", None, 32),) * 4
    after = lm.model.state_dict()
    assert all(
        before[key].dtype == after[key].dtype and torch.equal(before[key], after[key])
        for key in before
    )


def test_four_bits_hide_no_rotation(tmp_path: Path) -> None:
    """Would catch a probe that is misled by weights in 4 bits, or changes them."""
    check_four_bits(tmp_path)


@contextmanager
def biases_in_float32_for_good(lm: LM) -> Iterator[None]:
    """Widen whatever is in 16 bits, which in a model in 4 bits are its biases, and leave it so."""
    for layer in rope_probe.decoder_layers(lm):
        for parameter in layer.parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()
    yield


@contextmanager
def noise_in_four_bits(lm: LM) -> Iterator[None]:
    """Change some of the packed weights while the probe runs, and leave them so."""
    for layer in rope_probe.decoder_layers(lm):
        for parameter in layer.parameters():
            if parameter.dtype == torch.uint8:
                parameter.data.view(-1)[:7] += 1
    yield


@pytest.mark.parametrize(
    "fault",
    [
        accept_no_rotation_first,
        patched(rope_probe, "layers_in_float32", biases_in_float32_for_good),
        patched(rope_probe, "layers_in_float32", noise_in_four_bits),
    ],
    ids=["no-rotation-first", "biases-widened", "weights-changed"],
)
def test_twin_four_bits(fault: Fault, tmp_path: Path) -> None:
    """Would catch a check blind to a rotation that is missed, or to weights that are changed."""
    must_refuse_or_fail(fault, check_four_bits, tmp_path)


# --- every kind of layer, in every dtype -------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_find_what_float32_finds(lm: LM, dtype: str) -> None:
    """Would catch a layer that is explained otherwise, or refused, in 16 bits."""
    check_16_bits(lm, dtype)


def check_16_bits(lm: LM, dtype: str) -> None:
    """Compare two plans.

    1. The plan in 16 bits, with layers in float32 and in their own dtype.
    2. The plan in float32.
    """
    half = load_model(lm.name, device="cpu", dtype=dtype)
    for native in (False, True):
        assert plan_of(half, native=native) == rope_probe.rope_plan(lm).layers


def try_one_base(patch: pytest.MonkeyPatch) -> None:
    right = rope.frequency_sets
    patch.setattr(rope, "frequency_sets", lambda lm: dict([*right(lm).items()][:1]))


def test_twin_16_bits() -> None:
    """Would catch a check blind to a probe that tries the first of two bases alone."""
    lm = loading.load("tiny-gemma3", device="cpu")
    must_refuse_or_fail(try_one_base, check_16_bits, lm, "bfloat16")


def try_rotations_alone(patch: pytest.MonkeyPatch) -> None:
    right = rope_fit.explain
    patch.setattr(rope_fit, "explain", lambda *a: [e for e in right(*a) if e.layer != NOT_ROTATED])


def test_every_fourth_layer_without_rotation_is_found() -> None:
    """Would catch a layer without rotation that is taken for one with, or the reverse."""
    check_fourth_layers()


def test_twin_fourth_layers() -> None:
    """Would catch a check blind to a probe that takes every layer to rotate."""
    must_refuse_or_fail(try_rotations_alone, check_fourth_layers)


def check_fourth_layers() -> None:
    """Demand that exactly the layers that do not rotate are found not to, in every dtype."""
    config = transformers.SmolLM3Config(
        **settings(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0])
    )
    for dtype in DTYPES:
        assert plan_of(built(config, dtype)) == (LayerRope("half", None, 8),) * 3 + (NOT_ROTATED,)


def check_several_rotary_modules() -> None:
    """Demand that layers whose frequencies stand in modules of their own have each their own."""
    config = transformers.GraniteSWAConfig(
        **settings(layer_rope_theta=[1e4, 0.0, 1e6], layer_types=["full_attention"] * 3)
    )
    lm = built(config)
    first, second, third = plan_of(lm)
    assert (first.pairing, second.pairing, third.pairing) == ("half", "none", "half")
    deltas = torch.full((1, 1), 5)
    for layer, theta in ((first, 1e4), (third, 1e6)):
        exponents = torch.arange(layer.dims // 2) / (layer.dims // 2)
        cosines = rope.rotation(lm, layer.layer_type, deltas)[0].flatten()
        assert torch.allclose(cosines, torch.cos(5 / theta**exponents), atol=1e-6)
    with pytest.raises(KvError, match="rope base must be one of"):
        rope.rotation(lm, "no such", deltas)


@needs_granite
def test_rotary_modules_of_their_own_are_told_apart() -> None:
    """Would catch a second rotary module of a model that is never tried."""
    check_several_rotary_modules()


def all_by_the_first(patch: pytest.MonkeyPatch) -> None:
    right = rope.frequency_sets

    def broken(lm: LM) -> rope.FrequencySets:
        sets = right(lm)
        return dict.fromkeys(sets, next(iter(sets.values())))

    patch.setattr(rope, "frequency_sets", broken)


@needs_granite
@pytest.mark.parametrize("fault", [try_one_base, all_by_the_first, try_rotations_alone])
def test_twin_several_rotary_modules(fault: Fault) -> None:
    """Would catch a check blind to further modules that are not tried, or taken for the first."""
    must_refuse_or_fail(fault, check_several_rotary_modules)


def beam(**changes: Any) -> LM:
    """Return a model whose full-attention layers turn no key, and have no frequencies to do so."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 64,
        "mlp_layer_types": ["dense"] * 4,
    }
    return built(transformers.BeamConfig(**settings(**{**sizes, **changes})))


def check_layers_without_frequencies() -> None:
    """Demand that layers which no frequencies serve keep their keys where a cache is moved.

    1. A cache that is read at its place.
    2. A cache that is read at another one, and moved. The queries, which this model scales by
       their position, are left as they are.
    """
    modeling: Any = importlib.import_module("transformers.models.beam.modeling_beam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "compute_attention_scaling", lambda _: None)
        lm = beam()
        plan = rope_probe.probe(lm)
        assert [layer.pairing for layer in plan.layers] == ["half", "none"] * 2
        ids = [range(3, 9)]
        cache = forward.prefill(lm, forward.pad_ids(lm, ids, [0]))
        moved = cache.reposition(lm, plan, torch.full((1, 6), 5))
        direct = forward.prefill(lm, forward.pad_ids(lm, ids, [5]))
    assert_close_per_layer(moved.keys, direct.keys, PREFILL_TOLERANCE, "moved keys")


@needs_beam
def test_layers_that_no_frequencies_serve_stay() -> None:
    """Would catch a model refused because a layer that does not rotate has no frequencies."""
    check_layers_without_frequencies()


@needs_beam
def test_twin_layers_that_no_frequencies_serve() -> None:
    """Would catch a check blind to rotations that are sought for every layer."""
    right = kv_cache.KVCache.reposition

    def broken(cache: kv_cache.KVCache, lm: LM, plan: rope.RopePlan, deltas: Any) -> Any:
        for layer in plan.layers:
            rope.rotation(lm, layer.layer_type, deltas)
        return right(cache, lm, plan, deltas)

    must_refuse_or_fail(
        patched(kv_cache.KVCache, "reposition", broken), check_layers_without_frequencies
    )


def check_scaled_by_position(last_alone: bool) -> None:
    """Demand a refusal of queries that are scaled by their position and no setting says so."""
    types = ["sliding_attention"] * 3 + ["full_attention"]
    line = refusal_of(beam(layer_types=types) if last_alone else beam())
    expected = f"layer {3 if last_alone else 1}'s output changes with position (by "
    assert expected in line, line or "not refused"


@needs_beam
@pytest.mark.parametrize("last_alone", [False, True])
def test_queries_scaled_without_a_setting_are_refused(last_alone: bool) -> None:
    """Would catch scores that hang on where a document was read, off by less than the gate sees."""
    check_scaled_by_position(last_alone)


@needs_beam
@pytest.mark.parametrize("last_alone", [False, True])
def test_twin_queries_scaled_without_a_setting(last_alone: bool) -> None:
    """Would catch a check blind to a probe that looks at keys and values alone."""
    keys_alone = patched(rope_probe, "OUTPUT_TOLERANCE", math.inf)
    must_refuse_or_fail(keys_alone, check_scaled_by_position, last_alone)


def check_short_of_a_switch() -> None:
    """Demand that a model that changes its frequencies early is probed below that."""
    config = transformers.Phi3Config(
        **{
            **copy.deepcopy(tiny_configs.settings("tiny-longrope")),  # 5.0.0 writes into it
            "original_max_position_embeddings": 32,
        }
    )
    assert plan_of(built(config)) == (LayerRope("half", None, 8),) * 3


def test_the_probe_stays_below_a_switch_of_frequencies() -> None:
    """Would catch a model refused because the probe itself crosses its switch."""
    check_short_of_a_switch()


def test_twin_switch_of_frequencies() -> None:
    """Would catch a check blind to a probe that crosses the switch."""
    no_limit = patched(rope, "max_positions", lambda _: None)
    must_refuse_or_fail(no_limit, check_short_of_a_switch)


# --- equal inputs ------------------------------------------------------------------------------


def check_scaled_queries(dtype: str) -> None:
    """Demand the rotation of a model whose queries are scaled by their position."""
    rotation = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 4.0,
        "original_max_position_embeddings": 8,
    }
    config = transformers.Ministral3Config(**settings(rope_parameters=rotation))
    assert plan_of(built(config, dtype)) == (LayerRope("half", None, 8),) * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_scaled_by_position_do_not_disturb_the_probe(dtype: str) -> None:
    """Would catch what a lower layer makes of positions taken for what a layer's keys do."""
    check_scaled_queries(dtype)


@contextmanager
def own_inputs(_lm: LM, inputs: rope_probe.LayerInputs) -> Iterator[None]:
    """Let every layer have what the layer below puts out, as it comes."""
    inputs.own.append(torch.zeros(1))
    yield


def test_twin_equal_inputs() -> None:
    """Would catch checks blind to a probe in which changes accumulate over layers."""
    must_refuse_or_fail(
        patched(rope_probe, "layer_inputs", own_inputs), check_scaled_queries, "float32"
    )


def check_model_is_left_alone() -> None:
    """Demand that a probe in 16 bits leaves every weight the very tensor that it was."""
    lm = load_model("tiny-gemma3", device="cpu", dtype="bfloat16")
    before = {key: (value.data_ptr(), value.dtype) for key, value in tensors_of(lm)}
    rope_probe.rope_plan(lm)
    assert before == {key: (value.data_ptr(), value.dtype) for key, value in tensors_of(lm)}


def tensors_of(lm: LM) -> list[tuple[str, torch.Tensor]]:
    return [*lm.model.named_parameters(), *lm.model.named_buffers()]


def test_the_probe_leaves_the_model_as_it_was() -> None:
    """Would catch layers left in float32."""
    check_model_is_left_alone()


@contextmanager
def all_in_float32(lm: LM) -> Iterator[None]:
    lm.model.float()
    yield


def test_twin_model_is_left_alone() -> None:
    """Would catch a check blind to a model that is cast for good."""
    fault = patched(rope_probe, "layers_in_float32", all_in_float32)
    must_refuse_or_fail(fault, check_model_is_left_alone)


# --- refusals ----------------------------------------------------------------------------------


def two_bases(full: float, sliding: float) -> LM:
    rotations = {
        "full_attention": {"rope_type": "default", "rope_theta": full},
        "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
    }
    config = {**tiny_configs.settings("tiny-gemma3"), "rope_parameters": rotations}
    return built(transformers.Gemma3TextConfig(**config))


def check_bases_too_close() -> None:
    """Demand a refusal where two bases look alike over the probe and differ farther away."""
    assert "explained by half pairs of" in refusal_of(two_bases(10_000.0, 10_000.2))


def test_bases_that_cannot_be_told_apart_are_refused() -> None:
    """Would catch one of two explanations taken by chance."""
    check_bases_too_close()


def test_twin_bases_too_close() -> None:
    """Would catch a check blind to a probe that knows no rivals."""
    must_refuse_or_fail(patched(rope_fit, "ANGLE_ROUNDING", 0.0), check_bases_too_close)


def test_equal_bases_are_no_reason_to_refuse() -> None:
    """Would catch a refusal where it does not matter which explanation is taken."""
    assert {layer.pairing for layer in plan_of(two_bases(10_000.0, 10_000.0))} == {"half"}


def check_learned_positions() -> None:
    """Demand a refusal of a rotary model to whose embeddings positions are added as well."""
    lm = built(transformers.LlamaConfig(**settings()))

    def add_positions(_module: Any, _args: Any, options: Any) -> Any:
        place = options["position_ids"].unsqueeze(-1).float()
        options["inputs_embeds"] = lm.model.model.embed_tokens(options.pop("input_ids")) + place
        return (), options

    lm.model.model.register_forward_pre_hook(add_positions, with_kwargs=True)
    assert "first layer changes with position" in refusal_of(lm)


def test_learned_positions_beside_rotary_ones_are_refused() -> None:
    """Would catch positions in the embeddings, which equal inputs would hide."""
    check_learned_positions()


def test_twin_learned_positions() -> None:
    """Would catch a check blind to a probe that looks at no input."""
    fault = patched(rope_fit, "relative_change", lambda *_: 0.0)
    must_refuse_or_fail(fault, check_learned_positions)


def test_keys_that_overflow_are_refused_in_one_line() -> None:
    """Would catch keys that are not finite taken for a rotation."""

    def overflow(model: Any) -> None:
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.fill_(60_000.0)

    lm = built(transformers.Qwen2Config(**settings()), "float16", overflow)
    assert {layer.pairing for layer in plan_of(lm)} == {"half"}
    with pytest.raises(NotExact, match=r"overflows in float16 \(keys or values of layer 0\)"):
        plan_of(lm, native=True)


def test_a_loaded_model_is_probed() -> None:
    """Would catch a model that is loaded and not probed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rope, "rotate", lambda keys, *_: keys)
        with pytest.raises(NotExact, match=r"keys fit no rotation \(best: .*error"):
            loading.load("tiny-llama", device="cpu")
