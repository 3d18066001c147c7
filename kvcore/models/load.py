"""From a name to a model in memory: evaluation mode, pinned attention, no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from kvcore.errors import KvError, MissingResource, one_line
from kvcore.models import attention, folder_checks, memory, model_checks, tiny, tokenizers
from kvcore.models import device as devices
from kvcore.models import files as model_files
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.models.registry import BosPolicy, Quantization

TRIAL_TEXT = "A snowman, \u2603, which few vocabularies have.\n"


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    bos: BosPolicy = "own",
    trust_remote_code: bool = False,
) -> LM:
    """Load a model for scoring: eval mode, pinned attention, no gradients.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``), local folder or ``.gguf`` file.
    device : str
        ``"auto"`` (CUDA where there is one, else CPU), or a torch device.
    bos : {"own", "none"}
        Whether caches begin with the model's BOS, or with the first token that is read.
    trust_remote_code : bool
        Run code that ships with the model. Off unless asked for by name.

    Raises
    ------
    KvError, MissingResource
        As `locate`; also for a device that does not exist or a model without BOS or end of text.
    """
    files = model_files.locate(name, dtype, quantization, revision, bos)
    where = devices.resolve_device(device)
    devices.pin_precision(where)
    if files.folder is None:
        model, tokenizer = tiny.build(name)
        model = model.to(device=where, dtype=getattr(torch, files.dtype))
    else:
        model, tokenizer = load_folder(files, where, trust_remote_code)
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    attention.pin_attention(model, where)
    bos_id, bos_source = tokenizers.bos(tokenizer, config, name)
    model_checks.check_ids(name, model, tokenizer, bos_id)
    return LM(name, model, tokenizer, bos_id, bos_source, files, where, config, bos == "own")


def load_folder(files: ModelFiles, device: torch.device, trust: bool) -> tuple[Any, Any]:
    """Load model and tokenizer from a folder of safetensors, and refuse one that is not whole.

    Raises
    ------
    KvError
        For what `folder_checks` and `model_checks` refuse, and for whatever transformers raises.
    """
    logging.disable_progress_bar()
    folder = Path(str(files.folder))
    folder_checks.check_files(files.name, folder)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust}
    with _in_one_line(files, "configuration", trust=trust):
        config = AutoConfig.from_pretrained(folder, **options)
    model_checks.check_config(
        files.name, folder, config, own_code=trust and hasattr(config, "auto_map")
    )
    model_checks.switch_off_outputs(config)
    with _in_one_line(files, "model"):
        memory.check_fits(files, config, device)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, files.dtype),
            attn_implementation=attention.choose_attention(config),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused
            **options,
            **_placement(files, device, config),
        )
    model, info = loaded
    _keep_weights_as_stored(model)
    model_checks.check_weights(files.name, folder, model, info)
    model_checks.check_forward(files.name, model)
    with _in_one_line(files, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        tokenizer.encode(TRIAL_TEXT, add_special_tokens=False)  # some can be loaded, but not used
    return model, tokenizer


def _keep_weights_as_stored(model: torch.nn.Module) -> None:
    """Have layers in 4 bits run the same kernels on every CPU.

    Where a CPU has AVX512-BF16, bitsandbytes packs the weights anew in their first forward pass:
    it refuses widths that its blocks do not divide, and its numbers are those of that CPU alone.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _placement(files: ModelFiles, device: torch.device, config: Any) -> dict[str, Any]:
    """Return where weights go and how they are quantized, as transformers takes it."""
    options: dict[str, Any] = {}
    if device.type != "cpu" or files.quantization:
        options["device_map"] = {"": device}
    # Weights that are stored in 4 bits say so themselves.
    if files.quantization == "nf4" and getattr(config, "quantization_config", None) is None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, files.dtype),
        )
    return options


@contextmanager
def _in_one_line(files: ModelFiles, part: str, *, trust: bool = False) -> Iterator[None]:
    """Turn whatever transformers raises on a folder into one line; memory errors pass."""
    try:
        yield
    except (KvError, MissingResource, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise KvError(
            f"model {files.name!r}: the {part} in {files.folder} cannot be loaded: "
            f"{cause_of(files, error, part, trust=trust)}."
        ) from error


def cause_of(files: ModelFiles, error: Exception, part: str, *, trust: bool) -> str:
    settings = folder_checks.read_json(files.name, Path(str(files.folder)) / "config.json")
    kind, own_code = settings.get("model_type"), "auto_map" in settings
    if part != "configuration" or kind in CONFIG_MAPPING or (own_code and trust):
        return f"{one_line(error)}; check the folder's files, or download it again"
    if kind is None:
        return "config.json names no model_type; download the model again"
    ships_code = ", or pass trust_remote_code=True to run the code that it ships"
    return (
        f"its model_type {kind!r} is not known to transformers {transformers.__version__}; "
        f"update transformers{ships_code if own_code else ''}"
    )
