import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.scaling import Horizon, HorizonSpec, heads_for_width, resolve_horizon, width_for_depth

VOCABULARY = 32768


def scaling_parameters(depth: int) -> int:
    """Matrices and head of nanochat's model, counted by hand: 12 width^2 a layer, a value gate every other layer."""
    width = math.ceil(depth * 64 / 128) * 128
    gates = sum(width // 128 * 12 for layer in range(depth) if layer % 2 == (depth - 1) % 2)
    return depth * 12 * width**2 + gates + VOCABULARY * width


def horizon_of(depth: int, spec: HorizonSpec | None = None, **options: int) -> Horizon:
    return resolve_horizon(
        spec or HorizonSpec(),
        scaling_parameters=scaling_parameters(depth),
        reference_scaling_parameters=scaling_parameters(12),
        flops_per_token=6.0 * scaling_parameters(depth),
        **{"sequence_len": 2048} | options,
    )


@pytest.mark.parametrize(
    ("depth", "width", "heads"), [(4, 256, 2), (5, 384, 3), (12, 768, 6), (20, 1280, 10), (26, 1664, 13)]
)
def test_width_and_heads_follow_from_depth(depth: int, width: int, heads: int) -> None:
    assert width_for_depth(depth) == width
    assert heads_for_width(width) == heads


def test_a_head_size_that_does_not_divide_names_the_nearest_widths() -> None:
    with pytest.raises(UserError, match="choose 256 or 384"):
        heads_for_width(300)


# From nanochat's script with its tokenizer of 32,768: parameters x 12, 2^19 x (D / D12)^0.383 to a power of two.
@pytest.mark.parametrize(
    ("depth", "batch", "steps"), [(4, 2**18, 528), (12, 2**19, 2520), (20, 2**20, 4980), (24, 2**20, 8352)]
)
def test_batch_and_steps_are_nanochats(depth: int, batch: int, steps: int) -> None:
    horizon = horizon_of(depth)
    assert (horizon.total_batch_tokens, horizon.steps) == (batch, steps)
    assert horizon.nominal_tokens == 12 * scaling_parameters(depth)
    assert horizon.lr_scale == pytest.approx(math.sqrt(batch / 2**19))
    ratio = scaling_parameters(12) / scaling_parameters(depth)
    assert horizon.weight_decay_scale == pytest.approx(math.sqrt(batch / 2**19) * ratio)
    assert horizon.tokens == batch * steps


def test_steps_epochs_or_flops_win_over_the_ratio() -> None:
    ratio = horizon_of(12)
    per_step = 6.0 * scaling_parameters(12) * 2**19
    by_flops = horizon_of(12, HorizonSpec(flops=100.4 * per_step))
    by_steps = horizon_of(12, HorizonSpec(steps=7))
    by_epochs = horizon_of(12, HorizonSpec(epochs=1.5), epoch_tokens=3 * 2**19)
    assert (by_flops.steps, by_steps.steps, by_epochs.steps) == (100, 7, 5)
    for other in (by_flops, by_steps, by_epochs):
        assert other.total_batch_tokens == ratio.total_batch_tokens
        assert other.weight_decay_scale == ratio.weight_decay_scale == pytest.approx(1.0)


def test_everything_can_be_set_by_hand() -> None:
    spec = HorizonSpec(steps=5, total_batch_tokens=6144, lr_scale=0.25, weight_decay_scale=0.0)
    horizon = horizon_of(4, spec)
    assert (horizon.steps, horizon.total_batch_tokens, horizon.lr_scale, horizon.weight_decay_scale) == (
        5,
        6144,
        0.25,
        0,
    )


def test_more_tokens_per_parameter_make_a_longer_run_with_the_same_decay() -> None:
    longer = horizon_of(12, HorizonSpec(tokens_per_parameter=24.0))
    assert longer.tokens == pytest.approx(2 * horizon_of(12).tokens, rel=1e-3)
    assert longer.weight_decay_scale == pytest.approx(1.0)


@given(
    parameters=st.integers(1000, 10**10),
    sequence_len=st.sampled_from([1, 64, 100, 128, 768, 2048]),
    devices=st.sampled_from([1, 2, 3, 8]),
)
@settings(max_examples=100, deadline=None)
def test_the_batch_is_whole_rows_for_every_device(parameters: int, sequence_len: int, devices: int) -> None:
    horizon = resolve_horizon(
        HorizonSpec(),
        scaling_parameters=parameters,
        reference_scaling_parameters=scaling_parameters(12),
        flops_per_token=1.0,
        sequence_len=sequence_len,
        devices=devices,
    )
    rows = horizon.total_batch_tokens / sequence_len
    assert rows == int(rows) and rows % devices == 0 and horizon.steps >= 1
    if devices in (1, 2, 8) and rows > devices:
        assert math.log2(rows).is_integer()


def test_a_tiny_model_gets_a_small_batch() -> None:
    horizon = resolve_horizon(
        HorizonSpec(),
        scaling_parameters=100,
        reference_scaling_parameters=scaling_parameters(12),
        flops_per_token=600,
        sequence_len=2048,
    )
    assert horizon.total_batch_tokens == 2048 and horizon.steps == 1


def test_a_batch_that_is_not_whole_rows_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Nearest legal values: 4096 or 8192"):
        horizon_of(4, HorizonSpec(total_batch_tokens=5000), devices=2)
    with pytest.raises(UserError, match="Nearest legal values: 2048"):
        horizon_of(4, HorizonSpec(total_batch_tokens=5))


def test_flops_for_less_than_a_step_are_refused() -> None:
    with pytest.raises(UserError, match="less than one step"):
        horizon_of(12, HorizonSpec(flops=1e6))


@pytest.mark.parametrize("name", ["steps", "flops", "tokens_per_parameter", "total_batch_tokens", "lr_scale"])
def test_zero_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="above 0"):
        HorizonSpec(**{name: 0})
