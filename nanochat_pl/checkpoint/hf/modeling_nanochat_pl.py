"""A language model that was trained by nanochat-pl, for transformers. It needs this file, torch and transformers.

A GPT with RMSNorm without parameters, normalised queries and keys, and ReLU squared. What else it has, the config says:
rotary positions or ALiBi (arXiv:2108.12409), layers with a sliding window, value embeddings, smear, backout, learned
scalars on the residual stream, a softcap on the logits. The formulas are those of nanochat
(github.com/karpathy/nanochat).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

VALUE_GATE_CHANNELS = 12
SMEAR_GATE_CHANNELS = 24


class NanoChatPLConfig(PretrainedConfig):
    """The shape of the model.

    Args:
        max_position_embeddings: tokens that a "full_attention" layer sees, the current one included: those of the
            context that it was trained on, or more. No layer sees further back, so that a text may go on beyond it.
        sliding_window: tokens that a "sliding_attention" layer sees, the current one included.
        layer_types: "sliding_attention" or "full_attention" for each layer.
        rope_base: of the rotary frequencies; None: it has none.
        alibi_slopes: what the scores of each head lose for a token of distance; None: nothing.
        rms_norm_eps: machine epsilon of the dtype that it was trained in.
        qk_scale: factor of the normalised queries and of the normalised keys.
        final_logit_softcapping: logits are cap * tanh(logits / cap); None: as they come.
        value_embeddings: every other layer, the last included, adds a gated embedding of the token to its values.
        smear: mix the embedding of the token before into each token.
        backout: subtract a part of the middle layer's output before the head.
        residual_scalars: learned scale of the residual stream and of the re-added embedding at each layer.
    """

    model_type = "nanochat_pl"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers wants a list)

    def __init__(
        self,
        vocab_size: int = 32768,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 6,
        max_position_embeddings: int = 2048,
        sliding_window: int | None = None,
        layer_types: list[str] | None = None,
        rope_base: float | None = 100_000.0,
        alibi_slopes: list[float] | None = None,
        rms_norm_eps: float = 2.0**-23,
        qk_scale: float = 1.2,
        final_logit_softcapping: float | None = 15.0,
        value_embeddings: bool = True,
        smear: bool = True,
        backout: bool = True,
        residual_scalars: bool = True,
        use_cache: bool = True,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = 4 * hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.sliding_window = sliding_window
        self.layer_types = layer_types or ["full_attention"] * num_hidden_layers
        self.rope_base = rope_base
        self.alibi_slopes = alibi_slopes
        self.rms_norm_eps = rms_norm_eps
        self.qk_scale = qk_scale
        self.final_logit_softcapping = final_logit_softcapping
        self.value_embeddings = value_embeddings
        self.smear = smear
        self.backout = backout
        self.residual_scalars = residual_scalars
        self.use_cache = use_cache
        for derived in ("head_dim", "intermediate_size"):
            kwargs.pop(derived, None)
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class Attention(nn.Module):
    def __init__(self, config: NanoChatPLConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        sliding = config.sliding_window if config.layer_types[layer] == "sliding_attention" else None
        self.width = sliding or config.max_position_embeddings  # tokens that a query sees, itself included
        kv_size = config.num_key_value_heads * config.head_dim
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.value = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        if has_value_embedding(config, layer):
            channels = min(VALUE_GATE_CHANNELS, config.hidden_size)
            self.value_gate = nn.Linear(channels, config.num_key_value_heads, bias=False)

    def forward(
        self,
        x: Tensor,
        value_embedding: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        seen: Callable[[int, int], Tensor],
        cache: Cache | None,
    ) -> Tensor:
        B, T, _ = x.shape
        config = self.config
        heads = (B, T, -1, config.head_dim)
        q, k, v = (linear(x).view(heads) for linear in (self.query, self.key, self.value))
        if value_embedding is not None:
            gate = 3 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))
            v = v + gate.unsqueeze(-1) * value_embedding.view(heads)
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # (B, heads, T, head_dim)
        if rotary is not None:
            q, k = (rotate(heads, *rotary) for heads in (q, k))
        q, k = (rms_norm(heads, config.rms_norm_eps) for heads in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        mask = seen(k.size(2), self.width)
        scale = config.qk_scale**2 / config.head_dim**0.5
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=q.size(1) != k.size(1))
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: NanoChatPLConfig):
        super().__init__()
        self.fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: NanoChatPLConfig, layer: int):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.attn(rms_norm(x, self.eps), *context)
        return x + self.mlp(rms_norm(x, self.eps))


class NanoChatPLForCausalLM(PreTrainedModel, GenerationMixin):
    config: NanoChatPLConfig
    config_class = NanoChatPLConfig
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: NanoChatPLConfig):
        super().__init__(config)
        layers, kv_size = config.num_hidden_layers, config.num_key_value_heads * config.head_dim
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(layers))
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(config.vocab_size, kv_size)
                for layer in range(layers)
                if has_value_embedding(config, layer)
            }
        )
        if config.residual_scalars:
            self.resid_scalars = nn.Parameter(torch.ones(layers))
            self.x0_scalars = nn.Parameter(torch.zeros(layers))
        if config.smear:
            self.smear_gate = nn.Linear(min(SMEAR_GATE_CHANNELS, config.hidden_size), 1, bias=False)
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.zeros(1))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, vocab_size) float32, or of the last `logits_to_keep` tokens; the loss with `labels`.

        Args:
            input_ids: (B, T).
            attention_mask: (B, tokens in the cache + T), 0 where a token is padding, on either side.
            position_ids: (B, T) or (1, T); a row's first token has position 0. None: from the attention mask.
        """
        config, cache = self.config, past_key_values
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("This model needs input_ids: it embeds the tokens in more than one way.")
        if use_cache is None:
            use_cache = config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DynamicCache(config=config)
        if cache is not None and cache.is_compileable:
            raise ValueError("This model needs a dynamic cache; leave cache_implementation unset.")
        T = input_ids.size(1)
        tokens = T if cache is None else cache.get_seq_length() + T
        if attention_mask is not None and tuple(attention_mask.shape[1:]) != (tokens,):
            raise ValueError(
                f"This model needs an attention_mask of shape (batch, {tokens}), 0 for padding and 1 for tokens, those "
                f"in the cache included; this one has the shape {tuple(attention_mask.shape)}."
            )
        if position_ids is None:
            position_ids = self._positions(T, tokens, attention_mask)
        rotary = rotary_factors(position_ids, config, self.dtype) if config.rope_base else None

        @functools.cache
        def seen(keys: int, width: int) -> Tensor:
            mask = seen_keys(T, keys, width, attention_mask, input_ids.device)
            return mask if config.alibi_slopes is None else falling_scores(mask, config.alibi_slopes, self.dtype)

        x = rms_norm(self.embedding(input_ids), config.rms_norm_eps)
        if config.smear:
            gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))
            x = x + gate * self._tokens_before(x, cache) * (position_ids > 0).unsqueeze(-1)
        x0, middle = x, x
        for layer, block in enumerate(self.blocks):
            if config.residual_scalars:
                x = self.resid_scalars[layer] * x + self.x0_scalars[layer] * x0
            value_embedding = None
            if has_value_embedding(config, layer):
                value_embedding = self.value_embeddings[str(layer)](input_ids)
            x = block(x, value_embedding, rotary, seen, cache)
            if layer == config.num_hidden_layers // 2:
                middle = x
        if config.backout:
            x = x - self.backout_scale * middle
        x = rms_norm(x, config.rms_norm_eps)

        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(x[:, kept]).float()
        if config.final_logit_softcapping is not None:
            logits = config.final_logit_softcapping * torch.tanh(logits / config.final_logit_softcapping)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache if use_cache else None)

    def _positions(self, T: int, tokens: int, attention_mask: Tensor | None) -> Tensor:
        """(B, T) or (1, T): how many tokens of its row stand before each of the last T; padding does not count."""
        if attention_mask is not None:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        return torch.arange(tokens - T, tokens, device=self.device).unsqueeze(0)

    def _tokens_before(self, x: Tensor, cache: Cache | None) -> Tensor:
        """(B, T, C): the embedding of the token before each one; what stands before a row's first does not matter.

        The cache holds the embeddings as the keys of one more layer, so that whatever is done to the cache (beams
        reordered, rows repeated, tokens taken back) is done to them.
        """
        embeddings = x
        if cache is not None:
            layers = self.config.num_hidden_layers
            if len(cache.layers) == layers:
                cache.layers.append(DynamicLayer())
            embeddings = cache.update(x.unsqueeze(1), x[:, None, :, :0], layers)[0].squeeze(1)
        return F.pad(embeddings, (0, 0, 1, 0))[:, -x.size(1) - 1 : -1]


