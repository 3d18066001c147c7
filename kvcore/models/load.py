"""From a name to a model in memory: evaluation mode, pinned attention, no gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from kvcore.errors import KvError
from kvcore.models import attention, memory, registry, tiny, tokenizers
from kvcore.models import device as devices
from kvcore.models import files as model_files
from kvcore.models.files import ModelFiles
from kvcore.models.lm import LM
from kvcore.models.registry import Quantization


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LM:
    """Load a model for scoring: eval mode, pinned attention, no gradients.

    Parameters
    ----------
    name : str
        Registry name, ``tiny-*`` name, hub id (``org/name``), local folder or ``.gguf`` file.
    device : str
        ``"auto"`` (CUDA where there is one, else CPU), or a torch device.
    trust_remote_code : bool
        Run code that ships with the model. Off unless asked for by name.

    Raises
    ------
    KvError, MissingResource
        As `locate`; also for a device that does not exist or a model without BOS or end of text.
    """
    files = model_files.locate(name, dtype, quantization, revision)
    where = devices.resolve_device(device)
    if files.folder is None:
        model, tokenizer = tiny.build(name)
        model = model.to(device=where, dtype=getattr(torch, files.dtype))
    else:
        model, tokenizer = load_folder(files, where, trust_remote_code)
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    attention.pin_attention(config, where)
    bos_id, bos_source = tokenizers.bos(tokenizer, config, name)
    return LM(name, model, tokenizer, bos_id, bos_source, files, where, config)


def load_folder(files: ModelFiles, device: torch.device, trust: bool) -> tuple[Any, Any]:
    """Load model and tokenizer from a folder of safetensors, and refuse one that is not whole.

    Raises
    ------
    KvError
        Without safetensors, or with weights missing.
    """
    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    folder = str(files.folder)
    # Weights that are stored in 4 bits say so themselves.
    if files.quantization == "nf4" and not registry.entry_of(files.name).stored_quantized:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, files.dtype),
        )
    if not list(Path(folder).glob("*.safetensors")):
        raise KvError(
            f"model {files.name!r}: {folder} holds no *.safetensors; pickled weights "
            "are not loaded. Convert them to safetensors first."
        )
    if device.type != "cpu" or files.quantization:
        options["device_map"] = {"": device}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    memory.check_fits(files, config, device)
    model_and_info: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, files.dtype),
        attn_implementation=attention.choose_attention(config),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=trust,
        output_loading_info=True,
        **options,
    )
    model, info = model_and_info
    missing = sorted(info["missing_keys"])
    if missing:  # they would be random numbers
        raise KvError(
            f"model {files.name!r}: {folder} lacks {len(missing)} weights, {missing[0]} "
            "first; use a complete checkpoint of this architecture."
        )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust
    )
    return model, tokenizer
