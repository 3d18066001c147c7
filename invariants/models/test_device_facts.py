"""A GPU rounds as its dtype says, and the rows' provenance names it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from invariants.support.comparing import must_see, replaced
from invariants.support.precision import switches_restored
from invariants.support.stand_in_device import stand_in_device
from kvcore.measurements import provenance
from kvcore.models import device
from kvcore.models.lm import LM

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


def set_all(on: bool) -> None:
    """Switch everything that a GPU may round coarsely by, and every kernel."""
    cuda, matmul = torch.backends.cuda, torch.backends.cuda.matmul
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    matmul.allow_fp16_reduced_precision_reduction = on
    matmul.allow_bf16_reduced_precision_reduction = on
    for switch in (
        cuda.enable_flash_sdp,
        cuda.enable_cudnn_sdp,
        cuda.enable_mem_efficient_sdp,
        cuda.enable_math_sdp,
    ):
        switch(on)


@pytest.fixture(autouse=True)
def switched_back() -> Iterator[None]:
    """Leave PyTorch's switches as they were."""
    with switches_restored():
        yield


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a GPU have a name without there being one."""

    def answer(command: list[str], **_: Any) -> Any:
        assert command[0] == "nvidia-smi"
        return subprocess.CompletedProcess(command, 0, "570.86.15\n570.86.15\n", "")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(subprocess, "run", answer)


def check_precision() -> None:
    """Demand that nothing rounds coarsely, whatever was on, and that two kernels are left."""
    set_all(True)
    device.pin_precision(GPU)
    described = device.describe_device(GPU)
    assert described["reduced precision"] == "none"
    assert described["SDPA kernels"] == "memory-efficient, math"


def test_a_gpu_rounds_as_its_dtype_says() -> None:
    """Would catch TF32 or 16-bit sums left on, or a kernel chosen pass by pass; with its twin."""
    must_see(replaced(device, "pin_precision", lambda *_: None), check_precision)


def test_a_cpu_is_left_as_it_is() -> None:
    """Would catch switches of the process changed where nothing is measured on a GPU."""
    set_all(True)
    device.pin_precision(CPU)
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_gpu_is_named_with_its_driver_and_switches() -> None:
    """Would catch rows of which nobody can tell on what they were measured."""
    set_all(True)
    described = device.describe_device(GPU)
    assert described["GPU"] == "NVIDIA H100"
    assert described["compute capability"] == "9.0"
    assert described["driver"] == "570.86.15"
    assert described["reduced precision"].split(", ") == [
        "TF32 products",
        "TF32 convolutions",
        "float16 sums",
        "bfloat16 sums",
    ]
    assert described["SDPA kernels"].split(", ") == ["flash", "cudnn", "memory-efficient", "math"]


def test_a_driver_that_cannot_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a run that ends because a command is missing, as on ROCm."""

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    assert device.describe_device(GPU)["driver"] == "unknown"


def test_provenance_says_what_is_described(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch facts of the device that never reach the rows."""
    assert provenance.provenance(llama)["device"] == "cpu"
    monkeypatch.setattr(device, "describe_device", lambda _: {"device": "cuda:0", "GPU": "X"})
    assert provenance.provenance(llama)["GPU"] == "X"


def test_a_stand_in_gpu_leaves_the_cpus_kernels() -> None:
    """Would catch numbers of the CPU that hang on which tests ran before in the process."""
    set_all(True)
    with stand_in_device():
        device.pin_precision(GPU)
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.matmul.allow_tf32
