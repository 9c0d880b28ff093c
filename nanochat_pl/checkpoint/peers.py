"""Checkpoints of nanoGPT and nanochat, by which their models go on here."""

import json
import re
from pathlib import Path
from typing import Any

from nanochat_pl.checkpoint.foreign import ForeignModel, read_pickled, tensors_by_name
from nanochat_pl.checkpoint.hf_formats import FIRST_NANOCHAT_OPTIONS
from nanochat_pl.checkpoint.weight_map import Weight, WeightMap, gpt2_weights
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.gpt2 import GPT2Config

NANOCHAT_STAGES = {
    "base_checkpoints": "base",
    "mid_checkpoints": "mid",
    "chatsft_checkpoints": "sft",
    "chatrl_checkpoints": "rl",
}
"""The folders that nanochat keeps its checkpoints in."""

NANOCHAT = WeightMap(
    (
        Weight("transformer.wte.weight", ("embedding.weight",)),
        Weight("lm_head.weight", ("head.weight",)),
        Weight("value_embeds.{}.weight", ("value_embeddings.{}.weight",)),
        Weight("resid_lambdas", ("resid_scalars",)),
        Weight("x0_lambdas", ("x0_scalars",)),
        Weight("smear_gate.weight", ("smear_gate.weight",)),
        Weight("smear_lambda", ("smear_scale",)),
        Weight("backout_lambda", ("backout_scale",)),
        Weight("transformer.h.{}.attn.c_q.weight", ("blocks.{}.attn.query.weight",)),
        Weight("transformer.h.{}.attn.c_k.weight", ("blocks.{}.attn.key.weight",)),
        Weight("transformer.h.{}.attn.c_v.weight", ("blocks.{}.attn.value.weight",)),
        Weight("transformer.h.{}.attn.ve_gate.weight", ("blocks.{}.attn.value_gate.weight",)),
        Weight("transformer.h.{}.attn.c_proj.weight", ("blocks.{}.attn.proj.weight",)),
        Weight("transformer.h.{}.mlp.c_fc.weight", ("blocks.{}.mlp.fc.weight",)),
        Weight("transformer.h.{}.mlp.c_proj.weight", ("blocks.{}.mlp.proj.weight",)),
    ),
    prefix=r"_orig_mod\.",
)
NANOGPT = gpt2_weights(transposed=False)


def read_nanogpt(path: Path) -> ForeignModel:
    """nanoGPT's ckpt.pt (or its folder). nanoGPT computes GELU exactly, and knows no special token but the first.

    Raises:
        UserError: it is none, or damaged.
    """
    path = path / "ckpt.pt" if path.is_dir() else path
    saved = read_pickled(_existing(path, "nanoGPT's ckpt.pt"))
    try:
        if not isinstance(saved, dict):
            raise TypeError(f"it holds a {type(saved).__name__}")
        sizes, weights, step = dict(saved["model_args"]), saved["model"], int(saved["iter_num"])
        config = GPT2Config(
            vocab_size=sizes["vocab_size"], sequence_len=sizes["block_size"], n_layer=sizes["n_layer"],
            n_head=sizes["n_head"], n_kv_head=sizes["n_head"], n_embd=sizes["n_embd"],
            bias=sizes.get("bias", True),  # which the first checkpoints do not name
            dropout=float(sizes.get("dropout", 0.0)), gelu="exact",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__} {str(error).removesuffix('.')}"
        raise UserError(f"{path} is no checkpoint of nanoGPT's train.py: {reason}.") from error
    return ForeignModel(config, tensors_by_name(weights, path), NANOGPT, "base", {"step": step})


def read_nanochat(path: Path) -> ForeignModel:
    """nanochat's model_STEP.pt with the meta_STEP.json beside it, or the newest of a folder.

    It may be of nanochat as it is (92d63d4), or as it was until 2026, without windows, scalars and value embeddings.

    Raises:
        UserError: it is none, damaged, or of a nanochat in between.
    """
    if path.is_dir():
        found = [file for file in path.iterdir() if re.fullmatch(r"model_\d+\.pt", file.name)]
        path = max(found, key=lambda file: int(file.stem.split("_")[1]), default=path / "model_STEP.pt")
    described = path.with_name(path.stem.replace("model", "meta") + ".json")
    weights = tensors_by_name(read_pickled(_existing(path, "nanochat's model_STEP.pt")), path)
    try:
        meta = json.loads(_existing(described, "what describes it").read_text(encoding="utf-8"))
        sizes = meta["model_config"]
        first = {"window_pattern": "L", "rope_base": 10_000.0, **FIRST_NANOCHAT_OPTIONS}
        sizes = first | sizes if "window_pattern" not in sizes else sizes
        config = NanoChatConfig(**sizes | {"window_pattern": sizes["window_pattern"].upper()})
        facts: dict[str, Any] = {"step": int(meta["step"])}
        if isinstance(meta.get("val_bpb"), float):
            facts["val_bpb"] = meta["val_bpb"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__} {str(error).removesuffix('.')}"
        raise UserError(f"{described} does not describe a model of nanochat: {reason}.") from error
    stage = next((stage for folder, stage in NANOCHAT_STAGES.items() if folder in path.resolve().parts), "base")
    return ForeignModel(config, weights, NANOCHAT, stage, facts)


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        if path.with_name("config.json").is_file():
            raise UserError(f"{path.parent} is a model of Hugging Face, which needs no import: name it as any model.")
        raise UserError(f"There is no {path}. Name {what}, or the folder that it lies in.")
    return path
