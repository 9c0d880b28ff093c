"""Continuing prompts with an engine of one's own."""

from collections.abc import Sequence
from typing import Any

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling


def generate(model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, num_samples: int = 1) -> list[list[int]]:
    """`num_samples` continuations of each prompt, without the prompt and without the token that stopped them.

    Args:
        model: a `models.contract.LanguageModel`.
        prompts: token ids, of different lengths; at least one token each (begin a text with BOS).

    Raises:
        UserError: a prompt is empty.
    """
    rows = max(1, min(32, len(prompts) * num_samples))
    return Engine(model, max_rows=rows, reuse=False).generate(prompts, sampling, num_samples)
