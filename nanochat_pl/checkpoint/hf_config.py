"""config.json of transformers as a config of ours."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from nanochat_pl.checkpoint.hf_formats import FIRST_NANOCHAT_OPTIONS, GELU
from nanochat_pl.core.errors import UserError
from nanochat_pl.models import hf
from nanochat_pl.models.config import ModelConfig, NanoChatConfig
from nanochat_pl.models.gpt2 import EPSILON, GPT2Config
from nanochat_pl.models.llama import LlamaConfig
from nanochat_pl.nn.position import RotaryScaling

log = logging.getLogger(__name__)


def config_of(values: dict[str, Any], where: str) -> ModelConfig:
    """Our config for a config.json of transformers, to compute in the dtype that it names; float32 where it names none.

    An architecture or an option that ours lack is computed by transformers' own code.

    Raises:
        UserError: transformers lacks it too, or the values are damaged.
    """
    readers: dict[str, Callable[..., ModelConfig]] = {
        "gpt2": _read_gpt2, "llama": _read_llama, "mistral": _read_llama, "nanochat": _read_nanochat,
    }  # fmt: skip
    kind = values.get("model_type")
    try:
        try:
            if isinstance(kind, str) and kind in readers:
                return readers[kind](values, _dtype(values))
        except _Unlike as error:
            log.warning("%s has %s, which no model of ours has: transformers' own code computes it.", where, error)
        return hf.config_of(values, None, _dtype(values), None)
    except KeyError as error:
        raise UserError(f"The config.json of {where} is incomplete: it has no {error}.") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"The config.json of {where} describes no model that is computed here: {error}") from error


class _Unlike(Exception):
    """An option that our model of this architecture lacks."""


def _refuse_other(values: dict[str, Any], **legal: tuple[Any, ...]) -> None:
    """See that each option is not there, or one of these."""
    for name, known in legal.items():
        if name in values and values[name] not in known:
            raise _Unlike(f"{name}={values[name]!r}")


def _dtype(values: dict[str, Any]) -> Any:
    """Its name, under the newer key or the older."""
    dtype = values.get("dtype") or values.get("torch_dtype")
    return dtype if dtype in ("bfloat16", "float16") else "float32"


def _read_gpt2(values: dict[str, Any], dtype: Any) -> GPT2Config:
    width = values["n_embd"]
    _refuse_other(
        values, activation_function=tuple(GELU), layer_norm_epsilon=(EPSILON,), n_inner=(None, 4 * width),
        scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,), tie_word_embeddings=(True,),
    )  # fmt: skip
    return GPT2Config(
        vocab_size=values["vocab_size"], sequence_len=values["n_positions"], n_layer=values["n_layer"],
        n_head=values["n_head"], n_kv_head=values["n_head"], n_embd=width,
        gelu=GELU[values.get("activation_function", "gelu_new")],  # type: ignore[arg-type]  # which checks it
        compute_dtype=dtype,
    )  # fmt: skip


def _read_llama(values: dict[str, Any], dtype: Any) -> LlamaConfig:
    width, n_head, context = (values[n] for n in ("hidden_size", "num_attention_heads", "max_position_embeddings"))
    _refuse_other(
        values, hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,), head_dim=(None, width // n_head),
        sliding_window=(None, *(w for w in (values.get("sliding_window"),) if w and w >= context)),
    )  # fmt: skip
    base, scaling = _rotary(values, ("default", "linear", "llama3"))
    return LlamaConfig(
        vocab_size=values["vocab_size"], sequence_len=context, n_layer=values["num_hidden_layers"], n_head=n_head,
        n_kv_head=values.get("num_key_value_heads") or n_head, n_embd=width,
        intermediate_size=values["intermediate_size"], rope_base=base, rope_scaling=scaling,
        norm_eps=values.get("rms_norm_eps", 1e-6), tied=values.get("tie_word_embeddings", False), compute_dtype=dtype,
    )  # fmt: skip


def _read_nanochat(values: dict[str, Any], dtype: Any) -> NanoChatConfig:
    """Our norms' epsilon is their dtype's own: 0.008 in bfloat16, so one of 1e-6 asks for float32, where it is 1e-7."""
    width, n_head = values["hidden_size"], values["num_attention_heads"]
    epsilon, own = values.get("rms_norm_eps", 1e-6), torch.finfo(getattr(torch, dtype)).eps
    dtype = dtype if epsilon == own else "float32"
    _refuse_other(
        values, hidden_act=("relu2",), attention_bias=(False,), head_dim=(None, width // n_head),
        intermediate_size=(4 * width,), tie_word_embeddings=(False,),
        rms_norm_eps=(1e-6, torch.finfo(torch.float32).eps, own),
    )  # fmt: skip
    base, _ = _rotary(values, ("default",))
    return NanoChatConfig(
        vocab_size=values["vocab_size"], sequence_len=values["max_position_embeddings"],
        n_layer=values["num_hidden_layers"], n_head=n_head, n_kv_head=values.get("num_key_value_heads") or n_head,
        n_embd=width, window_pattern="L", rope_base=base, softcap=values.get("final_logit_softcapping", 15.0),
        compute_dtype=dtype, **FIRST_NANOCHAT_OPTIONS,
    )  # fmt: skip


def _rotary(values: dict[str, Any], kinds: tuple[str, ...]) -> tuple[float, RotaryScaling | None]:
    """The base and the scaling of a rotary embedding, which is one of `kinds`."""
    rope = values.get("rope_parameters") or {}
    scaling = values.get("rope_scaling") or rope
    base = float(rope.get("rope_theta", values.get("rope_theta", 10_000.0)))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    _refuse_other({"rope_type": kind}, rope_type=kinds)
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, RotaryScaling.linear(float(scaling["factor"]))
    factor, low, high = (float(scaling[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    return base, RotaryScaling(factor, low, high, int(scaling["original_max_position_embeddings"]))
