"""What a language model must offer to the stages, the engine and the optimizer, and how one is built by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.imported import imported
from nanochat_pl.core.types import LowRank
from nanochat_pl.models.causal import CausalModel
from nanochat_pl.models.config import ModelConfig, NanoChatConfig
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.gpt2 import GPT2, GPT2Config
from nanochat_pl.models.hf import HF, HFConfig
from nanochat_pl.models.llama import Llama, LlamaConfig
from nanochat_pl.models.nanochat import NanoChat
from nanochat_pl.nn.float8 import use_float8
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.molegrad import stream

ROLES = ("matrix", "embedding", "value_embedding", "unembedding", "resid_scalar", "x0_scalar", "gate", "vector")
"""What a parameter is for; the optimizer's recipe has a row for each.

Vectors are biases, norms' gains and learned positions.
"""

ARCHITECTURES: dict[str, tuple[type[ModelConfig], type[CausalModel]]] = {
    "nanochat": (NanoChatConfig, NanoChat),
    "gpt2": (GPT2Config, GPT2),
    "llama": (LlamaConfig, Llama),
    "hf": (HFConfig, HF),
}
"""The config and the model of each architecture. A config from elsewhere goes by its path, MODULE.CLASS, and names its
model by `network`.
"""


class LanguageModel(Protocol):
    """A causal language model: `nn.Module` with these members.

    Attributes:
        low_rank: by name, the weights that get no gradient but sketches of it (nn/molegrad.py). The matrices of a block
            stand under its parts `attn` and `mlp`.
        longest_text: tokens that a text may have; None: any number.
        dropout: that is drawn in training from torch's own generator.
    """

    config: Any
    longest_text: int | None
    dropout: float
    low_rank: Mapping[str, LowRank]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """`forward`."""

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        reduction: Literal["sum", "none"] = "sum",
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        at: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, vocab_size) float32 without targets; with them the sum of weighted token losses, or each.

        `at` (N,): logits (N, vocab_size) of these places of the flattened batch only.
        """

    def param_roles(self) -> dict[str, str]:
        """The role, one of ROLES, of every parameter by name."""

    def init_weights(self, seed: int) -> None:
        """Set every parameter, the same for the same seed."""

    def init_buffers(self) -> None:
        """Set what is computed from the config alone and not saved."""

    def build_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for rows of at most `capacity` tokens (no limit beyond the context), on the model's device."""

    def build_decoder(self) -> Callable[[Tensor, KVCache], Tensor]:
        """What continues rows that aren't empty by a token each: (ids (B, 1), cache) -> logits (B, 1, vocab_size)."""


def build_config(architecture: str, values: dict[str, Any]) -> ModelConfig:
    """The config of an architecture from plain values, as `model.json` holds them.

    Raises:
        UserError: an unknown architecture or key, or values that don't fit.
    """
    kind = ARCHITECTURES[architecture][0] if architecture in ARCHITECTURES else _config_of_path(architecture)
    fields = tuple(field.name for field in dataclasses.fields(kind))
    for key in values:
        if key not in fields:
            raise UserError(
                f"Unknown option model.{key} of {architecture}; options: {', '.join(fields)}{nearest(key, fields)}"
            )
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"The {architecture} model's config is incomplete: {error}.") from error


def architecture_of(config: ModelConfig) -> str:
    """The name under which `build_config` makes this kind of config."""
    own = (name for name, (kind, _) in ARCHITECTURES.items() if type(config) is kind)
    return next(own, f"{type(config).__module__}.{type(config).__qualname__}")


def build_model(
    config: ModelConfig, device: torch.device | str, seed: int | None, execution: Execution | None = None
) -> CausalModel:
    """The model on `device` without a second copy on the way: meta, to_empty, init_weights.

    Args:
        device: "meta" for the shapes alone.
        seed: of the initial weights; None leaves them unset, for weights that are loaded next.
        execution: None: as is best for a model that is not trained.
    """
    with torch.device("meta"):
        known = ARCHITECTURES.get(architecture_of(config))
        model = (known[1] if known else config.network)(config, execution or Execution())
    model.to_empty(device=device)
    model.init_buffers()
    if seed is not None:
        model.init_weights(seed)
    if model.execution.streaming.enabled:
        model.low_rank = stream(model, model.execution.streaming)
    if model.execution.float8 and not model.head_weight.is_meta:
        use_float8(model.blocks)
    return model


def _config_of_path(path: str) -> type[ModelConfig]:
    """The config class of a model that is not ours.

    Raises:
        UserError: there is none.
    """
    if "." not in path:
        names = tuple(ARCHITECTURES)
        raise UserError(f"Unknown model architecture {path!r}; known: {', '.join(names)}{nearest(path, names)}")
    kind = imported(path, "The model's architecture")
    if not (isinstance(kind, type) and issubclass(kind, ModelConfig)):
        raise UserError(f"The model's architecture {path} is no class that inherits from {ModelConfig.__module__}.")
    return kind
