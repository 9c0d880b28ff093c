"""When something is due: the questions that all callbacks ask of the trainer."""

from lightning.pytorch import Trainer


def stepped(trainer: Trainer) -> bool:
    """Whether the micro-batch that just ended completed an optimizer step."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


def validation_due(trainer: Trainer) -> bool:
    """Whether validation follows right after this step."""
    every_n_steps = trainer.val_check_interval // trainer.accumulate_grad_batches
    return trainer.global_step % every_n_steps == 0 or finished(trainer)


def finished(trainer: Trainer) -> bool:
    """Whether this was the last step."""
    return trainer.global_step >= trainer.max_steps
