import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nanochat_pl.config.compose import compose
from nanochat_pl.config.construct import construct
from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.muon import MuonAdamW, MuonAdamWSpec
from nanochat_pl.optim.schedules import RangeTestSpec, ScheduleSpec, StepSchedule, lr_multiplier, momentum_at

TOTAL = 1000
SPEC = ScheduleSpec()


def build_optimizer() -> MuonAdamW:
    parameters = {"m": nn.Parameter(torch.ones(4, 4)), "e": nn.Parameter(torch.ones(6, 4))}
    return MuonAdamWSpec().build(parameters.items(), {"m": "matrix", "e": "embedding"}, width=768)


def advance(optimizer: MuonAdamW, schedule: StepSchedule, steps: int) -> list[list[Any]]:
    """The values that each step used."""
    used = []
    for _ in range(steps):
        used.append([(g["lr"], g["weight_decay"], g.get("momentum")) for g in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return used


# nanochat's values at a run of 1000 steps, worked out by hand: warmup 40, warmdown from step 350 on.
@pytest.mark.parametrize(
    ("step", "lr", "momentum", "decay"),
    [
        (0, 1 / 40, 0.85, 1.0),
        (39, 1.0, 0.8617, 0.5 * (1 + math.cos(0.039 * math.pi))),
        (40, 1.0, 0.862, 0.5 * (1 + math.cos(0.04 * math.pi))),
        (350, 1.0, 0.955, 0.5 * (1 + math.cos(0.35 * math.pi))),
        (399, 0.95 * 601 / 650 + 0.05, 0.9697, 0.5 * (1 + math.cos(0.399 * math.pi))),
        (400, 0.95 * 600 / 650 + 0.05, 0.97 - 0.07 * 50 / 650, 0.5 * (1 + math.cos(0.4 * math.pi))),
        (675, 0.525, 0.935, 0.5 * (1 + math.cos(0.675 * math.pi))),
        (999, 0.95 / 650 + 0.05, 0.90 + 0.07 / 650, 0.5 * (1 + math.cos(0.999 * math.pi))),
    ],
)
def test_the_values_are_nanochats(step: int, lr: float, momentum: float, decay: float) -> None:
    optimizer = build_optimizer()
    initial = [group["lr"] for group in optimizer.param_groups]
    used = advance(optimizer, SPEC.build(optimizer, TOTAL), step + 1)[-1]
    matrices, embedding = used
    assert [matrices[0], embedding[0]] == pytest.approx([initial[0] * lr, initial[1] * lr])
    assert matrices[2] == pytest.approx(momentum)
    assert matrices[1] == pytest.approx(0.28 * decay)
    assert embedding[1] == 0.001 and embedding[2] is None


@given(
    total=st.integers(1, 3000),
    warmup=st.integers(0, 500),
    ratio=st.floats(0, 1),
    final=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_rates_stay_within_bounds_and_never_rise_after_the_warmup(
    total: int, warmup: int, ratio: float, final: float
) -> None:
    multipliers = [lr_multiplier(step, total, warmup, ratio, final) for step in range(0, total + 1, 1 + total // 50)]
    assert all(0 <= value <= 1 + 1e-12 for value in multipliers)
    after = [lr_multiplier(step, total, warmup, ratio, final) for step in range(warmup, total)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))
    momenta = [momentum_at(step, total, warmup, ratio, 0.85, 0.97, 0.9) for step in range(0, total, 1 + total // 50)]
    assert all(0.85 <= value <= 0.9701 for value in momenta)


def test_no_warmup_no_warmdown_is_constant() -> None:
    assert {lr_multiplier(step, 50, 0, 0.0, 0.1) for step in range(50)} == {1.0}
    assert lr_multiplier(50, 50, 0, 1.0, 0.1) == pytest.approx(0.1)


def test_the_cosine_is_nanogpts() -> None:
    def nanogpts(step: int) -> float:  # get_lr of train.py, over the rate, warmup counted to its last step
        if step < 20:
            return (step + 1) / 20
        ratio = (step - 20) / (200 - 20)
        return 0.1 + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (1 - 0.1)

    schedule = ScheduleSpec(warmup_steps=20, warmdown_ratio=1.0, final_lr_fraction=0.1, shape="cosine")
    for step in range(201):
        assert schedule.lr_multiplier(step, 200) == pytest.approx(nanogpts(step))


def test_a_warmdown_as_long_as_the_run_begins_after_the_warmup() -> None:
    schedule = ScheduleSpec(warmup_steps=20, warmdown_ratio=1.0, final_lr_fraction=0.0)
    assert [schedule.lr_multiplier(step, 100) for step in (19, 20, 60, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_a_range_test_multiplies_by_the_same_in_each_step() -> None:
    optimizer = build_optimizer()
    used = advance(optimizer, RangeTestSpec(1e-2, 1e2).build(optimizer, 5), 5)
    for group in (0, 1):
        rates = [values[group][0] for values in used]
        assert [rate / rates[2] for rate in rates] == pytest.approx([1e-2, 1e-1, 1, 1e1, 1e2])
    assert {values[0][1:] for values in used} == {(0.28, 0.95)}  # the optimizer's own decay and momentum


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_schedules_without_momenta_leave_the_optimizers(name: str) -> None:
    optimizer = build_optimizer()
    made = construct(compose([f"schedule={name}", "schedule.warmup_steps=2"]).schedule, "schedule")
    used = advance(optimizer, made.build(optimizer, 10), 10)
    assert {values[0][1:] for values in used} == {(0.28, 0.95)}
    last = {"cosine": 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 7 / 8)), "linear": 1 / 8, "constant": 1.0}[name]
    assert used[9][0][0] / used[1][0][0] == pytest.approx(last)


def test_a_constant_weight_decay_stays() -> None:
    optimizer = build_optimizer()
    schedule = ScheduleSpec(weight_decay="constant").build(optimizer, 10)
    assert {values[0][1] for values in advance(optimizer, schedule, 10)} == {0.28}


@pytest.mark.parametrize("extended", [20, 33])
def test_a_restored_schedule_goes_on_exactly_also_with_more_steps(extended: int) -> None:
    through = build_optimizer()
    schedule = SPEC.build(through, extended)
    expected = advance(through, schedule, extended)

    first = build_optimizer()
    before = SPEC.build(first, 20)
    head = advance(first, before, 7)
    saved = {"optimizer": first.state_dict(), "schedule": before.state_dict()}

    second = build_optimizer()
    after = SPEC.build(second, extended)
    second.load_state_dict(saved["optimizer"])
    after.load_state_dict(saved["schedule"])
    tail = advance(second, after, extended - 7)
    assert tail == expected[7:]
    assert after.get_last_lr() == schedule.get_last_lr()
    if extended == 20:
        assert head == expected[:7]


def test_resuming_right_at_the_start_and_at_the_end() -> None:
    for steps in (0, 5):
        optimizer = build_optimizer()
        schedule = SPEC.build(optimizer, 5)
        advance(optimizer, schedule, steps)
        values = [dict(group, params=None) for group in optimizer.param_groups]
        other = build_optimizer()
        restored = SPEC.build(other, 5)
        other.load_state_dict(optimizer.state_dict())
        restored.load_state_dict(schedule.state_dict())
        assert [dict(group, params=None) for group in other.param_groups] == values


@pytest.mark.parametrize(
    "options",
    [{"warmup_steps": -1}, {"warmdown_ratio": 1.1}, {"momentum_peak": 1.0}, {"weight_decay": "linear"}],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ScheduleSpec(**options)


def test_a_run_needs_a_step() -> None:
    with pytest.raises(UserError, match="0 steps"):
        SPEC.build(build_optimizer(), 0)
