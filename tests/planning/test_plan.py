"""The plan: how a step is cut into micro-batches, and what it says."""

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.planning.plan import Plan, make_plan


def plan(total: int, tokens_per_device: int, **horizon: float) -> Plan:
    spec = NanoChatSpec(depth=2, n_embd=64, head_dim=16, sequence_len=32)
    hardware = HardwareSpec(accelerator="cpu", tokens_per_device=tokens_per_device).detect()
    asked = HorizonSpec(total_batch_tokens=total, **horizon)
    return make_plan(spec.config(300), spec.reference(300), asked, hardware, 16)


@pytest.mark.parametrize(
    ("total", "tokens_per_device", "micro", "accumulation"),
    [(768, 8192, 24, 1), (768, 256, 8, 3), (768, 200, 6, 4), (224, 96, 1, 7), (768, 1, 1, 24)],
)
def test_a_step_is_cut_into_the_largest_equal_pieces(
    total: int, tokens_per_device: int, micro: int, accumulation: int
) -> None:
    made = plan(total, tokens_per_device)
    assert (made.micro_batch_rows, made.accumulation) == (micro, accumulation)
    assert made.micro_batch_rows * made.accumulation * 32 == total


def test_the_horizon_follows_the_first_that_is_set() -> None:
    made = plan(768, 8192)
    assert made.horizon.steps == 12 * made.cost.scaling_parameters // 768
    assert plan(768, 8192, steps=7).horizon.steps == 7
    flops = made.cost.training_flops_per_token * 768 * 50
    assert plan(768, 8192, flops=flops).horizon.steps == 50


def test_the_screen_names_what_matters() -> None:
    text = plan(768, 256, steps=10).text(flops_per_second=1e9)
    for words in ("2 layers, width 64, 4 heads", "10 steps x 768 tokens", "3 x 8 rows", "memory", "time  about"):
        assert words in text


def test_a_profile_for_another_machine_says_so() -> None:
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="hw asks for cuda, but this machine has"):
            HardwareSpec(accelerator="cuda").detect()
