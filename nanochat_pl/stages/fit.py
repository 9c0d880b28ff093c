"""The Lightning Trainer as this project sets it up."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from nanochat_pl.callbacks.checkpoints import AtomicCheckpointIO
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class TrainerSpec(Spec):
    """Cadences of the training, in optimizer steps."""

    validate_every_n_steps: int = 250

    def check(self) -> None:
        if self.validate_every_n_steps < 1:
            raise UserError(f"trainer.validate_every_n_steps is {self.validate_every_n_steps}; it must be at least 1.")

    def build(
        self,
        hardware: Hardware,
        *,
        folder: Path,
        steps: int,
        accumulation: int,
        callbacks: list[Callback],
        loggers: list[Logger],
        precision: Sequence[Precision] = (),
    ) -> Trainer:
        """A trainer that ends after `steps` optimizer steps of `accumulation` micro-batches each.

        Args:
            folder: the run folder; callbacks find it as `trainer.default_root_dir`.
            precision: of `precision_plugins`.
        """
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module="lightning.pytorch.trainer.connectors.data_connector")
        warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # a callback may be left out then
        trainer = Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=_strategy(hardware),
            default_root_dir=folder,
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulation,
            val_check_interval=self.validate_every_n_steps * accumulation,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *precision],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            use_distributed_sampler=False,
        )
        # callbacks/shutdown.py does both: Lightning's own handler ends without saving, and asks all processes with a
        # broadcast and a host sync in every micro-batch.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        return trainer


def _strategy(hardware: Hardware) -> DDPStrategy | str:
    """One process alone, or DDP among processes that were started and joined before (core/distributed.py)."""
    if hardware.world_size == 1:
        return "auto"
    return DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
