"""What the model writes at every validation: to the log and to samples.txt.

A model that learns conversations answers the prompts, any other continues them.
"""

import logging
from typing import Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.evals.answers import answer_all, said
from nanochat_pl.inference.conversation import stop_ids
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.generate import generate
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import render_for_completion

log = logging.getLogger(__name__)


class Samples(Callback):
    """Continues or answers the prompts with the same random numbers every time."""

    def __init__(self, prompts: tuple[str, ...], max_new_tokens: int = 48, temperature: float = 0.8):
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._left_out: set[str] = set()

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero:
            RunFolder(trainer.default_root_dir).drop_samples(after=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        if not trainer.is_global_zero or not self._prompts:
            return
        tokenizer = stage.blueprint.tokenizer
        texts = [prompt for prompt in self._prompts if self._encodable(prompt, tokenizer)]
        sampling = Sampling(self._max_new_tokens, self._temperature, stop_ids=stop_ids(tokenizer, stage.is_chat))
        if stage.is_chat:
            prompts = [render_for_completion(tokenizer, [{"role": "user", "content": text}]) for text in texts]
            engine = Engine(stage.model, max(1, len(prompts)), reuse=False)
            answers = dict(answer_all(engine, tokenizer, prompts, sampling))
            written = [f"{text} -> {said(answers[n])}" for n, text in enumerate(texts)]
        else:
            prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
            continuations = generate(stage.model, prompts, sampling)
            written = [text + tokenizer.decode(ids) for text, ids in zip(texts, continuations)]
        for text in written:
            log.info("step %d sample: %s", trainer.global_step, text)
        RunFolder(trainer.default_root_dir).record_samples(trainer.global_step, written)

    def _encodable(self, prompt: str, tokenizer: Tokenizer) -> bool:
        """A vocabulary of characters may lack some of the prompt's: no reason to end a training."""
        try:
            tokenizer.encode(prompt)
        except UserError as error:
            if prompt not in self._left_out:
                log.warning("The sample prompt %r is left out: %s", prompt, error)
                self._left_out.add(prompt)
            return False
        return True
