"""What all stages share: building the model, stepping the optimizer, committing the data's cursor, validation."""

import dataclasses
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from nanochat_pl.callbacks.cadence import finished
from nanochat_pl.checkpoint.model_folder import load_weights
from nanochat_pl.core.errors import DivergedError
from nanochat_pl.core.invocation import program
from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.evals.bits_per_byte import BitsPerByte
from nanochat_pl.models.contract import architecture_of, build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.compiled import forget_compiled
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.warm_start import load_momentum
from nanochat_pl.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Blueprint:
    """Everything that a stage needs to know before it has seen data.

    Attributes:
        model: the architecture's config.
        horizon: steps, batch and the scales that follow from them.
        accumulation: micro-batches of one optimizer step on one device.
        execution: of the model.
        parent: the model folder of the earlier stage, whose weights this one begins with.
        parent_checkpoint: of the earlier stage, whose optimizer state this one begins with.
    """

    model: Any
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    horizon: Horizon
    accumulation: int
    tokenizer: Tokenizer
    seed: int
    execution: Execution = dataclasses.field(default_factory=Execution)
    parent: Path | None = None
    parent_checkpoint: Path | None = None


class Stage(LightningModule):
    """A training stage; subclasses define `loss(batch)`.

    Attributes:
        every_target_counts: False where batches have ignored targets, so that those that count are counted in each
            step.
        counts_tokens: False where the batch's size in tokens says nothing of what was trained on.
        is_chat: the model learns conversations.
        fixed_shapes: False where batches differ in shape, so that compiling would never end.
        model: the network (`nn.Module` and `models.contract.LanguageModel`), there after `configure_model`.
        step_loss: 0-d tensor on the device, the mean loss per token of the last complete optimizer step; with several
            processes, `mean_step_loss` is the mean of theirs.
        latest: the newest value of each logged metric.
        step_metrics: what a stage measures in each step, to be logged with the others.
        measured: 0-d tensors on the device, which callbacks leave to be logged with the others of their step.
        recent_losses: of the steps up to the last one logged, since the one before.
        gradient_scale: what the gradients of the last step were multiplied by right before it, a number or a tensor.
    """

    model: Any
    every_target_counts = True
    counts_tokens = True
    is_chat = False
    fixed_shapes = True

    def __init__(self, blueprint: Blueprint):
        super().__init__()
        self.blueprint = blueprint
        self.step_loss = torch.tensor(float("nan"))
        self.latest: dict[str, float] = {}
        self.step_metrics: dict[str, float] = {}
        self.measured: dict[str, Tensor] = {}
        self.recent_losses: list[float] = []
        self.gradient_scale: Tensor | float = 1.0
        self._step_loss_sum = torch.tensor(0.0)
        self._step_targets = torch.tensor(0.0)
        self._cursor: Any = None
        self.val_bits_per_byte = BitsPerByte(torch.from_numpy(blueprint.tokenizer.token_bytes()).long())

    def loss(self, batch: StepBatch) -> Tensor:
        """The sum of the batch's weighted token losses, a 0-d float32 tensor with a gradient."""
        raise NotImplementedError

    def token_losses(self, batch: StepBatch) -> Tensor:
        """(B, T) losses for validation."""
        return self.model.forward(batch.inputs, batch.targets, reduction="none")

    def configure_model(self) -> None:
        if hasattr(self, "model"):
            return
        blueprint, device = self.blueprint, self.trainer.strategy.root_device
        seed = None if blueprint.parent else blueprint.seed
        execution = blueprint.execution
        if execution.compile:
            forget_compiled()
            execution = dataclasses.replace(execution, compile=self.fixed_shapes)
        self.model = build_model(blueprint.model, device, seed, execution)
        if blueprint.parent:
            load_weights(self.model, blueprint.parent, device)
        if self.trainer.world_size > 1:  # DDP, which comes next, moves gradients that are there into its buckets
            for p in filter(lambda p: p.requires_grad, self.model.parameters()):
                p.grad = torch.zeros_like(p)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        roles = self.model.param_roles()
        optimizer = self.blueprint.optimizer.build(
            self.model.named_parameters(),
            roles,
            width=self.blueprint.model.n_embd,
            batch_lr_scale=self.blueprint.horizon.lr_scale,
            weight_decay_scale=self.blueprint.horizon.weight_decay_scale,
            process_group=dist.group.WORLD,  # None in a run of one process
            low_rank=self.model.low_rank,
            low_rank_values=self.blueprint.execution.streaming.optimizer_values(),
        )
        schedule = self.blueprint.schedule.build(optimizer, self.blueprint.horizon.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        if self.model.dropout:  # the same after a resume, and on each rank its own
            micro_batch = batch_idx % self.blueprint.accumulation
            place = (self.blueprint.seed, self.trainer.global_step, micro_batch, self.global_rank)
            torch.manual_seed(zlib.crc32(repr(place).encode()))
        loss = self.loss(batch)
        self._step_loss_sum = self._step_loss_sum + loss.detach()
        if not self.every_target_counts:
            self._step_targets = self._step_targets + (batch.targets != IGNORE_INDEX).sum()
        self._cursor = batch.cursor
        # Lightning divides by the micro-batches of a step, DDP by the ranks: undone here, so that the gradient is
        # that of the mean over the step's tokens however the step is cut up.
        horizon = self.blueprint.horizon
        return loss * (self.blueprint.accumulation * self.trainer.world_size / horizon.total_batch_tokens)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        size = self.blueprint.horizon.total_batch_tokens
        if self.every_target_counts:
            self._step_targets.fill_(size / self.trainer.world_size)
            return
        self._step_targets = self.trainer.strategy.reduce(self._step_targets, reduce_op="sum").clamp_min(1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.gradient_scale = size / self._step_targets
        torch._foreach_mul_(gradients, self.gradient_scale)
        self._step_targets /= self.trainer.world_size

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Among several processes gradients stay where they are, in DDP's buckets: new ones would be a second block of
        memory as large, until DDP has copied them.
        """
        super().zero_grad(set_to_none and self.trainer.world_size == 1)

    def optimizer_zero_grad(self, *_: Any) -> None:
        self.zero_grad()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.step_loss = self._step_loss_sum / self._step_targets
        self._step_loss_sum = torch.zeros_like(self._step_loss_sum)
        self._step_targets = torch.zeros_like(self._step_targets)
        self.trainer.datamodule.commit(self._cursor)  # type: ignore[attr-defined]

    def mean_step_loss(self) -> Tensor:
        """The mean loss per token of the last complete optimizer step over all processes; called by all of them."""
        return self.trainer.strategy.reduce(self.step_loss.clone(), reduce_op="mean")

    def on_fit_start(self) -> None:
        if self.blueprint.parent_checkpoint:  # before Lightning restores the state of a run that goes on
            load_momentum(self.trainer.optimizers[0], self.blueprint.parent_checkpoint, self.blueprint.model)

    def on_train_start(self) -> None:
        self._step_loss_sum = torch.zeros((), device=self.device)
        self._step_targets = torch.zeros((), device=self.device)

    def on_train_batch_end(self, outputs: Any, batch: StepBatch, batch_idx: int) -> None:
        if finished(self.trainer):
            self.trainer.should_stop = True  # Lightning then validates after the last step, whatever the cadence

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nanochat_pl"] = {
            "architecture": architecture_of(self.blueprint.model),
            "model": self.blueprint.model.as_dict(),
            "accumulation": self.blueprint.accumulation,
            "program": program(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before = checkpoint["nanochat_pl"]["accumulation"]
        if before != self.blueprint.accumulation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                # `ready` stands at a step's end; the others may lag one behind it, wherever in its hooks it was saved.
                ready = counts["ready"]
                for name, micro_batches in counts.items():
                    counts[name] = ready * self.blueprint.accumulation // before - (ready - micro_batches)

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        losses = self.token_losses(batch)
        self.val_bits_per_byte.update(losses, batch.targets)

    def on_validation_epoch_end(self) -> None:
        metric = self.val_bits_per_byte
        bits_per_byte, loss = metric.compute()
        metrics = {"val/bpb": bits_per_byte.item(), "val/loss": loss.item()}
        if not math.isfinite(metrics["val/loss"]):
            step = self.trainer.global_step
            raise DivergedError(f"The validation loss is {metrics['val/loss']} at step {step}.")
        self.latest.update(metrics)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)
        metric.reset()
