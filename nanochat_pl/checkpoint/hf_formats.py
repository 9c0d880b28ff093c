"""What transformers calls our models' sizes and weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat_pl.checkpoint.weight_map import Weight, WeightMap, gpt2_weights
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.gpt2 import EPSILON, GPT2Config
from nanochat_pl.models.llama import LlamaConfig

MODELING_FILE = "modeling_nanochat_pl.py"
RECORD = "nanochat_pl.json"
"""What an export was made of; a folder that has it may be replaced by another export."""


@dataclass(frozen=True)
class HubFormat:
    """How the models of one shape are written.

    Attributes:
        name: for people.
        fits: whether a config is of this shape.
        describe: the part of config.json that depends on the model.
        weights: their names there; None: as they are.
        modeling_file: of this package, to go with the weights; None: transformers has the model.
    """

    name: str
    fits: Callable[[Any], bool]
    describe: Callable[[Any], dict[str, Any]]
    weights: WeightMap | None = None
    modeling_file: str | None = None


FIRST_NANOCHAT_OPTIONS: dict[str, Any] = dict(
    value_embeddings=False, smear=False, backout=False, scalars=False, position="rope", qk_scale=1.0
)
"""By which our nanochat computes what transformers' own does."""


def _is_first_nanochat(config: NanoChatConfig) -> bool:
    """Whether transformers' own NanoChat computes the same, on texts up to the trained context."""
    same = all(getattr(config, name) == value for name, value in FIRST_NANOCHAT_OPTIONS.items())
    return same and set(config.windows) == {config.sequence_len - 1}


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


_LLAMA_SHAPED = (
    Weight("model.embed_tokens.weight", ("embedding.weight",)),
    Weight("lm_head.weight", ("head.weight",), may_be_tied=True),
    Weight("model.layers.{}.self_attn.q_proj.weight", ("blocks.{}.attn.query.weight",)),
    Weight("model.layers.{}.self_attn.k_proj.weight", ("blocks.{}.attn.key.weight",)),
    Weight("model.layers.{}.self_attn.v_proj.weight", ("blocks.{}.attn.value.weight",)),
    Weight("model.layers.{}.self_attn.o_proj.weight", ("blocks.{}.attn.proj.weight",)),
)
LLAMA = WeightMap(
    (
        *_LLAMA_SHAPED,
        Weight("model.layers.{}.mlp.gate_proj.weight", ("blocks.{}.mlp.gate.weight",)),
        Weight("model.layers.{}.mlp.up_proj.weight", ("blocks.{}.mlp.fc.weight",)),
        Weight("model.layers.{}.mlp.down_proj.weight", ("blocks.{}.mlp.proj.weight",)),
        Weight("model.layers.{}.input_layernorm.weight", ("blocks.{}.attn_norm.weight",)),
        Weight("model.layers.{}.post_attention_layernorm.weight", ("blocks.{}.mlp_norm.weight",)),
        Weight("model.norm.weight", ("norm.weight",)),
    ),
    ignored=r".*rotary_emb\.inv_freq",
)
FIRST_NANOCHAT = WeightMap(
    (
        *_LLAMA_SHAPED,
        Weight("model.layers.{}.mlp.fc1.weight", ("blocks.{}.mlp.fc.weight",)),
        Weight("model.layers.{}.mlp.fc2.weight", ("blocks.{}.mlp.proj.weight",)),
    )
)


GELU = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu": "exact"}
"""Their activations, and ours."""


def _gpt2(config: GPT2Config) -> dict[str, Any]:
    gelu = {name: activation for activation, name in GELU.items()}[config.gelu]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.sequence_len,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "activation_function": gelu,
        "layer_norm_epsilon": EPSILON,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop"), config.dropout),
        "attn_pdrop": 0.0,
    }


def _is_gpt2(config: GPT2Config) -> bool:
    """Whether transformers' GPT2 computes the same."""
    as_published = config.bias and config.position == "learned" and config.n_kv_head == config.n_head
    return as_published and set(config.windows) == {config.sequence_len - 1}


def _llama(config: LlamaConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_sequence_len,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.sequence_len,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": rope,
    }


FORMATS: dict[str, tuple[HubFormat, ...]] = {
    "nanochat": (
        HubFormat(
            name="transformers' own architecture `nanochat`",
            fits=_is_first_nanochat,
            describe=_first_nanochat,
            weights=FIRST_NANOCHAT,
        ),
        HubFormat(
            name=f"the model's own modeling file, `{MODELING_FILE}`",
            fits=lambda config: True,
            describe=_own_modeling,
            modeling_file=MODELING_FILE,
        ),
    ),
    "gpt2": (
        HubFormat(
            name="transformers' own architecture `gpt2`",
            fits=_is_gpt2,
            describe=_gpt2,
            weights=gpt2_weights(transposed=True),
        ),
    ),
    "llama": (
        HubFormat(
            name="transformers' own architecture `llama`",
            fits=lambda config: set(config.windows) == {config.sequence_len - 1},
            describe=_llama,
            weights=LLAMA,
        ),
    ),
    "hf": (
        HubFormat(
            name="transformers' own architecture",
            fits=lambda config: True,
            describe=lambda config: config.theirs.to_dict() | {"vocab_size": config.vocab_size},
        ),
    ),
}
"""The formats of each of our architectures, to be tried in order."""
