"""In 16 bits the scores are those of float32, up to rounding."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from benchmarks import dtypes
from invariants.support.comparing import Fault, must_see, replaced
from invariants.support.float32_products import Float32Products
from invariants.support.plain_routes import ROUTES
from invariants.support.samples import LONG, TINY
from kvcore import loading
from kvcore.cache import masks, rope
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

# Roundoff of the dtype, times the size of the logits (10), times the roundings of three layers.
COARSE = {"float16": 0.02, "bfloat16": 0.2}


def check_half_precision(lm: LM, dtype: str) -> None:
    """Demand finite scores in 16 bits, by both routes, near those of float32."""
    names = ("bare", "oracle", "full_context(oracle)")
    exact = answer_nll.score(lm, [LONG, TINY], names)
    half = loading.load(lm.name, device="cpu", dtype=dtype)
    for route in ROUTES:
        coarse = answer_nll.score(half, [LONG, TINY], names, route=route)
        assert (coarse.status == "ok").all()
        assert (coarse.nll - exact.nll).abs().max() < COARSE[dtype]


@pytest.mark.parametrize("dtype", sorted(COARSE))
def test_half_precision_measures_the_same(llama: LM, dtype: str) -> None:
    """Would catch scores in 16 bits that differ from float32's by more than rounding."""
    check_half_precision(llama, dtype)


def overflow_in_half_precision(patch: pytest.MonkeyPatch) -> None:
    """Leave a NaN behind wherever the keys are not float32."""
    right = rope.rotate
    patch.setattr(
        rope,
        "rotate",
        lambda keys, *more: (
            right(keys, *more) * (1 if keys.dtype == torch.float32 else float("nan"))
        ),
    )


def mask_in_another_sense(patch: pytest.MonkeyPatch) -> None:
    """Turn the mask's meaning round where the keys are not float32."""
    right = masks.in_attention_form
    patch.setattr(
        masks,
        "in_attention_form",
        lambda lm, mask: right(
            lm,
            mask
            if lm.dtype == "float32"
            else mask | mask.transpose(2, 3).logical_not()
            if mask.shape[2] == mask.shape[3]
            else ~mask,
        ),
    )


@pytest.mark.parametrize("dtype", sorted(COARSE))
@pytest.mark.parametrize("fault", [overflow_in_half_precision, mask_in_another_sense])
def test_twin_half_precision(llama: LM, fault: Fault, dtype: str) -> None:
    """Would catch a check blind to scores that are not finite, or to a mask of the other sense."""
    must_see(fault, check_half_precision, llama, dtype)


# --- 16-bit products, computed in float32 ------------------------------------------------------


def check_products(lm: LM, dtype: str) -> None:
    """Demand products of 16-bit tensors that are rounded once, and scores near the CPU's own.

    1. A product in float64, rounded; scores by the CPU's own products.
    2. The same under `Float32Products`.
    """
    precise = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 40, 40, generator=generator).to(precise) for _ in range(2))
    half = loading.load(lm.name, device="cpu", dtype=dtype)
    own = answer_nll.score(half, [LONG, TINY], ("bare", "oracle"))
    with Float32Products():
        products = (a @ b, torch.bmm(a, b), torch.nn.functional.linear(a[0], b[0].T)[None])
        scores = answer_nll.score(half, [LONG, TINY], ("bare", "oracle"))
    exact = a.double() @ b.double()
    for product in products:
        assert product.dtype == precise
        apart = (product.double() - exact[: len(product)]).abs() / exact[: len(product)].abs()
        assert apart.median() <= torch.finfo(precise).eps / 2
    assert (scores.nll - own.nll).abs().max() < COARSE[dtype]


@pytest.mark.parametrize("dtype", sorted(COARSE))
def test_products_in_float32_stand_for_16_bits(llama: LM, dtype: str) -> None:
    """Would catch a benchmark of dtypes that measures other numbers than a model in 16 bits."""
    check_products(llama, dtype)


@pytest.mark.parametrize("dtype", sorted(COARSE))
def test_twin_products_in_float32(llama: LM, dtype: str) -> None:
    """Would catch a check blind to inputs that are rounded to 8 bits."""
    fault: Fault = replaced(Float32Products, "wide", lambda real, *a: _coarsened(real(*a)))
    must_see(fault, check_products, llama, dtype)


def _coarsened(x: object) -> object:
    is_wide = isinstance(x, torch.Tensor) and x.dtype == torch.float32
    return x.to(torch.float8_e5m2).float() if is_wide else x  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_figures_of_every_dtype_can_be_written(llama: LM) -> None:
    """Would catch a benchmark of the dtypes that ends, after hours, with figures no file takes."""
    asked = argparse.Namespace(seed=0)
    report = json.loads(json.dumps(dtypes.measure(llama, [LONG, TINY], asked)))
    assert {"float32", *COARSE} == {*report["dtypes"]}
    assert report["numbers_agree"]
    judged = {v for of in report["dtypes"].values() for v in of["verdicts"].values()}
    assert judged <= {"supported", "refuted", "inconclusive"}
