"""A model as a Hugging Face folder: transformers loads it, and what is built on transformers."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

import nanochat_pl
from nanochat_pl.checkpoint.hf_card import model_card
from nanochat_pl.checkpoint.hf_tokenizer import build_hf_tokenizer
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing, write_text
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import architecture_of
from nanochat_pl.tokenizers.base import BOS

MODELING_FILE = "modeling_nanochat_pl.py"
CHAT_TEMPLATE = "chat_template.jinja"
TURN_END = "<|assistant_end|>"
"""Stands for padding too, for which our tokenizers have no token of its own.

Without an attention mask transformers takes padding tokens in a prompt for padding, unless they are stop tokens: this
one never is in a base model's prompt, and it stops a chat model.
"""

RECORD = "nanochat_pl.json"
"""What the export was made of; a folder that has it may be replaced by another export."""


@dataclass(frozen=True)
class HubFormat:
    """How the models of one shape are written.

    Attributes:
        name: for people.
        fits: whether a config is of this shape.
        describe: the part of config.json that depends on the model.
        renames: patterns of our weights' names, and theirs; the first that matches a whole name. Empty: as they are.
        modeling_file: of this package, to go with the weights; None: transformers has the model.
    """

    name: str
    fits: Callable[[Any], bool]
    describe: Callable[[Any], dict[str, Any]]
    renames: Sequence[tuple[str, str]] = ()
    modeling_file: str | None = None

    def rename(self, weight: str) -> str:
        """The name that a weight of ours has there."""
        if not self.renames:
            return weight
        return next(re.sub(pattern, name, weight) for pattern, name in self.renames if re.fullmatch(pattern, weight))


def export_to_hf(loaded: LoadedModel, source: str, out: Path) -> HubFormat:
    """Write `loaded` to the folder `out`; an earlier export there is replaced, other files are left alone.

    Args:
        source: the model's name, to be recorded.

    Returns:
        The format it was written in.

    Raises:
        UserError: `out` holds something else or cannot be a folder, or the tokenizer cannot be expressed.
        MachineError: the disk is full or not writable.
    """
    config = loaded.model.config
    hub_format = next(entry for entry in FORMATS[architecture_of(config)] if entry.fits(config))
    built = build_hf_tokenizer(loaded.tokenizer, loaded.is_chat)
    files = {
        "tokenizer.json": built.to_str(pretty=True),
        "tokenizer_config.json": _json(_tokenizer_config(loaded)),
        "generation_config.json": _json(_token_ids(loaded)),
        "README.md": model_card(loaded, source, hub_format.name, hub_format.modeling_file is not None),
        "config.json": _json(_config(loaded, hub_format)),
    }
    for name in (CHAT_TEMPLATE if loaded.is_chat else None, hub_format.modeling_file):
        if name is not None:
            files[name] = (resources.files("nanochat_pl.checkpoint.hf") / name).read_text(encoding="utf-8")
    _prepare(out)
    record = {
        "format": "nanochat_pl.export",
        "nanochat_pl": nanochat_pl.__version__,
        "source": source,
        "stage": loaded.stage,
        "facts": loaded.facts,
        "architecture": architecture_of(config),
        "config": config.as_dict(),
    }
    write_text(out / RECORD, _json(record))
    for stale in ("config.json", CHAT_TEMPLATE, MODELING_FILE):  # without config.json nothing loads what is half done
        (out / stale).unlink(missing_ok=True)
    _write_weights(out / "model.safetensors", loaded.model, hub_format)
    for name in sorted(files, key="config.json".__eq__):
        write_text(out / name, files[name])
    return hub_format


def _prepare(out: Path) -> None:
    """See that `out` is free for an export."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out} cannot be made: a file is in its place. Name another folder with --out.") from error
    if any(out.iterdir()) and not (out / RECORD).is_file():
        raise UserError(
            f"{out} is not empty, and what it holds was not written by an export. Name another folder with --out, or "
            "empty this one."
        )


