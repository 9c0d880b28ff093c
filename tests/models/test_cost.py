"""The cost model against torch's counter of FLOPs and against real tensors."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanochat_pl.models.contract import build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.nn.kv_cache import KVCache
from tests.models.test_nanochat import SWITCHES, TINY
from tests.reference.plain_gpt import plain_losses

CONFIG = dataclasses.replace(TINY, vocab_size=128)  # no padding, which the plain implementation would multiply
WIDE = dataclasses.replace(CONFIG, window_pattern="L")


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter


def configs(base):
    return [dataclasses.replace(base, **switch) for switch in SWITCHES.values()]


@pytest.mark.parametrize("config", configs(WIDE), ids=list(SWITCHES))
def test_training_flops_equal_the_counters_of_the_plain_implementation(config):
    config = dataclasses.replace(config, window_pattern="L")
    weights = {name: p.detach().requires_grad_() for name, p in build_model(config, "cpu", 0).named_parameters()}
    ids = torch.randint(config.vocab_size, (3, config.sequence_len))
    counter = counted(lambda: plain_losses(weights, config, ids, ids).sum().backward())
    assert counter.get_total_flops() == ModelCost(config).training_flops_per_token * ids.numel()


@pytest.mark.parametrize("config", configs(CONFIG), ids=list(SWITCHES))
def test_the_model_itself_spends_these_flops_outside_attention(config):
    model, cost = build_model(config, "cpu", 0), ModelCost(config)
    ids = torch.randint(config.vocab_size, (3, config.sequence_len))
    counts = counted(lambda: model(ids, ids).backward()).get_flop_counts()["Global"]
    products = sum(
        flops for operation, flops in counts.items() if operation in (torch.ops.aten.mm, torch.ops.aten.addmm)
    )
    seen = sum(min(config.sequence_len, window + 1) for window in config.windows)
    assert products == (cost.training_flops_per_token - 12 * config.n_embd * seen) * ids.numel()


@pytest.mark.parametrize("config", configs(CONFIG), ids=list(SWITCHES))
def test_prefill_and_decode_flops_equal_the_counters(config, monkeypatch):
    # The counter sees attention's products beside the others, so it is left out, and added by its formula.
    monkeypatch.setattr(KVCache, "attend", lambda self, layer, q, *rest: q)
    model, cost = build_model(config, "cpu", 0), ModelCost(config)
    ids = torch.randint(config.vocab_size, (1, 20))
    with torch.no_grad():
        cache = model.build_cache(1, 24)
        products = counted(lambda: model(ids, cache=cache, last_only=True)).get_total_flops()
        pairs = sum(min(t + 1, w + 1) for w in config.windows for t in range(20))
        assert cost.prefill_flops(20) == products + 4 * config.n_embd * pairs
        decode = model.build_decoder()
        products = counted(lambda: decode(ids[:, :1], cache)).get_total_flops()
        seen = sum(min(21, window + 1) for window in config.windows)
        assert cost.decode_flops(21) == products + 4 * config.n_embd * seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bytes_are_those_of_the_tensors(dtype):
    config = dataclasses.replace(CONFIG, compute_dtype=dtype)
    model, cost = build_model(config, "cpu", 0), ModelCost(config)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.weight_bytes == sum(parameter.nbytes for parameter in model.parameters())
    tokens = config.short_window + 1  # that every layer keeps
    cache = model.build_cache(1, tokens)
    assert tokens * cost.kv_bytes_per_token == sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert cost.kv_read_bytes(3) == 3 * cost.kv_bytes_per_token
    full = config.windows.count(config.sequence_len - 1)
    short = config.n_layer - full
    assert cost.kv_read_bytes(20) == (full * 20 + short * 6) * cost.kv_bytes_per_token // config.n_layer


def test_parameters_by_role_of_nanochats_d12():
    d12 = dataclasses.replace(TINY, vocab_size=32768, sequence_len=2048, n_layer=12, n_head=6, n_kv_head=6, n_embd=768)
    cost = ModelCost(d12)
    gates = 6 * 6 * 12  # six layers with a value embedding, six heads, twelve channels
    assert cost.parameters_by_role == {
        "matrix": 12 * 12 * 768**2 + gates,
        "embedding": 32768 * 768,
        "value_embedding": 6 * 32768 * 768,
        "unembedding": 32768 * 768,
        "resid_scalar": 12,
        "x0_scalar": 12,
        "gate": 24 + 1 + 1,
        "vector": 0,
    }
    assert cost.scaling_parameters == 12 * 12 * 768**2 + gates + 32768 * 768
