"""GPT-2: learned positions, LayerNorm, GELU, biases, one table for embedding and head (Radford et al., 2019).

After nanoGPT's model.py and transformers' GPT2LMHeadModel, whose published weights it computes alike.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.causal import CausalModel, SelfAttention, table
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import Linear

SIZES = {"small": (12, 768), "medium": (24, 1024), "large": (36, 1280), "xl": (48, 1600)}
"""Depth and width of the published models: 124M, 350M, 774M, 1558M parameters."""
HEAD_DIM = 64
EPSILON = 1e-5
"""Of LayerNorm."""


@dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """See `models.config.ModelConfig`; with learned positions none beyond `sequence_len` is known.

    Attributes:
        bias: of the linear maps and of LayerNorm.
        gelu: "tanh": in the approximation of OpenAI's code; "exact": as nanoGPT trains.
        dropout: of the embeddings and of what each part of a block adds, in training. Attention's probabilities are
            left whole: fused kernels don't drop any.
    """

    position: Literal["learned", "alibi", "none"] = "learned"
    bias: bool = True
    gelu: Literal["tanh", "exact"] = "tanh"
    dropout: float = 0.0

    def check(self) -> None:
        super().check()
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; it must be from 0 to below 1.")
        if self.position == "learned" and self.long_window is not None:
            raise UserError(
                f"model.long_window={self.long_window} is for texts longer than the trained context, and "
                "model.position=learned knows none: leave it out, or choose model.position=alibi or none."
            )


@dataclass(frozen=True)
class GPT2Spec(ModelSpec):
    """conf/model/gpt2.yaml.

    Attributes:
        size: a published shape, which goes before depth, n_embd, n_head and head_dim.
    """

    head_dim: int = HEAD_DIM
    sequence_len: int = 1024
    window_pattern: str = "L"
    position: Literal["learned", "alibi", "none"] = "learned"
    size: Literal["small", "medium", "large", "xl"] | None = None
    bias: bool = True
    gelu: Literal["tanh", "exact"] = "tanh"
    dropout: float = 0.0

    config_class: ClassVar[type[ModelConfig]] = GPT2Config

    def shaped(self) -> "GPT2Spec":
        if self.size is None:
            return self
        depth, width = SIZES[self.size]
        return dataclasses.replace(
            self, size=None, depth=depth, n_embd=width, n_head=None, n_kv_head=None, head_dim=HEAD_DIM
        )


class Attention(SelfAttention):
    def __init__(self, config: GPT2Config, layer: int):
        super().__init__(config, layer)
        self.head_dim = config.head_dim
        self.query = Linear(config.n_embd, config.n_embd, config.bias)
        self.key = Linear(config.n_embd, config.kv_dim, config.bias)
        self.value = Linear(config.n_embd, config.kv_dim, config.bias)
        self.proj = Linear(config.n_embd, config.n_embd, config.bias)

    def forward(self, x: Tensor, cache: KVCache | None, seen: dict[int, Any]) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (part(x).view(B, T, -1, self.head_dim).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.proj(self.attend(q, k, v, self.head_dim**-0.5, cache, seen))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.proj = Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.gelu(self.fc(x), approximate=self.approximate))


class LayerNorm(nn.LayerNorm):
    """Computed in float32, for a result in the input's dtype."""

    def __init__(self, config: GPT2Config):
        super().__init__(config.n_embd, eps=EPSILON, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.attn_norm = LayerNorm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = LayerNorm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None, seen: dict[int, Any]) -> Tensor:
        x = x + self.dropout(self.attn(self.attn_norm(x), cache, seen))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT2(CausalModel):
    """See `models.contract.LanguageModel`."""

    def __init__(self, config: GPT2Config, execution: Execution):
        super().__init__(config, execution)
        self.dropout = config.dropout
        self.embedding = table(config.padded_vocab_size, config.n_embd)
        if config.position == "learned":
            self.longest_text = config.sequence_len
            self.position = table(config.sequence_len, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = LayerNorm(config)

    def trunk(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        x = self.embedding(ids)
        if self.config.position == "learned":
            x = x + self.position(self.positions(ids, cache, documents))
        x = F.dropout(x.to(self.config.dtype), self.dropout, self.training)
        x = self.run_blocks(x, cache, self.seen(ids, cache, documents))
        if cache is not None:
            cache.advance(ids)
        return self.norm(x)

    @property
    def head_weight(self) -> Tensor:
        return self.embedding.weight

    def param_roles(self) -> dict[str, str]:
        """The table that is the head too learns as a head does, for its gradient comes from there above all; positions
        as slowly as biases: nothing normalises them before they are added.
        """
        roles = {"embedding.weight": "unembedding", "position.weight": "vector"}
        return {
            name: roles.get(name, "matrix" if parameter.ndim == 2 else "vector")
            for name, parameter in self.named_parameters()
        }

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:  # what adds to the residual stream is the smaller the more layers do
            scale = (2 * self.config.n_layer) ** -0.5 if "proj" in name else 1.0
            parameter.normal_(0.0, 0.02 * scale, generator=generator)