def _write_weights(path: Path, model: Any, hub_format: HubFormat) -> None:
    from safetensors.torch import save_file

    config, roles, weights = model.config, model.param_roles(), {}
    for name, weight in model.state_dict().items():
        if roles[name] in ("embedding", "value_embedding", "unembedding"):
            weight = weight[: config.vocab_size]  # without the vocabulary's padding
        weights[hub_format.rename(name)] = weight.detach().to("cpu", config.dtype).contiguous()
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def _config(loaded: LoadedModel, hub_format: HubFormat) -> dict[str, Any]:
    config = loaded.model.config
    shape = hub_format.describe(config)
    return {**shape, **_token_ids(loaded), "dtype": config.compute_dtype, "tie_word_embeddings": False}


def _token_ids(loaded: LoadedModel) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.special_tokens[name] for name in _stop_tokens(loaded)],
        "pad_token_id": tokenizer.special_tokens[TURN_END],
    }


def _stop_tokens(loaded: LoadedModel) -> list[str]:
    """What ends an answer, as in `inference.conversation.stop_ids`."""
    return [TURN_END, BOS] if loaded.is_chat else [BOS]


def _tokenizer_config(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": _stop_tokens(loaded)[0],
        "pad_token": TURN_END,
        "padding_side": "left",
        "model_max_length": loaded.model.config.sequence_len,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _is_first_nanochat(config: NanoChatConfig) -> bool:
    """Whether transformers' own NanoChat computes the same, on texts up to the trained context."""
    parts = (config.value_embeddings, config.smear, config.backout, config.scalars, config.position != "rope")
    return not any(parts) and config.qk_scale == 1 and set(config.windows) == {config.sequence_len - 1}


def _shape(config: NanoChatConfig) -> dict[str, Any]:
    """What both formats of the nanochat architecture call the same."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "max_position_embeddings": max(config.windows) + 1,
        "rms_norm_eps": torch.finfo(config.dtype).eps,
        "final_logit_softcapping": config.softcap,
    }


def _first_nanochat(config: NanoChatConfig) -> dict[str, Any]:
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        **_shape(config),
        "intermediate_size": 4 * config.n_embd,
        "hidden_act": "relu2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }


def _own_modeling(config: NanoChatConfig) -> dict[str, Any]:
    module = Path(MODELING_FILE).stem
    *_, full = config.windows
    short = min(config.windows)
    return {
        "architectures": ["NanoChatPLForCausalLM"],
        "model_type": "nanochat_pl",
        "auto_map": {
            "AutoConfig": f"{module}.NanoChatPLConfig",
            "AutoModelForCausalLM": f"{module}.NanoChatPLForCausalLM",
        },
        **_shape(config),
        "sliding_window": short + 1 if short < full else None,
        "layer_types": ["sliding_attention" if window < full else "full_attention" for window in config.windows],
        "rope_base": config.rope_base if config.position == "rope" else None,
        "alibi_slopes": config.slopes,
        "qk_scale": config.qk_scale,
        "value_embeddings": config.value_embeddings,
        "smear": config.smear,
        "backout": config.backout,
        "residual_scalars": config.scalars,
    }


FORMATS: dict[str, tuple[HubFormat, ...]] = {
    "nanochat": (
        HubFormat(
            name="transformers' own architecture `nanochat`",
            fits=_is_first_nanochat,
            describe=_first_nanochat,
            renames=(
                (r"embedding\.weight", "model.embed_tokens.weight"),
                (r"head\.weight", "lm_head.weight"),
                (r"blocks\.(\d+)\.attn\.query\.weight", r"model.layers.\1.self_attn.q_proj.weight"),
                (r"blocks\.(\d+)\.attn\.key\.weight", r"model.layers.\1.self_attn.k_proj.weight"),
                (r"blocks\.(\d+)\.attn\.value\.weight", r"model.layers.\1.self_attn.v_proj.weight"),
                (r"blocks\.(\d+)\.attn\.proj\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
                (r"blocks\.(\d+)\.mlp\.fc\.weight", r"model.layers.\1.mlp.fc1.weight"),
                (r"blocks\.(\d+)\.mlp\.proj\.weight", r"model.layers.\1.mlp.fc2.weight"),
            ),
        ),
        HubFormat(
            name=f"the model's own modeling file, `{MODELING_FILE}`",
            fits=lambda config: True,
            describe=_own_modeling,
            modeling_file=MODELING_FILE,
        ),
    ),
}
"""The formats of each of our architectures, to be tried in order."""
