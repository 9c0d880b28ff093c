"""What the model writes at every validation: to the log and to samples.txt."""

import logging
from typing import Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.inference.generate import generate

log = logging.getLogger(__name__)


class Samples(Callback):
    """Continues the prompts with the same random numbers every time.

    Args:
        temperature: 0 takes the likeliest token.
    """

    def __init__(self, prompts: tuple[str, ...], max_new_tokens: int = 48, temperature: float = 0.8):
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        if not trainer.is_global_zero or not self._prompts:
            return
        tokenizer = stage.recipe.tokenizer
        prompts = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in self._prompts]
        continuations = generate(
            stage.model,
            prompts,
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seed=0,
            stop_ids=(tokenizer.bos_id,),
        )
        with RunFolder(trainer.default_root_dir).samples.open("a", encoding="utf-8") as file:
            for prompt, ids in zip(self._prompts, continuations):
                text = prompt + tokenizer.decode(ids)
                log.info("step %d sample: %s", trainer.global_step, text)
                file.write(f"[step {trainer.global_step}] {text}\n")
