"""Every causal architecture of transformers, built small from its configuration class and scored.

``python -m invariants.support.architectures`` writes the table of `docs/architectures.md`; a type
takes three to ten seconds. Each type has a process of its own, so that one that hangs or crashes
takes no other with it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from invariants.support import checkpoints
from kvcore import loading
from kvcore.conditions.parse import condition
from kvcore.data.sample import Sample
from kvcore.engine.prepared import prepare_one
from kvcore.errors import KvError
from kvcore.measurements import answer_nll
from kvcore.models.lm import LM

MODEL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
REPRESENTATIVE = (
    "bloom",
    "cohere2",
    "deepseek_v3",
    "falcon",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "llama4_text",
    "mamba",
    "olmo2",
    "qwen3_moe",
)
LAYERS = 4
LARGEST = 20_000_000  # parameters of a model that is small
# What makes a configuration small, under all the names that classes have for it.
SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "ffn_hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "sliding_window": 24,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "query_pre_attn_scalar": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 384,
    "embedding_size": 32,
    "adapter_in_dim": 32,
    "adapter_input_size": 32,
    "adapter_out_dim": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "decoder_start_token_id": 0,
    "is_decoder": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}
MAPPED = {"num_kv_heads": 2, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "d_model": 32}
MAPPED |= {"emb_dim": 32, "n_layers": LAYERS, "n_heads": 4}
ALTERNATING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}
WINDOWED = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
# What a type needs beside its sizes.
OWN: dict[str, dict[str, Any]] = {
    "falcon": {"new_decoder_architecture": True, "alibi": False, "num_kv_heads": 2},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "cpmant": {"dim_head": 8, "dim_ff": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]], "num_layers": LAYERS},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4, **WINDOWED},
    "zaya": {"num_experts_per_tok": 1},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "blt": {"encoder_hash_byte_group_vocab": 384},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_top_k": 2},
    },
    "gemma3n_text": {"layer_types": ALTERNATING, "num_kv_shared_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "longcat_flash": {"zero_expert_num": 2, "expert_ffn_hidden_size": 16, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "qwen4_exp_text": INDEXER,
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * (LAYERS // 2)},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 32)},
}


def build(model_type: str, folder: Path) -> None:
    """Save a small model of a type with random weights, and a tokenizer that fits it.

    Raises whatever its classes raise where it cannot be built from these sizes.
    """
    config = _shrunk(CONFIG_MAPPING[model_type])
    with torch.device("meta"):  # counted before any memory is taken
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if parameters > LARGEST:
        raise ValueError(f"does not become small ({parameters / 1e6:,.0f} million parameters)")
    checkpoints.build_checkpoint(folder, config)


def _shrunk(config_class: Any) -> Any:
    """Return a configuration of a class, made small, parts of it included."""
    default, own = config_class(), OWN.get(config_class.model_type, {})
    sizes = {name: value for name, value in {**SIZES, **MAPPED}.items() if _takes(default, name)}
    layer_types = getattr(default, "layer_types", None)
    if layer_types and _takes(default, "layer_types"):
        sizes["layer_types"] = _few(layer_types)
    if isinstance(getattr(default, "mlp_layer_types", None), list):
        sizes["mlp_layer_types"] = _few(default.mlp_layer_types)
    parts = {
        name: _shrunk(type(getattr(default, name)))
        for name in getattr(config_class, "sub_configs", None) or {}
        if isinstance(getattr(default, name, None), PreTrainedConfig)
    }
    return config_class(**{**sizes, **parts, **own})


def _few(kinds: list[str]) -> list[str]:
    """Return the first layers' kinds, with one of each where there is room."""
    others = [kind for kind in dict.fromkeys(kinds) if kind not in kinds[:LAYERS]]
    return (kinds[: LAYERS - len(others)] + others)[:LAYERS]


def _takes(default: Any, name: str) -> bool:
    known = (
        {field.name for field in dataclasses.fields(default)}
        if dataclasses.is_dataclass(default)
        else vars(default)
    )
    return name in known


# --- scores ------------------------------------------------------------------------------------

ALLOWED = {"float32": 1e-5, "bfloat16": 5e-2}
"""Nats: of each score in float32, of the mean over the answers in bfloat16."""
CONDITIONS = ("bare", "random", "static_fact")
WORDS = "mean axis sample entry value sum number order key norm rank edge root path node".split()
SAMPLES = tuple(
    Sample(
        f"what is the {word}",
        "The sum of the entries along an axis is returned. " * (1 + number % 3),
        f"it is the {word} of numbers",
        id=word,
    )
    for number, word in enumerate([*WORDS, "leaf", "list", "word", "text", "file"])
)
TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"
BUILD_SECONDS, SECONDS = 120, 300
"""Of a type, to be built and in all, before it is given up."""
MEMORY = 6 * 2**30  # bytes that a type's process may take
KINDS = ("agrees", "refused", "differs", "crashed", "not built")
ADMISSIBLE = ("agrees", "refused", "not built")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What comes of a type: a member of `KINDS`, and why."""

    kind: str
    detail: str


def outcome(model_type: str) -> Outcome:
    """Build a type, load it and compare its scores by every route."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        try:
            with limited(BUILD_SECONDS):
                build(model_type, folder)
        except Exception as error:  # of code that is not ours: whatever it may be
            return Outcome("not built", _line(error, folder))
        try:
            differences = {dtype: difference(folder, dtype) for dtype in ALLOWED}
        except KvError as error:
            return Outcome("refused", _line(error, folder))
        except Exception as error:  # a fault of ours: a model is refused by name or scored
            return Outcome("crashed", _line(error, folder))
    detail = ", ".join(f"{value:.0e} in {dtype}" for dtype, value in differences.items())
    within = all(value <= ALLOWED[dtype] for dtype, value in differences.items())
    return Outcome("agrees" if within else "differs", detail)


