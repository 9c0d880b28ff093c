"""The nanochat model: a GPT with RoPE (or ALiBi), QK norm, ReLU squared, value embeddings, smear and backout.

After karpathy/nanochat (92d63d4), whose formulas and initial values it keeps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.models.causal import CausalModel, SelfAttention, table
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.nanochat_decode import NanoChatDecoder
from nanochat_pl.nn.compiled import compiled
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import MLP, Linear, rms_norm
from nanochat_pl.nn.position import rotate_and_normalize

VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


class Attention(SelfAttention):
    def __init__(self, config: NanoChatConfig, layer: int):
        super().__init__(config, layer)
        self.config = config
        self.query = Linear(config.n_embd, config.n_embd)
        self.key = Linear(config.n_embd, config.kv_dim)
        self.value = Linear(config.n_embd, config.kv_dim)
        self.proj = Linear(config.n_embd, config.n_embd)
        self.value_gate: Linear | None = None
        if layer in config.value_embedding_layers:
            self.value_gate = Linear(min(VALUE_GATE_CHANNELS, config.n_embd), config.n_kv_head)

    def forward(
        self,
        x: Tensor,
        value_embedding: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        seen: dict[int, Any],
    ) -> Tensor:
        B, T, _ = x.shape
        D = self.config.head_dim
        q, k = self.query(x).view(B, T, -1, D), self.key(x).view(B, T, -1, D)
        if rotary is None:
            q, k = (rms_norm(heads.transpose(1, 2).contiguous()) for heads in (q, k))
        else:
            q, k = rotate_and_normalize(q, k, *rotary)
        v = self.value(x).view(B, T, -1, D)
        if self.value_gate is not None and value_embedding is not None:
            gate = torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))
            v = torch.addcmul(v, gate.unsqueeze(-1), value_embedding.to(v.dtype).view(B, T, -1, D), value=3)
        v, scale = v.transpose(1, 2), self.config.qk_scale**2 / D**0.5  # both sides' qk_scale
        return self.proj(self.attend(q, k, v, scale, cache, seen))


class Block(nn.Module):
    """A layer. All blocks with the same window that have a value embedding, or all that have none, compile to one
    graph: what differs between them otherwise (weights, the layer's scales) are its inputs.
    """

    def __init__(self, config: NanoChatConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config.n_embd)

    def forward(
        self,
        x: Tensor,
        x0: Tensor,
        scales: Tensor | None,
        value_embedding: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        seen: dict[int, Any],
    ) -> Tensor:
        """x (B, T, C) of the layer before, x0 of the embedding; scales (2,) the factors of the two."""
        if scales is not None:
            resid, added = scales.unbind()
            x = torch.addcmul(resid * x, added, x0)
        x = x + self.attn(rms_norm(x), value_embedding, rotary, cache, seen)
        return x + self.mlp(rms_norm(x))


class NanoChat(CausalModel):
    """See `models.contract.LanguageModel`."""

    def __init__(self, config: NanoChatConfig, execution: Execution):
        super().__init__(config, execution)
        self.softcap = config.softcap
        dtype = torch.float32 if config.compute_dtype == "float16" else config.dtype  # GradScaler needs float32
        self.embedding = table(config.padded_vocab_size, config.n_embd, dtype)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = Linear(config.n_embd, config.padded_vocab_size)
        self.value_embeddings = nn.ModuleDict(
            {str(i): table(config.padded_vocab_size, config.kv_dim, dtype) for i in config.value_embedding_layers}
        )
        if config.scalars:
            self.resid_scalars = nn.Parameter(torch.empty(config.n_layer))
            self.x0_scalars = nn.Parameter(torch.empty(config.n_layer))
        if config.smear:
            self.smear_gate = Linear(min(SMEAR_GATE_CHANNELS, config.n_embd), 1)
            self.smear_scale = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))

    def trunk(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        """The normalised vectors (B, T, C) that the head reads."""
        config = self.config
        rotary = self.rotary(ids.size(1), cache)
        continued = config.smear and cache is not None and cache.start != 0
        read = torch.cat((cache.last_ids, ids), dim=1) if continued and cache is not None else ids
        x0 = self._fused(NanoChat._embedded)(self, self.embedding(read), continued, documents)
        seen = self.seen(ids, cache, documents)
        x = middle = x0.view_as(x0)  # one tensor as two inputs of the first block would make that a kind of its own
        scales: Sequence[Tensor | None] = [None] * config.n_layer
        if config.scalars:
            scales = torch.stack((self.resid_scalars, self.x0_scalars), dim=1).to(x.dtype).unbind()
        run = self.kept(self._layer)
        for layer in range(config.n_layer):
            x = run(layer, ids, x, x0, scales[layer], rotary, cache, seen)
            if layer == config.n_layer // 2:
                middle = x
        if cache is not None:
            cache.advance(ids)
        return self._fused(NanoChat._normed)(self, x, middle)

    @property
    def head_weight(self) -> Tensor:
        return self.head.weight

    def _fused(self, method: Any) -> Any:
        return compiled(method) if self.compiles else method

    def _embedded(self, x: Tensor, continued: bool, documents: Tensor | None) -> Tensor:
        """The normalised embeddings, each with a part of the one before it; the first only gives if `continued`."""
        config = self.config
        x = rms_norm(x.to(config.dtype))
        if not config.smear:
            return x
        if continued:
            before, x = x[:, :-1], x[:, 1:]
        else:
            before = F.pad(x[:, :-1], (0, 0, 1, 0))
        gate = self.smear_scale.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))
        if documents is not None:
            gate = gate * F.pad(documents[:, 1:] == documents[:, :-1], (1, 0)).unsqueeze(-1)
        return torch.addcmul(x, gate, before)

    def _layer(self, layer: int, ids: Tensor, x: Tensor, x0: Tensor, scales: Tensor | None, *rest: Any) -> Tensor:
        # Looked up outside of the compiled block: a compiled table's gradient is summed in no fixed order on a GPU.
        value_embedding = self.value_embeddings[str(layer)](ids) if str(layer) in self.value_embeddings else None
        forward = compiled(Block.forward) if self.compiles else Block.__call__
        return forward(self.blocks[layer], x, x0, scales, value_embedding, *rest)

    def _normed(self, x: Tensor, middle: Tensor) -> Tensor:
        if self.config.backout:
            x = torch.addcmul(x, self.backout_scale.to(x.dtype), middle, value=-1)
        return rms_norm(x)

    def build_decoder(self) -> Callable[[Tensor, KVCache], Tensor]:
        return NanoChatDecoder(self) if self.embedding.weight.device.type == "cpu" else super().build_decoder()

    def param_roles(self) -> dict[str, str]:
        roles = {
            "embedding": "embedding",
            "value_embeddings": "value_embedding",
            "blocks": "matrix",
            "head": "unembedding",
            "resid_scalars": "resid_scalar",
            "x0_scalars": "x0_scalar",
            "smear_gate": "gate",
            "smear_scale": "gate",
            "backout_scale": "gate",
        }
        return {name: roles[name.split(".")[0]] for name, _ in self.named_parameters()}

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        bound = (3 / self.config.n_embd) ** 0.5  # uniform in +-bound has standard deviation 1 / sqrt(n_embd)
        depth = torch.linspace(0, 1, self.config.n_layer) if self.config.n_layer > 1 else torch.zeros(1)
        match name.removesuffix(".weight").split(".")[-1]:
            case "embedding":
                parameter.normal_(0.0, 0.8, generator=generator)
            case "head":
                parameter.normal_(0.0, 0.001, generator=generator)
            case "query" | "key" | "value":
                parameter.uniform_(-bound, bound, generator=generator)
            case "fc":
                parameter.uniform_(-0.4 * bound, 0.4 * bound, generator=generator)
            case "proj" | "smear_scale":
                parameter.zero_()
            case "value_gate" | "smear_gate":
                parameter.uniform_(0.0, 0.02, generator=generator)
            case "resid_scalars":
                parameter.copy_(1.15 - 0.10 * depth)
            case "x0_scalars":
                parameter.copy_(0.20 - 0.15 * depth)
            case "backout_scale":
                parameter.fill_(0.2)
            case layer if layer.isdigit():  # value_embeddings.3
                parameter.uniform_(-bound, bound, generator=generator)
            case other:
                raise AssertionError(f"no initial value for {other}")
