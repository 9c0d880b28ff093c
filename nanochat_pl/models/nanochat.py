"""The nanochat model: a GPT with RoPE (or ALiBi), QK norm, ReLU squared, value embeddings, smear and backout.

After karpathy/nanochat (92d63d4), whose formulas and initial values it keeps.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanochat_pl.core.types import IGNORE_INDEX, LowRank
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.nanochat_decode import NanoChatDecoder
from nanochat_pl.nn.attention.backend import Backend
from nanochat_pl.nn.attention.choose import choose
from nanochat_pl.nn.compiled import compiled
from nanochat_pl.nn.cross_entropy import linear_cross_entropy
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import MLP, Linear, rms_norm
from nanochat_pl.nn.position import RotaryTables, rotary_tables, rotate_and_normalize

VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


class Attention(nn.Module):
    backend: Backend

    def __init__(self, config: NanoChatConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.windows[layer]
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
        B, T, C = x.shape
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
        if cache is None:
            y = self.backend.attend(q, k, v, self.window, scale, seen[self.window])
        else:
            y = cache.attend(self.layer, q, k, v, self.window, scale)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


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


class NanoChat(nn.Module):
    """See `models.contract.LanguageModel`.

    Attributes:
        attention: the backend of all layers, chosen when the device is known.
        low_rank: see `models.contract.LanguageModel`.
    """

    attention: Backend

    def __init__(self, config: NanoChatConfig, execution: Execution):
        super().__init__()
        self.config, self.execution = config, execution
        self.low_rank: dict[str, LowRank] = {}
        embedding_dtype = (
            torch.float32 if config.compute_dtype == "float16" else config.dtype
        )  # GradScaler needs float32

        def table(width: int) -> nn.Embedding:
            # Its own constructor draws random numbers, which on "meta" imports the compiler: a second for nothing.
            weight = torch.empty(config.padded_vocab_size, width, dtype=embedding_dtype)
            return nn.Embedding.from_pretrained(weight, freeze=False)

        self.embedding = table(config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = Linear(config.n_embd, config.padded_vocab_size)
        self.value_embeddings = nn.ModuleDict(
            {str(layer): table(config.kv_dim) for layer in config.value_embedding_layers}
        )
        if config.scalars:
            self.resid_scalars = nn.Parameter(torch.empty(config.n_layer))
            self.x0_scalars = nn.Parameter(torch.empty(config.n_layer))
        if config.smear:
            self.smear_gate = Linear(min(SMEAR_GATE_CHANNELS, config.n_embd), 1)
            self.smear_scale = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

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
        """Logits or losses of a batch of token ids.

        Args:
            ids: (B, T) token ids.
            targets: (B, T) token ids or IGNORE_INDEX.
            weights: (B, T) weight of each target's loss; they get no gradient.
            reduction: "sum": the weighted sum of the losses; "none": the weighted loss of each token.
            documents: (B, T) a number for each token, which sees only tokens of the same number; None: all. A
                document's tokens stand together; not with a cache.
            cache: tokens seen before; takes up these.
            last_only: logits of each row's last token only, (B, 1, vocab_size).
            at: (N,) places of tokens in the flattened batch (row * T + column): logits of these only, (N, vocab_size);
                the head costs nothing elsewhere.

        Returns:
            Without targets logits (B, T, vocab_size), else the loss, () or (B, T); float32.
        """
        x = self._trunk(ids, cache, documents)
        if targets is not None:
            return linear_cross_entropy(
                x,
                self.head.weight,
                targets,
                weights,
                vocab_size=self.config.vocab_size,
                softcap=self.config.softcap,
                ignore_index=IGNORE_INDEX,
                reduction=reduction,
                compile=self._compiles,
            )
        if at is not None:
            x = x.flatten(0, 1)[at]
        elif last_only:
            x = x[:, -1:]
        return self.capped(F.linear(x, self.head.weight[: self.config.vocab_size].to(x.dtype)))

    def capped(self, logits: Tensor) -> Tensor:
        """float32 logits, softcapped if the config says so."""
        logits, softcap = logits.float(), self.config.softcap
        if softcap is None:
            return logits
        # softcap * tanh(logits / softcap), by the function that a CPU computes four times as fast
        return torch.sigmoid(logits * (2 / softcap)).mul(2 * softcap).sub_(softcap)

    def _trunk(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        """The normalised vectors (B, T, C) that the head reads."""
        config = self.config
        rotary = self._rotary(ids.size(1)) if cache is None else cache.rotary(ids.size(1))
        continued = config.smear and cache is not None and cache.start != 0
        read = torch.cat((cache.last_ids, ids), dim=1) if continued and cache is not None else ids
        x0 = self._fused(NanoChat._embedded)(self, self.embedding(read), continued, documents)
        seen = {}
        if cache is None:
            seen = self.attention.see(ids.size(0), ids.size(1), set(config.windows), documents, ids.device)
        x = middle = x0.view_as(x0)  # one tensor as two inputs of the first block would make that a kind of its own
        scales: Sequence[Tensor | None] = [None] * config.n_layer
        if config.scalars:
            scales = torch.stack((self.resid_scalars, self.x0_scalars), dim=1).to(x.dtype).unbind()
        run = self._layer
        if self.execution.recompute and torch.is_grad_enabled():
            run = functools.partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
        for layer in range(config.n_layer):
            x = run(layer, ids, x, x0, scales[layer], rotary, cache, seen)
            if layer == config.n_layer // 2:
                middle = x
        if cache is not None:
            cache.advance(ids)
        return self._fused(NanoChat._normed)(self, x, middle)

    @property
    def _compiles(self) -> bool:
        """Training alone: what is generated or evaluated in between has any shape."""
        return self.execution.compile and torch.is_grad_enabled()

    def _fused(self, method: Any) -> Any:
        return compiled(method) if self._compiles else method

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
        forward = compiled(Block.forward) if self._compiles else Block.__call__
        return forward(self.blocks[layer], x, x0, scales, value_embedding, *rest)

    def _normed(self, x: Tensor, middle: Tensor) -> Tensor:
        if self.config.backout:
            x = torch.addcmul(x, self.backout_scale.to(x.dtype), middle, value=-1)
        return rms_norm(x)

    def _rotary(self, length: int) -> tuple[Tensor, Tensor] | None:
        return self._tables(length) if self.config.position == "rope" else None

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """The rotary tables' first `length` rows, in the compute dtype; beyond the trained context computed anew.

        The buffers never change, so that a compiled training graph stays valid whatever was generated in between.
        """
        config, cos, sin = self.config, self.cos, self.sin
        if length > cos.size(0):
            cos, sin = rotary_tables(length, config.head_dim, config.rope_base, cos.device)
        return cos[:length].to(config.dtype), sin[:length].to(config.dtype)

    def build_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache on the model's device.

        Args:
            capacity: tokens of a row; where it exceeds the longest window, as many as one likes.
        """
        config, backend = self.config, self.attention.for_prompts()
        like = self.embedding.weight.new_empty(config.n_kv_head, config.head_dim, dtype=config.dtype)
        tables = RotaryTables(self._tables, capacity) if config.position == "rope" else None
        return KVCache(config.windows, rows, capacity, like, tables, backend)

    def build_decoder(self) -> Callable[[Tensor, KVCache], Tensor]:
        """What continues rows by one token each: (ids (B, 1), cache) -> logits (B, 1, vocab_size).

        It may hold copies of the weights, so it is made anew when they have changed.
        """
        if self.embedding.weight.device.type == "cpu":
            return NanoChatDecoder(self)
        return lambda ids, cache: self.forward(ids, cache=cache)

    def param_roles(self) -> dict[str, str]:
        """The role of every parameter by name; the optimizer's recipe has a row for each role."""
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

    def init_buffers(self) -> None:
        """Compute the rotary tables of the trained context on the parameters' device, and choose attention's backend.

        Raises:
            UserError: the backend that is asked for does not run there.
        """
        config, device = self.config, self.embedding.weight.device
        self.attention = choose(self.execution.attention, device, config.dtype, config.head_dim, config.slopes)
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = self.attention
        if config.position == "rope":
            self.cos, self.sin = rotary_tables(config.sequence_len, config.head_dim, config.rope_base, device)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """nanochat's initial weights; each parameter draws from (seed, its name), whatever the others are."""
        generator = torch.Generator(self.embedding.weight.device)
        bound = (3 / self.config.n_embd) ** 0.5  # uniform in +-bound has standard deviation 1 / sqrt(n_embd)
        depth = torch.linspace(0, 1, self.config.n_layer) if self.config.n_layer > 1 else torch.zeros(1)
        for name, parameter in self.named_parameters():
            generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
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
