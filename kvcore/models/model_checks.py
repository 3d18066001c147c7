"""What is refused of a model by its configuration, by its weights as read, by its token ids."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from kvcore.errors import KvError
from kvcore.models import folder_checks

FORWARD_ARGUMENTS = ("input_ids", "position_ids", "attention_mask", "past_key_values")
OUTPUT_SWITCHES = ("output_router_logits", "output_attentions", "output_hidden_states")
# Keys of a file that no number of a text model hangs on, though the model does not read them.
HARMLESS_KEYS = re.compile(
    r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)position_ids$"
    r"|\.(attn|attention|self_attn|self_attention)\.masked_bias$"
    r"|(^|\.)(vision_tower|vision_model|visual|vision_embed_tokens|multi_modal_projector"
    r"|audio_tower|embed_vision|embed_audio|mtp)\."
)
CAUSAL_MASK_KEY = re.compile(r"\.(attn|attention|self_attn)\.bias$")  # of four axes: a buffer
HEAD_KEY = re.compile(r"(^|\.)lm_head\.weight$")


# --- configuration -----------------------------------------------------------------------------


def check_config(name: str, folder: Path, config: Any, *, own_code: bool = False) -> None:
    """Refuse by name an architecture that cannot be measured exactly.

    Parameters
    ----------
    own_code : bool
        The model ships its own code, so transformers need not know its class.

    Raises
    ------
    KvError
    """
    text = config.get_text_config()
    known = own_code or type(config) in AutoModelForCausalLM._model_mapping
    if getattr(config, "is_encoder_decoder", False) or not known:
        raise KvError(
            f"model {name!r}: {folder} is of type {config.model_type}, which is no causal "
            "(decoder-only) language model; use one."
        )
    cause = unsupported_flags(text)
    if cause:
        raise KvError(
            f"model {name!r}: {folder} {cause}; use a causal model with rotary positions and a "
            "key and value cache in every layer."
        )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(text, key, None)
        for token_id in ids if isinstance(ids, list | tuple) else [ids]:
            if token_id is not None and int(token_id) >= int(text.vocab_size):
                raise KvError(
                    f"model {name!r}: {folder}: `{key}={token_id}` must be below the "
                    f"{text.vocab_size} rows of the embedding; mend config.json."
                )


def unsupported_flags(text: Any) -> str | None:
    """Return why a text model is not supported, None where nothing speaks against it."""
    if getattr(text, "is_causal", True) is False:
        return "attends in both directions (is_causal: false)"
    for key, value in sorted(vars(text).items()):
        if "bidirectional" in key and value in (True, "all"):
            return f"attends in both directions ({key}: {str(value).lower()})"
    if getattr(text, "is_decoder", True) is False and _reads_is_decoder(text):
        return "attends in both directions (is_decoder: false)"
    attention = getattr(text, "attn_config", None)
    alibi = (
        getattr(text, "alibi", False)
        or getattr(text, "use_alibi", False)
        or getattr(attention, "alibi", False)
        or getattr(text, "position_embedding_type", None) == "alibi"
    )
    if alibi:
        return "has ALiBi in place of rotary positions"
    shared = getattr(text, "num_kv_shared_layers", 0) or 0
    if shared:
        return (
            f"caches keys and values in fewer layers than it has (num_kv_shared_layers: {shared})"
        )
    return None


def _reads_is_decoder(config: Any) -> bool:
    """Whether a model's code asks its configuration if it is a decoder; others always are."""
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    source = inspect.getsource(sys.modules[model_class.__module__])
    return re.search(r"self\.is_decoder|if (self\.)?config\.is_decoder", source) is not None


def switch_off_outputs(config: Any) -> None:
    """Switch off what a configuration lets a model put out beside its logits, in place."""
    for part in (config, config.get_text_config()):
        for switch in OUTPUT_SWITCHES:
            if getattr(part, switch, False):
                setattr(part, switch, False)
        if getattr(part, "return_dict", True) is False:
            part.return_dict = True


def check_forward(name: str, model: Any) -> None:
    """Refuse a model whose forward takes no positions, mask or cache.

    Raises
    ------
    KvError
    """
    parameters = inspect.signature(model.forward).parameters
    missing = [argument for argument in FORWARD_ARGUMENTS if argument not in parameters]
    if missing:
        raise KvError(
            f"model {name!r}: {type(model).__name__} cannot be run with given positions, a 4-D "
            f"mask and a key and value cache (no {', '.join(missing)}); use a decoder with "
            "rotary positions."
        )


# --- weights -----------------------------------------------------------------------------------


def check_weights(name: str, folder: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not exactly those of its files.

    Parameters
    ----------
    info : mapping
        What transformers says of the loading.

    Raises
    ------
    KvError
        With weights missing, of another shape, or in the files but not read.
    """
    missing = sorted(info["missing_keys"])
    if missing:  # they would be random numbers
        raise KvError(
            f"model {name!r}: {folder} lacks {len(missing)} weights, {missing[0]} "
            "first; use a complete checkpoint of this architecture."
        )
    mismatched = sorted(str(key[0]) for key in info.get("mismatched_keys", ()))
    if mismatched:
        raise KvError(
            f"model {name!r}: {folder} holds {mismatched[0]} in another shape than config.json "
            "says; use the configuration that belongs to the weights."
        )
    unread = [
        key
        for key in sorted(info["unexpected_keys"])
        if not HARMLESS_KEYS.search(key) and not is_buffer_or_tied(name, folder, model, key)
    ]
    if unread:
        raise KvError(
            f"model {name!r}: {folder} holds {len(unread)} weights that {type(model).__name__} "
            f"does not read, {unread[0]} first; use a checkpoint whose config.json says all that "
            "its weights are."
        )


def is_buffer_or_tied(name: str, folder: Path, model: Any, key: str) -> bool:
    """Whether a key is a causal mask kept as a buffer, or an LM head equal to the embedding."""
    if CAUSAL_MASK_KEY.search(key):
        return _stored(name, folder, key).ndim == 4
    if HEAD_KEY.search(key) and getattr(model.config, "tie_word_embeddings", False):
        stored, own = _stored(name, folder, key), model.get_output_embeddings().weight
        return stored.shape == own.shape and torch.equal(stored.to(own.dtype), own.cpu())
    return False


def _stored(name: str, folder: Path, key: str) -> torch.Tensor:
    for path in folder_checks.weight_files(name, folder):
        with safe_open(path, "pt") as file:
            if key in file.keys():
                tensor: torch.Tensor = file.get_tensor(key)
                return tensor
    return torch.empty(0)


# --- token ids ---------------------------------------------------------------------------------


def check_ids(name: str, model: Any, tokenizer: Any, bos_id: int) -> None:
    """Refuse a tokenizer that gives ids for which the model has no embedding.

    Raises
    ------
    KvError

    Notes
    -----
    Special tokens that text cannot give (placeholders of images) may lie beyond.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    special = set(tokenizer.all_special_ids) | {
        token_id
        for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if token.special
    }
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    beyond = _beyond((i for i in vocabulary.values() if i not in special), rows)
    used = [i for i in (bos_id, tokenizer.eos_token_id) if i is not None]
    beyond = beyond or _beyond(used, rows)
    if beyond:
        raise KvError(
            f"model {name!r}: its tokenizer gives {len(beyond)} ids that are not below the "
            f"{rows} rows of its embedding, {beyond[0]} first; use the tokenizer that belongs to "
            "the weights."
        )


def _beyond(ids: Iterable[int], rows: int) -> Sequence[int]:
    return sorted({i for i in ids if i >= rows})
