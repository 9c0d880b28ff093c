"""One token a row through the nanochat model on a CPU, where each call and each byte of weights counts.

The same formulas as `NanoChat.forward` for T = 1, in two dimensions, on weights laid out for a product with one row:
input channels outermost (read 1.6 times as fast), and query, key and value side by side. They are copies, so a decoder
serves one generation and not longer.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import rms_norm
from nanochat_pl.nn.position import rotate_and_normalize_heads


class _Layer(NamedTuple):
    """Weights (in, out); `value_gate` and `value_embedding` are None where the layer has none."""

    qkv: Tensor
    proj: Tensor
    fc: Tensor
    mlp_proj: Tensor
    value_gate: Tensor | None
    value_embedding: Tensor | None
    window: int


class NanoChatDecoder:
    """Copies the weights of a `NanoChat` as they are now; call it under `torch.inference_mode`."""

    def __init__(self, model: Any):
        self.model = model
        config, dtype = model.config, model.config.dtype

        def turned(*weights: Tensor) -> Tensor:
            together = torch.cat(weights) if len(weights) > 1 else weights[0]
            return together.t().to(dtype).contiguous()

        self.layers = []
        for layer, block in enumerate(model.blocks):
            attn, mlp = block.attn, block.mlp
            embedded = layer in config.value_embedding_layers
            self.layers.append(
                _Layer(
                    qkv=turned(attn.query.weight, attn.key.weight, attn.value.weight),
                    proj=turned(attn.proj.weight),
                    fc=turned(mlp.fc.weight),
                    mlp_proj=turned(mlp.proj.weight),
                    value_gate=turned(attn.value_gate.weight) if embedded else None,
                    value_embedding=model.get_parameter(f"value_embeddings.{layer}.weight") if embedded else None,
                    window=attn.window,
                )
            )
        self.head = turned(model.head.weight[: config.vocab_size])
        if config.scalars:
            self.resid = model.resid_scalars.to(dtype).unbind()
            self.added = model.x0_scalars.to(dtype).unbind()
        if config.smear:
            self.smear_gate = turned(model.smear_gate.weight)

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, 1, vocab_size) float32 after one more token a row, ids (B, 1); the cache takes it up.

        No row may be empty.
        """
        model, config = self.model, self.model.config
        ids = ids.squeeze(1)
        B, D, heads = ids.size(0), config.head_dim, config.n_head + config.n_kv_head
        scale = config.qk_scale**2 / D**0.5
        cos, sin = cache.rotary(1)  # (1, D), or (B, 1, 1, D)
        if cos.ndim == 4:
            cos, sin = cos.squeeze(1), sin.squeeze(1)
        if config.smear:
            pair = rms_norm(
                F.embedding(torch.stack((cache.last_ids.squeeze(1), ids)), model.embedding.weight).to(config.dtype)
            )
            before, x = pair.unbind()
            gate = torch.sigmoid(x.narrow(1, 0, self.smear_gate.size(0)).mm(self.smear_gate))
            x = torch.addcmul(x, gate.mul_(model.smear_scale), before)
        else:
            x = rms_norm(F.embedding(ids, model.embedding.weight).to(config.dtype))
        x0, middle = x, x
        for index, layer in enumerate(self.layers):
            if config.scalars:
                x = torch.addcmul(x * self.resid[index], self.added[index], x0)
            normed = rms_norm(x)
            qkv = normed.mm(layer.qkv).view(B, heads + config.n_kv_head, D)
            qk = rotate_and_normalize_heads(qkv.narrow(1, 0, heads), cos, sin)[0].unsqueeze(2)
            v = qkv.narrow(1, heads, config.n_kv_head)
            if layer.value_gate is not None and layer.value_embedding is not None:
                gate = torch.sigmoid(normed.narrow(1, 0, layer.value_gate.size(0)).mm(layer.value_gate))
                value_embedding = F.embedding(ids, layer.value_embedding).to(config.dtype).view_as(v)
                v = torch.addcmul(v, gate.unsqueeze(-1), value_embedding, value=3)
            q, k = qk.narrow(1, 0, config.n_head), qk.narrow(1, config.n_head, config.n_kv_head)
            y = cache.attend(index, q, k, v.unsqueeze(2), layer.window, scale)
            x = torch.addmm(x, y.reshape(B, -1), layer.proj)
            hidden = rms_norm(x).mm(layer.fc).relu_()
            x = torch.addmm(x, hidden.mul_(hidden), layer.mlp_proj)
            if index == config.n_layer // 2:
                middle = x
        cache.advance(ids.unsqueeze(1))
        if config.backout:
            x = torch.addcmul(x, model.backout_scale.to(x.dtype), middle, value=-1)
        return model.capped(rms_norm(x).mm(self.head)).unsqueeze(1)
