"""One token a row through the nanochat model on a CPU, where each call and each byte of weights counts.

The same formulas as `NanoChat.forward` for T = 1, in two dimensions, on weights laid out for products with few rows,
with query, key and value side by side. Some are copies, so a decoder is made anew when the weights have changed.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.nn.few_rows import WideWeight, in_blocks, product
from nanochat_pl.nn.kv_cache import KVCache
from nanochat_pl.nn.layers import rms_norm
from nanochat_pl.nn.position import rotate_and_normalize_heads


class _Layer(NamedTuple):
    """`value_gate`, (in, out), and `value_embedding` are None where the layer has none."""

    qkv: Tensor
    proj: Tensor
    fc: WideWeight
    mlp_proj: Tensor
    value_gate: Tensor | None
    value_embedding: Tensor | None
    window: int


class NanoChatDecoder:
    """Copies the weights of a `NanoChat` as they are now; call it under `torch.inference_mode`."""

    def __init__(self, model: Any):
        self.model = model
        config, dtype = model.config, model.config.dtype

        def turned(weight: Tensor) -> Tensor:
            return weight.t().to(dtype).contiguous()

        self.layers = []
        for layer, block in enumerate(model.blocks):
            attn, mlp = block.attn, block.mlp
            embedded = layer in config.value_embedding_layers
            self.layers.append(
                _Layer(
                    qkv=in_blocks(torch.cat((attn.query.weight, attn.key.weight, attn.value.weight)).to(dtype)),
                    proj=in_blocks(attn.proj.weight.to(dtype)),
                    fc=WideWeight(mlp.fc.weight.to(dtype)),
                    mlp_proj=in_blocks(mlp.proj.weight.to(dtype)),
                    value_gate=turned(attn.value_gate.weight) if embedded else None,
                    value_embedding=model.get_parameter(f"value_embeddings.{layer}.weight") if embedded else None,
                    window=attn.window,
                )
            )
        self.head = WideWeight(model.head.weight.to(dtype))
        if config.scalars:
            self.resid = model.resid_scalars.to(dtype).tolist()
            self.added = model.x0_scalars.to(dtype)[:, None, None]
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
        rotary = cache.rotary(1)  # (1, D) each, or (B, 1, 1, D)
        if rotary is not None and rotary[0].ndim == 4:
            rotary = rotary[0].squeeze(1), rotary[1].squeeze(1)
        if config.smear:
            pair = rms_norm(
                F.embedding(torch.stack((cache.last_ids.squeeze(1), ids)), model.embedding.weight).to(config.dtype)
            )
            before, x = pair.unbind()
            gate = torch.sigmoid(x.narrow(1, 0, self.smear_gate.size(0)).mm(self.smear_gate))
            x = torch.addcmul(x, gate.mul_(model.smear_scale), before)
        else:
            x = rms_norm(F.embedding(ids, model.embedding.weight).to(config.dtype))
        middle = x
        if config.scalars:
            added = (self.added * x).unbind()
        for index, layer in enumerate(self.layers):
            if config.scalars:
                x = torch.add(added[index], x, alpha=self.resid[index])
            normed = rms_norm(x)
            qkv = product(normed, layer.qkv).view(B, heads + config.n_kv_head, D)
            qk, v = qkv.split((heads, config.n_kv_head), dim=1)
            qk = rms_norm(qk) if rotary is None else rotate_and_normalize_heads(qk, *rotary)[0]
            q, k = qk.unsqueeze(2).split((config.n_head, config.n_kv_head), 1)
            if layer.value_gate is not None and layer.value_embedding is not None:
                gate = torch.sigmoid(normed.narrow(1, 0, layer.value_gate.size(0)).mm(layer.value_gate))
                value_embedding = F.embedding(ids, layer.value_embedding).to(config.dtype).view_as(v)
                v.addcmul_(gate.unsqueeze(-1), value_embedding, value=3)
            y = cache.attend(index, q, k, v.unsqueeze(2), layer.window, scale)
            x = x + product(y.reshape(B, -1), layer.proj)
            hidden = layer.fc(rms_norm(x)).relu_()
            x = x + product(hidden.mul_(hidden), layer.mlp_proj)
            if index == config.n_layer // 2:
                middle = x
        cache.advance(ids.unsqueeze(1))
        if config.backout:
            x = torch.addcmul(x, model.backout_scale.to(x.dtype), middle, value=-1)
        return model.capped(self.head(rms_norm(x))[:, : config.vocab_size]).unsqueeze(1)
