"""float16 under Lightning: it learns, an overflow costs one step, and a resumed run has the same scale."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.core.hardware import Hardware, Precision
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.fit import TrainerSpec
from nanochat_pl.stages.precision import TOKEN_SCALE, precision_plugins
from nanochat_pl.stages.sft import SFTStage
from nanochat_pl.stages.stage import Blueprint
from tests.stages.test_sft import CONFIG, ROWS, TOKENIZER, T, data_module

BATCH_TOKENS = ROWS * T


class Watch(Callback):
    """Loss, weights and scale after every step; plants an infinite gradient in some."""

    def __init__(self, overflow_at: int | None = None):
        self.overflow_at = overflow_at
        self.losses: list[float] = []
        self.weights: list[torch.Tensor] = []
        self.scales: list[float] = []
        self.roles: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        self.roles = stage.model.param_roles()

    def on_after_backward(self, trainer: Trainer, stage: Any) -> None:
        if trainer.global_step + 1 == self.overflow_at:
            stage.model.blocks[0].mlp.fc.weight.grad[0, 0] = torch.inf

    def on_train_batch_end(self, trainer: Trainer, stage: Any, *rest: Any) -> None:
        if stepped(trainer):
            self.losses.append(float(stage.step_loss))
            self.weights.append(torch.cat([p.detach().flatten().float() for p in stage.model.parameters()]))
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self.scales.append(scaler.get_scale() if scaler else 1.0)


def fit(
    folder: Path, precision: Precision, steps: int = 8, *callbacks: Callback, overflow_at: int | None = None,
    resume: Path | None = None, config: ModelConfig = CONFIG,
) -> Watch:  # fmt: skip
    watch, data = Watch(overflow_at), data_module(ROWS // 2)
    hardware = Hardware("cpu", precision, 2048)
    config = dataclasses.replace(config, compute_dtype=hardware.compute_dtype)
    blueprint = Blueprint(
        config,
        MuonAdamWSpec(grad_clip=9.0),
        ScheduleSpec(warmup_steps=0),
        Horizon(steps, BATCH_TOKENS, 1, 0.3, 0.1),
        2,
        TOKENIZER,
        0,
    )
    TrainerSpec().build(
        hardware, folder=folder, steps=steps, accumulation=2, callbacks=[*callbacks, watch], loggers=[],
        precision=precision_plugins(hardware, BATCH_TOKENS),
    ).fit(SFTStage(blueprint), datamodule=data, ckpt_path=resume, weights_only=True)  # fmt: skip
    return watch


@pytest.mark.slow
def test_float16_learns_as_float32_does(tmp_path: Path) -> None:
    exact, low = fit(tmp_path, "float32"), fit(tmp_path, "float16")
    assert low.losses[-1] < low.losses[0] - 0.5, low.losses
    assert low.losses == pytest.approx(exact.losses, rel=0.01)
    assert low.losses != exact.losses
    assert set(low.scales) == {TOKEN_SCALE * BATCH_TOKENS}


def test_an_overflow_costs_its_step_and_halves_the_scale(tmp_path: Path) -> None:
    watch = fit(tmp_path, "float16", 4, overflow_at=3)
    assert torch.equal(watch.weights[2], watch.weights[1])
    assert not torch.equal(watch.weights[1], watch.weights[0]) and not torch.equal(watch.weights[3], watch.weights[2])
    first = TOKEN_SCALE * BATCH_TOKENS
    assert watch.scales == [first, first, first / 2, first / 2]
    assert all(torch.isfinite(weights).all() for weights in watch.weights)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_scale_and_weights(tmp_path: Path) -> None:
    whole = fit(tmp_path / "a", "float16", 6, Checkpoints(every_n_steps=3), overflow_at=2)
    middle = tmp_path / "a" / "checkpoints" / "step-00000003.ckpt"
    rest = fit(tmp_path / "b", "float16", 6, resume=middle)
    assert rest.scales == whole.scales[3:] and rest.losses == whole.losses[3:]
    assert torch.equal(rest.weights[-1], whole.weights[-1])
    scaler = torch.load(middle, weights_only=True)["Float16"]
    assert scaler["scale"] == TOKEN_SCALE * BATCH_TOKENS / 2 and scaler["_growth_tracker"] == 1
