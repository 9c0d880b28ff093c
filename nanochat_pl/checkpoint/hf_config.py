"""config.json of transformers as a config of ours."""

import functools
from collections.abc import Callable
from typing import Any

from nanochat_pl.checkpoint.hf_formats import GELU
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.gpt2 import EPSILON, GPT2Config
from nanochat_pl.models.llama import LlamaConfig
from nanochat_pl.nn.position import RotaryScaling


def config_of(values: dict[str, Any], where: str) -> ModelConfig:
    """Our config for a config.json of transformers.

    Raises:
        UserError: it is of a model that is not computed here; names what it has that ours lacks.
    """
    readers = {"gpt2": _read_gpt2, "llama": _read_llama, "mistral": _read_llama}
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in readers:
        raise UserError(
            f"{where} is a model of type {kind!r}, which is not computed here{nearest(str(kind), [*readers])} Types: "
            f"{', '.join(readers)}."
        )
    try:
        return readers[kind](values, functools.partial(_refuse_other, values, where))
    except KeyError as error:
        raise UserError(f"The config.json of {where} is incomplete: it has no {error}.") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The config.json of {where} is damaged: {error}.") from error


def _refuse_other(values: dict[str, Any], where: str, **legal: tuple[Any, ...]) -> None:
    """See that each option is not there, or one of these."""
    for name, known in legal.items():
        if name in values and values[name] not in known:
            raise UserError(
                f"The config.json of {where} says {name}={values[name]!r}, which is not computed here; legal: "
                f"{', '.join(map(repr, known))}."
            )


def _read_gpt2(values: dict[str, Any], refuse_other: Callable[..., None]) -> GPT2Config:
    width = values["n_embd"]
    refuse_other(
        activation_function=tuple(GELU), layer_norm_epsilon=(EPSILON,), n_inner=(None, 4 * width),
        scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,), tie_word_embeddings=(True,),
    )  # fmt: skip
    return GPT2Config(
        vocab_size=values["vocab_size"], sequence_len=values["n_positions"], n_layer=values["n_layer"],
        n_head=values["n_head"], n_kv_head=values["n_head"], n_embd=width,
        gelu=GELU[values.get("activation_function", "gelu_new")],  # type: ignore[arg-type]  # which checks it
    )  # fmt: skip


def _read_llama(values: dict[str, Any], refuse_other: Callable[..., None]) -> LlamaConfig:
    width, n_head, context = (values[n] for n in ("hidden_size", "num_attention_heads", "max_position_embeddings"))
    refuse_other(
        hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,), head_dim=(None, width // n_head),
        sliding_window=(None, *(w for w in (values.get("sliding_window"),) if w and w >= context)),
    )  # fmt: skip
    rope = values.get("rope_parameters") or {}
    scaling = values.get("rope_scaling") or rope
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"Its rotary embedding is scaled by {kind!r}, which is not computed here; legal: llama3.")
    return LlamaConfig(
        vocab_size=values["vocab_size"], sequence_len=context, n_layer=values["num_hidden_layers"], n_head=n_head,
        n_kv_head=values.get("num_key_value_heads") or n_head, n_embd=width,
        intermediate_size=values["intermediate_size"],
        rope_base=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        rope_scaling=None if kind == "default" else RotaryScaling(
            float(scaling["factor"]), float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        ),
        norm_eps=values.get("rms_norm_eps", 1e-6), tied=values.get("tie_word_embeddings", False),
    )  # fmt: skip
