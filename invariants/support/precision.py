"""PyTorch's switches of precision and attention kernels, which belong to the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def switches_restored() -> Iterator[None]:
    """Leave every switch that loading a model for a GPU turns as it was.

    The kernels' switches hold for the CPU too, whose numbers would otherwise hang on which tests
    ran before.
    """
    cuda, matmul, cudnn = torch.backends.cuda, torch.backends.cuda.matmul, torch.backends.cudnn
    products, convolutions = matmul.allow_tf32, cudnn.allow_tf32
    half = matmul.allow_fp16_reduced_precision_reduction
    bfloat = matmul.allow_bf16_reduced_precision_reduction
    kernels = (
        (cuda.enable_flash_sdp, cuda.flash_sdp_enabled()),
        (cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled()),
        (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled()),
        (cuda.enable_math_sdp, cuda.math_sdp_enabled()),
    )
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = products, convolutions
        matmul.allow_fp16_reduced_precision_reduction = half
        matmul.allow_bf16_reduced_precision_reduction = bfloat
        for switch, was_on in kernels:
            switch(was_on)
