"""What all architectures share: the head's loss and logits, how layers are run, the cache."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX, LowRank
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.attention.backend import Backend
from nanochat_pl.nn.attention.choose import choose
from nanochat_pl.nn.compiled import compiled
from nanochat_pl.nn.cross_entropy import linear_cross_entropy
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.position import RotaryTables, rotary_tables


class SelfAttention(nn.Module):
    """Base of an architecture's attention.

    Attributes:
        backend: set by `CausalModel.use_attention`.
        window: tokens before its own that a query sees.
    """

    backend: Backend

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.window = layer, config.windows[layer]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, cache: KVCache | None, seen: dict[int, Any]
    ) -> Tensor:
        """q (B, H, T, D), k and v (B, H_kv, T, D) -> (B, T, H * D)."""
        if cache is None:
            y = self.backend.attend(q, k, v, self.window, scale, seen[self.window])
        else:
            y = cache.attend(self.layer, q, k, v, self.window, scale)
        return y.transpose(1, 2).flatten(2)


class CausalModel(nn.Module):
    """Base of the architectures; see `models.contract.LanguageModel`.

    A subclass builds `embedding`, `blocks` (parts `attn` and `mlp`) and what else it has, and defines `trunk`,
    `head_weight`, `param_roles` and `init_parameter`.

    Attributes:
        attention: the backend of all layers, chosen when the device is known.
        low_rank: see `models.contract.LanguageModel`.
        softcap: of the logits; None: as they come.
        dropout: drawn in training.
        longest_text: tokens that positions are known for; None: any number.
    """

    attention: Backend
    embedding: nn.Embedding
    blocks: nn.ModuleList
    softcap: float | None = None
    dropout = 0.0
    longest_text: int | None = None

    def __init__(self, config: Any, execution: Execution):
        super().__init__()
        self.config, self.execution = config, execution
        self.low_rank: dict[str, LowRank] = {}
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    def trunk(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        """The normalised vectors (B, T, C) that the head reads; the cache has taken up `ids`."""
        raise NotImplementedError

    @property
    def head_weight(self) -> Tensor:
        """(padded_vocab_size, C)"""
        raise NotImplementedError

    def param_roles(self) -> dict[str, str]:
        """The role of every parameter by name; the optimizer's recipe has a row for each role."""
        raise NotImplementedError

    def vocabulary_tables(self) -> list[str]:
        """Names of the parameters that have a row for each token, and padding behind them."""
        parts = ("embedding", "head", "value_embeddings")
        return [name for name, _ in self.named_parameters() if name.split(".")[0] in parts]

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """Set one parameter to its initial value."""
        raise NotImplementedError

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
        x = self.trunk(ids, cache, documents)
        if targets is not None:
            return self.loss_of(x, targets, weights, reduction)
        if at is not None:
            x = x.flatten(0, 1)[at]
        elif last_only:
            x = x[:, -1:]
        return self.logits_of(x)

    def loss_of(self, x: Tensor, targets: Tensor, weights: Tensor | None, reduction: Literal["sum", "none"]) -> Tensor:
        """The loss of what `trunk` gives; see `forward`."""
        return linear_cross_entropy(
            x,
            self.head_weight,
            targets,
            weights,
            vocab_size=self.config.vocab_size,
            softcap=self.softcap,
            ignore_index=IGNORE_INDEX,
            reduction=reduction,
            compile=self.compiles,
        )

    def logits_of(self, x: Tensor) -> Tensor:
        """float32 logits (..., vocab_size) of some of what `trunk` gives."""
        return self.capped(F.linear(x, self.head_weight[: self.config.vocab_size].to(x.dtype)))

    def capped(self, logits: Tensor) -> Tensor:
        """float32 logits, softcapped where the model is."""
        logits, softcap = logits.float(), self.softcap
        if softcap is None:
            return logits
        # softcap * tanh(logits / softcap), by the function that a CPU computes four times as fast
        return torch.sigmoid(logits * (2 / softcap)).mul(2 * softcap).sub_(softcap)

    def run_blocks(self, x: Tensor, *args: Any) -> Tensor:
        """x through all blocks, each called as block(x, *args)."""
        run = self.kept(self._block)
        for layer in range(len(self.blocks)):
            x = run(layer, x, *args)
        return x

    def _block(self, layer: int, *args: Any) -> Tensor:
        block = self.blocks[layer]
        forward = compiled(type(block).forward) if self.compiles else type(block).__call__
        return forward(block, *args)

    def kept(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """What runs a layer, with its activations kept for the backward pass or computed again there."""
        if not (self.execution.recompute and torch.is_grad_enabled()):
            return run
        return functools.partial(checkpoint, run, use_reentrant=False, preserve_rng_state=self.dropout > 0)

    @property
    def compiles(self) -> bool:
        """Training alone: what is generated or evaluated in between has any shape."""
        return self.execution.compile and torch.is_grad_enabled()

    def seen(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None) -> dict[int, Any]:
        """What the queries of each window see, for `SelfAttention.attend`; with a cache that knows itself."""
        if cache is not None:
            return {}
        return self.attention.see(ids.size(0), ids.size(1), set(self.config.windows), documents, ids.device)

    def positions(self, ids: Tensor, cache: KVCache | None, documents: Tensor | None = None) -> Tensor:
        """The positions of the tokens in their texts: (T,), or (B, 1) where the rows of a cache differ, or (B, T) where
        each of `documents` begins anew.

        Raises:
            UserError: they go beyond the longest text.
        """
        T = ids.size(1)
        length = T + (cache.longest if cache else 0)
        if self.longest_text is not None and length > self.longest_text:
            raise UserError(
                f"A text has {length} tokens, but the model has learned the positions of {self.longest_text}. Give a "
                "shorter one, or train a model with a longer model.sequence_len."
            )
        if cache is not None:
            return cache.positions(T)
        columns = torch.arange(T, device=ids.device)
        if documents is None:
            return columns
        begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
        return columns - torch.where(begins, columns, 0).cummax(dim=1).values

    def build_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache on the model's device.

        Args:
            capacity: tokens of a row; where it exceeds the longest window, as many as one likes.
        """
        config, backend = self.config, self.attention.for_prompts()
        like = self.embedding.weight.new_empty(config.n_kv_head, config.head_dim, dtype=config.dtype)
        tables = RotaryTables(self._rotary_rows, capacity) if config.position == "rope" else None
        return KVCache(config.windows, rows, capacity, like, tables, backend)

    def rotary(self, T: int, cache: KVCache | None) -> tuple[Tensor, Tensor] | None:
        """Rows of the rotary tables for the next T tokens, as `KVCache.rotary`; None: the model has none."""
        if cache is not None:
            return cache.rotary(T)
        return self._rotary_rows(T) if self.config.position == "rope" else None

    def _rotary_rows(self, length: int) -> tuple[Tensor, Tensor]:
        """The rotary tables' first `length` rows, in the compute dtype; beyond the trained context computed anew.

        The buffers never change, so that a compiled training graph stays valid whatever was generated in between.
        """
        cos, sin, dtype = self.cos, self.sin, self.config.dtype
        if length > cos.size(0):
            cos, sin = self.rotary_tables(length, cos.device)
        return cos[:length].to(dtype), sin[:length].to(dtype)

    def rotary_tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`nn.position.rotary_tables` of the model, where it has a rotary embedding."""
        return rotary_tables(length, self.config.head_dim, self.config.rope_base, device)

    def build_decoder(self) -> Callable[[Tensor, KVCache], Tensor]:
        """What continues rows by one token each: (ids (B, 1), cache) -> logits (B, 1, vocab_size).

        It may hold copies of the weights, so it is made anew when they have changed.
        """
        return lambda ids, cache: self.forward(ids, cache=cache)

    def init_buffers(self) -> None:
        """Choose attention's backend for the parameters' device, and compute the rotary tables of the trained context.

        Raises:
            UserError: the backend that is asked for does not run there.
        """
        config, execution, device = self.config, self.execution, self.embedding.weight.device
        self.use_attention(choose(execution.attention, device, config.dtype, config.head_dim, config.slopes))
        if config.position == "rope":
            self.cos, self.sin = self.rotary_tables(config.sequence_len, device)

    def use_attention(self, backend: Backend) -> None:
        """Let all layers attend with `backend`."""
        self.attention = backend
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.backend = backend

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Initial weights; each parameter draws from (seed, its name), whatever the others are."""
        generator = torch.Generator(self.embedding.weight.device)
        for name, parameter in self.named_parameters():
            generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            self.init_parameter(name, parameter, generator)


def table(rows: int, width: int, dtype: torch.dtype = torch.float32) -> nn.Embedding:
    """An embedding without values; its own constructor draws random numbers, which on "meta" imports the compiler: a
    second for nothing.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width, dtype=dtype), freeze=False)
