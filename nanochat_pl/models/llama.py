"""Llama: RMSNorm with weights, SwiGLU, rotary embedding, grouped-query attention (arXiv:2302.13971, 2407.21783).

As transformers' LlamaForCausalLM computes it, whose checkpoints it takes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.models.causal import CausalModel, SelfAttention, table
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import Linear
from nanochat_pl.nn.position import RotaryScaling, rotary_tables

SIZES: dict[str, dict[str, Any]] = {
    "tinyllama": dict(depth=22, n_embd=2048, head_dim=64, n_kv_head=4, intermediate_size=5632)
}
"""Published shapes: TinyLlama 1.1B (arXiv:2401.02385)."""


@dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """See `models.config.ModelConfig`.

    Attributes:
        intermediate_size: width inside of the MLP.
        rope_scaling: None: none.
        norm_eps: of RMSNorm.
        tied: one table is embedding and head.
    """

    position: Literal["rope"] = "rope"
    intermediate_size: int = 0
    rope_base: float = 10_000.0
    rope_scaling: RotaryScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False

    def check(self) -> None:
        super().check()
        self._check_sizes("intermediate_size")
        self._check_positive("rope_base", "norm_eps")


@dataclass(frozen=True)
class LlamaSpec(ModelSpec):
    """conf/model/llama.yaml.

    Attributes:
        size: a published shape, which goes before depth, n_embd, n_head, n_kv_head, head_dim and intermediate_size.
        intermediate_size: None: 8/3 of the width, rounded up to a multiple of 64.
    """

    head_dim: int = 64
    window_pattern: str = "L"
    size: Literal["tinyllama"] | None = None
    intermediate_size: int | None = None
    rope_base: float = 10_000.0
    rope_scaling: RotaryScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False

    config_class: ClassVar[type[ModelConfig]] = LlamaConfig

    def shaped(self) -> "LlamaSpec":
        spec = dataclasses.replace(self, size=None, n_head=None, **SIZES[self.size]) if self.size else self
        if spec.intermediate_size is None:
            width = spec.width()
            spec = dataclasses.replace(spec, intermediate_size=-(-8 * width // (3 * 64)) * 64)
        return spec

    def of_depth(self, depth: int) -> "LlamaSpec":
        return dataclasses.replace(super().of_depth(depth), intermediate_size=None)


class RMSNorm(nn.Module):
    """Computed in float32, for a result in the input's dtype."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_embd))
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


class Attention(SelfAttention):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__(config, layer)
        self.head_dim = config.head_dim
        self.query = Linear(config.n_embd, config.n_embd)
        self.key = Linear(config.n_embd, config.kv_dim)
        self.value = Linear(config.n_embd, config.kv_dim)
        self.proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None, seen: dict[int, Any]) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (part(x).view(B, T, -1, self.head_dim).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.proj(self.attend(rotate(q, *rotary), rotate(k, *rotary), v, self.head_dim**-0.5, cache, seen))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, H, T, D) by rows of `Llama.rotary_tables`."""
    return heads * cos + heads.roll(heads.size(-1) // 2, -1) * sin


class MLP(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate = Linear(config.n_embd, config.intermediate_size)
        self.fc = Linear(config.n_embd, config.intermediate_size)
        self.proj = Linear(config.intermediate_size, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.silu(self.gate(x)) * self.fc(x))


class Block(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.attn_norm = RMSNorm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None, seen: dict[int, Any]) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotary, cache, seen)
        return x + self.mlp(self.mlp_norm(x))


class Llama(CausalModel):
    """See `models.contract.LanguageModel`."""

    def __init__(self, config: LlamaConfig, execution: Execution):
        super().__init__(config, execution)
        self.embedding = table(config.padded_vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config)
        self.head = None if config.tied else Linear(config.n_embd, config.padded_vocab_size)

    def trunk(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        x = self.embedding(ids).to(self.config.dtype)
        x = self.run_blocks(x, self.rotary(ids.size(1), cache), cache, self.seen(ids, cache, documents))
        if cache is not None:
            cache.advance(ids)
        return self.norm(x)

    @property
    def head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def rotary_tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Llama turns by plus the angle, nanochat by minus."""
        config = self.config
        cos, sin = rotary_tables(length, config.head_dim, config.rope_base, device, config.rope_scaling)
        return cos, -sin

    def param_roles(self) -> dict[str, str]:
        """A table that is the head too learns as a head does."""
        roles = {"embedding.weight": "unembedding" if self.head is None else "embedding", "head.weight": "unembedding"}
        return {
            name: roles.get(name, "matrix" if parameter.ndim == 2 else "vector")
            for name, parameter in self.named_parameters()
        }

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if "norm" in name:
            parameter.fill_(1.0)
        else:  # what adds to the residual stream is the smaller the more layers do
            scale = (2 * self.config.n_layer) ** -0.5 if "proj" in name else 1.0
            parameter.normal_(0.0, 0.02 * scale, generator=generator)