def has_value_embedding(config: NanoChatPLConfig, layer: int) -> bool:
    """Whether it is one of every other layer, counted from the last."""
    return config.value_embeddings and (config.num_hidden_layers - 1 - layer) % 2 == 0


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in float32; no parameters."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


def rotary_factors(position_ids: Tensor, config: NanoChatPLConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, 1, T, head_dim / 2) of the positions times base^(-2i / head_dim)."""
    channels = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=position_ids.device)
    assert config.rope_base is not None
    angles = position_ids[:, None, :, None].float() * config.rope_base ** (-channels / config.head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) by minus its angle, which is nanochat's direction."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def seen_keys(queries: int, keys: int, width: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """(queries, keys) or (B, 1, queries, keys): True where a query, one of the newest tokens, sees a key.

    Args:
        width: tokens that a query sees at most, itself included.
        attention_mask: (B, keys or more), 0 for padding. A padded query sees itself, so that nothing becomes NaN.
    """
    query, key = torch.arange(keys - queries, keys, device=device), torch.arange(keys, device=device)
    distance = query[:, None] - key
    seen = (distance >= 0) & (distance < width)
    if attention_mask is None:
        return seen
    return (seen & attention_mask[:, None, None, -keys:].bool()) | (distance == 0)


def falling_scores(seen: Tensor, slopes: list[float], dtype: torch.dtype) -> Tensor:
    """(heads, queries, keys) or (B, heads, queries, keys) to add to the scores, from what `seen_keys` returns."""
    queries, keys = seen.shape[-2:]
    distance = torch.arange(keys - queries, keys, device=seen.device)[:, None] - torch.arange(keys, device=seen.device)
    cost = torch.tensor(slopes, device=seen.device)[:, None, None] * distance
    return torch.where(seen, -cost, -torch.inf).to(dtype)
