"""The traced memory against torch's own tracker of real tensors, and how it grows with what."""

import dataclasses

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from nanochat_pl.core.hardware import Hardware, HardwareSpec
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.planning.memory import memory_bytes, state_bytes
from nanochat_pl.planning.trace import trace

CPU = HardwareSpec(accelerator="cpu").detect()
H100 = HardwareSpec(accelerator="cuda", chip="H100").assume()
SMALL = NanoChatSpec(depth=4, n_embd=64, head_dim=16, sequence_len=160, window_pattern="SL").config(1000)
D12 = NanoChatSpec(depth=12).config(32768, "bfloat16")


def memory(config: NanoChatConfig, hardware: Hardware, rows: int, holds: str = "text") -> dict[str, int]:
    return memory_bytes(config, ModelCost(config), hardware, rows, 64, holds)


def tracked_peak(config: NanoChatConfig) -> int:
    """What a real forward and backward pass of three rows holds at most, beside weights and gradients."""
    model, ids = build_model(config, "cpu", 0), torch.randint(1000, (3, 160))
    model(ids, ids).backward()
    tracker = MemTracker()
    tracker.track_external(model, ids)
    with tracker:
        model(ids, ids).backward()
    (parts,) = tracker.get_tracker_snapshot("peak").values()
    return sum(size for kind, size in parts.items() if str(kind).endswith(("ACT", "TEMP")))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_layer": 3, "value_embeddings": False},
        {"compute_dtype": "bfloat16", "n_kv_head": 2, "window_pattern": "L"},
    ],
)
def test_the_trace_is_what_torch_tracks_of_real_tensors(change: dict) -> None:
    config = dataclasses.replace(SMALL, **change)
    traced = trace(config, 3, "cpu")
    assert traced.peak == tracked_peak(config) > traced.activations > 0


def test_few_layers_tell_of_many() -> None:
    deep = dataclasses.replace(SMALL, n_layer=12)
    assert trace(deep, 3, "cpu").peak == pytest.approx(tracked_peak(deep), rel=0.001)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_is_that_of_a_real_step(dtype: str) -> None:
    config = dataclasses.replace(SMALL, compute_dtype=dtype)
    model, ids = build_model(config, "cpu", 0), torch.randint(1000, (1, 160))
    optimizer = MuonAdamWSpec().build(model.named_parameters(), model.param_roles(), width=64)
    model(ids, ids).backward()
    optimizer.step()
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    expected = state_bytes(ModelCost(config), CPU)
    assert expected["weights"] == sum(p.nbytes for p in model.parameters())
    assert expected["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert expected["optimizer"] == pytest.approx(moments, rel=0.02)  # the variances of the neurons are left out


def test_what_grows_with_what() -> None:
    one, two, four = (memory(D12, H100, rows) for rows in (1, 2, 4))
    for name in ("weights", "gradients", "optimizer"):
        assert one[name] == four[name]
    row = two["activations"] - one["activations"]
    assert four["activations"] - two["activations"] == pytest.approx(2 * row, rel=0.01)
    assert one["activations"] - row > 2 * 12 * 12 * 768**2 * 0.99  # the matrices in bfloat16
    shared = memory(D12, dataclasses.replace(H100, devices=8), 4)
    assert shared["optimizer"] == four["optimizer"] // 8 and shared["activations"] == four["activations"]
    single = dataclasses.replace(D12, compute_dtype="float32")
    assert memory(single, dataclasses.replace(H100, precision="float32"), 4)["activations"] > four["activations"]


def test_recomputation_keeps_what_enters_each_layer_only() -> None:
    kept, recomputed = (trace(D12, 4, "cuda", recompute) for recompute in (False, True))
    entering = 12 * 4 * 2048 * 768 * 2
    assert entering < recomputed.activations < 3 * entering < kept.activations / 4


def test_a_fused_kernel_keeps_no_scores() -> None:
    longer = dataclasses.replace(D12, sequence_len=4 * D12.sequence_len)
    assert trace(longer, 1, "cuda").activations == pytest.approx(trace(D12, 4, "cuda").activations, rel=0.01)


def test_answers_under_way_need_a_cache() -> None:
    tight = dataclasses.replace(D12, n_kv_head=6)
    learned, asked = memory(tight, H100, 1), memory(tight, H100, 1, "questions")
    assert learned["cache"] == 0 < asked["cache"]
    beside = asked["activations"] + asked["logits"] + asked["workspace"] + asked["cache"]
    assert beside == 64 * ModelCost(tight).kv_read_bytes(2048)
