"""The nanochat model as one plain function over named weights: a head at a time, a mask, no cleverness.

Written from the formulas alone, so that the package's model can be compared with it.
"""

import math

import torch
from torch import Tensor


def plain_logits(weights: dict[str, Tensor], config, ids: Tensor) -> Tensor:
    """Logits (B, T, vocab_size) in the dtype of the weights."""
    D = config.n_embd // config.n_head
    x = normalized(weights["embedding.weight"][ids])

    if config.smear:
        before = torch.zeros_like(x)
        before[:, 1:] = x[:, :-1]
        gate_in = x[:, :, :24]
        strength = 1 / (1 + torch.exp(-(gate_in @ weights["smear_gate.weight"].T)))
        x = x + weights["smear_scale"] * strength * before

    embedded = x
    kept = None
    for layer in range(config.n_layer):
        if config.scalars:
            x = weights["resid_scalars"][layer] * x + weights["x0_scalars"][layer] * embedded
        attended = plain_attention(weights, config, layer, normalized(x), ids, D)
        x = x + attended @ weights[f"blocks.{layer}.attn.proj.weight"].T
        hidden = normalized(x) @ weights[f"blocks.{layer}.mlp.fc.weight"].T
        hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden)) ** 2
        x = x + hidden @ weights[f"blocks.{layer}.mlp.proj.weight"].T
        if layer == config.n_layer // 2:
            kept = x
    if config.backout:
        x = x - weights["backout_scale"] * kept

    logits = (normalized(x) @ weights["head.weight"].T)[:, :, : config.vocab_size]
    if config.softcap is not None:
        logits = config.softcap * torch.tanh(logits / config.softcap)
    return logits


def plain_attention(weights, config, layer: int, x: Tensor, ids: Tensor, D: int) -> Tensor:
    name = f"blocks.{layer}.attn"
    q, k, v = (x @ weights[f"{name}.{part}.weight"].T for part in ("query", "key", "value"))
    has_value_embedding = config.value_embeddings and (config.n_layer - 1 - layer) % 2 == 0
    values = []
    for kv_head in range(config.n_kv_head):
        part = slice(kv_head * D, (kv_head + 1) * D)
        value = v[:, :, part]
        if has_value_embedding:
            extra = weights[f"value_embeddings.{layer}.weight"][ids][:, :, part]
            gate = 3 / (1 + torch.exp(-(x[:, :, :12] @ weights[f"{name}.value_gate.weight"][kv_head, :, None])))
            value = value + gate * extra
        values.append(value)
    outputs = []
    for head in range(config.n_head):
        kv_head = head // (config.n_head // config.n_kv_head)
        q_head = q[:, :, head * D : (head + 1) * D]
        k_head = k[:, :, kv_head * D : (kv_head + 1) * D]
        if config.position == "rope":
            q_head, k_head = (turned(x, config.rope_base) for x in (q_head, k_head))
        q_head, k_head = (config.qk_scale * normalized(x) for x in (q_head, k_head))
        slope = slopes_of(config.n_head)[head] if config.position == "alibi" else 0.0
        window = window_of(config, layer)
        outputs.append(plain_softmax_attention(q_head, k_head, values[kv_head], window, 1 / math.sqrt(D), slope))
    return torch.cat(outputs, dim=-1)


def slopes_of(heads: int) -> list[float]:
    """ALiBi's: a geometric row for a power of two, else that of the power below and parts of that of the one above."""
    power = 2 ** math.floor(math.log2(heads))
    if heads == power:
        return [2 ** (-8 / heads * (i + 1)) for i in range(heads)]
    return slopes_of(power) + slopes_of(2 * power)[::2][: heads - power]


def plain_softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, slope: float | Tensor = 0.0
) -> Tensor:
    """(..., T, D) attention with the whole matrix of scores and a mask; a token of distance costs a score `slope`."""
    scores = q @ k.transpose(-1, -2) * scale
    T = q.shape[-2]
    places = torch.arange(T)
    scores = scores - slope * (places[:, None] - places)
    for row in range(T):
        scores[..., row, row + 1 :] = -math.inf
        if window is not None and row - window > 0:
            scores[..., row, : row - window] = -math.inf
    return torch.softmax(scores, dim=-1) @ v


def window_of(config, layer: int) -> int:
    """A quarter of the context rounded up to 128 for S layers; the last layer and L layers see the trained context."""
    if layer == config.n_layer - 1 or config.window_pattern[layer % len(config.window_pattern)] == "L":
        return config.sequence_len - 1 if config.long_window is None else config.long_window
    if config.short_window is not None:
        return config.short_window
    quarter = math.ceil(config.sequence_len / 4)
    return math.ceil(quarter / 128) * 128


def normalized(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps)


def turned(x: Tensor, base: float) -> Tensor:
    """Each pair (x[i], x[i + D/2]) as a complex number, turned by minus position * base^(-2i/D)."""
    T, D = x.shape[-2:]
    angle = torch.outer(torch.arange(T, dtype=torch.float64), base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    pairs = torch.complex(x[..., : D // 2].double(), x[..., D // 2 :].double())
    turned_pairs = pairs * torch.exp(-1j * angle)
    return torch.cat((turned_pairs.real, turned_pairs.imag), dim=-1).to(x.dtype)


def plain_losses(weights: dict[str, Tensor], config, ids: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of each token, 0 where the target is negative."""
    probabilities = torch.log_softmax(plain_logits(weights, config, ids), dim=-1)
    picked = probabilities.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return -torch.where(targets >= 0, picked, torch.zeros_like(picked))
