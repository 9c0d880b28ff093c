"""The portable model folder, kept up to date at every validation."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.core.run_folder import RunFolder


class Export(Callback):
    """Replaces `model/` at every validation (one is at the end of training too)."""

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        facts = {name.replace("/", "_"): value for name, value in stage.latest.items() if name.startswith("val/")}
        facts["step"] = step
        if stage.counts_tokens:
            facts["tokens"] = step * stage.blueprint.horizon.total_batch_tokens
        run, blueprint = RunFolder(trainer.default_root_dir), stage.blueprint
        save_model_folder(run.model, stage.model, blueprint.model, blueprint.tokenizer, facts, stage=run.path.name)