def isolated_outcome(model_type: str, seconds: float = SECONDS) -> Outcome:
    """Return a type's outcome from a forked process, which is killed after some seconds.

    For a process that has run no operation of torch on several threads.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def send() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        sender.send(outcome(model_type))

    process = context.Process(target=send)
    with warnings.catch_warnings():  # of Python 3.12, where other threads run
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return receiver.recv()  # type: ignore[no-any-return]
        return Outcome("not built", f"took longer than {seconds:g} s")
    except EOFError:
        process.join()
        return Outcome("crashed", f"its process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def difference(folder: Path, dtype: str) -> float:
    """Return how far a saved model's routes lie apart, in nats, as `ALLOWED` has it.

    Routes: (1) one masked pass; (2) caches; (3) for `bare`, the stock model's forward without mask,
    positions or cache. In float32 the largest difference of a score over three samples, in
    bfloat16 that of the means over all.
    """
    lm = loading.load(str(folder), device="cpu", dtype=dtype)
    samples = SAMPLES[:3] if dtype == "float32" else SAMPLES
    routes = [
        answer_nll.score(lm, samples, CONDITIONS, seed=0, route=route)
        .pivot(index="sample_id", columns="condition", values="nll")
        .loc[[s.id for s in samples], list(CONDITIONS)]
        .to_numpy()
        for route in ("auto", "cache")
    ]
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    own = np.array([_own_score(stock, lm, sample) for sample in samples])
    if dtype == "bfloat16":
        routes, own = [route.mean(axis=0) for route in routes], own.mean(axis=0)
    apart = (routes[0] - routes[1], routes[0][..., 0] - own)
    return float(max(np.abs(each).max() for each in apart))


def _own_score(stock: Any, lm: LM, sample: Sample) -> float:
    read = prepare_one(lm, sample, condition("bare"), seed=0).tokens
    ids = [lm.bos_id, *read.document, *read.prompt, *read.answer]
    with torch.inference_mode():
        logits = stock(torch.tensor([ids]), use_cache=False).logits[0].float()
    first = len(ids) - len(read.answer)
    targets = torch.tensor(ids[first:])
    return float(torch.nn.functional.cross_entropy(logits[first - 1 : -1], targets))


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds; in the main thread alone."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _line(error: Exception, folder: Path) -> str:
    text = " ".join(str(error).split()).replace(f"{folder}", "model")
    text = text if isinstance(error, KvError) else f"{type(error).__name__}: {text}"
    return text.replace("|", "/")[:200]


# --- the table ---------------------------------------------------------------------------------


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the page that lists every type."""
    counts = {kind: sum(each.kind == kind for each in outcomes.values()) for kind in KINDS}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    rows = [
        f"| `{name}` | {each.kind} | {each.detail} |" for name, each in sorted(outcomes.items())
    ]
    return "\n".join(
        [
            "# Architectures",
            "",
            "Causal architectures of transformers "
            f"{transformers.__version__}, built small with random weights, saved, loaded and",
            "scored by one masked pass, by caches and by its own forward under three conditions:",
            "*agrees* within 1e-5 nats a score in float32 and 5e-2 nats in the mean over 20",
            "answers in bfloat16, or is *refused* with the reason given. *Not built* are types",
            "whose configuration does not become small. Written by",
            "`python -m invariants.support.architectures`, which goes on where the page ends.",
            "",
            f"{len(outcomes)} of {len(MODEL_TYPES)} types have been tried: {summary}.",
            "",
            "| type | outcome | largest difference in nats, or why |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def read_table() -> dict[str, Outcome]:
    """Return the outcome of each type as the page has it; none where it is of other classes."""
    text = TABLE.read_text("utf-8") if TABLE.is_file() else ""
    if f"transformers {transformers.__version__}," not in text:
        return {}
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): Outcome(kind, detail) for name, kind, detail in rows}


def main(types: Sequence[str]) -> None:
    """Try some types, by default all that the page lacks, and write the page after each."""
    outcomes = read_table()
    for model_type in types or [name for name in MODEL_TYPES if name not in outcomes]:
        outcomes[model_type] = isolated_outcome(model_type)
        print(model_type, *dataclasses.astuple(outcomes[model_type]), flush=True)
        TABLE.write_text(table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
